/* Forms: dense and GGUF-quantised storage seen in logical out×in Hugging Face coordinates.
 *
 * A stored matrix is M×N rows of `dtype` blocks, or N×M when transposed (GPT-2's Conv1D). A GGUF keeps the q and k rows of a Llama in
 * another order: row_map says where logical row r is stored. No code above a form sees either. */
#include "kernels/kernels.h"
#include "nn/nn.h"
#include <string.h>

enum { SPAN = 1024 }; /* columns decoded at once, a multiple of every block */

static size_t row_bytes(const lc_form *f) {
  const lc_dtype_info *d = lc_dtype_get(f->src.dtype);
  return (size_t)(f->src.shape[f->src.ndim - 1] / d->block) * (size_t)d->bytes;
}

static const uint8_t *stored_row(const lc_form *f, int64_t r) {
  return (const uint8_t *)f->src.data + row_bytes(f) * (size_t)(f->row_map ? f->row_map[r] : r);
}

/* n values from an element offset that is a multiple of the block. */
static void to_f32(const lc_kernels *k, lc_dtype dtype, const uint8_t *row, int64_t from, int64_t n,
                   float *dst) {
  const lc_dtype_info *d = lc_dtype_get(dtype);
  const void *src = row + (size_t)(from / d->block) * (size_t)d->bytes;
  switch (dtype) {
  case LC_F32:
    memcpy(dst, src, (size_t)n * sizeof *dst);
    break;
  case LC_F16:
    k->f16_to_f32(n, src, dst);
    break;
  case LC_BF16:
    k->bf16_to_f32(n, src, dst);
    break;
  case LC_Q4_0:
    k->decode_q4_0(n, src, dst);
    break;
  case LC_Q4_1:
    k->decode_q4_1(n, src, dst);
    break;
  default:
    k->decode_q8_0(n, src, dst);
    break;
  }
}

/* Columns [c0,c1) of one stored row, through whole blocks. */
static void decode_row(const lc_kernels *k, const lc_form *f, const uint8_t *row, int64_t c0, int64_t c1,
                       lc_dtype dtype, void *dst) {
  int64_t block = lc_dtype_get(f->src.dtype)->block;
  if (dtype == f->src.dtype) {
    size_t size = dtype == LC_F32 ? 4 : 2;
    memcpy(dst, row + (size_t)c0 * size, (size_t)(c1 - c0) * size);
    return;
  }
  if (dtype == LC_BF16 && block > 1 && c0 % block == 0 && c1 % block == 0) {
    k->decode_bf16(f->src.dtype, c1 - c0,
                   row + (size_t)(c0 / block) * (size_t)lc_dtype_get(f->src.dtype)->bytes, dst);
    return;
  }
  if (dtype == LC_F32 && c0 % block == 0 && c1 % block == 0) {
    to_f32(k, f->src.dtype, row, c0, c1 - c0, dst);
    return;
  }
  float tmp[SPAN];
  for (int64_t at = c0; at < c1;) {
    int64_t from = at / block * block, end = lc_min64(c1, from + SPAN);
    int64_t n = lc_ceil_div(end - from, block) * block;
    to_f32(k, f->src.dtype, row, from, n, tmp);
    if (dtype == LC_F32)
      memcpy((float *)dst + (at - c0), tmp + (at - from), (size_t)(end - at) * sizeof(float));
    else
      k->f32_to_bf16(end - at, tmp + (at - from), (uint16_t *)dst + (at - c0));
    at = end;
  }
}

/* A transposed store: logical column c is a stored row. */
static void decode_transposed(const lc_kernels *k, const lc_form *f, lc_rect q, lc_dtype dtype, void *dst,
                              int64_t ld) {
  float tmp[SPAN];
  for (int64_t c = q.c0; c < q.c1; c++)
    for (int64_t r = q.r0; r < q.r1; r += SPAN) {
      int64_t n = lc_min64(SPAN, q.r1 - r);
      to_f32(k, f->src.dtype, stored_row(f, c), r, n, tmp);
      for (int64_t i = 0; i < n; i++) {
        int64_t at = (r - q.r0 + i) * ld + (c - q.c0);
        if (dtype == LC_F32)
          ((float *)dst)[at] = tmp[i];
        else
          ((uint16_t *)dst)[at] = lc_f32_to_bf16(tmp[i]);
      }
    }
}

static lc_status dense_decode(lc_ctx *ctx, const lc_form *f, lc_rect q, lc_dtype dtype, void *dst,
                              int64_t ld) {
  const lc_kernels *k = lc_kernels_get(ctx);
  if (f->transposed) {
    decode_transposed(k, f, q, dtype, dst, ld);
    return LC_OK;
  }
  size_t size = dtype == LC_F32 ? 4 : 2;
  for (int64_t r = q.r0; r < q.r1; r++)
    decode_row(k, f, stored_row(f, r), q.c0, q.c1, dtype, (uint8_t *)dst + (size_t)((r - q.r0) * ld) * size);
  return LC_OK;
}

static const void *dense_borrow(const lc_form *f, lc_rect q, lc_dtype dtype, int64_t *ld) {
  if (f->transposed || f->row_map || f->src.dtype != dtype) return NULL;
  *ld = f->src.shape[f->src.ndim - 1];
  return (const uint8_t *)f->src.data + (size_t)(q.r0 * *ld + q.c0) * (dtype == LC_F32 ? 4u : 2u);
}

/* m rows from a stored one on, times the token's vector in f32 or, where q is there, in bytes. */
static void rows_times(const lc_kernels *k, const lc_form *f, int64_t m, const uint8_t *rows, const float *x,
                       const lc_q8_vector *q, float *y) {
  int64_t n = f->src.shape[f->src.ndim - 1];
  if (q)
    k->gemv_q8(f->src.dtype, m, n, rows, row_bytes(f), q, y);
  else
    k->gemv(f->src.dtype, m, n, rows, row_bytes(f), x, y);
}

/* Rows permuted within the strip (a GGUF's q/k, strips of whole heads) are computed in stored order and put back. */
static void rows_of(lc_ctx *ctx, const lc_form *f, int64_t r0, int64_t r1, const float *x,
                    const lc_q8_vector *q, float *y) {
  const lc_kernels *k = lc_kernels_get(ctx);
  int64_t m = r1 - r0;
  if (!f->row_map) {
    rows_times(k, f, m, stored_row(f, r0), x, q, y);
    return;
  }
  float tmp[512];
  bool within = m <= 512;
  for (int64_t r = r0; r < r1 && within; r++) within = f->row_map[r] >= r0 && f->row_map[r] < r1;
  if (within) {
    rows_times(k, f, m, (const uint8_t *)f->src.data + row_bytes(f) * (size_t)r0, x, q, tmp);
    for (int64_t r = r0; r < r1; r++) y[r - r0] = tmp[f->row_map[r] - r0];
  } else {
    for (int64_t r = r0; r < r1; r++) rows_times(k, f, 1, stored_row(f, r), x, q, y + (r - r0));
  }
}

static lc_status dense_gemv(lc_ctx *ctx, const lc_form *f, int64_t r0, int64_t r1, const float *x, float *y) {
  rows_of(ctx, f, r0, r1, x, NULL, y);
  return LC_OK;
}

bool lc_form_takes_q8(const lc_form *f) {
  return f->ops->gemv == dense_gemv && lc_dtype_get(f->src.dtype)->quantised;
}

lc_status lc_form_gemv_q8(lc_ctx *ctx, const lc_form *f, int64_t r0, int64_t r1, const lc_q8_vector *x,
                          float *y) {
  rows_of(ctx, f, r0, r1, NULL, x, y);
  return LC_OK;
}

void lc_form_pack_q8(lc_ctx *ctx, const lc_form *f, int64_t r0, int64_t r1, void *packed) {
  const uint8_t *row[LC_Q8_PANEL];
  for (int64_t r = r0; r < r1; r++) row[r - r0] = stored_row(f, r);
  lc_kernels_get(ctx)->pack_q8(f->src.dtype, r1 - r0, f->src.shape[f->src.ndim - 1], row, packed);
}

static size_t dense_bytes(const lc_form *f) {
  size_t n = 0;
  lc_dtype_bytes(f->src.dtype, lc_tensor_count(&f->src), &n);
  return n;
}

static void view_free(lc_ctx *ctx, lc_form *f) {
  (void)ctx, (void)f;
}

static void copy_free(lc_ctx *ctx, lc_form *f) {
  lc_free(ctx, f->priv);
}

static const lc_form_ops stored_ops = {"stored",   dense_decode, dense_borrow,
                                       dense_gemv, dense_bytes,  view_free};
static const lc_form_ops transposed_ops = {"transposed", dense_decode, dense_borrow,
                                           NULL,         dense_bytes,  view_free};
static const lc_form_ops copy_ops = {"copy", dense_decode, dense_borrow, dense_gemv, dense_bytes, copy_free};

lc_status lc_form_view(lc_ctx *ctx, const lc_tensor *src, bool transposed, const int32_t *row_map,
                       lc_form **out) {
  const lc_dtype_info *d = lc_dtype_get(src->dtype);
  bool known = src->dtype == LC_F32 || src->dtype == LC_F16 || src->dtype == LC_BF16 ||
               src->dtype == LC_Q4_0 || src->dtype == LC_Q4_1 || src->dtype == LC_Q8_0;
  if (!known || (transposed && d->quantised))
    return lc_fail(ctx, "a %sweight stored as %s cannot be read", transposed ? "transposed " : "", d->name);
  *out = lc_alloc(ctx, LC_MEM_OTHER, sizeof **out);
  if (!*out) return LC_FAILED;
  **out = (lc_form){.ops = transposed ? &transposed_ops : &stored_ops,
                    .src = *src,
                    .transposed = transposed,
                    .row_map = row_map};
  return LC_OK;
}

typedef struct {
  const lc_form *base;
  lc_form *copy;
  int64_t M, N;
  lc_ctx *ctx;
} copy_arg;

static lc_status copy_chunk(void *arg, int64_t chunk, int worker) {
  copy_arg *a = arg;
  lc_rect q = {chunk * 64, lc_min64(chunk * 64 + 64, a->M), 0, a->N};
  lc_dtype dtype = a->copy->src.dtype;
  size_t size = dtype == LC_F32 ? 4 : 2;
  uint8_t *dst = (uint8_t *)a->copy->priv + (size_t)(q.r0 * a->N) * size;
  if (dtype != LC_F16) return a->base->ops->decode(a->ctx, a->base, q, dtype, dst, a->N);
  float *tmp = lc_scratch(a->ctx, worker, 0, (size_t)(q.r1 - q.r0) * (size_t)a->N * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  LC_TRY(a->base->ops->decode(a->ctx, a->base, q, LC_F32, tmp, a->N));
  lc_kernels_get(a->ctx)->f32_to_f16((q.r1 - q.r0) * a->N, tmp, (uint16_t *)dst);
  return LC_OK;
}

lc_status lc_form_copy(lc_ctx *ctx, const lc_form *base, int64_t M, int64_t N, lc_dtype dtype,
                       lc_form **out) {
  *out = NULL;
  size_t bytes;
  if (dtype != LC_F32 && dtype != LC_BF16 && dtype != LC_F16)
    return lc_fail(ctx, "a private copy cannot be %s", lc_dtype_get(dtype)->name);
  if (!lc_dtype_bytes(dtype, N, &bytes) || !lc_mul(bytes, (size_t)M, &bytes))
    return lc_fail(ctx, "a copy of %lld×%lld is too large", (long long)M, (long long)N);
  lc_form *f = lc_alloc(ctx, LC_MEM_OTHER, sizeof *f);
  void *data = lc_alloc(ctx, LC_MEM_FORM, bytes);
  lc_status st = f && data ? LC_OK : LC_FAILED;
  if (!st) {
    *f = (lc_form){.ops = &copy_ops, .src = {data, dtype, 2, {M, N}}, .writable = true, .priv = data};
    copy_arg a = {base, f, M, N, ctx};
    st = lc_parallel(ctx, lc_ceil_div(M, 64), copy_chunk, &a);
  }
  if (st) {
    lc_free(ctx, data);
    lc_free(ctx, f);
    return st;
  }
  *out = f;
  return LC_OK;
}

lc_status lc_form_of_param(lc_ctx *ctx, const lc_param *p, lc_form **out) {
  lc_tensor t = {p->value, LC_F32, 2, {p->rows, p->cols}};
  LC_TRY(lc_form_view(ctx, &t, false, NULL, out));
  (*out)->writable = true;
  return LC_OK;
}

void lc_form_places(const lc_form *f, int64_t M, int64_t N, int64_t n, const int64_t *flat, int64_t *place) {
  if (!f->transposed && !f->row_map) {
    memcpy(place, flat, (size_t)n * sizeof *place);
    return;
  }
  for (int64_t i = 0, r = n ? flat[0] / N : 0; i < n; i++) {
    if (flat[i] >= (r + 1) * N) r = flat[i] / N;
    const int64_t c = flat[i] - r * N;
    place[i] = f->transposed ? c * M + r : f->row_map[r] * N + c;
  }
}

void lc_form_prefetch(const lc_form *f, int64_t n, const int64_t *place) {
  const lc_dtype_info *d = lc_dtype_get(f->src.dtype);
  const uint8_t *data = f->src.data;
  const int shift = d->block == 1 ? 0 : 5; /* blocks have 32 values */
  if (f->writable)
    for (int64_t i = 0; i < n; i++) __builtin_prefetch(data + (place[i] >> shift) * d->bytes, 1);
  else
    for (int64_t i = 0; i < n; i++) __builtin_prefetch(data + (place[i] >> shift) * d->bytes);
}

void lc_form_pick(lc_ctx *ctx, const lc_form *f, int64_t n, const int64_t *place, float *dst) {
  lc_kernels_get(ctx)->pick(f->src.dtype, n, f->src.data, place, dst);
}

void *lc_form_data(lc_form *f) {
  return f->writable ? (void *)(uintptr_t)f->src.data : NULL;
}

void lc_form_free(lc_ctx *ctx, lc_form *f) {
  if (!f) return;
  f->ops->free(ctx, f);
  lc_free(ctx, f);
}
