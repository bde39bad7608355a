/* What the tokenizer targets hold a vocabulary to: a text encodes unless it is not UTF-8, ends of ids rise within it, and its own
 * ids decode. */
#ifndef LC_FUZZ_USE_TOKENIZER_H
#define LC_FUZZ_USE_TOKENIZER_H
#include "fuzz.h"
#include "text/tokenizer.h"

static inline void use_tokenizer(lc_ctx *ctx, const lc_tokenizer *t, const char *text, size_t n,
                                 bool special) {
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

#endif
