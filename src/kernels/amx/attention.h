/* What attention's forward and backward pass share: operands in blocks. A block is 32 values along the inner dimension of 32 rows (of A) or 32
 * columns (of B): two tiles as gemm.h packs them. Queries and keys go in panels of 32, columns of D in panels too, padded with zeros. */
#ifndef LC_AMX_ATTENTION_H
#define LC_AMX_ATTENTION_H
#include "kernels/amx/amx.h"
#include "kernels/amx/gemm.h"
#include "kernels/amx/tiles.h"
#include "kernels/avx512/attention_bf16.h"

enum { BLOCK = 2 * LC_AMX_TILE /* values */ };

/* c (32×32, rows ld floats apart) = [c +] Σ A·B over blocks that stand `a_step` and `b_step` values apart. */
LC_ALWAYS void lc_amx_product(int64_t steps, const uint16_t *a, int64_t a_step, const uint16_t *b,
                              int64_t b_step, float *c, int64_t ld, bool add) {
  int64_t row = ld * (int64_t)sizeof *c;
  float *low = c + 16 * ld;
  if (add) {
    _tile_loadd(0, c, row);
    _tile_loadd(1, c + 16, row);
    _tile_loadd(2, low, row);
    _tile_loadd(3, low + 16, row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t l = 0; l < steps; l++, a += a_step, b += b_step) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    _tile_loadd(7, b + LC_AMX_TILE, 64);
    _tile_loadd(5, a + LC_AMX_TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, row);
  _tile_stored(1, c + 16, row);
  _tile_stored(2, low, row);
  _tile_stored(3, low + 16, row);
}

/* Rows (n,D), in panels: [panel of rows][D/32] blocks of A or of B, whose inner dimension is D. */
void lc_amx_rows_to_a(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out);
void lc_amx_rows_to_b(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out);
/* [panel of D][n/32] blocks of B, whose inner dimension is the rows. */
void lc_amx_columns_to_b(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out);

#endif
