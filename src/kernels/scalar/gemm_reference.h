/* C (m×n) = op(A)·op(B) + beta·C by the definition, sums in f64: what every GEMM provider is compared with.
 */
#include "kernels/scalar/real.h"

static void LC_REF(gemm)(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b, const real *A,
                         int64_t lda, const real *B, int64_t ldb, real beta, real *C, int64_t ldc) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t l = 0; l < k; l++)
        sum += (double)(trans_a ? A[l * lda + i] : A[i * lda + l]) *
               (double)(trans_b ? B[j * ldb + l] : B[l * ldb + j]);
      C[i * ldc + j] = (real)sum + (beta == 0 ? 0 : beta * C[i * ldc + j]);
    }
}
