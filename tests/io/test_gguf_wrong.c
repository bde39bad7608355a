/* GGUF files built by hand: whatever is wrong with one is refused with a sentence, what is unusual but right is read; a file cut
 * at any byte or with any bit flipped never does harm. */
#include "io/gguf_test.h"

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

int main(void) {
  const struct CMUnitTest tests[] = {T(wrong_files), T(unusual_but_right), T(cut_and_flipped)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
