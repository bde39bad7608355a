/* A budget of integers over layers. Each round hands what is left to the layers with room, by floor of their share, then
 * one by one to the largest fractions; a round either ends the budget or fills a layer, so there are at most n rounds. */
#include "sparse/allocate.h"
#include <math.h>

static double share_of(double score) {
  return isfinite(score) && score > 0 ? score : 0;
}

lc_status lc_allocate(lc_ctx *ctx, int64_t budget, const double *score, const int64_t *cap, int n,
                      int64_t *out) {
  double *part = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *part), top = 0;
  if (!part) return LC_FAILED;
  int64_t left = budget;
  for (int l = 0; l < n; l++) {
    out[l] = 0;
    top = fmax(top, share_of(score[l]));
  }
  while (left > 0) {
    double sum = 0;
    int64_t room = 0, handed = 0;
    for (int l = 0; l < n; l++) {
      if (out[l] == cap[l]) continue;
      room += cap[l] - out[l];
      sum += top > 0 ? share_of(score[l]) / top : 1; /* below 1: no overflow */
    }
    if (!room) break;
    for (int l = 0; l < n; l++) {
      part[l] = -1;
      if (out[l] == cap[l]) continue;
      const double s = top > 0 ? share_of(score[l]) / top : 1, want = sum > 0 ? (double)left * (s / sum) : 0;
      const int64_t take = lc_min64(lc_min64((int64_t)want, cap[l] - out[l]), left - handed);
      part[l] = want - floor(want);
      out[l] += take;
      handed += take;
    }
    if (sum <= 0) top = 0; /* only layers of score 0 have room: equal shares from here on */
    left -= handed;
    if (handed) continue;
    for (; left > 0; left--) { /* less than one each */
      int best = -1;
      for (int l = 0; l < n; l++)
        if (out[l] < cap[l] && part[l] >= 0 && (best < 0 || part[l] > part[best])) best = l;
      if (best < 0) break;
      out[best]++;
      part[best] = -1;
    }
  }
  lc_free(ctx, part);
  return LC_OK;
}
