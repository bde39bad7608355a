/* A critic: value(h) = w·h + b of the final hidden state h, trained beside the policy. Its gradient ends at h: the network is the
 * policy's alone, so the critic costs 24 bytes a column and no backward pass. Arithmetic in f64, in order: the same bits for any
 * number of threads. */
#include "train/objective.h"
#include <math.h>

lc_status lc_critic_new(lc_ctx *ctx, int64_t C, lc_critic *c) {
  *c = (lc_critic){.C = C};
  c->w = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)C + 1, sizeof *c->w);
  c->m = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)C + 1, sizeof *c->m);
  c->v = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)C + 1, sizeof *c->v);
  return c->w && c->m && c->v ? LC_OK : LC_FAILED;
}

void lc_critic_free(lc_ctx *ctx, lc_critic *c) {
  lc_free(ctx, c->w);
  lc_free(ctx, c->m);
  lc_free(ctx, c->v);
  *c = (lc_critic){0};
}

double lc_critic_value(const lc_critic *c, const float *h) {
  double sum = c->w[c->C];
  for (int64_t i = 0; i < c->C; i++) sum += c->w[i] * (double)h[i];
  return sum;
}

double lc_critic_loss(const lc_critic *c, const float *h, const double *goal, int64_t n, double *grad) {
  double loss = 0;
  for (int64_t i = 0; grad && i <= c->C; i++) grad[i] = 0;
  for (int64_t t = 0; t < n; t++) {
    const float *x = h + t * c->C;
    const double e = lc_critic_value(c, x) - goal[t];
    loss += 0.5 * e * e / (double)n;
    for (int64_t i = 0; grad && i < c->C; i++) grad[i] += e * (double)x[i] / (double)n;
    if (grad) grad[c->C] += e / (double)n;
  }
  return loss;
}

void lc_critic_step(lc_critic *c, const double *grad, double lr) {
  c->steps++;
  const double b1 = 1 - pow(0.9, (double)c->steps), b2 = 1 - pow(0.999, (double)c->steps);
  for (int64_t i = 0; i <= c->C; i++) {
    c->m[i] += 0.1 * (grad[i] - c->m[i]);
    c->v[i] += 0.001 * (grad[i] * grad[i] - c->v[i]);
    c->w[i] -= lr * (c->m[i] / b1) / (sqrt(c->v[i] / b2) + 1e-8);
  }
}

/* f64 arrays travel as pairs of 32-bit words. */
lc_status lc_critic_visit(lc_critic *c, lc_visitor *v) {
  LC_TRY(v->array(v, "critic:w", LC_I32, 2 * (c->C + 1), c->w));
  LC_TRY(v->array(v, "critic:m", LC_I32, 2 * (c->C + 1), c->m));
  LC_TRY(v->array(v, "critic:v", LC_I32, 2 * (c->C + 1), c->v));
  return v->array(v, "critic:steps", LC_I64, 1, &c->steps);
}
