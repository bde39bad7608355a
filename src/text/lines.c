/* JSON lines: a file read in a stream, line by line, and each line parsed as one object. */
#include "text/tokenizer.h"
#include <errno.h>
#include <jansson.h>
#include <string.h>

enum { CHUNK = 1 << 16, MAX_LINE = 1 << 30 };

lc_status lc_lines_open(lc_ctx *ctx, const char *path, lc_lines *l) {
  *l = (lc_lines){.ctx = ctx, .path = path};
  l->f = fopen(path, "rb");
  if (!l->f) return lc_fail(ctx, "%s: cannot be opened: %s", path, strerror(errno));
  return lc_bytes_add(ctx, &l->buf, "", 0);
}

void lc_lines_close(lc_lines *l) {
  if (l->f) fclose(l->f);
  lc_free(l->ctx, l->buf.data);
  *l = (lc_lines){0};
}

/* Drops what has been handed out and reads a chunk more. */
static lc_status fill(lc_lines *l) {
  static const char zero[CHUNK];
  memmove(l->buf.data, l->buf.data + l->at, l->buf.n - l->at);
  l->buf.n -= l->at;
  l->at = 0;
  size_t had = l->buf.n;
  if (had > MAX_LINE)
    return lc_fail(l->ctx, "%s: line %lld is longer than 1 GiB", l->path, (long long)l->line + 1);
  LC_TRY(lc_bytes_add(l->ctx, &l->buf, zero, CHUNK));
  size_t got = fread(l->buf.data + had, 1, CHUNK, l->f);
  l->buf.n = had + got;
  l->buf.data[l->buf.n] = 0;
  if (ferror(l->f)) return lc_fail(l->ctx, "%s: cannot be read: %s", l->path, strerror(errno));
  l->eof = got == 0;
  return LC_OK;
}

static bool blank(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
  return true;
}

lc_status lc_lines_next(lc_lines *l, const char **line, size_t *n) {
  *line = NULL;
  size_t seen = 0; /* bytes of the line that hold no newline */
  for (;;) {
    const char *from = l->buf.data + l->at, *end = NULL;
    size_t have = l->buf.n - l->at;
    if (have > seen) end = memchr(from + seen, '\n', have - seen);
    if (!end && !l->eof) {
      seen = have;
      LC_TRY(fill(l));
      continue;
    }
    if (!end && have == 0) return LC_OK;
    size_t len = end ? (size_t)(end - from) : have;
    l->at += len + (end != NULL);
    l->line++;
    seen = 0;
    if (l->line == 1 && len >= 3 && memcmp(from, "\xEF\xBB\xBF", 3) == 0)
      from += 3, len -= 3; /* a byte order mark */
    if (blank(from, len)) continue;
    *line = from, *n = len;
    return LC_OK;
  }
}

json_t *lc_row_parse(const char *line, size_t n, char why[LC_WHY]) {
  json_error_t e;
  json_t *row = json_loadb(line, n, JSON_REJECT_DUPLICATES, &e);
  if (!row) {
    snprintf(why, LC_WHY, "column %d: %s", e.column, lc_quoted_str(e.text).s);
  } else if (!json_is_object(row)) {
    snprintf(why, LC_WHY, "a row must be a JSON object");
    json_decref(row);
    row = NULL;
  }
  return row;
}
