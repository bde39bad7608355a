/* Perplexity by its conventions against windows computed by hand from whole logits; rows; choices; answers.
 */
#include "support/world_test.h"

static lc_net *net;
enum { V = 300, N = 101 };
static int32_t text[N];
static lc_ids stream = {text, N, N};

static int setup(void **state) {
  open_world(state);
  ok(lc_net_new(w.model, LC_F32, &net));
  uint32_t x = 12345;
  for (int i = 0; i < N; i++) {
    x = x * 1664525 + 1013904223;
    text[i] = (int32_t)((x >> 10) % V);
  }
  return 0;
}

static int teardown(void **state) {
  lc_net_free(net);
  t_world_close(&w);
  return 0;
}

/* -log p(ids[k] | ids[0..k)) for all k >= 1 of a sequence, from its logits. */
static void by_hand(const int32_t *ids, int64_t n, double *nll) {
  float *logits = malloc((size_t)(n * V) * sizeof *logits);
  ok(lc_tiny_logits(net, ids, n, logits));
  for (int64_t k = 1; k < n; k++) {
    double sum = 0;
    for (int v = 0; v < V; v++) sum += exp((double)logits[(k - 1) * V + v]);
    nll[k] = log(sum) - (double)logits[(k - 1) * V + ids[k]];
  }
  free(logits);
}

/* Adds the losses of ids [at, at+n) as one window, tokens from `from` on; bos takes the first's place. */
static void window(int64_t at, int64_t n, int64_t from, int32_t bos, double *sum, int64_t *count) {
  int32_t ids[N];
  double nll[N];
  memcpy(ids, text + at, (size_t)n * sizeof *ids);
  if (bos >= 0) ids[0] = bos;
  by_hand(ids, n, nll);
  for (int64_t k = from; k < n; k++) {
    *sum += nll[k];
    ++*count;
  }
}

static void expect(const lc_perplexity_opts *o, double sum, int64_t count, const char *what) {
  for (int incremental = 0; incremental < 2; incremental++) {
    lc_perplexity_opts p = *o;
    lc_score s;
    p.incremental = incremental;
    ok(lc_eval_perplexity(net, w.tok, &stream, &p, &s));
    if (s.n != count)
      fail_msg("%s: %lld tokens scored, expected %lld", what, (long long)s.n, (long long)count);
    double want = exp(sum / (double)count);
    if (fabs(s.value / want - 1) > 1e-5)
      fail_msg("%s%s: %.7f, expected %.7f", what, incremental ? ", incremental" : "", s.value, want);
    assert_true(s.stderr_ > 0);
  }
}

static void test_windows(void **state) {
  double sum = 0;
  int64_t n = 0;
  for (int i = 0; i < 3; i++) window(i * 32, 32, 1, -1, &sum, &n); /* 96 of 101: the tail of 5 is dropped */
  expect(&(lc_perplexity_opts){.context = 32}, sum, n, "stride = context");
  assert_int_equal(n, 93);
  window(96, 5, 1, -1, &sum, &n);
  expect(&(lc_perplexity_opts){.context = 32, .tail = true}, sum, n, "tail");

  sum = n = 0;
  window(0, 32, 1, -1, &sum, &n);
  for (int at = 10; at + 32 <= N; at += 10) window(at, 32, 22, -1, &sum, &n);
  expect(&(lc_perplexity_opts){.context = 32, .stride = 10}, sum, n, "stride 10");
  window(70, 31, 22, -1, &sum, &n); /* after the window at 60 ended at 92 */
  expect(&(lc_perplexity_opts){.context = 32, .stride = 10, .tail = true}, sum, n, "stride 10 and tail");

  sum = n = 0;
  for (int i = 0; i < 3; i++) window(i * 32, 32, 17, -1, &sum, &n);
  assert_int_equal(n, 3 * 15); /* context - 1 - context/2 a window, as llama-perplexity counts */
  expect(&(lc_perplexity_opts){.context = 32, .llama_cpp = true}, sum, n, "llama.cpp");

  sum = n = 0;
  for (int i = 0; i < 3; i++) window(i * 32, 32, 1, w.model->config.bos, &sum, &n);
  expect(&(lc_perplexity_opts){.context = 32, .bos = true}, sum, n, "bos");

  sum = n = 0;
  window(0, N, 1, -1, &sum, &n); /* no window is full: the text is one */
  expect(&(lc_perplexity_opts){.context = 128}, sum, n, "one window");
  expect(&(lc_perplexity_opts){0}, sum, n, "the default context, cut to the model's");

  sum = n = 0;
  for (int i = 0; i < 2; i++) window(i * 32, 32, 1, -1, &sum, &n);
  expect(&(lc_perplexity_opts){.context = 32, .limit = 2}, sum, n, "two windows");
}

static void test_perplexity_refusals(void **state) {
  static const struct {
    lc_perplexity_opts o;
    const char *says;
  } bad[] = {{{.context = 129}, "the model has 128 positions"},
             {{.context = 1}, "context is 1"},
             {{.context = 32, .stride = 33}, "stride is 33"}};
  lc_score s;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(lc_eval_perplexity(net, w.tok, &stream, &bad[i].o, &s), LC_USAGE);
    assert_non_null(strstr(lc_error(w.ctx), bad[i].says));
    lc_error_clear(w.ctx);
  }
  lc_ids one = {text, 1, 1};
  assert_int_equal(lc_eval_perplexity(net, w.tok, &one, &bad[0].o, &s), LC_USAGE);
  assert_int_equal(lc_eval_perplexity(net, w.tok, &one, &(lc_perplexity_opts){.context = 32}, &s), LC_FAILED);
}

/* Each example alone, on its targets; the same as the loss of a run before its first step. */
static void test_rows(void **state) {
  double sum = 0;
  int64_t n = 0;
  for (int64_t i = 0; i < lc_data_count(w.eval); i++) {
    lc_example e = lc_data_get(w.eval, i);
    double nll[N];
    by_hand(e.id, e.n, nll);
    for (int64_t k = 1; k < e.n; k++)
      if (e.target[k]) sum += nll[k], n++;
  }
  lc_score s;
  ok(lc_eval_rows(net, w.eval, 0, &s));
  assert_int_equal(s.n, n);
  assert_true(fabs(s.nll - sum / (double)n) < 1e-6 * s.nll);
  t_spec t = {.method = "shira", .out = "a", .opts = "steps=1 batch=4"};
  ok(t_train(&w, &t));
  double at0 = atof(t_query(&w, "a", "SELECT loss FROM evals WHERE step = 0"));
  assert_true(fabs(at0 - s.nll) < 1e-6 * s.nll);
  ok(lc_eval_rows(net, w.eval, 2, &s));
  assert_int_equal(s.n, lc_data_get(w.eval, 0).n_targets + lc_data_get(w.eval, 1).n_targets);
}

/* ---- choices
 * -------------------------------------------------------------------------------------------------------------
 */

/* log p of " " + choice after prompt, by the rule written out: encode together, split where the prompt's own
 * encoding ends. */
static double score_by_hand(const char *prompt, const char *choice) {
  char whole[256];
  lc_ids alone = {0}, both = {0};
  double nll[N], sum = 0;
  size_t bare = strlen(prompt);
  while (bare && prompt[bare - 1] == ' ') bare--;
  snprintf(whole, sizeof whole, "%s %s", prompt, choice);
  ok(lc_tokenize(w.tok, prompt, bare, true, &alone));
  ok(lc_tokenize(w.tok, whole, strlen(whole), true, &both));
  by_hand(both.id, both.n, nll);
  for (int64_t k = alone.n; k < both.n; k++) sum -= nll[k];
  lc_ids_free(w.ctx, &alone);
  lc_ids_free(w.ctx, &both);
  return sum;
}

static const char questions[] =
    "{\"prompt\": \"the cat sat on\", \"choices\": [\"the mat\", \"a bird that flies far away\", "
    "\"m\\u00fctze\"], \"answer\": 0}\n"
    "{\"prompt\": \"two birds  \", \"choices\": [\"fly\", \"sat and saw\"], \"answer\": \"B\"}\n"
    "{\"prompt\": [\"a cat\", \"a mat\"], \"choices\": [\"saw the cat\", \"saw the cat\"], \"answer\": 1}\n";

static void test_choices(void **state) {
  lc_question *q;
  int64_t n;
  lc_choice_score s;
  const char *path = lc_tiny_path(w.dir, "q.jsonl"), *log = lc_tiny_path(w.dir, "log.jsonl");
  ok(lc_write_file(w.ctx, path, questions, sizeof questions - 1));
  ok(lc_questions_open(w.ctx, path, true, &q, &n));
  assert_int_equal(n, 3);
  ok(lc_eval_choices(net, w.tok, q, n, &(lc_question_opts){.log_samples = log}, &s));
  assert_int_equal(s.n, 3);
  double right[3] = {0};
  char *lines;
  size_t size;
  ok(lc_read_file(w.ctx, log, 1 << 20, &lines, &size));
  char *line = lines;
  for (int64_t i = 0; i < n; i++) {
    json_t *e = json_loadb(line, strcspn(line, "\n"), 0, NULL);
    assert_non_null(e);
    int best[3] = {0};
    double top[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int c = 0; c < q[i].n_choices; c++) {
      double lp = score_by_hand(q[i].prompt[q[i].n_prompts > 1 ? c : 0], q[i].choice[c]);
      double logged = json_number_value(json_array_get(json_object_get(e, "loglikelihoods"), (size_t)c));
      if (fabs(lp - logged) > 1e-4)
        fail_msg("question %lld, choice %d: %.6f, by hand %.6f", (long long)i, c, logged, lp);
      bool umlaut = strstr(q[i].choice[c], "\xc3\xbc") != NULL;
      double chars = (double)strlen(q[i].choice[c]) - umlaut,
             by[3] = {lp, lp / chars, lp / (double)strlen(q[i].choice[c])};
      for (int k = 0; k < 3; k++)
        if (by[k] > top[k]) top[k] = by[k], best[k] = c;
    }
    for (int k = 0; k < 3; k++) right[k] += best[k] == q[i].answer;
    assert_int_equal(json_is_true(json_object_get(e, "acc")), best[0] == q[i].answer);
    json_decref(e);
    line = strchr(line, '\n') + 1;
  }
  assert_true(s.acc == right[0] / 3 && s.acc_norm == right[1] / 3 && s.acc_bytes == right[2] / 3);
  assert_true(fabs(s.acc_stderr - sqrt(s.acc * (1 - s.acc) / 2)) < 1e-12);
  lc_free(w.ctx, lines);
  ok(lc_eval_choices(net, w.tok, q, n, &(lc_question_opts){.limit = 2, .fewshot = q + 2, .n_fewshot = 1},
                     &s));
  assert_int_equal(s.n, 2);
  lc_questions_free(w.ctx, q, n);
}

/* A question that is too long loses its beginning: with a window as long as the continuation and one token,
 * only that counts. */
static void test_truncation(void **state) {
  char prompt[600] = "";
  for (int i = 0; i < 60; i++) strcat(prompt, i % 2 ? " the cat" : " a mat");
  char *p = prompt, *c[2] = {"sat", "fly far"};
  lc_question q = {.prompt = &p, .n_prompts = 1, .choice = c, .n_choices = 2, .answer = 0};
  lc_choice_score s;
  ok(lc_eval_choices(net, w.tok, &q, 1, &(lc_question_opts){0}, &s));
  ok(lc_eval_choices(net, w.tok, &q, 1, &(lc_question_opts){.context = 16}, &s));
  assert_int_equal(lc_eval_choices(net, w.tok, &q, 1, &(lc_question_opts){.context = 500}, &s), LC_USAGE);
}

/* ---- answers
 * ---------------------------------------------------------------------------------------------------------------
 */

/* What the model writes greedily is taken as the gold answer: right; another: wrong. The expression takes all
 * of it. */
static void test_exact(void **state) {
  lc_session *session;
  lc_ids ids = {0}, made = {0};
  lc_bytes out = {0};
  lc_gen_stats stats;
  lc_sample_opts g = LC_SAMPLE_OPTS_INIT;
  g.temp = 0;
  g.max_tokens = 6;
  ok(lc_tokenize(w.tok, "the cat", 7, true, &ids));
  ok(lc_session_new(net, 32, 16, LC_F32, &session));
  ok(lc_generate_ids(session, w.tok, ids.id, ids.n, &g, NULL, NULL, &made, &stats));
  lc_session_free(session);
  ok(lc_detokenize(w.tok, made.id, made.n, true, &out));
  for (size_t i = 0; i < out.n; i++)
    if ((unsigned char)out.data[i] >= 0x80)
      out.data[i] = '?'; /* as the evaluation shows bytes that are no text */
  char *p = "the cat";
  lc_question right = {.prompt = &p, .n_prompts = 1, .answer_text = out.data},
              wrong = {.prompt = &p, .n_prompts = 1, .answer_text = "no"};
  lc_question both[2] = {right, wrong};
  lc_question_opts o = {
      .extract = "(?s)(.*)", .max_tokens = 6, .log_samples = lc_tiny_path(w.dir, "exact.jsonl")};
  lc_score s;
  ok(lc_eval_exact(net, w.tok, both, 2, &o, &s));
  assert_int_equal(s.n, 2);
  if (s.value != 0.5) fail_msg("%.2f; the model wrote '%s'", s.value, out.data);
  assert_int_equal(t_lines(lc_tiny_path(w.dir, "exact.jsonl"), "\"exact_match\":true"), 1);
  o.extract = "(";
  assert_int_equal(lc_eval_exact(net, w.tok, both, 2, &o, &s), LC_USAGE);
  assert_non_null(strstr(lc_error(w.ctx), "no regular expression"));
  o.extract = NULL; /* GSM8K's mark is not in what it writes */
  ok(lc_eval_exact(net, w.tok, both, 2, &o, &s));
  assert_true(s.value == 0);
  lc_ids_free(w.ctx, &ids);
  lc_ids_free(w.ctx, &made);
  lc_free(w.ctx, out.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_windows, setup, teardown),
      cmocka_unit_test_setup_teardown(test_perplexity_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
      cmocka_unit_test_setup_teardown(test_choices, setup, teardown),
      cmocka_unit_test_setup_teardown(test_truncation, setup, teardown),
      cmocka_unit_test_setup_teardown(test_exact, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
