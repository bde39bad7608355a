/* Integer products of prompts with AVX-512 VNNI: 6 tokens by two panels, 12 integer and 12 f32 sums. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/int8.h"

enum { MR = 6, P = 2 };

INLINE vi vi_dot(vi sum, vi w, vi x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}
#include "kernels/simd/gemm_q8.h"

void lc_avx512_vnni_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed,
                            const lc_q8_rows *x, int64_t t0, float *y, int64_t ldy) {
  gemm_q8(dtype, T, panels, packed, x, t0, y, ldy);
}
