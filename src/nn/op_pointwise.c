/* Row-by-row ops without weights: sum, silu_mul (SwiGLU's product, Shazeer 2020), activations, rounding, and a slice of columns. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <math.h>
#include <string.h>

enum { CHUNK = 32 };

static float *row_scratch(lc_run *run, int worker, int64_t width, int rows) {
  return lc_scratch(run->ctx, worker, 0, (size_t)(rows * width) * sizeof(float));
}

/* ---- sum: y = a + b ---- */

static lc_status sum_shape(lc_graph *g, lc_node *n) {
  const lc_value *a = lc_value_get(g, n->in[0]), *b = lc_value_get(g, n->in[1]);
  if (!a || !b || a->width != b->width)
    return lc_fail(lc_graph_ctx(g), "sum: widths %lld and %lld", a ? (long long)a->width : 0LL,
                   b ? (long long)b->width : 0LL);
  return lc_node_out(g, n, 0, "sum", a->dtype == b->dtype ? a->dtype : LC_F32, a->width);
}

static lc_status sum_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t C = lc_width(run, n->out[0]);
  float *tmp = row_scratch(run, worker, C, 3);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    lc_kernels_get(run->ctx)->add(C, lc_row_get(run, n->in[0], r, tmp), lc_row_get(run, n->in[1], r, tmp + C),
                                  tmp + 2 * C);
    lc_row_put(run, n->out[0], r, tmp + 2 * C);
  }
  return LC_OK;
}

static lc_status sum_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, sum_rows);
}

static lc_status sum_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  if (n->want & LC_IN(0)) LC_TRY(lc_grad_pass(n, run, 0, r0, r1));
  return n->want & LC_IN(1) ? lc_grad_pass(n, run, 1, r0, r1) : LC_OK;
}

const lc_op lc_op_sum = {.name = "sum",
                         .flags = LC_OP_ROWWISE,
                         .shape = sum_shape,
                         .forward = sum_forward,
                         .backward = sum_backward};

/* ---- silu_mul: h = silu(gate)·up ---- */

static lc_status silu_shape(lc_graph *g, lc_node *n) {
  const lc_value *a = lc_value_get(g, n->in[0]), *b = lc_value_get(g, n->in[1]);
  if (!a || !b || a->width != b->width || a->dtype != b->dtype)
    return lc_fail(lc_graph_ctx(g), "silu_mul: gate and up differ in shape or dtype");
  return lc_node_out(g, n, 0, "silu_mul", a->dtype, a->width);
}

static uint32_t silu_saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(0) | LC_IN(1) : 0;
}

/* Row r of a value in bf16. */
static uint16_t *bf16_row(void *base, int64_t width, int64_t r) {
  return (uint16_t *)base + r * width;
}

static lc_status silu_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t F = lc_width(run, n->out[0]);
  if (lc_value_dtype(run, n->out[0]) == LC_BF16) {
    lc_kernels_get(run->ctx)->silu_mul_bf16((r1 - r0) * F, bf16_row(lc_data(run, n->in[0]), F, r0),
                                            bf16_row(lc_data(run, n->in[1]), F, r0),
                                            bf16_row(lc_data(run, n->out[0]), F, r0));
    return LC_OK;
  }
  float *tmp = row_scratch(run, worker, F, 3);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    lc_kernels_get(run->ctx)->silu_mul(F, lc_row_get(run, n->in[0], r, tmp),
                                       lc_row_get(run, n->in[1], r, tmp + F), tmp + 2 * F);
    lc_row_put(run, n->out[0], r, tmp + 2 * F);
  }
  return LC_OK;
}

/* All in bf16, each gradient with one writer. */
static bool silu_narrow(const lc_node *n, const lc_run *run) {
  return n->want == (LC_IN(0) | LC_IN(1)) && lc_value_dtype(run, n->in[0]) == LC_BF16 &&
         lc_grad_dtype(run, n->out[0]) == LC_BF16 && lc_grad_dtype(run, n->in[0]) == LC_BF16 &&
         lc_grad_dtype(run, n->in[1]) == LC_BF16;
}

static lc_status silu_back_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t F = lc_width(run, n->out[0]);
  if (silu_narrow(n, run)) {
    lc_kernels_get(run->ctx)->silu_mul_back_bf16(
        (r1 - r0) * F, bf16_row(lc_data(run, n->in[0]), F, r0), bf16_row(lc_data(run, n->in[1]), F, r0),
        bf16_row(lc_grad(run, n->out[0]), F, r0), bf16_row(lc_grad(run, n->in[0]), F, r0),
        bf16_row(lc_grad(run, n->in[1]), F, r0));
    return LC_OK;
  }
  float *tmp = row_scratch(run, worker, F, 5);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    lc_kernels_get(run->ctx)->silu_mul_back(
        F, lc_row_get(run, n->in[0], r, tmp), lc_row_get(run, n->in[1], r, tmp + F),
        lc_grad_row_get(run, n->out[0], r, tmp + 2 * F), tmp + 3 * F, tmp + 4 * F);
    if (n->want & LC_IN(0)) lc_grad_row_put(n, run, 0, r, tmp + 3 * F);
    if (n->want & LC_IN(1)) lc_grad_row_put(n, run, 1, r, tmp + 4 * F);
  }
  return LC_OK;
}

static lc_status silu_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, silu_rows);
}
static lc_status silu_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, silu_back_rows);
}

const lc_op lc_op_silu_mul = {.name = "silu_mul",
                              .flags = LC_OP_ROWWISE,
                              .shape = silu_shape,
                              .saves = silu_saves,
                              .forward = silu_forward,
                              .backward = silu_backward};

/* ---- activation: gelu (Hendrycks & Gimpel 2016) in its tanh form or exact, relu, tanh ---- */

static void relu(int64_t n, const float *x, float *y) {
  for (int64_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0;
}
static void relu_back(int64_t n, const float *x, const float *dy, float *dx) {
  for (int64_t i = 0; i < n; i++) dx[i] = x[i] > 0 ? dy[i] : 0;
}
static void tanh_of(int64_t n, const float *x, float *y) {
  for (int64_t i = 0; i < n; i++) y[i] = tanhf(x[i]);
}
static void tanh_back(int64_t n, const float *x, const float *dy, float *dx) {
  for (int64_t i = 0; i < n; i++) {
    float y = tanhf(x[i]);
    dx[i] = dy[i] * (1 - y * y);
  }
}

typedef struct {
  void (*forward)(int64_t n, const float *x, float *y);
  void (*backward)(int64_t n, const float *x, const float *dy, float *dx);
} activation;
static activation activation_of(const lc_node *n, const lc_run *run) {
  const lc_kernels *k = lc_kernels_get(run->ctx);
  const activation all[] = {[LC_GELU_TANH] = {k->gelu_tanh, k->gelu_tanh_back},
                            [LC_GELU_ERF] = {k->gelu_erf, k->gelu_erf_back},
                            [LC_RELU] = {relu, relu_back},
                            [LC_TANH] = {tanh_of, tanh_back}};
  return all[*(const lc_activation_kind *)n->attr];
}

static lc_status activation_shape(lc_graph *g, lc_node *n) {
  const lc_value *x = lc_value_get(g, n->in[0]);
  return lc_node_out(g, n, 0, "activation", x->dtype, x->width);
}

static uint32_t activation_saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(0) : 0;
}

static lc_status activation_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t F = lc_width(run, n->out[0]);
  float *tmp = row_scratch(run, worker, F, 2);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    activation_of(n, run).forward(F, lc_row_get(run, n->in[0], r, tmp), tmp + F);
    lc_row_put(run, n->out[0], r, tmp + F);
  }
  return LC_OK;
}

static lc_status activation_back_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t F = lc_width(run, n->out[0]);
  float *tmp = row_scratch(run, worker, F, 3);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const float *x = lc_row_get(run, n->in[0], r, tmp), *dy = lc_grad_row_get(run, n->out[0], r, tmp + F);
    activation_of(n, run).backward(F, x, dy, tmp + 2 * F);
    lc_grad_row_put(n, run, 0, r, tmp + 2 * F);
  }
  return LC_OK;
}

static lc_status activation_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, activation_rows);
}
static lc_status activation_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return n->want & LC_IN(0) ? lc_for_rows(n, run, r0, r1, CHUNK, activation_back_rows) : LC_OK;
}

const lc_op lc_op_activation = {.name = "activation",
                                .flags = LC_OP_ROWWISE,
                                .shape = activation_shape,
                                .saves = activation_saves,
                                .forward = activation_forward,
                                .backward = activation_backward};

/* ---- round: the same values in another dtype ---- */

static lc_status round_shape(lc_graph *g, lc_node *n) {
  const lc_value *x = lc_value_get(g, n->in[0]);
  return lc_node_out(g, n, 0, "round", *(const lc_dtype *)n->attr, x->width);
}

static lc_status round_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  float *tmp = row_scratch(run, worker, lc_width(run, n->in[0]), 1);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) lc_row_put(run, n->out[0], r, lc_row_get(run, n->in[0], r, tmp));
  return LC_OK;
}

static lc_status round_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, round_rows);
}
static lc_status round_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return n->want & LC_IN(0) ? lc_grad_pass(n, run, 0, r0, r1) : LC_OK;
}

const lc_op lc_op_round = {.name = "round",
                           .flags = LC_OP_ROWWISE,
                           .shape = round_shape,
                           .forward = round_forward,
                           .backward = round_backward};

/* ---- columns: y = x[:, c0:c1] ---- */

static lc_status columns_shape(lc_graph *g, lc_node *n) {
  const lc_columns_attr *a = n->attr;
  const lc_value *x = lc_value_get(g, n->in[0]);
  if (!x || a->c0 < 0 || a->c1 > x->width || a->c0 >= a->c1)
    return lc_fail(lc_graph_ctx(g), "columns %lld to %lld of %lld", (long long)a->c0, (long long)a->c1,
                   x ? (long long)x->width : 0LL);
  return lc_node_out(g, n, 0, "columns", x->dtype, a->c1 - a->c0);
}

static lc_status columns_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_columns_attr *a = n->attr;
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = row_scratch(run, worker, C, 1);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) lc_row_put(run, n->out[0], r, lc_row_get(run, n->in[0], r, tmp) + a->c0);
  return LC_OK;
}

static lc_status columns_back_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_columns_attr *a = n->attr;
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = row_scratch(run, worker, C, 2);
  if (!tmp) return LC_FAILED;
  memset(tmp, 0, (size_t)C * sizeof *tmp);
  for (int64_t r = r0; r < r1; r++) {
    memcpy(tmp + a->c0, lc_grad_row_get(run, n->out[0], r, tmp + C), (size_t)(a->c1 - a->c0) * sizeof *tmp);
    lc_grad_row_put(n, run, 0, r, tmp);
  }
  return LC_OK;
}

static lc_status columns_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, columns_rows);
}
static lc_status columns_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return n->want & LC_IN(0) ? lc_for_rows(n, run, r0, r1, CHUNK, columns_back_rows) : LC_OK;
}

const lc_op lc_op_columns = {.name = "columns",
                             .flags = LC_OP_ROWWISE,
                             .shape = columns_shape,
                             .forward = columns_forward,
                             .backward = columns_backward};
