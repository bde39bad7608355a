/* Counted memory: size and category stand in front of each block, 64-byte aligned. Scratch buffers belong to
 * a worker and only grow.
 *
 * Kept blocks: while the context keeps, a freed block goes to a small table instead of the system, and an
 * allocation takes the smallest kept block that holds it. So a sequence of allocations that repeats finds its
 * own blocks again. A kept block counts as LC_MEM_OTHER. */
#include "core/context.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct {
  size_t size, room /* of the whole block, this header included */;
  lc_mem cat;
} header;
enum { FRONT = 64, LARGE = 2 << 20 };

static void count(lc_ctx *ctx, lc_mem cat, size_t add, size_t remove, bool call) {
  pthread_mutex_lock(&ctx->lock);
  ctx->bytes[cat] += add - remove;
  ctx->total += add - remove;
  if (ctx->total > ctx->peak) ctx->peak = ctx->total;
  if (call) ctx->allocations++;
  pthread_mutex_unlock(&ctx->lock);
}

/* The smallest kept block that holds `whole` bytes and is not wastefully large; NULL when there is none. */
static uint8_t *take_kept(lc_ctx *ctx, size_t whole) {
  int best = -1;
  pthread_mutex_lock(&ctx->lock);
  for (int i = 0; ctx->keeping && i < ctx->n_kept; i++) {
    size_t room = ((header *)ctx->kept[i])->room;
    if (room >= whole && room <= 2 * whole + 4096 && (best < 0 || room < ((header *)ctx->kept[best])->room))
      best = i;
  }
  header *h = best < 0 ? NULL : ctx->kept[best];
  if (h) {
    ctx->kept[best] = ctx->kept[--ctx->n_kept];
    ctx->bytes[LC_MEM_OTHER] -= h->room - FRONT;
    ctx->total -= h->room - FRONT;
  }
  pthread_mutex_unlock(&ctx->lock);
  return (uint8_t *)h;
}

static bool keep_block(lc_ctx *ctx, header *h) {
  pthread_mutex_lock(&ctx->lock);
  bool kept = ctx->keeping && ctx->n_kept < LC_MAX_KEPT;
  if (kept) {
    ctx->kept[ctx->n_kept++] = h;
    ctx->bytes[LC_MEM_OTHER] += h->room - FRONT;
    ctx->total += h->room - FRONT;
    if (ctx->total > ctx->peak) ctx->peak = ctx->total;
  }
  pthread_mutex_unlock(&ctx->lock);
  return kept;
}

/* Large blocks ask for large pages: products walk over thousands of small ones, whose addresses no processor remembers. */
static void *from_system(size_t whole) {
  if (whole < LARGE) return aligned_alloc(FRONT, whole);
  void *p = NULL;
  if (posix_memalign(&p, LARGE, whole))
    return NULL; /* aligned_alloc wants multiples of LARGE, and the sanitizer insists */
#ifdef MADV_HUGEPAGE
  if (p) madvise(p, whole, MADV_HUGEPAGE); /* advice: a system that has none is as before */
#endif
  return p;
}

void *lc_alloc(lc_ctx *ctx, lc_mem cat, size_t size) {
  size_t whole = 0;
  uint8_t *p = NULL;
  bool kept = false;
  if (lc_add(size, 2 * FRONT, &whole) && whole < SIZE_MAX / 2) {
    whole = whole / FRONT * FRONT;
    p = take_kept(ctx, whole);
    kept = p != NULL;
    if (!p) p = from_system(whole);
  }
  if (!p) {
    lc_fail(ctx, "out of memory: %zu bytes could not be had", size);
    return NULL;
  }
  size_t room = kept ? ((header *)(void *)p)->room : whole;
  memset(p, 0, whole);
  *(header *)(void *)p = (header){size, room, cat};
  count(ctx, cat, size, 0, !kept);
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
  if (!keep_block(ctx, h)) free(h);
}

void lc_mem_keep(lc_ctx *ctx, bool on) {
  ctx->keeping = on;
}

void lc_mem_drop(lc_ctx *ctx) {
  while (ctx->n_kept) {
    header *h = ctx->kept[--ctx->n_kept];
    ctx->bytes[LC_MEM_OTHER] -= h->room - FRONT;
    ctx->total -= h->room - FRONT;
    free(h);
  }
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

size_t lc_mem_bytes(const lc_ctx *ctx, lc_mem cat) {
  return ctx->bytes[cat];
}
size_t lc_mem_peak(const lc_ctx *ctx) {
  return ctx->peak;
}
uint64_t lc_mem_allocations(const lc_ctx *ctx) {
  return ctx->allocations;
}

static void *grown(lc_ctx *ctx, void **data, size_t *have, size_t size) {
  if (size <= *have && *data) return *data;
  lc_free(ctx, *data); /* first: contents are undefined, and two blocks at once would raise the peak */
  *data = lc_alloc(ctx, LC_MEM_SCRATCH, size);
  *have = *data ? size : 0;
  return *data;
}

void *lc_scratch(lc_ctx *ctx, int worker, int slot, size_t size) {
  return grown(ctx, &ctx->scratch[worker][slot].data, &ctx->scratch[worker][slot].size, size);
}

void *lc_scratch_shared(lc_ctx *ctx, int slot, size_t size) {
  return grown(ctx, &ctx->shared[slot].data, &ctx->shared[slot].size, size);
}

lc_status lc_scratch_level(lc_ctx *ctx) {
  for (int s = 0; s < LC_SCRATCH_SLOTS; s++) {
    size_t most = 0;
    for (int w = 0; w < ctx->threads; w++)
      if (ctx->scratch[w][s].size > most) most = ctx->scratch[w][s].size;
    for (int w = 0; w < ctx->threads && most; w++)
      if (!lc_scratch(ctx, w, s, most)) return LC_FAILED;
  }
  return LC_OK;
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
