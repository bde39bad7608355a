/* SaRA (arXiv 2409.06633) through the loop, by the items of its acceptance list. |w| < θ on each way of storing is also in
 * nn/test_select_global, sampled gradients (item 4) in nn/test_delta, the start (item 3) in test_methods_result. */
#include "method/method_test.h"
#include "kernels/linalg.h"
#include "train/regularise.h"

static float *base_of(const char *name) {
  lc_net *net;
  ok(lc_net_new(w.model, LC_F32, &net));
  float *v = values(lc_net_weight(net, name));
  lc_net_free(net);
  return v;
}

/* ---- item 1: the mask by brute force, on each form; by density ---- */

static lc_status check_mask(void *self, lc_training *t) {
  LC_TRY(lc_method_sara.attach(self, t));
  int64_t n = 0;
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_param *p = t->adapter->delta[i]->param[0];
    float *v = values(p->of);
    for (int64_t k = 0; k < p->rows * p->cols; k++)
      assert_int_equal(lc_index_has(&p->idx, k), fabsf(v[k]) < 0.005f);
    n += p->n;
    free(v);
  }
  assert_true(n > 500);
  return LC_OK;
}

static void test_mask(void **state) {
  static const lc_dtype types[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_1};
  lc_model *own = w.model;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    lc_method row = lc_method_sara;
    lc_tiny d = LC_TINY_LLAMA;
    char name[16], out[8];
    const bool gguf = lc_dtype_get(types[i])->quantised;
    snprintf(name, sizeof name, gguf ? "m%zu.gguf" : "m%zu", i);
    snprintf(out, sizeof out, "m-%zu", i);
    d.dtype = types[i];
    ok(gguf ? lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, name))
            : lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, name)));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, name), &w.model));
    row.attach = check_mask;
    t_spec s = {
        .row = &row, .set = "threshold=0.005", .out = out, .opts = "steps=2 batch=4", .no_eval = true};
    ok(t_train(&w, &s));
    lc_model_close(w.model);
  }
  w.model = own;
}

static int64_t told_mask;
static double told_lr, told_bound, told_below;
static int hear(void *arg, const char *kind, const struct json_t *e) {
  if (!strcmp(kind, "start")) told_lr = json_number_value(json_object_get(e, "lr"));
  if (strcmp(kind, "done")) return 0;
  told_mask = json_integer_value(json_object_get(e, "mask"));
  told_bound = json_number_value(json_object_get(e, "threshold"));
  told_below = json_number_value(json_object_get(e, "below"));
  return 0;
}

/* The density's share exactly, and a bound that separates it from the rest. */
static lc_status check_share(void *self, lc_training *t) {
  lc_weight **x;
  int n;
  float in = 0, out = INFINITY;
  int64_t taken = 0, all = 0;
  LC_TRY(lc_method_sara.attach(self, t));
  ok(lc_targets(t->net, "all-linear", &x, &n));
  for (int i = 0; i < n; i++) {
    const lc_index *at = x[i]->n_delta ? &x[i]->delta[0]->param[0]->idx : NULL;
    float *v = values(x[i]);
    for (int64_t k = 0; k < x[i]->M * x[i]->N; k++) {
      const bool has = at && lc_index_has(at, k);
      taken += has;
      in = has ? fmaxf(in, fabsf(v[k])) : in;
      out = has ? out : fminf(out, fabsf(v[k]));
    }
    all += x[i]->M * x[i]->N;
    free(v);
  }
  assert_true(in <= out);
  assert_int_equal(taken, (int64_t)floor(0.03 * (double)all));
  lc_free(w.ctx, x);
  return LC_OK;
}

static void test_share(void **state) {
  lc_method row = lc_method_sara;
  row.attach = check_share;
  t_spec s = {.row = &row, .set = "", .out = "d", .opts = "steps=2 batch=4 density=0.03", .no_eval = true};
  ok(t_train(&w, &s));
}

/* Item 1: an endless threshold is full fine-tuning of the targets, decay included. */
static void test_endless(void **state) {
  lc_method rows[2] = {ends_kept(lc_method_sara), ends_kept(full_on_linear())};
  float *first[64];
  for (int i = 0; i < 2; i++) {
    t_spec s = {.row = &rows[i],
                .out = i ? "e1" : "e0",
                .set = i ? "" : "threshold=1e30 progressive=-1 rank-penalty=0",
                .opts = "steps=4 batch=4 lr=0.003 weight-decay=0.3",
                .no_eval = true};
    ok(t_train(&w, &s));
    for (int k = 0; k < n_ended && i; k++) {
      double off = 0, size = 0;
      for (int64_t j = 0; j < 32 * 64; j++) { /* the smallest target's number of entries */
        off += pow((double)ended[k][j] - (double)first[k][j], 2);
        size += pow((double)first[k][j], 2);
      }
      assert_true(sqrt(off / size) < 4e-6); /* four updates */
      free(ended[k]);
      free(first[k]);
    }
    if (!i) memcpy(first, ended, sizeof first);
  }
}

/* ---- items 2 and 6: what moves, and narrowing ---- */

static struct {
  lc_index mask[64], narrow[64];
  float *at[64]; /* weights of each delta at T1 */
  int n, narrowed;
} seen;

static lc_status watch(void *self, lc_training *t) {
  const lc_adapter *a = t->adapter;
  if (t->step == 0) {
    seen.n = a->n;
    for (int i = 0; i < a->n; i++) ok(lc_index_dup(w.ctx, &a->delta[i]->param[0]->idx, &seen.mask[i]));
  }
  for (int i = 0; i < a->n && t->step == 4; i++) seen.at[i] = values(a->delta[i]->w);
  LC_TRY(lc_method_sara.before_step(self, t));
  int64_t was = 0, is = 0;
  for (int i = 0; i < a->n; i++) {
    was += seen.mask[i].n;
    is += a->delta[i]->param[0]->n;
  }
  if (t->step < 4) assert_int_equal(is, was);
  if (t->step != 4) return LC_OK;
  seen.narrowed = is < was;
  if (!seen.narrowed) return LC_OK;
  assert_int_equal(t->optimizer_first, 4);
  for (int i = 0; i < a->n; i++) {
    const lc_param *p = a->delta[i]->param[0];
    float *now = values(p->of);
    assert_memory_equal(now, seen.at[i], (size_t)(p->rows * p->cols) * 4);
    for (int64_t k = 0; k < seen.mask[i].n; k++) {
      const int64_t at = lc_index_at(&seen.mask[i], k);
      assert_int_equal(lc_index_has(&p->idx, at), fabsf(now[at]) < 0.01f); /* M₂ = {w in M: |w| < θ now} */
    }
    for (int64_t k = 0; k < p->n; k++) {
      assert_true(lc_index_has(&seen.mask[i], lc_index_at(&p->idx, k)));
      assert_true(lc_param_find(p, "m")[k] == 0 && lc_param_find(p, "v")[k] == 0);
    }
    ok(lc_index_dup(w.ctx, &p->idx, &seen.narrow[i]));
    free(now);
  }
  return LC_OK;
}

static lc_status check_end(void *self, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_param *p = t->adapter->delta[i]->param[0];
    float *now = values(p->of), *base = base_of(p->of->name);
    int64_t moved = 0;
    for (int64_t k = 0; k < p->rows * p->cols; k++) {
      if (!lc_index_has(&seen.mask[i], k))
        assert_memory_equal(&now[k], &base[k], 4);
      else if (seen.narrowed && !lc_index_has(&seen.narrow[i], k))
        assert_memory_equal(&now[k], &seen.at[i][k], 4);
      else
        moved += now[k] != base[k];
    }
    assert_true(moved > 0);
    free(now);
    free(base);
  }
  return LC_OK;
}

static void test_narrowing(void **state) {
  static const struct {
    const char *set;
    bool narrows;
  } t[] = {{"threshold=0.01 progressive=4 side=16 every=2", true},
           {"threshold=0.01 side=16 every=2", true}, /* half of 8 */
           {"threshold=0.01 progressive=-1", false},
           {"threshold=0.01 progressive=8", false},
           {"threshold=0.01 progressive=99", false}};
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    lc_method row = lc_method_sara;
    char out[8];
    snprintf(out, sizeof out, "n%zu", i);
    memset(&seen, 0, sizeof seen);
    row.before_step = watch;
    row.finish = check_end;
    t_spec s = {.row = &row,
                .set = t[i].set,
                .out = out,
                .opts = "steps=8 batch=4 lr=0.002 weight-decay=0.1 clip=0.5",
                .no_eval = true,
                .event = hear};
    ok(t_train(&w, &s));
    assert_int_equal(seen.narrowed, t[i].narrows);
    assert_true(told_bound > 0.0099 && told_below > 0 && told_below < 1);
    for (int k = 0; k < seen.n; k++) {
      lc_index_free(w.ctx, &seen.mask[k]);
      if (seen.narrow[k].kind != LC_ALL) lc_index_free(w.ctx, &seen.narrow[k]);
      free(seen.at[k]);
    }
  }
}

/* ---- item 5: the penalty's gradient ---- */

static double nuclear(const lc_param *p) {
  static float W[80 * 70], s[70];
  double sum = 0;
  float *base = values(p->of);
  memset(W, 0, sizeof W);
  for (int64_t k = 0; k < p->n; k++) W[lc_index_at(&p->idx, k)] = base[lc_index_at(&p->idx, k)];
  ok(lc_svd_values(w.ctx, W, 80, 70, s));
  for (int k = 0; k < 70; k++) sum += (double)s[k];
  free(base);
  return sum;
}

static void test_penalty(void **state) {
  static float v[80 * 70];
  const lc_rng rng = {.seed = 3, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, 80 * 70, v);
  lc_weight x = {.name = "x", .module = "x", .M = 80, .N = 70, .ndim = 2, .kind = LC_KIND_LINEAR};
  const lc_tensor t = {v, LC_F32, 2, {80, 70}};
  int64_t at[2000];
  lc_index idx;
  lc_delta *d;
  ok(lc_form_view(w.ctx, &t, false, NULL, &x.base));
  x.form = x.base;
  ok(lc_rng_choose(w.ctx, &rng, 80 * 70, 2000, at));
  ok(lc_index_new(w.ctx, 80, 70, at, 2000, &idx));
  ok(lc_delta_sparse_new(w.ctx, &x, &idx, NULL, true, &d));
  ok(lc_weight_attach(w.ctx, &x, d));
  lc_param *p = d->param[0];
  lc_rng_normal_fill(&rng, 10000, 2000, p->value);
  ok(lc_regularise_nuclear(w.ctx, p, 2, false));
  static float exact[2000];
  memcpy(exact, p->grad, sizeof exact);
  for (int trial = 0; trial < 5; trial++) { /* along random directions */
    float step[2000], start[2000];
    double want = 0, plus, minus;
    lc_rng_normal_fill(&rng, (uint64_t)(20000 + 4000 * trial), 2000, step);
    for (int k = 0; k < 2000; k++) want += (double)exact[k] * (double)step[k];
    memcpy(start, p->value, sizeof start);
    for (int k = 0; k < 2000; k++) p->value[k] = start[k] + 0.002f * step[k];
    plus = nuclear(p);
    for (int k = 0; k < 2000; k++) p->value[k] = start[k] - 0.002f * step[k];
    minus = nuclear(p);
    memcpy(p->value, start, sizeof start);
    assert_true(fabs(2 * (plus - minus) / 0.004 - want) < 0.02 * fabs(want) + 0.3);
  }
  memset(p->grad, 0, 2000 * sizeof(float));
  ok(lc_regularise_nuclear(w.ctx, p, 2, true)); /* by products */
  assert_true(lc_tiny_error(p->grad, exact, 2000) < 2e-3);
  p->value[7] = NAN; /* a strength of 0 looks at nothing */
  ok(lc_regularise_nuclear(w.ctx, p, 0, false));
  assert_int_equal(lc_regularise_nuclear(w.ctx, p, 1, false), LC_FAILED);
  lc_error_clear(w.ctx);
  lc_weight_detach(w.ctx, &x, d, true);
  lc_form_free(w.ctx, x.base);
}

/* It is added once in R updates, R times as strong, to one matrix. */
static int penalised[8];
static lc_status count_penalties(void *self, lc_training *t) {
  float *before[64];
  for (int i = 0; i < t->n_param; i++) {
    before[i] = malloc((size_t)t->param[i]->n * 4);
    memcpy(before[i], t->param[i]->grad, (size_t)t->param[i]->n * 4);
  }
  LC_TRY(lc_method_sara.after_backward(self, t));
  for (int i = 0; i < t->n_param; i++) {
    penalised[t->step] += memcmp(before[i], t->param[i]->grad, (size_t)t->param[i]->n * 4) != 0;
    free(before[i]);
  }
  return LC_OK;
}
static void test_penalty_schedule(void **state) {
  static const struct {
    const char *set;
    int want[8];
  } t[] = {{"side=16 every=3", {1, 0, 0, 1, 0, 0, 1, 0}},
           {"side=16 every=1", {1, 1, 1, 1, 1, 1, 1, 1}},
           {"side=16 rank-penalty=0", {0}},
           {"every=1", {0}}}; /* no side above 64 and another above it here */
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    lc_method row = lc_method_sara;
    char out[8];
    snprintf(out, sizeof out, "c%zu", i);
    memset(penalised, 0, sizeof penalised);
    row.after_backward = count_penalties;
    t_spec s = {
        .row = &row, .set = t[i].set, .out = out, .opts = "steps=8 batch=4 density=0.1", .no_eval = true};
    ok(t_train(&w, &s));
    assert_memory_equal(penalised, t[i].want, sizeof penalised);
  }
}

/* ---- item 7 ---- */

static void test_rate(void **state) {
  static const struct {
    const char *set, *opts;
    double lr;
  } t[] = {{"threshold=0.002", "steps=1 lr=0", 4.965853037914095e-4},
           {"threshold=0.0002", "steps=1 lr=0", 9.323938199059483e-4},
           {"threshold=0.01", "steps=1 lr=0", 3.0197383422318502e-5},
           {"threshold=0.01", "steps=1 lr=0.125", 0.125},
           {"", "steps=1 lr=0", 1e-3}};
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    t_spec s = {.method = "sara",
                .set = t[i].set,
                .opts = t[i].opts,
                .out = "r",
                .overwrite = true,
                .no_eval = true,
                .event = hear};
    ok(t_train(&w, &s));
    assert_true(fabs(told_lr - t[i].lr) < 1e-12);
  }
}

/* ---- item 8 ---- */

typedef struct {
  size_t want;
  int steps;
} bytes;
static int weigh(void *arg, const char *kind, const struct json_t *e) {
  bytes *b = arg;
  const size_t K = (size_t)json_integer_value(json_object_get(e, "trainable"));
  if (!strcmp(kind, "start")) b->want *= K;
  if (!strcmp(kind, "step") && ++b->steps == 3) {
    assert_int_equal(lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE), b->want);
    assert_true(lc_mem_bytes(w.ctx, LC_MEM_GRAD) <= b->want / 4);
  }
  return 0;
}
static void test_bytes(void **state) {
  for (int decay = 0; decay < 2; decay++) {
    bytes b = {.want = decay ? 20 : 16};
    t_spec s = {.method = "sara",
                .out = decay ? "b1" : "b0",
                .set = "side=16 every=2",
                .opts =
                    decay ? "steps=8 batch=4 density=0.1 weight-decay=0.01" : "steps=8 batch=4 density=0.1",
                .event = weigh,
                .arg = &b};
    ok(t_train(&w, &s));
    assert_int_equal(b.steps, 8);
  }
}

/* ---- items 9 and 10 ---- */

static void test_file(void **state) {
  char *data;
  size_t size;
  lc_net *net;
  lc_adapter *a, *b;
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *own = w.model, *other;
  t_spec s = {.method = "sara",
              .set = "side=16",
              .out = "f",
              .opts = "steps=8 batch=4 density=0.2",
              .no_eval = true,
              .event = hear};
  ok(t_train(&w, &s));
  ok(lc_read_file(w.ctx, t_out(&w, "f", "lacuna_adapter.safetensors"), 1 << 26, &data, &size));
  assert_true(size < 8 * (size_t)told_mask);
  lc_free(w.ctx, data);
  d.dtype = LC_Q8_0; /* the same weights, quantised */
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &other));
  ok(lc_net_new(other, LC_F32, &net));
  assert_int_equal(lc_adapter_load(net, t_out(&w, "f", ""), 1, LC_PATCH, &a), LC_FAILED);
  assert_non_null(strstr(lc_error(w.ctx), "takes no other base"));
  lc_error_clear(w.ctx);
  s.set = "side=16 exact-base=false";
  s.out = "g";
  ok(t_train(&w, &s));
  ok(lc_adapter_load(net, t_out(&w, "g", ""), 1, LC_PATCH, &a));
  lc_net_free(net);
  lc_model_close(other);
  s.set = "side=16";
  s.out = "h";
  s.opts = "steps=8 batch=4 density=0.2 seed=9";
  ok(t_train(&w, &s));
  ok(lc_net_new(own, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "f", ""), 1, LC_PATCH, &a));
  ok(lc_adapter_load(net, t_out(&w, "h", ""), 1, LC_PATCH, &b));
  int64_t both = 0;
  for (int i = 0; i < a->n; i++) { /* two adapters of one base add up as changes */
    const lc_param *p = a->delta[i]->param[0], *q = NULL;
    for (int k = 0; k < b->n; k++)
      if (b->delta[k]->w == a->delta[i]->w) q = b->delta[k]->param[0];
    float *now = values(p->of), *base = base_of(p->of->name);
    for (int64_t k = 0; k < p->n; k++) {
      const int64_t at = lc_index_at(&p->idx, k), j = q ? lc_index_lower(&q->idx, 0, at) : 0;
      const bool too = q && j < q->n && lc_index_at(&q->idx, j) == at;
      assert_true(now[at] == base[at] + p->value[k] + (too ? q->value[j] : 0.0f));
      both += too;
    }
    free(now);
    free(base);
  }
  assert_true(both > 100);
  ok(lc_adapter_set(a, 0, LC_PATCH));
  ok(lc_adapter_set(b, 0, LC_PATCH));
  for (int i = 0; i < a->n; i++) { /* α = 0 is the base */
    const lc_weight *x = a->delta[i]->w;
    float *now = values(x), *base = base_of(x->name);
    assert_memory_equal(now, base, (size_t)(x->M * x->N) * 4);
    free(now);
    free(base);
  }
  lc_net_free(net);
}

static void test_refusals(void **state) {
  static const refusal t[] = {{"threshold=0", "steps=1", "below a threshold of 0"},
                              {"threshold=1e-30 progressive=-1", "steps=1", "no entry"},
                              {"threshold=100", "steps=1 lr=0", "gives no rate"},
                              {"", "steps=1 density=0", "density"},
                              {"threshold=-0.01", "steps=1", "sizes are not negative"},
                              {"layout=peft", "steps=1 density=0.9", "no r fits"}};
  refuses("sara", t, sizeof t / sizeof *t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_mask),    TEST(test_share),   TEST(test_endless), TEST(test_narrowing),
      TEST(test_penalty), TEST(test_rate),    TEST(test_bytes),   TEST(test_penalty_schedule),
      TEST(test_file),    TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
