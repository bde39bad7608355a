/* Options described once: a table of rows over a plain struct. Flags, recipe files, `lacuna methods`, the
 * reference and the option tests all come from such tables. */
#ifndef LC_OPTIONS_H
#define LC_OPTIONS_H
#include "core/core.h"

/* Field types: bool; int64_t; double; char * (owned by the struct); int (index into choices). */
typedef enum { LC_OPT_BOOL, LC_OPT_INT, LC_OPT_FLOAT, LC_OPT_STRING, LC_OPT_CHOICE } lc_option_type;
typedef struct {
  const char *name; /* "micro-batch"; '_' and '-' are the same in a key */
  lc_option_type type;
  size_t offset;       /* offsetof the field */
  const char *def;     /* as text; NULL for a string: none */
  double min, max;     /* inclusive range of numbers; both 0: no limits */
  const char *choices; /* "linear|cosine|constant" */
  const char *arg;     /* metavariable in help: "N", "FILE" */
  const char *help;    /* one line */
} lc_option;           /* a table ends with name NULL */

lc_status lc_options_init(lc_ctx *, const lc_option *, void *self); /* defaults */
void lc_options_clear(lc_ctx *, const lc_option *, void *self);     /* frees strings */
/* Parses and range-checks; an unknown key suggests the nearest name; `what` names the table in the sentence
 * ("method shira"). */
lc_status lc_options_set(lc_ctx *, const lc_option *, const char *what, void *self, const char *key,
                         const char *value);
/* The current value as text (parses back to the same). lc_free. */
char *lc_options_get(lc_ctx *, const lc_option *row, const void *self);
const lc_option *lc_options_find(const lc_option *, const char *key); /* NULL */
const char *lc_nearest(const char *word, const char *const *names,
                       int n); /* by edit distance; NULL when none is near */
#endif
