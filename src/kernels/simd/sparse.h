/* Sampled gradients and sparse products. Entries come sorted by row, so the row of dyT stays in the first
 * cache while the rows of xT pass by; four entries of one row share its loads and hide each other's latency.
 * An entry's sum has one accumulator wherever it stands in the list, so callers may cut the list anywhere. */

#define LC_INLINE_N(R)                                                                                       \
  static inline __attribute__((always_inline)) void LC_SIMD(sampled_##R)(int64_t T, const float *dy,         \
                                                                         const float *const *x, float *g) {  \
    vf acc[R];                                                                                               \
    int64_t t = 0;                                                                                           \
    for (int r = 0; r < R; r++) acc[r] = v_set(0);                                                           \
    for (; t + LANES <= T; t += LANES) {                                                                     \
      vf d = v_load(dy + t);                                                                                 \
      for (int r = 0; r < R; r++) acc[r] = v_fma(v_load(x[r] + t), d, acc[r]);                               \
    }                                                                                                        \
    if (t < T) {                                                                                             \
      vf d = v_load_part(dy + t, T - t);                                                                     \
      for (int r = 0; r < R; r++) acc[r] = v_fma(v_load_part(x[r] + t, T - t), d, acc[r]);                   \
    }                                                                                                        \
    for (int r = 0; r < R; r++) g[r] += v_sum(acc[r]);                                                       \
  }
LC_INLINE_N(4)
LC_INLINE_N(1)
#undef LC_INLINE_N

static void LC_SIMD(sampled)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                             const float *xT, const float *dyT, float *g) {
  for (int64_t k = 0; k < K;) {
    int64_t row = flat[k] / N, first = row * N, end = first + N;
    const float *dy = dyT + (row - row0) * ld;
    for (; k + 4 <= K && flat[k + 3] < end; k += 4) {
      const float *x[4];
      for (int r = 0; r < 4; r++) x[r] = xT + (flat[k + r] - first) * ld;
      LC_SIMD(sampled_4)(T, dy, x, g + k);
    }
    for (; k < K && flat[k] < end; k++) {
      const float *x = xT + (flat[k] - first) * ld;
      LC_SIMD(sampled_1)(T, dy, &x, g + k);
    }
  }
}

/* The division by N is done once a row: entries are sorted. */
static void LC_SIMD(sparse_gemv)(int64_t K, const int32_t *flat, const float *value, float scale, int64_t N,
                                 const float *x, float *y) {
  for (int64_t k = 0; k < K;) {
    int64_t row = flat[k] / N, first = row * N, end = first + N;
    float sum0 = 0, sum1 = 0;
    for (; k + 2 <= K && flat[k + 1] < end; k += 2) {
      sum0 += value[k] * x[flat[k] - first];
      sum1 += value[k + 1] * x[flat[k + 1] - first];
    }
    if (k < K && flat[k] < end) sum0 += value[k] * x[flat[k] - first], k++;
    y[row] += scale * (sum0 + sum1);
  }
}
