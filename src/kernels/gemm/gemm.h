/* Inside the GEMM room: a provider is one row, the committed table (table.c) names one for each instruction
 * set and shape, and gemm.c turns every call into calls of what the provider can do. */
#ifndef LC_GEMM_H
#define LC_GEMM_H
#include "kernels/kernels.h"

/* Per-worker buffers (lc_scratch) that belong to the kernels. */
enum { LC_SLOT_GEMM_A = 8, LC_SLOT_GEMM_B, LC_SLOT_GEMM_C, LC_SLOT_GEMM_WORK };

typedef lc_status (*lc_gemm_fn)(lc_ctx *, int worker, const lc_gemm_shape *, const void *A, const void *B,
                                void *C);
typedef struct {
  const char *name;
  lc_gemm_fn run;
  bool bf16; /* multiplies bf16 and may write bf16; the others get f32 and write f32 */
} lc_gemm_provider_row;

extern const lc_gemm_provider_row lc_gemm_openblas, lc_gemm_onednn, lc_gemm_native, lc_gemm_reference;
const lc_gemm_provider_row *lc_gemm_choose(const lc_ctx *, const lc_gemm_shape *);
/* Runs a shape on a named row: what lc_gemm does after choosing; tests and benchmarks compare providers with
 * it. */
lc_status lc_gemm_with(lc_ctx *, int worker, const lc_gemm_provider_row *, const lc_gemm_shape *,
                       const void *A, const void *B, void *C);
const lc_gemm_provider_row *lc_gemm_provider_by_name(const char *name); /* NULL: no such */

/* The register tile of the native GEMM: c (mr×nr) = [c +] Σ_l a[l,mr]·b[l,nr], panels packed, l outermost.
 * One an instruction set. */
typedef struct {
  int mr, nr;
  void (*run)(int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add);
} lc_gemm_tile;
extern const lc_gemm_tile lc_gemm_tile_scalar, lc_gemm_tile_avx2, lc_gemm_tile_avx512;

#endif
