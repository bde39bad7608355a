/* Every op of the table: forward against the scalar kernels, gradients (of inputs, weights, biases) against finite differences, the same bits on one and two
 * threads and with recomputation, and in bf16 near the f32 result. One row a case; every op of lc_ops must appear. Float inputs are rows of trainable tables
 * (x = embedding of row numbers), so that the gradient of a table is the gradient of the input. The loss is Σ c·y with random c (op "probe"), or the op's own. */
#include "ops_test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "nn/bottleneck.h"
#include "nn/mole.h"
#include "nn/slice.h"

/* ---- cases ---- */

static void table(rig *k, const char *name, int64_t width) {
  add_weight(k, name, LC_KIND_EMBEDDING, T, width, 2, 0, 1);
}
static lc_val input(rig *k, const char *module) {
  return lc_embedding(&k->b, k->b.ids, module);
}
static lc_val rounded(rig *k, const char *module,
                      int64_t width) { /* in the compute dtype, as inside a block */
  (void)width;
  return lc_rmsnorm(&k->b, input(k, module), 1e-5f, "unit", 0);
}

static void w_embedding(rig *k) {
  table(k, "x.weight", 21);
}
static lc_val b_embedding(rig *k) {
  return input(k, "x");
}
static void w_embedding_from(rig *k) {
  add_weight(k, "x.weight", LC_KIND_POSITION, T + 3, 21, 2, 0, 1);
}
static lc_val b_embedding_from(rig *k) {
  return lc_embedding_from(&k->b, k->b.pos, "x", 3);
}

static void w_class(rig *k) {
  table(k, "x.weight", 33);
  add_weight(k, "unit.weight", LC_KIND_NORM, 1, 33, 1, 1, 0.1f);
  add_weight(k, "cls", LC_KIND_EMBEDDING, 1, 33, 2, 0, 1);
}
static lc_val
b_class(rig *k) { /* ids and positions of the rig are row numbers: 0 at each segment's first row */
  return lc_class_token(&k->b, rounded(k, "x", 33), k->b.pos, "cls");
}

static void w_linear(rig *k) {
  table(k, "x.weight", 33);
  add_weight(k, "unit.weight", LC_KIND_NORM, 1, 33, 1, 1, 0.1f);
  add_weight(k, "fc.weight", LC_KIND_LINEAR, 70, 33, 2, 0, 0.2f);
}
static lc_val b_linear(rig *k) {
  return lc_linear(&k->b, rounded(k, "x", 33), (lc_val){0}, "fc", 0);
}
static void w_residual(rig *k) {
  w_linear(k);
  table(k, "res.weight", 70);
  add_weight(k, "fc.bias", LC_KIND_BIAS, 1, 70, 1, 0, 1);
}
static void
w_wide_bias(rig *k) { /* more outputs than a strip of a packed weight's product adds its bias to at once */
  table(k, "x.weight", 33);
  add_weight(k, "unit.weight", LC_KIND_NORM, 1, 33, 1, 1, 0.1f);
  add_weight(k, "fc.weight", LC_KIND_LINEAR, 1600, 33, 2, 0, 0.2f);
  add_weight(k, "fc.bias", LC_KIND_BIAS, 1, 1600, 1, 0, 1);
}
static lc_val b_residual(rig *k) {
  return lc_linear(&k->b, rounded(k, "x", 33), input(k, "res"), "fc", 0);
}
static lc_val b_bias(rig *k) {
  return lc_linear(&k->b, rounded(k, "x", 33), (lc_val){0}, "fc", 0);
}
static lc_val b_shared(rig *k) { /* one input, two consumers and a residual chain: gradients add */
  lc_val x = rounded(k, "x", 33), r = input(k, "res");
  lc_val y = lc_linear(&k->b, x, r, "fc", 0);
  return lc_linear(&k->b, x, y, "fc", 0);
}

static void w_norm(rig *k) {
  table(k, "x.weight", 33);
  add_weight(k, "n.weight", LC_KIND_NORM, 1, 33, 1, 1, 0.5f);
  add_weight(k, "n.bias", LC_KIND_BIAS, 1, 33, 1, 0, 0.5f);
}
static lc_val b_rms(rig *k) {
  return lc_rmsnorm(&k->b, input(k, "x"), 1e-3f, "n", 0);
}
static lc_val b_layer(rig *k) {
  return lc_layernorm(&k->b, input(k, "x"), 1e-3f, "n", 0);
}

static void w_wide(rig *k) {
  table(k, "x.weight", 33);
  add_weight(k, "ln.weight", LC_KIND_NORM, 1, 33, 1, 1, 0.5f);
  add_weight(k, "ln.bias", LC_KIND_BIAS, 1, 33, 1, 0, 0.5f);
  add_weight(k, "square.weight", LC_KIND_LINEAR, 33, 33, 2, 0, 0.2f);
}
static void w_two(rig *k) {
  table(k, "a.weight", 40);
  table(k, "b.weight", 40);
  add_weight(k, "unit.weight", LC_KIND_NORM, 1, 40, 1, 1, 0.1f);
}
static lc_val b_sum(rig *k) {
  return lc_sum(&k->b, input(k, "a"), input(k, "b"));
}
static lc_val b_twice(rig *k) {
  lc_val a = input(k, "a");
  return lc_sum(&k->b, a, a);
}
static lc_val b_silu(rig *k) {
  return lc_silu_mul(&k->b, rounded(k, "a", 40), rounded(k, "b", 40));
}
static lc_val b_gelu_tanh(rig *k) {
  return lc_activation(&k->b, rounded(k, "a", 40), LC_GELU_TANH);
}
static lc_val b_gelu_erf(rig *k) {
  return lc_activation(&k->b, rounded(k, "a", 40), LC_GELU_ERF);
}
static lc_val b_relu(rig *k) {
  return lc_activation(&k->b, rounded(k, "a", 40), LC_RELU);
}
static lc_val b_tanh(rig *k) {
  return lc_activation(&k->b, rounded(k, "a", 40), LC_TANH);
}
/* As behind a residual sum: the stream is f32, and a linear layer takes it rounded. */
static lc_val b_round(rig *k) {
  lc_val x = lc_layernorm_wide(&k->b, input(k, "x"), 1e-5f, "ln", 0);
  if (k->b.st) return (lc_val){0};
  assert_int_equal(lc_value_get(k->g, x)->dtype, LC_F32);
  assert_int_equal(lc_value_get(k->g, lc_round(&k->b, x))->dtype, k->b.compute);
  return lc_sum(&k->b, x, lc_linear(&k->b, lc_round(&k->b, x), (lc_val){0}, "square", 0));
}
static lc_val b_columns(rig *k) {
  lc_val a = rounded(k, "a", 40);
  return lc_silu_mul(&k->b, lc_columns(&k->b, a, 3, 20), lc_columns(&k->b, a, 10, 27)); /* they overlap */
}

static const lc_rope plain = {
    .type = LC_ROPE_DEFAULT, .dim = 8, .theta = 100, .factor = 1, .original_context = 64, .context = 64};
static const lc_rope yarn = {.type = LC_ROPE_YARN,
                             .dim = 8,
                             .theta = 100,
                             .factor = 4,
                             .original_context = 16,
                             .context = 64,
                             .beta_fast = 32,
                             .beta_slow = 1,
                             .truncate = true};
static lc_val b_rope(rig *k) {
  return lc_rotate(&k->b, rounded(k, "a", 40), lc_rope_table(&k->b, k->b.pos, &plain), 5, 8);
}
static lc_val b_partial(rig *k) {
  return lc_rotate(&k->b, rounded(k, "a", 40), lc_rope_table(&k->b, k->b.pos, &yarn), 4, 10);
}

static void w_attention(rig *k) {
  table(k, "q.weight", 48);
  table(k, "k.weight", 24);
  table(k, "v.weight", 24);
  add_weight(k, "uq.weight", LC_KIND_NORM, 1, 48, 1, 1.2f, 0.1f);
  add_weight(k, "uk.weight", LC_KIND_NORM, 1, 24, 1, 1.2f, 0.1f);
}
static lc_val attention(rig *k, int64_t heads, int64_t kv_heads, int64_t D, int64_t window) {
  lc_attention_opts o = {.heads = heads,
                         .kv_heads = kv_heads,
                         .head_dim = D,
                         .window = window,
                         .scale = 0.5f,
                         .bidirectional = k->bidirectional};
  lc_val q = lc_rmsnorm(&k->b, input(k, "q"), 1e-5f, "uq", 0),
         key = lc_rmsnorm(&k->b, input(k, "k"), 1e-5f, "uk", 0);
  return lc_attention(&k->b, q, key, lc_rmsnorm(&k->b, input(k, "v"), 1e-5f, "uk", 0), &o);
}
static lc_val b_grouped(rig *k) {
  return attention(k, 4, 2, 12, 0);
}
static lc_val b_single_key(rig *k) {
  return attention(k, 2, 1, 24, 0);
}
static lc_val b_both_ways(rig *k) {
  k->bidirectional = true;
  return attention(k, 4, 2, 12, 0);
}
static lc_val b_window(rig *k) {
  return attention(k, 4, 2, 12, 7);
}

static void w_head(rig *k) {
  table(k, "x.weight", 33);
  add_weight(k, "head.weight", LC_KIND_HEAD, 50, 33, 2, 0, 0.3f);
}
static lc_val b_head(rig *k) {
  return lc_head_loss(&k->b, input(k, "x"), k->b.labels, "head.weight");
}
static void w_head_bias(rig *k) {
  w_head(k);
  add_weight(k, "head.bias", LC_KIND_BIAS, 1, 50, 1, 0, 1);
}
static lc_val b_head_bias(rig *k) {
  lc_weights_find(&k->set, "head.weight")->head_bias = lc_weights_find(&k->set, "head.bias");
  return b_head(k);
}
/* L = c·nll²/2 with another c on each row, none on every fifth */
static float squared(void *self, int64_t row, float nll, float *slope) {
  const float c = 0.2f * (float)(row % 5);
  *slope = c * nll;
  return c * nll * nll / 2;
}
static lc_val b_linked_head(rig *k) {
  return lc_head_loss_of(&k->b, input(k, "x"), k->b.labels, "head.weight", (lc_row_loss){squared, NULL});
}

static void hang(rig *k, lc_weight *w, lc_delta *d) {
  w->form = w->base;
  w->base->priv = w; /* the rig's own form counts as a base here: deltas may stand on it */
  assert_int_equal(lc_weight_attach(k->ctx, w, d), LC_OK);
  k->delta[k->n_delta++] = d;
  k->b.n_block_deltas += d->ops->tap != NULL;
  for (int i = 0; i < d->n_param; i++) k->param[k->n++] = d->param[i];
  k->n_delta_params += d->n_param;
}

static lc_val low_rank(rig *k, float dropout, lc_val (*base)(rig *)) {
  lc_delta *d;
  lc_weight *w = lc_weights_find(&k->set, "fc.weight");
  float A[5 * 33], B[70 * 5];
  lc_rng r = {.seed = 8, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&r, 0, 5 * 33, A);
  lc_rng_normal_fill(&r, 1000, 70 * 5, B);
  lc_lora_opts o = {.rank = 5, .alpha = 2.5f, .dropout = dropout, .seed = 4};
  assert_int_equal(lc_delta_lora_new(k->ctx, w, &o, A, B, true, &d), LC_OK);
  hang(k, w, d);
  return base(k);
}
static lc_val b_low_rank_dropout(rig *k) {
  return low_rank(k, 0.25f, b_residual);
}
static lc_val b_low_rank(rig *k) {
  return low_rank(k, 0, b_linear);
}
static lc_val b_low_rank_residual(rig *k) {
  return low_rank(k, 0, b_residual);
}

/* A route at fc and experts beside it. */
static lc_val mole(rig *k, lc_gate gate) {
  lc_weight *w = lc_weights_find(&k->set, "fc.weight");
  lc_delta *route, *experts;
  lc_rng r = {.seed = 9, .purpose = LC_RNG_TEST};
  const lc_route_opts ro = {.experts = 3, .seed = 2};
  const lc_experts_opts eo = {.experts = 3, .rank = 4, .seed = 2, .alpha = 2, .dropout = 0.25, .gate = gate};
  assert_int_equal(lc_delta_route_new(k->ctx, w, &ro, true, &route), LC_OK);
  assert_int_equal(lc_delta_experts_new(k->ctx, w, route, &eo, true, &experts), LC_OK);
  lc_rng_normal_fill(&r, 0, experts->param[1]->n, experts->param[1]->value);
  route->param[1]->value[2] =
      gate == LC_GATE_PROB ? 4 : 0; /* no choice is near a tie: differences do not flip one */
  hang(k, w, route);
  hang(k, w, experts);
  lc_val x = lc_tap(&k->b, LC_TAP_MLP_IN, w->layer, rounded(k, "x", 33));
  return lc_linear(&k->b, x, input(k, "res"), "fc", 0);
}
/* Straight through is no gradient of its own forward: it is tested in test_mole.c; none has no gradient to the route. */
static lc_val b_prob(rig *k) {
  return mole(k, LC_GATE_PROB);
}
static lc_val b_dense(rig *k) {
  return mole(k, LC_GATE_DENSE);
}
static lc_val b_balance(rig *k) {
  lc_val p, choice, sums;
  mole(k, LC_GATE_NONE);
  const lc_balance_attr a = {.experts = 3, .layers = 1, .weight = 30, .scope = k->joint};
  lc_delta_route_values(k->delta[0], &p, &choice);
  lc_val in[3] = {p, choice}, out = {0};
  assert_int_equal(lc_emit(k->g, &lc_op_balance_sum, NULL, 0, in, 3, &sums), LC_OK);
  assert_int_equal(lc_emit(k->g, &lc_op_balance_loss, &a, sizeof a, &sums, 1, &out), LC_OK);
  return out;
}
static lc_val b_joint(rig *k) {
  k->joint = LC_BALANCE_JOINT;
  return b_balance(k);
}

static lc_val bottleneck(rig *k, int style) {
  lc_weight *w = lc_weights_find(&k->set, "fc.weight");
  lc_delta *d;
  lc_rng r = {.seed = 9, .purpose = LC_RNG_TEST};
  const lc_bottleneck_opts o = {.width = 7, .seed = 2, .style = style, .scale = 0.5, .dropout = 0.25};
  assert_int_equal(lc_delta_bottleneck_new(k->ctx, w, &o, true, &d), LC_OK);
  lc_rng_normal_fill(&r, 0, d->param[2]->n, d->param[2]->value);
  lc_rng_normal_fill(&r, 9999, 7, d->param[1]->value);
  hang(k, w, d);
  const lc_val res = input(k, "res");
  lc_tap(&k->b, LC_TAP_MID_RESIDUAL, w->layer, res);
  return lc_tap(&k->b, LC_TAP_BLOCK_OUT, w->layer, lc_linear(&k->b, rounded(k, "x", 33), res, "fc", 0));
}
static lc_val b_adaptformer(rig *k) {
  return bottleneck(k, LC_STYLE_ADAPTFORMER);
}
static lc_val b_pfeiffer(rig *k) {
  return bottleneck(k, LC_STYLE_PFEIFFER);
}

/* A slice of fc beside its dense gradient; columns come with gather. */
static lc_val sliced(rig *k, int axis, bool squares) {
  static const int32_t lines[] = {0, 7, 8, 32};
  static double sums[33];
  lc_weight *w = lc_weights_find(&k->set, "fc.weight");
  lc_delta *d;
  lc_rng r = {.seed = 9, .purpose = LC_RNG_TEST};
  const lc_slice_opts o = {axis, 4};
  assert_int_equal(lc_delta_slice_new(k->ctx, w, &o, lines, true, &d), LC_OK);
  lc_rng_normal_fill(&r, 0, d->param[0]->n, d->param[0]->value);
  hang(k, w, d);
  if (squares)
    assert_int_equal(lc_weight_add_sink(k->ctx, w, (lc_sink){.kind = LC_SINK_INPUT, .squares = sums}), LC_OK);
  return b_residual(k);
}
static lc_val b_slice_columns(rig *k) {
  return sliced(k, LC_SLICE_COLUMNS, false);
}
static lc_val b_slice_rows(rig *k) {
  return sliced(k, LC_SLICE_ROWS, false);
}
static lc_val b_squares(rig *k) {
  return sliced(k, LC_SLICE_COLUMNS, true);
}

static const test_case cases[] = {
    {"embedding", "", w_embedding, b_embedding, false, 1e-3f},
    {"embedding", "from a later row", w_embedding_from, b_embedding_from, false, 1e-3f},
    {"class_token", "", w_class, b_class, false, 1e-3f},
    {"linear", "", w_linear, b_linear, false, 2e-3f},
    {"linear", "bias", w_residual, b_bias, false, 2e-3f},
    {"linear", "wide, bias", w_wide_bias, b_bias, false, 2e-3f},
    {"linear", "bias and residual", w_residual, b_residual, false, 2e-3f},
    {"linear", "used twice", w_residual, b_shared, false, 2e-3f},
    {"linear", "rows trained", w_residual, b_slice_rows, false, 2e-3f},
    {"gather", "columns trained", w_residual, b_slice_columns, false, 2e-3f},
    {"input_squares", "", w_residual, b_squares, false, 2e-3f},
    {"low_rank", "", w_linear, b_low_rank, false, 2e-3f},
    {"low_rank", "residual", w_residual, b_low_rank_residual, false, 2e-3f},
    {"low_rank", "dropout", w_residual, b_low_rank_dropout, false, 2e-3f},
    {"route", "all experts by it", w_residual, b_dense, false, 3e-3f},
    {"experts", "gate prob, one in use", w_residual, b_prob, false, 2e-2f},
    {"balance_sum", "layer", w_residual, b_balance, true, 4e-2f},
    {"balance_loss", "joint", w_residual, b_joint, true, 4e-2f},
    {"bottleneck", "adaptformer", w_residual, b_adaptformer, false, 4e-3f},
    {"bottleneck", "pfeiffer", w_residual, b_pfeiffer, false, 2e-2f},
    {"rmsnorm", "", w_norm, b_rms, false, 2e-3f},
    {"layernorm", "", w_norm, b_layer, false, 2e-3f},
    {"sum", "", w_two, b_sum, false, 1e-3f},
    {"sum", "of itself", w_two, b_twice, false, 1e-3f},
    {"silu_mul", "", w_two, b_silu, false, 2e-3f},
    {"activation", "gelu, tanh", w_two, b_gelu_tanh, false, 2e-3f},
    {"activation", "gelu, erf", w_two, b_gelu_erf, false, 2e-3f},
    {"activation", "relu", w_two, b_relu, false, 3e-2f}, /* differences step over the kink */
    {"activation", "tanh", w_two, b_tanh, false, 2e-3f},
    {"round", "behind a wide norm", w_wide, b_round, false, 2e-3f},
    {"columns", "overlapping", w_two, b_columns, false, 2e-3f},
    {"rope", "", w_two, b_rope, false, 2e-3f},
    {"rope_table", "yarn, part of the head", w_two, b_partial, false, 2e-3f},
    {"attention", "grouped heads", w_attention, b_grouped, false, 3e-3f},
    {"attention", "one key head", w_attention, b_single_key, false, 3e-3f},
    {"attention", "in both directions", w_attention, b_both_ways, false, 3e-3f},
    {"attention", "window", w_attention, b_window, false, 3e-3f},
    {"head_loss", "", w_head, b_head, true, 2e-3f},
    {"head_loss", "bias", w_head_bias, b_head_bias, true, 2e-3f},
    {"head_loss", "another loss of each row", w_head, b_linked_head, true, 3e-3f},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* ---- what holds for every case ---- */

static void gradients_are_differences(void **state) {
  (void)state;
  for (int c = 0; c < N_CASES; c++) {
    rig k;
    rig_open(&k, &cases[c], LC_F32, 2, false, false);
    backward(&k);
    float *grad[MAX_WEIGHTS];
    for (int i = 0; i < k.n; i++) {
      grad[i] = malloc((size_t)k.param[i]->n * sizeof(float));
      memcpy(grad[i], k.param[i]->grad, (size_t)k.param[i]->n * sizeof(float));
    }
    for (int i = 0; i < k.n; i++) {
      lc_param *p = k.param[i];
      double err = 0, norm = 0;
      for (int64_t s = 0; s < lc_min64(40, p->n); s++) {
        int64_t at = p->n <= 40 ? s : s * 7919 % p->n;
        float was = p->value[at], h = 4e-3f;
        double slope = 0; /* Richardson: two central differences */
        for (int half = 0; half < 2; half++) {
          float d = half ? h : 2 * h;
          p->value[at] = was + d;
          double up = loss(&k);
          p->value[at] = was - d;
          double down = loss(&k);
          slope += (half ? 4.0 / 3 : -1.0 / 3) * (up - down) / (2 * (double)d);
        }
        p->value[at] = was;
        err += (slope - (double)grad[i][at]) * (slope - (double)grad[i][at]);
        norm += slope * slope;
      }
      if (norm == 0) {
        for (int64_t j = 0; j < p->n; j++)
          assert_true(grad[i][j] == 0); /* a weight that this case does not use */
        continue;
      }
      if (!(sqrt(err / norm) < (double)cases[c].tolerance))
        fail_msg("%s %s: gradient of %s off by %g", cases[c].op, cases[c].what, p->name, sqrt(err / norm));
    }
    for (int i = 0; i < k.n; i++) free(grad[i]);
    rig_close(&k);
  }
}

static void paths_agree(void **state) {
  (void)state;
  for (int c = 0; c < N_CASES; c++) {
    rig fast, scalar, half;
    rig_open(&fast, &cases[c], LC_F32, 2, false, false);
    rig_open(&scalar, &cases[c], LC_F32, 1, true, false);
    rig_open(&half, &cases[c], LC_BF16, 2, false, false);
    double f = backward(&fast), s = backward(&scalar), h = backward(&half), scale = 1 + fabs(s);
    if (!(fabs(f - s) / scale < 1e-5) || !(distance(&fast, &scalar) < 1e-5))
      fail_msg("%s %s: fast and scalar kernels differ: %g, %g", cases[c].op, cases[c].what,
               fabs(f - s) / scale, distance(&fast, &scalar));
    if (!(fabs(h - s) / scale < 0.1) || !(distance(&half, &scalar) < 0.03))
      fail_msg("%s %s: bf16 is far from f32: %g, %g", cases[c].op, cases[c].what, fabs(h - s) / scale,
               distance(&half, &scalar));
    rig_close(&fast), rig_close(&scalar), rig_close(&half);
  }
}

static void same_bits(void **state) {
  (void)state;
  for (int c = 0; c < N_CASES; c++)
    for (int dtype = 0; dtype < 2; dtype++) {
      rig two, one, again;
      lc_dtype compute = dtype ? LC_BF16 : LC_F32;
      rig_open(&two, &cases[c], compute, 2, false, false);
      rig_open(&one, &cases[c], compute, 1, false, false);
      rig_open(&again, &cases[c], compute, 2, false, true);
      double l = backward(&two);
      assert_true(backward(&one) == l && backward(&again) == l);
      for (int i = 0; i < two.n; i++) {
        assert_memory_equal(two.param[i]->grad, one.param[i]->grad, (size_t)two.param[i]->n * 4);
        assert_memory_equal(two.param[i]->grad, again.param[i]->grad, (size_t)two.param[i]->n * 4);
      }
      assert_int_equal(lc_scratch_level(two.ctx), LC_OK);
      uint64_t calls = lc_mem_allocations(two.ctx);
      backward(&two);
      assert_int_equal(lc_mem_allocations(two.ctx), calls); /* the steady state allocates nothing */
      rig_close(&two), rig_close(&one), rig_close(&again);
    }
}

static void many_rows(void **state) {
  (void)state;
  T = MANY_ROWS;
  for (int c = 0; c < N_CASES; c++) {
    if (strcmp(cases[c].op, "linear") != 0 && strcmp(cases[c].op, "low_rank") != 0) continue;
    rig exact, two, one;
    rig_open(&exact, &cases[c], LC_F32, 2, false, false);
    rig_open(&two, &cases[c], LC_BF16, 2, false, false);
    rig_open(&one, &cases[c], LC_BF16, 1, false, false);
    double f = backward(&exact), h = backward(&two);
    assert_true(backward(&one) == h);
    assert_true(fabs(h - f) / (1 + fabs(f)) < 0.1 && distance(&two, &exact) < 0.03);
    for (int i = 0; i < two.n; i++)
      assert_memory_equal(two.param[i]->grad, one.param[i]->grad, (size_t)two.param[i]->n * 4);
    rig_close(&exact), rig_close(&two), rig_close(&one);
  }
  T = FEW_ROWS;
}

static void all_ops_have_cases(void **state) {
  (void)state;
  for (int i = 0; i < lc_n_ops; i++) {
    bool found = false;
    for (int c = 0; c < N_CASES; c++) found |= !strcmp(cases[c].op, lc_ops[i]->name);
    if (!found) fail_msg("op %s has no case", lc_ops[i]->name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_are_differences),
                                     cmocka_unit_test(paths_agree), cmocka_unit_test(same_bits),
                                     cmocka_unit_test(many_rows), cmocka_unit_test(all_ops_have_cases)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
