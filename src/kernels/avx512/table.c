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
}

void lc_kernels_avx512_bf16(lc_kernels *t) {
  t->sampled_bf16 = lc_avx512_bf16_sampled;
  t->attention_pack = lc_avx512_bf16_attention_pack;
  t->attention_bf16 = lc_avx512_bf16_attention;
  t->attention_back_bf16 = lc_avx512_bf16_attention_back;
  t->quantise_q8 = lc_avx512_vnni_quantise_q8;
  t->gemv_q8 = lc_avx512_vnni_gemv_q8;
}
