/* y[i] = Σ_c W[i,c]·x[c] straight from storage: decoding reads each weight once, so its speed is that of
 * memory. Values are decoded a piece at a time and summed in f64. */
#include "kernels/scalar/scalar.h"

void lc_ref_gemv(lc_dtype dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x,
                 float *y) {
  enum { PIECE = 256 }; /* a multiple of every block */
  const lc_dtype_info *info = lc_dtype_get(dtype);
  for (int64_t i = 0; i < m; i++) {
    const uint8_t *row = (const uint8_t *)W + (size_t)i * row_bytes;
    double sum = 0;
    for (int64_t c = 0; c < n; c += PIECE) {
      float piece[PIECE];
      int64_t count = lc_min64(PIECE, n - c);
      const void *at = row + (size_t)(c / info->block) * (size_t)info->bytes;
      const float *w = piece;
      switch (dtype) {
      case LC_F32:
        w = at;
        break;
      case LC_BF16:
        lc_ref_bf16_to_f32(count, at, piece);
        break;
      case LC_F16:
        lc_ref_f16_to_f32(count, at, piece);
        break;
      case LC_Q8_0:
        lc_ref_decode_q8_0(count, at, piece);
        break;
      case LC_Q4_0:
        lc_ref_decode_q4_0(count, at, piece);
        break;
      case LC_Q4_1:
        lc_ref_decode_q4_1(count, at, piece);
        break;
      default:
        return; /* callers ask only for the dtypes above */
      }
      for (int64_t j = 0; j < count; j++) sum += (double)w[j] * (double)x[c + j];
    }
    y[i] = (float)sum;
  }
}

void lc_ref_mix_rows(lc_dtype dtype, int64_t m, int64_t n, const void *V, size_t row_bytes, const float *p,
                     float *y) {
  for (int64_t c = 0; c < n; c++) {
    double sum = 0;
    for (int64_t i = 0; i < m; i++) {
      const void *row = (const uint8_t *)V + (size_t)i * row_bytes;
      float v = dtype == LC_F32    ? ((const float *)row)[c]
                : dtype == LC_BF16 ? lc_bf16_to_f32(((const uint16_t *)row)[c])
                                   : lc_f16_to_f32(((const uint16_t *)row)[c]);
      sum += (double)p[i] * (double)v;
    }
    y[c] = (float)sum;
  }
}

void lc_ref_add_low_rank(int64_t m, int64_t n, int64_t R, float s, const float *B, int64_t ldb,
                         const float *A, int64_t lda, float *y, int64_t ldy) {
  for (int64_t r = 0; r < m; r++)
    for (int64_t c = 0; c < n; c++) {
      double sum = 0;
      for (int64_t k = 0; k < R; k++) sum += (double)B[r * ldb + k] * (double)A[k * lda + c];
      if (sum != 0) y[r * ldy + c] += s * (float)sum;
    }
}
