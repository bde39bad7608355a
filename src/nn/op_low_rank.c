/* low_rank: the two thin products of LoRA (Hu et al. 2022, arXiv 2106.09685) beside a linear layer.
 *
 *   forward    x̃ = drop(x)                 x (T,N), f32 or bf16; inverted dropout, in training only
 *              h = x̃·Aᵀ                    A (R,N), h (T,R) f32, saved
 *              out = y + s·h·Bᵀ            B (M,R), y and out (T,M) of one dtype
 *   backward   dh = s·dout·B               dout (T,M)
 *              dB += s·doutᵀ·h             strips of B's rows
 *              dA += dhᵀ·x̃                 strips of A's columns
 *              dx += drop-mask(dh·A)
 *              dy = dout                   the same buffer
 *
 * With a gain g (lc_gain) dA and dB take g∘dout for dout; dx does not, so that lower layers get true gradients. A g
 * that depends on the output is made again from h: z = s·h·Bᵀ.
 *
 * All products are f32: A and B are f32 masters, and s is applied to f32 sums (x in bf16 without dropout and gain: low_rank_bf16.c, where they
 * enter in two parts). Sums over T stay inside one
 * chunk, and chunks are cut by shape alone. The dropout mask is a function of (seed, step, micro-batch,
 * weight, row·N + column), so it is made again, never stored. A delta that is off (scale 0) or merged into
 * its weight (in place) hands y on bit for bit; so does B = 0, for a sum that is zero is not added (it would
 * turn -0 into +0). */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/low_rank.h"

enum { ROWS = 64, STRIP = 64 };
enum {
  SLOT_IN = 2,
  SLOT_OUT = 3,
  SLOT_ROW = 4,
  SLOT_DH = 5,
  SLOT_GAIN = 6,
  SLOT_Z = 7
}; /* worker scratch; lc_gemm keeps to its own slots */

static const lc_delta *delta_of(const lc_node *n) {
  return ((const lc_low_rank_attr *)n->attr)->delta;
}
static bool is_on(const lc_delta *d) {
  return d->scale != 0 && d->apply != LC_IN_PLACE;
}
static float scale_of(const lc_delta *d) {
  return d->scale * lc_delta_lora_scale(d);
}

/* ---- x̃: the input as f32, after dropout ---- */

static bool drops(const lc_node *n, const lc_run *run) {
  return run->training && lc_delta_lora_opts(delta_of(n))->dropout > 0;
}

void lc_input_dropout(const lc_run *run, uint32_t id, int64_t N, float p, int64_t r, int64_t c, int64_t cols,
                      float *x) {
  const lc_rng rng = {run->seed, run->step, id, (uint16_t)run->micro, LC_RNG_DROPOUT};
  lc_kernels_get(run->ctx)->dropout(&rng, (uint64_t)(r * N + c), cols, p, x);
}

static void apply_dropout(const lc_node *n, const lc_run *run, int64_t r, int64_t c, int64_t cols, float *x) {
  const lc_weight *w = delta_of(n)->w;
  lc_input_dropout(run, w->id, w->N, lc_delta_lora_opts(delta_of(n))->dropout, r, c, cols, x);
}

/* Rows [r0,r1), columns [c0,c1) of x̃: the value's own memory where nothing has to be changed, else scratch.
 * */
static lc_status input_block(const lc_node *n, const lc_run *run, int worker, lc_rect q, const float **x,
                             int64_t *ld) {
  const lc_low_rank_attr *a = n->attr;
  const int64_t N = a->delta->w->N, cols = q.c1 - q.c0;
  const uint8_t *data = lc_data(run, n->in[1]);
  *x = (const float *)data + q.r0 * N + q.c0;
  *ld = N;
  if (a->x_dtype == LC_F32 && !drops(n, run)) return LC_OK;
  float *to = lc_scratch(run->ctx, worker, SLOT_IN, (size_t)((q.r1 - q.r0) * cols) * sizeof *to);
  if (!to) return LC_FAILED;
  for (int64_t r = q.r0; r < q.r1; r++) {
    float *row = to + (r - q.r0) * cols;
    if (a->x_dtype == LC_F32)
      memcpy(row, (const float *)data + r * N + q.c0, (size_t)cols * sizeof *row);
    else
      lc_kernels_get(run->ctx)->bf16_to_f32(cols, (const uint16_t *)data + r * N + q.c0, row);
    if (drops(n, run)) apply_dropout(n, run, r, q.c0, cols, row);
  }
  *x = to;
  *ld = cols;
  return LC_OK;
}

/* The same rectangle of dout, as f32. */
static lc_status grad_block(const lc_node *n, const lc_run *run, int worker, lc_rect q, const float **g,
                            int64_t *ld) {
  const int64_t M = delta_of(n)->w->M, cols = q.c1 - q.c0;
  const void *data = lc_grad(run, n->out[0]);
  *g = (const float *)data + q.r0 * M + q.c0;
  *ld = M;
  if (lc_grad_dtype(run, n->out[0]) == LC_F32) return LC_OK;
  float *to = lc_scratch(run->ctx, worker, SLOT_IN, (size_t)((q.r1 - q.r0) * cols) * sizeof *to);
  if (!to) return LC_FAILED;
  for (int64_t r = q.r0; r < q.r1; r++)
    lc_kernels_get(run->ctx)->bf16_to_f32(cols, (const uint16_t *)data + r * M + q.c0,
                                          to + (r - q.r0) * cols);
  *g = to;
  *ld = cols;
  return LC_OK;
}

static bool has_gain(const lc_delta *d) {
  const lc_gain *g = lc_delta_lora_gain_of(d);
  return g->row || g->output;
}

/* The rectangle of g∘dout. */
static lc_status gained_block(const lc_node *n, const lc_run *run, int worker, lc_rect q, const float **out,
                              int64_t *ld) {
  const lc_delta *d = delta_of(n);
  const lc_gain *gain = lc_delta_lora_gain_of(d);
  const int64_t rows = q.r1 - q.r0, cols = q.c1 - q.c0, R = lc_delta_lora_opts(d)->rank;
  LC_TRY(grad_block(n, run, worker, q, out, ld));
  if (!has_gain(d)) return LC_OK;
  float *to = lc_scratch(run->ctx, worker, SLOT_GAIN, (size_t)(rows * cols) * sizeof *to),
        *z = gain->output ? lc_scratch(run->ctx, worker, SLOT_Z, (size_t)(rows * cols) * sizeof *z) : NULL;
  if (!to || (gain->output && !z)) return LC_FAILED;
  if (gain->output) {
    lc_gemm_shape up = {.m = rows,
                        .n = cols,
                        .k = R,
                        .lda = R,
                        .ldb = R,
                        .ldc = cols,
                        .trans_b = true,
                        .dtype = LC_F32,
                        .c_dtype = LC_F32};
    LC_TRY(lc_gemm(run->ctx, worker, &up, (const float *)lc_data(run, n->out[1]) + q.r0 * R,
                   d->param[1]->value + q.c0 * R, z));
    lc_kernels_get(run->ctx)->scale(rows * cols, scale_of(d), z);
    gain->output(gain->self, rows * cols, z);
  }
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++)
      to[r * cols + c] = (*out)[r * *ld + c] * (z ? z[r * cols + c] : gain->row[q.c0 + c]);
  *out = to;
  *ld = cols;
  return LC_OK;
}

/* ---- shape ---- */

static lc_status shape(lc_graph *g, lc_node *n) {
  lc_low_rank_attr *a = n->attr;
  const lc_weight *w = a->delta->w;
  const lc_value *y = lc_value_get(g, n->in[0]), *x = lc_value_get(g, n->in[1]);
  if (y->width != w->M || x->width != w->N)
    return lc_fail(lc_graph_ctx(g), "low_rank on '%s' (%lld×%lld): input of %lld columns, output of %lld",
                   w->name, (long long)w->M, (long long)w->N, (long long)x->width, (long long)y->width);
  if ((x->dtype != LC_F32 && x->dtype != LC_BF16) || (y->dtype != LC_F32 && y->dtype != LC_BF16))
    return lc_fail(lc_graph_ctx(g), "low_rank on '%s': values are f32 or bf16", w->name);
  a->x_dtype = x->dtype;
  a->y_dtype = y->dtype;
  LC_TRY(lc_node_out(g, n, 0, "low_rank", y->dtype, w->M));
  return lc_node_out(g, n, 1, "low_rank_h", LC_F32, lc_delta_lora_opts(a->delta)->rank);
}

static bool trains(const lc_node *n) {
  return delta_of(n)->param[0]->wants_grad || delta_of(n)->param[1]->wants_grad;
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  return want & LC_PARAMS ? LC_IN(1) | LC_OUT(1) : 0;
}

/* ---- forward ---- */

static lc_status forward_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  const lc_low_rank_attr *a = n->attr;
  const lc_delta *d = a->delta;
  const int64_t M = d->w->M, N = d->w->N, R = lc_delta_lora_opts(d)->rank, rows = r1 - r0;
  const float s = scale_of(d), *x;
  float *h = (float *)lc_data(run, n->out[1]) + r0 * R;
  float *add = lc_scratch(run->ctx, worker, SLOT_OUT, (size_t)(rows * M) * sizeof *add);
  float *row = lc_scratch(run->ctx, worker, SLOT_ROW, (size_t)M * sizeof *row);
  int64_t ldx;
  if (!add || !row) return LC_FAILED;
  LC_TRY(input_block(n, run, worker, (lc_rect){r0, r1, 0, N}, &x, &ldx));
  lc_gemm_shape down = {.m = rows,
                        .n = R,
                        .k = N,
                        .lda = ldx,
                        .ldb = N,
                        .ldc = R,
                        .trans_b = true,
                        .dtype = LC_F32,
                        .c_dtype = LC_F32};
  LC_TRY(lc_gemm(run->ctx, worker, &down, x, d->param[0]->value, h));
  lc_gemm_shape up = {.m = rows,
                      .n = M,
                      .k = R,
                      .lda = R,
                      .ldb = R,
                      .ldc = M,
                      .trans_b = true,
                      .dtype = LC_F32,
                      .c_dtype = LC_F32};
  LC_TRY(lc_gemm(run->ctx, worker, &up, h, d->param[1]->value, add));
  for (int64_t r = 0; r < rows; r++) {
    lc_kernels_get(run->ctx)->add_nonzero(M, s, add + r * M, lc_row_get(run, n->in[0], r0 + r, row), row);
    lc_row_put(run, n->out[0], r0 + r, row);
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_low_rank_attr *a = n->attr;
  if (is_on(a->delta) && lc_low_rank_narrow(n, run)) return lc_low_rank_bf16_forward(n, run, r0, r1);
  if (is_on(a->delta)) return lc_for_rows(n, run, r0, r1, ROWS, forward_rows);
  const size_t row = (size_t)a->delta->w->M * (a->y_dtype == LC_F32 ? 4 : 2);
  const int64_t R = lc_delta_lora_opts(a->delta)->rank;
  memcpy((uint8_t *)lc_data(run, n->out[0]) + (size_t)r0 * row,
         (const uint8_t *)lc_data(run, n->in[0]) + (size_t)r0 * row, (size_t)(r1 - r0) * row);
  memset((float *)lc_data(run, n->out[1]) + r0 * R, 0, (size_t)((r1 - r0) * R) * sizeof(float));
  return LC_OK;
}

/* ---- backward ---- */

typedef struct {
  const lc_node *n;
  lc_run *run;
  int64_t r0, r1;
  float *dh, *dh_gained; /* row r0 first: for dx, and for dA; the same without a gain */
} back_arg;

/* Rows: dh, and dx where it is wanted. */
static lc_status back_rows(void *arg, int64_t chunk, int worker) {
  const back_arg *a = arg;
  const lc_node *n = a->n;
  lc_run *run = a->run;
  const lc_delta *d = delta_of(n);
  const int64_t M = d->w->M, N = d->w->N, R = lc_delta_lora_opts(d)->rank;
  const int64_t r0 = a->r0 + chunk * ROWS, r1 = lc_min64(r0 + ROWS, a->r1), rows = r1 - r0;
  float *dh = a->dh + (r0 - a->r0) * R, *gained = a->dh_gained + (r0 - a->r0) * R;
  const float *g;
  int64_t ldg;
  LC_TRY(grad_block(n, run, worker, (lc_rect){r0, r1, 0, M}, &g, &ldg));
  lc_gemm_shape s = {
      .m = rows, .n = R, .k = M, .lda = ldg, .ldb = R, .ldc = R, .dtype = LC_F32, .c_dtype = LC_F32};
  LC_TRY(lc_gemm(run->ctx, worker, &s, g, d->param[1]->value, dh));
  lc_kernels_get(run->ctx)->scale(rows * R, scale_of(d), dh);
  if (gained != dh) {
    LC_TRY(gained_block(n, run, worker, (lc_rect){r0, r1, 0, M}, &g, &s.lda));
    LC_TRY(lc_gemm(run->ctx, worker, &s, g, d->param[1]->value, gained));
    lc_kernels_get(run->ctx)->scale(rows * R, scale_of(d), gained);
  }
  if (!(n->want & LC_IN(1))) return LC_OK;
  float *dx = lc_scratch(run->ctx, worker, SLOT_OUT, (size_t)(rows * N) * sizeof *dx);
  if (!dx) return LC_FAILED;
  lc_gemm_shape up = {
      .m = rows, .n = N, .k = R, .lda = R, .ldb = N, .ldc = N, .dtype = LC_F32, .c_dtype = LC_F32};
  LC_TRY(lc_gemm(run->ctx, worker, &up, dh, d->param[0]->value, dx));
  for (int64_t r = 0; r < rows; r++) {
    if (drops(n, run)) apply_dropout(n, run, r0 + r, 0, N, dx + r * N);
    lc_grad_row_put(n, run, 1, r0 + r, dx + r * N);
  }
  return LC_OK;
}

/* A strip of B's rows: dB[m0:m1,:] += s·dout[:,m0:m1]ᵀ·h */
static lc_status back_b(void *arg, int64_t chunk, int worker) {
  const back_arg *a = arg;
  const lc_delta *d = delta_of(a->n);
  const int64_t R = lc_delta_lora_opts(d)->rank, m0 = chunk * STRIP, m1 = lc_min64(m0 + STRIP, d->w->M);
  const float *g, *h = (const float *)lc_data(a->run, a->n->out[1]) + a->r0 * R;
  float *part = lc_scratch(a->run->ctx, worker, SLOT_OUT, (size_t)((m1 - m0) * R) * sizeof *part);
  int64_t ldg;
  if (!part) return LC_FAILED;
  LC_TRY(gained_block(a->n, a->run, worker, (lc_rect){a->r0, a->r1, m0, m1}, &g, &ldg));
  lc_gemm_shape s = {.m = m1 - m0,
                     .n = R,
                     .k = a->r1 - a->r0,
                     .lda = ldg,
                     .ldb = R,
                     .ldc = R,
                     .trans_a = true,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32};
  LC_TRY(lc_gemm(a->run->ctx, worker, &s, g, h, part));
  lc_kernels_get(a->run->ctx)->axpy((m1 - m0) * R, scale_of(d), part, d->param[1]->grad + m0 * R);
  return LC_OK;
}

/* A strip of A's columns: dA[:,n0:n1] += dhᵀ·x̃[:,n0:n1] */
static lc_status back_a(void *arg, int64_t chunk, int worker) {
  const back_arg *a = arg;
  const lc_delta *d = delta_of(a->n);
  const int64_t N = d->w->N, R = lc_delta_lora_opts(d)->rank, n0 = chunk * STRIP,
                n1 = lc_min64(n0 + STRIP, N);
  const float *x;
  int64_t ldx;
  LC_TRY(input_block(a->n, a->run, worker, (lc_rect){a->r0, a->r1, n0, n1}, &x, &ldx));
  lc_gemm_shape s = {.m = R,
                     .n = n1 - n0,
                     .k = a->r1 - a->r0,
                     .lda = R,
                     .ldb = ldx,
                     .ldc = N,
                     .trans_a = true,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32,
                     .beta = 1};
  return lc_gemm(a->run->ctx, worker, &s, a->dh_gained, x, d->param[0]->grad + n0);
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_delta *d = delta_of(n);
  const int64_t R = lc_delta_lora_opts(d)->rank;
  if (is_on(d) && n->want & (LC_PARAMS | LC_IN(1)) && lc_low_rank_narrow(n, run)) {
    LC_TRY(lc_low_rank_bf16_backward(n, run, r0, r1));
  } else if (is_on(d) && n->want & (LC_PARAMS | LC_IN(1))) {
    const int64_t size = (r1 - r0) * R;
    back_arg a = {.n = n, .run = run, .r0 = r0, .r1 = r1};
    a.dh = lc_scratch(run->ctx, 0, SLOT_DH, (size_t)(2 * size) * sizeof(float));
    if (!a.dh) return LC_FAILED;
    a.dh_gained = has_gain(d) ? a.dh + size : a.dh;
    LC_TRY(lc_parallel(run->ctx, lc_ceil_div(r1 - r0, ROWS), back_rows, &a));
    if (n->want & LC_PARAMS && d->param[1]->wants_grad)
      LC_TRY(lc_parallel(run->ctx, lc_ceil_div(d->w->M, STRIP), back_b, &a));
    if (n->want & LC_PARAMS && d->param[0]->wants_grad)
      LC_TRY(lc_parallel(run->ctx, lc_ceil_div(d->w->N, STRIP), back_a, &a));
  } else if (n->want & LC_IN(1) &&
             n->overwrite & LC_IN(1)) { /* off: nothing flows to x, and this node is to store that nothing */
    float *zero = lc_scratch(run->ctx, 0, SLOT_ROW, (size_t)d->w->N * sizeof *zero);
    if (!zero) return LC_FAILED;
    memset(zero, 0, (size_t)d->w->N * sizeof *zero);
    for (int64_t r = r0; r < r1; r++) lc_grad_row_put(n, run, 1, r, zero);
  }
  return n->want & LC_IN(0) ? lc_grad_pass(n, run, 0, r0, r1) : LC_OK;
}

const lc_op lc_op_low_rank = {
    .name = "low_rank",
    .flags = LC_OP_ROWWISE,
    .grad_alias = 1,
    .shape = shape,
    .trains = trains,
    .saves = saves,
    .forward = forward,
    .backward = backward,
};
