/* Switching in place (nn/touch.c): after any order of switching, the private copy has the bits that a whole refresh gives, and without deltas
 * the base's; only the entries of the delta that was switched are written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/adapter_support.h"

static lc_ctx *ctx;
static char *dir;
static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static int setup(void **state) {
  char why[256];
  dir = lc_tiny_dir();
  return lc_ctx_new(2, &ctx, why);
}
static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static const lc_dtype forms[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
static lc_model *open_form(lc_dtype dtype) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *m;
  const bool q = lc_dtype_get(dtype)->quantised;
  const char *path = lc_tiny_path(dir, q ? "m.gguf" : lc_dtype_get(dtype)->name);
  d.dtype = dtype;
  ok(q ? lc_tiny_gguf(ctx, &d, path) : lc_tiny_hf(ctx, &d, path));
  ok(lc_model_open(ctx, path, &m));
  return m;
}

/* The bits in use of all linear layers after each whole refresh of a net with the same adapters at the same scales. */
static uint64_t whole(lc_net *net) {
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].n_delta) ok(lc_weight_refresh(ctx, &net->weights.w[i]));
  return t_weights_sum(ctx, net);
}

static void test_switching(void **state) {
  for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
    lc_model *m = open_form(forms[f]);
    lc_net *net;
    ok(lc_net_new(m, LC_F32, &net));
    const uint64_t base = t_weights_sum(ctx, net);
    lc_adapter *a = t_sparse(ctx, net, "all-linear", 300, 1),
               *b = t_sparse(ctx, net, "q_proj,down_proj", 900, 2), *both[2] = {a, b};
    uint64_t seen[2] = {0};
    for (int k = 0; k < 40; k++) {
      const float scale = (float[]){0, 1, -0.5f, 2}[(k * 7 + k / 5) % 4];
      ok(lc_adapter_set(both[k * 3 % 2 ^ (k / 3 % 2)], scale, LC_IN_PLACE));
      const uint64_t now = t_weights_sum(ctx, net);
      assert_true(now == whole(net));
      seen[0] += now == base;
      seen[1] += now != base;
    }
    assert_true(seen[1] > 20);
    ok(lc_adapter_set(a, 0, LC_IN_PLACE));
    ok(lc_adapter_set(b, 0, LC_IN_PLACE));
    assert_true(t_weights_sum(ctx, net) == base);
    ok(lc_adapter_set(b, 1, LC_IN_PLACE));
    ok(lc_adapter_set(a, 1, LC_IN_PLACE));
    ok(lc_adapter_remove(a)); /* detaching touches its entries only, and the other stays */
    assert_true(t_weights_sum(ctx, net) == whole(net));
    ok(lc_adapter_remove(b));
    assert_true(t_weights_sum(ctx, net) == base);
    for (int i = 0; i < net->weights.n; i++) assert_ptr_equal(net->weights.w[i].form, net->weights.w[i].base);
    lc_net_free(net);
    lc_model_close(m);
  }
}

/* A mark at an entry that no delta has survives switching; at one of them it does not. */
static void test_entries_only(void **state) {
  lc_model *m = open_form(LC_F32);
  lc_net *net;
  ok(lc_net_new(m, LC_F32, &net));
  lc_adapter *a = t_sparse(ctx, net, "down_proj", 50, 3);
  lc_weight *w = a->delta[0]->w;
  const lc_index *x = &a->delta[0]->param[0]->idx;
  ok(lc_adapter_set(a, 1, LC_IN_PLACE));
  float *copy = lc_form_data(w->form);
  int64_t free_at = 0;
  while (lc_index_has(x, free_at)) free_at++;
  copy[free_at] = 1e9f;
  copy[lc_index_at(x, 7)] = 1e9f;
  ok(lc_adapter_set(a, 0.5f, LC_IN_PLACE));
  assert_ptr_equal(copy, lc_form_data(w->form));
  assert_true(copy[free_at] == 1e9f && copy[lc_index_at(x, 7)] != 1e9f);
  lc_net_free(net);
  lc_model_close(m);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_switching), TEST(test_entries_only)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
