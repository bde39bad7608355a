/* Parallel loops: the project's only OpenMP pragma. Chunks are handed out dynamically; what a chunk computes
 * never depends on who runs it. */
#include "core/context.h"
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

/* Libraries called in chunks stay on their worker. OpenMP keeps this for each thread that starts loops (a
 * session may have its own). */
static void quieten_libraries(void) {
  static _Thread_local bool done;
  if (!done) omp_set_num_threads(1);
  done = true;
}

lc_status lc_parallel(lc_ctx *ctx, int64_t n, lc_chunk_fn fn, void *arg) {
  quieten_libraries();
  if (inside || ctx->threads == 1 || n <= 1) return serial(ctx, n, fn, arg);
  int64_t failed = INT64_MAX;
  lc_status status = LC_OK;
  int threads = (int)lc_min64(ctx->threads, n);
#pragma omp parallel num_threads(threads)
  {
    char sentence[LC_ERROR_SIZE] = "";
    int outer = worker_of_thread;
    worker_of_thread = omp_get_thread_num();
    inside = true;
    lc_error_redirect(sentence);
#pragma omp for schedule(dynamic, 1)
    for (int64_t c = 0; c < n; c++) {
      if (c > __atomic_load_n(&failed, __ATOMIC_RELAXED)) continue;
      sentence[0] = 0; /* what an earlier chunk said is not this one's */
      lc_status st = fn(arg, c, worker_of_thread);
      if (!st) continue;
      pthread_mutex_lock(&ctx->lock);
      if (c < failed) {
        __atomic_store_n(&failed, c, __ATOMIC_RELAXED);
        status = st;
        memcpy(ctx->error, sentence, sizeof sentence);
      }
      pthread_mutex_unlock(&ctx->lock);
    }
    lc_error_redirect(NULL);
    inside = false;
    worker_of_thread = outer;
  }
  return status;
}
