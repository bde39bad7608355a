/* WordPiece as BERT has it (Devlin et al. 2019; tokenizers' BertNormalizer, BertPreTokenizer and WordPiece):
 *
 *   normalise   control characters go, white space becomes a space, CJK ideographs get spaces around them; then, as the
 *               file says, accents go (canonical decomposition without nonspacing marks) and letters become lower case
 *   words       runs without white space; every punctuation mark is a word
 *   pieces      the longest token that begins the word, then the longest that begins the rest with "##" in front, and
 *               so on; a word that ends up nowhere, or is too long, is the unknown token as a whole
 *
 * Which characters are what is Unicode's business and a matter of its version (utf8proc's here). */
#include "text/tokenizer.h"
#include <string.h>
#include <utf8proc.h>

/* ---- characters ---- */

static bool is_control(int32_t c) {
  const utf8proc_category_t k = utf8proc_category(c);
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO ||
         k == UTF8PROC_CATEGORY_CS;
}

static bool is_punctuation(int32_t c) {
  const utf8proc_category_t k = utf8proc_category(c);
  if (c < 128)
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* The blocks that BERT's own code calls Chinese. */
static bool is_ideograph(int32_t c) {
  static const int32_t range[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                     {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                     {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  for (size_t i = 0; i < sizeof range / sizeof *range; i++)
    if (c >= range[i][0] && c <= range[i][1]) return true;
  return false;
}

/* ---- normalise ---- */

static lc_status put(lc_ctx *ctx, lc_bytes *out, int32_t c) {
  uint8_t text[4];
  return lc_bytes_add(ctx, out, text, (size_t)utf8proc_encode_char(c, text));
}

static lc_status put_lower(const lc_tokenizer *t, lc_bytes *out, int32_t c) {
  if (!t->wordpiece.lowercase) return put(t->ctx, out, c);
  LC_TRY(put(t->ctx, out, utf8proc_tolower(c)));
  return c == 0x130 ? put(t->ctx, out, 0x307) : LC_OK; /* İ: the one that becomes two */
}

/* Clean text with spaces around ideographs. */
static lc_status clean(const lc_tokenizer *t, const char *s, size_t n, lc_bytes *out) {
  for (size_t i = 0; i < n;) {
    const int step = lc_utf8_step(s + i, n - i);
    const int32_t c = (int32_t)lc_utf8_char(s + i, step);
    const bool white = lc_space_at(s + i, n - i);
    i += (size_t)step;
    if (t->wordpiece.clean && (c == 0 || c == 0xFFFD || is_control(c))) continue;
    const bool apart = t->wordpiece.ideographs && is_ideograph(c);
    if (apart) LC_TRY(put(t->ctx, out, ' '));
    LC_TRY(put(t->ctx, out, t->wordpiece.clean && white ? ' ' : c));
    if (apart) LC_TRY(put(t->ctx, out, ' '));
  }
  return LC_OK;
}

/* Without accents: decomposed, marks left out, and lower case. */
static lc_status plain(const lc_tokenizer *t, const lc_bytes *text, lc_bytes *out) {
  const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  const uint8_t *s = (const uint8_t *)text->data;
  utf8proc_ssize_t k = utf8proc_decompose(s, (utf8proc_ssize_t)text->n, NULL, 0, how);
  if (k < 0) return lc_fail(t->ctx, "cannot normalise a text of %zu bytes: %s", text->n, utf8proc_errmsg(k));
  int32_t *cp = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)k + 1, sizeof *cp);
  if (!cp) return LC_FAILED;
  k = utf8proc_decompose(s, (utf8proc_ssize_t)text->n, cp, k, how);
  lc_status st = LC_OK;
  for (utf8proc_ssize_t i = 0; i < k && !st; i++)
    if (utf8proc_category(cp[i]) != UTF8PROC_CATEGORY_MN) st = put_lower(t, out, cp[i]);
  lc_free(t->ctx, cp);
  return st;
}

static lc_status lower(const lc_tokenizer *t, const lc_bytes *text, lc_bytes *out) {
  for (size_t i = 0; i < text->n;) {
    const int step = lc_utf8_step(text->data + i, text->n - i);
    LC_TRY(put_lower(t, out, (int32_t)lc_utf8_char(text->data + i, step)));
    i += (size_t)step;
  }
  return LC_OK;
}

lc_status lc_wordpiece_normalize(const lc_tokenizer *t, const char *s, size_t n, lc_bytes *out) {
  lc_bytes cleaned = {0};
  LC_TRY(lc_bytes_add(t->ctx, out, "", 0));
  lc_status st = clean(t, s, n, &cleaned);
  if (!st && cleaned.n) st = t->wordpiece.strip ? plain(t, &cleaned, out) : lower(t, &cleaned, out);
  lc_free(t->ctx, cleaned.data);
  return st;
}

/* ---- pieces ---- */

/* Where an id ends in the text: exact where normalising moved nothing. */
static lc_status emit(lc_tok_run *r, int32_t id, const char *end) {
  const size_t at = (size_t)(end - r->normalized.data);
  return lc_tok_emit(r, id, r->fragment + (at < r->n_fragment ? at : r->n_fragment));
}

static int64_t characters(const char *s, size_t n) {
  int64_t count = 0;
  for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
  return count;
}

/* The longest token at s, of at most n bytes; *id -1 when there is none. */
static lc_status longest(lc_tok_run *r, const char *s, size_t n, bool inside, int32_t *id, size_t *used) {
  const lc_wordpiece *w = &r->t->wordpiece;
  const size_t k = inside ? strlen(w->prefix) : 0;
  r->word.n = 0;
  LC_TRY(lc_bytes_add(r->t->ctx, &r->word, w->prefix, k));
  LC_TRY(lc_bytes_add(r->t->ctx, &r->word, s, n));
  for (*used = n, *id = -1; *used > 0; --*used) {
    if (*used < n && ((uint8_t)s[*used] & 0xC0) == 0x80) continue; /* inside a character */
    *id = lc_vocab_find(r->t, r->word.data, k + *used);
    if (*id >= 0 && r->t->tok[*id].flags & LC_TOK_VOCAB) return LC_OK;
    *id = -1;
  }
  return LC_OK;
}

static lc_status word(lc_tok_run *r, const char *s, size_t n) {
  const int64_t before = r->ids->n;
  const size_t ends = r->ends ? r->ends->n : 0;
  int32_t id = characters(s, n) > r->t->wordpiece.most ? -1 : 0;
  for (size_t i = 0, used = 0; id >= 0 && i < n; i += used) {
    LC_TRY(longest(r, s + i, n - i, i > 0, &id, &used));
    if (id >= 0) LC_TRY(emit(r, id, s + i + used));
  }
  if (id >= 0) return LC_OK;
  r->ids->n = before;
  if (r->ends) r->ends->n = ends;
  return emit(r, r->t->unk, s + n);
}

lc_status lc_wordpiece_words(lc_tok_run *r, const char *s, size_t n) {
  size_t from = 0;
  for (size_t i = 0; i < n;) {
    const int step = lc_utf8_step(s + i, n - i);
    const int32_t c = (int32_t)lc_utf8_char(s + i, step);
    const bool white = lc_space_at(s + i, n - i), mark = is_punctuation(c);
    if ((white || mark) && i > from) LC_TRY(word(r, s + from, i - from));
    if (mark) LC_TRY(word(r, s + i, (size_t)step));
    i += (size_t)step;
    if (white || mark) from = i;
  }
  return n > from ? word(r, s + from, n - from) : LC_OK;
}

/* ---- from files ---- */

lc_status lc_wordpiece_check(lc_tokenizer *t) {
  if (!t->wordpiece.prefix[0])
    return lc_fail(t->ctx, "%s: WordPiece without a prefix for pieces inside a word is not supported",
                   t->source);
  if (t->unk < 0)
    return lc_fail(t->ctx, "%s: WordPiece needs an unk_token that the vocabulary has", t->source);
  t->words_have_space = false;
  return LC_OK;
}

lc_status lc_wordpiece_vocab(lc_tokenizer *t, const char *text, size_t n) {
  int64_t id = 0;
  for (size_t i = 0; i < n; id++) {
    const char *end = memchr(text + i, '\n', n - i);
    size_t len = end ? (size_t)(end - text) - i : n - i;
    const size_t next = i + len + 1;
    if (len && text[i + len - 1] == '\r') len--;
    if (!len)
      return lc_fail(t->ctx, "%s: line %lld is empty: a line is a token", t->source, (long long)id + 1);
    LC_TRY(lc_vocab_put(t, id, text + i, len, LC_TOK_VOCAB));
    i = next;
  }
  return id ? LC_OK : lc_fail(t->ctx, "%s: there are no tokens in it", t->source);
}
