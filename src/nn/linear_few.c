/* A few rows without gradients (decoding) through linear layers: products straight from storage, deltas aside.
 *
 * The layers that read the same input (q, k and v; gate and up) are one loop over all their rows: what a loop costs (waking, waiting for
 * the last chunk) counts as much as the few microseconds of products between two layers. Where gate and up feed a silu_mul, whoever has both
 * pieces makes it. A row's product does not depend on its chunk, so chunks may depend on the number of threads. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

enum { FEW = 4, PARTS = 4, LEAST = 32, MAX_STRIP = 512 };

typedef struct {
  const lc_node *n;
  const lc_linear_attr *at;
  bool int8;
  const float *bias, *residual;
  void *out;
} part;
typedef struct {
  lc_run *run;
  int n_part;
  part part[PARTS];
  int64_t strip[PARTS], chunks[PARTS];
  const lc_node *silu; /* of the first two parts, which then share their chunks; or NULL */
  const float *x;      /* rows × N */
  lc_q8_vector q8[FEW];
} few;

/* ---- which ---- */

static bool takes_few(const lc_node *n, const lc_run *run) {
  const lc_weight *w = ((const lc_linear_attr *)n->attr)->w;
  if (run->training || !run->kv || run->rows > FEW || !w->form->ops->gemv) return false;
  for (int i = 0; i < w->n_delta; i++)
    if (w->delta[i]->apply != LC_IN_PLACE && w->delta[i]->ops->patch && !w->delta[i]->ops->emit &&
        !w->delta[i]->ops->aside)
      return false;
  return true;
}

/* Rows a chunk: an equal part for every worker, since memory is read in few long streams (docs/kernels.md), in several where that is more than
 * MAX_STRIP. A GGUF's q and k rows are permuted within heads: whole heads. */
static int64_t strip_of(const lc_form *f, int64_t M, int workers) {
  int64_t share = lc_ceil_div(M, workers), unit = LEAST;
  if (f->row_map) {
    int64_t most = 0, r = 0;
    for (; r < lc_min64(M, MAX_STRIP); r++) {
      most = lc_max64(most, f->row_map[r]);
      if (most == r && r + 1 >= LEAST && (r + 1) % 2 == 0) break;
    }
    unit = r < lc_min64(M, MAX_STRIP) ? r + 1 : LEAST;
  }
  int64_t strip = lc_ceil_div(share, lc_ceil_div(share, MAX_STRIP));
  return lc_max64(unit, lc_min64(lc_ceil_div(strip, unit) * unit, MAX_STRIP / unit * unit));
}

static void add_part(few *f, const lc_node *n) {
  const lc_linear_attr *at = n->attr;
  int i = f->n_part++;
  f->part[i] = (part){.n = n,
                      .at = at,
                      .int8 = f->run->int8 && lc_form_takes_q8(at->w->form),
                      .bias = at->bias ? at->bias->vector : NULL,
                      .residual = n->in[1].id ? lc_data(f->run, n->in[1]) : NULL,
                      .out = lc_data(f->run, n->out[0])};
  f->strip[i] = strip_of(at->w->form, at->w->M, lc_threads(f->run->ctx));
  f->chunks[i] = lc_ceil_div(at->w->M, f->strip[i]);
}

/* gate, up and silu_mul(gate, up) in a row. */
static bool feeds_silu(const few *f, const lc_node *n) {
  const part *gate = &f->part[0], *up = &f->part[1];
  return f->n_part == 2 && n->op == &lc_op_silu_mul && n->in[0].id == gate->n->out[0].id &&
         n->in[1].id == up->n->out[0].id && gate->at->w->M == up->at->w->M && f->strip[0] == f->strip[1] &&
         !gate->residual && !up->residual;
}

/* ---- chunks ---- */

/* Rows [m0,m1) of one part for row t of the input -> its output; y: the same in f32, as the output holds them. */
static lc_status rows_of(few *f, const part *p, int64_t t, int64_t m0, int64_t m1, float *y) {
  lc_ctx *ctx = f->run->ctx;
  const lc_weight *w = p->at->w;
  const float *x = f->x + t * w->N;
  const lc_kernels *k = lc_kernels_get(ctx);
  LC_TRY(p->int8 ? lc_form_gemv_q8(ctx, w->form, m0, m1, &f->q8[t], y)
                 : w->form->ops->gemv(ctx, w->form, m0, m1, x, y));
  for (int i = 0; i < w->n_delta; i++) {
    const lc_delta *d = w->delta[i];
    if (d->apply != LC_IN_PLACE && d->ops->aside && !d->ops->emit && d->scale != 0)
      LC_TRY(d->ops->aside(ctx, d, m0, m1, x, y));
  }
  int64_t n = m1 - m0, at = t * w->M + m0;
  if (p->bias) k->add(n, y, p->bias + m0, y);
  if (p->residual) {
    k->add(n, y, p->residual + at, (float *)p->out + at);
  } else if (p->at->compute == LC_F32) {
    memcpy((float *)p->out + at, y, (size_t)n * sizeof *y);
  } else {
    k->f32_to_bf16(n, y, (uint16_t *)p->out + at);
    if (f->silu) k->bf16_to_f32(n, (uint16_t *)p->out + at, y);
  }
  return LC_OK;
}

static lc_status chunk(void *arg, int64_t c, int worker) {
  few *f = arg;
  const lc_kernels *k = lc_kernels_get(f->run->ctx);
  float y[2][MAX_STRIP];
  int i = 0;
  while (c >= f->chunks[i]) c -= f->chunks[i++];
  const part *p = &f->part[i];
  int64_t M = p->at->w->M, m0 = c * f->strip[i], m1 = lc_min64(m0 + f->strip[i], M);
  for (int64_t t = 0; t < f->run->rows; t++) {
    LC_TRY(rows_of(f, p, t, m0, m1, y[0]));
    if (!f->silu) continue;
    LC_TRY(rows_of(f, p + 1, t, m0, m1, y[1]));
    k->silu_mul(m1 - m0, y[0], y[1], y[0]);
    if (p->at->compute == LC_F32)
      memcpy((float *)lc_data(f->run, f->silu->out[0]) + t * M + m0, y[0], (size_t)(m1 - m0) * sizeof **y);
    else
      k->f32_to_bf16(m1 - m0, y[0], (uint16_t *)lc_data(f->run, f->silu->out[0]) + t * M + m0);
  }
  return LC_OK;
}

/* The rows of x in f32 and, where a part wants them, in bytes: once for all chunks. Copies, since the plan may lay what silu_mul writes over x,
 * which nobody reads after gate and up. */
static lc_status prepare(few *f, lc_val in) {
  lc_run *run = f->run;
  int64_t N = f->part[0].at->w->N;
  size_t bytes = lc_q8_bytes(N), row = (size_t)N * sizeof(float);
  bool int8 = false;
  uint8_t *room = lc_scratch(run->ctx, 0, 2, (bytes + row) * FEW);
  if (!room) return LC_FAILED;
  float *x = (float *)(void *)(room + bytes * FEW);
  f->x = x;
  for (int i = 0; i < f->n_part; i++) int8 |= f->part[i].int8;
  for (int64_t t = 0; t < run->rows; t++, x += N) {
    const float *got = lc_row_get(run, in, t, x);
    if (got != x) memcpy(x, got, row);
    f->q8[t] = lc_q8_in(room + bytes * (size_t)t, N);
    if (int8) lc_kernels_get(run->ctx)->quantise_q8(N, x, &f->q8[t]);
  }
  return LC_OK;
}

int lc_linear_few(const lc_node *const *node, int n, lc_run *run, lc_status *st) {
  few f = {.run = run};
  int used = 0;
  *st = LC_OK;
  while (used < n && f.n_part < PARTS && node[used]->op == &lc_op_linear &&
         node[used]->in[0].id == node[0]->in[0].id && takes_few(node[used], run))
    add_part(&f, node[used++]);
  if (!used) return 0;
  if (used < n && feeds_silu(&f, node[used])) f.silu = node[used++];
  if ((*st = prepare(&f, node[0]->in[0]))) return used;
  int64_t chunks = 0;
  for (int i = 0; i < (f.silu ? 1 : f.n_part); i++) chunks += f.chunks[i];
  *st = lc_parallel(run->ctx, chunks, chunk, &f);
  return used;
}
