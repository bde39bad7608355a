/* 16-bit floats in AVX2 and F16C; tails value by value, by the same rules. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

void lc_avx2_bf16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) v_store(dst + i, v_load_bf16(src + i));
  lc_ref_bf16_to_f32(n - i, src + i, dst + i);
}

void lc_avx2_f32_to_bf16(int64_t n, const float *src, uint16_t *dst) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m256i packed = _mm256_packus_epi32(v_round_bf16(v_load(src + i)), v_round_bf16(v_load(src + i + 8)));
    _mm256_storeu_si256((__m256i *)(dst + i), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  lc_ref_f32_to_bf16(n - i, src + i, dst + i);
}

void lc_avx2_f16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) v_store(dst + i, v_load_f16(src + i));
  lc_ref_f16_to_f32(n - i, src + i, dst + i);
}

void lc_avx2_f32_to_f16(int64_t n, const float *src, uint16_t *dst) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128((__m128i *)(dst + i),
                     _mm256_cvtps_ph(v_load(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  lc_ref_f32_to_f16(n - i, src + i, dst + i);
}
