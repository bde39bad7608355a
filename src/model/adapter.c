/* Adapters: named groups of deltas on a net; reading and writing their directories. The layouts are in
 * adapter_peft*.c and adapter_native.c.
 *
 * Loading makes every delta before it attaches the first, and undoes what it attached when one is refused: a
 * net is changed by the whole adapter or not at all. Beside any layout stands lacuna_adapter.json: method,
 * base and its fingerprint, density, targets, template. PEFT ignores it. */
#include "model/adapter.h"
#include "nn/noise.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- the object ---- */

static lc_status grow(lc_ctx *ctx, lc_delta ***list, int n, int *cap) {
  if (n < *cap) return LC_OK;
  int room = *cap ? 2 * *cap : 64;
  lc_delta **more = lc_realloc(ctx, LC_MEM_OTHER, *list, (size_t)room * sizeof *more);
  if (!more) return LC_FAILED;
  *list = more;
  *cap = room;
  return LC_OK;
}

static const char *base_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

static void adapter_free(lc_ctx *ctx, lc_adapter *a) {
  if (!a) return;
  json_decref(a->config);
  lc_wholes_free(ctx, a->head, a->n_head);
  lc_free(ctx, a->delta);
  lc_free(ctx, a->name);
  lc_free(ctx, a->path);
  lc_free(ctx, a);
}

lc_status lc_adapter_new(lc_net *net, const char *name, lc_adapter **out) {
  lc_ctx *ctx = net->ctx;
  *out = NULL;
  lc_adapter **all = lc_realloc(ctx, LC_MEM_OTHER, net->adapter, (size_t)(net->n_adapter + 1) * sizeof *all);
  if (!all) return LC_FAILED;
  net->adapter = all;
  lc_adapter *a = lc_alloc(ctx, LC_MEM_OTHER, sizeof *a);
  if (!a) return LC_FAILED;
  *a = (lc_adapter){.name = lc_strdup(ctx, name), .scale = 1, .net = net};
  if (!a->name) {
    adapter_free(ctx, a);
    return LC_FAILED;
  }
  net->adapter[net->n_adapter++] = *out = a;
  return LC_OK;
}

lc_status lc_adapter_add(lc_adapter *a, lc_delta *d) {
  LC_TRY(grow(a->net->ctx, &a->delta, a->n, &a->cap));
  a->delta[a->n++] = d;
  return LC_OK;
}

static bool can_apply(const lc_delta *d, lc_apply apply) {
  if (apply == LC_IN_PLACE) return d->ops->patch != NULL;
  if (apply == LC_ASIDE) return d->ops->aside || d->ops->emit || d->ops->tap;
  return d->ops->patch || d->ops->emit || d->ops->tap;
}

static lc_status set_one(lc_ctx *ctx, lc_delta *d, float scale, lc_apply apply) {
  const bool touches = d->apply == LC_IN_PLACE || apply == LC_IN_PLACE;
  d->scale = scale;
  d->apply = apply;
  return touches ? lc_weight_switched(ctx, d->w, d) : LC_OK;
}

lc_status lc_adapter_set(lc_adapter *a, float scale, lc_apply apply) {
  static const char *const how[] = {"as a patch", "in place", "aside"};
  lc_ctx *ctx = a->net->ctx;
  if (!isfinite(scale)) return lc_fail(ctx, "adapter '%s': a scale must be a finite number", a->name);
  for (int i = 0; i < a->n; i++)
    if (!can_apply(a->delta[i], apply))
      return lc_fail(ctx, "adapter '%s': the %s delta of '%s' cannot be applied %s", a->name,
                     a->delta[i]->ops->name, a->delta[i]->w->name, how[apply]);
  for (int i = 0; i < a->n; i++) {
    const float old_scale = a->delta[i]->scale;
    const lc_apply old = a->delta[i]->apply;
    lc_status st = set_one(ctx, a->delta[i], scale, apply);
    if (!st) continue;
    a->delta[i]->scale = old_scale; /* no room for a private copy: everything as before */
    a->delta[i]->apply = old;
    while (i-- > 0) set_one(ctx, a->delta[i], a->scale, old);
    return st;
  }
  if ((scale != 0) != (a->scale != 0)) LC_TRY(lc_head_apply(a, scale != 0));
  a->scale = scale;
  return LC_OK;
}

lc_status lc_adapter_remove(lc_adapter *a) {
  lc_net *net = a->net;
  for (int i = a->n - 1; i >= 0; i--) lc_weight_detach(net->ctx, a->delta[i]->w, a->delta[i], true);
  lc_status st = lc_head_apply(a, false);
  int n = 0;
  for (int i = 0; i < net->n_adapter; i++)
    if (net->adapter[i] != a) net->adapter[n++] = net->adapter[i];
  net->n_adapter = n;
  adapter_free(net->ctx, a);
  return st;
}

/* ---- reading ---- */

lc_status lc_parts_add(lc_adapter_parts *p, lc_delta *d) {
  lc_status st = grow(p->net->ctx, &p->delta, p->n, &p->cap);
  if (st)
    d->ops->free(p->net->ctx, d);
  else
    p->delta[p->n++] = d;
  return st;
}

static bool has_file(lc_ctx *ctx, const char *dir, const char *name) {
  char *path = lc_path_join(ctx, dir, name);
  bool there = path && lc_path_exists(path);
  lc_free(ctx, path);
  return there;
}

static lc_status read_parts(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  const char *dir = p->dir;
  if (!lc_path_is_dir(dir))
    return lc_fail(ctx, "%s: an adapter is a directory (with %s, or %s)", dir, LC_PEFT_CONFIG, LC_SIDECAR);
  if (!has_file(ctx, dir, LC_PEFT_CONFIG)) {
    if (has_file(ctx, dir, LC_NATIVE_FILE)) return lc_native_read(p);
    if (has_file(ctx, dir, LC_LOG_FILE)) return lc_log_read(p);
    return lc_fail(ctx, "%s: no %s and no %s: not an adapter", dir, LC_PEFT_CONFIG, LC_NATIVE_FILE);
  }
  if (has_file(ctx, dir, LC_PEFT_FILE)) return lc_peft_read(p);
  if (has_file(ctx, dir, "adapter_model.bin"))
    return lc_fail(
        ctx, "%s/adapter_model.bin is a Python pickle, which can run any code when it is read: save it as %s",
        dir, LC_PEFT_FILE);
  return lc_fail(ctx, "%s: %s is missing", dir, LC_PEFT_FILE);
}

static json_t *base_shape(const lc_config *c) {
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "layers", (json_int_t)c->L, "width", (json_int_t)c->C,
                   "heads", (json_int_t)c->H, "kv_heads", (json_int_t)c->G, "head_width", (json_int_t)c->D,
                   "ffn_width", (json_int_t)c->F);
}

/* What the adapter says of its base's shape must be so here: heads and channels are numbers in it. */
static lc_status check_shape(lc_ctx *ctx, const lc_adapter_parts *p, const json_t *was) {
  json_t *now = base_shape(&p->net->model->config), *value;
  const char *key;
  lc_status st = LC_OK;
  json_object_foreach(now, key, value) {
    const json_t *old = json_object_get(was, key);
    if (!st && json_is_integer(old) && !json_equal(old, value))
      st = lc_fail(ctx, "%s was trained on a model whose %s is %lld; here it is %lld", p->dir, key,
                   (long long)json_integer_value(old), (long long)json_integer_value(value));
  }
  json_decref(now);
  return st;
}

/* A base other than the one it was trained on is worth a word, no more: the same weights come as GGUF and as
 * HF files. A base of another shape is refused. */
static lc_status check_base(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  if (!has_file(ctx, p->dir, LC_SIDECAR)) return LC_OK;
  char *path = lc_path_join(ctx, p->dir, LC_SIDECAR);
  json_t *j = NULL;
  const char *text = NULL, *name = NULL;
  bool exact = false;
  lc_status st = path ? lc_json_read(ctx, path, &j) : LC_FAILED;
  if (!st) st = lc_in_file(ctx, path, lc_json_bool_or(ctx, j, "exact_base", false, &exact));
  if (!st) st = lc_in_file(ctx, path, lc_json_str_or(ctx, j, "base_fingerprint", NULL, &text));
  if (!st) st = lc_in_file(ctx, path, lc_json_str_or(ctx, j, "base_model", "another base", &name));
  if (!st) st = check_shape(ctx, p, json_object_get(j, "base_shape"));
  char mine[32];
  snprintf(mine, sizeof mine, "%016" PRIx64, p->net->model->fingerprint);
  p->exact_base = exact;
  if (!st && exact && text && strcmp(text, mine))
    st = lc_fail(ctx, "%s was trained on %s (fingerprint %s) and takes no other base; this one is %s (%s)",
                 p->dir, name, text, p->net->model->path, mine);
  else if (!st && text && strcmp(text, mine))
    lc_log(ctx, LC_LOG_WARN, "%s was trained on %s (fingerprint %s); this base is %s (%s)", p->dir, name,
           text, p->net->model->path, mine);
  json_decref(j);
  lc_free(ctx, path);
  return st;
}

lc_status lc_adapter_load(lc_net *net, const char *dir, float scale, lc_apply apply, lc_adapter **out) {
  lc_ctx *ctx = net->ctx;
  lc_adapter_parts p = {.net = net, .dir = dir};
  lc_adapter *a = NULL;
  lc_status st = LC_OK;
  int attached = 0;
  *out = NULL;
  LC_GO(check_base(&p));
  LC_GO(read_parts(&p));
  for (int i = 0; i < p.n; i++)
    if (!can_apply(p.delta[i], apply))
      LC_GO(lc_fail(ctx, "%s: a %s delta cannot be applied in this way", dir, p.delta[i]->ops->name));
  if (!isfinite(scale)) LC_GO(lc_fail(ctx, "%s: a scale must be a finite number", dir));
  LC_GO(lc_adapter_new(net, base_of(dir), &a));
  a->scale = scale;
  if (!(a->path = lc_strdup(ctx, dir))) LC_GO(LC_FAILED);
  for (; attached < p.n; attached++) {
    lc_delta *d = p.delta[attached];
    d->scale = scale;
    d->apply = apply;
    LC_GO(lc_adapter_add(a, d));
    st = lc_weight_attach(ctx, d->w, d);
    if (st) {
      a->n--; /* not attached: freed with the rest, below */
      goto done;
    }
  }
  a->head = p.head, a->n_head = p.n_head;
  p.head = NULL, p.n_head = 0;
  if (scale != 0) LC_GO(lc_head_apply(a, true));
  a->exact_base = p.exact_base;
  a->config = p.config;
  p.config = NULL;
  *out = a;
done:
  if (st && a) lc_adapter_remove(a); /* frees what was attached */
  for (int i = st ? attached : p.n; i < p.n; i++) p.delta[i]->ops->free(ctx, p.delta[i]);
  lc_free(ctx, p.delta);
  lc_wholes_free(ctx, p.head, p.n_head);
  json_decref(p.config);
  return st;
}

/* ---- writing ---- */

static lc_status write_sidecar(const lc_adapter *a, lc_layout layout, const char *dir,
                               const lc_adapter_meta *meta) {
  static const char *const layouts[] = {"peft-lora", "peft-shira", "native", "modules", "log"};
  lc_ctx *ctx = a->net->ctx;
  char mine[32];
  int64_t stored = 0, entries = 0;
  json_t *shapes = json_object(), *j = NULL;
  for (int i = 0; i < a->n; i++) {
    const lc_weight *w = a->delta[i]->w;
    const int64_t k = a->delta[i]->ops->nonzeros(a->delta[i]);
    stored += k;
    entries += w->M * w->N;
    if (layout == LC_LAYOUT_NATIVE)
      json_object_set_new(shapes, w->module,
                          json_pack("[I,I,I]", (json_int_t)w->M, (json_int_t)w->N, (json_int_t)k));
  }
  snprintf(mine, sizeof mine, "%016" PRIx64, a->net->model->fingerprint);
  j = json_pack("{s:s, s:i, s:s, s:s*, s:s*, s:s, s:s*, s:s*, s:s*, s:I, s:I, s:f}", "format",
                "lacuna adapter", "version", 1, "layout", layouts[layout], "method", meta->method,
                "base_model", meta->base_name, "base_fingerprint", mine, "targets", meta->targets, "template",
                meta->template_name, "mask", meta->mask_type, "seed", (json_int_t)meta->seed, "values",
                (json_int_t)stored, "density", entries ? (double)stored / (double)entries : 0.0);
  if (j && a->exact_base) json_object_set_new(j, "exact_base", json_true());
  if (j && layout == LC_LAYOUT_NATIVE)
    json_object_set(j, "weights", shapes); /* module: [rows, columns, values] */
  if (j) json_object_set_new(j, "base_shape", base_shape(&a->net->model->config));
  if (j && layout == LC_LAYOUT_MODULES) json_object_set_new(j, "deltas", lc_modules_describe(a));
  if (j && layout == LC_LAYOUT_LOG) json_object_set_new(j, "log", lc_log_describe(a));
  json_decref(shapes);
  if (!j) return lc_fail(ctx, "%s: could not make %s", dir, LC_SIDECAR);
  lc_head_describe(a, j);
  char *path = lc_path_join(ctx, dir, LC_SIDECAR);
  lc_status st = path ? lc_json_write(ctx, path, j) : LC_FAILED;
  lc_free(ctx, path);
  json_decref(j);
  return st;
}

static lc_status write_layout(const lc_adapter *a, lc_layout layout, const char *dir,
                              const lc_adapter_meta *meta) {
  switch (layout) {
  case LC_LAYOUT_PEFT_LORA:
    return lc_peft_write_lora(a, dir, meta);
  case LC_LAYOUT_PEFT_SHIRA:
    return lc_peft_write_shira(a, dir, meta);
  case LC_LAYOUT_NATIVE:
    LC_TRY(lc_head_write(a, dir));
    return lc_native_write(a, dir);
  case LC_LAYOUT_MODULES:
    LC_TRY(lc_head_write(a, dir));
    return lc_modules_write(a, dir);
  case LC_LAYOUT_LOG:
    return lc_log_write(a, dir);
  }
  return lc_fail(a->net->ctx, "unknown adapter layout %d", (int)layout);
}

/* Everything but the files: what a layout cannot hold is refused before anything is written. */
static lc_status check_layout(const lc_adapter *a, lc_layout layout) {
  lc_ctx *ctx = a->net->ctx;
  if (!a->n && layout != LC_LAYOUT_NATIVE) return lc_fail(ctx, "adapter '%s' has no deltas to save", a->name);
  const lc_delta_ops *want = layout == LC_LAYOUT_PEFT_LORA ? &lc_delta_lora
                             : layout == LC_LAYOUT_LOG     ? &lc_delta_noise
                                                           : &lc_delta_sparse;
  for (int i = 0; i < a->n; i++) {
    if (layout == LC_LAYOUT_MODULES ? !lc_delta_kind_of(a->delta[i]->ops) : a->delta[i]->ops != want)
      return lc_fail(
          ctx, "adapter '%s' has a %s delta on '%s', which this layout cannot hold (it holds %s deltas)",
          a->name, a->delta[i]->ops->name, a->delta[i]->w->name,
          layout == LC_LAYOUT_MODULES ? "self-describing" : want->name);
    if (a->delta[i]->ops == &lc_delta_sparse && layout != LC_LAYOUT_MODULES &&
        lc_delta_sparse_factor(a->delta[i]) != 1)
      return lc_fail(ctx,
                     "adapter '%s': the changes of '%s' have a factor of %g, which this layout cannot hold",
                     a->name, a->delta[i]->w->name, lc_delta_sparse_factor(a->delta[i]));
    if (a->delta[i]->n_param && a->delta[i]->param[0]->retired.n && layout == LC_LAYOUT_MODULES)
      return lc_fail(ctx, "adapter '%s': entries of '%s' have retired, which layout modules cannot hold",
                     a->name, a->delta[i]->w->name);
    for (int k = 0; k < i; k++)
      if (a->delta[k]->w == a->delta[i]->w && a->delta[k]->ops == a->delta[i]->ops)
        return lc_fail(ctx, "adapter '%s' has two deltas on '%s': a file holds one", a->name,
                       a->delta[i]->w->name);
  }
  const char *why = layout == LC_LAYOUT_PEFT_SHIRA ? lc_adapter_shira_refusal(a) : NULL;
  return why ? lc_fail(ctx, "adapter '%s' cannot be written as PEFT's SHiRA: %s", a->name, why) : LC_OK;
}

lc_status lc_adapter_save(const lc_adapter *a, lc_layout layout, const char *dir,
                          const lc_adapter_meta *meta) {
  LC_TRY(check_layout(a, layout));
  if (meta->dry) return LC_OK;
  LC_TRY(lc_mkdirs(a->net->ctx, dir));
  LC_TRY(write_sidecar(a, layout, dir, meta));
  return write_layout(a, layout, dir, meta);
}
