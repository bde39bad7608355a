/* units: elements of structures (heads, key/value heads, channels) of all layers as one pool: counted, scored, chosen.
 * Inside the structure map an element is a span of lines (rows or columns) of several weights; here it is seen on the one
 * that has a role. */
#ifndef LC_UNITS_H
#define LC_UNITS_H
#include "model/model.h"

typedef struct {
  int layer;
  int64_t count; /* elements of this layer */
  lc_weight *w;  /* has the role: element i is lines [first + i·unit, +unit) of it */
  int axis;      /* 0 rows, 1 columns */
  int64_t first, unit;
  lc_weight *
      reader; /* reads what the elements put out: element i is columns [from + i·width, +width) of its input */
  int64_t from, width;
} lc_unit_row;
typedef struct {
  lc_unit_row *row; /* by layer */
  int n;
  int64_t count; /* of all layers; element e of layer l is number e + Σ counts before l */
} lc_units;
/* A family whose map does not say the role is refused. */
lc_status lc_units_open(lc_net *, lc_role, lc_units *);
void lc_units_free(lc_ctx *, lc_units *);

/* Σ x² of each line of the effective weight, or of G (M,N). sum: M or N. */
lc_status lc_line_squares(lc_ctx *, const lc_weight *, int axis, const float *G, double *sum);
/* Norms of the elements from the squares of lines: of w's, or of the reader's columns. score: count. */
void lc_unit_norms(const lc_unit_row *, bool reader, const double *line, double *score);

typedef struct {
  const double *score; /* of each element; NULL: at random */
  bool smallest;
  bool each_layer; /* so many of each layer, not of all together */
  uint64_t seed;
  const char *name; /* of the draw: other names, other draws */
} lc_unit_rule;
/* How many of `count` a ratio gives: floor(ratio·count). */
int64_t lc_units_ratio(double ratio, int64_t count);
/* Numbers of the chosen elements, ascending, ties to the lower number: floor(ratio·count), of all or of each layer.
 * chosen has room for count. */
lc_status lc_units_choose(lc_ctx *, const lc_units *, const lc_unit_rule *, double ratio, int64_t *chosen,
                          int64_t *n);
#endif
