/* What the tokenizer's readers refuse, and with which words: unknown or unsupported parts by name, and files
 * that contradict themselves. */
#include "text/text_test.h"

/* The golden tokenizer.json with one member replaced ("a.b" is member b of member a; a number is a place in a
 * list), read from a directory of its own. */
static lc_status with(const char *base, const char *path, const char *json, lc_tokenizer **t) {
  char from[128], keys[128], *key = keys, *next;
  snprintf(from, sizeof from, "golden/tokenizer/%s/tokenizer.json", base);
  snprintf(keys, sizeof keys, "%s", path);
  json_t *root = load_json(from), *at = root, *value = json_loads(json, JSON_DECODE_ANY, NULL);
  assert_non_null(value);
  for (; (next = strchr(key, '.')); key = next + 1) {
    *next = 0;
    at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
    assert_non_null(at);
  }
  if (json_is_array(at))
    json_array_set_new(at, (size_t)atoi(key), value);
  else
    json_object_set_new(at, key, value);
  char *text = json_dumps(root, 0);
  lc_free(ctx, write_text("tokenizer.json", text));
  free(text);
  json_decref(root);
  return lc_tokenizer_from_dir(ctx, scratch, t);
}

static void test_json(void **state) {
  static const struct {
    const char *path, *json, *words;
  } cases[] = {
      {"model.type", "\"Unigram\"", "'Unigram'"},
      {"model.type", "\"WordPiece\"", "WordPiece behind the normalizer"},
      {"model.byte_fallback", "true", "byte_fallback"},
      {"model.dropout", "0.1", "dropout"},
      {"model.continuing_subword_prefix", "\"##\"", "continuing_subword_prefix"},
      {"model.end_of_word_suffix", "\"</w>\"", "end_of_word_suffix"},
      {"model.unk_token", "\"<none>\"", "<none>"},
      {"model.ignore_merges", "3", "ignore_merges"},
      {"model", "null", "no model"},
      {"model.vocab", "null", "no vocab"},
      {"model.vocab", "{}", "merge 0"},
      {"model.vocab.a", "1.5", "no integer"},
      {"model.vocab.a", "-1", "-1"},
      {"model.vocab.a", "99999999999", "out of range"},
      {"model.vocab.zz\u00e9new", "5", "id 5"},
      {"model.merges", "null", "no merges"},
      {"model.merges.0", "[\"a\"]", "merge 0"},
      {"model.merges.0", "\"ab\"", "no space"},
      {"model.merges.0", "[\"a\", \"\\u0120\"]", "lacks"},
      {"model.merges.0", "[\"no such\", \"b\"]", "no such"},
      {"normalizer", "{\"type\": \"Lowercase\"}", "'Lowercase'"},
      {"normalizer", "{\"type\": \"NFKC\"}", "'NFKC'"},
      {"normalizer",
       "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"StripAccents\"}]}",
       "'StripAccents'"},
      {"pre_tokenizer", "null", "no pre-tokenizer"},
      {"pre_tokenizer", "{\"type\": \"Whitespace\"}", "'Whitespace'"},
      {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"_\"}", "'Metaspace'"},
      {"pre_tokenizer", "{\"type\": \"Digits\", \"individual_digits\": true}", "ByteLevel"},
      {"pre_tokenizer.pretokenizers.0", "{\"type\": \"Punctuation\"}", "'Punctuation'"},
      {"pre_tokenizer.pretokenizers.0", "{\"type\": \"ByteLevel\"}", "after ByteLevel"},
      {"pre_tokenizer.pretokenizers.0",
       "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"MergedWithNext\"}",
       "'MergedWithNext'"},
      {"pre_tokenizer.pretokenizers.0", "{\"type\": \"Split\", \"pattern\": {}, \"behavior\": \"Isolated\"}",
       "no pattern"},
      {"pre_tokenizer.pretokenizers.0",
       "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w+\"}, \"behavior\": \"Isolated\"}", "'\\w'"},
      {"pre_tokenizer.pretokenizers.0",
       "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}, \"behavior\": \"Isolated\"}", "compile"},
      {"post_processor", "{\"type\": \"BertProcessing\"}", "no cls token"},
      {"post_processor", "{\"type\": \"RobertaProcessing\", \"cls\": [\"<none>\", 1]}", "'<none>'"},
      {"post_processor", "{\"type\": \"ByteFallback\"}", "'ByteFallback'"},
      {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"C\"}}]}",
       "'C'"},
      {"post_processor",
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 300}}]}",
       "malformed"},
      {"post_processor",
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": "
       "{\"id\": \"<|im_end|>\"}}]}",
       "'<|im_end|>'"},
      {"post_processor",
       "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<none>\"}}]}",
       "'<none>'"},
      {"decoder", "{\"type\": \"WordPiece\"}", "'WordPiece'"},
      {"added_tokens", "5", "no list"},
      {"added_tokens.0.single_word", "true", "single_word"},
      {"added_tokens.0.content", "\"\"", "no content"},
      {"added_tokens.0.id", "7", "7"},
      {"added_tokens.0.id", "\"7\"", "no id"},
  };
  lc_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_refused(with("smollm", cases[i].path, cases[i].json, &t), cases[i].words);
    assert_non_null(strstr(lc_error(ctx), "tokenizer.json"));
    assert_null(t);
  }
  assert_ok(with("smollm", "truncation", "null", &t)); /* unchanged it loads */
  lc_tokenizer_free(t);
  assert_refused(with("odd", "added_tokens.5.content", "\"e\\u0301\"", &t), "not in NFC");
}

static void test_around(void **state) {
  static const struct {
    const char *file, *json, *words;
  } cases[] = {
      {"tokenizer_config.json", "{\"eos_token\": \"<none>\"}", "eos_token '<none>'"},
      {"tokenizer_config.json", "{\"eos_token\": 3}", "eos_token"},
      {"tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}}", "'x'"},
      {"tokenizer_config.json", "{", "line 1"},
      {"generation_config.json", "{\"eos_token_id\": [0, 100000]}", "100000"},
      {"generation_config.json", "{\"eos_token_id\": \"</s>\"}", "eos_token_id"},
      {"config.json", "{\"vocab_size\": 99999999999}", "vocabulary of 99999999999"},
  };
  lc_tokenizer *t;
  assert_ok(with("smollm", "truncation", "null", &t));
  lc_tokenizer_free(t);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *path = write_text(cases[i].file, cases[i].json);
    assert_refused(lc_tokenizer_from_dir(ctx, scratch, &t), cases[i].words);
    remove(path);
    lc_free(ctx, path);
  }
  /* More rows in the embedding than tokens: ids without a text. */
  char *path = write_text("config.json", "{\"vocab_size\": 2000, \"eos_token_id\": [2, 0]}");
  assert_ok(lc_tokenizer_from_dir(ctx, scratch, &t));
  lc_bytes out = {0};
  assert_int_equal(lc_tokenizer_size(t), 2000);
  assert_int_equal(lc_token_eos(t), 2);
  assert_ok(lc_detokenize(t, (int32_t[]){1999}, 1, false, &out));
  assert_int_equal(out.n, 0);
  lc_free(ctx, out.data);
  lc_tokenizer_free(t);
  remove(path);
  lc_free(ctx, path);
  assert_refused(lc_tokenizer_from_dir(ctx, "/nowhere", &t), "/nowhere: there is neither");
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */

typedef struct {
  const char *model, *pre;
  int n_types, type0, eos;
  const char *merge;
  bool no_merges, add_eos;
  const char *words;
} gguf_case;

static lc_status read_gguf(const gguf_case *c, lc_tokenizer **t) {
  static const lc_str tokens[] = {{"<s>", 3}, {"a", 1}, {"b", 1}, {"ab", 2}};
  int32_t types[] = {c->type0, 1, 1, 1};
  char *path = in_scratch("small.gguf");
  lc_gguf_writer *w;
  lc_gguf g;
  lc_str merge = {c->merge, strlen(c->merge)};
  assert_ok(lc_gguf_create(ctx, path, &w));
  if (c->model) assert_ok(lc_gguf_put_string(w, "tokenizer.ggml.model", c->model, strlen(c->model)));
  if (c->pre) assert_ok(lc_gguf_put_string(w, "tokenizer.ggml.pre", c->pre, strlen(c->pre)));
  assert_ok(lc_gguf_put_strings(w, "tokenizer.ggml.tokens", tokens, 4));
  if (c->n_types) assert_ok(lc_gguf_put_i32s(w, "tokenizer.ggml.token_type", types, c->n_types));
  if (!c->no_merges) assert_ok(lc_gguf_put_strings(w, "tokenizer.ggml.merges", &merge, 1));
  assert_ok(lc_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)c->eos));
  if (c->add_eos) assert_ok(lc_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", true));
  assert_ok(lc_gguf_finish(w, true));
  assert_ok(lc_gguf_open(ctx, path, &g));
  lc_status st = lc_tokenizer_from_gguf(ctx, &g, path, t);
  lc_gguf_close(ctx, &g);
  lc_free(ctx, path);
  return st;
}

static void test_gguf(void **state) {
  static const gguf_case cases[] = {
      {"llama", "smollm", 4, 3, 0, "a b", .words = "'llama'"},
      {NULL, "smollm", 4, 3, 0, "a b", .words = "tokenizer.ggml.model"},
      {"gpt2", NULL, 4, 3, 0, "a b", .words = "tokenizer.ggml.pre"},
      {"gpt2", "smollm2", 4, 3, 0, "a b", .words = "'smollm2' is not known"},
      {"gpt2", "", 4, 3, 0, "a b", .words = "'' is not known"},
      {"gpt2", "smollm", 3, 3, 0, "a b", .words = "3 token types"},
      {"gpt2", "smollm", 0, 3, 0, "a b", .words = "token_type"},
      {"gpt2", "smollm", 4, 6, 0, "a b", .words = "type 6"},
      {"gpt2", "smollm", 4, 0, 0, "a b", .words = "type 0"},
      {"gpt2", "smollm", 4, 3, 4, "a b", .words = "eos_token_id"},
      {"gpt2", "smollm", 4, 3, 0, "ab", .words = "no space"},
      {"gpt2", "smollm", 4, 3, 0, "b a", .words = "lacks"},
      {"gpt2", "smollm", 4, 3, 0, "a b", .no_merges = true, .words = "merges"},
      {"gpt2", "smollm", 4, 3, 0, "a b", .add_eos = true, .words = "add_eos_token"},
      {"gpt2", "llama-bpe", 4, 3, 0, "a b", .words = "no bos_token_id"},
  };
  lc_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_refused(read_gguf(&cases[i], &t), cases[i].words);
    assert_non_null(strstr(lc_error(ctx), "small.gguf"));
    assert_null(t);
  }
  static const gguf_case good = {"gpt2", "smollm", 4, 3, 0, "a b", .words = ""};
  static const int32_t want[] = {3, 2, 1, 0};
  assert_ok(read_gguf(&good, &t));
  lc_ids ids = {0};
  assert_ok(lc_tokenize(t, "abba<s>", 7, true, &ids));
  assert_int_equal(ids.n, 4);
  assert_memory_equal(ids.id, want, sizeof want);
  lc_ids_free(ctx, &ids);
  lc_tokenizer_free(t);
}

/* ---- patterns ------------------------------------------------------------------------------------------ */

static void test_patterns(void **state) {
  static const char *const refused[] = {
      "\\w",        "\\b",     "\\h",   "\\v",   "\\K", "\\R",         "\\X",    "\\1",  "\\x41", "\\p{Han}",
      "\\p{Alpha}", "\\pL",    "\\p{",  "^a",    "a$",  "[[:alpha:]]", "[a&&b]", "[]a]", "[^]a]", "(?<n>a)",
      "(?i)a",      "(*SKIP)", "a{2}+", "a{,2}", "a{",  "\\u12",       "\\x{",   "\\"};
  static const char *const same[] = {"a|b",          "(?i:x)",      "[^\\r\\n\\p{L}]?\\p{Lu}+",
                                     "\\p{N}{1,3}",  "(?!a)(?<=b)", "[\\p{P}\\$\\+<=>\\^~\\|]+",
                                     "\\d\\x{4E00}", "a.b",         "x*+y?+"};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    lc_bytes out = {0};
    assert_refused(lc_pattern_translate(ctx, "file", refused[i], strlen(refused[i]), &out), "not supported");
    lc_free(ctx, out.data);
  }
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
    lc_bytes out = {0};
    assert_ok(lc_pattern_translate(ctx, "file", same[i], strlen(same[i]), &out));
    assert_string_equal(out.data, same[i]);
    lc_free(ctx, out.data);
  }
  lc_bytes out = {0};
  assert_ok(lc_pattern_translate(ctx, "file", "\\u4E00", 6, &out));
  assert_string_equal(out.data, "\\x{4E00}");
  lc_free(ctx, out.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_json), cmocka_unit_test(test_around),
                                     cmocka_unit_test(test_gguf), cmocka_unit_test(test_patterns)};
  return cmocka_run_group_tests(tests, text_setup, text_teardown);
}
