/* Noise added in a band of magnitudes: y += a·x where low <= |y| <= high. Entries outside keep their bits. The
 * normals themselves are core/rng.c's. */
#include "kernels/scalar/scalar.h"
#include <math.h>

void lc_ref_axpy_band(int64_t n, float a, const float *x, float low, float high, float *y) {
  for (int64_t i = 0; i < n; i++)
    if (fabsf(y[i]) >= low && fabsf(y[i]) <= high) y[i] += a * x[i];
}
