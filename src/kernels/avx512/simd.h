/* AVX-512 (F, BW, DQ, VL) as the vector type that the bodies in ../simd are written in: `vf` is LANES floats.
 * A part is the first n < LANES lanes: the others read as 0 and are not written. */
#ifndef LC_AVX512_SIMD_H
#define LC_AVX512_SIMD_H
#include <immintrin.h>
#include "kernels/kernels.h"

#ifndef LC_SIMD /* amx/ compiles some bodies anew */
#define LC_SIMD(name) lc_avx512_##name
#endif
enum { LANES = 16 };
typedef __m512 vf;

static inline __mmask16 v_mask(int64_t n) {
  return (__mmask16)((1u << n) - 1);
}

static inline vf v_set(float x) {
  return _mm512_set1_ps(x);
}
static inline vf v_load(const float *p) {
  return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf x) {
  _mm512_storeu_ps(p, x);
}
/* Past the caches; p is aligned to a vector. v_fence: all of them are seen before what is stored later. */
static inline void v_store_past(float *p, vf x) {
  _mm512_stream_ps(p, x);
}
static inline void v_fence(void) {
  _mm_sfence();
}
static inline vf v_load_part(const float *p, int64_t n) {
  return _mm512_maskz_loadu_ps(v_mask(n), p);
}
static inline void v_store_part(float *p, vf x, int64_t n) {
  _mm512_mask_storeu_ps(p, v_mask(n), x);
}
/* x in the first n lanes, `other` in the rest. */
static inline vf v_keep(vf x, int64_t n, vf other) {
  return _mm512_mask_blend_ps(v_mask(n), other, x);
}
static inline vf v_add(vf a, vf b) {
  return _mm512_add_ps(a, b);
}
static inline vf v_sub(vf a, vf b) {
  return _mm512_sub_ps(a, b);
}
static inline vf v_mul(vf a, vf b) {
  return _mm512_mul_ps(a, b);
}
static inline vf v_div(vf a, vf b) {
  return _mm512_div_ps(a, b);
}
static inline vf v_fma(vf a, vf b, vf c) { /* a·b + c */
  return _mm512_fmadd_ps(a, b, c);
}
static inline vf v_fnma(vf a, vf b, vf c) { /* c − a·b */
  return _mm512_fnmadd_ps(a, b, c);
}
static inline vf v_sqrt(vf a) {
  return _mm512_sqrt_ps(a);
}
/* NaN in the second argument stays. */
static inline vf v_max(vf a, vf b) {
  return _mm512_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
  return _mm512_min_ps(a, b);
}
static inline vf v_abs(vf a) {
  return _mm512_abs_ps(a);
}
static inline vf v_copysign(vf magnitude, vf sign) {
  __m512 bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
}
static inline vf v_round(vf a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b ? x : y, lane by lane. */
static inline vf v_if_less(vf a, vf b, vf x, vf y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* p·2^n for whole n; right outside the normal range too. */
static inline vf v_scale2(vf p, vf n) {
  return _mm512_scalef_ps(p, n);
}
static inline float v_sum(vf a) {
  return _mm512_reduce_add_ps(a);
}
static inline float v_max_lane(vf a) {
  return _mm512_reduce_max_ps(a);
}

/* A vector of f64 holds half the lanes. */
typedef __m512d vd;
static inline vd vd_zero(void) {
  return _mm512_setzero_pd();
}
static inline vd vd_low(vf a) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}
static inline vd vd_high(vf a) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}
static inline vd vd_fma(vd a, vd b, vd c) {
  return _mm512_fmadd_pd(a, b, c);
}
static inline vd vd_add(vd a, vd b) {
  return _mm512_add_pd(a, b);
}
static inline double vd_sum(vd a) {
  return _mm512_reduce_add_pd(a);
}

/* Storage to lanes: LANES values of a 16-bit type, of 8-bit integers. */
static inline vf v_load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
/* lc_f32_to_bf16 in sixteen lanes: add half a unit, to even; a NaN keeps its top bits and becomes quiet. */
static inline __m256i v_round_bf16(vf x) {
#ifdef __AVX512BF16__
  enum { DENORMAL = 0x20 }; /* which the instruction takes for 0 */
  if (!_mm512_fpclass_ps_mask(x, DENORMAL)) return (__m256i)_mm512_cvtneps_pbh(x);
#endif
  __m512i u = _mm512_castps_si512(x), top = _mm512_srli_epi32(u, 16);
  __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40)));
}
static inline void v_store_bf16(uint16_t *p, vf x) {
  _mm256_storeu_si256((__m256i *)p, v_round_bf16(x));
}
static inline vf v_load_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf v_load_i8(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* The low and the high halves of LANES bytes, minus `zero`, as floats: a permutation of a table reads the low
 * four bits of each lane. */
static inline void v_load_nibbles(const uint8_t *p, int zero, vf *low, vf *high) {
  __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
  __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512 table = _mm512_cvtepi32_ps(_mm512_sub_epi32(steps, _mm512_set1_epi32(zero)));
  *low = _mm512_permutexvar_ps(b, table);
  *high = _mm512_permutexvar_ps(_mm512_srli_epi32(b, 4), table);
}
/* One f16 in all lanes. */
static inline vf v_set_f16(const void *p) {
  int16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  return _mm512_cvtph_ps(_mm256_set1_epi16(h));
}
static inline float f16_at(const void *p) {
  uint16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  return _cvtsh_ss(h);
}

/* Products of the low halves of 64-bit lanes, roots of f64 lanes (vectors of simd/noise.h). */
#define v_mul_u32(a, b) ((vu)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define v_sqrt_f64(x)   ((vd)_mm512_sqrt_pd((__m512d)(x)))

#endif
