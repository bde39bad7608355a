/* LIFT (arXiv 2506.00772) through the loop, by the items of its acceptance list; the mask itself (items 1 to 4, 10) is
 * tested in nn/test_select_global, sampled gradients (item 8) in nn/test_delta. */
#include "method/method_test.h"
#include "nn/select.h"

/* ---- items 5 and 6: what moves, and what follows an entry over a refresh ---- */

static struct {
  float *W; /* the first target's weights after the last refresh */
  lc_index mask;
  float *m, *v, *value;
  int refreshes;
  int64_t left, entered;
} seen;

static void remember(const lc_training *t) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  free(seen.W);
  seen.W = values(p->of);
  lc_index_free(w.ctx, &seen.mask);
  ok(lc_index_dup(w.ctx, &p->idx, &seen.mask));
}

static void check_refresh(const lc_training *t, const float *before) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  const float *m = lc_param_find(p, "m"), *v = lc_param_find(p, "v");
  float *after = values(p->of);
  assert_memory_equal(before, after, (size_t)(p->rows * p->cols) * 4); /* a refresh moves no weight */
  for (int64_t k = 0; k < p->n; k++) {
    const int64_t at = lc_index_at(&p->idx, k), old = lc_index_lower(&seen.mask, 0, at);
    if (old < seen.mask.n && lc_index_at(&seen.mask, old) == at) {
      assert_memory_equal(&m[k], &seen.m[old], 4);
      assert_memory_equal(&v[k], &seen.v[old], 4);
      assert_memory_equal(&p->value[k], &seen.value[old], 4);
    } else {
      assert_true(m[k] == 0 && v[k] == 0);
      seen.entered++;
    }
  }
  for (int64_t k = 0; k < p->retired.n; k++) assert_false(lc_index_has(&p->idx, lc_index_at(&p->retired, k)));
  seen.left = lc_max64(seen.left, p->retired.n);
  seen.refreshes++;
  free(after);
}

static lc_status watch(void *self, lc_training *t) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  float *before = values(p->of);
  if (t->step == 0) remember(t);
  for (int64_t k = 0; k < p->rows * p->cols; k++) /* since the last refresh: only the mask moved */
    if (!lc_index_has(&seen.mask, k)) assert_memory_equal(&before[k], &seen.W[k], 4);
  seen.m = realloc(seen.m, (size_t)p->n * 4);
  seen.v = realloc(seen.v, (size_t)p->n * 4);
  seen.value = realloc(seen.value, (size_t)p->n * 4);
  memcpy(seen.value, p->value, (size_t)p->n * 4);
  if (t->step) {
    memcpy(seen.m, lc_param_find(p, "m"), (size_t)p->n * 4);
    memcpy(seen.v, lc_param_find(p, "v"), (size_t)p->n * 4);
  }
  LC_TRY(lc_method_lift.before_step(self, t));
  if (t->step && t->step % 3 == 0) {
    check_refresh(t, before);
    remember(t);
  } else {
    assert_int_equal(p->n, seen.mask.n);
    assert_memory_equal(p->idx.at, seen.mask.at, (size_t)p->n * 4);
  }
  free(before);
  return LC_OK;
}

static void test_refresh(void **state) {
  static const char *const sets[] = {"filter=4 interval=3", "filter=4 interval=3 shape=blocks svd=exact"};
  for (int i = 0; i < 2; i++) {
    lc_method row = lc_method_lift;
    row.before_step = watch;
    memset(&seen, 0, sizeof seen);
    seen.mask.kind = LC_LIST32;
    t_spec s = {.row = &row,
                .set = sets[i],
                .out = i ? "r1" : "r0",
                .opts = "steps=13 batch=4 density=0.1 lr=0.05 weight-decay=0.1 clip=0.5",
                .no_eval = true};
    ok(t_train(&w, &s));
    assert_int_equal(seen.refreshes, 4);
    assert_true(seen.left > 0 && seen.entered > 0);
    free(seen.W), free(seen.m), free(seen.v), free(seen.value);
    lc_index_free(w.ctx, &seen.mask);
  }
}

/* Item 6: a refresh that changes no mask changes nothing. */
static void test_idle_refresh(void **state) {
  static const char *const sets[] = {"interval=2 filter=4", "interval=0 filter=4"};
  for (int i = 0; i < 2; i++) {
    t_spec s = {.method = "lift",
                .set = sets[i],
                .out = i ? "i1" : "i0",
                .opts = "steps=9 batch=4 density=1 weight-decay=0.1",
                .no_eval = true};
    ok(t_train(&w, &s));
  }
  assert_true(t_same_files(t_out(&w, "i0", "lacuna_adapter.safetensors"),
                           t_out(&w, "i1", "lacuna_adapter.safetensors")));
}

/* Item 7: all entries: Adam (.9, .95, 1e-6) on the dense gradient, here in f64. */
static double *m64, *v64, *d64;
static lc_status dense_adam(void *self, lc_training *t) {
  const lc_param *p = t->adapter->delta[0]->param[0];
  const double n = (double)t->step + 1;
  double off = 0, size = 0;
  assert_int_equal(p->n, p->rows * p->cols);
  if (!m64) m64 = calloc((size_t)p->n, 8), v64 = calloc((size_t)p->n, 8), d64 = calloc((size_t)p->n, 8);
  for (int64_t k = 0; k < p->n; k++) {
    const double g = (double)p->grad[k];
    m64[k] = 0.9 * m64[k] + 0.1 * g;
    v64[k] = 0.95 * v64[k] + 0.05 * g * g;
    d64[k] -= t->lr * sqrt(1 - pow(0.95, n)) / (1 - pow(0.9, n)) * m64[k] / (sqrt(v64[k]) + 1e-6);
    off += (d64[k] - (double)p->value[k]) * (d64[k] - (double)p->value[k]);
    size += d64[k] * d64[k];
  }
  assert_true(sqrt(off / size) < 1e-6);
  return LC_OK;
}
static void test_dense(void **state) {
  lc_method row = lc_method_lift;
  row.after_step = dense_adam;
  m64 = NULL;
  t_spec s = {.row = &row,
              .set = "filter=4 interval=5",
              .out = "d",
              .no_eval = true,
              .opts = "steps=12 batch=2 density=1 targets=layers.1.self_attn.k_proj clip=0"};
  ok(t_train(&w, &s));
  free(m64), free(v64), free(d64);
}

/* Item 9: the adapter gives the trained weights from the base, bit for bit; it says how large the union is. */
static float *trained[32];
static int64_t n_trained, told[3];
static lc_status keep_weights(void *self, lc_training *t) {
  n_trained = t->adapter->n;
  for (int i = 0; i < t->adapter->n; i++) trained[i] = values(t->adapter->delta[i]->w);
  return LC_OK;
}
static int hear(void *arg, const char *kind, const struct json_t *e) {
  static const char *const names[] = {"trainable", "union", "refreshes"};
  for (int i = 0; i < 3 && !strcmp(kind, "done"); i++)
    told[i] = json_integer_value(json_object_get(e, names[i]));
  return 0;
}
static void test_result(void **state) {
  static const char *const sets[] = {"filter=4 interval=3", "r=2 filter=4 interval=3 layout=padded"};
  for (int i = 0; i < 2; i++) {
    lc_method row = lc_method_lift;
    lc_net *net;
    lc_adapter *a;
    int64_t stored = 0;
    row.finish = keep_weights;
    t_spec s = {.row = &row,
                .set = sets[i],
                .out = i ? "w1" : "w0",
                .opts = "steps=13 batch=4 density=0.05 lr=0.05 weight-decay=0.1",
                .event = hear};
    ok(t_train(&w, &s));
    ok(lc_net_new(w.model, LC_F32, &net));
    ok(lc_adapter_load(net, t_out(&w, s.out, ""), 1, i ? LC_IN_PLACE : LC_PATCH, &a));
    assert_int_equal(a->n, n_trained);
    for (int k = 0; k < a->n; k++) {
      const lc_weight *x = a->delta[k]->w;
      float *v = values(x);
      assert_memory_equal(v, trained[k], (size_t)(x->M * x->N) * 4);
      stored += a->delta[k]->ops->nonzeros(a->delta[k]);
      free(v);
      free(trained[k]);
    }
    assert_int_equal(told[2], 4);
    assert_true(told[1] > told[0]);
    if (!i) assert_int_equal(stored, told[1]);
    lc_net_free(net);
  }
}

/* Items 9 and 11, and options. */
static void test_refusals(void **state) {
  static const refusal t[] = {
      {"layout=peft r=2", "steps=1", "allow padding"},
      {"layout=peft interval=0", "steps=1 density=0.1", "allow padding"},
      {"layout=padded", "steps=1 density=0.9", "no r fits"},
      {"filter=0", "steps=1", "filter"},
      {"", "steps=1 density=0", "not in (0, 1]"},
      {"shape=blocks", "steps=1 density=0.0014", "4×4 blocks"},
  };
  refuses("lift", t, sizeof t / sizeof *t);
}

/* Item 11: the mask of a quantised weight is that of its decoded values; the change is kept aside, the file as it was. */
static void test_quantised(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *own = w.model;
  d.dtype = LC_Q4_1;
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &w.model));
  t_spec s = {.method = "lift",
              .set = "filter=4 interval=0 svd=exact",
              .out = "q",
              .opts = "steps=12 batch=8 density=0.05"};
  ok(t_train(&w, &s));
  assert_true(atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 12")) <
              atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 0")));
  lc_net *net;
  lc_adapter *a;
  const lc_rank_opts o = {.rank = 4, .exact = true};
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "q", ""), 0, LC_PATCH, &a));
  for (int k = 0; k < a->n; k++) {
    const lc_param *p = a->delta[k]->param[0];
    lc_index x;
    ok(lc_select_rank_reduced(w.ctx, p->of, &o, p->n, &x));
    assert_memory_equal(x.at, p->idx.at, (size_t)p->n * 4);
    lc_index_free(w.ctx, &x);
  }
  lc_net_free(net);
  lc_model_close(w.model);
  w.model = own;
}

/* Bytes that survive an update: 16 an entry of the mask; what has left adds 8. */
typedef struct {
  int64_t K, steps;
} bytes;
static int weigh(void *arg, const char *kind, const struct json_t *e) {
  bytes *b = arg;
  if (!strcmp(kind, "start")) b->K = json_integer_value(json_object_get(e, "trainable"));
  if (!strcmp(kind, "step") && ++b->steps == 4)
    assert_int_equal(lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE), 16 * (size_t)b->K);
  return 0;
}
static void test_bytes(void **state) {
  bytes b = {0};
  t_spec s = {.method = "lift",
              .set = "filter=4 interval=5",
              .out = "b",
              .event = weigh,
              .arg = &b,
              .opts = "steps=8 batch=4 density=0.1"};
  ok(t_train(&w, &s));
  assert_true(b.K > 1000 && b.steps == 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_refresh), TEST(test_idle_refresh), TEST(test_dense),
                                     TEST(test_result),  TEST(test_refusals),     TEST(test_quantised),
                                     TEST(test_bytes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
