/* The table of objectives, and what several of them share: an update's rows, the clipped surrogate, advantages of a group. */
#include "train/objective.h"
#include <math.h>
#include <string.h>

const lc_objective lc_objective_sft = {
    .name = "sft",
    .title = "next-token loss on the rows' targets",
    .source = "",
    .about = "Supervised fine-tuning: −log π of every target, divided by the update's targets. Methods that "
             "bring a loss of "
             "their own (mosa) replace this one.",
    .rows = 1u << LC_ROWS_TEXT_FILE | 1u << LC_ROWS_TEXT | 1u << LC_ROWS_COMPLETION | 1u << LC_ROWS_MESSAGES |
            1u << LC_ROWS_LABELLED | 1u << LC_ROWS_TAGGED | 1u << LC_ROWS_PICTURES,
};

const lc_objective *const lc_objectives[] = {&lc_objective_sft,  &lc_objective_dpo, &lc_objective_simpo,
                                             &lc_objective_grpo, &lc_objective_ppo, &lc_objective_rft};
const int lc_n_objectives = sizeof lc_objectives / sizeof *lc_objectives;

const lc_objective *lc_objective_find(const char *name) {
  for (int i = 0; i < lc_n_objectives; i++)
    if (strcmp(lc_objectives[i]->name, name) == 0) return lc_objectives[i];
  return NULL;
}

const char *lc_objective_nearest(const char *name) {
  const char *names[16];
  int n = 0;
  for (; n < lc_n_objectives && n < 16; n++) names[n] = lc_objectives[n]->name;
  return lc_nearest(name, names, n);
}

bool lc_policy_is(const lc_training *t) {
  return t->goal.row && t->goal.row->row;
}

/* ---- an update's rows ---- */

void lc_policy_free(lc_ctx *ctx, lc_policy *p) {
  if (!p) return;
  lc_free(ctx, p->start);
  lc_free(ctx, p->sequence);
  lc_free(ctx, p->target);
  lc_free(ctx, p->targets);
  lc_free(ctx, p->old);
  lc_free(ctx, p->ref);
  lc_free(ctx, p->weight);
  lc_free(ctx, p->reward);
  lc_free(ctx, p);
}

lc_status lc_policy_new(lc_ctx *ctx, int64_t n, int64_t rows, lc_policy **out) {
  *out = NULL;
  lc_policy *p = lc_alloc(ctx, LC_MEM_OTHER, sizeof *p);
  if (!p) return LC_FAILED;
  *p = (lc_policy){.max_n = n, .max_rows = rows, .base = -1};
  p->start = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n + 1, sizeof *p->start);
  p->targets = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *p->targets);
  p->reward = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *p->reward);
  p->sequence = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)rows, sizeof *p->sequence);
  p->target = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)rows, sizeof *p->target);
  p->old = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)rows, sizeof *p->old);
  p->ref = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)rows, sizeof *p->ref);
  p->weight = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)lc_max64(rows, n), sizeof *p->weight);
  if (!p->start || !p->targets || !p->reward || !p->sequence || !p->target || !p->old || !p->ref ||
      !p->weight) {
    lc_policy_free(ctx, p);
    return LC_FAILED;
  }
  *out = p;
  return LC_OK;
}

void lc_policy_lay(lc_policy *p, const lc_example *ex, int64_t n) {
  p->n = n;
  p->rows = 0;
  memset(p->tally, 0, sizeof p->tally);
  for (int64_t i = 0; i < n; i++) {
    p->start[i] = p->rows;
    p->targets[i] = 0;
    for (int64_t k = 0; k < ex[i].n; k++, p->rows++) {
      p->sequence[p->rows] = (int32_t)i;
      p->target[p->rows] = k + 1 < ex[i].n && ex[i].target[k + 1];
      p->targets[i] += p->target[p->rows];
    }
  }
  p->start[n] = p->rows;
}

/* ---- pieces of losses ---- */

double lc_log_sigmoid(double z) {
  return z > 0 ? -log1p(exp(-z)) : z - log1p(exp(z));
}

bool lc_surrogate_clipped(const lc_surrogate *s, float nll, float old) {
  const float ratio = expf(old - nll);
  return s->advantage > 0 ? ratio > 1 + s->clip : s->advantage < 0 && ratio < 1 - s->clip;
}

/* With nll = −log π: dρ/dnll = −ρ, and d = nll − nll_ref. */
float lc_surrogate_loss(const lc_surrogate *s, float nll, float old, float ref, float *slope) {
  const float ratio = expf(old - nll), low = 1 - s->clip, high = 1 + s->clip;
  const bool clipped = lc_surrogate_clipped(s, nll, old);
  float loss = -s->advantage * (!clipped ? ratio : ratio > high ? high : low);
  *slope = clipped ? 0 : s->advantage * ratio;
  if (s->beta != 0) {
    const float d = nll - ref;
    loss += s->beta * (expm1f(d) - d);
    *slope += s->beta * expm1f(d);
  }
  return loss;
}

void lc_group_advantages(const double *reward, int64_t group, bool scaled, double *out) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; i < group; i++) mean += reward[i];
  mean /= (double)group;
  for (int64_t i = 0; i < group; i++) squares += (reward[i] - mean) * (reward[i] - mean);
  const double by = scaled && group > 1 ? sqrt(squares / (double)(group - 1)) + 1e-4 : 1;
  for (int64_t i = 0; i < group; i++) out[i] = (reward[i] - mean) / by;
}
