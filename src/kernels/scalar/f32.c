/* The reference in f32, and the scalar table: every entry of kernels.h is defined here or in a topic file
 * beside it. */
#include <string.h>
#include "kernels/scalar/scalar.h"
#include "kernels/scalar/vector.h"
#include "kernels/scalar/norm.h"
#include "kernels/scalar/rope.h"
#include "kernels/scalar/mlp.h"
#include "kernels/scalar/softmax.h"
#include "kernels/scalar/distances.h"
#include "kernels/scalar/attention.h"
#define LC_WIDENED(name) LC_REF(name)
#include "kernels/scalar/attention_widened.h"
#include "kernels/scalar/sampled.h"
#include "kernels/scalar/gemm_reference.h"

void lc_ref_gemm_f32(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b, const float *A, int64_t lda,
                     const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
  lc_ref_gemm(m, n, k, trans_a, trans_b, A, lda, B, ldb, beta, C, ldc);
}

static float lc_ref_cross_entropy_bf16(int64_t V, float *logits, int32_t label, float scale, uint16_t *d) {
  float loss = lc_ref_cross_entropy(V, logits, label, scale);
  lc_ref_f32_to_bf16(V, logits, d);
  return loss;
}

static void lc_ref_fence(void) {
}

static void lc_ref_copy_past(int64_t n, const float *src, float *dst) {
  memcpy(dst, src, (size_t)n * sizeof *dst);
}

static void lc_ref_add_nonzero(int64_t n, float a, const float *x, const float *y, float *out) {
  for (int64_t i = 0; i < n; i++) out[i] = x[i] != 0 ? y[i] + a * x[i] : y[i];
}

static void lc_ref_add_nonzero_bf16(int64_t n, float a, const float *x, const uint16_t *y, uint16_t *out) {
  for (int64_t i = 0; i < n; i++) out[i] = x[i] != 0 ? lc_f32_to_bf16(lc_bf16_to_f32(y[i]) + a * x[i]) : y[i];
}

static void lc_ref_times_kept(int64_t n, float s, float tau, float less, const float *V, const float *x,
                              float *y) {
  for (int64_t i = 0; i < n; i++) y[i] = s * x[i] * (fabsf(V[i]) > tau ? fabsf(V[i]) - less : 0);
}

static void lc_ref_silu_mul_bf16(int64_t n, const uint16_t *gate, const uint16_t *up, uint16_t *h) {
  for (int64_t i = 0; i < n; i++) {
    float g = lc_bf16_to_f32(gate[i]), u = lc_bf16_to_f32(up[i]), y;
    lc_ref_silu_mul(1, &g, &u, &y);
    h[i] = lc_f32_to_bf16(y);
  }
}

static void lc_ref_silu_mul_back_bf16(int64_t n, const uint16_t *gate, const uint16_t *up, const uint16_t *dh,
                                      uint16_t *dgate, uint16_t *dup) {
  for (int64_t i = 0; i < n; i++) {
    float g = lc_bf16_to_f32(gate[i]), u = lc_bf16_to_f32(up[i]), d = lc_bf16_to_f32(dh[i]), dg, du;
    lc_ref_silu_mul_back(1, &g, &u, &d, &dg, &du);
    dgate[i] = lc_f32_to_bf16(dg), dup[i] = lc_f32_to_bf16(du);
  }
}

void lc_kernels_scalar(lc_kernels *t) {
  *t = (lc_kernels){
      .isa = LC_ISA_SCALAR,
      .bf16_to_f32 = lc_ref_bf16_to_f32,
      .f32_to_bf16 = lc_ref_f32_to_bf16,
      .f16_to_f32 = lc_ref_f16_to_f32,
      .f32_to_f16 = lc_ref_f32_to_f16,
      .decode_q8_0 = lc_ref_decode_q8_0,
      .decode_q4_0 = lc_ref_decode_q4_0,
      .decode_q4_1 = lc_ref_decode_q4_1,
      .decode_bf16 = lc_ref_decode_bf16,
      .pick = lc_ref_pick,
      .dot = lc_ref_dot,
      .axpy = lc_ref_axpy,
      .add_nonzero = lc_ref_add_nonzero,
      .add_nonzero_bf16 = lc_ref_add_nonzero_bf16,
      .add = lc_ref_add,
      .scale = lc_ref_scale,
      .sum_squares = lc_ref_sum_squares,
      .copy_past = lc_ref_copy_past,
      .fence = lc_ref_fence,
      .gemv = lc_ref_gemv,
      .mix_rows = lc_ref_mix_rows,
      .add_low_rank = lc_ref_add_low_rank,
      .distances = lc_ref_distances,
      .distances_back = lc_ref_distances_back,
      .column_lse = lc_ref_column_lse,
      .softmax_add = lc_ref_softmax_add,
      .softmax_add_back = lc_ref_softmax_add_back,
      .times_kept = lc_ref_times_kept,
      .quantise_q8 = lc_ref_quantise_q8,
      .gemv_q8 = lc_ref_gemv_q8,
      .pack_q8 = lc_ref_pack_q8,
      .gemm_q8 = lc_ref_gemm_q8,
      .rmsnorm = lc_ref_rmsnorm,
      .rmsnorm_back = lc_ref_rmsnorm_back,
      .layernorm = lc_ref_layernorm,
      .layernorm_back = lc_ref_layernorm_back,
      .rope = lc_ref_rope,
      .silu_mul = lc_ref_silu_mul,
      .silu_mul_back = lc_ref_silu_mul_back,
      .silu_mul_bf16 = lc_ref_silu_mul_bf16,
      .silu_mul_back_bf16 = lc_ref_silu_mul_back_bf16,
      .gelu_tanh = lc_ref_gelu_tanh,
      .gelu_tanh_back = lc_ref_gelu_tanh_back,
      .gelu_erf = lc_ref_gelu_erf,
      .gelu_erf_back = lc_ref_gelu_erf_back,
      .cross_entropy = lc_ref_cross_entropy,
      .cross_entropy_bf16 = lc_ref_cross_entropy_bf16,
      .softmax = lc_ref_softmax,
      .attention = lc_ref_attention,
      .attention_back = lc_ref_attention_back,
      .attention_pack = lc_ref_attention_pack,
      .attention_bf16 = lc_ref_attention_bf16,
      .attention_back_bf16 = lc_ref_attention_back_bf16,
      .sampled = lc_ref_sampled,
      .sampled_bf16 = lc_ref_sampled_bf16,
      .transpose_f32 = lc_ref_transpose_f32,
      .transpose_bf16 = lc_ref_transpose_bf16,
      .sparse_gemv = lc_ref_sparse_gemv,
      .normal = lc_rng_normal_fill,
      .dropout = lc_ref_dropout,
      .axpy_band = lc_ref_axpy_band,
      .adamw = lc_ref_adamw,
  };
}
