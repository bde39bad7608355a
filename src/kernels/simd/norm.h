/* RMSNorm and LayerNorm of one row: scalar/norm.h says what they are. Two passes over a row that the cache
 * holds. */
#include <math.h>

static void LC_SIMD(rmsnorm)(int64_t C, float eps, const float *x, const float *w, float *y, float *rstd) {
  float r = 1 / sqrtf(LC_SIMD(dot)(C, x, x) / (float)C + eps);
  vf vr = v_set(r);
  int64_t i = 0;
  for (; i + LANES <= C; i += LANES) v_store(y + i, v_mul(v_load(w + i), v_mul(v_load(x + i), vr)));
  if (i < C)
    v_store_part(y + i, v_mul(v_load_part(w + i, C - i), v_mul(v_load_part(x + i, C - i), vr)), C - i);
  *rstd = r;
}

/* Both gradients end alike: dx = r·(g − mean_g − x̂·mean_gx), x̂ = (x − mean)·r, g = w·dy. */
static inline __attribute__((always_inline)) void
LC_SIMD(norm_back_step)(const float *x, const float *w, const float *dy, float beta, float *dx, float *dw,
                        float *db, vf mean, vf r, vf mean_g, vf mean_gx, int64_t n) {
  vf d = LC_SIMD(at)(dy, n), xhat = v_mul(v_sub(LC_SIMD(at)(x, n), mean), r);
  vf out = v_mul(r, v_fnma(xhat, mean_gx, v_sub(v_mul(LC_SIMD(at)(w, n), d), mean_g)));
  if (dw) LC_SIMD(put)(dw, v_fma(d, xhat, LC_SIMD(at)(dw, n)), n);
  if (db) LC_SIMD(put)(db, v_add(d, LC_SIMD(at)(db, n)), n);
  if (beta != 0) out = v_fma(v_set(beta), LC_SIMD(at)(dx, n), out);
  LC_SIMD(put)(dx, out, n);
}

static void LC_SIMD(norm_back)(int64_t C, const float *x, const float *w, float mean, float rstd,
                               bool centred, const float *dy, float beta, float *dx, float *dw, float *db) {
  vf m = v_set(mean), r = v_set(rstd), sum_g = v_set(0), sum_g2 = sum_g, sum_gx = sum_g, sum_gx2 = sum_g;
  int64_t i = 0;
  for (; i + 2 * LANES <= C; i += 2 * LANES) {
    vf g = v_mul(v_load(w + i), v_load(dy + i)), g2 = v_mul(v_load(w + i + LANES), v_load(dy + i + LANES));
    sum_g = v_add(sum_g, g);
    sum_g2 = v_add(sum_g2, g2);
    sum_gx = v_fma(g, v_mul(v_sub(v_load(x + i), m), r), sum_gx);
    sum_gx2 = v_fma(g2, v_mul(v_sub(v_load(x + i + LANES), m), r), sum_gx2);
  }
  for (; i < C; i += LANES) {
    int64_t n = lc_min64(LANES, C - i);
    vf g = n == LANES ? v_mul(v_load(w + i), v_load(dy + i))
                      : v_mul(v_load_part(w + i, n), v_load_part(dy + i, n));
    sum_g = v_add(sum_g, g);
    sum_gx = v_fma(g, v_mul(v_sub(n == LANES ? v_load(x + i) : v_load_part(x + i, n), m), r), sum_gx);
  }
  vf mean_g = v_set(centred ? v_sum(v_add(sum_g, sum_g2)) / (float)C : 0),
     mean_gx = v_set(v_sum(v_add(sum_gx, sum_gx2)) / (float)C);
  for (i = 0; i + LANES <= C; i += LANES) LC_SIMD(norm_back_step)
  (x + i, w + i, dy + i, beta, dx + i, dw ? dw + i : NULL, db ? db + i : NULL, m, r, mean_g, mean_gx, LANES);
  if (i < C) LC_SIMD(norm_back_step)
  (x + i, w + i, dy + i, beta, dx + i, dw ? dw + i : NULL, db ? db + i : NULL, m, r, mean_g, mean_gx, C - i);
}

static void LC_SIMD(rmsnorm_back)(int64_t C, const float *x, const float *w, float rstd, const float *dy,
                                  float beta, float *dx, float *dw) {
  LC_SIMD(norm_back)(C, x, w, 0, rstd, false, dy, beta, dx, dw, NULL);
}

/* Σ (x − m)², or Σ x where `plain`. */
static inline __attribute__((always_inline)) float LC_SIMD(norm_sum)(int64_t C, const float *x, vf m,
                                                                     bool plain) {
  vf s[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
  int64_t i = 0;
  for (; i + 4 * LANES <= C; i += 4 * LANES)
    for (int u = 0; u < 4; u++) {
      vf d = v_sub(v_load(x + i + u * LANES), m);
      s[u] = plain ? v_add(s[u], d) : v_fma(d, d, s[u]);
    }
  for (; i < C; i += LANES) {
    int64_t n = lc_min64(LANES, C - i);
    vf d = v_keep(v_sub(LC_SIMD(at)(x + i, n), m), n, v_set(0));
    s[0] = plain ? v_add(s[0], d) : v_fma(d, d, s[0]);
  }
  return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void LC_SIMD(layernorm)(int64_t C, float eps, const float *x, const float *w, const float *b, float *y,
                               float *mean, float *rstd) {
  float mu = LC_SIMD(norm_sum)(C, x, v_set(0), true) / (float)C;
  float r = 1 / sqrtf(LC_SIMD(norm_sum)(C, x, v_set(mu), false) / (float)C + eps);
  vf m = v_set(mu), vr = v_set(r);
  LC_EACH_VECTOR(C, i, n) {
    vf xhat = v_mul(v_sub(LC_SIMD(at)(x + i, n), m), vr);
    LC_SIMD(put)(y + i, v_fma(LC_SIMD(at)(w + i, n), xhat, b ? LC_SIMD(at)(b + i, n) : v_set(0)), n);
  }
  *mean = mu, *rstd = r;
}

static void LC_SIMD(layernorm_back)(int64_t C, const float *x, const float *w, float mean, float rstd,
                                    const float *dy, float beta, float *dx, float *dw, float *db) {
  LC_SIMD(norm_back)(C, x, w, mean, rstd, true, dy, beta, dx, dw, db);
}

static void LC_SIMD(rope)(int64_t D, const float *cosine, const float *sine, float sign, float *x) {
  int64_t half = D / 2, i = 0;
  vf s = v_set(sign);
  for (; i < half; i += LANES) {
    int64_t n = lc_min64(LANES, half - i);
    bool whole = n == LANES;
    vf a = whole ? v_load(x + i) : v_load_part(x + i, n),
       b = whole ? v_load(x + half + i) : v_load_part(x + half + i, n);
    vf c = whole ? v_load(cosine + i) : v_load_part(cosine + i, n);
    vf t = v_mul(s, whole ? v_load(sine + i) : v_load_part(sine + i, n));
    vf first = v_fnma(b, t, v_mul(a, c)), second = v_fma(a, t, v_mul(b, c));
    if (whole) {
      v_store(x + i, first);
      v_store(x + half + i, second);
    } else {
      v_store_part(x + i, first, n);
      v_store_part(x + half + i, second, n);
    }
  }
}
