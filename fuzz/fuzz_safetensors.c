/* Any bytes as a safetensors file: opened, every tensor looked up and read. The input is taken twice, as the
 * file itself, and as a header that ends at the first zero byte and the data after it: mutations of a header
 * then need not guess its length. */
#include "fuzz.h"
#include "io/io.h"

static void try_file(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  size_t before = fuzz_memory(ctx), covered = 0;
  lc_safetensors f;
  fuzz_no_files();
  fuzz_file("input.safetensors", data, n);
  if (lc_safetensors_open(ctx, "input.safetensors", &f)) {
    fuzz_refused(ctx);
  } else {
    uint64_t header;
    memcpy(&header, f.map->data, 8);
    for (int i = 0; i < f.n; i++) {
      const lc_tensor *t = &f.tensor[i].t;
      size_t bytes;
      FUZZ_CHECK(lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes));
      FUZZ_CHECK((uintptr_t)t->data % (uintptr_t)lc_dtype_get(t->dtype)->bytes == 0);
      FUZZ_CHECK(lc_safetensors_find(&f, f.tensor[i].name) == t);
      fuzz_touch(t->data, bytes);
      covered += bytes;
    }
    FUZZ_CHECK(covered == n - 8 - header); /* every byte of data belongs to one tensor */
    for (int i = 0; i < f.n_meta; i++) FUZZ_CHECK(lc_safetensors_meta(&f, f.meta_key[i]) == f.meta_value[i]);
    lc_safetensors_close(ctx, &f);
  }
  FUZZ_CHECK(fuzz_memory(ctx) == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
  uint64_t header = zero ? (size_t)(zero - data) : n;
  size_t rest = zero ? n - header - 1 : 0;
  uint8_t *file = malloc(8 + header + rest);
  FUZZ_CHECK(file);
  memcpy(file, &header, 8);
  if (header) memcpy(file + 8, data, header);
  if (rest) memcpy(file + 8 + header, zero + 1, rest);
  try_file(data, n);
  try_file(file, 8 + header + rest);
  free(file);
  return 0;
}
