/* lacuna methods [NAME], lacuna objectives [NAME]: the tables; one row with its options. */
#include "cli/bench.h"
#include "cli/cli.h"
#include <string.h>

typedef struct {
  int unused;
} self_t;

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

static lc_status run(lc_cli *cli, void *self) {
  (void)self;
  if (cli->n_word) {
    const lc_method *m = lc_cli_method(cli, cli->word[0]);
    if (!m) return LC_USAGE;
    if (cli->common.json)
      lc_cli_print_json(describe(m));
    else
      print_method(m);
    return LC_OK;
  }
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

const lc_command lc_cmd_methods = {.name = "methods",
                                   .usage = "[NAME]",
                                   .title = "the methods, and the options of one",
                                   .self_size = sizeof(self_t),
                                   .words = 1,
                                   .run = run};

/* ---- objectives ---- */

static json_t *describe_objective(const lc_objective *o) {
  json_t *rows = json_array();
  for (int k = LC_ROWS_TEXT_FILE; k <= LC_ROWS_ANSWER; k++)
    if (o->rows >> k & 1) json_array_append_new(rows, json_string(lc_row_kind_name((lc_row_kind)k)));
  return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "name", o->name, "title", o->title, "source", o->source, "about",
                   o->about, "rows", rows, "options", describe_options(o->options));
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
                                      .self_size = sizeof(self_t),
                                      .words = 1,
                                      .run = run_objectives};
