/* Integer products of generation with VNNI (the sums: scalar/gemv_q8.c). A vector holds one block of two rows, the token's block
 * lies twice beside it; vpdpbusd leaves 8 lanes a row. It multiplies unsigned by signed bytes, so weights are shifted into the unsigned
 * range and the sum starts at what the shift adds:
 *   Q8_0: w+128 (its top bit flipped), start −128·Σx over 8 lanes.
 *   Q4_0, Q4_1: the 16 bytes stand in both halves of a row's lanes, the low nibbles masked in one, the high ones in the other. Those are not shifted
 *   down: their lanes are 16 times too large until the row's end, where a power of two is exact. Q4_0 starts at −8·Σx over the low lanes.
 *
 * Eight rows go together and share the token's block and the conversion of their scales. Rows lie one after another. Neighbouring ones as
 * eight streams are too many for the hardware's prefetchers, so the next eight are fetched front to back meanwhile (LC_GEMV_APART 0); or they are an
 * eighth of the rows apart, each stream running on into the next row (1): better where a core follows many streams. */
#ifndef LC_AVX512_GEMV_Q8_H
#define LC_AVX512_GEMV_Q8_H
#include <string.h>
#include <math.h>
#include "kernels/avx512/avx512.h"
#include "kernels/scalar/scalar.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
enum { ROWS = 8, PAIRS = ROWS / 2, LOW_LANES = 0x0f0f, LONG_ROW = 1024 };

INLINE __m512i pair_q8(const uint8_t *a, const uint8_t *b) {
  __m512i w = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
  w = _mm512_inserti64x4(w, _mm256_loadu_si256((const __m256i *)b), 1);
  return _mm512_xor_si512(w, _mm512_set1_epi8(-128));
}

INLINE __m512i pair_q4(const uint8_t *a, const uint8_t *b) {
  __m512i w = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)a));
  w = _mm512_mask_broadcast_i32x4(w, 0xff00, _mm_loadu_si128((const __m128i *)b));
  __m512i low = _mm512_set1_epi8(0x0f);
  return _mm512_and_si512(w, _mm512_mask_set1_epi8(low, 0xffff0000ffff0000u, (char)0xf0));
}

INLINE int load16(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return h;
}
INLINE int load32(const uint8_t *p) {
  int h;
  memcpy(&h, p, sizeof h);
  return h;
}

/* Lane 2r: d of row r, lane 2r+1: m of row r (Q4_1), else lane r: d of row r; all times the token's scale. */
INLINE __m512 scales(lc_dtype dtype, const uint8_t *const *w, float scale, float scale_sum) {
  if (dtype == LC_Q4_1) {
    __m128i a = _mm_cvtsi32_si128(load32(w[0])), b = _mm_cvtsi32_si128(load32(w[4]));
    a = _mm_insert_epi32(a, load32(w[1]), 1), b = _mm_insert_epi32(b, load32(w[5]), 1);
    a = _mm_insert_epi32(a, load32(w[2]), 2), b = _mm_insert_epi32(b, load32(w[6]), 2);
    a = _mm_insert_epi32(a, load32(w[3]), 3), b = _mm_insert_epi32(b, load32(w[7]), 3);
    __m512 s = _mm512_mask_blend_ps(0xaaaa, _mm512_set1_ps(scale), _mm512_set1_ps(scale_sum));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_set_m128i(b, a)), s);
  }
  __m128i h = _mm_cvtsi32_si128(load16(w[0]));
  h = _mm_insert_epi16(h, load16(w[1]), 1);
  h = _mm_insert_epi16(h, load16(w[2]), 2);
  h = _mm_insert_epi16(h, load16(w[3]), 3);
  h = _mm_insert_epi16(h, load16(w[4]), 4);
  h = _mm_insert_epi16(h, load16(w[5]), 5);
  h = _mm_insert_epi16(h, load16(w[6]), 6);
  h = _mm_insert_epi16(h, load16(w[7]), 7);
  return _mm512_castps256_ps512(_mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(scale)));
}

/* The sums of rows 2p (lanes 0-7) and 2p+1 (lanes 8-15) of the four vectors. */
INLINE __m256 row_sums(const __m512 *acc) {
  __m256 h[PAIRS];
  for (int p = 0; p < PAIRS; p++)
    h[p] = _mm256_hadd_ps(_mm512_castps512_ps256(acc[p]), _mm512_extractf32x8_ps(acc[p], 1));
  /* h[p]: a01 a23 b01 b23 | a45 a67 b45 b67 */
  __m256 x = _mm256_hadd_ps(h[0], h[1]), y = _mm256_hadd_ps(h[2], h[3]); /* rows 0 1 2 3 | 0 1 2 3 */
  return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
}

INLINE __m256 rows(lc_dtype dtype, int64_t bytes, int64_t n, const uint8_t *const *row, const uint8_t *ahead,
                   const lc_q8_vector *x) {
  const uint8_t *w[ROWS];
  __m512 acc[PAIRS], offset = _mm512_setzero_ps();
  __m512i at[PAIRS];
  int step = dtype == LC_Q4_1 ? 2 : 1;
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) {
    acc[p] = _mm512_setzero_ps();
    at[p] = _mm512_mask_set1_epi32(_mm512_set1_epi32(2 * p * step), 0xff00, (2 * p + 1) * step);
  }
  for (int r = 0; r < ROWS; r++) w[r] = row[r];
  for (int64_t b = 0; b < n / LC_BLOCK; b++) {
    for (int64_t line = 0; line < ROWS * bytes && !LC_GEMV_APART; line += 64)
      _mm_prefetch((const char *)ahead + line, _MM_HINT_T0);
    ahead += ROWS * bytes;
    __m512i start = dtype == LC_Q8_0   ? _mm512_set1_epi32(-16 * x->sum[b])
                    : dtype == LC_Q4_0 ? _mm512_maskz_set1_epi32(LOW_LANES, -2 * x->sum[b])
                                       : _mm512_setzero_si512();
    __m512i v = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(x->q + b * LC_BLOCK)));
    float scale = x->scale[b];
    __m512 s = scales(dtype, w, scale, dtype == LC_Q4_1 ? scale * (float)x->sum[b] : 0);
    if (dtype == LC_Q4_1) offset = _mm512_add_ps(offset, s);
    int skip = dtype == LC_Q4_1 ? 4 : 2;
#pragma GCC unroll 4
    for (int p = 0; p < PAIRS; p++) {
      __m512i q = dtype == LC_Q8_0 ? pair_q8(w[2 * p] + skip, w[2 * p + 1] + skip)
                                   : pair_q4(w[2 * p] + skip, w[2 * p + 1] + skip);
      __m512 sum = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q, v));
      acc[p] = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(at[p], s), acc[p]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) w[r] += bytes;
  }
  if (dtype != LC_Q8_0)
    for (int p = 0; p < PAIRS; p++)
      acc[p] =
          _mm512_mul_ps(acc[p], _mm512_mask_blend_ps(LOW_LANES, _mm512_set1_ps(0.0625f), _mm512_set1_ps(1)));
  __m256 sum = row_sums(acc);
  if (dtype == LC_Q4_1) {
    __m512i odd = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 15, 13, 11, 9, 7, 5, 3, 1);
    sum = _mm256_add_ps(sum, _mm512_castps512_ps256(_mm512_permutexvar_ps(odd, offset)));
  }
  return sum;
}

/* Q4_0 in long rows, eight blocks of eight rows at a time: one permutation of words takes the eight scales of a row, and Q4_0's −8 is a product of
 * scales. In the second-level cache 22.4 GB/s where `rows` reaches 19.8 (one thread, N 2,560); at N 576 18 against 20, since 18 blocks leave two over. */
INLINE __m256 rows_q4_0(int64_t n, const uint8_t *const *row, const lc_q8_vector *x) {
  enum { GROUP = 8, WORDS = LC_Q4_0_BYTES / 2 };
  const __m512i every = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                         0, 63, 54, 45, 36, 27, 18, 9, 0);
  float scale[ROWS][GROUP];
  const uint8_t *w[ROWS];
  __m512 acc[PAIRS];
  __m256 offset[ROWS];
  for (int p = 0; p < PAIRS; p++) acc[p] = _mm512_setzero_ps();
  for (int r = 0; r < ROWS; r++) w[r] = row[r], offset[r] = _mm256_setzero_ps();
  for (int64_t blocks = n / LC_BLOCK, b0 = 0; b0 < blocks; b0 += GROUP) {
    const int64_t here = lc_min64(GROUP, blocks - b0);
    const uint64_t words = here == GROUP ? ~(uint64_t)0 : ((uint64_t)1 << (here * WORDS)) - 1;
    const __mmask8 mask = (__mmask8)((1u << here) - 1);
    const __m256 s = _mm256_maskz_loadu_ps(mask, x->scale + b0);
    const __m256 eights =
        _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_maskz_loadu_epi32(mask, x->sum + b0)), _mm256_set1_ps(-8));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      __m512i a = _mm512_maskz_loadu_epi16((__mmask32)words, w[r]),
              b = _mm512_maskz_loadu_epi16((__mmask32)(words >> 32), w[r] + 64);
      __m256 d =
          _mm256_mul_ps(_mm256_cvtph_ps(_mm512_castsi512_si128(_mm512_permutex2var_epi16(a, every, b))), s);
      _mm256_storeu_ps(scale[r], d);
      offset[r] = _mm256_fmadd_ps(d, eights, offset[r]);
    }
    for (int64_t c = 0; c < here; c++) {
      __m512i v = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(x->q + (b0 + c) * LC_BLOCK)));
#pragma GCC unroll 4
      for (int p = 0; p < PAIRS; p++) {
        __m512i q = pair_q4(w[2 * p] + c * LC_Q4_0_BYTES + 2, w[2 * p + 1] + c * LC_Q4_0_BYTES + 2);
        __m512 sum = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), q, v)),
               d = _mm512_set1_ps(scale[2 * p][c]);
        d = _mm512_mask_broadcastss_ps(d, 0xff00, _mm_load_ss(&scale[2 * p + 1][c]));
        acc[p] = _mm512_fmadd_ps(sum, d, acc[p]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) w[r] += GROUP * LC_Q4_0_BYTES;
  }
#pragma GCC unroll 4
  for (int p = 0; p < PAIRS; p++) {
    __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(offset[2 * p]), offset[2 * p + 1], 1);
    acc[p] = _mm512_fmadd_ps(
        acc[p], _mm512_mask_blend_ps(LOW_LANES, _mm512_set1_ps(0.0625f), _mm512_set1_ps(1)), both);
  }
  return row_sums(acc);
}

#define GEMV(name, dtype, bytes)                                                                             \
  static void name(int64_t m, int64_t n, const uint8_t *W, size_t row_bytes, const lc_q8_vector *x,          \
                   float *y) {                                                                               \
    int64_t eights = lc_ceil_div(m, ROWS), apart = LC_GEMV_APART ? eights : 1;                               \
    for (int64_t i = 0; i < eights; i++) {                                                                   \
      int64_t first = LC_GEMV_APART ? i : i * ROWS;                                                          \
      const uint8_t *row[ROWS]; /* missing rows: the last again */                                           \
      float sum[ROWS];                                                                                       \
      for (int64_t r = 0; r < ROWS; r++)                                                                     \
        row[r] = W + (size_t)lc_min64(first + r * apart, m - 1) * row_bytes;                                 \
      _mm256_storeu_ps(sum, LC_GEMV_APART &&dtype == LC_Q4_0 && n >= LONG_ROW                                \
                                ? rows_q4_0(n, row, x)                                                       \
                                : rows(dtype, bytes, n, row, row[0] + ROWS * row_bytes, x));                 \
      for (int64_t r = 0; r < ROWS && first + r * apart < m; r++) y[first + r * apart] = sum[r];             \
    }                                                                                                        \
  }
GEMV(gemv_q8_0, LC_Q8_0, LC_Q8_0_BYTES)
GEMV(gemv_q4_0, LC_Q4_0, LC_Q4_0_BYTES)
GEMV(gemv_q4_1, LC_Q4_1, LC_Q4_1_BYTES)

static void gemv_q8(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                    const lc_q8_vector *x, float *y) {
  (dtype == LC_Q8_0 ? gemv_q8_0 : dtype == LC_Q4_0 ? gemv_q4_0 : gemv_q4_1)(m, n, W, row_bytes, x, y);
}

#endif
