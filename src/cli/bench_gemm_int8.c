/* bench gemm, integer products of prompts: tokens in bytes times quantised weights at SmolLM2's shapes, cut as the op does (linear_prompt.c: a chunk packs
 * its strip of the weight and takes the tokens some at a time), with the packing and with the making of the bytes. The share is of the peak of 8-bit dot products, or of
 * f32 where the instruction set in use has none. */
#include "cli/bench.h"
#include <string.h>

enum { STRIP = 64, ROWS = 48, QUANTISED_ROWS = 16, MAX_T = 2048, MAX_N = 1536, MAX_M = 49152 };
typedef struct {
  lc_ctx *ctx;
  const lc_kernels *k;
  lc_dtype dtype;
  int64_t T, M, N;
  const uint8_t *w; /* M rows of blocks */
  const float *x;   /* (T,N) */
  lc_q8_rows q;
  float *y; /* (T,M) */
} int8_arg;

static lc_status quantise_chunk(void *arg, int64_t c, int worker) {
  const int8_arg *a = arg;
  for (int64_t t = c * QUANTISED_ROWS; t < lc_min64((c + 1) * QUANTISED_ROWS, a->T); t++)
    lc_q8_rows_set(a->k, &a->q, t, a->x + t * a->N);
  return LC_OK;
}

static lc_status strip_chunk(void *arg, int64_t c, int worker) {
  const int8_arg *a = arg;
  const lc_dtype_info *d = lc_dtype_get(a->dtype);
  const int64_t row_bytes = a->N / d->block * d->bytes, m0 = c * STRIP,
                panels = lc_min64(STRIP, a->M - m0) / LC_Q8_PANEL;
  size_t panel = lc_q8_panel_bytes(a->dtype, a->N);
  uint8_t *packed = lc_scratch(a->ctx, worker, 0, STRIP / LC_Q8_PANEL * panel);
  float *y = lc_scratch(a->ctx, worker, 1, ROWS * STRIP * sizeof *y);
  if (!packed || !y) return LC_FAILED;
  for (int64_t p = 0; p < panels; p++) {
    const uint8_t *row[LC_Q8_PANEL];
    for (int i = 0; i < LC_Q8_PANEL; i++) row[i] = a->w + (m0 + p * LC_Q8_PANEL + i) * row_bytes;
    a->k->pack_q8(a->dtype, LC_Q8_PANEL, a->N, row, packed + (size_t)p * panel);
  }
  for (int64_t t = 0; t < a->T; t += ROWS) {
    int64_t n = lc_min64(ROWS, a->T - t);
    a->k->gemm_q8(a->dtype, n, panels, packed, &a->q, t, y, STRIP);
    for (int64_t i = 0; i < n; i++)
      memcpy(a->y + (t + i) * a->M + m0, y + i * STRIP, (size_t)(panels * LC_Q8_PANEL) * sizeof *y);
  }
  return LC_OK;
}

static lc_status measure(lc_bench_run *b, int8_arg *a, double *seconds) {
  double t[64];
  int n = (int)lc_min64(64, b->opts->repeat);
  for (int i = -1; i < n; i++) {
    double t0 = lc_now();
    LC_TRY(lc_parallel(a->ctx, lc_ceil_div(a->T, QUANTISED_ROWS), quantise_chunk, a));
    LC_TRY(lc_parallel(a->ctx, lc_ceil_div(a->M, STRIP), strip_chunk, a));
    if (i >= 0) t[i] = lc_now() - t0;
  }
  *seconds = lc_bench_median(t, n);
  return LC_OK;
}

/* Blocks of any bits, with a scale that is a number. */
static void fill(uint8_t *w, size_t bytes, lc_dtype dtype) {
  const size_t block = (size_t)lc_dtype_get(dtype)->bytes;
  const uint16_t scale = lc_f32_to_f16(0.01f);
  for (size_t i = 0; i < bytes; i++) w[i] = (uint8_t)(i * 2654435761u >> 13);
  for (size_t i = 0; i + block <= bytes; i += block) {
    memcpy(w + i, &scale, 2);
    if (dtype == LC_Q4_1) memcpy(w + i + 2, &scale, 2);
  }
}

lc_status lc_bench_gemm_int8(lc_bench_run *b) {
  static const int64_t shapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  static const lc_dtype types[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  lc_ctx *ctx = b->cli->ctx;
  size_t w_bytes = (size_t)MAX_M * 576 / 32 * 34;
  float *x = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * MAX_N * sizeof *x),
        *y = lc_alloc(ctx, LC_MEM_OTHER, (size_t)MAX_T * MAX_M * sizeof *y);
  uint8_t *w = lc_alloc(ctx, LC_MEM_OTHER, w_bytes),
          *q = lc_alloc(ctx, LC_MEM_OTHER, lc_q8_rows_bytes(MAX_T, MAX_N));
  lc_status st = x && y && w && q ? LC_OK : LC_FAILED;
  for (int64_t i = 0; !st && i < MAX_T * MAX_N; i++) x[i] = (float)(i % 251) - 125;
  for (int d = 0; !st && d < 3; d++) {
    fill(w, w_bytes, types[d]);
    for (int64_t T = 512; !st && T <= MAX_T; T *= 2)
      for (size_t s = 0; !st && s < sizeof shapes / sizeof *shapes; s++) {
        int8_arg a = {ctx,
                      lc_kernels_get(ctx),
                      types[d],
                      T,
                      shapes[s][0],
                      shapes[s][1],
                      w,
                      x,
                      lc_q8_rows_in(q, T, shapes[s][1]),
                      y};
        double seconds = 0, peak = b->ceilings.int8 > 0 ? b->ceilings.int8 : b->ceilings.f32;
        st = measure(b, &a, &seconds);
        double rate = 2.0 * (double)T * (double)a.M * (double)a.N / seconds;
        if (!st)
          lc_bench_row(b, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:s, s:f}", "what", "forward",
                                    "form", lc_dtype_get(types[d])->name, "dtype", "int8", "T", (json_int_t)T,
                                    "M", (json_int_t)a.M, "N", (json_int_t)a.N, "seconds", seconds, "rate",
                                    rate, "unit", "op/s", "of_ceiling", rate / peak));
      }
  }
  lc_free(ctx, x), lc_free(ctx, y), lc_free(ctx, w), lc_free(ctx, q);
  return st;
}
