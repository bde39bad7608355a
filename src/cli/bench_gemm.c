/* bench gemm: y = x·Wᵀ, dx = dy·W and dW = dyᵀ·x at SmolLM2's shapes, cut into chunks as the ops do, against the register peak of the dtype. */
#include "cli/bench.h"

typedef enum { FORWARD, DX, DW } product;
typedef struct {
  lc_ctx *ctx;
  product what;
  int64_t T, M, N;
  lc_dtype dtype;
  const void *x, *w, *dy;
  void *out;
} gemm_arg;
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
  if (a->what == DX) {
    g.m = a->T, g.n = n, g.k = a->M, g.lda = a->M, g.ldb = a->N, g.ldc = a->N;
    return lc_gemm(a->ctx, worker, &g, dy, w + (size_t)i0 * e, out + (size_t)i0 * e);
  }
  g.m = n, g.n = a->N, g.k = a->T, g.lda = a->M, g.ldb = a->N, g.ldc = a->N, g.trans_a = true;
  return lc_gemm(a->ctx, worker, &g, dy + (size_t)i0 * e, x, out + (size_t)(i0 * a->N) * 4);
}

static lc_status measure(lc_bench_run *b, gemm_arg *a, double *seconds) {
  double t[64];
  int n = (int)lc_min64(64, b->opts->repeat);
  int64_t cut = a->what == DX ? a->N : a->M, chunks = lc_ceil_div(cut, strip(cut));
  LC_TRY(lc_parallel(a->ctx, chunks, chunk, a));
  for (int i = 0; i < n; i++) {
    double t0 = lc_now();
    LC_TRY(lc_parallel(a->ctx, chunks, chunk, a));
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
          *out = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * 49152 * 4);
  lc_status st = x && w && dy && out ? LC_OK : LC_FAILED;
  for (int d = 0; !st && d < 2; d++) {
    lc_dtype dtype = d ? LC_F32 : LC_BF16;
    double peak = d ? b->ceilings.f32 : b->ceilings.amx_bf16 > 0 ? b->ceilings.amx_bf16 : b->ceilings.bf16;
    if (peak <= 0) peak = b->ceilings.f32;
    for (int64_t T = 512; !st && T <= MAX_T; T *= 2)
      for (size_t s = 0; !st && s < sizeof shapes / sizeof *shapes; s++)
        for (int p = FORWARD; !st && p <= DW; p++) {
          gemm_arg a = {ctx, (product)p, T, shapes[s][0], shapes[s][1], dtype, x, w, dy, out};
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
  lc_free(ctx, x), lc_free(ctx, w), lc_free(ctx, dy), lc_free(ctx, out);
  return st;
}
