/* Generation on a tiny model: greedy text is what repeated full passes give; stop strings never show,
 * wherever token boundaries fall; every reason to finish is reached. */
#include "infer/infer.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static lc_ctx *ctx;
static char *dir;
static lc_model *model;
static lc_net *net;
static lc_tokenizer *tok;
static const char prompt[] = "The user asks";
static lc_ids start;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  lc_tiny m = LC_TINY_LLAMA;
  m.context = 96;
  m.seed = 11;
  return lc_tiny_hf(ctx, &m, dir) || lc_model_open(ctx, dir, &model) || lc_net_new(model, LC_F32, &net) ||
         lc_model_tokenizer(model, &tok) || lc_tokenize(tok, prompt, strlen(prompt), false, &start);
}

static int teardown(void **state) {
  lc_ids_free(ctx, &start);
  lc_tokenizer_free(tok);
  lc_net_free(net);
  lc_model_close(model);
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

typedef struct {
  char text[4096];
  size_t n;
  int pieces, stop_after;
} sink;

static int receive(void *arg, const char *text, size_t n) {
  sink *s = arg;
  memcpy(s->text + s->n, text, n);
  s->text[s->n += n] = 0;
  return ++s->pieces == s->stop_after;
}

static lc_gen_stats generate(const lc_sample_opts *o, sink *out, lc_ids *ids) {
  lc_session *s;
  lc_gen_stats stats = {0};
  int stop_after = out->stop_after;
  memset(out, 0, sizeof *out);
  out->stop_after = stop_after;
  ok(lc_session_new(net, 0, 16, LC_F32, &s));
  ok(lc_generate_ids(s, tok, start.id, start.n, o, receive, out, ids, &stats));
  lc_session_free(s);
  return stats;
}

static lc_sample_opts greedy(int64_t n) {
  lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
  o.temp = 0;
  o.max_tokens = n;
  o.ignore_eos = true;
  return o;
}

static void test_greedy(void **state) {
  enum { N = 20 };
  lc_sample_opts o = greedy(N);
  static sink out;
  lc_ids ids = {0};
  lc_gen_stats stats = generate(&o, &out, &ids);
  assert_string_equal(stats.finish_reason, "length");
  assert_int_equal(stats.generated_tokens, N);
  assert_int_equal(stats.prompt_tokens, start.n);
  assert_int_equal(ids.n, N);
  int n_stops;
  const int32_t *stops = lc_token_stops(tok, &n_stops);
  assert_true(n_stops >= 1);
  int64_t V = model->config.V, T = start.n;
  int32_t all[128];
  float *l = malloc((size_t)(128 * V) * sizeof *l);
  memcpy(all, start.id, (size_t)T * sizeof *all);
  for (int i = 0; i < N; i++) { /* each token from a full pass over all before it */
    ok(lc_tiny_logits(net, all, T, l));
    float *last = l + (T - 1) * V;
    for (int k = 0; k < n_stops; k++) last[stops[k]] = -1e30f;
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
      if (last[v] > last[best]) best = v;
    assert_int_equal(ids.id[i], best);
    all[T++] = (int32_t)best;
  }
  lc_bytes text = {0};
  ok(lc_detokenize(tok, ids.id, ids.n, false, &text));
  assert_int_equal(out.n, text.n);
  assert_memory_equal(out.text, text.data, text.n);
  lc_free(ctx, text.data);
  lc_ids_free(ctx, &ids);
  free(l);
}

/* Every substring of 1 to 6 bytes of the text, as a stop string: the text ends just before its first
 * occurrence. */
static void test_stop_strings(void **state) {
  lc_sample_opts o = greedy(24);
  static sink whole, cut;
  generate(&o, &whole, NULL);
  assert_true(whole.n > 24);
  for (size_t at = 0; at + 6 < whole.n; at += 3)
    for (size_t k = 1; k <= 6; k += 1 + at % 3) {
      char stop[8] = {0};
      memcpy(stop, whole.text + at, k);
      if (strlen(stop) != k) continue; /* a NUL byte cannot be asked for */
      const char *const list[] = {"never to be seen", stop};
      o.stop = list;
      o.n_stop = 2;
      lc_gen_stats stats = generate(&o, &cut, NULL);
      size_t first = 0;
      while (memcmp(whole.text + first, stop, k)) first++;
      assert_string_equal(stats.finish_reason, "stop");
      assert_int_equal(cut.n, first);
      assert_memory_equal(cut.text, whole.text, first);
    }
  /* half a stop string at the end of the text is given after all */
  char tail[64];
  snprintf(tail, sizeof tail, "%s and more", whole.text + whole.n - 3);
  const char *const list[] = {tail};
  o.stop = list;
  o.n_stop = 1;
  lc_gen_stats stats = generate(&o, &cut, NULL);
  assert_string_equal(stats.finish_reason, "length");
  assert_int_equal(cut.n, whole.n);
}

static void test_stop_ids(void **state) {
  lc_sample_opts o = LC_SAMPLE_OPTS_INIT; /* hot, so that the end token is chosen soon for some seed */
  static sink out;
  int stopped = 0, n_stops;
  const int32_t *stops = lc_token_stops(tok, &n_stops);
  o.temp = 50;
  o.top_k = 0;
  o.top_p = 1;
  o.min_p = 0;
  o.max_tokens = 60;
  for (uint64_t seed = 0; seed < 40; seed++) {
    lc_ids ids = {0};
    o.seed = seed;
    lc_gen_stats stats = generate(&o, &out, &ids);
    for (int64_t i = 0; i < ids.n; i++)
      for (int k = 0; k < n_stops; k++) assert_int_not_equal(ids.id[i], stops[k]);
    if (!strcmp(stats.finish_reason, "stop")) {
      stopped++;
      assert_true(ids.n < 60);
    }
    lc_ids_free(ctx, &ids);
  }
  assert_in_range(stopped, 1, 39);
  o.ignore_eos = true;
  for (uint64_t seed = 0; seed < 10; seed++) {
    o.seed = seed;
    assert_int_equal(generate(&o, &out, NULL).generated_tokens, 60);
  }
}

static void test_other_ends(void **state) {
  static sink out;
  lc_sample_opts o =
      greedy(-1); /* until the context is full: each position but the last token's is in the cache */
  lc_gen_stats stats = generate(&o, &out, NULL);
  assert_string_equal(stats.finish_reason, "length");
  assert_int_equal(stats.generated_tokens, 96 - start.n + 1);
  o = greedy(0);
  stats = generate(&o, &out, NULL);
  assert_int_equal(stats.generated_tokens, 0);
  assert_int_equal(out.n, 0);
  out.stop_after = 3;
  o = greedy(30);
  stats = generate(&o, &out, NULL);
  assert_string_equal(stats.finish_reason, "callback");
  assert_int_equal(out.pieces, 3);
  out.stop_after = 0;
  lc_sample_opts hot = LC_SAMPLE_OPTS_INIT; /* the same seed, the same text; another, another */
  static sink again;
  hot.seed = 5;
  hot.temp = 5;
  generate(&hot, &out, NULL);
  generate(&hot, &again, NULL);
  assert_string_equal(out.text, again.text);
  hot.seed = 6;
  generate(&hot, &again, NULL);
  assert_string_not_equal(out.text, again.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_greedy), cmocka_unit_test(test_stop_strings),
                                     cmocka_unit_test(test_stop_ids), cmocka_unit_test(test_other_ends)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
