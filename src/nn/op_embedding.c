/* embedding: out (T,C) f32 = rows first + id of W (V,C), for ids (T). Backward adds dy rows to W's consumers. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_embedding_attr *a = n->attr;
  return lc_node_out(g, n, 0, "embedding", LC_F32, a->w->N);
}

static bool trains(const lc_node *n) {
  return lc_weight_trains(((const lc_embedding_attr *)n->attr)->w);
}
static uint32_t saves(const lc_node *n, uint32_t want) {
  return want & LC_PARAMS ? LC_IN(0) : 0;
}

/* The row of W that row t of the pass reads. */
static int64_t row_of(const lc_node *n, const int32_t *ids, int64_t t) {
  return ids[t] + ((const lc_embedding_attr *)n->attr)->first;
}

static lc_status rows_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_embedding_attr *a = n->attr;
  const lc_weight *w = a->w;
  const int32_t *ids = lc_data(run, n->in[0]);
  float *out = lc_data(run, n->out[0]);
  for (int64_t r = r0; r < r1; r++) {
    const int64_t at = row_of(n, ids, r);
    if (ids[r] < 0 || at >= w->M)
      return lc_fail(run->ctx, "token id %d: '%s' has rows %lld to %lld", ids[r], w->name,
                     (long long)a->first, (long long)w->M - 1);
    const void *row;
    int64_t ld;
    LC_TRY(lc_weight_tile(run->ctx, worker, w, (lc_rect){at, at + 1, 0, w->N}, LC_F32, &row, &ld));
    memcpy(out + r * w->N, row, (size_t)w->N * sizeof *out);
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, 64, rows_forward);
}

/* Dense: columns are cut into chunks, so that rows add in order whatever the threads. */
typedef struct {
  const lc_node *n;
  lc_run *run;
  float *grad;
  int64_t N;
} dense_arg;

static lc_status dense_chunk(void *arg, int64_t c, int worker) {
  dense_arg *a = arg;
  const int32_t *ids = lc_data(a->run, a->n->in[0]);
  const float *dy = lc_grad(a->run, a->n->out[0]);
  int64_t c0 = c * 64, width = lc_min64(64, a->N - c0);
  for (int64_t t = 0; t < a->run->rows; t++) {
    float *dst = a->grad + row_of(a->n, ids, t) * a->N + c0;
    lc_kernels_get(a->run->ctx)->add(width, dst, dy + t * a->N + c0, dst);
  }
  return LC_OK;
}

static void add_entries(const lc_node *n, lc_run *run, const lc_sink *s, int64_t N) {
  lc_param *p = s->param;
  const float factor = s->factor != 0 ? s->factor : 1;
  const int32_t *ids = lc_data(run, n->in[0]);
  const float *dy = lc_grad(run, n->out[0]);
  for (int64_t t = 0; t < run->rows; t++) {
    int64_t row = row_of(n, ids, t) * N;
    for (int64_t k = lc_index_lower(&p->idx, 0, row); k < p->idx.n && lc_index_at(&p->idx, k) < row + N; k++)
      p->grad[k] += factor * dy[t * N + (lc_index_at(&p->idx, k) - row)];
  }
}

/* Strips of the gradient for tile consumers: zero but for the rows of tokens that occurred. */
typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_sink *s;
  lc_weight *w;
} tiles_arg;

static lc_status tiles_chunk(void *arg, int64_t c, int worker) {
  tiles_arg *a = arg;
  lc_weight *w = a->w;
  lc_rect q = {c * 64, lc_min64(c * 64 + 64, w->M), 0, w->N};
  const int32_t *ids = lc_data(a->run, a->n->in[0]);
  const float *dy = lc_grad(a->run, a->n->out[0]);
  float *tile = lc_scratch(a->run->ctx, worker, 1, (size_t)(64 * w->N) * sizeof *tile);
  if (!tile) return LC_FAILED;
  memset(tile, 0, (size_t)(64 * w->N) * sizeof *tile);
  for (int64_t t = 0; t < a->run->rows; t++) {
    const int64_t at = row_of(a->n, ids, t);
    if (at < q.r0 || at >= q.r1) continue;
    float *dst = tile + (at - q.r0) * w->N;
    lc_kernels_get(a->run->ctx)->add(w->N, dst, dy + t * w->N, dst);
  }
  lc_tile tl = {q, tile, w->N, 0, w->uses, worker};
  return a->s->tile(a->s->self, w, &tl);
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  lc_weight *w = ((const lc_embedding_attr *)n->attr)->w;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (!lc_sink_wants(s)) continue;
    if (s->kind == LC_SINK_TILES) {
      tiles_arg a = {n, run, s, w};
      LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->M, 64), tiles_chunk, &a));
      if (s->end) LC_TRY(s->end(s->self, w));
    } else if (s->kind == LC_SINK_ENTRIES) {
      add_entries(n, run, s, w->N);
    } else if (s->kind == LC_SINK_DENSE) {
      dense_arg a = {n, run, s->param->grad, w->N};
      LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->N, 64), dense_chunk, &a));
    }
  }
  return LC_OK;
}

const lc_op lc_op_embedding = {.name = "embedding",
                               .flags = LC_OP_ROWWISE,
                               .shape = shape,
                               .trains = trains,
                               .saves = saves,
                               .forward = forward,
                               .backward = backward};
