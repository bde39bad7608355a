/* Rows of test_kernels.c: products with sparse columns, transposes, random numbers and the optimiser. */
#include "kernels_test.h"

/* Ascending positions of a 40×N matrix from row 11 on, dense in some rows, absent from others. */
static int32_t *positions(probe *p, int64_t N, int64_t *K) {
  int32_t *flat = room(p, 29 * N, sizeof *flat);
  *K = 0;
  for (int64_t i = 11 * N; i < 40 * N; i++)
    if (lc_rng_uniform(&p->rng, p->next++) < (float)(i / N % 4) * 0.3f) flat[(*K)++] = (int32_t)i;
  return flat;
}

void row_sampled(probe *p) {
  EACH_SIZE(T) {
    int64_t N = 23, K, ld = T + 3;
    int32_t *flat = positions(p, N, &K);
    float *xT = randoms(p, N * ld, 1), *dyT = randoms(p, 29 * ld, 1), *g = randoms(p, K, 1);
    double *g64 = wide(p, K, g);
    float *halves = copy(p, K, g), *g_at_once = g;
    p->fast->sampled(K, flat, N, 11, T, ld, xT, dyT, g);
    p->exact->sampled(K, flat, N, 11, T, ld, wide(p, N * ld, xT), wide(p, 29 * ld, dyT), g64);
    compare(p, K + 1, g, g64);
    int64_t half = K / 2; /* callers cut the list as they like */
    p->fast->sampled(half, flat, N, 11, T, ld, xT, dyT, halves);
    p->fast->sampled(K - half, flat + half, N, 11, T, ld, xT, dyT, halves + half);
    compare_bits(p, sizeof(float) * (size_t)K, halves, g_at_once);
  }
}

void row_sampled_bf16(probe *p) {
  EACH_SIZE(T) {
    int64_t N = 23, K, ld = T + 3;
    int32_t *flat = positions(p, N, &K);
    uint16_t *xT = random_bf16(p, N * ld), *dyT = random_bf16(p, 29 * ld);
    float *g = randoms(p, K, 1), *want = copy(p, K, g), *halves = copy(p, K, g);
    p->fast->sampled_bf16(K, flat, N, 11, T, ld, xT, dyT, g),
        p->scalar->sampled_bf16(K, flat, N, 11, T, ld, xT, dyT, want);
    compare_f32(p, K + 1, g, want);
    int64_t half = K / 2;
    p->fast->sampled_bf16(half, flat, N, 11, T, ld, xT, dyT, halves);
    p->fast->sampled_bf16(K - half, flat + half, N, 11, T, ld, xT, dyT, halves + half);
    compare_bits(p, sizeof(float) * (size_t)K, halves, g);
  }
}

void row_transpose_f32(probe *p) {
  for (int64_t rows = 1; rows < 80; rows += rows < 20 ? 3 : 17)
    for (int64_t cols = 1; cols < 80; cols += cols < 20 ? 5 : 13) {
      int64_t ld = cols + 3, ldd = rows + 2;
      float *src = randoms(p, rows * ld, 1), *a = zeros(p, cols * ldd), *b = zeros(p, cols * ldd);
      p->fast->transpose_f32(rows, cols, src, ld, a, ldd),
          p->scalar->transpose_f32(rows, cols, src, ld, b, ldd);
      compare_bits(p, sizeof(float) * (size_t)(cols * ldd), a, b);
    }
}

void row_transpose_bf16(probe *p) {
  for (int64_t rows = 1; rows < 100; rows += rows < 20 ? 3 : 13)
    for (int64_t cols = 1; cols < 100; cols += cols < 20 ? 5 : 11) {
      int64_t ld = cols + 3, ldd = rows + 2;
      uint16_t *src = random_bf16(p, rows * ld), *a = room(p, cols * ldd, 2), *b = room(p, cols * ldd, 2);
      p->fast->transpose_bf16(rows, cols, src, ld, a, ldd),
          p->scalar->transpose_bf16(rows, cols, src, ld, b, ldd);
      compare_bits(p, 2 * (size_t)(cols * ldd), a, b);
    }
}

void row_sparse_gemv(probe *p) {
  EACH_SIZE(N) {
    int64_t K;
    int32_t *flat = positions(p, N, &K);
    float *value = randoms(p, K, 1), *x = randoms(p, N, 1), *y = randoms(p, 40, 1), *want = copy(p, 40, y);
    p->fast->sparse_gemv(K, flat, value, 0.5f, N, x, y),
        p->scalar->sparse_gemv(K, flat, value, 0.5f, N, x, want);
    compare_f32(p, 41, y, want);
  }
}

void row_adamw(probe *p) {
  EACH_SIZE(n) for (int kind = 0; kind < 4; kind++) {
    lc_adamw_hyper h = {0.9f, 0.999f, 1e-6f, 1e-2f, 0.1f, kind & 1};
    float *w = randoms(p, n, 1), *g = randoms(p, n, 1), *m = randoms(p, n, 0.1f), *v = randoms(p, n, 1),
          *age = zeros(p, n);
    for (int64_t i = 0; i < n; i++) v[i] *= v[i], age[i] = (float)(n % 2 ? 3 : i % 5);
    float *w2 = copy(p, n, w), *m2 = copy(p, n, m), *v2 = copy(p, n, v), *age2 = copy(p, n, age);
    p->fast->adamw(n, &h, 5, w, g, m, v, kind & 2 ? age : NULL),
        p->scalar->adamw(n, &h, 5, w2, g, m2, v2, kind & 2 ? age2 : NULL);
    compare_f32(p, n + 1, w, w2), compare_f32(p, n + 1, m, m2), compare_f32(p, n + 1, v, v2);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), age, age2);
  }
}

void row_normal(probe *p) {
  EACH_SIZE(n) for (uint64_t first = 0; first < 70; first += 1 + first / 5) {
    const uint64_t at =
        first < 40 ? first : ((uint64_t)1 << 34) - 80 + first; /* over a carry of the counter */
    const lc_rng r = {.seed = 7ull << 33 | 5, .step = (uint32_t)n, .tensor = 9, .draw = 3, .purpose = 6};
    float *x = zeros(p, n), *y = zeros(p, n);
    p->fast->normal(&r, at, n, x), p->scalar->normal(&r, at, n, y);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), x, y);
  }
}

void row_dropout(probe *p) {
  EACH_SIZE(n) for (uint64_t first = 0; first < 70; first += 1 + first / 5) {
    const uint64_t at = first < 40 ? first : ((uint64_t)1 << 34) - 80 + first;
    const lc_rng r = {.seed = 7ull << 33 | 5, .step = (uint32_t)n, .tensor = 9, .draw = 3, .purpose = 6};
    float *x = randoms(p, n, 1), *want = copy(p, n + 1, x), *u = zeros(p, n);
    p->fast->dropout(&r, at, n, 0.3f, x), lc_rng_uniform_fill(&r, at, n, u);
    for (int64_t i = 0; i < n; i++) want[i] = u[i] < 0.3f ? 0 : want[i] * (1 / (1 - 0.3f));
    compare_bits(p, sizeof(float) * (size_t)(n + 1), x, want);
  }
}

void row_axpy_band(probe *p) {
  EACH_SIZE(n) for (int kind = 0; kind < 3; kind++) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1);
    if (n) y[n / 2] = kind ? -0.0f : 0.5f;
    float *want = copy(p, n, y);
    const float low = kind == 2 ? 0.5f : 0, high = kind == 1 ? 0.5f : INFINITY;
    p->fast->axpy_band(n, 0.3f, x, low, high, y), p->scalar->axpy_band(n, 0.3f, x, low, high, want);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), y, want);
  }
}
