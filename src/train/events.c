/* What a run tells: a line of log.jsonl and a call of the caller's function an event, and a step's row in the history.
 * "eval" and "sample" are told where they are made (evaluate.c). The kinds are in include/lacuna.h. */
#include "train/internal.h"
#include <math.h>

lc_status lc_tell(lc_loop *l, const char *kind, json_t *event, bool logged) {
  lc_ctx *ctx = l->t.ctx;
  if (!event) return lc_fail(ctx, "event '%s': a value that JSON cannot hold, or no memory", kind);
  json_t *line = json_pack("{s:s}", "event", kind); /* the kind comes first in the line */
  if (!line || json_object_update(line, event)) {
    json_decref(line);
    json_decref(event);
    return lc_fail(ctx, "event '%s': no memory", kind);
  }
  lc_status st = logged ? lc_history_log(l->t.history, line) : LC_OK;
  if (!st && l->io->event && l->io->event(l->io->event_arg, kind, line)) lc_request_stop(ctx, -1);
  json_decref(line);
  json_decref(event);
  return st;
}

static int64_t trainable(const lc_training *t) {
  int64_t n = 0;
  for (int i = 0; i < t->n_param; i++) n += t->param[i]->wants_grad ? t->param[i]->n : 0;
  return n;
}

lc_status lc_tell_start(lc_loop *l) {
  lc_training *t = &l->t;
  lc_data_info d = lc_data_describe(t->data);
  int64_t n = trainable(t), all = lc_model_parameters(t->net->model);
  json_t *e = json_pack(
      "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:s, s:I, s:s, s:i, s:s, s:I, s:I, s:f, s:I, s:I}",
      "method", t->method->name, "model", t->net->model->path, "output", t->out, "step", (json_int_t)t->step,
      "steps", (json_int_t)t->planned, "batch", (json_int_t)t->opts.batch, "micro_batch",
      (json_int_t)t->opts.micro_batch, "seq", (json_int_t)t->opts.seq, "optimizer", t->optim->name, "lr",
      t->opts.lr, "schedule",
      t->opts.schedule == LC_SCHEDULE_COSINE   ? "cosine"
      : t->opts.schedule == LC_SCHEDULE_LINEAR ? "linear"
                                               : "constant",
      "warmup_steps", (json_int_t)t->schedule.warmup, "dtype", t->opts.dtype, "threads", lc_threads(t->ctx),
      "isa", lc_isa_name(lc_isa_of(t->ctx)), "trainable", (json_int_t)n, "parameters", (json_int_t)all,
      "share", (double)n / (double)all, "rows", (json_int_t)d.rows, "tokens", (json_int_t)d.tokens);
  if (e && lc_policy_is(t)) json_object_set_new(e, "objective", json_string(t->goal.row->name));
  if (e && l->from) json_object_set_new(e, "resumed", json_string(l->from));
  if (e && d.template_name) json_object_set_new(e, "template", json_string(d.template_name));
  if (e && t->last < t->planned) json_object_set_new(e, "stop_after", json_integer((json_int_t)t->last));
  return lc_tell(l, "start", e, l->from == NULL);
}

lc_status lc_tell_phase(lc_loop *l) {
  const lc_training *t = &l->t;
  return lc_tell(l, "phase",
                 json_pack("{s:I, s:i, s:i, s:I, s:I}", "step", (json_int_t)t->step, "phase", t->phase + 1,
                           "phases", t->n_phases, "steps", (json_int_t)t->phase_length[t->phase], "trainable",
                           (json_int_t)trainable(t)),
                 true);
}

lc_status lc_tell_step(lc_loop *l, double began) {
  lc_training *t = &l->t;
  int64_t tokens = 0;
  for (int64_t i = 0; i < t->n_example; i++) tokens += t->example[i].n;
  double now = lc_now();
  lc_step_row r = {.step = t->step,
                   .tokens = t->tokens,
                   .targets = t->update_targets,
                   .loss = t->loss,
                   .lr = t->lr,
                   .grad_norm = t->grad_norm,
                   .tokens_per_s = (double)tokens / fmax(now - began, 1e-9),
                   .rss_mib = (double)lc_rss_bytes() / 1048576.0,
                   .seconds = l->seconds_before + now - l->started};
  LC_TRY(lc_history_step(t->history, &r));
  json_t *e = json_pack("{s:I, s:f, s:f, s:f, s:I, s:f, s:f}", "step", (json_int_t)r.step, "loss", r.loss,
                        "lr", r.lr, "grad_norm", r.grad_norm, "tokens", (json_int_t)r.tokens, "tokens_per_s",
                        r.tokens_per_s, "rss_mib", r.rss_mib);
  lc_goal_tell(l, e);
  if (e && t->graph.auxiliary) json_object_set_new(e, "auxiliary", json_real(t->auxiliary));
  return lc_tell(l, "step", e, true);
}

lc_status lc_tell_checkpoint(lc_loop *l, const char *path, bool due) {
  return lc_tell(l, "checkpoint", json_pack("{s:I, s:s}", "step", (json_int_t)l->t.step, "path", path), due);
}

json_t *lc_run_summary(const lc_loop *l) {
  const lc_training *t = &l->t;
  double seconds = l->seconds_before + lc_now() - l->started;
  int64_t bytes = 0;
  for (int i = 0; i < t->n_param; i++) bytes += (int64_t)lc_param_bytes(t->param[i]);
  json_t *e = json_pack(
      "{s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:s}", "step", (json_int_t)t->step,
      "steps", (json_int_t)t->step, "loss", t->loss, "seconds", seconds, "tokens", (json_int_t)t->tokens,
      "tokens_per_s", (double)t->tokens / fmax(seconds, 1e-9), "peak_rss_mib",
      (double)lc_peak_rss_bytes() / 1048576.0, "trainable", (json_int_t)trainable(t), "state_bytes",
      (json_int_t)bytes, "gradient_bytes", (json_int_t)lc_mem_bytes(t->ctx, LC_MEM_GRAD), "candidate_bytes",
      (json_int_t)lc_mem_bytes(t->ctx, LC_MEM_CANDIDATE), "plan_bytes", (json_int_t)l->plan_bytes, "output",
      t->out);
  json_t *machine = json_pack("{s:s, s:s, s:i, s:s, s:I}", "cpu", lc_cpu_name(), "isa",
                              lc_isa_name(lc_isa_of(t->ctx)), "threads", lc_threads(t->ctx), "dtype",
                              t->opts.dtype, "parameters", (json_int_t)lc_model_parameters(t->net->model));
  if (e && machine) json_object_update(e, machine); /* a report needs to know where it ran */
  json_decref(machine);
  if (e && l->best_step >= 0)
    json_object_set_new(e, "best",
                        json_pack("{s:I, s:f}", "step", (json_int_t)l->best_step, "loss", l->best_loss));
  return e;
}
