/* Data rows: what becomes of a text, of each kind of JSON row, of what is malformed; cutting, counting,
 * order, memory. */
#include "text/text_test.h"
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static lc_tokenizer *tok;

static int setup(void **state) {
  if (text_setup(state)) return -1;
  tok = golden("smollm");
  return 0;
}
static int teardown(void **state) {
  lc_tokenizer_free(tok);
  return text_teardown(state);
}

static lc_status open_text(const char *name, const char *text, lc_data_opts opts, lc_dataset **d) {
  char *path = write_text(name, text);
  lc_status st = lc_data_open(ctx, tok, path, &opts, d);
  lc_free(ctx, path);
  return st;
}

static void add(lc_ids *ids, const char *text) {
  assert_ok(lc_tokenize(tok, text, strlen(text), true, ids));
}

static void same_example(lc_example e, const lc_ids *ids, const char *mask) {
  int64_t targets = 0;
  assert_int_equal(e.n, ids->n);
  assert_int_equal(e.n, strlen(mask));
  assert_memory_equal(e.id, ids->id, (size_t)e.n * sizeof *e.id);
  for (int64_t i = 0; i < e.n; i++) {
    assert_int_equal(e.target[i], mask[i] == '1');
    targets += i > 0 && mask[i] == '1';
  }
  assert_int_equal(e.n_targets, targets);
}

/* ---- plain text ---------------------------------------------------------------------------------------- */

static void test_text_file(void **state) {
  static const char text[] = "bake lo ke\n\ntion 1234 \xC3\xBC"
                             "ber <|endoftext|> the  end mi nu ra";
  lc_ids all = {0};
  lc_dataset *d;
  add(&all, text);
  assert_ok(lc_ids_push(ctx, &all, lc_token_eos(tok)));
  for (int64_t seq = 2; seq <= all.n + 1; seq++) {
    assert_ok(open_text("a.txt", text, (lc_data_opts){.seq = seq}, &d));
    lc_data_info info = lc_data_describe(d);
    bool lone = all.n % seq == 1; /* a last row of one token predicts nothing */
    int64_t at = 0, rows = lc_ceil_div(all.n, seq) - lone;
    assert_int_equal(info.kind, LC_ROWS_TEXT_FILE);
    assert_int_equal(info.rows, rows);
    assert_int_equal(info.dropped, lone);
    assert_int_equal(info.tokens, all.n - lone);
    assert_int_equal(info.targets, all.n - lone - rows);
    for (int64_t i = 0; i < rows; i++) {
      lc_example e = lc_data_get(d, i);
      assert_memory_equal(e.id, all.id + at, (size_t)e.n * sizeof *e.id);
      assert_int_equal(e.n, lc_min64(seq, all.n - at));
      assert_int_equal(e.n_targets, e.n - 1);
      for (int64_t k = 0; k < e.n; k++) assert_int_equal(e.target[k], k > 0);
      at += e.n;
    }
    assert_int_equal(at, all.n - lone);
    lc_data_free(d);
  }
  assert_ok(open_text("a.txt", text, (lc_data_opts){.whole_text = true}, &d));
  assert_int_equal(lc_data_count(d), 1);
  assert_int_equal(lc_data_get(d, 0).n, all.n - 1); /* no EOS */
  lc_data_free(d);
  lc_ids_free(ctx, &all);
}

static void test_text_refused(void **state) {
  lc_dataset *d;
  assert_refused(open_text("a.txt", "abc\xff", (lc_data_opts){.seq = 8}, &d), "a.txt: not UTF-8 at byte 3");
  assert_refused(open_text("a.txt", "", (lc_data_opts){.seq = 8}, &d), "a.txt");
  assert_refused(open_text("a.txt", "PAR1....", (lc_data_opts){.seq = 8}, &d), "Parquet");
  assert_refused(lc_data_open(ctx, tok, "/nowhere/a.txt", &(lc_data_opts){.seq = 8}, &d), "/nowhere/a.txt");
  assert_refused(lc_data_open(ctx, tok, "/nowhere/a.jsonl", &(lc_data_opts){.seq = 8}, &d),
                 "/nowhere/a.jsonl");
  assert_int_equal(open_text("a.txt", "abc", (lc_data_opts){.seq = 1}, &d), LC_USAGE);
  assert_null(d);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static void test_text_rows(void **state) {
  lc_dataset *d;
  lc_ids want = {0};
  assert_ok(open_text("bom.jsonl", "\xEF\xBB\xBF{\"text\": \"a\"}", (lc_data_opts){.seq = 64}, &d));
  lc_data_free(d);
  assert_ok(open_text("rows",
                      "{\"text\": \"bake lo\"}\n\n  \r\n{\"text\": \"a\", \"other\": 1}\r\n{\"text\": \"\"}",
                      (lc_data_opts){.seq = 64}, &d));
  lc_data_info info = lc_data_describe(d);
  assert_int_equal(info.kind, LC_ROWS_TEXT);
  assert_int_equal(info.rows, 2);
  assert_int_equal(info.dropped, 1); /* EOS alone */
  add(&want, "bake lo<|im_end|>");
  char mask[64];
  memset(mask, '1', sizeof mask);
  mask[0] = '0', mask[want.n] = 0;
  same_example(lc_data_get(d, 0), &want, mask);
  want.n = 0;
  add(&want, "a<|im_end|>");
  same_example(lc_data_get(d, 1), &want, "01");
  lc_data_free(d);
  lc_ids_free(ctx, &want);

  char *pipe = in_scratch("pipe"); /* what cannot be read twice is not */
  assert_int_equal(mkfifo(pipe, 0600), 0);
  if (fork() == 0) {
    FILE *f = fopen(pipe, "w");
    for (int i = 0; f && i < 1000; i++) fputs("{\"text\": \"one of a thousand\"}\n", f);
    if (f) fclose(f);
    _exit(0);
  }
  assert_ok(lc_data_open(ctx, tok, pipe, &(lc_data_opts){.seq = 64}, &d));
  assert_int_equal(lc_data_count(d), 1000);
  lc_data_free(d);
  wait(NULL);
  lc_free(ctx, pipe);
}

static void test_completion_rows(void **state) {
  lc_dataset *d;
  lc_ids want = {0};
  /* clean boundary; one that the joint tokens cross ("bake" is no "bak" and "e"); empty prompt; empty
   * completion */
  assert_ok(
      open_text("c.jsonl",
                "{\"prompt\": \"a\", \"completion\": \" b\"}\n{\"prompt\": \"bak\", \"completion\": \"e\"}\n"
                "{\"prompt\": \"\", \"completion\": \"ab\"}\n{\"prompt\": \"a\", \"completion\": \"\"}\n",
                (lc_data_opts){.seq = 64}, &d));
  lc_data_info info = lc_data_describe(d);
  assert_int_equal(info.kind, LC_ROWS_COMPLETION);
  assert_int_equal(info.rows, 4);
  lc_ids bake = {0}, bak = {0};
  add(&bake, "bake");
  add(&bak, "bak");
  bool apart = bak.n > bake.n || memcmp(bak.id, bake.id, (size_t)bak.n * 4) != 0;
  assert_true(apart); /* the golden vocabulary merges across */
  assert_int_equal(info.apart, 1);
  add(&want, "a b<|im_end|>");
  char mask[16] = "0111111111111111";
  mask[want.n] = 0;
  same_example(lc_data_get(d, 0), &want, mask);
  want.n = 0;
  add(&want, "bak");
  int64_t prompt = want.n;
  add(&want, "e");
  add(&want, "<|im_end|>");
  for (int64_t i = 0; i < want.n; i++) mask[i] = i < prompt ? '0' : '1', mask[i + 1] = 0;
  same_example(lc_data_get(d, 1), &want, mask);
  assert_true(lc_data_get(d, 2).n_targets >= 1);
  assert_int_equal(lc_data_get(d, 3).n_targets, 1); /* the end token */
  lc_data_free(d);
  lc_ids_free(ctx, &want);
  lc_ids_free(ctx, &bake);
  lc_ids_free(ctx, &bak);
}

static void test_message_rows(void **state) {
  lc_dataset *d;
  lc_ids ids = {0}, mask = {0};
  const lc_template *k;
  assert_ok(
      open_text("m.jsonl",
                "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "
                "\"content\": \"ba\"}]}\n"
                "{\"messages\": [{\"role\": \"user\", \"content\": \"no answer\"}]}\n{\"messages\": []}\n",
                (lc_data_opts){.seq = 256}, &d));
  lc_data_info info = lc_data_describe(d);
  assert_int_equal(info.kind, LC_ROWS_MESSAGES);
  assert_int_equal(info.rows, 1);
  assert_int_equal(info.dropped, 2);
  assert_string_equal(info.template_name, "smollm2");
  assert_ok(lc_template_for(tok, &k));
  assert_ok(
      lc_template_render(k, tok, (lc_message[]){{"user", "hi"}, {"assistant", "ba"}}, 2, false, &ids, &mask));
  lc_example e = lc_data_get(d, 0);
  assert_int_equal(e.n, ids.n);
  for (int64_t i = 0; i < e.n; i++) {
    assert_int_equal(e.id[i], ids.id[i]);
    assert_int_equal(e.target[i], mask.id[i]);
  }
  lc_data_free(d);
  lc_ids_free(ctx, &ids);
  lc_ids_free(ctx, &mask);
}

/* Cut at the end and counted; a row whose targets are all cut away is dropped and counted. */
static void test_cut(void **state) {
  lc_dataset *d;
  assert_ok(open_text("c.jsonl",
                      "{\"prompt\": \"1 2 3 4 5\", \"completion\": \" 6 7 8\"}\n{\"prompt\": \"1 2 3 4 5 6 7 "
                      "8 9 0 1 2\", \"completion\": \"3\"}\n"
                      "{\"prompt\": \"1\", \"completion\": \"2\"}\n",
                      (lc_data_opts){.seq = 11}, &d));
  lc_data_info info = lc_data_describe(d);
  assert_int_equal(info.rows, 2);
  assert_int_equal(info.cut, 1);
  assert_int_equal(info.dropped, 1);
  assert_int_equal(lc_data_get(d, 0).n, 11);
  assert_int_equal(lc_data_get(d, 0).n_targets, 2);
  lc_data_free(d);
}

static void test_malformed(void **state) {
  static const struct {
    const char *row, *words;
  } cases[] = {
      {"{\"text\": 5}", "\"text\" must be a string"},
      {"{\"text\": \"a\"", "column"},
      {"[1, 2]", "object"},
      {"\"text\"", "line 3"},
      {"{\"test\": \"a\"}", "no \"text\""},
      {"{\"text\": \"\\ud800\"}", "line 3"},
      {"{\"text\": \"\xff\"}", "line 3"},
      {"{\"prompt\": \"a\", \"completion\": \"b\"}", "another kind"},
      {"{\"messages\": []}", "another kind"},
  };
  char text[512];
  lc_dataset *d;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    snprintf(text, sizeof text, "{\"text\": \"good row\"}\n\n%s\n{\"text\": \"another\"}\n", cases[i].row);
    assert_refused(open_text("bad.jsonl", text, (lc_data_opts){.seq = 64}, &d), cases[i].words);
    assert_non_null(strstr(lc_error(ctx), "bad.jsonl: line 3:"));
    assert_null(d);
    assert_ok(open_text("bad.jsonl", text, (lc_data_opts){.seq = 64, .skip_bad = true}, &d));
    assert_int_equal(lc_data_describe(d).bad, 1);
    assert_int_equal(lc_data_count(d), 2);
    lc_data_free(d);
  }
  static const char *const first[][2] = {
      {"{\"messages\": [{\"role\": \"usr\", \"content\": \"a\"}]}", "'usr'"},
      {"{\"messages\": [{\"role\": \"user\"}]}", "content"},
      {"{\"messages\": \"a\"}", "must be a list"},
      {"{\"prompt\": [\"a\"], \"completion\": \"b\"}", "must be strings"},
      {"{\"prompt\": \"a\"}", "no \"text\""},
      {"{\"prompt\": \"a\", \"completion\": \"b\", \"text\": \"c\"}", "more than one kind"},
  };
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
    assert_refused(open_text("bad.jsonl", first[i][0], (lc_data_opts){.seq = 64}, &d), first[i][1]);
    assert_refused(open_text("bad.jsonl", first[i][0], (lc_data_opts){.seq = 64, .skip_bad = true}, &d),
                   "nothing to learn");
  }
  lc_tokenizer *good = tok;
  tok = golden("gpt2"); /* messages need a template */
  assert_refused(open_text("m.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
                           (lc_data_opts){.seq = 64}, &d),
                 "no chat template");
  tok->eos = -1;
  assert_refused(open_text("m.jsonl", "{\"text\": \"a b\"}", (lc_data_opts){.seq = 64}, &d), "end token");
  lc_tokenizer_free(tok);
  tok = good;
}

/* A tokenizer that opens texts with BOS opens rows with it. */
static void test_bos(void **state) {
  lc_tokenizer *good = tok;
  lc_dataset *d;
  tok = golden("llama3");
  assert_ok(
      open_text("b.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}", (lc_data_opts){.seq = 64}, &d));
  assert_int_equal(lc_data_get(d, 0).id[0], lc_token_bos(tok));
  assert_int_equal(lc_data_get(d, 0).n_targets, 2);
  lc_data_free(d);
  lc_tokenizer_free(tok);
  tok = good;
}

static void test_order(void **state) {
  char text[4096] = "";
  lc_dataset *d;
  for (int i = 0; i < 40; i++) sprintf(text + strlen(text), "{\"text\": \"row %d\"}\n", i);
  assert_ok(open_text("o.jsonl", text, (lc_data_opts){.seq = 64}, &d));
  int64_t a[40], b[40], seen[40] = {0}, differ = 0, moved = 0;
  lc_data_order(d, 1, 0, true, a);
  lc_data_order(d, 1, 0, true, b);
  assert_memory_equal(a, b, sizeof a);
  for (int i = 0; i < 40; i++) seen[a[i]]++, moved += a[i] != i;
  for (int i = 0; i < 40; i++) assert_int_equal(seen[i], 1);
  assert_true(moved > 20);
  lc_data_order(d, 1, 1, true, b);
  for (int i = 0; i < 40; i++) differ += a[i] != b[i];
  assert_true(differ > 20);
  lc_data_order(d, 2, 0, true, b);
  assert_memory_not_equal(a, b, sizeof a);
  lc_data_order(d, 2, 0, false, b);
  for (int i = 0; i < 40; i++) assert_int_equal(b[i], i);
  lc_data_free(d);
}

/* The checksum sees ids, marks and where rows begin. */
static void test_checksum(void **state) {
  static const char *const texts[] = {"{\"text\": \"a b\"}", "{\"text\": \"a c\"}",
                                      "{\"prompt\": \"a b\", \"completion\": \"\"}",
                                      "{\"text\": \"a b\"}\n{\"text\": \"a b\"}"};
  uint32_t sum[4];
  lc_dataset *d;
  for (int i = 0; i < 4; i++) {
    for (int again = 0; again < 2; again++) {
      assert_ok(open_text("s.jsonl", texts[i], (lc_data_opts){.seq = 64}, &d));
      if (again) assert_int_equal(sum[i], lc_data_describe(d).checksum);
      sum[i] = lc_data_describe(d).checksum;
      lc_data_free(d);
    }
    for (int j = 0; j < i; j++) assert_int_not_equal(sum[i], sum[j]);
  }
}

/* A line longer than the reader's chunk, and lines that end at every place of it. */
static void test_long_lines(void **state) {
  enum { LINE = 70000 };
  lc_bytes text = {0};
  for (int k = 0; k < 3; k++) {
    assert_ok(lc_bytes_add(ctx, &text, "{\"text\": \"", 10));
    for (int i = 0; i < LINE + k; i++) assert_ok(lc_bytes_add(ctx, &text, "a ", 2));
    assert_ok(lc_bytes_add(ctx, &text, "\"}\n", 3));
  }
  lc_dataset *d;
  assert_ok(open_text("l.jsonl", text.data, (lc_data_opts){.seq = 1 << 20}, &d));
  assert_int_equal(lc_data_count(d), 3);
  assert_int_equal(lc_data_describe(d).cut, 0);
  lc_ids want = {0};
  text.data[10 + 2 * LINE] = 0;
  add(&want, text.data + 10);
  assert_int_equal(lc_data_get(d, 0).n, want.n + 1);
  lc_data_free(d);
  lc_ids_free(ctx, &want);
  lc_free(ctx, text.data);
}

/* ---- questions ----------------------------------------------------------------------------------------- */

static lc_status ask(const char *text, bool choices, lc_question **q, int64_t *n) {
  char *path = write_text("q.jsonl", text);
  lc_status st = lc_questions_open(ctx, path, choices, q, n);
  lc_free(ctx, path);
  return st;
}

static void test_questions(void **state) {
  lc_question *q;
  int64_t n;
  assert_ok(ask("{\"prompt\": \"p\", \"choices\": [\"x\", \"y\"], \"answer\": 1}\n\n{\"prompt\": [\"p\", "
                "\"q\"], \"choices\": [\"x\", \"y\"], \"answer\": \"A\"}\n",
                true, &q, &n));
  assert_int_equal(n, 2);
  assert_int_equal(q[0].n_prompts, 1);
  assert_int_equal(q[0].answer, 1);
  assert_string_equal(q[0].choice[1], "y");
  assert_int_equal(q[1].n_prompts, 2);
  assert_string_equal(q[1].prompt[1], "q");
  assert_int_equal(q[1].answer, 0);
  lc_questions_free(ctx, q, n);
  assert_ok(ask("{\"prompt\": \"2+2\", \"answer\": \"#### 4\"}", false, &q, &n));
  assert_int_equal(n, 1);
  assert_string_equal(q[0].answer_text, "#### 4");
  lc_questions_free(ctx, q, n);
  static const char *const bad[] = {"{\"prompt\": \"p\", \"choices\": [\"x\"], \"answer\": 1}",
                                    "{\"prompt\": \"p\", \"choices\": [], \"answer\": 0}",
                                    "{\"prompt\": [\"p\"], \"choices\": [\"x\", \"y\"], \"answer\": 0}",
                                    "{\"prompt\": \"p\", \"choices\": \"xy\", \"answer\": 0}",
                                    "{\"prompt\": 1, \"choices\": [\"x\"], \"answer\": 0}",
                                    "{\"prompt\": \"p\", \"choices\": [\"x\", 1], \"answer\": \"A\"}",
                                    "{\"prompt\": \"p\", \"choices\": [\"x\"], \"answer\": \"B\"}",
                                    "{\"prompt\": \"p\", \"choices\": [\"x\"]}",
                                    "nonsense"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_refused(ask(bad[i], true, &q, &n), "q.jsonl: line 1:");
    assert_null(q);
  }
  assert_refused(ask("{\"prompt\": \"p\", \"answer\": 4}", false, &q, &n), "line 1");
  assert_refused(ask("\n\n", false, &q, &n), "no question");
  assert_refused(lc_questions_open(ctx, "/nowhere/q", true, &q, &n), "/nowhere/q");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_file),    cmocka_unit_test(test_text_refused),
      cmocka_unit_test(test_text_rows),    cmocka_unit_test(test_completion_rows),
      cmocka_unit_test(test_message_rows), cmocka_unit_test(test_cut),
      cmocka_unit_test(test_malformed),    cmocka_unit_test(test_bos),
      cmocka_unit_test(test_order),        cmocka_unit_test(test_checksum),
      cmocka_unit_test(test_long_lines),   cmocka_unit_test(test_questions)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
