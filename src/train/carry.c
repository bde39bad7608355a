/* Sparse changes that outlive a phase: see carry.h. */
#include "train/carry.h"
#include <string.h>

void lc_carry_clear(lc_ctx *ctx, lc_carried *c) {
  if (c->idx.kind != LC_ALL) lc_index_free(ctx, &c->idx);
  lc_free(ctx, c->value);
  c->idx = (lc_index){0};
  c->value = NULL;
}

/* Takes idx over; no change. */
static lc_status set(lc_ctx *ctx, lc_carried *c, lc_index *idx) {
  lc_carry_clear(ctx, c);
  c->idx = *idx;
  *idx = (lc_index){0};
  c->value = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)c->idx.n, sizeof *c->value);
  return c->value ? LC_OK : LC_FAILED;
}

lc_status lc_carry_all(lc_ctx *ctx, lc_carried *c) {
  const int64_t n = c->w->M * c->w->N;
  lc_index idx;
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *flat);
  if (!flat) return LC_FAILED;
  for (int64_t k = 0; k < n; k++) flat[k] = k;
  lc_status st = lc_index_new(ctx, c->w->M, c->w->N, flat, n, &idx);
  lc_free(ctx, flat);
  return st ? st : set(ctx, c, &idx);
}

lc_status lc_carry_take(lc_ctx *ctx, lc_carried *c, const lc_delta *d) {
  lc_entries e;
  lc_index idx = {0};
  LC_TRY(lc_param_entries(ctx, d->param[0], &e));
  lc_status st = lc_index_dup(ctx, &e.idx, &idx);
  if (!st) st = set(ctx, c, &idx);
  if (!st) memcpy(c->value, e.value, (size_t)e.idx.n * sizeof *c->value);
  lc_entries_free(ctx, &e);
  return st;
}

lc_status lc_carry_more(lc_ctx *ctx, lc_carried *c, lc_index *more) {
  if (c->idx.kind == LC_ALL || !c->idx.n) return set(ctx, c, more);
  lc_status st = LC_OK;
  lc_carried all = {.w = c->w};
  const int64_t n = c->idx.n + more->n;
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *flat);
  if (!flat) return LC_FAILED;
  for (int64_t k = 0; k < n; k++)
    flat[k] = k < c->idx.n ? lc_index_at(&c->idx, k) : lc_index_at(more, k - c->idx.n);
  lc_index idx;
  LC_GO(lc_index_new(ctx, c->w->M, c->w->N, flat, n, &idx)); /* sorts */
  LC_GO(set(ctx, &all, &idx));
  for (int64_t k = 0, j = 0; j < c->idx.n; k++)
    if (lc_index_at(&all.idx, k) == lc_index_at(&c->idx, j)) all.value[k] = c->value[j++];
  lc_carry_clear(ctx, c);
  *c = all;
  all = (lc_carried){0};
  lc_index_free(ctx, more);
done:
  lc_carry_clear(ctx, &all);
  lc_free(ctx, flat);
  return st;
}

lc_status lc_carry_attach(lc_training *t, lc_carried *c, bool trainable, bool keep, lc_delta **out) {
  lc_index idx = {.kind = LC_LIST32};
  lc_delta *d;
  *out = NULL;
  if (c->idx.kind == LC_ALL || !c->idx.n) return LC_OK;
  LC_TRY(lc_index_dup(t->ctx, &c->idx, &idx));
  lc_status st = lc_delta_sparse_new(t->ctx, c->w, &idx, c->value, trainable, &d);
  lc_index_free(t->ctx, &idx);
  LC_TRY(st);
  if (!keep) lc_carry_clear(t->ctx, c);
  LC_TRY(lc_attach_delta(t, c->w, d, out));
  return trainable ? lc_attach_origin(t, d) : LC_OK;
}

void lc_carry_add(const lc_carried *c, lc_param *whole) {
  for (int64_t k = 0; c->idx.kind != LC_ALL && k < c->idx.n; k++)
    whole->value[lc_index_at(&c->idx, k)] += c->value[k];
}

static lc_status choose(lc_ctx *ctx, const lc_carried *c, int n, const lc_growth *g, lc_index *picked) {
  lc_status st = LC_OK;
  lc_weight **w = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *w);
  lc_index *taken = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *taken); /* borrowed */
  if (!w || !taken) LC_GO(LC_FAILED);
  for (int l = 0; l < n; l++) {
    w[l] = c[l].w;
    taken[l] = c[l].idx;
    if (g->random && taken[l].kind != LC_ALL && taken[l].n)
      LC_GO(lc_fail(ctx, "'%s': random entries are chosen once only", w[l]->name));
  }
  if (g->total && g->random) LC_GO(lc_select_global_random(ctx, w, n, g->seed, g->total, picked));
  const lc_scores all = {.w = w, .n = n, .score = lc_score_moved, .exclude = taken};
  if (g->total && !g->random) LC_GO(lc_select_global(ctx, &all, g->total, picked));
  for (int l = 0; l < n && !g->total; l++) {
    const lc_scores one = {.w = &w[l], .n = 1, .score = lc_score_moved, .exclude = &taken[l]};
    LC_GO(g->random ? lc_select_random(ctx, w[l], g->seed, g->each[l], 1, &picked[l])
                    : lc_select_global(ctx, &one, g->each[l], &picked[l]));
  }
done:
  lc_free(ctx, w);
  lc_free(ctx, taken);
  return st;
}

lc_status lc_carry_grow(lc_ctx *ctx, lc_carried *c, int n, const lc_growth *g) {
  lc_index *picked = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *picked);
  if (!picked) return LC_FAILED;
  lc_status st = choose(ctx, c, n, g, picked);
  for (int l = 0; l < n && !st; l++)
    if (picked[l].n) st = lc_carry_more(ctx, &c[l], &picked[l]);
  for (int l = 0; l < n; l++)
    if (picked[l].kind != LC_ALL) lc_index_free(ctx, &picked[l]);
  lc_free(ctx, picked);
  return st;
}

lc_status lc_carry_visit(const lc_carried *c, lc_visitor *v) {
  char name[600];
  if (c->idx.kind == LC_ALL) return LC_OK;
  snprintf(name, sizeof name, "%s.carried:value", c->w->name);
  LC_TRY(v->array(v, name, LC_F32, c->idx.n, c->value));
  snprintf(name, sizeof name, "%s.carried:index", c->w->name);
  return v->array(v, name, c->idx.kind == LC_LIST32 ? LC_I32 : LC_I64, c->idx.n, c->idx.at);
}

lc_status lc_carry_restore(lc_training *t, lc_carried *c) {
  char name[600];
  snprintf(name, sizeof name, "%s.carried:index", c->w->name);
  const lc_tensor *at = lc_training_stored(t, name);
  snprintf(name, sizeof name, "%s.carried:value", c->w->name);
  const lc_tensor *value = lc_training_stored(t, name);
  if (!at || !value) return LC_OK;
  const int64_t n = lc_tensor_count(at);
  lc_index idx;
  if (value->dtype != LC_F32 || lc_tensor_count(value) != n)
    return lc_fail(t->ctx, "%s: the checkpoint has %lld positions of '%s' and %lld values", t->out,
                   (long long)n, c->w->name, (long long)lc_tensor_count(value));
  if (!n) return LC_OK;
  LC_TRY(lc_attach_stored_index(t->ctx, c->w, at, &idx));
  LC_TRY(set(t->ctx, c, &idx));
  memcpy(c->value, value->data, (size_t)c->idx.n * sizeof *c->value);
  return LC_OK;
}

lc_status lc_carry_check(lc_ctx *ctx, const lc_carried *c) {
  return lc_index_check(ctx, &c->idx, c->w->M, c->w->N, c->w->name);
}
