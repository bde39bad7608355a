/* Rollouts: answers sampled from the weights being trained, and their rewards.
 *
 * A session on the run's own net decodes (effective weights: base and deltas as they are now; nothing is exported). A prompt is
 * fed once, and its G answers go on from there. An answer ends with the end token, which is one of its targets, or after
 * max-tokens. Draws are counter-based: answer i of sampling `turn` has the same tokens whatever ran before, so a resumed run
 * samples what the uninterrupted one did. */
#include "train/objective.h"
#include <math.h>
#include <string.h>

/* ---- memory ---- */

void lc_rollout_free(lc_ctx *ctx, lc_rollout *r) {
  if (!r) return;
  lc_session_free(r->session);
  lc_extractor_free(ctx, r->extract);
  lc_free(ctx, r->id);
  lc_free(ctx, r->target);
  lc_free(ctx, r->size);
  lc_free(ctx, r->prompt);
  lc_free(ctx, r->reward);
  lc_free(ctx, r->example);
  lc_free(ctx, r->logits);
  lc_free(ctx, r->text.data);
  lc_free(ctx, r);
}

static lc_status find_reward(lc_ctx *ctx, const char *name, const lc_reward **out) {
  const char *names[16];
  for (int i = 0; i < lc_n_rewards; i++) {
    names[i] = lc_rewards[i].name;
    if (name && !strcmp(name, names[i])) return *out = &lc_rewards[i], LC_OK;
  }
  const char *near = name ? lc_nearest(name, names, lc_n_rewards) : NULL;
  return lc_usage(ctx, "objective: there is no reward '%s'%s%s%s", name ? name : "",
                  near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static lc_status make(lc_training *t, lc_rollout *r) {
  lc_ctx *ctx = t->ctx;
  const size_t n = (size_t)r->max_n, tokens = n * (size_t)r->length;
  r->id = lc_alloc_n(ctx, LC_MEM_OTHER, tokens, sizeof *r->id);
  r->target = lc_alloc_n(ctx, LC_MEM_OTHER, tokens, sizeof *r->target);
  r->size = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *r->size);
  r->prompt = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *r->prompt);
  r->reward = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *r->reward);
  r->example = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *r->example);
  r->logits = lc_alloc_n(ctx, LC_MEM_OTHER, 2 * (size_t)t->net->model->config.V, sizeof *r->logits);
  r->text.cap =
      16 * (size_t)r->o->max_tokens + 64; /* more than an answer's bytes, as a rule: it does not grow later */
  r->text.data = lc_alloc(ctx, LC_MEM_OTHER, r->text.cap);
  if (!r->id || !r->target || !r->size || !r->prompt || !r->reward || !r->example || !r->logits ||
      !r->text.data)
    return LC_FAILED;
  LC_TRY(find_reward(ctx, r->o->reward, &r->verify));
  if (r->o->extract && *r->o->extract) LC_TRY(lc_extractor_new(ctx, r->o->extract, &r->extract));
  return lc_session_new(t->net, r->length, lc_min64(r->length, 512), LC_F32, &r->session);
}

lc_status lc_rollout_new(lc_training *t, const lc_sampling *o, int64_t prompts, int64_t longest,
                         lc_rollout **out) {
  *out = NULL;
  const int64_t context = t->net->model->config.context;
  if (!t->tok) return lc_usage(t->ctx, "objective: sampling needs a tokenizer");
  if (longest + o->max_tokens > context)
    return lc_usage(
        t->ctx,
        "objective: a prompt of %lld tokens and an answer of %lld (max-tokens) do not fit the model's %lld "
        "positions",
        (long long)longest, (long long)o->max_tokens, (long long)context);
  lc_rollout *r = lc_alloc(t->ctx, LC_MEM_OTHER, sizeof *r);
  if (!r) return LC_FAILED;
  *r = (lc_rollout){.o = o, .max_n = prompts * o->group, .length = longest + o->max_tokens, .made = -1};
  r->V = t->net->model->config.V;
  lc_status st = make(t, r);
  if (st) {
    lc_rollout_free(t->ctx, r);
    return st;
  }
  *out = r;
  return LC_OK;
}

/* ---- sampling ---- */

static bool is_stop(const lc_tokenizer *tok, int32_t id) {
  int n;
  const int32_t *stop = lc_token_stops(tok, &n);
  for (int i = 0; i < n; i++)
    if (stop[i] == id) return true;
  return false;
}

/* One answer after what the session holds; r->logits has the logits of its first token. The first token's draw is number `draw`. */
static lc_status answer(lc_rollout *r, lc_training *t, const lc_sample_opts *o, uint64_t draw, int32_t *to,
                        int64_t *n) {
  const int64_t V = t->net->model->config.V;
  float *logits = r->logits + V;
  memcpy(logits, r->logits, (size_t)V * sizeof *logits);
  for (*n = 0;;) {
    const int32_t id = lc_sample(o, logits, V, NULL, 0, draw + (uint64_t)*n);
    if (!(logits[id] > -INFINITY))
      return lc_fail(t->ctx, "step %lld: sampling met logits of which none is a number",
                     (long long)t->step + 1);
    to[(*n)++] = id;
    if (is_stop(t->tok, id) || *n == r->o->max_tokens) return LC_OK;
    LC_TRY(lc_session_feed(r->session, &id, 1, false, logits));
  }
}

static lc_status judge(lc_rollout *r, lc_training *t, const int32_t *id, int64_t n, const char *gold,
                       double *reward) {
  size_t from = 0, to;
  r->text.n = 0;
  r->text.data[0] = 0;
  if (n && is_stop(t->tok, id[n - 1])) n--;
  LC_TRY(lc_detokenize(t->tok, id, n, true, &r->text));
  to = r->text.n;
  const bool found = !r->extract || lc_extract(r->extract, r->text.data, r->text.n, &from, &to);
  const char *right = gold;
  size_t g0, g1;
  char *cut = NULL;
  if (r->extract &&
      lc_extract(r->extract, gold, strlen(gold), &g0, &g1)) { /* a gold answer with its working */
    if (!(cut = lc_format(t->ctx, "%.*s", (int)(g1 - g0), gold + g0))) return LC_FAILED;
    right = cut;
  }
  *reward = r->verify->of(r->text.data + from, to - from, found, right);
  lc_free(t->ctx, cut);
  return LC_OK;
}

/* The answers of one prompt, as sequences i … i+G-1. */
static lc_status group(lc_rollout *r, lc_training *t, const lc_example *prompt, const char *gold, int64_t i,
                       int64_t turn) {
  const lc_sample_opts o = {
      .temp = r->o->temperature, .top_p = 1, .repeat_penalty = 1, .seed = (uint64_t)t->opts.seed};
  lc_session_truncate(r->session, 0);
  LC_TRY(lc_session_feed(r->session, prompt->id, prompt->n, false, r->logits));
  for (int64_t g = 0; g < r->o->group; g++, i++) {
    int32_t *id = r->id + i * r->length;
    int64_t n;
    lc_session_truncate(r->session, prompt->n);
    memcpy(id, prompt->id, (size_t)prompt->n * sizeof *id);
    LC_TRY(answer(r, t, &o, (uint64_t)((turn * r->max_n + i) * r->o->max_tokens), id + prompt->n, &n));
    LC_TRY(judge(r, t, id + prompt->n, n, gold, &r->reward[i]));
    r->prompt[i] = prompt->n;
    r->size[i] = prompt->n + n;
  }
  return LC_OK;
}

static void lay_examples(lc_rollout *r) {
  for (int64_t i = 0; i < r->n; i++) {
    uint8_t *target = r->target + i * r->length;
    for (int64_t k = 0; k < r->size[i]; k++) target[k] = k >= r->prompt[i];
    r->example[i] = (lc_example){.id = r->id + i * r->length,
                                 .target = target,
                                 .n = r->size[i],
                                 .n_targets = r->size[i] - r->prompt[i]};
  }
}

/* Rewards change places (Fisher-Yates). */
static void deal_out(lc_rollout *r, lc_training *t, int64_t turn) {
  const lc_rng rng = {.seed = (uint64_t)t->opts.seed,
                      .step = (uint32_t)turn,
                      .tensor = lc_fnv1a32("rewards"),
                      .purpose = LC_RNG_SHUFFLE};
  for (int64_t i = r->n - 1; i > 0; i--) {
    const int64_t j = (int64_t)lc_rng_below(&rng, (uint64_t)i, (uint64_t)i + 1);
    const double x = r->reward[i];
    r->reward[i] = r->reward[j];
    r->reward[j] = x;
  }
}

lc_status lc_rollout_sample(lc_rollout *r, lc_training *t, const int64_t *row, int64_t n, int64_t turn) {
  for (int64_t i = 0; i < n; i++) {
    const lc_example prompt = lc_data_get(t->data, row[i]);
    LC_TRY(group(r, t, &prompt, lc_data_answer(t->data, row[i]), i * r->o->group, turn));
  }
  r->prompts = n;
  r->n = n * r->o->group;
  if (r->o->shuffle) deal_out(r, t, turn);
  lay_examples(r);
  return LC_OK;
}

lc_status lc_rollout_evaluate(lc_rollout *r, lc_training *t, const lc_dataset *d, int64_t limit,
                              double *reward, int64_t *n) {
  const lc_sample_opts greedy = {.top_p = 1, .repeat_penalty = 1};
  double sum = 0;
  int32_t *id = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)r->o->max_tokens, sizeof *id);
  lc_status st = id ? LC_OK : LC_FAILED;
  *n = limit ? lc_min64(limit, lc_data_rows(d)) : lc_data_rows(d);
  for (int64_t i = 0; i < *n && !st; i++) {
    const lc_example e = lc_data_get(d, i);
    int64_t made;
    double one = 0;
    lc_session_truncate(r->session, 0);
    LC_GO(lc_session_feed(r->session, e.id, e.n, false, r->logits));
    LC_GO(answer(r, t, &greedy, 0, id, &made));
    LC_GO(judge(r, t, id, made, lc_data_answer(d, i), &one));
    sum += one;
    if (lc_stop_requested(t->ctx)) st = LC_STOPPED;
  }
  *reward = sum / (double)lc_max64(1, *n);
done:
  lc_free(t->ctx, id);
  return st;
}

/* ---- a sampling that serves several updates outlives a checkpoint ---- */

lc_status lc_rollout_visit(lc_rollout *r, lc_ctx *ctx, lc_visitor *v) {
  LC_TRY(v->array(v, "rollout:prompts", LC_I64, 1, &r->prompts));
  LC_TRY(v->array(v, "rollout:made", LC_I64, 1, &r->made));
  LC_TRY(v->array(v, "rollout:id", LC_I32, r->max_n * r->length, r->id));
  LC_TRY(v->array(v, "rollout:size", LC_I64, r->max_n, r->size));
  LC_TRY(v->array(v, "rollout:prompt", LC_I64, r->max_n, r->prompt));
  LC_TRY(v->array(v, "rollout:reward", LC_I32, 2 * r->max_n, r->reward)); /* f64 as pairs of words */
  const int64_t most = r->max_n / r->o->group;
  if (r->prompts < 0 || r->prompts > most)
    return lc_fail(ctx, "a sampling of %lld prompts: at most %lld are possible", (long long)r->prompts,
                   (long long)most);
  r->n = r->prompts * r->o->group;
  for (int64_t i = 0; i < r->n; i++)
    if (r->prompt[i] < 1 || r->size[i] <= r->prompt[i] || r->size[i] > r->length)
      return lc_fail(
          ctx, "sampled sequence %lld has %lld tokens, %lld of them the prompt's: at most %lld are possible",
          (long long)i + 1, (long long)r->size[i], (long long)r->prompt[i], (long long)r->length);
  for (int64_t i = 0; i < r->n; i++)
    for (int64_t k = 0; k < r->size[i]; k++)
      if (r->id[i * r->length + k] < 0 || r->id[i * r->length + k] >= r->V)
        return lc_fail(ctx, "sampled sequence %lld has token id %d, the vocabulary ends at %lld",
                       (long long)i + 1, (int)r->id[i * r->length + k], (long long)r->V - 1);
  lay_examples(r);
  return LC_OK;
}
