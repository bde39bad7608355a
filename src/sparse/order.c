/* Exact order statistics of |x| over a matrix that is given row by row: two sweeps, each a histogram of the bits of |x| (high halves, then the
 * low halves of those looked for). Counts are integers, one table a worker, so neither threads nor strips matter; nothing but the tables is kept. */
#include "sparse/order.h"
#include <math.h>
#include <string.h>

enum { STRIP = 64, HIGH = 1 << 15, LOW = 1 << 16, SLOT_HIST = 7 };

typedef struct {
  lc_ctx *ctx;
  int64_t rows, cols;
  lc_row_fn row;
  void *self;
  int pass;
  uint32_t bin[2]; /* pass 2: high halves of the two values looked for */
} sweep;

static lc_status count_strip(void *arg, int64_t c, int worker) {
  const sweep *s = arg;
  uint32_t *hist = lc_scratch(s->ctx, worker, SLOT_HIST, 2 * LOW * sizeof *hist);
  if (!hist) return LC_FAILED;
  for (int64_t r = c * STRIP; r < lc_min64(c * STRIP + STRIP, s->rows); r++) {
    const float *x;
    LC_TRY(s->row(s->self, r, worker, &x));
    for (int64_t i = 0; i < s->cols; i++) {
      union {
        float f;
        uint32_t u;
      } v = {fabsf(x[i])};
      if (s->pass == 1) {
        hist[v.u >> 16]++;
      } else {
        for (int k = 0; k < 2; k++)
          if (v.u >> 16 == s->bin[k]) hist[k * LOW + (v.u & 0xffff)]++;
      }
    }
  }
  return LC_OK;
}

static lc_status count(sweep *s, uint32_t **all) {
  const int threads = lc_threads(s->ctx);
  *all = lc_scratch(s->ctx, 0, SLOT_HIST, 2 * LOW * sizeof **all);
  for (int t = 0; t < threads; t++) {
    uint32_t *own = lc_scratch(s->ctx, t, SLOT_HIST, 2 * LOW * sizeof *own);
    if (!own) return LC_FAILED;
    memset(own, 0, 2 * LOW * sizeof *own);
  }
  LC_TRY(lc_parallel(s->ctx, lc_ceil_div(s->rows, STRIP), count_strip, s));
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

lc_status lc_abs_order(lc_ctx *ctx, int64_t rows, int64_t cols, lc_row_fn row, void *self,
                       const int64_t rank[2], float value[2]) {
  sweep s = {.ctx = ctx, .rows = rows, .cols = cols, .row = row, .self = self, .pass = 1};
  int64_t left[2] = {rank[0], rank[1]};
  uint32_t *hist;
  LC_TRY(count(&s, &hist));
  for (int k = 0; k < 2; k++) s.bin[k] = bin_of(hist, HIGH, &left[k]);
  s.pass = 2;
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
