/* The products inside attention: register tiles of MR rows by two vectors of columns, all f32.
 *
 *   C[i, 0..2·LANES) = C·f + Σ_{l<k} a[i·row + l·step] · B[l, 0..2·LANES)
 *
 * Elements of a are broadcast, so a is read along its rows or down its columns as it comes; rows of B are
 * vectors in packed scratch. f, a vector for each half, rescales what C held; NULL starts from zero. */

enum { ATTN_MR = LANES == 16 ? 8 : 4, ATTN_NR = 2 * LANES };

typedef struct {
  const float *a;
  int64_t row, step;
  const float *b;
  int64_t ldb, k;
} LC_SIMD(factors);

LC_INLINE void LC_SIMD(attn_sums)(int R, const LC_SIMD(factors) * p, int64_t i, vf *s0, vf *s1) {
  const float *a = p->a + i * p->row, *b = p->b;
  for (int64_t l = 0; l < p->k; l++, a += p->step, b += p->ldb) {
    vf b0 = v_load(b), b1 = v_load(b + LANES);
    for (int r = 0; r < R; r++) {
      vf ar = v_set(a[r * p->row]);
      s0[r] = v_fma(ar, b0, s0[r]);
      s1[r] = v_fma(ar, b1, s1[r]);
    }
  }
}

/* R rows of C in scratch, all columns there. */
LC_INLINE void LC_SIMD(attn_rows)(int R, const LC_SIMD(factors) * p, int64_t i, const vf *f, float *c,
                                  int64_t ldc) {
  vf s0[ATTN_MR], s1[ATTN_MR];
  for (int r = 0; r < R; r++) {
    s0[r] = f ? v_mul(v_load(c + r * ldc), f[0]) : v_set(0);
    s1[r] = f ? v_mul(v_load(c + r * ldc + LANES), f[1]) : v_set(0);
  }
  LC_SIMD(attn_sums)(R, p, i, s0, s1);
  for (int r = 0; r < R; r++) {
    v_store(c + r * ldc, s0[r]);
    v_store(c + r * ldc + LANES, s1[r]);
  }
}

/* R rows added to the caller's C, of which `cols` columns belong to this tile. */
LC_INLINE void LC_SIMD(attn_rows_add)(int R, const LC_SIMD(factors) * p, int64_t i, float *c, int64_t ldc,
                                      int64_t cols) {
  vf s0[ATTN_MR], s1[ATTN_MR];
  int64_t first = lc_min64(cols, LANES), second = cols - first;
  for (int r = 0; r < R; r++) s0[r] = s1[r] = v_set(0);
  LC_SIMD(attn_sums)(R, p, i, s0, s1);
  for (int r = 0; r < R; r++, c += ldc) {
    LC_SIMD(put)(c, v_add(LC_SIMD(at)(c, first), s0[r]), first);
    if (second) LC_SIMD(put)(c + LANES, v_add(LC_SIMD(at)(c + LANES, second), s1[r]), second);
  }
}

/* Whole tiles, then the rest of the rows by 4, 2 and 1. */
#define LC_ATTN_SPLIT(rows, i, call)                                                                         \
  do {                                                                                                       \
    int64_t i = 0;                                                                                           \
    for (; i + ATTN_MR <= (rows); i += ATTN_MR) call(ATTN_MR);                                               \
    for (; i + 4 <= (rows); i += 4) call(4);                                                                 \
    for (; i + 2 <= (rows); i += 2) call(2);                                                                 \
    for (; i < (rows); i++) call(1);                                                                         \
  } while (0)

static void LC_SIMD(attn_product)(int64_t rows, const LC_SIMD(factors) * p, const vf *f, float *c,
                                  int64_t ldc) {
#define CALL(R) LC_SIMD(attn_rows)(R, p, i, f, c + i * ldc, ldc)
  LC_ATTN_SPLIT(rows, i, CALL);
#undef CALL
}

static void LC_SIMD(attn_product_add)(int64_t rows, const LC_SIMD(factors) * p, float *c, int64_t ldc,
                                      int64_t cols) {
#define CALL(R) LC_SIMD(attn_rows_add)(R, p, i, c + i * ldc, ldc, cols)
  LC_ATTN_SPLIT(rows, i, CALL);
#undef CALL
}
