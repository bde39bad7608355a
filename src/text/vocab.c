/* The vocabulary: tokens by id and by text, merges by pair, the added tokens' search sets.
 *
 * Three tables: tok[id]; an open-addressing table from token text to id; one from (left id, right id) to
 * rank. All are sized by powers of two and kept at most half full. Ids and counts from a file are checked
 * before anything is sized by them. */
#include "text/tokenizer.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 1 << 22, MAX_TOKEN_BYTES = 1 << 16 };

uint64_t lc_hash_bytes(const char *s, size_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
  return h ^ h >> 29;
}

static uint64_t hash_pair(uint64_t key) {
  key = (key ^ key >> 31) * 0x9E3779B97F4A7C15u;
  return key ^ key >> 29;
}

lc_status lc_tokenizer_new(lc_ctx *ctx, const char *source, lc_tokenizer **out) {
  lc_tokenizer *t = lc_alloc(ctx, LC_MEM_OTHER, sizeof *t);
  if (!t) return LC_FAILED;
  t->ctx = ctx;
  t->bos = t->eos = t->pad = t->unknown = t->eot = t->eom = t->unk = -1;
  t->words_have_space = true;
  t->source = lc_strdup(ctx, source);
  if (!t->source) {
    lc_tokenizer_free(t);
    return LC_FAILED;
  }
  *out = t;
  return LC_OK;
}

void lc_tokenizer_free(lc_tokenizer *t) {
  if (!t) return;
  lc_ctx *ctx = t->ctx;
  lc_pre_free(ctx, &t->pre);
  void *own[] = {t->source, t->dir,  t->pre_name,    t->tok,         t->arena.data, t->slot,
                 t->merge,  t->pair, t->added[0].id, t->added[1].id, t->stop,       t->chat_template};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) lc_free(ctx, own[i]);
  lc_free(ctx, t);
}

/* ---- texts --------------------------------------------------------------------------------------------- */

static size_t slot_of(const lc_tokenizer *t, const char *text, size_t n) {
  size_t i = lc_hash_bytes(text, n) & (t->n_slots - 1);
  while (t->slot[i] >= 0) {
    const lc_token *k = &t->tok[t->slot[i]];
    if (k->n_text == n && memcmp(t->arena.data + k->text, text, n) == 0) break;
    i = (i + 1) & (t->n_slots - 1);
  }
  return i;
}

int32_t lc_vocab_find(const lc_tokenizer *t, const char *text, size_t n) {
  return t->n_slots ? t->slot[slot_of(t, text, n)] : -1;
}

static lc_status grow_slots(lc_tokenizer *t) {
  if (2 * (t->n_texts + 1) <= t->n_slots) return LC_OK;
  size_t n_slots = t->n_slots ? 2 * t->n_slots : 1024;
  int32_t *slot = lc_alloc_n(t->ctx, LC_MEM_OTHER, n_slots, sizeof *slot);
  if (!slot) return LC_FAILED;
  memset(slot, 0xFF, n_slots * sizeof *slot);
  lc_free(t->ctx, t->slot);
  t->slot = slot, t->n_slots = n_slots;
  for (int64_t id = 0; id < t->n; id++) {
    if (t->tok[id].flags) t->slot[slot_of(t, lc_token_text(t, (int32_t)id), t->tok[id].n_text)] = (int32_t)id;
  }
  return LC_OK;
}

static lc_status grow_ids(lc_tokenizer *t, int64_t id) {
  if (id >= t->cap) {
    int64_t cap = lc_max64(id + 1, t->cap + t->cap / 2);
    lc_token *p = lc_realloc(t->ctx, LC_MEM_OTHER, t->tok, (size_t)cap * sizeof *p);
    if (!p) return LC_FAILED;
    t->tok = p, t->cap = cap;
  }
  t->n = lc_max64(t->n, id + 1);
  return LC_OK;
}

lc_status lc_vocab_reserve(lc_tokenizer *t, int64_t n) {
  if (n > MAX_IDS)
    return lc_fail(t->ctx, "%s: a vocabulary of %lld (at most %d)", t->source, (long long)n, MAX_IDS);
  return n > t->n ? grow_ids(t, n - 1) : LC_OK;
}

lc_status lc_vocab_put(lc_tokenizer *t, int64_t id, const char *text, size_t n, uint32_t flags) {
  size_t bad;
  if (id < 0 || id >= MAX_IDS)
    return lc_fail(t->ctx, "%s: token id %lld is out of range (0 to %d)", t->source, (long long)id,
                   MAX_IDS - 1);
  if (n > MAX_TOKEN_BYTES)
    return lc_fail(t->ctx, "%s: token %lld is %zu bytes long (at most %d)", t->source, (long long)id, n,
                   MAX_TOKEN_BYTES);
  if (n == 0) return lc_fail(t->ctx, "%s: token %lld is empty", t->source, (long long)id);
  if (memchr(text, 0, n) || !lc_utf8_valid(text, n, &bad))
    return lc_fail(t->ctx, "%s: the text of token %lld is not UTF-8 without NUL", t->source, (long long)id);
  if (id < t->n && t->tok[id].flags)
    return lc_fail(t->ctx, "%s: two tokens have id %lld: '%s' and '%s'", t->source, (long long)id,
                   lc_quoted_str(lc_token_text(t, (int32_t)id)).s, lc_quoted(text, n).s);
  int32_t same = lc_vocab_find(t, text, n);
  if (same >= 0)
    return lc_fail(t->ctx, "%s: tokens %d and %lld are both '%s'", t->source, same, (long long)id,
                   lc_quoted(text, n).s);
  LC_TRY(grow_ids(t, id));
  LC_TRY(grow_slots(t));
  size_t at = t->arena.n;
  LC_TRY(lc_bytes_add(t->ctx, &t->arena, text, n));
  LC_TRY(lc_bytes_add(t->ctx, &t->arena, "", 1));
  t->slot[slot_of(t, text, n)] = (int32_t)id;
  t->tok[id] = (lc_token){.text = at, .n_text = (uint32_t)n, .flags = flags};
  t->n_texts++;
  return LC_OK;
}

/* ---- what follows from the tokens ---------------------------------------------------------------------- */

static lc_status token_bytes(lc_tokenizer *t, lc_token *k) {
  k->bytes = k->text, k->n_bytes = k->n_text;
  if (k->flags & (LC_TOK_ADDED | LC_TOK_UNUSED)) return LC_OK;
  if (t->wordpiece.on) { /* a piece inside a word is what follows its prefix */
    const size_t p = strlen(t->wordpiece.prefix);
    if (k->n_text > p && !strncmp(t->arena.data + k->text, t->wordpiece.prefix, p))
      k->bytes += p, k->n_bytes -= (uint32_t)p;
    return LC_OK;
  }
  char small[256], *out = k->n_text <= sizeof small ? small : lc_alloc(t->ctx, LC_MEM_OTHER, k->n_text);
  if (!out) return LC_FAILED;
  size_t n, at = t->arena.n;
  lc_status st = LC_OK;
  if (lc_chars_to_bytes(t->arena.data + k->text, k->n_text, out, &n)) {
    st = lc_bytes_add(t->ctx, &t->arena, out, n);
    k->bytes = at, k->n_bytes = (uint32_t)n;
  }
  if (out != small) lc_free(t->ctx, out);
  return st;
}

typedef struct {
  int32_t id;
  uint32_t n;
  const char *text;
} added_key;

static int by_first_byte_longest_first(const void *x, const void *y) {
  const added_key *a = x, *b = y;
  int d = (uint8_t)a->text[0] - (uint8_t)b->text[0];
  if (d) return d;
  if (a->n != b->n) return a->n > b->n ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

static lc_status added_set(lc_tokenizer *t, lc_added_set *set, uint32_t normalized) {
  int64_t n = 0;
  for (int64_t id = 0; id < t->n; id++)
    n += (t->tok[id].flags & LC_TOK_ADDED) && (t->tok[id].flags & LC_TOK_NORMALIZED) == normalized;
  added_key *key = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n, sizeof *key);
  set->id = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n, sizeof *set->id);
  if (!key || !set->id) {
    lc_free(t->ctx, key);
    return LC_FAILED;
  }
  for (int64_t id = 0; id < t->n; id++)
    if ((t->tok[id].flags & LC_TOK_ADDED) && (t->tok[id].flags & LC_TOK_NORMALIZED) == normalized)
      key[set->n++] = (added_key){(int32_t)id, t->tok[id].n_text, lc_token_text(t, (int32_t)id)};
  if (n) qsort(key, (size_t)n, sizeof *key, by_first_byte_longest_first);
  for (int b = 0, i = 0; b <= 256; b++) {
    while (b && i < set->n && (uint8_t)key[i].text[0] == b - 1) i++;
    set->first[b] = i;
  }
  for (int64_t i = 0; i < n; i++) set->id[i] = key[i].id;
  lc_free(t->ctx, key);
  return LC_OK;
}

lc_status lc_vocab_finish(lc_tokenizer *t) {
  if (t->n == 0) return lc_fail(t->ctx, "%s: the vocabulary is empty", t->source);
  int bytes = 0;
  for (int b = 0; b < 256; b++) {
    char c[2];
    int n = lc_byte_char((uint8_t)b, c);
    t->byte_id[b] = lc_vocab_find(t, c, (size_t)n);
    bytes += t->byte_id[b] >= 0;
  }
  if (bytes == 0)
    return lc_fail(t->ctx, "%s: no token stands for a single byte: this is no byte-level vocabulary",
                   t->source);
  for (int64_t id = 0; id < t->n; id++)
    if (t->tok[id].flags) LC_TRY(token_bytes(t, &t->tok[id]));
  LC_TRY(added_set(t, &t->added[0], 0));
  return added_set(t, &t->added[1], LC_TOK_NORMALIZED);
}

/* ---- merges -------------------------------------------------------------------------------------------- */

lc_status lc_merges_begin(lc_tokenizer *t, int64_t n) {
  if (n > MAX_IDS) return lc_fail(t->ctx, "%s: %lld merges (at most %d)", t->source, (long long)n, MAX_IDS);
  t->n_pairs = 16;
  while (t->n_pairs < 2 * (size_t)n) t->n_pairs *= 2;
  t->merge = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n, sizeof *t->merge);
  t->pair = lc_alloc_n(t->ctx, LC_MEM_OTHER, t->n_pairs, sizeof *t->pair);
  if (!t->merge || !t->pair) return LC_FAILED;
  for (size_t i = 0; i < t->n_pairs; i++) t->pair[i].rank = -1;
  return LC_OK;
}

static lc_merge_slot *pair_slot(const lc_tokenizer *t, uint64_t key) {
  size_t i = hash_pair(key) & (t->n_pairs - 1);
  while (t->pair[i].rank >= 0 && t->pair[i].key != key) i = (i + 1) & (t->n_pairs - 1);
  return &t->pair[i];
}

int32_t lc_merge_rank(const lc_tokenizer *t, int32_t left, int32_t right) {
  return pair_slot(t, (uint64_t)(uint32_t)left << 32 | (uint32_t)right)->rank;
}

lc_status lc_merges_add(lc_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right) {
  char both[4096];
  long long rank = (long long)t->n_merges;
  if (n_left == 0 || n_right == 0 || n_left + n_right > sizeof both)
    return lc_fail(t->ctx, "%s: merge %lld is malformed", t->source, rank);
  memcpy(both, left, n_left);
  memcpy(both + n_left, right, n_right);
  lc_merge m = {lc_vocab_find(t, left, n_left), lc_vocab_find(t, right, n_right),
                lc_vocab_find(t, both, n_left + n_right)};
  if (m.left < 0 || m.right < 0 || m.made < 0)
    return lc_fail(t->ctx, "%s: merge %lld ('%s' with '%s') needs a token that the vocabulary lacks",
                   t->source, rank, lc_quoted(left, n_left).s, lc_quoted(right, n_right).s);
  uint64_t key = (uint64_t)(uint32_t)m.left << 32 | (uint32_t)m.right;
  lc_merge_slot *s = pair_slot(t, key);
  if (s->rank >= 0)
    return lc_fail(t->ctx, "%s: merges %d and %lld are the same pair", t->source, s->rank, rank);
  *s = (lc_merge_slot){key, (int32_t)t->n_merges};
  t->merge[t->n_merges++] = m;
  return LC_OK;
}

/* ---- stops --------------------------------------------------------------------------------------------- */

lc_status lc_stops_add(lc_tokenizer *t, int32_t id) {
  if (id < 0) return LC_OK;
  for (int i = 0; i < t->n_stops; i++)
    if (t->stop[i] == id) return LC_OK;
  int32_t *p = lc_realloc(t->ctx, LC_MEM_OTHER, t->stop, (size_t)(t->n_stops + 1) * sizeof *p);
  if (!p) return LC_FAILED;
  t->stop = p;
  t->stop[t->n_stops++] = id;
  return LC_OK;
}
