/* Around sparse deltas: sampled gradients from bf16 transposes, the transposes themselves, and y += ΔW·x for
 * one token. */
#include "kernels/scalar/scalar.h"

void lc_ref_sampled_bf16(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                         const uint16_t *xT, const uint16_t *dyT, float *g) {
  for (int64_t k = 0; k < K; k++) {
    const uint16_t *x = xT + flat[k] % N * ld, *dy = dyT + (flat[k] / N - row0) * ld;
    double sum = 0;
    for (int64_t t = 0; t < T; t++) sum += (double)(lc_bf16_to_f32(dy[t]) * lc_bf16_to_f32(x[t]));
    g[k] += (float)sum;
  }
}

void lc_ref_transpose_f32(int64_t rows, int64_t cols, const float *src, int64_t ld, float *dst, int64_t ldd) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * ld + c];
}

void lc_ref_transpose_bf16(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                           int64_t ldd) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * ld + c];
}

void lc_ref_sparse_gemv(int64_t K, const int32_t *flat, const float *value, float scale, int64_t N,
                        const float *x, float *y) {
  for (int64_t k = 0; k < K; k++) y[flat[k] / N] += value[k] * scale * x[flat[k] % N];
}
