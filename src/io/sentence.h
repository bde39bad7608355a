/* Private to io: how numbers and names from a file are put into an error sentence.
 *
 * Names come from files that nobody has checked yet: what is not printable ASCII is shown as '?', and long
 * ones are cut, so that a sentence stays one short line. Both return a struct by value: `lc_commas(n).s`
 * lives to the end of the call it is used in. */
#ifndef LC_IO_SENTENCE_H
#define LC_IO_SENTENCE_H
#include <string.h>
#include "core/core.h"

typedef struct {
  char s[32];
} lc_shown_number;
typedef struct {
  char s[84];
} lc_shown_name;

/* 1234567 -> "1,234,567" */
static inline lc_shown_number lc_commas(uint64_t n) {
  lc_shown_number out;
  char *p = out.s + sizeof out.s;
  *--p = 0;
  int digits = 0;
  do {
    if (digits && digits % 3 == 0) *--p = ',';
    *--p = (char)('0' + n % 10);
    n /= 10;
    digits++;
  } while (n);
  memmove(out.s, p, (size_t)(out.s + sizeof out.s - p));
  return out;
}

static inline lc_shown_name lc_shown_n(const char *name, size_t n) {
  lc_shown_name out;
  const size_t most = 80;
  size_t k = 0;
  for (; k < n && k < most; k++) out.s[k] = name[k] < 0x20 || name[k] > 0x7e ? '?' : name[k];
  if (n > most) {
    memcpy(out.s + k, "...", 3);
    k += 3;
  }
  out.s[k] = 0;
  return out;
}
static inline lc_shown_name lc_shown(const char *name) {
  return lc_shown_n(name, strlen(name));
}

#endif
