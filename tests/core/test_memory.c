/* Counted memory: zeroed, aligned, counted by category, with a peak; scratch that only grows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "core/core.h"

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(4, &ctx, NULL);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static size_t in_use(void) {
  size_t sum = 0;
  for (int c = 0; c < LC_MEM_COUNT; c++) sum += lc_mem_bytes(ctx, (lc_mem)c);
  return sum;
}

static void test_alloc(void **state) {
  size_t sizes[] = {1, 63, 64, 65, 1000, 1 << 20};
  uint64_t calls = lc_mem_allocations(ctx);
  for (int i = 0; i < 6; i++) {
    uint8_t *p = lc_alloc(ctx, LC_MEM_PLAN, sizes[i]);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(p[j], 0);
    assert_int_equal(lc_mem_bytes(ctx, LC_MEM_PLAN), sizes[i]);
    memset(p, 0xff, sizes[i]);
    lc_free(ctx, p);
    assert_int_equal(lc_mem_bytes(ctx, LC_MEM_PLAN), 0);
  }
  assert_int_equal(lc_mem_allocations(ctx), calls + 6);
  void *a = lc_alloc(ctx, LC_MEM_OTHER, 0), *b = lc_alloc(ctx, LC_MEM_OTHER, 0);
  assert_true(a && b && a != b);
  lc_free(ctx, a);
  lc_free(ctx, b);
  lc_free(ctx, NULL);
}

static void test_categories_and_peak(void **state) {
  size_t before = in_use();
  void *a = lc_alloc(ctx, LC_MEM_TRAINABLE, 1000), *b = lc_alloc_n(ctx, LC_MEM_GRAD, 100, 4);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_TRAINABLE), 1000);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_GRAD), 400);
  size_t peak = lc_mem_peak(ctx);
  assert_true(peak >= before + 1400);
  void *big = lc_alloc(ctx, LC_MEM_KV, peak);
  assert_true(lc_mem_peak(ctx) == in_use() && lc_mem_peak(ctx) >= peak + 1400);
  peak = lc_mem_peak(ctx);
  lc_free(ctx, big);
  lc_free(ctx, a);
  lc_free(ctx, b);
  assert_int_equal(in_use(), before);
  assert_int_equal(lc_mem_peak(ctx), peak);
}

static void test_growing(void **state) {
  uint8_t *p = lc_realloc(ctx, LC_MEM_OTHER, NULL, 100);
  memset(p, 7, 100);
  p = lc_realloc(ctx, LC_MEM_OTHER, p, 300);
  for (int i = 0; i < 300; i++) assert_int_equal(p[i], i < 100 ? 7 : 0);
  assert_null(lc_realloc(ctx, LC_MEM_OTHER, p, SIZE_MAX - 10)); /* the old block stays */
  assert_non_null(strstr(lc_error(ctx), "memory"));
  for (int i = 0; i < 100; i++) assert_int_equal(p[i], 7);
  p = lc_realloc(ctx, LC_MEM_OTHER, p, 10);
  for (int i = 0; i < 10; i++) assert_int_equal(p[i], 7);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_OTHER), 10);
  lc_free(ctx, p);
}

static void test_refused(void **state) {
  size_t before = in_use();
  assert_null(lc_alloc(ctx, LC_MEM_OTHER, SIZE_MAX));
  assert_null(lc_alloc(ctx, LC_MEM_OTHER, SIZE_MAX / 2));
  lc_error_clear(ctx);
  assert_null(lc_alloc_n(ctx, LC_MEM_OTHER, SIZE_MAX / 4, 8));
  assert_non_null(strstr(lc_error(ctx), "items of 8 bytes"));
  assert_int_equal(in_use(), before);
}

static void test_strings(void **state) {
  char *a = lc_strdup(ctx, "lacuna"), *b = lc_format(ctx, "%s-%04d", a, 12), *c = lc_format(ctx, "%s", "");
  assert_string_equal(a, "lacuna");
  assert_string_equal(b, "lacuna-0012");
  assert_string_equal(c, "");
  lc_free(ctx, a);
  lc_free(ctx, b);
  lc_free(ctx, c);
}

static void test_scratch(void **state) {
  char *a = lc_scratch(ctx, 0, 0, 100), *b = lc_scratch(ctx, 0, 1, 100), *c = lc_scratch(ctx, 1, 0, 100);
  assert_true(a && b && c && a != b && a != c && b != c);
  uint64_t calls = lc_mem_allocations(ctx);
  assert_ptr_equal(lc_scratch(ctx, 0, 0, 50), a);
  assert_ptr_equal(lc_scratch(ctx, 0, 0, 100), a);
  assert_int_equal(lc_mem_allocations(ctx), calls);
  char *d = lc_scratch(ctx, 0, 0, 5000);
  memset(d, 1, 5000);
  assert_true(lc_mem_bytes(ctx, LC_MEM_SCRATCH) >= 5200);
  assert_null(lc_scratch(ctx, 0, 0, SIZE_MAX)); /* what was there stays usable */
  assert_ptr_equal(lc_scratch(ctx, 0, 0, 5000), d);
}

/* Counters stay exact when workers allocate at once. */
static lc_status churn(void *arg, int64_t chunk, int worker) {
  for (int i = 0; i < 200; i++) {
    void *p = lc_alloc(ctx, LC_MEM_FORM, (size_t)(chunk * 13 + i));
    if (!p) return LC_FAILED;
    lc_free(ctx, p);
  }
  return LC_OK;
}

static void test_workers(void **state) {
  uint64_t calls = lc_mem_allocations(ctx);
  assert_int_equal(lc_parallel(ctx, 64, churn, NULL), LC_OK);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_FORM), 0);
  assert_int_equal(lc_mem_allocations(ctx), calls + 64 * 200);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_alloc),   cmocka_unit_test(test_categories_and_peak),
      cmocka_unit_test(test_growing), cmocka_unit_test(test_refused),
      cmocka_unit_test(test_strings), cmocka_unit_test(test_scratch),
      cmocka_unit_test(test_workers)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
