/* Targets, budgets and adapters of a run: see attach.h. */
#include "train/attach.h"
#include <math.h>
#include <string.h>

lc_status lc_target_set_open(lc_training *t, lc_target_set *s) {
  *s = (lc_target_set){0};
  LC_TRY(lc_targets(t->net, t->opts.targets ? t->opts.targets : "all-linear", &s->w, &s->n));
  s->K = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)s->n, sizeof *s->K);
  if (!s->K) {
    lc_target_set_free(t->ctx, s);
    return LC_FAILED;
  }
  for (int l = 0; l < s->n; l++) s->entries += s->w[l]->M * s->w[l]->N;
  return LC_OK;
}

void lc_target_set_free(lc_ctx *ctx, lc_target_set *s) {
  lc_free(ctx, s->w);
  lc_free(ctx, s->K);
  *s = (lc_target_set){0};
}

lc_status lc_target_set_density(lc_training *t, lc_target_set *s, double density, int64_t of) {
  if (!(density > 0 && density <= 1)) return lc_usage(t->ctx, "density %g is not in (0, 1]", density);
  LC_TRY(lc_budget_split(t->ctx, (int64_t)floor(density * (double)of), s->w, s->n, s->K));
  s->total = 0;
  for (int l = 0; l < s->n; l++) s->total += s->K[l];
  return LC_OK;
}

lc_status lc_target_set_rank(lc_training *t, lc_target_set *s, int64_t r) {
  s->total = 0;
  for (int l = 0; l < s->n; l++) {
    const lc_weight *w = s->w[l];
    if (r < 1 || r > INT32_MAX || r * (w->M + w->N) > w->M * w->N)
      return lc_usage(t->ctx, "'%s' has %lld×%lld = %lld entries: r = %lld asks for %lld of them", w->name,
                      (long long)w->M, (long long)w->N, (long long)(w->M * w->N), (long long)r,
                      (long long)(r < 1 || r > INT32_MAX ? r : r * (w->M + w->N)));
    s->total += s->K[l] = r * (w->M + w->N);
  }
  return LC_OK;
}

lc_status lc_attach_delta(lc_training *t, lc_weight *w, lc_delta *d, lc_delta **out) {
  lc_status st = lc_weight_attach(t->ctx, w, d);
  if (st) {
    d->ops->free(t->ctx, d);
    return st;
  }
  *out = d;
  if (!t->adapter && (st = lc_adapter_new(t->net, t->method->name, &t->adapter))) {
    lc_weight_detach(t->ctx, w, d, true);
    return st;
  }
  if ((st = lc_adapter_add(t->adapter, d))) lc_weight_detach(t->ctx, w, d, true);
  return st;
}

lc_status lc_attach_sparse(lc_training *t, lc_weight *w, lc_index *idx, lc_delta **out) {
  lc_delta *d;
  LC_TRY(lc_delta_sparse_new(t->ctx, w, idx, NULL, true, &d));
  return lc_attach_delta(t, w, d, out);
}

lc_status lc_attach_stored_index(lc_ctx *ctx, const lc_weight *w, const lc_tensor *at, lc_index *out) {
  const int64_t n = lc_tensor_count(at);
  *out = (lc_index){.kind = LC_LIST32};
  if (at->dtype != LC_I32 && at->dtype != LC_I64)
    return lc_fail(ctx, "the checkpoint's positions of '%s' are %s", w->name, lc_dtype_get(at->dtype)->name);
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n + 1, sizeof *flat);
  if (!flat) return LC_FAILED;
  const lc_index x = {at->dtype == LC_I64 ? LC_LIST64 : LC_LIST32, n, (void *)(uintptr_t)at->data};
  for (int64_t k = 0; k < n; k++) flat[k] = lc_index_at(&x, k);
  lc_status st = lc_index_new(ctx, w->M, w->N, flat, lc_max64(n, 1), out);
  lc_free(ctx, flat);
  return st ? lc_fail(ctx, "the checkpoint's positions of '%s': %s", w->name, lc_error(ctx)) : LC_OK;
}

lc_status lc_attach_stored(lc_training *t, lc_weight *w, lc_delta **out) {
  lc_ctx *ctx = t->ctx;
  lc_status st = LC_OK;
  lc_index idx = {.kind = LC_LIST32};
  char key[600];
  *out = NULL;
  char *name = lc_delta_sparse_name(ctx, w);
  if (!name) return LC_FAILED;
  snprintf(key, sizeof key, "%s:index", name);
  const lc_tensor *at = lc_training_stored(t, key);
  snprintf(key, sizeof key, "%s:retired_index", name);
  const lc_tensor *gone = lc_training_stored(t, key);
  if (!at) goto done;
  LC_GO(lc_attach_stored_index(ctx, w, at, &idx));
  LC_GO(lc_attach_sparse(t, w, &idx, out));
  if (!lc_tensor_count(at)) {
    lc_index none = {.kind = (*out)->param[0]->idx.kind};
    LC_GO(lc_param_move(ctx, (*out)->param[0], &none, NULL));
  }
  if (gone) LC_GO(lc_param_retired_new(ctx, (*out)->param[0], lc_tensor_count(gone)));
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, name);
  return st;
}

lc_status lc_attach_base_values(lc_ctx *ctx, const lc_weight *w, const lc_index *x, float *out) {
  const int64_t N = w->N;
  float *row = lc_scratch(ctx, lc_worker(ctx), 2, (size_t)N * sizeof *row);
  if (!row) return LC_FAILED;
  for (int64_t k = 0, at = -1; k < x->n; k++) {
    const int64_t r = lc_index_at(x, k) / N;
    if (r != at) LC_TRY(w->base->ops->decode(ctx, w->base, (lc_rect){r, r + 1, 0, N}, LC_F32, row, N));
    at = r;
    out[k] = row[lc_index_at(x, k) - r * N];
  }
  return LC_OK;
}

lc_status lc_attach_origin(lc_training *t, lc_delta *d) {
  float *origin;
  if (t->opts.weight_decay == 0) return LC_OK;
  LC_TRY(lc_param_column(t->ctx, d->param[0], LC_ORIGIN, LC_AXIS_ENTRY, 0, &origin));
  return lc_attach_base_values(t->ctx, d->w, &d->param[0]->idx, origin);
}

lc_status lc_attach_lora(lc_training *t, lc_weight *w, const lc_lora_opts *o, const float *A,
                         lc_delta **out) {
  lc_delta *d;
  LC_TRY(lc_delta_lora_new(t->ctx, w, o, A, NULL, true, &d));
  return lc_attach_delta(t, w, d, out);
}

lc_status lc_attach_mask(lc_training *t, lc_weight *w, lc_mask *m) {
  char name[512];
  lc_delta *d;
  snprintf(name, sizeof name, "%s.%s.bits", w->name, lc_delta_mask.name);
  const lc_tensor *stored = lc_training_stored(t, name);
  if (stored) {
    const lc_mask of = *m;
    lc_mask_free(t->ctx, m);
    LC_TRY(lc_mask_new(t->ctx, w->M, w->N, m));
    if (lc_tensor_count(stored) != (int64_t)lc_mask_bytes(w->M, w->N)) {
      lc_mask_free(t->ctx, m);
      return lc_fail(t->ctx, "the checkpoint's mask of '%s' has another size", w->name);
    }
    memcpy(m->bits, stored->data, lc_mask_bytes(w->M, w->N));
    m->kept = lc_mask_count(m);
    m->structure = of.structure;
    m->group = of.group;
  }
  if (!m->bits) return LC_OK;
  LC_TRY(lc_delta_mask_new(t->ctx, w, m, &d));
  return lc_attach_delta(t, w, d, &d);
}

/* Of one weight, row by row: entries that its patches change, and those of them that bf16 rounds away. */
static lc_status count_invisible(lc_ctx *ctx, const lc_delta *d, int64_t *changed, int64_t *lost) {
  const lc_weight *w = d->w;
  const int64_t N = w->N;
  float *row = lc_scratch(ctx, 0, 12, (size_t)(2 * N) * sizeof *row), *change = row + N;
  if (!row) return LC_FAILED;
  for (int64_t r = 0; r < w->M; r++) {
    const lc_rect at = {r, r + 1, 0, N};
    memset(change, 0, (size_t)N * sizeof *change);
    LC_TRY(d->ops->patch(ctx, d, at, change, N));
    LC_TRY(w->base->ops->decode(ctx, w->base, at, LC_F32, row, N));
    for (int64_t c = 0; c < N; c++) {
      if (change[c] == 0) continue;
      ++*changed;
      *lost += lc_f32_to_bf16(row[c] + change[c]) == lc_f32_to_bf16(row[c]);
    }
  }
  return LC_OK;
}

lc_status lc_attach_invisible(lc_training *t, double *share) {
  int64_t changed = 0, lost = 0;
  *share = 0;
  if (t->net->compute == LC_F32) return LC_OK;
  for (int i = 0; i < t->adapter->n; i++)
    if (t->adapter->delta[i]->ops->patch && !t->adapter->delta[i]->ops->emit)
      LC_TRY(count_invisible(t->ctx, t->adapter->delta[i], &changed, &lost));
  if (changed) *share = (double)lost / (double)changed;
  return LC_OK;
}

lc_status lc_attach_save(lc_training *t, lc_layout layout, const char *mask_type, const char *dir) {
  lc_adapter_meta meta = {
      .base_name = t->opts.base_name ? t->opts.base_name : t->net->model->path,
      .targets = t->opts.targets,
      .method = t->method->name,
      .template_name = t->data ? lc_data_describe(t->data).template_name : NULL,
      .mask_type = mask_type,
      .seed = t->opts.seed,
  };
  return lc_adapter_save(t->adapter, layout, dir, &meta);
}

lc_status lc_attach_save_deltas(lc_training *t, lc_delta **delta, int n, lc_layout layout,
                                const char *mask_type, const char *dir) {
  lc_adapter part = {
      .name = (char *)(uintptr_t)t->method->name, .scale = 1, .net = t->net, .delta = delta, .n = n};
  lc_adapter *own = t->adapter;
  part.exact_base = own && own->exact_base;
  t->adapter = &part;
  lc_status st = lc_attach_save(t, layout, mask_type, dir);
  t->adapter = own;
  return st;
}

lc_status lc_attach_save_as(lc_training *t, lc_layout layout, lc_as_fn as, const char *dir, int *n) {
  const lc_adapter *all = t->adapter;
  lc_status st = LC_OK;
  int made = 0;
  lc_delta **part = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)all->n, sizeof *part);
  if (!part) return LC_FAILED;
  for (int i = 0; i < all->n; i++) {
    lc_delta *d = NULL;
    LC_GO(as(t->ctx, all->delta[i], &d));
    if (d) part[made++] = d;
  }
  if (made) st = lc_attach_save_deltas(t, part, made, layout, NULL, dir);
  if (n) *n = made;
done:
  for (int i = 0; i < made; i++) part[i]->ops->free(t->ctx, part[i]);
  lc_free(t->ctx, part);
  return st;
}

static lc_status as_lora(lc_ctx *ctx, const lc_delta *d, lc_delta **out) {
  if (d->ops != &lc_delta_lora) return LC_OK;
  return lc_delta_lora_new(ctx, d->w, lc_delta_lora_opts(d), d->param[0]->value, d->param[1]->value, false,
                           out);
}

/* With the factor in the values. */
static lc_status as_entries(lc_ctx *ctx, const lc_delta *d, lc_delta **out) {
  lc_index idx;
  if (d->ops != &lc_delta_sparse) return LC_OK;
  LC_TRY(lc_index_dup(ctx, &d->param[0]->idx, &idx));
  lc_status st = lc_delta_sparse_new(ctx, d->w, &idx, d->param[0]->value, false, out);
  lc_index_free(ctx, &idx);
  for (int64_t k = 0; !st && k < (*out)->param[0]->n; k++)
    (*out)->param[0]->value[k] *= (float)lc_delta_sparse_factor(d);
  return st;
}

lc_status lc_attach_save_parts(lc_training *t, const char *dir) {
  char *lora = lc_path_join(t->ctx, dir, "lora"), *entries = lc_path_join(t->ctx, dir, "entries");
  lc_status st = lora && entries ? lc_attach_save_as(t, LC_LAYOUT_PEFT_LORA, as_lora, lora, NULL) : LC_FAILED;
  if (!st) st = lc_attach_save_as(t, LC_LAYOUT_NATIVE, as_entries, entries, NULL);
  lc_free(t->ctx, lora);
  lc_free(t->ctx, entries);
  return st;
}
