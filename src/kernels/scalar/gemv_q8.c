/* Integer products of generation, after llama.cpp's scheme (Q8_0 and Q8_1 activations): the token's vector becomes signed bytes
 * with a scale for each block of 32, so that a quantised weight is never decoded:
 *   Q8_0, Q4_0:  y = Σ_b d_b·s_b·Σ q·x          q: the weight's integers (Q4_0: nibble − 8), x: the vector's
 *   Q4_1:        y = Σ_b d_b·s_b·Σ q·x + m_b·s_b·Σ x
 * The inner sums are exact on every path. */
#include <math.h>
#include <string.h>
#include "kernels/scalar/scalar.h"

size_t lc_q8_bytes(int64_t n) {
  size_t blocks = (size_t)lc_ceil_div(n, LC_BLOCK);
  return blocks * (LC_BLOCK + sizeof(float) + sizeof(int32_t)) + 2 * 64;
}

lc_q8_vector lc_q8_in(void *buffer, int64_t n) {
  size_t blocks = (size_t)lc_ceil_div(n, LC_BLOCK), values = (blocks * LC_BLOCK + 63) / 64 * 64;
  uint8_t *at = (uint8_t *)(((uintptr_t)buffer + 63) / 64 * 64);
  return (lc_q8_vector){(int8_t *)at, (float *)(void *)(at + values),
                        (int32_t *)(void *)(at + values + blocks * sizeof(float))};
}

void lc_ref_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q) {
  for (int64_t b = 0; b < n / LC_BLOCK; b++, x += LC_BLOCK) {
    float most = 0;
    bool finite = true;
    for (int i = 0; i < LC_BLOCK; i++) {
      finite = finite && fabsf(x[i]) <= LC_Q8_MOST;
      most = fmaxf(most, fabsf(x[i]));
    }
    bool some = finite && most >= LC_Q8_LEAST;
    float inverse = some ? 127 / most : 0;
    q->scale[b] = some ? most / 127 : finite ? 0 : NAN;
    q->sum[b] = 0;
    for (int i = 0; i < LC_BLOCK; i++) {
      q->q[b * LC_BLOCK + i] = some ? (int8_t)rintf(x[i] * inverse) : 0;
      q->sum[b] += q->q[b * LC_BLOCK + i];
    }
  }
}

static float f16_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return lc_f16_to_f32(h);
}

static int32_t dot_q8(const uint8_t *w, const int8_t *x) {
  int32_t sum = 0;
  for (int i = 0; i < LC_BLOCK; i++) sum += (int8_t)w[i] * x[i];
  return sum;
}

static int32_t dot_q4(const uint8_t *w, int zero, const int8_t *x) {
  int32_t sum = 0;
  for (int i = 0; i < LC_BLOCK / 2; i++)
    sum += ((w[i] & 15) - zero) * x[i] + ((w[i] >> 4) - zero) * x[i + LC_BLOCK / 2];
  return sum;
}

void lc_ref_gemv_q8(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                    const lc_q8_vector *x, float *y) {
  size_t bytes = (size_t)lc_dtype_get(dtype)->bytes;
  for (int64_t i = 0; i < m; i++) {
    const uint8_t *w = (const uint8_t *)W + (size_t)i * row_bytes;
    double sum = 0;
    for (int64_t b = 0; b < n / LC_BLOCK; b++, w += bytes) {
      double d = (double)f16_at(w) * (double)x->scale[b];
      const int8_t *q = x->q + b * LC_BLOCK;
      if (dtype == LC_Q8_0)
        sum += d * dot_q8(w + 2, q);
      else if (dtype == LC_Q4_0)
        sum += d * dot_q4(w + 2, 8, q);
      else
        sum += d * dot_q4(w + 4, 0, q) + (double)f16_at(w + 2) * (double)x->scale[b] * x->sum[b];
    }
    y[i] = (float)sum;
  }
}
