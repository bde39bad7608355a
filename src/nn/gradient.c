/* dW = dyᵀ·x of one use of a weight, to whoever wants it: sampled at K positions, added to a dense gradient, or as a stream of strips that are
 * computed, handed over and forgotten. The dense M×N gradient is never stored for sparse consumers. */
#include "kernels/kernels.h"
#include "nn/nn.h"

enum { STRIP = 64 }; /* rows of dW computed at once */

typedef struct {
  lc_run *run;
  lc_weight *w;
  lc_dtype dtype;
  const void *x, *dy;
  int64_t ldx, lddy, T;
  int use;
} strips_arg;

static lc_status strip_gemm(const strips_arg *a, int worker, lc_rect q, float *dst, int64_t ld, float beta) {
  lc_gemm_shape s = {.m = q.r1 - q.r0,
                     .n = a->w->N,
                     .k = a->T,
                     .lda = a->lddy,
                     .ldb = a->ldx,
                     .ldc = ld,
                     .trans_a = true,
                     .dtype = a->dtype,
                     .c_dtype = LC_F32,
                     .beta = beta};
  const uint8_t *dy = (const uint8_t *)a->dy + (size_t)q.r0 * (a->dtype == LC_F32 ? 4u : 2u);
  return lc_gemm(a->run->ctx, worker, &s, dy, a->x, dst);
}

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const strips_arg *a = arg;
  lc_weight *w = a->w;
  lc_rect q = {chunk * STRIP, lc_min64(chunk * STRIP + STRIP, w->M), 0, w->N};
  float *tile = NULL;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (s->kind == LC_SINK_DENSE && s->param->wants_grad)
      LC_TRY(strip_gemm(a, worker, q, s->param->grad + q.r0 * w->N, w->N, 1));
    if (s->kind != LC_SINK_TILES) continue;
    if (!tile) {
      tile = lc_scratch(a->run->ctx, worker, 1, (size_t)STRIP * (size_t)w->N * sizeof *tile);
      if (!tile) return LC_FAILED;
      LC_TRY(strip_gemm(a, worker, q, tile, w->N, 0));
    }
    lc_tile t = {q, tile, w->N, a->use, w->uses, worker};
    LC_TRY(s->tile(s->self, w, &t));
  }
  return LC_OK;
}

lc_status lc_weight_gradient(lc_run *run, lc_weight *w, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt,
                             const void *dy, int64_t lddy, int64_t T, int use) {
  bool strips = false;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (s->kind == LC_SINK_ENTRIES) {
      if (s->param->wants_grad)
        LC_TRY(lc_sampled_grad(run->ctx, xt, x, ldx, dt, dy, lddy, T, w->M, w->N, &s->param->idx,
                               s->param->grad));
    } else {
      strips |= s->kind == LC_SINK_TILES || s->param->wants_grad;
    }
  }
  if (!strips) return LC_OK;
  if (xt != dt)
    return lc_fail(run->ctx, "gradient of '%s': x is %s, dy is %s", w->name, lc_dtype_get(xt)->name,
                   lc_dtype_get(dt)->name);
  strips_arg a = {run, w, xt, x, dy, ldx, lddy, T, use};
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->M, STRIP), strip_chunk, &a));
  for (int i = 0; i < w->n_sink; i++)
    if (w->sink[i].kind == LC_SINK_TILES && w->sink[i].end) LC_TRY(w->sink[i].end(w->sink[i].self, w));
  return LC_OK;
}
