/* The op table. */
#include "nn/bottleneck.h"
#include "nn/mole.h"
#include "nn/ops.h"

const lc_op *const lc_ops[] = {&lc_op_embedding, &lc_op_class_token,  &lc_op_linear,       &lc_op_low_rank,
                               &lc_op_rmsnorm,   &lc_op_layernorm,    &lc_op_sum,          &lc_op_round,
                               &lc_op_silu_mul,  &lc_op_activation,   &lc_op_columns,      &lc_op_rope_table,
                               &lc_op_rope,      &lc_op_attention,    &lc_op_head_loss,    &lc_op_route,
                               &lc_op_experts,   &lc_op_balance_sum,  &lc_op_balance_loss, &lc_op_bottleneck,
                               &lc_op_gather,    &lc_op_input_squares};
const int lc_n_ops = sizeof lc_ops / sizeof *lc_ops;
