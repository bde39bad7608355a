/* Deltas on an embedding: its op hands gradients on by itself, and they are those of the loss by differences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include "nn/delta_kernel.h"
#include "support/tiny_model.h"

enum { T = 24 };
static lc_ctx *ctx;
static char *dir;
static lc_model *model;
static lc_net *net;
static lc_weight *w;
static int32_t ids[T], labels[T];

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  d.tied = false;
  ok(lc_ctx_new(2, &ctx, NULL));
  dir = lc_tiny_dir();
  ok(lc_tiny_hf(ctx, &d, dir));
  ok(lc_model_open(ctx, dir, &model));
  ok(lc_net_new(model, LC_F32, &net));
  w = lc_net_weight(net, "model.embed_tokens.weight");
  assert_non_null(w);
  for (int i = 0; i < T; i++) ids[i] = 3 + i * 7 % 11, labels[i] = 5 + i * 5 % 13; /* tokens come again */
  return 0;
}
static int teardown(void **state) {
  lc_net_free(net);
  lc_model_close(model);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static double loss(bool backward) {
  double sum;
  ok(lc_tiny_loss(net, ids, labels, T, backward, &sum));
  return sum;
}

/* Every third value of p against differences of step h. */
static void check(lc_param *p, double h) {
  double err = 0, norm = 0;
  loss(true);
  for (int64_t k = 0; k<p->n; k += p->n> 90 ? p->n / 30 : 3) {
    const float was = p->value[k];
    p->value[k] = (float)((double)was + h);
    const double high = (double)p->value[k], up = loss(false);
    p->value[k] = (float)((double)was - h);
    const double slope = (up - loss(false)) / (high - (double)p->value[k]);
    p->value[k] = was;
    err += (slope - (double)p->grad[k]) * (slope - (double)p->grad[k]);
    norm += slope * slope;
  }
  if (!(norm > 0 && sqrt(err / norm) < 2e-2)) fail_msg("%s: %g of %g", p->name, sqrt(err), sqrt(norm));
}

static void test_entries_with_a_factor(void **state) {
  lc_index idx;
  lc_delta *d;
  int64_t flat[40];
  for (int k = 0; k < 40; k++) flat[k] = (3 + k % 11) * w->N + k;
  ok(lc_index_new(ctx, w->M, w->N, flat, 40, &idx));
  ok(lc_delta_sparse_new(ctx, w, &idx, NULL, true, &d));
  lc_delta_sparse_set_factor(d, 2.5);
  ok(lc_weight_attach(ctx, w, d));
  check(d->param[0], 1e-2);
}

/* What takes strips is told when the last has come: A's part is added then. */
static void test_strips(void **state) {
  const lc_kernel_opts o = {4, 7, LC_KERNEL_KLORA, 0};
  lc_delta *d;
  ok(lc_delta_kernel_new(ctx, w, &o, true, &d));
  ok(lc_delta_kernel_refresh(ctx, d, 0));
  ok(lc_weight_attach(ctx, w, d));
  check(d->param[0], 1e-3);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_entries_with_a_factor), TEST(test_strips)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
