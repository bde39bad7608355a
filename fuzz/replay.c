/* Runs a fuzz target on every file of the directories named: what once crashed, and the seeds, in the
 * ordinary tests.
 *
 * Each file is run again with the first allocation failing, then the second, and so on until none is left to
 * fail (or, of many, so many in equal steps): the linker's --wrap stands before the library's allocations, and Jansson's are set. What a failure
 * leaves behind, the target sees. */
#include <dirent.h>
#include <jansson.h>
#include "fuzz.h"

static long runs, fail_at, allocations; /* the allocation with this number fails; 0: none does */

static bool fails(lc_ctx *ctx) {
  if (++allocations != fail_at) return false;
  if (ctx) lc_fail(ctx, "out of memory on purpose");
  return true;
}

void *__real_lc_alloc(lc_ctx *ctx, lc_mem category, size_t size);
void *__real_lc_alloc_n(lc_ctx *ctx, lc_mem category, size_t n, size_t size);
void *__real_lc_realloc(lc_ctx *ctx, lc_mem category, void *p, size_t size);
char *__real_lc_strdup(lc_ctx *ctx, const char *s);
void *__wrap_lc_alloc(lc_ctx *ctx, lc_mem category, size_t size);
void *__wrap_lc_alloc_n(lc_ctx *ctx, lc_mem category, size_t n, size_t size);
void *__wrap_lc_realloc(lc_ctx *ctx, lc_mem category, void *p, size_t size);
char *__wrap_lc_strdup(lc_ctx *ctx, const char *s);

void *__wrap_lc_alloc(lc_ctx *ctx, lc_mem category, size_t size) {
  return fails(ctx) ? NULL : __real_lc_alloc(ctx, category, size);
}
void *__wrap_lc_alloc_n(lc_ctx *ctx, lc_mem category, size_t n, size_t size) {
  return fails(ctx) ? NULL : __real_lc_alloc_n(ctx, category, n, size);
}
void *__wrap_lc_realloc(lc_ctx *ctx, lc_mem category, void *p, size_t size) {
  return fails(ctx) ? NULL : __real_lc_realloc(ctx, category, p, size);
}
char *__wrap_lc_strdup(lc_ctx *ctx, const char *s) {
  return fails(ctx) ? NULL : __real_lc_strdup(ctx, s);
}
static void *json_alloc(size_t n) {
  return fails(NULL) ? NULL : malloc(n);
}

extern const long fuzz_failures __attribute__((weak));

/* Runs the target once; the number of allocations it made. */
static long run(const uint8_t *data, size_t n, long failing) {
  fail_at = failing;
  allocations = 0;
  runs++;
  LLVMFuzzerTestOneInput(data, n);
  return allocations;
}

static int replay_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 1;
  uint8_t *data = malloc(1 << 20);
  size_t n = data ? fread(data, 1, 1 << 20, f) : 0;
  fclose(f);
  uint8_t *exact = malloc(n ? n : 1); /* so that a read past the end is seen under the sanitizers */
  FUZZ_CHECK(data && exact);
  memcpy(exact, data, n);
  run(exact, n, 0); /* once before, for what a target sets up at first */
  static long files;
  const long most = run(exact, n, 0), limit = &fuzz_failures ? fuzz_failures : 2000,
             stride = (most + limit - 1) / limit; /* each file begins at another of them */
  for (long k = 1 + files++ % (stride ? stride : 1); k <= most; k += stride) run(exact, n, k);
  free(exact);
  free(data);
  return 0;
}

int main(int argc, char **argv) {
  int files = 0, failed = 0;
  json_set_alloc_funcs(json_alloc, free);
  for (int i = 1; i < argc; i++) {
    DIR *d = opendir(argv[i]);
    if (!d) return perror(argv[i]), 1;
    for (struct dirent *e; (e = readdir(d));) {
      char path[4096];
      if (e->d_name[0] == '.') continue;
      snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
      failed += replay_file(path);
      files++;
    }
    closedir(d);
  }
  printf("%d files, %ld runs\n", files, runs);
  return failed || !files;
}
