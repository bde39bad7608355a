/* Switching in place: when a delta that is a list of entries comes, goes or changes its scale, only those entries of the private copy are computed
 * again, each from the base and all deltas in place, in the order and with the rounding of a whole refresh: the same bits. What costs is the lines of
 * memory that the entries lie in: a run of them is gathered, added to and scattered, so that many lines are under way at once. */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/nn.h"

enum { CHUNK = 4096, RUN = 256 }; /* entries */

typedef struct {
  lc_ctx *ctx;
  lc_weight *w;
  const lc_index *list;
} touch_arg;

static void positions(const lc_index *x, int64_t k0, int64_t n, int64_t *flat) {
  if (x->kind == LC_LIST32)
    for (int64_t i = 0; i < n; i++) flat[i] = ((const int32_t *)x->at)[k0 + i];
  else
    for (int64_t i = 0; i < n; i++) flat[i] = lc_index_at(x, k0 + i);
}

static lc_status gather(lc_ctx *ctx, const lc_weight *w, const int64_t *flat, int64_t n, float *f) {
  const lc_rect all = {0, w->M, 0, w->N};
  int64_t ld;
  const float *x = w->base->ops->borrow(w->base, all, LC_F32, &ld);
  const uint16_t *h = x ? NULL : w->base->ops->borrow(w->base, all, LC_BF16, &ld);
  const uint8_t *copy = lc_form_data(w->form);
  const int64_t size = w->form->src.dtype == LC_F32 ? 4 : 2;
  for (int64_t i = 0; i < n; i++) {
    __builtin_prefetch(copy + flat[i] * size, 1);
    if (x) {
      f[i] = x[flat[i]];
    } else if (h) {
      f[i] = lc_bf16_to_f32(h[flat[i]]);
    } else {
      const int64_t r = flat[i] / w->N, c = flat[i] % w->N;
      LC_TRY(w->base->ops->decode(ctx, w->base, (lc_rect){r, r + 1, c, c + 1}, LC_F32, &f[i], 1));
    }
  }
  return LC_OK;
}

static void scatter(lc_weight *w, const int64_t *flat, int64_t n, const float *f) {
  float *x = lc_form_data(w->form);
  uint16_t *h = lc_form_data(w->form);
  const lc_dtype dtype = w->form->src.dtype;
  for (int64_t i = 0; i < n; i++) {
    if (dtype == LC_F32)
      x[flat[i]] = f[i];
    else
      h[flat[i]] = dtype == LC_BF16 ? lc_f32_to_bf16(f[i]) : lc_f32_to_f16(f[i]);
  }
}

static lc_status touch_chunk(void *arg, int64_t chunk, int worker) {
  const touch_arg *a = arg;
  int64_t flat[RUN];
  float f[RUN];
  for (int64_t k = chunk * CHUNK, n; k < lc_min64(chunk * CHUNK + CHUNK, a->list->n); k += n) {
    n = lc_min64(RUN, a->list->n - k);
    positions(a->list, k, n, flat);
    LC_TRY(gather(a->ctx, a->w, flat, n, f));
    for (int i = 0; i < a->w->n_delta; i++) {
      const lc_delta *d = a->w->delta[i];
      if (d->apply == LC_IN_PLACE && d->scale != 0) d->ops->at(d, a->list, k, n, f);
    }
    scatter(a->w, flat, n, f);
  }
  return LC_OK;
}

lc_status lc_weight_switched(lc_ctx *ctx, lc_weight *w, const lc_delta *d) {
  bool kept = false, simple = w->form != w->base && w->form->priv && d->ops->entries;
  for (int i = 0; i < w->n_delta; i++) {
    const lc_delta *e = w->delta[i];
    kept |= e->apply == LC_IN_PLACE;
    simple &= e->apply != LC_IN_PLACE || e->scale == 0 || e->ops->at != NULL;
  }
  if (!simple || !kept) return lc_weight_refresh(ctx, w);
  touch_arg a = {ctx, w, NULL};
  for (int i = 0; (a.list = d->ops->entries(d, i)); i++)
    LC_TRY(lc_parallel(ctx, lc_ceil_div(a.list->n, CHUNK), touch_chunk, &a));
  return LC_OK;
}
