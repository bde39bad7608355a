/* carry: sparse changes that outlive a phase. At the end of one a method keeps positions and values of each weight here;
 * the next one attaches them again, adds them to a weight that is trained as a whole, or lets more positions in. */
#ifndef LC_CARRY_H
#define LC_CARRY_H
#include "train/attach.h"

typedef struct {
  lc_weight *w;
  lc_index idx; /* LC_ALL: nothing is kept */
  float *value;
} lc_carried;
void lc_carry_clear(lc_ctx *, lc_carried *);
/* All positions of w, with no change yet. */
lc_status lc_carry_all(lc_ctx *, lc_carried *);
/* Those of a sparse delta, with its change (what retired too). */
lc_status lc_carry_take(lc_ctx *, lc_carried *, const lc_delta *);
/* Further positions, disjoint from those that are there, with no change; takes them over. */
lc_status lc_carry_more(lc_ctx *, lc_carried *, lc_index *);
/* A delta with these positions and values, in the run's adapter (decay on the weight: lc_attach_origin). What is kept here
 * goes, or stays when `keep`. *out NULL: there was nothing. */
lc_status lc_carry_attach(lc_training *, lc_carried *, bool trainable, bool keep, lc_delta **out);
/* Adds the change to the master of a weight that is trained as a whole. */
void lc_carry_add(const lc_carried *, lc_param *whole);
/* Lets more positions of n weights in, none twice: those that training has moved most (|W − base|),
 * or random ones; `total` over all weights together, or, when it is 0, each[l] of weight l. */
typedef struct {
  int64_t total;
  const int64_t *each;
  bool random;
  uint64_t seed;
} lc_growth;
lc_status lc_carry_grow(lc_ctx *, lc_carried *, int n, const lc_growth *);
/* Names the arrays for a checkpoint, and takes them back from it. */
lc_status lc_carry_visit(const lc_carried *, lc_visitor *);
lc_status lc_carry_restore(lc_training *, lc_carried *);
lc_status lc_carry_check(lc_ctx *,
                         const lc_carried *); /* what a checkpoint has put there: positions as they must be */
#endif
