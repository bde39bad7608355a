/* Integer products of prompts in AVX2: 4 tokens by a panel, 8 integer sums; the f32 sums wait in the first-level cache. */
#define LC_Q8_PAIRS
#include "kernels/avx2/int8.h"

enum { MR = 4, P = 1 };

INLINE vi vi_add(vi a, vi b) {
  return _mm256_add_epi32(a, b);
}
INLINE vi vi_add16(vi a, vi b) {
  return _mm256_add_epi16(a, b);
}
INLINE vi vi_pairs(vi w, vi x) {
  return _mm256_maddubs_epi16(w, x);
}
INLINE vi vi_widen(vi pairs) {
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE void vi_signs(const uint8_t *p, vi *size, vi *signs) {
  vi w = _mm256_xor_si256(vi_load(p), _mm256_set1_epi8(-128));
  *size = _mm256_abs_epi8(w), *signs = w;
}
INLINE vi vi_with_sign(vi x, vi signs) {
  return _mm256_sign_epi8(x, signs);
}
#include "kernels/simd/gemm_q8.h"

void lc_avx2_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                     int64_t t0, float *y, int64_t ldy) {
  gemm_q8(dtype, T, panels, packed, x, t0, y, ldy);
}
