/* SwiGLU's and GELU's middle: scalar/mlp.h says what they are. tanh enters through the logistic function, 1 +
 * tanh(u) = 2σ(2u), which loses no digits where tanh is near −1. */

/* Defines a kernel over n values whose body maps vectors; PART repeats it once for the tail. */
static inline __attribute__((always_inline)) vf LC_SIMD(at)(const float *p, int64_t n) {
  return n == LANES ? v_load(p) : v_load_part(p, n);
}

static inline __attribute__((always_inline)) void LC_SIMD(put)(float *p, vf x, int64_t n) {
  if (n == LANES)
    v_store(p, x);
  else
    v_store_part(p, x, n);
}

#define LC_EACH_VECTOR(n, i, count)                                                                          \
  for (int64_t i = 0, count = lc_min64(LANES, n); i < (n); i += LANES, count = lc_min64(LANES, (n)-i))

static void LC_SIMD(silu_mul)(int64_t n, const float *gate, const float *up, float *h) {
  LC_EACH_VECTOR(n, i, count) {
    vf minus, g = LC_SIMD(at)(gate + i, count), s = v_sigmoid_pair(g, &minus);
    LC_SIMD(put)(h + i, v_mul(v_mul(g, s), LC_SIMD(at)(up + i, count)), count);
  }
}

static void LC_SIMD(silu_mul_back)(int64_t n, const float *gate, const float *up, const float *dh,
                                   float *dgate, float *dup) {
  LC_EACH_VECTOR(n, i, count) {
    vf minus, g = LC_SIMD(at)(gate + i, count), s = v_sigmoid_pair(g, &minus);
    vf u = LC_SIMD(at)(up + i, count), d = LC_SIMD(at)(dh + i, count);
    vf slope = v_mul(s, v_fma(g, minus, v_set(1.0f))); /* σ(1 + g(1−σ)) */
    LC_SIMD(put)(dgate + i, v_mul(v_mul(d, u), slope), count);
    LC_SIMD(put)(dup + i, v_mul(d, v_mul(g, s)), count);
  }
}

/* The same of values in bf16. What does not fill a vector goes through one in memory. */
typedef struct {
  uint16_t v[5][LANES];
} LC_SIMD(edge16);

static void LC_SIMD(silu_mul_bf16)(int64_t n, const uint16_t *gate, const uint16_t *up, uint16_t *h) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    vf minus, g = v_load_bf16(gate + i), s = v_sigmoid_pair(g, &minus);
    v_store_bf16(h + i, v_mul(v_mul(g, s), v_load_bf16(up + i)));
  }
  if (i == n) return;
  const size_t bytes = (size_t)(n - i) * sizeof *h;
  LC_SIMD(edge16) e = {0};
  memcpy(e.v[0], gate + i, bytes), memcpy(e.v[1], up + i, bytes);
  LC_SIMD(silu_mul_bf16)(LANES, e.v[0], e.v[1], e.v[2]);
  memcpy(h + i, e.v[2], bytes);
}

static void LC_SIMD(silu_mul_back_bf16)(int64_t n, const uint16_t *gate, const uint16_t *up,
                                        const uint16_t *dh, uint16_t *dgate, uint16_t *dup) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    vf minus, g = v_load_bf16(gate + i), s = v_sigmoid_pair(g, &minus);
    vf u = v_load_bf16(up + i), d = v_load_bf16(dh + i);
    vf slope = v_mul(s, v_fma(g, minus, v_set(1.0f)));
    v_store_bf16(dgate + i, v_mul(v_mul(d, u), slope));
    v_store_bf16(dup + i, v_mul(d, v_mul(g, s)));
  }
  if (i == n) return;
  const size_t bytes = (size_t)(n - i) * sizeof *dh;
  LC_SIMD(edge16) e = {0};
  memcpy(e.v[0], gate + i, bytes), memcpy(e.v[1], up + i, bytes), memcpy(e.v[2], dh + i, bytes);
  LC_SIMD(silu_mul_back_bf16)(LANES, e.v[0], e.v[1], e.v[2], e.v[3], e.v[4]);
  memcpy(dgate + i, e.v[3], bytes), memcpy(dup + i, e.v[4], bytes);
}

/* 2u of the tanh form: 2·√(2/π)·(x + 0.044715x³). */
static inline vf LC_SIMD(gelu_argument)(vf x) {
  vf x2 = v_mul(x, x);
  return v_mul(v_mul(x, v_set(1.59576912f)), v_fma(x2, v_set(0.044715f), v_set(1.0f)));
}

static void LC_SIMD(gelu_tanh)(int64_t n, const float *x, float *y) {
  LC_EACH_VECTOR(n, i, count) {
    vf minus, v = LC_SIMD(at)(x + i, count), s = v_sigmoid_pair(LC_SIMD(gelu_argument)(v), &minus);
    LC_SIMD(put)(y + i, v_mul(v, s), count);
  }
}

static void LC_SIMD(gelu_tanh_back)(int64_t n, const float *x, const float *dy, float *dx) {
  LC_EACH_VECTOR(n, i, count) {
    vf minus, v = LC_SIMD(at)(x + i, count), s = v_sigmoid_pair(LC_SIMD(gelu_argument)(v), &minus);
    vf slope = v_fma(v_mul(v, v), v_set(1.59576912f * 3 * 0.044715f), v_set(1.59576912f)); /* d 2u / dx */
    vf d = v_fma(v_mul(v, slope), v_mul(s, minus), s); /* σ + x·σ(1−σ)·(2u)' */
    LC_SIMD(put)(dx + i, v_mul(LC_SIMD(at)(dy + i, count), d), count);
  }
}

static void LC_SIMD(gelu_erf)(int64_t n, const float *x, float *y) {
  LC_EACH_VECTOR(n, i, count) {
    vf v = LC_SIMD(at)(x + i, count), e = v_erf(v_mul(v, v_set(0.707106781f)));
    LC_SIMD(put)(y + i, v_mul(v_mul(v_set(0.5f), v), v_add(v_set(1.0f), e)), count);
  }
}

static void LC_SIMD(gelu_erf_back)(int64_t n, const float *x, const float *dy, float *dx) {
  LC_EACH_VECTOR(n, i, count) {
    vf v = LC_SIMD(at)(x + i, count), e = v_erf(v_mul(v, v_set(0.707106781f)));
    vf cdf = v_mul(v_set(0.5f), v_add(v_set(1.0f), e));
    vf pdf = v_mul(v_set(0.398942280f), v_exp(v_mul(v_set(-0.5f), v_mul(v, v))));
    LC_SIMD(put)(dx + i, v_mul(LC_SIMD(at)(dy + i, count), v_fma(v, pdf, cdf)), count);
  }
}
