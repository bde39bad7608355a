/* The register tile 6×16 in AVX2 + FMA: 12 accumulators, 2 vectors of b, 1 broadcast of a, of 16 registers.
 */
#include <immintrin.h>
#include "kernels/gemm/gemm.h"

enum { MR = 6, NR = 16 };

static void run(int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add) {
  __m256 sum[MR][2];
  for (int i = 0; i < MR; i++) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
  for (int64_t l = 0; l < k; l++, a += MR, b += NR) {
    __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < MR; i++) {
      __m256 ai = _mm256_broadcast_ss(a + i);
      sum[i][0] = _mm256_fmadd_ps(ai, b0, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(ai, b1, sum[i][1]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; i++, c += ldc) {
    if (add) {
      sum[i][0] = _mm256_add_ps(sum[i][0], _mm256_loadu_ps(c));
      sum[i][1] = _mm256_add_ps(sum[i][1], _mm256_loadu_ps(c + 8));
    }
    _mm256_storeu_ps(c, sum[i][0]);
    _mm256_storeu_ps(c + 8, sum[i][1]);
  }
}

const lc_gemm_tile lc_gemm_tile_avx2 = {MR, NR, false, run, NULL};
