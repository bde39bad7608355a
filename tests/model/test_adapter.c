/* Adapters: PEFT's own files give PEFT's logits and are written back byte for byte; switching and removing
 * restore the base's bits; lacuna's own layout; padding for PEFT's SHiRA; interference of two. */
#include "support/adapter_support.h"
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

static const char *const adapters[][2] = {{"lora", "llama-gqa"},
                                          {"rslora", "llama-gqa"},
                                          {"shira", "llama-gqa"},
                                          {"gpt2-lora", "gpt2"},
                                          {"lora-run", "llama-gqa"}};

/* ---- PEFT's own files ---- */

static void test_peft_logits(void **state) {
  for (int i = 0; i < 4; i++) {
    char dir[128];
    snprintf(dir, sizeof dir, "golden/adapters/%s", adapters[i][0]);
    t_golden g = t_golden_open(ctx, adapters[i][1], dir);
    const size_t n = (size_t)(g.T * g.V);
    float *base = malloc(n * sizeof *base);
    memcpy(base, t_golden_logits(ctx, &g), n * sizeof *base);
    for (lc_apply apply = LC_PATCH; apply <= LC_ASIDE; apply++) {
      lc_adapter *a;
      ok(lc_adapter_load(g.net, dir, 1, apply, &a));
      double e = lc_tiny_error(t_golden_logits(ctx, &g), g.expected, (int64_t)n);
      if (!(e < 2e-5)) fail_msg("%s, mode %d: relative error %g", dir, (int)apply, e);
      ok(lc_adapter_set(a, 0, apply));
      assert_memory_equal(t_golden_logits(ctx, &g), base, n * sizeof *base);
      ok(lc_adapter_set(a, 1, apply));
      assert_true(lc_tiny_error(t_golden_logits(ctx, &g), g.expected, (int64_t)n) < 2e-5);
      ok(lc_adapter_remove(a));
      assert_memory_equal(t_golden_logits(ctx, &g), base, n * sizeof *base);
    }
    free(base);
    t_golden_close(ctx, &g);
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

/* Loaded and saved again: the same tensors, and an equivalent configuration. SHiRA's positions come back in
 * row-major order. */
static void test_round_trip(void **state) {
  for (int i = 0; i < 5; i++) {
    char dir[128];
    snprintf(dir, sizeof dir, "golden/adapters/%s", adapters[i][0]);
    t_golden g = t_golden_open(ctx, adapters[i][1], i < 4 ? dir : "golden/adapters/lora");
    char *out = lc_tiny_dir();
    lc_adapter *a;
    ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &a));
    ok(lc_adapter_save(a, i == 2 ? LC_LAYOUT_PEFT_SHIRA : LC_LAYOUT_PEFT_LORA, out,
                       &(lc_adapter_meta){.method = "test"}));
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
      assert_true(lc_tiny_error(t_golden_logits(ctx, &g), g.expected, g.T * g.V) < 2e-5);
    }
    ok(lc_remove_tree(ctx, out));
    free(out);
    t_golden_close(ctx, &g);
  }
}

/* The configuration that is written for an adapter made here has PEFT's keys: those of a file that PEFT
 * wrote. */
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
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/lora");
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
  memcpy(before, t_golden_logits(ctx, &g), (size_t)(g.T * g.V) * sizeof *before);
  ok(lc_adapter_save(a, LC_LAYOUT_PEFT_LORA, out,
                     &(lc_adapter_meta){.method = "lora", .base_name = "b", .targets = "q_proj,down_proj"}));
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
  assert_true(lc_tiny_error(t_golden_logits(ctx, &g), before, g.T * g.V) < 1e-6);
  free(before);
  ok(lc_remove_tree(ctx, out));
  free(out);
  t_golden_close(ctx, &g);
}

/* ---- sparse adapters made here ---- */

static void test_native(void **state) {
  t_golden g = t_golden_open(ctx, "gpt2", "golden/adapters/gpt2-lora");
  char *out = lc_tiny_dir();
  lc_adapter *a = t_sparse(ctx, g.net, "all-linear", 37, 3), *b;
  const size_t bytes = (size_t)(g.T * g.V) * sizeof(float);
  float *before = malloc(bytes);
  memcpy(before, t_golden_logits(ctx, &g), bytes);
  assert_non_null(lc_adapter_shira_refusal(a));
  assert_int_equal(lc_adapter_save(a, LC_LAYOUT_PEFT_SHIRA, out, &(lc_adapter_meta){.method = "shira"}),
                   LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "Conv1D"));
  assert_false(lc_path_exists(lc_tiny_path(out, "adapter_config.json")));
  ok(lc_adapter_save(a, LC_LAYOUT_NATIVE, out,
                     &(lc_adapter_meta){.method = "spiel", .targets = "all-linear", .seed = 3}));
  ok(lc_adapter_remove(a));
  warned[0] = 0;
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b));
  assert_string_equal(warned, "");
  assert_memory_equal(t_golden_logits(ctx, &g), before, bytes);
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
  t_golden_close(ctx, &g);
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
  lc_adapter *a = t_sparse(ctx, net, "down_proj,up_proj,gate_proj", 1311, 4); /* 1 % of 512×256 */
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
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/shira");
  char *out = lc_tiny_dir();
  lc_adapter *a = t_sparse(ctx, g.net, "k_proj,up_proj", 101, 8), *b;
  const size_t bytes = (size_t)(g.T * g.V) * sizeof(float);
  float *before = malloc(bytes);
  memcpy(before, t_golden_logits(ctx, &g), bytes);
  ok(lc_adapter_save(a, LC_LAYOUT_PEFT_SHIRA, out,
                     &(lc_adapter_meta){.method = "shira", .mask_type = "wm", .seed = 3}));
  check_keys(lc_tiny_path(out, "adapter_config.json"), "golden/adapters/shira/adapter_config.json");
  json_t *c;
  ok(lc_json_read(ctx, lc_tiny_path(out, "adapter_config.json"), &c));
  const int64_t r = json_integer_value(json_object_get(c, "r"));
  assert_string_equal(json_string_value(json_object_get(c, "mask_type")), "random");
  json_decref(c);
  int64_t least = 1;
  for (int i = 0; i < a->n; i++)
    least = lc_max64(least, lc_ceil_div(101, a->delta[i]->w->M + a->delta[i]->w->N));
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
    for (int64_t k = 1; k < K; k++)
      assert_true(at[k - 1] * w->N + at[K + k - 1] < at[k] * w->N + at[K + k]); /* row-major, distinct */
  }
  lc_safetensors_close(ctx, &s);
  ok(lc_adapter_remove(a));
  ok(lc_adapter_load(g.net, out, 1, LC_PATCH, &b));
  assert_true(lc_tiny_error(t_golden_logits(ctx, &g), before, g.T * g.V) < 1e-6);
  free(before);
  ok(lc_remove_tree(ctx, out));
  free(out);
  t_golden_close(ctx, &g);
}

/* ---- switching ---- */

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
    const uint64_t base = t_weights_sum(ctx, net);
    lc_adapter *a[3] = {t_sparse(ctx, net, "q_proj", 64, 1), t_sparse(ctx, net, "q_proj,v_proj", 64, 2),
                        t_sparse(ctx, net, "q_proj", 64, 3)};
    for (int i = 0; i < 3; i++) ok(lc_adapter_set(a[i], 0, LC_IN_PLACE));
    const lc_rng rng = {.seed = 77, .purpose = LC_RNG_TEST};
    for (int s = 0; s < 1000; s++) {
      const int i = (int)lc_rng_below(&rng, (uint64_t)(2 * s), 3);
      ok(lc_adapter_set(a[i], lc_rng_uniform(&rng, (uint64_t)(2 * s + 1)) * 1.25f, LC_IN_PLACE));
      if (s % 100 != 99) continue;
      assert_true(t_weights_sum(ctx, net) != base);
      for (int k = 0; k < 3; k++) ok(lc_adapter_set(a[k], 0, LC_IN_PLACE));
      assert_true(t_weights_sum(ctx, net) == base);
    }
    for (int i = 0; i < 3; i++) ok(lc_adapter_set(a[i], 1, LC_IN_PLACE));
    for (int i = 0; i < 3; i++) ok(lc_adapter_remove(a[i]));
    assert_true(t_weights_sum(ctx, net) == base);
    for (int i = 0; i < net->weights.n; i++) assert_ptr_equal(net->weights.w[i].form, net->weights.w[i].base);
    lc_net_free(net);
    lc_model_close(m);
    ok(lc_remove_tree(ctx, dir));
    free(dir);
  }
}

/* Two adapters add; with disjoint positions their order does not matter. */
static void test_two_adapters(void **state) {
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/shira");
  const int64_t n = g.T * g.V;
  float *both = malloc((size_t)n * sizeof *both);
  lc_adapter *a = t_sparse(ctx, g.net, "all-linear", 50, 1), *b = t_sparse(ctx, g.net, "all-linear", 50, 2);
  memcpy(both, t_golden_logits(ctx, &g), (size_t)n * sizeof *both);
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
  lc_adapter *c = t_sparse(ctx, g.net, "all-linear", 50, 1); /* now the other way round */
  assert_true(lc_tiny_error(t_golden_logits(ctx, &g), both, n) < 1e-6);
  ok(lc_adapter_set(c, 0.5f, LC_IN_PLACE)); /* one in place, one as a patch */
  ok(lc_adapter_set(c, 1, LC_IN_PLACE));
  assert_true(lc_tiny_error(t_golden_logits(ctx, &g), both, n) < 1e-6);
  free(both);
  t_golden_close(ctx, &g);
}

/* ---- interference ---- */

static void test_overlap(void **state) {
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/shira");
  lc_adapter *a = t_sparse(ctx, g.net, "q_proj,down_proj", 90, 1),
             *b = t_sparse(ctx, g.net, "q_proj,up_proj,down_proj", 70, 2);
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
  t_golden_close(ctx, &g);
}

/* Rows 0, 8, 16 … and the diagonal against rows 1, 9, 17 … and the diagonal: S1ᵀS2 has at most nnz(S1) + nnz(S2) + N nonzeros. */
static void test_disjoint_rows(void **state) {
  char *dir = lc_tiny_dir();
  lc_tiny tiny = LC_TINY_LLAMA;
  lc_model *m;
  lc_net *net;
  lc_adapter *a[2];
  tiny.C = 128, tiny.H = 4, tiny.D = 32;
  ok(lc_tiny_hf(ctx, &tiny, dir));
  ok(lc_model_open(ctx, dir, &m));
  ok(lc_net_new(m, LC_F32, &net));
  lc_weight *w = lc_net_weight(net, "model.layers.0.self_attn.q_proj.weight");
  assert_int_equal(w->M * w->N, 128 * 128);
  for (int j = 0; j < 2; j++) {
    int64_t flat[128 * 17], n = 0;
    float value[128 * 17];
    const lc_rng rng = {.seed = (uint64_t)j, .purpose = LC_RNG_TEST};
    lc_index idx;
    lc_delta *d;
    for (int64_t k = 0; k < 128 * 128; k++)
      if (k / 128 % 8 == j || k / 128 == k % 128) flat[n++] = k;
    lc_rng_normal_fill(&rng, 0, n, value);
    ok(lc_adapter_new(net, "rows", &a[j]));
    ok(lc_index_new(ctx, 128, 128, flat, n, &idx));
    ok(lc_delta_sparse_new(ctx, w, &idx, value, false, &d));
    ok(lc_weight_attach(ctx, w, d));
    ok(lc_adapter_add(a[j], d));
  }
  lc_overlap_row *row;
  int n;
  ok(lc_adapter_overlap(a[0], a[1], &row, &n));
  assert_int_equal(n, 1);
  assert_int_equal(row[0].both, 16 + 16 + 96); /* the diagonal, alone or inside a row of either */
  const double nonzero = (1 - row[0].awor) * 128 * 128;
  const int64_t stored = a[0]->delta[0]->param[0]->n + a[1]->delta[0]->param[0]->n;
  assert_true(nonzero > 0 && nonzero <= (double)(stored + 128));
  lc_free(ctx, row);
  lc_net_free(net);
  lc_model_close(m);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_peft_logits),       cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_lora_made_here),    cmocka_unit_test(test_native),
      cmocka_unit_test(test_native_size),       cmocka_unit_test(test_shira_padding),
      cmocka_unit_test(test_thousand_switches), cmocka_unit_test(test_two_adapters),
      cmocka_unit_test(test_overlap),           cmocka_unit_test(test_disjoint_rows),

  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
