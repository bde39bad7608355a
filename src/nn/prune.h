/* prune: entries of a pool of weights dropped from their masks, lowest scores first; the score may be that of the update
 * that a weight carries now. */
#ifndef LC_PRUNE_H
#define LC_PRUNE_H
#include "nn/mask.h"

/* T = [W] + the update as it counts (low rank A, entries S): scored |T|. NAB, NABS: the largest |T| go first. */
typedef enum {
  LC_PRUNE_W,
  LC_PRUNE_AB,
  LC_PRUNE_ABS,
  LC_PRUNE_WAB,
  LC_PRUNE_WABS,
  LC_PRUNE_NAB,
  LC_PRUNE_NABS,
  LC_PRUNE_RANDOM
} lc_prune_mode;
#define LC_PRUNE_MODES "w|ab|abs|wab|wabs|nab|nabs|random"
/* Drops round(share · Σ M·N) entries (halves to even, as torch rounds) of all weights together, ties to the lower
 * (weight, flat index). W is the base's. *dropped: how many. */
lc_status lc_prune_pool(lc_ctx *, lc_weight *const *, int n, lc_prune_mode, double share, uint64_t seed,
                        lc_mask *mask, int64_t *dropped);
/* Σ_c of each row: |W| and |update| apart, those that the mode has. sum: M. Not for NAB, NABS and RANDOM. */
lc_status lc_prune_row_sums(lc_ctx *, const lc_weight *, lc_prune_mode, double *sum);
#endif
