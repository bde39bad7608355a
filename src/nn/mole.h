/* A mixture of low-rank experts (delta_mole.c) and its ops. */
#ifndef LC_MOLE_H
#define LC_MOLE_H
#include "nn/nn.h"

typedef enum { LC_GATE_ST, LC_GATE_NONE, LC_GATE_PROB, LC_GATE_DENSE } lc_gate;
typedef enum { LC_BALANCE_LAYER, LC_BALANCE_JOINT } lc_balance_scope;

/* The route of one block: hangs on the first FFN weight, whose input it reads. param: weight (E,N), bias (1,E). */
typedef struct {
  int64_t experts, seed;
  double balance; /* weight of the balance loss; 0: none. Of trainable routes only */
  int scope;      /* lc_balance_scope */
} lc_route_opts;
lc_status lc_delta_route_new(lc_ctx *, lc_weight *, const lc_route_opts *, bool trainable, lc_delta **);
/* The route's values in the graph built last: p (T,E) f32, choice (T,1) i32; kept while a pass lasts. */
void lc_delta_route_values(const lc_delta *, lc_val *p, lc_val *choice);

/* E pairs A_e (R,N), B_e (M,R) beside a layer, chosen by a route. param: A (E·R,N), B (E·M,R). */
typedef struct {
  int64_t experts, rank, seed;
  double alpha, dropout;
  int gate; /* lc_gate */
} lc_experts_opts;
lc_status lc_delta_experts_new(lc_ctx *, lc_weight *, lc_delta *route, const lc_experts_opts *,
                               bool trainable, lc_delta **);
const lc_experts_opts *lc_delta_experts_opts(const lc_delta *);

typedef struct {
  lc_delta *delta;
} lc_mole_attr; /* ops route (in: x; out: p, choice) and experts (in: y, x, p, choice; out: y', h) */
typedef struct {
  int64_t experts, layers;
  double weight;
  int scope;
} lc_balance_attr; /* ops balance_sum (in: p, choice, and the sums so far or none; out: sums) and balance_loss (in: sums) */
extern const lc_delta_ops lc_delta_route, lc_delta_experts;
extern const lc_op lc_op_route, lc_op_experts, lc_op_balance_sum, lc_op_balance_loss;
#endif
