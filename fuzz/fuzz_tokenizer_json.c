/* Any bytes as a tokenizer.json, and, after a NUL, as a text for it: what loads must encode valid UTF-8, mark
 * where each id ends, and decode its own ids. */
#include "fuzz.h"
#include <jansson.h>
#include "use_tokenizer.h"

static lc_status load(lc_ctx *ctx, const char *json, size_t n, lc_tokenizer **out) {
  json_t *root = NULL;
  lc_status st = lc_json_parse(ctx, "tokenizer.json", json, n, &root);
  if (!st) st = lc_tokenizer_new(ctx, "tokenizer.json", out);
  if (!st) st = lc_tokenizer_json(*out, root);
  if (!st) st = lc_vocab_finish(*out);
  if (!st) st = lc_stops_finish(*out);
  json_decref(root);
  return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  size_t before = fuzz_memory(ctx);
  const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
  size_t json = nul ? (size_t)(nul - data) : n;
  lc_tokenizer *t = NULL;
  if (load(ctx, (const char *)data, json, &t)) {
    fuzz_refused(ctx);
  } else {
    static const char text[] = "I'll go 12\n\n  <s>\xC3\xA9t\xC3\xA9 e\xCC\x81 |x|";
    for (int special = 0; special < 2; special++) {
      use_tokenizer(ctx, t, text, sizeof text - 1, special);
      if (nul) use_tokenizer(ctx, t, (const char *)nul + 1, n - json - 1, special);
    }
  }
  lc_tokenizer_free(t);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
