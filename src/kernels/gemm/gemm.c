/* lc_gemm: checks a call, chooses the provider, and bridges what the provider cannot do. A provider of f32
 * products alone gets bf16 operands widened, and its f32 result rounded to a bf16 output, in strips of
 * bounded scratch: at most STRIP values of each operand at a time, over rows of A and columns of B, never
 * over k, so that each output is still one sum. */
#include <string.h>
#include "kernels/gemm/gemm.h"

enum { STRIP = 1 << 20, STRIP_UNIT = 16 };

static const void *at(const void *p, lc_dtype dtype, int64_t elements) {
  return (const char *)p + (size_t)elements * (dtype == LC_BF16 ? 2 : 4);
}

/* Rows of `length` values each in a strip, a multiple of STRIP_UNIT so that register tiles stay whole. */
static int64_t strip_rows(int64_t rows, int64_t length) {
  int64_t fit = STRIP / lc_max64(length, 1) / STRIP_UNIT * STRIP_UNIT;
  return lc_min64(rows, lc_max64(fit, STRIP_UNIT));
}

/* rows×cols of bf16 with leading dimension ld, to f32 without gaps. */
static void widen(const lc_kernels *kn, int64_t rows, int64_t cols, const uint16_t *src, int64_t ld,
                  float *dst) {
  for (int64_t r = 0; r < rows; r++) kn->bf16_to_f32(cols, src + r * ld, dst + r * cols);
}

typedef struct {
  const float *data;
  int64_t ld;
} f32_operand;

/* One operand's strip of `count` rows (its m or n), from `first`; transposed means that these are columns in
 * storage. */
static lc_status operand_strip(lc_ctx *ctx, int worker, int slot, const lc_gemm_shape *s, const void *p,
                               int64_t ld, int64_t first, int64_t count, bool columns, f32_operand *out) {
  const void *src = at(p, s->dtype, columns ? first : first * ld);
  if (s->dtype == LC_F32) {
    *out = (f32_operand){src, ld};
    return LC_OK;
  }
  int64_t rows = columns ? s->k : count, cols = columns ? count : s->k;
  float *buffer = lc_scratch(ctx, worker, slot, (size_t)(rows * cols) * sizeof(float));
  if (!buffer) return LC_FAILED;
  widen(lc_kernels_get(ctx), rows, cols, src, ld, buffer);
  *out = (f32_operand){buffer, cols};
  return LC_OK;
}

static lc_status bridged(lc_ctx *ctx, int worker, const lc_gemm_provider_row *provider,
                         const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  const lc_kernels *kn = lc_kernels_get(ctx);
  int64_t mb = strip_rows(s->m, s->k), nb = strip_rows(s->n, s->k);
  if (s->c_dtype == LC_BF16) nb = lc_min64(nb, strip_rows(s->n, mb));
  for (int64_t j = 0; j < s->n; j += nb) {
    f32_operand a = {0}, b;
    int64_t n = lc_min64(nb, s->n - j);
    LC_TRY(operand_strip(ctx, worker, LC_SLOT_GEMM_B, s, B, s->ldb, j, n, !s->trans_b, &b));
    for (int64_t i = 0; i < s->m; i += mb) {
      int64_t m = lc_min64(mb, s->m - i);
      if (mb < s->m || j == 0 || s->dtype == LC_F32) /* else the whole of A is already there */
        LC_TRY(operand_strip(ctx, worker, LC_SLOT_GEMM_A, s, A, s->lda, i, m, s->trans_a, &a));
      else
        a = (f32_operand){lc_scratch(ctx, worker, LC_SLOT_GEMM_A, 0), s->trans_a ? m : s->k};
      lc_gemm_shape part = {m,          n,      s->k,   a.ld,    b.ld,  s->ldc, s->trans_a,
                            s->trans_b, LC_F32, LC_F32, s->beta, false, NULL,   0};
      if (s->c_dtype == LC_F32) {
        LC_TRY(provider->run(ctx, worker, &part, a.data, b.data, (float *)C + i * s->ldc + j));
        continue;
      }
      float *c = lc_scratch(ctx, worker, LC_SLOT_GEMM_C, (size_t)(m * n) * sizeof(float));
      if (!c) return LC_FAILED;
      part.ldc = n;
      LC_TRY(provider->run(ctx, worker, &part, a.data, b.data, c));
      for (int64_t r = 0; r < m; r++) kn->f32_to_bf16(n, c + r * n, (uint16_t *)C + (i + r) * s->ldc + j);
    }
  }
  return LC_OK;
}

/* k = 0: an empty sum. */
static void empty_sum(const lc_gemm_shape *s, void *C) {
  if (s->beta != 0) return;
  size_t size = s->c_dtype == LC_BF16 ? 2 : 4;
  for (int64_t i = 0; i < s->m; i++) memset((char *)C + (size_t)(i * s->ldc) * size, 0, (size_t)s->n * size);
}

static lc_status check(lc_ctx *ctx, const lc_gemm_shape *s) {
  bool dtypes =
      (s->dtype == LC_F32 || s->dtype == LC_BF16) && (s->c_dtype == LC_F32 || s->c_dtype == LC_BF16);
  bool beta = s->beta == 0 || (s->beta == 1 && s->c_dtype == LC_F32 && !s->plus);
  bool lds = s->lda >= (s->trans_a ? s->m : s->k) && (s->packed_b || s->ldb >= (s->trans_b ? s->k : s->n)) &&
             s->ldc >= s->n;
  if (s->plus && (s->c_dtype != LC_F32 || s->ld_plus < s->n)) beta = false;
  if (dtypes && beta && (lds || s->k == 0) && s->m >= 0 && s->n >= 0 && s->k >= 0) return LC_OK;
  return lc_fail(ctx,
                 "gemm %lldx%lldx%lld: leading dimensions %lld, %lld, %lld, types %d to %d and beta %g do "
                 "not fit together",
                 (long long)s->m, (long long)s->n, (long long)s->k, (long long)s->lda, (long long)s->ldb,
                 (long long)s->ldc, (int)s->dtype, (int)s->c_dtype, (double)s->beta);
}

lc_status lc_gemm_with(lc_ctx *ctx, int worker, const lc_gemm_provider_row *provider, const lc_gemm_shape *s,
                       const void *A, const void *B, void *C) {
  LC_TRY(check(ctx, s));
  if (s->packed_b && (!provider->pack || s->dtype != LC_BF16))
    return lc_fail(ctx, "gemm %lldx%lldx%lld: %s takes no packed operand of this type", (long long)s->m,
                   (long long)s->n, (long long)s->k, provider->name);
  if (s->m == 0 || s->n == 0) return LC_OK;
  lc_gemm_shape copied = *s;
  if (s->plus && (!provider->plus || s->k == 0)) {
    for (int64_t i = 0; i < s->m; i++)
      memcpy((float *)C + i * s->ldc, s->plus + i * s->ld_plus, (size_t)s->n * sizeof(float));
    copied.plus = NULL, copied.beta = 1;
    s = &copied;
  }
  if (s->k == 0) {
    empty_sum(s, C);
    return LC_OK;
  }
  /* who multiplies bf16 writes bf16 */
  bool direct =
      s->dtype == LC_BF16 ? provider->bf16 : provider->f32 && (provider->bf16 || s->c_dtype == LC_F32);
  return direct ? provider->run(ctx, worker, s, A, B, C) : bridged(ctx, worker, provider, s, A, B, C);
}

lc_status lc_gemm(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  return lc_gemm_with(ctx, worker, lc_gemm_choose(ctx, s), s, A, B, C);
}

static const lc_gemm_provider_row *packer(const lc_ctx *ctx, lc_dtype dtype) {
  const lc_gemm_provider_row *p = lc_gemm_choose(ctx, &(lc_gemm_shape){.dtype = dtype, .c_dtype = dtype});
  return dtype == LC_BF16 && p->pack ? p : NULL;
}

size_t lc_gemm_packed_bytes(const lc_ctx *ctx, lc_dtype dtype, int64_t n, int64_t k) {
  const lc_gemm_provider_row *p = packer(ctx, dtype);
  return p ? p->packed_bytes(n, k) : 0;
}

int64_t lc_gemm_packed_columns(const lc_ctx *ctx, lc_dtype dtype, int64_t n, int64_t k) {
  const lc_gemm_provider_row *p = packer(ctx, dtype);
  return p ? p->packed_columns(n, k) : n;
}

void lc_gemm_pack(const lc_ctx *ctx, const lc_gemm_shape *s, const void *B, void *packed) {
  lc_gemm_choose(ctx, s)->pack(s, B, packed);
}

enum {
  PACK_COLUMNS = 2 * LC_GEMM_PACK,
  PACK_FROM = 256 /* values along k */,
  STRIP_OF_C = 64,
  WIDE_STRIP = 128 /* of a packed B */
};
typedef struct {
  lc_ctx *ctx;
  const lc_gemm_shape *s;
  const uint16_t *B;
  uint8_t *packed;
} pack_arg;

static lc_status pack_chunk(void *arg, int64_t chunk, int worker) {
  const pack_arg *a = arg;
  const int64_t j = chunk * PACK_COLUMNS;
  lc_gemm_shape part = *a->s;
  part.n = lc_min64(PACK_COLUMNS, a->s->n - j);
  lc_gemm_pack(a->ctx, &part, a->B + (a->s->trans_b ? j * a->s->ldb : j),
               a->packed + lc_gemm_packed_bytes(a->ctx, a->s->dtype, j, a->s->k));
  return LC_OK;
}

lc_status lc_gemm_pack_shared(lc_ctx *ctx, const lc_gemm_shape *s, const void *B, const void **packed,
                              int64_t *strip) {
  const bool pays = s->k >= PACK_FROM && s->m > WIDE_STRIP;
  const size_t bytes = pays ? lc_gemm_packed_bytes(ctx, s->dtype, s->n, s->k) : 0;
  *packed = NULL, *strip = bytes ? WIDE_STRIP : STRIP_OF_C;
  if (!bytes) return LC_OK;
  pack_arg a = {ctx, s, B, lc_scratch_shared(ctx, LC_SHARED_PACKED, bytes)};
  if (!a.packed) return LC_FAILED;
  *packed = a.packed;
  return lc_parallel(ctx, lc_ceil_div(s->n, PACK_COLUMNS), pack_chunk, &a);
}

const char *lc_gemm_provider(const lc_ctx *ctx, const lc_gemm_shape *s) {
  return lc_gemm_choose(ctx, s)->name;
}

bool lc_has_bf16_gemm(const lc_ctx *ctx) {
  return lc_isa_of(ctx) >= LC_ISA_AVX512_BF16;
}
