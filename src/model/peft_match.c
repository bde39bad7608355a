/* Which modules an adapter_config.json means (PEFT's rule, tuners_utils.py and utils/other.py), and the
 * pattern tables of rank and alpha.
 *
 * In this order: exclude_modules wins; what lies inside a module of modules_to_save is out; target_modules as
 * a string is a regular expression over the whole path, or "all-linear" in any case; as a list each item is
 * the path or its suffix after a dot, and layers_to_transform may then narrow it to layer numbers; absent, it
 * depends on the model's type. Keys of rank_pattern and alpha_pattern are regular expressions that must match
 * the end of the path from its start or after a dot; the first key that matches, in the file's order, gives
 * the value. Python's and PCRE's expressions agree on what occurs in module paths. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "model/adapter.h"

/* Matches `text` from its start (to its end when whole); group 1 -> number, when asked for (-1: none). */
static lc_status match(lc_ctx *ctx, const char *pattern, const char *text, bool whole, bool *out,
                       int64_t *number) {
  int code;
  PCRE2_SIZE at;
  pcre2_code *re =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                    PCRE2_UTF | PCRE2_ANCHORED | (whole ? PCRE2_ENDANCHORED : 0), &code, &at, NULL);
  if (!re) {
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(code, why, sizeof why);
    return lc_fail(ctx, "%s: the regular expression '%s' is wrong at character %zu: %s", LC_PEFT_CONFIG,
                   pattern, (size_t)at + 1, (const char *)why);
  }
  pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
  *out = m && pcre2_match(re, (PCRE2_SPTR)text, strlen(text), 0, 0, m, NULL) >= 0;
  if (number) {
    const PCRE2_SIZE *group = *out ? pcre2_get_ovector_pointer(m) : NULL;
    *number = group ? strtoll(text + group[2], NULL, 10) : -1;
  }
  pcre2_match_data_free(m);
  pcre2_code_free(re);
  return m ? LC_OK : lc_fail(ctx, "out of memory");
}

/* A string: a regular expression over the whole path. A list: the path, or its suffix after a dot. */
static lc_status names(lc_ctx *ctx, const json_t *rule, const char *key, const char *module, bool *out) {
  *out = false;
  if (json_is_string(rule)) return match(ctx, json_string_value(rule), module, true, out, NULL);
  if (!json_is_array(rule)) return lc_fail(ctx, "%s: %s is neither a string nor a list", LC_PEFT_CONFIG, key);
  for (size_t i = 0; i < json_array_size(rule); i++) {
    const char *item = json_string_value(json_array_get(rule, i));
    if (!item) return lc_fail(ctx, "%s: an item of %s is not a string", LC_PEFT_CONFIG, key);
    *out = *out || lc_target_matches(module, item);
  }
  return LC_OK;
}

static bool empty(const json_t *j) {
  return !j || json_is_null(j) || (json_is_array(j) && !json_array_size(j)) ||
         (json_is_string(j) && !*json_string_value(j));
}

/* The layer number: the first numbered segment after two names, or after one of layers_pattern. */
static lc_status layer_number(lc_ctx *ctx, const json_t *patterns, const char *module, int64_t *out) {
  bool found = false;
  *out = -1;
  if (empty(patterns)) return match(ctx, ".*?\\.[^.]*\\.(\\d+)\\.", module, false, &found, out);
  for (size_t i = 0; i < (json_is_string(patterns) ? 1 : json_array_size(patterns)) && !found; i++) {
    const char *p = json_string_value(json_is_string(patterns) ? patterns : json_array_get(patterns, i));
    char *re = p ? lc_format(ctx, "(?:^|.*?\\.)(?:%s)\\.(\\d+)\\.", p) : NULL;
    if (!p)
      return lc_fail(ctx, "%s: layers_pattern is neither a string nor a list of strings", LC_PEFT_CONFIG);
    lc_status st = re ? match(ctx, re, module, false, &found, out) : LC_FAILED;
    lc_free(ctx, re);
    LC_TRY(st);
  }
  return LC_OK;
}

static lc_status in_layers(lc_ctx *ctx, const json_t *config, const char *module, bool *out) {
  const json_t *layers = json_object_get(config, "layers_to_transform");
  int64_t layer;
  *out = true;
  if (empty(layers)) return LC_OK;
  LC_TRY(layer_number(ctx, json_object_get(config, "layers_pattern"), module, &layer));
  *out = false;
  if (layer < 0) return LC_OK;
  if (json_is_integer(layers))
    *out = json_integer_value(layers) == layer;
  else if (!json_is_array(layers))
    return lc_fail(ctx, "%s: layers_to_transform is neither a number nor a list", LC_PEFT_CONFIG);
  for (size_t i = 0; i < json_array_size(layers); i++)
    *out = *out || json_integer_value(json_array_get(layers, i)) == layer;
  return LC_OK;
}

static lc_status default_targets(lc_ctx *ctx, const char *model_type, const char *module, bool *out) {
  static const struct {
    const char *type, *item[2];
  } by_type[] = {
      {"llama", {"q_proj", "v_proj"}}, {"mistral", {"q_proj", "v_proj"}}, {"qwen2", {"q_proj", "v_proj"}},
      {"qwen3", {"q_proj", "v_proj"}}, {"gpt2", {"c_attn", NULL}},        {"bert", {"query", "value"}},
      {"roberta", {"query", "value"}},
  };
  for (size_t i = 0; i < sizeof by_type / sizeof *by_type; i++)
    if (!strcmp(by_type[i].type, model_type)) {
      *out = lc_target_matches(module, by_type[i].item[0]) ||
             (by_type[i].item[1] && lc_target_matches(module, by_type[i].item[1]));
      return LC_OK;
    }
  return lc_fail(ctx, "%s names no target_modules, and models of type '%s' have no usual ones",
                 LC_PEFT_CONFIG, model_type);
}

lc_status lc_peft_matches(lc_ctx *ctx, const json_t *config, const char *model_type, const char *module,
                          bool head, bool *out) {
  const json_t *exclude = json_object_get(config, "exclude_modules"),
               *save = json_object_get(config, "modules_to_save");
  const json_t *target = json_object_get(config, "target_modules");
  bool hit = false;
  *out = false;
  if (!empty(exclude)) LC_TRY(names(ctx, exclude, "exclude_modules", module, &hit));
  for (size_t i = 0; i < json_array_size(save) && !hit; i++) {
    const char *m = json_string_value(json_array_get(save, i));
    char *re = m ? lc_format(ctx, "(?:^|.*\\.)(?:%s)(?:$|\\..*)", m) : NULL;
    lc_status st = re ? match(ctx, re, module, false, &hit, NULL)
                      : lc_fail(ctx, "%s: an item of modules_to_save is not a string", LC_PEFT_CONFIG);
    lc_free(ctx, re);
    LC_TRY(st);
  }
  if (hit) return LC_OK;
  if (!target || json_is_null(target)) return default_targets(ctx, model_type, module, out);
  if (json_is_string(target) && !strcasecmp(json_string_value(target), "all-linear")) {
    *out = !head;
    return LC_OK;
  }
  LC_TRY(names(ctx, target, "target_modules", module, out));
  return *out && json_is_array(target) ? in_layers(ctx, config, module, out) : LC_OK;
}

lc_status lc_peft_pattern(lc_ctx *ctx, const json_t *pattern, const char *module, double otherwise,
                          double *out) {
  const char *key;
  json_t *value;
  *out = otherwise;
  json_object_foreach((json_t *)pattern, key, value) {
    bool hit = false;
    char *re = lc_format(ctx, "(.*\\.)?(%s)$", key);
    lc_status st = re ? match(ctx, re, module, false, &hit, NULL) : LC_FAILED;
    lc_free(ctx, re);
    LC_TRY(st);
    if (!hit) continue;
    if (!json_is_number(value))
      return lc_fail(ctx, "%s: the pattern '%s' has a value that is not a number", LC_PEFT_CONFIG, key);
    *out = json_number_value(value);
    return LC_OK;
  }
  return LC_OK;
}

/* ---- writing: the names that mean exactly these weights ---- */

static bool holds(const lc_adapter *a, const lc_weight *w) {
  for (int i = 0; i < a->n; i++)
    if (a->delta[i]->w == w) return true;
  return false;
}

static bool names_others(const lc_adapter *a, const char *suffix) {
  for (int i = 0; i < a->net->weights.n; i++) {
    const lc_weight *w = &a->net->weights.w[i];
    if (w->ndim == 2 && lc_target_matches(w->module, suffix) && !holds(a, w)) return true;
  }
  return false;
}

static int by_text(const void *x, const void *y) {
  return strcmp(*(const char *const *)x, *(const char *const *)y);
}

json_t *lc_peft_targets(const lc_adapter *a) {
  lc_ctx *ctx = a->net->ctx;
  const char **name = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)a->n, sizeof *name);
  json_t *list = name ? json_array() : NULL;
  for (int i = 0; list && i < a->n; i++) {
    const char *module = a->delta[i]->w->module, *s = strrchr(module, '.');
    s = s ? s + 1 : module;
    while (s > module && names_others(a, s)) /* one more segment */
      for (s--; s > module && s[-1] != '.';) s--;
    name[i] = s;
  }
  if (list) qsort(name, (size_t)a->n, sizeof *name, by_text);
  for (int i = 0; list && i < a->n; i++)
    if (!i || strcmp(name[i], name[i - 1])) json_array_append_new(list, json_string(name[i]));
  lc_free(ctx, name);
  return list;
}
