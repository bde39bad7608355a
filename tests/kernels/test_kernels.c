/* Every entry of the kernel table, on every instruction set that this machine runs, against the reference: in
 * f64 where that exists, else the scalar f32 kernel. One row an entry; each runs over awkward sizes and gives
 * one figure, the normalised mean square error Σ(got−want)²/Σwant². A tolerance of 0 asks for the same bits.
 * To add a kernel's test, add its row. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/kernels.h"
#include "kernels/kernels_f64.h"

/* ---- a row's tools: random inputs that are freed together, and the error sum ---- */

enum { MAX_BLOCKS = 1 << 16 };
typedef struct {
  const lc_kernels *fast, *scalar;
  const lc_kernels_f64 *exact;
  lc_rng rng;
  uint64_t next;
  double error, norm;
  int n_blocks;
  void *blocks[MAX_BLOCKS];
} probe;

static void *room(probe *p, int64_t n, size_t size) {
  void *block = calloc((size_t)n + 1, size);
  assert_non_null(block);
  assert_true(p->n_blocks < MAX_BLOCKS);
  p->blocks[p->n_blocks++] = block;
  return block;
}

static float *zeros(probe *p, int64_t n) {
  return room(p, n, sizeof(float));
}

static float *randoms(probe *p, int64_t n, float scale) {
  float *x = zeros(p, n);
  for (int64_t i = 0; i < n; i++) x[i] = scale * lc_rng_normal(&p->rng, p->next++);
  return x;
}

static uint16_t *random_bf16(probe *p, int64_t n) {
  uint16_t *x = room(p, n, sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = lc_f32_to_bf16(lc_rng_normal(&p->rng, p->next++));
  return x;
}

static double *wide(probe *p, int64_t n, const float *x) {
  double *y = room(p, n, sizeof *y);
  for (int64_t i = 0; i < n; i++) y[i] = (double)x[i];
  return y;
}

static float *copy(probe *p, int64_t n, const float *x) {
  return memcpy(zeros(p, n), x, sizeof(float) * (size_t)n);
}

static void compare(probe *p, int64_t n, const float *got, const double *want) {
  for (int64_t i = 0; i < n; i++) {
    double d = (double)got[i] - want[i];
    p->error += isnan(d) ? INFINITY : d * d;
    p->norm += want[i] * want[i];
  }
}

static void compare_f32(probe *p, int64_t n, const float *got, const float *want) {
  compare(p, n, got, wide(p, n, want));
}

/* Bits: a difference anywhere makes the error 1. */
static void compare_bits(probe *p, size_t bytes, const void *got, const void *want) {
  if (memcmp(got, want, bytes)) p->error = INFINITY;
  p->norm += 1;
}

static const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 128, 257, 576, 1000};
#define EACH_SIZE(n)                                                                                         \
  for (size_t n##_i = 0, n##_more = 1; n##_i < sizeof sizes / sizeof *sizes; n##_i++, n##_more = 1)          \
    for (int64_t n = sizes[n##_i]; n##_more; n##_more = 0)

/* ---- conversions ---- */

/* All 65,536 values, then random ones at odd sizes. */
static void row_widen16(probe *p, void (*fast)(int64_t, const uint16_t *, float *),
                        void (*scalar)(int64_t, const uint16_t *, float *)) {
  uint16_t *all = room(p, 65536, sizeof *all);
  float *got = zeros(p, 65536), *want = zeros(p, 65536);
  for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
  fast(65536, all, got), scalar(65536, all, want);
  for (int i = 0; i < 65536; i++) /* a NaN's payload may differ */
    if (!(isnan(got[i]) && isnan(want[i]))) compare_bits(p, sizeof(float), got + i, want + i);
  EACH_SIZE(n) {
    float *a = zeros(p, n), *b = zeros(p, n);
    fast(n, all + 15000, a), scalar(n, all + 15000, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b); /* nothing behind the end is written */
  }
}

static void row_bf16_to_f32(probe *p) {
  row_widen16(p, p->fast->bf16_to_f32, p->scalar->bf16_to_f32);
}

static void row_f16_to_f32(probe *p) {
  row_widen16(p, p->fast->f16_to_f32, p->scalar->f16_to_f32);
}

/* Random bit patterns: ties, denormals, infinities and NaN included (NaN stays NaN). */
static void row_narrow16(probe *p, void (*fast)(int64_t, const float *, uint16_t *),
                         void (*scalar)(int64_t, const float *, uint16_t *), uint16_t infinity) {
  enum { MANY = 40000 };
  float *x = zeros(p, MANY);
  uint16_t *got = room(p, MANY, 2), *want = room(p, MANY, 2);
  for (int i = 0; i < MANY; i++) {
    uint32_t bits = lc_rng_u32(&p->rng, p->next++);
    if (i % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;     /* a tie of bf16 */
    if (i % 3 == 1) bits = (bits & 0x8fffe000u) | 0x38001000u; /* around 1: ties of f16 */
    if (i % 7 == 0) bits &= 0x807fffffu | (lc_rng_u32(&p->rng, p->next++) & 0x3f800000u);
    memcpy(x + i, &bits, 4);
  }
  x[0] = INFINITY, x[1] = -INFINITY, x[2] = NAN, x[3] = 65520.0f, x[4] = 65519.0f, x[5] = 1e-8f, x[6] = -0.0f;
  fast(MANY, x, got), scalar(MANY, x, want);
  for (int i = 0; i < MANY; i++) {
    bool nan = isnan(x[i]);
    if (nan && (got[i] & 0x7fff) <= infinity) p->error = INFINITY;
    if (!nan) compare_bits(p, 2, got + i, want + i);
  }
  EACH_SIZE(n) {
    uint16_t *a = room(p, n, 2), *b = room(p, n, 2);
    float *y = randoms(p, n, 1);
    fast(n, y, a), scalar(n, y, b);
    compare_bits(p, 2 * (size_t)(n + 1), a, b);
  }
}

static void row_f32_to_bf16(probe *p) {
  row_narrow16(p, p->fast->f32_to_bf16, p->scalar->f32_to_bf16, 0x7f80);
}

static void row_f32_to_f16(probe *p) {
  row_narrow16(p, p->fast->f32_to_f16, p->scalar->f32_to_f16, 0x7c00);
}

/* n values of random blocks whose scales (the first `scales` f16) are ordinary numbers. */
static uint8_t *random_blocks(probe *p, int64_t n, lc_dtype dtype) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  int64_t blocks = n / info->block;
  uint8_t *q = room(p, blocks * info->bytes, 1);
  for (int64_t i = 0; i < blocks * info->bytes; i++) q[i] = (uint8_t)lc_rng_u32(&p->rng, p->next++);
  for (int64_t b = 0; b < blocks; b++)
    for (int s = 0; s < (dtype == LC_Q4_1 ? 2 : 1); s++) {
      uint16_t h = lc_f32_to_f16(0.1f * lc_rng_normal(&p->rng, p->next++));
      memcpy(q + b * info->bytes + 2 * s, &h, 2);
    }
  return q;
}

static void row_decode(probe *p, lc_dtype dtype, void (*fast)(int64_t, const void *, float *),
                       void (*scalar)(int64_t, const void *, float *)) {
  for (int64_t n = 32; n <= 320; n += 32) {
    uint8_t *q = random_blocks(p, n, dtype);
    float *a = zeros(p, n), *b = zeros(p, n);
    fast(n, q, a), scalar(n, q, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b);
  }
}

static void row_decode_q8_0(probe *p) {
  row_decode(p, LC_Q8_0, p->fast->decode_q8_0, p->scalar->decode_q8_0);
}

static void row_decode_q4_0(probe *p) {
  row_decode(p, LC_Q4_0, p->fast->decode_q4_0, p->scalar->decode_q4_0);
}

static void row_decode_q4_1(probe *p) {
  row_decode(p, LC_Q4_1, p->fast->decode_q4_1, p->scalar->decode_q4_1);
}

static void row_decode_bf16(probe *p) {
  static const lc_dtype types[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (int i = 0; i < 3; i++)
    for (int64_t n = 32; n <= 320; n += 32) {
      uint8_t *q = random_blocks(p, n, types[i]);
      uint16_t *a = room(p, n, 2), *b = room(p, n, 2);
      p->fast->decode_bf16(types[i], n, q, a), p->scalar->decode_bf16(types[i], n, q, b);
      compare_bits(p, 2 * (size_t)(n + 1), a, b);
    }
}

/* ---- vectors ---- */

static void row_dot(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = randoms(p, n, 1), got = p->fast->dot(n, a, b);
    double want = p->exact->dot(n, wide(p, n, a), wide(p, n, b));
    compare(p, 1, &got, &want);
  }
}

static void row_axpy(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1);
    double *want = wide(p, n, y);
    p->fast->axpy(n, 0.7f, x, y), p->exact->axpy(n, (double)0.7f, wide(p, n, x), want);
    compare(p, n + 1, y, want);
  }
}

static void row_add(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = randoms(p, n, 1), *got = zeros(p, n), *want = zeros(p, n);
    p->fast->add(n, a, b, got), p->scalar->add(n, a, b, want);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), got, want);
    p->fast->add(n, a, b, a);
    compare_bits(p, sizeof(float) * (size_t)n, a, want);
  }
}

static void row_scale(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = copy(p, n, a);
    p->fast->scale(n, 0.3f, a), p->scalar->scale(n, 0.3f, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b);
  }
}

static void row_sum_squares(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1);
    double got = p->fast->sum_squares(n, a), want = p->exact->sum_squares(n, wide(p, n, a));
    p->error += (got - want) * (got - want) * 1e8,
        p->norm += want * want; /* in f64: held to 1e-4 of what f32 may */
  }
}

static void row_gemv(probe *p) {
  static const lc_dtype dtypes[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
    const lc_dtype_info *info = lc_dtype_get(dtypes[d]);
    for (int64_t m = 1; m <= 19; m += m < 9 ? 1 : 5) EACH_SIZE(n) {
        if (n % info->block || m * n > 9000) continue;
        size_t row_bytes = (size_t)(n / info->block * info->bytes) + (size_t)(4 * info->bytes);
        float *x = randoms(p, n, 1), *got = zeros(p, m), *want = zeros(p, m);
        uint8_t *W = room(p, (int64_t)row_bytes * m, 1);
        for (int64_t i = 0; i < m; i++) {
          uint8_t *row = W + (size_t)i * row_bytes;
          if (info->quantised)
            memcpy(row, random_blocks(p, n, dtypes[d]), (size_t)(n / info->block * info->bytes));
          for (int64_t c = 0; c < n && !info->quantised; c++) {
            float w = lc_rng_normal(&p->rng, p->next++);
            uint16_t h = dtypes[d] == LC_BF16 ? lc_f32_to_bf16(w) : lc_f32_to_f16(w);
            if (dtypes[d] == LC_F32)
              memcpy(row + 4 * c, &w, 4);
            else
              memcpy(row + 2 * c, &h, 2);
          }
        }
        p->fast->gemv(dtypes[d], m, n, W, row_bytes, x, got),
            p->scalar->gemv(dtypes[d], m, n, W, row_bytes, x, want);
        compare_f32(p, m + 1, got, want);
        for (int64_t i = 0; i < m; i++) { /* a row's sum does not depend on the rows that come with it */
          float alone = 0;
          p->fast->gemv(dtypes[d], 1, n, W + (size_t)i * row_bytes, row_bytes, x, &alone);
          if (memcmp(&alone, got + i, 4)) p->error = INFINITY;
        }
      }
  }
}

/* Values as activations are, and blocks of the kinds that need care: zeros, something too small, something not finite. */
static float *activations(probe *p, int64_t n) {
  float *x = randoms(p, n, 3);
  for (int64_t b = 0; b < n / 32; b++)
    for (int i = 0; i < 32 && b % 7 == 3; i++) x[b * 32 + i] *= b % 2 ? 0.0f : 1e-33f;
  return x;
}

static void row_mix_rows(probe *p) {
  static const lc_dtype dtypes[] = {LC_F32, LC_BF16, LC_F16};
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
    for (int64_t m = 1; m <= 19; m += 3) EACH_SIZE(n) {
        if (n > LC_ATTN_MAX_D) continue;
        size_t unit = dtypes[d] == LC_F32 ? 4 : 2, row_bytes = (size_t)n * unit + 4 * unit;
        uint8_t *V = room(p, (int64_t)row_bytes * m, 1);
        float *w = randoms(p, m, 1), *got = zeros(p, n), *want = zeros(p, n);
        for (int64_t i = 0; i < m * n; i++) {
          float v = lc_rng_normal(&p->rng, p->next++);
          uint16_t h = dtypes[d] == LC_BF16 ? lc_f32_to_bf16(v) : lc_f32_to_f16(v);
          memcpy(V + (size_t)(i / n) * row_bytes + (size_t)(i % n) * unit, dtypes[d] == LC_F32 ? (void *)&v : (void *)&h, unit);
        }
        p->fast->mix_rows(dtypes[d], m, n, V, row_bytes, w, got), p->scalar->mix_rows(dtypes[d], m, n, V, row_bytes, w, want);
        compare_f32(p, n + 1, got, want);
      }
}

static void row_quantise_q8(probe *p) {
  EACH_SIZE(n) for (int kind = 0; kind < 4; kind++) {
    if (n % 32) continue;
    float *x = activations(p, n);
    if (kind == 1) x[n / 2] = NAN;
    if (kind == 2) x[n - 1] = -INFINITY;
    if (kind == 3) x[0] = 3e38f;
    lc_q8_vector a = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n), b = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n);
    p->fast->quantise_q8(n, x, &a), p->scalar->quantise_q8(n, x, &b);
    compare_bits(p, (size_t)n, a.q, b.q), compare_bits(p, (size_t)n / 32 * 4, a.sum, b.sum);
    for (int64_t i = 0; i < n / 32; i++) /* NaN may have either sign */
      if (memcmp(a.scale + i, b.scale + i, 4) && !(isnan(a.scale[i]) && isnan(b.scale[i]))) p->error = INFINITY;
    if (kind == 1 && !isnan(a.scale[n / 2 / 32])) p->error = INFINITY;
    if (kind == 2 && !isnan(a.scale[n / 32 - 1])) p->error = INFINITY;
    for (int64_t i = 0; i < n && !kind; i++) /* it stands for the vector: half a step of the block's scale */
      if (fabsf(x[i] - a.scale[i / 32] * a.q[i]) > a.scale[i / 32] * 0.5001f + LC_Q8_LEAST) p->error = INFINITY;
  }
}

static void row_gemv_q8(probe *p) {
  static const lc_dtype dtypes[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
    for (int64_t m = 1; m <= 67; m += m < 9 ? 1 : m < 16 ? 5 : 24) EACH_SIZE(n) {
        if (n % 32 || m * n > 40000) continue;
        size_t used = (size_t)(n / 32 * lc_dtype_get(dtypes[d])->bytes), row_bytes = used + 40;
        float *x = activations(p, n), *got = zeros(p, m), *want = zeros(p, m);
        uint8_t *W = room(p, (int64_t)row_bytes * m, 1);
        for (int64_t i = 0; i < m; i++) memcpy(W + (size_t)i * row_bytes, random_blocks(p, n, dtypes[d]), used);
        lc_q8_vector q = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n);
        p->fast->quantise_q8(n, x, &q); /* the same bits as the reference's, and packed for this path */
        p->fast->gemv_q8(dtypes[d], m, n, W, row_bytes, &q, got), p->scalar->gemv_q8(dtypes[d], m, n, W, row_bytes, &q, want);
        compare_f32(p, m + 1, got, want);
        for (int64_t i = 0; i < m; i++) { /* a row's sum does not depend on the rows that come with it */
          float alone = 0;
          p->fast->gemv_q8(dtypes[d], 1, n, W + (size_t)i * row_bytes, row_bytes, &q, &alone);
          if (memcmp(&alone, got + i, 4)) p->error = INFINITY;
        }
        for (int64_t i = 0; i < n; i++) x[i] = q.scale[i / 32] * q.q[i]; /* the same product, decoded */
        p->scalar->gemv(dtypes[d], m, n, W, row_bytes, x, want);
        compare_f32(p, m + 1, got, want);
      }
}

/* ---- norms, rotary, MLP, softmax ---- */

static void row_rmsnorm(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1.3f), *w = randoms(p, n, 1), *y = zeros(p, n), rstd;
    double *y64 = room(p, n, 8), rstd64;
    p->fast->rmsnorm(n, 1e-5f, x, w, y, &rstd);
    p->exact->rmsnorm(n, (double)1e-5f, wide(p, n, x), wide(p, n, w), y64, &rstd64);
    compare(p, n + 1, y, y64), compare(p, 1, &rstd, &rstd64);
  }
}

static void row_rmsnorm_back(probe *p) {
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

static void row_layernorm(probe *p) {
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

static void row_layernorm_back(probe *p) {
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

static void row_rope(probe *p) {
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

static void row_silu_mul(probe *p) {
  EACH_SIZE(n) {
    float *g = gates(p, n), *u = randoms(p, n, 1), *h = zeros(p, n);
    double *h64 = room(p, n, 8);
    p->fast->silu_mul(n, g, u, h), p->exact->silu_mul(n, wide(p, n, g), wide(p, n, u), h64);
    for (int64_t i = 0; i < n; i++) compare(p, fabsf(g[i]) < 1e4f, h + i, h64 + i);
    if (!isfinite(h[n - 1]) || h[n] != 0) p->error = INFINITY;
  }
}

static void row_silu_mul_back(probe *p) {
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

static void row_gelu_tanh(probe *p) {
  row_map(p, p->fast->gelu_tanh, p->exact->gelu_tanh);
}

static void row_gelu_tanh_back(probe *p) {
  row_map_back(p, p->fast->gelu_tanh_back, p->exact->gelu_tanh_back);
}

static void row_gelu_erf(probe *p) {
  row_map(p, p->fast->gelu_erf, p->exact->gelu_erf);
}

static void row_gelu_erf_back(probe *p) {
  row_map_back(p, p->fast->gelu_erf_back, p->exact->gelu_erf_back);
}

static void row_softmax(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 4);
    if (n > 4) x[3] = -300, x[1] = n % 2 ? 200.0f : x[1];
    double *x64 = wide(p, n, x), lse64 = p->exact->softmax(n, x64);
    float lse = p->fast->softmax(n, x);
    compare(p, n + 1, x, x64), compare(p, 1, &lse, &lse64);
  }
}

static void row_cross_entropy(probe *p) {
  EACH_SIZE(n) for (int scaled = 0; scaled < 2; scaled++) {
    float *x = randoms(p, n, 4), scale = scaled ? 0.25f : 0;
    double *x64 = wide(p, n, x), loss64 = p->exact->cross_entropy(n, x64, (int32_t)(n / 2), (double)scale);
    float loss = p->fast->cross_entropy(n, x, (int32_t)(n / 2), scale);
    compare(p, n + 1, x, x64), compare(p, 1, &loss, &loss64);
  }
}

/* Beside its logits and on them; what is rounded to bf16 is right to 2^-9. */
static void row_cross_entropy_bf16(probe *p) {
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

/* ---- attention ---- */

typedef struct {
  int64_t tq, tk, D, q0, window;
} attention_case;
static const attention_case attention_cases[] = {
    {64, 64, 64, 0, 0},     {64, 256, 64, 192, 0},  {1, 1, 64, 0, 0},     {1, 77, 64, 76, 0},
    {1, 130, 64, 129, 50},  {17, 17, 64, 0, 0},     {33, 100, 32, 67, 0}, {64, 200, 64, 136, 0},
    {64, 200, 64, 136, 90}, {64, 320, 64, 256, 64}, {5, 69, 80, 64, 3},   {64, 128, 128, 64, 0},
    {48, 112, 256, 64, 0},  {7, 200, 20, 100, 0},   {64, 64, 6, 0, 10},   {13, 150, 65, 137, 1},
    {3, 64, 64, 60, 0},
    {64, 130, 64, 130, 0},  {5, 77, 32, 77, 0},     {40, 40, 20, 64, 0}, /* behind all keys: both directions */
};

static void row_attention(probe *p) {
  for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++) {
    attention_case c = attention_cases[i];
    int64_t ld = c.D + 5, nq = c.tq * ld, nk = c.tk * ld;
    float *q = randoms(p, nq, 1), *k = randoms(p, nk, 1), *v = randoms(p, nk, 1), *out = zeros(p, nq),
          *lse = zeros(p, c.tq);
    float *scratch = zeros(p, (int64_t)LC_ATTN_SCRATCH(c.D)), scale = 2 / sqrtf((float)c.D);
    double *out64 = room(p, nq, 8), *lse64 = room(p, c.tq, 8);
    p->fast->attention(c.tq, c.tk, c.D, c.q0, c.window, scale, q, ld, k, ld, v, ld, out, ld, lse, scratch);
    p->exact->attention(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, wide(p, nq, q), ld, wide(p, nk, k),
                        ld, wide(p, nk, v), ld, out64, ld, lse64, NULL);
    compare(p, nq + 1, out, out64), compare(p, c.tq + 1, lse, lse64);
  }
}

static void row_attention_back(probe *p) {
  for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++) {
    attention_case c = attention_cases[i];
    int64_t ld = c.D + 5, nq = c.tq * ld, nk = c.tk * ld;
    float *q = randoms(p, nq, 1), *k = randoms(p, nk, 1), *v = randoms(p, nk, 1), *dout = randoms(p, nq, 1),
          *delta = zeros(p, c.tq);
    float *scratch = zeros(p, (int64_t)LC_ATTN_SCRATCH(c.D)), scale = 2 / sqrtf((float)c.D),
          *lse = zeros(p, c.tq);
    float *dq = zeros(p, nq), *dk = randoms(p, nk, 1), *dv = randoms(p, nk, 1);
    double *q64 = wide(p, nq, q), *k64 = wide(p, nk, k), *v64 = wide(p, nk, v), *dout64 = wide(p, nq, dout),
           *lse64 = room(p, c.tq, 8);
    double *delta64 = room(p, c.tq, 8), *dq64 = room(p, nq, 8), *dk64 = wide(p, nk, dk),
           *dv64 = wide(p, nk, dv), *out64 = room(p, nq, 8);
    p->exact->attention(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, q64, ld, k64, ld, v64, ld, out64, ld,
                        lse64, NULL);
    for (int64_t t = 0; t < c.tq; t++) {
      delta64[t] = p->exact->dot(c.D, dout64 + t * ld, out64 + t * ld);
      delta[t] = (float)delta64[t], lse[t] = (float)lse64[t];
    }
    p->fast->attention_back(c.tq, c.tk, c.D, c.q0, c.window, scale, q, ld, k, ld, v, ld, dout, ld, lse, delta,
                            dq, ld, dk, ld, dv, ld, scratch);
    p->exact->attention_back(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, q64, ld, k64, ld, v64, ld,
                             dout64, ld, lse64, delta64, dq64, ld, dk64, ld, dv64, ld, NULL);
    compare(p, nq + 1, dq, dq64), compare(p, nk + 1, dk, dk64), compare(p, nk + 1, dv, dv64);
  }
}

/* bf16: two tiles of queries against one packing; the last tile's queries and keys are not whole panels. */
typedef struct {
  int64_t T, D, window, q0;
  bool causal;
} bf16_case;
static const bf16_case bf16_cases[] = {
    {64, 64, 0, 0, true},  {200, 64, 0, 0, true},  {200, 64, 90, 0, true}, {135, 32, 3, 0, true},
    {1, 64, 0, 0, true},   {17, 64, 0, 30, true},  {140, 80, 0, 0, true},  {9, 20, 0, 700, true},
    {33, 7, 0, 0, true},   {70, 65, 11, 5, true},  {160, 128, 0, 0, true}, {130, 64, 600, 580, true},
    {37, 256, 0, 0, true}, {100, 64, 0, 0, false}, {131, 12, 0, 0, false}, {530, 64, 0, 0, false},
};
typedef struct {
  lc_attention_shape s;
  int64_t T, q0, ld, width, nq, nk;
  uint16_t *q, *k, *v, *out, *dout;
  double *q64, *k64, *v64, *dout64, *out64, *lse64;
  void *packed, *scratch;
} bf16_problem;

static double *wide_bf16(probe *p, int64_t n, const uint16_t *x) {
  double *y = room(p, n, sizeof *y);
  for (int64_t i = 0; i < n; i++) y[i] = (double)lc_bf16_to_f32(x[i]);
  return y;
}

/* Scratch begins at a multiple of 64 bytes, as lc_scratch's does. */
static void *aligned(probe *p, size_t bytes) {
  char *block = room(p, (int64_t)bytes + 64, 1);
  return block + (64 - (uintptr_t)block % 64) % 64;
}

static bf16_problem bf16_open(probe *p, bf16_case c) {
  bf16_problem b = {.s = {c.q0 + c.T, c.D, c.window, c.causal, 2 / sqrtf((float)c.D)}, .T = c.T, .q0 = c.q0};
  b.ld = c.D % 2 ? c.D : c.D + 6, b.width = LC_ATTN_LD(c.D), b.nq = c.T * b.ld, b.nk = b.s.tk * b.ld;
  b.q = random_bf16(p, b.nq), b.k = random_bf16(p, b.nk), b.v = random_bf16(p, b.nk),
  b.dout = random_bf16(p, b.nq);
  b.out = room(p, b.nq, 2), b.out64 = room(p, b.nq, 8), b.lse64 = room(p, c.T, 8);
  b.q64 = wide_bf16(p, b.nq, b.q), b.k64 = wide_bf16(p, b.nk, b.k), b.v64 = wide_bf16(p, b.nk, b.v);
  b.packed = aligned(p, LC_ATTN_PACKED(b.s.tk, c.D)), b.scratch = aligned(p, LC_ATTN_BF16_SCRATCH(c.D));
  p->exact->attention(c.T, b.s.tk, c.D, c.causal ? c.q0 : b.s.tk, c.window, (double)b.s.scale, b.q64, b.ld,
                      b.k64, b.ld, b.v64, b.ld, b.out64, b.ld, b.lse64, NULL);
  for (int64_t i = 0; i < b.nq; i++) b.out[i] = lc_f32_to_bf16((float)b.out64[i]);
  return b;
}

static void compare_rows(probe *p, int64_t n, int64_t D, const float *got, int64_t ldg, const double *want,
                         int64_t ldw) {
  for (int64_t i = 0; i < n; i++) compare(p, D, got + i * ldg, want + i * ldw);
}

static void row_attention_bf16(probe *p) {
  for (size_t i = 0; i < sizeof bf16_cases / sizeof *bf16_cases; i++) {
    bf16_problem b = bf16_open(p, bf16_cases[i]);
    p->fast->attention_pack(&b.s, false, b.k, b.ld, b.v, b.ld, b.packed);
    for (int64_t t = 0; t < b.T; t += LC_ATTN_TILE) {
      int64_t n = lc_min64(LC_ATTN_TILE, b.T - t);
      float *out = zeros(p, LC_ATTN_TILE * b.width), *lse = zeros(p, n);
      p->fast->attention_bf16(&b.s, n, b.q0 + t, b.q + t * b.ld, b.ld, b.packed, out, lse, b.scratch);
      compare_rows(p, n, b.s.D, out, b.width, b.out64 + t * b.ld, b.ld);
      compare(p, n, lse, b.lse64 + t), assert_true(lse[n] == 0);
    }
  }
}

static void row_attention_pack(probe *p) {
  row_attention_bf16(p); /* its layout is the instruction set's own: what reads it says whether it is right */
}

static void row_attention_back_bf16(probe *p) {
  for (size_t i = 0; i < sizeof bf16_cases / sizeof *bf16_cases; i++) {
    bf16_problem b = bf16_open(p, bf16_cases[i]);
    int64_t D = b.s.D, rows = LC_ATTN_KEYS(b.s.tk) * b.width;
    float *dk = randoms(p, rows, 1), *dv = randoms(p, rows, 1), *lse = zeros(p, b.T);
    double *dq64 = room(p, b.nq, 8), *dk64 = wide(p, rows, dk), *dv64 = wide(p, rows, dv),
           *delta64 = room(p, b.T, 8);
    double *dout64 = wide_bf16(p, b.nq, b.dout), *out64 = wide_bf16(p, b.nq, b.out);
    for (int64_t t = 0; t < b.T; t++)
      lse[t] = (float)b.lse64[t], delta64[t] = p->exact->dot(D, dout64 + t * b.ld, out64 + t * b.ld);
    p->exact->attention_back(b.T, b.s.tk, D, b.s.causal ? b.q0 : b.s.tk, b.s.window, (double)b.s.scale, b.q64,
                             b.ld, b.k64, b.ld, b.v64, b.ld, dout64, b.ld, b.lse64, delta64, dq64, b.ld, dk64,
                             b.width, dv64, b.width, NULL);
    p->fast->attention_pack(&b.s, true, b.k, b.ld, b.v, b.ld, b.packed);
    for (int64_t t = 0; t < b.T; t += LC_ATTN_TILE) {
      int64_t n = lc_min64(LC_ATTN_TILE, b.T - t), at = t * b.ld;
      float *dq = zeros(p, LC_ATTN_TILE * b.width);
      p->fast->attention_back_bf16(&b.s, n, b.q0 + t, b.q + at, b.ld, b.out + at, b.ld, b.dout + at, b.ld,
                                   lse + t, b.packed, dq, dk, dv, b.scratch);
      compare_rows(p, n, D, dq, b.width, dq64 + at, b.ld);
    }
    compare_rows(p, b.s.tk, D, dk, b.width, dk64, b.width),
        compare_rows(p, b.s.tk, D, dv, b.width, dv64, b.width);
  }
}

/* ---- sparse, optimiser ---- */

/* Ascending positions of a 40×N matrix from row 11 on, dense in some rows, absent from others. */
static int32_t *positions(probe *p, int64_t N, int64_t *K) {
  int32_t *flat = room(p, 29 * N, sizeof *flat);
  *K = 0;
  for (int64_t i = 11 * N; i < 40 * N; i++)
    if (lc_rng_uniform(&p->rng, p->next++) < (float)(i / N % 4) * 0.3f) flat[(*K)++] = (int32_t)i;
  return flat;
}

static void row_sampled(probe *p) {
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

static void row_sampled_bf16(probe *p) {
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

static void row_transpose_f32(probe *p) {
  for (int64_t rows = 1; rows < 80; rows += rows < 20 ? 3 : 17)
    for (int64_t cols = 1; cols < 80; cols += cols < 20 ? 5 : 13) {
      int64_t ld = cols + 3, ldd = rows + 2;
      float *src = randoms(p, rows * ld, 1), *a = zeros(p, cols * ldd), *b = zeros(p, cols * ldd);
      p->fast->transpose_f32(rows, cols, src, ld, a, ldd),
          p->scalar->transpose_f32(rows, cols, src, ld, b, ldd);
      compare_bits(p, sizeof(float) * (size_t)(cols * ldd), a, b);
    }
}

static void row_transpose_bf16(probe *p) {
  for (int64_t rows = 1; rows < 100; rows += rows < 20 ? 3 : 13)
    for (int64_t cols = 1; cols < 100; cols += cols < 20 ? 5 : 11) {
      int64_t ld = cols + 3, ldd = rows + 2;
      uint16_t *src = random_bf16(p, rows * ld), *a = room(p, cols * ldd, 2), *b = room(p, cols * ldd, 2);
      p->fast->transpose_bf16(rows, cols, src, ld, a, ldd),
          p->scalar->transpose_bf16(rows, cols, src, ld, b, ldd);
      compare_bits(p, 2 * (size_t)(cols * ldd), a, b);
    }
}

static void row_sparse_gemv(probe *p) {
  EACH_SIZE(N) {
    int64_t K;
    int32_t *flat = positions(p, N, &K);
    float *value = randoms(p, K, 1), *x = randoms(p, N, 1), *y = randoms(p, 40, 1), *want = copy(p, 40, y);
    p->fast->sparse_gemv(K, flat, value, 0.5f, N, x, y),
        p->scalar->sparse_gemv(K, flat, value, 0.5f, N, x, want);
    compare_f32(p, 41, y, want);
  }
}

static void row_adamw(probe *p) {
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

static void row_normal(probe *p) {
  EACH_SIZE(n) for (uint64_t first = 0; first < 70; first += 1 + first / 5) {
    const uint64_t at = first < 40 ? first : ((uint64_t)1 << 34) - 80 + first; /* over a carry of the counter */
    const lc_rng r = {.seed = 7ull << 33 | 5, .step = (uint32_t)n, .tensor = 9, .draw = 3, .purpose = 6};
    float *x = zeros(p, n), *y = zeros(p, n);
    p->fast->normal(&r, at, n, x), p->scalar->normal(&r, at, n, y);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), x, y);
  }
}

static void row_axpy_band(probe *p) {
  EACH_SIZE(n) for (int kind = 0; kind < 3; kind++) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1);
    if (n) y[n / 2] = kind ? -0.0f : 0.5f;
    float *want = copy(p, n, y);
    const float low = kind == 2 ? 0.5f : 0, high = kind == 1 ? 0.5f : INFINITY;
    p->fast->axpy_band(n, 0.3f, x, low, high, y), p->scalar->axpy_band(n, 0.3f, x, low, high, want);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), y, want);
  }
}

/* ---- the list ---- */

typedef struct {
  const char *name;
  size_t entry; /* where the function stands in the table: the test checks that no entry is forgotten */
  void (*run)(probe *);
  double tolerance; /* NMSE; 0: the same bits */
} row;

#define ROW(name, tolerance)                                                                                 \
  { #name, offsetof(lc_kernels, name), row_##name, tolerance }
static const row rows[] = {
    ROW(bf16_to_f32, 0),
    ROW(f32_to_bf16, 0),
    ROW(f16_to_f32, 0),
    ROW(f32_to_f16, 0),
    ROW(decode_q8_0, 0),
    ROW(decode_bf16, 0),
    ROW(decode_q4_0, 0),
    ROW(decode_q4_1, 0),
    ROW(dot, 1e-12),
    ROW(axpy, 1e-13),
    ROW(add, 0),
    ROW(scale, 0),
    ROW(sum_squares, 1e-13),
    ROW(gemv, 1e-12),
    ROW(mix_rows, 1e-12),
    ROW(quantise_q8, 0),
    ROW(gemv_q8, 1e-12),
    ROW(rmsnorm, 1e-13),
    ROW(rmsnorm_back, 1e-13),
    ROW(layernorm, 1e-13),
    ROW(layernorm_back, 1e-13),
    ROW(rope, 1e-13),
    ROW(silu_mul, 1e-13),
    ROW(silu_mul_back, 1e-13),
    ROW(gelu_tanh, 1e-13),
    ROW(gelu_tanh_back, 1e-12),
    ROW(gelu_erf, 1e-13),
    ROW(gelu_erf_back, 1e-13),
    ROW(cross_entropy, 1e-12),
    ROW(cross_entropy_bf16, 1e-5),
    ROW(softmax, 1e-12),
    ROW(attention, 1e-12),
    ROW(attention_back, 1e-11),
    ROW(attention_pack, 5e-6),
    ROW(attention_bf16, 5e-6), /* probabilities are rounded to bf16 */
    ROW(attention_back_bf16, 5e-6),
    ROW(sampled, 1e-12),
    ROW(sampled_bf16, 1e-12),
    ROW(transpose_f32, 0),
    ROW(transpose_bf16, 0),
    ROW(sparse_gemv, 1e-12),
    ROW(normal, 0),
    ROW(axpy_band, 0),
    ROW(adamw, 1e-13),
};

static void test_every_kernel(void **state) {
  (void)state;
  int failures = 0;
  for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
    assert_non_null(lc_kernels_for(isa));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
      static probe p;
      p = (probe){.fast = lc_kernels_for(isa),
                  .scalar = lc_kernels_for(LC_ISA_SCALAR),
                  .exact = lc_kernels_f64_get(),
                  .rng = {.seed = 11, .tensor = (uint32_t)i, .purpose = LC_RNG_TEST}};
      rows[i].run(&p);
      for (int b = 0; b < p.n_blocks; b++) free(p.blocks[b]);
      double nmse = p.error / p.norm;
      bool ok = p.norm > 0 && nmse <= rows[i].tolerance;
      failures += !ok;
      printf("%-12s %-16s NMSE %.1e%s\n", lc_isa_name(isa), rows[i].name, nmse, ok ? "" : "   TOO MUCH");
    }
  }
  assert_int_equal(failures, 0);
}

/* The table is pointers behind its isa: as many rows as pointers, each pointer with its row and not NULL on
 * any instruction set. */
static void test_no_entry_is_forgotten(void **state) {
  (void)state;
  for (size_t at = offsetof(lc_kernels, bf16_to_f32); at < sizeof(lc_kernels); at += sizeof(void (*)(void))) {
    size_t i = 0;
    while (i < sizeof rows / sizeof *rows && rows[i].entry != at) i++;
    assert_true(i < sizeof rows / sizeof *rows);
    for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
      void *entry;
      memcpy(&entry, (const char *)lc_kernels_for(isa) + at, sizeof entry);
      assert_non_null(entry);
    }
  }
}

/* NMSE is blind to small values. silu(g) goes through exp and keeps its digits over the whole range: each
 * value within 4 units of the last place. */
static void test_exp_keeps_its_digits(void **state) {
  (void)state;
  enum { MANY = 20000 };
  static float gate[MANY], one[MANY], h[MANY];
  static double gate64[MANY], one64[MANY], want[MANY];
  for (int i = 0; i < MANY; i++) {
    gate[i] = -85.0f + 175.0f * (float)i / MANY, one[i] = 1;
    gate64[i] = (double)gate[i], one64[i] = 1;
  }
  lc_kernels_f64_get()->silu_mul(MANY, gate64, one64, want);
  for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
    double worst = 0;
    lc_kernels_for(isa)->silu_mul(MANY, gate, one, h);
    for (int i = 0; i < MANY; i++)
      if (gate[i] > -79 && fabs(want[i]) > 0)
        worst = fmax(worst, fabs((double)h[i] - want[i]) / fabs(want[i]));
    printf("%-12s silu: worst relative error %.1e\n", lc_isa_name(isa), worst);
    assert_true(worst < 4 * 0x1p-23);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_entry_is_forgotten),
                                     cmocka_unit_test(test_every_kernel),
                                     cmocka_unit_test(test_exp_keeps_its_digits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
