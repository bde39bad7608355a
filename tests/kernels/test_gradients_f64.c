/* Each forward/backward pair of the reference, compiled in f64, against central differences: L = Σ r·out for
 * random r, so one gradient covers every output. One row a pair. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "core/core.h"
#include "kernels/kernels_f64.h"

enum { MAX = 4096 };

typedef struct {
  const char *name;
  int n_in, n_out; /* numbers in all inputs together, in the output */
  void (*forward)(const double *in, double *out);
  void (*backward)(const double *in, const double *dout, double *din); /* din arrives zeroed */
} pair;

static const lc_kernels_f64 *kn;

enum { C = 37 };

static void rms_forward(const double *in, double *out) {
  double rstd;
  kn->rmsnorm(C, 1e-5, in, in + C, out, &rstd);
}

static void rms_backward(const double *in, const double *dout, double *din) {
  double rstd, y[C];
  kn->rmsnorm(C, 1e-5, in, in + C, y, &rstd);
  kn->rmsnorm_back(C, in, in + C, rstd, dout, 0, din, din + C);
}

static void layer_forward(const double *in, double *out) {
  double mean, rstd;
  kn->layernorm(C, 1e-5, in, in + C, in + 2 * C, out, &mean, &rstd);
}

static void layer_backward(const double *in, const double *dout, double *din) {
  double mean, rstd, y[C];
  kn->layernorm(C, 1e-5, in, in + C, in + 2 * C, y, &mean, &rstd);
  kn->layernorm_back(C, in, in + C, mean, rstd, dout, 1, din, din + C, din + 2 * C);
}

static void angles(double *cosine, double *sine) {
  for (int i = 0; i < C / 2; i++) cosine[i] = cos(0.3 * i + 0.1), sine[i] = sin(0.3 * i + 0.1);
}

static void rope_forward(const double *in, double *out) {
  double cosine[C], sine[C];
  angles(cosine, sine);
  memcpy(out, in, sizeof(double) * (C - 1));
  kn->rope(C - 1, cosine, sine, 1, out);
}

static void rope_backward(const double *in, const double *dout, double *din) {
  double cosine[C], sine[C];
  angles(cosine, sine);
  memcpy(din, dout, sizeof(double) * (C - 1));
  kn->rope(C - 1, cosine, sine, -1, din);
}

static void silu_forward(const double *in, double *out) {
  kn->silu_mul(C, in, in + C, out);
}

static void silu_backward(const double *in, const double *dout, double *din) {
  kn->silu_mul_back(C, in, in + C, dout, din, din + C);
}

static void gelu_tanh_forward(const double *in, double *out) {
  kn->gelu_tanh(C, in, out);
}

static void gelu_tanh_backward(const double *in, const double *dout, double *din) {
  kn->gelu_tanh_back(C, in, dout, din);
}

static void gelu_erf_forward(const double *in, double *out) {
  kn->gelu_erf(C, in, out);
}

static void gelu_erf_backward(const double *in, const double *dout, double *din) {
  kn->gelu_erf_back(C, in, dout, din);
}

static void loss_forward(const double *in, double *out) {
  double logits[C];
  memcpy(logits, in, sizeof logits);
  out[0] = kn->cross_entropy(C, logits, 5, 0);
}

static void loss_backward(const double *in, const double *dout, double *din) {
  memcpy(din, in, sizeof(double) * C);
  kn->cross_entropy(C, din, 5, dout[0]);
}

/* Attention: TQ queries from position Q0, TK keys, rows of D within strides of LD; inputs q, k, v one after
 * the other. */
enum { TQ = 5, TK = 13, D = 6, LD = 9, Q0 = 7, N_ATTN = (TQ + 2 * TK) * LD };

static void attention_forward(int window, const double *in, double *out) {
  const double *k = in + TQ * LD, *v = k + TK * LD;
  double lse[TQ];
  memset(out, 0, sizeof(double) * TQ * LD);
  kn->attention(TQ, TK, D, Q0, window, 0.4, in, LD, k, LD, v, LD, out, LD, lse, NULL);
}

static void attention_backward(int window, const double *in, const double *dout, double *din) {
  const double *k = in + TQ * LD, *v = k + TK * LD;
  double out[TQ * LD] = {0}, lse[TQ], delta[TQ] = {0}, *dk = din + TQ * LD, *dv = dk + TK * LD;
  kn->attention(TQ, TK, D, Q0, window, 0.4, in, LD, k, LD, v, LD, out, LD, lse, NULL);
  for (int i = 0; i < TQ; i++)
    for (int d = 0; d < D; d++) delta[i] += out[i * LD + d] * dout[i * LD + d];
  kn->attention_back(TQ, TK, D, Q0, window, 0.4, in, LD, k, LD, v, LD, dout, LD, lse, delta, din, LD, dk, LD,
                     dv, LD, NULL);
}

static void attention_full_forward(const double *in, double *out) {
  attention_forward(0, in, out);
}

static void attention_full_backward(const double *in, const double *dout, double *din) {
  attention_backward(0, in, dout, din);
}

static void attention_window_forward(const double *in, double *out) {
  attention_forward(4, in, out);
}

static void attention_window_backward(const double *in, const double *dout, double *din) {
  attention_backward(4, in, dout, din);
}

/* A linear layer's weight: x (T,N) is constant here, the gradient at all M·N positions is sampled. */
enum { M = 3, N = 4, T = 6 };

static double linear_x(int n, int t) {
  return sin(1.0 + n * 7 + t * 3);
}

static void linear_forward(const double *in, double *out) {
  double x[T * N];
  for (int t = 0; t < T; t++)
    for (int n = 0; n < N; n++) x[t * N + n] = linear_x(n, t);
  kn->gemm(T, M, N, false, true, x, N, in, N, 0, out, M);
}

static void linear_backward(const double *in, const double *dout, double *din) {
  double xT[N * T], dyT[M * T];
  int32_t flat[M * N];
  for (int n = 0; n < N; n++)
    for (int t = 0; t < T; t++) xT[n * T + t] = linear_x(n, t);
  for (int m = 0; m < M; m++)
    for (int t = 0; t < T; t++) dyT[m * T + t] = dout[t * M + m];
  for (int i = 0; i < M * N; i++) flat[i] = i;
  kn->sampled(M * N, flat, N, 0, T, T, xT, dyT, din);
}

/* A matrix of distances: A (RANK,COLS), B (POINTS,RANK). */
enum { POINTS = 5, COLS = 7, RANK = 6, N_A = RANK * COLS, SIZE = POINTS * COLS };

static void distances_forward(const double *in, double *out) {
  kn->distances(POINTS, COLS, RANK, 0.7, in + N_A, in, COLS, NULL, out);
}

static void distances_backward(const double *in, const double *dout, double *din) {
  double dist[2 * SIZE], S[SIZE];
  kn->distances(POINTS, COLS, RANK, 0.7, in + N_A, in, COLS, dist, S);
  kn->distances_back(POINTS, COLS, RANK, 0.7, in + N_A, in, COLS, dist, dout, din, COLS, din + N_A);
}

/* A softmax over rows added: S, then 1/γ, α, β. */
static void softmax_add_forward(const double *in, double *out) {
  double lse[COLS];
  kn->column_lse(POINTS, COLS, in[SIZE], in, lse);
  kn->softmax_add(POINTS, COLS, in[SIZE], in[SIZE + 1], in[SIZE + 2], lse, in, NULL, out);
}

static void softmax_add_backward(const double *in, const double *dout, double *din) {
  const double a = in[SIZE], alpha = in[SIZE + 1];
  double lse[COLS], p[SIZE], V[SIZE], k[COLS] = {0}, t[COLS] = {0}, sum[2] = {0}, cross = 0;
  kn->column_lse(POINTS, COLS, a, in, lse);
  kn->softmax_add(POINTS, COLS, a, alpha, in[SIZE + 2], lse, in, p, V);
  kn->softmax_add_back(POINTS, COLS, a, alpha, p, in, dout, din, k, t, sum);
  for (int i = 0; i < SIZE; i++) din[i] -= a * alpha * k[i % COLS] * p[i];
  for (int c = 0; c < COLS; c++) cross += k[c] * t[c], din[SIZE + 1] += k[c];
  din[SIZE] = alpha * (sum[0] - cross);
  din[SIZE + 2] = sum[1];
}

static const pair pairs[] = {
    {"rmsnorm", 2 * C, C, rms_forward, rms_backward},
    {"layernorm", 3 * C, C, layer_forward, layer_backward},
    {"rope", C - 1, C - 1, rope_forward, rope_backward},
    {"silu_mul", 2 * C, C, silu_forward, silu_backward},
    {"gelu_tanh", C, C, gelu_tanh_forward, gelu_tanh_backward},
    {"gelu_erf", C, C, gelu_erf_forward, gelu_erf_backward},
    {"cross_entropy", C, 1, loss_forward, loss_backward},
    {"attention", N_ATTN, TQ *LD, attention_full_forward, attention_full_backward},
    {"attention, window", N_ATTN, TQ *LD, attention_window_forward, attention_window_backward},
    {"distances", N_A + POINTS *RANK, SIZE, distances_forward, distances_backward},
    {"softmax_add", SIZE + 3, SIZE, softmax_add_forward, softmax_add_backward},
    {"linear weight, sampled", M *N, T *M, linear_forward, linear_backward},
};

static double loss_at(const pair *p, const double *in, const double *r) {
  double out[MAX], sum = 0;
  p->forward(in, out);
  for (int i = 0; i < p->n_out; i++) sum += r[i] * out[i];
  return sum;
}

static void test_pairs(void **state) {
  (void)state;
  kn = lc_kernels_f64_get();
  for (size_t row = 0; row < sizeof pairs / sizeof *pairs; row++) {
    const pair *p = &pairs[row];
    lc_rng rng = {.seed = 7, .tensor = (uint32_t)row, .purpose = LC_RNG_TEST};
    double in[MAX], r[MAX], din[MAX] = {0}, err = 0, ref = 0;
    for (int i = 0; i < p->n_in; i++) in[i] = (double)lc_rng_normal(&rng, (uint64_t)i);
    for (int i = 0; i < p->n_out; i++) r[i] = (double)lc_rng_normal(&rng, (uint64_t)(MAX + i));
    p->backward(in, r, din);
    for (int i = 0; i < p->n_in; i++) {
      double keep = in[i], h = 1e-5;
      in[i] = keep + h;
      double up = loss_at(p, in, r);
      in[i] = keep - h;
      double difference = (up - loss_at(p, in, r)) / (2 * h);
      in[i] = keep;
      err += (difference - din[i]) * (difference - din[i]), ref += difference * difference;
    }
    printf("%-24s relative error %.1e\n", p->name, sqrt(err / ref));
    assert_true(ref > 1e-3);
    assert_true(sqrt(err / ref) < 1e-8);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
