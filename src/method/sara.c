/* sara: train the entries nearest to zero, which do least, and leave the rest alone.
 *
 * Source: Hu, Zhang, Yi, Huang, Wang & Ma, "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse
 * Low-Rank Adaptation", ICLR 2025, arXiv 2409.06633. w0 = the base, w = w0 + δ, T1 = progressive.
 *
 *   mask      M = {|w0| < θ} of all targets, strictly; or the --density share of smallest |w0| over all of them together
 *             (ties to the lower target and position; θ is then the least value above all of them)
 *   rate      1e-3·exp(−350·θ) unless given; by density 1e-3
 *   update    δ on M by AdamW; decay, if any, pulls w (not δ) to 0
 *   penalty   λ·‖W⊙M‖_* of the weights: every R updates one matrix with both sides > `side`, drawn at random, has
 *             λ·R·(U·Vᵀ)⊙M added to its gradient, W⊙M = U·Σ·Vᵀ
 *   narrow    after T1 updates: M ← {entries of M with |w| < θ}; the others stay as they are; moments and step count anew
 *   result    δ, what was frozen at T1 included
 *
 * Memory that survives an update: 16 B an entry (position, δ, two moments), 20 B with decay; 8 B one frozen at T1. A
 * penalty needs three M×N f32 of one matrix for its time, and one SVD (or some 20 products of its size, polar=iterated). */
#include <jansson.h>
#include <math.h>
#include "method/methods.h"
#include "train/regularise.h"

typedef struct {
  double threshold, lambda;
  int64_t progressive, every, side;
  int polar, layout;
  bool exact_base;
  float bound[1];      /* θ; in the checkpoint */
  int32_t narrowed[1]; /* whether it was; in the checkpoint */
  int64_t total, entries;
} sara;

static const lc_option options[] = {
    {"threshold", LC_OPT_FLOAT, offsetof(sara, threshold), "-1", -1, 1e30, NULL, "T",
     "entries with |w| below it are trained; -1: as many of the smallest as --density says"},
    {"progressive", LC_OPT_INT, offsetof(sara, progressive), "0", -1, 1e12, NULL, "N",
     "updates before training narrows to entries that are still below; 0: half of all; -1: never"},
    {"rank-penalty", LC_OPT_FLOAT, offsetof(sara, lambda), "0.005", 0, 1e6, NULL, "L",
     "strength of the nuclear norm of trained weights; 0: none"},
    {"every", LC_OPT_INT, offsetof(sara, every), "10", 1, 1 << 30, NULL, "R",
     "updates from one penalty to the next, each R times as strong"},
    {"side", LC_OPT_INT, offsetof(sara, side), "64", 0, 1 << 30, NULL, "N",
     "the penalty takes matrices with more rows and columns than this"},
    {"polar", LC_OPT_CHOICE, offsetof(sara, polar), "exact", 0, 0, "exact|iterated", NULL,
     "its gradient by a singular value decomposition, or by products (Newton and Schulz)"},
    {"exact-base", LC_OPT_BOOL, offsetof(sara, exact_base), "true", 0, 0, NULL, NULL,
     "the adapter is refused on any other base, a converted one too"},
    {"layout", LC_OPT_CHOICE, offsetof(sara, layout), "native", 0, 0, "native|peft", NULL,
     "the adapter's files: lacuna's compact ones, or PEFT's SHiRA, padded"},
    {0},
};

static lc_status defaults(void *selfp, lc_ctx *ctx, lc_train_opts *o) {
  const sara *self = selfp;
  const double rule = 1e-3 * exp(-350 * self->threshold);
  if (self->threshold == 0) return lc_usage(ctx, "sara: no entry is below a threshold of 0");
  if (self->threshold < 0 && self->threshold != -1)
    return lc_usage(ctx, "sara: threshold %g: sizes are not negative; -1 chooses by --density",
                    self->threshold);
  if (o->lr != 0 || self->threshold < 0) return LC_OK;
  if (rule < 1e-12)
    return lc_usage(ctx, "sara: the rule 1e-3·exp(-350·threshold) gives no rate at %g: set --lr",
                    self->threshold);
  o->lr = rule;
  return LC_OK;
}

/* ---- the mask ---- */

/* The current weights at a trainable's positions. */
static lc_status weights(lc_ctx *ctx, const lc_param *p, float *out) {
  LC_TRY(lc_attach_base_values(ctx, p->of, &p->idx, out));
  for (int64_t k = 0; k < p->n; k++) out[k] += p->value[k];
  return LC_OK;
}

static lc_status choose(sara *self, lc_training *t, const lc_target_set *set, lc_index *mask) {
  const lc_scores s = {.w = set->w, .n = set->n, .smallest = true};
  float most = 0;
  lc_status st = LC_OK;
  self->bound[0] = (float)self->threshold;
  if (self->threshold > 0) return lc_select_beyond(t->ctx, &s, self->bound[0], mask);
  if (!(t->opts.density > 0 && t->opts.density <= 1))
    return lc_usage(t->ctx, "density %g is not in (0, 1]", t->opts.density);
  LC_TRY(lc_select_global(t->ctx, &s, (int64_t)floor(t->opts.density * (double)set->entries), mask));
  for (int l = 0; l < set->n && !st; l++) {
    float *w = lc_alloc_n(t->ctx, LC_MEM_SCRATCH, (size_t)mask[l].n, sizeof *w);
    st = w ? lc_attach_base_values(t->ctx, set->w[l], &mask[l], w) : LC_FAILED;
    for (int64_t k = 0; k < mask[l].n && !st; k++) most = fmaxf(most, fabsf(w[k]));
    lc_free(t->ctx, w);
  }
  self->bound[0] = nextafterf(most, INFINITY);
  return st;
}

static lc_status attach(void *selfp, lc_training *t) {
  sara *self = selfp;
  lc_target_set set = {0};
  lc_status st = LC_OK;
  lc_index *mask = NULL;
  lc_delta *d;
  LC_GO(lc_target_set_open(t, &set));
  if (!(mask = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *mask))) LC_GO(LC_FAILED);
  if (!t->resuming) LC_GO(choose(self, t, &set, mask));
  for (int l = 0; l < set.n; l++) {
    if (!t->resuming && !mask[l].n) continue; /* nothing of it is small */
    LC_GO(t->resuming ? lc_attach_stored(t, set.w[l], &d) : lc_attach_sparse(t, set.w[l], &mask[l], &d));
    if (!d) continue;
    LC_GO(lc_attach_origin(t, d));
    self->total += d->param[0]->n;
  }
  self->entries = set.entries;
  if (!t->adapter) LC_GO(lc_fail(t->ctx, "sara: no entry of the targets is below %g", self->threshold));
  t->adapter->exact_base = self->exact_base;
  const char *why = self->layout ? lc_adapter_shira_refusal(t->adapter) : NULL;
  if (why) LC_GO(lc_usage(t->ctx, "layout=peft: %s", why));
done:
  for (int l = 0; mask && l < set.n; l++)
    if (mask[l].kind != LC_ALL) lc_index_free(t->ctx, &mask[l]);
  lc_free(t->ctx, mask);
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* ---- narrowing ---- */

/* The entries of p that are below the bound; flat and w have room for all. */
static lc_status below(const sara *self, lc_ctx *ctx, const lc_param *p, int64_t *flat, float *w,
                       int64_t *n) {
  *n = 0;
  LC_TRY(weights(ctx, p, w));
  for (int64_t k = 0; k < p->n; k++)
    if (fabsf(w[k]) < self->bound[0]) flat[(*n)++] = lc_index_at(&p->idx, k);
  return LC_OK;
}

/* Counts what is still below in all trainables; with `move`, they keep only that. */
static lc_status sweep(const sara *self, lc_training *t, bool move, int64_t *left) {
  lc_status st = LC_OK;
  *left = 0;
  for (int i = 0; i < t->adapter->n && !st; i++) {
    lc_delta *d = t->adapter->delta[i];
    lc_param *p = d->param[0];
    lc_index to = {.kind = p->idx.kind};
    int64_t n = 0, *flat = lc_alloc_n(t->ctx, LC_MEM_SCRATCH, (size_t)p->n, sizeof *flat);
    float *w = lc_alloc_n(t->ctx, LC_MEM_SCRATCH, (size_t)p->n, sizeof *w);
    st = flat && w ? below(self, t->ctx, p, flat, w, &n) : LC_FAILED;
    *left += n;
    if (!st && move && n) st = lc_index_new(t->ctx, p->rows, p->cols, flat, n, &to);
    if (!st && move) st = lc_param_move(t->ctx, p, &to, NULL);
    if (!st && move) lc_param_reset(p);
    if (!st && move) st = lc_attach_origin(t, d);
    lc_index_free(t->ctx, &to); /* when it did not move */
    lc_free(t->ctx, flat);
    lc_free(t->ctx, w);
  }
  return st;
}

static lc_status narrow(sara *self, lc_training *t) {
  int64_t left;
  LC_TRY(sweep(self, t, false, &left));
  if (!left) {
    lc_log(t->ctx, LC_LOG_WARN,
           "sara: after update %lld no trained entry is below %g any more: all are trained on",
           (long long)t->step, (double)self->bound[0]);
    return LC_OK;
  }
  LC_TRY(sweep(self, t, true, &left));
  t->optimizer_first = t->step;
  return LC_OK;
}

static lc_status before_step(void *selfp, lc_training *t) {
  sara *self = selfp;
  const int64_t at = self->progressive ? self->progressive : t->planned / 2;
  if (self->narrowed[0] || at < 1 || t->step != at) return LC_OK;
  lc_mem_keep(t->ctx, true);
  lc_status st = narrow(self, t);
  lc_mem_keep(t->ctx, false);
  self->narrowed[0] = 1;
  return st;
}

/* ---- the penalty ---- */

static lc_status after_backward(void *selfp, lc_training *t) {
  const sara *self = selfp;
  const lc_rng rng = {.seed = (uint64_t)t->opts.seed,
                      .step = (uint32_t)t->step,
                      .tensor = lc_fnv1a32("sara"),
                      .purpose = LC_RNG_NOISE};
  uint64_t n = 0;
  if (self->lambda == 0 || t->step % self->every) return LC_OK;
  for (int pass = 0; pass < 2; pass++) {
    const uint64_t drawn = pass && n ? lc_rng_below(&rng, 0, n) : 0;
    n = 0;
    for (int i = 0; i < t->adapter->n; i++) {
      lc_param *p = t->adapter->delta[i]->param[0];
      if (p->rows <= self->side || p->cols <= self->side || !p->n || n++ != drawn || !pass) continue;
      lc_mem_keep(t->ctx, true);
      lc_status st = lc_regularise_nuclear(t->ctx, p, self->lambda * (double)self->every, self->polar == 1);
      lc_mem_keep(t->ctx, false);
      return st;
    }
  }
  return LC_OK;
}

static lc_status visit(void *selfp, lc_visitor *v) {
  sara *self = selfp;
  LC_TRY(v->array(v, "sara:bound", LC_F32, 1, self->bound));
  return v->array(v, "sara:narrowed", LC_I32, 1, self->narrowed);
}

static lc_status loaded(void *selfp, lc_training *t) {
  const sara *self = selfp;
  if (self->bound[0] > 0 && (self->narrowed[0] == 0 || self->narrowed[0] == 1))
    return LC_OK; /* no NaN either */
  return lc_fail(t->ctx, "sara: the bound is %g, narrowed is %d", (double)self->bound[0],
                 (int)self->narrowed[0]);
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  return lc_attach_save(t, ((const sara *)selfp)->layout ? LC_LAYOUT_PEFT_SHIRA : LC_LAYOUT_NATIVE,
                        "smallest", dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const sara *self = selfp;
  int64_t left, trained = 0;
  double invisible;
  LC_TRY(sweep(self, t, false, &left));
  LC_TRY(lc_attach_invisible(t, &invisible));
  for (int i = 0; i < t->adapter->n; i++) trained += t->adapter->delta[i]->param[0]->n;
  json_object_set_new(to, "threshold", json_real((double)self->bound[0]));
  json_object_set_new(to, "mask", json_integer(self->total));
  json_object_set_new(to, "density", json_real((double)self->total / (double)self->entries));
  json_object_set_new(to, "trained_last", json_integer(trained));
  json_object_set_new(to, "below", json_real((double)left / (double)self->total));
  json_object_set_new(to, "invisible", json_real(invisible));
  return LC_OK;
}

const lc_method lc_method_sara = {
    .name = "sara",
    .title = "SaRA: train the entries nearest to zero, which do least",
    .source = "arXiv 2409.06633",
    .about = "Trains the entries with |w| below a threshold (or the smallest share, over all targets) and "
             "freezes the rest. A nuclear norm on the trained weights keeps them near low rank (the "
             "authors' default optimiser has no such effect: its gradient goes nowhere); half-way, "
             "training narrows to what is still below, with fresh moments. The first pass is the base's "
             "(theirs begins with absolute values). Positions are stored, with the base's fingerprint, not "
             "recomputed. Decay is off (theirs: --weight-decay 0.01) and pulls the weight, not its change. "
             "Biases and norms are not trained.",
    .options = options,
    .self_size = sizeof(sara),
    .lr = 1e-3,
    .optimizer = "adamw",
    .mergeable = true,
    .defaults = defaults,
    .attach = attach,
    .before_step = before_step,
    .after_backward = after_backward,
    .visit = visit,
    .loaded = loaded,
    .save = save,
    .report = report,
};
