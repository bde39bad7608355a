/* Parallel loops: every chunk once, valid workers, one thread a worker, the lowest failing chunk wins,
 * nesting is serial. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/core.h"

enum { CHUNKS = 997 };

typedef struct {
  lc_ctx *ctx;
  int times[CHUNKS];
  int busy[16];
  int wrong;
} work;

static lc_status once(void *arg, int64_t chunk, int worker) {
  work *w = arg;
  w->times[chunk]++;
  if (worker < 0 || worker >= lc_threads(w->ctx) || lc_worker(w->ctx) != worker) return LC_FAILED;
  if (__atomic_fetch_add(&w->busy[worker], 1, __ATOMIC_SEQ_CST))
    __atomic_store_n(&w->wrong, 1, __ATOMIC_SEQ_CST);
  if (omp_get_max_threads() != 1)
    __atomic_store_n(&w->wrong, 2, __ATOMIC_SEQ_CST); /* libraries stay on their worker */
  __atomic_fetch_sub(&w->busy[worker], 1, __ATOMIC_SEQ_CST);
  return LC_OK;
}

static void test_every_chunk_once(void **state) {
  for (int threads = 1; threads <= 8; threads *= 2) {
    work w = {0};
    assert_int_equal(lc_ctx_new(threads, &w.ctx, NULL), LC_OK);
    assert_int_equal(lc_parallel(w.ctx, CHUNKS, once, &w), LC_OK);
    for (int i = 0; i < CHUNKS; i++) assert_int_equal(w.times[i], 1);
    assert_int_equal(w.wrong, 0);
    assert_int_equal(lc_parallel(w.ctx, 0, once, &w), LC_OK);
    assert_int_equal(lc_worker(w.ctx), 0);
    lc_ctx_free(w.ctx);
  }
}

/* A thread that did not make the context: its loops are the same. */
static void *elsewhere(void *arg) {
  work *w = arg;
  omp_set_num_threads(3); /* what a fresh thread may have */
  return lc_parallel(w->ctx, CHUNKS, once, w) ? w : NULL;
}

static void test_another_thread(void **state) {
  for (int threads = 1; threads <= 2; threads++) {
    work w = {0};
    pthread_t t;
    void *failed;
    assert_int_equal(lc_ctx_new(threads, &w.ctx, NULL), LC_OK);
    assert_int_equal(pthread_create(&t, NULL, elsewhere, &w), 0);
    assert_int_equal(pthread_join(t, &failed), 0);
    assert_null(failed);
    assert_int_equal(w.wrong, 0);
    lc_ctx_free(w.ctx);
  }
}

/* Chunk 17 is the lowest to fail: 37 fails before it, 27 after it has. */
static lc_status fails(void *arg, int64_t chunk, int worker) {
  lc_ctx *ctx = arg;
  if (chunk < 17 || chunk % 10 != 7) return LC_OK;
  if (chunk == 17) usleep(2000);
  if (chunk == 27) usleep(5000);
  return chunk == 17 ? lc_usage(ctx, "chunk %d", (int)chunk) : lc_fail(ctx, "chunk %d", (int)chunk);
}

static void test_lowest_failure_wins(void **state) {
  for (int threads = 1; threads <= 4; threads++)
    for (int again = 0; again < 20; again++) {
      lc_ctx *ctx;
      assert_int_equal(lc_ctx_new(threads, &ctx, NULL), LC_OK);
      assert_int_equal(lc_parallel(ctx, 300, fails, ctx), LC_USAGE);
      assert_string_equal(lc_error(ctx), "chunk 17");
      lc_ctx_free(ctx);
    }
}

/* A worker sees its own sentence, not that of another chunk. */
static lc_status sees_its_own(void *arg, int64_t chunk, int worker) {
  lc_ctx *ctx = arg;
  char text[32];
  lc_fail(ctx, "at %d", (int)chunk);
  snprintf(text, sizeof text, "at %d", (int)chunk);
  lc_status st = strcmp(lc_error(ctx), text) ? LC_FAILED : LC_OK;
  lc_error_clear(ctx);
  return st || lc_error(ctx)[0] ? LC_FAILED : LC_OK;
}

static void test_own_sentence(void **state) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(4, &ctx, NULL), LC_OK);
  assert_int_equal(lc_parallel(ctx, 2000, sees_its_own, ctx), LC_OK);
  assert_string_equal(lc_error(ctx), "");
  lc_ctx_free(ctx);
}

typedef struct {
  lc_ctx *ctx;
  int outer_worker;
  int64_t sum, last;
} nested;

static lc_status inner(void *arg, int64_t chunk, int worker) {
  nested *n = arg;
  if (worker != n->outer_worker || chunk != n->last + 1)
    return lc_fail(n->ctx, "not serial at %d", (int)chunk);
  n->last = chunk;
  n->sum += chunk;
  return LC_OK;
}

static lc_status outer(void *arg, int64_t chunk, int worker) {
  nested n = {arg, worker, 0, -1};
  LC_TRY(lc_parallel(arg, 50, inner, &n));
  return n.sum == 49 * 25 ? LC_OK : lc_fail(arg, "sum %d", (int)n.sum);
}

static void test_nested(void **state) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(3, &ctx, NULL), LC_OK);
  assert_int_equal(lc_parallel(ctx, 100, outer, ctx), LC_OK);
  lc_ctx_free(ctx);
}

/* Loops of every length in a row, at once and after pauses in which the threads fall asleep. */
static lc_status add_one(void *arg, int64_t chunk, int worker) {
  ((int *)arg)[chunk]++;
  return LC_OK;
}

static void test_loops_in_a_row(void **state) {
  for (int threads = 2; threads <= 16; threads *= 2) {
    lc_ctx *ctx;
    int times[300] = {0};
    assert_int_equal(lc_ctx_new(threads, &ctx, NULL), LC_OK);
    for (int i = 0; i < 300; i++) {
      assert_int_equal(lc_parallel(ctx, i + 1, add_one, times), LC_OK);
      if (i % 100 == 99) usleep(1000);
    }
    for (int i = 0; i < 300; i++) assert_int_equal(times[i], 300 - i);
    lc_ctx_free(ctx);
  }
}

/* A loop whose last chunks take longer than the caller spins. */
static lc_status slow(void *arg, int64_t chunk, int worker) {
  usleep(chunk ? 3000 : 100);
  return LC_OK;
}

static void test_caller_sleeps(void **state) {
  lc_ctx *ctx;
  assert_int_equal(lc_ctx_new(2, &ctx, NULL), LC_OK);
  for (int i = 0; i < 10; i++) assert_int_equal(lc_parallel(ctx, 2, slow, ctx), LC_OK);
  lc_ctx_free(ctx);
}

/* The child of a fork has no threads of its parent: it gets its own; the parent's go on. */
static void test_fork(void **state) {
  lc_ctx *ctx;
  int times[50] = {0}, status;
  assert_int_equal(lc_ctx_new(3, &ctx, NULL), LC_OK);
  assert_int_equal(lc_parallel(ctx, 50, add_one, times), LC_OK);
  pid_t child = fork();
  if (!child) {
    bool ok = !lc_parallel(ctx, 50, add_one, times);
    for (int i = 0; i < 50; i++) ok = ok && times[i] == 2;
    lc_ctx_free(ctx);
    _exit(ok ? 0 : 1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_int_equal(lc_parallel(ctx, 50, add_one, times), LC_OK);
  for (int i = 0; i < 50; i++) assert_int_equal(times[i], 2);
  lc_ctx_free(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_chunk_once),
                                     cmocka_unit_test(test_another_thread),
                                     cmocka_unit_test(test_lowest_failure_wins),
                                     cmocka_unit_test(test_own_sentence),
                                     cmocka_unit_test(test_nested),
                                     cmocka_unit_test(test_loops_in_a_row),
                                     cmocka_unit_test(test_caller_sleeps),
                                     cmocka_unit_test(test_fork)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
