/* GGUF's 32-value blocks to f32. d and m are f16; q is small, so d·q is exact in f32 and the one rounding is
 * that of + m: every path gives the same bits, fused or not. Q8_0: {f16 d; int8 q[32]} value = d·q Q4_0: {f16
 * d; uint8 q[16]}                    value = d·(q−8); byte i holds value i in its low, value i+16 in its high
 * half Q4_1: {f16 d; f16 m; uint8 q[16]}             value = d·q + m */
#include <string.h>
#include "kernels/scalar/scalar.h"

static float f16_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return lc_f16_to_f32(h);
}

void lc_ref_decode_q8_0(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q8_0_BYTES, dst += LC_BLOCK) {
    float d = f16_at(block);
    const int8_t *q = (const int8_t *)(block + 2);
    for (int i = 0; i < LC_BLOCK; i++) dst[i] = d * (float)q[i];
  }
}

void lc_ref_decode_q4_0(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q4_0_BYTES, dst += LC_BLOCK) {
    float d = f16_at(block);
    for (int i = 0; i < LC_BLOCK / 2; i++) {
      dst[i] = d * (float)((block[2 + i] & 15) - 8);
      dst[i + LC_BLOCK / 2] = d * (float)((block[2 + i] >> 4) - 8);
    }
  }
}

void lc_ref_decode_q4_1(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q4_1_BYTES, dst += LC_BLOCK) {
    float d = f16_at(block), m = f16_at(block + 2);
    for (int i = 0; i < LC_BLOCK / 2; i++) {
      dst[i] = d * (float)(block[4 + i] & 15) + m;
      dst[i + LC_BLOCK / 2] = d * (float)(block[4 + i] >> 4) + m;
    }
  }
}

static float value_at(lc_dtype dtype, const uint8_t *src, int64_t at) {
  const uint8_t *block = src + at / LC_BLOCK * lc_dtype_get(dtype)->bytes;
  const int i = (int)(at % LC_BLOCK), shift = i < LC_BLOCK / 2 ? 0 : 4, byte = i % (LC_BLOCK / 2);
  if (dtype == LC_Q8_0) return f16_at(block) * (float)(int8_t)block[2 + i];
  if (dtype == LC_Q4_0) return f16_at(block) * (float)((block[2 + byte] >> shift & 15) - 8);
  return f16_at(block) * (float)(block[4 + byte] >> shift & 15) + f16_at(block + 2);
}

void lc_ref_pick(lc_dtype dtype, int64_t n, const void *src, const int64_t *at, float *dst) {
  const uint16_t *half = src;
  for (int64_t i = 0; i < n; i++)
    dst[i] = dtype == LC_F32    ? ((const float *)src)[at[i]]
             : dtype == LC_BF16 ? lc_bf16_to_f32(half[at[i]])
             : dtype == LC_F16  ? lc_f16_to_f32(half[at[i]])
                                : value_at(dtype, src, at[i]);
}

void lc_ref_decode_bf16(lc_dtype dtype, int64_t n, const void *src, uint16_t *dst) {
  const int bytes = lc_dtype_get(dtype)->bytes;
  const uint8_t *block = src;
  float x[LC_BLOCK];
  for (int64_t i = 0; i < n; i += LC_BLOCK, block += bytes) {
    if (dtype == LC_Q8_0)
      lc_ref_decode_q8_0(LC_BLOCK, block, x);
    else if (dtype == LC_Q4_0)
      lc_ref_decode_q4_0(LC_BLOCK, block, x);
    else
      lc_ref_decode_q4_1(LC_BLOCK, block, x);
    lc_ref_f32_to_bf16(LC_BLOCK, x, dst + i);
  }
}
