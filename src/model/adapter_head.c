/* A task's head beside an adapter's deltas (PEFT's modules_to_save): whole weights that replace the base's while the
 * adapter is on. In PEFT's layouts they stand in adapter_model.safetensors as "base_model.model.<name>"; lacuna's own
 * layouts have a file of their own for them, with the same names. lacuna_adapter.json names task and labels, so that
 * the base can be opened with such a head; an adapter of PEFT's says its task_type and how many rows the head has. */
#include <string.h>
#include "model/adapter.h"

static const char *const prefix = "base_model.model.";

/* ---- what there is to save ---- */

static const lc_param *saved(const lc_adapter *a, int i) {
  const lc_param *p = a->net->own[i];
  return p->of->head ? p : NULL;
}

bool lc_adapter_has_head(const lc_adapter *a) {
  for (int i = 0; i < a->net->n_own; i++)
    if (saved(a, i)) return true;
  return false;
}

lc_status lc_head_declare(const lc_adapter *a, lc_safetensors_writer *w) {
  char name[700];
  for (int i = 0; i < a->net->n_own; i++) {
    const lc_param *p = saved(a, i);
    if (!p) continue;
    snprintf(name, sizeof name, "%s%s", prefix, p->of->name);
    LC_TRY(lc_safetensors_declare(w, name, LC_F32, p->of->ndim,
                                  p->of->ndim == 1 ? &p->of->N : (int64_t[]){p->of->M, p->of->N}));
  }
  return LC_OK;
}

lc_status lc_head_append(const lc_adapter *a, lc_safetensors_writer *w) {
  for (int i = 0; i < a->net->n_own; i++)
    if (saved(a, i))
      LC_TRY(lc_safetensors_append(w, saved(a, i)->value, (size_t)saved(a, i)->n * sizeof(float)));
  return LC_OK;
}

lc_status lc_head_write(const lc_adapter *a, const char *dir) {
  lc_ctx *ctx = a->net->ctx;
  if (!lc_adapter_has_head(a)) return LC_OK;
  lc_safetensors_writer *w;
  char *path = lc_path_join(ctx, dir, LC_HEAD_FILE);
  lc_status st = path ? lc_safetensors_create(ctx, path, &w) : LC_FAILED;
  if (!st) {
    st = lc_head_declare(a, w);
    if (!st) st = lc_head_append(a, w);
    lc_status end = lc_safetensors_finish(w, !st);
    if (!st) st = end;
  }
  lc_free(ctx, path);
  return st;
}

/* "classifier" of classifier.out_proj, "pooler" of bert.pooler.dense: the module below the network's own. */
static int module_of(const lc_net *net, const lc_weight *w, const char **name) {
  const char *p = net->model->config.family->prefix;
  *name = strncmp(w->name, p, strlen(p)) ? w->name : w->name + strlen(p);
  return (int)strcspn(*name, ".");
}

json_t *lc_head_modules(const lc_adapter *a) {
  json_t *list = json_array();
  for (int i = 0; list && i < a->net->n_own; i++) {
    const char *name;
    bool known = false;
    if (!saved(a, i)) continue;
    const int n = module_of(a->net, saved(a, i)->of, &name);
    for (size_t k = 0; k < json_array_size(list); k++)
      known |= json_string_length(json_array_get(list, k)) == (size_t)n &&
               !strncmp(json_string_value(json_array_get(list, k)), name, (size_t)n);
    if (!known) json_array_append_new(list, json_stringn(name, (size_t)n));
  }
  return list;
}

void lc_head_describe(const lc_adapter *a, json_t *sidecar) {
  const lc_config *c = &a->net->model->config;
  if (!lc_task_has_labels(c->task)) return;
  json_t *names = json_array();
  for (int64_t i = 0; names && i < c->labels; i++)
    json_array_append_new(names, json_string(lc_config_label(c, i)));
  json_object_set_new(sidecar, "task", json_string(lc_task_name(c->task)));
  json_object_set_new(sidecar, "labels", names);
}

const char *lc_head_task_type(const lc_net *net) {
  const lc_task task = net->model->config.task;
  return task == LC_TASK_CLASSIFY ? "SEQ_CLS" : task == LC_TASK_TOKENS ? "TOKEN_CLS" : "CAUSAL_LM";
}

/* ---- reading ---- */

lc_weight *lc_head_weight(const lc_net *net, const char *key) {
  if (strncmp(key, prefix, strlen(prefix))) return NULL;
  lc_weight *w = lc_net_weight(net, key + strlen(prefix));
  return w && w->head ? w : NULL;
}

lc_status lc_head_read(lc_adapter_parts *p, const char *path, const lc_named_tensor *t) {
  lc_ctx *ctx = p->net->ctx;
  lc_weight *w = lc_head_weight(p->net, t->name);
  const bool fits =
      w && t->t.ndim == w->ndim && lc_tensor_count(&t->t) == w->M * w->N && t->t.shape[t->t.ndim - 1] == w->N;
  if (!w) return lc_fail(ctx, "%s: tensor '%s' is no part of the model's head", path, t->name);
  if (!fits)
    return lc_fail(ctx, "%s: tensor '%s' does not fit the model's head: it has %lld labels", path, t->name,
                   (long long)p->net->model->config.labels);
  lc_whole *grown = lc_realloc(ctx, LC_MEM_OTHER, p->head, (size_t)(p->n_head + 1) * sizeof *grown);
  if (!grown) return LC_FAILED;
  p->head = grown;
  p->head[p->n_head] = (lc_whole){.w = w};
  LC_TRY(lc_peft_values(ctx, path, t, &p->head[p->n_head].value));
  p->n_head++;
  return LC_OK;
}

lc_status lc_head_read_file(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  lc_safetensors file = {0};
  char *path = lc_path_join(ctx, p->dir, LC_HEAD_FILE);
  lc_status st = path ? LC_OK : LC_FAILED;
  if (!st && lc_path_exists(path)) {
    st = lc_safetensors_open(ctx, path, &file);
    for (int i = 0; !st && i < file.n; i++) st = lc_head_read(p, path, &file.tensor[i]);
    lc_safetensors_close(ctx, &file);
  }
  lc_free(ctx, path);
  return st;
}

/* A module of modules_to_save is the head's, or it is not built. */
lc_status lc_head_check_modules(const lc_net *net, const char *dir, const json_t *list) {
  for (size_t i = 0; i < json_array_size(list); i++) {
    const char *item = json_string_value(json_array_get(list, i)), *name;
    bool known = false;
    for (int k = 0; item && k < net->weights.n && !known; k++) {
      const lc_weight *w = &net->weights.w[k];
      const int n = w->head ? module_of(net, w, &name) : 0;
      known = n && (lc_target_matches(w->module, item) ||
                    ((size_t)n == strlen(item) && !strncmp(name, item, (size_t)n)));
    }
    /* PEFT lists both names that classifiers have, whichever the model has */
    if (item && lc_task_has_labels(net->model->config.task) &&
        (!strcmp(item, "classifier") || !strcmp(item, "score")))
      known = true;
    if (!known)
      return lc_fail(
          net->ctx,
          "%s/%s sets modules_to_save: whole modules other than a head inside an adapter are not built", dir,
          LC_PEFT_CONFIG);
  }
  return LC_OK;
}

/* ---- which head an adapter wants ---- */

static lc_status from_sidecar(lc_ctx *ctx, const char *path, lc_head_opts *o) {
  json_t *j = NULL;
  LC_TRY(lc_json_read(ctx, path, &j));
  const char *task = json_string_value(json_object_get(j, "task"));
  const json_t *names = json_object_get(j, "labels");
  const size_t n = json_array_size(names);
  lc_status st = LC_OK;
  if (!task) goto done;
  for (int k = LC_TASK_CLASSIFY; k <= LC_TASK_TOKENS; k++)
    if (!strcmp(task, lc_task_name((lc_task)k))) o->task = (lc_task)k;
  if (o->task == LC_TASK_OWN || n < 1 || n > LC_MAX_LABELS)
    LC_GO(lc_fail(ctx, "%s: a head for the task '%.40s' with %zu labels", path, task, n));
  o->label = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *o->label);
  if (!o->label) LC_GO(LC_FAILED);
  for (size_t i = 0; i < n; i++) {
    const char *name = json_string_value(json_array_get(names, i));
    if (!name) LC_GO(lc_fail(ctx, "%s: label %zu is no text", path, i));
    ((char **)o->label)[i] = lc_strdup(ctx, name);
    o->labels = (int64_t)i + 1;
    if (!o->label[i]) LC_GO(LC_FAILED);
  }
done:
  json_decref(j);
  return st;
}

/* task_type, and the rows of the head's last matrix. */
static lc_status from_peft(lc_ctx *ctx, const char *config, const char *path, lc_head_opts *o) {
  static const char *const last[] = {"classifier.weight", "score.weight", "classifier.out_proj.weight"};
  json_t *j = NULL;
  lc_safetensors file = {0};
  LC_TRY(lc_json_read(ctx, config, &j));
  const char *type = json_string_value(json_object_get(j, "task_type"));
  const lc_task task = !type                        ? LC_TASK_OWN
                       : !strcmp(type, "SEQ_CLS")   ? LC_TASK_CLASSIFY
                       : !strcmp(type, "TOKEN_CLS") ? LC_TASK_TOKENS
                                                    : LC_TASK_OWN;
  lc_status st = task ? lc_safetensors_open(ctx, path, &file) : LC_OK;
  for (int i = 0; !st && task && i < file.n; i++)
    for (size_t k = 0; k < sizeof last / sizeof *last; k++)
      if (!strncmp(file.tensor[i].name, prefix, strlen(prefix)) &&
          !strcmp(file.tensor[i].name + strlen(prefix), last[k]) && file.tensor[i].t.ndim == 2) {
        o->task = task;
        o->labels = file.tensor[i].t.shape[0];
      }
  lc_safetensors_close(ctx, &file);
  json_decref(j);
  return st;
}

lc_status lc_adapter_head(lc_ctx *ctx, const char *dir, lc_head_opts *o) {
  *o = (lc_head_opts){0};
  char *sidecar = lc_path_join(ctx, dir, LC_SIDECAR), *config = lc_path_join(ctx, dir, LC_PEFT_CONFIG),
       *file = lc_path_join(ctx, dir, LC_PEFT_FILE);
  lc_status st = sidecar && config && file ? LC_OK : LC_FAILED;
  if (!st && lc_path_exists(sidecar)) st = from_sidecar(ctx, sidecar, o);
  if (!st && !o->task && lc_path_exists(config) && lc_path_exists(file)) st = from_peft(ctx, config, file, o);
  if (st) lc_head_opts_free(ctx, o);
  lc_free(ctx, sidecar);
  lc_free(ctx, config);
  lc_free(ctx, file);
  return st;
}

/* ---- on and off ---- */

lc_status lc_head_apply(lc_adapter *a, bool on) {
  for (int i = 0; i < a->n_head; i++)
    LC_TRY(lc_net_set_whole(a->net, a->head[i].w, on ? a->head[i].value : NULL));
  return LC_OK;
}

void lc_wholes_free(lc_ctx *ctx, lc_whole *list, int n) {
  for (int i = 0; i < n; i++) lc_free(ctx, list[i].value);
  lc_free(ctx, list);
}
