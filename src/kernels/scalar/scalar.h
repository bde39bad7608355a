/* The reference kernels that exist in f32 only (the others are headers beside this one: real.h), and what the
 * fast paths and the GEMM providers borrow from the reference. Shapes and meaning: kernels.h. */
#ifndef LC_KERNELS_SCALAR_H
#define LC_KERNELS_SCALAR_H
#include "kernels/kernels.h"

enum {
  LC_BLOCK = 32,
  LC_Q8_0_BYTES = 34,
  LC_Q4_0_BYTES = 18,
  LC_Q4_1_BYTES = 20
}; /* GGUF's blocks: values, bytes */

void lc_ref_bf16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_ref_f32_to_bf16(int64_t n, const float *src, uint16_t *dst);
void lc_ref_f16_to_f32(int64_t n, const uint16_t *src, float *dst);
void lc_ref_f32_to_f16(int64_t n, const float *src, uint16_t *dst);
void lc_ref_decode_q8_0(int64_t n, const void *src, float *dst);
void lc_ref_decode_q4_0(int64_t n, const void *src, float *dst);
void lc_ref_decode_q4_1(int64_t n, const void *src, float *dst);
void lc_ref_decode_bf16(lc_dtype, int64_t n, const void *src, uint16_t *dst);
void lc_ref_pick(lc_dtype, int64_t n, const void *src, const int64_t *at, float *dst);
void lc_ref_gemv(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x, float *y);
void lc_ref_quantise_q8(int64_t n, const float *x, const lc_q8_vector *q);
void lc_ref_mix_rows(lc_dtype, int64_t m, int64_t n, const void *V, size_t row_bytes, const float *p,
                     float *y);
void lc_ref_add_low_rank(int64_t m, int64_t n, int64_t R, float s, const float *B, int64_t ldb,
                         const float *A, int64_t lda, float *y, int64_t ldy);
void lc_ref_gemv_q8(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const lc_q8_vector *x,
                    float *y);
void lc_ref_pack_q8(lc_dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed);
void lc_ref_gemm_q8(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x, int64_t t0,
                    float *y, int64_t ldy);
void lc_ref_sampled_bf16(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                         const uint16_t *xT, const uint16_t *dyT, float *g);
void lc_ref_transpose_f32(int64_t rows, int64_t cols, const float *src, int64_t ld, float *dst, int64_t ldd);
void lc_ref_transpose_bf16(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                           int64_t ldd);
void lc_ref_sparse_gemv(int64_t K, const int32_t *flat, const float *value, float scale, int64_t N,
                        const float *x, float *y);
void lc_ref_dropout(const lc_rng *, uint64_t first, int64_t n, float p, float *x);
void lc_ref_axpy_band(int64_t n, float a, const float *x, float low, float high, float *y);
void lc_ref_adamw(int64_t n, const lc_adamw_hyper *, float step, float *value, const float *grad, float *m,
                  float *v, float *age);
void lc_ref_gemm_f32(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b, const float *A, int64_t lda,
                     const float *B, int64_t ldb, float beta, float *C, int64_t ldc);

void lc_kernels_scalar(lc_kernels *); /* fills the whole table; the fast paths then override */

#endif
