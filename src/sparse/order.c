/* Exact order statistics of |x| over numbers that are given piece by piece: two sweeps, each a histogram of the bits of |x| (high halves, then the
 * low halves of those looked for). Counts are integers, one table a worker, so neither threads nor pieces matter; nothing but the tables is kept. */
#include "sparse/order.h"
#include <math.h>
#include <string.h>

enum { HIGH = 1 << 15, LOW = 1 << 16, TABLES = 2 * LOW / HIGH, SLOT_HIST = 7 };

typedef struct {
  lc_ctx *ctx;
  int64_t pieces;
  lc_piece_fn piece;
  void *self;
  int sweep;
  uint32_t bin[2]; /* sweep 1: high halves of the two values looked for */
} sweeps;

/* Numbers side by side often fall into one bin: they are counted in tables of their own, so that one need not wait for the other. */
static void count_high(int64_t n, const float *x, uint32_t *hist) {
  int64_t i = 0;
  for (; i + TABLES <= n; i += TABLES) {
    uint32_t u[TABLES];
    memcpy(u, x + i, sizeof u);
    for (int t = 0; t < TABLES; t++) hist[t * HIGH + (int)((u[t] & 0x7fffffff) >> 16)]++;
  }
  for (; i < n; i++) {
    uint32_t u;
    memcpy(&u, x + i, sizeof u);
    hist[(u & 0x7fffffff) >> 16]++;
  }
}

static void count_low(int64_t n, const float *x, const uint32_t bin[2], uint32_t *hist) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, x + i, sizeof u);
    const uint32_t high = (u & 0x7fffffff) >> 16;
    if (high != bin[0] && high != bin[1]) continue;
    for (int k = 0; k < 2; k++)
      if (high == bin[k]) hist[k * LOW + (int)(u & 0xffff)]++;
  }
}

static lc_status count_piece(void *arg, int64_t c, int worker) {
  const sweeps *s = arg;
  uint32_t *hist = lc_scratch(s->ctx, worker, SLOT_HIST, 2 * LOW * sizeof *hist);
  const float *x;
  int64_t n;
  if (!hist) return LC_FAILED;
  LC_TRY(s->piece(s->self, c, s->sweep, worker, &x, &n));
  if (s->sweep)
    count_low(n, x, s->bin, hist);
  else
    count_high(n, x, hist);
  return LC_OK;
}

static lc_status count(sweeps *s, uint32_t **all) {
  const int threads = lc_threads(s->ctx);
  *all = lc_scratch(s->ctx, 0, SLOT_HIST, 2 * LOW * sizeof **all);
  for (int t = 0; t < threads; t++) {
    uint32_t *own = lc_scratch(s->ctx, t, SLOT_HIST, 2 * LOW * sizeof *own);
    if (!own) return LC_FAILED;
    memset(own, 0, 2 * LOW * sizeof *own);
  }
  LC_TRY(lc_parallel(s->ctx, s->pieces, count_piece, s));
  for (int t = 1; t < threads; t++) {
    const uint32_t *own = lc_scratch(s->ctx, t, SLOT_HIST, 2 * LOW * sizeof *own);
    for (int k = 0; k < 2 * LOW; k++) (*all)[k] += own[k];
  }
  return LC_OK;
}

/* The bin of rank r, and what is left of r in it. */
static uint32_t bin_of(const uint32_t *hist, int n, int64_t *r) {
  for (int k = 0; k < n; k++) {
    if (*r < hist[k]) return (uint32_t)k;
    *r -= hist[k];
  }
  return (uint32_t)(n - 1);
}

lc_status lc_abs_order(lc_ctx *ctx, int64_t pieces, lc_piece_fn piece, void *self, const int64_t rank[2],
                       float value[2]) {
  sweeps s = {.ctx = ctx, .pieces = pieces, .piece = piece, .self = self};
  int64_t left[2] = {rank[0], rank[1]};
  uint32_t *hist;
  LC_TRY(count(&s, &hist));
  for (int k = HIGH; k < TABLES * HIGH; k++) hist[k % HIGH] += hist[k];
  for (int k = 0; k < 2; k++) s.bin[k] = bin_of(hist, HIGH, &left[k]);
  s.sweep = 1;
  LC_TRY(count(&s, &hist));
  for (int k = 0; k < 2; k++) {
    union {
      uint32_t u;
      float f;
    } v = {s.bin[k] << 16 | bin_of(hist + k * LOW, LOW, &left[k])};
    value[k] = v.f;
  }
  return LC_OK;
}
