/* Noise added in a band of magnitudes: y += a·x where low <= |y| <= high; entries outside keep their bits. Dropout's mask from the
 * stream of uniform numbers. The numbers themselves are core/rng.c's. */
#include "kernels/scalar/scalar.h"
#include <math.h>

void lc_ref_axpy_band(int64_t n, float a, const float *x, float low, float high, float *y) {
  for (int64_t i = 0; i < n; i++)
    if (fabsf(y[i]) >= low && fabsf(y[i]) <= high) y[i] += a * x[i];
}

void lc_ref_dropout(const lc_rng *r, uint64_t first, int64_t n, float p, float *x) {
  enum { MOST = 64 };
  const float keep = 1 / (1 - p);
  float u[MOST];
  for (int64_t i = 0; i < n; i += MOST) {
    const int64_t m = lc_min64(MOST, n - i);
    lc_rng_uniform_fill(r, first + (uint64_t)i, m, u);
    for (int64_t k = 0; k < m; k++) x[i + k] = u[k] < p ? 0 : x[i + k] * keep;
  }
}
