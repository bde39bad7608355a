/* ppo: proximal policy optimisation with a critic, as it is used on language models.
 *
 *   sample    G answers a prompt; reward r of an answer by a rule
 *   r_t       = −κ·(log π_old − log π_ref)(o_t), and + r at the last token
 *   δ_t       = r_t + γV(h_{t+1}) − V(h_t);   A_t = δ_t + γλA_{t+1};   goal_t = A_t + V(h_t)          (V after the last token: 0)
 *   A         whitened over the sampling's tokens
 *   policy    mean over tokens of −min(ρA, clip(ρ, 1±ε)·A), `updates` times on one sampling
 *   critic    V(h) = w·h + b, h the final hidden state at sampling; as many Adam steps on ½(V − goal)² after each sampling's
 *             advantages are known
 *
 * The critic's gradient does not enter the network, so the method (sparse or not) trains the policy alone. h of all sampled
 * tokens is kept: 4·C bytes a token. Sources: Schulman et al. 2017, arXiv 1707.06347; Ziegler et al. 2019, arXiv 1909.08593 (the
 * KL as a reward). */
#include "train/objective.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

typedef struct {
  lc_sampling sampling;
  double kl, clip, gamma, lambda, critic_lr;
  int64_t critic_steps;
  lc_critic critic;
  float *h;            /* hidden state by scored row of the sampling, in order */
  double *goal, *grad; /* by scored row; C + 1 */
  int64_t scored, room;
  double critic_loss, kl_mean, value_mean;
} ppo;

static const lc_option options[] = {
    LC_SAMPLING_OPTIONS(ppo, "4"),
    {"kl", LC_OPT_FLOAT, offsetof(ppo, kl), "0.05", 0, 1e6, NULL, "K",
     "weight of the KL to the model as it was, in the reward"},
    {"clip-ratio", LC_OPT_FLOAT, offsetof(ppo, clip), "0.2", 0, 1e6, NULL, "E", "ratios are clipped to 1±E"},
    {"gamma", LC_OPT_FLOAT, offsetof(ppo, gamma), "1", 0, 1, NULL, "G", "discount"},
    {"lambda", LC_OPT_FLOAT, offsetof(ppo, lambda), "0.95", 0, 1, NULL, "L",
     "of generalised advantage estimation"},
    {"critic-lr", LC_OPT_FLOAT, offsetof(ppo, critic_lr), "0.01", 0, 1e6, NULL, "R",
     "the critic's rate (Adam)"},
    {"critic-steps", LC_OPT_INT, offsetof(ppo, critic_steps), "8", 0, 1 << 20, NULL, "N",
     "its updates a sampling; 0: it stays 0, and the whitening is the only baseline"},
    {0},
};
enum { TOKENS, CLIPPED };

static const lc_sampling *sampling(const void *self) {
  return self;
}

static bool reference(const void *self) {
  return ((const ppo *)self)->kl != 0;
}

static lc_status open(void *selfp, lc_training *t) {
  ppo *self = selfp;
  const int64_t C = t->net->model->config.C;
  self->room = t->policy->rollout->max_n * self->sampling.max_tokens;
  self->h = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)(self->room * C), sizeof *self->h);
  self->goal = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)self->room, sizeof *self->goal);
  self->grad = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)C + 1, sizeof *self->grad);
  if (!self->h || !self->goal || !self->grad) return LC_FAILED;
  return lc_critic_new(t->ctx, C, &self->critic);
}

static void close(void *selfp, lc_ctx *ctx) {
  ppo *self = selfp;
  lc_critic_free(ctx, &self->critic);
  lc_free(ctx, self->h);
  lc_free(ctx, self->goal);
  lc_free(ctx, self->grad);
  self->h = NULL;
  self->goal = self->grad = NULL;
}

/* Keeps the hidden states of the tokens that were scored. */
static lc_status scored(void *selfp, lc_training *t, int64_t first, int64_t n) {
  ppo *self = selfp;
  const lc_policy *p = t->policy;
  const int64_t C = self->critic.C, from = p->start[first];
  if (first == 0) self->scored = 0;
  for (int64_t k = from; k < p->start[first + n]; k++) {
    if (!p->target[k]) continue;
    float *to = self->h + self->scored++ * C;
    const float *h = lc_row_get(t->run, t->graph.hidden, k - from, to);
    if (h != to) memcpy(to, h, (size_t)C * sizeof *to);
  }
  return LC_OK;
}

/* Advantages and goals of sequence i, whose scored rows are number `at` on. */
static void estimate(ppo *self, lc_policy *p, int64_t i, int64_t at, double *kl, double *values) {
  double next_value = 0, next_advantage = 0;
  int64_t j = at + p->targets[i];
  bool last = true;
  for (int64_t k = p->start[i + 1] - 1; k >= p->start[i]; k--) {
    if (!p->target[k]) continue;
    const double value = lc_critic_value(&self->critic, self->h + --j * self->critic.C),
                 drift =
                     self->kl != 0 ? (double)p->ref[k] - (double)p->old[k] : 0; /* log π_old − log π_ref */
    const double reward = (last ? p->reward[i] : 0) - self->kl * drift,
                 delta = reward + self->gamma * next_value - value;
    next_advantage = delta + self->gamma * self->lambda * next_advantage;
    next_value = value;
    p->weight[k] = (float)next_advantage;
    self->goal[j] = next_advantage + value;
    *kl += drift;
    *values += value;
    last = false;
  }
}

static void whiten(lc_policy *p, int64_t n) {
  double mean = 0, squares = 0;
  for (int64_t k = 0; k < p->rows; k++) mean += p->target[k] ? (double)p->weight[k] / (double)n : 0;
  for (int64_t k = 0; k < p->rows; k++)
    if (p->target[k]) squares += ((double)p->weight[k] - mean) * ((double)p->weight[k] - mean);
  const double by = sqrt(squares / (double)lc_max64(1, n - 1)) + 1e-8;
  for (int64_t k = 0; k < p->rows; k++)
    if (p->target[k]) p->weight[k] = (float)(((double)p->weight[k] - mean) / by);
}

static lc_status weigh(void *selfp, lc_training *t) {
  ppo *self = selfp;
  lc_policy *p = t->policy;
  int64_t at = 0;
  self->kl_mean = self->value_mean = 0;
  for (int64_t i = 0; i < p->n; at += p->targets[i++])
    estimate(self, p, i, at, &self->kl_mean, &self->value_mean);
  self->kl_mean /= (double)lc_max64(1, at);
  self->value_mean /= (double)lc_max64(1, at);
  p->scale = 1 / (double)lc_max64(1, at);
  whiten(p, at);
  self->critic_loss = lc_critic_loss(&self->critic, self->h, self->goal, at, NULL);
  for (int64_t s = 0; s < self->critic_steps; s++) {
    lc_critic_loss(&self->critic, self->h, self->goal, at, self->grad);
    lc_critic_step(&self->critic, self->grad, self->critic_lr);
  }
  return LC_OK;
}

static float row(const void *selfp, const lc_policy *p, int64_t k, float nll, float *slope) {
  const ppo *self = selfp;
  const lc_surrogate s = {p->weight[k], (float)self->clip, 0};
  const float loss = lc_surrogate_loss(&s, nll, p->old[k], 0, slope), part = (float)p->scale;
  *slope *= part;
  return loss * part;
}

static double loss(void *selfp, lc_policy *p, int64_t first, int64_t n, const float *nll) {
  const ppo *self = selfp;
  double sum = 0;
  float slope;
  for (int64_t k = p->start[first]; k < p->start[first + n]; k++, nll++) {
    if (!p->target[k]) continue;
    const lc_surrogate s = {p->weight[k], (float)self->clip, 0};
    sum += (double)row(self, p, k, *nll, &slope);
    p->tally[TOKENS]++;
    p->tally[CLIPPED] += lc_surrogate_clipped(&s, *nll, p->old[k]);
  }
  return sum;
}

static void tell(void *selfp, const lc_policy *p, json_t *e) {
  const ppo *self = selfp;
  const double tokens = p->tally[TOKENS] > 0 ? p->tally[TOKENS] : 1;
  if (self->kl != 0) json_object_set_new(e, "kl", json_real(self->kl_mean));
  json_object_set_new(e, "clipped", json_real(p->tally[CLIPPED] / tokens));
  json_object_set_new(e, "critic_loss", json_real(self->critic_loss));
  json_object_set_new(e, "value", json_real(self->value_mean));
}

static lc_status visit(void *selfp, lc_visitor *v) {
  ppo *self = selfp;
  LC_TRY(v->array(v, "ppo:critic_loss", LC_I32, 2, &self->critic_loss));
  LC_TRY(v->array(v, "ppo:kl", LC_I32, 2, &self->kl_mean));
  LC_TRY(v->array(v, "ppo:value", LC_I32, 2, &self->value_mean));
  return lc_critic_visit(&self->critic, v);
}

const lc_objective lc_objective_ppo = {
    .name = "ppo",
    .title = "PPO: sampled answers, each token against a critic's expectation",
    .source = "arXiv 1707.06347",
    .about = "Samples answers from the weights being trained, rewards the last token by a rule and every "
             "token by −κ times the "
             "log-ratio to the model before training, and makes `updates` clipped updates of one sampling. "
             "The critic is linear in the "
             "final hidden state and its gradient stays out of the network; critic-steps=0 leaves it at 0. "
             "Rows are {\"prompt\", "
             "\"answer\"}; --batch counts prompts. Step events tell reward, KL, the share of clipped tokens, "
             "the critic's loss and the "
             "answers' length.",
    .options = options,
    .self_size = sizeof(ppo),
    .rows = 1u << LC_ROWS_ANSWER,
    .scores = true,
    .reference = reference,
    .sampling = sampling,
    .open = open,
    .scored = scored,
    .weigh = weigh,
    .row = row,
    .loss = loss,
    .tell = tell,
    .visit = visit,
    .close = close,
};
