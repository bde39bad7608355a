/* The bodies above, as rows of the kernel table. */

static void LC_SIMD(fill)(lc_kernels *t) {
  t->decode_q8_0 = LC_SIMD(decode_q8_0);
  t->decode_q4_0 = LC_SIMD(decode_q4_0);
  t->decode_q4_1 = LC_SIMD(decode_q4_1);
  t->decode_bf16 = LC_SIMD(decode_bf16);
  t->pick = LC_SIMD(pick);
  t->dot = LC_SIMD(dot);
  t->axpy = LC_SIMD(axpy);
  t->add_nonzero = LC_SIMD(add_nonzero);
  t->add_nonzero_bf16 = LC_SIMD(add_nonzero_bf16);
  t->add = LC_SIMD(add);
  t->scale = LC_SIMD(scale);
  t->sum_squares = LC_SIMD(sum_squares);
  t->copy_past = LC_SIMD(copy_past);
  t->fence = v_fence;
  t->gemv = LC_SIMD(gemv_any);
  t->mix_rows = LC_SIMD(mix_rows);
  t->add_low_rank = LC_SIMD(add_low_rank);
  t->rmsnorm = LC_SIMD(rmsnorm);
  t->rmsnorm_back = LC_SIMD(rmsnorm_back);
  t->layernorm = LC_SIMD(layernorm);
  t->layernorm_back = LC_SIMD(layernorm_back);
  t->rope = LC_SIMD(rope);
  t->silu_mul = LC_SIMD(silu_mul);
  t->silu_mul_back = LC_SIMD(silu_mul_back);
  t->silu_mul_bf16 = LC_SIMD(silu_mul_bf16);
  t->silu_mul_back_bf16 = LC_SIMD(silu_mul_back_bf16);
  t->gelu_tanh = LC_SIMD(gelu_tanh);
  t->gelu_tanh_back = LC_SIMD(gelu_tanh_back);
  t->gelu_erf = LC_SIMD(gelu_erf);
  t->gelu_erf_back = LC_SIMD(gelu_erf_back);
  t->cross_entropy = LC_SIMD(cross_entropy);
  t->cross_entropy_bf16 = LC_SIMD(cross_entropy_bf16);
  t->softmax = LC_SIMD(softmax);
  t->attention = LC_SIMD(attention);
  t->attention_back = LC_SIMD(attention_back);
  t->attention_pack = LC_SIMD(attention_pack);
  t->attention_bf16 = LC_SIMD(attention_bf16);
  t->attention_back_bf16 = LC_SIMD(attention_back_bf16);
  t->sampled = LC_SIMD(sampled);
  t->sampled_bf16 = LC_SIMD(sampled_bf16);
  t->sparse_gemv = LC_SIMD(sparse_gemv);
  t->normal = LC_SIMD(normal);
  t->axpy_band = LC_SIMD(axpy_band);
  t->adamw = LC_SIMD(adamw);
}
