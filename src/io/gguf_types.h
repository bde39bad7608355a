/* Private to io: what GGUF's reader and writer share (the format: ggml/docs/gguf.md). All numbers are little
 * endian, as is every machine this program is built for. */
#ifndef LC_IO_GGUF_TYPES_H
#define LC_IO_GGUF_TYPES_H
#include <stdlib.h>
#include <string.h>
#include "io/io.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read and written without swapping bytes");

#define LC_GGUF_ALIGNMENT_KEY "general.alignment"
enum {
  LC_GGUF_VERSION = 3,
  LC_GGUF_ALIGNMENT = 32,   /* when the file says nothing */
  LC_GGUF_MOST_NAME = 64,   /* bytes of a tensor's name */
  LC_GGUF_MOST_KEY = 65535, /* bytes of a key */
};

/* Bytes of one value; 0: of no fixed size. */
static inline size_t lc_gguf_size(lc_gguf_type type) {
  static const uint8_t size[] = {[LC_GGUF_U8] = 1,  [LC_GGUF_I8] = 1,  [LC_GGUF_U16] = 2, [LC_GGUF_I16] = 2,
                                 [LC_GGUF_U32] = 4, [LC_GGUF_I32] = 4, [LC_GGUF_F32] = 4, [LC_GGUF_BOOL] = 1,
                                 [LC_GGUF_U64] = 8, [LC_GGUF_I64] = 8, [LC_GGUF_F64] = 8};
  return size[type];
}

static inline int lc_str_order(const void *a, const void *b) {
  const lc_str *x = a, *y = b;
  int c = memcmp(x->data, y->data, x->n < y->n ? x->n : y->n);
  return c ? c : x->n < y->n ? -1 : x->n > y->n;
}
/* Sorts s; the first string that is there twice, or NULL. */
static inline const lc_str *lc_str_repeated(lc_str *s, size_t n) {
  if (n > 1) qsort(s, n, sizeof *s, lc_str_order);
  for (size_t i = 1; i < n; i++)
    if (!lc_str_order(&s[i - 1], &s[i])) return &s[i];
  return NULL;
}

/* Rounds up to a multiple of a power of two; false on overflow. */
static inline bool lc_gguf_pad(uint64_t at, uint64_t alignment, uint64_t *out) {
  if (__builtin_add_overflow(at, alignment - 1, out)) return false;
  *out &= ~(alignment - 1);
  return true;
}
#endif
