/* Nets: taps stand where they should in both families and cost nothing; whole-weight trainables; exports with
 * deltas merged are what the net computes; several nets share one model. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 24, V = 300 };
static lc_ctx *ctx;
static char *dir;
static int32_t ids[T];
static lc_model *model[2]; /* llama, gpt2 */

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(2, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  for (int t = 0; t < T; t++) ids[t] = t * 29 % V;
  lc_tiny m[2] = {LC_TINY_LLAMA, LC_TINY_GPT2};
  for (int i = 0; i < 2; i++) {
    const char *path = lc_tiny_path(dir, m[i].family);
    if (lc_tiny_hf(ctx, &m[i], path) || lc_model_open(ctx, path, &model[i])) return 1;
  }
  return 0;
}

static int teardown(void **state) {
  for (int i = 0; i < 2; i++) lc_model_close(model[i]);
  lc_remove_tree(ctx, dir);
  free(dir);
  size_t left = 0;
  for (int i = 0; i < LC_MEM_COUNT; i++)
    if (i != LC_MEM_SCRATCH) left += lc_mem_bytes(ctx, i);
  lc_ctx_free(ctx);
  return left != 0;
}

static lc_net *net_of(int family, lc_dtype compute) {
  lc_net *net;
  ok(lc_net_new(model[family], compute, &net));
  return net;
}

static double difference(lc_net *a, lc_net *b) {
  static float x[T * V], y[T * V];
  ok(lc_tiny_logits(a, ids, T, x));
  ok(lc_tiny_logits(b, ids, T, y));
  return lc_tiny_error(x, y, T * V);
}

/* ---- taps ---- */

typedef struct {
  struct {
    lc_tap_point point;
    int layer;
    int64_t width;
  } seen[64];
  int n;
  lc_tap_point at;
  bool doubles;
} listener;

static lc_val listen(void *self, lc_builder *b, lc_tap_point point, int layer, lc_val v) {
  listener *l = self;
  const lc_value *x = lc_value_get(b->g, v);
  l->seen[l->n].point = point;
  l->seen[l->n].layer = layer;
  l->seen[l->n++].width = x->width;
  if (!l->doubles || point != l->at) return v;
  return lc_sum(b, v, v);
}

static void test_taps(void **state) {
  static const lc_tap_point in_block[] = {
      LC_TAP_ATTN_IN,      LC_TAP_Q,      LC_TAP_K,          LC_TAP_HEAD_OUT, LC_TAP_ATTN_OUT,
      LC_TAP_MID_RESIDUAL, LC_TAP_MLP_IN, LC_TAP_MLP_HIDDEN, LC_TAP_MLP_OUT,  LC_TAP_BLOCK_OUT};
  for (int f = 0; f < 2; f++) {
    const lc_config *c = &model[f]->config;
    int64_t width[] = {c->C, c->H * c->D, c->G * c->D, c->H * c->D, c->C, c->C, c->C, c->F, c->C, c->C};
    lc_net *plain = net_of(f, LC_F32), *tapped = net_of(f, LC_F32);
    listener l = {0};
    tapped->tap[0] = (lc_tap_hook){listen, &l};
    tapped->n_tap = 1;
    assert_true(difference(tapped, plain) <= 1e-6); /* listening changes nothing */
    assert_int_equal(l.n, 2 + 10 * c->L);
    assert_true(l.seen[0].point == LC_TAP_EMBED_OUT && l.seen[l.n - 1].point == LC_TAP_FINAL_NORM_OUT);
    for (int i = 0; i < 10 * c->L; i++) {
      assert_int_equal(l.seen[1 + i].point, in_block[i % 10]);
      assert_int_equal(l.seen[1 + i].layer, i / 10);
      assert_int_equal(l.seen[1 + i].width, width[i % 10]);
    }
    for (int p = 0; p < LC_TAP_COUNT; p++) { /* a replaced value is the one that goes on: at every point */
      l = (listener){.doubles = true, .at = (lc_tap_point)p};
      if (!(difference(tapped, plain) > 1e-3)) fail_msg("family %d: replacing at tap %d has no effect", f, p);
    }
    lc_net_free(plain);
    lc_net_free(tapped);
  }
}

/* ---- compute dtype ---- */

static void test_bf16_is_near(void **state) {
  for (int f = 0; f < 2; f++) {
    lc_net *a = net_of(f, LC_BF16), *b = net_of(f, LC_F32);
    double e = difference(a, b);
    if (!(e > 1e-5 && e < 5e-2)) fail_msg("family %d: bf16 is %g away", f, e);
    lc_net_free(a);
    lc_net_free(b);
  }
  lc_net *net;
  assert_int_equal(lc_net_new(model[0], LC_F16, &net), LC_FAILED);
}

/* ---- trainables ---- */

static bool is_norm(const lc_weight *w, void *arg) {
  return w->kind == LC_KIND_NORM;
}

static void test_whole(void **state) {
  for (int f = 0; f < 2; f++) {
    lc_net *net = net_of(f, LC_F32), *plain = net_of(f, LC_F32);
    lc_param **p;
    int n;
    ok(lc_net_train_whole(net, is_norm, NULL));
    ok(lc_net_params(net, &p, &n));
    assert_int_equal(n, 2 * model[f]->config.L + 1);
    for (int i = 0; i < n; i++) assert_false(p[i]->decays);
    lc_free(ctx, p);
    ok(lc_net_train_whole(net, NULL, NULL)); /* the rest */
    ok(lc_net_train_whole(net, NULL, NULL)); /* nothing more */
    ok(lc_net_params(net, &p, &n));
    assert_int_equal(n, model[f]->n);
    for (int i = 0; i < n; i++) {
      if (i) assert_true(strcmp(p[i - 1]->name, p[i]->name) < 0);
      assert_int_equal(p[i]->decays, p[i]->of->ndim == 2);
      assert_int_equal(p[i]->n, p[i]->of->M * p[i]->of->N);
    }
    assert_true(difference(net, plain) <= 1e-6);
    for (int i = 0; i < n; i++) /* the masters are what is computed with */
      if (p[i]->of->kind == LC_KIND_EMBEDDING)
        for (int64_t k = 0; k < p[i]->n; k++) p[i]->value[k] *= 1.5f;
    assert_true(difference(net, plain) > 1e-2);
    lc_free(ctx, p);
    lc_net_free(plain); /* the model's own weights have not moved */
    plain = net_of(f, LC_F32);
    lc_net *again = net_of(f, LC_F32);
    assert_true(difference(plain, again) == 0);
    lc_net_free(net);
    lc_net_free(plain);
    lc_net_free(again);
  }
}

/* ---- merging ---- */

/* Every fifth entry or so of a weight, values of about a fifth of its own. */
static lc_delta *add_sparse(lc_net *net, const char *name) {
  lc_weight *w = lc_net_weight(net, name);
  assert_non_null(w);
  int64_t n = w->M * w->N / 5, *at = malloc((size_t)n * sizeof *at);
  float *v = malloc((size_t)n * sizeof *v);
  lc_rng r = {.seed = 9, .tensor = w->id, .purpose = LC_RNG_TEST};
  ok(lc_rng_choose(ctx, &r, w->M * w->N, n, at));
  for (int64_t i = 0; i < n; i++) v[i] = 0.2f * lc_rng_normal(&r, (uint64_t)i);
  lc_index idx;
  lc_delta *d;
  ok(lc_index_new(ctx, w->M, w->N, at, n, &idx));
  ok(lc_delta_sparse_new(ctx, w, &idx, v, false, &d));
  ok(lc_weight_attach(ctx, w, d));
  free(at);
  free(v);
  return d;
}

static void add_lora(lc_net *net, const char *name) {
  lc_weight *w = lc_net_weight(net, name);
  enum { R = 4 };
  lc_lora_opts o = {.rank = R, .alpha = 8};
  float *A = malloc((size_t)(R * w->N) * sizeof *A), *B = malloc((size_t)(R * w->M) * sizeof *B);
  lc_rng r = {.seed = 4, .tensor = w->id, .purpose = LC_RNG_TEST};
  for (int64_t i = 0; i < R * w->N; i++) A[i] = 0.1f * lc_rng_normal(&r, (uint64_t)i);
  for (int64_t i = 0; i < R * w->M; i++) B[i] = 0.1f * lc_rng_normal(&r, (uint64_t)(i + R * w->N));
  lc_delta *d;
  ok(lc_delta_lora_new(ctx, w, &o, A, B, false, &d));
  ok(lc_weight_attach(ctx, w, d));
  free(A);
  free(B);
}

static void test_merged_exports(void **state) {
  static const char *const sparse[2][2] = {
      {"model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.down_proj.weight"},
      {"transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"}};
  static const char *const low_rank[2] = {"model.layers.1.self_attn.q_proj.weight",
                                          "transformer.h.1.mlp.c_fc.weight"};
  for (int f = 0; f < 2; f++) {
    lc_net *net = net_of(f, LC_F32), *plain = net_of(f, LC_F32);
    lc_delta *d = add_sparse(net, sparse[f][0]);
    add_sparse(net, sparse[f][1])->scale = 0.5f;
    add_lora(net, low_rank[f]);
    add_sparse(net, low_rank[f]);
    assert_true(difference(net, plain) > 1e-2);
    for (int gguf = 0; gguf < 2; gguf++) {
      const char *path = lc_tiny_path(dir, gguf ? "merged.gguf" : "merged");
      lc_merge_report report;
      lc_remove_tree(ctx, lc_tiny_path(dir, "merged"));
      ok(gguf ? lc_net_write_gguf(net, path, LC_F32, &report) : lc_net_write_hf(net, path, LC_F32, &report));
      assert_int_equal(report.n, 3);
      for (int i = 0; i < 3; i++) {
        assert_true(report.row[i].survive == 1 && fabs(report.row[i].error - 1) < 1e-6);
        if (!strcmp(report.row[i].name, sparse[f][0]))
          assert_int_equal(report.row[i].changed, d->param[0]->n);
      }
      lc_merge_report_free(ctx, &report);
      lc_model *m;
      lc_net *merged;
      ok(lc_model_open(ctx, path, &m));
      ok(lc_net_new(m, LC_F32, &merged));
      double e = difference(merged, net);
      if (!(e <= 1e-5)) fail_msg("family %d, %s: %g", f, path, e);
      lc_net_free(merged);
      lc_model_close(m);
    }
    lc_net_free(net);
    lc_net_free(plain);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_taps), cmocka_unit_test(test_bf16_is_near),
                                     cmocka_unit_test(test_whole), cmocka_unit_test(test_merged_exports)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
