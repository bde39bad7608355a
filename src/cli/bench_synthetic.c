/* A model that exists in memory only: a Llama of a given shape, every layer's weights random and its own, all matrices in one form. What
 * reading weights costs is measured on these: a small model's file may sit in the last-level cache. */
#include "cli/bench.h"
#include <string.h>

enum { VOCABULARY = 32768, CONTEXT = 8192, ROWS = 64 /* of a tensor a chunk */ };

/* L,C,F,H,KV: layers, width, feed-forward width, heads, heads of keys and values. */
static lc_status read_shape(lc_ctx *ctx, const char *text, lc_config *c) {
  long long v[5];
  int used = 0;
  if (!text || sscanf(text, "%lld,%lld,%lld,%lld,%lld%n", &v[0], &v[1], &v[2], &v[3], &v[4], &used) != 5 ||
      text[used])
    return lc_usage(ctx, "--shape %s: L,C,F,H,KV is needed, as 24,2048,8192,32,8", text ? text : "");
  for (int i = 0; i < 5; i++)
    if (v[i] < 1 || v[i] > 1 << 20) return lc_usage(ctx, "--shape %s: %lld is out of range", text, v[i]);
  if (v[1] % v[3] || v[3] % v[4] || v[1] / v[3] % 2 || v[1] % 32 || v[2] % 32 || v[1] / v[3] > LC_ATTN_MAX_D)
    return lc_usage(ctx,
                    "--shape %s: C must be H even heads of at most %d columns, H a multiple of KV, C and F "
                    "multiples of 32",
                    text, LC_ATTN_MAX_D);
  *c = (lc_config){.family = &lc_family_llama,
                   .task = LC_TASK_LM,
                   .L = v[0],
                   .C = v[1],
                   .F = v[2],
                   .H = v[3],
                   .G = v[4],
                   .D = v[1] / v[3]};
  c->V = VOCABULARY, c->context = CONTEXT, c->norm_eps = 1e-5f, c->tied = true;
  c->bos = c->eos = c->pad = -1;
  c->rope = (lc_rope){.type = LC_ROPE_DEFAULT,
                      .dim = c->D,
                      .theta = 10000,
                      .factor = 1,
                      .original_context = CONTEXT,
                      .context = CONTEXT};
  return LC_OK;
}

typedef struct {
  lc_tensor *t;
  uint8_t *data;
  size_t row_bytes;
  uint64_t seed;
} fill_arg;

/* Random bits; then what would not be a number of moderate size is put right: exponents, and the scales of blocks. */
static lc_status fill_chunk(void *arg, int64_t chunk, int worker) {
  const fill_arg *a = arg;
  const lc_dtype_info *d = lc_dtype_get(a->t->dtype);
  int64_t r0 = chunk * ROWS, r1 = lc_min64(r0 + ROWS, a->t->shape[0]);
  uint8_t *p = a->data + (size_t)r0 * a->row_bytes, *end = a->data + (size_t)r1 * a->row_bytes;
  uint64_t x = (a->seed << 32) + (uint64_t)chunk + 0x9e3779b97f4a7c15u;
  for (uint8_t *q = p; q < end; q += sizeof x) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    memcpy(q, &x, (size_t)lc_min64(sizeof x, end - q));
  }
  const uint16_t scale[2] = {0x1000, 0x9400}; /* f16: 2^-11, and -2^-10 for what Q4_1 adds */
  for (; p < end; p += d->bytes)
    if (d->quantised)
      memcpy(p, scale, a->t->dtype == LC_Q4_1 ? 4 : 2);
    else if (d->bytes == 4)
      p[3] = (p[3] & 0x80) | 0x3c, p[2] &= 0x7f;
    else
      p[1] = (p[1] & 0x80) | (a->t->dtype == LC_BF16 ? 0x3c : 0x20);
  return LC_OK;
}

static lc_status fill(lc_ctx *ctx, lc_model *m, lc_dtype form, uint8_t *data) {
  for (int i = 0; i < m->n; i++) {
    lc_tensor *t = &m->src[i];
    fill_arg a = {.t = t, .data = data, .seed = (uint64_t)i + 1};
    *t = (lc_tensor){.data = data,
                     .dtype = m->decl[i].ndim == 1 ? LC_F32 : form,
                     .ndim = m->decl[i].ndim,
                     .shape = {m->decl[i].M, m->decl[i].N}};
    size_t bytes;
    if (t->ndim == 1) {
      t->shape[0] = m->decl[i].N;
      for (int64_t k = 0; k < t->shape[0]; k++) ((float *)(void *)data)[k] = 1;
    } else {
      lc_dtype_bytes(form, m->decl[i].N, &a.row_bytes);
      LC_TRY(lc_parallel(ctx, lc_ceil_div(m->decl[i].M, ROWS), fill_chunk, &a));
    }
    lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes);
    data += (bytes + 63) / 64 * 64;
  }
  return LC_OK;
}

static bool total_bytes(const lc_model *m, lc_dtype form, size_t *total) {
  *total = 0;
  for (int i = 0; i < m->n; i++) {
    size_t bytes;
    if (!lc_dtype_bytes(m->decl[i].ndim == 1 ? LC_F32 : form, m->decl[i].N, &bytes) ||
        !lc_mul(bytes, (size_t)m->decl[i].M, &bytes) || bytes > SIZE_MAX / 4 || *total > SIZE_MAX / 4)
      return false;
    *total += (bytes + 63) / 64 * 64;
  }
  return true;
}

lc_status lc_bench_synthetic(lc_ctx *ctx, const char *shape, lc_dtype form, lc_model **out, void **memory) {
  *out = NULL, *memory = NULL;
  lc_config c;
  LC_TRY(read_shape(ctx, shape, &c));
  lc_model *m = lc_alloc(ctx, LC_MEM_OTHER, sizeof *m);
  if (!m) return LC_FAILED;
  *m = (lc_model){.ctx = ctx, .config = c, .path = lc_strdup(ctx, "(synthetic)")};
  lc_decls d = {.ctx = ctx};
  c.family->tensors(&c, &d);
  m->decl = d.decl, m->n = d.n;
  m->src = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *m->src);
  m->row_map = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *m->row_map);
  size_t bytes = 0;
  lc_status st = d.st ? d.st : m->path && m->src && m->row_map ? LC_OK : LC_FAILED;
  if (!st && !total_bytes(m, form, &bytes)) st = lc_fail(ctx, "--shape %s: too large", shape);
  if (!st && !(*memory = lc_alloc(ctx, LC_MEM_FORM, bytes))) st = LC_FAILED;
  if (!st) st = fill(ctx, m, form, *memory);
  if (st) {
    lc_model_close(m);
    lc_free(ctx, *memory);
    *memory = NULL;
    return st;
  }
  *out = m;
  return LC_OK;
}
