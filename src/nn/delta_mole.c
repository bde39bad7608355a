/* Two kinds of delta that work together (Chen, Jie & Ma 2024, arXiv 2401.16160): `route`, one a block, reads the FFN's
 * input at the tap MLP_IN and chooses an expert for each token; `experts`, one beside each FFN layer, adds the chosen
 * expert's low-rank product. All layers of a block share its route.
 *
 * The route hangs on the block's first FFN weight; the experts hold a pointer to it, and find its values of the graph
 * that is being built. At the end of the graph the first route emits the balance losses of all. */
#include <math.h>
#include <string.h>
#include "nn/mole.h"

typedef struct {
  lc_route_opts o;
  lc_val p, choice; /* of the graph built last */
} route_state;
typedef struct {
  lc_experts_opts o;
  lc_delta *route;
} experts_state;

/* U(±1/√N), keyed by (seed, weight, draw). */
static void uniform(lc_param *p, int64_t N, uint64_t seed, uint32_t id, uint16_t draw) {
  const lc_rng rng = {.seed = seed, .tensor = id, .draw = draw, .purpose = LC_RNG_INIT};
  const float bound = 1 / sqrtf((float)N);
  lc_rng_uniform_fill(&rng, 0, p->n, p->value);
  for (int64_t k = 0; k < p->n; k++) p->value[k] = (2 * p->value[k] - 1) * bound;
}

static lc_status new_delta(lc_ctx *ctx, lc_weight *w, const lc_delta_ops *ops, size_t size, lc_delta **out) {
  *out = NULL;
  if (w->kind != LC_KIND_LINEAR)
    return lc_fail(ctx, "'%s' is not a linear layer's weight: %s cannot stand beside it", w->name, ops->name);
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  *d = (lc_delta){
      .ops = ops, .w = w, .scale = 1, .apply = LC_PATCH, .priv = lc_alloc(ctx, LC_MEM_OTHER, size)};
  if (d->priv) {
    *out = d;
    return LC_OK;
  }
  lc_delta_free(ctx, d);
  return LC_FAILED;
}

static lc_status visit(lc_delta *d, lc_visitor *v) {
  for (int i = 0; i < d->n_param; i++) LC_TRY(lc_param_visit(d->param[i], v));
  return LC_OK;
}

static int64_t nonzeros(const lc_delta *d) {
  return d->param[0]->n + d->param[1]->n;
}

/* ---- route ---- */

void lc_delta_route_values(const lc_delta *d, lc_val *p, lc_val *choice) {
  const route_state *s = d->priv;
  *p = s->p;
  *choice = s->choice;
}

static lc_val emit(lc_builder *b, const lc_op *op, const void *attr, size_t size, const lc_val *in,
                   int n_in) {
  lc_val out = {0};
  if (!b->st) b->st = lc_emit(b->g, op, attr, size, in, n_in, &out);
  return b->st ? (lc_val){0} : out;
}

/* The losses of all routes of the net; the first that is asked finds the others. */
static void balance(lc_builder *b, const lc_delta *self) {
  lc_val joint = {0};
  lc_balance_attr a = {.layers = 0};
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < b->weights->n; i++)
      for (int k = 0; k < b->weights->w[i].n_delta; k++) {
        const lc_delta *d = b->weights->w[i].delta[k];
        if (d->ops != &lc_delta_route || !d->param[0]->wants_grad) continue;
        const route_state *s = d->priv;
        if (pass == 0 && a.layers == 0 && d != self) return;
        if (pass == 0) a = (lc_balance_attr){s->o.experts, a.layers + 1, s->o.balance, s->o.scope};
        if (pass == 0 || a.weight == 0) continue;
        const bool together = a.scope == LC_BALANCE_JOINT;
        lc_val in[3] = {s->p, s->choice, together ? joint : (lc_val){0}};
        joint = emit(b, &lc_op_balance_sum, NULL, 0, in, 3);
        if (!together) lc_add_auxiliary(b, "balance", emit(b, &lc_op_balance_loss, &a, sizeof a, &joint, 1));
      }
  if (joint.id && a.scope == LC_BALANCE_JOINT)
    lc_add_auxiliary(b, "balance", emit(b, &lc_op_balance_loss, &a, sizeof a, &joint, 1));
}

static lc_val route_tap(lc_delta *d, lc_builder *b, lc_tap_point point, int layer, lc_val v) {
  route_state *s = d->priv;
  if (point == LC_TAP_FINAL_NORM_OUT) balance(b, d);
  if (point != LC_TAP_MLP_IN || layer != d->w->layer) return v;
  const lc_mole_attr a = {d};
  s->p = emit(b, &lc_op_route, &a, sizeof a, &v, 1);
  if (b->st) return v;
  s->choice = (lc_val){s->p.id + 1}; /* outputs of a node are numbered one after another */
  lc_graph_keep(b->g, s->p);
  lc_graph_keep(b->g, s->choice);
  return v;
}

const lc_delta_ops lc_delta_route = {
    .name = "route", .tap = route_tap, .visit = visit, .nonzeros = nonzeros, .free = lc_delta_free};

lc_status lc_delta_route_new(lc_ctx *ctx, lc_weight *w, const lc_route_opts *o, bool trainable,
                             lc_delta **out) {
  lc_status st = LC_OK;
  lc_delta *d;
  LC_TRY(new_delta(ctx, w, &lc_delta_route, sizeof(route_state), &d));
  ((route_state *)d->priv)->o = *o;
  LC_GO(lc_delta_param(ctx, d, "route", o->experts, w->N, trainable));
  LC_GO(lc_delta_param(ctx, d, "route_bias", 1, o->experts, trainable));
  d->param[1]->decays = false;
  uniform(d->param[0], w->N, (uint64_t)o->seed, w->id, 1);
  uniform(d->param[1], w->N, (uint64_t)o->seed, w->id, 2);
  *out = d;
  d = NULL;
done:
  lc_delta_free(ctx, d);
  return st;
}

/* ---- experts ---- */

const lc_experts_opts *lc_delta_experts_opts(const lc_delta *d) {
  return &((const experts_state *)d->priv)->o;
}

static lc_status experts_emit(lc_delta *d, lc_builder *b, lc_val x, lc_val y, lc_val *out) {
  const lc_mole_attr a = {d};
  lc_val p, choice;
  lc_delta_route_values(((experts_state *)d->priv)->route, &p, &choice);
  lc_val in[4] = {y, x, p, choice};
  return lc_emit(b->g, &lc_op_experts, &a, sizeof a, in, 4, out);
}

const lc_delta_ops lc_delta_experts = {
    .name = "experts", .emit = experts_emit, .visit = visit, .nonzeros = nonzeros, .free = lc_delta_free};

lc_status lc_delta_experts_new(lc_ctx *ctx, lc_weight *w, lc_delta *route, const lc_experts_opts *o,
                               bool trainable, lc_delta **out) {
  lc_status st = LC_OK;
  lc_delta *d;
  if (o->experts != ((route_state *)route->priv)->o.experts)
    return lc_fail(ctx, "'%s': %lld experts, its block's route chooses among %lld", w->name,
                   (long long)o->experts, (long long)((route_state *)route->priv)->o.experts);
  LC_TRY(new_delta(ctx, w, &lc_delta_experts, sizeof(experts_state), &d));
  *(experts_state *)d->priv = (experts_state){*o, route};
  LC_GO(lc_delta_param(ctx, d, "experts_A", o->experts * o->rank, w->N, trainable));
  LC_GO(lc_delta_param(ctx, d, "experts_B", o->experts * w->M, o->rank, trainable));
  uniform(d->param[0], w->N, (uint64_t)o->seed, w->id, 0);
  *out = d;
  d = NULL;
done:
  lc_delta_free(ctx, d);
  return st;
}

/* ---- as adapter files keep them ---- */

static const lc_option route_options[] = {
    {"experts", LC_OPT_INT, offsetof(lc_route_opts, experts), "1", 1, 4096, NULL, "E", "experts"},
    {0},
};
static const lc_option experts_options[] = {
    {"experts", LC_OPT_INT, offsetof(lc_experts_opts, experts), "1", 1, 4096, NULL, "E", "experts"},
    {"rank", LC_OPT_INT, offsetof(lc_experts_opts, rank), "1", 1, 65536, NULL, "N", "rank of each"},
    {"alpha", LC_OPT_FLOAT, offsetof(lc_experts_opts, alpha), "1", 0, 1e9, NULL, "A", "scale times the rank"},
    {"dropout", LC_OPT_FLOAT, offsetof(lc_experts_opts, dropout), "0", 0, 0.99, NULL, "P", "in training"},
    {"gate", LC_OPT_CHOICE, offsetof(lc_experts_opts, gate), "st", 0, 0, "st|none|prob|dense", NULL, "gate"},
    {0},
};

static const void *route_text(const lc_delta *d) {
  return &((const route_state *)d->priv)->o;
}
static const void *experts_text(const lc_delta *d) {
  return &((const experts_state *)d->priv)->o;
}

static lc_status make_route(lc_ctx *ctx, lc_weight *w, const void *o, lc_delta *const *made, int n,
                            bool trainable, lc_delta **out) {
  return lc_delta_route_new(ctx, w, o, trainable, out);
}

static lc_status make_experts(lc_ctx *ctx, lc_weight *w, const void *o, lc_delta *const *made, int n,
                              bool trainable, lc_delta **out) {
  for (int i = 0; i < n; i++)
    if (made[i]->ops == &lc_delta_route && made[i]->w->layer == w->layer)
      return lc_delta_experts_new(ctx, w, made[i], o, trainable, out);
  return lc_fail(ctx, "'%s' has experts, but its block has no route before them", w->name);
}

static const char *const route_names[] = {"weight", "bias"}, *const experts_names[] = {"A", "B"};
extern const lc_delta_kind lc_kind_route, lc_kind_experts;
const lc_delta_kind lc_kind_route = {
    &lc_delta_route, route_options, sizeof(lc_route_opts), route_names, route_text, make_route, NULL, NULL};
const lc_delta_kind lc_kind_experts = {&lc_delta_experts,
                                       experts_options,
                                       sizeof(lc_experts_opts),
                                       experts_names,
                                       experts_text,
                                       make_experts,
                                       NULL,
                                       NULL};
