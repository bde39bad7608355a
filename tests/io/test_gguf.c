/* GGUF: what is written is read back; nothing half-written stays; whatever is wrong with a file is refused
 * with a sentence; a file cut at any byte or with any bit flipped never does harm. LACUNA_TEST_GGUF may name
 * a real file, which is then read and copied. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "io/io.h"
#include "support/io_support.h"

static lc_ctx *ctx;
static uint8_t noise[8192];

static int setup(void **state) {
  t_dir();
  uint32_t r = 88675123u;
  for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)t_random(&r);
  return lc_ctx_new(1, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  t_dir_remove();
  return 0;
}
static int each_clean(void **state) {
  t_dir_remove();
  t_dir();
  return 0;
}

static void assert_says(const char *part) {
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

static size_t bytes_of(const lc_tensor *t) {
  size_t bytes;
  assert_true(lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes));
  return bytes;
}

/* ---- writer and reader ---- */

typedef struct {
  const char *name;
  lc_dtype dtype;
  int ndim;
  int64_t shape[4];
} want;

/* Every dtype GGUF shares with us, odd shapes. */
static const want wanted[] = {
    {"f32", LC_F32, 2, {3, 5}},       {"empty", LC_F32, 2, {0, 7}},
    {"f16", LC_F16, 1, {7}},          {"bf16", LC_BF16, 4, {2, 1, 3, 5}},
    {"q4_0", LC_Q4_0, 2, {3, 64}},    {"scalar", LC_F32, 0, {0}},
    {"q4_1", LC_Q4_1, 3, {2, 1, 32}}, {"q8_0", LC_Q8_0, 2, {5, 96}},
    {"i32", LC_I32, 1, {3}},          {"i64", LC_I64, 1, {3}},
    {"f64", LC_F64, 2, {1, 1}},       {"last.empty", LC_Q8_0, 2, {4, 0}},
};
enum { WANTED = sizeof wanted / sizeof *wanted };

static void put_pairs(lc_gguf_writer *w) {
  const lc_str words[] = {{"one", 3}, {"", 0}, {"a\0b", 3}};
  const int32_t ints[] = {1, -2, 3};
  const float floats[] = {0.5f, -1.25f};
  assert_int_equal(lc_gguf_put_string(w, "general.architecture", "llama", 5), LC_OK);
  assert_int_equal(lc_gguf_put_u32(w, "u", 4000000000u), LC_OK);
  assert_int_equal(lc_gguf_put_i32(w, "i", -7), LC_OK);
  assert_int_equal(lc_gguf_put_f32(w, "f", 1e-5f), LC_OK);
  assert_int_equal(lc_gguf_put_bool(w, "t", true), LC_OK);
  assert_int_equal(lc_gguf_put_bool(w, "no", false), LC_OK);
  assert_int_equal(lc_gguf_put_strings(w, "words", words, 3), LC_OK);
  assert_int_equal(lc_gguf_put_i32s(w, "ints", ints, 3), LC_OK);
  assert_int_equal(lc_gguf_put_f32s(w, "floats", floats, 2), LC_OK);
  assert_int_equal(lc_gguf_put_f32s(w, "nothing", NULL, 0), LC_OK);
}

static void check_pairs(const lc_gguf *g) {
  lc_str s;
  int64_t i = 0;
  double x;
  assert_int_equal(lc_gguf_string(ctx, g, "general.architecture", &s), LC_OK);
  assert_true(lc_str_eq(s, "llama"));
  assert_false(lc_str_eq(s, "llam"));
  assert_int_equal(lc_gguf_i64(ctx, g, "u", &i), LC_OK);
  assert_int_equal(i, 4000000000);
  assert_int_equal(lc_gguf_i64_or(g, "i", 0), -7);
  assert_int_equal(lc_gguf_i64_or(g, "absent", 11), 11);
  assert_int_equal(lc_gguf_i64_or(g, "f", 12), 12);
  assert_int_equal(lc_gguf_i64_or(g, "ints", 13), 13);
  assert_true(lc_gguf_f64_or(g, "f", 0) == (double)1e-5f);
  assert_true(lc_gguf_f64_or(g, "i", 0) == -7.0);
  assert_true(lc_gguf_f64_or(g, "words", 2.5) == 2.5);
  assert_true(lc_gguf_bool_or(g, "t", false));
  assert_false(lc_gguf_bool_or(g, "no", true));
  assert_true(lc_gguf_bool_or(g, "u", true));
  const lc_gguf_kv *kv = lc_gguf_key(g, "words");
  assert_int_equal(kv->n, 3);
  assert_int_equal(kv->item, LC_GGUF_STRING);
  assert_true(lc_str_eq(kv->strings[0], "one"));
  assert_int_equal(kv->strings[2].n, 3);
  assert_memory_equal(kv->strings[2].data, "a\0b", 3);
  kv = lc_gguf_key(g, "ints");
  assert_true(lc_gguf_item_i64(kv, 1, &i) && i == -2);
  assert_true(lc_gguf_item_f64(lc_gguf_key(g, "floats"), 1, &x) && x == -1.25);
  assert_false(lc_gguf_item_i64(lc_gguf_key(g, "floats"), 1, &i));
  assert_int_equal(lc_gguf_key(g, "nothing")->n, 0);
  assert_null(lc_gguf_key(g, "absent"));
  assert_int_equal(lc_gguf_i64(ctx, g, "absent", &i), LC_FAILED);
  assert_says("key 'absent' is missing");
  assert_int_equal(lc_gguf_i64(ctx, g, "words", &i), LC_FAILED);
  assert_says("key 'words' is not an integer");
  assert_int_equal(lc_gguf_string(ctx, g, "u", &s), LC_FAILED);
  assert_says("key 'u' is not a string");
}

static void declare_wanted(lc_gguf_writer *w) {
  for (int i = 0; i < WANTED; i++)
    assert_int_equal(lc_gguf_declare(w, wanted[i].name, wanted[i].dtype, wanted[i].ndim, wanted[i].shape),
                     LC_OK);
}

static void append_wanted(lc_gguf_writer *w, size_t piece) {
  for (int i = 0; i < WANTED; i++) {
    lc_tensor t = {NULL, wanted[i].dtype, wanted[i].ndim, {0}};
    memcpy(t.shape, wanted[i].shape, sizeof t.shape);
    size_t n = bytes_of(&t);
    for (size_t at = 0; at < n; at += piece)
      assert_int_equal(lc_gguf_append(w, noise + i + at, n - at < piece ? n - at : piece), LC_OK);
  }
}

static void check_tensors(const lc_gguf *g) {
  assert_int_equal(g->n, WANTED);
  for (int i = 0; i < WANTED; i++) {
    const lc_tensor *t = lc_gguf_find(g, wanted[i].name);
    assert_non_null(t);
    assert_int_equal(t->dtype, wanted[i].dtype);
    assert_int_equal(t->ndim, wanted[i].ndim);
    for (int k = 0; k < t->ndim; k++) assert_int_equal(t->shape[k], wanted[i].shape[k]);
    assert_memory_equal(t->data, noise + i, bytes_of(t));
    assert_int_equal((uintptr_t)t->data % 32, 0);
  }
  for (int i = 1; i < g->n; i++) assert_true(strcmp(g->tensor[i - 1].name, g->tensor[i].name) < 0);
  assert_null(lc_gguf_find(g, "absent"));
}

static void round_trip(void **state) {
  size_t before = t_memory(ctx);
  for (size_t piece = 1; piece < 10000; piece *= 7) {
    lc_gguf_writer *w;
    lc_gguf g;
    assert_int_equal(lc_gguf_create(ctx, t_path("all.gguf"), &w), LC_OK);
    put_pairs(w);
    declare_wanted(w);
    append_wanted(w, piece);
    assert_int_equal(lc_gguf_finish(w, true), LC_OK);
    assert_int_equal(lc_gguf_open(ctx, t_path("all.gguf"), &g), LC_OK);
    assert_int_equal(g.version, 3);
    assert_int_equal(g.alignment, 32);
    assert_int_equal(g.map.size % 32, 0);
    check_pairs(&g);
    check_tensors(&g);
    lc_gguf_close(ctx, &g);
    assert_int_equal(t_memory(ctx), before);
  }
}

/* Copies pairs and tensors of an open file to `path`. */
static void copy_file(const lc_gguf *g, const char *path) {
  lc_gguf_writer *w;
  assert_int_equal(lc_gguf_create(ctx, path, &w), LC_OK);
  for (int64_t i = 0; i < g->n_kv; i++) assert_int_equal(lc_gguf_put_kv(w, &g->kv[i]), LC_OK);
  for (int i = 0; i < g->n; i++) {
    const lc_tensor *t = &g->tensor[i].t;
    assert_int_equal(lc_gguf_declare(w, g->tensor[i].name, t->dtype, t->ndim, t->shape), LC_OK);
  }
  for (int i = 0; i < g->n; i++)
    assert_int_equal(lc_gguf_append(w, g->tensor[i].t.data, bytes_of(&g->tensor[i].t)), LC_OK);
  assert_int_equal(lc_gguf_finish(w, true), LC_OK);
}

static void copy_of_a_file(void **state) {
  lc_gguf_writer *w;
  lc_gguf g;
  assert_int_equal(lc_gguf_create(ctx, t_path("all.gguf"), &w), LC_OK);
  put_pairs(w);
  assert_int_equal(lc_gguf_put_u32(w, "general.alignment", 32), LC_OK);
  declare_wanted(w);
  append_wanted(w, 1000);
  assert_int_equal(lc_gguf_finish(w, true), LC_OK);
  assert_int_equal(lc_gguf_open(ctx, t_path("all.gguf"), &g), LC_OK);
  copy_file(&g, t_path("copy.gguf"));
  int64_t n = g.n_kv;
  lc_gguf_close(ctx, &g);
  assert_int_equal(lc_gguf_open(ctx, t_path("copy.gguf"), &g), LC_OK);
  assert_int_equal(g.n_kv, n - 1); /* general.alignment is the writer's */
  check_pairs(&g);
  check_tensors(&g);
  lc_gguf_close(ctx, &g);
}

static void nothing_half_written(void **state) {
  const int64_t shape[] = {3};
  const char *says[] = {"tensor 'a': holds 12 bytes, 13 were given",
                        "tensor 'a': holds 12 bytes, 11 were given",
                        "tensor 'a': holds 12 bytes, 0 were given",
                        "1 bytes more than all its tensors hold",
                        "key 'late': comes after",
                        "tensor 'late': declared after",
                        "key 'k' is put twice",
                        "tensor 'a' is declared twice"};
  t_put(t_path("kept.gguf"), "as it was", 9);
  for (int wrong = 0; wrong < 8; wrong++) {
    lc_gguf_writer *w;
    assert_int_equal(lc_gguf_create(ctx, t_path("kept.gguf"), &w), LC_OK);
    lc_gguf_put_u32(w, "k", 1);
    if (wrong == 6) lc_gguf_put_u32(w, "k", 1);
    lc_gguf_declare(w, "a", LC_F32, 1, shape);
    if (wrong == 7) lc_gguf_declare(w, "a", LC_F32, 1, shape);
    if (wrong != 2) lc_gguf_append(w, noise, wrong == 0 ? 13 : wrong == 1 ? 11 : 12);
    if (wrong == 3) lc_gguf_append(w, noise, 1);
    if (wrong == 4) lc_gguf_put_u32(w, "late", 1);
    if (wrong == 5) lc_gguf_declare(w, "late", LC_F32, 1, shape);
    assert_int_equal(lc_gguf_finish(w, true), LC_FAILED);
    assert_says(says[wrong]);
  }
  lc_gguf_writer *w;
  assert_int_equal(lc_gguf_create(ctx, t_path("kept.gguf"), &w), LC_OK);
  assert_int_equal(lc_gguf_finish(w, false), LC_OK);
  assert_int_equal(t_dir_entries(), 1);
  t_bytes b = t_get(t_path("kept.gguf"));
  assert_int_equal(b.n, 9);
  assert_memory_equal(b.data, "as it was", 9);
  t_free(&b);
  assert_int_equal(lc_gguf_create(ctx, t_path("no/such.gguf"), &w), LC_FAILED);
  assert_null(w);
}

static void declarations_refused(void **state) {
  static const struct {
    const char *name;
    lc_dtype dtype;
    int ndim;
    int64_t shape[5];
    const char *says;
  } row[] = {
      {"", LC_F32, 1, {1}, "0 bytes: 1 to 63"},
      {"0123456789012345678901234567890123456789012345678901234567890123",
       LC_F32,
       1,
       {1},
       "64 bytes: 1 to 63"},
      {"u8", LC_U8, 1, {1}, "GGUF has no type for u8"},
      {"five", LC_F32, 5, {1, 1, 1, 1, 1}, "5 dimensions"},
      {"minus", LC_F32, 1, {-1}, "dimension 0 is negative"},
      {"rows", LC_Q8_0, 2, {32, 33}, "rows of 33 elements are not whole q8_0 blocks of 32"},
      {"one", LC_Q8_0, 0, {0}, "rows of 1 elements"},
      {"huge", LC_F32, 2, {INT64_MAX, INT64_MAX}, "larger than any file"},
      {"large", LC_F32, 1, {INT64_MAX}, "larger than any file"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    lc_gguf_writer *w;
    assert_int_equal(lc_gguf_create(ctx, t_path("bad.gguf"), &w), LC_OK);
    assert_int_equal(lc_gguf_declare(w, row[i].name, row[i].dtype, row[i].ndim, row[i].shape), LC_FAILED);
    assert_says(row[i].says);
    assert_int_equal(lc_gguf_finish(w, true), LC_FAILED);
  }
  lc_gguf_writer *w;
  assert_int_equal(lc_gguf_create(ctx, t_path("bad.gguf"), &w), LC_OK);
  assert_int_equal(lc_gguf_put_u32(w, "general.alignment", 64), LC_FAILED);
  assert_int_equal(lc_gguf_put_u32(w, "", 64), LC_FAILED);
  lc_gguf_finish(w, false);
  assert_int_equal(t_dir_entries(), 0);
}

/* ---- files built by hand ---- */

static void head(t_bytes *b, uint64_t tensors, uint64_t pairs) {
  t_text(b, "GGUF");
  t_u32(b, 3);
  t_u64(b, tensors);
  t_u64(b, pairs);
}
static void pair_u32(t_bytes *b, const char *key, uint32_t x) {
  t_str(b, key);
  t_u32(b, LC_GGUF_U32);
  t_u32(b, x);
}
static void info(t_bytes *b, const char *name, uint32_t ndim, uint64_t n0, uint64_t n1, uint32_t type,
                 uint64_t offset) {
  t_str(b, name);
  t_u32(b, ndim);
  for (uint32_t i = 0; i < ndim; i++) t_u64(b, i == 0 ? n0 : i == 1 ? n1 : 1);
  t_u32(b, type);
  t_u64(b, offset);
}
static void data(t_bytes *b, size_t alignment, size_t n) {
  t_zeros(b, (alignment - b->n % alignment) % alignment + n);
}

/* Builds wrong file i into b and returns what the sentence must say; NULL after the last one. */
static const char *wrong_file(int i, t_bytes *b) {
  switch (i) {
  case 0:
    t_text(b, "GGU");
    return "truncated: the magic number needs 4 bytes at offset 0, the file ends at 3";
  case 1:
    t_text(b, "GGML....................");
    return "does not begin with 'GGUF'";
  case 2:
    t_text(b, "GGUF");
    t_u32(b, 0x03000000);
    return "big-endian";
  case 3:
    t_text(b, "GGUF");
    t_u32(b, 4);
    return "version 4 is not read";
  case 4:
    head(b, 0, UINT64_MAX);
    return "key/value pairs: 18,446,744,073,709,551,615 of them need more than the 0 bytes left";
  case 5:
    head(b, UINT64_MAX, 0);
    return "tensors: 18,446,744,073,709,551,615 of them need more";
  case 6:
    head(b, 0, 1);
    t_u64(b, UINT64_MAX);
    t_zeros(b, 100);
    return "a key needs 18,446,744,073,709,551,615 bytes at offset 32, the file ends at 132";
  case 7:
    head(b, 0, 1);
    t_u64(b, 70000);
    t_zeros(b, 80000);
    return "a key of 70,000 bytes";
  case 8:
    head(b, 0, 1);
    t_str(b, "k");
    t_u32(b, 13);
    t_zeros(b, 100);
    return "key 'k': value type 13 is not known";
  case 9:
    head(b, 0, 1);
    t_str(b, "k");
    t_u32(b, LC_GGUF_ARRAY);
    t_u32(b, LC_GGUF_ARRAY);
    t_zeros(b, 100);
    return "key 'k': an array of arrays is not read";
  case 10:
    head(b, 0, 1);
    t_str(b, "k");
    t_u32(b, LC_GGUF_ARRAY);
    t_u32(b, LC_GGUF_STRING);
    t_u64(b, 14);
    t_zeros(b, 111);
    return "key 'k': 14 of them need more than the 111 bytes left";
  case 11:
    head(b, 0, 1);
    t_str(b, "k");
    t_u32(b, LC_GGUF_ARRAY);
    t_u32(b, LC_GGUF_F64);
    t_u64(b, UINT64_MAX / 8 + 2); /* ·8 wraps to 8 */
    t_zeros(b, 100);
    return "of them need more than the 100 bytes left";
  case 12:
    head(b, 0, 1);
    t_str(b, "a\nlong key that goes on and on, and that no error sentence should have to show in full to its "
             "reader");
    t_u32(b, LC_GGUF_STRING);
    t_u64(b, 9);
    t_zeros(b, 8);
    return "key 'a?long key that goes on and on, and that no error sentence should have to show i...' needs "
           "9";
  case 13:
    head(b, 0, 2);
    pair_u32(b, "k", 1);
    pair_u32(b, "k", 2);
    return "key 'k' is there twice";
  case 14:
    head(b, 0, 1);
    pair_u32(b, "general.alignment", 24);
    return "24 is not a power of two";
  case 15:
    head(b, 0, 1);
    pair_u32(b, "general.alignment", 0);
    return "0 is not a power of two";
  case 16:
    head(b, 0, 1);
    t_str(b, "general.alignment");
    t_u32(b, LC_GGUF_U64);
    t_u64(b, 32);
    return "key 'general.alignment': not a u32";
  case 17:
    head(b, 1, 0);
    info(b, "t", 5, 1, 1, 0, 0);
    return "tensor 't': 5 dimensions, at most 4 are read";
  case 18:
    head(b, 1, 0);
    info(b, "t", 1, UINT64_MAX, 1, 0, 0);
    return "tensor 't': a dimension of 18,446,744,073,709,551,615";
  case 19:
    head(b, 1, 0);
    info(b, "t", 2, (uint64_t)1 << 62, 4, 0, 0);
    return "tensor 't': its shape is larger than any memory";
  case 20:
    head(b, 1, 0);
    info(b, "t", 1, (uint64_t)1 << 62, 1, 0, 0);
    return "tensor 't': its shape is larger than any memory";
  case 21:
    head(b, 1, 0);
    info(b, "t", 2, 256, 1, 12, 0);
    return "tensor 't': ggml type 12 is not read; known are 0 (f32)";
  case 22:
    head(b, 1, 0);
    info(b, "t", 1, 1, 1, 0xffffffff, 0);
    return "tensor 't': ggml type 4294967295 is not read";
  case 23:
    head(b, 1, 0);
    info(b, "t", 2, 16, 2, 8, 0);
    return "tensor 't': rows of 16 elements are not whole q8_0 blocks of 32";
  case 24:
    head(b, 1, 0);
    info(b, "t", 1, 8, 1, 0, 16);
    data(b, 32, 64);
    return "tensor 't': offset 16 is no multiple of the alignment 32";
  case 25:
    head(b, 1, 0);
    info(b, "blk.0.attn_q.weight", 1, 1000, 1, 0, 32);
    data(b, 32, 78);
    return "tensor 'blk.0.attn_q.weight': needs 4,000 bytes at offset 32 of the data, the file ends at 78";
  case 26:
    head(b, 1, 0);
    info(b, "t", 1, 8, 1, 0, UINT64_MAX - 31);
    data(b, 32, 64);
    return "tensor 't'";
  case 27:
    head(b, 2, 0);
    info(b, "t", 1, 9, 1, 0, 0);
    info(b, "u", 1, 8, 1, 0, 32);
    data(b, 32, 96);
    return "tensor 'u': begins at offset 32 of the data, where tensor 't' goes on to 36";
  case 28:
    head(b, 2, 0);
    info(b, "t", 1, 8, 1, 0, 0);
    info(b, "u", 1, 8, 1, 0, 0);
    data(b, 32, 96);
    return "goes on to 32";
  case 29:
    head(b, 2, 0);
    info(b, "t", 1, 8, 1, 0, 0);
    info(b, "t", 1, 8, 1, 0, 32);
    data(b, 32, 64);
    return "tensor 't' is there twice";
  case 30:
    head(b, 1, 0);
    info(b, "", 1, 8, 1, 0, 0);
    data(b, 32, 64);
    return "tensor name '' of 0 bytes";
  case 31:
    head(b, 1, 0);
    info(b, "01234567890123456789012345678901234567890123456789012345678901234", 1, 8, 1, 0, 0);
    data(b, 32, 64);
    return "of 65 bytes";
  case 32:
    head(b, 1, 0);
    t_u64(b, 3);
    t_add(b, "a\0b", 3);
    t_zeros(b, 64);
    return "tensor name 'a?b' of 3 bytes: 1 to 64 are read, none of them zero";
  case 33:
    head(b, 1, 1);
    pair_u32(b, "general.alignment", 0x80000000);
    info(b, "t", 1, 0, 1, 0, 0);
    return "tensor 't': needs 0 bytes at offset 0 of the data, the file ends at 0";
  default:
    return NULL;
  }
}

static void wrong_files(void **state) {
  size_t before = t_memory(ctx);
  int n = 0;
  for (;; n++) {
    t_bytes b = {0};
    const char *says = wrong_file(n, &b);
    if (!says) break;
    t_put(t_path("bad.gguf"), b.data, b.n);
    t_free(&b);
    lc_gguf g;
    lc_error_clear(ctx);
    assert_int_equal(lc_gguf_open(ctx, t_path("bad.gguf"), &g), LC_FAILED);
    assert_says(says);
    assert_says("bad.gguf: ");
    assert_int_equal(t_memory(ctx), before);
  }
  assert_int_equal(n, 34);
}

/* Version 2, an alignment of 64, a gap between tensors and every width of integer. */
static void unusual_but_right(void **state) {
  t_bytes b = {0};
  t_text(&b, "GGUF");
  t_u32(&b, 2);
  t_u64(&b, 2);
  t_u64(&b, 11);
  pair_u32(&b, "general.alignment", 64);
  static const struct {
    const char *key;
    lc_gguf_type type;
    size_t n;
    uint64_t value;
  } row[] = {{"u8", LC_GGUF_U8, 1, 200},
             {"i8", LC_GGUF_I8, 1, 200},
             {"u16", LC_GGUF_U16, 2, 65000},
             {"i16", LC_GGUF_I16, 2, 65000},
             {"u64", LC_GGUF_U64, 8, 1},
             {"big", LC_GGUF_U64, 8, UINT64_MAX},
             {"i64", LC_GGUF_I64, 8, UINT64_MAX},
             {"f64", LC_GGUF_F64, 8, 0x3fe0000000000000},
             {"b", LC_GGUF_BOOL, 1, 1}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    t_str(&b, row[i].key);
    t_u32(&b, row[i].type);
    t_add(&b, &row[i].value, row[i].n);
  }
  t_str(&b, "a");
  t_u32(&b, LC_GGUF_ARRAY);
  t_u32(&b, LC_GGUF_U16);
  t_u64(&b, 2);
  t_add(&b, (uint16_t[]){7, 9}, 4);
  info(&b, "late", 2, 3, 2, 0, 128);
  info(&b, "early", 1, 4, 1, 0, 0);
  data(&b, 64, 0);
  for (int i = 0; i < 152; i++) t_add(&b, &noise[i], 1);
  t_put(t_path("odd.gguf"), b.data, b.n);
  t_free(&b);
  lc_gguf g;
  if (lc_gguf_open(ctx, t_path("odd.gguf"), &g)) fail_msg("%s", lc_error(ctx));
  assert_int_equal(g.alignment, 64);
  assert_int_equal(lc_gguf_i64_or(&g, "u8", 0), 200);
  assert_int_equal(lc_gguf_i64_or(&g, "i8", 0), -56);
  assert_int_equal(lc_gguf_i64_or(&g, "u16", 0), 65000);
  assert_int_equal(lc_gguf_i64_or(&g, "i16", 0), -536);
  assert_int_equal(lc_gguf_i64_or(&g, "u64", 0), 1);
  assert_int_equal(lc_gguf_i64_or(&g, "big", 5), 5);
  assert_int_equal(lc_gguf_i64_or(&g, "i64", 0), -1);
  assert_int_equal(lc_gguf_i64_or(&g, "b", 5), 5);
  assert_true(lc_gguf_f64_or(&g, "f64", 0) == 0.5);
  int64_t x;
  assert_true(lc_gguf_item_i64(lc_gguf_key(&g, "a"), 1, &x) && x == 9);
  const lc_tensor *t = lc_gguf_find(&g, "late");
  assert_int_equal(t->shape[0], 2);
  assert_int_equal(t->shape[1], 3);
  assert_memory_equal(t->data, noise + 128, 24);
  assert_memory_equal(lc_gguf_find(&g, "early")->data, noise, 16);
  lc_gguf_close(ctx, &g);
}

/* ---- damage ---- */

static bool try_open(const char *path) {
  lc_gguf g;
  size_t before = t_memory(ctx);
  lc_error_clear(ctx);
  lc_status st = lc_gguf_open(ctx, path, &g);
  if (st) assert_true(strlen(lc_error(ctx)) > 10);
  for (int i = 0; !st && i < g.n; i++) t_sum(g.tensor[i].t.data, bytes_of(&g.tensor[i].t));
  for (int64_t i = 0; !st && i < g.n_kv; i++) {
    double x;
    for (uint64_t k = 0; k < g.kv[i].n; k++) {
      lc_gguf_item_f64(&g.kv[i], k, &x);
      if (g.kv[i].item == LC_GGUF_STRING) t_sum(g.kv[i].strings[k].data, g.kv[i].strings[k].n);
    }
  }
  if (!st) lc_gguf_close(ctx, &g);
  assert_int_equal(t_memory(ctx), before);
  return st == LC_OK;
}

static void cut_and_flipped(void **state) {
  const char *path = t_path("whole.gguf"), *bad = t_path("broken.gguf");
  const lc_str words[] = {{"one", 3}, {"two", 3}};
  const int64_t shape[] = {2, 32};
  lc_gguf_writer *w;
  assert_int_equal(lc_gguf_create(ctx, path, &w), LC_OK);
  lc_gguf_put_strings(w, "words", words, 2);
  lc_gguf_put_f32(w, "f", 1);
  lc_gguf_declare(w, "q", LC_Q8_0, 2, shape);
  lc_gguf_declare(w, "f", LC_F32, 2, shape);
  lc_gguf_append(w, noise, 68);
  lc_gguf_append(w, noise, 256);
  assert_int_equal(lc_gguf_finish(w, true), LC_OK);
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
  assert_true(opened > 300 * 9 && refused > 24 * 8);
  t_free(&b);
}

/* ---- a real file ---- */

static void real_file(void **state) {
  const char *path = getenv("LACUNA_TEST_GGUF");
  if (!path || !*path) skip();
  lc_gguf g, copy;
  double start = lc_now();
  if (lc_gguf_open(ctx, path, &g)) fail_msg("%s", lc_error(ctx));
  double seconds = lc_now() - start;
  print_message("%s: %d tensors, %lld pairs, opened in %.2f ms\n", path, g.n, (long long)g.n_kv,
                1e3 * seconds);
  assert_true(g.n > 0 && g.n_kv > 0);
  copy_file(&g, t_path("copy.gguf"));
  if (lc_gguf_open(ctx, t_path("copy.gguf"), &copy)) fail_msg("%s", lc_error(ctx));
  assert_int_equal(copy.n, g.n);
  for (int i = 0; i < g.n; i++) {
    assert_string_equal(copy.tensor[i].name, g.tensor[i].name);
    assert_int_equal(bytes_of(&copy.tensor[i].t), bytes_of(&g.tensor[i].t));
    assert_int_equal(memcmp(copy.tensor[i].t.data, g.tensor[i].t.data, bytes_of(&g.tensor[i].t)), 0);
  }
  lc_gguf_close(ctx, &copy);
  lc_gguf_close(ctx, &g);
}

int main(void) {
#define T(f) cmocka_unit_test_setup(f, each_clean)
  const struct CMUnitTest tests[] = {
      T(round_trip),  T(copy_of_a_file),    T(nothing_half_written), T(declarations_refused),
      T(wrong_files), T(unusual_but_right), T(cut_and_flipped),      T(real_file),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
