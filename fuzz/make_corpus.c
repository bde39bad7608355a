#define _GNU_SOURCE
/* Writes the seeds of the fuzz targets: make_corpus fuzz/corpus. Small files that hold each thing the formats
 * know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base.h"
#include "io/io.h"
#include "io/ship.h"
#include "model/model.h"
#include "nn/bottleneck.h"
#include "nn/delta_kernel.h"
#include "nn/mask.h"
#include "nn/mole.h"
#include "nn/noise.h"
#include "nn/slice.h"

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

/* ---- directories: files as pieces (fuzz.h) ---- */

typedef struct {
  uint8_t *data;
  size_t n;
} pieces;

/* The tensors' length is left out, and a zero ends their header. */
static void add_piece(pieces *p, char letter, const void *data, size_t n, bool tensors) {
  uint64_t header = 0;
  p->data = realloc(p->data, p->n + n + 8);
  p->data[p->n++] = 0xff;
  p->data[p->n++] = 0xfe;
  p->data[p->n++] = (uint8_t)letter;
  if (!tensors) {
    memcpy(p->data + p->n, data, n);
    p->n += n;
    return;
  }
  memcpy(&header, data, 8);
  memcpy(p->data + p->n, (const uint8_t *)data + 8, (size_t)header);
  p->n += (size_t)header;
  p->data[p->n++] = 0;
  memcpy(p->data + p->n, (const uint8_t *)data + 8 + header, n - 8 - (size_t)header);
  p->n += n - 8 - (size_t)header;
}

static void add_text(pieces *p, char letter, const char *text) {
  add_piece(p, letter, text, strlen(text), false);
}

static void finish(pieces *p, const char *target, const char *name) {
  put(target, name, p->data, p->n);
  free(p->data);
  *p = (pieces){0};
}

/* Adds DIR/name when it is there. */
static void add_file(pieces *p, char letter, const char *dir, const char *name) {
  char *path = lc_path_join(ctx, dir, name), *data;
  size_t n;
  if (lc_path_exists(path)) {
    check(lc_read_file(ctx, path, 1 << 20, &data, &n));
    add_piece(p, letter, data, n, strstr(name, ".safetensors") != NULL);
    lc_free(ctx, data);
  }
  lc_free(ctx, path);
}

static void model_dirs(void) {
  static const char *const config[][2] = {
      {"gpt2",
       "{\"architectures\":[\"GPT2LMHeadModel\"],\"n_embd\":8,\"n_layer\":1,\"n_head\":2,\"n_positions\":16,"
       "\"vocab_size\":8,\"activation_function\":\"gelu_new\"}"},
      {"bert",
       "{\"architectures\":[\"BertForTokenClassification\"],\"hidden_size\":8,\"num_hidden_layers\":1,"
       "\"num_attention_heads\":2,\"intermediate_size\":8,\"vocab_size\":8,\"id2label\":{\"0\":\"a\",\"1\":"
       "\"b\"}}"},
      {"roberta",
       "{\"model_type\":\"roberta\",\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
       "\"intermediate_size\":8,\"vocab_size\":8,\"max_position_embeddings\":18,\"pad_token_id\":1}"},
      {"vit", "{\"architectures\":[\"ViTForImageClassification\"],\"hidden_size\":8,\"num_hidden_layers\":1,"
              "\"num_attention_heads\":2,\"intermediate_size\":8,\"image_size\":8,\"patch_size\":4,\"num_"
              "channels\":1}"},
      {"yarn", "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":8,\"num_hidden_layers\":1,\"num_"
               "attention_heads\":2,"
               "\"intermediate_size\":8,\"vocab_size\":8,\"max_position_embeddings\":64,\"rope_parameters\":{"
               "\"rope_type\":"
               "\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16,\"rope_theta\":10000}}"}};
  const base_file c = base_config(), t = base_tensors();
  pieces p = {0};
  for (size_t i = 0; i < sizeof config / sizeof *config; i++) {
    add_text(&p, 'A', config[i][1]);
    add_text(&p, 'B', "{}");
    finish(&p, "model_dir", config[i][0]);
  }
  add_piece(&p, 'A', c.data, c.n, false);
  add_piece(&p, 'B', t.data, t.n, true);
  add_text(&p, 'C', "{\"eos_token_id\":[2,3]}");
  add_text(&p, 'D',
           "[{\"type\":\"x.Transformer\",\"path\":\"\"},{\"type\":\"x.Pooling\",\"path\":\"1_Pooling\"}]");
  add_text(&p, 'E', "{\"max_seq_length\":8,\"do_lower_case\":true}");
  add_text(&p, 'F', "{\"pooling_mode_mean_tokens\":true,\"word_embedding_dimension\":8}");
  add_text(
      &p, 'G',
      "{\"size\":{\"height\":8,\"width\":8},\"resample\":3,\"image_mean\":[0.5],\"image_std\":[0.5,1,2]}");
  finish(&p, "model_dir", "llama");
}

static void tokenizer_dirs(void) {
  static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nand\ngo\n##o\ni\n'\n1\n##2\n";
  pieces p = {0};
  add_text(&p, 'A', vocab);
  finish(&p, "tokenizer_dir", "vocab");
  add_text(&p, 'A', vocab);
  add_text(&p, 'B',
           "{\"do_lower_case\":false,\"cls_token\":{\"content\":\"[CLS]\"},\"model_max_length\":"
           "1000000000000000019884624838656}");
  add_text(&p, 'D', "{\"vocab_size\":14,\"pad_token_id\":0}");
  add_text(&p, 'E', "{\"eos_token_id\":3}");
  finish(&p, "tokenizer_dir", "cased");
  add_text(&p, 'C',
           "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"type\":"
           "\"BPE\",\"vocab\":"
           "{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3},\"merges\":[\"a b\"]}}");
  add_text(&p, 'B',
           "{\"bos_token\":\"<s>\",\"chat_template\":[{\"name\":\"default\",\"template\":\"{{x}}\"}]}");
  add_text(&p, 'F', "{% for m in messages %}{{ m }}{% endfor %}");
  finish(&p, "tokenizer_dir", "bpe");
}

static void recipes(void) {
  static const char *const text[][2] = {
      {"lora", "model: m\ndata: d\nmethod: lora\nobjective: dpo\nsteps: 3\nlr: 0.01\nset:\n  r: 4\nwith:\n  "
               "beta: 0.2\n"},
      {"plain", "method: shira\ndensity: 0.05\ntargets: \"re:.*\"\nset: {mask: random}\n"},
      {"unknown", "method: lora\nset:\n  rr: 4\n"},
      {"aliases", "method: &m lora\nmodel: *m\n"}};
  for (int i = 0; i < 4; i++) put("recipe", text[i][0], text[i][1], strlen(text[i][1]));
}

static void ships(const char *dir) {
  float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 2, 9, 4, 5, 7};
  uint8_t bytes[4] = {1, 2, 3, 4};
  const lc_named_tensor before[] = {{"a", {a, LC_F32, 2, {2, 3}}}, {"b", {bytes, LC_U8, 1, {4}}}},
                        after[] = {{"a", {b, LC_F32, 2, {2, 3}}}, {"b", {bytes, LC_U8, 1, {4}}}};
  char *from = lc_path_join(ctx, dir, "from.safetensors"), *to = lc_path_join(ctx, dir, "to.safetensors"),
       *out = lc_path_join(ctx, dir, "changes.safetensors");
  lc_ship s;
  pieces p = {0};
  check(lc_safetensors_write(ctx, from, before, 2));
  check(lc_safetensors_write(ctx, to, after, 2));
  for (int anchor = 0; anchor < 2; anchor++) {
    check(lc_ship_write(ctx, anchor ? NULL : from, to, 3, out, &s));
    add_file(&p, 'A', dir, "from.safetensors");
    add_file(&p, 'B', dir, "changes.safetensors");
    finish(&p, "ship", anchor ? "anchor" : "changes");
  }
  lc_free(ctx, from);
  lc_free(ctx, to);
  lc_free(ctx, out);
}

/* ---- adapters on the small model, one a layout and kind ---- */

static lc_net *net;
static lc_adapter *adapter;

static void attach(const char *weight, lc_delta *d) {
  check(lc_weight_attach(ctx, lc_net_weight(net, weight), d));
  check(lc_adapter_add(adapter, d));
}

#define Q "model.layers.0.self_attn.q_proj.weight"
#define D "model.layers.0.mlp.down_proj.weight"
#define E "model.embed_tokens.weight"

static lc_delta *entries(const char *weight, int64_t n) {
  lc_weight *w = lc_net_weight(net, weight);
  int64_t flat[64];
  float value[64];
  lc_index x;
  lc_delta *d;
  for (int64_t k = 0; k < n; k++) flat[k] = k * w->M * w->N / n, value[k] = (float)(k + 1) / 8;
  check(lc_index_new(ctx, w->M, w->N, flat, n, &x));
  check(lc_delta_sparse_new(ctx, w, &x, value, false, &d));
  return d;
}

static void make_adapter(int kind) {
  lc_weight *q = lc_net_weight(net, Q), *down = lc_net_weight(net, D);
  lc_delta *d, *route;
  if (kind == 0) { /* PEFT's LoRA */
    check(lc_delta_lora_new(ctx, q, &(lc_lora_opts){.rank = 2, .alpha = 4}, NULL, NULL, false, &d));
    attach(Q, d);
  } else if (kind == 1) { /* PEFT's SHiRA: r·(in+out) entries */
    attach(Q, entries(Q, 32));
  } else if (kind == 2) {
    attach(Q, entries(Q, 5));
    attach(E, entries(E, 3));
  } else if (kind == 3) { /* a mask, and what stands on it */
    lc_mask m;
    check(lc_mask_new(ctx, q->M, q->N, &m));
    lc_mask_drop_lines(&m, false, 1, 1);
    check(lc_delta_mask_new(ctx, q, &m, &d));
    attach(Q, d);
    check(lc_delta_lora_new(ctx, q, &(lc_lora_opts){.rank = 2, .alpha = 4}, NULL, NULL, false, &d));
    attach(Q, d);
    d = entries(Q, 4);
    lc_delta_sparse_set_factor(d, 2);
    attach(Q, d);
    check(lc_delta_slice_new(ctx, down, &(lc_slice_opts){LC_SLICE_COLUMNS, 2}, (const int32_t[]){1, 5}, false,
                             &d));
    attach(D, d);
  } else if (kind == 4) {
    const lc_kernel_opts o = {2, 1, LC_KERNEL_SNELLA, 0};
    check(lc_delta_kernel_new(ctx, q, &o, false, &d));
    check(lc_delta_kernel_refresh(ctx, d, 0.5));
    attach(Q, d);
    check(lc_delta_bottleneck_new(ctx, down, &(lc_bottleneck_opts){.width = 2, .scale = 1}, false, &d));
    attach(D, d);
  } else if (kind == 5) {
    check(lc_delta_route_new(ctx, lc_net_weight(net, "model.layers.0.mlp.gate_proj.weight"),
                             &(lc_route_opts){.experts = 2}, false, &route));
    attach("model.layers.0.mlp.gate_proj.weight", route);
    check(lc_delta_experts_new(ctx, down, route, &(lc_experts_opts){.experts = 2, .rank = 2, .alpha = 2},
                               false, &d));
    attach(D, d);
  } else { /* a log of steps */
    lc_noise_log *log;
    check(
        lc_noise_log_new(ctx, &(lc_noise_opts){.seed = 3, .sparsity = 0.5, .mask = LC_NOISE_SMALL}, 4, &log));
    for (uint32_t s = 0; s < 3; s++) check(lc_noise_log_add(log, s, 0.5f, 0.01f));
    check(lc_delta_noise_new(ctx, q, log, &d));
    attach(Q, d);
    lc_noise_log_drop(log);
  }
}

static void adapters(const char *dir) {
  static const lc_layout layout[] = {LC_LAYOUT_PEFT_LORA, LC_LAYOUT_PEFT_SHIRA, LC_LAYOUT_NATIVE,
                                     LC_LAYOUT_MODULES,   LC_LAYOUT_MODULES,    LC_LAYOUT_MODULES,
                                     LC_LAYOUT_LOG};
  static const char *const name[] = {"lora", "shira", "native", "modules", "kernel", "experts", "log"};
  static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                      "lacuna_adapter.json", "lacuna_adapter.safetensors",
                                      "lacuna_adapter.log",  "lacuna_head.safetensors"};
  const lc_adapter_meta meta = {.base_name = "base", .targets = "all-linear", .method = "fuzz", .seed = 1};
  const lc_head_opts head = {.task = LC_TASK_CLASSIFY, .labels = 2, .fresh = true, .seed = 1};
  char *base = lc_path_join(ctx, dir, "base"), *config = lc_path_join(ctx, base, "config.json"),
       *tensors = lc_path_join(ctx, base, "model.safetensors"), *out = lc_path_join(ctx, dir, "adapter");
  check(lc_mkdirs(ctx, base));
  check(lc_write_file(ctx, config, base_config().data, base_config().n));
  check(lc_write_file(ctx, tensors, base_tensors().data, base_tensors().n));
  for (int with_head = 0; with_head < 2; with_head++)
    for (int kind = 0; kind < (with_head ? 4 : 7); kind++) {
      lc_model *m;
      pieces p = {0};
      char called[40];
      check(lc_model_open_for(ctx, base, with_head ? &head : NULL, &m));
      check(lc_net_new(m, LC_F32, &net));
      check(lc_adapter_new(net, "fuzz", &adapter));
      make_adapter(kind);
      if (with_head) {
        lc_weight *w = lc_net_weight(net, "score.weight");
        float *value = calloc((size_t)(w->M * w->N), sizeof *value);
        check(lc_net_set_whole(net, w, value));
        free(value);
      }
      check(lc_adapter_save(adapter, layout[kind], out, &meta));
      for (int i = 0; i < 6; i++) add_file(&p, (char)('A' + i), out, files[i]);
      snprintf(called, sizeof called, "%s%s", name[kind], with_head ? "-head" : "");
      finish(&p, "adapter", called);
      check(lc_remove_tree(ctx, out));
      lc_net_free(net);
      lc_model_close(m);
    }
  lc_free(ctx, base);
  lc_free(ctx, config);
  lc_free(ctx, tensors);
  lc_free(ctx, out);
}

/* A byte for the run, one for the way: 0 a state.json, 1 edits, 2 fields (and edits): see fuzz_checkpoint.c. */
static void checkpoints(void) {
  static const char *const run[] = {"shira",         "spiel", "spiel-ma", "lora-best",   "sara",
                                    "sara-narrows",  "lift",  "dsee",     "dsee-prunes", "lt-sft",
                                    "lt-sft-random", "mezo",  "s2ft",     "snella",      "full",
                                    "allora",        "mole",  "mosa",     "grpo",        "ppo"};
  static const struct {
    const char *name;
    int run, way;
    const char *text;
  } state[] = {{"json-empty", 0, 0, "{}"},
               {"json-other", 0, 0,
                "{\"format\":\"lacuna-checkpoint\",\"version\":1,\"identity\":{\"method\":\"shira\"}}"},
               {"step-huge", 0, 2, "A9223372036854775807\n"},
               {"tokens-huge", 0, 2, "B9223372036854775807\n"},
               {"step-back", 11, 2, "A1\nC0\n"},
               {"phase-other", 7, 2, "G0\nH0\nI0\n"},
               {"phase-begins", 0, 2, "A9000000000000000000\nH8999999999999999999\nI8999999999999999999\n"},
               {"best-list", 3, 2, "K[]\n"},
               {"best-negative", 3, 2, "L-3\nM-1e300\n"},
               {"numerics", 0, 2, "N\nO\"a\\nb\"\n"},
               {"identity", 0, 2, "T[1]\nU{\"lr\":\"1\"}\n"}};
  static const struct {
    const char *name;
    int run;
    uint8_t edit[5];
  } array[] = {{"retired-value-nan", 6, {4, 1, 0, 0, 0}}, {"retired-count", 4, {2, 3, 40, 0, 0}},
               {"index-count", 6, {1, 3, 0, 0, 0}},       {"carried-swapped", 9, {0, 6, 0, 0, 0}},
               {"count-huge", 6, {0, 1, 0, 0, 1}},        {"log-count-0", 11, {0, 0, 0, 0, 0}},
               {"log-longer", 11, {1, 3, 24, 0, 0}},      {"window-of-ma", 2, {30, 0, 0, 0, 3}},
               {"lines-huge", 12, {0, 1, 0, 0, 3}},       {"mask-full", 7, {1, 1, 0, 0, 0}},
               {"sampled-id", 18, {46, 0, 0, 0, 100}},    {"no-sampling", 18, {49, 0, 0, 0, 0}},
               {"value-infinite", 0, {3, 1, 0, 0, 1}},    {"sparsity-nan", 13, {133, 1, 0, 0, 0}},
               {"array-gone", 1, {5, 4, 0, 0, 0}}};
  uint8_t file[200];
  for (size_t i = 0; i < sizeof run / sizeof *run; i++)
    put("checkpoint", run[i], (uint8_t[]){(uint8_t)i, 1}, 2);
  for (size_t i = 0; i < sizeof state / sizeof *state; i++) {
    file[0] = (uint8_t)state[i].run, file[1] = (uint8_t)state[i].way;
    memcpy(file + 2, state[i].text, strlen(state[i].text));
    put("checkpoint", state[i].name, file, 2 + strlen(state[i].text));
  }
  for (size_t i = 0; i < sizeof array / sizeof *array; i++) {
    file[0] = (uint8_t)array[i].run, file[1] = 1;
    memcpy(file + 2, array[i].edit, 5);
    put("checkpoint", array[i].name, file, array[i].edit[1] < 2 ? 7 : 6); /* the last byte is a value's */
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
  model_dirs();
  tokenizer_dirs();
  recipes();
  checkpoints();
  char scratch[] = "/tmp/lacuna-corpus-XXXXXX";
  if (!mkdtemp(scratch)) return perror(scratch), 1;
  ships(scratch);
  adapters(scratch);
  check(lc_remove_tree(ctx, scratch));
  lc_ctx_free(ctx);
  return 0;
}
