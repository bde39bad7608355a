/* ViT. Dosovitskiy et al. 2021 (arXiv 2010.11929), as transformers' ViTModel and ViTForImageClassification compute it:
 *
 *   a picture of side² pixels is cut into (side/P)² patches of P×P and S channels; row 0 stands for the whole picture
 *   x = [class | K·patch + b] + P[positions]      K: a convolution's kernel (C,S,P,P), here a matrix C×(S·P²)
 *   each block:  x += O·attention(Q·n, K·n, V·n) + b,  n = layernorm(x); every row sees every other
 *                x += D·f(U·m + b) + b,                m = layernorm(x)
 *   hidden = layernorm(x);  classification: logits = C·hidden_0 + c
 *
 * ids are 0 for the class token and 1 for patches. Pictures have the side that the network was made for: positions are
 * not interpolated. The names are those of the files; transformers 5 calls some modules otherwise in memory. */
#include "model/config.h"
#include <math.h>
#include <string.h>

#define LAYER   "vit.encoder.layer.%d."
#define PATCHES "vit.embeddings.patch_embeddings.projection"

/* ---- configuration ---- */

static const lc_refusal refused[] = {{"quantization_config", NAN, NULL}, {"pruned_heads", NAN, NULL}};

static lc_status config_hf(lc_ctx *ctx, const char *path, const struct json_t *j, lc_config *c) {
  lc_reader r = {.ctx = ctx, .path = path, .where = "", .j = j};
  lc_read_refuse(&r, refused, sizeof refused / sizeof *refused);
  c->C = lc_read_int(&r, "hidden_size", 768, 1, LC_MAX_COUNT);
  c->L = lc_read_int(&r, "num_hidden_layers", 12, 1, LC_MAX_LAYERS);
  c->H = lc_read_int(&r, "num_attention_heads", 12, 1, LC_MAX_COUNT);
  c->F = lc_read_int(&r, "intermediate_size", 3072, 1, LC_MAX_COUNT);
  c->image = lc_read_int(&r, "image_size", 224, 1, 1 << 14);
  c->patch = lc_read_int(&r, "patch_size", 16, 1, 1 << 12);
  c->channels = lc_read_int(&r, "num_channels", 3, 1, 3);
  c->norm_eps = (float)lc_read_num(&r, "layer_norm_eps", 1e-12, 0, 1);
  c->attention_bias = lc_read_bool(&r, "qkv_bias", true);
  c->mlp_bias = true;
  c->activation = lc_read_activation(&r, "hidden_act", "gelu");
  c->bos = c->eos = c->pad = -1;
  lc_read_dropout(&r, (const char *[]){"hidden_dropout_prob", "attention_probs_dropout_prob"}, 2);
  LC_TRY(r.st);
  if (c->C % c->H)
    return lc_fail(ctx, "%s: width %lld is no multiple of %lld heads", path, (long long)c->C,
                   (long long)c->H);
  if (c->image % c->patch || c->channels == 2)
    return lc_fail(ctx, "%s: pictures of side %lld with %lld channels in patches of %lld", path,
                   (long long)c->image, (long long)c->channels, (long long)c->patch);
  c->G = c->H;
  c->D = c->C / c->H;
  c->V = 2;
  c->context = c->image / c->patch * (c->image / c->patch) + 1;
  return LC_OK;
}

/* ---- tensors ---- */

/* A linear layer or norm: weight and, when there is one, bias of a module. */
static void module(lc_decls *d, int l, lc_weight_kind kind, int64_t M, int64_t N, const char *name,
                   bool bias) {
  char full[128];
  const bool norm = kind == LC_KIND_NORM;
  snprintf(full, sizeof full, "%s.weight", name);
  lc_declare(
      d,
      (lc_tensor_decl){.layer = l, .kind = kind, .M = norm ? 1 : M, .N = norm ? M : N, .ndim = norm ? 1 : 2},
      full, "");
  snprintf(full, sizeof full, "%s.bias", name);
  if (bias)
    lc_declare(d, (lc_tensor_decl){.layer = l, .kind = LC_KIND_BIAS, .M = 1, .N = M, .ndim = 1}, full, "");
}

static void embeddings(const lc_config *c, lc_decls *d) {
  const int64_t n = c->channels * c->patch * c->patch;
  lc_declare(d,
             (lc_tensor_decl){.layer = -1,
                              .kind = LC_KIND_EMBEDDING,
                              .M = 1,
                              .N = c->C,
                              .ndim = 2,
                              .stored_ndim = 3,
                              .stored = {1, 1, c->C}},
             "vit.embeddings.cls_token", "");
  lc_declare(d,
             (lc_tensor_decl){.layer = -1,
                              .kind = LC_KIND_POSITION,
                              .M = c->context,
                              .N = c->C,
                              .ndim = 2,
                              .stored_ndim = 3,
                              .stored = {1, c->context, c->C}},
             "vit.embeddings.position_embeddings", "");
  lc_declare(d,
             (lc_tensor_decl){.layer = -1,
                              .kind = LC_KIND_EMBEDDING,
                              .M = c->C,
                              .N = n,
                              .ndim = 2,
                              .stored_ndim = 4,
                              .stored = {c->C, c->channels, c->patch, c->patch}},
             PATCHES ".weight", "");
  lc_declare(d, (lc_tensor_decl){.layer = -1, .kind = LC_KIND_BIAS, .M = 1, .N = c->C, .ndim = 1},
             PATCHES ".bias", "");
}

static void pooler(const lc_config *c, lc_decls *d) {
  lc_tensor_decl w = {.layer = -1, .kind = LC_KIND_LINEAR, .M = c->C, .N = c->C, .ndim = 2, .optional = true};
  lc_declare(d, w, "vit.pooler.dense.weight", "");
  w.kind = LC_KIND_BIAS, w.M = 1, w.ndim = 1;
  lc_declare(d, w, "vit.pooler.dense.bias", "");
}

static void tensors(const lc_config *c, lc_decls *d) {
  embeddings(c, d);
  for (int l = 0; l < c->L && !d->st; l++) {
    module(d, l, LC_KIND_NORM, c->C, 0, LAYER "layernorm_before", true);
    module(d, l, LC_KIND_LINEAR, c->C, c->C, LAYER "attention.attention.query", c->attention_bias);
    module(d, l, LC_KIND_LINEAR, c->C, c->C, LAYER "attention.attention.key", c->attention_bias);
    module(d, l, LC_KIND_LINEAR, c->C, c->C, LAYER "attention.attention.value", c->attention_bias);
    module(d, l, LC_KIND_LINEAR, c->C, c->C, LAYER "attention.output.dense", true);
    module(d, l, LC_KIND_NORM, c->C, 0, LAYER "layernorm_after", true);
    module(d, l, LC_KIND_LINEAR, c->F, c->C, LAYER "intermediate.dense", true);
    module(d, l, LC_KIND_LINEAR, c->C, c->F, LAYER "output.dense", true);
  }
  module(d, -1, LC_KIND_NORM, c->C, 0, "vit.layernorm", true);
  if (c->task == LC_TASK_NONE) pooler(c, d);
  if (c->task == LC_TASK_CLASSIFY) lc_declare_head(d, c->labels, c->C, "classifier", true);
}

static const char *head(const lc_config *c) {
  return c->task == LC_TASK_CLASSIFY ? "classifier.weight" : NULL;
}
static const char *head_bias(const lc_config *c) {
  return c->task == LC_TASK_CLASSIFY ? "classifier.bias" : NULL;
}

/* ---- forward pass ---- */

static lc_val attention(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_ATTN_IN, l, lc_layernorm(b, x, c->norm_eps, LAYER "layernorm_before", l)),
         none = {0};
  lc_val q = lc_tap(b, LC_TAP_Q, l, lc_linear(b, n, none, LAYER "attention.attention.query", l));
  lc_val k = lc_tap(b, LC_TAP_K, l, lc_linear(b, n, none, LAYER "attention.attention.key", l));
  lc_val v = lc_linear(b, n, none, LAYER "attention.attention.value", l);
  lc_attention_opts o = {.heads = c->H,
                         .kv_heads = c->H,
                         .head_dim = c->D,
                         .scale = 1.0f / sqrtf((float)c->D),
                         .layer = l,
                         .bidirectional = true};
  lc_val y = lc_tap(b, LC_TAP_HEAD_OUT, l, lc_attention(b, q, k, v, &o));
  return lc_tap(b, LC_TAP_MID_RESIDUAL, l,
                lc_project(b, y, x, LC_TAP_ATTN_OUT, LAYER "attention.output.dense", l));
}

static lc_val mlp(lc_builder *b, const lc_config *c, int l, lc_val x) {
  lc_val n = lc_tap(b, LC_TAP_MLP_IN, l, lc_layernorm(b, x, c->norm_eps, LAYER "layernorm_after", l));
  lc_val h = lc_activation(b, lc_linear(b, n, (lc_val){0}, LAYER "intermediate.dense", l), c->activation);
  h = lc_tap(b, LC_TAP_MLP_HIDDEN, l, h);
  return lc_tap(b, LC_TAP_BLOCK_OUT, l, lc_project(b, h, x, LC_TAP_MLP_OUT, LAYER "output.dense", l));
}

static lc_val build(lc_builder *b, const lc_config *c) {
  lc_val x = lc_round(b, lc_pixels(b, c->channels * c->patch * c->patch));
  x = lc_class_token(b, lc_linear(b, x, (lc_val){0}, PATCHES, -1), b->ids, "vit.embeddings.cls_token");
  x = lc_tap(b, LC_TAP_EMBED_OUT, -1,
             lc_sum(b, x, lc_embedding_of(b, b->pos, "vit.embeddings.position_embeddings")));
  for (int l = 0; l < c->L; l++) {
    lc_block(b, l);
    x = mlp(b, c, l, attention(b, c, l, x));
  }
  lc_block(b, -1);
  /* f32: what the head reads */
  return lc_tap(b, LC_TAP_FINAL_NORM_OUT, -1, lc_layernorm_wide(b, x, c->norm_eps, "vit.layernorm", -1));
}

/* ---- structures ---- */

static void rows_of(lc_structure_list *s, lc_role role, const char *name, int l, int64_t unit, bool bias) {
  char full[128];
  snprintf(full, sizeof full, "%s.weight", name);
  lc_structure_side(s, full, l, 0, 0, unit);
  if (role) lc_structure_role(s, role);
  snprintf(full, sizeof full, "%s.bias", name);
  if (bias) lc_structure_side(s, full, l, 0, 0, unit);
}

static void rows(lc_structure_list *s, const char *name, int l, int64_t unit, bool bias) {
  rows_of(s, LC_ROLE_NONE, name, l, unit, bias);
}

static void residual(lc_structure_list *s, const lc_config *c) {
  lc_structure_begin(s, LC_S_RESIDUAL, -1, c->C);
  lc_structure_side(s, "vit.embeddings.cls_token", -1, 1, 0, 1);
  lc_structure_side(s, "vit.embeddings.position_embeddings", -1, 1, 0, 1);
  rows(s, PATCHES, -1, 1, true);
  for (int l = 0; l < c->L; l++) {
    static const char *const readers[] = {
        LAYER "attention.attention.query.weight", LAYER "attention.attention.key.weight",
        LAYER "attention.attention.value.weight", LAYER "intermediate.dense.weight"};
    static const char *const along[] = {LAYER "layernorm_before", LAYER "attention.output.dense",
                                        LAYER "layernorm_after", LAYER "output.dense"};
    for (int i = 0; i < 4; i++) lc_structure_side(s, readers[i], l, 1, 0, 1);
    for (int i = 0; i < 4; i++) rows(s, along[i], l, 1, true);
  }
  rows(s, "vit.layernorm", -1, 1, true);
  if (c->task == LC_TASK_CLASSIFY) lc_structure_side(s, "classifier.weight", -1, 1, 0, 1);
}

static lc_status structures(lc_ctx *ctx, const lc_config *c, lc_structure **out, int *n) {
  lc_structure_list s = {.ctx = ctx};
  if (c->task != LC_TASK_NONE) residual(&s, c);
  for (int l = 0; l < c->L; l++) {
    for (int kind = LC_S_HEAD; kind <= LC_S_KV_HEAD; kind++) {
      lc_structure_begin(&s, (lc_structure_kind)kind, l, c->H);
      if (kind == LC_S_KV_HEAD) rows(&s, LAYER "attention.attention.key", l, c->D, c->attention_bias);
      if (kind == LC_S_KV_HEAD)
        rows_of(&s, LC_ROLE_V, LAYER "attention.attention.value", l, c->D, c->attention_bias);
      rows_of(&s, kind == LC_S_HEAD ? LC_ROLE_Q : LC_ROLE_NONE, LAYER "attention.attention.query", l, c->D,
              c->attention_bias);
      lc_structure_side(&s, LAYER "attention.output.dense.weight", l, 1, 0, c->D);
      if (kind == LC_S_HEAD) lc_structure_role(&s, LC_ROLE_O);
    }
    lc_structure_begin(&s, LC_S_CHANNEL, l, c->F);
    rows_of(&s, LC_ROLE_UP, LAYER "intermediate.dense", l, 1, true);
    lc_structure_side(&s, LAYER "output.dense.weight", l, 1, 0, 1);
    lc_structure_role(&s, LC_ROLE_DOWN);
  }
  return lc_structure_end(&s, out, n);
}

const lc_family lc_family_vit = {
    .architectures = {{"ViTForImageClassification", LC_TASK_CLASSIFY}, {"ViTModel", LC_TASK_NONE}},
    .model_type = "vit",
    .prefix = "vit.",
    .bidirectional = true,
    .config_hf = config_hf,
    .tensors = tensors,
    .build = build,
    .head = head,
    .head_bias = head_bias,
    .structures = structures};
