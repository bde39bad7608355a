/* A pool of threads for loops of microseconds: generation runs some 200 loops a token, so the way in and out must cost less
 * than one.
 *
 * One number is the loop: `left`, the chunks that nobody has taken. The caller writes the job and then `left`; whoever brings it
 * from l to l-k with a compare-and-swap owns k chunks from n-l on, and only then reads the job: it cannot change while chunks of
 * it are owned. So a late thread never holds up a loop: with nothing left there is nothing to join. `done` counts chunks that
 * have ended; at n the loop is over.
 *
 * Waiting (threads for a loop, the caller for the last chunks) is in three steps: pauses for some microseconds, which are what
 * lies between two layers; then giving the core away at every look, so that on a busy machine others, perhaps the very
 * thread that is waited for, run; then sleep on a futex. More workers than cores do not spin. Who falls asleep says so
 * first and looks once more; who changes the number looks for sleepers afterwards (both sequentially consistent, Dekker). */
#include "core/pool.h"
#include "core/context.h"
#include <linux/futex.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined __x86_64__
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

#define PAUSE_SECONDS 30e-6
#define YIELD_SECONDS 200e-6
enum { LOOKS = 64 /* between two looks at the clock */, LINE = 64 };

struct lc_pool {
  int64_t left; /* each of these on a cache line of its own */
  char pad0[LINE - sizeof(int64_t)];
  int64_t done;
  char pad1[LINE - sizeof(int64_t)];
  uint32_t wake, sleepers;       /* threads sleep on wake */
  uint32_t ended, caller_sleeps; /* the caller sleeps on ended */
  char pad2[LINE - 4 * sizeof(uint32_t)];
  lc_pool_fn fn;
  void *arg;
  int64_t n;
  int workers; /* with the caller */
  bool spins, quit;
  int n_thread;
  unsigned generation;
  pthread_mutex_t caller;
  struct lc_pool_thread {
    lc_pool *pool;
    pthread_t id;
    int worker;
  } thread[];
};

static unsigned generation; /* forks that led here */
static void forked(void) {
  generation++;
}
static void watch_forks(void) {
  pthread_atfork(NULL, NULL, forked);
}

/* A futex's word is 32 bits whose change means "look again". */
static void sleep_on(uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void rouse(uint32_t *word) {
  __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Waits a bounded time until *x is (or, `until` false, is no longer) value. */
static bool spin(const int64_t *x, int64_t value, bool until) {
  double t0 = 0;
  for (int looks = 1;; looks++) {
    if ((__atomic_load_n(x, __ATOMIC_ACQUIRE) == value) == until) return true;
    PAUSE();
    if (looks % LOOKS) continue;
    double now = lc_now();
    if (t0 == 0) t0 = now;
    if (now - t0 > YIELD_SECONDS) return false;
    while (now - t0 > PAUSE_SECONDS) {
      sched_yield();
      if ((__atomic_load_n(x, __ATOMIC_ACQUIRE) == value) == until) return true;
      now = lc_now();
      if (now - t0 > YIELD_SECONDS) return false;
    }
  }
}

/* Many chunks are taken several at a time, fewer towards the end. */
static void work(lc_pool *p, int worker) {
  int64_t left = __atomic_load_n(&p->left, __ATOMIC_ACQUIRE);
  while (left > 0) {
    int64_t take = lc_max64(1, left / (8 * p->workers));
    if (!__atomic_compare_exchange_n(&p->left, &left, left - take, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
      continue;
    int64_t n = p->n;
    p->fn(p->arg, n - left, take, worker);
    bool last = __atomic_add_fetch(&p->done, take, __ATOMIC_SEQ_CST) == n;
    if (last && __atomic_load_n(&p->caller_sleeps, __ATOMIC_SEQ_CST)) rouse(&p->ended);
    left = __atomic_load_n(&p->left, __ATOMIC_ACQUIRE);
  }
}

static void *thread_main(void *arg) {
  const struct lc_pool_thread *self = arg;
  lc_pool *p = self->pool;
  while (!__atomic_load_n(&p->quit, __ATOMIC_SEQ_CST)) {
    work(p, self->worker);
    if (p->spins && spin(&p->left, 0, false)) continue;
    __atomic_fetch_add(&p->sleepers, 1, __ATOMIC_SEQ_CST);
    uint32_t seen = __atomic_load_n(&p->wake, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&p->left, __ATOMIC_SEQ_CST) && !__atomic_load_n(&p->quit, __ATOMIC_SEQ_CST))
      sleep_on(&p->wake, seen);
    __atomic_fetch_sub(&p->sleepers, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}

static void wait_for_last(lc_pool *p, int64_t n) {
  if (p->spins && spin(&p->done, n, true)) return;
  __atomic_store_n(&p->caller_sleeps, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    uint32_t seen = __atomic_load_n(&p->ended, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&p->done, __ATOMIC_SEQ_CST) == n) break;
    sleep_on(&p->ended, seen);
  }
  __atomic_store_n(&p->caller_sleeps, 0, __ATOMIC_SEQ_CST);
}

void lc_pool_run(lc_pool *p, int64_t n, lc_pool_fn fn, void *arg) {
  pthread_mutex_lock(&p->caller);
  p->fn = fn;
  p->arg = arg;
  p->n = n;
  __atomic_store_n(&p->done, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&p->left, n, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST)) rouse(&p->wake);
  work(p, 0);
  wait_for_last(p, n);
  pthread_mutex_unlock(&p->caller);
}

bool lc_pool_alive(const lc_pool *p) {
  return p->generation == generation;
}

/* Signals are the program's own threads' business. */
static void start(lc_pool *p) {
  sigset_t all, before;
  sigfillset(&all);
  bool masked = !pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < p->workers - 1; i++) {
    struct lc_pool_thread *t = &p->thread[p->n_thread];
    *t = (struct lc_pool_thread){.pool = p, .worker = p->n_thread + 1};
    if (pthread_create(&t->id, NULL, thread_main, t)) break;
    p->n_thread++;
  }
  if (masked) pthread_sigmask(SIG_SETMASK, &before, NULL);
}

lc_pool *lc_pool_new(int workers) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  size_t size = sizeof(lc_pool) + (size_t)workers * sizeof(struct lc_pool_thread);
  lc_pool *p = aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE);
  if (!p) return NULL;
  memset(p, 0, size);
  p->workers = workers;
  p->generation = generation;
  p->spins = workers <= lc_physical_cores();
  pthread_mutex_init(&p->caller, NULL);
  start(p);
  return p;
}

void lc_pool_free(lc_pool *p) {
  if (!p) return;
  if (lc_pool_alive(p)) {
    __atomic_store_n(&p->quit, true, __ATOMIC_SEQ_CST);
    rouse(&p->wake);
    for (int i = 0; i < p->n_thread; i++) pthread_join(p->thread[i].id, NULL);
    pthread_mutex_destroy(&p->caller);
  }
  free(p);
}
