/* What the tests of training share: a world (train_support.h) for each test, its last warning, and what is asked of a status.
 * WORLD_THREADS before the include: 1 unless told. A test that needs more in its world has a setup that begins with open_world. */
#ifndef LC_WORLD_TEST_H
#define LC_WORLD_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/train_support.h"
#ifndef WORLD_THREADS
#define WORLD_THREADS 1
#endif

static t_world w;
static char warned[512];
static inline void on_log(void *arg, lc_log_level level, const char *line) {
  if (level == LC_LOG_WARN) snprintf(warned, sizeof warned, "%s", line);
}
static inline int open_world(void **state) {
  t_world_open(&w, WORLD_THREADS);
  lc_set_log(w.ctx, on_log, NULL);
  warned[0] = 0;
  return 0;
}
static inline int close_world(void **state) {
  t_world_close(&w);
  return 0;
}
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

static inline void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(w.ctx));
}
static inline void refused(lc_status st, const char *says) {
  if (!st || st == LC_STOPPED) fail_msg("it was not refused: expected '%s'", says);
  if (!strstr(lc_error(w.ctx), says)) fail_msg("says '%s', expected '%s'", lc_error(w.ctx), says);
  lc_error_clear(w.ctx);
}
#endif
