/* A tokenizer from a Hugging Face directory: tokenizer.json (or BERT's vocab.txt) makes the ids; the files around it say which ids
 * mean what.
 *
 *   tokenizer_config.json   bos_token, eos_token, pad_token, unk_token (strings or {"content"}),
 * added_tokens_decoder, chat_template chat_template.jinja     the newer place of the template; it wins
 *   generation_config.json  eos_token_id (one or a list): the stop ids; bos and pad where the tokenizer names
 * none config.json             the same ids, and vocab_size: rows of the embedding beyond the last token are
 * ids without a text */
#include "text/tokenizer.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEMPLATE = 1 << 20, MAX_CONFIG = 64 << 20 };

/* An optional file: *out stays NULL when it is not there. */
static lc_status read_optional(lc_ctx *ctx, const char *dir, const char *name, json_t **out) {
  char *path = lc_path_join(ctx, dir, name);
  if (!path) return LC_FAILED;
  lc_status st = lc_path_exists(path) ? lc_json_read(ctx, path, out) : LC_OK;
  lc_free(ctx, path);
  return st;
}

/* tokenizer_config.json may hold a model_max_length of 1e30 written as an integer, which Jansson takes as a
 * real only. */
static lc_status read_config(lc_tokenizer *t, json_t **out) {
  char *path = lc_path_join(t->ctx, t->dir, "tokenizer_config.json"), *text = NULL;
  size_t n = 0;
  lc_status st = path ? LC_OK : LC_FAILED;
  json_error_t e;
  if (st || !lc_path_exists(path)) goto done;
  LC_GO(lc_read_file(t->ctx, path, MAX_CONFIG, &text, &n));
  *out = json_loadb(text, n, JSON_DECODE_INT_AS_REAL, &e);
  if (!*out)
    st = lc_fail(t->ctx, "%s: line %d, column %d: %s", path, e.line, e.column, lc_quoted_str(e.text).s);
done:
  lc_free(t->ctx, path);
  lc_free(t->ctx, text);
  return st;
}

/* ---- tokenizer_config.json ----------------------------------------------------------------------------- */

static lc_status named_token(lc_tokenizer *t, const json_t *config, const char *key, int32_t *id) {
  const json_t *v = json_object_get(config, key);
  if (json_is_object(v)) v = json_object_get(v, "content");
  if (!v || json_is_null(v)) return LC_OK;
  if (!json_is_string(v)) return lc_fail(t->ctx, "%s/tokenizer_config.json: %s is no string", t->dir, key);
  int32_t found = -1;
  LC_TRY(lc_token_make_special(t, key, json_string_value(v), json_string_length(v), &found));
  if (*id >= 0 && *id != found)
    return lc_fail(
        t->ctx, "%s: %s is '%s' in tokenizer_config.json, and tokenizer.json puts '%s' in front of a text",
        t->dir, key, lc_quoted_str(json_string_value(v)).s, lc_quoted_str(lc_token_text(t, *id)).s);
  *id = found;
  return LC_OK;
}

static lc_status more_added(lc_tokenizer *t, json_t *list) {
  const char *key;
  json_t *o;
  json_object_foreach(list, key, o) {
    char *end;
    long long id = strtoll(key, &end, 10);
    if (*end || end == key || !json_is_object(o))
      return lc_fail(t->ctx, "%s/tokenizer_config.json: added_tokens_decoder is malformed at '%s'", t->dir,
                     lc_quoted_str(key).s);
    if (id >= 0 && id < t->n && (t->tok[id].flags & LC_TOK_ADDED)) continue; /* tokenizer.json has it */
    LC_TRY(lc_added_from_json(t, id, o));
  }
  return LC_OK;
}

/* A string, or a list of named templates of which the one called default counts. */
static lc_status config_template(lc_tokenizer *t, const json_t *v) {
  for (size_t i = 0; i < json_array_size(v); i++) {
    const json_t *o = json_array_get(v, i);
    const char *name = json_string_value(json_object_get(o, "name"));
    if (name && strcmp(name, "default") == 0) return config_template(t, json_object_get(o, "template"));
  }
  if (!json_is_string(v) || t->chat_template) return LC_OK;
  t->chat_template = lc_strdup(t->ctx, json_string_value(v));
  return t->chat_template ? LC_OK : LC_FAILED;
}

static lc_status read_tokenizer_config(lc_tokenizer *t) {
  json_t *c = NULL;
  lc_status st = LC_OK;
  LC_GO(read_config(t, &c));
  LC_GO(more_added(t, json_object_get(c, "added_tokens_decoder")));
  LC_GO(named_token(t, c, "bos_token", &t->bos));
  LC_GO(named_token(t, c, "eos_token", &t->eos));
  LC_GO(named_token(t, c, "pad_token", &t->pad));
  LC_GO(named_token(t, c, "unk_token", &t->unknown));
  LC_GO(config_template(t, json_object_get(c, "chat_template")));
done:
  json_decref(c);
  return st;
}

static lc_status read_template_file(lc_tokenizer *t) {
  char *path = lc_path_join(t->ctx, t->dir, "chat_template.jinja");
  if (!path) return LC_FAILED;
  size_t n;
  lc_status st =
      lc_path_exists(path) ? lc_read_file(t->ctx, path, MAX_TEMPLATE, &t->chat_template, &n) : LC_OK;
  lc_free(t->ctx, path);
  return st;
}

/* ---- generation_config.json and config.json ------------------------------------------------------------ */

static lc_status id_member(lc_tokenizer *t, const char *file, const json_t *v, const char *key, int32_t *id) {
  if (!v || json_is_null(v)) return LC_OK;
  if (!json_is_integer(v)) return lc_fail(t->ctx, "%s/%s: %s is no integer", t->dir, file, key);
  json_int_t k = json_integer_value(v);
  if (k < 0) return LC_OK; /* some write -1 for none */
  if (k >= t->n)
    return lc_fail(t->ctx, "%s/%s: %s is %lld, and the vocabulary ends at %lld", t->dir, file, key,
                   (long long)k, (long long)t->n - 1);
  if (*id < 0) *id = (int32_t)k;
  return LC_OK;
}

static lc_status read_ids(lc_tokenizer *t, const char *file, bool stops) {
  json_t *c = NULL;
  lc_status st = LC_OK;
  LC_GO(read_optional(t->ctx, t->dir, file, &c));
  const json_t *size = json_object_get(c, "vocab_size"), *eos = json_object_get(c, "eos_token_id");
  if (json_is_integer(size)) LC_GO(lc_vocab_reserve(t, json_integer_value(size)));
  LC_GO(id_member(t, file, json_object_get(c, "bos_token_id"), "bos_token_id", &t->bos));
  LC_GO(id_member(t, file, json_object_get(c, "pad_token_id"), "pad_token_id", &t->pad));
  size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
  for (size_t i = 0; i < n; i++) {
    int32_t id = -1;
    LC_GO(id_member(t, file, json_is_array(eos) ? json_array_get(eos, i) : eos, "eos_token_id", &id));
    if (t->eos < 0) t->eos = id;
    if (stops) LC_GO(lc_stops_add(t, id));
  }
done:
  json_decref(c);
  return st;
}

/* ---- vocab.txt: BERT's files before tokenizer.json ----------------------------------------------------- */

static bool flag_or(const json_t *c, const char *key, bool otherwise) {
  const json_t *v = json_object_get(c, key);
  return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* A token's id by the key that tokenizer_config.json may name it under. */
static lc_status bert_token(lc_tokenizer *t, const json_t *c, const char *key, const char *otherwise,
                            int32_t *id) {
  const json_t *v = json_object_get(c, key);
  if (json_is_object(v)) v = json_object_get(v, "content");
  const char *name = json_is_string(v) ? json_string_value(v) : otherwise;
  return lc_token_make_special(t, key, name, strlen(name), id);
}

static lc_status read_vocab_txt(lc_tokenizer *t, const char *path) {
  json_t *c = NULL;
  char *text = NULL;
  size_t n;
  int32_t cls, sep;
  lc_status st = LC_OK;
  LC_GO(read_config(t, &c));
  LC_GO(lc_read_file(t->ctx, path, MAX_CONFIG, &text, &n));
  const bool lower = flag_or(c, "do_lower_case", true);
  t->wordpiece = (lc_wordpiece){.on = true,
                                .clean = true,
                                .ideographs = flag_or(c, "tokenize_chinese_chars", true),
                                .strip = flag_or(c, "strip_accents", lower),
                                .lowercase = lower,
                                .most = 100,
                                .prefix = "##"};
  LC_GO(lc_wordpiece_vocab(t, text, n));
  LC_GO(bert_token(t, c, "unk_token", "[UNK]", &t->unk));
  LC_GO(bert_token(t, c, "pad_token", "[PAD]", &t->pad));
  LC_GO(bert_token(t, c, "cls_token", "[CLS]", &cls));
  LC_GO(bert_token(t, c, "sep_token", "[SEP]", &sep));
  if (lc_vocab_find(t, "[MASK]", 6) >= 0) LC_GO(lc_token_make_special(t, "mask_token", "[MASK]", 6, NULL));
  LC_GO(lc_wordpiece_check(t));
  st = lc_frame_bert(t, cls, sep, false);
done:
  json_decref(c);
  lc_free(t->ctx, text);
  return st;
}

lc_status lc_tokenizer_from_dir(lc_ctx *ctx, const char *dir, lc_tokenizer **out) {
  lc_tokenizer *t = NULL;
  json_t *root = NULL;
  lc_status st = LC_OK;
  *out = NULL;
  char *path = lc_path_join(ctx, dir, "tokenizer.json");
  if (!path) return LC_FAILED;
  if (!lc_path_exists(path)) {
    lc_free(ctx, path);
    path = lc_path_join(ctx, dir, "vocab.txt");
    if (!path) return LC_FAILED;
  }
  if (!lc_path_exists(path)) {
    st = lc_fail(
        ctx, "%s: there is neither tokenizer.json nor vocab.txt (a vocabulary in other files is not read)",
        dir);
    goto done;
  }
  LC_GO(lc_tokenizer_new(ctx, path, &t));
  t->dir = lc_strdup(ctx, dir);
  if (!t->dir) {
    st = LC_FAILED;
    goto done;
  }
  const size_t n_path = strlen(path);
  if (!strcmp(path + n_path - 4, ".txt")) {
    LC_GO(read_vocab_txt(t, path));
  } else {
    LC_GO(lc_json_read(ctx, path, &root));
    LC_GO(lc_tokenizer_json(t, root));
  }
  LC_GO(read_template_file(t));
  LC_GO(read_tokenizer_config(t));
  /* config.json first: it has the size that ids are checked against; its eos is the stop only where no other
   * file names one. */
  int32_t named = t->eos;
  LC_GO(read_ids(t, "config.json", false));
  int32_t from_config = t->eos;
  t->eos = named;
  LC_GO(read_ids(t, "generation_config.json", true));
  if (t->eos < 0) t->eos = from_config;
  LC_GO(lc_vocab_finish(t));
  LC_GO(lc_stops_finish(t));
  *out = t;
done:
  json_decref(root);
  lc_free(ctx, path);
  if (st) lc_tokenizer_free(t);
  return st;
}
