/* Tokenizer files for an output directory: copies of the base's, or made from a GGUF's metadata so that the
 * tokenizers library and transformers give the same ids. */
#include "text/tokenizer.h"
#include <jansson.h>
#include <string.h>

static const char *const base_files[] = {"tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "generation_config.json",
                                         "chat_template.jinja",
                                         "vocab.txt",
                                         "preprocessor_config.json"};

lc_status lc_tokenizer_copy_dir(lc_ctx *ctx, const char *from_dir, const char *dir) {
  lc_status st = LC_OK;
  for (size_t i = 0; !st && i < sizeof base_files / sizeof *base_files; i++) {
    char *from = lc_path_join(ctx, from_dir, base_files[i]), *to = lc_path_join(ctx, dir, base_files[i]);
    st = !from || !to ? LC_FAILED : lc_path_exists(from) ? lc_copy_file(ctx, from, to) : LC_OK;
    lc_free(ctx, from);
    lc_free(ctx, to);
  }
  return st;
}

/* ---- from metadata ------------------------------------------------------------------------------------- */

static int to_out(const char *s, size_t n, void *out) {
  return lc_out_write(out, s, n) ? -1 : 0;
}

/* Takes the reference; keeps the order of the keys, so that a vocabulary is in order of ids. */
static lc_status write_json(const lc_tokenizer *t, const char *dir, const char *name, json_t *o) {
  lc_out out = {0};
  char *path = lc_path_join(t->ctx, dir, name);
  lc_status st = path ? LC_OK : LC_FAILED;
  if (!st && !o) st = lc_fail(t->ctx, "%s: out of memory", path);
  if (!st) st = lc_out_open(t->ctx, path, &out);
  if (!st) {
    int bad = json_dump_callback(o, to_out, &out, JSON_INDENT(2)) || lc_out_write(&out, "\n", 1);
    st = lc_out_commit(&out); /* a failed write is reported here */
    if (bad && !st) st = lc_fail(t->ctx, "%s: cannot be written as JSON", path);
  }
  json_decref(o);
  lc_free(t->ctx, path);
  return st;
}

static json_t *token_string(const lc_tokenizer *t, int32_t id) {
  return json_stringn(lc_token_text(t, id), t->tok[id].n_text);
}

static json_t *added_json(const lc_tokenizer *t) {
  json_t *list = json_array();
  for (int64_t id = 0; id < t->n; id++) {
    if (!(t->tok[id].flags & LC_TOK_ADDED)) continue;
    json_array_append_new(list,
                          json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                                    token_string(t, (int32_t)id), "single_word", 0, "lstrip", 0, "rstrip", 0,
                                    "normalized", 0, "special", (t->tok[id].flags & LC_TOK_SPECIAL) != 0));
  }
  return list;
}

static json_t *model_json(const lc_tokenizer *t) {
  json_t *vocab = json_object(), *merges = json_array();
  for (int64_t id = 0; id < t->n; id++)
    if (t->tok[id].flags) json_object_set_new(vocab, lc_token_text(t, (int32_t)id), json_integer(id));
  for (int64_t i = 0; i < t->n_merges; i++)
    json_array_append_new(
        merges, json_pack("[o, o]", token_string(t, t->merge[i].left), token_string(t, t->merge[i].right)));
  return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                   "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                   "byte_fallback", 0, "ignore_merges", (int)t->ignore_merges, "vocab", vocab, "merges",
                   merges);
}

static json_t *byte_level(void) {
  return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                   "use_regex", 1);
}

static json_t *part(const char *kind, const char *id, int type_id) {
  return json_pack("{s:{s:s, s:i}}", kind, "id", id, "type_id", type_id);
}

/* BOS in front of a text, or nothing (ByteLevel only touches offsets). */
static json_t *post_json(const lc_tokenizer *t) {
  if (!t->adds_bos) return byte_level();
  const char *bos = lc_token_text(t, t->bos);
  json_t *single = json_pack("[o, o]", part("SpecialToken", bos, 0), part("Sequence", "A", 0));
  json_t *pair = json_pack("[o, o, o, o]", part("SpecialToken", bos, 0), part("Sequence", "A", 0),
                           part("SpecialToken", bos, 1), part("Sequence", "B", 1));
  json_t *named = json_pack("{s:{s:s, s:[i], s:[s]}}", bos, "id", bos, "ids", t->bos, "tokens", bos);
  return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
                   "special_tokens", named);
}

static json_t *tokenizer_json(const lc_tokenizer *t) {
  const lc_pre_row *row = lc_pre_by_name((lc_str){t->pre_name, strlen(t->pre_name)});
  return json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                   "added_tokens", added_json(t), "normalizer", "pre_tokenizer",
                   json_loads(row->json, 0, NULL), "post_processor", post_json(t), "decoder", byte_level(),
                   "model", model_json(t));
}

static void set_named(const lc_tokenizer *t, json_t *o) {
  const struct {
    const char *key;
    int32_t id;
  } named[] = {
      {"bos_token", t->bos}, {"eos_token", t->eos}, {"unk_token", t->unknown}, {"pad_token", t->pad}};
  for (size_t i = 0; i < sizeof named / sizeof *named; i++)
    if (named[i].id >= 0) json_object_set_new(o, named[i].key, token_string(t, named[i].id));
}

/* PreTrainedTokenizerFast takes tokenizer.json as it stands; a model's own class might build its
 * pre-tokenizer anew. */
static json_t *config_json(const lc_tokenizer *t) {
  json_t *o = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_prefix_space",
                        0, "clean_up_tokenization_spaces", 0);
  if (!o) return NULL;
  set_named(t, o);
  if (t->context_length > 0) json_object_set_new(o, "model_max_length", json_integer(t->context_length));
  if (t->chat_template) json_object_set_new(o, "chat_template", json_string(t->chat_template));
  return o;
}

static json_t *generation_json(const lc_tokenizer *t) {
  json_t *o = json_object(), *stops = json_array();
  for (int i = 0; i < t->n_stops; i++) json_array_append_new(stops, json_integer(t->stop[i]));
  if (t->bos >= 0) json_object_set_new(o, "bos_token_id", json_integer(t->bos));
  if (t->n_stops == 1) json_object_set(o, "eos_token_id", json_array_get(stops, 0));
  if (t->n_stops > 1) json_object_set(o, "eos_token_id", stops);
  if (t->pad >= 0) json_object_set_new(o, "pad_token_id", json_integer(t->pad));
  json_decref(stops);
  return o;
}

static lc_status write_template(const lc_tokenizer *t, const char *dir) {
  if (!t->chat_template) return LC_OK;
  char *path = lc_path_join(t->ctx, dir, "chat_template.jinja");
  lc_status st = path ? lc_write_file(t->ctx, path, t->chat_template, strlen(t->chat_template)) : LC_FAILED;
  lc_free(t->ctx, path);
  return st;
}

lc_status lc_tokenizer_write_dir(const lc_tokenizer *t, const char *dir) {
  LC_TRY(lc_mkdirs(t->ctx, dir));
  if (t->dir) return lc_tokenizer_copy_dir(t->ctx, t->dir, dir);
  json_t *map = json_object();
  set_named(t, map);
  LC_TRY(write_json(t, dir, "special_tokens_map.json", map));
  LC_TRY(write_json(t, dir, "tokenizer.json", tokenizer_json(t)));
  LC_TRY(write_json(t, dir, "tokenizer_config.json", config_json(t)));
  LC_TRY(write_json(t, dir, "generation_config.json", generation_json(t)));
  return write_template(t, dir);
}
