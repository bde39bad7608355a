/* Attention forward in bf16 products (attention_bf16.h: panels and tiles), eight queries at a time:
 *
 *   S (8, block) = Q·Kᵀ;  m, l and P = 2^(c·(S−m)) along the rows, c = scale·log2 e;  O = O·shrink + P·V
 *
 * over blocks of 512 keys, so that S and P stay in the first-level cache and most sequences need one or two
 * corrections of the running maximum. P is rounded to bf16 in the order in which P·V reads it. Panels of keys that
 * none of the eight sees are skipped. */
#include "kernels/avx512/attention_bf16.h"

enum { BLOCK = 512 };

/* ---- packing ---- */

lc_attn_rows lc_attn_rows_of(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *copy) {
  if (n % ROWS == 0 && D % 2 == 0 && ld % 2 == 0 && ((uintptr_t)rows & 3) == 0)
    return (lc_attn_rows){(const float *)(const void *)rows, ld / 2};
  int64_t units = (D + 1) / 2, whole = lc_ceil_div(n, ROWS) * ROWS;
  memset(copy, 0, (size_t)(whole * 2 * units) * sizeof *copy);
  for (int64_t i = 0; i < n; i++) memcpy(copy + i * 2 * units, rows + i * ld, (size_t)D * sizeof *copy);
  return (lc_attn_rows){(const float *)(void *)copy, units};
}

void lc_attn_pack_across(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, float *panels) {
  int64_t units = (D + 1) / 2;
  bool words = D % 2 == 0 && ld % 2 == 0 && ((uintptr_t)rows & 3) == 0;
  for (int64_t j = 0; j < n; j += PANEL, panels += units * PANEL) {
    int64_t count = lc_min64(PANEL, n - j);
    const uint16_t *from = rows + j * ld;
    if (count < PANEL || !words) memset(panels, 0, (size_t)(units * PANEL) * sizeof *panels);
    if (words)
      lc_avx2_transpose_f32(count, units, (const float *)(const void *)from, ld / 2, panels, PANEL);
    else
      for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < D; d++)
          ((uint16_t *)(void *)panels)[((d / 2) * PANEL + i) * 2 + d % 2] = from[i * ld + d];
  }
}

/* One unit of 32 columns: rows a and b, value by value beside each other. */
static inline void join(__m512i a, __m512i b, float *out) {
  __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
  _mm512_storeu_si512(out + LANES, _mm512_permutex2var_epi16(a, high, b));
}

void lc_attn_pack_along(int64_t n, int64_t units, int64_t D, const uint16_t *rows, int64_t ld,
                        float *panels) {
  for (int64_t d = 0; d < D; d += PANEL) {
    __mmask32 mask = (__mmask32)((1ull << lc_min64(PANEL, D - d)) - 1);
    for (int64_t u = 0; u < units; u++, panels += PANEL) {
      const uint16_t *row = rows + 2 * u * ld + d;
      __m512i none = _mm512_setzero_si512(), a = none, b = none;
      if (2 * u < n) a = _mm512_maskz_loadu_epi16(mask, row);
      if (2 * u + 1 < n) b = _mm512_maskz_loadu_epi16(mask, row + ld);
      join(a, b, panels);
    }
  }
}

/* Forward: keys across, values along. Backward: keys and values across, keys along. */
void lc_avx512_bf16_attention_pack(const lc_attention_shape *s, bool back, const uint16_t *k, int64_t ldk,
                                   const uint16_t *v, int64_t ldv, void *packed) {
  lc_attn_sizes z = lc_attn_sizes_of(s);
  float *p = packed;
  lc_attn_pack_across(s->tk, s->D, k, ldk, p);
  p += z.keys * z.units;
  if (!back) {
    lc_attn_pack_along(s->tk, z.keys / 2, s->D, v, ldv, p);
    return;
  }
  lc_attn_pack_across(s->tk, s->D, v, ldv, p);
  lc_attn_pack_along(s->tk, z.keys / 2, s->D, k, ldk, p + z.keys * z.units);
}

/* ---- forward ---- */

typedef struct {
  const lc_attention_shape *s;
  lc_attn_sizes z;
  const float *k, *v; /* panels */
  float *scores;      /* (8, BLOCK) */
  uint16_t *p;        /* (8, BLOCK) */
} forward;

/* Eight queries from `position`: out (8, width), lse. */
static void eight(const forward *w, int64_t position, const float *q, int64_t row, float *out, float *lse) {
  const lc_attention_shape *s = w->s;
  int64_t width = w->z.width, units = w->z.units;
  float factor = s->scale * 1.44269504f, max[ROWS];
  __m512 l[ROWS];
  bool fresh = true;
  for (int r = 0; r < ROWS; r++) max[r] = LC_ATTN_LOWEST, l[r] = v_set(0);
  for (int64_t j = 0; j < s->tk; j += BLOCK) {
    lc_attn_span c = lc_attn_panels(s, position, ROWS, j, lc_min64(j + BLOCK, w->z.keys));
    if (c.end <= c.first) continue;
    for (int64_t i = c.first; i < c.end; i += PANEL)
      lc_attn_tile(q, row, 1, w->k + (j + i) * units, units, w->scores + i, BLOCK, false);
    for (int r = 0; r < ROWS; r++) {
      float *at = w->scores + r * BLOCK, *o = out + r * width;
      lc_attn_hide(1, at, c, lc_attn_visible(s, position + r), j);
      float shrink = lc_attn_softmax_row(1, at, c, factor, &max[r], &l[r], w->p + r * BLOCK);
      for (int64_t d = 0; !fresh && shrink != 1 && d < width; d += LANES)
        v_store(o + d, v_mul(v_load(o + d), v_set(shrink)));
    }
    const float *p = (const float *)(const void *)(w->p + c.first), *v = w->v + (j + c.first) / 2 * PANEL;
    for (int64_t d = 0; d < width; d += PANEL, v += w->z.keys / 2 * PANEL)
      lc_attn_tile(p, BLOCK / 2, 1, v, (c.end - c.first) / 2, out + d, width, !fresh);
    fresh = false;
  }
  if (fresh) memset(out, 0, (size_t)(ROWS * width) * sizeof *out);
  for (int r = 0; r < ROWS; r++) {
    float sum = v_sum(l[r]);
    __m512 inverse = v_set(sum == 0 ? 0 : 1 / sum);
    for (int64_t d = 0; d < width; d += LANES)
      v_store(out + r * width + d, v_mul(v_load(out + r * width + d), inverse));
    lse[r] = sum == 0 ? -INFINITY : max[r] * s->scale + logf(sum);
  }
}

void lc_avx512_bf16_attention(const lc_attention_shape *s, int64_t tq, int64_t q0, const uint16_t *q,
                              int64_t ldq, const void *packed, float *out, float *lse, void *scratch) {
  forward w = {.s = s, .z = lc_attn_sizes_of(s), .k = packed, .scores = scratch};
  w.v = w.k + w.z.keys * w.z.units;
  w.p = (uint16_t *)(void *)(w.scores + ROWS * BLOCK);
  lc_attn_rows rows = lc_attn_rows_of(tq, s->D, q, ldq, w.p + ROWS * BLOCK);
  for (int64_t i = 0; i < tq; i += ROWS) {
    float at[ROWS];
    eight(&w, q0 + i, rows.at + i * rows.row, rows.row, out + i * w.z.width, at);
    memcpy(lse + i, at, (size_t)lc_min64(ROWS, tq - i) * sizeof *lse);
  }
}
