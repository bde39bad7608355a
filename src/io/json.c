/* JSON files through Jansson, with sentences.
 *
 * Jansson already refuses what makes JSON ambiguous when it is asked to: repeated keys, bytes that are no
 * UTF-8, integers beyond 64 bits, nesting deeper than its JSON_PARSER_MAX_DEPTH (2,048). What is added here:
 * a cap on size, the position of an error in one sentence, and typed members whose type errors name the key.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "io/io.h"
#include "io/sentence.h"

#define JSON_MOST_BYTES ((size_t)100 << 20)

lc_status lc_in_file(lc_ctx *ctx, const char *path, lc_status st) {
  if (st == LC_OK) return st;
  char *why = lc_strdup(ctx, lc_error(ctx));
  if (!why) return LC_FAILED;
  if (st == LC_USAGE)
    lc_usage(ctx, "%s: %s", path, why);
  else
    lc_fail(ctx, "%s: %s", path, why);
  lc_free(ctx, why);
  return st;
}

lc_status lc_json_parse(lc_ctx *ctx, const char *label, const char *data, size_t n, json_t **out) {
  *out = NULL;
  if (n > JSON_MOST_BYTES)
    return lc_fail(ctx, "%s: %s bytes of JSON, more than %s are not read", label, lc_commas(n).s,
                   lc_commas(JSON_MOST_BYTES).s);
  json_error_t e;
  json_t *root = json_loadb(data, n, JSON_REJECT_DUPLICATES, &e);
  if (!root) return lc_fail(ctx, "%s: line %d, column %d: %s", label, e.line, e.column, lc_shown(e.text).s);
  if (!json_is_object(root)) {
    json_decref(root);
    return lc_fail(ctx, "%s: a JSON object expected, a list found", label);
  }
  *out = root;
  return LC_OK;
}

lc_status lc_json_read(lc_ctx *ctx, const char *path, json_t **out) {
  *out = NULL;
  char *data = NULL;
  size_t n = 0;
  LC_TRY(lc_read_file(ctx, path, JSON_MOST_BYTES, &data, &n));
  lc_status st = lc_json_parse(ctx, path, data, n, out);
  lc_free(ctx, data);
  return st;
}

/* The fewest significant digits, 15 to 17, with which every real in the tree is read back exactly: Jansson
 * writes all with one precision, and 17 turns 1e-05 into 1.0000000000000001e-05. */
static int digits_needed(const json_t *j) {
  if (json_is_real(j)) {
    double x = json_real_value(j);
    for (int digits = 15; digits < 17; digits++) {
      char text[40];
      snprintf(text, sizeof text, "%.*g", digits, x);
      if (strtod(text, NULL) == x) return digits;
    }
    return 17;
  }
  int most = 15;
  if (json_is_object(j)) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)j, key, v) {
      int d = digits_needed(v);
      if (d > most) most = d;
    }
  }
  for (size_t i = 0; json_is_array(j) && i < json_array_size(j); i++) {
    int d = digits_needed(json_array_get(j, i));
    if (d > most) most = d;
  }
  return most;
}

/* A failure to write is remembered by lc_out and reported by its commit; so the dump itself fails only on a
 * value it cannot express. */
static int write_piece(const char *data, size_t n, void *out) {
  lc_out_write(out, data, n);
  return 0;
}

lc_status lc_json_write(lc_ctx *ctx, const char *path, const json_t *j) {
  lc_out out;
  LC_TRY(lc_out_open(ctx, path, &out));
  size_t flags = JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION((size_t)digits_needed(j));
  lc_status st = LC_OK;
  if (json_dump_callback(j, write_piece, &out, flags)) {
    st = lc_fail(ctx, "%s: not a value that JSON can hold", path);
    goto done;
  }
  lc_out_write(&out, "\n", 1);
  LC_GO(lc_out_commit(&out));
done:
  if (st) lc_out_abort(&out);
  return st;
}

/* ---- typed members ---- */

static const json_t *member(const json_t *j, const char *key) {
  const json_t *v = json_object_get(j, key);
  return json_is_null(v) ? NULL : v;
}

static lc_status wrong_type(lc_ctx *ctx, const char *key, const char *wanted, const json_t *found) {
  static const char *const name[] = {
      [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "a list",    [JSON_STRING] = "a string",
      [JSON_INTEGER] = "an integer", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
      [JSON_FALSE] = "false",        [JSON_NULL] = "null"};
  return lc_fail(ctx, "key '%s': %s expected, %s found", key, wanted, name[json_typeof(found)]);
}

lc_status lc_json_i64_or(lc_ctx *ctx, const json_t *j, const char *key, int64_t def, int64_t *out) {
  const json_t *v = member(j, key);
  *out = def;
  if (!v) return LC_OK;
  double x = json_is_real(v) ? json_real_value(v) : 0;
  if (json_is_integer(v))
    *out = json_integer_value(v);
  else if (json_is_real(v) && x == floor(x) && fabs(x) < 9007199254740992.0) /* 2048.0, exact below 2^53 */
    *out = (int64_t)x;
  else
    return wrong_type(ctx, key, "an integer", v);
  return LC_OK;
}

lc_status lc_json_f64_or(lc_ctx *ctx, const json_t *j, const char *key, double def, double *out) {
  const json_t *v = member(j, key);
  *out = def;
  if (!v) return LC_OK;
  if (!json_is_number(v)) return wrong_type(ctx, key, "a number", v);
  *out = json_number_value(v);
  return LC_OK;
}

lc_status lc_json_bool_or(lc_ctx *ctx, const json_t *j, const char *key, bool def, bool *out) {
  const json_t *v = member(j, key);
  *out = def;
  if (!v) return LC_OK;
  if (!json_is_boolean(v)) return wrong_type(ctx, key, "true or false", v);
  *out = json_is_true(v);
  return LC_OK;
}

lc_status lc_json_str_or(lc_ctx *ctx, const json_t *j, const char *key, const char *def, const char **out) {
  const json_t *v = member(j, key);
  *out = def;
  if (!v) return LC_OK;
  if (!json_is_string(v)) return wrong_type(ctx, key, "a string", v);
  *out = json_string_value(v);
  return LC_OK;
}
