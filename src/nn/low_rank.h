/* What delta_lora.c gives to its op. */
#ifndef LC_LOW_RANK_H
#define LC_LOW_RANK_H
#include "nn/nn.h"
typedef struct {
  lc_delta *delta;
  lc_dtype x_dtype, y_dtype; /* set by the shape rule */
} lc_low_rank_attr;          /* in: y, x; out: y', h */

/* low_rank_bf16.c: whether the node's products can be in bf16, and its forward and backward passes then (but for dy). */
bool lc_low_rank_narrow(const lc_node *, const lc_run *);
lc_status lc_low_rank_bf16_forward(const lc_node *, lc_run *, int64_t r0, int64_t r1);
lc_status lc_low_rank_bf16_backward(const lc_node *, lc_run *, int64_t r0, int64_t r1);

/* Multiplies `cols` values of row r from column c of an input N wide by their dropout mask, 0 or 1/(1-p): a function of
 * (seed, step, micro-batch, id, r·N + column). */
void lc_input_dropout(const lc_run *, uint32_t id, int64_t N, float p, int64_t r, int64_t c, int64_t cols,
                      float *x);
#endif
