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
  bool f32, bf16; /* multiplies f32; multiplies bf16 and writes bf16 */
  bool plus;      /* knows lc_gemm_shape's plus; lc_gemm copies it to C for the others */
  size_t (*packed_bytes)(int64_t n,
                         int64_t k); /* lc_gemm_packed_bytes and lc_gemm_pack; NULL: takes no packed B */
  void (*pack)(const lc_gemm_shape *, const void *B, void *packed);
  int64_t (*packed_columns)(int64_t n, int64_t k);
} lc_gemm_provider_row;

extern const lc_gemm_provider_row lc_gemm_openblas, lc_gemm_onednn, lc_gemm_native, lc_gemm_reference;
#ifdef __x86_64__
extern const lc_gemm_provider_row lc_gemm_amx; /* needs AMX */
#endif
const lc_gemm_provider_row *lc_gemm_choose(const lc_ctx *, const lc_gemm_shape *);
/* Runs a shape on a named row: what lc_gemm does after choosing; tests and benchmarks compare providers with
 * it. */
lc_status lc_gemm_with(lc_ctx *, int worker, const lc_gemm_provider_row *, const lc_gemm_shape *,
                       const void *A, const void *B, void *C);
const lc_gemm_provider_row *lc_gemm_provider_by_name(const char *name); /* NULL: no such */

/* The register tile of the native GEMM: c (mr×cols) = [c +] Σ_l a[l,mr]·b[l,nr], l outermost; cols <= nr is a
 * multiple of `lanes`. Row i, unit l of a stands at a[i·row + l·step]: in a packed panel (1, mr), or where
 * the matrix is (lda, 1). b is a packed panel. One an instruction set. A unit is 4 bytes: one f32, or, where
 * `pairs`, two bf16 that follow each other along k. */
typedef struct {
  int mr, nr, lanes;
  bool pairs;
  void (*run)(int64_t units, const float *a, int64_t row, int64_t step, const float *b, float *c, int64_t ldc,
              int64_t cols, bool add);
  /* For pairs: joins rows l and l+1 of w values to w pairs, for the whole pairs of k rows, `step` apart. */
  void (*join_rows)(int64_t w, int64_t k, const uint16_t *src, int64_t step, int width, float *out);
} lc_gemm_tile;
extern const lc_gemm_tile lc_gemm_tile_scalar, lc_gemm_tile_avx2, lc_gemm_tile_avx512,
    lc_gemm_tile_avx512_bf16;
enum { LC_GEMM_MAX_MR = 8, LC_GEMM_MAX_NR = 48, LC_GEMM_KC = 256 /* units of k in a panel */ };

/* A matrix as lines (rows of A, columns of B) of k values: value l of line i is data[i·line + l·step], one
 * stride 1. */
typedef struct {
  const void *data;
  lc_dtype dtype;
  int64_t line, step;
} lc_gemm_lines;
/* Packs `count` lines from `first`, their values [l0,l0+k), into panels of `width` lines:
 * out[panel][unit][line], zeros where a line or the second of a pair is missing. spare: room for
 * LC_GEMM_KC·width floats. */
void lc_gemm_panels(const lc_kernels *, const lc_gemm_tile *, const lc_gemm_lines *, int64_t first,
                    int64_t count, int64_t l0, int64_t k, int width, float *out, float *spare);

#endif
