/* Options described once: a table of rows over a plain struct.
 *
 * A row gives a field's name, type, place, default, range and help. Everything that sets, prints or documents
 * an option walks the table, so a new option is one row. Values enter as text (a flag, a recipe, a method's
 * default) and leave as text that parses back to the same value: recipes and checkpoints depend on that.
 * '-' and '_' are the same in a key, as people write both. */
#include "core/options.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char fold(char c) {
  return c == '_' ? '-' : c;
}

static bool same_key(const char *a, const char *b) {
  while (*a && fold(*a) == fold(*b)) a++, b++;
  return *a == 0 && *b == 0;
}

const lc_option *lc_options_find(const lc_option *table, const char *key) {
  for (const lc_option *o = table; o && o->name; o++)
    if (same_key(o->name, key)) return o;
  return NULL;
}

/* ---- nearest name
 * ------------------------------------------------------------------------------------------- */

enum { WORD_MAX = 48 };

/* Edit distance with adjacent transpositions (optimal string alignment); words longer than WORD_MAX are far.
 */
static int distance(const char *a, const char *b) {
  int n = (int)strlen(a), m = (int)strlen(b);
  if (n > WORD_MAX || m > WORD_MAX) return 2 * WORD_MAX;
  int row[3][WORD_MAX + 1];
  for (int j = 0; j <= m; j++) row[0][j] = j;
  for (int i = 1; i <= n; i++) {
    int *cur = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
    cur[0] = i;
    for (int j = 1; j <= m; j++) {
      int best = up[j - 1] + (fold(a[i - 1]) != fold(b[j - 1]));
      if (up[j] + 1 < best) best = up[j] + 1;
      if (cur[j - 1] + 1 < best) best = cur[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
        best = up2[j - 2] + 1;
      cur[j] = best;
    }
  }
  return row[n % 3][m];
}

/* Near: a third of the word may be wrong, one letter always; or the word is the beginning of a name. */
const char *lc_nearest(const char *word, const char *const *names, int n) {
  const char *best = NULL;
  int len = (int)strlen(word), best_d = 0;
  for (int i = 0; i < n; i++) {
    int d = distance(word, names[i]);
    if (best == NULL || d < best_d) best = names[i], best_d = d;
  }
  if (best && best_d <= (len / 3 > 1 ? len / 3 : 1)) return best;
  for (int i = 0; i < n && len >= 3; i++)
    if (strncasecmp(word, names[i], (size_t)len) == 0) return names[i];
  return NULL;
}

static const char *nearest_option(const lc_option *table, const char *key) {
  const char *names[128];
  int n = 0;
  for (const lc_option *o = table; o && o->name && n < 128; o++) names[n++] = o->name;
  return lc_nearest(key, names, n);
}

/* ---- values
 * ---------------------------------------------------------------------------------------------------- */

/* Writes a choice's i-th word into buf; false when there is none. */
static bool choice_at(const char *choices, int i, char *buf, size_t size) {
  const char *p = choices;
  for (; i > 0 && p; i--) {
    p = strchr(p, '|');
    if (p) p++;
  }
  if (!p) return false;
  size_t n = strcspn(p, "|");
  if (n >= size) return false;
  memcpy(buf, p, n);
  buf[n] = 0;
  return true;
}

static bool parse_bool(const char *s, bool *out) {
  static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
  for (int i = 0; i < 4; i++) {
    if (strcasecmp(s, yes[i]) == 0) return *out = true, true;
    if (strcasecmp(s, no[i]) == 0) return *out = false, true;
  }
  return false;
}

static bool parse_int(const char *s, int64_t *out) {
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (end == s || *end || errno == ERANGE) return false;
  *out = v;
  return true;
}

static bool parse_float(const char *s, double *out) {
  char *end;
  errno = 0;
  double v = strtod(s, &end);
  if (end == s || *end || !isfinite(v)) return false;
  *out = v;
  return true;
}

/* The shortest decimal that reads back as the same double. */
static void print_float(double v, char *buf, size_t size) {
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(buf, size, "%.*g", digits, v);
    if (strtod(buf, NULL) == v) return;
  }
}

static bool limited(const lc_option *o) {
  return o->min != 0 || o->max != 0;
}

static lc_status out_of_range(lc_ctx *ctx, const lc_option *o, const char *what, const char *value) {
  char lo[40], hi[40];
  print_float(o->min, lo, sizeof lo);
  print_float(o->max, hi, sizeof hi);
  return lc_usage(ctx, "%s: %s is %s, allowed is %s to %s", what, o->name, value, lo, hi);
}

static lc_status set_value(lc_ctx *ctx, const lc_option *o, const char *what, void *self, const char *value) {
  char *at = (char *)self + o->offset;
  switch (o->type) {
  case LC_OPT_BOOL:
    if (!parse_bool(value, (bool *)at))
      return lc_usage(ctx, "%s: %s is '%s', expected true or false", what, o->name, value);
    return LC_OK;
  case LC_OPT_INT: {
    int64_t v;
    if (!parse_int(value, &v))
      return lc_usage(ctx, "%s: %s is '%s', expected a whole number", what, o->name, value);
    if (limited(o) && ((double)v < o->min || (double)v > o->max)) return out_of_range(ctx, o, what, value);
    *(int64_t *)at = v;
    return LC_OK;
  }
  case LC_OPT_FLOAT: {
    double v;
    if (!parse_float(value, &v))
      return lc_usage(ctx, "%s: %s is '%s', expected a number", what, o->name, value);
    if (limited(o) && (v < o->min || v > o->max)) return out_of_range(ctx, o, what, value);
    *(double *)at = v;
    return LC_OK;
  }
  case LC_OPT_STRING: {
    char *copy = *value ? lc_strdup(ctx, value) : NULL; /* empty is none */
    if (*value && !copy) return LC_FAILED;
    lc_free(ctx, *(char **)at);
    *(char **)at = copy;
    return LC_OK;
  }
  case LC_OPT_CHOICE: {
    char word[64];
    for (int i = 0; choice_at(o->choices, i, word, sizeof word); i++)
      if (same_key(word, value)) return *(int *)at = i, LC_OK;
    return lc_usage(ctx, "%s: %s is '%s', expected one of %s", what, o->name, value, o->choices);
  }
  }
  return lc_fail(ctx, "%s: %s has an unknown type in its table", what, o->name);
}

lc_status lc_options_set(lc_ctx *ctx, const lc_option *table, const char *what, void *self, const char *key,
                         const char *value) {
  const lc_option *o = lc_options_find(table, key);
  if (o) return set_value(ctx, o, what, self, value);
  const char *near = nearest_option(table, key);
  if (near) return lc_usage(ctx, "%s has no option '%s'; did you mean '%s'?", what, key, near);
  return lc_usage(ctx, "%s has no option '%s'", what, key);
}

lc_status lc_options_init(lc_ctx *ctx, const lc_option *table, void *self) {
  for (const lc_option *o = table; o && o->name; o++)
    if (o->type == LC_OPT_STRING) *(char **)((char *)self + o->offset) = NULL;
  for (const lc_option *o = table; o && o->name; o++) {
    if (!o->def) continue; /* a string without a default */
    lc_status st = set_value(ctx, o, "default", self, o->def);
    if (st) {
      lc_options_clear(ctx, table, self);
      return st;
    }
  }
  return LC_OK;
}

void lc_options_clear(lc_ctx *ctx, const lc_option *table, void *self) {
  for (const lc_option *o = table; o && o->name; o++) {
    if (o->type != LC_OPT_STRING) continue;
    char **at = (char **)((char *)self + o->offset);
    lc_free(ctx, *at);
    *at = NULL;
  }
}

char *lc_options_get(lc_ctx *ctx, const lc_option *o, const void *self) {
  const char *at = (const char *)self + o->offset;
  char buf[64];
  switch (o->type) {
  case LC_OPT_BOOL:
    return lc_strdup(ctx, *(const bool *)at ? "true" : "false");
  case LC_OPT_INT:
    return lc_format(ctx, "%" PRId64, *(const int64_t *)at);
  case LC_OPT_FLOAT:
    print_float(*(const double *)at, buf, sizeof buf);
    return lc_strdup(ctx, buf);
  case LC_OPT_STRING:
    return lc_strdup(ctx, *(char *const *)at ? *(char *const *)at : "");
  case LC_OPT_CHOICE:
    if (choice_at(o->choices, *(const int *)at, buf, sizeof buf)) return lc_strdup(ctx, buf);
  }
  lc_fail(ctx, "%s has no text: its value is outside its choices", o->name);
  return NULL;
}
