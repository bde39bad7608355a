/* What stands around a text before a network sees it, and its token types: "[CLS] A [SEP] B [SEP]" with types 0 and 1,
 * RoBERTa's "<s> A </s></s> B </s>", a decoder's BOS. A tokenizer's post-processor says it as two lists of items.
 *
 * Too long a pair loses tokens from its longer text first, as the tokenizers library's "longest_first" does. */
#include "text/tokenizer.h"

bool lc_frame_add(lc_frame_list *f, int32_t id, int type) {
  if (f->n == LC_FRAME_MAX) return false;
  f->item[f->n++] = (lc_frame_item){id, (uint8_t)type};
  return true;
}

static lc_frame_list frame_of(const lc_tokenizer *t, bool pair) {
  lc_frame_list f = t->frame[pair];
  if (!f.n && !pair && t->adds_bos) {
    lc_frame_add(&f, t->bos, 0);
    lc_frame_add(&f, LC_FRAME_A, 0);
  }
  return f;
}

static int64_t specials(const lc_frame_list *f) {
  int64_t n = 0;
  for (int i = 0; i < f->n; i++) n += f->item[i].id >= 0;
  return n;
}

/* How many of na and nb tokens stay when there is room for so many. */
static void cut(int64_t room, int64_t *na, int64_t *nb) {
  int64_t less = lc_min64(*na, *nb), more = lc_max64(*na, *nb);
  const bool a_is_less = *na <= *nb;
  if (less + more <= room) return;
  more = less > room ? less : lc_max64(less, room - less);
  if (less + more > room) less = room / 2, more = less + room % 2;
  *na = a_is_less ? less : more;
  *nb = a_is_less ? more : less;
}

static lc_status put(const lc_tokenizer *t, int32_t id, uint8_t type, lc_framed *out) {
  LC_TRY(lc_ids_push(t->ctx, &out->ids, id));
  return out->types ? lc_bytes_add(t->ctx, out->types, &type, 1) : LC_OK;
}

lc_status lc_frame_ids(const lc_tokenizer *t, const lc_ids *a, const lc_ids *b, int64_t max, lc_framed *out) {
  const lc_frame_list own = frame_of(t, b != NULL), *f = &own;
  const int64_t room = max - specials(f);
  int64_t na = a->n, nb = b ? b->n : 0;
  if (b && !f->n)
    return lc_fail(t->ctx, "%s: the tokenizer does not say how two texts are joined", t->source);
  if (room < 1) return lc_fail(t->ctx, "rows of %lld tokens have no room for a text", (long long)max);
  out->cut = na + nb > room;
  if (b)
    cut(room, &na, &nb);
  else
    na = lc_min64(na, room);
  out->first = 0;
  out->around = specials(f);
  if (!f->n) /* the text alone */
    for (int64_t k = 0; k < na; k++) LC_TRY(put(t, a->id[k], 0, out));
  for (int i = 0; i < f->n; i++) {
    const lc_frame_item *x = &f->item[i];
    const lc_ids *text = x->id == LC_FRAME_A ? a : b;
    const int64_t n = x->id == LC_FRAME_A ? na : nb;
    if (x->id == LC_FRAME_A) out->first = out->ids.n;
    if (x->id >= 0) LC_TRY(put(t, x->id, x->type, out));
    for (int64_t k = 0; x->id < 0 && k < n; k++) LC_TRY(put(t, text->id[k], x->type, out));
  }
  return LC_OK;
}

lc_status lc_tokenize_framed(const lc_tokenizer *t, const char *a, size_t na, const char *b, size_t nb,
                             int64_t max, lc_framed *out) {
  lc_ids ia = {0}, ib = {0};
  lc_status st = lc_tokenize(t, a, na, true, &ia);
  if (!st && b) st = lc_tokenize(t, b, nb, true, &ib);
  if (!st) st = lc_frame_ids(t, &ia, b ? &ib : NULL, max, out);
  lc_ids_free(t->ctx, &ia);
  lc_ids_free(t->ctx, &ib);
  return st;
}
