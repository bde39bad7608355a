/* Transposes in 8×8 blocks held in registers: unpack pairs, then quads, then halves. The edges go value by
 * value. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

static inline void block_f32(const float *src, int64_t ld, float *dst, int64_t ldd) {
  __m256 r[8], s[8];
  for (int i = 0; i < 4; i++) { /* rows i and i+4 side by side: lanes are then transposed 4×4 */
    r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src + i * ld)),
                                _mm_loadu_ps(src + (i + 4) * ld), 1);
    r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(src + i * ld + 4)),
                                    _mm_loadu_ps(src + (i + 4) * ld + 4), 1);
  }
  for (int h = 0; h < 8; h += 4) {
    s[h] = _mm256_unpacklo_ps(r[h], r[h + 1]);
    s[h + 1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
    s[h + 2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
    s[h + 3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
    v_store(dst + (h + 0) * ldd, _mm256_shuffle_ps(s[h], s[h + 2], 0x44));
    v_store(dst + (h + 1) * ldd, _mm256_shuffle_ps(s[h], s[h + 2], 0xee));
    v_store(dst + (h + 2) * ldd, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0x44));
    v_store(dst + (h + 3) * ldd, _mm256_shuffle_ps(s[h + 1], s[h + 3], 0xee));
  }
}

static inline void block_16(const uint16_t *src, int64_t ld, uint16_t *dst, int64_t ldd) {
  __m128i r[8], s[8], t[8];
  for (int i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(src + i * ld));
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm_unpacklo_epi16(r[i], r[i + 1]);
    s[i + 1] = _mm_unpackhi_epi16(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int h = 0; h < 2; h++) {
      t[i + 2 * h] = _mm_unpacklo_epi32(s[i + h], s[i + 2 + h]);
      t[i + 2 * h + 1] = _mm_unpackhi_epi32(s[i + h], s[i + 2 + h]);
    }
  for (int i = 0; i < 4; i++) {
    _mm_storeu_si128((__m128i *)(dst + 2 * i * ldd), _mm_unpacklo_epi64(t[i], t[i + 4]));
    _mm_storeu_si128((__m128i *)(dst + (2 * i + 1) * ldd), _mm_unpackhi_epi64(t[i], t[i + 4]));
  }
}

/* Columns in bands of 64, so that the lines of dst that a band writes stay in the cache while it walks down
 * the rows. */
#define LC_TRANSPOSE(name, type, block, edge)                                                                \
  void name(int64_t rows, int64_t cols, const type *src, int64_t ld, type *dst, int64_t ldd) {               \
    int64_t whole_rows = rows - rows % 8, whole_cols = cols - cols % 8;                                      \
    for (int64_t band = 0; band < whole_cols; band += 64)                                                    \
      for (int64_t r = 0; r < whole_rows; r += 8)                                                            \
        for (int64_t c = band; c < lc_min64(band + 64, whole_cols); c += 8)                                  \
          block(src + r * ld + c, ld, dst + c * ldd + r, ldd);                                               \
    edge(whole_rows, cols - whole_cols, src + whole_cols, ld, dst + whole_cols * ldd, ldd);                  \
    edge(rows - whole_rows, cols, src + whole_rows * ld, ld, dst + whole_rows, ldd);                         \
  }

LC_TRANSPOSE(lc_avx2_transpose_f32, float, block_f32, lc_ref_transpose_f32)
LC_TRANSPOSE(lc_avx2_transpose_bf16, uint16_t, block_16, lc_ref_transpose_bf16)
