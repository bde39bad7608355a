/* sparse: index sets, exact top-k of a stream of tiles, sampled products.
 *
 * A flat index is row·N + col of a weight M×N (out×in). Sets are sorted and distinct; int32 when M·N < 2^31,
 * else int64. */
#ifndef LC_SPARSE_H
#define LC_SPARSE_H
#include "tensor/dtype.h"

/* ---- index sets ---- */
typedef enum { LC_ALL, LC_LIST32, LC_LIST64 } lc_index_kind;
typedef struct {
  lc_index_kind kind;
  int64_t n;
  void *at; /* int32_t or int64_t; NULL for ALL */
} lc_index;
/* Checks range [0,M·N), sorts, and refuses repeats; picks the width. `flat` is copied (LC_MEM_TRAINABLE). */
lc_status lc_index_new(lc_ctx *, int64_t M, int64_t N, const int64_t *flat, int64_t n, lc_index *);
lc_status lc_index_first(lc_ctx *, int64_t M, int64_t N, int64_t n, lc_index *); /* positions 0 … n−1 */
lc_status lc_index_dup(lc_ctx *, const lc_index *, lc_index *);
void lc_index_free(lc_ctx *, lc_index *);
static inline int64_t lc_index_at(const lc_index *x, int64_t k) {
  return x->kind == LC_LIST32   ? ((const int32_t *)x->at)[k]
         : x->kind == LC_LIST64 ? ((const int64_t *)x->at)[k]
                                : k;
}
/* The first k >= from with at(k) >= flat: gallops from `from`, so that a sweep over rows costs little. */
int64_t lc_index_lower(const lc_index *, int64_t from, int64_t flat);
bool lc_index_has(const lc_index *, int64_t flat);
/* Positions that came from outside: they ascend, are distinct and below M·N; else a sentence about `what`. */
lc_status lc_index_check(lc_ctx *, const lc_index *, int64_t M, int64_t N, const char *what);

/* ---- top-k of a stream ---- */
/* Exact count, ties to the lower (tensor, flat index), whatever the tiles, their order and the threads. */
typedef struct lc_topk lc_topk;
typedef struct {
  int32_t tensor;
  int64_t flat;
  float score, payload; /* payload: what was pushed beside the score (the signed gradient) */
} lc_pick;
/* Keeps the k largest over everything pushed (one tensor, or many: global). Memory O(k · workers). */
lc_status lc_topk_new(lc_ctx *, int64_t k, lc_topk **);
void lc_topk_free(lc_topk *);
/* Empties it for another k <= that of new (else the next push fails); allocation-free. */
void lc_topk_reset(lc_topk *, int64_t k);
/* Pushes a tile: score (and payload, may be NULL: the score) at rectangle `at` of a weight with N columns,
 * leading dimension ld. `exclude` (may be NULL): positions that never enter. NaN is refused with the
 * position. Safe from several workers at once (worker = lc_worker). */
lc_status lc_topk_push(lc_topk *, int worker, int32_t tensor, int64_t N, lc_rect at, const float *score,
                       const float *payload, int64_t ld, const lc_index *exclude);
/* The winners, sorted by (tensor, flat): borrowed until reset/free. Fewer than k when fewer were pushed. */
lc_status lc_topk_take(lc_topk *, const lc_pick **, int64_t *n);

/* The n largest r[i]·q[j] (r, q >= 0) over an M×N grid outside `exclude`, without forming it; ties to the
 * lower flat index; sorted by flat. out has room for n; *found may be smaller when fewer positions exist.
 * Scratch is allocated once by the caller: lc_outer_topk_bytes. */
size_t lc_outer_topk_bytes(int64_t M, int64_t N, int64_t n);
lc_status lc_outer_topk(lc_ctx *, const float *r, int64_t M, const float *q, int64_t N, int64_t n,
                        const lc_index *exclude, void *scratch, int64_t *out, int64_t *found);

/* ---- sampled product: g[k] += Σ_t dy[t,row_k]·x[t,col_k] ---- */
/* x (T,N), dy (T,M): F32 or BF16, leading dimensions ldx, lddy. Cost K·T; bits independent of threads.
 * Scratch slots 6, 7 of the workers. */
lc_status lc_sampled_grad(lc_ctx *, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                          int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *, float *g);

/* The same by strips of the dense dW, from which the entries are taken: a cost of M·N·T whatever K is; x and dy of one type. Scratch slot 1. */
lc_status lc_strips_grad(lc_ctx *, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                         int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *, float *g);
/* Whichever of the two is faster at this density, by a committed table. */
lc_status lc_entries_grad(lc_ctx *, lc_dtype xt, const void *x, int64_t ldx, lc_dtype dt, const void *dy,
                          int64_t lddy, int64_t T, int64_t M, int64_t N, const lc_index *, float *g);

/* ---- swaps ---- */
/* A sorted list of n positions with the entries at places drop[0..d) (ascending) replaced by positions
 * add[0..d) (any order, distinct, not present): writes the new sorted list and for each new place its old one
 * (-1: fresh; fresh places take add in ascending order). */
lc_status lc_index_swap(lc_ctx *, const lc_index *, const int64_t *drop, const int64_t *add, int64_t d,
                        void *to, int64_t *from);
#endif
