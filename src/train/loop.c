/* The loop: what every method has in common. It knows methods by their hooks only.
 *
 *   set up      options resolved, identity, output directory, checkpoint to go on from
 *   attach      the method's deltas, calibration, the list of trainables
 *   open        graph, plan, run, optimiser columns; a rehearsal at full size
 *   restore     arrays of the checkpoint
 *   updates     order of rows = function of (seed, epoch); loss = Σ over the update's targets / their number;
 *               between two phases of a method attach and open again, on the base
 *   finish      the result in OUT
 *
 * The rehearsal runs one forward and backward pass over the longest rows (unless the first update has them)
 * and writes one checkpoint before step 1: memory and disk show at once whether they suffice, and after step
 * 1 nothing is allocated (libraries and changes of phase excepted). Interruption is looked for between updates and between the
 * passes of an evaluation: an update under way is finished first, as methods may have begun to change their
 * state. */
#include "train/internal.h"
#include <math.h>
#include <string.h>

enum { EVAL_SEGMENTS = 64 };

/* ---- set up
 * ----------------------------------------------------------------------------------------------------------
 */

static lc_status copy_options(lc_ctx *ctx, const lc_train_opts *from, lc_train_opts *to) {
  LC_TRY(lc_options_init(ctx, lc_train_options, to));
  for (const lc_option *o = lc_train_options; o->name; o++) {
    char *text = lc_options_get(ctx, o, from);
    lc_status st = text ? lc_options_set(ctx, lc_train_options, "train", to, o->name, text) : LC_FAILED;
    lc_free(ctx, text);
    LC_TRY(st);
  }
  return LC_OK;
}

static lc_status plan_steps(lc_loop *l) {
  lc_training *t = &l->t;
  l->n_rows = lc_data_rows(t->data);
  if (l->n_rows == 0) return lc_fail(t->ctx, "train: the data has no rows with a target");
  l->per_epoch = lc_ceil_div(l->n_rows, t->opts.batch) * lc_goal_updates(t);
  int64_t steps = t->opts.steps ? t->opts.steps : (int64_t)ceil(t->opts.epochs * (double)l->per_epoch);
  t->n_phases = 1;
  t->phase_length[0] = steps;
  if (t->method->phases)
    LC_TRY(t->method->phases(t->self, t, steps, l->per_epoch, t->phase_length, &t->n_phases));
  return LC_OK;
}

/* The schedule of the phase that t->phase says, and the whole number of updates. */
static void plan_phase(lc_loop *l) {
  lc_training *t = &l->t;
  const int64_t length = t->phase_length[t->phase];
  t->planned = t->phase_first;
  for (int p = t->phase; p < t->n_phases; p++) t->planned += t->phase_length[p];
  t->last = t->opts.stop_after ? lc_min64(t->planned, t->opts.stop_after) : t->planned;
  t->schedule = (lc_schedule){.kind = (lc_schedule_kind)t->opts.schedule,
                              .planned = length,
                              .warmup = lc_warmup_steps(t->opts.warmup, length)};
}

/* A tokenizer of another model gives ids that the embedding has no rows for. */
static lc_status check_vocabulary(const lc_training *t, const lc_dataset *d, const char *what) {
  const int64_t V = t->net->model->config.V;
  for (int64_t i = 0; d && i < lc_data_count(d); i++) {
    const lc_example e = lc_data_get(d, i);
    for (int64_t k = 0; k < e.n; k++)
      if (e.id[k] < 0 || e.id[k] >= V)
        return lc_fail(t->ctx,
                       "train: row %lld of the %s has token id %d, the model's vocabulary ends at %lld: is "
                       "the tokenizer another model's?",
                       (long long)i + 1, what, (int)e.id[k], (long long)V - 1);
  }
  return LC_OK;
}

static lc_status set_up(lc_loop *l, const lc_train_opts *opts) {
  lc_training *t = &l->t;
  LC_TRY(copy_options(t->ctx, opts, &t->opts));
  LC_TRY(lc_train_resolve(t->ctx, &t->net->model->config, t->method, t->self, &t->opts));
  if (strcmp(t->opts.dtype, lc_dtype_get(t->net->compute)->name))
    return lc_usage(t->ctx, "train: dtype is %s, the net computes in %s", t->opts.dtype,
                    lc_dtype_get(t->net->compute)->name);
  LC_TRY(lc_goal_check(t));
  LC_TRY(plan_steps(l));
  t->optim = lc_optim_find(t->opts.optimizer);
  t->hyper = (lc_hyper){.lr = t->opts.lr,
                        .weight_decay = t->opts.weight_decay,
                        .beta1 = t->opts.beta1,
                        .beta2 = t->opts.beta2,
                        .eps = t->opts.eps > 0 ? t->opts.eps : 1e-8,
                        .momentum = t->opts.momentum};
  LC_TRY(check_vocabulary(t, t->data, "data"));
  LC_TRY(check_vocabulary(t, t->eval_data, "evaluation data"));
  if (!(l->identity = lc_identity(l))) return lc_fail(t->ctx, "train: the options cannot be written as JSON");
  LC_TRY(lc_outdir_claim(l));
  t->resuming = l->from != NULL;
  if (l->from) LC_TRY(lc_checkpoint_state(l));
  plan_phase(l);
  return LC_OK;
}

/* Opens the history at the right place: anew, or at the checkpoint. */
static lc_status open_history(lc_loop *l) {
  lc_training *t = &l->t;
  json_t *was = NULL;
  LC_TRY(lc_history_open(t->ctx, t->out, &t->history));
  LC_TRY(lc_history_identity(t->history, &was));
  lc_status st = LC_OK;
  if (was && (l->io->resume || l->io->resume_from)) st = lc_identity_check(l, was, t->out);
  if (!st && was && l->from) {
    st = lc_history_rewind(t->history, t->step, l->evaluated, t->planned);
    if (!st) st = lc_outdir_drop_after(t->ctx, t->out, t->step);
    l->unlogged = true;
  } else if (!st) {
    st = lc_history_begin(t->history, l->identity, t->method->name, t->net->model->path, l->io->data_path,
                          t->planned);
  }
  json_decref(was);
  if (st) return st;
  char *recipe = lc_path_join(t->ctx, t->out, "recipe.yaml");
  if (!recipe) return LC_FAILED;
  st = lc_recipe_write(t->ctx, recipe, t->net->model->path, l->io->data_path, t->method, t->self, &t->goal,
                       &t->opts);
  lc_free(t->ctx, recipe);
  return st;
}

/* ---- attach, open, restore
 * -------------------------------------------------------------------------------------------- */

static bool of_head(const lc_weight *w, void *arg) {
  return w->head;
}

/* The task's head is trained whole beside what the method trains. */
static lc_status attach_head(lc_training *t) {
  const lc_model *m = t->net->model;
  bool fresh = false;
  if (!lc_task_has_labels(m->config.task)) return LC_OK;
  for (int i = 0; i < m->n; i++) fresh |= m->drawn[i] != NULL;
  if (fresh && t->opts.head == LC_HEAD_FROZEN)
    return lc_usage(t->ctx, "train: the head is new, and --head frozen would leave it as it was drawn");
  if (fresh && t->method->step)
    return lc_fail(t->ctx,
                   "train: %s has no gradients to train a new head with: train one by another method first",
                   t->method->name);
  return t->opts.head == LC_HEAD_FROZEN || t->method->step ? LC_OK
                                                           : lc_net_train_whole(t->net, of_head, NULL);
}

static lc_status attach(lc_loop *l) {
  lc_training *t = &l->t;
  lc_status st = t->method->attach ? t->method->attach(t->self, t) : LC_OK;
  LC_TRY(t->resuming ? lc_in_file(t->ctx, l->from, st)
                     : st); /* what the checkpoint's sizes and positions are */
  if (t->method->calibrate) LC_TRY(t->method->calibrate(t->self, t));
  LC_TRY(attach_head(t));
  lc_free(t->ctx, t->param);
  LC_TRY(lc_net_params(t->net, &t->param, &t->n_param));
  if (t->n_param == 0 && !t->method->step)
    return lc_fail(t->ctx, "train: method %s made nothing trainable", t->method->name);
  return LC_OK;
}

/* The examples of update t->step; their targets are the loss's denominator. */
static void next_examples(lc_loop *l) {
  lc_training *t = &l->t;
  const int64_t step = t->step - t->phase_first, group = lc_data_describe(t->data).group;
  int64_t epoch = step / l->per_epoch, first = step % l->per_epoch / lc_goal_updates(t) * t->opts.batch;
  if (epoch != l->order_epoch)
    lc_data_order(t->data, (uint64_t)t->opts.seed, epoch, t->opts.shuffle, l->order);
  l->order_epoch = epoch;
  l->first_row = first;
  t->n_example = lc_min64(t->opts.batch, l->n_rows - first) * group;
  t->update_targets = 0;
  for (int64_t i = 0; i < t->n_example; i++) {
    t->example[i] = lc_data_get(t->data, l->order[first + i / group] * group + i % group);
    t->update_targets += t->example[i].n_targets;
  }
  t->n_micro = lc_ceil_div(t->n_example, t->opts.micro_batch);
}

/* Has a micro-batch of the update to come all the rows that the plan is made for? Then it is rehearsal
 * enough. */
static bool first_is_full(lc_loop *l, int64_t rows) {
  lc_training *t = &l->t;
  next_examples(l);
  for (int64_t m = 0; m < t->n_micro; m++) {
    int64_t sum = 0, first = m * t->opts.micro_batch;
    for (int64_t i = first; i < lc_min64(first + t->opts.micro_batch, t->n_example); i++)
      sum += t->example[i].n;
    if (sum == rows) return true;
  }
  return false;
}

static lc_status rehearse_pass(lc_loop *l, const lc_example *longest, int64_t n, int64_t rows) {
  lc_training *t = &l->t;
  double sum = 0;
  int64_t targets = 0;
  if (first_is_full(l, rows) || (t->policy && t->policy->rollout))
    return LC_OK; /* what is sampled shows at once */
  LC_TRY(lc_pass(t, longest, n, t->method->step == NULL, 1, &sum, &targets));
  lc_zero_gradients(t->ctx, t->param, t->n_param);
  return LC_OK;
}

static void close_run(lc_loop *l) {
  lc_training *t = &l->t;
  lc_goal_close(l);
  lc_stage_close(&l->stage);
  t->plan = NULL;
  t->run = NULL;
  lc_free(t->ctx, t->example);
  lc_free(t->ctx, l->order);
  lc_free(t->ctx, l->eval_batch);
  t->example = l->eval_batch = NULL;
  l->order = NULL;
}

static lc_status open_run(lc_loop *l) {
  lc_training *t = &l->t;
  const int64_t sequences = lc_goal_sequences(t);
  int64_t rows, eval_rows = 0, micro = lc_min64(t->opts.micro_batch, l->n_rows * sequences),
                copies = lc_max64(1, t->copies), segments = lc_max64(micro * copies, EVAL_SEGMENTS);
  l->order_epoch = -1;
  l->order = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)l->n_rows, sizeof *l->order);
  t->example = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)(t->opts.batch * sequences), sizeof *t->example);
  l->eval_batch = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)segments, sizeof *l->eval_batch);
  if (!l->order || !t->example || !l->eval_batch) return LC_FAILED;
  LC_TRY(lc_goal_longest(t, micro, l->eval_batch, &rows));
  if (t->eval_data)
    LC_TRY(lc_longest(t->ctx, t->eval_data, lc_max64(1, t->goal.row->together), NULL, &eval_rows));
  lc_stage_opts o = {.rows = lc_max64(rows * copies, eval_rows),
                     .segments = segments,
                     .training = t->method->step == NULL,
                     .recompute = t->opts.recompute};
  o.objective = lc_goal_head(t, &o.self);
  LC_TRY(lc_stage_open(t->net, &o, &l->stage));
  t->graph = l->stage.graph;
  t->plan = l->stage.plan;
  t->run = l->stage.run;
  l->plan_bytes = lc_plan_bytes(t->plan);
  t->segment = l->stage.segment;
  t->max_segments = segments;
  for (int i = 0; i < t->n_param && !t->method->step; i++)
    LC_TRY(t->optim->prepare(t->ctx, t->param[i], &t->hyper));
  LC_TRY(lc_goal_open(l));
  return rehearse_pass(l, l->eval_batch, micro, rows);
}

static lc_status begin(lc_loop *l) {
  lc_training *t = &l->t;
  LC_TRY(lc_mkdirs(t->ctx, t->out));
  LC_TRY(open_history(l));
  LC_TRY(attach(l));
  LC_TRY(lc_tell_start(l));
  if (!l->from) LC_TRY(lc_sample_text(l)); /* before the plan's arena is there */
  LC_TRY(open_run(l));
  if (l->from) LC_TRY(lc_checkpoint_arrays(l));
  return t->opts.save_every || (t->opts.eval_every && t->eval_data) ? lc_checkpoint_rehearse(l) : LC_OK;
}

/* ---- an update
 * ---------------------------------------------------------------------------------------------------------
 */

static lc_status forward_backward(lc_loop *l) {
  lc_training *t = &l->t;
  double sum = 0;
  int64_t targets = 0;
  for (t->micro = 0; t->micro < t->n_micro; t->micro++) {
    int64_t first = t->micro * t->opts.micro_batch, n = lc_min64(t->opts.micro_batch, t->n_example - first);
    LC_TRY(lc_pass(t, t->example + first, n, true, (float)(1.0 / (double)t->update_targets), &sum, &targets));
    if (t->method->after_micro) LC_TRY(t->method->after_micro(t->self, t));
  }
  if (targets != t->update_targets)
    return lc_fail(t->ctx, "step %lld: %lld targets, the rows promised %lld", (long long)t->step + 1,
                   (long long)targets, (long long)t->update_targets);
  t->loss = sum / (double)targets;
  return LC_OK;
}

static lc_status optimise(lc_loop *l) {
  lc_training *t = &l->t;
  if (t->method->after_backward) LC_TRY(t->method->after_backward(t->self, t));
  LC_TRY(lc_clip_gradients(t->ctx, t->param, t->n_param, t->opts.clip, &t->grad_norm));
  if (!isfinite(t->grad_norm)) {
    const char *name = lc_bad_gradient(t);
    return lc_fail(t->ctx, "step %lld: the gradient of '%s' is not finite; the last checkpoint stands",
                   (long long)t->step + 1, name ? name : "all trainables together");
  }
  for (int i = 0; i < t->n_param; i++)
    if (t->param[i]->wants_grad) LC_TRY(t->optim->update(t->ctx, t->param[i], &t->hyper));
  return LC_OK;
}

static lc_status update(lc_loop *l) {
  lc_training *t = &l->t;
  next_examples(l);
  t->micro = 0;
  t->auxiliary = 0;
  t->lr = t->hyper.lr = t->opts.lr * lc_schedule_at(&t->schedule, t->step - t->phase_first);
  lc_zero_gradients(t->ctx, t->param, t->n_param);
  if (t->method->before_step) LC_TRY(t->method->before_step(t->self, t));
  t->hyper.step = t->step - t->optimizer_first;
  LC_TRY(lc_goal_prepare(l));
  if (t->method->step) {
    LC_TRY(t->method->step(t->self, t));
  } else {
    LC_TRY(forward_backward(l));
    LC_TRY(optimise(l));
  }
  if (t->method->after_step) LC_TRY(t->method->after_step(t->self, t));
  for (int64_t i = 0; i < t->n_example; i++) t->tokens += t->example[i].n;
  t->step++;
  l->evaluated = false;
  return LC_OK;
}

/* ---- checkpoints, stopping
 * ---------------------------------------------------------------------------------------------- */

/* A checkpoint that the run goes on from was written, but its line went with the rewinding: it comes back if
 * it was due. */
static lc_status save(lc_loop *l, bool due) {
  lc_training *t = &l->t;
  char *path = NULL;
  if (l->saved_step == t->step) {
    bool again = due && l->unlogged;
    l->unlogged = false;
    return again ? lc_tell_checkpoint(l, l->from, true) : LC_OK;
  }
  lc_status st = lc_checkpoint_save(l, &path);
  if (!st) st = lc_tell_checkpoint(l, path, due);
  lc_mem_keep(t->ctx, true);
  lc_free(t->ctx, path);
  lc_mem_keep(t->ctx, false);
  return st;
}

static bool save_due(const lc_loop *l) {
  const lc_training *t = &l->t;
  if (t->opts.keep == 0) return false;
  return t->step == t->last || (t->opts.save_every && t->step % t->opts.save_every == 0);
}

/* Saves and says so. */
static lc_status stop(lc_loop *l) {
  LC_TRY(save(l, false));
  LC_TRY(lc_history_flush(l->t.history));
  return LC_STOPPED;
}

/* What follows an update: the evaluation and the checkpoint that are due. */
static lc_status after_update(lc_loop *l) {
  lc_status st = lc_evaluate(l);
  if (st == LC_STOPPED) return stop(l);
  LC_TRY(st);
  return l->t.step > 0 && save_due(l) ? save(l, true) : LC_OK;
}

/* Phase t->phase is over: what it trained makes room for the next one's. */
static lc_status next_phase(lc_loop *l) {
  lc_training *t = &l->t;
  close_run(l);
  if (t->method->end_phase) LC_TRY(t->method->end_phase(t->self, t));
  lc_free(t->ctx, t->param);
  t->param = NULL;
  t->n_param = 0;
  if (t->adapter) LC_TRY(lc_adapter_remove(t->adapter));
  t->adapter = NULL;
  LC_TRY(lc_net_release_whole(t->net));
  t->resuming = false;
  t->phase++;
  t->phase_first = t->optimizer_first = t->step;
  plan_phase(l);
  LC_TRY(attach(l));
  LC_TRY(open_run(l));
  LC_TRY(lc_tell_phase(l));
  return t->opts.save_every || (t->opts.eval_every && t->eval_data) ? lc_checkpoint_rehearse(l) : LC_OK;
}

static lc_status updates(lc_loop *l) {
  lc_training *t = &l->t;
  bool first = true;
  LC_TRY(after_update(l)); /* of step 0, or what was still due when the checkpoint was written */
  while (t->step < t->last) {
    if (lc_stop_requested(t->ctx)) return stop(l);
    if (t->step >= t->phase_first + t->phase_length[t->phase]) {
      LC_TRY(next_phase(l));
      first = true;
    }
    double began = lc_now();
    lc_status st = update(l);
    if (st == LC_STOPPED) return stop(l);
    LC_TRY(st);
    LC_TRY(lc_tell_step(l, began));
    if (first) LC_TRY(lc_scratch_level(t->ctx));
    first = false;
    LC_TRY(after_update(l));
  }
  return LC_OK;
}

/* ---- finish
 * ---------------------------------------------------------------------------------------------------------------
 */

static lc_status write_tensor(void *arg, const lc_tensor_row *row) {
  return lc_history_tensor(arg, row);
}

static lc_status finish(lc_loop *l) {
  lc_training *t = &l->t;
  LC_TRY(lc_finite_result(t));
  if (t->method->finish) LC_TRY(t->method->finish(t->self, t));
  lc_goal_close(l);
  lc_stage_close(&l->stage);
  t->plan = NULL;
  t->run = NULL;
  LC_TRY(lc_sample_text(l)); /* in the memory that the arena left */
  if (t->method->save) LC_TRY(t->method->save(t->self, t, t->out));
  if (t->tok) LC_TRY(lc_tokenizer_write_dir(t->tok, t->out));
  if (!t->tok && t->net->model->config.image)
    LC_TRY(lc_tokenizer_copy_dir(t->ctx, t->net->model->path, t->out));
  LC_TRY(lc_placement(t->net, write_tensor, t->history));
  json_t *e = lc_run_summary(l);
  if (e && t->method->report && t->method->report(t->self, t, e)) {
    json_decref(e);
    return LC_FAILED;
  }
  lc_status st = lc_history_done(t->history, e);
  if (!st) st = lc_tell(l, "done", json_incref(e), true);
  json_decref(e);
  return st ? st : lc_history_flush(t->history);
}

static void tear_down(lc_loop *l) {
  lc_training *t = &l->t;
  close_run(l);
  if (t->method->release) t->method->release(t->self, t->ctx);
  lc_history_close(t->history);
  lc_free(t->ctx, t->param);
  lc_safetensors_close(t->ctx, &l->stored);
  lc_free(t->ctx, l->from);
  json_decref(l->identity);
  json_decref(l->restored);
  lc_options_clear(t->ctx, lc_train_options, &t->opts);
  lc_mem_drop(t->ctx);
  lc_free(t->ctx, l);
}

lc_status lc_train(lc_net *net, const lc_tokenizer *tok, const lc_dataset *data, const lc_dataset *eval,
                   const lc_method *method, void *self, const lc_train_opts *opts, const lc_train_io *io) {
  lc_loop *l = lc_alloc(net->ctx, LC_MEM_OTHER, sizeof *l);
  if (!l) return LC_FAILED;
  l->t = (lc_training){.ctx = net->ctx,
                       .net = net,
                       .tok = tok,
                       .method = method,
                       .self = self,
                       .goal = io->goal,
                       .data = data,
                       .eval_data = eval,
                       .out = io->out,
                       .event = io->event,
                       .event_arg = io->event_arg};
  l->stage.ctx = net->ctx;
  l->io = io;
  l->order_epoch = l->saved_step = l->best_step = -1;
  l->started = lc_now();
  lc_status st = set_up(l, opts);
  bool undo = false;
  if (!st) {
    st = begin(l);
    undo = st && st != LC_STOPPED && !io->resume && !io->resume_from;
  }
  if (!st) st = updates(l);
  if (!st) st = finish(l);
  const bool made = l->made_out;
  tear_down(l);
  if (undo) lc_outdir_unclaim(net->ctx, io->out, made); /* the corrected command finds OUT as this one did */
  return st;
}
