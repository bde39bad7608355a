/* bench attention: one layer of SmolLM2's attention in bf16 (9 query heads of 64 columns on 3 key heads), causal, 2,048 rows or one
 * longer sequence. Only what the causal mask leaves counts as work: 2 products forward, 5 backward. */
#include "cli/bench.h"
#include "nn/nn.h"
#include <math.h>
#include <string.h>

enum { H = 9, G = 3, D = 64, ROWS = 2048, MAX_T = 4096, TILE = LC_ATTN_TILE };

typedef struct {
  lc_ctx *ctx;
  const lc_kernels *kn;
  lc_attention_shape shape;
  bool back;
  const uint16_t *q, *k, *v, *dout;
  uint16_t *out;
  float *lse;
} layer;

/* A sequence and key head: packing included, its query heads one after another. */
static lc_status chunk(void *arg, int64_t c, int worker) {
  const layer *a = arg;
  int64_t T = a->shape.tk, row = c / G * T, g = c % G;
  size_t packed = LC_ATTN_PACKED(T, D), tile = (size_t)TILE * D * 4,
         dkv = (size_t)(2 * LC_ATTN_KEYS(T) * D) * 4;
  uint8_t *p = lc_scratch(a->ctx, worker, 4, packed + dkv + tile + LC_ATTN_BF16_SCRATCH(D));
  if (!p) return LC_FAILED;
  float *dk = (float *)(void *)(p + packed), *out = dk + dkv / 4;
  void *scratch = out + tile / 4;
  if (a->back) memset(dk, 0, dkv);
  a->kn->attention_pack(&a->shape, a->back, a->k + (row * G + g) * D, G * D, a->v + (row * G + g) * D, G * D,
                        p);
  for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++)
    for (int64_t t = 0; t < T; t += TILE) {
      int64_t at = ((row + t) * H + h) * D, n = lc_min64(TILE, T - t);
      float *lse = a->lse + h * MAX_T + row + t;
      if (a->back) {
        a->kn->attention_back_bf16(&a->shape, n, t, a->q + at, H * D, a->out + at, H * D, a->dout + at, H * D,
                                   lse, p, out, dk, dk + dkv / 8, scratch);
        continue;
      }
      a->kn->attention_bf16(&a->shape, n, t, a->q + at, H * D, p, out, lse, scratch);
      for (int64_t i = 0; i < n; i++) a->kn->f32_to_bf16(D, out + i * D, a->out + at + i * H * D);
    }
  return LC_OK;
}

static lc_status measure(lc_bench_run *b, layer *a, int64_t T, bool back) {
  double t[64], seconds;
  int n = (int)lc_min64(64, b->opts->repeat);
  int64_t sequences = lc_max64(1, ROWS / T);
  a->shape.tk = T, a->back = back;
  LC_TRY(lc_parallel(a->ctx, sequences * G, chunk, a));
  for (int i = 0; i < n; i++) {
    double t0 = lc_now();
    LC_TRY(lc_parallel(a->ctx, sequences * G, chunk, a));
    t[i] = lc_now() - t0;
  }
  seconds = lc_bench_median(t, n);
  double peak = b->ceilings.bf16 > 0 ? b->ceilings.bf16 : b->ceilings.f32;
  double rate = (back ? 5.0 : 2.0) * (double)sequences * H * D * (double)T * (double)(T + 1) / seconds;
  lc_bench_row(b, json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:s, s:f}", "what", back ? "backward" : "forward",
                            "dtype", "bf16", "T", (json_int_t)T, "sequences", (json_int_t)sequences,
                            "seconds", seconds, "rate", rate, "unit", "FLOP/s", "of_ceiling", rate / peak));
  return LC_OK;
}

lc_status lc_bench_attention(lc_bench_run *b) {
  lc_ctx *ctx = b->cli->ctx;
  enum { N = MAX_T * H * D };
  uint16_t *x = lc_alloc_n(ctx, LC_MEM_OTHER, 5 * (size_t)N, sizeof *x);
  float *lse = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)H * MAX_T, sizeof *lse);
  lc_status st = x && lse ? LC_OK : LC_FAILED;
  lc_rng r = {.seed = 1, .purpose = LC_RNG_TEST};
  for (int64_t i = 0; !st && i < 4 * (int64_t)N; i++)
    x[i] = lc_f32_to_bf16(2 * lc_rng_uniform(&r, (uint64_t)i) - 1);
  layer a = {.ctx = ctx, .kn = lc_kernels_get(ctx), .shape = {0, D, 0, true, 1 / sqrtf(D)}, .lse = lse};
  a.q = x, a.k = x + N, a.v = x + 2 * N, a.dout = x + 3 * N, a.out = x + 4 * N;
  for (int64_t T = 128; !st && T <= MAX_T; T *= 2)
    for (int back = 0; !st && back < 2; back++) st = measure(b, &a, T, back);
  lc_free(ctx, x), lc_free(ctx, lse);
  return st;
}
