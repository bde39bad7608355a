/* select: which positions of a weight matter, and how many each weight gets. All choices are exact counts
 * with ties to the lower flat index, independent of tiles and threads. `rank` j >= 1 asks for the j-th
 * disjoint choice: ranks (j-1)K+1 … jK of the score. */
#ifndef LC_SELECT_H
#define LC_SELECT_H
#include "nn/nn.h"

/* K uniform positions without replacement, a function of (seed, weight's name, rank): equal shapes get
 * unequal masks. */
lc_status lc_select_random(lc_ctx *, const lc_weight *, uint64_t seed, int64_t K, int64_t rank,
                           lc_index *out);

typedef enum {
  LC_SCORE_MAGNITUDE /* |W| */,
  LC_SCORE_GRADIENT /* |G| */,
  LC_SCORE_SNIP /* |W·G| */
} lc_score_kind;
/* The K best by score; G (M,N) dense, NULL for magnitude. W is the effective weight. */
lc_status lc_select_scored(lc_ctx *, const lc_weight *, lc_score_kind, const float *G, int64_t K,
                           int64_t rank, lc_index *out);

/* Every f-th row (or column), from 0, and the main diagonal; f is the least whose count is at most K. */
int64_t lc_struct_count(int64_t M, int64_t N, int64_t f, bool columns);
lc_status lc_select_struct(lc_ctx *, const lc_weight *, int64_t K, bool columns, lc_index *out);

/* ---- over several weights at once (select_global.c) ---- */

/* Scores of full rows [at.r0,at.r1) of weight l, contiguous (N columns). Called more than once for a rectangle,
 * on workers; scratch slots 2 and 3 are the caller's, 0 and 1 lc_weight_tile's. */
typedef lc_status (*lc_score_fn)(void *arg, lc_ctx *, int worker, int l, const lc_weight *, lc_rect at,
                                 float *score);
typedef struct {
  lc_weight *const *w;
  int n;
  lc_score_fn score; /* NULL: |W|, W the effective weight */
  void *arg;
  const lc_index *exclude; /* n sets of positions that never enter; NULL: none */
  bool smallest;           /* the lowest scores win */
} lc_scores;
/* The K best over all weights together; ties to the lower (weight, flat index). out: n sets, each of which may be
 * empty (n = 0, at NULL). Memory: the result and half a megabyte a worker, whatever K. A score that is not a
 * number is refused with weight and position. */
lc_status lc_select_global(lc_ctx *, const lc_scores *, int64_t K, lc_index *out);
/* All positions whose score is strictly better than the bound. */
lc_status lc_select_beyond(lc_ctx *, const lc_scores *, float bound, lc_index *out);
/* K uniform positions over all weights together. */
lc_status lc_select_global_random(lc_ctx *, lc_weight *const *w, int n, uint64_t seed, int64_t K,
                                  lc_index *out);
/* Positions where two weights of one shape (of two nets) differ by more than tolerance; out may be empty. */
lc_status lc_select_changed(lc_ctx *, const lc_weight *a, const lc_weight *b, float tolerance, lc_index *out);
/* Score: how far training has moved a weight, |form - base + Σ patch|. arg is not used. */
lc_status lc_score_moved(void *arg, lc_ctx *, int worker, int l, const lc_weight *, lc_rect at, float *score);
void lc_index_free_all(lc_ctx *, lc_index *, int n);

/* ---- rank-reduced magnitude (select_rank.c; LIFT, arXiv 2506.00772) ---- */
typedef struct {
  int64_t rank;  /* R: |W'| of the best approximation of this rank; >= min(M,N): |W| itself */
  bool exact;    /* LAPACK's SVD, else randomised with 2R columns */
  int64_t power; /* power iterations then */
  bool blocks;   /* whole 4×4 blocks by Σ|W'|: K/16 of them */
  uint64_t seed;
} lc_rank_opts;
/* The K largest |W'|, W' = U_R·diag(S_R)·V_Rᵀ of the effective weight; W' is made a strip at a time. Runs on one
 * worker and may be called from several at once. */
lc_status lc_select_rank_reduced(lc_ctx *, const lc_weight *, const lc_rank_opts *, int64_t K, lc_index *out);

/* ---- what low rank and small noise leave over (select_grebsmo.c; GreBsmo, in DSEE, arXiv 2111.00160) ---- */
typedef struct {
  int64_t outer, inner, step; /* rounds, passes a round, rows that V gains a round */
  double threshold;           /* smaller |S| are 0 */
  int64_t keep;               /* entries that S must have; lc_select_grebsmo: K */
  lc_rng rng;                 /* draws of V's first row; its tensor is the weight's in lc_select_grebsmo */
} lc_grebsmo_opts;
typedef struct {
  int64_t M, N, rank; /* of the last round: at most 1 + step·(outer−1) and min(M,N)/2 */
  float *U, *V, *S;   /* (M,rank) with orthonormal columns, (rank,N), (M,N) */
  double *residual;   /* ‖W − U·V − S‖, by round */
  int64_t rounds;
} lc_grebsmo;
lc_status lc_grebsmo_new(lc_ctx *, const float *W, int64_t M, int64_t N, const lc_grebsmo_opts *,
                         lc_grebsmo *);
void lc_grebsmo_free(lc_ctx *, lc_grebsmo *);
/* The K entries of largest |S|; where S has fewer, the rest (*filled) by |W|. Runs on one worker and may be called from
 * several at once. */
lc_status lc_select_grebsmo(lc_ctx *, const lc_weight *, const lc_grebsmo_opts *, int64_t K, int64_t *filled,
                            lc_index *out);
/* So many entries of each of n weights, by one rule. *filled: of grebsmo, of all weights. */
typedef enum { LC_SUPPORT_GREBSMO, LC_SUPPORT_MAGNITUDE, LC_SUPPORT_RANDOM } lc_support;
#define LC_SUPPORTS "grebsmo|magnitude|random"
lc_status lc_select_support(lc_ctx *, lc_weight *const *, int n, lc_support,
                            const lc_grebsmo_opts * /* its seed for all */, int64_t K, int64_t *filled,
                            lc_index *out);

/* Divides total over weights of size[l] entries: K[l] = floor(total·size[l] / Σ size). Refuses total < 1 or >
 * Σ size, and a weight that gets nothing. */
lc_status lc_budget_split(lc_ctx *, int64_t total, lc_weight *const *w, int n, int64_t *K);

/* ---- top-k of a gradient, weight by weight, out of one backward pass. Allocation-free after _new ---- */
typedef struct lc_grad_topk lc_grad_topk;
/* The k[l] positions of largest |dW| of weight l, sorted by flat index; payload is the signed entry. Called
 * once a weight, on a worker. */
typedef lc_status (*lc_grad_topk_fn)(void *self, int l, const lc_pick *, int64_t n);
lc_status lc_grad_topk_new(lc_ctx *, lc_weight *const *w, const int64_t *k, int n, lc_grad_topk_fn,
                           void *self, lc_grad_topk **);
void lc_grad_topk_free(lc_grad_topk *);
lc_status lc_grad_topk_watch(lc_grad_topk *); /* for the next pass: asks every weight for its tiles */
/* Stops asking. Fails if some weight's gradient did not come, naming it. */
lc_status lc_grad_topk_end(lc_grad_topk *);
#endif
