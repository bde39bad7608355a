/* Writes safetensors, streaming: the header follows from names, dtypes and shapes alone, so tensors are
 * declared first and their bytes come later, in the same order and in pieces of any size. Nothing is visible
 * under the final name before every byte is on disk.
 *
 * The header is compact JSON padded with spaces so that the data begins at a multiple of 8; between tensors
 * the format allows no padding, so the order has to keep them aligned, which is checked at declaration. */
#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "io/io.h"
#include "io/sentence.h"

#define HEADER_MOST_BYTES ((size_t)100000000)

typedef struct {
  char *name;
  size_t bytes;
} declared;

struct lc_safetensors_writer {
  lc_ctx *ctx;
  lc_out out;
  json_t *header, *meta; /* meta is a member of header */
  declared *tensor;
  int n, room;
  size_t size;  /* of all data declared */
  int at;       /* the tensor that is being appended to */
  size_t given; /* bytes of it so far */
  bool begun, failed;
};

/* Fails and lets finish know. */
#define REFUSE(w, ...) ((w)->failed = true, lc_fail((w)->ctx, __VA_ARGS__))

lc_status lc_safetensors_create(lc_ctx *ctx, const char *path, lc_safetensors_writer **out) {
  *out = NULL;
  lc_safetensors_writer *w = lc_alloc(ctx, LC_MEM_OTHER, sizeof *w);
  if (!w) return LC_FAILED;
  w->ctx = ctx;
  lc_status st = LC_OK;
  w->header = json_object();
  w->meta = json_object();
  if (!w->header || !w->meta || json_object_set(w->header, "__metadata__", w->meta) ||
      json_object_set_new(w->meta, "format", json_string("pt"))) {
    st = lc_fail(ctx, "%s: out of memory", path);
    goto done;
  }
  LC_GO(lc_out_open(ctx, path, &w->out));
  *out = w;
done:
  if (st) {
    json_decref(w->header);
    json_decref(w->meta);
    lc_free(ctx, w);
  }
  return st;
}

lc_status lc_safetensors_add_meta(lc_safetensors_writer *w, const char *key, const char *value) {
  if (w->begun)
    return REFUSE(w, "%s: metadata '%s' comes after the first tensor's data", w->out.path, lc_shown(key).s);
  if (json_object_set_new(w->meta, key, json_string(value)))
    return REFUSE(w, "%s: metadata '%s' is no UTF-8", w->out.path, lc_shown(key).s);
  return LC_OK;
}

static json_t *describe(const lc_dtype_info *info, int ndim, const int64_t *shape, size_t begin, size_t end) {
  json_t *dims = json_array();
  for (int i = 0; i < ndim; i++) json_array_append_new(dims, json_integer(shape[i]));
  return json_pack("{s:s, s:o, s:[I,I]}", "dtype", info->safetensors, "shape", dims, "data_offsets",
                   (json_int_t)begin, (json_int_t)end);
}

static lc_status grow(lc_safetensors_writer *w) {
  if (w->n < w->room) return LC_OK;
  int room = w->room ? 2 * w->room : 64;
  declared *p = lc_realloc(w->ctx, LC_MEM_OTHER, w->tensor, (size_t)room * sizeof *p);
  if (!p) {
    w->failed = true;
    return LC_FAILED;
  }
  w->tensor = p;
  w->room = room;
  return LC_OK;
}

lc_status lc_safetensors_declare(lc_safetensors_writer *w, const char *name, lc_dtype dtype, int ndim,
                                 const int64_t *shape) {
  const lc_dtype_info *info = lc_dtype_get(dtype);
  const char *path = w->out.path;
  lc_shown_name shown = lc_shown(name);
  lc_tensor t = {.dtype = dtype, .ndim = ndim};
  size_t bytes, end;
  if (w->begun) return REFUSE(w, "%s: tensor '%s': declared after the first tensor's data", path, shown.s);
  if (!info || !*info->safetensors)
    return REFUSE(w, "%s: tensor '%s': safetensors has no dtype for %s", path, shown.s,
                  info ? info->name : "it");
  if (json_object_get(w->header, name)) return REFUSE(w, "%s: tensor '%s' is declared twice", path, shown.s);
  if (ndim < 0 || ndim > LC_MAX_DIM)
    return REFUSE(w, "%s: tensor '%s': %d dimensions, at most %d", path, shown.s, ndim, LC_MAX_DIM);
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0) return REFUSE(w, "%s: tensor '%s': dimension %d is negative", path, shown.s, i);
    t.shape[i] = shape[i];
  }
  int64_t count = lc_tensor_count(&t);
  if (count < 0 || !lc_dtype_bytes(dtype, count, &bytes) || !lc_add(w->size, bytes, &end) || end > INT64_MAX)
    return REFUSE(w, "%s: tensor '%s': its shape is larger than any file", path, shown.s);
  if (w->size % (size_t)info->bytes)
    return REFUSE(
        w,
        "%s: tensor '%s': would begin at offset %s, no multiple of its %d bytes: declare wider dtypes first",
        path, shown.s, lc_commas(w->size).s, info->bytes);
  LC_TRY(grow(w));
  declared *d = &w->tensor[w->n];
  *d = (declared){lc_strdup(w->ctx, name), bytes};
  if (!d->name) {
    w->failed = true;
    return LC_FAILED;
  }
  w->n++;
  if (json_object_set_new(w->header, name, describe(info, ndim, shape, w->size, end)))
    return REFUSE(w, "%s: tensor '%s': its name is no UTF-8", path, shown.s);
  w->size = end;
  return LC_OK;
}

static lc_status write_header(lc_safetensors_writer *w) {
  static const char spaces[8] = "        ";
  w->begun = true;
  char *text = json_dumps(w->header, JSON_COMPACT);
  if (!text) return REFUSE(w, "%s: out of memory", w->out.path);
  size_t n = strlen(text);
  uint64_t padded = (n + 7) & ~(uint64_t)7;
  lc_status st = LC_OK;
  if (padded > HEADER_MOST_BYTES)
    st = REFUSE(w, "%s: a header of %s bytes, the format allows %s", w->out.path, lc_commas(padded).s,
                lc_commas(HEADER_MOST_BYTES).s);
  if (!st) st = lc_out_write(&w->out, &padded, 8);
  if (!st) st = lc_out_write(&w->out, text, n);
  if (!st) st = lc_out_write(&w->out, spaces, padded - n);
  free(text);
  if (st) w->failed = true;
  return st;
}

/* Steps over tensors that have all their bytes: the full one, and empty ones after it. */
static void step(lc_safetensors_writer *w) {
  while (w->at < w->n && w->given == w->tensor[w->at].bytes) {
    w->at++;
    w->given = 0;
  }
}

lc_status lc_safetensors_append(lc_safetensors_writer *w, const void *data, size_t bytes) {
  if (!w->begun) {
    LC_TRY(write_header(w));
    step(w);
  }
  if (!bytes) return LC_OK;
  if (w->at == w->n)
    return REFUSE(w, "%s: %s bytes more than all its tensors hold", w->out.path, lc_commas(bytes).s);
  const declared *d = &w->tensor[w->at];
  if (bytes > d->bytes - w->given)
    return REFUSE(w, "%s: tensor '%s': holds %s bytes, %s were given", w->out.path, lc_shown(d->name).s,
                  lc_commas(d->bytes).s, lc_commas(w->given + bytes).s);
  lc_status st = lc_out_write(&w->out, data, bytes);
  if (st) w->failed = true;
  w->given += bytes;
  step(w);
  return st;
}

static lc_status commit(lc_safetensors_writer *w) {
  if (w->failed) return LC_FAILED; /* the sentence was left when it failed */
  LC_TRY(lc_safetensors_append(w, NULL, 0));
  if (w->at < w->n)
    return lc_fail(w->ctx, "%s: tensor '%s': holds %s bytes, %s were given", w->out.path,
                   lc_shown(w->tensor[w->at].name).s, lc_commas(w->tensor[w->at].bytes).s,
                   lc_commas(w->given).s);
  return lc_out_commit(&w->out);
}

lc_status lc_safetensors_finish(lc_safetensors_writer *w, bool ok) {
  if (!w) return LC_OK;
  lc_ctx *ctx = w->ctx;
  lc_status st = ok ? commit(w) : LC_OK;
  if (!ok || st) lc_out_abort(&w->out);
  for (int i = 0; i < w->n; i++) lc_free(ctx, w->tensor[i].name);
  lc_free(ctx, w->tensor);
  json_decref(w->header);
  json_decref(w->meta);
  lc_free(ctx, w);
  return st;
}

/* ---- all at once ---- */

static int wide_first(const void *a, const void *b) {
  const lc_named_tensor *const *x = a, *const *y = b;
  int wx = lc_dtype_get((*x)->t.dtype)->bytes, wy = lc_dtype_get((*y)->t.dtype)->bytes;
  return wx != wy ? wy - wx : strcmp((*x)->name, (*y)->name);
}

static lc_status write_all(lc_safetensors_writer *w, const lc_named_tensor **t, int n) {
  for (int i = 0; i < n; i++)
    LC_TRY(lc_safetensors_declare(w, t[i]->name, t[i]->t.dtype, t[i]->t.ndim, t[i]->t.shape));
  for (int i = 0; i < n; i++) LC_TRY(lc_safetensors_append(w, t[i]->t.data, w->tensor[i].bytes));
  return LC_OK;
}

lc_status lc_safetensors_write(lc_ctx *ctx, const char *path, const lc_named_tensor *t, int n) {
  lc_safetensors_writer *w = NULL;
  const lc_named_tensor **order = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *order);
  if (!order) return LC_FAILED;
  for (int i = 0; i < n; i++) order[i] = &t[i];
  if (n > 1) qsort(order, (size_t)n, sizeof *order, wide_first);
  lc_status st = lc_safetensors_create(ctx, path, &w);
  if (!st) {
    st = write_all(w, order, n);
    lc_status end = lc_safetensors_finish(w, st == LC_OK);
    if (!st) st = end;
  }
  lc_free(ctx, order);
  return st;
}
