/* Any bytes as a GGUF file: opened, every key and tensor looked up, every value read, quantised tensors
 * decoded. */
#include "fuzz.h"
#include "io/io.h"

static void inside(const lc_gguf *g, const void *p, size_t n) {
  uintptr_t begin = (uintptr_t)g->map.data, at = (uintptr_t)p;
  FUZZ_CHECK(at >= begin && at - begin <= g->map.size && n <= g->map.size - (at - begin));
  fuzz_touch(p, n);
}

static void visit_pair(const lc_gguf *g, const lc_gguf_kv *kv) {
  int64_t i;
  double x;
  inside(g, kv->key.data, kv->key.n);
  inside(g, kv->at, 0);
  FUZZ_CHECK(kv->type == LC_GGUF_ARRAY || kv->n == 1);
  FUZZ_CHECK((kv->item == LC_GGUF_STRING) == (kv->strings != NULL));
  for (uint64_t k = 0; k < kv->n; k++) {
    lc_gguf_item_i64(kv, k, &i);
    lc_gguf_item_f64(kv, k, &x);
    if (kv->strings) inside(g, kv->strings[k].data, kv->strings[k].n);
  }
}

static void visit_tensor(lc_ctx *ctx, const lc_gguf *g, const lc_named_tensor *t) {
  size_t bytes;
  int64_t n = lc_tensor_count(&t->t);
  FUZZ_CHECK(n >= 0 && lc_dtype_bytes(t->t.dtype, n, &bytes));
  inside(g, t->t.data, bytes);
  FUZZ_CHECK((uintptr_t)t->t.data % 8 == 0);
  FUZZ_CHECK(lc_gguf_find(g, t->name) == &t->t);
  if (n > 1 << 16) return;
  float *x = malloc((size_t)n * sizeof *x + 1);
  FUZZ_CHECK(x && lc_decode_row(ctx, t->t.dtype, t->t.data, n, x) == LC_OK);
  free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  size_t before = fuzz_memory(ctx);
  lc_gguf g;
  fuzz_no_files();
  fuzz_file("input.gguf", data, n);
  if (lc_gguf_open(ctx, "input.gguf", &g)) {
    fuzz_refused(ctx);
  } else {
    for (int64_t i = 0; i < g.n_kv; i++) visit_pair(&g, &g.kv[i]);
    for (int i = 0; i < g.n; i++) visit_tensor(ctx, &g, &g.tensor[i]);
    lc_gguf_i64_or(&g, "u", 0);
    lc_gguf_f64_or(&g, "f", 0);
    lc_gguf_bool_or(&g, "b", false);
    lc_gguf_close(ctx, &g);
  }
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
