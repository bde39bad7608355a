/* bf16 products in AMX tiles: blocks of 32×32 outputs, four accumulators, two tiles of A and two of B a step of 32 along k, so that a tile product
 * costs one tile load. k is cut into pieces whose 32 columns of B (packed: gemm_pack.c) stay in the first-level cache; A passes by
 * from the second level, with the hint that keeps it from displacing B there, MC rows at a time, where it stands if its rows run along k in whole
 * tiles. Sums start from C (beta 1 or a later piece), whole blocks and edges alike, so an output's bits do not depend on the
 * strip. A bf16 output is summed in f32 scratch, 32 columns at a time. */
#include <string.h>
#include "kernels/amx/gemm.h"
#include "kernels/amx/tiles.h"

enum { KC = 576, LONG_K = 2304 /* an f32 output takes a longer sum in parts */, A_BYTES = 1 << 20, BLOCK = LC_AMX_BLOCK, MAX_MC = 1024 };

/* Where a block's rows of A are: packed tiles, or the matrix itself. */
typedef struct {
  const uint16_t *at;
  int64_t row, second, step; /* bytes between rows, to the second tile, from step to step */
} left;

/* c (32×32, ld bytes between rows) = [c +] A·B over `steps`; R and N: row and column tiles of the block that count. */
static inline __attribute__((always_inline)) void block(int R, int N, int64_t steps, left a, const uint16_t *b, float *c, int64_t ld, bool add) {
  const char *pa = (const char *)a.at;
  float *c1 = (float *)(void *)((char *)c + 16 * ld);
  if (add) {
    _tile_loadd(0, c, ld);
    if (N > 1) _tile_loadd(1, c + 16, ld);
    if (R > 1) _tile_loadd(2, c1, ld);
    if (R > 1 && N > 1) _tile_loadd(3, c1 + 16, ld);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t l = 0; l < steps; l++, pa += a.step, b += 2 * LC_AMX_TILE) {
    _tile_loadd(6, b, 64);
    _tile_stream_loadd(4, pa, a.row);
    _tile_dpbf16ps(0, 4, 6);
    if (N > 1) _tile_loadd(7, b + LC_AMX_TILE, 64);
    if (N > 1) _tile_dpbf16ps(1, 4, 7);
    if (R > 1) _tile_stream_loadd(5, pa + a.second, a.row);
    if (R > 1) _tile_dpbf16ps(2, 5, 6);
    if (R > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, ld);
  if (N > 1) _tile_stored(1, c + 16, ld);
  if (R > 1) _tile_stored(2, c1, ld);
  if (R > 1 && N > 1) _tile_stored(3, c1 + 16, ld);
}

static void run_block(int64_t rows, int64_t cols, int64_t steps, left a, const uint16_t *b, float *c, int64_t ld, bool add) {
  if (rows > 16 && cols > 16)
    block(2, 2, steps, a, b, c, ld, add);
  else if (rows > 16)
    block(2, 1, steps, a, b, c, ld, add);
  else if (cols > 16)
    block(1, 2, steps, a, b, c, ld, add);
  else
    block(1, 1, steps, a, b, c, ld, add);
}

typedef struct {
  const lc_gemm_shape *s;
  lc_gemm_lines A, B;
  bool packs_a, keeps_b;
  int64_t kc, mc, steps; /* values of k a piece, rows of A at a time, steps of k in all */
  uint16_t *a, *b;
  float *c; /* mc×32 sums of a bf16 output, in blocks */
  void *C;
} job;

/* Rows that are no whole tiles, or whose distance makes them share few sets of the caches when they pass often, are packed. */
static bool packs_a(const lc_gemm_shape *s, const void *A) {
  if (s->trans_a || s->k % LC_AMX_K || s->m % BLOCK) return true;
  if (((uintptr_t)A | (uintptr_t)(s->lda * 2)) % 64) return true;
  return s->lda * 2 % (s->n < 256 ? 4096 : 1024) == 0;
}

static lc_status prepare(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C, job *w) {
  *w = (job){.s = s, .C = C, .packs_a = packs_a(s, A)};
  w->A = (lc_gemm_lines){A, LC_BF16, s->trans_a ? 1 : s->lda, s->trans_a ? s->lda : 1};
  w->B = (lc_gemm_lines){B, LC_BF16, s->trans_b ? s->ldb : 1, s->trans_b ? 1 : s->ldb};
  w->steps = lc_ceil_div(s->k, LC_AMX_K);
  w->kc = lc_ceil_div(w->steps, lc_ceil_div(s->k, KC)) * LC_AMX_K;
  int64_t row = w->steps * LC_AMX_K, m = lc_ceil_div(s->m, BLOCK) * BLOCK, n = lc_ceil_div(s->n, BLOCK) * BLOCK;
  w->mc = lc_min64(lc_min64(m, MAX_MC), lc_max64(BLOCK, A_BYTES / 2 / row / BLOCK * BLOCK));
  w->keeps_b = w->mc < s->m && n * row <= A_BYTES / 2;
  size_t a = w->packs_a ? (size_t)(w->mc * row) * 2 : 0, b = (size_t)(w->keeps_b ? n * row : BLOCK * w->kc) * 2,
         c = s->c_dtype == LC_BF16 ? (size_t)(w->mc * BLOCK) * sizeof(float) : 0;
  uint8_t *at = lc_scratch(ctx, worker, LC_SLOT_GEMM_WORK, a + b + c + 64);
  if (!at) return LC_FAILED;
  at += -(uintptr_t)at % 64;
  w->a = (uint16_t *)(void *)at, w->b = (uint16_t *)(void *)(at + a), w->c = (float *)(void *)(at + a + b);
  return LC_OK;
}

static left left_block(const job *w, int64_t i0, int64_t i, int64_t l) {
  if (w->packs_a) return (left){w->a + ((i - i0) * w->steps + BLOCK * l / LC_AMX_K) * LC_AMX_K, 64, 1024, 2048};
  int64_t ld = w->s->lda * 2;
  return (left){(const uint16_t *)w->A.data + i * w->s->lda + l, ld, 16 * ld, 64};
}

/* An f32 block straight in C, or, at an edge, beside it. */
static void block_f32(const job *w, int64_t i, int64_t j, int64_t steps, left a, const uint16_t *b, bool add) {
  const lc_gemm_shape *s = w->s;
  int64_t m = lc_min64(BLOCK, s->m - i), n = lc_min64(BLOCK, s->n - j);
  float *c = (float *)w->C + i * s->ldc + j;
  if (m == BLOCK && n == BLOCK) {
    run_block(m, n, steps, a, b, c, s->ldc * 4, add);
    return;
  }
  _Alignas(64) float edge[BLOCK * BLOCK];
  memset(edge, 0, sizeof edge);
  for (int64_t r = 0; add && r < m; r++) memcpy(edge + r * BLOCK, c + r * s->ldc, (size_t)n * sizeof *c);
  run_block(m, n, steps, a, b, edge, BLOCK * 4, add);
  for (int64_t r = 0; r < m; r++) memcpy(c + r * s->ldc, edge + r * BLOCK, (size_t)n * sizeof *c);
}

static void round_block(const float *c, int64_t m, int64_t n, uint16_t *out, int64_t ld) {
  __mmask32 cols = n < 32 ? (1u << n) - 1 : ~0u;
  for (int64_t r = 0; r < m; r++, c += BLOCK, out += ld)
    _mm512_mask_storeu_epi16(out, cols, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(c + 16), _mm512_load_ps(c)));
}

static void block_bf16(const job *w, int64_t i0, int64_t i, int64_t j, int64_t steps, left a, const uint16_t *b, bool add, bool last) {
  const lc_gemm_shape *s = w->s;
  int64_t m = lc_min64(BLOCK, s->m - i), n = lc_min64(BLOCK, s->n - j);
  float *c = w->c + (add || !last ? (i - i0) * BLOCK : 0);
  run_block(m, n, steps, a, b, c, BLOCK * 4, add);
  if (last) round_block(c, m, n, (uint16_t *)w->C + i * s->ldc + j, s->ldc);
}

/* Rows [i0,i1) of the columns from j, values [l,l+k) of the sum. */
static void panel(const job *w, int64_t i0, int64_t i1, int64_t j, int64_t l, int64_t k) {
  const lc_gemm_shape *s = w->s;
  uint16_t *b = w->b + (w->keeps_b ? j * w->steps * LC_AMX_K + BLOCK * l : 0);
  if (i0 == 0 || !w->keeps_b) lc_amx_pack_b(&w->B, j, lc_min64(BLOCK, s->n - j), l, k, b);
  int64_t steps = lc_ceil_div(k, LC_AMX_K);
  for (int64_t i = i0; i < i1; i += BLOCK) {
    left a = left_block(w, i0, i, l);
    if (s->c_dtype == LC_F32)
      block_f32(w, i, j, steps, a, b, l > 0 || s->beta != 0);
    else
      block_bf16(w, i0, i, j, steps, a, b, l > 0, l + k == s->k);
  }
}

static lc_status product(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  job w;
  LC_TRY(prepare(ctx, worker, s, A, B, C, &w));
  lc_amx_start();
  for (int64_t i0 = 0; i0 < s->m; i0 += w.mc) {
    int64_t i1 = lc_min64(i0 + w.mc, s->m);
    for (int64_t i = i0; w.packs_a && i < i1; i += BLOCK)
      lc_amx_pack_a(&w.A, i, lc_min64(BLOCK, s->m - i), 0, s->k, w.a + (i - i0) * w.steps * LC_AMX_K);
    for (int64_t j = 0; j < s->n; j += BLOCK)
      for (int64_t l = 0; l < s->k; l += w.kc) panel(&w, i0, i1, j, l, lc_min64(w.kc, s->k - l));
  }
  lc_amx_end();
  return LC_OK;
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  if (s->c_dtype == LC_BF16 || s->k <= LONG_K) return product(ctx, worker, s, A, B, C);
  lc_gemm_shape part = *s;
  for (int64_t l = 0; l < s->k; l += LONG_K, part.beta = 1) {
    part.k = lc_min64(LONG_K, s->k - l);
    const uint16_t *a = (const uint16_t *)A + l * (s->trans_a ? s->lda : 1), *b = (const uint16_t *)B + l * (s->trans_b ? 1 : s->ldb);
    LC_TRY(product(ctx, worker, &part, a, b, C));
  }
  return LC_OK;
}

const lc_gemm_provider_row lc_gemm_amx = {"amx", run, .bf16 = true};
