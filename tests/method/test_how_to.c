/* The worked example of docs/how-to-add-a-method.md: the page shows examples/norms.c as it is, it is at most
 * 60 lines, and it trains. */
#include "../../examples/norms.c"
#include "support/world_test.h"

static void test_page(void **state) {
  char *page, *code;
  size_t n, m, lines = 0;
  ok(lc_read_file(w.ctx, "../docs/how-to-add-a-method.md", 1 << 20, &page, &n));
  ok(lc_read_file(w.ctx, "../examples/norms.c", 1 << 20, &code, &m));
  if (!strstr(page, code)) fail_msg("the page does not show examples/norms.c as it is");
  for (size_t i = 0; i < m; i++) lines += code[i] == '\n';
  assert_in_range(lines, 20, 60);
  lc_free(w.ctx, page);
  lc_free(w.ctx, code);
}

static int only_norms(void *arg, const char *kind, const struct json_t *e) {
  if (!strcmp(kind, "start")) *(int64_t *)arg = json_integer_value(json_object_get(e, "trainable"));
  return 0;
}

static void test_trains(void **state) {
  int64_t trainable = 0, want = 0;
  t_spec s = {.row = &lc_method_norms,
              .opts = "steps=6 batch=4 eval-every=6",
              .out = "norms",
              .event = only_norms,
              .arg = &trainable};
  ok(t_train(&w, &s));
  lc_net *base, *net;
  lc_model *m;
  ok(lc_net_new(w.model, LC_F32, &base));
  ok(lc_model_open(w.ctx, t_out(&w, "norms", ""), &m));
  ok(lc_net_new(m, LC_F32, &net));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *a = &base->weights.w[i], *b = &net->weights.w[i];
    const void *x = a->vector, *y = b->vector;
    int64_t ld;
    if (a->ndim == 2) {
      ok(lc_weight_tile(w.ctx, 0, a, (lc_rect){0, a->M, 0, a->N}, LC_F32, &x, &ld));
      ok(lc_weight_tile(w.ctx, 0, b, (lc_rect){0, a->M, 0, a->N}, LC_F32, &y, &ld));
    }
    want += a->kind == LC_KIND_NORM ? a->M * a->N : 0;
    assert_int_equal(memcmp(x, y, (size_t)(a->M * a->N) * 4) != 0, a->kind == LC_KIND_NORM);
  }
  assert_int_equal(trainable, want);
  assert_true(atof(t_query(&w, "norms", "SELECT loss FROM evals WHERE step = 6")) <
              atof(t_query(&w, "norms", "SELECT loss FROM evals WHERE step = 0")));
  lc_net_free(net);
  lc_net_free(base);
  lc_model_close(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_page), TEST(test_trains)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
