/* Sampled gradients by bf16 dot products (vdpbf16ps: two products a lane, f32 accumulation). The shape of
 * simd/sparse.h: up to eight entries of one row together, one accumulator an entry. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

static inline __m512bh load(const uint16_t *p) {
  return (__m512bh)_mm512_loadu_si512(p);
}

static inline __m512bh load_part(const uint16_t *p, int64_t n) {
  return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), p);
}

/* g[0..n) += the sums of n accumulators, n at most 4: each by the same tree whatever n is. */
static inline void add_sums(const __m512 *acc, int n, float *g) {
  const __m512 zero = _mm512_setzero_ps(), a = acc[0], b = n > 1 ? acc[1] : zero, c = n > 2 ? acc[2] : zero,
               d = n > 3 ? acc[3] : zero;
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)),
         cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512 s = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  __mmask8 those = (__mmask8)((1u << n) - 1);
  _mm_mask_storeu_ps(g, those, _mm_add_ps(_mm_maskz_loadu_ps(those, g), sum));
}

static inline __attribute__((always_inline)) void entries(int R, int64_t T, const uint16_t *dy,
                                                          const uint16_t *const *x, float *g) {
  __m512 acc[8];
  int64_t t = 0;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
  for (; t + 32 <= T; t += 32) {
    __m512bh d = load(dy + t);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[r] = _mm512_dpbf16_ps(acc[r], load(x[r] + t), d);
  }
  if (t < T) {
    __m512bh d = load_part(dy + t, T - t);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[r] = _mm512_dpbf16_ps(acc[r], load_part(x[r] + t, T - t), d);
  }
  add_sums(acc, R < 4 ? R : 4, g);
  if (R > 4) add_sums(acc + 4, R - 4, g + 4);
}

static void up_to_8(int n, int64_t T, const uint16_t *dy, const uint16_t *const *x, float *g) {
  switch (n) {
  case 1:
    entries(1, T, dy, x, g);
    break;
  case 2:
    entries(2, T, dy, x, g);
    break;
  case 3:
    entries(3, T, dy, x, g);
    break;
  case 4:
    entries(4, T, dy, x, g);
    break;
  case 5:
    entries(5, T, dy, x, g);
    break;
  case 6:
    entries(6, T, dy, x, g);
    break;
  case 7:
    entries(7, T, dy, x, g);
    break;
  default:
    entries(8, T, dy, x, g);
  }
}

void lc_avx512_bf16_sampled(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                            const uint16_t *xT, const uint16_t *dyT, float *g) {
  for (int64_t k = 0; k < K;) {
    const int32_t row = flat[k] / (int32_t)N, first = row * (int32_t)N;
    const int64_t end = first + N;
    const uint16_t *x[8], *dy = dyT + (row - row0) * ld;
    int n = 0;
    for (; n < 8 && k + n < K && flat[k + n] < end; n++) x[n] = xT + (flat[k + n] - first) * ld;
    up_to_8(n, T, dy, x, g + k);
    k += n;
  }
}
