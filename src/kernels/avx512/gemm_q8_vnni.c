/* Integer products of prompts with AVX-512 VNNI: 6 tokens by two panels, 12 integer and 12 f32 sums. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
enum { MR = 6, P = 2 };
typedef __m512i vi;

INLINE vi vi_set(int32_t x) {
  return _mm512_set1_epi32(x);
}
INLINE vi vi_set_quad(const int8_t *q) {
  int32_t x;
  memcpy(&x, q, sizeof x);
  return _mm512_set1_epi32(x);
}
INLINE vi vi_load(const uint8_t *p) {
  return _mm512_load_si512(p);
}
INLINE vf vi_to_vf(vi x) {
  return _mm512_cvtepi32_ps(x);
}
INLINE vi vi_dot(vi sum, vi w, vi x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}
#include "kernels/simd/gemm_q8.h"

void lc_avx512_vnni_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed,
                            const lc_q8_rows *x, int64_t t0, float *y, int64_t ldy) {
  gemm_q8(dtype, T, panels, packed, x, t0, y, ldy);
}
