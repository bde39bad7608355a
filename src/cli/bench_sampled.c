/* bench sampled: the gradient at K positions of a weight, as sampled products and by dense strips of dW from which the entries are taken, at
 * SmolLM2's shapes and T tokens. The density where both take the same time is what src/sparse/entries.c switches at. */
#include "cli/bench.h"
#include "sparse/sparse.h"

typedef struct {
  int64_t M, N;
} shape;

/* K random positions of M×N, sorted. */
static lc_status positions(lc_ctx *ctx, shape s, int64_t K, lc_index *out) {
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  const lc_rng r = {.seed = 1, .purpose = LC_RNG_TEST};
  if (!flat) return LC_FAILED;
  for (int64_t k = 0; k < K; k++) { /* one in each of K equal parts */
    const int64_t from = k * s.M * s.N / K, to = (k + 1) * s.M * s.N / K;
    flat[k] = from + (int64_t)lc_rng_below(&r, (uint64_t)k, (uint64_t)(to - from));
  }
  lc_status st = lc_index_new(ctx, s.M, s.N, flat, K, out);
  lc_free(ctx, flat);
  return st;
}

typedef lc_status (*gradient_fn)(lc_ctx *, lc_dtype, const void *, int64_t, lc_dtype, const void *, int64_t,
                                 int64_t, int64_t, int64_t, const lc_index *, float *);

static lc_status measure(lc_bench_run *b, gradient_fn fn, lc_dtype dtype, shape s, int64_t T,
                         const uint8_t *x, const uint8_t *dy, const lc_index *idx, float *g,
                         double *seconds) {
  double t[64];
  const int n = (int)lc_min64(64, b->opts->repeat);
  for (int i = -1; i < n; i++) { /* the first sizes scratch */
    const double t0 = lc_now();
    LC_TRY(fn(b->cli->ctx, dtype, x, s.N, dtype, dy, s.M, T, s.M, s.N, idx, g));
    if (i >= 0) t[i] = lc_now() - t0;
  }
  *seconds = lc_bench_median(t, n);
  return LC_OK;
}

static lc_status one(lc_bench_run *b, lc_dtype dtype, shape s, int64_t T, double density, const uint8_t *x,
                     const uint8_t *dy) {
  lc_ctx *ctx = b->cli->ctx;
  const int64_t K = (int64_t)(density * (double)(s.M * s.N));
  lc_index idx = {0};
  float *g = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *g);
  double sampled = 0, dense = 0;
  lc_status st = g ? positions(ctx, s, K, &idx) : LC_FAILED;
  if (!st) st = measure(b, lc_sampled_grad, dtype, s, T, x, dy, &idx, g, &sampled);
  if (!st) st = measure(b, lc_strips_grad, dtype, s, T, x, dy, &idx, g, &dense);
  const double peak = dtype == LC_F32        ? b->ceilings.f32
                      : b->ceilings.bf16 > 0 ? b->ceilings.bf16
                                             : b->ceilings.f32;
  const double rate = 2.0 * (double)K * (double)T / sampled;
  if (!st)
    lc_bench_row(b, json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:s, s:f}", "dtype",
                              lc_dtype_get(dtype)->name, "T", (json_int_t)T, "M", (json_int_t)s.M, "N",
                              (json_int_t)s.N, "density", density, "sampled_s", sampled, "dense_s", dense,
                              "dense_over_sampled", dense / sampled, "rate", rate, "unit", "FLOP/s",
                              "of_ceiling", rate / peak));
  lc_free(ctx, g);
  lc_index_free(ctx, &idx);
  return st;
}

lc_status lc_bench_sampled(lc_bench_run *b) {
  static const shape shapes[] = {{192, 576}, {576, 576}, {1536, 576}, {576, 1536}};
  static const double densities[] = {0.001, 0.003, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32};
  enum { T = 2048, WIDEST = 1536 };
  lc_ctx *ctx = b->cli->ctx;
  uint8_t *x = lc_alloc(ctx, LC_MEM_OTHER, (size_t)T * WIDEST * 4),
          *dy = lc_alloc(ctx, LC_MEM_OTHER, (size_t)T * WIDEST * 4);
  lc_status st = x && dy ? LC_OK : LC_FAILED;
  for (int d = 0; !st && d < 2; d++)
    for (size_t s = 0; !st && s < sizeof shapes / sizeof *shapes; s++)
      for (size_t i = 0; !st && i < sizeof densities / sizeof *densities; i++)
        st = one(b, d ? LC_F32 : LC_BF16, shapes[s], T, densities[i], x, dy);
  lc_free(ctx, x), lc_free(ctx, dy);
  return st;
}
