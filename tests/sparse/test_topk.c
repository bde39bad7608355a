/* The streaming top-k equals a full sort, for any tiles, order of tiles and threads; ties go to the lower
 * (tensor, flat index). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "sparse/sparse.h"

enum { TENSORS = 3, M = 37, N = 53, ENTRIES = TENSORS * M * N };

static lc_pick by_sort[ENTRIES]; /* the whole stream, best first */
static float score[TENSORS][M * N], payload[TENSORS][M * N];

static int order(const void *x, const void *y) {
  const lc_pick *a = x, *b = y;
  if (a->score != b->score) return a->score > b->score ? -1 : 1;
  if (a->tensor != b->tensor) return a->tensor - b->tensor;
  return a->flat < b->flat ? -1 : a->flat > b->flat;
}

static int place(const void *x, const void *y) {
  const lc_pick *a = x, *b = y;
  return a->tensor != b->tensor ? a->tensor - b->tensor : a->flat < b->flat ? -1 : a->flat > b->flat;
}

/* levels: few levels give many ties; 0: all different, nearly. */
static void make(uint32_t step, int levels) {
  lc_rng r = {.seed = 2, .step = step, .purpose = LC_RNG_TEST};
  for (int t = 0; t < TENSORS; t++)
    for (int f = 0; f < M * N; f++) {
      int i = t * M * N + f;
      float u = lc_rng_uniform(&r, (uint64_t)i) - 0.25f;
      score[t][f] = levels ? floorf(u * (float)levels) : u;
      payload[t][f] = -1000 - (float)i;
      by_sort[i] = (lc_pick){t, f, score[t][f], payload[t][f]};
    }
  qsort(by_sort, ENTRIES, sizeof *by_sort, order);
}

typedef struct {
  lc_topk *top;
  int64_t tile_rows, tile_cols, across, down, *turn;
  bool with_payload;
  const lc_index *exclude;
} stream;

/* A tile of its own, with a leading dimension beyond its width. */
static lc_status push(void *arg, int64_t chunk, int worker) {
  const stream *s = arg;
  int64_t c = s->turn[chunk], tile = c % (s->across * s->down), ld = s->tile_cols + 3;
  int t = (int)(c / (s->across * s->down));
  lc_rect q = {tile / s->across * s->tile_rows, 0, tile % s->across * s->tile_cols, 0};
  q.r1 = lc_min64(q.r0 + s->tile_rows, M);
  q.c1 = lc_min64(q.c0 + s->tile_cols, N);
  float a[(M + 1) * (N + 3)], b[(M + 1) * (N + 3)];
  for (int i = 0; i < (M + 1) * (N + 3); i++) a[i] = b[i] = NAN; /* what lies between rows is never read */
  for (int64_t r = q.r0; r < q.r1; r++)
    for (int64_t k = q.c0; k < q.c1; k++) {
      a[(r - q.r0) * ld + k - q.c0] = score[t][r * N + k];
      b[(r - q.r0) * ld + k - q.c0] = payload[t][r * N + k];
    }
  return lc_topk_push(s->top, worker, t, N, q, a, s->with_payload ? b : NULL, ld, t == 1 ? s->exclude : NULL);
}

static void check(lc_ctx *ctx, lc_topk *top, uint32_t round, int64_t k, const lc_index *exclude) {
  lc_rng r = {.seed = 3, .step = round, .purpose = LC_RNG_TEST};
  int64_t turn[ENTRIES];
  stream s = {
      top,    1 + (int64_t)lc_rng_below(&r, 0, M), 1 + (int64_t)lc_rng_below(&r, 1, N), 0, 0, turn, round % 2,
      exclude};
  s.across = lc_ceil_div(N, s.tile_cols);
  s.down = lc_ceil_div(M, s.tile_rows);
  lc_rng_permutation(&r, TENSORS * s.across * s.down, turn);
  assert_int_equal(lc_parallel(ctx, TENSORS * s.across * s.down, push, &s), LC_OK);
  const lc_pick *got;
  int64_t n, want_n = 0;
  lc_pick *want = malloc(ENTRIES * sizeof *want);
  for (int i = 0; i < ENTRIES && want_n < k; i++)
    if (!exclude || by_sort[i].tensor != 1 || !lc_index_has(exclude, by_sort[i].flat))
      want[want_n++] = by_sort[i];
  qsort(want, (size_t)want_n, sizeof *want, place);
  for (int again = 0; again < 2; again++) { /* taking changes nothing */
    assert_int_equal(lc_topk_take(top, &got, &n), LC_OK);
    assert_int_equal(n, want_n);
    for (int64_t i = 0; i < n; i++) {
      assert_int_equal(got[i].tensor, want[i].tensor);
      assert_int_equal(got[i].flat, want[i].flat);
      assert_true(got[i].score == want[i].score);
      assert_true(got[i].payload == (s.with_payload ? want[i].payload : want[i].score));
    }
  }
  free(want);
}

static void test_equals_a_sort(void **state) {
  const int64_t ks[] = {1, 2, 17, 500, ENTRIES - 1, ENTRIES, ENTRIES + 10};
  const int levels[] = {0, 1, 4, 40};
  uint32_t round = 0;
  for (int threads = 1; threads <= 4; threads++) {
    lc_ctx *ctx;
    assert_int_equal(lc_ctx_new(threads, &ctx, NULL), LC_OK);
    for (int l = 0; l < 4; l++) {
      make(round, levels[l]);
      for (int i = 0; i < 7; i++) {
        lc_topk *top;
        assert_int_equal(lc_topk_new(ctx, ks[i], &top), LC_OK);
        check(ctx, top, round++, ks[i], NULL);
        lc_topk_free(top);
      }
    }
    for (int c = 0; c < LC_MEM_COUNT; c++) assert_int_equal(lc_mem_bytes(ctx, (lc_mem)c), 0);
    lc_ctx_free(ctx);
  }
}

static void test_exclusion(void **state) {
  lc_ctx *ctx;
  lc_topk *top;
  lc_index out, all = {LC_ALL, M * N, NULL};
  int64_t at[M * N];
  lc_rng r = {.seed = 4, .purpose = LC_RNG_TEST};
  assert_int_equal(lc_ctx_new(3, &ctx, NULL), LC_OK);
  assert_int_equal(lc_rng_choose(ctx, &r, M * N, 900, at), LC_OK);
  assert_int_equal(lc_index_new(ctx, M, N, at, 900, &out), LC_OK);
  make(5, 20);
  assert_int_equal(lc_topk_new(ctx, ENTRIES, &top), LC_OK);
  const int64_t ks[] = {1, 100, 3000, ENTRIES};
  for (int i = 0; i < 4; i++) { /* one object serves smaller k's, without allocating */
    uint64_t calls = lc_mem_allocations(ctx);
    lc_topk_reset(top, ks[i]);
    check(ctx, top, 700 + (uint32_t)i, ks[i], i == 2 ? &all : &out);
    assert_int_equal(lc_mem_allocations(ctx), calls);
  }
  lc_topk_free(top);
  lc_index_free(ctx, &out);
  lc_ctx_free(ctx);
}

static void test_values(void **state) {
  lc_ctx *ctx;
  lc_topk *top;
  const lc_pick *got;
  int64_t n;
  float x[6] = {-INFINITY, 0.0f, -0.0f, INFINITY, -1, 0.0f};
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  assert_int_equal(lc_topk_new(ctx, 3, &top), LC_OK);
  assert_int_equal(lc_topk_push(top, 0, 0, 6, (lc_rect){0, 1, 0, 6}, x, NULL, 6, NULL), LC_OK);
  assert_int_equal(lc_topk_take(top, &got, &n), LC_OK);
  assert_int_equal(n, 3);
  assert_true(got[0].flat == 1 && got[1].flat == 2 && got[2].flat == 3); /* zeros of either sign tie */
  x[4] = NAN; /* named, wherever it stands and however high the bar is */
  assert_int_equal(lc_topk_push(top, 0, 0, 3, (lc_rect){0, 2, 0, 3}, x, NULL, 3, NULL), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "row 1, column 1"));
  lc_topk_reset(top, 0);
  assert_int_equal(lc_topk_push(top, 0, 0, 4, (lc_rect){0, 1, 0, 4}, x, NULL, 4, NULL), LC_OK);
  assert_int_equal(lc_topk_take(top, &got, &n), LC_OK);
  assert_int_equal(n, 0);
  lc_topk_reset(top, 4);
  assert_int_equal(lc_topk_push(top, 0, 0, 4, (lc_rect){0, 1, 0, 4}, x, NULL, 4, NULL), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "4 wanted, there is room for 3"));
  lc_topk_free(top);
  assert_int_equal(lc_topk_new(ctx, 0, &top), LC_FAILED);
  assert_int_equal(lc_topk_new(ctx, INT64_MAX, &top), LC_FAILED);
  assert_null(top);
  lc_ctx_free(ctx);
}

/* Scores that rise, fall, or do both are the hard cases of a selection. */
static void test_shapes(void **state) {
  enum { L = 4000, K = 300 };
  lc_ctx *ctx;
  lc_topk *top;
  const lc_pick *got;
  int64_t n;
  static float x[L];
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  assert_int_equal(lc_topk_new(ctx, K, &top), LC_OK);
  for (int shape = 0; shape < 4; shape++) {
    for (int i = 0; i < L; i++)
      x[i] = (float)(shape == 0 ? i : shape == 1 ? -i : shape == 2 ? -abs(i - L / 2) : abs(i - L / 2));
    lc_topk_reset(top, K);
    assert_int_equal(lc_topk_push(top, 0, 0, L, (lc_rect){0, 1, 0, L}, x, NULL, L, NULL), LC_OK);
    assert_int_equal(lc_topk_take(top, &got, &n), LC_OK);
    assert_int_equal(n, K);
    for (int i = 0; i < K; i++) { /* shape 2: the middle, its even count one longer to the left; 3: both ends,
                                     the left one longer */
      int want = shape == 0   ? L - K + i
                 : shape == 1 ? i
                 : shape == 2 ? L / 2 - K / 2 + i
                 : i <= K / 2 ? i
                              : L - K + i;
      assert_int_equal(got[i].flat, want);
    }
  }
  lc_topk_free(top);
  lc_ctx_free(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_a_sort), cmocka_unit_test(test_exclusion),
                                     cmocka_unit_test(test_values), cmocka_unit_test(test_shapes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
