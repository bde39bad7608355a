/* The dtype table: names and sizes agree with themselves, and byte counts refuse what does not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "tensor/dtype.h"

static void test_table(void **state) {
  for (int d = LC_NONE + 1; d < LC_DTYPE_COUNT; d++) {
    const lc_dtype_info *i = lc_dtype_get((lc_dtype)d);
    assert_int_equal(lc_dtype_by_name(i->name), d);
    if (i->safetensors[0]) assert_int_equal(lc_dtype_by_safetensors(i->safetensors), d);
    if (i->ggml >= 0) assert_int_equal(lc_dtype_by_ggml(i->ggml), d);
    assert_true(i->bytes > 0 && i->block > 0);
    assert_int_equal(i->quantised, i->block > 1);
  }
  assert_int_equal(lc_dtype_by_name("BF16"), LC_BF16);
  assert_int_equal(lc_dtype_by_name("Q8_0"), LC_Q8_0);
  const char *unknown[] = {"", "none", "float", "q5_1"};
  for (int i = 0; i < 4; i++) assert_int_equal(lc_dtype_by_name(unknown[i]), LC_NONE);
  assert_int_equal(lc_dtype_by_safetensors(""), LC_NONE);
  assert_int_equal(lc_dtype_by_safetensors("f32"), LC_NONE); /* the format is upper case */
  assert_int_equal(lc_dtype_by_ggml(-1), LC_NONE);
  assert_int_equal(lc_dtype_by_ggml(6), LC_NONE);
}

static void test_bytes(void **state) {
  const struct {
    lc_dtype d;
    int64_t n;
    size_t bytes;
  } good[] = {
      {LC_F32, 7, 28}, {LC_BF16, 7, 14},  {LC_F64, 3, 24},   {LC_U8, 5, 5},
      {LC_F32, 0, 0},  {LC_Q4_0, 64, 36}, {LC_Q4_1, 32, 20}, {LC_Q8_0, 96, 102},
  };
  size_t bytes;
  for (int i = 0; i < 8; i++) {
    assert_true(lc_dtype_bytes(good[i].d, good[i].n, &bytes));
    assert_int_equal(bytes, good[i].bytes);
  }
  assert_false(lc_dtype_bytes(LC_F32, -1, &bytes));
  assert_false(lc_dtype_bytes(LC_F32, INT64_MAX, &bytes));
  assert_false(lc_dtype_bytes(LC_Q8_0, 33, &bytes));
  assert_false(lc_dtype_bytes(LC_NONE, 4, &bytes));
}

static void test_count(void **state) {
  lc_tensor t = {.ndim = 3, .shape = {2, 3, 4}};
  assert_int_equal(lc_tensor_count(&t), 24);
  t.ndim = 0;
  assert_int_equal(lc_tensor_count(&t), 1);
  t = (lc_tensor){.ndim = 2, .shape = {(int64_t)1 << 32, (int64_t)1 << 31}};
  assert_int_equal(lc_tensor_count(&t), -1);
  t = (lc_tensor){.ndim = 2, .shape = {-1, 3}};
  assert_int_equal(lc_tensor_count(&t), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_bytes),
                                     cmocka_unit_test(test_count)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
