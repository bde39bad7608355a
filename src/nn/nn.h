/* nn: weights (a form and deltas), trainables, the builder that model files speak, and the op table.
 *
 * Letters: T rows (tokens), C width, H heads, G key/value heads, D head width, F feed-forward width, V
 * vocabulary, R rank, M×N a weight (out×in, Hugging Face order), K nonzeros. Weff = round(f32(base) + Σ
 * scale·δ). */
#ifndef LC_NN_H
#define LC_NN_H
#include "sparse/sparse.h" /* lc_index, lc_topk */
#include "core/options.h"
#include "tensor/graph.h"

typedef struct lc_weight lc_weight;
typedef struct lc_delta lc_delta;
typedef struct lc_param lc_param;
typedef struct lc_builder lc_builder;
struct lc_q8_vector;

/* ---- visitor: names the arrays of whatever lives across steps. Checkpoint, resume check, byte count and
 * copy are visitors ---- */
typedef struct lc_visitor lc_visitor;
struct lc_visitor {
  /* n elements at data, in place: a saver reads them, a loader overwrites them. Names are unique within a
   * run. */
  lc_status (*array)(lc_visitor *, const char *name, lc_dtype, int64_t n, void *data);
  void *self;
};

/* ---- trainables ---- */
enum { LC_MAX_COLUMNS = 6 };
typedef enum { LC_AXIS_ENTRY, LC_AXIS_ROW, LC_AXIS_COL } lc_axis;
typedef struct {
  const char *name;
  lc_axis axis;
  int64_t n;
  float initial;
  float *data;
} lc_column; /* "m", "v", "age", "momentum", "acc_row", "acc_col" */
struct lc_param {
  char *name;         /* unique; key in checkpoints: "<weight>.delta", "<weight>.lora_A", "<weight>" */
  lc_weight *of;      /* the weight whose entries these are; NULL: a new tensor (LoRA's factors) */
  lc_index idx;       /* sorted distinct flat positions in `of`; LC_ALL for whole tensors */
  int64_t n;          /* values */
  int64_t rows, cols; /* of the whole tensor (`of`, or the new tensor) */
  float *value;       /* n, f32, the master copy */
  float *grad;        /* n, added to by backward, zeroed by the loop; NULL until something trains it */
  lc_index retired;   /* positions that changed and are no longer trained: applied and saved, in no column; */
  float *retired_value; /* sorted, disjoint from idx; n = 0: none (retire.c) */
  bool decays;          /* weight decay applies (not to biases and norms) */
  float lr_factor;      /* 1 unless the method says otherwise */
  bool wants_grad;      /* off: frozen, backward skips it */
  lc_column col[LC_MAX_COLUMNS];
  int n_col;
};
/* Allocates value (LC_MEM_TRAINABLE) and, when trained, grad (LC_MEM_GRAD) for idx->n entries (LC_ALL:
 * rows·cols); takes over idx's memory. */
lc_status lc_param_new(lc_ctx *, const char *name, lc_weight *of, lc_index *idx, int64_t rows, int64_t cols,
                       bool trained, lc_param **);
void lc_param_free(lc_ctx *, lc_param *);
lc_status lc_param_column(lc_ctx *, lc_param *, const char *name, lc_axis, float initial,
                          float **data);                    /* creates, or finds */
float *lc_param_find(const lc_param *, const char *column); /* NULL when absent */
/* Moves to a new index of the same length: value, grad and every ENTRY column follow; from[k] is the old
 * place of new entry k, -1: fresh (value and grad 0, columns their initial). Allocation-free: `tmp` is n
 * floats of the caller. */
lc_status lc_param_reindex(lc_param *, const void *to /* int32 or int64 as idx is */, const int64_t *from,
                           float *tmp);
/* Moves to the sorted positions `to`, of any number (taken over): what stays keeps value, gradient and ENTRY
 * columns; what leaves with a value other than 0 retires; what enters has the columns' initial and the value that it
 * retired with, or 0. Allocates. *stayed may be NULL. */
lc_status lc_param_move(lc_ctx *, lc_param *, lc_index *to, int64_t *stayed);
/* All columns have their initial value again. */
void lc_param_reset(lc_param *);
/* Room for n retired entries, whose positions and values the caller (or a checkpoint's loader) fills in. */
lc_status lc_param_retired_new(lc_ctx *, lc_param *, int64_t n);
/* Trained and retired entries as one sorted list: borrowed when none has retired, else made. */
typedef struct {
  lc_index idx;
  float *value;
  bool owned;
} lc_entries;
lc_status lc_param_entries(lc_ctx *, const lc_param *, lc_entries *);
void lc_entries_free(lc_ctx *, lc_entries *);
lc_status lc_param_visit(lc_param *, lc_visitor *); /* value, positions, columns, what retired; not grad */
size_t lc_param_bytes(const lc_param *);            /* of what survives a step: value, positions, columns */

/* ---- form: how a weight is stored ---- */
typedef struct lc_form lc_form;
typedef struct {
  const char *name;
  /* Writes the rectangle, in logical out×in HF order, as F32 or BF16. */
  lc_status (*decode)(lc_ctx *, const lc_form *, lc_rect, lc_dtype, void *dst, int64_t ld);
  /* The rectangle's own memory when it is row-major in that dtype; else NULL. */
  const void *(*borrow)(const lc_form *, lc_rect, lc_dtype, int64_t *ld);
  /* y[i] = Σ_c W[r0+i,c]·x[c] for rows [r0,r1), one token, straight from storage; NULL: decode. */
  lc_status (*gemv)(lc_ctx *, const lc_form *, int64_t r0, int64_t r1, const float *x, float *y);
  size_t (*bytes)(const lc_form *);
  void (*free)(lc_ctx *, lc_form *);
} lc_form_ops;
struct lc_form {
  const lc_form_ops *ops;
  lc_tensor src;          /* storage; M×N (or N×M when transposed) */
  bool transposed;        /* GPT-2's Conv1D */
  const int32_t *row_map; /* logical row -> stored row (a GGUF's permuted q/k), or NULL; owned by the model */
  bool writable;          /* private row-major copy: lc_form_data gives its memory */
  void *priv;
};
/* Forms over memory that others own (mapped file): dense or GGUF-quantised by src.dtype. */
lc_status lc_form_view(lc_ctx *, const lc_tensor *src, bool transposed, const int32_t *row_map, lc_form **);
/* A private writable row-major M×N copy of base in dtype (F32, BF16, F16), LC_MEM_FORM. */
lc_status lc_form_copy(lc_ctx *, const lc_form *base, int64_t M, int64_t N, lc_dtype, lc_form **);
/* Over a param's f32 values (full fine-tuning: the master is the weight). Borrows. */
lc_status lc_form_of_param(lc_ctx *, const lc_param *, lc_form **);
void *lc_form_data(lc_form *); /* NULL unless writable */
/* Single values: where n ascending flat positions of an M×N weight are stored; fetches those places ahead; reads them, as decode does. */
void lc_form_places(const lc_form *, int64_t M, int64_t N, int64_t n, const int64_t *flat, int64_t *place);
void lc_form_prefetch(const lc_form *, int64_t n, const int64_t *place);
void lc_form_pick(lc_ctx *, const lc_form *, int64_t n, const int64_t *place, float *dst);
/* Whether one-token products with a vector in bytes (kernels.h, lc_q8_vector) are possible: quantised storage; and such a product. */
bool lc_form_takes_q8(const lc_form *);
lc_status lc_form_gemv_q8(lc_ctx *, const lc_form *, int64_t r0, int64_t r1, const struct lc_q8_vector *x,
                          float *y);
/* Packs rows [r0,r1), 16 at most, for the integer products of prompts (kernels.h, pack_q8). */
void lc_form_pack_q8(lc_ctx *, const lc_form *, int64_t r0, int64_t r1, void *packed);
void lc_form_free(lc_ctx *, lc_form *);

/* ---- weight ---- */
typedef enum {
  LC_KIND_LINEAR,
  LC_KIND_EMBEDDING,
  LC_KIND_HEAD,
  LC_KIND_NORM,
  LC_KIND_BIAS,
  LC_KIND_POSITION
} lc_weight_kind;
typedef enum { LC_PATCH, LC_IN_PLACE, LC_ASIDE } lc_apply;

/* A consumer of a weight's gradient. ENTRIES: sampled at param->idx, times factor, and added to param->grad. DENSE:
 * the whole dW added to param->grad (LC_ALL). TILES: strips of dW are computed, handed over, and forgotten
 * (workers call at once, the tile is in the worker's scratch); a param, when there is one, says by wants_grad whether. COLUMNS and ROWS: dW[:,lines] (M,k) or dW[lines,:] (k,N)
 * added to param->grad; for COLUMNS a graph keeps x[lines] alone, not x. INPUT: no gradient; each forward pass adds
 * Σ_t x² of each column of the weight's input to squares (N of them). */
typedef struct {
  lc_rect at;
  const float *dw;
  int64_t ld;
  int use, n_uses;
  int worker;
} lc_tile;
typedef lc_status (*lc_tile_fn)(void *self, lc_weight *, const lc_tile *);
typedef lc_status (*lc_tiles_end_fn)(void *self, lc_weight *);
typedef enum {
  LC_SINK_ENTRIES,
  LC_SINK_DENSE,
  LC_SINK_TILES,
  LC_SINK_COLUMNS,
  LC_SINK_ROWS,
  LC_SINK_INPUT
} lc_sink_kind;
typedef struct {
  lc_sink_kind kind;
  lc_param *param;
  lc_tile_fn tile;
  void *self;
  lc_tiles_end_fn end; /* TILES: all strips of a use have been handed over; or NULL */
  float factor;        /* ENTRIES; 0 means 1 */
  const int32_t *lines;
  int64_t n_lines; /* COLUMNS, ROWS: ascending; borrowed */
  double *squares; /* INPUT; borrowed */
} lc_sink;

enum { LC_MAX_DELTAS = 8, LC_MAX_SINKS = 6, LC_DELTA_PARAMS = 6 };
struct lc_weight {
  const char *name;   /* HF name with suffix: "model.layers.0.self_attn.q_proj.weight" */
  const char *module; /* without the suffix */
  uint32_t id;        /* FNV-1a of name: random numbers are keyed by it */
  int layer;          /* -1: none */
  lc_weight_kind kind;
  int64_t M, N; /* a vector: M = 1 */
  int ndim;
  lc_form *base; /* of the model: never written */
  lc_form *form; /* what is used: base, or a private form (full fine-tuning, in place) */
  float *vector; /* ndim 1: f32, resident (or the param's values) */
  lc_delta *delta[LC_MAX_DELTAS];
  int n_delta; /* in order of attachment */
  lc_sink sink[LC_MAX_SINKS];
  int n_sink;
  int uses;                    /* nodes of the built graph that read it */
  bool head;                   /* of the task's own head: trained whole beside what a method trains */
  struct lc_weight *head_bias; /* added to the logits where this weight is an output head; or NULL */
};
/* The effective rectangle in dtype (F32 or BF16): borrowed when nothing changes it, else decoded and patched
 * into the worker's scratch (slots 0 and 1 are this function's). */
lc_status lc_weight_tile(lc_ctx *, int worker, const lc_weight *, lc_rect, lc_dtype, const void **tile,
                         int64_t *ld);
/* Its two halves: the rectangle's own memory, NULL when there is none as it should be; and decoding and patching into
 * dst, rows without gaps. */
const void *lc_weight_borrow(const lc_weight *, lc_rect, lc_dtype, int64_t *ld);
lc_status lc_weight_decode(lc_ctx *, int worker, const lc_weight *, lc_rect, lc_dtype, void *dst);
/* In place: makes or refreshes the private copy from base and all deltas that are IN_PLACE (touched entries
 * only where possible). */
lc_status lc_weight_refresh(lc_ctx *, lc_weight *);
/* The same after a delta of it came, left, or changed its scale in place: only its entries are computed again where that is enough (touch.c). A
 * copy is kept, with the base's own bits, while a delta is in place at scale 0: switching it on again costs its entries. */
lc_status lc_weight_switched(lc_ctx *, lc_weight *, lc_delta *);
void lc_delta_forget_under(lc_ctx *, lc_delta *); /* when it is in place no longer */
lc_status lc_weight_add_sink(lc_ctx *, lc_weight *, lc_sink);
void lc_weight_remove_sink(lc_weight *, const void *self_or_param);
bool lc_sink_wants(const lc_sink *);                   /* a gradient, now */
bool lc_weight_trains(const lc_weight *);              /* a sink that wants gradients now */
bool lc_weight_wants(const lc_weight *, lc_sink_kind); /* one of that kind that wants something now */
int64_t lc_weight_columns(const lc_weight *);          /* Σ n_lines of COLUMNS that want gradients now */
/* dW of one use, given x (T,N) and dy (T,M), to every sink but COLUMNS. dtypes F32 or BF16. dy already carries the
 * loss scale. */
lc_status lc_weight_gradient(lc_run *, lc_weight *, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt,
                             const void *dy, int64_t lddy, int64_t T, int use);
/* To the COLUMNS: x[lines] of all of them side by side, (T, lc_weight_columns), in the dtype of dy. */
lc_status lc_weight_gradient_columns(lc_run *, lc_weight *, lc_dtype, const void *x, const void *dy,
                                     int64_t lddy, int64_t T);

/* ---- delta: a nameable, removable change of a weight ---- */

/* Named places that every model file passes its values through. */
typedef enum {
  LC_TAP_EMBED_OUT,
  LC_TAP_ATTN_IN,
  LC_TAP_Q,
  LC_TAP_K,
  LC_TAP_HEAD_OUT,
  LC_TAP_ATTN_OUT,
  LC_TAP_MID_RESIDUAL,
  LC_TAP_MLP_IN,
  LC_TAP_MLP_HIDDEN,
  LC_TAP_MLP_OUT,
  LC_TAP_BLOCK_OUT,
  LC_TAP_FINAL_NORM_OUT,
  LC_TAP_COUNT
} lc_tap_point;

/* A walk over the positions that a delta changes, ascending. Its lists are apart from each other and numbered from 0; so are the positions of each. */
typedef struct {
  int which;
  int64_t from, end; /* flat */
  int64_t next;      /* number of the next position; -1: of the first at or after `from` */
  bool none;         /* out: there is no such list */
} lc_walk;

typedef struct {
  const char *name;
  bool mergeable;
  bool beneath; /* acts on the base alone: it is attached before any other delta */
  /* Emits ops around the layer: y (already W·x + b (+ residual)) becomes out. NULL: the delta patches. */
  lc_status (*emit)(lc_delta *, lc_builder *, lc_val x, lc_val y, lc_val *out);
  /* A delta of a whole block, which merely hangs on one of its weights: called at every tap of every layer but
   * ATTN_OUT and MLP_OUT (where a tap would cost a product that is fused with its residual). Returns the value to
   * go on with; errors go to b->st. Such a delta neither emits nor patches. */
  lc_val (*tap)(lc_delta *, lc_builder *, lc_tap_point, int layer, lc_val);
  /* Adds scale·δ to an f32 tile of the rectangle. NULL: cannot be merged. */
  lc_status (*patch)(lc_ctx *, const lc_delta *, lc_rect, float *tile, int64_t ld);
  /* When it is the only patching delta: tile = round(f32(tile) + scale·δ) at its positions, in bf16. May be
   * NULL. */
  lc_status (*patch_bf16)(lc_ctx *, const lc_delta *, lc_rect, uint16_t *tile, int64_t ld);
  /* y[0..r1-r0) += scale·δ[r0:r1,:]·x, one token (aside). NULL: not aside. */
  lc_status (*aside)(lc_ctx *, const lc_delta *, int64_t r0, int64_t r1, const float *x, float *y);
  /* A delta that changes some entries only: writes up to `room` positions of a walk over them, and returns how many; and f[i] becomes what
   * patch makes of it at n ascending positions, which are numbers number … of its list `which`, or any (which = -1). NULL: a whole matrix. */
  int64_t (*walk)(const lc_delta *, lc_walk *, int64_t room, int64_t *flat);
  void (*at)(const lc_delta *, int which, int64_t number, int64_t n, const int64_t *flat, float *f);
  lc_status (*visit)(lc_delta *, lc_visitor *); /* its params */
  int64_t (*nonzeros)(const lc_delta *);        /* stored values */
  void (*free)(lc_ctx *, lc_delta *);
} lc_delta_ops;
struct lc_delta {
  const lc_delta_ops *ops;
  lc_weight *w;
  float scale; /* user's scale at use; 1 in training */
  lc_apply apply;
  lc_param *param[LC_DELTA_PARAMS]; /* sparse: {δ}; lora: {A, B}. Owned */
  int n_param;
  float *
      under; /* in place: the base's values at list 0 of its walk, so that switching reads no base (touch.c); or NULL */
  void *priv; /* ops->free frees it */
};
lc_status
lc_weight_attach(lc_ctx *, lc_weight *,
                 lc_delta *); /* takes it over on success; refuses what cannot be combined, in a sentence */
void lc_weight_detach(
    lc_ctx *, lc_weight *, lc_delta *,
    bool free_it); /* refreshes an in-place copy: the base's own bits are back when none is left */

/* delta_sparse.c: K positions and values (int32 or int64 flat indices, f32 values). Takes over idx. trainable
 * adds an ENTRIES sink. */
lc_status lc_delta_sparse_new(lc_ctx *, lc_weight *, lc_index *idx, const float *values /* or NULL: zeros */,
                              bool trainable, lc_delta **);
/* The change is factor·δ (1 unless set), and gradients have the factor: set before it is attached. */
void lc_delta_sparse_set_factor(lc_delta *, double factor);
double lc_delta_sparse_factor(const lc_delta *);
/* A detached copy of a sparse delta with the entries whose |δ| is above the threshold, what has retired included; *out is
 * NULL when there are none. */
lc_status lc_delta_sparse_beyond(lc_ctx *, const lc_delta *, double threshold, lc_delta **out);
/* Name of the trainable that the next sparse delta of a weight will have; lc_free. */
char *lc_delta_sparse_name(lc_ctx *, const lc_weight *);
/* delta_lora.c: y += s·B·(A·drop(x)); A (R,N), B (M,R); s = alpha/R, or alpha/√R (rslora). Values copied;
 * NULL: A uniform in ±1/√N keyed by (seed, weight), B zero. */
typedef struct {
  int64_t rank;
  float alpha;
  bool rslora;
  float dropout;
  uint64_t seed;
} lc_lora_opts;
lc_status lc_delta_lora_new(lc_ctx *, lc_weight *, const lc_lora_opts *, const float *A, const float *B,
                            bool trainable, lc_delta **);
/* Coefficients on dout in the gradients of A and B alone: dB = (g∘dout)ᵀ·s·h, dA = (s·(g∘dout)·B)ᵀ·x̃, while dx follows
 * dout itself. row: M values, g_ti = row[i]. output: from z_t = s·B·A·x̃_t, in place (z becomes g). Neither: 1. */
typedef struct {
  const float *row;
  void (*output)(const void *self, int64_t n, float *z);
  const void *self;
} lc_gain;
void lc_delta_lora_gain(lc_delta *, lc_gain); /* borrows row and self */
const lc_gain *lc_delta_lora_gain_of(const lc_delta *);
float lc_delta_lora_scale(const lc_delta *);
const lc_lora_opts *lc_delta_lora_opts(const lc_delta *);
extern const lc_delta_ops lc_delta_sparse, lc_delta_lora;

/* What a delta holds beside its params: lists of lines, masks. In place, as for a visitor. */
typedef struct {
  const char *name;
  lc_dtype dtype; /* I32 or U8 */
  int64_t n;
  void *data;
} lc_array;
enum { LC_DELTA_ARRAYS = 2 };
/* Kinds that describe themselves: adapter files keep a delta as its kind, its options as text, its params and arrays by
 * name. */
typedef struct {
  const lc_delta_ops *ops;
  const lc_option *options; /* over a plain struct of `size` bytes */
  size_t size;
  const char *const *params;                   /* names of param[0], param[1], … */
  const void *(*options_of)(const lc_delta *); /* that struct */
  /* A detached delta. `made`: those that the same adapter has made so far, for kinds that stand on another. */
  lc_status (*make)(lc_ctx *, lc_weight *, const void *options, lc_delta *const *made, int n_made,
                    bool trainable, lc_delta **);
  int (*arrays)(const lc_delta *, lc_array *); /* how many of LC_DELTA_ARRAYS; NULL: none */
  /* Params and arrays have been read: what they must be is checked here, and what follows from them made; NULL:
   * anything is right. */
  lc_status (*loaded)(lc_ctx *, lc_delta *);
} lc_delta_kind;
extern const lc_delta_kind *const lc_delta_kinds[];
extern const int lc_n_delta_kinds;
const lc_delta_kind *lc_delta_kind_of(const lc_delta_ops *); /* NULL: none */
const lc_delta_kind *lc_delta_kind_find(const char *name);
/* What deltas' files share: a trainable "<weight>.<what>" (numbered when the weight has other deltas), and freeing one
 * whose state is all in params and priv. */
lc_status lc_delta_param(lc_ctx *, lc_delta *, const char *what, int64_t rows, int64_t cols, bool trainable);
void lc_delta_free(lc_ctx *, lc_delta *);
/* Names a delta's arrays to a visitor, as "<weight>.<kind>.<array>": for methods, whose checkpoints know params only. */
lc_status lc_delta_visit_arrays(const lc_delta *, lc_visitor *);

/* ---- builder: what a model file speaks. Errors stick: after the first, calls return {0} and the status is
 * in b->st ---- */
typedef lc_val (*lc_tap_fn)(void *self, lc_builder *, lc_tap_point, int layer,
                            lc_val); /* returns the value to go on with */
typedef struct {
  lc_tap_fn fn;
  void *self;
} lc_tap_hook;
typedef struct {
  lc_weight *w;
  int n;
} lc_weights;                                                     /* sorted by name */
lc_weight *lc_weights_find(const lc_weights *, const char *name); /* NULL when absent */

/* A further loss of a pass: row 0 of a value whose op (LC_OP_LOSS) starts its own gradient, weighted as it counts. */
typedef struct lc_auxiliary {
  const char *name;
  lc_val v;
  struct lc_auxiliary *next;
} lc_auxiliary;

struct lc_builder {
  lc_ctx *ctx;
  lc_graph *g;
  const lc_weights *weights;
  lc_dtype compute;        /* F32 or BF16: dtype of values inside blocks */
  lc_val ids, pos, labels; /* inputs: int32 rows */
  lc_val types;            /* the same, for families that ask (lc_types); else none */
  lc_val pixels;           /* f32, a patch a row, for families that see (lc_pixels); else none */
  lc_tap_hook tap[4];
  int n_tap;
  int n_block_deltas;      /* deltas with a tap of their own */
  lc_auxiliary *auxiliary; /* owned by the graph */
  lc_status st;
};
/* Makes the graph's inputs ids, pos, labels. */
lc_status lc_builder_init(lc_builder *, lc_ctx *, lc_graph *, const lc_weights *, lc_dtype compute);
lc_val lc_types(lc_builder *); /* the input of token types: 0, or 1 in the second text of a pair */
lc_val lc_pixels(lc_builder *,
                 int64_t width); /* the input of patches (lc_image_patches); zeros in a picture's first row */
lc_val lc_tap(lc_builder *, lc_tap_point, int layer, lc_val); /* costs nothing when no hook is set */
void lc_add_auxiliary(lc_builder *, const char *name, lc_val);
void lc_block(lc_builder *, int layer); /* -1 ends the blocks */
/* fmt takes the layer number: lc_linear(b, x, res, "model.layers.%d.mlp.up_proj", l). ".weight", and ".bias"
 * when the model has it, are added. */
lc_val lc_embedding(lc_builder *, lc_val ids, const char *module);                     /* out: f32 */
lc_val lc_embedding_from(lc_builder *, lc_val ids, const char *module, int64_t first); /* row first + id */
lc_val lc_embedding_of(lc_builder *, lc_val ids, const char *weight); /* by the weight's whole name */
/* Rows of pictures: the class token's weight where ids is 0, else y. out: f32. */
lc_val lc_class_token(lc_builder *, lc_val y, lc_val ids, const char *weight);
lc_val lc_linear(lc_builder *, lc_val x, lc_val residual /* {0}: none; else added, and out has its dtype */,
                 const char *fmt, int layer);
lc_val lc_rmsnorm(lc_builder *, lc_val x, float eps, const char *fmt, int layer); /* out: compute dtype */
lc_val lc_layernorm(lc_builder *, lc_val x, float eps, const char *fmt, int layer);
/* For networks that normalise behind the residual sum: out is f32, the stream itself; lc_round makes what linear
 * layers take of it (itself, when the compute dtype is f32). */
lc_val lc_layernorm_wide(lc_builder *, lc_val x, float eps, const char *fmt, int layer);
lc_val lc_round(lc_builder *, lc_val x);
lc_val lc_sum(lc_builder *, lc_val a, lc_val b); /* a + b */
lc_val lc_silu_mul(lc_builder *, lc_val gate, lc_val up);
typedef enum { LC_GELU_TANH, LC_GELU_ERF, LC_RELU, LC_TANH } lc_activation_kind;
lc_val lc_activation(lc_builder *, lc_val x, lc_activation_kind);
lc_val lc_columns(lc_builder *, lc_val x, int64_t c0,
                  int64_t c1); /* a slice of columns (GPT-2's joined q,k,v) */
/* rotary position embedding (Su et al. 2021) and its extensions */
typedef enum { LC_ROPE_DEFAULT, LC_ROPE_LINEAR, LC_ROPE_DYNAMIC, LC_ROPE_YARN, LC_ROPE_LLAMA3 } lc_rope_type;
typedef struct {
  lc_rope_type type;
  int64_t dim;
  double theta, factor;
  int64_t original_context, context; /* original_max_position_embeddings, max_position_embeddings */
  double beta_fast, beta_slow, attention_factor /* 0: derived */, mscale, mscale_all_dim;
  bool truncate;                            /* yarn */
  double low_freq_factor, high_freq_factor; /* llama3 */
  const float *factors;                     /* a GGUF's rope_freqs.weight (dim/2 divisors), or NULL */
} lc_rope;
lc_val lc_rope_table(lc_builder *, lc_val pos, const lc_rope *); /* (rows, dim): cos | sin, once a pass */
lc_val lc_rotate(lc_builder *, lc_val x, lc_val table, int64_t heads, int64_t head_dim);
typedef struct {
  int64_t heads, kv_heads, head_dim, window;
  float scale;
  int layer;
  bool bidirectional; /* every row sees its whole segment; window is 0, and there is no cache */
} lc_attention_opts;
lc_val lc_attention(lc_builder *, lc_val q, lc_val k, lc_val v, const lc_attention_opts *);
/* Next-token loss through a chunked head: returns the row losses (nll, f32; 0 where label < 0). Logits are
 * never whole; the gradient of `hidden` is made in the same pass when training. The weight is the head (or
 * the tied embedding), its head_bias is added. Labels are rows of it: tokens, or the classes of a classifier. */
lc_val lc_head_loss(lc_builder *, lc_val hidden, lc_val labels, const char *weight_name);
/* The same with another loss of each row, a function of its nll = −log p(label): preference and policy
 * objectives are sums of such. row gives L and stores dL/dnll in *slope (1 and nll for next-token loss); it is
 * called on workers, row by row, in any order. out[0] is then L. */
typedef struct {
  float (*row)(void *self, int64_t row, float nll, float *slope);
  void *self;
} lc_row_loss;
lc_val lc_head_loss_of(lc_builder *, lc_val hidden, lc_val labels, const char *weight_name, lc_row_loss);
/* Next-token loss that makes the two draws of a row (lc_run.copies = 2) agree (R-Drop, Liang et al. 2021, arXiv
 * 2106.14448): the first has nll₁, the second again·nll₂ + agree·½(KL(p₂‖p₁) + KL(p₁‖p₂)), each KL with a gradient to
 * its second argument only. With one draw, plain nll. */
typedef struct {
  float again, agree;
} lc_pair_loss;
lc_val lc_head_loss_pairs(lc_builder *, lc_val hidden, lc_val labels, const char *weight_name, lc_pair_loss);
/* No loss but misses: 0 where the largest logit (the first of equals) is the label's, as greedy decoding would have it, else 1; NaN where no
 * logit is a number. It has no gradient. */
lc_val lc_head_misses(lc_builder *, lc_val hidden, lc_val labels, const char *weight_name);
/* Logits of rows [r0,r1) of `hidden`, straight from the head's weight: dst (rows, V) f32. */
lc_status lc_head_logits(lc_run *, lc_val hidden, const lc_weight *, int64_t r0, int64_t r1, float *dst);

/* ---- attention's cache, seen from the op (src/infer implements it) ---- */
typedef struct lc_kv_ops {
  /* Appends T rows of k and v (G·D wide, f32, leading dimension ld) of a layer for a sequence at positions
   * pos0... */
  lc_status (*append)(struct lc_kv *, int layer, int32_t sequence, int64_t pos0, int64_t T, const float *k,
                      const float *v, int64_t ld);
  /* Keys and values of kv head g, positions [0,n), as f32 (n,D) with leading dimension *ld (in worker scratch
   * slots 4, 5 when the cache must be decoded). */
  lc_status (*get)(struct lc_kv *, int layer, int32_t sequence, int64_t g, int64_t n, int worker,
                   const float **k, const float **v, int64_t *ld);
  /* The same where they are stored, (n,D) each, when they lie in one piece. */
  bool (*view)(const struct lc_kv *, int layer, int32_t sequence, int64_t g, int64_t n, const void **k,
               const void **v, lc_dtype *);
} lc_kv_ops;

/* ---- the op table: tests, docs and dumps walk it ---- */
extern const lc_op *const lc_ops[];
extern const int lc_n_ops;
extern const lc_op lc_op_embedding, lc_op_linear, lc_op_rmsnorm, lc_op_layernorm, lc_op_sum, lc_op_silu_mul,
    lc_op_round, lc_op_class_token, lc_op_activation, lc_op_columns, lc_op_rope_table, lc_op_rope,
    lc_op_attention, lc_op_head_loss, lc_op_low_rank;
#endif
