/* Switching in place: when a delta that changes some entries only comes, goes or changes its scale, only those entries of the private copy are
 * computed again, each from the base and all deltas in place, in the order and with the rounding of a whole refresh: the same bits.
 *
 * What costs is the lines of memory that the entries lie in: while a run of entries is computed, those of the next are fetched. The base's values at
 * the entries are kept with the delta from the first time on (4 B an entry), so that later no line of the base is read. */
#include "nn/nn.h"
#include <string.h>

enum { PART = 32768 /* positions of the matrix in a chunk */, RUN = 32 /* entries */ };

typedef struct {
  lc_ctx *ctx;
  lc_weight *w;
  const lc_delta *d;
  int which;
  float *under; /* the base's values at the list, or NULL */
  bool fill;    /* they are gathered now */
} touch_arg;

/* A run of entries: positions in the weight, which is where they lie in the copy, and places in the base. */
typedef struct {
  int64_t number, n, flat[RUN], place[RUN];
} run;

static void begin(const touch_arg *a, lc_walk *walk, run *u) {
  u->n = a->d->ops->walk(a->d, walk, RUN, u->flat);
  u->number = walk->next - u->n;
  if (a->under && !a->fill) return;
  lc_form_places(a->w->base, a->w->M, a->w->N, u->n, u->flat, u->place);
  lc_form_prefetch(a->w->base, u->n, u->place);
}

/* f to its entries; between two of them, one of the next run's is fetched, as many as the memory takes at a time. */
static void scatter(lc_weight *w, const run *u, const float *f, const run *next) {
  float *x = lc_form_data(w->form);
  uint16_t *h = lc_form_data(w->form);
  const lc_dtype dtype = w->form->src.dtype;
  const int64_t both = lc_min64(u->n, next->n);
  if (dtype == LC_F32) {
    for (int64_t i = 0; i < both; i++) {
      __builtin_prefetch(x + next->flat[i], 1);
      x[u->flat[i]] = f[i];
    }
    for (int64_t i = both; i < u->n; i++) x[u->flat[i]] = f[i];
  } else {
    lc_form_prefetch(w->form, both, next->flat);
    for (int64_t i = 0; i < u->n; i++)
      h[u->flat[i]] = dtype == LC_BF16 ? lc_f32_to_bf16(f[i]) : lc_f32_to_f16(f[i]);
  }
}

static void finish(const touch_arg *a, const run *u, const run *next) {
  float f[RUN];
  if (a->under && !a->fill)
    memcpy(f, a->under + u->number, (size_t)u->n * sizeof *f);
  else
    lc_form_pick(a->ctx, a->w->base, u->n, u->place, f);
  if (a->fill) memcpy(a->under + u->number, f, (size_t)u->n * sizeof *f);
  for (int i = 0; i < a->w->n_delta; i++) {
    const lc_delta *d = a->w->delta[i];
    if (d->apply == LC_IN_PLACE && d->scale != 0)
      d->ops->at(d, d == a->d ? a->which : -1, u->number, u->n, u->flat, f);
  }
  scatter(a->w, u, f, next);
}

static lc_status touch_chunk(void *arg, int64_t chunk, int worker) {
  const touch_arg *a = arg;
  lc_walk walk = {a->which, chunk * PART, lc_min64(chunk * PART + PART, a->w->M * a->w->N), -1, false};
  run u[2];
  begin(a, &walk, &u[0]);
  lc_form_prefetch(a->w->form, u[0].n, u[0].flat);
  for (int now = 0; u[now].n > 0; now ^= 1) {
    begin(a, &walk, &u[now ^ 1]);
    finish(a, &u[now], &u[now ^ 1]);
  }
  return LC_OK;
}

/* A list that nothing trains stays as it is, so what lies under it does too. */
static bool worth_keeping(const lc_delta *d) {
  return d->apply == LC_IN_PLACE && d->n_param && !d->param[0]->grad && d->ops->nonzeros(d) > 0;
}

static lc_status touch(lc_ctx *ctx, lc_weight *w, lc_delta *d) {
  touch_arg a = {ctx, w, d, 0, NULL, false};
  if (!d->under && worth_keeping(d)) {
    d->under = lc_alloc_n(ctx, LC_MEM_FORM, (size_t)d->ops->nonzeros(d), sizeof *d->under);
    if (!d->under) return LC_FAILED;
    a.fill = true;
  }
  for (a.under = d->under;; a.which++, a.under = NULL, a.fill = false) {
    lc_walk walk = {a.which, 0, 0, -1, false};
    d->ops->walk(d, &walk, 0, NULL);
    if (walk.none) return LC_OK;
    LC_TRY(lc_parallel(ctx, lc_ceil_div(w->M * w->N, PART), touch_chunk, &a));
  }
}

void lc_delta_forget_under(lc_ctx *ctx, lc_delta *d) {
  lc_free(ctx, d->under);
  d->under = NULL;
}

lc_status lc_weight_switched(lc_ctx *ctx, lc_weight *w, lc_delta *d) {
  bool kept = false, simple = w->form != w->base && w->form->priv && d->ops->walk;
  for (int i = 0; i < w->n_delta; i++) {
    const lc_delta *e = w->delta[i];
    kept |= e->apply == LC_IN_PLACE;
    simple &= e->apply != LC_IN_PLACE || e->scale == 0 || e->ops->at != NULL;
  }
  const lc_status st = simple && kept ? touch(ctx, w, d) : lc_weight_refresh(ctx, w);
  if (d->apply != LC_IN_PLACE) lc_delta_forget_under(ctx, d);
  return st;
}
