/* gather and input_squares: what a linear layer's input leaves behind when its weight is not trained as a whole.
 *
 *   gather         out (T,k) = x[:, lines] of x (T,N): the columns that a weight's COLUMNS name, one after another. Its
 *                  linear layer reads them for dW[:,lines], so that x itself need not be kept. No gradient passes.
 *   input_squares  squares[c] += Σ_t x[t,c]², in f64, rows in order; a forward pass adds. out (T,1) is not used. */
#include "nn/ops.h"

enum { ROWS = 64, COLUMNS = 64 };

static const lc_weight *weight_of(const lc_node *n) {
  return ((const lc_gather_attr *)n->attr)->w;
}

static lc_status gather_shape(lc_graph *g, lc_node *n) {
  const lc_value *x = lc_value_get(g, n->in[0]);
  if (!x || x->width != weight_of(n)->N)
    return lc_fail(lc_graph_ctx(g), "gather for '%s' takes %lld columns", weight_of(n)->name,
                   (long long)weight_of(n)->N);
  return lc_node_out(g, n, 0, "gather", x->dtype, lc_weight_columns(weight_of(n)));
}

static lc_status gather_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_weight *w = weight_of(n);
  const int64_t N = lc_width(run, n->in[0]), k = lc_width(run, n->out[0]);
  const bool wide = lc_value_dtype(run, n->in[0]) == LC_F32;
  const void *x = lc_data(run, n->in[0]);
  void *out = lc_data(run, n->out[0]);
  for (int64_t r = r0; r < r1; r++) {
    int64_t to = r * k;
    for (int i = 0; i < w->n_sink; i++) {
      const lc_sink *s = &w->sink[i];
      if (s->kind != LC_SINK_COLUMNS || !s->param->wants_grad) continue;
      for (int64_t j = 0; j < s->n_lines; j++, to++)
        if (wide)
          ((float *)out)[to] = ((const float *)x)[r * N + s->lines[j]];
        else
          ((uint16_t *)out)[to] = ((const uint16_t *)x)[r * N + s->lines[j]];
    }
  }
  return LC_OK;
}

static lc_status gather_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, ROWS, gather_rows);
}

const lc_op lc_op_gather = {
    .name = "gather", .flags = LC_OP_ROWWISE, .shape = gather_shape, .forward = gather_forward};

/* ---- squares ---- */

static lc_status squares_shape(lc_graph *g, lc_node *n) {
  const lc_value *x = lc_value_get(g, n->in[0]);
  if (!x || x->width != weight_of(n)->N)
    return lc_fail(lc_graph_ctx(g), "input_squares for '%s' takes %lld columns", weight_of(n)->name,
                   (long long)weight_of(n)->N);
  return lc_node_out(g, n, 0, "input_squares", LC_F32, 1);
}

typedef struct {
  const lc_node *n;
  lc_run *run;
} squares_arg;

static lc_status squares_chunk(void *arg, int64_t chunk, int worker) {
  const squares_arg *a = arg;
  const lc_weight *w = weight_of(a->n);
  const int64_t c0 = chunk * COLUMNS, cols = lc_min64(COLUMNS, w->N - c0);
  const bool wide = lc_value_dtype(a->run, a->n->in[0]) == LC_F32;
  const void *x = lc_data(a->run, a->n->in[0]);
  double sum[COLUMNS] = {0};
  for (int64_t r = 0; r < a->run->rows; r++)
    for (int64_t c = 0; c < cols; c++) {
      const int64_t at = r * w->N + c0 + c;
      const double v = (double)(wide ? ((const float *)x)[at] : lc_bf16_to_f32(((const uint16_t *)x)[at]));
      sum[c] += v * v;
    }
  for (int i = 0; i < w->n_sink; i++)
    for (int64_t c = 0; c < cols && w->sink[i].kind == LC_SINK_INPUT; c++)
      w->sink[i].squares[c0 + c] += sum[c];
  return LC_OK;
}

static lc_status squares_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  squares_arg a = {n, run};
  return lc_parallel(run->ctx, lc_ceil_div(weight_of(n)->N, COLUMNS), squares_chunk, &a);
}

const lc_op lc_op_input_squares = {
    .name = "input_squares", .shape = squares_shape, .forward = squares_forward};
