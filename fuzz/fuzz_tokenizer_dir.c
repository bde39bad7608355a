/* Any files as the directory of a tokenizer: BERT's vocab.txt, or tokenizer.json, and those that say which ids mean what. */
#include "fuzz.h"
#include <jansson.h>
#include "use_tokenizer.h"

static const char *const names[] = {
    "/tok/vocab.txt",   "/tok/tokenizer_config.json",  "/tok/tokenizer.json",
    "/tok/config.json", "/tok/generation_config.json", "/tok/chat_template.jinja"};

static void frames(lc_ctx *ctx, const lc_tokenizer *t) {
  lc_bytes types = {0};
  lc_framed f = {.types = &types};
  const lc_status st = lc_tokenize_framed(t, "two words", 9, "and [MASK] more", 15, 6, &f);
  if (st)
    fuzz_refused(ctx);
  else
    FUZZ_CHECK(f.ids.n <= 6 && types.n == (size_t)f.ids.n);
  lc_ids_free(ctx, &f.ids);
  lc_free(ctx, types.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  static const char text[] = "I'll go 12\n\n  [CLS]\xC3\xA9t\xC3\xA9 e\xCC\x81 \xE4\xBD\xA0";
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  const size_t before = fuzz_memory(ctx);
  lc_tokenizer *t = NULL;
  fuzz_no_files();
  fuzz_pieces(data, n, names, sizeof names / sizeof *names);
  if (lc_tokenizer_from_dir(ctx, "a/tok", &t)) {
    fuzz_refused(ctx);
  } else {
    for (int special = 0; special < 2; special++) use_tokenizer(ctx, t, text, sizeof text - 1, special);
    frames(ctx, t);
    lc_tokenizer_free(t);
  }
  fuzz_no_files();
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
