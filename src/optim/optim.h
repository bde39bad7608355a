/* optim: optimisers over trainables' compact vectors, schedules, clipping. Columns are created on the param
 * by name. */
#ifndef LC_OPTIM_H
#define LC_OPTIM_H
#include "nn/nn.h"

typedef struct {
  double lr, weight_decay, beta1, beta2, eps, momentum;
  bool eps_inside; /* SpIEL's placement: (√v+ε)/√bc2; decay after the step */
  int64_t step;    /* updates finished before this one: 0 first */
} lc_hyper;
typedef struct {
  const char *name; /* "adamw", "sgd", "sm3" */
  /* Creates its columns. */
  lc_status (*prepare)(lc_ctx *, lc_param *, const lc_hyper *);
  /* value from grad; chunks on the workers; allocation-free. */
  lc_status (*update)(lc_ctx *, lc_param *, const lc_hyper *);
} lc_optim_ops;
extern const lc_optim_ops lc_optim_adamw, lc_optim_sgd, lc_optim_sm3;
extern const lc_optim_ops *const lc_optims[];
extern const int lc_n_optims;
const lc_optim_ops *lc_optim_find(const char *name);
/* What every update asks first: the param has a gradient to follow. */
lc_status lc_optim_check(lc_ctx *, const lc_optim_ops *, const lc_param *);

/* A param's column "lr" (an axis of rows or of entries) multiplies the rate; 0 freezes: value and state stay as they
 * are. The optimisers walk runs of entries that share one multiplier. */
#define LC_RATE "lr"
typedef struct {
  const lc_param *p;
  const float *rate; /* NULL: 1 everywhere */
  bool by_row;
} lc_rates;
lc_rates lc_rates_of(const lc_param *);
/* The multiplier of entry k; *end (at most `limit`): the end of the run of entries that have the same. */
float lc_rate_run(const lc_rates *, int64_t k, int64_t limit, int64_t *end);

/* A param's column "origin" (an axis of entries) is what its values are changes of: weight decay then pulls value +
 * origin to 0, not the change. */
#define LC_ORIGIN "origin"
/* The part of decay that falls on the origin, after an update of entries [k0,k1):
 * value -= rate·decay·origin. Nothing without one. */
void lc_decay_origin(lc_param *, double rate_decay, int64_t k0, int64_t k1);

/* choices "linear|cosine|constant" */
typedef enum { LC_SCHEDULE_LINEAR, LC_SCHEDULE_COSINE, LC_SCHEDULE_CONSTANT } lc_schedule_kind;
/* A pure function of (step, planned, warmup). */
typedef struct {
  lc_schedule_kind kind;
  int64_t planned, warmup;
} lc_schedule;
/* Factor of the update that follows `step` finished ones, as transformers numbers them: a warm-up begins at
 * 0. */
double lc_schedule_at(const lc_schedule *, int64_t step);
/* >= 1: steps; < 1: a fraction, rounded up as transformers does. */
int64_t lc_warmup_steps(double warmup, int64_t planned);
/* Global norm over all params' gradients, f64, fixed order; scales them when above max_norm (0: never), as
 * torch's clip_grad_norm_. */
lc_status lc_clip_gradients(lc_ctx *, lc_param **, int n, double max_norm, double *norm);
void lc_zero_gradients(lc_ctx *, lc_param **, int n);
#endif
