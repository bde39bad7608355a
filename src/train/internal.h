/* What the files of src/train share. Nothing outside the room includes it. */
#ifndef LC_TRAIN_INTERNAL_H
#define LC_TRAIN_INTERNAL_H
#include "train/objective.h"
#include <jansson.h>

/* ---- pass.c: what a pass needs
 * ------------------------------------------------------------------------------ */

typedef struct {
  lc_ctx *ctx;
  lc_net_graph graph;
  lc_plan *plan;
  lc_run *run;
  lc_segment *segment;
  int64_t max_segments;
  int copies;      /* 2: examples are laid out twice; else 0 or 1 */
  bool not_finite; /* the last pass ended because a loss was no number */
} lc_stage;
typedef struct {
  int64_t rows, segments; /* capacity */
  bool training, recompute;
  lc_objective_fn objective;
  void *self;
} lc_stage_opts;
lc_status lc_stage_open(lc_net *, const lc_stage_opts *, lc_stage *);
void lc_stage_close(lc_stage *);
/* One pass over n examples. nll (may be NULL) receives each example's summed loss; *sum and *targets are
 * added to. */
lc_status lc_stage_pass(lc_stage *, const lc_example *, int64_t n, bool training, bool backward,
                        float loss_scale, double *nll, double *sum, int64_t *targets);
lc_stage lc_training_stage(const lc_training *, bool backward); /* the run's own */
/* pictures.c: the pixels of a pass whose segments repeat the n examples. */
lc_status lc_fill_pictures(lc_run *, const lc_net_graph *, const lc_example *, int64_t n);
/* The `count` longest of a data set's examples (into out, unless NULL) and the rows they have together. */
lc_status lc_longest(lc_ctx *, const lc_dataset *, int64_t count, lc_example *out, int64_t *rows);
/* finite.c: adds to the last error which tensor is not finite. Always LC_FAILED. */
lc_status lc_explain(lc_training *);
/* Refuses trained values that are not finite: the last update's have been through no pass. */
lc_status lc_finite_result(const lc_training *);
/* The name of the first trainable whose gradient is not finite; NULL when none is. */
const char *lc_bad_gradient(const lc_training *);

/* ---- history.c: run.sqlite and log.jsonl
 * -------------------------------------------------------------------- */

typedef struct lc_history lc_history;
typedef struct {
  const char *name, *module, *kind;
  int layer;
  int64_t rows, cols, changed;
  double norm_delta, norm_weight, max_delta;
} lc_tensor_row;
typedef struct {
  int64_t step, tokens, targets;
  double loss, lr, grad_norm, tokens_per_s, rss_mib, seconds;
} lc_step_row;
lc_status lc_history_open(lc_ctx *, const char *out, lc_history **);
void lc_history_close(lc_history *);
lc_status lc_history_identity(lc_history *, json_t **); /* of the run that OUT holds; NULL when none */
lc_status lc_history_begin(lc_history *, const json_t *identity, const char *method, const char *model,
                           const char *data, int64_t planned); /* forgets everything else */
/* Goes back to the moment after update `step`: later rows are removed, those of the evaluation at `step` too
 * unless it was done. */
lc_status lc_history_rewind(lc_history *, int64_t step, bool evaluated, int64_t planned);
lc_status lc_history_step(lc_history *, const lc_step_row *);
lc_status lc_history_eval(lc_history *, int64_t step, double loss, double perplexity, int64_t targets,
                          double seconds);
lc_status lc_history_sample(lc_history *, int64_t step, const char *prompt, const char *text);
lc_status lc_history_tensor(lc_history *, const lc_tensor_row *);
lc_status lc_history_done(lc_history *, const json_t *summary);
lc_status lc_history_log(lc_history *, const json_t *event); /* a line of log.jsonl */
lc_status lc_history_flush(lc_history *);                    /* everything so far is on the disk */

/* ---- the loop's own state
 * ------------------------------------------------------------------------------------ */

typedef struct {
  lc_training t; /* what methods see */
  const lc_train_io *io;
  json_t *identity;      /* what a resume must find unchanged */
  json_t *restored;      /* state.json of the checkpoint that the run goes on from; NULL */
  char *from;            /* its directory */
  lc_safetensors stored; /* its arrays */
  int64_t *order;        /* rows of the epoch under way */
  int64_t order_epoch;   /* -1: none yet */
  int64_t n_rows, per_epoch;
  int64_t first_row;     /* of the update under way: its rows are order[first_row], … */
  lc_net *reference_net; /* the model as it was, for the objective; NULL: not wanted */
  lc_stage reference;
  lc_example *eval_batch; /* of a pass in an evaluation */
  lc_stage stage;         /* t.graph, t.plan, t.run are its */
  bool evaluated;         /* the evaluation due after t.step was done */
  int64_t saved_step;     /* of the last checkpoint; -1 none */
  bool made_out;          /* OUT was not there before */
  bool unlogged;          /* the checkpoint that was restored has no line in the log */
  int64_t best_step;      /* -1 none */
  double best_loss;
  double started, seconds_before;
  size_t plan_bytes;
} lc_loop;

/* goal.c: the objective. Without one of its own (lc_policy_is) these do nothing. */
lc_status lc_goal_check(lc_training *);         /* data and method go together with it */
int64_t lc_goal_updates(const lc_training *);   /* updates that are made of a batch of rows */
int64_t lc_goal_sequences(const lc_training *); /* sequences that a row gives */
/* The rows that n sequences have at most; out: n examples, or (sampling) one. */
lc_status lc_goal_longest(const lc_training *, int64_t n, lc_example *out, int64_t *rows);
lc_objective_fn lc_goal_head(lc_training *, void **self); /* for the graph */
lc_status lc_goal_open(lc_loop *);                        /* the run is open */
void lc_goal_close(lc_loop *);
lc_status lc_goal_prepare(lc_loop *); /* before an update's passes: examples, what the losses depend on */
double lc_goal_loss(lc_training *, int64_t first, int64_t n); /* of the sequences that the last pass ran */
lc_status lc_goal_batch(lc_loop *, const lc_example *, int64_t n, int64_t all, double *sum, int64_t *targets);
void lc_goal_tell(lc_loop *, json_t *event);
lc_status lc_goal_visit(lc_loop *, lc_visitor *);

/* identity.c: what a resume must find unchanged, as JSON, and the comparison. */
json_t *lc_identity(const lc_loop *);
lc_status lc_identity_check(lc_loop *, const json_t *was, const char *where);
json_t *lc_numerics(const lc_loop *);

/* outdir.c: the output directory. */
lc_status lc_outdir_claim(lc_loop *); /* refuses, cleans (overwrite), or finds what to resume */
void lc_outdir_unclaim(lc_ctx *, const char *out,
                       bool made); /* what a run that failed before step 1 wrote goes; the error stands */
lc_status lc_outdir_last(lc_ctx *, const char *out, int64_t *step); /* highest whole checkpoint; -1 none */
lc_status lc_outdir_prune(lc_ctx *, const char *out, int64_t keep); /* the oldest go */
lc_status lc_outdir_drop_after(lc_ctx *, const char *out, int64_t step); /* removes checkpoints after step */
lc_status lc_outdir_sweep(lc_ctx *, const char *out); /* removes what an interruption left */
lc_status lc_outdir_replace(lc_ctx *, const char *out, const char *tmp,
                            const char *name); /* OUT/tmp becomes OUT/name */

/* checkpoint.c */
lc_status lc_checkpoint_save(lc_loop *,
                             char **path); /* OUT/checkpoint-<step>; path is lc_free'd by the caller */
lc_status lc_checkpoint_best(lc_loop *);   /* OUT/best: the result as of now */
lc_status
lc_checkpoint_state(lc_loop *); /* fills step, tokens, phase, best, … from l->restored; opens the arrays */
lc_status lc_checkpoint_arrays(lc_loop *);   /* loads what the visitors name */
lc_status lc_checkpoint_rehearse(lc_loop *); /* writes one and removes it */

/* placement.c: where a net's deltas sit, a row a weight. */
lc_status lc_placement(lc_net *, lc_status (*row)(void *arg, const lc_tensor_row *), void *arg);

/* events.c: one event to the history's log and the caller. `logged` false: the caller only. */
lc_status lc_tell(lc_loop *, const char *kind, json_t *event /* stolen */, bool logged);
lc_status lc_tell_start(lc_loop *);
lc_status lc_tell_phase(lc_loop *);              /* t.phase begins */
lc_status lc_tell_step(lc_loop *, double began); /* and its row in the history */
lc_status lc_tell_checkpoint(lc_loop *, const char *path, bool logged);
json_t *
lc_run_summary(const lc_loop *); /* what "done" and the history say of the whole run; NULL: no memory */

/* evaluate.c: the evaluation due after t.step, and samples. LC_STOPPED when interrupted. */
lc_status lc_evaluate(lc_loop *);
void lc_mend_utf8(char *text, size_t n); /* in place */
lc_status lc_sample_text(lc_loop *);
/* confusion.c: a classifier's answers, counted. */
typedef struct {
  lc_ctx *ctx;
  int64_t K, n, right;
  int64_t *said, *so, *both; /* K each */
  float *logits;             /* of the last row */
} lc_confusion;
lc_status lc_confusion_new(const lc_net *, lc_confusion *);
void lc_confusion_free(lc_confusion *);
lc_status lc_confusion_row(lc_confusion *, lc_run *, const lc_net_graph *, int64_t row, int32_t label,
                           int64_t *best);
lc_status lc_confusion_pass(lc_confusion *, lc_run *,
                            const lc_net_graph *); /* all rows with a label of the pass that was run */
double lc_confusion_accuracy(const lc_confusion *);
double lc_confusion_macro_f1(const lc_confusion *);

#endif
