/* The rig of test_ops.c: the probe's loss, weights, and an op built, run and compared. */
#include "ops_test.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t T = FEW_ROWS;

/* ---- the probe: loss = Σ c·y in f64 ---- */

static double probe_sum;
static float coefficient(int64_t r, int64_t c) {
  lc_rng k = {.seed = 77, .purpose = LC_RNG_TEST};
  return lc_rng_uniform(&k, (uint64_t)(r * 4096 + c)) * 2 - 1;
}
static lc_status probe_shape(lc_graph *g, lc_node *n) {
  return lc_node_out(g, n, 0, "probe", LC_F32, 1);
}
static lc_status probe_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = malloc((size_t)C * sizeof *tmp);
  probe_sum = 0;
  for (int64_t r = r0; r < r1; r++) {
    const float *y = lc_row_get(run, n->in[0], r, tmp);
    for (int64_t c = 0; c < C; c++) probe_sum += (double)coefficient(r, c) * (double)y[c];
  }
  free(tmp);
  return LC_OK;
}
static lc_status probe_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = malloc((size_t)C * sizeof *tmp);
  for (int64_t r = r0; r < r1; r++) {
    for (int64_t c = 0; c < C; c++) tmp[c] = coefficient(r, c);
    lc_grad_row_put(n, run, 0, r, tmp);
  }
  free(tmp);
  return LC_OK;
}
static const lc_op probe = {.name = "probe",
                            .flags = LC_OP_LOSS,
                            .shape = probe_shape,
                            .forward = probe_forward,
                            .backward = probe_backward};

/* ---- weights ---- */

void add_weight(rig *k, const char *name, lc_weight_kind kind, int64_t M, int64_t N, int ndim, float mean,
                float spread) {
  assert_true(k->n < MAX_WEIGHTS);
  lc_weight *w = &k->w[k->n];
  *w = (lc_weight){
      .name = name, .module = name, .id = lc_fnv1a32(name), .kind = kind, .M = M, .N = N, .ndim = ndim};
  lc_param *p;
  assert_int_equal(lc_param_new(k->ctx, name, w, NULL, M, N, true, &p), LC_OK);
  lc_rng r = {.seed = 3, .tensor = w->id, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&r, 0, p->n, p->value);
  for (int64_t i = 0; i < p->n; i++) p->value[i] = mean + spread * p->value[i];
  if (ndim == 2) assert_int_equal(lc_form_of_param(k->ctx, p, &w->base), LC_OK);
  w->form = w->base;
  if (ndim == 1) w->vector = p->value;
  assert_int_equal(lc_weight_add_sink(k->ctx, w, (lc_sink){.kind = LC_SINK_DENSE, .param = p}), LC_OK);
  k->param[k->n++] = p;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const lc_weight *)a)->name, ((const lc_weight *)b)->name);
}

/* ---- a rig: built, run, compared ---- */

void rig_open(rig *k, const test_case *c, lc_dtype compute, int threads, bool scalar, bool recompute) {
  *k = (rig){.own_loss = c->own_loss};
  if (scalar) setenv("LACUNA_ISA", "scalar", 1);
  assert_int_equal(lc_ctx_new(threads, &k->ctx, NULL), LC_OK);
  if (scalar) unsetenv("LACUNA_ISA");
  c->weights(k);
  qsort(k->w, (size_t)k->n, sizeof *k->w, by_name);
  for (int i = 0; i < k->n; i++) /* params follow their moved weights */
    for (int j = 0; j < k->n; j++)
      if (!strcmp(k->param[j]->name, k->w[i].name)) k->param[j]->of = &k->w[i];
  k->set = (lc_weights){k->w, k->n};
  assert_int_equal(lc_graph_new(k->ctx, &k->g), LC_OK);
  assert_int_equal(lc_builder_init(&k->b, k->ctx, k->g, &k->set, compute), LC_OK);
  lc_block(&k->b, 0);
  k->y = c->build(k);
  if (k->b.st) fail_msg("%s %s: %s", c->op, c->what, lc_error(k->ctx));
  lc_graph_keep(k->g, k->y);
  lc_block(&k->b, -1);
  if (!c->own_loss) assert_int_equal(lc_emit(k->g, &probe, NULL, 0, &k->y, 1, NULL), LC_OK);
  assert_int_equal(
      lc_plan_new(k->g, &(lc_plan_opts){.rows = T + 3, .training = true, .recompute = recompute}, &k->plan),
      LC_OK);
  assert_int_equal(lc_run_new(k->ctx, k->plan, &k->run), LC_OK);
}

void rig_close(rig *k) {
  lc_run_free(k->run);
  lc_plan_free(k->plan);
  lc_graph_free(k->g);
  k->n -= k->n_delta_params;
  while (k->n_delta--) lc_weight_detach(k->ctx, k->delta[k->n_delta]->w, k->delta[k->n_delta], true);
  for (int i = 0; i < k->n; i++) {
    lc_form_free(k->ctx, k->w[i].base);
    lc_param_free(k->ctx, k->param[i]);
  }
  lc_ctx_free(k->ctx);
}

double loss(rig *k) {
  static lc_segment segments[2] = {{0, 17, 0, 0, 0}}; /* the backward pass reads them too */
  segments[1] = (lc_segment){17, T, 1, 0, 0};
  assert_int_equal(lc_run_begin(k->run, T, segments, 2), LC_OK);
  for (int64_t t = 0; t < T; t++) {
    ((int32_t *)lc_data(k->run, k->b.ids))[t] = (int32_t)t;
    ((int32_t *)lc_data(k->run, k->b.pos))[t] = (int32_t)(t < 17 ? t : t - 17);
    ((int32_t *)lc_data(k->run, k->b.labels))[t] = t % 5 == 2 ? -1 : (int32_t)(t * 7 % 50);
  }
  k->run->training = true;
  k->run->loss_scale = 1;
  k->run->example_scale = 0.5f;
  k->run->seed = 5;
  if (lc_forward(k->run, NULL)) fail_msg("%s", lc_error(k->ctx));
  if (!k->own_loss) return probe_sum;
  double sum = 0;
  for (int64_t t = 0; t < T; t++) sum += (double)((float *)lc_data(k->run, k->y))[t];
  return sum;
}

double backward(rig *k) {
  for (int i = 0; i < k->n; i++) memset(k->param[i]->grad, 0, (size_t)k->param[i]->n * sizeof(float));
  double l = loss(k); /* the head's own gradient is made here */
  if (lc_backward(k->run, NULL)) fail_msg("%s", lc_error(k->ctx));
  return l;
}

double distance(rig *a, rig *b) {
  double err = 0, norm = 0;
  for (int i = 0; i < a->n; i++)
    for (int64_t j = 0; j < a->param[i]->n; j++) {
      double d = (double)a->param[i]->grad[j] - (double)b->param[i]->grad[j];
      err += d * d;
      norm += (double)b->param[i]->grad[j] * (double)b->param[i]->grad[j];
    }
  return sqrt(err / norm);
}
