/* Sampled gradients, and those taken from dense strips, against the dense one in f64: all dtypes, leading dimensions, blocks of tokens, both
 * widths of positions; the same bits for any number of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/kernels.h"
#include "sparse/sparse.h"

typedef struct {
  int64_t T, M, N, K, pad;
} shape;

typedef struct {
  lc_dtype dtype;
  int64_t ld;
  void *data;
  double *exact;
} matrix;

/* rows×cols normals, rounded to the dtype; what lies beyond the columns is NaN and never read. */
static matrix make(uint32_t draw, lc_dtype dtype, int64_t rows, int64_t cols, int64_t pad) {
  matrix m = {dtype, cols + pad, calloc((size_t)(rows * (cols + pad)), 4),
              calloc((size_t)(rows * cols), sizeof(double))};
  lc_rng r = {.seed = 5, .step = draw, .purpose = LC_RNG_TEST};
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < m.ld; j++) {
      float v = j < cols ? lc_rng_normal(&r, (uint64_t)(i * cols + j)) : NAN;
      uint16_t h = lc_f32_to_bf16(v);
      if (dtype == LC_F32)
        ((float *)m.data)[i * m.ld + j] = v;
      else
        ((uint16_t *)m.data)[i * m.ld + j] = h;
      if (j < cols) m.exact[i * cols + j] = dtype == LC_F32 ? (double)v : (double)lc_bf16_to_f32(h);
    }
  return m;
}

static void drop(matrix *m) {
  free(m->data);
  free(m->exact);
}

typedef lc_status (*gradient_fn)(lc_ctx *, lc_dtype, const void *, int64_t, lc_dtype, const void *, int64_t,
                                 int64_t, int64_t, int64_t, const lc_index *, float *);
static gradient_fn gradient; /* the function under test */

static lc_status grad(int threads, const matrix *x, const matrix *dy, const shape *s, const lc_index *idx,
                      float *g) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(threads, &ctx, NULL), LC_OK);
  lc_status st =
      gradient(ctx, x->dtype, x->data, x->ld, dy->dtype, dy->data, dy->ld, s->T, s->M, s->N, idx, g);
  uint64_t calls = lc_mem_allocations(ctx);
  if (!st && threads == 1) { /* the steady state allocates nothing */
    float *again = calloc((size_t)idx->n, sizeof *again);
    assert_int_equal(
        gradient(ctx, x->dtype, x->data, x->ld, dy->dtype, dy->data, dy->ld, s->T, s->M, s->N, idx, again),
        LC_OK);
    assert_int_equal(lc_mem_allocations(ctx), calls);
    free(again);
  }
  lc_ctx_free(ctx);
  return st;
}

static void check(const shape *s, lc_dtype xt, lc_dtype dt, uint32_t draw) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  matrix x = make(2 * draw, xt, s->T, s->N, s->pad), dy = make(2 * draw + 1, dt, s->T, s->M, s->pad);
  lc_rng r = {.seed = 6, .step = draw, .purpose = LC_RNG_TEST};
  int64_t *at = malloc((size_t)s->K * sizeof *at);
  float *g[4];
  lc_index idx, wide;
  assert_int_equal(lc_rng_choose(ctx, &r, s->M * s->N, s->K, at), LC_OK);
  assert_int_equal(lc_index_new(ctx, s->M, s->N, at, s->K, &idx), LC_OK);
  wide = (lc_index){LC_LIST64, s->K, at};
  for (int i = 0; i < 4; i++) {
    g[i] = malloc((size_t)s->K * sizeof(float));
    for (int64_t k = 0; k < s->K; k++) g[i][k] = (float)(k % 3); /* it is added to */
    assert_int_equal(grad(i ? i : 1, &x, &dy, s, i == 3 ? &wide : &idx, g[i]), LC_OK);
  }
  double error = 0, norm = 0;
  for (int64_t k = 0; k < s->K; k++) {
    double sum = (double)(k % 3);
    for (int64_t t = 0; t < s->T; t++)
      sum += dy.exact[t * s->M + at[k] / s->N] * x.exact[t * s->N + at[k] % s->N];
    error += ((double)g[0][k] - sum) * ((double)g[0][k] - sum);
    norm += sum * sum;
  }
  assert_true(sqrt(error) <= 1e-5 * sqrt(norm) + 1e-6);
  for (int i = 1; i < 4; i++)
    assert_memory_equal(g[i], g[0], (size_t)s->K * sizeof(float)); /* threads, width: same bits */
  for (int i = 0; i < 4; i++) free(g[i]);
  free(at);
  lc_index_free(ctx, &idx);
  drop(&x);
  drop(&dy);
  lc_ctx_free(ctx);
}

static void test_against_dense(void **state) {
  const shape shapes[] = {{1, 1, 1, 1, 0},        {3, 70, 5, 350, 1},   {17, 64, 64, 200, 0},
                          {33, 129, 67, 1500, 3}, {512, 65, 20, 90, 2}, {513, 40, 30, 300, 1},
                          {1100, 9, 130, 77, 5}};
  for (int isa = 0; isa <= (int)lc_isa_detect(); isa++) {
    setenv("LACUNA_ISA", lc_isa_name((lc_isa)isa), 1);
    for (uint32_t i = 0; i < 7; i++)
      for (int d = 0; d < 4; d++) {
        const lc_dtype xt = d & 1 ? LC_BF16 : LC_F32, dt = d & 2 ? LC_BF16 : LC_F32;
        gradient = lc_sampled_grad, check(&shapes[i], xt, dt, i);
        gradient = lc_entries_grad, check(&shapes[i], xt, dt, i);
        if (xt == dt) gradient = lc_strips_grad, check(&shapes[i], xt, dt, i);
      }
  }
  unsetenv("LACUNA_ISA");
}

/* A weight of more than 2^31 entries: only its chosen ones cost anything. */
static void test_wide_weight(void **state) {
  const shape s = {2, 600000, 4096, 6, 0};
  lc_ctx *ctx;
  lc_index idx;
  const int64_t at[6] = {0, 4095, 4096, (int64_t)300000 * 4096 + 17, s.M * s.N - 4097, s.M * s.N - 1};
  float g[6] = {0}, *x = calloc((size_t)(s.T * s.N), 4), *dy = calloc((size_t)(s.T * s.M), 4);
  for (int64_t i = 0; i < s.T * s.N; i++) x[i] = (float)(i % 11);
  for (int64_t i = 0; i < s.T * s.M; i++) dy[i] = (float)(i % 7);
  assert_int_equal(lc_ctx_new(2, &ctx, NULL), LC_OK);
  assert_int_equal(lc_index_new(ctx, s.M, s.N, at, 6, &idx), LC_OK);
  assert_int_equal(idx.kind, LC_LIST64);
  assert_int_equal(lc_sampled_grad(ctx, LC_F32, x, s.N, LC_F32, dy, s.M, s.T, s.M, s.N, &idx, g), LC_OK);
  for (int k = 0; k < 6; k++) {
    float want = 0;
    for (int64_t t = 0; t < s.T; t++) want += dy[t * s.M + at[k] / s.N] * x[t * s.N + at[k] % s.N];
    assert_true(g[k] == want);
  }
  assert_true(lc_mem_peak(ctx) < 32u << 20);
  lc_index_free(ctx, &idx);
  lc_ctx_free(ctx);
  free(x);
  free(dy);
}

static void test_refused(void **state) {
  lc_ctx *ctx;
  lc_index all = {LC_ALL, 4, NULL};
  int32_t at[1] = {0};
  lc_index one = {LC_LIST32, 1, at};
  float v[4] = {0};
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  assert_int_equal(lc_sampled_grad(ctx, LC_F32, v, 2, LC_F32, v, 2, 1, 2, 2, &all, v), LC_FAILED);
  assert_int_equal(lc_sampled_grad(ctx, LC_F16, v, 2, LC_F32, v, 2, 1, 2, 2, &one, v), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "x in f16"));
  assert_int_equal(lc_strips_grad(ctx, LC_F32, v, 2, LC_F32, v, 2, 1, 2, 2, &all, v), LC_FAILED);
  assert_int_equal(lc_strips_grad(ctx, LC_F32, v, 2, LC_BF16, v, 2, 1, 2, 2, &one, v), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "both bf16"));
  lc_ctx_free(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_dense), cmocka_unit_test(test_wide_weight),
                                     cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
