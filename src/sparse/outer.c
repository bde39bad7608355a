/* The n largest entries of an outer product r·qᵀ (r, q ≥ 0) without forming it: rows are streams of columns
 * in descending q, merged by a heap of rows. Products are taken in f64, where the product of two f32 is
 * exact, so ties are true ties and go to the lower flat index. */
#include "sparse/sparse.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  float q;
  int32_t col;
} column;
typedef struct {
  const float *r;
  const column *cols;
  int64_t *next;
  int32_t *heap;
  int64_t N, size;
} merge;

size_t lc_outer_topk_bytes(int64_t M, int64_t N, int64_t n) {
  (void)n;
  return (size_t)N * sizeof(column) + (size_t)M * (sizeof(int64_t) + sizeof(int32_t)) + 64;
}

static int descending(const void *x, const void *y) {
  const column *a = x, *b = y;
  if (a->q != b->q) return a->q < b->q ? 1 : -1;
  return a->col < b->col ? -1 : a->col > b->col;
}

/* A row of zeros runs through its columns in natural order: all its products tie. */
static int64_t column_of(const merge *m, int32_t row) {
  return m->r[row] > 0 ? m->cols[m->next[row]].col : m->next[row];
}
static double product(const merge *m, int32_t row) {
  return m->r[row] > 0 ? (double)m->r[row] * (double)m->cols[m->next[row]].q : 0;
}

static bool before(const merge *m, int32_t a, int32_t b) {
  double x = product(m, a), y = product(m, b);
  if (x != y) return x > y;
  return a < b; /* equal products in different rows: the lower row is the lower flat index */
}

static void sift(merge *m, int64_t i) {
  for (;;) {
    int64_t c = 2 * i + 1;
    if (c >= m->size) return;
    if (c + 1 < m->size && before(m, m->heap[c + 1], m->heap[c])) c++;
    if (!before(m, m->heap[c], m->heap[i])) return;
    int32_t t = m->heap[c];
    m->heap[c] = m->heap[i];
    m->heap[i] = t;
    i = c;
  }
}

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

lc_status lc_outer_topk(lc_ctx *ctx, const float *r, int64_t M, const float *q, int64_t N, int64_t n,
                        const lc_index *exclude, void *scratch, int64_t *out, int64_t *found) {
  if (M > INT32_MAX || N > INT32_MAX)
    return lc_fail(ctx, "outer selection: %lld×%lld is too large", (long long)M, (long long)N);
  for (int64_t i = 0; i < M; i++)
    if (!(r[i] >= 0 && isfinite(r[i])))
      return lc_fail(ctx, "outer selection: row score %lld is %g", (long long)i, (double)r[i]);
  for (int64_t j = 0; j < N; j++)
    if (!(q[j] >= 0 && isfinite(q[j])))
      return lc_fail(ctx, "outer selection: column score %lld is %g", (long long)j, (double)q[j]);
  int64_t *next = scratch;
  column *cols = (column *)(void *)(next + M);
  merge m = {r, cols, next, (int32_t *)(void *)(cols + N), N, M};
  for (int64_t j = 0; j < N; j++) cols[j] = (column){q[j], (int32_t)j};
  qsort(cols, (size_t)N, sizeof *cols, descending);
  for (int64_t i = 0; i < M; i++) next[i] = 0, m.heap[i] = (int32_t)i;
  for (int64_t i = M / 2; i-- > 0;) sift(&m, i);
  *found = 0;
  while (m.size > 0 && *found < n) {
    int32_t row = m.heap[0];
    int64_t flat = row * N + column_of(&m, row);
    if (!exclude || !lc_index_has(exclude, flat)) out[(*found)++] = flat;
    if (++next[row] == N) m.heap[0] = m.heap[--m.size];
    sift(&m, 0);
  }
  qsort(out, (size_t)*found, sizeof *out, ascending);
  return LC_OK;
}
