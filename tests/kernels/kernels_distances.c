/* Rows of test_kernels.c: a matrix given by distances and the softmax over its rows. */
#include "kernels_test.h"

/* Shapes of a case: m rows, R coordinates, columns of A that stand further apart than there are of them. */
#define EACH_CASE(m, R, n)                                                                                   \
  for (int64_t m = 1; m <= 13; m += 3)                                                                       \
    for (int64_t R = 2; R <= 14; R += 4) EACH_SIZE(n)

typedef struct {
  int64_t lda;
  float *A, *B;
} cloud;

/* One row of B lies on a column of A in its first half: a distance of 0. */
static cloud points(probe *p, int64_t m, int64_t R, int64_t n) {
  cloud x = {.lda = n + 3};
  x.A = randoms(p, R * x.lda, 1), x.B = randoms(p, m * R, 1);
  for (int64_t k = 0; k < R / 2; k++) x.B[(m / 2) * R + k] = x.A[k * x.lda + n / 2];
  return x;
}

/* Any cut gives the same bits: values are made lane by lane. */
void row_distances(probe *p) {
  EACH_CASE(m, R, n) {
    const cloud x = points(p, m, R, n);
    const int64_t half = n / 2, top = m / 2;
    float *D = zeros(p, 2 * m * n), *S = zeros(p, m * n), *cut = zeros(p, m * n);
    double *D64 = room(p, 2 * m * n, 8), *S64 = room(p, m * n, 8);
    p->fast->distances(m, n, R, 0.1f, x.B, x.A, x.lda, D, S);
    p->exact->distances(m, n, R, (double)0.1f, wide(p, m * R, x.B), wide(p, R * x.lda, x.A), x.lda, D64, S64);
    compare(p, 2 * m * n + 1, D, D64), compare(p, m * n + 1, S, S64);
    for (int q = 0; q < 4; q++) {
      const int64_t r0 = q / 2 ? top : 0, lines = q / 2 ? m - top : top, c0 = q % 2 ? half : 0,
                    cols = q % 2 ? n - half : half;
      float *part = zeros(p, lines * cols);
      p->fast->distances(lines, cols, R, 0.1f, x.B + r0 * R, x.A + c0, x.lda, NULL, part);
      for (int64_t r = 0; r < lines; r++)
        memcpy(cut + (r0 + r) * n + c0, part + r * cols, sizeof(float) * (size_t)cols);
    }
    compare_bits(p, sizeof(float) * (size_t)(m * n), S, cut);
  }
}

void row_distances_back(probe *p) {
  EACH_CASE(m, R, n) {
    const cloud x = points(p, m, R, n);
    const int64_t ldda = n + 1;
    float *D = zeros(p, 2 * m * n), *S = zeros(p, m * n), *dS = randoms(p, m * n, 1),
          *dA = randoms(p, R * ldda, 1), *dB = randoms(p, m * R, 1);
    p->fast->distances(m, n, R, 0.1f, x.B, x.A, x.lda, D, S);
    double *D64 = wide(p, 2 * m * n, D), *dA64 = wide(p, R * ldda, dA), *dB64 = wide(p, m * R, dB);
    p->fast->distances_back(m, n, R, 0.1f, x.B, x.A, x.lda, D, dS, dA, ldda, dB);
    p->exact->distances_back(m, n, R, (double)0.1f, wide(p, m * R, x.B), wide(p, R * x.lda, x.A), x.lda, D64,
                             wide(p, m * n, dS), dA64, ldda, dB64);
    compare(p, 2 * m * n + 1, D, D64), compare(p, R * ldda + 1, dA, dA64), compare(p, m * R + 1, dB, dB64);
  }
}

void row_column_lse(probe *p) {
  for (int64_t m = 1; m <= 200; m = 2 * m + 5) EACH_SIZE(n) for (int sign = -1; sign <= 1; sign += 2) {
      float *x = randoms(p, m * n, 3), *lse = zeros(p, n);
      double *lse64 = room(p, n, 8);
      if (m > 5) x[3 * n] = 400, x[4 * n] = -400; /* beyond what exp gives */
      p->fast->column_lse(m, n, (float)sign * 1.5f, x, lse);
      p->exact->column_lse(m, n, sign * 1.5, wide(p, m * n, x), lse64);
      compare(p, n + 1, lse, lse64);
    }
}

/* S as it is, and V in its place; with p and without: the same bits. */
void row_softmax_add(probe *p) {
  for (int64_t m = 1; m <= 9; m += 4) EACH_SIZE(n) {
      float *S = randoms(p, m * n, 1), *lse = randoms(p, n, 1), *e = zeros(p, m * n), *V = zeros(p, m * n);
      double *e64 = room(p, m * n, 8), *V64 = room(p, m * n, 8);
      p->fast->softmax_add(m, n, 1.4f, 0.8f, 0.1f, lse, S, e, V);
      p->exact->softmax_add(m, n, (double)1.4f, (double)0.8f, (double)0.1f, wide(p, n, lse),
                            wide(p, m * n, S), e64, V64);
      compare(p, m * n + 1, e, e64), compare(p, m * n + 1, V, V64);
      p->fast->softmax_add(m, n, 1.4f, 0.8f, 0.1f, lse, S, NULL, S);
      compare_bits(p, sizeof(float) * (size_t)(m * n), V, S);
    }
}

void row_softmax_add_back(probe *p) {
  for (int64_t m = 1; m <= 9; m += 4) EACH_SIZE(n) {
      float *e = randoms(p, m * n, 1), *S = randoms(p, m * n, 1), *dV = randoms(p, m * n, 1),
            *dS = zeros(p, m * n), *k = randoms(p, n, 1), *t = randoms(p, n, 1);
      double *dS64 = room(p, m * n, 8), *k64 = wide(p, n, k), *t64 = wide(p, n, t), sum[2] = {1, 2},
             sum64[2] = {1, 2};
      p->exact->softmax_add_back(m, n, (double)1.4f, (double)0.8f, wide(p, m * n, e), wide(p, m * n, S),
                                 wide(p, m * n, dV), dS64, k64, t64, sum64);
      p->fast->softmax_add_back(m, n, 1.4f, 0.8f, e, S, dV, dS, k, t, sum);
      compare(p, m * n + 1, dS, dS64), compare(p, n + 1, k, k64), compare(p, n + 1, t, t64);
      for (int i = 0; i < 2; i++) compare(p, 1, (const float[]){(float)sum[i]}, &sum64[i]);
      float *same = copy(p, m * n, dV);
      p->fast->softmax_add_back(m, n, 1.4f, 0.8f, e, S, same, same, k, t, sum);
      compare_bits(p, sizeof(float) * (size_t)(m * n), dS, same);
    }
}

/* Entries at the threshold are not kept; a V that is not a number neither. */
void row_times_kept(probe *p) {
  EACH_SIZE(n) for (int less = 0; less < 2; less++) {
    float *V = randoms(p, n, 1), *x = randoms(p, n, 1), *got = zeros(p, n), *want = zeros(p, n);
    V[0] = -0.5f, V[n / 2] = NAN;
    p->fast->times_kept(n, 0.3f, 0.5f, less ? 0.5f : 0, V, x, got);
    p->scalar->times_kept(n, 0.3f, 0.5f, less ? 0.5f : 0, V, x, want);
    compare_f32(p, n + 1, got, want);
    if (got[0] != 0 || got[n / 2] != 0) p->error = INFINITY;
    p->fast->times_kept(n, 0.3f, 0.5f, less ? 0.5f : 0, V, x, x);
    compare_bits(p, sizeof(float) * (size_t)n, got, x);
  }
}
