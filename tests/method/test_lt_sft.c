/* LT-SFT (arXiv 2110.07560) through the loop, by the items of its acceptance list. Item 3 (global, not a share a target)
 * is in nn/test_select_global, item 10 (a patch that does not fit) in model/test_adapter_refused, the authors' files in
 * tests/examples. */
#include "method/method_test.h"
#include <float.h>
#include <sys/mman.h>
#include "nn/select.h"
#include "train/regularise.h"

static uint64_t hash_of(const lc_net *net) {
  uint64_t h = 1469598103934665603u;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *x = &net->weights.w[i];
    float *v = values(x);
    for (size_t k = 0; k < (size_t)(x->M * x->N) * 4; k++) h = (h ^ ((uint8_t *)v)[k]) * 1099511628211u;
    free(v);
  }
  return h;
}

/* ---- items 1, 2, 4, 11: phases as they go ---- */

static struct {
  uint64_t start[8]; /* hash at the start of each phase */
  int n_phases, first_updates;
  float *moved[64]; /* a target: |θ − θ0| at the end of a first phase */
  lc_weight *target[64];
  int n_targets;
  lc_index mask[64]; /* of the last second phase */
  int64_t chosen[8], entries;
} seen;

static int target_of(const lc_weight *x) {
  for (int i = 0; i < seen.n_targets; i++)
    if (seen.target[i] == x) return i;
  return -1;
}

/* Exactly K of the entries that were not chosen before, and each moved at least as far as each that is not chosen. */
static void check_choice(const lc_training *t) {
  float least = INFINITY, most = -1;
  int64_t n = 0;
  for (int i = 0; i < seen.n_targets; i++) {
    const lc_weight *x = seen.target[i];
    const lc_index *now = NULL;
    for (int d = 0; d < t->adapter->n; d++)
      if (t->adapter->delta[d]->w == x) now = &t->adapter->delta[d]->param[0]->idx;
    for (int64_t k = 0; k < x->M * x->N; k++) {
      const bool was = seen.mask[i].n && lc_index_has(&seen.mask[i], k), is = now && lc_index_has(now, k);
      if (was) assert_true(is);
      if (was) continue;
      n += is;
      if (is) least = fminf(least, seen.moved[i][k]);
      if (!is) most = fmaxf(most, seen.moved[i][k]);
    }
    lc_index_free(w.ctx, &seen.mask[i]);
    if (now) ok(lc_index_dup(w.ctx, now, &seen.mask[i]));
    if (!now) seen.mask[i] = (lc_index){.kind = LC_LIST32};
  }
  assert_true(least >= most);
  seen.chosen[t->phase / 2] = n;
}

static lc_status on_attach(void *self, lc_training *t) {
  LC_TRY(lc_method_lt_sft.attach(self, t));
  if (t->phase == 0) {
    lc_weight **x;
    ok(lc_targets(t->net, "all-linear", &x, &seen.n_targets));
    memcpy(seen.target, x, (size_t)seen.n_targets * sizeof *x);
    lc_free(w.ctx, x);
    for (int i = 0; i < seen.n_targets; i++) {
      seen.mask[i] = (lc_index){.kind = LC_LIST32};
      seen.entries += seen.target[i]->M * seen.target[i]->N;
    }
  }
  seen.start[t->phase] = hash_of(t->net);
  seen.n_phases = t->phase + 1;
  if (t->phase % 2) check_choice(t);
  return LC_OK;
}

static lc_status on_end(void *self, lc_training *t) {
  lc_net *base;
  ok(lc_net_new(w.model, LC_F32, &base));
  for (int i = 0; i < seen.n_targets && t->phase % 2 == 0; i++) {
    const lc_weight *x = seen.target[i];
    float *now = values(x), *was = values(lc_net_weight(base, x->name));
    free(seen.moved[i]);
    seen.moved[i] = now;
    for (int64_t k = 0; k < x->M * x->N; k++) now[k] = fabsf(now[k] - was[k]);
    free(was);
  }
  lc_net_free(base);
  return lc_method_lt_sft.end_phase(self, t);
}

/* The first update of a phase: no moments, warm-up from its beginning. */
static lc_status on_backward(void *self, lc_training *t) {
  if (t->step == t->phase_first) {
    assert_int_equal(t->hyper.step, 0);
    assert_true(t->lr == t->opts.lr * lc_schedule_at(&t->schedule, 0));
    assert_int_equal(t->schedule.planned, t->phase_length[t->phase]);
    for (int i = 0; i < t->n_param; i++)
      for (int c = 0; c < t->param[i]->n_col; c++)
        for (int64_t k = 0; k < t->param[i]->col[c].n && strcmp(t->param[i]->col[c].name, "origin"); k++)
          assert_true(t->param[i]->col[c].data[k] == 0);
    seen.first_updates++;
  }
  return lc_method_lt_sft.after_backward(self, t);
}

/* Outside the chosen entries, every weight has the base's bits. */
static lc_status on_finish(void *self, lc_training *t) {
  lc_net *base;
  int64_t moved = 0;
  ok(lc_net_new(w.model, LC_F32, &base));
  for (int i = 0; i < t->net->weights.n; i++) {
    const lc_weight *x = &t->net->weights.w[i];
    float *now = values(x), *was = values(&base->weights.w[i]);
    const int l = target_of(x);
    for (int64_t k = 0; k < x->M * x->N && !(x->kind == LC_KIND_EMBEDDING && x->n_delta); k++) {
      const bool in = l >= 0 && seen.mask[l].n && lc_index_has(&seen.mask[l], k);
      if (!in) assert_memory_equal(&now[k], &was[k], 4);
      moved += in && now[k] != was[k];
    }
    free(now);
    free(was);
  }
  assert_true(moved > 100);
  lc_net_free(base);
  return LC_OK;
}

static lc_method watched(void) {
  lc_method row = lc_method_lt_sft;
  memset(&seen, 0, sizeof seen);
  row.attach = on_attach;
  row.end_phase = on_end;
  row.after_backward = on_backward;
  row.finish = on_finish;
  return row;
}

static void test_phases(void **state) {
  static const struct {
    const char *set, *opts;
    int iterations;
  } t[] = {
      {"dense=embed_tokens",
       "steps=8 batch=4 density=0.05 weight-decay=0.1 clip=0.5 warmup=3 schedule=linear", 1},
      {"first=0.3", "steps=10 batch=4 density=0.05 optimizer=sgd momentum=0.9 weight-decay=0.1 lr=0.5", 1},
      {"iterations=2 dense=embed_tokens", "steps=12 batch=4 density=0.05 weight-decay=0.1 warmup=2", 2},
      {"phase=lora iterations=2", "steps=12 batch=4 density=0.05 lr=0.02", 2},
      {"scope=layer", "steps=8 batch=4 density=0.05", 0},
  };
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    lc_method row = watched();
    char out[8];
    snprintf(out, sizeof out, "p%zu", i);
    if (!t[i].iterations) row.attach = lc_method_lt_sft.attach, row.finish = NULL;
    t_spec s = {.row = &row, .set = t[i].set, .opts = t[i].opts, .out = out, .no_eval = true};
    ok(t_train(&w, &s));
    for (int k = 0; k < t[i].iterations; k++) {
      assert_int_equal(seen.chosen[k], (int64_t)floor(0.05 * (double)seen.entries) / t[i].iterations);
      assert_true(seen.start[2 * k] == seen.start[2 * k + 1]); /* the rewind, what is dense included */
    }
    if (t[i].iterations == 2) assert_true(seen.start[2] != seen.start[0]); /* from the iteration's start */
    if (t[i].iterations) assert_int_equal(seen.first_updates, 2 * t[i].iterations);
    for (int l = 0; l < 64; l++) {
      free(seen.moved[l]);
      if (seen.mask[l].at) lc_index_free(w.ctx, &seen.mask[l]);
    }
  }
}

/* Item 11: what does not divide is said. */
static void test_remainder(void **state) {
  t_spec s = {
      .method = "lt-sft",
      .set = "iterations=2",
      .out = "o",
      .opts = "steps=8 batch=4 density=0.0101 targets=layers.1.self_attn.k_proj,layers.1.self_attn.q_proj",
      .no_eval = true};
  ok(t_train(&w, &s)); /* 6144 entries: 62 */
  assert_string_equal(warned, "");
  s.out = "o2";
  s.opts =
      "steps=8 batch=4 density=0.0103 targets=layers.1.self_attn.k_proj,layers.1.self_attn.q_proj"; /* 63 */
  ok(t_train(&w, &s));
  if (!strstr(warned, "63 entries do not divide by 2 iterations: 62 are chosen"))
    fail_msg("says '%s'", warned);
}

/* Item 5: all entries: the second phase is training of all of them from the start. As a change (shira) bit for bit; as
 * whole weights (what full does to the targets) but for the rounding of base + change. */
static void test_all_entries(void **state) {
  lc_method rows[3] = {ends_kept(lc_method_lt_sft), ends_kept(lc_method_shira), ends_kept(full_on_linear())};
  float *first[64];
  for (int i = 0; i < 3; i++) {
    t_spec s = {.row = &rows[i],
                .out = i == 0   ? "a0"
                       : i == 1 ? "a1"
                                : "a2",
                .set = i == 1 ? "mask=wm" : "",
                .opts = i ? "steps=4 batch=4 density=1" : "steps=8 batch=4 density=1",
                .no_eval = true};
    ok(t_train(&w, &s));
    for (int k = 0; k < n_ended; k++) {
      lc_net *net;
      ok(lc_net_new(w.model, LC_F32, &net));
      const lc_weight *x = NULL;
      for (int j = 0, n = 0; j < net->weights.n; j++)
        if (net->weights.w[j].kind == LC_KIND_LINEAR && n++ == k) x = &net->weights.w[j];
      if (i == 1) assert_memory_equal(ended[k], first[k], (size_t)(x->M * x->N) * 4);
      if (i == 2) assert_true(lc_tiny_error(ended[k], first[k], x->M * x->N) < 1e-5);
      lc_net_free(net);
      if (i) free(ended[k]);
    }
    if (!i) memcpy(first, ended, sizeof first);
  }
  for (int k = 0; k < n_ended; k++) free(first[k]);
}

/* Item 6: λ·sign(θ − θ0)/N on both kinds of trainable; enough of it leaves nothing beyond the threshold. */
static lc_status check_penalty(void *self, lc_training *t) {
  for (int i = 0; i < t->n_param; i++) {
    lc_param *p = t->param[i];
    float *g = malloc((size_t)p->n * 4), *base = NULL;
    lc_net *net;
    ok(lc_net_new(w.model, LC_F32, &net));
    if (p->idx.kind == LC_ALL) base = values(lc_net_weight(net, p->of->name));
    memcpy(g, p->grad, (size_t)p->n * 4);
    ok(lc_regularise_l1(w.ctx, p, 0.25));
    int64_t apart = 0;
    for (int64_t k = 0; k < p->n; k++) {
      const float d = base ? p->value[k] - base[k] : p->value[k];
      assert_true(p->grad[k] == g[k] + 0.25f * (d > 0 ? 1.0f : d < 0 ? -1.0f : 0.0f));
      apart += d != 0;
    }
    assert_true(t->step == t->phase_first ? apart == 0 : apart > 0);
    memcpy(p->grad, g, (size_t)p->n * 4);
    free(g);
    free(base);
    lc_net_free(net);
  }
  return LC_OK;
}
static void test_penalty(void **state) {
  lc_method row = lc_method_lt_sft;
  row.after_backward = check_penalty;
  t_spec s = {.row = &row, .out = "l", .opts = "steps=4 batch=4 density=0.05", .no_eval = true};
  ok(t_train(&w, &s));
  static const char *const sets[] = {"l1-second=0 threshold=0.04", "l1-second=1e7 threshold=0.04"};
  for (int i = 0; i < 2; i++) {
    lc_net *net;
    lc_adapter *a;
    s = (t_spec){.method = "lt-sft",
                 .set = sets[i],
                 .out = i ? "l1" : "l0",
                 .opts = "steps=20 batch=8 density=0.05 lr=0.02",
                 .no_eval = true};
    ok(t_train(&w, &s));
    ok(lc_net_new(w.model, LC_F32, &net));
    ok(lc_adapter_load(net, t_out(&w, s.out, ""), 1, LC_PATCH, &a));
    if (!i) assert_true(a->n > 0);
    if (i) assert_int_equal(a->n, 0); /* an empty patch is one, too */
    lc_net_free(net);
  }
}

/* Item 7: applied and removed a thousand times, in each type of a base. */
static void test_restores(void **state) {
  static const lc_dtype types[] = {LC_F32, LC_BF16, LC_F16};
  lc_model *own = w.model;
  for (int i = 0; i < 3; i++) {
    lc_tiny d = LC_TINY_LLAMA;
    char name[32];
    lc_net *net;
    lc_adapter *a;
    d.dtype = types[i];
    snprintf(name, sizeof name, "m%d", i);
    ok(lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, name)));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, name), &w.model));
    snprintf(name, sizeof name, "x%d", i);
    t_spec s = {.method = "lt-sft", .out = name, .opts = "steps=4 batch=4 density=0.02", .no_eval = true};
    ok(t_train(&w, &s));
    ok(lc_net_new(w.model, i == 1 ? LC_BF16 : LC_F32, &net));
    const uint64_t base = hash_of(net);
    ok(lc_adapter_load(net, t_out(&w, name, ""), 1, LC_IN_PLACE, &a));
    const uint64_t with = hash_of(net);
    assert_true(with != base);
    for (int k = 0; k < 1000; k++) {
      ok(lc_adapter_set(a, k % 2 ? 1 : 0, LC_IN_PLACE));
      if (k % 100 < 2) assert_true(hash_of(net) == (k % 2 ? with : base));
    }
    ok(lc_adapter_remove(a));
    assert_true(hash_of(net) == base);
    lc_net_free(net);
    lc_model_close(w.model);
  }
  w.model = own;
}

/* Item 8: patches add up; without overlap, whatever their order. */
static void test_sum(void **state) {
  lc_net *net[2];
  lc_adapter *a;
  for (int i = 0; i < 2; i++) {
    t_spec s = {.method = "lt-sft",
                .out = i ? "s1" : "s0",
                .opts = i ? "steps=8 batch=4 density=0.2 seed=7" : "steps=8 batch=4 density=0.2",
                .no_eval = true};
    ok(t_train(&w, &s));
  }
  int64_t both = 0, one = 0;
  for (int i = 0; i < 2; i++) {
    ok(lc_net_new(w.model, LC_F32, &net[i]));
    ok(lc_adapter_load(net[i], t_out(&w, i ? "s1" : "s0", ""), 1, LC_PATCH, &a));
    ok(lc_adapter_load(net[i], t_out(&w, i ? "s0" : "s1", ""), 1, LC_PATCH, &a));
  }
  for (int i = 0; i < net[0]->weights.n; i++) {
    const lc_weight *x = &net[0]->weights.w[i];
    if (x->n_delta < 2) continue;
    float *p = values(x), *q = values(&net[1]->weights.w[i]);
    for (int64_t k = 0; k < x->M * x->N; k++) {
      const bool in = lc_index_has(&x->delta[0]->param[0]->idx, k),
                 too = lc_index_has(&x->delta[1]->param[0]->idx, k);
      both += in && too;
      one += in != too;
      if (!(in && too)) assert_memory_equal(&p[k], &q[k], 4);
      if (in && too) { /* four roundings, each of half a unit in the last place of what is added */
        const lc_param *one_p = x->delta[0]->param[0], *two_p = x->delta[1]->param[0];
        const float a1 = one_p->value[lc_index_lower(&one_p->idx, 0, k)],
                    a2 = two_p->value[lc_index_lower(&two_p->idx, 0, k)];
        const float largest = fabsf(p[k]) + fabsf(a1) + fabsf(a2); /* at least |W|, |W + a1|, |W + a2| */
        assert_true(fabsf(p[k] - q[k]) <= 2 * FLT_EPSILON * largest);
      }
    }
    free(p);
    free(q);
  }
  assert_true(both > 20 && one > 20);
  lc_net_free(net[0]);
  lc_net_free(net[1]);
}

/* Item 9: a weight of more than 2³¹ entries (never touched but at a few rows) takes 64-bit positions. */
static void test_large(void **state) {
  const int64_t M = 70000, N = 32768, at[] = {5, (int64_t)1 << 31, M * N - 3};
  const float value[] = {1, 2, 3};
  const size_t bytes = (size_t)(M * N) * 2;
  void *memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  assert_true(memory != MAP_FAILED);
  lc_weight x = {
      .name = "large.weight", .module = "large", .M = M, .N = N, .ndim = 2, .kind = LC_KIND_LINEAR};
  const lc_tensor t = {memory, LC_BF16, 2, {M, N}};
  lc_index idx;
  lc_delta *d;
  ok(lc_form_view(w.ctx, &t, false, NULL, &x.base));
  x.form = x.base;
  ok(lc_index_new(w.ctx, M, N, at, 3, &idx));
  assert_int_equal(idx.kind, LC_LIST64);
  ok(lc_delta_sparse_new(w.ctx, &x, &idx, value, false, &d));
  ok(lc_weight_attach(w.ctx, &x, d));
  for (int k = 0; k < 3; k++) {
    const int64_t r = at[k] / N, c = at[k] % N;
    const void *tile;
    int64_t ld;
    ok(lc_weight_tile(w.ctx, 0, &x, (lc_rect){r, r + 1, c, c + 2}, LC_F32, &tile, &ld));
    assert_true(((const float *)tile)[0] == value[k] && ((const float *)tile)[1] == 0);
  }
  lc_weight_detach(w.ctx, &x, d, true);
  lc_form_free(w.ctx, x.base);
  munmap(memory, bytes);
}

/* Item 9: what examples/lt_sft_patch.py made of the authors' file holds its entries. */
static void test_converted(void **state) {
  lc_net *net;
  lc_adapter *a;
  json_t *want;
  ok(lc_json_read(w.ctx, "golden/lt-sft/expected.json", &want));
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, "golden/lt-sft/adapter", 1, LC_PATCH, &a));
  assert_int_equal(a->n, json_object_size(want));
  for (int i = 0; i < a->n; i++) {
    const lc_param *p = a->delta[i]->param[0];
    const json_t *rows = json_object_get(want, a->delta[i]->w->name), *e;
    size_t k;
    assert_int_equal(p->n, json_array_size(rows));
    json_array_foreach(rows, k, e) {
      const int64_t at =
          json_integer_value(json_array_get(e, 0)) * p->cols + json_integer_value(json_array_get(e, 1));
      assert_true(lc_index_has(&p->idx, at));
      assert_true(p->value[lc_index_lower(&p->idx, 0, at)] == (float)json_real_value(json_array_get(e, 2)));
    }
  }
  json_decref(want);
  lc_net_free(net);
}

/* Item 12: what the first phase needed is gone in the second, which has 16 B a chosen entry. */
typedef struct {
  int64_t K;
  size_t form, first;
  int phase, steps;
} bytes;
static int weigh(void *arg, const char *kind, const struct json_t *e) {
  bytes *b = arg;
  if (!strcmp(kind, "phase"))
    b->phase = 1, b->steps = 0, b->K = json_integer_value(json_object_get(e, "trainable"));
  if (strcmp(kind, "step") || ++b->steps != 2) return 0;
  const size_t trainable = lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE);
  if (!b->phase) b->first = trainable;
  if (!b->phase) return 0;
  assert_int_equal(trainable, 16 * (size_t)b->K);
  assert_int_equal(lc_mem_bytes(w.ctx, LC_MEM_GRAD), 4 * (size_t)b->K);
  assert_true(b->first > 5 * trainable);
  b->phase = 2;
  return 0;
}
static void test_bytes(void **state) {
  bytes b = {0};
  t_spec s = {
      .method = "lt-sft", .out = "b", .event = weigh, .arg = &b, .opts = "steps=8 batch=4 density=0.05"};
  ok(t_train(&w, &s));
  assert_int_equal(b.phase, 2);
}

/* The lengths of phases, and what is refused. */
static void test_options(void **state) {
  static const refusal t[] = {
      {"min-steps=5 max-steps=4", "steps=8", "min-steps"},
      {"iterations=3", "steps=5", "too few for 6 phases"},
      {"select=random iterations=2", "steps=8", "nothing to repeat"},
      {"phase=lora l1-first=0.1", "steps=8", "l1-first must be 0"},
      {"dense=q_proj", "steps=8", "a target and dense"},
      {"", "steps=8 density=2", "density"},
      {"dense=model.norm", "steps=8", "match no matrix"},
  };
  refuses("lt-sft", t, sizeof t / sizeof *t);
  static const struct {
    const char *set;
    int64_t length[4], n;
  } l[] = {{"", {10, 10}, 2},          {"first=0.2", {4, 16}, 2},
           {"first=0", {1, 19}, 2},    {"min-steps=8 first=0.2", {8, 16}, 2},
           {"max-steps=6", {6, 6}, 2}, {"iterations=2", {5, 5, 5, 5}, 4},
           {"select=random", {20}, 1}};
  for (size_t i = 0; i < sizeof l / sizeof *l; i++) {
    int64_t length[LC_MAX_PHASES];
    int n;
    void *self = lc_alloc(w.ctx, LC_MEM_OTHER, lc_method_lt_sft.self_size);
    lc_training fake = {.ctx = w.ctx};
    ok(lc_options_init(w.ctx, lc_method_lt_sft.options, self));
    char text[64], *at = text;
    snprintf(text, sizeof text, "%s", l[i].set);
    for (char *word; (word = strsep(&at, " ")) && *word;) {
      char *value = strchr(word, '=');
      *value++ = 0;
      ok(lc_options_set(w.ctx, lc_method_lt_sft.options, "lt-sft", self, word, value));
    }
    ok(lc_method_lt_sft.phases(self, &fake, 20, 3, length, &n));
    assert_int_equal(n, l[i].n);
    for (int p = 0; p < n; p++) assert_int_equal(length[p], l[i].length[p]);
    lc_options_clear(w.ctx, lc_method_lt_sft.options, self);
    lc_free(w.ctx, self);
  }
  t_spec s = {.method = "lt-sft",
              .out = "half",
              .opts = "steps=8 stop-after=3 batch=4 density=0.05",
              .no_eval = true};
  ok(t_train(&w, &s)); /* ends in the first phase: no adapter, and it says so */
  assert_non_null(strstr(warned, "makes no adapter"));
  assert_false(lc_path_exists(t_out(&w, "half", "lacuna_adapter.json")));
  s.opts = "steps=8 batch=4 density=0.05";
  s.resume = true;
  ok(t_train(&w, &s));
  assert_true(lc_path_exists(t_out(&w, "half", "lacuna_adapter.json")));
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_phases),  TEST(test_remainder), TEST(test_all_entries),
                                     TEST(test_penalty), TEST(test_restores),  TEST(test_sum),
                                     TEST(test_large),   TEST(test_bytes),     TEST(test_converted),
                                     TEST(test_options)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
