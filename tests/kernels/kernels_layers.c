/* Rows of test_kernels.c: norms, rotary positions, what stands in an MLP, softmax and cross entropy. */
#include "kernels_test.h"

void row_rmsnorm(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1.3f), *w = randoms(p, n, 1), *y = zeros(p, n), rstd;
    double *y64 = room(p, n, 8), rstd64;
    p->fast->rmsnorm(n, 1e-5f, x, w, y, &rstd);
    p->exact->rmsnorm(n, (double)1e-5f, wide(p, n, x), wide(p, n, w), y64, &rstd64);
    compare(p, n + 1, y, y64), compare(p, 1, &rstd, &rstd64);
  }
}

void row_rmsnorm_back(probe *p) {
  EACH_SIZE(n) for (int beta = 0; beta < 2; beta++) {
    float *x = randoms(p, n, 1), *w = randoms(p, n, 1), *dy = randoms(p, n, 1), *dx = randoms(p, n, 1),
          *dw = randoms(p, n, 1);
    double *dx64 = wide(p, n, dx), *dw64 = wide(p, n, dw);
    bool with_w = n % 2;
    p->fast->rmsnorm_back(n, x, w, 0.8f, dy, (float)beta, dx, with_w ? dw : NULL);
    p->exact->rmsnorm_back(n, wide(p, n, x), wide(p, n, w), (double)0.8f, wide(p, n, dy), beta, dx64,
                           with_w ? dw64 : NULL);
    compare(p, n + 1, dx, dx64), compare(p, n + 1, dw, dw64);
  }
}

void row_layernorm(probe *p) {
  EACH_SIZE(n) for (int with_b = 0; with_b < 2; with_b++) {
    if (n < 2) continue; /* one value is its own mean: 0/√ε */
    float *x = randoms(p, n, 2), *w = randoms(p, n, 1), *b = randoms(p, n, 1), *y = zeros(p, n), mean, rstd;
    double *y64 = room(p, n, 8), mean64, rstd64;
    p->fast->layernorm(n, 1e-5f, x, w, with_b ? b : NULL, y, &mean, &rstd);
    p->exact->layernorm(n, (double)1e-5f, wide(p, n, x), wide(p, n, w), with_b ? wide(p, n, b) : NULL, y64,
                        &mean64, &rstd64);
    compare(p, n + 1, y, y64), compare(p, 1, &rstd, &rstd64), compare(p, 1, &mean, &mean64);
  }
}

void row_layernorm_back(probe *p) {
  EACH_SIZE(n) for (int beta = 0; beta < 2; beta++) {
    float *x = randoms(p, n, 1), *w = randoms(p, n, 1), *dy = randoms(p, n, 1), *dx = randoms(p, n, 1),
          *dw = randoms(p, n, 1);
    float *db = randoms(p, n, 1);
    double *dx64 = wide(p, n, dx), *dw64 = wide(p, n, dw), *db64 = wide(p, n, db);
    bool with = n % 2;
    p->fast->layernorm_back(n, x, w, 0.1f, 0.8f, dy, (float)beta, dx, with ? dw : NULL, with ? db : NULL);
    p->exact->layernorm_back(n, wide(p, n, x), wide(p, n, w), (double)0.1f, (double)0.8f, wide(p, n, dy),
                             beta, dx64, with ? dw64 : NULL, with ? db64 : NULL);
    compare(p, n + 1, dx, dx64), compare(p, n + 1, dw, dw64), compare(p, n + 1, db, db64);
  }
}

void row_rope(probe *p) {
  for (int64_t D = 2; D <= 256; D += D < 40 ? 2 : 24)
    for (int sign = -1; sign <= 1; sign += 2) {
      float *c = randoms(p, D / 2, 1), *s = randoms(p, D / 2, 1), *x = randoms(p, D, 1);
      double *x64 = wide(p, D, x);
      p->fast->rope(D, c, s, (float)sign, x),
          p->exact->rope(D, wide(p, D / 2, c), wide(p, D / 2, s), sign, x64);
      compare(p, D + 1, x, x64);
    }
}

/* Arguments from tiny to far beyond where exp overflows. */
static float *gates(probe *p, int64_t n) {
  static const float extreme[] = {0, -0.0f, 100, -100, 88.9f, -88.9f, -120, 1e-20f, 3e4f, -3e4f};
  float *x = randoms(p, n, 3);
  for (int64_t i = 0; i < n; i += 5) x[i] = extreme[(i / 5) % 10];
  return x;
}

void row_silu_mul(probe *p) {
  EACH_SIZE(n) {
    float *g = gates(p, n), *u = randoms(p, n, 1), *h = zeros(p, n);
    double *h64 = room(p, n, 8);
    p->fast->silu_mul(n, g, u, h), p->exact->silu_mul(n, wide(p, n, g), wide(p, n, u), h64);
    for (int64_t i = 0; i < n; i++) compare(p, fabsf(g[i]) < 1e4f, h + i, h64 + i);
    if (!isfinite(h[n - 1]) || h[n] != 0) p->error = INFINITY;
  }
}

void row_silu_mul_back(probe *p) {
  EACH_SIZE(n) {
    float *g = gates(p, n), *u = randoms(p, n, 1), *dh = randoms(p, n, 1), *dg = zeros(p, n),
          *du = zeros(p, n);
    double *dg64 = room(p, n, 8), *du64 = room(p, n, 8);
    p->fast->silu_mul_back(n, g, u, dh, dg, du);
    p->exact->silu_mul_back(n, wide(p, n, g), wide(p, n, u), wide(p, n, dh), dg64, du64);
    compare(p, n + 1, dg, dg64);
    for (int64_t i = 0; i < n; i++) compare(p, fabsf(g[i]) < 1e4f, du + i, du64 + i);
  }
}

/* values in bf16, and the same in f32 */
static uint16_t *narrowed(probe *p, int64_t n, float *x) {
  uint16_t *h = room(p, n, 2);
  for (int64_t i = 0; i < n; i++) h[i] = lc_f32_to_bf16(x[i]), x[i] = lc_bf16_to_f32(h[i]);
  return h;
}

/* Roundings of what the same instruction set gives in f32. */
void row_silu_mul_bf16(probe *p) {
  EACH_SIZE(n) {
    float *g = gates(p, n), *u = randoms(p, n, 1), *h = zeros(p, n);
    uint16_t *gh = narrowed(p, n, g), *uh = narrowed(p, n, u), *want = room(p, n, 2), *got = room(p, n, 2);
    p->fast->silu_mul(n, g, u, h), p->fast->f32_to_bf16(n, h, want);
    p->fast->silu_mul_bf16(n, gh, uh, got);
    compare_bits(p, 2 * (size_t)(n + 1), got, want);
  }
}

void row_silu_mul_back_bf16(probe *p) {
  EACH_SIZE(n) {
    float *g = gates(p, n), *u = randoms(p, n, 1), *d = randoms(p, n, 1), *dg = zeros(p, n),
          *du = zeros(p, n);
    uint16_t *gh = narrowed(p, n, g), *uh = narrowed(p, n, u), *dh = narrowed(p, n, d);
    uint16_t *want[2] = {room(p, n, 2), room(p, n, 2)}, *got[2] = {room(p, n, 2), room(p, n, 2)};
    p->fast->silu_mul_back(n, g, u, d, dg, du);
    p->fast->f32_to_bf16(n, dg, want[0]), p->fast->f32_to_bf16(n, du, want[1]);
    p->fast->silu_mul_back_bf16(n, gh, uh, dh, got[0], got[1]);
    for (int i = 0; i < 2; i++) compare_bits(p, 2 * (size_t)(n + 1), got[i], want[i]);
  }
}

static void row_map(probe *p, void (*fast)(int64_t, const float *, float *),
                    void (*exact)(int64_t, const double *, double *)) {
  EACH_SIZE(n) {
    float *x = gates(p, n), *y = zeros(p, n);
    double *y64 = room(p, n, 8);
    fast(n, x, y), exact(n, wide(p, n, x), y64);
    for (int64_t i = 0; i < n; i++) compare(p, fabsf(x[i]) < 1e4f, y + i, y64 + i);
    if (y[n] != 0) p->error = INFINITY;
  }
}

static void row_map_back(probe *p, void (*fast)(int64_t, const float *, const float *, float *),
                         void (*exact)(int64_t, const double *, const double *, double *)) {
  EACH_SIZE(n) {
    float *x = gates(p, n), *dy = randoms(p, n, 1), *dx = zeros(p, n);
    double *dx64 = room(p, n, 8);
    fast(n, x, dy, dx), exact(n, wide(p, n, x), wide(p, n, dy), dx64);
    compare(p, n + 1, dx, dx64);
  }
}

void row_gelu_tanh(probe *p) {
  row_map(p, p->fast->gelu_tanh, p->exact->gelu_tanh);
}

void row_gelu_tanh_back(probe *p) {
  row_map_back(p, p->fast->gelu_tanh_back, p->exact->gelu_tanh_back);
}

void row_gelu_erf(probe *p) {
  row_map(p, p->fast->gelu_erf, p->exact->gelu_erf);
}

void row_gelu_erf_back(probe *p) {
  row_map_back(p, p->fast->gelu_erf_back, p->exact->gelu_erf_back);
}

void row_softmax(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 4);
    if (n > 4) x[3] = -300, x[1] = n % 2 ? 200.0f : x[1];
    double *x64 = wide(p, n, x), lse64 = p->exact->softmax(n, x64);
    float lse = p->fast->softmax(n, x);
    compare(p, n + 1, x, x64), compare(p, 1, &lse, &lse64);
  }
}

void row_cross_entropy(probe *p) {
  EACH_SIZE(n) for (int scaled = 0; scaled < 2; scaled++) {
    float *x = randoms(p, n, 4), scale = scaled ? 0.25f : 0;
    double *x64 = wide(p, n, x), loss64 = p->exact->cross_entropy(n, x64, (int32_t)(n / 2), (double)scale);
    float loss = p->fast->cross_entropy(n, x, (int32_t)(n / 2), scale);
    compare(p, n + 1, x, x64), compare(p, 1, &loss, &loss64);
  }
}

/* Beside its logits and on them; what is rounded to bf16 is right to 2^-9. */
void row_cross_entropy_bf16(probe *p) {
  EACH_SIZE(n) for (int on_top = 0; on_top < 2; on_top++) {
    float *x = randoms(p, n, 4), *got = zeros(p, n);
    uint16_t *d = on_top ? (uint16_t *)(void *)x : room(p, n, sizeof *d);
    double *x64 = wide(p, n, x), loss64 = p->exact->cross_entropy(n, x64, (int32_t)(n / 2), 0.25);
    float loss = p->fast->cross_entropy_bf16(n, x, (int32_t)(n / 2), 0.25f, d);
    for (int64_t i = 0; i < n; i++) got[i] = lc_bf16_to_f32(d[i]);
    if (n > 1) compare(p, n, got, x64);
    for (int i = 0; i < 300; i++) compare(p, 1, &loss, &loss64); /* a loss weighs as much as a row */
  }
}
