/* delta_slice: W[:,J] + s·C, or W[I,:] + s·R: k whole columns or rows of a weight, held as one dense block and a list.
 * (S²FT: Yang et al. 2024, arXiv 2412.06289.)
 *
 *   columns   y += s·C·x[J]     C (M,k);  dC = dyᵀ·x[J]: of the input only x[J] is kept (COLUMNS, op_gather.c)
 *   rows      y[I] += s·R·x     R (k,N);  dR = dy[I]ᵀ·x
 *
 * The block is contiguous wherever its lines lie in the weight, so the products above are dense and the weight need not
 * be reordered for them: the lines are looked up when a tile is patched (k values a row), or when x is gathered.
 *
 * 4 B a value and 4 B a line. */
#include "nn/slice.h"
#include "kernels/kernels.h"
#include <string.h>

enum { SLOT_PICKED = 4 };

typedef struct {
  lc_slice_opts o; /* first: as adapter files have it */
  int32_t lines[];
} state;

const lc_slice_opts *lc_delta_slice_opts(const lc_delta *d) {
  return &((const state *)d->priv)->o;
}
const int32_t *lc_delta_slice_lines(const lc_delta *d) {
  return ((const state *)d->priv)->lines;
}

/* The first line at or after x. */
static int64_t lower(const state *s, int64_t x) {
  int64_t lo = 0, hi = s->o.count;
  while (lo < hi) {
    const int64_t mid = (lo + hi) / 2;
    if (s->lines[mid] < x)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* Product and sum are rounded one after the other, in every place that adds the change. */
static void add_values(int64_t n, float scale, const float *block, float *f) {
  for (int64_t i = 0; i < n; i++) f[i] += scale * block[i];
}

static lc_status patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const state *s = d->priv;
  const float *block = d->param[0]->value;
  const int64_t k = s->o.count, N = d->w->N;
  if (d->scale == 0) return LC_OK;
  if (s->o.axis == LC_SLICE_ROWS) {
    for (int64_t i = lower(s, at.r0); i < k && s->lines[i] < at.r1; i++)
      add_values(at.c1 - at.c0, d->scale, block + i * N + at.c0, tile + (s->lines[i] - at.r0) * ld);
    return LC_OK;
  }
  const int64_t j0 = lower(s, at.c0), j1 = lower(s, at.c1);
  for (int64_t r = at.r0; r < at.r1; r++)
    for (int64_t j = j0; j < j1; j++)
      tile[(r - at.r0) * ld + s->lines[j] - at.c0] += d->scale * block[r * k + j];
  return LC_OK;
}

static lc_status patch_bf16(lc_ctx *ctx, const lc_delta *d, lc_rect at, uint16_t *tile, int64_t ld) {
  const state *s = d->priv;
  const float *block = d->param[0]->value;
  const bool rows = s->o.axis == LC_SLICE_ROWS;
  const int64_t k = s->o.count, N = d->w->N, j0 = lower(s, rows ? at.r0 : at.c0),
                j1 = lower(s, rows ? at.r1 : at.c1);
  if (d->scale == 0) return LC_OK;
  for (int64_t a = rows ? j0 : at.r0; a < (rows ? j1 : at.r1); a++)
    for (int64_t b = rows ? at.c0 : j0; b < (rows ? at.c1 : j1); b++) {
      const int64_t r = rows ? s->lines[a] : a, c = rows ? b : s->lines[b];
      uint16_t *e = &tile[(r - at.r0) * ld + c - at.c0];
      *e = lc_f32_to_bf16(lc_bf16_to_f32(*e) + d->scale * block[rows ? a * N + b : a * k + b]);
    }
  return LC_OK;
}

static lc_status aside(lc_ctx *ctx, const lc_delta *d, int64_t r0, int64_t r1, const float *x, float *y) {
  const state *s = d->priv;
  const float *block = d->param[0]->value;
  const lc_kernels *kernels = lc_kernels_get(ctx);
  const int64_t k = s->o.count, N = d->w->N;
  if (d->scale == 0) return LC_OK;
  if (s->o.axis == LC_SLICE_ROWS) {
    for (int64_t i = lower(s, r0); i < k && s->lines[i] < r1; i++)
      y[s->lines[i] - r0] += d->scale * kernels->dot(N, block + i * N, x);
    return LC_OK;
  }
  float *picked = lc_scratch(ctx, lc_worker(ctx), SLOT_PICKED, (size_t)k * sizeof *picked);
  if (!picked) return LC_FAILED;
  for (int64_t j = 0; j < k; j++) picked[j] = x[s->lines[j]];
  for (int64_t r = r0; r < r1; r++) y[r - r0] += d->scale * kernels->dot(k, block + r * k, picked);
  return LC_OK;
}

/* Numbers are places in the block. */
static int64_t walk(const lc_delta *d, lc_walk *w, int64_t room, int64_t *flat) {
  const state *s = d->priv;
  const int64_t k = s->o.count, M = d->w->M, N = d->w->N;
  int64_t n = 0;
  if ((w->none = w->which > 0)) return 0;
  if (s->o.axis == LC_SLICE_ROWS) {
    if (w->next < 0) {
      const int64_t i = lower(s, w->from / N);
      w->next = i * N + (i < k && s->lines[i] == w->from / N ? w->from % N : 0);
    }
    for (int64_t i = w->next / N, c = w->next % N; n < room && i < k; n++) {
      if ((flat[n] = s->lines[i] * N + c) >= w->end) break;
      if (++c == N) c = 0, i++;
    }
  } else {
    if (w->next < 0) w->next = w->from / N * k + lower(s, w->from % N);
    for (int64_t r = w->next / k, j = w->next % k; n < room && r < M; n++) {
      if ((flat[n] = r * N + s->lines[j]) >= w->end) break;
      if (++j == k) j = 0, r++;
    }
  }
  w->next += n;
  return n;
}

static void value_at(const lc_delta *d, int which, int64_t number, int64_t n, const int64_t *flat, float *f) {
  const state *s = d->priv;
  const float *block = d->param[0]->value;
  const int64_t k = s->o.count, N = d->w->N;
  const bool rows = s->o.axis == LC_SLICE_ROWS;
  if (d->scale == 0) return;
  if (which >= 0) {
    add_values(n, d->scale, block + number, f);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t r = flat[i] / N, c = flat[i] % N, line = rows ? r : c, at = lower(s, line);
    if (at < k && s->lines[at] == line) f[i] += d->scale * block[rows ? at * N + c : r * k + at];
  }
}

static lc_status visit(lc_delta *d, lc_visitor *v) {
  LC_TRY(lc_param_visit(d->param[0], v));
  return lc_delta_visit_arrays(d, v);
}

static int64_t nonzeros(const lc_delta *d) {
  return d->param[0]->n;
}

static void slice_free(lc_ctx *ctx, lc_delta *d) {
  if (d && d->n_param) lc_weight_remove_sink(d->w, d->param[0]);
  lc_delta_free(ctx, d);
}

const lc_delta_ops lc_delta_slice = {.name = "slice",
                                     .mergeable = true,
                                     .patch = patch,
                                     .patch_bf16 = patch_bf16,
                                     .aside = aside,
                                     .walk = walk,
                                     .at = value_at,
                                     .visit = visit,
                                     .nonzeros = nonzeros,
                                     .free = slice_free};

static lc_status check(lc_ctx *ctx, const lc_weight *w, const lc_slice_opts *o, const int32_t *lines) {
  static const char *const names[] = {"columns", "rows"};
  const int64_t all = o->axis == LC_SLICE_ROWS ? w->M : w->N;
  if (w->ndim != 2 || w->kind != LC_KIND_LINEAR)
    return lc_fail(ctx, "'%s' is not a linear layer's matrix: a slice works there only", w->name);
  if (o->count < 1 || o->count > all)
    return lc_fail(ctx, "'%s' has %lld %s: a slice of %lld", w->name, (long long)all, names[o->axis],
                   (long long)o->count);
  for (int64_t i = 0; i < o->count; i++)
    if (lines[i] < (i ? lines[i - 1] + 1 : 0) || lines[i] >= all)
      return lc_fail(ctx, "'%s': line %lld of the slice is %d: lines ascend, are distinct and below %lld",
                     w->name, (long long)i + 1, (int)lines[i], (long long)all);
  return LC_OK;
}

static lc_status new_unchecked(lc_ctx *ctx, lc_weight *w, const lc_slice_opts *o, bool trainable,
                               lc_delta **out) {
  const bool rows = o->axis == LC_SLICE_ROWS;
  lc_status st = LC_OK;
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  *d = (lc_delta){.ops = &lc_delta_slice, .w = w, .scale = 1, .apply = LC_PATCH};
  state *s = d->priv = lc_alloc(ctx, LC_MEM_TRAINABLE, sizeof *s + (size_t)o->count * sizeof *s->lines);
  if (!s) LC_GO(LC_FAILED);
  s->o = *o;
  LC_GO(lc_delta_param(ctx, d, "slice", rows ? o->count : w->M, rows ? w->N : o->count, trainable));
  if (trainable)
    LC_GO(lc_weight_add_sink(ctx, w,
                             (lc_sink){.kind = rows ? LC_SINK_ROWS : LC_SINK_COLUMNS,
                                       .param = d->param[0],
                                       .lines = s->lines,
                                       .n_lines = o->count}));
  *out = d;
  d = NULL;
done:
  slice_free(ctx, d);
  return st;
}

lc_status lc_delta_slice_new(lc_ctx *ctx, lc_weight *w, const lc_slice_opts *o, const int32_t *lines,
                             bool trainable, lc_delta **out) {
  *out = NULL;
  LC_TRY(check(ctx, w, o, lines));
  LC_TRY(new_unchecked(ctx, w, o, trainable, out));
  memcpy(((state *)(*out)->priv)->lines, lines, (size_t)o->count * sizeof *lines);
  return LC_OK;
}

lc_status lc_delta_slice_lora(lc_ctx *ctx, const lc_delta *d, lc_delta **out) {
  const state *s = d->priv;
  const bool rows = s->o.axis == LC_SLICE_ROWS;
  const int64_t k = s->o.count, M = d->w->M, N = d->w->N, n = k * (rows ? M : N);
  const lc_lora_opts o = {.rank = k, .alpha = (float)k};
  float *unit = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *unit);
  if (!unit) return LC_FAILED;
  for (int64_t i = 0; i < k; i++) unit[rows ? s->lines[i] * k + i : i * N + s->lines[i]] = 1;
  const float *block = d->param[0]->value;
  lc_status st = lc_delta_lora_new(ctx, d->w, &o, rows ? block : unit, rows ? unit : block, false, out);
  lc_free(ctx, unit);
  return st;
}

/* ---- as adapter files keep it ---- */

static const lc_option file_options[] = {
    {"axis", LC_OPT_CHOICE, offsetof(lc_slice_opts, axis), "columns", 0, 0, "columns|rows", NULL,
     "of the weight"},
    {"count", LC_OPT_INT, offsetof(lc_slice_opts, count), "1", 1, INT32_MAX, NULL, "K", "lines"},
    {0},
};
static const void *options_of(const lc_delta *d) {
  return lc_delta_slice_opts(d);
}
static lc_status make(lc_ctx *ctx, lc_weight *w, const void *options, lc_delta *const *made, int n,
                      bool trainable, lc_delta **out) {
  const lc_slice_opts *o = options;
  const int64_t all = o->axis == LC_SLICE_ROWS ? w->M : w->N;
  if (w->kind != LC_KIND_LINEAR || o->count > all)
    return lc_fail(ctx, "'%s' (%lld×%lld) cannot have a slice of %lld %s", w->name, (long long)w->M,
                   (long long)w->N, (long long)o->count, o->axis == LC_SLICE_ROWS ? "rows" : "columns");
  return new_unchecked(ctx, w, o, trainable, out);
}
static int arrays(const lc_delta *d, lc_array *a) {
  state *s = d->priv;
  a[0] = (lc_array){"lines", LC_I32, s->o.count, s->lines};
  return 1;
}
static lc_status loaded(lc_ctx *ctx, lc_delta *d) {
  return check(ctx, d->w, lc_delta_slice_opts(d), lc_delta_slice_lines(d));
}
static const char *const names[] = {"block"};
extern const lc_delta_kind lc_kind_slice;
const lc_delta_kind lc_kind_slice = {
    &lc_delta_slice, file_options, sizeof(lc_slice_opts), names, options_of, make, arrays, loaded};
