/* Scoring token by token through the cache is scoring in one pass; truncation forgets exactly what it should.
 */
#include "infer/kv.h"
#include "kernels/kernels.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 150, CONTEXT = 192 };
static lc_ctx *ctx;
static char *dir;
static int32_t ids[T];

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  lc_rng r = {.seed = 7, .purpose = LC_RNG_TEST};
  for (int t = 0; t < T; t++) ids[t] = (int32_t)lc_rng_below(&r, (uint64_t)t, 300);
  lc_tiny llama = LC_TINY_LLAMA, gpt2 = LC_TINY_GPT2;
  llama.context = gpt2.context = CONTEXT;
  return lc_tiny_hf(ctx, &llama, lc_tiny_path(dir, "llama")) ||
         lc_tiny_hf(ctx, &gpt2, lc_tiny_path(dir, "gpt2"));
}

static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static void open_net(const char *name, lc_dtype compute, lc_model **m, lc_net **net) {
  ok(lc_model_open(ctx, lc_tiny_path(dir, name), m));
  ok(lc_net_new(*m, compute, net));
}

static void feed_in_pieces(lc_session *s, int64_t piece, int64_t V, int64_t from, float *out) {
  for (int64_t t = from; t < T; t += piece)
    ok(lc_session_feed(s, ids + t, lc_min64(piece, T - t), true, out + t * V));
}

static void check_pieces(const char *name, lc_dtype kv, double tolerance) {
  lc_model *m;
  lc_net *net;
  open_net(name, LC_F32, &m, &net);
  int64_t V = m->config.V;
  float *one = malloc((size_t)(T * V) * sizeof *one), *inc = malloc((size_t)(T * V) * sizeof *inc);
  ok(lc_tiny_logits(net, ids, T, one));
  static const int64_t pieces[] = {1, 7, 64, T};
  for (size_t i = 0; i < 4; i++) {
    lc_session *s;
    ok(lc_session_new(net, CONTEXT, 48, kv, &s));
    feed_in_pieces(s, pieces[i], V, 0, inc);
    assert_int_equal(lc_session_length(s), T);
    double e = lc_tiny_error(inc, one, T * V);
    if (!(e <= tolerance)) fail_msg("%s in pieces of %d: %g", name, (int)pieces[i], e);
    lc_session_free(s);
  }
  free(one);
  free(inc);
  lc_net_free(net);
  lc_model_close(m);
}

static void test_incremental_is_one_pass(void **state) {
  check_pieces("llama", LC_F32, 1e-5);
  check_pieces("gpt2", LC_F32, 1e-5);
  check_pieces("llama", LC_F16, 5e-3);
  check_pieces("llama", LC_BF16, 4e-2);
}

static void test_truncate(void **state) {
  lc_model *m;
  lc_net *net;
  lc_session *s;
  open_net("llama", LC_F32, &m, &net);
  int64_t V = m->config.V;
  float *one = malloc((size_t)(T * V) * sizeof *one), *inc = calloc((size_t)(T * V), sizeof *inc);
  ok(lc_tiny_logits(net, ids, T, one));
  ok(lc_session_new(net, CONTEXT, 32, LC_F32, &s));
  ok(lc_session_feed(s, ids, 100, false, NULL));
  int32_t other[60] = {0};
  ok(lc_session_feed(s, other, 60, false, NULL));
  lc_session_truncate(s, 100);
  assert_int_equal(lc_session_length(s), 100);
  lc_session_truncate(s, 130); /* not longer again */
  assert_int_equal(lc_session_length(s), 100);
  feed_in_pieces(s, 5, V, 100, inc);
  assert_true(lc_tiny_error(inc + 100 * V, one + 100 * V, (T - 100) * V) <= 1e-5);
  lc_session_truncate(s, 0);
  ok(lc_session_feed(s, ids, T, true, inc));
  assert_true(lc_tiny_error(inc, one, T * V) <= 1e-5);
  lc_session_free(s);
  free(one);
  free(inc);
  lc_net_free(net);
  lc_model_close(m);
}

static void test_refusals(void **state) {
  lc_model *m;
  lc_net *net;
  lc_session *s;
  open_net("gpt2", LC_F32, &m, &net);
  assert_int_equal(lc_session_new(net, CONTEXT + 1, 8, LC_F32, &s), LC_USAGE); /* learned positions end */
  assert_non_null(strstr(lc_error(ctx), "wpe"));
  assert_int_equal(lc_session_new(net, 8, 8, LC_I32, &s), LC_FAILED);
  ok(lc_session_new(net, 16, 8, LC_F32, &s));
  assert_int_equal(lc_session_feed(s, ids, 17, false, NULL), LC_FAILED);
  assert_int_equal(lc_session_length(s), 0);
  int32_t bad[3] = {1, 300, 2};
  assert_int_equal(lc_session_feed(s, bad, 3, false, NULL), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "300"));
  ok(lc_session_feed(s, ids, 16, false, NULL));
  assert_int_equal(lc_session_feed(s, ids, 1, false, NULL), LC_FAILED);
  lc_session_free(s);
  lc_net_free(net);
  lc_model_close(m);
}

/* A token after the first ones allocates nothing. */
static void test_steady_state(void **state) {
  lc_model *m;
  lc_net *net;
  lc_session *s;
  open_net("llama", LC_BF16, &m, &net);
  float *l = malloc(300 * sizeof *l);
  ok(lc_session_new(net, CONTEXT, 32, LC_BF16, &s));
  ok(lc_session_feed(s, ids, T, false, l));
  lc_session_truncate(s, 10);
  ok(lc_session_feed(s, ids, 1, false, l));
  uint64_t before = lc_mem_allocations(ctx);
  for (int t = 11; t < 100; t++) ok(lc_session_feed(s, ids + t, 1, false, l));
  assert_int_equal(lc_mem_allocations(ctx), before);
  free(l);
  lc_session_free(s);
  lc_net_free(net);
  lc_model_close(m);
}

/* Two sequences that grow in turns share the pages, interleaved: values come back, rounded to the cache's
 * dtype. */
static void check_pages(lc_dtype dtype) {
  enum { L = 2, G = 2, D = 8, N = 200 };
  struct lc_kv *kv;
  ok(lc_kv_new(ctx, L, G, D, dtype, 8, 2, &kv));
  lc_rng r = {.seed = 3, .purpose = LC_RNG_TEST};
  static float k[2][L][N][G * D], v[2][L][N][G * D];
  lc_rng_normal_fill(&r, 0, (int64_t)(sizeof k / sizeof(float)), &k[0][0][0][0]);
  lc_rng_normal_fill(&r, 1 << 20, (int64_t)(sizeof v / sizeof(float)), &v[0][0][0][0]);
  for (int t = 0; t < N; t += 50)
    for (int s = 0; s < 2; s++)
      for (int l = 0; l < L; l++) ok(lc_kv_pages.append(kv, l, s, t, 50, k[s][l][t], v[s][l][t], G * D));
  for (int s = 0; s < 2; s++)
    for (int l = 0; l < L; l++)
      for (int g = 0; g < G; g++) {
        const float *gk, *gv;
        int64_t ld;
        ok(lc_kv_pages.get(kv, l, s, g, N, 0, &gk, &gv, &ld));
        for (int t = 0; t < N; t++)
          for (int d = 0; d < D; d++) {
            float a = k[s][l][t][g * D + d], b = v[s][l][t][g * D + d];
            if (dtype == LC_BF16)
              a = lc_bf16_to_f32(lc_f32_to_bf16(a)), b = lc_bf16_to_f32(lc_f32_to_bf16(b));
            if (dtype == LC_F16) a = lc_f16_to_f32(lc_f32_to_f16(a)), b = lc_f16_to_f32(lc_f32_to_f16(b));
            assert_true(gk[t * ld + d] == a && gv[t * ld + d] == b);
          }
      }
  assert_int_equal(lc_kv_pages.append(kv, 0, 0, N, 200, k[0][0][0], v[0][0][0], G * D),
                   LC_FAILED); /* all 8 pages are taken */
  lc_kv_truncate(kv, 1, 0);
  assert_int_equal(lc_kv_length(kv, 1), 0);
  ok(lc_kv_pages.append(kv, 0, 0, N, 200, k[0][0][0], v[0][0][0], G * D));
  lc_kv_free(kv);
}

static void test_pages(void **state) {
  check_pages(LC_F32);
  check_pages(LC_BF16);
  check_pages(LC_F16);
}

/* Activations in bytes, in pieces of so many tokens: near the exact logits but not they (unless the path in use takes such weights decoded), the
 * same bits for one and two threads, and off again when switched off. */
static void check_int8(const char *family, lc_dtype dtype, lc_dtype compute, int piece) {
  enum { N = 60 };
  lc_tiny t = LC_TINY_LLAMA, gpt2 = LC_TINY_GPT2;
  if (!strcmp(family, "gpt2")) t = gpt2;
  t.dtype = dtype;
  const char *path = lc_tiny_path(dir, "int8.gguf");
  ok(lc_tiny_gguf(ctx, &t, path));
  float *logits[4];
  for (int run = 0; run < 4; run++) { /* exact; in bytes on one thread, on two; exact after all */
    char why[256];
    lc_ctx *own;
    lc_model *m;
    lc_net *net;
    lc_session *s;
    assert_int_equal(lc_ctx_new(run == 2 ? 2 : 1, &own, why), LC_OK);
    assert_int_equal(lc_model_open(own, path, &m), LC_OK);
    assert_int_equal(lc_net_new(m, compute, &net), LC_OK);
    assert_int_equal(lc_session_new(net, N, N, LC_F32, &s), LC_OK);
    lc_session_int8(s, run > 0);
    if (run == 3) lc_session_int8(s, false);
    int64_t V = m->config.V;
    logits[run] = malloc((size_t)(N * V) * sizeof(float));
    for (int i = 0; i < N; i += piece) {
      int n = N - i < piece ? N - i : piece;
      assert_int_equal(lc_session_feed(s, ids + i, n, true, logits[run] + i * V), LC_OK);
    }
    if (run == 3) {
      double e = lc_tiny_error(logits[1], logits[0], N * V);
      bool changes = piece <= 4 || lc_gemm_takes_q8(own, dtype, compute);
      /* some ten products in a row, each with a relative error of half a percent */
      if (!(e < 0.06 && (e > 0) == changes))
        fail_msg("%s %s, pieces of %d: %g", family, lc_dtype_get(dtype)->name, piece, e);
      assert_memory_equal(logits[1], logits[2], (size_t)(N * V) * sizeof(float));
      assert_memory_equal(logits[0], logits[3], (size_t)(N * V) * sizeof(float));
    }
    lc_session_free(s), lc_net_free(net), lc_model_close(m), lc_ctx_free(own);
  }
  for (int run = 0; run < 4; run++) free(logits[run]);
}

static void test_int8(void **state) {
  static const lc_dtype types[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  static const int pieces[] = {1, 4, 5, 60};
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 4; j++)
      for (int compute = 0; compute < 2; compute++)
        check_int8("llama", types[i], compute ? LC_BF16 : LC_F32, pieces[j]);
  check_int8("gpt2", LC_Q8_0, LC_F32, 1);
  check_int8("gpt2", LC_Q8_0, LC_F32, 60); /* biases */
}

/* A prompt beside a sparse change that is aside: the changed layers count it, whatever the others do. runs: without it, with it, with it in bytes. */
static void test_int8_beside_a_delta(void **state) {
  enum { N = 40, K = 200 };
  lc_tiny t = LC_TINY_LLAMA;
  t.dtype = LC_Q8_0;
  const char *path = lc_tiny_path(dir, "delta.gguf");
  ok(lc_tiny_gguf(ctx, &t, path));
  float *logits[3];
  int64_t V = 0;
  for (int run = 0; run < 3; run++) {
    lc_model *m;
    lc_net *net;
    lc_session *s;
    lc_index idx;
    lc_delta *d;
    ok(lc_model_open(ctx, path, &m));
    ok(lc_net_new(m, LC_F32, &net));
    lc_weight *w = lc_net_weight(net, "model.layers.1.mlp.up_proj.weight");
    int64_t flat[K];
    float value[K];
    for (int64_t k = 0; k < K; k++) flat[k] = k * (w->M * w->N / K), value[k] = k % 2 ? 1 : -1;
    if (run) {
      ok(lc_index_new(ctx, w->M, w->N, flat, K, &idx));
      ok(lc_delta_sparse_new(ctx, w, &idx, value, false, &d));
      d->apply = LC_ASIDE;
      ok(lc_weight_attach(ctx, w, d));
    }
    ok(lc_session_new(net, N, N, LC_F32, &s));
    lc_session_int8(s, run == 2);
    V = m->config.V;
    logits[run] = malloc((size_t)(N * V) * sizeof(float));
    ok(lc_session_feed(s, ids, N, true, logits[run]));
    lc_session_free(s), lc_net_free(net), lc_model_close(m);
  }
  double change = lc_tiny_error(logits[1], logits[0], N * V), e = lc_tiny_error(logits[2], logits[1], N * V);
  if (!(change > 0.2 && e < 0.06 && (e > 0) == lc_gemm_takes_q8(ctx, LC_Q8_0, LC_F32)))
    fail_msg("change %g, error %g", change, e);
  for (int run = 0; run < 3; run++) free(logits[run]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_incremental_is_one_pass),
                                     cmocka_unit_test(test_truncate),
                                     cmocka_unit_test(test_refusals),
                                     cmocka_unit_test(test_steady_state),
                                     cmocka_unit_test(test_pages),
                                     cmocka_unit_test(test_int8),
                                     cmocka_unit_test(test_int8_beside_a_delta)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
