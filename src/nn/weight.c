/* A weight: one form and any number of deltas. Weff = round(f32(base) + Σ scale·δ), decoded and patched tile by tile, or kept in a private
 * copy (in place). A private copy is always computed from base and deltas, never incremented, so removal restores the base's own bits. */
#include "kernels/kernels.h"
#include "nn/nn.h"
#include <stdlib.h>
#include <string.h>

static bool patches(const lc_delta *d) {
  return d->apply != LC_IN_PLACE && d->ops->patch && !d->ops->emit && d->scale != 0;
}
static bool in_place(const lc_delta *d) {
  return d->apply == LC_IN_PLACE && d->ops->patch && d->scale != 0;
}

enum { NEAR = 6144 /* f32 values that are sure to stay in a first-level cache */ };

static int count_patches(const lc_weight *w, const lc_delta **last) {
  int n = 0;
  for (int i = 0; i < w->n_delta; i++)
    if (patches(w->delta[i])) n++, *last = w->delta[i];
  return n;
}

const void *lc_weight_borrow(const lc_weight *w, lc_rect q, lc_dtype dtype, int64_t *ld) {
  const lc_delta *last;
  return count_patches(w, &last) ? NULL : w->form->ops->borrow(w->form, q, dtype, ld);
}

lc_status lc_weight_tile(lc_ctx *ctx, int worker, const lc_weight *w, lc_rect q, lc_dtype dtype,
                         const void **tile, int64_t *ld) {
  if ((*tile = lc_weight_borrow(w, q, dtype, ld))) return LC_OK;
  void *out =
      lc_scratch(ctx, worker, 0, (size_t)((q.r1 - q.r0) * (q.c1 - q.c0)) * (dtype == LC_F32 ? 4u : 2u));
  if (!out) return LC_FAILED;
  *tile = out;
  *ld = q.c1 - q.c0;
  return lc_weight_decode(ctx, worker, w, q, dtype, out);
}

/* The rectangle in f32, without gaps. */
static lc_status patched(lc_ctx *ctx, const lc_weight *w, lc_rect q, float *f) {
  const int64_t cols = q.c1 - q.c0;
  LC_TRY(w->form->ops->decode(ctx, w->form, q, LC_F32, f, cols));
  for (int i = 0; i < w->n_delta; i++)
    if (patches(w->delta[i])) LC_TRY(w->delta[i]->ops->patch(ctx, w->delta[i], q, f, cols));
  return LC_OK;
}

lc_status lc_weight_decode(lc_ctx *ctx, int worker, const lc_weight *w, lc_rect q, lc_dtype dtype,
                           void *out) {
  const lc_delta *only = NULL;
  const int n_patch = count_patches(w, &only);
  const int64_t cols = q.c1 - q.c0;
  if (!n_patch) return w->form->ops->decode(ctx, w->form, q, dtype, out, cols);
  if (dtype == LC_BF16 && n_patch == 1 && only->ops->patch_bf16 && w->form->src.dtype == LC_BF16) {
    LC_TRY(w->form->ops->decode(ctx, w->form, q, dtype, out, cols));
    return only->ops->patch_bf16(ctx, only, q, out, cols);
  }
  if (dtype == LC_F32) return patched(ctx, w, q, out);
  /* entries can be added to any few rows, which then stay in the first-level cache until they are rounded */
  const bool entries = n_patch == 1 && only->ops->patch_bf16;
  const int64_t step = entries ? lc_max64(1, NEAR / cols) : q.r1 - q.r0;
  float *f = lc_scratch(ctx, worker, 1, (size_t)(lc_min64(step, q.r1 - q.r0) * cols) * sizeof *f);
  if (!f) return LC_FAILED;
  for (int64_t r = q.r0; r < q.r1; r += step) {
    const lc_rect part = {r, lc_min64(r + step, q.r1), q.c0, q.c1};
    LC_TRY(patched(ctx, w, part, f));
    lc_kernels_get(ctx)->f32_to_bf16((part.r1 - r) * cols, f, (uint16_t *)out + (r - q.r0) * cols);
  }
  return LC_OK;
}

/* ---- in place ---- */

enum {
  CHUNK = 64,
  STRIP =
      8 /* rows of a private copy: of a worker's turn, and those computed at once, in the first-level cache */
};

typedef struct {
  lc_ctx *ctx;
  lc_weight *w;
} refresh_arg;

/* Rows [q.r0,q.r1) of the copy, from the base and all deltas in place. An f32 copy is written past the caches: a store through them would read
 * each line first. */
static lc_status refresh_strip(lc_ctx *ctx, lc_weight *w, lc_rect q, int worker) {
  const int64_t n = (q.r1 - q.r0) * w->N;
  const lc_dtype dtype = w->form->src.dtype;
  const lc_kernels *k = lc_kernels_get(ctx);
  float *f = lc_scratch(ctx, worker, 1, (size_t)n * sizeof *f);
  if (!f) return LC_FAILED;
  LC_TRY(w->base->ops->decode(ctx, w->base, q, LC_F32, f, w->N));
  for (int i = 0; i < w->n_delta; i++)
    if (in_place(w->delta[i])) LC_TRY(w->delta[i]->ops->patch(ctx, w->delta[i], q, f, w->N));
  if (dtype == LC_F32)
    k->copy_past(n, f, (float *)lc_form_data(w->form) + q.r0 * w->N);
  else if (dtype == LC_BF16)
    k->f32_to_bf16(n, f, (uint16_t *)lc_form_data(w->form) + q.r0 * w->N);
  else
    k->f32_to_f16(n, f, (uint16_t *)lc_form_data(w->form) + q.r0 * w->N);
  return LC_OK;
}

static lc_status refresh_chunk(void *arg, int64_t chunk, int worker) {
  const refresh_arg *a = arg;
  const int64_t end = lc_min64((chunk + 1) * CHUNK, a->w->M);
  for (int64_t r = chunk * CHUNK; r < end; r += STRIP) {
    const lc_rect q = {r, lc_min64(r + STRIP, end), 0, a->w->N};
    LC_TRY(refresh_strip(a->ctx, a->w, q, worker));
  }
  lc_kernels_get(a->ctx)->fence();
  return LC_OK;
}

lc_status lc_weight_refresh(lc_ctx *ctx, lc_weight *w) {
  bool wanted = false, private_copy = w->form != w->base;
  for (int i = 0; i < w->n_delta; i++)
    wanted |= in_place(w->delta[i]) ||
              (private_copy && w->delta[i]->apply == LC_IN_PLACE && w->delta[i]->ops->patch);
  if (private_copy && !w->form->priv)
    return lc_fail(ctx, "'%s' is trained as a whole: no delta can be applied to it in place", w->name);
  for (int i = 0; i < w->n_delta && wanted; i++)
    if (w->delta[i]->ops->beneath && patches(w->delta[i]))
      return lc_fail(ctx, "'%s' has a %s, which comes first: it must be in place when another change is",
                     w->name, w->delta[i]->ops->name);
  if (!wanted) {
    if (private_copy) lc_form_free(ctx, w->form);
    w->form = w->base;
    return LC_OK;
  }
  if (!private_copy) {
    lc_dtype dtype = lc_dtype_get(w->base->src.dtype)->quantised ? LC_F32 : w->base->src.dtype;
    lc_form *copy;
    LC_TRY(lc_form_copy(ctx, w->base, w->M, w->N, dtype, &copy));
    w->form = copy;
  }
  refresh_arg a = {ctx, w};
  return lc_parallel(ctx, lc_ceil_div(w->M, CHUNK), refresh_chunk, &a);
}

/* ---- deltas ---- */

lc_status lc_weight_attach(lc_ctx *ctx, lc_weight *w, lc_delta *d) {
  if (w->ndim != 2) return lc_fail(ctx, "'%s' is a vector: %s deltas change matrices", w->name, d->ops->name);
  if (w->n_delta == LC_MAX_DELTAS)
    return lc_fail(ctx, "'%s' already has %d deltas, the most it can have", w->name, LC_MAX_DELTAS);
  if (w->form != w->base && !w->form->priv)
    return lc_fail(ctx, "'%s' is trained as a whole: it takes no %s delta", w->name, d->ops->name);
  if (d->ops->beneath && w->n_delta)
    return lc_fail(ctx, "'%s' already has a %s delta: a %s acts on the base alone and is attached first",
                   w->name, w->delta[0]->ops->name, d->ops->name);
  if (d->ops->emit && w->kind != LC_KIND_LINEAR)
    return lc_fail(ctx, "'%s' is no linear layer: a %s delta works beside linear layers only", w->name,
                   d->ops->name);
  d->w = w;
  w->delta[w->n_delta++] = d;
  if (d->apply != LC_IN_PLACE) return LC_OK;
  lc_status st = lc_weight_switched(ctx, w, d);
  if (st) w->n_delta--;
  return st;
}

void lc_weight_detach(lc_ctx *ctx, lc_weight *w, lc_delta *d, bool free_it) {
  for (int i = 0; i < w->n_delta; i++) {
    if (w->delta[i] != d) continue;
    memmove(&w->delta[i], &w->delta[i + 1], (size_t)(w->n_delta - i - 1) * sizeof *w->delta);
    w->n_delta--;
    break;
  }
  for (int i = 0; i < d->n_param; i++) lc_weight_remove_sink(w, d->param[i]);
  if (d->apply == LC_IN_PLACE) lc_weight_switched(ctx, w, d);
  lc_delta_forget_under(ctx, d);
  if (free_it) d->ops->free(ctx, d);
}

/* ---- consumers of the gradient ---- */

lc_status lc_weight_add_sink(lc_ctx *ctx, lc_weight *w, lc_sink s) {
  if (w->n_sink == LC_MAX_SINKS)
    return lc_fail(ctx, "'%s' already has %d consumers of its gradient", w->name, LC_MAX_SINKS);
  w->sink[w->n_sink++] = s;
  return LC_OK;
}

void lc_weight_remove_sink(lc_weight *w, const void *self_or_param) {
  int n = 0;
  for (int i = 0; i < w->n_sink; i++)
    if ((const void *)w->sink[i].param != self_or_param && w->sink[i].self != self_or_param &&
        (const void *)w->sink[i].squares != self_or_param)
      w->sink[n++] = w->sink[i];
  w->n_sink = n;
}

bool lc_sink_wants(const lc_sink *s) {
  return s->param ? s->param->wants_grad : s->kind == LC_SINK_TILES;
}

bool lc_weight_wants(const lc_weight *w, lc_sink_kind kind) {
  for (int i = 0; i < w->n_sink; i++)
    if (w->sink[i].kind == kind && (kind == LC_SINK_INPUT || lc_sink_wants(&w->sink[i]))) return true;
  return false;
}

int64_t lc_weight_columns(const lc_weight *w) {
  int64_t n = 0;
  for (int i = 0; i < w->n_sink; i++)
    if (w->sink[i].kind == LC_SINK_COLUMNS && lc_sink_wants(&w->sink[i])) n += w->sink[i].n_lines;
  return n;
}

bool lc_weight_trains(const lc_weight *w) {
  for (int i = 0; i < w->n_sink; i++)
    if (lc_sink_wants(&w->sink[i])) return true;
  return false;
}

lc_weight *lc_weights_find(const lc_weights *all, const char *name) {
  int lo = 0, hi = all->n;
  while (lo < hi) {
    int mid = (lo + hi) / 2, c = strcmp(all->w[mid].name, name);
    if (!c) return &all->w[mid];
    if (c < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  return NULL;
}
