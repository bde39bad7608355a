/* Every entry of the kernel table, on every instruction set that this machine runs, against the reference: in
 * f64 where that exists, else the scalar f32 kernel. One row an entry; each runs over awkward sizes and gives
 * one figure, the normalised mean square error Σ(got−want)²/Σwant². A tolerance of 0 asks for the same bits.
 * To add a kernel's test, add its row, here or in the kernels_*.c of its topic. */
#include "kernels_test.h"
#ifdef __x86_64__
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#endif
#include <stdio.h>

/* ---- conversions ---- */

/* All 65,536 values, then random ones at odd sizes. */
static void row_widen16(probe *p, void (*fast)(int64_t, const uint16_t *, float *),
                        void (*scalar)(int64_t, const uint16_t *, float *)) {
  uint16_t *all = room(p, 65536, sizeof *all);
  float *got = zeros(p, 65536), *want = zeros(p, 65536);
  for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
  fast(65536, all, got), scalar(65536, all, want);
  for (int i = 0; i < 65536; i++) /* a NaN's payload may differ */
    if (!(isnan(got[i]) && isnan(want[i]))) compare_bits(p, sizeof(float), got + i, want + i);
  EACH_SIZE(n) {
    float *a = zeros(p, n), *b = zeros(p, n);
    fast(n, all + 15000, a), scalar(n, all + 15000, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b); /* nothing behind the end is written */
  }
}

static void row_bf16_to_f32(probe *p) {
  row_widen16(p, p->fast->bf16_to_f32, p->scalar->bf16_to_f32);
}

static void row_f16_to_f32(probe *p) {
  row_widen16(p, p->fast->f16_to_f32, p->scalar->f16_to_f32);
}

/* Random bit patterns: ties, denormals, infinities and NaN included (NaN stays NaN). */
static void row_narrow16(probe *p, void (*fast)(int64_t, const float *, uint16_t *),
                         void (*scalar)(int64_t, const float *, uint16_t *), uint16_t infinity) {
  enum { MANY = 40000 };
  float *x = zeros(p, MANY);
  uint16_t *got = room(p, MANY, 2), *want = room(p, MANY, 2);
  for (int i = 0; i < MANY; i++) {
    uint32_t bits = lc_rng_u32(&p->rng, p->next++);
    if (i % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;     /* a tie of bf16 */
    if (i % 3 == 1) bits = (bits & 0x8fffe000u) | 0x38001000u; /* around 1: ties of f16 */
    if (i % 7 == 0) bits &= 0x807fffffu | (lc_rng_u32(&p->rng, p->next++) & 0x3f800000u);
    memcpy(x + i, &bits, 4);
  }
  x[0] = INFINITY, x[1] = -INFINITY, x[2] = NAN, x[3] = 65520.0f, x[4] = 65519.0f, x[5] = 1e-8f, x[6] = -0.0f;
  fast(MANY, x, got), scalar(MANY, x, want);
  for (int i = 0; i < MANY; i++) {
    bool nan = isnan(x[i]);
    if (nan && (got[i] & 0x7fff) <= infinity) p->error = INFINITY;
    if (!nan) compare_bits(p, 2, got + i, want + i);
  }
  EACH_SIZE(n) {
    uint16_t *a = room(p, n, 2), *b = room(p, n, 2);
    float *y = randoms(p, n, 1);
    fast(n, y, a), scalar(n, y, b);
    compare_bits(p, 2 * (size_t)(n + 1), a, b);
  }
}

static void row_f32_to_bf16(probe *p) {
  row_narrow16(p, p->fast->f32_to_bf16, p->scalar->f32_to_bf16, 0x7f80);
}

static void row_f32_to_f16(probe *p) {
  row_narrow16(p, p->fast->f32_to_f16, p->scalar->f32_to_f16, 0x7c00);
}

/* n values of random blocks whose scales (the first `scales` f16) are ordinary numbers. */
uint8_t *random_blocks(probe *p, int64_t n, lc_dtype dtype) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  int64_t blocks = n / info->block;
  uint8_t *q = room(p, blocks * info->bytes, 1);
  for (int64_t i = 0; i < blocks * info->bytes; i++) q[i] = (uint8_t)lc_rng_u32(&p->rng, p->next++);
  for (int64_t b = 0; b < blocks; b++)
    for (int s = 0; s < (dtype == LC_Q4_1 ? 2 : 1); s++) {
      uint16_t h = lc_f32_to_f16(0.1f * lc_rng_normal(&p->rng, p->next++));
      memcpy(q + b * info->bytes + 2 * s, &h, 2);
    }
  return q;
}

static void row_decode(probe *p, lc_dtype dtype, void (*fast)(int64_t, const void *, float *),
                       void (*scalar)(int64_t, const void *, float *)) {
  for (int64_t n = 32; n <= 320; n += 32) {
    uint8_t *q = random_blocks(p, n, dtype);
    float *a = zeros(p, n), *b = zeros(p, n);
    fast(n, q, a), scalar(n, q, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b);
  }
}

static void row_decode_q8_0(probe *p) {
  row_decode(p, LC_Q8_0, p->fast->decode_q8_0, p->scalar->decode_q8_0);
}

static void row_decode_q4_0(probe *p) {
  row_decode(p, LC_Q4_0, p->fast->decode_q4_0, p->scalar->decode_q4_0);
}

static void row_decode_q4_1(probe *p) {
  row_decode(p, LC_Q4_1, p->fast->decode_q4_1, p->scalar->decode_q4_1);
}

static void row_decode_bf16(probe *p) {
  static const lc_dtype types[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (int i = 0; i < 3; i++)
    for (int64_t n = 32; n <= 320; n += 32) {
      uint8_t *q = random_blocks(p, n, types[i]);
      uint16_t *a = room(p, n, 2), *b = room(p, n, 2);
      p->fast->decode_bf16(types[i], n, q, a), p->scalar->decode_bf16(types[i], n, q, b);
      compare_bits(p, 2 * (size_t)(n + 1), a, b);
    }
}

static void row_pick(probe *p) {
  static const lc_dtype types[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  enum { N = 320, PICKS = 1000 };
  int64_t at[PICKS];
  for (int i = 0; i < PICKS; i++) at[i] = i < N ? i : (int64_t)(lc_rng_u32(&p->rng, p->next++) % N);
  for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
    uint16_t *half = random_bf16(p, N);
    if (types[t] == LC_F16) p->scalar->f32_to_f16(N, randoms(p, N, 1), half);
    const void *src = types[t] == LC_F32 ? (void *)randoms(p, N, 1) : half;
    if (lc_dtype_get(types[t])->quantised) src = random_blocks(p, N, types[t]);
    float *a = zeros(p, PICKS), *b = zeros(p, PICKS);
    p->fast->pick(types[t], PICKS, src, at, a), p->scalar->pick(types[t], PICKS, src, at, b);
    compare_bits(p, sizeof(float) * (PICKS + 1), a, b);
    if (types[t] == LC_Q8_0) p->scalar->decode_q8_0(N, src, a), compare_bits(p, sizeof(float) * N, a, b);
    if (types[t] == LC_Q4_0) p->scalar->decode_q4_0(N, src, a), compare_bits(p, sizeof(float) * N, a, b);
    if (types[t] == LC_Q4_1) p->scalar->decode_q4_1(N, src, a), compare_bits(p, sizeof(float) * N, a, b);
  }
}

/* ---- vectors ---- */

static void row_dot(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = randoms(p, n, 1), got = p->fast->dot(n, a, b);
    double want = p->exact->dot(n, wide(p, n, a), wide(p, n, b));
    compare(p, 1, &got, &want);
  }
}

static void row_axpy(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1);
    double *want = wide(p, n, y);
    p->fast->axpy(n, 0.7f, x, y), p->exact->axpy(n, (double)0.7f, wide(p, n, x), want);
    compare(p, n + 1, y, want);
  }
}

/* Zeros of both signs, and the least number above them. */
static void sparse_pair(int64_t n, float *x, float *y) {
  for (int64_t i = 0; i < n; i++) {
    if (i % 3 == 0) x[i] = i % 2 ? -0.0f : 0.0f;
    if (i % 5 == 0) y[i] = -0.0f;
  }
  if (n > 7) x[7] = 1e-45f;
}

static void row_add_nonzero(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1), *a = zeros(p, n), *b = zeros(p, n);
    sparse_pair(n, x, y);
    p->fast->add_nonzero(n, 0.7f, x, y, a), p->scalar->add_nonzero(n, 0.7f, x, y, b);
    compare_bits(p, sizeof *a * (size_t)(n + 1), a, b);
  }
}

static void row_add_nonzero_bf16(probe *p) {
  EACH_SIZE(n) {
    float *x = randoms(p, n, 1), *y = randoms(p, n, 1);
    sparse_pair(n, x, y);
    uint16_t *h = room(p, n, 2), *a = room(p, n, 2), *b = room(p, n, 2);
    p->scalar->f32_to_bf16(n, y, h);
    p->fast->add_nonzero_bf16(n, 0.7f, x, h, a), p->scalar->add_nonzero_bf16(n, 0.7f, x, h, b);
    compare_bits(p, 2 * (size_t)(n + 1), a, b);
  }
}

static void row_add(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = randoms(p, n, 1), *got = zeros(p, n), *want = zeros(p, n);
    p->fast->add(n, a, b, got), p->scalar->add(n, a, b, want);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), got, want);
    p->fast->add(n, a, b, a);
    compare_bits(p, sizeof(float) * (size_t)n, a, want);
  }
}

static void row_scale(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1), *b = copy(p, n, a);
    p->fast->scale(n, 0.3f, a), p->scalar->scale(n, 0.3f, b);
    compare_bits(p, sizeof(float) * (size_t)(n + 1), a, b);
  }
}

static void row_copy_past(probe *p) {
  EACH_SIZE(n) for (int off = 0; off < 3; off++) {
    float *a = randoms(p, n, 1), *b = copy(p, n + off, randoms(p, n + off, 1)), *c = copy(p, n + off, b);
    p->fast->copy_past(n, a, b + off), p->scalar->copy_past(n, a, c + off);
    compare_bits(p, sizeof(float) * (size_t)(n + off + 1), b, c);
  }
}

/* Changes nothing; what was stored before it is there (what it orders shows between threads only). */
static void row_fence(probe *p) {
  float *a = randoms(p, 64, 1), *b = copy(p, 64, randoms(p, 64, 1));
  p->fast->copy_past(64, a, b), p->fast->fence(), p->scalar->fence();
  compare_bits(p, 64 * sizeof(float), a, b);
}

static void row_sum_squares(probe *p) {
  EACH_SIZE(n) {
    float *a = randoms(p, n, 1);
    double got = p->fast->sum_squares(n, a), want = p->exact->sum_squares(n, wide(p, n, a));
    p->error += (got - want) * (got - want) * 1e8,
        p->norm += want * want; /* in f64: held to 1e-4 of what f32 may */
  }
}

static void row_gemv(probe *p) {
  static const lc_dtype dtypes[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
    const lc_dtype_info *info = lc_dtype_get(dtypes[d]);
    for (int64_t m = 1; m <= 19; m += m < 9 ? 1 : 5) EACH_SIZE(n) {
        if (n % info->block || m * n > 9000) continue;
        size_t row_bytes = (size_t)(n / info->block * info->bytes) + (size_t)(4 * info->bytes);
        float *x = randoms(p, n, 1), *got = zeros(p, m), *want = zeros(p, m);
        uint8_t *W = room(p, (int64_t)row_bytes * m, 1);
        for (int64_t i = 0; i < m; i++) {
          uint8_t *row = W + (size_t)i * row_bytes;
          if (info->quantised)
            memcpy(row, random_blocks(p, n, dtypes[d]), (size_t)(n / info->block * info->bytes));
          for (int64_t c = 0; c < n && !info->quantised; c++) {
            float w = lc_rng_normal(&p->rng, p->next++);
            uint16_t h = dtypes[d] == LC_BF16 ? lc_f32_to_bf16(w) : lc_f32_to_f16(w);
            if (dtypes[d] == LC_F32)
              memcpy(row + 4 * c, &w, 4);
            else
              memcpy(row + 2 * c, &h, 2);
          }
        }
        p->fast->gemv(dtypes[d], m, n, W, row_bytes, x, got),
            p->scalar->gemv(dtypes[d], m, n, W, row_bytes, x, want);
        compare_f32(p, m + 1, got, want);
        for (int64_t i = 0; i < m; i++) { /* a row's sum does not depend on the rows that come with it */
          float alone = 0;
          p->fast->gemv(dtypes[d], 1, n, W + (size_t)i * row_bytes, row_bytes, x, &alone);
          if (memcmp(&alone, got + i, 4)) p->error = INFINITY;
        }
      }
  }
}

static void row_mix_rows(probe *p) {
  static const lc_dtype dtypes[] = {LC_F32, LC_BF16, LC_F16};
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
    for (int64_t m = 1; m <= 19; m += 3) EACH_SIZE(n) {
        if (n > LC_ATTN_MAX_D) continue;
        size_t unit = dtypes[d] == LC_F32 ? 4 : 2, row_bytes = (size_t)n * unit + 4 * unit;
        uint8_t *V = room(p, (int64_t)row_bytes * m, 1);
        float *w = randoms(p, m, 1), *got = zeros(p, n), *want = zeros(p, n);
        for (int64_t i = 0; i < m * n; i++) {
          float v = lc_rng_normal(&p->rng, p->next++);
          uint16_t h = dtypes[d] == LC_BF16 ? lc_f32_to_bf16(v) : lc_f32_to_f16(v);
          memcpy(V + (size_t)(i / n) * row_bytes + (size_t)(i % n) * unit,
                 dtypes[d] == LC_F32 ? (void *)&v : (void *)&h, unit);
        }
        p->fast->mix_rows(dtypes[d], m, n, V, row_bytes, w, got),
            p->scalar->mix_rows(dtypes[d], m, n, V, row_bytes, w, want);
        compare_f32(p, n + 1, got, want);
      }
}

/* Rows of B of zeros leave y's bits (negative zeros); any cut of the tile gives the same bits. */
static void row_add_low_rank(probe *p) {
  for (int64_t m = 1; m <= 21; m += 4)
    for (int64_t R = 1; R <= 37; R += 9) EACH_SIZE(n) {
        const int64_t ldb = R + 1, lda = n + 3, ldy = n + 2, half = n / 2, top = m / 2;
        float *A = randoms(p, R * lda, 1), *B = randoms(p, m * ldb, 1), *y = randoms(p, m * ldy, 1);
        memset(B, 0, sizeof(float) * (size_t)ldb);
        for (int64_t c = 0; c < n; c++) y[c] = -0.0f;
        float *got = copy(p, m * ldy, y), *want = copy(p, m * ldy, y), *cut = copy(p, m * ldy, y);
        p->fast->add_low_rank(m, n, R, 0.3f, B, ldb, A, lda, got, ldy);
        p->scalar->add_low_rank(m, n, R, 0.3f, B, ldb, A, lda, want, ldy);
        compare_f32(p, m * ldy, got, want);
        compare_bits(p, sizeof(float) * (size_t)n, got, y);
        for (int q = 0; q < 4; q++)
          p->fast->add_low_rank(q / 2 ? m - top : top, q % 2 ? n - half : half, R, 0.3f,
                                B + (q / 2 ? top * ldb : 0), ldb, A + (q % 2 ? half : 0), lda,
                                cut + (q / 2 ? top * ldy : 0) + (q % 2 ? half : 0), ldy);
        if (p->fast != p->scalar) compare_bits(p, sizeof(float) * (size_t)(m * ldy), got, cut);
      }
}

/* ---- the list ---- */

typedef struct {
  const char *name;
  size_t entry; /* where the function stands in the table: the test checks that no entry is forgotten */
  void (*run)(probe *);
  double tolerance; /* NMSE; 0: the same bits */
} row;

#define ROW(name, tolerance)                                                                                 \
  { #name, offsetof(lc_kernels, name), row_##name, tolerance }
static const row rows[] = {
    ROW(bf16_to_f32, 0),
    ROW(f32_to_bf16, 0),
    ROW(f16_to_f32, 0),
    ROW(f32_to_f16, 0),
    ROW(decode_q8_0, 0),
    ROW(decode_bf16, 0),
    ROW(pick, 0),
    ROW(decode_q4_0, 0),
    ROW(decode_q4_1, 0),
    ROW(dot, 1e-12),
    ROW(axpy, 1e-13),
    ROW(add_nonzero, 0),
    ROW(add_nonzero_bf16, 0),
    ROW(add, 0),
    ROW(scale, 0),
    ROW(copy_past, 0),
    ROW(fence, 0),
    ROW(sum_squares, 1e-13),
    ROW(gemv, 1e-12),
    ROW(mix_rows, 1e-12),
    ROW(add_low_rank, 1e-12),
    ROW(distances, 1e-12),
    ROW(distances_back, 1e-12),
    ROW(column_lse, 1e-13),
    ROW(softmax_add, 1e-13),
    ROW(softmax_add_back, 1e-12),
    ROW(times_kept, 1e-13),
    ROW(quantise_q8, 0),
    ROW(gemv_q8, 1e-12),
    ROW(pack_q8, 0),
    ROW(gemm_q8, 1e-12),
    ROW(rmsnorm, 1e-13),
    ROW(rmsnorm_back, 1e-13),
    ROW(layernorm, 1e-13),
    ROW(layernorm_back, 1e-13),
    ROW(rope, 1e-13),
    ROW(silu_mul, 1e-13),
    ROW(silu_mul_back, 1e-13),
    ROW(silu_mul_bf16, 0),
    ROW(silu_mul_back_bf16, 0),
    ROW(gelu_tanh, 1e-13),
    ROW(gelu_tanh_back, 1e-12),
    ROW(gelu_erf, 1e-13),
    ROW(gelu_erf_back, 1e-13),
    ROW(cross_entropy, 1e-12),
    ROW(cross_entropy_bf16, 1e-5),
    ROW(softmax, 1e-12),
    ROW(attention, 1e-12),
    ROW(attention_back, 1e-11),
    ROW(attention_pack, 5e-6),
    ROW(attention_bf16, 5e-6), /* probabilities are rounded to bf16 */
    ROW(attention_back_bf16, 5e-6),
    ROW(sampled, 1e-12),
    ROW(sampled_bf16, 1e-12),
    ROW(transpose_f32, 0),
    ROW(transpose_bf16, 0),
    ROW(sparse_gemv, 1e-12),
    ROW(normal, 0),
    ROW(dropout, 0),
    ROW(axpy_band, 0),
    ROW(adamw, 1e-13),
};

/* One row on one table. */
static bool row_is_right(const lc_kernels *fast, size_t i, const char *label) {
  static probe p;
  p = (probe){.fast = fast,
              .scalar = lc_kernels_for(LC_ISA_SCALAR),
              .exact = lc_kernels_f64_get(),
              .rng = {.seed = 11, .tensor = (uint32_t)i, .purpose = LC_RNG_TEST}};
  rows[i].run(&p);
  for (int b = 0; b < p.n_blocks; b++) free(p.blocks[b]);
  double nmse = p.error / p.norm;
  bool ok = p.norm > 0 && nmse <= rows[i].tolerance;
  printf("%-12s %-16s NMSE %.1e%s\n", label, rows[i].name, nmse, ok ? "" : "   TOO MUCH");
  return ok;
}

static void test_every_kernel(void **state) {
  (void)state;
  int failures = 0;
  for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
    assert_non_null(lc_kernels_for(isa));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
      failures += !row_is_right(lc_kernels_for(isa), i, lc_isa_name(isa));
  }
  assert_int_equal(failures, 0);
}

/* What the tables take on processors that lack what this one has. */
static void test_lesser_processors(void **state) {
  (void)state;
#ifdef __x86_64__
  size_t i = 0;
  while (rows[i].run != row_gemm_q8) i++;
  if (lc_isa_detect() >= LC_ISA_AVX2) {
    lc_kernels t = *lc_kernels_for(LC_ISA_AVX2);
    t.gemm_q8 = lc_avx2_gemm_q8;
    assert_true(row_is_right(&t, i, "avx2, no vnni"));
  }
  if (lc_isa_detect() >= LC_ISA_AVX512) {
    lc_kernels t = *lc_kernels_for(LC_ISA_AVX512);
    t.gemm_q8 = lc_avx512_gemm_q8;
    assert_true(row_is_right(&t, i, "512, no vnni"));
  }
#endif
}

/* The table is pointers behind its isa: as many rows as pointers, each pointer with its row and not NULL on
 * any instruction set. */
static void test_no_entry_is_forgotten(void **state) {
  (void)state;
  for (size_t at = offsetof(lc_kernels, bf16_to_f32); at < sizeof(lc_kernels); at += sizeof(void (*)(void))) {
    size_t i = 0;
    while (i < sizeof rows / sizeof *rows && rows[i].entry != at) i++;
    assert_true(i < sizeof rows / sizeof *rows);
    for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
      void *entry;
      memcpy(&entry, (const char *)lc_kernels_for(isa) + at, sizeof entry);
      assert_non_null(entry);
    }
  }
}

/* NMSE is blind to small values. silu(g) goes through exp and keeps its digits over the whole range: each
 * value within 4 units of the last place. */
static void test_exp_keeps_its_digits(void **state) {
  (void)state;
  enum { MANY = 20000 };
  static float gate[MANY], one[MANY], h[MANY];
  static double gate64[MANY], one64[MANY], want[MANY];
  for (int i = 0; i < MANY; i++) {
    gate[i] = -85.0f + 175.0f * (float)i / MANY, one[i] = 1;
    gate64[i] = (double)gate[i], one64[i] = 1;
  }
  lc_kernels_f64_get()->silu_mul(MANY, gate64, one64, want);
  for (lc_isa isa = LC_ISA_SCALAR; isa <= lc_isa_detect(); isa++) {
    double worst = 0;
    lc_kernels_for(isa)->silu_mul(MANY, gate, one, h);
    for (int i = 0; i < MANY; i++)
      if (gate[i] > -79 && fabs(want[i]) > 0)
        worst = fmax(worst, fabs((double)h[i] - want[i]) / fabs(want[i]));
    printf("%-12s silu: worst relative error %.1e\n", lc_isa_name(isa), worst);
    assert_true(worst < 4 * 0x1p-23);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_entry_is_forgotten), cmocka_unit_test(test_every_kernel),
      cmocka_unit_test(test_lesser_processors), cmocka_unit_test(test_exp_keeps_its_digits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
