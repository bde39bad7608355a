/* mask: which entries of an M×N matrix survive, as an object of its own. What a matrix holds says nothing about it: a
 * survivor may be zero. */
#ifndef LC_MASK_H
#define LC_MASK_H
#include "sparse/sparse.h"

typedef enum { LC_MASK_ENTRIES, LC_MASK_LINES } lc_mask_structure; /* single entries; whole rows or columns */
typedef enum {
  LC_MASK_POOL,
  LC_MASK_LAYER
} lc_mask_group; /* what was compared: several matrices, or a layer */
typedef struct {
  int64_t M, N;
  int64_t kept; /* survivors, exactly */
  uint8_t *
      bits; /* lc_mask_bytes: bit f%8 of byte f/8 is entry f = row·N + col, 1: it survives; the last byte's rest is 0 */
  int structure; /* lc_mask_structure: the freest that it has */
  int group;     /* lc_mask_group; ties went to the lower (matrix, flat index) */
} lc_mask;
size_t lc_mask_bytes(int64_t M, int64_t N);
lc_status lc_mask_new(lc_ctx *, int64_t M, int64_t N, lc_mask *); /* all survive (LC_MEM_FORM) */
void lc_mask_free(lc_ctx *, lc_mask *);
void lc_mask_drop(lc_mask *, const lc_index *);                             /* these positions */
void lc_mask_drop_lines(lc_mask *, bool columns, int64_t first, int64_t n); /* whole rows or columns */
static inline bool lc_mask_has(const lc_mask *m, int64_t flat) {
  return m->bits[flat >> 3] >> (flat & 7) & 1;
}
int64_t lc_mask_count(const lc_mask *); /* counts the bits */
/* Positions that do not survive, as a set (kind LC_LIST32 with n = 0 when all do). */
lc_status lc_mask_dropped(lc_ctx *, const lc_mask *, lc_index *);
#endif
