/* Sampled gradients by bf16 dot products (vdpbf16ps: two products a lane, f32 accumulation). The shape of
 * simd/sparse.h: four entries of one row together, one accumulator an entry. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

static inline __m512bh load(const uint16_t *p) {
  return (__m512bh)_mm512_loadu_si512(p);
}

static inline __m512bh load_part(const uint16_t *p, int64_t n) {
  return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
}

static inline __attribute__((always_inline)) void entries(int R, int64_t T, const uint16_t *dy,
                                                          const uint16_t *const *x, float *g) {
  __m512 acc[4];
  int64_t t = 0;
  for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
  for (; t + 32 <= T; t += 32) {
    __m512bh d = load(dy + t);
    for (int r = 0; r < R; r++) acc[r] = _mm512_dpbf16_ps(acc[r], load(x[r] + t), d);
  }
  if (t < T) {
    __m512bh d = load_part(dy + t, T - t);
    for (int r = 0; r < R; r++) acc[r] = _mm512_dpbf16_ps(acc[r], load_part(x[r] + t, T - t), d);
  }
  for (int r = 0; r < R; r++) g[r] += _mm512_reduce_add_ps(acc[r]);
}

void lc_avx512_bf16_sampled(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                            const uint16_t *xT, const uint16_t *dyT, float *g) {
  for (int64_t k = 0; k < K;) {
    int64_t row = flat[k] / N, first = row * N, end = first + N;
    const uint16_t *dy = dyT + (row - row0) * ld;
    for (; k + 4 <= K && flat[k + 3] < end; k += 4) {
      const uint16_t *x[4];
      for (int r = 0; r < 4; r++) x[r] = xT + (flat[k + r] - first) * ld;
      entries(4, T, dy, x, g + k);
    }
    for (; k < K && flat[k] < end; k++) {
      const uint16_t *x = xT + (flat[k] - first) * ld;
      entries(1, T, dy, &x, g + k);
    }
  }
}
