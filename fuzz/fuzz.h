/* What the fuzz targets share.
 *
 * A target serves its input as files, opens them through the library, and holds the library to three
 * promises: what it hands out lies within the file, a refusal leaves one sentence, and no memory stays
 * behind. */
#ifndef LC_FUZZ_H
#define LC_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* From here on, a file whose name ends in `name` holds these bytes (borrowed); any other does not exist. */
void fuzz_file(const char *name, const void *data, size_t n);
void fuzz_no_files(void);
void fuzz_on_disk(const char *dir); /* what lies below it is the disk's, for targets that write (borrowed) */
/* A target whose runs are long says at how many allocations memory runs out in a replay; else 2000. */
extern const long fuzz_failures;
/* A directory as one input: pieces that begin with FF FE and a letter, each up to the next; names[0] holds the piece of
 * 'A', and so on. Of a name in .safetensors the piece is the header, a zero, and the data: its length is put in front. Names
 * begin with "/", and what is before it is a directory that exists. fuzz_no_files frees the pieces. */
void fuzz_pieces(const uint8_t *data, size_t n, const char *const *names, int n_names);
void fuzz_replace(const char *name, void *data, size_t n); /* other bytes for a file (malloc'd, taken over) */

#define FUZZ_CHECK(condition)                                                                                \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                        \
      abort();                                                                                               \
    }                                                                                                        \
  } while (0)

static inline lc_ctx *fuzz_context(void) {
  static lc_ctx *ctx;
  if (!ctx) FUZZ_CHECK(lc_ctx_new(1, &ctx, NULL) == LC_OK);
  lc_error_clear(ctx);
  return ctx;
}

static inline size_t fuzz_memory(const lc_ctx *ctx) {
  size_t n = 0;
  for (int c = 0; c < LC_MEM_COUNT; c++) n += lc_mem_bytes(ctx, (lc_mem)c);
  return n;
}

/* Without the workers' scratch, which stays. */
static inline size_t fuzz_held(const lc_ctx *ctx) {
  return fuzz_memory(ctx) - lc_mem_bytes(ctx, LC_MEM_SCRATCH);
}

/* FUZZ_TELL in the environment: says why what was refused was. */
static inline void fuzz_refused(const lc_ctx *ctx) {
  const char *why = lc_error(ctx);
  if (getenv("FUZZ_TELL")) fprintf(stderr, "refused: %s\n", why);
  FUZZ_CHECK(strlen(why) > 10 && !strchr(why, '\n'));
}

/* What must succeed unless memory was made to run out (replay.c). */
static inline int fuzz_ok(const lc_ctx *ctx, lc_status st) {
  FUZZ_CHECK(!st || strstr(lc_error(ctx), "memory"));
  return !st;
}

/* Reads every byte, so that the sanitizers see each. */
static inline void fuzz_touch(const void *data, size_t n) {
  const uint8_t *p = data;
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += p[i];
  FUZZ_CHECK(sum <= 255 * (uint64_t)n);
}
#endif
