/* AVX2 + FMA as the vector type that the bodies in ../simd are written in: `vf` is LANES floats. A part is
 * the first n < LANES lanes: the others read as 0 and are not written. */
#ifndef LC_AVX2_SIMD_H
#define LC_AVX2_SIMD_H
#include <immintrin.h>
#include "kernels/kernels.h"

#define LC_SIMD(name) lc_avx2_##name
enum { LANES = 8 };
typedef __m256 vf;

static inline __m256i v_mask(int64_t n) {
  static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(ones + 8 - n));
}

static inline vf v_set(float x) {
  return _mm256_set1_ps(x);
}
static inline vf v_load(const float *p) {
  return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vf x) {
  _mm256_storeu_ps(p, x);
}
/* Past the caches; p is aligned to a vector. v_fence: all of them are seen before what is stored later. */
static inline void v_store_past(float *p, vf x) {
  _mm256_stream_ps(p, x);
}
static inline void v_fence(void) {
  _mm_sfence();
}
static inline vf v_load_part(const float *p, int64_t n) {
  return _mm256_maskload_ps(p, v_mask(n));
}
static inline void v_store_part(float *p, vf x, int64_t n) {
  _mm256_maskstore_ps(p, v_mask(n), x);
}
/* x in the first n lanes, `other` in the rest. */
static inline vf v_keep(vf x, int64_t n, vf other) {
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(v_mask(n)));
}
static inline vf v_add(vf a, vf b) {
  return _mm256_add_ps(a, b);
}
static inline vf v_sub(vf a, vf b) {
  return _mm256_sub_ps(a, b);
}
static inline vf v_mul(vf a, vf b) {
  return _mm256_mul_ps(a, b);
}
static inline vf v_div(vf a, vf b) {
  return _mm256_div_ps(a, b);
}
static inline vf v_fma(vf a, vf b, vf c) { /* a·b + c */
  return _mm256_fmadd_ps(a, b, c);
}
static inline vf v_fnma(vf a, vf b, vf c) { /* c − a·b */
  return _mm256_fnmadd_ps(a, b, c);
}
static inline vf v_sqrt(vf a) {
  return _mm256_sqrt_ps(a);
}
/* NaN in the second argument stays. */
static inline vf v_max(vf a, vf b) {
  return _mm256_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
  return _mm256_min_ps(a, b);
}
static inline vf v_abs(vf a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vf v_copysign(vf magnitude, vf sign) {
  return _mm256_or_ps(v_abs(magnitude), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
static inline vf v_round(vf a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b ? x : y, lane by lane. */
static inline vf v_if_less(vf a, vf b, vf x, vf y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
/* p·2^n for whole n in [−150, 130], in two steps, so that results outside the normal range come out right. */
static inline vf v_scale2(vf p, vf n) {
  __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
  __m256i bias = _mm256_set1_epi32(127);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
static inline float v_sum(vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float v_max_lane(vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

/* A vector of f64 holds half the lanes. */
typedef __m256d vd;
static inline vd vd_zero(void) {
  return _mm256_setzero_pd();
}
static inline vd vd_low(vf a) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(a));
}
static inline vd vd_high(vf a) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}
static inline vd vd_fma(vd a, vd b, vd c) {
  return _mm256_fmadd_pd(a, b, c);
}
static inline vd vd_add(vd a, vd b) {
  return _mm256_add_pd(a, b);
}
static inline double vd_sum(vd a) {
  __m128d x = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
}

/* Storage to lanes: LANES values of a 16-bit type, of 8-bit integers. */
static inline vf v_load_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
/* lc_f32_to_bf16 in eight lanes: add half a unit, to even; a NaN keeps its top bits and becomes quiet. */
static inline __m256i v_round_bf16(vf x) {
  __m256i u = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
  __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
static inline void v_store_bf16(uint16_t *p, vf x) {
  __m256i r = v_round_bf16(x);
  _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
static inline vf v_load_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf v_load_i8(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
/* The low and the high halves of LANES bytes, minus `zero`, as floats. */
static inline void v_load_nibbles(const uint8_t *p, int zero, vf *low, vf *high) {
  __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), z = _mm256_set1_epi32(zero);
  *low = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(b, _mm256_set1_epi32(15)), z));
  *high = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(b, 4), z));
}
/* One f16 in all lanes. */
static inline vf v_set_f16(const void *p) {
  int16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  return _mm256_cvtph_ps(_mm_set1_epi16(h));
}
static inline float f16_at(const void *p) {
  uint16_t h;
  __builtin_memcpy(&h, p, sizeof h);
  return _cvtsh_ss(h);
}

/* Products of the low halves of 64-bit lanes, roots of f64 lanes (vectors of simd/noise.h). */
#define v_mul_u32(a, b) ((vu)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define v_sqrt_f64(x)   ((vd)_mm256_sqrt_pd((__m256d)(x)))

#endif
