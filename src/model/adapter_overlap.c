/* How much two sparse adapters interfere (SHiRA, arXiv 2406.13175, §"multi-adapter fusion"): of P = S1ᵀS2
 * (N,N), AWOM = ‖P‖_F and AWOR = 1 − nnz(P)/N². P is made row by row (a row is a column of S1) and forgotten.
 * */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "model/adapter.h"

typedef struct {
  int32_t col, row;
  float value;
} cell;

static int by_column(const void *x, const void *y) {
  const cell *a = x, *b = y;
  if (a->col != b->col) return a->col < b->col ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

/* acc += value · (row r of S2); remembers which columns were touched. */
static void add_row(const lc_param *s2, int64_t N, const cell *c, double *acc, int32_t *touched, int64_t *n,
                    uint8_t *seen) {
  const int64_t first = (int64_t)c->row * N;
  for (int64_t k = lc_index_lower(&s2->idx, 0, first); k < s2->n && lc_index_at(&s2->idx, k) < first + N;
       k++) {
    const int64_t j = lc_index_at(&s2->idx, k) - first;
    if (!seen[j]) touched[(*n)++] = (int32_t)j;
    seen[j] = 1;
    acc[j] += (double)c->value * (double)s2->value[k];
  }
}

static lc_status overlap(lc_ctx *ctx, const lc_weight *w, const lc_param *s1, const lc_param *s2,
                         lc_overlap_row *out) {
  lc_status st = LC_OK;
  const int64_t N = w->N;
  cell *c = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)s1->n, sizeof *c);
  double *acc = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)N, sizeof *acc), squares = 0;
  int32_t *touched = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)N, sizeof *touched);
  uint8_t *seen = lc_alloc(ctx, LC_MEM_OTHER, (size_t)N);
  int64_t nonzero = 0, n = 0;
  if (!c || !acc || !touched || !seen) LC_GO(LC_FAILED);
  *out = (lc_overlap_row){.weight = w->name};
  for (int64_t k = 0; k < s1->n; k++) {
    const int64_t flat = lc_index_at(&s1->idx, k);
    c[k] = (cell){(int32_t)(flat % N), (int32_t)(flat / N), s1->value[k]};
    out->both += lc_index_has(&s2->idx, flat);
  }
  qsort(c, (size_t)s1->n, sizeof *c, by_column);
  for (int64_t k = 0; k < s1->n; k++) {
    add_row(s2, N, &c[k], acc, touched, &n, seen);
    if (k + 1 < s1->n && c[k + 1].col == c[k].col) continue;
    for (; n > 0; n--) { /* this row of P is complete */
      const int32_t j = touched[n - 1];
      nonzero += acc[j] != 0;
      squares += acc[j] * acc[j];
      acc[j] = seen[j] = 0;
    }
  }
  out->awom = sqrt(squares);
  out->awor = 1 - (double)nonzero / ((double)N * (double)N);
done:
  lc_free(ctx, c);
  lc_free(ctx, acc);
  lc_free(ctx, touched);
  lc_free(ctx, seen);
  return st;
}

lc_status lc_adapter_overlap(const lc_adapter *a, const lc_adapter *b, lc_overlap_row **out, int *n) {
  lc_ctx *ctx = a->net->ctx;
  lc_overlap_row *row = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)a->n * (size_t)b->n, sizeof *row);
  lc_status st = row ? LC_OK : LC_FAILED;
  *n = 0;
  for (int i = 0; i < a->n && !st; i++)
    for (int j = 0; j < b->n && !st; j++) {
      const lc_delta *x = a->delta[i], *y = b->delta[j];
      if (strcmp(x->w->name, y->w->name) || x->ops != &lc_delta_sparse || y->ops != &lc_delta_sparse)
        continue;
      if (x->w->M != y->w->M || x->w->N != y->w->N)
        st = lc_fail(ctx, "'%s' is %lld×%lld in one model and %lld×%lld in the other", x->w->name,
                     (long long)x->w->M, (long long)x->w->N, (long long)y->w->M, (long long)y->w->N);
      else
        st = overlap(ctx, x->w, x->param[0], y->param[0], &row[(*n)++]);
    }
  if (st) lc_free(ctx, row);
  *out = st ? NULL : row;
  return st;
}
