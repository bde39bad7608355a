/* attach: what adapter methods share: the target weights and their budget, trainable deltas in the run's
 * adapter, and the saved result. */
#ifndef LC_ATTACH_H
#define LC_ATTACH_H
#include "nn/mask.h"
#include "nn/select.h"
#include "train/train.h"

/* The weights that --targets names, each with its number of entries. */
typedef struct {
  lc_weight **w;
  int64_t *K;
  int n;
  int64_t entries /* Σ M·N */, total /* Σ K */;
} lc_target_set;
lc_status lc_target_set_open(lc_training *, lc_target_set *); /* K = 0 */
void lc_target_set_free(lc_ctx *, lc_target_set *);
/* K = floor(total·M·N / Σ M·N), total = floor(density · of). `of` is Σ M·N by lacuna's rule, or all
 * parameters of the model. */
lc_status lc_target_set_density(lc_training *, lc_target_set *, double density, int64_t of);
/* K = r·(M+N): PEFT's count for a SHiRA of "rank" r. */
lc_status lc_target_set_rank(lc_training *, lc_target_set *, int64_t r);

/* Makes a delta, trainable; adds it to the run's adapter (made when there is none). The sparse one takes idx
 * over. */
lc_status lc_attach_sparse(lc_training *, lc_weight *, lc_index *idx, lc_delta **);
/* A detached delta, which it takes over; out may not be NULL. */
lc_status lc_attach_delta(lc_training *, lc_weight *, lc_delta *, lc_delta **out);
/* While the run goes on from a checkpoint: the sparse delta that w had there, with its positions and with room for what
 * had retired (the loader fills in the values). *out is NULL when it had none. */
lc_status lc_attach_stored(lc_training *, lc_weight *, lc_delta **out);
/* Positions of w as a checkpoint keeps them, checked; one place holder when there are none. */
lc_status lc_attach_stored_index(lc_ctx *, const lc_weight *, const lc_tensor *at, lc_index *out);
/* The base's f32 values at the positions. */
lc_status lc_attach_base_values(lc_ctx *, const lc_weight *, const lc_index *, float *out);
/* With weight decay: a sparse delta's column "origin" (optim.h), made or filled anew, so that decay pulls the weight to 0
 * and not its change. 4 B an entry. */
lc_status lc_attach_origin(lc_training *, lc_delta *);
lc_status lc_attach_lora(lc_training *, lc_weight *, const lc_lora_opts *, const float *A, lc_delta **);

/* A mask on w's base, first of its deltas: m, which it takes over, or while resuming the checkpoint's (whose structure and
 * group are m's); nothing when neither has bits. */
lc_status lc_attach_mask(lc_training *, lc_weight *, lc_mask *m);

/* Share of the run's changed entries that the products do not see, because W + δ rounds to W in the compute dtype
 * (0 in f32). δ itself is f32 and goes on moving; merged into a wider type it counts. */
lc_status lc_attach_invisible(lc_training *, double *share);

/* Writes other forms of the run's deltas: `as` makes a detached delta of one, or leaves *out NULL (it is not written).
 * They are freed afterwards. *n (may be NULL): how many were written; none writes nothing. */
typedef lc_status (*lc_as_fn)(lc_ctx *, const lc_delta *, lc_delta **out);
lc_status lc_attach_save_as(lc_training *, lc_layout, lc_as_fn as, const char *dir, int *n);

/* The low-rank changes once more as PEFT's LoRA in dir/lora, the sparse ones as lacuna's own in dir/entries. */
lc_status lc_attach_save_parts(lc_training *, const char *dir);

/* Writes the run's adapter with what is known of the run. */
lc_status lc_attach_save(lc_training *, lc_layout, const char *mask_type, const char *dir);
/* The same of n detached deltas instead of the run's own (which may be none). */
lc_status lc_attach_save_deltas(lc_training *, lc_delta **, int n, lc_layout, const char *mask_type,
                                const char *dir);
#endif
