/* The register tile 4×8 in plain C: small enough for the compiler to keep in the registers of the baseline.
 */
#include "kernels/gemm/gemm.h"

enum { MR = 4, NR = 8 };

static void run(int64_t units, const float *a, int64_t row, int64_t step, const float *b, float *c,
                int64_t ldc, int64_t cols, bool add) {
  float sum[MR][NR] = {{0}};
  for (int64_t l = 0; l < units; l++, a += step, b += NR)
    for (int i = 0; i < MR; i++)
      for (int j = 0; j < NR; j++) sum[i][j] += a[i * row] * b[j];
  for (int i = 0; i < MR; i++)
    for (int j = 0; j < NR; j++) c[i * ldc + j] = sum[i][j] + (add ? c[i * ldc + j] : 0);
}

const lc_gemm_tile lc_gemm_tile_scalar = {MR, NR, NR, false, run, NULL};
