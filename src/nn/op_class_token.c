/* class_token: the rows of a picture: out (T,C) f32 = the class token's weight (1,C) where ids is 0 (the first row),
 * else y (T,C), the projected patch. Backward sends dout to y of the patches, and the sum over the first rows, in row order, to
 * the token. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_embedding_attr *a = n->attr;
  const lc_value *y = lc_value_get(g, n->in[0]);
  if (!y || y->width != a->w->N || a->w->M != 1)
    return lc_fail(lc_graph_ctx(g), "class token '%s': %lld×%lld before rows of %lld", a->w->name,
                   (long long)a->w->M, (long long)a->w->N, y ? (long long)y->width : 0LL);
  return lc_node_out(g, n, 0, "class_token", LC_F32, a->w->N);
}

static bool trains(const lc_node *n) {
  return lc_weight_trains(((const lc_embedding_attr *)n->attr)->w);
}
static uint32_t saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(1) : 0;
}

static lc_status rows_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_weight *w = ((const lc_embedding_attr *)n->attr)->w;
  const int32_t *ids = lc_data(run, n->in[1]);
  float *out = lc_data(run, n->out[0]), *tmp = lc_scratch(run->ctx, worker, 2, (size_t)w->N * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const void *row;
    int64_t ld;
    if (ids[r])
      row = lc_row_get(run, n->in[0], r, tmp);
    else
      LC_TRY(lc_weight_tile(run->ctx, worker, w, (lc_rect){0, 1, 0, w->N}, LC_F32, &row, &ld));
    memcpy(out + r * w->N, row, (size_t)w->N * sizeof *out);
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, 64, rows_forward);
}

static lc_status rows_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const int64_t C = lc_width(run, n->out[0]);
  const int32_t *ids = lc_data(run, n->in[1]);
  float *tmp = lc_scratch(run->ctx, worker, 2, (size_t)(2 * C) * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  memset(tmp + C, 0, (size_t)C * sizeof *tmp);
  for (int64_t r = r0; r < r1; r++)
    lc_grad_row_put(n, run, 0, r, ids[r] ? lc_grad_row_get(run, n->out[0], r, tmp) : tmp + C);
  return LC_OK;
}

/* The token's gradient, to whoever asked for it. */
static lc_status to_token(lc_weight *w, const float *sum) {
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (!lc_sink_wants(s)) continue;
    if (s->kind == LC_SINK_TILES) {
      const lc_tile tile = {{0, 1, 0, w->N}, sum, w->N, 0, w->uses, 0};
      LC_TRY(s->tile(s->self, w, &tile));
      if (s->end) LC_TRY(s->end(s->self, w));
    } else if (s->kind == LC_SINK_ENTRIES) {
      const float factor = s->factor != 0 ? s->factor : 1;
      for (int64_t k = 0; k < s->param->n; k++)
        s->param->grad[k] += factor * sum[lc_index_at(&s->param->idx, k)];
    } else if (s->kind == LC_SINK_DENSE) {
      for (int64_t c = 0; c < w->N; c++) s->param->grad[c] += sum[c];
    }
  }
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  lc_weight *w = ((const lc_embedding_attr *)n->attr)->w;
  const int32_t *ids = lc_data(run, n->in[1]);
  if (n->want & LC_IN(0)) LC_TRY(lc_for_rows(n, run, r0, r1, 64, rows_backward));
  if (!lc_weight_trains(w)) return LC_OK;
  float *sum = lc_scratch(run->ctx, 0, 2, (size_t)(2 * w->N) * sizeof *sum);
  if (!sum) return LC_FAILED;
  memset(sum, 0, (size_t)w->N * sizeof *sum);
  for (int64_t r = r0; r < r1; r++)
    if (!ids[r])
      lc_kernels_get(run->ctx)->add(w->N, sum, lc_grad_row_get(run, n->out[0], r, sum + w->N), sum);
  return to_token(w, sum);
}

const lc_op lc_op_class_token = {.name = "class_token",
                                 .flags = LC_OP_ROWWISE,
                                 .shape = shape,
                                 .trains = trains,
                                 .saves = saves,
                                 .forward = forward,
                                 .backward = backward};

lc_val lc_class_token(lc_builder *b, lc_val y, lc_val ids, const char *weight) {
  lc_embedding_attr a = {.w = lc_build_weight(b, weight, 0, "", true)};
  lc_val in[2] = {y, ids};
  return lc_build(b, &lc_op_class_token, &a, sizeof a, in, 2);
}
