/* Reads GGUF (ggml/docs/gguf.md), versions 2 and 3, which have the same layout.
 *
 * A file is: "GGUF", version (u32), number of tensors and of pairs (u64 each); the pairs (key, type, value);
 * the tensors' names, shapes, types and offsets; padding to `general.alignment` (32 unless given); the data,
 * in which every tensor begins at a multiple of the alignment. A string is a length (u64) and its bytes; an
 * array is the items' type, their number and the items.
 *
 * A cursor walks the mapping once. Whatever counts something is checked against the bytes that are left
 * before anything is allocated for it: a pair takes at least 13 bytes, a tensor 24, a string 8. So the memory
 * taken is at most a few times the file, whatever the file says.
 *
 * ne, GGUF's shape, is fastest dimension first; lc_tensor's is slowest first. */
#include <inttypes.h>
#include <limits.h>
#include "io/gguf_types.h"
#include "io/sentence.h"

typedef struct {
  lc_ctx *ctx;
  const char *path;
  const uint8_t *data;
  size_t size, at;
} cursor;

static size_t left(const cursor *c) {
  return c->size - c->at;
}

static lc_status take(cursor *c, uint64_t n, const char *what, const uint8_t **p) {
  *p = c->data + c->at;
  if (n > left(c))
    return lc_fail(c->ctx, "%s: truncated: %s needs %s bytes at offset %s, the file ends at %s", c->path,
                   what, lc_commas(n).s, lc_commas(c->at).s, lc_commas(c->size).s);
  c->at += (size_t)n;
  return LC_OK;
}
static lc_status take_u32(cursor *c, const char *what, uint32_t *out) {
  const uint8_t *p = NULL;
  LC_TRY(take(c, sizeof *out, what, &p));
  memcpy(out, p, sizeof *out);
  return LC_OK;
}
static lc_status take_u64(cursor *c, const char *what, uint64_t *out) {
  const uint8_t *p = NULL;
  LC_TRY(take(c, sizeof *out, what, &p));
  memcpy(out, p, sizeof *out);
  return LC_OK;
}
static lc_status take_string(cursor *c, const char *what, lc_str *out) {
  uint64_t n;
  const uint8_t *p;
  LC_TRY(take_u64(c, what, &n));
  LC_TRY(take(c, n, what, &p));
  *out = (lc_str){(const char *)p, (size_t)n};
  return LC_OK;
}

/* Refuses a count of things that take at least `least` bytes each, when the rest of the file cannot hold
 * them. */
static lc_status check_count(cursor *c, const char *what, uint64_t n, size_t least) {
  if (n > left(c) / least)
    return lc_fail(c->ctx, "%s: %s: %s of them need more than the %s bytes left", c->path, what,
                   lc_commas(n).s, lc_commas(left(c)).s);
  return LC_OK;
}

/* ---- pairs ---- */

static lc_status read_type(cursor *c, const char *what, lc_gguf_type *type) {
  uint32_t t;
  LC_TRY(take_u32(c, what, &t));
  if (t > LC_GGUF_F64)
    return lc_fail(c->ctx, "%s: %s: value type %" PRIu32 " is not known", c->path, what, t);
  *type = (lc_gguf_type)t;
  return LC_OK;
}

static lc_status read_value(cursor *c, const char *what, lc_gguf_kv *kv) {
  LC_TRY(read_type(c, what, &kv->type));
  kv->item = kv->type;
  kv->n = 1;
  if (kv->type == LC_GGUF_ARRAY) {
    LC_TRY(read_type(c, what, &kv->item));
    if (kv->item == LC_GGUF_ARRAY)
      return lc_fail(c->ctx, "%s: %s: an array of arrays is not read", c->path, what);
    LC_TRY(take_u64(c, what, &kv->n));
  }
  size_t size = lc_gguf_size(kv->item);
  LC_TRY(check_count(c, what, kv->n, size ? size : sizeof(uint64_t)));
  if (size) return take(c, kv->n * size, what, &kv->at);

  kv->at = c->data + c->at;
  kv->strings = lc_alloc_n(c->ctx, LC_MEM_OTHER, (size_t)kv->n, sizeof *kv->strings);
  if (!kv->strings) return LC_FAILED;
  for (uint64_t i = 0; i < kv->n; i++) LC_TRY(take_string(c, what, &kv->strings[i]));
  return LC_OK;
}

static lc_status read_pairs(cursor *c, lc_gguf *g, uint64_t n) {
  LC_TRY(check_count(c, "key/value pairs", n, 13));
  g->kv = lc_alloc_n(c->ctx, LC_MEM_OTHER, (size_t)n, sizeof *g->kv);
  lc_str *keys = lc_alloc_n(c->ctx, LC_MEM_OTHER, (size_t)n, sizeof *keys);
  lc_status st = g->kv && keys ? LC_OK : LC_FAILED;
  if (st) goto done;
  for (uint64_t i = 0; i < n; i++) {
    lc_gguf_kv *kv = &g->kv[g->n_kv++]; /* counted at once: close frees what a failure leaves */
    LC_GO(take_string(c, "a key", &kv->key));
    if (kv->key.n > LC_GGUF_MOST_KEY) {
      st = lc_fail(c->ctx, "%s: a key of %s bytes, at most %s", c->path, lc_commas(kv->key.n).s,
                   lc_commas(LC_GGUF_MOST_KEY).s);
      goto done;
    }
    char what[100];
    snprintf(what, sizeof what, "key '%s'", lc_shown_n(kv->key.data, kv->key.n).s);
    LC_GO(read_value(c, what, kv));
    keys[i] = kv->key;
  }
  const lc_str *twice = lc_str_repeated(keys, (size_t)n);
  if (twice)
    st = lc_fail(c->ctx, "%s: key '%s' is there twice", c->path, lc_shown_n(twice->data, twice->n).s);
done:
  lc_free(c->ctx, keys);
  return st;
}

static lc_status read_alignment(cursor *c, lc_gguf *g) {
  const lc_gguf_kv *kv = lc_gguf_key(g, LC_GGUF_ALIGNMENT_KEY);
  g->alignment = LC_GGUF_ALIGNMENT;
  if (!kv) return LC_OK;
  if (kv->type != LC_GGUF_U32)
    return lc_fail(c->ctx, "%s: key '%s': not a u32", c->path, LC_GGUF_ALIGNMENT_KEY);
  memcpy(&g->alignment, kv->at, 4);
  if (g->alignment < 8 || (g->alignment & (g->alignment - 1)))
    return lc_fail(c->ctx, "%s: key '%s': %" PRIu32 " is not a power of two of at least 8", c->path,
                   LC_GGUF_ALIGNMENT_KEY, g->alignment);
  return LC_OK;
}

/* ---- tensors ---- */

typedef struct {
  uint64_t begin, end; /* in the data */
  const char *name;
} span;

static lc_status unknown_type(cursor *c, const char *name, uint32_t type) {
  char known[256] = "";
  size_t n = 0;
  for (int d = LC_NONE + 1; d < LC_DTYPE_COUNT; d++) {
    const lc_dtype_info *info = lc_dtype_get((lc_dtype)d);
    if (info->ggml >= 0 && n + 40 < sizeof known)
      n += (size_t)snprintf(known + n, sizeof known - n, "%s%d (%.20s)", n ? ", " : "", info->ggml,
                            info->name);
  }
  return lc_fail(c->ctx, "%s: tensor '%s': ggml type %" PRIu32 " is not read; known are %s", c->path,
                 lc_shown(name).s, type, known);
}

/* Reads the description of one tensor; data comes later, when the end of all descriptions is known. */
static lc_status read_tensor(cursor *c, lc_named_tensor *out, span *s) {
  lc_str name;
  LC_TRY(take_string(c, "a tensor's name", &name));
  if (!name.n || name.n > LC_GGUF_MOST_NAME || memchr(name.data, 0, name.n))
    return lc_fail(c->ctx, "%s: tensor name '%s' of %s bytes: 1 to %d are read, none of them zero", c->path,
                   lc_shown_n(name.data, name.n).s, lc_commas(name.n).s, LC_GGUF_MOST_NAME);
  s->name = out->name = lc_alloc(c->ctx, LC_MEM_OTHER, name.n + 1);
  if (!out->name) return LC_FAILED;
  memcpy(out->name, name.data, name.n);
  char what[100];
  snprintf(what, sizeof what, "tensor '%s'", lc_shown(out->name).s);

  lc_tensor *t = &out->t;
  uint32_t ndim, type;
  LC_TRY(take_u32(c, what, &ndim));
  if (ndim > LC_MAX_DIM)
    return lc_fail(c->ctx, "%s: %s: %" PRIu32 " dimensions, at most %d are read", c->path, what, ndim,
                   LC_MAX_DIM);
  t->ndim = (int)ndim;
  for (uint32_t i = 0; i < ndim; i++) {
    uint64_t ne;
    LC_TRY(take_u64(c, what, &ne));
    if (ne > INT64_MAX) return lc_fail(c->ctx, "%s: %s: a dimension of %s", c->path, what, lc_commas(ne).s);
    t->shape[ndim - 1 - i] = (int64_t)ne;
  }
  LC_TRY(take_u32(c, what, &type));
  LC_TRY(take_u64(c, what, &s->begin));
  t->dtype = type <= INT_MAX ? lc_dtype_by_ggml((int)type) : LC_NONE;
  if (t->dtype == LC_NONE) return unknown_type(c, out->name, type);

  const lc_dtype_info *info = lc_dtype_get(t->dtype);
  int64_t count = lc_tensor_count(t), row = ndim ? t->shape[ndim - 1] : 1;
  size_t bytes;
  if (count < 0) return lc_fail(c->ctx, "%s: %s: its shape is larger than any memory", c->path, what);
  if (row % info->block)
    return lc_fail(c->ctx, "%s: %s: rows of %s elements are not whole %s blocks of %d", c->path, what,
                   lc_commas((uint64_t)row).s, info->name, info->block);
  if (!lc_dtype_bytes(t->dtype, count, &bytes) || __builtin_add_overflow(s->begin, bytes, &s->end))
    return lc_fail(c->ctx, "%s: %s: its shape is larger than any memory", c->path, what);
  return LC_OK;
}

static int by_offset(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1 : x->end > y->end;
}

static lc_status check_overlap(cursor *c, span *s, int n) {
  if (n > 1) qsort(s, (size_t)n, sizeof *s, by_offset);
  uint64_t end = 0;
  for (int i = 0; i < n; i++) {
    if (s[i].begin < end)
      return lc_fail(c->ctx,
                     "%s: tensor '%s': begins at offset %s of the data, where tensor '%s' goes on to %s",
                     c->path, lc_shown(s[i].name).s, lc_commas(s[i].begin).s, lc_shown(s[i - 1].name).s,
                     lc_commas(end).s);
    end = s[i].end;
  }
  return LC_OK;
}

/* Points every tensor into the data, which begins at the next multiple of the alignment. */
static lc_status place_tensors(cursor *c, lc_gguf *g, const span *s) {
  uint64_t start, at, end;
  if (!lc_gguf_pad(c->at, g->alignment, &start))
    return lc_fail(c->ctx, "%s: alignment %" PRIu32 " is too large", c->path, g->alignment);
  for (int i = 0; i < g->n; i++) {
    const char *name = g->tensor[i].name;
    if (s[i].begin % g->alignment)
      return lc_fail(c->ctx, "%s: tensor '%s': offset %s is no multiple of the alignment %" PRIu32, c->path,
                     lc_shown(name).s, lc_commas(s[i].begin).s, g->alignment);
    if (__builtin_add_overflow(start, s[i].begin, &at) || __builtin_add_overflow(start, s[i].end, &end) ||
        end > c->size)
      return lc_fail(c->ctx, "%s: tensor '%s': needs %s bytes at offset %s of the data, the file ends at %s",
                     c->path, lc_shown(name).s, lc_commas(s[i].end - s[i].begin).s, lc_commas(s[i].begin).s,
                     lc_commas(c->size > start ? c->size - start : 0).s);
    g->tensor[i].t.data = c->data + at;
  }
  return LC_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const lc_named_tensor *)a)->name, ((const lc_named_tensor *)b)->name);
}

static lc_status read_tensors(cursor *c, lc_gguf *g, uint64_t n) {
  LC_TRY(check_count(c, "tensors", n, 24));
  if (n > INT_MAX) return lc_fail(c->ctx, "%s: %s tensors are too many", c->path, lc_commas(n).s);
  g->tensor = lc_alloc_n(c->ctx, LC_MEM_OTHER, (size_t)n, sizeof *g->tensor);
  span *s = lc_alloc_n(c->ctx, LC_MEM_OTHER, (size_t)n, sizeof *s);
  lc_status st = g->tensor && s ? LC_OK : LC_FAILED;
  if (st) goto done;
  for (uint64_t i = 0; i < n; i++) {
    g->n++;
    LC_GO(read_tensor(c, &g->tensor[i], &s[i]));
  }
  LC_GO(place_tensors(c, g, s));
  LC_GO(check_overlap(c, s, g->n));
  qsort(g->tensor, (size_t)g->n, sizeof *g->tensor, by_name);
  for (int i = 1; i < g->n; i++)
    if (!by_name(&g->tensor[i - 1], &g->tensor[i])) {
      st = lc_fail(c->ctx, "%s: tensor '%s' is there twice", c->path, lc_shown(g->tensor[i].name).s);
      goto done;
    }
done:
  lc_free(c->ctx, s);
  return st;
}

/* ---- a file ---- */

static lc_status read_preamble(cursor *c, lc_gguf *g, uint64_t *n_tensors, uint64_t *n_kv) {
  const uint8_t *magic;
  LC_TRY(take(c, 4, "the magic number", &magic));
  if (memcmp(magic, "GGUF", 4))
    return lc_fail(c->ctx, "%s: no GGUF file: it does not begin with 'GGUF'", c->path);
  LC_TRY(take_u32(c, "the version", &g->version));
  if (g->version && !(g->version & 0xffff))
    return lc_fail(c->ctx, "%s: a big-endian GGUF file is not read", c->path);
  if (g->version != 2 && g->version != LC_GGUF_VERSION)
    return lc_fail(c->ctx, "%s: GGUF version %" PRIu32 " is not read (2 and 3 are)", c->path, g->version);
  LC_TRY(take_u64(c, "the number of tensors", n_tensors));
  return take_u64(c, "the number of key/value pairs", n_kv);
}

lc_status lc_gguf_open(lc_ctx *ctx, const char *path, lc_gguf *out) {
  lc_gguf g = {0};
  cursor c = {.ctx = ctx, .path = path};
  uint64_t n_tensors = 0, n_kv = 0;
  lc_status st;
  *out = g;
  LC_TRY(lc_map_open(ctx, path, &g.map));
  c.data = g.map.data;
  c.size = g.map.size;
  LC_GO(read_preamble(&c, &g, &n_tensors, &n_kv));
  LC_GO(read_pairs(&c, &g, n_kv));
  LC_GO(read_alignment(&c, &g));
  LC_GO(read_tensors(&c, &g, n_tensors));
  *out = g;
done:
  if (st) lc_gguf_close(ctx, &g);
  return st;
}

void lc_gguf_close(lc_ctx *ctx, lc_gguf *g) {
  for (int64_t i = 0; i < g->n_kv; i++) lc_free(ctx, g->kv[i].strings);
  for (int i = 0; i < g->n; i++) lc_free(ctx, g->tensor[i].name);
  lc_free(ctx, g->kv);
  lc_free(ctx, g->tensor);
  if (g->map.data) lc_map_close(ctx, &g->map);
  *g = (lc_gguf){0};
}

const lc_tensor *lc_gguf_find(const lc_gguf *g, const char *name) {
  lc_named_tensor key = {.name = (char *)name};
  const lc_named_tensor *t = g->n ? bsearch(&key, g->tensor, (size_t)g->n, sizeof key, by_name) : NULL;
  return t ? &t->t : NULL;
}
