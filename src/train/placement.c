/* Where a net's change sits: for each weight that training touched, how many entries differ from the base and
 * how large the change is beside the weight. The rows feed the history's table `tensors` and the report's
 * heat map.
 *
 * A delta's tile is Σ patch onto zeros; a weight that was trained as a whole has no delta but another form,
 * and its tile is form − base. Strips of rows are worked on in parallel; each leaves its sums in its own
 * place and they are added in order, so the numbers do not depend on threads. */
#include "train/internal.h"
#include <math.h>
#include <string.h>

typedef struct {
  double delta2, weight2, max;
  int64_t changed;
} strip_sum;
typedef struct {
  lc_ctx *ctx;
  const lc_weight *w;
  int64_t strip;
  strip_sum *sum;
} measure;

static bool is_whole(const lc_weight *w) {
  return w->n_delta == 0 && w->form != w->base;
}

static lc_status tile_of_delta(const measure *m, lc_rect at, const float *base, float *tile) {
  int64_t n = (at.r1 - at.r0) * m->w->N;
  if (is_whole(m->w)) {
    LC_TRY(m->w->form->ops->decode(m->ctx, m->w->form, at, LC_F32, tile, m->w->N));
    for (int64_t i = 0; i < n; i++) tile[i] -= base[i];
    return LC_OK;
  }
  memset(tile, 0, (size_t)n * sizeof *tile);
  for (int d = 0; d < m->w->n_delta; d++) {
    const lc_delta *delta = m->w->delta[d];
    if (delta->ops->patch) LC_TRY(delta->ops->patch(m->ctx, delta, at, tile, m->w->N));
  }
  return LC_OK;
}

static lc_status one_strip(void *arg, int64_t chunk, int worker) {
  measure *m = arg;
  lc_rect at = {chunk * m->strip, lc_min64((chunk + 1) * m->strip, m->w->M), 0, m->w->N};
  int64_t n = (at.r1 - at.r0) * m->w->N;
  float *base = lc_scratch(m->ctx, worker, 12, (size_t)n * sizeof *base),
        *tile = lc_scratch(m->ctx, worker, 13, (size_t)n * sizeof *tile);
  if (!base || !tile) return LC_FAILED;
  LC_TRY(m->w->base->ops->decode(m->ctx, m->w->base, at, LC_F32, base, m->w->N));
  LC_TRY(tile_of_delta(m, at, base, tile));
  strip_sum s = {0};
  for (int64_t i = 0; i < n; i++) {
    double d = (double)tile[i];
    s.changed += tile[i] != 0;
    s.delta2 += d * d;
    s.weight2 += (double)base[i] * (double)base[i];
    if (fabs(d) > s.max) s.max = fabs(d);
  }
  m->sum[chunk] = s;
  return LC_OK;
}

static const char *const kinds[] = {"linear", "embedding", "head", "norm", "bias", "position"};

static lc_status measure_weight(lc_ctx *ctx, const lc_weight *w, lc_tensor_row *row) {
  measure m = {.ctx = ctx, .w = w, .strip = lc_max64(1, 65536 / w->N)};
  int64_t chunks = lc_ceil_div(w->M, m.strip);
  m.sum = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)chunks, sizeof *m.sum);
  if (!m.sum) return LC_FAILED;
  lc_status st = lc_parallel(ctx, chunks, one_strip, &m);
  const char *dot = strrchr(w->module, '.');
  *row = (lc_tensor_row){.name = w->name,
                         .module = dot ? dot + 1 : w->module,
                         .kind = kinds[w->kind],
                         .layer = w->layer,
                         .rows = w->M,
                         .cols = w->N};
  for (int64_t i = 0; i < chunks; i++) {
    row->changed += m.sum[i].changed;
    row->norm_delta += m.sum[i].delta2;
    row->norm_weight += m.sum[i].weight2;
    if (m.sum[i].max > row->max_delta) row->max_delta = m.sum[i].max;
  }
  row->norm_delta = sqrt(row->norm_delta);
  row->norm_weight = sqrt(row->norm_weight);
  lc_free(ctx, m.sum);
  return st;
}

lc_status lc_placement(lc_net *net, lc_status (*row)(void *arg, const lc_tensor_row *), void *arg) {
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    lc_tensor_row r;
    if (w->n_delta == 0 && !is_whole(w)) continue;
    LC_TRY(measure_weight(net->ctx, w, &r));
    LC_TRY(row(arg, &r));
    if (w->form != w->base) lc_model_forget(net->model, &w->base->src); /* read for this only */
  }
  return LC_OK;
}
