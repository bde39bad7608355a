/* dtypes and tensor views. A view owns nothing. */
#ifndef LC_DTYPE_H
#define LC_DTYPE_H
#include "core/core.h"

typedef enum {
  LC_NONE,
  LC_F32,
  LC_F16,
  LC_BF16,
  LC_F64,
  LC_I32,
  LC_I64,
  LC_U8,
  LC_Q4_0,
  LC_Q4_1,
  LC_Q8_0,
  LC_DTYPE_COUNT
} lc_dtype;
/* One row a dtype: name as the command line says it, elements a block, bytes a block, names in files ("" =
 * cannot be stored there). */
typedef struct {
  const char *name;
  int block, bytes;
  const char *safetensors;
  int ggml; /* type number, -1 none */
  bool quantised;
} lc_dtype_info;
const lc_dtype_info *lc_dtype_get(lc_dtype);
lc_dtype lc_dtype_by_name(const char *name); /* LC_NONE when unknown; any case */
lc_dtype lc_dtype_by_safetensors(const char *name);
lc_dtype lc_dtype_by_ggml(int type);
/* Bytes of n elements in whole blocks; false when n is no multiple of the block or the product overflows. */
bool lc_dtype_bytes(lc_dtype, int64_t n, size_t *bytes);

#define LC_MAX_DIM 4
/* Contiguous, slowest first. */
typedef struct {
  const void *data;
  lc_dtype dtype;
  int ndim;
  int64_t shape[LC_MAX_DIM];
} lc_tensor;
int64_t lc_tensor_count(const lc_tensor *); /* product of the shape; -1 on overflow */

/* Rows [r0,r1), columns [c0,c1) of a weight, logical out×in, HF order. */
typedef struct {
  int64_t r0, r1, c0, c1;
} lc_rect;
#endif
