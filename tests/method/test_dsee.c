/* DSEE (arXiv 2111.00160) through the loop: pools and their shares, what stands and what moves after pruning, heads taken
 * out against a model with their output forced to zero, the file and its size, merging, refusals, GPT-2 and quantised
 * bases. Scores and GreBsmo are tested in nn/test_prune, masks under changes in nn/test_delta_mask. */
#include "method/method_test.h"
#include "model/heads.h"
#include "nn/mask.h"

static lc_delta *of_kind(const lc_weight *weight, const lc_delta_ops *ops) {
  for (int k = 0; k < weight->n_delta; k++)
    if (weight->delta[k]->ops == ops) return weight->delta[k];
  return NULL;
}
static bool is(const lc_weight *weight, const char *name) {
  return strstr(weight->name, name) != NULL;
}

/* Items 2, 4, 5: of the tiny Llama q and v have the change; the rest is pruned by |W|. */
static void test_pools(void **state) {
  t_spec s = {.method = "dsee",
              .set = "r=4 alpha=8 entries=20 update-ratio=0.3 ratio=0.45 outer=8",
              .out = "p",
              .opts = "steps=12 batch=8 lr=0.02 weight-decay=0.01"};
  ok(t_train(&w, &s));
  const double last = atof(t_query(&w, "p", "SELECT loss FROM evals WHERE step = 12"));
  assert_true(last < atof(t_query(&w, "p", "SELECT loss FROM evals WHERE step = 0")));
  for (int apply = 0; apply < 2; apply++)
    assert_true(fabs(loss_of(w.model, t_out(&w, "p", ""), apply ? LC_IN_PLACE : LC_PATCH) - last) <
                1e-5 * last);

  lc_net *net, *plain;
  lc_adapter *a;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_net_new(w.model, LC_F32, &plain));
  ok(lc_adapter_load(net, t_out(&w, "p", ""), 1, LC_PATCH, &a));
  int64_t size[2] = {0}, zeros[2] = {0}, covered = 0;
  float largest_kept = 0, smallest_kept = 1e9f;
  for (int i = 0; i < net->weights.n; i++) {
    lc_weight *l = &net->weights.w[i];
    if (l->kind != LC_KIND_LINEAR) continue;
    const bool change = is(l, "q_proj") || is(l, "v_proj");
    const lc_mask *m = lc_weight_mask(l);
    lc_delta *lora = of_kind(l, &lc_delta_lora), *sparse = of_kind(l, &lc_delta_sparse);
    assert_non_null(m);
    assert_true(!lora == !change && !sparse == !change);
    size[change] += l->M * l->N;
    zeros[change] += l->M * l->N - m->kept;
    assert_int_equal(m->structure, LC_MASK_ENTRIES);
    if (change) { /* exactly so many; the entries that lie where the mask has zeros count all the same */
      assert_int_equal(sparse->param[0]->n, 20);
      assert_true(fabs(lc_delta_sparse_factor(sparse) - 2) < 1e-9);
      for (int64_t k = 0; k < 20; k++)
        covered += !lc_mask_has(m, lc_index_at(&sparse->param[0]->idx, k)) && sparse->param[0]->value[k] != 0;
      sparse->scale = 0;
    }
    const lc_weight *base =
        lc_net_weight(plain, l->name); /* W's kept entries have the base's bits, zeros are zero */
    const void *now, *was;
    int64_t ld, ld2;
    ok(lc_weight_tile(w.ctx, 0, base, (lc_rect){0, l->M, 0, l->N}, LC_F32, &was, &ld2));
    ok(lc_weight_tile(w.ctx, 0, l, (lc_rect){0, l->M, 0, l->N}, LC_F32, &now, &ld));
    for (int64_t k = 0; k < l->M * l->N; k++) {
      const float x = ((const float *)now)[k / l->N * ld + k % l->N],
                  y = ((const float *)was)[k / l->N * ld2 + k % l->N];
      const float want = lc_mask_has(m, k) ? y : 0;
      assert_memory_equal(&x, &want, sizeof x);
      if (!change && !lc_mask_has(m, k) && fabsf(y) > largest_kept) largest_kept = fabsf(y);
      if (!change && lc_mask_has(m, k) && fabsf(y) < smallest_kept) smallest_kept = fabsf(y);
    }
  }
  assert_int_equal(zeros[1], llrint(0.3 * (double)size[1]));
  assert_int_equal(zeros[0], llrint(0.45 * (double)size[0]));
  assert_true(largest_kept <=
              smallest_kept); /* |W| of what went and of what stayed: one bound for the whole pool */
  assert_true(covered > 0);
  lc_net_free(net);
  lc_net_free(plain);

  s.set =
      "r=4 entries=0 update-ratio=0 ratio=0"; /* nothing pruned, no entries: one phase of plain low rank */
  s.out = "q";
  ok(t_train(&w, &s));
  assert_int_equal(t_lines(t_out(&w, "q", "lacuna_adapter.json"), "\"kind\": \"lora\"") > 0, true);
  assert_int_equal(t_lines(t_out(&w, "q", "lacuna_adapter.json"), "sparse"), 0);
  assert_int_equal(t_lines(t_out(&w, "q", "lacuna_adapter.json"), "mask"), 0);
  s.set = "r=4 entries=20 update-ratio=0 ratio=0.5 outer=4"; /* a ratio of 0 touches nothing of its pool */
  s.out = "o";
  ok(t_train(&w, &s));
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "o", ""), 1, LC_PATCH, &a));
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].kind == LC_KIND_LINEAR)
      assert_int_equal(!lc_weight_mask(&net->weights.w[i]),
                       is(&net->weights.w[i], "q_proj") || is(&net->weights.w[i], "v_proj"));
  lc_net_free(net);
}

/* The change goes on moving after pruning, with a new optimiser; with retune-rate 0 it does not. */
static float seen[2][64], moved[2];
static int at_phase;
static lc_status remember(void *self, lc_training *t) {
  const lc_param *B =
      of_kind(lc_net_weight(t->net, "model.layers.0.self_attn.q_proj.weight"), &lc_delta_lora)->param[1];
  if (t->phase != at_phase) {
    at_phase = t->phase;
    memcpy(seen[0], B->value, sizeof seen[0]);
  }
  memcpy(seen[1], B->value, sizeof seen[1]);
  return LC_OK;
}
static void test_retune(void **state) {
  for (int still = 0; still < 2; still++) {
    lc_method row = *lc_method_find("dsee");
    row.before_step = remember;
    at_phase = 0;
    t_spec s = {.row = &row,
                .set = still ? "r=4 outer=4 retune-rate=0" : "r=4 outer=4",
                .out = still ? "still" : "moves",
                .opts = "steps=10 batch=8 lr=0.02",
                .no_eval = true};
    ok(t_train(&w, &s));
    assert_int_equal(at_phase, 1);
    moved[still] = (float)lc_tiny_error(seen[1], seen[0], 64);
    if (!still) assert_int_equal(t_lines(t_out(&w, "moves", "log.jsonl"), "\"event\":\"phase\""), 1);
  }
  assert_true(moved[0] > 0.01f);
  assert_true(moved[1] == 0);
}

/* ---- heads: against the model with their output forced to zero ---- */

static const bool *force; /* (layers, heads) */
typedef struct {
  int layer;
} zero_attr;
static lc_status zero_shape(lc_graph *g, lc_node *n) {
  const lc_value *x = lc_value_get(g, n->in[0]);
  return lc_node_out(g, n, 0, "zero", x->dtype, x->width);
}
static lc_status zero_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const int64_t C = lc_width(run, n->in[0]), D = 16;
  const int layer = ((const zero_attr *)n->attr)->layer;
  for (int64_t r = 0; r < run->rows; r++)
    for (int64_t c = 0; c < C; c++)
      ((float *)lc_data(run, n->out[0]))[r * C + c] =
          force[layer * 6 + c / D] ? 0 : ((const float *)lc_data(run, n->in[0]))[r * C + c];
  return LC_OK;
}
static const lc_op zero = {.name = "zero", .shape = zero_shape, .forward = zero_forward};
static lc_val zero_heads(void *self, lc_builder *b, lc_tap_point p, int layer, lc_val v) {
  const zero_attr a = {layer};
  lc_val out = v;
  if (p == LC_TAP_HEAD_OUT && !b->st) b->st = lc_emit(b->g, &zero, &a, sizeof a, &v, 1, &out);
  return out;
}

static void test_heads(void **state) {
  enum { T = 30, V = 300 };
  static const char *const modes[] = {"abs", "w", "wabs", "random"};
  lc_model *own = w.model;
  lc_tiny d = LC_TINY_LLAMA;
  d.H = 6, d.G = 3; /* groups of two, heads of 16 beside a width of 64 */
  d.attention_bias = true;
  ok(lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, "grouped")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "grouped"), &w.model));
  for (int m = 0; m < 4; m++) {
    char set[96];
    bool gone[2 * 6] = {false};
    int32_t ids[T];
    static float a[T * V], b[T * V];
    lc_net *net[2];
    lc_adapter *adapter;
    for (int t = 0; t < T; t++) ids[t] = t * 7 % V;
    snprintf(set, sizeof set, "r=4 entries=40 outer=4 ratio=0 update-ratio=0 heads=2 prune=%s", modes[m]);
    t_spec s = {.method = "dsee", .set = set, .out = modes[m], .opts = "steps=10 batch=8 lr=0.02"};
    ok(t_train(&w, &s));
    for (int i = 0; i < 2; i++) {
      ok(lc_net_new(w.model, LC_F32, &net[i]));
      ok(lc_adapter_load(net[i], t_out(&w, modes[m], ""), 1, LC_PATCH, &adapter));
    }
    for (int i = 0; i < net[0]->weights.n; i++) {
      const lc_weight *l = &net[0]->weights.w[i];
      const lc_mask *mask = lc_weight_mask(l);
      if (!mask) continue;
      assert_int_equal(mask->structure, LC_MASK_LINES);
      if (is(l, "o_proj"))
        for (int h = 0; h < 6; h++) gone[l->layer * 6 + h] = !lc_mask_has(mask, h * 16);
      const lc_delta *lora = of_kind(l, &lc_delta_lora), *e = of_kind(l, &lc_delta_sparse);
      for (int64_t r = 0; lora && r < l->M; r++) /* rows of B and S of what is gone are zero */
        for (int q = 0; q < 4 && !lc_mask_has(mask, r * l->N); q++)
          assert_true(lora->param[1]->value[r * 4 + q] == 0);
      for (int64_t k = 0; e && k < e->param[0]->n; k++)
        if (!lc_mask_has(mask, lc_index_at(&e->param[0]->idx, k))) assert_true(e->param[0]->value[k] == 0);
    }
    for (int l = 0; l < 2; l++) { /* one group of two in each layer */
      int n = 0;
      for (int h = 0; h < 6; h++) n += gone[l * 6 + h];
      assert_int_equal(n, 2);
      for (int g = 0; g < 3; g++) assert_true(gone[l * 6 + 2 * g] == gone[l * 6 + 2 * g + 1]);
    }
    for (int i = 0; i < net[1]->weights.n; i++) { /* the same change on the whole base, and the tap */
      lc_weight *l = &net[1]->weights.w[i];
      if (of_kind(l, &lc_delta_mask)) of_kind(l, &lc_delta_mask)->scale = 0;
    }
    ok(lc_tiny_logits(net[0], ids, T, a));
    force = gone;
    ok(lc_tiny_logits(net[1], ids, T, b));
    assert_true(lc_tiny_error(a, b, T * V) > 1e-3); /* the heads did something */
    net[1]->tap[net[1]->n_tap++] = (lc_tap_hook){zero_heads, NULL};
    ok(lc_tiny_logits(net[1], ids, T, b));
    if (!(lc_tiny_error(a, b, T * V) < 1e-5)) fail_msg("%s: off by %g", modes[m], lc_tiny_error(a, b, T * V));
    for (int i = 0; i < 2; i++) lc_net_free(net[i]);
  }
  t_spec s = {.method = "dsee", .out = "no", .opts = "steps=4", .no_eval = true, .overwrite = true};
  s.set = "heads=1 outer=2";
  refused(t_train(&w, &s), "go together");
  s.set = "heads=6 outer=2";
  refused(t_train(&w, &s), "one key/value head stays");
  s.set = "heads=2 outer=2 prune=nabs";
  refused(t_train(&w, &s), "nab");
  s.set = "heads=2 outer=2 update=q_proj,o_proj";
  refused(t_train(&w, &s), "still pass through");
  lc_model_close(w.model);
  w.model = own;
}

/* Item 8: the adapter is a bit a weight and the update; merged, the zeros fill up, and the report says how many. */
static void test_file(void **state) {
  t_spec s = {.method = "dsee",
              .set = "r=4 entries=20 outer=4 parts=true",
              .out = "f",
              .opts = "steps=6 batch=8 lr=0.02"};
  ok(t_train(&w, &s));
  char *text;
  size_t n, bits = 0, values = 0;
  ok(lc_read_file(w.ctx, t_out(&w, "f", "lacuna_adapter.safetensors"), 1 << 24, &text, &n));
  lc_free(w.ctx, text);
  lc_net *net;
  lc_adapter *a;
  lc_merge_report report = {0};
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "f", ""), 1, LC_PATCH, &a));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *l = &net->weights.w[i];
    if (l->kind != LC_KIND_LINEAR) continue;
    bits += lc_mask_bytes(l->M, l->N);
    if (of_kind(l, &lc_delta_lora)) values += (size_t)(4 * (4 * (l->M + l->N) + 20 + 20));
  }
  assert_true(n <= bits + values + 8192); /* the header */
  ok(lc_net_write_hf(net, lc_tiny_path(w.dir, "merged"), LC_F32, &report));
  int64_t masked = 0, filled = 0;
  for (int i = 0; i < report.n; i++) {
    const bool change = strstr(report.row[i].name, "q_proj") || strstr(report.row[i].name, "v_proj");
    assert_true(report.row[i].masked > 0);
    if (!change) assert_int_equal(report.row[i].filled, 0);
    masked += report.row[i].masked;
    filled += report.row[i].filled;
  }
  assert_true(filled > 0 && filled < masked);
  lc_merge_report_free(w.ctx, &report);
  lc_net_free(net);
  lc_model *m;
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "merged"), &m));
  const double last = atof(t_query(&w, "f", "SELECT loss FROM evals WHERE step = 6"));
  assert_true(fabs(loss_of(m, NULL, LC_PATCH) - last) < 1e-5 * last);
  lc_model_close(m);

  ok(lc_net_new(w.model, LC_F32,
                &net)); /* the parts: a LoRA of PEFT's and entries by themselves, with the factor */
  ok(lc_adapter_load(net, t_out(&w, "f", "lora"), 1, LC_PATCH, &a));
  ok(lc_adapter_load(net, t_out(&w, "f", "entries"), 1, LC_PATCH, &a));
  lc_net *whole;
  ok(lc_net_new(w.model, LC_F32, &whole));
  ok(lc_adapter_load(whole, t_out(&w, "f", ""), 1, LC_PATCH, &a));
  const lc_weight *x = lc_net_weight(net, "model.layers.1.self_attn.v_proj.weight"),
                  *y = lc_net_weight(whole, "model.layers.1.self_attn.v_proj.weight");
  float p[32 * 64], q[32 * 64];
  memset(p, 0, sizeof p), memset(q, 0, sizeof q);
  for (int k = 0; k < x->n_delta; k++)
    ok(x->delta[k]->ops->patch(w.ctx, x->delta[k], (lc_rect){0, 32, 0, 64}, p, 64));
  for (int k = 0; k < y->n_delta; k++)
    ok(y->delta[k]->ops->patch(w.ctx, y->delta[k], (lc_rect){0, 32, 0, 64}, q, 64));
  assert_true(lc_tiny_error(p, q, 32 * 64) < 1e-6);
  lc_net_free(net);
  lc_net_free(whole);
}

static void test_models(void **state) {
  lc_model *own = w.model;
  for (int i = 0; i < 3; i++) {
    lc_tiny d = i == 1 ? LC_TINY_GPT2 : LC_TINY_LLAMA;
    char name[16], out[16];
    if (i == 0) d.dtype = LC_BF16;
    if (i == 2) d.dtype = LC_Q8_0;
    snprintf(name, sizeof name, i == 2 ? "f%d.gguf" : "f%d", i);
    snprintf(out, sizeof out, "o%d", i);
    ok(i == 2 ? lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, name))
              : lc_tiny_hf(w.ctx, &d, lc_tiny_path(w.dir, name)));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, name), &w.model));
    t_spec s = {.method = "dsee",
                .set =
                    i == 1 ? "r=4 outer=4 heads=1 support=random" : "r=4 outer=4 heads=2 support=magnitude",
                .out = out,
                .opts = "steps=14 batch=8 lr=0.02"};
    ok(t_train(&w, &s));
    const double first = atof(t_query(&w, out, "SELECT printf('%!.17g', loss) FROM evals WHERE step = 0")),
                 last = atof(t_query(&w, out, "SELECT loss FROM evals WHERE step = 14"));
    assert_true(first == loss_of(w.model, NULL, LC_PATCH));
    assert_true(last < first);
    assert_true(fabs(loss_of(w.model, t_out(&w, out, ""), LC_PATCH) - last) < 1e-5 * last);
    lc_model_close(w.model);
  }
  w.model = own;
}

static void test_refusals(void **state) {
  static const char *const bad[][3] = {{"tune=0", "steps=4", "both phases"},
                                       {"tune=1", "steps=4", "both phases"},
                                       {"outer=2", "steps=4 targets=up_proj", "neither query nor value"},
                                       {"entries=999999 outer=2", "steps=4", "no mask of 999999"},
                                       {"prune=best", "steps=4", "prune"}};
  for (int i = 0; i < 5; i++) {
    t_spec s = {.method = "dsee",
                .set = bad[i][0],
                .opts = bad[i][1],
                .out = "no",
                .no_eval = true,
                .overwrite = true};
    refused(t_train(&w, &s), bad[i][2]);
  }
}

/* A low-rank change that stood on the net before the run is neither taken for the run's own in the second phase, nor moved. */
static lc_hook attach_of_row, end_of_row;
static lc_delta *standing;
static float before[2][4]; /* of the run's B, and of the standing one's, when the first phase ends */
static const float *first_values(lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++)
    if (t->adapter->delta[i]->w == standing->w && t->adapter->delta[i]->ops == &lc_delta_lora)
      return t->adapter->delta[i]->param[1]->value;
  return NULL;
}
static lc_status attach_on_another(void *self, lc_training *t) {
  if (t->phase == 0) {
    lc_weight *q = lc_net_weight(t->net, "model.layers.0.self_attn.q_proj.weight");
    float A[4 * 64], B[64 * 4];
    for (int i = 0; i < 256; i++) A[i] = 0.01f * (float)(i % 7), B[i] = 0.01f * (float)(i % 5 + 1);
    LC_TRY(lc_delta_lora_new(t->ctx, q, &(lc_lora_opts){.rank = 4, .alpha = 4}, A, B, false, &standing));
    LC_TRY(lc_weight_attach(t->ctx, q, standing));
  }
  LC_TRY(attach_of_row(self, t));
  if (t->phase == 0) return LC_OK;
  assert_memory_equal(first_values(t), before[0], sizeof before[0]);
  assert_memory_equal(standing->param[1]->value, before[1], sizeof before[1]);
  return LC_OK;
}
static lc_status remember_values(void *self, lc_training *t) {
  memcpy(before[0], first_values(t), sizeof before[0]);
  memcpy(before[1], standing->param[1]->value, sizeof before[1]);
  assert_memory_not_equal(before[0], before[1], sizeof before[0]);
  return end_of_row(self, t);
}
static void test_on_another_change(void **state) {
  lc_method row = *lc_method_find("dsee");
  attach_of_row = row.attach, row.attach = attach_on_another;
  end_of_row = row.end_phase, row.end_phase = remember_values;
  ok(t_train(&w, &(t_spec){.row = &row,
                           .set = "r=4 outer=2 update-ratio=0",
                           .out = "on",
                           .no_eval = true,
                           .opts = "steps=6 batch=4"}));
}

static void take_nothing(void *self, lc_weight *weight, bool columns, int64_t first, int64_t n) {}
/* A change that is no number has no order among the heads. */
static void test_scores_of_no_number(void **state) {
  lc_net *net;
  lc_index idx;
  lc_delta *d;
  const lc_heads_rule rule = {.heads = 2, .mode = LC_PRUNE_ABS, .drop = take_nothing};
  ok(lc_net_new(w.model, LC_F32, &net));
  lc_weight *v = lc_net_weight(net, "model.layers.0.self_attn.v_proj.weight");
  for (int64_t at = 0; at < 2; at++) { /* in each key/value head */
    const int64_t flat = at * 16 * v->N + 3;
    ok(lc_index_new(w.ctx, v->M, v->N, &flat, 1, &idx));
    ok(lc_delta_sparse_new(w.ctx, v, &idx, (const float[]){NAN}, false, &d));
    ok(lc_weight_attach(w.ctx, v, d));
  }
  refused(lc_heads_remove(net, &rule), "head 0 of layer 0");
  lc_net_free(net);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_scores_of_no_number),
                                     TEST(test_on_another_change),
                                     TEST(test_pools),
                                     TEST(test_retune),
                                     TEST(test_heads),
                                     TEST(test_file),
                                     TEST(test_models),
                                     TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
