/* Greedy bilateral decomposition (GreBsmo: Zhou & Tao 2013), as DSEE (arXiv 2111.00160) uses it: which entries of W does
 * neither a low-rank matrix nor small noise explain?
 *
 *   V (1,N) normal. For each of `outer` rounds:
 *     S ← 0; `inner` times:  U ← orth((W−S)·Vᵀ);  V ← Uᵀ·(W−S);  S ← W − U·V with |·| < threshold set to 0
 *     E ← W − U·V − S;  V gains the first `step` rows of R of QR(E): Qᵀ·E, Q an orthonormal basis of E's first columns
 *
 * The rank stops at min(M,N)/2, and the rounds with it. They also stop when a round leaves fewer than `keep` entries in
 * S, whose positions are what is wanted: once the rank is high enough, U·V explains them too, and the round before counts.
 * (In pretrained weights what exceeds the threshold is far more.) Everything is f32 in products of one thread; memory: five
 * matrices of the size of W and (M+N)·rank. */
#include "kernels/kernels.h"
#include "kernels/linalg.h"
#include "nn/select.h"
#include <math.h>
#include <string.h>

void lc_grebsmo_free(lc_ctx *ctx, lc_grebsmo *g) {
  lc_free(ctx, g->U);
  lc_free(ctx, g->V);
  lc_free(ctx, g->S);
  lc_free(ctx, g->residual);
  *g = (lc_grebsmo){0};
}

/* C (m,n) = A·B; A (m,k), or (k,m) with ta; B (k,n), or (n,k) with tb; contiguous. */
static lc_status times(lc_ctx *ctx, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *A,
                       int64_t lda, const float *B, float *C) {
  const lc_gemm_shape s = {.m = m,
                           .n = n,
                           .k = k,
                           .lda = lda,
                           .ldb = tb ? k : n,
                           .ldc = n,
                           .trans_a = ta,
                           .trans_b = tb,
                           .dtype = LC_F32,
                           .c_dtype = LC_F32};
  return lc_gemm(ctx, lc_worker(ctx), &s, A, B, C);
}

/* U, V of W − S, then S. D and P: M·N each. */
static lc_status inner_round(lc_ctx *ctx, const float *W, int64_t M, int64_t N, float threshold,
                             lc_grebsmo *g, float *D, float *P) {
  const int64_t r = g->rank;
  for (int64_t i = 0; i < M * N; i++) D[i] = W[i] - g->S[i];
  LC_TRY(times(ctx, false, true, M, r, N, D, N, g->V, g->U));
  LC_TRY(lc_orthonormal(ctx, g->U, M, r));
  LC_TRY(times(ctx, true, false, r, N, M, g->U, r, D, g->V));
  LC_TRY(times(ctx, false, false, M, N, r, g->U, r, g->V, P));
  for (int64_t i = 0; i < M * N; i++) {
    const float s = W[i] - P[i];
    g->S[i] = fabsf(s) < threshold ? 0 : s;
  }
  return LC_OK;
}

static int64_t entries_of(const float *S, int64_t n) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; i++) found += S[i] != 0;
  return found;
}

/* The next rows of V, from E = W − P − S in D; Q: M·step. */
static lc_status grow(lc_ctx *ctx, const float *W, int64_t M, int64_t N, int64_t step, lc_grebsmo *g,
                      float *D, const float *P, float *Q) {
  double sum = 0;
  for (int64_t i = 0; i < M * N; i++) {
    D[i] = W[i] - P[i] - g->S[i];
    sum += (double)D[i] * (double)D[i];
  }
  g->residual[g->rounds++] = sqrt(sum);
  for (int64_t r = 0; r < M; r++) memcpy(Q + r * step, D + r * N, (size_t)step * sizeof *Q);
  LC_TRY(lc_orthonormal(ctx, Q, M, step));
  return times(ctx, true, false, step, N, M, Q, step, D, g->V + g->rank * N);
}

lc_status lc_grebsmo_new(lc_ctx *ctx, const float *W, int64_t M, int64_t N, const lc_grebsmo_opts *o,
                         lc_grebsmo *g) {
  const int64_t most = lc_max64(1, lc_min64(M, N) / 2), step = lc_min64(o->step, lc_min64(M, N)),
                room = most + step;
  lc_status st = LC_OK;
  *g = (lc_grebsmo){.M = M, .N = N, .rank = 1};
  g->U = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * room), sizeof *g->U);
  g->V = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(N * room), sizeof *g->V);
  g->S = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * N), sizeof *g->S);
  g->residual = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)o->outer, sizeof *g->residual);
  float *D = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(3 * M * N), sizeof *D),
        *before = D ? D + 2 * M * N : NULL,
        *Q = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * step), sizeof *Q);
  if (!g->U || !g->V || !g->S || !g->residual || !D || !Q) LC_GO(LC_FAILED);
  lc_rng_normal_fill(&o->rng, 0, N, g->V);
  for (int64_t k = 0; k < o->outer; k++) {
    memcpy(before, g->S, (size_t)(M * N) * sizeof *before);
    memset(g->S, 0, (size_t)(M * N) * sizeof *g->S);
    for (int64_t i = 0; i < o->inner; i++)
      LC_GO(inner_round(ctx, W, M, N, (float)o->threshold, g, D, D + M * N));
    if (k && entries_of(g->S, M * N) < o->keep) {
      memcpy(g->S, before, (size_t)(M * N) * sizeof *before);
      break;
    }
    LC_GO(grow(ctx, W, M, N, step, g, D, D + M * N, Q));
    if (k + 1 == o->outer || g->rank + step > most) break;
    g->rank += step;
  }
done:
  lc_free(ctx, D);
  lc_free(ctx, Q);
  if (st) lc_grebsmo_free(ctx, g);
  return st;
}

/* ---- positions ---- */

/* The K largest |x| outside `exclude`. */
static lc_status largest(lc_ctx *ctx, const lc_weight *w, const float *x, int64_t K, const lc_index *exclude,
                         int64_t *flat) {
  lc_topk *top = NULL;
  const lc_pick *pick;
  lc_status st = LC_OK;
  int64_t n = 0;
  float *row = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)w->N, sizeof *row);
  if (!row) return LC_FAILED;
  LC_GO(lc_topk_new(ctx, K, &top));
  for (int64_t r = 0; r < w->M; r++) {
    for (int64_t c = 0; c < w->N; c++) row[c] = fabsf(x[r * w->N + c]);
    LC_GO(lc_topk_push(top, lc_worker(ctx), 0, w->N, (lc_rect){r, r + 1, 0, w->N}, row, NULL, w->N, exclude));
  }
  LC_GO(lc_topk_take(top, &pick, &n));
  for (int64_t k = 0; k < n; k++) flat[k] = pick[k].flat;
done:
  lc_topk_free(top);
  lc_free(ctx, row);
  return st;
}

static lc_status choose(lc_ctx *ctx, const lc_weight *w, const float *W, const float *S, int64_t K,
                        int64_t *filled, lc_index *out) {
  lc_status st = LC_OK;
  lc_index first = {0};
  const int64_t k = lc_min64(K, entries_of(S, w->M * w->N));
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)K, sizeof *flat);
  if (!flat) return LC_FAILED;
  if (k) LC_GO(largest(ctx, w, S, k, NULL, flat));
  if (k < K) { /* what is left over by |W| */
    if (k) LC_GO(lc_index_new(ctx, w->M, w->N, flat, k, &first));
    LC_GO(largest(ctx, w, W, K - k, k ? &first : NULL, flat + k));
  }
  *filled = K - k;
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, K, out));
done:
  lc_index_free(ctx, &first);
  lc_free(ctx, flat);
  return st;
}

lc_status lc_select_grebsmo(lc_ctx *ctx, const lc_weight *w, const lc_grebsmo_opts *o, int64_t K,
                            int64_t *filled, lc_index *out) {
  lc_status st = LC_OK;
  lc_grebsmo g = {0};
  lc_grebsmo_opts own = *o;
  own.rng.tensor = w->id;
  own.keep = K;
  if (K < 1 || K > w->M * w->N)
    return lc_fail(ctx, "'%s' has %lld×%lld entries: no mask of %lld", w->name, (long long)w->M,
                   (long long)w->N, (long long)K);
  float *W = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(w->M * w->N), sizeof *W);
  if (!W) return LC_FAILED;
  for (int64_t r = 0; r < w->M; r += LC_STRIP_ROWS) {
    const lc_rect at = {r, lc_min64(r + LC_STRIP_ROWS, w->M), 0, w->N};
    const void *tile;
    int64_t ld;
    LC_GO(lc_weight_tile(ctx, lc_worker(ctx), w, at, LC_F32, &tile, &ld));
    for (int64_t i = at.r0; i < at.r1; i++)
      memcpy(W + i * w->N, (const float *)tile + (i - r) * ld, (size_t)w->N * sizeof *W);
  }
  LC_GO(lc_grebsmo_new(ctx, W, w->M, w->N, &own, &g));
  LC_GO(choose(ctx, w, W, g.S, K, filled, out));
done:
  lc_grebsmo_free(ctx, &g);
  lc_free(ctx, W);
  return st;
}

typedef struct {
  lc_ctx *ctx;
  lc_weight *const *w;
  lc_support rule;
  const lc_grebsmo_opts *o;
  int64_t K, *filled;
  lc_index *out;
} support_arg;

static lc_status support_of(void *arg, int64_t i, int worker) {
  const support_arg *a = arg;
  if (a->rule == LC_SUPPORT_RANDOM)
    return lc_select_random(a->ctx, a->w[i], a->o->rng.seed, a->K, 1, &a->out[i]);
  if (a->rule == LC_SUPPORT_MAGNITUDE)
    return lc_select_scored(a->ctx, a->w[i], LC_SCORE_MAGNITUDE, NULL, a->K, 1, &a->out[i]);
  return lc_select_grebsmo(a->ctx, a->w[i], a->o, a->K, &a->filled[i], &a->out[i]);
}

lc_status lc_select_support(lc_ctx *ctx, lc_weight *const *w, int n, lc_support rule,
                            const lc_grebsmo_opts *o, int64_t K, int64_t *filled, lc_index *out) {
  support_arg a = {ctx, w, rule, o, K, lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n + 1, sizeof *a.filled), out};
  if (!a.filled) return LC_FAILED;
  for (int i = 0; i < n; i++) out[i] = (lc_index){.kind = LC_LIST32};
  lc_status st = lc_parallel(ctx, n, support_of, &a);
  *filled = 0;
  for (int i = 0; i < n && !st; i++) *filled += a.filled[i];
  if (st) lc_index_free_all(ctx, out, n);
  lc_free(ctx, a.filled);
  return st;
}
