/* Decompositions against their definitions: factors multiply to the matrix, are orthonormal, the singular values
 * of a product of known factors; the randomised one against LAPACK's; the same bits for any caller. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/linalg.h"

static lc_ctx *ctx;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static float *normal(int64_t n, uint32_t tensor) {
  float *x = malloc((size_t)n * sizeof *x);
  const lc_rng rng = {.seed = 7, .tensor = tensor, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, n, x);
  return x;
}

static double orthonormal_error(const float *Q, int64_t M, int64_t n) { /* of QᵀQ - 1 */
  double worst = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) {
      double s = 0;
      for (int64_t r = 0; r < M; r++) s += (double)Q[r * n + i] * (double)Q[r * n + j];
      worst = fmax(worst, fabs(s - (i == j)));
    }
  return worst;
}

static void test_svd(void **state) {
  static const int64_t shapes[][2] = {{7, 7}, {20, 9}, {9, 20}, {1, 5}, {5, 1}};
  for (int i = 0; i < 5; i++) {
    const int64_t M = shapes[i][0], N = shapes[i][1], r = lc_min64(M, N);
    float *A = normal(M * N, 1), *copy = malloc((size_t)(M * N) * 4), U[400], S[20], V[400], s[20];
    memcpy(copy, A, (size_t)(M * N) * 4);
    ok(lc_svd(ctx, copy, M, N, U, S, V));
    ok(lc_svd_values(ctx, A, M, N, s));
    assert_true(orthonormal_error(U, M, r) < 1e-5);
    for (int64_t k = 0; k < r; k++) assert_true(fabsf(S[k] - s[k]) < 1e-5f && (!k || S[k] <= S[k - 1]));
    for (int64_t a = 0; a < M; a++)
      for (int64_t b = 0; b < N; b++) {
        double x = 0;
        for (int64_t k = 0; k < r; k++) x += (double)U[a * r + k] * (double)S[k] * (double)V[k * N + b];
        assert_true(fabs(x - (double)A[a * N + b]) < 1e-5);
      }
    free(A);
    free(copy);
  }
}

static void test_known_values(void **state) {
  float A[6] = {3, 0, 0, 0, -4, 0}, s[2]; /* 2×3 */
  ok(lc_svd_values(ctx, A, 2, 3, s));
  assert_true(fabsf(s[0] - 4) < 1e-6f && fabsf(s[1] - 3) < 1e-6f);
  memset(A, 0, sizeof A);
  ok(lc_svd_values(ctx, A, 2, 3, s));
  assert_true(s[0] == 0 && s[1] == 0);
  A[4] = NAN;
  assert_int_not_equal(lc_svd_values(ctx, A, 2, 3, s), LC_OK);
  assert_non_null(strstr(lc_error(ctx), "row 1, column 1"));
}

/* The polar factor is the nuclear norm's gradient: against central differences of the sum of singular values. */
static void test_polar(void **state) {
  enum { M = 80, N = 70 };
  float *A = normal(M * N, 2), *copy = malloc(M * N * 4), *P = malloc(M * N * 4), s[N];
  memcpy(copy, A, M * N * 4);
  ok(lc_polar(ctx, copy, M, N, 0, P, s));
  for (int probe = 0; probe < 12; probe++) {
    const int64_t at = (probe * 467 + 31) % (M * N);
    const float h = 0.05f, was = A[at];
    double norm[2];
    for (int k = 0; k < 2; k++) {
      A[at] = was + (k ? h : -h);
      ok(lc_svd_values(ctx, A, M, N, s));
      norm[k] = 0;
      for (int j = 0; j < N; j++) norm[k] += (double)s[j];
    }
    A[at] = was;
    const double slope = (norm[1] - norm[0]) / (2 * (double)h);
    if (fabs(slope - (double)P[at]) > 5e-3)
      fail_msg("entry %lld: %g, P has %g", (long long)at, slope, (double)P[at]);
  }
  free(A);
  free(copy);
  free(P);
}

/* The same by products, on both ways round; of a rank-one and a zero matrix too. */
static void test_polar_iterated(void **state) {
  static const int64_t shapes[][2] = {{80, 70}, {40, 90}, {1, 30}};
  static float P[80 * 70], Q[80 * 70];
  for (int i = 0; i < 3; i++) {
    const int64_t M = shapes[i][0], N = shapes[i][1];
    int steps;
    float *A = normal(M * N, 5), *copy = malloc((size_t)(M * N) * 4);
    memcpy(copy, A, (size_t)(M * N) * 4);
    ok(lc_polar(ctx, copy, M, N, 0, P, NULL));
    memcpy(copy, A, (size_t)(M * N) * 4);
    ok(lc_polar_iterated(ctx, copy, M, N, 0, Q, &steps));
    double off = 0;
    for (int64_t k = 0; k < M * N; k++) off += pow((double)P[k] - (double)Q[k], 2);
    assert_true(sqrt(off) < 1e-3 && steps < 30);
    for (int64_t k = 0; k < M * N; k++) copy[k] = (float)(k / N + 1) * (float)(k % N + 1); /* rank one */
    memcpy(A, copy, (size_t)(M * N) * 4);
    ok(lc_polar(ctx, A, M, N, 0, P, NULL));
    ok(lc_polar_iterated(ctx, copy, M, N, 0, Q, NULL));
    off = 0;
    for (int64_t k = 0; k < M * N; k++) off += pow((double)P[k] - (double)Q[k], 2);
    assert_true(sqrt(off) < 1e-2);
    memset(copy, 0, (size_t)(M * N) * 4);
    ok(lc_polar_iterated(ctx, copy, M, N, 0, Q, NULL));
    for (int64_t k = 0; k < M * N; k++) assert_true(Q[k] == 0);
    copy[0] = NAN;
    assert_int_equal(lc_polar_iterated(ctx, copy, M, N, 0, Q, NULL), LC_FAILED);
    lc_error_clear(ctx);
    free(A);
    free(copy);
  }
}

static void test_orthonormal(void **state) {
  float *A = normal(50 * 12, 3);
  ok(lc_orthonormal(ctx, A, 50, 12));
  assert_true(orthonormal_error(A, 50, 12) < 1e-5);
  assert_int_not_equal(lc_orthonormal(ctx, A, 12, 50), LC_OK);
  free(A);
}

typedef struct {
  const float *A;
  int64_t N;
} whole;

static lc_status strip(void *arg, int64_t r0, int64_t r1, const float **rows, int64_t *ld) {
  const whole *w = arg;
  *rows = w->A + r0 * w->N;
  *ld = w->N;
  return LC_OK;
}

static double reconstruction(const float *US, const float *V, const float *A, int64_t M, int64_t N,
                             int64_t R) {
  double e = 0, n = 0;
  for (int64_t a = 0; a < M; a++)
    for (int64_t b = 0; b < N; b++) {
      double x = 0;
      for (int64_t k = 0; k < R; k++) x += (double)US[a * R + k] * (double)V[k * N + b];
      e += (x - (double)A[a * N + b]) * (x - (double)A[a * N + b]);
      n += (double)A[a * N + b] * (double)A[a * N + b];
    }
  return sqrt(e / n);
}

typedef struct {
  const lc_strips *w;
  const lc_truncated_opts *o;
  float *US, *V;
} job;

static lc_status run_job(void *arg, int64_t chunk, int worker) {
  const job *j = &((const job *)arg)[chunk];
  return lc_svd_truncated(ctx, j->w, j->o, j->US, j->V);
}

static void test_truncated(void **state) {
  enum { M = 150, N = 90, R = 6 };
  float *B = normal(M * R, 4), *C = normal(R * N, 5), *A = normal(M * N, 6);
  for (int64_t a = 0; a < M; a++)
    for (int64_t b = 0; b < N; b++) {
      A[a * N + b] *= 0.05f;
      for (int64_t k = 0; k < R; k++) A[a * N + b] += B[a * R + k] * C[k * N + b];
    }
  const whole arg = {A, N};
  const lc_strips w = {M, N, strip, (void *)&arg};
  const lc_truncated_opts exact = {.rank = R, .exact = true},
                          fast = {.rank = R, .power = 2, .rng = {.seed = 1, .purpose = LC_RNG_TEST}};
  float US[2][M * R], V[2][R * N], again[M * R], againV[R * N];
  job jobs[3] = {{&w, &exact, US[0], V[0]}, {&w, &fast, US[1], V[1]}, {&w, &fast, again, againV}};
  ok(lc_parallel(ctx, 3, run_job, jobs));
  const double e0 = reconstruction(US[0], V[0], A, M, N, R), e1 = reconstruction(US[1], V[1], A, M, N, R);
  assert_true(e0 < 0.03 && e1 < e0 * 1.001);
  assert_memory_equal(US[1], again, sizeof again); /* the same draws, the same bits */
  assert_memory_equal(V[1], againV, sizeof againV);
  const lc_truncated_opts none = {.rank = N + 1};
  assert_int_not_equal(lc_svd_truncated(ctx, &w, &none, US[0], V[0]), LC_OK);
  free(A);
  free(B);
  free(C);
}

int main(void) {
  char why[256];
  if (lc_ctx_new(2, &ctx, why)) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_svd),         cmocka_unit_test(test_known_values),
      cmocka_unit_test(test_polar),       cmocka_unit_test(test_polar_iterated),
      cmocka_unit_test(test_orthonormal), cmocka_unit_test(test_truncated)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  lc_ctx_free(ctx);
  return failed;
}
