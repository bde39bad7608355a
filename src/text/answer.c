/* Answers in texts: found by a regular expression, compared as EleutherAI's evaluation harness compares them, or as numbers. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include "text/text.h"

struct lc_extractor {
  pcre2_code *re;
  pcre2_match_data *match;
};

lc_status lc_extractor_new(lc_ctx *ctx, const char *expression, lc_extractor **out) {
  int code;
  PCRE2_SIZE at;
  PCRE2_UCHAR why[128];
  *out = NULL;
  lc_extractor *x = lc_alloc(ctx, LC_MEM_OTHER, sizeof *x);
  if (!x) return LC_FAILED;
  x->re = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_MATCH_INVALID_UTF,
                        &code, &at, NULL);
  if (!x->re) {
    pcre2_get_error_message(code, why, sizeof why);
    lc_free(ctx, x);
    return lc_usage(ctx, "extract: '%s' is no regular expression: %s at %zu", expression, (const char *)why,
                    (size_t)at);
  }
  x->match = pcre2_match_data_create_from_pattern(x->re, NULL);
  if (!x->match) {
    lc_extractor_free(ctx, x);
    return lc_fail(ctx, "extract: no memory");
  }
  *out = x;
  return LC_OK;
}

void lc_extractor_free(lc_ctx *ctx, lc_extractor *x) {
  if (!x) return;
  if (x->match) pcre2_match_data_free(x->match);
  pcre2_code_free(x->re);
  lc_free(ctx, x);
}

bool lc_extract(const lc_extractor *x, const char *text, size_t n, size_t *from, size_t *to) {
  const int groups = pcre2_match(x->re, (PCRE2_SPTR)text, n, 0, 0, x->match, NULL), g = groups > 1 ? 1 : 0;
  const PCRE2_SIZE *at = pcre2_get_ovector_pointer(x->match);
  if (groups <= 0 || at[2 * g] == PCRE2_UNSET) return false;
  *from = at[2 * g];
  *to = at[2 * g + 1];
  return true;
}

/* Moves to the next character of [*p, end) that counts in a comparison; 0 at the end. */
static int next_char(const char **p, const char *end) {
  while (*p < end && (**p == ',' || **p == '$')) (*p)++;
  return *p < end ? tolower((unsigned char)*(*p)++) : 0;
}

static const char *trimmed_end(const char *from, const char *to) {
  while (to > from && isspace((unsigned char)to[-1])) to--;
  return to > from && to[-1] == '.' ? to - 1 : to;
}

bool lc_same_answer(const char *a, size_t n_a, const char *b, size_t n_b) {
  const char *a_end = a + n_a, *b_end = b + n_b;
  while (a < a_end && isspace((unsigned char)*a)) a++;
  while (b < b_end && isspace((unsigned char)*b)) b++;
  a_end = trimmed_end(a, a_end);
  b_end = trimmed_end(b, b_end);
  for (;;) {
    int x = next_char(&a, a_end), y = next_char(&b, b_end);
    if (x != y) return false;
    if (x == 0) return true;
  }
}

bool lc_answer_number(const char *text, size_t n, double *out) {
  char digits[64], *rest;
  size_t k = 0;
  const char *p = text, *end = text + n;
  while (p < end && isspace((unsigned char)*p)) p++;
  end = trimmed_end(p, end);
  for (int c; (c = next_char(&p, end)) != 0;) {
    if (k + 1 == sizeof digits || !(isdigit(c) || strchr("+-.e", c))) return false;
    digits[k++] = (char)c;
  }
  digits[k] = 0;
  *out = strtod(digits, &rest);
  return k > 0 && !*rest && isfinite(*out);
}
