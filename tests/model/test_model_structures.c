/* The structure map says what belongs together: renumbering a structure's elements on all sides leaves the
 * network as it was. Checked from the map alone, by writing permuted copies of the model's file, for every
 * structure of every family; of networks with a classifier on the golden ones. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 12, V = 50, MOST = 37 };
static lc_ctx *ctx;
static char *dir;
/* What goes in, and how much comes out: a network of tokens gives T·V logits, a classifier a row of labels. */
static int32_t ids[MOST];
static int64_t n_ids = T, n_out = T * V;

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
  ok(lc_tiny_logits(net, in, n_ids, out));
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

/* copy: a directory that holds path's configuration. */
static void check(const char *family, const char *path, const char *copy) {
  static float before[T * V], after[T * V], expected[T * V];
  lc_model *m;
  lc_structure *list;
  int n, seen[5] = {0};
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
    int32_t in[MOST];
    memcpy(in, ids, sizeof in);
    memcpy(expected, before, sizeof before);
    if (s->kind == LC_S_VOCAB) /* token v is now the one that was place[v] */
      for (int a = 0; a < n_ids; a++)
        for (int v = 0; v < s->count; v++) {
          if (m->config.task == LC_TASK_LM) expected[a * V + v] = before[a * V + place[v]];
          if (place[v] == ids[a]) in[a] = v;
        }
    logits_of(copy, in, after);
    double e = lc_tiny_error(after, expected, n_out);
    if (!(e <= 1e-5)) fail_msg("%s: structure %d (kind %d, layer %d): %g", family, i, s->kind, s->layer, e);
    if (s->n_side && s->count > 2 &&
        s->kind != LC_S_HEAD) { /* leaving out one side breaks it: every side matters */
      apply(m, t, &s->side[0], s->count, place);
      ok(lc_safetensors_write(ctx, lc_tiny_path(copy, "model.safetensors"), t, m->st.n));
      logits_of(copy, in, after);
      assert_true(lc_tiny_error(after, expected, n_out) > 1e-4);
    }
    seen[s->kind]++;
    for (int k = 0; k < m->st.n; k++) free((void *)t[k].t.data);
    free(place);
  }
  assert_true(seen[LC_S_RESIDUAL] == 1 && seen[LC_S_VOCAB] == (m->config.image ? 0 : 1));
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
    ok(lc_tiny_hf(ctx, &m[i], lc_tiny_path(dir, "a")));
    ok(lc_tiny_hf(ctx, &m[i], lc_tiny_path(dir, "b")));
    check(m[i].family, lc_tiny_path(dir, "a"), lc_tiny_path(dir, "b"));
  }
}

static void test_classifiers(void **state) {
  static const char *const names[] = {"bert-classify", "roberta-classify", "vit-classify", "vit-grey"};
  for (int i = 0; i < 4; i++) {
    char from[64], *to = lc_path_join(ctx, dir, names[i]);
    snprintf(from, sizeof from, "golden/%s", names[i]);
    ok(lc_mkdirs(ctx, to));
    ok(lc_copy_file(ctx, lc_tiny_path(from, "config.json"), lc_tiny_path(to, "config.json")));
    lc_safetensors e;
    ok(lc_safetensors_open(ctx, lc_tiny_path(from, "expected.safetensors"), &e));
    const lc_tensor *in = lc_safetensors_find(&e, "ids"), *types = lc_safetensors_find(&e, "types"),
                    *pixels = lc_safetensors_find(&e, "pixels");
    n_ids = in->shape[0];
    assert_true(n_ids <= MOST);
    memcpy(ids, in->data, (size_t)n_ids * sizeof *ids);
    n_out = lc_tensor_count(lc_safetensors_find(&e, "logits"));
    lc_tiny_types(types ? types->data : NULL);
    lc_tiny_pixels(pixels ? pixels->data : NULL);
    check(names[i], from, to);
    lc_tiny_types(NULL);
    lc_tiny_pixels(NULL);
    lc_safetensors_close(ctx, &e);
    lc_free(ctx, to);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_permutation_invariance),
                                     cmocka_unit_test(test_classifiers)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
