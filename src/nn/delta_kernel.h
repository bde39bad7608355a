/* A change that is computed, not stored (delta_kernel.c). */
#ifndef LC_DELTA_KERNEL_H
#define LC_DELTA_KERNEL_H
#include "nn/nn.h"
typedef enum { LC_KERNEL_KLORA, LC_KERNEL_MIXK, LC_KERNEL_SNELL, LC_KERNEL_SNELLA } lc_kernel_variant;
typedef enum { LC_SPARSIFY_CODE, LC_SPARSIFY_PAPER } lc_sparsify_rule;
typedef struct {
  int64_t rank, seed; /* rank: even */
  int variant, rule;
} lc_kernel_opts;
/* param: A (R,N) and B (M,R), mix (1,3) = α, γ, β; of the last refresh and not trained: lse (1,N), level (1,2) = τ and
 * the sparsity it stands for. */
lc_status lc_delta_kernel_new(lc_ctx *, lc_weight *, const lc_kernel_opts *, bool trainable, lc_delta **);
/* Brings lse and τ up to date with the values, for a sparsity in [0,1]. After every change of the values. */
lc_status lc_delta_kernel_refresh(lc_ctx *, lc_delta *, double sparsity);
/* The change's nonzero entries, as a sparse delta (detached, not trained). */
lc_status lc_delta_kernel_sparse(lc_ctx *, const lc_delta *, lc_delta **);
extern const lc_delta_ops lc_delta_kernel;
#endif
