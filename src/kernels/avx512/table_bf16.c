/* The rows again where AVX-512 BF16 is there: the bodies of ../simd round to bf16 by one instruction, and products of bf16 have files of their own. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/simd/bodies.h"

static void f32_to_bf16(int64_t n, const float *src, uint16_t *dst) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store_bf16(dst + i, v_load(src + i));
  if (i < n) _mm256_mask_storeu_epi16(dst + i, v_mask(n - i), v_round_bf16(v_load_part(src + i, n - i)));
}

void lc_kernels_avx512_bf16(lc_kernels *t) {
  LC_SIMD(fill)(t);
  t->f32_to_bf16 = f32_to_bf16;
  t->sampled_bf16 = lc_avx512_bf16_sampled;
  t->attention_pack = lc_avx512_bf16_attention_pack;
  t->attention_bf16 = lc_avx512_bf16_attention;
  t->attention_back_bf16 = lc_avx512_bf16_attention_back;
  t->quantise_q8 = lc_avx512_vnni_quantise_q8;
  t->gemv_q8 = lc_avx512_vnni_gemv_q8;
}
