/* What graph.c, plan.c and run.c share. */
#ifndef LC_GRAPH_PRIV_H
#define LC_GRAPH_PRIV_H
#include "tensor/graph.h"

struct lc_graph {
  lc_ctx *ctx;
  lc_value *value;
  int n_values, cap_values; /* value of id i at i-1 */
  lc_node **node;
  int n_nodes, cap_nodes;
  void **owned;
  int n_owned, cap_owned;
  int block;
};

/* One step of the backward pass: a node's forward again (recomputation), or its backward. */
typedef struct {
  const lc_node *node;
  bool again;
} lc_back_step;

typedef struct {
  size_t data, grad;   /* offsets in the arena; SIZE_MAX: none */
  lc_dtype grad_dtype; /* LC_NONE: no gradient */
  lc_dtype dtype;
  int64_t width;
} lc_place;

struct lc_plan {
  lc_graph *g;
  lc_plan_opts opts;
  lc_place *place; /* by value id - 1 */
  lc_back_step *back;
  int n_back;
  size_t bytes;
};
#endif
