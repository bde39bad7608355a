/* Exact order statistics of |x| (order.c). */
#ifndef LC_ORDER_H
#define LC_ORDER_H
#include "core/core.h"
/* Gives row r: *x has its values; called on workers. */
typedef lc_status (*lc_row_fn)(void *self, int64_t r, int worker, const float **x);
/* The values at two ranks, 0 the smallest |x|, among rows·cols numbers (NaN: above all others). Each row is asked for twice.
 * Scratch slot 7 of every worker. */
lc_status lc_abs_order(lc_ctx *, int64_t rows, int64_t cols, lc_row_fn, void *self, const int64_t rank[2],
                       float value[2]);
#endif
