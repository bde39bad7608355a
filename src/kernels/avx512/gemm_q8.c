/* Integer products of prompts in AVX-512 without VNNI. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/int8.h"

#define LC_Q8_PAIRS
enum { MR = 5, P = 2 };

INLINE vi vi_add(vi a, vi b) {
  return _mm512_add_epi32(a, b);
}
INLINE vi vi_add16(vi a, vi b) {
  return _mm512_add_epi16(a, b);
}
INLINE vi vi_pairs(vi w, vi x) {
  return _mm512_maddubs_epi16(w, x);
}
INLINE vi vi_widen(vi pairs) {
  return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
INLINE void vi_signs(const uint8_t *p, vi *size, vi *signs) {
  vi w = _mm512_xor_si512(vi_load(p), _mm512_set1_epi8(-128));
  *size = _mm512_abs_epi8(w), *signs = w;
}
INLINE vi vi_with_sign(vi x, vi signs) {
  return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(signs), _mm512_setzero_si512(), x);
}
#include "kernels/simd/gemm_q8.h"

void lc_avx512_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                       int64_t t0, float *y, int64_t ldy) {
  gemm_q8(dtype, T, panels, packed, x, t0, y, ldy);
}
