/* AMX's rows of the kernel table. */
#include "kernels/amx/amx.h"

void lc_kernels_amx(lc_kernels *t) {
  t->gemv = lc_amx_gemv;
  t->gemv_q8 = lc_amx_gemv_q8;
}
