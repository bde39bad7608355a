/* SGD with momentum, as torch: b ← μ·b + g (b = g at first); θ ← θ(1 − lr·λ) − lr·b. Decay is decoupled, as
 * for the other optimisers here. */
#include "optim/optim.h"

enum { CHUNK = 16384 };

static lc_status prepare(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  return h->momentum != 0 ? lc_param_column(ctx, p, "momentum", LC_AXIS_ENTRY, 0, NULL) : LC_OK;
}

typedef struct {
  lc_param *p;
  double lr, lambda;
  float mu, *b;
} sgd_arg;

static lc_status chunk(void *arg, int64_t c, int worker) {
  const sgd_arg *a = arg;
  const int64_t last = lc_min64(c * CHUNK + CHUNK, a->p->n);
  const lc_rates rates = lc_rates_of(a->p);
  for (int64_t k = c * CHUNK, end; k < last; k = end) {
    const float rate = lc_rate_run(&rates, k, last, &end);
    const double scaled = a->lr * (double)rate;
    const float lr = (float)scaled, keep = (float)(1 - scaled * a->lambda);
    const int64_t begin = k;
    for (; k < end && rate != 0; k++) {
      float g = a->p->grad[k];
      if (a->b) g = a->b[k] = a->mu * a->b[k] + g;
      a->p->value[k] = a->p->value[k] * keep - lr * g;
    }
    if (rate != 0) lc_decay_origin(a->p, scaled * a->lambda, begin, end);
  }
  return LC_OK;
}

static lc_status update(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  LC_TRY(lc_optim_check(ctx, &lc_optim_sgd, p));
  double lr = h->lr * (double)p->lr_factor;
  sgd_arg a = {p, lr, p->decays ? h->weight_decay : 0, (float)h->momentum,
               h->momentum != 0 ? lc_param_find(p, "momentum") : NULL};
  if (h->momentum != 0 && !a.b) return lc_fail(ctx, "sgd: '%s' was not prepared", p->name);
  return lc_parallel(ctx, lc_ceil_div(p->n, CHUNK), chunk, &a);
}

const lc_optim_ops lc_optim_sgd = {"sgd", prepare, update};
