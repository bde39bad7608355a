/* head_loss: row losses −log softmax(h·Wᵀ)[label] through a chunked output head: logits exist for ROWS rows at a time, rows without a label are
 * skipped. When training, the same pass makes dh = scale·(softmax − onehot)·W and the head's own dW, so logits are computed once. In bf16 the
 * gradient of a row's logits takes the place of the logits. A head that cannot be read where it lies is decoded once a pass for all blocks of
 * rows, unless that takes more than WHOLE bytes.
 * A link makes another loss of each row's nll: its slope multiplies the row's gradient.
 * The weight's head_bias is added to the logits.
 * in: hidden (T,C), labels (T). out[0] (T,1) losses, 0 where label < 0; out[1] (T,C) f32 dh, handed on in backward. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <math.h>
#include <string.h>

enum { SHARED_LOGITS, SHARED_WHOLE };
enum { ROWS = 512, VSTRIP = 1024, KSTRIP = 1024, NARROW = 96, WHOLE = 128 << 20 };

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_head_attr *a = n->attr;
  const lc_value *h = lc_value_get(g, n->in[0]);
  if (!h || h->width != a->w->N)
    return lc_fail(lc_graph_ctx(g), "head '%s' takes %lld columns, its input has %lld", a->w->name,
                   (long long)a->w->N, h ? (long long)h->width : 0LL);
  LC_TRY(lc_node_out(g, n, 0, "nll", LC_F32, 1));
  return lc_node_out(g, n, 1, "head_grad", LC_F32, a->w->N);
}

static bool trains(const lc_node *n) {
  const lc_weight *w = ((const lc_head_attr *)n->attr)->w;
  return lc_weight_trains(w) || (w->head_bias && lc_weight_trains(w->head_bias));
}
static uint32_t saves(const lc_node *n, uint32_t want) {
  return want & LC_IN(0) ? LC_OUT(1) : 0;
}

/* One block of at most ROWS rows with labels, gathered together. */
typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_weight *w;
  lc_dtype dtype;
  int64_t rows, V, C, ld; /* ld: floats from one row of logits to the next */
  int64_t at[ROWS];
  int32_t label[ROWS];
  bool grad, paired;
  uint8_t *whole; /* V × C: the decoded head; NULL: tile by tile */
  void *h;        /* rows × C, compute dtype */
  float *logits;  /* rows × ld; then their gradient in the compute dtype, each row where its logits were */
  float *dh;      /* rows × C */
} head_block;

/* Elements from one row of the logits' gradient to the next. */
static int64_t grad_ld(const head_block *b) {
  return b->dtype == LC_BF16 ? 2 * b->ld : b->ld;
}

static lc_status whole_chunk(void *arg, int64_t c, int worker) {
  head_block *b = arg;
  int64_t v0 = c * VSTRIP, v1 = lc_min64(v0 + VSTRIP, b->V);
  return lc_weight_decode(b->run->ctx, worker, b->w, (lc_rect){v0, v1, 0, b->C}, b->dtype,
                          b->whole + (size_t)(v0 * b->C) * lc_size_of(b->dtype));
}

/* The head is read once or twice for every block of rows: decoded beforehand where that pays and is not too large. */
static lc_status decode_whole(head_block *b, int64_t labels) {
  const size_t bytes = (size_t)(b->V * b->C) * lc_size_of(b->dtype);
  int64_t ld;
  if (bytes > WHOLE || (!b->grad && labels <= ROWS) ||
      lc_weight_borrow(b->w, (lc_rect){0, b->V, 0, b->C}, b->dtype, &ld))
    return LC_OK;
  b->whole = lc_scratch_shared(b->run->ctx, SHARED_WHOLE, bytes);
  return b->whole ? lc_parallel(b->run->ctx, lc_ceil_div(b->V, VSTRIP), whole_chunk, b) : LC_FAILED;
}

static lc_status head_tile(const head_block *b, int worker, lc_rect q, const void **tile, int64_t *ld) {
  if (!b->whole) return lc_weight_tile(b->run->ctx, worker, b->w, q, b->dtype, tile, ld);
  *tile = b->whole + (size_t)(q.r0 * b->C + q.c0) * lc_size_of(b->dtype);
  *ld = b->C;
  return LC_OK;
}

static lc_status logits_chunk(void *arg, int64_t c, int worker) {
  head_block *b = arg;
  int64_t v0 = c * VSTRIP, v1 = lc_min64(v0 + VSTRIP, b->V), ld;
  const void *tile;
  LC_TRY(head_tile(b, worker, (lc_rect){v0, v1, 0, b->C}, &tile, &ld));
  lc_gemm_shape s = {.m = b->rows,
                     .n = v1 - v0,
                     .k = b->C,
                     .lda = b->C,
                     .ldb = ld,
                     .ldc = b->ld,
                     .trans_b = true,
                     .dtype = b->dtype,
                     .c_dtype = LC_F32};
  LC_TRY(lc_gemm(b->run->ctx, worker, &s, b->h, tile, b->logits + v0));
  for (int64_t r = 0; b->w->head_bias && r < b->rows; r++) {
    float *z = b->logits + r * b->ld + v0;
    lc_kernels_get(b->run->ctx)->add(v1 - v0, z, b->w->head_bias->vector + v0, z);
  }
  return LC_OK;
}

/* db: columns are cut into chunks, rows add in order. */
static lc_status bias_chunk(void *arg, int64_t c, int worker) {
  (void)worker;
  const head_block *b = arg;
  const int64_t v0 = c * VSTRIP, v1 = lc_min64(v0 + VSTRIP, b->V);
  const lc_weight *bias = b->w->head_bias;
  const lc_kernels *k = lc_kernels_get(b->run->ctx);
  for (int i = 0; i < bias->n_sink; i++)
    for (int64_t r = 0; r < b->rows && bias->sink[i].kind == LC_SINK_DENSE && bias->sink[i].param->wants_grad;
         r++) {
      float *g = bias->sink[i].param->grad + v0, wide[VSTRIP];
      const float *d = b->logits + r * b->ld + v0;
      if (b->dtype == LC_BF16) {
        k->bf16_to_f32(v1 - v0, (const uint16_t *)(const void *)(b->logits + r * b->ld) + v0, wide);
        d = wide;
      }
      k->add(v1 - v0, g, d, g);
    }
  return LC_OK;
}

/* nll of one row; its logits become scale·(softmax − onehot) in the compute dtype. */
static float plain_loss(const head_block *b, float *logits, int32_t label, float scale) {
  const lc_kernels *k = lc_kernels_get(b->run->ctx);
  if (b->dtype == LC_F32 || scale == 0) return k->cross_entropy(b->V, logits, label, scale);
  return k->cross_entropy_bf16(b->V, logits, label, scale, (uint16_t *)(void *)logits);
}

/* L(nll) of one row; its logits become scale·dL/dnll·(softmax − onehot). */
static float linked_loss(const head_block *b, const lc_row_loss *link, float *logits, int64_t row,
                         int32_t label) {
  float slope = 0, loss = link->row(link->self, row, plain_loss(b, logits, label, 0), &slope);
  if (!b->grad) return loss;
  slope *= b->run->loss_scale;
  if (slope != 0)
    plain_loss(b, logits, label, slope);
  else
    memset(logits, 0, (size_t)b->V * sizeof *logits);
  return loss;
}

/* The two draws of a row, at r and r+1 of the block: see lc_head_loss_pairs. z (V) keeps the second's logits. */
static void paired_loss(const head_block *b, lc_pair_loss pair, int64_t r, float *z, float *out) {
  const lc_kernels *k = lc_kernels_get(b->run->ctx);
  const int64_t V = b->V;
  const int32_t y = b->label[r];
  float *p1 = b->logits + r * b->ld, *p2 = p1 + b->ld, *z1 = z, *z2 = z + V;
  memcpy(z1, p1, (size_t)V * sizeof *z), memcpy(z2, p2, (size_t)V * sizeof *z);
  const float lse1 = k->softmax(V, p1), lse2 = k->softmax(V, p2);
  double both = 0;
  for (int64_t v = 0; v < V && pair.agree != 0; v++)
    both +=
        ((double)p2[v] - (double)p1[v]) * (((double)z2[v] - (double)lse2) - ((double)z1[v] - (double)lse1));
  out[b->at[r]] = lse1 - z1[y];
  out[b->at[r + 1]] = pair.again * (lse2 - z2[y]) + pair.agree * 0.5f * (float)both;
  for (int64_t v = 0; v < V && b->grad; v++) {
    const float apart = pair.agree * 0.5f * (p1[v] - p2[v]), hit = v == y;
    const float first = p1[v] - hit + apart, second = pair.again * (p2[v] - hit) - apart;
    p1[v] = b->run->loss_scale * first;
    p2[v] = b->run->loss_scale * second;
  }
  for (int i = 0; i < 2 && b->grad && b->dtype == LC_BF16; i++) {
    k->f32_to_bf16(V, p1 + i * b->ld, (uint16_t *)(void *)z);
    memcpy(p1 + i * b->ld, z, (size_t)V * sizeof(uint16_t));
  }
}

/* 0: the first of the largest logits is the label's; else 1. */
static float miss(int64_t V, const float *logits, int32_t label) {
  int64_t best = 0;
  for (int64_t v = 1; v < V; v++)
    if (logits[v] > logits[best] || isnan(logits[best])) best = v;
  return isfinite(logits[best]) ? best != label : NAN;
}

static lc_status loss_chunk(void *arg, int64_t c, int worker) {
  head_block *b = arg;
  const lc_row_loss *link = &((const lc_head_attr *)b->n->attr)->link;
  float *out = lc_data(b->run, b->n->out[0]);
  for (int64_t r = c * 8; r < lc_min64(c * 8 + 8, b->rows); r++) {
    float *logits = b->logits + r * b->ld;
    if (((const lc_head_attr *)b->n->attr)->misses) {
      out[b->at[r]] = miss(b->V, logits, b->label[r]);
      continue;
    }
    if (b->paired && r % 2 == 0) {
      float *z = lc_scratch(b->run->ctx, worker, 6, (size_t)(2 * b->V) * sizeof *z);
      if (!z) return LC_FAILED;
      paired_loss(b, ((const lc_head_attr *)b->n->attr)->pair, r, z, out);
    }
    if (!b->paired)
      out[b->at[r]] = link->row ? linked_loss(b, link, logits, b->at[r], b->label[r])
                                : plain_loss(b, logits, b->label[r], b->grad ? b->run->loss_scale : 0);
  }
  return LC_OK;
}

/* Columns of dh a chunk: every chunk reads the whole gradient of the logits, so there are no more than threads need. Where columns are cut changes no sum. */
static int64_t dh_columns(const head_block *b) {
  return lc_max64(NARROW, lc_ceil_div(lc_ceil_div(b->C, lc_threads(b->run->ctx)), 32) * 32);
}

static lc_status dh_chunk(void *arg, int64_t c, int worker) {
  head_block *b = arg;
  const int64_t columns = dh_columns(b);
  int64_t c0 = c * columns, c1 = lc_min64(c0 + columns, b->C), ld;
  const void *tile;
  for (int64_t v0 = 0; v0 < b->V; v0 += KSTRIP) {
    int64_t v1 = lc_min64(v0 + KSTRIP, b->V);
    LC_TRY(head_tile(b, worker, (lc_rect){v0, v1, c0, c1}, &tile, &ld));
    lc_gemm_shape s = {.m = b->rows,
                       .n = c1 - c0,
                       .k = v1 - v0,
                       .lda = grad_ld(b),
                       .ldb = ld,
                       .ldc = b->C,
                       .dtype = b->dtype,
                       .c_dtype = LC_F32,
                       .beta = v0 ? 1 : 0};
    LC_TRY(lc_gemm(b->run->ctx, worker, &s, (const uint8_t *)b->logits + (size_t)v0 * lc_size_of(b->dtype),
                   tile, b->dh + c0));
  }
  return LC_OK;
}

static lc_status run_block(head_block *b) {
  lc_run *run = b->run;
  const lc_head_attr *a = b->n->attr;
  float *tmp = lc_scratch(run->ctx, 0, 3, (size_t)b->C * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t r = 0; r < b->rows; r++) {
    const float *h = lc_row_get(run, b->n->in[0], b->at[r], tmp);
    if (b->dtype == LC_F32)
      memcpy((float *)b->h + r * b->C, h, (size_t)b->C * sizeof *h);
    else
      lc_kernels_get(run->ctx)->f32_to_bf16(b->C, h, (uint16_t *)b->h + r * b->C);
  }
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(b->V, VSTRIP), logits_chunk, b));
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(b->rows, 8), loss_chunk, b));
  if (!b->grad) return LC_OK;
  if (b->n->want & LC_PARAMS && a->w->head_bias && lc_weight_trains(a->w->head_bias))
    LC_TRY(lc_parallel(run->ctx, lc_ceil_div(b->V, VSTRIP), bias_chunk, b));
  if (b->n->want & LC_PARAMS && lc_weight_trains(a->w))
    LC_TRY(lc_weight_gradient(run, a->w, b->dtype, b->h, b->C, b->dtype, b->logits, grad_ld(b), b->rows,
                              a->use));
  if (!(b->n->want & LC_IN(0))) return LC_OK;
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(b->C, dh_columns(b)), dh_chunk, b));
  float *dh = lc_data(run, b->n->out[1]);
  for (int64_t r = 0; r < b->rows; r++)
    memcpy(dh + b->at[r] * b->C, b->dh + r * b->C, (size_t)b->C * sizeof *dh);
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_head_attr *a = n->attr;
  const int32_t *labels = lc_data(run, n->in[1]);
  head_block b = {.n = n,
                  .run = run,
                  .w = a->w,
                  .dtype = a->compute,
                  .V = a->w->M,
                  .C = a->w->N,
                  .ld = (lc_ceil_div(a->w->M, 32) | 1) *
                        32, /* whole lines, and rows that do not meet in the same sets of a cache */
                  .grad = run->training && n->want,
                  .paired = a->paired && run->copies == 2};
  if (a->misses && b.grad)
    return lc_fail(run->ctx, "'%s': whether a token is missed has no gradient", a->w->name);
  const int64_t rows = b.paired ? run->rows / 2 : run->rows;
  for (int i = 0; b.grad && i < a->w->n_sink; i++)
    if (a->w->sink[i].kind == LC_SINK_TILES && lc_sink_wants(&a->w->sink[i]))
      return lc_fail(
          run->ctx,
          "'%s' is the output head: its gradient comes in blocks of rows and cannot be streamed as tiles",
          a->w->name);
  int64_t labelled = 0;
  for (int64_t r = 0; r < rows; r++) labelled += labels[r] >= 0;
  LC_TRY(decode_whole(&b, labelled));
  const int64_t most = lc_min64(ROWS, lc_ceil_div(lc_plan_rows(run->plan), 2) * 2);
  size_t h = (size_t)(most * b.C) * lc_size_of(b.dtype);
  b.h = lc_scratch(run->ctx, 0, 2, h + (size_t)(most * b.C) * sizeof(float));
  b.logits = lc_scratch_shared(run->ctx, SHARED_LOGITS, (size_t)(most * b.ld) * sizeof(float));
  if (!b.h || !b.logits) return LC_FAILED;
  b.dh = (float *)(void *)((uint8_t *)b.h + h);
  memset(lc_data(run, n->out[0]), 0, (size_t)run->rows * sizeof(float));
  if (b.grad) memset(lc_data(run, n->out[1]), 0, (size_t)(run->rows * b.C) * sizeof(float));
  for (int64_t r = 0; r < rows; r++) {
    if (labels[r] >= b.V)
      return lc_fail(run->ctx, "label %d: '%s' has rows 0 to %lld", labels[r], a->w->name,
                     (long long)b.V - 1);
    if (labels[r] >= 0) {
      b.at[b.rows] = r;
      b.label[b.rows++] = labels[r];
      if (b.paired) {
        b.at[b.rows] = r + rows;
        b.label[b.rows++] = labels[r];
      }
    }
    if (b.rows == ROWS || (b.rows && r == rows - 1)) {
      LC_TRY(run_block(&b));
      b.rows = 0;
    }
  }
  return LC_OK;
}

static lc_status pass_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t C = lc_width(run, n->out[1]);
  for (int64_t r = r0; r < r1; r++)
    lc_grad_row_put(n, run, 0, r, (const float *)lc_data(run, n->out[1]) + r * C);
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return n->want & LC_IN(0) ? lc_for_rows(n, run, r0, r1, 64, pass_rows) : LC_OK;
}

const lc_op lc_op_head_loss = {.name = "head_loss",
                               .flags = LC_OP_LOSS,
                               .shape = shape,
                               .trains = trains,
                               .saves = saves,
                               .forward = forward,
                               .backward = backward};

/* ---- logits on their own ---- */

typedef struct {
  lc_run *run;
  const lc_weight *w;
  const float *x;
  float *dst;
  int64_t rows;
  bool int8;
  lc_q8_vector q8;
} logits_arg;

static lc_status add_bias(const logits_arg *a, int64_t v0, int64_t v1) {
  for (int64_t r = 0; a->w->head_bias && r < a->rows; r++) {
    float *z = a->dst + r * a->w->M + v0;
    lc_kernels_get(a->run->ctx)->add(v1 - v0, z, a->w->head_bias->vector + v0, z);
  }
  return LC_OK;
}

static lc_status logits_strip(void *arg, int64_t c, int worker) {
  logits_arg *a = arg;
  int64_t V = a->w->M, C = a->w->N, v0 = c * VSTRIP, v1 = lc_min64(v0 + VSTRIP, V), ld;
  if (a->rows == 1 && a->w->form->ops->gemv && !a->w->n_delta) {
    LC_TRY(a->int8 ? lc_form_gemv_q8(a->run->ctx, a->w->form, v0, v1, &a->q8, a->dst + v0)
                   : a->w->form->ops->gemv(a->run->ctx, a->w->form, v0, v1, a->x, a->dst + v0));
    return add_bias(a, v0, v1);
  }
  const void *tile;
  LC_TRY(lc_weight_tile(a->run->ctx, worker, a->w, (lc_rect){v0, v1, 0, C}, LC_F32, &tile, &ld));
  lc_gemm_shape s = {.m = a->rows,
                     .n = v1 - v0,
                     .k = C,
                     .lda = C,
                     .ldb = ld,
                     .ldc = V,
                     .trans_b = true,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32};
  LC_TRY(lc_gemm(a->run->ctx, worker, &s, a->x, tile, a->dst + v0));
  return add_bias(a, v0, v1);
}

lc_status lc_head_logits(lc_run *run, lc_val hidden, const lc_weight *w, int64_t r0, int64_t r1, float *dst) {
  int64_t C = w->N;
  float *x = lc_scratch(run->ctx, 0, 2, (size_t)((r1 - r0) * C) * sizeof *x);
  if (!x) return LC_FAILED;
  for (int64_t r = r0; r < r1; r++) {
    const float *h = lc_row_get(run, hidden, r, x + (r - r0) * C);
    if (h != x + (r - r0) * C) memcpy(x + (r - r0) * C, h, (size_t)C * sizeof *h);
  }
  logits_arg a = {.run = run, .w = w, .x = x, .dst = dst, .rows = r1 - r0};
  a.int8 = run->int8 && a.rows == 1 && !w->n_delta && lc_form_takes_q8(w->form);
  if (a.int8) {
    void *room = lc_scratch(run->ctx, 0, 3, lc_q8_bytes(C));
    if (!room) return LC_FAILED;
    a.q8 = lc_q8_in(room, C);
    lc_kernels_get(run->ctx)->quantise_q8(C, x, &a.q8);
  }
  return lc_parallel(run->ctx, lc_ceil_div(w->M, VSTRIP), logits_strip, &a);
}
