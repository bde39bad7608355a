/* A bottleneck adapter of a block's FFN (delta_bottleneck.c) and its op. */
#ifndef LC_BOTTLENECK_H
#define LC_BOTTLENECK_H
#include "nn/nn.h"

typedef enum { LC_STYLE_ADAPTFORMER, LC_STYLE_PFEIFFER } lc_adapter_style;
typedef struct {
  int64_t width, seed;
  int style; /* lc_adapter_style */
  double scale, dropout;
} lc_bottleneck_opts;
/* Hangs on the FFN's output weight (M = the block's width C). param: down (b,C), down_bias (1,b), up (C,b), up_bias
 * (1,C); AdaptFormer also norm (1,C), norm_bias (1,C). */
lc_status lc_delta_bottleneck_new(lc_ctx *, lc_weight *, const lc_bottleneck_opts *, bool trainable,
                                  lc_delta **);
/* Other factors than the params' values, borrowed; NULL: the values. Of draw c in training, and otherwise; label: which
 * entries get a gradient in draw c, those of label piece[c] (NULL: all). [0] down, [1] up. */
typedef struct {
  const float *draw[2][2], *merged[2];
  const uint8_t *label[2];
  uint8_t piece[2][2];
} lc_bottleneck_view; /* draw[c][i], piece[c][i] */
lc_bottleneck_view *lc_delta_bottleneck_view(lc_delta *);
const lc_bottleneck_opts *lc_delta_bottleneck_opts(const lc_delta *);
extern const lc_delta_ops lc_delta_bottleneck;
typedef struct {
  lc_delta *delta;
} lc_bottleneck_attr; /* in: y, x (f32), minus or none; out: y', u, statistics */
extern const lc_op lc_op_bottleneck;
#endif
