/* f32 products by OpenBLAS, always on one thread: we call it from our own chunks. */
#include <pthread.h>
#include <cblas.h>
#include "kernels/gemm/gemm.h"

static void one_thread(void) {
  openblas_set_num_threads(1);
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, one_thread);
  int64_t most = INT32_MAX; /* Debian's OpenBLAS counts in 32 bits */
  if (s->m > most || s->n > most || s->k > most || s->lda > most || s->ldb > most || s->ldc > most)
    return lc_fail(ctx, "gemm %lldx%lldx%lld: OpenBLAS takes dimensions below 2^31", (long long)s->m,
                   (long long)s->n, (long long)s->k);
  cblas_sgemm(CblasRowMajor, s->trans_a ? CblasTrans : CblasNoTrans, s->trans_b ? CblasTrans : CblasNoTrans,
              (blasint)s->m, (blasint)s->n, (blasint)s->k, 1.0f, A, (blasint)s->lda, B, (blasint)s->ldb,
              s->beta, C, (blasint)s->ldc);
  return LC_OK;
}

const lc_gemm_provider_row lc_gemm_openblas = {"openblas", run, .f32 = true};
