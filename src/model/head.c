/* A network's head: the task that it is for, its labels, and heads that are new. A classifier on a network that was
 * pretrained for something else has no weights in its files: they are drawn here, N(0, 0.02²) and zero biases as
 * transformers does it, keyed by (seed, tensor). Whatever is new is trained as a whole beside the method's own. */
#include "model/config.h"
#include <jansson.h>
#include <string.h>

static const char *const task_names[] = {
    "own", "lm", "masked-lm", "embedding", "classification", "token-classification"};

const char *lc_task_name(lc_task task) {
  return task_names[task];
}

bool lc_task_has_labels(lc_task task) {
  return task == LC_TASK_CLASSIFY || task == LC_TASK_TOKENS;
}

const char *lc_architecture(const lc_config *c) {
  for (const lc_architecture_row *a = c->family->architectures; a->name; a++)
    if (a->task == c->task) return a->name;
  return c->family->architectures[0].name;
}

const char *lc_config_label(const lc_config *c, int64_t i) {
  char key[24];
  snprintf(key, sizeof key, "%lld", (long long)i);
  return json_string_value(json_object_get(json_object_get(c->json, "id2label"), key));
}

int64_t lc_config_find_label(const lc_config *c, const char *name) {
  for (int64_t i = 0; i < c->labels; i++)
    if (!strcmp(lc_config_label(c, i), name)) return i;
  return -1;
}

/* ---- a configuration's task ---- */

/* How many labels the file speaks of: names, or a number; 2 as transformers has it. */
static lc_status count_labels(lc_ctx *ctx, const char *path, lc_config *c) {
  const json_t *names = json_object_get(c->json, "id2label"), *n = json_object_get(c->json, "num_labels");
  c->labels = json_is_object(names) && json_object_size(names) ? (int64_t)json_object_size(names)
              : json_is_integer(n)                             ? json_integer_value(n)
                                                               : 2;
  if (c->labels < 1 || c->labels > LC_MAX_LABELS)
    return lc_fail(ctx, "%s: %lld labels: 1 to %d are possible", path, (long long)c->labels, LC_MAX_LABELS);
  return LC_OK;
}

/* id2label and label2id, whole: given names, else the file's, else LABEL_i. */
static lc_status name_labels(lc_ctx *ctx, const char *path, const char *const *label, lc_config *c) {
  json_t *by_id = json_object(), *by_name = json_object();
  lc_status st = by_id && by_name ? LC_OK : lc_fail(ctx, "out of memory");
  for (int64_t i = 0; i < c->labels && !st; i++) {
    char key[24], plain[32];
    snprintf(key, sizeof key, "%lld", (long long)i);
    snprintf(plain, sizeof plain, "LABEL_%lld", (long long)i);
    const json_t *was = json_object_get(json_object_get(c->json, "id2label"), key);
    const char *name = label ? label[i] : json_is_string(was) ? json_string_value(was) : was ? NULL : plain;
    if (!name)
      st = lc_fail(ctx, "%s: id2label: the name of label %lld is no text", path, (long long)i);
    else if (json_object_get(by_name, name))
      st = lc_fail(ctx, "%s: two labels are called '%.60s'", path, name);
    else if (json_object_set_new(by_id, key, json_string(name)) ||
             json_object_set_new(by_name, name, json_integer(i)))
      st = lc_fail(ctx, "%s: label %lld cannot be written as JSON", path, (long long)i);
  }
  if (!st && (json_object_set(c->json, "id2label", by_id) || json_object_set(c->json, "label2id", by_name)))
    st = lc_fail(ctx, "out of memory");
  json_object_del(c->json, "num_labels");
  json_decref(by_id);
  json_decref(by_name);
  return st;
}

static bool has_task(const lc_family *f, lc_task task) {
  for (const lc_architecture_row *a = f->architectures; a->name; a++)
    if (a->task == task) return true;
  return false;
}

lc_status lc_head_resolve(lc_ctx *ctx, const char *path, const lc_head_opts *o, lc_config *c) {
  const bool other = o && o->task != LC_TASK_OWN;
  if (other && !has_task(c->family, o->task))
    return lc_fail(ctx, "%s: a %s has no head for %s", path, c->family->architectures[0].name,
                   lc_task_name(o->task));
  if (other) c->task = o->task;
  if (!lc_task_has_labels(c->task)) return LC_OK;
  const char *problem = json_string_value(json_object_get(c->json, "problem_type"));
  if (!(other && o->labels) && problem && strcmp(problem, "single_label_classification"))
    return lc_fail(ctx, "%s: problem_type '%.60s' is not built: one label of several is", path, problem);
  if (other && o->labels) {
    if (o->labels < 1 || o->labels > LC_MAX_LABELS)
      return lc_fail(ctx, "%s: %lld labels: 1 to %d are possible", path, (long long)o->labels, LC_MAX_LABELS);
    c->labels = o->labels;
    json_object_del(c->json, "id2label");
    json_object_del(c->json, "problem_type");
  } else {
    LC_TRY(count_labels(ctx, path, c));
  }
  LC_TRY(name_labels(ctx, path, other && o->labels ? o->label : NULL, c));
  return json_object_set_new(c->json, "architectures", json_pack("[s]", lc_architecture(c)))
             ? lc_fail(ctx, "out of memory")
             : LC_OK;
}

void lc_head_opts_free(lc_ctx *ctx, lc_head_opts *o) {
  for (int64_t i = 0; o->label && i < o->labels; i++) lc_free(ctx, (char *)o->label[i]);
  lc_free(ctx, (void *)o->label);
  *o = (lc_head_opts){0};
}

/* ---- its tensors ---- */

void lc_declare_head(lc_decls *d, int64_t M, int64_t N, const char *module, bool bias) {
  const lc_tensor_decl w = {
      .layer = -1, .kind = LC_KIND_HEAD, .M = M, .N = N, .ndim = 2, .head = true, .may_be_new = true};
  lc_tensor_decl b = w;
  char name[128];
  b.kind = LC_KIND_BIAS, b.M = 1, b.N = M, b.ndim = 1;
  snprintf(name, sizeof name, "%s.weight", module);
  lc_declare(d, w, name, "");
  snprintf(name, sizeof name, "%s.bias", module);
  if (bias) lc_declare(d, b, name, "");
}

lc_status lc_head_draw(lc_ctx *ctx, const lc_tensor_decl *d, uint64_t seed, float **out) {
  const int64_t n = d->M * d->N;
  *out = lc_alloc_n(ctx, LC_MEM_FORM, (size_t)n, sizeof **out);
  if (!*out) return LC_FAILED;
  const lc_rng r = {.seed = seed, .tensor = lc_fnv1a32(d->name), .purpose = LC_RNG_INIT};
  if (d->ndim == 2) lc_rng_normal_fill(&r, 0, n, *out);
  for (int64_t i = 0; i < n; i++) (*out)[i] *= 0.02f;
  return LC_OK;
}
