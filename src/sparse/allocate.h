/* allocate: an integer budget over layers by score. */
#ifndef LC_ALLOCATE_H
#define LC_ALLOCATE_H
#include "core/core.h"
/* out[l] in [0, cap[l]], Σ out = min(budget, Σ cap): in proportion to the scores (NaN, infinite and negative count as 0;
 * none above 0: equal shares), what a full layer cannot take goes to the others by their shares; remainders to the
 * largest fraction, ties to the lower layer. */
lc_status lc_allocate(lc_ctx *, int64_t budget, const double *score, const int64_t *cap, int n, int64_t *out);
#endif
