/* A pass: examples into rows and segments, forward, row losses, backward.
 *
 * The sequences of a micro-batch lie one after another in the rows; there is no padding. Row t of an example
 * holds id[t] at position t, and its label is the example's own, or id[t+1] when that is a target, else -1: the last row
 * of such an example has no label. Segments tell attention where one example ends, so an example's loss is the same
 * packed or alone.
 *
 * Losses come as f32 a row and are added in f64 in row order, so a sum does not depend on threads. */
#include "train/internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

lc_status lc_stage_open(lc_net *net, const lc_stage_opts *o, lc_stage *s) {
  lc_ctx *ctx = net->ctx;
  lc_status st = LC_OK;
  *s = (lc_stage){.ctx = ctx, .max_segments = o->segments};
  lc_plan_opts plan = {.rows = o->rows, .training = o->training, .recompute = o->recompute};
  LC_GO(lc_net_build(net, true, o->objective, o->self, &s->graph));
  LC_GO(lc_plan_new(s->graph.g, &plan, &s->plan));
  LC_GO(lc_run_new(ctx, s->plan, &s->run));
  s->segment = lc_alloc_n(ctx, LC_MEM_PLAN, (size_t)o->segments, sizeof *s->segment);
  if (!s->segment) st = LC_FAILED;
done:
  if (st) lc_stage_close(s);
  return st;
}

void lc_stage_close(lc_stage *s) {
  lc_free(s->ctx, s->segment);
  lc_run_free(s->run);
  lc_plan_free(s->plan);
  if (s->graph.g) lc_net_graph_free(&s->graph);
  *s = (lc_stage){.ctx = s->ctx};
}

/* Lays the examples out in the run's inputs; counts the targets. */
static lc_status lay_out(lc_stage *s, const lc_example *ex, int64_t n, int64_t *targets) {
  int64_t rows = 0;
  const int copies = s->copies > 1 ? s->copies : 1;
  if (n * copies > s->max_segments)
    return lc_fail(s->ctx, "a pass of %lld examples, the plan is for %lld", (long long)n * copies,
                   (long long)s->max_segments);
  for (int64_t i = 0; i < n * copies; i++) {
    s->segment[i] = (lc_segment){.row0 = rows, .row1 = rows + ex[i % n].n, .sequence = (int32_t)i};
    rows += ex[i % n].n;
  }
  if (rows > lc_plan_rows(s->plan))
    return lc_fail(s->ctx, "a pass of %lld rows, the plan is for %lld", (long long)rows,
                   (long long)lc_plan_rows(s->plan));
  LC_TRY(lc_run_begin(s->run, rows, s->segment, (int)n * copies));
  s->run->copies = copies;
  LC_TRY(lc_fill_pictures(s->run, &s->graph, ex, n));
  int32_t *ids = lc_data(s->run, s->graph.ids), *pos = lc_data(s->run, s->graph.pos),
          *labels = lc_data(s->run, s->graph.labels),
          *types = s->graph.types.id ? lc_data(s->run, s->graph.types) : NULL;
  for (int64_t i = 0, r = 0; i < n * copies; i++) {
    const lc_example *e = &ex[i % n];
    for (int64_t k = 0; k < e->n; k++, r++) {
      bool scored = e->label ? e->label[k] >= 0 : k + 1 < e->n && e->target[k + 1];
      ids[r] = e->id[k];
      pos[r] = (int32_t)k;
      labels[r] = !scored ? -1 : e->label ? e->label[k] : e->id[k + 1];
      if (types) types[r] = e->type ? e->type[k] : 0;
      *targets += scored && i < n;
    }
  }
  return LC_OK;
}

/* Adds the row losses; names the example and row of the first that is no number. */
static lc_status add_up(lc_stage *s, const lc_example *ex, int64_t n, double *nll, double *sum) {
  const float *row = lc_data(s->run, s->graph.nll);
  for (int64_t i = 0, r = 0; i < n * (s->copies > 1 ? s->copies : 1); i++) {
    double one = 0;
    for (int64_t k = 0; k < ex[i % n].n; k++, r++) {
      if (!isfinite(row[r])) {
        s->not_finite = true;
        return lc_fail(s->ctx, "the loss of token %lld of sequence %lld is %s", (long long)k + 1,
                       (long long)(i % n) + 1, isnan(row[r]) ? "not a number" : "infinite");
      }
      one += (double)row[r];
    }
    if (nll) nll[i % n] = i < n ? one : nll[i % n] + one;
    *sum += one;
  }
  return LC_OK;
}

lc_status lc_stage_pass(lc_stage *s, const lc_example *ex, int64_t n, bool training, bool backward,
                        float loss_scale, double *nll, double *sum, int64_t *targets) {
  LC_TRY(lay_out(s, ex, n, targets));
  s->run->training = training;
  s->run->loss_scale = loss_scale;
  LC_TRY(lc_forward(s->run, NULL));
  LC_TRY(add_up(s, ex, n, nll, sum));
  return backward ? lc_backward(s->run, NULL) : LC_OK;
}

lc_stage lc_training_stage(const lc_training *t, bool backward) {
  return (lc_stage){.ctx = t->ctx,
                    .graph = t->graph,
                    .plan = t->plan,
                    .run = t->run,
                    .segment = t->segment,
                    .max_segments = t->max_segments,
                    .copies = backward ? t->copies : 1};
}

lc_status lc_pass(lc_training *t, const lc_example *ex, int64_t n, bool backward, float loss_scale,
                  double *loss_sum, int64_t *targets) {
  lc_stage s = lc_training_stage(t, backward);
  const bool own = t->policy && ex >= t->example && ex < t->example + t->n_example;
  double plain = 0;
  if (t->policy) t->policy->base = own ? t->policy->start[ex - t->example] : -1;
  t->run->seed = (uint64_t)t->opts.seed;
  t->run->step = (uint32_t)t->step;
  t->run->micro = (uint32_t)t->micro;
  t->run->example_scale = 1 / (float)lc_max64(1, t->n_example);
  lc_status st = lc_stage_pass(&s, ex, n, backward, backward, own ? 1 : loss_scale, NULL,
                               own ? &plain : loss_sum, targets);
  if (own) t->policy->base = -1;
  if (own && !st) *loss_sum += lc_goal_loss(t, ex - t->example, n) * (double)t->update_targets;
  for (const lc_auxiliary *a = t->graph.auxiliary; a && backward && !st; a = a->next) {
    const float v = *(const float *)lc_data(t->run, a->v);
    if (!isfinite(v)) return lc_fail(t->ctx, "the %s loss is no finite number", a->name);
    t->auxiliary += (double)v;
  }
  t->not_finite = s.not_finite;
  return s.not_finite && !t->method->step ? lc_explain(t) : st;
}

typedef struct {
  int64_t n, i;
} length;

static int longer_first(const void *a, const void *b) {
  const length *x = a, *y = b;
  if (x->n != y->n) return x->n < y->n ? 1 : -1;
  return x->i < y->i ? -1 : x->i > y->i;
}

lc_status lc_longest(lc_ctx *ctx, const lc_dataset *data, int64_t count, lc_example *out, int64_t *rows) {
  int64_t n = lc_data_count(data);
  length *len = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *len);
  if (!len) return LC_FAILED;
  for (int64_t i = 0; i < n; i++) len[i] = (length){lc_data_get(data, i).n, i};
  qsort(len, (size_t)n, sizeof *len, longer_first);
  *rows = 0;
  for (int64_t i = 0; i < lc_min64(n, count); i++) {
    *rows += len[i].n;
    if (out) out[i] = lc_data_get(data, len[i].i);
  }
  lc_free(ctx, len);
  return LC_OK;
}
