/* Transposes of 16-bit values, 32 rows × 8 columns at a time: each 128-bit lane holds 8 rows' share, so that three rounds of unpacking leave whole
 * lines of 32 values to store. Edges go to the 8×8 blocks of AVX2. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/avx2/avx2.h"

static inline __m512i four_rows(const uint16_t *p, int64_t ld) {
  __m512i r = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
  r = _mm512_mask_broadcast_i32x4(r, 0x00f0, _mm_loadu_si128((const __m128i *)(p + 8 * ld)));
  r = _mm512_mask_broadcast_i32x4(r, 0x0f00, _mm_loadu_si128((const __m128i *)(p + 16 * ld)));
  return _mm512_mask_broadcast_i32x4(r, 0xf000, _mm_loadu_si128((const __m128i *)(p + 24 * ld)));
}

static inline void block(const uint16_t *src, int64_t ld, uint16_t *dst, int64_t ldd) {
  __m512i r[8], s[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = four_rows(src + i * ld, ld);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      t[i + 2 * h] = _mm512_unpacklo_epi32(s[i + h], s[i + 2 + h]);
      t[i + 2 * h + 1] = _mm512_unpackhi_epi32(s[i + h], s[i + 2 + h]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_si512(dst + 2 * i * ldd, _mm512_unpacklo_epi64(t[i], t[i + 4]));
    _mm512_storeu_si512(dst + (2 * i + 1) * ldd, _mm512_unpackhi_epi64(t[i], t[i + 4]));
  }
}

/* A line of each of the next 32 rows: strips of a wide matrix are read across its rows, which no prefetcher follows. */
static inline void fetch(const uint16_t *src, int64_t ld) {
#pragma GCC unroll 8
  for (int i = 0; i < 32; i++) _mm_prefetch((const char *)(src + i * ld), _MM_HINT_T0);
}

void lc_avx512_transpose_bf16(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                              int64_t ldd) {
  const int64_t whole_rows = rows - rows % 32, whole_cols = cols - cols % 8;
  for (int64_t r = 0; r < whole_rows; r += 32)
    for (int64_t c = 0; c < whole_cols; c += 8) {
      if (c % 32 == 0 && r + 64 <= whole_rows) fetch(src + (r + 32) * ld + c, ld);
      block(src + r * ld + c, ld, dst + c * ldd + r, ldd);
    }
  lc_avx2_transpose_bf16(whole_rows, cols - whole_cols, src + whole_cols, ld, dst + whole_cols * ldd, ldd);
  lc_avx2_transpose_bf16(rows - whole_rows, cols, src + whole_rows * ld, ld, dst + whole_rows, ldd);
}
