/* graph, plan, run: what is computed, where it lies in memory, and one instance of it.
 *
 * A graph is a list of nodes in order of computation; every value is a matrix of rows (tokens) × width.
 * Sequences of a micro-batch lie one after another in the rows (segments): there is no padding anywhere. A
 * plan lays out buffers for a capacity of rows: the lifetime of each value's data and gradient is known from
 * the op rows (what backward reads for the gradients wanted), so buffers share memory and the steady state
 * allocates nothing. A run owns the memory and replays the plan.
 *
 * A value has one dtype, in use and saved. Block inputs stay f32 in every mode; values inside a block follow
 * the compute dtype. With recomputation a block's inner values are computed again from its inputs just before
 * its backward: the same ops on the same inputs, so the same bits. Backward stops at the lowest node that
 * anything trainable depends on. */
#ifndef LC_GRAPH_H
#define LC_GRAPH_H
#include "tensor/dtype.h"

typedef struct {
  int32_t id;
} lc_val; /* 0: none */
typedef struct lc_graph lc_graph;
typedef struct lc_plan lc_plan;
typedef struct lc_run lc_run;
typedef struct lc_node lc_node;

enum { LC_MAX_IN = 6, LC_MAX_OUT = 3 };
#define LC_IN(i)                                                                                             \
  (1u << (i)) /* in a saves() mask: the data of in[i]; in a want mask: the gradient of in[i]  \
                              */
#define LC_OUT(j) (1u << (8 + (j))) /* in a saves() mask: the data of out[j] */
#define LC_PARAMS (1u << 16)        /* in a want mask: gradients of the node's own trainables */

enum {
  LC_OP_ROWWISE = 1,
  LC_OP_DISCRETE = 2 /* saved, never recomputed */,
  LC_OP_LOSS = 4 /* gradients start here */
};

/* One row an op. Everything the engine does with an op comes from here. */
typedef struct lc_op {
  const char *name;
  uint32_t flags;
  int grad_alias; /* 1+i: the gradient of in[i] may lie in the buffer of out[0]'s gradient (a residual that
                     passes straight through); 0 none */
  lc_status (*shape)(lc_graph *, lc_node *); /* checks inputs, declares outputs with lc_node_out */
  bool (*trains)(const lc_node *);           /* has trainables that want gradients now; NULL: never */
  uint32_t (*saves)(const lc_node *,
                    uint32_t want); /* what backward reads, for the gradients wanted; NULL: nothing */
  lc_status (*forward)(const lc_node *, lc_run *, int64_t r0, int64_t r1);
  /* Runs node[0] together with those after it (n in all) that make one loop with it, and says how many it ran; 0: none, call forward.
   * May be NULL. */
  int (*joint)(const lc_node *const *node, int n, lc_run *, lc_status *);
  lc_status (*backward)(const lc_node *, lc_run *, int64_t r0, int64_t r1); /* NULL: no gradient passes */
} lc_op;

struct lc_node {
  const lc_op *op;
  lc_val in[LC_MAX_IN], out[LC_MAX_OUT];
  int n_in, n_out, block; /* block -1: outside */
  void *attr;             /* owned by the graph */
  /* set by the plan */
  uint32_t want;      /* LC_IN(i), LC_PARAMS */
  uint32_t overwrite; /* LC_IN(i): this node is the first to write that gradient (backward order), so it
                         stores instead of adding */
};

typedef struct {
  const char *name;
  lc_dtype dtype;
  int64_t width;
  int producer /* node, -1: an input */, block;
  bool keep;
} lc_value;

/* -- building -- */
lc_status lc_graph_new(lc_ctx *, lc_graph **);
void lc_graph_free(lc_graph *);
lc_ctx *lc_graph_ctx(const lc_graph *);
void *lc_graph_alloc(lc_graph *, size_t size); /* zeroed, freed with the graph */
lc_val lc_graph_input(lc_graph *, const char *name, lc_dtype,
                      int64_t width);       /* id 0 on failure (error set) */
void lc_graph_block(lc_graph *, int block); /* following nodes belong to it; -1: none */
/* Appends a node. attr_size bytes of attr are copied. out receives out[0] (may be NULL). */
lc_status lc_emit(lc_graph *, const lc_op *, const void *attr, size_t attr_size, const lc_val *in, int n_in,
                  lc_val *out);
lc_status lc_node_out(lc_graph *, lc_node *, int j, const char *name, lc_dtype,
                      int64_t width);   /* from op->shape */
void lc_graph_keep(lc_graph *, lc_val); /* data stays valid until the end of the pass (taps, outputs) */
const lc_value *lc_value_get(const lc_graph *, lc_val);
int lc_graph_nodes(const lc_graph *);
const lc_node *lc_graph_node(const lc_graph *, int i);

/* -- planning -- */
typedef struct {
  int64_t rows;
  bool training, recompute;
} lc_plan_opts;
lc_status lc_plan_new(lc_graph *, const lc_plan_opts *, lc_plan **);
void lc_plan_free(lc_plan *);
size_t lc_plan_bytes(const lc_plan *); /* size of the arena */
int64_t lc_plan_rows(const lc_plan *);
bool lc_plan_wants_grad(const lc_plan *, lc_val);

/* -- running -- */
typedef struct {
  int64_t row0, row1;
  int32_t sequence, adapter;
  int64_t pos0; /* position of row0 in its sequence */
} lc_segment;
typedef struct {
  int b0, b1;
  int64_t r0, r1;
} lc_span; /* blocks [b0,b1), rows: room for windows; today the whole (NULL) */

struct lc_kv;
struct lc_kv_ops;
struct lc_run {
  lc_ctx *ctx;
  const lc_plan *plan;
  uint8_t *arena;
  int64_t rows; /* of this pass, <= capacity */
  const lc_segment *seg;
  int n_seg;           /* sorted by row, covering all rows */
  bool training;       /* dropout on, gradients wanted of this pass */
  float loss_scale;    /* 1 / the update's number of targets: gradients come out of the update's mean loss */
  int copies;          /* 2: the second half of the rows repeats the first, in another draw; else 0 or 1 */
  float example_scale; /* 1 / the update's number of examples: the share of one in an auxiliary loss */
  struct lc_kv *kv;    /* attention reads and appends here when not NULL (src/infer) */
  const struct lc_kv_ops *kv_ops; /* its functions (nn/nn.h) */
  bool int8; /* products of quantised weights may round tokens to bytes: generation only */
  uint64_t seed;
  uint32_t step, micro; /* for counter-based draws inside ops */
};
lc_status lc_run_new(lc_ctx *, const lc_plan *, lc_run **);
void lc_run_free(lc_run *);
/* Starts a pass: number of rows and their segments (borrowed until the pass ends). */
lc_status lc_run_begin(lc_run *, int64_t rows, const lc_segment *, int n_seg);
void *lc_data(const lc_run *, lc_val); /* row 0 of a value's data */
void *lc_grad(const lc_run *, lc_val); /* row 0 of its gradient (dtype: lc_grad_dtype) */
int64_t lc_width(const lc_run *, lc_val);
lc_dtype lc_value_dtype(const lc_run *, lc_val);
lc_dtype lc_grad_dtype(const lc_run *, lc_val); /* F32 when several nodes add to it, else the value's own */
lc_status lc_forward(lc_run *, const lc_span *);
lc_status lc_backward(lc_run *,
                      const lc_span *); /* after a forward with training set; nothing to do is fine */

/* -- for ops: rows of any float dtype as f32 -- */
/* Row r of a value as f32: the data itself when it is f32, else decoded into tmp (width floats). */
const float *lc_row_get(const lc_run *, lc_val, int64_t r, float *tmp);
void lc_row_put(const lc_run *, lc_val, int64_t r,
                const float *src); /* rounds to the value's dtype; src may be the row itself */
const float *lc_grad_row_get(const lc_run *, lc_val, int64_t r, float *tmp);
/* Stores (overwrite) or adds f32 row to the gradient of in[i]. */
void lc_grad_row_put(const lc_node *, const lc_run *, int i, int64_t r, const float *src);
/* out[0]'s gradient data moved to in[i]'s: a copy, or nothing when the plan aliased them. */
lc_status lc_grad_pass(const lc_node *, lc_run *, int i, int64_t r0, int64_t r1);
/* Calls fn for rows [r0,r1) in chunks of `chunk` rows on the workers. */
typedef lc_status (*lc_rows_fn)(const lc_node *, lc_run *, int64_t r0, int64_t r1, int worker);
lc_status lc_for_rows(const lc_node *, lc_run *, int64_t r0, int64_t r1, int64_t chunk, lc_rows_fn);
#endif
