/* attention: causal (or bidirectional) softmax(q·kᵀ·scale)·v per segment, tiles of 64 queries, online softmax; backward recomputes the probabilities from the
 * saved log-sum-exps (Dao et al. 2022). q (T,H·D), k and v (T,G·D): query head h reads key head h/(H/G); heads are not copied.
 * out[0] (T,H·D); out[1] (T,H) log-sum-exp.
 *
 * Values in bf16 without a cache go to attention_bf16.c. Here everything is f32: a chunk is one segment and key head, whose keys serve all
 * query heads of the group. With a cache (run->kv) new keys are appended first and the whole sequence is read back; for one new position where it
 * is stored. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

static lc_status shape(lc_graph *g, lc_node *n) {
  const lc_attention_opts *a = n->attr;
  const lc_value *q = lc_value_get(g, n->in[0]), *k = lc_value_get(g, n->in[1]),
                 *v = lc_value_get(g, n->in[2]);
  lc_ctx *ctx = lc_graph_ctx(g);
  if (a->heads <= 0 || a->kv_heads <= 0 || a->heads % a->kv_heads)
    return lc_fail(ctx, "attention: %lld heads cannot share %lld key heads", (long long)a->heads,
                   (long long)a->kv_heads);
  if (a->bidirectional && a->window)
    return lc_fail(ctx, "attention: a window of %lld in both directions is not built", (long long)a->window);
  if (a->head_dim > LC_ATTN_MAX_D)
    return lc_fail(ctx, "attention: heads of %lld columns, at most %d are built", (long long)a->head_dim,
                   LC_ATTN_MAX_D);
  if (!q || !k || !v || q->width != a->heads * a->head_dim || k->width != a->kv_heads * a->head_dim ||
      v->width != k->width || k->dtype != q->dtype || v->dtype != q->dtype)
    return lc_fail(
        ctx, "attention: q, k, v of %lld, %lld, %lld columns do not fit %lld and %lld heads of %lld",
        q ? (long long)q->width : 0LL, k ? (long long)k->width : 0LL, v ? (long long)v->width : 0LL,
        (long long)a->heads, (long long)a->kv_heads, (long long)a->head_dim);
  LC_TRY(lc_node_out(g, n, 0, "attention", q->dtype, q->width));
  return lc_node_out(g, n, 1, "lse", LC_F32, a->heads);
}

static uint32_t saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(0) | LC_IN(1) | LC_IN(2) | LC_OUT(0) | LC_OUT(1) : 0;
}

/* A block of rows × D columns starting at column c of a value or gradient, as f32: its own memory, or widened into tmp. */
static const float *block(const lc_run *run, const void *base, lc_dtype dtype, int64_t width, int64_t r0,
                          int64_t rows, int64_t c, int64_t D, float *tmp, int64_t *ld) {
  if (dtype == LC_F32) {
    *ld = width;
    return (const float *)base + r0 * width + c;
  }
  for (int64_t r = 0; r < rows; r++)
    lc_kernels_get(run->ctx)->bf16_to_f32(D, (const uint16_t *)base + (r0 + r) * width + c, tmp + r * D);
  *ld = D;
  return tmp;
}

/* The other way: rows of f32 into a value or gradient. add: f32 gradients that others wrote before. */
static void put_block(const lc_run *run, void *base, lc_dtype dtype, int64_t width, int64_t r0, int64_t rows,
                      int64_t c, int64_t D, const float *src, bool add) {
  const lc_kernels *k = lc_kernels_get(run->ctx);
  for (int64_t r = 0; r < rows; r++) {
    int64_t at = (r0 + r) * width + c;
    if (dtype == LC_BF16)
      k->f32_to_bf16(D, src + r * D, (uint16_t *)base + at);
    else if (add)
      k->add(D, (float *)base + at, src + r * D, (float *)base + at);
    else
      memcpy((float *)base + at, src + r * D, (size_t)D * sizeof *src);
  }
}

typedef struct {
  const lc_node *n;
  lc_run *run;
} attention_arg;
typedef struct {
  const lc_attention_opts *a;
  const lc_segment *seg;
  lc_dtype dtype;
  int64_t g, T, D, HD, GD, group;
} piece;

static piece piece_of(const attention_arg *arg, int64_t chunk) {
  const lc_attention_opts *a = arg->n->attr;
  const lc_segment *seg = &arg->run->seg[chunk / a->kv_heads];
  return (piece){a,
                 seg,
                 lc_value_dtype(arg->run, arg->n->in[0]),
                 chunk % a->kv_heads,
                 seg->row1 - seg->row0,
                 a->head_dim,
                 a->heads * a->head_dim,
                 a->kv_heads * a->head_dim,
                 a->heads / a->kv_heads};
}

/* Where the kernels put a tile of queries, the first at `position` of nk keys: behind all keys, a query sees each. */
static int64_t stand(const lc_attention_opts *a, int64_t position, int64_t nk) {
  return a->bidirectional ? nk : position;
}

static lc_status forward_chunk(void *arg, int64_t chunk, int worker) {
  attention_arg *aa = arg;
  lc_run *run = aa->run;
  const lc_node *n = aa->n;
  piece p = piece_of(aa, chunk);
  int64_t D = p.D, q0 = run->kv ? p.seg->pos0 : 0, nk = q0 + p.T, ldk, ldv;
  const float *k, *v;
  float *mine = lc_scratch(run->ctx, worker, 6,
                           ((size_t)(2 * LC_ATTN_TQ * D) + LC_ATTN_TQ + LC_ATTN_SCRATCH(D)) * sizeof *mine);
  if (!mine) return LC_FAILED;
  if (run->kv) {
    LC_TRY(run->kv_ops->get(run->kv, p.a->layer, p.seg->sequence, p.g, nk, worker, &k, &v, &ldk));
    ldv = ldk;
  } else {
    float *kv = lc_scratch(run->ctx, worker, 4, (size_t)(2 * p.T * D) * sizeof *kv);
    if (!kv) return LC_FAILED;
    k = block(run, lc_data(run, n->in[1]), p.dtype, p.GD, p.seg->row0, p.T, p.g * D, D, kv, &ldk);
    v = block(run, lc_data(run, n->in[2]), p.dtype, p.GD, p.seg->row0, p.T, p.g * D, D, kv + p.T * D, &ldv);
  }
  float *qt = mine, *ot = mine + LC_ATTN_TQ * D, *lse = mine + 2 * LC_ATTN_TQ * D,
        *scratch = lse + LC_ATTN_TQ;
  for (int64_t h = p.g * p.group; h < (p.g + 1) * p.group; h++)
    for (int64_t t = 0; t < p.T; t += LC_ATTN_TQ) {
      int64_t tq = lc_min64(LC_ATTN_TQ, p.T - t), ldq, row = p.seg->row0 + t;
      const float *q = block(run, lc_data(run, n->in[0]), p.dtype, p.HD, row, tq, h * D, D, qt, &ldq);
      const int64_t at = stand(p.a, q0 + t, nk);
      lc_kernels_get(run->ctx)->attention(tq, lc_min64(nk, at + tq), D, at, p.a->window, p.a->scale, q, ldq,
                                          k, ldk, v, ldv, ot, D, lse, scratch);
      put_block(run, lc_data(run, n->out[0]), p.dtype, p.HD, row, tq, h * D, D, ot, false);
      for (int64_t i = 0; i < tq; i++)
        ((float *)lc_data(run, n->out[1]))[(row + i) * p.a->heads + h] = lse[i];
    }
  return LC_OK;
}

/* Whether every sequence has one new position and lies in the cache in one piece. */
static bool stands_in_cache(const lc_node *n, const lc_run *run) {
  const lc_attention_opts *a = n->attr;
  const void *k, *v;
  lc_dtype dtype;
  for (int s = 0; s < run->n_seg; s++) {
    const lc_segment *seg = &run->seg[s];
    if (seg->row1 - seg->row0 != 1 ||
        !run->kv_ops->view(run->kv, a->layer, seg->sequence, 0, seg->pos0 + 1, &k, &v, &dtype))
      return false;
  }
  return true;
}

/* One new position of a sequence and a query head: keys and values are read where the cache keeps them. */
static lc_status position_chunk(void *arg, int64_t chunk, int worker) {
  const attention_arg *aa = arg;
  lc_run *run = aa->run;
  const lc_attention_opts *a = aa->n->attr;
  const lc_segment *seg = &run->seg[chunk / a->heads];
  const lc_kernels *kn = lc_kernels_get(run->ctx);
  int64_t D = a->head_dim, h = chunk % a->heads, nk = seg->pos0 + 1,
          first = a->window > 0 ? lc_max64(0, nk - a->window) : 0, ldq;
  const void *k, *v;
  lc_dtype stored, dtype = lc_value_dtype(run, aa->n->in[0]);
  float *p = lc_scratch(run->ctx, worker, 6, (size_t)(nk - first + 2 * D) * sizeof *p);
  if (!p) return LC_FAILED;
  if (!run->kv_ops->view(run->kv, a->layer, seg->sequence, h / (a->heads / a->kv_heads), nk, &k, &v, &stored))
    return lc_fail(run->ctx, "the cache has no %lld positions of layer %d", (long long)nk, a->layer);
  float *q = p + (nk - first), *out = q + D;
  size_t row = (size_t)D * (stored == LC_F32 ? 4u : 2u);
  const float *mine =
      block(run, lc_data(run, aa->n->in[0]), dtype, a->heads * D, seg->row0, 1, h * D, D, q, &ldq);
  kn->gemv(stored, nk - first, D, (const uint8_t *)k + (size_t)first * row, row, mine, p);
  kn->scale(nk - first, a->scale, p);
  ((float *)lc_data(run, aa->n->out[1]))[seg->row0 * a->heads + h] = kn->softmax(nk - first, p);
  kn->mix_rows(stored, nk - first, D, (const uint8_t *)v + (size_t)first * row, row, p, out);
  put_block(run, lc_data(run, aa->n->out[0]), dtype, a->heads * D, seg->row0, 1, h * D, D, out, false);
  return LC_OK;
}

/* New keys and values of every segment go to the cache, as f32. */
static lc_status append(const lc_node *n, lc_run *run) {
  const lc_attention_opts *a = n->attr;
  int64_t GD = a->kv_heads * a->head_dim, ld;
  lc_dtype dtype = lc_value_dtype(run, n->in[1]);
  float *tmp = lc_scratch(run->ctx, 0, 4, (size_t)(2 * run->rows * GD) * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int s = 0; s < run->n_seg; s++) {
    const lc_segment *seg = &run->seg[s];
    int64_t T = seg->row1 - seg->row0;
    const float *k = block(run, lc_data(run, n->in[1]), dtype, GD, seg->row0, T, 0, GD, tmp, &ld);
    const float *v = block(run, lc_data(run, n->in[2]), dtype, GD, seg->row0, T, 0, GD, tmp + T * GD, &ld);
    LC_TRY(run->kv_ops->append(run->kv, a->layer, seg->sequence, seg->pos0, T, k, v, ld));
  }
  return LC_OK;
}

static lc_status forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_attention_opts *a = n->attr;
  if (!run->kv && lc_value_dtype(run, n->in[0]) == LC_BF16) return lc_attention_bf16_forward(n, run);
  if (run->kv && a->bidirectional) return lc_fail(run->ctx, "attention in both directions has no cache");
  if (run->kv) LC_TRY(append(n, run));
  attention_arg arg = {n, run};
  if (run->kv && stands_in_cache(n, run))
    return lc_parallel(run->ctx, run->n_seg * a->heads, position_chunk, &arg);
  return lc_parallel(run->ctx, run->n_seg * a->kv_heads, forward_chunk, &arg);
}

static lc_status backward_chunk(void *arg, int64_t chunk, int worker) {
  attention_arg *aa = arg;
  lc_run *run = aa->run;
  const lc_node *n = aa->n;
  piece p = piece_of(aa, chunk);
  const lc_kernels *kn = lc_kernels_get(run->ctx);
  int64_t D = p.D, TD = p.T * D, ldk, ldv;
  float *kv = lc_scratch(run->ctx, worker, 4, (size_t)(4 * TD) * sizeof *kv);
  float *mine =
      lc_scratch(run->ctx, worker, 6,
                 ((size_t)(4 * LC_ATTN_TQ * D) + 2 * LC_ATTN_TQ + LC_ATTN_SCRATCH(D)) * sizeof *mine);
  if (!kv || !mine) return LC_FAILED;
  const float *k = block(run, lc_data(run, n->in[1]), p.dtype, p.GD, p.seg->row0, p.T, p.g * D, D, kv, &ldk);
  const float *v =
      block(run, lc_data(run, n->in[2]), p.dtype, p.GD, p.seg->row0, p.T, p.g * D, D, kv + TD, &ldv);
  float *dk = kv + 2 * TD, *dv = kv + 3 * TD;
  memset(dk, 0, (size_t)(2 * TD) * sizeof *dk);
  int64_t tile = LC_ATTN_TQ * D;
  float *lse = mine + 4 * tile, *delta = lse + LC_ATTN_TQ, *scratch = delta + LC_ATTN_TQ;
  for (int64_t h = p.g * p.group; h < (p.g + 1) * p.group; h++)
    for (int64_t t = 0; t < p.T; t += LC_ATTN_TQ) {
      int64_t tq = lc_min64(LC_ATTN_TQ, p.T - t), row = p.seg->row0 + t, ldq, ldo, lddo;
      const float *q = block(run, lc_data(run, n->in[0]), p.dtype, p.HD, row, tq, h * D, D, mine, &ldq);
      const float *o =
          block(run, lc_data(run, n->out[0]), p.dtype, p.HD, row, tq, h * D, D, mine + tile, &ldo);
      const float *d_o = block(run, lc_grad(run, n->out[0]), lc_grad_dtype(run, n->out[0]), p.HD, row, tq,
                               h * D, D, mine + 2 * tile, &lddo);
      for (int64_t i = 0; i < tq; i++) {
        lse[i] = ((const float *)lc_data(run, n->out[1]))[(row + i) * p.a->heads + h];
        delta[i] = kn->dot(D, o + i * ldo, d_o + i * lddo);
      }
      const int64_t at = stand(p.a, t, p.T);
      kn->attention_back(tq, lc_min64(p.T, at + tq), D, at, p.a->window, p.a->scale, q, ldq, k, ldk, v, ldv,
                         d_o, lddo, lse, delta, mine + 3 * tile, D, dk, D, dv, D, scratch);
      if (n->want & LC_IN(0))
        put_block(run, lc_grad(run, n->in[0]), lc_grad_dtype(run, n->in[0]), p.HD, row, tq, h * D, D,
                  mine + 3 * tile, !(n->overwrite & LC_IN(0)));
    }
  if (n->want & LC_IN(1))
    put_block(run, lc_grad(run, n->in[1]), lc_grad_dtype(run, n->in[1]), p.GD, p.seg->row0, p.T, p.g * D, D,
              dk, !(n->overwrite & LC_IN(1)));
  if (n->want & LC_IN(2))
    put_block(run, lc_grad(run, n->in[2]), lc_grad_dtype(run, n->in[2]), p.GD, p.seg->row0, p.T, p.g * D, D,
              dv, !(n->overwrite & LC_IN(2)));
  return LC_OK;
}

static lc_status backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_attention_opts *a = n->attr;
  if (lc_value_dtype(run, n->in[0]) == LC_BF16) return lc_attention_bf16_backward(n, run);
  attention_arg arg = {n, run};
  return lc_parallel(run->ctx, run->n_seg * a->kv_heads, backward_chunk, &arg);
}

const lc_op lc_op_attention = {
    .name = "attention", .shape = shape, .saves = saves, .forward = forward, .backward = backward};
