/* Evaluation inside a run, and samples.
 *
 * An evaluation uses the run's own plan (forward only, no dropout): no second arena. Examples are taken in
 * order, as many at a time as the plan has rows for; an example's loss does not depend on its neighbours. */
#include "train/internal.h"
#include <float.h>
#include <math.h>
#include <string.h>
#include <utf8proc.h>

/* Examples from `from` on that fit a pass: at least one, for the plan holds the longest. */
static int64_t fill_batch(lc_loop *l, int64_t from, int64_t end) {
  lc_training *t = &l->t;
  int64_t rows = 0, n = 0;
  while (from + n < end && n < t->max_segments) {
    lc_example e = lc_data_get(t->eval_data, from + n);
    if (n && rows + e.n > lc_plan_rows(t->plan)) break;
    l->eval_batch[n++] = e;
    rows += e.n;
  }
  return n - n % lc_max64(1, t->goal.row->together);
}

/* seen: a classifier's answers are counted; or NULL. */
static lc_status mean_loss(lc_loop *l, double *loss, int64_t *targets, lc_confusion *seen) {
  lc_training *t = &l->t;
  const int64_t group = lc_data_describe(t->eval_data).group;
  int64_t end = lc_data_count(t->eval_data);
  double sum = 0;
  if (t->opts.eval_limit) end = lc_min64(end, t->opts.eval_limit * group);
  *targets = 0;
  if (t->policy) memset(t->policy->tally, 0, sizeof t->policy->tally);
  for (int64_t i = 0; i < end;) {
    int64_t n = fill_batch(l, i, end);
    lc_status st = t->policy ? lc_goal_batch(l, l->eval_batch, n, end / group, &sum, targets)
                             : lc_pass(t, l->eval_batch, n, false, 1, &sum, targets);
    if (!st && seen) st = lc_confusion_pass(seen, t->run, &t->graph);
    if (st)
      return lc_fail(t->ctx, "evaluation after step %lld, rows from %lld: %s", (long long)t->step,
                     (long long)i + 1, lc_error(t->ctx));
    i += n;
    if (lc_stop_requested(t->ctx)) return LC_STOPPED;
  }
  if (*targets == 0) return lc_fail(t->ctx, "evaluation: the data has no targets");
  *loss = t->policy ? sum : sum / (double)*targets;
  return LC_OK;
}

static bool due(const lc_loop *l) {
  const lc_training *t = &l->t;
  if (!t->eval_data) return false;
  return t->step == 0 || t->step == t->last || (t->opts.eval_every && t->step % t->opts.eval_every == 0);
}

/* What is minimised is −reward. */
static lc_status mean_reward(lc_loop *l, double *loss, int64_t *targets, json_t *told) {
  lc_training *t = &l->t;
  double reward = 0;
  LC_TRY(lc_rollout_evaluate(t->policy->rollout, t, t->eval_data, t->opts.eval_limit, &reward, targets));
  *loss = -reward;
  json_object_set_new(told, "reward", json_real(reward));
  return LC_OK;
}

/* The loss and, of a classifier, how often it is right. */
static lc_status losses(lc_loop *l, double *loss, int64_t *targets, json_t *told) {
  lc_training *t = &l->t;
  lc_confusion seen;
  if (t->policy || !lc_task_has_labels(t->net->model->config.task)) return mean_loss(l, loss, targets, NULL);
  LC_TRY(lc_confusion_new(t->net, &seen));
  lc_status st = mean_loss(l, loss, targets, &seen);
  if (!st) json_object_set_new(told, "accuracy", json_real(lc_confusion_accuracy(&seen)));
  lc_confusion_free(&seen);
  return st;
}

/* History, the best so far, the event. */
static lc_status record(lc_loop *l, double loss, double perplexity, int64_t targets, double began,
                        json_t *told) {
  lc_training *t = &l->t;
  LC_TRY(lc_history_eval(t->history, t->step, loss, perplexity, targets, lc_now() - began));
  l->evaluated = true;
  bool best =
      t->step > t->phase_first && t->phase + 1 == t->n_phases && (l->best_step < 0 || loss < l->best_loss);
  if (best) {
    l->best_step = t->step;
    l->best_loss = loss;
    LC_TRY(lc_checkpoint_best(l));
  }
  json_t *e = json_pack("{s:I, s:f, s:I, s:b}", "step", (json_int_t)t->step, "loss", loss, "targets",
                        (json_int_t)targets, "best", best);
  if (e && !isnan(perplexity)) json_object_set_new(e, "perplexity", json_real(perplexity));
  if (e) json_object_update(e, told);
  return lc_tell(l, "eval", e, true);
}

lc_status lc_evaluate(lc_loop *l) {
  lc_training *t = &l->t;
  double loss = 0, began = lc_now();
  int64_t targets = 0;
  if (l->evaluated || !due(l)) return LC_OK;
  json_t *told = json_object();
  lc_status st = t->policy && t->policy->rollout ? mean_reward(l, &loss, &targets, told)
                                                 : losses(l, &loss, &targets, told);
  if (!st && t->policy && !t->policy->rollout && t->goal.row->tell)
    t->goal.row->tell(t->goal.self, t->policy, told);
  if (st) {
    json_decref(told);
    return st;
  }
  /* JSON knows no infinity; only next-token loss has a perplexity */
  const double perplexity = t->policy ? NAN : fmin(exp(loss), DBL_MAX);
  st = record(l, loss, perplexity, targets, began, told);
  json_decref(told);
  return st;
}

/* ---- samples: the same prompt before and after, greedily
 * ---------------------------------------------------------- */

static int stop_generating(void *arg, const char *text, size_t n) {
  return lc_stop_requested(arg);
}

static lc_status generate(lc_loop *l, lc_ids *prompt, lc_ids *made) {
  lc_training *t = &l->t;
  lc_session *s = NULL;
  lc_gen_stats stats;
  lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
  o.temp = 0;
  o.max_tokens = t->opts.sample_tokens;
  int64_t room = prompt->n + t->opts.sample_tokens, context = t->net->model->config.context;
  if (prompt->n + 1 > context)
    return lc_usage(t->ctx, "sample-prompt: %lld tokens, the model has %lld positions", (long long)prompt->n,
                    (long long)context);
  LC_TRY(lc_session_new(t->net, lc_min64(room, context), lc_min64(prompt->n, 512), LC_F32, &s));
  lc_status st = lc_generate_ids(s, t->tok, prompt->id, prompt->n, &o, stop_generating, t->ctx, made, &stats);
  lc_session_free(s);
  return st;
}

/* A model may write half a character; history and JSON hold text, so bytes that are none become '?'. */
void lc_mend_utf8(char *text, size_t n) {
  for (size_t i = 0; i < n;) {
    utf8proc_int32_t c;
    utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
    if (k > 0 && c != 0) {
      i += (size_t)k;
    } else {
      text[i++] = '?';
    }
  }
}

lc_status lc_sample_text(lc_loop *l) {
  lc_training *t = &l->t;
  const char *prompt = t->opts.sample_prompt;
  lc_ids ids = {0}, made = {0};
  lc_bytes text = {0};
  lc_status st = LC_OK;
  if (!prompt || !*prompt || !t->tok) return LC_OK;
  LC_GO(lc_tokenize(t->tok, prompt, strlen(prompt), true, &ids));
  LC_GO(generate(l, &ids, &made));
  LC_GO(lc_detokenize(t->tok, made.id, made.n, true, &text));
  LC_GO(lc_bytes_add(t->ctx, &text, "", 0));
  lc_mend_utf8(text.data, text.n);
  LC_GO(lc_history_sample(t->history, t->step, prompt, text.data));
  st = lc_tell(l, "sample",
               json_pack("{s:I, s:s, s:s}", "step", (json_int_t)t->step, "prompt", prompt, "text", text.data),
               true);
done:
  lc_ids_free(t->ctx, &ids);
  lc_ids_free(t->ctx, &made);
  lc_free(t->ctx, text.data);
  return st;
}
