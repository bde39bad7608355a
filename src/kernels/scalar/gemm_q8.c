/* Integer products of prompts: many tokens' rows in bytes (quantise_q8's blocks), times quantised weights:
 *   Q8_0, Q4_0:  y[t,i] = Σ_b s[t,b]·d[i,b]·Σ q·x
 *   Q4_1:        … + s[t,b]·Σ x · m[i,b]
 * Weights are packed by panels of LC_Q8_PANEL rows, block after block:
 *   uint8 w[8][LC_Q8_PANEL][4]   values 4j … 4j+3 of a row side by side, shifted into 0 … 255: Q8_0 by 128, Q4_0 by 8, Q4_1 not
 *   float d[LC_Q8_PANEL]
 *   float m[LC_Q8_PANEL]         Q4_1 only
 * so that the token's four bytes meet those of all rows at once. What the shift adds, −128·Σx or −8·Σx, is where a sum starts. The inner sums are exact
 * on every path. */
#include <string.h>
#include "kernels/scalar/scalar.h"

enum { QUADS = LC_BLOCK / 4 };

size_t lc_q8_panel_bytes(lc_dtype dtype, int64_t n) {
  size_t scales = (dtype == LC_Q4_1 ? 2 : 1) * sizeof(float);
  return (size_t)(n / LC_BLOCK) * LC_Q8_PANEL * (LC_BLOCK + scales);
}

size_t lc_q8_rows_bytes(int64_t T, int64_t n) {
  size_t blocks = (size_t)(T * (n / LC_BLOCK));
  return blocks * (LC_BLOCK + 2 * sizeof(float) + 2 * sizeof(int32_t)) + 64;
}

lc_q8_rows lc_q8_rows_in(void *buffer, int64_t T, int64_t n) {
  size_t blocks = (size_t)(T * (n / LC_BLOCK));
  uint8_t *at = (uint8_t *)buffer + (64 - (uintptr_t)buffer % 64) % 64;
  float *scale = (float *)(void *)(at + blocks * LC_BLOCK);
  int32_t *start = (int32_t *)(void *)(scale + 2 * blocks);
  return (lc_q8_rows){n, (int8_t *)at, scale, scale + blocks, start, start + blocks};
}

void lc_q8_rows_set(const lc_kernels *k, const lc_q8_rows *x, int64_t t, const float *row) {
  int64_t blocks = x->n / LC_BLOCK, at = t * blocks;
  lc_q8_vector v = {x->q + t * x->n, x->scale + at, x->start8 + at};
  k->quantise_q8(x->n, row, &v);
  for (int64_t b = at; b < at + blocks; b++) {
    int32_t sum = x->start8[b];
    x->offset[b] = x->scale[b] * (float)sum;
    x->start128[b] = -128 * sum;
    x->start8[b] = -8 * sum;
  }
}

static float f16_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return lc_f16_to_f32(h);
}

/* Value i of a block, shifted. */
static uint8_t value_of(lc_dtype dtype, const uint8_t *block, int i) {
  if (dtype == LC_Q8_0) return block[2 + i] ^ 128;
  const uint8_t *q = block + (dtype == LC_Q4_1 ? 4 : 2);
  return i < LC_BLOCK / 2 ? q[i] & 15 : q[i - LC_BLOCK / 2] >> 4;
}

void lc_ref_pack_q8(lc_dtype dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed) {
  const int bytes = lc_dtype_get(dtype)->bytes;
  uint8_t *out = packed;
  memset(packed, 0, lc_q8_panel_bytes(dtype, n));
  for (int64_t b = 0; b < n / LC_BLOCK; b++) {
    float *d = (float *)(void *)(out + LC_BLOCK * LC_Q8_PANEL);
    for (int64_t i = 0; i < m; i++) {
      const uint8_t *block = row[i] + b * bytes;
      for (int c = 0; c < LC_BLOCK; c++)
        out[(c / 4 * LC_Q8_PANEL + i) * 4 + c % 4] = value_of(dtype, block, c);
      d[i] = f16_at(block);
      if (dtype == LC_Q4_1) d[LC_Q8_PANEL + i] = f16_at(block + 2);
    }
    out += lc_q8_panel_bytes(dtype, LC_BLOCK);
  }
}

/* Row i of a panel's block. */
static int32_t block_sum(const uint8_t *panel, int64_t i, const int8_t *x, int32_t start) {
  for (int c = 0; c < LC_BLOCK; c++) start += panel[(c / 4 * LC_Q8_PANEL + i) * 4 + c % 4] * x[c];
  return start;
}

void lc_ref_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                    int64_t t0, float *y, int64_t ldy) {
  const int64_t blocks = x->n / LC_BLOCK, wide = (int64_t)lc_q8_panel_bytes(dtype, LC_BLOCK);
  for (int64_t t = 0; t < T; t++)
    for (int64_t i = 0; i < panels * LC_Q8_PANEL; i++) {
      const uint8_t *panel = (const uint8_t *)packed + i / LC_Q8_PANEL * blocks * wide;
      int64_t lane = i % LC_Q8_PANEL, at = (t0 + t) * blocks;
      double sum = 0;
      for (int64_t b = 0; b < blocks; b++, panel += wide) {
        const float *d = (const float *)(const void *)(panel + LC_BLOCK * LC_Q8_PANEL);
        int32_t start = dtype == LC_Q8_0 ? x->start128[at + b] : dtype == LC_Q4_0 ? x->start8[at + b] : 0;
        sum += (double)x->scale[at + b] * (double)d[lane] *
               block_sum(panel, lane, x->q + (t0 + t) * x->n + b * LC_BLOCK, start);
        if (dtype == LC_Q4_1) sum += (double)x->offset[at + b] * (double)d[LC_Q8_PANEL + lane];
      }
      y[t * ldy + i] = (float)sum;
    }
}
