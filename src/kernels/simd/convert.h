/* GGUF's blocks to f32, with the scalar reference's bits: d·q is exact, and Q4_1's + m is the one rounding,
 * fused or not. */

static void LC_SIMD(decode_q8_0)(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q8_0_BYTES, dst += LC_BLOCK) {
    vf d = v_set_f16(block);
    for (int i = 0; i < LC_BLOCK; i += LANES)
      v_store(dst + i, v_mul(d, v_load_i8((const int8_t *)block + 2 + i)));
  }
}

static void LC_SIMD(decode_q4_0)(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q4_0_BYTES, dst += LC_BLOCK) {
    vf d = v_set_f16(block), low, high;
    for (int i = 0; i < LC_BLOCK / 2; i += LANES) {
      v_load_nibbles(block + 2 + i, 8, &low, &high);
      v_store(dst + i, v_mul(d, low));
      v_store(dst + LC_BLOCK / 2 + i, v_mul(d, high));
    }
  }
}

static void LC_SIMD(decode_q4_1)(int64_t n, const void *src, float *dst) {
  const uint8_t *block = src;
  for (int64_t b = 0; b < n / LC_BLOCK; b++, block += LC_Q4_1_BYTES, dst += LC_BLOCK) {
    vf d = v_set_f16(block), m = v_set_f16(block + 2), low, high;
    for (int i = 0; i < LC_BLOCK / 2; i += LANES) {
      v_load_nibbles(block + 4 + i, 0, &low, &high);
      v_store(dst + i, v_add(v_mul(d, low), m));
      v_store(dst + LC_BLOCK / 2 + i, v_add(v_mul(d, high), m));
    }
  }
}
