/* S²FT (arXiv 2412.06289) through the loop: how many and which heads and channels; what is outside them keeps its bits; the
 * result in both layouts, merged and in place; models of another shape; Llama with grouped heads, biases and a head width
 * of its own, and GPT-2. The slices are tested in nn/test_delta_slice, the map in model/test_model_structures. */
#include "method/method_test.h"
#include "model/units.h"
#include "nn/slice.h"

/* ---- which lines a run trains: copied in its first step ---- */

enum { MAX = 16 };
static struct {
  char name[80];
  int axis, layer;
  int64_t count;
  int32_t lines[512];
} seen[MAX];
static int n_seen;
static lc_status look(void *self, lc_training *t) {
  n_seen = t->adapter->n;
  assert_true(n_seen <= MAX);
  for (int i = 0; i < n_seen; i++) {
    const lc_delta *d = t->adapter->delta[i];
    const lc_slice_opts *o = lc_delta_slice_opts(d);
    snprintf(seen[i].name, sizeof seen[i].name, "%s", d->w->name);
    seen[i].axis = o->axis;
    seen[i].layer = d->w->layer;
    seen[i].count = o->count;
    memcpy(seen[i].lines, lc_delta_slice_lines(d), (size_t)o->count * sizeof(int32_t));
  }
  return LC_OK;
}
static void choose_with(const char *set, const char *opts) {
  lc_method row = *lc_method_find("s2ft");
  char text[160];
  row.before_step = look;
  snprintf(text, sizeof text, "steps=1 keep=0 %s", opts);
  t_spec s = {.row = &row, .set = set, .opts = text, .out = "look", .no_eval = true, .overwrite = true};
  ok(t_train(&w, &s));
}
static int64_t lines_of(const char *suffix) {
  int64_t n = 0;
  for (int i = 0; i < n_seen; i++)
    if (strstr(seen[i].name, suffix)) n += seen[i].count;
  return n;
}

/* Item 5. The tiny Llama: 2 layers, 4 heads of 16 in groups of 2, 96 channels. */
static void test_counts(void **state) {
  static const double shares[] = {0.02, 0.1, 0.37, 0.5, 1};
  for (int i = 0; i < 5; i++) {
    char set[80];
    snprintf(set, sizeof set, "v=%g o=%g u=%g d=%g", shares[i], shares[i], shares[i], shares[i]);
    choose_with(set, "");
    assert_int_equal(lines_of("v_proj"), 16 * (int64_t)floor(shares[i] * 4));
    assert_int_equal(lines_of("o_proj"), 16 * (int64_t)floor(shares[i] * 8));
    assert_int_equal(lines_of("up_proj"), (int64_t)floor(shares[i] * 192));
    assert_int_equal(lines_of("down_proj"), (int64_t)floor(shares[i] * 192));
    for (int k = 0; k < n_seen; k++)
      for (int64_t j = 1; j < seen[k].count; j++) assert_true(seen[k].lines[j] > seen[k].lines[j - 1]);
  }
  choose_with("o=0.25 d=0.1 pool=layer", "");
  assert_int_equal(n_seen, 4);
  for (int k = 0; k < 4; k++) assert_int_equal(seen[k].count, strstr(seen[k].name, "o_proj") ? 16 : 9);
  choose_with("o=0 d=0.1", "targets=re:.*layers.1.*");
  assert_int_equal(n_seen, 1);
  assert_int_equal(seen[0].layer, 1);
  assert_int_equal(seen[0].count, 9); /* of one layer's 96 */
}

static void test_seeds(void **state) {
  int32_t first[512];
  choose_with("d=0.3 o=0", "seed=1");
  memcpy(first, seen[0].lines, sizeof first);
  choose_with("d=0.3 o=0", "seed=1");
  assert_memory_equal(first, seen[0].lines, sizeof first);
  choose_with("d=0.3 o=0", "seed=2");
  assert_true(memcmp(first, seen[0].lines, sizeof first) != 0);
  choose_with("d=0.3 u=0.3 o=0", "seed=1"); /* up and down are drawn apart */
  int64_t same = 0;
  for (int a = 0; a < n_seen; a++)
    for (int b = 0; b < n_seen; b++)
      if (strstr(seen[a].name, "up_proj") && strstr(seen[b].name, "down_proj") &&
          seen[a].layer == seen[b].layer)
        for (int64_t i = 0; i < seen[a].count; i++)
          for (int64_t j = 0; j < seen[b].count; j++) same += seen[a].lines[i] == seen[b].lines[j];
  assert_true(same < 40);     /* of 57 */
  choose_with("d=0 o=1", ""); /* a whole head is 16 columns in a row */
  for (int64_t j = 0; j < 64; j++) assert_int_equal(seen[0].lines[j], j);
}

/* ---- the scores, by hand ---- */

static double *mean_square; /* (2, 96): of the channels' output */
static lc_val hidden[2];
static lc_val record(void *self, lc_builder *b, lc_tap_point p, int layer, lc_val v) {
  if (p == LC_TAP_MLP_HIDDEN) {
    lc_graph_keep(b->g, v);
    hidden[layer] = v;
  }
  return v;
}
static void channel_means(int64_t rows) {
  lc_net *net;
  lc_net_graph g;
  lc_plan *plan;
  lc_run *run;
  int64_t tokens = 0, order[64];
  mean_square = calloc(192, sizeof *mean_square);
  ok(lc_net_new(w.model, LC_F32, &net));
  net->tap[net->n_tap++] = (lc_tap_hook){record, NULL};
  ok(lc_net_build(net, false, NULL, NULL, &g));
  ok(lc_plan_new(g.g, &(lc_plan_opts){.rows = 128}, &plan));
  ok(lc_run_new(w.ctx, plan, &run));
  lc_data_order(w.data, 42, 0, true, order);
  for (int64_t i = 0; i < rows; i++) {
    const lc_example e = lc_data_get(w.data, order[i]);
    const lc_segment s = {0, e.n, 0, 0, 0};
    ok(lc_run_begin(run, e.n, &s, 1));
    for (int64_t t = 0; t < e.n; t++) {
      ((int32_t *)lc_data(run, g.ids))[t] = e.id[t];
      ((int32_t *)lc_data(run, g.pos))[t] = (int32_t)t;
    }
    ok(lc_forward(run, NULL));
    for (int k = 0; k < 192; k++)
      for (int64_t t = 0; t < e.n; t++)
        mean_square[k] += pow((double)((const float *)lc_data(run, hidden[k / 96]))[t * 96 + k % 96], 2);
    tokens += e.n;
  }
  for (int k = 0; k < 192; k++) mean_square[k] /= (double)tokens;
  lc_run_free(run);
  lc_plan_free(plan);
  lc_net_graph_free(&g);
  lc_net_free(net);
}

static double gradient_square[192];
static lc_status squares_of(void *arg, lc_weight *weight, const float *dW) {
  for (int64_t k = 0; k < weight->M * 96; k++)
    gradient_square[weight->layer * 96 + k % 96] += pow((double)dW[k], 2);
  return LC_OK;
}
static lc_status gradients(void *self, lc_training *t) {
  lc_weight *down[2] = {lc_net_weight(t->net, "model.layers.0.mlp.down_proj.weight"),
                        lc_net_weight(t->net, "model.layers.1.mlp.down_proj.weight")};
  memset(gradient_square, 0, sizeof gradient_square);
  return lc_calibrate_gradients(t, down, 2, 10, 1 << 30, squares_of, NULL);
}

static void expect(const double *score, bool smallest, int n, const char *what) {
  double at[192];
  int64_t taken = 0;
  memcpy(at, score, sizeof at);
  for (int i = 0; i < n; i++) {
    int best = -1;
    for (int k = 0; k < 192; k++)
      if (at[k] >= 0 && (best < 0 || (smallest ? at[k] < at[best] : at[k] > at[best]))) best = k;
    at[best] = -1;
    for (int s = 0; s < n_seen; s++)
      for (int64_t j = 0; j < seen[s].count; j++) taken += seen[s].layer * 96 + seen[s].lines[j] == best;
  }
  if (taken != n) fail_msg("%s: %d of %d are the expected ones", what, (int)taken, n);
}

static void test_scores(void **state) {
  double weight[192] = {0}, product[192];
  lc_net *net;
  ok(lc_net_new(w.model, LC_F32, &net));
  for (int l = 0; l < 2; l++) {
    char name[80];
    snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", l);
    const lc_weight *d = lc_net_weight(net, name);
    float *W = malloc((size_t)(d->M * d->N) * sizeof *W);
    ok(d->base->ops->decode(w.ctx, d->base, (lc_rect){0, d->M, 0, d->N}, LC_F32, W, d->N));
    for (int64_t k = 0; k < d->M * d->N; k++) weight[l * 96 + k % 96] += pow((double)W[k], 2);
    free(W);
  }
  lc_net_free(net);
  channel_means(10);
  for (int k = 0; k < 192; k++) product[k] = weight[k] * mean_square[k];
  lc_method row = *lc_method_find("shira"); /* any that trains, to be where calibration runs */
  row.calibrate = gradients;
  t_spec s = {.row = &row, .opts = "steps=1 keep=0", .out = "g", .no_eval = true};
  ok(t_train(&w, &s));
  static const char *const names[] = {"weight", "activation", "product", "gradient"};
  const double *const by_hand[] = {weight, mean_square, product, gradient_square};
  for (int i = 0; i < 8; i++) {
    char set[120];
    snprintf(set, sizeof set, "o=0 d=0.2 examples=10 select=%s end=%s", names[i / 2],
             i % 2 ? "small" : "large");
    choose_with(set, "");
    assert_int_equal(lines_of("down_proj"), 38);
    expect(by_hand[i / 2], i % 2, 38, set);
  }
  free(mean_square);
  for (int i = 0; i < 4; i++) { /* heads and key/value heads have scores too, in f32 and bf16 */
    char set[120];
    snprintf(set, sizeof set, "v=0.5 o=0.25 u=0.1 d=0 examples=10 select=%s", names[i]);
    choose_with(set, i % 2 ? "dtype=bf16" : "");
    assert_int_equal(lines_of("v_proj"), 32);
    assert_int_equal(lines_of("o_proj"), 32);
    assert_int_equal(lines_of("up_proj"), 19);
  }
}

/* ---- results ---- */

static bool trained(const char *name, int64_t r, int64_t c) {
  for (int i = 0; i < n_seen; i++)
    if (!strcmp(seen[i].name, name))
      for (int64_t j = 0; j < seen[i].count; j++)
        if (seen[i].lines[j] == (seen[i].axis == LC_SLICE_ROWS ? r : c)) return true;
  return false;
}

/* Items 2, 6, 10, 11. */
static void test_result(void **state) {
  static const char *const layouts[] = {"slice", "lora"};
  size_t n;
  char *before, *after_bytes;
  ok(lc_read_file(w.ctx, lc_tiny_path(w.model->path, "model.safetensors"), 1 << 24, &before, &n));
  double loss[2];
  for (int l = 0; l < 2; l++) {
    lc_method row = *lc_method_find("s2ft");
    char set[96];
    row.before_step = look;
    snprintf(set, sizeof set, "v=0.5 o=0.25 u=0.1 d=0.1 layout=%s", layouts[l]);
    t_spec s = {
        .row = &row, .set = set, .out = layouts[l], .opts = "steps=12 batch=8 lr=0.02 weight-decay=0.1"};
    ok(t_train(&w, &s));
    loss[l] = atof(t_query(&w, layouts[l], "SELECT loss FROM evals WHERE step = 12"));
    assert_true(loss[l] < atof(t_query(&w, layouts[l], "SELECT loss FROM evals WHERE step = 0")));
    for (int apply = 0; apply < 2; apply++)
      assert_true(fabs(loss_of(w.model, t_out(&w, layouts[l], ""), apply ? LC_IN_PLACE : LC_PATCH) -
                       loss[l]) < 1e-5 * loss[l]);
  }
  assert_true(loss[0] == loss[1]); /* the layout is of the files alone */
  json_t *c;
  ok(lc_json_read(w.ctx, t_out(&w, "lora", "adapter_config.json"), &c));
  assert_string_equal(json_string_value(json_object_get(c, "peft_type")), "LORA");
  json_decref(c);

  lc_net *net;
  lc_adapter *a;
  lc_model *merged;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "slice", ""), 1, LC_PATCH, &a));
  ok(lc_net_write_hf(net, lc_tiny_path(w.dir, "merged"), LC_F32, NULL));
  lc_net_free(net);
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "merged"), &merged));
  assert_true(fabs(loss_of(merged, NULL, LC_PATCH) - loss[0]) < 1e-5 * loss[0]);
  int64_t moved = 0;
  for (int i = 0; i < w.model->st.n; i++) {
    const lc_named_tensor *t = &w.model->st.tensor[i];
    const lc_tensor *m = lc_safetensors_find(&merged->st, t->name);
    const int64_t N = t->t.ndim == 2 ? t->t.shape[1] : 1;
    for (int64_t k = 0; k < lc_tensor_count(&t->t); k++) {
      if (!memcmp((const float *)t->t.data + k, (const float *)m->data + k, sizeof(float))) continue;
      if (!trained(t->name, k / N, k % N)) fail_msg("%s changed at %lld", t->name, (long long)k);
      moved++;
    }
  }
  assert_true(moved > 1000);
  lc_model_close(merged);
  ok(lc_read_file(w.ctx, lc_tiny_path(w.model->path, "model.safetensors"), 1 << 24, &after_bytes, &n));
  assert_memory_equal(before, after_bytes, n);
  lc_free(w.ctx, before);
  lc_free(w.ctx, after_bytes);
}

/* Item 10: other width, heads with the same sizes, layers. */
static void test_other_models(void **state) {
  t_spec s = {.method = "s2ft", .set = "o=0.5 d=0.1", .out = "s", .opts = "steps=1"};
  ok(t_train(&w, &s));
  static const char *const says[] = {"width", "heads", "layers", "ffn_width"};
  for (int i = 0; i < 4; i++) {
    lc_tiny d = LC_TINY_LLAMA;
    lc_model *m;
    lc_net *net;
    lc_adapter *a;
    char name[16];
    if (i == 0) d.C = 128;
    if (i == 1) d.H = 2, d.G = 1, d.D = 32;
    if (i == 2) d.L = 3;
    if (i == 3) d.F = 128;
    snprintf(name, sizeof name, "m%d", i);
    ok(lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, name)));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, name), &m));
    ok(lc_net_new(m, LC_F32, &net));
    assert_int_not_equal(lc_adapter_load(net, t_out(&w, "s", ""), 1, LC_PATCH, &a), LC_OK);
    if (!strstr(lc_error(w.ctx), says[i])) fail_msg("'%s' lacks %s", lc_error(w.ctx), says[i]);
    lc_error_clear(w.ctx);
    lc_net_free(net);
    lc_model_close(m);
  }
}

/* Item 1, and families. */
static void test_models(void **state) {
  lc_model *own = w.model;
  for (int i = 0; i < 4; i++) {
    lc_tiny d = i == 1 ? LC_TINY_GPT2 : LC_TINY_LLAMA;
    char name[16], out[16];
    if (i == 0) d.H = 6, d.G = 3, d.attention_bias = d.mlp_bias = true, d.tied = false;
    if (i == 2) d.dtype = LC_BF16;
    if (i == 3) d.dtype = LC_Q4_0;
    snprintf(name, sizeof name, i == 3 ? "f%d.gguf" : "f%d", i);
    snprintf(out, sizeof out, "o%d", i);
    ok(i == 3 ? lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, name))
              : lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, name)));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, name), &w.model));
    t_spec s = {
        .method = "s2ft", .set = "v=0.34 o=0.34 u=0.1 d=0.1", .out = out, .opts = "steps=15 batch=8 lr=0.01"};
    ok(t_train(&w, &s));
    const double first = atof(t_query(&w, out, "SELECT printf('%!.17g', loss) FROM evals WHERE step = 0")),
                 last = atof(t_query(&w, out, "SELECT loss FROM evals WHERE step = 15"));
    if (first != loss_of(w.model, NULL, LC_PATCH))
      fail_msg("%d: begins with %.17g, the base has %.17g", i, first, loss_of(w.model, NULL, LC_PATCH));
    assert_true(last < first);
    assert_true(fabs(loss_of(w.model, t_out(&w, out, ""), LC_PATCH) - last) < 1e-5 * last);
    lc_model_close(w.model);
  }
  w.model = own;
}

static void test_refusals(void **state) {
  static const char *const bad[] = {"v=0 o=0 u=0 d=0", "v=0 o=0.01 d=0.001", "d=1.5", "select=best"};
  for (int i = 0; i < 4; i++) {
    t_spec s = {
        .method = "s2ft", .set = bad[i], .out = "no", .opts = "steps=1", .no_eval = true, .overwrite = true};
    assert_int_equal(t_train(&w, &s), LC_USAGE);
    if (i < 2) assert_non_null(strstr(lc_error(w.ctx), "nothing to train"));
    lc_error_clear(w.ctx);
  }
}

/* Item 7 through the loop: a plan for columns of down is smaller than one for its entries. */
static double plan_bytes(const char *out) {
  return atof(t_query(&w, out, "SELECT json_extract(summary, '$.plan_bytes') FROM runs"));
}
static void test_memory(void **state) {
  t_spec
      a = {.method = "s2ft", .set = "o=0 d=0.05 pool=layer", .out = "a", .opts = "steps=2", .no_eval = true},
      b = {.method = "shira", .out = "b", .opts = "steps=2 targets=down_proj density=0.05", .no_eval = true};
  ok(t_train(&w, &a));
  ok(t_train(&w, &b));
  assert_true(plan_bytes("a") < plan_bytes("b"));
  const double values = 2 * 4 * 64, /* 4 channels a layer, 64 values each */
      state_bytes = atof(t_query(&w, "a", "SELECT json_extract(summary, '$.state_bytes') FROM runs"));
  assert_true(state_bytes == 12 * values); /* value and two moments */
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_counts), TEST(test_seeds),        TEST(test_scores),
                                     TEST(test_result), TEST(test_other_models), TEST(test_models),
                                     TEST(test_memory), TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
