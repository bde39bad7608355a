/* lacuna.h over the rooms below: names become table rows, strings become enumerators, and a net opens its tokenizer once. Functions that lacuna.h
 * shares with the internal headers (lc_ctx_new, lc_model_open, lc_session_feed, ...) are the internal ones; including both here lets the compiler
 * compare the declarations. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "infer/session.h"
#include "kernels/kernels.h"
#include "lacuna.h"
#include "train/objective.h"

const char *lc_version(void) {
  return LC_VERSION;
}

/* ---- model and net ---- */

int64_t lc_model_vocabulary(const lc_model *m) {
  return m->config.V;
}

static lc_status compute_dtype(lc_ctx *ctx, const char *name, lc_dtype *out) {
  *out = strcmp(name, "auto") ? lc_dtype_by_name(name) : lc_has_bf16_gemm(ctx) ? LC_BF16 : LC_F32;
  return *out == LC_F32 || *out == LC_BF16
             ? LC_OK
             : lc_usage(ctx, "dtype '%s': auto, f32 and bf16 are possible", name);
}

lc_status lc_net_open(const lc_model *m, const char *dtype, lc_net **out) {
  lc_dtype d;
  *out = NULL;
  LC_TRY(compute_dtype(m->ctx, dtype, &d));
  return lc_net_new(m, d, out);
}

lc_status lc_net_write(lc_net *net, const char *path, const char *dtype) {
  size_t n = strlen(path);
  bool gguf = n > 5 && !strcmp(path + n - 5, ".gguf");
  lc_dtype d = lc_dtype_by_name(dtype);
  if (d != LC_F32 && d != LC_F16 && d != LC_BF16 && !(d == LC_Q8_0 && gguf))
    return lc_usage(net->ctx, "dtype '%s': f32, f16, bf16 and, in GGUF, q8_0 are possible", dtype);
  return gguf ? lc_net_write_gguf(net, path, d, NULL) : lc_net_write_hf(net, path, d, NULL);
}

/* ---- adapters ---- */

lc_status lc_adapter_open(lc_net *net, const char *dir, float scale, const char *apply, lc_adapter **out) {
  static const char *const names[] = {[LC_PATCH] = "patch", [LC_IN_PLACE] = "in-place", [LC_ASIDE] = "aside"};
  *out = NULL;
  for (int i = 0; i < 3; i++)
    if (!strcmp(apply, names[i])) return lc_adapter_load(net, dir, scale, (lc_apply)i, out);
  return lc_usage(net->ctx, "apply '%s': patch, in-place and aside are possible", apply);
}

lc_status lc_adapter_scale(lc_adapter *a, float scale) {
  return lc_adapter_set(a, scale, a->n ? a->delta[0]->apply : LC_PATCH);
}

lc_status lc_adapter_write(const lc_adapter *a, const char *layout, const char *dir) {
  static const char *const names[] = {
      [LC_LAYOUT_PEFT_LORA] = "lora", [LC_LAYOUT_PEFT_SHIRA] = "shira", [LC_LAYOUT_NATIVE] = "native"};
  lc_adapter_meta meta = {.base_name = a->net->model->path};
  for (int i = 0; i < 3; i++)
    if (!strcmp(layout, names[i])) return lc_adapter_save(a, (lc_layout)i, dir, &meta);
  return lc_usage(a->net->ctx, "layout '%s': lora, shira and native are possible", layout);
}

/* ---- training ---- */

struct lc_options {
  lc_ctx *ctx;
  const lc_method *method;
  void *self; /* as the method's table says */
  lc_goal goal;
  lc_train_opts train;
};

lc_status lc_options_new(lc_ctx *ctx, const char *method, lc_options **out) {
  const lc_method *m = lc_method_find(method);
  *out = NULL;
  if (!m) return lc_usage(ctx, "there is no method '%s'", method);
  lc_options *o = lc_alloc(ctx, LC_MEM_OTHER, sizeof *o);
  if (!o) return LC_FAILED;
  o->ctx = ctx;
  o->method = m;
  o->self = lc_alloc(ctx, LC_MEM_OTHER, m->self_size);
  lc_status st = o->self ? lc_options_init(ctx, lc_train_options, &o->train) : LC_FAILED;
  if (!st) st = lc_options_init(ctx, m->options, o->self);
  if (st)
    lc_options_free(o);
  else
    *out = o;
  return st;
}

static void clear_goal(lc_options *o) {
  if (o->goal.self) lc_options_clear(o->ctx, o->goal.row->options, o->goal.self);
  lc_free(o->ctx, o->goal.self);
  o->goal = (lc_goal){0};
}

void lc_options_free(lc_options *o) {
  if (!o) return;
  lc_options_clear(o->ctx, lc_train_options, &o->train);
  if (o->self) lc_options_clear(o->ctx, o->method->options, o->self);
  lc_free(o->ctx, o->self);
  clear_goal(o);
  lc_free(o->ctx, o);
}

/* Another objective, with the defaults of its table. */
static lc_status put_objective(lc_options *o, const char *name) {
  const lc_objective *row = lc_objective_find(name);
  if (!row) return lc_usage(o->ctx, "there is no objective '%s'", name);
  clear_goal(o);
  void *self = lc_alloc(o->ctx, LC_MEM_OTHER, row->self_size ? row->self_size : 1);
  if (!self) return LC_FAILED;
  o->goal = (lc_goal){row, self};
  return lc_options_init(o->ctx, row->options, self);
}

static lc_status put_with(lc_options *o, const char *key, const char *value) {
  char what[96];
  if (!o->goal.row || !o->goal.row->options)
    return lc_usage(o->ctx, "with.%s: %s", key,
                    o->goal.row ? "the objective has no options" : "put the objective first");
  snprintf(what, sizeof what, "objective %s", o->goal.row->name);
  return lc_options_set(o->ctx, o->goal.row->options, what, o->goal.self, key, value);
}

lc_status lc_options_put(lc_options *o, const char *key, const char *value) {
  char what[96];
  snprintf(what, sizeof what, "method %s", o->method->name);
  if (!strcmp(key, "objective")) return put_objective(o, value);
  if (!strncmp(key, "with.", 5)) return put_with(o, key + 5, value);
  if (o->method->options && lc_options_find(o->method->options, key))
    return lc_options_set(o->ctx, o->method->options, what, o->self, key, value);
  return lc_options_set(o->ctx, lc_train_options, "train", &o->train, key, value);
}

/* A run resolves its options and a method keeps state beside them, so each run gets a copy. `to` holds the defaults. */
static lc_status copy_options(lc_ctx *ctx, const lc_option *table, const void *from, void *to) {
  for (const lc_option *row = table; row && row->name; row++) {
    if (row->type == LC_OPT_STRING && !*(char *const *)((const char *)from + row->offset)) continue;
    char *text = lc_options_get(ctx, row, from);
    lc_status st = text ? lc_options_set(ctx, table, "train", to, row->name, text) : LC_FAILED;
    lc_free(ctx, text);
    LC_TRY(st);
  }
  return LC_OK;
}

typedef struct {
  lc_progress_fn fn;
  void *arg;
} progress;

static int tell(void *arg, const char *kind, const json_t *event) {
  const progress *p = arg;
  char *text = json_dumps(event, JSON_COMPACT | JSON_PRESERVE_ORDER);
  int stop = text ? p->fn(p->arg, kind, text) : 1;
  free(text);
  return stop;
}

/* The job's rows: of a model with labels by its labels, of one that sees pictures. */
static lc_status open_rows(lc_net *net, const lc_tokenizer *tok, const lc_train_opts *o, const lc_job *job,
                           lc_dataset **data, lc_dataset **eval) {
  lc_data_opts rows = {.seq = o->seq, .skip_bad = o->skip_bad};
  const char **names = NULL;
  lc_label_set labels;
  lc_status st = LC_OK;
  if (lc_task_has_labels(net->model->config.task)) {
    LC_GO(lc_net_labels(net, &names, &labels));
    rows.labels = &labels;
  }
  LC_GO(lc_rows_open(net, tok, job->data, &rows, data));
  if (job->eval_data) LC_GO(lc_rows_open(net, tok, job->eval_data, &rows, eval));
done:
  lc_free(net->ctx, names);
  return st;
}

static lc_status train(lc_net *net, const lc_options *o, lc_options *own, const lc_job *job, progress *p) {
  lc_dataset *data = NULL, *eval = NULL;
  lc_tokenizer *tok = NULL;
  lc_status st;
  LC_GO(copy_options(net->ctx, lc_train_options, &o->train, &own->train));
  LC_GO(copy_options(net->ctx, o->method->options, o->self, own->self));
  if (o->goal.row) LC_GO(put_objective(own, o->goal.row->name));
  if (o->goal.row) LC_GO(copy_options(net->ctx, o->goal.row->options, o->goal.self, own->goal.self));
  LC_GO(lc_train_resolve(net->ctx, &net->model->config, o->method, own->self, &own->train));
  if (!net->model->config.image) LC_GO(lc_net_tokenizer(net, &tok));
  net->compute = lc_dtype_by_name(own->train.dtype);
  LC_GO(open_rows(net, tok, &own->train, job, &data, &eval));
  lc_train_io io = {.out = job->out,
                    .resume = job->resume,
                    .overwrite = job->overwrite,
                    .data_path = job->data,
                    .event = p->fn ? tell : NULL,
                    .event_arg = p,
                    .goal = own->goal};
  st = lc_train(net, tok, data, eval, o->method, own->self, &own->train, &io);
done:
  lc_data_free(data);
  lc_data_free(eval);
  return st;
}

/* A request to stop ends with the call that it stopped. */
static lc_status acknowledge(lc_ctx *ctx, lc_status st) {
  if (st == LC_STOPPED) lc_request_stop(ctx, 0);
  return st;
}

lc_status lc_fine_tune(lc_net *net, const lc_options *o, const lc_job *job, lc_progress_fn fn, void *arg) {
  progress p = {fn, arg};
  lc_options *own;
  if (job->size != sizeof *job)
    return lc_usage(net->ctx, "lc_job has %zu bytes, %zu are expected: begin with LC_JOB_INIT", job->size,
                    sizeof *job);
  if (!job->data || !job->out) return lc_usage(net->ctx, "a job needs data and out");
  LC_TRY(lc_options_new(net->ctx, o->method->name, &own));
  lc_status st = train(net, o, own, job, &p);
  lc_options_free(own);
  return acknowledge(net->ctx, st);
}

/* ---- evaluation, tokens ---- */

lc_status lc_perplexity(lc_net *net, const char *text, size_t n, int64_t context, lc_result *out) {
  lc_tokenizer *tok;
  lc_ids ids = {0};
  lc_score score = {0};
  lc_status st;
  LC_GO(lc_net_tokenizer(net, &tok));
  LC_GO(lc_tokenize(tok, text, n, false, &ids));
  LC_GO(lc_eval_perplexity(net, tok, &ids, &(lc_perplexity_opts){.context = context}, &score));
  *out = (lc_result){score.value, score.nll, score.stderr_, score.n};
done:
  lc_ids_free(net->ctx, &ids);
  return acknowledge(net->ctx, st);
}

lc_status lc_text_to_ids(lc_net *net, const char *text, size_t n, bool special, int32_t *ids, int64_t room,
                         int64_t *count) {
  lc_tokenizer *tok;
  lc_ids made = {0};
  lc_status st;
  LC_GO(lc_net_tokenizer(net, &tok));
  LC_GO(lc_tokenize(tok, text, n, special, &made));
  *count = made.n;
  if (room > 0 && made.n) memcpy(ids, made.id, (size_t)lc_min64(made.n, room) * sizeof *ids);
done:
  lc_ids_free(net->ctx, &made);
  return st;
}

lc_status lc_ids_to_text(lc_net *net, const int32_t *ids, int64_t n, char *text, size_t room, size_t *count) {
  lc_tokenizer *tok;
  lc_bytes made = {0};
  lc_status st;
  LC_GO(lc_net_tokenizer(net, &tok));
  LC_GO(lc_detokenize(tok, ids, n, false, &made));
  *count = made.n;
  if (room && made.n) memcpy(text, made.data, made.n < room ? made.n : room);
done:
  lc_free(net->ctx, made.data);
  return st;
}

/* ---- sessions ---- */

lc_status lc_session_open(lc_net *net, int64_t context, lc_session **out) {
  int64_t most = net->model->config.context;
  if (context == 0) context = lc_min64(most, 2048);
  return lc_session_new(net, context, lc_min64(context, 512), net->compute, out);
}

static lc_status prompt_ids(lc_net *net, const lc_tokenizer *tok, const char *prompt, const lc_generation *g,
                            lc_ids *ids) {
  if (g->chat) {
    const lc_template *t;
    const lc_message turn[2] = {{"system", g->system}, {"user", prompt}};
    LC_TRY(lc_template_for(tok, &t));
    return lc_template_render(t, tok, g->system ? turn : turn + 1, g->system ? 2 : 1, true, ids, NULL);
  }
  if (lc_token_adds_bos(tok) && lc_token_bos(tok) >= 0) LC_TRY(lc_ids_push(net->ctx, ids, lc_token_bos(tok)));
  return lc_tokenize(tok, prompt, strlen(prompt), true, ids);
}

static int to_nobody(void *arg, const char *text, size_t n) {
  return 0;
}

lc_status lc_generate(lc_session *s, const char *prompt, const lc_generation *g, lc_text_fn fn, void *arg,
                      lc_generated *out) {
  lc_net *net = lc_session_net(s);
  lc_tokenizer *tok;
  lc_ids ids = {0}, made = {0};
  lc_gen_stats stats = {0};
  lc_status st;
  if (g->size != sizeof *g)
    return lc_usage(net->ctx, "lc_generation has %zu bytes, %zu are expected: begin with LC_GENERATION_INIT",
                    g->size, sizeof *g);
  lc_sample_opts o = {.temp = g->temperature,
                      .top_p = g->top_p,
                      .min_p = g->min_p,
                      .repeat_penalty = g->repeat_penalty,
                      .top_k = g->top_k,
                      .repeat_last_n = 64,
                      .max_tokens = g->max_tokens,
                      .seed = g->seed,
                      .ignore_eos = g->ignore_eos,
                      .stop = g->stop,
                      .n_stop = g->n_stop};
  LC_GO(lc_net_tokenizer(net, &tok));
  LC_GO(prompt_ids(net, tok, prompt, g, &ids));
  if (!ids.n) {
    st = lc_usage(net->ctx, "the prompt is empty");
    goto done;
  }
  lc_session_truncate(s, 0);
  LC_GO(lc_generate_ids(s, tok, ids.id, ids.n, &o, fn ? fn : to_nobody, arg, &made, &stats));
  if (out) *out = (lc_generated){stats.prompt_tokens, stats.generated_tokens, stats.finish_reason};
done:
  lc_ids_free(net->ctx, &ids);
  lc_ids_free(net->ctx, &made);
  return acknowledge(net->ctx, st);
}
