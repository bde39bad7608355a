/* dW = dyᵀ·x of one use of a weight, to whoever wants it: sampled at K positions, of chosen rows or columns, added to a dense gradient, or as
 * a stream of strips that are computed, handed over and forgotten. The dense M×N gradient is never stored for sparse consumers. */
#include "kernels/kernels.h"
#include "nn/nn.h"
#include <string.h>

enum { STRIP = 64 }; /* rows of dW computed at once for chosen lines */
enum { SLOT_LINES = 3, SLOT_ENTRIES = 5 };

typedef struct {
  lc_run *run;
  lc_weight *w;
  lc_dtype dtype;
  const void *x, *dy;
  int64_t ldx, lddy, T;
  int use;
  const void *packed; /* x for all strips; NULL: each reads it as it stands */
  int64_t strip;
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
                     .beta = beta,
                     .packed_b = a->packed != NULL};
  const uint8_t *dy = (const uint8_t *)a->dy + (size_t)q.r0 * (a->dtype == LC_F32 ? 4u : 2u);
  return lc_gemm(a->run->ctx, worker, &s, dy, a->packed ? a->packed : a->x, dst);
}

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const strips_arg *a = arg;
  lc_weight *w = a->w;
  lc_rect q = {chunk * a->strip, lc_min64((chunk + 1) * a->strip, w->M), 0, w->N};
  float *tile = NULL;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (s->kind == LC_SINK_DENSE && s->param->wants_grad)
      LC_TRY(strip_gemm(a, worker, q, s->param->grad + q.r0 * w->N, w->N, 1));
    if (s->kind != LC_SINK_TILES || !lc_sink_wants(s)) continue;
    if (!tile) {
      tile = lc_scratch(a->run->ctx, worker, 1, (size_t)(a->strip * w->N) * sizeof *tile);
      if (!tile) return LC_FAILED;
      LC_TRY(strip_gemm(a, worker, q, tile, w->N, 0));
    }
    lc_tile t = {q, tile, w->N, a->use, w->uses, worker};
    LC_TRY(s->tile(s->self, w, &t));
  }
  return LC_OK;
}

/* ---- of chosen rows and columns: a product with k columns of dy or of x ---- */

typedef struct {
  lc_run *run;
  lc_param *p;
  lc_gemm_shape s; /* of a strip that starts at 0 */
  const uint8_t *a, *b;
  bool columns; /* strips of M, else of N */
} lines_arg;

static lc_status lines_chunk(void *arg, int64_t chunk, int worker) {
  const lines_arg *l = arg;
  const size_t size = l->s.dtype == LC_F32 ? 4 : 2, at = (size_t)(chunk * STRIP) * size;
  lc_gemm_shape s = l->s;
  if (l->columns) {
    s.m = lc_min64(STRIP, s.m - chunk * STRIP);
    return lc_gemm(l->run->ctx, worker, &s, l->a + at, l->b, l->p->grad + chunk * STRIP * s.ldc);
  }
  s.n = lc_min64(STRIP, s.n - chunk * STRIP);
  return lc_gemm(l->run->ctx, worker, &s, l->a, l->b + at, l->p->grad + chunk * STRIP);
}

lc_status lc_weight_gradient_columns(lc_run *run, lc_weight *w, lc_dtype dtype, const void *x, const void *dy,
                                     int64_t lddy, int64_t T) {
  const int64_t ldx = lc_weight_columns(w);
  const uint8_t *from = x;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (s->kind != LC_SINK_COLUMNS || !s->param->wants_grad) continue;
    lines_arg a = {.run = run, .p = s->param, .a = dy, .b = from, .columns = true};
    a.s = (lc_gemm_shape){.m = w->M,
                          .n = s->n_lines,
                          .k = T,
                          .lda = lddy,
                          .ldb = ldx,
                          .ldc = s->n_lines,
                          .trans_a = true,
                          .dtype = dtype,
                          .c_dtype = LC_F32,
                          .beta = 1};
    LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->M, STRIP), lines_chunk, &a));
    from += (size_t)s->n_lines * (dtype == LC_F32 ? 4u : 2u);
  }
  return LC_OK;
}

static lc_status gradient_rows(lc_run *run, const lc_weight *w, const lc_sink *s, lc_dtype dtype,
                               const void *x, int64_t ldx, const void *dy, int64_t lddy, int64_t T) {
  const int64_t k = s->n_lines;
  const size_t size = dtype == LC_F32 ? 4 : 2;
  void *picked = lc_scratch(run->ctx, 0, SLOT_LINES, (size_t)(T * k) * size);
  if (!picked) return LC_FAILED;
  for (int64_t t = 0; t < T; t++)
    for (int64_t i = 0; i < k; i++)
      if (dtype == LC_F32)
        ((float *)picked)[t * k + i] = ((const float *)dy)[t * lddy + s->lines[i]];
      else
        ((uint16_t *)picked)[t * k + i] = ((const uint16_t *)dy)[t * lddy + s->lines[i]];
  lines_arg a = {.run = run, .p = s->param, .a = picked, .b = x};
  a.s = (lc_gemm_shape){.m = k,
                        .n = w->N,
                        .k = T,
                        .lda = k,
                        .ldb = ldx,
                        .ldc = w->N,
                        .trans_a = true,
                        .dtype = dtype,
                        .c_dtype = LC_F32,
                        .beta = 1};
  return lc_parallel(run->ctx, lc_ceil_div(w->N, STRIP), lines_chunk, &a);
}

/* grad += factor · sampled products. */
static lc_status gradient_entries(lc_run *run, const lc_weight *w, const lc_sink *s, lc_dtype xt,
                                  const void *x, int64_t ldx, lc_dtype dt, const void *dy, int64_t lddy,
                                  int64_t T) {
  lc_param *p = s->param;
  float *g = p->grad;
  const bool scaled = s->factor != 0 && s->factor != 1;
  if (scaled) {
    if (!(g = lc_scratch(run->ctx, 0, SLOT_ENTRIES, (size_t)p->n * sizeof *g))) return LC_FAILED;
    memset(g, 0, (size_t)p->n * sizeof *g);
  }
  LC_TRY(lc_entries_grad(run->ctx, xt, x, ldx, dt, dy, lddy, T, w->M, w->N, &p->idx, g));
  if (scaled) lc_kernels_get(run->ctx)->axpy(p->n, s->factor, g, p->grad);
  return LC_OK;
}

lc_status lc_weight_gradient(lc_run *run, lc_weight *w, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt,
                             const void *dy, int64_t lddy, int64_t T, int use) {
  bool strips = false;
  for (int i = 0; i < w->n_sink; i++) {
    const lc_sink *s = &w->sink[i];
    if (s->kind == LC_SINK_COLUMNS || s->kind == LC_SINK_INPUT || (s->param && !s->param->wants_grad))
      continue;
    if (s->kind == LC_SINK_ENTRIES) {
      LC_TRY(gradient_entries(run, w, s, xt, x, ldx, dt, dy, lddy, T));
      continue;
    }
    if (xt != dt)
      return lc_fail(run->ctx, "gradient of '%s': x is %s, dy is %s", w->name, lc_dtype_get(xt)->name,
                     lc_dtype_get(dt)->name);
    if (s->kind == LC_SINK_ROWS)
      LC_TRY(gradient_rows(run, w, s, dt, x, ldx, dy, lddy, T));
    else
      strips = true;
  }
  if (!strips) return LC_OK;
  strips_arg a = {run, w, xt, x, dy, ldx, lddy, T, use, NULL, 0};
  const lc_gemm_shape all = {.m = w->M, .n = w->N, .k = T, .ldb = ldx, .dtype = xt, .c_dtype = LC_F32};
  LC_TRY(lc_gemm_pack_shared(run->ctx, &all, x, &a.packed, &a.strip));
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->M, a.strip), strip_chunk, &a));
  for (int i = 0; i < w->n_sink; i++)
    if (w->sink[i].kind == LC_SINK_TILES && lc_sink_wants(&w->sink[i]) && w->sink[i].end)
      LC_TRY(w->sink[i].end(w->sink[i].self, w));
  return LC_OK;
}
