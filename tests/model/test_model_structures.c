/* The structure map says what belongs together: renumbering a structure's elements on all sides leaves the
 * network as it was. Checked from the map alone, by writing permuted copies of the model's file, for every
 * structure of both families. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 12, V = 50 };
static lc_ctx *ctx;
static char *dir;
static int32_t ids[T];

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  for (int t = 0; t < T; t++) ids[t] = t * 7 % V;
  return 0;
}

static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static void logits_of(const char *path, const int32_t *in, float *out) {
  lc_model *m;
  lc_net *net;
  ok(lc_model_open(ctx, path, &m));
  ok(lc_net_new(m, LC_F32, &net));
  ok(lc_tiny_logits(net, in, T, out));
  lc_net_free(net);
  lc_model_close(m);
}

/* Moves the spans of one axis of a stored tensor (rows × cols of f32): element i comes from place[i]. */
static void permute(float *data, int64_t rows, int64_t cols, bool axis_is_cols, const lc_side *s, int64_t n,
                    const int64_t *place) {
  float *old = malloc((size_t)(rows * cols) * sizeof *old);
  memcpy(old, data, (size_t)(rows * cols) * sizeof *old);
  for (int64_t i = 0; i < n; i++)
    for (int64_t u = 0; u < s->unit; u++) {
      int64_t to = s->first + i * s->unit + u, from = s->first + place[i] * s->unit + u;
      for (int64_t k = 0; k < (axis_is_cols ? rows : cols); k++) {
        if (axis_is_cols)
          data[k * cols + to] = old[k * cols + from];
        else
          data[to * cols + k] = old[from * cols + k];
      }
    }
  free(old);
}

static void apply(const lc_model *m, lc_named_tensor *t, const lc_side *s, int64_t n, const int64_t *place) {
  for (int i = 0; i < m->n; i++) {
    const lc_tensor_decl *d = &m->decl[i];
    if (strcmp(d->name, s->weight)) continue;
    int k = 0;
    while (strcmp(t[k].name, d->name)) k++;
    int64_t rows = d->transposed ? d->N : d->M, cols = d->transposed ? d->M : d->N;
    bool on_cols = d->ndim == 1 || (s->axis == 1) != d->transposed;
    permute((float *)t[k].t.data, rows, cols, on_cols, s, n, place);
    return;
  }
  fail_msg("the map names '%s', which the model has not", s->weight);
}

/* A random order; query heads stay within the group of their kv head. */
static void make_order(const lc_model *m, const lc_structure *s, uint32_t step, int64_t *place) {
  int64_t group = s->kind == LC_S_HEAD ? m->config.H / m->config.G : s->count;
  for (int64_t g = 0; g < s->count; g += group) {
    lc_rng r = {.seed = 5, .step = step, .tensor = (uint32_t)g, .purpose = LC_RNG_TEST};
    lc_rng_permutation(&r, group, place + g);
    for (int64_t i = 0; i < group; i++) place[g + i] += g;
  }
}

static void check(const lc_tiny *tiny, const char *path, const char *copy) {
  static float before[T * V], after[T * V], expected[T * V];
  lc_model *m;
  lc_structure *list;
  int n, seen[5] = {0};
  ok(lc_tiny_hf(ctx, tiny, path));
  ok(lc_tiny_hf(ctx, tiny, copy));
  logits_of(path, ids, before);
  ok(lc_model_open(ctx, path, &m));
  ok(m->config.family->structures(ctx, &m->config, &list, &n));
  for (int i = 0; i < n; i++) {
    const lc_structure *s = &list[i];
    int64_t *place = malloc((size_t)s->count * sizeof *place);
    make_order(m, s, (uint32_t)i, place);
    lc_named_tensor t[128];
    for (int k = 0; k < m->st.n; k++) {
      t[k] = m->st.tensor[k];
      size_t bytes = (size_t)lc_tensor_count(&t[k].t) * sizeof(float);
      t[k].t.data = memcpy(malloc(bytes), t[k].t.data, bytes);
    }
    for (int k = 0; k < s->n_side; k++) apply(m, t, &s->side[k], s->count, place);
    ok(lc_safetensors_write(ctx, lc_tiny_path(copy, "model.safetensors"), t, m->st.n));
    int32_t in[T];
    memcpy(in, ids, sizeof in);
    memcpy(expected, before, sizeof before);
    if (s->kind == LC_S_VOCAB) /* token v is now the one that was place[v] */
      for (int a = 0; a < T; a++)
        for (int v = 0; v < V; v++) {
          expected[a * V + v] = before[a * V + place[v]];
          if (place[v] == ids[a]) in[a] = v;
        }
    logits_of(copy, in, after);
    double e = lc_tiny_error(after, expected, T * V);
    if (!(e <= 1e-5))
      fail_msg("%s: structure %d (kind %d, layer %d): %g", tiny->family, i, s->kind, s->layer, e);
    if (s->n_side && s->count > 2 &&
        s->kind != LC_S_HEAD) { /* leaving out one side breaks it: every side matters */
      apply(m, t, &s->side[0], s->count, place);
      ok(lc_safetensors_write(ctx, lc_tiny_path(copy, "model.safetensors"), t, m->st.n));
      logits_of(copy, in, after);
      assert_true(lc_tiny_error(after, expected, T * V) > 1e-4);
    }
    seen[s->kind]++;
    for (int k = 0; k < m->st.n; k++) free((void *)t[k].t.data);
    free(place);
  }
  assert_true(seen[LC_S_RESIDUAL] == 1 && seen[LC_S_VOCAB] == 1);
  assert_true(seen[LC_S_HEAD] == m->config.L && seen[LC_S_KV_HEAD] == m->config.L &&
              seen[LC_S_CHANNEL] == m->config.L);
  lc_structures_free(ctx, list, n);
  lc_model_close(m);
}

static void test_permutation_invariance(void **state) {
  lc_tiny m[4] = {LC_TINY_LLAMA, LC_TINY_LLAMA, LC_TINY_GPT2, LC_TINY_GPT2};
  m[1].tied = m[3].tied = false;
  m[1].attention_bias = m[1].mlp_bias = true;
  m[1].H = 6; /* head width apart from C, groups of 2 */
  m[1].G = 3;
  for (int i = 0; i < 4; i++) {
    m[i].V = V;
    m[i].no_tokenizer = true;
    check(&m[i], lc_tiny_path(dir, "a"), lc_tiny_path(dir, "b"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_permutation_invariance)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
