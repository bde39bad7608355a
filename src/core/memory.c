/* Counted memory: size and category stand in front of each block, 64-byte aligned. Scratch buffers belong to a worker and only grow. */
#include "core/context.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct { size_t size; lc_mem cat; } header;
enum { FRONT = 64 };

static void count(lc_ctx *ctx, lc_mem cat, size_t add, size_t remove, bool call) {
  pthread_mutex_lock(&ctx->lock);
  ctx->bytes[cat] += add - remove;
  ctx->total += add - remove;
  if (ctx->total > ctx->peak) ctx->peak = ctx->total;
  if (call) ctx->allocations++;
  pthread_mutex_unlock(&ctx->lock);
}

void *lc_alloc(lc_ctx *ctx, lc_mem cat, size_t size) {
  size_t whole;
  uint8_t *p = NULL;
  if (lc_add(size, 2 * FRONT, &whole) && whole < SIZE_MAX / 2) p = aligned_alloc(FRONT, whole / FRONT * FRONT);
  if (!p) {
    lc_fail(ctx, "out of memory: %zu bytes could not be had", size);
    return NULL;
  }
  memset(p, 0, whole / FRONT * FRONT);
  *(header *)(void *)p = (header){size, cat};
  count(ctx, cat, size, 0, true);
  return p + FRONT;
}

void *lc_alloc_n(lc_ctx *ctx, lc_mem cat, size_t n, size_t size) {
  size_t bytes;
  if (!lc_mul(n, size, &bytes)) {
    lc_fail(ctx, "out of memory: %zu items of %zu bytes could not be had", n, size);
    return NULL;
  }
  return lc_alloc(ctx, cat, bytes);
}

void *lc_realloc(lc_ctx *ctx, lc_mem cat, void *p, size_t size) {
  void *grown = lc_alloc(ctx, cat, size);
  if (!grown || !p) return grown;
  const header *h = (const header *)(const void *)((uint8_t *)p - FRONT);
  memcpy(grown, p, h->size < size ? h->size : size);
  lc_free(ctx, p);
  return grown;
}

void lc_free(lc_ctx *ctx, void *p) {
  if (!p) return;
  header *h = (header *)(void *)((uint8_t *)p - FRONT);
  count(ctx, h->cat, 0, h->size, false);
  free(h);
}

char *lc_strdup(lc_ctx *ctx, const char *s) {
  size_t n = strlen(s) + 1;
  char *copy = lc_alloc(ctx, LC_MEM_OTHER, n);
  if (copy) memcpy(copy, s, n);
  return copy;
}

char *lc_format(lc_ctx *ctx, const char *fmt, ...) {
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *s = n < 0 ? NULL : lc_alloc(ctx, LC_MEM_OTHER, (size_t)n + 1);
  if (s) vsnprintf(s, (size_t)n + 1, fmt, again);
  va_end(again);
  return s;
}

size_t lc_mem_bytes(const lc_ctx *ctx, lc_mem cat) { return ctx->bytes[cat]; }
size_t lc_mem_peak(const lc_ctx *ctx) { return ctx->peak; }
uint64_t lc_mem_allocations(const lc_ctx *ctx) { return ctx->allocations; }

void *lc_scratch(lc_ctx *ctx, int worker, int slot, size_t size) {
  void **data = &ctx->scratch[worker][slot].data;
  size_t *have = &ctx->scratch[worker][slot].size;
  if (size <= *have && *data) return *data;
  void *fresh = lc_alloc(ctx, LC_MEM_SCRATCH, size);
  if (!fresh) return NULL;
  lc_free(ctx, *data);
  *data = fresh;
  *have = size;
  return fresh;
}

size_t lc_rss_bytes(void) {
  FILE *f = fopen("/proc/self/statm", "r");
  unsigned long whole = 0, resident = 0;
  if (!f) return 0;
  if (fscanf(f, "%lu %lu", &whole, &resident) != 2) resident = 0;
  fclose(f);
  return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

size_t lc_peak_rss_bytes(void) {
  struct rusage u;
  return getrusage(RUSAGE_SELF, &u) ? 0 : (size_t)u.ru_maxrss * 1024;
}
