/* The nonlinear middle of an MLP, n values. Outputs may be their own inputs: each value is read before it is
 * written.
 *
 *   silu(g) = g·σ(g), silu'(g) = σ(g)·(1 + g·(1−σ(g)));  SwiGLU (Shazeer 2020): h = silu(gate)·up
 *   gelu (Hendrycks & Gimpel 2016): erf form ½x(1+erf(x/√2)); tanh form ½x(1+tanh(u)), u = √(2/π)(x +
 * 0.044715x³) */
#include "kernels/scalar/real.h"

static inline real LC_REF(sigmoid)(real x) {
  return 1 / (1 + r_exp(-x));
}

static void LC_REF(silu_mul)(int64_t n, const real *gate, const real *up, real *h) {
  for (int64_t i = 0; i < n; i++) h[i] = gate[i] * LC_REF(sigmoid)(gate[i]) * up[i];
}

static void LC_REF(silu_mul_back)(int64_t n, const real *gate, const real *up, const real *dh, real *dgate,
                                  real *dup) {
  for (int64_t i = 0; i < n; i++) {
    real g = gate[i], u = up[i], d = dh[i], s = LC_REF(sigmoid)(g);
    dgate[i] = d * u * (s * (1 + g * (1 - s)));
    dup[i] = d * (g * s);
  }
}

#define LC_GELU_A ((real)0.7978845608028654) /* √(2/π) */
#define LC_GELU_B ((real)0.044715)

static void LC_REF(gelu_tanh)(int64_t n, const real *x, real *y) {
  for (int64_t i = 0; i < n; i++) {
    real v = x[i], t = r_tanh(LC_GELU_A * (v + LC_GELU_B * v * v * v));
    y[i] = (real)0.5 * v * (1 + t);
  }
}

static void LC_REF(gelu_tanh_back)(int64_t n, const real *x, const real *dy, real *dx) {
  for (int64_t i = 0; i < n; i++) {
    real v = x[i], t = r_tanh(LC_GELU_A * (v + LC_GELU_B * v * v * v));
    real du = LC_GELU_A * (1 + 3 * LC_GELU_B * v * v);
    dx[i] = dy[i] * (real)0.5 * (1 + t + v * (1 - t * t) * du);
  }
}

static void LC_REF(gelu_erf)(int64_t n, const real *x, real *y) {
  for (int64_t i = 0; i < n; i++) y[i] = (real)0.5 * x[i] * (1 + r_erf(x[i] * (real)0.7071067811865476));
}

static void LC_REF(gelu_erf_back)(int64_t n, const real *x, const real *dy, real *dx) {
  for (int64_t i = 0; i < n; i++) {
    real v = x[i], cdf = (real)0.5 * (1 + r_erf(v * (real)0.7071067811865476));
    real pdf = (real)0.3989422804014327 * r_exp((real)-0.5 * v * v); /* 1/√(2π) */
    dx[i] = dy[i] * (cdf + v * pdf);
  }
}
