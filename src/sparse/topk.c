/* Exact top-k of a stream of tiles. Each worker keeps a buffer of 2k candidates; when it is full, a selection
 * keeps the best k and raises the worker's bar. The result is the k first in the total order (score
 * descending, tensor, flat index ascending), so it cannot depend on tiles, order or threads. */
#include "sparse/sparse.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  lc_pick *at;
  int64_t n, cap;
  lc_pick bar;
  bool barred;
} pool;
struct lc_topk {
  lc_ctx *ctx;
  int64_t k, k_max;
  int workers;
  pool *pool;
};

static bool before(const lc_pick *a, const lc_pick *b) {
  if (a->score != b->score) return a->score > b->score;
  if (a->tensor != b->tensor) return a->tensor < b->tensor;
  return a->flat < b->flat;
}

lc_status lc_topk_new(lc_ctx *ctx, int64_t k, lc_topk **out) {
  *out = NULL;
  size_t cap;
  if (k < 1 || !lc_mul((size_t)k, 2, &cap)) return lc_fail(ctx, "top-k of %lld", (long long)k);
  lc_topk *t = lc_alloc(ctx, LC_MEM_OTHER, sizeof *t);
  if (!t) return LC_FAILED;
  t->ctx = ctx;
  t->workers = lc_threads(ctx);
  t->pool = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)t->workers, sizeof *t->pool);
  for (int w = 0; t->pool && w < t->workers; w++) {
    t->pool[w].cap = (int64_t)cap;
    t->pool[w].at = lc_alloc_n(ctx, LC_MEM_SCRATCH, cap, sizeof *t->pool[w].at);
    if (!t->pool[w].at) {
      lc_topk_free(t);
      return LC_FAILED;
    }
  }
  if (!t->pool) {
    lc_topk_free(t);
    return LC_FAILED;
  }
  t->k_max = k;
  lc_topk_reset(t, k);
  *out = t;
  return LC_OK;
}

void lc_topk_free(lc_topk *t) {
  if (!t) return;
  for (int w = 0; t->pool && w < t->workers; w++) lc_free(t->ctx, t->pool[w].at);
  lc_free(t->ctx, t->pool);
  lc_free(t->ctx, t);
}

void lc_topk_reset(lc_topk *t, int64_t k) {
  t->k = k;
  for (int w = 0; w < t->workers; w++) t->pool[w].n = 0, t->pool[w].barred = false;
}

/* Hoare's selection: afterwards the first k are the best k, in no order. Middle element of three as the
 * pivot. */
static void keep_best(lc_pick *x, int64_t n, int64_t k) {
  int64_t lo = 0, hi = n - 1;
  while (lo < hi) {
    lc_pick a = x[lo], b = x[lo + (hi - lo) / 2], c = x[hi];
    lc_pick pivot = before(&a, &b) ? (before(&b, &c)   ? b
                                      : before(&a, &c) ? c
                                                       : a)
                                   : (before(&a, &c)   ? a
                                      : before(&b, &c) ? c
                                                       : b);
    int64_t i = lo - 1, j = hi + 1;
    for (;;) {
      do i++;
      while (before(&x[i], &pivot));
      do j--;
      while (before(&pivot, &x[j]));
      if (i >= j) break;
      lc_pick t = x[i];
      x[i] = x[j];
      x[j] = t;
    }
    if (j + 1 >= k)
      hi = j;
    else
      lo = j + 1;
    if (j + 1 == k) return;
  }
}

static void add(pool *p, int64_t k, const lc_pick *pick) {
  if (k == 0 || (p->barred && !before(pick, &p->bar))) return;
  p->at[p->n++] = *pick;
  if (p->n < 2 * k) return;
  keep_best(p->at, p->n, k);
  p->n = k;
  p->bar = p->at[0];
  for (int64_t i = 1; i < k; i++)
    if (before(&p->bar, &p->at[i])) p->bar = p->at[i];
  p->barred = true;
}

lc_status lc_topk_push(lc_topk *t, int worker, int32_t tensor, int64_t N, lc_rect at, const float *score,
                       const float *payload, int64_t ld, const lc_index *exclude) {
  pool *p = &t->pool[worker];
  if (t->k < 0 || t->k > t->k_max)
    return lc_fail(t->ctx, "selection: %lld wanted, there is room for %lld", (long long)t->k,
                   (long long)t->k_max);
  for (int64_t r = at.r0; r < at.r1; r++) {
    const float *row = score + (r - at.r0) * ld;
    for (int64_t c = at.c0; c < at.c1; c++) {
      float s = row[c - at.c0];
      if (p->barred && s < p->bar.score) continue;
      if (isnan(s))
        return lc_fail(t->ctx, "selection: the score at row %lld, column %lld is not a number", (long long)r,
                       (long long)c);
      lc_pick pick = {tensor, r * N + c, s, payload ? payload[(r - at.r0) * ld + (c - at.c0)] : s};
      if (exclude && lc_index_has(exclude, pick.flat)) continue;
      add(p, t->k, &pick);
    }
  }
  return LC_OK;
}

static int by_place(const void *x, const void *y) {
  const lc_pick *a = x, *b = y;
  if (a->tensor != b->tensor) return a->tensor < b->tensor ? -1 : 1;
  return a->flat < b->flat ? -1 : a->flat > b->flat;
}

lc_status lc_topk_take(lc_topk *t, const lc_pick **out, int64_t *n) {
  pool *first = &t->pool[0];
  for (int w = 1; w < t->workers; w++)
    for (int64_t i = 0; i < t->pool[w].n; i++) add(first, t->k, &t->pool[w].at[i]);
  for (int w = 1; w < t->workers; w++) t->pool[w].n = 0;
  if (first->n > t->k) {
    keep_best(first->at, first->n, t->k);
    first->n = t->k;
  }
  qsort(first->at, (size_t)first->n, sizeof *first->at, by_place);
  *out = first->at;
  *n = first->n;
  return LC_OK;
}
