/* The table of optimisers; clipping and zeroing over all trainables. */
#include "optim/optim.h"
#include "kernels/kernels.h"
#include <math.h>
#include <string.h>

const lc_optim_ops *const lc_optims[] = {&lc_optim_adamw, &lc_optim_sgd, &lc_optim_sm3};
const int lc_n_optims = sizeof lc_optims / sizeof *lc_optims;

const lc_optim_ops *lc_optim_find(const char *name) {
  for (int i = 0; i < lc_n_optims; i++)
    if (!strcmp(lc_optims[i]->name, name)) return lc_optims[i];
  return NULL;
}

lc_status lc_optim_check(lc_ctx *ctx, const lc_optim_ops *o, const lc_param *p) {
  return p->grad ? LC_OK : lc_fail(ctx, "%s: '%s' has no gradient", o->name, p->name);
}

lc_rates lc_rates_of(const lc_param *p) {
  for (int c = 0; c < p->n_col; c++)
    if (!strcmp(p->col[c].name, LC_RATE) && p->col[c].axis != LC_AXIS_COL)
      return (lc_rates){p, p->col[c].data, p->col[c].axis == LC_AXIS_ROW};
  return (lc_rates){.p = p};
}

float lc_rate_run(const lc_rates *r, int64_t k, int64_t limit, int64_t *end) {
  *end = limit;
  if (!r->rate) return 1;
  if (!r->by_row) {
    for (*end = k + 1; *end < limit && r->rate[*end] == r->rate[k];) ++*end;
    return r->rate[k];
  }
  const int64_t row = lc_index_at(&r->p->idx, k) / r->p->cols, next = (row + 1) * r->p->cols;
  *end =
      r->p->idx.kind == LC_ALL ? lc_min64(limit, next) : lc_min64(limit, lc_index_lower(&r->p->idx, k, next));
  return r->rate[row];
}

void lc_decay_origin(lc_param *p, double rate_decay, int64_t k0, int64_t k1) {
  const float *origin = rate_decay != 0 ? lc_param_find(p, LC_ORIGIN) : NULL, f = (float)rate_decay;
  for (int64_t k = k0; k < k1 && origin; k++) p->value[k] -= f * origin[k];
}

enum { CHUNK = 65536 };

typedef struct {
  lc_ctx *ctx;
  const lc_param *p;
  double *part;
  float factor;
} clip_arg;

static lc_status squares_chunk(void *arg, int64_t c, int worker) {
  const clip_arg *a = arg;
  a->part[c] =
      lc_kernels_get(a->ctx)->sum_squares(lc_min64(CHUNK, a->p->n - c * CHUNK), a->p->grad + c * CHUNK);
  return LC_OK;
}

static lc_status scale_chunk(void *arg, int64_t c, int worker) {
  const clip_arg *a = arg;
  lc_kernels_get(a->ctx)->scale(lc_min64(CHUNK, a->p->n - c * CHUNK), a->factor, a->p->grad + c * CHUNK);
  return LC_OK;
}

/* torch's rule: scale by max/(norm + 1e-6) when that is below 1. Partial sums are per chunk of a fixed size
 * and are added in order. */
lc_status lc_clip_gradients(lc_ctx *ctx, lc_param **params, int n, double max_norm, double *norm) {
  clip_arg a = {.ctx = ctx};
  double sum = 0;
  for (int i = 0; i < n; i++) {
    a.p = params[i];
    if (!a.p->wants_grad || !a.p->grad) continue;
    int64_t chunks = lc_ceil_div(a.p->n, CHUNK);
    if (!(a.part = lc_scratch(ctx, lc_worker(ctx), 0, (size_t)chunks * sizeof *a.part))) return LC_FAILED;
    LC_TRY(lc_parallel(ctx, chunks, squares_chunk, &a));
    for (int64_t c = 0; c < chunks; c++) sum += a.part[c];
  }
  *norm = sqrt(sum);
  double factor = max_norm > 0 ? max_norm / (*norm + 1e-6) : 1;
  a.factor = (float)factor;
  for (int i = 0; i < n && factor < 1; i++) {
    a.p = params[i];
    if (a.p->wants_grad && a.p->grad) LC_TRY(lc_parallel(ctx, lc_ceil_div(a.p->n, CHUNK), scale_chunk, &a));
  }
  return LC_OK;
}

void lc_zero_gradients(lc_ctx *ctx, lc_param **params, int n) {
  (void)ctx;
  for (int i = 0; i < n; i++)
    if (params[i]->grad) memset(params[i]->grad, 0, (size_t)params[i]->n * sizeof(float));
}
