/* Scores of weights and of their updates, and pools that are pruned by them: see prune.h. */
#include "nn/prune.h"
#include "nn/select.h"
#include <math.h>
#include <string.h>

enum { STRIP = 64, SLOT_TILE = 12, SLOT_BASE = 13 };

static const struct {
  bool base, low_rank, entries, inverse;
} parts[] = {
    [LC_PRUNE_W] = {true, false, false, false},  [LC_PRUNE_AB] = {false, true, false, false},
    [LC_PRUNE_ABS] = {false, true, true, false}, [LC_PRUNE_WAB] = {true, true, false, false},
    [LC_PRUNE_WABS] = {true, true, true, false}, [LC_PRUNE_NAB] = {false, true, false, true},
    [LC_PRUNE_NABS] = {false, true, true, true}, [LC_PRUNE_RANDOM] = {false, false, false, false},
};

/* Adds the update's tile. A mask is no update. */
static lc_status add_update(lc_ctx *ctx, const lc_weight *w, lc_prune_mode mode, lc_rect q, float *tile) {
  for (int i = 0; i < w->n_delta; i++) {
    const lc_delta *d = w->delta[i];
    if (d->ops->beneath || !d->ops->patch) continue;
    if (d->ops == &lc_delta_lora ? parts[mode].low_rank : parts[mode].entries)
      LC_TRY(d->ops->patch(ctx, d, q, tile, w->N));
  }
  return LC_OK;
}

static lc_status score(void *arg, lc_ctx *ctx, int worker, int l, const lc_weight *w, lc_rect q, float *out) {
  const lc_prune_mode mode = *(const lc_prune_mode *)arg;
  const int64_t n = (q.r1 - q.r0) * w->N;
  memset(out, 0, (size_t)n * sizeof *out);
  if (parts[mode].base) LC_TRY(w->base->ops->decode(ctx, w->base, q, LC_F32, out, w->N));
  LC_TRY(add_update(ctx, w, mode, q, out));
  for (int64_t i = 0; i < n; i++) out[i] = parts[mode].inverse ? -fabsf(out[i]) : fabsf(out[i]);
  return LC_OK;
}

lc_status lc_prune_pool(lc_ctx *ctx, lc_weight *const *w, int n, lc_prune_mode mode, double share,
                        uint64_t seed, lc_mask *mask, int64_t *dropped) {
  int64_t all = 0;
  const lc_scores s = {.w = w, .n = n, .score = score, .arg = &mode, .smallest = true};
  for (int l = 0; l < n; l++) all += w[l]->M * w[l]->N;
  *dropped = llrint(share * (double)all);
  if (*dropped == 0) return LC_OK;
  lc_index *idx = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *idx);
  if (!idx) return LC_FAILED;
  lc_status st = mode == LC_PRUNE_RANDOM ? lc_select_global_random(ctx, w, n, seed, *dropped, idx)
                                         : lc_select_global(ctx, &s, *dropped, idx);
  for (int l = 0; l < n && !st; l++) lc_mask_drop(&mask[l], &idx[l]);
  if (!st) lc_index_free_all(ctx, idx, n);
  lc_free(ctx, idx);
  return st;
}

lc_status lc_prune_row_sums(lc_ctx *ctx, const lc_weight *w, lc_prune_mode mode, double *sum) {
  const int worker = lc_worker(ctx);
  const size_t bytes = (size_t)(STRIP * w->N) * sizeof(float);
  float *tile = lc_scratch(ctx, worker, SLOT_TILE, bytes), *base = lc_scratch(ctx, worker, SLOT_BASE, bytes);
  if (!tile || !base) return LC_FAILED;
  for (int64_t r0 = 0; r0 < w->M; r0 += STRIP) {
    const lc_rect q = {r0, lc_min64(r0 + STRIP, w->M), 0, w->N};
    memset(tile, 0, bytes);
    memset(base, 0, bytes);
    if (parts[mode].base) LC_TRY(w->base->ops->decode(ctx, w->base, q, LC_F32, base, w->N));
    LC_TRY(add_update(ctx, w, mode, q, tile));
    for (int64_t r = q.r0; r < q.r1; r++) {
      sum[r] = 0;
      for (int64_t i = (r - r0) * w->N; i < (r - r0 + 1) * w->N; i++)
        sum[r] += (double)(fabsf(base[i]) + fabsf(tile[i]));
    }
  }
  return LC_OK;
}
