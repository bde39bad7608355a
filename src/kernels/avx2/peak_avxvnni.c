/* 8-bit dot products of AVX-VNNI: each lane adds four products; 12 independent vectors hide the latency. */
#include <immintrin.h>
#include "kernels/ceilings.h"

enum { CHAINS = 12 };

double lc_peak_int8_avxvnni(int64_t rounds) {
  __m256i s[CHAINS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
#pragma GCC unroll 12
  for (int i = 0; i < CHAINS; i++) s[i] = _mm256_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) s[i] = _mm256_dpbusd_avx_epi32(s[i], a, b);
#pragma GCC unroll 12
  for (int i = 1; i < CHAINS; i++) s[0] = _mm256_add_epi32(s[0], s[i]);
  volatile int sink = _mm256_cvtsi256_si32(s[0]); /* the loop is used */
  (void)sink;
  return (double)rounds * CHAINS * 8 * 8;
}
