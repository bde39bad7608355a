/* What AMX overrides in the kernel table. */
#ifndef LC_KERNELS_AMX_H
#define LC_KERNELS_AMX_H
#include "kernels/avx512/avx512.h"

void lc_amx_gemv(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x, float *y);
void lc_amx_gemv_q8(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const lc_q8_vector *x, float *y);

void lc_kernels_amx(lc_kernels *);

#endif
