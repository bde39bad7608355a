/* Rows of test_kernels.c: products of tokens in bytes with quantised weights. */
#include "kernels_test.h"

/* Values as activations are, and blocks of the kinds that need care: zeros, something too small, something not finite. */
static float *activations(probe *p, int64_t n) {
  float *x = randoms(p, n, 3);
  for (int64_t b = 0; b < n / 32; b++)
    for (int i = 0; i < 32 && b % 7 == 3; i++) x[b * 32 + i] *= b % 2 ? 0.0f : 1e-33f;
  return x;
}

void row_quantise_q8(probe *p) {
  EACH_SIZE(n) for (int kind = 0; kind < 4; kind++) {
    if (n % 32) continue;
    float *x = activations(p, n);
    if (kind == 1) x[n / 2] = NAN;
    if (kind == 2) x[n - 1] = -INFINITY;
    if (kind == 3) x[0] = 3e38f;
    lc_q8_vector a = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n),
                 b = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n);
    p->fast->quantise_q8(n, x, &a), p->scalar->quantise_q8(n, x, &b);
    compare_bits(p, (size_t)n, a.q, b.q), compare_bits(p, (size_t)n / 32 * 4, a.sum, b.sum);
    for (int64_t i = 0; i < n / 32; i++) /* NaN may have either sign */
      if (memcmp(a.scale + i, b.scale + i, 4) && !(isnan(a.scale[i]) && isnan(b.scale[i])))
        p->error = INFINITY;
    if (kind == 1 && !isnan(a.scale[n / 2 / 32])) p->error = INFINITY;
    if (kind == 2 && !isnan(a.scale[n / 32 - 1])) p->error = INFINITY;
    for (int64_t i = 0; i < n && !kind; i++) /* it stands for the vector: half a step of the block's scale */
      if (fabsf(x[i] - a.scale[i / 32] * a.q[i]) > a.scale[i / 32] * 0.5001f + LC_Q8_LEAST)
        p->error = INFINITY;
  }
}

void row_gemv_q8(probe *p) {
  static const lc_dtype dtypes[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};
  static const int64_t widths[] = {32, 128, 576, 1024,
                                   1184}; /* short rows and long ones, some not whole groups of blocks */
  for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
    for (int64_t m = 1; m <= 67; m += m < 9 ? 1 : m < 16 ? 5 : 24)
      for (size_t s = 0; s < sizeof widths / sizeof *widths; s++) {
        const int64_t n = widths[s];
        if (m * n > 40000) continue;
        size_t used = (size_t)(n / 32 * lc_dtype_get(dtypes[d])->bytes), row_bytes = used + 40;
        float *x = activations(p, n), *got = zeros(p, m), *want = zeros(p, m);
        uint8_t *W = room(p, (int64_t)row_bytes * m, 1);
        for (int64_t i = 0; i < m; i++)
          memcpy(W + (size_t)i * row_bytes, random_blocks(p, n, dtypes[d]), used);
        lc_q8_vector q = lc_q8_in(room(p, (int64_t)lc_q8_bytes(n), 1), n);
        p->fast->quantise_q8(n, x, &q); /* the same bits as the reference's, and packed for this path */
        p->fast->gemv_q8(dtypes[d], m, n, W, row_bytes, &q, got),
            p->scalar->gemv_q8(dtypes[d], m, n, W, row_bytes, &q, want);
        compare_f32(p, m + 1, got, want);
        for (int64_t i = 0; i < m; i++) { /* a row's sum does not depend on the rows that come with it */
          float alone = 0;
          p->fast->gemv_q8(dtypes[d], 1, n, W + (size_t)i * row_bytes, row_bytes, &q, &alone);
          if (memcmp(&alone, got + i, 4)) p->error = INFINITY;
        }
        for (int64_t i = 0; i < n; i++) x[i] = q.scale[i / 32] * q.q[i]; /* the same product, decoded */
        p->scalar->gemv(dtypes[d], m, n, W, row_bytes, x, want);
        compare_f32(p, m + 1, got, want);
      }
}

/* m rows of n values of random blocks, scattered: where each begins. */
static const uint8_t **random_rows(probe *p, int64_t m, int64_t n, lc_dtype dtype) {
  const uint8_t **row = room(p, m, sizeof *row);
  for (int64_t i = 0; i < m; i++) row[m - 1 - i] = random_blocks(p, n, dtype);
  return row;
}

static const lc_dtype quantised[] = {LC_Q8_0, LC_Q4_0, LC_Q4_1};

void row_pack_q8(probe *p) {
  for (int d = 0; d < 3; d++)
    for (int64_t m = 1; m <= LC_Q8_PANEL; m += 5) EACH_SIZE(n) {
        if (n % 32) continue;
        size_t bytes = lc_q8_panel_bytes(quantised[d], n);
        uint8_t *a = aligned(p, bytes), *b = aligned(p, bytes);
        const uint8_t **row = random_rows(p, m, n, quantised[d]);
        memset(a, 7, bytes);
        p->fast->pack_q8(quantised[d], m, n, row, a), p->scalar->pack_q8(quantised[d], m, n, row, b);
        compare_bits(p, bytes, a, b);
      }
}

/* T tokens in bytes, one of them with a value that is not finite. */
static lc_q8_rows random_tokens(probe *p, int64_t T, int64_t n, bool finite) {
  lc_q8_rows x = lc_q8_rows_in(room(p, (int64_t)lc_q8_rows_bytes(T, n), 1), T, n);
  for (int64_t t = 0; t < T; t++) {
    float *row = activations(p, n);
    if (!finite && t == T / 2) row[n / 2] = NAN;
    lc_q8_rows_set(p->fast, &x, t, row);
  }
  return x;
}

/* Against the definition: the same sums as gemv_q8's. Blocks of −128 by 127 are what saturates. */
static void gemm_q8_case(probe *p, lc_dtype dtype, int64_t T, int64_t m, int64_t n, bool extreme) {
  int64_t panels = lc_ceil_div(m, LC_Q8_PANEL), ld = panels * LC_Q8_PANEL + 3;
  const lc_dtype_info *info = lc_dtype_get(dtype);
  size_t row_bytes = (size_t)(n / 32 * info->bytes), panel = lc_q8_panel_bytes(dtype, n);
  uint8_t *W = room(p, (int64_t)row_bytes * m, 1), *packed = aligned(p, panel * (size_t)panels);
  lc_q8_rows x = random_tokens(p, T, n, true);
  for (int64_t i = 0; i < m; i++) {
    uint8_t *blocks = random_blocks(p, n, dtype);
    for (int64_t b = 0; b < n / 32 && extreme; b++)
      memset(blocks + b * info->bytes + info->bytes - (dtype == LC_Q8_0 ? 32 : 16),
             dtype == LC_Q8_0 ? 128
             : i % 2          ? 255
                              : 0,
             dtype == LC_Q8_0 ? 32 : 16);
    memcpy(W + (size_t)i * row_bytes, blocks, row_bytes);
  }
  float *values = zeros(p, n), *got = zeros(p, T * ld), *want = zeros(p, m);
  for (int64_t t = 0; t < T && extreme; t++) {
    for (int64_t c = 0; c < n; c++) values[c] = t % 3 ? 1 : -1;
    lc_q8_rows_set(p->fast, &x, t, values);
  }
  for (int64_t j = 0; j < panels; j++) {
    const uint8_t *row[LC_Q8_PANEL];
    int64_t here = lc_min64(LC_Q8_PANEL, m - j * LC_Q8_PANEL);
    for (int64_t i = 0; i < here; i++) row[i] = W + (size_t)(j * LC_Q8_PANEL + i) * row_bytes;
    p->fast->pack_q8(dtype, here, n, row, packed + (size_t)j * panel);
  }
  p->fast->gemm_q8(dtype, T, panels, packed, &x, 0, got, ld);
  for (int64_t t = 0; t < T; t++) {
    float *alone = zeros(p, LC_Q8_PANEL);
    int32_t *sum = room(p, n / 32, sizeof *sum);
    for (int64_t b = 0; b < n / 32; b++) sum[b] = x.start8[t * (n / 32) + b] / -8;
    lc_q8_vector v = {x.q + t * n, x.scale + t * (n / 32), sum};
    p->scalar->gemv_q8(dtype, m, n, W, row_bytes, &v, want);
    compare_f32(p, m, got + t * ld, want);
    for (int64_t i = m; i < ld; i++) /* missing rows are zeros, and nothing behind them is written */
      if (got[t * ld + i] != 0) p->error = INFINITY;
    p->fast->gemm_q8(dtype, 1, 1, packed, &x, t, alone, LC_Q8_PANEL); /* whatever comes with it */
    compare_bits(p, (size_t)lc_min64(m, LC_Q8_PANEL) * sizeof *alone, alone, got + t * ld);
  }
}

void row_gemm_q8(probe *p) {
  for (int d = 0; d < 3; d++)
    for (int64_t T = 1; T <= 14; T += T < 7 ? 1 : 7)
      for (int64_t m = 1; m <= 67; m += m < 16 ? 15 : m < 33 ? 17 : 34)
        for (int64_t n = 32; n <= 352; n += 160) gemm_q8_case(p, quantised[d], T, m, n, (T + n) % 3 == 0);
  lc_q8_rows x = random_tokens(p, 7, 64, false);
  uint8_t *packed = aligned(p, lc_q8_panel_bytes(LC_Q4_1, 64));
  float y[7 * LC_Q8_PANEL];
  for (int d = 0; d < 3; d++) {
    p->fast->pack_q8(quantised[d], LC_Q8_PANEL, 64, random_rows(p, LC_Q8_PANEL, 64, quantised[d]), packed);
    p->fast->gemm_q8(quantised[d], 7, 1, packed, &x, 0, y, LC_Q8_PANEL);
    for (int i = 0; i < 7 * LC_Q8_PANEL;
         i++) /* what is not finite reaches the output, and no other token's */
      if (isnan(y[i]) != (i / LC_Q8_PANEL == 3)) p->error = INFINITY;
  }
}
