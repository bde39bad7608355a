/* GGUF's blocks to f32, with the scalar reference's bits: d·q is exact, and Q4_1's + m is the one rounding,
 * fused or not. `narrow` rounds to bf16 on the way. */

static inline __attribute__((always_inline)) void LC_SIMD(put_decoded)(bool narrow, void *dst, int64_t i,
                                                                       vf x) {
  if (narrow)
    v_store_bf16((uint16_t *)dst + i, x);
  else
    v_store((float *)dst + i, x);
}

static inline __attribute__((always_inline)) void LC_SIMD(blocks_q8_0)(bool narrow, int64_t n,
                                                                       const uint8_t *block, void *dst) {
  for (int64_t at = 0; at < n; at += LC_BLOCK, block += LC_Q8_0_BYTES) {
    vf d = v_set_f16(block);
    for (int i = 0; i < LC_BLOCK; i += LANES)
      LC_SIMD(put_decoded)(narrow, dst, at + i, v_mul(d, v_load_i8((const int8_t *)block + 2 + i)));
  }
}

static inline __attribute__((always_inline)) void LC_SIMD(blocks_q4_0)(bool narrow, int64_t n,
                                                                       const uint8_t *block, void *dst) {
  for (int64_t at = 0; at < n; at += LC_BLOCK, block += LC_Q4_0_BYTES) {
    vf d = v_set_f16(block), low, high;
    for (int i = 0; i < LC_BLOCK / 2; i += LANES) {
      v_load_nibbles(block + 2 + i, 8, &low, &high);
      LC_SIMD(put_decoded)(narrow, dst, at + i, v_mul(d, low));
      LC_SIMD(put_decoded)(narrow, dst, at + LC_BLOCK / 2 + i, v_mul(d, high));
    }
  }
}

static inline __attribute__((always_inline)) void LC_SIMD(blocks_q4_1)(bool narrow, int64_t n,
                                                                       const uint8_t *block, void *dst) {
  for (int64_t at = 0; at < n; at += LC_BLOCK, block += LC_Q4_1_BYTES) {
    vf d = v_set_f16(block), m = v_set_f16(block + 2), low, high;
    for (int i = 0; i < LC_BLOCK / 2; i += LANES) {
      v_load_nibbles(block + 4 + i, 0, &low, &high);
      LC_SIMD(put_decoded)(narrow, dst, at + i, v_add(v_mul(d, low), m));
      LC_SIMD(put_decoded)(narrow, dst, at + LC_BLOCK / 2 + i, v_add(v_mul(d, high), m));
    }
  }
}

static void LC_SIMD(decode_q8_0)(int64_t n, const void *src, float *dst) {
  LC_SIMD(blocks_q8_0)(false, n, src, dst);
}
static void LC_SIMD(decode_q4_0)(int64_t n, const void *src, float *dst) {
  LC_SIMD(blocks_q4_0)(false, n, src, dst);
}
static void LC_SIMD(decode_q4_1)(int64_t n, const void *src, float *dst) {
  LC_SIMD(blocks_q4_1)(false, n, src, dst);
}

static void LC_SIMD(pick)(lc_dtype dtype, int64_t n, const void *src, const int64_t *at, float *dst) {
  const uint16_t *half = (const uint16_t *)src;
  const uint8_t *blocks = (const uint8_t *)src;
  switch (dtype) {
  case LC_F32:
    for (int64_t i = 0; i < n; i++) dst[i] = ((const float *)src)[at[i]];
    return;
  case LC_BF16:
    for (int64_t i = 0; i < n; i++) dst[i] = lc_bf16_to_f32(half[at[i]]);
    return;
  case LC_F16:
    for (int64_t i = 0; i < n; i++) dst[i] = f16_at(half + at[i]);
    return;
  case LC_Q8_0:
    for (int64_t i = 0; i < n; i++) {
      const uint8_t *b = blocks + at[i] / LC_BLOCK * LC_Q8_0_BYTES;
      dst[i] = f16_at(b) * (float)(int8_t)b[2 + at[i] % LC_BLOCK];
    }
    return;
  case LC_Q4_0:
    for (int64_t i = 0; i < n; i++) {
      const uint8_t *b = blocks + at[i] / LC_BLOCK * LC_Q4_0_BYTES;
      dst[i] = f16_at(b) * (float)((b[2 + (at[i] & 15)] >> (at[i] >> 2 & 4) & 15) - 8);
    }
    return;
  default:
    for (int64_t i = 0; i < n; i++) {
      const uint8_t *b = blocks + at[i] / LC_BLOCK * LC_Q4_1_BYTES;
      dst[i] = f16_at(b) * (float)(b[4 + (at[i] & 15)] >> (at[i] >> 2 & 4) & 15) + f16_at(b + 2);
    }
  }
}

static void LC_SIMD(decode_bf16)(lc_dtype dtype, int64_t n, const void *src, uint16_t *dst) {
  if (dtype == LC_Q8_0)
    LC_SIMD(blocks_q8_0)(true, n, src, dst);
  else if (dtype == LC_Q4_0)
    LC_SIMD(blocks_q4_0)(true, n, src, dst);
  else
    LC_SIMD(blocks_q4_1)(true, n, src, dst);
}
