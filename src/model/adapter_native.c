/* lacuna's own file of a sparse adapter, for what PEFT's layout cannot hold or would hold at twice the size.
 * docs/formats.md describes it.
 *
 * lacuna_adapter.safetensors, two tensors a target: <module>.values F32 [K], and, after all values,
 * <module>.gaps U8 [bytes]. The flat positions row·N + column are sorted and distinct; each is stored as the
 * number of entries skipped since the one before it (the first: since the beginning), 7 bits a byte, low bits
 * first, the high bit set on all bytes but a number's last. At 1 % density that is about
 * 1.3 bytes a position. lacuna_adapter.json names each target's rows, columns and number of values. */
#include <math.h>
#include <string.h>
#include "model/adapter.h"

/* ---- positions as gaps ---- */

static size_t put_gap(uint64_t gap, uint8_t *to) { /* to NULL: counts only */
  size_t n = 0;
  for (; gap >= 0x80; gap >>= 7, n++)
    if (to) to[n] = (uint8_t)(gap | 0x80);
  if (to) to[n] = (uint8_t)gap;
  return n + 1;
}

static size_t put_gaps(const lc_index *x, uint8_t *to) {
  size_t n = 0;
  int64_t next = 0;
  for (int64_t k = 0; k < x->n; k++) {
    const int64_t at = lc_index_at(x, k);
    n += put_gap((uint64_t)(at - next), to ? to + n : NULL);
    next = at + 1;
  }
  return n;
}

/* K positions below `total` out of exactly `size` bytes. */
static lc_status get_gaps(lc_ctx *ctx, const char *path, const char *module, const uint8_t *from, size_t size,
                          int64_t K, int64_t total, int64_t *flat) {
  size_t n = 0;
  int64_t next = 0;
  for (int64_t k = 0; k < K; k++) {
    uint64_t gap = 0;
    for (int shift = 0;; shift += 7) {
      if (n == size)
        return lc_fail(ctx, "%s: the positions of '%s' end after %lld of %lld", path, module, (long long)k,
                       (long long)K);
      if (shift > 56)
        return lc_fail(ctx, "%s: position %lld of '%s' is too large a number", path, (long long)k, module);
      gap |= (uint64_t)(from[n] & 0x7f) << shift;
      if (!(from[n++] & 0x80)) break;
    }
    if (gap >= (uint64_t)(total - next))
      return lc_fail(ctx, "%s: position %lld of '%s' lies outside the weight's %lld entries", path,
                     (long long)k, module, (long long)total);
    flat[k] = next + (int64_t)gap;
    next = flat[k] + 1;
  }
  if (n != size)
    return lc_fail(ctx, "%s: '%s' has %zu bytes of positions, %zu expected", path, module, size, n);
  return LC_OK;
}

/* ---- reading ---- */

static lc_status check_shape(lc_ctx *ctx, const char *path, const json_t *j, const lc_weight *w, int64_t *K) {
  const json_t *s = json_object_get(json_object_get(j, "weights"), w->module);
  if (!json_is_array(s) || json_array_size(s) != 3 || !json_is_integer(json_array_get(s, 0)) ||
      !json_is_integer(json_array_get(s, 1)) || !json_is_integer(json_array_get(s, 2)))
    return lc_fail(ctx, "%s: no rows, columns and number of values of '%s'", path, w->module);
  const int64_t M = json_integer_value(json_array_get(s, 0)), N = json_integer_value(json_array_get(s, 1));
  *K = json_integer_value(json_array_get(s, 2));
  if (M != w->M || N != w->N)
    return lc_fail(ctx, "%s: '%s' is %lld×%lld there, %lld×%lld in the model", path, w->module, (long long)M,
                   (long long)N, (long long)w->M, (long long)w->N);
  if (*K < 1 || *K > M * N)
    return lc_fail(ctx, "%s: '%s' cannot have %lld values in %lld×%lld entries", path, w->module,
                   (long long)*K, (long long)M, (long long)N);
  return LC_OK;
}

static lc_status read_target(lc_adapter_parts *p, const char *path, lc_weight *w, int64_t K,
                             const lc_named_tensor *values, const lc_tensor *gaps) {
  lc_ctx *ctx = p->net->ctx;
  lc_status st = LC_OK;
  lc_index idx = {0};
  lc_delta *d;
  float *v = NULL;
  if (values->t.ndim != 1 || values->t.shape[0] != K || values->t.dtype != LC_F32)
    return lc_fail(ctx, "%s: the values of '%s' are not %lld f32", path, w->module, (long long)K);
  if (gaps->ndim != 1 || gaps->dtype != LC_U8)
    return lc_fail(ctx, "%s: the positions of '%s' are not a list of bytes", path, w->module);
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  if (!flat) return LC_FAILED;
  LC_GO(get_gaps(ctx, path, w->module, gaps->data, (size_t)gaps->shape[0], K, w->M * w->N, flat));
  LC_GO(lc_peft_values(ctx, path, values, &v));
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, K, &idx));
  LC_GO(lc_delta_sparse_new(ctx, w, &idx, v, false, &d));
  LC_GO(lc_parts_add(p, d));
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, flat);
  lc_free(ctx, v);
  return st;
}

/* "<module>.values" or "<module>.gaps": the weight, or NULL. */
static lc_weight *weight_of(const lc_net *net, const char *name, char *module, size_t size) {
  char full[700];
  const char *dot = strrchr(name, '.');
  snprintf(module, size, "%.*s", dot ? (int)(dot - name) : (int)strlen(name), name);
  snprintf(full, sizeof full, "%s.weight", module);
  return lc_net_weight(net, full);
}

static lc_status read_all(lc_adapter_parts *p, const char *json_path, const json_t *j, const char *path,
                          const lc_safetensors *file) {
  lc_ctx *ctx = p->net->ctx;
  char module[600], other[700];
  int64_t K = 0, version;
  LC_TRY(lc_in_file(ctx, json_path, lc_json_i64_or(ctx, j, "version", 0, &version)));
  if (version != 1)
    return lc_fail(ctx, "%s: version %lld of the format; this program reads 1", json_path,
                   (long long)version);
  for (int i = 0; i < file->n; i++) {
    const lc_named_tensor *t = &file->tensor[i];
    const char *dot = strrchr(t->name, '.');
    const bool is_values = dot && !strcmp(dot, ".values");
    if (!is_values && !(dot && !strcmp(dot, ".gaps")))
      return lc_fail(ctx, "%s: tensor '%s' is no part of an adapter", path, t->name);
    lc_weight *w = weight_of(p->net, t->name, module, sizeof module);
    if (!w || w->ndim != 2)
      return lc_fail(ctx, "%s: tensor '%s': the model has no matrix '%s'", path, t->name, module);
    snprintf(other, sizeof other, "%s%s", module, is_values ? ".gaps" : ".values");
    const lc_tensor *pair = lc_safetensors_find(file, other);
    if (!pair) return lc_fail(ctx, "%s: '%s' has no '%s' beside it", path, t->name, other);
    if (!is_values) continue;
    LC_TRY(check_shape(ctx, json_path, j, w, &K));
    LC_TRY(read_target(p, path, w, K, t, pair));
  }
  if ((size_t)p->n != json_object_size(json_object_get(j, "weights")))
    return lc_fail(ctx, "%s names %zu weights, %s holds %d", json_path,
                   json_object_size(json_object_get(j, "weights")), path, p->n);
  return LC_OK; /* no weights at all: a change that is none */
}

lc_status lc_native_read(lc_adapter_parts *p) {
  lc_ctx *ctx = p->net->ctx;
  lc_safetensors file = {0};
  json_t *j = NULL;
  lc_status st = LC_OK;
  char *json_path = lc_path_join(ctx, p->dir, LC_SIDECAR), *path = lc_path_join(ctx, p->dir, LC_NATIVE_FILE);
  if (!json_path || !path) LC_GO(LC_FAILED);
  LC_GO(lc_json_read(ctx, json_path, &j));
  LC_GO(lc_safetensors_open(ctx, path, &file));
  LC_GO(json_object_get(j, "deltas") ? lc_modules_read(p, json_path, j, path, &file)
                                     : read_all(p, json_path, j, path, &file));
  LC_GO(lc_head_read_file(p));
done:
  lc_safetensors_close(ctx, &file);
  json_decref(j);
  lc_free(ctx, json_path);
  lc_free(ctx, path);
  return st;
}

/* ---- writing ---- */

static lc_status write_gaps(lc_ctx *ctx, lc_safetensors_writer *w, const lc_index *idx) {
  const size_t size = put_gaps(idx, NULL);
  uint8_t *gaps = lc_alloc(ctx, LC_MEM_OTHER, size);
  if (!gaps) return LC_FAILED;
  put_gaps(idx, gaps);
  lc_status st = lc_safetensors_append(w, gaps, size);
  lc_free(ctx, gaps);
  return st;
}

/* All values first, so that they stay aligned. */
static lc_status write_entries(const lc_adapter *a, const lc_entries *e, lc_safetensors_writer *w) {
  char name[700];
  for (int i = 0; i < a->n; i++) {
    snprintf(name, sizeof name, "%s.values", a->delta[i]->w->module);
    LC_TRY(lc_safetensors_declare(w, name, LC_F32, 1, &e[i].idx.n));
  }
  for (int i = 0; i < a->n; i++) {
    const int64_t bytes = (int64_t)put_gaps(&e[i].idx, NULL);
    snprintf(name, sizeof name, "%s.gaps", a->delta[i]->w->module);
    LC_TRY(lc_safetensors_declare(w, name, LC_U8, 1, &bytes));
  }
  for (int i = 0; i < a->n; i++)
    LC_TRY(lc_safetensors_append(w, e[i].value, (size_t)e[i].idx.n * sizeof(float)));
  for (int i = 0; i < a->n; i++) LC_TRY(write_gaps(a->net->ctx, w, &e[i].idx));
  return LC_OK;
}

lc_status lc_native_write(const lc_adapter *a, const char *dir) {
  lc_ctx *ctx = a->net->ctx;
  lc_safetensors_writer *w = NULL;
  lc_status st = LC_OK;
  char *path = lc_path_join(ctx, dir, LC_NATIVE_FILE);
  lc_entries *e = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)a->n, sizeof *e);
  if (!path || !e) LC_GO(LC_FAILED);
  for (int i = 0; i < a->n; i++) LC_GO(lc_param_entries(ctx, a->delta[i]->param[0], &e[i]));
  LC_GO(lc_safetensors_create(ctx, path, &w));
  st = write_entries(a, e, w);
done:
  if (w) {
    lc_status end = lc_safetensors_finish(w, st == LC_OK);
    if (!st) st = end;
  }
  for (int i = 0; e && i < a->n; i++) lc_entries_free(ctx, &e[i]);
  lc_free(ctx, e);
  lc_free(ctx, path);
  return st;
}
