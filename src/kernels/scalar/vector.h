/* Vectors of n values. */
#include "kernels/scalar/real.h"

static real LC_REF(dot)(int64_t n, const real *a, const real *b) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return (real)sum;
}

static void LC_REF(axpy)(int64_t n, real a, const real *x, real *y) {
  for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

static void LC_REF(add)(int64_t n, const real *a, const real *b, real *y) {
  for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void LC_REF(scale)(int64_t n, real a, real *x) {
  for (int64_t i = 0; i < n; i++) x[i] *= a;
}

static double LC_REF(sum_squares)(int64_t n, const real *x) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  return sum;
}
