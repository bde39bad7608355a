/* The differentiable part of the scalar reference compiled in f64, for tests: finite differences prove each
 * gradient here, and f32 kernels of every instruction set are measured against it. Same arguments as in
 * kernels.h. */
#ifndef LC_KERNELS_F64_H
#define LC_KERNELS_F64_H
#include <stdbool.h>
#include <stdint.h>

typedef struct lc_kernels_f64 {
  double (*dot)(int64_t n, const double *a, const double *b);
  void (*axpy)(int64_t n, double a, const double *x, double *y);
  void (*add)(int64_t n, const double *a, const double *b, double *y);
  void (*scale)(int64_t n, double a, double *x);
  double (*sum_squares)(int64_t n, const double *x);
  void (*rmsnorm)(int64_t C, double eps, const double *x, const double *w, double *y, double *rstd);
  void (*rmsnorm_back)(int64_t C, const double *x, const double *w, double rstd, const double *dy,
                       double beta, double *dx, double *dw);
  void (*layernorm)(int64_t C, double eps, const double *x, const double *w, const double *b, double *y,
                    double *mean, double *rstd);
  void (*layernorm_back)(int64_t C, const double *x, const double *w, double mean, double rstd,
                         const double *dy, double beta, double *dx, double *dw, double *db);
  void (*rope)(int64_t D, const double *cos, const double *sin, double sign, double *x);
  void (*silu_mul)(int64_t n, const double *gate, const double *up, double *h);
  void (*silu_mul_back)(int64_t n, const double *gate, const double *up, const double *dh, double *dgate,
                        double *dup);
  void (*gelu_tanh)(int64_t n, const double *x, double *y);
  void (*gelu_tanh_back)(int64_t n, const double *x, const double *dy, double *dx);
  void (*gelu_erf)(int64_t n, const double *x, double *y);
  void (*gelu_erf_back)(int64_t n, const double *x, const double *dy, double *dx);
  double (*cross_entropy)(int64_t V, double *logits, int32_t label, double scale);
  double (*softmax)(int64_t n, double *x);
  void (*distances)(int64_t m, int64_t n, int64_t R, double s, const double *B, const double *A, int64_t lda,
                    double *D, double *S);
  void (*distances_back)(int64_t m, int64_t n, int64_t R, double s, const double *B, const double *A,
                         int64_t lda, double *D, const double *dS, double *dA, int64_t ldda, double *dB);
  void (*column_lse)(int64_t m, int64_t n, double a, const double *x, double *lse);
  void (*softmax_add)(int64_t m, int64_t n, double a, double alpha, double beta, const double *lse,
                      const double *S, double *p, double *V);
  void (*softmax_add_back)(int64_t m, int64_t n, double a, double alpha, const double *p, const double *S,
                           const double *dV, double *dS, double *k, double *t, double sum[2]);
  void (*attention)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, double scale,
                    const double *q, int64_t ldq, const double *k, int64_t ldk, const double *v, int64_t ldv,
                    double *out, int64_t ldo, double *lse, double *scratch);
  void (*attention_back)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, double scale,
                         const double *q, int64_t ldq, const double *k, int64_t ldk, const double *v,
                         int64_t ldv, const double *dout, int64_t lddo, const double *lse,
                         const double *delta, double *dq, int64_t lddq, double *dk, int64_t lddk, double *dv,
                         int64_t lddv, double *scratch);
  void (*sampled)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                  const double *xT, const double *dyT, double *g);
  void (*gemm)(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b, const double *A, int64_t lda,
               const double *B, int64_t ldb, double beta, double *C, int64_t ldc);
} lc_kernels_f64;

const lc_kernels_f64 *lc_kernels_f64_get(void);

#endif
