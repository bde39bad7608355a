/* y += s·B·A on a tile: some rows and three vectors of columns of sums stay in registers, A is read where it lies (a column strip of it stays in
 * the first-level cache for all rows). A sum of 0 leaves y's bits, a negative zero too. Each value is one chain of multiply-adds, k ascending,
 * wherever it stands in the tile. */

enum { LC_SIMD(LOW_ROWS) = LANES == 16 ? 8 : 4 /* 32 registers, or 16 */, LC_SIMD(LOW_VECTORS) = 3 };

/* y + s·sum, or y where the sum is 0. */
static inline vf LC_SIMD(low_add)(vf y, float s, vf sum) {
  const vf zero = v_set(0), moved = v_fma(v_set(s), sum, y);
  return v_if_less(zero, v_abs(sum), moved, v_if_less(v_abs(sum), v_set(INFINITY), y, moved));
}

static inline __attribute__((always_inline)) void LC_SIMD(low_tile)(int rows, int vectors, int64_t part,
                                                                    int64_t R, float s, const float *B,
                                                                    int64_t ldb, const float *A, int64_t lda,
                                                                    float *y, int64_t ldy) {
  vf sum[LC_SIMD(LOW_ROWS)][LC_SIMD(LOW_VECTORS)];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) sum[r][v] = v_set(0);
  for (int64_t k = 0; k < R; k++) {
    vf a[LC_SIMD(LOW_VECTORS)];
    for (int v = 0; v < vectors; v++)
      a[v] = part ? v_load_part(A + k * lda, part) : v_load(A + k * lda + v * LANES);
    for (int r = 0; r < rows; r++) {
      const vf b = v_set(B[r * ldb + k]);
      for (int v = 0; v < vectors; v++) sum[r][v] = v_fma(b, a[v], sum[r][v]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++) {
      float *to = y + r * ldy + v * LANES;
      if (part)
        v_store_part(to, LC_SIMD(low_add)(v_load_part(to, part), s, sum[r][v]), part);
      else
        v_store(to, LC_SIMD(low_add)(v_load(to), s, sum[r][v]));
    }
}

static inline __attribute__((always_inline)) void LC_SIMD(low_strip)(int vectors, int64_t part, int64_t m,
                                                                     int64_t R, float s, const float *B,
                                                                     int64_t ldb, const float *A, int64_t lda,
                                                                     float *y, int64_t ldy) {
  int64_t r = 0;
  for (; r + LC_SIMD(LOW_ROWS) <= m; r += LC_SIMD(LOW_ROWS))
    LC_SIMD(low_tile)(LC_SIMD(LOW_ROWS), vectors, part, R, s, B + r * ldb, ldb, A, lda, y + r * ldy, ldy);
  for (; r < m; r++) LC_SIMD(low_tile)(1, vectors, part, R, s, B + r * ldb, ldb, A, lda, y + r * ldy, ldy);
}

static void LC_SIMD(add_low_rank)(int64_t m, int64_t n, int64_t R, float s, const float *B, int64_t ldb,
                                  const float *A, int64_t lda, float *y, int64_t ldy) {
  const int64_t wide = LC_SIMD(LOW_VECTORS) * LANES;
  int64_t c = 0;
  for (; c + wide <= n; c += wide)
    LC_SIMD(low_strip)(LC_SIMD(LOW_VECTORS), 0, m, R, s, B, ldb, A + c, lda, y + c, ldy);
  for (; c + LANES <= n; c += LANES) LC_SIMD(low_strip)(1, 0, m, R, s, B, ldb, A + c, lda, y + c, ldy);
  if (c < n) LC_SIMD(low_strip)(1, n - c, m, R, s, B, ldb, A + c, lda, y + c, ldy);
}
