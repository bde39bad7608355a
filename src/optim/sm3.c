/* SM3-II (Anil, Gupta, Koren & Singer 2019) with rows and columns as the cover: accumulators r (M) and q (N)
 * instead of a second moment an entry. u = min(r_row, q_col) + g²;  r_row ← max(r_row, u), q_col ← max(q_col,
 * u);  θ ← θ − lr·g/√(u+ε);  then θ ← θ(1 − lr·λ) All u of a step use the accumulators from before it. A
 * sparse param's entries are the only ones that write; with one row and one column this is Adagrad. Optional
 * momentum: b ← μ·b + (1−μ)·g/√(u+ε) takes the place of the scaled gradient. */
#include "optim/optim.h"
#include <math.h>
#include <string.h>

enum { CHUNK = 16384 };

static lc_status prepare(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  LC_TRY(lc_param_column(ctx, p, "acc_row", LC_AXIS_ROW, 0, NULL));
  LC_TRY(lc_param_column(ctx, p, "acc_col", LC_AXIS_COL, 0, NULL));
  return h->momentum != 0 ? lc_param_column(ctx, p, "momentum", LC_AXIS_ENTRY, 0, NULL) : LC_OK;
}

typedef struct {
  lc_param *p;
  const float *r, *q;
  float *b;
  double lr, lambda;
  float mu, eps;
} sm3_arg;

/* Row and column of entry k, k rising: one division a row, not one an entry. */
typedef struct {
  const lc_param *p;
  int64_t row, first, end;
} walk;

static int64_t column_of(walk *w, int64_t k) {
  int64_t flat = lc_index_at(&w->p->idx, k);
  if (flat >= w->end) {
    w->row = flat / w->p->cols;
    w->first = w->row * w->p->cols;
    w->end = w->first + w->p->cols;
  }
  return flat - w->first;
}

static float moment(const lc_param *p, const float *r, const float *q, int64_t row, int64_t col, int64_t k) {
  return (r[row] < q[col] ? r[row] : q[col]) + p->grad[k] * p->grad[k];
}

static lc_status chunk(void *arg, int64_t c, int worker) {
  const sm3_arg *a = arg;
  walk w = {.p = a->p};
  const int64_t last = lc_min64(c * CHUNK + CHUNK, a->p->n);
  const lc_rates rates = lc_rates_of(a->p);
  for (int64_t k = c * CHUNK, end; k < last; k = end) {
    const float rate = lc_rate_run(&rates, k, last, &end);
    const double scaled = a->lr * (double)rate;
    const float lr = (float)scaled, keep = (float)(1 - scaled * a->lambda);
    const int64_t begin = k;
    for (; k < end && rate != 0; k++) {
      int64_t col = column_of(&w, k);
      float step = a->p->grad[k] / sqrtf(moment(a->p, a->r, a->q, w.row, col, k) + a->eps);
      if (a->b) step = a->b[k] = a->mu * a->b[k] + (1 - a->mu) * step;
      a->p->value[k] = (a->p->value[k] - lr * step) * keep;
    }
    if (rate != 0) lc_decay_origin(a->p, scaled * a->lambda, begin, end);
  }
  return LC_OK;
}

/* Raises the accumulators; `old` is what they were, rows then columns. */
static void raise_covers(const lc_param *p, const float *old, float *r, float *q) {
  walk w = {.p = p};
  for (int64_t k = 0; k < p->n; k++) {
    int64_t col = column_of(&w, k);
    float u = moment(p, old, old + p->rows, w.row, col, k);
    r[w.row] = fmaxf(r[w.row], u);
    q[col] = fmaxf(q[col], u);
  }
}

static lc_status update(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  LC_TRY(lc_optim_check(ctx, &lc_optim_sm3, p));
  float *r = lc_param_find(p, "acc_row"), *q = lc_param_find(p, "acc_col"),
        *b = h->momentum != 0 ? lc_param_find(p, "momentum") : NULL;
  if (!r || !q || (h->momentum != 0 && !b)) return lc_fail(ctx, "sm3: '%s' was not prepared", p->name);
  double lr = h->lr * (double)p->lr_factor;
  float *old = lc_scratch(ctx, lc_worker(ctx), 0, (size_t)(p->rows + p->cols) * sizeof *old);
  if (!old) return LC_FAILED;
  sm3_arg a = {p, r, q, b, lr, p->decays ? h->weight_decay : 0, (float)h->momentum, (float)h->eps};
  LC_TRY(lc_parallel(ctx, lc_ceil_div(p->n, CHUNK), chunk, &a));
  memcpy(old, r, (size_t)p->rows * sizeof *old);
  memcpy(old + p->rows, q, (size_t)p->cols * sizeof *old);
  raise_covers(p, old, r, q);
  return LC_OK;
}

const lc_optim_ops lc_optim_sm3 = {"sm3", prepare, update};
