/* bench decode: tokens one at a time through the KV cache, with the bytes that a token reads. bench prefill: prompts, by length. Both on a
 * model, or on synthetic weights of a shape in several forms. bench load: what lies between starting and the first token. */
#include "cli/bench.h"
#include "infer/infer.h"
#include <spawn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- what is measured on ---- */

typedef struct {
  lc_loaded l;
  void *memory; /* of a synthetic model */
  const char *form;
  lc_dtype dtype; /* of computation and of the cache */
  lc_session *s;
  float *logits;
  int32_t *ids; /* random, `context` of them */
  int64_t context;
} subject;
typedef lc_status (*measure_fn)(lc_bench_run *, subject *);

static void put_away(lc_ctx *ctx, subject *x) {
  lc_session_free(x->s);
  lc_free(ctx, x->logits), lc_free(ctx, x->ids);
  lc_cli_unload(&x->l);
  lc_free(ctx, x->memory);
}

static const char *form_of(const lc_net *net) {
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].kind == LC_KIND_LINEAR)
      return lc_dtype_get(net->weights.w[i].base->src.dtype)->name;
  return "?";
}

static bool wants_int8(const lc_bench_run *b) {
  return !b->opts->exact && strcmp(b->opts->train.dtype, "f32");
}

static lc_status session(lc_bench_run *b, subject *x) {
  lc_ctx *ctx = b->cli->ctx;
  int64_t V = x->l.model->config.V;
  if (x->context > x->l.model->config.context)
    return lc_usage(ctx, "%lld tokens, the model has %lld positions", (long long)x->context,
                    (long long)x->l.model->config.context);
  x->logits = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)V, sizeof *x->logits);
  x->ids = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)x->context, sizeof *x->ids);
  if (!x->logits || !x->ids) return LC_FAILED;
  lc_rng r = {.seed = 1, .purpose = LC_RNG_TEST};
  for (int64_t i = 0; i < x->context; i++) x->ids[i] = (int32_t)lc_rng_below(&r, (uint64_t)i, (uint64_t)V);
  LC_TRY(lc_session_new(x->l.net, x->context, lc_min64(x->context, 512), x->dtype, &x->s));
  lc_session_int8(x->s, wants_int8(b));
  return LC_OK;
}

static lc_status on_model(lc_bench_run *b, int64_t context, measure_fn measure) {
  subject x = {.context = context};
  LC_TRY(lc_cli_dtype(b->cli, b->opts->train.dtype, &x.dtype));
  LC_TRY(lc_cli_load(b->cli, b->opts->model, x.dtype, LC_ASIDE, false, &x.l));
  x.form = form_of(x.l.net);
  if (!x.context) x.context = lc_min64(1024, x.l.model->config.context);
  lc_status st = session(b, &x);
  if (!st) st = measure(b, &x);
  put_away(b->cli->ctx, &x);
  return st;
}

static lc_status on_form(lc_bench_run *b, const char *name, int64_t context, measure_fn measure) {
  lc_ctx *ctx = b->cli->ctx;
  lc_dtype form = lc_dtype_by_name(name);
  if (form != LC_F32 && form != LC_F16 && form != LC_BF16 && !lc_dtype_get(form)->quantised)
    return lc_usage(ctx, "there is no form '%s': f32, f16, bf16, q8_0, q4_0 and q4_1 are", name);
  subject x = {.context = context ? context : 1024, .form = lc_dtype_get(form)->name};
  LC_TRY(lc_cli_dtype(b->cli, b->opts->train.dtype, &x.dtype));
  LC_TRY(lc_bench_synthetic(ctx, b->opts->shape, form, &x.l.model, &x.memory));
  lc_status st = lc_net_new(x.l.model, x.dtype, &x.l.net);
  if (!st) st = session(b, &x);
  if (!st) st = measure(b, &x);
  put_away(ctx, &x);
  return st;
}

/* The model, or each form of the shape. context 0: up to 1,024 positions. */
static lc_status on_each(lc_bench_run *b, int64_t context, measure_fn measure) {
  if (!b->opts->shape) return on_model(b, context, measure);
  char *list = lc_strdup(b->cli->ctx, b->opts->forms), *rest = list, *name;
  lc_status st = list ? LC_OK : LC_FAILED;
  while (!st && (name = strsep(&rest, ","))) st = on_form(b, name, context, measure);
  lc_free(b->cli->ctx, list);
  return st;
}

/* Bytes of weights that one token reads: every matrix once; of the embedding a row, unless it is the head too. */
static double bytes_a_token(const lc_net *net) {
  double n = 0;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    if (w->ndim == 2 && (w->kind != LC_KIND_EMBEDDING || net->model->config.tied) &&
        w->kind != LC_KIND_POSITION)
      n += (double)w->form->ops->bytes(w->form);
  }
  return n;
}

static double read_rate(const lc_bench_run *b) {
  return b->ceilings.read[lc_min64(b->ceilings.threads, LC_CEILINGS_THREADS)];
}

/* ---- decode ---- */

static lc_status measure_decode(lc_bench_run *b, subject *x) {
  int64_t n = b->opts->prompt_tokens, tokens = b->opts->tokens;
  double prefill[64], decode[64], bytes = bytes_a_token(x->l.net);
  int times = (int)lc_min64(64, b->opts->repeat);
  for (int i = -1; i < times; i++) { /* the first round sizes buffers and warms the cache */
    lc_session_truncate(x->s, 0);
    double t0 = lc_now();
    LC_TRY(lc_session_feed(x->s, x->ids, n, false, x->logits));
    double t1 = lc_now();
    for (int64_t t = n; t < x->context; t++) LC_TRY(lc_session_feed(x->s, x->ids + t, 1, false, x->logits));
    if (i >= 0) prefill[i] = t1 - t0, decode[i] = lc_now() - t1;
  }
  double p = lc_bench_median(prefill, times), d = lc_bench_median(decode, times);
  lc_bench_row(b, json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:s}", "what", "prefill", "form", x->form,
                            "dtype", lc_dtype_get(x->dtype)->name, "tokens", (json_int_t)n, "seconds", p,
                            "rate", (double)n / p, "unit", "tokens/s"));
  lc_bench_row(b, json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:s, s:f, s:f, s:f}", "what", "decode", "form",
                            x->form, "dtype", lc_dtype_get(x->dtype)->name, "tokens", (json_int_t)tokens,
                            "seconds", d, "rate", (double)tokens / d, "unit", "tokens/s", "bytes", bytes,
                            "of_cache", lc_last_level_cache() ? bytes / (double)lc_last_level_cache() : 0.0,
                            "of_ceiling", bytes * (double)tokens / d / read_rate(b)));
  return LC_OK;
}

lc_status lc_bench_decode(lc_bench_run *b) {
  return on_each(b, b->opts->prompt_tokens + b->opts->tokens, measure_decode);
}

/* ---- prefill ---- */

/* Multiply-adds, twice, that a token's linear layers need; the head sees the last token only. */
static double linear_flops(const lc_net *net) {
  double n = 0;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].kind == LC_KIND_LINEAR)
      n += 2 * (double)net->weights.w[i].M * (double)net->weights.w[i].N;
  return n;
}

/* Of what multiplies. */
static double product_peak(const lc_bench_run *b, const subject *x) {
  const lc_ceilings *c = &b->ceilings;
  bool int8 = wants_int8(b) && lc_gemm_takes_q8(b->cli->ctx, lc_dtype_by_name(x->form), x->dtype);
  if (int8 && c->int8 > 0) return c->int8;
  return x->dtype == LC_F32 ? c->f32 : c->amx_bf16 > 0 ? c->amx_bf16 : c->bf16 > 0 ? c->bf16 : c->f32;
}

static lc_status measure_prefill(lc_bench_run *b, subject *x) {
  double peak = product_peak(b, x), t[64];
  int times = (int)lc_min64(64, b->opts->repeat);
  for (int64_t T = 32; T <= x->context; T *= 2) {
    for (int i = -1; i < times; i++) {
      lc_session_truncate(x->s, 0);
      double t0 = lc_now();
      LC_TRY(lc_session_feed(x->s, x->ids, T, false, x->logits));
      if (i >= 0) t[i] = lc_now() - t0;
    }
    double seconds = lc_bench_median(t, times), rate = (double)T / seconds;
    lc_bench_row(b, json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:s, s:f}", "what", "prefill", "form", x->form,
                              "dtype", lc_dtype_get(x->dtype)->name, "T", (json_int_t)T, "seconds", seconds,
                              "rate", rate, "unit", "tokens/s", "of_ceiling",
                              rate * linear_flops(x->l.net) / peak));
  }
  return LC_OK;
}

lc_status lc_bench_prefill(lc_bench_run *b) {
  return on_each(b, 0, measure_prefill);
}

/* ---- load ---- */

enum { OPEN, NET, TOKENIZER, SESSION, FIRST, WITHIN, PROGRAM, PARTS };
static const char *const part_names[PARTS] = {"open",        "net", "tokenizer", "session",
                                              "first-token", "all", "program"};

/* Each part's seconds of one start inside this process, with a prompt of a few tokens. */
static lc_status start_once(lc_bench_run *b, lc_dtype dtype, double *seconds, double *bytes) {
  lc_ctx *ctx = b->cli->ctx;
  lc_loaded l = {0};
  lc_session *s = NULL;
  lc_ids ids = {0};
  float *logits = NULL;
  double t[PARTS] = {lc_now()};
  lc_status st = lc_model_open(ctx, b->opts->model, &l.model);
  t[1] = lc_now();
  if (!st) st = lc_net_new(l.model, dtype, &l.net);
  t[2] = lc_now();
  if (!st) st = lc_net_tokenizer(l.net, &l.tok);
  if (!st) st = lc_tokenize(l.tok, "Once upon a time", 16, true, &ids);
  t[3] = lc_now();
  if (!st) st = lc_session_new(l.net, lc_min64(l.model->config.context, ids.n + 128), ids.n, dtype, &s);
  if (!st && !(logits = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)l.model->config.V, sizeof *logits)))
    st = LC_FAILED;
  t[4] = lc_now();
  if (!st) lc_session_int8(s, !b->opts->exact && dtype != LC_F32);
  if (!st) st = lc_session_feed(s, ids.id, ids.n, false, logits);
  lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
  if (!st) lc_sample(&o, logits, l.model->config.V, ids.id, ids.n, 0);
  t[5] = lc_now();
  for (int i = 0; i < WITHIN; i++) seconds[i] = t[i + 1] - t[i];
  seconds[WITHIN] = t[WITHIN] - t[0];
  if (!st) *bytes = bytes_a_token(l.net);
  lc_free(ctx, logits);
  lc_ids_free(ctx, &ids);
  lc_session_free(s);
  if (l.net) lc_net_free(l.net);
  if (l.model) lc_model_close(l.model);
  return st;
}

/* From starting this program anew, as `generate -n 1`, to its end. */
static lc_status start_program(lc_bench_run *b, double *seconds) {
  char threads[24];
  snprintf(threads, sizeof threads, "%d", lc_threads(b->cli->ctx));
  char *argv[] = {"lacuna",
                  "generate",
                  "-m",
                  b->opts->model,
                  "-p",
                  "Once upon a time",
                  "--max-tokens",
                  "1",
                  "--temp",
                  "0",
                  "--quiet",
                  "--threads",
                  threads,
                  "--dtype",
                  (char *)b->opts->train.dtype,
                  NULL};
  posix_spawn_file_actions_t quiet;
  pid_t child;
  int status = -1;
  if (posix_spawn_file_actions_init(&quiet)) return lc_fail(b->cli->ctx, "out of memory");
  posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  double t0 = lc_now();
  int failed = posix_spawn(&child, "/proc/self/exe", &quiet, NULL, argv, environ);
  if (!failed) waitpid(child, &status, 0);
  *seconds = lc_now() - t0;
  posix_spawn_file_actions_destroy(&quiet);
  return !failed && !status ? LC_OK
                            : lc_fail(b->cli->ctx, "%s: `generate` could not be run on it", b->opts->model);
}

lc_status lc_bench_load(lc_bench_run *b) {
  double t[PARTS][64], one[PARTS], bytes = 0;
  lc_dtype dtype;
  int times = (int)lc_min64(64, b->opts->repeat);
  if (!b->opts->model) return lc_usage(b->cli->ctx, "-m MODEL is needed");
  LC_TRY(lc_cli_dtype(b->cli, b->opts->train.dtype, &dtype));
  for (int i = -1; i < times; i++) { /* the first round brings the file into the page cache */
    LC_TRY(start_once(b, dtype, one, &bytes));
    LC_TRY(start_program(b, &one[PROGRAM]));
    for (int p = 0; p < PARTS && i >= 0; p++) t[p][i] = one[p];
  }
  for (int p = 0; p < PARTS; p++) {
    double seconds = lc_bench_median(t[p], times);
    json_t *row = json_pack("{s:s, s:s, s:f}", "what", part_names[p], "dtype", lc_dtype_get(dtype)->name,
                            "seconds", seconds);
    if (p == FIRST) json_object_set_new(row, "of_ceiling", json_real(bytes / seconds / read_rate(b)));
    lc_bench_row(b, row);
  }
  return LC_OK;
}
