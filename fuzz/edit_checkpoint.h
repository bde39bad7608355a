/* Checkpoints that are nearly right: the arrays and the state.json of a valid one, changed as an input says, with checksums
 * that agree again, so that what stands behind the checksums is met.
 *
 *   fields   lines "<letter><JSON>\n": the field of that letter gets this value; without JSON it goes
 *   edits    of an array each: which (a byte), how (a byte), where (two bytes), and what the way needs */
#ifndef LC_FUZZ_EDIT_CHECKPOINT_H
#define LC_FUZZ_EDIT_CHECKPOINT_H
#include "fuzz.h"
#include <jansson.h>
#include <math.h>
#include <zlib.h>
#include "io/io.h"

typedef struct {
  const char *name; /* borrowed */
  lc_dtype dtype;
  size_t n; /* bytes */
  uint8_t *data;
} edit_array;
typedef struct {
  edit_array *at;
  int n;
} edit_arrays;
typedef struct {
  const uint8_t *at, *end;
} edit_input;

static inline uint8_t edit_byte(edit_input *in) {
  return in->at < in->end ? *in->at++ : 0;
}

static inline size_t edit_width(const edit_array *a) {
  size_t w = 0;
  return lc_dtype_bytes(a->dtype, 1, &w) && w ? w : 1;
}

static inline void edit_free(edit_arrays *e) {
  for (int i = 0; i < e->n; i++) free(e->at[i].data);
  free(e->at);
  *e = (edit_arrays){0};
}

static inline edit_arrays edit_copy(const edit_array *from, int n) {
  edit_arrays e = {calloc((size_t)n + 1, sizeof *e.at), n};
  FUZZ_CHECK(e.at);
  for (int i = 0; i < n; i++) {
    e.at[i] = from[i];
    e.at[i].data = malloc(from[i].n + 1);
    FUZZ_CHECK(e.at[i].data);
    memcpy(e.at[i].data, from[i].data, from[i].n);
  }
  return e;
}

static inline void edit_resize(edit_array *a, size_t n) {
  uint8_t *data = calloc(n + 1, 1);
  FUZZ_CHECK(data);
  memcpy(data, a->data, n < a->n ? n : a->n);
  free(a->data);
  a->data = data;
  a->n = n;
}

/* One value: small, or of the kind that arithmetic and comparisons trip over. */
static inline void edit_value(edit_array *a, size_t k, uint8_t what, bool special) {
  static const int64_t odd[] = {-1,        INT64_MAX,        INT64_MIN,        INT32_MAX,
                                INT32_MIN, (int64_t)1 << 32, (int64_t)1 << 52, 65536};
  static const float bad[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -0.0f, 1e19f};
  const int64_t i = special ? odd[what % 8] : (int8_t)what;
  const float x = special ? bad[what % 8] : (float)(int8_t)what / 8;
  const size_t w = edit_width(a);
  if (a->dtype == LC_F32)
    memcpy(a->data + k * w, &x, 4);
  else
    memcpy(a->data + k * w, &i, w); /* little-endian, as the file is */
}

static inline void edit_one(edit_arrays *e, edit_input *in) {
  static const lc_dtype dtypes[] = {LC_F32, LC_I32, LC_I64, LC_U8, LC_F64, LC_BF16};
  edit_array *a = &e->at[edit_byte(in) % e->n];
  const uint8_t how = edit_byte(in) % 8;
  const size_t where = edit_byte(in) | (size_t)edit_byte(in) << 8, w = edit_width(a), n = a->n / w;
  if (how == 0 || how == 1) {
    const uint8_t what = edit_byte(in);
    if (n) edit_value(a, where % n, what, how == 1);
  } else if (how == 2) {
    for (size_t k = 0, count = edit_byte(in) % 16; k < count && a->n; k++)
      a->data[(where + k) % a->n] = edit_byte(in);
  } else if (how == 3) {
    edit_resize(a, where % (2 * n + 2) * w);
  } else if (how == 4) {
    free(a->data);
    *a = e->at[--e->n];
  } else if (how == 5) {
    a->dtype = dtypes[where % 6];
    edit_resize(a, a->n / edit_width(a) * edit_width(a));
  } else if (n > 1) { /* 6: neighbours change places; 7: become equal */
    uint8_t t[16], *x = a->data + where % (n - 1) * w;
    memcpy(t, x, w);
    memcpy(x, x + w, w);
    if (how == 6) memcpy(x + w, t, w);
  }
}

/* The arrays as a file (malloc'd), wide ones first, and their checksums as an object. */
static inline uint8_t *edit_file(const edit_arrays *e, size_t *size, json_t **crc) {
  json_t *header = json_object();
  size_t all = 0;
  *crc = json_object();
  for (size_t w = 8; w; w /= 2)
    for (int i = 0; i < e->n; i++) {
      const edit_array *a = &e->at[i];
      if (edit_width(a) != w) continue;
      json_object_set_new(header, a->name,
                          json_pack("{s:s, s:[I], s:[I,I]}", "dtype", lc_dtype_get(a->dtype)->safetensors,
                                    "shape", (json_int_t)(a->n / w), "data_offsets", (json_int_t)all,
                                    (json_int_t)(all + a->n)));
      json_object_set_new(*crc, a->name, json_integer((json_int_t)crc32_z(0, a->data, a->n)));
      all += a->n;
    }
  char *text = json_dumps(header, JSON_COMPACT);
  FUZZ_CHECK(text);
  const uint64_t n = (strlen(text) + 7) / 8 * 8;
  uint8_t *file = malloc(8 + n + all);
  FUZZ_CHECK(file);
  memcpy(file, &n, 8);
  memset(file + 8, ' ', n);
  memcpy(file + 8, text, strlen(text));
  *size = 8 + n;
  for (size_t w = 8; w; w /= 2)
    for (int i = 0; i < e->n; i++)
      if (edit_width(&e->at[i]) == w) {
        memcpy(file + *size, e->at[i].data, e->at[i].n);
        *size += e->at[i].n;
      }
  free(text);
  json_decref(header);
  return file;
}

static const char *const edit_fields[][2] = {{"step", NULL},
                                             {"tokens", NULL},
                                             {"evaluated", NULL},
                                             {"loss", NULL},
                                             {"seconds", NULL},
                                             {"phase", NULL},
                                             {"phase", "number"},
                                             {"phase", "first"},
                                             {"phase", "optimizer_first"},
                                             {"schedule", NULL},
                                             {"best", NULL},
                                             {"best", "step"},
                                             {"best", "loss"},
                                             {"numerics", NULL},
                                             {"numerics", "isa"},
                                             {"identity", NULL},
                                             {"identity", "method"},
                                             {"identity", "objective"},
                                             {"identity", "model"},
                                             {"identity", "data"},
                                             {"identity", "options"},
                                             {"identity", "method_options"},
                                             {"crc32", NULL},
                                             {"format", NULL},
                                             {"version", NULL},
                                             {"planned", NULL}};

/* One line; what is no JSON counts as a string. */
static inline void edit_field(json_t *state, const char *line, size_t n) {
  const size_t k = (size_t)(line[0] - 'A');
  if (k >= sizeof edit_fields / sizeof *edit_fields) return;
  const char *const *f = edit_fields[k];
  json_t *in = state, *value = json_loadb(line + 1, n - 1, JSON_DECODE_ANY, NULL);
  if (!value && n > 1) value = json_stringn(line + 1, n - 1);
  if (f[1]) {
    if (!json_is_object(json_object_get(state, f[0]))) json_object_set_new(state, f[0], json_object());
    in = json_object_get(state, f[0]);
  }
  const char *key = f[1] ? f[1] : f[0];
  if (value)
    json_object_set_new(in, key, value);
  else
    json_object_del(in, key);
}

/* Fields up to a zero byte or the end. */
static inline void edit_state(json_t *state, edit_input *in) {
  while (in->at < in->end && *in->at) {
    const uint8_t *line = in->at;
    while (in->at < in->end && *in->at && *in->at != '\n') in->at++;
    if (in->at > line) edit_field(state, (const char *)line, (size_t)(in->at - line));
    if (in->at < in->end && *in->at == '\n') in->at++;
  }
  if (in->at < in->end) in->at++;
}
#endif
