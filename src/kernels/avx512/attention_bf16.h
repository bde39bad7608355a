/* What attention's forward and backward pass in bf16 share: panels, the register tile, 2^x.
 *
 * A product C (8 rows, 32 columns) = Σ_u a(row, u)·B(u, column) walks along units: pairs of bf16 that follow each
 * other along the inner dimension, two multiply-adds to vdpbf16ps. Rows of a are broadcast unit by unit from where
 * they stand (queries, gradients of the output, probabilities); B is a panel, 32 columns side by side a unit:
 *
 *   across: columns are keys, units run along D           (scores: Q·Kᵀ, dO·Vᵀ)
 *   along:  columns are 32 of the D, units run along rows (sums over keys or queries: P·V, Pᵀ·dO)
 *
 * Sixteen sums are enough to hide the latency, and a 64-byte piece of a panel serves eight rows: panels may come
 * from the second-level cache. */
#ifndef LC_AVX512_ATTENTION_BF16_H
#define LC_AVX512_ATTENTION_BF16_H
#include <math.h>
#include <string.h>
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/avx2/avx2.h"

#define LC_ALWAYS static inline __attribute__((always_inline))
enum { ROWS = 8, PANEL = LC_ATTN_PANEL, TILE = LC_ATTN_TILE };

/* The sizes that follow from a shape: keys padded to panels, units of D, D padded to panels; floats. */
typedef struct {
  int64_t keys, units, width;
} lc_attn_sizes;
static inline lc_attn_sizes lc_attn_sizes_of(const lc_attention_shape *s) {
  return (lc_attn_sizes){LC_ATTN_KEYS(s->tk), (s->D + 1) / 2, LC_ATTN_LD(s->D)};
}

/* Rows of D values as units: the rows themselves, `row` units apart, or, when the last tile of eight is not whole or
 * pairs do not stand at whole words, a copy with zeros behind. */
typedef struct {
  const float *at;
  int64_t row;
} lc_attn_rows;
lc_attn_rows lc_attn_rows_of(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *copy);
void lc_attn_pack_across(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, float *panels);
/* `units` of every panel, n <= 2·units rows */
void lc_attn_pack_along(int64_t n, int64_t units, int64_t D, const uint16_t *rows, int64_t ld, float *panels);

/* Unit u of row i stands at a[i·row + u·step]. add: to what C holds. */
LC_ALWAYS void lc_attn_tile(const float *a, int64_t row, int64_t step, const float *b, int64_t units,
                            float *c, int64_t ldc, bool add) {
  __m512 s0[ROWS], s1[ROWS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
    s0[i] = add ? _mm512_loadu_ps(c + i * ldc) : _mm512_setzero_ps();
    s1[i] = add ? _mm512_loadu_ps(c + i * ldc + LANES) : _mm512_setzero_ps();
  }
  for (int64_t u = 0; u < units; u++, a += step, b += PANEL) {
    __m512bh b0 = (__m512bh)_mm512_loadu_ps(b), b1 = (__m512bh)_mm512_loadu_ps(b + LANES);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      __m512bh ai = (__m512bh)_mm512_set1_ps(a[i * row]);
      s0[i] = _mm512_dpbf16_ps(s0[i], ai, b0);
      s1[i] = _mm512_dpbf16_ps(s1[i], ai, b1);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
    _mm512_storeu_ps(c + i * ldc, s0[i]);
    _mm512_storeu_ps(c + i * ldc + LANES, s1[i]);
  }
}

/* 2^x, relative error below 3e-6 (the rounding of a probability to bf16 is 2e-3): a minimax fit of degree 4 on
 * [-1/2, 1/2], scaled; 0 and infinity where they belong, NaN stays. */
static inline __m512 lc_attn_exp2(__m512 x) {
  __m512 n = v_round(x), r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_fmadd_ps(v_set(9.57010221e-3f), r, v_set(5.59178591e-2f));
  p = _mm512_fmadd_ps(p, r, v_set(2.40247443e-1f));
  p = _mm512_fmadd_ps(p, r, v_set(6.93121791e-1f));
  p = _mm512_fmadd_ps(p, r, v_set(9.99999285e-1f));
  return _mm512_scalef_ps(p, n);
}

/* The keys [first,end) that a query at `position` sees. */
typedef struct {
  int64_t first, end;
} lc_attn_span;
static inline lc_attn_span lc_attn_visible(const lc_attention_shape *s, int64_t position) {
  if (!s->causal) return (lc_attn_span){0, s->tk};
  return (lc_attn_span){s->window > 0 ? lc_max64(0, position - s->window + 1) : 0,
                        lc_min64(s->tk, position + 1)};
}
/* Of keys [j,j1) the whole panels that any of `rows` queries from `position` sees, relative to j; end <= first: none. */
static inline lc_attn_span lc_attn_panels(const lc_attention_shape *s, int64_t position, int64_t rows,
                                          int64_t j, int64_t j1) {
  int64_t first = lc_attn_visible(s, position).first, end = lc_attn_visible(s, position + rows - 1).end;
  first = lc_max64(j, first / PANEL * PANEL), end = lc_min64(j1, lc_ceil_div(end, PANEL) * PANEL);
  return (lc_attn_span){first - j, end - j};
}
/* The lanes of a vector of keys, the first of them `key`, that a span holds. */
static inline __mmask16 lc_attn_lanes(lc_attn_span v, int64_t key) {
  int64_t first = lc_min64(LANES, lc_max64(0, v.first - key)),
          end = lc_min64(LANES, lc_max64(0, v.end - key));
  return (__mmask16)(v_mask(end) & ~v_mask(first));
}

#define LC_ATTN_LOWEST (-1e30f) /* below every score, and finite: a difference of two is never NaN */

/* A row's value for key c, where `rows` rows of a panel stand together. */
#define LC_ATTN_AT(p, c, rows) ((p) + (c) / PANEL * PANEL * (rows) + (c) % PANEL)

/* Scores that a row does not see become −∞: only at the ends of what the panels hold. */
LC_ALWAYS void lc_attn_hide(int64_t rows, float *s, lc_attn_span panels, lc_attn_span seen, int64_t j) {
  __m512 none = v_set(-INFINITY);
  int64_t c = panels.first;
  for (; c < panels.end && j + c < seen.first; c += LANES)
    _mm512_mask_storeu_ps(LC_ATTN_AT(s, c, rows), (__mmask16)~lc_attn_lanes(seen, j + c), none);
  if (seen.end - j > c) c += (seen.end - j - c) / LANES * LANES;
  for (; c < panels.end; c += LANES)
    _mm512_mask_storeu_ps(LC_ATTN_AT(s, c, rows), (__mmask16)~lc_attn_lanes(seen, j + c), none);
}

/* One row of S to P; *l sums lane by lane; returns what earlier sums shrink by. */
LC_ALWAYS float lc_attn_softmax_row(int64_t rows, const float *s, lc_attn_span c, float factor, float *max,
                                    __m512 *l, uint16_t *p) {
  __m512 m0 = v_set(*max), m1 = m0;
  for (int64_t i = c.first; i < c.end; i += PANEL)
    m0 = v_max(m0, v_load(s + i * rows)), m1 = v_max(m1, v_load(s + i * rows + LANES));
  float m = v_max_lane(v_max(m0, m1)), old = *max;
  __m512 f = v_set(factor), base = v_set(-m * factor), sum0 = v_set(0), sum1 = sum0;
  for (int64_t i = c.first; i < c.end; i += PANEL) {
    __m512 p0 = lc_attn_exp2(v_fma(v_load(s + i * rows), f, base)),
           p1 = lc_attn_exp2(v_fma(v_load(s + i * rows + LANES), f, base));
    sum0 = v_add(sum0, p0), sum1 = v_add(sum1, p1);
    _mm512_storeu_si512(p + i * rows, (__m512i)_mm512_cvtne2ps_pbh(p1, p0));
  }
  *max = m;
  float shrink = m == old ? 1 : exp2f((old - m) * factor);
  *l = v_fma(*l, v_set(shrink), v_add(sum0, sum1));
  return shrink;
}

/* Σ_d a·b. */
static inline float lc_attn_dot(int64_t D, const uint16_t *a, const uint16_t *b) {
  __m512 sum = v_set(0);
  for (int64_t d = 0; d < D; d += 2 * LANES) {
    __mmask32 m = (__mmask32)((1ull << lc_min64(2 * LANES, D - d)) - 1);
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(m, a + d),
                           (__m512bh)_mm512_maskz_loadu_epi16(m, b + d));
  }
  return v_sum(sum);
}

#endif
