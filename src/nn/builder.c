/* The builder: a model file's vocabulary. Each call looks up the weights it names, emits one op, then lets the weight's deltas emit theirs.
 * After the first error every call returns {0}. */
#include "nn/ops.h"
#include <stdarg.h>
#include <string.h>

static const lc_val none = {0};

lc_status lc_builder_init(lc_builder *b, lc_ctx *ctx, lc_graph *g, const lc_weights *weights,
                          lc_dtype compute) {
  *b = (lc_builder){.ctx = ctx, .g = g, .weights = weights, .compute = compute};
  if (compute != LC_F32 && compute != LC_BF16)
    return b->st = lc_fail(ctx, "compute dtype %s: f32 and bf16 are built", lc_dtype_get(compute)->name);
  b->ids = lc_graph_input(g, "ids", LC_I32, 1);
  b->pos = lc_graph_input(g, "pos", LC_I32, 1);
  b->labels = lc_graph_input(g, "labels", LC_I32, 1);
  for (int i = 0; i < weights->n; i++)
    for (int k = 0; k < weights->w[i].n_delta; k++)
      b->n_block_deltas += weights->w[i].delta[k]->ops->tap != NULL;
  return b->st = b->ids.id && b->pos.id && b->labels.id ? LC_OK : LC_FAILED;
}

lc_val lc_tap(lc_builder *b, lc_tap_point point, int layer, lc_val v) {
  for (int i = 0; i < b->n_tap && !b->st && v.id; i++) v = b->tap[i].fn(b->tap[i].self, b, point, layer, v);
  if (!b->n_block_deltas || point == LC_TAP_ATTN_OUT || point == LC_TAP_MLP_OUT) return v;
  for (int i = 0; i < b->weights->n; i++)
    for (int k = 0; k < b->weights->w[i].n_delta && !b->st && v.id; k++) {
      lc_delta *d = b->weights->w[i].delta[k];
      if (d->ops->tap) v = d->ops->tap(d, b, point, layer, v);
    }
  return v;
}

void lc_add_auxiliary(lc_builder *b, const char *name, lc_val v) {
  lc_auxiliary *a = b->st ? NULL : lc_graph_alloc(b->g, sizeof *a);
  if (!a) {
    if (!b->st) b->st = LC_FAILED;
    return;
  }
  lc_graph_keep(b->g, v);
  *a = (lc_auxiliary){name, v, b->auxiliary};
  b->auxiliary = a;
}

void lc_block(lc_builder *b, int layer) {
  lc_graph_block(b->g, layer);
}

lc_val lc_build(lc_builder *b, const lc_op *op, const void *attr, size_t size, const lc_val *in, int n_in) {
  lc_val out = none;
  if (!b->st) b->st = lc_emit(b->g, op, attr, size, in, n_in, &out);
  return b->st ? none : out;
}

lc_weight *lc_build_weight(lc_builder *b, const char *fmt, int layer, const char *suffix, bool required) {
  if (b->st) return NULL;
  char module[192], name[256];
  if (strstr(fmt, "%d")) {
    const char *at = strstr(fmt, "%d");
    snprintf(module, sizeof module, "%.*s%d%s", (int)(at - fmt), fmt, layer, at + 2);
  } else {
    snprintf(module, sizeof module, "%s", fmt);
  }
  snprintf(name, sizeof name, "%s%s", module, suffix);
  lc_weight *w = lc_weights_find(b->weights, name);
  if (w)
    w->uses++;
  else if (required)
    b->st = lc_fail(b->ctx, "the model has no weight '%s'", name);
  return w;
}

lc_val lc_types(lc_builder *b) {
  if (!b->st && !b->types.id) b->types = lc_graph_input(b->g, "types", LC_I32, 1);
  if (!b->st && !b->types.id) b->st = LC_FAILED;
  return b->types;
}

lc_val lc_pixels(lc_builder *b, int64_t width) {
  if (!b->st && !b->pixels.id) b->pixels = lc_graph_input(b->g, "pixels", LC_F32, width);
  if (!b->st && !b->pixels.id) b->st = LC_FAILED;
  return b->pixels;
}

lc_val lc_embedding(lc_builder *b, lc_val ids, const char *module) {
  return lc_embedding_from(b, ids, module, 0);
}

lc_val lc_embedding_from(lc_builder *b, lc_val ids, const char *module, int64_t first) {
  lc_embedding_attr a = {lc_build_weight(b, module, 0, ".weight", true), first};
  return lc_build(b, &lc_op_embedding, &a, sizeof a, &ids, 1);
}

lc_val lc_embedding_of(lc_builder *b, lc_val ids, const char *weight) {
  lc_embedding_attr a = {lc_build_weight(b, weight, 0, "", true), 0};
  return lc_build(b, &lc_op_embedding, &a, sizeof a, &ids, 1);
}

lc_val lc_linear(lc_builder *b, lc_val x, lc_val residual, const char *fmt, int layer) {
  lc_linear_attr a = {.w = lc_build_weight(b, fmt, layer, ".weight", true),
                      .bias = lc_build_weight(b, fmt, layer, ".bias", false),
                      .compute = b->compute};
  if (b->st) return none;
  a.use = a.w->uses - 1;
  const lc_gather_attr of = {a.w};
  lc_val in[3] = {x, residual};
  if (lc_weight_wants(a.w, LC_SINK_INPUT)) lc_build(b, &lc_op_input_squares, &of, sizeof of, &x, 1);
  if (lc_weight_columns(a.w)) in[2] = lc_build(b, &lc_op_gather, &of, sizeof of, &x, 1);
  lc_val y = lc_build(b, &lc_op_linear, &a, sizeof a, in, in[2].id ? 3 : 2);
  for (int i = 0; i < a.w->n_delta && !b->st; i++)
    if (a.w->delta[i]->ops->emit) b->st = a.w->delta[i]->ops->emit(a.w->delta[i], b, x, y, &y);
  return b->st ? none : y;
}

lc_val lc_rmsnorm(lc_builder *b, lc_val x, float eps, const char *fmt, int layer) {
  lc_norm_attr a = {.w = lc_build_weight(b, fmt, layer, ".weight", true), .eps = eps, .compute = b->compute};
  return lc_build(b, &lc_op_rmsnorm, &a, sizeof a, &x, 1);
}

static lc_val layernorm(lc_builder *b, lc_val x, float eps, const char *fmt, int layer, lc_dtype out) {
  lc_norm_attr a = {.w = lc_build_weight(b, fmt, layer, ".weight", true),
                    .b = lc_build_weight(b, fmt, layer, ".bias", true),
                    .eps = eps,
                    .compute = out};
  return lc_build(b, &lc_op_layernorm, &a, sizeof a, &x, 1);
}

lc_val lc_layernorm(lc_builder *b, lc_val x, float eps, const char *fmt, int layer) {
  return layernorm(b, x, eps, fmt, layer, b->compute);
}

lc_val lc_layernorm_wide(lc_builder *b, lc_val x, float eps, const char *fmt, int layer) {
  return layernorm(b, x, eps, fmt, layer, LC_F32);
}

lc_val lc_round(lc_builder *b, lc_val x) {
  const lc_value *v = lc_value_get(b->g, x);
  return b->st || (v && v->dtype == b->compute)
             ? x
             : lc_build(b, &lc_op_round, &b->compute, sizeof b->compute, &x, 1);
}

lc_val lc_sum(lc_builder *b, lc_val x, lc_val y) {
  lc_val in[2] = {x, y};
  return lc_build(b, &lc_op_sum, NULL, 0, in, 2);
}

lc_val lc_silu_mul(lc_builder *b, lc_val gate, lc_val up) {
  lc_val in[2] = {gate, up};
  return lc_build(b, &lc_op_silu_mul, NULL, 0, in, 2);
}

lc_val lc_activation(lc_builder *b, lc_val x, lc_activation_kind kind) {
  return lc_build(b, &lc_op_activation, &kind, sizeof kind, &x, 1);
}

lc_val lc_columns(lc_builder *b, lc_val x, int64_t c0, int64_t c1) {
  lc_columns_attr a = {c0, c1};
  return lc_build(b, &lc_op_columns, &a, sizeof a, &x, 1);
}

lc_val lc_rope_table(lc_builder *b, lc_val pos, const lc_rope *rope) {
  return lc_build(b, &lc_op_rope_table, rope, sizeof *rope, &pos, 1);
}

lc_val lc_rotate(lc_builder *b, lc_val x, lc_val table, int64_t heads, int64_t head_dim) {
  lc_rotate_attr a = {heads, head_dim};
  lc_val in[2] = {x, table};
  return lc_build(b, &lc_op_rope, &a, sizeof a, in, 2);
}

lc_val lc_attention(lc_builder *b, lc_val q, lc_val k, lc_val v, const lc_attention_opts *opts) {
  lc_val in[3] = {q, k, v};
  return lc_build(b, &lc_op_attention, opts, sizeof *opts, in, 3);
}

static lc_val head(lc_builder *b, lc_val hidden, lc_val labels, const char *weight_name, lc_head_attr a) {
  a.w = lc_build_weight(b, weight_name, 0, "", true);
  a.compute = b->compute;
  if (b->st) return none;
  a.use = a.w->uses - 1;
  if (a.w->head_bias) a.w->head_bias->uses++;
  for (int i = 0; i < a.w->n_delta; i++)
    if (a.w->delta[i]->ops->emit) {
      b->st = lc_fail(b->ctx, "'%s' is the output head: a %s delta cannot work beside it", a.w->name,
                      a.w->delta[i]->ops->name);
      return none;
    }
  lc_val in[2] = {hidden, labels};
  return lc_build(b, &lc_op_head_loss, &a, sizeof a, in, 2);
}

lc_val lc_head_loss(lc_builder *b, lc_val hidden, lc_val labels, const char *weight_name) {
  return head(b, hidden, labels, weight_name, (lc_head_attr){0});
}

lc_val lc_head_loss_of(lc_builder *b, lc_val hidden, lc_val labels, const char *weight_name,
                       lc_row_loss link) {
  return head(b, hidden, labels, weight_name, (lc_head_attr){.link = link});
}

lc_val lc_head_misses(lc_builder *b, lc_val hidden, lc_val labels, const char *weight_name) {
  return head(b, hidden, labels, weight_name, (lc_head_attr){.misses = true});
}

lc_val lc_head_loss_pairs(lc_builder *b, lc_val hidden, lc_val labels, const char *weight_name,
                          lc_pair_loss pair) {
  return head(b, hidden, labels, weight_name, (lc_head_attr){.paired = true, .pair = pair});
}
