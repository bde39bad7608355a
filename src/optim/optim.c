/* The table of optimisers; clipping and zeroing over all trainables. */
#include "optim/optim.h"
#include "kernels/kernels.h"
#include <math.h>
#include <string.h>

extern const lc_optim_ops lc_optim_adamw, lc_optim_sgd, lc_optim_sm3;
const lc_optim_ops *const lc_optims[] = {&lc_optim_adamw, &lc_optim_sgd, &lc_optim_sm3};
const int lc_n_optims = sizeof lc_optims / sizeof *lc_optims;

const lc_optim_ops *lc_optim_find(const char *name) {
  for (int i = 0; i < lc_n_optims; i++)
    if (!strcmp(lc_optims[i]->name, name)) return lc_optims[i];
  return NULL;
}

enum { CHUNK = 65536 };

/* torch's rule: scale by max/(norm + 1e-6) when that is below 1. Partial sums are per chunk of a fixed size, added in order. */
lc_status lc_clip_gradients(lc_ctx *ctx, lc_param **params, int n, double max_norm, double *norm) {
  const lc_kernels *k = lc_kernels_get(ctx);
  double sum = 0;
  for (int i = 0; i < n; i++)
    for (int64_t at = 0; params[i]->wants_grad && at < params[i]->n; at += CHUNK)
      sum += k->sum_squares(lc_min64(CHUNK, params[i]->n - at), params[i]->grad + at);
  *norm = sqrt(sum);
  double factor = max_norm > 0 ? max_norm / (*norm + 1e-6) : 1;
  for (int i = 0; i < n && factor < 1; i++)
    if (params[i]->wants_grad) k->scale(params[i]->n, (float)factor, params[i]->grad);
  return LC_OK;
}

void lc_zero_gradients(lc_ctx *ctx, lc_param **params, int n) {
  (void)ctx;
  for (int i = 0; i < n; i++)
    if (params[i]->grad) memset(params[i]->grad, 0, (size_t)params[i]->n * sizeof(float));
}
