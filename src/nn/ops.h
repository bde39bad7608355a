/* What the ops of this room share: their attributes and small helpers. */
#ifndef LC_OPS_H
#define LC_OPS_H
#include "nn/nn.h"

typedef struct {
  lc_weight *w;
  int64_t first;
} lc_embedding_attr;
typedef struct {
  lc_weight *w, *bias;
  lc_dtype compute;
  int use;
} lc_linear_attr;
typedef struct {
  lc_weight *w;
} lc_gather_attr; /* gather: the columns that w's COLUMNS name; input_squares: for w's INPUT */
extern const lc_op lc_op_gather, lc_op_input_squares;
typedef struct {
  lc_weight *w, *b;
  float eps;
  lc_dtype compute;
} lc_norm_attr;
typedef struct {
  int64_t c0, c1;
} lc_columns_attr;
typedef struct {
  int64_t heads, head_dim;
} lc_rotate_attr;
typedef struct {
  lc_weight *w;
  lc_dtype compute;
  int use;
  lc_row_loss link; /* row NULL: the loss is the nll itself */
  bool paired;
  lc_pair_loss pair;
  bool misses;
} lc_head_attr;

/* Emits unless an error stuck before. */
lc_val lc_build(lc_builder *, const lc_op *, const void *attr, size_t size, const lc_val *in, int n_in);
/* Looks a weight up by module and suffix and counts the use; NULL when absent (an error when required). */
lc_weight *lc_build_weight(lc_builder *, const char *fmt, int layer, const char *suffix, bool required);

static inline size_t lc_size_of(lc_dtype d) {
  return d == LC_BF16 ? 2 : 4;
}
/* linear_few.c, linear_prompt.c: together lc_op_linear's joint. */
int lc_linear_few(const lc_node *const *, int n, lc_run *, lc_status *);
int lc_linear_prompt(const lc_node *const *, int n, lc_run *, lc_status *);
/* attention_bf16.c: lc_op_attention over values in bf16, without a cache. */
lc_status lc_attention_bf16_forward(const lc_node *, lc_run *);
lc_status lc_attention_bf16_backward(const lc_node *, lc_run *);
/* Adds Σ over rows of partial vectors (parts × n, in order) to every dense sink of a vector weight. */
void lc_add_vector_gradient(lc_weight *, const float *parts, int64_t n_parts, int64_t n);
#endif
