/* lc_gemm against the definition: all transpositions, dtypes and outputs, odd shapes and leading dimensions,
 * every provider on every instruction set that this machine runs; and the context's promise that a strip
 * gives the same rows as the whole. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/kernels.h"
#include "kernels/kernels_f64.h"
#include "kernels/gemm/gemm.h"

typedef struct {
  int64_t m, n, k;
} dims;
static const dims shapes[] = {{1, 1, 1},     {3, 5, 7},     {14, 32, 20}, {33, 47, 65},
                              {64, 64, 64},  {1, 96, 130},  {130, 1, 40}, {45, 70, 400},
                              {17, 600, 33}, {29, 20, 800}, {48, 112, 64}};

static lc_rng rng = {.seed = 3, .purpose = LC_RNG_TEST};
static uint64_t next_random;

/* rows×cols values within a leading dimension ld, as the dtype and as f64. */
typedef struct {
  void *data;
  double *exact;
} matrix;

static matrix matrix_new(int64_t rows, int64_t ld, lc_dtype dtype) {
  size_t n = (size_t)(rows * ld);
  matrix x = {calloc(n, 4), calloc(n, sizeof(double))};
  assert_non_null(x.data);
  assert_non_null(x.exact);
  for (size_t i = 0; i < n; i++) {
    float value = lc_rng_normal(&rng, next_random++);
    if (dtype == LC_BF16) {
      ((uint16_t *)x.data)[i] = lc_f32_to_bf16(value);
      value = lc_bf16_to_f32(((uint16_t *)x.data)[i]);
    } else
      ((float *)x.data)[i] = value;
    x.exact[i] = (double)value;
  }
  return x;
}

static void matrix_free(matrix x) {
  free(x.data), free(x.exact);
}

/* NMSE of one call on one provider (NULL: the table's). */
static double run_one(lc_ctx *ctx, const lc_gemm_provider_row *provider, dims d, int pad, bool ta, bool tb,
                      lc_dtype dtype, lc_dtype c_dtype, float beta) {
  const bool plus = beta == 0 && c_dtype == LC_F32 && pad % 2 == 0;
  lc_gemm_shape s = {
      d.m,   d.n,  d.k, (ta ? d.m : d.k) + pad, (tb ? d.k : d.n) + pad, d.n + 2, ta, tb, dtype, c_dtype, beta,
      false, NULL, 0};
  matrix a = matrix_new(ta ? d.k : d.m, s.lda, dtype), b = matrix_new(tb ? d.n : d.k, s.ldb, dtype),
         c = matrix_new(d.m, s.ldc, c_dtype), p = matrix_new(d.m, d.n + 5, LC_F32);
  if (plus) s.plus = p.data, s.ld_plus = d.n + 5;
  double *before = malloc(sizeof(double) * (size_t)(d.m * s.ldc)), error = 0, norm = 0;
  memcpy(before, c.exact, sizeof(double) * (size_t)(d.m * s.ldc));
  lc_status st = provider ? lc_gemm_with(ctx, 0, provider, &s, a.data, b.data, c.data)
                          : lc_gemm(ctx, 0, &s, a.data, b.data, c.data);
  if (st) printf("%s\n", lc_error(ctx));
  assert_int_equal(st, LC_OK);
  lc_kernels_f64_get()->gemm(d.m, d.n, d.k, ta, tb, a.exact, s.lda, b.exact, s.ldb, (double)beta, c.exact,
                             s.ldc);
  for (int64_t i = 0; plus && i < d.m; i++)
    for (int64_t j = 0; j < d.n; j++) c.exact[i * s.ldc + j] += p.exact[i * s.ld_plus + j];
  for (int64_t i = 0; i < d.m; i++)
    for (int64_t j = 0; j < s.ldc; j++) {
      int64_t at = i * s.ldc + j;
      double got = (double)(c_dtype == LC_BF16 ? lc_bf16_to_f32(((uint16_t *)c.data)[at])
                                               : ((float *)c.data)[at]),
             want = c.exact[at];
      if (j >= d.n && got != before[at]) error = INFINITY; /* beyond a row's end nothing is written */
      error += (got - want) * (got - want), norm += want * want;
    }
  matrix_free(a), matrix_free(b), matrix_free(c), matrix_free(p), free(before);
  return error / norm;
}

static void every_case(lc_ctx *ctx, const lc_gemm_provider_row *provider, const char *label) {
  double worst = 0, worst_bf16 = 0;
  size_t step = !provider || provider == &lc_gemm_onednn
                    ? 3
                    : 1; /* oneDNN compiles code for each shape: fewer of them */
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += step)
    for (int trans = 0; trans < 4; trans++)
      for (int types = 0; types < 4; types++)
        for (int variant = 0; variant < 4; variant++) {
          int beta = variant & 1, pad = variant & 2 ? 4 : 3; /* units of 32 bits whole or not */
          lc_dtype dtype = types & 1 ? LC_BF16 : LC_F32, c_dtype = types & 2 ? LC_BF16 : LC_F32;
          if ((c_dtype == LC_BF16 && beta) || (provider && !provider->f32 && dtype == LC_F32)) continue;
          double nmse =
              run_one(ctx, provider, shapes[i], pad, trans & 1, trans & 2, dtype, c_dtype, (float)beta);
          if (c_dtype == LC_BF16)
            worst_bf16 = fmax(worst_bf16, nmse);
          else
            worst = fmax(worst, nmse);
        }
  printf("%-26s worst NMSE %.1e to f32, %.1e to bf16\n", label, worst, worst_bf16);
  assert_true(worst < 1e-11);
  assert_true(worst_bf16 < 1.6e-5); /* a rounding to bf16 errs by up to 2^-8 of the value, squared */
}

/* One context an instruction set; oneDNN's cap is the process's, so it is made first by the best context. */
static void test_providers(void **state) {
  (void)state;
  static const char *const names[] = {"onednn", "openblas", "native", "reference", "amx"};
  for (int isa = (int)lc_isa_detect(); isa >= 0; isa--) {
    char why[256] = "", label[64];
    lc_ctx *ctx;
    setenv("LACUNA_ISA", lc_isa_name((lc_isa)isa), 1);
    assert_int_equal(lc_ctx_new(1, &ctx, why), LC_OK);
    every_case(ctx, NULL, lc_isa_name((lc_isa)isa));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
      if (!strcmp(names[i], "onednn") && !lc_has_bf16_gemm(ctx)) continue;
      if (!strcmp(names[i], "amx") && isa < LC_ISA_AMX) continue;
      if (strcmp(names[i], "native") && isa != (int)lc_isa_detect())
        continue; /* the others do not know our instruction set */
      snprintf(label, sizeof label, "%s %s", lc_isa_name((lc_isa)isa), names[i]);
      every_case(ctx, lc_gemm_provider_by_name(names[i]), label);
    }
    lc_ctx_free(ctx);
  }
  unsetenv("LACUNA_ISA");
}

/* Wide enough to be cut into strips inside lc_gemm when bf16 is widened. */
static void test_bounded_strips(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  dims d = {37, 700, 2100};
  for (int trans = 0; trans < 4; trans++) {
    assert_true(run_one(ctx, &lc_gemm_native, d, 2, trans & 1, trans & 2, LC_BF16, LC_F32, 1) < 1e-11);
    assert_true(run_one(ctx, &lc_gemm_native, d, 2, trans & 1, trans & 2, LC_BF16, LC_BF16, 0) < 1.6e-5);
  }
  d = (dims){700, 37, 2100};
  assert_true(run_one(ctx, &lc_gemm_native, d, 2, false, true, LC_BF16, LC_F32, 0) < 1e-11);
  lc_ctx_free(ctx);
}

/* B packed in two parts, columns taken from it in three strips: the bits of the product that packs for itself. */
static void packed_case(lc_ctx *ctx, dims d, bool ta, bool tb, lc_dtype c_dtype) {
  lc_gemm_shape s = {.m = d.m,
                     .n = d.n,
                     .k = d.k,
                     .lda = ta ? d.m : d.k,
                     .ldb = tb ? d.k : d.n,
                     .ldc = d.n,
                     .trans_a = ta,
                     .trans_b = tb,
                     .dtype = LC_BF16,
                     .c_dtype = c_dtype};
  size_t size = c_dtype == LC_BF16 ? 2 : 4;
  matrix a = matrix_new(ta ? d.k : d.m, s.lda, LC_BF16), b = matrix_new(tb ? d.n : d.k, s.ldb, LC_BF16);
  uint8_t *want = calloc((size_t)(d.m * d.n), size), *got = calloc((size_t)(d.m * d.n), size), *packed;
  packed = aligned_alloc(64, lc_gemm_packed_bytes(ctx, LC_BF16, d.n, d.k));
  assert_int_equal(lc_gemm(ctx, 0, &s, a.data, b.data, want), LC_OK);
  const int64_t cuts[] = {0, LC_GEMM_PACK, 3 * LC_GEMM_PACK, d.n};
  for (int i = 0; i < 2; i++) {
    lc_gemm_shape part = s;
    int64_t j = cuts[2 * i];
    part.n = cuts[2 * i + (i ? 1 : 2)] - j;
    lc_gemm_pack(ctx, &part, (const uint16_t *)b.data + j * (tb ? s.ldb : 1),
                 packed + lc_gemm_packed_bytes(ctx, LC_BF16, j, d.k));
  }
  s.packed_b = true;
  for (int i = 0; i < 3; i++) {
    lc_gemm_shape part = s;
    part.n = cuts[i + 1] - cuts[i];
    assert_int_equal(lc_gemm(ctx, 0, &part, a.data, packed + lc_gemm_packed_bytes(ctx, LC_BF16, cuts[i], d.k),
                             got + (size_t)cuts[i] * size),
                     LC_OK);
  }
  assert_memory_equal(got, want, (size_t)(d.m * d.n) * size);
  matrix_free(a), matrix_free(b), free(want), free(got), free(packed);
}

static void test_packed(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  if (lc_gemm_packed_bytes(ctx, LC_BF16, 32, 32) == 0) { /* a path without: the sentence says so */
    lc_gemm_shape s = {
        .m = 1, .n = 1, .k = 1, .lda = 1, .ldc = 1, .dtype = LC_BF16, .c_dtype = LC_F32, .packed_b = true};
    uint16_t x[1] = {0};
    float c;
    assert_int_equal(lc_gemm(ctx, 0, &s, x, x, &c), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "packed"));
  } else {
    static const dims d[] = {
        {33, 100, 70}, {64, 144, 1200}, {20, 130, 2500}}; /* one piece of k, several, a sum in parts */
    for (size_t i = 0; i < sizeof d / sizeof *d; i++)
      for (int trans = 0; trans < 4; trans++)
        packed_case(ctx, d[i], trans & 1, trans & 2, LC_F32),
            packed_case(ctx, d[i], trans & 1, trans & 2, LC_BF16);
  }
  lc_ctx_free(ctx);
}

/* Rows and columns alone or within a larger strip: the same bits. */
static void test_strips(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  enum { M = 70, N = 90, K = 1250 };
  for (int types = 0; types < 4; types++) {
    lc_dtype dtype = types & 1 ? LC_BF16 : LC_F32, c_dtype = types & 2 ? LC_BF16 : LC_F32;
    size_t size = c_dtype == LC_BF16 ? 2 : 4, in = dtype == LC_BF16 ? 2 : 4;
    matrix a = matrix_new(M, K, dtype), b = matrix_new(N, K, dtype), c = matrix_new(M, N, c_dtype);
    uint8_t *part = malloc(M * N * size);
    memcpy(part, c.data, M * N * size);
    lc_gemm_shape s = {.m = M,
                       .n = N,
                       .k = K,
                       .lda = K,
                       .ldb = K,
                       .ldc = N,
                       .trans_b = true,
                       .dtype = dtype,
                       .c_dtype = c_dtype,
                       .beta = c_dtype == LC_F32 ? 1 : 0};
    assert_int_equal(lc_gemm(ctx, 0, &s, a.data, b.data, c.data), LC_OK);
    for (int64_t i = 0; i < M; i += 32)
      for (int64_t j = 0; j < N; j += 48) {
        s.m = lc_min64(32, M - i), s.n = lc_min64(48, N - j);
        assert_int_equal(lc_gemm(ctx, 0, &s, (uint8_t *)a.data + (size_t)(i * K) * in,
                                 (uint8_t *)b.data + (size_t)(j * K) * in, part + (size_t)(i * N + j) * size),
                         LC_OK);
      }
    assert_memory_equal(part, c.data, M * N * size);
    matrix_free(a), matrix_free(b), matrix_free(c), free(part);
  }
  lc_ctx_free(ctx);
}

/* Rows that a path may read where they stand, and the same rows where it cannot: the same bits. Few columns too (low rank). */
static void test_rows_in_place(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  static const dims d[] = {{96, 8, 64}, {64, 72, 1216}, {128, 33, 2560}};
  for (size_t i = 0; i < 2 * sizeof d / sizeof *d; i++) {
    dims x = d[i / 2];
    lc_gemm_shape s = {.m = x.m,
                       .n = x.n,
                       .k = x.k,
                       .lda = x.k,
                       .ldb = x.k,
                       .ldc = x.n,
                       .trans_b = true,
                       .dtype = LC_BF16,
                       .c_dtype = i % 2 ? LC_BF16 : LC_F32};
    size_t bytes = (size_t)(x.m * x.k) * 2, out = (size_t)(x.m * x.n) * (i % 2 ? 2 : 4);
    matrix a = matrix_new(x.m, x.k, LC_BF16), b = matrix_new(x.n, x.k, LC_BF16);
    uint8_t *at = aligned_alloc(64, bytes + 64), *c1 = calloc(1, out), *c2 = calloc(1, out);
    memcpy(at, a.data, bytes);
    assert_int_equal(lc_gemm(ctx, 0, &s, at, b.data, c1), LC_OK);
    memmove(at + 2, at, bytes);
    assert_int_equal(lc_gemm(ctx, 0, &s, at + 2, b.data, c2), LC_OK);
    assert_memory_equal(c1, c2, out);
    free(at), free(c1), free(c2), matrix_free(a), matrix_free(b);
  }
  lc_ctx_free(ctx);
}

/* The steady state makes nothing: the same shape again allocates nothing of ours. */
static void test_steady_state(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  dims d = {64, 96, 128};
  run_one(ctx, NULL, d, 0, false, true, LC_BF16, LC_BF16, 0);
  run_one(ctx, NULL, d, 0, false, true, LC_F32, LC_F32, 0);
  uint64_t before = lc_mem_allocations(ctx);
  run_one(ctx, NULL, d, 0, false, true, LC_BF16, LC_BF16, 0);
  run_one(ctx, NULL, d, 0, false, true, LC_F32, LC_F32, 0);
  assert_int_equal(lc_mem_allocations(ctx), before);
  lc_ctx_free(ctx);
}

static void test_edges(void **state) {
  (void)state;
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  float a[4] = {1, 2, 3, 4}, c[4] = {5, 6, 7, 8};
  lc_gemm_shape s = {2, 2, 0, 2, 2, 2, false, false, LC_F32, LC_F32, 1, false, NULL, 0};
  assert_int_equal(lc_gemm(ctx, 0, &s, a, a, c), LC_OK); /* an empty sum added: nothing changes */
  assert_true(c[0] == 5 && c[3] == 8);
  s.beta = 0;
  assert_int_equal(lc_gemm(ctx, 0, &s, a, a, c), LC_OK);
  assert_true(c[0] == 0 && c[3] == 0);
  s = (lc_gemm_shape){2, 2, 2, 1, 2, 2, false, false, LC_F32, LC_F32, 0, false, NULL, 0};
  assert_int_equal(lc_gemm(ctx, 0, &s, a, a, c), LC_FAILED); /* lda < k */
  assert_non_null(strstr(lc_error(ctx), "2x2x2"));
  s = (lc_gemm_shape){2, 2, 2, 2, 2, 2, false, false, LC_F32, LC_BF16, 1, false, NULL, 0};
  assert_int_equal(lc_gemm(ctx, 0, &s, a, a, c), LC_FAILED); /* bf16 output cannot accumulate */
  lc_ctx_free(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_providers), cmocka_unit_test(test_bounded_strips),
                                     cmocka_unit_test(test_packed),    cmocka_unit_test(test_rows_in_place),
                                     cmocka_unit_test(test_strips),    cmocka_unit_test(test_steady_state),
                                     cmocka_unit_test(test_edges)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
