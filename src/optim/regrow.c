/* Drop and grow: see regrow.h. The rules are SpIEL's (Ansell et al. 2024, arXiv 2401.16405), §"Reselect".
 *
 * Active entries, candidates and the chosen ones are lists sorted by position, so every set operation is one
 * walk along two lists; every choice by size goes through the exact top-k (ties to the lower position). */
#include "optim/regrow.h"
#include <math.h>
#include <string.h>

lc_status lc_regrow_new(lc_ctx *ctx, lc_param *active, bool candidates, lc_regrow **out) {
  lc_status st = LC_OK;
  *out = NULL;
  lc_regrow *g = lc_alloc(ctx, LC_MEM_OTHER, sizeof *g);
  if (!g) return LC_FAILED;
  g->active = active;
  if (candidates) {
    const size_t n = (size_t)active->n,
                 width = active->idx.kind == LC_LIST32 ? sizeof(int32_t) : sizeof(int64_t);
    lc_param *c = g->candidate = lc_alloc(ctx, LC_MEM_OTHER, sizeof *c);
    if (!c) LC_GO(LC_FAILED);
    *c = (lc_param){.of = active->of,
                    .n = active->n,
                    .rows = active->rows,
                    .cols = active->cols,
                    .lr_factor = 1,
                    .n_col = 1};
    c->idx = (lc_index){active->idx.kind, active->n, lc_alloc_n(ctx, LC_MEM_CANDIDATE, n, width)};
    c->value = lc_alloc_n(ctx, LC_MEM_CANDIDATE, n, sizeof(float));
    c->col[0] =
        (lc_column){"Q", LC_AXIS_ENTRY, active->n, 0, lc_alloc_n(ctx, LC_MEM_CANDIDATE, n, sizeof(float))};
    c->grad = lc_alloc_n(ctx, LC_MEM_GRAD, n, sizeof(float));
    c->name = lc_format(ctx, "%s.candidates", active->name);
    if (!c->idx.at || !c->value || !c->col[0].data || !c->grad || !c->name) LC_GO(LC_FAILED);
    memcpy(c->idx.at, active->idx.at,
           n * width); /* any distinct positions: none is looked at before a window opens */
    LC_GO(lc_weight_add_sink(ctx, active->of, (lc_sink){.kind = LC_SINK_ENTRIES, .param = c}));
  }
  *out = g;
  g = NULL;
done:
  lc_regrow_free(ctx, g);
  return st;
}

void lc_regrow_free(lc_ctx *ctx, lc_regrow *g) {
  if (!g) return;
  if (g->candidate) {
    lc_weight_remove_sink(g->candidate->of, g->candidate);
    lc_param_free(ctx, g->candidate);
  }
  lc_free(ctx, g);
}

lc_status lc_regrow_visit(lc_regrow *g, lc_visitor *v) {
  return g->candidate ? lc_param_visit(g->candidate, v) : LC_OK;
}

static void set_at(lc_index *x, int64_t k, int64_t flat) {
  if (x->kind == LC_LIST32)
    ((int32_t *)x->at)[k] = (int32_t)flat;
  else
    ((int64_t *)x->at)[k] = flat;
}

lc_status lc_regrow_candidates(lc_regrow *g, const lc_pick *pick, int64_t n) {
  lc_param *c = g->candidate;
  for (int64_t k = 0; k < lc_min64(n, c->n); k++) {
    set_at(&c->idx, k, pick[k].flat);
    c->value[k] = c->col[0].data[k] = 0;
    c->grad[k] = pick[k].payload;
  }
  return LC_OK;
}

void lc_regrow_watch(lc_regrow *g, bool on) {
  if (g->candidate) g->candidate->wants_grad = on;
}

void lc_regrow_accumulate(lc_regrow *g) {
  lc_param *c = g->candidate;
  for (int64_t k = 0; k < c->n; k++) {
    const float d = c->grad[k];
    c->value[k] += d;
    c->col[0].data[k] += d * d;
    c->grad[k] = 0;
  }
}

/* ---- scratch ---- */

struct lc_regrow_scratch {
  lc_topk *top;
  float *score;          /* also the reindexing's */
  int64_t *place;        /* what score[k] belongs to */
  int64_t *drop, n_drop; /* places of active entries that leave, ascending */
  int64_t *add, n_add;   /* positions that enter, ascending */
  int64_t *from;
  void *to;
  void *outer;
};

lc_status lc_regrow_scratch_new(lc_ctx *ctx, lc_regrow *const *g, int n, lc_regrow_scratch **out) {
  lc_status st = LC_OK;
  int64_t most = 1;
  size_t outer = 0;
  *out = NULL;
  for (int l = 0; l < n; l++) {
    const lc_param *p = g[l]->active;
    most = lc_max64(most, p->n);
    size_t bytes = g[l]->candidate ? 0 : lc_outer_topk_bytes(p->rows, p->cols, p->n);
    if (bytes > outer) outer = bytes;
  }
  lc_regrow_scratch *s = lc_alloc(ctx, LC_MEM_SCRATCH, sizeof *s);
  if (!s) return LC_FAILED;
  s->score = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof *s->score);
  s->place = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof *s->place);
  s->drop = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof *s->drop);
  s->add = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof *s->add);
  s->from = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof *s->from);
  s->to = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)most, sizeof(int64_t));
  s->outer = lc_alloc(ctx, LC_MEM_SCRATCH, outer);
  if (!s->score || !s->place || !s->drop || !s->add || !s->from || !s->to || !s->outer) LC_GO(LC_FAILED);
  LC_GO(lc_topk_new(ctx, most, &s->top));
  if (!lc_scratch(ctx, 0, 7, (size_t)most * sizeof(int64_t)))
    LC_GO(LC_FAILED); /* lc_index_swap's, so that it need not grow later */
  *out = s;
  s = NULL;
done:
  lc_regrow_scratch_free(ctx, s);
  return st;
}

void lc_regrow_scratch_free(lc_ctx *ctx, lc_regrow_scratch *s) {
  if (!s) return;
  lc_topk_free(s->top);
  lc_free(ctx, s->score);
  lc_free(ctx, s->place);
  lc_free(ctx, s->drop);
  lc_free(ctx, s->add);
  lc_free(ctx, s->from);
  lc_free(ctx, s->to);
  lc_free(ctx, s->outer);
  lc_free(ctx, s);
}

/* ---- choices ---- */

/* The k largest of score[0..m): their places, ascending. */
static lc_status largest(lc_regrow_scratch *s, int64_t m, int64_t k, const lc_pick **pick, int64_t *n) {
  *n = 0;
  if (!m || !k) return LC_OK;
  lc_topk_reset(s->top, k);
  LC_TRY(lc_topk_push(s->top, 0, 0, m, (lc_rect){0, 1, 0, m}, s->score, NULL, m, NULL));
  return lc_topk_take(s->top, pick, n);
}

/* drop = O: the n active entries of smallest |value|. */
static lc_status choose_leaving(lc_regrow_scratch *s, const lc_param *p, int64_t n) {
  const lc_pick *pick;
  for (int64_t k = 0; k < p->n; k++) s->score[k] = -fabsf(p->value[k]);
  LC_TRY(largest(s, p->n, n, &pick, &s->n_drop));
  for (int64_t k = 0; k < s->n_drop; k++) s->drop[k] = pick[k].flat;
  return LC_OK;
}

/* Keeps the n of smallest |value| among those that were to leave. */
static lc_status truncate_leaving(lc_regrow_scratch *s, const lc_param *p, int64_t n) {
  const lc_pick *pick;
  if (s->n_drop <= n) return LC_OK;
  for (int64_t k = 0; k < s->n_drop; k++) s->score[k] = -fabsf(p->value[s->drop[k]]);
  LC_TRY(largest(s, s->n_drop, n, &pick, &s->n_drop));
  for (int64_t k = 0; k < s->n_drop; k++)
    s->drop[k] = s->drop[pick[k].flat]; /* pick is ascending: k <= pick[k].flat */
  return LC_OK;
}

/* add = I, the n candidates of largest |G| outside the active entries that stay; what is in O and I is struck
 * from both. */
static lc_status choose_entering(lc_regrow_scratch *s, const lc_param *p, const lc_param *c, int64_t n) {
  int64_t m = 0, k = 0, o = 0, n_in, kept = 0;
  const lc_pick *pick;
  for (int64_t j = 0; j < c->n; j++) {
    const int64_t flat = lc_index_at(&c->idx, j);
    k = lc_index_lower(&p->idx, k, flat);
    const bool is_active = k < p->n && lc_index_at(&p->idx, k) == flat;
    while (o < s->n_drop && s->drop[o] < k) o++;
    if (is_active && !(o < s->n_drop && s->drop[o] == k)) continue;
    s->score[m] = fabsf(c->value[j]);
    s->place[m++] = j;
  }
  LC_TRY(largest(s, m, n, &pick, &n_in));
  s->n_add = k = o = 0;
  for (int64_t i = 0; i < n_in; i++) {
    const int64_t flat = lc_index_at(&c->idx, s->place[pick[i].flat]);
    k = lc_index_lower(&p->idx, k, flat);
    while (o < s->n_drop && s->drop[o] < k) s->drop[kept++] = s->drop[o++];
    if (o < s->n_drop && s->drop[o] == k && lc_index_at(&p->idx, k) == flat)
      o++; /* in both: stays */
    else
      s->add[s->n_add++] = flat;
  }
  while (o < s->n_drop) s->drop[kept++] = s->drop[o++];
  s->n_drop = kept;
  return LC_OK;
}

static lc_status swap(lc_ctx *ctx, lc_regrow_scratch *s, lc_param *p) {
  if (!s->n_add) return LC_OK;
  LC_TRY(lc_index_swap(ctx, &p->idx, s->drop, s->add, s->n_add, s->to, s->from));
  return lc_param_reindex(p, s->to, s->from, s->score);
}

/* ---- the two rules ---- */

lc_status lc_regrow_by_gradient(lc_ctx *ctx, lc_regrow *g, lc_regrow_scratch *s, int64_t n,
                                const lc_regrow_seed *seed, int64_t *swapped) {
  lc_param *p = g->active;
  const lc_param *c = g->candidate;
  float *m = lc_param_find(p, "m"), *v = lc_param_find(p, "v"), *age = lc_param_find(p, "age");
  *swapped = 0;
  if (!m || !v || !age) return lc_fail(ctx, "'%s' lacks a column of AdamW with ages", p->name);
  LC_TRY(choose_leaving(s, p, n));
  LC_TRY(choose_entering(s, p, c, n));
  LC_TRY(truncate_leaving(s, p, s->n_add));
  LC_TRY(swap(ctx, s, p));
  const double c1 = 1 - pow(seed->beta1, seed->a), c2 = 1 - pow(seed->beta2, seed->a);
  for (int64_t k = 0, j = 0; k < p->n && s->n_add; k++) {
    if (s->from[k] >= 0) continue;
    j = lc_index_lower(&c->idx, j, lc_index_at(&p->idx, k));
    m[k] = (float)((double)c->value[j] / seed->s * c1);
    v[k] = (float)((double)c->col[0].data[j] / seed->s * c2);
    age[k] = (float)seed->age;
  }
  *swapped = s->n_add;
  return LC_OK;
}

lc_status lc_regrow_by_outer(lc_ctx *ctx, lc_regrow *g, lc_regrow_scratch *s, int64_t n, int64_t *swapped) {
  lc_param *p = g->active;
  const float *row = lc_param_find(p, "acc_row"), *col = lc_param_find(p, "acc_col");
  *swapped = 0;
  if (!row || !col) return lc_fail(ctx, "'%s' lacks the row and column accumulators of SM3", p->name);
  if (!n) return LC_OK;
  LC_TRY(choose_leaving(s, p, n));
  LC_TRY(lc_outer_topk(ctx, row, p->rows, col, p->cols, n, &p->idx, s->outer, s->add, &s->n_add));
  LC_TRY(truncate_leaving(s, p, s->n_add));
  LC_TRY(swap(ctx, s, p));
  *swapped = s->n_add;
  return LC_OK;
}
