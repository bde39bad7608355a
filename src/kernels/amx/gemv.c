/* One-token products with f32 activations: the body of ../simd, rows apart. */
#define LC_SIMD(name) lc_amx_##name
#define LC_GEMV_APART 1
#include <string.h>
#include "kernels/amx/amx.h"
#include "kernels/avx512/simd.h"
#include "kernels/simd/gemv.h"

void lc_amx_gemv(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x,
                 float *y) {
  LC_SIMD(gemv_any)(dtype, m, n, W, row_bytes, x, y);
}
