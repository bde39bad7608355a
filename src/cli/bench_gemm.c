/* bench gemm: y = x·Wᵀ, dx = dy·W and dW = dyᵀ·x at SmolLM2's shapes, cut into chunks as the ops do (op_linear.c: the weight packed
 * first where products gain by it, and chunks of rows; or strips of the weight), against the register peak of the dtype. Then the integer products of
 * prompts (bench_gemm_int8.c). */
#include "cli/bench.h"

typedef enum { FORWARD, DX, DW } product;
typedef struct {
  lc_ctx *ctx;
  product what;
  int64_t T, M, N;
  lc_dtype dtype;
  const void *x, *w, *dy;
  void *out;
  uint8_t *packed; /* room for it */
  size_t packed_bytes;
} gemm_arg;
enum { PACKED_ROWS = 64, PACK_STRIP = 96, HEAD_DEPTH = 4096, PACK_MOST = 32 << 20 };
static const char *const names[] = {"forward", "dx", "dW"};

static size_t size_of(lc_dtype d) {
  return d == LC_BF16 ? 2 : 4;
}

/* 64 or more rows of the cut dimension a chunk. */
static int64_t strip(int64_t n) {
  return lc_min64(512, lc_max64(64, lc_ceil_div(lc_ceil_div(n, 8), 32) * 32));
}

static lc_status chunk(void *arg, int64_t c, int worker) {
  const gemm_arg *a = arg;
  int64_t cut = a->what == DX ? a->N : a->M, s = strip(cut), i0 = c * s, n = lc_min64(s, cut - i0);
  const uint8_t *x = a->x, *w = a->w, *dy = a->dy;
  size_t e = size_of(a->dtype);
  lc_gemm_shape g = {.dtype = a->dtype, .c_dtype = a->what == DW ? LC_F32 : a->dtype};
  uint8_t *out = a->out;
  if (a->what == FORWARD) {
    g.m = a->T, g.n = n, g.k = a->N, g.lda = a->N, g.ldb = a->N, g.ldc = a->M, g.trans_b = true;
    return lc_gemm(a->ctx, worker, &g, x, w + (size_t)(i0 * a->N) * e, out + (size_t)i0 * e);
  }
  if (a->what == DX &&
      a->M > HEAD_DEPTH) { /* as the output head does: f32 sums over parts of the depth (op_head.c) */
    g.m = a->T, g.n = n, g.lda = a->M, g.ldb = a->N, g.ldc = a->N, g.c_dtype = LC_F32;
    for (int64_t l = 0; l < a->M; l += HEAD_DEPTH, g.beta = 1) {
      g.k = lc_min64(HEAD_DEPTH, a->M - l);
      LC_TRY(lc_gemm(a->ctx, worker, &g, dy + (size_t)l * e, w + (size_t)(l * a->N + i0) * e,
                     out + (size_t)i0 * 4));
    }
    return LC_OK;
  }
  if (a->what == DX) {
    g.m = a->T, g.n = n, g.k = a->M, g.lda = a->M, g.ldb = a->N, g.ldc = a->N;
    return lc_gemm(a->ctx, worker, &g, dy, w + (size_t)i0 * e, out + (size_t)i0 * e);
  }
  g.m = n, g.n = a->N, g.k = a->T, g.lda = a->M, g.ldb = a->N, g.ldc = a->N, g.trans_a = true;
  return lc_gemm(a->ctx, worker, &g, dy + (size_t)i0 * e, x, out + (size_t)(i0 * a->N) * 4);
}

/* Columns and depth of a product with the weight. */
static int64_t columns(const gemm_arg *a) {
  return a->what == DX ? a->N : a->M;
}
static int64_t depth(const gemm_arg *a) {
  return a->what == DX ? a->M : a->N;
}
static size_t packed_at(const gemm_arg *a, int64_t column) {
  return lc_gemm_packed_bytes(a->ctx, a->dtype, column, depth(a));
}

static lc_status pack_chunk(void *arg, int64_t c, int worker) {
  const gemm_arg *a = arg;
  int64_t j = c * PACK_STRIP, n = lc_min64(PACK_STRIP, columns(a) - j);
  lc_gemm_shape g = {.n = n,
                     .k = depth(a),
                     .ldb = a->N,
                     .trans_b = a->what == FORWARD,
                     .dtype = a->dtype,
                     .c_dtype = a->dtype};
  lc_gemm_pack(a->ctx, &g, (const uint8_t *)a->w + (size_t)(a->what == DX ? j : j * a->N) * size_of(a->dtype),
               a->packed + packed_at(a, j));
  return LC_OK;
}

static lc_status packed_chunk(void *arg, int64_t c, int worker) {
  const gemm_arg *a = arg;
  int64_t n = columns(a), k = depth(a), s = lc_gemm_packed_columns(a->ctx, a->dtype, n, k),
          rows = lc_ceil_div(a->T, PACKED_ROWS), t = c % rows * PACKED_ROWS, j = c / rows * s;
  size_t e = size_of(a->dtype);
  lc_gemm_shape g = {.m = lc_min64(PACKED_ROWS, a->T - t),
                     .n = lc_min64(s, n - j),
                     .k = k,
                     .lda = k,
                     .ldc = n,
                     .dtype = a->dtype,
                     .c_dtype = a->dtype,
                     .packed_b = true};
  const uint8_t *left = a->what == DX ? a->dy : a->x;
  return lc_gemm(a->ctx, worker, &g, left + (size_t)(t * k) * e, a->packed + packed_at(a, j),
                 (uint8_t *)a->out + (size_t)(t * n + j) * e);
}

static lc_status product_once(gemm_arg *a) {
  size_t bytes = a->what == DW ? 0 : packed_at(a, columns(a));
  if (bytes == 0 || bytes > PACK_MOST || bytes > a->packed_bytes)
    return lc_parallel(a->ctx, lc_ceil_div(columns(a), strip(columns(a))), chunk, a);
  LC_TRY(lc_parallel(a->ctx, lc_ceil_div(columns(a), PACK_STRIP), pack_chunk, a));
  int64_t s = lc_gemm_packed_columns(a->ctx, a->dtype, columns(a), depth(a));
  return lc_parallel(a->ctx, lc_ceil_div(columns(a), s) * lc_ceil_div(a->T, PACKED_ROWS), packed_chunk, a);
}

static lc_status measure(lc_bench_run *b, gemm_arg *a, double *seconds) {
  double t[64];
  int n = (int)lc_min64(64, b->opts->repeat);
  LC_TRY(product_once(a));
  for (int i = 0; i < n; i++) {
    double t0 = lc_now();
    LC_TRY(product_once(a));
    t[i] = lc_now() - t0;
  }
  *seconds = lc_bench_median(t, n);
  return LC_OK;
}

lc_status lc_bench_gemm(lc_bench_run *b) {
  static const int64_t shapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  lc_ctx *ctx = b->cli->ctx;
  enum { MAX_T = 2048 };
  uint8_t *x = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * 1536 * 4),
          *w = lc_alloc(ctx, LC_MEM_OTHER, (size_t)49152 * 576 * 4),
          *dy = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * 49152 * 4),
          *out = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * 49152 * 4),
          *packed = lc_alloc(ctx, LC_MEM_OTHER, PACK_MOST);
  lc_status st = x && w && dy && out && packed ? LC_OK : LC_FAILED;
  for (int d = 0; !st && d < 2; d++) {
    lc_dtype dtype = d ? LC_F32 : LC_BF16;
    double peak = d ? b->ceilings.f32 : b->ceilings.amx_bf16 > 0 ? b->ceilings.amx_bf16 : b->ceilings.bf16;
    if (peak <= 0) peak = b->ceilings.f32;
    for (int64_t T = 512; !st && T <= MAX_T; T *= 2)
      for (size_t s = 0; !st && s < sizeof shapes / sizeof *shapes; s++)
        for (int p = FORWARD; !st && p <= DW; p++) {
          gemm_arg a = {ctx, (product)p, T,  shapes[s][0], shapes[s][1], dtype,
                        x,   w,          dy, out,          packed,       PACK_MOST};
          double seconds = 0;
          st = measure(b, &a, &seconds);
          double rate = 2.0 * (double)T * (double)a.M * (double)a.N / seconds;
          if (!st)
            lc_bench_row(b, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:s, s:f}", "what", names[p],
                                      "dtype", lc_dtype_get(dtype)->name, "T", (json_int_t)T, "M",
                                      (json_int_t)a.M, "N", (json_int_t)a.N, "seconds", seconds, "rate", rate,
                                      "unit", "FLOP/s", "of_ceiling", rate / peak));
        }
  }
  lc_free(ctx, x), lc_free(ctx, w), lc_free(ctx, dy), lc_free(ctx, out), lc_free(ctx, packed);
  return st ? st : lc_bench_gemm_int8(b);
}
