/* Masks as objects and as deltas: bits and counts; what is dropped is zero and what survives has the base's bits, in any
 * rectangle; a masked base under a low-rank change and entries with a factor is the dense masked reference, patched, in
 * place and in bf16; the entries' gradient has the factor; a mask comes first; removal restores the bits; an adapter's file
 * keeps all three. */
#include "nn/mask.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 29, V = 300, R = 3 };
static lc_ctx *ctx;
static int32_t ids[T];
static char *dir;
static lc_model *model;
static const float factor = 2.5f;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static int setup(void **state) {
  for (int t = 0; t < T; t++) ids[t] = (t * 37 + 11) % V;
  dir = lc_tiny_dir();
  lc_tiny d = LC_TINY_LLAMA;
  if (lc_ctx_new(2, &ctx, NULL)) return 1;
  ok(lc_tiny_hf(ctx, &d, lc_tiny_path(dir, "m")));
  ok(lc_model_open(ctx, lc_tiny_path(dir, "m"), &model));
  return 0;
}
static int teardown(void **state) {
  lc_model_close(model);
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}
static void refused(lc_status st, const char *says) {
  assert_int_not_equal(st, LC_OK);
  if (!strstr(lc_error(ctx), says)) fail_msg("says '%s', expected '%s'", lc_error(ctx), says);
  lc_error_clear(ctx);
}

/* About a third dropped, at random. */
static lc_mask make_mask(int64_t M, int64_t N, uint64_t seed) {
  const lc_rng rng = {.seed = seed, .purpose = LC_RNG_TEST};
  lc_mask m;
  lc_index idx;
  int64_t *flat = malloc((size_t)(M * N / 3) * sizeof *flat);
  ok(lc_mask_new(ctx, M, N, &m));
  ok(lc_rng_choose(ctx, &rng, M * N, M * N / 3, flat));
  ok(lc_index_new(ctx, M, N, flat, M * N / 3, &idx));
  lc_mask_drop(&m, &idx);
  for (int64_t k = 0; k < idx.n; k++) assert_false(lc_mask_has(&m, flat[k]));
  lc_index_free(ctx, &idx);
  free(flat);
  return m;
}

static void test_object(void **state) {
  lc_mask m = make_mask(13, 11, 1);
  lc_index gone;
  assert_int_equal(m.kept, 143 - 47);
  assert_int_equal(lc_mask_count(&m), m.kept);
  ok(lc_mask_dropped(ctx, &m, &gone));
  assert_int_equal(gone.n, 47);
  lc_mask_drop(&m, &gone); /* again: nothing changes */
  assert_int_equal(m.kept, 143 - 47);
  lc_index_free(ctx, &gone);
  lc_mask_free(ctx, &m);
  ok(lc_mask_new(ctx, 13, 11, &m));
  assert_int_equal(lc_mask_count(&m), 143);
  lc_mask_drop_lines(&m, false, 2, 3);
  lc_mask_drop_lines(&m, true, 10, 1);
  assert_int_equal(m.kept, 143 - 33 - 10);
  assert_int_equal(lc_mask_count(&m), m.kept);
  assert_int_equal(m.structure, LC_MASK_LINES);
  for (int r = 0; r < 13; r++)
    for (int c = 0; c < 11; c++)
      assert_int_equal(lc_mask_has(&m, r * 11 + c), !((r >= 2 && r < 5) || c == 10));
  lc_mask_free(ctx, &m);
}

static void test_rectangles(void **state) {
  enum { M = 37, N = 45 };
  lc_weight w = {.name = "w.weight", .module = "w", .kind = LC_KIND_LINEAR, .M = M, .N = N, .ndim = 2};
  static float tile[M * N];
  static uint16_t half[M * N];
  const lc_rng rng = {.seed = 4, .purpose = LC_RNG_TEST};
  lc_mask m = make_mask(M, N, 2);
  lc_delta *d;
  lc_mask_drop_lines(&m, true, 8, 16); /* whole bytes too */
  ok(lc_delta_mask_new(ctx, &w, &m, &d));
  assert_null(m.bits);
  for (int i = 0; i < 600; i++) {
    lc_rect q;
    q.r0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i), M);
    q.c0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 1), N);
    q.r1 = q.r0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 2), (uint64_t)(M - q.r0));
    q.c1 = q.c0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 3), (uint64_t)(N - q.c0));
    const int64_t rows = q.r1 - q.r0, ld = q.c1 - q.c0;
    const float scale = d->scale = i % 3 ? 1 : 0.25f;
    for (int64_t k = 0; k < rows * ld; k++) tile[k] = -1.5f, half[k] = lc_f32_to_bf16(-1.5f);
    ok(lc_delta_mask.patch(ctx, d, q, tile, ld));
    ok(lc_delta_mask.patch_bf16(ctx, d, q, half, ld));
    for (int64_t k = 0; k < rows * ld; k++) {
      const bool has = lc_mask_has(lc_delta_mask_of(d), (q.r0 + k / ld) * N + q.c0 + k % ld);
      const float want = has ? -1.5f : scale == 1 ? 0 : -1.5f * 0.75f;
      assert_memory_equal(&tile[k], &want, sizeof want); /* +0, not -0 */
      assert_int_equal(half[k], lc_f32_to_bf16(want));
    }
  }
  d->ops->free(ctx, d);
}

typedef struct {
  lc_net *net;
  lc_weight *w[64];
  lc_delta *mask[64], *lora[64], *sparse[64];
  int n;
  lc_adapter *a;
} world;

/* On each linear layer: a mask, then a low-rank change, then entries with a factor. */
static world open_world(lc_dtype compute, bool trainable) {
  world x = {0};
  ok(lc_net_new(model, compute, &x.net));
  ok(lc_adapter_new(x.net, "a", &x.a));
  for (int i = 0; i < x.net->weights.n; i++) {
    lc_weight *w = &x.net->weights.w[i];
    if (w->kind != LC_KIND_LINEAR) continue;
    const lc_rng rng = {.seed = 3, .tensor = w->id, .purpose = LC_RNG_TEST};
    const lc_lora_opts o = {.rank = R, .alpha = 2 * R, .seed = 5};
    float B[128 * R], value[40];
    int64_t flat[40];
    lc_mask m = make_mask(w->M, w->N, 10 + (uint64_t)i);
    lc_index idx;
    const int n = x.n++;
    x.w[n] = w;
    ok(lc_delta_mask_new(ctx, w, &m, &x.mask[n]));
    ok(lc_weight_attach(ctx, w, x.mask[n]));
    lc_rng_normal_fill(&rng, 0, w->M * R, B);
    for (int64_t k = 0; k < w->M * R; k++) B[k] *= 0.1f;
    ok(lc_delta_lora_new(ctx, w, &o, NULL, B, trainable, &x.lora[n]));
    ok(lc_weight_attach(ctx, w, x.lora[n]));
    ok(lc_rng_choose(ctx, &rng, w->M * w->N, 40, flat));
    lc_rng_normal_fill(&rng, 5000, 40, value);
    ok(lc_index_new(ctx, w->M, w->N, flat, 40, &idx));
    ok(lc_delta_sparse_new(ctx, w, &idx, value, trainable, &x.sparse[n]));
    lc_delta_sparse_set_factor(x.sparse[n], (double)factor);
    ok(lc_weight_attach(ctx, w, x.sparse[n]));
    ok(lc_adapter_add(x.a, x.mask[n]));
    ok(lc_adapter_add(x.a, x.lora[n]));
    ok(lc_adapter_add(x.a, x.sparse[n]));
  }
  return x;
}

static float *logits(lc_net *net) {
  float *l = malloc(T * V * sizeof *l);
  ok(lc_tiny_logits(net, ids, T, l));
  return l;
}

/* W⊙M + 2·B·A + factor·S, made by hand, as the weights of a model trained whole. */
static float *reference(const world *x, lc_dtype compute) {
  lc_net *net;
  ok(lc_net_new(model, compute, &net));
  ok(lc_net_train_whole(net, NULL, NULL));
  for (int i = 0; i < x->n; i++) {
    const lc_weight *w = x->w[i];
    float *W = NULL;
    for (int k = 0; k < net->n_own; k++)
      if (!strcmp(net->own[k]->name, w->name)) W = net->own[k]->value;
    const float *A = x->lora[i]->param[0]->value, *B = x->lora[i]->param[1]->value;
    for (int64_t k = 0; k < w->M * w->N; k++) {
      double v = lc_mask_has(lc_delta_mask_of(x->mask[i]), k) ? (double)W[k] : 0;
      for (int r = 0; r < R; r++) v += 2 * (double)B[k / w->N * R + r] * (double)A[r * w->N + k % w->N];
      W[k] = (float)v;
    }
    const lc_param *s = x->sparse[i]->param[0];
    for (int64_t k = 0; k < s->n; k++) W[lc_index_at(&s->idx, k)] += factor * s->value[k];
  }
  float *l = logits(net);
  lc_net_free(net);
  return l;
}

static void test_masked_base(void **state) {
  for (int c = 0; c < 2; c++) {
    const lc_dtype compute = c ? LC_BF16 : LC_F32;
    lc_net *plain;
    ok(lc_net_new(model, compute, &plain));
    float *base = logits(plain);
    lc_net_free(plain);
    world x = open_world(compute, false);
    float *got = logits(x.net), *want = reference(&x, LC_F32);
    assert_true(lc_tiny_error(got, base, T * V) > 0.1);
    if (!(lc_tiny_error(got, want, T * V) < (c ? 5e-2 : 1e-5)))
      fail_msg("%d: off by %g", c, lc_tiny_error(got, want, T * V));
    for (int i = 0; i < x.n && c; i++) { /* the tile of products in bf16: the reference rounded once */
      const lc_weight *w = x.w[i];
      const lc_param *s = x.sparse[i]->param[0];
      const void *tile;
      int64_t ld;
      float *W = malloc((size_t)(w->M * w->N) * sizeof *W);
      ok(w->base->ops->decode(ctx, w->base, (lc_rect){0, w->M, 0, w->N}, LC_F32, W, w->N));
      for (int64_t k = 0; k < w->M * w->N; k++) W[k] = lc_mask_has(lc_delta_mask_of(x.mask[i]), k) ? W[k] : 0;
      for (int64_t k = 0; k < s->n; k++) W[lc_index_at(&s->idx, k)] += factor * s->value[k];
      ok(lc_weight_tile(ctx, 0, w, (lc_rect){0, w->M, 0, w->N}, LC_BF16, &tile, &ld));
      for (int64_t k = 0; k < w->M * w->N; k++)
        assert_int_equal(((const uint16_t *)tile)[k / w->N * ld + k % w->N], lc_f32_to_bf16(W[k]));
      free(W);
    }
    if (!c) {
      ok(lc_adapter_set(x.a, 1, LC_IN_PLACE));
      float *placed = logits(x.net);
      assert_true(lc_tiny_error(placed, want, T * V) < 1e-5);
      free(placed);
    }
    ok(lc_adapter_set(x.a, 0, LC_PATCH));
    free(got);
    got = logits(x.net);
    assert_memory_equal(got, base, T * V * sizeof *got);
    ok(lc_adapter_set(x.a, 1, LC_PATCH));
    ok(lc_adapter_remove(x.a));
    free(got);
    got = logits(x.net);
    assert_memory_equal(got, base, T * V * sizeof *got);
    free(got);
    free(base);
    free(want);
    lc_net_free(x.net);
  }
}

static lc_status collect(void *self, lc_weight *w, const lc_tile *t) {
  for (int64_t r = t->at.r0; r < t->at.r1; r++)
    memcpy((float *)self + r * w->N, t->dw + (r - t->at.r0) * t->ld, (size_t)w->N * sizeof(float));
  return LC_OK;
}

static void test_factor(void **state) {
  double loss;
  for (int c = 0; c < 2; c++) {
    world x = open_world(c ? LC_BF16 : LC_F32, true);
    float *dense[64];
    for (int i = 0; i < x.n; i++) {
      dense[i] = calloc((size_t)(x.w[i]->M * x.w[i]->N), sizeof(float));
      ok(lc_weight_add_sink(ctx, x.w[i],
                            (lc_sink){.kind = LC_SINK_TILES, .tile = collect, .self = dense[i]}));
    }
    ok(lc_tiny_loss(x.net, ids, ids, T, true, &loss));
    for (int i = 0; i < x.n; i++) {
      const lc_param *s = x.sparse[i]->param[0];
      float want[40];
      for (int64_t k = 0; k < s->n; k++) want[k] = factor * dense[i][lc_index_at(&s->idx, k)];
      assert_true(lc_tiny_error(s->grad, want, s->n) < 1e-5);
      lc_weight_remove_sink(x.w[i], dense[i]);
      free(dense[i]);
    }
    lc_net_free(x.net);
  }
}

static void test_file(void **state) {
  const lc_adapter_meta meta = {.base_name = "m", .method = "test"};
  world x = open_world(LC_F32, false);
  float *want = logits(x.net);
  lc_net *net;
  lc_adapter *a;
  const char *out = lc_tiny_path(dir, "a");
  ok(lc_adapter_save(x.a, LC_LAYOUT_MODULES, out, &meta));
  refused(lc_adapter_save(x.a, LC_LAYOUT_NATIVE, lc_tiny_path(dir, "b"), &meta), "cannot hold");
  ok(lc_net_new(model, LC_F32, &net));
  ok(lc_adapter_load(net, out, 1, LC_PATCH, &a));
  float *got = logits(net);
  assert_memory_equal(got, want, T * V * sizeof *got);
  refused(lc_adapter_load(net, out, 1, LC_PATCH, &a), "attached first"); /* a mask under other changes */
  lc_net_free(net);
  free(got);
  free(want);

  lc_named_tensor part[256]; /* a bit more, positions that fall */
  lc_safetensors file;
  ok(lc_safetensors_open(ctx, lc_tiny_path(out, "lacuna_adapter.safetensors"), &file));
  for (int damage = 0; damage < 3; damage++) {
    static const char *const what[] = {".mask.bits", ".sparse.delta_index", ".sparse.delta_index"},
                             *const says[] = {"its description says", "positions ascend", "positions ascend"};
    void *copy = NULL;
    for (int i = 0; i < file.n; i++) {
      part[i] = file.tensor[i];
      if (copy || !strstr(part[i].name, what[damage])) continue;
      const size_t bytes = (size_t)lc_tensor_count(&part[i].t) * (damage ? 4 : 1);
      part[i].t.data = copy = memcpy(malloc(bytes), part[i].t.data, bytes);
      if (!damage) ((uint8_t *)copy)[0] ^= 1;
      if (damage == 1) ((int32_t *)copy)[1] = ((int32_t *)copy)[0];
      if (damage == 2) ((int32_t *)copy)[39] = 1 << 30;
    }
    ok(lc_mkdirs(ctx, lc_tiny_path(dir, "c")));
    ok(lc_copy_file(ctx, lc_tiny_path(out, "lacuna_adapter.json"),
                    lc_tiny_path(dir, "c/lacuna_adapter.json")));
    ok(lc_safetensors_write(ctx, lc_tiny_path(dir, "c/lacuna_adapter.safetensors"), part, file.n));
    ok(lc_net_new(model, LC_F32, &net));
    refused(lc_adapter_load(net, lc_tiny_path(dir, "c"), 1, LC_PATCH, &a), says[damage]);
    lc_net_free(net);
    free(copy);
  }
  lc_safetensors_close(ctx, &file);
  lc_net_free(x.net);
}

static void test_order(void **state) {
  world x = open_world(LC_F32, false);
  lc_mask m = make_mask(x.w[0]->M, x.w[0]->N, 1), other = make_mask(3, 4, 1);
  lc_delta *d;
  ok(lc_delta_mask_new(ctx, x.w[0], &m, &d));
  refused(lc_weight_attach(ctx, x.w[0], d), "attached first");
  d->ops->free(ctx, d);
  refused(lc_delta_mask_new(ctx, x.w[0], &other, &d), "its mask 3×4");
  assert_null(other.bits);
  x.sparse[0]->apply = LC_IN_PLACE; /* the mask is not */
  refused(lc_weight_refresh(ctx, x.w[0]), "comes first");
  x.sparse[0]->apply = LC_PATCH;
  assert_ptr_equal(lc_weight_mask(x.w[0]), lc_delta_mask_of(x.mask[0]));
  lc_net_free(x.net);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_object),      cmocka_unit_test(test_rectangles),
                                     cmocka_unit_test(test_masked_base), cmocka_unit_test(test_factor),
                                     cmocka_unit_test(test_file),        cmocka_unit_test(test_order)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
