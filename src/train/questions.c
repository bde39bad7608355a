/* Questions with choices, and questions with an answer to generate. The rules are those of EleutherAI's
 * evaluation harness, so that figures compare.
 *
 * Choice: the score of a choice is log p(" " + choice | prompt). Prompt and continuation are encoded together
 * and split where the prompt's own encoding ends; spaces at the prompt's end belong to the continuation. acc
 * takes the best score, acc_norm the best score per character, acc_bytes per byte. Too long a text loses its
 * beginning. Answer: greedy generation; group 1 of the first match of a regular expression is compared with
 * that of the given answer, without commas, dollar signs, case and a final stop. Standard errors are those of
 * a mean of 0s and 1s. */
#include "train/internal.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double stderr_of(double share, int64_t n) {
  return n > 1 ? sqrt(share * (1 - share) / (double)(n - 1)) : 0;
}

/* ---- the text before a continuation
 * ------------------------------------------------------------------------------------ */

typedef struct {
  lc_net *net;
  lc_ctx *ctx;
  const lc_tokenizer *tok;
  const lc_question_opts *o;
  const lc_template *tmpl; /* chat */
  int64_t context;
  lc_bytes shots; /* the solved examples */
} exam;

static lc_status add_text(lc_ctx *ctx, lc_bytes *to, const char *text) {
  return lc_bytes_add(ctx, to, text, strlen(text));
}

/* Example by example: prompt, space, answer, blank line. */
static lc_status write_shots(exam *x) {
  for (int64_t i = 0; i < x->o->n_fewshot; i++) {
    const lc_question *q = &x->o->fewshot[i];
    const char *prompt = q->prompt[q->n_prompts > 1 ? q->answer : 0],
               *answer = q->n_choices ? q->choice[q->answer] : q->answer_text;
    LC_TRY(add_text(x->ctx, &x->shots, prompt));
    LC_TRY(add_text(x->ctx, &x->shots, " "));
    LC_TRY(add_text(x->ctx, &x->shots, answer));
    LC_TRY(add_text(x->ctx, &x->shots, "\n\n"));
  }
  return LC_OK;
}

static lc_status open_exam(lc_net *net, const lc_tokenizer *tok, const lc_question_opts *o, exam *x) {
  *x = (exam){.net = net,
              .ctx = net->ctx,
              .tok = tok,
              .o = o,
              .context = o->context ? o->context : net->model->config.context};
  if (x->context < 2 || x->context > net->model->config.context)
    return lc_usage(x->ctx, "evaluation: context is %lld, the model has %lld positions",
                    (long long)x->context, (long long)net->model->config.context);
  if (o->chat) LC_TRY(lc_template_for(tok, &x->tmpl));
  return write_shots(x);
}

static lc_status whole_prompt(exam *x, const char *prompt, lc_bytes *text) {
  if (x->shots.n) LC_TRY(lc_bytes_add(x->ctx, text, x->shots.data, x->shots.n));
  return add_text(x->ctx, text, prompt);
}

static lc_status chat_prompt(exam *x, const char *prompt, lc_ids *ids) {
  lc_message m[2];
  int n = 0;
  if (x->o->system) m[n++] = (lc_message){"system", x->o->system};
  m[n++] = (lc_message){"user", prompt};
  return lc_template_render(x->tmpl, x->tok, m, n, true, ids, NULL);
}

/* ---- choices
 * -------------------------------------------------------------------------------------------------------------
 */

typedef struct {
  lc_ids ids;
  int64_t from; /* first token of the continuation */
} pair;

/* Something must stand before a token for it to be scored: a context of no tokens becomes the BOS (or end)
 * token. */
static lc_status give_context(exam *x, pair *p) {
  int32_t first = lc_token_bos(x->tok) >= 0 ? lc_token_bos(x->tok) : lc_token_eos(x->tok);
  if (p->from > 0) return LC_OK;
  if (first < 0) return lc_fail(x->ctx, "evaluation: an empty prompt needs a BOS token, the model has none");
  LC_TRY(lc_ids_push(x->ctx, &p->ids, first));
  memmove(p->ids.id + 1, p->ids.id, (size_t)(p->ids.n - 1) * sizeof *p->ids.id);
  p->ids.id[0] = first;
  p->from = 1;
  return LC_OK;
}

static lc_status encode_plain(exam *x, lc_bytes *text, const char *choice, pair *p) {
  size_t bare = text->n;
  lc_ids alone = {0};
  lc_status st;
  while (bare && isspace((unsigned char)text->data[bare - 1])) bare--;
  LC_GO(lc_tokenize(x->tok, text->data, bare, true, &alone));
  LC_GO(add_text(x->ctx, text, " "));
  LC_GO(add_text(x->ctx, text, choice));
  LC_GO(lc_tokenize(x->tok, text->data, text->n, true, &p->ids));
  p->from = lc_min64(alone.n, p->ids.n);
  st = give_context(x, p);
done:
  lc_ids_free(x->ctx, &alone);
  return st;
}

static lc_status encode_pair(exam *x, const char *prompt, const char *choice, pair *p) {
  lc_bytes text = {0};
  lc_status st = whole_prompt(x, prompt, &text);
  if (!st && x->o->chat) {
    st = chat_prompt(x, text.data, &p->ids);
    p->from = p->ids.n;
    if (!st) st = lc_tokenize(x->tok, choice, strlen(choice), true, &p->ids);
  } else if (!st) {
    st = encode_plain(x, &text, choice, p);
  }
  lc_free(x->ctx, text.data);
  int64_t over = p->ids.n - x->context;
  if (st || over <= 0) return st;
  memmove(p->ids.id, p->ids.id + over, (size_t)x->context * sizeof *p->ids.id);
  p->ids.n = x->context;
  p->from = lc_max64(1, p->from - over);
  return LC_OK;
}

/* Pairs go through the plan several at a time: a pass costs less a row the more rows it has. */
enum { PASS_ROWS = 1024, PASS_PAIRS = 64 };

typedef struct {
  pair *p;
  int64_t n, longest;
  uint8_t *target; /* of a pass's rows */
  double *logp;    /* of each pair */
} pairs;

static void free_pairs(lc_ctx *ctx, pairs *all) {
  for (int64_t i = 0; all->p && i < all->n; i++) lc_ids_free(ctx, &all->p[i].ids);
  lc_free(ctx, all->p);
  lc_free(ctx, all->target);
  lc_free(ctx, all->logp);
}

static lc_status encode_all(exam *x, const lc_question *q, int64_t n, pairs *all) {
  for (int64_t i = 0; i < n; i++) all->n += q[i].n_choices;
  all->p = lc_alloc_n(x->ctx, LC_MEM_OTHER, (size_t)all->n, sizeof *all->p);
  if (!all->p) return LC_FAILED;
  for (int64_t i = 0, k = 0; i < n; i++)
    for (int c = 0; c < q[i].n_choices; c++, k++) {
      LC_TRY(encode_pair(x, q[i].prompt[q[i].n_prompts > 1 ? c : 0], q[i].choice[c], &all->p[k]));
      all->longest = lc_max64(all->longest, all->p[k].ids.n);
    }
  all->target =
      lc_alloc_n(x->ctx, LC_MEM_OTHER, (size_t)lc_max64(all->longest, PASS_ROWS), sizeof *all->target);
  all->logp = lc_alloc_n(x->ctx, LC_MEM_OTHER, (size_t)all->n, sizeof *all->logp);
  return all->target && all->logp ? LC_OK : LC_FAILED;
}

/* Scores pairs from the first on, as many as a pass holds; *next: the first it left. */
static lc_status score_some(lc_stage *stage, const pairs *all, int64_t first, int64_t *next) {
  lc_example e[PASS_PAIRS] = {0};
  double sum = 0;
  int64_t rows = 0, n = 0, targets = 0;
  for (; first + n < all->n && n < stage->max_segments; n++) {
    const pair *p = &all->p[first + n];
    uint8_t *target = all->target + rows;
    if (rows + p->ids.n > lc_plan_rows(stage->plan)) break;
    for (int64_t k = 0; k < p->ids.n; k++) target[k] = k >= p->from;
    e[n] = (lc_example){.id = p->ids.id, .target = target, .n = p->ids.n, .n_targets = p->ids.n - p->from};
    rows += p->ids.n;
  }
  LC_TRY(lc_stage_pass(stage, e, n, false, false, 1, all->logp + first, &sum, &targets));
  for (int64_t i = first; i < first + n; i++) all->logp[i] = -all->logp[i];
  *next = first + n;
  return LC_OK;
}

static int64_t characters(const char *s) {
  int64_t n = 0;
  for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
  return n;
}

/* The best choice by score, score per character, score per byte; ties to the first. */
static void pick(const lc_question *q, const double *logp, int best[3]) {
  double top[3] = {0};
  for (int c = 0; c < q->n_choices; c++) {
    double by[3] = {logp[c], logp[c] / (double)lc_max64(1, characters(q->choice[c])),
                    logp[c] / (double)lc_max64(1, (int64_t)strlen(q->choice[c]))};
    for (int k = 0; k < 3; k++)
      if (c == 0 || by[k] > top[k]) {
        top[k] = by[k];
        best[k] = c;
      }
  }
}

static json_t *strings(char *const *s, int n) {
  json_t *a = json_array();
  for (int i = 0; i < n; i++) json_array_append_new(a, json_string(s[i]));
  return a;
}

static lc_status log_json(lc_ctx *ctx, lc_out *log, json_t *e) {
  char *text = e ? json_dumps(e, JSON_COMPACT) : NULL;
  lc_status st = text ? lc_out_printf(log, "%s\n", text)
                      : lc_fail(ctx, "%s: a sample cannot be written as JSON", log->path);
  free(text);
  json_decref(e);
  return st;
}

static lc_status log_choice(lc_ctx *ctx, lc_out *log, int64_t i, const lc_question *q, const double *logp,
                            const int best[3]) {
  json_t *scores = json_array();
  for (int c = 0; c < q->n_choices; c++) json_array_append_new(scores, json_real(logp[c]));
  return log_json(ctx, log,
                  json_pack("{s:I, s:o, s:o, s:i, s:o, s:b, s:b, s:b}", "index", (json_int_t)i, "prompt",
                            strings(q->prompt, q->n_prompts), "choices", strings(q->choice, q->n_choices),
                            "answer", q->answer, "loglikelihoods", scores, "acc", best[0] == q->answer,
                            "acc_norm", best[1] == q->answer, "acc_bytes", best[2] == q->answer));
}

static lc_status score_all(exam *x, const lc_question *q, int64_t n, const pairs *all, lc_out *log,
                           int64_t right[3]) {
  lc_stage stage = {.ctx = x->ctx};
  const lc_stage_opts o = {.rows = lc_max64(all->longest, PASS_ROWS), .segments = PASS_PAIRS};
  LC_TRY(lc_stage_open(x->net, &o, &stage));
  lc_status st = LC_OK;
  for (int64_t k = 0; k < all->n && !st;)
    st = lc_stop_requested(x->ctx) ? LC_STOPPED : score_some(&stage, all, k, &k);
  lc_stage_close(&stage);
  for (int64_t i = 0, k = 0; i < n && !st; k += q[i].n_choices, i++) {
    int best[3] = {0};
    pick(&q[i], all->logp + k, best);
    for (int m = 0; m < 3; m++) right[m] += best[m] == q[i].answer;
    if (x->o->log_samples) st = log_choice(x->ctx, log, i, &q[i], all->logp + k, best);
  }
  return st;
}

lc_status lc_eval_choices(lc_net *net, const lc_tokenizer *tok, const lc_question *q, int64_t n,
                          const lc_question_opts *o, lc_choice_score *s) {
  exam x;
  pairs all = {0};
  lc_out log = {0};
  int64_t right[3] = {0};
  if (o->limit) n = lc_min64(n, o->limit);
  *s = (lc_choice_score){.n = n};
  if (n == 0) return lc_fail(net->ctx, "evaluation: no questions");
  lc_status st = open_exam(net, tok, o, &x);
  if (st) goto done;
  LC_GO(encode_all(&x, q, n, &all));
  if (o->log_samples) LC_GO(lc_out_open(net->ctx, o->log_samples, &log));
  LC_GO(score_all(&x, q, n, &all, &log, right));
  if (o->log_samples) LC_GO(lc_out_commit(&log));
  s->acc = (double)right[0] / (double)n;
  s->acc_norm = (double)right[1] / (double)n;
  s->acc_bytes = (double)right[2] / (double)n;
  s->acc_stderr = stderr_of(s->acc, n);
  s->acc_norm_stderr = stderr_of(s->acc_norm, n);
  s->acc_bytes_stderr = stderr_of(s->acc_bytes, n);
done:
  if (o->log_samples) lc_out_abort(&log);
  free_pairs(net->ctx, &all);
  lc_free(net->ctx, x.shots.data);
  return st;
}

/* ---- exact match
 * ----------------------------------------------------------------------------------------------------------
 */

typedef struct {
  lc_ctx *ctx;
  lc_bytes text;
} answer;

static int collect(void *arg, const char *text, size_t n) {
  answer *a = arg;
  return lc_bytes_add(a->ctx, &a->text, text, n) || lc_stop_requested(a->ctx);
}

static bool is_right(const lc_extractor *x, const answer *made, const char *gold) {
  size_t a0, a1, b0 = 0, b1 = strlen(gold);
  if (!made->text.data || !lc_extract(x, made->text.data, made->text.n, &a0, &a1)) return false;
  lc_extract(x, gold, b1, &b0, &b1); /* an answer without the mark is the answer itself */
  return lc_same_answer(made->text.data + a0, a1 - a0, gold + b0, b1 - b0);
}

static lc_status encode_prompt(exam *x, const char *prompt, int64_t room, lc_ids *ids) {
  lc_bytes text = {0};
  lc_status st = whole_prompt(x, prompt, &text);
  ids->n = 0;
  if (!st)
    st = x->o->chat ? chat_prompt(x, text.data, ids) : lc_tokenize(x->tok, text.data, text.n, true, ids);
  lc_free(x->ctx, text.data);
  if (st) return st;
  if (ids->n == 0) return lc_fail(x->ctx, "evaluation: a prompt has no tokens");
  if (ids->n > room) {
    memmove(ids->id, ids->id + ids->n - room, (size_t)room * sizeof *ids->id);
    ids->n = room;
  }
  return LC_OK;
}

static lc_status answer_all(exam *x, const lc_question *q, int64_t n, const lc_extractor *re, lc_out *log,
                            int64_t *right) {
  lc_ctx *ctx = x->ctx;
  lc_session *s = NULL;
  lc_ids ids = {0}, made = {0};
  answer a = {.ctx = ctx};
  lc_gen_stats stats;
  lc_status st = LC_OK;
  lc_sample_opts g = LC_SAMPLE_OPTS_INIT;
  g.temp = 0;
  g.max_tokens = x->o->max_tokens ? x->o->max_tokens : 256;
  g.stop = x->o->stop;
  g.n_stop = x->o->n_stop;
  int64_t room = x->context - g.max_tokens, longest = 0;
  if (room < 1)
    return lc_usage(ctx, "evaluation: answers of %lld tokens leave no room for a question in %lld positions",
                    (long long)g.max_tokens, (long long)x->context);
  for (int64_t i = 0; i < n; i++) {
    LC_GO(encode_prompt(x, q[i].prompt[0], room, &ids));
    longest = lc_max64(longest, ids.n);
  }
  LC_GO(lc_session_new(x->net, longest + g.max_tokens, lc_min64(longest, 512), LC_F32, &s));
  for (int64_t i = 0; i < n; i++) {
    a.text.n = made.n = 0;
    if (a.text.data) a.text.data[0] = 0;
    lc_session_truncate(s, 0);
    LC_GO(encode_prompt(x, q[i].prompt[0], room, &ids));
    LC_GO(lc_generate_ids(s, x->tok, ids.id, ids.n, &g, collect, &a, &made, &stats));
    if (lc_stop_requested(ctx)) LC_GO(LC_STOPPED);
    if (a.text.data) lc_mend_utf8(a.text.data, a.text.n);
    bool ok = is_right(re, &a, q[i].answer_text);
    *right += ok;
    if (x->o->log_samples)
      LC_GO(log_json(ctx, log,
                     json_pack("{s:I, s:s, s:s, s:s%, s:b}", "index", (json_int_t)i, "prompt", q[i].prompt[0],
                               "answer", q[i].answer_text, "generated", a.text.data ? a.text.data : "",
                               a.text.n, "exact_match", ok)));
  }
done:
  lc_session_free(s);
  lc_ids_free(ctx, &ids);
  lc_ids_free(ctx, &made);
  lc_free(ctx, a.text.data);
  return st;
}

lc_status lc_eval_exact(lc_net *net, const lc_tokenizer *tok, const lc_question *q, int64_t n,
                        const lc_question_opts *o, lc_score *s) {
  exam x;
  lc_out log = {0};
  lc_extractor *re = NULL;
  int64_t right = 0;
  if (o->limit) n = lc_min64(n, o->limit);
  *s = (lc_score){.n = n};
  if (n == 0) return lc_fail(net->ctx, "evaluation: no questions");
  lc_status st = open_exam(net, tok, o, &x);
  if (st) goto done;
  s->context = x.context;
  LC_GO(lc_extractor_new(net->ctx, o->extract ? o->extract : LC_GSM8K_ANSWER, &re));
  if (o->log_samples) LC_GO(lc_out_open(net->ctx, o->log_samples, &log));
  LC_GO(answer_all(&x, q, n, re, &log, &right));
  if (o->log_samples) LC_GO(lc_out_commit(&log));
  s->value = (double)right / (double)n;
  s->stderr_ = stderr_of(s->value, n);
done:
  if (o->log_samples) lc_out_abort(&log);
  lc_extractor_free(net->ctx, re);
  lc_free(net->ctx, x.shots.data);
  return st;
}
