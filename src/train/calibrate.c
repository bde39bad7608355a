/* What is known of chosen weights before training.
 *
 * Mean squares of their inputs' columns: forward passes. Dense gradients: dW = Σ over the first rows of the data of d(mean
 * loss)/dW.
 *
 * Accumulators are M×N of f32 and may be larger than the model, so they live within a byte budget: as many
 * weights at a time as fit, and the passes are repeated for the rest. A group's accumulators hang on the
 * weights as dense sinks, so the plan of the group computes these gradients and nothing that is not needed
 * for them. */
#include "train/internal.h"
#include <string.h>

typedef struct {
  lc_training *t;
  lc_param *param; /* of the group: gradient only */
  float *memory;
  lc_example *example;
  int64_t n, micro, rows, targets;
} calibration;

/* Weights [from, to) whose accumulators fit the budget together. */
static lc_status group_end(lc_training *t, lc_weight **w, int from, int n, size_t budget, int *to,
                           size_t *values) {
  size_t bytes = 0;
  *values = 0;
  for (*to = from; *to < n; (*to)++) {
    size_t one = (size_t)w[*to]->M * (size_t)w[*to]->N;
    if (*to == from && one * sizeof(float) > budget)
      return lc_fail(t->ctx, "calibration: the gradient of '%s' takes %zu bytes, the budget is %zu",
                     w[*to]->name, one * sizeof(float), budget);
    if (bytes + one * sizeof(float) > budget) break;
    bytes += one * sizeof(float);
    *values += one;
  }
  return LC_OK;
}

/* The rows that all passes see: the beginning of the first epoch's order. */
static lc_status choose_rows(calibration *c, int64_t wanted) {
  lc_training *t = c->t;
  const int64_t all = lc_data_count(t->data), group = lc_data_describe(t->data).group;
  int64_t *order = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)lc_data_rows(t->data), sizeof *order);
  c->n = lc_min64(all, lc_max64(1, wanted));
  c->micro = lc_min64(c->n, t->opts.micro_batch);
  c->example = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)c->n, sizeof *c->example);
  lc_status st = order && c->example ? LC_OK : LC_FAILED;
  if (!st) lc_data_order(t->data, (uint64_t)t->opts.seed, 0, t->opts.shuffle, order);
  for (int64_t i = 0; !st && i < c->n; i++) {
    c->example[i] = lc_data_get(t->data, order[i / group] * group + i % group);
    c->targets += c->example[i].n_targets;
  }
  for (int64_t i = 0; !st && i < c->n; i += c->micro) {
    int64_t rows = 0;
    for (int64_t k = i; k < lc_min64(i + c->micro, c->n); k++) rows += c->example[k].n;
    c->rows = lc_max64(c->rows, rows);
  }
  lc_free(t->ctx, order);
  return st;
}

static lc_status attach_group(calibration *c, lc_weight **w, int n) {
  float *at = c->memory;
  for (int i = 0; i < n; i++) {
    int64_t values = w[i]->M * w[i]->N;
    c->param[i] = (lc_param){.name = (char *)w[i]->name,
                             .of = w[i],
                             .idx = {.kind = LC_ALL, .n = values},
                             .n = values,
                             .rows = w[i]->M,
                             .cols = w[i]->N,
                             .grad = at,
                             .wants_grad = true,
                             .lr_factor = 1};
    at += values;
    LC_TRY(lc_weight_add_sink(c->t->ctx, w[i], (lc_sink){.kind = LC_SINK_DENSE, .param = &c->param[i]}));
  }
  return LC_OK;
}

static lc_status passes(calibration *c, bool backward) {
  lc_training *t = c->t;
  lc_stage stage = {.ctx = t->ctx};
  lc_stage_opts o = {.rows = c->rows,
                     .segments = c->micro,
                     .training = backward,
                     .recompute = t->opts.recompute,
                     .objective = t->method->objective,
                     .self = t->self};
  LC_TRY(lc_stage_open(t->net, &o, &stage));
  double sum = 0;
  int64_t targets = 0;
  lc_status st = LC_OK;
  stage.run->seed = (uint64_t)t->opts.seed;
  for (int64_t i = 0; !st && i < c->n; i += c->micro) {
    stage.run->micro = (uint32_t)(i / c->micro);
    if (lc_stop_requested(t->ctx))
      st = LC_STOPPED;
    else
      st = lc_stage_pass(&stage, c->example + i, lc_min64(c->micro, c->n - i), backward, backward,
                         (float)(1.0 / (double)c->targets), NULL, &sum, &targets);
  }
  lc_stage_close(&stage);
  return st;
}

static lc_status one_group(calibration *c, lc_weight **w, int n,
                           lc_status (*done)(void *, lc_weight *, const float *), void *arg) {
  lc_status st = attach_group(c, w, n);
  if (!st) st = passes(c, true);
  for (int i = 0; i < n; i++) lc_weight_remove_sink(w[i], &c->param[i]);
  for (int i = 0; !st && i < n; i++) st = done(arg, w[i], c->param[i].grad);
  return st;
}

/* What was attached already has had gradients added by these passes. */
static lc_status clear_gradients(lc_training *t) {
  lc_param **p;
  int n;
  LC_TRY(lc_net_params(t->net, &p, &n));
  lc_zero_gradients(t->ctx, p, n);
  lc_free(t->ctx, p);
  return LC_OK;
}

lc_status lc_calibrate_gradients(lc_training *t, lc_weight **w, int n, int64_t n_examples, size_t byte_budget,
                                 lc_status (*done)(void *arg, lc_weight *, const float *dW), void *arg) {
  calibration c = {.t = t};
  lc_status st = LC_OK;
  if (lc_policy_is(t))
    return lc_usage(
        t->ctx,
        "calibration: gradients before the first update are of next-token loss, and the objective is %s",
        t->goal.row->name);
  c.param = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n, sizeof *c.param);
  if (!c.param) return LC_FAILED;
  LC_GO(choose_rows(&c, n_examples));
  for (int from = 0, to; from < n; from = to) {
    size_t values;
    LC_GO(group_end(t, w, from, n, byte_budget, &to, &values));
    c.memory = lc_alloc_n(t->ctx, LC_MEM_GRAD, values, sizeof(float));
    if (!c.memory) LC_GO(LC_FAILED);
    LC_GO(one_group(&c, w + from, to - from, done, arg));
    lc_free(t->ctx, c.memory);
    c.memory = NULL;
  }
  st = clear_gradients(t);
done:
  lc_free(t->ctx, c.memory);
  lc_free(t->ctx, c.example);
  lc_free(t->ctx, c.param);
  return st;
}

lc_status lc_calibrate_inputs(lc_training *t, lc_weight **w, int n, int64_t n_examples,
                              lc_status (*done)(void *arg, lc_weight *, const double *mean), void *arg) {
  calibration c = {.t = t};
  lc_status st = LC_OK;
  int64_t tokens = 0, all = 0;
  for (int i = 0; i < n; i++) all += w[i]->N;
  double *sums = lc_alloc_n(t->ctx, LC_MEM_SCRATCH, (size_t)all, sizeof *sums), *at = sums;
  if (!sums) return LC_FAILED;
  LC_GO(choose_rows(&c, n_examples));
  for (int64_t i = 0; i < c.n; i++) tokens += c.example[i].n;
  for (int i = 0; i < n; at += w[i++]->N)
    LC_GO(lc_weight_add_sink(t->ctx, w[i], (lc_sink){.kind = LC_SINK_INPUT, .squares = at}));
  LC_GO(passes(&c, false));
  for (int64_t i = 0; i < all; i++) sums[i] /= (double)tokens;
  at = sums;
  for (int i = 0; i < n; at += w[i++]->N) LC_GO(done(arg, w[i], at));
done:
  at = sums;
  for (int i = 0; i < n; at += w[i++]->N) lc_weight_remove_sink(w[i], at);
  lc_free(t->ctx, c.example);
  lc_free(t->ctx, sums);
  return st;
}
