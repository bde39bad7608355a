/* low_rank (op_low_rank.c) where x is bf16 and so are products: x and dout enter as they are, or rounded as the linear layer itself rounds them. The
 * factors, h and dh are f32; each enters as two parts in bf16, a = hi + lo, which keep 16 of its bits, side by side in one product:
 *
 *   h  = x·[Ahi|Alo]ᵀ, its halves added        t = s·[hhi|hhi|hlo]·[Bhi|Blo|Bhi]ᵀ, out = y + t
 *   dh = s·dout·[Bhi|Blo]                      dx += [dhhi|dhhi|dhlo]·[Ahi|Alo|Ahi]
 *   dB += s·doutᵀ·[hhi|hlo]                    dA += (xᵀ·[dhhi|dhlo])ᵀ
 *
 * Threes are filled up with zeros to a multiple of 32 (K). Cuts depend on the shape alone. */
#include <string.h>
#include "kernels/kernels.h"
#include "nn/low_rank.h"

enum {
  ROWS = 64,
  STRIP = 64,
  UNIT = 32,
  FROM = 8 /* rows: for fewer, taking the factors apart costs more than it saves */
};
enum { SLOT_OUT = 3, SLOT_ROW = 4, SLOT_DH = 5, SLOT_FACTORS = 6, SLOT_DOUT = 7 };

typedef struct {
  const lc_node *n;
  lc_run *run;
  const lc_delta *d;
  int64_t r0, r1, M, N, R, K;
  float scale;
  lc_dtype y_dtype;
  /* right operands: of two parts and of three; packed where that is known */
  const uint16_t *twos, *threes, *twos_packed, *threes_packed;
  const uint16_t *dout;
  uint16_t *h2, *dh2; /* (rows, 2R) each */
} narrow;

bool lc_low_rank_narrow(const lc_node *n, const lc_run *run) {
  const lc_low_rank_attr *a = n->attr;
  const lc_lora_opts *o = lc_delta_lora_opts(a->delta);
  const lc_gain *gain = lc_delta_lora_gain_of(a->delta);
  return a->x_dtype == LC_BF16 && run->rows >= FROM && lc_has_bf16_gemm(run->ctx) &&
         !(run->training && o->dropout > 0) && !gain->row && !gain->output;
}

static narrow begin(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_low_rank_attr *a = n->attr;
  const lc_delta *d = a->delta;
  const int64_t R = lc_delta_lora_opts(d)->rank;
  return (narrow){.n = n,
                  .run = run,
                  .d = d,
                  .r0 = r0,
                  .r1 = r1,
                  .M = d->w->M,
                  .N = d->w->N,
                  .R = R,
                  .K = lc_ceil_div(3 * R, UNIT) * UNIT,
                  .scale = d->scale * lc_delta_lora_scale(d),
                  .y_dtype = a->y_dtype};
}

/* ---- parts ---- */

/* n values as hi and lo; wide (2n): scratch. */
static void split(const lc_kernels *k, int64_t n, const float *x, uint16_t *hi, uint16_t *lo, float *wide) {
  float *rest = wide + n;
  k->f32_to_bf16(n, x, hi);
  k->bf16_to_f32(n, hi, wide);
  memcpy(rest, x, (size_t)n * sizeof *x);
  k->axpy(n, -1, wide, rest);
  k->f32_to_bf16(n, rest, lo);
}

/* rows × [hi|lo] of R values each. */
static void join2(int64_t rows, int64_t R, const uint16_t *hi, const uint16_t *lo, uint16_t *out) {
  const size_t bytes = (size_t)R * sizeof *out;
  for (int64_t r = 0; r < rows; r++, out += 2 * R)
    memcpy(out, hi + r * R, bytes), memcpy(out + R, lo + r * R, bytes);
}

/* rows × [a|b|c|0] of K values. */
static void join3(int64_t rows, int64_t R, int64_t K, const uint16_t *a, const uint16_t *b, const uint16_t *c,
                  uint16_t *out) {
  const size_t bytes = (size_t)R * sizeof *out;
  for (int64_t r = 0; r < rows; r++, out += K) {
    memcpy(out, a + r * R, bytes), memcpy(out + R, b + r * R, bytes), memcpy(out + 2 * R, c + r * R, bytes);
    memset(out + 3 * R, 0, (size_t)(K - 3 * R) * sizeof *out);
  }
}

static lc_gemm_shape product(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc,
                             bool trans_b, bool packed) {
  return (lc_gemm_shape){.m = m,
                         .n = n,
                         .k = k,
                         .lda = lda,
                         .ldb = ldb,
                         .ldc = ldc,
                         .trans_b = trans_b,
                         .dtype = LC_BF16,
                         .c_dtype = LC_F32,
                         .packed_b = packed};
}

static size_t packed_values(const lc_run *run, int64_t n, int64_t k) {
  return lc_gemm_packed_bytes(run->ctx, LC_BF16, n, k) / sizeof(uint16_t);
}

static const uint16_t *pack(const lc_run *run, const lc_gemm_shape *s, const uint16_t *B, uint16_t *to) {
  if (!packed_values(run, s->n, s->k)) return NULL;
  lc_gemm_pack(run->ctx, s, B, to);
  return to;
}

static int64_t whole_lines(int64_t values) {
  return lc_ceil_div(values, 32) * 32;
}

/* The factors' parts as right operands: forward [A] as two (2R,N), B as three (M,K); backward B as two (M,2R), A as three (K,N). */
static lc_status factors(narrow *w, bool back) {
  const int64_t M = w->M, N = w->N, R = w->R, K = w->K, a = R * N, b = M * R, most = lc_max64(a, b);
  const int64_t twos = whole_lines(2 * (back ? b : a)), threes = whole_lines(K * (back ? N : M)),
                parts = whole_lines(2 * (a + b));
  const lc_gemm_shape of_twos = back ? product(1, 2 * R, M, M, 2 * R, 2 * R, false, false)
                                     : product(1, 2 * R, N, N, N, 2 * R, true, false);
  const lc_gemm_shape of_threes =
      back ? product(1, N, K, K, N, N, false, false) : product(1, M, K, K, K, M, true, false);
  const int64_t p2 = whole_lines((int64_t)packed_values(w->run, of_twos.n, of_twos.k)),
                p3 = whole_lines((int64_t)packed_values(w->run, of_threes.n, of_threes.k));
  const size_t values = (size_t)(twos + threes + p2 + p3 + parts);
  uint16_t *at =
      lc_scratch(w->run->ctx, 0, SLOT_FACTORS, values * sizeof *at + (size_t)(2 * most) * sizeof(float));
  if (!at) return LC_FAILED;
  const lc_kernels *k = lc_kernels_get(w->run->ctx);
  uint16_t *two = at, *three = at + twos, *two_packed = three + threes, *three_packed = two_packed + p2,
           *ahi = three_packed + p3, *alo = ahi + a, *bhi = alo + a, *blo = bhi + b;
  float *wide = (float *)(void *)(at + values);
  split(k, a, w->d->param[0]->value, ahi, alo, wide);
  split(k, b, w->d->param[1]->value, bhi, blo, wide);
  if (back) {
    join2(M, R, bhi, blo, two);
    memcpy(three, ahi, (size_t)a * sizeof *at), memcpy(three + a, alo, (size_t)a * sizeof *at),
        memcpy(three + 2 * a, ahi, (size_t)a * sizeof *at);
    memset(three + 3 * a, 0, (size_t)((K - 3 * R) * N) * sizeof *at);
  } else {
    memcpy(two, ahi, (size_t)(2 * a) * sizeof *at); /* lo lies behind hi */
    join3(M, R, K, bhi, blo, bhi, three);
  }
  w->twos = two, w->threes = three;
  w->twos_packed = pack(w->run, &of_twos, two, two_packed),
  w->threes_packed = pack(w->run, &of_threes, three, three_packed);
  return LC_OK;
}

static lc_status multiply(const narrow *w, int worker, lc_gemm_shape s, const uint16_t *A, const uint16_t *B,
                          const uint16_t *packed, float *C) {
  s.packed_b = packed != NULL;
  return lc_gemm(w->run->ctx, worker, &s, A, packed ? packed : B, C);
}

/* Scratch of a chunk of rows: sums (rows,2R), parts of (rows,R), three of them side by side (rows,K). */
typedef struct {
  float *sums, *wide;
  uint16_t *hi, *lo, *three;
} parts;

static bool parts_of(const narrow *w, int worker, parts *p) {
  const int64_t r = ROWS * w->R;
  uint16_t *three =
      lc_scratch(w->run->ctx, worker, SLOT_ROW,
                 (size_t)(ROWS * w->K + 2 * r) * sizeof *three + (size_t)(4 * r) * sizeof(float));
  if (!three) return false;
  p->three = three, p->hi = three + ROWS * w->K, p->lo = p->hi + r;
  p->sums = (float *)(void *)(p->lo + r), p->wide = p->sums + 2 * r;
  return true;
}

/* out (rows,R) = s·(the two halves of sums added). */
static void add_halves(int64_t rows, int64_t R, float s, const float *sums,
                       float *out) { /* out may be sums: it never overtakes what is read */
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < R; i++) out[r * R + i] = s * (sums[2 * r * R + i] + sums[(2 * r + 1) * R + i]);
}

/* ---- forward ---- */

static lc_status forward_chunk(void *arg, int64_t chunk, int worker) {
  const narrow *w = arg;
  const lc_kernels *k = lc_kernels_get(w->run->ctx);
  const int64_t M = w->M, N = w->N, R = w->R, K = w->K, r0 = w->r0 + chunk * ROWS,
                rows = lc_min64(ROWS, w->r1 - r0);
  float *h = (float *)lc_data(w->run, w->n->out[1]) + r0 * R,
        *t = lc_scratch(w->run->ctx, worker, SLOT_OUT, (size_t)(ROWS * M) * sizeof *t);
  parts p;
  if (!t || !parts_of(w, worker, &p)) return LC_FAILED;
  LC_TRY(multiply(w, worker, product(rows, 2 * R, N, N, N, 2 * R, true, false),
                  (const uint16_t *)lc_data(w->run, w->n->in[1]) + r0 * N, w->twos, w->twos_packed, p.sums));
  add_halves(rows, R, 1, p.sums, h);
  add_halves(rows, R, w->scale, p.sums, p.sums);
  split(k, rows * R, p.sums, p.hi, p.lo, p.wide);
  join3(rows, R, K, p.hi, p.hi, p.lo, p.three);
  LC_TRY(multiply(w, worker, product(rows, M, K, K, K, M, true, false), p.three, w->threes, w->threes_packed,
                  t));
  const uint8_t *y = lc_data(w->run, w->n->in[0]);
  uint8_t *out = lc_data(w->run, w->n->out[0]);
  if (w->y_dtype == LC_BF16)
    k->add_nonzero_bf16(rows * M, 1, t, (const uint16_t *)(const void *)y + r0 * M,
                        (uint16_t *)(void *)out + r0 * M);
  else
    k->add_nonzero(rows * M, 1, t, (const float *)(const void *)y + r0 * M, (float *)(void *)out + r0 * M);
  return LC_OK;
}

lc_status lc_low_rank_bf16_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  narrow w = begin(n, run, r0, r1);
  LC_TRY(factors(&w, false));
  return lc_parallel(run->ctx, lc_ceil_div(r1 - r0, ROWS), forward_chunk, &w);
}

/* ---- backward ---- */

static lc_status round_dout(void *arg, int64_t chunk, int worker) {
  const narrow *w = arg;
  const int64_t r0 = chunk * ROWS, rows = lc_min64(ROWS, w->r1 - w->r0 - r0);
  uint16_t *to = lc_scratch(w->run->ctx, 0, SLOT_DOUT,
                            (size_t)((w->r1 - w->r0) * w->M) * sizeof *to); /* made before the loop */
  lc_kernels_get(w->run->ctx)
      ->f32_to_bf16(rows * w->M, (const float *)lc_grad(w->run, w->n->out[0]) + (w->r0 + r0) * w->M,
                    to + r0 * w->M);
  return LC_OK;
}

/* dh's and h's parts, and dx where it is wanted. */
static lc_status back_rows(void *arg, int64_t chunk, int worker) {
  const narrow *w = arg;
  const lc_kernels *k = lc_kernels_get(w->run->ctx);
  const int64_t M = w->M, N = w->N, R = w->R, K = w->K, at = chunk * ROWS, r0 = w->r0 + at,
                rows = lc_min64(ROWS, w->r1 - r0);
  parts p;
  if (!parts_of(w, worker, &p)) return LC_FAILED;
  if (w->n->want & LC_PARAMS) { /* else h was not kept */
    split(k, rows * R, (const float *)lc_data(w->run, w->n->out[1]) + r0 * R, p.hi, p.lo, p.wide);
    join2(rows, R, p.hi, p.lo, w->h2 + at * 2 * R);
  }
  LC_TRY(multiply(w, worker, product(rows, 2 * R, M, M, 2 * R, 2 * R, false, false), w->dout + at * M,
                  w->twos, w->twos_packed, p.sums));
  add_halves(rows, R, w->scale, p.sums, p.sums);
  split(k, rows * R, p.sums, p.hi, p.lo, p.wide);
  join2(rows, R, p.hi, p.lo, w->dh2 + at * 2 * R);
  if (!(w->n->want & LC_IN(1))) return LC_OK;
  join3(rows, R, K, p.hi, p.hi, p.lo, p.three);
  lc_gemm_shape s = product(rows, N, K, K, N, N, false, false);
  if (lc_grad_dtype(w->run, w->n->in[1]) == LC_F32) {
    s.beta = w->n->overwrite & LC_IN(1) ? 0 : 1;
    return multiply(w, worker, s, p.three, w->threes, w->threes_packed,
                    (float *)lc_grad(w->run, w->n->in[1]) + r0 * N);
  }
  float *dx = lc_scratch(w->run->ctx, worker, SLOT_OUT, (size_t)(ROWS * N) * sizeof *dx);
  if (!dx) return LC_FAILED;
  LC_TRY(multiply(w, worker, s, p.three, w->threes, w->threes_packed, dx));
  for (int64_t r = 0; r < rows; r++) lc_grad_row_put(w->n, w->run, 1, r0 + r, dx + r * N);
  return LC_OK;
}

/* Strips of zᵀ·[hi|lo] over all rows: z is dout (dB) or x (dA). */
typedef struct {
  const narrow *w;
  const uint16_t *z, *two, *packed;
  int64_t width;
  bool of_b;
} strips;

static lc_status strip_chunk(void *arg, int64_t chunk, int worker) {
  const strips *a = arg;
  const narrow *w = a->w;
  const int64_t R = w->R, c0 = chunk * STRIP, cols = lc_min64(STRIP, a->width - c0);
  float *sums = lc_scratch(w->run->ctx, worker, SLOT_OUT, (size_t)(STRIP * 2 * R) * sizeof *sums);
  if (!sums) return LC_FAILED;
  lc_gemm_shape s = product(cols, 2 * R, w->r1 - w->r0, a->width, 2 * R, 2 * R, false, false);
  s.trans_a = true;
  LC_TRY(multiply(w, worker, s, a->z + c0, a->two, a->packed, sums));
  float *grad = w->d->param[a->of_b ? 1 : 0]->grad;
  for (int64_t c = 0; c < cols; c++)
    for (int64_t i = 0; i < R; i++) {
      const float g = sums[2 * c * R + i] + sums[(2 * c + 1) * R + i];
      if (a->of_b)
        grad[(c0 + c) * R + i] += w->scale * g;
      else
        grad[i * w->N + c0 + c] += g;
    }
  return LC_OK;
}

static lc_status gradient(const narrow *w, bool of_b, const uint16_t *two, uint16_t *packed) {
  strips a = {.w = w, .two = two, .width = of_b ? w->M : w->N, .of_b = of_b};
  a.z = of_b ? w->dout : (const uint16_t *)lc_data(w->run, w->n->in[1]) + w->r0 * w->N;
  const lc_gemm_shape s = product(1, 2 * w->R, w->r1 - w->r0, 1, 2 * w->R, 2 * w->R, false, false);
  a.packed = pack(w->run, &s, two, packed);
  return lc_parallel(w->run->ctx, lc_ceil_div(a.width, STRIP), strip_chunk, &a);
}

lc_status lc_low_rank_bf16_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  narrow w = begin(n, run, r0, r1);
  const int64_t T = r1 - r0, two = whole_lines(2 * T * w.R), p = (int64_t)packed_values(run, 2 * w.R, T);
  LC_TRY(factors(&w, true));
  uint16_t *at = lc_scratch(run->ctx, 0, SLOT_DH, (size_t)(2 * two + p) * sizeof *at);
  if (!at) return LC_FAILED;
  w.h2 = at, w.dh2 = at + two;
  w.dout = (const uint16_t *)lc_grad(run, n->out[0]) + r0 * w.M;
  if (lc_grad_dtype(run, n->out[0]) == LC_F32) {
    w.dout = lc_scratch(run->ctx, 0, SLOT_DOUT, (size_t)(T * w.M) * sizeof *w.dout);
    if (!w.dout) return LC_FAILED;
    LC_TRY(lc_parallel(run->ctx, lc_ceil_div(T, ROWS), round_dout, &w));
  }
  LC_TRY(lc_parallel(run->ctx, lc_ceil_div(T, ROWS), back_rows, &w));
  if (n->want & LC_PARAMS && w.d->param[1]->wants_grad) LC_TRY(gradient(&w, true, w.h2, at + 2 * two));
  if (n->want & LC_PARAMS && w.d->param[0]->wants_grad) LC_TRY(gradient(&w, false, w.dh2, at + 2 * two));
  return LC_OK;
}
