/* Generation: feed the prompt, then choose, emit and feed one token at a time.
 *
 * Text leaves only when it is final: whole UTF-8 characters, and nothing that could still turn out to be the
 * start of a stop string, so a stop string never shows, wherever token boundaries fall. The text from the
 * stop string on is dropped. A stop id ends the text and is no part of it; with ignore_eos stop ids are never
 * chosen (as llama.cpp does). The last token is not fed: the next call may. */
#include "infer/session.h"
#include <math.h>
#include <string.h>

typedef struct {
  lc_session *s;
  lc_ctx *ctx;
  const lc_tokenizer *tok;
  const lc_sample_opts *o;
  lc_text_fn text;
  void *arg;
  lc_utf8_stream utf8;
  lc_bytes held; /* decoded, not yet given away */
  bool stopped;  /* by a stop string, or by the receiver */
  const char *reason;
} stream;

/* The earliest stop string in held, or n. */
static size_t find_stop(const stream *x) {
  size_t first = x->held.n;
  for (int i = 0; i < x->o->n_stop; i++) {
    size_t k = strlen(x->o->stop[i]);
    for (size_t p = 0; k && p + k <= x->held.n && p < first; p++)
      if (!memcmp(x->held.data + p, x->o->stop[i], k)) first = p;
  }
  return first;
}

/* How many bytes at the end of held begin a stop string. */
static size_t tail_of_stop(const stream *x) {
  size_t longest = 0;
  for (int i = 0; i < x->o->n_stop; i++) {
    size_t k = strlen(x->o->stop[i]);
    for (size_t t = k ? k - 1 : 0; t > longest; t--)
      if (t <= x->held.n && !memcmp(x->held.data + x->held.n - t, x->o->stop[i], t)) longest = t;
  }
  return longest;
}

/* Gives away the first n bytes of held. */
static void give(stream *x, size_t n) {
  if (!n) return;
  if (x->text && x->text(x->arg, x->held.data, n)) {
    x->stopped = true;
    x->reason = "callback";
  }
  memmove(x->held.data, x->held.data + n, x->held.n - n);
  x->held.n -= n;
  x->held.data[x->held.n] = 0;
}

/* id -1: the end, nothing more will come. */
static lc_status emit(stream *x, int32_t id) {
  LC_TRY(lc_detokenize_next(x->tok, &x->utf8, id, id < 0, &x->held));
  size_t stop = find_stop(x);
  if (stop < x->held.n) {
    x->reason = "stop";
    give(x, stop);
    x->held.n = 0;
    x->stopped = true;
    return LC_OK;
  }
  give(x, id < 0 ? x->held.n : x->held.n - tail_of_stop(x));
  return LC_OK;
}

static bool is_stop(const int32_t *stops, int n, int32_t id) {
  for (int i = 0; i < n; i++)
    if (stops[i] == id) return true;
  return false;
}

/* History for the repeat penalty: what is in the cache, which is the prompt and all that was chosen and fed.
 */
static int32_t choose(stream *x, float *logits, const int32_t *stops, int n_stops, uint64_t draw) {
  int64_t V = lc_session_net(x->s)->model->config.V;
  for (int i = 0; i < n_stops && x->o->ignore_eos; i++)
    if (stops[i] >= 0 && stops[i] < V) logits[stops[i]] = -INFINITY;
  return lc_sample(x->o, logits, V, lc_session_ids(x->s), lc_session_length(x->s), draw);
}

static lc_status decode(stream *x, float *logits, lc_ids *out, int64_t *generated) {
  int n_stops;
  const int32_t *stops = lc_token_stops(x->tok, &n_stops);
  int64_t most = x->o->max_tokens < 0 ? INT64_MAX : x->o->max_tokens;
  x->reason = "length";
  for (int64_t i = 0; i < most && !x->stopped; i++) {
    if (lc_stop_requested(x->ctx)) return LC_STOPPED;
    int32_t id = choose(x, logits, stops, n_stops, (uint64_t)i);
    if (!(logits[id] > -INFINITY))
      return lc_fail(
          x->ctx, "%s: after %lld tokens no logit is a number: a weight or an adapter's value is not finite",
          lc_session_net(x->s)->model->path, (long long)lc_session_length(x->s));
    if (!x->o->ignore_eos && is_stop(stops, n_stops, id)) {
      x->reason = "stop";
      break;
    }
    ++*generated;
    if (out) LC_TRY(lc_ids_push(x->ctx, out, id));
    LC_TRY(emit(x, id));
    if (x->stopped || i + 1 == most || lc_session_length(x->s) == lc_session_context(x->s)) break;
    LC_TRY(lc_session_feed(x->s, &id, 1, false, logits));
  }
  return x->stopped ? LC_OK : emit(x, -1);
}

lc_status lc_generate_ids(lc_session *s, const lc_tokenizer *tok, const int32_t *prompt, int64_t n,
                          const lc_sample_opts *o, lc_text_fn text, void *arg, lc_ids *out,
                          lc_gen_stats *stats) {
  lc_ctx *ctx = lc_session_net(s)->ctx;
  stream x = {.s = s, .ctx = ctx, .tok = tok, .o = o, .text = text, .arg = arg};
  lc_gen_stats made = {.prompt_tokens = n};
  float *logits = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)lc_session_net(s)->model->config.V, sizeof *logits);
  lc_status st = logits ? LC_OK : LC_FAILED;
  if (st) goto done;
  double t0 = lc_now();
  LC_GO(lc_session_feed(s, prompt, n, false, logits));
  double t1 = lc_now();
  made.prefill_seconds = t1 - t0;
  LC_GO(decode(&x, logits, out, &made.generated_tokens));
  made.decode_seconds = lc_now() - t1;
  made.finish_reason = x.reason;
  if (stats) *stats = made;
done:
  lc_free(ctx, x.held.data);
  lc_free(ctx, logits);
  return st;
}
