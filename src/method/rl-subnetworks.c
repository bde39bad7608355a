/* rl-subnetworks: train again, from the same start, only the weights that an earlier run changed.
 *
 * Source: Mukherjee, Yuan, Hakkani-Tür & Peng, "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models",
 * NeurIPS 2025, arXiv 2505.11711 (section 5; its code holds the analysis only, which is `lacuna diff`).
 *
 *   1. mask    b_i = 1 where |θ_run,i − θ_0,i| > tolerance, θ_run the result of an earlier run (a model, or an adapter on the base)
 *   2. train   from θ_0, in the same order of rows, with the same seed and objective: the gradient is multiplied by b
 *   3. compare `lacuna diff RUN THIS --tolerance 1e-5`
 *
 * storage=sparse: a sparse change of the targets' entries in b, gradients sampled there. Memory that survives an update: 16 B an
 * entry (position 4, δ 4, moments 8), 4 B more with weight decay; 4 B of gradient beside it. What b holds outside the targets is not
 * trained. storage=dense: every weight of the model, norms and embeddings too, as the paper: f32 masters, dense gradients, and the
 * rates' column "lr" = b, with which no entry outside b moves: 20 B a parameter. With b = 1 everywhere it is method full, bit for bit.
 *
 * clip-norm: the norm that --clip looks at is that of b∘g (masked), or of g (full; dense only, for the sparse way never makes g). */
#include <jansson.h>
#include <math.h>
#include "method/methods.h"
#include "model/diff.h"
#include "train/attach.h"

typedef struct {
  char *from;
  double tolerance;
  int storage, clip_norm, outtype;
  int64_t trained, entries; /* for the report */
} subnetwork;
enum { SPARSE, DENSE };
enum { MASKED, FULL };

static const lc_option options[] = {
    {"from", LC_OPT_STRING, offsetof(subnetwork, from), NULL, 0, 0, NULL, "PATH",
     "result of the earlier run: a model, or an adapter on this one"},
    {"tolerance", LC_OPT_FLOAT, offsetof(subnetwork, tolerance), "0", 0, 1e30, NULL, "X",
     "entries that it changed by more are trained"},
    {"storage", LC_OPT_CHOICE, offsetof(subnetwork, storage), "sparse", 0, 0, "sparse|dense", NULL,
     "a sparse change of the targets; or all weights, with a gradient multiplied by the mask"},
    {"clip-norm", LC_OPT_CHOICE, offsetof(subnetwork, clip_norm), "masked", 0, 0, "masked|full", NULL,
     "which gradient's norm --clip looks at"},
    {"outtype", LC_OPT_CHOICE, offsetof(subnetwork, outtype), "auto", 0, 0, "auto|f32|bf16|f16", NULL,
     "storage=dense: type of the saved weights; auto: the base's, or bf16 when the base is quantised"},
    {0},
};

/* ---- sparse ---- */

/* A target's entries that changed; none: no delta. */
static lc_status attach_target(const subnetwork *self, lc_training *t, lc_weight *w, const lc_net *run,
                               lc_delta **d) {
  lc_index idx = {0};
  const lc_weight *v = lc_net_weight(run, w->name);
  *d = NULL;
  if (!v) return lc_fail(t->ctx, "'%s' is not in %s", w->name, self->from);
  LC_TRY(lc_select_changed(t->ctx, w, v, (float)self->tolerance, &idx));
  if (!idx.n) {
    lc_index_free(t->ctx, &idx);
    return LC_OK;
  }
  lc_status st = lc_attach_sparse(t, w, &idx, d);
  if (st) lc_index_free(t->ctx, &idx);
  return st;
}

static lc_status attach_sparse(subnetwork *self, lc_training *t, const lc_net *run) {
  lc_target_set set = {0};
  lc_status st = lc_target_set_open(t, &set);
  for (int l = 0; l < set.n && !st; l++) {
    lc_delta *d = NULL;
    LC_GO(t->resuming ? lc_attach_stored(t, set.w[l], &d) : attach_target(self, t, set.w[l], run, &d));
    if (!d) continue;
    LC_GO(lc_attach_origin(t, d)); /* weight decay pulls the weight to 0, as it did in the earlier run */
    self->trained += d->param[0]->n;
  }
  self->entries = set.entries;
  if (!st && !self->trained)
    st = lc_fail(t->ctx, "%s changed no entry of the targets by more than %g: there is nothing to train",
                 self->from, self->tolerance);
done:
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* ---- dense ---- */

/* The column of rates becomes the mask of one weight. */
static lc_status mask_whole(subnetwork *self, lc_training *t, lc_param *p, const lc_net *run) {
  const lc_weight *w = p->of, *v = lc_net_weight(run, w->name);
  float *rate;
  lc_index idx = {0};
  LC_TRY(lc_param_column(t->ctx, p, LC_RATE, LC_AXIS_ENTRY, 0, &rate));
  if (!v || v->M != w->M || v->N != w->N)
    return lc_fail(t->ctx, "'%s' is not in %s, or of another shape", w->name, self->from);
  for (int64_t k = 0; k < p->n; k++) rate[k] = 0; /* one that was found, after a phase */
  if (w->ndim == 1) {
    for (int64_t k = 0; k < p->n; k++) rate[k] = fabsf(v->vector[k] - w->vector[k]) > (float)self->tolerance;
  } else {
    LC_TRY(lc_select_changed(t->ctx, w, v, (float)self->tolerance, &idx));
    for (int64_t k = 0; k < idx.n; k++) rate[lc_index_at(&idx, k)] = 1;
    lc_index_free(t->ctx, &idx);
  }
  for (int64_t k = 0; k < p->n; k++) self->trained += rate[k] != 0;
  self->entries += p->n;
  return LC_OK;
}

static lc_status attach_dense(subnetwork *self, lc_training *t, const lc_net *run) {
  LC_TRY(lc_net_train_whole(t->net, NULL, NULL));
  for (int i = 0; i < t->net->n_own; i++) LC_TRY(mask_whole(self, t, t->net->own[i], run));
  return LC_OK;
}

/* b∘g before the norm is taken. */
static lc_status after_backward(void *selfp, lc_training *t) {
  const subnetwork *self = selfp;
  if (self->storage == SPARSE || self->clip_norm == FULL) return LC_OK;
  for (int i = 0; i < t->n_param; i++) {
    const float *rate = lc_param_find(t->param[i], LC_RATE);
    for (int64_t k = 0; k < t->param[i]->n; k++) t->param[i]->grad[k] *= rate[k];
  }
  return LC_OK;
}

/* ---- hooks ---- */

static lc_status attach(void *selfp, lc_training *t) {
  subnetwork *self = selfp;
  lc_result run;
  self->trained = self->entries = 0;
  if (!self->from || !*self->from)
    return lc_usage(t->ctx, "rl-subnetworks: --set from=PATH names the earlier run's result");
  if (self->storage == SPARSE && self->clip_norm == FULL)
    return lc_usage(t->ctx,
                    "clip-norm=full needs storage=dense: sampled gradients have no norm of the whole");
  LC_TRY(lc_result_open(t->net->model, self->from, 1, &run));
  lc_status st = self->storage == DENSE ? attach_dense(self, t, run.net) : attach_sparse(self, t, run.net);
  lc_result_close(&run);
  return st;
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const subnetwork *self = selfp;
  static const lc_dtype named[] = {LC_NONE, LC_F32, LC_BF16, LC_F16};
  if (self->storage == SPARSE) return lc_attach_save(t, LC_LAYOUT_NATIVE, "changed", dir);
  return lc_net_write_hf(t->net, dir, self->outtype ? named[self->outtype] : lc_net_file_type(t->net), NULL);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const subnetwork *self = selfp;
  json_object_set_new(to, "from", json_string(self->from));
  json_object_set_new(to, "tolerance", json_real(self->tolerance));
  json_object_set_new(to, "trained", json_integer(self->trained));
  json_object_set_new(to, "density", json_real((double)self->trained / (double)self->entries));
  return LC_OK;
}

const lc_method lc_method_rl_subnetworks = {
    .name = "rl-subnetworks",
    .title = "RL subnetworks: train only the weights that an earlier run changed",
    .source = "arXiv 2505.11711",
    .about = "Takes the entries that the result of an earlier run (from) changed by more than the tolerance, "
             "goes back to the start and "
             "trains those only. With the same data, seed, rate and objective this is the paper's test "
             "whether a run's changed "
             "weights are the run. storage=sparse keeps 16 bytes an entry and trains the targets; "
             "storage=dense is the paper's "
             "way, all weights with a masked gradient. The paper counts differences of bf16 files and calls "
             "those of at most 1e-5 "
             "equal; here the mask is taken of the files' values with a tolerance of 0 unless told, and "
             "--clip looks at the norm "
             "of the masked gradient.",
    .options = options,
    .self_size = sizeof(subnetwork),
    .lr = 2e-5,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .after_backward = after_backward,
    .save = save,
    .report = report,
};
