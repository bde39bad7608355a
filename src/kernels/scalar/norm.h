/* RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) of one row x (C), and their gradients.
 *
 *   rms:   y = w·x̂, x̂ = x·r, r = 1/√(mean(x²)+ε)        dx = r·(g − x̂·mean(g·x̂)), g = w·dy;  dw += dy·x̂
 *   layer: y = w·x̂ + b, x̂ = (x−μ)·r, r = 1/√(var(x)+ε)   dx = r·(g − mean(g) − x̂·mean(g·x̂));  dw += dy·x̂;  db
 * += dy
 *
 * b, dw and db may be NULL. beta 0 writes dx, 1 adds to it. */
#include "kernels/scalar/real.h"

static void LC_REF(rmsnorm)(int64_t C, real eps, const real *x, const real *w, real *y, real *rstd) {
  double sum = 0;
  for (int64_t i = 0; i < C; i++) sum += (double)x[i] * (double)x[i];
  real r = (real)(1.0 / sqrt(sum / (double)C + (double)eps));
  for (int64_t i = 0; i < C; i++) y[i] = w[i] * (x[i] * r);
  *rstd = r;
}

static void LC_REF(rmsnorm_back)(int64_t C, const real *x, const real *w, real rstd, const real *dy,
                                 real beta, real *dx, real *dw) {
  double sum = 0;
  for (int64_t i = 0; i < C; i++) sum += (double)(w[i] * dy[i]) * (double)(x[i] * rstd);
  real mean_gx = (real)(sum / (double)C);
  for (int64_t i = 0; i < C; i++) {
    real xhat = x[i] * rstd, d = rstd * (w[i] * dy[i] - xhat * mean_gx);
    if (dw) dw[i] += dy[i] * xhat;
    dx[i] = beta == 0 ? d : beta * dx[i] + d;
  }
}

static void LC_REF(layernorm)(int64_t C, real eps, const real *x, const real *w, const real *b, real *y,
                              real *mean, real *rstd) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < C; i++) sum += (double)x[i];
  double mu = sum / (double)C;
  for (int64_t i = 0; i < C; i++) squares += ((double)x[i] - mu) * ((double)x[i] - mu);
  real m = (real)mu, r = (real)(1.0 / sqrt(squares / (double)C + (double)eps));
  for (int64_t i = 0; i < C; i++) y[i] = w[i] * ((x[i] - m) * r) + (b ? b[i] : 0);
  *mean = m, *rstd = r;
}

static void LC_REF(layernorm_back)(int64_t C, const real *x, const real *w, real mean, real rstd,
                                   const real *dy, real beta, real *dx, real *dw, real *db) {
  double sum_g = 0, sum_gx = 0;
  for (int64_t i = 0; i < C; i++) {
    real g = w[i] * dy[i];
    sum_g += (double)g;
    sum_gx += (double)g * (double)((x[i] - mean) * rstd);
  }
  real mean_g = (real)(sum_g / (double)C), mean_gx = (real)(sum_gx / (double)C);
  for (int64_t i = 0; i < C; i++) {
    real xhat = (x[i] - mean) * rstd, d = rstd * (w[i] * dy[i] - mean_g - xhat * mean_gx);
    if (dw) dw[i] += dy[i] * xhat;
    if (db) db[i] += dy[i];
    dx[i] = beta == 0 ? d : beta * dx[i] + d;
  }
}
