/* What several commands do: load a model with adapters, read lists of ids, print, catch signals. */
#include "cli/cli.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool lost;

bool lc_cli_json_lost(void) {
  return lost;
}

void lc_cli_print_json(json_t *j) {
  char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
  if (text)
    printf("%s\n", text);
  else
    lost = true;
  fflush(stdout);
  free(text);
  json_decref(j);
}

lc_status lc_cli_json_text(lc_ctx *ctx, const lc_bytes *text, json_t **out) {
  lc_bytes b = {0};
  lc_status st = lc_utf8_lossy(ctx, text->data ? text->data : "", text->n, &b);
  *out = st ? NULL : json_stringn(b.data ? b.data : "", b.n);
  lc_free(ctx, b.data);
  return st;
}

void lc_cli_note(const lc_cli *cli, const char *fmt, ...) {
  if (cli->common.quiet) return;
  va_list ap;
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
}

/* ---- signals ---- */

static lc_ctx *signalled;

static void on_signal(int signo) {
  if (lc_stop_requested(signalled)) _exit(128 + signo);
  lc_request_stop(signalled, signo);
}

lc_status lc_cli_install_signals(lc_cli *cli) {
  signalled = cli->ctx;
  struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  const int list[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
  struct sigaction was;
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    if (list[i] == SIGHUP && !sigaction(SIGHUP, NULL, &was) && was.sa_handler == SIG_IGN)
      continue; /* nohup: it goes on when the terminal goes */
    if (sigaction(list[i], &a, NULL)) return lc_fail(cli->ctx, "signal %d cannot be caught", list[i]);
  }
  return LC_OK;
}

/* ---- values ---- */

lc_status lc_cli_dtype(lc_cli *cli, const char *name, lc_dtype *out) {
  if (!strcmp(name, "auto"))
    *out = lc_isa_of(cli->ctx) >= LC_ISA_AVX512_BF16 ? LC_BF16 : LC_F32;
  else
    *out = lc_dtype_by_name(name);
  if (*out == LC_F32 || *out == LC_BF16) return LC_OK;
  return lc_usage(cli->ctx, "--dtype %s: auto, f32 and bf16 are possible", name);
}

lc_status lc_cli_outtype(lc_cli *cli, const char *name, lc_dtype *out) {
  *out = lc_dtype_by_name(name);
  if (*out == LC_F32 || *out == LC_F16 || *out == LC_BF16 || *out == LC_Q8_0) return LC_OK;
  return lc_usage(cli->ctx, "--outtype %s: f32, f16, bf16 and q8_0 (GGUF only) are possible", name);
}

lc_status lc_cli_ids(lc_cli *cli, const char *text, int32_t low, int64_t high, lc_ids *out) {
  for (const char *at = text;;) {
    char *end;
    long long id = strtoll(at, &end, 10);
    if (end == at || (*end && *end != ','))
      return lc_usage(cli->ctx, "'%s' is no list of token ids (5,7,9)", text);
    if (id < low || id >= high)
      return lc_usage(cli->ctx, "token id %lld: %d to %lld are possible", id, (int)low, (long long)high - 1);
    LC_TRY(lc_ids_push(cli->ctx, out, (int32_t)id));
    if (!*end) return LC_OK;
    at = end + 1;
  }
}

lc_status lc_cli_stops(lc_cli *cli, const char *stop[LC_CLI_STOPS], int *n) {
  for (*n = 0; lc_cli_value(cli, "stop", *n); ++*n) {
    if (*n == LC_CLI_STOPS) return lc_usage(cli->ctx, "more than %d --stop", *n);
    stop[*n] = lc_cli_value(cli, "stop", *n);
  }
  return LC_OK;
}

/* ---- loading ---- */

lc_status lc_cli_adapter_spec(lc_cli *cli, const char *spec, char **path, float *scale) {
  const char *eq = strchr(spec, '='), *slash = strchr(spec, '/');
  if (eq && (!slash || eq < slash)) spec = eq + 1;
  *scale = 1;
  size_t n = strlen(spec);
  const char *colon = strrchr(spec, ':');
  if (colon && colon[1]) {
    char *end;
    double s = strtod(colon + 1, &end);
    if (!*end) {
      *scale = (float)s;
      n = (size_t)(colon - spec);
    }
  }
  *path = lc_format(cli->ctx, "%.*s", (int)n, spec);
  return *path ? LC_OK : LC_FAILED;
}

/* The head that the first adapter with one was trained with. */
lc_status lc_cli_adapters_head(lc_cli *cli, lc_head_opts *head) {
  lc_status st = LC_OK;
  *head = (lc_head_opts){0};
  for (int i = 0; !st && !head->task && lc_cli_value(cli, "adapter", i); i++) {
    char *path;
    float scale;
    st = lc_cli_adapter_spec(cli, lc_cli_value(cli, "adapter", i), &path, &scale);
    if (!st) st = lc_adapter_head(cli->ctx, path, head);
    lc_free(cli->ctx, path);
  }
  return st;
}

lc_status lc_cli_load(lc_cli *cli, const char *model, lc_dtype compute, lc_apply apply, bool tokenizer,
                      lc_loaded *out) {
  lc_head_opts head;
  LC_TRY(lc_cli_adapters_head(cli, &head));
  lc_status st = lc_cli_load_for(cli, model, &head, compute, apply, tokenizer, out);
  lc_head_opts_free(cli->ctx, &head);
  return st;
}

lc_status lc_cli_load_for(lc_cli *cli, const char *model, const lc_head_opts *head, lc_dtype compute,
                          lc_apply apply, bool tokenizer, lc_loaded *out) {
  *out = (lc_loaded){0};
  if (!model) return lc_usage(cli->ctx, "-m MODEL is missing (a Hugging Face directory or a GGUF file)");
  lc_status st = lc_model_open_for(cli->ctx, model, head, &out->model);
  if (!st) st = lc_net_new(out->model, compute, &out->net);
  if (!st && tokenizer && !out->model->config.image) st = lc_model_tokenizer(out->model, &out->tok);
  for (int i = 0; !st && lc_cli_value(cli, "adapter", i); i++) {
    char *path;
    float scale;
    lc_adapter *a;
    st = lc_cli_adapter_spec(cli, lc_cli_value(cli, "adapter", i), &path, &scale);
    if (!st) st = lc_adapter_load(out->net, path, scale, apply, &a);
    lc_free(cli->ctx, path);
  }
  if (st) lc_cli_unload(out);
  return st;
}

void lc_cli_unload(lc_loaded *l) {
  if (l->tok) lc_tokenizer_free(l->tok);
  if (l->net) lc_net_free(l->net);
  if (l->model) lc_model_close(l->model);
  *l = (lc_loaded){0};
}
