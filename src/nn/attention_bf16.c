/* Attention over values in bf16, without a cache: three loops over the whole micro-batch, so that few sequences keep
 * many threads busy too.
 *
 *   pack      a chunk is a sequence and key head: its keys and values, once for all query heads that share them
 *   multiply  forward: a chunk is a sequence, query head and tile of 128 queries; backward: a sequence and query head,
 *             with dk and dv of its own
 *   gather    backward: a sequence and key head: dk and dv of its query heads are added in their order
 *
 * Sequences go in groups of GROUP_ROWS rows or a single longer one, which bounds the scratch. What a sequence gets does
 * not depend on the others, nor on threads. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

enum { SLOT_PACKED = 4, SLOT_DKV = 5, SLOT_MINE = 6, GROUP_ROWS = 4096 };

typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_attention_opts *a;
  const lc_kernels *kn;
  int s0, s1;    /* segments of the group */
  int64_t parts; /* tiles of the longest */
  int64_t HD, GD, width;
  uint8_t *packed;
  float *dkv; /* dk, then dv, of every query head */
} job;

/* Rows before a segment in a group's buffers: every segment may be padded to a whole panel. */
static int64_t padded_row(const job *w, int s) {
  const lc_segment *seg = w->run->seg;
  return seg[s].row0 - seg[w->s0].row0 + (int64_t)LC_ATTN_PANEL * (s - w->s0);
}
static int64_t padded_rows(const job *w) {
  return padded_row(w, w->s1 - 1) + w->run->seg[w->s1 - 1].row1 - w->run->seg[w->s1 - 1].row0 + LC_ATTN_PANEL;
}
/* Room for rows of one head in f32 twice: packed keys and values of one key head, dk and dv of one query head. */
static size_t head_bytes(const job *w, int64_t rows) {
  return (size_t)(8 * rows * w->width);
}
static uint8_t *packed_of(const job *w, int s, int64_t g) {
  return w->packed + head_bytes(w, g * padded_rows(w) + padded_row(w, s));
}
static float *dk_of(const job *w, int s, int64_t h) {
  return w->dkv + head_bytes(w, h * padded_rows(w) + padded_row(w, s)) / sizeof(float);
}

static lc_attention_shape shape_of(const job *w, const lc_segment *seg) {
  return (lc_attention_shape){seg->row1 - seg->row0, w->a->head_dim, w->a->window, !w->a->bidirectional,
                              w->a->scale};
}
static const uint16_t *rows_of(const job *w, lc_val v, int64_t width, int64_t row, int64_t column) {
  return (const uint16_t *)lc_data(w->run, v) + row * width + column;
}

static lc_status pack_chunk(void *arg, int64_t chunk, int worker) {
  const job *w = arg;
  int s = w->s0 + (int)(chunk / w->a->kv_heads);
  int64_t g = chunk % w->a->kv_heads, row = w->run->seg[s].row0, column = g * w->a->head_dim;
  lc_attention_shape shape = shape_of(w, &w->run->seg[s]);
  w->kn->attention_pack(&shape, w->dkv != NULL, rows_of(w, w->n->in[1], w->GD, row, column), w->GD,
                        rows_of(w, w->n->in[2], w->GD, row, column), w->GD, packed_of(w, s, g));
  return LC_OK;
}

/* n rows of D floats, the first at src and ld apart, to a value's or gradient's rows from `row`, columns from `column`.
 * add: to f32 gradients that others wrote before. */
static void put_rows(const job *w, void *base, lc_dtype dtype, int64_t width, int64_t row, int64_t column,
                     int64_t n, const float *src, bool add) {
  int64_t D = w->a->head_dim, at = row * width + column;
  for (int64_t r = 0; r < n; r++, at += width, src += w->width)
    if (dtype == LC_BF16)
      w->kn->f32_to_bf16(D, src, (uint16_t *)base + at);
    else if (add)
      w->kn->add(D, (float *)base + at, src, (float *)base + at);
    else
      memcpy((float *)base + at, src, (size_t)D * sizeof *src);
}
static void put_gradient(const job *w, int in, int64_t width, int64_t row, int64_t column, int64_t n,
                         const float *src) {
  if (!(w->n->want & LC_IN(in))) return;
  put_rows(w, lc_grad(w->run, w->n->in[in]), lc_grad_dtype(w->run, w->n->in[in]), width, row, column, n, src,
           !(w->n->overwrite & LC_IN(in)));
}

/* A worker's: a tile of rows, its lse, a tile of the output's gradient in bf16, and what the kernels use. */
typedef struct {
  float *tile, *lse;
  uint16_t *dout;
  void *scratch;
} mine;
static lc_status mine_of(const job *w, int worker, mine *m) {
  size_t tile = (size_t)(LC_ATTN_TILE * w->width) * sizeof(float);
  uint8_t *p = lc_scratch(w->run->ctx, worker, SLOT_MINE,
                          2 * tile + LC_ATTN_TILE * sizeof(float) + LC_ATTN_BF16_SCRATCH(w->a->head_dim));
  if (!p) return LC_FAILED;
  m->tile = (float *)(void *)p;
  m->dout = (uint16_t *)(void *)(p + tile);
  m->lse = (float *)(void *)(p + 2 * tile);
  m->scratch = m->lse + LC_ATTN_TILE;
  return LC_OK;
}

static lc_status forward_chunk(void *arg, int64_t chunk, int worker) {
  const job *w = arg;
  int64_t H = w->a->heads, D = w->a->head_dim, h = chunk % H;
  int64_t t = (w->parts - 1 - chunk / H % w->parts) * LC_ATTN_TILE; /* the longest chunks first */
  int s = w->s0 + (int)(chunk / H / w->parts);
  lc_attention_shape shape = shape_of(w, &w->run->seg[s]);
  int64_t n = lc_min64(LC_ATTN_TILE, shape.tk - t), row = w->run->seg[s].row0 + t;
  if (n <= 0) return LC_OK;
  mine m;
  LC_TRY(mine_of(w, worker, &m));
  w->kn->attention_bf16(&shape, n, t, rows_of(w, w->n->in[0], w->HD, row, h * D), w->HD,
                        packed_of(w, s, h / (H / w->a->kv_heads)), m.tile, m.lse, m.scratch);
  put_rows(w, lc_data(w->run, w->n->out[0]), LC_BF16, w->HD, row, h * D, n, m.tile, false);
  float *lse = lc_data(w->run, w->n->out[1]);
  for (int64_t i = 0; i < n; i++) lse[(row + i) * H + h] = m.lse[i];
  return LC_OK;
}

/* n rows of the output's gradient for head h, in bf16. */
static const uint16_t *dout_rows(const job *w, int64_t row, int64_t n, int64_t h, uint16_t *tmp,
                                 int64_t *ld) {
  int64_t D = w->a->head_dim;
  const void *grad = lc_grad(w->run, w->n->out[0]);
  *ld = w->HD;
  if (lc_grad_dtype(w->run, w->n->out[0]) == LC_BF16) return (const uint16_t *)grad + row * w->HD + h * D;
  *ld = D;
  for (int64_t i = 0; i < n; i++)
    w->kn->f32_to_bf16(D, (const float *)grad + (row + i) * w->HD + h * D, tmp + i * D);
  return tmp;
}

static lc_status backward_chunk(void *arg, int64_t chunk, int worker) {
  const job *w = arg;
  int64_t H = w->a->heads, D = w->a->head_dim, h = chunk % H;
  int s = w->s0 + (int)(chunk / H);
  lc_attention_shape shape = shape_of(w, &w->run->seg[s]);
  mine m;
  LC_TRY(mine_of(w, worker, &m));
  float *dk = dk_of(w, s, h), *dv = dk + LC_ATTN_KEYS(shape.tk) * w->width;
  memset(dk, 0, head_bytes(w, LC_ATTN_KEYS(shape.tk)));
  for (int64_t t = 0; t < shape.tk; t += LC_ATTN_TILE) {
    int64_t n = lc_min64(LC_ATTN_TILE, shape.tk - t), row = w->run->seg[s].row0 + t, ld;
    const uint16_t *dout = dout_rows(w, row, n, h, m.dout, &ld);
    const float *lse = lc_data(w->run, w->n->out[1]);
    for (int64_t i = 0; i < n; i++) m.lse[i] = lse[(row + i) * H + h];
    w->kn->attention_back_bf16(&shape, n, t, rows_of(w, w->n->in[0], w->HD, row, h * D), w->HD,
                               rows_of(w, w->n->out[0], w->HD, row, h * D), w->HD, dout, ld, m.lse,
                               packed_of(w, s, h / (H / w->a->kv_heads)), m.tile, dk, dv, m.scratch);
    put_gradient(w, 0, w->HD, row, h * D, n, m.tile);
  }
  return LC_OK;
}

static lc_status gather_chunk(void *arg, int64_t chunk, int worker) {
  const job *w = arg;
  int64_t G = w->a->kv_heads, g = chunk % G, group = w->a->heads / G, D = w->a->head_dim;
  int s = w->s0 + (int)(chunk / G);
  int64_t row = w->run->seg[s].row0, T = w->run->seg[s].row1 - row, size = LC_ATTN_KEYS(T) * w->width;
  float *dk = dk_of(w, s, g * group);
  for (int64_t h = 1; h < group; h++) w->kn->add(2 * size, dk, dk_of(w, s, g * group + h), dk);
  put_gradient(w, 1, w->GD, row, g * D, T, dk);
  put_gradient(w, 2, w->GD, row, g * D, T, dk + size);
  return LC_OK;
}

/* One group of segments. */
static lc_status group(job *w, bool back) {
  lc_ctx *ctx = w->run->ctx;
  int64_t n = w->s1 - w->s0, H = w->a->heads, G = w->a->kv_heads;
  int me = lc_worker(ctx);
  w->packed = lc_scratch(ctx, me, SLOT_PACKED, head_bytes(w, padded_rows(w) * G));
  if (!w->packed) return LC_FAILED;
  w->dkv = NULL;
  if (back && !(w->dkv = lc_scratch(ctx, me, SLOT_DKV, head_bytes(w, padded_rows(w) * H)))) return LC_FAILED;
  LC_TRY(lc_parallel(ctx, n * G, pack_chunk, w));
  if (!back) return lc_parallel(ctx, n * w->parts * H, forward_chunk, w);
  LC_TRY(lc_parallel(ctx, n * H, backward_chunk, w));
  return lc_parallel(ctx, n * G, gather_chunk, w);
}

static lc_status all_groups(const lc_node *n, lc_run *run, bool back) {
  const lc_attention_opts *a = n->attr;
  job w = {.n = n, .run = run, .a = a, .kn = lc_kernels_get(run->ctx)};
  w.HD = a->heads * a->head_dim, w.GD = a->kv_heads * a->head_dim, w.width = LC_ATTN_LD(a->head_dim);
  for (w.s0 = 0; w.s0 < run->n_seg; w.s0 = w.s1) {
    int64_t longest = 0;
    for (w.s1 = w.s0; w.s1 < run->n_seg; w.s1++) {
      if (w.s1 > w.s0 && run->seg[w.s1].row1 - run->seg[w.s0].row0 > GROUP_ROWS) break;
      longest = lc_max64(longest, run->seg[w.s1].row1 - run->seg[w.s1].row0);
    }
    w.parts = lc_ceil_div(longest, LC_ATTN_TILE);
    LC_TRY(group(&w, back));
  }
  return LC_OK;
}

lc_status lc_attention_bf16_forward(const lc_node *n, lc_run *run) {
  return all_groups(n, run, false);
}

lc_status lc_attention_bf16_backward(const lc_node *n, lc_run *run) {
  return all_groups(n, run, true);
}
