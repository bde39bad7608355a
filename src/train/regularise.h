/* regularise: penalties on what is trained. Each adds its gradient to the trainable's own, for a method's after_backward
 * (once an update, before clipping). The reported loss is the task's. Each reads θ = the trained weight and θ0 = the
 * base; the trainable is a weight as a whole, or a sparse change. */
#ifndef LC_REGULARISE_H
#define LC_REGULARISE_H
#include "train/attach.h"

/* strength·‖θ − θ0‖₁: grad += strength·sign(θ − θ0), 0 at 0. Vectors (biases) are left alone. */
lc_status lc_regularise_l1(lc_ctx *, lc_param *, double strength);

/* strength·‖W⊙M‖_*, M the positions that are trained now: grad += strength·(U·Vᵀ)⊙M with W⊙M = U·Σ·Vᵀ. Of the weight,
 * not of its change. Iterated: by products only (kernels/linalg.h). Memory for the time of the call: three M×N. */
lc_status lc_regularise_nuclear(lc_ctx *, lc_param *, double strength, bool iterated);
#endif
