/* AdamW (Loshchilov & Hutter 2019), torch's order of operations; or, with eps_inside, SpIEL's placement of ε
 * and decay after the step. A param with an "age" column counts steps per entry: an entry swapped in later
 * has its own bias correction. What has no entry here does not move. */
#include "kernels/kernels.h"
#include "optim/optim.h"

enum { CHUNK = 16384 };

static lc_status prepare(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  (void)h;
  LC_TRY(lc_param_column(ctx, p, "m", LC_AXIS_ENTRY, 0, NULL));
  return lc_param_column(ctx, p, "v", LC_AXIS_ENTRY, 0, NULL);
}

typedef struct {
  lc_ctx *ctx;
  lc_param *p;
  lc_adamw_hyper h;
  float step, *m, *v, *age;
} adamw_arg;

static lc_status chunk(void *arg, int64_t c, int worker) {
  const adamw_arg *a = arg;
  const int64_t last = lc_min64(c * CHUNK + CHUNK, a->p->n);
  const lc_rates rates = lc_rates_of(a->p);
  for (int64_t k = c * CHUNK, end; k < last; k = end) {
    const float rate = lc_rate_run(&rates, k, last, &end);
    lc_adamw_hyper h = a->h;
    h.lr *= rate;
    if (rate == 0) continue;
    lc_kernels_get(a->ctx)->adamw(end - k, &h, a->step, a->p->value + k, a->p->grad + k, a->m + k, a->v + k,
                                  a->age ? a->age + k : NULL);
    lc_decay_origin(a->p, (double)h.lr * (double)h.weight_decay, k, end);
  }
  return LC_OK;
}

static lc_status update(lc_ctx *ctx, lc_param *p, const lc_hyper *h) {
  LC_TRY(lc_optim_check(ctx, &lc_optim_adamw, p));
  adamw_arg a = {.ctx = ctx,
                 .p = p,
                 .step = (float)(h->step + 1),
                 .m = lc_param_find(p, "m"),
                 .v = lc_param_find(p, "v"),
                 .age = lc_param_find(p, "age")};
  if (!a.m || !a.v) return lc_fail(ctx, "adamw: '%s' was not prepared", p->name);
  a.h = (lc_adamw_hyper){(float)h->beta1,
                         (float)h->beta2,
                         (float)h->eps,
                         (float)(h->lr * (double)p->lr_factor),
                         p->decays ? (float)h->weight_decay : 0,
                         h->eps_inside};
  return lc_parallel(ctx, lc_ceil_div(p->n, CHUNK), chunk, &a);
}

const lc_optim_ops lc_optim_adamw = {"adamw", prepare, update};
