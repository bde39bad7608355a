/* One instance of a plan: its arena, and the replay of forward and backward. Nothing is allocated after lc_run_new. */
#include "kernels/kernels.h"
#include "tensor/graph_priv.h"
#include <string.h>

lc_status lc_run_new(lc_ctx *ctx, const lc_plan *plan, lc_run **out) {
  *out = NULL;
  lc_run *run = lc_alloc(ctx, LC_MEM_OTHER, sizeof *run);
  if (!run) return LC_FAILED;
  run->ctx = ctx;
  run->plan = plan;
  run->arena = lc_alloc(ctx, LC_MEM_PLAN, plan->bytes);
  if (!run->arena) {
    lc_free(ctx, run);
    return LC_FAILED;
  }
  *out = run;
  return LC_OK;
}

void lc_run_free(lc_run *run) {
  if (!run) return;
  lc_free(run->ctx, run->arena);
  lc_free(run->ctx, run);
}

lc_status lc_run_begin(lc_run *run, int64_t rows, const lc_segment *seg, int n_seg) {
  if (rows < 1 || rows > run->plan->opts.rows)
    return lc_fail(run->ctx, "run: %lld rows, the plan holds 1 to %lld", (long long)rows,
                   (long long)run->plan->opts.rows);
  int64_t at = 0;
  for (int s = 0; s < n_seg; s++) {
    if (seg[s].row0 != at || seg[s].row1 <= at || seg[s].pos0 < 0)
      return lc_fail(run->ctx, "run: segment %d covers rows %lld to %lld, expected from %lld", s,
                     (long long)seg[s].row0, (long long)seg[s].row1, (long long)at);
    at = seg[s].row1;
  }
  if (at != rows)
    return lc_fail(run->ctx, "run: segments cover %lld of %lld rows", (long long)at, (long long)rows);
  run->rows = rows;
  run->seg = seg;
  run->n_seg = n_seg;
  return LC_OK;
}

void *lc_data(const lc_run *run, lc_val v) {
  return v.id ? run->arena + run->plan->place[v.id - 1].data : NULL;
}

void *lc_grad(const lc_run *run, lc_val v) {
  if (!v.id || !run->plan->place[v.id - 1].grad_dtype) return NULL;
  return run->arena + run->plan->place[v.id - 1].grad;
}

lc_dtype lc_grad_dtype(const lc_run *run, lc_val v) {
  return run->plan->place[v.id - 1].grad_dtype;
}

lc_dtype lc_value_dtype(const lc_run *run, lc_val v) {
  return run->plan->place[v.id - 1].dtype;
}
int64_t lc_width(const lc_run *run, lc_val v) {
  return run->plan->place[v.id - 1].width;
}

static bool inside(const lc_node *n, const lc_span *span) {
  return !span || (n->block >= span->b0 && n->block < span->b1);
}

static lc_status check_span(lc_run *run, const lc_span *span) {
  if (span && (span->r0 != 0 || span->r1 != run->rows))
    return lc_fail(run->ctx, "run: windows of rows (%lld to %lld of %lld) are not built", (long long)span->r0,
                   (long long)span->r1, (long long)run->rows);
  return LC_OK;
}

lc_status lc_forward(lc_run *run, const lc_span *span) {
  LC_TRY(check_span(run, span));
  const lc_graph *g = run->plan->g;
  for (int i = 0; i < g->n_nodes;) {
    const lc_op *op = g->node[i]->op;
    lc_status st = LC_OK;
    int ran =
        !span && op->joint ? op->joint((const lc_node *const *)g->node + i, g->n_nodes - i, run, &st) : 0;
    if (!ran && inside(g->node[i], span)) st = op->forward(g->node[i], run, 0, run->rows);
    LC_TRY(st);
    i += ran ? ran : 1;
  }
  return LC_OK;
}

lc_status lc_backward(lc_run *run, const lc_span *span) {
  LC_TRY(check_span(run, span));
  if (!run->plan->opts.training)
    return lc_fail(run->ctx, "run: a backward pass on a plan made for forward passes only");
  for (int s = 0; s < run->plan->n_back; s++) {
    const lc_back_step *step = &run->plan->back[s];
    if (!inside(step->node, span)) continue;
    LC_TRY((step->again ? step->node->op->forward : step->node->op->backward)(step->node, run, 0, run->rows));
  }
  return LC_OK;
}

/* ---- rows ---- */

static const float *row_get(const lc_run *run, const void *base, lc_dtype dtype, int64_t width, int64_t r,
                            float *tmp) {
  if (dtype == LC_F32) return (const float *)base + r * width;
  lc_kernels_get(run->ctx)->bf16_to_f32(width, (const uint16_t *)base + r * width, tmp);
  return tmp;
}

const float *lc_row_get(const lc_run *run, lc_val v, int64_t r, float *tmp) {
  const lc_place *p = &run->plan->place[v.id - 1];
  return row_get(run, run->arena + p->data, p->dtype, p->width, r, tmp);
}

const float *lc_grad_row_get(const lc_run *run, lc_val v, int64_t r, float *tmp) {
  const lc_place *p = &run->plan->place[v.id - 1];
  return row_get(run, run->arena + p->grad, p->grad_dtype, p->width, r, tmp);
}

void lc_row_put(const lc_run *run, lc_val v, int64_t r, const float *src) {
  const lc_place *p = &run->plan->place[v.id - 1];
  uint8_t *base = run->arena + p->data;
  if (p->dtype == LC_BF16) {
    lc_kernels_get(run->ctx)->f32_to_bf16(p->width, src, (uint16_t *)base + r * p->width);
  } else {
    float *dst = (float *)base + r * p->width;
    if (dst != src) memcpy(dst, src, (size_t)p->width * sizeof *dst);
  }
}

void lc_grad_row_put(const lc_node *n, const lc_run *run, int i, int64_t r, const float *src) {
  const lc_place *p = &run->plan->place[n->in[i].id - 1];
  uint8_t *base = run->arena + p->grad;
  const lc_kernels *k = lc_kernels_get(run->ctx);
  if (p->grad_dtype == LC_BF16) { /* a single writer */
    k->f32_to_bf16(p->width, src, (uint16_t *)base + r * p->width);
    return;
  }
  float *dst = (float *)base + r * p->width;
  if (!(n->overwrite & LC_IN(i)))
    k->add(p->width, dst, src, dst);
  else if (dst != src)
    memcpy(dst, src, (size_t)p->width * sizeof *dst);
}

typedef struct {
  const lc_node *n;
  lc_run *run;
  int64_t r0, r1, chunk;
  lc_rows_fn fn;
} rows_arg;

static lc_status rows_chunk(void *arg, int64_t i, int worker) {
  rows_arg *a = arg;
  int64_t r0 = a->r0 + i * a->chunk;
  return a->fn(a->n, a->run, r0, lc_min64(r0 + a->chunk, a->r1), worker);
}

lc_status lc_for_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int64_t chunk, lc_rows_fn fn) {
  rows_arg a = {n, run, r0, r1, chunk, fn};
  return lc_parallel(run->ctx, lc_ceil_div(r1 - r0, chunk), rows_chunk, &a);
}

typedef struct {
  const lc_node *n;
  lc_run *run;
  int i;
  int64_t r0, r1;
} pass_arg;

static lc_status pass_chunk(void *arg, int64_t c, int worker) {
  pass_arg *a = arg;
  const lc_place *p = &a->run->plan->place[a->n->out[0].id - 1];
  float *tmp = lc_scratch(a->run->ctx, worker, 0, (size_t)p->width * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t r = a->r0 + c * 64; r < lc_min64(a->r0 + c * 64 + 64, a->r1); r++)
    lc_grad_row_put(a->n, a->run, a->i, r, lc_grad_row_get(a->run, a->n->out[0], r, tmp));
  return LC_OK;
}

lc_status lc_grad_pass(const lc_node *n, lc_run *run, int i, int64_t r0, int64_t r1) {
  if (lc_grad(run, n->out[0]) == lc_grad(run, n->in[i])) return LC_OK;
  pass_arg a = {n, run, i, r0, r1};
  return lc_parallel(run->ctx, lc_ceil_div(r1 - r0, 64), pass_chunk, &a);
}
