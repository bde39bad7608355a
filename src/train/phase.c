/* What one phase of a run leaves to the next: see phase.h. Trainables are known by weight, kind of delta and number, not by
 * name: names follow the order of attachment, which the next phase may change. */
#include "train/phase.h"
#include <string.h>

typedef struct {
  const lc_weight *w;
  const lc_delta_ops *ops; /* NULL: the weight itself */
  int param;
  int64_t n;
  float *value;
  lc_index idx;
} item;
struct lc_phase_values {
  item *item;
  int n;
};

typedef lc_status (*visit_fn)(void *arg, const lc_weight *, const lc_delta_ops *, int i, lc_param *);

static lc_status each(const lc_training *t, visit_fn fn, void *arg) {
  for (int i = 0; t->adapter && i < t->adapter->n;
       i++) { /* the run's own: other adapters of the net stay as they are */
    const lc_delta *d = t->adapter->delta[i];
    for (int p = 0; p < d->n_param; p++) LC_TRY(fn(arg, d->w, d->ops, p, d->param[p]));
  }
  for (int i = 0; i < t->net->n_own; i++) LC_TRY(fn(arg, t->net->own[i]->of, NULL, 0, t->net->own[i]));
  return LC_OK;
}

typedef struct {
  lc_ctx *ctx;
  lc_phase_values *c;
} taking;

static lc_status count(void *arg, const lc_weight *w, const lc_delta_ops *ops, int i, lc_param *p) {
  ++*(int *)arg;
  return LC_OK;
}

static lc_status take(void *arg, const lc_weight *w, const lc_delta_ops *ops, int i, lc_param *p) {
  const taking *a = arg;
  item *to = &a->c->item[a->c->n++];
  *to = (item){.w = w, .ops = ops, .param = i, .n = p->n};
  to->value = lc_alloc_n(a->ctx, LC_MEM_OTHER, (size_t)lc_max64(1, p->n), sizeof *to->value);
  if (!to->value) return LC_FAILED;
  memcpy(to->value, p->value, (size_t)p->n * sizeof *to->value);
  return p->idx.kind == LC_ALL ? LC_OK : lc_index_dup(a->ctx, &p->idx, &to->idx);
}

lc_status lc_phase_take(const lc_training *t, lc_phase_values **out) {
  int n = 0;
  *out = NULL;
  LC_TRY(each(t, count, &n));
  lc_phase_values *c = lc_alloc(t->ctx, LC_MEM_OTHER, sizeof *c);
  if (!c) return LC_FAILED;
  c->item = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n + 1, sizeof *c->item);
  taking a = {t->ctx, c};
  lc_status st = c->item ? each(t, take, &a) : LC_FAILED;
  if (st)
    lc_phase_free(t->ctx, c);
  else
    *out = c;
  return st;
}

void lc_phase_free(lc_ctx *ctx, lc_phase_values *c) {
  for (int i = 0; c && i < c->n; i++) {
    lc_free(ctx, c->item[i].value);
    if (c->item[i].idx.kind != LC_ALL) lc_index_free(ctx, &c->item[i].idx);
  }
  if (c) lc_free(ctx, c->item);
  lc_free(ctx, c);
}

static const item *find(const lc_phase_values *c, const lc_weight *w, const lc_delta_ops *ops, int i) {
  for (int k = 0; k < c->n; k++)
    if (c->item[k].w == w && c->item[k].ops == ops && c->item[k].param == i) return &c->item[k];
  return NULL;
}

const lc_index *lc_phase_index(const lc_phase_values *c, const lc_weight *w, const lc_delta_ops *ops) {
  const item *i = find(c, w, ops, 0);
  return i && i->idx.kind != LC_ALL ? &i->idx : NULL;
}

typedef struct {
  const lc_phase_values *c;
  lc_ctx *ctx;
} putting;

static lc_status put(void *arg, const lc_weight *w, const lc_delta_ops *ops, int i, lc_param *p) {
  const putting *a = arg;
  const item *from = find(a->c, w, ops, i);
  if (!from) return LC_OK;
  if (from->n != p->n)
    return lc_fail(a->ctx, "'%s' had %lld values in the phase before, now %lld", p->name, (long long)from->n,
                   (long long)p->n);
  memcpy(p->value, from->value, (size_t)p->n * sizeof *p->value);
  return LC_OK;
}

/* A task's head, say: the loop makes it trainable after attach, and then finds it done. */
static bool was_whole(const lc_weight *w, void *c) {
  return find(c, w, NULL, 0) != NULL;
}

lc_status lc_phase_put(const lc_phase_values *c, lc_training *t) {
  putting a = {c, t->ctx};
  LC_TRY(lc_net_train_whole(t->net, was_whole, (void *)(uintptr_t)c));
  return each(t, put, &a);
}
