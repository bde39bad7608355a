/* SHiRA and SpIEL through the training loop: what moves and what does not, masks against brute force, when
 * entries are replaced, bytes, what is refused, and what the result holds. */
#define WORLD_THREADS 1
#include "method/method_test.h"
#include "nn/select.h"

static void refused_run(const t_spec *s, const char *says) {
  if (!t_train(&w, s)) fail_msg("%s %s %s: went through", s->method, s->opts, s->set ? s->set : "");
  if (!strstr(lc_error(w.ctx), says)) fail_msg("says '%s', expected '%s'", lc_error(w.ctx), says);
  lc_error_clear(w.ctx);
}

static uint64_t file_sum(const char *path) {
  char *data;
  size_t n;
  uint64_t h = 1469598103934665603u;
  ok(lc_read_file(w.ctx, path, 1 << 26, &data, &n));
  for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)data[i]) * 1099511628211u;
  lc_free(w.ctx, data);
  return h;
}

/* Loads OUT's adapter: outside its positions every weight has the base's bits; removed, everywhere. Returns
 * the entries in all. */
static int64_t check_result(const char *out, double least_moved) {
  lc_net *base, *net;
  lc_adapter *a;
  int64_t entries = 0, moved = 0;
  ok(lc_net_new(w.model, LC_F32, &base));
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, out, ""), 1, LC_PATCH, &a));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *x = &net->weights.w[i];
    if (x->ndim != 2) {
      assert_memory_equal(x->vector, base->weights.w[i].vector, (size_t)(x->M * x->N) * 4);
      continue;
    }
    float *now = values(x), *was = values(&base->weights.w[i]);
    const lc_index *at = x->n_delta ? &x->delta[0]->param[0]->idx : NULL;
    for (int64_t k = 0; k < x->M * x->N; k++) {
      const bool in = at && lc_index_has(at, k);
      if (!in) assert_memory_equal(&now[k], &was[k], 4);
      moved += in && now[k] != was[k];
    }
    entries += at ? at->n : 0;
    free(now);
    free(was);
  }
  assert_true((double)moved >= least_moved * (double)entries);
  ok(lc_adapter_remove(a));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *x = &net->weights.w[i];
    if (x->ndim != 2) continue;
    float *now = values(x), *was = values(&base->weights.w[i]);
    assert_memory_equal(now, was, (size_t)(x->M * x->N) * 4);
    free(now);
    free(was);
  }
  lc_net_free(net);
  lc_net_free(base);
  return entries;
}

/* ---- what moves, and what the file holds ---- */

#define DECAY "steps=6 batch=4 weight-decay=0.1 clip=0.5"

static void test_off_the_mask(void **state) {
  static const struct {
    const char *method, *set, *opts;
    double moved;
  } t[] = {
      {"shira", "mask=random", DECAY " density=0.05", 0.5}, /* padding does not move */
      {"shira", "mask=wm r=2", DECAY, 1},
      {"shira", "mask=grad examples=8", DECAY " density=0.05", 0.5},
      {"shira", "mask=snip examples=8 calibration-bytes=30000", DECAY " density=0.05 dtype=bf16", 0.4},
      {"shira", "mask=struct axis=columns", DECAY " density=0.1", 0.4},
      {"spiel", "period=4 accumulate=2", DECAY " density=0.05", 0.9},
      {"spiel", "select=ma period=4 accumulate=2", DECAY " density=0.05", 0.9},
      {"spiel", "period=4 accumulate=2 reference=true policy=cosine",
       DECAY " density=0.05 micro-batch=1 dtype=bf16", 0.8},
  };
  const uint64_t base = file_sum(lc_tiny_path(w.dir, "model/model.safetensors"));
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    char out[16];
    snprintf(out, sizeof out, "o%zu", i);
    t_spec s = {.method = t[i].method, .set = t[i].set, .opts = t[i].opts, .out = out};
    ok(t_train(&w, &s));
    check_result(out, t[i].moved);
    assert_true(file_sum(lc_tiny_path(w.dir, "model/model.safetensors")) == base);
    assert_true(lc_path_exists(t_out(&w, out, "lacuna_adapter.json")));
    assert_int_equal(lc_path_exists(t_out(&w, out, "adapter_config.json")),
                     *t[i].method == 's' && t[i].method[1] == 'h');
    assert_int_equal(lc_path_exists(t_out(&w, out, "lacuna_adapter.safetensors")), t[i].method[1] == 'p');
  }
}

/* r is PEFT's budget, in every target; budget=authors is r = 32; density is the targets' entries. */
static int64_t trainable_of(const char *method, const char *set, const char *opts) {
  static int turn;
  char out[16];
  snprintf(out, sizeof out, "b%d", turn++);
  t_spec s = {.method = method, .set = set, .opts = opts, .out = out, .no_eval = true};
  ok(t_train(&w, &s));
  json_t *j;
  ok(lc_json_read(w.ctx, t_out(&w, out, "lacuna_adapter.json"), &j));
  const int64_t n = json_integer_value(json_object_get(j, "values"));
  json_decref(j);
  return n;
}

static void test_budgets(void **state) {
  lc_net *net;
  lc_weight **t;
  int n;
  int64_t sides = 0, entries = 0;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_targets(net, "all-linear", &t, &n));
  for (int i = 0; i < n; i++) sides += t[i]->M + t[i]->N, entries += t[i]->M * t[i]->N;
  assert_int_equal(trainable_of("shira", "r=3", "steps=1"), 3 * sides);
  int64_t want = 0;
  for (int i = 0; i < n; i++) want += (int64_t)floor(0.02 * (double)entries) * (t[i]->M * t[i]->N) / entries;
  assert_int_equal(trainable_of("shira", "", "steps=1 density=0.02"), want);
  assert_int_equal(trainable_of("spiel", "", "steps=1 density=0.02"), want);
  want = 0;
  for (int i = 0; i < n; i++)
    want += (int64_t)floor(0.02 * (double)lc_model_parameters(w.model)) * (t[i]->M * t[i]->N) / entries;
  assert_int_equal(trainable_of("spiel", "budget=authors", "steps=1 density=0.02"), want);
  lc_free(w.ctx, t);
  lc_net_free(net);
  t_spec s = {.method = "shira",
              .set = "budget=authors",
              .opts = "steps=1",
              .out = "x"}; /* 32·(M+N) is more than these small weights have */
  refused_run(&s, "r = 32 asks for");
}

/* Three runs with nth = 1, 2, 3 share no position. */
static void test_disjoint(void **state) {
  static const char *const masks[] = {"random", "wm"};
  for (int m = 0; m < 2; m++) {
    lc_net *net;
    lc_adapter *a[3];
    ok(lc_net_new(w.model, LC_F32, &net));
    for (int j = 0; j < 3; j++) {
      char set[64], out[32];
      snprintf(set, sizeof set, "r=2 mask=%s nth=%d", masks[m], j + 1);
      snprintf(out, sizeof out, "d%d%d", m, j);
      t_spec s = {.method = "shira", .set = set, .opts = "steps=1", .out = out, .no_eval = true};
      ok(t_train(&w, &s));
      ok(lc_adapter_load(net, t_out(&w, out, ""), 1, LC_PATCH, &a[j]));
    }
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < i; j++) {
        lc_overlap_row *row;
        int n;
        ok(lc_adapter_overlap(a[i], a[j], &row, &n));
        assert_int_equal(n, a[i]->n);
        for (int k = 0; k < n; k++) assert_int_equal(row[k].both, 0);
        lc_free(w.ctx, row);
      }
    lc_net_free(net);
  }
}

/* ---- grad and snip against brute force over the same accumulated gradients ---- */

typedef struct {
  const lc_weight *w[64];
  float *g[64];
  int n;
} gradients;
static gradients seen;

static lc_status keep(void *arg, lc_weight *x, const float *dW) {
  seen.w[seen.n] = x;
  seen.g[seen.n] = malloc((size_t)(x->M * x->N) * 4);
  memcpy(seen.g[seen.n++], dW, (size_t)(x->M * x->N) * 4);
  return LC_OK;
}

static int snip_wanted;

static lc_status calibrate_and_compare(void *self, lc_training *t) {
  lc_weight *x[64];
  seen.n = 0;
  for (int i = 0; i < t->adapter->n; i++) x[i] = t->adapter->delta[i]->w;
  LC_TRY(lc_calibrate_gradients(t, x, t->adapter->n, 8, 1 << 30, keep, NULL));
  LC_TRY(lc_method_shira.calibrate(self, t));
  for (int i = 0; i < seen.n; i++) {
    const lc_param *p = t->adapter->delta[i]->param[0];
    const int64_t total = p->rows * p->cols;
    float *W = values(seen.w[i]), *score = seen.g[i], least = INFINITY;
    assert_ptr_equal(seen.w[i], p->of);
    for (int64_t k = 0; k < total; k++) score[k] = fabsf(snip_wanted ? score[k] * W[k] : score[k]);
    for (int64_t k = 0; k < p->n; k++) least = fminf(least, score[lc_index_at(&p->idx, k)]);
    int64_t last = -1, above = 0;
    for (int64_t k = 0; k < total;
         k++) { /* nothing outside is larger; of the equal ones the first were taken */
      const bool in = lc_index_has(&p->idx, k);
      if (in && score[k] == least) last = k;
      above += score[k] > least;
      if (!in) assert_true(score[k] <= least);
    }
    for (int64_t k = 0; k < last; k++)
      if (score[k] == least) assert_true(lc_index_has(&p->idx, k));
    assert_true(above < p->n && least > 0);
    free(W);
    free(seen.g[i]);
  }
  return LC_OK;
}

static void test_gradient_masks(void **state) {
  for (snip_wanted = 0; snip_wanted < 2; snip_wanted++) {
    lc_method row = lc_method_shira;
    row.calibrate = calibrate_and_compare;
    t_spec s = {.row = &row,
                .set = snip_wanted ? "mask=snip examples=8 calibration-bytes=40000"
                                   : "mask=grad examples=8 calibration-bytes=40000",
                .opts = "steps=1 density=0.03",
                .out = snip_wanted ? "g1" : "g0"};
    ok(t_train(&w, &s));
  }
}

/* ---- GPT-2: PEFT has no SHiRA for Conv1D ---- */

static void test_conv1d(void **state) {
  lc_tiny d = LC_TINY_GPT2;
  lc_model *llama = w.model, *gpt2;
  char *dir = lc_tiny_dir();
  ok(lc_tiny_hf(w.ctx, &d, dir));
  ok(lc_model_open(w.ctx, dir, &gpt2));
  w.model = gpt2;
  warned[0] = 0;
  t_spec s = {.method = "shira", .set = "mask=wm", .opts = "steps=3 density=0.02", .out = "gpt2"};
  ok(t_train(&w, &s));
  if (!strstr(warned, "Conv1D")) fail_msg("says '%s'", warned);
  assert_false(lc_path_exists(t_out(&w, "gpt2", "adapter_config.json")));
  check_result("gpt2", 0.9);
  w.model = llama;
  lc_model_close(gpt2);
  lc_remove_tree(w.ctx, dir);
  free(dir);
}

/* ---- SpIEL: when and how many ---- */

static int64_t changed_at[128], K_of_first;

static lc_status watch_swaps(void *self, lc_training *t) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  int32_t *before = malloc((size_t)p->n * 4);
  float *value = malloc((size_t)p->n * 4), *m = malloc((size_t)p->n * 4), *age = malloc((size_t)p->n * 4);
  int64_t stayed = 0;
  memcpy(before, p->idx.at, (size_t)p->n * 4);
  memcpy(value, p->value, (size_t)p->n * 4);
  memcpy(m, lc_param_find(p, "m"), (size_t)p->n * 4);
  memcpy(age, lc_param_find(p, "age"), (size_t)p->n * 4);
  LC_TRY(lc_method_spiel.after_step(self, t));
  const lc_index old = {LC_LIST32, p->n, before};
  for (int64_t k = 0; k < p->n; k++) {
    const int64_t at = lc_index_at(&p->idx, k), j = lc_index_lower(&old, 0, at);
    assert_true((!k || at > lc_index_at(&p->idx, k - 1)) && at < p->rows * p->cols);
    if (j < p->n && before[j] == at) {
      stayed++;
      assert_memory_equal(&value[j], &p->value[k], 4);
      assert_memory_equal(&m[j], &lc_param_find(p, "m")[k], 4);
      assert_memory_equal(&age[j], &lc_param_find(p, "age")[k], 4);
    } else {
      assert_true(p->value[k] == 0 && lc_param_find(p, "age")[k] == (t->step == 4 ? 5 : 6));
    }
  }
  changed_at[t->step + 1] = p->n - stayed;
  K_of_first = p->n;
  free(before);
  free(value);
  free(m);
  free(age);
  return LC_OK;
}

static void test_schedule(void **state) {
  lc_method row = lc_method_spiel;
  row.after_step = watch_swaps;
  t_spec s = {.row = &row,
              .opts = "steps=100 stop-after=50 batch=2 density=0.05",
              .out = "schedule",
              .no_eval = true};
  memset(changed_at, 0, sizeof changed_at);
  ok(t_train(&w, &s));
  for (int c = 1; c <= 50; c++) {
    if (c != 5 && c != 25 && c != 45)
      assert_int_equal(changed_at[c], 0);
    else
      assert_true(changed_at[c] > 0);
  }
  assert_true(changed_at[5] > K_of_first / 4); /* p = 1: what is among the candidates stays */
  assert_true(changed_at[25] <= (int64_t)floor((double)K_of_first * 0.15));
  assert_true(changed_at[25] > (int64_t)floor((double)K_of_first * 0.05));
  assert_true(changed_at[45] <= (int64_t)floor((double)K_of_first * 0.2 * 0.55));
}

/* All positions and p = 0: AdamW with ε outside the bias correction, here in f64 on the gradients that came.
 * */
typedef struct {
  double *m, *v, *d;
} dense_state;
static dense_state dense;

static lc_status dense_adamw(void *self, lc_training *t) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  const double b1 = 0.9, b2 = 0.999, lr = t->lr, n = (double)t->step + 1;
  assert_int_equal(p->n, p->rows * p->cols);
  if (!dense.m)
    dense = (dense_state){calloc((size_t)p->n, 8), calloc((size_t)p->n, 8), calloc((size_t)p->n, 8)};
  double off = 0, size = 0;
  for (int64_t k = 0; k < p->n; k++) {
    const double g = (double)p->grad[k];
    dense.m[k] = b1 * dense.m[k] + (1 - b1) * g;
    dense.v[k] = b2 * dense.v[k] + (1 - b2) * g * g;
    dense.d[k] -= lr * (dense.m[k] / (1 - pow(b1, n))) / ((sqrt(dense.v[k]) + 1e-6) / sqrt(1 - pow(b2, n)));
    dense.d[k] *= 1 - lr * 0.01;
    off += (dense.d[k] - (double)p->value[k]) * (dense.d[k] - (double)p->value[k]);
    size += dense.d[k] * dense.d[k];
  }
  if (!(sqrt(off / size) < 1e-6))
    fail_msg("update %lld: off by %g", (long long)t->step + 1, sqrt(off / size));
  return lc_method_spiel.after_step(self, t);
}

static void test_dense_adamw(void **state) {
  lc_method row = lc_method_spiel;
  row.after_step = dense_adamw;
  t_spec s = {.row = &row,
              .set = "policy=cosine p0=0",
              .out = "dense",
              .no_eval = true,
              .opts =
                  "steps=20 batch=2 density=1 targets=layers.1.self_attn.k_proj clip=0 weight-decay=0.01"};
  ok(t_train(&w, &s));
  free(dense.m), free(dense.v), free(dense.d);
}

/* ---- what bf16 does not see ---- */

typedef struct {
  double share;
} told;

static int hear(void *arg, const char *kind, const struct json_t *e) {
  told *t = arg;
  if (!strcmp(kind, "done")) t->share = json_number_value(json_object_get(e, "invisible"));
  return 0;
}

/* Counted again from the result: changed entries whose sum rounds to the weight's own bf16. */
static void test_invisible(void **state) {
  static const char *const opts[] = {"steps=3 batch=2 density=0.05 dtype=f32 lr=0.00002",
                                     "steps=3 batch=2 density=0.05 dtype=bf16 lr=0.00002"};
  for (int bf16 = 0; bf16 < 2; bf16++) {
    told t = {.share = -1};
    t_spec s = {.method = "spiel",
                .opts = opts[bf16],
                .out = bf16 ? "i1" : "i0",
                .event = hear,
                .arg = &t,
                .no_eval = true};
    ok(t_train(&w, &s));
    lc_net *net;
    lc_adapter *a;
    int64_t changed = 0, lost = 0;
    ok(lc_net_new(w.model, LC_F32, &net));
    ok(lc_adapter_load(net, t_out(&w, s.out, ""), 0, LC_PATCH, &a));
    for (int i = 0; i < a->n; i++) {
      const lc_param *p = a->delta[i]->param[0];
      float *W = values(a->delta[i]->w);
      for (int64_t k = 0; k < p->n; k++) {
        const float x = W[lc_index_at(&p->idx, k)];
        changed += p->value[k] != 0;
        lost += p->value[k] != 0 && lc_f32_to_bf16(x + p->value[k]) == lc_f32_to_bf16(x);
      }
      free(W);
    }
    lc_net_free(net);
    assert_true(lost > changed / 10);
    assert_true(fabs(t.share - (bf16 ? (double)lost / (double)changed : 0)) < 1e-12);
  }
}

/* ---- bytes, and no allocation after the first update ---- */

typedef struct {
  int64_t K;
  size_t trainable, grad, candidate, form, scratch;
  uint64_t allocations;
  int steps;
  bool after_start;
} bytes;

static int weigh(void *arg, const char *kind, const struct json_t *e) {
  bytes *b = arg;
  if (!strcmp(kind, "start")) b->K = json_integer_value(json_object_get(e, "trainable"));
  if (strcmp(kind, "step")) return 0;
  if (b->steps++ == 1) {
    b->trainable = lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE);
    b->grad = lc_mem_bytes(w.ctx, LC_MEM_GRAD);
    b->candidate = lc_mem_bytes(w.ctx, LC_MEM_CANDIDATE);
    b->form = lc_mem_bytes(w.ctx, LC_MEM_FORM);
    b->scratch = lc_mem_bytes(w.ctx, LC_MEM_SCRATCH);
    b->allocations = lc_mem_allocations(w.ctx);
  }
  if (b->steps > 1 && lc_mem_allocations(w.ctx) != b->allocations) fail_msg("update %d allocated", b->steps);
  return 0;
}

static void test_bytes(void **state) {
  static const struct {
    const char *method, *set;
    size_t trainable, grad, candidate;
    bool sides;
  } t[] = {
      {"shira", "mask=random", 16, 4, 0, false},
      {"shira", "mask=snip examples=8", 16, 4, 0, false},
      {"spiel", "period=4 accumulate=2", 20, 8, 12, false},
      {"spiel", "select=ma period=4 accumulate=2", 8, 4, 0, true},
  };
  lc_net *net;
  lc_weight **x;
  int n;
  size_t sides = 0, vectors = 0;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_targets(net, "all-linear", &x, &n));
  for (int i = 0; i < n; i++) sides += (size_t)(x[i]->M + x[i]->N);
  vectors = lc_mem_bytes(w.ctx, LC_MEM_FORM);
  lc_free(w.ctx, x);
  lc_net_free(net);
  for (size_t i = 0; i < sizeof t / sizeof *t; i++)
    for (int big = 0; big < 2; big++) { /* evaluations, checkpoints and reselections included */
      char out[32];
      bytes b = {0};
      snprintf(out, sizeof out, "w%zu%d", i, big);
      t_spec s = {.method = t[i].method,
                  .set = t[i].set,
                  .out = out,
                  .event = weigh,
                  .arg = &b,
                  .opts =
                      big ? "steps=11 batch=4 micro-batch=2 density=0.2 eval-every=3 save-every=4 dtype=bf16"
                          : "steps=11 batch=4 micro-batch=2 density=0.01 eval-every=3 save-every=4"};
      ok(t_train(&w, &s));
      assert_int_equal(b.trainable, t[i].trainable * (size_t)b.K + (t[i].sides ? 4 * sides : 0));
      assert_int_equal(b.grad, t[i].grad * (size_t)b.K);
      assert_int_equal(b.candidate, t[i].candidate * (size_t)b.K);
      assert_int_equal(b.form, vectors); /* no copy of any matrix */
    }
}

/* ---- refusals ---- */

static void test_refusals(void **state) {
  static const struct {
    const char *method, *set, *opts, *says;
  } t[] = {
      {"spiel", "period=5 accumulate=5", "steps=3", "nothing would ever be reselected"},
      {"spiel", "period=5 accumulate=9", "steps=3", "nothing would ever be reselected"},
      {"spiel", "", "steps=3 density=0", "not in (0, 1]"},
      {"spiel", "", "steps=3 density=1.5", "density"},
      {"spiel", "", "steps=3 targets=nothing", "match no matrix"},
      {"spiel", "", "steps=3 density=0.0001", "would get none"},
      {"spiel", "", "steps=3 density=0.000001", "leaves no entry"},
      {"spiel", "", "steps=3 optimizer=sgd", "works with adamw, not sgd"},
      {"spiel", "select=ma", "steps=3 optimizer=sgd", "works with sm3, not sgd"},
      {"spiel", "select=ma reference=true", "steps=3", "has no seeds"},
      {"spiel", "budget=authors", "steps=3 density=1", "but the target matrices have"},
      {"spiel", "layout=peft", "steps=3 density=0.9", "no r fits"},
      {"spiel", "p0=1.5", "steps=3", "p0"},
      {"spiel", "periods=4", "steps=3", "period"},
      {"shira", "", "steps=3 density=0", "not in (0, 1]"},
      {"shira", "r=1000", "steps=3", "r = 1000 asks for"},
      {"shira", "mask=struct", "steps=3 density=0.001", "one row and the diagonal"},
      {"shira", "mask=struct nth=2", "steps=3", "one mask only"},
      {"shira", "nth=300", "steps=3", "disjoint"},
      {"shira", "mask=grad examples=4 calibration-bytes=100", "steps=3", "the budget is 100"},
      {"shira", "mask=magnitude", "steps=3", "mask"},
      {"lora", "r=0", "steps=3", "r"},
      {"lora", "dropout=1", "steps=3", "dropout"},
      {"lora", "", "steps=3 targets=embed_tokens", "linear layers only"},
  };
  const size_t before = lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE) + lc_mem_bytes(w.ctx, LC_MEM_GRAD) +
                        lc_mem_bytes(w.ctx, LC_MEM_CANDIDATE);
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    t_spec s = {
        .method = t[i].method, .set = t[i].set, .opts = t[i].opts, .out = "refused", .overwrite = true};
    refused_run(&s, t[i].says);
    assert_int_equal(lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE) + lc_mem_bytes(w.ctx, LC_MEM_GRAD) +
                         lc_mem_bytes(w.ctx, LC_MEM_CANDIDATE),
                     before);
  }
}

/* ---- on a quantised base ---- */

static void test_quantised_base(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *hf = w.model, *q4;
  char *dir = lc_tiny_dir(), path[256];
  d.dtype = LC_Q4_1;
  snprintf(path, sizeof path, "%s/q4.gguf", dir);
  ok(lc_tiny_gguf(w.ctx, &d, path));
  const uint64_t sum = file_sum(path);
  ok(lc_model_open(w.ctx, path, &q4));
  w.model = q4;
  t_spec s = {
      .method = "spiel", .set = "period=4 accumulate=2", .opts = "steps=8 batch=8 density=0.05", .out = "q4"};
  ok(t_train(&w, &s));
  check_result("q4", 0.5);
  assert_true(file_sum(path) == sum);
  assert_true(atof(t_query(&w, "q4", "SELECT loss FROM steps ORDER BY step DESC LIMIT 1")) <
              atof(t_query(&w, "q4", "SELECT loss FROM steps ORDER BY step LIMIT 1")));
  w.model = hf;
  lc_model_close(q4);
  lc_remove_tree(w.ctx, dir);
  free(dir);
}

/* SpIEL's result in PEFT's layout, on request. */
static void test_export(void **state) {
  t_spec s = {
      .method = "spiel", .set = "period=4 accumulate=2", .opts = "steps=4 density=0.05", .out = "native"};
  ok(t_train(&w, &s));
  s.set = "period=4 accumulate=2 layout=peft";
  s.out = "at-once";
  ok(t_train(&w, &s));
  lc_net *net;
  lc_adapter *a, *b;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "native", ""), 1, LC_PATCH, &a));
  ok(lc_adapter_save(a, LC_LAYOUT_PEFT_SHIRA, t_out(&w, "peft", ""), &(lc_adapter_meta){.method = "spiel"}));
  const int n = a->n;
  float **v = malloc((size_t)n * sizeof *v);
  for (int i = 0; i < n; i++) v[i] = values(a->delta[i]->w);
  ok(lc_adapter_remove(a));
  ok(lc_adapter_load(net, t_out(&w, "peft", ""), 1, LC_PATCH, &b));
  assert_int_equal(b->n, n);
  for (int i = 0; i < n; i++) {
    float *x = values(b->delta[i]->w);
    assert_memory_equal(x, v[i], (size_t)(b->delta[i]->w->M * b->delta[i]->w->N) * 4);
    free(x);
    free(v[i]);
  }
  free(v);
  lc_net_free(net);
  assert_true(t_same_files(t_out(&w, "peft", "adapter_model.safetensors"),
                           t_out(&w, "at-once", "adapter_model.safetensors")));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_off_the_mask), TEST(test_budgets),  TEST(test_disjoint),       TEST(test_gradient_masks),
      TEST(test_conv1d),       TEST(test_schedule), TEST(test_dense_adamw),    TEST(test_invisible),
      TEST(test_bytes),        TEST(test_refusals), TEST(test_quantised_base), TEST(test_export),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
