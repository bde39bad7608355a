/* Text to ids and back: the way through added tokens, normalisation, words and merges (see tokenizer.h), and
 * the public accessors. */
#include "text/tokenizer.h"
#include <string.h>
#include <utf8proc.h>

lc_status lc_tok_emit(lc_tok_run *r, int32_t id, const char *end) {
  if (r->ends) {
    int64_t at = lc_max64(0, r->at + (end - r->buffer));
    LC_TRY(lc_bytes_add(r->t->ctx, r->ends, &at, sizeof at));
  }
  return lc_ids_push(r->t->ctx, r->ids, id);
}

/* Normalisation form C. utf8proc decomposes into code points, then composes them in place into UTF-8. */
lc_status lc_nfc(lc_ctx *ctx, const char *s, size_t n, lc_bytes *out) {
  const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  lc_status st = LC_OK;
  int32_t *cp = NULL;
  utf8proc_ssize_t k = utf8proc_decompose((const uint8_t *)s, (utf8proc_ssize_t)n, NULL, 0, how);
  if (k < 0) return lc_fail(ctx, "cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(k));
  cp = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)k + 1, sizeof *cp);
  if (!cp) return LC_FAILED;
  k = utf8proc_decompose((const uint8_t *)s, (utf8proc_ssize_t)n, cp, k, how);
  if (k >= 0) k = utf8proc_reencode(cp, k, how);
  if (k < 0)
    st = lc_fail(ctx, "cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(k));
  else
    st = lc_bytes_add(ctx, out, cp, (size_t)k);
  lc_free(ctx, cp);
  return st;
}

static bool ascii(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if ((uint8_t)s[i] >= 0x80) return false;
  return true;
}

static lc_status wordpiece_fragment(lc_tok_run *r, const char *s, size_t n) {
  r->normalized.n = 0;
  LC_TRY(lc_wordpiece_normalize(r->t, s, n, &r->normalized));
  r->fragment = s, r->n_fragment = n;
  return lc_added_split(r, &r->t->added[1], r->normalized.data, r->normalized.n, lc_wordpiece_words);
}

static lc_status normalized_fragment(lc_tok_run *r, const char *s, size_t n) {
  if (r->t->wordpiece.on) return wordpiece_fragment(r, s, n);
  if (!r->t->nfc || ascii(s, n)) return lc_added_split(r, &r->t->added[1], s, n, lc_pretokenize);
  r->normalized.n = 0;
  LC_TRY(lc_nfc(r->t->ctx, s, n, &r->normalized));
  const char *buffer = r->buffer;
  int64_t at = r->at;
  r->at += s - r->buffer;
  r->buffer = r->normalized.data;
  lc_status st = lc_added_split(r, &r->t->added[1], r->normalized.data, r->normalized.n, lc_pretokenize);
  r->buffer = buffer, r->at = at;
  return st;
}

static void run_end(lc_tok_run *r) {
  lc_ctx *ctx = r->t->ctx;
  lc_pre_run_end(r);
  lc_free(ctx, r->normalized.data);
  lc_free(ctx, r->prefixed.data);
  lc_free(ctx, r->word.data);
  lc_free(ctx, r->sym);
  lc_free(ctx, r->heap);
}

lc_status lc_tokenize_ends(const lc_tokenizer *t, const char *text, size_t n, bool special, lc_ids *ids,
                           lc_bytes *ends) {
  size_t bad;
  lc_status st = LC_OK;
  if (n == 0) return LC_OK;
  if (!lc_utf8_valid(text, n, &bad))
    return lc_fail(t->ctx, "the text is not UTF-8: byte %zu (0x%02X)", bad, (uint8_t)text[bad]);
  lc_tok_run r = {.t = t, .ids = ids, .ends = ends, .special = special, .text = text, .buffer = text};
  LC_GO(lc_pre_run_begin(&r));
  LC_GO(lc_added_split(&r, &t->added[0], text, n, normalized_fragment));
done:
  run_end(&r);
  return st;
}

lc_status lc_tokenize(const lc_tokenizer *t, const char *text, size_t n, bool special, lc_ids *ids) {
  return lc_tokenize_ends(t, text, n, special, ids, NULL);
}

/* A piece that goes on with the word before it. */
static bool inside_word(const lc_token *k) {
  return k->bytes != k->text;
}

lc_status lc_detokenize(const lc_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                        lc_bytes *out) {
  LC_TRY(lc_bytes_add(t->ctx, out, "", 0));
  for (int64_t i = 0; i < n; i++) {
    if (ids[i] < 0 || ids[i] >= t->n)
      return lc_fail(t->ctx, "%s: token id %d is out of range (0 to %lld)", t->source, ids[i],
                     (long long)t->n - 1);
    const lc_token *k = &t->tok[ids[i]];
    if (!k->flags || (skip_special && (k->flags & LC_TOK_SPECIAL))) continue;
    if (t->wordpiece.on && !inside_word(k) && out->n) LC_TRY(lc_bytes_add(t->ctx, out, " ", 1));
    LC_TRY(lc_bytes_add(t->ctx, out, t->arena.data + k->bytes, k->n_bytes));
  }
  return LC_OK;
}

int64_t lc_tokenizer_size(const lc_tokenizer *t) {
  return t->n;
}
int32_t lc_token_bos(const lc_tokenizer *t) {
  return t->bos;
}
int32_t lc_token_eos(const lc_tokenizer *t) {
  return t->eos;
}
int32_t lc_token_pad(const lc_tokenizer *t) {
  return t->pad;
}
int32_t lc_token_id(const lc_tokenizer *t, const char *token) {
  return lc_vocab_find(t, token, strlen(token));
}
bool lc_token_is_special(const lc_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->n && (t->tok[id].flags & LC_TOK_SPECIAL);
}
bool lc_token_adds_bos(const lc_tokenizer *t) {
  return t->adds_bos;
}
const int32_t *lc_token_stops(const lc_tokenizer *t, int *n) {
  *n = t->n_stops;
  return t->stop;
}
const char *lc_tokenizer_template(const lc_tokenizer *t) {
  return t->chat_template;
}
