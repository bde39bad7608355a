/* What AVX2 (with FMA, F16C, BMI2) overrides in the kernel table. */
#ifndef LC_KERNELS_AVX2_H
#define LC_KERNELS_AVX2_H
#include "kernels/kernels.h"

void lc_kernels_avx2(lc_kernels *);

#endif
