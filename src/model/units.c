/* Elements of structures as one pool: see units.h. */
#include "model/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- from the structure map ---- */

static const lc_side *side_of_role(const lc_structure *s, lc_role role) {
  for (int k = 0; k < s->n_side; k++)
    if (s->side[k].role == role) return &s->side[k];
  return NULL;
}

/* The structure's columns: what reads its output. */
static const lc_side *reading_side(const lc_structure *s) {
  for (int k = 0; k < s->n_side; k++)
    if (s->side[k].axis == 1) return &s->side[k];
  return NULL;
}

lc_status lc_units_open(lc_net *net, lc_role role, lc_units *out) {
  const lc_config *c = &net->model->config;
  lc_structure *s = NULL;
  int n = 0;
  lc_status st = LC_OK;
  *out = (lc_units){0};
  LC_TRY(c->family->structures(net->ctx, c, &s, &n));
  if (!(out->row = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)n + 1, sizeof *out->row))) LC_GO(LC_FAILED);
  for (int i = 0; i < n; i++) {
    const lc_side *a = side_of_role(&s[i], role), *b = reading_side(&s[i]);
    if (!a || !b) continue;
    lc_unit_row *r = &out->row[out->n++];
    *r = (lc_unit_row){.layer = s[i].layer,
                       .count = s[i].count,
                       .w = lc_net_weight(net, a->weight),
                       .axis = a->axis,
                       .first = a->first,
                       .unit = a->unit,
                       .reader = lc_net_weight(net, b->weight),
                       .from = b->first,
                       .width = b->unit};
    out->count += r->count;
    if (!r->w || !r->reader)
      LC_GO(lc_fail(net->ctx, "the structure map names '%s', which the model has not",
                    r->w ? b->weight : a->weight));
  }
  if (!out->n)
    st =
        lc_fail(net->ctx, "the structure map of %s does not say which weights these are", lc_architecture(c));
done:
  lc_structures_free(net->ctx, s, n);
  if (st) lc_units_free(net->ctx, out);
  return st;
}

void lc_units_free(lc_ctx *ctx, lc_units *u) {
  lc_free(ctx, u->row);
  *u = (lc_units){0};
}

/* ---- scores ---- */

lc_status lc_line_squares(lc_ctx *ctx, const lc_weight *w, int axis, const float *G, double *sum) {
  enum { STRIP = 64 };
  memset(sum, 0, (size_t)(axis ? w->N : w->M) * sizeof *sum);
  for (int64_t r0 = 0; r0 < w->M; r0 += STRIP) {
    const lc_rect at = {r0, lc_min64(r0 + STRIP, w->M), 0, w->N};
    const void *tile = G ? G + r0 * w->N : NULL;
    int64_t ld = w->N;
    if (!G) LC_TRY(lc_weight_tile(ctx, lc_worker(ctx), w, at, LC_F32, &tile, &ld));
    for (int64_t r = at.r0; r < at.r1; r++)
      for (int64_t c = 0; c < w->N; c++) {
        const double v = (double)((const float *)tile)[(r - r0) * ld + c];
        sum[axis ? c : r] += v * v;
      }
  }
  return LC_OK;
}

void lc_unit_norms(const lc_unit_row *r, bool reader, const double *line, double *score) {
  const int64_t first = reader ? r->from : r->first, unit = reader ? r->width : r->unit;
  for (int64_t e = 0; e < r->count; e++) {
    double sum = 0;
    for (int64_t k = 0; k < unit; k++) sum += line[first + e * unit + k];
    score[e] = sqrt(sum);
  }
}

/* ---- choice ---- */

int64_t lc_units_ratio(double ratio, int64_t count) {
  return (int64_t)floor(ratio * (double)count);
}

typedef struct {
  double score;
  int64_t at;
} scored;

static int by_score(const void *a, const void *b) { /* falling; ties to the lower number */
  const scored *x = a, *y = b;
  if (x->score != y->score) return x->score < y->score ? 1 : -1;
  return x->at < y->at ? -1 : x->at > y->at;
}
static int by_number(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

/* n of the elements [from, from + count). */
static lc_status choose(lc_ctx *ctx, const lc_unit_rule *rule, int64_t from, int64_t count, int layer,
                        int64_t n, int64_t *chosen) {
  if (n == 0) return LC_OK;
  if (!rule->score) {
    const lc_rng rng = {.seed = rule->seed,
                        .step = (uint32_t)(layer + 1),
                        .tensor = lc_fnv1a32(rule->name),
                        .purpose = LC_RNG_MASK};
    LC_TRY(lc_rng_choose(ctx, &rng, count, n, chosen));
    for (int64_t i = 0; i < n; i++) chosen[i] += from;
    return LC_OK;
  }
  scored *all = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)count, sizeof *all);
  if (!all) return LC_FAILED;
  for (int64_t i = 0; i < count; i++)
    all[i] = (scored){rule->smallest ? -rule->score[from + i] : rule->score[from + i], from + i};
  qsort(all, (size_t)count, sizeof *all, by_score);
  for (int64_t i = 0; i < n; i++) chosen[i] = all[i].at;
  qsort(chosen, (size_t)n, sizeof *chosen, by_number);
  lc_free(ctx, all);
  return LC_OK;
}

lc_status lc_units_choose(lc_ctx *ctx, const lc_units *u, const lc_unit_rule *rule, double ratio,
                          int64_t *chosen, int64_t *n) {
  *n = 0;
  for (int64_t i = 0; i < u->count && rule->score; i++)
    if (!isfinite(rule->score[i]))
      return lc_fail(ctx, "the score of element %lld of %s is not a number", (long long)i, rule->name);
  if (!rule->each_layer) {
    *n = lc_units_ratio(ratio, u->count);
    return choose(ctx, rule, 0, u->count, -1, *n, chosen);
  }
  for (int64_t l = 0, from = 0; l < u->n; from += u->row[l++].count) {
    const int64_t k = lc_units_ratio(ratio, u->row[l].count);
    LC_TRY(choose(ctx, rule, from, u->row[l].count, u->row[l].layer, k, chosen + *n));
    *n += k;
  }
  return LC_OK;
}
