/* Training data from inside: shared by data.c (storage, order) and rows.c (JSON rows to examples). */
#ifndef LC_TEXT_DATA_H
#define LC_TEXT_DATA_H
#include "text/tokenizer.h"

/* All ids lie in one array, all target marks in another; start[i] is where example i begins. */
struct lc_dataset {
  lc_ctx *ctx;
  const lc_tokenizer *tok;
  const char *path; /* valid while loading */
  lc_data_opts opts;
  lc_ids ids;
  lc_bytes target;
  int64_t *start, *targets;
  int64_t n, cap;
  lc_bytes answers; /* NUL-terminated texts, one after another; answer[i] is where that of example i begins */
  int64_t *answer;
  lc_data_info info;
  const lc_template *tmpl;
  int32_t end;          /* after completions */
  lc_ids row, mask;     /* one row in the making; of rows with labels, mask is the labels */
  lc_ids label;         /* of rows with labels: beside ids */
  lc_bytes type, kinds; /* token types of all, and of the row in the making */
  lc_picture_source pictures;
};

int64_t lc_data_targets(const lc_dataset *); /* of the row in the making, as it will be cut */
/* Adds the answer of the prompt in the making. */
lc_status lc_data_add_answer(lc_dataset *, const char *text, size_t n);

/* Adds the row in the making: cut, counted, or dropped for want of a target. */
lc_status lc_data_commit(lc_dataset *);
lc_status lc_rows_load(lc_dataset *); /* rows.c */
/* labelled.c: the row in the making, of a parsed row; not good: it is malformed, and why says how. */
lc_status lc_labelled_text(lc_dataset *, const struct json_t *row, char why[LC_WHY], bool *good);
lc_status lc_labelled_tokens(lc_dataset *, const struct json_t *row, char why[LC_WHY], bool *good);
#endif
