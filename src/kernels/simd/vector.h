/* Vectors of n values: four independent sums hide the latency of the FMA; the tail is one partial vector. */

static float LC_SIMD(dot)(int64_t n, const float *a, const float *b) {
  vf s0 = v_set(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    s0 = v_fma(v_load(a + i), v_load(b + i), s0);
    s1 = v_fma(v_load(a + i + LANES), v_load(b + i + LANES), s1);
    s2 = v_fma(v_load(a + i + 2 * LANES), v_load(b + i + 2 * LANES), s2);
    s3 = v_fma(v_load(a + i + 3 * LANES), v_load(b + i + 3 * LANES), s3);
  }
  for (; i + LANES <= n; i += LANES) s0 = v_fma(v_load(a + i), v_load(b + i), s0);
  if (i < n) s1 = v_fma(v_load_part(a + i, n - i), v_load_part(b + i, n - i), s1);
  return v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
}

static void LC_SIMD(axpy)(int64_t n, float a, const float *x, float *y) {
  vf va = v_set(a);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(y + i, v_fma(va, v_load(x + i), v_load(y + i)));
  if (i < n) v_store_part(y + i, v_fma(va, v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
}

static inline vf LC_SIMD(plus_nonzero)(vf a, vf x, vf y) {
  return v_if_less(v_abs(x), v_set(1e-45f), y, v_add(y, v_mul(a, x))); /* the least number above 0 */
}

static void LC_SIMD(add_nonzero)(int64_t n, float a, const float *x, const float *y, float *out) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    v_store(out + i, LC_SIMD(plus_nonzero)(v_set(a), v_load(x + i), v_load(y + i)));
  if (i < n)
    v_store_part(out + i,
                 LC_SIMD(plus_nonzero)(v_set(a), v_load_part(x + i, n - i), v_load_part(y + i, n - i)),
                 n - i);
}

static void LC_SIMD(add_nonzero_bf16)(int64_t n, float a, const float *x, const uint16_t *y, uint16_t *out) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    v_store_bf16(out + i, LC_SIMD(plus_nonzero)(v_set(a), v_load(x + i), v_load_bf16(y + i)));
  for (; i < n; i++)
    if (x[i] != 0)
      out[i] = lc_f32_to_bf16(lc_bf16_to_f32(y[i]) + a * x[i]);
    else
      out[i] = y[i];
}

static void LC_SIMD(add)(int64_t n, const float *a, const float *b, float *y) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(y + i, v_add(v_load(a + i), v_load(b + i)));
  if (i < n) v_store_part(y + i, v_add(v_load_part(a + i, n - i), v_load_part(b + i, n - i)), n - i);
}

static void LC_SIMD(scale)(int64_t n, float a, float *x) {
  vf va = v_set(a);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(x + i, v_mul(va, v_load(x + i)));
  if (i < n) v_store_part(x + i, v_mul(va, v_load_part(x + i, n - i)), n - i);
}

static double LC_SIMD(sum_squares)(int64_t n, const float *x) {
  vd low = vd_zero(), high = vd_zero();
  int64_t i = 0;
  for (; i < n; i += LANES) {
    vf v = i + LANES <= n ? v_load(x + i) : v_load_part(x + i, n - i);
    vd a = vd_low(v), b = vd_high(v);
    low = vd_fma(a, a, low);
    high = vd_fma(b, b, high);
  }
  return vd_sum(vd_add(low, high));
}

static void LC_SIMD(copy_past)(int64_t n, const float *src, float *dst) {
  const int64_t before = (int64_t)(-(uintptr_t)dst % sizeof(vf) / sizeof *dst);
  int64_t i = lc_min64(n, before);
  memcpy(dst, src, (size_t)i * sizeof *dst);
  for (; i + LANES <= n; i += LANES) v_store_past(dst + i, v_load(src + i));
  memcpy(dst + i, src + i, (size_t)(n - i) * sizeof *dst);
}
