/* Comparison of results: see diff.h. A matrix is decoded in strips of 64 rows from both sides, rounded to the common type, and
 * counted; strips are chunks of a parallel loop whose counts are added in order, so that nothing depends on threads. Pages of the
 * mapped files are given back after each tensor. The rank of Δ = the number of singular values above max(M,N)·σ₁·2^-23. */
#include "model/diff.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/linalg.h"

enum { STRIP = 64, SLOT_A = 3, SLOT_B, SLOT_C };
const double lc_diff_tolerances[LC_DIFF_TOLERANCES] = {0, 1e-8, 1e-7, 1e-6, 1e-5};

/* ---- results ---- */

bool lc_path_is_adapter(lc_ctx *ctx, const char *path) {
  const char *const names[] = {"adapter_config.json", "lacuna_adapter.json"};
  bool found = false;
  for (int i = 0; i < 2; i++) {
    char *p = lc_path_join(ctx, path, names[i]);
    found |= p && lc_path_exists(p);
    lc_free(ctx, p);
  }
  return found;
}

lc_status lc_result_open(const lc_model *base, const char *path, float scale, lc_result *r) {
  lc_ctx *ctx = base->ctx;
  lc_adapter *adapter;
  lc_status st;
  *r = (lc_result){0};
  const bool on_base = lc_path_is_adapter(ctx, path);
  if (!on_base) LC_GO(lc_model_open(ctx, path, &r->model));
  LC_GO(lc_net_new(on_base ? base : r->model, LC_F32, &r->net));
  if (on_base)
    LC_GO(lc_adapter_load(r->net, path, scale, LC_IN_PLACE, &adapter)); /* merged, whatever its kind */
done:
  if (st) lc_result_close(r);
  return st;
}

void lc_result_close(lc_result *r) {
  lc_net_free(r->net);
  if (r->model) lc_model_close(r->model);
  *r = (lc_result){0};
}

static const lc_tensor *stored(const lc_net *net, const lc_weight *w) {
  for (int i = 0; i < net->model->n; i++)
    if (!strcmp(net->model->decl[i].name, w->name)) return &net->model->src[i];
  return NULL;
}

lc_dtype lc_net_stored_as(const lc_net *net, const lc_weight *w) {
  const lc_tensor *t = stored(net, w);
  return t ? t->dtype : LC_F32;
}

static void forget(const lc_net *net, const lc_weight *w) {
  const lc_tensor *t = stored(net, w);
  if (t) lc_model_forget(net->model, t);
}

/* ---- counting ---- */

typedef struct {
  lc_ctx *ctx;
  const lc_weight *a, *b, *c;
  lc_dtype dtype;
  double tolerance;
  lc_diff_count *part;
  float *delta; /* M×N, or NULL */
} job;

static float rounded(lc_dtype d, float x) {
  return d == LC_BF16 ? lc_bf16_to_f32(lc_f32_to_bf16(x)) : d == LC_F16 ? lc_f16_to_f32(lc_f32_to_f16(x)) : x;
}

static float difference(lc_dtype d, float a, float b) {
  return rounded(d, rounded(d, b) - rounded(d, a));
}

/* A number that is none is the largest. */
static double larger(double a, double b) {
  return isnan(a) || a > b ? a : b;
}

static void count(const job *j, lc_diff_count *t, const float *a, const float *b, const float *c, int64_t n,
                  float *delta) {
  t->n += n;
  for (int64_t i = 0; i < n; i++) {
    const float d = difference(j->dtype, a[i], b[i]), raw = b[i] - a[i];
    const double size = fabs((double)d);
    const bool changed = !(size <= j->tolerance);
    for (int k = 0; k < LC_DIFF_TOLERANCES; k++) t->unchanged[k] += size <= lc_diff_tolerances[k];
    t->changed += changed;
    t->differ += raw != 0;
    t->invisible += raw != 0 && fabsf(raw) < fabsf(a[i]) / 256;
    t->sum_delta += size * size;
    t->sum_base += (double)a[i] * (double)a[i];
    t->largest = larger(t->largest, size);
    if (delta) delta[i] = d;
    if (!c) continue;
    const bool second = !(fabs((double)difference(j->dtype, a[i], c[i])) <= j->tolerance);
    t->second += second;
    t->both += changed && second;
  }
}

static void add(lc_diff_count *to, const lc_diff_count *t) {
  to->n += t->n;
  for (int k = 0; k < LC_DIFF_TOLERANCES; k++) to->unchanged[k] += t->unchanged[k];
  to->changed += t->changed;
  to->invisible += t->invisible;
  to->differ += t->differ;
  to->second += t->second;
  to->both += t->both;
  to->sum_delta += t->sum_delta;
  to->sum_base += t->sum_base;
  to->largest = larger(to->largest, t->largest);
}

static lc_status copy_strip(lc_ctx *ctx, int worker, int slot, const lc_weight *w, lc_rect q,
                            const float **out) {
  const int64_t rows = q.r1 - q.r0;
  const void *tile;
  int64_t ld;
  float *to = lc_scratch(ctx, worker, slot, (size_t)(rows * w->N) * sizeof *to);
  if (!to) return LC_FAILED;
  LC_TRY(lc_weight_tile(ctx, worker, w, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < rows; r++)
    memcpy(to + r * w->N, (const float *)tile + r * ld, (size_t)w->N * sizeof *to);
  *out = to;
  return LC_OK;
}

static lc_status strip(void *arg, int64_t chunk, int worker) {
  const job *j = arg;
  const int64_t N = j->a->N;
  const lc_rect q = {chunk * STRIP, lc_min64(chunk * STRIP + STRIP, j->a->M), 0, N};
  const float *a, *b, *c = NULL;
  LC_TRY(copy_strip(j->ctx, worker, SLOT_A, j->a, q, &a));
  LC_TRY(copy_strip(j->ctx, worker, SLOT_B, j->b, q, &b));
  if (j->c) LC_TRY(copy_strip(j->ctx, worker, SLOT_C, j->c, q, &c));
  count(j, &j->part[chunk], a, b, c, (q.r1 - q.r0) * N, j->delta ? j->delta + q.r0 * N : NULL);
  return LC_OK;
}

static lc_status compare(job *j, lc_diff_count *out) {
  *out = (lc_diff_count){0};
  if (j->a->ndim == 1) {
    count(j, out, j->a->vector, j->b->vector, j->c ? j->c->vector : NULL, j->a->N, NULL);
    return LC_OK;
  }
  const int64_t chunks = lc_ceil_div(j->a->M, STRIP);
  j->part = lc_alloc_n(j->ctx, LC_MEM_SCRATCH, (size_t)chunks, sizeof *j->part);
  if (!j->part) return LC_FAILED;
  lc_status st = lc_parallel(j->ctx, chunks, strip, j);
  for (int64_t i = 0; i < chunks; i++) add(out, &j->part[i]);
  lc_free(j->ctx, j->part);
  j->part = NULL;
  return st;
}

/* ---- one tensor ---- */

static lc_status rank_of(lc_ctx *ctx, const float *delta, int64_t M, int64_t N, int64_t *rank) {
  const int64_t n = lc_min64(M, N);
  float *s = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *s);
  lc_status st = s ? lc_svd_values(ctx, delta, M, N, s) : LC_FAILED;
  *rank = 0;
  for (int64_t i = 0; !st && i < n; i++) *rank += s[i] > (float)lc_max64(M, N) * s[0] * FLT_EPSILON;
  lc_free(ctx, s);
  return st;
}

static int bits(lc_dtype d) {
  return d == LC_BF16 || d == LC_F16 ? 2 : 4;
}

/* The type that the rule takes for a tensor. */
static lc_dtype common(const lc_net *x, const lc_net *y, const lc_weight *a, const lc_weight *b,
                       bool *mixed) {
  const lc_dtype p = lc_net_stored_as(x, a), q = lc_net_stored_as(y, b);
  *mixed = p != q;
  if (lc_dtype_get(p)->quantised || lc_dtype_get(q)->quantised || y->n_adapter) return LC_F32;
  if (p == q) return p;
  return bits(p) == bits(q) ? LC_F32 : bits(p) < bits(q) ? p : q;
}

static lc_status one(const lc_net *base, const lc_net *result, const lc_net *other, const lc_diff_opts *o,
                     const lc_weight *a, const lc_weight *b, const lc_weight *c, bool ranked,
                     lc_diff_row *row) {
  lc_ctx *ctx = base->ctx;
  job j = {.ctx = ctx, .a = a, .b = b, .c = c, .tolerance = o->tolerance};
  j.dtype = common(base, result, a, b, &row->mixed);
  if (o->dtype != LC_NONE) j.dtype = o->dtype;
  row->name = a->name;
  row->layer = a->layer;
  row->dtype = j.dtype;
  row->tensors = 1;
  if (ranked && !(j.delta = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(a->M * a->N), sizeof *j.delta)))
    return LC_FAILED;
  lc_status st = compare(&j, &row->count);
  if (!st && ranked) {
    row->full = lc_min64(a->M, a->N);
    if (row->count.largest > 0) st = rank_of(ctx, j.delta, a->M, a->N, &row->rank);
  }
  lc_free(ctx, j.delta);
  row->mean_density = (double)row->count.changed / (double)row->count.n;
  forget(base, a);
  forget(result, b);
  if (c) forget(other, c);
  return st;
}

/* ---- groups ---- */

static lc_status group(lc_ctx *ctx, lc_diff_row **rows, int *n, const char *name, int layer,
                       const lc_diff_row *r) {
  int i = 0;
  while (i < *n && ((*rows)[i].layer != layer || strcmp((*rows)[i].name, name))) i++;
  if (i == *n) {
    lc_diff_row *grown = lc_realloc(ctx, LC_MEM_OTHER, *rows, (size_t)(*n + 1) * sizeof *grown);
    if (!grown) return LC_FAILED;
    *rows = grown;
    grown[(*n)++] = (lc_diff_row){.name = name, .layer = layer, .dtype = r->dtype};
  }
  lc_diff_row *g = &(*rows)[i];
  g->mixed |= r->mixed || g->dtype != r->dtype;
  g->mean_density += (r->mean_density - g->mean_density) / (double)++g->tensors;
  add(&g->count, &r->count);
  return LC_OK;
}

/* The last part of the module's name: q_proj, input_layernorm, embed_tokens; with ".bias" for a bias. */
static const char *kind_of(const lc_weight *w) {
  const char *dot = strrchr(w->module, '.'), *kind = dot ? w->name + (dot - w->module) + 1 : w->name;
  return kind;
}

static lc_status collect(lc_ctx *ctx, lc_diff *d, const lc_weight *w, const lc_diff_row *r) {
  lc_diff_row *all = &d->all;
  int one_row = 1;
  if (w->layer >= 0) LC_TRY(group(ctx, &d->layer, &d->n_layer, "", w->layer, r));
  LC_TRY(group(ctx, &d->kind, &d->n_kind, kind_of(w), -1, r));
  if (!all->name) *all = (lc_diff_row){.name = "all", .layer = -1, .dtype = r->dtype};
  return group(ctx, &all, &one_row, "all", -1, r);
}

static int by_layer(const void *a, const void *b) {
  return ((const lc_diff_row *)a)->layer - ((const lc_diff_row *)b)->layer;
}

/* ---- all ---- */

static bool same_shape(const lc_weight *a, const lc_weight *b) {
  return b && a->M == b->M && a->N == b->N && a->ndim == b->ndim;
}

static int linear_matrices(const lc_net *net) {
  int n = 0;
  for (int i = 0; i < net->weights.n; i++)
    n += net->weights.w[i].kind == LC_KIND_LINEAR && net->weights.w[i].ndim == 2;
  return n;
}

lc_status lc_diff_nets(const lc_net *base, const lc_net *result, const lc_net *other, const lc_diff_opts *o,
                       lc_diff *d) {
  lc_ctx *ctx = base->ctx;
  const int linear = linear_matrices(base);
  const int64_t ranks = o->ranks < 0 ? linear : lc_min64(o->ranks, linear);
  int64_t seen = 0;
  lc_status st = LC_OK;
  *d = (lc_diff){.third = other != NULL};
  const size_t room = (size_t)(base->weights.n + result->weights.n);
  d->row = lc_alloc_n(ctx, LC_MEM_OTHER, room, sizeof *d->row);
  d->apart = lc_alloc_n(ctx, LC_MEM_OTHER, 2 * room, sizeof *d->apart);
  if (!d->row || !d->apart) LC_GO(LC_FAILED);
  for (int i = 0; i < base->weights.n; i++) {
    const lc_weight *a = &base->weights.w[i], *b = lc_net_weight(result, a->name),
                    *c = other ? lc_net_weight(other, a->name) : NULL;
    bool ranked = false;
    if (a->kind == LC_KIND_LINEAR && a->ndim == 2) { /* every linear/ranks-th of them */
      ranked = seen * ranks / lc_max64(1, linear) != (seen + 1) * ranks / lc_max64(1, linear);
      seen++;
    }
    if (!same_shape(a, b) || (other && !same_shape(a, c))) {
      d->apart[d->n_apart++] = a->name;
      continue;
    }
    lc_diff_row *r = &d->row[d->n++];
    LC_GO(one(base, result, other, o, a, b, c, ranked, r));
    LC_GO(collect(ctx, d, a, r));
    if (!r->full) continue;
    d->rank_share += ((double)r->rank / (double)r->full - d->rank_share) / (double)++d->n_ranks;
  }
  for (int i = 0; i < result->weights.n; i++)
    if (!lc_net_weight(base, result->weights.w[i].name)) d->apart[d->n_apart++] = result->weights.w[i].name;
  if (!d->n_ranks) d->rank_share = NAN;
  if (d->n_layer) qsort(d->layer, (size_t)d->n_layer, sizeof *d->layer, by_layer);
  if (d->n == 0)
    LC_GO(lc_fail(ctx, "%s and %s have no tensor in common", base->model->path, result->model->path));
done:
  if (st) lc_diff_free(ctx, d);
  return st;
}

void lc_diff_free(lc_ctx *ctx, lc_diff *d) {
  lc_free(ctx, d->row);
  lc_free(ctx, d->apart);
  lc_free(ctx, d->layer);
  lc_free(ctx, d->kind);
  *d = (lc_diff){0};
}

/* ---- the null model ---- */

enum { NULL_WEIGHTS = 100000, NULL_CHUNK = 1000 };
typedef struct {
  lc_dtype dtype;
  float rate;
  int64_t steps;
  uint64_t seed;
  int64_t unchanged[NULL_WEIGHTS / NULL_CHUNK][LC_DIFF_TOLERANCES];
} null_job;

static lc_status walk(void *arg, int64_t chunk, int worker) {
  null_job *j = arg;
  lc_rng start = {.seed = j->seed, .tensor = lc_fnv1a32("null"), .purpose = LC_RNG_NOISE}, sign = start;
  for (int64_t i = chunk * NULL_CHUNK; i < (chunk + 1) * NULL_CHUNK; i++) {
    const float from = rounded(j->dtype, 0.02f * lc_rng_normal(&start, (uint64_t)i));
    float w = from;
    for (int64_t s = 0; s < j->steps;) { /* 32 signs a draw */
      sign.step = 1 + (uint32_t)(s / 32);
      uint32_t coins = lc_rng_u32(&sign, (uint64_t)i);
      for (int k = 0; k < 32 && s < j->steps; k++, s++, coins >>= 1) w += coins & 1 ? j->rate : -j->rate;
    }
    const double size = fabs((double)difference(j->dtype, from, w));
    for (int k = 0; k < LC_DIFF_TOLERANCES; k++) j->unchanged[chunk][k] += size <= lc_diff_tolerances[k];
  }
  return LC_OK;
}

lc_status lc_diff_null(lc_ctx *ctx, lc_dtype dtype, double rate, int64_t steps, uint64_t seed,
                       double share[LC_DIFF_TOLERANCES]) {
  null_job *j = lc_alloc(ctx, LC_MEM_SCRATCH, sizeof *j);
  if (!j) return LC_FAILED;
  j->dtype = dtype;
  j->rate = (float)rate;
  j->steps = steps;
  j->seed = seed;
  lc_status st = lc_parallel(ctx, NULL_WEIGHTS / NULL_CHUNK, walk, j);
  for (int k = 0; k < LC_DIFF_TOLERANCES; k++) {
    int64_t n = 0;
    for (int i = 0; i < NULL_WEIGHTS / NULL_CHUNK; i++) n += j->unchanged[i][k];
    share[k] = (double)n / NULL_WEIGHTS;
  }
  lc_free(ctx, j);
  return st;
}
