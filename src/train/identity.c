/* What a resume must find unchanged: method and its options, data, model, seed and everything else that the
 * bits of the run depend on, as JSON. It is stored in the history when a run begins and in every checkpoint,
 * and compared by name. Steps, evaluation, saving, recomputation and threads are free: they do not change the
 * bits of an update (the number of steps changes the schedule, knowingly). */
#include "train/internal.h"
#include "kernels/kernels.h"
#include <inttypes.h>
#include <string.h>

/* Options of a run that may change between a checkpoint and its resume. */
static const char *const may_change[] = {
    "steps",      "epochs",     "stop-after", "recompute", "skip-bad",      "eval-data",    "eval-every",
    "eval-limit", "save-every", "keep",       "base-name", "sample-prompt", "sample-tokens"};

static bool is_free(const char *name) {
  for (size_t i = 0; i < sizeof may_change / sizeof *may_change; i++)
    if (strcmp(may_change[i], name) == 0) return true;
  return false;
}

static json_t *table_values(lc_ctx *ctx, const lc_option *table, const void *self, bool all) {
  json_t *o = json_object();
  for (const lc_option *row = table; row && row->name; row++) {
    if (!all && is_free(row->name)) continue;
    char *text = lc_options_get(ctx, row, self);
    const bool kept = text && !json_object_set_new(o, row->name, json_string(text));
    lc_free(ctx, text);
    if (kept) continue;
    json_decref(o);
    return NULL; /* an option that is left out would not be compared */
  }
  return o;
}

json_t *lc_identity(const lc_loop *l) {
  const lc_training *t = &l->t;
  lc_data_info d = lc_data_describe(t->data);
  char print[24];
  snprintf(print, sizeof print, "%016" PRIx64, t->net->model->fingerprint);
  json_t *options = table_values(t->ctx, lc_train_options, &t->opts, false);
  json_t *own = table_values(t->ctx, t->method->options, t->self, true),
         *goal = table_values(t->ctx, t->goal.row->options, t->goal.self, true);
  return json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I}, s:s}", "version", 1, "method",
                   t->method->name, "objective", t->goal.row->name, "options", options, "method_options", own,
                   "objective_options", goal, "data", "checksum", (json_int_t)d.checksum, "rows",
                   (json_int_t)d.rows, "tokens", (json_int_t)d.tokens, "targets", (json_int_t)d.targets,
                   "model", print);
}

/* The sentence for the first value that differs between two objects; LC_OK when none does. An option that the
 * program did not have then had its default. */
static lc_status same_values(lc_ctx *ctx, const lc_option *table, const char *where, const char *what,
                             json_t *was, json_t *now) {
  const char *key;
  json_t *value;
  json_object_foreach(now, key, value) {
    const char *is = json_string_value(value), *old = json_string_value(json_object_get(was, key));
    if (!old) old = lc_options_find(table, key)->def;
    if (!old) old = "";
    if (strcmp(is, old))
      return lc_fail(ctx, "%s: %s '%s' was '%s' and is '%s' now; a resumed run keeps it", where, what, key,
                     old, is);
  }
  return LC_OK;
}

lc_status lc_identity_check(lc_loop *l, const json_t *was, const char *where) {
  lc_ctx *ctx = l->t.ctx;
  const char *method = json_string_value(json_object_get(was, "method")),
             *model = json_string_value(json_object_get(was, "model")),
             *objective = json_string_value(json_object_get(was, "objective"));
  if (!objective) objective = lc_objective_sft.name; /* of a program that knew no other */
  const json_t *now = l->identity;
  if (!method || strcmp(method, l->t.method->name))
    return lc_fail(ctx, "%s: the method was '%s' and is '%s' now; a resumed run keeps it", where,
                   method ? method : "?", l->t.method->name);
  if (strcmp(objective, l->t.goal.row->name))
    return lc_fail(ctx, "%s: the objective was '%s' and is '%s' now; a resumed run keeps it", where,
                   objective, l->t.goal.row->name);
  if (!model || strcmp(model, json_string_value(json_object_get(now, "model"))))
    return lc_fail(ctx, "%s: the model is not the one that the run began with (fingerprint %s, now %s)",
                   where, model ? model : "?", json_string_value(json_object_get(now, "model")));
  json_t *data = json_object_get(was, "data"), *data_now = json_object_get(now, "data");
  if (!json_equal(data, data_now))
    return lc_fail(ctx,
                   "%s: the data changed: it was %" JSON_INTEGER_FORMAT " rows with %" JSON_INTEGER_FORMAT
                   " tokens and is %" JSON_INTEGER_FORMAT " rows with %" JSON_INTEGER_FORMAT
                   " tokens now (or the same number of others)",
                   where, json_integer_value(json_object_get(data, "rows")),
                   json_integer_value(json_object_get(data, "tokens")),
                   json_integer_value(json_object_get(data_now, "rows")),
                   json_integer_value(json_object_get(data_now, "tokens")));
  LC_TRY(same_values(ctx, lc_train_options, where, "option", json_object_get(was, "options"),
                     json_object_get(now, "options")));
  LC_TRY(same_values(ctx, l->t.method->options, where, "the method's option",
                     json_object_get(was, "method_options"), json_object_get(now, "method_options")));
  return same_values(ctx, l->t.goal.row->options, where, "the objective's option",
                     json_object_get(was, "objective_options"), json_object_get(now, "objective_options"));
}

json_t *lc_numerics(const lc_loop *l) {
  const lc_training *t = &l->t;
  const lc_config *c = &t->net->model->config;
  lc_gemm_shape shape = {
      .dtype = t->net->compute, .m = t->opts.micro_batch * t->opts.seq, .n = c->C, .k = c->C};
  return json_pack("{s:s, s:s, s:s, s:s, s:s}", "isa", lc_isa_name(lc_isa_of(t->ctx)), "gemm",
                   lc_gemm_provider(t->ctx, &shape), "compute", lc_dtype_get(t->net->compute)->name,
                   "version", LC_VERSION, "compiler", __VERSION__);
}
