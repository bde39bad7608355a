/* experts: low-rank products whose pair of factors a route has chosen for each token.
 *
 *   sparse gates   out_t = y_t + g_t·s·B_e·(A_e·x̃_t), e = choice_t     g: 1 (none, st), p_te (prob)
 *   dense          out_t = y_t + Σ_e p_te·s·B_e·(A_e·x̃_t)
 *   backward       u = s·B_eᵀ·dout;  dh = g·u;  dB_e += s·g·dout·hᵀ;  dA_e += dh·x̃ᵀ;  dx += drop-mask(A_eᵀ·dh)
 *                  dp_te = h·u (prob, dense);  h·u / p_te (st: g = p_te / stopgrad(p_te));  none: 0
 *
 * Shapes: A (E·R,N), B (E·M,R), s = α/R. Tokens are sorted by expert (a counting sort, stable), so an expert's tokens
 * are one pair of small products and an expert without tokens costs nothing. h (T,R; dense T,E·R) lies in that order,
 * f32. Dropout's mask is low_rank's. A product that is zero is not added, so that B = 0 leaves y's bits. */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/low_rank.h"
#include "nn/mole.h"

enum { ROWS = 64, STRIP = 64 };
enum { SLOT_X = 2, SLOT_OUT = 3, SLOT_ROW = 4, SLOT_ORDER = 5, SLOT_U = 6, SLOT_G = 7 };

static const lc_delta *delta_of(const lc_node *n) {
  return ((const lc_mole_attr *)n->attr)->delta;
}
static bool is_on(const lc_delta *d) {
  return d->scale != 0;
}

/* Tokens by expert: place i of the order, first[e] <= i < first[e+1], is row at(i). */
typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_experts_opts *o;
  const lc_delta *d;
  float s;
  bool dense;
  int64_t *first, *blocks; /* E+1 each; blocks: chunks before expert e */
  int32_t *row;            /* sparse: the rows in order */
  float *u;                /* backward: (places, R) */
} job;

static int64_t row_at(const job *j, int64_t e, int64_t i) {
  return j->dense ? i - j->first[e] : j->row[i];
}

static lc_status order(const lc_node *n, lc_run *run, job *j) {
  const lc_delta *d = delta_of(n);
  const lc_experts_opts *o = lc_delta_experts_opts(d);
  const int64_t E = o->experts, T = run->rows;
  const size_t table = (size_t)(2 * (E + 1)) * sizeof(int64_t);
  *j = (job){.n = n, .run = run, .o = o, .d = d, .dense = o->gate == LC_GATE_DENSE};
  j->s = d->scale * (float)(o->alpha / (double)o->rank);
  uint8_t *memory = lc_scratch(run->ctx, 0, SLOT_ORDER, table + (size_t)T * sizeof(int32_t));
  if (!memory) return LC_FAILED;
  memset(memory, 0, table);
  j->first = (int64_t *)(void *)memory;
  j->blocks = j->first + E + 1;
  j->row = (int32_t *)(void *)(memory + table);
  const int32_t *choice = lc_data(run, n->in[3]);
  for (int64_t t = 0; t < T && !j->dense; t++) j->first[choice[t] + 1]++;
  for (int64_t e = 0; e < E; e++) {
    const int64_t count = j->dense ? T : j->first[e + 1];
    j->first[e + 1] = j->first[e] + count;
    j->blocks[e + 1] = j->blocks[e] + lc_ceil_div(count, ROWS);
  }
  if (j->dense) return LC_OK;
  int64_t *next = lc_scratch(run->ctx, 0, SLOT_ROW, (size_t)E * sizeof *next);
  if (!next) return LC_FAILED;
  memcpy(next, j->first, (size_t)E * sizeof *next);
  for (int64_t t = 0; t < T; t++) j->row[next[choice[t]]++] = (int32_t)t;
  return LC_OK;
}

/* Chunk c is places [*i0, *i1) of expert *e. */
static void chunk_of(const job *j, int64_t c, int64_t *e, int64_t *i0, int64_t *i1) {
  for (*e = 0; j->blocks[*e + 1] <= c;) ++*e;
  *i0 = j->first[*e] + (c - j->blocks[*e]) * ROWS;
  *i1 = lc_min64(*i0 + ROWS, j->first[*e + 1]);
}

/* Columns [c0,c1) of the rows at places [i0,i1), as f32, contiguous; of x̃ or of dout. */
static float *gather(const job *j, int worker, int slot, bool input, int64_t e, int64_t i0, int64_t i1,
                     int64_t c0, int64_t c1) {
  const lc_val v = input ? j->n->in[1] : j->n->out[0];
  const void *data = input ? lc_data(j->run, v) : lc_grad(j->run, v);
  const lc_dtype dtype = input ? lc_value_dtype(j->run, v) : lc_grad_dtype(j->run, v);
  const int64_t width = input ? j->d->w->N : j->d->w->M, m = c1 - c0;
  float *to = lc_scratch(j->run->ctx, worker, slot, (size_t)((i1 - i0) * m) * sizeof *to);
  for (int64_t i = i0; to && i < i1; i++) {
    const int64_t r = row_at(j, e, i);
    float *row = to + (i - i0) * m;
    if (dtype == LC_F32)
      memcpy(row, (const float *)data + r * width + c0, (size_t)m * sizeof *row);
    else
      lc_kernels_get(j->run->ctx)->bf16_to_f32(m, (const uint16_t *)data + r * width + c0, row);
    if (input && j->run->training && j->o->dropout > 0)
      lc_input_dropout(j->run, j->d->w->id, width, (float)j->o->dropout, r, c0, m, row);
  }
  return to;
}

static float gate(const job *j, int64_t e, int64_t row) {
  if (j->o->gate != LC_GATE_PROB && !j->dense) return 1;
  return ((const float *)lc_data(j->run, j->n->in[2]))[row * j->o->experts + e];
}

/* ---- shape ---- */

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_delta *d = delta_of(n);
  const lc_experts_opts *o = lc_delta_experts_opts(d);
  const lc_value *y = lc_value_get(g, n->in[0]), *x = lc_value_get(g, n->in[1]),
                 *p = lc_value_get(g, n->in[2]);
  if (y->width != d->w->M || x->width != d->w->N || !p || p->width != o->experts)
    return lc_fail(lc_graph_ctx(g),
                   "experts on '%s' (%lld×%lld): input of %lld columns, output of %lld, %lld routes",
                   d->w->name, (long long)d->w->M, (long long)d->w->N, (long long)x->width,
                   (long long)y->width, p ? (long long)p->width : 0LL);
  LC_TRY(lc_node_out(g, n, 0, "experts", y->dtype, d->w->M));
  return lc_node_out(g, n, 1, "experts_h", LC_F32, o->rank * (o->gate == LC_GATE_DENSE ? o->experts : 1));
}

static bool trains(const lc_node *n) {
  return delta_of(n)->param[0]->wants_grad;
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  return want & (LC_PARAMS | LC_IN(1) | LC_IN(2)) ? LC_IN(1) | LC_IN(2) | LC_IN(3) | LC_OUT(1) : 0;
}

/* ---- forward ---- */

/* h = x̃·A_eᵀ of places [i0,i1), then add (rows,M) += g·s·h·B_eᵀ. */
static lc_status products(const job *j, int worker, int64_t e, int64_t i0, int64_t i1, float *add) {
  const int64_t M = j->d->w->M, N = j->d->w->N, R = j->o->rank, rows = i1 - i0;
  float *h = (float *)lc_data(j->run, j->n->out[1]) + i0 * R,
        *x = gather(j, worker, SLOT_X, true, e, i0, i1, 0, N),
        *gh = lc_scratch(j->run->ctx, worker, SLOT_U, (size_t)(rows * R) * sizeof *gh);
  if (!x || !gh) return LC_FAILED;
  lc_gemm_shape down = {.m = rows,
                        .n = R,
                        .k = N,
                        .lda = N,
                        .ldb = N,
                        .ldc = R,
                        .trans_b = true,
                        .dtype = LC_F32,
                        .c_dtype = LC_F32};
  LC_TRY(lc_gemm(j->run->ctx, worker, &down, x, j->d->param[0]->value + e * R * N, h));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t r = 0; r < R; r++) gh[i * R + r] = j->s * gate(j, e, row_at(j, e, i0 + i)) * h[i * R + r];
  lc_gemm_shape up = {.m = rows,
                      .n = M,
                      .k = R,
                      .lda = R,
                      .ldb = R,
                      .ldc = M,
                      .trans_b = true,
                      .dtype = LC_F32,
                      .c_dtype = LC_F32,
                      .beta = 1};
  return lc_gemm(j->run->ctx, worker, &up, gh, j->d->param[1]->value + e * M * R, add);
}

static lc_status add_rows(const job *j, int worker, int64_t e, int64_t i0, int64_t i1, const float *add) {
  const int64_t M = j->d->w->M;
  float *row = lc_scratch(j->run->ctx, worker, SLOT_ROW, (size_t)M * sizeof *row);
  if (!row) return LC_FAILED;
  for (int64_t i = i0; i < i1; i++) {
    const int64_t r = row_at(j, e, i);
    const float *y = lc_row_get(j->run, j->n->in[0], r, row), *t = add + (i - i0) * M;
    for (int64_t c = 0; c < M; c++) row[c] = t[c] != 0 ? y[c] + t[c] : y[c];
    lc_row_put(j->run, j->n->out[0], r, row);
  }
  return LC_OK;
}

/* Sparse: a block of one expert's tokens. Dense: a block of tokens, all experts in turn. */
static lc_status forward_chunk(void *arg, int64_t c, int worker) {
  const job *j = arg;
  const int64_t M = j->d->w->M;
  int64_t e = 0, i0 = c * ROWS, i1 = lc_min64(i0 + ROWS, j->run->rows);
  float *add = lc_scratch(j->run->ctx, worker, SLOT_OUT, (size_t)(ROWS * M) * sizeof *add);
  if (!add) return LC_FAILED;
  memset(add, 0, (size_t)(ROWS * M) * sizeof *add);
  if (!j->dense) {
    chunk_of(j, c, &e, &i0, &i1);
    LC_TRY(products(j, worker, e, i0, i1, add));
    return add_rows(j, worker, e, i0, i1, add);
  }
  for (e = 0; e < j->o->experts; e++) LC_TRY(products(j, worker, e, j->first[e] + i0, j->first[e] + i1, add));
  return add_rows(j, worker, 0, i0, i1, add);
}

static int64_t chunks(const job *j) {
  return j->dense ? lc_ceil_div(j->run->rows, ROWS) : j->blocks[j->o->experts];
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  job j;
  LC_TRY(order(n, run, &j));
  if (is_on(j.d)) return lc_parallel(run->ctx, chunks(&j), forward_chunk, &j);
  const size_t row = (size_t)j.d->w->M * (lc_value_dtype(run, n->out[0]) == LC_F32 ? 4 : 2);
  memcpy(lc_data(run, n->out[0]), lc_data(run, n->in[0]), (size_t)run->rows * row);
  memset(lc_data(run, n->out[1]), 0, (size_t)(run->rows * lc_width(run, n->out[1])) * sizeof(float));
  return LC_OK;
}

/* ---- backward ---- */

/* u of places [i0,i1), what of it goes to p (columns of dp), and dx (rows,N) += A_eᵀ·g·u. */
static lc_status back_products(const job *j, int worker, int64_t e, int64_t i0, int64_t i1, float *dp,
                               float *dx) {
  const int64_t M = j->d->w->M, N = j->d->w->N, R = j->o->rank, E = j->o->experts, rows = i1 - i0;
  const float *h = (const float *)lc_data(j->run, j->n->out[1]) + i0 * R, *p = lc_data(j->run, j->n->in[2]);
  float *u = j->u + i0 * R, *g = gather(j, worker, SLOT_G, false, e, i0, i1, 0, M);
  if (!g) return LC_FAILED;
  lc_gemm_shape s = {
      .m = rows, .n = R, .k = M, .lda = M, .ldb = R, .ldc = R, .dtype = LC_F32, .c_dtype = LC_F32};
  LC_TRY(lc_gemm(j->run->ctx, worker, &s, g, j->d->param[1]->value + e * M * R, u));
  for (int64_t i = 0; i < rows; i++) {
    const int64_t row = row_at(j, e, i0 + i);
    const float w = gate(j, e, row);
    double both = 0;
    for (int64_t r = 0; r < R; r++) {
      both += (double)h[i * R + r] * (double)(j->s * u[i * R + r]);
      u[i * R + r] *= j->s * w;
    }
    if (j->o->gate == LC_GATE_ST) both /= (double)p[row * E + e];
    dp[i * E + e] = j->o->gate == LC_GATE_NONE ? 0 : (float)both;
  }
  if (!dx) return LC_OK;
  lc_gemm_shape up = {
      .m = rows, .n = N, .k = R, .lda = R, .ldb = N, .ldc = N, .dtype = LC_F32, .c_dtype = LC_F32, .beta = 1};
  return lc_gemm(j->run->ctx, worker, &up, u, j->d->param[0]->value + e * R * N, dx);
}

static lc_status back_chunk(void *arg, int64_t c, int worker) {
  const job *j = arg;
  const int64_t N = j->d->w->N, E = j->o->experts;
  const bool want_x = j->n->want & LC_IN(1);
  int64_t e = 0, i0 = c * ROWS, i1 = lc_min64(i0 + ROWS, j->run->rows);
  float *dx = lc_scratch(j->run->ctx, worker, SLOT_OUT, (size_t)(ROWS * (N + E)) * sizeof *dx),
        *dp = dx + ROWS * N;
  if (!dx) return LC_FAILED;
  memset(dx, 0, (size_t)(ROWS * (N + E)) * sizeof *dx);
  if (!j->dense) {
    chunk_of(j, c, &e, &i0, &i1);
    LC_TRY(back_products(j, worker, e, i0, i1, dp, want_x ? dx : NULL));
  }
  for (int64_t q = 0; q < E && j->dense; q++)
    LC_TRY(back_products(j, worker, q, j->first[q] + i0, j->first[q] + i1, dp, want_x ? dx : NULL));
  for (int64_t i = i0; i < i1; i++) {
    const int64_t row = row_at(j, j->dense ? 0 : e, i);
    float *to = dx + (i - i0) * N;
    if (j->n->want & LC_IN(2)) lc_grad_row_put(j->n, j->run, 2, row, dp + (i - i0) * E);
    if (!want_x) continue;
    if (j->run->training && j->o->dropout > 0)
      lc_input_dropout(j->run, j->d->w->id, N, (float)j->o->dropout, row, 0, N, to);
    lc_grad_row_put(j->n, j->run, 1, row, to);
  }
  return LC_OK;
}

/* A strip of one expert's B (rows) or A (columns): its tokens in order, one product. u is s·g·B_eᵀ·dout. */
static lc_status back_params(void *arg, int64_t chunk, int worker) {
  const job *j = arg;
  const int64_t M = j->d->w->M, N = j->d->w->N, R = j->o->rank, sb = lc_ceil_div(M, STRIP),
                sa = lc_ceil_div(N, STRIP), e = chunk / (sa + sb), k = chunk % (sa + sb);
  const bool is_a = k >= sb;
  const int64_t c0 = (is_a ? k - sb : k) * STRIP, c1 = lc_min64(c0 + STRIP, is_a ? N : M), m = c1 - c0,
                i0 = j->first[e], n = j->first[e + 1] - i0;
  const lc_param *p = j->d->param[is_a ? 0 : 1];
  const float *h = (const float *)lc_data(j->run, j->n->out[1]) + i0 * R, *u = j->u + i0 * R;
  if (!n || !p->wants_grad) return LC_OK;
  float *v = gather(j, worker, SLOT_G, is_a, e, i0, i0 + n, c0, c1);
  if (!v) return LC_FAILED;
  for (int64_t i = 0; i < n && !is_a; i++)
    lc_kernels_get(j->run->ctx)->scale(m, j->s * gate(j, e, row_at(j, e, i0 + i)), v + i * m);
  lc_gemm_shape s = {.m = is_a ? R : m,
                     .n = is_a ? m : R,
                     .k = n,
                     .lda = is_a ? R : m,
                     .ldb = is_a ? m : R,
                     .ldc = is_a ? N : R,
                     .trans_a = true,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32,
                     .beta = 1};
  float *to = p->grad + (is_a ? e * R * N + c0 : (e * M + c0) * R);
  return lc_gemm(j->run->ctx, worker, &s, is_a ? u : v, is_a ? v : h, to);
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  job j;
  LC_TRY(order(n, run, &j));
  const int64_t E = j.o->experts, N = j.d->w->N;
  if (is_on(j.d) && n->want & (LC_PARAMS | LC_IN(1) | LC_IN(2))) {
    j.u = lc_scratch(run->ctx, 0, SLOT_U, (size_t)(j.first[E] * j.o->rank) * sizeof *j.u);
    if (!j.u) return LC_FAILED;
    LC_TRY(lc_parallel(run->ctx, chunks(&j), back_chunk, &j));
    if (n->want & LC_PARAMS)
      LC_TRY(lc_parallel(run->ctx, E * (lc_ceil_div(j.d->w->M, STRIP) + lc_ceil_div(N, STRIP)), back_params,
                         &j));
  } else if (!is_on(
                 j.d)) { /* off: nothing flows, and this node may be the one that is to store that nothing */
    float *zero = lc_scratch(run->ctx, 0, SLOT_ROW, (size_t)lc_max64(N, E) * sizeof *zero);
    if (!zero) return LC_FAILED;
    memset(zero, 0, (size_t)lc_max64(N, E) * sizeof *zero);
    for (int i = 1; i <= 2; i++)
      for (int64_t r = r0; r < r1 && n->want & n->overwrite & LC_IN(i); r++)
        lc_grad_row_put(n, run, i, r, zero);
  }
  return n->want & LC_IN(0) ? lc_grad_pass(n, run, 0, r0, r1) : LC_OK;
}

const lc_op lc_op_experts = {.name = "experts",
                             .flags = LC_OP_ROWWISE,
                             .grad_alias = 1,
                             .shape = shape,
                             .trains = trains,
                             .saves = saves,
                             .forward = forward,
                             .backward = backward};
