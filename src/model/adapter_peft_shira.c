/* PEFT's SHiRA layout (huggingface/peft 0.21: tuners/shira): .shira_weight f32 [K] and .shira_indices int32
 * [2,K] (row 0: output rows, row 1: input columns), with K = r·(M+N) in every target, one r for all.
 *
 * Writing: r is the least that holds every delta; the rest of each target is filled with its first unused
 * positions at value zero, in row-major order. Reading: positions may stand in any order, and values of
 * repeated positions are added in the file's order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "model/adapter.h"

/* ---- reading ---- */

typedef struct {
  int64_t flat;
  float value;
  int64_t at;
} entry;

static int by_flat(const void *x, const void *y) { /* stable: equal positions in the file's order */
  const entry *a = x, *b = y;
  if (a->flat != b->flat) return a->flat < b->flat ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

/* Item i of an index tensor; false when it is no whole number. */
static bool index_item(const lc_tensor *t, int64_t i, int64_t *out) {
  const char *at = t->data;
  float f;
  int32_t n;
  switch (t->dtype) {
  case LC_I32:
    memcpy(&n, at + i * 4, 4);
    *out = n;
    return true;
  case LC_I64:
    memcpy(out, at + i * 8, 8);
    return true;
  default:
    memcpy(&f, at + i * 4, 4);
    if (!(f == floorf(f)) || fabsf(f) >= 16777216) return false; /* f32 counts exactly below 2^24 only */
    *out = (int64_t)f;
    return true;
  }
}

static lc_status check_shapes(lc_ctx *ctx, const char *path, const lc_weight *w, const lc_tensor *v,
                              const lc_tensor *x, int64_t r) {
  const int64_t K = r * (w->M + w->N);
  if (v->ndim != 1)
    return lc_fail(ctx, "%s: shira_weight of '%s' has %d dimensions, expected one", path, w->module, v->ndim);
  if (v->shape[0] != K)
    return lc_fail(ctx,
                   "%s: shira_weight of '%s' has %lld values, but r = %lld makes %lld×(%lld+%lld) = %lld",
                   path, w->module, (long long)v->shape[0], (long long)r, (long long)r, (long long)w->M,
                   (long long)w->N, (long long)K);
  if (K > w->M * w->N)
    return lc_fail(ctx, "%s: %lld values are more than '%s' (%lld×%lld) has entries", path, (long long)K,
                   w->module, (long long)w->M, (long long)w->N);
  if (x->ndim != 2 || x->shape[0] != 2 || x->shape[1] != K)
    return lc_fail(ctx, "%s: shira_indices of '%s' is not 2×%lld", path, w->module, (long long)K);
  if (x->dtype != LC_I32 && x->dtype != LC_I64 && x->dtype != LC_F32)
    return lc_fail(ctx, "%s: shira_indices of '%s' is %s: int32, int64 and whole f32 can be read", path,
                   w->module, lc_dtype_get(x->dtype)->name);
  return LC_OK;
}

static lc_status read_entries(lc_ctx *ctx, const char *path, const lc_weight *w, const float *value,
                              const lc_tensor *x, entry *e) {
  const int64_t K = x->shape[1];
  for (int64_t k = 0; k < K; k++) {
    int64_t row, col;
    if (!index_item(x, k, &row) || !index_item(x, K + k, &col))
      return lc_fail(ctx, "%s: index %lld of '%s' is no whole number below 2^24", path, (long long)k,
                     w->module);
    if (row < 0 || row >= w->M)
      return lc_fail(ctx, "%s: index %lld of '%s' names row %lld of %lld", path, (long long)k, w->module,
                     (long long)row, (long long)w->M);
    if (col < 0 || col >= w->N)
      return lc_fail(ctx, "%s: index %lld of '%s' names column %lld of %lld", path, (long long)k, w->module,
                     (long long)col, (long long)w->N);
    e[k] = (entry){row * w->N + col, value[k], k};
  }
  return LC_OK;
}

static lc_status read_target(lc_adapter_parts *p, const char *path, lc_weight *w, const lc_named_tensor *v,
                             const lc_tensor *x, int64_t r) {
  lc_ctx *ctx = p->net->ctx;
  lc_status st = LC_OK;
  lc_index idx = {0};
  lc_delta *d;
  LC_TRY(check_shapes(ctx, path, w, &v->t, x, r));
  const int64_t K = v->t.shape[0];
  int64_t n = 0, *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  entry *e = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *e);
  float *value = NULL;
  if (!flat || !e) LC_GO(LC_FAILED);
  LC_GO(lc_peft_values(ctx, path, v, &value));
  LC_GO(read_entries(ctx, path, w, value, x, e));
  qsort(e, (size_t)K, sizeof *e, by_flat);
  for (int64_t k = 0; k < K; k++) {
    if (n && flat[n - 1] == e[k].flat) {
      value[n - 1] += e[k].value;
      continue;
    }
    flat[n] = e[k].flat;
    value[n++] = e[k].value;
  }
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, n, &idx));
  LC_GO(lc_delta_sparse_new(ctx, w, &idx, value, false, &d));
  LC_GO(lc_parts_add(p, d));
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, flat);
  lc_free(ctx, e);
  lc_free(ctx, value);
  return st;
}

lc_status lc_peft_read_shira(lc_adapter_parts *p, const char *path, const lc_safetensors *file) {
  lc_net *net = p->net;
  lc_ctx *ctx = net->ctx;
  int64_t r;
  char module[512] = "", other[600];
  bool *has = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)net->weights.n, sizeof *has);
  lc_status st = has ? LC_OK : LC_FAILED;
  if (!st) st = lc_in_file(ctx, p->config_path, lc_json_i64_or(ctx, p->config, "r", 32, &r));
  if (!st && (r < 1 || r > INT32_MAX))
    st = lc_fail(ctx, "%s: r is %lld; 1 to %d is possible", p->config_path, (long long)r, INT32_MAX);
  for (int i = 0; i < file->n && !st; i++) {
    const lc_named_tensor *t = &file->tensor[i];
    const bool is_weight = strstr(t->name, ".shira_weight") != NULL;
    if (lc_head_weight(net, t->name)) {
      LC_GO(lc_head_read(p, path, t));
      continue;
    }
    lc_weight *w =
        lc_peft_weight(net, t->name, is_weight ? ".shira_weight" : ".shira_indices", module, sizeof module);
    if (!is_weight && !strstr(t->name, ".shira_indices"))
      LC_GO(lc_fail(ctx, "%s: tensor '%s' is no part of a SHiRA that can be read", path, t->name));
    if (strncmp(t->name, "base_model.model.", 17))
      LC_GO(lc_fail(ctx, "%s: tensor '%s' does not begin with 'base_model.model.'", path, t->name));
    if (!w) LC_GO(lc_fail(ctx, "%s: tensor '%s': the model has no module '%s'", path, t->name, module));
    if (w->ndim != 2 || lc_adapter_is_conv1d(net, w))
      LC_GO(lc_fail(ctx, "%s: '%s' is no linear layer in Hugging Face's form: PEFT has no SHiRA for it", path,
                    module));
    snprintf(other, sizeof other, "base_model.model.%s%s", module,
             is_weight ? ".shira_indices" : ".shira_weight");
    const lc_tensor *pair = lc_safetensors_find(file, other);
    if (!pair) LC_GO(lc_fail(ctx, "%s: '%s' has no '%s' beside it", path, t->name, other));
    if (!is_weight) continue;
    has[w - net->weights.w] = true;
    LC_GO(read_target(p, path, w, t, pair, r));
  }
  if (!st) st = lc_peft_check_targets(p, has);
done:
  lc_free(ctx, has);
  return st;
}

/* ---- writing ---- */

/* The least r with r(M+N) >= K in every target. */
static int64_t least_r(const lc_adapter *a) {
  int64_t r = 1;
  for (int i = 0; i < a->n; i++)
    r = lc_max64(r,
                 lc_ceil_div(a->delta[i]->ops->nonzeros(a->delta[i]), a->delta[i]->w->M + a->delta[i]->w->N));
  return r;
}

const char *lc_adapter_shira_refusal(const lc_adapter *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->delta[i]->ops != &lc_delta_sparse) return "it has deltas that are not sparse";
    if (lc_adapter_is_conv1d(a->net, a->delta[i]->w))
      return "PEFT has no SHiRA for Conv1D layers, which this model has";
    if (a->delta[i]->w->kind != LC_KIND_LINEAR) return "it changes a weight that is no linear layer's";
  }
  const int64_t r = least_r(a);
  for (int i = 0; i < a->n; i++)
    if (r * (a->delta[i]->w->M + a->delta[i]->w->N) > a->delta[i]->w->M * a->delta[i]->w->N)
      return "no r fits: r·(rows+columns) values would be more than one of the targets has entries";
  return NULL;
}

/* The delta's positions and values, and padding: K of each, in row-major order. */
static lc_status pad(lc_ctx *ctx, const lc_delta *d, int64_t K, int32_t *index, float *value) {
  lc_entries e;
  LC_TRY(lc_param_entries(ctx, d->param[0], &e));
  const int64_t N = d->w->N;
  int64_t k = 0, at = 0, spare = K - e.idx.n;
  for (int64_t out = 0; out < K; out++, at++) {
    const int64_t next = k < e.idx.n ? lc_index_at(&e.idx, k) : INT64_MAX;
    if (!spare) at = next; /* no padding left: jump to the next own position */
    const bool own = at == next;
    value[out] = own ? e.value[k++] : 0;
    if (!own) spare--;
    index[out] = (int32_t)(at / N);
    index[K + out] = (int32_t)(at % N);
  }
  lc_entries_free(ctx, &e);
  return LC_OK;
}

static lc_status write_tensors(const lc_adapter *a, int64_t r, lc_safetensors_writer *w) {
  lc_ctx *ctx = a->net->ctx;
  char name[700];
  int64_t most = 0;
  for (int i = 0; i < a->n; i++) {
    const lc_weight *t = a->delta[i]->w;
    const int64_t K = r * (t->M + t->N);
    most = lc_max64(most, K);
    snprintf(name, sizeof name, "base_model.model.%s.shira_indices", t->module);
    LC_TRY(lc_safetensors_declare(w, name, LC_I32, 2, (int64_t[]){2, K}));
    snprintf(name, sizeof name, "base_model.model.%s.shira_weight", t->module);
    LC_TRY(lc_safetensors_declare(w, name, LC_F32, 1, &K));
  }
  LC_TRY(lc_head_declare(a, w));
  lc_status st = LC_OK;
  int32_t *index = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(2 * most), sizeof *index);
  float *value = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)most, sizeof *value);
  if (!index || !value) LC_GO(LC_FAILED);
  for (int i = 0; i < a->n; i++) {
    const int64_t K = r * (a->delta[i]->w->M + a->delta[i]->w->N);
    LC_GO(pad(ctx, a->delta[i], K, index, value));
    LC_GO(lc_safetensors_append(w, index, (size_t)(2 * K) * sizeof *index));
    LC_GO(lc_safetensors_append(w, value, (size_t)K * sizeof *value));
  }
  LC_GO(lc_head_append(a, w));
done:
  lc_free(ctx, index);
  lc_free(ctx, value);
  return st;
}

static lc_status write_config(const lc_adapter *a, int64_t r, const char *dir, const lc_adapter_meta *meta) {
  lc_ctx *ctx = a->net->ctx;
  json_t *c = a->config
                  ? json_deep_copy(a->config)
                  : json_pack("{s:n, s:b, s:b, s:s, s:n, s:s, s:I, s:n}", "auto_mapping", "fan_in_fan_out", 0,
                              "init_weights", 1, "mask_type", "random", "modules_to_save", "peft_type",
                              "SHIRA", "random_seed", (json_int_t)meta->seed, "revision");
  char *path = lc_path_join(ctx, dir, LC_PEFT_CONFIG);
  lc_status st = c && path ? LC_OK : lc_fail(ctx, "%s: could not make %s", dir, LC_PEFT_CONFIG);
  if (!st && !a->config) st = lc_peft_common(c, a, meta);
  if (!st) json_object_set_new(c, "r", json_integer(r));
  if (!st && a->config && meta->base_name)
    json_object_set_new(c, "base_model_name_or_path", json_string(meta->base_name));
  if (!st) st = lc_json_write(ctx, path, c);
  json_decref(c);
  lc_free(ctx, path);
  return st;
}

lc_status lc_peft_write_shira(const lc_adapter *a, const char *dir, const lc_adapter_meta *meta) {
  lc_ctx *ctx = a->net->ctx;
  const int64_t r = least_r(a);
  lc_safetensors_writer *w = NULL;
  char *path = lc_path_join(ctx, dir, LC_PEFT_FILE);
  lc_status st = path ? lc_safetensors_create(ctx, path, &w) : LC_FAILED;
  if (!st) {
    st = write_tensors(a, r, w);
    lc_status end = lc_safetensors_finish(w, st == LC_OK);
    if (!st) st = end;
  }
  lc_free(ctx, path);
  return st ? st : write_config(a, r, dir, meta);
}
