/* The register tile 8×48 in AVX-512 BF16: 24 accumulators, 3 vectors of b, 1 broadcast of a; a lane of an
 * operand is a pair of bf16, and vdpbf16ps adds both products. */
#include <immintrin.h>
#include "kernels/gemm/gemm.h"

enum { MR = 8, LANES = 16, VECTORS = 3, NR = VECTORS * LANES };

/* V vectors of columns, a constant for the compiler. */
static inline __attribute__((always_inline)) void tile(int V, int64_t units, const float *a, int64_t row,
                                                       int64_t step, const float *b, float *c, int64_t ldc,
                                                       bool add) {
  __m512 sum[MR][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
    for (int j = 0; j < V; j++) sum[i][j] = _mm512_setzero_ps();
  for (int64_t l = 0; l < units; l++, a += step, b += NR) {
    __m512bh bl[VECTORS];
#pragma GCC unroll 3
    for (int j = 0; j < V; j++) bl[j] = (__m512bh)_mm512_loadu_ps(b + j * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
      __m512bh ai = (__m512bh)_mm512_set1_ps(a[i * row]);
#pragma GCC unroll 3
      for (int j = 0; j < V; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], ai, bl[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++, c += ldc)
#pragma GCC unroll 3
    for (int j = 0; j < V; j++) {
      if (add) sum[i][j] = _mm512_add_ps(sum[i][j], _mm512_loadu_ps(c + j * LANES));
      _mm512_storeu_ps(c + j * LANES, sum[i][j]);
    }
}

static void run(int64_t units, const float *a, int64_t row, int64_t step, const float *b, float *c,
                int64_t ldc, int64_t cols, bool add) {
  if (cols == 3 * LANES)
    tile(3, units, a, row, step, b, c, ldc, add);
  else if (cols == 2 * LANES)
    tile(2, units, a, row, step, b, c, ldc, add);
  else
    tile(1, units, a, row, step, b, c, ldc, add);
}

/* Sixteen pairs of two rows; the first n of them. */
static inline __m512i join(const uint16_t *low, const uint16_t *high, __mmask16 n) {
  __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(n, low));
  __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(n, high));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

static void join_rows(int64_t w, int64_t k, const uint16_t *src, int64_t step, int width, float *out) {
  for (int64_t l = 0; l + 2 <= k; l += 2, src += 2 * step, out += width) {
    if (w == MR) {
      __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)src));
      __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(src + step)));
      _mm256_storeu_si256((__m256i *)out, _mm256_or_si256(a, _mm256_slli_epi32(b, 16)));
      continue;
    }
    int64_t i = 0;
    for (; i + 16 <= w; i += 16) _mm512_storeu_si512(out + i, join(src + i, src + step + i, 0xffff));
    __mmask16 rest = (__mmask16)((1u << (w - i)) - 1);
    if (rest) _mm512_mask_storeu_epi32(out + i, rest, join(src + i, src + step + i, rest));
  }
}

const lc_gemm_tile lc_gemm_tile_avx512_bf16 = {MR, NR, LANES, true, run, join_rows};
