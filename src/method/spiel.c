/* spiel: a fixed number of trained entries, which training moves to the weights that matter: update, drop, grow.
 *
 * Source: Ansell, Vulić, Sterz, Korhonen & Ponti, "Scaling Sparse Fine-Tuning to Large Language Models", arXiv
 * 2401.16405 (SpIEL-AG, SpIEL-MA). c = updates finished, T = all, S = period, A = accumulation.
 *
 *   init         K of each target's M×N entries at random; δ = 0
 *   update       AG: AdamW with an age an entry, ε outside the bias correction;  MA: SM3
 *   window (AG)  opens before the first update and when (c+1) mod S = 0
 *                C = the K largest |dW| of a weight in micro-batch 0 of the window's first update
 *                with g the gradient of an update at C:  G ← G + g,  Q ← Q + g²,  s ← s + 1
 *   reselect     when c mod S = A, with n = floor(K·p)
 *                O = the n entries of smallest |δ|
 *                I = AG: the n of largest |G| in C that are not active outside O
 *                    MA: the n inactive positions of largest r_i·q_j (SM3's row and column accumulators)
 *                what is in O and I stays as it is; the rest of I replaces the smallest of the rest of O:
 *                δ is forgotten, and enters as 0; AG: with the moments of s updates at the mean gradient,
 *                m ← (G/s)(1−β1^s),  v ← (Q/s)(1−β2^s),  age ← s
 *   p            linear: 1 the first time, then p0·(1−c/T);  cosine: p0·(1+cos(πc/T))/2
 *
 * Memory: AG 20 B an active entry (position, δ, m, v, age) and 12 B a candidate (position, G, Q), with 4 B of
 * gradient each; MA 8 B an entry and 4(M+N) a target. Nothing is allocated after attach. Departures from the
 * authors' code: about, below. */
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "method/methods.h"
#include "optim/regrow.h"
#include "train/attach.h"

typedef struct {
  int select, policy, budget, layout;
  int64_t period, accumulate;
  double p0;
  bool reference;
  /* state */
  lc_regrow **layer;
  int n;                      /* a target each: its trained entries, its candidates */
  lc_regrow_scratch *scratch; /* shared by them */
  lc_grad_topk *watch;
  int64_t window[2]; /* open; s = updates (reference: micro-batches) accumulated */
  bool fresh;        /* this update's first micro-batch chooses the candidates */
  int64_t total, entries, swapped, reselections;
} spiel;
enum { SELECT_AG, SELECT_MA };
enum { POLICY_LINEAR, POLICY_COSINE };
enum { BUDGET_LACUNA, BUDGET_AUTHORS };

static const lc_option options[] = {
    {"select", LC_OPT_CHOICE, offsetof(spiel, select), "ag", 0, 0, "ag|ma", NULL,
     "growth by accumulated gradients, or by SM3's momenta"},
    {"period", LC_OPT_INT, offsetof(spiel, period), "20", 2, 1 << 30, NULL, "S",
     "updates from one reselection to the next"},
    {"accumulate", LC_OPT_INT, offsetof(spiel, accumulate), "5", 1, 1 << 30, NULL, "A",
     "updates before a reselection (ag: gradients summed)"},
    {"p0", LC_OPT_FLOAT, offsetof(spiel, p0), "0.2", 0, 1, NULL, "P",
     "share of the entries replaced, at first"},
    {"policy", LC_OPT_CHOICE, offsetof(spiel, policy), "linear", 0, 0, "linear|cosine", NULL,
     "how that share falls; linear begins with all entries"},
    {"budget", LC_OPT_CHOICE, offsetof(spiel, budget), "lacuna", 0, 0, "lacuna|authors", NULL,
     "what --density counts: the targets' entries, or all parameters of the model"},
    {"layout", LC_OPT_CHOICE, offsetof(spiel, layout), "native", 0, 0, "native|peft", NULL,
     "the adapter's files: lacuna's compact ones, or PEFT's SHiRA, padded"},
    {"reference", LC_OPT_BOOL, offsetof(spiel, reference), "false", 0, 0, NULL, NULL,
     "the authors' rule for seeds: per micro-batch, age one short"},
    {0},
};

static lc_status check(const spiel *self, lc_training *t) {
  if (self->accumulate >= self->period)
    return lc_usage(t->ctx, "accumulate is %lld and period %lld: nothing would ever be reselected",
                    (long long)self->accumulate, (long long)self->period);
  if (self->select == SELECT_AG && strcmp(t->optim->name, "adamw"))
    return lc_usage(t->ctx, "select=ag works with adamw, not %s", t->optim->name);
  if (self->select == SELECT_MA && strcmp(t->optim->name, "adamw") &&
      strcmp(t->optim->name, "sm3")) /* adamw: the row's default */
    return lc_usage(t->ctx, "select=ma works with sm3, not %s", t->optim->name);
  if (self->select == SELECT_MA && self->reference)
    return lc_usage(t->ctx, "reference concerns select=ag only: select=ma has no seeds");
  return LC_OK;
}

static lc_status candidates(void *selfp, int l, const lc_pick *pick, int64_t n) {
  return lc_regrow_candidates(((spiel *)selfp)->layer[l], pick, n);
}

static lc_status attach(void *selfp, lc_training *t) {
  spiel *self = selfp;
  lc_status st = LC_OK;
  lc_target_set set = {0};
  lc_index idx = {0};
  const bool ag = self->select == SELECT_AG;
  LC_GO(check(self, t));
  if (!ag) t->optim = lc_optim_find("sm3");
  if (!(t->opts.eps > 0)) t->hyper.eps = ag ? 1e-6 : 1e-8;
  t->hyper.eps_inside = ag;
  LC_GO(lc_target_set_open(t, &set));
  LC_GO(lc_target_set_density(t, &set, t->opts.density,
                              self->budget == BUDGET_AUTHORS ? lc_model_parameters(t->net->model)
                                                             : set.entries));
  if (!(self->layer = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *self->layer))) LC_GO(LC_FAILED);
  self->n = set.n;
  for (int l = 0; l < set.n; l++) {
    lc_delta *d;
    LC_GO(lc_select_random(t->ctx, set.w[l], (uint64_t)t->opts.seed, set.K[l], 1, &idx));
    LC_GO(lc_attach_sparse(t, set.w[l], &idx, &d));
    idx = (lc_index){0};
    if (ag)
      LC_GO(
          lc_param_column(t->ctx, d->param[0], "age", LC_AXIS_ENTRY, 0, NULL)); /* updates an entry has had */
    LC_GO(lc_regrow_new(t->ctx, d->param[0], ag, &self->layer[l]));
  }
  LC_GO(lc_regrow_scratch_new(t->ctx, self->layer, self->n, &self->scratch));
  if (ag) LC_GO(lc_grad_topk_new(t->ctx, set.w, set.K, set.n, candidates, self, &self->watch));
  self->total = set.total;
  self->entries = set.entries;
  const char *why =
      self->layout ? lc_adapter_shira_refusal(t->adapter) : NULL; /* now, not after the last update */
  if (why) LC_GO(lc_usage(t->ctx, "layout=peft: %s", why));
done:
  lc_index_free(t->ctx, &idx);
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* ---- the window ---- */

static lc_status before_step(void *selfp, lc_training *t) {
  spiel *self = selfp;
  const int64_t c = t->step - t->phase_first;
  self->fresh = self->select == SELECT_AG && (c == 0 || (c + 1) % self->period == 0);
  if (self->fresh) {
    self->window[0] = 1;
    self->window[1] = 0;
    LC_TRY(lc_grad_topk_watch(self->watch));
  }
  for (int l = 0; l < self->n; l++) lc_regrow_watch(self->layer[l], self->window[0] && !self->fresh);
  return LC_OK;
}

static void accumulate(spiel *self) {
  for (int l = 0; l < self->n; l++) lc_regrow_accumulate(self->layer[l]);
  self->window[1]++;
}

static lc_status after_micro(void *selfp, lc_training *t) {
  spiel *self = selfp;
  if (!self->window[0]) return LC_OK;
  if (self->fresh) {
    LC_TRY(lc_grad_topk_end(self->watch));
    for (int l = 0; l < self->n; l++) lc_regrow_watch(self->layer[l], true);
    self->fresh = false;
  }
  if (self->reference) accumulate(self);
  return LC_OK;
}

static lc_status after_backward(void *selfp, lc_training *t) {
  spiel *self = selfp;
  if (self->window[0] && !self->reference) accumulate(self);
  return LC_OK;
}

/* ---- reselection ---- */

static double share(const spiel *self, int64_t c, int64_t T) {
  if (self->policy == POLICY_COSINE) return self->p0 * (1 + cos(M_PI * (double)c / (double)T)) / 2;
  return c == self->accumulate ? 1 : self->p0 * (1 - (double)c / (double)T);
}

static lc_status after_step(void *selfp, lc_training *t) {
  spiel *self = selfp;
  const int64_t c = t->step + 1 - t->phase_first, T = t->phase_length[t->phase];
  /* After the last update a swap would only forget: entries that leave lose δ, those that enter never learn.
   * */
  if (c % self->period != self->accumulate || c >= T) return LC_OK;
  const double p = share(self, c, T);
  const double s = (double)self->window[1], a = self->reference ? s / (double)t->n_micro : s;
  const lc_regrow_seed seed = {t->hyper.beta1, t->hyper.beta2, s, a, self->reference ? a - 1 : a};
  for (int l = 0; l < self->n; l++) {
    int64_t swapped, n = (int64_t)floor((double)self->layer[l]->active->n * p);
    if (self->select == SELECT_AG)
      LC_TRY(lc_regrow_by_gradient(t->ctx, self->layer[l], self->scratch, n, &seed, &swapped));
    else
      LC_TRY(lc_regrow_by_outer(t->ctx, self->layer[l], self->scratch, n, &swapped));
    self->swapped += swapped;
  }
  self->reselections++;
  self->window[0] = 0;
  return LC_OK;
}

/* ---- the rest ---- */

static lc_status visit(void *selfp, lc_visitor *v) {
  spiel *self = selfp;
  for (int l = 0; l < self->n; l++) LC_TRY(lc_regrow_visit(self->layer[l], v));
  LC_TRY(v->array(v, "spiel:window", LC_I64, 2, self->window));
  LC_TRY(v->array(v, "spiel:swapped", LC_I64, 1, &self->swapped));
  return v->array(v, "spiel:reselections", LC_I64, 1, &self->reselections);
}

static lc_status loaded(void *selfp, lc_training *t) {
  const spiel *self = selfp;
  const int64_t open = self->window[0], s = self->window[1];
  if (open < 0 || open > (self->select == SELECT_AG) || s < open)
    return lc_fail(t->ctx, "spiel: the window of candidates is %lld, over %lld updates", (long long)open,
                   (long long)s);
  return LC_OK;
}

static lc_status save(void *self, lc_training *t, const char *dir) {
  return lc_attach_save(t, ((const spiel *)self)->layout ? LC_LAYOUT_PEFT_SHIRA : LC_LAYOUT_NATIVE, NULL,
                        dir);
}

/* Share of the final positions that were not among the first, which the seed gives again. */
static lc_status moved(const spiel *self, lc_training *t, double *out) {
  int64_t stayed = 0;
  for (int l = 0; l < self->n; l++) {
    const lc_param *p = self->layer[l]->active;
    lc_index first = {0};
    LC_TRY(lc_select_random(t->ctx, p->of, (uint64_t)t->opts.seed, p->n, 1, &first));
    for (int64_t k = 0; k < p->n; k++) stayed += lc_index_has(&first, lc_index_at(&p->idx, k));
    lc_index_free(t->ctx, &first);
  }
  *out = 1 - (double)stayed / (double)self->total;
  return LC_OK;
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const spiel *self = selfp;
  double share_moved, invisible;
  LC_TRY(moved(self, t, &share_moved));
  LC_TRY(lc_attach_invisible(t, &invisible));
  json_object_set_new(to, "invisible", json_real(invisible));
  json_object_set_new(to, "targets", json_integer(self->n));
  json_object_set_new(to, "trainable", json_integer(self->total));
  json_object_set_new(to, "density", json_real((double)self->total / (double)self->entries));
  json_object_set_new(to, "share_of_parameters",
                      json_real((double)self->total / (double)lc_model_parameters(t->net->model)));
  json_object_set_new(to, "reselections", json_integer(self->reselections));
  json_object_set_new(to, "swapped", json_integer(self->swapped));
  json_object_set_new(to, "share_moved", json_real(share_moved));
  return LC_OK;
}

/* The dense dW of the targets, in one micro-batch a period. */
static double step_cost(const void *selfp, const lc_training *t, double step, double targets) {
  const spiel *self = selfp;
  const double micro = (double)lc_ceil_div(t->opts.batch, t->opts.micro_batch);
  return self->select == SELECT_AG ? step + targets / 2 / ((double)self->period * micro) : step;
}

static void release(void *selfp, lc_ctx *ctx) {
  spiel *self = selfp;
  lc_grad_topk_free(self->watch);
  lc_regrow_scratch_free(ctx, self->scratch);
  for (int l = 0; l < self->n; l++) lc_regrow_free(ctx, self->layer[l]);
  lc_free(ctx, self->layer);
  self->n = 0;
  self->layer = NULL;
  self->scratch = NULL;
  self->watch = NULL;
}

const lc_method lc_method_spiel = {
    .name = "spiel",
    .title = "SpIEL: a sparse change whose entries move during training",
    .source = "arXiv 2401.16405",
    .about = "Trains a fixed number of entries and now and then replaces those that moved least by others: "
             "of largest accumulated gradient (ag), or "
             "of largest SM3 estimate (ma). Departures from the authors' code: gradients that seed a new "
             "entry are those of whole updates (theirs "
             "count micro-batches, so the seeds are too small by their number), and a new entry's first bias "
             "correction counts that step (theirs is "
             "one short); reference=true gives their rule. --density counts the targets' entries; "
             "budget=authors counts all parameters. "
             "Nothing is replaced after the last update.",
    .options = options,
    .self_size = sizeof(spiel),
    .lr = 5e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .before_step = before_step,
    .after_micro = after_micro,
    .after_backward = after_backward,
    .after_step = after_step,
    .visit = visit,
    .loaded = loaded,
    .save = save,
    .step_cost = step_cost,
    .report = report,
    .release = release,
};
