/* lacuna train: flags over recipe over the method's row; progress as a bar, plain lines or JSON lines; signals save. */
#include "cli/bench.h"
#include "cli/cli.h"
#include "train/objective.h"
#include <string.h>
#include <unistd.h>

typedef struct {
  char *model, *data, *method, *objective, *out, *recipe, *set, *with, *resume;
  bool overwrite;
  lc_train_opts train;
} self_t;
static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "a Hugging Face directory or a GGUF file"},
    {"data", LC_OPT_STRING, offsetof(self_t, data), NULL, 0, 0, NULL, "FILE",
     "text, or JSONL with text, prompt+completion, messages, prompt+chosen+rejected or prompt+answer; of "
     "tasks with "
     "labels text+label or tokens+tags, or pictures: a folder of one a label, or an IDX file"},
    {"method", LC_OPT_STRING, offsetof(self_t, method), NULL, 0, 0, NULL, "NAME", "see `lacuna methods`"},
    {"set", LC_OPT_STRING, offsetof(self_t, set), NULL, 0, 0, NULL, "KEY=VALUE",
     "an option of the method (repeatable)"},
    {"objective", LC_OPT_STRING, offsetof(self_t, objective), NULL, 0, 0, NULL, "NAME",
     "what is minimised: sft unless told; see `lacuna objectives`"},
    {"with", LC_OPT_STRING, offsetof(self_t, with), NULL, 0, 0, NULL, "KEY=VALUE",
     "an option of the objective (repeatable)"},
    {"out", LC_OPT_STRING, offsetof(self_t, out), NULL, 0, 0, NULL, "OUT", "directory of the result"},
    {"recipe", LC_OPT_STRING, offsetof(self_t, recipe), NULL, 0, 0, NULL, "FILE",
     "recipe.yaml of an earlier run; flags beat it"},
    {"resume", LC_OPT_STRING, offsetof(self_t, resume), NULL, 0, 0, NULL, "[=CHECKPOINT]",
     "go on from OUT's last checkpoint, or the one named"},
    {"overwrite", LC_OPT_BOOL, offsetof(self_t, overwrite), "false", 0, 0, NULL, NULL,
     "replace what OUT holds"},
    {0}};

/* ---- progress ---- */

typedef struct {
  lc_cli *cli;
  bool terminal;
  int64_t planned;
  double t0, last_line;
} progress;

static void bar(progress *p, const json_t *e) {
  int64_t step = json_integer_value(json_object_get(e, "step"));
  double share = p->planned ? (double)step / (double)p->planned : 0,
         left = share > 0 ? (lc_now() - p->t0) * (1 - share) / share : 0;
  int full = (int)(share * 24);
  fprintf(stderr, "\r[%.*s%*s] %lld/%lld  loss %.4f  %.0f tokens/s  %.0f MiB  %d:%02d left ", full,
          "########################", 24 - full, "", (long long)step, (long long)p->planned,
          json_number_value(json_object_get(e, "loss")),
          json_number_value(json_object_get(e, "tokens_per_s")),
          json_number_value(json_object_get(e, "rss_mib")), (int)left / 60, (int)left % 60);
}

static void held_out(int64_t step, const json_t *e) {
  static const char *const more[] = {"perplexity", "reward", "accuracy"};
  fprintf(stderr, "eval at %lld: loss %.4f", (long long)step, json_number_value(json_object_get(e, "loss")));
  for (int i = 0; i < 3; i++)
    if (json_object_get(e, more[i]))
      fprintf(stderr, "  %s %.4g", more[i], json_number_value(json_object_get(e, more[i])));
  fputc('\n', stderr);
}

static void line(progress *p, const char *kind, const json_t *e) {
  int64_t step = json_integer_value(json_object_get(e, "step"));
  if (!strcmp(kind, "step")) {
    if (p->terminal) {
      bar(p, e);
      return;
    }
    if (step > 1 && step < p->planned && lc_now() - p->last_line < 2)
      return; /* a pipe gets a line every two seconds */
    p->last_line = lc_now();
    if (json_object_get(e, "reward"))
      fprintf(stderr, "reward %.3f  answers of %.1f tokens  ",
              json_number_value(json_object_get(e, "reward")),
              json_number_value(json_object_get(e, "answer_tokens")));
    fprintf(stderr, "step %lld/%lld  loss %.4f  lr %.3g  |g| %.3g  %.0f tokens/s  %.0f MiB\n",
            (long long)step, (long long)p->planned, json_number_value(json_object_get(e, "loss")),
            json_number_value(json_object_get(e, "lr")), json_number_value(json_object_get(e, "grad_norm")),
            json_number_value(json_object_get(e, "tokens_per_s")),
            json_number_value(json_object_get(e, "rss_mib")));
    return;
  }
  if (p->terminal) fprintf(stderr, "\r\033[K");
  if (!strcmp(kind, "eval"))
    held_out(step, e);
  else if (!strcmp(kind, "checkpoint"))
    fprintf(stderr, "checkpoint %s\n", json_string_value(json_object_get(e, "path")));
  else if (!strcmp(kind, "sample"))
    fprintf(stderr, "sample at %lld: %s\n", (long long)step, json_string_value(json_object_get(e, "text")));
}

static int on_event(void *arg, const char *kind, const json_t *e) {
  progress *p = arg;
  json_t *planned = json_object_get(e, "planned");
  if (!strcmp(kind, "start")) {
    p->planned = json_integer_value(planned ? planned : json_object_get(e, "steps"));
    p->t0 = lc_now();
  }
  if (p->cli->common.json) {
    lc_cli_print_json(json_deep_copy(e));
  } else if (!strcmp(kind, "done")) {
    if (p->terminal) fputc('\n', stderr);
    printf(
        "%lld steps in %.1f s, %.0f tokens/s, peak %.0f MiB, %lld trainable values (%.1f MB of state)\n%s\n",
        (long long)json_integer_value(json_object_get(e, "steps")),
        json_number_value(json_object_get(e, "seconds")),
        json_number_value(json_object_get(e, "tokens_per_s")),
        json_number_value(json_object_get(e, "peak_rss_mib")),
        (long long)json_integer_value(json_object_get(e, "trainable")),
        json_number_value(json_object_get(e, "state_bytes")) / 1e6,
        json_string_value(json_object_get(e, "output")));
  } else if (!p->cli->common.quiet) {
    line(p, kind, e);
  }
  return 0;
}

/* ---- options ---- */

const lc_method *lc_cli_method(lc_cli *cli, const char *name) {
  const lc_method *m = name ? lc_method_find(name) : NULL;
  if (m) return m;
  const char *near = name ? lc_method_nearest(name) : NULL;
  if (!name)
    lc_usage(cli->ctx, "--method NAME is missing (see `lacuna methods`)");
  else
    lc_usage(cli->ctx, "there is no method '%s'%s%s%s", name, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "");
  return NULL;
}

const lc_objective *lc_cli_objective(lc_cli *cli, const char *name) {
  const lc_objective *o = lc_objective_find(name);
  const char *near = o ? NULL : lc_objective_nearest(name);
  if (!o)
    lc_usage(cli->ctx, "there is no objective '%s'%s%s%s", name, near ? "; did you mean '" : "",
             near ? near : "", near ? "'?" : "");
  return o;
}

/* Every --flag KEY=VALUE through a table. */
static lc_status set_pairs(lc_cli *cli, const char *flag, const lc_option *table, const char *what,
                           void *self) {
  for (int i = 0; lc_cli_value(cli, flag, i); i++) {
    const char *pair = lc_cli_value(cli, flag, i), *eq = strchr(pair, '=');
    if (!eq) return lc_usage(cli->ctx, "--%s %s: KEY=VALUE is expected", flag, pair);
    if (!table) return lc_usage(cli->ctx, "--%s %s: %s has no options", flag, pair, what);
    char *key = lc_format(cli->ctx, "%.*s", (int)(eq - pair), pair);
    if (!key) return LC_FAILED;
    lc_status st = lc_options_set(cli->ctx, table, what, self, key, eq + 1);
    lc_free(cli->ctx, key);
    LC_TRY(st);
  }
  return LC_OK;
}

lc_status lc_cli_set_pairs(lc_cli *cli, const lc_method *m, void *method_self) {
  char what[96];
  snprintf(what, sizeof what, "method %s", m->name);
  return set_pairs(cli, "set", m->options, what, method_self);
}

/* The recipe first, then the flags again: flags win. With another --method or --objective the recipe's options of its own do not apply. */
static lc_status apply_recipe(lc_cli *cli, self_t *s, const lc_recipe *r, const lc_method *m,
                              void *method_self, const lc_goal *goal) {
  LC_TRY(lc_recipe_apply(cli->ctx, r, &s->train, m,
                         r->method && !strcmp(r->method, m->name) ? method_self : NULL,
                         r->objective && !strcmp(r->objective, goal->row->name) ? goal : NULL));
  for (int i = 0; i < cli->n_flag; i++)
    if (lc_options_find(lc_train_options, cli->flag[i].key))
      LC_TRY(lc_options_set(cli->ctx, lc_train_options, "train", &s->train, cli->flag[i].key,
                            cli->flag[i].value));
  return LC_OK;
}

/* Opens the model for the run's task. A model that has a head for it keeps that one, with its labels, unless --head new;
 * a new one has the labels of the data. */
static lc_status load(lc_cli *cli, const self_t *s, const char *model, const char *data, lc_loaded *l) {
  const lc_task task = lc_train_task_of(&s->train);
  lc_head_opts own = {0}, fresh = {.task = task, .fresh = true, .seed = (uint64_t)s->train.seed};
  lc_label_names labels;
  if (!lc_task_has_labels(task)) return lc_cli_load_for(cli, model, &own, LC_F32, LC_PATCH, true, l);
  lc_model *probe;
  bool keeps = s->train.head != LC_HEAD_NEW;
  own.task = task;
  LC_TRY(lc_model_open_for(cli->ctx, model, &own, &probe));
  for (int i = 0; i < probe->n; i++) keeps &= !probe->drawn[i] || probe->decl[i].kind != LC_KIND_HEAD;
  lc_status scanned = keeps ? LC_OK : lc_rows_labels(cli->ctx, &probe->config, data, &labels);
  lc_model_close(probe);
  LC_TRY(scanned);
  if (keeps) return lc_cli_load_for(cli, model, &own, LC_F32, LC_PATCH, true, l);
  fresh.labels = lc_max64(2, labels.n);
  fresh.label = labels.n >= 2 ? (const char *const *)labels.name : NULL;
  lc_status st =
      labels.n < 2 && labels.name
          ? lc_fail(cli->ctx, "%s: all labels are '%s': there is nothing to tell apart", data, labels.name[0])
          : lc_cli_load_for(cli, model, &fresh, LC_F32, LC_PATCH, true, l);
  lc_label_names_free(cli->ctx, &labels);
  return st;
}

static lc_status train(lc_cli *cli, self_t *s, const lc_method *m, void *method_self, const lc_goal *goal,
                       const char *model, const char *data_path) {
  lc_loaded l;
  lc_dataset *data = NULL, *eval = NULL;
  /* sizes that depend on the model are resolved before the rows are cut; the dtype decides the net */
  const char **names = NULL;
  lc_label_set labels;
  LC_TRY(load(cli, s, model, data_path, &l));
  lc_status st;
  LC_GO(lc_train_resolve(cli->ctx, &l.model->config, m, method_self, &s->train));
  l.net->compute = lc_dtype_by_name(s->train.dtype);
  lc_data_opts o = {.seq = s->train.seq, .skip_bad = s->train.skip_bad};
  if (lc_task_has_labels(l.model->config.task)) {
    LC_GO(lc_net_labels(l.net, &names, &labels));
    o.labels = &labels;
    lc_cli_note(cli, "%s: %lld labels", lc_architecture(&l.model->config), (long long)labels.n);
  }
  LC_GO(lc_rows_open(l.net, l.tok, data_path, &o, &data));
  if (s->train.eval_data) LC_GO(lc_rows_open(l.net, l.tok, s->train.eval_data, &o, &eval));
  lc_data_info d = lc_data_describe(data);
  lc_cli_note(cli,
              "%s: %s, %lld rows of at most %lld tokens, %lld tokens, %lld targets; %lld cut, %lld without a "
              "target dropped, %lld malformed",
              data_path, lc_row_kind_name(d.kind), (long long)d.rows, (long long)s->train.seq,
              (long long)d.tokens, (long long)d.targets, (long long)d.cut, (long long)d.dropped,
              (long long)d.bad);
  lc_cli_note(cli, "method %s, objective %s, %s, %s kernels, %d threads", m->name, goal->row->name,
              s->train.dtype, lc_isa_name(lc_isa_of(cli->ctx)), lc_threads(cli->ctx));
  progress p = {.cli = cli, .terminal = isatty(STDERR_FILENO)};
  lc_train_io io = {.out = s->out,
                    .resume = lc_cli_given(cli, "resume"),
                    .resume_from = s->resume && s->resume[0] ? s->resume : NULL,
                    .overwrite = s->overwrite,
                    .data_path = data_path,
                    .event = on_event,
                    .event_arg = &p,
                    .goal = *goal};
  LC_GO(lc_cli_install_signals(cli));
  st = lc_train(l.net, l.tok, data, eval, m, method_self, &s->train, &io);
done:
  if (data) lc_data_free(data);
  if (eval) lc_data_free(eval);
  lc_free(cli->ctx, names);
  lc_cli_unload(&l);
  return st;
}

/* The options of a table over zeroed bytes, with their defaults. */
static lc_status open_options(lc_cli *cli, const lc_option *table, size_t size, void **out) {
  *out = lc_alloc(cli->ctx, LC_MEM_OTHER, size ? size : 1);
  return *out ? lc_options_init(cli->ctx, table, *out) : LC_FAILED;
}

static void close_options(lc_cli *cli, const lc_option *table, void *self) {
  if (self) lc_options_clear(cli->ctx, table, self);
  lc_free(cli->ctx, self);
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  lc_recipe recipe = {0};
  const lc_method *m = NULL;
  void *method_self = NULL;
  lc_goal goal = {0};
  char what[96];
  lc_status st = LC_OK;
  if (s->recipe) LC_GO(lc_recipe_read(cli->ctx, s->recipe, &recipe));
  const char *model = s->model ? s->model : recipe.model, *data = s->data ? s->data : recipe.data,
             *objective = s->objective ? s->objective : recipe.objective;
  if (!(m = lc_cli_method(cli, s->method ? s->method : recipe.method))) LC_GO(LC_USAGE);
  if (!(goal.row = lc_cli_objective(cli, objective ? objective : "sft"))) LC_GO(LC_USAGE);
  if (!model || !data || !s->out) LC_GO(lc_usage(cli->ctx, "-m MODEL, -d DATA and -o OUT are needed"));
  LC_GO(open_options(cli, m->options, m->self_size, &method_self));
  LC_GO(open_options(cli, goal.row->options, goal.row->self_size, &goal.self));
  if (s->recipe) LC_GO(apply_recipe(cli, s, &recipe, m, method_self, &goal));
  LC_GO(lc_cli_set_pairs(cli, m, method_self));
  snprintf(what, sizeof what, "objective %s", goal.row->name);
  LC_GO(set_pairs(cli, "with", goal.row->options, what, goal.self));
  st = train(cli, s, m, method_self, &goal, model, data);
done:
  if (m) close_options(cli, m->options, method_self);
  if (goal.row) close_options(cli, goal.row->options, goal.self);
  lc_recipe_free(cli->ctx, &recipe);
  return st;
}

const lc_command lc_cmd_train = {
    .name = "train",
    .usage =
        "-m MODEL -d DATA --method NAME [--set key=value]... [--objective NAME [--with key=value]...] -o OUT",
    .title = "fine-tune a model sparsely",
    .options = options,
    .self_size = sizeof(self_t),
    .more = lc_train_options,
    .more_offset = offsetof(self_t, train),
    .repeatable = "set with",
    .run = run};
