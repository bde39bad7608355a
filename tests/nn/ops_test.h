/* What test_ops.c runs its cases on: weights, a graph of one op, its plan and run, and a loss over what the op gives. */
#ifndef LC_OPS_TEST_H
#define LC_OPS_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "nn/nn.h"

enum {
  MAX_WEIGHTS = 12,
  FEW_ROWS = 45,
  MANY_ROWS = 300 /* from 256 on, linear layers pack their weights where that pays */
};
extern int64_t T; /* rows of a pass */

typedef struct {
  lc_ctx *ctx;
  lc_weight w[MAX_WEIGHTS];
  lc_param *param[MAX_WEIGHTS];
  int n;
  lc_weights set;
  lc_graph *g;
  lc_builder b;
  lc_plan *plan;
  lc_run *run;
  lc_val y;
  bool own_loss;
  int joint;
  bool bidirectional;
  lc_delta *delta[4];
  int n_delta, n_delta_params;
} rig;

typedef struct {
  const char *op, *what;
  void (*weights)(rig *);
  lc_val (*build)(rig *);
  bool own_loss;
  float tolerance;
} test_case;

/* A weight with its parameter and a dense sink; embeddings and matrices have two dimensions, vectors one. */
void add_weight(rig *k, const char *name, lc_weight_kind kind, int64_t M, int64_t N, int ndim, float mean,
                float spread);
void rig_open(rig *k, const test_case *c, lc_dtype compute, int threads, bool scalar, bool recompute);
void rig_close(rig *k);
double loss(rig *k);     /* forward */
double backward(rig *k); /* forward and backward, from gradients of zero */
/* ‖a−b‖/‖b‖ of all gradients between two rigs. */
double distance(rig *a, rig *b);

#endif
