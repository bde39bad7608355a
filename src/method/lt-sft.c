/* lt-sft: train everything, see what moved most, put everything back, train only that.
 *
 * Source: Ansell, Ponti, Korhonen & Vulić, "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", ACL 2022, arXiv
 * 2110.07560. θ0 = the base; P = the targets; D = what `dense` names; K = floor(density·|P|/iterations).
 *
 *   for each iteration, from θ_start:
 *     1. first phase: fresh optimiser and schedule; all of P and D move (phase=lora: a low-rank change of P instead)
 *     2. choose K entries of P with the largest |θ − θ0| that are not chosen yet, over all targets together (scope=layer:
 *        a share of each), ties to the lower (target, position)
 *     3. rewind: everything, D too, is θ_start again
 *     4. second phase: fresh optimiser and schedule; of P only chosen entries move; D moves as a whole
 *   penalty    λ·Σ|θ − θ0| / N, N = all parameters of the model, over P and D (l1-scope=sparse: P)
 *   result     φ = θ − θ0 on the chosen entries where |φ| > threshold, and D's change on all entries: patches add up
 *   select=random: K entries at random, second phase only
 *
 * Memory: first phase 16 B a weight of P (master, gradient, two moments), freed before the second; then 16 B a chosen
 * entry (position, δ, two moments) and 4 B of gradient; D's entries as chosen ones. Time: --steps is the number of
 * updates of all phases; `first` is the share of the first ones. */
#include <jansson.h>
#include <math.h>
#include "method/methods.h"
#include "train/carry.h"
#include "train/regularise.h"

typedef struct {
  int select, scope, phase, l1_scope;
  double first, l1_first, l1_second, threshold;
  int64_t iterations, min_steps, max_steps, r;
  char *dense;
  /* state */
  lc_carried *part; /* the targets, then what is dense */
  int64_t *K;       /* entries an iteration chooses of a target */
  int n, n_all;
  int64_t total; /* Σ K */
  int number;    /* of the phase under way */
} lt_sft;
enum { SELECT_CHANGED, SELECT_RANDOM };
enum { SCOPE_GLOBAL, SCOPE_LAYER };
enum { PHASE_FULL, PHASE_LORA };

static const lc_option options[] = {
    {"select", LC_OPT_CHOICE, offsetof(lt_sft, select), "changed", 0, 0, "changed|random", NULL,
     "entries that moved most, or random ones (no first phase)"},
    {"scope", LC_OPT_CHOICE, offsetof(lt_sft, scope), "global", 0, 0, "global|layer", NULL,
     "chosen over all targets together, or the same share of each"},
    {"phase", LC_OPT_CHOICE, offsetof(lt_sft, phase), "full", 0, 0, "full|lora", NULL,
     "what the first phase trains: all targets, or a low-rank change of them (16 B a weight less)"},
    {"r", LC_OPT_INT, offsetof(lt_sft, r), "8", 1, 65536, NULL, "N", "phase=lora: its rank (and alpha)"},
    {"first", LC_OPT_FLOAT, offsetof(lt_sft, first), "0.5", 0, 1, NULL, "S",
     "share of the updates in first phases"},
    {"iterations", LC_OPT_INT, offsetof(lt_sft, iterations), "1", 1, LC_MAX_PHASES / 2, NULL, "N",
     "times that both phases are gone through, each for its part of the entries"},
    {"min-steps", LC_OPT_INT, offsetof(lt_sft, min_steps), "0", 0, 1e12, NULL, "N",
     "updates a phase has at least"},
    {"max-steps", LC_OPT_INT, offsetof(lt_sft, max_steps), "0", 0, 1e12, NULL, "N", "at most; 0: no limit"},
    {"l1-first", LC_OPT_FLOAT, offsetof(lt_sft, l1_first), "0", 0, 1e9, NULL, "L",
     "penalty λ in first phases"},
    {"l1-second", LC_OPT_FLOAT, offsetof(lt_sft, l1_second), "0", 0, 1e9, NULL, "L",
     "penalty λ in second phases"},
    {"l1-scope", LC_OPT_CHOICE, offsetof(lt_sft, l1_scope), "all", 0, 0, "all|sparse", NULL,
     "whether what is dense is held near the base too"},
    {"dense", LC_OPT_STRING, offsetof(lt_sft, dense), NULL, 0, 0, NULL, "RULE",
     "further matrices (as --targets names them) that are trained and saved as a whole, such as a head"},
    {"threshold", LC_OPT_FLOAT, offsetof(lt_sft, threshold), "1e-7", 0, 1, NULL, "T",
     "changes up to it are not saved"},
    {0},
};

static bool in_first(const void *self) {
  return ((const lt_sft *)self)->select == SELECT_CHANGED && ((const lt_sft *)self)->number % 2 == 0;
}

static lc_status phases(void *selfp, lc_training *t, int64_t steps, int64_t per_epoch, int64_t *length,
                        int *n) {
  const lt_sft *self = selfp;
  const bool one = self->select == SELECT_RANDOM;
  if (self->max_steps && self->min_steps > self->max_steps)
    return lc_usage(t->ctx, "lt-sft: min-steps is above max-steps");
  if (one && self->iterations > 1)
    return lc_usage(t->ctx, "lt-sft: select=random has nothing to repeat, iterations must be 1");
  *n = 0;
  for (int64_t i = 0; i < self->iterations; i++) {
    const int64_t both = steps * (i + 1) / self->iterations - steps * i / self->iterations;
    if (!one && both < 2)
      return lc_usage(t->ctx, "%lld updates are too few for %lld phases", (long long)steps,
                      2 * (long long)self->iterations);
    const int64_t head = lc_max64(1, lc_min64(both - 1, llround((double)both * self->first)));
    if (!one) length[(*n)++] = head;
    length[(*n)++] = one ? both : both - head;
  }
  for (int p = 0; p < *n; p++) {
    length[p] = lc_max64(length[p], self->min_steps);
    if (self->max_steps) length[p] = lc_min64(length[p], self->max_steps);
  }
  return LC_OK;
}

/* ---- what is trained ---- */

static lc_status open_dense(lt_sft *self, lc_training *t, const lc_target_set *set, lc_weight **w, int n) {
  for (int i = 0; i < n; i++) {
    for (int l = 0; l < set->n; l++)
      if (set->w[l] == w[i]) return lc_usage(t->ctx, "'%s' is a target and dense at once", w[i]->name);
    self->part[set->n + i].w = w[i];
    LC_TRY(lc_carry_all(t->ctx, &self->part[set->n + i]));
  }
  return LC_OK;
}

static lc_status open_parts(lt_sft *self, lc_training *t) {
  lc_target_set set = {0};
  lc_status st = LC_OK;
  lc_weight **dense = NULL;
  int n = 0;
  LC_GO(lc_target_set_open(t, &set));
  LC_GO(lc_target_set_density(t, &set, t->opts.density, set.entries));
  if (self->dense && *self->dense) LC_GO(lc_targets(t->net, self->dense, &dense, &n));
  self->part = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)(set.n + n), sizeof *self->part);
  self->K = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *self->K);
  if (!self->part || !self->K) LC_GO(LC_FAILED);
  int64_t all = set.total;
  if (self->scope == SCOPE_GLOBAL) all = (int64_t)floor(t->opts.density * (double)set.entries);
  for (int l = 0; l < set.n; l++) {
    self->part[l].w = set.w[l];
    self->total += self->K[l] = set.K[l] / self->iterations;
  }
  if (self->scope == SCOPE_GLOBAL) self->total = all / self->iterations;
  if (self->total * self->iterations < all && !t->resuming)
    lc_log(t->ctx, LC_LOG_WARN, "%lld entries do not divide by %lld iterations: %lld are chosen in all",
           (long long)all, (long long)self->iterations, (long long)(self->total * self->iterations));
  if (self->total < 1)
    LC_GO(lc_usage(t->ctx, "%lld entries are too few for %lld iterations", (long long)all,
                   (long long)self->iterations));
  self->n = set.n, self->n_all = set.n + n;
  LC_GO(open_dense(self, t, &set, dense, n));
done:
  lc_free(t->ctx, dense);
  lc_target_set_free(t->ctx, &set);
  return st;
}

static lc_status grow(lt_sft *self, lc_training *t) {
  const lc_growth g = {.total = self->scope == SCOPE_GLOBAL ? self->total : 0,
                       .each = self->K,
                       .random = self->select == SELECT_RANDOM,
                       .seed = (uint64_t)t->opts.seed};
  return lc_carry_grow(t->ctx, self->part, self->n, &g);
}

/* ---- phases ---- */

static bool is_target(const lc_weight *w, void *selfp) {
  const lt_sft *self = selfp;
  for (int l = 0; l < self->n; l++)
    if (self->part[l].w == w) return true;
  return false;
}

/* What is kept in part is θ_start's change, and stays: the rewind goes back to it. */
static lc_status attach_first(lt_sft *self, lc_training *t) {
  const lc_lora_opts o = {.rank = self->r, .alpha = (float)self->r, .seed = (uint64_t)t->opts.seed};
  lc_delta *d;
  if (self->phase == PHASE_LORA && self->l1_first > 0)
    return lc_usage(t->ctx, "phase=lora has no weights to hold near the base: l1-first must be 0");
  for (int l = self->n; l < self->n_all; l++) LC_TRY(lc_carry_attach(t, &self->part[l], true, true, &d));
  for (int l = 0; l < self->n && self->phase == PHASE_LORA; l++) {
    LC_TRY(lc_carry_attach(t, &self->part[l], false, true, &d));
    LC_TRY(lc_attach_lora(t, self->part[l].w, &o, NULL, &d));
  }
  if (self->phase == PHASE_LORA) return LC_OK;
  LC_TRY(lc_net_train_whole(t->net, is_target, self));
  for (int i = 0; i < t->net->n_own; i++)
    for (int l = 0; l < self->n; l++)
      if (t->net->own[i]->of == self->part[l].w) lc_carry_add(&self->part[l], t->net->own[i]);
  return LC_OK;
}

static lc_status attach_second(lt_sft *self, lc_training *t) {
  lc_delta *d;
  if (self->select == SELECT_RANDOM && !t->resuming) LC_TRY(grow(self, t));
  for (int l = 0; l < self->n_all; l++) {
    if (!t->resuming) LC_TRY(lc_carry_attach(t, &self->part[l], true, false, &d));
    if (!t->resuming) continue;
    lc_carry_clear(t->ctx, &self->part[l]);
    LC_TRY(lc_attach_stored(t, self->part[l].w, &d));
    if (d) LC_TRY(lc_attach_origin(t, d));
  }
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  lt_sft *self = selfp;
  if (!self->part) LC_TRY(open_parts(self, t));
  self->number = t->phase;
  if (!in_first(self)) return attach_second(self, t);
  for (int l = 0; l < self->n_all && t->resuming; l++) LC_TRY(lc_carry_restore(t, &self->part[l]));
  return attach_first(self, t);
}

static lc_status end_phase(void *selfp, lc_training *t) {
  lt_sft *self = selfp;
  if (in_first(self)) return grow(self, t);
  for (int i = 0; i < t->adapter->n; i++)
    for (int l = 0; l < self->n_all; l++)
      if (self->part[l].w == t->adapter->delta[i]->w)
        LC_TRY(lc_carry_take(t->ctx, &self->part[l], t->adapter->delta[i]));
  return LC_OK;
}

static lc_status after_backward(void *selfp, lc_training *t) {
  const lt_sft *self = selfp;
  const double lambda =
      (in_first(self) ? self->l1_first : self->l1_second) / (double)lc_model_parameters(t->net->model);
  for (int i = 0; i < t->n_param && lambda > 0; i++)
    if (self->l1_scope == 0 || is_target(t->param[i]->of, selfp))
      LC_TRY(lc_regularise_l1(t->ctx, t->param[i], lambda));
  return LC_OK;
}

static lc_status visit(void *selfp, lc_visitor *v) {
  const lt_sft *self = selfp;
  for (int l = 0; l < self->n_all && in_first(self) && self->number; l++)
    LC_TRY(lc_carry_visit(&self->part[l], v));
  return LC_OK;
}

static lc_status loaded(void *selfp, lc_training *t) {
  const lt_sft *self = selfp;
  for (int l = 0; l < self->n_all; l++) LC_TRY(lc_carry_check(t->ctx, &self->part[l]));
  return LC_OK;
}

/* ---- the result ---- */

static lc_status finish(void *selfp, lc_training *t) {
  if (in_first(selfp))
    lc_log(t->ctx, LC_LOG_WARN, "the run ends in phase %d of %d, which makes no adapter: go on with --resume",
           t->phase + 1, t->n_phases);
  return LC_OK;
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const lt_sft *self = selfp;
  lc_status st = LC_OK;
  int n = 0;
  if (in_first(self)) return LC_OK; /* its weights are thrown away */
  lc_delta **kept = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)t->adapter->n, sizeof *kept);
  if (!kept) return LC_FAILED;
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_delta *d = t->adapter->delta[i];
    LC_GO(lc_delta_sparse_beyond(t->ctx, d, is_target(d->w, selfp) ? self->threshold : -1, &kept[n]));
    n += kept[n] != NULL;
  }
  st = lc_attach_save_deltas(t, kept, n, LC_LAYOUT_NATIVE,
                             self->select == SELECT_RANDOM ? "random" : "changed", dir);
done:
  for (int i = 0; i < n; i++) kept[i]->ops->free(t->ctx, kept[i]);
  lc_free(t->ctx, kept);
  return st;
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const lt_sft *self = selfp;
  double invisible = 0;
  json_object_set_new(to, "chosen", json_integer(in_first(self) ? 0 : self->total * (t->phase / 2 + 1)));
  if (!in_first(self)) LC_TRY(lc_attach_invisible(t, &invisible));
  json_object_set_new(to, "invisible", json_real(invisible));
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  lt_sft *self = selfp;
  for (int l = 0; l < self->n_all; l++) lc_carry_clear(ctx, &self->part[l]);
  lc_free(ctx, self->part);
  lc_free(ctx, self->K);
}

const lc_method lc_method_lt_sft = {
    .name = "lt-sft",
    .title = "LT-SFT: train everything, keep what moved most, train that alone; patches add up",
    .source = "arXiv 2110.07560",
    .about = "First trains all targets, chooses the entries that moved most, puts everything back and "
             "trains those. The result is a sparse change; changes of several runs are added with -a A -a "
             "B. Exactly K entries are chosen, ties to the lower position (the authors' code takes all "
             "ties). What is not chosen does not move at all (theirs multiplies the gradient, so decay "
             "moves it). --steps counts the updates of both phases. iterations>1 compares with the base "
             "each time, and rewinds to the iteration's start. Vectors (norms, biases) are never patched.",
    .options = options,
    .self_size = sizeof(lt_sft),
    .lr = 5e-5,
    .optimizer = "adamw",
    .mergeable = true,
    .phases = phases,
    .end_phase = end_phase,
    .attach = attach,
    .after_backward = after_backward,
    .finish = finish,
    .visit = visit,
    .loaded = loaded,
    .save = save,
    .report = report,
    .release = release,
};
