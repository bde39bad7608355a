/* The graph under construction: values and nodes in order of computation. Nodes never move, ops keep pointers to them. */
#include "tensor/graph_priv.h"
#include <string.h>

lc_status lc_graph_new(lc_ctx *ctx, lc_graph **out) {
  *out = lc_alloc(ctx, LC_MEM_OTHER, sizeof **out);
  if (!*out) return LC_FAILED;
  (*out)->ctx = ctx;
  (*out)->block = -1;
  return LC_OK;
}

void lc_graph_free(lc_graph *g) {
  if (!g) return;
  for (int i = 0; i < g->n_owned; i++) lc_free(g->ctx, g->owned[i]);
  lc_free(g->ctx, g->owned);
  lc_free(g->ctx, g->node);
  lc_free(g->ctx, g->value);
  lc_free(g->ctx, g);
}

lc_ctx *lc_graph_ctx(const lc_graph *g) {
  return g->ctx;
}

/* Doubles an array of n items when it is full. */
static bool room_for_one(lc_ctx *ctx, void **array, int n, int *cap, size_t size) {
  if (n < *cap) return true;
  int want = *cap ? *cap * 2 : 64;
  void *grown = lc_realloc(ctx, LC_MEM_OTHER, *array, (size_t)want * size);
  if (!grown) return false;
  *array = grown;
  *cap = want;
  return true;
}

void *lc_graph_alloc(lc_graph *g, size_t size) {
  if (!room_for_one(g->ctx, (void **)&g->owned, g->n_owned, &g->cap_owned, sizeof *g->owned)) return NULL;
  void *p = lc_alloc(g->ctx, LC_MEM_OTHER, size);
  if (p) g->owned[g->n_owned++] = p;
  return p;
}

static lc_val add_value(lc_graph *g, const char *name, lc_dtype dtype, int64_t width, int producer) {
  lc_val none = {0};
  if (width <= 0 || (dtype != LC_F32 && dtype != LC_BF16 && dtype != LC_I32)) {
    lc_fail(g->ctx, "graph: value '%s' has width %lld and dtype %s", name, (long long)width,
            lc_dtype_get(dtype)->name);
    return none;
  }
  if (!room_for_one(g->ctx, (void **)&g->value, g->n_values, &g->cap_values, sizeof *g->value)) return none;
  g->value[g->n_values] =
      (lc_value){.name = name, .dtype = dtype, .width = width, .producer = producer, .block = g->block};
  return (lc_val){++g->n_values};
}

lc_val lc_graph_input(lc_graph *g, const char *name, lc_dtype dtype, int64_t width) {
  int block = g->block;
  g->block = -1;
  lc_val v = add_value(g, name, dtype, width, -1);
  g->block = block;
  return v;
}

void lc_graph_block(lc_graph *g, int block) {
  g->block = block;
}

lc_status lc_emit(lc_graph *g, const lc_op *op, const void *attr, size_t attr_size, const lc_val *in,
                  int n_in, lc_val *out) {
  if (n_in > LC_MAX_IN)
    return lc_fail(g->ctx, "op %s: %d inputs, at most %d are possible", op->name, n_in, LC_MAX_IN);
  if (!room_for_one(g->ctx, (void **)&g->node, g->n_nodes, &g->cap_nodes, sizeof *g->node)) return LC_FAILED;
  lc_node *node = lc_graph_alloc(g, sizeof *node);
  if (!node) return LC_FAILED;
  node->op = op;
  node->block = g->block;
  node->n_in = n_in;
  for (int i = 0; i < n_in; i++) {
    if (in[i].id < 0 || in[i].id > g->n_values)
      return lc_fail(g->ctx, "op %s: input %d is no value of this graph", op->name, i);
    node->in[i] = in[i];
  }
  if (attr_size) {
    node->attr = lc_graph_alloc(g, attr_size);
    if (!node->attr) return LC_FAILED;
    memcpy(node->attr, attr, attr_size);
  }
  g->node[g->n_nodes++] = node;
  LC_TRY(op->shape(g, node));
  if (out) *out = node->out[0];
  return LC_OK;
}

lc_status lc_node_out(lc_graph *g, lc_node *node, int j, const char *name, lc_dtype dtype, int64_t width) {
  node->out[j] = add_value(g, name, dtype, width, g->n_nodes - 1);
  if (!node->out[j].id) return LC_FAILED;
  if (j >= node->n_out) node->n_out = j + 1;
  return LC_OK;
}

void lc_graph_keep(lc_graph *g, lc_val v) {
  if (v.id) g->value[v.id - 1].keep = true;
}

const lc_value *lc_value_get(const lc_graph *g, lc_val v) {
  return v.id > 0 && v.id <= g->n_values ? &g->value[v.id - 1] : NULL;
}
int lc_graph_nodes(const lc_graph *g) {
  return g->n_nodes;
}
const lc_node *lc_graph_node(const lc_graph *g, int i) {
  return g->node[i];
}
