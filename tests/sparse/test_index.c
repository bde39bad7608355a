/* Index sets: width, order, search, and swaps against what they mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "sparse/sparse.h"

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL);
}

static int teardown(void **state) {
  lc_status left = lc_mem_bytes(ctx, LC_MEM_OTHER) || lc_mem_bytes(ctx, LC_MEM_TRAINABLE);
  lc_ctx_free(ctx);
  return left;
}

static lc_rng key(uint32_t step) {
  return (lc_rng){.seed = 1, .step = step, .purpose = LC_RNG_TEST};
}

static void test_new(void **state) {
  lc_index x, y;
  const int64_t flat[5] = {11, 3, 0, 7, 5}, sorted[5] = {0, 3, 5, 7, 11};
  assert_int_equal(lc_index_new(ctx, 3, 4, flat, 5, &x), LC_OK);
  assert_int_equal(x.kind, LC_LIST32);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_TRAINABLE), 20);
  assert_int_equal(lc_index_dup(ctx, &x, &y), LC_OK);
  lc_index_free(ctx, &x);
  assert_int_equal(y.n, 5);
  for (int k = 0; k < 5; k++) assert_int_equal(lc_index_at(&y, k), sorted[k]);
  lc_index_free(ctx, &y);
  lc_index_free(ctx, &y);
}

static void test_refused(void **state) {
  const struct {
    int64_t M, N, flat[3], n;
    const char *say;
  } bad[] = {
      {3, 4, {1, 5, 12}, 3, "position 12 lies outside a matrix of 3×4"},
      {3, 4, {5, -1, 2}, 3, "position -1 lies outside"},
      {3, 4, {5, 2, 5}, 3, "position 5 occurs twice"},
      {1, 2, {0, 1, 2}, 3, "3 positions in a matrix of 1×2"},
      {3, 4, {0}, 0, "0 positions"},
      {0, 4, {0}, 1, "0×4"},
      {(int64_t)1 << 40, (int64_t)1 << 40, {0}, 1, "matrix of"},
  };
  for (int i = 0; i < 7; i++) {
    lc_index x;
    assert_int_equal(lc_index_new(ctx, bad[i].M, bad[i].N, bad[i].flat, bad[i].n, &x), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), bad[i].say));
    assert_null(x.at);
  }
}

static void test_width(void **state) {
  lc_index x;
  int64_t last = INT32_MAX - 1; /* the last place of 2^31 - 1 entries */
  assert_int_equal(lc_index_new(ctx, 1, INT32_MAX, &last, 1, &x), LC_OK);
  assert_int_equal(x.kind, LC_LIST32);
  assert_int_equal(lc_index_at(&x, 0), last);
  lc_index_free(ctx, &x);
  int64_t far[2] = {((int64_t)1 << 31) - 1, 5};
  assert_int_equal(lc_index_new(ctx, 1 << 16, 1 << 15, far, 2, &x), LC_OK);
  assert_int_equal(x.kind, LC_LIST64);
  assert_int_equal(lc_index_at(&x, 1), far[0]);
  assert_true(lc_index_has(&x, far[0]) && !lc_index_has(&x, far[0] - 1));
  lc_index_free(ctx, &x);
}

/* lower and has against a plain search, from every starting place. */
static void test_search(void **state) {
  for (uint32_t round = 0; round < 40; round++) {
    lc_rng r = key(round);
    int64_t total = 1 + (int64_t)lc_rng_below(&r, 0, 60),
            n = 1 + (int64_t)lc_rng_below(&r, 1, (uint64_t)total), at[60];
    lc_index x, all = {LC_ALL, total, NULL};
    assert_int_equal(lc_rng_choose(ctx, &r, total, n, at), LC_OK);
    assert_int_equal(lc_index_new(ctx, 1, total, at, n, &x), LC_OK);
    for (int64_t from = 0; from <= n; from++)
      for (int64_t flat = -1; flat <= total + 1; flat++) {
        int64_t want = from;
        while (want < n && at[want] < flat) want++;
        assert_int_equal(lc_index_lower(&x, from, flat), want);
      }
    for (int64_t flat = -1; flat <= total; flat++) {
      bool inside = false;
      for (int64_t k = 0; k < n; k++) inside |= at[k] == flat;
      assert_int_equal(lc_index_has(&x, flat), inside);
      assert_int_equal(lc_index_has(&all, flat), flat >= 0 && flat < total);
      assert_int_equal(lc_index_lower(&all, 0, flat), flat < 0 ? 0 : flat > total ? total : flat);
    }
    lc_index_free(ctx, &x);
  }
}

/* What a swap means: the set without drop and with add, sorted; each entry knows where it was. */
static void check_swap(const lc_index *x, int64_t total, const int64_t *drop, const int64_t *add, int64_t d) {
  int64_t to64[200], from[200], out = 0;
  int32_t to32[200];
  void *to = x->kind == LC_LIST32 ? (void *)to32 : (void *)to64;
  int64_t where[400]; /* -2: absent */
  for (int64_t f = 0; f < total; f++) where[f] = -2;
  for (int64_t k = 0; k < x->n; k++) where[lc_index_at(x, k)] = k;
  for (int64_t i = 0; i < d; i++) where[lc_index_at(x, drop[i])] = -2;
  for (int64_t i = 0; i < d; i++) where[add[i]] = -1;
  assert_int_equal(lc_index_swap(ctx, x, drop, add, d, to, from), LC_OK);
  for (int64_t f = 0; f < total; f++) {
    if (where[f] == -2) continue;
    assert_int_equal(x->kind == LC_LIST32 ? to32[out] : to64[out], f);
    assert_int_equal(from[out++], where[f]);
  }
  assert_int_equal(out, x->n);
}

static void test_swap(void **state) {
  for (uint32_t round = 0; round < 300; round++) {
    lc_rng r = key(1000 + round), again = key(2000 + round), mix = key(3000 + round);
    int64_t total = 2 + (int64_t)lc_rng_below(&r, 0, 398),
            n = 1 + (int64_t)lc_rng_below(&r, 1, (uint64_t)lc_min64(total - 1, 200));
    int64_t at[200], drop[200], add[200], free_at[400], n_free = 0, order[400];
    assert_int_equal(lc_rng_choose(ctx, &r, total, n, at), LC_OK);
    lc_index x = {round % 2 ? LC_LIST32 : LC_LIST64, n, NULL};
    int32_t narrow[200];
    for (int64_t k = 0; k < n; k++) narrow[k] = (int32_t)at[k];
    x.at = round % 2 ? (void *)narrow : (void *)at;
    for (int64_t f = 0, k = 0; f < total; f++)
      if (k < n && at[k] == f)
        k++;
      else
        free_at[n_free++] = f;
    int64_t d = (int64_t)lc_rng_below(&r, 2, (uint64_t)lc_min64(n, n_free) + 1);
    assert_int_equal(lc_rng_choose(ctx, &again, n, d, drop), LC_OK);
    lc_rng_permutation(&mix, n_free, order); /* add comes in any order */
    for (int64_t i = 0; i < d; i++) add[i] = free_at[order[i]];
    check_swap(&x, total, drop, add, d);
  }
}

static void test_swap_refused(void **state) {
  int32_t at[4] = {2, 4, 6, 8};
  lc_index x = {LC_LIST32, 4, at};
  int32_t to[4];
  int64_t from[4];
  const struct {
    int64_t drop[2], add[2];
    const char *say;
  } bad[] = {
      {{0, 1}, {5, 5}, "position 5 comes twice"}, {{0, 1}, {6, 1}, "position 6 is there already"},
      {{1, 0}, {1, 3}, "not ascending"},          {{2, 4}, {1, 3}, "not ascending, or outside the 4"},
      {{1, 1}, {0, 1}, "not ascending"},          {{0, 1}, {8, 9}, "position 8 is there already"},
  };
  for (int i = 0; i < 6; i++) {
    assert_int_equal(lc_index_swap(ctx, &x, bad[i].drop, bad[i].add, 2, to, from), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), bad[i].say));
  }
  lc_index all = {LC_ALL, 4, NULL};
  assert_int_equal(lc_index_swap(ctx, &all, bad[0].drop, bad[0].add, 1, to, from), LC_FAILED);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_new),   cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_width), cmocka_unit_test(test_search),
                                     cmocka_unit_test(test_swap),  cmocka_unit_test(test_swap_refused)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
