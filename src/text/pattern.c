/* A pattern of tokenizer.json's dialect, rewritten for PCRE2.
 *
 * The tokenizers library compiles patterns with Oniguruma (Ruby's syntax); ours is PCRE2 with UTF and UCP.
 * The common part means the same in both; this pass lets only that part through, and spells out what would
 * differ: \s is Unicode's White_Space (PCRE2's has U+180E too), and \uHHHH is \x{HHHH}. Not let through,
 * because the two disagree or the meaning depends on versions: \w \b \h \v, ^ and $ (Ruby's are always by
 * line), POSIX and nested classes, && in a class, properties other than general categories, possessive
 * intervals, back references. */
#include "text/tokenizer.h"
#include <string.h>

#define WHITE_SPACE                                                                                          \
  "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

typedef struct {
  lc_ctx *ctx;
  const char *source, *s;
  size_t n, i;
  bool in_class;
  lc_bytes *out;
} reader;

static lc_status refuse(const reader *r, size_t n) {
  return lc_fail(r->ctx, "%s: the pre-tokenizer's pattern uses '%s', which is not supported", r->source,
                 lc_quoted(r->s + r->i, (size_t)lc_min64((int64_t)n, (int64_t)(r->n - r->i))).s);
}

static lc_status put(reader *r, const char *s, size_t n) {
  return lc_bytes_add(r->ctx, r->out, s, n);
}
static lc_status put_str(reader *r, const char *s) {
  return put(r, s, strlen(s));
}

static bool starts(const reader *r, const char *what) {
  size_t k = strlen(what);
  return r->n - r->i >= k && memcmp(r->s + r->i, what, k) == 0;
}

static bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \p{Lu}, \P{N}, \p{^L}: general categories only. */
static lc_status property(reader *r) {
  static const char *categories = " C Cc Cf Cn Co L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po "
                                  "Ps S Sc Sk Sm So Z Zl Zp Zs ";
  const char *open = r->s + r->i + 2, *end = r->s + r->n,
             *close = open < end ? memchr(open, '}', (size_t)(end - open)) : NULL;
  if (!close || *open != '{') return refuse(r, 3);
  const char *name = open + 1 + (open[1] == '^');
  char want[5];
  size_t k = (size_t)(close - name);
  size_t whole = (size_t)(close + 1 - (r->s + r->i));
  if (k < 1 || k > 2) return refuse(r, whole);
  want[0] = ' ', memcpy(want + 1, name, k), want[k + 1] = ' ', want[k + 2] = 0;
  if (!strstr(categories, want)) return refuse(r, whole);
  LC_TRY(put(r, r->s + r->i, whole));
  r->i += whole;
  return LC_OK;
}

static lc_status code_point(reader *r) {
  size_t k = 2;
  if (r->s[r->i + 1] == 'u') {
    while (k < 6 && r->i + k < r->n && is_hex(r->s[r->i + k])) k++;
    if (k != 6) return refuse(r, 6);
    LC_TRY(put_str(r, "\\x{"));
    LC_TRY(put(r, r->s + r->i + 2, 4));
    LC_TRY(put_str(r, "}"));
  } else {
    if (r->i + k >= r->n || r->s[r->i + k] != '{') return refuse(r, 4);
    for (k++; r->i + k < r->n && is_hex(r->s[r->i + k]); k++) {
    }
    if (k == 3 || r->i + k >= r->n || r->s[r->i + k] != '}') return refuse(r, k + 1);
    LC_TRY(put(r, r->s + r->i, ++k));
  }
  r->i += k;
  return LC_OK;
}

static lc_status escape(reader *r) {
  if (r->i + 1 >= r->n) return refuse(r, 1);
  char c = r->s[r->i + 1];
  if (c == 'p' || c == 'P') return property(r);
  if (c == 'x' || c == 'u') return code_point(r);
  if (c == 's') {
    LC_TRY(put_str(r, r->in_class ? WHITE_SPACE : "[" WHITE_SPACE "]"));
  } else if (c == 'S') {
    /* In a class PCRE2's own \S and the one character that it has less. */
    LC_TRY(put_str(r, r->in_class ? "\\S\\x{180E}" : "[^" WHITE_SPACE "]"));
  } else if ((c && strchr("rntfdD", c)) || (c > ' ' && c < 127 && !(c >= '0' && c <= '9') &&
                                            !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z'))) {
    LC_TRY(put(r, r->s + r->i, 2));
  } else {
    return refuse(r, 2);
  }
  r->i += 2;
  return LC_OK;
}

static lc_status in_class(reader *r) {
  char c = r->s[r->i];
  if (c == '[') return refuse(r, 2);
  if (starts(r, "&&")) return refuse(r, 2);
  if (c == '\\') return escape(r);
  if (c == ']') r->in_class = false;
  r->i++;
  return put(r, &c, 1);
}

static lc_status open_class(reader *r) {
  size_t k = starts(r, "[^") ? 2 : 1;
  if (r->i + k < r->n && r->s[r->i + k] == ']') return refuse(r, k + 1);
  LC_TRY(put(r, r->s + r->i, k));
  r->i += k;
  r->in_class = true;
  return LC_OK;
}

static lc_status open_group(reader *r) {
  static const char *known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
  if (starts(r, "(*")) return refuse(r, 2);
  if (!starts(r, "(?")) {
    r->i++;
    return put_str(r, "(");
  }
  for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
    if (!starts(r, known[k])) continue;
    r->i += strlen(known[k]);
    return put_str(r, known[k]);
  }
  return refuse(r, 4);
}

/* {n}, {n,}, {n,m}; a + after it would be possessive to PCRE2 and a second quantifier to Ruby. */
static lc_status interval(reader *r) {
  size_t k = r->i + 1, digits = 0;
  while (k < r->n && r->s[k] >= '0' && r->s[k] <= '9') k++, digits++;
  if (k < r->n && r->s[k] == ',')
    for (k++; k < r->n && r->s[k] >= '0' && r->s[k] <= '9';) k++;
  if (!digits || k >= r->n || r->s[k] != '}') return refuse(r, 4);
  k++;
  if (k < r->n && (r->s[k] == '+' || r->s[k] == '?')) return refuse(r, k + 1 - r->i);
  LC_TRY(put(r, r->s + r->i, k - r->i));
  r->i = k;
  return LC_OK;
}

lc_status lc_pattern_translate(lc_ctx *ctx, const char *source, const char *pattern, size_t n,
                               lc_bytes *out) {
  reader r = {.ctx = ctx, .source = source, .s = pattern, .n = n, .out = out};
  while (r.i < n) {
    char c = pattern[r.i];
    if (r.in_class) {
      LC_TRY(in_class(&r));
    } else if (c == '\\') {
      LC_TRY(escape(&r));
    } else if (c == '[') {
      LC_TRY(open_class(&r));
    } else if (c == '(') {
      LC_TRY(open_group(&r));
    } else if (c == '{') {
      LC_TRY(interval(&r));
    } else if (c == '^' || c == '$' || c == 0) {
      return refuse(&r, 1);
    } else {
      LC_TRY(put(&r, &c, 1));
      r.i++;
    }
  }
  return LC_OK;
}
