/* A matrix given by distances: scalar/distances.h. Values are made lane by lane, so that a tile may be cut anywhere; four rows go together and share
 * the loads of A and dA. */

enum {
  LC_SIMD(DISTANCE_ROWS) = 4,
  LC_SIMD(LSE_VECTORS) = 4,
  LC_SIMD(LSE_ROWS) = 64 /* between sums in f64 */
};

/* One half's distances of `rows` rows to one vector of columns, count of its lanes. */
static inline __attribute__((always_inline)) void LC_SIMD(distance_half)(int rows, int64_t count, int64_t q,
                                                                         const float *B, const float *A,
                                                                         int64_t lda, vf *d) {
  for (int r = 0; r < rows; r++) d[r] = v_set(0);
  for (int64_t k = 0; k < q; k++) {
    const vf a = LC_SIMD(at)(A + k * lda, count);
    for (int r = 0; r < rows; r++) {
      const vf x = v_sub(a, v_set(B[r * 2 * q + k]));
      d[r] = v_fma(x, x, d[r]);
    }
  }
}

static inline __attribute__((always_inline)) void
LC_SIMD(distance_rows)(int rows, int64_t count, int64_t q, float s, const float *B, const float *A,
                       int64_t lda, float *D, int64_t D_size, float *S, int64_t ld) {
  vf first[LC_SIMD(DISTANCE_ROWS)], second[LC_SIMD(DISTANCE_ROWS)];
  LC_SIMD(distance_half)(rows, count, q, B, A, lda, first);
  LC_SIMD(distance_half)(rows, count, q, B + q, A + q * lda, lda, second);
  for (int r = 0; r < rows; r++) {
    const vf d0 = v_sqrt(first[r]), d1 = v_sqrt(second[r]);
    LC_SIMD(put)(S + r * ld, v_mul(v_set(s), v_sub(d0, d1)), count);
    if (!D) continue;
    LC_SIMD(put)(D + r * ld, d0, count);
    LC_SIMD(put)(D + D_size + r * ld, d1, count);
  }
}

static void LC_SIMD(distances)(int64_t m, int64_t n, int64_t R, float s, const float *B, const float *A,
                               int64_t lda, float *D, float *S) {
  const int rows = LC_SIMD(DISTANCE_ROWS);
  const int64_t q = R / 2, size = m * n;
  int64_t r = 0;
  for (; r < m; r += r + rows <= m ? rows : 1)
    for (int64_t c = 0; c < n; c += LANES) {
      const int64_t count = lc_min64(LANES, n - c), at = r * n + c;
      float *D_at = D ? D + at : NULL;
      if (r + rows <= m && count == LANES)
        LC_SIMD(distance_rows)(rows, LANES, q, s, B + r * R, A + c, lda, D_at, size, S + at, n);
      else if (r + rows <= m)
        LC_SIMD(distance_rows)(rows, count, q, s, B + r * R, A + c, lda, D_at, size, S + at, n);
      else
        LC_SIMD(distance_rows)(1, count, q, s, B + r * R, A + c, lda, D_at, size, S + at, n);
    }
}

/* ±s·dS/D, 0 where D is. */
static void LC_SIMD(distance_slopes)(int64_t n, float s, const float *dS, float *D) {
  const vf zero = v_set(0);
  for (int64_t i = 0; i < n; i += LANES) {
    const int64_t count = lc_min64(LANES, n - i);
    const vf d = LC_SIMD(at)(D + i, count), P = v_div(v_mul(v_set(s), LC_SIMD(at)(dS + i, count)), d);
    LC_SIMD(put)(D + i, v_if_less(zero, d, P, zero), count);
  }
}

/* One coordinate of `rows` rows. */
static inline __attribute__((always_inline)) void LC_SIMD(distance_back_rows)(int rows, int64_t n, int64_t R,
                                                                              const float *b, const float *A,
                                                                              const float *P, float *dA,
                                                                              float *db) {
  vf value[LC_SIMD(DISTANCE_ROWS)], sum[LC_SIMD(DISTANCE_ROWS)];
  for (int r = 0; r < rows; r++) value[r] = v_set(b[r * R]), sum[r] = v_set(0);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const vf a = v_load(A + i);
    vf to = v_load(dA + i);
    for (int r = 0; r < rows; r++) {
      const vf v = v_mul(v_load(P + r * n + i), v_sub(a, value[r]));
      to = v_add(to, v);
      sum[r] = v_add(sum[r], v);
    }
    v_store(dA + i, to);
  }
  if (i < n) {
    const vf a = v_load_part(A + i, n - i);
    vf to = v_load_part(dA + i, n - i);
    for (int r = 0; r < rows; r++) {
      const vf v = v_mul(v_load_part(P + r * n + i, n - i), v_sub(a, value[r]));
      to = v_add(to, v);
      sum[r] = v_add(sum[r], v);
    }
    v_store_part(dA + i, to, n - i);
  }
  for (int r = 0; r < rows; r++) db[r * R] -= v_sum(sum[r]);
}

static void LC_SIMD(distances_back)(int64_t m, int64_t n, int64_t R, float s, const float *B, const float *A,
                                    int64_t lda, float *D, const float *dS, float *dA, int64_t ldda,
                                    float *dB) {
  const int rows = LC_SIMD(DISTANCE_ROWS);
  for (int h = 0; h < 2; h++) LC_SIMD(distance_slopes)(m * n, h ? -s : s, dS, D + h * m * n);
  for (int64_t k = 0; k < R; k++) {
    const float *P = D + k / (R / 2) * m * n;
    int64_t r = 0;
    for (; r + rows <= m; r += rows) LC_SIMD(distance_back_rows)
    (rows, n, R, B + r * R + k, A + k * lda, P + r * n, dA + k * ldda, dB + r * R + k);
    for (; r < m; r++) LC_SIMD(distance_back_rows)
    (1, n, R, B + r * R + k, A + k * lda, P + r * n, dA + k * ldda, dB + r * R + k);
  }
}

/* Some vectors of columns, count[v] lanes of each: two passes down the rows. */
static void LC_SIMD(lse_columns)(int vectors, const int64_t *count, int64_t m, int64_t ld, float a,
                                 const float *x, float *lse) {
  const vf va = v_set(a);
  vf top[LC_SIMD(LSE_VECTORS)];
  vd low[LC_SIMD(LSE_VECTORS)], high[LC_SIMD(LSE_VECTORS)];
  for (int v = 0; v < vectors; v++) {
    top[v] = v_mul(va, LC_SIMD(at)(x + v * LANES, count[v]));
    low[v] = high[v] = vd_zero();
  }
  for (int64_t r = 1; r < m; r++)
    for (int v = 0; v < vectors; v++)
      top[v] = v_max(top[v], v_mul(va, LC_SIMD(at)(x + r * ld + v * LANES, count[v])));
  for (int64_t r0 = 0; r0 < m; r0 += LC_SIMD(LSE_ROWS)) {
    vf sum[LC_SIMD(LSE_VECTORS)];
    for (int v = 0; v < vectors; v++) sum[v] = v_set(0);
    for (int64_t r = r0; r < lc_min64(r0 + LC_SIMD(LSE_ROWS), m); r++)
      for (int v = 0; v < vectors; v++) {
        const vf z = v_mul(va, LC_SIMD(at)(x + r * ld + v * LANES, count[v]));
        sum[v] = v_add(sum[v], v_exp(v_sub(z, top[v])));
      }
    for (int v = 0; v < vectors; v++) {
      low[v] = vd_add(low[v], vd_low(sum[v]));
      high[v] = vd_add(high[v], vd_high(sum[v]));
    }
  }
  for (int v = 0; v < vectors; v++) {
    double sum[LANES];
    float most[LANES];
    memcpy(sum, &low[v], sizeof low[v]), memcpy(sum + LANES / 2, &high[v], sizeof high[v]);
    v_store(most, top[v]);
    for (int64_t i = 0; i < count[v]; i++) lse[v * LANES + i] = (float)((double)most[i] + log(sum[i]));
  }
}

static void LC_SIMD(column_lse)(int64_t m, int64_t n, float a, const float *x, float *lse) {
  for (int64_t c = 0; c < n; c += LC_SIMD(LSE_VECTORS) * LANES) {
    int64_t count[LC_SIMD(LSE_VECTORS)], left = n - c;
    int vectors = 0;
    for (; vectors < LC_SIMD(LSE_VECTORS) && left > 0; left -= LANES)
      count[vectors++] = lc_min64(LANES, left);
    LC_SIMD(lse_columns)(vectors, count, m, n, a, x + c, lse + c);
  }
}

static void LC_SIMD(softmax_add)(int64_t m, int64_t n, float a, float alpha, float beta, const float *lse,
                                 const float *S, float *p, float *V) {
  const vf va = v_set(a), valpha = v_set(alpha), vbeta = v_set(beta);
  for (int64_t c = 0; c < n; c += LANES) {
    const int64_t count = lc_min64(LANES, n - c);
    const vf l = LC_SIMD(at)(lse + c, count);
    for (int64_t r = 0; r < m; r++) {
      const vf x = LC_SIMD(at)(S + r * n + c, count), e = v_exp(v_sub(v_mul(va, x), l));
      LC_SIMD(put)(V + r * n + c, v_add(v_fma(valpha, e, x), vbeta), count);
      if (p) LC_SIMD(put)(p + r * n + c, e, count);
    }
  }
}

static void LC_SIMD(softmax_add_back)(int64_t m, int64_t n, float a, float alpha, const float *p,
                                      const float *S, const float *dV, float *dS, float *k, float *t,
                                      double sum[2]) {
  const vf slope = v_set(a * alpha);
  vf gps = v_set(0), all = v_set(0);
  for (int64_t c = 0; c < n; c += LANES) {
    const int64_t count = lc_min64(LANES, n - c);
    vf k_c = LC_SIMD(at)(k + c, count), t_c = LC_SIMD(at)(t + c, count);
    for (int64_t i = c; i < c + m * n; i += n) {
      const vf e = LC_SIMD(at)(p + i, count), x = LC_SIMD(at)(S + i, count), g = LC_SIMD(at)(dV + i, count),
               gp = v_mul(g, e);
      LC_SIMD(put)(dS + i, v_fma(slope, gp, g), count);
      k_c = v_add(k_c, gp);
      t_c = v_fma(e, x, t_c);
      gps = v_fma(gp, x, gps);
      all = v_add(all, g);
    }
    LC_SIMD(put)(k + c, k_c, count);
    LC_SIMD(put)(t + c, t_c, count);
  }
  sum[0] += (double)v_sum(gps);
  sum[1] += (double)v_sum(all);
}

static void LC_SIMD(times_kept)(int64_t n, float s, float tau, float less, const float *V, const float *x,
                                float *y) {
  const vf zero = v_set(0), vs = v_set(s), vtau = v_set(tau), vless = v_set(less);
  for (int64_t i = 0; i < n; i += LANES) {
    const int64_t count = lc_min64(LANES, n - i);
    const vf size = v_abs(LC_SIMD(at)(V + i, count)), f = v_if_less(vtau, size, v_sub(size, vless), zero);
    LC_SIMD(put)(y + i, v_mul(v_mul(vs, LC_SIMD(at)(x + i, count)), f), count);
  }
}
