/* AMX's rows of the kernel table. */
#include "kernels/amx/amx.h"
#include "kernels/avx512/avx512.h"

void lc_kernels_amx(lc_kernels *t) {
  /* processors with AMX do bf16 dot products at half the rate of f32 multiply-adds: attention outside tiles is faster widened */
  lc_kernels wide = *t;
  lc_kernels_avx512(&wide);
  t->attention_pack = wide.attention_pack;
  t->attention_bf16 = wide.attention_bf16;
  t->attention_back_bf16 = wide.attention_back_bf16;
  t->gemv = lc_amx_gemv;
  t->gemv_q8 = lc_amx_gemv_q8;
}
