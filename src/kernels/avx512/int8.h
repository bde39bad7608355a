/* 64 bytes, or sixteen int32, as the type of ../simd/gemm_q8.h. */
#ifndef LC_AVX512_INT8_H
#define LC_AVX512_INT8_H
#include <string.h>
#include "kernels/avx512/simd.h"

#define INLINE static inline __attribute__((always_inline))
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

#endif
