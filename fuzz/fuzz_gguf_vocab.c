/* Any bytes as a GGUF whose metadata hold a vocabulary: what loads must encode, decode every id, and name the
 * roles of existing ids. */
#include "fuzz.h"
#include "text/tokenizer.h"

static lc_status encode_and_decode(const lc_tokenizer *t, lc_ids *ids, lc_bytes *out) {
  static const char text[] = "<s>ab ba 12\n\n\xC3\xA9<|im_end|>abab";
  for (int special = 0; special < 2; special++) LC_TRY(lc_tokenize(t, text, sizeof text - 1, special, ids));
  for (int32_t i = 0; i < lc_tokenizer_size(t); i++) LC_TRY(lc_detokenize(t, &i, 1, i % 2, out));
  return LC_OK;
}

static void use(lc_ctx *ctx, const lc_tokenizer *t) {
  const lc_template *k;
  int64_t n = lc_tokenizer_size(t);
  lc_ids ids = {0};
  lc_bytes out = {0};
  int n_stops;
  fuzz_ok(ctx, encode_and_decode(t, &ids, &out));
  for (int64_t i = 0; i < ids.n; i++) FUZZ_CHECK(ids.id[i] >= 0 && ids.id[i] < n);
  const int32_t *stops = lc_token_stops(t, &n_stops);
  for (int i = 0; i < n_stops; i++) FUZZ_CHECK(stops[i] >= 0 && stops[i] < n);
  FUZZ_CHECK(lc_token_eos(t) < n && lc_token_bos(t) < n && lc_token_pad(t) < n);
  FUZZ_CHECK(!lc_token_adds_bos(t) || lc_token_bos(t) >= 0);
  if (lc_template_for(t, &k)) fuzz_refused(ctx);
  lc_ids_free(ctx, &ids);
  lc_free(ctx, out.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  size_t before = fuzz_memory(ctx);
  lc_tokenizer *t = NULL;
  lc_gguf g;
  fuzz_no_files();
  fuzz_file("input.gguf", data, n);
  if (lc_gguf_open(ctx, "input.gguf", &g)) {
    fuzz_refused(ctx);
  } else {
    lc_status st = lc_tokenizer_from_gguf(ctx, &g, "input.gguf", &t);
    lc_gguf_close(ctx, &g); /* the tokenizer keeps nothing of the file */
    if (st)
      fuzz_refused(ctx);
    else
      use(ctx, t);
  }
  lc_tokenizer_free(t);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
