/* Our own f32 GEMM in the manner of BLIS (Van Zee & van de Geijn 2015): k is cut into KC, rows into MC,
 * columns into NC; a KC×NC piece of B and an MC×KC piece of A are packed into panels of the register tile's
 * width (zero-padded at the edges), and the tile of the instruction set in use runs over the panels. Packing
 * undoes transposition, so there is one inner loop for all four cases. Cuts depend on the shape alone. */
#include <string.h>
#include "kernels/gemm/gemm.h"

enum { KC = 384, MC = 168, NC = 1536, MAX_MR = 14, MAX_NR = 32 };

/* Packs `count` lines (rows of A or columns of B), k values each, into panels of `width` lines:
 * out[panel][l][line]. Value l of line i is src[i·line + l·step]: one of the two strides is 1. */
static void pack(int64_t count, int64_t k, const float *src, int64_t line, int64_t step, int width,
                 float *out) {
  for (int64_t i = 0; i < count; i += width, out += (int64_t)width * k) {
    int64_t w = lc_min64(width, count - i);
    const float *from = src + i * line;
    if (w < width) memset(out, 0, sizeof(float) * (size_t)(width * k));
    if (line == 1)
      for (int64_t l = 0; l < k; l++)
        for (int64_t r = 0; r < w; r++) out[l * width + r] = from[l * step + r];
    else
      for (int64_t r = 0; r < w; r++)
        for (int64_t l = 0; l < k; l++) out[l * width + r] = from[r * line + l * step];
  }
}

/* All register tiles of a packed MC×KC by KC×NC product. */
static void macro_tile(const lc_gemm_tile *t, int64_t m, int64_t n, int64_t k, const float *a, const float *b,
                       float *C, int64_t ldc, bool add) {
  for (int64_t j = 0; j < n; j += t->nr)
    for (int64_t i = 0; i < m; i += t->mr) {
      const float *pa = a + i * k, *pb = b + j * k;
      float *c = C + i * ldc + j;
      int64_t mr = lc_min64(t->mr, m - i), nr = lc_min64(t->nr, n - j);
      if (mr == t->mr && nr == t->nr) {
        t->run(k, pa, pb, c, ldc, add);
        continue;
      }
      float edge[MAX_MR * MAX_NR];
      t->run(k, pa, pb, edge, t->nr, false);
      for (int64_t r = 0; r < mr; r++)
        for (int64_t s = 0; s < nr; s++) c[r * ldc + s] = edge[r * t->nr + s] + (add ? c[r * ldc + s] : 0);
    }
}

static const lc_gemm_tile *tile_of(lc_isa isa) {
#ifdef __x86_64__
  if (isa >= LC_ISA_AVX512) return &lc_gemm_tile_avx512;
  if (isa >= LC_ISA_AVX2) return &lc_gemm_tile_avx2;
#endif
  return &lc_gemm_tile_scalar;
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  const lc_gemm_tile *t = tile_of(lc_isa_of(ctx));
  int64_t kc = lc_min64(KC, s->k), mc = lc_min64(MC, s->m), nc = lc_min64(NC, s->n);
  int64_t a_room = lc_ceil_div(mc, t->mr) * t->mr * kc, b_room = lc_ceil_div(nc, t->nr) * t->nr * kc;
  float *a = lc_scratch(ctx, worker, LC_SLOT_GEMM_WORK, (size_t)(a_room + b_room) * sizeof(float));
  if (!a) return LC_FAILED;
  float *b = a + a_room;
  for (int64_t j = 0; j < s->n; j += nc)
    for (int64_t l = 0; l < s->k; l += kc) {
      int64_t n = lc_min64(nc, s->n - j), k = lc_min64(kc, s->k - l);
      pack(n, k, (const float *)B + (s->trans_b ? j * s->ldb + l : l * s->ldb + j), s->trans_b ? s->ldb : 1,
           s->trans_b ? 1 : s->ldb, t->nr, b);
      for (int64_t i = 0; i < s->m; i += mc) {
        int64_t m = lc_min64(mc, s->m - i);
        pack(m, k, (const float *)A + (s->trans_a ? l * s->lda + i : i * s->lda + l), s->trans_a ? 1 : s->lda,
             s->trans_a ? s->lda : 1, t->mr, a);
        macro_tile(t, m, n, k, a, b, (float *)C + i * s->ldc + j, s->ldc, s->beta != 0 || l > 0);
      }
    }
  return LC_OK;
}

const lc_gemm_provider_row lc_gemm_native = {"native", run, false};
