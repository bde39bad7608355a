/* The token's vector in bytes, and integer products from neighbouring rows. */
#define LC_GEMV_APART 0
#include "kernels/avx512/gemv_q8.h"

void lc_avx512_vnni_gemv_q8(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                            const lc_q8_vector *x, float *y) {
  gemv_q8(dtype, m, n, W, row_bytes, x, y);
}

void lc_avx512_vnni_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q) {
  const __m512 bits = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff));
  for (int64_t b = 0; b < n / LC_BLOCK; b++, x += LC_BLOCK) {
    __m512 u = _mm512_loadu_ps(x), v = _mm512_loadu_ps(x + 16);
    __m512 au = _mm512_and_ps(u, bits), av = _mm512_and_ps(v, bits), limit = _mm512_set1_ps(LC_Q8_MOST);
    bool finite = !(_mm512_cmp_ps_mask(au, limit, _CMP_NLE_UQ) | _mm512_cmp_ps_mask(av, limit, _CMP_NLE_UQ));
    float most = _mm512_reduce_max_ps(_mm512_max_ps(au, av));
    bool some = finite && most >= LC_Q8_LEAST;
    q->scale[b] = some ? most / 127 : finite ? 0 : NAN;
    __m512 inverse = _mm512_set1_ps(some ? 127 / most : 0);
    __mmask16 keep = some ? 0xffff : 0;
    __m512i iu = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(u, inverse)),
            iv = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v, inverse));
    q->sum[b] = _mm512_reduce_add_epi32(_mm512_add_epi32(iu, iv));
    _mm_storeu_si128((__m128i *)(q->q + b * LC_BLOCK), _mm512_cvtepi32_epi8(iu));
    _mm_storeu_si128((__m128i *)(q->q + b * LC_BLOCK + 16), _mm512_cvtepi32_epi8(iv));
  }
}
