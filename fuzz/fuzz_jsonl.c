/* Any bytes as training data (rows with and without labels, or plain text) and as questions: examples lie within the data,
 * have targets, and their counts add up. */
#define _GNU_SOURCE
#include "fuzz.h"
#include <jansson.h>
#include <sys/mman.h>
#include <unistd.h>
#include "text/tokenizer.h"

static lc_tokenizer *tokenizer(lc_ctx *ctx) {
  static const char json[] =
      "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": {\"type\": "
      "\"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, "
      "\"\xC4\xA0\": 2, \"c\": 3, \"ab\": 4, \"\xC4\x8A\": 5, \"e\": 6}, \"merges\": [\"a b\"]}, "
      "\"added_tokens\": [{\"id\": 7, \"content\": "
      "\"<|im_start|>\", \"special\": true}, {\"id\": 8, \"content\": \"<|im_end|>\", \"special\": true}]}";
  static lc_tokenizer *t;
  if (t) return t;
  json_t *root = json_loads(json, 0, NULL);
  FUZZ_CHECK(root && lc_tokenizer_new(ctx, "tokenizer.json", &t) == LC_OK &&
             lc_tokenizer_json(t, root) == LC_OK);
  FUZZ_CHECK(lc_vocab_finish(t) == LC_OK);
  t->eos = 8;
  t->chat_template = lc_strdup(
      ctx, "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
           "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
           "}}{% endif %}");
  json_decref(root);
  return t;
}

static void check_data(lc_ctx *ctx, const char *path, const lc_data_opts *opts) {
  lc_dataset *d;
  if (lc_data_open(ctx, tokenizer(ctx), path, opts, &d)) {
    fuzz_refused(ctx);
    return;
  }
  lc_data_info info = lc_data_describe(d);
  int64_t tokens = 0, targets = 0, n = lc_data_count(d);
  const bool prompts = info.kind == LC_ROWS_ANSWER; /* without a target; the answer is kept beside */
  FUZZ_CHECK(n > 0 && n == info.rows * info.group && info.group == (info.kind == LC_ROWS_PREFERENCE ? 2 : 1));
  for (int64_t i = 0; i < n; i++) {
    lc_example e = lc_data_get(d, i);
    FUZZ_CHECK(prompts ? e.n >= 1 && !e.n_targets && lc_data_answer(d, i)
                       : e.n >= 2 && e.n_targets >= 1 && !lc_data_answer(d, i));
    FUZZ_CHECK(!e.target[0] && (opts->whole_text || e.n <= opts->seq));
    for (int64_t k = 0; k < e.n; k++) {
      FUZZ_CHECK(e.id[k] >= 0 && e.id[k] < 9 && e.target[k] <= 1);
      targets += e.target[k];
    }
    tokens += e.n;
  }
  FUZZ_CHECK(tokens == info.tokens && targets == info.targets);
  lc_data_free(d);
}

static void check_labelled(lc_ctx *ctx, const char *path, lc_label_place place) {
  lc_label_names names;
  lc_dataset *d;
  if (lc_labels_scan(ctx, path, &names)) {
    fuzz_refused(ctx);
    return;
  }
  FUZZ_CHECK(names.n > 0 && names.n <= LC_LABELS_MOST);
  const lc_label_set set = {place, names.n, (const char *const *)names.name};
  const lc_data_opts opts = {.seq = 16, .skip_bad = true, .labels = &set};
  if (lc_data_open(ctx, tokenizer(ctx), path, &opts, &d)) {
    fuzz_refused(ctx);
  } else {
    for (int64_t i = 0; i < lc_data_count(d); i++) {
      const lc_example e = lc_data_get(d, i);
      int64_t labels = 0;
      FUZZ_CHECK(e.n >= 1 && e.n <= 16);
      for (int64_t k = 0; k < e.n; k++) {
        FUZZ_CHECK(e.id[k] >= 0 && e.id[k] < 9 && e.label[k] < names.n && e.type[k] < 2);
        labels += e.label[k] >= 0;
      }
      FUZZ_CHECK(labels == e.n_targets && labels >= 1);
    }
    lc_data_free(d);
  }
  lc_label_names_free(ctx, &names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  static const lc_data_opts opts[] = {{.seq = 8}, {.seq = 64, .skip_bad = true}, {.whole_text = true}};
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  tokenizer(ctx);
  size_t before = fuzz_memory(ctx);
  int fd = memfd_create("rows", 0);
  char path[64];
  FUZZ_CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  fuzz_no_files();
  fuzz_file(path, data, n);
  for (int i = 0; i < 3; i++) check_data(ctx, path, &opts[i]);
  check_labelled(ctx, path, LC_LABEL_LAST);
  check_labelled(ctx, path, LC_LABEL_EACH);
  for (int choices = 0; choices < 2; choices++) {
    lc_question *q;
    int64_t k;
    if (lc_questions_open(ctx, path, choices, &q, &k)) fuzz_refused(ctx);
    lc_questions_free(ctx, q, k);
  }
  close(fd);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
