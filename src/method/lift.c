/* lift: train the entries that stand out once a matrix is reduced to low rank, chosen anew every so many updates.
 *
 * Source: Liu, Pang, Balabanov, Yang, Huang, Yin, Yang & Liu, "LIFT the Veil for the Truth: Principal Weights Emerge
 * after Rank Reduction for Reasoning-Focused Supervised Fine-Tuning", ICML 2025, arXiv 2506.00772. c = updates finished.
 *
 *   budget    K of a target's M×N entries: --density, or min(r·(M+N), M·N) (the authors')
 *   mask      W' = U_R·diag(S_R)·V_Rᵀ of W = base + change, R = filter;  the K largest |W'|, ties to the lower position;
 *             shape=blocks: the K/16 blocks of 4×4 with the largest Σ|W'|
 *   update    entries in the mask, by AdamW with ε outside the bias correction (β .9 .95, ε 1e-6)
 *   refresh   before an update with c mod T = 0: the mask of W as it is now; m and v stay with entries that stay, are 0
 *             for those that enter (with the step count that all have); what leaves keeps its change and is not trained
 *   result    the change on the union of all masks
 *
 * Memory that survives an update: 16 B an entry of the mask (position 4, δ 4, m and v 8), 8 B one that has left; with
 * weight decay 4 B more (it pulls the weight to 0). A refresh needs the factors, (M+N)·3R f32 a worker; W' is made in
 * strips of 64 rows. Cost of one: 2·M·N·2R·(2+2·power) a target by the randomised decomposition. */
#include <jansson.h>
#include "method/methods.h"
#include "train/attach.h"

typedef struct {
  int64_t r, filter, interval, power;
  int svd, shape, budget, layout;
  lc_index *mask; /* while masks are chosen: one a target */
  int n;
  int64_t entries, total;
  int64_t count[2]; /* refreshes, entries that entered; in the checkpoint */
} lift;
enum { SVD_RANDOMISED, SVD_EXACT };
enum { BUDGET_LACUNA, BUDGET_AUTHORS };
enum { LAYOUT_NATIVE, LAYOUT_PEFT, LAYOUT_PADDED };

static const lc_option options[] = {
    {"r", LC_OPT_INT, offsetof(lift, r), "0", 0, 1 << 20, NULL, "N",
     "budget r·(in+out) a target, at most all, instead of --density; 0: density"},
    {"budget", LC_OPT_CHOICE, offsetof(lift, budget), "lacuna", 0, 0, "lacuna|authors", NULL,
     "authors: r is 128 unless given"},
    {"filter", LC_OPT_INT, offsetof(lift, filter), "128", 1, 1 << 20, NULL, "R",
     "rank that W is reduced to; from min(in, out) on the mask is the largest |W|"},
    {"interval", LC_OPT_INT, offsetof(lift, interval), "200", 0, 1 << 30, NULL, "T",
     "updates between two choices of the mask; 0: chosen once"},
    {"svd", LC_OPT_CHOICE, offsetof(lift, svd), "randomised", 0, 0, "randomised|exact", NULL,
     "how W is decomposed: from 2R random columns, or as a whole"},
    {"power", LC_OPT_INT, offsetof(lift, power), "16", 0, 64, NULL, "N",
     "power iterations of the randomised one"},
    {"shape", LC_OPT_CHOICE, offsetof(lift, shape), "entries", 0, 0, "entries|blocks", NULL,
     "single entries, or whole blocks of 4×4"},
    {"layout", LC_OPT_CHOICE, offsetof(lift, layout), "native", 0, 0, "native|peft|padded", NULL,
     "files: lacuna's own; PEFT's SHiRA where exactly r·(in+out) entries changed; or padded to the least "
     "such r"},
    {0},
};

static lc_status defaults(void *selfp, lc_ctx *ctx, lc_train_opts *o) {
  if (o->beta2 == 0) o->beta2 = 0.95;
  if (o->eps == 0) o->eps = 1e-6;
  return LC_OK;
}

static lc_status budget(lift *self, lc_training *t, lc_target_set *set) {
  const int64_t r = self->r ? self->r : self->budget == BUDGET_AUTHORS ? 128 : 0;
  LC_TRY(lc_target_set_open(t, set));
  if (!r) return lc_target_set_density(t, set, t->opts.density, set->entries);
  for (int l = 0; l < set->n; l++)
    set->K[l] = lc_min64(r * (set->w[l]->M + set->w[l]->N), set->w[l]->M * set->w[l]->N);
  return LC_OK;
}

/* ---- the masks of all targets, a target a chunk ---- */

typedef struct {
  const lift *self;
  lc_training *t;
  lc_weight **w;
  const int64_t *K;
} choice;

static lc_status choose(void *arg, int64_t l, int worker) {
  const choice *a = arg;
  const lift *s = a->self;
  if (a->t->counting)
    return lc_index_first(a->t->ctx, a->w[l]->M, a->w[l]->N, s->shape == 1 ? a->K[l] / 16 * 16 : a->K[l],
                          &s->mask[l]);
  const lc_rank_opts o = {.rank = s->filter,
                          .exact = s->svd == SVD_EXACT,
                          .power = s->power,
                          .blocks = s->shape == 1,
                          .seed = (uint64_t)a->t->opts.seed};
  return lc_select_rank_reduced(a->t->ctx, a->w[l], &o, a->K[l], &s->mask[l]);
}

/* A fixed mask of r·(in+out) entries is PEFT's SHiRA as it is; a union of masks is so by padding only. */
static lc_status check_layout(const lift *self, lc_training *t) {
  if (self->layout == LAYOUT_NATIVE) return LC_OK;
  if (self->layout == LAYOUT_PEFT && (self->interval || (!self->r && self->budget == BUDGET_LACUNA)))
    return lc_usage(
        t->ctx, "layout=peft holds r·(in+out) entries a target, no more and no less: set r and interval=0, "
                "or allow padding with layout=padded");
  const char *why = lc_adapter_shira_refusal(t->adapter);
  return why ? lc_usage(t->ctx, "layout=peft: %s", why) : LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  lift *self = selfp;
  lc_target_set set = {0};
  lc_status st = LC_OK;
  t->hyper.eps_inside = true;
  LC_GO(budget(self, t, &set));
  if (!(self->mask = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *self->mask))) LC_GO(LC_FAILED);
  self->n = set.n;
  t->grows = self->interval > 0; /* by what leaves */
  choice c = {self, t, set.w, set.K};
  if (!t->resuming) LC_GO(lc_parallel(t->ctx, set.n, choose, &c));
  for (int l = 0; l < set.n; l++) {
    lc_delta *d;
    LC_GO(t->resuming ? lc_attach_stored(t, set.w[l], &d)
                      : lc_attach_sparse(t, set.w[l], &self->mask[l], &d));
    if (!d) LC_GO(lc_fail(t->ctx, "%s: the checkpoint has no mask of '%s'", t->out, set.w[l]->name));
    LC_GO(lc_attach_origin(t, d));
    self->total += d->param[0]->n;
  }
  self->entries = set.entries;
  LC_GO(check_layout(self, t));
done:
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* ---- refresh ---- */

static lc_status refresh(lift *self, lc_training *t) {
  lc_status st = LC_OK;
  const lc_adapter *a = t->adapter;
  lc_weight **w = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)a->n, sizeof *w);
  int64_t *K = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)a->n, sizeof *K), stayed;
  if (!w || !K) LC_GO(LC_FAILED);
  for (int l = 0; l < a->n; l++) {
    w[l] = a->delta[l]->w;
    K[l] = a->delta[l]->param[0]->n;
  }
  choice c = {self, t, w, K};
  LC_GO(lc_parallel(t->ctx, a->n, choose, &c));
  for (int l = 0; l < a->n; l++) {
    LC_GO(lc_param_move(t->ctx, a->delta[l]->param[0], &self->mask[l], &stayed));
    LC_GO(lc_attach_origin(t, a->delta[l]));
    self->count[1] += K[l] - stayed;
  }
  self->count[0]++;
done:
  lc_free(t->ctx, w);
  lc_free(t->ctx, K);
  return st;
}

static lc_status before_step(void *selfp, lc_training *t) {
  lift *self = selfp;
  if (!self->interval || t->step == 0 || t->step % self->interval) return LC_OK;
  lc_mem_keep(t->ctx, true); /* the room of one refresh is the next one's */
  lc_status st = refresh(self, t);
  lc_mem_keep(t->ctx, false);
  return st;
}

static lc_status visit(void *selfp, lc_visitor *v) {
  return v->array(v, "lift:count", LC_I64, 2, ((lift *)selfp)->count);
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const lift *self = selfp;
  return lc_attach_save(t, self->layout == LAYOUT_NATIVE ? LC_LAYOUT_NATIVE : LC_LAYOUT_PEFT_SHIRA, "lift",
                        dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const lift *self = selfp;
  int64_t changed = 0;
  double invisible;
  for (int l = 0; l < t->adapter->n; l++)
    changed += t->adapter->delta[l]->ops->nonzeros(t->adapter->delta[l]);
  LC_TRY(lc_attach_invisible(t, &invisible));
  json_object_set_new(to, "trainable", json_integer(self->total));
  json_object_set_new(to, "density", json_real((double)self->total / (double)self->entries));
  json_object_set_new(to, "union", json_integer(changed));
  json_object_set_new(to, "refreshes", json_integer(self->count[0]));
  json_object_set_new(to, "entered", json_integer(self->count[1]));
  json_object_set_new(to, "invisible", json_real(invisible));
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  lift *self = selfp;
  for (int l = 0; l < self->n; l++)
    if (self->mask[l].kind != LC_ALL) lc_index_free(ctx, &self->mask[l]);
  lc_free(ctx, self->mask);
}

const lc_method lc_method_lift = {
    .name = "lift",
    .title = "LIFT: train the entries that stand out after rank reduction",
    .source = "arXiv 2506.00772",
    .about = "Trains the K entries of each target that are largest once the matrix is cut to its R largest "
             "singular directions; the choice is made anew every T updates from the weights as they are. "
             "Entries that leave keep their change, so the adapter holds the union of all masks. Masks "
             "change when T, 2T, … updates are done (the authors' code: T−1, 2T−1, …). Randomised "
             "decomposition works here and is the default; the authors' is broken. Values are f32 where "
             "theirs are bf16. Weight decay pulls the weight to 0, not its change.",
    .options = options,
    .self_size = sizeof(lift),
    .lr = 1e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .defaults = defaults,
    .attach = attach,
    .before_step = before_step,
    .visit = visit,
    .save = save,
    .report = report,
    .release = release,
};
