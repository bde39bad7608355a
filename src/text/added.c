/* Added tokens are cut out of the text before normalisation and words (or after normalisation, those marked
 * so).
 *
 * The rule is the tokenizers library's: from left to right, at each place the longest token that matches
 * there; a match is consumed even when it is then not taken (special tokens, when the caller wants them as
 * plain text); lstrip and rstrip let a token swallow the white space around it. Tokens lie in one array by
 * first byte, longest first, so that a place costs one look-up when none begins there. */
#include "text/tokenizer.h"
#include <string.h>

static int32_t match_at(const lc_tokenizer *t, const lc_added_set *set, const char *s, size_t n) {
  uint8_t b = (uint8_t)*s;
  for (int32_t i = set->first[b]; i < set->first[b + 1]; i++) {
    const lc_token *k = &t->tok[set->id[i]];
    if (k->n_text <= n && memcmp(s, t->arena.data + k->text, k->n_text) == 0) return set->id[i];
  }
  return -1;
}

lc_status lc_added_split(lc_tok_run *r, const lc_added_set *set, const char *s, size_t n,
                         lc_fragment_fn next) {
  const lc_tokenizer *t = r->t;
  size_t done = 0; /* everything before is emitted */
  for (size_t i = 0; set->n && i < n;) {
    int32_t id = match_at(t, set, s + i, n - i);
    if (id < 0) {
      i++;
      continue;
    }
    const lc_token *k = &t->tok[id];
    size_t from = i, to = i + k->n_text;
    i = to;
    if (!r->special && (k->flags & LC_TOK_SPECIAL)) continue;
    size_t w;
    if (k->flags & LC_TOK_LSTRIP)
      while (from > done && (w = lc_space_before(s + done, from - done))) from -= w;
    if (k->flags & LC_TOK_RSTRIP)
      while ((w = lc_space_at(s + to, n - to))) to += w;
    if (from > done) LC_TRY(next(r, s + done, from - done));
    LC_TRY(lc_tok_emit(r, id, s + to));
    done = i = to;
  }
  return done < n ? next(r, s + done, n - done) : LC_OK;
}
