/* AVX-512's rows of the kernel table. */
#include "kernels/avx512/avx512.h"

void lc_kernels_avx512(lc_kernels *t) {}

void lc_kernels_avx512_bf16(lc_kernels *t) {}
