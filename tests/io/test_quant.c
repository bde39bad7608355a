/* Quantised rows: the bytes that ggml's reference quantisers give, bounds on the error, stability of
 * encode∘decode∘encode, what cannot be expressed. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "io/io.h"
#include "support/io_support.h"

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static void assert_says(const char *part) {
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

/* Two blocks, the second four times as large; what ggml 0.25's quantize_row_*_ref give for them. */
static void bytes_of_the_reference(void **state) {
  static const uint8_t q4_0[] = {0xe0, 0xad, 0xde, 0x68, 0x02, 0xac, 0x46, 0xe2, 0x8a, 0x28, 0xcd, 0x57,
                                 0xf1, 0x9b, 0x35, 0xdf, 0x79, 0x12, 0x00, 0xb6, 0x9b, 0x35, 0xdf, 0x79,
                                 0x12, 0xbc, 0x56, 0xf0, 0x8a, 0x24, 0xce, 0x68, 0xf2, 0xac, 0x45, 0xef};
  static const uint8_t q4_1[] = {0x22, 0x2e, 0xa0, 0xb9, 0x31, 0x97, 0xfd, 0x54, 0xba, 0x1e,
                                 0x86, 0xe7, 0x42, 0xa8, 0x0e, 0x64, 0xca, 0x21, 0x87, 0xed,
                                 0x66, 0x36, 0x00, 0xc2, 0x65, 0xcb, 0x31, 0x97, 0xed, 0x53,
                                 0xb9, 0x1f, 0x76, 0xdb, 0x42, 0x98, 0x0e, 0x64, 0xca, 0x21};
  static const uint8_t q8_0[] = {
      0xec, 0x1d, 0x9c, 0x00, 0x64, 0xc2, 0x26, 0x67, 0xe8, 0x00, 0xaa, 0x0e, 0x71, 0xcf, 0x33, 0x91, 0xf5,
      0x59, 0xb7, 0x1b, 0x7f, 0xdd, 0x41, 0x9f, 0x03, 0x67, 0xc5, 0x29, 0x86, 0xea, 0x4e, 0xac, 0x10, 0x74,
      0x0c, 0x26, 0xd3, 0x35, 0x96, 0xf8, 0x5a, 0xbb, 0x1d, 0x7f, 0xe0, 0x42, 0xa3, 0x05, 0x67, 0xc8, 0x2a,
      0x8c, 0xed, 0x4f, 0xb1, 0x13, 0x74, 0xd6, 0x38, 0x99, 0xfb, 0x5d, 0xbe, 0x20, 0x81, 0xe3, 0x45, 0xa6};
  float x[64];
  uint8_t y[80];
  for (int j = 0; j < 64; j++) x[j] = (float)((j * 37 + 11) % 97 - 48) / 64.0f * (float)(1 + j / 32 * 3);
  x[5] = 0.59375f;
  x[7] = -0.0f;
  assert_int_equal(lc_encode_row(ctx, LC_Q4_0, x, 64, y), LC_OK);
  assert_memory_equal(y, q4_0, sizeof q4_0);
  assert_int_equal(lc_encode_row(ctx, LC_Q4_1, x, 64, y), LC_OK);
  assert_memory_equal(y, q4_1, sizeof q4_1);
  assert_int_equal(lc_encode_row(ctx, LC_Q8_0, x, 64, y), LC_OK);
  assert_memory_equal(y, q8_0, sizeof q8_0);

  /* and back, by hand: q4_1's first block has d = 0x2e22 = 0.09581, m = 0xb9a0 = −0.703125; its first byte
   * holds codes 1 and 3 */
  const float d = lc_f16_to_f32(0x2e22);
  float z[64];
  assert_int_equal(lc_decode_row(ctx, LC_Q4_1, q4_1, 64, z), LC_OK);
  assert_true(z[0] == 1.0f * d - 0.703125f && z[16] == 3.0f * d - 0.703125f);
  assert_int_equal(lc_decode_row(ctx, LC_Q4_0, q4_0, 64, z), LC_OK); /* d = 0xade0, codes 14 and 13 */
  assert_true(z[0] == 6.0f * lc_f16_to_f32(0xade0) && z[16] == 5.0f * lc_f16_to_f32(0xade0));
  assert_int_equal(lc_decode_row(ctx, LC_Q8_0, q8_0, 64, z), LC_OK);
  assert_true(z[0] == -100.0f * lc_f16_to_f32(0x1dec) && z[31] == 116.0f * lc_f16_to_f32(0x1dec));
}

enum { N = 32 * 2000 };

static void fill(float *x, int kind) {
  lc_rng r = {.seed = 7, .tensor = (uint32_t)kind, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&r, 0, N, x);
  for (int i = 0; i < N; i++) {
    if (kind == 1) x[i] = roundf(x[i] * 8) / 8;           /* ties */
    if (kind == 2) x[i] = ldexpf(x[i], i / 32 % 24 - 12); /* blocks of many sizes */
    if (kind == 3) x[i] = i / 32 % 3 ? 0.0f : 0.25f;      /* constant blocks */
    if (kind == 4) x[i] += 3;
  }
}

/* What f16 rounds off x: half a unit in its last place. */
static float f16_error(float x) {
  return fmaxf(fabsf(x) / 2048, ldexpf(1, -25));
}

/* |x − decode(encode(x))| is at most half a step, and what f16 rounds off the scale, times the code, and off
 * the minimum. For q4_0 it is a whole step: the end of the sign that is not the largest's is cut at 7 steps.
 */
static void error_bounds(void **state) {
  float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
  uint8_t *q = malloc(N * 2);
  for (int kind = 0; kind < 5; kind++) {
    fill(x, kind);
    for (int b = 0; b < N; b += 32) {
      float least = x[b], most = x[b], large = 0;
      for (int i = b; i < b + 32; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
        large = fmaxf(large, fabsf(x[i]));
      }
      const float d8 = large / 127, d4 = large / 8, d41 = (most - least) / 15;
      const struct {
        lc_dtype dtype;
        float bound;
      } row[] = {
          {LC_Q8_0, d8 / 2 + 127 * f16_error(d8)},
          {LC_Q4_0, d4 + 8 * f16_error(d4)},
          {LC_Q4_1, d41 / 2 + 15 * f16_error(d41) + f16_error(least)},
      };
      for (int k = 0; k < 3; k++) {
        assert_int_equal(lc_encode_row(ctx, row[k].dtype, x + b, 32, q), LC_OK);
        assert_int_equal(lc_decode_row(ctx, row[k].dtype, q, 32, y), LC_OK);
        for (int i = 0; i < 32; i++)
          if (!(fabsf(y[i] - x[b + i]) <= row[k].bound * 1.0001f))
            fail_msg("%s: %g became %g, further than %g", lc_dtype_get(row[k].dtype)->name, (double)x[b + i],
                     (double)y[i], (double)row[k].bound);
      }
    }
  }
  free(x);
  free(y);
  free(q);
}

static void stable(void **state) {
  static const lc_dtype dtype[] = {LC_F32, LC_F16, LC_BF16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
  uint8_t *a = malloc(N * 4), *b = malloc(N * 4);
  for (int kind = 0; kind < 5; kind++)
    for (size_t k = 0; k < sizeof dtype / sizeof *dtype; k++) {
      size_t bytes;
      assert_true(lc_dtype_bytes(dtype[k], N, &bytes));
      fill(x, kind);
      assert_int_equal(lc_encode_row(ctx, dtype[k], x, N, a), LC_OK);
      assert_int_equal(lc_decode_row(ctx, dtype[k], a, N, y), LC_OK);
      assert_int_equal(lc_encode_row(ctx, dtype[k], y, N, b), LC_OK);
      if (memcmp(a, b, bytes))
        fail_msg("%s, kind %d: encoding twice differs", lc_dtype_get(dtype[k])->name, kind);
    }
  free(x);
  free(y);
  free(a);
  free(b);
}

static void plain_types(void **state) {
  const double f64[] = {1.5, -2.25, 1e10};
  const int32_t i32[] = {-3, 0, 16777216};
  const int64_t i64[] = {-3, 0, (int64_t)1 << 40};
  const uint8_t u8[] = {0, 1, 255};
  float y[3];
  assert_int_equal(lc_decode_row(ctx, LC_F64, f64, 3, y), LC_OK);
  assert_true(y[0] == 1.5f && y[1] == -2.25f && y[2] == 1e10f);
  assert_int_equal(lc_decode_row(ctx, LC_I32, i32, 3, y), LC_OK);
  assert_true(y[0] == -3.0f && y[1] == 0 && y[2] == 16777216.0f);
  assert_int_equal(lc_decode_row(ctx, LC_I64, i64, 3, y), LC_OK);
  assert_true(y[0] == -3.0f && y[1] == 0 && y[2] == 1099511627776.0f);
  assert_int_equal(lc_decode_row(ctx, LC_U8, u8, 3, y), LC_OK);
  assert_true(y[0] == 0 && y[1] == 1.0f && y[2] == 255.0f);

  /* bf16 to nearest even: 1 + 2^-8 lies between 1 and 1 + 2^-7, and 1 is even; 1 + 3·2^-8 goes up */
  const float x[] = {1.00390625f, 1.01171875f, 1.00390637f};
  uint16_t h[3];
  assert_int_equal(lc_encode_row(ctx, LC_BF16, x, 3, h), LC_OK);
  assert_int_equal(h[0], 0x3f80);
  assert_int_equal(h[1], 0x3f82);
  assert_int_equal(h[2], 0x3f81);
  /* f16: 2049 and 2051 lie between even numbers */
  const float z[] = {2049.0f, 2051.0f, 65504.0f};
  assert_int_equal(lc_encode_row(ctx, LC_F16, z, 3, h), LC_OK);
  assert_int_equal(h[0], 0x6800);
  assert_int_equal(h[1], 0x6802);
  assert_int_equal(h[2], 0x7bff);
}

static void refused(void **state) {
  float x[64] = {0}, y[64];
  uint8_t q[128];
  static const lc_dtype dtype[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (int k = 0; k < 3; k++) {
    x[40] = NAN;
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 64, q), LC_FAILED);
    assert_says("element 40 is nan");
    x[40] = -INFINITY;
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 64, q), LC_FAILED);
    assert_says("element 40 is -inf");
    x[40] = 3e38f;
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 64, q), LC_FAILED);
    assert_says("elements 32 to 63 are too large for the scale of q");
    x[33] = -3e38f; /* max − min overflows */
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 64, q), LC_FAILED);
    x[33] = 0;
    x[40] = 1e-41f; /* 1/d overflows: all zero */
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 64, q), LC_OK);
    assert_int_equal(lc_decode_row(ctx, dtype[k], q, 64, y), LC_OK);
    for (int i = 0; i < 64; i++) assert_true(y[i] == 0);
    x[40] = 0;
    assert_int_equal(lc_encode_row(ctx, dtype[k], x, 33, q), LC_FAILED);
    assert_says("33 elements are not whole q");
    assert_int_equal(lc_decode_row(ctx, dtype[k], q, 31, y), LC_FAILED);
  }
  assert_int_equal(lc_encode_row(ctx, LC_I32, x, 32, q), LC_FAILED);
  assert_says("cannot be encoded as i32");
  assert_int_equal(lc_encode_row(ctx, LC_NONE, x, 32, q), LC_FAILED);
  assert_int_equal(lc_decode_row(ctx, LC_NONE, q, 32, y), LC_FAILED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bytes_of_the_reference),
      cmocka_unit_test(error_bounds),
      cmocka_unit_test(stable),
      cmocka_unit_test(plain_types),
      cmocka_unit_test(refused),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
