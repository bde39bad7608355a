/* Sampled products: dW only at K chosen positions, g[k] += Σ_t dy[t,row]·x[t,col], at a cost of K·T
 * multiply-adds.
 *
 * Tokens go in blocks of 512. Per block x is transposed once for all (N×512, stays in cache), dy strip by
 * strip; an entry is then a dot product of two contiguous rows. An entry belongs to one strip of 64 rows,
 * hence to one chunk: its sum has one order whatever the threads. */
#include "kernels/kernels.h"
#include "sparse/sparse.h"

enum { TOKENS = 512, LD = TOKENS + 32 /* lines of transposed rows in different sets of the cache */, STRIP = 64, COLUMNS = 64, PIECE = 1024 };
enum { SLOT_XT = 6, SLOT_STRIP = 7 };

typedef struct {
  lc_ctx *ctx;
  const uint8_t *x, *dy;
  lc_dtype xt, dt, dtype;
  int64_t ldx, lddy, T, M, N, t0;
  const lc_index *idx;
  void *xT;
  float *g;
} sampled_arg;

static size_t size_of(lc_dtype d) {
  return d == LC_F32 ? 4 : 2;
}

/* dst (cols, LD) = src (tokens, cols)ᵀ from column c0, in a->dtype; `narrow` (cols, LD): room for
 * bf16 that is to be widened. */
static void transpose(const sampled_arg *a, const uint8_t *src, lc_dtype st, int64_t ld, int64_t c0,
                      int64_t cols, void *dst, uint16_t *narrow) {
  const lc_kernels *k = lc_kernels_get(a->ctx);
  src += (size_t)(a->t0 * ld + c0) * size_of(st);
  if (st == LC_F32)
    k->transpose_f32(a->T, cols, (const float *)(const void *)src, ld, dst, LD);
  else
    k->transpose_bf16(a->T, cols, (const uint16_t *)(const void *)src, ld, a->dtype == LC_BF16 ? dst : narrow,
                      LD);
  for (int64_t c = 0; st != a->dtype && c < cols; c++)
    k->bf16_to_f32(a->T, narrow + c * LD, (float *)dst + c * LD);
}

static lc_status x_chunk(void *arg, int64_t chunk, int worker) {
  const sampled_arg *a = arg;
  int64_t c0 = chunk * COLUMNS;
  uint16_t *narrow = NULL;
  if (a->xt != a->dtype &&
      !(narrow = lc_scratch(a->ctx, worker, SLOT_STRIP, (size_t)(COLUMNS * LD) * sizeof *narrow)))
    return LC_FAILED;
  transpose(a, a->x, a->xt, a->ldx, c0, lc_min64(COLUMNS, a->N - c0),
            (uint8_t *)a->xT + (size_t)(c0 * LD) * size_of(a->dtype), narrow);
  return LC_OK;
}

static void products(const sampled_arg *a, int64_t K, const int32_t *flat, int64_t row0, const void *dyT,
                     float *g) {
  const lc_kernels *k = lc_kernels_get(a->ctx);
  if (a->dtype == LC_F32)
    k->sampled(K, flat, a->N, row0, a->T, LD, a->xT, dyT, g);
  else
    k->sampled_bf16(K, flat, a->N, row0, a->T, LD, a->xT, dyT, g);
}

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const sampled_arg *a = arg;
  int64_t r0 = chunk * STRIP, r1 = lc_min64(r0 + STRIP, a->M);
  int64_t k0 = lc_index_lower(a->idx, 0, r0 * a->N), k1 = lc_index_lower(a->idx, k0, r1 * a->N);
  if (k0 == k1) return LC_OK;
  size_t wide = (size_t)(STRIP * LD) * size_of(a->dtype),
         narrow = a->dt == a->dtype ? 0 : (size_t)(STRIP * LD) * sizeof(uint16_t);
  uint8_t *dyT = lc_scratch(a->ctx, worker, SLOT_STRIP, wide + narrow);
  if (!dyT) return LC_FAILED;
  transpose(a, a->dy, a->dt, a->lddy, r0, r1 - r0, dyT, (uint16_t *)(void *)(dyT + wide));
  if (a->idx->kind == LC_LIST32) {
    products(a, k1 - k0, (const int32_t *)a->idx->at + k0, r0, dyT, a->g + k0);
    return LC_OK;
  }
  int32_t flat[PIECE]; /* positions relative to the strip fit in 32 bits */
  for (int64_t k = k0; k < k1; k += PIECE) {
    int64_t n = lc_min64(PIECE, k1 - k);
    for (int64_t i = 0; i < n; i++) flat[i] = (int32_t)(lc_index_at(a->idx, k + i) - r0 * a->N);
    products(a, n, flat, 0, dyT, a->g + k);
  }
  return LC_OK;
}

lc_status lc_sampled_grad(lc_ctx *ctx, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                          int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *idx, float *g) {
  if ((xt != LC_F32 && xt != LC_BF16) || (dt != LC_F32 && dt != LC_BF16))
    return lc_fail(ctx, "a sampled gradient of x in %s and dy in %s: f32 and bf16 are possible",
                   lc_dtype_get(xt)->name, lc_dtype_get(dt)->name);
  if (idx->kind == LC_ALL) return lc_fail(ctx, "a sampled gradient needs a list of positions");
  if (N > INT32_MAX / STRIP)
    return lc_fail(ctx, "a sampled gradient of rows with %lld columns: at most %d", (long long)N,
                   INT32_MAX / STRIP);
  sampled_arg a = {.ctx = ctx,
                   .x = x,
                   .dy = dy,
                   .xt = xt,
                   .dt = dt,
                   .ldx = ldx,
                   .lddy = lddy,
                   .M = M,
                   .N = N,
                   .idx = idx,
                   .g = g};
  a.dtype = xt == LC_BF16 && dt == LC_BF16 ? LC_BF16 : LC_F32;
  a.xT = lc_scratch(ctx, lc_worker(ctx), SLOT_XT, (size_t)(N * LD) * size_of(a.dtype));
  if (!a.xT) return LC_FAILED;
  for (a.t0 = 0; a.t0 < T; a.t0 += TOKENS) {
    a.T = lc_min64(TOKENS, T - a.t0);
    LC_TRY(lc_parallel(ctx, lc_ceil_div(N, COLUMNS), x_chunk, &a));
    LC_TRY(lc_parallel(ctx, lc_ceil_div(M, STRIP), strip_chunk, &a));
  }
  return LC_OK;
}
