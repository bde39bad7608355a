/* The dtype table. ggml type numbers: ggml/include/ggml.h's enum; safetensors names: its format document. */
#include "tensor/dtype.h"
#include <string.h>
#include <strings.h>

/* clang-format off */
static const lc_dtype_info table[LC_DTYPE_COUNT] = {
    [LC_NONE] = {"none", 1, 0, "", -1, false},
    [LC_F32] = {"f32", 1, 4, "F32", 0, false},
    [LC_F16] = {"f16", 1, 2, "F16", 1, false},
    [LC_BF16] = {"bf16", 1, 2, "BF16", 30, false},
    [LC_F64] = {"f64", 1, 8, "F64", 28, false},
    [LC_I32] = {"i32", 1, 4, "I32", 26, false},
    [LC_I64] = {"i64", 1, 8, "I64", 27, false},
    [LC_U8] = {"u8", 1, 1, "U8", -1, false},
    [LC_Q4_0] = {"q4_0", 32, 18, "", 2, true},
    [LC_Q4_1] = {"q4_1", 32, 20, "", 3, true},
    [LC_Q8_0] = {"q8_0", 32, 34, "", 8, true},
};
/* clang-format on */

const lc_dtype_info *lc_dtype_get(lc_dtype d) {
  return &table[d];
}

lc_dtype lc_dtype_by_name(const char *name) {
  for (int d = 1; d < LC_DTYPE_COUNT; d++)
    if (!strcasecmp(table[d].name, name)) return (lc_dtype)d;
  return LC_NONE;
}

lc_dtype lc_dtype_by_safetensors(const char *name) {
  for (int d = 1; d < LC_DTYPE_COUNT; d++)
    if (table[d].safetensors[0] && !strcmp(table[d].safetensors, name)) return (lc_dtype)d;
  return LC_NONE;
}

lc_dtype lc_dtype_by_ggml(int type) {
  for (int d = 1; d < LC_DTYPE_COUNT; d++)
    if (type >= 0 && table[d].ggml == type) return (lc_dtype)d;
  return LC_NONE;
}

bool lc_dtype_bytes(lc_dtype d, int64_t n, size_t *bytes) {
  if (d <= LC_NONE || d >= LC_DTYPE_COUNT || n < 0 || n % table[d].block) return false;
  return lc_mul((size_t)(n / table[d].block), (size_t)table[d].bytes, bytes);
}

int64_t lc_tensor_count(const lc_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++)
    if (t->shape[i] < 0 || __builtin_mul_overflow(n, t->shape[i], &n)) return -1;
  return n;
}
