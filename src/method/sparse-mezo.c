/* sparse-mezo, mezo: fine-tuning with forward passes only, in the memory of inference.
 *
 * Source: Liu, Zhu, Gong, Cheng, Hsieh & You, "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning", NeurIPS
 * 2025, arXiv 2402.15751; Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (MeZO), 2023, arXiv 2305.17333. The noise, the
 * perturbed view and the log of steps: nn/noise.h.
 *
 *   start     h = the k-th smallest |θ₀| of each tensor, k = round((1 − s)·n); fixed for the run
 *   step t    m = |θ| ≤ h (small); ≥ (large, a control); by lot, fixed (random); all of it (mezo)
 *             for a = 1 … directions, z_a = normal(seed, t, tensor, a):
 *               ℓ± = L(θ ± ε·m⊙z_a) of the same rows;  g_a = (ℓ₊ − ℓ₋)/(2ε)
 *             θ ← θ − m⊙(η/directions · Σ_a g_a·z_a + η·decay·θ)
 *             log: (t, g_a, η/directions, checksum), 16 bytes a direction
 *   result    the log: θ₀ and it give θ bit for bit (an adapter of layout `log`; `lacuna merge` replays it)
 *
 * L is the mean next-token loss of the update's rows, or what has no gradient: the share of missed tokens, or of rows with a miss (the answer that
 * greedy decoding gives is wrong). Micro-batches see the same z; their losses add in order.
 *
 * Memory beyond inference's: f32 copies of the moved tensors stand in their files' place (whose pages are given back: nothing beyond inference
 * in f32), a tile a worker, 16 B a record. Cost: 2·directions forward passes, and 3·directions normals a moved entry. */
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "method/methods.h"
#include "nn/noise.h"
#include "train/attach.h"

typedef struct {
  double zo_eps, sparsity;
  int mask, objective;
  int64_t directions;
  lc_training *t;
  lc_noise_log *log;
  int64_t count[2]; /* records, steps skipped; in the checkpoint */
  int64_t moved;    /* records that the copies have had */
  int64_t first, entries;
  double *slope; /* of the directions of a step */
} zo;
enum { RECORDS, SKIPPED };
enum { LOSS, TOKENS, EXACT };

#define COMMON_ROWS                                                                                          \
  {"zo-eps",                                                                                                 \
   LC_OPT_FLOAT,                                                                                             \
   offsetof(zo, zo_eps),                                                                                     \
   "1e-3",                                                                                                   \
   0,                                                                                                        \
   1e3,                                                                                                      \
   NULL,                                                                                                     \
   "E",                                                                                                      \
   "length of a step to either side; above 0"},                                                              \
      {"directions", LC_OPT_INT, offsetof(zo, directions),        "1", 1, 65535,                             \
       NULL,         "N",        "directions an update, averaged"},                                          \
  {                                                                                                          \
    "objective", LC_OPT_CHOICE, offsetof(zo, objective), "loss", 0, 0, "loss|tokens|exact", NULL,            \
        "next-token loss; share of tokens that greedy decoding misses; of rows with a miss"                  \
  }
static const lc_option mezo_options[] = {COMMON_ROWS, {0}};
static const lc_option options[] = {
    {"sparsity", LC_OPT_FLOAT, offsetof(zo, sparsity), "0.75", 0, 1, NULL, "S",
     "share of each tensor that stays as it is"},
    {"mask", LC_OPT_CHOICE, offsetof(zo, mask), "small", 0, 0, LC_NOISE_MASKS, NULL,
     "what moves: all, the smallest entries as they are at each step; controls: a random share, the largest"},
    COMMON_ROWS,
    {0}};

static lc_status check(const zo *s, const lc_training *t) {
  if (!(s->zo_eps > 0))
    return lc_usage(t->ctx, "%s: zo-eps is %g: a step to either side has a length above 0", t->method->name,
                    s->zo_eps);
  if (strcmp(t->opts.optimizer, "sgd") || t->opts.momentum != 0)
    return lc_usage(
        t->ctx,
        "%s: an update goes along its own directions: there is no optimizer to choose, and no momentum",
        t->method->name);
  return LC_OK;
}

static lc_status attach_one(zo *s, lc_training *t, lc_weight *w) {
  lc_delta *d;
  int64_t n;
  LC_TRY(lc_delta_noise_new(t->ctx, w, s->log, &d));
  LC_TRY(lc_attach_delta(t, w, d, &d));
  LC_TRY(lc_delta_noise_open(t->ctx, d));
  LC_TRY(lc_delta_noise_active(t->ctx, d, &n));
  lc_model_forget(t->net->model, &w->base->src); /* the copy is read from here on */
  s->first += n;
  s->entries += w->M * w->N;
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  zo *s = selfp;
  lc_target_set set = {0};
  lc_status st = LC_OK;
  const lc_noise_opts o = {.seed = t->opts.seed,
                           .sparsity = s->mask == LC_NOISE_ALL ? 0 : s->sparsity,
                           .decay = t->opts.weight_decay,
                           .mask = s->mask};
  s->t = t;
  LC_TRY(check(s, t));
  LC_GO(lc_target_set_open(t, &set));
  const lc_tensor *stored = lc_training_stored(t, "noise.log");
  const int64_t before = stored ? lc_tensor_count(stored) / 4 : 0,
                room = lc_max64(before, t->planned * s->directions);
  LC_GO(lc_noise_log_new(t->ctx, &o, room, &s->log));
  s->slope = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)s->directions, sizeof *s->slope);
  if (!s->slope) LC_GO(LC_FAILED);
  for (int l = 0; l < set.n; l++) LC_GO(attach_one(s, t, set.w[l]));
  s->log->n = before; /* they come with the checkpoint's arrays */
done:
  lc_target_set_free(t->ctx, &set);
  return st;
}

static lc_status objective(void *selfp, lc_builder *b, lc_val hidden, lc_val *nll) {
  const zo *s = selfp;
  const lc_config *c = &s->t->net->model->config;
  *nll = s->objective == LOSS ? lc_head_loss(b, hidden, b->labels, c->family->head(c))
                              : lc_head_misses(b, hidden, b->labels, c->family->head(c));
  return b->st;
}

/* Rows of the last pass with a missed token. */
static double rows_missed(lc_training *t, int64_t n) {
  const float *miss = lc_data(t->run, t->graph.nll);
  double rows = 0;
  for (int64_t i = 0; i < n; i++) {
    bool any = false;
    for (int64_t r = t->segment[i].row0; r < t->segment[i].row1; r++) any |= miss[r] > 0;
    rows += any;
  }
  return rows;
}

/* L of the update's rows with the weights as they are seen now. */
static lc_status loss_now(const zo *s, lc_training *t, double *loss) {
  double sum = 0, missed = 0;
  int64_t targets = 0;
  for (t->micro = 0; t->micro < t->n_micro; t->micro++) {
    const int64_t first = t->micro * t->opts.micro_batch,
                  n = lc_min64(t->opts.micro_batch, t->n_example - first);
    LC_TRY(lc_pass(t, t->example + first, n, false, 1, &sum, &targets));
    if (s->objective == EXACT) missed += rows_missed(t, n);
  }
  *loss = s->objective == EXACT ? missed / (double)t->n_example : sum / (double)targets;
  return LC_OK;
}

static lc_status both_sides(const zo *s, lc_training *t, int64_t a, double loss[2]) {
  lc_status st = LC_OK;
  for (int side = 0; side < 2 && !st; side++) {
    const float e = (float)(side ? -s->zo_eps : s->zo_eps);
    for (int i = 0; i < t->adapter->n; i++)
      lc_delta_noise_view(t->adapter->delta[i], (uint32_t)t->step, (uint16_t)a, e);
    st = loss_now(s, t, &loss[side]);
  }
  for (int i = 0; i < t->adapter->n; i++) lc_delta_noise_hide(t->adapter->delta[i]);
  return st;
}

/* A step whose loss is no finite number on one side is left out: counted, said, not in the log. */
static lc_status skip(zo *s, lc_training *t) {
  lc_log(t->ctx, LC_LOG_WARN, "step %lld is skipped: %s", (long long)t->step + 1, lc_error(t->ctx));
  lc_error_clear(t->ctx);
  s->count[SKIPPED]++;
  t->grad_norm = 0;
  return LC_OK;
}

static lc_status step(void *selfp, lc_training *t) {
  zo *s = selfp;
  double mean = 0, size = 0;
  for (int64_t a = 0; a < s->directions; a++) {
    double loss[2];
    lc_status st = both_sides(s, t, a, loss);
    if (st && t->not_finite) return skip(s, t);
    LC_TRY(st);
    s->slope[a] = (loss[0] - loss[1]) / (2 * s->zo_eps);
    mean += (loss[0] + loss[1]) / 2 / (double)s->directions;
    size += fabs(s->slope[a]) / (double)s->directions;
  }
  t->loss = mean;
  t->grad_norm = size;
  for (int64_t a = 0; a < s->directions; a++)
    LC_TRY(lc_noise_log_add(s->log, (uint32_t)t->step, (float)s->slope[a],
                            (float)(t->lr / (double)s->directions)));
  for (int i = 0; i < t->adapter->n; i++) LC_TRY(lc_delta_noise_move(t->ctx, t->adapter->delta[i], s->moved));
  s->count[RECORDS] = s->moved = s->log->n;
  return LC_OK;
}

/* A checkpoint is the log. */
static lc_status visit(void *selfp, lc_visitor *v) {
  zo *s = selfp;
  LC_TRY(v->array(v, "noise.count", LC_I64, 2, s->count));
  return v->array(v, "noise.log", LC_I32, 4 * s->log->n, s->log->at);
}

/* It is replayed on the copies. */
static lc_status loaded(void *selfp, lc_training *t) {
  zo *s = selfp;
  const lc_noise_log *log = s->log;
  if (s->count[RECORDS] != log->n)
    return lc_fail(t->ctx, "the log of steps has %lld records, its count is %lld", (long long)log->n,
                   (long long)s->count[RECORDS]);
  LC_TRY(lc_noise_log_verify(log));
  if (t->step > UINT32_MAX || (log->n && log->at[log->n - 1].step >= t->step))
    return lc_fail(t->ctx, "the log of steps ends with step %u, the checkpoint is of %lld updates",
                   log->n ? log->at[log->n - 1].step : 0, (long long)t->step);
  for (int i = 0; i < t->adapter->n; i++) LC_TRY(lc_delta_noise_move(t->ctx, t->adapter->delta[i], 0));
  s->moved = log->n;
  return LC_OK;
}

static void hold(const zo *s, bool held) {
  for (int i = 0; s->t && s->t->adapter && i < s->t->adapter->n; i++)
    lc_delta_noise_held(s->t->adapter->delta[i], held);
}

static lc_status finish(void *selfp, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++) lc_delta_noise_close(t->adapter->delta[i]);
  hold(selfp, true);
  return LC_OK;
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  return lc_attach_save(t, LC_LAYOUT_LOG, NULL, dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const zo *s = selfp;
  int64_t now = 0, n;
  hold(s, false);
  for (int i = 0; i < t->adapter->n; i++) {
    LC_TRY(lc_delta_noise_active(t->ctx, t->adapter->delta[i], &n));
    now += n;
  }
  json_t *out = json_array();
  for (int i = 0; i < t->net->weights.n; i++)
    if (!t->net->weights.w[i].n_delta) json_array_append_new(out, json_string(t->net->weights.w[i].name));
  json_object_set_new(to, "trainable", json_integer(s->first));
  json_object_set_new(to, "density", json_real((double)s->first / (double)s->entries));
  json_object_set_new(to, "active", json_integer(now));
  json_object_set_new(to, "records", json_integer(s->log->n));
  json_object_set_new(to, "skipped", json_integer(s->count[SKIPPED]));
  json_object_set_new(to, "left_out", out);
  return LC_OK;
}

/* Forward passes alone, two a direction. */
static double step_cost(const void *selfp, const lc_training *t, double step, double targets) {
  return step * (double)((const zo *)selfp)->directions;
}

static void release(void *selfp, lc_ctx *ctx) {
  zo *s = selfp;
  hold(s, false);
  lc_noise_log_drop(s->log);
  lc_free(ctx, s->slope);
}

#define HOOKS                                                                                                \
  .self_size = sizeof(zo), .optimizer = "sgd", .mergeable = true, .attach = attach, .step = step,            \
  .objective = objective, .visit = visit, .loaded = loaded, .finish = finish, .save = save,                  \
  .report = report, .step_cost = step_cost, .release = release
const lc_method lc_method_mezo = {.name = "mezo",
                                  .title = "MeZO: fine-tuning with forward passes only",
                                  .source = "arXiv 2305.17333",
                                  .about =
                                      "Two forward passes along a random direction give its slope; every "
                                      "entry of the targets moves along it. The targets have f32 copies "
                                      "that are never perturbed in place, so nothing drifts; the reported "
                                      "loss is the mean of both sides (the authors': of one). Larger "
                                      "batches are micro-batches under one direction. Vectors stay as they "
                                      "are. --schedule constant is the authors'; they use no clipping, "
                                      "nor is there any here.",
                                  .options = mezo_options,
                                  .lr = 1e-6,
                                  HOOKS};
const lc_method lc_method_sparse_mezo = {
    .name = "sparse-mezo",
    .title = "Sparse MeZO: forward passes only, moving the small entries",
    .source = "arXiv 2402.15751",
    .about = "MeZO on the entries of each matrix that are at most as large as a threshold, which is fixed at "
             "the start (|w|, where the paper's "
             "pseudo-code compares w); which those are is seen anew at each step, so that an entry that "
             "grows beyond it stays. Weight decay, which "
             "the paper has not, is of moving entries only. The result is a log of 16 bytes an update; merge "
             "replays it.",
    .options = options,
    .lr = 2e-6,
    HOOKS};
