/* Integer products of prompts (the sums: scalar/gemm_q8.c): MR tokens by P panels at a time. The integer sums of a block are made in registers, by
 * `block_sums` of the instruction set (gemm_q8_dot.h, gemm_q8_pairs.h), then scaled and added to the f32 sums:
 *   acc += (s[t,b]·sum)·d[i,b]   in this order on every path, so that all give the same bits.
 * Before this file: vf and its functions (simd.h), vi (LANES int32) and its own, the constants MR and P; LC_Q8_PAIRS, or not. */
#include "kernels/scalar/scalar.h"
enum { PANEL_VECTORS = LC_Q8_PANEL / LANES, WIDE = P * PANEL_VECTORS, W_BYTES = LC_BLOCK * LC_Q8_PANEL };

/* MR tokens: the first `tokens` count, the others repeat the last. */
typedef struct {
  const int8_t *q[MR];
  const float *scale[MR], *offset[MR];
  const int32_t *start[MR];
} lefts;

INLINE lefts lefts_at(lc_dtype dtype, const lc_q8_rows *x, int64_t t, int64_t tokens) {
  const int64_t blocks = x->n / LC_BLOCK;
  const int32_t *start = dtype == LC_Q8_0 ? x->start128 : x->start8;
  lefts a;
  for (int r = 0; r < MR; r++) {
    int64_t at = t + lc_min64(r, tokens - 1);
    a.q[r] = x->q + at * x->n;
    a.scale[r] = x->scale + at * blocks, a.offset[r] = x->offset + at * blocks,
    a.start[r] = start + at * blocks;
  }
  return a;
}

#ifdef LC_Q8_PAIRS
#include "kernels/simd/gemm_q8_pairs.h"
#else
#include "kernels/simd/gemm_q8_dot.h"
#endif

/* V vectors of rows of W: one panel's or P panels', `apart` bytes from each other. */
INLINE void tile(lc_dtype dtype, int V, int64_t blocks, const lefts *a, const uint8_t *w, int64_t apart,
                 float *y, int64_t ldy, int64_t tokens) {
  const int64_t step = W_BYTES + (dtype == LC_Q4_1 ? 2 : 1) * LC_Q8_PANEL * (int64_t)sizeof(float);
  vf acc[MR][WIDE];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) acc[r][v] = v_set(0);
  for (int64_t b = 0; b < blocks; b++, w += step) {
    vi sum[MR][WIDE];
    block_sums(dtype, V, w, apart, a, b, sum);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      vf s = v_set(a->scale[r][b]), o = dtype == LC_Q4_1 ? v_set(a->offset[r][b]) : s;
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        const float *d = (const float *)(const void *)(w + v / PANEL_VECTORS * apart + W_BYTES) +
                         v % PANEL_VECTORS * LANES;
        acc[r][v] = v_fma(v_mul(vi_to_vf(sum[r][v]), s), v_load(d), acc[r][v]);
        if (dtype == LC_Q4_1) acc[r][v] = v_fma(o, v_load(d + LC_Q8_PANEL), acc[r][v]);
      }
    }
  }
  for (int r = 0; r < MR && r < tokens; r++, y += ldy)
    for (int v = 0; v < V; v++) v_store(y + v * LANES, acc[r][v]);
}

#define LC_GEMM_Q8(name, dtype)                                                                              \
  static void name(int64_t T, int64_t panels, const uint8_t *w, int64_t apart, const lc_q8_rows *x,          \
                   int64_t t0, float *y, int64_t ldy) {                                                      \
    const int64_t blocks = x->n / LC_BLOCK;                                                                  \
    for (int64_t p = 0; p < panels; p += P, w += P * apart)                                                  \
      for (int64_t t = 0; t < T; t += MR) {                                                                  \
        lefts a = lefts_at(dtype, x, t0 + t, lc_min64(MR, T - t));                                           \
        if (p + P <= panels)                                                                                 \
          tile(dtype, WIDE, blocks, &a, w, apart, y + t * ldy + p * LC_Q8_PANEL, ldy, T - t);                \
        else                                                                                                 \
          tile(dtype, PANEL_VECTORS, blocks, &a, w, apart, y + t * ldy + p * LC_Q8_PANEL, ldy, T - t);       \
      }                                                                                                      \
  }
LC_GEMM_Q8(gemm_q8_0, LC_Q8_0)
LC_GEMM_Q8(gemm_q4_0, LC_Q4_0)
LC_GEMM_Q8(gemm_q4_1, LC_Q4_1)

INLINE void gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                    int64_t t0, float *y, int64_t ldy) {
  (dtype == LC_Q8_0   ? gemm_q8_0
   : dtype == LC_Q4_0 ? gemm_q4_0
                      : gemm_q4_1)(T, panels, packed, (int64_t)lc_q8_panel_bytes(dtype, x->n), x, t0, y, ldy);
}
