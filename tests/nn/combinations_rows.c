/* Every kind of delta: made at a change other than 0, and the same change by hand, entry by entry. */
#include "nn/combinations_test.h"

enum { EXPERTS = 2 };

float noise_at(const char *name, int64_t k) {
  const lc_rng rng = {.seed = strlen(name), .tensor = 7, .purpose = LC_RNG_TEST};
  return lc_rng_normal(&rng, (uint64_t)k);
}
static void randomise(lc_param *p, float size) {
  for (int64_t k = 0; k < p->n; k++) p->value[k] = size * noise_at(p->name, k);
}

/* ---- making: attached, at a change other than 0 ---- */

static void add(lc_adapter *a, lc_delta *d) {
  ok(lc_weight_attach(ctx, d->w, d));
  ok(lc_adapter_add(a, d));
}
/* Every step-th position of a matrix. */
static lc_index positions(const lc_weight *w, int64_t first, int64_t step) {
  int64_t n = 0, *flat = malloc((size_t)(w->M * w->N) * sizeof *flat);
  lc_index idx;
  for (int64_t f = first; f < w->M * w->N; f += step) flat[n++] = f;
  ok(lc_index_new(ctx, w->M, w->N, flat, n, &idx));
  free(flat);
  return idx;
}
static void make_sparse(lc_adapter *a, bool trained) {
  lc_weight *w = lc_net_weight(a->net, UP);
  lc_index idx = positions(w, 3, 7);
  lc_delta *d;
  ok(lc_delta_sparse_new(ctx, w, &idx, NULL, trained, &d));
  lc_delta_sparse_set_factor(d, 0.5);
  randomise(d->param[0], 0.1f);
  add(a, d);
}
static void make_lora(lc_adapter *a, bool trained) {
  lc_delta *d;
  ok(lc_delta_lora_new(ctx, lc_net_weight(a->net, UP), &(lc_lora_opts){.rank = 3, .alpha = 6, .seed = 5},
                       NULL, NULL, trained, &d));
  randomise(d->param[1], 0.1f);
  add(a, d);
}
static const int32_t lines[] = {0, 5, 6, 31, 40};
static void make_slice(lc_adapter *a, int axis, bool trained) {
  lc_delta *d;
  ok(lc_delta_slice_new(ctx, lc_net_weight(a->net, UP), &(lc_slice_opts){axis, 5}, lines, trained, &d));
  randomise(d->param[0], 0.1f);
  add(a, d);
}
static void make_columns(lc_adapter *a, bool trained) {
  make_slice(a, LC_SLICE_COLUMNS, trained);
}
static void make_rows(lc_adapter *a, bool trained) {
  make_slice(a, LC_SLICE_ROWS, trained);
}
static void make_mask(lc_adapter *a, bool trained) {
  lc_weight *w = lc_net_weight(a->net, UP);
  lc_index idx = positions(w, 1, 3);
  lc_mask m;
  lc_delta *d;
  ok(lc_mask_new(ctx, w->M, w->N, &m));
  lc_mask_drop(&m, &idx);
  lc_index_free(ctx, &idx);
  ok(lc_delta_mask_new(ctx, w, &m, &d));
  add(a, d);
}
static void make_kernel(lc_adapter *a, bool trained) {
  lc_delta *d;
  ok(lc_delta_kernel_new(ctx, lc_net_weight(a->net, UP),
                         &(lc_kernel_opts){.rank = 4, .seed = 5, .variant = LC_KERNEL_KLORA}, trained, &d));
  randomise(d->param[1], 1);
  add(a, d);
}
static void make_noise(lc_adapter *a, bool trained) {
  lc_noise_log *log;
  lc_delta *d;
  ok(lc_noise_log_new(
      ctx, &(lc_noise_opts){.seed = 9, .sparsity = 0.25, .decay = 0.1, .mask = LC_NOISE_RANDOM}, 4, &log));
  ok(lc_noise_log_add(log, 0, 0.5f, 0.1f));
  ok(lc_noise_log_add(log, 1, -0.25f, 0.1f));
  ok(lc_delta_noise_new(ctx, lc_net_weight(a->net, UP), log, &d));
  lc_noise_log_drop(log);
  add(a, d);
}
/* Both biases of the gate, zero weights: every token has the same shares, so that the experts' sum is one matrix. */
static void make_mole(lc_adapter *a, bool route_trained, bool experts_trained) {
  lc_delta *route, *d;
  ok(lc_delta_route_new(ctx, lc_net_weight(a->net, FFN "gate_proj.weight"),
                        &(lc_route_opts){.experts = EXPERTS, .seed = 5}, route_trained, &route));
  memset(route->param[0]->value, 0, (size_t)route->param[0]->n * sizeof(float));
  route->param[1]->value[0] = 0.3f, route->param[1]->value[1] = -0.2f;
  add(a, route);
  ok(lc_delta_experts_new(
      ctx, lc_net_weight(a->net, UP), route,
      &(lc_experts_opts){.experts = EXPERTS, .rank = 2, .seed = 5, .alpha = 4, .gate = LC_GATE_DENSE},
      experts_trained, &d));
  randomise(d->param[1], 0.1f);
  add(a, d);
}
static void make_route(lc_adapter *a, bool trained) {
  make_mole(a, trained, false);
}
static void make_experts(lc_adapter *a, bool trained) {
  make_mole(a, false, trained);
}
/* D = 0: what is added is the same for every token, U·gelu(b_D) + b_U: a bias. */
static void make_bottleneck(lc_adapter *a, bool trained) {
  lc_delta *d;
  ok(lc_delta_bottleneck_new(
      ctx, lc_net_weight(a->net, DOWN),
      &(lc_bottleneck_opts){.width = 5, .seed = 5, .style = LC_STYLE_ADAPTFORMER, .scale = 0.5}, trained,
      &d));
  memset(d->param[0]->value, 0, (size_t)d->param[0]->n * sizeof(float));
  for (int i = 1; i < 4; i++) randomise(d->param[i], 0.5f);
  add(a, d);
}

/* ---- the same matrix by hand: to[M·N] has the base ---- */

static void dense_sparse(const lc_delta *d, double *to) {
  const lc_param *p = d->param[0];
  for (int64_t k = 0; k < p->n; k++) to[3 + 7 * k] += 0.5 * (double)p->value[k];
}
static void dense_product(const lc_delta *d, double s, int64_t R, const float *A, const float *B,
                          double *to) {
  for (int64_t r = 0; r < d->w->M; r++)
    for (int64_t c = 0; c < d->w->N; c++)
      for (int64_t k = 0; k < R; k++)
        to[r * d->w->N + c] += s * (double)B[r * R + k] * (double)A[k * d->w->N + c];
}
static void dense_lora(const lc_delta *d, double *to) {
  dense_product(d, 2, 3, d->param[0]->value, d->param[1]->value, to);
}
static void dense_slice(const lc_delta *d, double *to) {
  const bool of_rows = lc_delta_slice_opts(d)->axis == LC_SLICE_ROWS;
  const int64_t N = d->w->N;
  for (int64_t k = 0; k < d->param[0]->n; k++)
    to[of_rows ? lines[k / N] * N + k % N : k / 5 * N + lines[k % 5]] += (double)d->param[0]->value[k];
}
static void dense_mask(const lc_delta *d, double *to) {
  for (int64_t f = 1; f < d->w->M * d->w->N; f += 3) to[f] = 0;
}
static void dense_kernel(const lc_delta *d, double *to) {
  const int64_t N = d->w->N;
  const float *A = d->param[0]->value, *B = d->param[1]->value;
  for (int64_t r = 0; r < d->w->M; r++)
    for (int64_t c = 0; c < N; c++) {
      double x[4];
      for (int k = 0; k < 4; k++) x[k] = (double)A[k * N + c] - (double)B[r * 4 + k];
      to[r * N + c] += 0.1 * (sqrt(x[0] * x[0] + x[1] * x[1]) - sqrt(x[2] * x[2] + x[3] * x[3]));
    }
}
static void dense_noise(const lc_delta *d, double *to) {
  const lc_rng mask = {.seed = 9, .tensor = d->w->id, .purpose = LC_RNG_MASK};
  for (int step = 0; step < 2; step++) {
    const lc_rng z = {.seed = 9, .tensor = d->w->id, .step = (uint32_t)step, .purpose = LC_RNG_NOISE};
    for (int64_t f = 0; f < d->w->M * d->w->N; f++)
      if (lc_rng_uniform(&mask, (uint64_t)f) < 0.75f)
        to[f] += (step ? 0.025 : -0.05) * (double)lc_rng_normal(&z, (uint64_t)f) - 0.01 * to[f];
  }
}
static void dense_experts(const lc_delta *d, double *to) {
  const double share = 1 / (1 + exp(-0.5));
  for (int e = 0; e < EXPERTS; e++)
    dense_product(d, 2 * (e ? 1 - share : share), 2, d->param[0]->value + e * 2 * d->w->N,
                  d->param[1]->value + e * d->w->M * 2, to);
}
/* Here to is the bias. */
static void dense_bottleneck(const lc_delta *d, double *to) {
  for (int64_t c = 0; c < d->w->M; c++) {
    double u = (double)d->param[3]->value[c];
    for (int k = 0; k < 5; k++) {
      const double b = (double)d->param[1]->value[k];
      u += (double)d->param[2]->value[c * 5 + k] * b * 0.5 * erfc(-b / sqrt(2));
    }
    to[c] += 0.5 * u;
  }
}

/* ---- the table ---- */

static const char no_place[] = "cannot be applied in place", no_aside[] = "cannot be applied aside",
                  no_merge[] = "which cannot be merged";
const row rows[] = {
    {"sparse", &lc_delta_sparse, make_sparse, dense_sparse, UP, true, false, MODULES, NULL, NULL, NULL},
    {"lora", &lc_delta_lora, make_lora, dense_lora, UP, true, false, MODULES | PEFT_LORA, NULL, NULL, NULL},
    {"slice columns", &lc_delta_slice, make_columns, dense_slice, UP, true, false, MODULES, NULL, NULL, NULL},
    {"slice rows", &lc_delta_slice, make_rows, dense_slice, UP, true, false, MODULES, NULL, NULL, NULL},
    {"mask", &lc_delta_mask, make_mask, dense_mask, UP, false, true, MODULES, NULL, no_aside, NULL},
    {"kernel", &lc_delta_kernel, make_kernel, dense_kernel, UP, true, false, MODULES, NULL, NULL, NULL},
    {"noise", &lc_delta_noise, make_noise, dense_noise, UP, false, true, LOG, NULL, no_aside, NULL},
    {"route", &lc_delta_route, make_route, dense_experts, UP, false, false, MODULES, no_place, NULL,
     no_merge},
    {"experts", &lc_delta_experts, make_experts, dense_experts, UP, false, false, MODULES, no_place, NULL,
     no_merge},
    {"bottleneck", &lc_delta_bottleneck, make_bottleneck, dense_bottleneck, FFN "down_proj.bias", false,
     false, MODULES, no_place, NULL, no_merge},
};
const int n_rows = sizeof rows / sizeof *rows;
