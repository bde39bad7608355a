/* Integer products of generation from rows apart. Tiles are no help here: the same products in tiles (16 rows of a block, the
 * vector in a column a block) ran at half the rate, waiting for tile loads. */
#define LC_GEMV_APART 1
#include "kernels/amx/amx.h"
#include "kernels/avx512/gemv_q8.h"

void lc_amx_gemv_q8(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                    const lc_q8_vector *x, float *y) {
  gemv_q8(dtype, m, n, W, row_bytes, x, y);
}
