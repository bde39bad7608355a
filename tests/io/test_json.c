/* JSON files: positions in errors, limits, typed members, what is written is read back exactly. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include <jansson.h>
#include "io/io.h"
#include "support/io_support.h"

static lc_ctx *ctx;

static int setup(void **state) {
  t_dir();
  return lc_ctx_new(1, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  t_dir_remove();
  return 0;
}

static void assert_says(const char *part) {
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

static json_t *read_text(const char *text) {
  json_t *j;
  t_put(t_path("config.json"), text, strlen(text));
  lc_status st = lc_json_read(ctx, t_path("config.json"), &j);
  assert_true((st == LC_OK) == (j != NULL));
  return j;
}

static void bad_files(void **state) {
  static const struct {
    const char *text, *says;
  } row[] = {
      {"", "config.json: "},
      {"{\n  \"a\": 1,\n  \"b\": }\n", "config.json: line 3, column 8: "},
      {"{\"a\": 1} {", "line 1, column 10: end of file expected"},
      {"[1]", "a JSON object expected, a list found"},
      {"3", "'[' or '{' expected"},
      {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
      {"{\"a\": \"\xff\"}", "line 1"},
      {"{\"a\": 99999999999999999999}", "too big integer"},
      {"{\"a\": NaN}", "line 1"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    lc_error_clear(ctx);
    assert_null(read_text(row[i].text));
    assert_says(row[i].says);
  }
  t_bytes b = {0};
  for (int i = 0; i < 100000; i++) t_text(&b, "{\"a\":");
  t_add(&b, "", 1);
  assert_null(read_text((char *)b.data));
  assert_says("depth");
  t_free(&b);
}

static void members(void **state) {
  json_t *j = read_text("{\"i\": 7, \"r\": 2048.0, \"f\": 1e-05, \"t\": true, \"s\": \"x\", \"n\": null, "
                        "\"o\": {}, \"h\": 1e300}");
  assert_non_null(j);
  int64_t i;
  double f;
  bool b;
  const char *s;
  assert_true(lc_json_i64_or(ctx, j, "i", 1, &i) == LC_OK && i == 7);
  assert_true(lc_json_i64_or(ctx, j, "r", 1, &i) == LC_OK && i == 2048);
  assert_true(lc_json_i64_or(ctx, j, "n", 3, &i) == LC_OK && i == 3);
  assert_true(lc_json_i64_or(ctx, j, "absent", 4, &i) == LC_OK && i == 4);
  assert_true(lc_json_f64_or(ctx, j, "f", 1, &f) == LC_OK && f == 1e-05);
  assert_true(lc_json_f64_or(ctx, j, "i", 1, &f) == LC_OK && f == 7.0);
  assert_true(lc_json_bool_or(ctx, j, "t", false, &b) == LC_OK && b);
  assert_true(lc_json_bool_or(ctx, j, "n", true, &b) == LC_OK && b);
  assert_true(lc_json_str_or(ctx, j, "s", "d", &s) == LC_OK && !strcmp(s, "x"));
  assert_true(lc_json_str_or(ctx, j, "n", "d", &s) == LC_OK && !strcmp(s, "d"));
  assert_int_equal(lc_json_i64_or(ctx, j, "f", 1, &i), LC_FAILED);
  assert_says("key 'f': an integer expected, a fraction found");
  assert_int_equal(lc_json_i64_or(ctx, j, "h", 1, &i), LC_FAILED);
  assert_int_equal(lc_json_i64_or(ctx, j, "t", 1, &i), LC_FAILED);
  assert_says("key 't': an integer expected, true found");
  assert_int_equal(lc_json_f64_or(ctx, j, "s", 1, &f), LC_FAILED);
  assert_says("key 's': a number expected, a string found");
  assert_int_equal(lc_json_bool_or(ctx, j, "i", false, &b), LC_FAILED);
  assert_says("key 'i': true or false expected, an integer found");
  assert_int_equal(lc_in_file(ctx, "dir/config.json", lc_json_str_or(ctx, j, "o", "d", &s)), LC_FAILED);
  assert_string_equal(lc_error(ctx), "dir/config.json: key 'o': a string expected, an object found");
  assert_int_equal(lc_in_file(ctx, "x", LC_OK), LC_OK);
  json_decref(j);
}

static void written_and_read(void **state) {
  static const double value[] = {
      1e-05, 0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, 2.0, -0.0, 1e22, 123456789.123456789};
  enum { N = sizeof value / sizeof *value };
  for (int each = 0; each <= N; each++) { /* each alone, then all together */
    json_t *j = json_object(), *list = json_array();
    for (int i = 0; i < N; i++)
      if (i == each || each == N) json_array_append_new(list, json_real(value[i]));
    json_object_set_new(j, "z", list);
    json_object_set_new(j, "a", json_string("\xc3\xa4\"\n"));
    assert_int_equal(lc_json_write(ctx, t_path("out.json"), j), LC_OK);
    json_t *k;
    assert_int_equal(lc_json_read(ctx, t_path("out.json"), &k), LC_OK);
    assert_true(json_equal(j, k));
    json_decref(j);
    json_decref(k);
  }
  json_t *j = json_pack("{s:f, s:i}", "eps", 1e-05, "a", 1);
  assert_int_equal(lc_json_write(ctx, t_path("out.json"), j), LC_OK);
  t_bytes b = t_get(t_path("out.json"));
  const char *text = "{\n  \"a\": 1,\n  \"eps\": 1e-5\n}\n"; /* not 1.0000000000000001e-5 */
  assert_int_equal(b.n, strlen(text));
  assert_memory_equal(b.data, text, b.n);
  t_free(&b);
  assert_int_equal(lc_json_write(ctx, t_path("no/such/dir.json"), j), LC_FAILED);
  json_decref(j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bad_files),
      cmocka_unit_test(members),
      cmocka_unit_test(written_and_read),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
