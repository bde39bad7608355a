/* train: the loop and what stands around it. Methods (src/method) are rows of hooks; the loop knows none of
 * them by name.
 *
 * One update: before_step; for each micro-batch forward, backward, after_micro; after_backward; clip;
 * optimiser; after_step. The examples of the whole update are known before its first forward, so gradients
 * are those of its mean loss whatever the micro-batch. */
#ifndef LC_TRAIN_H
#define LC_TRAIN_H
#include "core/options.h"
#include "infer/infer.h"
#include "model/model.h"
#include "optim/optim.h"

typedef struct lc_training lc_training;
typedef struct lc_method lc_method;
typedef struct lc_objective lc_objective; /* what is minimised: train/objective.h */
typedef lc_status (*lc_hook)(void *self, lc_training *);

/* self is the caller's: self_size zeroed bytes that begin as the options table says (lc_options_init). Hooks
 * may keep state in it; `release` frees that state (not the options' strings) and is called by lc_train at
 * its end, whatever happened. */
enum { LC_MAX_PHASES = 16 };
typedef struct lc_train_opts lc_train_opts;
struct lc_method {
  const char *name, *title, *source; /* "spiel", "SpIEL: …", "arXiv 2401.16405" */
  const char
      *about; /* some sentences for `lacuna methods NAME`, with where it departs from the authors' code */
  const lc_option *options;
  size_t self_size;
  double lr;
  const char *optimizer; /* the row's defaults */
  bool mergeable;
  /* NULL, or: rules of the method's own for options of the run that are still 0 ("by rule"), before the row's
   * defaults fill them in. */
  lc_status (*defaults)(void *self, lc_ctx *, lc_train_opts *);
  /* NULL: one phase of `steps` updates (--steps, or --epochs of per_epoch each). Else how many updates each phase
   * has, *n <= LC_MAX_PHASES of them. A phase has its own optimiser state, schedule and order of rows. */
  lc_status (*phases)(void *self, lc_training *, int64_t steps, int64_t per_epoch, int64_t *length, int *n);
  /* Phase t->phase has had its updates: what of it lives on is copied into self. Then all that was trained is
   * freed, the net is the base again, and attach and calibrate are called with the next t->phase. */
  lc_hook end_phase;
  lc_hook attach;      /* net and options are ready: attach deltas, allocate state */
  lc_hook calibrate;   /* before the training plan is made: passes over calibration rows; may attach too. Runs
                          again before a resume */
  lc_hook before_step; /* before an update's first forward */
  lc_hook after_micro; /* after each micro-batch's backward (t->micro) */
  lc_hook after_backward; /* once an update: gradients are complete, before clipping */
  lc_hook after_step; /* after the optimiser; t->step still counts the updates finished before this one, as in
                         every hook of it */
  lc_hook step; /* instead of forward/backward/optimiser (zeroth order): reads t->example, calls lc_pass, sets
                   t->loss */
  lc_hook finish;                               /* after the last update, before the result is saved */
  lc_objective_fn objective;                    /* NULL: next token */
  lc_status (*visit)(void *self, lc_visitor *); /* state of its own, beside the params */
  lc_hook
      loaded; /* a checkpoint's arrays are in: refuses what they cannot mean, and makes what follows from them */
  lc_status (*save)(void *self, lc_training *,
                    const char *dir); /* the result: adapter or model files, into an existing directory */
  /* NULL, or: what an update's products come to, when it is not what its passes over the attached changes are. step: of
   * those, in parts of the frozen model's forward and dx; targets: the share of these that the targets have. */
  double (*step_cost)(const void *self, const lc_training *, double step, double targets);
  lc_status (*report)(void *self, lc_training *, struct json_t *); /* adds fields to the run's "done" event */
  void (*release)(void *self, lc_ctx *);
};
extern const lc_method *const lc_methods[]; /* src/method/methods.c */
extern const int lc_n_methods;
const lc_method *lc_method_find(const char *name); /* NULL when absent */
const char *lc_method_nearest(const char *name);   /* for the sentence then; NULL when none is near */

extern const lc_objective *const lc_objectives[]; /* objective.c */
extern const int lc_n_objectives;
const lc_objective *lc_objective_find(const char *name);
const char *lc_objective_nearest(const char *name);
/* A row and its options: `self` begins as the row's table says, as a method's does. row NULL: next-token loss. */
typedef struct {
  const lc_objective *row;
  void *self;
} lc_goal;

/* What every run has. The table lc_train_options (options.c) describes it: flags, recipe, help. 0 or NULL
 * where the help says "by rule"; lc_train_resolve fills those in. */
struct lc_train_opts {
  int64_t steps, stop_after, batch, micro_batch, seq;
  double epochs, lr, warmup, clip, weight_decay, density;
  int schedule;   /* lc_schedule_kind */
  int task, head; /* lc_train_task, lc_train_head */
  char *optimizer, *dtype, *targets, *eval_data, *base_name;
  double beta1, beta2, eps, momentum;
  int64_t eval_every, save_every, keep, seed, eval_limit;
  bool shuffle, recompute, skip_bad;
  char *sample_prompt;
  int64_t sample_tokens;
};
typedef enum { LC_TRAIN_LM, LC_TRAIN_CLASSIFY, LC_TRAIN_TOKENS } lc_train_task; /* what --task names */
typedef enum { LC_HEAD_AUTO, LC_HEAD_NEW, LC_HEAD_FROZEN } lc_train_head;
lc_task lc_train_task_of(const lc_train_opts *);
extern const lc_option lc_train_options[];
/* seq = min(1024, the model's context), micro-batch = as many sequences as give at most 2048 tokens (at least
 * 1, at most batch), rate and optimiser from the method's row, dtype "auto" = bf16 where the CPU has bf16
 * products, else f32. Refuses what does not go together. */
lc_status lc_train_resolve(lc_ctx *, const lc_config *, const lc_method *, void *self, lc_train_opts *);

/* Progress: one call an event; kind "start", "step", "eval", "sample", "checkpoint", "phase", "done"; the JSON object
 * is the line of `train --json`. Non-zero stops the run as a signal does. */
typedef int (*lc_event_fn)(void *arg, const char *kind, const struct json_t *event);

struct lc_training {
  lc_ctx *ctx;
  lc_net *net;
  const lc_tokenizer *tok;
  const lc_method *method;
  void *self;
  lc_goal goal;
  struct lc_policy *policy; /* of an objective other than next-token loss; else NULL */
  lc_train_opts opts;       /* resolved; a copy */
  const lc_dataset *data, *eval_data;
  lc_adapter *adapter; /* what the method attached (NULL for full) */
  lc_param **param;
  int n_param; /* all trainables, fixed order */
  const lc_optim_ops *optim;
  lc_hyper hyper; /* a method's attach may change eps, eps_inside and the like */
  lc_schedule schedule;
  lc_net_graph graph;
  lc_plan *plan;
  lc_run *run;
  int64_t step;    /* updates finished */
  int64_t planned; /* updates planned, of all phases */
  int phase, n_phases;
  int64_t phase_first;                 /* updates finished when the phase began */
  int64_t phase_length[LC_MAX_PHASES]; /* the schedule's length, a phase */
  int64_t
      optimizer_first; /* updates finished when the optimiser's state began: a method that clears it sets this, before a step */
  int64_t last; /* updates after which this run ends: min(planned, stop_after) */
  lc_example *example;
  int64_t n_example;          /* of the update under way: micro-batch i is [i·micro_batch, …) */
  int64_t micro, n_micro;     /* of the update under way */
  int64_t update_targets;     /* the update's denominator */
  double loss, grad_norm, lr; /* of the last update */
  int copies;       /* 2, set by attach: a training pass has every example twice (lc_run.copies); else 0 */
  bool not_finite;  /* the last pass failed because a loss was no finite number */
  double auxiliary; /* further losses of the last update, weighted; not part of loss */
  int64_t tokens;   /* so far */
  const char *out;  /* output directory */
  bool
      counting; /* attach: only sizes count (cost.c): what would be chosen at a price may be the first positions (lc_index_first) */
  bool grows;   /* so counted: what the run holds grows while it trains */
  bool resuming; /* attach and calibrate: a checkpoint will overwrite every array that the visitors name */
  struct lc_history *history;
  lc_event_fn event;
  void *event_arg;
  lc_segment *segment;
  int64_t max_segments; /* of a pass */
};

typedef struct {
  const char *out;
  bool resume;
  const char *resume_from; /* a checkpoint's directory, or its name in out; NULL: the last one */
  bool overwrite;
  const char *data_path; /* as the user gave it; goes to recipe.yaml */
  lc_event_fn event;
  void *event_arg;
  lc_goal goal; /* what is minimised */
} lc_train_io;
/* Trains net by a method; writes OUT. LC_STOPPED: interrupted, everything saved. */
lc_status lc_train(lc_net *, const lc_tokenizer *, const lc_dataset *, const lc_dataset *eval,
                   const lc_method *, void *self, const lc_train_opts *, const lc_train_io *);

/* ---- recipe.yaml: every effective option ---- */
typedef struct {
  char *key, *value;
} lc_pair;
typedef struct {
  char *model, *data, *method, *objective;
  lc_pair *option;
  int n_option;
  lc_pair *set, *with; /* of the method, of the objective */
  int n_set, n_with;
} lc_recipe;
/* Reads a recipe; option keys are those of lc_train_options, set keys those of the method. An unknown key is
 * an error that suggests the nearest. */
lc_status lc_recipe_read(lc_ctx *, const char *path, lc_recipe *);
lc_status lc_recipe_write(lc_ctx *, const char *path, const char *model, const char *data, const lc_method *,
                          const void *self, const lc_goal *, const lc_train_opts *);
void lc_recipe_free(lc_ctx *, lc_recipe *);
/* Applies the option pairs, the set pairs to a method's options and the with pairs to an objective's; NULL: not. */
lc_status lc_recipe_apply(lc_ctx *, const lc_recipe *, lc_train_opts *, const lc_method *, void *self,
                          const lc_goal *);

/* ---- pieces that methods and commands use ---- */
/* An array of the checkpoint that the run goes on from, by its visitor's name: what attach needs to know when sizes
 * are a matter of what training did. NULL: none, or the run is not resuming. */
const lc_tensor *lc_training_stored(const lc_training *, const char *name);
/* One forward (and backward when told) over n examples, packed row after row with restarting positions; row
 * losses are summed in f64 in row order. loss_scale: 1 / the update's targets. n and the rows must fit the
 * plan: any micro-batch of the run does. Adds to *loss_sum, *targets. Of examples of the update under way the loss is the
 * objective's, with its own denominator inside (loss_scale is then 1); of any others it is next-token loss. */
lc_status lc_pass(lc_training *, const lc_example *, int64_t n, bool backward, float loss_scale,
                  double *loss_sum, int64_t *targets);
/* Signed gradients of the mean loss over the first n_examples rows of the data, as dense f32 accumulators
 * within byte_budget: repeats the passes for the rest. Calls done(arg, w, dW M×N) once a weight; the memory
 * is freed before it returns. For calibrate: no training plan exists yet. */
lc_status lc_calibrate_gradients(lc_training *, lc_weight **, int n, int64_t n_examples, size_t byte_budget,
                                 lc_status (*done)(void *arg, lc_weight *, const float *dW), void *arg);

/* Mean squares of each column (N) of the weights' inputs, over the tokens of the first n_examples rows: forward passes
 * only. Calls done(arg, w, mean) once a weight. For calibrate. */
lc_status lc_calibrate_inputs(lc_training *, lc_weight **, int n, int64_t n_examples,
                              lc_status (*done)(void *arg, lc_weight *, const double *mean), void *arg);

/* ---- cost.c: what a method would hold and do; no data, no step ---- */
enum { LC_COST_STEPS = 1000 }; /* updates that are supposed when --steps is not given */
typedef struct {
  int64_t trainable; /* values moved; the largest of all phases, as the bytes */
  int64_t state_bytes, gradient_bytes,
      candidate_bytes; /* as the allocator counts them when the first update begins */
  double step; /* products of an update: 1 = the frozen model's forward and dx; the mean of all phases */
  double target_share; /* of those products that are the targets' */
  int phases;
  bool estimate;         /* state_bytes is how it begins: it grows in training */
  const char *optimizer; /* "": none */
} lc_method_cost;
/* Attaches the method to net (one of the caller's own, which it then frees) and makes the optimiser's columns: it takes the
 * memory that it counts. Resolves the options. A task's head is not counted. */
lc_status lc_cost(lc_net *, const lc_method *, void *self, lc_train_opts *, lc_method_cost *);

/* ---- evaluation: its own run over any net ---- */
typedef struct {
  double accuracy, stderr_, loss, macro_f1;
  int64_t n; /* labels */
} lc_label_score;
/* Rows with labels. log (or NULL): a JSON line a row, {"label" or "tags", "predicted"}. */
lc_status lc_eval_labels(lc_net *, const lc_dataset *, int64_t limit, const char *log, lc_label_score *);
/* Rows as a net takes them: text, or pictures (a folder for each label, or an IDX file) when it sees. And the labels that
 * such rows have. */
lc_status lc_rows_open(lc_net *, const lc_tokenizer *, const char *path, const lc_data_opts *, lc_dataset **);
lc_status lc_rows_labels(lc_ctx *, const lc_config *, const char *path, lc_label_names *);
/* What rows of a net's task look like: place and names of its labels. The set borrows `names` (labels of them). */
lc_status lc_net_labels(const lc_net *, const char ***names, lc_label_set *); /* names: lc_free */

typedef struct {
  int64_t context, stride;
  bool bos, tail, llama_cpp, incremental;
  int64_t limit /* windows; 0: all */;
} lc_perplexity_opts; /* 0: 512, context */
typedef struct {
  double value, nll, stderr_;
  int64_t n, context, stride;
} lc_score; /* value: perplexity; nll: mean; stderr_: of value */
lc_status lc_eval_perplexity(lc_net *, const lc_tokenizer *, const lc_ids *stream, const lc_perplexity_opts *,
                             lc_score *);
lc_status lc_eval_rows(lc_net *, const lc_dataset *, int64_t limit,
                       lc_score *); /* JSONL: tokens of the loss mask, each example alone */

typedef struct {
  int64_t limit;   /* questions; 0: all */
  int64_t context; /* tokens a question may have (older ones are left out); 0: the model's */
  const lc_question *fewshot;
  int64_t n_fewshot; /* solved examples put before each question */
  bool chat;
  const char *system;      /* the prompt is a user turn of the model's template */
  const char *log_samples; /* a JSON line a question goes there, or NULL */
  const char *extract;     /* exact match: group 1 of the first match is the answer; NULL: GSM8K's */
  int64_t max_tokens;      /* exact match: of an answer; 0: 256 */
  const char *const *stop;
  int n_stop; /* exact match: strings that end an answer */
} lc_question_opts;
typedef struct {
  double acc, acc_norm, acc_bytes;
  double acc_stderr, acc_norm_stderr, acc_bytes_stderr;
  int64_t n;
} lc_choice_score;
lc_status lc_eval_choices(lc_net *, const lc_tokenizer *, const lc_question *, int64_t n,
                          const lc_question_opts *, lc_choice_score *);
lc_status lc_eval_exact(lc_net *, const lc_tokenizer *, const lc_question *, int64_t n,
                        const lc_question_opts *, lc_score * /* value: share */);
#endif
