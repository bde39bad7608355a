/* What the tests of GGUF share: a context, a directory that each test finds empty, bytes of noise. */
#ifndef LC_GGUF_TEST_H
#define LC_GGUF_TEST_H
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "io/io.h"
#include "support/io_support.h"

static lc_ctx *ctx;
static uint8_t noise[8192];

static int setup(void **state) {
  t_dir();
  uint32_t r = 88675123u;
  for (size_t i = 0; i < sizeof noise; i++) noise[i] = (uint8_t)t_random(&r);
  return lc_ctx_new(1, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  t_dir_remove();
  return 0;
}
static int each_clean(void **state) {
  t_dir_remove();
  t_dir();
  return 0;
}

static void assert_says(const char *part) {
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

static size_t bytes_of(const lc_tensor *t) {
  size_t bytes;
  assert_true(lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes));
  return bytes;
}
#define T(f) cmocka_unit_test_setup(f, each_clean)
#endif
