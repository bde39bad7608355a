/* The definition as a provider: f64 sums, no blocking. For tests. */
#include "kernels/gemm/gemm.h"
#include "kernels/scalar/scalar.h"

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  lc_ref_gemm_f32(s->m, s->n, s->k, s->trans_a, s->trans_b, A, s->lda, B, s->ldb, s->beta, C, s->ldc);
  return LC_OK;
}

const lc_gemm_provider_row lc_gemm_reference = {"reference", run, .f32 = true};
