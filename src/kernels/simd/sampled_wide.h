/* Sampled gradients of bf16 where there are no bf16 products: widened in registers. */

static float LC_SIMD(dot_bf16)(int64_t n, const uint16_t *a, const uint16_t *b) {
  vf s0 = v_set(0), s1 = s0;
  int64_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    s0 = v_fma(v_load_bf16(a + i), v_load_bf16(b + i), s0);
    s1 = v_fma(v_load_bf16(a + i + LANES), v_load_bf16(b + i + LANES), s1);
  }
  float sum = v_sum(v_add(s0, s1));
  for (; i < n; i++) sum += lc_bf16_to_f32(a[i]) * lc_bf16_to_f32(b[i]);
  return sum;
}

static void LC_SIMD(sampled_bf16)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T,
                                  int64_t ld, const uint16_t *xT, const uint16_t *dyT, float *g) {
  for (int64_t k = 0; k < K;) {
    int64_t row = flat[k] / N, first = row * N, end = first + N;
    for (; k < K && flat[k] < end; k++)
      g[k] += LC_SIMD(dot_bf16)(T, dyT + (row - row0) * ld, xT + (flat[k] - first) * ld);
  }
}
