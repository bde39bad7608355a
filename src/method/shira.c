/* shira: choose about 1 % of each target's entries once, and train only those.
 *
 * Source: Bhardwaj, Pandey, Priyadarshi, Ganapathy et al., "Sparse High Rank Adapters", NeurIPS 2024, arXiv
 * 2406.13175. File layout: Hugging Face PEFT ("SHIRA").
 *
 *   1. budget   K = floor(density·ΣMN · MN/ΣMN) a target (M,N), or K = r·(M+N) (PEFT's) when r is given
 *   2. mask     random: uniform;  wm: K largest |W|;  grad: K largest |G|;  snip: K largest |W·G|
 *               with G the signed gradient of the loss, summed over `examples` rows
 *               struct: every f-th row (or column) and the main diagonal
 *               nth = j takes ranks (j-1)K+1 … jK, so that several adapters do not overlap
 *   3. train    δ = 0;  y = x·(W + scatter(δ))ᵀ;  dδ_k = Σ_t dY[t,row_k]·X[t,col_k];  AdamW, no scale
 *   4. save     positions and δ: as PEFT reads it, padded to the least r with r(M+N) >= K everywhere;
 *               lacuna's own file where PEFT cannot
 *
 * Memory that survives a step: 16 B·K (position 4, δ 4, moments 8), and 4 B·K of gradient. Grad and SNIP
 * need, before step 1 only, dense f32 sums of the gradient: as many weights at a time as `calibration-bytes`
 * holds, the passes repeated for the rest. */
#include <jansson.h>
#include <string.h>
#include "method/methods.h"
#include "train/attach.h"

typedef struct {
  int mask, budget, axis;
  int64_t r, nth, examples, bytes;
  int64_t total, entries;
  int targets; /* for the report */
} shira;
enum { MASK_RANDOM, MASK_WM, MASK_GRAD, MASK_SNIP, MASK_STRUCT };
enum { BUDGET_LACUNA, BUDGET_AUTHORS };
static const char *const mask_names[] = {"random", "wm", "grad", "snip", "struct"};

static const lc_option options[] = {
    {"mask", LC_OPT_CHOICE, offsetof(shira, mask), "random", 0, 0, "random|wm|grad|snip|struct", NULL,
     "how the trained entries are chosen"},
    {"r", LC_OPT_INT, offsetof(shira, r), "0", 0, 1 << 20, NULL, "N",
     "PEFT's budget r·(in+out) a target instead of --density; 0: density"},
    {"budget", LC_OPT_CHOICE, offsetof(shira, budget), "lacuna", 0, 0, "lacuna|authors", NULL,
     "authors: r of PEFT, 32 unless r is given"},
    {"nth", LC_OPT_INT, offsetof(shira, nth), "1", 1, 65535, NULL, "J",
     "the J-th of several masks that do not overlap"},
    {"axis", LC_OPT_CHOICE, offsetof(shira, axis), "rows", 0, 0, "rows|columns", NULL,
     "what mask=struct takes every f-th of"},
    {"examples", LC_OPT_INT, offsetof(shira, examples), "64", 1, 1 << 30, NULL, "N",
     "rows that grad and snip sum the gradient over"},
    {"calibration-bytes", LC_OPT_INT, offsetof(shira, bytes), "1073741824", 1, 1e18, NULL, "B",
     "memory for those sums, before step 1"},
    {0},
};

static bool calibrated(const shira *s) {
  return s->mask == MASK_GRAD || s->mask == MASK_SNIP;
}

/* The positions of one target. Those of grad and snip are not known yet: a random mask of the same size keeps
 * their place. */
static lc_status choose(const shira *self, lc_training *t, const lc_weight *w, int64_t K, lc_index *out) {
  switch (self->mask) {
  case MASK_WM:
    return lc_select_scored(t->ctx, w, LC_SCORE_MAGNITUDE, NULL, K, self->nth, out);
  case MASK_STRUCT:
    return lc_select_struct(t->ctx, w, K, self->axis == 1, out);
  case MASK_RANDOM:
    return lc_select_random(t->ctx, w, (uint64_t)t->opts.seed, K, self->nth, out);
  default:
    return lc_select_random(t->ctx, w, (uint64_t)t->opts.seed, K, 1, out);
  }
}

static lc_status attach(void *selfp, lc_training *t) {
  shira *self = selfp;
  lc_status st = LC_OK;
  lc_target_set set = {0};
  lc_index idx = {0};
  if (self->mask == MASK_STRUCT && self->nth > 1)
    return lc_usage(t->ctx, "mask struct has one mask only: every one holds the main diagonal (nth is %lld)",
                    (long long)self->nth);
  int64_t r = self->r ? self->r : self->budget == BUDGET_AUTHORS ? 32 : 0;
  LC_GO(lc_target_set_open(t, &set));
  LC_GO(r ? lc_target_set_rank(t, &set, r) : lc_target_set_density(t, &set, t->opts.density, set.entries));
  self->total = 0;
  for (int l = 0; l < set.n; l++) {
    lc_delta *d;
    LC_GO(choose(self, t, set.w[l], set.K[l], &idx));
    self->total += idx.n;
    LC_GO(lc_attach_sparse(t, set.w[l], &idx, &d));
    idx = (lc_index){0};
  }
  self->targets = set.n;
  self->entries = set.entries;
done:
  lc_index_free(t->ctx, &idx);
  lc_target_set_free(t->ctx, &set);
  return st;
}

typedef struct {
  const shira *self;
  lc_training *t;
} calibration;

static lc_status from_gradient(void *arg, lc_weight *w, const float *dW) {
  const calibration *c = arg;
  lc_param *p = NULL;
  for (int i = 0; i < c->t->adapter->n; i++)
    if (c->t->adapter->delta[i]->w == w) p = c->t->adapter->delta[i]->param[0];
  lc_index idx = {0};
  LC_TRY(lc_select_scored(c->t->ctx, w, c->self->mask == MASK_SNIP ? LC_SCORE_SNIP : LC_SCORE_GRADIENT, dW,
                          p->n, c->self->nth, &idx));
  memcpy(p->idx.at, idx.at, (size_t)p->n * (p->idx.kind == LC_LIST32 ? sizeof(int32_t) : sizeof(int64_t)));
  lc_index_free(c->t->ctx, &idx);
  return LC_OK;
}

static lc_status calibrate(void *selfp, lc_training *t) {
  const shira *self = selfp;
  if (!calibrated(self) || t->resuming) return LC_OK; /* a checkpoint brings the positions */
  calibration c = {self, t};
  lc_weight **w = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)t->adapter->n, sizeof *w);
  if (!w) return LC_FAILED;
  for (int i = 0; i < t->adapter->n; i++) w[i] = t->adapter->delta[i]->w;
  lc_status st =
      lc_calibrate_gradients(t, w, t->adapter->n, self->examples, (size_t)self->bytes, from_gradient, &c);
  lc_free(t->ctx, w);
  return st;
}

/* PEFT's layout; where PEFT has none (Conv1D, or no r holds K), lacuna's own, and says so. */
static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const shira *self = selfp;
  const char *why = lc_adapter_shira_refusal(t->adapter);
  if (why) lc_log(t->ctx, LC_LOG_WARN, "the adapter is written in lacuna's own layout: %s", why);
  return lc_attach_save(t, why ? LC_LAYOUT_NATIVE : LC_LAYOUT_PEFT_SHIRA, mask_names[self->mask], dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const shira *self = selfp;
  double invisible;
  LC_TRY(lc_attach_invisible(t, &invisible));
  json_object_set_new(to, "invisible", json_real(invisible));
  json_object_set_new(to, "mask", json_string(mask_names[self->mask]));
  json_object_set_new(to, "targets", json_integer(self->targets));
  json_object_set_new(to, "trainable", json_integer(self->total));
  json_object_set_new(to, "density", json_real((double)self->total / (double)self->entries));
  json_object_set_new(to, "share_of_parameters",
                      json_real((double)self->total / (double)lc_model_parameters(t->net->model)));
  return LC_OK;
}

const lc_method lc_method_shira = {
    .name = "shira",
    .title = "SHiRA: a fixed sparse change of about 1 % of the entries",
    .source = "arXiv 2406.13175",
    .about = "Trains a fixed set of entries of each target. The set is random, or the largest by |W|, |G| or "
             "|W·G| (signed gradients summed over "
             "the calibration rows, then |·|), or rows and the diagonal. The random mask depends on seed and "
             "name, so that equal shapes get unequal "
             "masks (in PEFT they get equal ones). --density counts the targets' entries; r gives PEFT's "
             "budget r·(in+out). The saved adapter is "
             "PEFT's, padded with zero values to the least r that fits; GPT-2's is lacuna's own, for PEFT "
             "has no SHiRA for Conv1D.",
    .options = options,
    .self_size = sizeof(shira),
    .lr = 5e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .calibrate = calibrate,
    .save = save,
    .report = report,
};
