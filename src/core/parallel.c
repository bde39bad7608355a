/* Parallel loops: what a chunk computes never depends on who runs it. The threads are pool.c's; here are the rules: which
 * worker calls, nesting, and the sentence of the lowest chunk that fails. */
#include "core/context.h"
#include "core/pool.h"
#include <string.h>
#include <omp.h>

static _Thread_local int worker_of_thread;
static _Thread_local bool inside;

int lc_worker(const lc_ctx *ctx) {
  (void)ctx;
  return worker_of_thread;
}

static lc_status serial(lc_ctx *ctx, int64_t n, lc_chunk_fn fn, void *arg) {
  (void)ctx;
  for (int64_t c = 0; c < n; c++) LC_TRY(fn(arg, c, worker_of_thread));
  return LC_OK;
}

/* Libraries that are called in chunks, and know OpenMP, stay on their worker. OpenMP keeps this for each thread. */
static void quieten_libraries(void) {
  static _Thread_local bool done;
  if (!done) omp_set_num_threads(1);
  done = true;
}

typedef struct {
  lc_ctx *ctx;
  lc_chunk_fn fn;
  void *arg;
  int64_t failed; /* the lowest chunk that has failed */
  lc_status status;
} loop;

static void keep_failure(loop *l, int64_t chunk, lc_status st, const char *sentence) {
  pthread_mutex_lock(&l->ctx->lock);
  if (chunk < l->failed) {
    __atomic_store_n(&l->failed, chunk, __ATOMIC_RELAXED);
    l->status = st;
    memcpy(l->ctx->error, sentence, LC_ERROR_SIZE);
  }
  pthread_mutex_unlock(&l->ctx->lock);
}

static void run_chunks(void *arg, int64_t first, int64_t count, int worker) {
  static _Thread_local char sentence[LC_ERROR_SIZE];
  loop *l = arg;
  quieten_libraries();
  worker_of_thread = worker;
  inside = true;
  lc_error_redirect(sentence);
  for (int64_t c = first; c < first + count && c <= __atomic_load_n(&l->failed, __ATOMIC_RELAXED); c++) {
    sentence[0] = 0; /* what an earlier chunk said is not this one's */
    lc_status st = l->fn(l->arg, c, worker);
    if (st) keep_failure(l, c, st, sentence);
  }
  lc_error_redirect(NULL);
  inside = false;
  worker_of_thread = 0;
}

/* Made by the first loop that needs it, and again in the child of a fork. */
static lc_pool *pool_of(lc_ctx *ctx) {
  pthread_mutex_lock(&ctx->lock);
  if (ctx->pool && !lc_pool_alive(ctx->pool)) {
    lc_pool_free(ctx->pool);
    ctx->pool = NULL;
  }
  if (!ctx->pool) ctx->pool = lc_pool_new(ctx->threads);
  lc_pool *pool = ctx->pool;
  pthread_mutex_unlock(&ctx->lock);
  return pool;
}

lc_status lc_parallel(lc_ctx *ctx, int64_t n, lc_chunk_fn fn, void *arg) {
  quieten_libraries();
  if (inside || ctx->threads == 1 || n <= 1) return serial(ctx, n, fn, arg);
  lc_pool *pool = pool_of(ctx);
  if (!pool) return lc_fail(ctx, "out of memory for %d threads", ctx->threads);
  loop l = {ctx, fn, arg, INT64_MAX, LC_OK};
  lc_pool_run(pool, n, run_chunks, &l);
  return l.status;
}
