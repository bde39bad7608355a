/* Selection over several weights at once, in memory that does not grow with the number chosen.
 *
 * A score becomes a 32-bit key whose order is the scores' order. Two passes over the scores count keys, first by
 * their upper 16 bits, then by the lower 16 within the bin where the K-th best lies: that gives the K-th best key
 * exactly. A third pass counts, for each strip of rows, what is better and what ties; sums over the strips in order
 * of (weight, row) say how many ties each may keep and where its positions go; a fourth writes them. All counts are
 * integers, so nothing depends on threads. */
#include "nn/select.h"
#include <math.h>
#include <string.h>

enum { STRIP = 64, BINS = 1 << 16, SLOT_SCORE = 14 };

typedef struct {
  int64_t better, ties, keep, to; /* keep: of the ties; to: place of the first in the weight's list */
} strip_count;
typedef struct {
  lc_ctx *ctx;
  const lc_scores *s;
  int64_t *first; /* n + 1: number of a weight's first strip */
  int64_t *bins;  /* workers × BINS */
  strip_count *strip;
  lc_index *out;
  uint32_t bound; /* key */
  int level; /* 0: upper halves; 1: lower halves of keys whose upper half is bound's; 2: count; 3: write */
} job;

static uint32_t key_of(const lc_scores *s, float score) {
  union {
    float f;
    uint32_t u;
  } v = {score + 0.0f}; /* one zero */
  const uint32_t key = v.u >> 31 ? ~v.u : v.u | 0x80000000u;
  return s->smallest ? ~key : key;
}

static lc_status magnitude(lc_ctx *ctx, int worker, const lc_weight *w, lc_rect q, float *score) {
  const void *tile;
  int64_t ld;
  LC_TRY(lc_weight_tile(ctx, worker, w, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    for (int64_t c = 0; c < w->N; c++) score[r * w->N + c] = fabsf(((const float *)tile)[r * ld + c]);
  return LC_OK;
}

lc_status lc_score_moved(void *arg, lc_ctx *ctx, int worker, int l, const lc_weight *w, lc_rect q,
                         float *score) {
  const int64_t n = (q.r1 - q.r0) * w->N;
  memset(score, 0, (size_t)n * sizeof *score);
  if (w->form != w->base) {
    float *base = lc_scratch(ctx, worker, 2, (size_t)n * sizeof *base);
    if (!base) return LC_FAILED;
    LC_TRY(w->base->ops->decode(ctx, w->base, q, LC_F32, base, w->N));
    LC_TRY(w->form->ops->decode(ctx, w->form, q, LC_F32, score, w->N));
    for (int64_t i = 0; i < n; i++) score[i] -= base[i];
  }
  for (int d = 0; d < w->n_delta; d++)
    if (w->delta[d]->ops->patch && w->delta[d]->apply != LC_IN_PLACE)
      LC_TRY(w->delta[d]->ops->patch(ctx, w->delta[d], q, score, w->N));
  for (int64_t i = 0; i < n; i++) score[i] = fabsf(score[i]);
  return LC_OK;
}

static void take(job *j, int64_t chunk, int worker, int l, int64_t flat, uint32_t key) {
  int64_t *bins = j->bins ? j->bins + (int64_t)worker * BINS : NULL;
  strip_count *c = &j->strip[chunk];
  lc_index *out = &j->out[l];
  switch (j->level) {
  case 0:
    bins[key >> 16]++;
    return;
  case 1:
    if (key >> 16 == j->bound >> 16) bins[key & 0xffff]++;
    return;
  case 2:
    c->better += key > j->bound;
    c->ties += key == j->bound;
    return;
  default:
    if (key < j->bound || (key == j->bound && c->keep-- <= 0)) return;
    if (out->kind == LC_LIST32)
      ((int32_t *)out->at)[c->to++] = (int32_t)flat;
    else
      ((int64_t *)out->at)[c->to++] = flat;
  }
}

static lc_status one_strip(void *arg, int64_t chunk, int worker) {
  job *j = arg;
  const lc_scores *s = j->s;
  int l = 0, hi = s->n;
  while (hi - l > 1) {
    const int mid = (l + hi) / 2;
    if (j->first[mid] <= chunk)
      l = mid;
    else
      hi = mid;
  }
  const lc_weight *w = s->w[l];
  const int64_t r0 = (chunk - j->first[l]) * STRIP, N = w->N;
  const lc_rect q = {r0, lc_min64(r0 + STRIP, w->M), 0, N};
  float *score = lc_scratch(j->ctx, worker, SLOT_SCORE, (size_t)((q.r1 - q.r0) * N) * sizeof *score);
  if (!score) return LC_FAILED;
  LC_TRY(s->score ? s->score(s->arg, j->ctx, worker, l, w, q, score)
                  : magnitude(j->ctx, worker, w, q, score));
  const lc_index *no = s->exclude && s->exclude[l].n ? &s->exclude[l] : NULL;
  int64_t k = no ? lc_index_lower(no, 0, r0 * N) : 0;
  for (int64_t i = 0; i < (q.r1 - q.r0) * N; i++) {
    const int64_t flat = r0 * N + i;
    if (isnan(score[i]))
      return lc_fail(j->ctx, "selection: the score of '%s' at row %lld, column %lld is not a number", w->name,
                     (long long)(flat / N), (long long)(flat % N));
    if (no && k < no->n && lc_index_at(no, k) == flat) {
      k++;
      continue;
    }
    take(j, chunk, worker, l, flat, key_of(s, score[i]));
  }
  return LC_OK;
}

static lc_status pass(job *j, int level) {
  j->level = level;
  if (level < 2) memset(j->bins, 0, (size_t)lc_threads(j->ctx) * BINS * sizeof *j->bins);
  return lc_parallel(j->ctx, j->first[j->s->n], one_strip, j);
}

/* The bin where the K-th best lies; *K becomes its rank within the bin. */
static uint32_t find_bin(const job *j, int64_t *K) {
  for (int b = BINS - 1; b > 0; b--) {
    int64_t n = 0;
    for (int t = 0; t < lc_threads(j->ctx); t++) n += j->bins[(int64_t)t * BINS + b];
    if (n >= *K) return (uint32_t)b;
    *K -= n;
  }
  return 0;
}

static lc_status open(job *j, lc_ctx *ctx, const lc_scores *s, bool bins, lc_index *out) {
  *j = (job){.ctx = ctx, .s = s, .out = out};
  for (int l = 0; l < s->n; l++) out[l] = (lc_index){.kind = LC_LIST32};
  j->first = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)s->n + 1, sizeof *j->first);
  if (!j->first) return LC_FAILED;
  for (int l = 0; l < s->n; l++) j->first[l + 1] = j->first[l] + lc_ceil_div(s->w[l]->M, STRIP);
  j->strip = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)j->first[s->n], sizeof *j->strip);
  if (bins) j->bins = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)lc_threads(ctx) * BINS, sizeof *j->bins);
  return j->strip && (!bins || j->bins) ? LC_OK : LC_FAILED;
}

static lc_status close(job *j, lc_status st) {
  if (st) lc_index_free_all(j->ctx, j->out, j->s->n);
  lc_free(j->ctx, j->first);
  lc_free(j->ctx, j->strip);
  lc_free(j->ctx, j->bins);
  return st;
}

/* Counts what is better than the bound's key, keeps `ties` of those that equal it, and writes the lists. */
static lc_status gather(job *j, int64_t ties) {
  LC_TRY(pass(j, 2));
  for (int l = 0; l < j->s->n; l++) {
    const lc_weight *w = j->s->w[l];
    lc_index *x = &j->out[l];
    for (int64_t c = j->first[l]; c < j->first[l + 1]; c++) {
      strip_count *p = &j->strip[c];
      p->to = x->n;
      p->keep = lc_min64(p->ties, ties);
      ties -= p->keep;
      x->n += p->better + p->keep;
    }
    x->kind = w->M * w->N > INT32_MAX ? LC_LIST64 : LC_LIST32;
    if (x->n && !(x->at = lc_alloc_n(j->ctx, LC_MEM_TRAINABLE, (size_t)x->n, x->kind == LC_LIST32 ? 4 : 8)))
      return LC_FAILED;
  }
  return pass(j, 3);
}

lc_status lc_select_global(lc_ctx *ctx, const lc_scores *s, int64_t K, lc_index *out) {
  int64_t all = 0, rank = K;
  lc_status st = LC_OK;
  job j;
  for (int l = 0; l < s->n; l++) all += s->w[l]->M * s->w[l]->N - (s->exclude ? s->exclude[l].n : 0);
  if (K < 1 || K > all)
    return lc_fail(ctx, "%lld entries are to be chosen out of %lld", (long long)K, (long long)all);
  LC_GO(open(&j, ctx, s, true, out));
  LC_GO(pass(&j, 0));
  j.bound = find_bin(&j, &rank) << 16;
  LC_GO(pass(&j, 1));
  j.bound |= find_bin(&j, &rank);
  LC_GO(gather(&j, rank));
done:
  return close(&j, st);
}

lc_status lc_select_beyond(lc_ctx *ctx, const lc_scores *s, float bound, lc_index *out) {
  lc_status st = LC_OK;
  job j;
  LC_GO(open(&j, ctx, s, false, out));
  j.bound = key_of(s, bound);
  LC_GO(gather(&j, 0));
done:
  return close(&j, st);
}

lc_status lc_select_global_random(lc_ctx *ctx, lc_weight *const *w, int n, uint64_t seed, int64_t K,
                                  lc_index *out) {
  const lc_rng rng = {.seed = seed, .tensor = lc_fnv1a32("all"), .purpose = LC_RNG_MASK};
  lc_status st = LC_OK;
  int64_t all = 0, k = 0, from = 0;
  for (int l = 0; l < n; l++) {
    out[l] = (lc_index){.kind = LC_LIST32};
    all += w[l]->M * w[l]->N;
  }
  if (K < 1 || K > all)
    return lc_fail(ctx, "%lld entries are to be chosen out of %lld", (long long)K, (long long)all);
  int64_t *at = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)K, sizeof *at);
  if (!at) return LC_FAILED;
  LC_GO(lc_rng_choose(ctx, &rng, all, K, at));
  for (int l = 0; l < n; l++) {
    const int64_t begin = k, size = w[l]->M * w[l]->N;
    for (; k < K && at[k] < from + size; k++) at[k] -= from;
    if (k > begin) LC_GO(lc_index_new(ctx, w[l]->M, w[l]->N, at + begin, k - begin, &out[l]));
    from += size;
  }
done:
  if (st) lc_index_free_all(ctx, out, n);
  lc_free(ctx, at);
  return st;
}

/* |b - a| of two weights. */
static lc_status difference(void *arg, lc_ctx *ctx, int worker, int l, const lc_weight *a, lc_rect q,
                            float *score) {
  const lc_weight *b = arg;
  const void *tile;
  int64_t ld;
  LC_TRY(lc_weight_tile(ctx, worker, a, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    memcpy(score + r * a->N, (const float *)tile + r * ld, (size_t)a->N * sizeof *score);
  LC_TRY(lc_weight_tile(ctx, worker, b, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    for (int64_t c = 0; c < a->N; c++)
      score[r * a->N + c] = fabsf(((const float *)tile)[r * ld + c] - score[r * a->N + c]);
  return LC_OK;
}

lc_status lc_select_changed(lc_ctx *ctx, const lc_weight *a, const lc_weight *b, float tolerance,
                            lc_index *out) {
  lc_weight *const one[] = {(lc_weight *)a};
  const lc_scores s = {.w = one, .n = 1, .score = difference, .arg = (void *)b};
  if (a->ndim != 2 || b->ndim != 2)
    return lc_fail(ctx, "'%s' is a vector: changed entries are chosen of matrices", a->name);
  if (a->M != b->M || a->N != b->N)
    return lc_fail(ctx, "'%s' is %lld×%lld in one and %lld×%lld in the other", a->name, (long long)a->M,
                   (long long)a->N, (long long)b->M, (long long)b->N);
  return lc_select_beyond(ctx, &s, tolerance, out);
}

void lc_index_free_all(lc_ctx *ctx, lc_index *x, int n) {
  for (int l = 0; l < n; l++) lc_index_free(ctx, &x[l]);
}
