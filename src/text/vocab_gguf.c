/* A tokenizer from GGUF's metadata, and back (ggml/docs/gguf.md, tokenizer.ggml.*).
 *
 * tokens and token_type are arrays by id, merges are "a b" in order of rank, pre names the pre-tokenizer
 * (pretokenizers.c). Token types: 1 normal, 2 unknown, 3 control (special), 4 user-defined (added, plain), 5
 * unused, 6 byte (of other kinds of vocabulary). */
#include "text/tokenizer.h"
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
#define KEY(name) "tokenizer.ggml." name

static lc_status array(lc_tokenizer *t, const lc_gguf *g, const char *key, lc_gguf_type item,
                       const lc_gguf_kv **out) {
  const lc_gguf_kv *kv = lc_gguf_key(g, key);
  if (!kv) return lc_fail(t->ctx, "%s: the metadata lack '%s'", t->source, key);
  bool same_width = item == LC_GGUF_I32 && kv->item == LC_GGUF_U32;
  if (kv->type != LC_GGUF_ARRAY || (kv->item != item && !same_width))
    return lc_fail(t->ctx, "%s: '%s' is no array of %s", t->source, key,
                   item == LC_GGUF_STRING ? "strings" : "32-bit integers");
  *out = kv;
  return LC_OK;
}

static lc_status read_tokens(lc_tokenizer *t, const lc_gguf *g) {
  const lc_gguf_kv *tokens = NULL, *types = NULL;
  LC_TRY(array(t, g, KEY("tokens"), LC_GGUF_STRING, &tokens));
  LC_TRY(array(t, g, KEY("token_type"), LC_GGUF_I32, &types));
  if (types->n != tokens->n)
    return lc_fail(t->ctx, "%s: %llu tokens, and %llu token types", t->source, (unsigned long long)tokens->n,
                   (unsigned long long)types->n);
  for (uint64_t i = 0; i < tokens->n; i++) {
    int32_t type;
    memcpy(&type, types->at + 4 * i, 4);
    static const uint32_t flags[] = {[TYPE_NORMAL] = LC_TOK_VOCAB,
                                     [TYPE_UNKNOWN] = LC_TOK_VOCAB | LC_TOK_ADDED | LC_TOK_SPECIAL,
                                     [TYPE_CONTROL] = LC_TOK_VOCAB | LC_TOK_ADDED | LC_TOK_SPECIAL,
                                     [TYPE_USER] = LC_TOK_VOCAB | LC_TOK_ADDED,
                                     [TYPE_UNUSED] = LC_TOK_VOCAB | LC_TOK_UNUSED};
    if (type < TYPE_NORMAL || type > TYPE_UNUSED)
      return lc_fail(t->ctx, "%s: token %llu has type %d, which a byte-level vocabulary does not have",
                     t->source, (unsigned long long)i, type);
    LC_TRY(lc_vocab_put(t, (int64_t)i, tokens->strings[i].data, tokens->strings[i].n, flags[type]));
  }
  return LC_OK;
}

static lc_status read_merges(lc_tokenizer *t, const lc_gguf *g) {
  const lc_gguf_kv *kv = NULL;
  LC_TRY(array(t, g, KEY("merges"), LC_GGUF_STRING, &kv));
  if (kv->n > INT32_MAX) return lc_fail(t->ctx, "%s: %llu merges", t->source, (unsigned long long)kv->n);
  LC_TRY(lc_merges_begin(t, (int64_t)kv->n));
  for (uint64_t i = 0; i < kv->n; i++) {
    lc_str m = kv->strings[i];
    const char *gap = m.n > 1 ? memchr(m.data + 1, ' ', m.n - 1) : NULL;
    if (!gap)
      return lc_fail(t->ctx, "%s: merge %llu, '%s', has no space", t->source, (unsigned long long)i,
                     lc_quoted(m.data, m.n).s);
    size_t left = (size_t)(gap - m.data);
    LC_TRY(lc_merges_add(t, m.data, left, gap + 1, m.n - left - 1));
  }
  return LC_OK;
}

static lc_status read_id(lc_tokenizer *t, const lc_gguf *g, const char *key, int32_t *id) {
  int64_t k = lc_gguf_i64_or(g, key, -1);
  if (lc_gguf_key(g, key) && (k < 0 || k >= t->n))
    return lc_fail(t->ctx, "%s: '%s' is %lld, and there are %lld tokens", t->source, key, (long long)k,
                   (long long)t->n);
  *id = (int32_t)k;
  if (k >= 0) t->tok[k].flags |= LC_TOK_SPECIAL | LC_TOK_ADDED;
  return LC_OK;
}

static lc_status copy_string(lc_tokenizer *t, lc_str s, char **out) {
  *out = lc_format(t->ctx, "%.*s", (int)lc_min64((int64_t)s.n, INT32_MAX), s.data);
  return *out ? LC_OK : LC_FAILED;
}

static lc_status read_pre(lc_tokenizer *t, const lc_gguf *g) {
  lc_str model, pre;
  LC_TRY(lc_gguf_string(t->ctx, g, KEY("model"), &model));
  if (!lc_str_eq(model, "gpt2"))
    return lc_fail(t->ctx, "%s: a tokenizer of model '%s' is not supported (byte-level BPE, 'gpt2', is)",
                   t->source, lc_quoted(model.data, model.n).s);
  LC_TRY(lc_gguf_string(t->ctx, g, KEY("pre"), &pre));
  LC_TRY(copy_string(t, pre, &t->pre_name));
  const lc_pre_row *row = lc_pre_by_name(pre);
  if (!row)
    return lc_fail(t->ctx, "%s: the pre-tokenizer '%s' is not known", t->source,
                   lc_quoted_str(t->pre_name).s);
  t->ignore_merges = row->ignore_merges;
  t->adds_bos = lc_gguf_bool_or(g, KEY("add_bos_token"), row->add_bos);
  if (lc_gguf_bool_or(g, KEY("add_eos_token"), false))
    return lc_fail(t->ctx, "%s: add_eos_token (EOS after every text) is not supported", t->source);
  return lc_pre_from_row(t->ctx, t->source, row, &t->pre);
}

static lc_status read_template(lc_tokenizer *t, const lc_gguf *g) {
  lc_str s;
  if (!lc_gguf_key(g, "tokenizer.chat_template")) return LC_OK;
  LC_TRY(lc_gguf_string(t->ctx, g, "tokenizer.chat_template", &s));
  if (memchr(s.data, 0, s.n) || !lc_utf8_valid(s.data, s.n, NULL))
    return lc_fail(t->ctx, "%s: the chat template is not UTF-8 without NUL", t->source);
  return copy_string(t, s, &t->chat_template);
}

static lc_status read_context(lc_tokenizer *t, const lc_gguf *g) {
  lc_str arch;
  if (!lc_gguf_key(g, "general.architecture")) return LC_OK;
  LC_TRY(lc_gguf_string(t->ctx, g, "general.architecture", &arch));
  char *key = lc_format(t->ctx, "%.*s.context_length", (int)lc_min64((int64_t)arch.n, 100), arch.data);
  if (!key) return LC_FAILED;
  t->context_length = lc_gguf_i64_or(g, key, 0);
  lc_free(t->ctx, key);
  return LC_OK;
}

lc_status lc_tokenizer_from_gguf(lc_ctx *ctx, const lc_gguf *g, const char *path, lc_tokenizer **out) {
  lc_tokenizer *t = NULL;
  lc_status st = LC_OK;
  *out = NULL;
  LC_GO(lc_tokenizer_new(ctx, path, &t));
  LC_GO(read_pre(t, g));
  LC_GO(read_tokens(t, g));
  LC_GO(read_merges(t, g));
  LC_GO(read_id(t, g, KEY("bos_token_id"), &t->bos));
  LC_GO(read_id(t, g, KEY("eos_token_id"), &t->eos));
  LC_GO(read_id(t, g, KEY("padding_token_id"), &t->pad));
  LC_GO(read_id(t, g, KEY("unknown_token_id"), &t->unknown));
  LC_GO(read_id(t, g, KEY("eot_token_id"), &t->eot));
  LC_GO(read_id(t, g, KEY("eom_token_id"), &t->eom));
  if (t->adds_bos && t->bos < 0) {
    st = lc_fail(ctx, "%s: BOS is to be added, and there is no bos_token_id", path);
    goto done;
  }
  LC_GO(read_template(t, g));
  LC_GO(read_context(t, g));
  LC_GO(lc_vocab_finish(t));
  LC_GO(lc_stops_finish(t));
  *out = t;
done:
  if (st) lc_tokenizer_free(t);
  return st;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* The name under which GGUF knows what this tokenizer does. */
static lc_status pre_name(const lc_tokenizer *t, const char **name) {
  if (t->nfc) return lc_fail(t->ctx, "%s: a GGUF has no place for the normalizer NFC", t->source);
  if (t->unk >= 0) return lc_fail(t->ctx, "%s: a GGUF has no place for the model's unk_token", t->source);
  for (int64_t i = 0; i < t->n; i++)
    if (t->tok[i].flags & (LC_TOK_LSTRIP | LC_TOK_RSTRIP))
      return lc_fail(t->ctx, "%s: a GGUF has no place for lstrip or rstrip of the token '%s'", t->source,
                     lc_quoted_str(lc_token_text(t, (int32_t)i)).s);
  *name = t->pre_name;
  const lc_pre_row *row;
  for (int i = 0; !*name && (row = lc_pre_at(i)); i++) {
    lc_pre pre = {0};
    lc_status st = lc_pre_from_row(t->ctx, t->source, row, &pre);
    if (!st && lc_pre_same(&pre, &t->pre) && row->ignore_merges == t->ignore_merges) *name = row->names[0];
    lc_pre_free(t->ctx, &pre);
    LC_TRY(st);
  }
  if (*name) return LC_OK;
  return lc_fail(t->ctx, "%s: GGUF has no name that we know for this pre-tokenizer%s", t->source,
                 t->ignore_merges ? " with ignore_merges" : "");
}

static lc_status put_tokens(const lc_tokenizer *t, lc_gguf_writer *w) {
  lc_status st = LC_OK;
  lc_str *text = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)t->n, sizeof *text);
  int32_t *type = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)t->n, sizeof *type);
  lc_bytes pads = {0}; /* "[PAD<id>]" for ids without a text, one after the other */
  if (!text || !type) {
    st = LC_FAILED;
    goto done;
  }
  for (int64_t i = 0; i < t->n; i++) {
    char name[32];
    if (!t->tok[i].flags)
      LC_GO(
          lc_bytes_add(t->ctx, &pads, name, (size_t)snprintf(name, sizeof name, "[PAD%lld]", (long long)i)));
  }
  size_t at = 0;
  for (int64_t i = 0; i < t->n; i++) {
    const lc_token *k = &t->tok[i];
    type[i] = k->flags & LC_TOK_SPECIAL ? TYPE_CONTROL : k->flags & LC_TOK_ADDED ? TYPE_USER : TYPE_NORMAL;
    text[i] = (lc_str){t->arena.data + k->text, k->n_text};
    if (k->flags & LC_TOK_UNUSED) type[i] = TYPE_UNUSED;
    if (k->flags) continue;
    type[i] = TYPE_UNUSED;
    text[i] = (lc_str){pads.data + at, (size_t)(strchr(pads.data + at, ']') + 1 - (pads.data + at))};
    at += text[i].n;
  }
  LC_GO(lc_gguf_put_strings(w, KEY("tokens"), text, t->n));
  LC_GO(lc_gguf_put_i32s(w, KEY("token_type"), type, t->n));
done:
  lc_free(t->ctx, text);
  lc_free(t->ctx, type);
  lc_free(t->ctx, pads.data);
  return st;
}

static lc_status put_merges(const lc_tokenizer *t, lc_gguf_writer *w) {
  lc_status st = LC_OK;
  lc_bytes all = {0};
  size_t n = (size_t)t->n_merges, at = 0;
  lc_str *text = lc_alloc_n(t->ctx, LC_MEM_OTHER, n, sizeof *text);
  if (!text) return LC_FAILED;
  for (size_t i = 0; i < n; i++) {
    const lc_merge *m = &t->merge[i];
    LC_GO(lc_bytes_add(t->ctx, &all, lc_token_text(t, m->left), t->tok[m->left].n_text));
    LC_GO(lc_bytes_add(t->ctx, &all, " ", 1));
    LC_GO(lc_bytes_add(t->ctx, &all, lc_token_text(t, m->right), t->tok[m->right].n_text));
  }
  for (size_t i = 0; i < n; i++) {
    text[i] = (lc_str){all.data + at, t->tok[t->merge[i].left].n_text + 1 + t->tok[t->merge[i].right].n_text};
    at += text[i].n;
  }
  LC_GO(lc_gguf_put_strings(w, KEY("merges"), text, (int64_t)n));
done:
  lc_free(t->ctx, text);
  lc_free(t->ctx, all.data);
  return st;
}

lc_status lc_tokenizer_write_gguf(const lc_tokenizer *t, lc_gguf_writer *w) {
  const char *pre;
  const struct {
    const char *key;
    int32_t id;
  } ids[] = {{KEY("bos_token_id"), t->bos},         {KEY("eos_token_id"), t->eos},
             {KEY("unknown_token_id"), t->unknown}, {KEY("padding_token_id"), t->pad},
             {KEY("eot_token_id"), t->eot},         {KEY("eom_token_id"), t->eom}};
  LC_TRY(pre_name(t, &pre));
  LC_TRY(lc_gguf_put_string(w, KEY("model"), "gpt2", 4));
  LC_TRY(lc_gguf_put_string(w, KEY("pre"), pre, strlen(pre)));
  LC_TRY(put_tokens(t, w));
  LC_TRY(put_merges(t, w));
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    if (ids[i].id >= 0) LC_TRY(lc_gguf_put_u32(w, ids[i].key, (uint32_t)ids[i].id));
  LC_TRY(lc_gguf_put_bool(w, KEY("add_bos_token"), t->adds_bos));
  LC_TRY(lc_gguf_put_bool(w, KEY("add_space_prefix"), false));
  if (!t->chat_template) return LC_OK;
  return lc_gguf_put_string(w, "tokenizer.chat_template", t->chat_template, strlen(t->chat_template));
}
