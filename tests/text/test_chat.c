/* Chat templates: rendered ids and masks against Jinja and Hugging Face tokenizers (golden files), stops,
 * refusals. */
#include "text/text_test.h"

static void check_chats(const lc_tokenizer *t, const char *name) {
  json_t *list = golden_cases(name, "chat"), *c;
  const lc_template *k;
  size_t i, targets = 0;
  assert_ok(lc_template_for(t, &k));
  assert_true(json_array_size(list) >= 10);
  json_array_foreach(list, i, c) {
    const json_t *messages = json_object_get(c, "messages");
    const char *text = json_string_value(json_object_get(c, "text"));
    size_t n = json_array_size(messages);
    lc_message m[8];
    lc_ids ids = {0}, mask = {0}, again = {0};
    assert_true(n <= 8);
    for (size_t j = 0; j < n; j++) {
      const json_t *o = json_array_get(messages, j);
      m[j] = (lc_message){json_string_value(json_object_get(o, "role")),
                          json_string_value(json_object_get(o, "content"))};
    }
    bool prompt = json_is_true(json_object_get(c, "prompt"));
    assert_ok(lc_template_render(k, t, m, (int)n, prompt, &ids, &mask));
    same_ids(&ids, json_object_get(c, "ids"), text);
    same_ids(&mask, json_object_get(c, "mask"), text);
    for (int64_t j = 0; j < mask.n; j++) targets += mask.id[j] == 1;
    assert_ok(lc_template_render(k, t, m, (int)n, prompt, &again, NULL));
    assert_int_equal(again.n, ids.n);
    lc_ids_free(ctx, &ids);
    lc_ids_free(ctx, &mask);
    lc_ids_free(ctx, &again);
  }
  assert_true(targets > 20);
  json_decref(list);
}

static void test_smollm2(void **state) {
  lc_tokenizer *t = golden("smollm");
  const lc_template *k;
  check_chats(t, "smollm");
  assert_ok(lc_template_for(t, &k));
  assert_string_equal(lc_template_name(k), "smollm2");
  assert_int_equal(lc_template_end(k, t), 2);
  lc_tokenizer_free(t);
}

/* Plain chatml, its newlines spelt \n in the template's text. */
static void test_chatml(void **state) {
  lc_tokenizer *t = golden("odd");
  const lc_template *k;
  int n;
  check_chats(t, "odd");
  assert_ok(lc_template_for(t, &k));
  assert_string_equal(lc_template_name(k), "chatml");
  assert_int_equal(lc_token_stops(t, &n)[n - 1], lc_token_id(t, "<|im_end|>"));
  lc_tokenizer_free(t);
}

/* The end token is a target, what follows it is none; the injected system turn and the user's turn are none.
 */
static void test_mask(void **state) {
  lc_tokenizer *t = golden("smollm");
  const lc_template *k;
  lc_ids ids = {0}, mask = {0};
  assert_ok(lc_template_for(t, &k));
  assert_ok(
      lc_template_render(k, t, (lc_message[]){{"user", "a"}, {"assistant", "b"}}, 2, false, &ids, &mask));
  int32_t b = lc_token_id(t, "b"), end = lc_token_id(t, "<|im_end|>");
  for (int64_t i = 0; i < ids.n; i++) assert_int_equal(mask.id[i], i >= ids.n - 3 && i < ids.n - 1);
  assert_int_equal(ids.id[ids.n - 3], b);
  assert_int_equal(ids.id[ids.n - 2], end);
  lc_ids_free(ctx, &ids);
  lc_ids_free(ctx, &mask);
  lc_tokenizer_free(t);
}

static void test_refused(void **state) {
  const lc_template *k;
  lc_tokenizer *t = golden("gpt2");
  assert_refused(lc_template_for(t, &k), "no chat template");
  lc_free(ctx, t->chat_template);
  t->chat_template = lc_strdup(ctx, "{{ bos_token }}{% for m in messages %}\nand more");
  assert_refused(lc_template_for(t, &k), "it begins '{{ bos_token }}{% for m in messages %}'");
  assert_null(k);
  lc_tokenizer *smol = golden("smollm");
  lc_free(ctx, t->chat_template);
  t->chat_template = lc_strdup(ctx, lc_tokenizer_template(smol));
  assert_refused(lc_template_for(t, &k), "'<|im_start|>'"); /* gpt2's vocabulary lacks it */
  char *almost = lc_format(ctx, "%s ", lc_tokenizer_template(smol));
  assert_null(lc_template_known(almost));
  assert_non_null(lc_template_known(lc_tokenizer_template(smol)));
  lc_free(ctx, almost);
  lc_tokenizer_free(smol);
  lc_tokenizer_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_smollm2), cmocka_unit_test(test_chatml),
                                     cmocka_unit_test(test_mask), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, text_setup, text_teardown);
}
