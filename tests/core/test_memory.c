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
  size_t peak = lc_mem_peak(ctx), now = in_use();
  assert_non_null(lc_scratch(ctx, 0, 0, peak - now + 5000)); /* never two blocks at once */
  assert_int_equal(lc_mem_peak(ctx), peak);
  assert_null(lc_scratch(ctx, 0, 0, SIZE_MAX)); /* and usable after a refusal */
  memset(lc_scratch(ctx, 0, 0, 5000), 1, 5000);
}

/* What repeats finds its own blocks again: nothing comes from the system the second time. */
static void test_kept(void **state) {
  const size_t sizes[] = {100, 5000, 300, 70000};
  size_t before = in_use();
  uint64_t calls = 0;
  for (int round = 0; round < 4; round++) {
    void *p[4];
    lc_mem_keep(ctx, true);
    for (int i = 0; i < 4; i++) {
      p[i] = lc_alloc(ctx, LC_MEM_KV, sizes[i]);
      for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(((char *)p[i])[j], 0); /* zeroed each time */
      memset(p[i], 0xee, sizes[i]);
    }
    assert_int_equal(lc_mem_bytes(ctx, LC_MEM_KV), 100 + 5000 + 300 + 70000);
    for (int i = 0; i < 4; i++) lc_free(ctx, p[i]);
    assert_int_equal(lc_mem_bytes(ctx, LC_MEM_KV), 0);
    assert_true(in_use() >= before + 75400); /* kept is counted */
    lc_mem_keep(ctx, false);
    if (round) assert_int_equal(lc_mem_allocations(ctx), calls);
    calls = lc_mem_allocations(ctx);
  }
  void *p = lc_alloc(ctx, LC_MEM_KV, 5000); /* off: from the system */
  assert_int_equal(lc_mem_allocations(ctx), calls + 1);
  lc_free(ctx, p);
  lc_mem_drop(ctx);
  assert_int_equal(in_use(), before);
}

static void test_scratch_level(void **state) {
  lc_ctx *own;
  assert_int_equal(lc_ctx_new(3, &own, NULL), LC_OK);
  assert_non_null(lc_scratch(own, 1, 2, 4000));
  assert_non_null(lc_scratch(own, 2, 2, 3000));
  assert_non_null(lc_scratch(own, 0, 5, 70));
  assert_int_equal(lc_scratch_level(own), LC_OK);
  assert_int_equal(lc_mem_bytes(own, LC_MEM_SCRATCH), 3 * 4000 + 3 * 70);
  uint64_t calls = lc_mem_allocations(own);
  for (int w = 0; w < 3; w++) assert_true(lc_scratch(own, w, 2, 4000) && lc_scratch(own, w, 5, 70));
  assert_int_equal(lc_mem_allocations(own), calls);
  lc_ctx_free(own);
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
      cmocka_unit_test(test_alloc),        cmocka_unit_test(test_categories_and_peak),
      cmocka_unit_test(test_growing),      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_strings),      cmocka_unit_test(test_scratch),
      cmocka_unit_test(test_workers),      cmocka_unit_test(test_kept),
      cmocka_unit_test(test_scratch_level)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
