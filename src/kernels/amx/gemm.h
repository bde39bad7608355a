/* Inside the AMX product: how operands lie in tiles. A tile is 16 rows of 64 bytes. Of A: 16 rows of 32 values along k. Of B: 16 pairs along k of 16
 * columns. */
#ifndef LC_AMX_GEMM_H
#define LC_AMX_GEMM_H
#include "kernels/gemm/gemm.h"

enum {
  LC_AMX_K = 32 /* values of k a tile */,
  LC_AMX_BLOCK = 32 /* rows and columns of a block of 2×2 tiles */,
  LC_AMX_TILE = 512 /* values of bf16 in a tile */
};

/* `lines` (at most 32) lines of k values as columns of B: out[step of 32 along k][2 tiles]; zeros beyond the lines and k. */
void lc_amx_pack_b(const lc_gemm_lines *, int64_t first, int64_t lines, int64_t l0, int64_t k, uint16_t *out);
/* The same lines as rows of A: out[step][2 tiles]. */
void lc_amx_pack_a(const lc_gemm_lines *, int64_t first, int64_t lines, int64_t l0, int64_t k, uint16_t *out);

#endif
