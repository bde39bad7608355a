/* Reads safetensors (https://github.com/huggingface/safetensors).
 *
 * A file is: the header's length (u64, little endian), the header (a JSON object, possibly padded with
 * spaces), the data. The header maps a tensor's name to {"dtype", "shape", "data_offsets": [begin, end)},
 * offsets counting from the first byte of data; the name "__metadata__" maps strings to strings. Nothing in
 * the header is believed: each interval must have the size that dtype and shape give, and all intervals
 * together must cover the data exactly once. So no byte is hidden in the file and no two tensors share one.
 *
 * Tensors are views into the mapping. The one exception: writers before format 0.3 did not pad the header,
 * and then a tensor may start at an address that is no multiple of its element; such a tensor is copied,
 * because loads through a float pointer are only defined on aligned ones.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "io/io.h"
#include "io/sentence.h"

#define HEADER_MOST_BYTES ((uint64_t)100000000) /* the format's own limit */

typedef struct {
  uint64_t begin, end;
  int tensor;
} span;

/* ---- header ---- */

static lc_status read_header(lc_ctx *ctx, const lc_map *map, json_t **header, size_t *data_at) {
  const char *path = map->path;
  if (map->size < 8)
    return lc_fail(ctx, "%s: truncated: %s bytes, the header's length alone takes 8", path,
                   lc_commas(map->size).s);
  uint64_t n;
  memcpy(&n, map->data, 8);
  if (n > HEADER_MOST_BYTES)
    return lc_fail(ctx, "%s: no safetensors file: a header of %s bytes (at most %s)", path, lc_commas(n).s,
                   lc_commas(HEADER_MOST_BYTES).s);
  if (n > map->size - 8)
    return lc_fail(ctx, "%s: truncated: the header needs %s bytes at offset 8, the file ends at %s", path,
                   lc_commas(n).s, lc_commas(map->size).s);
  const char *text = (const char *)map->data + 8;
  if (n < 2 || text[0] != '{')
    return lc_fail(ctx, "%s: no safetensors file: the header does not begin with '{'", path);
  *data_at = 8 + (size_t)n;
  return lc_json_parse(ctx, path, text, (size_t)n, header);
}

static lc_status read_shape(lc_ctx *ctx, const char *path, const char *name, const json_t *shape,
                            lc_tensor *t) {
  size_t n = json_array_size(shape);
  if (!json_is_array(shape)) return lc_fail(ctx, "%s: tensor '%s': no list 'shape'", path, lc_shown(name).s);
  if (n > LC_MAX_DIM)
    return lc_fail(ctx, "%s: tensor '%s': %zu dimensions, at most %d are read", path, lc_shown(name).s, n,
                   LC_MAX_DIM);
  t->ndim = (int)n;
  for (size_t i = 0; i < n; i++) {
    const json_t *d = json_array_get(shape, i);
    if (!json_is_integer(d) || json_integer_value(d) < 0)
      return lc_fail(ctx, "%s: tensor '%s': dimension %zu is not a whole number", path, lc_shown(name).s, i);
    t->shape[i] = json_integer_value(d);
  }
  return LC_OK;
}

/* BOOL is a byte of 0 or 1: old GPT-2 files hold their causal masks so. */
static lc_dtype dtype_named(const char *name) {
  if (!name || !*name) return LC_NONE;
  return strcmp(name, "BOOL") ? lc_dtype_by_safetensors(name) : LC_U8;
}

/* One entry of the header: t gets dtype, shape and data, s its interval. `size` counts the bytes of data. */
static lc_status read_tensor(lc_ctx *ctx, const char *path, const char *name, const json_t *entry,
                             const uint8_t *data, uint64_t size, lc_tensor *t, span *s) {
  if (!json_is_object(entry)) return lc_fail(ctx, "%s: tensor '%s': not an object", path, lc_shown(name).s);
  const char *dtype = json_string_value(json_object_get(entry, "dtype"));
  t->dtype = dtype_named(dtype);
  if (t->dtype == LC_NONE)
    return lc_fail(ctx, "%s: tensor '%s': dtype '%s' is not known", path, lc_shown(name).s,
                   dtype ? lc_shown(dtype).s : "");
  LC_TRY(read_shape(ctx, path, name, json_object_get(entry, "shape"), t));

  const json_t *offsets = json_object_get(entry, "data_offsets");
  const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
      json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
    return lc_fail(ctx, "%s: tensor '%s': 'data_offsets' is not a pair [begin, end]", path, lc_shown(name).s);
  s->begin = (uint64_t)json_integer_value(b);
  s->end = (uint64_t)json_integer_value(e);
  if (s->end > size)
    return lc_fail(ctx, "%s: tensor '%s': needs %s bytes at offset %s of the data, the data ends at %s", path,
                   lc_shown(name).s, lc_commas(s->end - s->begin).s, lc_commas(s->begin).s,
                   lc_commas(size).s);

  int64_t count = lc_tensor_count(t);
  size_t bytes;
  if (count < 0 || !lc_dtype_bytes(t->dtype, count, &bytes))
    return lc_fail(ctx, "%s: tensor '%s': its shape is larger than any memory", path, lc_shown(name).s);
  if (bytes != s->end - s->begin)
    return lc_fail(ctx, "%s: tensor '%s': its shape needs %s bytes, its offsets hold %s", path,
                   lc_shown(name).s, lc_commas(bytes).s, lc_commas(s->end - s->begin).s);
  t->data = data + s->begin;
  return LC_OK;
}

static lc_status read_metadata(lc_ctx *ctx, const char *path, json_t *meta, lc_safetensors *f) {
  if (!json_is_object(meta)) return lc_fail(ctx, "%s: '__metadata__' is not an object", path);
  size_t n = json_object_size(meta);
  if (n > INT_MAX) return lc_fail(ctx, "%s: too many metadata keys", path);
  f->meta_key = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *f->meta_key);
  f->meta_value = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *f->meta_value);
  if (!f->meta_key || !f->meta_value) return LC_FAILED;
  const char *key;
  json_t *value;
  json_object_foreach(meta, key, value) {
    if (!json_is_string(value))
      return lc_fail(ctx, "%s: metadata '%s' is not a string", path, lc_shown(key).s);
    int i = f->n_meta++;
    f->meta_key[i] = lc_strdup(ctx, key);
    f->meta_value[i] = lc_strdup(ctx, json_string_value(value));
    if (!f->meta_key[i] || !f->meta_value[i]) return LC_FAILED;
  }
  return LC_OK;
}

/* ---- layout ---- */

static int by_offset(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return x->end < y->end ? -1
                         : x->end > y->end; /* an empty tensor before the one that begins at the same place */
}

/* Sorts the intervals and checks that they cover [0, size) exactly once. */
static lc_status check_cover(lc_ctx *ctx, const char *path, span *s, const lc_named_tensor *t, int n,
                             uint64_t size) {
  qsort(s, (size_t)n, sizeof *s, by_offset);
  uint64_t at = 0;
  for (int i = 0; i < n; i++) {
    const char *name = t[s[i].tensor].name;
    if (s[i].begin < at)
      return lc_fail(ctx, "%s: tensor '%s': begins at offset %s of the data, where tensor '%s' goes on to %s",
                     path, lc_shown(name).s, lc_commas(s[i].begin).s, lc_shown(t[s[i - 1].tensor].name).s,
                     lc_commas(at).s);
    if (s[i].begin > at)
      return lc_fail(
          ctx, "%s: tensor '%s': begins at offset %s of the data, the bytes from %s on belong to no tensor",
          path, lc_shown(name).s, lc_commas(s[i].begin).s, lc_commas(at).s);
    at = s[i].end;
  }
  if (at != size)
    return lc_fail(ctx, "%s: %s bytes of data, its tensors take %s", path, lc_commas(size).s,
                   lc_commas(at).s);
  return LC_OK;
}

/* Copies the tensors that no load of their element's width may touch where they are. */
static lc_status align_tensors(lc_ctx *ctx, lc_safetensors *f) {
  int n = 0;
  for (int i = 0; i < f->n; i++)
    n += (uintptr_t)f->tensor[i].t.data % (uintptr_t)lc_dtype_get(f->tensor[i].t.dtype)->bytes != 0;
  if (!n) return LC_OK;
  f->copy = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *f->copy);
  if (!f->copy) return LC_FAILED;
  for (int i = 0; i < f->n; i++) {
    lc_tensor *t = &f->tensor[i].t;
    if ((uintptr_t)t->data % (uintptr_t)lc_dtype_get(t->dtype)->bytes == 0) continue;
    size_t bytes;
    lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes);
    void *p = lc_alloc(ctx, LC_MEM_FORM, bytes);
    if (!p) return LC_FAILED;
    f->copy[f->n_copy++] = p;
    memcpy(p, t->data, bytes);
    t->data = p;
  }
  lc_log(ctx, LC_LOG_INFO, "%s: %d tensors are not aligned to their elements and were copied", f->map->path,
         n);
  return LC_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const lc_named_tensor *)a)->name, ((const lc_named_tensor *)b)->name);
}

/* ---- one file ---- */

static lc_status read_entries(lc_ctx *ctx, json_t *header, size_t data_at, lc_safetensors *f, span *s) {
  const lc_map *map = f->map;
  const char *name;
  json_t *entry;
  json_object_foreach(header, name, entry) {
    if (!strcmp(name, "__metadata__")) {
      LC_TRY(read_metadata(ctx, map->path, entry, f));
      continue;
    }
    lc_named_tensor *t = &f->tensor[f->n];
    LC_TRY(
        read_tensor(ctx, map->path, name, entry, map->data + data_at, map->size - data_at, &t->t, &s[f->n]));
    s[f->n].tensor = f->n;
    t->name = lc_strdup(ctx, name);
    if (!t->name) return LC_FAILED;
    f->n++;
  }
  return check_cover(ctx, map->path, s, f->tensor, f->n, map->size - data_at);
}

lc_status lc_safetensors_open(lc_ctx *ctx, const char *path, lc_safetensors *out) {
  lc_safetensors f = {0};
  json_t *header = NULL;
  span *s = NULL;
  size_t data_at = 0, n;
  lc_status st = LC_FAILED;
  *out = f;
  f.map = lc_alloc(ctx, LC_MEM_OTHER, sizeof *f.map);
  if (!f.map) goto done;
  LC_GO(lc_map_open(ctx, path, f.map));
  f.n_map = 1;
  LC_GO(read_header(ctx, f.map, &header, &data_at));
  n = json_object_size(header);
  if (n > INT_MAX) {
    st = lc_fail(ctx, "%s: %s tensors are too many", path, lc_commas(n).s);
    goto done;
  }
  st = LC_FAILED;
  f.tensor = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *f.tensor);
  s = lc_alloc_n(ctx, LC_MEM_OTHER, n, sizeof *s);
  if (!f.tensor || !s) goto done;
  LC_GO(read_entries(ctx, header, data_at, &f, s));
  LC_GO(align_tensors(ctx, &f));
  qsort(f.tensor, (size_t)f.n, sizeof *f.tensor, by_name);
  *out = f;
done:
  json_decref(header);
  lc_free(ctx, s);
  if (st) lc_safetensors_close(ctx, &f);
  return st;
}

void lc_safetensors_close(lc_ctx *ctx, lc_safetensors *f) {
  for (int i = 0; i < f->n; i++) lc_free(ctx, f->tensor[i].name);
  for (int i = 0; i < f->n_meta; i++) {
    lc_free(ctx, f->meta_key[i]);
    lc_free(ctx, f->meta_value[i]);
  }
  for (int i = 0; i < f->n_copy; i++) lc_free(ctx, f->copy[i]);
  for (int i = 0; i < f->n_map; i++) lc_map_close(ctx, &f->map[i]);
  lc_free(ctx, f->tensor);
  lc_free(ctx, f->meta_key);
  lc_free(ctx, f->meta_value);
  lc_free(ctx, f->copy);
  lc_free(ctx, f->map);
  *f = (lc_safetensors){0};
}

const lc_tensor *lc_safetensors_find(const lc_safetensors *f, const char *name) {
  lc_named_tensor key = {.name = (char *)name};
  const lc_named_tensor *t = f->n ? bsearch(&key, f->tensor, (size_t)f->n, sizeof key, by_name) : NULL;
  return t ? &t->t : NULL;
}

const char *lc_safetensors_meta(const lc_safetensors *f, const char *key) {
  for (int i = 0; i < f->n_meta; i++)
    if (!strcmp(f->meta_key[i], key)) return f->meta_value[i];
  return NULL;
}
