/* A dense block on chosen input columns or output rows of a weight (delta_slice.c). */
#ifndef LC_SLICE_H
#define LC_SLICE_H
#include "nn/nn.h"

typedef enum { LC_SLICE_COLUMNS, LC_SLICE_ROWS } lc_slice_axis;
typedef struct {
  int axis; /* lc_slice_axis */
  int64_t count;
} lc_slice_opts;
/* lines: `count` ascending columns (or rows), copied. The block starts at zero; param[0] is it: C (M,k), or R (k,N). */
lc_status lc_delta_slice_new(lc_ctx *, lc_weight *, const lc_slice_opts *, const int32_t *lines,
                             bool trainable, lc_delta **);
const lc_slice_opts *lc_delta_slice_opts(const lc_delta *);
const int32_t *lc_delta_slice_lines(const lc_delta *);
/* The same change as a detached low-rank one of rank and alpha k: B = C and A the unit rows of the columns, or B the
 * unit columns of the rows and A = R. */
lc_status lc_delta_slice_lora(lc_ctx *, const lc_delta *, lc_delta **);
extern const lc_delta_ops lc_delta_slice;
#endif
