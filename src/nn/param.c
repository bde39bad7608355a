/* Trainables: compact vectors of values with typed columns over a sorted set of positions. A change of the set moves all columns together. */
#include "nn/nn.h"
#include <string.h>

lc_status lc_param_new(lc_ctx *ctx, const char *name, lc_weight *of, lc_index *idx, int64_t rows,
                       int64_t cols, bool trained, lc_param **out) {
  *out = NULL;
  size_t count;
  if (rows <= 0 || cols <= 0 || !lc_mul((size_t)rows, (size_t)cols, &count))
    return lc_fail(ctx, "trainable '%s': %lld×%lld is no shape", name, (long long)rows, (long long)cols);
  int64_t n = idx && idx->kind != LC_ALL ? idx->n : rows * cols;
  if (n < 0 || (n == 0 && (!idx || idx->kind == LC_ALL)))
    return lc_fail(ctx, "trainable '%s': no entries", name);
  lc_param *p = lc_alloc(ctx, LC_MEM_OTHER, sizeof *p);
  if (!p) return LC_FAILED;
  *p = (lc_param){
      .of = of, .n = n, .rows = rows, .cols = cols, .decays = true, .lr_factor = 1, .wants_grad = trained};
  p->name = lc_strdup(ctx, name);
  p->value = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)n, sizeof(float));
  p->grad = trained ? lc_alloc_n(ctx, LC_MEM_GRAD, (size_t)n, sizeof(float)) : NULL;
  if (!p->name || !p->value || (trained && !p->grad)) {
    lc_param_free(ctx, p);
    return LC_FAILED;
  }
  if (idx) {
    p->idx = *idx;
    *idx = (lc_index){0};
  }
  p->idx.n = n;
  *out = p;
  return LC_OK;
}

void lc_param_free(lc_ctx *ctx, lc_param *p) {
  if (!p) return;
  for (int c = 0; c < p->n_col; c++) lc_free(ctx, p->col[c].data);
  if (p->idx.kind != LC_ALL) lc_index_free(ctx, &p->idx);
  if (p->retired.kind != LC_ALL) lc_index_free(ctx, &p->retired);
  lc_free(ctx, p->retired_value);
  lc_free(ctx, p->value);
  lc_free(ctx, p->grad);
  lc_free(ctx, p->name);
  lc_free(ctx, p);
}

float *lc_param_find(const lc_param *p, const char *column) {
  for (int c = 0; c < p->n_col; c++)
    if (!strcmp(p->col[c].name, column)) return p->col[c].data;
  return NULL;
}

lc_status lc_param_column(lc_ctx *ctx, lc_param *p, const char *name, lc_axis axis, float initial,
                          float **data) {
  float *found = lc_param_find(p, name);
  if (!found) {
    if (p->n_col == LC_MAX_COLUMNS)
      return lc_fail(ctx, "trainable '%s': more than %d columns", p->name, LC_MAX_COLUMNS);
    int64_t n = axis == LC_AXIS_ENTRY ? p->n : axis == LC_AXIS_ROW ? p->rows : p->cols;
    found = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)n, sizeof(float));
    if (!found) return LC_FAILED;
    for (int64_t k = 0; k < n && initial != 0; k++) found[k] = initial;
    p->col[p->n_col++] = (lc_column){name, axis, n, initial, found};
  }
  if (data) *data = found;
  return LC_OK;
}

void lc_param_reset(lc_param *p) {
  for (int c = 0; c < p->n_col; c++)
    for (int64_t k = 0; k < p->col[c].n; k++) p->col[c].data[k] = p->col[c].initial;
}

static void permute(float *x, const int64_t *from, int64_t n, float fresh, float *tmp) {
  for (int64_t k = 0; k < n; k++) tmp[k] = from[k] < 0 ? fresh : x[from[k]];
  memcpy(x, tmp, (size_t)n * sizeof *x);
}

lc_status lc_param_reindex(lc_param *p, const void *to, const int64_t *from, float *tmp) {
  permute(p->value, from, p->n, 0, tmp);
  if (p->grad) permute(p->grad, from, p->n, 0, tmp);
  for (int c = 0; c < p->n_col; c++)
    if (p->col[c].axis == LC_AXIS_ENTRY) permute(p->col[c].data, from, p->n, p->col[c].initial, tmp);
  memcpy(p->idx.at, to, (size_t)p->n * (p->idx.kind == LC_LIST32 ? sizeof(int32_t) : sizeof(int64_t)));
  return LC_OK;
}

lc_status lc_param_visit(lc_param *p, lc_visitor *v) {
  char name[512];
  snprintf(name, sizeof name, "%s:value", p->name);
  LC_TRY(v->array(v, name, LC_F32, p->n, p->value));
  if (p->idx.kind != LC_ALL) {
    snprintf(name, sizeof name, "%s:index", p->name);
    LC_TRY(v->array(v, name, p->idx.kind == LC_LIST32 ? LC_I32 : LC_I64, p->n, p->idx.at));
  }
  if (p->retired.n) {
    snprintf(name, sizeof name, "%s:retired_value", p->name);
    LC_TRY(v->array(v, name, LC_F32, p->retired.n, p->retired_value));
    snprintf(name, sizeof name, "%s:retired_index", p->name);
    LC_TRY(v->array(v, name, p->retired.kind == LC_LIST32 ? LC_I32 : LC_I64, p->retired.n, p->retired.at));
  }
  for (int c = 0; c < p->n_col; c++) {
    snprintf(name, sizeof name, "%s:%s", p->name, p->col[c].name);
    LC_TRY(v->array(v, name, LC_F32, p->col[c].n, p->col[c].data));
  }
  return LC_OK;
}

size_t lc_param_bytes(const lc_param *p) {
  size_t bytes = (size_t)(p->n + p->retired.n) * sizeof(float);
  if (p->idx.kind == LC_LIST32) bytes += (size_t)p->n * sizeof(int32_t);
  if (p->idx.kind == LC_LIST64) bytes += (size_t)p->n * sizeof(int64_t);
  if (p->retired.n) bytes += (size_t)p->retired.n * (p->retired.kind == LC_LIST32 ? 4u : 8u);
  for (int c = 0; c < p->n_col; c++) bytes += (size_t)p->col[c].n * sizeof(float);
  return bytes;
}
