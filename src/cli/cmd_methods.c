/* lacuna methods [NAME], lacuna objectives [NAME]: the tables; one row with its options. With -m MODEL: what each method
 * would hold and do there. */
#include "cli/bench.h"
#include "cli/cli.h"
#include <string.h>

typedef struct {
  int unused;
} none_t;
typedef struct {
  char *model, *density, *targets, *set, *steps, *batch, *seq, *optimizer;
} self_t;

/* All but model and set are train's, and checked there. */
static const lc_option model_options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "say what each method (or NAME) trains, holds and computes on this model"},
    {"density", LC_OPT_STRING, offsetof(self_t, density), NULL, 0, 0, NULL, "D", "as train's"},
    {"targets", LC_OPT_STRING, offsetof(self_t, targets), NULL, 0, 0, NULL, "RULE", "as train's"},
    {"set", LC_OPT_STRING, offsetof(self_t, set), NULL, 0, 0, NULL, "KEY=VALUE",
     "an option of the method NAME (repeatable)"},
    {"steps", LC_OPT_STRING, offsetof(self_t, steps), NULL, 0, 0, NULL, "N", "as train's; 1000 unless told"},
    {"batch", LC_OPT_STRING, offsetof(self_t, batch), NULL, 0, 0, NULL, "N", "as train's"},
    {"seq", LC_OPT_STRING, offsetof(self_t, seq), NULL, 0, 0, NULL, "N", "as train's"},
    {"optimizer", LC_OPT_STRING, offsetof(self_t, optimizer), NULL, 0, 0, NULL, "NAME", "as train's"},
    {0}};

static const char *const type_names[] = {"bool", "int", "float", "string", "choice"};

static json_t *describe_options(const lc_option *table) {
  json_t *options = json_array();
  for (const lc_option *o = table; o && o->name; o++) {
    json_t *row = json_pack("{s:s, s:s, s:s}", "name", o->name, "type", type_names[o->type], "help", o->help);
    if (o->def) json_object_set_new(row, "default", json_string(o->def));
    if (o->choices) json_object_set_new(row, "choices", json_string(o->choices));
    if (o->min != 0 || o->max != 0) json_object_set_new(row, "range", json_pack("[f,f]", o->min, o->max));
    json_array_append_new(options, row);
  }
  return options;
}

static json_t *describe(const lc_method *m) {
  return json_pack("{s:s, s:s, s:s, s:s, s:f, s:s, s:b, s:o}", "name", m->name, "title", m->title, "source",
                   m->source, "about", m->about ? m->about : "", "lr", m->lr, "optimizer", m->optimizer,
                   "mergeable", m->mergeable, "options", describe_options(m->options));
}

static void print_options(const lc_option *table) {
  for (const lc_option *o = table; o && o->name; o++) {
    printf("  %-16s %-28s %s", o->name, o->choices ? o->choices : type_names[o->type], o->help);
    if (o->def && o->def[0]) printf(" [%s]", o->def);
    putchar('\n');
  }
}

static void print_method(const lc_method *m) {
  printf("%s\n%s\n\n%s\n\nlearning rate %g, optimizer %s, %s\n\noptions (--set key=value):\n", m->title,
         m->source, m->about ? m->about : "", m->lr, m->optimizer,
         m->mergeable ? "merges into the weights" : "does not merge");
  print_options(m->options);
}

/* ---- on a model ---- */

/* One method on a net of its own. A refusal is an answer too. */
static lc_status cost_of(lc_cli *cli, const lc_model *model, const lc_method *m, lc_method_cost *c) {
  lc_net *net = NULL;
  lc_train_opts o = {0};
  lc_status st = LC_OK;
  void *self = lc_alloc(cli->ctx, LC_MEM_OTHER, m->self_size ? m->self_size : 1);
  if (!self) return LC_FAILED;
  LC_GO(lc_options_init(cli->ctx, m->options, self));
  LC_GO(lc_options_init(cli->ctx, lc_train_options, &o));
  LC_GO(lc_cli_set_pairs(cli, m, self));
  for (int i = 0; i < cli->n_flag; i++)
    if (lc_options_find(lc_train_options, cli->flag[i].key))
      LC_GO(lc_options_set(cli->ctx, lc_train_options, "train", &o, cli->flag[i].key, cli->flag[i].value));
  o.seed = cli->common.seed;
  LC_GO(lc_net_new(model, LC_F32, &net));
  st = lc_cost(net, m, self, &o, c);
done:
  lc_net_free(net);
  lc_options_clear(cli->ctx, m->options, self);
  lc_options_clear(cli->ctx, lc_train_options, &o);
  lc_free(cli->ctx, self);
  return st;
}

static void tell_cost(const lc_cli *cli, const lc_method *m, const lc_method_cost *c, const char *refused,
                      json_t *all) {
  if (cli->common.json && refused)
    json_array_append_new(all, json_pack("{s:s, s:s}", "name", m->name, "refused", refused));
  else if (cli->common.json)
    json_array_append_new(
        all, json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:f, s:i, s:b, s:b}", "name", m->name, "trainable",
                       (json_int_t)c->trainable, "state_bytes", (json_int_t)c->state_bytes, "gradient_bytes",
                       (json_int_t)c->gradient_bytes, "candidate_bytes", (json_int_t)c->candidate_bytes,
                       "optimizer", c->optimizer, "step", c->step, "phases", c->phases, "mergeable",
                       m->mergeable, "estimate", c->estimate));
  else if (refused)
    printf("%-14s %s\n", m->name, refused);
  else
    printf("%-14s %12lld %11.3f %11.3f %11.3f %6.2f  %s%s\n", m->name, (long long)c->trainable,
           (double)c->state_bytes / 1e6, (double)c->gradient_bytes / 1e6, (double)c->candidate_bytes / 1e6,
           c->step, m->mergeable ? "merges" : "does not merge",
           c->estimate ? "; state: an estimate, it grows by what leaves the mask" : "");
  fflush(stdout);
}

/* Of all methods, those that the model or the options do not suit say why. */
static lc_status costs(lc_cli *cli, const char *path, const lc_method *one) {
  lc_model *model;
  lc_method_cost c;
  lc_status st = LC_OK;
  if (!one && lc_cli_given(cli, "set")) return lc_usage(cli->ctx, "--set is of one method: name it");
  LC_TRY(lc_model_open(cli->ctx, path, &model));
  json_t *all = json_array();
  if (!cli->common.json)
    printf("%-14s %12s %11s %11s %11s %6s  %s\n", "method", "values", "state MB", "gradient MB", "growth MB",
           "step", "result");
  for (int i = 0; i < lc_n_methods; i++) {
    const lc_method *m = one ? one : lc_methods[i];
    st = cost_of(cli, model, m, &c);
    if (st && (one || st != LC_USAGE)) goto done;
    tell_cost(cli, m, &c, st ? lc_error(cli->ctx) : NULL, all);
    st = LC_OK;
    if (one) break;
  }
  if (cli->common.json)
    lc_cli_print_json(json_pack("{s:O}", "costs", all));
  else
    printf("\nBytes are counted when the first update of a method's largest phase begins. step: products of "
           "an update by "
           "formula,\n1 = the frozen model's forward and backward pass to the inputs; the mean of a method's "
           "phases.\n");
done:
  json_decref(all);
  lc_model_close(model);
  return st;
}

static lc_status run(lc_cli *cli, void *selfp) {
  const self_t *self = selfp;
  const lc_method *one = cli->n_word ? lc_cli_method(cli, cli->word[0]) : NULL;
  if (cli->n_word && !one) return LC_USAGE;
  if (self->model) return costs(cli, self->model, one);
  if (self->density || self->targets || self->set || self->steps || self->batch || self->seq ||
      self->optimizer)
    return lc_usage(cli->ctx, "methods: these options are for a model: give -m MODEL");
  if (one && cli->common.json) lc_cli_print_json(describe(one));
  if (one && !cli->common.json) print_method(one);
  if (one) return LC_OK;
  json_t *all = json_array();
  for (int i = 0; i < lc_n_methods; i++) {
    if (cli->common.json)
      json_array_append_new(all, describe(lc_methods[i]));
    else
      printf("%-10s %s (%s)\n", lc_methods[i]->name, lc_methods[i]->title, lc_methods[i]->source);
  }
  if (cli->common.json) lc_cli_print_json(json_pack("{s:O}", "methods", all));
  json_decref(all);
  return LC_OK;
}

const lc_command lc_cmd_methods = {
    .name = "methods",
    .usage = "[NAME] [-m MODEL [--density D] [--targets RULE] [--set key=value]...]",
    .title = "the methods, and the options of one; what they cost on a model",
    .options = model_options,
    .self_size = sizeof(self_t),
    .words = 1,
    .repeatable = "set",
    .run = run};

/* ---- objectives ---- */

static json_t *describe_objective(const lc_objective *o) {
  json_t *rows = json_array();
  for (int k = LC_ROWS_TEXT_FILE; k <= LC_ROWS_PICTURES; k++)
    if (o->rows >> k & 1) json_array_append_new(rows, json_string(lc_row_kind_name((lc_row_kind)k)));
  return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "name", o->name, "title", o->title, "source", o->source,
                   "about", o->about, "rows", rows, "options", describe_options(o->options));
}

static void print_objective(const lc_objective *o) {
  printf("%s\n%s%s\n%s\n", o->title, o->source, *o->source ? "\n" : "", o->about);
  if (o->options) printf("\noptions (--with key=value):\n");
  print_options(o->options);
}

static lc_status run_objectives(lc_cli *cli, void *self) {
  (void)self;
  const lc_objective *one = cli->n_word ? lc_cli_objective(cli, cli->word[0]) : NULL;
  if (cli->n_word && !one) return LC_USAGE;
  if (one && !cli->common.json) print_objective(one);
  if (one && cli->common.json) lc_cli_print_json(describe_objective(one));
  if (one) return LC_OK;
  json_t *all = json_array();
  for (int i = 0; i < lc_n_objectives; i++) {
    const lc_objective *o = lc_objectives[i];
    if (cli->common.json)
      json_array_append_new(all, describe_objective(o));
    else
      printf("%-10s %s%s%s%s\n", o->name, o->title, *o->source ? " (" : "", o->source, *o->source ? ")" : "");
  }
  if (cli->common.json) lc_cli_print_json(json_pack("{s:O}", "objectives", all));
  json_decref(all);
  return LC_OK;
}

const lc_command lc_cmd_objectives = {.name = "objectives",
                                      .usage = "[NAME]",
                                      .title = "what can be minimised, and the options of one",
                                      .self_size = sizeof(none_t),
                                      .words = 1,
                                      .run = run_objectives};
