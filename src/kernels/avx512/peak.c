/* f32 fused multiply-adds of AVX-512: 24 independent vectors hide the latency. */
#include <immintrin.h>
#include "kernels/ceilings.h"

enum { CHAINS = 24 };

double lc_peak_f32_avx512(int64_t rounds) {
  __m512 s[CHAINS], a = _mm512_set1_ps(1e-3f), b = _mm512_set1_ps(0.5f);
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_ps((float)i);
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_fmadd_ps(s[i], b, a);
  for (int i = 1; i < CHAINS; i++) s[0] = _mm512_add_ps(s[0], s[i]);
  volatile float sink = _mm512_cvtss_f32(s[0]); /* the loop is used */
  (void)sink;
  return (double)rounds * CHAINS * 16 * 2;
}
