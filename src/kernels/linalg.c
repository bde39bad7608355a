/* Singular values over LAPACK: see linalg.h.
 *
 * LAPACK is column-major: a row-major A (M,N) is its Aᵀ (N,M) with leading dimension N. From Aᵀ = V·S·Uᵀ it follows
 * that LAPACK's "U" is our Vt and its "VT" our U, so nothing is transposed or copied. The _work interfaces take
 * our memory, which is counted; an LAPACKE that allocated for itself would not be. */
#include "kernels/linalg.h"
#include <cblas.h>
#include <lapacke.h>
#include <limits.h>
#include <math.h>
#include <string.h>

static lc_status check(lc_ctx *ctx, const char *what, const float *A, int64_t M, int64_t N) {
  if (M < 1 || N < 1 || M > INT_MAX || N > INT_MAX || M * N > INT_MAX)
    return lc_fail(ctx, "%s: a matrix of %lld×%lld", what, (long long)M, (long long)N);
  for (int64_t i = 0; i < M * N; i++)
    if (!isfinite(A[i]))
      return lc_fail(ctx, "%s: the value at row %lld, column %lld is not finite", what, (long long)(i / N),
                     (long long)(i % N));
  openblas_set_num_threads(1);
  return LC_OK;
}

static lc_status failed(lc_ctx *ctx, const char *what, int64_t M, int64_t N, lapack_int info) {
  return lc_fail(ctx, "%s: LAPACK gave up on a matrix of %lld×%lld (%d)", what, (long long)M, (long long)N,
                 (int)info);
}

lc_status lc_svd(lc_ctx *ctx, float *A, int64_t M, int64_t N, float *U, float *S, float *Vt) {
  const lapack_int m = (lapack_int)N, n = (lapack_int)M, r = m < n ? m : n;
  const char job = U && Vt ? 'S' : 'N';
  float room = 0, *work = NULL;
  lc_status st = LC_OK;
  LC_TRY(check(ctx, "singular values", A, M, N));
  lapack_int *iwork = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)r * 8, sizeof *iwork);
  if (!iwork) return LC_FAILED;
  lapack_int info = LAPACKE_sgesdd_work(LAPACK_COL_MAJOR, job, m, n, A, m, S, Vt, m, U, r, &room, -1, iwork);
  const lapack_int size = (lapack_int)room + 64;
  if (!info && !(work = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)size, sizeof *work))) LC_GO(LC_FAILED);
  if (!info) info = LAPACKE_sgesdd_work(LAPACK_COL_MAJOR, job, m, n, A, m, S, Vt, m, U, r, work, size, iwork);
  if (info) st = failed(ctx, "singular values", M, N, info);
done:
  lc_free(ctx, work);
  lc_free(ctx, iwork);
  return st;
}

lc_status lc_svd_values(lc_ctx *ctx, const float *A, int64_t M, int64_t N, float *s) {
  float *copy = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * N), sizeof *copy);
  if (!copy) return LC_FAILED;
  memcpy(copy, A, (size_t)(M * N) * sizeof *copy);
  lc_status st = lc_svd(ctx, copy, M, N, NULL, s, NULL);
  lc_free(ctx, copy);
  return st;
}

lc_status lc_polar(lc_ctx *ctx, float *A, int64_t M, int64_t N, double tol, float *P, float *values) {
  const int64_t r = lc_min64(M, N);
  float *U = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * r), sizeof *U),
        *Vt = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(N * r), sizeof *Vt),
        *S = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)r, sizeof *S);
  lc_status st = U && Vt && S ? lc_svd(ctx, A, M, N, U, S, Vt) : LC_FAILED;
  if (!st) {
    int64_t kept = 0;
    if (tol <= 0) tol = 1.2e-7 * (double)lc_max64(M, N);
    while (kept < r && (double)S[kept] > tol * (double)S[0]) kept++;
    memset(P, 0, (size_t)(M * N) * sizeof *P);
    if (kept)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)M, (int)N, (int)kept, 1, U, (int)r, Vt,
                  (int)N, 0, P, (int)N);
    if (values) memcpy(values, S, (size_t)r * sizeof *values);
  }
  lc_free(ctx, U);
  lc_free(ctx, Vt);
  lc_free(ctx, S);
  return st;
}

/* An estimate of ‖A‖₂ from below, by power iteration from a row of ones. */
static double largest(const float *A, int m, int n, float *x, float *y) {
  double norm = 0;
  for (int j = 0; j < n; j++) x[j] = 1;
  for (int it = 0; it < 20; it++) {
    const float length = cblas_snrm2(n, x, 1);
    if (length == 0) return 0;
    cblas_sscal(n, 1 / length, x, 1);
    cblas_sgemv(CblasRowMajor, CblasNoTrans, m, n, 1, A, n, x, 1, 0, y, 1);
    norm = (double)cblas_snrm2(m, y, 1);
    cblas_sgemv(CblasRowMajor, CblasTrans, m, n, 1, A, n, y, 1, 0, x, 1);
  }
  return norm;
}

lc_status lc_polar_iterated(lc_ctx *ctx, float *A, int64_t M, int64_t N, double tol, float *P, int *steps) {
  LC_TRY(check(ctx, "polar factor", A, M, N));
  const int m = (int)M, n = (int)N, r = m < n ? m : n;
  lc_status st = LC_OK;
  float *G = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)r * (size_t)r, sizeof *G),
        *x = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M + N), sizeof *x);
  if (!G || !x) LC_GO(LC_FAILED);
  double size = largest(A, m, n, x, x + n), moved = 1;
  int it = 0;
  if (size == 0) { /* ones lie in the null space of A, or A is zero */
    size = (double)cblas_snrm2(m * n, A, 1);
    if (size == 0) size = 1;
  }
  cblas_sscal(m * n, (float)(1 / size), A, 1);
  for (; it < 30 && moved > (tol > 0 ? tol : 1e-4); it++) {
    cblas_ssyrk(CblasRowMajor, CblasUpper, m < n ? CblasNoTrans : CblasTrans, r, m < n ? n : m, 1, A, n, 0, G,
                r);
    memcpy(P, A, (size_t)(M * N) * sizeof *P);
    cblas_ssymm(CblasRowMajor, m < n ? CblasLeft : CblasRight, CblasUpper, m, n, -0.5f, G, r, A, n, 1.5f, P,
                n);
    cblas_saxpy(m * n, -1, P, 1, A, 1);
    moved = (double)cblas_snrm2(m * n, A, 1) / fmax((double)cblas_snrm2(m * n, P, 1), 1e-30);
    memcpy(A, P, (size_t)(M * N) * sizeof *P);
  }
  memcpy(P, A, (size_t)(M * N) * sizeof *P);
  if (steps) *steps = it;
done:
  lc_free(ctx, G);
  lc_free(ctx, x);
  return st;
}

/* A (M,n) row-major is Aᵀ (n,M) for LAPACK: Aᵀ = L·Q' there (an LQ), so Q'ᵀ (M,n) row-major is our Q. */
lc_status lc_orthonormal(lc_ctx *ctx, float *A, int64_t M, int64_t n) {
  const lapack_int m = (lapack_int)n, k = (lapack_int)M;
  float room[2] = {0}, *work = NULL;
  lc_status st = LC_OK;
  LC_TRY(check(ctx, "QR", A, M, n));
  if (n > M) return lc_fail(ctx, "QR: %lld columns of length %lld", (long long)n, (long long)M);
  float *tau = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *tau);
  if (!tau) return LC_FAILED;
  lapack_int info = LAPACKE_sgelqf_work(LAPACK_COL_MAJOR, m, k, A, m, tau, &room[0], -1);
  if (!info) info = LAPACKE_sorglq_work(LAPACK_COL_MAJOR, m, k, m, A, m, tau, &room[1], -1);
  const lapack_int size = (lapack_int)fmaxf(room[0], room[1]) + 64;
  if (!info && !(work = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)size, sizeof *work))) LC_GO(LC_FAILED);
  if (!info) info = LAPACKE_sgelqf_work(LAPACK_COL_MAJOR, m, k, A, m, tau, work, size);
  if (!info) info = LAPACKE_sorglq_work(LAPACK_COL_MAJOR, m, k, m, A, m, tau, work, size);
  if (info) st = failed(ctx, "QR", M, n, info);
done:
  lc_free(ctx, work);
  lc_free(ctx, tau);
  return st;
}

/* ---- truncated ---- */

/* Y (M,q) = W·X, X (N,q). */
static lc_status times(const lc_strips *w, const float *X, int64_t q, float *Y) {
  for (int64_t r = 0; r < w->M; r += LC_STRIP_ROWS) {
    const int64_t end = lc_min64(r + LC_STRIP_ROWS, w->M);
    const float *rows;
    int64_t ld;
    LC_TRY(w->strip(w->arg, r, end, &rows, &ld));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)(end - r), (int)q, (int)w->N, 1, rows,
                (int)ld, X, (int)q, 0, Y + r * q, (int)q);
  }
  return LC_OK;
}

/* Z (N,q) = Wᵀ·Y, Y (M,q); or, with `across`, Z (q,N) = Yᵀ·W. */
static lc_status times_transposed(const lc_strips *w, const float *Y, int64_t q, bool across, float *Z) {
  for (int64_t r = 0; r < w->M; r += LC_STRIP_ROWS) {
    const int64_t end = lc_min64(r + LC_STRIP_ROWS, w->M);
    const float *rows, beta = r ? 1 : 0;
    int64_t ld;
    LC_TRY(w->strip(w->arg, r, end, &rows, &ld));
    if (across)
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)q, (int)w->N, (int)(end - r), 1, Y + r * q,
                  (int)q, rows, (int)ld, beta, Z, (int)w->N);
    else
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)w->N, (int)q, (int)(end - r), 1, rows,
                  (int)ld, Y + r * q, (int)q, beta, Z, (int)q);
  }
  return LC_OK;
}

/* US = U[:, :R]·diag(S), Vt = the first R rows, of what lc_svd made with r columns and rows. */
static void cut(const float *U, const float *S, const float *V, int64_t M, int64_t N, int64_t r, int64_t R,
                float *US, float *Vt) {
  for (int64_t i = 0; i < M; i++)
    for (int64_t k = 0; k < R; k++) US[i * R + k] = U[i * r + k] * S[k];
  memcpy(Vt, V, (size_t)(R * N) * sizeof *Vt);
}

static lc_status exact(lc_ctx *ctx, const lc_strips *w, int64_t R, float *US, float *Vt) {
  const int64_t M = w->M, N = w->N, r = lc_min64(M, N);
  lc_status st = LC_OK;
  float *A = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * N), sizeof *A),
        *U = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * r), sizeof *U),
        *V = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(N * r), sizeof *V),
        *S = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)r, sizeof *S);
  if (!A || !U || !V || !S) LC_GO(LC_FAILED);
  for (int64_t r0 = 0; r0 < M; r0 += LC_STRIP_ROWS) {
    const int64_t end = lc_min64(r0 + LC_STRIP_ROWS, M);
    const float *rows;
    int64_t ld;
    LC_GO(w->strip(w->arg, r0, end, &rows, &ld));
    for (int64_t i = r0; i < end; i++) memcpy(A + i * N, rows + (i - r0) * ld, (size_t)N * sizeof *A);
  }
  LC_GO(lc_svd(ctx, A, M, N, U, S, V));
  cut(U, S, V, M, N, r, R, US, Vt);
done:
  lc_free(ctx, A);
  lc_free(ctx, U);
  lc_free(ctx, V);
  lc_free(ctx, S);
  return st;
}

static lc_status randomised(lc_ctx *ctx, const lc_strips *w, const lc_truncated_opts *o, int64_t q, float *US,
                            float *Vt) {
  const int64_t M = w->M, N = w->N;
  lc_status st = LC_OK;
  float *Y = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * q), sizeof *Y),
        *Z = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(N * q), sizeof *Z),
        *U = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(q * q), sizeof *U),
        *V = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(q * N), sizeof *V),
        *S = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)q, sizeof *S);
  if (!Y || !Z || !U || !V || !S) LC_GO(LC_FAILED);
  lc_rng_normal_fill(&o->rng, 0, N * q, Z);
  LC_GO(times(w, Z, q, Y));
  LC_GO(lc_orthonormal(ctx, Y, M, q));
  for (int64_t p = 0; p < o->power; p++) {
    LC_GO(times_transposed(w, Y, q, false, Z));
    LC_GO(lc_orthonormal(ctx, Z, N, q));
    LC_GO(times(w, Z, q, Y));
    LC_GO(lc_orthonormal(ctx, Y, M, q));
  }
  LC_GO(times_transposed(w, Y, q, true, Z)); /* B = QᵀW (q,N) */
  LC_GO(lc_svd(ctx, Z, q, N, U, S, V));
  for (int64_t i = 0; i < q; i++)
    for (int64_t k = 0; k < o->rank; k++) U[i * q + k] *= S[k];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)M, (int)o->rank, (int)q, 1, Y, (int)q, U,
              (int)q, 0, US, (int)o->rank);
  memcpy(Vt, V, (size_t)(o->rank * N) * sizeof *Vt);
done:
  lc_free(ctx, Y);
  lc_free(ctx, Z);
  lc_free(ctx, U);
  lc_free(ctx, V);
  lc_free(ctx, S);
  return st;
}

lc_status lc_svd_truncated(lc_ctx *ctx, const lc_strips *w, const lc_truncated_opts *o, float *US,
                           float *Vt) {
  const int64_t r = lc_min64(w->M, w->N), q = lc_min64(2 * o->rank, r);
  if (o->rank < 1 || o->rank > r)
    return lc_fail(ctx, "rank %lld of a matrix of %lld×%lld", (long long)o->rank, (long long)w->M,
                   (long long)w->N);
  openblas_set_num_threads(1);
  return o->exact || q == r ? exact(ctx, w, o->rank, US, Vt) : randomised(ctx, w, o, q, US, Vt);
}
