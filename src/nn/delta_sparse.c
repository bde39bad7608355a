/* delta_sparse: W + s·scatter(i, δ): K flat positions, sorted and distinct, and K f32 values.
 *
 * A rectangle's entries are found by a galloping binary search for each of its rows in the one sorted list
 * (flat = row·N + col): no row pointers are stored, so an entry costs its index and its value and nothing
 * else, and a change of the set has nothing to rebuild. From one row to the next the search starts where the
 * last one ended; a rectangle of full rows is one search and one sweep.
 *
 * patch is the meaning of the delta, in every mode: tile += s·δ in f32, rounded once by whoever stores the
 * tile. A scale of 0 touches nothing, so the base's own bits (a negative zero too) stay. */
#include "kernels/kernels.h"
#include "nn/nn.h"

static inline int64_t flat_at(const lc_index *x, int64_t k) {
  return lc_index_at(x, k);
}

/* Calls `body` for every entry k at (row r, column c) inside the rectangle. */
#define EACH_ENTRY(idx, N, rect, body)                                                                       \
  do {                                                                                                       \
    int64_t k = 0;                                                                                           \
    for (int64_t r = (rect).r0; r < (rect).r1; r++) {                                                        \
      int64_t end = r * (N) + (rect).c1;                                                                     \
      for (k = lc_index_lower(idx, k, r * (N) + (rect).c0); k < (idx)->n; k++) {                             \
        int64_t c = flat_at(idx, k);                                                                         \
        if (c >= end) break;                                                                                 \
        c -= r * (N);                                                                                        \
        body;                                                                                                \
      }                                                                                                      \
      if (k == (idx)->n) break;                                                                              \
    }                                                                                                        \
  } while (0)

/* tile[r-r0, c-c0] += s·δ_k */
static lc_status sparse_patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const lc_param *p = d->param[0];
  const float s = d->scale;
  if (s == 0) return LC_OK;
  EACH_ENTRY(&p->idx, d->w->N, at, tile[(r - at.r0) * ld + (c - at.c0)] += s * p->value[k]);
  if (p->retired.n)
    EACH_ENTRY(&p->retired, d->w->N, at, tile[(r - at.r0) * ld + (c - at.c0)] += s * p->retired_value[k]);
  return LC_OK;
}

static inline void add_bf16(uint16_t *e, float x) {
  *e = lc_f32_to_bf16(lc_bf16_to_f32(*e) + x);
}

/* The same on a bf16 tile that nothing else patches: only the entries are widened and rounded again. */
static lc_status sparse_patch_bf16(lc_ctx *ctx, const lc_delta *d, lc_rect at, uint16_t *tile, int64_t ld) {
  const lc_param *p = d->param[0];
  const float s = d->scale;
  if (s == 0) return LC_OK;
  EACH_ENTRY(&p->idx, d->w->N, at, add_bf16(&tile[(r - at.r0) * ld + (c - at.c0)], s * p->value[k]));
  if (p->retired.n)
    EACH_ENTRY(&p->retired, d->w->N, at,
               add_bf16(&tile[(r - at.r0) * ld + (c - at.c0)], s * p->retired_value[k]));
  return LC_OK;
}

/* y[r-r0] += s·Σ_k δ_k·x[c_k] over the entries of rows [r0,r1): a row-sorted sparse product, one token. Each
 * row's sum is made before it is added, so the result does not depend on how the rows were cut. */
static void rows_aside(const lc_index *x, const float *value, float s, int64_t N, int64_t r0, int64_t r1,
                       const float *in, float *y) {
  int64_t k = 0;
  for (int64_t r = r0; r < r1; r++) {
    k = lc_index_lower(x, k, r * N);
    float sum = 0;
    for (; k < x->n; k++) {
      int64_t c = flat_at(x, k) - r * N;
      if (c >= N) break;
      sum += value[k] * in[c];
    }
    y[r - r0] += s * sum;
  }
}

static lc_status sparse_aside(lc_ctx *ctx, const lc_delta *d, int64_t r0, int64_t r1, const float *x,
                              float *y) {
  const lc_param *p = d->param[0];
  if (d->scale == 0) return LC_OK;
  rows_aside(&p->idx, p->value, d->scale, d->w->N, r0, r1, x, y);
  if (p->retired.n) rows_aside(&p->retired, p->retired_value, d->scale, d->w->N, r0, r1, x, y);
  return LC_OK;
}

static lc_status sparse_visit(lc_delta *d, lc_visitor *v) {
  return lc_param_visit(d->param[0], v);
}

static int64_t sparse_nonzeros(const lc_delta *d) {
  return d->param[0]->n + d->param[0]->retired.n;
}

static void sparse_free(lc_ctx *ctx, lc_delta *d) {
  if (!d) return;
  if (d->n_param) {
    lc_weight_remove_sink(d->w, d->param[0]);
    lc_param_free(ctx, d->param[0]);
  }
  lc_free(ctx, d);
}

const lc_delta_ops lc_delta_sparse = {
    .name = "sparse",
    .mergeable = true,
    .patch = sparse_patch,
    .patch_bf16 = sparse_patch_bf16,
    .aside = sparse_aside,
    .visit = sparse_visit,
    .nonzeros = sparse_nonzeros,
    .free = sparse_free,
};

char *lc_delta_sparse_name(lc_ctx *ctx, const lc_weight *w) {
  return w->n_delta ? lc_format(ctx, "%s.delta%d", w->name, w->n_delta + 1)
                    : lc_format(ctx, "%s.delta", w->name);
}

lc_status lc_delta_sparse_new(lc_ctx *ctx, lc_weight *w, lc_index *idx, const float *values, bool trainable,
                              lc_delta **out) {
  lc_status st = LC_OK;
  char *name = NULL;
  lc_delta *d = NULL;
  *out = NULL;
  if (w->ndim != 2) return lc_fail(ctx, "weight '%s' is a vector: a sparse delta needs a matrix", w->name);
  if (trainable && w->kind != LC_KIND_LINEAR)
    return lc_fail(
        ctx, "weight '%s' is not a linear layer's: a sparse delta can be applied to it, but not trained",
        w->name);
  if (idx->kind == LC_ALL || idx->n < 1)
    return lc_fail(ctx, "weight '%s': a sparse delta needs a list of at least one position", w->name);
  if (lc_index_at(idx, 0) < 0 || lc_index_at(idx, idx->n - 1) >= w->M * w->N)
    return lc_fail(ctx, "weight '%s': positions %lld to %lld are not inside its %lld×%lld entries", w->name,
                   (long long)lc_index_at(idx, 0), (long long)lc_index_at(idx, idx->n - 1), (long long)w->M,
                   (long long)w->N);
  if (!(d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d))) return LC_FAILED;
  *d = (lc_delta){.ops = &lc_delta_sparse, .w = w, .scale = 1, .apply = LC_PATCH};
  if (!(name = lc_delta_sparse_name(ctx, w))) LC_GO(LC_FAILED);
  LC_GO(lc_param_new(ctx, name, w, idx, w->M, w->N, trainable, &d->param[0]));
  d->n_param = 1;
  if (values)
    for (int64_t k = 0; k < d->param[0]->n; k++) d->param[0]->value[k] = values[k];
  if (trainable) LC_GO(lc_weight_add_sink(ctx, w, (lc_sink){.kind = LC_SINK_ENTRIES, .param = d->param[0]}));
  *out = d;
  d = NULL;
done:
  sparse_free(ctx, d);
  lc_free(ctx, name);
  return st;
}
