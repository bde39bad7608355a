/* The ceilings are measured, plausible, and say 0 where an instruction set has no such products. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "kernels/ceilings.h"

static lc_ceilings measure(const char *isa) {
  lc_ctx *ctx;
  lc_ceilings c;
  if (isa) setenv("LACUNA_ISA", isa, 1);
  assert_int_equal(lc_ctx_new(0, &ctx, NULL), LC_OK);
  assert_int_equal(lc_ceilings_measure(ctx, 0.01, &c), LC_OK);
  lc_ctx_free(ctx);
  unsetenv("LACUNA_ISA");
  printf("%s: f32 %.0f, bf16 %.0f, int8 %.0f, amx %.0f/%.0f Gop/s; read %.1f..%.1f GB/s, %d threads\n",
         isa ? isa : "best", c.f32 / 1e9, c.bf16 / 1e9, c.int8 / 1e9, c.amx_bf16 / 1e9, c.amx_int8 / 1e9,
         c.read[1] / 1e9, c.read[c.threads] / 1e9, c.threads);
  return c;
}

static void test_measured(void **state) {
  (void)state;
  lc_ceilings c = measure(NULL);
  lc_isa isa = lc_isa_detect();
  assert_true(c.f32 > 1e8 && c.read[1] > 1e7 && c.read[c.threads] > 1e7);
  assert_int_equal(c.bf16 > 0, isa >= LC_ISA_AVX512_BF16);
  assert_int_equal(c.amx_bf16 > 0, isa >= LC_ISA_AMX);
  c = measure("scalar");
  assert_true(c.f32 > 1e8 && c.bf16 == 0 && c.int8 == 0 && c.amx_bf16 == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_measured)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
