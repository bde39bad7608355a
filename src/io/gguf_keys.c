/* Typed access to GGUF's pairs. Writers disagree about the width of a number (a context length is u32 here
 * and u64 there), so a reader asks for "an integer" or "a number" and gets any width that fits. Values in the
 * file are not aligned: all loads are memcpy. */
#include <inttypes.h>
#include "io/gguf_types.h"
#include "io/sentence.h"

bool lc_str_eq(lc_str s, const char *t) {
  return s.n == strlen(t) && !memcmp(s.data, t, s.n);
}

const lc_gguf_kv *lc_gguf_key(const lc_gguf *g, const char *key) {
  for (int64_t i = 0; i < g->n_kv; i++)
    if (lc_str_eq(g->kv[i].key, key)) return &g->kv[i];
  return NULL;
}

typedef union {
  uint8_t u8;
  int8_t i8;
  uint16_t u16;
  int16_t i16;
  uint32_t u32;
  int32_t i32;
  uint64_t u64;
  int64_t i64;
  float f32;
  double f64;
} number;

static number load(const lc_gguf_kv *kv, uint64_t i) {
  number x = {.u64 = 0};
  size_t size = lc_gguf_size(kv->item);
  if (size) memcpy(&x, kv->at + i * size, size);
  return x;
}

bool lc_gguf_item_i64(const lc_gguf_kv *kv, uint64_t i, int64_t *out) {
  number x = load(kv, i);
  switch (kv->item) {
  case LC_GGUF_U8:
    return *out = x.u8, true;
  case LC_GGUF_I8:
    return *out = x.i8, true;
  case LC_GGUF_U16:
    return *out = x.u16, true;
  case LC_GGUF_I16:
    return *out = x.i16, true;
  case LC_GGUF_U32:
    return *out = x.u32, true;
  case LC_GGUF_I32:
    return *out = x.i32, true;
  case LC_GGUF_I64:
    return *out = x.i64, true;
  case LC_GGUF_U64:
    if (x.u64 > INT64_MAX) return false;
    return *out = (int64_t)x.u64, true;
  default:
    return false;
  }
}

bool lc_gguf_item_f64(const lc_gguf_kv *kv, uint64_t i, double *out) {
  number x = load(kv, i);
  int64_t whole = 0;
  if (kv->item == LC_GGUF_F32) return *out = x.f32, true;
  if (kv->item == LC_GGUF_F64) return *out = x.f64, true;
  if (!lc_gguf_item_i64(kv, i, &whole)) return false;
  *out = (double)whole;
  return true;
}

/* The pair of that key when it is no array. */
static const lc_gguf_kv *scalar(const lc_gguf *g, const char *key) {
  const lc_gguf_kv *kv = lc_gguf_key(g, key);
  return kv && kv->type != LC_GGUF_ARRAY ? kv : NULL;
}

int64_t lc_gguf_i64_or(const lc_gguf *g, const char *key, int64_t def) {
  const lc_gguf_kv *kv = scalar(g, key);
  int64_t x;
  return kv && lc_gguf_item_i64(kv, 0, &x) ? x : def;
}

double lc_gguf_f64_or(const lc_gguf *g, const char *key, double def) {
  const lc_gguf_kv *kv = scalar(g, key);
  double x;
  return kv && lc_gguf_item_f64(kv, 0, &x) ? x : def;
}

bool lc_gguf_bool_or(const lc_gguf *g, const char *key, bool def) {
  const lc_gguf_kv *kv = scalar(g, key);
  return kv && kv->type == LC_GGUF_BOOL ? *kv->at != 0 : def;
}

lc_status lc_gguf_i64(lc_ctx *ctx, const lc_gguf *g, const char *key, int64_t *out) {
  const lc_gguf_kv *kv = lc_gguf_key(g, key);
  if (!kv) return lc_fail(ctx, "%s: key '%s' is missing", g->map.path, key);
  if (kv->type == LC_GGUF_ARRAY || !lc_gguf_item_i64(kv, 0, out))
    return lc_fail(ctx, "%s: key '%s' is not an integer of 64 bits", g->map.path, key);
  return LC_OK;
}

lc_status lc_gguf_string(lc_ctx *ctx, const lc_gguf *g, const char *key, lc_str *out) {
  const lc_gguf_kv *kv = lc_gguf_key(g, key);
  if (!kv) return lc_fail(ctx, "%s: key '%s' is missing", g->map.path, key);
  if (kv->type != LC_GGUF_STRING) return lc_fail(ctx, "%s: key '%s' is not a string", g->map.path, key);
  *out = kv->strings[0];
  return LC_OK;
}
