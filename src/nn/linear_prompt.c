/* Many rows without gradients (a prompt) through linear layers whose weights are quantised, where integer products are the fastest
 * (lc_gemm_takes_q8) and generation may use them (lc_run.int8): tokens become bytes, weights are packed as they are stored and never decoded.
 *
 * As in linear_few.c, layers that read the same input are one loop, so that it becomes bytes once, and gate and up make their silu_mul together. A chunk
 * is a strip of a weight's rows and all tokens: it packs its strip, and takes the tokens ROWS at a time, whose results go from the first-level cache
 * to their place. */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <string.h>

enum { MORE_THAN = 4 /* rows: linear_few.c's */, PARTS = 4, STRIP = 64, ROWS = 48, QUANTISED_ROWS = 16 };

typedef struct {
  const lc_node *n;
  const lc_linear_attr *at;
  const float *residual;
  void *out;
} part;
typedef struct {
  lc_run *run;
  int n_part;
  part part[PARTS];
  const lc_node *silu; /* of the first two parts, or NULL */
  lc_val in;
  lc_q8_rows x;
} prompt;

/* ---- which ---- */

static bool takes(const lc_node *n, const lc_run *run) {
  const lc_weight *w = ((const lc_linear_attr *)n->attr)->w;
  if (!run->int8 || run->training || !run->kv || run->rows <= MORE_THAN || !lc_form_takes_q8(w->form))
    return false;
  for (int i = 0; i < w->n_delta; i++) /* a delta that changes the weight itself: the dense path */
    if (w->delta[i]->apply != LC_IN_PLACE && w->delta[i]->ops->patch && !w->delta[i]->ops->emit &&
        w->delta[i]->scale != 0)
      return false;
  return lc_gemm_takes_q8(run->ctx, w->form->src.dtype, ((const lc_linear_attr *)n->attr)->compute);
}

static void add_part(prompt *p, const lc_node *n) {
  const lc_linear_attr *at = n->attr;
  p->part[p->n_part++] =
      (part){n, at, n->in[1].id ? lc_data(p->run, n->in[1]) : NULL, lc_data(p->run, n->out[0])};
}

/* gate, up and silu_mul(gate, up) in a row. */
static bool feeds_silu(const prompt *p, const lc_node *n) {
  const part *gate = &p->part[0], *up = &p->part[1];
  return p->n_part == 2 && n->op == &lc_op_silu_mul && n->in[0].id == gate->n->out[0].id &&
         n->in[1].id == up->n->out[0].id && gate->at->w->M == up->at->w->M && !gate->residual &&
         !up->residual;
}

/* ---- chunks ---- */

static lc_status quantise_rows(void *arg, int64_t c, int worker) {
  prompt *p = arg;
  int64_t t1 = lc_min64((c + 1) * QUANTISED_ROWS, p->run->rows);
  float *tmp = lc_scratch(p->run->ctx, worker, 1, (size_t)p->x.n * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t t = c * QUANTISED_ROWS; t < t1; t++)
    lc_q8_rows_set(lc_kernels_get(p->run->ctx), &p->x, t, lc_row_get(p->run, p->in, t, tmp));
  return LC_OK;
}

/* One token's results y of rows [m0,m0+n) of a part -> its output. */
static void put(const prompt *p, const part *a, int64_t t, int64_t m0, int64_t n, float *y) {
  const lc_kernels *k = lc_kernels_get(p->run->ctx);
  int64_t at = t * a->at->w->M + m0;
  if (a->at->bias) k->add(n, y, a->at->bias->vector + m0, y);
  if (a->residual) {
    k->add(n, y, a->residual + at, (float *)a->out + at);
  } else if (a->at->compute == LC_F32) {
    memcpy((float *)a->out + at, y, (size_t)n * sizeof *y);
  } else {
    k->f32_to_bf16(n, y, (uint16_t *)a->out + at);
  }
}

static void put_silu(const prompt *p, int64_t t, int64_t m0, int64_t n, const float *gate, const float *up) {
  const lc_kernels *k = lc_kernels_get(p->run->ctx);
  const lc_linear_attr *at = p->part[0].at;
  const int64_t i = t * at->w->M + m0;
  void *out = lc_data(p->run, p->silu->out[0]);
  if (at->compute == LC_F32)
    k->silu_mul(n, gate, up, (float *)out + i);
  else
    k->silu_mul_bf16(n, (const uint16_t *)p->part[0].out + i, (const uint16_t *)p->part[1].out + i,
                     (uint16_t *)out + i);
}

/* The strip's rows of W, packed, of n parts from the i-th: one, or gate and up. */
static lc_status strip(prompt *p, int i, int n, int64_t m0, int worker) {
  lc_ctx *ctx = p->run->ctx;
  const lc_kernels *k = lc_kernels_get(ctx);
  const int64_t N = p->x.n, m1 = lc_min64(m0 + STRIP, p->part[i].at->w->M),
                panels = lc_ceil_div(m1 - m0, LC_Q8_PANEL);
  uint8_t *packed = lc_scratch(ctx, worker, 0, 2 * STRIP / LC_Q8_PANEL * lc_q8_panel_bytes(LC_Q4_1, N));
  float(*y)[ROWS][STRIP] = lc_scratch(ctx, worker, 1, 2 * sizeof *y);
  if (!packed || !y) return LC_FAILED;
  const uint8_t *at[2];
  for (int j = 0; j < n; j++) {
    const lc_form *f = p->part[i + j].at->w->form;
    at[j] = packed;
    for (int64_t m = m0; m < m1; m += LC_Q8_PANEL, packed += lc_q8_panel_bytes(f->src.dtype, N))
      lc_form_pack_q8(ctx, f, m, lc_min64(m + LC_Q8_PANEL, m1), packed);
  }
  for (int64_t t0 = 0; t0 < p->run->rows; t0 += ROWS) {
    int64_t T = lc_min64(ROWS, p->run->rows - t0);
    for (int j = 0; j < n; j++) {
      k->gemm_q8(p->part[i + j].at->w->form->src.dtype, T, panels, at[j], &p->x, t0, y[j][0], STRIP);
      for (int64_t t = 0; t < T; t++) put(p, &p->part[i + j], t0 + t, m0, m1 - m0, y[j][t]);
    }
    for (int64_t t = 0; t < T && n == 2; t++) put_silu(p, t0 + t, m0, m1 - m0, y[0][t], y[1][t]);
  }
  return LC_OK;
}

static int64_t strips_of(const part *a) {
  return lc_ceil_div(a->at->w->M, STRIP);
}

static lc_status chunk(void *arg, int64_t c, int worker) {
  prompt *p = arg;
  int i = 0;
  if (p->silu) return strip(p, 0, 2, c * STRIP, worker);
  while (c >= strips_of(&p->part[i])) c -= strips_of(&p->part[i++]);
  return strip(p, i, 1, c * STRIP, worker);
}

int lc_linear_prompt(const lc_node *const *node, int n, lc_run *run, lc_status *st) {
  prompt p = {.run = run, .in = node[0]->in[0]};
  int used = 0;
  int64_t chunks = 0, N = ((const lc_linear_attr *)node[0]->attr)->w->N;
  *st = LC_OK;
  while (used < n && p.n_part < PARTS && node[used]->op == &lc_op_linear && node[used]->in[0].id == p.in.id &&
         takes(node[used], run))
    add_part(&p, node[used++]);
  if (!used) return 0;
  if (used < n && feeds_silu(&p, node[used])) p.silu = node[used++];
  void *room = lc_scratch(run->ctx, 0, 2, lc_q8_rows_bytes(run->rows, N));
  if (!room) {
    *st = LC_FAILED;
    return used;
  }
  p.x = lc_q8_rows_in(room, run->rows, N);
  for (int i = 0; i < (p.silu ? 1 : p.n_part); i++) chunks += strips_of(&p.part[i]);
  *st = lc_parallel(run->ctx, lc_ceil_div(run->rows, QUANTISED_ROWS), quantise_rows, &p);
  if (!*st) *st = lc_parallel(run->ctx, chunks, chunk, &p);
  return used;
}
