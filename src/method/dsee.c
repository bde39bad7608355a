/* dsee: a low-rank change and a few single entries of query and value, trained; then the frozen base is pruned by what
 * the change has become, and the change is tuned again.
 *
 * Source: Chen, Chen, Chen, Awadallah, Wang & Cheng, "DSEE: Dually Sparsity-embedded Efficient Tuning of Pre-trained
 * Language Models", ACL 2023, arXiv 2111.00160.
 *
 *   y = (W ⊙ M)·x + s·(B·A + S_Ω)·x      A (r,N) ~ N(0, 0.02), B (M,r) = 0, S_Ω = 0, s = α/r; M = 1 at first
 *
 *   0. Ω        the `entries` largest of what low rank and small noise do not explain in W (GreBsmo), of |W|, or random
 *   1. tune     A, B, S_Ω, for a share `tune` of the updates
 *   2. prune    two pools, lowest scores first, so many entries of a pool: query and value (or `update`) by |T|, all other
 *               targets by |W|; T: W, s·BA, s·(BA + S), W + s·BA, W + s·(BA + S); nab, nabs: the largest go; random
 *      heads    of each layer the `heads` with the lowest Σ|T| over their rows: rows of q, k, v and of B and S, columns of o
 *   3. re-tune  A, B, S_Ω with a new optimiser and schedule; M stands, W never moves, the change is not masked
 *
 * Memory that survives an update: 12 B·r(M+N) and 16 B·entries a weight with a change, one bit an entry with a mask. Each
 * product makes masked tiles: 2 operations an entry and pass. Merging makes W dense again. */
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "method/methods.h"
#include "model/heads.h"
#include "model/units.h"
#include "train/attach.h"
#include "train/phase.h"

typedef struct {
  int64_t r, entries, heads, outer;
  double alpha, threshold, tune, ratio, update_ratio, retune_rate;
  int support, mode;
  bool parts;
  char *update;
  /* linear weights: first those with a change, then the other targets, then the rest (which may hold heads) */
  lc_weight **w;
  lc_index *omega;
  lc_mask *mask;  /* bits NULL: none */
  uint8_t **gone; /* with a change: rows of removed heads */
  int n, n_change, n_target;
  int64_t filled, values;
  lc_phase_values *carry;
  const lc_adapter *adapter; /* for visit */
} dsee;

#define AT(field) offsetof(dsee, field)
static const lc_option options[] = {
    {"r", LC_OPT_INT, AT(r), "16", 1, 65536, NULL, "N", "rank of the change"},
    {"alpha", LC_OPT_FLOAT, AT(alpha), "32", 0, 1e6, NULL, "A", "scale: low rank and entries count alpha/r"},
    {"entries", LC_OPT_INT, AT(entries), "16", 0, 1e12, NULL, "N",
     "single entries trained in each weight with a change"},
    {"support", LC_OPT_CHOICE, AT(support), "grebsmo", 0, 0, LC_SUPPORTS, NULL, "which entries"},
    {"outer", LC_OPT_INT, AT(outer), "100", 1, 100000, NULL, "N",
     "grebsmo: rounds; the rank grows by 5 in each"},
    {"threshold", LC_OPT_FLOAT, AT(threshold), "0.01", 0, 1e6, NULL, "X", "grebsmo: what counts as noise"},
    {"update", LC_OPT_STRING, AT(update), NULL, 0, 0, NULL, "RULE",
     "weights with a change, named as --targets does; without: query and value"},
    {"prune", LC_OPT_CHOICE, AT(mode), "abs", 0, 0, LC_PRUNE_MODES, NULL,
     "score of weights with a change, and of heads"},
    {"update-ratio", LC_OPT_FLOAT, AT(update_ratio), "0.2", 0, 1, NULL, "R",
     "share of their entries that goes"},
    {"ratio", LC_OPT_FLOAT, AT(ratio), "0.2", 0, 1, NULL, "R",
     "share of the other targets' entries that goes, by |W|"},
    {"heads", LC_OPT_INT, AT(heads), "0", 0, 65536, NULL, "N", "heads of each layer that go"},
    {"tune", LC_OPT_FLOAT, AT(tune), "0.5", 0, 1, NULL, "R", "share of the updates before pruning"},
    {"retune-rate", LC_OPT_FLOAT, AT(retune_rate), "1", 0, 1e6, NULL, "X",
     "the rate after pruning, as a multiple"},
    {"parts", LC_OPT_BOOL, AT(parts), "false", 0, 0, NULL, NULL,
     "write the low rank as PEFT's LoRA and the entries by themselves too"},
    {0},
};

static lc_status phases(void *selfp, lc_training *t, int64_t steps, int64_t per_epoch, int64_t *length,
                        int *n) {
  const dsee *s = selfp;
  const int64_t tune = llround(s->tune * (double)steps);
  if (s->ratio == 0 && s->update_ratio == 0 && s->heads == 0) return LC_OK; /* nothing is pruned: one phase */
  if (tune < 1 || tune >= steps)
    return lc_usage(t->ctx, "dsee: %lld of %lld updates before pruning: both phases need one at least",
                    (long long)tune, (long long)steps);
  length[0] = tune;
  length[1] = steps - tune;
  *n = 2;
  return LC_OK;
}

/* ---- weights ---- */

static int place_of(const dsee *s, const lc_weight *w) {
  int i = 0;
  while (i < s->n && s->w[i] != w) i++;
  return i;
}

/* Brings a weight of [from, n) to place `from`. */
static int bring(dsee *s, const lc_weight *w, int from) {
  const int at = place_of(s, w);
  if (at < from || at == s->n) return from;
  lc_weight *was = s->w[from];
  s->w[from] = s->w[at];
  s->w[at] = was;
  return from + 1;
}

static lc_status bring_changed(dsee *s, lc_training *t) {
  lc_weight **w = NULL;
  int n = 0;
  if (s->update) LC_TRY(lc_targets(t->net, s->update, &w, &n));
  for (int k = 0; k < n; k++)
    if (place_of(s, w[k]) < s->n_target) s->n_change = bring(s, w[k], s->n_change);
  lc_free(t->ctx, w);
  for (int role = 0; role < 2 && !s->update; role++) {
    lc_units u;
    LC_TRY(lc_units_open(t->net, role ? LC_ROLE_V : LC_ROLE_Q, &u));
    for (int l = 0; l < u.n; l++)
      if (place_of(s, u.row[l].w) < s->n_target) s->n_change = bring(s, u.row[l].w, s->n_change);
    lc_units_free(t->ctx, &u);
  }
  if (s->n_change) return LC_OK;
  return lc_usage(t->ctx,
                  "dsee: no weight has a change: the targets name neither query nor value (see update)");
}

static lc_status find_weights(dsee *s, lc_training *t) {
  const size_t all = (size_t)t->net->weights.n;
  lc_target_set set;
  s->w = lc_alloc_n(t->ctx, LC_MEM_OTHER, all, sizeof *s->w);
  s->omega = lc_alloc_n(t->ctx, LC_MEM_OTHER, all, sizeof *s->omega);
  s->mask = lc_alloc_n(t->ctx, LC_MEM_OTHER, all, sizeof *s->mask);
  s->gone = lc_alloc_n(t->ctx, LC_MEM_OTHER, all, sizeof *s->gone);
  if (!s->w || !s->omega || !s->mask || !s->gone) return LC_FAILED;
  for (int i = 0; i < t->net->weights.n; i++)
    if (t->net->weights.w[i].kind == LC_KIND_LINEAR) s->w[s->n++] = &t->net->weights.w[i];
  LC_TRY(lc_target_set_open(t, &set));
  for (int k = 0; k < set.n; k++) s->n_target = bring(s, set.w[k], s->n_target);
  lc_target_set_free(t->ctx, &set);
  return bring_changed(s, t);
}

/* ---- attach: a mask, the low rank, the entries ---- */

/* After pruning: rates, and what belongs to removed heads is 0 and stands still. */
static lc_status hold(const dsee *s, lc_training *t, const uint8_t *gone, lc_param *p, lc_axis axis) {
  float *rate;
  p->lr_factor = t->phase ? (float)s->retune_rate : 1;
  if (!t->phase || !s->heads || axis == LC_AXIS_COL) return LC_OK;
  LC_TRY(lc_param_column(t->ctx, p, LC_RATE, axis, 1, &rate));
  for (int64_t k = 0; k < p->n && gone; k++) {
    const int64_t row = lc_index_at(&p->idx, k) / p->cols;
    if (!gone[row]) continue;
    p->value[k] = 0;
    rate[axis == LC_AXIS_ROW ? row : k] = 0;
  }
  return LC_OK;
}

static lc_status attach_change(dsee *s, lc_training *t, int i) {
  const lc_lora_opts o = {s->r, (float)s->alpha, false, 0, (uint64_t)t->opts.seed};
  const lc_rng rng = {.seed = o.seed, .tensor = s->w[i]->id, .purpose = LC_RNG_INIT};
  lc_delta *d, *e = NULL;
  lc_index own;
  LC_TRY(lc_attach_lora(t, s->w[i], &o, NULL, &d));
  lc_rng_normal_fill(&rng, 0, d->param[0]->n, d->param[0]->value);
  for (int64_t k = 0; k < d->param[0]->n; k++) d->param[0]->value[k] *= 0.02f;
  s->values += d->param[0]->n + d->param[1]->n + s->entries;
  if (s->entries == 0) return LC_OK;
  if (t->resuming) {
    LC_TRY(lc_attach_stored(t, s->w[i], &e));
    if (!e) return lc_fail(t->ctx, "dsee: the checkpoint has no entries of '%s'", s->w[i]->name);
  } else {
    LC_TRY(lc_index_dup(t->ctx, s->carry ? lc_phase_index(s->carry, s->w[i], &lc_delta_sparse) : &s->omega[i],
                        &own));
    const lc_status st = lc_attach_sparse(t, s->w[i], &own, &e);
    lc_index_free(t->ctx, &own); /* when it was not taken over */
    LC_TRY(st);
  }
  lc_delta_sparse_set_factor(e, s->alpha / (double)s->r);
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  static const lc_axis axes[] = {LC_AXIS_COL, LC_AXIS_ROW}; /* of A and B */
  dsee *s = selfp;
  const lc_grebsmo_opts o = {s->outer,     2, 5,
                             s->threshold, 0, {.seed = (uint64_t)t->opts.seed, .purpose = LC_RNG_MASK}};
  if (!s->w) LC_TRY(find_weights(s, t));
  for (int i = 0; i < s->n_change && t->counting && t->phase == 0 && s->entries > 0; i++)
    LC_TRY(lc_index_first(t->ctx, s->w[i]->M, s->w[i]->N, s->entries, &s->omega[i]));
  if (t->phase == 0 && !t->resuming && !t->counting && s->entries > 0)
    LC_TRY(lc_select_support(t->ctx, s->w, s->n_change, (lc_support)s->support, &o, s->entries, &s->filled,
                             s->omega));
  s->values = 0;
  for (int i = 0; i < s->n; i++) {
    const bool by_pool = i < s->n_target && (i < s->n_change ? s->update_ratio : s->ratio) > 0;
    s->mask[i].structure = by_pool ? LC_MASK_ENTRIES : LC_MASK_LINES;
    s->mask[i].group = by_pool ? LC_MASK_POOL : LC_MASK_LAYER;
    if (t->phase) LC_TRY(lc_attach_mask(t, s->w[i], &s->mask[i]));
    if (i < s->n_change) LC_TRY(attach_change(s, t, i));
  }
  if (s->carry) LC_TRY(lc_phase_put(s->carry, t));
  for (int k = 0; k < t->adapter->n; k++) {
    lc_delta *d = t->adapter->delta[k];
    const int i = place_of(s, d->w);
    for (int p = 0; i < s->n_change && p < d->n_param; p++)
      LC_TRY(hold(s, t, s->gone[i], d->param[p], d->ops == &lc_delta_lora ? axes[p] : LC_AXIS_ENTRY));
  }
  s->adapter = t->adapter;
  return s->heads ? lc_heads_check(t->net, s->heads, (lc_prune_mode)s->mode) : LC_OK;
}

/* ---- prune, between the phases ---- */

static void drop_lines(void *self, lc_weight *w, bool columns, int64_t first, int64_t n) {
  const dsee *s = self;
  const int i = place_of(s, w);
  lc_mask_drop_lines(&s->mask[i], columns, first, n);
  if (!columns && i < s->n_change) memset(s->gone[i] + first, 1, (size_t)n);
}

static lc_status end_phase(void *selfp, lc_training *t) {
  dsee *s = selfp;
  const int n = s->n_change, m = s->n_target - n;
  const uint64_t seed = (uint64_t)t->opts.seed;
  const lc_heads_rule rule = {s->heads, (lc_prune_mode)s->mode, seed, drop_lines, s};
  int64_t dropped;
  for (int i = 0; i < s->n; i++) LC_TRY(lc_mask_new(t->ctx, s->w[i]->M, s->w[i]->N, &s->mask[i]));
  for (int i = 0; i < n; i++)
    if (!(s->gone[i] = lc_alloc(t->ctx, LC_MEM_OTHER, (size_t)s->w[i]->M))) return LC_FAILED;
  LC_TRY(lc_prune_pool(t->ctx, s->w, n, (lc_prune_mode)s->mode, s->update_ratio, seed, s->mask, &dropped));
  LC_TRY(lc_prune_pool(t->ctx, s->w + n, m, LC_PRUNE_W, s->ratio, seed, s->mask + n, &dropped));
  if (s->heads) LC_TRY(lc_heads_remove(t->net, &rule));
  for (int i = 0; i < s->n; i++)
    if (s->mask[i].kept == s->w[i]->M * s->w[i]->N)
      lc_mask_free(t->ctx, &s->mask[i]); /* nothing of it went */
  return lc_phase_take(t, &s->carry);
}

static lc_status visit(void *selfp, lc_visitor *v) {
  const dsee *s = selfp;
  for (int i = 0; i < s->adapter->n; i++) LC_TRY(lc_delta_visit_arrays(s->adapter->delta[i], v));
  return LC_OK;
}

/* ---- the result ---- */

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  LC_TRY(lc_attach_save(t, LC_LAYOUT_MODULES, NULL, dir));
  return ((const dsee *)selfp)->parts ? lc_attach_save_parts(t, dir) : LC_OK;
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const dsee *s = selfp;
  int64_t of[2] = {0}, dropped[2] = {0};
  for (int i = 0; i < s->n; i++) {
    const lc_mask *m = lc_weight_mask(s->w[i]);
    of[i < s->n_change] += s->w[i]->M * s->w[i]->N;
    if (m) dropped[i < s->n_change] += m->M * m->N - m->kept;
  }
  json_object_set_new(to, "trainable", json_integer(s->values));
  json_object_set_new(to, "filled", json_integer(s->filled));
  json_object_set_new(to, "dropped",
                      json_pack("{s:[I,I], s:[I,I]}", "update", (json_int_t)dropped[1], (json_int_t)of[1],
                                "rest", (json_int_t)dropped[0], (json_int_t)of[0]));
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  dsee *s = selfp;
  for (int i = 0; i < s->n; i++) {
    lc_index_free(ctx, &s->omega[i]);
    lc_mask_free(ctx, &s->mask[i]);
    lc_free(ctx, s->gone[i]);
  }
  lc_free(ctx, s->w);
  lc_free(ctx, s->omega);
  lc_free(ctx, s->mask);
  lc_free(ctx, s->gone);
  lc_phase_free(ctx, s->carry);
}

const lc_method lc_method_dsee = {
    .name = "dsee",
    .title = "DSEE: low rank and a few entries over a base that is pruned by them",
    .source = "arXiv 2111.00160",
    .about = "Tunes a low-rank change and a few entries of query and value, prunes the frozen base by the "
             "size of the change "
             "(or of the weight), or whole heads, and tunes again. All score modes scale the update (the "
             "authors' wabs scales "
             "the entries alone). Exactly `entries` positions, ties to the lower one; grebsmo's rank stops "
             "at half the matrix. "
             "The file is masks, positions and values; merging makes the weights dense again.",
    .options = options,
    .self_size = sizeof(dsee),
    .lr = 5e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .phases = phases,
    .end_phase = end_phase,
    .attach = attach,
    .visit = visit,
    .save = save,
    .report = report,
    .release = release,
};
