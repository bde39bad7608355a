/* The reference in f64: see real.h. */
#define LC_REAL_F64
#include "kernels/kernels_f64.h"
#include "kernels/scalar/vector.h"
#include "kernels/scalar/norm.h"
#include "kernels/scalar/rope.h"
#include "kernels/scalar/mlp.h"
#include "kernels/scalar/softmax.h"
#include "kernels/scalar/distances.h"
#include "kernels/scalar/attention.h"
#include "kernels/scalar/sampled.h"
#include "kernels/scalar/gemm_reference.h"

const lc_kernels_f64 *lc_kernels_f64_get(void) {
  static const lc_kernels_f64 table = {
      .dot = lc_f64_dot,
      .axpy = lc_f64_axpy,
      .add = lc_f64_add,
      .scale = lc_f64_scale,
      .sum_squares = lc_f64_sum_squares,
      .rmsnorm = lc_f64_rmsnorm,
      .rmsnorm_back = lc_f64_rmsnorm_back,
      .layernorm = lc_f64_layernorm,
      .layernorm_back = lc_f64_layernorm_back,
      .rope = lc_f64_rope,
      .silu_mul = lc_f64_silu_mul,
      .silu_mul_back = lc_f64_silu_mul_back,
      .gelu_tanh = lc_f64_gelu_tanh,
      .gelu_tanh_back = lc_f64_gelu_tanh_back,
      .gelu_erf = lc_f64_gelu_erf,
      .gelu_erf_back = lc_f64_gelu_erf_back,
      .cross_entropy = lc_f64_cross_entropy,
      .softmax = lc_f64_softmax,
      .distances = lc_f64_distances,
      .distances_back = lc_f64_distances_back,
      .column_lse = lc_f64_column_lse,
      .softmax_add = lc_f64_softmax_add,
      .softmax_add_back = lc_f64_softmax_add_back,
      .attention = lc_f64_attention,
      .attention_back = lc_f64_attention_back,
      .sampled = lc_f64_sampled,
      .gemm = lc_f64_gemm,
  };
  return &table;
}
