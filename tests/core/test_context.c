/* The context: threads, the instruction set, error sentences, the log, the request to stop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"

static void test_threads(void **state) {
  char why[256];
  lc_ctx *ctx;
  for (int n = 1; n <= 5; n += 2) {
    assert_int_equal(lc_ctx_new(n, &ctx, why), LC_OK);
    assert_int_equal(lc_threads(ctx), n);
    lc_ctx_free(ctx);
  }
  assert_int_equal(lc_ctx_new(0, &ctx, why), LC_OK);
  assert_true(lc_threads(ctx) >= 1);
  lc_ctx_free(ctx);
  assert_int_equal(lc_ctx_new(-1, &ctx, why), LC_USAGE);
  assert_null(ctx);
  assert_non_null(strstr(why, "-1 threads"));
  assert_int_equal(lc_ctx_new(1000000, &ctx, NULL), LC_USAGE);
}

static void test_isa(void **state) {
  char why[256];
  lc_ctx *ctx;
  lc_isa best = lc_isa_detect();
  unsetenv("LACUNA_ISA");
  assert_int_equal(lc_ctx_new(1, &ctx, why), LC_OK);
  assert_int_equal(lc_isa_of(ctx), best);
  lc_ctx_free(ctx);
  for (int isa = 0; isa < LC_ISA_COUNT; isa++) {
    setenv("LACUNA_ISA", lc_isa_name((lc_isa)isa), 1);
    lc_status st = lc_ctx_new(1, &ctx, why);
    if (isa <= (int)best) {
      assert_int_equal(st, LC_OK);
      assert_int_equal(lc_isa_of(ctx), isa);
      lc_ctx_free(ctx);
    } else { /* what the machine lacks is refused, not replaced */
      assert_int_equal(st, LC_USAGE);
      assert_non_null(strstr(why, lc_isa_name(best)));
    }
  }
  setenv("LACUNA_ISA", "sse9", 1);
  assert_int_equal(lc_ctx_new(1, &ctx, why), LC_USAGE);
  assert_non_null(strstr(why, "sse9"));
  unsetenv("LACUNA_ISA");
}

static void test_errors(void **state) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  assert_string_equal(lc_error(ctx), "");
  assert_int_equal(lc_fail(ctx, "%s: tensor '%s': %d found", "f", "w", 3), LC_FAILED);
  assert_string_equal(lc_error(ctx), "f: tensor 'w': 3 found");
  lc_fail(ctx, "there is no method '%s'", "lora\n\x1b[2Jé");
  assert_string_equal(lc_error(ctx), "there is no method 'lora??[2Jé'"); /* one line, whatever it quotes */
  assert_int_equal(lc_fail(ctx, "%s: tensor '%s': %d found", "f", "w", 3), LC_FAILED);
  assert_int_equal(lc_usage(ctx, "before: %s", lc_error(ctx)),
                   LC_USAGE); /* a sentence may quote the last one */
  assert_string_equal(lc_error(ctx), "before: f: tensor 'w': 3 found");
  lc_error_clear(ctx);
  assert_string_equal(lc_error(ctx), "");
  char name[4096];
  memset(name, 'x', sizeof name - 1);
  name[sizeof name - 1] = 0;
  lc_fail(ctx, "%s", name); /* cut, terminated */
  assert_in_range(strlen(lc_error(ctx)), 500, 4000);
  lc_ctx_free(ctx);
}

typedef struct {
  int n;
  lc_log_level level;
  char line[64];
} log_seen;

static void on_log(void *arg, lc_log_level level, const char *line) {
  log_seen *seen = arg;
  seen->n++;
  seen->level = level;
  snprintf(seen->line, sizeof seen->line, "%s", line);
}

static void test_log_and_stop(void **state) {
  lc_ctx *ctx;
  log_seen seen = {0};
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  lc_log(ctx, LC_LOG_WARN, "nobody hears");
  lc_set_log(ctx, on_log, &seen);
  lc_log(ctx, LC_LOG_WARN, "%d rows skipped", 7);
  assert_int_equal(seen.n, 1);
  assert_int_equal(seen.level, LC_LOG_WARN);
  assert_string_equal(seen.line, "7 rows skipped");
  assert_int_equal(lc_stop_requested(ctx), 0);
  lc_request_stop(ctx, 15);
  assert_int_equal(lc_stop_requested(ctx), 15);
  lc_ctx_free(ctx);
}

static void test_clock(void **state) {
  double a = lc_now(), b = lc_now();
  assert_true(b >= a && a > 0);
}

/* The kernel counts in batches: a mebibyte or two of slack. */
static void test_resident(void **state) {
  enum { BIG = 64 << 20, SLACK = 2 << 20 };
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(1, &ctx, NULL), LC_OK);
  size_t before = lc_rss_bytes();
  char *p = lc_alloc(ctx, LC_MEM_OTHER, BIG);
  memset(p, 1, BIG);
  assert_true(lc_rss_bytes() + SLACK >= before + BIG && lc_peak_rss_bytes() + SLACK >= before + BIG);
  lc_free(ctx, p);
  assert_true(lc_peak_rss_bytes() + SLACK >= before + BIG); /* stays */
  lc_ctx_free(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_isa),
                                     cmocka_unit_test(test_errors),  cmocka_unit_test(test_log_and_stop),
                                     cmocka_unit_test(test_clock),   cmocka_unit_test(test_resident)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
