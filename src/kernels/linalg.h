/* linalg: singular values and what is made of them. f32, row-major, contiguous (leading dimension = columns).
 *
 * LAPACK runs on the caller's thread with one thread of its own, so results do not depend on the number of
 * workers, and every function may be called from a worker (a matrix a chunk). A matrix that is not finite is
 * refused: LAPACK may not return on one. */
#ifndef LC_LINALG_H
#define LC_LINALG_H
#include "core/core.h"

/* A (M,N) = U·diag(S)·Vt with r = min(M,N): U (M,r), S (r) falling, Vt (r,N); LAPACK's divide and conquer.
 * A is overwritten. U and Vt NULL (both): values only. */
lc_status lc_svd(lc_ctx *, float *A, int64_t M, int64_t N, float *U, float *S, float *Vt);
/* Singular values only, falling; A is kept. s: min(M,N). */
lc_status lc_svd_values(lc_ctx *, const float *A, int64_t M, int64_t N, float *s);
/* P = U·Vt over the singular values above tol·S[0] (f32's rounding when tol is 0): the gradient of the nuclear
 * norm ‖A‖_* where it has one, its shortest subgradient elsewhere. A is overwritten; P (M,N). values (may be
 * NULL): min(M,N). */
lc_status lc_polar(lc_ctx *, float *A, int64_t M, int64_t N, double tol, float *P, float *values);
/* The same by products only (Newton and Schulz): X ← 1.5·X − 0.5·X·XᵀX from A over its largest singular value, until X
 * moves by less than tol (relative; 0: 1e-4) or 30 times. Singular values below some 1e-4 of the largest are not
 * brought to 1. A is overwritten; *steps may be NULL. */
lc_status lc_polar_iterated(lc_ctx *, float *A, int64_t M, int64_t N, double tol, float *P, int *steps);
/* Thin QR of A (M,n), n <= M, by Householder reflections: A becomes Q, with orthonormal columns. */
lc_status lc_orthonormal(lc_ctx *, float *A, int64_t M, int64_t n);

/* ---- truncated decomposition of a matrix that is read in strips of rows and never stored ---- */

enum { LC_STRIP_ROWS = 64 };
/* Rows [r0,r1) with leading dimension *ld, r1 - r0 <= LC_STRIP_ROWS. Valid until the next call. */
typedef lc_status (*lc_strip_fn)(void *arg, int64_t r0, int64_t r1, const float **rows, int64_t *ld);
typedef struct {
  int64_t M, N;
  lc_strip_fn strip;
  void *arg;
} lc_strips;
typedef struct {
  int64_t rank;  /* R, at most min(M,N) */
  bool exact;    /* LAPACK's SVD of the whole matrix (a copy of it is made), then cut */
  int64_t power; /* power iterations (randomised) */
  lc_rng rng;    /* draws of the test matrix */
} lc_truncated_opts;
/* The R largest: US (M,R) = U·diag(S), Vt (R,N). Randomised (Halko, Martinsson & Tropp 2011, alg. 4.4): q = min(2R,
 * min(M,N)) columns W·Ω, orthonormalised, `power` times through Wᵀ and W; then the SVD of QᵀW (q,N). q = min(M,N)
 * is exact up to rounding, and the exact way is taken. Memory: (M+N)·q beside the factors. */
lc_status lc_svd_truncated(lc_ctx *, const lc_strips *, const lc_truncated_opts *, float *US, float *Vt);
#endif
