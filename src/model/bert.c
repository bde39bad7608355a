/* BERT and RoBERTa. Devlin et al. 2019 (arXiv 1810.04805), Liu et al. 2019 (arXiv 1907.11692), as transformers'
 * BertModel and RobertaModel compute them, and the heads that stand on them:
 *
 *   x = layernorm(E[ids] + P[first + positions] + S[types])
 *   each block:  x = layernorm(x + O·attention(Q·x, K·x, V·x)),  every token sees every other of its sequence
 *                x = layernorm(x + D·f(U·x))                     every product has a bias; f: gelu or relu
 *   classification        logits = C·tanh(W·x_0 + b) + c          W: BERT's pooler, or RoBERTa's classifier.dense
 *   token classification  logits_t = C·x_t + c
 *   hidden tokens         logits_t = E·layernorm(f(W·x_t + b)) + c
 *
 * The residual stream is the norms' output and stays f32; linear layers take it rounded. RoBERTa counts positions
 * from pad + 1 on. Sequences are never padded here, so there is no mask. Dropout is off, as in evaluation. Both
 * families have one file since they differ in names only. */
#include "model/config.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

/* ---- configuration ---- */

static const lc_refusal refused[] = {{"is_decoder", NAN, NULL},
                                     {"add_cross_attention", NAN, NULL},
                                     {"quantization_config", NAN, NULL},
                                     {"is_encoder_decoder", NAN, NULL},
                                     {"pruned_heads", NAN, NULL},
                                     {"position_embedding_type", NAN, "absolute"},
                                     {"chunk_size_feed_forward", 0, NULL},
                                     {"embedding_size", NAN, NULL}};

static bool is_roberta(const lc_config *c) {
  return c->family == &lc_family_roberta;
}

static lc_status config_hf(lc_ctx *ctx, const char *path, const struct json_t *j, lc_config *c) {
  lc_reader r = {.ctx = ctx, .path = path, .where = "", .j = j};
  lc_read_refuse(&r, refused, sizeof refused / sizeof *refused);
  c->V = lc_read_int(&r, "vocab_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->C = lc_read_int(&r, "hidden_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->L = lc_read_int(&r, "num_hidden_layers", LC_REQUIRED, 1, LC_MAX_LAYERS);
  c->H = lc_read_int(&r, "num_attention_heads", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->F = lc_read_int(&r, "intermediate_size", LC_REQUIRED, 1, LC_MAX_COUNT);
  c->types = lc_read_int(&r, "type_vocab_size", 2, 1, LC_MAX_COUNT);
  c->norm_eps = (float)lc_read_num(&r, "layer_norm_eps", 1e-12, 0, 1);
  c->tied = lc_read_bool(&r, "tie_word_embeddings", true);
  c->attention_bias = c->mlp_bias = true;
  c->activation = lc_read_activation(&r, "hidden_act", "gelu");
  c->bos = lc_read_token(&r, "bos_token_id");
  c->eos = lc_read_token(&r, "eos_token_id");
  c->pad = lc_read_token(&r, "pad_token_id");
  if (is_roberta(c)) c->first_position = (c->pad >= 0 ? c->pad : 1) + 1;
  c->context = lc_read_int(&r, "max_position_embeddings", 512, c->first_position + 1, LC_MAX_COUNT) -
               c->first_position;
  lc_read_dropout(
      &r, (const char *[]){"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"}, 3);
  LC_TRY(r.st);
  if (c->C % c->H)
    return lc_fail(ctx, "%s: width %lld is no multiple of %lld heads", path, (long long)c->C,
                   (long long)c->H);
  c->G = c->H;
  c->D = c->C / c->H;
  return LC_OK;
}

/* ---- names: "bert." or "roberta." and the rest; by value, valid to the end of the call it is used in ---- */

typedef struct {
  char s[96];
} path;
static path at(const lc_config *c, const char *rest) {
  path p;
  snprintf(p.s, sizeof p.s, "%s%s", c->family->prefix, rest);
  return p;
}
#define LAYER "encoder.layer.%d."

/* ---- tensors ---- */

static void matrix(lc_decls *d, int l, lc_weight_kind kind, int64_t M, int64_t N, const char *name) {
  lc_declare(d, (lc_tensor_decl){.layer = l, .kind = kind, .M = M, .N = N, .ndim = 2}, name, "");
}

static void vector(lc_decls *d, int l, lc_weight_kind kind, int64_t N, const char *name) {
  lc_declare(d, (lc_tensor_decl){.layer = l, .kind = kind, .M = 1, .N = N, .ndim = 1}, name, "");
}

/* A linear layer or norm: weight and bias of one module. */
static void linear(lc_decls *d, const lc_config *c, int l, int64_t M, int64_t N, const char *module) {
  char name[128];
  snprintf(name, sizeof name, "%s.weight", at(c, module).s);
  matrix(d, l, LC_KIND_LINEAR, M, N, name);
  snprintf(name, sizeof name, "%s.bias", at(c, module).s);
  vector(d, l, LC_KIND_BIAS, M, name);
}

static void norm(lc_decls *d, const lc_config *c, int l, const char *module) {
  char name[128];
  snprintf(name, sizeof name, "%s.weight", at(c, module).s);
  vector(d, l, LC_KIND_NORM, c->C, name);
  snprintf(name, sizeof name, "%s.bias", at(c, module).s);
  vector(d, l, LC_KIND_BIAS, c->C, name);
}

static void pooler(const lc_config *c, lc_decls *d) {
  const lc_tensor_decl w = {.layer = -1,
                            .kind = LC_KIND_LINEAR,
                            .M = c->C,
                            .N = c->C,
                            .ndim = 2,
                            .optional = c->task == LC_TASK_NONE,
                            .may_be_new = c->task != LC_TASK_NONE};
  lc_tensor_decl b = w;
  b.kind = LC_KIND_BIAS, b.M = 1, b.ndim = 1;
  lc_declare(d, w, at(c, "pooler.dense.weight").s, "");
  lc_declare(d, b, at(c, "pooler.dense.bias").s, "");
}

/* Untied, the decoder is a module with a bias of its own. */
static const char *masked_bias(const lc_config *c) {
  if (is_roberta(c)) return c->tied ? "lm_head.bias" : "lm_head.decoder.bias";
  return c->tied ? "cls.predictions.bias" : "cls.predictions.decoder.bias";
}

static void masked_head(const lc_config *c, lc_decls *d) {
  const bool r = is_roberta(c);
  matrix(d, -1, LC_KIND_LINEAR, c->C, c->C,
         r ? "lm_head.dense.weight" : "cls.predictions.transform.dense.weight");
  vector(d, -1, LC_KIND_BIAS, c->C, r ? "lm_head.dense.bias" : "cls.predictions.transform.dense.bias");
  vector(d, -1, LC_KIND_NORM, c->C,
         r ? "lm_head.layer_norm.weight" : "cls.predictions.transform.LayerNorm.weight");
  vector(d, -1, LC_KIND_BIAS, c->C,
         r ? "lm_head.layer_norm.bias" : "cls.predictions.transform.LayerNorm.bias");
  if (!c->tied)
    matrix(d, -1, LC_KIND_HEAD, c->V, c->C, r ? "lm_head.decoder.weight" : "cls.predictions.decoder.weight");
  vector(d, -1, LC_KIND_BIAS, c->V, masked_bias(c));
}

static void tensors(const lc_config *c, lc_decls *d) {
  matrix(d, -1, LC_KIND_EMBEDDING, c->V, c->C, at(c, "embeddings.word_embeddings.weight").s);
  matrix(d, -1, LC_KIND_POSITION, c->context + c->first_position, c->C,
         at(c, "embeddings.position_embeddings.weight").s);
  matrix(d, -1, LC_KIND_EMBEDDING, c->types, c->C, at(c, "embeddings.token_type_embeddings.weight").s);
  norm(d, c, -1, "embeddings.LayerNorm");
  for (int l = 0; l < c->L && !d->st; l++) {
    linear(d, c, l, c->C, c->C, LAYER "attention.self.query");
    linear(d, c, l, c->C, c->C, LAYER "attention.self.key");
    linear(d, c, l, c->C, c->C, LAYER "attention.self.value");
    linear(d, c, l, c->C, c->C, LAYER "attention.output.dense");
    norm(d, c, l, LAYER "attention.output.LayerNorm");
    linear(d, c, l, c->F, c->C, LAYER "intermediate.dense");
    linear(d, c, l, c->C, c->F, LAYER "output.dense");
    norm(d, c, l, LAYER "output.LayerNorm");
  }
  if (c->task == LC_TASK_NONE || (c->task == LC_TASK_CLASSIFY && !is_roberta(c))) pooler(c, d);
  if (c->task == LC_TASK_MASKED) masked_head(c, d);
  if (c->task == LC_TASK_CLASSIFY && is_roberta(c)) {
    lc_declare_head(d, c->C, c->C, "classifier.dense", true);
    lc_declare_head(d, c->labels, c->C, "classifier.out_proj", true);
  } else if (lc_task_has_labels(c->task)) {
    lc_declare_head(d, c->labels, c->C, "classifier", true);
  }
}

static const char *head(const lc_config *c) {
  const bool r = is_roberta(c);
  switch (c->task) {
  case LC_TASK_CLASSIFY:
    return r ? "classifier.out_proj.weight" : "classifier.weight";
  case LC_TASK_TOKENS:
    return "classifier.weight";
  case LC_TASK_MASKED:
    if (!c->tied) return r ? "lm_head.decoder.weight" : "cls.predictions.decoder.weight";
    return r ? "roberta.embeddings.word_embeddings.weight" : "bert.embeddings.word_embeddings.weight";
  default:
    return NULL;
  }
}

static const char *head_bias(const lc_config *c) {
  const bool r = is_roberta(c);
  switch (c->task) {
  case LC_TASK_CLASSIFY:
    return r ? "classifier.out_proj.bias" : "classifier.bias";
  case LC_TASK_TOKENS:
    return "classifier.bias";
  case LC_TASK_MASKED:
    return masked_bias(c);
  default:
    return NULL;
  }
}

/* ---- forward pass ---- */

static lc_val attention(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_ATTN_IN, l, lc_round(b, x)), none = {0};
  lc_val q = lc_tap(b, LC_TAP_Q, l, lc_linear(b, n, none, at(c, LAYER "attention.self.query").s, l));
  lc_val k = lc_tap(b, LC_TAP_K, l, lc_linear(b, n, none, at(c, LAYER "attention.self.key").s, l));
  lc_val v = lc_linear(b, n, none, at(c, LAYER "attention.self.value").s, l);
  lc_attention_opts o = {.heads = c->H,
                         .kv_heads = c->H,
                         .head_dim = c->D,
                         .scale = 1.0f / sqrtf((float)c->D),
                         .layer = l,
                         .bidirectional = true};
  lc_val y = lc_tap(b, LC_TAP_HEAD_OUT, l, lc_attention(b, q, k, v, &o));
  y = lc_project(b, y, x, LC_TAP_ATTN_OUT, at(c, LAYER "attention.output.dense").s, l);
  y = lc_layernorm_wide(b, y, c->norm_eps, at(c, LAYER "attention.output.LayerNorm").s, l);
  return lc_tap(b, LC_TAP_MID_RESIDUAL, l, y);
}

static lc_val mlp(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_MLP_IN, l, lc_round(b, x));
  lc_val h = lc_linear(b, n, (lc_val){0}, at(c, LAYER "intermediate.dense").s, l);
  h = lc_tap(b, LC_TAP_MLP_HIDDEN, l, lc_activation(b, h, c->activation));
  lc_val y = lc_project(b, h, x, LC_TAP_MLP_OUT, at(c, LAYER "output.dense").s, l);
  return lc_tap(b, LC_TAP_BLOCK_OUT, l,
                lc_layernorm_wide(b, y, c->norm_eps, at(c, LAYER "output.LayerNorm").s, l));
}

static lc_val build(lc_builder *b, const lc_config *c) {
  lc_val x = lc_embedding(b, b->ids, at(c, "embeddings.word_embeddings").s);
  x = lc_sum(b, x, lc_embedding(b, lc_types(b), at(c, "embeddings.token_type_embeddings").s));
  x = lc_sum(b, x,
             lc_embedding_from(b, b->pos, at(c, "embeddings.position_embeddings").s, c->first_position));
  x = lc_layernorm_wide(b, x, c->norm_eps, at(c, "embeddings.LayerNorm").s, -1);
  x = lc_tap(b, LC_TAP_EMBED_OUT, -1, x);
  for (int l = 0; l < c->L; l++) {
    lc_block(b, l);
    x = mlp(b, c, l, attention(b, c, l, x));
  }
  lc_block(b, -1);
  return lc_tap(b, LC_TAP_FINAL_NORM_OUT, -1, x);
}

static lc_val features(lc_builder *b, const lc_config *c, lc_val x) {
  const bool r = is_roberta(c);
  const lc_val none = {0};
  if (c->task == LC_TASK_CLASSIFY) {
    const char *dense = r ? "classifier.dense" : "bert.pooler.dense";
    return lc_activation(b, lc_linear(b, lc_round(b, x), none, dense, -1), LC_TANH);
  }
  if (c->task != LC_TASK_MASKED) return x;
  x = lc_linear(b, lc_round(b, x), none, r ? "lm_head.dense" : "cls.predictions.transform.dense", -1);
  x = lc_activation(b, x, r ? LC_GELU_ERF : c->activation);
  return lc_layernorm(b, x, c->norm_eps, r ? "lm_head.layer_norm" : "cls.predictions.transform.LayerNorm",
                      -1);
}

/* ---- structures ---- */

static void side(lc_structure_list *s, const lc_config *c, const char *weight, int l, int axis,
                 int64_t unit) {
  lc_structure_side(s, at(c, weight).s, l, axis, 0, unit);
}

/* Rows of a layer and the bias that goes with them. */
static void rows_of(lc_structure_list *s, const lc_config *c, lc_role role, const char *module, int l,
                    int64_t unit) {
  char name[96];
  snprintf(name, sizeof name, "%s.weight", module);
  side(s, c, name, l, 0, unit);
  lc_structure_role(s, role);
  snprintf(name, sizeof name, "%s.bias", module);
  side(s, c, name, l, 0, unit);
}

static void rows(lc_structure_list *s, const lc_config *c, const char *module, int l, int64_t unit) {
  rows_of(s, c, LC_ROLE_NONE, module, l, unit);
}

static void residual(lc_structure_list *s, const lc_config *c) {
  lc_structure_begin(s, LC_S_RESIDUAL, -1, c->C);
  side(s, c, "embeddings.word_embeddings.weight", -1, 1, 1);
  side(s, c, "embeddings.position_embeddings.weight", -1, 1, 1);
  side(s, c, "embeddings.token_type_embeddings.weight", -1, 1, 1);
  rows(s, c, "embeddings.LayerNorm", -1, 1);
  for (int l = 0; l < c->L; l++) {
    static const char *const readers[] = {
        LAYER "attention.self.query.weight", LAYER "attention.self.key.weight",
        LAYER "attention.self.value.weight", LAYER "intermediate.dense.weight"};
    static const char *const writers[] = {LAYER "attention.output.dense", LAYER "attention.output.LayerNorm",
                                          LAYER "output.dense", LAYER "output.LayerNorm"};
    for (int i = 0; i < 4; i++) side(s, c, readers[i], l, 1, 1);
    for (int i = 0; i < 4; i++) rows(s, c, writers[i], l, 1);
  }
  if (c->task == LC_TASK_CLASSIFY)
    lc_structure_side(s, is_roberta(c) ? "classifier.dense.weight" : "bert.pooler.dense.weight", -1, 1, 0, 1);
  if (c->task == LC_TASK_TOKENS) lc_structure_side(s, "classifier.weight", -1, 1, 0, 1);
  if (c->task == LC_TASK_MASKED)
    lc_structure_side(s, is_roberta(c) ? "lm_head.dense.weight" : "cls.predictions.transform.dense.weight",
                      -1, 1, 0, 1);
}

static lc_status structures(lc_ctx *ctx, const lc_config *c, lc_structure **out, int *n) {
  lc_structure_list s = {.ctx = ctx};
  /* tied, the transform's output meets the same columns as the stream: they cannot move apart */
  if (c->task != LC_TASK_MASKED && c->task != LC_TASK_NONE) residual(&s, c);
  for (int l = 0; l < c->L; l++) {
    for (int kind = LC_S_HEAD; kind <= LC_S_KV_HEAD; kind++) {
      lc_structure_begin(&s, (lc_structure_kind)kind, l, c->H);
      if (kind == LC_S_KV_HEAD) rows(&s, c, LAYER "attention.self.key", l, c->D);
      const bool own = kind == LC_S_HEAD;
      if (!own) rows_of(&s, c, LC_ROLE_V, LAYER "attention.self.value", l, c->D);
      rows_of(&s, c, own ? LC_ROLE_Q : LC_ROLE_NONE, LAYER "attention.self.query", l, c->D);
      side(&s, c, LAYER "attention.output.dense.weight", l, 1, c->D);
      if (own) lc_structure_role(&s, LC_ROLE_O);
    }
    lc_structure_begin(&s, LC_S_CHANNEL, l, c->F);
    rows_of(&s, c, LC_ROLE_UP, LAYER "intermediate.dense", l, 1);
    side(&s, c, LAYER "output.dense.weight", l, 1, 1);
    lc_structure_role(&s, LC_ROLE_DOWN);
  }
  if (c->task != LC_TASK_MASKED) {
    lc_structure_begin(&s, LC_S_VOCAB, -1, c->V);
    side(&s, c, "embeddings.word_embeddings.weight", -1, 0, 1);
  }
  return lc_structure_end(&s, out, n);
}

#define FAMILY(NAME, TYPE)                                                                                   \
  .architectures = {{NAME "Model", LC_TASK_NONE},                                                            \
                    {NAME "ForSequenceClassification", LC_TASK_CLASSIFY},                                    \
                    {NAME "ForTokenClassification", LC_TASK_TOKENS},                                         \
                    {NAME "ForMaskedLM", LC_TASK_MASKED}},                                                   \
  .model_type = TYPE, .prefix = TYPE ".", .bidirectional = true, .config_hf = config_hf, .tensors = tensors, \
  .build = build, .features = features, .head = head, .head_bias = head_bias, .structures = structures

const lc_family lc_family_bert = {FAMILY("Bert", "bert")};
const lc_family lc_family_roberta = {FAMILY("Roberta", "roberta")};
