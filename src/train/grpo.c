/* grpo, rft: answers are sampled, a rule rewards them.
 *
 *   grpo   A_i = (r_i − mean r) / (deviation r + 1e-4) over the G answers of a prompt
 *          L = mean over answers of 1/|o_i|·Σ_t [ −min(ρA_i, clip(ρ, 1±ε)·A_i) + β·(e^d − d − 1) ]
 *          ρ = π/π_old, d = log π_ref − log π; π_old is the policy that sampled
 *   rft    −log π of the answers that earned the full reward, divided by their tokens; the others have no part
 *
 * The deviation is that of n − 1 (torch's std, as TRL and verl take it). Sources: Shao et al. 2024, arXiv 2402.03300; Yuan et
 * al. 2023, arXiv 2308.01825 (rft with one update a sampling is RAFT++ of arXiv 2504.11343 without its clipping). */
#include "train/objective.h"
#include <jansson.h>
#include <math.h>

typedef struct {
  lc_sampling sampling;
  double beta, clip;
  bool scale;
} grpo;

static const lc_option grpo_options[] = {
    LC_SAMPLING_OPTIONS(grpo, "1"),
    {"beta", LC_OPT_FLOAT, offsetof(grpo, beta), "0.04", 0, 1e6, NULL, "B",
     "weight of the KL to the model as it was"},
    {"clip-ratio", LC_OPT_FLOAT, offsetof(grpo, clip), "0.2", 0, 1e6, NULL, "E", "ratios are clipped to 1±E"},
    {"scale-rewards", LC_OPT_BOOL, offsetof(grpo, scale), "true", 0, 0, NULL, NULL,
     "divide by the group's deviation; false: subtract the mean only"},
    {0},
};
typedef struct {
  lc_sampling sampling;
} rft;
static const lc_option rft_options[] = {LC_SAMPLING_OPTIONS(rft, "1"), {0}};
enum { TOKENS, KL, CLIPPED };

static const lc_sampling *sampling(const void *self) {
  return self; /* its first member, of both */
}

static bool grpo_reference(const void *self) {
  return ((const grpo *)self)->beta != 0;
}

/* weight, by sequence: the advantage. */
static lc_status grpo_weigh(void *selfp, lc_training *t) {
  const grpo *self = selfp;
  lc_policy *p = t->policy;
  const int64_t G = self->sampling.group;
  double *a = lc_scratch(t->ctx, 0, 2, (size_t)G * sizeof *a);
  if (!a) return LC_FAILED;
  p->scale = 1 / (double)p->n;
  for (int64_t i = 0; i < p->n; i += G) {
    bool equal = true;
    for (int64_t g = 1; g < G; g++) equal = equal && p->reward[i + g] == p->reward[i];
    lc_group_advantages(p->reward + i, G, self->scale, a);
    for (int64_t g = 0; g < G; g++) p->weight[i + g] = equal ? 0 : (float)a[g];
  }
  return LC_OK;
}

static lc_surrogate surrogate(const grpo *self, const lc_policy *p, int64_t k) {
  return (lc_surrogate){p->weight[p->sequence[k]], (float)self->clip, (float)self->beta};
}

static float grpo_row(const void *self, const lc_policy *p, int64_t k, float nll, float *slope) {
  const lc_surrogate s = surrogate(self, p, k);
  const float part = (float)(p->scale / (double)p->targets[p->sequence[k]]),
              loss = lc_surrogate_loss(&s, nll, p->old[k], p->ref[k], slope);
  *slope *= part;
  return loss * part;
}

static double grpo_loss(void *self, lc_policy *p, int64_t first, int64_t n, const float *nll) {
  double sum = 0;
  float slope;
  for (int64_t k = p->start[first]; k < p->start[first + n]; k++, nll++) {
    if (!p->target[k]) continue;
    const lc_surrogate s = surrogate(self, p, k);
    const double d = (double)*nll - (double)p->ref[k];
    sum += (double)grpo_row(self, p, k, *nll, &slope);
    p->tally[TOKENS]++;
    p->tally[KL] += s.beta != 0 ? expm1(d) - d : 0;
    p->tally[CLIPPED] += lc_surrogate_clipped(&s, *nll, p->old[k]);
  }
  return sum;
}

static void grpo_tell(void *selfp, const lc_policy *p, json_t *e) {
  const grpo *self = selfp;
  const double tokens = p->tally[TOKENS] > 0 ? p->tally[TOKENS] : 1;
  if (self->beta != 0) json_object_set_new(e, "kl", json_real(p->tally[KL] / tokens));
  json_object_set_new(e, "clipped", json_real(p->tally[CLIPPED] / tokens));
}

const lc_objective lc_objective_grpo = {
    .name = "grpo",
    .title = "GRPO: sampled answers, each against the mean of its group",
    .source = "arXiv 2402.03300",
    .about = "Samples G answers a prompt from the weights being trained, rewards them by a rule, and raises "
             "the probability of "
             "those above the group's mean. Rows are {\"prompt\", \"answer\"}; --batch counts prompts. The "
             "reference of the KL is the "
             "model before training. A group of equal rewards has no gradient but the KL's. Step events tell "
             "reward, KL, the share "
             "of clipped tokens and the answers' length.",
    .options = grpo_options,
    .self_size = sizeof(grpo),
    .rows = 1u << LC_ROWS_ANSWER,
    .scores = true,
    .reference = grpo_reference,
    .sampling = sampling,
    .weigh = grpo_weigh,
    .row = grpo_row,
    .loss = grpo_loss,
    .tell = grpo_tell,
};

/* weight, by sequence: 1 / tokens of all answers that count, or 0. */
static lc_status rft_weigh(void *self, lc_training *t) {
  lc_policy *p = t->policy;
  int64_t kept = 0;
  for (int64_t i = 0; i < p->n; i++) kept += p->reward[i] >= 1 ? p->targets[i] : 0;
  for (int64_t i = 0; i < p->n; i++) p->weight[i] = p->reward[i] >= 1 ? (float)(1 / (double)kept) : 0;
  return LC_OK;
}

static float rft_row(const void *self, const lc_policy *p, int64_t k, float nll, float *slope) {
  *slope = p->weight[p->sequence[k]];
  return *slope * nll;
}

const lc_objective lc_objective_rft = {
    .name = "rft",
    .title = "RFT: next-token loss on the model's own right answers",
    .source = "arXiv 2308.01825",
    .about = "Samples G answers a prompt from the weights being trained and takes next-token loss on those "
             "that earn the full "
             "reward. Rows are {\"prompt\", \"answer\"}; --batch counts prompts. An update without a right "
             "answer has no gradient "
             "(the optimiser's moments still decay).",
    .options = rft_options,
    .self_size = sizeof(rft),
    .rows = 1u << LC_ROWS_ANSWER,
    .sampling = sampling,
    .weigh = rft_weigh,
    .row = rft_row,
};
