/* Adapters: PEFT's own files give PEFT's logits and are written back byte for byte; switching and removing restore the base's bits; lacuna's own
 * layout; padding for PEFT's SHiRA; interference of two; and every way a directory can be wrong is one sentence and changes nothing. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static lc_ctx *ctx;
static char warned[512];

static void on_log(void *arg, lc_log_level level, const char *line) {
  if (level == LC_LOG_WARN) snprintf(warned, sizeof warned, "%s", line);
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(2, &ctx, why)) return 1;
  lc_set_log(ctx, on_log, NULL);
  return 0;
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

typedef struct { lc_model *m; lc_net *net; lc_safetensors e; const int32_t *ids; int64_t T, V; const float *expected; float *logits; } golden;

static golden open_golden(const char *base, const char *adapter) {
  golden g;
  ok(lc_model_open(ctx, lc_tiny_path("golden", base), &g.m));
  ok(lc_net_new(g.m, LC_F32, &g.net));
  ok(lc_safetensors_open(ctx, lc_tiny_path(adapter, "expected.safetensors"), &g.e));
  const lc_tensor *ids = lc_safetensors_find(&g.e, "ids"), *logits = lc_safetensors_find(&g.e, "logits");
  g.ids = ids->data;
  g.T = lc_tensor_count(ids);
  g.V = lc_tensor_count(logits) / g.T;
  g.expected = logits->data;
  g.logits = malloc((size_t)(g.T * g.V) * sizeof *g.logits);
  return g;
}

static void close_golden(golden *g) {
  free(g->logits);
  lc_safetensors_close(ctx, &g->e);
  lc_net_free(g->net);
  lc_model_close(g->m);
}

static const float *logits_of(golden *g) {
  ok(lc_tiny_logits(g->net, g->ids, g->T, g->logits));
  return g->logits;
}

static const char *const adapters[][2] = {
    {"lora", "llama-gqa"}, {"rslora", "llama-gqa"}, {"shira", "llama-gqa"}, {"gpt2-lora", "gpt2"}, {"lora-run", "llama-gqa"}};

/* ---- PEFT's own files ---- */

static void test_peft_logits(void **state) {
  for (int i = 0; i < 4; i++) {
    char dir[128];
    snprintf(dir, sizeof dir, "golden/adapters/%s", adapters[i][0]);
    golden g = open_golden(adapters[i][1], dir);
    const size_t n = (size_t)(g.T * g.V);
    float *base = malloc(n * sizeof *base);
    memcpy(base, logits_of(&g), n * sizeof *base);
    for (lc_apply apply = LC_PATCH; apply <= LC_ASIDE; apply++) {
      lc_adapter *a;
      ok(lc_adapter_load(g.net, dir, 1, apply, &a));
      double e = lc_tiny_error(logits_of(&g), g.expected, (int64_t)n);
      if (!(e < 2e-5)) fail_msg("%s, mode %d: relative error %g", dir, (int)apply, e);
      ok(lc_adapter_set(a, 0, apply));
      assert_memory_equal(logits_of(&g), base, n * sizeof *base);
      ok(lc_adapter_set(a, 1, apply));
      assert_true(lc_tiny_error(logits_of(&g), g.expected, (int64_t)n) < 2e-5);
      ok(lc_adapter_remove(a));
      assert_memory_equal(logits_of(&g), base, n * sizeof *base);
    }
    free(base);
    close_golden(&g);
  }
}

static void same_tensors(const char *a, const char *b) {
  lc_safetensors x, y;
  ok(lc_safetensors_open(ctx, lc_tiny_path(a, "adapter_model.safetensors"), &x));
  ok(lc_safetensors_open(ctx, lc_tiny_path(b, "adapter_model.safetensors"), &y));
  assert_int_equal(x.n, y.n);
  assert_string_equal(lc_safetensors_meta(&y, "format"), "pt");
  for (int i = 0; i < x.n; i++) {
    size_t bytes = 0;
    const lc_tensor *s = &x.tensor[i].t, *t = &y.tensor[i].t;
    assert_string_equal(x.tensor[i].name, y.tensor[i].name);
    assert_int_equal(s->dtype, t->dtype);
    assert_int_equal(s->ndim, t->ndim);
    for (int k = 0; k < s->ndim; k++) assert_int_equal(s->shape[k], t->shape[k]);
    assert_true(lc_dtype_bytes(s->dtype, lc_tensor_count(s), &bytes));
    if (!strstr(x.tensor[i].name, "shira")) assert_memory_equal(s->data, t->data, bytes);
  }
  lc_safetensors_close(ctx, &x);
  lc_safetensors_close(ctx, &y);
}

/* Loaded and saved again: the same tensors, and an equivalent configuration. SHiRA's positions come back in row-major order. */
static void test_round_trip(void **state) {
  for (int i = 0; i < 5; i++) {
    char dir[128];
    snprintf(dir, sizeof dir, "golden/adapters/%s", adapters[i][0]);
    golden g = open_golden(adapters[i][1], i < 4 ? dir : "golden/adapters/lora");
    char *out = lc_tiny_dir();
    lc_adapter *a;
    ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &a));
    ok(lc_adapter_save(a, i == 2 ? LC_LAYOUT_PEFT_SHIRA : LC_LAYOUT_PEFT_LORA, out, &(lc_adapter_meta){.method = "test"}));
    same_tensors(dir, out);
    json_t *x, *y;
    ok(lc_json_read(ctx, lc_tiny_path(dir, "adapter_config.json"), &x));
    ok(lc_json_read(ctx, lc_tiny_path(out, "adapter_config.json"), &y));
    assert_true(json_equal(x, y));
    json_decref(x);
    json_decref(y);
    if (i < 4) {
      ok(lc_adapter_remove(a));
      ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &a));
      assert_true(lc_tiny_error(logits_of(&g), g.expected, g.T * g.V) < 2e-5);
    }
    ok(lc_remove_tree(ctx, out));
    free(out);
    close_golden(&g);
  }
}

/* The configuration that is written for an adapter made here has PEFT's keys: those of a file that PEFT wrote. */
static void check_keys(const char *written, const char *peft) {
  json_t *x, *y, *v;
  const char *key;
  ok(lc_json_read(ctx, written, &x));
  ok(lc_json_read(ctx, peft, &y));
  json_object_foreach(y, key, v) if (!json_object_get(x, key)) fail_msg("%s lacks '%s'", written, key);
  json_object_foreach(x, key, v) if (!json_object_get(y, key)) fail_msg("%s has '%s'", written, key);
  json_decref(x);
  json_decref(y);
}

static void test_lora_made_here(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/lora");
  lc_weight **w;
  int n;
  char *out = lc_tiny_dir();
  lc_adapter *a, *b;
  ok(lc_adapter_new(g.net, "mine", &a));
  ok(lc_targets(g.net, "q_proj,down_proj", &w, &n));
  for (int i = 0; i < n; i++) {
    lc_lora_opts o = {.rank = 2 + i % 3, .alpha = (float)(4 + i), .rslora = i % 2, .seed = 5};
    float *B = malloc((size_t)(w[i]->M * o.rank) * sizeof *B);
    const lc_rng rng = {.seed = 9, .tensor = w[i]->id, .purpose = LC_RNG_TEST};
    lc_rng_normal_fill(&rng, 0, w[i]->M * o.rank, B);
    lc_delta *d;
    ok(lc_delta_lora_new(ctx, w[i], &o, NULL, B, false, &d));
    ok(lc_weight_attach(ctx, w[i], d));
    ok(lc_adapter_add(a, d));
    free(B);
  }
  lc_free(ctx, w);
  float *before = malloc((size_t)(g.T * g.V) * sizeof *before);
  memcpy(before, logits_of(&g), (size_t)(g.T * g.V) * sizeof *before);
  ok(lc_adapter_save(a, LC_LAYOUT_PEFT_LORA, out, &(lc_adapter_meta){.method = "lora", .base_name = "b", .targets = "q_proj,down_proj"}));
  check_keys(lc_tiny_path(out, "adapter_config.json"), "golden/adapters/lora/adapter_config.json");
  json_t *c;
  ok(lc_json_read(ctx, lc_tiny_path(out, "adapter_config.json"), &c));
  const json_t *targets = json_object_get(c, "target_modules");
  assert_int_equal(json_array_size(targets), 2);
  assert_string_equal(json_string_value(json_array_get(targets, 0)), "down_proj");
  assert_int_equal(json_integer_value(json_object_get(c, "r")), 2);
  assert_true(json_is_false(json_object_get(c, "use_rslora")));
  json_decref(c);
  ok(lc_adapter_remove(a));
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b)); /* mixed ranks and scalings came through the patterns */
  assert_true(lc_tiny_error(logits_of(&g), before, g.T * g.V) < 1e-6);
  free(before);
  ok(lc_remove_tree(ctx, out));
  free(out);
  close_golden(&g);
}

/* ---- sparse adapters made here ---- */

/* K random positions and values on every target. */
static lc_adapter *sparse(lc_net *net, const char *targets, int64_t K, uint32_t seed) {
  lc_weight **w;
  int n;
  lc_adapter *a;
  ok(lc_adapter_new(net, "sparse", &a));
  ok(lc_targets(net, targets, &w, &n));
  for (int i = 0; i < n; i++) {
    const lc_rng rng = {.seed = seed, .tensor = w[i]->id, .purpose = LC_RNG_TEST};
    int64_t *flat = malloc((size_t)K * sizeof *flat);
    float *value = malloc((size_t)K * sizeof *value);
    lc_index idx;
    lc_delta *d;
    ok(lc_rng_choose(ctx, &rng, w[i]->M * w[i]->N, K, flat));
    lc_rng_normal_fill(&rng, 1u << 30, K, value);
    ok(lc_index_new(ctx, w[i]->M, w[i]->N, flat, K, &idx));
    ok(lc_delta_sparse_new(ctx, w[i], &idx, value, false, &d));
    ok(lc_weight_attach(ctx, w[i], d));
    ok(lc_adapter_add(a, d));
    free(flat);
    free(value);
  }
  lc_free(ctx, w);
  return a;
}

static void test_native(void **state) {
  golden g = open_golden("gpt2", "golden/adapters/gpt2-lora");
  char *out = lc_tiny_dir();
  lc_adapter *a = sparse(g.net, "all-linear", 37, 3), *b;
  const size_t bytes = (size_t)(g.T * g.V) * sizeof(float);
  float *before = malloc(bytes);
  memcpy(before, logits_of(&g), bytes);
  assert_non_null(lc_adapter_shira_refusal(a));
  assert_int_equal(lc_adapter_save(a, LC_LAYOUT_PEFT_SHIRA, out, &(lc_adapter_meta){.method = "shira"}), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "Conv1D"));
  assert_false(lc_path_exists(lc_tiny_path(out, "adapter_config.json")));
  ok(lc_adapter_save(a, LC_LAYOUT_NATIVE, out, &(lc_adapter_meta){.method = "spiel", .targets = "all-linear", .seed = 3}));
  ok(lc_adapter_remove(a));
  warned[0] = 0;
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b));
  assert_string_equal(warned, "");
  assert_memory_equal(logits_of(&g), before, bytes);
  ok(lc_adapter_remove(b));
  json_t *j; /* another base: a word of warning */
  ok(lc_json_read(ctx, lc_tiny_path(out, "lacuna_adapter.json"), &j));
  assert_string_equal(json_string_value(json_object_get(j, "method")), "spiel");
  json_object_set_new(j, "base_fingerprint", json_string("0123456789abcdef"));
  ok(lc_json_write(ctx, lc_tiny_path(out, "lacuna_adapter.json"), j));
  json_decref(j);
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b));
  assert_non_null(strstr(warned, "0123456789abcdef"));
  free(before);
  ok(lc_remove_tree(ctx, out));
  free(out);
  close_golden(&g);
}

/* 1 % of a model is 4 bytes a value and less than 1.5 a position. */
static void test_native_size(void **state) {
  char *dir = lc_tiny_dir(), *out = lc_tiny_dir();
  lc_tiny t = LC_TINY_LLAMA;
  t.C = 256, t.H = 8, t.D = 32, t.F = 512;
  lc_model *m;
  lc_net *net;
  ok(lc_tiny_hf(ctx, &t, dir));
  ok(lc_model_open(ctx, dir, &m));
  ok(lc_net_new(m, LC_F32, &net));
  lc_adapter *a = sparse(net, "down_proj,up_proj,gate_proj", 1311, 4); /* 1 % of 512×256 */
  ok(lc_adapter_save(a, LC_LAYOUT_NATIVE, out, &(lc_adapter_meta){.method = "spiel"}));
  lc_safetensors s;
  size_t gaps = 0;
  ok(lc_safetensors_open(ctx, lc_tiny_path(out, "lacuna_adapter.safetensors"), &s));
  for (int i = 0; i < s.n; i++)
    if (s.tensor[i].t.dtype == LC_U8) gaps += (size_t)s.tensor[i].t.shape[0];
  lc_safetensors_close(ctx, &s);
  assert_in_range(gaps, 6 * 1311, 6 * 1311 * 3 / 2);
  lc_net_free(net);
  lc_model_close(m);
  ok(lc_remove_tree(ctx, dir));
  ok(lc_remove_tree(ctx, out));
  free(dir);
  free(out);
}

static void test_shira_padding(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/shira");
  char *out = lc_tiny_dir();
  lc_adapter *a = sparse(g.net, "k_proj,up_proj", 101, 8), *b;
  const size_t bytes = (size_t)(g.T * g.V) * sizeof(float);
  float *before = malloc(bytes);
  memcpy(before, logits_of(&g), bytes);
  ok(lc_adapter_save(a, LC_LAYOUT_PEFT_SHIRA, out, &(lc_adapter_meta){.method = "shira", .mask_type = "wm", .seed = 3}));
  check_keys(lc_tiny_path(out, "adapter_config.json"), "golden/adapters/shira/adapter_config.json");
  json_t *c;
  ok(lc_json_read(ctx, lc_tiny_path(out, "adapter_config.json"), &c));
  const int64_t r = json_integer_value(json_object_get(c, "r"));
  assert_string_equal(json_string_value(json_object_get(c, "mask_type")), "random");
  json_decref(c);
  int64_t least = 1;
  for (int i = 0; i < a->n; i++) least = lc_max64(least, lc_ceil_div(101, a->delta[i]->w->M + a->delta[i]->w->N));
  assert_int_equal(r, least);
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, lc_tiny_path(out, "adapter_model.safetensors"), &s));
  assert_int_equal(s.n, 2 * a->n);
  for (int i = 0; i < a->n; i++) {
    const lc_weight *w = a->delta[i]->w;
    const int64_t K = r * (w->M + w->N);
    char name[256];
    snprintf(name, sizeof name, "base_model.model.%s.shira_indices", w->module);
    const lc_tensor *x = lc_safetensors_find(&s, name);
    assert_non_null(x);
    assert_int_equal(x->dtype, LC_I32);
    assert_int_equal(x->shape[0], 2);
    assert_int_equal(x->shape[1], K);
    const int32_t *at = x->data;
    for (int64_t k = 1; k < K; k++) assert_true(at[k - 1] * w->N + at[K + k - 1] < at[k] * w->N + at[K + k]); /* row-major, distinct */
  }
  lc_safetensors_close(ctx, &s);
  ok(lc_adapter_remove(a));
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b));
  assert_true(lc_tiny_error(logits_of(&g), before, g.T * g.V) < 1e-6);
  free(before);
  ok(lc_remove_tree(ctx, out));
  free(out);
  close_golden(&g);
}

/* ---- switching ---- */

static uint64_t weights_sum(lc_net *net) { /* of what the products would read */
  uint64_t h = 1469598103934665603u;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    if (w->kind != LC_KIND_LINEAR) continue;
    const void *tile;
    int64_t ld;
    ok(lc_weight_tile(ctx, 0, w, (lc_rect){0, w->M, 0, w->N}, LC_F32, &tile, &ld));
    for (int64_t r = 0; r < w->M; r++)
      for (int64_t c = 0; c < w->N; c++) {
        uint32_t bits;
        memcpy(&bits, (const float *)tile + r * ld + c, 4);
        h = (h ^ bits) * 1099511628211u;
      }
  }
  return h;
}

static void test_thousand_switches(void **state) {
  static const lc_dtype dtypes[] = {LC_F32, LC_BF16, LC_F16};
  for (int t = 0; t < 3; t++) {
    char *dir = lc_tiny_dir();
    lc_tiny tiny = LC_TINY_LLAMA;
    tiny.dtype = dtypes[t];
    lc_model *m;
    lc_net *net;
    ok(lc_tiny_hf(ctx, &tiny, dir));
    ok(lc_model_open(ctx, dir, &m));
    ok(lc_net_new(m, LC_F32, &net));
    const uint64_t base = weights_sum(net);
    lc_adapter *a[3] = {sparse(net, "q_proj", 64, 1), sparse(net, "q_proj,v_proj", 64, 2), sparse(net, "q_proj", 64, 3)};
    for (int i = 0; i < 3; i++) ok(lc_adapter_set(a[i], 0, LC_IN_PLACE));
    const lc_rng rng = {.seed = 77, .purpose = LC_RNG_TEST};
    for (int s = 0; s < 1000; s++) {
      const int i = (int)lc_rng_below(&rng, (uint64_t)(2 * s), 3);
      ok(lc_adapter_set(a[i], lc_rng_uniform(&rng, (uint64_t)(2 * s + 1)) * 1.25f, LC_IN_PLACE));
      if (s % 100 != 99) continue;
      assert_true(weights_sum(net) != base);
      for (int k = 0; k < 3; k++) ok(lc_adapter_set(a[k], 0, LC_IN_PLACE));
      assert_true(weights_sum(net) == base);
    }
    for (int i = 0; i < 3; i++) ok(lc_adapter_set(a[i], 1, LC_IN_PLACE));
    for (int i = 0; i < 3; i++) ok(lc_adapter_remove(a[i]));
    assert_true(weights_sum(net) == base);
    for (int i = 0; i < net->weights.n; i++) assert_ptr_equal(net->weights.w[i].form, net->weights.w[i].base);
    lc_net_free(net);
    lc_model_close(m);
    ok(lc_remove_tree(ctx, dir));
    free(dir);
  }
}

/* Two adapters add; with disjoint positions their order does not matter. */
static void test_two_adapters(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/shira");
  const int64_t n = g.T * g.V;
  float *both = malloc((size_t)n * sizeof *both);
  lc_adapter *a = sparse(g.net, "all-linear", 50, 1), *b = sparse(g.net, "all-linear", 50, 2);
  memcpy(both, logits_of(&g), (size_t)n * sizeof *both);
  for (int i = 0; i < a->n; i++) { /* sums, made by hand in f32, in one delta */
    const lc_param *x = a->delta[i]->param[0], *y = b->delta[i]->param[0];
    float *dense = calloc((size_t)(x->rows * x->cols), sizeof *dense);
    ok(lc_delta_sparse.patch(ctx, a->delta[i], (lc_rect){0, x->rows, 0, x->cols}, dense, x->cols));
    ok(lc_delta_sparse.patch(ctx, b->delta[i], (lc_rect){0, x->rows, 0, x->cols}, dense, x->cols));
    for (int64_t k = 0; k < x->n; k++) {
      const int64_t f = lc_index_at(&x->idx, k);
      const float other = lc_index_has(&y->idx, f) ? y->value[lc_index_lower(&y->idx, 0, f)] : 0;
      assert_true(fabsf(dense[f] - (x->value[k] + other)) <= 1e-6f * fabsf(dense[f]) + 1e-12f);
    }
    free(dense);
  }
  ok(lc_adapter_remove(a));
  lc_adapter *c = sparse(g.net, "all-linear", 50, 1); /* now the other way round */
  assert_true(lc_tiny_error(logits_of(&g), both, n) < 1e-6);
  ok(lc_adapter_set(c, 0.5f, LC_IN_PLACE)); /* one in place, one as a patch */
  ok(lc_adapter_set(c, 1, LC_IN_PLACE));
  assert_true(lc_tiny_error(logits_of(&g), both, n) < 1e-6);
  free(both);
  close_golden(&g);
}

/* ---- interference ---- */

static void test_overlap(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/shira");
  lc_adapter *a = sparse(g.net, "q_proj,down_proj", 90, 1), *b = sparse(g.net, "q_proj,up_proj,down_proj", 70, 2);
  lc_overlap_row *row;
  int n;
  ok(lc_adapter_overlap(a, b, &row, &n));
  assert_int_equal(n, a->n);
  for (int i = 0; i < n; i++) {
    const lc_weight *w = a->delta[i]->w;
    const int64_t M = w->M, N = w->N;
    float *x = calloc((size_t)(M * N), 4), *y = calloc((size_t)(M * N), 4);
    const lc_delta *other = NULL;
    for (int k = 0; k < b->n; k++)
      if (b->delta[k]->w == w) other = b->delta[k];
    assert_non_null(other);
    assert_string_equal(row[i].weight, w->name);
    ok(lc_delta_sparse.patch(ctx, a->delta[i], (lc_rect){0, M, 0, N}, x, N));
    ok(lc_delta_sparse.patch(ctx, other, (lc_rect){0, M, 0, N}, y, N));
    double squares = 0;
    int64_t nonzero = 0, both = 0;
    for (int64_t p = 0; p < N; p++)
      for (int64_t q = 0; q < N; q++) {
        double sum = 0;
        for (int64_t r = 0; r < M; r++) sum += (double)x[r * N + p] * (double)y[r * N + q];
        squares += sum * sum;
        nonzero += sum != 0;
      }
    for (int64_t k = 0; k < M * N; k++) both += x[k] != 0 && y[k] != 0;
    assert_true(fabs(row[i].awom - sqrt(squares)) < 1e-9 * sqrt(squares) + 1e-12);
    assert_true(fabs(row[i].awor - (1 - (double)nonzero / ((double)N * (double)N))) < 1e-12);
    assert_int_equal(row[i].both, both);
    free(x);
    free(y);
  }
  lc_free(ctx, row);
  close_golden(&g);
}

/* ---- what can be wrong ---- */

typedef struct { const char *name, *from; void (*edit)(const char *dir); const char *says; } bad;

static void config_edit(const char *dir, const char *key, json_t *value) {
  json_t *c;
  ok(lc_json_read(ctx, lc_tiny_path(dir, "adapter_config.json"), &c));
  if (value) json_object_set_new(c, key, value);
  else json_object_del(c, key);
  ok(lc_json_write(ctx, lc_tiny_path(dir, "adapter_config.json"), c));
  json_decref(c);
}

/* Rewrites the tensors: those whose name ends in `suffix` go through fn (which may rename, reshape, change data); fn returns false to drop. */
typedef bool (*tensor_edit)(lc_named_tensor *, void **owned);
static void tensors_edit(const char *dir, const char *suffix, tensor_edit fn) {
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, lc_tiny_path(dir, "adapter_model.safetensors"), &s));
  lc_named_tensor *t = calloc((size_t)s.n, sizeof *t);
  void **owned = calloc((size_t)(2 * s.n), sizeof *owned);
  const int before = s.n;
  int n = 0;
  for (int i = 0; i < s.n; i++) {
    t[n] = s.tensor[i];
    const size_t len = strlen(t[n].name), k = strlen(suffix);
    if (len < k || strcmp(t[n].name + len - k, suffix) || fn(&t[n], &owned[2 * i])) n++;
  }
  char *tmp = strdup(lc_tiny_path(dir, "new.safetensors"));
  ok(lc_safetensors_write(ctx, tmp, t, n));
  lc_safetensors_close(ctx, &s);
  assert_int_equal(rename(tmp, lc_tiny_path(dir, "adapter_model.safetensors")), 0);
  for (int i = 0; i < 2 * before; i++) free(owned[i]);
  free(tmp);
  free(owned);
  free(t);
}

static bool drop(lc_named_tensor *t, void **owned) { return false; }

static void *own(lc_named_tensor *t, void **owned) {
  size_t bytes;
  assert_true(lc_dtype_bytes(t->t.dtype, lc_tensor_count(&t->t), &bytes));
  owned[0] = malloc(bytes);
  memcpy(owned[0], t->t.data, bytes);
  t->t.data = owned[0];
  return owned[0];
}

static bool nan_inside(lc_named_tensor *t, void **owned) {
  ((float *)own(t, owned))[3] = NAN;
  return true;
}
static bool rename_to(lc_named_tensor *t, void **owned, const char *name) {
  owned[1] = strdup(name);
  t->name = owned[1];
  return true;
}
static bool rename_module(lc_named_tensor *t, void **owned) {
  return rename_to(t, owned, "base_model.model.model.layers.0.a.q_proj.lora_A.weight");
}
static bool rename_dora(lc_named_tensor *t, void **owned) {
  return rename_to(t, owned, "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector");
}
static bool rename_prefix(lc_named_tensor *t, void **owned) { return rename_to(t, owned, "model.layers.0.self_attn.q_proj.lora_A.weight"); }
static bool flatten(lc_named_tensor *t, void **owned) {
  t->t.shape[0] *= t->t.shape[1];
  t->t.ndim = 1;
  return true;
}
static bool turn(lc_named_tensor *t, void **owned) { /* [r, in] -> [in, r] */
  int64_t r = t->t.shape[0];
  t->t.shape[0] = t->t.shape[1];
  t->t.shape[1] = r;
  return true;
}
static bool as_ints(lc_named_tensor *t, void **owned) {
  t->t.dtype = LC_I32;
  return true;
}
static bool row_out(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[5] = 1 << 20;
  return true;
}
static bool row_negative(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[5] = -1;
  return true;
}
static bool column_out(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[t->t.shape[1] + 2] = 1 << 20;
  return true;
}

#define Q0 "layers.0.self_attn.q_proj"
static void no_r(const char *d) { config_edit(d, "r", json_integer(0)); }
static void wrong_r(const char *d) { config_edit(d, "r", json_integer(5)); }
static void dora(const char *d) { config_edit(d, "use_dora", json_true()); }
static void lora_bias(const char *d) { config_edit(d, "lora_bias", json_true()); }
static void bias(const char *d) { config_edit(d, "bias", json_string("lora_only")); }
static void to_save(const char *d) { config_edit(d, "modules_to_save", json_pack("[s]", "lm_head")); }
static void pissa(const char *d) { config_edit(d, "init_lora_weights", json_string("pissa")); }
static void kasa(const char *d) { config_edit(d, "kasa_config", json_pack("{s:i}", "a", 1)); }
static void alora(const char *d) { config_edit(d, "alora_invocation_tokens", json_pack("[i]", 5)); }
static void qalora(const char *d) { config_edit(d, "use_qalora", json_true()); }
static void other_type(const char *d) { config_edit(d, "peft_type", json_string("IA3")); }
static void no_type(const char *d) { config_edit(d, "peft_type", NULL); }
static void no_match(const char *d) { config_edit(d, "target_modules", json_pack("[s]", "query")); }
static void fewer(const char *d) { config_edit(d, "target_modules", json_pack("[s]", "q_proj")); }
static void bad_regex(const char *d) { config_edit(d, "target_modules", json_string("(q_proj")); }
static void no_b(const char *d) { tensors_edit(d, Q0 ".lora_B.weight", drop); }
static void no_both(const char *d) {
  no_b(d);
  tensors_edit(d, Q0 ".lora_A.weight", drop);
}
static void nan_a(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", nan_inside); }
static void no_module(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", rename_module); }
static void has_dora(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", rename_dora); }
static void no_prefix(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", rename_prefix); }
static void turned(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", turn); }
static void flat_b(const char *d) { tensors_edit(d, Q0 ".lora_B.weight", flatten); }
static void ints(const char *d) { tensors_edit(d, Q0 ".lora_A.weight", as_ints); }
static void truncated(const char *d) {
  char *data;
  size_t n;
  ok(lc_read_file(ctx, lc_tiny_path(d, "adapter_model.safetensors"), 1 << 24, &data, &n));
  ok(lc_write_file(ctx, lc_tiny_path(d, "adapter_model.safetensors"), data, n - 9));
  lc_free(ctx, data);
}
static void pickle(const char *d) { assert_int_equal(rename(lc_tiny_path(d, "adapter_model.safetensors"), lc_tiny_path(d, "adapter_model.bin")), 0); }
static void missing(const char *d) { assert_int_equal(remove(lc_tiny_path(d, "adapter_model.safetensors")), 0); }
static void nothing(const char *d) { assert_int_equal(remove(lc_tiny_path(d, "adapter_config.json")), 0); }
static void s_row(const char *d) { tensors_edit(d, Q0 ".shira_indices", row_out); }
static void s_negative(const char *d) { tensors_edit(d, Q0 ".shira_indices", row_negative); }
static void s_column(const char *d) { tensors_edit(d, Q0 ".shira_indices", column_out); }
static void s_half(const char *d) { tensors_edit(d, Q0 ".shira_indices", drop); }
static void s_shape(const char *d) { tensors_edit(d, Q0 ".shira_indices", flatten); }
static void s_big(const char *d) { config_edit(d, "r", json_integer(1 << 20)); }

static const bad cases[] = {
    {"r 0", "lora", no_r, "1 to 2147483647"},
    {"another r", "lora", wrong_r, "have rank 4, the config says 5"},
    {"DoRA", "lora", dora, "use_dora"},
    {"lora_bias", "lora", lora_bias, "lora_bias"},
    {"bias", "lora", bias, "bias to 'lora_only'"},
    {"modules_to_save", "lora", to_save, "modules_to_save"},
    {"PiSSA", "lora", pissa, "'pissa'"},
    {"KaSA", "lora", kasa, "kasa_config"},
    {"aLoRA", "lora", alora, "alora_invocation_tokens"},
    {"QA-LoRA", "lora", qalora, "use_qalora"},
    {"another kind", "lora", other_type, "'IA3'"},
    {"no kind", "lora", no_type, "no peft_type"},
    {"targets nothing", "lora", no_match, "does not target"},
    {"targets fewer", "lora", fewer, "does not target"},
    {"bad expression", "lora", bad_regex, "regular expression"},
    {"no B", "lora", no_b, "beside it"},
    {"a target without tensors", "lora", no_both, "no tensors for it"},
    {"NaN", "lora", nan_a, "no finite number, at place 3"},
    {"no such module", "lora", no_module, "has no module 'model.layers.0.a.q_proj'"},
    {"magnitude vector", "lora", has_dora, "belongs to DoRA"},
    {"no prefix", "lora", no_prefix, "does not begin with 'base_model.model.'"},
    {"turned", "lora", turned, "columns, the module"},
    {"flat B", "lora", flat_b, "rows, the module"},
    {"integers", "lora", ints, "f32, f16 or bf16"},
    {"truncated", "lora", truncated, "adapter_model.safetensors"},
    {"pickle", "lora", pickle, "pickle"},
    {"no tensors", "lora", missing, "missing"},
    {"no adapter", "lora", nothing, "not an adapter"},
    {"SHiRA: another r", "shira", wrong_r, "values, but r = 5 makes"},
    {"SHiRA: r 0", "shira", no_r, "1 to 2147483647"},
    {"SHiRA: huge r", "shira", s_big, "values, but r = 1048576 makes"},
    {"SHiRA: row", "shira", s_row, "names row 1048576"},
    {"SHiRA: negative", "shira", s_negative, "names row -1"},
    {"SHiRA: column", "shira", s_column, "names column 1048576"},
    {"SHiRA: half", "shira", s_half, "beside it"},
    {"SHiRA: shape", "shira", s_shape, "is not 2×"},
    {"SHiRA: modules_to_save", "shira", to_save, "modules_to_save"},
};

static char *copy_adapter(const char *name) {
  char *dir = lc_tiny_dir(), from[128];
  const char *const file[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(from, sizeof from, "golden/adapters/%s/%s", name, file[i]);
    ok(lc_copy_file(ctx, from, lc_tiny_path(dir, file[i])));
  }
  return dir;
}

static void refused(lc_net *net, const char *what, const char *dir, const char *says) {
  lc_adapter *a;
  const uint64_t before = weights_sum(net);
  const size_t bytes = lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE);
  lc_error_clear(ctx);
  if (lc_adapter_load(net, dir, 1, LC_IN_PLACE, &a) != LC_FAILED) fail_msg("%s: was read", what);
  if (!strstr(lc_error(ctx), says)) fail_msg("%s: says '%s', expected '%s'", what, lc_error(ctx), says);
  assert_null(a);
  assert_int_equal(net->n_adapter, 0);
  for (int k = 0; k < net->weights.n; k++) assert_int_equal(net->weights.w[k].n_delta, 0);
  assert_true(weights_sum(net) == before);
  assert_true(lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE) <= bytes + 64); /* the net's own list may be new */
}

static void test_refusals(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/lora");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *dir = copy_adapter(cases[i].from);
    cases[i].edit(dir);
    refused(g.net, cases[i].name, dir, cases[i].says);
    ok(lc_remove_tree(ctx, dir));
    free(dir);
  }
  refused(g.net, "no directory", "golden/adapters/none", "is a directory");
  refused(g.net, "another model", "golden/adapters/gpt2-lora", "has no module");
  close_golden(&g);
}

/* Positions that repeat are added, in whatever order they stand; other integer types of indices and half-precision values are read. */
static bool repeat(lc_named_tensor *t, void **owned) {
  int32_t *x = own(t, owned);
  const int64_t K = t->t.shape[1];
  x[1] = x[0];
  x[K + 1] = x[K];
  return true;
}
static bool as_floats(lc_named_tensor *t, void **owned) {
  int32_t *x = own(t, owned);
  for (int64_t k = 0; k < lc_tensor_count(&t->t); k++) {
    const float f = (float)x[k];
    memcpy(&x[k], &f, 4);
  }
  t->t.dtype = LC_F32;
  return true;
}
static bool as_bf16(lc_named_tensor *t, void **owned) {
  const int64_t n = lc_tensor_count(&t->t);
  uint16_t *h = owned[0] = malloc((size_t)n * 2);
  for (int64_t k = 0; k < n; k++) h[k] = lc_f32_to_bf16(((const float *)t->t.data)[k]);
  t->t.data = h;
  t->t.dtype = LC_BF16;
  return true;
}

static void test_lenient_reading(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/shira");
  lc_adapter *a, *b;
  char *dir = copy_adapter("shira");
  ok(lc_adapter_load(g.net, "golden/adapters/shira", 1, LC_PATCH, &a));
  tensors_edit(dir, Q0 ".shira_indices", repeat);
  tensors_edit(dir, "k_proj.shira_indices", as_floats);
  tensors_edit(dir, "v_proj.shira_weight", as_bf16);
  ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &b));
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, "golden/adapters/shira/adapter_model.safetensors", &s));
  const lc_tensor *x = lc_safetensors_find(&s, "base_model.model.model." Q0 ".shira_indices");
  const lc_tensor *v = lc_safetensors_find(&s, "base_model.model.model." Q0 ".shira_weight");
  const int64_t K = x->shape[1];
  for (int i = 0; i < a->n; i++) {
    const lc_param *p = a->delta[i]->param[0], *q = b->delta[i]->param[0];
    if (strstr(p->name, Q0)) {
      const int64_t at = ((const int32_t *)x->data)[0] * p->cols + ((const int32_t *)x->data)[K];
      assert_int_equal(q->n, p->n - 1);
      assert_true(q->value[lc_index_lower(&q->idx, 0, at)] == ((const float *)v->data)[0] + ((const float *)v->data)[1]);
      continue;
    }
    assert_int_equal(q->n, p->n);
    for (int64_t k = 0; k < p->n; k++) {
      assert_int_equal(lc_index_at(&p->idx, k), lc_index_at(&q->idx, k));
      const float want = strstr(p->name, "v_proj") ? lc_bf16_to_f32(lc_f32_to_bf16(p->value[k])) : p->value[k];
      assert_true(q->value[k] == want);
    }
  }
  lc_safetensors_close(ctx, &s);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
  close_golden(&g);
}

/* lacuna's own file, damaged. */
static void test_native_refusals(void **state) {
  golden g = open_golden("llama-gqa", "golden/adapters/shira");
  char *dir = lc_tiny_dir();
  lc_adapter *a = sparse(g.net, "q_proj", 40, 5);
  ok(lc_adapter_save(a, LC_LAYOUT_NATIVE, dir, &(lc_adapter_meta){.method = "spiel"}));
  ok(lc_adapter_remove(a));
  char *path = strdup(lc_tiny_path(dir, "lacuna_adapter.json"));
  json_t *good, *j;
  ok(lc_json_read(ctx, path, &good));
  static const struct { const char *key; int item; json_int_t value; const char *says; } edits[] = {
      {"version", -1, 2, "version 2"}, {"weights", 0, 7, "there,"}, {"weights", 2, 41, "are not 41 f32"}, {"weights", 2, 0, "cannot have 0"},
      {"weights", 2, 39, "are not 39 f32"}};
  for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
    j = json_deep_copy(good);
    if (edits[i].item < 0) json_object_set_new(j, edits[i].key, json_integer(edits[i].value));
    else json_array_set_new(json_object_get(json_object_get(j, "weights"), "model." Q0), (size_t)edits[i].item, json_integer(edits[i].value));
    ok(lc_json_write(ctx, path, j));
    json_decref(j);
    refused(g.net, edits[i].says, dir, edits[i].says);
  }
  j = json_deep_copy(good);
  json_object_set_new(json_object_get(j, "weights"), "model.layers.0.mlp.up_proj", json_pack("[i,i,i]", 1, 1, 1));
  ok(lc_json_write(ctx, path, j));
  json_decref(j);
  refused(g.net, "more weights", dir, "names 3 weights");
  ok(lc_json_write(ctx, path, good));
  json_decref(good);
  ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &a));
  free(path);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
  close_golden(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_peft_logits),      cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_lora_made_here),
      cmocka_unit_test(test_native),           cmocka_unit_test(test_native_size),   cmocka_unit_test(test_shira_padding),
      cmocka_unit_test(test_thousand_switches), cmocka_unit_test(test_two_adapters), cmocka_unit_test(test_overlap),
      cmocka_unit_test(test_refusals),         cmocka_unit_test(test_lenient_reading), cmocka_unit_test(test_native_refusals),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
