/* GGUF's quantised blocks, rounded as ggml's reference quantisers round, and plain floats in 32 and 16 bits.
 *
 * A block is 32 consecutive elements of a row with one f16 scale d (and for q4_1 one f16 minimum m), then the
 * codes q:
 *
 *   q8_0   d, 32 i8        x = d·q          d = max|x| / 127      q = x/d rounded, halves away from zero
 *   q4_0   d, 16 bytes     x = d·(q − 8)    d = x* / −8           q = min(15, ⌊x/d + 8.5⌋)
 *   q4_1   d, m, 16 bytes  x = d·q + m      d = (max − min) / 15  q = min(15, ⌊(x − m)/d + 0.5⌋), m = min
 *
 * where x* is the first x of largest |x|, with its sign. A byte of 4-bit codes holds element j in its low
 * half and element j + 16 in its high half. Codes are computed with d and m in f32, before they are rounded
 * to f16, and by a product with 1/d, as the reference does: both decide ties.
 *
 * The reference leaves open what no code can express; here a value that is not finite and a scale beyond f16
 * are refused. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "io/io.h"

enum { BLOCK = 32, HALF = BLOCK / 2 };

typedef struct {
  uint16_t d;
  int8_t q[BLOCK];
} block_q8_0;
typedef struct {
  uint16_t d;
  uint8_t q[HALF];
} block_q4_0;
typedef struct {
  uint16_t d, m;
  uint8_t q[HALF];
} block_q4_1;
_Static_assert(sizeof(block_q8_0) == 34 && sizeof(block_q4_0) == 18 && sizeof(block_q4_1) == 20,
               "blocks have no padding");

/* ---- encode: each takes one block at x; false when it cannot be expressed ---- */

static bool f16_finite(uint16_t h) {
  return (h & 0x7c00) != 0x7c00;
}

/* 1/d, and 0 where d is 0 or so small that 1/d overflows (its f16 is 0 then). */
static float inverse(float d) {
  float id = d != 0 ? 1.0f / d : 0.0f;
  return isfinite(id) ? id : 0.0f;
}

static bool encode_q8_0(const float *x, void *dst) {
  block_q8_0 b;
  float most = 0;
  for (int j = 0; j < BLOCK; j++) most = fmaxf(most, fabsf(x[j]));
  float d = most / 127.0f, id = inverse(d);
  b.d = lc_f32_to_f16(d);
  if (!f16_finite(b.d)) return false;
  for (int j = 0; j < BLOCK; j++) b.q[j] = (int8_t)roundf(x[j] * id);
  memcpy(dst, &b, sizeof b);
  return true;
}

static uint8_t nibble(float code) { /* code > 0 and below 17 */
  int q = (int)code;
  return (uint8_t)(q > 15 ? 15 : q);
}

static bool encode_q4_0(const float *x, void *dst) {
  block_q4_0 b;
  float most = 0, at_most = 0;
  for (int j = 0; j < BLOCK; j++)
    if (fabsf(x[j]) > most) {
      most = fabsf(x[j]);
      at_most = x[j];
    }
  float d = at_most / -8.0f, id = inverse(d);
  b.d = lc_f32_to_f16(d);
  if (!f16_finite(b.d)) return false;
  for (int j = 0; j < HALF; j++)
    b.q[j] = (uint8_t)(nibble(x[j] * id + 8.5f) | nibble(x[j + HALF] * id + 8.5f) << 4);
  memcpy(dst, &b, sizeof b);
  return true;
}

static bool encode_q4_1(const float *x, void *dst) {
  block_q4_1 b;
  float least = FLT_MAX, most = -FLT_MAX;
  for (int j = 0; j < BLOCK; j++) {
    if (x[j] < least) least = x[j];
    if (x[j] > most) most = x[j];
  }
  float d = (most - least) / 15.0f, id = inverse(d);
  b.d = lc_f32_to_f16(d);
  b.m = lc_f32_to_f16(least);
  if (!f16_finite(b.d) || !f16_finite(b.m)) return false;
  for (int j = 0; j < HALF; j++)
    b.q[j] = (uint8_t)(nibble((x[j] - least) * id + 0.5f) | nibble((x[j + HALF] - least) * id + 0.5f) << 4);
  memcpy(dst, &b, sizeof b);
  return true;
}

/* ---- decode ---- */

static void decode_q8_0(const void *src, float *x) {
  block_q8_0 b;
  memcpy(&b, src, sizeof b);
  float d = lc_f16_to_f32(b.d);
  for (int j = 0; j < BLOCK; j++) x[j] = (float)b.q[j] * d;
}

static void decode_q4_0(const void *src, float *x) {
  block_q4_0 b;
  memcpy(&b, src, sizeof b);
  float d = lc_f16_to_f32(b.d);
  for (int j = 0; j < HALF; j++) {
    x[j] = (float)((b.q[j] & 15) - 8) * d;
    x[j + HALF] = (float)((b.q[j] >> 4) - 8) * d;
  }
}

static void decode_q4_1(const void *src, float *x) {
  block_q4_1 b;
  memcpy(&b, src, sizeof b);
  float d = lc_f16_to_f32(b.d), m = lc_f16_to_f32(b.m);
  for (int j = 0; j < HALF; j++) {
    x[j] = (float)(b.q[j] & 15) * d + m;
    x[j + HALF] = (float)(b.q[j] >> 4) * d + m;
  }
}

/* ---- rows ---- */

static lc_status encode_blocks(lc_ctx *ctx, lc_dtype dtype, bool (*encode)(const float *, void *),
                               const float *src, int64_t n, uint8_t *dst) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  for (int64_t i = 0; i < n; i += BLOCK, dst += info->bytes) {
    for (int j = 0; j < BLOCK; j++)
      if (!isfinite(src[i + j]))
        return lc_fail(ctx, "element %" PRId64 " is %g: %s cannot hold it", i + j, (double)src[i + j],
                       info->name);
    if (!encode(src + i, dst))
      return lc_fail(ctx, "elements %" PRId64 " to %" PRId64 " are too large for the scale of %s", i,
                     i + BLOCK - 1, info->name);
  }
  return LC_OK;
}

static lc_status whole_blocks(lc_ctx *ctx, lc_dtype dtype, int64_t n) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  if (!info || info->block < 1) return lc_fail(ctx, "dtype %d is none that can be stored", (int)dtype);
  if (n < 0 || n % info->block)
    return lc_fail(ctx, "%" PRId64 " elements are not whole %s blocks of %d", n, info->name, info->block);
  return LC_OK;
}

lc_status lc_encode_row(lc_ctx *ctx, lc_dtype dtype, const float *src, int64_t n, void *dst) {
  LC_TRY(whole_blocks(ctx, dtype, n));
  uint16_t *half = dst;
  switch (dtype) {
  case LC_F32:
    memcpy(dst, src, (size_t)n * sizeof *src);
    return LC_OK;
  case LC_F16:
    for (int64_t i = 0; i < n; i++) half[i] = lc_f32_to_f16(src[i]);
    return LC_OK;
  case LC_BF16:
    for (int64_t i = 0; i < n; i++) half[i] = lc_f32_to_bf16(src[i]);
    return LC_OK;
  case LC_Q8_0:
    return encode_blocks(ctx, dtype, encode_q8_0, src, n, dst);
  case LC_Q4_0:
    return encode_blocks(ctx, dtype, encode_q4_0, src, n, dst);
  case LC_Q4_1:
    return encode_blocks(ctx, dtype, encode_q4_1, src, n, dst);
  default:
    return lc_fail(ctx, "f32 cannot be encoded as %s", lc_dtype_get(dtype)->name);
  }
}

#define DECODE(type, value)                                                                                  \
  for (int64_t i = 0; i < n; i++) dst[i] = (value(((const type *)src)[i]));                                  \
  return LC_OK

static lc_status decode_blocks(void (*decode)(const void *, float *), int bytes, const uint8_t *src,
                               int64_t n, float *dst) {
  for (int64_t i = 0; i < n; i += BLOCK, src += bytes) decode(src, dst + i);
  return LC_OK;
}

lc_status lc_decode_row(lc_ctx *ctx, lc_dtype dtype, const void *src, int64_t n, float *dst) {
  LC_TRY(whole_blocks(ctx, dtype, n));
  int bytes = lc_dtype_get(dtype)->bytes;
  switch (dtype) {
  case LC_F32:
    memcpy(dst, src, (size_t)n * sizeof *dst);
    return LC_OK;
  case LC_F16:
    DECODE(uint16_t, lc_f16_to_f32);
  case LC_BF16:
    DECODE(uint16_t, lc_bf16_to_f32);
  case LC_F64:
    DECODE(double, (float));
  case LC_I32:
    DECODE(int32_t, (float));
  case LC_I64:
    DECODE(int64_t, (float));
  case LC_U8:
    DECODE(uint8_t, (float));
  case LC_Q8_0:
    return decode_blocks(decode_q8_0, bytes, src, n, dst);
  case LC_Q4_0:
    return decode_blocks(decode_q4_0, bytes, src, n, dst);
  case LC_Q4_1:
    return decode_blocks(decode_q4_1, bytes, src, n, dst);
  default:
    return lc_fail(ctx, "dtype %d cannot be decoded", (int)dtype);
  }
}
