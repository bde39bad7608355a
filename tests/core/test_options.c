/* Option tables: defaults, parsing, ranges, round trips, and the sentences for what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>
#include "core/options.h"

typedef struct {
  bool shuffle;
  int64_t steps;
  double lr;
  char *name, *none;
  int schedule;
} opts;

static const lc_option table[] = {
    {"shuffle", LC_OPT_BOOL, offsetof(opts, shuffle), "true", 0, 0, NULL, NULL, "order"},
    {"max-steps", LC_OPT_INT, offsetof(opts, steps), "10", 1, 1000, NULL, "N", "updates"},
    {"lr", LC_OPT_FLOAT, offsetof(opts, lr), "0.03", 0, 10, NULL, "R", "rate"},
    {"name", LC_OPT_STRING, offsetof(opts, name), "run", 0, 0, NULL, "S", "name"},
    {"none", LC_OPT_STRING, offsetof(opts, none), NULL, 0, 0, NULL, "S", "nothing"},
    {"schedule", LC_OPT_CHOICE, offsetof(opts, schedule), "linear", 0, 0, "linear|cosine|constant", NULL,
     "shape"},
    {0}};

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL);
}

static int teardown(void **state) {
  size_t left = lc_mem_bytes(ctx, LC_MEM_OTHER);
  lc_ctx_free(ctx);
  return left != 0; /* every string was freed */
}

static void test_defaults(void **state) {
  opts o;
  memset(&o, 0xab, sizeof o);
  assert_int_equal(lc_options_init(ctx, table, &o), LC_OK);
  assert_true(o.shuffle);
  assert_int_equal(o.steps, 10);
  assert_true(o.lr == 0.03);
  assert_string_equal(o.name, "run");
  assert_null(o.none);
  assert_int_equal(o.schedule, 0);
  lc_options_clear(ctx, table, &o);
  assert_null(o.name);
}

static void test_set(void **state) {
  opts o;
  assert_int_equal(lc_options_init(ctx, table, &o), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "max_steps", "77"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "shuffle", "No"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "lr", "1e-4"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "name", "a"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "name", "b=c"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "schedule", "constant"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "none", "x"), LC_OK);
  assert_int_equal(lc_options_set(ctx, table, "train", &o, "none", ""), LC_OK);
  assert_null(o.none);
  assert_int_equal(o.steps, 77);
  assert_false(o.shuffle);
  assert_true(o.lr == 1e-4);
  assert_string_equal(o.name, "b=c");
  assert_int_equal(o.schedule, 2);
  lc_options_clear(ctx, table, &o);
}

/* key, value, and a part of the sentence that has to come. */
static void test_refusals(void **state) {
  static const struct {
    const char *key, *value, *says;
  } bad[] = {{"schedule", "exp", "linear|cosine|constant"},
             {"max-steps", "0", "allowed is 1 to 1000"},
             {"max-steps", "1001", "max-steps is 1001"},
             {"max-steps", "3.5", "whole number"},
             {"max-steps", "", "whole number"},
             {"max-steps", "99999999999999999999", "whole number"},
             {"lr", "fast", "expected a number"},
             {"lr", "nan", "expected a number"},
             {"lr", "inf", "expected a number"},
             {"lr", "-1", "allowed is 0 to 10"},
             {"lr", "1 ", "expected a number"},
             {"shuffle", "maybe", "true or false"},
             {"max-stps", "1", "did you mean 'max-steps'"},
             {"shuf", "1", "did you mean 'shuffle'"},
             {"schedlue", "1", "did you mean 'schedule'"},
             {"zzzz", "1", "train has no option 'zzzz'"}};
  opts o;
  assert_int_equal(lc_options_init(ctx, table, &o), LC_OK);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    lc_error_clear(ctx);
    assert_int_equal(lc_options_set(ctx, table, "train", &o, bad[i].key, bad[i].value), LC_USAGE);
    if (!strstr(lc_error(ctx), bad[i].says)) fail_msg("'%s' lacks '%s'", lc_error(ctx), bad[i].says);
  }
  assert_int_equal(o.steps, 10);
  assert_true(o.lr == 0.03);
  lc_options_clear(ctx, table, &o);
}

static void test_no_suggestion_when_far(void **state) {
  static const char *const names[] = {"linear", "cosine"};
  assert_null(lc_nearest("zzzzzz", names, 2));
  assert_string_equal(lc_nearest("cosien", names, 2), "cosine");
  assert_string_equal(lc_nearest("linaer", names, 2), "linear");
  assert_null(lc_nearest("x", names, 0));
}

static void test_round_trip(void **state) {
  static const double lrs[] = {0.1, 1e-300, 1.0 / 3.0, 5e-4, 3.0000000000000004, 9.999999999999998, 0};
  opts o, back;
  assert_int_equal(lc_options_init(ctx, table, &o), LC_OK);
  assert_int_equal(lc_options_init(ctx, table, &back), LC_OK);
  for (size_t i = 0; i < sizeof lrs / sizeof lrs[0]; i++) {
    o.lr = lrs[i];
    o.schedule = (int)(i % 3);
    o.shuffle = i & 1;
    for (const lc_option *r = table; r->name; r++) {
      char *text = lc_options_get(ctx, r, &o);
      assert_non_null(text);
      assert_int_equal(lc_options_set(ctx, table, "t", &back, r->name, text), LC_OK);
      lc_free(ctx, text);
    }
    assert_memory_equal(&back.lr, &o.lr, sizeof o.lr);
    assert_int_equal(back.schedule, o.schedule);
    assert_int_equal(back.shuffle, o.shuffle);
  }
  char *short_text = (o.lr = 0.0005, lc_options_get(ctx, &table[2], &o));
  assert_string_equal(short_text, "0.0005");
  lc_free(ctx, short_text);
  lc_options_clear(ctx, table, &o);
  lc_options_clear(ctx, table, &back);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
      cmocka_unit_test_setup_teardown(test_set, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_no_suggestion_when_far, setup, teardown),
      cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
