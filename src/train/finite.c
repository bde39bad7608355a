/* When a loss is no number: which tensor is to blame. Runs only on the way out, so it may take its time:
 * trained values first (a rate that is too high shows there), then every effective weight (a damaged file).
 */
#include "train/internal.h"
#include <math.h>

static bool finite_row(const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(x[i])) return false;
  return true;
}

const char *lc_bad_gradient(const lc_training *t) {
  for (int i = 0; i < t->n_param; i++)
    if (t->param[i]->grad && !finite_row(t->param[i]->grad, t->param[i]->n)) return t->param[i]->name;
  return NULL;
}

static lc_status finite_weight(lc_ctx *ctx, const lc_weight *w, bool *ok) {
  *ok = true;
  if (w->ndim == 1) return *ok = finite_row(w->vector, w->N), LC_OK;
  int64_t strip = lc_max64(1, 65536 / w->N);
  for (int64_t r = 0; r < w->M && *ok; r += strip) {
    lc_rect at = {r, lc_min64(r + strip, w->M), 0, w->N};
    const void *tile;
    int64_t ld;
    LC_TRY(lc_weight_tile(ctx, 0, w, at, LC_F32, &tile, &ld));
    for (int64_t i = 0; i < at.r1 - at.r0 && *ok; i++) *ok = finite_row((const float *)tile + i * ld, w->N);
  }
  return LC_OK;
}

static const char *bad_value(const lc_training *t) {
  for (int i = 0; i < t->n_param; i++) {
    const lc_param *p = t->param[i];
    if (!finite_row(p->value, p->n) || !finite_row(p->retired_value, p->retired.n)) return p->name;
  }
  return NULL;
}

lc_status lc_finite_result(const lc_training *t) {
  const char *name = bad_value(t);
  return name ? lc_fail(t->ctx, "after step %lld: '%s' holds values that are not finite: there is no result",
                        (long long)t->step, name)
              : LC_OK;
}

static const char *culprit(lc_training *t) {
  const char *name = bad_value(t);
  if (name) return name;
  for (int i = 0; i < t->net->weights.n; i++) {
    bool ok;
    if (finite_weight(t->ctx, &t->net->weights.w[i], &ok)) return NULL;
    if (!ok) return t->net->weights.w[i].name;
  }
  return NULL;
}

lc_status lc_explain(lc_training *t) {
  char why[512];
  snprintf(why, sizeof why, "%s", lc_error(t->ctx));
  const char *name = culprit(t);
  if (name)
    return lc_fail(t->ctx, "after step %lld, micro-batch %lld: %s; '%s' holds values that are not finite",
                   (long long)t->step, (long long)t->micro + 1, why, name);
  return lc_fail(t->ctx,
                 "after step %lld, micro-batch %lld: %s; every weight is finite, so the sums overflow",
                 (long long)t->step, (long long)t->micro + 1, why);
}
