/* linear: y (T,M) = x (T,N)·Weffᵀ + bias (+ residual). Weights are decoded and patched a tile at a time, in the compute dtype, into the
 * worker's scratch: row strips for y, column blocks for dx = dy·Weff; dW goes to the weight's consumers (gradient.c). Where columns are
 * trained, a third input is x[lines] (op_gather.c), and x itself is not kept for them.
 * Without gradients: a few rows (decoding), linear_few.c; prompts in integers, linear_prompt.c. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

enum { ROWS = 2048 /* rows of x a chunk: a strip of the weight is decoded for each */ };
/* Many rows where products gain by a packed weight: it is decoded and packed as a whole, if that takes no more than PACK_MOST bytes, and chunks are
 * cut by rows. */
enum { PACK_FROM = 256, PACKED_ROWS = 128, PACK_MOST = 32 << 20 };

/* Cuts n outputs into strips of a multiple of 32, some eight of them, so that chunks do not depend on the number of threads. */
static int64_t strip_of(int64_t n) {
  return lc_min64(512, lc_max64(64, lc_ceil_div(lc_ceil_div(n, 8), 32) * 32));
}

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_linear_attr *a = n->attr;
  const lc_value *x = lc_value_get(g, n->in[0]), *res = lc_value_get(g, n->in[1]);
  lc_ctx *ctx = lc_graph_ctx(g);
  if (!x || x->width != a->w->N)
    return lc_fail(ctx, "linear '%s' takes %lld columns, its input has %lld", a->w->name, (long long)a->w->N,
                   x ? (long long)x->width : 0LL);
  if (res && (res->width != a->w->M || res->dtype != LC_F32))
    return lc_fail(ctx, "linear '%s': the residual must be f32 of %lld columns", a->w->name,
                   (long long)a->w->M);
  if (a->bias && a->bias->N != a->w->M)
    return lc_fail(ctx, "linear '%s': a bias of %lld values for %lld rows", a->w->name, (long long)a->bias->N,
                   (long long)a->w->M);
  return lc_node_out(g, n, 0, a->w->name, res ? LC_F32 : a->compute, a->w->M);
}

static bool trains(const lc_node *n) {
  const lc_linear_attr *a = n->attr;
  return lc_weight_trains(a->w) || (a->bias && lc_weight_trains(a->bias));
}

/* x, unless all that is trained is columns: then x[lines] (in[2]) is enough. */
static bool reads_input(const lc_weight *w) {
  return lc_weight_wants(w, LC_SINK_ENTRIES) || lc_weight_wants(w, LC_SINK_DENSE) ||
         lc_weight_wants(w, LC_SINK_TILES) || lc_weight_wants(w, LC_SINK_ROWS);
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  const lc_weight *w = ((const lc_linear_attr *)n->attr)->w;
  if (!(want & LC_PARAMS)) return 0;
  return (reads_input(w) ? LC_IN(0) : 0) | (n->in[2].id ? LC_IN(2) : 0);
}

typedef struct {
  const lc_node *n;
  lc_run *run;
  const void *x, *dy;
  lc_dtype dtype;
  bool back;                   /* dx = dy·Weff, else y = x·Weffᵀ */
  int64_t strip, rows, n_rows; /* columns and rows of the result a chunk, chunks of rows */
  uint8_t *packed;             /* the whole weight, NULL: decoded by strips */
} linear_arg;

/* Columns [j0,j1) of the product: rows of the weight, or columns of it for dx. */
static lc_status decoded(const linear_arg *a, int worker, int64_t j0, int64_t j1, const void **tile,
                         int64_t *ld) {
  const lc_weight *w = ((const lc_linear_attr *)a->n->attr)->w;
  lc_rect q = a->back ? (lc_rect){0, w->M, j0, j1} : (lc_rect){j0, j1, 0, w->N};
  return lc_weight_tile(a->run->ctx, worker, w, q, a->dtype, tile, ld);
}

static int64_t depth(const linear_arg *a) {
  const lc_weight *w = ((const lc_linear_attr *)a->n->attr)->w;
  return a->back ? w->M : w->N;
}

static lc_status pack_chunk(void *arg, int64_t chunk, int worker) {
  const linear_arg *a = arg;
  const lc_weight *w = ((const lc_linear_attr *)a->n->attr)->w;
  int64_t j0 = chunk * a->strip, j1 = lc_min64(j0 + a->strip, a->back ? w->N : w->M), ld;
  const void *tile;
  LC_TRY(decoded(a, worker, j0, j1, &tile, &ld));
  lc_gemm_shape s = {
      .n = j1 - j0, .k = depth(a), .ldb = ld, .trans_b = !a->back, .dtype = a->dtype, .c_dtype = a->dtype};
  lc_gemm_pack(a->run->ctx, &s, tile, a->packed + lc_gemm_packed_bytes(a->run->ctx, a->dtype, j0, depth(a)));
  return LC_OK;
}

/* Runs the product's chunks. */
static lc_status run_chunks(linear_arg *a, lc_chunk_fn fn) {
  const lc_weight *w = ((const lc_linear_attr *)a->n->attr)->w;
  lc_ctx *ctx = a->run->ctx;
  int64_t n = a->back ? w->N : w->M;
  size_t bytes = a->run->rows < PACK_FROM ? 0 : lc_gemm_packed_bytes(ctx, a->dtype, n, depth(a));
  a->strip = strip_of(n), a->rows = ROWS, a->packed = NULL;
  if (bytes && bytes <= PACK_MOST) {
    a->packed = lc_scratch_shared(ctx, LC_SHARED_PACKED, bytes);
    if (!a->packed) return LC_FAILED;
    LC_TRY(lc_parallel(ctx, lc_ceil_div(n, a->strip), pack_chunk, a));
    a->strip = lc_gemm_packed_columns(ctx, a->dtype, n, depth(a)), a->rows = PACKED_ROWS;
  }
  a->n_rows = lc_ceil_div(a->run->rows, a->rows);
  return lc_parallel(ctx, a->n_rows * lc_ceil_div(n, a->strip), fn, a);
}

/* The weight's columns [j0,j1) as an operand. */
static lc_status operand(const linear_arg *a, int worker, int64_t j0, int64_t j1, const void **b,
                         int64_t *ld) {
  if (!a->packed) return decoded(a, worker, j0, j1, b, ld);
  *b = a->packed + lc_gemm_packed_bytes(a->run->ctx, a->dtype, j0, depth(a)), *ld = 0;
  return LC_OK;
}

/* ---- forward ---- */

static void add_bias(lc_ctx *ctx, const float *bias, lc_dtype dtype, void *y, int64_t n) {
  const lc_kernels *k = lc_kernels_get(ctx);
  if (dtype == LC_F32) {
    k->add(n, y, bias, y);
    return;
  }
  float tmp[512];
  uint16_t *half = y;
  for (int64_t i = 0; i < n; i += 512) {
    const int64_t m = lc_min64(512, n - i);
    k->bf16_to_f32(m, half + i, tmp);
    k->add(m, tmp, bias + i, tmp);
    k->f32_to_bf16(m, tmp, half + i);
  }
}

static lc_status forward_chunk(void *arg, int64_t chunk, int worker) {
  linear_arg *a = arg;
  const lc_linear_attr *at = a->n->attr;
  lc_run *run = a->run;
  const lc_weight *w = at->w;
  int64_t t0 = chunk % a->n_rows * a->rows, t1 = lc_min64(t0 + a->rows, run->rows);
  int64_t m0 = chunk / a->n_rows * a->strip, m1 = lc_min64(m0 + a->strip, w->M), ld;
  const void *tile;
  LC_TRY(operand(a, worker, m0, m1, &tile, &ld));
  lc_dtype out = a->n->in[1].id ? LC_F32 : at->compute;
  uint8_t *y = (uint8_t *)lc_data(run, a->n->out[0]) + (size_t)(t0 * w->M + m0) * lc_size_of(out);
  lc_gemm_shape s = {.m = t1 - t0,
                     .n = m1 - m0,
                     .k = w->N,
                     .lda = w->N,
                     .ldb = ld,
                     .ldc = w->M,
                     .trans_b = true,
                     .dtype = a->dtype,
                     .c_dtype = out,
                     .packed_b = a->packed != NULL};
  if (a->n->in[1].id) s.plus = (const float *)lc_data(run, a->n->in[1]) + t0 * w->M + m0, s.ld_plus = w->M;
  LC_TRY(lc_gemm(run->ctx, worker, &s, (const uint8_t *)a->x + (size_t)(t0 * w->N) * lc_size_of(a->dtype),
                 tile, y));
  for (int64_t t = 0; at->bias && t < t1 - t0; t++)
    add_bias(run->ctx, at->bias->vector + m0, out, y + (size_t)(t * w->M) * lc_size_of(out), m1 - m0);
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_linear_attr *at = n->attr;
  linear_arg a = {.n = n, .run = run, .x = lc_data(run, n->in[0]), .dtype = at->compute};
  return run_chunks(&a, forward_chunk);
}

/* ---- backward ---- */

static lc_status dx_chunk(void *arg, int64_t chunk, int worker) {
  linear_arg *a = arg;
  lc_run *run = a->run;
  const lc_weight *w = ((const lc_linear_attr *)a->n->attr)->w;
  int64_t t0 = chunk % a->n_rows * a->rows, t1 = lc_min64(t0 + a->rows, run->rows);
  int64_t c0 = chunk / a->n_rows * a->strip, c1 = lc_min64(c0 + a->strip, w->N), ld;
  const void *tile;
  LC_TRY(operand(a, worker, c0, c1, &tile, &ld));
  lc_dtype out = lc_grad_dtype(run, a->n->in[0]);
  lc_gemm_shape s = {.m = t1 - t0,
                     .n = c1 - c0,
                     .k = w->M,
                     .lda = w->M,
                     .ldb = ld,
                     .ldc = w->N,
                     .dtype = a->dtype,
                     .c_dtype = out,
                     .beta = a->n->overwrite & LC_IN(0) ? 0 : 1,
                     .packed_b = a->packed != NULL};
  return lc_gemm(run->ctx, worker, &s, (const uint8_t *)a->dy + (size_t)(t0 * w->M) * lc_size_of(a->dtype),
                 tile, (uint8_t *)lc_grad(run, a->n->in[0]) + (size_t)(t0 * w->N + c0) * lc_size_of(out));
}

/* dy in the compute dtype: its own memory, or a copy in `buffer`. */
static lc_status convert_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_weight *w = ((const lc_linear_attr *)n->attr)->w;
  uint16_t *dst =
      lc_scratch(run->ctx, 0, 2, (size_t)(run->rows * w->M) * sizeof *dst); /* made before the loop */
  lc_kernels_get(run->ctx)->f32_to_bf16((r1 - r0) * w->M, (const float *)lc_grad(run, n->out[0]) + r0 * w->M,
                                        dst + r0 * w->M);
  return LC_OK;
}

/* db: columns are cut into chunks, rows add in order. */
typedef struct {
  const float *f;
  const uint16_t *h;
  int64_t rows, M;
  lc_weight *bias;
} bias_arg;

static lc_status bias_chunk(void *arg, int64_t chunk, int worker) {
  const bias_arg *a = arg;
  int64_t m0 = chunk * 64, m1 = lc_min64(m0 + 64, a->M);
  float sum[64] = {0};
  for (int64_t t = 0; t < a->rows; t++)
    for (int64_t m = m0; m < m1; m++)
      sum[m - m0] += a->f ? a->f[t * a->M + m] : lc_bf16_to_f32(a->h[t * a->M + m]);
  for (int i = 0; i < a->bias->n_sink; i++)
    if (a->bias->sink[i].kind == LC_SINK_DENSE && a->bias->sink[i].param->wants_grad)
      for (int64_t m = m0; m < m1; m++) a->bias->sink[i].param->grad[m] += sum[m - m0];
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_linear_attr *at = n->attr;
  lc_weight *w = at->w;
  lc_dtype gt = lc_grad_dtype(run, n->out[0]);
  linear_arg a = {.n = n, .run = run, .dtype = at->compute, .dy = lc_grad(run, n->out[0]), .back = true};
  if (n->want & LC_PARAMS && at->bias && lc_weight_trains(at->bias)) {
    bias_arg b = {gt == LC_F32 ? a.dy : NULL, gt == LC_F32 ? NULL : a.dy, run->rows, w->M, at->bias};
    LC_TRY(lc_parallel(run->ctx, lc_ceil_div(w->M, 64), bias_chunk, &b));
  }
  if (gt == LC_F32 && at->compute == LC_BF16) {
    a.dy = lc_scratch(run->ctx, 0, 2, (size_t)(run->rows * w->M) * sizeof(uint16_t));
    if (!a.dy) return LC_FAILED;
    LC_TRY(lc_for_rows(n, run, r0, r1, 64, convert_rows));
  }
  if (n->want & LC_PARAMS && n->in[2].id)
    LC_TRY(lc_weight_gradient_columns(run, w, at->compute, lc_data(run, n->in[2]), a.dy, w->M, run->rows));
  if (n->want & LC_PARAMS && reads_input(w))
    LC_TRY(lc_weight_gradient(run, w, at->compute, lc_data(run, n->in[0]), w->N, at->compute, a.dy, w->M,
                              run->rows, at->use));
  if (n->want & LC_IN(0)) LC_TRY(run_chunks(&a, dx_chunk));
  return n->want & LC_IN(1) ? lc_grad_pass(n, run, 1, r0, r1) : LC_OK;
}

static int joint(const lc_node *const *node, int n, lc_run *run, lc_status *st) {
  int ran = lc_linear_few(node, n, run, st);
  return ran ? ran : lc_linear_prompt(node, n, run, st);
}

const lc_op lc_op_linear = {.name = "linear",
                            .flags = LC_OP_ROWWISE,
                            .grad_alias = 2,
                            .shape = shape,
                            .trains = trains,
                            .saves = saves,
                            .joint = joint,
                            .forward = forward,
                            .backward = backward};
