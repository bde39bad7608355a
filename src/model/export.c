/* Effective weights as a stream. A matrix is decoded, patched with every delta and rounded in strips of some
 * hundred thousand entries, so that writing needs megabytes, whatever the model's size. The strip's chunks
 * run on all workers; the bytes leave in order.
 *
 * The merge report compares with the base: of the entries that the deltas change, how many still differ from
 * the rounded base after rounding, and ‖Q(W+δ)−W‖/‖δ‖, which is 1 when nothing is lost. */
#include "model/export.h"
#include "nn/mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16 /* entries */, CHUNKS = 16 /* a strip */ };
enum {
  SLOT_BEFORE = 3,
  SLOT_AFTER,
  SLOT_ROW
}; /* scratch that neither deltas (2) nor products (8 and on) use */

typedef struct {
  int64_t changed, survived, masked, filled;
  double error, delta;
} tally;
typedef struct {
  const lc_export *e;
  lc_ctx *ctx;
  const lc_weight *w;
  bool changed;        /* deltas, or trained as a whole */
  bool counts;         /* the report wants numbers */
  int64_t rows, width; /* of the file */
  int64_t per_chunk, r0, r1;
  size_t row_bytes;
  uint8_t *out; /* the strip [r0,r1) */
  tally tally[CHUNKS];
} strip;

static bool is_own(const lc_net *net, const lc_weight *w) {
  for (int i = 0; i < net->n_own; i++)
    if (net->own[i]->of == w) return true;
  return false;
}

static bool same_path(const char *a, const char *b) {
  char *x = realpath(a, NULL), *y = realpath(b, NULL);
  bool same = x && y && !strcmp(x, y);
  free(x);
  free(y);
  return same;
}

lc_dtype lc_net_file_type(const lc_net *net) {
  for (int i = 0; i < net->weights.n; i++) {
    if (net->weights.w[i].kind != LC_KIND_LINEAR) continue;
    const lc_dtype base = net->weights.w[i].base->src.dtype;
    return lc_dtype_get(base)->quantised ? LC_BF16 : base;
  }
  return LC_F32;
}

lc_status lc_export_check(const lc_net *net, const char *target) {
  if (same_path(target, net->model->path))
    return lc_usage(net->ctx, "%s is the base itself: it is never written", target);
  for (int i = 0; i < net->weights.n; i++)
    for (int k = 0; k < net->weights.w[i].n_delta; k++) {
      const lc_delta *d = net->weights.w[i].delta[k];
      if (!d->ops->patch)
        return lc_fail(net->ctx, "'%s' carries a %s delta, which cannot be merged", net->weights.w[i].name,
                       d->ops->name);
    }
  return LC_OK;
}

static lc_status effective(const strip *s, lc_rect at, float *before, float *after) {
  const lc_weight *w = s->w;
  int64_t ld = at.c1 - at.c0, n = (at.r1 - at.r0) * ld;
  LC_TRY(w->base->ops->decode(s->ctx, w->base, at, LC_F32, before, ld));
  if (is_own(s->e->net, w))
    LC_TRY(w->form->ops->decode(s->ctx, w->form, at, LC_F32, after, ld));
  else
    memcpy(after, before, (size_t)n * sizeof *after);
  for (int i = 0; i < w->n_delta; i++) LC_TRY(w->delta[i]->ops->patch(s->ctx, w->delta[i], at, after, ld));
  return LC_OK;
}

/* File row i of the rectangle, contiguous. */
static const float *file_row(const strip *s, const float *tile, int64_t i, int64_t ld, float *tmp) {
  int64_t D = s->e->head_dim;
  if (s->e->transposed) {
    for (int64_t k = 0; k < s->width; k++) tmp[k] = tile[k * ld + i];
    return tmp;
  }
  if (D) { /* row 2j+p of a head is row p·D/2+j here */
    int64_t h = i / D, p = i % D % 2, j = i % D / 2;
    i = h * D + p * (D / 2) + j;
  }
  return tile + i * ld;
}

static void count(tally *t, int64_t n, const float *before, const float *after, const float *rounded_before,
                  const float *rounded_after) {
  for (int64_t i = 0; i < n; i++) {
    if (after[i] == before[i]) continue;
    double e = (double)rounded_after[i] - (double)before[i], d = (double)after[i] - (double)before[i];
    t->changed++;
    t->survived += rounded_after[i] != rounded_before[i];
    t->error += e * e;
    t->delta += d * d;
  }
}

/* What the changes put where the mask had zeros. */
static void count_filled(const strip *s, lc_rect at, const float *after, tally *t) {
  const lc_mask *m = lc_weight_mask(s->w);
  for (int64_t r = at.r0; m && r < at.r1; r++)
    for (int64_t c = at.c0; c < at.c1; c++) {
      const bool dropped = !lc_mask_has(m, r * m->N + c);
      t->masked += dropped;
      t->filled += dropped && after[(r - at.r0) * (at.c1 - at.c0) + c - at.c0] != 0;
    }
}

static lc_status write_rows(strip *s, tally *t, int64_t a, int64_t b, int worker) {
  lc_rect at = s->e->transposed ? (lc_rect){0, s->w->M, a, b} : (lc_rect){a, b, 0, s->w->N};
  int64_t n = (b - a) * s->width, ld = at.c1 - at.c0;
  float *before = lc_scratch(s->ctx, worker, SLOT_BEFORE, (size_t)n * sizeof *before);
  float *after = lc_scratch(s->ctx, worker, SLOT_AFTER, (size_t)n * sizeof *after);
  float *row = lc_scratch(s->ctx, worker, SLOT_ROW, (size_t)s->width * 4 * sizeof *row + s->row_bytes);
  if (!before || !after || !row) return LC_FAILED;
  float *row2 = row + s->width, *back = row2 + s->width, *back2 = back + s->width;
  void *rounded = back2 + s->width;
  LC_TRY(effective(s, at, before, after));
  if (s->counts) count_filled(s, at, after, t);
  for (int64_t i = 0; i < b - a; i++) {
    uint8_t *dst = s->out + (size_t)(a - s->r0 + i) * s->row_bytes;
    const float *x = file_row(s, after, i, ld, row);
    LC_TRY(lc_encode_row(s->ctx, s->e->dtype, x, s->width, dst));
    if (!s->counts) continue;
    const float *y = file_row(s, before, i, ld, row2);
    LC_TRY(lc_encode_row(s->ctx, s->e->dtype, y, s->width, rounded));
    LC_TRY(lc_decode_row(s->ctx, s->e->dtype, rounded, s->width, back2));
    LC_TRY(lc_decode_row(s->ctx, s->e->dtype, dst, s->width, back));
    count(t, s->width, y, x, back2, back);
  }
  return LC_OK;
}

static lc_status chunk(void *arg, int64_t i, int worker) {
  strip *s = arg;
  int64_t a = s->r0 + i * s->per_chunk, b = lc_min64(a + s->per_chunk, s->r1);
  s->tally[i] = (tally){0};
  return write_rows(s, &s->tally[i], a, b, worker);
}

static lc_status report(const strip *s, const tally *t) {
  lc_merge_report *r = s->e->report;
  lc_merge_row *grown = lc_realloc(s->ctx, LC_MEM_OTHER, r->row, (size_t)(r->n + 1) * sizeof *grown);
  if (!grown) return LC_FAILED;
  r->row = grown;
  grown[r->n] = (lc_merge_row){.name = lc_strdup(s->ctx, s->w->name),
                               .changed = t->changed,
                               .survive = 1,
                               .error = 1,
                               .masked = t->masked,
                               .filled = t->filled};
  if (!grown[r->n].name) return LC_FAILED;
  if (t->changed) grown[r->n].survive = (double)t->survived / (double)t->changed;
  if (t->delta > 0) grown[r->n].error = sqrt(t->error / t->delta);
  r->n++;
  return LC_OK;
}

static lc_status export_matrix(strip *s) {
  lc_status st = LC_OK;
  tally sum = {0};
  int64_t D = lc_max64(1, s->e->head_dim);
  s->per_chunk = lc_max64(1, CHUNK / s->width / D) * D;
  s->out = lc_alloc_n(s->ctx, LC_MEM_SCRATCH, (size_t)(s->per_chunk * CHUNKS), s->row_bytes);
  if (!s->out) return LC_FAILED;
  for (s->r0 = 0; s->r0 < s->rows; s->r0 = s->r1) {
    s->r1 = lc_min64(s->rows, s->r0 + s->per_chunk * CHUNKS);
    int64_t n = lc_ceil_div(s->r1 - s->r0, s->per_chunk);
    LC_GO(lc_parallel(s->ctx, n, chunk, s));
    LC_GO(s->e->append(s->e->to, s->out, (size_t)(s->r1 - s->r0) * s->row_bytes));
    for (int64_t i = 0; i < n; i++) {
      sum.changed += s->tally[i].changed;
      sum.survived += s->tally[i].survived;
      sum.masked += s->tally[i].masked;
      sum.filled += s->tally[i].filled;
      sum.error += s->tally[i].error;
      sum.delta += s->tally[i].delta;
    }
  }
  if (s->counts) st = report(s, &sum);
done:
  lc_free(s->ctx, s->out);
  return st;
}

static lc_status export_vector(strip *s) {
  int64_t n = s->w->N;
  float *tmp = lc_alloc_n(s->ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *tmp);
  uint8_t *out = lc_alloc(s->ctx, LC_MEM_SCRATCH, s->row_bytes);
  lc_status st = tmp && out ? LC_OK : LC_FAILED;
  int64_t D = s->e->head_dim;
  for (int64_t i = 0; i < n && !st; i++) {
    int64_t from = D ? i / D * D + i % D % 2 * (D / 2) + i % D / 2 : i;
    tmp[i] = s->w->vector[from];
  }
  if (!st) st = lc_encode_row(s->ctx, s->e->dtype, tmp, n, out);
  if (!st) st = s->e->append(s->e->to, out, s->row_bytes);
  lc_free(s->ctx, tmp);
  lc_free(s->ctx, out);
  return st;
}

lc_status lc_export_tensor(const lc_export *e) {
  lc_weight *w = lc_net_weight(e->net, e->decl->name);
  strip s = {.e = e,
             .ctx = e->net->ctx,
             .w = w,
             .rows = e->transposed ? w->N : w->M,
             .width = e->transposed ? w->M : w->N};
  s.changed = w->n_delta || is_own(e->net, w);
  s.counts = s.changed && e->report && w->ndim == 2;
  if (!lc_dtype_bytes(e->dtype, s.width, &s.row_bytes))
    return lc_fail(s.ctx, "'%s': rows of %lld cannot be stored as %s", w->name, (long long)s.width,
                   lc_dtype_get(e->dtype)->name);
  return w->ndim == 1 ? export_vector(&s) : export_matrix(&s);
}

void lc_merge_report_free(lc_ctx *ctx, lc_merge_report *r) {
  for (int i = 0; i < r->n; i++) lc_free(ctx, r->row[i].name);
  lc_free(ctx, r->row);
  *r = (lc_merge_report){0};
}
