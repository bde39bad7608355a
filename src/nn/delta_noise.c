/* delta_noise: what a log of steps along random directions (noise.h) makes of one weight. In training the weight's form is a private f32 copy,
 * which moves once a step; the two passes of a step see it through a tile that is perturbed after it was decoded and dropped after use, so
 * nothing is written and nothing has to be undone. Anywhere else the delta replays its log for the tile that is asked for. */
#include <math.h>
#include <string.h>
#include "kernels/kernels.h"
#include "nn/noise.h"
#include "sparse/order.h"

enum { RUN = 512, STRIP = 64, SLOT_ROW = 6 };

typedef struct {
  lc_noise_log *log;
  lc_noise_band band;
  bool viewed, held;
  uint32_t step; /* of the view */
  uint16_t draw;
  float e;
} noise_state;

const lc_noise_log *lc_delta_noise_log(const lc_delta *d) {
  return ((const noise_state *)d->priv)->log;
}
const lc_noise_band *lc_delta_noise_band(const lc_delta *d) {
  return &((const noise_state *)d->priv)->band;
}

/* ---- the band ---- */

typedef struct {
  lc_ctx *ctx;
  const lc_form *form;
  const lc_noise_band *band;
  int64_t M, N, strips;
  int64_t *count;
} rows_of;

static lc_status row_of(void *self, int64_t r, int sweep, int worker, const float **x, int64_t *n) {
  const rows_of *a = self;
  float *row = lc_scratch(a->ctx, worker, SLOT_ROW, (size_t)a->N * sizeof *row);
  *x = row, *n = a->N;
  return row ? a->form->ops->decode(a->ctx, a->form, (lc_rect){r, r + 1, 0, a->N}, LC_F32, row, a->N)
             : LC_FAILED;
}

static lc_status find_band(lc_ctx *ctx, const lc_weight *w, const lc_noise_opts *o, lc_noise_band *b) {
  const int64_t n = w->M * w->N, k = llround((1 - o->sparsity) * (double)n);
  *b = (lc_noise_band){.z = {.seed = (uint64_t)o->seed, .tensor = w->id, .purpose = LC_RNG_NOISE},
                       .u = {.seed = (uint64_t)o->seed, .tensor = w->id, .purpose = LC_RNG_MASK},
                       .low = 0,
                       .high = INFINITY};
  if (o->mask == LC_NOISE_ALL || k == n) return LC_OK;
  if (k == 0) {
    b->low = 1;
    b->high = 0;
    return LC_OK;
  }
  if (o->mask == LC_NOISE_RANDOM) {
    b->keep = (float)(1 - o->sparsity);
    return LC_OK;
  }
  rows_of a = {.ctx = ctx, .form = w->base, .M = w->M, .N = w->N};
  const int64_t rank[2] = {k - 1, n - k};
  float v[2];
  LC_TRY(lc_abs_order(ctx, w->M, row_of, &a, rank, v));
  if (o->mask == LC_NOISE_SMALL)
    b->high = v[0];
  else
    b->low = v[1];
  return LC_OK;
}

static bool active(const lc_noise_band *b, int64_t j, float w) {
  if (b->keep > 0) return lc_rng_uniform(&b->u, (uint64_t)j) < b->keep;
  return fabsf(w) >= b->low && fabsf(w) <= b->high;
}

static lc_status count_strip(void *arg, int64_t c, int worker) {
  rows_of *a = arg;
  a->count[c] = 0;
  for (int64_t r = c * STRIP; r < lc_min64(c * STRIP + STRIP, a->M); r++) {
    const float *x;
    int64_t n;
    LC_TRY(row_of(a, r, 0, worker, &x, &n));
    for (int64_t i = 0; i < a->N; i++) a->count[c] += active(a->band, r * a->N + i, x[i]);
  }
  return LC_OK;
}

lc_status lc_delta_noise_active(lc_ctx *ctx, const lc_delta *d, int64_t *n) {
  const lc_weight *w = d->w;
  const int64_t strips = lc_ceil_div(w->M, STRIP);
  rows_of a = {.ctx = ctx, .form = w->form, .band = lc_delta_noise_band(d), .M = w->M, .N = w->N};
  *n = 0;
  a.count = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)strips, sizeof *a.count);
  if (!a.count) return LC_FAILED;
  lc_status st = lc_parallel(ctx, strips, count_strip, &a);
  for (int64_t c = 0; c < strips; c++) *n += a.count[c];
  lc_free(ctx, a.count);
  return st;
}

/* ---- tiles ---- */

/* At most RUN values of a row: θ₀ → θ, and the difference goes to the tile. */
static lc_status patch_run(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile) {
  const noise_state *s = d->priv;
  const int64_t n = at.c1 - at.c0;
  float base[RUN], now[RUN];
  LC_TRY(d->w->base->ops->decode(ctx, d->w->base, at, LC_F32, base, n));
  if (s->held) {
    LC_TRY(d->w->form->ops->decode(ctx, d->w->form, at, LC_F32, now, n));
  } else {
    memcpy(now, base, (size_t)n * sizeof *now);
    lc_noise_follow(lc_kernels_get(ctx), &s->band, s->log, 0, s->log->n, at.r0 * d->w->N + at.c0, n, now);
  }
  for (int64_t j = 0; j < n; j++) {
    if (now[j] == base[j]) continue;
    tile[j] = d->scale == 1 && tile[j] == base[j] ? now[j] : tile[j] + d->scale * (now[j] - base[j]);
  }
  return LC_OK;
}

static lc_status noise_patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const noise_state *s = d->priv;
  for (int64_t r = at.r0; r < at.r1; r++) {
    float *to = tile + (r - at.r0) * ld;
    if (s->viewed) {
      lc_noise_add(lc_kernels_get(ctx), &s->band, s->step, s->draw, s->e, r * d->w->N + at.c0, at.c1 - at.c0,
                   to);
      continue;
    }
    for (int64_t c = at.c0; c < at.c1; c += RUN)
      LC_TRY(patch_run(ctx, d, (lc_rect){r, r + 1, c, lc_min64(c + RUN, at.c1)}, to + (c - at.c0)));
  }
  return LC_OK;
}

/* ---- training ---- */

typedef struct {
  lc_ctx *ctx;
  const lc_delta *d;
  int64_t from;
} move_arg;

static lc_status move_strip(void *arg, int64_t c, int worker) {
  const move_arg *a = arg;
  const noise_state *s = a->d->priv;
  const lc_weight *w = a->d->w;
  const int64_t first = c * STRIP * w->N, n = lc_min64(STRIP * w->N, w->M * w->N - first);
  lc_noise_follow(lc_kernels_get(a->ctx), &s->band, s->log, a->from, s->log->n, first, n,
                  (float *)lc_form_data(w->form) + first);
  return LC_OK;
}

lc_status lc_delta_noise_move(lc_ctx *ctx, lc_delta *d, int64_t from) {
  move_arg a = {ctx, d, from};
  return from < lc_delta_noise_log(d)->n ? lc_parallel(ctx, lc_ceil_div(d->w->M, STRIP), move_strip, &a)
                                         : LC_OK;
}

lc_status lc_delta_noise_open(lc_ctx *ctx, lc_delta *d) {
  if (d->w->form != d->w->base) return lc_fail(ctx, "'%s' has a private copy already", d->w->name);
  LC_TRY(lc_form_copy(ctx, d->w->base, d->w->M, d->w->N, LC_F32, &d->w->form));
  lc_delta_noise_hide(d);
  return lc_delta_noise_move(ctx, d, 0);
}

void lc_delta_noise_view(lc_delta *d, uint32_t step, uint16_t draw, float e) {
  noise_state *s = d->priv;
  s->viewed = true;
  s->step = step;
  s->draw = draw;
  s->e = e;
  d->scale = 1;
}

void lc_delta_noise_hide(lc_delta *d) {
  ((noise_state *)d->priv)->viewed = false;
  d->scale = 0; /* the copy has it already */
}

void lc_delta_noise_close(lc_delta *d) {
  d->scale = 1;
  d->apply = LC_IN_PLACE;
}

void lc_delta_noise_held(lc_delta *d, bool held) {
  ((noise_state *)d->priv)->held = held;
}

/* ---- the delta ---- */

static lc_status noise_visit(lc_delta *d, lc_visitor *v) {
  (void)d, (void)v;
  return LC_OK;
}

static int64_t noise_nonzeros(const lc_delta *d) {
  const noise_state *s = d->priv;
  return llround((1 - (s->log->o.mask == LC_NOISE_ALL ? 0 : s->log->o.sparsity)) *
                 (double)(d->w->M * d->w->N));
}

static void noise_free(lc_ctx *ctx, lc_delta *d) {
  if (!d) return;
  if (d->priv) lc_noise_log_drop(((noise_state *)d->priv)->log);
  lc_delta_free(ctx, d);
}

const lc_delta_ops lc_delta_noise = {.name = "noise",
                                     .mergeable = true,
                                     .patch = noise_patch,
                                     .visit = noise_visit,
                                     .nonzeros = noise_nonzeros,
                                     .free = noise_free};

lc_status lc_delta_noise_new(lc_ctx *ctx, lc_weight *w, lc_noise_log *log, lc_delta **out) {
  *out = NULL;
  if (w->ndim != 2) return lc_fail(ctx, "'%s' is a vector: noise deltas change matrices", w->name);
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  noise_state *s = d ? lc_alloc(ctx, LC_MEM_OTHER, sizeof *s) : NULL;
  if (!s) {
    lc_free(ctx, d);
    return LC_FAILED;
  }
  *d = (lc_delta){.ops = &lc_delta_noise, .w = w, .scale = 1, .apply = LC_PATCH, .priv = s};
  *s = (noise_state){.log = log};
  log->owners++;
  lc_status st = find_band(ctx, w, &log->o, &s->band);
  if (st)
    noise_free(ctx, d);
  else
    *out = d;
  return st;
}
