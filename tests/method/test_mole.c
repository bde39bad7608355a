/* LLaVA-MoLE (arXiv 2401.16160), item by item: one expert is LoRA, grouped products are the naive loop's, gates, balance
 * loss, experts that stand still, prefill and decode, files that are refused. */
#include "method/method_test.h"
#include "infer/infer.h"
#include "nn/mole.h"
#include "optim/optim.h"

/* ---- what a run's gradients were ---- */

typedef struct {
  char name[96];
  float *grad, *value;
  int64_t n;
} kept;
static struct {
  kept p[128];
  int n;
  double loss, auxiliary;
} * into;
static lc_hook attach_of_row;

static lc_status randomise(void *self, lc_training *t) {
  LC_TRY(attach_of_row(self, t));
  for (int i = 0; i < t->adapter->n; i++) {
    lc_delta *d = t->adapter->delta[i];
    if (d->ops == &lc_delta_route) continue;
    lc_param *B = d->param[1];
    const lc_rng rng = {.seed = 5, .tensor = d->w->id, .purpose = LC_RNG_TEST};
    lc_rng_normal_fill(&rng, 0, B->n, B->value);
    for (int64_t k = 0; k < B->n; k++) B->value[k] *= 0.1f;
  }
  return LC_OK;
}

static lc_status look(void *self, lc_training *t) {
  into->n = t->n_param;
  into->loss = t->loss;
  into->auxiliary = t->auxiliary;
  for (int i = 0; i < t->n_param; i++) {
    kept *k = &into->p[i];
    snprintf(k->name, sizeof k->name, "%s", t->param[i]->name);
    k->n = t->param[i]->n;
    k->grad = malloc((size_t)k->n * sizeof(float));
    k->value = malloc((size_t)k->n * sizeof(float));
    memcpy(k->grad, t->param[i]->grad, (size_t)k->n * sizeof(float));
    memcpy(k->value, t->param[i]->value, (size_t)k->n * sizeof(float));
  }
  return LC_OK;
}

static const kept *find(const void *s, const char *name) {
  const kept *p = ((__typeof__(into))s)->p;
  for (int i = 0; i < ((__typeof__(into))s)->n; i++)
    if (!strcmp(p[i].name, name)) return &p[i];
  fail_msg("no %s", name);
  return NULL;
}

static void gradients(const char *method, const char *set, const char *opts, void *s) {
  lc_method row = *lc_method_find(method);
  into = s;
  attach_of_row = row.attach;
  row.attach = randomise;
  row.after_backward = look;
  t_spec spec = {.row = &row, .out = "g", .set = set, .opts = opts, .no_eval = true, .overwrite = true};
  ok(t_train(&w, &spec));
}
static void forget(void *s) {
  into = s;
  for (int i = 0; i < into->n; i++) free(into->p[i].grad), free(into->p[i].value);
  free(s);
}

/* Items 1: every gate starts at the base's logits, bit for bit. */
static lc_delta *route_of(lc_net *net, int layer) {
  for (int i = 0; i < net->adapter[0]->n; i++)
    if (net->adapter[0]->delta[i]->ops == &lc_delta_route && net->adapter[0]->delta[i]->w->layer == layer)
      return net->adapter[0]->delta[i];
  return NULL;
}

static const char *const gates[] = {"st", "none", "prob", "dense"};

static void test_start(void **state) {
  for (int g = 0; g < 4; g++)
    for (int half = 0; half < 2; half++) {
      char set[64], opts[96], base[64];
      snprintf(set, sizeof set, "r=4 alpha=8 gate=%s", gates[g]);
      snprintf(opts, sizeof opts, "steps=3 batch=4 dtype=%s", half ? "bf16" : "f32");
      t_spec zero = {.method = "lora", .set = "r=4", .out = "base", .opts = opts, .overwrite = true};
      ok(t_train(&w, &zero));
      snprintf(base, sizeof base, "%s",
               t_query(&w, "base", "SELECT printf('%.17g', loss) FROM evals WHERE step = 0"));
      t_spec s = {.method = "llava-mole", .set = set, .out = "start", .opts = opts, .overwrite = true};
      ok(t_train(&w, &s));
      assert_string_equal(base,
                          t_query(&w, "start", "SELECT printf('%.17g', loss) FROM evals WHERE step = 0"));
    }
}

/* Item 2. */
static void test_one_expert_is_lora(void **state) {
  void *lora = calloc(1, sizeof *into), *mole = calloc(1, sizeof *into);
  gradients("lora", "r=4 alpha=8", "steps=1 batch=4", lora);
  gradients("llava-mole", "r=4 alpha=8 experts=1 balance=0 gate=none dropout=0", "steps=1 batch=4", mole);
  into = lora;
  const int n = into->n;
  const double loss = into->loss;
  into = mole;
  assert_true(fabs(into->loss - loss) < 1e-6 * loss);
  for (int i = 0; i < n; i++) {
    into = lora;
    const kept *a = &into->p[i];
    char name[96];
    snprintf(name, sizeof name, "%s", a->name);
    char *tail = strstr(name, ".lora_");
    const char which = tail[6];
    if (strstr(name, ".mlp.")) sprintf(tail, ".experts_%c", which);
    into = mole;
    const kept *b = NULL;
    for (int k = 0; k < into->n; k++) /* a weight that also carries the route numbers its experts */
      if (!strncmp(into->p[k].name, name, strlen(name))) b = &into->p[k];
    if (!b) fail_msg("no %s", name);
    assert_true(lc_tiny_error(b->grad, a->grad, a->n) < 1e-6);
  }
  forget(lora), forget(mole);
}

/* ---- items 3 and 5 on the op itself: one layer, chosen routes ---- */

enum { T = 37, C = 12, M = 20, R = 3, E = 3 };
typedef struct {
  lc_graph *g;
  lc_plan *plan;
  lc_run *run;
  lc_val y, out, x, p, choice;
  lc_delta *d;
  lc_weight wt;
  float A[E * R * C], B[E * M * R], y0[T * M], x0[T * C], p0[T * E], dout[T * M];
} rig;

static lc_status source_shape(lc_graph *g, lc_node *n) {
  const int64_t *width = n->attr;
  return lc_node_out(g, n, 0, "source", LC_F32, *width);
}
static bool source_trains(const lc_node *n) {
  return true;
}
static lc_status nothing(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return LC_OK;
}
static const lc_op source = {.name = "source",
                             .shape = source_shape,
                             .trains = source_trains,
                             .forward = nothing,
                             .backward = nothing};
static lc_status end_shape(lc_graph *g, lc_node *n) {
  return lc_node_out(g, n, 0, "end", LC_F32, 1);
}
static const rig *current;
static lc_status end_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  for (int64_t r = r0; r < r1; r++) lc_grad_row_put(n, run, 0, r, current->dout + r * M);
  return LC_OK;
}
static const lc_op end = {
    .name = "end", .flags = LC_OP_LOSS, .shape = end_shape, .forward = nothing, .backward = end_backward};

static void fill(float *v, int64_t n, uint32_t stream) {
  const lc_rng rng = {.seed = 3, .tensor = stream, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, n, v);
}

/* Runs forward and backward of rows [0,t) with given choices. */
static void rig_run(rig *k, int gate, const int32_t *choice, int64_t t) {
  const int64_t width[3] = {M, C, E};
  lc_weight *wt = &k->wt;
  *wt = (lc_weight){
      .name = "w.weight", .module = "w", .id = 7, .kind = LC_KIND_LINEAR, .M = M, .N = C, .ndim = 2};
  lc_delta *route;
  const lc_route_opts ro = {.experts = E};
  const lc_experts_opts eo = {.experts = E, .rank = R, .alpha = 2 * R, .gate = gate};
  ok(lc_delta_route_new(w.ctx, wt, &ro, true, &route));
  ok(lc_delta_experts_new(w.ctx, wt, route, &eo, true, &k->d));
  fill(k->A, E * R * C, 1), fill(k->B, E * M * R, 2), fill(k->y0, T * M, 3), fill(k->x0, T * C, 4);
  fill(k->dout, T * M, 5);
  for (int i = 0; i < T; i++) {
    float s = 0;
    for (int e = 0; e < E; e++) s += k->p0[i * E + e] = 0.2f + 0.1f * (float)((i * 7 + e * 3) % 5);
    for (int e = 0; e < E; e++) k->p0[i * E + e] /= s;
  }
  memcpy(k->d->param[0]->value, k->A, sizeof k->A);
  memcpy(k->d->param[1]->value, k->B, sizeof k->B);
  ok(lc_graph_new(w.ctx, &k->g));
  ok(lc_emit(k->g, &source, &width[0], sizeof *width, NULL, 0, &k->y));
  ok(lc_emit(k->g, &source, &width[1], sizeof *width, NULL, 0, &k->x));
  ok(lc_emit(k->g, &source, &width[2], sizeof *width, NULL, 0, &k->p));
  k->choice = lc_graph_input(k->g, "choice", LC_I32, 1);
  lc_val in[4] = {k->y, k->x, k->p, k->choice};
  const lc_mole_attr a = {k->d};
  for (int i = 0; i < 3; i++) lc_graph_keep(k->g, in[i]);
  ok(lc_emit(k->g, &lc_op_experts, &a, sizeof a, in, 4, &k->out));
  lc_graph_keep(k->g, k->out);
  ok(lc_emit(k->g, &end, NULL, 0, &k->out, 1, NULL));
  ok(lc_plan_new(k->g, &(lc_plan_opts){.rows = T, .training = true}, &k->plan));
  ok(lc_run_new(w.ctx, k->plan, &k->run));
  const lc_segment seg = {0, t, 0, 0, 0};
  ok(lc_run_begin(k->run, t, &seg, 1));
  memcpy(lc_data(k->run, k->y), k->y0, (size_t)(t * M) * sizeof(float));
  memcpy(lc_data(k->run, k->x), k->x0, (size_t)(t * C) * sizeof(float));
  memcpy(lc_data(k->run, k->p), k->p0, (size_t)(t * E) * sizeof(float));
  memcpy(lc_data(k->run, k->choice), choice, (size_t)t * sizeof *choice);
  current = k;
  ok(lc_forward(k->run, NULL));
  ok(lc_backward(k->run, NULL));
  lc_delta_route.free(w.ctx, route);
}
static void rig_close(rig *k) {
  lc_run_free(k->run);
  lc_plan_free(k->plan);
  lc_graph_free(k->g);
  k->d->ops->free(w.ctx, k->d);
}

/* The masked loop over experts, in f64. */
static void naive(const rig *k, int gate, const int32_t *choice, int64_t t, float *out, float *dA, float *dB,
                  float *dx, float *dp) {
  memset(dA, 0, sizeof k->A), memset(dB, 0, sizeof k->B);
  for (int64_t i = 0; i < t; i++) {
    double y[M], x[C] = {0};
    for (int m = 0; m < M; m++) y[m] = (double)k->y0[i * M + m];
    for (int e = 0; e < E; e++) {
      dp[i * E + e] = 0;
      if (gate != LC_GATE_DENSE && e != choice[i]) continue;
      const double p = (double)k->p0[i * E + e], g = gate == LC_GATE_PROB || gate == LC_GATE_DENSE ? p : 1;
      double v[M] = {0}, h[R] = {0}, u[R] = {0}, inner = 0;
      for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) h[r] += (double)k->A[(e * R + r) * C + c] * (double)k->x0[i * C + c];
        for (int m = 0; m < M; m++) {
          v[m] += 2 * (double)k->B[(e * M + m) * R + r] * h[r];
          u[r] += 2 * (double)k->B[(e * M + m) * R + r] * (double)k->dout[i * M + m];
        }
      }
      for (int m = 0; m < M; m++) y[m] += g * v[m], inner += v[m] * (double)k->dout[i * M + m];
      for (int r = 0; r < R; r++) {
        for (int m = 0; m < M; m++)
          dB[(e * M + m) * R + r] += (float)(2 * g * (double)k->dout[i * M + m] * h[r]);
        for (int c = 0; c < C; c++) {
          dA[(e * R + r) * C + c] += (float)(g * u[r] * (double)k->x0[i * C + c]);
          x[c] += g * u[r] * (double)k->A[(e * R + r) * C + c];
        }
      }
      dp[i * E + e] = (float)(gate == LC_GATE_NONE ? 0 : gate == LC_GATE_ST ? inner / p : inner);
    }
    for (int m = 0; m < M; m++) out[i * M + m] = (float)y[m];
    for (int c = 0; c < C; c++) dx[i * C + c] = (float)x[c];
  }
}

static void test_grouped_is_naive(void **state) {
  for (int gate = 0; gate < 4; gate++)
    for (int pattern = 0; pattern < 4; pattern++) {
      rig *k = calloc(1, sizeof *k);
      int32_t choice[T];
      const int64_t t = pattern == 1 ? 1 : T; /* mixed; one token; all on one; one expert empty */
      for (int i = 0; i < T; i++)
        choice[i] = pattern == 2 ? 1 : pattern == 3 ? 2 * (i % 2) : (i * i + i / 3) % E;
      float out[T * M], dA[E * R * C], dB[E * M * R], dx[T * C], dp[T * E];
      rig_run(k, gate, choice, t);
      naive(k, gate, choice, t, out, dA, dB, dx, dp);
      assert_true(lc_tiny_error(lc_data(k->run, k->out), out, t * M) < 1e-5);
      assert_true(lc_tiny_error(k->d->param[0]->grad, dA, E * R * C) < 1e-5);
      assert_true(lc_tiny_error(k->d->param[1]->grad, dB, E * M * R) < 1e-5);
      assert_true(lc_tiny_error(lc_grad(k->run, k->x), dx, t * C) < 1e-5);
      const float *got = lc_grad(k->run, k->p);
      for (int64_t i = 0; i < t * E; i++) assert_true(fabsf(got[i] - dp[i]) <= 1e-4f * (1 + fabsf(dp[i])));
      assert_memory_equal(lc_grad(k->run, k->y), k->dout, (size_t)(t * M) * sizeof(float));
      rig_close(k);
      free(k);
    }
}

/* Item 5, router: no gradient from the task with gate none; some with the others. */
static void test_router_gradient(void **state) {
  for (int g = 0; g < 4; g++) {
    char set[96];
    double norm = 0;
    snprintf(set, sizeof set, "r=4 alpha=8 balance=0 dropout=0 gate=%s", gates[g]);
    void *s = calloc(1, sizeof *into);
    gradients("llava-mole", set, "steps=1 batch=4", s);
    for (int i = 0; i < into->n; i++)
      for (int64_t k = 0; strstr(into->p[i].name, ".route") && k < into->p[i].n; k++)
        norm += (double)into->p[i].grad[k] * (double)into->p[i].grad[k];
    assert_true(g == LC_GATE_NONE ? norm == 0 : norm > 1e-12);
    forget(s);
  }
}

/* Item 4: an expert without tokens keeps value and moments. The route is fixed to expert 1 by its bias. */
static lc_status one_route(void *self, lc_training *t) {
  LC_TRY(attach_of_row(self, t));
  for (int i = 0; i < t->adapter->n; i++)
    if (t->adapter->delta[i]->ops == &lc_delta_route) t->adapter->delta[i]->param[1]->value[1] = 1e4f;
  return LC_OK;
}
static int untouched;
static lc_status moved(void *self, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_delta *d = t->adapter->delta[i];
    if (d->ops != &lc_delta_experts) continue;
    for (int k = 0; k < 2; k++) {
      const lc_param *p = d->param[k];
      const float *m = lc_param_find(p, "m"), *v = lc_param_find(p, "v");
      for (int64_t j = 0; j < p->n; j++) {
        const bool chosen = j / (p->n / 3) == 1;
        if (chosen) continue;
        assert_true(m[j] == 0 && v[j] == 0);
        if (k == 1) assert_true(p->value[j] == 0);
        untouched++;
      }
      double used = 0;
      for (int64_t j = p->n / 3; j < 2 * (p->n / 3); j++) used += (double)v[j];
      assert_true(used > 0);
    }
  }
  return LC_OK;
}
static void test_idle_experts(void **state) {
  lc_method row = *lc_method_find("llava-mole");
  attach_of_row = row.attach;
  row.attach = one_route;
  row.finish = moved;
  untouched = 0;
  t_spec s = {.row = &row,
              .out = "idle",
              .set = "r=2 balance=0",
              .opts = "steps=4 batch=4 weight-decay=0.1",
              .no_eval = true};
  ok(t_train(&w, &s));
  assert_true(untouched > 0);
  assert_int_equal(t_lines(t_out(&w, "idle", "log.jsonl"), "\"dead_experts\""), 1); /* item 12 */
  assert_int_equal(t_lines(t_out(&w, "idle", "log.jsonl"), "\"entropy\""), 1);
}

/* Item 6: values of the loss by hand; micro-batches of whole examples change nothing in scope joint. */
static void test_balance(void **state) {
  for (int joint = 0; joint < 2; joint++) {
    char set[128];
    snprintf(set, sizeof set, "r=2 balance=1 gate=none dropout=0 balance-scope=%s",
             joint ? "joint" : "layer");
    void *s = calloc(1, sizeof *into), *parts = calloc(1, sizeof *into);
    gradients("llava-mole", set, "steps=1 batch=6 micro-batch=6", s);
    into = s;
    const double whole = into->auxiliary;
    assert_true(whole >= (joint ? 1.0 / 3 : 1.0) * 0.8 &&
                whole < (joint ? 1 : 3)); /* near uniform at the start */
    gradients("llava-mole", set, "steps=1 batch=6 micro-batch=2", parts);
    if (joint) {
      into = parts;
      assert_true(fabs(into->auxiliary - whole) < 1e-5 * whole);
      for (int i = 0; i < into->n; i++) {
        const kept *a = find(s, into->p[i].name);
        into = parts;
        if (strstr(a->name, ".route")) assert_true(lc_tiny_error(into->p[i].grad, a->grad, a->n) < 1e-4);
      }
    }
    forget(s), forget(parts);
  }
}

/* Item 6, exactly uniform: choice i mod E, p = 1/E. Through the ops alone, and 0 tokens of an expert are no trouble. */
static void test_balance_at_uniform(void **state) {
  for (int joint = 0; joint < 2; joint++) {
    lc_graph *g;
    lc_plan *plan;
    lc_run *run;
    lc_val p, choice, sums, loss;
    const int64_t width = E;
    const lc_balance_attr a = {.experts = E, .layers = 1, .weight = 1, .scope = joint};
    ok(lc_graph_new(w.ctx, &g));
    ok(lc_emit(g, &source, &width, sizeof width, NULL, 0, &p));
    choice = lc_graph_input(g, "choice", LC_I32, 1);
    lc_graph_keep(g, p);
    lc_val in[3] = {p, choice, {0}};
    ok(lc_emit(g, &lc_op_balance_sum, NULL, 0, in, 3, &sums));
    ok(lc_emit(g, &lc_op_balance_loss, &a, sizeof a, &sums, 1, &loss));
    lc_graph_keep(g, loss);
    ok(lc_plan_new(g, &(lc_plan_opts){.rows = 36, .training = true}, &plan));
    ok(lc_run_new(w.ctx, plan, &run));
    const lc_segment seg[2] = {{0, 12, 0, 0, 0}, {12, 36, 1, 0, 0}};
    ok(lc_run_begin(run, 36, seg, 2));
    run->example_scale = 0.5f;
    for (int i = 0; i < 36; i++) {
      ((int32_t *)lc_data(run, choice))[i] = i % E;
      for (int e = 0; e < E; e++) ((float *)lc_data(run, p))[i * E + e] = 1.0f / E;
    }
    ok(lc_forward(run, NULL));
    ok(lc_backward(run, NULL));
    assert_true(fabsf(*(float *)lc_data(run, loss) - (joint ? 1.0f / E : 1)) < 1e-6f);
    for (int i = 0; i < 36; i++)
      ((int32_t *)lc_data(run, choice))[i] = 0; /* all to one: joint 1/E·1·… stays finite */
    ok(lc_forward(run, NULL));
    ok(lc_backward(run, NULL));
    const float *dp = lc_grad(run, p); /* through p only: dL/dp_tj = c̄_j/n, with c̄ = (1,0,0) */
    for (int i = 0; i < 36; i++) {
      const double n = joint ? (i < 12 ? 12 : 24) : 36, want = joint ? 0.5 / n : E / n;
      assert_true(fabs((double)dp[i * E] - want) < 1e-6 && dp[i * E + 1] == 0 && dp[i * E + 2] == 0);
    }
    lc_run_free(run);
    lc_plan_free(plan);
    lc_graph_free(g);
  }
}

/* Items 7, 8, 10, 11: a trained adapter read back. */
static void test_read_back(void **state) {
  t_spec s = {.method = "llava-mole",
              .set = "r=4 alpha=8 balance=0.5 dropout=0",
              .out = "m",
              .opts = "steps=8 batch=8 lr=0.05"};
  lc_net *net;
  lc_adapter *a;
  int32_t ids[24];
  for (int t = 0; t < 24; t++) ids[t] = (t * 37 + 11) % 300;
  float *all = malloc(24 * 300 * sizeof *all), *parts = malloc(24 * 300 * sizeof *parts);
  ok(t_train(&w, &s));
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "m", ""), 1, LC_ASIDE, &a));
  ok(lc_tiny_logits(net, ids, 24, all));
  lc_session *session;
  ok(lc_session_new(net, 64, 8, LC_F32, &session));
  ok(lc_session_feed(session, ids, 17, true, parts));
  for (int t = 17; t < 24; t++) ok(lc_session_feed(session, ids + t, 1, true, parts + t * 300));
  assert_true(lc_tiny_error(parts, all, 24 * 300) < 1e-4);
  lc_session_free(session);
  /* one route a block, shared by its three layers */
  int routes = 0, experts = 0;
  for (int i = 0; i < a->n; i++)
    routes += a->delta[i]->ops == &lc_delta_route, experts += a->delta[i]->ops == &lc_delta_experts;
  assert_int_equal(routes, 2);
  assert_int_equal(experts, 6);
  assert_non_null(route_of(net, 1));
  assert_int_not_equal(lc_net_write_hf(net, lc_tiny_path(w.dir, "merged"), LC_F32, NULL), LC_OK);
  assert_non_null(strstr(lc_error(w.ctx), "cannot be merged"));
  lc_error_clear(w.ctx);
  const lc_adapter_meta meta = {.base_name = "b", .method = "llava-mole"};
  assert_int_not_equal(lc_adapter_save(a, LC_LAYOUT_PEFT_LORA, lc_tiny_path(w.dir, "peft"), &meta), LC_OK);
  assert_non_null(strstr(lc_error(w.ctx), "cannot hold"));
  lc_error_clear(w.ctx);
  lc_net_free(net);
  /* the attention part alone is a LoRA that other tools read */
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "m", "attention"), 1, LC_PATCH, &a));
  assert_int_equal(a->n, 8);
  lc_net_free(net);
  free(all), free(parts);
}

/* Item 10: damage is named. */
static void replace(const char *path, const char *from, const char *to) {
  char *text, *at;
  size_t n;
  ok(lc_read_file(w.ctx, path, 1 << 24, &text, &n));
  at = strstr(text, from);
  assert_non_null(at);
  assert_int_equal(strlen(from), strlen(to));
  memcpy(at, to, strlen(to));
  ok(lc_write_file(w.ctx, path, text, n));
  lc_free(w.ctx, text);
}

static void test_refused_files(void **state) {
  static const struct {
    const char *from, *to, *says;
  } bad[] = {{"\"rank\": \"2\"", "\"rank\": \"3\"", "is not 9"},
             {"\"experts\": \"3\"", "\"experts\": \"4\"", "routes"},
             {"\"kind\": \"route\"", "\"kind\": \"rouge\"", "rouge"},
             {"\"gate\": \"st\"", "\"gate\": \"xx\"", "gate"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    t_spec s = {.method = "llava-mole",
                .set = "r=2",
                .out = "bad",
                .opts = "steps=1",
                .no_eval = true,
                .overwrite = true};
    lc_net *net;
    lc_adapter *a;
    ok(t_train(&w, &s));
    replace(t_out(&w, "bad", "lacuna_adapter.json"), bad[i].from, bad[i].to);
    ok(lc_net_new(w.model, LC_F32, &net));
    assert_int_not_equal(lc_adapter_load(net, t_out(&w, "bad", ""), 1, LC_PATCH, &a), LC_OK);
    if (i != 1 && !strstr(lc_error(w.ctx), bad[i].says)) fail_msg("%s: %s", bad[i].to, lc_error(w.ctx));
    assert_int_equal(net->n_adapter, 0);
    lc_error_clear(w.ctx);
    lc_net_free(net);
  }
}

/* Works on a quantised base, whose bytes stay. */
static void test_quantised(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *own = w.model;
  d.dtype = LC_Q4_0;
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &w.model));
  t_spec s = {.method = "llava-mole",
              .set = "r=4 alpha=8 gate=dense",
              .out = "q",
              .opts = "steps=12 batch=8 lr=0.02"};
  ok(t_train(&w, &s));
  assert_true(atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 12")) <
              0.95 * atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 0")));
  lc_model_close(w.model);
  w.model = own;
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_start),
                                     TEST(test_one_expert_is_lora),
                                     TEST(test_grouped_is_naive),
                                     TEST(test_router_gradient),
                                     TEST(test_idle_experts),
                                     TEST(test_balance),
                                     TEST(test_balance_at_uniform),
                                     TEST(test_read_back),
                                     TEST(test_refused_files),
                                     TEST(test_quantised)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
