/* Files of changed values between checkpoints, in the layout of TRL's delta weight sync: one safetensors file with, for each tensor
 * that changed, "<name>.indices" (int32, flat, rising) and "<name>.values" (the tensor's own type), and metadata
 *
 *   sparse true|false   model_version N   sparsity S   changed_params K
 *   previous CRC        result CRC        (ours: CRC-32 of the checkpoint's file before and after, in hexadecimal)
 *
 * An anchor (sparse false) holds the checkpoint's bytes as one tensor "anchor". What changed is found by comparing bytes, so base and
 * files give the next checkpoint byte for byte; the two CRCs make a chain in which a missing link cannot pass. Memory: one buffer. */
#include "io/ship.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { PIECE = 1 << 16 /* elements */ };

typedef struct {
  lc_map map;
  lc_safetensors st;
} checkpoint;

static lc_status open_checkpoint(lc_ctx *ctx, const char *path, checkpoint *c) {
  *c = (checkpoint){0};
  LC_TRY(lc_map_open(ctx, path, &c->map));
  LC_TRY(lc_safetensors_open(ctx, path, &c->st));
  if (c->st.n_copy)
    return lc_fail(ctx, "%s: tensors are not aligned in the file: it cannot be compared in place", path);
  return LC_OK;
}

static void close_checkpoint(lc_ctx *ctx, checkpoint *c) {
  lc_safetensors_close(ctx, &c->st);
  lc_map_close(ctx, &c->map);
}

static uint32_t sum(const lc_map *m) {
  return (uint32_t)crc32_z(crc32_z(0, NULL, 0), m->data, m->size);
}

static size_t header(const lc_map *m) {
  uint64_t n;
  memcpy(&n, m->data, sizeof n);
  return 8 + (size_t)n; /* checked by the reader */
}

static size_t width(const lc_tensor *t) {
  size_t bytes = 0;
  return lc_dtype_bytes(t->dtype, 1, &bytes) ? bytes : 0;
}

/* ---- writing ---- */

/* Elements that differ, from `from` on, at most `room`; their number, and *next where to go on. */
static int64_t changed(const lc_tensor *a, const lc_tensor *b, int64_t from, int64_t room, int32_t *at,
                       uint8_t *value, int64_t *next) {
  const size_t w = width(a);
  const int64_t n = lc_tensor_count(a);
  const uint8_t *x = a->data, *y = b->data;
  int64_t k = 0, i = from;
  for (; i < n && k < room; i++) {
    if (!memcmp(x + (size_t)i * w, y + (size_t)i * w, w)) continue;
    if (at) at[k] = (int32_t)i;
    if (value) memcpy(value + (size_t)k * w, y + (size_t)i * w, w);
    k++;
  }
  *next = i;
  return k;
}

static lc_status declare_part(lc_ctx *ctx, lc_safetensors_writer *w, const char *name, const char *part,
                              lc_dtype dtype, int64_t n) {
  char *full = lc_format(ctx, "%s.%s", name, part);
  lc_status st = full ? lc_safetensors_declare(w, full, dtype, 1, &n) : LC_FAILED;
  lc_free(ctx, full);
  return st;
}

typedef struct {
  lc_ctx *ctx;
  const checkpoint *a, *b;
  int64_t *count; /* by tensor */
  lc_safetensors_writer *w;
  int32_t *at;
  uint8_t *value;
} writing;

/* Wider types first, as the format wants it: 8-byte values; indices and 4-byte values; the rest. pass 0 declares, 1 appends. */
static lc_status each_part(writing *x, int pass) {
  static const size_t widths[] = {8, 4, 2, 1};
  for (int k = 0; k < 4; k++)
    for (int i = 0; i < x->a->st.n; i++) {
      const lc_tensor *a = &x->a->st.tensor[i].t, *b = &x->b->st.tensor[i].t;
      for (int values = 0; values < 2 && x->count[i]; values++) {
        if ((values ? width(a) : 4) != widths[k]) continue;
        if (!pass)
          LC_TRY(declare_part(x->ctx, x->w, x->a->st.tensor[i].name, values ? "values" : "indices",
                              values ? a->dtype : LC_I32, x->count[i]));
        for (int64_t from = 0, n; pass && from < lc_tensor_count(a);) {
          n = changed(a, b, from, PIECE, values ? NULL : x->at, values ? x->value : NULL, &from);
          LC_TRY(lc_safetensors_append(x->w, values ? (void *)x->value : x->at, (size_t)n * widths[k]));
        }
      }
    }
  return LC_OK;
}

static lc_status put_meta(lc_ctx *ctx, lc_safetensors_writer *w, const lc_ship *s) {
  const char *const key[] = {"sparse", "model_version", "sparsity", "changed_params", "previous", "result"};
  char value[6][32];
  snprintf(value[0], 32, "%s", s->anchor ? "false" : "true");
  snprintf(value[1], 32, "%" PRId64, s->version);
  snprintf(value[2], 32, "%.6f", s->elements ? 1 - (double)s->changed / (double)s->elements : 0);
  snprintf(value[3], 32, "%" PRId64, s->changed);
  snprintf(value[4], 32, "%08" PRIx32, s->previous);
  snprintf(value[5], 32, "%08" PRIx32, s->result);
  for (int i = 0; i < 6; i++) LC_TRY(lc_safetensors_add_meta(w, key[i], value[i]));
  return LC_OK;
}

static lc_status count_changes(lc_ctx *ctx, writing *x, lc_ship *s) {
  for (int i = 0; i < x->a->st.n; i++) {
    const lc_tensor *t = &x->a->st.tensor[i].t;
    int64_t end;
    if (lc_tensor_count(t) > INT32_MAX || !width(t))
      return lc_fail(ctx, "%s: '%s' has %lld elements of %s: positions are 32-bit numbers of whole elements",
                     x->a->map.path, x->a->st.tensor[i].name, (long long)lc_tensor_count(t),
                     lc_dtype_get(t->dtype)->name);
    x->count[i] = changed(t, &x->b->st.tensor[i].t, 0, INT64_MAX, NULL, NULL, &end);
    s->changed += x->count[i];
    s->elements += lc_tensor_count(t);
  }
  return LC_OK;
}

lc_status lc_ship_write(lc_ctx *ctx, const char *before, const char *after, int64_t version, const char *out,
                        lc_ship *s) {
  checkpoint a = {0}, b = {0};
  writing x = {.ctx = ctx, .a = &a, .b = &b};
  lc_status st = LC_OK;
  *s = (lc_ship){.anchor = !before, .version = version};
  LC_GO(open_checkpoint(ctx, after, &b));
  s->result = sum(&b.map);
  if (before) {
    LC_GO(open_checkpoint(ctx, before, &a));
    s->previous = sum(&a.map);
    if (a.map.size != b.map.size || header(&a.map) != header(&b.map) ||
        memcmp(a.map.data, b.map.data, header(&a.map)))
      LC_GO(lc_fail(
          ctx, "%s and %s have other headers: changed values need checkpoints of one layout; write an anchor",
          before, after));
    x.count = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)a.st.n, sizeof *x.count);
    x.at = lc_alloc_n(ctx, LC_MEM_SCRATCH, PIECE, sizeof *x.at);
    x.value = lc_alloc_n(ctx, LC_MEM_SCRATCH, PIECE, 8);
    if (!x.count || !x.at || !x.value) LC_GO(LC_FAILED);
    LC_GO(count_changes(ctx, &x, s));
  }
  LC_GO(lc_safetensors_create(ctx, out, &x.w));
  st = put_meta(ctx, x.w, s);
  const int64_t size = (int64_t)b.map.size;
  if (!st) st = before ? each_part(&x, 0) : lc_safetensors_declare(x.w, "anchor", LC_U8, 1, &size);
  if (!st) st = before ? each_part(&x, 1) : lc_safetensors_append(x.w, b.map.data, b.map.size);
  lc_status end = lc_safetensors_finish(x.w, st == LC_OK);
  st = st ? st : end;
done:
  lc_free(ctx, x.count);
  lc_free(ctx, x.at);
  lc_free(ctx, x.value);
  close_checkpoint(ctx, &a);
  close_checkpoint(ctx, &b);
  return st;
}

/* ---- reading ---- */

static lc_status info(lc_ctx *ctx, const char *file, const lc_safetensors *f, lc_ship *s) {
  const char *sparse = lc_safetensors_meta(f, "sparse"), *version = lc_safetensors_meta(f, "model_version"),
             *previous = lc_safetensors_meta(f, "previous"), *result = lc_safetensors_meta(f, "result"),
             *count = lc_safetensors_meta(f, "changed_params");
  if (!sparse || !version || !previous || !result || !count)
    return lc_fail(ctx,
                   "%s: no file of changed values: its metadata lacks sparse, model_version, changed_params, "
                   "previous or result",
                   file);
  *s = (lc_ship){.anchor = strcmp(sparse, "true") != 0,
                 .version = strtoll(version, NULL, 10),
                 .previous = (uint32_t)strtoul(previous, NULL, 16),
                 .result = (uint32_t)strtoul(result, NULL, 16),
                 .changed = strtoll(count, NULL, 10)};
  return LC_OK;
}

lc_status lc_ship_read(lc_ctx *ctx, const char *file, lc_ship *s) {
  lc_safetensors f;
  LC_TRY(lc_safetensors_open(ctx, file, &f));
  lc_status st = info(ctx, file, &f, s);
  lc_safetensors_close(ctx, &f);
  return st;
}

static int by_place(const void *x, const void *y) {
  const uint8_t *a = (*(lc_named_tensor *const *)x)->t.data, *b = (*(lc_named_tensor *const *)y)->t.data;
  return a < b ? -1 : a > b;
}

static const lc_tensor *part_of(lc_ctx *ctx, const lc_safetensors *f, const char *name, const char *part) {
  char *full = lc_format(ctx, "%s.%s", name, part);
  const lc_tensor *t = full ? lc_safetensors_find(f, full) : NULL;
  lc_free(ctx, full);
  return t;
}

/* Writes one tensor of the checkpoint with its changes, piece by piece. */
static lc_status write_tensor(lc_ctx *ctx, const char *file, const lc_safetensors *f,
                              const lc_named_tensor *n, uint8_t *buffer, lc_out *out, uLong *crc) {
  const lc_tensor *t = &n->t, *at = part_of(ctx, f, n->name, "indices"),
                  *value = part_of(ctx, f, n->name, "values");
  const size_t w = width(t);
  const int64_t elements = lc_tensor_count(t), count = at ? lc_tensor_count(at) : 0;
  const int32_t *index = at ? at->data : NULL;
  if ((at != NULL) != (value != NULL) ||
      (at && (at->dtype != LC_I32 || value->dtype != t->dtype || lc_tensor_count(value) != count)))
    return lc_fail(ctx, "%s: the changes of '%s' are not a list of positions and as many values of its type",
                   file, n->name);
  int64_t k = 0;
  for (int64_t from = 0; from < elements; from += PIECE) {
    const int64_t m = lc_min64(PIECE, elements - from);
    memcpy(buffer, (const uint8_t *)t->data + (size_t)from * w, (size_t)m * w);
    for (; k < count && index[k] < from + m; k++) {
      if (index[k] < from) return lc_fail(ctx, "%s: the positions of '%s' do not rise", file, n->name);
      memcpy(buffer + (size_t)(index[k] - from) * w, (const uint8_t *)value->data + (size_t)k * w, w);
    }
    *crc = crc32_z(*crc, buffer, (size_t)m * w);
    lc_out_write(out, buffer, (size_t)m * w);
  }
  return k == count ? LC_OK
                    : lc_fail(ctx, "%s: a position of '%s' lies behind its %lld elements", file, n->name,
                              (long long)elements);
}

static lc_status write_all(lc_ctx *ctx, const checkpoint *a, const char *file, const lc_safetensors *f,
                           lc_out *out, uLong *crc) {
  lc_status st = LC_OK;
  lc_named_tensor **place = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)a->st.n, sizeof(lc_named_tensor *));
  uint8_t *buffer = lc_alloc_n(ctx, LC_MEM_SCRATCH, PIECE, 8);
  if (!place || !buffer) LC_GO(LC_FAILED);
  for (int i = 0; i < a->st.n; i++) place[i] = &a->st.tensor[i];
  qsort(place, (size_t)a->st.n, sizeof *place, by_place);
  *crc = crc32_z(*crc, a->map.data, header(&a->map));
  lc_out_write(out, a->map.data, header(&a->map));
  for (int i = 0; i < a->st.n; i++) LC_GO(write_tensor(ctx, file, f, place[i], buffer, out, crc));
done:
  lc_free(ctx, place);
  lc_free(ctx, buffer);
  return st;
}

lc_status lc_ship_apply(lc_ctx *ctx, const char *before, const char *file, const char *path, lc_ship *s) {
  checkpoint a = {0};
  lc_safetensors f = {0};
  lc_out out = {0};
  uLong crc = crc32_z(0, NULL, 0);
  lc_status st = lc_safetensors_open(ctx, file, &f);
  if (st) return st;
  LC_GO(info(ctx, file, &f, s));
  if (!s->anchor) {
    if (!before) LC_GO(lc_usage(ctx, "%s holds changes only: the checkpoint before it is needed", file));
    LC_GO(open_checkpoint(ctx, before, &a));
    if (sum(&a.map) != s->previous)
      LC_GO(lc_fail(ctx,
                    "%s (version %lld) does not follow %s: it changes a checkpoint of CRC %08" PRIx32
                    ", this one has %08" PRIx32
                    "; a file between them is missing, or start again from an anchor",
                    file, (long long)s->version, before, s->previous, sum(&a.map)));
  }
  const lc_tensor *whole = s->anchor ? lc_safetensors_find(&f, "anchor") : NULL;
  if (s->anchor && (!whole || whole->dtype != LC_U8))
    LC_GO(lc_fail(ctx, "%s: an anchor without its bytes", file));
  LC_GO(lc_out_open(ctx, path, &out));
  if (whole) {
    crc = crc32_z(crc, whole->data, (size_t)lc_tensor_count(whole));
    lc_out_write(&out, whole->data, (size_t)lc_tensor_count(whole));
  } else {
    LC_GO(write_all(ctx, &a, file, &f, &out, &crc));
  }
  if ((uint32_t)crc != s->result)
    LC_GO(lc_fail(ctx,
                  "%s: what it gives has CRC %08" PRIx32 ", %08" PRIx32 " was written: the file is damaged",
                  file, (uint32_t)crc, s->result));
  st = lc_out_commit(&out);
done:
  lc_out_abort(&out);
  lc_safetensors_close(ctx, &f);
  close_checkpoint(ctx, &a);
  return st;
}
