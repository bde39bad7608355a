/* cost: what a method would hold and do on a model, without data and without a step.
 *
 * State is what the allocator says once the method has attached to the net and the optimiser has made its columns: every phase
 * in turn, on changes of zero. Products are counted by formula, a token, as FLOPs of the frozen model's forward and dx:
 *
 *   base        Σ 4·M·N over linear weights and the output head (2 forward, 2 dx); attention's own products are left out
 *   whole       2·M·N more (dW): 1.5 when all are
 *   low rank    6 a value (forward 2, backward 4); experts: those of one expert; bottleneck 6, route 6
 *   sparse      2 a value (its gradient; patched tiles cost no product); slices 2
 *   kernel      2·M·N (dense dW) and six sweeps of 2·R·M·N a pass for its tiles, gradient and quantile
 *   mask        4·M·N a pass
 *
 * A pass has micro-batch·seq tokens. Phases count by their lengths. */
#include "nn/mole.h"
#include "train/attach.h"
#include <string.h>

enum { SWEEPS = 6 };

static bool multiplies(const lc_net *net, const lc_weight *w) {
  const lc_config *c = &net->model->config;
  const char *head = c->family->head ? c->family->head(c) : NULL;
  return w->ndim == 2 &&
         (w->kind == LC_KIND_LINEAR || w->kind == LC_KIND_HEAD || (head && !strcmp(w->name, head)));
}

static double area(const lc_weight *w) {
  return (double)w->M * (double)w->N;
}

/* FLOPs of a kind of delta: so many a value and token, an entry of its weight and token, an entry and pass; sweeps times
 * twice its rank an entry and pass. */
static const struct {
  const char *kind;
  double value, entry, pass, sweeps;
} rates[] = {{"lora", 6, 0, 0, 0},       {"route", 6, 0, 0, 0},  {"experts", 6, 0, 0, 0},
             {"bottleneck", 6, 0, 0, 0}, {"sparse", 2, 0, 0, 0}, {"slice", 2, 0, 0, 0},
             {"noise", 0, 0, 0, 0},      {"mask", 0, 0, 4, 0},   {"kernel", 0, 2, 0, SWEEPS}};

static lc_status of_delta(lc_ctx *ctx, const lc_delta *d, double tokens, double *flops) {
  double values = 0, share = 1;
  for (int i = 0; i < d->n_param; i++) values += (double)d->param[i]->n;
  if (d->ops == &lc_delta_experts && lc_delta_experts_opts(d)->gate != LC_GATE_DENSE)
    share = 1 / (double)lc_delta_experts_opts(d)->experts;
  for (size_t k = 0; k < sizeof rates / sizeof *rates; k++) {
    if (strcmp(rates[k].kind, d->ops->name)) continue;
    const double rank = values / (double)(d->w->M + d->w->N);
    *flops += rates[k].value * values * share +
              area(d->w) * (rates[k].entry + (rates[k].pass + rates[k].sweeps * 2 * rank) / tokens);
    return LC_OK;
  }
  return lc_fail(ctx, "the cost of a change of kind '%s' is not known", d->ops->name);
}

/* Of what is attached now, in parts of the base's products. */
static lc_status of_step(const lc_training *t, lc_method_cost *c, double *step) {
  double base = 0, more = 0;
  const double tokens = (double)(t->opts.micro_batch * t->opts.seq);
  for (int i = 0; i < t->net->weights.n; i++)
    if (multiplies(t->net, &t->net->weights.w[i])) base += 4 * area(&t->net->weights.w[i]);
  for (int i = 0; i < t->net->n_own; i++)
    if (multiplies(t->net, t->net->own[i]->of)) more += 2 * area(t->net->own[i]->of);
  for (int i = 0; t->adapter && i < t->adapter->n; i++)
    LC_TRY(of_delta(t->ctx, t->adapter->delta[i], tokens, &more));
  c->target_share = 0;
  lc_target_set set = {0};
  LC_TRY(lc_target_set_open((lc_training *)(uintptr_t)t, &set));
  c->target_share = 4 * (double)set.entries / base;
  lc_target_set_free(t->ctx, &set);
  *step = (1 + more / base) * (double)lc_max64(1, t->copies);
  if (t->method->step_cost) *step = t->method->step_cost(t->self, t, *step, c->target_share);
  return LC_OK;
}

static lc_status of_phase(lc_training *t, size_t before, size_t grad, size_t candidate, lc_method_cost *c,
                          double *step) {
  lc_ctx *ctx = t->ctx;
  int64_t n = 0;
  LC_TRY(t->method->attach ? t->method->attach(t->self, t) : LC_OK);
  LC_TRY(lc_net_params(t->net, &t->param, &t->n_param));
  if (!t->n_param && !t->method->step)
    return lc_usage(ctx, "%s: with these options what is trained is chosen by looking at data",
                    t->method->name);
  for (int i = 0; i < t->n_param && !t->method->step; i++)
    LC_TRY(t->optim->prepare(ctx, t->param[i], &t->hyper));
  for (int i = 0; i < t->n_param; i++) n += t->param[i]->wants_grad ? t->param[i]->n : 0;
  if (t->method->step)
    for (int i = 0; i < t->adapter->n; i++) n += t->adapter->delta[i]->w->M * t->adapter->delta[i]->w->N;
  c->trainable = lc_max64(c->trainable, n);
  c->state_bytes = lc_max64(c->state_bytes, (int64_t)(lc_mem_bytes(ctx, LC_MEM_TRAINABLE) - before));
  c->gradient_bytes = lc_max64(c->gradient_bytes, (int64_t)(lc_mem_bytes(ctx, LC_MEM_GRAD) - grad));
  c->candidate_bytes =
      lc_max64(c->candidate_bytes, (int64_t)(lc_mem_bytes(ctx, LC_MEM_CANDIDATE) - candidate));
  return of_step(t, c, step);
}

/* As between two phases of a run. */
static lc_status leave_phase(lc_training *t) {
  if (t->method->end_phase) LC_TRY(t->method->end_phase(t->self, t));
  lc_free(t->ctx, t->param);
  t->param = NULL;
  t->n_param = 0;
  if (t->adapter) LC_TRY(lc_adapter_remove(t->adapter));
  t->adapter = NULL;
  t->phase_first += t->phase_length[t->phase++];
  return lc_net_release_whole(t->net);
}

lc_status lc_cost(lc_net *net, const lc_method *m, void *self, lc_train_opts *o, lc_method_cost *c) {
  lc_ctx *ctx = net->ctx;
  lc_status st = LC_OK;
  lc_training t = {.ctx = ctx, .net = net, .method = m, .self = self, .n_phases = 1, .counting = true};
  const size_t before = lc_mem_bytes(ctx, LC_MEM_TRAINABLE), grad = lc_mem_bytes(ctx, LC_MEM_GRAD),
               candidate = lc_mem_bytes(ctx, LC_MEM_CANDIDATE);
  *c = (lc_method_cost){0};
  LC_TRY(lc_train_resolve(ctx, &net->model->config, m, self, o));
  t.opts = *o; /* borrowed */
  t.optim = lc_optim_find(o->optimizer);
  t.hyper = (lc_hyper){.lr = o->lr,
                       .weight_decay = o->weight_decay,
                       .beta1 = o->beta1,
                       .beta2 = o->beta2,
                       .eps = o->eps > 0 ? o->eps : 1e-8,
                       .momentum = o->momentum};
  t.phase_length[0] = t.planned = o->steps ? o->steps : LC_COST_STEPS;
  if (m->phases) LC_GO(m->phases(self, &t, t.planned, t.planned, t.phase_length, &t.n_phases));
  t.planned = 0;
  for (int p = 0; p < t.n_phases; p++) t.planned += t.phase_length[p];
  t.last = t.planned;
  c->phases = t.n_phases;
  for (;;) {
    double step = 0;
    LC_GO(of_phase(&t, before, grad, candidate, c, &step));
    c->step += step * (double)t.phase_length[t.phase] / (double)t.planned;
    if (t.phase + 1 == t.n_phases) break;
    LC_GO(leave_phase(&t));
  }
  c->optimizer = m->step ? "" : t.optim->name;
  c->estimate = t.grows;
done:
  if (m->release) m->release(self, ctx);
  lc_free(ctx, t.param);
  return st;
}
