/* io: file formats. Readers map the file and hand out views into it; every number read is checked before use.
 * Writers are atomic. They know named arrays only, nothing of models. */
#ifndef LC_IO_H
#define LC_IO_H
#include "tensor/dtype.h"

/* ---- safetensors (https://github.com/huggingface/safetensors: 8-byte header length, JSON, data) ---- */
typedef struct {
  char *name;
  lc_tensor t;
} lc_named_tensor; /* t.data points into the mapping */
typedef struct {
  lc_map *map;
  int n_map; /* one a shard */
  lc_named_tensor *tensor;
  int n; /* sorted by name */
  char **meta_key, **meta_value;
  int n_meta; /* of the first file */
  void **copy;
  int n_copy; /* tensors whose data no element-wide load may touch in place (old, unpadded headers) */
} lc_safetensors;
/* Opens one file. Refuses: truncated or overlong headers, unknown dtypes, offsets that overlap, leave gaps,
 * or disagree with the shape, repeated names, more than LC_MAX_DIM dimensions, products that overflow. BOOL
 * is read as U8; a tensor that is not aligned to its element's width is copied, all others are views. */
lc_status lc_safetensors_open(lc_ctx *, const char *path, lc_safetensors *);
/* Opens the shards named by a model.safetensors.index.json; a shard name with '/' or ".." is refused, as is a
 * tensor missing from its shard. */
lc_status lc_safetensors_open_index(lc_ctx *, const char *index_path, lc_safetensors *);
void lc_safetensors_close(lc_ctx *, lc_safetensors *);
const lc_tensor *lc_safetensors_find(const lc_safetensors *, const char *name); /* NULL when absent */
const char *lc_safetensors_meta(const lc_safetensors *, const char *key);

/* Writes tensors in two passes (header from shapes, then data): declare all, then append each in the same
 * order. Header is padded with spaces to 8 bytes, metadata {"format":"pt"} plus pairs given before the first
 * append. The format has no padding between tensors, so declare refuses an order that would leave one
 * unaligned: wider dtypes first. */
typedef struct lc_safetensors_writer lc_safetensors_writer;
lc_status lc_safetensors_create(lc_ctx *, const char *path, lc_safetensors_writer **);
lc_status lc_safetensors_add_meta(lc_safetensors_writer *, const char *key, const char *value);
lc_status lc_safetensors_declare(lc_safetensors_writer *, const char *name, lc_dtype, int ndim,
                                 const int64_t *shape);
lc_status lc_safetensors_append(lc_safetensors_writer *, const void *data,
                                size_t bytes); /* may be called in pieces: streams */
lc_status lc_safetensors_finish(lc_safetensors_writer *,
                                bool ok); /* commits when ok and all data came; frees either way */
/* All at once; orders the tensors itself: wider dtypes first, then by name. */
lc_status lc_safetensors_write(lc_ctx *, const char *path, const lc_named_tensor *, int n);

/* ---- GGUF v3 (ggml/docs/gguf.md) ---- */
typedef enum {
  LC_GGUF_U8,
  LC_GGUF_I8,
  LC_GGUF_U16,
  LC_GGUF_I16,
  LC_GGUF_U32,
  LC_GGUF_I32,
  LC_GGUF_F32,
  LC_GGUF_BOOL,
  LC_GGUF_STRING,
  LC_GGUF_ARRAY,
  LC_GGUF_U64,
  LC_GGUF_I64,
  LC_GGUF_F64
} lc_gguf_type;
typedef struct {
  const char *data;
  size_t n;
} lc_str; /* not NUL-terminated: points into the mapping */
typedef struct {
  lc_str key;
  lc_gguf_type type, item; /* item: type of an array's items */
  uint64_t n;              /* items of an array, else 1 */
  const uint8_t *at;       /* first value in the mapping */
  lc_str *strings;         /* n views, when (item) type is STRING */
} lc_gguf_kv;
typedef struct {
  lc_map map;
  uint32_t version;
  uint32_t alignment;
  lc_gguf_kv *kv;
  int64_t n_kv;
  lc_named_tensor *tensor;
  int n; /* shape slowest first: GGUF's ne reversed; sorted by name */
} lc_gguf;
lc_status lc_gguf_open(lc_ctx *, const char *path, lc_gguf *);
void lc_gguf_close(lc_ctx *, lc_gguf *);
const lc_tensor *lc_gguf_find(const lc_gguf *, const char *name);
const lc_gguf_kv *lc_gguf_key(const lc_gguf *, const char *key);
/* Typed access with a default; a value of another type counts as absent for _or, and is an error (named) for
 * the required ones. Any integer type is read as i64 when it fits, any float as double, integers as double
 * too. */
int64_t lc_gguf_i64_or(const lc_gguf *, const char *key, int64_t def);
double lc_gguf_f64_or(const lc_gguf *, const char *key, double def);
bool lc_gguf_bool_or(const lc_gguf *, const char *key, bool def);
lc_status lc_gguf_i64(lc_ctx *, const lc_gguf *, const char *key, int64_t *out);
lc_status lc_gguf_string(lc_ctx *, const lc_gguf *, const char *key, lc_str *out);
bool lc_str_eq(lc_str, const char *);
/* Item i of a pair (0 for a scalar) as a number, by the same rules; false when it is none or does not fit. i
 * must be below kv->n. */
bool lc_gguf_item_i64(const lc_gguf_kv *, uint64_t i, int64_t *out);
bool lc_gguf_item_f64(const lc_gguf_kv *, uint64_t i, double *out);

typedef struct lc_gguf_writer lc_gguf_writer;
lc_status lc_gguf_create(lc_ctx *, const char *path, lc_gguf_writer **);
lc_status lc_gguf_put_u32(lc_gguf_writer *, const char *key, uint32_t);
lc_status lc_gguf_put_i32(lc_gguf_writer *, const char *key, int32_t);
lc_status lc_gguf_put_f32(lc_gguf_writer *, const char *key, float);
lc_status lc_gguf_put_bool(lc_gguf_writer *, const char *key, bool);
lc_status lc_gguf_put_string(lc_gguf_writer *, const char *key, const char *, size_t n);
lc_status lc_gguf_put_strings(lc_gguf_writer *, const char *key, const lc_str *, int64_t n);
lc_status lc_gguf_put_i32s(lc_gguf_writer *, const char *key, const int32_t *, int64_t n);
lc_status lc_gguf_put_f32s(lc_gguf_writer *, const char *key, const float *, int64_t n);
/* Copies a pair from an open file; general.alignment is left out, because the written file's is its own. */
lc_status lc_gguf_put_kv(lc_gguf_writer *, const lc_gguf_kv *);
lc_status lc_gguf_declare(lc_gguf_writer *, const char *name, lc_dtype, int ndim,
                          const int64_t *shape /* slowest first */);
lc_status lc_gguf_append(lc_gguf_writer *, const void *data,
                         size_t bytes); /* in declared order, in pieces; padding is the writer's */
lc_status lc_gguf_finish(lc_gguf_writer *, bool ok);

/* ---- quantisation to GGUF blocks (reference rounding of ggml) ---- */
/* Encodes n f32 (whole blocks) as dtype: F32, F16, BF16, Q8_0, Q4_0, Q4_1. The quantised ones refuse what is
 * not finite and blocks whose scale is beyond f16; the error names the element, the caller the tensor. */
lc_status lc_encode_row(lc_ctx *, lc_dtype, const float *src, int64_t n, void *dst);
/* Decodes n elements (whole blocks) to f32: every storable dtype. The scalar definition; kernels have fast
 * ones. */
lc_status lc_decode_row(lc_ctx *, lc_dtype, const void *src, int64_t n, float *dst);

/* ---- JSON (Jansson), with sentences ---- */
struct json_t;
/* Reads a JSON file (an object), depth- and size-limited; the error names file, line and column. Caller:
 * json_decref. */
lc_status lc_json_read(lc_ctx *, const char *path, struct json_t **);
/* The same from memory; `label` stands for the path in errors. */
lc_status lc_json_parse(lc_ctx *, const char *label, const char *data, size_t n, struct json_t **);
/* Writes with sorted keys and an indent of 2, atomically. */
lc_status lc_json_write(lc_ctx *, const char *path, const struct json_t *);
/* Typed members: missing or null -> the default; another type -> an error that names the key; lc_in_file adds
 * the file. */
lc_status lc_json_i64_or(lc_ctx *, const struct json_t *, const char *key, int64_t def, int64_t *out);
lc_status lc_json_f64_or(lc_ctx *, const struct json_t *, const char *key, double def, double *out);
lc_status lc_json_bool_or(lc_ctx *, const struct json_t *, const char *key, bool def, bool *out);
lc_status lc_json_str_or(lc_ctx *, const struct json_t *, const char *key, const char *def,
                         const char **out); /* borrowed */
/* Puts "path: " before the error sentence when st is a failure; returns st. */
lc_status lc_in_file(lc_ctx *, const char *path, lc_status st);
#endif
