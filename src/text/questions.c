/* Rows for evaluation, read in a stream: by choice, {"prompt": s or [s …, one a choice], "choices": [s …],
 * "answer": index or letter}, and by answer, {"prompt": s, "answer": s}. A malformed row is an error by its
 * line number. */
#include "text/tokenizer.h"
#include <jansson.h>
#include <string.h>

typedef struct {
  lc_ctx *ctx;
  lc_question *q;
  int64_t n, cap;
  char why[LC_WHY];
} reader;

static void free_one(lc_ctx *ctx, lc_question *q) {
  for (int i = 0; i < q->n_prompts; i++) lc_free(ctx, q->prompt[i]);
  for (int i = 0; i < q->n_choices; i++) lc_free(ctx, q->choice[i]);
  lc_free(ctx, q->prompt);
  lc_free(ctx, q->choice);
  lc_free(ctx, q->answer_text);
}

void lc_questions_free(lc_ctx *ctx, lc_question *q, int64_t n) {
  for (int64_t i = 0; q && i < n; i++) free_one(ctx, &q[i]);
  lc_free(ctx, q);
}

static bool strings_only(const json_t *list) {
  for (size_t i = 0; i < json_array_size(list); i++)
    if (!json_is_string(json_array_get(list, i))) return false;
  return json_array_size(list) > 0 && json_array_size(list) < 1000;
}

/* A string or a list of strings, copied. */
static lc_status copy(reader *r, const json_t *v, char ***out, int *n_out) {
  int n = json_is_string(v) ? 1 : (int)json_array_size(v);
  *out = lc_alloc_n(r->ctx, LC_MEM_OTHER, (size_t)n, sizeof **out);
  if (!*out) return LC_FAILED;
  for (int i = 0; i < n; i++) {
    (*out)[i] = lc_strdup(r->ctx, json_string_value(json_is_string(v) ? v : json_array_get(v, (size_t)i)));
    if (!(*out)[i]) return LC_FAILED;
    *n_out = i + 1;
  }
  return LC_OK;
}

/* 0, 1, … or "A", "B", … */
static int answer_index(const json_t *v, int n) {
  json_int_t k = -1;
  if (json_is_integer(v)) k = json_integer_value(v);
  const char *s = json_string_value(v);
  if (s && strlen(s) == 1) k = *s >= 'a' && *s <= 'z' ? *s - 'a' : *s - 'A';
  return k >= 0 && k < n ? (int)k : -1;
}

static lc_status malformed(reader *r, const char *why, bool *bad) {
  snprintf(r->why, LC_WHY, "%s", why);
  *bad = true;
  return LC_OK;
}

static lc_status read_choice(reader *r, const json_t *row, lc_question *q, bool *bad) {
  const json_t *p = json_object_get(row, "prompt"), *c = json_object_get(row, "choices");
  if (!json_is_string(p) && !strings_only(p))
    return malformed(r, "\"prompt\" must be a string or a list of strings", bad);
  if (!json_is_array(c) || !strings_only(c))
    return malformed(r, "\"choices\" must be a list of strings", bad);
  if (json_is_array(p) && json_array_size(p) != json_array_size(c))
    return malformed(r, "a list of prompts must have one for each choice", bad);
  LC_TRY(copy(r, p, &q->prompt, &q->n_prompts));
  LC_TRY(copy(r, c, &q->choice, &q->n_choices));
  q->answer = answer_index(json_object_get(row, "answer"), q->n_choices);
  return q->answer >= 0 ? LC_OK : malformed(r, "\"answer\" must be the index or the letter of a choice", bad);
}

static lc_status read_answer(reader *r, const json_t *row, lc_question *q, bool *bad) {
  const json_t *p = json_object_get(row, "prompt"), *a = json_object_get(row, "answer");
  if (!json_is_string(p) || !json_is_string(a))
    return malformed(r, "\"prompt\" and \"answer\" must be strings", bad);
  LC_TRY(copy(r, p, &q->prompt, &q->n_prompts));
  q->answer = -1;
  q->answer_text = lc_strdup(r->ctx, json_string_value(a));
  return q->answer_text ? LC_OK : LC_FAILED;
}

static lc_status next_question(reader *r, lc_question **q) {
  if (r->n == r->cap) {
    int64_t cap = r->cap ? 2 * r->cap : 64;
    lc_question *p = lc_realloc(r->ctx, LC_MEM_OTHER, r->q, (size_t)cap * sizeof *p);
    if (!p) return LC_FAILED;
    r->q = p, r->cap = cap;
  }
  *q = &r->q[r->n++];
  **q = (lc_question){0};
  return LC_OK;
}

lc_status lc_questions_open(lc_ctx *ctx, const char *path, bool choices, lc_question **out, int64_t *n_out) {
  reader r = {.ctx = ctx};
  lc_lines lines = {0};
  lc_status st = LC_OK;
  *out = NULL, *n_out = 0;
  LC_GO(lc_lines_open(ctx, path, &lines));
  for (;;) {
    const char *line;
    size_t n;
    lc_question *q;
    LC_GO(lc_lines_next(&lines, &line, &n));
    if (!line) break;
    LC_GO(next_question(&r, &q));
    json_t *row = lc_row_parse(line, n, r.why);
    bool bad = !row;
    if (row) st = choices ? read_choice(&r, row, q, &bad) : read_answer(&r, row, q, &bad);
    json_decref(row);
    if (!st && bad) st = lc_fail(ctx, "%s: line %lld: %s", path, (long long)lines.line, r.why);
    if (st) goto done;
  }
  if (r.n == 0) st = lc_fail(ctx, "%s: there is no question in it", path);
done:
  lc_lines_close(&lines);
  if (st) {
    lc_questions_free(ctx, r.q, r.n);
  } else {
    *out = r.q, *n_out = r.n;
  }
  return st;
}
