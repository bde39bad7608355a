/* The golden models of tests/golden: logits, loss and every gradient as transformers computes them (f32), to
 * 1e-4 per tensor. Every feature of features.json changes the result when it is switched off (or is refused),
 * and other spellings do not. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static lc_ctx *ctx;

static int setup(void **state) {
  char why[256];
  return lc_ctx_new(1, &ctx, why);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static const float *floats(const lc_safetensors *e, const char *name, int64_t n) {
  const lc_tensor *t = lc_safetensors_find(e, name);
  if (!t) fail_msg("expected.safetensors has no '%s'", name);
  assert_int_equal(t->dtype, LC_F32);
  assert_int_equal(lc_tensor_count(t), n);
  return t->data;
}

static double worst;
static void close_to(const char *dir, const char *what, const float *a, const float *b, int64_t n) {
  double e = lc_tiny_error(a, b, n);
  if (!(e <= 1e-4)) fail_msg("%s: %s: relative error %g", dir, what, e);
  if (e > worst) worst = e;
}

/* A gradient in the file's orientation. */
static void check_gradient(const char *dir, const lc_safetensors *e, const lc_param *p) {
  char name[160];
  snprintf(name, sizeof name, "grad.%s", p->name);
  const lc_tensor *t = lc_safetensors_find(e, name);
  if (!t) fail_msg("%s: no '%s'", dir, name);
  const float *expected = floats(e, name, p->n);
  bool conv1d =
      t->ndim == 2 && strstr(dir, "gpt2") && strstr(p->name, ".h.") && p->of->kind == LC_KIND_LINEAR;
  double norm = 0, mine = 0;
  for (int64_t i = 0; i < p->n; i++) norm += fabs((double)expected[i]), mine += fabs((double)p->grad[i]);
  if (norm == 0) { /* of what does not reach the loss: nothing but rounding */
    if (!(mine <= 1e-5)) fail_msg("%s: %s: %g where there is no gradient", dir, name, mine);
    return;
  }
  float *g = malloc((size_t)p->n * sizeof *g);
  for (int64_t i = 0; i < p->n; i++) g[conv1d ? i % p->cols * p->rows + i / p->cols : i] = p->grad[i];
  close_to(dir, name, g, expected, p->n);
  free(g);
}

static void check_model(const char *dir) {
  lc_model *m;
  lc_net *net;
  lc_safetensors e;
  lc_param **p;
  int n;
  ok(lc_safetensors_open(ctx, lc_tiny_path(dir, "expected.safetensors"), &e));
  const lc_tensor *ids = lc_safetensors_find(&e, "ids"), *labels = lc_safetensors_find(&e, "labels");
  const lc_tensor *types = lc_safetensors_find(&e, "types");
  int64_t T = ids->shape[0];
  ok(lc_model_open(ctx, dir, &m));
  lc_tiny_types(types ? types->data : NULL);
  const lc_tensor *pixels = lc_safetensors_find(&e, "pixels");
  lc_tiny_pixels(pixels ? pixels->data : NULL);
  const bool bare = m->config.task == LC_TASK_NONE;
  const char *what = bare ? "hidden" : "logits";
  int64_t V = lc_task_has_labels(m->config.task) ? m->config.labels
              : bare                             ? m->config.C
                                                 : m->config.V,
          rows = m->config.task == LC_TASK_CLASSIFY ? 1 : T;
  float *logits = malloc((size_t)(T * V) * sizeof *logits);

  ok(lc_net_new(m, LC_F32, &net)); /* the files' own weights */
  ok(lc_tiny_logits(net, ids->data, T, logits));
  close_to(dir, what, logits, floats(&e, what, rows * V), rows * V);
  if (bare) goto done;
  ok(lc_net_train_whole(net, NULL, NULL)); /* f32 masters, dense gradients */
  double loss;
  ok(lc_tiny_loss(net, ids->data, labels->data, T, true, &loss));
  float got = (float)loss;
  close_to(dir, "loss", &got, floats(&e, "loss", 1), 1);
  ok(lc_net_params(net, &p, &n));
  assert_int_equal(n, m->n);
  for (int i = 0; i < n; i++) check_gradient(dir, &e, p[i]);
  lc_free(ctx, p);
done:
  lc_tiny_types(NULL);
  lc_tiny_pixels(NULL);
  lc_net_free(net);
  lc_model_close(m);
  lc_safetensors_close(ctx, &e);
  free(logits);
}

static void test_golden_models(void **state) {
  DIR *d = opendir("golden");
  assert_non_null(d);
  int n = 0;
  for (struct dirent *f; (f = readdir(d));) {
    if (*f->d_name == '.' || !lc_path_exists(lc_tiny_path(lc_tiny_path("golden", f->d_name), "config.json")))
      continue;
    const char *dir = lc_tiny_path("golden", f->d_name);
    if (!lc_path_exists(lc_tiny_path(dir, "expected.safetensors"))) continue;
    check_model(dir);
    n++;
  }
  closedir(d);
  assert_true(n >= 31);
  print_message("%d models, largest relative error %.2g\n", n, worst);
}

/* ---- features ---- */

static void copy_without(const char *from, const char *to, const json_t *drop) {
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, lc_tiny_path(from, "model.safetensors"), &s));
  lc_named_tensor *keep = calloc((size_t)s.n, sizeof *keep);
  int n = 0;
  for (int i = 0; i < s.n; i++) {
    bool dropped = false;
    for (size_t k = 0; k < json_array_size(drop); k++)
      dropped |= !strcmp(s.tensor[i].name, json_string_value(json_array_get(drop, k)));
    if (!dropped) keep[n++] = s.tensor[i];
  }
  ok(lc_safetensors_write(ctx, lc_tiny_path(to, "model.safetensors"), keep, n));
  free(keep);
  lc_safetensors_close(ctx, &s);
}

static lc_status edited_logits(const char *dir, const json_t *edit, const lc_safetensors *e, double *error) {
  char *tmp = lc_tiny_dir();
  json_t *config;
  ok(lc_json_read(ctx, lc_tiny_path(dir, "config.json"), &config));
  json_object_update(config, json_object_get(edit, "set"));
  const json_t *remove = json_object_get(edit, "remove");
  for (size_t i = 0; i < json_array_size(remove); i++)
    json_object_del(config, json_string_value(json_array_get(remove, i)));
  ok(lc_json_write(ctx, lc_tiny_path(tmp, "config.json"), config));
  json_decref(config);
  copy_without(dir, tmp, json_object_get(edit, "drop"));
  const lc_tensor *ids = lc_safetensors_find(e, "ids"), *logits = lc_safetensors_find(e, "logits"),
                  *types = lc_safetensors_find(e, "types"), *pixels = lc_safetensors_find(e, "pixels");
  lc_tiny_pixels(pixels ? pixels->data : NULL);
  lc_tiny_types(types ? types->data : NULL);
  int64_t n = lc_tensor_count(logits);
  float *got = malloc((size_t)n * sizeof *got);
  lc_model *m = NULL;
  lc_net *net = NULL;
  lc_status st = lc_model_open(ctx, tmp, &m);
  if (!st) st = lc_net_new(m, LC_F32, &net);
  if (!st) st = lc_tiny_logits(net, ids->data, ids->shape[0], got);
  if (!st) *error = lc_tiny_error(got, logits->data, n);
  lc_tiny_types(NULL);
  lc_tiny_pixels(NULL);
  lc_net_free(net);
  lc_model_close(m);
  free(got);
  ok(lc_remove_tree(ctx, tmp));
  free(tmp);
  return st;
}

static void test_features(void **state) {
  json_error_t why;
  json_t *list = json_load_file("golden/features.json", 0, &why);
  if (!list) fail_msg("golden/features.json: %s", why.text);
  assert_true(json_array_size(list) >= 10);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *f = json_array_get(list, i);
    const char *model = json_string_value(json_object_get(f, "model")),
               *expect = json_string_value(json_object_get(f, "expect"));
    const char *name = json_string_value(json_object_get(f, "what"));
    assert_non_null(model);
    const char *dir = lc_tiny_path("golden", model);
    lc_safetensors e;
    ok(lc_safetensors_open(ctx, lc_tiny_path(dir, "expected.safetensors"), &e));
    double error = -1;
    lc_status st = edited_logits(dir, f, &e, &error);
    if (st && !json_is_true(json_object_get(f, "may_refuse")))
      fail_msg("%s, %s: %s", model, name ? name : "?", lc_error(ctx));
    if (!st && !strcmp(expect, "differs") && !(error > 1e-4))
      fail_msg("%s, %s: nothing changed (%g)", model, name ? name : "?", error);
    if (!st && !strcmp(expect, "same") && !(error <= 1e-4))
      fail_msg("%s, %s: differs by %g", model, name ? name : "?", error);
    lc_safetensors_close(ctx, &e);
  }
  json_decref(list);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_models), cmocka_unit_test(test_features)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
