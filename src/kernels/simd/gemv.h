/* y[i] = Σ_c W[i,c]·x[c], one token, straight from storage. Four rows go together and share each load of x; a
 * row's sum is the same whether it comes alone or in company. Quantised blocks are summed before their scale
 * is applied: Σ d·q·x = d·Σ q·x; the constant parts of Q4_0 (−8) are in the table of nibbles, that of Q4_1
 * (m) multiplies the block's sum of x. */
#include "kernels/scalar/scalar.h"

enum { VECTORS = LC_BLOCK / LANES };
typedef struct {
  vf x[VECTORS];
  vf sum;
} LC_SIMD(piece); /* 32 values of x; sum: of its vectors, for Q4_1 */

#define LC_INLINE static inline __attribute__((always_inline))

/* Each adds 32 products, lane by lane, to acc. */
LC_INLINE vf LC_SIMD(step_f32)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load((const float *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_bf16)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load_bf16((const uint16_t *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_f16)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  for (int v = 0; v < VECTORS; v++) acc = v_fma(v_load_f16((const uint16_t *)w + v * LANES), p->x[v], acc);
  return acc;
}

LC_INLINE vf LC_SIMD(step_q8_0)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  vf block = v_mul(v_load_i8((const int8_t *)w + 2), p->x[0]);
  for (int v = 1; v < VECTORS; v++)
    block = v_fma(v_load_i8((const int8_t *)w + 2 + v * LANES), p->x[v], block);
  return v_fma(v_set(f16_at(w)), block, acc);
}

LC_INLINE vf LC_SIMD(nibbles)(const uint8_t *q, int zero, const LC_SIMD(piece) * p) {
  vf block = v_set(0);
  for (int v = 0; v < VECTORS / 2; v++) {
    vf low, high;
    v_load_nibbles(q + v * LANES, zero, &low, &high);
    block = v_fma(low, p->x[v], block);
    block = v_fma(high, p->x[v + VECTORS / 2], block);
  }
  return block;
}

LC_INLINE vf LC_SIMD(step_q4_0)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  return v_fma(v_set(f16_at(w)), LC_SIMD(nibbles)(w + 2, 8, p), acc);
}

LC_INLINE vf LC_SIMD(step_q4_1)(const uint8_t *w, const LC_SIMD(piece) * p, vf acc) {
  acc = v_fma(v_set(f16_at(w + 2)), p->sum, acc);
  return v_fma(v_set(f16_at(w)), LC_SIMD(nibbles)(w + 4, 0, p), acc);
}

/* What is left of a row behind its last whole 32, for the types without blocks. */
LC_INLINE float LC_SIMD(tail_value)(lc_dtype dtype, const uint8_t *w, int64_t i) {
  if (dtype == LC_F32) return ((const float *)w)[i];
  return dtype == LC_BF16 ? lc_bf16_to_f32(((const uint16_t *)w)[i]) : f16_at((const uint16_t *)w + i);
}

#define LC_GEMV_ROWS(R, dtype, bytes, step, need_sum)                                                        \
  do {                                                                                                       \
    const uint8_t *w[R];                                                                                     \
    vf acc[R];                                                                                               \
    for (int r = 0; r < (R); r++)                                                                            \
      w[r] = (const uint8_t *)W + (size_t)(i + r) * row_bytes, acc[r] = v_set(0);                            \
    for (int64_t c = 0; c < whole; c += LC_BLOCK) {                                                          \
      LC_SIMD(piece) p = {.sum = v_set(0)};                                                                  \
      for (int v = 0; v < VECTORS; v++) p.x[v] = v_load(x + c + v * LANES);                                  \
      for (int v = 0; v < VECTORS && need_sum; v++) p.sum = v_add(p.sum, p.x[v]);                            \
      for (int r = 0; r < (R); r++, w[r - 1] += (bytes)) acc[r] = step(w[r], &p, acc[r]);                    \
    }                                                                                                        \
    for (int r = 0; r < (R); r++) {                                                                          \
      float sum = v_sum(acc[r]);                                                                             \
      for (int64_t c = whole; c < n; c++) sum += LC_SIMD(tail_value)(dtype, w[r], c - whole) * x[c];         \
      y[i + r] = sum;                                                                                        \
    }                                                                                                        \
  } while (0)

#define LC_GEMV(name, dtype, bytes, step, need_sum)                                                          \
  static void LC_SIMD(name)(int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x,           \
                            float *y) {                                                                      \
    int64_t i = 0, whole = n - n % LC_BLOCK;                                                                 \
    for (; i + 4 <= m; i += 4) LC_GEMV_ROWS(4, dtype, bytes, step, need_sum);                                \
    for (; i < m; i++) LC_GEMV_ROWS(1, dtype, bytes, step, need_sum);                                        \
  }

LC_GEMV(gemv_f32, LC_F32, 4 * LC_BLOCK, LC_SIMD(step_f32), false)
LC_GEMV(gemv_bf16, LC_BF16, 2 * LC_BLOCK, LC_SIMD(step_bf16), false)
LC_GEMV(gemv_f16, LC_F16, 2 * LC_BLOCK, LC_SIMD(step_f16), false)
LC_GEMV(gemv_q8_0, LC_Q8_0, LC_Q8_0_BYTES, LC_SIMD(step_q8_0), false)
LC_GEMV(gemv_q4_0, LC_Q4_0, LC_Q4_0_BYTES, LC_SIMD(step_q4_0), false)
LC_GEMV(gemv_q4_1, LC_Q4_1, LC_Q4_1_BYTES, LC_SIMD(step_q4_1), true)

static void LC_SIMD(gemv)(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                          const float *x, float *y) {
  static void (*const by_dtype[LC_DTYPE_COUNT])(int64_t, int64_t, const void *, size_t, const float *,
                                                float *) = {
      [LC_F32] = LC_SIMD(gemv_f32),   [LC_BF16] = LC_SIMD(gemv_bf16), [LC_F16] = LC_SIMD(gemv_f16),
      [LC_Q8_0] = LC_SIMD(gemv_q8_0), [LC_Q4_0] = LC_SIMD(gemv_q4_0), [LC_Q4_1] = LC_SIMD(gemv_q4_1),
  };
  by_dtype[dtype](m, n, W, row_bytes, x, y);
}
