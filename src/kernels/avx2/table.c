/* AVX2's rows of the kernel table. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/simd/bodies.h"

void lc_kernels_avx2(lc_kernels *t) {
  LC_SIMD(fill)(t);
  t->bf16_to_f32 = lc_avx2_bf16_to_f32;
  t->f32_to_bf16 = lc_avx2_f32_to_bf16;
  t->f16_to_f32 = lc_avx2_f16_to_f32;
  t->f32_to_f16 = lc_avx2_f32_to_f16;
  t->transpose_f32 = lc_avx2_transpose_f32;
  t->transpose_bf16 = lc_avx2_transpose_bf16;
  t->quantise_q8 = lc_avx2_quantise_q8;
  t->gemv_q8 = lc_avx2_gemv_q8;
  t->pack_q8 = lc_avx2_pack_q8;
  t->gemm_q8 = lc_cpu_has(LC_CPU_AVX_VNNI) ? lc_avx2_vnni_gemm_q8 : lc_avx2_gemm_q8;
}
