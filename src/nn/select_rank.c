/* Rank-reduced magnitude (LIFT: Liu et al. 2025, arXiv 2506.00772): the entries that stand out once a weight is
 * reduced to its R largest singular directions. W' = US·Vt is made a strip of rows at a time and goes straight into
 * a top-k; with 4×4 blocks a strip becomes a strip of block sums first. */
#include "nn/select.h"
#include "kernels/kernels.h"
#include "kernels/linalg.h"
#include <math.h>
#include <string.h>

enum { BLOCK = 4, SLOT_STRIP = 2, SLOT_BLOCKS = 3 };

typedef struct {
  lc_ctx *ctx;
  const lc_weight *w;
  float *US, *Vt; /* NULL: W itself */
  int64_t R;
} reduced;

static lc_status weight_strip(void *arg, int64_t r0, int64_t r1, const float **rows, int64_t *ld) {
  const reduced *a = arg;
  const void *tile;
  LC_TRY(lc_weight_tile(a->ctx, lc_worker(a->ctx), a->w, (lc_rect){r0, r1, 0, a->w->N}, LC_F32, &tile, ld));
  *rows = tile;
  return LC_OK;
}

/* |W'| of rows [r0,r1), contiguous, in the worker's scratch. */
static lc_status strip_scores(const reduced *a, int64_t r0, int64_t r1, float **score) {
  const int64_t N = a->w->N, rows = r1 - r0;
  float *s = *score = lc_scratch(a->ctx, lc_worker(a->ctx), SLOT_STRIP, (size_t)(rows * N) * sizeof *s);
  if (!s) return LC_FAILED;
  if (a->US) {
    const lc_gemm_shape g = {
        .m = rows, .n = N, .k = a->R, .lda = a->R, .ldb = N, .ldc = N, .dtype = LC_F32, .c_dtype = LC_F32};
    LC_TRY(lc_gemm(a->ctx, lc_worker(a->ctx), &g, a->US + r0 * a->R, a->Vt, s));
  } else {
    const float *from;
    int64_t ld;
    LC_TRY(weight_strip((void *)a, r0, r1, &from, &ld));
    for (int64_t r = 0; r < rows; r++) memcpy(s + r * N, from + r * ld, (size_t)N * sizeof *s);
  }
  for (int64_t i = 0; i < rows * N; i++) s[i] = fabsf(s[i]);
  return LC_OK;
}

/* Pushes the scores of all rows, or of all blocks (as a matrix of M/4 × N/4). */
static lc_status push_all(const reduced *a, bool blocks, lc_topk *top) {
  const int64_t M = a->w->M, N = a->w->N, n = N / BLOCK;
  const int worker = lc_worker(a->ctx);
  for (int64_t r = 0; r < M; r += LC_STRIP_ROWS) {
    const int64_t end = lc_min64(r + LC_STRIP_ROWS, M);
    float *score;
    LC_TRY(strip_scores(a, r, end, &score));
    if (!blocks) {
      LC_TRY(lc_topk_push(top, worker, 0, N, (lc_rect){r, end, 0, N}, score, NULL, N, NULL));
      continue;
    }
    const int64_t rows = (end - r) / BLOCK;
    float *sum = lc_scratch(a->ctx, worker, SLOT_BLOCKS, (size_t)(rows * n) * sizeof *sum);
    if (!sum) return LC_FAILED;
    memset(sum, 0, (size_t)(rows * n) * sizeof *sum);
    for (int64_t i = 0; i < end - r; i++)
      for (int64_t c = 0; c < N; c++) sum[i / BLOCK * n + c / BLOCK] += score[i * N + c];
    LC_TRY(lc_topk_push(top, worker, 0, n, (lc_rect){r / BLOCK, end / BLOCK, 0, n}, sum, NULL, n, NULL));
  }
  return LC_OK;
}

static lc_status choose(const reduced *a, bool blocks, int64_t K, lc_index *out) {
  lc_ctx *ctx = a->ctx;
  lc_status st = LC_OK;
  const int64_t N = a->w->N, take = blocks ? K / (BLOCK * BLOCK) : K;
  const lc_pick *pick;
  int64_t n = 0, k = 0, *flat = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)K, sizeof *flat);
  lc_topk *top = NULL;
  if (!flat) return LC_FAILED;
  LC_GO(lc_topk_new(ctx, take, &top));
  st = push_all(a, blocks, top);
  if (st) {
    char why[160];
    snprintf(why, sizeof why, "%s", lc_error(ctx));
    LC_GO(lc_fail(ctx, "'%s': %s", a->w->name, why));
  }
  LC_GO(lc_topk_take(top, &pick, &n));
  for (int64_t i = 0; i < n; i++) {
    if (!blocks) {
      flat[k++] = pick[i].flat;
      continue;
    }
    const int64_t r = pick[i].flat / (N / BLOCK) * BLOCK, c = pick[i].flat % (N / BLOCK) * BLOCK;
    for (int64_t y = 0; y < BLOCK; y++)
      for (int64_t x = 0; x < BLOCK; x++) flat[k++] = (r + y) * N + c + x;
  }
  LC_GO(lc_index_new(ctx, a->w->M, N, flat, k, out));
done:
  lc_topk_free(top);
  lc_free(ctx, flat);
  return st;
}

lc_status lc_select_rank_reduced(lc_ctx *ctx, const lc_weight *w, const lc_rank_opts *o, int64_t K,
                                 lc_index *out) {
  reduced a = {.ctx = ctx, .w = w, .R = o->rank};
  lc_status st = LC_OK;
  if (o->rank < 1) return lc_fail(ctx, "'%s': filter rank %lld", w->name, (long long)o->rank);
  if (K < 1 || K > w->M * w->N)
    return lc_fail(ctx, "'%s' has %lld×%lld entries: no mask of %lld", w->name, (long long)w->M,
                   (long long)w->N, (long long)K);
  if (o->blocks && (w->M % BLOCK || w->N % BLOCK || K < BLOCK * BLOCK))
    return lc_fail(ctx, "'%s' (%lld×%lld): %lld entries cannot be chosen as 4×4 blocks", w->name,
                   (long long)w->M, (long long)w->N, (long long)K);
  if (o->rank < lc_min64(w->M, w->N)) {
    const lc_strips strips = {w->M, w->N, weight_strip, &a};
    const lc_truncated_opts t = {.rank = o->rank,
                                 .exact = o->exact,
                                 .power = o->power,
                                 .rng = {.seed = o->seed, .tensor = w->id, .purpose = LC_RNG_MASK}};
    a.US = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(w->M * a.R), sizeof *a.US);
    a.Vt = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)(w->N * a.R), sizeof *a.Vt);
    if (!a.US || !a.Vt) LC_GO(LC_FAILED);
    st = lc_svd_truncated(ctx, &strips, &t, a.US, a.Vt);
    if (st) {
      char why[160];
      snprintf(why, sizeof why, "%s", lc_error(ctx));
      LC_GO(lc_fail(ctx, "'%s': %s", w->name, why));
    }
  }
  LC_GO(choose(&a, o->blocks, K, out));
done:
  lc_free(ctx, a.US);
  lc_free(ctx, a.Vt);
  return st;
}
