/* The register tile 14×32 in AVX-512: 28 accumulators, 2 vectors of b; a is broadcast from memory inside the
 * FMA. */
#include <immintrin.h>
#include "kernels/gemm/gemm.h"

enum { MR = 14, NR = 32 };

static void run(int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add) {
  __m512 sum[MR][2];
#pragma GCC unroll 14
  for (int i = 0; i < MR; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t l = 0; l < k; l++, a += MR, b += NR) {
    __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 14
    for (int i = 0; i < MR; i++) {
      __m512 ai = _mm512_set1_ps(a[i]);
      sum[i][0] = _mm512_fmadd_ps(ai, b0, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(ai, b1, sum[i][1]);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < MR; i++, c += ldc) {
    if (add) {
      sum[i][0] = _mm512_add_ps(sum[i][0], _mm512_loadu_ps(c));
      sum[i][1] = _mm512_add_ps(sum[i][1], _mm512_loadu_ps(c + 16));
    }
    _mm512_storeu_ps(c, sum[i][0]);
    _mm512_storeu_ps(c + 16, sum[i][1]);
  }
}

const lc_gemm_tile lc_gemm_tile_avx512 = {MR, NR, run};
