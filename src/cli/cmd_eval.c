/* lacuna eval: perplexity of a text or of JSONL rows, accuracy on multiple choice or of a classifier, exact match of
 * generated answers. */
#include "cli/cli.h"
#include <string.h>

enum { PERPLEXITY, ACCURACY, EXACT };
typedef struct {
  char *model, *adapter, *data, *dtype, *fewshot, *extract, *log_samples, *system, *stop;
  int metric, convention;
  int64_t context, stride, limit, max_tokens;
  bool bos, tail, incremental, chat;
} self_t;
static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "a Hugging Face directory or a GGUF file"},
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "apply an adapter (repeatable)"},
    {"data", LC_OPT_STRING, offsetof(self_t, data), NULL, 0, 0, NULL, "FILE", "text or JSONL rows"},
    {"metric", LC_OPT_CHOICE, offsetof(self_t, metric), "perplexity", 0, 0, "perplexity|accuracy|exact-match",
     NULL, "what to measure"},
    {"dtype", LC_OPT_STRING, offsetof(self_t, dtype), "f32", 0, 0, NULL, "T", "compute in f32, bf16 or auto"},
    {"limit", LC_OPT_INT, offsetof(self_t, limit), "0", 0, 1e12, NULL, "N",
     "windows, rows or questions; 0: all"},
    {"context", LC_OPT_INT, offsetof(self_t, context), "0", 0, 1e7, NULL, "T",
     "perplexity: tokens a window; 0: min(512, the model's), of rows the model's"},
    {"stride", LC_OPT_INT, offsetof(self_t, stride), "0", 0, 1e7, NULL, "T",
     "perplexity: tokens between windows; 0: the context"},
    {"bos", LC_OPT_BOOL, offsetof(self_t, bos), "false", 0, 0, NULL, NULL,
     "perplexity: the model's BOS opens every window"},
    {"tail", LC_OPT_BOOL, offsetof(self_t, tail), "false", 0, 0, NULL, NULL,
     "perplexity: score a last, shorter window"},
    {"convention", LC_OPT_CHOICE, offsetof(self_t, convention), "lacuna", 0, 0, "lacuna|llama.cpp", NULL,
     "perplexity: llama.cpp scores the second half of each window"},
    {"incremental", LC_OPT_BOOL, offsetof(self_t, incremental), "false", 0, 0, NULL, NULL,
     "perplexity: token by token through the KV cache"},
    {"fewshot", LC_OPT_STRING, offsetof(self_t, fewshot), NULL, 0, 0, NULL, "FILE:K",
     "K solved questions before each"},
    {"extract", LC_OPT_STRING, offsetof(self_t, extract), NULL, 0, 0, NULL, "REGEX",
     "exact match: group 1 is the answer; else GSM8K's #### rule"},
    {"max-tokens", LC_OPT_INT, offsetof(self_t, max_tokens), "256", 1, 1e6, NULL, "N",
     "exact match: of an answer"},
    {"stop", LC_OPT_STRING, offsetof(self_t, stop), NULL, 0, 0, NULL, "TEXT",
     "exact match: a string that ends an answer (repeatable)"},
    {"chat", LC_OPT_BOOL, offsetof(self_t, chat), "false", 0, 0, NULL, NULL,
     "questions are user turns of the model's template"},
    {"system", LC_OPT_STRING, offsetof(self_t, system), NULL, 0, 0, NULL, "TEXT",
     "with --chat: the system turn"},
    {"log-samples", LC_OPT_STRING, offsetof(self_t, log_samples), NULL, 0, 0, NULL, "FILE",
     "a JSON line a question, or a row with labels"},
    {0}};

static const char *const metric_names[] = {"perplexity", "accuracy", "exact-match"};

/* A flag that the metric does not look at is refused, not dropped. TEXT: perplexity of a text, in windows; of rows it is each row alone. */
enum { TEXT = EXACT + 1 };
static const struct {
  const char *flag;
  int of[2];
} uses[] = {{"context", {PERPLEXITY, PERPLEXITY}},
            {"stride", {TEXT, TEXT}},
            {"bos", {TEXT, TEXT}},
            {"tail", {TEXT, TEXT}},
            {"convention", {TEXT, TEXT}},
            {"incremental", {TEXT, TEXT}},
            {"fewshot", {ACCURACY, EXACT}},
            {"log-samples", {ACCURACY, EXACT}},
            {"chat", {ACCURACY, EXACT}},
            {"system", {ACCURACY, EXACT}},
            {"extract", {EXACT, EXACT}},
            {"max-tokens", {EXACT, EXACT}},
            {"stop", {EXACT, EXACT}}};

static lc_status check_flags(lc_cli *cli, int metric, bool text) {
  for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
    bool used = false;
    for (int k = 0; k < 2; k++)
      used |= uses[i].of[k] == metric || (uses[i].of[k] == TEXT && metric == PERPLEXITY && text);
    if (!used && lc_cli_given(cli, uses[i].flag))
      return lc_usage(cli->ctx, "--%s has no meaning for the %s%s", uses[i].flag, metric_names[metric],
                      metric == PERPLEXITY ? text ? " of a text" : " of rows" : "");
  }
  return LC_OK;
}

static bool is_jsonl(const char *path) {
  size_t n = strlen(path);
  return (n > 6 && !strcmp(path + n - 6, ".jsonl")) || (n > 5 && !strcmp(path + n - 5, ".json"));
}

static lc_status perplexity(lc_cli *cli, const self_t *s, lc_loaded *l, json_t *result) {
  lc_score score = {0};
  lc_status st;
  if (is_jsonl(s->data)) {
    lc_dataset *rows;
    const int64_t most =
        s->context ? lc_min64(s->context, l->model->config.context) : l->model->config.context;
    LC_TRY(lc_data_open(cli->ctx, l->tok, s->data, &(lc_data_opts){.seq = most}, &rows));
    const lc_data_info d = lc_data_describe(rows);
    if (d.cut || d.dropped)
      lc_cli_note(cli, "%s: %lld rows cut at %lld tokens, %lld without a target dropped", s->data,
                  (long long)d.cut, (long long)most, (long long)d.dropped);
    st = lc_eval_rows(l->net, rows, s->limit, &score);
    lc_data_free(rows);
  } else {
    char *text;
    size_t n;
    lc_ids stream = {0};
    LC_TRY(lc_read_file(cli->ctx, s->data, (size_t)1 << 32, &text, &n));
    st = lc_in_file(cli->ctx, s->data, lc_tokenize(l->tok, text, n, false, &stream));
    lc_free(cli->ctx, text);
    lc_perplexity_opts o = {.context = s->context,
                            .stride = s->stride,
                            .bos = s->bos,
                            .tail = s->tail,
                            .llama_cpp = s->convention,
                            .incremental = s->incremental,
                            .limit = s->limit};
    if (!st) st = lc_eval_perplexity(l->net, l->tok, &stream, &o, &score);
    lc_ids_free(cli->ctx, &stream);
  }
  if (st) return st;
  json_object_update_new(result,
                         json_pack("{s:f, s:I, s:I, s:I, s:f, s:f}", "value", score.value, "n",
                                   (json_int_t)score.n, "context", (json_int_t)score.context, "stride",
                                   (json_int_t)score.stride, "loss", score.nll, "stderr", score.stderr_));
  return LC_OK;
}

/* A model with labels: how often it is right. */
static lc_status labels(lc_cli *cli, const self_t *s, lc_loaded *l, json_t *result) {
  const char **names = NULL;
  lc_label_set set;
  lc_dataset *rows = NULL;
  lc_label_score score;
  lc_status st = LC_OK;
  if (s->metric != ACCURACY || s->fewshot || s->chat || s->system)
    return lc_usage(cli->ctx,
                    "a %s has labels: --metric accuracy, without examples or a chat, is what can be measured",
                    lc_architecture(&l->model->config));
  LC_TRY(lc_net_labels(l->net, &names, &set));
  LC_GO(lc_rows_open(l->net, l->tok, s->data,
                     &(lc_data_opts){.seq = l->model->config.context, .labels = &set}, &rows));
  LC_GO(lc_eval_labels(l->net, rows, s->limit, s->log_samples, &score));
  json_object_update_new(result, json_pack("{s:f, s:I, s:f, s:f, s:f}", "value", score.accuracy, "n",
                                           (json_int_t)score.n, "stderr", score.stderr_, "loss", score.loss,
                                           "macro_f1", score.macro_f1));
done:
  if (rows) lc_data_free(rows);
  lc_free(cli->ctx, names);
  return st;
}

static lc_status open_fewshot(lc_cli *cli, const self_t *s, lc_question **q, int64_t *all, int64_t *k) {
  const char *colon = s->fewshot ? strrchr(s->fewshot, ':') : NULL;
  if (!s->fewshot) return LC_OK;
  if (!colon || sscanf(colon + 1, "%lld", (long long *)k) != 1 || *k < 1)
    return lc_usage(cli->ctx, "--fewshot %s: FILE:K is expected", s->fewshot);
  char *path = lc_format(cli->ctx, "%.*s", (int)(colon - s->fewshot), s->fewshot);
  if (!path) return LC_FAILED;
  lc_status st = lc_questions_open(cli->ctx, path, s->metric == ACCURACY, q, all);
  lc_free(cli->ctx, path);
  if (!st && *all < *k) st = lc_fail(cli->ctx, "%s holds %lld questions", s->fewshot, (long long)*all);
  return st;
}

static lc_status questions(lc_cli *cli, const self_t *s, lc_loaded *l, json_t *result) {
  lc_question *q = NULL, *shots = NULL;
  int64_t n = 0, n_shots = 0, k = 0;
  const char *stop[LC_CLI_STOPS];
  lc_question_opts o = {.limit = s->limit,
                        .chat = s->chat,
                        .system = s->system,
                        .log_samples = s->log_samples,
                        .extract = s->extract,
                        .max_tokens = s->max_tokens,
                        .stop = stop};
  LC_TRY(lc_cli_stops(cli, stop, &o.n_stop));
  lc_status st = lc_questions_open(cli->ctx, s->data, s->metric == ACCURACY, &q, &n);
  if (!st) st = open_fewshot(cli, s, &shots, &n_shots, &k);
  o.fewshot = shots;
  o.n_fewshot = k;
  if (!st && s->metric == ACCURACY) {
    lc_choice_score c;
    st = lc_eval_choices(l->net, l->tok, q, n, &o, &c);
    if (!st)
      json_object_update_new(result,
                             json_pack("{s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "value", c.acc, "n",
                                       (json_int_t)c.n, "stderr", c.acc_stderr, "acc", c.acc, "acc_norm",
                                       c.acc_norm, "acc_norm_stderr", c.acc_norm_stderr, "acc_bytes",
                                       c.acc_bytes, "acc_bytes_stderr", c.acc_bytes_stderr));
  } else if (!st) {
    lc_score score;
    st = lc_eval_exact(l->net, l->tok, q, n, &o, &score);
    if (!st)
      json_object_update_new(result, json_pack("{s:f, s:I, s:f}", "value", score.value, "n",
                                               (json_int_t)score.n, "stderr", score.stderr_));
  }
  lc_questions_free(cli->ctx, q, n);
  lc_questions_free(cli->ctx, shots, n_shots);
  return st;
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  if (!s->data) return lc_usage(cli->ctx, "-d DATA is missing");
  lc_dtype dtype;
  LC_TRY(check_flags(cli, s->metric, !is_jsonl(s->data)));
  LC_TRY(lc_cli_dtype(cli, s->dtype, &dtype));
  lc_loaded l;
  LC_TRY(lc_cli_load(cli, s->model, dtype, LC_PATCH, true, &l));
  json_t *result = json_pack("{s:s}", "metric", metric_names[s->metric]);
  double t0 = lc_now();
  lc_status st = lc_task_has_labels(l.model->config.task) ? labels(cli, s, &l, result)
                 : s->metric == PERPLEXITY                ? perplexity(cli, s, &l, result)
                                                          : questions(cli, s, &l, result);
  if (!st) {
    json_object_set_new(result, "seconds", json_real(lc_now() - t0));
    if (cli->common.json)
      lc_cli_print_json(json_incref(result));
    else {
      const char *key;
      json_t *v;
      json_object_foreach(result, key, v) {
        if (json_is_string(v))
          printf("%-12s %s\n", key, json_string_value(v));
        else if (json_is_integer(v))
          printf("%-12s %lld\n", key, (long long)json_integer_value(v));
        else
          printf("%-12s %.6g\n", key, json_real_value(v));
      }
    }
  }
  json_decref(result);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_eval = {.name = "eval",
                                .usage = "-m MODEL [-a ADAPTER[:SCALE]]... -d DATA",
                                .title = "perplexity, accuracy or exact match",
                                .options = options,
                                .self_size = sizeof(self_t),
                                .repeatable = "adapter stop",
                                .run = run};
