/* The threads behind lc_parallel, inside src/core. */
#ifndef LC_POOL_H
#define LC_POOL_H
#include "core/core.h"

typedef struct lc_pool lc_pool;
/* Runs chunks [first, first+count) on a worker. */
typedef void (*lc_pool_fn)(void *arg, int64_t first, int64_t count, int worker);
/* workers-1 threads beside the caller, who is worker 0. Threads that the system refuses are missing: the others do their
 * chunks. NULL: out of memory. */
lc_pool *lc_pool_new(int workers);
/* Every chunk of [0,n) once; returns when all are done. Callers come one at a time. */
void lc_pool_run(lc_pool *, int64_t n, lc_pool_fn, void *arg);
/* False in the child of a fork: its threads are not there. */
bool lc_pool_alive(const lc_pool *);
void lc_pool_free(lc_pool *); /* NULL is fine */
#endif
