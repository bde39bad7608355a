/* Sampled products: dW only at K chosen positions, g[k] += Σ_t dy[t,row]·x[t,col], at a cost of K·T
 * multiply-adds.
 *
 * Tokens go in blocks. Per block x is transposed once for all (N×tokens, stays in the second-level cache), dy strip by strip; an entry is then a
 * dot product of two contiguous rows. Blocks are shared out among threads, so that each transposes what it reads itself, and their sums are added
 * in the order of blocks; where there are fewer blocks than threads, or very many positions, blocks follow each other and threads share strips.
 * Both give the same bits: an entry is a sum over blocks, in order, of sums inside a block. */
#include "kernels/kernels.h"
#include "sparse/sparse.h"
#include <string.h>

enum {
  STRIP = 64,
  COLUMNS = 64,
  PIECE = 1024,
  PAD = 32 /* puts the lines of transposed rows into different sets of the cache */
};
enum {
  X_VALUES = 512 * 1024 /* of a transposed block */,
  MOST_TOKENS = 512,
  MOST_PARTS = 1 << 20 /* sums of blocks kept at once */
};
enum { SLOT_PARTS = 1, SLOT_XT = 6, SLOT_STRIP = 7 };

typedef struct {
  lc_ctx *ctx;
  const uint8_t *x, *dy;
  lc_dtype xt, dt, dtype;
  int64_t ldx, lddy, T, M, N;
  const lc_index *idx;
  float *g;
  int64_t tokens, ld; /* of a block; from one transposed row to the next */
  float *parts;       /* blocks × K: sums of each block */
} sampled_arg;

/* A block: tokens [t0,t0+T) and x transposed. */
typedef struct {
  int64_t t0, T;
  void *xT;
} block;

static size_t size_of(lc_dtype d) {
  return d == LC_F32 ? 4 : 2;
}

/* dst (cols, ld) = src (tokens of the block, cols)ᵀ from column c0, in a->dtype; `narrow` (cols, ld): room for bf16 that is to be widened. */
static void transpose(const sampled_arg *a, const block *b, const uint8_t *src, lc_dtype st, int64_t ld,
                      int64_t c0, int64_t cols, void *dst, uint16_t *narrow) {
  const lc_kernels *k = lc_kernels_get(a->ctx);
  src += (size_t)(b->t0 * ld + c0) * size_of(st);
  if (st == LC_F32)
    k->transpose_f32(b->T, cols, (const float *)(const void *)src, ld, dst, a->ld);
  else
    k->transpose_bf16(b->T, cols, (const uint16_t *)(const void *)src, ld, a->dtype == LC_BF16 ? dst : narrow,
                      a->ld);
  for (int64_t c = 0; st != a->dtype && c < cols; c++)
    k->bf16_to_f32(b->T, narrow + c * a->ld, (float *)dst + c * a->ld);
}

/* Columns [c0,c0+cols) of x. */
static lc_status transpose_x(const sampled_arg *a, const block *b, int worker, int64_t c0, int64_t cols) {
  uint16_t *narrow = NULL;
  if (a->xt != a->dtype &&
      !(narrow = lc_scratch(a->ctx, worker, SLOT_STRIP, (size_t)(cols * a->ld) * sizeof *narrow)))
    return LC_FAILED;
  transpose(a, b, a->x, a->xt, a->ldx, c0, cols, (uint8_t *)b->xT + (size_t)(c0 * a->ld) * size_of(a->dtype),
            narrow);
  return LC_OK;
}

static void products(const sampled_arg *a, const block *b, int64_t K, const int32_t *flat, int64_t row0,
                     const void *dyT, float *g) {
  const lc_kernels *k = lc_kernels_get(a->ctx);
  if (a->dtype == LC_F32)
    k->sampled(K, flat, a->N, row0, b->T, a->ld, b->xT, dyT, g);
  else
    k->sampled_bf16(K, flat, a->N, row0, b->T, a->ld, b->xT, dyT, g);
}

/* g += the block's products of rows [r0, r0 + STRIP). */
static lc_status strip(const sampled_arg *a, const block *b, int worker, int64_t r0, float *g) {
  int64_t r1 = lc_min64(r0 + STRIP, a->M);
  int64_t k0 = lc_index_lower(a->idx, 0, r0 * a->N), k1 = lc_index_lower(a->idx, k0, r1 * a->N);
  if (k0 == k1) return LC_OK;
  size_t wide = (size_t)(STRIP * a->ld) * size_of(a->dtype),
         narrow = a->dt == a->dtype ? 0 : (size_t)(STRIP * a->ld) * sizeof(uint16_t);
  uint8_t *dyT = lc_scratch(a->ctx, worker, SLOT_STRIP, wide + narrow);
  if (!dyT) return LC_FAILED;
  transpose(a, b, a->dy, a->dt, a->lddy, r0, r1 - r0, dyT, (uint16_t *)(void *)(dyT + wide));
  if (a->idx->kind == LC_LIST32) {
    products(a, b, k1 - k0, (const int32_t *)a->idx->at + k0, r0, dyT, g + k0);
    return LC_OK;
  }
  int32_t flat[PIECE]; /* positions relative to the strip fit in 32 bits */
  for (int64_t k = k0; k < k1; k += PIECE) {
    int64_t n = lc_min64(PIECE, k1 - k);
    for (int64_t i = 0; i < n; i++) flat[i] = (int32_t)(lc_index_at(a->idx, k + i) - r0 * a->N);
    products(a, b, n, flat, 0, dyT, g + k);
  }
  return LC_OK;
}

static size_t block_bytes(const sampled_arg *a) {
  return (size_t)(a->N * a->ld) * size_of(a->dtype);
}

/* ---- blocks side by side ---- */

static lc_status block_chunk(void *arg, int64_t chunk, int worker) {
  const sampled_arg *a = arg;
  block b = {.t0 = chunk * a->tokens, .xT = lc_scratch(a->ctx, worker, SLOT_XT, block_bytes(a))};
  if (!b.xT) return LC_FAILED;
  b.T = lc_min64(a->tokens, a->T - b.t0);
  float *sums = a->parts + chunk * a->idx->n;
  memset(sums, 0, (size_t)a->idx->n * sizeof *sums);
  LC_TRY(transpose_x(a, &b, worker, 0, a->N));
  for (int64_t r0 = 0; r0 < a->M; r0 += STRIP) LC_TRY(strip(a, &b, worker, r0, sums));
  return LC_OK;
}

static lc_status side_by_side(sampled_arg *a, int64_t blocks) {
  a->parts =
      lc_scratch(a->ctx, lc_worker(a->ctx), SLOT_PARTS, (size_t)(blocks * a->idx->n) * sizeof *a->parts);
  if (!a->parts) return LC_FAILED;
  LC_TRY(lc_parallel(a->ctx, blocks, block_chunk, a));
  for (int64_t i = 0; i < blocks; i++)
    lc_kernels_get(a->ctx)->add(a->idx->n, a->g, a->parts + i * a->idx->n, a->g);
  return LC_OK;
}

/* ---- blocks in turn ---- */

typedef struct {
  const sampled_arg *a;
  block b;
} turn;

static lc_status x_chunk(void *arg, int64_t chunk, int worker) {
  const turn *t = arg;
  return transpose_x(t->a, &t->b, worker, chunk * COLUMNS, lc_min64(COLUMNS, t->a->N - chunk * COLUMNS));
}

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const turn *t = arg;
  return strip(t->a, &t->b, worker, chunk * STRIP, t->a->g);
}

static lc_status in_turn(sampled_arg *a) {
  turn t = {.a = a, .b.xT = lc_scratch(a->ctx, lc_worker(a->ctx), SLOT_XT, block_bytes(a))};
  if (!t.b.xT) return LC_FAILED;
  for (t.b.t0 = 0; t.b.t0 < a->T; t.b.t0 += a->tokens) {
    t.b.T = lc_min64(a->tokens, a->T - t.b.t0);
    LC_TRY(lc_parallel(a->ctx, lc_ceil_div(a->N, COLUMNS), x_chunk, &t));
    LC_TRY(lc_parallel(a->ctx, lc_ceil_div(a->M, STRIP), strip_chunk, &t));
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
                   .T = T,
                   .M = M,
                   .N = N,
                   .idx = idx,
                   .g = g};
  a.dtype = xt == LC_BF16 && dt == LC_BF16 ? LC_BF16 : LC_F32;
  a.tokens = lc_max64(64, lc_min64(MOST_TOKENS, X_VALUES / N / (int64_t)(size_of(a.dtype) / 2) / 64 * 64));
  a.ld = a.tokens + PAD;
  const int64_t blocks = lc_ceil_div(T, a.tokens);
  return blocks >= lc_threads(ctx) && blocks * idx->n <= MOST_PARTS ? side_by_side(&a, blocks) : in_turn(&a);
}
