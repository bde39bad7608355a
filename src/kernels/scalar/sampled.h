/* The gradient of a linear layer's weight at K positions only: g[k] += Σ_t dy[t,row_k]·x[t,col_k], from
 * transposes, so that each position is one contiguous dot product: xT (N,ld), dyT (rows from row0, ld). */
#include "kernels/scalar/real.h"

static void LC_REF(sampled)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                            const real *xT, const real *dyT, real *g) {
  for (int64_t k = 0; k < K; k++) {
    int64_t row = flat[k] / N, col = flat[k] % N;
    g[k] += LC_REF(dot)(T, dyT + (row - row0) * ld, xT + col * ld);
  }
}
