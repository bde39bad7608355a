/* train: the loop and what stands around it. Methods (src/method) are rows of hooks; the loop knows none of them by name. */
#ifndef LC_TRAIN_H
#define LC_TRAIN_H
#include "core/options.h"
#include "model/model.h"
#include "optim/optim.h"

typedef struct lc_training lc_training;
typedef struct lc_method lc_method;
typedef lc_status (*lc_hook)(void *self, lc_training *);

struct lc_method {
  const char *name, *title, *source; /* "spiel", "SpIEL: …", "arXiv 2401.16405" */
  const char *about;                 /* some sentences for `lacuna methods NAME`, with where it departs from the authors' code */
  const lc_option *options; size_t self_size;
  double lr; const char *optimizer;  /* the row's defaults */
  bool mergeable;
  lc_hook attach;         /* net and options are ready: attach deltas, allocate state */
  lc_hook calibrate;      /* before step 1: passes over calibration rows */
  lc_hook before_step;    /* before an update's first forward */
  lc_hook after_micro;    /* after each micro-batch's backward (t->micro) */
  lc_hook after_backward; /* once an update: gradients are complete, before clipping */
  lc_hook after_step;     /* after the optimiser */
  lc_hook step;           /* instead of forward/backward/optimiser (zeroth order) */
  lc_hook finish;         /* after the last update, before the result is saved */
  lc_objective_fn objective;                          /* NULL: next token */
  lc_status (*visit)(void *self, lc_visitor *);       /* state of its own, beside the params */
  lc_status (*save)(void *self, lc_training *, const char *dir); /* the result: adapter or model files */
  lc_status (*report)(void *self, lc_training *, struct json_t *); /* adds fields to the run's report */
  void (*release)(void *self, lc_ctx *);
};
extern const lc_method *const lc_methods[]; /* src/method/methods.c */
extern const int lc_n_methods;

/* What every run has. The table lc_train_options (options.c) describes it: flags, recipe, help. */
typedef struct {
  int64_t steps, stop_after, batch, micro_batch, seq, warmup_steps_unused;
  double epochs, lr, warmup, clip, weight_decay, density, eval_fraction_unused;
  int schedule;             /* lc_schedule */
  char *optimizer, *dtype, *targets, *eval_data, *base_name;
  double beta1, beta2, eps, momentum;
  int64_t eval_every, save_every, keep, seed, eval_limit;
  bool shuffle, recompute, skip_bad;
  char *sample_prompt;
} lc_train_opts;
extern const lc_option lc_train_options[];

typedef struct { int64_t step; double loss, lr, grad_norm, tokens_per_s, rss_mib; int64_t tokens; } lc_step_event;
/* Progress: one call an event; kind "start", "step", "eval", "checkpoint", "done"; the JSON object is the line of `train --json`. Non-zero stops the run. */
typedef int (*lc_event_fn)(void *arg, const char *kind, const struct json_t *event);

struct lc_training {
  lc_ctx *ctx;
  lc_net *net;
  const lc_tokenizer *tok;
  const lc_method *method; void *self;
  lc_train_opts opts;
  const lc_dataset *data, *eval_data;
  lc_adapter *adapter;              /* what the method attached (NULL for full) */
  lc_param **param; int n_param;    /* all trainables, fixed order */
  const lc_optim_ops *optim; lc_hyper hyper;
  lc_net_graph graph; lc_plan *plan; lc_run *run;
  int64_t step;                     /* updates finished */
  int64_t planned;                  /* updates planned */
  int64_t micro, n_micro;           /* of the update under way */
  int64_t update_targets;           /* the update's denominator */
  double loss, grad_norm, lr;       /* of the last update */
  int64_t tokens;                   /* so far */
  const char *out;                  /* output directory */
  struct lc_history *history;
  lc_event_fn event; void *event_arg;
};

typedef struct { const char *out; bool resume; const char *resume_from; bool overwrite; lc_event_fn event; void *event_arg; const char *recipe_text; } lc_train_io;
/* Trains net by a method; writes OUT. options: the run's (already set) and the method's key=value pairs. */
lc_status lc_train(lc_net *, const lc_tokenizer *, const lc_dataset *, const lc_dataset *eval, const lc_method *, void *self, const lc_train_opts *, const lc_train_io *);
const lc_method *lc_method_find(const char *name);

/* ---- pieces that methods and commands use ---- */
/* One forward (and backward when training) over examples ids[0..n) laid out as segments; adds row losses in f64 in row order. */
lc_status lc_pass(lc_training *, const lc_example *, int n, bool backward, float loss_scale, double *loss_sum, int64_t *targets);
/* Signed gradients of weights summed over n_examples rows of the data, as dense f32 accumulators within byte_budget: repeats the passes for the rest. Calls
 * done(arg, w, dW M×N) once a weight; the memory is freed before it returns. */
lc_status lc_calibrate_gradients(lc_training *, lc_weight **, int n, int64_t n_examples, size_t byte_budget,
                                 lc_status (*done)(void *arg, lc_weight *, const float *dW), void *arg);

/* ---- evaluation: its own run over any net ---- */
typedef struct { int64_t context, stride; bool bos, tail, llama_cpp, incremental; int64_t limit; } lc_perplexity_opts;
typedef struct { double value, nll, stderr_; int64_t n, context, stride; } lc_score;
lc_status lc_eval_perplexity(lc_net *, const lc_tokenizer *, const lc_ids *stream, const lc_perplexity_opts *, lc_score *);
lc_status lc_eval_rows(lc_net *, const lc_dataset *, int64_t limit, lc_score *); /* JSONL: tokens of the loss mask, each example alone */
#endif
