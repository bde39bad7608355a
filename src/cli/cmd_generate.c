/* lacuna generate: a continuation of a prompt, or an answer in the model's chat template, printed as it comes. */
#include "cli/cli.h"
#include "infer/infer.h"
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  char *model, *adapter, *prompt, *file, *dtype, *system, *stop;
  int64_t max_tokens, top_k, repeat_last_n, context;
  double temp, top_p, min_p, repeat_penalty;
  bool chat, ignore_eos, in_place, exact;
} self_t;
static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",
     "a Hugging Face directory or a GGUF file"},
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "apply an adapter (repeatable)"},
    {"prompt", LC_OPT_STRING, offsetof(self_t, prompt), NULL, 0, 0, NULL, "TEXT", "the prompt (-: stdin)"},
    {"file", LC_OPT_STRING, offsetof(self_t, file), NULL, 0, 0, NULL, "FILE",
     "the prompt from a file (-: stdin)"},
    {"max-tokens", LC_OPT_INT, offsetof(self_t, max_tokens), "128", 1, 1e9, NULL, "N", "tokens to generate"},
    {"temp", LC_OPT_FLOAT, offsetof(self_t, temp), "0.8", 0, 100, NULL, "T", "temperature; 0: greedy"},
    {"top-k", LC_OPT_INT, offsetof(self_t, top_k), "40", 0, 1e9, NULL, "K", "the K best; 0: all"},
    {"top-p", LC_OPT_FLOAT, offsetof(self_t, top_p), "0.95", 0, 1, NULL, "P",
     "the smallest set of this probability; 1: all"},
    {"min-p", LC_OPT_FLOAT, offsetof(self_t, min_p), "0.05", 0, 1, NULL, "P",
     "at least this share of the best's probability; 0: all"},
    {"repeat-penalty", LC_OPT_FLOAT, offsetof(self_t, repeat_penalty), "1", 0.01, 100, NULL, "R",
     "against tokens seen lately; 1: none"},
    {"repeat-last-n", LC_OPT_INT, offsetof(self_t, repeat_last_n), "64", 0, 1e9, NULL, "N",
     "how many tokens are lately"},
    {"stop", LC_OPT_STRING, offsetof(self_t, stop), NULL, 0, 0, NULL, "TEXT",
     "a string that ends the text (repeatable)"},
    {"ignore-eos", LC_OPT_BOOL, offsetof(self_t, ignore_eos), "false", 0, 0, NULL, NULL,
     "go on past end tokens"},
    {"chat", LC_OPT_BOOL, offsetof(self_t, chat), "false", 0, 0, NULL, NULL,
     "the prompt is a user turn of the model's template"},
    {"system", LC_OPT_STRING, offsetof(self_t, system), NULL, 0, 0, NULL, "TEXT",
     "with --chat: the system turn"},
    {"context", LC_OPT_INT, offsetof(self_t, context), "0", 0, 1e7, NULL, "T",
     "positions of the KV cache; 0: as needed, at most the model's"},
    {"in-place", LC_OPT_BOOL, offsetof(self_t, in_place), "false", 0, 0, NULL, NULL,
     "adapters in a private copy of the weights instead of aside"},
    {"exact", LC_OPT_BOOL, offsetof(self_t, exact), "false", 0, 0, NULL, NULL,
     "no activations in 8 bits beside quantised weights (--dtype f32 has none either)"},
    {"dtype", LC_OPT_STRING, offsetof(self_t, dtype), "auto", 0, 0, NULL, "T",
     "compute in auto, f32 or bf16"},
    {0}};

static int to_stdout(void *arg, const char *text, size_t n) {
  lc_cli *cli = arg;
  if (!cli->common.json) {
    fwrite(text, 1, n, stdout);
    fflush(stdout);
  }
  return lc_stop_requested(cli->ctx);
}

typedef struct {
  lc_cli *cli;
  lc_bytes text;
} sink;

static int keep(void *arg, const char *text, size_t n) {
  sink *s = arg;
  if (lc_bytes_add(s->cli->ctx, &s->text, text, n)) return 1;
  return to_stdout(s->cli, text, n);
}

static lc_status prompt_ids(lc_cli *cli, const self_t *s, const lc_tokenizer *tok, lc_ids *ids) {
  char *text = NULL;
  size_t n = 0;
  lc_status st = LC_OK;
  const char *from = s->file && strcmp(s->file, "-")      ? s->file
                     : s->file || !strcmp(s->prompt, "-") ? "/dev/stdin"
                                                          : NULL;
  if (from) LC_TRY(lc_read_file(cli->ctx, from, (size_t)1 << 28, &text, &n));
  const char *p = text ? text : s->prompt;
  if (!text) n = strlen(p);
  if (s->chat) {
    const lc_template *t;
    lc_message m[2] = {{"system", s->system}, {"user", p}};
    st = lc_template_for(tok, &t);
    if (!st) st = lc_template_render(t, tok, s->system ? m : m + 1, s->system ? 2 : 1, true, ids, NULL);
  } else {
    if (lc_token_adds_bos(tok) && lc_token_bos(tok) >= 0) st = lc_ids_push(cli->ctx, ids, lc_token_bos(tok));
    if (!st) st = lc_tokenize(tok, p, n, true, ids);
  }
  if (from) st = lc_in_file(cli->ctx, from, st);
  lc_free(cli->ctx, text);
  if (!st && !ids->n) st = lc_usage(cli->ctx, "the prompt is empty");
  return st;
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  if (!s->prompt == !s->file) return lc_usage(cli->ctx, "one of -p TEXT and -f FILE is needed");
  if (s->system && !s->chat) return lc_usage(cli->ctx, "--system needs --chat");
  lc_dtype dtype;
  LC_TRY(lc_cli_dtype(cli, s->dtype, &dtype));
  lc_loaded l;
  LC_TRY(lc_cli_load(cli, s->model, dtype, s->in_place ? LC_IN_PLACE : LC_ASIDE, true, &l));
  lc_ids ids = {0}, out = {0};
  lc_session *session = NULL;
  sink k = {cli, {0}};
  const char *stop[LC_CLI_STOPS];
  lc_sample_opts o = {.temp = s->temp,
                      .top_p = s->top_p,
                      .min_p = s->min_p,
                      .repeat_penalty = s->repeat_penalty,
                      .top_k = s->top_k,
                      .repeat_last_n = s->repeat_last_n,
                      .max_tokens = s->max_tokens,
                      .ignore_eos = s->ignore_eos,
                      .stop = stop};
  o.seed =
      cli->seed_given ? (uint64_t)cli->common.seed : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
  lc_status st;
  lc_gen_stats stats;
  LC_GO(lc_cli_stops(cli, stop, &o.n_stop));
  LC_GO(lc_cli_install_signals(cli));
  LC_GO(prompt_ids(cli, s, l.tok, &ids));
  int64_t limit = l.model->config.context,
          context = s->context ? lc_min64(s->context, limit) : lc_min64(limit, ids.n + s->max_tokens);
  if (ids.n >= context) {
    st = lc_fail(cli->ctx, "the prompt has %lld tokens, the context %lld", (long long)ids.n,
                 (long long)context);
    goto done;
  }
  LC_GO(lc_session_new(l.net, context, lc_min64(512, lc_max64(ids.n, 1)), dtype, &session));
  if (s->temp > 0 && !cli->seed_given) lc_cli_note(cli, "seed %llu", (unsigned long long)o.seed);
  lc_session_int8(session, !s->exact && strcmp(s->dtype, "f32")); /* who asks for f32 gets it */
  LC_GO(lc_generate_ids(session, l.tok, ids.id, ids.n, &o, keep, &k, &out, &stats));
  if (!cli->common.json) puts(""), fflush(stdout);
  double prefill = (double)stats.prompt_tokens / (stats.prefill_seconds > 0 ? stats.prefill_seconds : 1e-9);
  double decode = stats.decode_seconds > 0 ? (double)stats.generated_tokens / stats.decode_seconds : 0;
  if (cli->common.json) {
    json_t *text;
    LC_GO(lc_cli_json_text(cli->ctx, &k.text, &text));
    lc_cli_print_json(json_pack("{s:o, s:s, s:I, s:I, s:f, s:f, s:I}", "text", text, "finish_reason",
                                stats.finish_reason, "prompt_tokens", (json_int_t)stats.prompt_tokens,
                                "generated_tokens", (json_int_t)stats.generated_tokens,
                                "prefill_tokens_per_s", prefill, "decode_tokens_per_s", decode, "seed",
                                (json_int_t)o.seed));
  } else {
    lc_cli_note(cli, "%lld tokens, %s; prompt %.0f tokens/s, generation %.1f tokens/s",
                (long long)stats.generated_tokens, stats.finish_reason, prefill, decode);
  }
  if (lc_stop_requested(cli->ctx)) st = LC_STOPPED;
done:
  lc_free(cli->ctx, k.text.data);
  lc_ids_free(cli->ctx, &ids);
  lc_ids_free(cli->ctx, &out);
  lc_session_free(session);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_generate = {.name = "generate",
                                    .usage = "-m MODEL [-a ADAPTER]... -p PROMPT",
                                    .title = "continue a text, or answer in chat",
                                    .options = options,
                                    .self_size = sizeof(self_t),
                                    .repeatable = "adapter stop",
                                    .run = run};
