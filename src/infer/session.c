/* A session: one thread of control over a net. One graph, two plans of it (many rows for prompts, one row for
 * decoding), one cache. */
#include "infer/kv.h"
#include "infer/session.h"
#include <string.h>

struct lc_session {
  lc_net *net;
  lc_net_graph graph;
  lc_plan *plan[2]; /* prefill, single */
  lc_run *run[2];
  struct lc_kv *kv;
  int64_t context, rows, length;
  int32_t *ids; /* of the positions in the cache */
};

/* Learned positions end somewhere; rotary ones go on. */
static lc_status check_context(const lc_net *net, int64_t context) {
  if (context < 1) return lc_usage(net->ctx, "a context of %lld positions", (long long)context);
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    if (w->kind == LC_KIND_POSITION && context > w->M)
      return lc_usage(net->ctx, "a context of %lld positions: '%s' has %lld", (long long)context, w->name,
                      (long long)w->M);
  }
  return LC_OK;
}

lc_status lc_session_new(lc_net *net, int64_t context, int64_t prefill_rows, lc_dtype kv, lc_session **out) {
  const lc_config *c = &net->model->config;
  *out = NULL;
  if (c->task != LC_TASK_LM)
    return lc_fail(net->ctx, "%s: a %s predicts no next token: it cannot generate", net->model->path,
                   lc_architecture(c));
  if (!context) context = c->context;
  LC_TRY(check_context(net, context));
  lc_session *s = lc_alloc(net->ctx, LC_MEM_OTHER, sizeof *s);
  if (!s) return LC_FAILED;
  s->net = net;
  s->context = context;
  s->rows = lc_max64(1, lc_min64(prefill_rows ? prefill_rows : 256, context));
  s->ids = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)context, sizeof *s->ids);
  lc_status st = s->ids ? LC_OK : LC_FAILED;
  if (st) goto done;
  LC_GO(lc_kv_new(net->ctx, (int)c->L, c->G, c->D, kv, lc_ceil_div(context, LC_KV_PAGE), 1, &s->kv));
  LC_GO(lc_net_build(net, false, NULL, NULL, &s->graph));
  for (int i = 0; i < 2; i++) {
    LC_GO(lc_plan_new(s->graph.g, &(lc_plan_opts){.rows = i ? 1 : s->rows}, &s->plan[i]));
    LC_GO(lc_run_new(net->ctx, s->plan[i], &s->run[i]));
    s->run[i]->kv = s->kv;
    s->run[i]->kv_ops = &lc_kv_pages;
  }
  *out = s;
done:
  if (st) lc_session_free(s);
  return st;
}

void lc_session_free(lc_session *s) {
  if (!s) return;
  for (int i = 0; i < 2; i++) {
    if (s->run[i]) lc_run_free(s->run[i]);
    if (s->plan[i]) lc_plan_free(s->plan[i]);
  }
  lc_net_graph_free(&s->graph);
  lc_kv_free(s->kv);
  lc_free(s->net->ctx, s->ids);
  lc_free(s->net->ctx, s);
}

void lc_session_int8(lc_session *s, bool on) {
  for (int i = 0; i < 2; i++) s->run[i]->int8 = on;
}

void lc_session_truncate(lc_session *s, int64_t n) {
  if (n < 0 || n >= s->length) return;
  s->length = n;
  lc_kv_truncate(s->kv, 0, n);
}

int64_t lc_session_length(const lc_session *s) {
  return s->length;
}

lc_net *lc_session_net(const lc_session *s) {
  return s->net;
}

int64_t lc_session_context(const lc_session *s) {
  return s->context;
}

const int32_t *lc_session_ids(const lc_session *s) {
  return s->ids;
}

/* One pass over n <= rows tokens. logits: of the last `wanted` rows. */
static lc_status pass(lc_session *s, const int32_t *ids, int64_t n, int64_t wanted, float *logits) {
  lc_run *run = s->run[n == 1];
  lc_segment seg = {.row1 = n, .pos0 = s->length};
  LC_TRY(lc_run_begin(run, n, &seg, 1));
  int32_t *pos = lc_data(run, s->graph.pos);
  memcpy(lc_data(run, s->graph.ids), ids, (size_t)n * sizeof *ids);
  for (int64_t t = 0; t < n; t++) pos[t] = (int32_t)(s->length + t);
  LC_TRY(lc_forward(run, NULL));
  if (wanted) LC_TRY(lc_head_logits(run, s->graph.hidden, s->graph.head, n - wanted, n, logits));
  memcpy(s->ids + s->length, ids, (size_t)n * sizeof *ids);
  s->length += n;
  return LC_OK;
}

lc_status lc_session_feed(lc_session *s, const int32_t *ids, int64_t n, bool all, float *dst) {
  lc_ctx *ctx = s->net->ctx;
  int64_t V = s->net->model->config.V, before = s->length;
  if (n < 1) return lc_usage(ctx, "nothing to feed");
  if (n > s->context - s->length)
    return lc_fail(ctx, "%lld tokens do not fit: %lld of the context's %lld positions are taken",
                   (long long)n, (long long)s->length, (long long)s->context);
  for (int64_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= V)
      return lc_fail(ctx, "token %lld is %d: the vocabulary has %lld", (long long)i, (int)ids[i],
                     (long long)V);
  for (int64_t t = 0; t < n;) {
    int64_t k = lc_min64(s->rows, n - t), wanted = !dst ? 0 : all ? k : t + k == n;
    lc_status st = pass(s, ids + t, k, wanted, all && dst ? dst + t * V : dst);
    if (st) {
      lc_session_truncate(s, before);
      return st;
    }
    t += k;
  }
  return LC_OK;
}
