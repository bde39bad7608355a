/* s2ft: train whole heads and FFN channels, chosen once: dense blocks of a few columns or rows, nothing scattered.
 *
 * Source: Yang, Leng, Guo, Zhao et al., "S²FT: Efficient, Scalable and Generalizable LLM Fine-tuning by Structured
 * Sparsity", NeurIPS 2024, arXiv 2412.06289.
 *
 *   1. budgets  n = floor(ratio·count) heads (o), kv heads (v), channels (d, u) of all layers together, or of each
 *   2. choose   at random, or the n with the largest (smallest) score:
 *               weight      ‖block‖ of the weight's own rows or columns
 *               activation  root mean square of what the element puts out, over `examples` rows of the data
 *               product     weight times activation
 *               gradient    ‖dL/dblock‖ over those rows
 *   3. train    o, d: W[:,J] + C   dC = dyᵀ·x[J], of the input only x[J] is kept    C (M,k)
 *               v, u: W[I,:] + R   dR = dy[I]ᵀ·x                                    R (k,N)
 *   4. save     lists and blocks; or a LoRA of rank k: B = C and A the unit rows of J (B the unit columns of I, A = R)
 *
 * The lists stand for the paper's permutation: the block is contiguous, the weights stay in their order, and what is
 * saved applies to the base as it is. Under grouped heads o's unit is a query head and v's a key/value head.
 *
 * Memory that survives an update: 12 B a value, 4 B a line; kept for the backward pass: k columns instead of N. FLOPs a
 * token: 2·k·M (2·k·N) beside the frozen products, none in the forward pass. Before step 1, gradient needs f32 sums of
 * whole matrices, as many at a time as `calibration-bytes` holds. */
#include <jansson.h>
#include <string.h>
#include "method/methods.h"
#include "model/units.h"
#include "nn/slice.h"
#include "train/attach.h"

enum { ROLES = 4 };
typedef struct {
  double ratio[ROLES];
  int select, end, pool, layout;
  int64_t examples, bytes;
  int64_t chosen[ROLES], of[ROLES], values;
  const lc_adapter *adapter; /* for visit */
} s2ft;
enum { SELECT_RANDOM, SELECT_WEIGHT, SELECT_ACTIVATION, SELECT_PRODUCT, SELECT_GRADIENT };
enum { END_LARGE, END_SMALL };
enum { POOL_MODEL, POOL_LAYER };
enum { LAYOUT_SLICE, LAYOUT_LORA };
static const struct {
  const char *name;
  lc_role role;
} roles[ROLES] = {{"v", LC_ROLE_V}, {"o", LC_ROLE_O}, {"u", LC_ROLE_UP}, {"d", LC_ROLE_DOWN}};

#define RATIO(i) offsetof(s2ft, ratio) + (i) * sizeof(double)
static const lc_option options[] = {
    {"v", LC_OPT_FLOAT, RATIO(0), "0", 0, 1, NULL, "R",
     "share of the key/value heads: their rows of the value layer"},
    {"o", LC_OPT_FLOAT, RATIO(1), "0.052", 0, 1, NULL, "R",
     "share of the heads: their columns of the output layer"},
    {"u", LC_OPT_FLOAT, RATIO(2), "0", 0, 1, NULL, "R", "share of the channels: their rows of the up layer"},
    {"d", LC_OPT_FLOAT, RATIO(3), "0.02", 0, 1, NULL, "R",
     "share of the channels: their columns of the down layer"},
    {"select", LC_OPT_CHOICE, offsetof(s2ft, select), "random", 0, 0,
     "random|weight|activation|product|gradient", NULL, "how heads and channels are chosen"},
    {"end", LC_OPT_CHOICE, offsetof(s2ft, end), "large", 0, 0, "large|small", NULL,
     "those with the largest or smallest score"},
    {"pool", LC_OPT_CHOICE, offsetof(s2ft, pool), "model", 0, 0, "model|layer", NULL,
     "shares are of all layers together, or of each"},
    {"examples", LC_OPT_INT, offsetof(s2ft, examples), "64", 1, 1 << 30, NULL, "N",
     "rows that activation, product and gradient look at"},
    {"calibration-bytes", LC_OPT_INT, offsetof(s2ft, bytes), "1073741824", 1, 1e18, NULL, "B",
     "memory for gradients of whole matrices, before step 1"},
    {"layout", LC_OPT_CHOICE, offsetof(s2ft, layout), "slice", 0, 0, "slice|lora", NULL,
     "the result's files: lists and blocks, or PEFT's LoRA"},
    {0},
};

/* ---- scores of a pool ---- */

typedef struct {
  lc_training *t;
  const lc_units *u;
  double *score, *line; /* line: room for the longest side */
} scores;

static lc_unit_row *row_of(const scores *s, const lc_weight *w, bool reader, double **score) {
  *score = s->score;
  for (int l = 0; l < s->u->n; *score += s->u->row[l++].count)
    if ((reader ? s->u->row[l].reader : s->u->row[l].w) == w) return &s->u->row[l];
  return NULL;
}

static lc_status from_gradient(void *arg, lc_weight *w, const float *dW) {
  scores *s = arg;
  double *score;
  const lc_unit_row *r = row_of(s, w, false, &score);
  LC_TRY(lc_line_squares(s->t->ctx, w, r->axis, dW, s->line));
  lc_unit_norms(r, false, s->line, score);
  return LC_OK;
}

static lc_status from_input(void *arg, lc_weight *w, const double *mean) {
  scores *s = arg;
  double *score;
  const lc_unit_row *r = row_of(s, w, true, &score);
  lc_unit_norms(r, true, mean, s->line);
  for (int64_t e = 0; e < r->count; e++) score[e] *= s->line[e];
  return LC_OK;
}

static lc_status compute(const s2ft *self, scores *s) {
  const lc_units *u = s->u;
  lc_status st = LC_OK;
  lc_weight **w = lc_alloc_n(s->t->ctx, LC_MEM_OTHER, (size_t)u->n, sizeof *w);
  if (!w) return LC_FAILED;
  for (int l = 0; l < u->n; l++) w[l] = self->select == SELECT_GRADIENT ? u->row[l].w : u->row[l].reader;
  for (int64_t e = 0; e < u->count; e++) s->score[e] = 1;
  if (self->select == SELECT_WEIGHT || self->select == SELECT_PRODUCT)
    for (int l = 0; l < u->n; l++) LC_GO(from_gradient(s, u->row[l].w, NULL)); /* of the weight itself */
  if (self->select == SELECT_ACTIVATION || self->select == SELECT_PRODUCT)
    LC_GO(lc_calibrate_inputs(s->t, w, u->n, self->examples, from_input, s));
  if (self->select == SELECT_GRADIENT)
    LC_GO(lc_calibrate_gradients(s->t, w, u->n, self->examples, (size_t)self->bytes, from_gradient, s));
done:
  lc_free(s->t->ctx, w);
  return st;
}

/* ---- attach ---- */

/* Of the pool stays what --targets names. */
static void keep_targets(lc_units *u, const lc_target_set *set) {
  int n = 0;
  u->count = 0;
  for (int l = 0; l < u->n; l++)
    for (int k = 0; k < set->n; k++)
      if (set->w[k] == u->row[l].w) {
        u->row[n++] = u->row[l];
        u->count += u->row[l].count;
        break;
      }
  u->n = n;
}

static lc_status attach_slice(s2ft *self, lc_training *t, const lc_unit_row *r, const int32_t *lines,
                              int64_t k) {
  const lc_slice_opts o = {r->axis ? LC_SLICE_COLUMNS : LC_SLICE_ROWS, k};
  lc_delta *d;
  if (!k) return LC_OK;
  LC_TRY(lc_delta_slice_new(t->ctx, r->w, &o, lines, true, &d));
  LC_TRY(lc_attach_delta(t, r->w, d, &d));
  self->values += d->param[0]->n;
  return LC_OK;
}

/* The lines that a checkpoint has. */
static lc_status attach_stored(s2ft *self, lc_training *t, const lc_units *u, int i) {
  for (int l = 0; l < u->n; l++) {
    const lc_unit_row *r = &u->row[l];
    char name[512];
    snprintf(name, sizeof name, "%s.slice.lines", r->w->name);
    const lc_tensor *stored = lc_training_stored(t, name);
    if (!stored) continue;
    if (stored->dtype != LC_I32)
      return lc_fail(t->ctx, "the checkpoint's lines of '%s' are %s", r->w->name,
                     lc_dtype_get(stored->dtype)->name);
    LC_TRY(attach_slice(self, t, r, stored->data, lc_tensor_count(stored)));
    self->chosen[i] += lc_tensor_count(stored) / r->unit;
  }
  return LC_OK;
}

static lc_status attach_chosen(s2ft *self, lc_training *t, const lc_units *u, int i) {
  lc_status st = LC_OK;
  int64_t widest = 0, from = 0, n = 0;
  for (int l = 0; l < u->n; l++)
    widest = lc_max64(widest, lc_max64(lc_max64(u->row[l].w->M, u->row[l].w->N), u->row[l].reader->N));
  double *score = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)(u->count + widest), sizeof *score);
  int64_t *chosen = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)u->count, sizeof *chosen);
  int32_t *lines = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)widest, sizeof *lines);
  scores s = {t, u, score, score ? score + u->count : NULL};
  const lc_unit_rule rule = {.score = self->select == SELECT_RANDOM ? NULL : score,
                             .smallest = self->end == END_SMALL,
                             .each_layer = self->pool == POOL_LAYER,
                             .seed = (uint64_t)t->opts.seed,
                             .name = roles[i].name};
  if (!score || !chosen || !lines) LC_GO(LC_FAILED);
  if (rule.score) LC_GO(compute(self, &s));
  LC_GO(lc_units_choose(t->ctx, u, &rule, self->ratio[i], chosen, &self->chosen[i]));
  for (int l = 0; l < u->n; from += u->row[l++].count) {
    const lc_unit_row *r = &u->row[l];
    int64_t k = 0;
    for (; n < self->chosen[i] && chosen[n] < from + r->count; n++)
      for (int64_t j = 0; j < r->unit; j++)
        lines[k++] = (int32_t)(r->first + (chosen[n] - from) * r->unit + j);
    LC_GO(attach_slice(self, t, r, lines, k));
  }
done:
  lc_free(t->ctx, score);
  lc_free(t->ctx, chosen);
  lc_free(t->ctx, lines);
  return st;
}

static lc_status attach_all(s2ft *self, lc_training *t) {
  lc_target_set set = {0};
  lc_units u = {0};
  lc_status st = LC_OK;
  LC_GO(lc_target_set_open(t, &set));
  for (int i = 0; i < ROLES; i++) {
    if (self->ratio[i] == 0) continue;
    LC_GO(lc_units_open(t->net, roles[i].role, &u));
    keep_targets(&u, &set);
    self->of[i] = u.count;
    LC_GO(t->resuming ? attach_stored(self, t, &u, i) : attach_chosen(self, t, &u, i));
    lc_units_free(t->ctx, &u);
  }
  if (!self->values)
    st =
        lc_usage(t->ctx, "s2ft: nothing to train: the shares v=%g o=%g u=%g d=%g give no head and no channel",
                 self->ratio[0], self->ratio[1], self->ratio[2], self->ratio[3]);
  self->adapter = t->adapter;
done:
  lc_units_free(t->ctx, &u);
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* Data is looked at in calibrate only; a checkpoint brings the lines. */
static bool looks_at_data(const s2ft *self, const lc_training *t) {
  return self->select >= SELECT_ACTIVATION && !t->resuming;
}
static lc_status attach(void *self, lc_training *t) {
  return looks_at_data(self, t) ? LC_OK : attach_all(self, t);
}
static lc_status calibrate(void *self, lc_training *t) {
  return looks_at_data(self, t) ? attach_all(self, t) : LC_OK;
}

static lc_status visit(void *selfp, lc_visitor *v) {
  const s2ft *self = selfp;
  for (int i = 0; i < self->adapter->n; i++) LC_TRY(lc_delta_visit_arrays(self->adapter->delta[i], v));
  return LC_OK;
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const s2ft *self = selfp;
  return self->layout == LAYOUT_LORA
             ? lc_attach_save_as(t, LC_LAYOUT_PEFT_LORA, lc_delta_slice_lora, dir, NULL)
             : lc_attach_save(t, LC_LAYOUT_MODULES, NULL, dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const s2ft *self = selfp;
  double invisible;
  LC_TRY(lc_attach_invisible(t, &invisible));
  json_t *chosen = json_object();
  for (int i = 0; i < ROLES; i++)
    if (self->ratio[i] > 0)
      json_object_set_new(chosen, roles[i].name,
                          json_pack("[I, I]", (json_int_t)self->chosen[i], (json_int_t)self->of[i]));
  json_object_set_new(to, "trainable", json_integer(self->values));
  json_object_set_new(to, "share_of_parameters",
                      json_real((double)self->values / (double)lc_model_parameters(t->net->model)));
  json_object_set_new(to, "chosen", chosen);
  json_object_set_new(to, "invisible", json_real(invisible));
  return LC_OK;
}

const lc_method lc_method_s2ft = {
    .name = "s2ft",
    .title = "S²FT: a few whole heads and FFN channels",
    .source = "arXiv 2412.06289",
    .about = "Trains the output layer's columns of some heads and the down layer's columns of some channels "
             "(rows of the "
             "value and up layers on request) as dense blocks. Where the authors permute the weights so that "
             "the trained "
             "part is contiguous, lists of lines give the same block on the base as it is. Grouped heads, "
             "biases and head "
             "widths apart from the model's work (theirs do not). Shares are of all layers together, as in "
             "their code: a "
             "layer may get none; pool=layer gives each its share.",
    .options = options,
    .self_size = sizeof(s2ft),
    .lr = 1e-3,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .calibrate = calibrate,
    .visit = visit,
    .save = save,
    .report = report,
};
