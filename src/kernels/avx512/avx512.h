/* What AVX-512 (F, BW, DQ, VL) and AVX-512 BF16 override in the kernel table: the bodies of ../simd, and
 * their own files. Files named
 * *_bf16.c are compiled with AVX-512 BF16, *_vnni.c with VNNI, which avx512_bf16 includes. */
#ifndef LC_KERNELS_AVX512_H
#define LC_KERNELS_AVX512_H
#include "kernels/kernels.h"

void lc_avx512_bf16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_avx512_f32_to_bf16(int64_t n, const float *src, uint16_t *dst);
void lc_avx512_f16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_avx512_f32_to_f16(int64_t n, const float *src, uint16_t *dst);
void lc_avx512_transpose_bf16(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                              int64_t ldd);
void lc_avx512_bf16_sampled(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                            const uint16_t *xT, const uint16_t *dyT, float *g);
void lc_avx512_bf16_attention_pack(const lc_attention_shape *, bool back, const uint16_t *k, int64_t ldk,
                                   const uint16_t *v, int64_t ldv, void *packed);
void lc_avx512_bf16_attention(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q,
                              int64_t ldq, const void *packed, float *out, float *lse, void *scratch);
void lc_avx512_bf16_attention_back(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q,
                                   int64_t ldq, const uint16_t *out, int64_t ldo, const uint16_t *dout,
                                   int64_t lddo, const float *lse, const void *packed, float *dq, float *dk,
                                   float *dv, void *scratch);
void lc_avx512_vnni_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q);
void lc_avx512_vnni_gemv_q8(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes,
                            const lc_q8_vector *x, float *y);
void lc_avx512_pack_q8(lc_dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed);
void lc_avx512_gemm_q8(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                       int64_t t0, float *y, int64_t ldy);
void lc_avx512_vnni_gemm_q8(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x,
                            int64_t t0, float *y, int64_t ldy);

void lc_kernels_avx512(lc_kernels *);
void lc_kernels_avx512_bf16(lc_kernels *);

#endif
