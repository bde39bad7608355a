/* objective: what is minimised, whatever the method trains. An objective is a row of lc_objectives; the loop knows none by
 * name.
 *
 * Notation: row k of the update predicts one token; nll_k = −log π(token). An objective gives each row a loss of its nll
 * and the slope dL/dnll_k; the head multiplies by d nll/dθ (lc_head_loss_of). All else that a loss depends on (the
 * reference's log-probabilities, those at sampling, rewards, sums over a sequence) is constant while a pass runs and is
 * made before it, in `weigh`. The rows of an update lie in the order of its sequences, as in the passes. */
#ifndef LC_OBJECTIVE_H
#define LC_OBJECTIVE_H
#include "train/train.h"

typedef struct lc_policy lc_policy;
typedef struct lc_rollout lc_rollout;

/* ---- an update seen by its objective ---- */

enum { LC_TALLIES = 8 };
struct lc_policy {
  int64_t n, rows;         /* sequences and rows laid out now */
  int64_t max_n, max_rows; /* room */
  int64_t base;            /* first row of the pass that runs; -1: no pass of the update */
  int64_t *start;          /* n + 1: first row of each sequence */
  int32_t *sequence;       /* by row */
  uint8_t *target;         /* by row: 1 where a token is scored */
  int64_t *targets;        /* by sequence */
  float *old, *ref;        /* by row: nll at the weights of now (or of the sampling), and of the reference */
  float *weight;  /* by row or by sequence (from 0), as the objective wants: advantages, coefficients */
  double *reward; /* by sequence */
  double scale;   /* of a sequence's or a pair's part in the loss: 1 / their number */
  double tally[LC_TALLIES];
  lc_rollout *rollout; /* NULL: sequences come from the data */
};

struct lc_objective {
  const char *name, *title, *source, *about;
  const lc_option *options;
  size_t self_size;
  uint32_t rows; /* 1 << lc_row_kind of what it takes */
  int together;  /* sequences of a row that a pass keeps together; 0 or 1: none */
  bool scores;   /* `old` is wanted: a forward pass over the update's sequences before the first gradient */
  bool (*reference)(
      const void *self); /* whether `ref` is wanted: a forward pass of the model as it was; NULL: no */
  const struct lc_sampling *(*sampling)(const void *self); /* NULL: sequences come from the data */
  lc_status (*open)(void *self, lc_training *);            /* the run's sizes are known: checks, memory */
  lc_status (*scored)(void *self, lc_training *, int64_t first,
                      int64_t n);                /* after a pass for `old`: its values are there */
  lc_status (*weigh)(void *self, lc_training *); /* once, when rewards, old and ref are there */
  /* Loss of row k and its slope. Called on workers, in any order. NULL: next-token loss, and no other hook is called. */
  float (*row)(const void *self, const lc_policy *, int64_t k, float nll, float *slope);
  /* Loss of the sequences [first, first+n), whose nll lie from `nll` on; tallies what is told. NULL: the rows' sum. */
  double (*loss)(void *self, lc_policy *, int64_t first, int64_t n, const float *nll);
  void (*tell)(void *self, const lc_policy *, struct json_t *event); /* fields of the step (or eval) event */
  lc_status (*visit)(void *self, lc_visitor *);                      /* state across updates */
  void (*close)(void *self, lc_ctx *);
};
extern const lc_objective lc_objective_sft, lc_objective_dpo, lc_objective_simpo, lc_objective_grpo,
    lc_objective_ppo, lc_objective_rft;
bool lc_policy_is(const lc_training *); /* another loss than next-token's */

/* Room for updates of at most n sequences of `rows` rows together. */
lc_status lc_policy_new(lc_ctx *, int64_t n, int64_t rows, lc_policy **);
void lc_policy_free(lc_ctx *, lc_policy *);
void lc_policy_lay(lc_policy *, const lc_example *, int64_t n); /* start, sequence, target(s); tallies 0 */
double lc_log_sigmoid(double);

/* The clipped surrogate of Schulman et al. 2017 (arXiv 1707.06347) and the KL estimate of Schulman 2020, which GRPO
 * subtracts: −min(ρA, clip(ρ, 1±ε)·A) + β·(e^d − d − 1), ρ = π/π_old, d = log π_ref − log π; *slope = its derivative by nll. */
typedef struct {
  float advantage, clip, beta;
} lc_surrogate;
float lc_surrogate_loss(const lc_surrogate *, float nll, float old, float ref, float *slope);
bool lc_surrogate_clipped(const lc_surrogate *, float nll, float old);

/* ---- sampling (rollout.c): answers of the weights being trained, and what they earn ---- */

typedef struct lc_sampling {
  int64_t group;      /* G answers a prompt */
  int64_t max_tokens; /* of an answer */
  int64_t updates;    /* made of one sampling */
  double temperature;
  char *reward, *extract;
  bool shuffle; /* rewards are dealt out at random: a control */
} lc_sampling;
#define LC_SAMPLING_OPTIONS(type, updates_)                                                                  \
  {"group", LC_OPT_INT, offsetof(type, sampling.group), "8", 1, 4096, NULL, "G", "answers a prompt"},        \
      {"max-tokens", LC_OPT_INT,           offsetof(type, sampling.max_tokens), "64", 1, 1 << 20, NULL,      \
       "N",          "tokens of an answer"},                                                                 \
      {"updates", LC_OPT_INT, offsetof(type, sampling.updates), updates_, 1, 1024,                           \
       NULL,      "N",        "updates made of one sampling"},                                               \
      {"temperature", LC_OPT_FLOAT, offsetof(type, sampling.temperature),                                    \
       "1",           1e-3,         100,                                                                     \
       NULL,          "T",          "of sampling; the loss's probabilities are those of 1"},                 \
      {"reward",                                                                                             \
       LC_OPT_STRING,                                                                                        \
       offsetof(type, sampling.reward),                                                                      \
       "exact",                                                                                              \
       0,                                                                                                    \
       0,                                                                                                    \
       NULL,                                                                                                 \
       "NAME",                                                                                               \
       "exact, number or format: the rule that an answer earns 1 by"},                                       \
      {"extract",                                                                                            \
       LC_OPT_STRING,                                                                                        \
       offsetof(type, sampling.extract),                                                                     \
       NULL,                                                                                                 \
       0,                                                                                                    \
       0,                                                                                                    \
       NULL,                                                                                                 \
       "REGEX",                                                                                              \
       "group 1 of the first match is the answer; else all of it"},                                          \
  {                                                                                                          \
    "shuffle-rewards", LC_OPT_BOOL, offsetof(type, sampling.shuffle), "false", 0, 0, NULL, NULL,             \
        "a control: the update's rewards are dealt out at random"                                            \
  }

struct lc_rollout {
  const lc_sampling *o;
  int64_t prompts, n;    /* of the sampling that is laid out; n = prompts·G */
  int64_t max_n, length; /* tokens that a sequence has room for */
  int64_t V;             /* ids that there are */
  int32_t *id;           /* max_n × length */
  uint8_t *target;
  int64_t *size, *prompt; /* tokens of each sequence, and of its prompt */
  double *reward;
  int64_t made;        /* update that the sampling was made for; -1 none */
  lc_example *example; /* the sequences as examples */
  lc_session *session;
  const struct lc_reward *verify;
  lc_extractor *extract;
  float *logits; /* 2·V */
  lc_bytes text;
};
typedef struct lc_reward {
  const char *name, *about;
  double (*of)(const char *answer, size_t n, bool found,
               const char *gold); /* found: the expression matched (or there is none) */
} lc_reward;
extern const lc_reward lc_rewards[];
extern const int lc_n_rewards;
/* For `prompts` prompts at a time, none longer than `longest` tokens. */
lc_status lc_rollout_new(lc_training *, const lc_sampling *, int64_t prompts, int64_t longest, lc_rollout **);
void lc_rollout_free(lc_ctx *, lc_rollout *);
/* Samples for the prompts of these rows of the data; `turn` keys the draws. */
lc_status lc_rollout_sample(lc_rollout *, lc_training *, const int64_t *row, int64_t n, int64_t turn);
/* Mean reward of greedy answers over the first `limit` rows (0: all). */
lc_status lc_rollout_evaluate(lc_rollout *, lc_training *, const lc_dataset *, int64_t limit, double *reward,
                              int64_t *n);
lc_status lc_rollout_visit(lc_rollout *, lc_ctx *, lc_visitor *);
/* Advantages of a group: (r − mean) / (deviation + 1e-4), the deviation that of n − 1; 0 for equal rewards. */
void lc_group_advantages(const double *reward, int64_t group, bool scaled, double *out);

/* ---- critic (critic.c): a linear value of the final hidden state, trained beside the policy ---- */
typedef struct {
  int64_t C, steps;
  double *w, *m, *v; /* C + 1: the last is the constant */
} lc_critic;
lc_status lc_critic_new(lc_ctx *, int64_t C, lc_critic *);
void lc_critic_free(lc_ctx *, lc_critic *);
double lc_critic_value(const lc_critic *, const float *h);
/* ½·mean (value − goal)² over n rows of h (n, C), and its gradient (C + 1; NULL: the loss alone). */
double lc_critic_loss(const lc_critic *, const float *h, const double *goal, int64_t n, double *grad);
void lc_critic_step(lc_critic *, const double *grad, double lr); /* Adam */
lc_status lc_critic_visit(lc_critic *, lc_visitor *);
#endif
