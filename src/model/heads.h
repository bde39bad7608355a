/* heads: attention heads taken out by score. The unit is a key/value head with the query heads that it serves. */
#ifndef LC_HEADS_H
#define LC_HEADS_H
#include "model/model.h"
#include "nn/prune.h"

/* Refuses what cannot be removed from each layer: a number that is no multiple of the query heads of a key/value head, all
 * heads, a score that has no order for sums (NAB, NABS), or heads whose output layer carries a change of its own (which is not masked). */
lc_status lc_heads_check(const lc_net *, int64_t heads, lc_prune_mode);
/* So many query heads of each layer with the lowest scores, ties to the lower: Σ lc_prune_row_sums over the rows of the
 * weights that carry a change; at random for RANDOM. drop is told the lines of each weight that go: rows of q, k and v,
 * columns of o. */
typedef struct {
  int64_t heads;
  lc_prune_mode mode;
  uint64_t seed;
  void (*drop)(void *self, lc_weight *, bool columns, int64_t first, int64_t n);
  void *self;
} lc_heads_rule;
lc_status lc_heads_remove(lc_net *, const lc_heads_rule *);
#endif
