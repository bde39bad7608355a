/* Sampled products: dW only at K chosen positions, g[k] += Σ_t dy[t,row]·x[t,col], at a cost of K·T multiply-adds.
 *
 * Tokens go in blocks of 512. Per block x is transposed once for all (N×512, stays in cache), dy strip by strip; an entry is then a dot product of two
 * contiguous rows. An entry belongs to one strip of 64 rows, hence to one chunk: its sum has one order whatever the threads. */
#include "kernels/kernels.h"
#include "sparse/sparse.h"

enum { TOKENS = 512, STRIP = 64, COLUMNS = 64 };

typedef struct {
  lc_ctx *ctx;
  const uint8_t *x, *dy; lc_dtype xt, dt, dtype;
  int64_t ldx, lddy, T, M, N, t0;
  const lc_index *idx;
  void *xT;
  float *g;
} sampled_arg;

/* dst (cols, TOKENS) = src (tokens, cols)ᵀ from column c0, in `dtype`. */
static lc_status transpose(const sampled_arg *a, int worker, const uint8_t *src, lc_dtype st, int64_t ld, int64_t c0, int64_t cols, void *dst) {
  const lc_kernels *k = lc_kernels_get(a->ctx);
  if (st == LC_F32) {
    k->transpose_f32(a->T, cols, (const float *)(const void *)src + a->t0 * ld + c0, ld, dst, TOKENS);
    return LC_OK;
  }
  const uint16_t *h = (const uint16_t *)(const void *)src + a->t0 * ld + c0;
  if (a->dtype == LC_BF16) {
    k->transpose_bf16(a->T, cols, h, ld, dst, TOKENS);
    return LC_OK;
  }
  uint16_t *narrow = lc_scratch(a->ctx, worker, 5, (size_t)(cols * TOKENS) * sizeof *narrow);
  if (!narrow) return LC_FAILED;
  k->transpose_bf16(a->T, cols, h, ld, narrow, TOKENS);
  for (int64_t c = 0; c < cols; c++) k->bf16_to_f32(a->T, narrow + c * TOKENS, (float *)dst + c * TOKENS);
  return LC_OK;
}

static size_t size_of(lc_dtype d) { return d == LC_F32 ? 4 : 2; }

static lc_status x_chunk(void *arg, int64_t chunk, int worker) {
  const sampled_arg *a = arg;
  int64_t c0 = chunk * COLUMNS;
  return transpose(a, worker, a->x, a->xt, a->ldx, c0, lc_min64(COLUMNS, a->N - c0), (uint8_t *)a->xT + (size_t)(c0 * TOKENS) * size_of(a->dtype));
}

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const sampled_arg *a = arg;
  int64_t r0 = chunk * STRIP, r1 = lc_min64(r0 + STRIP, a->M);
  int64_t k0 = lc_index_lower(a->idx, 0, r0 * a->N), k1 = lc_index_lower(a->idx, k0, r1 * a->N), K = k1 - k0;
  if (k0 >= a->idx->n || !K) return LC_OK;
  size_t dyT_bytes = (size_t)(STRIP * TOKENS) * size_of(a->dtype);
  uint8_t *mine = lc_scratch(a->ctx, worker, 7, dyT_bytes + (a->idx->kind == LC_LIST64 ? (size_t)K * sizeof(int32_t) : 0));
  if (!mine) return LC_FAILED;
  LC_TRY(transpose(a, worker, a->dy, a->dt, a->lddy, r0, r1 - r0, mine));
  const int32_t *flat;
  int64_t row0 = r0;
  if (a->idx->kind == LC_LIST32) {
    flat = (const int32_t *)a->idx->at + k0;
  } else { /* positions relative to the strip fit in 32 bits */
    int32_t *relative = (int32_t *)(void *)(mine + dyT_bytes);
    for (int64_t k = 0; k < K; k++) relative[k] = (int32_t)(((const int64_t *)a->idx->at)[k0 + k] - r0 * a->N);
    flat = relative;
    row0 = 0;
  }
  const lc_kernels *kn = lc_kernels_get(a->ctx);
  if (a->dtype == LC_F32) kn->sampled(K, flat, a->N, row0, a->T, TOKENS, a->xT, (const float *)(const void *)mine, a->g + k0);
  else kn->sampled_bf16(K, flat, a->N, row0, a->T, TOKENS, a->xT, (const uint16_t *)(const void *)mine, a->g + k0);
  return LC_OK;
}

lc_status lc_sampled_grad(lc_ctx *ctx, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy, int64_t lddy, int64_t T, int64_t M, int64_t N,
                          const lc_index *idx, float *g) {
  if (idx->kind == LC_ALL) return lc_fail(ctx, "a sampled gradient needs a list of positions");
  if (N > INT32_MAX / STRIP) return lc_fail(ctx, "a sampled gradient of rows with %lld columns: at most %d", (long long)N, INT32_MAX / STRIP);
  sampled_arg a = {.ctx = ctx, .x = x, .dy = dy, .xt = xt, .dt = dt, .ldx = ldx, .lddy = lddy, .M = M, .N = N, .idx = idx, .g = g};
  a.dtype = xt == LC_BF16 && dt == LC_BF16 ? LC_BF16 : LC_F32;
  a.xT = lc_scratch(ctx, lc_worker(ctx), 6, (size_t)(N * TOKENS) * size_of(a.dtype));
  if (!a.xT) return LC_FAILED;
  for (a.t0 = 0; a.t0 < T; a.t0 += TOKENS) {
    a.T = lc_min64(TOKENS, T - a.t0);
    LC_TRY(lc_parallel(ctx, lc_ceil_div(N, COLUMNS), x_chunk, &a));
    LC_TRY(lc_parallel(ctx, lc_ceil_div(M, STRIP), strip_chunk, &a));
  }
  return LC_OK;
}
