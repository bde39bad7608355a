/* An objective in a run: what it needs around the passes of an update.
 *
 *   examples    those of the data's rows, or answers sampled for them (rollout.c), kept for `updates` updates
 *   old, ref    forward passes over them, micro-batch by micro-batch: by the weights of now, and by the model as it was.
 *               The reference is a second net on the same model: its weights are the model's mapped files, so it costs the
 *               buffers of a forward pass
 *   weigh       the objective turns these and the rewards into what its rows' losses depend on
 *   passes      as for any loss: the head asks each row's slope (link) and multiplies
 */
#include "train/internal.h"
#include <math.h>
#include <string.h>

/* ---- the head ---- */

/* The value that leaves the head is the nll itself; the loss is made of all of them afterwards. */
static float link(void *self, int64_t row, float nll, float *slope) {
  const lc_training *t = self;
  const lc_policy *p = t->policy;
  *slope = 1;
  if (p && p->base >= 0) t->goal.row->row(t->goal.self, p, p->base + row, nll, slope);
  return nll;
}

static lc_status head(void *self, lc_builder *b, lc_val hidden, lc_val *nll) {
  const lc_config *c = &((lc_training *)self)->net->model->config;
  *nll = lc_head_loss_of(b, hidden, b->labels, c->family->head(c), (lc_row_loss){link, self});
  return b->st;
}

lc_objective_fn lc_goal_head(lc_training *t, void **self) {
  *self = lc_policy_is(t) ? t : t->self;
  return lc_policy_is(t) ? head : t->method->objective;
}

double lc_goal_loss(lc_training *t, int64_t first, int64_t n) {
  const lc_objective *o = t->goal.row;
  lc_policy *p = t->policy;
  const float *nll = lc_data(t->run, t->graph.nll);
  double sum = 0;
  float slope;
  if (o->loss) return o->loss(t->goal.self, p, first, n, nll);
  for (int64_t k = p->start[first]; k < p->start[first + n]; k++, nll++)
    if (p->target[k]) sum += (double)o->row(t->goal.self, p, k, *nll, &slope);
  return sum;
}

/* ---- set up ---- */

static const lc_sampling *sampling(const lc_training *t) {
  return lc_policy_is(t) && t->goal.row->sampling ? t->goal.row->sampling(t->goal.self) : NULL;
}

static lc_status takes(const lc_training *t, const lc_dataset *d, const char *what) {
  if (!d || t->goal.row->rows >> lc_data_describe(d).kind & 1) return LC_OK;
  return lc_usage(t->ctx, "objective %s does not take the %s: its rows are %s", t->goal.row->name, what,
                  lc_row_kind_name(lc_data_describe(d).kind));
}

lc_status lc_goal_check(lc_training *t) {
  if (!t->goal.row) t->goal.row = &lc_objective_sft;
  LC_TRY(takes(t, t->data, "data"));
  LC_TRY(takes(t, t->eval_data, "evaluation data"));
  if (lc_policy_is(t) && t->method->objective)
    return lc_usage(t->ctx, "method %s has a loss of its own: it cannot minimise %s", t->method->name,
                    t->goal.row->name);
  const int64_t k = lc_max64(1, t->goal.row->together);
  t->opts.micro_batch = lc_ceil_div(t->opts.micro_batch, k) * k;
  return LC_OK;
}

int64_t lc_goal_updates(const lc_training *t) {
  return sampling(t) ? sampling(t)->updates : 1;
}

int64_t lc_goal_sequences(const lc_training *t) {
  return sampling(t) ? sampling(t)->group : lc_data_describe(t->data).group;
}

lc_status lc_goal_longest(const lc_training *t, int64_t n, lc_example *out, int64_t *rows) {
  LC_TRY(lc_longest(t->ctx, t->data, sampling(t) ? 1 : n, out, rows));
  if (sampling(t)) *rows = n * (*rows + sampling(t)->max_tokens);
  return LC_OK;
}

static lc_status open_rollout(lc_loop *l) {
  lc_training *t = &l->t;
  int64_t longest = 0, eval = 0;
  LC_TRY(lc_longest(t->ctx, t->data, 1, NULL, &longest));
  if (t->eval_data) LC_TRY(lc_longest(t->ctx, t->eval_data, 1, NULL, &eval));
  return lc_rollout_new(t, sampling(t), lc_min64(t->opts.batch, l->n_rows), lc_max64(longest, eval),
                        &t->policy->rollout);
}

lc_status lc_goal_open(lc_loop *l) {
  lc_training *t = &l->t;
  const lc_objective *o = t->goal.row;
  const int64_t n = lc_min64(t->opts.batch, l->n_rows) * lc_goal_sequences(t);
  int64_t rows;
  if (!lc_policy_is(t)) return LC_OK;
  LC_TRY(lc_goal_longest(t, n, NULL, &rows));
  LC_TRY(
      lc_policy_new(t->ctx, lc_max64(n, t->max_segments), lc_max64(rows, lc_plan_rows(t->plan)), &t->policy));
  if (sampling(t)) LC_TRY(open_rollout(l));
  if (o->reference && o->reference(t->goal.self)) {
    const lc_stage_opts so = {.rows = lc_plan_rows(t->plan), .segments = t->max_segments};
    LC_TRY(lc_net_new(t->net->model, t->net->compute, &l->reference_net));
    LC_TRY(lc_stage_open(l->reference_net, &so, &l->reference));
  }
  return o->open ? o->open(t->goal.self, t) : LC_OK;
}

void lc_goal_close(lc_loop *l) {
  lc_training *t = &l->t;
  if (lc_policy_is(t) && t->goal.row->close) t->goal.row->close(t->goal.self, t->ctx);
  if (l->reference_net) lc_stage_close(&l->reference);
  lc_net_free(l->reference_net);
  l->reference_net = NULL;
  if (t->policy) lc_rollout_free(t->ctx, t->policy->rollout);
  lc_policy_free(t->ctx, t->policy);
  t->policy = NULL;
}

/* ---- an update ---- */

/* nll of every row, by one stage: of the run's own net, or of the reference. */
static lc_status score(lc_loop *l, lc_stage *s, const lc_example *ex, int64_t n, float *to, bool own) {
  lc_training *t = &l->t;
  const lc_policy *p = t->policy;
  const int64_t micro = lc_min64(t->opts.micro_batch, t->max_segments);
  for (int64_t first = 0; first < n; first += micro) {
    const int64_t k = lc_min64(micro, n - first);
    double sum = 0;
    int64_t targets = 0;
    LC_TRY(lc_stage_pass(s, ex + first, k, false, false, 1, NULL, &sum, &targets));
    memcpy(to + p->start[first], lc_data(s->run, s->graph.nll),
           (size_t)(p->start[first + k] - p->start[first]) * sizeof *to);
    if (own && t->goal.row->scored) LC_TRY(t->goal.row->scored(t->goal.self, t, first, k));
  }
  return LC_OK;
}

static lc_status measure(lc_loop *l) {
  lc_training *t = &l->t;
  const lc_objective *o = t->goal.row;
  lc_policy *p = t->policy;
  lc_policy_lay(p, t->example, t->n_example);
  p->base = -1;
  if (o->scores) {
    lc_stage own = lc_training_stage(t, false);
    LC_TRY(score(l, &own, t->example, t->n_example, p->old, true));
  }
  if (l->reference_net) LC_TRY(score(l, &l->reference, t->example, t->n_example, p->ref, false));
  for (int64_t i = 0; p->rollout && i < p->n; i++) p->reward[i] = p->rollout->reward[i];
  return o->weigh(t->goal.self, t);
}

/* The examples of the update: sampled ones take the place of their prompts. */
static lc_status sample(lc_loop *l, bool *fresh) {
  lc_training *t = &l->t;
  lc_rollout *r = t->policy->rollout;
  const int64_t step = t->step - t->phase_first;
  *fresh = step % r->o->updates == 0;
  if (*fresh) {
    LC_TRY(lc_rollout_sample(r, t, l->order + l->first_row, t->n_example, t->step));
    r->made = t->step;
  } else if (r->made < t->phase_first ||
             t->policy->n != r->n) { /* resumed: what the sampling was for is laid out again */
    lc_policy_lay(t->policy, r->example, r->n);
    for (int64_t i = 0; i < r->n; i++) t->policy->reward[i] = r->reward[i];
  }
  if (!r->n)
    return lc_fail(t->ctx, "step %lld: it goes on with answers that were sampled before, and there are none",
                   (long long)t->step + 1);
  t->n_example = r->n;
  memcpy(t->example, r->example, (size_t)r->n * sizeof *r->example);
  return LC_OK;
}

lc_status lc_goal_prepare(lc_loop *l) {
  lc_training *t = &l->t;
  bool fresh = true;
  if (!t->policy) return LC_OK;
  if (t->policy->rollout) LC_TRY(sample(l, &fresh));
  t->n_micro = lc_ceil_div(t->n_example, t->opts.micro_batch);
  t->update_targets = 0;
  for (int64_t i = 0; i < t->n_example; i++) t->update_targets += t->example[i].n_targets;
  if (fresh) return measure(l);
  memset(t->policy->tally, 0, sizeof t->policy->tally);
  return LC_OK;
}

/* ---- what is told ---- */

static void tell_rollout(const lc_rollout *r, json_t *e) {
  double reward = 0, length = 0, equal = 0;
  for (int64_t i = 0; i < r->n; i++) {
    reward += r->reward[i];
    length += (double)(r->size[i] - r->prompt[i]);
  }
  for (int64_t i = 0; i < r->n; i += r->o->group) {
    bool same = true;
    for (int64_t g = 1; g < r->o->group; g++) same = same && r->reward[i + g] == r->reward[i];
    equal += same;
  }
  json_object_set_new(e, "reward", json_real(reward / (double)r->n));
  json_object_set_new(e, "answer_tokens", json_real(length / (double)r->n));
  json_object_set_new(e, "equal_rewards", json_real(equal / (double)r->prompts));
}

void lc_goal_tell(lc_loop *l, json_t *e) {
  const lc_training *t = &l->t;
  if (!t->policy || !e) return;
  if (t->policy->rollout) tell_rollout(t->policy->rollout, e);
  if (t->goal.row->tell) t->goal.row->tell(t->goal.self, t->policy, e);
}

lc_status lc_goal_visit(lc_loop *l, lc_visitor *v) {
  lc_training *t = &l->t;
  lc_policy *p = t->policy;
  if (!p) return LC_OK;
  if (p->rollout && p->rollout->o->updates > 1) {
    LC_TRY(lc_rollout_visit(p->rollout, t->ctx, v));
    LC_TRY(v->array(v, "policy:old", LC_F32, p->max_rows, p->old));
    LC_TRY(v->array(v, "policy:ref", LC_F32, p->max_rows, p->ref));
    LC_TRY(v->array(v, "policy:weight", LC_F32, lc_max64(p->max_rows, p->max_n), p->weight));
    LC_TRY(v->array(v, "policy:scale", LC_I32, 2, &p->scale)); /* f64 as a pair of words */
  }
  return t->goal.row->visit ? t->goal.row->visit(t->goal.self, v) : LC_OK;
}

/* ---- evaluation ---- */

/* Sequences of the evaluation's data, whose number of rows in the data is `all`: adds their part of the mean loss. */
lc_status lc_goal_batch(lc_loop *l, const lc_example *ex, int64_t n, int64_t all, double *sum,
                        int64_t *targets) {
  lc_training *t = &l->t;
  lc_policy *p = t->policy;
  double tally[LC_TALLIES], ignored = 0;
  int64_t again = 0;
  memcpy(tally, p->tally, sizeof tally);
  lc_policy_lay(p, ex, n);
  memcpy(p->tally, tally, sizeof tally);
  p->base = -1;
  p->scale = 1 / (double)all;
  if (l->reference_net) LC_TRY(lc_stage_pass(&l->reference, ex, n, false, false, 1, NULL, &ignored, &again));
  if (l->reference_net)
    memcpy(p->ref, lc_data(l->reference.run, l->reference.graph.nll), (size_t)p->rows * sizeof *p->ref);
  lc_stage own = lc_training_stage(t, false);
  LC_TRY(lc_stage_pass(&own, ex, n, false, false, 1, NULL, &ignored, targets));
  *sum += t->goal.row->loss(t->goal.self, p, 0, n, lc_data(t->run, t->graph.nll));
  return LC_OK;
}
