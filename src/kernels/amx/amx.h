/* What AMX overrides in the kernel table. */
#ifndef LC_KERNELS_AMX_H
#define LC_KERNELS_AMX_H
#include "kernels/avx512/avx512.h"

void lc_amx_gemv(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x, float *y);
void lc_amx_gemv_q8(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const lc_q8_vector *x,
                    float *y);
void lc_amx_attention_pack(const lc_attention_shape *, bool back, const uint16_t *k, int64_t ldk,
                           const uint16_t *v, int64_t ldv, void *packed);
void lc_amx_attention(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q, int64_t ldq,
                      const void *packed, float *out, float *lse, void *scratch);
void lc_amx_attention_back(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q, int64_t ldq,
                           const uint16_t *out, int64_t ldo, const uint16_t *dout, int64_t lddo,
                           const float *lse, const void *packed, float *dq, float *dk, float *dv,
                           void *scratch);

void lc_kernels_amx(lc_kernels *);

#endif
