/* SNELLA (arXiv 2510.24037) through the loop: the result has the loss that training ended with, in both layouts, merged
 * and aside; budgets; the average of the values; quantised bases; refusals. The kernel is tested in nn/test_delta_kernel. */
#include "method/method_test.h"
#include "nn/delta_kernel.h"

/* Item 7. */
static void test_result(void **state) {
  static const char *const sets[] = {"r=4 variant=klora",
                                     "r=4 variant=mixk",
                                     "r=4 variant=snell initial=0.5",
                                     "r=4 variant=snell initial=0.5 rule=paper",
                                     "r=4 interval=3 target=0.6",
                                     "r=4 interval=3 target=0.6 layout=sparse"};
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
    t_spec s = {.method = "snella",
                .set = sets[i],
                .out = "r",
                .overwrite = true,
                .opts = "steps=12 batch=8 lr=0.02"};
    ok(t_train(&w, &s));
    const double before = atof(t_query(&w, "r", "SELECT loss FROM evals WHERE step = 0")),
                 after = atof(t_query(&w, "r", "SELECT loss FROM evals WHERE step = 12"));
    assert_true(after < before);
    for (int apply = 0; apply < 2; apply++)
      assert_true(fabs(loss_of(w.model, t_out(&w, "r", ""), apply ? LC_IN_PLACE : LC_PATCH) - after) <
                  1e-5 * after);
    lc_net *net;
    lc_adapter *a;
    lc_model *merged;
    ok(lc_net_new(w.model, LC_F32, &net));
    ok(lc_adapter_load(net, t_out(&w, "r", ""), 1, LC_PATCH, &a));
    ok(lc_net_write_hf(net, lc_tiny_path(w.dir, "merged"), LC_F32, NULL));
    lc_net_free(net);
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "merged"), &merged));
    assert_true(fabs(loss_of(merged, NULL, LC_PATCH) - after) < 1e-5 * after);
    lc_model_close(merged);
    lc_remove_tree(w.ctx, lc_tiny_path(w.dir, "merged"));
  }
}

/* Item 6: what the layers keep falls from all to the target, and the layers' kept entries are the budget exactly. */
static int64_t kept[16], all_entries, updates;
static lc_hook before_of_row;
static lc_status watch(void *self, lc_training *t) {
  LC_TRY(before_of_row(self, t));
  double sum = 0, all = 0;
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_delta *d = t->adapter->delta[i];
    const double n = (double)(d->w->M * d->w->N);
    sum += round((1 - (double)d->param[4]->value[1]) * n);
    all += n;
  }
  kept[updates++] = (int64_t)sum;
  all_entries = (int64_t)all;
  return LC_OK;
}
static void test_budget(void **state) {
  lc_method row = *lc_method_find("snella");
  before_of_row = row.before_step;
  row.before_step = watch;
  updates = 0;
  t_spec s = {.row = &row,
              .out = "b",
              .set = "r=4 interval=2 target=0.8 warm=1 settle=1",
              .opts = "steps=12 batch=4",
              .no_eval = true};
  ok(t_train(&w, &s));
  assert_int_equal(updates, 12);
  assert_int_equal(kept[0], all_entries);
  assert_int_equal(kept[2], all_entries); /* epoch 1: (1 − 0)³ */
  for (int i = 1; i < 12; i++) assert_true(kept[i] <= kept[i - 1]);
  assert_true(llabs(kept[11] - llround(0.2 * (double)all_entries)) <= 14);
}

/* Item 8: the average follows e ← d·e + (1 − d)·p exactly, and is the result. */
static float follow[3];
static lc_hook after_of_row, attach_of_row;
static lc_status begin(void *self, lc_training *t) {
  LC_TRY(attach_of_row(self, t));
  for (int k = 0; k < 3; k++) follow[k] = t->adapter->delta[0]->param[k]->value[0];
  return LC_OK;
}
static lc_status step(void *self, lc_training *t) {
  LC_TRY(after_of_row(self, t));
  for (int k = 0; k < 3; k++)
    follow[k] = (float)(0.75 * (double)follow[k] + 0.25 * (double)t->adapter->delta[0]->param[k]->value[0]);
  return LC_OK;
}
static void test_average(void **state) {
  lc_method row = *lc_method_find("snella");
  after_of_row = row.after_step;
  attach_of_row = row.attach;
  row.after_step = step;
  row.attach = begin;
  t_spec s = {.row = &row, .out = "e", .set = "r=4 ema=0.75", .opts = "steps=5 batch=4", .no_eval = true};
  ok(t_train(&w, &s));
  lc_safetensors f;
  ok(lc_safetensors_open(w.ctx, t_out(&w, "e", "lacuna_adapter.safetensors"), &f));
  static const char *const names[] = {"A", "B", "mix"};
  for (int k = 0; k < 3; k++) {
    char name[128];
    snprintf(name, sizeof name, "model.layers.0.mlp.down_proj.kernel.%s", names[k]);
    const lc_tensor *t = lc_safetensors_find(&f, name);
    assert_non_null(t);
    assert_true(*(const float *)t->data == follow[k]);
  }
  lc_safetensors_close(w.ctx, &f);
}

/* Item 9. */
static void test_quantised(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *own = w.model;
  d.dtype = LC_Q4_0;
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &w.model));
  t_spec s = {
      .method = "snella", .set = "r=4 interval=4 target=0.5", .out = "q", .opts = "steps=12 batch=8 lr=0.02"};
  ok(t_train(&w, &s));
  assert_true(atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 12")) <
              atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 0")));
  lc_model_close(w.model);
  w.model = own;
}

static void test_refusals(void **state) {
  t_spec s = {.method = "snella", .set = "r=5", .out = "no", .opts = "steps=1", .no_eval = true};
  assert_int_equal(t_train(&w, &s), LC_USAGE);
  assert_non_null(strstr(lc_error(w.ctx), "even"));
  lc_error_clear(w.ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_result), TEST(test_budget), TEST(test_average),
                                     TEST(test_quantised), TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
