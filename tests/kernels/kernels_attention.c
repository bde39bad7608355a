/* Rows of test_kernels.c: attention, in f32 and in bf16, there and back. */
#include "kernels_test.h"

typedef struct {
  int64_t tq, tk, D, q0, window;
} attention_case;
static const attention_case attention_cases[] = {
    {64, 64, 64, 0, 0},     {64, 256, 64, 192, 0}, {1, 1, 64, 0, 0},
    {1, 77, 64, 76, 0},     {1, 130, 64, 129, 50}, {17, 17, 64, 0, 0},
    {33, 100, 32, 67, 0},   {64, 200, 64, 136, 0}, {64, 200, 64, 136, 90},
    {64, 320, 64, 256, 64}, {5, 69, 80, 64, 3},    {64, 128, 128, 64, 0},
    {48, 112, 256, 64, 0},  {7, 200, 20, 100, 0},  {64, 64, 6, 0, 10},
    {13, 150, 65, 137, 1},  {3, 64, 64, 60, 0},    {64, 130, 64, 130, 0},
    {5, 77, 32, 77, 0},     {40, 40, 20, 64, 0}, /* behind all keys: both directions */
};

void row_attention(probe *p) {
  for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++) {
    attention_case c = attention_cases[i];
    int64_t ld = c.D + 5, nq = c.tq * ld, nk = c.tk * ld;
    float *q = randoms(p, nq, 1), *k = randoms(p, nk, 1), *v = randoms(p, nk, 1), *out = zeros(p, nq),
          *lse = zeros(p, c.tq);
    float *scratch = zeros(p, (int64_t)LC_ATTN_SCRATCH(c.D)), scale = 2 / sqrtf((float)c.D);
    double *out64 = room(p, nq, 8), *lse64 = room(p, c.tq, 8);
    p->fast->attention(c.tq, c.tk, c.D, c.q0, c.window, scale, q, ld, k, ld, v, ld, out, ld, lse, scratch);
    p->exact->attention(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, wide(p, nq, q), ld, wide(p, nk, k),
                        ld, wide(p, nk, v), ld, out64, ld, lse64, NULL);
    compare(p, nq + 1, out, out64), compare(p, c.tq + 1, lse, lse64);
  }
}

void row_attention_back(probe *p) {
  for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++) {
    attention_case c = attention_cases[i];
    int64_t ld = c.D + 5, nq = c.tq * ld, nk = c.tk * ld;
    float *q = randoms(p, nq, 1), *k = randoms(p, nk, 1), *v = randoms(p, nk, 1), *dout = randoms(p, nq, 1),
          *delta = zeros(p, c.tq);
    float *scratch = zeros(p, (int64_t)LC_ATTN_SCRATCH(c.D)), scale = 2 / sqrtf((float)c.D),
          *lse = zeros(p, c.tq);
    float *dq = zeros(p, nq), *dk = randoms(p, nk, 1), *dv = randoms(p, nk, 1);
    double *q64 = wide(p, nq, q), *k64 = wide(p, nk, k), *v64 = wide(p, nk, v), *dout64 = wide(p, nq, dout),
           *lse64 = room(p, c.tq, 8);
    double *delta64 = room(p, c.tq, 8), *dq64 = room(p, nq, 8), *dk64 = wide(p, nk, dk),
           *dv64 = wide(p, nk, dv), *out64 = room(p, nq, 8);
    p->exact->attention(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, q64, ld, k64, ld, v64, ld, out64, ld,
                        lse64, NULL);
    for (int64_t t = 0; t < c.tq; t++) {
      delta64[t] = p->exact->dot(c.D, dout64 + t * ld, out64 + t * ld);
      delta[t] = (float)delta64[t], lse[t] = (float)lse64[t];
    }
    p->fast->attention_back(c.tq, c.tk, c.D, c.q0, c.window, scale, q, ld, k, ld, v, ld, dout, ld, lse, delta,
                            dq, ld, dk, ld, dv, ld, scratch);
    p->exact->attention_back(c.tq, c.tk, c.D, c.q0, c.window, (double)scale, q64, ld, k64, ld, v64, ld,
                             dout64, ld, lse64, delta64, dq64, ld, dk64, ld, dv64, ld, NULL);
    compare(p, nq + 1, dq, dq64), compare(p, nk + 1, dk, dk64), compare(p, nk + 1, dv, dv64);
  }
}

/* bf16: two tiles of queries against one packing; the last tile's queries and keys are not whole panels. */
typedef struct {
  int64_t T, D, window, q0;
  bool causal;
} bf16_case;
static const bf16_case bf16_cases[] = {
    {64, 64, 0, 0, true},  {200, 64, 0, 0, true},  {200, 64, 90, 0, true}, {135, 32, 3, 0, true},
    {1, 64, 0, 0, true},   {17, 64, 0, 30, true},  {140, 80, 0, 0, true},  {9, 20, 0, 700, true},
    {33, 7, 0, 0, true},   {70, 65, 11, 5, true},  {160, 128, 0, 0, true}, {130, 64, 600, 580, true},
    {37, 256, 0, 0, true}, {100, 64, 0, 0, false}, {131, 12, 0, 0, false}, {530, 64, 0, 0, false},
};
typedef struct {
  lc_attention_shape s;
  int64_t T, q0, ld, width, nq, nk;
  uint16_t *q, *k, *v, *out, *dout;
  double *q64, *k64, *v64, *dout64, *out64, *lse64;
  void *packed, *scratch;
} bf16_problem;

static double *wide_bf16(probe *p, int64_t n, const uint16_t *x) {
  double *y = room(p, n, sizeof *y);
  for (int64_t i = 0; i < n; i++) y[i] = (double)lc_bf16_to_f32(x[i]);
  return y;
}

static bf16_problem bf16_open(probe *p, bf16_case c) {
  bf16_problem b = {.s = {c.q0 + c.T, c.D, c.window, c.causal, 2 / sqrtf((float)c.D)}, .T = c.T, .q0 = c.q0};
  b.ld = c.D % 2 ? c.D : c.D + 6, b.width = LC_ATTN_LD(c.D), b.nq = c.T * b.ld, b.nk = b.s.tk * b.ld;
  b.q = random_bf16(p, b.nq), b.k = random_bf16(p, b.nk), b.v = random_bf16(p, b.nk),
  b.dout = random_bf16(p, b.nq);
  b.out = room(p, b.nq, 2), b.out64 = room(p, b.nq, 8), b.lse64 = room(p, c.T, 8);
  b.q64 = wide_bf16(p, b.nq, b.q), b.k64 = wide_bf16(p, b.nk, b.k), b.v64 = wide_bf16(p, b.nk, b.v);
  b.packed = aligned(p, LC_ATTN_PACKED(b.s.tk, c.D)), b.scratch = aligned(p, LC_ATTN_BF16_SCRATCH(c.D));
  p->exact->attention(c.T, b.s.tk, c.D, c.causal ? c.q0 : b.s.tk, c.window, (double)b.s.scale, b.q64, b.ld,
                      b.k64, b.ld, b.v64, b.ld, b.out64, b.ld, b.lse64, NULL);
  for (int64_t i = 0; i < b.nq; i++) b.out[i] = lc_f32_to_bf16((float)b.out64[i]);
  return b;
}

static void compare_rows(probe *p, int64_t n, int64_t D, const float *got, int64_t ldg, const double *want,
                         int64_t ldw) {
  for (int64_t i = 0; i < n; i++) compare(p, D, got + i * ldg, want + i * ldw);
}

void row_attention_bf16(probe *p) {
  for (size_t i = 0; i < sizeof bf16_cases / sizeof *bf16_cases; i++) {
    bf16_problem b = bf16_open(p, bf16_cases[i]);
    p->fast->attention_pack(&b.s, false, b.k, b.ld, b.v, b.ld, b.packed);
    for (int64_t t = 0; t < b.T; t += LC_ATTN_TILE) {
      int64_t n = lc_min64(LC_ATTN_TILE, b.T - t);
      float *out = zeros(p, LC_ATTN_TILE * b.width), *lse = zeros(p, n);
      p->fast->attention_bf16(&b.s, n, b.q0 + t, b.q + t * b.ld, b.ld, b.packed, out, lse, b.scratch);
      compare_rows(p, n, b.s.D, out, b.width, b.out64 + t * b.ld, b.ld);
      compare(p, n, lse, b.lse64 + t), assert_true(lse[n] == 0);
    }
  }
}

void row_attention_pack(probe *p) {
  row_attention_bf16(p); /* its layout is the instruction set's own: what reads it says whether it is right */
}

void row_attention_back_bf16(probe *p) {
  for (size_t i = 0; i < sizeof bf16_cases / sizeof *bf16_cases; i++) {
    bf16_problem b = bf16_open(p, bf16_cases[i]);
    int64_t D = b.s.D, rows = LC_ATTN_KEYS(b.s.tk) * b.width;
    float *dk = randoms(p, rows, 1), *dv = randoms(p, rows, 1), *lse = zeros(p, b.T);
    double *dq64 = room(p, b.nq, 8), *dk64 = wide(p, rows, dk), *dv64 = wide(p, rows, dv),
           *delta64 = room(p, b.T, 8);
    double *dout64 = wide_bf16(p, b.nq, b.dout), *out64 = wide_bf16(p, b.nq, b.out);
    for (int64_t t = 0; t < b.T; t++)
      lse[t] = (float)b.lse64[t], delta64[t] = p->exact->dot(D, dout64 + t * b.ld, out64 + t * b.ld);
    p->exact->attention_back(b.T, b.s.tk, D, b.s.causal ? b.q0 : b.s.tk, b.s.window, (double)b.s.scale, b.q64,
                             b.ld, b.k64, b.ld, b.v64, b.ld, dout64, b.ld, b.lse64, delta64, dq64, b.ld, dk64,
                             b.width, dv64, b.width, NULL);
    p->fast->attention_pack(&b.s, true, b.k, b.ld, b.v, b.ld, b.packed);
    for (int64_t t = 0; t < b.T; t += LC_ATTN_TILE) {
      int64_t n = lc_min64(LC_ATTN_TILE, b.T - t), at = t * b.ld;
      float *dq = zeros(p, LC_ATTN_TILE * b.width);
      p->fast->attention_back_bf16(&b.s, n, b.q0 + t, b.q + at, b.ld, b.out + at, b.ld, b.dout + at, b.ld,
                                   lse + t, b.packed, dq, dk, dv, b.scratch);
      compare_rows(p, n, D, dq, b.width, dq64 + at, b.ld);
    }
    compare_rows(p, b.s.tk, D, dk, b.width, dk64, b.width),
        compare_rows(p, b.s.tk, D, dv, b.width, dv64, b.width);
  }
}
