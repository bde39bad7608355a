/* A mask on a weight as a delta (delta_mask.c). */
#ifndef LC_NN_MASK_H
#define LC_NN_MASK_H
#include "nn/nn.h"
#include "sparse/mask.h"

/* Takes the mask over, on failure too. */
lc_status lc_delta_mask_new(lc_ctx *, lc_weight *, lc_mask *, lc_delta **);
const lc_mask *lc_delta_mask_of(const lc_delta *);
const lc_mask *
lc_weight_mask(const lc_weight *); /* of the mask that it carries, at a scale other than 0; or NULL */
extern const lc_delta_ops lc_delta_mask;
#endif
