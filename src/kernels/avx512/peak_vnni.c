/* 8-bit dot products of AVX-512 VNNI: each lane adds four products; 16 independent vectors hide the latency.
 */
#include <immintrin.h>
#include "kernels/ceilings.h"

enum { CHAINS = 16 };

double lc_peak_int8_vnni(int64_t rounds) {
  __m512i s[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++) s[i] = _mm512_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) s[i] = _mm512_dpbusd_epi32(s[i], a, b);
#pragma GCC unroll 16 /* every loop: an index that stays would keep the sums in memory */
  for (int i = 1; i < CHAINS; i++) s[0] = _mm512_add_epi32(s[0], s[i]);
  volatile int sink = _mm512_cvtsi512_si32(s[0]); /* the loop is used */
  (void)sink;
  return (double)rounds * CHAINS * 16 * 8;
}
