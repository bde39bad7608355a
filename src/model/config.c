/* Reads config.json member by member. Every value is range-checked here, so that the families compute with
 * sane numbers: counts are in [1, 2^31), and products of two of them fit in 64 bits.
 *
 * A key that changes the mathematics in a way that is not built must not pass unseen: families list such keys
 * in a table of refusals. Keys that are nobody's business (use_cache, initializer_range, …) pass. */
#include "model/config.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

static const json_t *member(const lc_reader *r, const char *key) {
  const json_t *v = json_object_get(r->j, key);
  return v && !json_is_null(v) ? v : NULL;
}

static void wrong(lc_reader *r, const char *key, const char *expected) {
  r->st = lc_fail(r->ctx, "%s: '%s%s' is not %s", r->path, r->where, key, expected);
}

static void missing(lc_reader *r, const char *key) {
  r->st = lc_fail(r->ctx, "%s: '%s%s' is missing", r->path, r->where, key);
}

int64_t lc_read_int(lc_reader *r, const char *key, int64_t def, int64_t min, int64_t max) {
  int64_t otherwise = def == LC_REQUIRED ? min : def; /* after an error: a number that can be computed with */
  if (r->st) return otherwise;
  const json_t *v = member(r, key);
  if (!v) {
    if (def == LC_REQUIRED) missing(r, key);
    return otherwise;
  }
  double whole;
  int64_t n = 0;
  if (json_is_integer(v))
    n = json_integer_value(v);
  else if (json_is_real(v) && modf(json_real_value(v), &whole) == 0 && fabs(whole) < 9e15)
    n = (int64_t)whole;
  else {
    wrong(r, key, "a whole number");
    return otherwise;
  }
  if (n < min || n > max) {
    r->st = lc_fail(r->ctx, "%s: '%s%s' is %lld: %lld to %lld is possible", r->path, r->where, key,
                    (long long)n, (long long)min, (long long)max);
    return otherwise;
  }
  return n;
}

double lc_read_num(lc_reader *r, const char *key, double def, double min, double max) {
  if (r->st) return def;
  const json_t *v = member(r, key);
  if (!v) {
    if (isnan(def)) missing(r, key);
    return def;
  }
  if (!json_is_number(v)) {
    wrong(r, key, "a number");
    return def;
  }
  double x = json_number_value(v);
  if (!(x >= min && x <= max)) {
    r->st = lc_fail(r->ctx, "%s: '%s%s' is %g: %g to %g is possible", r->path, r->where, key, x, min, max);
    return def;
  }
  return x;
}

bool lc_read_bool(lc_reader *r, const char *key, bool def) {
  if (r->st) return def;
  const json_t *v = member(r, key);
  if (!v) return def;
  if (!json_is_boolean(v)) {
    wrong(r, key, "true or false");
    return def;
  }
  return json_is_true(v);
}

const char *lc_read_str(lc_reader *r, const char *key, const char *def) {
  if (r->st) return def;
  const json_t *v = member(r, key);
  if (!v) return def;
  if (!json_is_string(v)) {
    wrong(r, key, "a string");
    return def;
  }
  return json_string_value(v);
}

int32_t lc_read_token(lc_reader *r, const char *key) {
  if (r->st) return -1;
  const json_t *v = member(r, key);
  if (v && json_is_array(v)) v = json_array_get(v, 0);
  if (!v) return -1;
  if (!json_is_integer(v) || json_integer_value(v) > INT32_MAX || json_integer_value(v) < -1) {
    wrong(r, key, "a token id or a list of them");
    return -1;
  }
  return (int32_t)json_integer_value(v);
}

static bool harmless(const json_t *v, const lc_refusal *t) {
  if (json_is_false(v)) return true;
  if (json_is_number(v)) return json_number_value(v) == t->ok;
  if (json_is_string(v)) return t->ok_text && !strcmp(json_string_value(v), t->ok_text);
  if (json_is_object(v)) return json_object_size(v) == 0;
  if (!json_is_array(v)) return false;
  for (size_t i = 0; i < json_array_size(v); i++)
    if (!harmless(json_array_get(v, i), t)) return false;
  return true;
}

void lc_read_refuse(lc_reader *r, const lc_refusal *table, int n) {
  for (int i = 0; i < n && !r->st; i++) {
    const json_t *v = member(r, table[i].key);
    if (!v || harmless(v, &table[i])) continue;
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
    r->st = lc_fail(r->ctx, "%s: '%s%s' = %.60s is not supported", r->path, r->where, table[i].key,
                    text ? text : "?");
    free(text);
  }
}

void lc_read_dropout(lc_reader *r, const char *const *keys, int n) {
  for (int i = 0; i < n; i++) {
    double p = lc_read_num(r, keys[i], 0, 0, 1);
    if (!r->st && p > 0)
      lc_log(r->ctx, LC_LOG_DEBUG, "%s: '%s' = %g: the network's own dropout stays off", r->path, keys[i], p);
  }
}

lc_key lc_arch_key(const char *arch, const char *name) {
  lc_key k;
  snprintf(k.text, sizeof k.text, "%s.%s", arch, name);
  return k;
}

lc_activation_kind lc_read_activation(lc_reader *r, const char *key, const char *def) {
  static const struct {
    const char *name;
    lc_activation_kind kind;
  } table[] = {{"gelu_new", LC_GELU_TANH},
               {"gelu_pytorch_tanh", LC_GELU_TANH},
               {"gelu_fast", LC_GELU_TANH},
               {"gelu", LC_GELU_ERF},
               {"relu", LC_RELU}};
  const char *name = lc_read_str(r, key, def);
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (!strcmp(name, table[i].name)) return table[i].kind;
  if (!r->st)
    r->st = lc_fail(r->ctx, "%s: '%s%s' = \"%.40s\" is not supported", r->path, r->where, key, name);
  return LC_GELU_TANH;
}
