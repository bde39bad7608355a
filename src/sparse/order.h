/* Exact order statistics of |x| (order.c). */
#ifndef LC_ORDER_H
#define LC_ORDER_H
#include "core/core.h"
/* Gives a piece of the numbers, in any order: *x has *n of them; called on workers. sweep: 0 or 1. */
typedef lc_status (*lc_piece_fn)(void *self, int64_t piece, int sweep, int worker, const float **x,
                                 int64_t *n);
/* The values at two ranks, 0 the smallest |x|, among all pieces' numbers (NaN: above all others). Each piece is asked for once a sweep, all in
 * sweep 0 before any in sweep 1. Scratch slot 7 of every worker. */
lc_status lc_abs_order(lc_ctx *, int64_t pieces, lc_piece_fn, void *self, const int64_t rank[2],
                       float value[2]);
#endif
