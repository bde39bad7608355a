/* A matrix given by distances instead of products (nn/delta_kernel.c), m rows and n columns of it. A (R,n) has stride lda; B (m,R) and all (m,n) lie
 * without gaps; both have two halves of R/2 coordinates.
 *   distances    D_h[r,c] = ‖A_h[:,c] − B_h[r,:]‖;  S = s·(D_0 − D_1);  D (2,m,n) may be NULL
 *     back       P_h = ±s·dS/D_h, 0 where D_h is;  dA_h += Σ_r P_h·(A_h − B_h);  dB_h −= Σ_c P_h·(A_h − B_h);  D becomes P
 *   column_lse   lse[c] = log Σ_r exp(a·x[r,c])
 *   softmax_add  p = exp(a·S − lse[c]), a softmax over rows;  V = S + alpha·p + beta
 *     back       dS = dV·(1 + a·alpha·p), which still lacks −a·alpha·p·k once k is whole;  k[c] += Σ_r dV·p;  t[c] += Σ_r p·S;
 *                sum[0] += Σ dV·p·S;  sum[1] += Σ dV */
#include "kernels/scalar/real.h"

static real LC_REF(distance)(int64_t q, const real *b, const real *a, int64_t lda) {
  double sum = 0;
  for (int64_t k = 0; k < q; k++) {
    const real d = a[k * lda] - b[k];
    sum += (double)d * (double)d;
  }
  return r_sqrt((real)sum);
}

static void LC_REF(distances)(int64_t m, int64_t n, int64_t R, real s, const real *B, const real *A,
                              int64_t lda, real *D, real *S) {
  const int64_t q = R / 2;
  for (int64_t r = 0; r < m; r++)
    for (int64_t c = 0; c < n; c++) {
      real d[2];
      for (int h = 0; h < 2; h++) {
        d[h] = LC_REF(distance)(q, B + r * R + h * q, A + h * q * lda + c, lda);
        if (D) D[(h * m + r) * n + c] = d[h];
      }
      S[r * n + c] = s * (d[0] - d[1]);
    }
}

static void LC_REF(distances_back)(int64_t m, int64_t n, int64_t R, real s, const real *B, const real *A,
                                   int64_t lda, real *D, const real *dS, real *dA, int64_t ldda, real *dB) {
  const int64_t q = R / 2;
  for (int64_t k = 0; k < R; k++) {
    const real sign = k < q ? s : -s;
    for (int64_t r = 0; r < m; r++) {
      const real *D_h = D + (k / q * m + r) * n;
      double sum = 0;
      for (int64_t c = 0; c < n; c++) {
        const real P = D_h[c] > 0 ? sign * dS[r * n + c] / D_h[c] : 0,
                   v = P * (A[k * lda + c] - B[r * R + k]);
        dA[k * ldda + c] += v;
        sum += (double)v;
      }
      dB[r * R + k] -= (real)sum;
    }
  }
  for (int64_t h = 0; h < 2; h++)
    for (int64_t i = 0; i < m * n; i++)
      D[h * m * n + i] = D[h * m * n + i] > 0 ? (h ? -s : s) * dS[i] / D[h * m * n + i] : 0;
}

static void LC_REF(column_lse)(int64_t m, int64_t n, real a, const real *x, real *lse) {
  for (int64_t c = 0; c < n; c++) {
    real top = a * x[c];
    for (int64_t r = 1; r < m; r++) top = a * x[r * n + c] > top ? a * x[r * n + c] : top;
    double sum = 0;
    for (int64_t r = 0; r < m; r++) sum += (double)r_exp(a * x[r * n + c] - top);
    lse[c] = (real)((double)top + log(sum));
  }
}

static void LC_REF(softmax_add)(int64_t m, int64_t n, real a, real alpha, real beta, const real *lse,
                                const real *S, real *p, real *V) {
  for (int64_t r = 0; r < m; r++)
    for (int64_t c = 0; c < n; c++) {
      const real e = r_exp(a * S[r * n + c] - lse[c]);
      V[r * n + c] = S[r * n + c] + alpha * e + beta;
      if (p) p[r * n + c] = e;
    }
}

static void LC_REF(softmax_add_back)(int64_t m, int64_t n, real a, real alpha, const real *p, const real *S,
                                     const real *dV, real *dS, real *k, real *t, double sum[2]) {
  for (int64_t r = 0; r < m; r++)
    for (int64_t c = 0; c < n; c++) {
      const int64_t i = r * n + c;
      const real g = dV[i], gp = g * p[i];
      dS[i] = g + a * alpha * gp;
      k[c] += gp;
      t[c] += p[i] * S[i];
      sum[0] += (double)(gp * S[i]);
      sum[1] += (double)g;
    }
}
