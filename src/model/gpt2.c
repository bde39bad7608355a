/* GPT-2. Radford et al. 2019, as transformers' GPT2LMHeadModel computes it:
 *
 *   x = E[ids] + P[positions]
 *   each block:  x += O·attention(q, k, v) + b,  [q|k|v] = A·n + b,  n = layernorm(x)
 *                x += D·gelu(U·m + b) + b,                           m = layernorm(x)
 *   hidden = layernorm(x); logits = E·hidden (tied, unless the configuration says otherwise)
 *   classification: logits = S·hidden of the last token
 *
 * Its linear layers are "Conv1D": files hold them in×out, here they are out×in as everywhere (a GGUF already
 * has them so). One linear makes q, k and v; columns are taken apart after it. Dropout (three rates of 0.1 in
 * the published configurations) stays off, as in evaluation. reorder_and_upcast_attn changes rounding in
 * mixed precision only, and passes. */
#include "model/config.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

/* ---- configuration ---- */

static const lc_refusal refused[] = {{"add_cross_attention", NAN, NULL},
                                     {"quantization_config", NAN, NULL},
                                     {"is_encoder_decoder", NAN, NULL},
                                     {"pruned_heads", NAN, NULL}};

static lc_status check(lc_ctx *ctx, const char *path, lc_config *c) {
  if (c->C % c->H)
    return lc_fail(ctx, "%s: width %lld is no multiple of %lld heads", path, (long long)c->C,
                   (long long)c->H);
  c->G = c->H;
  c->D = c->C / c->H;
  return LC_OK;
}

static lc_status config_hf(lc_ctx *ctx, const char *path, const struct json_t *j, lc_config *c) {
  lc_reader r = {.ctx = ctx, .path = path, .where = "", .j = j};
  lc_read_refuse(&r, refused, sizeof refused / sizeof *refused);
  c->V = lc_read_int(&r, "vocab_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->C = lc_read_int(&r, "n_embd", LC_REQUIRED, 1, LC_MAX_COUNT / 4);
  c->L = lc_read_int(&r, "n_layer", LC_REQUIRED, 1, LC_MAX_LAYERS);
  c->H = lc_read_int(&r, "n_head", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->F = lc_read_int(&r, "n_inner", 4 * c->C, 1, LC_MAX_COUNT);
  c->context = lc_read_int(&r, "n_positions", 1024, 1, LC_MAX_COUNT);
  c->norm_eps = (float)lc_read_num(&r, "layer_norm_epsilon", 1e-5, 0, 1);
  c->tied = lc_read_bool(&r, "tie_word_embeddings", true);
  c->attention_scale = lc_read_bool(&r, "scale_attn_weights", true) ? 0 : 1;
  c->scale_by_layer = lc_read_bool(&r, "scale_attn_by_inverse_layer_idx", false);
  c->attention_bias = c->mlp_bias = true;
  c->activation = lc_read_activation(&r, "activation_function", "gelu_new");
  c->bos = lc_read_token(&r, "bos_token_id");
  c->eos = lc_read_token(&r, "eos_token_id");
  c->pad = lc_read_token(&r, "pad_token_id");
  lc_read_dropout(&r, (const char *[]){"resid_pdrop", "embd_pdrop", "attn_pdrop"}, 3);
  LC_TRY(r.st);
  return check(ctx, path, c);
}

static lc_status positive(lc_ctx *ctx, const lc_gguf *g, const char *name, int64_t max, int64_t *out) {
  lc_key key = lc_arch_key("gpt2", name);
  LC_TRY(lc_gguf_i64(ctx, g, key.text, out));
  if (*out < 1 || *out > max)
    return lc_fail(ctx, "%s: '%s' is %lld: 1 to %lld is possible", g->map.path, key.text, (long long)*out,
                   (long long)max);
  return LC_OK;
}

static struct json_t *to_json(const lc_config *c) {
  json_t *j = json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:s}", "architectures", "GPT2LMHeadModel",
                        "model_type", "gpt2", "vocab_size", (json_int_t)c->V, "n_embd", (json_int_t)c->C,
                        "n_layer", (json_int_t)c->L, "n_head", (json_int_t)c->H, "n_inner", (json_int_t)c->F,
                        "n_positions", (json_int_t)c->context, "layer_norm_epsilon", (double)c->norm_eps,
                        "tie_word_embeddings", c->tied, "activation_function", "gelu_new");
  if (!j) return NULL;
  if (c->bos >= 0) json_object_set_new(j, "bos_token_id", json_integer(c->bos));
  if (c->eos >= 0) json_object_set_new(j, "eos_token_id", json_integer(c->eos));
  if (c->pad >= 0) json_object_set_new(j, "pad_token_id", json_integer(c->pad));
  return j;
}

static lc_status config_gguf(lc_ctx *ctx, const lc_gguf *g, lc_config *c) {
  LC_TRY(positive(ctx, g, "embedding_length", LC_MAX_COUNT / 4, &c->C));
  LC_TRY(positive(ctx, g, "feed_forward_length", LC_MAX_COUNT, &c->F));
  LC_TRY(positive(ctx, g, "block_count", LC_MAX_LAYERS, &c->L));
  LC_TRY(positive(ctx, g, "attention.head_count", LC_MAX_COUNT, &c->H));
  LC_TRY(positive(ctx, g, "context_length", LC_MAX_COUNT, &c->context));
  c->norm_eps = (float)lc_gguf_f64_or(g, "gpt2.attention.layer_norm_epsilon", -1);
  if (!(c->norm_eps >= 0))
    return lc_fail(ctx, "%s: 'gpt2.attention.layer_norm_epsilon' is missing", g->map.path);
  if (lc_gguf_i64_or(g, "gpt2.attention.head_count_kv", c->H) != c->H)
    return lc_fail(ctx, "%s: 'gpt2.attention.head_count_kv' differs from the heads: not supported",
                   g->map.path);
  const lc_tensor *embed = lc_gguf_find(g, "token_embd.weight");
  if (!embed) return lc_fail(ctx, "%s: tensor 'token_embd.weight' is missing", g->map.path);
  c->V = embed->shape[0];
  c->tied = !lc_gguf_find(g, "output.weight");
  c->attention_bias = c->mlp_bias = true;
  c->activation = LC_GELU_TANH;
  c->bos = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.bos_token_id", -1);
  c->eos = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.eos_token_id", -1);
  c->pad = (int32_t)lc_gguf_i64_or(g, "tokenizer.ggml.padding_token_id", -1);
  LC_TRY(check(ctx, g->map.path, c));
  c->json = to_json(c);
  return c->json ? LC_OK : lc_fail(ctx, "out of memory");
}

static lc_status write_gguf(lc_ctx *ctx, const lc_config *c, lc_gguf_writer *w) {
  if (c->scale_by_layer || c->attention_scale || c->activation != LC_GELU_TANH)
    return lc_fail(ctx, "GGUF has no GPT-2 with %s",
                   c->scale_by_layer    ? "scale_attn_by_inverse_layer_idx"
                   : c->attention_scale ? "scale_attn_weights = false"
                                        : "another activation than gelu_new");
  LC_TRY(lc_gguf_put_u32(w, "gpt2.block_count", (uint32_t)c->L));
  LC_TRY(lc_gguf_put_u32(w, "gpt2.context_length", (uint32_t)c->context));
  LC_TRY(lc_gguf_put_u32(w, "gpt2.embedding_length", (uint32_t)c->C));
  LC_TRY(lc_gguf_put_u32(w, "gpt2.feed_forward_length", (uint32_t)c->F));
  LC_TRY(lc_gguf_put_u32(w, "gpt2.attention.head_count", (uint32_t)c->H));
  return lc_gguf_put_f32(w, "gpt2.attention.layer_norm_epsilon", c->norm_eps);
}

/* ---- tensors ---- */

static void matrix(lc_decls *d, int l, lc_weight_kind kind, int64_t M, int64_t N, const char *fmt,
                   const char *gguf) {
  lc_declare(d,
             (lc_tensor_decl){
                 .layer = l, .kind = kind, .M = M, .N = N, .ndim = 2, .transposed = kind == LC_KIND_LINEAR},
             fmt, gguf);
}

static void vector(lc_decls *d, int l, lc_weight_kind kind, int64_t N, const char *fmt, const char *gguf) {
  lc_declare(d, (lc_tensor_decl){.layer = l, .kind = kind, .M = 1, .N = N, .ndim = 1}, fmt, gguf);
}

static void tensors(const lc_config *c, lc_decls *d) {
  matrix(d, -1, LC_KIND_EMBEDDING, c->V, c->C, "transformer.wte.weight", "token_embd.weight");
  matrix(d, -1, LC_KIND_POSITION, c->context, c->C, "transformer.wpe.weight", "position_embd.weight");
  for (int l = 0; l < c->L && !d->st; l++) {
#define P "transformer.h.%d."
    vector(d, l, LC_KIND_NORM, c->C, P "ln_1.weight", "blk.%d.attn_norm.weight");
    vector(d, l, LC_KIND_BIAS, c->C, P "ln_1.bias", "blk.%d.attn_norm.bias");
    matrix(d, l, LC_KIND_LINEAR, 3 * c->C, c->C, P "attn.c_attn.weight", "blk.%d.attn_qkv.weight");
    vector(d, l, LC_KIND_BIAS, 3 * c->C, P "attn.c_attn.bias", "blk.%d.attn_qkv.bias");
    matrix(d, l, LC_KIND_LINEAR, c->C, c->C, P "attn.c_proj.weight", "blk.%d.attn_output.weight");
    vector(d, l, LC_KIND_BIAS, c->C, P "attn.c_proj.bias", "blk.%d.attn_output.bias");
    vector(d, l, LC_KIND_NORM, c->C, P "ln_2.weight", "blk.%d.ffn_norm.weight");
    vector(d, l, LC_KIND_BIAS, c->C, P "ln_2.bias", "blk.%d.ffn_norm.bias");
    matrix(d, l, LC_KIND_LINEAR, c->F, c->C, P "mlp.c_fc.weight", "blk.%d.ffn_up.weight");
    vector(d, l, LC_KIND_BIAS, c->F, P "mlp.c_fc.bias", "blk.%d.ffn_up.bias");
    matrix(d, l, LC_KIND_LINEAR, c->C, c->F, P "mlp.c_proj.weight", "blk.%d.ffn_down.weight");
    vector(d, l, LC_KIND_BIAS, c->C, P "mlp.c_proj.bias", "blk.%d.ffn_down.bias");
  }
  vector(d, -1, LC_KIND_NORM, c->C, "transformer.ln_f.weight", "output_norm.weight");
  vector(d, -1, LC_KIND_BIAS, c->C, "transformer.ln_f.bias", "output_norm.bias");
  if (lc_task_has_labels(c->task))
    lc_declare_head(d, c->labels, c->C, "score", false);
  else if (!c->tied)
    matrix(d, -1, LC_KIND_HEAD, c->V, c->C, "lm_head.weight", "output.weight");
}

static const char *head(const lc_config *c) {
  if (lc_task_has_labels(c->task)) return "score.weight";
  return c->tied ? "transformer.wte.weight" : "lm_head.weight";
}

/* ---- forward pass ---- */

static lc_val attention(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_ATTN_IN, l, lc_layernorm(b, x, c->norm_eps, P "ln_1", l));
  lc_val qkv = lc_linear(b, n, (lc_val){0}, P "attn.c_attn", l);
  lc_val q = lc_tap(b, LC_TAP_Q, l, lc_columns(b, qkv, 0, c->C));
  lc_val k = lc_tap(b, LC_TAP_K, l, lc_columns(b, qkv, c->C, 2 * c->C));
  lc_val v = lc_columns(b, qkv, 2 * c->C, 3 * c->C);
  float scale = c->attention_scale ? c->attention_scale : 1.0f / sqrtf((float)c->D);
  if (c->scale_by_layer) scale /= (float)(l + 1);
  lc_attention_opts o = {.heads = c->H, .kv_heads = c->H, .head_dim = c->D, .scale = scale, .layer = l};
  lc_val y = lc_tap(b, LC_TAP_HEAD_OUT, l, lc_attention(b, q, k, v, &o));
  return lc_tap(b, LC_TAP_MID_RESIDUAL, l, lc_project(b, y, x, LC_TAP_ATTN_OUT, P "attn.c_proj", l));
}

static lc_val mlp(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_MLP_IN, l, lc_layernorm(b, x, c->norm_eps, P "ln_2", l));
  lc_val h = lc_activation(b, lc_linear(b, n, (lc_val){0}, P "mlp.c_fc", l), c->activation);
  h = lc_tap(b, LC_TAP_MLP_HIDDEN, l, h);
  return lc_tap(b, LC_TAP_BLOCK_OUT, l, lc_project(b, h, x, LC_TAP_MLP_OUT, P "mlp.c_proj", l));
}

static lc_val build(lc_builder *b, const lc_config *c) {
  lc_val x =
      lc_sum(b, lc_embedding(b, b->ids, "transformer.wte"), lc_embedding(b, b->pos, "transformer.wpe"));
  x = lc_tap(b, LC_TAP_EMBED_OUT, -1, x);
  for (int l = 0; l < c->L; l++) {
    lc_block(b, l);
    x = mlp(b, c, l, attention(b, c, l, x));
  }
  lc_block(b, -1);
  return lc_tap(b, LC_TAP_FINAL_NORM_OUT, -1, lc_layernorm(b, x, c->norm_eps, "transformer.ln_f", -1));
}

/* ---- structures ---- */

static void pair(lc_structure_list *s, const char *weight, const char *bias, int l, int64_t first,
                 int64_t unit) {
  lc_structure_side(s, weight, l, 0, first, unit);
  lc_structure_side(s, bias, l, 0, first, unit);
}

static void residual(lc_structure_list *s, const lc_config *c) {
  lc_structure_begin(s, LC_S_RESIDUAL, -1, c->C);
  lc_structure_side(s, "transformer.wte.weight", -1, 1, 0, 1);
  lc_structure_side(s, "transformer.wpe.weight", -1, 1, 0, 1);
  if (lc_task_has_labels(c->task))
    lc_structure_side(s, "score.weight", -1, 1, 0, 1);
  else if (!c->tied)
    lc_structure_side(s, "lm_head.weight", -1, 1, 0, 1);
  pair(s, "transformer.ln_f.weight", "transformer.ln_f.bias", -1, 0, 1);
  for (int l = 0; l < c->L; l++) {
    lc_structure_side(s, P "attn.c_attn.weight", l, 1, 0, 1);
    lc_structure_side(s, P "mlp.c_fc.weight", l, 1, 0, 1);
    pair(s, P "ln_1.weight", P "ln_1.bias", l, 0, 1);
    pair(s, P "ln_2.weight", P "ln_2.bias", l, 0, 1);
    pair(s, P "attn.c_proj.weight", P "attn.c_proj.bias", l, 0, 1);
    pair(s, P "mlp.c_proj.weight", P "mlp.c_proj.bias", l, 0, 1);
  }
}

static lc_status structures(lc_ctx *ctx, const lc_config *c, lc_structure **out, int *n) {
  lc_structure_list s = {.ctx = ctx};
  residual(&s, c);
  for (int l = 0; l < c->L; l++) {
    lc_structure_begin(&s, LC_S_HEAD, l, c->H);
    lc_structure_side(&s, P "attn.c_attn.weight", l, 0, 0, c->D);
    lc_structure_role(&s, LC_ROLE_Q);
    lc_structure_side(&s, P "attn.c_attn.bias", l, 0, 0, c->D);
    lc_structure_side(&s, P "attn.c_proj.weight", l, 1, 0, c->D);
    lc_structure_role(&s, LC_ROLE_O);
    lc_structure_begin(&s, LC_S_KV_HEAD, l, c->H);
    for (int part = 0; part < 2; part++)
      pair(&s, P "attn.c_attn.weight", P "attn.c_attn.bias", l, part * c->C, c->D);
    lc_structure_side(&s, P "attn.c_attn.weight", l, 0, 2 * c->C, c->D);
    lc_structure_role(&s, LC_ROLE_V);
    lc_structure_side(&s, P "attn.c_attn.bias", l, 0, 2 * c->C, c->D);
    lc_structure_side(&s, P "attn.c_proj.weight", l, 1, 0, c->D);
    lc_structure_begin(&s, LC_S_CHANNEL, l, c->F);
    lc_structure_side(&s, P "mlp.c_fc.weight", l, 0, 0, 1);
    lc_structure_role(&s, LC_ROLE_UP);
    lc_structure_side(&s, P "mlp.c_fc.bias", l, 0, 0, 1);
    lc_structure_side(&s, P "mlp.c_proj.weight", l, 1, 0, 1);
    lc_structure_role(&s, LC_ROLE_DOWN);
  }
#undef P
  lc_structure_begin(&s, LC_S_VOCAB, -1, c->V);
  lc_structure_side(&s, "transformer.wte.weight", -1, 0, 0, 1);
  if (!c->tied && c->task == LC_TASK_LM) lc_structure_side(&s, "lm_head.weight", -1, 0, 0, 1);
  return lc_structure_end(&s, out, n);
}

const lc_family lc_family_gpt2 = {
    .architectures = {{"GPT2LMHeadModel", LC_TASK_LM}, {"GPT2ForSequenceClassification", LC_TASK_CLASSIFY}},
    .model_type = "gpt2",
    .gguf = "gpt2",
    .prefix = "transformer.",
    .config_hf = config_hf,
    .config_gguf = config_gguf,
    .write_gguf = write_gguf,
    .tensors = tensors,
    .build = build,
    .head = head,
    .structures = structures,
};
