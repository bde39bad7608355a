/* Writes a net as an HF directory: config.json as today's transformers spells it, model.safetensors without a
 * copy of a tied weight, the base's tokenizer files. A new directory appears whole or not at all; into one
 * that is there, each file is written atomically, config.json last. */
#include "model/config.h"
#include "model/export.h"
#include <jansson.h>
#include <string.h>

struct json_t *lc_export_config(const lc_net *net, lc_dtype dtype) {
  static const char *const old[] = {"torch_dtype", "rope_scaling", "rope_theta",
                                    "original_max_position_embeddings"};
  const lc_config *c = &net->model->config;
  json_t *rope = c->rope.dim ? lc_rope_json(net->ctx, &c->rope) : NULL;
  if (c->rope.dim && !rope) return NULL;
  json_t *j = json_deep_copy(c->json);
  if (!j) {
    json_decref(rope);
    lc_fail(net->ctx, "out of memory");
    return NULL;
  }
  for (size_t i = 0; i < sizeof old / sizeof *old; i++) json_object_del(j, old[i]);
  if (rope) json_object_set_new(j, "rope_parameters", rope);
  json_object_set_new(j, "architectures", json_pack("[s]", lc_architecture(c)));
  json_object_set_new(j, "model_type", json_string(c->family->model_type));
  json_object_set_new(j, "tie_word_embeddings", json_boolean(c->tied));
  json_object_set_new(j, "dtype",
                      json_string(dtype == LC_F32   ? "float32"
                                  : dtype == LC_F16 ? "float16"
                                                    : "bfloat16"));
  return j;
}

static lc_status append(void *to, const void *data, size_t bytes) {
  return lc_safetensors_append(to, data, bytes);
}

static lc_status write_tensors(lc_net *net, lc_dtype dtype, lc_merge_report *report,
                               lc_safetensors_writer *w) {
  const lc_model *m = net->model;
  for (int i = 0; i < m->n; i++) {
    const lc_tensor_decl *d = &m->decl[i];
    int64_t shape[4];
    const int ndim = lc_decl_shape(d, shape);
    LC_TRY(lc_safetensors_declare(w, d->name, dtype, ndim, shape));
  }
  for (int i = 0; i < m->n; i++) {
    lc_export e = {.net = net,
                   .decl = &m->decl[i],
                   .dtype = dtype,
                   .transposed = m->decl[i].transposed,
                   .append = append,
                   .to = w,
                   .report = report};
    LC_TRY(lc_export_tensor(&e));
  }
  return LC_OK;
}

static lc_status write_weights(lc_net *net, const char *path, lc_dtype dtype, lc_merge_report *report) {
  lc_safetensors_writer *w;
  LC_TRY(lc_safetensors_create(net->ctx, path, &w));
  lc_status st = write_tensors(net, dtype, report, w), end = lc_safetensors_finish(w, !st);
  return st ? st : end;
}

/* The tokenizer's files: byte copies of an HF base's, made from the metadata of a GGUF. */
static lc_status write_tokenizer(lc_net *net, const char *dir) {
  const lc_model *m = net->model;
  if (!m->is_gguf) return lc_tokenizer_copy_dir(net->ctx, m->path, dir);
  if (!lc_gguf_key(&m->gguf, "tokenizer.ggml.tokens")) {
    lc_log(net->ctx, LC_LOG_WARN, "%s has no tokenizer: none is written", m->path);
    return LC_OK;
  }
  lc_tokenizer *t;
  LC_TRY(lc_model_tokenizer(m, &t));
  lc_status st = lc_tokenizer_write_dir(t, dir);
  lc_tokenizer_free(t);
  return st;
}

/* One file of an HF base, when it is there. */
static lc_status copy_one(const lc_model *m, const char *dir, const char *inside, const char *name) {
  char *from = lc_format(m->ctx, "%s/%s%s%s", m->path, inside, *inside ? "/" : "", name),
       *to = lc_format(m->ctx, "%s/%s", dir, inside), *file = to ? lc_path_join(m->ctx, to, name) : NULL;
  lc_status st = from && file ? LC_OK : LC_FAILED;
  if (!st && lc_path_exists(from)) {
    st = *inside ? lc_mkdirs(m->ctx, to) : LC_OK;
    if (!st) st = lc_copy_file(m->ctx, from, file);
  }
  lc_free(m->ctx, from);
  lc_free(m->ctx, to);
  lc_free(m->ctx, file);
  return st;
}

/* What makes an encoder embed sentences (sentence-transformers' files): the list of modules, its settings, and the description of each module in a
 * folder of its own. */
static lc_status write_modules(const lc_net *net, const char *dir) {
  static const char *const files[] = {"modules.json", "sentence_bert_config.json",
                                      "config_sentence_transformers.json"};
  const lc_model *m = net->model;
  lc_status st = LC_OK;
  json_t *modules = NULL;
  char *list = m->is_gguf ? NULL : lc_path_join(m->ctx, m->path, files[0]);
  if (m->is_gguf) return LC_OK;
  if (!list) return LC_FAILED;
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) LC_GO(copy_one(m, dir, "", files[i]));
  if (!lc_path_exists(list)) goto done;
  json_error_t e;
  if (!(modules = json_load_file(list, 0, &e)))
    LC_GO(lc_fail(m->ctx, "%s: line %d, column %d: no JSON", list, e.line, e.column));
  for (size_t i = 0; i < json_array_size(modules); i++) {
    const char *path = json_string_value(json_object_get(json_array_get(modules, i), "path"));
    if (!path || !*path) continue;
    if (*path == '/' || strstr(path, ".."))
      LC_GO(lc_fail(m->ctx, "%s: the path '%.60s' leads out of the model", list, path));
    LC_GO(copy_one(m, dir, path, "config.json"));
  }
done:
  json_decref(modules);
  lc_free(m->ctx, list);
  return st;
}

static lc_status write_all(lc_net *net, const char *dir, lc_dtype dtype, const json_t *config,
                           lc_merge_report *report) {
  char *weights = lc_path_join(net->ctx, dir, "model.safetensors"),
       *json = lc_path_join(net->ctx, dir, "config.json");
  lc_status st = weights && json ? LC_OK : LC_FAILED;
  if (st) goto done;
  LC_GO(write_weights(net, weights, dtype, report));
  LC_GO(write_tokenizer(net, dir));
  LC_GO(write_modules(net, dir));
  st = lc_json_write(net->ctx, json, config);
done:
  lc_free(net->ctx, weights);
  lc_free(net->ctx, json);
  return st;
}

static lc_status write_new(lc_net *net, const char *dir, lc_dtype dtype, const json_t *config,
                           lc_merge_report *report) {
  size_t n = strlen(dir);
  while (n > 1 && dir[n - 1] == '/') n--;
  char *stage = lc_format(net->ctx, "%.*s.partial", (int)n, dir);
  if (!stage) return LC_FAILED;
  lc_status st;
  LC_GO(lc_remove_tree(net->ctx, stage)); /* of a run that was killed */
  LC_GO(lc_mkdirs(net->ctx, stage));
  st = write_all(net, stage, dtype, config, report);
  if (!st) st = lc_rename_dir(net->ctx, stage, dir);
done:
  if (st) {
    char *why = lc_strdup(net->ctx, lc_error(net->ctx)); /* cleaning up must not replace the reason */
    lc_remove_tree(net->ctx, stage);
    if (why) st = lc_fail(net->ctx, "%s", why);
    lc_free(net->ctx, why);
  }
  lc_free(net->ctx, stage);
  return st;
}

lc_status lc_net_write_hf(lc_net *net, const char *dir, lc_dtype dtype, lc_merge_report *report) {
  if (dtype != LC_F32 && dtype != LC_F16 && dtype != LC_BF16)
    return lc_usage(net->ctx, "an HF directory holds f32, f16 or bf16, not %s", lc_dtype_get(dtype)->name);
  if (report) *report = (lc_merge_report){0};
  LC_TRY(lc_export_check(net, dir));
  json_t *config = lc_export_config(net, dtype);
  if (!config) return LC_FAILED;
  lc_status st = lc_path_exists(dir) ? write_all(net, dir, dtype, config, report)
                                     : write_new(net, dir, dtype, config, report);
  json_decref(config);
  if (st && report) lc_merge_report_free(net->ctx, report);
  return st;
}
