/* AVX-512's rows of the kernel table. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/simd/bodies.h"

void lc_kernels_avx512(lc_kernels *t) {
  LC_SIMD(fill)(t);
  t->bf16_to_f32 = lc_avx512_bf16_to_f32;
  t->f32_to_bf16 = lc_avx512_f32_to_bf16;
  t->f16_to_f32 = lc_avx512_f16_to_f32;
  t->f32_to_f16 = lc_avx512_f32_to_f16;
  t->transpose_bf16 = lc_avx512_transpose_bf16;
  t->pack_q8 = lc_avx512_pack_q8;
  t->gemm_q8 = lc_cpu_has(LC_CPU_AVX512_VNNI) ? lc_avx512_vnni_gemm_q8 : lc_avx512_gemm_q8;
}
