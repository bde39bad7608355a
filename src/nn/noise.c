/* The log of steps along random directions, and what it does to a run of values: see noise.h. */
#include "nn/noise.h"
#include <math.h>
#include <string.h>
#include <zlib.h>
#include "kernels/kernels.h"

enum { RUN = 512 }; /* values at once: the directions' sum stays in the nearest cache */

/* ---- the log ---- */

lc_status lc_noise_log_new(lc_ctx *ctx, const lc_noise_opts *o, int64_t room, lc_noise_log **out) {
  *out = NULL;
  if (!(o->sparsity >= 0 && o->sparsity <= 1))
    return lc_fail(ctx, "a sparsity of %g is not in [0, 1]", o->sparsity);
  lc_noise_log *l = lc_alloc(ctx, LC_MEM_OTHER, sizeof *l);
  if (!l) return LC_FAILED;
  *l = (lc_noise_log){.ctx = ctx, .o = *o, .room = room, .owners = 1};
  l->at = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)lc_max64(1, room), sizeof *l->at);
  if (!l->at) {
    lc_free(ctx, l);
    return LC_FAILED;
  }
  *out = l;
  return LC_OK;
}

void lc_noise_log_drop(lc_noise_log *l) {
  if (!l || --l->owners > 0) return;
  lc_free(l->ctx, l->at);
  lc_free(l->ctx, l);
}

static uint32_t start_of(const lc_noise_opts *o) {
  char text[128];
  int n =
      snprintf(text, sizeof text, "%lld %.17g %.17g %d", (long long)o->seed, o->sparsity, o->decay, o->mask);
  return (uint32_t)crc32_z(0, (const Bytef *)text, (size_t)n);
}

static uint32_t check_of(const lc_noise_log *l, int64_t i) {
  uint32_t before = i ? l->at[i - 1].check : start_of(&l->o);
  return (uint32_t)crc32_z(before, (const Bytef *)&l->at[i], offsetof(lc_noise_step, check));
}

lc_status lc_noise_log_add(lc_noise_log *l, uint32_t step, float slope, float rate) {
  if (l->n == l->room)
    return lc_fail(l->ctx, "the log of steps has room for %lld records", (long long)l->room);
  l->at[l->n] = (lc_noise_step){.step = step, .slope = slope, .rate = rate};
  l->at[l->n].check = check_of(l, l->n);
  l->n++;
  return LC_OK;
}

lc_status lc_noise_log_verify(const lc_noise_log *l) {
  for (int64_t i = 0; i < l->n; i++)
    if (l->at[i].check != check_of(l, i) || (i && l->at[i].step < l->at[i - 1].step) ||
        !isfinite(l->at[i].slope) || !isfinite(l->at[i].rate))
      return lc_fail(l->ctx,
                     "record %lld of %lld of the log of steps (step %u) is not what was written: its "
                     "checksum does not agree",
                     (long long)i + 1, (long long)l->n, l->at[i].step);
  return LC_OK;
}

/* ---- runs of values ---- */

/* w += a·x where the mask is set. */
static void add_masked(const lc_kernels *k, const lc_noise_band *b, float a, const float *x, int64_t first,
                       int64_t n, float *w) {
  float u[RUN];
  if (b->keep <= 0) {
    k->axpy_band(n, a, x, b->low, b->high, w);
    return;
  }
  lc_rng_uniform_fill(&b->u, (uint64_t)first, n, u);
  for (int64_t j = 0; j < n; j++)
    if (u[j] < b->keep) w[j] += a * x[j];
}

void lc_noise_add(const lc_kernels *k, const lc_noise_band *b, uint32_t step, uint16_t draw, float e,
                  int64_t first, int64_t n, float *w) {
  float z[RUN];
  lc_rng rng = b->z;
  rng.step = step;
  rng.draw = draw;
  for (int64_t j = 0; j < n && b->low <= b->high; j += RUN) {
    const int64_t part = lc_min64(RUN, n - j);
    k->normal(&rng, (uint64_t)(first + j), part, z);
    add_masked(k, b, e, z, first + j, part, w + j);
  }
}

/* One step, records [from, to), on at most RUN values. */
static void follow_step(const lc_kernels *k, const lc_noise_band *b, const lc_noise_log *l, int64_t from,
                        int64_t to, int64_t first, int64_t n, float *w) {
  float z[RUN], c[RUN];
  float rate = 0;
  lc_rng rng = b->z;
  memset(c, 0, (size_t)n * sizeof *c);
  for (int64_t i = from; i < to; i++) {
    rng.step = l->at[i].step;
    rng.draw = (uint16_t)(i - from);
    k->normal(&rng, (uint64_t)first, n, z);
    k->axpy_band(n, -(l->at[i].rate * l->at[i].slope), z, 0, INFINITY,
                 c); /* a band without limits: no fused products */
    rate += l->at[i].rate;
  }
  const float shrink = rate * (float)l->o.decay;
  for (int64_t j = 0; j < n && shrink != 0; j++) c[j] -= shrink * w[j];
  add_masked(k, b, 1, c, first, n, w);
}

void lc_noise_follow(const lc_kernels *k, const lc_noise_band *b, const lc_noise_log *l, int64_t from,
                     int64_t to, int64_t first, int64_t n, float *w) {
  for (int64_t j = 0; j < n && b->low <= b->high; j += RUN)
    for (int64_t i = from, next; i < to; i = next) {
      for (next = i + 1; next < to && l->at[next].step == l->at[i].step; next++) {
      }
      follow_step(k, b, l, i, next, first + j, lc_min64(RUN, n - j), w + j);
    }
}
