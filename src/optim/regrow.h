/* regrow: drop and grow. A trainable's number of entries stays, the set moves: the entries that moved least
 * leave, others enter, and the optimiser's state follows. Entries that stay keep value and state bit for bit.
 * Allocation-free after the _new functions. */
#ifndef LC_REGROW_H
#define LC_REGROW_H
#include "optim/optim.h"

/* One weight's entries, and as many candidates: positions whose gradient is summed for a while before some of
 * them enter. */
typedef struct {
  lc_param *active; /* borrowed */
  lc_param
      *candidate; /* idx: positions; value: G, the summed gradient; column "Q": the summed squares; or NULL */
} lc_regrow;
lc_status lc_regrow_new(lc_ctx *, lc_param *active, bool candidates, lc_regrow **);
void lc_regrow_free(lc_ctx *, lc_regrow *);
lc_status lc_regrow_visit(lc_regrow *, lc_visitor *);
/* New candidates, sorted by position, G = Q = 0; their gradient so far is the payload. */
lc_status lc_regrow_candidates(lc_regrow *, const lc_pick *, int64_t n);
void lc_regrow_watch(lc_regrow *, bool on); /* gradients at the candidates: wanted or not */
void lc_regrow_accumulate(lc_regrow *);     /* G += g, Q += g², g = 0 */

/* Room for the largest of several. */
typedef struct lc_regrow_scratch lc_regrow_scratch;
lc_status lc_regrow_scratch_new(lc_ctx *, lc_regrow *const *, int n, lc_regrow_scratch **);
void lc_regrow_scratch_free(lc_ctx *, lc_regrow_scratch *);

/* AdamW's state of an entry that enters: m = (G/s)(1−β1^a), v = (Q/s)(1−β2^a), age = `age` (updates had: the
 * next one counts age+1). */
typedef struct {
  double beta1, beta2, s, a, age;
} lc_regrow_seed;
/* O = the n entries of smallest |value|, I = the n candidates of largest |G| that are not active outside O.
 * What is in both stays; the rest of I replaces the smallest of the rest of O. */
lc_status lc_regrow_by_gradient(lc_ctx *, lc_regrow *, lc_regrow_scratch *, int64_t n, const lc_regrow_seed *,
                                int64_t *swapped);
/* I = the n inactive positions of largest acc_row[i]·acc_col[j] (SM3's accumulators, which stay as they are).
 * */
lc_status lc_regrow_by_outer(lc_ctx *, lc_regrow *, lc_regrow_scratch *, int64_t n, int64_t *swapped);
#endif
