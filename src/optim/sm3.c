/* SM3-II (Anil, Gupta, Koren & Singer 2019) with rows and columns as the cover: accumulators r (M) and q (N) instead of a second moment an entry.
 *   u = min(r_row, q_col) + g²;  r_row ← max(r_row, u), q_col ← max(q_col, u);  θ ← θ − lr·g/√(u+ε);  then θ ← θ(1 − lr·λ)
 * All u of a step use the accumulators from before it. A sparse param's entries are the only ones that write; with one row and one column this is Adagrad.
 * Optional momentum: b ← μ·b + (1−μ)·g/√(u+ε) takes the place of the scaled gradient. */
#include "optim/optim.h"
#include <math.h>
#include <string.h>

enum { CHUNK = 16384 };

static lc_status prepare(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  LC_TRY(lc_param_column(ctx, p, "acc_row", LC_AXIS_ROW, 0, NULL));
  LC_TRY(lc_param_column(ctx, p, "acc_col", LC_AXIS_COL, 0, NULL));
  return h->momentum != 0 ? lc_param_column(ctx, p, "momentum", LC_AXIS_ENTRY, 0, NULL) : LC_OK;
}

typedef struct { lc_param *p; const float *r, *q; float *b; float lr, mu, eps, decay; } sm3_arg;

static float moment(const lc_param *p, const float *r, const float *q, int64_t k, int64_t *row, int64_t *col) {
  int64_t flat = lc_index_at(&p->idx, k);
  *row = flat / p->cols;
  *col = flat - *row * p->cols;
  return (r[*row] < q[*col] ? r[*row] : q[*col]) + p->grad[k] * p->grad[k];
}

static lc_status chunk(void *arg, int64_t c, int worker) {
  const sm3_arg *a = arg;
  for (int64_t k = c * CHUNK, row, col; k < lc_min64(c * CHUNK + CHUNK, a->p->n); k++) {
    float u = moment(a->p, a->r, a->q, k, &row, &col), step = a->p->grad[k] / sqrtf(u + a->eps);
    if (a->b) step = a->b[k] = a->mu * a->b[k] + (1 - a->mu) * step;
    a->p->value[k] = (a->p->value[k] - a->lr * step) * a->decay;
  }
  return LC_OK;
}

static lc_status update(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  float *r = lc_param_find(p, "acc_row"), *q = lc_param_find(p, "acc_col");
  if (!r || !q || (h->momentum != 0 && !lc_param_find(p, "momentum"))) return lc_fail(ctx, "sm3: '%s' was not prepared", p->name);
  double lr = h->lr * (double)p->lr_factor;
  sm3_arg a = {p, r, q, lc_param_find(p, "momentum"), (float)lr, (float)h->momentum, (float)h->eps, (float)(1 - (p->decays ? lr * h->weight_decay : 0))};
  LC_TRY(lc_parallel(ctx, lc_ceil_div(p->n, CHUNK), chunk, &a));
  float *old = lc_scratch(ctx, 0, 0, (size_t)(p->rows + p->cols) * sizeof *old);
  if (!old) return LC_FAILED;
  memcpy(old, r, (size_t)p->rows * sizeof *old);
  memcpy(old + p->rows, q, (size_t)p->cols * sizeof *old);
  for (int64_t k = 0, row, col; k < p->n; k++) {
    float u = moment(p, old, old + p->rows, k, &row, &col);
    r[row] = fmaxf(r[row], u);
    q[col] = fmaxf(q[col], u);
  }
  return LC_OK;
}

const lc_optim_ops lc_optim_sm3 = {"sm3", prepare, update};
