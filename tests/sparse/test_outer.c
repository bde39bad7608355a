/* The n largest of r·qᵀ found without forming it equal a full sort, ties included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "sparse/sparse.h"

enum { MOST = 40 };

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

typedef struct {
  double score;
  int64_t flat;
} scored;

static int order(const void *x, const void *y) {
  const scored *a = x, *b = y;
  if (a->score != b->score) return a->score > b->score ? -1 : 1;
  return a->flat < b->flat ? -1 : a->flat > b->flat;
}

static int ascending(const void *x, const void *y) {
  int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  return a < b ? -1 : a > b;
}

static void check(const float *r, int64_t M, const float *q, int64_t N, int64_t n, const lc_index *exclude) {
  scored all[MOST * MOST];
  int64_t m = 0, want[MOST * MOST], got[MOST * MOST], found;
  for (int64_t f = 0; f < M * N; f++)
    if (!exclude || !lc_index_has(exclude, f)) all[m++] = (scored){(double)r[f / N] * (double)q[f % N], f};
  qsort(all, (size_t)m, sizeof *all, order);
  m = lc_min64(m, n);
  for (int64_t i = 0; i < m; i++) want[i] = all[i].flat;
  qsort(want, (size_t)m, sizeof *want, ascending);
  size_t bytes = lc_outer_topk_bytes(M, N, n);
  void *scratch = malloc(bytes); /* exactly: sanitizers see one byte more */
  assert_int_equal(lc_outer_topk(ctx, r, M, q, N, n, exclude, scratch, got, &found), LC_OK);
  free(scratch);
  assert_int_equal(found, m);
  for (int64_t i = 0; i < m; i++) assert_int_equal(got[i], want[i]);
}

static void test_equals_brute_force(void **state) {
  for (uint32_t round = 0; round < 400; round++) {
    lc_rng rng = {.seed = 9, .step = round, .purpose = LC_RNG_TEST};
    int64_t M = 1 + (int64_t)lc_rng_below(&rng, 0, MOST), N = 1 + (int64_t)lc_rng_below(&rng, 1, MOST),
            total = M * N;
    int64_t n = (int64_t)lc_rng_below(&rng, 2, (uint64_t)total + 3),
            out = (int64_t)lc_rng_below(&rng, 3, (uint64_t)total), at[MOST * MOST];
    float r[MOST], q[MOST],
        levels = round % 4 == 0 ? 1e9f : (float)(1 + round % 4); /* few levels: ties and zeros */
    for (int64_t i = 0; i < M; i++) r[i] = floorf(lc_rng_uniform(&rng, 100 + (uint64_t)i) * levels) / levels;
    for (int64_t j = 0; j < N; j++) q[j] = floorf(lc_rng_uniform(&rng, 200 + (uint64_t)j) * levels) / levels;
    lc_index exclude = {0};
    if (out) {
      assert_int_equal(lc_rng_choose(ctx, &rng, total, out, at), LC_OK);
      assert_int_equal(lc_index_new(ctx, M, N, at, out, &exclude), LC_OK);
    }
    check(r, M, q, N, lc_min64(n, MOST * MOST), out ? &exclude : NULL);
    lc_index_free(ctx, &exclude);
  }
}

/* Products that f32 cannot tell apart are not ties, and the smallest and largest do not vanish. */
static void test_exact_products(void **state) {
  const float r[2] = {1.0f, 1.0f + 0x1p-23f}, q[2] = {1.0f + 0x1p-23f, 1.0f + 0x1p-22f};
  check(r, 2, q, 2, 1, NULL);
  check(r, 2, q, 2, 2, NULL);
  const float tiny[3] = {0x1p-149f, 0, 0x1p-148f}, huge[3] = {0x1p127f, 3e38f, 0x1p126f};
  for (int64_t n = 0; n <= 9; n++) {
    check(tiny, 3, tiny, 3, n, NULL);
    check(huge, 3, huge, 3, n, NULL);
    check(tiny, 3, huge, 3, n, NULL);
  }
}

static void test_refused(void **state) {
  const float bad[3] = {NAN, -1, INFINITY}, one[1] = {1};
  int64_t out[1], found;
  uint64_t scratch[64];
  for (int i = 0; i < 3; i++) {
    assert_int_equal(lc_outer_topk(ctx, &bad[i], 1, one, 1, 1, NULL, scratch, out, &found), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "row score 0"));
    assert_int_equal(lc_outer_topk(ctx, one, 1, &bad[i], 1, 1, NULL, scratch, out, &found), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "column score 0"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_brute_force),
                                     cmocka_unit_test(test_exact_products), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
