/* dpo, simpo: of two answers to a prompt, one is preferred.
 *
 *   z     = β·[(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))]     dpo, sums over the answer's tokens
 *   z     = β·[log π(y_w)/|y_w| − log π(y_l)/|y_l|] − γ                           simpo, no reference
 *   L     = −log σ(z), the mean over the update's pairs;      dL/dnll_k = ±β·σ(−z)·(1 or 1/|y|)
 *
 * The slope of a token needs the sums of both answers, so an update begins with a forward pass (and one of the reference).
 * Sources: Rafailov et al. 2023, arXiv 2305.18290; Meng, Xia & Chen 2024, arXiv 2405.14734. */
#include "train/objective.h"
#include <jansson.h>
#include <math.h>

typedef struct {
  double beta, gamma;
  bool mean; /* simpo */
} preference;

static const lc_option dpo_options[] = {
    {"beta", LC_OPT_FLOAT, offsetof(preference, beta), "0.1", 1e-9, 1e6, NULL, "B",
     "weight of the difference"},
    {0},
};
static const lc_option simpo_options[] = {
    {"beta", LC_OPT_FLOAT, offsetof(preference, beta), "2", 1e-9, 1e6, NULL, "B", "weight of the difference"},
    {"gamma", LC_OPT_FLOAT, offsetof(preference, gamma), "1", 0, 1e6, NULL, "G",
     "margin that it is to exceed"},
    {0},
};
enum { PAIRS, RIGHT, MARGIN, CHOSEN, REJECTED };

static lc_status open_simpo(void *self, lc_training *t) {
  ((preference *)self)->mean = true;
  return LC_OK;
}

static bool reference(const void *self) {
  return true;
}

/* log π − log π_ref of sequence i, or its mean log π; nll: of the sequence's first row on. */
static double score(const preference *s, const lc_policy *p, int64_t i, const float *nll) {
  double sum = 0;
  for (int64_t k = p->start[i]; k < p->start[i + 1]; k++, nll++)
    if (p->target[k]) sum -= (double)*nll - (s->mean ? 0 : (double)p->ref[k]);
  return s->mean ? sum / (double)p->targets[i] : sum;
}

static lc_status weigh(void *self, lc_training *t) {
  const preference *s = self;
  lc_policy *p = t->policy;
  p->scale = 2 / (double)p->n;
  for (int64_t i = 0; i < p->n; i += 2) {
    const double z = s->beta * (score(s, p, i, p->old + p->start[i]) -
                                score(s, p, i + 1, p->old + p->start[i + 1])) -
                     s->gamma,
                 slope = s->beta * exp(lc_log_sigmoid(-z)) * p->scale;
    p->weight[i] = (float)(slope / (s->mean ? (double)p->targets[i] : 1));
    p->weight[i + 1] = (float)(-slope / (s->mean ? (double)p->targets[i + 1] : 1));
  }
  return LC_OK;
}

static float row(const void *self, const lc_policy *p, int64_t k, float nll, float *slope) {
  *slope = p->weight[p->sequence[k]];
  return *slope * nll;
}

static double loss(void *self, lc_policy *p, int64_t first, int64_t n, const float *nll) {
  const preference *s = self;
  const float *at = nll - p->start[first];
  double sum = 0;
  for (int64_t i = first; i < first + n; i += 2) {
    const double w = score(s, p, i, at + p->start[i]), l = score(s, p, i + 1, at + p->start[i + 1]),
                 z = s->beta * (w - l) - s->gamma;
    sum -= lc_log_sigmoid(z) * p->scale;
    p->tally[PAIRS]++;
    p->tally[RIGHT] += w > l;
    p->tally[MARGIN] += s->beta * (w - l);
    p->tally[CHOSEN] += s->beta * w;
    p->tally[REJECTED] += s->beta * l;
  }
  return sum;
}

static void tell(void *self, const lc_policy *p, json_t *e) {
  const double n = p->tally[PAIRS] > 0 ? p->tally[PAIRS] : 1;
  json_object_set_new(e, "accuracy", json_real(p->tally[RIGHT] / n));
  json_object_set_new(e, "margin", json_real(p->tally[MARGIN] / n));
  json_object_set_new(e, "chosen", json_real(p->tally[CHOSEN] / n));
  json_object_set_new(e, "rejected", json_real(p->tally[REJECTED] / n));
}

const lc_objective lc_objective_dpo = {
    .name = "dpo",
    .title = "DPO: the preferred answer gains on the other, against the model as it was",
    .source = "arXiv 2305.18290",
    .about = "−log σ(β[(log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))]), sums over the "
             "answer's tokens, the mean "
             "over pairs. The reference is the model before training; it costs a forward pass and no second "
             "copy of the weights. "
             "--batch counts pairs. Step events tell the share of pairs in the right order, the margin and "
             "both rewards (β times "
             "the log-ratio).",
    .options = dpo_options,
    .self_size = sizeof(preference),
    .rows = 1u << LC_ROWS_PREFERENCE,
    .together = 2,
    .scores = true,
    .reference = reference,
    .weigh = weigh,
    .row = row,
    .loss = loss,
    .tell = tell,
};

const lc_objective lc_objective_simpo = {
    .name = "simpo",
    .title = "SimPO: the preferred answer's mean log-probability exceeds the other's by a margin",
    .source = "arXiv 2405.14734",
    .about = "−log σ(β[mean log π(y_w) − mean log π(y_l)] − γ), without a reference. --batch counts pairs. "
             "Events as dpo's; the "
             "rewards are β times the mean log-probability.",
    .options = simpo_options,
    .self_size = sizeof(preference),
    .rows = 1u << LC_ROWS_PREFERENCE,
    .together = 2,
    .scores = true,
    .open = open_simpo,
    .weigh = weigh,
    .row = row,
    .loss = loss,
    .tell = tell,
};
