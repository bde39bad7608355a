/* Which matrices a method changes: PEFT's rule (peft/tuners/tuners_utils.py). "all-linear" is every linear
 * layer but the output head; a comma list names modules in full or by what follows a dot, so "q_proj" is not
 * "xq_proj"; "re:…" is a regular expression that must match the whole path of the module. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/model.h"
#include <ctype.h>
#include <pcre2.h>
#include <string.h>
#include <strings.h>

bool lc_target_matches(const char *module, const char *item) {
  size_t n = strlen(module), k = strlen(item);
  if (!k || n < k || strcmp(module + n - k, item)) return false;
  return n == k || module[n - k - 1] == '.';
}

typedef struct {
  const char *rule;
  bool all_linear;
  char **item;
  bool *hit;
  int n_item;
  pcre2_code *re;
  pcre2_match_data *match;
} matcher;

static void matcher_free(lc_ctx *ctx, matcher *m) {
  for (int i = 0; i < m->n_item; i++) lc_free(ctx, m->item[i]);
  lc_free(ctx, m->item);
  lc_free(ctx, m->hit);
  if (m->match) pcre2_match_data_free(m->match);
  if (m->re) pcre2_code_free(m->re);
}

static lc_status compile(lc_ctx *ctx, matcher *m, const char *pattern) {
  int code;
  PCRE2_SIZE at;
  m->re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                        PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &code, &at, NULL);
  if (!m->re) {
    PCRE2_UCHAR text[128] = "";
    pcre2_get_error_message(code, text, sizeof text);
    return lc_usage(ctx, "targets: the regular expression '%s' is wrong at character %zu: %s", pattern,
                    (size_t)at + 1, (const char *)text);
  }
  m->match = pcre2_match_data_create_from_pattern(m->re, NULL);
  return m->match ? LC_OK : lc_fail(ctx, "out of memory");
}

static lc_status split(lc_ctx *ctx, matcher *m, const char *rule) {
  int n = 1;
  for (const char *p = rule; *p; p++) n += *p == ',';
  m->item = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *m->item);
  m->hit = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *m->hit);
  if (!m->item || !m->hit) return LC_FAILED;
  for (const char *p = rule; *p;) {
    size_t k = strcspn(p, ",");
    const char *a = p, *e = p + k;
    while (a < e && isspace((unsigned char)*a)) a++;
    while (e > a && isspace((unsigned char)e[-1])) e--;
    if (e > a && !(m->item[m->n_item++] = lc_format(ctx, "%.*s", (int)(e - a), a))) return LC_FAILED;
    p += k + (p[k] == ',');
  }
  return LC_OK;
}

static bool matches(matcher *m, const lc_weight *w) {
  if (m->all_linear) return w->kind == LC_KIND_LINEAR;
  if (m->re) return pcre2_match(m->re, (PCRE2_SPTR)w->module, strlen(w->module), 0, 0, m->match, NULL) >= 0;
  bool any = false;
  for (int i = 0; i < m->n_item; i++)
    if (lc_target_matches(w->module, m->item[i])) any = m->hit[i] = true;
  return any;
}

lc_status lc_targets(lc_net *net, const char *rule, lc_weight ***out, int *n) {
  lc_ctx *ctx = net->ctx;
  matcher m = {.rule = rule, .all_linear = !strcasecmp(rule, "all-linear")};
  lc_weight **found = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)net->weights.n, sizeof *found);
  lc_status st = found ? LC_OK : LC_FAILED;
  bool vector = false;
  int k = 0;
  if (st) goto done;
  if (!strncmp(rule, "re:", 3))
    LC_GO(compile(ctx, &m, rule + 3));
  else if (!m.all_linear)
    LC_GO(split(ctx, &m, rule));
  for (int i = 0; i < net->weights.n; i++) {
    lc_weight *w = &net->weights.w[i];
    if (!matches(&m, w)) continue;
    if (w->ndim == 2)
      found[k++] = w;
    else
      vector = true;
  }
  if (!k) {
    st = lc_usage(ctx, "targets '%s' match no matrix of the model%s", rule, vector ? ", only vectors" : "");
    goto done;
  }
  for (int i = 0; i < m.n_item; i++)
    if (!m.hit[i]) lc_log(ctx, LC_LOG_WARN, "targets: '%s' matches nothing", m.item[i]);
  *out = found;
  *n = k;
  found = NULL;
done:
  matcher_free(ctx, &m);
  lc_free(ctx, found);
  return st;
}
