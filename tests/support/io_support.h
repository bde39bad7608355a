/* For tests of file formats: bytes to build files by hand, a temporary directory, sums over bytes. */
#ifndef LC_TEST_IO_SUPPORT_H
#define LC_TEST_IO_SUPPORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/core.h"

typedef struct {
  uint8_t *data;
  size_t n, room;
} t_bytes;
void t_add(t_bytes *, const void *data, size_t n);
void t_u32(t_bytes *, uint32_t);
void t_u64(t_bytes *, uint64_t);
void t_text(t_bytes *, const char *); /* the characters alone */
void t_str(t_bytes *, const char *);  /* a GGUF string: u64 length, characters */
void t_zeros(t_bytes *, size_t n);
void t_free(t_bytes *);

/* A new directory; t_dir_remove removes it and what is in it. t_path: "dir/name" in one of 4 static buffers.
 */
const char *t_dir(void);
void t_dir_remove(void);
const char *t_path(const char *name);
int t_dir_entries(void); /* files in it */
void t_put(const char *path, const void *data, size_t n);
t_bytes t_get(const char *path);

size_t t_memory(const lc_ctx *);            /* bytes now, all categories */
uint64_t t_sum(const void *data, size_t n); /* touches every byte */
uint32_t t_random(uint32_t *state);         /* xorshift */
#endif
