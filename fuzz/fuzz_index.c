/* Any bytes as the index of a sharded model. Two good shards lie beside it, one of them with data that must
 * be copied to be aligned; the bytes after a first zero byte, if there is one, are a third shard. */
#include "fuzz.h"
#include "io/io.h"

typedef struct {
  uint8_t bytes[160];
  size_t n;
} shard;

/* A file whose f32 data is not aligned. */
static void make_shard(shard *s, const char *header, size_t data) {
  uint64_t n = strlen(header);
  FUZZ_CHECK(8 + n + data <= sizeof s->bytes && (8 + n) % 4 == 2);
  memcpy(s->bytes, &n, 8);
  memcpy(s->bytes + 8, header, n);
  s->n = 8 + n + data;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  size_t before = fuzz_memory(ctx);
  const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
  size_t json = zero ? (size_t)(zero - data) : n;
  static shard one, two;
  lc_safetensors f;
  if (!one.n) {
    make_shard(&one,
               "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
               "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}   ",
               11);
    make_shard(&two, "{\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
  }
  fuzz_no_files();
  fuzz_file("dir/index.json", data, json);
  fuzz_file("dir/one", one.bytes, one.n);
  fuzz_file("dir/two", two.bytes, two.n);
  if (zero) fuzz_file("dir/three", zero + 1, n - json - 1);
  if (lc_safetensors_open_index(ctx, "dir/index.json", &f)) {
    fuzz_refused(ctx);
  } else {
    FUZZ_CHECK(f.n > 0 && f.n_map > 0 && f.n_map <= 3);
    for (int i = 0; i < f.n; i++) {
      const lc_tensor *t = &f.tensor[i].t;
      size_t bytes;
      FUZZ_CHECK(lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes));
      FUZZ_CHECK((uintptr_t)t->data % (uintptr_t)lc_dtype_get(t->dtype)->bytes == 0);
      FUZZ_CHECK(lc_safetensors_find(&f, f.tensor[i].name) == t);
      fuzz_touch(t->data, bytes);
    }
    lc_safetensors_close(ctx, &f);
  }
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
