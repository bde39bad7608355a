/* delta_kernel: a change that two thin matrices give by distances instead of a product, so that its rank is high, and
 * that keeps its own largest entries (Shen et al., SNELL, arXiv 2411.01800; SNELLA, arXiv 2510.24037).
 *
 *   S_ji = c·(‖A_0i − B_0j‖ − ‖A_1i − B_1j‖)    c = 0.1; A (R,N), B (M,R): two halves of R/2 coordinates each
 *   V_ji = S_ji (klora, snell);  S_ji + α·p_ji + β, p_·i = softmax over outputs j of S_ji/γ (mixk, snella)
 *   δ_ji = V (klora, mixk);  V·|V|·1[|V| > τ] (snell, snella), τ the quantile of |V| at the wanted sparsity;
 *          rule paper: V·max(|V| − τ, 0)
 *
 * No entry is stored: any tile is made from A, B, the normalisers lse_i and τ. refresh makes those by streaming: lse by
 * blocks of columns, τ exactly (sparse/order.c).
 *
 * Gradient: strips of dW come from the engine. With F = dW ∘ |V|·1[…] (a constant factor) and p,
 *   dS = F + (α/γ)·p ∘ (F − k_i),  k_i = Σ_j F_ji·p_ji;   P_h = ±c·dS / D_h (0 where D_h = 0)
 *   dA_h = Σ_j P_h (A_h − B_h),  dB_h = −Σ_i P_h (A_h − B_h)
 *   dα = Σ F·p,  dβ = Σ F,  dγ = −(α/γ²)·Σ_i (Σ_j F·p·S − k_i·Σ_j p·S)
 * k_i needs all strips, and dA, dB are linear in dS: the part −(α/γ)·k_i·p is added by a second sweep without dW, once the
 * last strip has come. Each strip leaves its part of dA in a place of its own; they are added in order. */
#include "nn/delta_kernel.h"
#include "sparse/order.h"
#include <math.h>
#include <string.h>

enum { STRIP = 64, COLUMNS = 64, SLOT_ROW = 6, SLOT_SUM = 7 };
static const float C = 0.1f;
enum { A_, B_, MIX, LSE, LEVEL };

typedef struct {
  lc_kernel_opts o;
  lc_ctx *ctx;
  float *part; /* by strip: dA (R,N), k (N), t = Σ p·S (N), then 3 sums */
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
  return (d->param[A_]->rows + 2) * d->w->N + 3;
}

/* Row j, columns [c0,c1): distances D (2, cols) and S. */
static void row_of(const lc_delta *d, int64_t j, int64_t c0, int64_t c1, float *D, float *S) {
  const int64_t n = c1 - c0, N = d->w->N, R = d->param[A_]->rows, q = R / 2;
  const float *A = d->param[A_]->value, *b = d->param[B_]->value + j * R;
  for (int h = 0; h < 2; h++) {
    float *D_h = D + h * n;
    memset(D_h, 0, (size_t)n * sizeof *D_h);
    for (int64_t k = h * q; k < (h + 1) * q; k++) {
      const float *a = A + k * N + c0, v = b[k];
      for (int64_t i = 0; i < n; i++) D_h[i] += (a[i] - v) * (a[i] - v);
    }
    for (int64_t i = 0; i < n; i++) D_h[i] = sqrtf(D_h[i]);
  }
  for (int64_t i = 0; i < n; i++) S[i] = C * D[i] - C * D[n + i];
}

/* p (where there is one) and V of a row. */
static void mixed(const lc_delta *d, int64_t c0, int64_t n, const float *S, float *p, float *V) {
  const kernel_state *s = d->priv;
  if (!mixes(s)) {
    memcpy(V, S, (size_t)n * sizeof *V);
    return;
  }
  const float *lse = d->param[LSE]->value + c0, *mix = d->param[MIX]->value, g = gamma_of(d);
  for (int64_t i = 0; i < n; i++) {
    p[i] = expf(S[i] / g - lse[i]);
    V[i] = S[i] + mix[0] * p[i] + mix[2];
  }
}

/* What multiplies V (and, as a constant, its gradient). */
static float factor(const lc_delta *d, float v) {
  const float tau = d->param[LEVEL]->value[0], a = fabsf(v);
  if (!squares(d)) return 1;
  if (!(a > tau)) return 0;
  return ((const kernel_state *)d->priv)->o.rule == LC_SPARSIFY_PAPER ? a - tau : a;
}

/* ---- tiles ---- */

static lc_status patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const int64_t n = at.c1 - at.c0;
  float *row = lc_scratch(ctx, lc_worker(ctx), SLOT_ROW, (size_t)(5 * n) * sizeof *row);
  if (!row) return LC_FAILED;
  for (int64_t j = at.r0; j < at.r1; j++) {
    float *V = row + 4 * n, *to = tile + (j - at.r0) * ld;
    row_of(d, j, at.c0, at.c1, row, row + 2 * n);
    mixed(d, at.c0, n, row + 2 * n, row + 3 * n, V);
    for (int64_t i = 0; i < n; i++) {
      const float v = V[i] * factor(d, V[i]);
      if (v != 0) to[i] += d->scale * v;
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

/* log Σ_j exp(S_ji/γ) for a block of columns, rows in order. */
static lc_status lse_block(void *arg, int64_t c, int worker) {
  const refresh_arg *a = arg;
  const lc_delta *d = a->d;
  const int64_t c0 = c * COLUMNS, c1 = lc_min64(c0 + COLUMNS, d->w->N), n = c1 - c0;
  float D[2 * COLUMNS], S[COLUMNS];
  double top[COLUMNS], sum[COLUMNS];
  const float g = gamma_of(d);
  for (int64_t j = 0; j < d->w->M; j++) {
    row_of(d, j, c0, c1, D, S);
    for (int64_t i = 0; i < n; i++) {
      const double z = (double)(S[i] / g);
      if (j == 0 || z > top[i]) {
        sum[i] = j == 0 ? 1 : sum[i] * exp(top[i] - z) + 1;
        top[i] = z;
      } else {
        sum[i] += exp(z - top[i]);
      }
    }
  }
  for (int64_t i = 0; i < n; i++) d->param[LSE]->value[c0 + i] = (float)(top[i] + log(sum[i]));
  return LC_OK;
}

/* Row j of V, for its quantile. */
static lc_status row_of_V(void *arg, int64_t j, int worker, const float **V) {
  const refresh_arg *a = arg;
  const lc_delta *d = a->d;
  const int64_t N = d->w->N;
  float *row = lc_scratch(a->ctx, worker, SLOT_ROW, (size_t)(5 * N) * sizeof *row);
  if (!row) return LC_FAILED;
  row_of(d, j, 0, N, row, row + 2 * N);
  mixed(d, 0, N, row + 2 * N, row + 3 * N, row + 4 * N);
  *V = row + 4 * N;
  return LC_OK;
}

lc_status lc_delta_kernel_refresh(lc_ctx *ctx, lc_delta *d, double sparsity) {
  refresh_arg a = {.ctx = ctx, .d = d};
  float *level = d->param[LEVEL]->value, v[2];
  level[1] = (float)sparsity;
  if (mixes(d->priv)) LC_TRY(lc_parallel(ctx, lc_ceil_div(d->w->N, COLUMNS), lse_block, &a));
  if (!squares(d)) return LC_OK;
  const double at = sparsity * (double)(d->w->M * d->w->N - 1);
  const int64_t rank[2] = {(int64_t)floor(at), (int64_t)ceil(at)};
  LC_TRY(lc_abs_order(ctx, d->w->M, d->w->N, row_of_V, &a, rank, v));
  level[0] = (float)((double)v[0] + (at - floor(at)) * ((double)v[1] - (double)v[0]));
  return LC_OK;
}

/* ---- gradient ---- */

/* One strip: F from dW (sweep 1), or −(α/γ)·k_i·p in dS's place (sweep 2, dw NULL). */
static lc_status strip(lc_delta *d, int worker, int64_t j0, int64_t j1, const float *dw, int64_t ld,
                       const float *k_all) {
  kernel_state *s = d->priv;
  const int64_t N = d->w->N, R = d->param[A_]->rows, q = R / 2;
  const float *mix = d->param[MIX]->value, g = gamma_of(d), *A = d->param[A_]->value;
  float *row = lc_scratch(s->ctx, worker, SLOT_ROW, (size_t)(6 * N) * sizeof *row), *S = row + 2 * N,
        *p = row + 3 * N, *V = row + 4 * N, *dS = row + 5 * N;
  float *dA = s->part + j0 / STRIP * part_size(d), *k_sum = dA + R * N, *t_sum = k_sum + N, *sums = t_sum + N;
  if (!row) return LC_FAILED;
  double dalpha = 0, dbeta = 0, dgamma = 0;
  for (int64_t j = j0; j < j1; j++) {
    const float *b = d->param[B_]->value + j * R;
    float *db = d->param[B_]->grad + j * R;
    row_of(d, j, 0, N, row, S);
    mixed(d, 0, N, S, p, V);
    for (int64_t i = 0; i < N; i++) {
      if (!dw) {
        dS[i] = -(mix[0] / g) * k_all[i] * p[i];
        continue;
      }
      const float F = dw[(j - j0) * ld + i] * factor(d, V[i]) * d->scale;
      dS[i] = F;
      if (!mixes(s)) continue;
      dS[i] += mix[0] / g * p[i] * F;
      k_sum[i] += F * p[i];
      t_sum[i] += p[i] * S[i];
      dalpha += (double)F * (double)p[i];
      dbeta += (double)F;
      dgamma += (double)F * (double)p[i] * (double)S[i];
    }
    for (int h = 0; h < 2; h++) {
      float *P = row + h * N; /* D_h becomes P_h */
      for (int64_t i = 0; i < N; i++) P[i] = P[i] > 0 ? (h ? -C : C) * dS[i] / P[i] : 0;
      for (int64_t r = h * q; r < (h + 1) * q; r++) {
        double sum = 0;
        for (int64_t i = 0; i < N; i++) {
          const float v = P[i] * (A[r * N + i] - b[r]);
          dA[r * N + i] += v;
          sum += (double)v;
        }
        db[r] -= (float)sum;
      }
    }
  }
  sums[0] += (float)dalpha;
  sums[1] += (float)dgamma;
  sums[2] += (float)dbeta;
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

/* All strips of a use have come: sums in order, and the second sweep. */
static lc_status take_end(void *self, lc_weight *w) {
  lc_delta *d = self;
  kernel_state *s = d->priv;
  const int64_t N = w->N, R = d->param[A_]->rows, strips = lc_ceil_div(w->M, STRIP), size = part_size(d);
  float *first = s->part;
  if (mixes(s)) {
    const float *mix = d->param[MIX]->value, g = gamma_of(d);
    float *dmix = d->param[MIX]->grad, *k = first + R * N, *t = k + N, *sums = t + N;
    for (int64_t c = 1; c < strips; c++)
      for (int64_t i = 0; i < 2 * N + 3; i++) k[i] += s->part[c * size + R * N + i];
    double cross = 0;
    for (int64_t i = 0; i < N; i++) cross += (double)k[i] * (double)t[i];
    dmix[0] += sums[0];
    dmix[1] -= mix[0] / (g * g) * (sums[1] - (float)cross);
    dmix[2] += sums[2];
    sweep_arg a = {d, k};
    LC_TRY(lc_parallel(s->ctx, strips, second_sweep, &a));
  }
  for (int64_t c = 0; c < strips; c++)
    for (int64_t i = 0; i < R * N; i++) d->param[A_]->grad[i] += s->part[c * size + i];
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
