/* delta_sparse: W + s·scatter(i, δ): K flat positions, sorted and distinct, and K f32 values.
 *
 * A rectangle's entries are found by a galloping binary search for each of its rows in the one sorted list
 * (flat = row·N + col): no row pointers are stored, so an entry costs its index and its value and nothing
 * else, and a change of the set has nothing to rebuild. From one row to the next the search starts where the
 * last one ended; a rectangle of full rows is one search and one sweep.
 *
 * patch is the meaning of the delta, in every mode: tile += s·δ in f32, rounded once by whoever stores the
 * tile. A scale of 0 touches nothing, so the base's own bits (a negative zero too) stay. */
#include "kernels/kernels.h"
#include "nn/nn.h"
#include <math.h>

typedef struct sparse_text {
  int64_t count;
  double factor;
} sparse_text; /* the delta's priv, and how adapter files have it */

static float scale_of(const lc_delta *d) {
  return d->scale * (float)((const sparse_text *)d->priv)->factor;
}

static inline int64_t flat_at(const lc_index *x, int64_t k) {
  return lc_index_at(x, k);
}

/* Calls `body` for every entry k at (row r, column c) inside the rectangle. */
#define EACH_ENTRY(idx, N, rect, body)                                                                       \
  do {                                                                                                       \
    int64_t k = 0;                                                                                           \
    for (int64_t r = (rect).r0; r < (rect).r1; r++) {                                                        \
      int64_t end = r * (N) + (rect).c1;                                                                     \
      for (k = lc_index_lower(idx, k, r * (N) + (rect).c0); k < (idx)->n; k++) {                             \
        int64_t c = flat_at(idx, k);                                                                         \
        if (c >= end) break;                                                                                 \
        c -= r * (N);                                                                                        \
        body;                                                                                                \
      }                                                                                                      \
      if (k == (idx)->n) break;                                                                              \
    }                                                                                                        \
  } while (0)

/* tile[r-r0, c-c0] += s·δ_k */
static lc_status sparse_patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const lc_param *p = d->param[0];
  const float s = scale_of(d);
  if (s == 0) return LC_OK;
  EACH_ENTRY(&p->idx, d->w->N, at, tile[(r - at.r0) * ld + (c - at.c0)] += s * p->value[k]);
  if (p->retired.n)
    EACH_ENTRY(&p->retired, d->w->N, at, tile[(r - at.r0) * ld + (c - at.c0)] += s * p->retired_value[k]);
  return LC_OK;
}

static inline void add_bf16(uint16_t *e, float x) {
  *e = lc_f32_to_bf16(lc_bf16_to_f32(*e) + x);
}

/* The same on a bf16 tile that nothing else patches: only the entries are widened and rounded again. */
static lc_status sparse_patch_bf16(lc_ctx *ctx, const lc_delta *d, lc_rect at, uint16_t *tile, int64_t ld) {
  const lc_param *p = d->param[0];
  const float s = scale_of(d);
  if (s == 0) return LC_OK;
  EACH_ENTRY(&p->idx, d->w->N, at, add_bf16(&tile[(r - at.r0) * ld + (c - at.c0)], s * p->value[k]));
  if (p->retired.n)
    EACH_ENTRY(&p->retired, d->w->N, at,
               add_bf16(&tile[(r - at.r0) * ld + (c - at.c0)], s * p->retired_value[k]));
  return LC_OK;
}

/* y[r-r0] += s·Σ_k δ_k·x[c_k] over the entries of rows [r0,r1): a row-sorted sparse product, one token. Each
 * row's sum is made before it is added, so the result does not depend on how the rows were cut. */
static void rows_aside(const lc_index *x, const float *value, float s, int64_t N, int64_t r0, int64_t r1,
                       const float *in, float *y) {
  int64_t k = 0;
  for (int64_t r = r0; r < r1; r++) {
    k = lc_index_lower(x, k, r * N);
    float sum = 0;
    for (; k < x->n; k++) {
      int64_t c = flat_at(x, k) - r * N;
      if (c >= N) break;
      sum += value[k] * in[c];
    }
    y[r - r0] += s * sum;
  }
}

static lc_status sparse_aside(lc_ctx *ctx, const lc_delta *d, int64_t r0, int64_t r1, const float *x,
                              float *y) {
  const lc_param *p = d->param[0];
  if (d->scale == 0) return LC_OK;
  rows_aside(&p->idx, p->value, scale_of(d), d->w->N, r0, r1, x, y);
  if (p->retired.n) rows_aside(&p->retired, p->retired_value, scale_of(d), d->w->N, r0, r1, x, y);
  return LC_OK;
}

static int64_t sparse_walk(const lc_delta *d, lc_walk *w, int64_t room, int64_t *flat) {
  const lc_param *p = d->param[0];
  const lc_index *x = w->which == 0 ? &p->idx : &p->retired;
  int64_t n = 0;
  if ((w->none = w->which > 1 || !x->n)) return 0;
  if (w->next < 0) w->next = lc_index_lower(x, 0, w->from);
  room = lc_min64(room, x->n - w->next);
  if (x->kind == LC_LIST32)
    for (const int32_t *at = (const int32_t *)x->at + w->next; n < room && at[n] < w->end; n++)
      flat[n] = at[n];
  else
    for (; n < room && flat_at(x, w->next + n) < w->end; n++) flat[n] = flat_at(x, w->next + n);
  w->next += n;
  return n;
}

/* f[i] += s·δ where flat[i] is one of x. */
static void add_at(const lc_index *x, const float *value, float s, int64_t n, const int64_t *flat, float *f) {
  for (int64_t i = 0, k = 0; i < n; i++) {
    k = lc_index_lower(x, k, flat[i]);
    if (k == x->n) return;
    if (flat_at(x, k) == flat[i]) f[i] += s * value[k];
  }
}

static void sparse_at(const lc_delta *d, int which, int64_t number, int64_t n, const int64_t *flat,
                      float *f) {
  const lc_param *p = d->param[0];
  const float s = scale_of(d);
  if (s == 0) return;
  if (which >= 0) {
    const float *value = (which ? p->retired_value : p->value) + number;
    for (int64_t i = 0; i < n; i++) f[i] += s * value[i];
    return;
  }
  add_at(&p->idx, p->value, s, n, flat, f);
  if (p->retired.n) add_at(&p->retired, p->retired_value, s, n, flat, f);
}

static lc_status sparse_visit(lc_delta *d, lc_visitor *v) {
  return lc_param_visit(d->param[0], v);
}

static int64_t sparse_nonzeros(const lc_delta *d) {
  return d->param[0]->n + d->param[0]->retired.n;
}

static void sparse_free(lc_ctx *ctx, lc_delta *d) {
  if (!d) return;
  if (d->n_param) {
    lc_weight_remove_sink(d->w, d->param[0]);
    lc_param_free(ctx, d->param[0]);
  }
  lc_free(ctx, d->priv);
  lc_free(ctx, d);
}

const lc_delta_ops lc_delta_sparse = {
    .name = "sparse",
    .mergeable = true,
    .patch = sparse_patch,
    .patch_bf16 = sparse_patch_bf16,
    .aside = sparse_aside,
    .walk = sparse_walk,
    .at = sparse_at,
    .visit = sparse_visit,
    .nonzeros = sparse_nonzeros,
    .free = sparse_free,
};

char *lc_delta_sparse_name(lc_ctx *ctx, const lc_weight *w) {
  return w->n_delta ? lc_format(ctx, "%s.delta%d", w->name, w->n_delta + 1)
                    : lc_format(ctx, "%s.delta", w->name);
}

lc_status lc_delta_sparse_new(lc_ctx *ctx, lc_weight *w, lc_index *idx, const float *values, bool trainable,
                              lc_delta **out) {
  lc_status st = LC_OK;
  char *name = NULL;
  lc_delta *d = NULL;
  *out = NULL;
  if (w->ndim != 2) return lc_fail(ctx, "weight '%s' is a vector: a sparse delta needs a matrix", w->name);
  if (idx->kind == LC_ALL || idx->n < 1)
    return lc_fail(ctx, "weight '%s': a sparse delta needs a list of at least one position", w->name);
  if (lc_index_at(idx, 0) < 0 || lc_index_at(idx, idx->n - 1) >= w->M * w->N)
    return lc_fail(ctx, "weight '%s': positions %lld to %lld are not inside its %lld×%lld entries", w->name,
                   (long long)lc_index_at(idx, 0), (long long)lc_index_at(idx, idx->n - 1), (long long)w->M,
                   (long long)w->N);
  if (!(d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d))) return LC_FAILED;
  *d = (lc_delta){.ops = &lc_delta_sparse, .w = w, .scale = 1, .apply = LC_PATCH};
  if (!(d->priv = lc_alloc(ctx, LC_MEM_OTHER, sizeof(sparse_text)))) LC_GO(LC_FAILED);
  ((sparse_text *)d->priv)->factor = 1;
  if (!(name = lc_delta_sparse_name(ctx, w))) LC_GO(LC_FAILED);
  LC_GO(lc_param_new(ctx, name, w, idx, w->M, w->N, trainable, &d->param[0]));
  d->n_param = 1;
  if (values)
    for (int64_t k = 0; k < d->param[0]->n; k++) d->param[0]->value[k] = values[k];
  if (trainable) LC_GO(lc_weight_add_sink(ctx, w, (lc_sink){.kind = LC_SINK_ENTRIES, .param = d->param[0]}));
  *out = d;
  d = NULL;
done:
  sparse_free(ctx, d);
  lc_free(ctx, name);
  return st;
}

void lc_delta_sparse_set_factor(lc_delta *d, double factor) {
  ((sparse_text *)d->priv)->factor = factor;
  for (int i = 0; i < d->w->n_sink; i++)
    if (d->w->sink[i].param == d->param[0]) d->w->sink[i].factor = (float)factor;
}

double lc_delta_sparse_factor(const lc_delta *d) {
  return ((const sparse_text *)d->priv)->factor;
}

/* ---- beside others in an adapter file (layout modules; alone it has layouts of its own) ---- */

static const lc_option file_options[] = {
    {"count", LC_OPT_INT, offsetof(sparse_text, count), "1", 1, 1e18, NULL, "K", "entries"},
    {"factor", LC_OPT_FLOAT, offsetof(sparse_text, factor), "1", -1e9, 1e9, NULL, "S", "of the values"},
    {0},
};
static const void *options_of(const lc_delta *d) {
  ((sparse_text *)d->priv)->count = d->param[0]->n;
  return d->priv;
}
/* Its positions come with the file. */
static lc_status make(lc_ctx *ctx, lc_weight *w, const void *options, lc_delta *const *made, int n,
                      bool trainable, lc_delta **out) {
  const sparse_text *t = options;
  lc_index idx = {0};
  if (t->count > w->M * w->N)
    return lc_fail(ctx, "'%s' has %lld×%lld entries, not %lld", w->name, (long long)w->M, (long long)w->N,
                   (long long)t->count);
  lc_status st = lc_index_first(ctx, w->M, w->N, t->count, &idx);
  if (!st) st = lc_delta_sparse_new(ctx, w, &idx, NULL, trainable, out);
  lc_index_free(ctx, &idx);
  if (!st) lc_delta_sparse_set_factor(*out, t->factor);
  return st;
}
static lc_status loaded(lc_ctx *ctx, lc_delta *d) {
  return lc_index_check(ctx, &d->param[0]->idx, d->w->M, d->w->N, d->w->name);
}
static const char *const names[] = {"delta"};
extern const lc_delta_kind lc_kind_sparse;
const lc_delta_kind lc_kind_sparse = {
    &lc_delta_sparse, file_options, sizeof(sparse_text), names, options_of, make, NULL, loaded};

lc_status lc_delta_sparse_beyond(lc_ctx *ctx, const lc_delta *d, double threshold, lc_delta **out) {
  lc_entries e = {0};
  lc_status st = LC_OK;
  lc_index idx = {.kind = LC_LIST32};
  float *value = NULL;
  int64_t n = 0, *flat = NULL;
  *out = NULL;
  LC_GO(lc_param_entries(ctx, d->param[0], &e));
  flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)e.idx.n, sizeof *flat);
  value = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)e.idx.n, sizeof *value);
  if (!flat || !value) LC_GO(LC_FAILED);
  for (int64_t k = 0; k < e.idx.n; k++) {
    if (!(fabs((double)e.value[k]) > threshold)) continue;
    flat[n] = lc_index_at(&e.idx, k);
    value[n++] = e.value[k];
  }
  if (!n) goto done;
  LC_GO(lc_index_new(ctx, d->w->M, d->w->N, flat, n, &idx));
  LC_GO(lc_delta_sparse_new(ctx, d->w, &idx, value, false, out));
done:
  lc_index_free(ctx, &idx);
  lc_entries_free(ctx, &e);
  lc_free(ctx, flat);
  lc_free(ctx, value);
  return st;
}
