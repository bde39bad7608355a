/* What delta_lora.c gives to its op. */
#ifndef LC_LOW_RANK_H
#define LC_LOW_RANK_H
#include "nn/nn.h"
typedef struct {
  lc_delta *delta;
  lc_dtype x_dtype, y_dtype; /* set by the shape rule */
} lc_low_rank_attr;          /* in: y, x; out: y', h */
#endif
