/* phase: what was trained in one phase of a run, for the next: copied in end_phase, put back in attach. */
#ifndef LC_PHASE_H
#define LC_PHASE_H
#include "train/train.h"

/* Values (and positions) of the deltas' trainables and of weights that are trained as a whole. */
typedef struct lc_phase_values lc_phase_values;
lc_status lc_phase_take(const lc_training *, lc_phase_values **);
void lc_phase_free(lc_ctx *, lc_phase_values *);
/* Positions that a weight's delta of this kind had; NULL: none. */
const lc_index *lc_phase_index(const lc_phase_values *, const lc_weight *, const lc_delta_ops *);
/* Into the trainables of the same weight, kind of delta and number, which are as long as they were; weights that
 * were trained as a whole are so again. */
lc_status lc_phase_put(const lc_phase_values *, lc_training *);
#endif
