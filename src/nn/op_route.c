/* route: which expert a token goes to; balance_sum, balance_loss: the term that keeps all experts in use.
 *
 *   route          p_t = softmax(R·x_t + b)       x (T,N), R (E,N), b (E), f32 whatever x is
 *                  choice_t = argmax p_t          ties: the lowest index
 *   backward       dz = p ∘ (dp − Σ p·dp);  dR += dzᵀ·x, db += Σ dz, dx += dz·R
 *   balance_sum    row s of the output = Σ over segment s of (p_t | onehot(choice_t)), added to the sums so far
 *   balance_loss   joint  mean over examples of Σ_j p̄_j·c̄_j     p̄, c̄: means over an example's tokens and all layers
 *                  layer  E·Σ_j f_j·P_j                         f, P: means over all tokens of a pass; once a layer
 *                  its least value is 1/E (joint), 1 (layer); no gradient through c̄ and f
 *
 * Each logit is one dot product, so a token's route does not depend on how many tokens come with it. The op is
 * LC_OP_DISCRETE: its values are saved, never recomputed. (Chen, Jie & Ma 2024, arXiv 2401.16160; layer scope: Fedus,
 * Zoph & Shazeer 2022, arXiv 2101.03961.) */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/mole.h"

enum { ROWS = 32, STRIP = 64, SLOT_ROW = 2, SLOT_DZ = 5 };

static const lc_delta *route_of(const lc_node *n) {
  return ((const lc_mole_attr *)n->attr)->delta;
}
static int64_t experts_of(const lc_node *n) {
  return route_of(n)->param[0]->rows;
}

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_delta *d = route_of(n);
  const lc_value *x = lc_value_get(g, n->in[0]);
  if (!x || x->width != d->w->N)
    return lc_fail(lc_graph_ctx(g), "route at '%s': an input of %lld columns, expected %lld", d->w->name,
                   x ? (long long)x->width : 0LL, (long long)d->w->N);
  LC_TRY(lc_node_out(g, n, 0, "route_p", LC_F32, experts_of(n)));
  return lc_node_out(g, n, 1, "route_choice", LC_I32, 1);
}

static bool trains(const lc_node *n) {
  return route_of(n)->param[0]->wants_grad;
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  return want ? LC_OUT(0) | (want & LC_PARAMS ? LC_IN(0) : 0) : 0;
}

static lc_status forward_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_delta *d = route_of(n);
  const int64_t N = d->w->N, E = experts_of(n);
  const lc_kernels *k = lc_kernels_get(run->ctx);
  float *tmp = lc_scratch(run->ctx, worker, SLOT_ROW, (size_t)N * sizeof *tmp), *p = lc_data(run, n->out[0]);
  int32_t *choice = lc_data(run, n->out[1]);
  if (!tmp) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const float *x = lc_row_get(run, n->in[0], r, tmp);
    int32_t best = 0;
    for (int64_t e = 0; e < E; e++)
      p[r * E + e] = k->dot(N, d->param[0]->value + e * N, x) + d->param[1]->value[e];
    k->softmax(E, p + r * E);
    for (int32_t e = 1; e < E; e++)
      if (p[r * E + e] > p[r * E + best]) best = e;
    choice[r] = best;
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, ROWS, forward_rows);
}

/* dz of all rows lies in worker 0's slot. */
static lc_status back_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_delta *d = route_of(n);
  const int64_t N = d->w->N, E = experts_of(n);
  const lc_kernels *k = lc_kernels_get(run->ctx);
  float *dz = lc_scratch(run->ctx, 0, SLOT_DZ, (size_t)(run->rows * E) * sizeof *dz),
        *dx = lc_scratch(run->ctx, worker, SLOT_ROW, (size_t)N * sizeof *dx);
  if (!dz || !dx) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const float *p = (const float *)lc_data(run, n->out[0]) + r * E,
                *dp = (const float *)lc_grad(run, n->out[0]) + r * E;
    double mean = 0;
    for (int64_t e = 0; e < E; e++) mean += (double)p[e] * (double)dp[e];
    for (int64_t e = 0; e < E; e++) dz[r * E + e] = (float)((double)p[e] * ((double)dp[e] - mean));
    if (!(n->want & LC_IN(0))) continue;
    memset(dx, 0, (size_t)N * sizeof *dx);
    for (int64_t e = 0; e < E; e++) k->axpy(N, dz[r * E + e], d->param[0]->value + e * N, dx);
    lc_grad_row_put(n, run, 0, r, dx);
  }
  return LC_OK;
}

typedef struct {
  const lc_node *n;
  lc_run *run;
  const float *dz;
} back_arg;

/* A strip of R's columns: rows in order. */
static lc_status back_strip(void *arg, int64_t chunk, int worker) {
  const back_arg *a = arg;
  const lc_delta *d = route_of(a->n);
  const int64_t N = d->w->N, E = experts_of(a->n), c0 = chunk * STRIP, m = lc_min64(STRIP, N - c0);
  const lc_kernels *k = lc_kernels_get(a->run->ctx);
  const void *x = lc_data(a->run, a->n->in[0]);
  const bool half = lc_value_dtype(a->run, a->n->in[0]) == LC_BF16;
  float tmp[STRIP];
  for (int64_t r = 0; r < a->run->rows; r++) {
    const float *row = tmp;
    if (half)
      k->bf16_to_f32(m, (const uint16_t *)x + r * N + c0, tmp);
    else
      row = (const float *)x + r * N + c0;
    for (int64_t e = 0; e < E; e++) k->axpy(m, a->dz[r * E + e], row, d->param[0]->grad + e * N + c0);
  }
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_delta *d = route_of(n);
  const int64_t E = experts_of(n);
  back_arg a = {n, run, lc_scratch(run->ctx, 0, SLOT_DZ, (size_t)(run->rows * E) * sizeof(float))};
  if (!a.dz) return LC_FAILED;
  LC_TRY(lc_for_rows(n, run, r0, r1, ROWS, back_rows));
  if (!(n->want & LC_PARAMS)) return LC_OK;
  for (int64_t r = 0; r < run->rows; r++)
    for (int64_t e = 0; e < E; e++) d->param[1]->grad[e] += a.dz[r * E + e];
  return lc_parallel(run->ctx, lc_ceil_div(d->w->N, STRIP), back_strip, &a);
}

const lc_op lc_op_route = {.name = "route",
                           .flags = LC_OP_ROWWISE | LC_OP_DISCRETE,
                           .shape = shape,
                           .trains = trains,
                           .saves = saves,
                           .forward = forward,
                           .backward = backward};

/* ---- balance_sum ---- */

static lc_status sum_shape(lc_graph *g, lc_node *n) {
  return lc_node_out(g, n, 0, "balance_sum", LC_F32, 2 * lc_value_get(g, n->in[0])->width);
}

static lc_status sum_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const int64_t E = lc_width(run, n->in[0]);
  const float *p = lc_data(run, n->in[0]), *before = lc_data(run, n->in[2]);
  const int32_t *choice = lc_data(run, n->in[1]);
  float *out = lc_data(run, n->out[0]);
  memset(out, 0, (size_t)(run->rows * 2 * E) * sizeof *out);
  for (int s = 0; s < run->n_seg; s++) {
    for (int64_t j = 0; j < 2 * E; j++) {
      double sum = before ? (double)before[s * 2 * E + j] : 0;
      for (int64_t r = run->seg[s].row0; r < run->seg[s].row1; r++)
        sum += j < E ? (double)p[r * E + j] : choice[r] == j - E;
      out[s * 2 * E + j] = (float)sum;
    }
  }
  return LC_OK;
}

static lc_status sum_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const int64_t E = lc_width(run, n->in[0]);
  const float *d = lc_grad(run, n->out[0]);
  for (int s = 0; s < run->n_seg && n->want & LC_IN(0); s++)
    for (int64_t r = run->seg[s].row0; r < run->seg[s].row1; r++)
      lc_grad_row_put(n, run, 0, r, d + s * 2 * E);
  return n->want & LC_IN(2) ? lc_grad_pass(n, run, 2, r0, r1) : LC_OK;
}

const lc_op lc_op_balance_sum = {.name = "balance_sum",
                                 .grad_alias = 3,
                                 .shape = sum_shape,
                                 .forward = sum_forward,
                                 .backward = sum_backward};

/* ---- balance_loss ---- */

static lc_status loss_shape(lc_graph *g, lc_node *n) {
  return lc_node_out(g, n, 0, "balance_loss", LC_F32, 1);
}

static uint32_t loss_saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(0) : 0;
}

/* Tokens (times layers) of sum row s, and the row; s < 0: of all segments together, into `all` (2E). */
static double totals(const float *sums, int64_t E, int s, int n_seg, double *all) {
  double n = 0;
  for (int64_t j = 0; j < 2 * E; j++) {
    all[j] = 0;
    for (int q = s < 0 ? 0 : s; q < (s < 0 ? n_seg : s + 1); q++) all[j] += (double)sums[q * 2 * E + j];
    if (j >= E) n += all[j];
  }
  return n;
}

static lc_status loss_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_balance_attr *a = n->attr;
  const int64_t E = a->experts;
  const bool joint = a->scope == LC_BALANCE_JOINT;
  const float *sums = lc_data(run, n->in[0]);
  float *out = lc_data(run, n->out[0]);
  double *all = lc_scratch(run->ctx, 0, SLOT_ROW, (size_t)(2 * E) * sizeof *all), loss = 0;
  if (!all) return LC_FAILED;
  memset(out, 0, (size_t)run->rows * sizeof *out);
  for (int s = joint ? 0 : -1; s < (joint ? run->n_seg : 0); s++) {
    const double tokens = totals(sums, E, s, run->n_seg, all);
    for (int64_t j = 0; j < E && tokens > 0; j++)
      loss +=
          all[j] * all[E + j] / (tokens * tokens) * (joint ? 1 : (double)E * run->n_seg / (double)a->layers);
  }
  out[0] = (float)(loss * a->weight * (double)run->example_scale);
  return LC_OK;
}

static lc_status loss_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_balance_attr *a = n->attr;
  const int64_t E = a->experts;
  const bool joint = a->scope == LC_BALANCE_JOINT;
  const float *sums = lc_data(run, n->in[0]);
  double *all = lc_scratch(run->ctx, 0, SLOT_ROW, (size_t)(2 * E) * sizeof *all);
  float *d = lc_scratch(run->ctx, 0, SLOT_DZ, (size_t)(2 * E) * sizeof *d);
  if (!all || !d) return LC_FAILED;
  memset(d, 0, (size_t)(2 * E) * sizeof *d);
  for (int64_t s = 0; s < run->rows; s++) {
    if (s < run->n_seg && (joint || s == 0)) {
      const double tokens = totals(sums, E, joint ? (int)s : -1, run->n_seg, all);
      for (int64_t j = 0; j < E; j++)
        d[j] = tokens > 0 ? (float)(all[E + j] / (tokens * tokens) * a->weight * (double)run->example_scale *
                                    (joint ? 1 : (double)E * run->n_seg / (double)a->layers))
                          : 0;
    }
    if (s == run->n_seg) memset(d, 0, (size_t)(2 * E) * sizeof *d);
    lc_grad_row_put(n, run, 0, s, d);
  }
  return LC_OK;
}

const lc_op lc_op_balance_loss = {.name = "balance_loss",
                                  .flags = LC_OP_LOSS,
                                  .shape = loss_shape,
                                  .saves = loss_saves,
                                  .forward = loss_forward,
                                  .backward = loss_backward};
