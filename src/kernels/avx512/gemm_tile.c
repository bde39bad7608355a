/* The register tile 8×48 in AVX-512: 24 accumulators, 3 vectors of b, 1 broadcast of a. */
#include <immintrin.h>
#include "kernels/gemm/gemm.h"

enum { MR = 8, NR = 48 };

static void run(int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add) {
  __m512 sum[MR][3];
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++) sum[i][0] = sum[i][1] = sum[i][2] = _mm512_setzero_ps();
  for (int64_t l = 0; l < k; l++, a += MR, b += NR) {
    __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16), b2 = _mm512_loadu_ps(b + 32);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
      __m512 ai = _mm512_set1_ps(a[i]);
      sum[i][0] = _mm512_fmadd_ps(ai, b0, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(ai, b1, sum[i][1]);
      sum[i][2] = _mm512_fmadd_ps(ai, b2, sum[i][2]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++, c += ldc)
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      if (add) sum[i][j] = _mm512_add_ps(sum[i][j], _mm512_loadu_ps(c + 16 * j));
      _mm512_storeu_ps(c + 16 * j, sum[i][j]);
    }
}

const lc_gemm_tile lc_gemm_tile_avx512 = {MR, NR, false, run, NULL};
