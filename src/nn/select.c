/* Selectors of positions: random, by score, structured; and the division of a budget. */
#include "nn/select.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STRIP = 64 };

static lc_status check_count(lc_ctx *ctx, const lc_weight *w, int64_t K, int64_t rank) {
  if (K < 1)
    return lc_fail(ctx, "'%s' (%lld×%lld): %lld entries are no mask", w->name, (long long)w->M,
                   (long long)w->N, (long long)K);
  if (rank < 1 || K > w->M * w->N / rank)
    return lc_fail(ctx, "'%s' has %lld×%lld entries: no %lld disjoint masks of %lld", w->name,
                   (long long)w->M, (long long)w->N, (long long)rank, (long long)K);
  return LC_OK;
}

/* ---- random ---- */

/* Positions [0,total) without the sorted `taken`: turns ascending ranks among the free ones into positions,
 * in place. */
static void ranks_to_free(int64_t *at, int64_t K, const int64_t *taken, int64_t n_taken) {
  int64_t passed = 0;
  for (int64_t k = 0; k < K; k++) {
    while (passed < n_taken && taken[passed] <= at[k] + passed) passed++;
    at[k] += passed;
  }
}

static int by_value(const void *x, const void *y) {
  int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  return a < b ? -1 : a > b;
}

lc_status lc_select_random(lc_ctx *ctx, const lc_weight *w, uint64_t seed, int64_t K, int64_t rank,
                           lc_index *out) {
  lc_status st = LC_OK;
  LC_TRY(check_count(ctx, w, K, rank));
  int64_t *all = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(K * rank), sizeof *all), *at = all;
  if (!all) return LC_FAILED;
  for (int64_t j = 0; j < rank; j++) { /* the j-th mask is drawn among what the ones before it left */
    lc_rng rng = {.seed = seed, .tensor = w->id, .draw = (uint16_t)j, .purpose = LC_RNG_MASK};
    at = all + j * K;
    LC_GO(lc_rng_choose(ctx, &rng, w->M * w->N - j * K, K, at));
    ranks_to_free(at, K, all, j * K);
    if (j + 1 < rank) qsort(all, (size_t)((j + 1) * K), sizeof *all, by_value);
  }
  LC_GO(lc_index_new(ctx, w->M, w->N, at, K, out));
done:
  lc_free(ctx, all);
  return st;
}

/* ---- by score ---- */

typedef struct {
  lc_ctx *ctx;
  const lc_weight *w;
  lc_score_kind kind;
  const float *G;
  lc_topk *top;
} score_arg;

static lc_status score_strip(void *arg, int64_t chunk, int worker) {
  const score_arg *a = arg;
  const lc_weight *w = a->w;
  const lc_rect q = {chunk * STRIP, lc_min64(chunk * STRIP + STRIP, w->M), 0, w->N};
  const int64_t n = (q.r1 - q.r0) * w->N;
  float *score = lc_scratch(a->ctx, worker, 2, (size_t)n * sizeof *score);
  const void *tile = NULL;
  int64_t ld = 0;
  if (!score) return LC_FAILED;
  if (a->kind != LC_SCORE_GRADIENT) LC_TRY(lc_weight_tile(a->ctx, worker, w, q, LC_F32, &tile, &ld));
  for (int64_t r = q.r0; r < q.r1; r++) {
    const float *W = tile ? (const float *)tile + (r - q.r0) * ld : NULL, *G = a->G ? a->G + r * w->N : NULL;
    float *s = score + (r - q.r0) * w->N;
    for (int64_t c = 0; c < w->N; c++)
      s[c] = fabsf(a->kind == LC_SCORE_GRADIENT ? G[c] : a->kind == LC_SCORE_SNIP ? W[c] * G[c] : W[c]);
  }
  return lc_topk_push(a->top, worker, 0, w->N, q, score, NULL, w->N, NULL);
}

static int by_score(const void *x, const void *y) { /* falling, ties to the lower position */
  const lc_pick *a = x, *b = y;
  if (a->score != b->score) return a->score < b->score ? 1 : -1;
  return a->flat < b->flat ? -1 : a->flat > b->flat;
}

lc_status lc_select_scored(lc_ctx *ctx, const lc_weight *w, lc_score_kind kind, const float *G, int64_t K,
                           int64_t rank, lc_index *out) {
  lc_status st = LC_OK;
  lc_pick *sorted = NULL;
  int64_t *flat = NULL, n = 0;
  const lc_pick *pick;
  score_arg a = {ctx, w, kind, G, NULL};
  LC_TRY(check_count(ctx, w, K, rank));
  LC_GO(lc_topk_new(ctx, K * rank, &a.top));
  LC_GO(lc_parallel(ctx, lc_ceil_div(w->M, STRIP), score_strip, &a));
  LC_GO(lc_topk_take(a.top, &pick, &n));
  flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  sorted = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *sorted);
  if (!flat || !sorted) LC_GO(LC_FAILED);
  memcpy(sorted, pick, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, by_score);
  for (int64_t k = 0; k < K; k++) flat[k] = sorted[(rank - 1) * K + k].flat;
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, K, out));
done:
  lc_topk_free(a.top);
  lc_free(ctx, flat);
  lc_free(ctx, sorted);
  return st;
}

/* ---- structured: ⌈M/f⌉·N entries in rows 0, f, 2f …, and the diagonal entries outside them ---- */

int64_t lc_struct_count(int64_t M, int64_t N, int64_t f, bool columns) {
  int64_t lines = columns ? N : M, length = columns ? M : N, diagonal = lc_min64(M, N);
  return lc_ceil_div(lines, f) * length + diagonal - lc_ceil_div(diagonal, f);
}

lc_status lc_select_struct(lc_ctx *ctx, const lc_weight *w, int64_t K, bool columns, lc_index *out) {
  const int64_t M = w->M, N = w->N, lines = columns ? N : M;
  LC_TRY(check_count(ctx, w, K, 1));
  int64_t f = 1, n = 0;
  while (f < lines && lc_struct_count(M, N, f, columns) > K) f++;
  if (lc_struct_count(M, N, f, columns) > K)
    return lc_fail(
        ctx, "'%s' (%lld×%lld): one %s and the diagonal are %lld entries, more than the %lld of the budget",
        w->name, (long long)M, (long long)N, columns ? "column" : "row",
        (long long)lc_struct_count(M, N, f, columns), (long long)K);
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)lc_struct_count(M, N, f, columns), sizeof *flat);
  if (!flat) return LC_FAILED;
  for (int64_t r = 0; r < M; r++)
    for (int64_t c = 0; c < N; c++)
      if ((columns ? c : r) % f == 0 || r == c) flat[n++] = r * N + c;
  lc_status st = lc_index_new(ctx, M, N, flat, n, out);
  lc_free(ctx, flat);
  return st;
}

/* ---- budget ---- */

lc_status lc_budget_split(lc_ctx *ctx, int64_t total, lc_weight *const *w, int n, int64_t *K) {
  __int128 all = 0;
  for (int l = 0; l < n; l++) all += w[l]->M * w[l]->N;
  if (total < 1)
    return lc_fail(ctx, "the density leaves no entry to train: the target matrices have %lld entries in all",
                   (long long)all);
  if (total > all)
    return lc_fail(ctx, "%lld entries are to be trained, but the target matrices have %lld", (long long)total,
                   (long long)all);
  for (int l = 0; l < n; l++) {
    K[l] = (int64_t)((__int128)total * (w[l]->M * w[l]->N) / all);
    if (K[l] < 1)
      return lc_fail(ctx,
                     "'%s' (%lld×%lld) would get none of the %lld entries: raise the density, or leave it "
                     "out of the targets",
                     w[l]->name, (long long)w[l]->M, (long long)w[l]->N, (long long)total);
  }
  return LC_OK;
}
