/* Writes the seeds of the fuzz targets: make_corpus fuzz/corpus. Small files that hold each thing the formats
 * know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/io.h"

static lc_ctx *ctx;
static const char *root;

static void check(lc_status st) {
  if (!st) return;
  fprintf(stderr, "%s\n", lc_error(ctx));
  exit(1);
}

static const char *at(const char *target, const char *name) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", root, target);
  check(lc_mkdirs(ctx, path));
  snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
  return path;
}

static void put(const char *target, const char *name, const void *data, size_t n) {
  check(lc_write_file(ctx, at(target, name), data, n));
}

static const uint8_t zeros[512];

static void safetensors(void) {
  const lc_named_tensor all[] = {
      {"f64", {zeros, LC_F64, 0, {0}}},
      {"i64", {zeros, LC_I64, 1, {2}}},
      {"f32", {zeros, LC_F32, 2, {2, 3}}},
      {"i32", {zeros, LC_I32, 3, {1, 2, 2}}},
      {"bf16", {zeros, LC_BF16, 4, {1, 1, 1, 3}}},
      {"f16", {zeros, LC_F16, 1, {1}}},
      {"u8", {zeros, LC_U8, 1, {3}}},
      {"empty", {zeros, LC_F32, 2, {0, 4}}},
  };
  check(lc_safetensors_write(ctx, at("safetensors", "dtypes"), all, 8));
  check(lc_safetensors_write(ctx, at("safetensors", "empty"), NULL, 0));
  static const char *const header[][2] = {
      {"unaligned", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"},
      {"bool",
       "{\"a\":{\"dtype\":\"BOOL\",\"shape\":[4],\"data_offsets\":[0,4]},\"__metadata__\":{\"k\":\"v\"}}"},
      {"overlap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                  "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}"},
      {"huge", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}"},
  };
  for (int i = 0; i < 4; i++) {
    char file[512] = {0};
    size_t n = strlen(header[i][1]);
    file[0] = (char)n;
    memcpy(file + 8, header[i][1], n);
    put("safetensors", header[i][0], file, 8 + n + 4);
    char name[40];
    snprintf(name, sizeof name, "%s-header", header[i][0]); /* the header, a zero, and the data */
    memmove(file, file + 8, n + 1 + 4);
    put("safetensors", name, file, n + 1 + 4);
  }
}

static void index_json(void) {
  static const char *const text[][2] = {
      {"two-shards",
       "{\"metadata\":{\"total_size\":15},\"weight_map\":{\"a\":\"one\",\"b\":\"one\",\"c\":\"two\"}}"},
      {"missing", "{\"weight_map\":{\"a\":\"two\"}}"},
      {"outside", "{\"weight_map\":{\"a\":\"../one\"}}"},
      {"no-shard", "{\"weight_map\":{\"a\":\"four\"}}"},
  };
  for (int i = 0; i < 4; i++) put("index", text[i][0], text[i][1], strlen(text[i][1]));
  /* with a shard of its own: an index, a zero, and a safetensors file of 8 + n + 2 bytes */
  const char *map = "{\"weight_map\":{\"a\":\"three\",\"c\":\"two\"}}";
  const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
  char file[256] = {0};
  size_t m = strlen(map) + 1, n = strlen(header);
  memcpy(file, map, m);
  file[m] = (char)n;
  memcpy(file + m + 8, header, n);
  put("index", "own-shard", file, m + 8 + n + 2);
}

static void gguf(void) {
  static const lc_dtype dtype[] = {LC_F32,  LC_F16, LC_BF16, LC_Q4_0, LC_Q4_1,
                                   LC_Q8_0, LC_I32, LC_I64,  LC_F64};
  const lc_str words[] = {{"one", 3}, {"", 0}};
  const int64_t shape[] = {1, 32};
  lc_gguf_writer *w;
  check(lc_gguf_create(ctx, at("gguf", "types"), &w));
  check(lc_gguf_put_string(w, "s", "text", 4));
  check(lc_gguf_put_u32(w, "u", 7));
  for (int i = 0; i < 9; i++) check(lc_gguf_declare(w, lc_dtype_get(dtype[i])->name, dtype[i], 2, shape));
  for (int i = 0; i < 9; i++) {
    size_t n;
    lc_dtype_bytes(dtype[i], 32, &n);
    check(lc_gguf_append(w, zeros, n));
  }
  check(lc_gguf_finish(w, true));

  check(lc_gguf_create(ctx, at("gguf", "pairs"), &w));
  check(lc_gguf_put_u32(w, "general.alignment", 32));
  check(lc_gguf_put_i32(w, "i", -1));
  check(lc_gguf_put_f32(w, "f", 1));
  check(lc_gguf_put_bool(w, "b", true));
  check(lc_gguf_put_strings(w, "words", words, 2));
  check(lc_gguf_put_i32s(w, "ints", (int32_t[]){1, 2}, 2));
  check(lc_gguf_put_f32s(w, "none", NULL, 0));
  check(lc_gguf_finish(w, true));

  /* version 2, alignment 8, an array of u8, a u64; one f32 of 2×0 and one of 1 */
  static const char odd[] =
      "GGUF\2\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"
      "\x11\0\0\0\0\0\0\0general.alignment\4\0\0\0\x8\0\0\0"
      "\1\0\0\0\0\0\0\0a\x9\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0xy"
      "\1\0\0\0\0\0\0\0u\xa\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"
      "\1\0\0\0\0\0\0\0e\2\0\0\0\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
      "\1\0\0\0\0\0\0\0t\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
  put("gguf", "version2", odd, sizeof odd - 1);
  static const char *const good[] = {"types", "pairs", "version2"};
  for (int i = 0; i < 3; i++) {
    lc_gguf g;
    check(lc_gguf_open(ctx, at("gguf", good[i]), &g));
    lc_gguf_close(ctx, &g);
  }
}

static void vocabulary(void) {
  static const char *const pre[] = {"smollm", "llama-bpe", "default"};
  static const lc_str tokens[] = {{"<s>", 3},         {"a", 1},     {"b", 1}, {"ab", 2},
                                  {"\xC4\xA0", 2},    {"1", 1},     {"é", 2}, {"<|im_start|>", 12},
                                  {"<|im_end|>", 10}, {"[PAD9]", 6}};
  static const int32_t types[] = {3, 1, 1, 1, 1, 1, 1, 4, 3, 5};
  static const lc_str merge = {"a b", 3};
  for (int i = 0; i < 3; i++) {
    lc_gguf_writer *w;
    check(lc_gguf_create(ctx, at("gguf_vocab", pre[i]), &w));
    check(lc_gguf_put_string(w, "general.architecture", "llama", 5));
    check(lc_gguf_put_u32(w, "llama.context_length", 8));
    check(lc_gguf_put_string(w, "tokenizer.ggml.model", "gpt2", 4));
    check(lc_gguf_put_string(w, "tokenizer.ggml.pre", pre[i], strlen(pre[i])));
    check(lc_gguf_put_strings(w, "tokenizer.ggml.tokens", tokens, 10));
    check(lc_gguf_put_i32s(w, "tokenizer.ggml.token_type", types, 10));
    check(lc_gguf_put_strings(w, "tokenizer.ggml.merges", &merge, 1));
    check(lc_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 0));
    check(lc_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 8));
    if (i == 2) check(lc_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true));
    if (i == 2) check(lc_gguf_put_string(w, "tokenizer.chat_template", "{{ x }}", 7));
    check(lc_gguf_finish(w, true));
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "make_corpus DIRECTORY\n"), 2;
  root = argv[1];
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return fprintf(stderr, "%s\n", why), 1;
  safetensors();
  index_json();
  gguf();
  vocabulary();
  lc_ctx_free(ctx);
  return 0;
}
