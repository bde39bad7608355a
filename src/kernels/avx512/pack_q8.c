/* Quantised rows to panels for the integer products of prompts (layout: scalar/gemm_q8.c): 16 rows of 16 bytes are four vectors, transposed. */
#include <immintrin.h>
#include <string.h>
#include "kernels/avx512/avx512.h"
#include "kernels/scalar/scalar.h"

#define INLINE static inline __attribute__((always_inline))

/* Lane j: 16 bytes of row 4j+i. */
INLINE __m512i quarter(const uint8_t *const *row, int i, int64_t at) {
  __m512i z = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(row[i] + at)));
  z = _mm512_mask_broadcast_i32x4(z, 0x00f0, _mm_loadu_si128((const __m128i *)(row[i + 4] + at)));
  z = _mm512_mask_broadcast_i32x4(z, 0x0f00, _mm_loadu_si128((const __m128i *)(row[i + 8] + at)));
  return _mm512_mask_broadcast_i32x4(z, 0xf000, _mm_loadu_si128((const __m128i *)(row[i + 12] + at)));
}

/* quad[j]: bytes 4j … 4j+3 of the 16 rows. */
INLINE void transpose(const uint8_t *const *row, int64_t at, __m512i quad[4]) {
  __m512i a = quarter(row, 0, at), b = quarter(row, 1, at), c = quarter(row, 2, at), d = quarter(row, 3, at);
  __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d),
          AB = _mm512_unpackhi_epi32(a, b), CD = _mm512_unpackhi_epi32(c, d);
  quad[0] = _mm512_unpacklo_epi64(ab, cd), quad[1] = _mm512_unpackhi_epi64(ab, cd);
  quad[2] = _mm512_unpacklo_epi64(AB, CD), quad[3] = _mm512_unpackhi_epi64(AB, CD);
}

INLINE void f16_at(const uint8_t *const *row, int64_t at, float *out) {
  uint16_t h[LC_Q8_PANEL];
  for (int i = 0; i < LC_Q8_PANEL; i++) memcpy(&h[i], row[i] + at, sizeof *h);
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)h)));
}

INLINE void pack(lc_dtype dtype, int64_t bytes, int64_t n, const uint8_t *const *row, uint8_t *out) {
  const __m512i top = _mm512_set1_epi8(-128), low = _mm512_set1_epi8(15);
  const int64_t skip = dtype == LC_Q4_1 ? 4 : 2;
  __m512i quad[4];
  for (int64_t at = 0; at < n / LC_BLOCK * bytes; at += bytes) {
    for (int half = 0; half < (dtype == LC_Q8_0 ? 2 : 1); half++) {
      transpose(row, at + skip + 16 * half, quad);
      for (int j = 0; j < 4; j++) {
        uint8_t *to = out + (4 * half + j) * 64;
        if (dtype == LC_Q8_0) {
          _mm512_store_si512(to, _mm512_xor_si512(quad[j], top));
        } else {
          _mm512_store_si512(to, _mm512_and_si512(quad[j], low));
          _mm512_store_si512(to + 4 * 64, _mm512_and_si512(_mm512_srli_epi16(quad[j], 4), low));
        }
      }
    }
    float *d = (float *)(void *)(out + LC_BLOCK * LC_Q8_PANEL);
    f16_at(row, at, d);
    if (dtype == LC_Q4_1) f16_at(row, at + 2, d + LC_Q8_PANEL);
    out = (uint8_t *)(d + (dtype == LC_Q4_1 ? 2 : 1) * LC_Q8_PANEL);
  }
}

void lc_avx512_pack_q8(lc_dtype dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed) {
  if (m < LC_Q8_PANEL)
    lc_ref_pack_q8(dtype, m, n, row, packed);
  else if (dtype == LC_Q8_0)
    pack(LC_Q8_0, LC_Q8_0_BYTES, n, row, packed);
  else if (dtype == LC_Q4_0)
    pack(LC_Q4_0, LC_Q4_0_BYTES, n, row, packed);
  else
    pack(LC_Q4_1, LC_Q4_1_BYTES, n, row, packed);
}
