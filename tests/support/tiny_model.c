/* See tiny_model.h. A tensor's values are normals keyed by (seed, name): matrices N(0, 4/N), so that
 * attention is far from uniform, norms 1 + N(0, 0.01), biases N(0, 0.01). */
#include "support/tiny_model.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char name[96], gguf[64];
  int64_t M, N;
  int ndim;
  bool transposed;
  int64_t permuted;
  bool norm;
} row;
typedef struct {
  row *r;
  int n;
} table;

static void add(table *t, int layer, int64_t M, int64_t N, int64_t permuted, bool transposed, bool norm,
                const char *name, const char *gguf) {
  t->r = realloc(t->r, (size_t)(t->n + 1) * sizeof *t->r);
  row *r = &t->r[t->n++];
  *r = (row){.M = M, .N = N, .ndim = M ? 2 : 1, .transposed = transposed, .permuted = permuted, .norm = norm};
  if (!M) r->M = 1;
  snprintf(r->name, sizeof r->name, name, layer);
  snprintf(r->gguf, sizeof r->gguf, gguf, layer);
}

static table llama_table(const lc_tiny *m) {
  table t = {0};
  int64_t Q = m->H * m->D, K = m->G * m->D;
  add(&t, 0, m->V, m->C, 0, 0, 0, "model.embed_tokens.weight", "token_embd.weight");
  for (int l = 0; l < m->L; l++) {
    add(&t, l, 0, m->C, 0, 0, 1, "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight");
    add(&t, l, Q, m->C, m->H, 0, 0, "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight");
    add(&t, l, K, m->C, m->G, 0, 0, "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight");
    add(&t, l, K, m->C, 0, 0, 0, "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight");
    add(&t, l, m->C, Q, 0, 0, 0, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight");
    if (m->attention_bias) {
      add(&t, l, 0, Q, m->H, 0, 0, "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias");
      add(&t, l, 0, K, m->G, 0, 0, "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias");
      add(&t, l, 0, K, 0, 0, 0, "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias");
      add(&t, l, 0, m->C, 0, 0, 0, "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias");
    }
    add(&t, l, 0, m->C, 0, 0, 1, "model.layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight");
    add(&t, l, m->F, m->C, 0, 0, 0, "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight");
    add(&t, l, m->F, m->C, 0, 0, 0, "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight");
    add(&t, l, m->C, m->F, 0, 0, 0, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight");
    if (m->mlp_bias) {
      add(&t, l, 0, m->F, 0, 0, 0, "model.layers.%d.mlp.gate_proj.bias", "blk.%d.ffn_gate.bias");
      add(&t, l, 0, m->F, 0, 0, 0, "model.layers.%d.mlp.up_proj.bias", "blk.%d.ffn_up.bias");
      add(&t, l, 0, m->C, 0, 0, 0, "model.layers.%d.mlp.down_proj.bias", "blk.%d.ffn_down.bias");
    }
  }
  add(&t, 0, 0, m->C, 0, 0, 1, "model.norm.weight", "output_norm.weight");
  if (!m->tied) add(&t, 0, m->V, m->C, 0, 0, 0, "lm_head.weight", "output.weight");
  return t;
}

static table gpt2_table(const lc_tiny *m) {
  table t = {0};
  add(&t, 0, m->V, m->C, 0, 0, 0, "transformer.wte.weight", "token_embd.weight");
  add(&t, 0, m->context, m->C, 0, 0, 0, "transformer.wpe.weight", "position_embd.weight");
  for (int l = 0; l < m->L; l++) {
    add(&t, l, 0, m->C, 0, 0, 1, "transformer.h.%d.ln_1.weight", "blk.%d.attn_norm.weight");
    add(&t, l, 0, m->C, 0, 0, 0, "transformer.h.%d.ln_1.bias", "blk.%d.attn_norm.bias");
    add(&t, l, 3 * m->C, m->C, 0, 1, 0, "transformer.h.%d.attn.c_attn.weight", "blk.%d.attn_qkv.weight");
    add(&t, l, 0, 3 * m->C, 0, 0, 0, "transformer.h.%d.attn.c_attn.bias", "blk.%d.attn_qkv.bias");
    add(&t, l, m->C, m->C, 0, 1, 0, "transformer.h.%d.attn.c_proj.weight", "blk.%d.attn_output.weight");
    add(&t, l, 0, m->C, 0, 0, 0, "transformer.h.%d.attn.c_proj.bias", "blk.%d.attn_output.bias");
    add(&t, l, 0, m->C, 0, 0, 1, "transformer.h.%d.ln_2.weight", "blk.%d.ffn_norm.weight");
    add(&t, l, 0, m->C, 0, 0, 0, "transformer.h.%d.ln_2.bias", "blk.%d.ffn_norm.bias");
    add(&t, l, m->F, m->C, 0, 1, 0, "transformer.h.%d.mlp.c_fc.weight", "blk.%d.ffn_up.weight");
    add(&t, l, 0, m->F, 0, 0, 0, "transformer.h.%d.mlp.c_fc.bias", "blk.%d.ffn_up.bias");
    add(&t, l, m->C, m->F, 0, 1, 0, "transformer.h.%d.mlp.c_proj.weight", "blk.%d.ffn_down.weight");
    add(&t, l, 0, m->C, 0, 0, 0, "transformer.h.%d.mlp.c_proj.bias", "blk.%d.ffn_down.bias");
  }
  add(&t, 0, 0, m->C, 0, 0, 1, "transformer.ln_f.weight", "output_norm.weight");
  add(&t, 0, 0, m->C, 0, 0, 0, "transformer.ln_f.bias", "output_norm.bias");
  if (!m->tied) add(&t, 0, m->V, m->C, 0, 0, 0, "lm_head.weight", "output.weight");
  return t;
}

/* BERT or RoBERTa, with the head that m->head names. */
static table encoder_table(const lc_tiny *m) {
  static const struct {
    const char *name;
    int rows, columns; /* 0: a norm; 1: C; 2: F */
  } part[] = {{"attention.self.query", 1, 1},
              {"attention.self.key", 1, 1},
              {"attention.self.value", 1, 1},
              {"attention.output.dense", 1, 1},
              {"attention.output.LayerNorm", 1, 0},
              {"intermediate.dense", 2, 1},
              {"output.dense", 1, 2},
              {"output.LayerNorm", 1, 0}};
  const int64_t size[] = {0, m->C, m->F};
  table t = {0};
  char name[96];
  snprintf(name, sizeof name, "%s.embeddings.word_embeddings.weight", m->family);
  add(&t, 0, m->V, m->C, 0, 0, 0, name, "");
  snprintf(name, sizeof name, "%s.embeddings.position_embeddings.weight", m->family);
  add(&t, 0, m->context, m->C, 0, 0, 0, name, "");
  snprintf(name, sizeof name, "%s.embeddings.token_type_embeddings.weight", m->family);
  add(&t, 0, 2, m->C, 0, 0, 0, name, "");
  snprintf(name, sizeof name, "%s.embeddings.LayerNorm.weight", m->family);
  add(&t, 0, 0, m->C, 0, 0, 1, name, "");
  snprintf(name, sizeof name, "%s.embeddings.LayerNorm.bias", m->family);
  add(&t, 0, 0, m->C, 0, 0, 0, name, "");
  for (int l = 0; l < m->L; l++)
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
      const bool norm = !part[i].columns;
      snprintf(name, sizeof name, "%s.encoder.layer.%%d.%s.weight", m->family, part[i].name);
      add(&t, l, norm ? 0 : size[part[i].rows], norm ? m->C : size[part[i].columns], 0, 0, norm, name, "");
      snprintf(name, sizeof name, "%s.encoder.layer.%%d.%s.bias", m->family, part[i].name);
      add(&t, l, 0, size[part[i].rows], 0, 0, 0, name, "");
    }
  return t;
}

static bool is_encoder(const lc_tiny *m) {
  return !strcmp(m->family, "bert") || !strcmp(m->family, "roberta");
}

static bool is_llama(const lc_tiny *m) {
  return !strcmp(m->family, "llama");
}

static table table_of(const lc_tiny *m) {
  return is_encoder(m) ? encoder_table(m) : is_llama(m) ? llama_table(m) : gpt2_table(m);
}

/* M×N values in HF order, out×in. */
static lc_status values(lc_ctx *ctx, const lc_tiny *m, const row *r, float *v) {
  lc_rng rng = {.seed = m->seed, .tensor = lc_fnv1a32(r->name), .purpose = LC_RNG_TEST};
  int64_t n = r->M * r->N;
  float sd = r->ndim == 2 ? 2.0f / sqrtf((float)r->N) : 0.1f, mean = r->norm ? 1.0f : 0.0f;
  for (int64_t i = 0; i < n; i++) v[i] = mean + sd * lc_rng_normal(&rng, (uint64_t)i);
  if (r->ndim != 2 || m->through == LC_NONE) return LC_OK;
  size_t bytes;
  if (!lc_dtype_bytes(m->through, n, &bytes))
    return lc_fail(ctx, "tiny model: '%s' does not divide into blocks", r->name);
  void *q = malloc(bytes);
  lc_status st = q ? LC_OK : lc_fail(ctx, "out of memory");
  if (!st) st = lc_encode_row(ctx, m->through, v, n, q);
  if (!st) st = lc_decode_row(ctx, m->through, q, n, v);
  free(q);
  return st;
}

/* The tensor's bytes in a file's order and dtype; the caller frees. */
static lc_status stored(lc_ctx *ctx, const lc_tiny *m, const row *r, bool gguf, lc_dtype *dtype, void **out,
                        size_t *bytes) {
  int64_t n = r->M * r->N, half = m->D / 2;
  float *v = malloc((size_t)n * sizeof *v), *f = malloc((size_t)n * sizeof *f);
  *out = NULL;
  *dtype = r->ndim == 2 || (!gguf && m->dtype != LC_F32) ? m->dtype : LC_F32;
  lc_status st = v && f ? values(ctx, m, r, v) : lc_fail(ctx, "out of memory");
  for (int64_t i = 0; i < n && !st; i++) {
    int64_t y = r->ndim == 2 ? i / r->N : i, x = r->ndim == 2 ? i % r->N : 0, to = i;
    if (gguf && r->permuted) { /* row p·D/2+j of a head goes to 2j+p */
      int64_t h = y / m->D, p = y % m->D / half, j = y % half;
      y = h * m->D + 2 * j + p;
      to = r->ndim == 2 ? y * r->N + x : y;
    } else if (!gguf && r->transposed) {
      to = x * r->M + y;
    }
    f[to] = v[i];
  }
  if (!st && !lc_dtype_bytes(*dtype, n, bytes))
    st = lc_fail(ctx, "tiny model: '%s' does not divide into blocks", r->name);
  if (!st && !(*out = malloc(*bytes))) st = lc_fail(ctx, "out of memory");
  if (!st) st = lc_encode_row(ctx, *dtype, f, n, *out);
  free(v);
  free(f);
  return st;
}

/* ---- tokenizer: three special tokens, the 256 bytes, some merges ---- */

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
static const char *const merges[][2] = {
    {"Ġ", "t"}, {"h", "e"},   {"Ġ", "a"},  {"i", "n"},   {"r", "e"},  {"Ġt", "he"}, {"o", "n"},
    {"Ġ", "s"}, {"Ġ", "w"},   {"e", "r"},  {"o", "u"},   {"n", "d"},  {"a", "t"},   {"i", "s"},
    {"e", "s"}, {"e", "n"},   {"l", "l"},  {"Ġ", "o"},   {"Ġ", "b"},  {"Ġ", "c"},   {"in", "g"},
    {"Ġ", "f"}, {"Ġa", "nd"}, {"o", "r"},  {"Ġ", "m"},   {"Ġ", "h"},  {"o", "f"},   {"Ġ", "of"},
    {"Ġ", "p"}, {"a", "n"},   {"i", "t"},  {"Ġt", "o"},  {"Ġ", "in"}, {"Ġ", "y"},   {"Ġy", "ou"},
    {"s", "t"}, {"u", "s"},   {"er", "s"}, {"us", "er"}, {"a", "s"},  {"a", "r"},
};
enum { N_SPECIALS = 3, N_MERGES = sizeof merges / sizeof *merges };
static const char chat_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named "
    "SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/* The printable stand-in of a byte in byte-level BPE: itself, or the next free character from U+0100. */
static void byte_text(int byte, char out[4]) {
  int code = byte, moved = 256;
  for (int b = 0; b < 256; b++) {
    bool plain = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    if (b == byte && plain) break;
    if (b == byte) code = moved;
    if (!plain) moved++;
  }
  memset(out, 0, 4);
  if (code < 0x80)
    out[0] = (char)code;
  else
    out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63));
}

static int vocabulary(const lc_tiny *m, char (*token)[24]) {
  int n = 0, limit = (int)lc_min64(m->V, N_SPECIALS + 256 + N_MERGES);
  for (int i = 0; i < N_SPECIALS; i++) snprintf(token[n++], 24, "%s", specials[i]);
  for (int b = 0; b < 256; b++) byte_text(b, token[n++]);
  for (int i = 0; n < limit; i++) snprintf(token[n++], 24, "%s%s", merges[i][0], merges[i][1]);
  return n;
}

static bool has_tokenizer(const lc_tiny *m) {
  return !m->no_tokenizer && m->V >= N_SPECIALS + 256;
}

static lc_status write_tokenizer(lc_ctx *ctx, const lc_tiny *m, const char *dir) {
  static char token[N_SPECIALS + 256 + N_MERGES][24];
  int n = vocabulary(m, token);
  json_t *vocab = json_object(), *pairs = json_array(), *added = json_array();
  for (int i = 0; i < n; i++) json_object_set_new(vocab, token[i], json_integer(i));
  for (int i = 0; i < n - N_SPECIALS - 256; i++)
    json_array_append_new(pairs, json_pack("[ss]", merges[i][0], merges[i][1]));
  for (int i = 0; i < N_SPECIALS; i++)
    json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", i, "content", specials[i],
                                           "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                           "special", 1));
  json_t *pre = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                          "use_regex", 1);
  json_t *post = is_encoder(m) ? json_pack("{s:s,s:[s,i],s:[s,i],s:b,s:b}", "type", "RobertaProcessing",
                                           "sep", specials[2], 2, "cls", specials[1], 1, "trim_offsets", 1,
                                           "add_prefix_space", 0)
                               : json_null();
  if (is_llama(m))
    pre = json_pack("{s:s,s:[{s:s,s:b},o]}", "type", "Sequence", "pretokenizers", "type", "Digits",
                    "individual_digits", 1, pre);
  json_t *t = json_pack(
      "{s:s,s:n,s:n,s:o,s:n,s:o,s:o,s:{s:s,s:b,s:b,s:b},s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}}",
      "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", pre,
      "post_processor", post, "decoder", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
      "use_regex", 1, "model", "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix",
      "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges",
      pairs);
  json_t *config =
      json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "bos_token", specials[1], "eos_token", specials[2],
                "pad_token", specials[2], "unk_token", specials[0], "chat_template", chat_template,
                "tokenizer_class", "GPT2Tokenizer", "model_max_length", (json_int_t)m->context);
  json_t *gen = json_pack("{s:i,s:i,s:i}", "bos_token_id", 1, "eos_token_id", 2, "pad_token_id", 2);
  lc_status st = t && config && gen ? LC_OK : lc_fail(ctx, "tiny model: no JSON");
  if (!st) st = lc_json_write(ctx, lc_tiny_path(dir, "tokenizer.json"), t);
  if (!st) st = lc_json_write(ctx, lc_tiny_path(dir, "tokenizer_config.json"), config);
  if (!st) st = lc_json_write(ctx, lc_tiny_path(dir, "generation_config.json"), gen);
  json_decref(t);
  json_decref(config);
  json_decref(gen);
  return st;
}

/* ---- HF ---- */

static lc_status write_config(lc_ctx *ctx, const lc_tiny *m, const char *dir) {
  const char *dtype = m->dtype == LC_F16 ? "float16" : m->dtype == LC_BF16 ? "bfloat16" : "float32";
  json_t *j =
      is_encoder(m)
          ? json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:f,s:s,s:i,s:i,s:i}", "architectures",
                      strcmp(m->family, "bert") ? "RobertaForMaskedLM" : "BertForMaskedLM", "model_type",
                      m->family, "vocab_size", (json_int_t)m->V, "hidden_size", (json_int_t)m->C,
                      "num_hidden_layers", (json_int_t)m->L, "num_attention_heads", (json_int_t)m->H,
                      "intermediate_size", (json_int_t)m->F, "max_position_embeddings",
                      (json_int_t)m->context, "type_vocab_size", 2, "layer_norm_eps", 1e-5, "hidden_act",
                      "gelu", "bos_token_id", 1, "eos_token_id", 2, "pad_token_id", 1)
      : is_llama(m)
          ? json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:b,s:b,s:s,s:i,s:i,s:i}",
                      "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size",
                      (json_int_t)m->V, "hidden_size", (json_int_t)m->C, "intermediate_size",
                      (json_int_t)m->F, "num_hidden_layers", (json_int_t)m->L, "num_attention_heads",
                      (json_int_t)m->H, "num_key_value_heads", (json_int_t)m->G, "head_dim", (json_int_t)m->D,
                      "max_position_embeddings", (json_int_t)m->context, "rms_norm_eps", 1e-5,
                      "tie_word_embeddings", m->tied, "attention_bias", m->attention_bias, "mlp_bias",
                      m->mlp_bias, "hidden_act", "silu", "bos_token_id", 1, "eos_token_id", 2, "pad_token_id",
                      2)
          : json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:s,s:i,s:i}", "architectures",
                      "GPT2LMHeadModel", "model_type", "gpt2", "vocab_size", (json_int_t)m->V, "n_embd",
                      (json_int_t)m->C, "n_layer", (json_int_t)m->L, "n_head", (json_int_t)m->H, "n_inner",
                      (json_int_t)m->F, "n_positions", (json_int_t)m->context, "layer_norm_epsilon", 1e-5,
                      "tie_word_embeddings", m->tied, "activation_function", "gelu_new", "bos_token_id", 1,
                      "eos_token_id", 2);
  json_t *more = m->config ? json_loads(m->config, 0, NULL) : NULL;
  lc_status st = j && !m->config == !more ? LC_OK : lc_fail(ctx, "tiny model: the JSON of config is wrong");
  if (!st) {
    json_object_set_new(j, m->old_spelling ? "torch_dtype" : "dtype", json_string(dtype));
    if (is_llama(m) && m->old_spelling) {
      json_object_set_new(j, "rope_theta", json_real(10000));
      json_object_set_new(j, "rope_scaling", json_null());
    } else if (is_llama(m)) {
      json_object_set_new(j, "rope_parameters",
                          json_pack("{s:s,s:f}", "rope_type", "default", "rope_theta", 10000.0));
    }
    if (more) json_object_update(j, more);
    st = lc_json_write(ctx, lc_tiny_path(dir, "config.json"), j);
  }
  json_decref(j);
  json_decref(more);
  return st;
}

static lc_status write_shard(lc_ctx *ctx, const lc_tiny *m, const table *t, int shard, int shards,
                             const char *path, json_t *map, const char *file) {
  lc_named_tensor *list = calloc((size_t)t->n, sizeof *list);
  int n = 0;
  lc_status st = list ? LC_OK : lc_fail(ctx, "out of memory");
  for (int i = 0; i < t->n && !st; i++) {
    const row *r = &t->r[i];
    if (i % shards != shard || (m->drop && !strcmp(m->drop, r->name))) continue;
    lc_named_tensor *x = &list[n];
    void *data;
    size_t bytes;
    st = stored(ctx, m, r, false, &x->t.dtype, &data, &bytes);
    if (st) break;
    const char *dot = strchr(r->name, '.');
    x->name = (char *)(m->bare && strcmp(r->name, "lm_head.weight") ? dot + 1 : r->name);
    x->t.data = data;
    x->t.ndim = r->ndim;
    x->t.shape[0] = r->ndim == 1 ? r->N : r->transposed ? r->N : r->M;
    x->t.shape[1] = r->transposed ? r->M : r->N;
    if (map) json_object_set_new(map, x->name, json_string(file));
    n++;
  }
  if (!st) st = lc_safetensors_write(ctx, path, list, n);
  for (int i = 0; i < n; i++) free((void *)list[i].t.data);
  free(list);
  return st;
}

lc_status lc_tiny_hf(lc_ctx *ctx, const lc_tiny *m, const char *dir) {
  table t = table_of(m);
  int shards = m->shards > 1 ? m->shards : 1;
  json_t *map = shards > 1 ? json_object() : NULL;
  lc_status st = lc_mkdirs(ctx, dir);
  if (!st) st = write_config(ctx, m, dir);
  if (!st && has_tokenizer(m)) st = write_tokenizer(ctx, m, dir);
  for (int s = 0; s < shards && !st; s++) {
    char file[64];
    if (shards > 1)
      snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, shards);
    else
      snprintf(file, sizeof file, "model.safetensors");
    st = write_shard(ctx, m, &t, s, shards, lc_tiny_path(dir, file), map, file);
  }
  if (!st && map) {
    json_t *index = json_pack("{s:{},s:O}", "metadata", "weight_map", map);
    st = lc_json_write(ctx, lc_tiny_path(dir, "model.safetensors.index.json"), index);
    json_decref(index);
  }
  json_decref(map);
  free(t.r);
  return st;
}

/* ---- GGUF ---- */

static lc_status put_tokenizer(const lc_tiny *m, lc_gguf_writer *w) {
  static char token[N_SPECIALS + 256 + N_MERGES][24], pair[N_MERGES][24];
  lc_str tokens[N_SPECIALS + 256 + N_MERGES], pairs[N_MERGES];
  int32_t type[N_SPECIALS + 256 + N_MERGES];
  const char *pre = is_llama(m) ? "smollm" : "gpt-2";
  int n = vocabulary(m, token), k = n - N_SPECIALS - 256;
  for (int i = 0; i < n; i++) {
    tokens[i] = (lc_str){token[i], strlen(token[i])};
    type[i] = i < N_SPECIALS ? 3 : 1; /* control, normal */
  }
  for (int i = 0; i < k; i++) {
    snprintf(pair[i], sizeof pair[i], "%s %s", merges[i][0], merges[i][1]);
    pairs[i] = (lc_str){pair[i], strlen(pair[i])};
  }
  LC_TRY(lc_gguf_put_string(w, "tokenizer.ggml.model", "gpt2", 4));
  LC_TRY(lc_gguf_put_string(w, "tokenizer.ggml.pre", pre, strlen(pre)));
  LC_TRY(lc_gguf_put_strings(w, "tokenizer.ggml.tokens", tokens, n));
  LC_TRY(lc_gguf_put_i32s(w, "tokenizer.ggml.token_type", type, n));
  LC_TRY(lc_gguf_put_strings(w, "tokenizer.ggml.merges", pairs, k));
  LC_TRY(lc_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1));
  LC_TRY(lc_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2));
  LC_TRY(lc_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0));
  LC_TRY(lc_gguf_put_u32(w, "tokenizer.ggml.padding_token_id", 2));
  LC_TRY(lc_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false));
  return lc_gguf_put_string(w, "tokenizer.chat_template", chat_template, strlen(chat_template));
}

static lc_status put_metadata(const lc_tiny *m, lc_gguf_writer *w) {
  const struct {
    const char *name;
    int64_t value;
  } numbers[] = {
      {"block_count", m->L},          {"context_length", m->context},
      {"embedding_length", m->C},     {"feed_forward_length", m->F},
      {"attention.head_count", m->H}, {"attention.head_count_kv", is_llama(m) ? m->G : m->H},
  };
  char key[64];
  LC_TRY(lc_gguf_put_string(w, "general.architecture", m->family, strlen(m->family)));
  LC_TRY(lc_gguf_put_string(w, "general.name", "tiny", 4));
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    snprintf(key, sizeof key, "%s.%s", m->family, numbers[i].name);
    LC_TRY(lc_gguf_put_u32(w, key, (uint32_t)numbers[i].value));
  }
  if (!is_llama(m)) return lc_gguf_put_f32(w, "gpt2.attention.layer_norm_epsilon", 1e-5f);
  LC_TRY(lc_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f));
  LC_TRY(lc_gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)m->D));
  if (m->D * m->H != m->C) {
    LC_TRY(lc_gguf_put_u32(w, "llama.attention.key_length", (uint32_t)m->D));
    LC_TRY(lc_gguf_put_u32(w, "llama.attention.value_length", (uint32_t)m->D));
  }
  return lc_gguf_put_f32(w, "llama.rope.freq_base", 10000);
}

lc_status lc_tiny_gguf(lc_ctx *ctx, const lc_tiny *m, const char *path) {
  table t = table_of(m);
  lc_gguf_writer *w = NULL;
  lc_status st = lc_gguf_create(ctx, path, &w);
  if (!st) st = put_metadata(m, w);
  if (!st && has_tokenizer(m)) st = put_tokenizer(m, w);
  for (int i = 0; i < t.n && !st; i++) {
    const row *r = &t.r[i];
    if (m->drop && !strcmp(m->drop, r->name)) continue;
    int64_t shape[2] = {r->ndim == 2 ? r->M : r->N, r->N};
    st = lc_gguf_declare(w, r->gguf, r->ndim == 2 ? m->dtype : LC_F32, r->ndim, shape);
  }
  for (int i = 0; i < t.n && !st; i++) {
    lc_dtype dtype;
    void *data;
    size_t bytes;
    if (m->drop && !strcmp(m->drop, t.r[i].name)) continue;
    st = stored(ctx, m, &t.r[i], true, &dtype, &data, &bytes);
    if (!st) st = lc_gguf_append(w, data, bytes);
    free(data);
  }
  if (w) {
    lc_status end = lc_gguf_finish(w, !st);
    if (!st) st = end;
  }
  free(t.r);
  return st;
}

/* ---- running ---- */

char *lc_tiny_dir(void) {
  const char *base = getenv("TMPDIR");
  char path[512];
  snprintf(path, sizeof path, "%s/lacuna-test-XXXXXX", base && *base ? base : "/tmp");
  return mkdtemp(path) ? strdup(path) : NULL;
}

const char *lc_tiny_path(const char *dir, const char *name) {
  static char buffer[64][1024];
  static int next;
  next = (next + 1) % 64;
  snprintf(buffer[next], sizeof buffer[next], "%s/%s", dir, name);
  return buffer[next];
}

static const int32_t *types;
void lc_tiny_types(const int32_t *t) {
  types = t;
}
static const float *pixels;
void lc_tiny_pixels(const float *p) {
  pixels = p;
}

/* The row that a classifier reads. */
static int64_t read_row(const lc_net *net, int64_t n) {
  return net->model->config.family->bidirectional ? 0 : n - 1;
}

/* The label of row t. */
static int32_t label_of(const lc_net *net, const int32_t *labels, int64_t t, int64_t n) {
  if (net->model->config.task == LC_TASK_LM) return t + 1 < n ? labels[t + 1] : -1;
  if (net->model->config.task == LC_TASK_CLASSIFY) return t == read_row(net, n) ? labels[0] : -1;
  return labels[t];
}

static lc_status begin(const lc_net *net, lc_run *run, const lc_net_graph *g, const int32_t *ids,
                       const int32_t *labels, int64_t n, lc_segment *seg) {
  *seg = (lc_segment){.row1 = n};
  LC_TRY(lc_run_begin(run, n, seg, 1));
  int32_t *id = lc_data(run, g->ids), *pos = lc_data(run, g->pos),
          *label = labels ? lc_data(run, g->labels) : NULL;
  if (g->pixels.id && pixels)
    memcpy(lc_data(run, g->pixels), pixels, (size_t)(n * lc_width(run, g->pixels)) * sizeof *pixels);
  for (int64_t t = 0; t < n; t++) {
    id[t] = ids[t];
    pos[t] = (int32_t)t;
    if (g->types.id) ((int32_t *)lc_data(run, g->types))[t] = types ? types[t] : 0;
    if (label) label[t] = label_of(net, labels, t, n);
  }
  return LC_OK;
}

lc_status lc_tiny_logits(lc_net *net, const int32_t *ids, int64_t n, float *dst) {
  lc_net_graph g = {0};
  lc_plan *plan = NULL;
  lc_run *run = NULL;
  lc_segment seg;
  lc_status st;
  LC_GO(lc_net_build(net, false, NULL, NULL, &g));
  LC_GO(lc_plan_new(g.g, &(lc_plan_opts){.rows = n}, &plan));
  LC_GO(lc_run_new(net->ctx, plan, &run));
  LC_GO(begin(net, run, &g, ids, NULL, n, &seg));
  LC_GO(lc_forward(run, NULL));
  int64_t r0 = 0, r1 = n;
  if (net->model->config.task == LC_TASK_CLASSIFY) r0 = read_row(net, n), r1 = r0 + 1;
  if (g.head)
    LC_GO(lc_head_logits(run, g.features, g.head, r0, r1, dst));
  else
    for (int64_t r = 0; r < n; r++)
      memcpy(dst + r * lc_width(run, g.hidden), lc_row_get(run, g.hidden, r, dst),
             (size_t)lc_width(run, g.hidden) * sizeof *dst);
done:
  if (run) lc_run_free(run);
  if (plan) lc_plan_free(plan);
  lc_net_graph_free(&g);
  return st;
}

lc_status lc_tiny_loss(lc_net *net, const int32_t *ids, const int32_t *labels, int64_t n, bool backward,
                       double *loss) {
  lc_net_graph g = {0};
  lc_plan *plan = NULL;
  lc_run *run = NULL;
  lc_segment seg;
  int64_t targets = 0;
  lc_status st;
  for (int64_t t = 0; t < n; t++) targets += label_of(net, labels, t, n) >= 0;
  LC_GO(lc_net_build(net, true, NULL, NULL, &g));
  LC_GO(lc_plan_new(g.g, &(lc_plan_opts){.rows = n, .training = backward}, &plan));
  LC_GO(lc_run_new(net->ctx, plan, &run));
  LC_GO(begin(net, run, &g, ids, labels, n, &seg));
  run->training = backward;
  run->loss_scale = 1.0f / (float)targets;
  LC_GO(lc_forward(run, NULL));
  *loss = 0;
  const float *nll = lc_data(run, g.nll);
  for (int64_t t = 0; t < n; t++) *loss += (double)nll[t];
  *loss /= (double)targets;
  if (backward) LC_GO(lc_backward(run, NULL));
done:
  if (run) lc_run_free(run);
  if (plan) lc_plan_free(plan);
  lc_net_graph_free(&g);
  return st;
}

double lc_tiny_error(const float *a, const float *b, int64_t n) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; i++) {
    d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    s += (double)b[i] * b[i];
  }
  return sqrt(d) / sqrt(s > 0 ? s : 1e-300);
}
