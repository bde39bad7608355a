/* Integer products of generation in AVX2 (the sums: scalar/gemv_q8.c). vpmaddubsw multiplies unsigned by signed bytes and adds pairs
 * in 16 bits: Q8_0 gives the weight's sign to the token (|w|·(±x): at most 2·128·127, which fits); nibbles are unsigned as they are, and
 * Q4_0's −8 is taken off the pairs. Four rows share the token's block; the next four are fetched meanwhile. */
#include <string.h>
#include <math.h>
#include "kernels/avx2/avx2.h"
#include "kernels/scalar/scalar.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
enum { ROWS = 4 };

INLINE __m256i nibbles(const uint8_t *p) {
  __m128i b = _mm_loadu_si128((const __m128i *)p);
  __m256i both = _mm256_set_m128i(_mm_srli_epi16(b, 4), b);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* 8 lanes of the block's integer sum. */
INLINE __m256 block_sum(lc_dtype dtype, const uint8_t *w, __m256i x, __m256i eights) {
  __m256i pairs;
  if (dtype == LC_Q8_0) {
    __m256i q = _mm256_loadu_si256((const __m256i *)(w + 2));
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
  } else {
    pairs = _mm256_maddubs_epi16(nibbles(w + (dtype == LC_Q4_1 ? 4 : 2)), x);
    if (dtype == LC_Q4_0) pairs = _mm256_sub_epi16(pairs, eights);
  }
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* The f16 at byte `at` of the four blocks. */
INLINE __m128 four_f16(const uint8_t *const *w, int at) {
  uint16_t h[ROWS];
  for (int r = 0; r < ROWS; r++) memcpy(&h[r], w[r] + at, sizeof h[r]);
  uint64_t packed = (uint64_t)h[0] | (uint64_t)h[1] << 16 | (uint64_t)h[2] << 32 | (uint64_t)h[3] << 48;
  return _mm_cvtph_ps(_mm_cvtsi64_si128((long long)packed));
}

INLINE __m128 rows(lc_dtype dtype, int64_t bytes, int64_t n, const uint8_t *const *row, const uint8_t *ahead,
                   const lc_q8_vector *x) {
  const uint8_t *w[ROWS];
  __m256 acc[ROWS];
  __m128 offset = _mm_setzero_ps();
  for (int r = 0; r < ROWS; r++) w[r] = row[r], acc[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < n / LC_BLOCK; b++) {
    for (int64_t line = 0; line < ROWS * bytes; line += 64)
      _mm_prefetch((const char *)ahead + line, _MM_HINT_T0);
    ahead += ROWS * bytes;
    __m256i v = _mm256_loadu_si256((const __m256i *)(x->q + b * LC_BLOCK));
    __m256i eights = _mm256_maddubs_epi16(_mm256_set1_epi8(8), v);
    float d[ROWS], scale = x->scale[b];
    _mm_storeu_ps(d, _mm_mul_ps(four_f16(w, 0), _mm_set1_ps(scale)));
    if (dtype == LC_Q4_1)
      offset = _mm_fmadd_ps(four_f16(w, 2), _mm_set1_ps(scale * (float)x->sum[b]), offset);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++, w[r - 1] += bytes)
      acc[r] = _mm256_fmadd_ps(block_sum(dtype, w[r], v, eights), _mm256_set1_ps(d[r]), acc[r]);
  }
  __m256 sum = _mm256_hadd_ps(_mm256_hadd_ps(acc[0], acc[1]), _mm256_hadd_ps(acc[2], acc[3]));
  return _mm_add_ps(_mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1)), offset);
}

#define GEMV(name, dtype, bytes)                                                                             \
  static void name(int64_t m, int64_t n, const uint8_t *W, size_t row_bytes, const lc_q8_vector *x,          \
                   float *y) {                                                                               \
    for (int64_t i = 0; i < m; i += ROWS) {                                                                  \
      int64_t here = lc_min64(ROWS, m - i);                                                                  \
      const uint8_t *row[ROWS]; /* missing rows: the last again */                                           \
      float sum[ROWS];                                                                                       \
      for (int64_t r = 0; r < ROWS; r++) row[r] = W + (size_t)(i + lc_min64(r, here - 1)) * row_bytes;       \
      _mm_storeu_ps(sum, rows(dtype, bytes, n, row, row[0] + ROWS * row_bytes, x));                          \
      memcpy(y + i, sum, (size_t)here * sizeof *y);                                                          \
    }                                                                                                        \
  }
GEMV(gemv_q8_0, LC_Q8_0, LC_Q8_0_BYTES)
GEMV(gemv_q4_0, LC_Q4_0, LC_Q4_0_BYTES)
GEMV(gemv_q4_1, LC_Q4_1, LC_Q4_1_BYTES)

void lc_avx2_gemv_q8(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                     const lc_q8_vector *x, float *y) {
  (dtype == LC_Q8_0 ? gemv_q8_0 : dtype == LC_Q4_0 ? gemv_q4_0 : gemv_q4_1)(m, n, W, row_bytes, x, y);
}

void lc_avx2_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q) {
  const __m256 bits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), limit = _mm256_set1_ps(LC_Q8_MOST);
  for (int64_t b = 0; b < n / LC_BLOCK; b++, x += LC_BLOCK) {
    __m256 v[4], largest = _mm256_setzero_ps(), beyond = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      __m256 a = _mm256_and_ps(v[i], bits);
      beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(a, limit, _CMP_NLE_UQ));
      largest = _mm256_max_ps(largest, a);
    }
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    float most = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
    bool finite = !_mm256_movemask_ps(beyond), some = finite && most >= LC_Q8_LEAST;
    q->scale[b] = some ? most / 127 : finite ? 0 : NAN;
    __m256 inverse = _mm256_set1_ps(some ? 127 / most : 0);
    __m256i keep = _mm256_set1_epi32(some ? -1 : 0), i32[4], sum = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
      i32[i] = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)));
      sum = _mm256_add_epi32(sum, i32[i]);
    }
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(i32[0], i32[1]), _mm256_packs_epi32(i32[2], i32[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes,
                                        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* packs work in halves */
    _mm256_storeu_si256((__m256i *)(q->q + b * LC_BLOCK), bytes);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
    q->sum[b] = _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
  }
}
