/* diff: planted changes are counted exactly, at tolerances that include their bound, in the type that is asked for; the rank of a
 * planted change; overlap against chance; what rounding alone would report. And method rl-subnetworks, which trains what diff finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "model/diff.h"
#include "support/adapter_support.h"
#include "support/io_support.h"

static lc_ctx *ctx;
static char *dir;

static int setup(void **state) {
  char why[256] = "";
  if (lc_ctx_new(2, &ctx, why)) fail_msg("%s", why);
  dir = lc_tiny_dir();
  return 0;
}

static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

typedef struct {
  lc_model *m;
  lc_net *net;
} side;

static side open_side(const char *path) {
  side s;
  ok(lc_model_open(ctx, path, &s.m));
  ok(lc_net_new(s.m, LC_F32, &s.net));
  return s;
}

static void close_side(side *s) {
  lc_net_free(s->net);
  lc_model_close(s->m);
}

static const char *tiny(const char *name, lc_dtype dtype, int shards, uint64_t seed) {
  lc_tiny t = LC_TINY_LLAMA;
  t.dtype = dtype;
  t.shards = shards;
  t.seed = seed;
  const char *path = lc_tiny_path(dir, name);
  ok(lc_tiny_hf(ctx, &t, path));
  return path;
}

#define QPROJ "model.layers.1.self_attn.q_proj.weight" /* 64×64 */

/* A sparse change on one weight of a fresh net. */
static void plant(lc_net *net, const char *name, const int64_t *at, const float *value, int64_t n) {
  lc_weight *w = lc_net_weight(net, name);
  lc_index idx;
  lc_delta *d;
  lc_adapter *a;
  assert_non_null(w);
  ok(lc_index_new(ctx, w->M, w->N, at, n, &idx));
  ok(lc_delta_sparse_new(ctx, w, &idx, value, false, &d));
  d->apply = LC_IN_PLACE;
  ok(lc_weight_attach(ctx, w, d));
  ok(lc_adapter_new(net, "planted", &a));
  ok(lc_adapter_add(a, d));
}

static const lc_diff_row *row_of(const lc_diff *d, const char *name) {
  for (int i = 0; i < d->n; i++)
    if (!strcmp(d->row[i].name, name)) return &d->row[i];
  fail_msg("no row '%s'", name);
  return NULL;
}

static void test_identical(void **state) {
  const char *path = tiny("same", LC_F32, 1, 1);
  side a = open_side(path), b = open_side(path), c = open_side(path);
  const lc_diff_opts o = {.ranks = -1};
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, c.net, &o, &d));
  assert_int_equal(d.all.count.changed, 0);
  assert_int_equal(d.all.count.n, lc_model_parameters(a.m));
  for (int k = 0; k < LC_DIFF_TOLERANCES; k++) assert_int_equal(d.all.count.unchanged[k], d.all.count.n);
  assert_true(d.n_ranks == 14 && d.rank_share == 0);
  assert_int_equal(d.all.count.second, 0);
  assert_int_equal(d.n_apart, 0);
  assert_int_equal(d.n_layer, 2);
  lc_diff_free(ctx, &d);
  close_side(&a);
  close_side(&b);
  close_side(&c);
}

/* One ulp is found at 0 and hidden at 1e-5; the bound belongs to what is equal; larger is changed. */
static void test_planted(void **state) {
  const char *path = tiny("plant", LC_F32, 1, 1);
  side a = open_side(path), b = open_side(path);
  const lc_weight *w = lc_net_weight(a.net, QPROJ);
  const void *tile;
  int64_t ld;
  ok(lc_weight_tile(ctx, 0, w, (lc_rect){0, 1, 0, 64}, LC_F32, &tile, &ld));
  const float x = ((const float *)tile)[5], ulp = nextafterf(x, INFINITY) - x;
  const int64_t at[] = {5, 70, 200};
  const float value[] = {ulp, 0.25f, -0.5f};
  plant(b.net, QPROJ, at, value, 3);
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32}, &d));
  const lc_diff_row *r = row_of(&d, QPROJ);
  assert_int_equal(r->count.changed, 3);
  assert_int_equal(d.all.count.changed, 3);
  assert_int_equal(r->count.unchanged[0], 64 * 64 - 3);
  assert_int_equal(r->count.unchanged[4], 64 * 64 - 2);
  assert_int_equal(r->count.invisible, 1);
  assert_true(fabs(r->count.largest - 0.5) < 1e-6);
  const double largest = r->count.largest;
  lc_diff_free(ctx, &d);
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32, .tolerance = largest}, &d));
  assert_int_equal(d.all.count.changed, 0); /* |Δ| = tolerance is equal */
  lc_diff_free(ctx, &d);
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32, .tolerance = nextafter(largest, 0)},
                  &d));
  assert_int_equal(d.all.count.changed, 1);
  lc_diff_free(ctx, &d);
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_BF16}, &d));
  assert_int_equal(d.all.count.changed, 2); /* the ulp is gone in bf16 */
  lc_diff_free(ctx, &d);
  close_side(&a);
  close_side(&b);
}

/* The same figures of one file and of three shards, on one thread and on two, and in the type of the narrower file. */
static void test_types(void **state) {
  static const lc_dtype types[] = {LC_F32, LC_BF16, LC_F16};
  for (int i = 0; i < 3; i++) {
    const char *one = tiny(i == 0 ? "a32" : i == 1 ? "abf" : "a16", types[i], 1, 1);
    const char *other = tiny(i == 0 ? "b32" : i == 1 ? "bbf" : "b16", types[i], 3, 2);
    side a = open_side(one), b = open_side(other), wide = open_side(tiny("wide", LC_F32, 1, 2));
    lc_diff d, mixed;
    ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){0}, &d));
    assert_int_equal(row_of(&d, QPROJ)->dtype, types[i]);
    assert_false(row_of(&d, QPROJ)->mixed);
    ok(lc_diff_nets(a.net, wide.net, NULL, &(lc_diff_opts){0}, &mixed));
    assert_int_equal(row_of(&mixed, QPROJ)->dtype, types[i]);
    assert_int_equal(row_of(&mixed, QPROJ)->mixed, i > 0);
    assert_int_equal(mixed.all.count.changed, d.all.count.changed); /* rounding both the same way */
    lc_diff_free(ctx, &mixed);
    lc_ctx *alone;
    char why[256];
    ok(lc_ctx_new(1, &alone, why));
    lc_model *m, *n;
    lc_net *x, *y;
    ok(lc_model_open(alone, one, &m));
    ok(lc_model_open(alone, other, &n));
    ok(lc_net_new(m, LC_F32, &x));
    ok(lc_net_new(n, LC_F32, &y));
    ok(lc_diff_nets(x, y, NULL, &(lc_diff_opts){0}, &mixed));
    assert_memory_equal(&mixed.all.count, &d.all.count, sizeof d.all.count);
    lc_diff_free(alone, &mixed);
    lc_net_free(x);
    lc_net_free(y);
    lc_model_close(m);
    lc_model_close(n);
    lc_ctx_free(alone);
    lc_diff_free(ctx, &d);
    close_side(&a);
    close_side(&b);
    close_side(&wide);
  }
  lc_tiny q = LC_TINY_LLAMA;
  q.dtype = LC_Q8_0;
  const char *gguf = lc_tiny_path(dir, "q8.gguf");
  ok(lc_tiny_gguf(ctx, &q, gguf));
  side a = open_side(gguf), b = open_side(lc_tiny_path(dir, "abf"));
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){0}, &d));
  assert_int_equal(row_of(&d, QPROJ)->dtype, LC_F32);
  assert_true(row_of(&d, QPROJ)->mixed);
  lc_diff_free(ctx, &d);
  close_side(&a);
  close_side(&b);
}

/* A change of rank 3; one of 1 % random entries of 256×256. */
static void test_rank(void **state) {
  lc_tiny t = LC_TINY_LLAMA;
  t.C = 256;
  t.D = 64;
  const char *path = lc_tiny_path(dir, "rank");
  ok(lc_tiny_hf(ctx, &t, path));
  side a = open_side(path), b = open_side(path);
  enum { N = 256 };
  int64_t *at = malloc(N * N * sizeof *at);
  float *value = malloc(N * N * sizeof *value);
  uint32_t s = 5;
  float u[3][N], v[3][N];
  for (int k = 0; k < 3; k++)
    for (int i = 0; i < N; i++) {
      u[k][i] = (float)(t_random(&s) % 1000) / 500 - 1;
      v[k][i] = (float)(t_random(&s) % 1000) / 500 - 1;
    }
  for (int i = 0; i < N * N; i++) {
    at[i] = i;
    value[i] = 64 * (u[0][i / N] * v[0][i % N] + u[1][i / N] * v[1][i % N] + u[2][i / N] * v[2][i % N]);
  }
  plant(b.net, QPROJ, at, value, N * N);
  int64_t n = 0;
  for (int i = 0; i < N * N; i++)
    if (t_random(&s) % 100 == 0) {
      at[n] = i;
      value[n++] = (float)(t_random(&s) % 1000 + 1) / 100;
    }
  plant(b.net, "model.layers.1.self_attn.o_proj.weight", at, value, n);
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32, .ranks = -1}, &d));
  assert_int_equal(row_of(&d, QPROJ)->rank, 3);
  assert_int_equal(row_of(&d, QPROJ)->full, N);
  assert_true(row_of(&d, "model.layers.1.self_attn.o_proj.weight")->rank > 200);
  assert_int_equal(row_of(&d, "model.layers.0.self_attn.q_proj.weight")->rank, 0);
  lc_diff_free(ctx, &d);
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32, .ranks = 4}, &d));
  assert_int_equal(d.n_ranks, 4);
  lc_diff_free(ctx, &d);
  free(at);
  free(value);
  close_side(&a);
  close_side(&b);
}

/* Random sets of densities p and q: the share of one in the other is chance, within four deviations. */
static void test_overlap(void **state) {
  const char *path = tiny("overlap", LC_F32, 1, 1);
  side a = open_side(path), b = open_side(path), c = open_side(path);
  enum { N = 64 * 64 };
  int64_t at[N], n[2] = {0};
  float value[N];
  uint32_t s = 9;
  for (int side_ = 0; side_ < 2; side_++) {
    for (int i = 0; i < N; i++)
      if (t_random(&s) % 100 < (side_ ? 30 : 15)) {
        value[n[side_]] = 1;
        at[n[side_]++] = i;
      }
    plant(side_ ? c.net : b.net, QPROJ, at, value, n[side_]);
  }
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, c.net, &(lc_diff_opts){0}, &d));
  const lc_diff_count *k = &row_of(&d, QPROJ)->count;
  assert_int_equal(k->changed, n[0]);
  assert_int_equal(k->second, n[1]);
  const double chance = (double)n[1] / N, of_first = (double)k->both / (double)n[0];
  assert_true(fabs(of_first - chance) < 4 * sqrt(chance * (1 - chance) / (double)n[0]));
  lc_diff_free(ctx, &d);
  close_side(&a);
  close_side(&b);
  close_side(&c);
}

/* The figures of the method's description, to one point. */
static void test_null(void **state) {
  static const struct {
    lc_dtype dtype;
    double rate;
    int64_t steps;
    double at_0, at_5;
  } all[] = {{LC_BF16, 5e-7, 1, 0.990, -1}, {LC_BF16, 5e-7, 1000, 0.819, 0.850},
             {LC_BF16, 1e-5, 1, 0.844, -1}, {LC_BF16, 1e-5, 1000, 0.118, -1},
             {LC_BF16, 1e-4, 1, 0.117, -1}, {LC_BF16, 1e-4, 1000, 0.025, -1},
             {LC_F32, 5e-7, 1, 0, -1}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    double share[LC_DIFF_TOLERANCES];
    ok(lc_diff_null(ctx, all[i].dtype, all[i].rate, all[i].steps, 1, share));
    if (fabs(share[0] - all[i].at_0) > 0.01 || (all[i].at_5 >= 0 && fabs(share[4] - all[i].at_5) > 0.01))
      fail_msg("rate %g, %d steps: %g and %g unchanged", all[i].rate, (int)all[i].steps, share[0], share[4]);
  }
}

/* Names that one side lacks are told, not compared. */
static void test_apart(void **state) {
  lc_tiny t = LC_TINY_LLAMA;
  t.attention_bias = true;
  const char *path = lc_tiny_path(dir, "bias");
  ok(lc_tiny_hf(ctx, &t, path));
  side a = open_side(tiny("nobias", LC_F32, 1, 1)), b = open_side(path);
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){0}, &d));
  assert_int_equal(d.n_apart, b.net->weights.n - a.net->weights.n);
  assert_int_equal(d.n, a.net->weights.n);
  lc_diff_free(ctx, &d);
  t.F = 128;
  t.attention_bias = false;
  ok(lc_tiny_hf(ctx, &t, lc_tiny_path(dir, "wider")));
  side w = open_side(lc_tiny_path(dir, "wider"));
  ok(lc_diff_nets(a.net, w.net, NULL, &(lc_diff_opts){0}, &d));
  assert_int_equal(d.n_apart, 6); /* gate, up, down of two layers have another shape */
  lc_diff_free(ctx, &d);
  close_side(&a);
  close_side(&b);
  close_side(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_identical), cmocka_unit_test(test_planted), cmocka_unit_test(test_types),
      cmocka_unit_test(test_rank),      cmocka_unit_test(test_overlap), cmocka_unit_test(test_null),
      cmocka_unit_test(test_apart),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
