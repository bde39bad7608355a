/* safetensors: what is written is read back, streaming or at once; nothing half-written stays; whatever is
 * wrong with a file is refused with a sentence; a file cut at any byte or with any bit flipped never does
 * harm (run under the sanitizers, too). */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "io/io.h"
#include "support/io_support.h"

static lc_ctx *ctx;

static int setup(void **state) {
  t_dir();
  return lc_ctx_new(1, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  t_dir_remove();
  return 0;
}

static void assert_says(const char *part) {
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

/* A safetensors file: header text as it stands, then n bytes of data counting up. */
static void put_header(const char *path, const char *header, size_t n) {
  t_bytes b = {0};
  t_u64(&b, strlen(header));
  t_text(&b, header);
  for (size_t i = 0; i < n; i++) t_add(&b, &(uint8_t){(uint8_t)i}, 1);
  t_put(path, b.data, b.n);
  t_free(&b);
}

static lc_named_tensor tensor(const char *name, lc_dtype dtype, int ndim, int64_t a, int64_t b, int64_t c,
                              int64_t d, const void *data) {
  lc_named_tensor t = {(char *)name, {data, dtype, ndim, {0}}};
  const int64_t shape[] = {a, b, c, d};
  for (int i = 0; i < ndim; i++) t.t.shape[i] = shape[i];
  return t;
}

static uint8_t noise[4096];

static void fill_noise(void) {
  uint32_t r = 2463534242u;
  for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)t_random(&r);
}

/* Odd shapes, every dtype the format shares with us. */
static int make_tensors(lc_named_tensor *t) {
  int n = 0;
  t[n++] = tensor("z.bytes", LC_U8, 2, 3, 5, 0, 0, noise + 1);
  t[n++] = tensor("scalar", LC_F32, 0, 0, 0, 0, 0, noise + 2);
  t[n++] = tensor("empty", LC_F32, 3, 3, 0, 5, 0, noise);
  t[n++] = tensor("one", LC_F64, 1, 1, 0, 0, 0, noise + 3);
  t[n++] = tensor("a/\"quoted\"", LC_BF16, 4, 1, 2, 3, 5, noise + 5);
  t[n++] = tensor("half", LC_F16, 1, 7, 0, 0, 0, noise + 7);
  t[n++] = tensor("ids", LC_I64, 2, 7, 3, 0, 0, noise + 11);
  t[n++] = tensor("small.ids", LC_I32, 3, 2, 3, 5, 0, noise + 13);
  t[n++] = tensor("w\xc3\xa4", LC_F32, 2, 17, 9, 0, 0, noise + 17);
  return n;
}

static void check_same(const lc_named_tensor *t, const lc_tensor *u) {
  size_t bytes;
  assert_non_null(u);
  assert_int_equal(u->dtype, t->t.dtype);
  assert_int_equal(u->ndim, t->t.ndim);
  for (int k = 0; k < u->ndim; k++) assert_int_equal(u->shape[k], t->t.shape[k]);
  assert_true(lc_dtype_bytes(u->dtype, lc_tensor_count(u), &bytes));
  assert_memory_equal(u->data, t->t.data, bytes);
  assert_int_equal((uintptr_t)u->data % (uintptr_t)lc_dtype_get(u->dtype)->bytes, 0);
}

static void round_trip(void **state) {
  lc_named_tensor t[16];
  int n = make_tensors(t);
  size_t before = t_memory(ctx);
  assert_int_equal(lc_safetensors_write(ctx, t_path("all.safetensors"), t, n), LC_OK);
  lc_safetensors f;
  assert_int_equal(lc_safetensors_open(ctx, t_path("all.safetensors"), &f), LC_OK);
  assert_int_equal(f.n, n);
  assert_int_equal(f.n_copy, 0);
  for (int i = 0; i < n; i++) check_same(&t[i], lc_safetensors_find(&f, t[i].name));
  for (int i = 1; i < n; i++) assert_true(strcmp(f.tensor[i - 1].name, f.tensor[i].name) < 0);
  assert_null(lc_safetensors_find(&f, "nowhere"));
  assert_string_equal(lc_safetensors_meta(&f, "format"), "pt");
  assert_null(lc_safetensors_meta(&f, "nothing"));
  uint64_t header;
  memcpy(&header, f.map->data, 8);
  assert_int_equal(header % 8, 0);
  lc_safetensors_close(ctx, &f);
  assert_int_equal(t_memory(ctx), before);
}

static void empty_file_round_trip(void **state) {
  lc_safetensors f;
  assert_int_equal(lc_safetensors_write(ctx, t_path("none.safetensors"), NULL, 0), LC_OK);
  assert_int_equal(lc_safetensors_open(ctx, t_path("none.safetensors"), &f), LC_OK);
  assert_int_equal(f.n, 0);
  assert_null(lc_safetensors_find(&f, "x"));
  lc_safetensors_close(ctx, &f);
}

static lc_safetensors_writer *writer_of_two(const char *path) {
  lc_safetensors_writer *w;
  const int64_t shape[2] = {5, 3}, nothing[1] = {0};
  assert_int_equal(lc_safetensors_create(ctx, path, &w), LC_OK);
  assert_int_equal(lc_safetensors_declare(w, "first", LC_F32, 2, shape), LC_OK);
  assert_int_equal(lc_safetensors_declare(w, "empty", LC_F32, 1, nothing), LC_OK);
  assert_int_equal(lc_safetensors_declare(w, "second", LC_BF16, 1, shape), LC_OK);
  return w;
}

static void in_pieces(void **state) {
  lc_safetensors_writer *w = writer_of_two(t_path("pieces.safetensors"));
  assert_int_equal(lc_safetensors_add_meta(w, "step", "12"), LC_OK);
  for (int i = 0; i < 60; i += 12) assert_int_equal(lc_safetensors_append(w, noise + i, 12), LC_OK);
  for (int i = 60; i < 70; i++) assert_int_equal(lc_safetensors_append(w, noise + i, 1), LC_OK);
  assert_int_equal(lc_safetensors_add_meta(w, "late", "x"), LC_FAILED);
  assert_says("metadata 'late' comes after");
  assert_int_equal(lc_safetensors_finish(w, true), LC_FAILED);
  assert_int_equal(t_dir_entries(), 0);

  w = writer_of_two(t_path("pieces.safetensors"));
  assert_int_equal(lc_safetensors_add_meta(w, "step", "12"), LC_OK);
  for (int i = 0; i < 60; i += 12) assert_int_equal(lc_safetensors_append(w, noise + i, 12), LC_OK);
  for (int i = 60; i < 70; i++) assert_int_equal(lc_safetensors_append(w, noise + i, 1), LC_OK);
  assert_int_equal(lc_safetensors_finish(w, true), LC_OK);
  lc_safetensors f;
  assert_int_equal(lc_safetensors_open(ctx, t_path("pieces.safetensors"), &f), LC_OK);
  assert_string_equal(lc_safetensors_meta(&f, "step"), "12");
  assert_memory_equal(lc_safetensors_find(&f, "first")->data, noise, 60);
  assert_memory_equal(lc_safetensors_find(&f, "second")->data, noise + 60, 10);
  lc_safetensors_close(ctx, &f);
}

/* Each misuse is refused by finish, too, leaves no file, and leaves a file that was there as it was. */
static void nothing_half_written(void **state) {
  const char *path = t_path("kept.safetensors");
  t_put(path, "as it was", 9);
  for (int wrong = 0; wrong < 4; wrong++) {
    lc_safetensors_writer *w = writer_of_two(path);
    if (wrong == 0) assert_int_equal(lc_safetensors_append(w, noise, 61), LC_FAILED);
    if (wrong == 1) assert_int_equal(lc_safetensors_append(w, noise, 59), LC_OK);
    if (wrong == 3) {
      assert_int_equal(lc_safetensors_append(w, noise, 60), LC_OK);
      assert_int_equal(lc_safetensors_append(w, noise, 10), LC_OK);
      assert_int_equal(lc_safetensors_append(w, noise, 1), LC_FAILED);
      assert_says("1 bytes more");
    }
    assert_int_equal(lc_safetensors_finish(w, true), LC_FAILED);
    if (wrong == 0) assert_says("tensor 'first': holds 60 bytes, 61 were given");
    if (wrong == 1) assert_says("tensor 'first': holds 60 bytes, 59 were given");
    if (wrong == 2) assert_says("tensor 'first': holds 60 bytes, 0 were given");
  }
  assert_int_equal(lc_safetensors_finish(writer_of_two(path), false), LC_OK);
  assert_int_equal(t_dir_entries(), 1);
  t_bytes b = t_get(path);
  assert_int_equal(b.n, 9);
  assert_memory_equal(b.data, "as it was", 9);
  t_free(&b);
  lc_safetensors_writer *w = (lc_safetensors_writer *)1;
  assert_int_equal(lc_safetensors_create(ctx, t_path("no/such/dir.safetensors"), &w), LC_FAILED);
  assert_null(w);
}

static void declarations_refused(void **state) {
  const int64_t odd[] = {3}, huge[] = {INT64_MAX, INT64_MAX}, minus[] = {4, -1}, large[] = {INT64_MAX / 4};
  const struct {
    const char *name;
    lc_dtype dtype;
    int ndim;
    const int64_t *shape;
    const char *says;
  } row[] = {
      {"odd", LC_U8, 1, odd, "declared twice"},
      {"f", LC_F32, 1, odd, "tensor 'f': would begin at offset 3, no multiple of its 4 bytes"},
      {"q", LC_Q8_0, 1, odd, "tensor 'q': safetensors has no dtype for q8_0"},
      {"none", LC_NONE, 1, odd, "no dtype"},
      {"five", LC_U8, 5, odd, "5 dimensions"},
      {"huge", LC_U8, 2, huge, "larger than any file"},
      {"large", LC_F64, 1, large, "larger than any file"},
      {"minus", LC_U8, 2, minus, "dimension 1 is negative"},
      {"__metadata__", LC_U8, 1, odd, "declared twice"},
      {"\xff\xfe", LC_U8, 1, odd, "its name is no UTF-8"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    lc_safetensors_writer *w;
    assert_int_equal(lc_safetensors_create(ctx, t_path("bad.safetensors"), &w), LC_OK);
    assert_int_equal(lc_safetensors_declare(w, "odd", LC_U8, 1, odd), LC_OK);
    assert_int_equal(lc_safetensors_declare(w, row[i].name, row[i].dtype, row[i].ndim, row[i].shape),
                     LC_FAILED);
    assert_says(row[i].says);
    assert_says("bad.safetensors: ");
    assert_int_equal(lc_safetensors_finish(w, true), LC_FAILED);
  }
  assert_int_equal(t_dir_entries(), 0);
}

/* Headers with something wrong, the bytes of data after them, and what the sentence says. */
static void bad_headers(void **state) {
  static const struct {
    const char *header;
    size_t n;
    const char *says;
  } row[] = {
      {"", 0, "does not begin with '{'"},
      {"[]", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"{", 0, "does not begin with '{'"},
      {"{}x", 0, "line 1, column 3"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, "line 1"},
      {"{\"a\":1}", 0, "tensor 'a': not an object"},
      {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor 'a': dtype '' is not known"},
      {"{\"a\":{\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype 'U9' is not known"},
      {"{\"a\":{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype '' is not known"},
      {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype '' is not known"},
      {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "no list 'shape'"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "5 dimensions"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
       "dimension 0 is not a whole number"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1.0],\"data_offsets\":[0,1]}}", 1,
       "dimension 1 is not a whole"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]}}", 1,
       "too big integer"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,1]}}", 1,
       "tensor 'a'"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,1]}}", 1,
       "larger than any"},
      {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,1]}}", 1,
       "larger than any"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\"0\",1]}}", 1, "not a pair"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2000],\"data_offsets\":[0,8000]}}", 1200,
       "tensor 'a': needs 8,000 bytes at offset 0 of the data, the data ends at 1,200"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
       "tensor 'a': its shape needs 8 bytes, its offsets hold 4"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
       3, "tensor 'b': begins at offset 1 of the data, where tensor 'a' goes on to 2"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
       2, "where tensor 'a' goes on to 2"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
       "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
       5, "tensor 'b': begins at offset 3 of the data, the bytes from 2 on belong to no tensor"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3,
       "the bytes from 0 on belong to no"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3,
       "3 bytes of data, its tensors take 2"},
      {"{}", 1, "1 bytes of data, its tensors take 0"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
       "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
       2, "duplicate object key"},
      {"{\"__metadata__\":{\"format\":1}}", 0, "metadata 'format' is not a string"},
      {"{\"__metadata__\":[]}", 0, "'__metadata__' is not an object"},
      {"{\"\xff\":1}", 0, "line 1"},
  };
  size_t before = t_memory(ctx);
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    lc_safetensors f;
    put_header(t_path("bad.safetensors"), row[i].header, row[i].n);
    assert_int_equal(lc_safetensors_open(ctx, t_path("bad.safetensors"), &f), LC_FAILED);
    assert_says(row[i].says);
    assert_says("bad.safetensors: ");
    assert_int_equal(f.n, 0);
  }
  assert_int_equal(t_memory(ctx), before);
}

static void deep_header(void **state) {
  t_bytes b = {0};
  t_text(&b, "{\"a\":");
  for (int i = 0; i < 100000; i++) t_text(&b, "[");
  t_add(&b, "", 1);
  put_header(t_path("deep.safetensors"), (char *)b.data, 0);
  lc_safetensors f;
  assert_int_equal(lc_safetensors_open(ctx, t_path("deep.safetensors"), &f), LC_FAILED);
  assert_says("depth");
  t_free(&b);
}

static void bad_lengths(void **state) {
  lc_safetensors f;
  const uint64_t length[] = {3, 100000001, UINT64_MAX};
  const char *says[] = {"truncated: the header needs 3 bytes at offset 8, the file ends at 10",
                        "a header of 100,000,001 bytes (at most 100,000,000)",
                        "a header of 18,446,744,073,709,551,615 bytes"};
  for (int i = 0; i < 3; i++) {
    t_bytes b = {0};
    t_u64(&b, length[i]);
    t_text(&b, "{}");
    t_put(t_path("bad.safetensors"), b.data, b.n);
    t_free(&b);
    assert_int_equal(lc_safetensors_open(ctx, t_path("bad.safetensors"), &f), LC_FAILED);
    assert_says(says[i]);
  }
  t_put(t_path("bad.safetensors"), "", 0);
  assert_int_equal(lc_safetensors_open(ctx, t_path("bad.safetensors"), &f), LC_FAILED);
  assert_int_equal(lc_safetensors_open(ctx, t_path("absent.safetensors"), &f), LC_FAILED);
  assert_says("absent.safetensors");
}

/* The header is 2 bytes short of 8-alignment: f32 data is copied to where it may be read; U8 data stays a
 * view. BOOL is U8. */
static void unaligned_and_bool(void **state) {
  lc_safetensors f;
  put_header(t_path("odd.safetensors"),
             "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
             "\"b\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[8,11]}} ",
             11);
  size_t before = t_memory(ctx);
  assert_int_equal(lc_safetensors_open(ctx, t_path("odd.safetensors"), &f), LC_OK);
  assert_int_equal(f.n_copy, 1);
  const lc_tensor *a = lc_safetensors_find(&f, "a"), *b = lc_safetensors_find(&f, "b");
  assert_int_equal((uintptr_t)a->data % 4, 0);
  assert_memory_equal(a->data, ((uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7}), 8);
  assert_int_equal(b->dtype, LC_U8);
  assert_memory_equal(b->data, ((uint8_t[]){8, 9, 10}), 3);
  lc_safetensors_close(ctx, &f);
  assert_int_equal(t_memory(ctx), before);
}

/* Opens what may be anything; touches every byte it was given; true when it opened. */
static bool try_open(const char *path) {
  lc_safetensors f;
  size_t before = t_memory(ctx);
  lc_error_clear(ctx);
  lc_status st = lc_safetensors_open(ctx, path, &f);
  if (st) assert_true(strlen(lc_error(ctx)) > 10);
  for (int i = 0; !st && i < f.n; i++) {
    size_t bytes;
    assert_true(lc_dtype_bytes(f.tensor[i].t.dtype, lc_tensor_count(&f.tensor[i].t), &bytes));
    t_sum(f.tensor[i].t.data, bytes);
  }
  if (!st) lc_safetensors_close(ctx, &f);
  assert_int_equal(t_memory(ctx), before);
  return st == LC_OK;
}

static void cut_and_flipped(void **state) {
  const char *path = t_path("whole.safetensors"), *bad = t_path("broken.safetensors");
  lc_named_tensor t[] = {tensor("w", LC_F32, 2, 2, 3, 0, 0, noise), tensor("b", LC_U8, 1, 3, 0, 0, 0, noise)};
  assert_int_equal(lc_safetensors_write(ctx, path, t, 2), LC_OK);
  t_bytes b = t_get(path);
  for (size_t n = 0; n < b.n; n++) {
    t_put(bad, b.data, n);
    assert_false(try_open(bad));
  }
  int opened = 0, refused = 0;
  for (size_t i = 0; i < b.n; i++)
    for (int bit = 0; bit < 9; bit++) {
      uint8_t was = b.data[i];
      b.data[i] ^= bit < 8 ? (uint8_t)(1 << bit) : 0xff;
      t_put(bad, b.data, b.n);
      *(try_open(bad) ? &opened : &refused) += 1;
      b.data[i] = was;
    }
  assert_true(opened > 0 && refused > 9 * 8); /* names and data may be anything; the length may not */
  t_free(&b);
}

/* ---- index ---- */

static void put_shards(void) {
  lc_named_tensor one[] = {tensor("b", LC_F32, 1, 4, 0, 0, 0, noise),
                           tensor("x", LC_U8, 1, 3, 0, 0, 0, noise + 50)};
  lc_named_tensor two[] = {tensor("a", LC_BF16, 2, 3, 3, 0, 0, noise + 99)};
  assert_int_equal(lc_safetensors_write(ctx, t_path("one.safetensors"), one, 2), LC_OK);
  assert_int_equal(lc_safetensors_write(ctx, t_path("two.safetensors"), two, 1), LC_OK);
}

static lc_status open_index(const char *text, lc_safetensors *f) {
  t_put(t_path("model.safetensors.index.json"), text, strlen(text));
  return lc_safetensors_open_index(ctx, t_path("model.safetensors.index.json"), f);
}

static void index_of_shards(void **state) {
  lc_safetensors f;
  put_shards();
  size_t before = t_memory(ctx);
  assert_int_equal(open_index("{\"metadata\":{\"total_size\":37},\"weight_map\":{\"b\":\"one.safetensors\","
                              "\"a\":\"two.safetensors\"}}",
                              &f),
                   LC_OK);
  assert_int_equal(f.n, 2);
  assert_int_equal(f.n_map, 2);
  assert_string_equal(f.tensor[0].name, "a");
  assert_memory_equal(lc_safetensors_find(&f, "a")->data, noise + 99, 18);
  assert_memory_equal(lc_safetensors_find(&f, "b")->data, noise, 16);
  assert_null(lc_safetensors_find(&f, "x")); /* the index does not name it */
  assert_string_equal(lc_safetensors_meta(&f, "format"), "pt");
  lc_safetensors_close(ctx, &f);
  assert_int_equal(t_memory(ctx), before);
}

static void bad_index(void **state) {
  static const struct {
    const char *text, *says;
  } row[] = {
      {"", "index.json"},
      {"[]", "object expected"},
      {"{\n \"weight_map\": {,}}", "line 2"},
      {"{}", "no object 'weight_map'"},
      {"{\"weight_map\":{}}", "'weight_map' names 0 tensors"},
      {"{\"weight_map\":{\"a\":1}}", "tensor 'a': its shard is not a string"},
      {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}",
       "shard '../one.safetensors' is not the name of a file"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is not the name of a file"},
      {"{\"weight_map\":{\"a\":\"..\"}}", "is not the name of a file"},
      {"{\"weight_map\":{\"a\":\"\"}}", "is not the name of a file"},
      {"{\"weight_map\":{\"a\":\"o\\nne\"}}", "shard 'o?ne' is not the name of a file"},
      {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", "three.safetensors"},
      {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"two.safetensors\"}}",
       "tensor 'b': shard 'two.safetensors' does not hold it"},
      {"{\"weight_map\":{\"a\":\"two.safetensors\",\"a\":\"one.safetensors\"}}", "duplicate object key"},
  };
  put_shards();
  size_t before = t_memory(ctx);
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    lc_safetensors f;
    lc_error_clear(ctx);
    assert_int_equal(open_index(row[i].text, &f), LC_FAILED);
    assert_says(row[i].says);
    assert_int_equal(f.n, 0);
  }
  assert_int_equal(t_memory(ctx), before);
}

static int each_clean(void **state) {
  t_dir_remove();
  t_dir();
  fill_noise();
  return 0;
}

int main(void) {
#define T(f) cmocka_unit_test_setup(f, each_clean)
  const struct CMUnitTest tests[] = {
      T(round_trip),           T(empty_file_round_trip), T(in_pieces),       T(nothing_half_written),
      T(declarations_refused), T(bad_headers),           T(deep_header),     T(bad_lengths),
      T(unaligned_and_bool),   T(cut_and_flipped),       T(index_of_shards), T(bad_index),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
