/* Penalties on what is trained: see regularise.h. */
#include "train/regularise.h"
#include "kernels/linalg.h"

static float sign(float x) {
  return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f;
}

typedef struct {
  lc_ctx *ctx;
  lc_param *p;
  float strength;
} l1_arg;

/* A row of a weight that is trained as a whole: its base is decoded. */
static lc_status l1_row(void *arg, int64_t r, int worker) {
  const l1_arg *a = arg;
  const lc_weight *w = a->p->of;
  float *base = lc_scratch(a->ctx, worker, 2, (size_t)w->N * sizeof *base), *g = a->p->grad + r * w->N;
  const float *now = a->p->value + r * w->N;
  if (!base) return LC_FAILED;
  LC_TRY(w->base->ops->decode(a->ctx, w->base, (lc_rect){r, r + 1, 0, w->N}, LC_F32, base, w->N));
  for (int64_t c = 0; c < w->N; c++) g[c] += a->strength * sign(now[c] - base[c]);
  return LC_OK;
}

lc_status lc_regularise_l1(lc_ctx *ctx, lc_param *p, double strength) {
  l1_arg a = {ctx, p, (float)strength};
  if (strength == 0 || !p->grad) return LC_OK;
  if (p->of && p->of->ndim == 1) return LC_OK;
  if (!p->of)
    return lc_fail(ctx, "'%s': the distance of a weight to its base cannot be told from it", p->name);
  if (p->idx.kind == LC_ALL) return lc_parallel(ctx, p->of->M, l1_row, &a);
  for (int64_t k = 0; k < p->n; k++) p->grad[k] += a.strength * sign(p->value[k]);
  return LC_OK;
}

lc_status lc_regularise_nuclear(lc_ctx *ctx, lc_param *p, double strength, bool iterated) {
  lc_status st = LC_OK;
  if (strength == 0 || !p->grad || !p->n) return LC_OK;
  if (!p->of || p->idx.kind == LC_ALL) return lc_fail(ctx, "'%s' is no sparse change of a weight", p->name);
  const int64_t M = p->of->M, N = p->of->N;
  float *W = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * N), sizeof *W),
        *P = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(M * N), sizeof *P),
        *at = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)p->n, sizeof *at);
  if (!W || !P || !at) LC_GO(LC_FAILED);
  LC_GO(lc_attach_base_values(ctx, p->of, &p->idx, at));
  for (int64_t k = 0; k < p->n; k++) W[lc_index_at(&p->idx, k)] = at[k] + p->value[k];
  st = iterated ? lc_polar_iterated(ctx, W, M, N, 0, P, NULL) : lc_polar(ctx, W, M, N, 0, P, NULL);
  if (st) goto done;
  for (int64_t k = 0; k < p->n; k++) p->grad[k] += (float)strength * P[lc_index_at(&p->idx, k)];
done:
  lc_free(ctx, W);
  lc_free(ctx, P);
  lc_free(ctx, at);
  return st;
}
