/* What the tests of text share: a context, JSON files, a scratch directory, files written and golden
 * tokenizers loaded. */
#ifndef LC_TEXT_TEST_H
#define LC_TEXT_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "text/tokenizer.h"

static lc_ctx *ctx;
static char scratch[64];

static int text_setup(void **state) {
  char why[256] = "";
  strcpy(scratch, "/tmp/lacuna-text-XXXXXX");
  if (lc_ctx_new(1, &ctx, why)) return -1;
  return mkdtemp(scratch) ? 0 : -1;
}
static int text_teardown(void **state) {
  lc_remove_tree(ctx, scratch);
  size_t left = lc_mem_bytes(ctx, LC_MEM_OTHER);
  lc_ctx_free(ctx);
  if (left) fprintf(stderr, "%zu bytes are still allocated\n", left);
  return left != 0;
}

#define assert_ok(expr)                                                                                      \
  do {                                                                                                       \
    if (expr) fail_msg("%s", lc_error(ctx));                                                                 \
  } while (0)
/* The call fails, and its sentence holds the words. */
#define assert_refused(expr, words)                                                                          \
  do {                                                                                                       \
    lc_error_clear(ctx);                                                                                     \
    assert_int_equal(expr, LC_FAILED);                                                                       \
    if (!strstr(lc_error(ctx), words)) fail_msg("'%s' does not say '%s'", lc_error(ctx), words);             \
  } while (0)

static inline json_t *load_json(const char *path) {
  json_error_t e;
  json_t *o = json_load_file(path, JSON_ALLOW_NUL, &e);
  if (!o) fail_msg("%s: %s", path, e.text);
  return o;
}
static inline char *in_scratch(const char *name) {
  char *p = lc_path_join(ctx, scratch, name);
  assert_non_null(p);
  return p;
}
static inline char *write_text(const char *name, const char *text) {
  char *p = in_scratch(name);
  assert_ok(lc_write_file(ctx, p, text, strlen(text)));
  return p;
}
static inline lc_tokenizer *golden(const char *name) {
  char path[256];
  lc_tokenizer *t;
  snprintf(path, sizeof path, "golden/tokenizer/%s", name);
  assert_ok(lc_tokenizer_from_dir(ctx, path, &t));
  return t;
}
static inline json_t *golden_cases(const char *name, const char *list) {
  char path[256];
  snprintf(path, sizeof path, "golden/tokenizer/%s/cases.json", name);
  json_t *o = load_json(path), *l = json_incref(json_object_get(o, list));
  json_decref(o);
  assert_true(json_is_array(l));
  return l;
}
static inline void same_ids(const lc_ids *got, const json_t *want, const char *text) {
  bool same = (size_t)got->n == json_array_size(want);
  for (int64_t i = 0; same && i < got->n; i++)
    same = got->id[i] == json_integer_value(json_array_get(want, (size_t)i));
  if (same) return;
  fprintf(stderr, "ids of '%s':", text);
  for (int64_t i = 0; i < got->n; i++) fprintf(stderr, " %d", got->id[i]);
  char *w = json_dumps(want, 0);
  fprintf(stderr, "\nexpected %s\n", w);
  free(w);
  fail_msg("ids differ");
}
#endif
