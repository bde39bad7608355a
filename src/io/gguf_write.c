/* Writes GGUF version 3 (ggml/docs/gguf.md), streaming: pairs are put and tensors declared, both kept as the
 * very bytes the file will hold, until the first data comes; then the head is written, and data follows in
 * declared order, in pieces of any size. Every tensor, the last one too, is padded with zeros to the
 * alignment of 32. Nothing is visible under the final name before every byte is on disk. */
#include <inttypes.h>
#include "io/gguf_types.h"
#include "io/sentence.h"

typedef struct {
  uint8_t *data;
  size_t n, room;
} bytes;
typedef struct {
  char *name;
  size_t size;
} declared;
typedef struct {
  char *key;
  size_t n;
} put_key;

struct lc_gguf_writer {
  lc_ctx *ctx;
  lc_out out;
  bytes pairs, infos;
  put_key *key;
  int64_t n_kv, room_kv;
  declared *tensor;
  int n, room;
  uint64_t size; /* of all data declared, with padding */
  int at;        /* the tensor that is being appended to */
  size_t given;  /* bytes of it so far */
  bool begun, failed;
};

/* Fails and lets finish know. */
#define REFUSE(w, ...) ((w)->failed = true, lc_fail((w)->ctx, __VA_ARGS__))

static lc_status failed(lc_gguf_writer *w, lc_status st) {
  if (st) w->failed = true;
  return st;
}

static lc_status add(lc_gguf_writer *w, bytes *b, const void *data, size_t n) {
  size_t need;
  if (!lc_add(b->n, n, &need)) return REFUSE(w, "%s: its head is larger than any memory", w->out.path);
  if (need > b->room) {
    size_t room = need < 2048 ? 4096 : need + need / 2;
    uint8_t *p = lc_realloc(w->ctx, LC_MEM_OTHER, b->data, room);
    if (!p) return failed(w, LC_FAILED);
    b->data = p;
    b->room = room;
  }
  if (n) memcpy(b->data + b->n, data, n);
  b->n = need;
  return LC_OK;
}
static lc_status add_u32(lc_gguf_writer *w, bytes *b, uint32_t x) {
  return add(w, b, &x, sizeof x);
}
static lc_status add_u64(lc_gguf_writer *w, bytes *b, uint64_t x) {
  return add(w, b, &x, sizeof x);
}
static lc_status add_string(lc_gguf_writer *w, bytes *b, const char *s, size_t n) {
  LC_TRY(add_u64(w, b, n));
  return add(w, b, s, n);
}

lc_status lc_gguf_create(lc_ctx *ctx, const char *path, lc_gguf_writer **out) {
  *out = NULL;
  lc_gguf_writer *w = lc_alloc(ctx, LC_MEM_OTHER, sizeof *w);
  if (!w) return LC_FAILED;
  w->ctx = ctx;
  lc_status st = lc_out_open(ctx, path, &w->out);
  if (st)
    lc_free(ctx, w);
  else
    *out = w;
  return st;
}

/* ---- pairs ---- */

/* Begins a pair: remembers the key for the check on repeated ones, adds key and type. */
static lc_status add_key(lc_gguf_writer *w, const char *key, size_t n, lc_gguf_type type) {
  lc_shown_name shown = lc_shown_n(key, n);
  if (w->begun) return REFUSE(w, "%s: key '%s': comes after the first tensor's data", w->out.path, shown.s);
  if (!n || n > LC_GGUF_MOST_KEY)
    return REFUSE(w, "%s: key '%s' of %s bytes: 1 to %d are written", w->out.path, shown.s, lc_commas(n).s,
                  LC_GGUF_MOST_KEY);
  if (w->n_kv == w->room_kv) {
    int64_t room = w->room_kv ? 2 * w->room_kv : 64;
    put_key *p = lc_realloc(w->ctx, LC_MEM_OTHER, w->key, (size_t)room * sizeof *p);
    if (!p) return failed(w, LC_FAILED);
    w->key = p;
    w->room_kv = room;
  }
  char *copy = lc_alloc(w->ctx, LC_MEM_OTHER, n);
  if (!copy) return failed(w, LC_FAILED);
  memcpy(copy, key, n);
  w->key[w->n_kv++] = (put_key){copy, n};
  LC_TRY(add_string(w, &w->pairs, key, n));
  return add_u32(w, &w->pairs, type);
}

/* The file's alignment is the writer's: only its own value may be stated. */
static lc_status put_scalar(lc_gguf_writer *w, const char *key, lc_gguf_type type, const void *value) {
  uint32_t alignment = LC_GGUF_ALIGNMENT;
  if (!strcmp(key, LC_GGUF_ALIGNMENT_KEY) &&
      (type != LC_GGUF_U32 || memcmp(value, &alignment, sizeof alignment)))
    return REFUSE(w, "%s: key '%s': only a u32 of %" PRIu32 " is written", w->out.path, key, alignment);
  LC_TRY(add_key(w, key, strlen(key), type));
  return add(w, &w->pairs, value, lc_gguf_size(type));
}

lc_status lc_gguf_put_u32(lc_gguf_writer *w, const char *key, uint32_t x) {
  return put_scalar(w, key, LC_GGUF_U32, &x);
}
lc_status lc_gguf_put_i32(lc_gguf_writer *w, const char *key, int32_t x) {
  return put_scalar(w, key, LC_GGUF_I32, &x);
}
lc_status lc_gguf_put_f32(lc_gguf_writer *w, const char *key, float x) {
  return put_scalar(w, key, LC_GGUF_F32, &x);
}
lc_status lc_gguf_put_bool(lc_gguf_writer *w, const char *key, bool x) {
  uint8_t byte = x;
  return put_scalar(w, key, LC_GGUF_BOOL, &byte);
}

lc_status lc_gguf_put_string(lc_gguf_writer *w, const char *key, const char *s, size_t n) {
  LC_TRY(add_key(w, key, strlen(key), LC_GGUF_STRING));
  return add_string(w, &w->pairs, s, n);
}

static lc_status add_array(lc_gguf_writer *w, const char *key, size_t key_n, lc_gguf_type item, int64_t n) {
  if (n < 0) return REFUSE(w, "%s: key '%s': %" PRId64 " items", w->out.path, lc_shown_n(key, key_n).s, n);
  LC_TRY(add_key(w, key, key_n, LC_GGUF_ARRAY));
  LC_TRY(add_u32(w, &w->pairs, item));
  return add_u64(w, &w->pairs, (uint64_t)n);
}

lc_status lc_gguf_put_strings(lc_gguf_writer *w, const char *key, const lc_str *s, int64_t n) {
  LC_TRY(add_array(w, key, strlen(key), LC_GGUF_STRING, n));
  for (int64_t i = 0; i < n; i++) LC_TRY(add_string(w, &w->pairs, s[i].data, s[i].n));
  return LC_OK;
}

static lc_status put_numbers(lc_gguf_writer *w, const char *key, lc_gguf_type item, const void *data,
                             int64_t n) {
  LC_TRY(add_array(w, key, strlen(key), item, n));
  return add(w, &w->pairs, data, (size_t)n * lc_gguf_size(item));
}
lc_status lc_gguf_put_i32s(lc_gguf_writer *w, const char *key, const int32_t *x, int64_t n) {
  return put_numbers(w, key, LC_GGUF_I32, x, n);
}
lc_status lc_gguf_put_f32s(lc_gguf_writer *w, const char *key, const float *x, int64_t n) {
  return put_numbers(w, key, LC_GGUF_F32, x, n);
}

lc_status lc_gguf_put_kv(lc_gguf_writer *w, const lc_gguf_kv *kv) {
  if (lc_str_eq(kv->key, LC_GGUF_ALIGNMENT_KEY)) return LC_OK;
  if (kv->type == LC_GGUF_ARRAY)
    LC_TRY(add_array(w, kv->key.data, kv->key.n, kv->item, (int64_t)kv->n));
  else
    LC_TRY(add_key(w, kv->key.data, kv->key.n, kv->type));
  if (kv->item != LC_GGUF_STRING) return add(w, &w->pairs, kv->at, (size_t)kv->n * lc_gguf_size(kv->item));
  for (uint64_t i = 0; i < kv->n; i++)
    LC_TRY(add_string(w, &w->pairs, kv->strings[i].data, kv->strings[i].n));
  return LC_OK;
}

/* ---- tensors ---- */

static lc_status remember(lc_gguf_writer *w, const char *name, size_t size) {
  if (w->n == w->room) {
    int room = w->room ? 2 * w->room : 64;
    declared *p = lc_realloc(w->ctx, LC_MEM_OTHER, w->tensor, (size_t)room * sizeof *p);
    if (!p) return failed(w, LC_FAILED);
    w->tensor = p;
    w->room = room;
  }
  char *copy = lc_strdup(w->ctx, name);
  if (!copy) return failed(w, LC_FAILED);
  w->tensor[w->n++] = (declared){copy, size};
  return LC_OK;
}

lc_status lc_gguf_declare(lc_gguf_writer *w, const char *name, lc_dtype dtype, int ndim,
                          const int64_t *shape) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  const char *path = w->out.path;
  lc_shown_name shown = lc_shown(name);
  lc_tensor t = {.dtype = dtype, .ndim = ndim};
  size_t size, n = strlen(name);
  uint64_t end;
  if (w->begun) return REFUSE(w, "%s: tensor '%s': declared after the first tensor's data", path, shown.s);
  if (!n || n >= LC_GGUF_MOST_NAME) /* readers keep a terminating zero in 64 bytes */
    return REFUSE(w, "%s: tensor name '%s' of %zu bytes: 1 to %d are written", path, shown.s, n,
                  LC_GGUF_MOST_NAME - 1);
  if (!info || info->ggml < 0)
    return REFUSE(w, "%s: tensor '%s': GGUF has no type for %s", path, shown.s, info ? info->name : "it");
  if (ndim < 0 || ndim > LC_MAX_DIM)
    return REFUSE(w, "%s: tensor '%s': %d dimensions, at most %d", path, shown.s, ndim, LC_MAX_DIM);
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0) return REFUSE(w, "%s: tensor '%s': dimension %d is negative", path, shown.s, i);
    t.shape[i] = shape[i];
  }
  if ((ndim ? shape[ndim - 1] : 1) % info->block)
    return REFUSE(w, "%s: tensor '%s': rows of %s elements are not whole %s blocks of %d", path, shown.s,
                  lc_commas(ndim ? (uint64_t)shape[ndim - 1] : 1).s, info->name, info->block);
  int64_t count = lc_tensor_count(&t);
  if (count < 0 || !lc_dtype_bytes(dtype, count, &size) || __builtin_add_overflow(w->size, size, &end) ||
      !lc_gguf_pad(end, LC_GGUF_ALIGNMENT, &end))
    return REFUSE(w, "%s: tensor '%s': its shape is larger than any file", path, shown.s);

  LC_TRY(remember(w, name, size));
  LC_TRY(add_string(w, &w->infos, name, n));
  LC_TRY(add_u32(w, &w->infos, (uint32_t)ndim));
  for (int i = ndim - 1; i >= 0; i--) LC_TRY(add_u64(w, &w->infos, (uint64_t)shape[i]));
  LC_TRY(add_u32(w, &w->infos, (uint32_t)info->ggml));
  LC_TRY(add_u64(w, &w->infos, w->size));
  w->size = end;
  return LC_OK;
}

/* Refuses keys or names that are there twice; looked for once, when all are known. */
static lc_status check_repeated(lc_gguf_writer *w) {
  size_t most = (size_t)(w->n_kv > w->n ? w->n_kv : w->n);
  lc_str *s = lc_alloc_n(w->ctx, LC_MEM_OTHER, most, sizeof *s);
  if (!s) return failed(w, LC_FAILED);
  lc_status st = LC_OK;
  for (int64_t i = 0; i < w->n_kv; i++) s[i] = (lc_str){w->key[i].key, w->key[i].n};
  const lc_str *twice = lc_str_repeated(s, (size_t)w->n_kv);
  if (twice) st = REFUSE(w, "%s: key '%s' is put twice", w->out.path, lc_shown_n(twice->data, twice->n).s);
  for (int i = 0; i < w->n; i++) s[i] = (lc_str){w->tensor[i].name, strlen(w->tensor[i].name)};
  twice = st ? NULL : lc_str_repeated(s, (size_t)w->n);
  if (twice)
    st = REFUSE(w, "%s: tensor '%s' is declared twice", w->out.path, lc_shown_n(twice->data, twice->n).s);
  lc_free(w->ctx, s);
  return st;
}

static lc_status write_padding(lc_gguf_writer *w, uint64_t at) {
  static const uint8_t zeros[LC_GGUF_ALIGNMENT];
  uint64_t end;
  lc_gguf_pad(at, LC_GGUF_ALIGNMENT, &end);
  return failed(w, lc_out_write(&w->out, zeros, (size_t)(end - at)));
}

static lc_status write_head(lc_gguf_writer *w) {
  const uint32_t version = LC_GGUF_VERSION;
  const uint64_t count[2] = {(uint64_t)w->n, (uint64_t)w->n_kv};
  w->begun = true;
  LC_TRY(check_repeated(w));
  lc_out_write(&w->out, "GGUF", 4);
  lc_out_write(&w->out, &version, sizeof version);
  lc_out_write(&w->out, count, sizeof count);
  lc_out_write(&w->out, w->pairs.data, w->pairs.n);
  lc_out_write(&w->out, w->infos.data, w->infos.n);
  return write_padding(w, 4 + sizeof version + sizeof count + w->pairs.n + w->infos.n);
}

/* Steps over tensors that have all their bytes, padding each. */
static lc_status step(lc_gguf_writer *w) {
  while (w->at < w->n && w->given == w->tensor[w->at].size) {
    LC_TRY(write_padding(w, w->given));
    w->at++;
    w->given = 0;
  }
  return LC_OK;
}

lc_status lc_gguf_append(lc_gguf_writer *w, const void *data, size_t n) {
  if (!w->begun) {
    LC_TRY(write_head(w));
    LC_TRY(step(w));
  }
  if (!n) return LC_OK;
  if (w->at == w->n)
    return REFUSE(w, "%s: %s bytes more than all its tensors hold", w->out.path, lc_commas(n).s);
  const declared *d = &w->tensor[w->at];
  if (n > d->size - w->given)
    return REFUSE(w, "%s: tensor '%s': holds %s bytes, %s were given", w->out.path, lc_shown(d->name).s,
                  lc_commas(d->size).s, lc_commas(w->given + n).s);
  LC_TRY(failed(w, lc_out_write(&w->out, data, n)));
  w->given += n;
  return step(w);
}

static lc_status commit(lc_gguf_writer *w) {
  if (w->failed) return LC_FAILED; /* the sentence was left when it failed */
  LC_TRY(lc_gguf_append(w, NULL, 0));
  if (w->at < w->n)
    return lc_fail(w->ctx, "%s: tensor '%s': holds %s bytes, %s were given", w->out.path,
                   lc_shown(w->tensor[w->at].name).s, lc_commas(w->tensor[w->at].size).s,
                   lc_commas(w->given).s);
  return lc_out_commit(&w->out);
}

lc_status lc_gguf_finish(lc_gguf_writer *w, bool ok) {
  if (!w) return LC_OK;
  lc_ctx *ctx = w->ctx;
  lc_status st = ok ? commit(w) : LC_OK;
  if (!ok || st) lc_out_abort(&w->out);
  for (int64_t i = 0; i < w->n_kv; i++) lc_free(ctx, w->key[i].key);
  for (int i = 0; i < w->n; i++) lc_free(ctx, w->tensor[i].name);
  lc_free(ctx, w->key);
  lc_free(ctx, w->tensor);
  lc_free(ctx, w->pairs.data);
  lc_free(ctx, w->infos.data);
  lc_free(ctx, w);
  return st;
}
