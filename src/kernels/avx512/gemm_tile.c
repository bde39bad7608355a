/* The register tile 8×48 in AVX-512: 24 accumulators, 3 vectors of b, 1 broadcast of a. */
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
    __m512 bl[VECTORS];
#pragma GCC unroll 3
    for (int j = 0; j < V; j++) bl[j] = _mm512_loadu_ps(b + j * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
      __m512 ai = _mm512_set1_ps(a[i * row]);
#pragma GCC unroll 3
      for (int j = 0; j < V; j++) sum[i][j] = _mm512_fmadd_ps(ai, bl[j], sum[i][j]);
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

const lc_gemm_tile lc_gemm_tile_avx512 = {MR, NR, LANES, false, run, NULL};
