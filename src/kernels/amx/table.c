/* AMX's rows of the kernel table. */
#include "kernels/amx/amx.h"

void lc_kernels_amx(lc_kernels *t) {
  t->attention_pack = lc_amx_attention_pack;
  t->attention_bf16 = lc_amx_attention;
  t->attention_back_bf16 = lc_amx_attention_back;
  t->gemv = lc_amx_gemv;
  t->gemv_q8 = lc_amx_gemv_q8;
}
