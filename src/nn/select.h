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
