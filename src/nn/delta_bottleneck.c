/* delta_bottleneck: a small network of its own in each block, by the taps. It hangs on the FFN's output weight, whose rows
 * are the block's width. AdaptFormer: in parallel, from the FFN's input residual (MID_RESIDUAL) to the block's output.
 * Pfeiffer: after the FFN, whose output is the block's output less that residual (a subtraction in f32, so that the
 * product with its fused residual stays as it is and a zero adapter leaves its bits). It cannot be merged: the
 * activation stands between the factors. */
#include "nn/bottleneck.h"
#include <math.h>

typedef struct {
  lc_bottleneck_opts o;
  lc_bottleneck_view view;
  lc_val mid; /* of the graph that is being built */
} state;

const lc_bottleneck_opts *lc_delta_bottleneck_opts(const lc_delta *d) {
  return &((const state *)d->priv)->o;
}
lc_bottleneck_view *lc_delta_bottleneck_view(lc_delta *d) {
  return &((state *)d->priv)->view;
}

static lc_val tap(lc_delta *d, lc_builder *b, lc_tap_point point, int layer, lc_val v) {
  state *s = d->priv;
  if (layer != d->w->layer) return v;
  if (point == LC_TAP_MID_RESIDUAL) s->mid = v;
  if (point != LC_TAP_BLOCK_OUT || d->scale == 0) return v;
  const lc_bottleneck_attr a = {d};
  const bool series = s->o.style == LC_STYLE_PFEIFFER;
  lc_val in[3] = {v, series ? v : s->mid, series ? s->mid : (lc_val){0}}, out = {0};
  if (!b->st) b->st = lc_emit(b->g, &lc_op_bottleneck, &a, sizeof a, in, 3, &out);
  return out;
}

static lc_status visit(lc_delta *d, lc_visitor *v) {
  for (int i = 0; i < d->n_param; i++) LC_TRY(lc_param_visit(d->param[i], v));
  return LC_OK;
}
static int64_t nonzeros(const lc_delta *d) {
  int64_t n = 0;
  for (int i = 0; i < d->n_param; i++) n += d->param[i]->n;
  return n;
}

const lc_delta_ops lc_delta_bottleneck = {
    .name = "bottleneck", .tap = tap, .visit = visit, .nonzeros = nonzeros, .free = lc_delta_free};

lc_status lc_delta_bottleneck_new(lc_ctx *ctx, lc_weight *w, const lc_bottleneck_opts *o, bool trainable,
                                  lc_delta **out) {
  static const char *const names[] = {"adapter_down",    "adapter_down_bias", "adapter_up",
                                      "adapter_up_bias", "adapter_norm",      "adapter_norm_bias"};
  const int64_t C = w->M, b = o->width, rows[] = {b, 1, C, 1, 1, 1}, cols[] = {C, b, b, C, C, C};
  lc_status st = LC_OK;
  *out = NULL;
  if (w->layer < 0) return lc_fail(ctx, "'%s' is in no block: a bottleneck adapter is a block's", w->name);
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  *d = (lc_delta){.ops = &lc_delta_bottleneck,
                  .w = w,
                  .scale = 1,
                  .apply = LC_PATCH,
                  .priv = lc_alloc(ctx, LC_MEM_OTHER, sizeof(state))};
  if (!d->priv) LC_GO(LC_FAILED);
  ((state *)d->priv)->o = *o;
  for (int i = 0; i < (o->style == LC_STYLE_ADAPTFORMER ? 6 : 4); i++) {
    LC_GO(lc_delta_param(ctx, d, names[i], rows[i], cols[i], trainable));
    d->param[i]->decays = i == 0 || i == 2;
  }
  const lc_rng rng = {.seed = (uint64_t)o->seed, .tensor = w->id, .purpose = LC_RNG_INIT};
  lc_rng_uniform_fill(&rng, 0, b * C, d->param[0]->value);
  for (int64_t k = 0; k < b * C; k++)
    d->param[0]->value[k] = (2 * d->param[0]->value[k] - 1) / sqrtf((float)C);
  for (int64_t c = 0; c < C && d->n_param > 4; c++) d->param[4]->value[c] = 1;
  *out = d;
  d = NULL;
done:
  lc_delta_free(ctx, d);
  return st;
}

/* ---- as adapter files keep it ---- */

static const lc_option file_options[] = {
    {"width", LC_OPT_INT, offsetof(lc_bottleneck_opts, width), "1", 1, 65536, NULL, "N",
     "width in the middle"},
    {"style", LC_OPT_CHOICE, offsetof(lc_bottleneck_opts, style), "adaptformer", 0, 0, "adaptformer|pfeiffer",
     NULL, "in parallel to the FFN, or after it"},
    {"scale", LC_OPT_FLOAT, offsetof(lc_bottleneck_opts, scale), "1", 0, 1e6, NULL, "S", "of what is added"},
    {"dropout", LC_OPT_FLOAT, offsetof(lc_bottleneck_opts, dropout), "0", 0, 0.99, NULL, "P", "in training"},
    {0},
};
static const void *file_text(const lc_delta *d) {
  return lc_delta_bottleneck_opts(d);
}
static lc_status make(lc_ctx *ctx, lc_weight *w, const void *o, lc_delta *const *made, int n, bool trainable,
                      lc_delta **out) {
  return lc_delta_bottleneck_new(ctx, w, o, trainable, out);
}
static const char *const names[] = {"down", "down_bias", "up", "up_bias", "norm", "norm_bias"};
extern const lc_delta_kind lc_kind_bottleneck;
const lc_delta_kind lc_kind_bottleneck = {
    &lc_delta_bottleneck, file_options, sizeof(lc_bottleneck_opts), names, file_text, make, NULL, NULL};
