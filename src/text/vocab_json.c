/* tokenizer.json, the tokenizers library's own file: what of it is supported, and refusing the rest by name.
 *
 *   model          WordPiece, with BertNormalizer, BertPreTokenizer and its own decoder (wordpiece.c); or BPE without byte_fallback, dropout, prefix or suffix; merges as "a b" or ["a", "b"];
 * ignore_merges, unk_token, fuse_unk added_tokens   content, special, normalized, lstrip, rstrip (single_word
 * is refused) normalizer     none or NFC pre_tokenizer  see pretokenize.c post_processor ByteLevel (offsets
 * only) and TemplateProcessing with at most one token, BOS, in front decoder        ByteLevel truncation and
 * padding are the caller's business and not read. */
#include "text/tokenizer.h"
#include <jansson.h>
#include <string.h>

static lc_status refuse(lc_tokenizer *t, const char *what, const char *name) {
  return lc_fail(t->ctx, "%s: %s '%s' is not supported", t->source, what, lc_quoted_str(name).s);
}

static const char *type_of(const json_t *o) {
  const char *type = json_string_value(json_object_get(o, "type"));
  return type ? type : "";
}

static lc_status flag(lc_tokenizer *t, const json_t *o, const char *key, bool *out) {
  const json_t *v = json_object_get(o, key);
  *out = json_is_true(v);
  if (v && !json_is_null(v) && !json_is_boolean(v))
    return lc_fail(t->ctx, "%s: '%s' is not true or false", t->source, key);
  return LC_OK;
}

/* ---- model --------------------------------------------------------------------------------------------- */

static lc_status read_vocab(lc_tokenizer *t, json_t *vocab) {
  const char *text;
  json_t *id;
  if (!json_is_object(vocab)) return lc_fail(t->ctx, "%s: the model has no vocab", t->source);
  json_object_foreach(vocab, text, id) {
    if (!json_is_integer(id))
      return lc_fail(t->ctx, "%s: the id of token '%s' is no integer", t->source, lc_quoted_str(text).s);
    LC_TRY(lc_vocab_put(t, json_integer_value(id), text, strlen(text), LC_TOK_VOCAB));
  }
  return LC_OK;
}

static lc_status read_merge(lc_tokenizer *t, const json_t *m) {
  if (json_is_string(m)) {
    const char *s = json_string_value(m), *gap = strchr(s, ' ');
    if (!gap)
      return lc_fail(t->ctx, "%s: merge %lld, '%s', has no space", t->source, (long long)t->n_merges,
                     lc_quoted_str(s).s);
    return lc_merges_add(t, s, (size_t)(gap - s), gap + 1, strlen(gap + 1));
  }
  const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
  if (json_array_size(m) != 2 || !json_is_string(a) || !json_is_string(b))
    return lc_fail(t->ctx, "%s: merge %lld is neither \"a b\" nor [\"a\", \"b\"]", t->source,
                   (long long)t->n_merges);
  return lc_merges_add(t, json_string_value(a), json_string_length(a), json_string_value(b),
                       json_string_length(b));
}

static lc_status read_merges(lc_tokenizer *t, const json_t *merges) {
  if (!json_is_array(merges)) return lc_fail(t->ctx, "%s: the model has no merges", t->source);
  size_t n = json_array_size(merges);
  LC_TRY(lc_merges_begin(t, (int64_t)n));
  for (size_t i = 0; i < n; i++) LC_TRY(read_merge(t, json_array_get(merges, i)));
  return LC_OK;
}

static lc_status empty_string(lc_tokenizer *t, const json_t *model, const char *key) {
  const json_t *v = json_object_get(model, key);
  if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return LC_OK;
  return refuse(t, "a BPE model with", key);
}

static lc_status read_unk(lc_tokenizer *t, const json_t *model) {
  const char *unk = json_string_value(json_object_get(model, "unk_token"));
  if (!unk || !*unk) return LC_OK;
  t->unk = lc_vocab_find(t, unk, strlen(unk));
  if (t->unk < 0)
    return lc_fail(t->ctx, "%s: the vocabulary lacks its unk_token '%s'", t->source, lc_quoted_str(unk).s);
  return LC_OK;
}

static lc_status read_wordpiece(lc_tokenizer *t, const json_t *model) {
  const json_t *prefix = json_object_get(model, "continuing_subword_prefix"),
               *most = json_object_get(model, "max_input_chars_per_word");
  const char *text = prefix ? json_string_value(prefix) : "##";
  if (!text || strlen(text) >= sizeof t->wordpiece.prefix)
    return lc_fail(t->ctx, "%s: continuing_subword_prefix is no short string", t->source);
  if (most && (!json_is_integer(most) || json_integer_value(most) < 1))
    return lc_fail(t->ctx, "%s: max_input_chars_per_word is no number above 0", t->source);
  snprintf(t->wordpiece.prefix, sizeof t->wordpiece.prefix, "%s", text);
  t->wordpiece.most = most ? json_integer_value(most) : 100;
  LC_TRY(read_vocab(t, json_object_get(model, "vocab")));
  LC_TRY(read_unk(t, model));
  return lc_wordpiece_check(t);
}

static lc_status read_model(lc_tokenizer *t, const json_t *model) {
  bool byte_fallback;
  if (!json_is_object(model)) return lc_fail(t->ctx, "%s: there is no model", t->source);
  if (t->wordpiece.on) return read_wordpiece(t, model);
  if (json_object_get(model, "type") && strcmp(type_of(model), "BPE") != 0)
    return refuse(t, "a model of type", type_of(model));
  LC_TRY(flag(t, model, "byte_fallback", &byte_fallback));
  if (byte_fallback) return refuse(t, "a BPE model with", "byte_fallback");
  LC_TRY(empty_string(t, model, "continuing_subword_prefix"));
  LC_TRY(empty_string(t, model, "end_of_word_suffix"));
  if (json_number_value(json_object_get(model, "dropout")) != 0)
    return refuse(t, "a BPE model with", "dropout");
  LC_TRY(flag(t, model, "ignore_merges", &t->ignore_merges));
  LC_TRY(flag(t, model, "fuse_unk", &t->fuse_unk));
  LC_TRY(read_vocab(t, json_object_get(model, "vocab")));
  LC_TRY(read_merges(t, json_object_get(model, "merges")));
  return read_unk(t, model);
}

/* ---- added tokens -------------------------------------------------------------------------------------- */

static lc_status normal(lc_tokenizer *t, const char *s, size_t n) {
  lc_bytes b = {0};
  lc_status st = t->wordpiece.on ? lc_wordpiece_normalize(t, s, n, &b) : lc_nfc(t->ctx, s, n, &b);
  if (!st && (b.n != n || memcmp(b.data, s, n) != 0))
    st = lc_fail(t->ctx, "%s: the added token '%s' is not in %s: that is not supported", t->source,
                 lc_quoted(s, n).s, t->wordpiece.on ? "normal form" : "NFC");
  lc_free(t->ctx, b.data);
  return st;
}

lc_status lc_added_from_json(lc_tokenizer *t, int64_t id, const json_t *o) {
  const json_t *content = json_object_get(o, "content");
  bool special, lstrip, rstrip, normalized, single_word;
  if (!json_is_string(content) || json_string_length(content) == 0)
    return lc_fail(t->ctx, "%s: the added token %lld has no content", t->source, (long long)id);
  const char *s = json_string_value(content);
  size_t n = json_string_length(content);
  LC_TRY(flag(t, o, "special", &special));
  LC_TRY(flag(t, o, "lstrip", &lstrip));
  LC_TRY(flag(t, o, "rstrip", &rstrip));
  LC_TRY(flag(t, o, "normalized", &normalized));
  LC_TRY(flag(t, o, "single_word", &single_word));
  if (single_word) return refuse(t, "an added token with", "single_word");
  if (normalized && (t->nfc || t->wordpiece.on)) LC_TRY(normal(t, s, n));
  uint32_t flags = LC_TOK_ADDED | (special ? LC_TOK_SPECIAL : 0) | (lstrip ? LC_TOK_LSTRIP : 0) |
                   (rstrip ? LC_TOK_RSTRIP : 0) | (normalized ? LC_TOK_NORMALIZED : 0);
  int32_t known = lc_vocab_find(t, s, n);
  if (known < 0) return lc_vocab_put(t, id, s, n, flags);
  if (known != id)
    return lc_fail(t->ctx, "%s: the added token '%s' has id %lld, and %d in the vocabulary", t->source,
                   lc_quoted(s, n).s, (long long)id, known);
  t->tok[id].flags |= flags;
  return LC_OK;
}

static lc_status read_added(lc_tokenizer *t, const json_t *list) {
  if (list && !json_is_null(list) && !json_is_array(list))
    return lc_fail(t->ctx, "%s: added_tokens is no list", t->source);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *o = json_array_get(list, i), *id = json_object_get(o, "id");
    if (!json_is_integer(id)) return lc_fail(t->ctx, "%s: added token number %zu has no id", t->source, i);
    LC_TRY(lc_added_from_json(t, json_integer_value(id), o));
  }
  return LC_OK;
}

/* The token of this text gets an id's role and is special from now on, as transformers does with the tokens
 * that a configuration names. */
lc_status lc_token_make_special(lc_tokenizer *t, const char *key, const char *text, size_t n, int32_t *id) {
  int32_t k = lc_vocab_find(t, text, n);
  if (k < 0)
    return lc_fail(t->ctx, "%s: the vocabulary lacks the %s '%s'", t->source, key, lc_quoted(text, n).s);
  t->tok[k].flags |= LC_TOK_SPECIAL | LC_TOK_ADDED;
  if (id) *id = k;
  return LC_OK;
}

/* ---- the stages around the model ----------------------------------------------------------------------- */

static lc_status read_normalizer(lc_tokenizer *t, const json_t *o, int depth) {
  if (!o || json_is_null(o)) return LC_OK;
  if (strcmp(type_of(o), "NFC") == 0) {
    t->nfc = true;
    return LC_OK;
  }
  if (strcmp(type_of(o), "Sequence") != 0 || depth > 4) return refuse(t, "the normalizer", type_of(o));
  const json_t *list = json_object_get(o, "normalizers");
  for (size_t i = 0; i < json_array_size(list); i++)
    LC_TRY(read_normalizer(t, json_array_get(list, i), depth + 1));
  return LC_OK;
}

static lc_status frame_full(lc_tokenizer *t) {
  return lc_fail(t->ctx, "%s: the post-processor's template has more than %d items", t->source, LC_FRAME_MAX);
}

/* A list of special tokens and of the sequences A and B, each with a token type. */
static lc_status read_frame(lc_tokenizer *t, const json_t *list, bool pair, lc_frame_list *out) {
  int seen[2] = {0};
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i), *token = json_object_get(item, "SpecialToken"),
                 *sequence = json_object_get(item, "Sequence");
    const char *name = json_string_value(json_object_get(token ? token : sequence, "id"));
    const json_int_t type = json_integer_value(json_object_get(token ? token : sequence, "type_id"));
    int32_t id = LC_FRAME_A;
    if (!name || type < 0 || type > 255)
      return lc_fail(t->ctx, "%s: the post-processor's template is malformed", t->source);
    if (token) {
      LC_TRY(lc_token_make_special(t, "post-processor's token", name, strlen(name), &id));
    } else {
      if (strcmp(name, "A") && (!pair || strcmp(name, "B")))
        return lc_fail(t->ctx, "%s: the post-processor's template has a sequence '%s'", t->source,
                       lc_quoted_str(name).s);
      if (*name == 'B') id = LC_FRAME_B;
      if (seen[*name == 'B']++)
        return lc_fail(t->ctx, "%s: the post-processor's template repeats the text", t->source);
    }
    if (!lc_frame_add(out, id, (int)type)) return frame_full(t);
  }
  if (out->n && (!seen[0] || (pair && !seen[1])))
    return lc_fail(t->ctx, "%s: the post-processor's template leaves a text out", t->source);
  return LC_OK;
}

/* One token in front and nothing behind is a BOS; tokens on both sides are for networks that read a whole text. Anything
 * else would be lost where a text is a prompt. */
static lc_status frame_done(lc_tokenizer *t) {
  const lc_frame_list *f = &t->frame[0];
  const int32_t last = f->n ? f->item[f->n - 1].id : LC_FRAME_A;
  if (f->n > 1 && (f->item[0].id < 0 || (f->n > 2 && last < 0)))
    return refuse(t, "a post-processor that adds more than BOS in front:",
                  lc_token_text(t, last < 0 ? f->item[1].id : last));
  t->adds_bos = f->n == 2 && f->item[0].id >= 0 && f->item[1].id == LC_FRAME_A;
  t->framed = f->n > 1 && !t->adds_bos;
  if (t->adds_bos) t->bos = f->item[0].id;
  return LC_OK;
}

static lc_status read_template(lc_tokenizer *t, const json_t *o) {
  const json_t *single = json_object_get(o, "single"), *pair = json_object_get(o, "pair");
  if (!json_is_array(single) || (pair && !json_is_null(pair) && !json_is_array(pair)) || t->frame[0].n)
    return lc_fail(t->ctx, "%s: the post-processor's template is malformed", t->source);
  LC_TRY(read_frame(t, single, false, &t->frame[0]));
  LC_TRY(read_frame(t, pair, true, &t->frame[1]));
  return frame_done(t);
}

static lc_status named_pair(lc_tokenizer *t, const json_t *o, const char *key, int32_t *id) {
  const json_t *name = json_array_get(json_object_get(o, key), 0);
  if (!json_is_string(name)) return lc_fail(t->ctx, "%s: the post-processor has no %s token", t->source, key);
  return lc_token_make_special(t, "post-processor's token", json_string_value(name), json_string_length(name),
                               id);
}

/* BERT's and RoBERTa's own post-processors: fixed templates. */
static lc_status read_bert(lc_tokenizer *t, const json_t *o, bool roberta) {
  int32_t cls, sep;
  LC_TRY(named_pair(t, o, "cls", &cls));
  LC_TRY(named_pair(t, o, "sep", &sep));
  return lc_frame_bert(t, cls, sep, roberta);
}

lc_status lc_frame_bert(lc_tokenizer *t, int32_t cls, int32_t sep, bool roberta) {
  const int other = roberta ? 0 : 1; /* the second text's type */
  if (t->frame[0].n) return lc_fail(t->ctx, "%s: two post-processors put tokens around a text", t->source);
  const lc_frame_item single[] = {{cls, 0}, {LC_FRAME_A, 0}, {sep, 0}};
  const lc_frame_item pair[] = {
      {cls, 0}, {LC_FRAME_A, 0}, {sep, 0}, {sep, 0}, {LC_FRAME_B, (uint8_t)other}, {sep, (uint8_t)other}};
  for (int i = 0; i < 3; i++) lc_frame_add(&t->frame[0], single[i].id, single[i].type);
  for (int i = 0; i < 6; i++)
    if (roberta || i != 3) lc_frame_add(&t->frame[1], pair[i].id, pair[i].type);
  return frame_done(t);
}

static lc_status read_post_processor(lc_tokenizer *t, const json_t *o, int depth) {
  if (!o || json_is_null(o) || strcmp(type_of(o), "ByteLevel") == 0) return LC_OK;
  if (strcmp(type_of(o), "TemplateProcessing") == 0) return read_template(t, o);
  if (strcmp(type_of(o), "BertProcessing") == 0) return read_bert(t, o, false);
  if (strcmp(type_of(o), "RobertaProcessing") == 0) return read_bert(t, o, true);
  if (strcmp(type_of(o), "Sequence") != 0 || depth > 4) return refuse(t, "the post-processor", type_of(o));
  const json_t *list = json_object_get(o, "processors");
  for (size_t i = 0; i < json_array_size(list); i++)
    LC_TRY(read_post_processor(t, json_array_get(list, i), depth + 1));
  return LC_OK;
}

/* BERT's chain: its normaliser and pre-tokenizer go with WordPiece, and WordPiece with them. */
static lc_status read_bert_stages(lc_tokenizer *t, const json_t *root) {
  const json_t *normalizer = json_object_get(root, "normalizer"),
               *pre = json_object_get(root, "pre_tokenizer"), *decoder = json_object_get(root, "decoder"),
               *strip = json_object_get(normalizer, "strip_accents");
  lc_wordpiece *w = &t->wordpiece;
  if (strcmp(type_of(normalizer), "BertNormalizer"))
    return refuse(t, "WordPiece behind the normalizer", type_of(normalizer));
  if (strcmp(type_of(pre), "BertPreTokenizer"))
    return refuse(t, "WordPiece behind the pre-tokenizer", type_of(pre));
  if (decoder && !json_is_null(decoder) && strcmp(type_of(decoder), "WordPiece"))
    return refuse(t, "the decoder", type_of(decoder));
  w->on = true;
  LC_TRY(flag(t, normalizer, "clean_text", &w->clean));
  LC_TRY(flag(t, normalizer, "handle_chinese_chars", &w->ideographs));
  LC_TRY(flag(t, normalizer, "lowercase", &w->lowercase));
  LC_TRY(flag(t, normalizer, "strip_accents", &w->strip));
  if (!strip || json_is_null(strip)) w->strip = w->lowercase;
  return LC_OK;
}

lc_status lc_tokenizer_json(lc_tokenizer *t, const json_t *root) {
  const json_t *decoder = json_object_get(root, "decoder");
  if (!json_is_object(root)) return lc_fail(t->ctx, "%s: this is no JSON object", t->source);
  if (!strcmp(type_of(json_object_get(root, "model")), "WordPiece")) {
    LC_TRY(read_bert_stages(t, root));
    LC_TRY(read_model(t, json_object_get(root, "model")));
    LC_TRY(read_added(t, json_object_get(root, "added_tokens")));
    return read_post_processor(t, json_object_get(root, "post_processor"), 0);
  }
  LC_TRY(read_normalizer(t, json_object_get(root, "normalizer"), 0));
  LC_TRY(lc_pre_build(t->ctx, t->source, json_object_get(root, "pre_tokenizer"), &t->pre));
  if (decoder && !json_is_null(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0)
    return refuse(t, "the decoder", type_of(decoder));
  LC_TRY(read_model(t, json_object_get(root, "model")));
  LC_TRY(read_added(t, json_object_get(root, "added_tokens")));
  return read_post_processor(t, json_object_get(root, "post_processor"), 0);
}
