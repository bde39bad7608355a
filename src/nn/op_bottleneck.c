/* bottleneck: an adapter beside a block's FFN.
 *
 *   forward    a = LN(x) (AdaptFormer), or x − minus (Pfeiffer: the FFN's own output)      x, y (T,C) f32
 *              u = a·Dᵀ + b_D;  z = drop(act(u));  out = y + scale·(z·Uᵀ + b_U)            D (b,C), U (C,b)
 *   backward   dv = scale·dout;  dU += dvᵀ·z, db_U += Σ dv;  dz = dv·U;  du = act'(u)·mask∘dz
 *              dD += duᵀ·a, db_D += Σ du;  da = du·D, through the norm to x, or to x and −minus
 *
 * act: GELU (erf) for AdaptFormer, ReLU for Pfeiffer. u (T,b) and the norm's statistics are kept; a and z are made again.
 * With two draws (lc_run.copies = 2) each half of the rows has factors, and entries with a gradient, of its own. What is
 * zero is not added, so that U = 0 leaves y's bits. (AdaptFormer: Chen et al. 2022, arXiv 2205.13535; Pfeiffer et al.
 * 2021, arXiv 2005.00247.) */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/bottleneck.h"
#include "nn/low_rank.h"

enum { ROWS = 64, STRIP = 32, SLOT_A = 2, SLOT_Z = 3, SLOT_OUT = 4, SLOT_ALL = 5, SLOT_PART = 6 };
enum { DOWN, DOWN_BIAS, UP, UP_BIAS, NORM, NORM_BIAS };
static const float EPS = 1e-5f;

typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_delta *d;
  const lc_bottleneck_opts *o;
  const lc_bottleneck_view *view;
  int64_t C, b, half; /* rows of a draw */
  float *a, *z, *du;  /* backward: (T,C), (T,b), (T,b) */
  float *parts;       /* backward: of norm weight and bias, a chunk each */
} job;

static job open(const lc_node *n, lc_run *run) {
  lc_delta *d = ((const lc_bottleneck_attr *)n->attr)->delta;
  job j = {.n = n, .run = run, .d = d, .o = lc_delta_bottleneck_opts(d), .view = lc_delta_bottleneck_view(d)};
  j.C = d->param[DOWN]->cols;
  j.b = d->param[DOWN]->rows;
  j.half = run->copies == 2 ? run->rows / 2 : run->rows;
  return j;
}

static const float *factor(const job *j, int which, int draw) {
  const float *v = j->run->training ? j->view->draw[draw][which] : j->view->merged[which];
  return v ? v : j->d->param[which ? UP : DOWN]->value;
}
static bool has_norm(const job *j) {
  return j->o->style == LC_STYLE_ADAPTFORMER;
}
/* Chunks do not cross from one draw into the other. */
static int64_t chunks(const job *j) {
  return lc_ceil_div(j->half, ROWS) * (j->run->rows / j->half);
}
static void rows_of(const job *j, int64_t chunk, int64_t *r0, int64_t *r1, int *draw) {
  const int64_t each = lc_ceil_div(j->half, ROWS);
  *draw = (int)(chunk / each);
  *r0 = *draw * j->half + chunk % each * ROWS;
  *r1 = lc_min64(*r0 + ROWS, (*draw + 1) * j->half);
}

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_delta *d = ((const lc_bottleneck_attr *)n->attr)->delta;
  const lc_value *y = lc_value_get(g, n->in[0]), *x = lc_value_get(g, n->in[1]),
                 *m = lc_value_get(g, n->in[2]);
  if (!y || !x || y->width != d->param[DOWN]->cols || x->width != y->width || (m && m->width != y->width) ||
      y->dtype != LC_F32 || x->dtype != LC_F32 || (m && m->dtype != LC_F32))
    return lc_fail(lc_graph_ctx(g), "bottleneck at '%s': its values must be f32 of %lld columns", d->w->name,
                   (long long)d->param[DOWN]->cols);
  LC_TRY(lc_node_out(g, n, 0, "bottleneck", LC_F32, y->width));
  LC_TRY(lc_node_out(g, n, 1, "bottleneck_u", LC_F32, d->param[DOWN]->rows));
  return lc_node_out(g, n, 2, "bottleneck_statistics", LC_F32, 2);
}

static bool trains(const lc_node *n) {
  return ((const lc_bottleneck_attr *)n->attr)->delta->param[0]->wants_grad;
}
static uint32_t saves(const lc_node *n, uint32_t want) {
  return want & ~LC_IN(0) ? LC_IN(1) | LC_IN(2) | LC_OUT(1) | LC_OUT(2) : 0;
}

/* a of a row; the norm's statistics are written in forward, and the same again later. */
static void input_row(const job *j, int64_t r, float *a) {
  const float *x = (const float *)lc_data(j->run, j->n->in[1]) + r * j->C;
  const float *minus = j->n->in[2].id ? (const float *)lc_data(j->run, j->n->in[2]) + r * j->C : NULL;
  float *s = (float *)lc_data(j->run, j->n->out[2]) + 2 * r;
  if (has_norm(j))
    lc_kernels_get(j->run->ctx)
        ->layernorm(j->C, EPS, x, j->d->param[NORM]->value, j->d->param[NORM_BIAS]->value, a, &s[0], &s[1]);
  else
    for (int64_t c = 0; c < j->C; c++) a[c] = minus ? x[c] - minus[c] : x[c];
}

static void activate(const job *j, int64_t r, const float *u, float *z) {
  if (has_norm(j))
    lc_kernels_get(j->run->ctx)->gelu_erf(j->b, u, z);
  else
    for (int64_t i = 0; i < j->b; i++) z[i] = u[i] > 0 ? u[i] : 0;
  if (j->run->training && j->o->dropout > 0)
    lc_input_dropout(j->run, j->d->w->id, j->b, (float)j->o->dropout, r, 0, j->b, z);
}

static lc_status product(const job *j, int worker, int64_t rows, int64_t n, int64_t k, bool trans_b,
                         const float *x, const float *w, float *out) {
  lc_gemm_shape s = {.m = rows,
                     .n = n,
                     .k = k,
                     .lda = k,
                     .ldb = trans_b ? k : n,
                     .ldc = n,
                     .trans_b = trans_b,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32};
  return lc_gemm(j->run->ctx, worker, &s, x, w, out);
}

static lc_status forward_chunk(void *arg, int64_t chunk, int worker) {
  const job *j = arg;
  int64_t r0, r1;
  int draw;
  rows_of(j, chunk, &r0, &r1, &draw);
  const int64_t rows = r1 - r0, C = j->C, b = j->b;
  float *a = lc_scratch(j->run->ctx, worker, SLOT_A, (size_t)(ROWS * C) * sizeof *a),
        *z = lc_scratch(j->run->ctx, worker, SLOT_Z, (size_t)(ROWS * b) * sizeof *z),
        *v = lc_scratch(j->run->ctx, worker, SLOT_OUT, (size_t)(ROWS * C) * sizeof *v);
  float *u = (float *)lc_data(j->run, j->n->out[1]) + r0 * b, *out = lc_data(j->run, j->n->out[0]);
  const float *y = lc_data(j->run, j->n->in[0]), *bd = j->d->param[DOWN_BIAS]->value,
              *bu = j->d->param[UP_BIAS]->value;
  const float scale = j->d->scale * (float)j->o->scale;
  if (!a || !z || !v) return LC_FAILED;
  for (int64_t r = 0; r < rows; r++) input_row(j, r0 + r, a + r * C);
  LC_TRY(product(j, worker, rows, b, C, true, a, factor(j, 0, draw), u));
  for (int64_t r = 0; r < rows; r++) {
    lc_kernels_get(j->run->ctx)->add(b, u + r * b, bd, u + r * b);
    activate(j, r0 + r, u + r * b, z + r * b);
  }
  LC_TRY(product(j, worker, rows, C, b, true, z, factor(j, 1, draw), v));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < C; c++) {
      const float add = scale * (v[r * C + c] + bu[c]);
      out[(r0 + r) * C + c] = add != 0 ? y[(r0 + r) * C + c] + add : y[(r0 + r) * C + c];
    }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  job j = open(n, run);
  return lc_parallel(run->ctx, chunks(&j), forward_chunk, &j);
}

/* ---- backward ---- */

static lc_status back_chunk(void *arg, int64_t chunk, int worker) {
  const job *j = arg;
  int64_t r0, r1;
  int draw;
  rows_of(j, chunk, &r0, &r1, &draw);
  const lc_kernels *k = lc_kernels_get(j->run->ctx);
  const int64_t rows = r1 - r0, C = j->C, b = j->b;
  const float scale = j->d->scale * (float)j->o->scale,
              *dout = (const float *)lc_grad(j->run, j->n->out[0]) + r0 * C,
              *u = (const float *)lc_data(j->run, j->n->out[1]) + r0 * b, *s = lc_data(j->run, j->n->out[2]);
  float *du = j->du + r0 * b,
        *da = lc_scratch(j->run->ctx, worker, SLOT_OUT, (size_t)((ROWS + 1) * C) * sizeof *da),
        *dx = da + ROWS * C, *dw = has_norm(j) ? j->parts + chunk * 2 * C : NULL;
  if (!da) return LC_FAILED;
  LC_TRY(product(j, worker, rows, b, C, false, dout, factor(j, 1, draw), du));
  for (int64_t r = 0; r < rows; r++) {
    float *d = du + r * b;
    input_row(j, r0 + r, j->a + (r0 + r) * C);
    activate(j, r0 + r, u + r * b, j->z + (r0 + r) * b);
    k->scale(b, scale, d);
    if (j->o->dropout > 0) lc_input_dropout(j->run, j->d->w->id, b, (float)j->o->dropout, r0 + r, 0, b, d);
    if (has_norm(j))
      k->gelu_erf_back(b, u + r * b, d, d);
    else
      for (int64_t i = 0; i < b; i++) d[i] = u[r * b + i] > 0 ? d[i] : 0;
  }
  LC_TRY(product(j, worker, rows, C, b, false, du, factor(j, 0, draw), da));
  for (int64_t r = 0; r < rows; r++) {
    float *to = da + r * C;
    if (has_norm(j)) {
      k->layernorm_back(C, (const float *)lc_data(j->run, j->n->in[1]) + (r0 + r) * C,
                        j->d->param[NORM]->value, s[2 * (r0 + r)], s[2 * (r0 + r) + 1], to, 0, dx, dw,
                        dw + C);
      to = dx;
    }
    if (j->n->want & LC_IN(1)) lc_grad_row_put(j->n, j->run, 1, r0 + r, to);
    if (!(j->n->want & LC_IN(2))) continue;
    k->scale(C, -1, to);
    lc_grad_row_put(j->n, j->run, 2, r0 + r, to);
  }
  return LC_OK;
}

/* A strip of the b rows of D and of the b columns of U, draws in turn: rows of tokens in order. */
static lc_status back_params(void *arg, int64_t chunk, int worker) {
  const job *j = arg;
  const int64_t C = j->C, b = j->b, c0 = chunk * STRIP, m = lc_min64(STRIP, C - c0);
  const float *dout = lc_grad(j->run, j->n->out[0]), scale = j->d->scale * (float)j->o->scale;
  float *part = lc_scratch(j->run->ctx, worker, SLOT_PART, (size_t)(STRIP * b) * sizeof *part);
  if (!part) return LC_FAILED;
  for (int64_t draw = 0; draw < j->run->rows / j->half; draw++) {
    const int64_t r0 = draw * j->half;
    lc_gemm_shape up = {.m = m,
                        .n = b,
                        .k = j->half,
                        .lda = C,
                        .ldb = b,
                        .ldc = b,
                        .trans_a = true,
                        .dtype = LC_F32,
                        .c_dtype = LC_F32};
    LC_TRY(lc_gemm(j->run->ctx, worker, &up, dout + r0 * C + c0, j->z + r0 * b, part));
    const uint8_t *label = j->view->label[1];
    for (int64_t i = 0; i < m * b; i++)
      if (!label || label[c0 * b + i] == j->view->piece[draw][1])
        j->d->param[UP]->grad[c0 * b + i] += scale * part[i];
    lc_gemm_shape down = {.m = b,
                          .n = m,
                          .k = j->half,
                          .lda = b,
                          .ldb = C,
                          .ldc = m,
                          .trans_a = true,
                          .dtype = LC_F32,
                          .c_dtype = LC_F32};
    LC_TRY(lc_gemm(j->run->ctx, worker, &down, j->du + r0 * b, j->a + r0 * C + c0, part));
    label = j->view->label[0];
    for (int64_t q = 0; q < b; q++)
      for (int64_t i = 0; i < m; i++)
        if (!label || label[q * C + c0 + i] == j->view->piece[draw][0])
          j->d->param[DOWN]->grad[q * C + c0 + i] += part[q * m + i];
  }
  for (int64_t i = c0; i < c0 + m; i++) {
    float sum = 0;
    for (int64_t r = 0; r < j->run->rows; r++) sum += dout[r * C + i];
    j->d->param[UP_BIAS]->grad[i] += scale * sum;
  }
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  job j = open(n, run);
  if (n->want & LC_IN(0))
    LC_TRY(lc_grad_pass(n, run, 0, r0, r1)); /* first, and into memory of its own: x may be y */
  if (n->want & ~LC_IN(0)) {
    const int64_t T = run->rows, n_chunks = chunks(&j);
    j.a = lc_scratch(run->ctx, 0, SLOT_ALL, (size_t)(T * (j.C + 2 * j.b) + n_chunks * 2 * j.C) * sizeof *j.a);
    if (!j.a) return LC_FAILED;
    j.z = j.a + T * j.C;
    j.du = j.z + T * j.b;
    j.parts = j.du + T * j.b;
    memset(j.parts, 0, (size_t)(n_chunks * 2 * j.C) * sizeof *j.parts);
    LC_TRY(lc_parallel(run->ctx, n_chunks, back_chunk, &j));
    if (n->want & LC_PARAMS) {
      LC_TRY(lc_parallel(run->ctx, lc_ceil_div(j.C, STRIP), back_params, &j));
      for (int64_t r = 0; r < T; r++)
        for (int64_t i = 0; i < j.b; i++) j.d->param[DOWN_BIAS]->grad[i] += j.du[r * j.b + i];
      for (int64_t c = 0; c < n_chunks && has_norm(&j); c++)
        for (int64_t i = 0; i < j.C; i++) {
          j.d->param[NORM]->grad[i] += j.parts[c * 2 * j.C + i];
          j.d->param[NORM_BIAS]->grad[i] += j.parts[c * 2 * j.C + j.C + i];
        }
    }
  }
  return LC_OK;
}

const lc_op lc_op_bottleneck = {.name = "bottleneck",
                                .flags = LC_OP_ROWWISE,
                                .shape = shape,
                                .trains = trains,
                                .saves = saves,
                                .forward = forward,
                                .backward = backward};
