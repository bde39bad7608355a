/* What AVX-512 (F, BW, DQ, VL) and AVX-512 BF16 override in the kernel table. */
#ifndef LC_KERNELS_AVX512_H
#define LC_KERNELS_AVX512_H
#include "kernels/kernels.h"

void lc_kernels_avx512(lc_kernels *);
void lc_kernels_avx512_bf16(lc_kernels *);

#endif
