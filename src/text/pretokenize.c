/* Cutting a text into words: tokenizer.json's pre_tokenizer as a list of steps, and its execution.
 *
 * Every step cuts each piece that the step before left, and sees nothing beyond the piece, so pieces are
 * handed down depth first and no list of them is ever built. Digits and ByteLevel's own expression are
 * patterns like any other. ByteLevel's mapping of bytes to characters is not done here: merging works on
 * bytes (bpe.c), which is why ByteLevel must come last.
 *
 * Patterns run in PCRE2 with JIT code where it has it, else interpreted, under limits; the result is the
 * same. */
#include "text/tokenizer.h"
#include <jansson.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

typedef struct {
  lc_ctx *ctx;
  const char *source;
  lc_pre *pre;
  bool byte_level; /* seen */
} builder;

/* ---- building ------------------------------------------------------------------------------------------ */

static void *pcre_alloc(size_t n, void *ctx) {
  return lc_alloc(ctx, LC_MEM_OTHER, n);
}
static void pcre_free(void *p, void *ctx) {
  lc_free(ctx, p);
}

static lc_status compile(const builder *b, const char *pattern, size_t n, pcre2_code **code) {
  lc_status st = LC_OK;
  lc_bytes ours = {0};
  pcre2_compile_context *how = NULL;
  pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_free, b->ctx);
  int error = 0;
  PCRE2_SIZE at = 0;
  LC_GO(lc_pattern_translate(b->ctx, b->source, pattern, n, &ours));
  if (general) how = pcre2_compile_context_create(general);
  if (!how) {
    st = lc_fail(b->ctx, "out of memory for the pre-tokenizer");
    goto done;
  }
  pcre2_set_newline(how, PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(how, 1 << 16);
  *code = pcre2_compile((PCRE2_SPTR)ours.data, ours.n,
                        PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C, &error, &at,
                        how);
  if (!*code) {
    char why[128] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
    st = lc_fail(b->ctx, "%s: the pre-tokenizer's pattern '%s' does not compile: %s", b->source,
                 lc_quoted(pattern, n).s, why);
    goto done;
  }
  pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* without it the interpreter runs */
done:
  pcre2_compile_context_free(how);
  pcre2_general_context_free(general);
  lc_free(b->ctx, ours.data);
  return st;
}

static lc_status add_step(builder *b, lc_step_kind kind, const char *pattern, size_t n, bool drop_match,
                          bool drop_between) {
  if (b->pre->n == LC_MAX_STEPS)
    return lc_fail(b->ctx, "%s: the pre-tokenizer has more than %d steps", b->source, LC_MAX_STEPS);
  lc_step *s = &b->pre->step[b->pre->n];
  *s = (lc_step){.kind = kind, .drop_match = drop_match, .drop_between = drop_between};
  b->pre->n++;
  if (kind != LC_STEP_SPLIT) return LC_OK;
  if (n == 0) return lc_fail(b->ctx, "%s: the pre-tokenizer has an empty pattern", b->source);
  s->pattern = lc_format(b->ctx, "%.*s", (int)lc_min64((int64_t)n, INT32_MAX), pattern);
  if (!s->pattern) return LC_FAILED;
  return compile(b, pattern, n, &s->code);
}

/* A boolean member; missing or null is the library's default. */
static lc_status flag(const builder *b, const json_t *o, const char *key, bool def, bool *out) {
  const json_t *v = json_object_get(o, key);
  *out = v && !json_is_null(v) ? json_is_true(v) : def;
  if (v && !json_is_null(v) && !json_is_boolean(v))
    return lc_fail(b->ctx, "%s: the pre-tokenizer's %s is not true or false", b->source, key);
  return LC_OK;
}

static lc_status add_byte_level(builder *b, const json_t *o) {
  bool prefix, words;
  LC_TRY(flag(b, o, "add_prefix_space", true, &prefix));
  LC_TRY(flag(b, o, "use_regex", true, &words));
  if (prefix) LC_TRY(add_step(b, LC_STEP_PREFIX, NULL, 0, false, false));
  if (words) LC_TRY(add_step(b, LC_STEP_SPLIT, GPT2_WORDS, strlen(GPT2_WORDS), false, false));
  b->byte_level = true;
  return LC_OK;
}

static lc_status add_digits(builder *b, const json_t *o) {
  bool individual;
  LC_TRY(flag(b, o, "individual_digits", false, &individual));
  const char *p = individual ? "\\p{N}" : "\\p{N}+";
  return add_step(b, LC_STEP_SPLIT, p, strlen(p), false, false);
}

static lc_status literal_pattern(const builder *b, const json_t *text, lc_bytes *out) {
  const char *s = json_string_value(text);
  for (size_t i = 0; i < json_string_length(text); i++) {
    if (strchr("\\^$.[]|()?*+{}-&", s[i]) && s[i]) LC_TRY(lc_bytes_add(b->ctx, out, "\\", 1));
    LC_TRY(lc_bytes_add(b->ctx, out, s + i, 1));
  }
  return LC_OK;
}

static lc_status add_split(builder *b, const json_t *o) {
  const json_t *p = json_object_get(o, "pattern"), *regex = json_object_get(p, "Regex"),
               *text = json_object_get(p, "String");
  const char *behavior = json_string_value(json_object_get(o, "behavior"));
  bool invert, removed = behavior && strcmp(behavior, "Removed") == 0;
  LC_TRY(flag(b, o, "invert", false, &invert));
  if (!removed && !(behavior && strcmp(behavior, "Isolated") == 0))
    return lc_fail(b->ctx, "%s: a pre-tokenizer's Split with behavior '%s' is not supported", b->source,
                   lc_quoted_str(behavior).s);
  if (json_is_string(regex))
    return add_step(b, LC_STEP_SPLIT, json_string_value(regex), json_string_length(regex), removed && !invert,
                    removed && invert);
  if (!json_is_string(text)) return lc_fail(b->ctx, "%s: a pre-tokenizer's Split has no pattern", b->source);
  lc_bytes literal = {0};
  lc_status st = literal_pattern(b, text, &literal);
  if (!st) st = add_step(b, LC_STEP_SPLIT, literal.data, literal.n, removed && !invert, removed && invert);
  lc_free(b->ctx, literal.data);
  return st;
}

static lc_status add(builder *b, const json_t *o, int depth);

static lc_status add_sequence(builder *b, const json_t *o, int depth) {
  const json_t *list = json_object_get(o, "pretokenizers");
  if (!json_is_array(list))
    return lc_fail(b->ctx, "%s: a pre-tokenizer's Sequence has no pretokenizers", b->source);
  for (size_t i = 0; i < json_array_size(list); i++) LC_TRY(add(b, json_array_get(list, i), depth + 1));
  return LC_OK;
}

static lc_status add(builder *b, const json_t *o, int depth) {
  const char *type = json_string_value(json_object_get(o, "type"));
  if (!type || depth > 4) return lc_fail(b->ctx, "%s: the pre-tokenizer is malformed", b->source);
  if (strcmp(type, "Sequence") == 0) return add_sequence(b, o, depth);
  if (b->byte_level)
    return lc_fail(b->ctx, "%s: a pre-tokenizer '%s' after ByteLevel is not supported", b->source,
                   lc_quoted_str(type).s);
  if (strcmp(type, "ByteLevel") == 0) return add_byte_level(b, o);
  if (strcmp(type, "Digits") == 0) return add_digits(b, o);
  if (strcmp(type, "Split") == 0) return add_split(b, o);
  return lc_fail(b->ctx, "%s: the pre-tokenizer '%s' is not supported", b->source, lc_quoted_str(type).s);
}

lc_status lc_pre_build(lc_ctx *ctx, const char *source, const json_t *json, lc_pre *pre) {
  builder b = {.ctx = ctx, .source = source, .pre = pre};
  if (!json || json_is_null(json))
    return lc_fail(ctx, "%s: there is no pre-tokenizer: only byte-level ones are supported", source);
  LC_TRY(add(&b, json, 0));
  if (!b.byte_level)
    return lc_fail(ctx, "%s: the pre-tokenizer does not end in ByteLevel: only byte-level ones are supported",
                   source);
  return LC_OK;
}

lc_status lc_pre_from_row(lc_ctx *ctx, const char *source, const lc_pre_row *row, lc_pre *pre) {
  json_t *json = json_loads(row->json, 0, NULL);
  lc_status st =
      json ? lc_pre_build(ctx, source, json, pre) : lc_fail(ctx, "out of memory for the pre-tokenizer");
  json_decref(json);
  return st;
}

void lc_pre_free(lc_ctx *ctx, lc_pre *pre) {
  for (int i = 0; i < pre->n; i++) {
    lc_free(ctx, pre->step[i].pattern);
    pcre2_code_free(pre->step[i].code);
  }
  pre->n = 0;
}

bool lc_pre_same(const lc_pre *a, const lc_pre *b) {
  if (a->n != b->n) return false;
  for (int i = 0; i < a->n; i++) {
    const lc_step *x = &a->step[i], *y = &b->step[i];
    if (x->kind != y->kind || x->drop_match != y->drop_match || x->drop_between != y->drop_between)
      return false;
    if (x->pattern && strcmp(x->pattern, y->pattern) != 0) return false;
  }
  return true;
}

/* ---- running ------------------------------------------------------------------------------------------- */

lc_status lc_pre_run_begin(lc_tok_run *r) {
  r->general = pcre2_general_context_create(pcre_alloc, pcre_free, r->t->ctx);
  if (r->general) r->match = pcre2_match_data_create(1, r->general);
  if (r->general) r->limits = pcre2_match_context_create(r->general);
  if (!r->match || !r->limits) return lc_fail(r->t->ctx, "out of memory for the pre-tokenizer");
  pcre2_set_heap_limit(r->limits, 256 * 1024); /* KiB */
  return LC_OK;
}

void lc_pre_run_end(lc_tok_run *r) {
  pcre2_match_data_free(r->match);
  pcre2_match_context_free(r->limits);
  pcre2_general_context_free(r->general);
}

static lc_status run_step(lc_tok_run *r, int k, const char *s, size_t n);

/* The next match at or after `from`; *found false when there is none. */
static lc_status next_match(lc_tok_run *r, const lc_step *step, const char *s, size_t n, size_t from,
                            size_t *a, size_t *b, bool *found) {
  int rc = pcre2_match(step->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, r->match, r->limits);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
    rc = pcre2_match(step->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, r->match,
                     r->limits);
  *found = rc >= 0;
  if (rc == PCRE2_ERROR_NOMATCH) return LC_OK;
  if (rc < 0) {
    char why[128] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return lc_fail(r->t->ctx, "%s: the pre-tokenizer's pattern gives up on a text of %zu bytes: %s",
                   r->t->source, n, why);
  }
  const PCRE2_SIZE *v = pcre2_get_ovector_pointer(r->match);
  *a = v[0], *b = v[1];
  return LC_OK;
}

static lc_status run_split(lc_tok_run *r, int k, const char *s, size_t n) {
  const lc_step *step = &r->t->pre.step[k];
  size_t done = 0, from = 0, a = 0, b = 0;
  bool found = true;
  while (from <= n && found) {
    LC_TRY(next_match(r, step, s, n, from, &a, &b, &found));
    if (!found) break;
    if (a > done && !step->drop_between) LC_TRY(run_step(r, k + 1, s + done, a - done));
    if (b > a && !step->drop_match) LC_TRY(run_step(r, k + 1, s + a, b - a));
    done = from = b;
    if (b == a) { /* an empty match cuts, and the search goes on a character later */
      if (b == n) break;
      from += (size_t)lc_utf8_step(s + b, n - b);
    }
  }
  return n > done && !step->drop_between ? run_step(r, k + 1, s + done, n - done) : LC_OK;
}

static lc_status run_prefix(lc_tok_run *r, int k, const char *s, size_t n) {
  if (*s == ' ') return run_step(r, k + 1, s, n);
  r->prefixed.n = 0;
  LC_TRY(lc_bytes_add(r->t->ctx, &r->prefixed, " ", 1));
  LC_TRY(lc_bytes_add(r->t->ctx, &r->prefixed, s, n));
  const char *buffer = r->buffer;
  int64_t at = r->at;
  r->at += s - r->buffer - 1;
  r->buffer = r->prefixed.data;
  lc_status st = run_step(r, k + 1, r->prefixed.data, n + 1);
  r->buffer = buffer, r->at = at;
  return st;
}

static lc_status run_step(lc_tok_run *r, int k, const char *s, size_t n) {
  if (k == r->t->pre.n) return lc_bpe_word(r, s, n);
  return r->t->pre.step[k].kind == LC_STEP_PREFIX ? run_prefix(r, k, s, n) : run_split(r, k, s, n);
}

lc_status lc_pretokenize(lc_tok_run *r, const char *s, size_t n) {
  return run_step(r, 0, s, n);
}
