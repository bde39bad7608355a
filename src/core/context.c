/* The context: workers, errors, log, the stop request. Each thread writes its error sentence into its own
 * slot; lc_parallel moves that of the lowest failing chunk into the context. */
#include "core/context.h"
#include "core/pool.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>

static _Thread_local char *error_slot; /* set inside lc_parallel: the chunk's sentence goes there */

void lc_error_redirect(char *slot) {
  error_slot = slot;
}

static int parse_isa(const char *text) {
  for (int i = 0; i < LC_ISA_COUNT; i++)
    if (!strcmp(text, lc_isa_name((lc_isa)i))) return i;
  return -1;
}

lc_status lc_ctx_new(int threads, lc_ctx **out, char *why) {
  char ignored[256];
  if (!why) why = ignored;
  *out = NULL;
  if (threads < 0 || threads > LC_MAX_WORKERS) {
    snprintf(why, 256, "%d threads: 1 to %d are possible, 0 means the machine's cores", threads,
             LC_MAX_WORKERS);
    return LC_USAGE;
  }
  lc_isa best = lc_isa_detect(), isa = best;
  const char *forced = getenv("LACUNA_ISA");
  if (forced && *forced) {
    int i = parse_isa(forced);
    if (i < 0 || i > (int)best) {
      snprintf(why, 256,
               i < 0 ? "LACUNA_ISA=%s is no instruction set (scalar, avx2, avx512, avx512_bf16, amx)"
                     : "LACUNA_ISA=%s: this machine runs up to %s",
               forced, lc_isa_name(best));
      return LC_USAGE;
    }
    isa = (lc_isa)i;
  }
  lc_ctx *ctx = calloc(1, sizeof *ctx);
  if (!ctx) {
    snprintf(why, 256, "out of memory");
    return LC_FAILED;
  }
  ctx->isa = isa;
  ctx->threads = threads ? threads : lc_physical_cores();
  if (ctx->threads > LC_MAX_WORKERS) ctx->threads = LC_MAX_WORKERS;
  omp_set_dynamic(0);
  omp_set_num_threads(1); /* libraries stay on their worker, before the first loop too */
  pthread_mutex_init(&ctx->lock, NULL);
  *out = ctx;
  return LC_OK;
}

void lc_ctx_free(lc_ctx *ctx) {
  if (!ctx) return;
  lc_pool_free(ctx->pool);
  ctx->keeping = false;
  for (int w = 0; w < LC_MAX_WORKERS; w++)
    for (int s = 0; s < LC_SCRATCH_SLOTS; s++) lc_free(ctx, ctx->scratch[w][s].data);
  for (int s = 0; s < LC_SCRATCH_SHARED; s++) lc_free(ctx, ctx->shared[s].data);
  lc_mem_drop(ctx);
  pthread_mutex_destroy(&ctx->lock);
  free(ctx);
}

int lc_threads(const lc_ctx *ctx) {
  return ctx->threads;
}
lc_isa lc_isa_of(const lc_ctx *ctx) {
  return ctx->isa;
}

void lc_set_log(lc_ctx *ctx, lc_log_fn fn, void *arg) {
  ctx->log = fn;
  ctx->log_arg = arg;
}

/* What files and flags say is quoted in sentences: they stay one line, and move no terminal's cursor. */
static void one_line(char *s) {
  for (; *s; s++)
    if ((uint8_t)*s < 0x20 || *s == 0x7f) *s = '?';
}

void lc_log(lc_ctx *ctx, lc_log_level level, const char *fmt, ...) {
  if (!ctx->log) return;
  char line[1024];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  one_line(line);
  ctx->log(ctx->log_arg, level, line);
}

static lc_status fail(lc_ctx *ctx, lc_status st, const char *fmt, va_list ap) {
  char *slot = error_slot ? error_slot : ctx->error, text[LC_ERROR_SIZE];
  vsnprintf(text, sizeof text, fmt, ap); /* arguments may point into the slot */
  one_line(text);
  memcpy(slot, text, sizeof text);
  return st;
}

lc_status lc_fail(lc_ctx *ctx, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  lc_status st = fail(ctx, LC_FAILED, fmt, ap);
  va_end(ap);
  return st;
}

lc_status lc_usage(lc_ctx *ctx, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  lc_status st = fail(ctx, LC_USAGE, fmt, ap);
  va_end(ap);
  return st;
}

const char *lc_error(const lc_ctx *ctx) {
  return error_slot ? error_slot : ctx->error;
}
void lc_error_clear(lc_ctx *ctx) {
  *(error_slot ? error_slot : ctx->error) = 0;
}
void lc_request_stop(lc_ctx *ctx, int signo) {
  ctx->stop = signo;
}
int lc_stop_requested(const lc_ctx *ctx) {
  return ctx->stop;
}
