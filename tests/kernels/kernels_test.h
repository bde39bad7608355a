/* What the rows of test_kernels.c have in common: random inputs that are freed together, and the error sum. */
#ifndef LC_KERNELS_TEST_H
#define LC_KERNELS_TEST_H
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/kernels.h"
#include "kernels/kernels_f64.h"

enum { MAX_BLOCKS = 1 << 16 };
typedef struct {
  const lc_kernels *fast, *scalar;
  const lc_kernels_f64 *exact;
  lc_rng rng;
  uint64_t next;
  double error, norm;
  int n_blocks;
  void *blocks[MAX_BLOCKS];
} probe;

static inline void *room(probe *p, int64_t n, size_t size) {
  void *block = calloc((size_t)n + 1, size);
  assert_non_null(block);
  assert_true(p->n_blocks < MAX_BLOCKS);
  p->blocks[p->n_blocks++] = block;
  return block;
}

static inline float *zeros(probe *p, int64_t n) {
  return room(p, n, sizeof(float));
}

static inline float *randoms(probe *p, int64_t n, float scale) {
  float *x = zeros(p, n);
  for (int64_t i = 0; i < n; i++) x[i] = scale * lc_rng_normal(&p->rng, p->next++);
  return x;
}

static inline uint16_t *random_bf16(probe *p, int64_t n) {
  uint16_t *x = room(p, n, sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = lc_f32_to_bf16(lc_rng_normal(&p->rng, p->next++));
  return x;
}

static inline double *wide(probe *p, int64_t n, const float *x) {
  double *y = room(p, n, sizeof *y);
  for (int64_t i = 0; i < n; i++) y[i] = (double)x[i];
  return y;
}

static inline float *copy(probe *p, int64_t n, const float *x) {
  return memcpy(zeros(p, n), x, sizeof(float) * (size_t)n);
}

static inline void compare(probe *p, int64_t n, const float *got, const double *want) {
  for (int64_t i = 0; i < n; i++) {
    double d = (double)got[i] - want[i];
    p->error += isnan(d) ? INFINITY : d * d;
    p->norm += want[i] * want[i];
  }
}

static inline void compare_f32(probe *p, int64_t n, const float *got, const float *want) {
  compare(p, n, got, wide(p, n, want));
}

/* Bits: a difference anywhere makes the error 1. */
static inline void compare_bits(probe *p, size_t bytes, const void *got, const void *want) {
  if (memcmp(got, want, bytes)) p->error = INFINITY;
  p->norm += 1;
}

static const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 128, 257, 576, 1000};
#define EACH_SIZE(n)                                                                                         \
  for (size_t n##_i = 0, n##_more = 1; n##_i < sizeof sizes / sizeof *sizes; n##_i++, n##_more = 1)          \
    for (int64_t n = sizes[n##_i]; n##_more; n##_more = 0)

/* Scratch begins at a multiple of 64 bytes, as lc_scratch's does. */
static inline void *aligned(probe *p, size_t bytes) {
  char *block = room(p, (int64_t)bytes + 64, 1);
  return block + (64 - (uintptr_t)block % 64) % 64;
}

/* n values of random blocks whose scales (the first `scales` f16) are ordinary numbers. */
uint8_t *random_blocks(probe *p, int64_t n, lc_dtype dtype);

/* ---- the rows that have files of their own ---- */

void row_quantise_q8(probe *p);
void row_gemv_q8(probe *p);
void row_pack_q8(probe *p);
void row_gemm_q8(probe *p);
void row_rmsnorm(probe *p);
void row_rmsnorm_back(probe *p);
void row_layernorm(probe *p);
void row_layernorm_back(probe *p);
void row_rope(probe *p);
void row_silu_mul(probe *p);
void row_silu_mul_back(probe *p);
void row_silu_mul_bf16(probe *p);
void row_silu_mul_back_bf16(probe *p);
void row_gelu_tanh(probe *p);
void row_gelu_tanh_back(probe *p);
void row_gelu_erf(probe *p);
void row_gelu_erf_back(probe *p);
void row_softmax(probe *p);
void row_cross_entropy(probe *p);
void row_cross_entropy_bf16(probe *p);
void row_attention(probe *p);
void row_attention_back(probe *p);
void row_attention_bf16(probe *p);
void row_attention_pack(probe *p);
void row_attention_back_bf16(probe *p);
void row_sampled(probe *p);
void row_sampled_bf16(probe *p);
void row_transpose_f32(probe *p);
void row_transpose_bf16(probe *p);
void row_sparse_gemv(probe *p);
void row_adamw(probe *p);
void row_normal(probe *p);
void row_dropout(probe *p);
void row_axpy_band(probe *p);
void row_distances(probe *p);
void row_distances_back(probe *p);
void row_column_lse(probe *p);
void row_softmax_add(probe *p);
void row_softmax_add_back(probe *p);
void row_times_kept(probe *p);

#endif
