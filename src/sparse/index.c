/* Sets of flat positions: sorted, distinct, 32 bits wide when the weight allows. */
#include "sparse/sparse.h"
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

lc_status lc_index_new(lc_ctx *ctx, int64_t M, int64_t N, const int64_t *flat, int64_t n, lc_index *out) {
  *out = (lc_index){0};
  int64_t total;
  if (M <= 0 || N <= 0 || __builtin_mul_overflow(M, N, &total))
    return lc_fail(ctx, "positions in a matrix of %lld×%lld", (long long)M, (long long)N);
  if (n < 1 || n > total)
    return lc_fail(ctx, "%lld positions in a matrix of %lld×%lld", (long long)n, (long long)M, (long long)N);
  bool wide = total > INT32_MAX, ordered = true;
  for (int64_t k = 1; k < n && ordered; k++) ordered = flat[k - 1] < flat[k];
  int64_t *copy = ordered ? NULL : lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *copy);
  const int64_t *sorted = ordered ? flat : copy;
  void *at = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)n, wide ? sizeof(int64_t) : sizeof(int32_t));
  lc_status st = sorted && at ? LC_OK : LC_FAILED;
  if (!st && copy) {
    memcpy(copy, flat, (size_t)n * sizeof *copy);
    qsort(copy, (size_t)n, sizeof *copy, ascending);
  }
  for (int64_t k = 0; !st && k < n; k++) {
    if (sorted[k] < 0 || sorted[k] >= total)
      st = lc_fail(ctx, "position %lld lies outside a matrix of %lld×%lld", (long long)sorted[k],
                   (long long)M, (long long)N);
    else if (k && sorted[k] == sorted[k - 1])
      st = lc_fail(ctx, "position %lld occurs twice", (long long)sorted[k]);
    else if (wide)
      ((int64_t *)at)[k] = sorted[k];
    else
      ((int32_t *)at)[k] = (int32_t)sorted[k];
  }
  lc_free(ctx, copy);
  if (st)
    lc_free(ctx, at);
  else
    *out = (lc_index){wide ? LC_LIST64 : LC_LIST32, n, at};
  return st;
}

lc_status lc_index_first(lc_ctx *ctx, int64_t M, int64_t N, int64_t n, lc_index *out) {
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *flat);
  if (!flat) return LC_FAILED;
  for (int64_t k = 0; k < n; k++) flat[k] = k;
  lc_status st = lc_index_new(ctx, M, N, flat, n, out);
  lc_free(ctx, flat);
  return st;
}

lc_status lc_index_dup(lc_ctx *ctx, const lc_index *x, lc_index *out) {
  *out = *x;
  out->at = NULL;
  if (x->kind == LC_ALL) return LC_OK;
  size_t bytes = (size_t)x->n * (x->kind == LC_LIST32 ? sizeof(int32_t) : sizeof(int64_t));
  if (!(out->at = lc_alloc(ctx, LC_MEM_TRAINABLE, bytes))) return LC_FAILED;
  memcpy(out->at, x->at, bytes);
  return LC_OK;
}

void lc_index_free(lc_ctx *ctx, lc_index *x) {
  if (x->kind != LC_ALL) lc_free(ctx, x->at);
  *x = (lc_index){0};
}

int64_t lc_index_lower(const lc_index *x, int64_t from, int64_t flat) {
  if (x->kind == LC_ALL) return lc_min64(x->n, lc_max64(from, flat));
  int64_t step = 1, lo = from, hi;
  while (lo + step < x->n && lc_index_at(x, lo + step) < flat) lo += step, step *= 2;
  for (hi = lc_min64(lo + step, x->n); lo < hi;) {
    int64_t mid = lo + (hi - lo) / 2;
    if (lc_index_at(x, mid) < flat)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

bool lc_index_has(const lc_index *x, int64_t flat) {
  if (x->kind == LC_ALL) return flat >= 0 && flat < x->n;
  int64_t k = lc_index_lower(x, 0, flat);
  return k < x->n && lc_index_at(x, k) == flat;
}

lc_status lc_index_check(lc_ctx *ctx, const lc_index *x, int64_t M, int64_t N, const char *what) {
  if (x->kind == LC_ALL) return LC_OK;
  for (int64_t k = 0, before = -1; k < x->n; before = lc_index_at(x, k++)) {
    const int64_t at = lc_index_at(x, k);
    if (at <= before || at >= M * N)
      return lc_fail(ctx, "position %lld of '%s' is %lld: positions ascend, are distinct and below %lld×%lld",
                     (long long)k + 1, what, (long long)at, (long long)M, (long long)N);
  }
  return LC_OK;
}

static void put(const lc_index *x, void *to, int64_t k, int64_t flat) {
  if (x->kind == LC_LIST32)
    ((int32_t *)to)[k] = (int32_t)flat;
  else
    ((int64_t *)to)[k] = flat;
}

/* `add`, ascending and distinct, in the worker's scratch. */
static const int64_t *sorted_copy(lc_ctx *ctx, const int64_t *add, int64_t d) {
  int64_t *in = lc_scratch(ctx, lc_worker(ctx), 7, (size_t)lc_max64(d, 1) * sizeof *in);
  bool ordered = true;
  if (!in) return NULL;
  for (int64_t k = 0; k < d; k++) {
    in[k] = add[k];
    ordered &= !k || in[k - 1] < in[k];
  }
  if (!ordered) qsort(in, (size_t)d, sizeof *in, ascending);
  for (int64_t k = 1; k < d; k++)
    if (in[k - 1] == in[k]) {
      lc_fail(ctx, "swap: position %lld comes twice", (long long)in[k]);
      return NULL;
    }
  return in;
}

/* One merge of what stays with what comes. */
lc_status lc_index_swap(lc_ctx *ctx, const lc_index *x, const int64_t *drop, const int64_t *add, int64_t d,
                        void *to, int64_t *from) {
  if (x->kind == LC_ALL) return lc_fail(ctx, "swap: the set of all positions has none to exchange");
  const int64_t *in = sorted_copy(ctx, add, d);
  if (!in) return LC_FAILED;
  int64_t out = 0, gone = 0, came = 0;
  for (int64_t k = 0; k < x->n; k++) {
    if (gone < d && drop[gone] == k) {
      gone++;
      continue;
    }
    int64_t here = lc_index_at(x, k);
    for (; came < d && in[came] < here && out < x->n; came++) {
      put(x, to, out, in[came]);
      from[out++] = -1;
    }
    if (came < d && in[came] == here)
      return lc_fail(ctx, "swap: position %lld is there already", (long long)here);
    if (out == x->n) break;
    put(x, to, out, here);
    from[out++] = k;
  }
  if (gone != d)
    return lc_fail(ctx, "swap: the places to drop are not ascending, or outside the %lld", (long long)x->n);
  for (; came < d; came++) {
    put(x, to, out, in[came]);
    from[out++] = -1;
  }
  return LC_OK;
}
