/* Llama family: SmolLM2, Llama 2 and 3. Touvron et al. 2023 (arXiv 2302.13971, 2307.09288), as transformers'
 * LlamaForCausalLM computes it:
 *
 *   x = E[ids]
 *   each block:  x += O·attention(rotate(Q·n), rotate(K·n), V·n),  n = rmsnorm(x)
 *                x += D·(silu(G·m) ⊙ (U·m)),                       m = rmsnorm(x)
 *   hidden = rmsnorm(x); logits = head·hidden
 *   classification: logits = S·hidden of the last token; of tokens: logits = S·hidden + s of each
 *
 * Q is (H·D, C), K and V (G·D, C), O (C, H·D); each kv head serves H/G query heads. D need not be C/H. In a
 * GGUF the rows of Q and K of each head are interleaved (llama.cpp rotates neighbouring pairs): row 2j+p
 * there is row p·D/2+j here. */
#include "model/config.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

/* ---- configuration ---- */

static const lc_refusal refused[] = {
    {"hidden_act", NAN, "silu"},
    {"pretraining_tp", 1, NULL},
    {"sliding_window", NAN, NULL},
    {"use_sliding_window", NAN, NULL},
    {"layer_types", NAN, "full_attention"},
    {"partial_rotary_factor", 1, NULL},
    {"quantization_config", NAN, NULL},
    {"attn_logit_softcapping", NAN, NULL},
    {"final_logit_softcapping", NAN, NULL},
    {"logit_scale", 1, NULL},
    {"logits_scaling", 1, NULL},
    {"embedding_multiplier", 1, NULL},
    {"residual_multiplier", 1, NULL},
    {"attention_multiplier", NAN, NULL},
    {"query_pre_attn_scalar", NAN, NULL},
    {"num_local_experts", NAN, NULL},
    {"num_experts", NAN, NULL},
    {"no_rope_layers", NAN, NULL},
    {"qk_norm", NAN, NULL},
    {"use_qk_norm", NAN, NULL},
    {"clip_qkv", NAN, NULL},
    {"add_cross_attention", NAN, NULL},
    {"is_encoder_decoder", NAN, NULL},
    {"attention_chunk_size", NAN, NULL},
};

/* What has to fit, wherever the numbers came from. */
static lc_status check(lc_ctx *ctx, const char *path, lc_config *c) {
  if (c->H % c->G)
    return lc_fail(ctx, "%s: %lld heads cannot share %lld key/value heads", path, (long long)c->H,
                   (long long)c->G);
  if (c->D % 2)
    return lc_fail(ctx, "%s: head width %lld is odd: rotation needs pairs", path, (long long)c->D);
  return LC_OK;
}

static lc_status config_hf(lc_ctx *ctx, const char *path, const struct json_t *j, lc_config *c) {
  lc_reader r = {.ctx = ctx, .path = path, .where = "", .j = j};
  lc_read_refuse(&r, refused, sizeof refused / sizeof *refused);
  c->V = lc_read_int(&r, "vocab_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->C = lc_read_int(&r, "hidden_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->F = lc_read_int(&r, "intermediate_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->L = lc_read_int(&r, "num_hidden_layers", LC_REQUIRED, 1, LC_MAX_LAYERS);
  c->H = lc_read_int(&r, "num_attention_heads", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->G = lc_read_int(&r, "num_key_value_heads", c->H, 1, LC_MAX_COUNT);
  c->context = lc_read_int(&r, "max_position_embeddings", 2048, 1, LC_MAX_COUNT);
  c->norm_eps = (float)lc_read_num(&r, "rms_norm_eps", 1e-6, 0, 1);
  c->tied = lc_read_bool(&r, "tie_word_embeddings", false);
  c->attention_bias = lc_read_bool(&r, "attention_bias", false);
  c->mlp_bias = lc_read_bool(&r, "mlp_bias", false);
  c->bos = lc_read_token(&r, "bos_token_id");
  c->eos = lc_read_token(&r, "eos_token_id");
  c->pad = lc_read_token(&r, "pad_token_id");
  lc_read_dropout(&r, (const char *[]){"attention_dropout"}, 1);
  c->D = lc_read_int(&r, "head_dim", 0, 1, LC_MAX_COUNT);
  if (!r.st && !c->D) {
    if (c->C % c->H)
      return lc_fail(ctx,
                     "%s: no 'head_dim', and 'hidden_size' %lld is no multiple of 'num_attention_heads' %lld",
                     path, (long long)c->C, (long long)c->H);
    c->D = c->C / c->H;
  }
  if (!r.st) lc_read_rope(&r, c);
  LC_TRY(r.st);
  return check(ctx, path, c);
}

static lc_status positive(lc_ctx *ctx, const lc_gguf *g, const char *name, int64_t def, int64_t max,
                          int64_t *out) {
  lc_key key = lc_arch_key("llama", name);
  *out = def;
  if (!def || lc_gguf_key(g, key.text)) LC_TRY(lc_gguf_i64(ctx, g, key.text, out));
  if (*out < 1 || *out > max)
    return lc_fail(ctx, "%s: '%s' is %lld: 1 to %lld is possible", g->map.path, key.text, (long long)*out,
                   (long long)max);
  return LC_OK;
}

static lc_status refuse_gguf(lc_ctx *ctx, const lc_gguf *g) {
  static const struct {
    const char *name;
    double ok;
  } table[] = {
      {"expert_count", 0},        {"attention.sliding_window", 0}, {"logit_scale", 1},
      {"embedding_scale", 1},     {"residual_scale", 1},           {"attention.scale", 0},
      {"attention.causal", 1},    {"attn_logit_softcapping", 0},   {"final_logit_softcapping", 0},
      {"attention.clamp_kqv", 0},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    lc_key key = lc_arch_key("llama", table[i].name);
    const lc_gguf_kv *kv = lc_gguf_key(g, key.text);
    if (!kv) continue;
    double v =
        kv->type == LC_GGUF_BOOL ? lc_gguf_bool_or(g, key.text, false) : lc_gguf_f64_or(g, key.text, NAN);
    if (v != table[i].ok && !(v == 0 && table[i].ok == 1 && kv->type != LC_GGUF_BOOL))
      return lc_fail(ctx, "%s: '%s' = %g is not supported", g->map.path, key.text, v);
  }
  return LC_OK;
}

static struct json_t *to_json(lc_ctx *ctx, const lc_config *c) {
  json_t *rope = c->rope.factors ? json_object() : lc_rope_json(ctx, &c->rope);
  json_t *j =
      rope ? json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:b,s:b,s:s,s:o}", "architectures",
                       "LlamaForCausalLM", "model_type", "llama", "vocab_size", (json_int_t)c->V,
                       "hidden_size", (json_int_t)c->C, "intermediate_size", (json_int_t)c->F,
                       "num_hidden_layers", (json_int_t)c->L, "num_attention_heads", (json_int_t)c->H,
                       "num_key_value_heads", (json_int_t)c->G, "head_dim", (json_int_t)c->D,
                       "max_position_embeddings", (json_int_t)c->context, "rms_norm_eps", (double)c->norm_eps,
                       "tie_word_embeddings", c->tied, "attention_bias", c->attention_bias, "mlp_bias",
                       c->mlp_bias, "hidden_act", "silu", "rope_parameters", rope)
           : NULL;
  if (!j) return NULL;
  if (c->bos >= 0) json_object_set_new(j, "bos_token_id", json_integer(c->bos));
  if (c->eos >= 0) json_object_set_new(j, "eos_token_id", json_integer(c->eos));
  if (c->pad >= 0) json_object_set_new(j, "pad_token_id", json_integer(c->pad));
  return j;
}

static lc_status config_gguf(lc_ctx *ctx, const lc_gguf *g, lc_config *c) {
  LC_TRY(refuse_gguf(ctx, g));
  LC_TRY(positive(ctx, g, "embedding_length", 0, LC_MAX_COUNT, &c->C));
  LC_TRY(positive(ctx, g, "feed_forward_length", 0, LC_MAX_COUNT, &c->F));
  LC_TRY(positive(ctx, g, "block_count", 0, LC_MAX_LAYERS, &c->L));
  LC_TRY(positive(ctx, g, "attention.head_count", 0, LC_MAX_COUNT, &c->H));
  LC_TRY(positive(ctx, g, "attention.head_count_kv", c->H, LC_MAX_COUNT, &c->G));
  LC_TRY(positive(ctx, g, "context_length", 0, LC_MAX_COUNT, &c->context));
  int64_t v_width;
  LC_TRY(positive(ctx, g, "attention.key_length", lc_max64(1, c->C / c->H), LC_MAX_COUNT, &c->D));
  LC_TRY(positive(ctx, g, "attention.value_length", c->D, LC_MAX_COUNT, &v_width));
  if (v_width != c->D)
    return lc_fail(ctx, "%s: keys %lld and values %lld wide: one width is supported", g->map.path,
                   (long long)c->D, (long long)v_width);
  c->norm_eps = (float)lc_gguf_f64_or(g, "llama.attention.layer_norm_rms_epsilon", -1);
  if (!(c->norm_eps >= 0))
    return lc_fail(ctx, "%s: 'llama.attention.layer_norm_rms_epsilon' is missing", g->map.path);
  const lc_tensor *embed = lc_gguf_find(g, "token_embd.weight");
  if (!embed) return lc_fail(ctx, "%s: tensor 'token_embd.weight' is missing", g->map.path);
  c->V = embed->shape[0];
  c->tied = !lc_gguf_find(g, "output.weight");
  c->attention_bias = lc_gguf_find(g, "blk.0.attn_q.bias") != NULL;
  c->mlp_bias = lc_gguf_find(g, "blk.0.ffn_up.bias") != NULL;
  c->bos = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.bos_token_id", -1);
  c->eos = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.eos_token_id", -1);
  c->pad = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.padding_token_id", -1);
  LC_TRY(check(ctx, g->map.path, c));
  LC_TRY(lc_rope_from_gguf(ctx, g, "llama", c));
  c->json = to_json(ctx, c);
  return c->json ? LC_OK : lc_fail(ctx, "out of memory");
}

static lc_status write_gguf(lc_ctx *ctx, const lc_config *c, lc_gguf_writer *w) {
  LC_TRY(lc_gguf_put_u32(w, "llama.block_count", (uint32_t)c->L));
  LC_TRY(lc_gguf_put_u32(w, "llama.context_length", (uint32_t)c->context));
  LC_TRY(lc_gguf_put_u32(w, "llama.embedding_length", (uint32_t)c->C));
  LC_TRY(lc_gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)c->F));
  LC_TRY(lc_gguf_put_u32(w, "llama.attention.head_count", (uint32_t)c->H));
  LC_TRY(lc_gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)c->G));
  LC_TRY(lc_gguf_put_u32(w, "llama.attention.key_length", (uint32_t)c->D));
  LC_TRY(lc_gguf_put_u32(w, "llama.attention.value_length", (uint32_t)c->D));
  LC_TRY(lc_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", c->norm_eps));
  LC_TRY(lc_gguf_put_u32(w, "llama.vocab_size", (uint32_t)c->V));
  return lc_rope_to_gguf(ctx, &c->rope, "llama", w);
}

/* ---- tensors ---- */

static void matrix(lc_decls *d, int l, lc_weight_kind kind, int64_t M, int64_t N, int64_t permuted,
                   const char *fmt, const char *gguf) {
  lc_declare(
      d, (lc_tensor_decl){.layer = l, .kind = kind, .M = M, .N = N, .ndim = 2, .permuted_heads = permuted},
      fmt, gguf);
}

static void vector(lc_decls *d, int l, lc_weight_kind kind, int64_t N, int64_t permuted, const char *fmt,
                   const char *gguf) {
  lc_declare(
      d, (lc_tensor_decl){.layer = l, .kind = kind, .M = 1, .N = N, .ndim = 1, .permuted_heads = permuted},
      fmt, gguf);
}

static void tensors(const lc_config *c, lc_decls *d) {
  int64_t Q = c->H * c->D, K = c->G * c->D;
  matrix(d, -1, LC_KIND_EMBEDDING, c->V, c->C, 0, "model.embed_tokens.weight", "token_embd.weight");
  for (int l = 0; l < c->L && !d->st; l++) {
#define P "model.layers.%d."
    vector(d, l, LC_KIND_NORM, c->C, 0, P "input_layernorm.weight", "blk.%d.attn_norm.weight");
    matrix(d, l, LC_KIND_LINEAR, Q, c->C, c->H, P "self_attn.q_proj.weight", "blk.%d.attn_q.weight");
    matrix(d, l, LC_KIND_LINEAR, K, c->C, c->G, P "self_attn.k_proj.weight", "blk.%d.attn_k.weight");
    matrix(d, l, LC_KIND_LINEAR, K, c->C, 0, P "self_attn.v_proj.weight", "blk.%d.attn_v.weight");
    matrix(d, l, LC_KIND_LINEAR, c->C, Q, 0, P "self_attn.o_proj.weight", "blk.%d.attn_output.weight");
    if (c->attention_bias) {
      vector(d, l, LC_KIND_BIAS, Q, c->H, P "self_attn.q_proj.bias", "blk.%d.attn_q.bias");
      vector(d, l, LC_KIND_BIAS, K, c->G, P "self_attn.k_proj.bias", "blk.%d.attn_k.bias");
      vector(d, l, LC_KIND_BIAS, K, 0, P "self_attn.v_proj.bias", "blk.%d.attn_v.bias");
      vector(d, l, LC_KIND_BIAS, c->C, 0, P "self_attn.o_proj.bias", "blk.%d.attn_output.bias");
    }
    vector(d, l, LC_KIND_NORM, c->C, 0, P "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight");
    matrix(d, l, LC_KIND_LINEAR, c->F, c->C, 0, P "mlp.gate_proj.weight", "blk.%d.ffn_gate.weight");
    matrix(d, l, LC_KIND_LINEAR, c->F, c->C, 0, P "mlp.up_proj.weight", "blk.%d.ffn_up.weight");
    matrix(d, l, LC_KIND_LINEAR, c->C, c->F, 0, P "mlp.down_proj.weight", "blk.%d.ffn_down.weight");
    if (c->mlp_bias) {
      vector(d, l, LC_KIND_BIAS, c->F, 0, P "mlp.gate_proj.bias", "blk.%d.ffn_gate.bias");
      vector(d, l, LC_KIND_BIAS, c->F, 0, P "mlp.up_proj.bias", "blk.%d.ffn_up.bias");
      vector(d, l, LC_KIND_BIAS, c->C, 0, P "mlp.down_proj.bias", "blk.%d.ffn_down.bias");
    }
  }
  vector(d, -1, LC_KIND_NORM, c->C, 0, "model.norm.weight", "output_norm.weight");
  if (lc_task_has_labels(c->task))
    lc_declare_head(d, c->labels, c->C, "score", c->task == LC_TASK_TOKENS);
  else if (!c->tied)
    matrix(d, -1, LC_KIND_HEAD, c->V, c->C, 0, "lm_head.weight", "output.weight");
}

static const char *head_bias(const lc_config *c) {
  return c->task == LC_TASK_TOKENS ? "score.bias" : NULL;
}

static const char *head(const lc_config *c) {
  if (lc_task_has_labels(c->task)) return "score.weight";
  return c->tied ? "model.embed_tokens.weight" : "lm_head.weight";
}

/* ---- forward pass ---- */

static lc_val attention(lc_builder *b, const lc_config *c, int l, lc_val x, lc_val table) {
  lc_val n = lc_tap(b, LC_TAP_ATTN_IN, l, lc_rmsnorm(b, x, c->norm_eps, P "input_layernorm", l));
  lc_val q = lc_tap(b, LC_TAP_Q, l, lc_linear(b, n, (lc_val){0}, P "self_attn.q_proj", l));
  lc_val k = lc_tap(b, LC_TAP_K, l, lc_linear(b, n, (lc_val){0}, P "self_attn.k_proj", l));
  lc_val v = lc_linear(b, n, (lc_val){0}, P "self_attn.v_proj", l);
  q = lc_rotate(b, q, table, c->H, c->D);
  k = lc_rotate(b, k, table, c->G, c->D);
  float scale = c->attention_scale ? c->attention_scale : 1.0f / sqrtf((float)c->D);
  lc_attention_opts o = {
      .heads = c->H, .kv_heads = c->G, .head_dim = c->D, .window = c->window, .scale = scale, .layer = l};
  lc_val y = lc_tap(b, LC_TAP_HEAD_OUT, l, lc_attention(b, q, k, v, &o));
  return lc_tap(b, LC_TAP_MID_RESIDUAL, l, lc_project(b, y, x, LC_TAP_ATTN_OUT, P "self_attn.o_proj", l));
}

static lc_val mlp(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_MLP_IN, l, lc_rmsnorm(b, x, c->norm_eps, P "post_attention_layernorm", l));
  lc_val gate = lc_linear(b, n, (lc_val){0}, P "mlp.gate_proj", l);
  lc_val up = lc_linear(b, n, (lc_val){0}, P "mlp.up_proj", l);
  lc_val h = lc_tap(b, LC_TAP_MLP_HIDDEN, l, lc_silu_mul(b, gate, up));
  return lc_tap(b, LC_TAP_BLOCK_OUT, l, lc_project(b, h, x, LC_TAP_MLP_OUT, P "mlp.down_proj", l));
}

static lc_val build(lc_builder *b, const lc_config *c) {
  lc_val table = lc_rope_table(b, b->pos, &c->rope);
  lc_val x = lc_tap(b, LC_TAP_EMBED_OUT, -1, lc_embedding(b, b->ids, "model.embed_tokens"));
  for (int l = 0; l < c->L; l++) {
    lc_block(b, l);
    x = mlp(b, c, l, attention(b, c, l, x, table));
  }
  lc_block(b, -1);
  return lc_tap(b, LC_TAP_FINAL_NORM_OUT, -1, lc_rmsnorm(b, x, c->norm_eps, "model.norm", -1));
}

/* ---- structures ---- */

static void rows_of(lc_structure_list *s, lc_role role, bool bias, const char *weight, const char *bias_name,
                    int l, int64_t unit) {
  lc_structure_side(s, weight, l, 0, 0, unit);
  lc_structure_role(s, role);
  if (bias) lc_structure_side(s, bias_name, l, 0, 0, unit);
}

static void rows(lc_structure_list *s, bool bias, const char *weight, const char *bias_name, int l,
                 int64_t unit) {
  rows_of(s, LC_ROLE_NONE, bias, weight, bias_name, l, unit);
}

static void residual(lc_structure_list *s, const lc_config *c) {
  lc_structure_begin(s, LC_S_RESIDUAL, -1, c->C);
  lc_structure_side(s, "model.embed_tokens.weight", -1, 1, 0, 1);
  lc_structure_side(s, "model.norm.weight", -1, 0, 0, 1);
  if (lc_task_has_labels(c->task))
    lc_structure_side(s, "score.weight", -1, 1, 0, 1);
  else if (!c->tied)
    lc_structure_side(s, "lm_head.weight", -1, 1, 0, 1);
  for (int l = 0; l < c->L; l++) {
    static const char *const readers[] = {P "self_attn.q_proj.weight", P "self_attn.k_proj.weight",
                                          P "self_attn.v_proj.weight", P "mlp.gate_proj.weight",
                                          P "mlp.up_proj.weight"};
    for (int i = 0; i < 5; i++) lc_structure_side(s, readers[i], l, 1, 0, 1);
    lc_structure_side(s, P "input_layernorm.weight", l, 0, 0, 1);
    lc_structure_side(s, P "post_attention_layernorm.weight", l, 0, 0, 1);
    rows(s, c->attention_bias, P "self_attn.o_proj.weight", P "self_attn.o_proj.bias", l, 1);
    rows(s, c->mlp_bias, P "mlp.down_proj.weight", P "mlp.down_proj.bias", l, 1);
  }
}

static lc_status structures(lc_ctx *ctx, const lc_config *c, lc_structure **out, int *n) {
  lc_structure_list s = {.ctx = ctx};
  int64_t group = c->H / c->G;
  residual(&s, c);
  for (int l = 0; l < c->L; l++) {
    lc_structure_begin(&s, LC_S_HEAD, l, c->H);
    rows_of(&s, LC_ROLE_Q, c->attention_bias, P "self_attn.q_proj.weight", P "self_attn.q_proj.bias", l,
            c->D);
    lc_structure_side(&s, P "self_attn.o_proj.weight", l, 1, 0, c->D);
    lc_structure_role(&s, LC_ROLE_O);
    lc_structure_begin(&s, LC_S_KV_HEAD, l, c->G); /* with the query heads that it serves */
    rows(&s, c->attention_bias, P "self_attn.k_proj.weight", P "self_attn.k_proj.bias", l, c->D);
    rows_of(&s, LC_ROLE_V, c->attention_bias, P "self_attn.v_proj.weight", P "self_attn.v_proj.bias", l,
            c->D);
    rows(&s, c->attention_bias, P "self_attn.q_proj.weight", P "self_attn.q_proj.bias", l, group * c->D);
    lc_structure_side(&s, P "self_attn.o_proj.weight", l, 1, 0, group * c->D);
    lc_structure_begin(&s, LC_S_CHANNEL, l, c->F);
    rows(&s, c->mlp_bias, P "mlp.gate_proj.weight", P "mlp.gate_proj.bias", l, 1);
    rows_of(&s, LC_ROLE_UP, c->mlp_bias, P "mlp.up_proj.weight", P "mlp.up_proj.bias", l, 1);
    lc_structure_side(&s, P "mlp.down_proj.weight", l, 1, 0, 1);
    lc_structure_role(&s, LC_ROLE_DOWN);
  }
#undef P
  lc_structure_begin(&s, LC_S_VOCAB, -1, c->V);
  lc_structure_side(&s, "model.embed_tokens.weight", -1, 0, 0, 1);
  if (!c->tied && c->task == LC_TASK_LM) lc_structure_side(&s, "lm_head.weight", -1, 0, 0, 1);
  return lc_structure_end(&s, out, n);
}

const lc_family lc_family_llama = {
    .architectures = {{"LlamaForCausalLM", LC_TASK_LM},
                      {"LlamaForSequenceClassification", LC_TASK_CLASSIFY},
                      {"LlamaForTokenClassification", LC_TASK_TOKENS}},
    .model_type = "llama",
    .gguf = "llama",
    .prefix = "model.",
    .config_hf = config_hf,
    .config_gguf = config_gguf,
    .write_gguf = write_gguf,
    .tensors = tensors,
    .build = build,
    .head = head,
    .head_bias = head_bias,
    .structures = structures,
};
