/* bf16 and f16 to f32 and back, value by value. */
#include "kernels/scalar/scalar.h"

void lc_ref_bf16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  for (int64_t i = 0; i < n; i++) dst[i] = lc_bf16_to_f32(src[i]);
}

void lc_ref_f32_to_bf16(int64_t n, const float *src, uint16_t *dst) {
  for (int64_t i = 0; i < n; i++) dst[i] = lc_f32_to_bf16(src[i]);
}

void lc_ref_f16_to_f32(int64_t n, const uint16_t *src, float *dst) {
  for (int64_t i = 0; i < n; i++) dst[i] = lc_f16_to_f32(src[i]);
}

void lc_ref_f32_to_f16(int64_t n, const float *src, uint16_t *dst) {
  for (int64_t i = 0; i < n; i++) dst[i] = lc_f32_to_f16(src[i]);
}
