/* delta_kernel: a change that two thin matrices give by distances instead of a product, so that its rank is high, and
 * that keeps its own largest entries (Shen et al., SNELL, arXiv 2411.01800; SNELLA, arXiv 2510.24037).
 *
 *   S_ji = c·(‖A_0i − B_0j‖ − ‖A_1i − B_1j‖)    c = 0.1; A (R,N), B (M,R): two halves of R/2 coordinates each
 *   V_ji = S_ji (klora, snell);  S_ji + α·p_ji + β, p_·i = softmax over outputs j of S_ji/γ (mixk, snella)
 *   δ_ji = V (klora, mixk);  V·|V|·1[|V| > τ] (snell, snella), τ the quantile of |V| at the wanted sparsity;
 *          rule paper: V·max(|V| − τ, 0)
 *
 * No entry is stored: any tile is made from A, B, the normalisers lse_i and τ (kernels/scalar/distances.h). refresh makes those by streaming: blocks of
 * columns are made once for lse and for the first of the two sweeps that τ takes (sparse/order.c), again for the second.
 *
 * Gradient: strips of dW come from the engine. With F = dW ∘ |V|·1[…] (a constant factor) and p,
 *   dS = F + (α/γ)·p ∘ (F − k_i),  k_i = Σ_j F_ji·p_ji;   P_h = ±c·dS / D_h (0 where D_h = 0)
 *   dA_h = Σ_j P_h (A_h − B_h),  dB_h = −Σ_i P_h (A_h − B_h)
 *   dα = Σ_i k_i,  dβ = Σ F,  dγ = −(α/γ²)·Σ_i (Σ_j F·p·S − k_i·Σ_j p·S)
 * k_i needs all strips, and dA, dB are linear in dS: the part −(α/γ)·k_i·p is added by a second sweep without dW, once the
 * last strip has come. Each strip leaves its part of dA in a place of its own; they are added in order. */
#include "nn/delta_kernel.h"
#include "kernels/kernels.h"
#include "sparse/order.h"
#include <math.h>
#include <string.h>

enum { STRIP = 64, SLOT_BLOCK = 6, SLOT_SUM = 7 };
/* What is made at a time: rows and columns of a tile, which stay in the first-level cache with these columns of A and dA; columns of all rows for
 * lse and τ, in the second-level cache; numbers of dA that are summed over strips. */
enum { ROWS = 4, WIDE = 128, COLUMNS = 32, PIECE = 4096 };
static const float C = 0.1f;
enum { A_, B_, MIX, LSE, LEVEL };

typedef struct {
  lc_kernel_opts o;
  lc_ctx *ctx;
  float *part; /* by strip: dA (R,N), k (N), t = Σ p·S (N), then Σ F·p·S and Σ F */
} kernel_state;

static bool mixes(const kernel_state *s) {
  return s->o.variant == LC_KERNEL_MIXK || s->o.variant == LC_KERNEL_SNELLA;
}
/* snell at sparsity 0 is klora: as the authors' code has it. */
static bool squares(const lc_delta *d) {
  const kernel_state *s = d->priv;
  return s->o.variant == LC_KERNEL_SNELLA ||
         (s->o.variant == LC_KERNEL_SNELL && d->param[LEVEL]->value[1] > 0);
}
static float gamma_of(const lc_delta *d) {
  const float g = d->param[MIX]->value[1];
  return fabsf(g) >= 1e-3f ? g : g < 0 ? -1e-3f : 1e-3f;
}
static int64_t part_size(const lc_delta *d) {
  return (d->param[A_]->rows + 2) * d->w->N + 2;
}

/* S of rows [j,j+m), columns [c,c+n), and their distances D (2,m,n) where wanted. */
static void gaps(lc_ctx *ctx, const lc_delta *d, int64_t j, int64_t m, int64_t c, int64_t n, float *D,
                 float *S) {
  const int64_t R = d->param[A_]->rows;
  lc_kernels_get(ctx)->distances(m, n, R, C, d->param[B_]->value + j * R, d->param[A_]->value + c, d->w->N, D,
                                 S);
}

/* V from S, and p where wanted. Only where there is a softmax: else V is S. */
static void mixed(lc_ctx *ctx, const lc_delta *d, int64_t m, int64_t c, int64_t n, const float *S, float *p,
                  float *V) {
  const float *mix = d->param[MIX]->value;
  lc_kernels_get(ctx)->softmax_add(m, n, 1 / gamma_of(d), mix[0], mix[2], d->param[LSE]->value + c, S, p, V);
}

/* y = s·x·factor, the factor of V that is a constant to its gradient: |V|·1[|V| > τ], |V| − τ there. */
static void times_factor(lc_ctx *ctx, const lc_delta *d, int64_t n, float s, const float *V, const float *x,
                         float *y) {
  const float tau = d->param[LEVEL]->value[0];
  const bool paper = ((const kernel_state *)d->priv)->o.rule == LC_SPARSIFY_PAPER;
  lc_kernels_get(ctx)->times_kept(n, s, tau, paper ? tau : 0, V, x, y);
}

/* ---- tiles ---- */

static lc_status patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const lc_kernels *kernels = lc_kernels_get(ctx);
  float *V = lc_scratch(ctx, lc_worker(ctx), SLOT_BLOCK, (size_t)(ROWS * WIDE) * sizeof *V);
  if (!V) return LC_FAILED;
  for (int64_t c = at.c0; c < at.c1; c += WIDE)
    for (int64_t j = at.r0; j < at.r1; j += ROWS) {
      const int64_t n = lc_min64(WIDE, at.c1 - c), m = lc_min64(ROWS, at.r1 - j);
      gaps(ctx, d, j, m, c, n, NULL, V);
      if (mixes(d->priv)) mixed(ctx, d, m, c, n, V, NULL, V);
      if (squares(d)) times_factor(ctx, d, m * n, 1, V, V, V);
      for (int64_t r = 0; r < m; r++) {
        float *to = tile + (j - at.r0 + r) * ld + c - at.c0;
        kernels->add_nonzero(n, d->scale, V + r * n, to, to);
      }
    }
  return LC_OK;
}

static lc_status aside(lc_ctx *ctx, const lc_delta *d, int64_t r0, int64_t r1, const float *x, float *y) {
  const int64_t N = d->w->N;
  float *row = lc_scratch(ctx, lc_worker(ctx), SLOT_SUM, (size_t)N * sizeof *row);
  if (!row) return LC_FAILED;
  for (int64_t j = r0; j < r1; j++) {
    double sum = 0;
    memset(row, 0, (size_t)N * sizeof *row);
    LC_TRY(patch(ctx, d, (lc_rect){j, j + 1, 0, N}, row, N));
    for (int64_t i = 0; i < N; i++) sum += (double)row[i] * (double)x[i];
    y[j - r0] += (float)sum;
  }
  return LC_OK;
}

/* ---- refresh ---- */

typedef struct {
  lc_ctx *ctx;
  lc_delta *d;
} refresh_arg;

/* V of a block of columns, all rows; in the first sweep after its lse. */
static lc_status columns_of_V(void *arg, int64_t c, int sweep, int worker, const float **V, int64_t *n) {
  const refresh_arg *a = arg;
  const lc_delta *d = a->d;
  const int64_t M = d->w->M, c0 = c * COLUMNS, cols = lc_min64(COLUMNS, d->w->N - c0);
  float *S = lc_scratch(a->ctx, worker, SLOT_BLOCK, (size_t)(M * COLUMNS) * sizeof *S);
  if (!S) return LC_FAILED;
  gaps(a->ctx, d, 0, M, c0, cols, NULL, S);
  if (mixes(d->priv)) {
    if (sweep == 0)
      lc_kernels_get(a->ctx)->column_lse(M, cols, 1 / gamma_of(d), S, d->param[LSE]->value + c0);
    mixed(a->ctx, d, M, c0, cols, S, NULL, S);
  }
  *V = S, *n = M * cols;
  return LC_OK;
}

static lc_status only_lse(void *arg, int64_t c, int worker) {
  const float *V;
  int64_t n;
  return columns_of_V(arg, c, 0, worker, &V, &n);
}

lc_status lc_delta_kernel_refresh(lc_ctx *ctx, lc_delta *d, double sparsity) {
  refresh_arg a = {.ctx = ctx, .d = d};
  float *level = d->param[LEVEL]->value, v[2];
  level[1] = (float)sparsity;
  const int64_t blocks = lc_ceil_div(d->w->N, COLUMNS);
  if (!squares(d)) return mixes(d->priv) ? lc_parallel(ctx, blocks, only_lse, &a) : LC_OK;
  const double at = sparsity * (double)(d->w->M * d->w->N - 1);
  const int64_t rank[2] = {(int64_t)floor(at), (int64_t)ceil(at)};
  LC_TRY(lc_abs_order(ctx, blocks, columns_of_V, &a, rank, v));
  level[0] = (float)((double)v[0] + (at - floor(at)) * ((double)v[1] - (double)v[0]));
  return LC_OK;
}

/* ---- gradient ---- */

/* m rows and n columns of a strip: F from dW (sweep 1), or −(α/γ)·k_i·p in dS's place (sweep 2, dw NULL). part: the strip's, from column c on. */
static void strip_block(lc_delta *d, float *scratch, int64_t j, int64_t m, int64_t c, int64_t n,
                        const float *dw, int64_t ld, const float *k_all, float *part, double sum[2]) {
  kernel_state *s = d->priv;
  const lc_kernels *kernels = lc_kernels_get(s->ctx);
  const int64_t N = d->w->N, R = d->param[A_]->rows, size = m * n;
  const float *mix = d->param[MIX]->value, slope = 1 / gamma_of(d);
  float *D = scratch, *S = D + 2 * size, *p = S + size, *V = mixes(s) ? p + size : S, *dS = p + 2 * size;
  gaps(s->ctx, d, j, m, c, n, D, S);
  if (mixes(s)) mixed(s->ctx, d, m, c, n, S, p, V);
  for (int64_t r = 0; r < m; r++) {
    const float *from = dw ? dw + r * ld : NULL, *p_r = p + r * n;
    float *to = dS + r * n;
    if (!dw)
      for (int64_t i = 0; i < n; i++) to[i] = -(mix[0] * slope) * k_all[c + i] * p_r[i];
    else if (squares(d))
      times_factor(s->ctx, d, n, d->scale, V + r * n, from, to);
    else
      for (int64_t i = 0; i < n; i++) to[i] = d->scale * from[i];
  }
  if (dw && mixes(s))
    kernels->softmax_add_back(m, n, slope, mix[0], p, S, dS, dS, part + R * N, part + (R + 1) * N, sum);
  kernels->distances_back(m, n, R, C, d->param[B_]->value + j * R, d->param[A_]->value + c, N, D, dS, part, N,
                          d->param[B_]->grad + j * R);
}

static lc_status strip(lc_delta *d, int worker, int64_t j0, int64_t j1, const float *dw, int64_t ld,
                       const float *k_all) {
  kernel_state *s = d->priv;
  const int64_t N = d->w->N, R = d->param[A_]->rows;
  float *scratch = lc_scratch(s->ctx, worker, SLOT_BLOCK, (size_t)(6 * ROWS * WIDE) * sizeof *scratch);
  float *part = s->part + j0 / STRIP * part_size(d), *sums = part + (R + 2) * N;
  double sum[2] = {0};
  if (!scratch) return LC_FAILED;
  for (int64_t c = 0; c < N; c += WIDE)
    for (int64_t j = j0; j < j1; j += ROWS)
      strip_block(d, scratch, j, lc_min64(ROWS, j1 - j), c, lc_min64(WIDE, N - c),
                  dw ? dw + (j - j0) * ld + c : NULL, ld, k_all, part + c, sum);
  for (int i = 0; i < 2; i++) sums[i] += (float)sum[i];
  return LC_OK;
}

static lc_status take_tile(void *self, lc_weight *w, const lc_tile *t) {
  return strip(self, t->worker, t->at.r0, t->at.r1, t->dw, t->ld, NULL);
}

typedef struct {
  lc_delta *d;
  const float *k;
} sweep_arg;
static lc_status second_sweep(void *arg, int64_t c, int worker) {
  const sweep_arg *a = arg;
  return strip(a->d, worker, c * STRIP, lc_min64(c * STRIP + STRIP, a->d->w->M), NULL, 0, a->k);
}

/* A piece of dA over all strips. */
static lc_status sum_piece(void *arg, int64_t piece, int worker) {
  const sweep_arg *a = arg;
  const lc_delta *d = a->d;
  const int64_t n = d->param[A_]->n, strips = lc_ceil_div(d->w->M, STRIP), from = piece * PIECE;
  float *grad = d->param[A_]->grad;
  for (int64_t c = 0; c < strips; c++) {
    const float *part = ((const kernel_state *)d->priv)->part + c * part_size(d);
    for (int64_t i = from; i < lc_min64(from + PIECE, n); i++) grad[i] += part[i];
  }
  return LC_OK;
}

/* All strips of a use have come: sums in order, and the second sweep. */
static lc_status take_end(void *self, lc_weight *w) {
  lc_delta *d = self;
  kernel_state *s = d->priv;
  const int64_t N = w->N, R = d->param[A_]->rows, strips = lc_ceil_div(w->M, STRIP), size = part_size(d);
  float *k = s->part + R * N, *t = k + N, *sums = t + N;
  sweep_arg a = {d, k};
  if (mixes(s)) {
    const float *mix = d->param[MIX]->value, g = gamma_of(d);
    float *dmix = d->param[MIX]->grad;
    for (int64_t c = 1; c < strips; c++)
      for (int64_t i = 0; i < 2 * N + 2; i++) k[i] += k[c * size + i];
    double cross = 0, all = 0;
    for (int64_t i = 0; i < N; i++) {
      cross += (double)k[i] * (double)t[i];
      all += (double)k[i];
    }
    dmix[0] += (float)all;
    dmix[1] -= mix[0] / (g * g) * (sums[0] - (float)cross);
    dmix[2] += sums[1];
    LC_TRY(lc_parallel(s->ctx, strips, second_sweep, &a));
  }
  LC_TRY(lc_parallel(s->ctx, lc_ceil_div(R * N, PIECE), sum_piece, &a));
  memset(s->part, 0, (size_t)(strips * size) * sizeof *s->part);
  return LC_OK;
}

/* ---- the delta ---- */

static lc_status visit(lc_delta *d, lc_visitor *v) {
  for (int i = 0; i < d->n_param; i++) LC_TRY(lc_param_visit(d->param[i], v));
  return LC_OK;
}

static int64_t nonzeros(const lc_delta *d) {
  return d->param[A_]->n + d->param[B_]->n + d->param[MIX]->n;
}

static void kernel_free(lc_ctx *ctx, lc_delta *d) {
  if (!d) return;
  lc_weight_remove_sink(d->w, d);
  if (d->priv) lc_free(ctx, ((kernel_state *)d->priv)->part);
  lc_delta_free(ctx, d);
}

const lc_delta_ops lc_delta_kernel = {.name = "kernel",
                                      .mergeable = true,
                                      .patch = patch,
                                      .aside = aside,
                                      .visit = visit,
                                      .nonzeros = nonzeros,
                                      .free = kernel_free};

/* U(±1/√(len·R/2)). */
static void uniform(lc_param *p, int64_t len, const lc_kernel_opts *o, uint32_t id, uint16_t draw) {
  const lc_rng rng = {.seed = (uint64_t)o->seed, .tensor = id, .draw = draw, .purpose = LC_RNG_INIT};
  const float bound = 1 / sqrtf((float)(len * (o->rank / 2)));
  lc_rng_uniform_fill(&rng, 0, p->n, p->value);
  for (int64_t k = 0; k < p->n; k++) p->value[k] = (2 * p->value[k] - 1) * bound;
}

lc_status lc_delta_kernel_new(lc_ctx *ctx, lc_weight *w, const lc_kernel_opts *o, bool trainable,
                              lc_delta **out) {
  lc_status st = LC_OK;
  *out = NULL;
  if (o->rank < 2 || o->rank % 2)
    return lc_fail(ctx, "'%s': a kernel of rank %lld: an even number is needed, half for each distance",
                   w->name, (long long)o->rank);
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  kernel_state *s = lc_alloc(ctx, LC_MEM_OTHER, sizeof *s);
  if (!d || !s) {
    lc_free(ctx, d);
    lc_free(ctx, s);
    return LC_FAILED;
  }
  *d = (lc_delta){.ops = &lc_delta_kernel, .w = w, .scale = 1, .apply = LC_PATCH, .priv = s};
  *s = (kernel_state){.o = *o, .ctx = ctx};
  LC_GO(lc_delta_param(ctx, d, "kernel_A", o->rank, w->N, trainable));
  LC_GO(lc_delta_param(ctx, d, "kernel_B", w->M, o->rank, trainable));
  LC_GO(lc_delta_param(ctx, d, "kernel_mix", 1, 3, trainable));
  LC_GO(lc_delta_param(ctx, d, "kernel_lse", 1, w->N, false));
  LC_GO(lc_delta_param(ctx, d, "kernel_level", 1, 2, false));
  uniform(d->param[A_], w->N, o, w->id, 0);
  uniform(d->param[B_], w->M, o, w->id, 1);
  memcpy(d->param[MIX]->value, (const float[]){1, 1, 0}, 3 * sizeof(float));
  d->param[MIX]->decays = false;
  if (trainable) {
    d->param[MIX]->wants_grad = mixes(s);
    s->part =
        lc_alloc_n(ctx, LC_MEM_GRAD, (size_t)(lc_ceil_div(w->M, STRIP) * part_size(d)), sizeof *s->part);
    if (!s->part) LC_GO(LC_FAILED);
    LC_GO(lc_weight_add_sink(
        ctx, w,
        (lc_sink){
            .kind = LC_SINK_TILES, .param = d->param[A_], .tile = take_tile, .end = take_end, .self = d}));
  }
  *out = d;
  d = NULL;
done:
  kernel_free(ctx, d);
  return st;
}

lc_status lc_delta_kernel_sparse(lc_ctx *ctx, const lc_delta *d, lc_delta **out) {
  const int64_t M = d->w->M, N = d->w->N;
  lc_index idx = {0};
  lc_status st = LC_OK;
  int64_t n = 0, *flat = NULL;
  float *value = NULL, *row = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)N, sizeof *row);
  if (!row) return LC_FAILED;
  for (int pass = 0; pass < 2; pass++) {
    if (pass) {
      flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *flat);
      value = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *value);
      if (!flat || !value) LC_GO(LC_FAILED);
    }
    n = 0;
    for (int64_t j = 0; j < M; j++) {
      memset(row, 0, (size_t)N * sizeof *row);
      LC_GO(patch(ctx, d, (lc_rect){j, j + 1, 0, N}, row, N));
      for (int64_t i = 0; i < N; i++) {
        if (row[i] == 0) continue;
        if (pass) flat[n] = j * N + i, value[n] = row[i];
        n++;
      }
    }
    if (!n) LC_GO(lc_fail(ctx, "'%s': the change has no entry left", d->w->name));
  }
  LC_GO(lc_index_new(ctx, M, N, flat, n, &idx));
  LC_GO(lc_delta_sparse_new(ctx, d->w, &idx, value, false, out));
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, flat);
  lc_free(ctx, value);
  lc_free(ctx, row);
  return st;
}

/* ---- as adapter files keep it ---- */

static const lc_option file_options[] = {
    {"rank", LC_OPT_INT, offsetof(lc_kernel_opts, rank), "2", 2, 65536, NULL, "N",
     "coordinates, both halves"},
    {"variant", LC_OPT_CHOICE, offsetof(lc_kernel_opts, variant), "snella", 0, 0, "klora|mixk|snell|snella",
     NULL, "variant"},
    {"rule", LC_OPT_CHOICE, offsetof(lc_kernel_opts, rule), "code", 0, 0, "code|paper", NULL,
     "how entries are kept"},
    {0},
};
static const void *file_text(const lc_delta *d) {
  return &((const kernel_state *)d->priv)->o;
}
static lc_status make(lc_ctx *ctx, lc_weight *w, const void *o, lc_delta *const *made, int n, bool trainable,
                      lc_delta **out) {
  return lc_delta_kernel_new(ctx, w, o, trainable, out);
}
static const char *const names[] = {"A", "B", "mix", "lse", "level"};
extern const lc_delta_kind lc_kind_kernel;
const lc_delta_kind lc_kind_kernel = {
    &lc_delta_kernel, file_options, sizeof(lc_kernel_opts), names, file_text, make, NULL, NULL};
