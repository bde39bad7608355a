/* Byte-pair encoding of one word (Sennrich et al. 2016; on bytes: Radford et al. 2019).
 *
 * The word begins as its bytes. Of all neighbouring pairs that merge, the one of the lowest rank, leftmost
 * among equals, is replaced by its merge, until none is left. A heap of candidates keyed by (rank, place)
 * makes that O(n log n): symbols are a linked list, a merge keeps the left symbol's place, and a candidate
 * whose two symbols are no longer the ones that it was made for is skipped when it comes up. A byte without a
 * token becomes the model's unk_token or, when there is none, is left out, as in the tokenizers library. */
#include "text/tokenizer.h"
#include <string.h>

static bool before(lc_candidate a, lc_candidate b) {
  return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(lc_candidate *h, size_t *n, lc_candidate c) {
  size_t i = (*n)++;
  while (i && before(c, h[(i - 1) / 2])) {
    h[i] = h[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  h[i] = c;
}

static lc_candidate heap_pop(lc_candidate *h, size_t *n) {
  lc_candidate top = h[0], last = h[--*n];
  size_t i = 0;
  for (;;) {
    size_t k = 2 * i + 1;
    if (k >= *n) break;
    if (k + 1 < *n && before(h[k + 1], h[k])) k++;
    if (!before(h[k], last)) break;
    h[i] = h[k];
    i = k;
  }
  h[i] = last;
  return top;
}

static lc_status room(lc_tok_run *r, size_t n) {
  if (n <= r->sym_cap) return LC_OK;
  size_t cap = r->sym_cap < 64 ? 64 : r->sym_cap;
  while (cap < n) cap *= 2;
  lc_free(r->t->ctx, r->sym);
  lc_free(r->t->ctx, r->heap);
  r->sym_cap = 0;
  r->sym = lc_alloc_n(r->t->ctx, LC_MEM_OTHER, cap, sizeof *r->sym);
  r->heap = lc_alloc_n(r->t->ctx, LC_MEM_OTHER, cap,
                       3 * sizeof *r->heap); /* n-1 pairs at first, two more a merge */
  if (!r->sym || !r->heap) return LC_FAILED;
  r->sym_cap = cap;
  return LC_OK;
}

static void warn_once(const lc_tokenizer *t, uint8_t byte) {
  if (__atomic_exchange_n((bool *)&t->warned, true, __ATOMIC_RELAXED)) return;
  lc_log(t->ctx, LC_LOG_WARN, "%s: the vocabulary has no token for byte 0x%02X: it is left out of the ids",
         t->source, byte);
}

/* Fills the list with the word's bytes; returns their number. */
static int32_t first_symbols(lc_tok_run *r, const char *s, size_t n) {
  const lc_tokenizer *t = r->t;
  int32_t k = 0;
  for (size_t i = 0; i < n; i++) {
    int32_t id = t->byte_id[(uint8_t)s[i]];
    if (id < 0) {
      id = t->unk;
      if (id < 0) {
        warn_once(t, (uint8_t)s[i]);
        continue;
      }
      if (t->fuse_unk && k && r->sym[k - 1].id == id) {
        r->sym[k - 1].end = (uint32_t)i + 1;
        continue;
      }
    }
    r->sym[k] = (lc_symbol){id, k - 1, k + 1, (uint32_t)i + 1};
    k++;
  }
  if (k) r->sym[k - 1].next = -1;
  return k;
}

static void offer(lc_tok_run *r, size_t *n_heap, int32_t at) {
  if (at < 0 || r->sym[at].next < 0) return;
  int32_t rank = lc_merge_rank(r->t, r->sym[at].id, r->sym[r->sym[at].next].id);
  if (rank >= 0) heap_push(r->heap, n_heap, (lc_candidate){rank, at});
}

static void merge_all(lc_tok_run *r, int32_t n) {
  lc_symbol *sym = r->sym;
  size_t n_heap = 0;
  for (int32_t i = 0; i + 1 < n; i++) offer(r, &n_heap, i);
  while (n_heap) {
    lc_candidate c = heap_pop(r->heap, &n_heap);
    const lc_merge *m = &r->t->merge[c.rank];
    lc_symbol *left = &sym[c.at];
    if (left->id != m->left || left->next < 0 || sym[left->next].id != m->right) continue;
    lc_symbol *right = &sym[left->next];
    left->id = m->made, left->end = right->end, left->next = right->next;
    if (right->next >= 0) sym[right->next].prev = c.at;
    right->id = -1;
    offer(r, &n_heap, left->prev);
    offer(r, &n_heap, c.at);
  }
}

/* ignore_merges: a word that is a token as a whole is that token, whatever the merges would make of it. */
static lc_status whole_word(lc_tok_run *r, const char *s, size_t n, int32_t *id) {
  r->word.n = 0;
  for (size_t i = 0; i < n; i++) {
    char c[2];
    int k = lc_byte_char((uint8_t)s[i], c);
    LC_TRY(lc_bytes_add(r->t->ctx, &r->word, c, (size_t)k));
  }
  *id = lc_vocab_find(r->t, r->word.data, r->word.n);
  if (*id >= 0 && !(r->t->tok[*id].flags & LC_TOK_VOCAB)) *id = -1;
  return LC_OK;
}

lc_status lc_bpe_word(lc_tok_run *r, const char *s, size_t n) {
  if (n == 0) return LC_OK;
  if (n > INT32_MAX / 4) return lc_fail(r->t->ctx, "a single word of %zu bytes is too long to encode", n);
  int32_t id = -1;
  if (n == 1 && (id = r->t->byte_id[(uint8_t)*s]) >= 0) return lc_tok_emit(r, id, s + 1);
  if (r->t->ignore_merges) {
    LC_TRY(whole_word(r, s, n, &id));
    if (id >= 0) return lc_tok_emit(r, id, s + n);
  }
  LC_TRY(room(r, n));
  int32_t k = first_symbols(r, s, n);
  merge_all(r, k);
  for (int32_t i = k ? 0 : -1; i >= 0; i = r->sym[i].next)
    LC_TRY(lc_tok_emit(r, r->sym[i].id, s + r->sym[i].end));
  return LC_OK;
}
