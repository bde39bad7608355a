/* Perplexity of a text or of rows, in a run of its own over any net.
 *
 * A text is one stream of tokens, cut into windows of `context` tokens that start every `stride` tokens. A
 * window scores its tokens that no earlier window has scored, except its first, which has nothing before it.
 * A last window shorter than the context is dropped (tail scores it); when no window is full the text is one
 * window. llama.cpp's convention: windows side by side, of each the tokens after its middle. With bos the
 * model's BOS stands in the place of a window's first token, as llama.cpp does it, so what is scored does not
 * change.
 *
 *   perplexity = exp(Σ nll / n);  standard error = perplexity · (standard error of the mean nll) */
#include "train/internal.h"
#include <math.h>
#include <string.h>

enum { PASS_ROWS = 1024, MAX_BATCH = 1024 };

/* Windows as examples: `at` first token, `n` tokens, tokens from `from` on are scored. */
typedef struct {
  int64_t at, n, from;
} window;

typedef struct {
  lc_net *net;
  const lc_ids *text;
  int64_t context, stride;
  bool tail, llama_cpp;
  int32_t bos; /* -1: none */
} cut;

/* The i-th window; false when there is none. */
static bool window_at(const cut *c, int64_t i, window *w) {
  int64_t at = i * c->stride, before = i ? at - c->stride + c->context : 0; /* end of what is scored */
  if (i == 0 && c->text->n <= c->context)
    return *w = (window){0, c->text->n, c->llama_cpp ? c->text->n / 2 + 1 : 1}, true;
  if (at + c->context > c->text->n) {
    if (!c->tail || i == 0 || before >= c->text->n) return false;
    *w = (window){at, c->text->n - at, 0};
  } else {
    *w = (window){at, c->context, 0};
  }
  w->from = c->llama_cpp ? c->context / 2 + 1 : lc_max64(1, before - at);
  return w->from < w->n;
}

/* Running sums of nll and its square, in order. */
typedef struct {
  double sum, squares;
  int64_t n;
} tally;

static lc_status add(lc_ctx *ctx, tally *t, double nll) {
  if (!isfinite(nll)) return lc_fail(ctx, "the loss of scored token %lld is not finite", (long long)t->n + 1);
  t->sum += nll;
  t->squares += nll * nll;
  t->n++;
  return LC_OK;
}

static void conclude(const tally *t, lc_score *s) {
  s->n = t->n;
  s->nll = t->sum / (double)t->n;
  s->value = exp(s->nll);
  double var = t->n > 1 ? (t->squares - t->sum * s->nll) / (double)(t->n - 1) : 0;
  s->stderr_ = s->value * sqrt(fmax(var, 0) / (double)t->n);
}

/* ---- windows through the plan, several a pass
 * ------------------------------------------------------------------------- */

typedef struct {
  lc_stage stage;
  lc_example example[MAX_BATCH];
  int32_t *ids;
  uint8_t *target;
  int64_t count, rows;
} batch;

static lc_status open_batch(lc_net *net, int64_t longest, int64_t room, batch *b) {
  lc_stage_opts o = {.rows = room, .segments = lc_min64(MAX_BATCH, lc_max64(1, room / lc_min64(2, longest)))};
  b->stage.ctx = net->ctx;
  LC_TRY(lc_stage_open(net, &o, &b->stage));
  b->ids = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)room, sizeof *b->ids);
  b->target = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)room, sizeof *b->target);
  return b->ids && b->target ? LC_OK : LC_FAILED;
}

static void close_batch(lc_ctx *ctx, batch *b) {
  lc_stage_close(&b->stage);
  lc_free(ctx, b->ids);
  lc_free(ctx, b->target);
}

static bool has_room(const batch *b, int64_t n) {
  return b->count < b->stage.max_segments && b->rows + n <= lc_plan_rows(b->stage.plan);
}

/* Runs what is collected and tallies the scored rows in order. */
static lc_status run_batch(batch *b, tally *t) {
  double sum = 0;
  int64_t targets = 0;
  if (b->count == 0) return LC_OK;
  LC_TRY(lc_stage_pass(&b->stage, b->example, b->count, false, false, 1, NULL, &sum, &targets));
  const float *nll = lc_data(b->stage.run, b->stage.graph.nll);
  for (int64_t i = 0, r = 0; i < b->count; r += b->example[i].n, i++)
    for (int64_t k = 0; k + 1 < b->example[i].n; k++)
      if (b->example[i].target[k + 1]) LC_TRY(add(b->stage.ctx, t, (double)nll[r + k]));
  b->count = b->rows = 0;
  return LC_OK;
}

static void put_window(const cut *c, const window *w, batch *b) {
  int32_t *ids = b->ids + b->rows;
  uint8_t *target = b->target + b->rows;
  memcpy(ids, c->text->id + w->at, (size_t)w->n * sizeof *ids);
  if (c->bos >= 0) ids[0] = c->bos;
  for (int64_t k = 0; k < w->n; k++) target[k] = k >= w->from;
  b->example[b->count++] = (lc_example){.id = ids, .target = target, .n = w->n, .n_targets = w->n - w->from};
  b->rows += w->n;
}

static lc_status score_windows(const cut *c, int64_t limit, tally *t) {
  lc_ctx *ctx = c->net->ctx;
  int64_t longest = lc_min64(c->context, c->text->n);
  window w;
  lc_status st = LC_OK;
  batch *b = lc_alloc(ctx, LC_MEM_OTHER, sizeof *b);
  if (!b) return LC_FAILED;
  LC_GO(open_batch(c->net, longest, lc_max64(longest, PASS_ROWS), b));
  for (int64_t i = 0; (limit == 0 || i < limit) && window_at(c, i, &w); i++) {
    if (lc_stop_requested(ctx)) LC_GO(LC_STOPPED);
    if (!has_room(b, w.n)) LC_GO(run_batch(b, t));
    put_window(c, &w, b);
  }
  st = run_batch(b, t);
done:
  close_batch(ctx, b);
  lc_free(ctx, b);
  return st;
}

/* ---- windows token by token through the cache
 * ---------------------------------------------------------------------------- */

/* -log softmax(logits)[id], in f64. */
static double nll_of(const float *logits, int64_t V, int32_t id) {
  double top = (double)logits[0], sum = 0;
  for (int64_t v = 1; v < V; v++) top = fmax(top, (double)logits[v]);
  for (int64_t v = 0; v < V; v++) sum += exp((double)logits[v] - top);
  return top + log(sum) - (double)logits[id];
}

static lc_status score_one_by_one(const cut *c, int64_t limit, tally *t) {
  lc_ctx *ctx = c->net->ctx;
  int64_t V = c->net->model->config.V;
  lc_session *s = NULL;
  window w;
  lc_status st = LC_OK;
  float *logits = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)V, sizeof *logits);
  if (!logits) return LC_FAILED;
  LC_GO(lc_session_new(c->net, lc_min64(c->context, c->text->n), 1, LC_F32, &s));
  for (int64_t i = 0; (limit == 0 || i < limit) && window_at(c, i, &w); i++) {
    lc_session_truncate(s, 0);
    for (int64_t k = 0; k + 1 < w.n; k++) {
      if (lc_stop_requested(ctx)) LC_GO(LC_STOPPED);
      int32_t id = k == 0 && c->bos >= 0 ? c->bos : c->text->id[w.at + k];
      LC_GO(lc_session_feed(s, &id, 1, false, logits));
      if (k + 1 >= w.from) LC_GO(add(ctx, t, nll_of(logits, V, c->text->id[w.at + k + 1])));
    }
  }
done:
  lc_session_free(s);
  lc_free(ctx, logits);
  return st;
}

lc_status lc_eval_perplexity(lc_net *net, const lc_tokenizer *tok, const lc_ids *stream,
                             const lc_perplexity_opts *o, lc_score *score) {
  lc_ctx *ctx = net->ctx;
  const lc_config *m = &net->model->config;
  cut c = {.net = net,
           .text = stream,
           .context = o->context ? o->context : lc_min64(512, m->context),
           .tail = o->tail,
           .llama_cpp = o->llama_cpp,
           .bos = -1};
  c.stride = o->llama_cpp || o->stride == 0 ? c.context : o->stride;
  *score = (lc_score){.context = c.context, .stride = c.stride};
  if (c.context < 2 || c.context > m->context)
    return lc_usage(ctx, "perplexity: context is %lld, the model has %lld positions", (long long)c.context,
                    (long long)m->context);
  if (c.stride < 1 || c.stride > c.context)
    return lc_usage(ctx, "perplexity: stride is %lld, allowed is 1 to the context, %lld", (long long)c.stride,
                    (long long)c.context);
  if (o->llama_cpp && o->stride && o->stride != c.context)
    return lc_usage(
        ctx, "perplexity: llama.cpp's windows lie side by side, a stride of %lld is not its convention",
        (long long)o->stride);
  if (stream->n < (c.llama_cpp ? 4 : 2))
    return lc_fail(ctx, "perplexity: %lld tokens are too few to score", (long long)stream->n);
  if (o->bos) {
    c.bos = tok && lc_token_bos(tok) >= 0 ? lc_token_bos(tok) : m->bos;
    if (c.bos < 0) return lc_usage(ctx, "perplexity: the model has no BOS token");
  }
  tally t = {0};
  LC_TRY(o->incremental ? score_one_by_one(&c, o->limit, &t) : score_windows(&c, o->limit, &t));
  conclude(&t, score);
  return LC_OK;
}

/* ---- rows, each alone
 * -------------------------------------------------------------------------------------------------------- */

lc_status lc_eval_rows(lc_net *net, const lc_dataset *data, int64_t limit, lc_score *score) {
  lc_ctx *ctx = net->ctx;
  int64_t rows = 0, n = lc_data_count(data);
  tally t = {0};
  lc_status st = LC_OK;
  if (limit) n = lc_min64(n, limit);
  *score = (lc_score){0};
  if (n == 0) return lc_fail(ctx, "evaluation: no rows");
  batch *b = lc_alloc(ctx, LC_MEM_OTHER, sizeof *b);
  if (!b) return LC_FAILED;
  b->stage.ctx = ctx;
  LC_GO(lc_longest(ctx, data, 1, NULL, &rows));
  score->context = rows;
  LC_GO(open_batch(net, rows, lc_max64(rows, PASS_ROWS), b));
  for (int64_t i = 0; i < n; i++) {
    lc_example e = lc_data_get(data, i);
    if (lc_stop_requested(ctx)) LC_GO(LC_STOPPED);
    if (!has_room(b, e.n)) LC_GO(run_batch(b, &t));
    b->example[b->count++] = e;
    b->rows += e.n;
  }
  LC_GO(run_batch(b, &t));
  if (t.n == 0)
    LC_GO(lc_fail(ctx, "evaluation: no row has a target (a prompt with an answer is for exact match)"));
  conclude(&t, score);
done:
  close_batch(ctx, b);
  lc_free(ctx, b);
  return st;
}
