/* Index sets, streaming top-k against a full sort, the outer-product selection against brute force, sampled products against the dense gradient. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "sparse/sparse.h"

static lc_ctx *ctx;
static lc_rng rng = {.seed = 5, .purpose = LC_RNG_TEST};

static int setup(void **state) {
  (void)state;
  return lc_ctx_new(2, &ctx, NULL);
}

static int teardown(void **state) {
  (void)state;
  lc_ctx_free(ctx);
  return 0;
}

static void index_sets(void **state) {
  (void)state;
  int64_t flat[] = {9, 3, 7, 0}, twice[] = {4, 4}, out[] = {12};
  lc_index x;
  assert_int_equal(lc_index_new(ctx, 3, 4, flat, 4, &x), LC_OK);
  assert_int_equal(x.kind, LC_LIST32);
  for (int64_t k = 0, want[] = {0, 3, 7, 9}; k < 4; k++) assert_int_equal(lc_index_at(&x, k), want[k]);
  for (int64_t from = 0; from < 4; from++)
    for (int64_t f = 0; f <= 12; f++) {
      int64_t k = from;
      while (k < 4 && lc_index_at(&x, k) < f) k++;
      assert_int_equal(lc_index_lower(&x, from, f), k);
    }
  assert_true(lc_index_has(&x, 7));
  assert_false(lc_index_has(&x, 8));
  int64_t drop[] = {1, 3}, add[] = {11, 1}, from[4];
  int32_t to[4];
  assert_int_equal(lc_index_swap(ctx, &x, drop, add, 2, to, from), LC_OK);
  int32_t want_to[] = {0, 1, 7, 11};
  int64_t want_from[] = {0, -1, 2, -1};
  assert_memory_equal(to, want_to, sizeof to);
  assert_memory_equal(from, want_from, sizeof from);
  add[0] = 7;
  assert_int_equal(lc_index_swap(ctx, &x, drop, add, 2, to, from), LC_FAILED);
  lc_index_free(ctx, &x);
  assert_int_equal(lc_index_new(ctx, 3, 4, twice, 2, &x), LC_FAILED);
  assert_int_equal(lc_index_new(ctx, 3, 4, out, 1, &x), LC_FAILED);
  int64_t far[] = {(int64_t)70000 * 70000 - 1, 5};
  assert_int_equal(lc_index_new(ctx, 70000, 70000, far, 2, &x), LC_OK);
  assert_int_equal(x.kind, LC_LIST64);
  assert_int_equal(lc_index_at(&x, 1), far[0]);
  lc_index_free(ctx, &x);
}

typedef struct { float score; int64_t at; } scored;
static int best_first(const void *a, const void *b) {
  const scored *x = a, *y = b;
  if (x->score != y->score) return x->score < y->score ? 1 : -1;
  return x->at < y->at ? -1 : x->at > y->at;
}

typedef struct { lc_topk *t; const float *s; int64_t M, N, rows; const lc_index *without; } push_arg;
static lc_status push_chunk(void *arg, int64_t c, int worker) {
  push_arg *p = arg;
  int64_t chunks = lc_ceil_div(p->M, p->rows), r0 = (c * 7 % chunks) * p->rows; /* some order: 7 and the number of chunks share no factor */
  lc_rect q = {r0, lc_min64(r0 + p->rows, p->M), 0, p->N};
  return lc_topk_push(p->t, worker, 0, p->N, q, p->s + r0 * p->N, NULL, p->N, p->without);
}

static void topk_is_a_sort(void **state) {
  (void)state;
  enum { M = 61, N = 37 };
  float s[M * N];
  int64_t skip[] = {3, 500, 501, 2000};
  lc_index without;
  assert_int_equal(lc_index_new(ctx, M, N, skip, 4, &without), LC_OK);
  for (int64_t i = 0; i < M * N; i++) s[i] = floorf(20 * lc_rng_uniform(&rng, (uint64_t)i)); /* many ties */
  scored all[M * N];
  int64_t n = 0;
  for (int64_t i = 0; i < M * N; i++)
    if (!lc_index_has(&without, i)) all[n++] = (scored){s[i], i};
  qsort(all, (size_t)n, sizeof *all, best_first);
  for (int64_t k = 1; k < n + 10; k = k * 2 + 1) {
    bool in[M * N] = {0};
    for (int64_t i = 0; i < lc_min64(k, n); i++) in[all[i].at] = true;
    for (int64_t rows = 1; rows <= 61; rows += 15) {
      lc_topk *t;
      assert_int_equal(lc_topk_new(ctx, k, &t), LC_OK);
      push_arg p = {t, s, M, N, rows, &without};
      assert_int_equal(lc_parallel(ctx, lc_ceil_div(M, rows), push_chunk, &p), LC_OK);
      const lc_pick *pick;
      int64_t got;
      assert_int_equal(lc_topk_take(t, &pick, &got), LC_OK);
      assert_int_equal(got, lc_min64(k, n));
      for (int64_t i = 0; i < got; i++) {
        assert_true(in[pick[i].flat] && pick[i].score == s[pick[i].flat]);
        if (i) assert_true(pick[i - 1].flat < pick[i].flat);
      }
      lc_topk_free(t);
    }
  }
  lc_topk *t;
  float bad[2] = {1, NAN};
  assert_int_equal(lc_topk_new(ctx, 2, &t), LC_OK);
  assert_int_equal(lc_topk_push(t, 0, 0, 2, (lc_rect){0, 1, 0, 2}, bad, NULL, 2, NULL), LC_FAILED);
  lc_topk_free(t);
  lc_index_free(ctx, &without);
}

static void outer_is_brute_force(void **state) {
  (void)state;
  enum { M = 23, N = 31 };
  for (int trial = 0; trial < 60; trial++) {
    float r[M], q[N];
    lc_rng g = rng;
    g.step = (uint32_t)trial;
    for (int i = 0; i < M; i++) r[i] = trial % 3 ? floorf(4 * lc_rng_uniform(&g, (uint64_t)i)) : lc_rng_uniform(&g, (uint64_t)i);
    for (int j = 0; j < N; j++) q[j] = trial % 3 ? floorf(4 * lc_rng_uniform(&g, (uint64_t)(100 + j))) : lc_rng_uniform(&g, (uint64_t)(100 + j));
    int64_t chosen[40], n = 1 + trial * 11 % (M * N);
    lc_index without;
    assert_int_equal(lc_rng_choose(ctx, &g, M * N, 40, chosen), LC_OK);
    assert_int_equal(lc_index_new(ctx, M, N, chosen, 40, &without), LC_OK);
    scored all[M * N];
    double exact[M * N];
    int64_t m = 0;
    for (int64_t f = 0; f < M * N; f++) exact[f] = (double)r[f / N] * (double)q[f % N];
    int64_t out[M * N], found;
    void *scratch = malloc(lc_outer_topk_bytes(M, N, n));
    assert_int_equal(lc_outer_topk(ctx, r, M, q, N, n, &without, scratch, out, &found), LC_OK);
    free(scratch);
    for (int64_t f = 0; f < M * N; f++)
      if (!lc_index_has(&without, f)) all[m++] = (scored){0, f};
    for (int64_t i = 1; i < m; i++) /* insertion sort by the exact product: qsort's comparator knows floats only */
      for (int64_t k = i; k > 0 && (exact[all[k].at] > exact[all[k - 1].at] || (exact[all[k].at] == exact[all[k - 1].at] && all[k].at < all[k - 1].at)); k--) {
        scored t = all[k];
        all[k] = all[k - 1];
        all[k - 1] = t;
      }
    assert_int_equal(found, lc_min64(n, m));
    bool in[M * N] = {0};
    for (int64_t i = 0; i < found; i++) in[all[i].at] = true;
    for (int64_t i = 0; i < found; i++) assert_true(in[out[i]] && (i == 0 || out[i - 1] < out[i]));
    lc_index_free(ctx, &without);
  }
}

static void sampled_is_gathered(void **state) {
  (void)state;
  static const struct { int64_t T, M, N, K; bool wide; } row[] = {{1, 3, 5, 7, false}, {37, 70, 65, 400, false}, {600, 130, 33, 1000, false}, {1100, 65, 64, 64, true}};
  for (size_t c = 0; c < sizeof row / sizeof *row; c++)
    for (int types = 0; types < 4; types++) {
      int64_t T = row[c].T, M = row[c].M, N = row[c].N, K = row[c].K;
      float *x = malloc((size_t)(T * N) * 4), *dy = malloc((size_t)(T * M) * 4);
      uint16_t *xh = malloc((size_t)(T * N) * 2), *dh = malloc((size_t)(T * M) * 2);
      lc_rng_normal_fill(&rng, 0, T * N, x);
      lc_rng_normal_fill(&rng, 1 << 24, T * M, dy);
      for (int64_t i = 0; i < T * N; i++) x[i] = lc_bf16_to_f32(xh[i] = lc_f32_to_bf16(x[i]));
      for (int64_t i = 0; i < T * M; i++) dy[i] = lc_bf16_to_f32(dh[i] = lc_f32_to_bf16(dy[i]));
      int64_t *flat = malloc((size_t)K * 8);
      float *g = calloc((size_t)K, 4), *h = calloc((size_t)K, 4);
      assert_int_equal(lc_rng_choose(ctx, &rng, M * N, K, flat), LC_OK);
      lc_index idx;
      assert_int_equal(lc_index_new(ctx, M, N, flat, K, &idx), LC_OK);
      lc_index wide = {LC_LIST64, K, flat};
      const lc_index *use = row[c].wide ? &wide : &idx;
      lc_dtype xt = types & 1 ? LC_BF16 : LC_F32, dt = types & 2 ? LC_BF16 : LC_F32;
      assert_int_equal(lc_sampled_grad(ctx, xt, types & 1 ? (void *)xh : x, N, dt, types & 2 ? (void *)dh : dy, M, T, M, N, use, g), LC_OK);
      assert_int_equal(lc_sampled_grad(ctx, xt, types & 1 ? (void *)xh : x, N, dt, types & 2 ? (void *)dh : dy, M, T, M, N, use, g), LC_OK); /* adds */
      double err = 0, norm = 0;
      for (int64_t k = 0; k < K; k++) {
        double want = 0;
        for (int64_t t = 0; t < T; t++) want += (double)dy[t * M + flat[k] / N] * (double)x[t * N + flat[k] % N];
        err += ((double)g[k] - 2 * want) * ((double)g[k] - 2 * want);
        norm += 4 * want * want;
      }
      assert_true(sqrt(err / norm) < 1e-5);
      lc_ctx *one; /* the same bits on one thread */
      assert_int_equal(lc_ctx_new(1, &one, NULL), LC_OK);
      for (int again = 0; again < 2; again++)
        assert_int_equal(lc_sampled_grad(one, xt, types & 1 ? (void *)xh : x, N, dt, types & 2 ? (void *)dh : dy, M, T, M, N, use, h), LC_OK);
      assert_memory_equal(g, h, (size_t)K * 4);
      lc_ctx_free(one);
      lc_index_free(ctx, &idx);
      free(x), free(dy), free(xh), free(dh), free(flat), free(g), free(h);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(index_sets), cmocka_unit_test(topk_is_a_sort), cmocka_unit_test(outer_is_brute_force), cmocka_unit_test(sampled_is_gathered)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
