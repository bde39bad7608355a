/* Slices of columns and rows on small Llamas (grouped heads, a head width apart from C, biases, untied): nothing at zero;
 * gradients are the dense ones gathered, and those of differences; patched, in place, aside and merged agree; what is kept
 * for columns is x[lines]; two slices add up in any order; the same as a low-rank change; lists that are wrong. */
#include "infer/infer.h"
#include "nn/slice.h"
#include "support/tiny_model.h"
#include "tensor/graph_priv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 29, V = 300 };
static lc_ctx *ctx;
static int32_t ids[T];
static char *dir;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static int setup(void **state) {
  for (int t = 0; t < T; t++) ids[t] = (t * 37 + 11) % V;
  dir = lc_tiny_dir();
  return lc_ctx_new(2, &ctx, NULL);
}
static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static const lc_tiny plain = LC_TINY_LLAMA, odd = {.family = "llama",
                                                   .C = 64,
                                                   .L = 2,
                                                   .H = 6,
                                                   .G = 3,
                                                   .D = 16,
                                                   .F = 96,
                                                   .V = V,
                                                   .context = 128,
                                                   .attention_bias = true,
                                                   .mlp_bias = true,
                                                   .seed = 1,
                                                   .dtype = LC_F32};

typedef struct {
  lc_model *m;
  lc_net *net;
  lc_weight *w[64];
  int n;
} tiny;
static tiny open_tiny(const lc_tiny *as, lc_dtype dtype, lc_dtype compute) {
  tiny t = {0};
  lc_tiny d = *as;
  d.dtype = dtype;
  const bool quantised = lc_dtype_get(dtype)->quantised;
  const char *path = lc_tiny_path(dir, quantised ? "m.gguf" : "m");
  ok(quantised ? lc_tiny_gguf(ctx, &d, path) : lc_tiny_hf(ctx, &d, path));
  ok(lc_model_open(ctx, path, &t.m));
  ok(lc_net_new(t.m, compute, &t.net));
  for (int i = 0; i < t.net->weights.n; i++)
    if (t.net->weights.w[i].kind == LC_KIND_LINEAR) t.w[t.n++] = &t.net->weights.w[i];
  return t;
}
static void close_tiny(tiny *t) {
  lc_net_free(t->net);
  lc_model_close(t->m);
  ok(lc_remove_tree(ctx, dir));
  ok(lc_mkdirs(ctx, dir));
}
static float *logits(lc_net *net) {
  float *l = malloc(T * V * sizeof *l);
  ok(lc_tiny_logits(net, ids, T, l));
  return l;
}
static double loss_of(lc_net *net, bool backward) {
  double loss;
  ok(lc_tiny_loss(net, ids, ids, T, backward, &loss));
  return loss;
}

/* Lines first, first + step … of an axis; values random, or zero. */
static lc_delta *attach(lc_weight *w, int axis, int first, int step, bool zero, bool trainable) {
  const int64_t all = axis == LC_SLICE_ROWS ? w->M : w->N;
  int32_t lines[128];
  lc_slice_opts o = {.axis = axis};
  lc_delta *d;
  for (int64_t i = first; i < all; i += step) lines[o.count++] = (int32_t)i;
  ok(lc_delta_slice_new(ctx, w, &o, lines, trainable, &d));
  const lc_rng rng = {.seed = (uint64_t)first, .tensor = w->id, .purpose = LC_RNG_TEST};
  for (int64_t k = 0; k < d->param[0]->n && !zero; k++)
    d->param[0]->value[k] = 0.05f * lc_rng_normal(&rng, (uint64_t)k);
  ok(lc_weight_attach(ctx, w, d));
  return d;
}

static void test_zero_is_the_base(void **state) {
  static const lc_dtype forms[] = {LC_F32, LC_BF16, LC_Q8_0, LC_Q4_1};
  for (int f = 0; f < 4; f++)
    for (int c = 0; c < 2; c++) {
      tiny t = open_tiny(&plain, forms[f], c ? LC_BF16 : LC_F32);
      float *base = logits(t.net);
      const double loss = loss_of(t.net, false);
      for (int i = 0; i < t.n; i++) attach(t.w[i], i % 2, 1, 7, true, true);
      float *zero = logits(t.net);
      assert_memory_equal(base, zero, T * V * sizeof *base);
      assert_true(loss_of(t.net, true) == loss);
      for (int i = 0; i < t.n; i++) attach(t.w[i], i % 2, 2, 7, false, false)->scale = 0;
      free(zero);
      zero = logits(t.net);
      assert_memory_equal(base, zero, T * V * sizeof *base);
      free(base);
      free(zero);
      close_tiny(&t);
    }
}

static lc_status collect(void *self, lc_weight *w, const lc_tile *t) {
  for (int64_t r = t->at.r0; r < t->at.r1; r++)
    memcpy((float *)self + r * w->N, t->dw + (r - t->at.r0) * t->ld, (size_t)w->N * sizeof(float));
  return LC_OK;
}

static void test_gradients(void **state) {
  for (int m = 0; m < 4; m++) {
    tiny t = open_tiny(m & 1 ? &odd : &plain, LC_F32, m & 2 ? LC_BF16 : LC_F32);
    float *dense[64], *alone = malloc(sizeof(float) << 16);
    lc_delta *d[64], *e[64];
    for (int i = 0; i < t.n; i++) {
      d[i] = attach(t.w[i], i % 2, 1, 5, false, true);
      e[i] = attach(t.w[i], i % 2, 3, 5, false, true); /* columns of two lie side by side in what is kept */
    }
    loss_of(t.net, true);
    for (int i = 0; i < t.n; i++) {
      dense[i] = calloc((size_t)(t.w[i]->M * t.w[i]->N), sizeof(float));
      ok(lc_weight_add_sink(ctx, t.w[i],
                            (lc_sink){.kind = LC_SINK_TILES, .tile = collect, .self = dense[i]}));
    }
    for (int both = 0; both < 2; both++) {
      if (both) loss_of(t.net, true); /* with the dense gradient beside them: added a second time */
      for (int i = 0; i < 2 * t.n; i++) {
        const lc_delta *one = i % 2 ? e[i / 2] : d[i / 2];
        const lc_slice_opts *o = lc_delta_slice_opts(one);
        const int32_t *lines = lc_delta_slice_lines(one);
        const lc_param *p = one->param[0];
        const int64_t N = one->w->N;
        if (!both) {
          if (i == 1) memcpy(alone, p->grad, (size_t)p->n * sizeof *alone);
          continue;
        }
        float *want = malloc((size_t)p->n * sizeof *want);
        for (int64_t k = 0; k < p->n; k++)
          want[k] = 2 * (o->axis == LC_SLICE_ROWS ? dense[i / 2][lines[k / N] * N + k % N]
                                                  : dense[i / 2][k / o->count * N + lines[k % o->count]]);
        if (!(lc_tiny_error(p->grad, want, p->n) < 1e-5))
          fail_msg("%s: off by %g", one->w->name, lc_tiny_error(p->grad, want, p->n));
        for (int64_t k = 0; k < p->n && i == 1; k++) assert_true(2 * alone[k] == p->grad[k]);
        free(want);
      }
    }
    for (int i = 0; i < t.n; i++) {
      lc_weight_remove_sink(t.w[i], dense[i]);
      free(dense[i]);
    }
    free(alone);
    close_tiny(&t);
  }
}

/* Along each gradient the loss changes by its square. */
static void test_differences(void **state) {
  tiny t = open_tiny(&odd, LC_F32, LC_F32);
  lc_param **p;
  int n;
  for (int i = 0; i < t.n; i++) attach(t.w[i], i % 2, 1, 5, false, true);
  ok(lc_net_params(t.net, &p, &n));
  assert_int_equal(n, t.n);
  loss_of(t.net, true);
  for (int i = 0; i < n; i++) {
    double norm2 = 0, side[2];
    float *v = malloc((size_t)p[i]->n * sizeof *v);
    memcpy(v, p[i]->value, (size_t)p[i]->n * sizeof *v);
    for (int64_t k = 0; k < p[i]->n; k++) norm2 += (double)p[i]->grad[k] * (double)p[i]->grad[k];
    const double h = 5e-3 / norm2;
    for (int s = 0; s < 2; s++) {
      for (int64_t k = 0; k < p[i]->n; k++)
        p[i]->value[k] = v[k] + (float)((s ? -h : h) * (double)p[i]->grad[k]);
      side[s] = loss_of(t.net, false);
    }
    memcpy(p[i]->value, v, (size_t)p[i]->n * sizeof *v);
    assert_true(fabs((side[0] - side[1]) / (2 * h) - norm2) < 0.02 * norm2);
    free(v);
  }
  lc_free(ctx, p);
  close_tiny(&t);
}

/* Logits of the last token by a session: one-token products, changes aside. */
static void aside_logits(lc_net *net, float *last) {
  lc_session *s;
  ok(lc_session_new(net, T, T, LC_F32, &s));
  ok(lc_session_feed(s, ids, T - 1, false, last));
  ok(lc_session_feed(s, ids + T - 1, 1, false, last));
  lc_session_free(s);
}

static void merged_logits(tiny *t, float *out) {
  lc_model *m;
  lc_net *net;
  ok(lc_net_write_hf(t->net, lc_tiny_path(dir, "merged"), LC_F32, NULL));
  ok(lc_model_open(ctx, lc_tiny_path(dir, "merged"), &m));
  ok(lc_net_new(m, LC_F32, &net));
  ok(lc_tiny_logits(net, ids, T, out));
  lc_net_free(net);
  lc_model_close(m);
}

static void test_modes_agree(void **state) {
  static const lc_dtype forms[] = {LC_F32, LC_Q4_1};
  for (int f = 0; f < 2; f++) {
    tiny t = open_tiny(&plain, forms[f], LC_F32);
    lc_delta *d[64];
    float *base = logits(t.net), last[V], merged[T * V];
    for (int i = 0; i < t.n; i++) (d[i] = attach(t.w[i], i % 2, 1, 5, false, false))->scale = 1.5f;
    float *patched = logits(t.net);
    assert_true(lc_tiny_error(patched, base, T * V) > 0.02);
    aside_logits(t.net, last);
    assert_true(lc_tiny_error(last, patched + (T - 1) * V, V) < 1e-5);
    merged_logits(&t, merged);
    assert_true(lc_tiny_error(merged, patched, T * V) < 1e-5);
    for (int i = 0; i < t.n; i++) {
      d[i]->apply = LC_IN_PLACE;
      ok(lc_weight_refresh(ctx, t.w[i]));
    }
    float *placed = logits(t.net);
    assert_true(lc_tiny_error(placed, patched, T * V) < 1e-5);
    for (int i = 0; i < t.n; i++) lc_weight_detach(ctx, t.w[i], d[i], true);
    free(placed);
    placed = logits(t.net);
    assert_memory_equal(placed, base, T * V * sizeof *base);
    free(base);
    free(patched);
    free(placed);
    close_tiny(&t);
  }
}

/* Any rectangle of the patch is that part of the whole, in f32 and in bf16. */
static void test_rectangles(void **state) {
  tiny t = open_tiny(&plain, LC_BF16, LC_F32);
  lc_weight *w = lc_net_weight(t.net, "model.layers.0.mlp.up_proj.weight");
  const int64_t M = w->M, N = w->N;
  float *whole = malloc((size_t)(M * N) * 4), *tile = malloc((size_t)(M * N) * 4);
  uint16_t *half = malloc((size_t)(M * N) * 2);
  const lc_rng rng = {.seed = 4, .purpose = LC_RNG_TEST};
  for (int axis = 0; axis < 2; axis++) {
    lc_delta *d = attach(w, axis, 2, 5, false, false);
    memset(whole, 0, (size_t)(M * N) * 4);
    ok(lc_delta_slice.patch(ctx, d, (lc_rect){0, M, 0, N}, whole, N));
    for (int i = 0; i < 200; i++) {
      lc_rect q;
      q.r0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i), (uint64_t)M);
      q.c0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 1), (uint64_t)N);
      q.r1 = q.r0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 2), (uint64_t)(M - q.r0));
      q.c1 = q.c0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 3), (uint64_t)(N - q.c0));
      const int64_t rows = q.r1 - q.r0, ld = q.c1 - q.c0;
      for (int64_t k = 0; k < rows * ld; k++) tile[k] = 1, half[k] = lc_f32_to_bf16(1.5f);
      ok(lc_delta_slice.patch(ctx, d, q, tile, ld));
      ok(lc_delta_slice.patch_bf16(ctx, d, q, half, ld));
      for (int64_t k = 0; k < rows * ld; k++) {
        const float v = whole[(q.r0 + k / ld) * N + q.c0 + k % ld];
        assert_true(tile[k] == 1 + v);
        assert_int_equal(half[k], lc_f32_to_bf16(1.5f + v));
      }
    }
  }
  free(whole);
  free(tile);
  free(half);
  close_tiny(&t);
}

/* Bytes of values that the backward pass of a linear layer's weight reads from the forward pass. */
static int64_t kept_width(const lc_net_graph *g, const lc_weight *w) {
  int64_t width = 0;
  for (int i = 0; i < lc_graph_nodes(g->g); i++) {
    const lc_node *n = lc_graph_node(g->g, i);
    if (strcmp(n->op->name, "linear") || *(lc_weight *const *)n->attr != w) continue;
    const uint32_t mask = n->op->saves(n, n->want);
    for (int k = 0; k < n->n_in; k++)
      if (mask & LC_IN(k)) width += lc_value_get(g->g, n->in[k])->width;
  }
  return width;
}

/* Of the inputs of o and down only the chosen columns are kept. The plan keeps them instead of a table of their own
 * where no other op needs the input: for down, (F − k) columns a row and layer are saved. */
static void test_what_is_kept(void **state) {
  enum { ROWS = 128, STEP = 12 };
  size_t bytes[2];
  lc_tiny deep = plain;
  deep.L = 6;
  for (int kind = 0; kind < 2; kind++) { /* all columns as entries, or a slice */
    tiny t = open_tiny(&deep, LC_F32, LC_F32);
    lc_net_graph g;
    lc_plan *plan;
    for (int i = 0; i < t.n; i++) {
      const bool down = strstr(t.w[i]->name, "down_proj") != NULL;
      if (!down && !strstr(t.w[i]->name, "o_proj")) continue;
      if (kind) {
        attach(t.w[i], LC_SLICE_COLUMNS, 0, STEP, true, true);
      } else {
        int64_t flat[] = {0};
        lc_index idx;
        lc_delta *d;
        ok(lc_index_new(ctx, t.w[i]->M, t.w[i]->N, flat, 1, &idx));
        ok(lc_delta_sparse_new(ctx, t.w[i], &idx, NULL, true, &d));
        ok(lc_weight_attach(ctx, t.w[i], d));
      }
    }
    ok(lc_net_build(t.net, true, NULL, NULL, &g));
    ok(lc_plan_new(g.g, &(lc_plan_opts){.rows = ROWS, .training = true}, &plan));
    bytes[kind] = lc_plan_bytes(plan);
    for (int i = 0; i < t.n; i++) {
      const int64_t N = t.w[i]->N, all = kept_width(&g, t.w[i]);
      const bool trained = strstr(t.w[i]->name, "down_proj") || strstr(t.w[i]->name, "o_proj");
      assert_int_equal(all, !trained ? 0 : kind ? lc_ceil_div(N, STEP) : N);
    }
    lc_plan_free(plan);
    lc_net_graph_free(&g);
    close_tiny(&t);
  }
  /* the last block's is alive in any case while it is made; attention keeps o's input for itself and a slice comes on top */
  const int64_t F = deep.F, k = F / STEP, o = lc_ceil_div(deep.H * deep.D, STEP);
  const size_t saved = (size_t)((deep.L - 1) * ROWS * (F - k - o)) * sizeof(float);
  assert_true(bytes[0] - bytes[1] >= saved * 9 / 10);
}

/* Disjoint slices: together as one after the other, in any order. */
static void test_two(void **state) {
  tiny t = open_tiny(&plain, LC_F32, LC_F32);
  float *seen[3];
  for (int order = 0; order < 3; order++) {
    lc_delta *d[64][2];
    for (int i = 0; i < t.n; i++)
      for (int k = 0; k < 2; k++) {
        const int which = order == 1 ? 1 - k : k;
        d[i][which] = attach(t.w[i], i % 2, 1 + which, 5, false, false);
        if (order < 2) d[i][which]->apply = LC_IN_PLACE;
        if (order < 2) ok(lc_weight_refresh(ctx, t.w[i]));
      }
    seen[order] = logits(t.net);
    for (int i = 0; i < t.n; i++)
      for (int k = 0; k < 2; k++) lc_weight_detach(ctx, t.w[i], d[i][k], true);
  }
  assert_memory_equal(seen[0], seen[1], T * V * sizeof(float));
  assert_memory_equal(seen[0], seen[2], T * V * sizeof(float));
  for (int i = 0; i < 3; i++) free(seen[i]);
  close_tiny(&t);
}

/* B·A of the low-rank form is the change exactly. */
static void test_low_rank(void **state) {
  tiny t = open_tiny(&plain, LC_F32, LC_F32);
  for (int i = 0; i < t.n; i++) {
    const size_t bytes = (size_t)(t.w[i]->M * t.w[i]->N) * sizeof(float);
    float *a = calloc(1, bytes), *b = calloc(1, bytes);
    lc_delta *d = attach(t.w[i], i % 2, 1, 5, false, false), *l;
    const lc_rect all = {0, t.w[i]->M, 0, t.w[i]->N};
    ok(lc_delta_slice_lora(ctx, d, &l));
    assert_true(lc_delta_lora_scale(l) == 1);
    ok(d->ops->patch(ctx, d, all, a, all.c1));
    ok(l->ops->patch(ctx, l, all, b, all.c1));
    assert_memory_equal(a, b, bytes);
    l->ops->free(ctx, l);
    free(a);
    free(b);
  }
  close_tiny(&t);
}

static void test_refusals(void **state) {
  tiny t = open_tiny(&plain, LC_F32, LC_F32);
  lc_weight *w = lc_net_weight(t.net, "model.layers.0.mlp.down_proj.weight"),
            *e = lc_net_weight(t.net, "model.embed_tokens.weight");
  lc_delta *d = NULL;
  static const int32_t lists[][2] = {{5, 5}, {6, 5}, {-1, 5}, {5, 96}};
  for (int i = 0; i < 4; i++) {
    assert_int_equal(lc_delta_slice_new(ctx, w, &(lc_slice_opts){LC_SLICE_COLUMNS, 2}, lists[i], true, &d),
                     LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "ascend"));
    assert_null(d);
  }
  assert_int_equal(
      lc_delta_slice_new(ctx, e, &(lc_slice_opts){LC_SLICE_COLUMNS, 1}, (int32_t[]){1}, true, &d), LC_FAILED);
  assert_int_equal(lc_delta_slice_new(ctx, w, &(lc_slice_opts){LC_SLICE_ROWS, 65}, (int32_t[]){1}, true, &d),
                   LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "64 rows: a slice of 65"));
  lc_error_clear(ctx);
  close_tiny(&t);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_zero_is_the_base), TEST(test_gradients),    TEST(test_differences), TEST(test_modes_agree),
      TEST(test_rectangles),       TEST(test_what_is_kept), TEST(test_two),         TEST(test_low_rank),
      TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
