/* recipe.yaml: every effective option of a run, so that `train --recipe OUT/recipe.yaml -o NEW` repeats it.
 *
 *   model: PATH
 *   data: PATH
 *   method: NAME
 *   objective: NAME
 *   steps: 0            one key a row of lc_train_options, beside each other
 *   …
 *   set:                one key a row of the method's options
 *     mask: random
 *   with:               one key a row of the objective's options
 *     beta: 0.1
 *
 * libcyaml reads and writes by a schema. Ours is made from the option tables at run time: each option is an
 * optional string, checked later by lc_options_set like a flag. Method and objective name the schemas of `set` and
 * `with`, so a recipe is read twice: first for these, with everything else ignored. libcyaml tells which key it did
 * not know only in its log; the logger keeps that line, and the sentence suggests the nearest key. */
#include "train/objective.h"
#include <cyaml/cyaml.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEYS = 96, TEXTS = 4, HEAD = 6 };
static const char *const head_keys[HEAD] = {"model", "data", "method", "objective", "set", "with"};

/* The struct that the schema describes: pointers to strings, one an option. */
typedef struct {
  char *value[MAX_KEYS];
} values;
typedef struct {
  char *head[TEXTS];
  char *option[MAX_KEYS];
  values *part[2]; /* set, with */
} sheet;

typedef struct {
  cyaml_schema_field_t field[HEAD + MAX_KEYS + 1], part_field[2][MAX_KEYS + 1];
  cyaml_schema_value_t top;
  const lc_option *part[2]; /* the method's table, the objective's */
  int n_option, n_part[2];
} schema;

typedef struct {
  char unknown[256], last[256];
} messages;

/* ---- schema from tables
 * ----------------------------------------------------------------------------------------------- */

static void string_field(cyaml_schema_field_t *f, const char *key, size_t offset) {
  *f = (cyaml_schema_field_t){.key = key, .data_offset = (uint32_t)offset};
  f->value = (cyaml_schema_value_t){.type = CYAML_STRING,
                                    .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                                    .data_size = sizeof(char),
                                    .string = {.min = 0, .max = 1 << 16}};
}

static int count_rows(const lc_option *table) {
  int n = 0;
  while (table && table[n].name) n++;
  return n;
}

static lc_status make_schema(lc_ctx *ctx, const lc_method *m, const lc_objective *goal, schema *s) {
  memset(s, 0, sizeof *s);
  s->part[0] = m ? m->options : NULL;
  s->part[1] = goal ? goal->options : NULL;
  s->n_option = count_rows(lc_train_options);
  for (int k = 0; k < 2; k++) s->n_part[k] = count_rows(s->part[k]);
  if (s->n_option > MAX_KEYS || s->n_part[0] > MAX_KEYS || s->n_part[1] > MAX_KEYS)
    return lc_fail(ctx, "recipe: more than %d options", MAX_KEYS);
  cyaml_schema_field_t *f = s->field;
  for (int i = 0; i < TEXTS; i++)
    string_field(f++, head_keys[i], offsetof(sheet, head) + (size_t)i * sizeof(char *));
  for (int i = 0; i < s->n_option; i++)
    string_field(f++, lc_train_options[i].name, offsetof(sheet, option) + (size_t)i * sizeof(char *));
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < s->n_part[k]; i++)
      string_field(&s->part_field[k][i], s->part[k][i].name, (size_t)i * sizeof(char *));
    *f = (cyaml_schema_field_t){.key = head_keys[TEXTS + k],
                                .data_offset =
                                    (uint32_t)(offsetof(sheet, part) + (size_t)k * sizeof(values *))};
    f++->value = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                        .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                                        .data_size = sizeof(values),
                                        .mapping = {.fields = s->part_field[k]}};
  }
  s->top = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                  .flags = CYAML_FLAG_POINTER,
                                  .data_size = sizeof(sheet),
                                  .mapping = {.fields = s->field}};
  return LC_OK;
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------------------
 */

static void note(cyaml_log_t level, void *arg, const char *fmt, va_list args) {
  static const char unknown[] = "Load: Unexpected key: ";
  messages *m = arg;
  char line[256];
  vsnprintf(line, sizeof line, fmt, args);
  line[strcspn(line, "\n")] = 0;
  if (strncmp(line, unknown, sizeof unknown - 1) == 0)
    snprintf(m->unknown, sizeof m->unknown, "%s", line + sizeof unknown - 1);
  if (!*m->last)
    snprintf(m->last, sizeof m->last, "%s", line); /* the first is the cause, the others say where */
}

static const char *nearest_key(const schema *s, const char *key) {
  const char *names[HEAD + 3 * MAX_KEYS];
  int n = 0;
  for (int i = 0; i < HEAD; i++) names[n++] = head_keys[i];
  for (int i = 0; i < s->n_option; i++) names[n++] = lc_train_options[i].name;
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < s->n_part[k]; i++) names[n++] = s->part[k][i].name;
  return lc_nearest(key, names, n);
}

static lc_status load(lc_ctx *ctx, const char *path, const char *text, size_t size, const schema *s,
                      bool strict, sheet **out) {
  messages m = {{0}, {0}};
  cyaml_config_t config = {.log_fn = note,
                           .log_ctx = &m,
                           .log_level = CYAML_LOG_ERROR,
                           .mem_fn = cyaml_mem,
                           .flags = CYAML_CFG_NO_ALIAS | (strict ? 0 : CYAML_CFG_IGNORE_UNKNOWN_KEYS)};
  *out = NULL;
  cyaml_err_t err =
      cyaml_load_data((const uint8_t *)text, size, &config, &s->top, (cyaml_data_t **)out, NULL);
  if (err == CYAML_OK && *out) return LC_OK;
  if (err == CYAML_OK) return lc_fail(ctx, "%s: the recipe is empty", path);
  if (*m.unknown) {
    const char *near = nearest_key(s, m.unknown);
    return near ? lc_usage(ctx, "%s: unknown key '%s'; did you mean '%s'?", path, m.unknown, near)
                : lc_usage(ctx, "%s: unknown key '%s'", path, m.unknown);
  }
  return lc_fail(ctx, "%s: not a recipe: %s%s%s", path, cyaml_strerror(err), *m.last ? ": " : "", m.last);
}

static void unload(const schema *s, sheet *data) {
  cyaml_config_t config = {.mem_fn = cyaml_mem};
  if (data) cyaml_free(&config, &s->top, data, 0);
}

static lc_status copy_pairs(lc_ctx *ctx, const lc_option *table, char *const *value, int n, lc_pair **out,
                            int *n_out) {
  *out = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof **out);
  if (!*out) return LC_FAILED;
  for (int i = 0; i < n; i++) {
    if (!value[i]) continue;
    lc_pair *p = &(*out)[(*n_out)++];
    p->key = lc_strdup(ctx, table[i].name);
    p->value = lc_strdup(ctx, value[i]);
    if (!p->key || !p->value) return LC_FAILED;
  }
  return LC_OK;
}

static lc_status copy_sheet(lc_ctx *ctx, const schema *s, const sheet *data, lc_recipe *r) {
  char **to[TEXTS] = {&r->model, &r->data, &r->method, &r->objective};
  for (int i = 0; i < TEXTS; i++)
    if (data->head[i] && !(*to[i] = lc_strdup(ctx, data->head[i]))) return LC_FAILED;
  LC_TRY(copy_pairs(ctx, lc_train_options, data->option, s->n_option, &r->option, &r->n_option));
  if (data->part[0])
    LC_TRY(copy_pairs(ctx, s->part[0], data->part[0]->value, s->n_part[0], &r->set, &r->n_set));
  return data->part[1] ? copy_pairs(ctx, s->part[1], data->part[1]->value, s->n_part[1], &r->with, &r->n_with)
                       : LC_OK;
}

/* The method and the objective that a recipe names: their options are the keys of `set` and `with`. */
static lc_status named(lc_ctx *ctx, const char *path, const char *text, size_t size, const lc_method **m,
                       const lc_objective **goal) {
  schema s;
  sheet *data = NULL;
  *m = NULL;
  *goal = NULL;
  LC_TRY(make_schema(ctx, NULL, NULL, &s));
  LC_TRY(load(ctx, path, text, size, &s, false, &data));
  lc_status st = LC_OK;
  const char *method = data->head[2], *objective = data->head[3], *near = NULL;
  if (method && !(*m = lc_method_find(method))) {
    near = lc_method_nearest(method);
    st = lc_usage(ctx, "%s: there is no method '%s'%s%s%s", path, method, near ? "; did you mean '" : "",
                  near ? near : "", near ? "'?" : "");
  } else if (objective && !(*goal = lc_objective_find(objective))) {
    near = lc_objective_nearest(objective);
    st = lc_usage(ctx, "%s: there is no objective '%s'%s%s%s", path, objective,
                  near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
  }
  unload(&s, data);
  return st;
}

lc_status lc_recipe_read(lc_ctx *ctx, const char *path, lc_recipe *r) {
  schema s;
  sheet *data = NULL;
  char *text = NULL;
  size_t size;
  const lc_method *m;
  const lc_objective *goal;
  lc_status st = LC_OK;
  *r = (lc_recipe){0};
  LC_GO(lc_read_file(ctx, path, 1 << 20, &text, &size));
  LC_GO(named(ctx, path, text, size, &m, &goal));
  LC_GO(make_schema(ctx, m, goal, &s));
  LC_GO(load(ctx, path, text, size, &s, true, &data));
  LC_GO(copy_sheet(ctx, &s, data, r));
done:
  unload(&s, data);
  lc_free(ctx, text);
  if (st) lc_recipe_free(ctx, r);
  return st;
}

static void free_pairs(lc_ctx *ctx, lc_pair *p, int n) {
  for (int i = 0; i < n; i++) {
    lc_free(ctx, p[i].key);
    lc_free(ctx, p[i].value);
  }
  lc_free(ctx, p);
}

void lc_recipe_free(lc_ctx *ctx, lc_recipe *r) {
  lc_free(ctx, r->model);
  lc_free(ctx, r->data);
  lc_free(ctx, r->method);
  lc_free(ctx, r->objective);
  free_pairs(ctx, r->with, r->n_with);
  free_pairs(ctx, r->option, r->n_option);
  free_pairs(ctx, r->set, r->n_set);
  *r = (lc_recipe){0};
}

lc_status lc_recipe_apply(lc_ctx *ctx, const lc_recipe *r, lc_train_opts *o, const lc_method *m, void *self,
                          const lc_goal *goal) {
  for (int i = 0; o && i < r->n_option; i++)
    LC_TRY(lc_options_set(ctx, lc_train_options, "recipe", o, r->option[i].key, r->option[i].value));
  for (int i = 0; self && i < r->n_set; i++)
    LC_TRY(lc_options_set(ctx, m->options, m->name, self, r->set[i].key, r->set[i].value));
  for (int i = 0; goal && goal->row && i < r->n_with; i++)
    LC_TRY(lc_options_set(ctx, goal->row->options, goal->row->name, goal->self, r->with[i].key,
                          r->with[i].value));
  return LC_OK;
}

/* ---- writing
 * --------------------------------------------------------------------------------------------------------------
 */

/* Current values of a table's rows; strings without a value stay away. */
static lc_status fill(lc_ctx *ctx, const lc_option *table, int n, const void *self, char **value) {
  for (int i = 0; i < n; i++) {
    value[i] = lc_options_get(ctx, &table[i], self);
    if (!value[i]) return LC_FAILED;
    if (table[i].type != LC_OPT_STRING || *value[i]) continue;
    lc_free(ctx, value[i]);
    value[i] = NULL;
  }
  return LC_OK;
}

static lc_status save(lc_ctx *ctx, const char *path, const schema *s, const sheet *data) {
  static const char remark[] =
      "# Every option of a run. To repeat it: lacuna train --recipe THIS_FILE -o NEW_DIRECTORY\n";
  messages m = {{0}, {0}};
  cyaml_config_t config = {.log_fn = note, .log_ctx = &m, .log_level = CYAML_LOG_ERROR, .mem_fn = cyaml_mem};
  char *text = NULL;
  size_t size = 0;
  cyaml_err_t err = cyaml_save_data(&text, &size, &config, &s->top, data, 0);
  if (err != CYAML_OK) return lc_fail(ctx, "%s: cannot be written: %s", path, cyaml_strerror(err));
  lc_out out;
  lc_status st = lc_out_open(ctx, path, &out);
  if (!st) {
    lc_out_write(&out, remark, sizeof remark - 1);
    lc_out_write(&out, text, size);
    st = lc_out_commit(&out);
  }
  free(text);
  return st;
}

lc_status lc_recipe_write(lc_ctx *ctx, const char *path, const char *model, const char *data,
                          const lc_method *m, const void *self, const lc_goal *goal, const lc_train_opts *o) {
  const lc_objective *row = goal && goal->row ? goal->row : &lc_objective_sft;
  const void *from[2] = {self, goal ? goal->self : NULL};
  schema s;
  sheet top = {.head = {(char *)model, (char *)data, (char *)m->name, (char *)row->name}};
  values part[2] = {0};
  lc_status st = LC_OK;
  LC_TRY(make_schema(ctx, m, row, &s));
  LC_GO(fill(ctx, lc_train_options, s.n_option, o, top.option));
  for (int k = 0; k < 2; k++) {
    if (k && !s.n_part[k]) continue; /* no `with` of an objective without options */
    LC_GO(fill(ctx, s.part[k], s.n_part[k], from[k], part[k].value));
    top.part[k] = &part[k];
  }
  st = save(ctx, path, &s, &top);
done:
  for (int i = 0; i < s.n_option; i++) lc_free(ctx, top.option[i]);
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < s.n_part[k]; i++) lc_free(ctx, part[k].value[i]);
  return st;
}
