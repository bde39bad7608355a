/* What AVX2 (with FMA, F16C, BMI2) overrides in the kernel table: the bodies of ../simd, and its own files.
 */
#ifndef LC_KERNELS_AVX2_H
#define LC_KERNELS_AVX2_H
#include "kernels/kernels.h"

void lc_avx2_bf16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_avx2_f32_to_bf16(int64_t n, const float *src, uint16_t *dst);
void lc_avx2_f16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_avx2_f32_to_f16(int64_t n, const float *src, uint16_t *dst);
void lc_avx2_transpose_f32(int64_t rows, int64_t cols, const float *src, int64_t ld, float *dst, int64_t ldd);
void lc_avx2_transpose_bf16(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                            int64_t ldd);
void lc_avx2_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q);
void lc_avx2_gemv_q8(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const lc_q8_vector *x,
                     float *y);
void lc_avx2_pack_q8(lc_dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed);
void lc_avx2_gemm_q8(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x, int64_t t0,
                     float *y, int64_t ldy);
void lc_avx2_vnni_gemm_q8(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                          int64_t t0, float *y, int64_t ldy); /* needs AVX-VNNI */

void lc_kernels_avx2(lc_kernels *);

#endif
