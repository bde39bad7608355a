/* Typed access to GGUF's pairs. Writers disagree about the width of a number (a context length is u32 here and u64 there), so a reader asks for "an
 * integer" or "a number" and gets any width that fits. Values in the file are not aligned: all loads are memcpy. */
#include <inttypes.h>
#include "io/gguf_types.h"
#include "io/sentence.h"

bool lc_str_eq(lc_str s, const char *t) { return s.n == strlen(t) && !memcmp(s.data, t, s.n); }

const lc_gguf_kv *lc_gguf_key(const lc_gguf *g, const char *key) {
  for (int64_t i = 0; i < g->n_kv; i++)
    if (lc_str_eq(g->kv[i].key, key)) return &g->kv[i];
  return NULL;
}

#define LOAD(type, name)                                                                                     \
  type name;                                                                                                 \
  memcpy(&name, kv->at + i * sizeof name, sizeof name)

bool lc_gguf_item_i64(const lc_gguf_kv *kv, uint64_t i, int64_t *out) {
  switch (kv->item) {
  case LC_GGUF_U8: *out = kv->at[i]; return true;
  case LC_GGUF_I8: *out = (int8_t)kv->at[i]; return true;
  case LC_GGUF_U16: { LOAD(uint16_t, x); *out = x; return true; }
  case LC_GGUF_I16: { LOAD(int16_t, x); *out = x; return true; }
  case LC_GGUF_U32: { LOAD(uint32_t, x); *out = x; return true; }
  case LC_GGUF_I32: { LOAD(int32_t, x); *out = x; return true; }
  case LC_GGUF_I64: { LOAD(int64_t, x); *out = x; return true; }
  case LC_GGUF_U64: {
    LOAD(uint64_t, x);
    if (x > INT64_MAX) return false;
    *out = (int64_t)x;
    return true;
  }
  default: return false;
  }
}

bool lc_gguf_item_f64(const lc_gguf_kv *kv, uint64_t i, double *out) {
  int64_t whole;
  switch (kv->item) {
  case LC_GGUF_F32: { LOAD(float, x); *out = x; return true; }
  case LC_GGUF_F64: { LOAD(double, x); *out = x; return true; }
  default:
    if (!lc_gguf_item_i64(kv, i, &whole)) return false;
    *out = (double)whole;
    return true;
  }
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
