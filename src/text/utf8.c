/* UTF-8: stepping, validity, the growing buffers of bytes and ids, and decoding as a stream.
 *
 * Well-formed is what table 3-7 of the Unicode standard says: no overlong forms, no surrogates, nothing above
 * U+10FFFF. */
#include "text/tokenizer.h"
#include <string.h>
#include <utf8proc.h>

int lc_utf8_step(const char *s, size_t n) {
  const uint8_t *p = (const uint8_t *)s;
  if (n == 0) return -1;
  if (p[0] < 0x80) return 1;
  if (p[0] < 0xC2 || p[0] > 0xF4) return 0;
  int want = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
  uint8_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
  uint8_t high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < want; i++) {
    if ((size_t)i == n) return -1;
    if (p[i] < low || p[i] > high) return 0;
    low = 0x80, high = 0xBF;
  }
  return want;
}

uint32_t lc_utf8_char(const char *s, int n_bytes) {
  const uint8_t *p = (const uint8_t *)s;
  if (n_bytes == 1) return p[0];
  uint32_t c = p[0] & (0x7Fu >> n_bytes);
  for (int i = 1; i < n_bytes; i++) c = c << 6 | (p[i] & 0x3Fu);
  return c;
}

bool lc_utf8_valid(const char *s, size_t n, size_t *bad_at) {
  size_t i = 0;
  while (i < n) {
    uint64_t eight;
    if (i + 8 <= n) {
      memcpy(&eight, s + i, 8);
      if (!(eight & 0x8080808080808080u)) {
        i += 8;
        continue;
      }
    }
    int step = lc_utf8_step(s + i, n - i);
    if (step <= 0) {
      if (bad_at) *bad_at = i;
      return false;
    }
    i += (size_t)step;
  }
  return true;
}

/* Unicode's White_Space property, which is what \s means to the tokenizers library. */
static bool is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t lc_space_at(const char *s, size_t n) {
  int step = lc_utf8_step(s, n);
  return step > 0 && is_space(lc_utf8_char(s, step)) ? (size_t)step : 0;
}

size_t lc_space_before(const char *s, size_t n) {
  size_t k = 1;
  while (k < 4 && k < n && ((uint8_t)s[n - k] & 0xC0) == 0x80) k++;
  return n && lc_space_at(s + n - k, k) == k ? k : 0;
}

lc_quote lc_quoted(const char *s, size_t n) {
  lc_quote q = {""};
  size_t k = 0, most = sizeof q.s - 8;
  for (size_t i = 0; i < n;) {
    int step = lc_utf8_step(s + i, n - i);
    uint32_t c = step > 0 ? lc_utf8_char(s + i, step) : 0;
    bool shown = c >= 0x20 && (c < 0x7F || c >= 0xA0) && c != 0x2028 && c != 0x2029;
    size_t width = shown ? (size_t)step : 1;
    if (k + width > most) {
      memcpy(q.s + k, "...", 4);
      break;
    }
    if (shown)
      memcpy(q.s + k, s + i, width);
    else
      q.s[k] = '?';
    k += width;
    i += step > 0 ? (size_t)step : 1;
  }
  return q;
}

lc_quote lc_quoted_str(const char *s) {
  return lc_quoted(s, s ? strlen(s) : 0);
}

lc_status lc_bytes_add(lc_ctx *ctx, lc_bytes *b, const void *data, size_t n) {
  size_t want;
  if (!lc_add(b->n, n, &want) || !lc_add(want, 1, &want))
    return lc_fail(ctx, "a text of more bytes than memory has");
  if (want > b->cap) {
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < want) cap = cap > SIZE_MAX / 2 ? want : cap + cap / 2;
    char *p = lc_realloc(ctx, LC_MEM_OTHER, b->data, cap);
    if (!p) return LC_FAILED;
    b->data = p, b->cap = cap;
  }
  if (n) memcpy(b->data + b->n, data, n);
  b->n += n;
  b->data[b->n] = 0;
  return LC_OK;
}

lc_status lc_utf8_lossy(lc_ctx *ctx, const char *s, size_t n, lc_bytes *out) {
  size_t from = 0, i = 0;
  while (i < n) {
    int step = lc_utf8_step(s + i, n - i);
    if (step > 0) {
      i += (size_t)step;
      continue;
    }
    LC_TRY(lc_bytes_add(ctx, out, s + from, i - from));
    LC_TRY(lc_bytes_add(ctx, out, "\xEF\xBF\xBD", 3));
    from = ++i;
  }
  return lc_bytes_add(ctx, out, s + from, n - from);
}

lc_status lc_ids_push(lc_ctx *ctx, lc_ids *v, int32_t id) {
  if (v->n == v->cap) {
    int64_t cap = v->cap < 64 ? 64 : v->cap + v->cap / 2;
    size_t bytes;
    if (!lc_mul((size_t)cap, sizeof *v->id, &bytes))
      return lc_fail(ctx, "%lld ids are too many", (long long)cap);
    int32_t *p = lc_realloc(ctx, LC_MEM_OTHER, v->id, bytes);
    if (!p) return LC_FAILED;
    v->id = p, v->cap = cap;
  }
  v->id[v->n++] = id;
  return LC_OK;
}

void lc_ids_free(lc_ctx *ctx, lc_ids *v) {
  lc_free(ctx, v->id);
  *v = (lc_ids){0};
}

/* A character's bytes may come with different tokens. What cannot become a character any more is passed on as
 * it is: nothing is lost, and nothing waits for ever. At most three bytes are held. */
lc_status lc_detokenize_next(const lc_tokenizer *t, lc_utf8_stream *s, int32_t id, bool flush,
                             lc_bytes *out) {
  lc_bytes b = {0};
  lc_status st = LC_OK;
  size_t i = 0;
  LC_GO(lc_bytes_add(t->ctx, &b, s->held, (size_t)s->n_held));
  if (id >= 0) LC_GO(lc_detokenize(t, &id, 1, false, &b));
  while (i < b.n) {
    int step = lc_utf8_step(b.data + i, b.n - i);
    if (step < 0 && !flush) break;
    i += step > 0 ? (size_t)step : 1;
  }
  LC_GO(lc_bytes_add(t->ctx, out, b.data, i));
  s->n_held = (int)(b.n - i);
  memcpy(s->held, b.data + i, b.n - i);
done:
  lc_free(t->ctx, b.data);
  return st;
}

size_t lc_text_space(const char *s, size_t n, bool at_end) {
  return at_end ? lc_space_before(s, n) : lc_space_at(s, n);
}

lc_status lc_utf8_lower(lc_ctx *ctx, const char *s, size_t n, lc_bytes *out) {
  LC_TRY(lc_bytes_add(ctx, out, "", 0));
  for (size_t i = 0; i < n;) {
    const int step = lc_utf8_step(s + i, n - i);
    const int32_t c = (int32_t)lc_utf8_char(s + i, step);
    uint8_t text[4];
    LC_TRY(lc_bytes_add(ctx, out, text, (size_t)utf8proc_encode_char(utf8proc_tolower(c), text)));
    if (c == 0x130) LC_TRY(lc_bytes_add(ctx, out, "\xCC\x87", 2)); /* İ: the one that becomes two */
    i += (size_t)step;
  }
  return LC_OK;
}
