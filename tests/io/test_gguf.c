/* GGUF: what is written is read back, copied byte for byte; nothing half-written stays; what cannot be declared is refused.
 * LACUNA_TEST_GGUF may name a real file, which is then read and copied. Wrong files: test_gguf_wrong. */
#include "io/gguf_test.h"

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
  const struct CMUnitTest tests[] = {T(round_trip), T(copy_of_a_file), T(nothing_half_written),
                                     T(declarations_refused), T(real_file)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
