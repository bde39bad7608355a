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
#include "nn/mask.h"
#include "nn/slice.h"

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

/* Slices of columns and of rows, and masks of entries and of lines, two on one matrix beside a list of entries: in any order of switching the bits are a
 * whole refresh's, nothing but the switched one's own positions is written, and at the end the base's bits are back. */
typedef enum { COLUMNS, ROWS, MASK, LIST, KINDS } kind;
static lc_delta *make_kind(lc_weight *w, kind k) {
  lc_delta *d;
  const lc_rng rng = {.seed = 5, .tensor = w->id + (uint32_t)k, .purpose = LC_RNG_TEST};
  int64_t flat[40];
  lc_index idx;
  if (k == COLUMNS || k == ROWS) {
    const lc_slice_opts o = {k == ROWS ? LC_SLICE_ROWS : LC_SLICE_COLUMNS, 3};
    ok(lc_delta_slice_new(ctx, w, &o, (int32_t[]){0, 4, (int32_t)((k == ROWS ? w->M : w->N) - 1)}, false,
                          &d));
    lc_rng_normal_fill(&rng, 0, d->param[0]->n, d->param[0]->value);
  } else {
    ok(lc_rng_choose(ctx, &rng, w->M * w->N, 40, flat));
    ok(lc_index_new(ctx, w->M, w->N, flat, 40, &idx));
    float value[40];
    lc_rng_normal_fill(&rng, 1u << 20, 40, value);
    if (k == LIST) {
      ok(lc_delta_sparse_new(ctx, w, &idx, value, false, &d));
    } else {
      lc_mask m;
      ok(lc_mask_new(ctx, w->M, w->N, &m));
      lc_mask_drop(&m, &idx);
      lc_mask_drop_lines(&m, false, 3, 2);
      lc_mask_drop_lines(&m, true, 8, 1);
      ok(lc_delta_mask_new(ctx, w, &m, &d));
    }
    lc_index_free(ctx, &idx);
  }
  d->apply = LC_IN_PLACE;
  d->scale = 0;
  ok(lc_weight_attach(ctx, w, d));
  return d;
}

/* Whether the delta changes each entry: what it makes of ones. */
static void changes_of(const lc_delta *d, bool *own) {
  const int64_t n = d->w->M * d->w->N;
  float *x = malloc((size_t)n * sizeof *x);
  lc_delta one = *d;
  one.scale = 1;
  for (int64_t i = 0; i < n; i++) x[i] = 1;
  ok(d->ops->patch(ctx, &one, (lc_rect){0, d->w->M, 0, d->w->N}, x, d->w->N));
  for (int64_t i = 0; i < n; i++) own[i] = x[i] != 1;
  free(x);
}

static void switch_marked(lc_weight *w, lc_delta *d, float scale) {
  const int64_t n = w->M * w->N;
  bool *own = malloc((size_t)n);
  changes_of(d, own);
  d->scale = scale;
  ok(lc_weight_refresh(ctx, w)); /* the whole */
  const size_t size = w->form->src.dtype == LC_F32 ? 4 : 2;
  uint8_t *copy = lc_form_data(w->form), *want = malloc((size_t)n * size);
  memcpy(want, copy, (size_t)n * size);
  memset(copy, 0x5a, (size_t)n * size); /* a mark */
  ok(lc_weight_switched(ctx, w, d));
  for (int64_t i = 0; i < n; i++)
    for (size_t b = 0; b < size; b++)
      if (copy[(size_t)i * size + b] != (own[i] ? want[(size_t)i * size + b] : 0x5a))
        fail_msg("%s: entry %lld", d->ops->name, (long long)i);
  memcpy(copy, want, (size_t)n * size);
  free(want);
  free(own);
}

static void test_lines_and_masks(void **state) {
  static const struct {
    kind first, second, third;
  } sets[] = {{COLUMNS, ROWS, LIST}, {ROWS, COLUMNS, COLUMNS}, {MASK, COLUMNS, LIST}, {MASK, LIST, ROWS}};
  for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
      lc_model *m = open_form(forms[f]);
      lc_net *net;
      ok(lc_net_new(m, LC_F32, &net));
      const uint64_t base = t_weights_sum(ctx, net);
      const char *names[] = {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"};
      for (int i = 0; i < 2; i++) {
        lc_weight *w = lc_weights_find(&net->weights, names[i]);
        lc_delta *d[3] = {make_kind(w, sets[s].first), make_kind(w, sets[s].second),
                          make_kind(w, sets[s].third)};
        for (int k = 0; k < 24; k++)
          switch_marked(w, d[(k * 5 + k / 4) % 3], (float[]){1, 0, -0.5f, 2, 0.25f}[k % 5]);
        for (int k = 0; k < 3; k++) switch_marked(w, d[k], 0);
        assert_true(t_weights_sum(ctx, net) == base);
        d[1]->scale = d[2]->scale = 1;
        ok(lc_weight_refresh(ctx, w));
        for (int k = 0; k < 3; k++) lc_weight_detach(ctx, w, d[k], true);
        assert_ptr_equal(w->form, w->base);
      }
      lc_net_free(net);
      lc_model_close(m);
    }
}

/* Positions of a walk that starts anywhere and takes few at a time are those of one that takes all. */
static void test_walks(void **state) {
  lc_model *m = open_form(LC_F32);
  lc_net *net;
  ok(lc_net_new(m, LC_F32, &net));
  lc_weight *w = lc_weights_find(&net->weights, "model.layers.0.self_attn.q_proj.weight");
  const int64_t n = w->M * w->N;
  int64_t *all = malloc((size_t)n * sizeof *all), some[7];
  for (kind k = 0; k < KINDS; k++) {
    lc_delta *d = make_kind(w, k);
    lc_walk walk = {0, 0, n, -1, false};
    const int64_t count = d->ops->walk(d, &walk, n, all);
    assert_true(count >= 40 && !walk.none);
    for (int64_t i = 1; i < count; i++) assert_true(all[i] > all[i - 1]);
    for (int64_t from = 0; from < n; from += 97) {
      int64_t at = 0, got;
      while (at < count && all[at] < from) at++;
      walk = (lc_walk){0, from, from + 300 < n ? from + 300 : n, -1, false};
      while ((got = d->ops->walk(d, &walk, 7, some)) > 0)
        for (int64_t i = 0; i < got; i++) assert_int_equal(some[i], all[at++]);
      assert_true(at == count || all[at] >= walk.end);
    }
    walk = (lc_walk){1, 0, n, -1, false};
    assert_int_equal(d->ops->walk(d, &walk, 7, some), 0);
    assert_true(walk.none);
    lc_weight_detach(ctx, w, d, true);
  }
  free(all);
  lc_net_free(net);
  lc_model_close(m);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_switching), TEST(test_entries_only),
                                     TEST(test_lines_and_masks), TEST(test_walks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
