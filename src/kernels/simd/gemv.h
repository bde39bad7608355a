/* y[i] = Σ_c W[i,c]·x[c], one token, straight from storage. Four rows go together and share each load of x; a
 * row's sum is the same whether it comes alone or in company. Quantised blocks are summed before their scale
 * is applied: Σ d·q·x = d·Σ q·x; the constant parts of Q4_0 (−8) are in the table of nibbles, that of Q4_1
 * (m) multiplies the block's sum of x.
 *
 * Rows lie one after another. Read as four streams, neighbouring ones are lost by the hardware's prefetchers. So either the next four
 * are fetched front to back meanwhile (LC_GEMV_APART 0), or the four are a quarter of the rows apart, each stream running on into the next row
 * (1): better where a core follows many streams. */
#ifndef LC_GEMV_APART
#define LC_GEMV_APART 0
#endif
#include "kernels/scalar/scalar.h"

enum { VECTORS = LC_BLOCK / LANES };
typedef struct {
  vf x[VECTORS];
  vf sum;
} LC_SIMD(piece); /* 32 values of x; sum: of its vectors, for Q4_1 */

#define LC_INLINE static inline __attribute__((always_inline))

/* Each adds 32 products, lane by lane, to acc. d and m: the block's scale and offset, where it has them. */
LC_INLINE vf LC_SIMD(step_f32)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load((const float *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_bf16)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load_bf16((const uint16_t *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_f16)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load_f16((const uint16_t *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_q8_0)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  vf block = v_mul(v_load_i8((const int8_t *)w + 2), p->x[0]);
  for (int v = 1; v < VECTORS; v++)
    block = v_fma(v_load_i8((const int8_t *)w + 2 + v * LANES), p->x[v], block);
  return v_fma(v_set(d), block, acc);
}

LC_INLINE vf LC_SIMD(nibbles)(const uint8_t *q, int zero, const LC_SIMD(piece) * p) {
  vf low, high, block;
  v_load_nibbles(q, zero, &low, &high);
  block = v_fma(high, p->x[VECTORS / 2], v_mul(low, p->x[0]));
  for (int v = 1; v < VECTORS / 2; v++) {
    v_load_nibbles(q + v * LANES, zero, &low, &high);
    block = v_fma(low, p->x[v], block);
    block = v_fma(high, p->x[v + VECTORS / 2], block);
  }
  return block;
}

LC_INLINE vf LC_SIMD(step_q4_0)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  return v_fma(v_set(d), LC_SIMD(nibbles)(w + 2, 8, p), acc);
}

LC_INLINE vf LC_SIMD(step_q4_1)(const uint8_t *w, const LC_SIMD(piece) * p, float d, float m, vf acc) {
  acc = v_fma(v_set(m), p->sum, acc);
  return v_fma(v_set(d), LC_SIMD(nibbles)(w + 4, 0, p), acc);
}

/* The f16 at byte `at` of each of R blocks, converted together: they then reach the lanes as broadcast loads.
 */
LC_INLINE void LC_SIMD(scales)(int R, const uint8_t *const *w, int at, float *out) {
  uint64_t packed = 0;
  for (int r = 0; r < R; r++) {
    uint16_t h;
    memcpy(&h, w[r] + at, sizeof h);
    packed |= (uint64_t)h << (16 * r);
  }
  _mm_storeu_ps(out, _mm_cvtph_ps(_mm_cvtsi64_si128((long long)packed)));
}

/* What is left of a row behind its last whole 32, for the types without blocks. */
LC_INLINE float LC_SIMD(tail_value)(lc_dtype dtype, const uint8_t *w, int64_t i) {
  if (dtype == LC_F32) return ((const float *)w)[i];
  return dtype == LC_BF16 ? lc_bf16_to_f32(((const uint16_t *)w)[i]) : f16_at((const uint16_t *)w + i);
}

typedef vf (*LC_SIMD(step))(const uint8_t *, const LC_SIMD(piece) *, float, float, vf);

/* R <= 4 rows, every `apart`-th, blocks of `bytes`. */
LC_INLINE void LC_SIMD(gemv_rows)(int R, int64_t apart, lc_dtype dtype, int64_t bytes, LC_SIMD(step) step,
                                  int64_t n, const uint8_t *W, size_t row_bytes, const float *x, float *y) {
  int64_t whole = n - n % LC_BLOCK;
  const uint8_t *w[4], *ahead = W + (size_t)R * row_bytes;
  vf acc[4];
  for (int r = 0; r < R; r++) w[r] = W + (size_t)(r * apart) * row_bytes, acc[r] = v_set(0);
  for (int64_t c = 0; c < whole; c += LC_BLOCK) {
    for (int64_t line = 0; line < R * bytes && !LC_GEMV_APART; line += 64)
      _mm_prefetch((const char *)ahead + line, _MM_HINT_T0);
    ahead += R * bytes;
    LC_SIMD(piece) p = {.sum = v_set(0)};
    float d[4] = {0}, m[4] = {0};
    for (int v = 0; v < VECTORS; v++) p.x[v] = v_load(x + c + v * LANES);
    if (dtype == LC_Q8_0 || dtype == LC_Q4_0 || dtype == LC_Q4_1) LC_SIMD(scales)(R, w, 0, d);
    if (dtype == LC_Q4_1) {
      LC_SIMD(scales)(R, w, 2, m);
      for (int v = 0; v < VECTORS; v++) p.sum = v_add(p.sum, p.x[v]);
    }
    for (int r = 0; r < R; r++, w[r - 1] += bytes) acc[r] = step(w[r], &p, d[r], m[r], acc[r]);
  }
  for (int r = 0; r < R; r++) {
    float sum = v_sum(acc[r]);
    for (int64_t c = whole; c < n; c++) sum += LC_SIMD(tail_value)(dtype, w[r], c - whole) * x[c];
    y[r * apart] = sum;
  }
}

#define LC_GEMV(name, dtype, bytes, step)                                                                    \
  static void LC_SIMD(name)(int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x,           \
                            float *y) {                                                                      \
    const uint8_t *w = W;                                                                                    \
    int64_t i = 0, fours = m / 4;                                                                            \
    for (int64_t k = 0; k < fours; k++, i += 4) {                                                            \
      int64_t at = LC_GEMV_APART ? k : i;                                                                    \
      LC_SIMD(gemv_rows)                                                                                     \
      (4, LC_GEMV_APART ? fours : 1, dtype, bytes, step, n, w + (size_t)at * row_bytes, row_bytes, x,        \
       y + at);                                                                                              \
    }                                                                                                        \
    for (; i < m; i++)                                                                                       \
      LC_SIMD(gemv_rows)(1, 1, dtype, bytes, step, n, w + (size_t)i * row_bytes, row_bytes, x, y + i);       \
  }

LC_GEMV(gemv_f32, LC_F32, 4 * LC_BLOCK, LC_SIMD(step_f32))
LC_GEMV(gemv_bf16, LC_BF16, 2 * LC_BLOCK, LC_SIMD(step_bf16))
LC_GEMV(gemv_f16, LC_F16, 2 * LC_BLOCK, LC_SIMD(step_f16))
LC_GEMV(gemv_q8_0, LC_Q8_0, LC_Q8_0_BYTES, LC_SIMD(step_q8_0))
LC_GEMV(gemv_q4_0, LC_Q4_0, LC_Q4_0_BYTES, LC_SIMD(step_q4_0))
LC_GEMV(gemv_q4_1, LC_Q4_1, LC_Q4_1_BYTES, LC_SIMD(step_q4_1))

static void LC_SIMD(gemv_any)(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                              const float *x, float *y) {
  static void (*const by_dtype[LC_DTYPE_COUNT])(int64_t, int64_t, const void *, size_t, const float *,
                                                float *) = {
      [LC_F32] = LC_SIMD(gemv_f32),   [LC_BF16] = LC_SIMD(gemv_bf16), [LC_F16] = LC_SIMD(gemv_f16),
      [LC_Q8_0] = LC_SIMD(gemv_q8_0), [LC_Q4_0] = LC_SIMD(gemv_q4_0), [LC_Q4_1] = LC_SIMD(gemv_q4_1),
  };
  by_dtype[dtype](m, n, W, row_bytes, x, y);
}
