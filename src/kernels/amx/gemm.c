/* bf16 products in AMX tiles: blocks of 32×32 outputs, four accumulators, two tiles of A and two of B a step of 32 along k, so that a tile product
 * costs one tile load. 32 rows of A stay in the first-level cache, a piece of k of at most KC at a time, where they stand if they run along k in whole
 * tiles; columns of B, packed (gemm_pack.c) as many as fit into half of the second level, pass by with the hint that keeps them from displacing A.
 * So C too is written along its rows. A block's sums are written to C while the next block runs, when its tiles have reached the cache. Every output is
 * one sum over the pieces, then added to C (beta 1) or rounded: its bits do not depend on the strip. */
#include <string.h>
#include "kernels/amx/gemm.h"
#include "kernels/amx/tiles.h"

enum {
  KC = 576,
  LONG_K = 1152 /* an f32 output takes a longer sum in parts */,
  A_BYTES = 1 << 20,
  B_BYTES = 1 << 20,
  BLOCK = LC_AMX_BLOCK
};
enum { SUMS = BLOCK * BLOCK };

/* Where a block's rows of A are: packed tiles, or the matrix itself. */
typedef struct {
  const uint16_t *at;
  int64_t row, second, step; /* bytes between rows, to the second tile, from step to step */
} left;

/* c (32×32) = [c +] A·B over `steps`; R and N: row and column tiles of the block that count. */
static inline __attribute__((always_inline)) void block(int R, int N, int64_t steps, left a,
                                                        const uint16_t *b, float *c, bool add) {
  enum { LD = BLOCK * sizeof(float), HALF = SUMS / 2 };
  const char *pa = (const char *)a.at;
  if (add) {
    _tile_loadd(0, c, LD);
    if (N > 1) _tile_loadd(1, c + 16, LD);
    if (R > 1) _tile_loadd(2, c + HALF, LD);
    if (R > 1 && N > 1) _tile_loadd(3, c + HALF + 16, LD);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t l = 0; l < steps; l++, pa += a.step, b += 2 * LC_AMX_TILE) {
    _tile_stream_loadd(6, b, 64);
    _tile_loadd(4, pa, a.row);
    if (N > 1) _tile_stream_loadd(7, b + LC_AMX_TILE, 64);
    if (R > 1) _tile_loadd(5, pa + a.second, a.row);
    _tile_dpbf16ps(0, 4, 6);
    if (N > 1) _tile_dpbf16ps(1, 4, 7);
    if (R > 1) _tile_dpbf16ps(2, 5, 6);
    if (R > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
  }
}

static inline __attribute__((always_inline)) void store(float *c) {
  enum { LD = BLOCK * sizeof(float), HALF = SUMS / 2 };
  _tile_stored(0, c, LD);
  _tile_stored(1, c + 16, LD);
  _tile_stored(2, c + HALF, LD);
  _tile_stored(3, c + HALF + 16, LD);
}

static inline __attribute__((always_inline)) void run_block(int64_t rows, int64_t cols, int64_t steps, left a,
                                                            const uint16_t *b, float *c, bool add) {
  if (rows > 16 && cols > 16)
    block(2, 2, steps, a, b, c, add);
  else if (rows > 16)
    block(2, 1, steps, a, b, c, add);
  else if (cols > 16)
    block(1, 2, steps, a, b, c, add);
  else
    block(1, 1, steps, a, b, c, add);
}

typedef struct {
  const lc_gemm_shape *s;
  lc_gemm_lines A, B;
  bool packs_a;
  int64_t kc, mc, nc,
      steps; /* values of k a piece, rows of A packed and columns of B used at a time, steps of k in all */
  int64_t panel; /* values from 32 columns of packed B to the next */
  uint16_t *a, *b;
  const uint16_t *packed; /* all of B, NULL: nc columns at a time are packed to b */
  float *sums;            /* of the blocks of nc columns, or of two blocks in turns if there is one piece */
  void *C;
} job;

/* Finished sums that are not in C yet. */
typedef struct {
  const float *sums; /* NULL: none */
  int64_t i, j;
} waiting;

static void finish(const job *w, waiting at) {
  const lc_gemm_shape *s = w->s;
  if (!at.sums) return;
  int64_t m = lc_min64(BLOCK, s->m - at.i), n = lc_min64(BLOCK, s->n - at.j);
  const float *from = at.sums;
  if (s->c_dtype == LC_BF16) {
    __mmask32 cols = n < 32 ? (1u << n) - 1 : ~0u;
    uint16_t *c = (uint16_t *)w->C + at.i * s->ldc + at.j;
    for (int64_t r = 0; r < m; r++, from += BLOCK, c += s->ldc)
      _mm512_mask_storeu_epi16(c, cols,
                               (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(from + 16), _mm512_load_ps(from)));
    return;
  }
  __mmask16 low = n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff,
            high = n < 16 ? 0 : (__mmask16)((1u << (n - 16)) - 1);
  float *c = (float *)w->C + at.i * s->ldc + at.j;
  const int64_t ld = s->plus ? s->ld_plus : s->ldc;
  const float *more = s->plus ? s->plus + at.i * ld + at.j : s->beta != 0 ? c : NULL;
  for (int64_t r = 0; r < m; r++, from += BLOCK, c += s->ldc) {
    __m512 x = _mm512_load_ps(from), y = _mm512_load_ps(from + 16);
    if (more)
      x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(low, more + r * ld)),
      y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(high, more + r * ld + 16));
    _mm512_mask_storeu_ps(c, low, x);
    _mm512_mask_storeu_ps(c + 16, high, y);
  }
}

static bool packs_a(const lc_gemm_shape *s, const void *A) {
  if (s->trans_a || s->k % LC_AMX_K || s->m % BLOCK) return true;
  if (((uintptr_t)A | (uintptr_t)(s->lda * 2)) % 64) return true;
  return s->lda * 2 % 4096 == 0;
}

/* As many columns as B_BYTES hold, evenly. */
static int64_t columns_at_a_time(int64_t n, int64_t k) {
  int64_t row = lc_ceil_div(k, LC_AMX_K) * LC_AMX_K,
          most = lc_max64(BLOCK, B_BYTES / 2 / row / BLOCK * BLOCK);
  return lc_ceil_div(lc_ceil_div(n, BLOCK), lc_ceil_div(n, most)) * BLOCK;
}

static lc_status prepare(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B,
                         void *C, int64_t panel, job *w) {
  *w = (job){.s = s, .C = C, .packs_a = packs_a(s, A)};
  w->A = (lc_gemm_lines){A, LC_BF16, s->trans_a ? 1 : s->lda, s->trans_a ? s->lda : 1};
  w->B = (lc_gemm_lines){B, LC_BF16, s->trans_b ? s->ldb : 1, s->trans_b ? 1 : s->ldb};
  w->steps = lc_ceil_div(s->k, LC_AMX_K);
  w->kc = lc_ceil_div(w->steps, lc_ceil_div(s->k, KC)) * LC_AMX_K;
  int64_t row = w->steps * LC_AMX_K, m = lc_ceil_div(s->m, BLOCK) * BLOCK,
          n = lc_ceil_div(s->n, BLOCK) * BLOCK;
  w->mc = w->packs_a ? lc_min64(m, lc_max64(BLOCK, A_BYTES / 2 / row / BLOCK * BLOCK)) : m;
  w->nc = columns_at_a_time(n, s->k);
  size_t a = w->packs_a ? (size_t)(w->mc * row) * 2 : 0, b = s->packed_b ? 0 : (size_t)(w->nc * row) * 2,
         sums = (size_t)lc_max64(2, w->kc < s->k ? w->nc / BLOCK : 0) * SUMS * sizeof(float);
  uint8_t *at = lc_scratch(ctx, worker, LC_SLOT_GEMM_WORK, a + b + sums + 64);
  if (!at) return LC_FAILED;
  at += -(uintptr_t)at % 64;
  w->panel = s->packed_b ? panel : BLOCK * row, w->packed = s->packed_b ? B : NULL;
  w->sums = (float *)(void *)at, w->a = (uint16_t *)(void *)(at + sums),
  w->b = (uint16_t *)(void *)(at + sums + a);
  return LC_OK;
}

static left left_block(const job *w, int64_t i0, int64_t i, int64_t l) {
  if (w->packs_a)
    return (left){w->a + ((i - i0) * w->steps + BLOCK * l / LC_AMX_K) * LC_AMX_K, 64, 1024, 2048};
  int64_t ld = w->s->lda * 2;
  return (left){(const uint16_t *)w->A.data + i * w->s->lda + l, ld, 16 * ld, 64};
}

/* Brings a part of the rows that follow into the second-level cache. */
static void fetch_ahead(const job *w, int64_t i, int64_t part, int64_t parts) {
  int64_t lines = lc_ceil_div(w->s->k * 2, 64), each = lc_ceil_div(lines, parts),
          l1 = lc_min64(lines, (part + 1) * each);
  if (w->packs_a || i + BLOCK > w->s->m) return;
  for (int64_t r = 0; r < BLOCK; r++) {
    const char *row = (const char *)((const uint16_t *)w->A.data + (i + r) * w->s->lda);
    for (int64_t l = part * each; l < l1; l++) _mm_prefetch(row + l * 64, _MM_HINT_T1);
  }
}

/* 32 rows from i of the columns [j0,j1), whose B is packed. */
static void row_block(const job *w, int64_t i0, int64_t i, int64_t j0, int64_t j1, waiting *last) {
  const lc_gemm_shape *s = w->s;
  const uint16_t *b = w->packed ? w->packed + j0 / BLOCK * w->panel : w->b;
  for (int64_t l = 0; l < s->k; l += w->kc) {
    int64_t k = lc_min64(w->kc, s->k - l), steps = lc_ceil_div(k, LC_AMX_K);
    left a = left_block(w, i0, i, l);
    for (int64_t j = j0; j < j1; j += BLOCK) {
      int64_t at = (j - j0) / BLOCK;
      float *c = w->sums + (w->kc < s->k ? at : (at + i / BLOCK * (w->nc / BLOCK)) & 1) * SUMS;
      if (l == 0 && j0 == 0) fetch_ahead(w, i + BLOCK, at, lc_ceil_div(j1 - j0, BLOCK));
      run_block(s->m - i, s->n - j, steps, a, b + at * w->panel + BLOCK * l, c, l > 0);
      finish(w, *last);
      store(c);
      *last = l + k < s->k ? (waiting){0} : (waiting){c, i, j};
    }
  }
}

static void pack_columns(const lc_gemm_lines *B, int64_t j0, int64_t j1, int64_t k, uint16_t *out) {
  int64_t panel = BLOCK * lc_ceil_div(k, LC_AMX_K) * LC_AMX_K;
  for (int64_t j = j0; j < j1; j += BLOCK, out += panel)
    lc_amx_pack_b(B, j, lc_min64(BLOCK, j1 - j), 0, k, out);
}

static lc_status product(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B,
                         void *C, int64_t panel) {
  job w;
  LC_TRY(prepare(ctx, worker, s, A, B, C, panel, &w));
  lc_amx_start();
  waiting last = {0};
  for (int64_t i0 = 0; i0 < s->m; i0 += w.mc) {
    int64_t i1 = lc_min64(i0 + w.mc, s->m);
    for (int64_t i = i0; w.packs_a && i < i1; i += BLOCK)
      lc_amx_pack_a(&w.A, i, lc_min64(BLOCK, s->m - i), 0, s->k, w.a + (i - i0) * w.steps * LC_AMX_K);
    for (int64_t j0 = 0; j0 < s->n; j0 += w.nc) {
      int64_t j1 = lc_min64(j0 + w.nc, s->n);
      if (!s->packed_b && (i0 == 0 || w.nc < s->n)) pack_columns(&w.B, j0, j1, s->k, w.b);
      for (int64_t i = i0; i < i1; i += BLOCK) row_block(&w, i0, i, j0, j1, &last);
    }
  }
  finish(&w, last);
  lc_amx_end();
  return LC_OK;
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  int64_t steps = lc_ceil_div(s->k, LC_AMX_K), panel = BLOCK * LC_AMX_K * steps;
  if (s->c_dtype == LC_BF16 || s->k <= LONG_K) return product(ctx, worker, s, A, B, C, panel);
  lc_gemm_shape part = *s;
  int64_t each = lc_ceil_div(steps, lc_ceil_div(s->k, LONG_K)) * LC_AMX_K, of_b = s->packed_b  ? BLOCK
                                                                                  : s->trans_b ? 1
                                                                                               : s->ldb;
  for (int64_t l = 0; l < s->k; l += each, part.beta = 1, part.plus = NULL) {
    part.k = lc_min64(each, s->k - l);
    LC_TRY(product(ctx, worker, &part, (const uint16_t *)A + l * (s->trans_a ? s->lda : 1),
                   (const uint16_t *)B + l * of_b, C, panel));
  }
  return LC_OK;
}

static size_t packed_bytes(int64_t n, int64_t k) {
  return (size_t)(lc_ceil_div(n, BLOCK) * BLOCK * lc_ceil_div(k, LC_AMX_K) * LC_AMX_K) * sizeof(uint16_t);
}

static void pack(const lc_gemm_shape *s, const void *B, void *packed) {
  lc_gemm_lines lines = {B, LC_BF16, s->trans_b ? s->ldb : 1, s->trans_b ? 1 : s->ldb};
  pack_columns(&lines, 0, s->n, s->k, packed);
}

const lc_gemm_provider_row lc_gemm_amx = {"amx",
                                          run,
                                          .bf16 = true,
                                          .plus = true,
                                          .packed_bytes = packed_bytes,
                                          .pack = pack,
                                          .packed_columns = columns_at_a_time};
