/* Any bytes as a tokenizer.json, and, after a NUL, as a text for it: what loads must encode valid UTF-8, mark
 * where each id ends, and decode its own ids. */
#include "fuzz.h"
#include <jansson.h>
#include "text/tokenizer.h"

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

static void encode(lc_ctx *ctx, const lc_tokenizer *t, const char *text, size_t n, bool special) {
  lc_ids ids = {0};
  lc_bytes ends = {0}, back = {0};
  size_t bad;
  lc_status st = lc_tokenize_ends(t, text, n, special, &ids, &ends);
  if (st) {
    fuzz_refused(ctx);
    FUZZ_CHECK(!lc_utf8_valid(text, n, &bad) || strstr(lc_error(ctx), "gives up") || !fuzz_ok(ctx, st));
  } else {
    FUZZ_CHECK(ends.n == (size_t)ids.n * sizeof(int64_t));
    fuzz_ok(ctx, lc_detokenize(t, ids.id, ids.n, false, &back));
    const int64_t *end = (const int64_t *)ends.data;
    for (int64_t i = 0; i < ids.n && !t->nfc; i++)
      FUZZ_CHECK(end[i] <= (int64_t)n && (i == 0 || end[i] >= end[i - 1]));
  }
  lc_ids_free(ctx, &ids);
  lc_free(ctx, ends.data);
  lc_free(ctx, back.data);
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
      encode(ctx, t, text, sizeof text - 1, special);
      if (nul) encode(ctx, t, (const char *)nul + 1, n - json - 1, special);
    }
  }
  lc_tokenizer_free(t);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
