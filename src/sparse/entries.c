/* The gradient at K positions, whichever way is faster: sampled products (sampled.c), whose cost follows K, or, above a density that is committed
 * for each instruction set (`lacuna bench sampled` measures it), strips of the dense dW, from which the entries are taken. A strip is summed by
 * one chunk, so bits do not depend on threads. */
#include "kernels/kernels.h"
#include "sparse/sparse.h"

enum { SLOT_TILE = 1 };

typedef struct {
  lc_ctx *ctx;
  const uint8_t *x, *dy;
  lc_dtype dtype;
  int64_t ldx, lddy, T, M, N;
  const lc_index *idx;
  float *g;
  const void *packed; /* x; NULL: each strip reads it as it stands */
  int64_t strip;
} strips_arg;

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const strips_arg *a = arg;
  const int64_t r0 = chunk * a->strip, r1 = lc_min64(r0 + a->strip, a->M);
  const int64_t k0 = lc_index_lower(a->idx, 0, r0 * a->N), k1 = lc_index_lower(a->idx, k0, r1 * a->N);
  if (k0 == k1) return LC_OK;
  float *tile = lc_scratch(a->ctx, worker, SLOT_TILE, (size_t)(a->strip * a->N) * sizeof *tile);
  if (!tile) return LC_FAILED;
  const lc_gemm_shape s = {.m = r1 - r0,
                           .n = a->N,
                           .k = a->T,
                           .lda = a->lddy,
                           .ldb = a->ldx,
                           .ldc = a->N,
                           .trans_a = true,
                           .dtype = a->dtype,
                           .c_dtype = LC_F32,
                           .packed_b = a->packed != NULL};
  LC_TRY(lc_gemm(a->ctx, worker, &s, a->dy + (size_t)r0 * (a->dtype == LC_F32 ? 4u : 2u),
                 a->packed ? a->packed : a->x, tile));
  for (int64_t k = k0; k < k1; k++) a->g[k] += tile[lc_index_at(a->idx, k) - r0 * a->N];
  return LC_OK;
}

lc_status lc_strips_grad(lc_ctx *ctx, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                         int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *idx, float *g) {
  if (xt != dt || (xt != LC_F32 && xt != LC_BF16))
    return lc_fail(ctx, "a gradient by strips of x in %s and dy in %s: both f32 or both bf16 are possible",
                   lc_dtype_get(xt)->name, lc_dtype_get(dt)->name);
  if (idx->kind == LC_ALL) return lc_fail(ctx, "a gradient of entries needs a list of positions");
  strips_arg a = {ctx, x, dy, xt, ldx, lddy, T, M, N, idx, g, NULL, 0};
  const lc_gemm_shape all = {.m = M, .n = N, .k = T, .ldb = ldx, .dtype = xt, .c_dtype = LC_F32};
  LC_TRY(lc_gemm_pack_shared(ctx, &all, x, &a.packed, &a.strip));
  return lc_parallel(ctx, lc_ceil_div(M, a.strip), strip_chunk, &a);
}

/* Densities from which dense strips are faster, at SmolLM2's shapes and 2,048 tokens; measured on Intel with AMX under each LACUNA_ISA. */
static const struct {
  double bf16, f32;
} break_even[LC_ISA_COUNT] = {
    [LC_ISA_SCALAR] = {2, 2}, /* never: not measured */
    [LC_ISA_AVX2] = {0.3, 0.4},         [LC_ISA_AVX512] = {0.2, 0.32},
    [LC_ISA_AVX512_BF16] = {0.5, 0.32}, [LC_ISA_AMX] = {0.06, 0.32},
};

lc_status lc_entries_grad(lc_ctx *ctx, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                          int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *idx, float *g) {
  const lc_isa isa = lc_isa_of(ctx);
  const double from = xt == LC_BF16 ? break_even[isa].bf16 : break_even[isa].f32;
  const bool dense = xt == dt && idx->kind != LC_ALL && (double)idx->n >= from * (double)M * (double)N;
  return (dense ? lc_strips_grad : lc_sampled_grad)(ctx, xt, x, ldx, dt, dy, lddy, T, M, N, idx, g);
}
