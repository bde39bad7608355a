/* The register tile 6×16 in AVX2 + FMA: 12 accumulators, 2 vectors of b, 1 broadcast of a, of 16 registers.
 */
#include <immintrin.h>
#include "kernels/gemm/gemm.h"

enum { MR = 6, LANES = 8, VECTORS = 2, NR = VECTORS * LANES };

/* V vectors of columns, a constant for the compiler. */
static inline __attribute__((always_inline)) void tile(int V, int64_t units, const float *a, int64_t row,
                                                       int64_t step, const float *b, float *c, int64_t ldc,
                                                       bool add) {
  __m256 sum[MR][VECTORS];
#pragma GCC unroll 6
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) sum[i][j] = _mm256_setzero_ps();
  for (int64_t l = 0; l < units; l++, a += step, b += NR) {
    __m256 bl[VECTORS];
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) bl[j] = _mm256_loadu_ps(b + j * LANES);
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++) {
      __m256 ai = _mm256_broadcast_ss(a + i * row);
#pragma GCC unroll 2
      for (int j = 0; j < V; j++) sum[i][j] = _mm256_fmadd_ps(ai, bl[j], sum[i][j]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; i++, c += ldc)
#pragma GCC unroll 2
    for (int j = 0; j < V; j++) {
      if (add) sum[i][j] = _mm256_add_ps(sum[i][j], _mm256_loadu_ps(c + j * LANES));
      _mm256_storeu_ps(c + j * LANES, sum[i][j]);
    }
}

static void run(int64_t units, const float *a, int64_t row, int64_t step, const float *b, float *c,
                int64_t ldc, int64_t cols, bool add) {
  if (cols == 2 * LANES)
    tile(2, units, a, row, step, b, c, ldc, add);
  else
    tile(1, units, a, row, step, b, c, ldc, add);
}

const lc_gemm_tile lc_gemm_tile_avx2 = {MR, NR, LANES, false, run, NULL};
