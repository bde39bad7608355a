/* Rows with labels, for classifiers:
 *
 *   {"text": s, "label": y}                     one label a row, at the token that the head reads
 *   {"text": s, "text_pair": s, "label": y}     two texts in the tokenizer's frame for pairs
 *   {"tokens": [s …], "tags": [y …]}            a label a word, at its first token; the word's others have none
 *
 * A label is a name or a number from 0 on, in all rows alike. Names that nobody gives are those of the data, sorted. */
#include "text/data.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- labels ---- */

void lc_label_names_free(lc_ctx *ctx, lc_label_names *l) {
  for (int64_t i = 0; l->name && i < l->n; i++) lc_free(ctx, l->name[i]);
  lc_free(ctx, l->name);
  *l = (lc_label_names){0};
}

/* Into `why` when the label is none of the set; else its index. */
static bool label_index(const lc_label_set *set, const json_t *y, int32_t *out, char why[LC_WHY]) {
  if (json_is_integer(y)) {
    const json_int_t k = json_integer_value(y);
    *out = (int32_t)k;
    if (k >= 0 && k < set->n) return true;
    snprintf(why, LC_WHY, "label %lld: the head has labels 0 to %lld", (long long)k, (long long)set->n - 1);
    return false;
  }
  if (!json_is_string(y)) {
    snprintf(why, LC_WHY, "a label must be a string or a whole number");
    return false;
  }
  for (int64_t i = 0; i < set->n; i++)
    if (set->name && strcmp(set->name[i], json_string_value(y)) == 0) {
      *out = (int32_t)i;
      return true;
    }
  snprintf(why, LC_WHY, "label '%s' is none of the head's %lld", lc_quoted_str(json_string_value(y)).s,
           (long long)set->n);
  return false;
}

typedef struct {
  lc_ctx *ctx;
  lc_label_names *out;
  int64_t cap;
  bool any, numbers;
} scan;

static lc_status scan_one(scan *s, const json_t *y, char why[LC_WHY]) {
  const bool number = json_is_integer(y);
  if (!number && !json_is_string(y)) return LC_OK; /* the row is refused when it is read */
  if (s->any && number != s->numbers) {
    snprintf(why, LC_WHY, "labels are names in some rows and numbers in others");
    return LC_FAILED;
  }
  s->any = true, s->numbers = number;
  if (number) {
    const json_int_t k = json_integer_value(y);
    if (k < 0 || k >= LC_LABELS_MOST) {
      snprintf(why, LC_WHY, "label %lld: 0 to %d are possible", (long long)k, LC_LABELS_MOST - 1);
      return LC_FAILED;
    }
    s->out->n = lc_max64(s->out->n, k + 1);
    return LC_OK;
  }
  int64_t low = 0, high = s->out->n; /* sorted as it grows */
  while (low < high) {
    const int64_t mid = (low + high) / 2;
    const int c = strcmp(s->out->name[mid], json_string_value(y));
    if (c == 0) return LC_OK;
    if (c < 0)
      low = mid + 1;
    else
      high = mid;
  }
  if (s->out->n == LC_LABELS_MOST) {
    snprintf(why, LC_WHY, "more than %d different labels", LC_LABELS_MOST);
    return LC_FAILED;
  }
  if (s->out->n == s->cap) {
    const int64_t cap = s->cap ? 2 * s->cap : 16;
    char **grown = lc_realloc(s->ctx, LC_MEM_OTHER, s->out->name, (size_t)cap * sizeof *grown);
    if (!grown) return LC_FAILED;
    s->out->name = grown, s->cap = cap;
  }
  char *copy = lc_strdup(s->ctx, json_string_value(y));
  if (!copy) return LC_FAILED;
  memmove(s->out->name + low + 1, s->out->name + low, (size_t)(s->out->n - low) * sizeof *s->out->name);
  s->out->name[low] = copy;
  s->out->n++;
  return LC_OK;
}

lc_status lc_labels_scan(lc_ctx *ctx, const char *path, lc_label_names *out) {
  *out = (lc_label_names){0};
  scan s = {.ctx = ctx, .out = out};
  lc_lines lines;
  const char *line;
  size_t n;
  LC_TRY(lc_lines_open(ctx, path, &lines));
  lc_status st = lc_lines_next(&lines, &line, &n);
  for (; !st && line; st = st ? st : lc_lines_next(&lines, &line, &n)) {
    char why[LC_WHY] = "";
    json_t *row = lc_row_parse(line, n, why);
    const json_t *tags = json_object_get(row, "tags");
    *why = 0; /* what is malformed is refused, or counted, when rows are read */
    if (row && !tags) st = scan_one(&s, json_object_get(row, "label"), why);
    for (size_t i = 0; i < json_array_size(tags) && !st; i++) st = scan_one(&s, json_array_get(tags, i), why);
    json_decref(row);
    if (st && *why) st = lc_fail(ctx, "%s: line %lld: %s", path, (long long)lines.line, why);
  }
  lc_lines_close(&lines);
  if (!st && !s.any)
    st = lc_fail(ctx, "%s: no row has a label ({\"text\", \"label\"} or {\"tokens\", \"tags\"} is expected)",
                 path);
  if (st) lc_label_names_free(ctx, out);
  return st;
}

/* ---- rows ---- */

static void malformed(char why[LC_WHY], const char *what) {
  snprintf(why, LC_WHY, "%s", what);
}

/* Ids and labels of the row in the making: `label` begins at `at`. */
static lc_status take(lc_dataset *d, lc_framed *f, int64_t at, const int32_t *label, int64_t n) {
  d->row.n = d->mask.n = 0;
  for (int64_t i = 0; i < f->ids.n; i++) {
    LC_TRY(lc_ids_push(d->ctx, &d->row, f->ids.id[i]));
    LC_TRY(lc_ids_push(d->ctx, &d->mask, i >= at && i - at < n ? label[i - at] : -1));
  }
  return LC_OK;
}

lc_status lc_labelled_text(lc_dataset *d, const json_t *row, char why[LC_WHY], bool *good) {
  const json_t *a = json_object_get(row, "text"), *b = json_object_get(row, "text_pair");
  int32_t y;
  *good = false;
  if (!json_is_string(a) || (b && !json_is_string(b))) {
    malformed(why, "\"text\" (and \"text_pair\") must be strings");
    return LC_OK;
  }
  if (!json_object_get(row, "label")) {
    malformed(why, "no \"label\"");
    return LC_OK;
  }
  if (!label_index(d->opts.labels, json_object_get(row, "label"), &y, why)) return LC_OK;
  d->kinds.n = 0;
  lc_framed f = {.types = &d->kinds};
  lc_status st =
      lc_tokenize_framed(d->tok, json_string_value(a), json_string_length(a), b ? json_string_value(b) : NULL,
                         b ? json_string_length(b) : 0, d->opts.seq, &f);
  if (!st && f.ids.n == 0) {
    malformed(why, "the text has no tokens");
  } else if (!st) {
    d->info.cut += f.cut;
    st = take(d, &f, d->opts.labels->place == LC_LABEL_LAST ? f.ids.n - 1 : 0, &y, 1);
    *good = true;
  }
  lc_ids_free(d->ctx, &f.ids);
  return st;
}

/* One word's tokens behind those before it; its label at the first. */
static lc_status add_word(lc_dataset *d, const json_t *word, int32_t y, lc_ids *ids, lc_ids *labels,
                          lc_bytes *space) {
  const int64_t before = ids->n;
  space->n = 0;
  if (d->tok->words_have_space) LC_TRY(lc_bytes_add(d->ctx, space, " ", 1));
  LC_TRY(lc_bytes_add(d->ctx, space, json_string_value(word), json_string_length(word)));
  LC_TRY(lc_tokenize(d->tok, space->data, space->n, true, ids));
  for (int64_t i = before; i < ids->n; i++) LC_TRY(lc_ids_push(d->ctx, labels, i == before ? y : -1));
  return LC_OK;
}

lc_status lc_labelled_tokens(lc_dataset *d, const json_t *row, char why[LC_WHY], bool *good) {
  const json_t *words = json_object_get(row, "tokens"), *tags = json_object_get(row, "tags");
  lc_ids ids = {0}, labels = {0};
  lc_bytes space = {0};
  lc_framed f = {.types = &d->kinds};
  lc_status st = LC_OK;
  int32_t y;
  *good = false;
  if (!json_is_array(words) || !json_is_array(tags) || json_array_size(words) != json_array_size(tags)) {
    malformed(why, "\"tokens\" and \"tags\" must be lists of one length");
    return LC_OK;
  }
  for (size_t i = 0; i < json_array_size(words); i++) {
    if (!json_is_string(json_array_get(words, i))) {
      malformed(why, "an item of \"tokens\" is no string");
      goto done;
    }
    if (!label_index(d->opts.labels, json_array_get(tags, i), &y, why)) goto done;
    LC_GO(add_word(d, json_array_get(words, i), y, &ids, &labels, &space));
  }
  d->kinds.n = 0;
  LC_GO(lc_frame_ids(d->tok, &ids, NULL, d->opts.seq, &f));
  d->info.cut += f.cut;
  LC_GO(take(d, &f, f.first, labels.id, f.cut ? f.ids.n - f.around : labels.n));
  *good = true;
done:
  lc_ids_free(d->ctx, &ids);
  lc_ids_free(d->ctx, &labels);
  lc_ids_free(d->ctx, &f.ids);
  lc_free(d->ctx, space.data);
  return st;
}
