/* AVX2's rows of the kernel table. */
#include "kernels/avx2/avx2.h"

void lc_kernels_avx2(lc_kernels *t) {}
