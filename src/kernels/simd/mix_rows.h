/* y[c] = Σ_i p[i]·V[i,c], rows where they are stored: attention's values in the cache. Even and odd rows are summed apart, then added. */
#include "kernels/scalar/scalar.h"

enum { LC_SIMD(MIX) = 4 /* vectors of columns at once */ };

static inline vf LC_SIMD(mix_load)(lc_dtype dtype, const uint8_t *row, int64_t c) {
  if (dtype == LC_F32) return v_load((const float *)(const void *)row + c);
  const uint16_t *h = (const uint16_t *)(const void *)row + c;
  return dtype == LC_BF16 ? v_load_bf16(h) : v_load_f16(h);
}

static inline float LC_SIMD(mix_value)(lc_dtype dtype, const uint8_t *row, int64_t c) {
  if (dtype == LC_F32) return ((const float *)(const void *)row)[c];
  const uint16_t *h = (const uint16_t *)(const void *)row + c;
  return dtype == LC_BF16 ? lc_bf16_to_f32(*h) : f16_at(h);
}

static inline __attribute__((always_inline)) void LC_SIMD(mix_columns)(int vectors, lc_dtype dtype, int64_t m,
                                                                       const uint8_t *V, size_t row_bytes,
                                                                       int64_t c, const float *p, float *y) {
  vf acc[2][LC_SIMD(MIX)];
  for (int v = 0; v < vectors; v++) acc[0][v] = acc[1][v] = v_set(0);
  int64_t i = 0;
  for (; i + 2 <= m; i += 2)
    for (int half = 0; half < 2; half++)
      for (int v = 0; v < vectors; v++)
        acc[half][v] =
            v_fma(v_set(p[i + half]),
                  LC_SIMD(mix_load)(dtype, V + (size_t)(i + half) * row_bytes, c + v * LANES), acc[half][v]);
  for (int v = 0; v < vectors && i < m; v++)
    acc[0][v] =
        v_fma(v_set(p[i]), LC_SIMD(mix_load)(dtype, V + (size_t)i * row_bytes, c + v * LANES), acc[0][v]);
  for (int v = 0; v < vectors; v++) v_store(y + c + v * LANES, v_add(acc[0][v], acc[1][v]));
}

static inline __attribute__((always_inline)) void LC_SIMD(mix_as)(lc_dtype dtype, int64_t m, int64_t n,
                                                                  const uint8_t *V, size_t row_bytes,
                                                                  const float *p, float *y) {
  int64_t c = 0;
  for (; c + LC_SIMD(MIX) * LANES <= n; c += LC_SIMD(MIX) * LANES)
    LC_SIMD(mix_columns)(LC_SIMD(MIX), dtype, m, V, row_bytes, c, p, y);
  for (; c + LANES <= n; c += LANES) LC_SIMD(mix_columns)(1, dtype, m, V, row_bytes, c, p, y);
  for (; c < n; c++) {
    float sum = 0;
    for (int64_t i = 0; i < m; i++) sum += p[i] * LC_SIMD(mix_value)(dtype, V + (size_t)i * row_bytes, c);
    y[c] = sum;
  }
}

static void LC_SIMD(mix_rows)(lc_dtype dtype, int64_t m, int64_t n, const void *V, size_t row_bytes,
                              const float *p, float *y) {
  if (dtype == LC_F32)
    LC_SIMD(mix_as)(LC_F32, m, n, V, row_bytes, p, y);
  else if (dtype == LC_BF16)
    LC_SIMD(mix_as)(LC_BF16, m, n, V, row_bytes, p, y);
  else
    LC_SIMD(mix_as)(LC_F16, m, n, V, row_bytes, p, y);
}
