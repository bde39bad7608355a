/* Numbers in 16 bits, every one of them, and rounding between neighbours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "core/core.h"

static float f16_value(uint16_t h) { /* by arithmetic */
  int e = h >> 10 & 31, m = h & 1023;
  float v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24);
  return h & 0x8000 ? -v : v;
}

static uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static void test_f16_all(void **state) {
  for (uint32_t h = 0; h < 65536; h++) {
    float v = lc_f16_to_f32((uint16_t)h), want = f16_value((uint16_t)h);
    if (isnan(want)) {
      assert_true(isnan(v) && isnan(lc_f16_to_f32(lc_f32_to_f16(v))));
      continue;
    }
    assert_int_equal(bits(v), bits(want));
    assert_int_equal(lc_f32_to_f16(v), h);
  }
}

/* Between two neighbours: below the middle down, above it up, in the middle to the even one. */
static void test_f16_rounding(void **state) {
  for (uint32_t h = 0; h < 0x7bff; h++) {
    float a = f16_value((uint16_t)h), b = f16_value((uint16_t)(h + 1)), middle = (a + b) / 2;
    uint32_t even = h & 1 ? h + 1 : h;
    assert_int_equal(lc_f32_to_f16(middle), even);
    assert_int_equal(lc_f32_to_f16(-middle), even | 0x8000);
    assert_int_equal(lc_f32_to_f16(nextafterf(middle, 0)), h);
    assert_int_equal(lc_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
  }
  assert_int_equal(lc_f32_to_f16(65519.996f), 0x7bff);
  assert_int_equal(lc_f32_to_f16(65520.0f), 0x7c00);
  assert_int_equal(lc_f32_to_f16(-1e30f), 0xfc00);
  assert_int_equal(lc_f32_to_f16(1e-30f), 0);
  assert_int_equal(lc_f32_to_f16(-0.0f), 0x8000);
}

static void test_bf16(void **state) {
  for (uint32_t h = 0; h < 65536; h++) {
    float v = lc_bf16_to_f32((uint16_t)h);
    if (isnan(v))
      assert_true(isnan(lc_bf16_to_f32(lc_f32_to_bf16(v))));
    else
      assert_int_equal(lc_f32_to_bf16(v), h);
  }
  for (uint32_t h = 0x0080; h < 0x7f7f; h++) { /* the same, by bits: half of the dropped 16 */
    float middle, low, high;
    uint32_t u = h << 16 | 0x8000, d = u - 1, e = u + 1;
    memcpy(&middle, &u, 4);
    memcpy(&low, &d, 4);
    memcpy(&high, &e, 4);
    assert_int_equal(lc_f32_to_bf16(middle), h & 1 ? h + 1 : h);
    assert_int_equal(lc_f32_to_bf16(low), h);
    assert_int_equal(lc_f32_to_bf16(high), h + 1);
  }
  uint32_t quiet = 0x7f800001; /* its payload lies in the dropped bits */
  float f;
  memcpy(&f, &quiet, 4);
  assert_true(isnan(lc_bf16_to_f32(lc_f32_to_bf16(f))));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_f16_all), cmocka_unit_test(test_f16_rounding),
                                     cmocka_unit_test(test_bf16)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
