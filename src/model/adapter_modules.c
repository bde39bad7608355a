/* lacuna's file of deltas that describe themselves (nn.h's lc_delta_kind): experts and their routes, bottleneck
 * adapters, kernels, low-rank changes beside them. docs/formats.md describes it.
 *
 * lacuna_adapter.json has "layout": "modules" and "deltas": [{"weight", "kind", "options": {name: text}}] in the order
 * in which they are attached; lacuna_adapter.safetensors has "<weight's module>.<kind>.<param>" of each, f32, with the
 * param's rows and columns. Everything is checked against the model by name before anything is attached. */
#include <string.h>
#include "model/adapter.h"

typedef struct {
  char name[800];
  lc_dtype dtype;
  int ndim;
  int64_t shape[2];
  void *data;
  bool finite; /* f32 that must be */
} part;
enum { MAX_PARTS = 2 * LC_DELTA_PARAMS + LC_DELTA_ARRAYS };

/* The tensors of a delta: its params (those over positions as a vector, with the positions beside it), then its arrays. */
static int parts_of(const lc_delta *d, part *out) {
  const lc_delta_kind *k = lc_delta_kind_of(d->ops);
  lc_array a[LC_DELTA_ARRAYS];
  int n = 0;
  for (int i = 0; i < d->n_param; i++) {
    const lc_param *p = d->param[i];
    part *t = &out[n++];
    *t = (part){.dtype = LC_F32, .ndim = 2, .shape = {p->rows, p->cols}, .data = p->value, .finite = true};
    snprintf(t->name, sizeof t->name, "%s.%s.%s", d->w->module, k->ops->name, k->params[i]);
    if (p->idx.kind == LC_ALL) continue;
    t->ndim = 1;
    t->shape[0] = p->n;
    t = &out[n++];
    *t = (part){
        .dtype = p->idx.kind == LC_LIST32 ? LC_I32 : LC_I64, .ndim = 1, .shape = {p->n}, .data = p->idx.at};
    snprintf(t->name, sizeof t->name, "%s.%s.%s_index", d->w->module, k->ops->name, k->params[i]);
  }
  for (int i = 0, m = k->arrays ? k->arrays(d, a) : 0; i < m; i++) {
    part *t = &out[n++];
    *t = (part){.dtype = a[i].dtype, .ndim = 1, .shape = {a[i].n}, .data = a[i].data};
    snprintf(t->name, sizeof t->name, "%s.%s.%s", d->w->module, k->ops->name, a[i].name);
  }
  return n;
}

static size_t bytes_of(const part *t) {
  const size_t one = t->dtype == LC_U8 ? 1 : t->dtype == LC_I64 ? 8 : 4;
  return one * (size_t)t->shape[0] * (size_t)(t->ndim == 2 ? t->shape[1] : 1);
}

/* ---- reading ---- */

static lc_status set_options(lc_ctx *ctx, const lc_delta_kind *k, const json_t *from, void *to) {
  const char *key;
  json_t *value;
  LC_TRY(lc_options_init(ctx, k->options, to));
  json_object_foreach((json_t *)from, key, value) {
    if (!json_is_string(value)) return lc_fail(ctx, "option '%s' of a %s is no text", key, k->ops->name);
    LC_TRY(lc_options_set(ctx, k->options, k->ops->name, to, key, json_string_value(value)));
  }
  return LC_OK;
}

static lc_status take_values(lc_ctx *ctx, const char *path, const lc_safetensors *file,
                             const lc_delta_kind *k, lc_delta *d) {
  part parts[MAX_PARTS];
  for (int i = 0, n = parts_of(d, parts); i < n; i++) {
    part *p = &parts[i];
    const lc_tensor *t = lc_safetensors_find(file, p->name);
    if (!t) return lc_fail(ctx, "%s: tensor '%s' is missing", path, p->name);
    if (t->ndim != p->ndim || t->dtype != p->dtype || t->shape[0] != p->shape[0] ||
        (p->ndim == 2 && t->shape[1] != p->shape[1]))
      return lc_fail(ctx, "%s: tensor '%s' is not %lld×%lld of %s", path, p->name, (long long)p->shape[0],
                     (long long)(p->ndim == 2 ? p->shape[1] : 1), lc_dtype_get(p->dtype)->name);
    if (p->finite) {
      const lc_named_tensor named = {p->name, *t};
      float *v;
      LC_TRY(lc_peft_values(ctx, path, &named, &v));
      memcpy(p->data, v, bytes_of(p));
      lc_free(ctx, v);
    } else {
      memcpy(p->data, t->data, bytes_of(p));
    }
  }
  return k->loaded ? lc_in_file(ctx, path, k->loaded(ctx, d)) : LC_OK;
}

static lc_status read_one(lc_adapter_parts *p, const char *json_path, const char *path, const json_t *j,
                          const lc_safetensors *file) {
  lc_ctx *ctx = p->net->ctx;
  const char *module = json_string_value(json_object_get(j, "weight")),
             *kind = json_string_value(json_object_get(j, "kind"));
  char name[700];
  if (!module || !kind) return lc_fail(ctx, "%s: a delta without weight or kind", json_path);
  const lc_delta_kind *k = lc_delta_kind_find(kind);
  if (!k) return lc_fail(ctx, "%s: '%s' has a delta of unknown kind '%s'", json_path, module, kind);
  snprintf(name, sizeof name, "%s.weight", module);
  lc_weight *w = lc_net_weight(p->net, name);
  if (!w || w->ndim != 2) return lc_fail(ctx, "%s: the model has no matrix '%s'", json_path, module);
  for (int i = 0; i < p->n; i++)
    if (p->delta[i]->w == w && p->delta[i]->ops == k->ops)
      return lc_fail(ctx, "%s: '%s' has two deltas of kind '%s'", json_path, module, kind);
  lc_delta *d = NULL;
  void *options = lc_alloc(ctx, LC_MEM_OTHER, k->size);
  if (!options) return LC_FAILED;
  lc_status st = lc_in_file(ctx, json_path, set_options(ctx, k, json_object_get(j, "options"), options));
  if (!st) st = lc_in_file(ctx, json_path, k->make(ctx, w, options, p->delta, p->n, false, &d));
  lc_options_clear(ctx, k->options, options);
  lc_free(ctx, options);
  if (st) return st;
  LC_TRY(lc_parts_add(p, d));
  return take_values(ctx, path, file, k, d);
}

lc_status lc_modules_read(lc_adapter_parts *p, const char *json_path, const json_t *j, const char *path,
                          const lc_safetensors *file) {
  lc_ctx *ctx = p->net->ctx;
  const json_t *list = json_object_get(j, "deltas");
  int tensors = 0;
  for (size_t i = 0; i < json_array_size(list); i++)
    LC_TRY(read_one(p, json_path, path, json_array_get(list, i), file));
  part parts[MAX_PARTS];
  for (int i = 0; i < p->n; i++) tensors += parts_of(p->delta[i], parts);
  if (tensors == file->n) return p->n ? LC_OK : lc_fail(ctx, "%s is empty", path);
  for (int t = 0; t < file->n; t++) {
    bool known = false;
    for (int i = 0; i < p->n && !known; i++)
      for (int k = 0, n = parts_of(p->delta[i], parts); k < n && !known; k++)
        known = !strcmp(parts[k].name, file->tensor[t].name);
    if (!known)
      return lc_fail(ctx, "%s: tensor '%s' belongs to no delta of %s", path, file->tensor[t].name, json_path);
  }
  return lc_fail(ctx, "%s: %d tensors, the deltas have %d", path, file->n, tensors);
}

/* ---- writing ---- */

json_t *lc_modules_describe(const lc_adapter *a) {
  lc_ctx *ctx = a->net->ctx;
  json_t *list = json_array();
  for (int i = 0; i < a->n && list; i++) {
    const lc_delta *d = a->delta[i];
    const lc_delta_kind *k = lc_delta_kind_of(d->ops);
    json_t *options = json_object();
    for (const lc_option *o = k->options; o->name; o++) {
      char *text = lc_options_get(ctx, o, k->options_of(d));
      if (text) json_object_set_new(options, o->name, json_string(text));
      lc_free(ctx, text);
    }
    json_array_append_new(
        list, json_pack("{s:s, s:s, s:o}", "weight", d->w->module, "kind", k->ops->name, "options", options));
  }
  return list;
}

/* Wide types first, as the format wants it; within a type in the deltas' order. */
static lc_status write_parts(const lc_adapter *a, lc_safetensors_writer *w, bool data) {
  static const lc_dtype order[] = {LC_I64, LC_F32, LC_I32, LC_U8};
  part parts[MAX_PARTS];
  for (int o = 0; o < 4; o++)
    for (int i = 0; i < a->n; i++)
      for (int k = 0, n = parts_of(a->delta[i], parts); k < n; k++) {
        const part *p = &parts[k];
        if (p->dtype != order[o]) continue;
        LC_TRY(data ? lc_safetensors_append(w, p->data, bytes_of(p))
                    : lc_safetensors_declare(w, p->name, p->dtype, p->ndim, p->shape));
      }
  return LC_OK;
}

lc_status lc_modules_write(const lc_adapter *a, const char *dir) {
  lc_ctx *ctx = a->net->ctx;
  lc_safetensors_writer *w = NULL;
  lc_status st = LC_OK;
  char *path = lc_path_join(ctx, dir, LC_NATIVE_FILE);
  if (!path) return LC_FAILED;
  LC_GO(lc_safetensors_create(ctx, path, &w));
  LC_GO(write_parts(a, w, false));
  LC_GO(write_parts(a, w, true));
done:
  if (w) {
    lc_status end = lc_safetensors_finish(w, st == LC_OK);
    if (!st) st = end;
  }
  lc_free(ctx, path);
  return st;
}
