/* Masks: a bit an entry, in the order of flat indices. See mask.h. */
#include "sparse/mask.h"
#include <string.h>

size_t lc_mask_bytes(int64_t M, int64_t N) {
  return (size_t)((M * N + 7) / 8);
}

lc_status lc_mask_new(lc_ctx *ctx, int64_t M, int64_t N, lc_mask *m) {
  *m = (lc_mask){.M = M, .N = N, .kept = M * N};
  m->bits = lc_alloc(ctx, LC_MEM_FORM, lc_mask_bytes(M, N));
  if (!m->bits) return LC_FAILED;
  memset(m->bits, 0xff, (size_t)(M * N / 8));
  if (M * N % 8) m->bits[M * N / 8] = (uint8_t)((1u << (M * N % 8)) - 1);
  return LC_OK;
}

void lc_mask_free(lc_ctx *ctx, lc_mask *m) {
  lc_free(ctx, m->bits);
  *m = (lc_mask){0};
}

static void drop(lc_mask *m, int64_t flat) {
  const uint8_t bit = (uint8_t)(1u << (flat & 7));
  m->kept -= (m->bits[flat >> 3] & bit) != 0;
  m->bits[flat >> 3] &= (uint8_t)~bit;
}

void lc_mask_drop(lc_mask *m, const lc_index *x) {
  if (x->n) m->structure = LC_MASK_ENTRIES;
  for (int64_t k = 0; k < x->n; k++) drop(m, lc_index_at(x, k));
}

void lc_mask_drop_lines(lc_mask *m, bool columns, int64_t first, int64_t n) {
  if (m->kept == m->M * m->N) m->structure = LC_MASK_LINES;
  for (int64_t r = columns ? 0 : first; r < (columns ? m->M : first + n); r++)
    for (int64_t c = columns ? first : 0; c < (columns ? first + n : m->N); c++) drop(m, r * m->N + c);
}

int64_t lc_mask_count(const lc_mask *m) {
  int64_t n = 0;
  for (size_t i = 0; i < lc_mask_bytes(m->M, m->N); i++) n += __builtin_popcount(m->bits[i]);
  return n;
}

lc_status lc_mask_dropped(lc_ctx *ctx, const lc_mask *m, lc_index *out) {
  const int64_t n = m->M * m->N - m->kept;
  *out = (lc_index){.kind = LC_LIST32};
  if (!n) return LC_OK;
  int64_t k = 0, *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *flat);
  if (!flat) return LC_FAILED;
  for (int64_t f = 0; f < m->M * m->N; f++)
    if (!lc_mask_has(m, f)) flat[k++] = f;
  lc_status st = lc_index_new(ctx, m->M, m->N, flat, n, out);
  lc_free(ctx, flat);
  return st;
}
