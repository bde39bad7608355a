/* Integer products of prompts with AVX-VNNI, the 256-bit dot products of processors without AVX-512: 6 tokens by a panel, 12 integer sums; the f32 sums
 * wait in the first-level cache. */
#include "kernels/avx2/int8.h"

enum { MR = 6, P = 1 };

INLINE vi vi_dot(vi sum, vi w, vi x) {
  return _mm256_dpbusd_avx_epi32(sum, w, x);
}
#include "kernels/simd/gemm_q8.h"

void lc_avx2_vnni_gemm_q8(lc_dtype dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                          int64_t t0, float *y, int64_t ldy) {
  gemm_q8(dtype, T, panels, packed, x, t0, y, ldy);
}
