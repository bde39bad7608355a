/* Our own GEMM in the manner of BLIS (Van Zee & van de Geijn 2015): k is cut into KC units, rows into MC,
 * columns into NC; a KC×NC piece of B and an MC×KC piece of A are packed into panels of the register tile's
 * width (pack.c: transposition and bf16 are dealt with there), and the tile of the instruction set in use
 * runs over the panels; rows of A that
 * run along k are read where they stand. A bf16 output is summed in f32 scratch, MC×NC at a time. Cuts depend
 * on the shape alone. */
#include "kernels/gemm/gemm.h"

enum { MC = 192, NC = 1536, NC_BF16 = 768 };

/* A piece of A for the register tile: packed panels, or, where its rows run along k in the tile's own units,
 * the rows themselves up to the last whole tile of them; `packed` then holds the rest. */
typedef struct {
  const float *packed, *rows;
  int64_t lda, whole;
} left;

static void tile_at(const lc_gemm_tile *t, const left *a, int64_t i, int64_t units, const float *b, float *c,
                    int64_t ldc, int64_t cols, bool add) {
  if (i < a->whole)
    t->run(units, a->rows + i * a->lda, a->lda, 1, b, c, ldc, cols, add);
  else
    t->run(units, a->packed + (i - a->whole) * units, 1, t->mr, b, c, ldc, cols, add);
}

/* All register tiles of a product; edges that are no whole vectors go through a tile beside C. */
static void macro_tile(const lc_gemm_tile *t, int64_t m, int64_t n, int64_t units, const left *a,
                       const float *b, float *C, int64_t ldc, bool add) {
  for (int64_t j = 0; j < n; j += t->nr)
    for (int64_t i = 0; i < m; i += t->mr) {
      float *c = C + i * ldc + j;
      int64_t mr = lc_min64(t->mr, m - i), nr = lc_min64(t->nr, n - j),
              cols = lc_ceil_div(nr, t->lanes) * t->lanes;
      if (mr == t->mr && nr == cols) {
        tile_at(t, a, i, units, b + j * units, c, ldc, cols, add);
        continue;
      }
      float edge[LC_GEMM_MAX_MR * LC_GEMM_MAX_NR];
      tile_at(t, a, i, units, b + j * units, edge, t->nr, cols, false);
      for (int64_t r = 0; r < mr; r++)
        for (int64_t s = 0; s < nr; s++) c[r * ldc + s] = edge[r * t->nr + s] + (add ? c[r * ldc + s] : 0);
    }
}

static const lc_gemm_tile *tile_of(lc_isa isa, lc_dtype dtype) {
#ifdef __x86_64__
  if (isa >= LC_ISA_AVX512_BF16 && dtype == LC_BF16) return &lc_gemm_tile_avx512_bf16;
  if (isa >= LC_ISA_AVX512) return &lc_gemm_tile_avx512;
  if (isa >= LC_ISA_AVX2) return &lc_gemm_tile_avx2;
#endif
  return &lc_gemm_tile_scalar;
}

/* One call: the tile, the operands as lines, and the scratch. */
typedef struct {
  const lc_kernels *kn;
  const lc_gemm_tile *t;
  const lc_gemm_shape *s;
  lc_gemm_lines A, B;
  int64_t kc, mc, nc; /* values of k, rows, columns of a piece */
  float *a, *b, *c, *spare;
} job;

static lc_status prepare(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B,
                         job *w) {
  const lc_gemm_tile *t = tile_of(lc_isa_of(ctx), s->dtype);
  bool narrow = s->c_dtype == LC_BF16;
  *w = (job){.kn = lc_kernels_get(ctx), .t = t, .s = s};
  w->A = (lc_gemm_lines){A, s->dtype, s->trans_a ? 1 : s->lda, s->trans_a ? s->lda : 1};
  w->B = (lc_gemm_lines){B, s->dtype, s->trans_b ? s->ldb : 1, s->trans_b ? 1 : s->ldb};
  w->kc = LC_GEMM_KC * (t->pairs ? 2 : 1);
  w->mc = lc_min64(MC, s->m), w->nc = lc_min64(narrow ? NC_BF16 : NC, s->n);
  size_t a = (size_t)(lc_ceil_div(w->mc, t->mr) * t->mr * LC_GEMM_KC),
         b = (size_t)(lc_ceil_div(w->nc, t->nr) * t->nr * LC_GEMM_KC);
  size_t c = narrow ? (size_t)(w->mc * w->nc) : 0, spare = (size_t)(LC_GEMM_KC * LC_GEMM_MAX_NR);
  w->a = lc_scratch(ctx, worker, LC_SLOT_GEMM_WORK, (a + b + c + spare) * sizeof(float));
  if (!w->a) return LC_FAILED;
  w->b = w->a + a, w->c = w->b + b, w->spare = w->c + c;
  return LC_OK;
}

/* Whether the tile can read A where it stands. */
static bool reads_rows(const job *w, int64_t k) {
  const lc_gemm_lines *A = &w->A;
  if (A->step != 1 || (A->dtype == LC_BF16) != w->t->pairs) return false;
  return !w->t->pairs || (k % 2 == 0 && A->line % 2 == 0 && ((uintptr_t)A->data & 3) == 0);
}

/* Prepares rows [i,i+m), values [l,l+k) of A. Rows that run along k in bf16 where products are f32 are
 * widened, and read as rows. What is left beside whole tiles of rows is packed. */
static left left_piece(const job *w, int64_t i, int64_t m, int64_t l, int64_t k) {
  int per = w->t->pairs ? 2 : 1;
  left a = {.whole = m - m % w->t->mr};
  float *packed = w->a;
  if (reads_rows(w, k)) {
    a.lda = w->A.line / per;
    a.rows = (const float *)w->A.data + i * a.lda + l / per;
  } else if (w->A.step == 1 && w->A.dtype == LC_BF16 && !w->t->pairs) {
    const uint16_t *from = (const uint16_t *)w->A.data + i * w->A.line + l;
    for (int64_t r = 0; r < a.whole; r++) w->kn->bf16_to_f32(k, from + r * w->A.line, w->a + r * k);
    a.rows = w->a, a.lda = k, packed += a.whole * k;
  } else {
    a.whole = 0;
  }
  lc_gemm_panels(w->kn, w->t, &w->A, i + a.whole, m - a.whole, l, k, w->t->mr, packed, w->spare);
  a.packed = packed;
  return a;
}

/* Rows [i,i+m) of columns [j,j+n), values [l,l+k) of the sum; B is packed already. */
static void piece(const job *w, int64_t i, int64_t m, int64_t n, int64_t l, int64_t k, float *C, int64_t ldc,
                  bool add) {
  left a = left_piece(w, i, m, l, k);
  macro_tile(w->t, m, n, w->t->pairs ? (k + 1) / 2 : k, &a, w->b, C, ldc, add);
}

static void to_f32(const job *w, float *C) {
  const lc_gemm_shape *s = w->s;
  for (int64_t j = 0; j < s->n; j += w->nc)
    for (int64_t l = 0; l < s->k; l += w->kc) {
      int64_t n = lc_min64(w->nc, s->n - j), k = lc_min64(w->kc, s->k - l);
      lc_gemm_panels(w->kn, w->t, &w->B, j, n, l, k, w->t->nr, w->b, w->spare);
      for (int64_t i = 0; i < s->m; i += w->mc)
        piece(w, i, lc_min64(w->mc, s->m - i), n, l, k, C + i * s->ldc + j, s->ldc, s->beta != 0 || l > 0);
    }
}

/* The whole sum of an MC×NC piece first, then its rounding. */
static void to_bf16(const job *w, uint16_t *C) {
  const lc_gemm_shape *s = w->s;
  for (int64_t j = 0; j < s->n; j += w->nc)
    for (int64_t i = 0; i < s->m; i += w->mc) {
      int64_t n = lc_min64(w->nc, s->n - j), m = lc_min64(w->mc, s->m - i);
      for (int64_t l = 0; l < s->k; l += w->kc) {
        int64_t k = lc_min64(w->kc, s->k - l);
        lc_gemm_panels(w->kn, w->t, &w->B, j, n, l, k, w->t->nr, w->b, w->spare);
        piece(w, i, m, n, l, k, w->c, n, l > 0);
      }
      for (int64_t r = 0; r < m; r++) w->kn->f32_to_bf16(n, w->c + r * n, C + (i + r) * s->ldc + j);
    }
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  job w;
  LC_TRY(prepare(ctx, worker, s, A, B, &w));
  if (s->c_dtype == LC_BF16)
    to_bf16(&w, C);
  else
    to_f32(&w, C);
  return LC_OK;
}

const lc_gemm_provider_row lc_gemm_native = {"native", run, .f32 = true, .bf16 = true};
