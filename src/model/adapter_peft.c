/* PEFT's LoRA: adapter_config.json and adapter_model.safetensors (huggingface/peft 0.21: tuners/lora,
 * utils/save_and_load.py).
 *
 * A tensor is called base_model.model.<module path> and .lora_A.weight [r, in] or .lora_B.weight [out, r]; r
 * and alpha of a module are the config's, unless rank_pattern or alpha_pattern names it; s = alpha/r, or
 * alpha/√r with use_rslora. Whatever would change the result and is not built is refused by its name, and
 * every tensor of the file is either used or named in an error. */
#include "model/adapter.h"
#include <math.h>
#include <string.h>

static const char *const prefix = "base_model.model.";

/* ---- shared with SHiRA ---- */

lc_weight *lc_peft_weight(const lc_net *net, const char *key, const char *suffix, char *module, size_t size) {
  const size_t n = strlen(key), p = strlen(prefix), s = strlen(suffix);
  char name[600];
  if (n <= p + s || strncmp(key, prefix, p) || strcmp(key + n - s, suffix)) return NULL;
  snprintf(module, size, "%.*s", (int)(n - p - s), key + p);
  snprintf(name, sizeof name, "%s.weight", module);
  return lc_net_weight(net, name);
}

lc_status lc_peft_values(lc_ctx *ctx, const char *path, const lc_named_tensor *t, float **out) {
  const int64_t n = lc_tensor_count(&t->t);
  *out = NULL;
  if (t->t.dtype != LC_F32 && t->t.dtype != LC_F16 && t->t.dtype != LC_BF16)
    return lc_fail(ctx, "%s: tensor '%s' is %s: an adapter's values are f32, f16 or bf16", path, t->name,
                   lc_dtype_get(t->t.dtype)->name);
  float *v = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *v);
  if (!v) return LC_FAILED;
  lc_status st = lc_decode_row(ctx, t->t.dtype, t->t.data, n, v);
  for (int64_t i = 0; i < n && !st; i++)
    if (!isfinite(v[i]))
      st = lc_fail(ctx, "%s: tensor '%s' holds a value that is no finite number, at place %lld", path,
                   t->name, (long long)i);
  if (st)
    lc_free(ctx, v);
  else
    *out = v;
  return st;
}

lc_status lc_peft_check_targets(const lc_adapter_parts *p, const bool *has) {
  const lc_net *net = p->net;
  int hits = 0;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    bool wanted;
    if (w->kind != LC_KIND_LINEAR && w->kind != LC_KIND_HEAD && !has[i]) continue;
    LC_TRY(lc_peft_matches(net->ctx, p->config, net->model->config.family->model_type, w->module,
                           w->kind == LC_KIND_HEAD, &wanted));
    if (wanted && !has[i])
      return lc_fail(net->ctx, "%s: the config targets '%s', but %s has no tensors for it", p->dir, w->module,
                     LC_PEFT_FILE);
    if (!wanted && has[i])
      return lc_fail(net->ctx, "%s: %s has tensors for '%s', which the config does not target", p->dir,
                     LC_PEFT_FILE, w->module);
    hits += wanted;
  }
  return hits ? LC_OK
              : lc_fail(net->ctx, "%s: the config's target_modules match no module of the model", p->dir);
}

/* Keys that PEFT writes for both kinds. */
lc_status lc_peft_common(json_t *config, const lc_adapter *a, const lc_adapter_meta *meta) {
  json_t *targets = lc_peft_targets(a);
  if (!targets) return lc_fail(a->net->ctx, "%s: no memory for the names of its targets", LC_PEFT_CONFIG);
  json_object_set_new(config, "base_model_name_or_path",
                      meta->base_name ? json_string(meta->base_name) : json_null());
  json_object_set_new(config, "inference_mode", json_true());
  json_object_set_new(config, "peft_version", json_string("0.21.2"));
  json_object_set_new(config, "target_modules", targets);
  json_object_set_new(config, "task_type", json_string(lc_head_task_type(a->net)));
  if (lc_adapter_has_head(a)) json_object_set_new(config, "modules_to_save", lc_head_modules(a));
  return LC_OK;
}

bool lc_adapter_is_conv1d(const lc_net *net, const lc_weight *w) {
  for (int i = 0; i < net->model->n; i++)
    if (!strcmp(net->model->decl[i].name, w->name)) return net->model->decl[i].transposed;
  return false;
}

/* ---- reading ---- */

static bool is_set(const json_t *j) {
  return j && !json_is_null(j) && !json_is_false(j) && !(json_is_array(j) && !json_array_size(j)) &&
         !(json_is_object(j) && !json_object_size(j));
}

/* What changes the result and is not built. */
static lc_status refuse_variants(lc_ctx *ctx, const char *dir, const json_t *c) {
  static const struct {
    const char *key, *what;
  } no[] = {
      {"use_dora", "DoRA is not built"},
      {"lora_bias", "a bias of lora_B is not built"},
      {"trainable_token_indices", "trained tokens inside an adapter are not built"},
      {"target_parameters", "LoRA of parameters that are no linear layers is not built"},
      {"layer_replication", "replicated layers are not built"},
      {"kasa_config", "KaSA is not built"},
      {"arrow_config", "Arrow routing is not built"},
      {"alora_invocation_tokens", "activated LoRA is not built"},
      {"use_bdlora", "block-diagonal LoRA is not built"},
      {"velora_config", "VeLoRA is not built"},
      {"monteclora_config", "MonteCLoRA is not built"},
      {"use_qalora", "QA-LoRA is not built"},
      {"megatron_config", "Megatron's parallel layers are not built"},
  };
  for (size_t i = 0; i < sizeof no / sizeof *no; i++)
    if (is_set(json_object_get(c, no[i].key)))
      return lc_fail(ctx, "%s/%s sets %s: %s", dir, LC_PEFT_CONFIG, no[i].key, no[i].what);
  const json_t *bias = json_object_get(c, "bias"), *init = json_object_get(c, "init_lora_weights");
  if (is_set(bias) && (!json_is_string(bias) || strcmp(json_string_value(bias), "none")))
    return lc_fail(ctx, "%s/%s sets bias to '%s': biases inside an adapter are not built", dir,
                   LC_PEFT_CONFIG, json_is_string(bias) ? json_string_value(bias) : "?");
  const char *from = json_string_value(init);
  if (from && strcmp(from, "gaussian") && strcmp(from, "eva") && strcmp(from, "orthogonal"))
    return lc_fail(ctx,
                   "%s/%s sets init_lora_weights to '%s', which starts from a changed base: save the adapter "
                   "as a plain LoRA first",
                   dir, LC_PEFT_CONFIG, from);
  return LC_OK;
}

typedef struct {
  lc_adapter_parts *p;
  const char *path;
  const lc_safetensors *st;
  int64_t r;
  double alpha;
  bool rslora;
} lora_file;

static lc_status check_pair(const lora_file *f, const lc_weight *w, const lc_tensor *A, const lc_tensor *B,
                            int64_t r) {
  lc_ctx *ctx = f->p->net->ctx;
  if (A->ndim != 2 || A->shape[1] != w->N)
    return lc_fail(ctx, "%s: lora_A of '%s' has %lld columns, the module %lld inputs", f->path, w->module,
                   (long long)(A->ndim == 2 ? A->shape[1] : 0), (long long)w->N);
  if (B->ndim != 2 || B->shape[0] != w->M)
    return lc_fail(ctx, "%s: lora_B of '%s' has %lld rows, the module %lld outputs", f->path, w->module,
                   (long long)(B->ndim == 2 ? B->shape[0] : 0), (long long)w->M);
  if (A->shape[0] != B->shape[1])
    return lc_fail(ctx, "%s: lora_A of '%s' has rank %lld, its lora_B %lld", f->path, w->module,
                   (long long)A->shape[0], (long long)B->shape[1]);
  if (A->shape[0] != r)
    return lc_fail(ctx, "%s: the factors of '%s' have rank %lld, the config says %lld", f->path, w->module,
                   (long long)A->shape[0], (long long)r);
  return LC_OK;
}

static lc_status read_pair(const lora_file *f, lc_weight *w, const lc_named_tensor *A,
                           const lc_named_tensor *B) {
  lc_ctx *ctx = f->p->net->ctx;
  lc_status st = LC_OK;
  double r, alpha, dropout;
  float *a = NULL, *b = NULL;
  lc_delta *d;
  LC_TRY(lc_peft_pattern(ctx, json_object_get(f->p->config, "rank_pattern"), w->module, (double)f->r, &r));
  LC_TRY(lc_peft_pattern(ctx, json_object_get(f->p->config, "alpha_pattern"), w->module, f->alpha, &alpha));
  LC_TRY(lc_in_file(ctx, f->p->config_path, lc_json_f64_or(ctx, f->p->config, "lora_dropout", 0, &dropout)));
  if (!(r >= 1 && r <= INT32_MAX))
    return lc_fail(ctx, "%s: r = %g for '%s'; 1 to %d is possible", f->p->config_path, r, w->module,
                   INT32_MAX);
  LC_TRY(check_pair(f, w, &A->t, &B->t, (int64_t)r));
  LC_GO(lc_peft_values(ctx, f->path, A, &a));
  LC_GO(lc_peft_values(ctx, f->path, B, &b));
  const lc_lora_opts o = {(int64_t)r, (float)alpha, f->rslora, (float)dropout, 0};
  LC_GO(lc_delta_lora_new(ctx, w, &o, a, b, false, &d));
  LC_GO(lc_parts_add(f->p, d));
done:
  lc_free(ctx, a);
  lc_free(ctx, b);
  return st;
}

static lc_status refuse_tensor(lc_ctx *ctx, const char *path, const char *key) {
  static const struct {
    const char *part, *what;
  } no[] = {
      {".lora_magnitude_vector", "DoRA"},
      {".lora_B.bias", "a bias of lora_B"},
      {".lora_embedding_A", "LoRA of an embedding"},
      {".lora_embedding_B", "LoRA of an embedding"},
      {".token_adapter.", "trained tokens"},
      {".base_layer.bias", "a trained bias"},
  };
  for (size_t i = 0; i < sizeof no / sizeof *no; i++)
    if (strstr(key, no[i].part))
      return lc_fail(ctx, "%s: tensor '%s' belongs to %s, which is not built", path, key, no[i].what);
  if (strncmp(key, prefix, strlen(prefix)))
    return lc_fail(ctx, "%s: tensor '%s' does not begin with '%s'", path, key, prefix);
  return lc_fail(ctx, "%s: tensor '%s' is no part of a LoRA that can be read", path, key);
}

static bool ends_in(const char *s, const char *end) {
  return strlen(s) >= strlen(end) && !strcmp(s + strlen(s) - strlen(end), end);
}

static lc_status read_lora(lora_file *f) {
  lc_net *net = f->p->net;
  lc_ctx *ctx = net->ctx;
  bool *has = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)net->weights.n, sizeof *has);
  lc_status st = has ? LC_OK : LC_FAILED;
  char module[512] = "", other[600];
  for (int i = 0; i < f->st->n && !st;
       i++) { /* what belongs to another variant says so before a missing half does */
    const char *key = f->st->tensor[i].name;
    if (!lc_head_weight(net, key) && (strncmp(key, prefix, strlen(prefix)) ||
                                      !(ends_in(key, ".lora_A.weight") || ends_in(key, ".lora_B.weight"))))
      st = refuse_tensor(ctx, f->path, key);
  }
  for (int i = 0; i < f->st->n && !st; i++) {
    const lc_named_tensor *t = &f->st->tensor[i];
    const bool is_a = ends_in(t->name, ".lora_A.weight");
    if (lc_head_weight(net, t->name)) {
      LC_GO(lc_head_read(f->p, f->path, t));
      continue;
    }
    lc_weight *w =
        lc_peft_weight(net, t->name, is_a ? ".lora_A.weight" : ".lora_B.weight", module, sizeof module);
    if (!w) LC_GO(lc_fail(ctx, "%s: tensor '%s': the model has no module '%s'", f->path, t->name, module));
    snprintf(other, sizeof other, "%s%s%s", prefix, module, is_a ? ".lora_B.weight" : ".lora_A.weight");
    const lc_tensor *pair = lc_safetensors_find(f->st, other);
    if (!pair) LC_GO(lc_fail(ctx, "%s: '%s' has no '%s' beside it", f->path, t->name, other));
    if (!is_a) continue; /* read with its A */
    has[w - net->weights.w] = true;
    LC_GO(read_pair(f, w, t, &(lc_named_tensor){other, *pair}));
  }
  if (!st) st = lc_peft_check_targets(f->p, has);
done:
  lc_free(ctx, has);
  return st;
}

lc_status lc_peft_read(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  lc_safetensors file = {0};
  lc_status st = LC_OK;
  const char *type;
  char *config = lc_path_join(ctx, p->dir, LC_PEFT_CONFIG), *path = lc_path_join(ctx, p->dir, LC_PEFT_FILE);
  if (!config || !path) LC_GO(LC_FAILED);
  p->config_path = config;
  LC_GO(lc_json_read(ctx, config, &p->config));
  LC_GO(lc_in_file(ctx, config, lc_json_str_or(ctx, p->config, "peft_type", NULL, &type)));
  if (!type) LC_GO(lc_fail(ctx, "%s: no peft_type", config));
  if (strcmp(type, "LORA") && strcmp(type, "SHIRA"))
    LC_GO(lc_fail(ctx, "%s: peft_type '%s' cannot be read: LORA and SHIRA can", config, type));
  LC_GO(lc_head_check_modules(p->net, p->dir, json_object_get(p->config, "modules_to_save")));
  LC_GO(lc_safetensors_open(ctx, path, &file));
  if (!strcmp(type, "SHIRA")) {
    LC_GO(lc_peft_read_shira(p, path, &file));
  } else {
    lora_file f = {.p = p, .path = path, .st = &file};
    LC_GO(refuse_variants(ctx, p->dir, p->config));
    LC_GO(lc_in_file(ctx, config, lc_json_i64_or(ctx, p->config, "r", 8, &f.r)));
    LC_GO(lc_in_file(ctx, config, lc_json_f64_or(ctx, p->config, "lora_alpha", 8, &f.alpha)));
    LC_GO(lc_in_file(ctx, config, lc_json_bool_or(ctx, p->config, "use_rslora", false, &f.rslora)));
    if (f.r < 1) LC_GO(lc_fail(ctx, "%s: r is %lld; 1 to %d is possible", config, (long long)f.r, INT32_MAX));
    LC_GO(read_lora(&f));
  }
done:
  lc_safetensors_close(ctx, &file);
  lc_free(ctx, config);
  lc_free(ctx, path);
  return st;
}

/* ---- writing ---- */

static json_t *number(double x) {
  return x == floor(x) && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

/* Every key that PEFT writes today, at its default. */
static json_t *default_config(void) {
  static const char *const nulls[] = {"alora_invocation_tokens",
                                      "arrow_config",
                                      "auto_mapping",
                                      "corda_config",
                                      "eva_config",
                                      "exclude_modules",
                                      "kasa_config",
                                      "layer_replication",
                                      "layers_pattern",
                                      "layers_to_transform",
                                      "lora_ga_config",
                                      "megatron_config",
                                      "modules_to_save",
                                      "monteclora_config",
                                      "revision",
                                      "target_parameters",
                                      "trainable_token_indices",
                                      "use_bdlora",
                                      "velora_config"};
  json_t *c = json_pack("{s:{}, s:s, s:b, s:b, s:b, s:{}, s:b, s:f, s:s, s:s, s:i, s:{}, s:b, s:b, s:b}",
                        "alpha_pattern", "bias", "none", "ensure_weight_tying", 0, "fan_in_fan_out", 0,
                        "init_lora_weights", 1, "loftq_config", "lora_bias", 0, "lora_dropout", 0.0,
                        "megatron_core", "megatron.core", "peft_type", "LORA", "qalora_group_size", 16,
                        "rank_pattern", "use_dora", 0, "use_qalora", 0, "use_rslora", 0);
  for (size_t i = 0; c && i < sizeof nulls / sizeof *nulls; i++)
    json_object_set_new(c, nulls[i], json_null());
  return c;
}

/* rank, alpha and scaling: the first delta's for all, the others' in the patterns under their full path. */
static void put_scales(json_t *c, const lc_adapter *a) {
  const lc_lora_opts *first = lc_delta_lora_opts(a->delta[0]);
  bool rslora = first->rslora;
  for (int i = 1; i < a->n; i++) rslora = rslora && lc_delta_lora_opts(a->delta[i])->rslora;
  json_t *ranks = json_object(), *alphas = json_object();
  double alpha0 = 0;
  for (int i = 0; i < a->n; i++) {
    const lc_lora_opts *o = lc_delta_lora_opts(a->delta[i]);
    const double alpha = o->rslora && !rslora ? (double)o->alpha * sqrt((double)o->rank)
                                              : (double)o->alpha; /* the same s by the plain rule */
    if (!i) alpha0 = alpha;
    if (o->rank != first->rank) json_object_set_new(ranks, a->delta[i]->w->module, json_integer(o->rank));
    if (alpha != alpha0) json_object_set_new(alphas, a->delta[i]->w->module, number(alpha));
  }
  json_object_set_new(c, "r", json_integer(first->rank));
  json_object_set_new(c, "lora_alpha", number(alpha0));
  json_object_set_new(c, "use_rslora", json_boolean(rslora));
  json_object_set_new(c, "lora_dropout", json_real((double)first->dropout));
  json_object_set_new(c, "rank_pattern", ranks);
  json_object_set_new(c, "alpha_pattern", alphas);
}

static lc_status write_config(const lc_adapter *a, const char *dir, const lc_adapter_meta *meta) {
  lc_ctx *ctx = a->net->ctx;
  json_t *c = a->config ? json_deep_copy(a->config) : default_config();
  char *path = lc_path_join(ctx, dir, LC_PEFT_CONFIG);
  lc_status st = c && path ? LC_OK : lc_fail(ctx, "%s: could not make %s", dir, LC_PEFT_CONFIG);
  if (!st && !a->config) { /* one that was read says all this already */
    st = lc_peft_common(c, a, meta);
    put_scales(c, a);
    json_object_set_new(c, "fan_in_fan_out", json_boolean(lc_adapter_is_conv1d(a->net, a->delta[0]->w)));
  } else if (!st && meta->base_name) {
    json_object_set_new(c, "base_model_name_or_path", json_string(meta->base_name));
  }
  if (!st) st = lc_json_write(ctx, path, c);
  json_decref(c);
  lc_free(ctx, path);
  return st;
}

lc_status lc_peft_write_lora(const lc_adapter *a, const char *dir, const lc_adapter_meta *meta) {
  static const char *const suffix[2] = {"lora_A", "lora_B"};
  lc_ctx *ctx = a->net->ctx;
  lc_safetensors_writer *w = NULL;
  lc_status st = LC_OK;
  char name[700];
  char *path = lc_path_join(ctx, dir, LC_PEFT_FILE);
  if (!path) return LC_FAILED;
  LC_GO(lc_safetensors_create(ctx, path, &w));
  for (int i = 0; i < a->n; i++)
    for (int k = 0; k < 2; k++) {
      const lc_param *p = a->delta[i]->param[k];
      snprintf(name, sizeof name, "%s%s.%s.weight", prefix, a->delta[i]->w->module, suffix[k]);
      LC_GO(lc_safetensors_declare(w, name, LC_F32, 2, (int64_t[]){p->rows, p->cols}));
    }
  LC_GO(lc_head_declare(a, w));
  for (int i = 0; i < a->n; i++)
    for (int k = 0; k < 2; k++)
      LC_GO(lc_safetensors_append(w, a->delta[i]->param[k]->value,
                                  (size_t)a->delta[i]->param[k]->n * sizeof(float)));
  LC_GO(lc_head_append(a, w));
done:
  if (w) {
    lc_status end = lc_safetensors_finish(w, st == LC_OK);
    if (!st) st = end;
  }
  lc_free(ctx, path);
  return st ? st : write_config(a, dir, meta);
}
