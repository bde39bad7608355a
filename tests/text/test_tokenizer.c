/* The tokenizer against Hugging Face tokenizers' ids (golden files), through every way in and out: HF
 * directory, GGUF, and both written and read again. */
#include "text/text_test.h"

static const char *const all[] = {"smollm", "gpt2", "llama3", "odd"};
enum { N_ALL = 4 };

static void encode(const lc_tokenizer *t, const json_t *text, bool special, lc_ids *ids) {
  ids->n = 0;
  assert_ok(lc_tokenize(t, json_string_value(text), json_string_length(text), special, ids));
}

/* Every golden case of `name` on the tokenizer t. */
static void check_cases(const lc_tokenizer *t, const char *name, size_t at_least) {
  json_t *list = golden_cases(name, "cases"), *c;
  lc_ids ids = {0};
  size_t i;
  assert_true(json_array_size(list) >= at_least);
  json_array_foreach(list, i, c) {
    const json_t *text = json_object_get(c, "text"), *plain = json_object_get(c, "plain");
    encode(t, text, true, &ids);
    same_ids(&ids, json_object_get(c, "ids"), json_string_value(text));
    encode(t, text, false, &ids);
    same_ids(&ids, plain ? plain : json_object_get(c, "ids"), json_string_value(text));
  }
  lc_ids_free(ctx, &ids);
  json_decref(list);
}

static void test_golden(void **state) {
  static const size_t at_least[] = {300, 100, 100, 150};
  for (int i = 0; i < N_ALL; i++) {
    lc_tokenizer *t = golden(all[i]);
    check_cases(t, all[i], at_least[i]);
    lc_tokenizer_free(t);
  }
}

static bool lacks_a_byte(const lc_tokenizer *t, const json_t *text) {
  for (size_t i = 0; i < json_string_length(text); i++)
    if (t->byte_id[(uint8_t)json_string_value(text)[i]] < 0) return true;
  return false;
}

/* Decoding gives the bytes back, at once and as a stream, unless the vocabulary has no token for one of them.
 */
static void test_decode(void **state) {
  for (int v = 0; v < 3; v++) { /* "odd" normalises: it cannot */
    lc_tokenizer *t = golden(all[v]);
    json_t *list = golden_cases(all[v], "cases"), *c;
    lc_ids ids = {0};
    size_t i, restored = 0;
    json_array_foreach(list, i, c) {
      const json_t *text = json_object_get(c, "text");
      lc_bytes whole = {0}, streamed = {0};
      lc_utf8_stream stream = {0};
      encode(t, text, true, &ids);
      assert_ok(lc_detokenize(t, ids.id, ids.n, false, &whole));
      for (int64_t k = 0; k < ids.n; k++) {
        assert_ok(lc_detokenize_next(t, &stream, ids.id[k], false, &streamed));
        assert_true(lc_utf8_valid(streamed.data, streamed.n, NULL) || lacks_a_byte(t, text));
      }
      assert_ok(lc_detokenize_next(t, &stream, -1, true, &streamed));
      assert_int_equal(stream.n_held, 0);
      assert_int_equal(streamed.n, whole.n);
      assert_memory_equal(streamed.data, whole.data, whole.n);
      if (!lacks_a_byte(t, text)) {
        assert_int_equal(whole.n, json_string_length(text));
        assert_memory_equal(whole.data, json_string_value(text), whole.n);
        restored++;
      }
      lc_free(ctx, whole.data);
      lc_free(ctx, streamed.data);
    }
    assert_true(restored > 90);
    lc_ids_free(ctx, &ids);
    json_decref(list);
    lc_tokenizer_free(t);
  }
}

/* A byte without a token: left out, with one warning. */
static int warnings;
static void count_warnings(void *arg, lc_log_level level, const char *line) {
  warnings += level == LC_LOG_WARN && strstr(line, "0x04") != NULL;
}
static void test_missing_byte(void **state) {
  lc_tokenizer *t = golden("smollm");
  lc_ids a = {0}, b = {0};
  lc_set_log(ctx, count_warnings, NULL);
  warnings = 0;
  for (int i = 0; i < 2; i++)
    assert_ok(lc_tokenize(t,
                          "th\x04"
                          "e",
                          4, true, &a));
  assert_ok(lc_tokenize(t, "thethe", 6, true, &b));
  lc_set_log(ctx, NULL, NULL);
  assert_int_equal(warnings, 1);
  assert_int_equal(t->byte_id[4], -1);
  assert_true(a.n > 0);
  lc_ids_free(ctx, &a);
  lc_ids_free(ctx, &b);
  lc_tokenizer_free(t);
}

static void test_invalid_utf8(void **state) {
  lc_tokenizer *t = golden("smollm");
  lc_ids ids = {0};
  static const struct {
    const char *text;
    const char *byte;
  } bad[] = {{"abc\xff", "byte 3"},    {"\xc0\xaf", "byte 0"},         {"0123456789\xed\xa0\x80", "byte 10"},
             {"ab\xe2\x82", "byte 2"}, {"\xf4\x90\x80\x80", "byte 0"}, {"12345678\x80", "byte 8"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_refused(lc_tokenize(t, bad[i].text, strlen(bad[i].text), true, &ids), bad[i].byte);
    assert_int_equal(ids.n, 0);
  }
  lc_bytes out = {0};
  assert_ok(lc_utf8_lossy(ctx,
                          "a\xff"
                          "b\xe2\x82",
                          5, &out));
  assert_string_equal(out.data, "a\xEF\xBF\xBD"
                                "b\xEF\xBF\xBD\xEF\xBF\xBD");
  lc_free(ctx, out.data);
  lc_ids_free(ctx, &ids);
  lc_tokenizer_free(t);
}

static void test_roles_of_ids(void **state) {
  lc_tokenizer *t = golden("smollm");
  int n;
  assert_int_equal(lc_token_bos(t), 1);
  assert_int_equal(lc_token_eos(t), 2);
  assert_int_equal(lc_token_pad(t), 2);
  assert_false(lc_token_adds_bos(t));
  assert_int_equal(lc_token_id(t, "<|im_end|>"), 2);
  assert_int_equal(lc_token_id(t, "no such token"), -1);
  assert_true(lc_token_is_special(t, 2));
  assert_false(lc_token_is_special(t, lc_token_id(t, "<tool>")));
  assert_int_equal(lc_token_stops(t, &n)[0], 2);
  assert_int_equal(n, 1);
  int32_t past = (int32_t)lc_tokenizer_size(t);
  lc_bytes out = {0};
  assert_refused(lc_detokenize(t, &past, 1, false, &out), "out of range");
  assert_ok(lc_detokenize(t, (int32_t[]){1, 40, 2}, 3, true, &out));
  assert_int_equal(out.n, 1);
  lc_free(ctx, out.data);
  lc_tokenizer_free(t);

  t = golden("llama3");
  assert_true(lc_token_adds_bos(t));
  assert_int_equal(lc_token_bos(t), lc_token_id(t, "<|begin_of_text|>"));
  assert_int_equal(lc_token_eos(t), lc_token_id(t, "<|eot_id|>"));
  lc_token_stops(t, &n);
  assert_int_equal(n, 2);
  lc_tokenizer_free(t);

  t = golden("gpt2"); /* names nothing itself: config files do */
  assert_int_equal(lc_token_eos(t), 0);
  assert_int_equal(lc_token_pad(t), -1);
  lc_tokenizer_free(t);

  t = golden("odd");
  assert_int_equal(lc_token_bos(t), -1);
  assert_int_equal(lc_token_eos(t), lc_token_id(t, "<|im_end|>"));
  assert_non_null(strstr(lc_tokenizer_template(t), "add_generation_prompt is defined"));
  lc_tokenizer_free(t);
}

/* Writes t into a GGUF; reads that. */
static lc_tokenizer *through_gguf(const lc_tokenizer *t) {
  char *path = in_scratch("t.gguf");
  lc_gguf_writer *w;
  lc_gguf g;
  lc_tokenizer *u;
  assert_ok(lc_gguf_create(ctx, path, &w));
  assert_ok(lc_gguf_put_string(w, "general.architecture", "llama", 5));
  assert_ok(lc_gguf_put_u32(w, "llama.context_length", 77));
  assert_ok(lc_tokenizer_write_gguf(t, w));
  assert_ok(lc_gguf_finish(w, true));
  assert_ok(lc_gguf_open(ctx, path, &g));
  assert_ok(lc_tokenizer_from_gguf(ctx, &g, path, &u));
  lc_gguf_close(ctx, &g);
  lc_free(ctx, path);
  return u;
}

static void same_roles(const lc_tokenizer *t, const lc_tokenizer *u) {
  assert_int_equal(lc_tokenizer_size(t), lc_tokenizer_size(u));
  assert_int_equal(lc_token_bos(t), lc_token_bos(u));
  assert_int_equal(lc_token_eos(t), lc_token_eos(u));
  assert_int_equal(lc_token_pad(t), lc_token_pad(u));
  assert_int_equal(lc_token_adds_bos(t), lc_token_adds_bos(u));
  for (int32_t i = 0; i < lc_tokenizer_size(t); i++)
    assert_int_equal(lc_token_is_special(t, i), lc_token_is_special(u, i));
  const char *a = lc_tokenizer_template(t), *b = lc_tokenizer_template(u);
  assert_true(!a == !b);
  if (a) assert_string_equal(a, b);
}

/* HF -> GGUF -> HF directory -> GGUF: the same ids all along. */
static void test_round_trip(void **state) {
  for (int i = 0; i < 3; i++) {
    lc_tokenizer *hf = golden(all[i]), *gguf = through_gguf(hf), *again, *last;
    char *dir = in_scratch(all[i]);
    check_cases(gguf, all[i], 100);
    same_roles(hf, gguf);
    assert_int_equal(gguf->context_length, 77);
    assert_ok(lc_tokenizer_write_dir(gguf, dir));
    assert_ok(lc_tokenizer_from_dir(ctx, dir, &again));
    check_cases(again, all[i], 100);
    same_roles(hf, again);
    last = through_gguf(again);
    check_cases(last, all[i], 100);
    lc_tokenizer_free(hf);
    lc_tokenizer_free(gguf);
    lc_tokenizer_free(again);
    lc_tokenizer_free(last);
    lc_free(ctx, dir);
  }
}

/* From an HF base: the same bytes. */
static void test_copies(void **state) {
  static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"};
  lc_tokenizer *t = golden("odd");
  char *dir = in_scratch("copy");
  assert_ok(lc_tokenizer_write_dir(t, dir));
  for (int i = 0; i < 3; i++) {
    char from[128], *to = lc_path_join(ctx, dir, files[i]), *a, *b;
    size_t na, nb;
    snprintf(from, sizeof from, "golden/tokenizer/odd/%s", files[i]);
    assert_ok(lc_read_file(ctx, from, 1 << 20, &a, &na));
    assert_ok(lc_read_file(ctx, to, 1 << 20, &b, &nb));
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    lc_free(ctx, a);
    lc_free(ctx, b);
    lc_free(ctx, to);
  }
  lc_gguf_writer *w;
  char *path = in_scratch("odd.gguf");
  assert_ok(lc_gguf_create(ctx, path, &w));
  assert_refused(lc_tokenizer_write_gguf(t, w), "the normalizer NFC");
  lc_gguf_finish(w, false);
  lc_free(ctx, path);
  lc_free(ctx, dir);
  lc_tokenizer_free(t);
}

/* Long words are merged in n log n: seconds, were it n². And a text may be one word. */
static void test_long_word(void **state) {
  lc_tokenizer *t = golden("smollm");
  enum { N = 1 << 20 };
  char *s = malloc(N);
  lc_ids ids = {0};
  lc_bytes out = {0};
  for (int i = 0; i < N; i++) s[i] = "bakelominu"[i % 10];
  assert_ok(lc_tokenize(t, s, N, true, &ids));
  assert_true(ids.n < N / 2);
  assert_ok(lc_detokenize(t, ids.id, ids.n, false, &out));
  assert_int_equal(out.n, N);
  assert_memory_equal(out.data, s, N);
  free(s);
  lc_free(ctx, out.data);
  lc_ids_free(ctx, &ids);
  lc_tokenizer_free(t);
}

/* The rows of the table of known pre-tokenizers all build, and no two are the same. */
static void test_pre_table(void **state) {
  lc_pre pre[16] = {0};
  int n = 0;
  for (const lc_pre_row *row; (row = lc_pre_at(n)); n++) {
    assert_ok(lc_pre_from_row(ctx, "table", row, &pre[n]));
    assert_ptr_equal(lc_pre_by_name((lc_str){row->names[0], strlen(row->names[0])}), row);
    for (int i = 0; i < n; i++) assert_false(lc_pre_same(&pre[i], &pre[n]));
  }
  assert_true(n >= 4);
  assert_null(lc_pre_by_name((lc_str){"smol", 4}));
  for (int i = 0; i < n; i++) lc_pre_free(ctx, &pre[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),       cmocka_unit_test(test_decode),
                                     cmocka_unit_test(test_missing_byte), cmocka_unit_test(test_invalid_utf8),
                                     cmocka_unit_test(test_roles_of_ids), cmocka_unit_test(test_round_trip),
                                     cmocka_unit_test(test_copies),       cmocka_unit_test(test_long_word),
                                     cmocka_unit_test(test_pre_table)};
  return cmocka_run_group_tests(tests, text_setup, text_teardown);
}
