/* 16-bit floats in AVX-512; tails under a mask. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

/* n < 16 values of 16 bits, the rest 0. */
static inline __m256i load16_part(const uint16_t *p, int64_t n) {
  return _mm256_maskz_loadu_epi16(v_mask(n), p);
}

void lc_avx512_bf16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store(dst + i, v_load_bf16(src + i));
  if (i < n)
    v_store_part(
        dst + i,
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load16_part(src + i, n - i)), 16)),
        n - i);
}

void lc_avx512_f32_to_bf16(int64_t n, const float *src, uint16_t *dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store_bf16(dst + i, v_load(src + i));
  if (i < n) _mm256_mask_storeu_epi16(dst + i, v_mask(n - i), v_round_bf16(v_load_part(src + i, n - i)));
}

void lc_avx512_f16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store(dst + i, v_load_f16(src + i));
  if (i < n) v_store_part(dst + i, _mm512_cvtph_ps(load16_part(src + i, n - i)), n - i);
}

void lc_avx512_f32_to_f16(int64_t n, const float *src, uint16_t *dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256((__m256i *)(dst + i),
                        _mm512_cvtps_ph(v_load(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  if (i < n)
    _mm256_mask_storeu_epi16(
        dst + i, v_mask(n - i),
        _mm512_cvtps_ph(v_load_part(src + i, n - i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
