/* rmsnorm (Zhang & Sennrich 2019): y = x / √(mean x² + eps) · w.   layernorm: y = (x − mean)/√(var + eps) · w + b.
 * out[0] (T,C) in the compute dtype; out[1] (T,1) rstd, out[2] (T,1) mean, kept for backward. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

enum { CHUNK = 64 };

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_norm_attr *a = n->attr;
  const lc_value *x = lc_value_get(g, n->in[0]);
  if (!x || x->width != a->w->N)
    return lc_fail(lc_graph_ctx(g), "norm '%s' takes %lld columns, its input has %lld", a->w->name,
                   (long long)a->w->N, x ? (long long)x->width : 0LL);
  LC_TRY(lc_node_out(g, n, 0, a->w->name, a->compute, a->w->N));
  LC_TRY(lc_node_out(g, n, 1, "rstd", LC_F32, 1));
  return a->b ? lc_node_out(g, n, 2, "mean", LC_F32, 1) : LC_OK;
}

static bool trains(const lc_node *n) {
  const lc_norm_attr *a = n->attr;
  return lc_weight_trains(a->w) || (a->b && lc_weight_trains(a->b));
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(0) | LC_OUT(1) | (n->n_out > 2 ? LC_OUT(2) : 0) : 0;
}

static lc_status rows_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_norm_attr *a = n->attr;
  int64_t C = a->w->N;
  float *tmp = lc_scratch(run->ctx, worker, 0, (size_t)(2 * C) * sizeof *tmp),
        *rstd = lc_data(run, n->out[1]);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const float *x = lc_row_get(run, n->in[0], r, tmp);
    if (a->b)
      lc_kernels_get(run->ctx)->layernorm(C, a->eps, x, a->w->vector, a->b->vector, tmp + C,
                                          (float *)lc_data(run, n->out[2]) + r, rstd + r);
    else
      lc_kernels_get(run->ctx)->rmsnorm(C, a->eps, x, a->w->vector, tmp + C, rstd + r);
    lc_row_put(run, n->out[0], r, tmp + C);
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, CHUNK, rows_forward);
}

/* Per chunk of rows a partial dw (and db) in shared scratch, added up in order afterwards. */
static lc_status rows_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_norm_attr *a = n->attr;
  const lc_kernels *k = lc_kernels_get(run->ctx);
  int64_t C = a->w->N, chunks = lc_ceil_div(run->rows, CHUNK);
  float *tmp = lc_scratch(run->ctx, worker, 0, (size_t)(3 * C) * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  float *dw = NULL, *db = NULL;
  if (n->want & LC_PARAMS) {
    float *parts =
        lc_scratch(run->ctx, 0, 3, (size_t)(2 * chunks * C) * sizeof *parts); /* made by backward() */
    dw = parts + r0 / CHUNK * C;
    db = a->b ? parts + (chunks + r0 / CHUNK) * C : NULL;
  }
  const float *rstd = lc_data(run, n->out[1]);
  for (int64_t r = r0; r < r1; r++) {
    const float *x = lc_row_get(run, n->in[0], r, tmp), *dy = lc_grad_row_get(run, n->out[0], r, tmp + C);
    float *dx = tmp + 2 * C;
    if (a->b)
      k->layernorm_back(C, x, a->w->vector, ((const float *)lc_data(run, n->out[2]))[r], rstd[r], dy, 0, dx,
                        dw, db);
    else
      k->rmsnorm_back(C, x, a->w->vector, rstd[r], dy, 0, dx, dw);
    if (n->want & LC_IN(0)) lc_grad_row_put(n, run, 0, r, dx);
  }
  return LC_OK;
}

void lc_add_vector_gradient(lc_weight *w, const float *parts, int64_t n_parts, int64_t n) {
  for (int i = 0; i < w->n_sink; i++) {
    if (w->sink[i].kind != LC_SINK_DENSE || !w->sink[i].param->wants_grad) continue;
    for (int64_t p = 0; p < n_parts; p++)
      for (int64_t c = 0; c < n; c++) w->sink[i].param->grad[c] += parts[p * n + c];
  }
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_norm_attr *a = n->attr;
  int64_t C = a->w->N, chunks = lc_ceil_div(run->rows, CHUNK);
  float *parts = NULL;
  if (n->want & LC_PARAMS) {
    size_t bytes = (size_t)(2 * chunks * C) * sizeof *parts;
    parts = lc_scratch(run->ctx, 0, 3, bytes);
    if (!parts) return LC_FAILED;
    memset(parts, 0, bytes);
  }
  LC_TRY(lc_for_rows(n, run, r0, r1, CHUNK, rows_backward));
  if (parts) {
    lc_add_vector_gradient(a->w, parts, chunks, C);
    if (a->b) lc_add_vector_gradient(a->b, parts + chunks * C, chunks, C);
  }
  return LC_OK;
}

const lc_op lc_op_rmsnorm = {.name = "rmsnorm",
                             .flags = LC_OP_ROWWISE,
                             .shape = shape,
                             .trains = trains,
                             .saves = saves,
                             .forward = forward,
                             .backward = backward};
const lc_op lc_op_layernorm = {.name = "layernorm",
                               .flags = LC_OP_ROWWISE,
                               .shape = shape,
                               .trains = trains,
                               .saves = saves,
                               .forward = forward,
                               .backward = backward};
