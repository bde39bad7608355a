/* Quantised rows to panels for the integer products of prompts (layout: scalar/gemm_q8.c): four bytes of a row at a time. */
#include <immintrin.h>
#include <string.h>
#include "kernels/avx2/avx2.h"
#include "kernels/scalar/scalar.h"

#define INLINE static inline __attribute__((always_inline))

INLINE void f16_at(const uint8_t *const *row, int64_t at, float *out) {
  uint16_t h[LC_Q8_PANEL];
  for (int i = 0; i < LC_Q8_PANEL; i++) memcpy(&h[i], row[i] + at, sizeof *h);
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h)));
  _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + 8))));
}

INLINE void pack_row(lc_dtype dtype, const uint8_t *q, uint32_t *out) {
  uint32_t x;
  for (int j = 0; j < (dtype == LC_Q8_0 ? 8 : 4); j++, q += sizeof x) {
    memcpy(&x, q, sizeof x);
    if (dtype == LC_Q8_0) {
      out[j * LC_Q8_PANEL] = x ^ 0x80808080u;
    } else {
      out[j * LC_Q8_PANEL] = x & 0x0f0f0f0fu;
      out[(j + 4) * LC_Q8_PANEL] = x >> 4 & 0x0f0f0f0fu;
    }
  }
}

INLINE void pack(lc_dtype dtype, int64_t bytes, int64_t n, const uint8_t *const *row, uint8_t *out) {
  const int64_t skip = dtype == LC_Q4_1 ? 4 : 2;
  for (int64_t b = 0; b < n / LC_BLOCK; b++) {
    float *d = (float *)(void *)(out + LC_BLOCK * LC_Q8_PANEL);
    for (int i = 0; i < LC_Q8_PANEL; i++)
      pack_row(dtype, row[i] + b * bytes + skip, (uint32_t *)(void *)out + i);
    f16_at(row, b * bytes, d);
    if (dtype == LC_Q4_1) f16_at(row, b * bytes + 2, d + LC_Q8_PANEL);
    out = (uint8_t *)(d + (dtype == LC_Q4_1 ? 2 : 1) * LC_Q8_PANEL);
  }
}

void lc_avx2_pack_q8(lc_dtype dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed) {
  if (m < LC_Q8_PANEL)
    lc_ref_pack_q8(dtype, m, n, row, packed);
  else if (dtype == LC_Q8_0)
    pack(LC_Q8_0, LC_Q8_0_BYTES, n, row, packed);
  else if (dtype == LC_Q4_0)
    pack(LC_Q4_0, LC_Q4_0_BYTES, n, row, packed);
  else
    pack(LC_Q4_1, LC_Q4_1_BYTES, n, row, packed);
}
