/* A trainable's set of positions moves; entries that leave keep their change.
 *
 * What has left with a value other than 0 is retired: a second sorted list of positions and values beside the trained
 * one, with which the delta goes on being applied and saved, and which no optimiser sees (4 B position, 4 B value an
 * entry). An entry that comes back takes its value along. The two lists never share a position. */
#include "nn/nn.h"
#include <string.h>

static void put(lc_index *x, int64_t k, int64_t flat) {
  if (x->kind == LC_LIST32)
    ((int32_t *)x->at)[k] = (int32_t)flat;
  else
    ((int64_t *)x->at)[k] = flat;
}

static lc_status list(lc_ctx *ctx, lc_index_kind kind, int64_t n, lc_index *x, float **value) {
  *x = (lc_index){.kind = kind, .n = n};
  x->at = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)n, kind == LC_LIST32 ? sizeof(int32_t) : sizeof(int64_t));
  *value = lc_alloc_n(ctx, LC_MEM_TRAINABLE, (size_t)n, sizeof **value);
  if (x->at && *value) return LC_OK;
  lc_free(ctx, x->at);
  lc_free(ctx, *value);
  *x = (lc_index){0};
  *value = NULL;
  return LC_FAILED;
}

static void drop_retired(lc_ctx *ctx, lc_param *p) {
  if (p->retired.kind != LC_ALL) lc_index_free(ctx, &p->retired);
  lc_free(ctx, p->retired_value);
  p->retired = (lc_index){0};
  p->retired_value = NULL;
}

lc_status lc_param_retired_new(lc_ctx *ctx, lc_param *p, int64_t n) {
  drop_retired(ctx, p);
  return n ? list(ctx, p->idx.kind, n, &p->retired, &p->retired_value) : LC_OK;
}

lc_status lc_param_entries(lc_ctx *ctx, const lc_param *p, lc_entries *e) {
  *e = (lc_entries){.idx = p->idx, .value = p->value};
  if (!p->retired.n) return LC_OK;
  LC_TRY(list(ctx, p->idx.kind, p->n + p->retired.n, &e->idx, &e->value));
  e->owned = true;
  for (int64_t i = 0, j = 0, k = 0; k < e->idx.n; k++) {
    const bool own = j == p->retired.n || (i < p->n && lc_index_at(&p->idx, i) < lc_index_at(&p->retired, j));
    put(&e->idx, k, own ? lc_index_at(&p->idx, i) : lc_index_at(&p->retired, j));
    e->value[k] = own ? p->value[i++] : p->retired_value[j++];
  }
  return LC_OK;
}

void lc_entries_free(lc_ctx *ctx, lc_entries *e) {
  if (e->owned) {
    lc_index_free(ctx, &e->idx);
    lc_free(ctx, e->value);
  }
  *e = (lc_entries){0};
}

/* old[k]: place of to's entry k in the trained list (-1: none); came[k]: its retired value. */
static void match(const lc_param *p, const lc_index *to, int64_t *old, float *came) {
  for (int64_t k = 0, i = 0, j = 0; k < to->n; k++) {
    const int64_t flat = lc_index_at(to, k);
    while (i < p->n && lc_index_at(&p->idx, i) < flat) i++;
    while (j < p->retired.n && lc_index_at(&p->retired, j) < flat) j++;
    old[k] = i < p->n && lc_index_at(&p->idx, i) == flat ? i : -1;
    came[k] = j < p->retired.n && lc_index_at(&p->retired, j) == flat ? p->retired_value[j] : 0;
  }
}

/* Trained and retired entries that are not in `to` and not 0: counted, and written when x has room. */
static int64_t leave(const lc_entries *all, const lc_index *to, lc_index *x, float *value) {
  int64_t n = 0;
  for (int64_t i = 0, k = 0; i < all->idx.n; i++) {
    const int64_t flat = lc_index_at(&all->idx, i);
    while (k < to->n && lc_index_at(to, k) < flat) k++;
    if ((k < to->n && lc_index_at(to, k) == flat) || all->value[i] == 0) continue;
    if (x) {
      put(x, n, flat);
      value[n] = all->value[i];
    }
    n++;
  }
  return n;
}

static lc_status moved(lc_ctx *ctx, lc_mem cat, float **x, const int64_t *old, int64_t n, float fresh) {
  float *to = lc_alloc_n(ctx, cat, (size_t)n, sizeof *to);
  if (!to) return LC_FAILED;
  for (int64_t k = 0; k < n; k++) to[k] = old[k] < 0 ? fresh : (*x)[old[k]];
  lc_free(ctx, *x);
  *x = to;
  return LC_OK;
}

lc_status lc_param_move(lc_ctx *ctx, lc_param *p, lc_index *to, int64_t *stayed) {
  lc_status st = LC_OK;
  lc_entries all = {0};
  lc_index gone = {0};
  float *gone_value = NULL;
  int64_t *old = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)to->n, sizeof *old);
  float *came = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)to->n, sizeof *came);
  if (!old || !came) LC_GO(LC_FAILED);
  if (p->idx.kind == LC_ALL || to->kind != p->idx.kind)
    LC_GO(lc_fail(ctx, "trainable '%s': its positions cannot move", p->name));
  match(p, to, old, came);
  LC_GO(lc_param_entries(ctx, p, &all));
  const int64_t n = leave(&all, to, NULL, NULL);
  if (n) LC_GO(list(ctx, p->idx.kind, n, &gone, &gone_value));
  if (n) leave(&all, to, &gone, gone_value);
  lc_entries_free(ctx, &all);
  LC_GO(moved(ctx, LC_MEM_TRAINABLE, &p->value, old, to->n, 0));
  if (p->grad) LC_GO(moved(ctx, LC_MEM_GRAD, &p->grad, old, to->n, 0));
  for (int c = 0; c < p->n_col; c++) {
    if (p->col[c].axis != LC_AXIS_ENTRY) continue;
    LC_GO(moved(ctx, LC_MEM_TRAINABLE, &p->col[c].data, old, to->n, p->col[c].initial));
    p->col[c].n = to->n;
  }
  int64_t same = 0;
  for (int64_t k = 0; k < to->n; k++) {
    if (old[k] < 0) p->value[k] = came[k];
    same += old[k] >= 0;
  }
  if (stayed) *stayed = same;
  drop_retired(ctx, p);
  p->retired = gone;
  p->retired_value = gone_value;
  gone = (lc_index){0};
  gone_value = NULL;
  lc_index_free(ctx, &p->idx);
  p->idx = *to;
  p->n = to->n;
  *to = (lc_index){0};
done:
  lc_entries_free(ctx, &all);
  if (gone.kind != LC_ALL) lc_index_free(ctx, &gone);
  lc_free(ctx, gone_value);
  lc_free(ctx, old);
  lc_free(ctx, came);
  return st;
}
