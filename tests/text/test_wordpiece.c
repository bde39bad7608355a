/* Encoders' tokenizers against Hugging Face tokenizers: WordPiece (tokenizer.json, and vocab.txt as it was before), and
 * RoBERTa's byte-level BPE; what stands around texts and pairs, cut to a length; decoding; bad files. */
#include "text/text_test.h"

static const char *const all[] = {"bert", "bert-cased", "roberta"};

static void test_cases(void **state) {
  for (size_t v = 0; v < sizeof all / sizeof *all; v++) {
    lc_tokenizer *t = golden(all[v]);
    json_t *list = golden_cases(all[v], "cases"), *c;
    lc_ids ids = {0};
    size_t i;
    assert_true(json_array_size(list) >= 100);
    json_array_foreach(list, i, c) {
      const json_t *text = json_object_get(c, "text"), *plain = json_object_get(c, "plain");
      for (int special = 0; special < 2; special++) {
        ids.n = 0;
        assert_ok(lc_tokenize(t, json_string_value(text), json_string_length(text), special, &ids));
        same_ids(&ids, !special && plain ? plain : json_object_get(c, "ids"), json_string_value(text));
      }
    }
    lc_ids_free(ctx, &ids);
    json_decref(list);
    lc_tokenizer_free(t);
  }
}

static void test_frames(void **state) {
  for (size_t v = 0; v < sizeof all / sizeof *all; v++) {
    lc_tokenizer *t = golden(all[v]);
    json_t *list = golden_cases(all[v], "frames"), *c;
    size_t i, cut = 0, pairs = 0;
    assert_true(json_array_size(list) >= 60);
    json_array_foreach(list, i, c) {
      const json_t *a = json_object_get(c, "a"), *b = json_object_get(c, "b"),
                   *types = json_object_get(c, "types");
      lc_bytes type = {0};
      lc_framed f = {.types = &type};
      assert_ok(lc_tokenize_framed(t, json_string_value(a), json_string_length(a),
                                   b ? json_string_value(b) : NULL, b ? json_string_length(b) : 0,
                                   json_integer_value(json_object_get(c, "max")), &f));
      same_ids(&f.ids, json_object_get(c, "ids"), json_string_value(a));
      assert_int_equal(type.n, json_array_size(types));
      for (size_t k = 0; k < type.n; k++)
        assert_int_equal(type.data[k], json_integer_value(json_array_get(types, k)));
      cut += f.cut, pairs += b != NULL;
      lc_ids_free(ctx, &f.ids);
      lc_free(ctx, type.data);
    }
    assert_true(cut > 10 && pairs > 20);
    json_decref(list);
    lc_tokenizer_free(t);
  }
}

static void test_decode(void **state) {
  lc_tokenizer *t = golden("bert");
  static const char text[] = "Tioning the caf\xC3\xA9, don't";
  lc_ids ids = {0};
  lc_bytes out = {0};
  assert_ok(lc_tokenize(t, text, sizeof text - 1, false, &ids));
  assert_ok(lc_detokenize(t, ids.id, ids.n, true, &out));
  assert_string_equal(out.data, "tioning the cafe , don ' t"); /* words apart, pieces together */
  lc_ids_free(ctx, &ids);
  lc_free(ctx, out.data);
  lc_tokenizer_free(t);
}

/* An encoder's rows have labels: rows of next tokens are refused. */
static void test_no_next_tokens(void **state) {
  lc_tokenizer *t = golden("bert");
  lc_dataset *d;
  char *path = write_text("rows.jsonl", "{\"text\": \"a\"}\n");
  assert_refused(lc_data_open(ctx, t, path, &(lc_data_opts){.seq = 8}, &d), "an encoder's");
  lc_free(ctx, path);
  lc_tokenizer_free(t);
}

static lc_status from_text(const char *vocab, const char *config, lc_tokenizer **t) {
  char *a = write_text("vocab.txt", vocab), *b = write_text("tokenizer_config.json", config);
  lc_free(ctx, a);
  lc_free(ctx, b);
  return lc_tokenizer_from_dir(ctx, scratch, t);
}

static void test_bad_vocab(void **state) {
  static const char good[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\n\xC3\xA9\n";
  static const struct {
    const char *vocab, *config, *says;
  } cases[] = {
      {"", "{}", "no tokens"},
      {"[PAD]\n\n[UNK]\n", "{}", "line 2 is empty"},
      {"[PAD]\n[CLS]\n[SEP]\na\n", "{}", "unk_token '[UNK]'"},
      {"[PAD]\n[UNK]\n[SEP]\n", "{}", "cls_token '[CLS]'"},
      {"[PAD]\n[UNK]\na\na\n", "{}", "both 'a'"},
      {"[PAD]\n\xFF\n", "{}", "UTF-8"},
      {good, "{\"sep_token\": \"<sep>\"}", "'<sep>'"},
      {good, "[", "line 1"},
  };
  lc_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_refused(from_text(cases[i].vocab, cases[i].config, &t), cases[i].says);
  lc_ids ids = {0};
  assert_ok(from_text(good, "{\"do_lower_case\": true, \"strip_accents\": false}", &t));
  assert_ok(lc_tokenize(t, "AB \xC3\x89 x", 7, true, &ids));
  const int32_t want[] = {4, 5, 6, 1};
  assert_int_equal(ids.n, 4);
  assert_memory_equal(ids.id, want, sizeof want);
  lc_ids_free(ctx, &ids);
  lc_tokenizer_free(t);
}

/* One member of bert's tokenizer.json replaced. */
static lc_status with(const char *key, const char *member, const char *json, lc_tokenizer **t) {
  json_t *root = load_json("golden/tokenizer/bert/tokenizer.json"),
         *value = json_loads(json, JSON_DECODE_ANY, NULL);
  assert_non_null(value);
  assert_ok(lc_tokenizer_new(ctx, "tokenizer.json", t));
  json_object_set_new(member ? json_object_get(root, key) : root, member ? member : key, value);
  lc_status st = lc_tokenizer_json(*t, root);
  if (!st) st = lc_vocab_finish(*t);
  json_decref(root);
  lc_tokenizer_free(*t);
  return st;
}

static void test_bad_json(void **state) {
  static const struct {
    const char *key, *member, *json, *says;
  } cases[] = {
      {"normalizer", "type", "\"Lowercase\"", "'Lowercase'"},
      {"normalizer", "lowercase", "3", "'lowercase'"},
      {"pre_tokenizer", "type", "\"Whitespace\"", "'Whitespace'"},
      {"pre_tokenizer", NULL, "null", "''"},
      {"decoder", "type", "\"ByteLevel\"", "'ByteLevel'"},
      {"model", "unk_token", "\"<none>\"", "'<none>'"},
      {"model", "unk_token", "null", "unk_token"},
      {"model", "continuing_subword_prefix", "\"\"", "prefix"},
      {"model", "continuing_subword_prefix", "\"a very long prefix\"", "short"},
      {"model", "max_input_chars_per_word", "0", "above 0"},
      {"model", "vocab", "[]", "no vocab"},
      {"post_processor", "single", "5", "malformed"},
      {"post_processor", "single",
       "[{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]",
       "repeats"},
      {"post_processor", "pair", "[{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]", "leaves a text out"},
  };
  lc_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_refused(with(cases[i].key, cases[i].member, cases[i].json, &t), cases[i].says);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases),     cmocka_unit_test(test_frames),
                                     cmocka_unit_test(test_decode),    cmocka_unit_test(test_no_next_tokens),
                                     cmocka_unit_test(test_bad_vocab), cmocka_unit_test(test_bad_json)};
  return cmocka_run_group_tests(tests, text_setup, text_teardown);
}
