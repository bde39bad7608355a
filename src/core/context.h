/* The context's fields, for this room only. */
#ifndef LC_CONTEXT_H
#define LC_CONTEXT_H
#include "core/core.h"
#include <pthread.h>
#include <signal.h>

enum { LC_MAX_WORKERS = 256, LC_ERROR_SIZE = 1024, LC_MAX_KEPT = 512 };

struct lc_ctx {
  int threads;
  lc_isa isa;
  volatile sig_atomic_t stop;
  lc_log_fn log;
  void *log_arg;
  char error[LC_ERROR_SIZE];
  pthread_mutex_t lock; /* guards the counters */
  size_t bytes[LC_MEM_COUNT], total, peak;
  uint64_t allocations;
  struct {
    void *data;
    size_t size;
  } scratch[LC_MAX_WORKERS][LC_SCRATCH_SLOTS], shared[LC_SCRATCH_SHARED];
  bool keeping; /* lc_mem_keep */
  void *kept[LC_MAX_KEPT];
  int n_kept;
  struct lc_pool *pool; /* NULL until a loop needs it */
};

void lc_error_redirect(char *slot); /* NULL: the context's own */
int lc_physical_cores(void);        /* within affinity and the cgroup quota, at least 1 */
/* CPUs that the cgroups named in `self` (a /proc/self/cgroup) and those above them grant, 0: no limit; `root`
 * is where they are mounted. */
double lc_cgroup_cpus(const char *self, const char *root);
#endif
