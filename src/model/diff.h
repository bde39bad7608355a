/* diff: what a run changed. Two or three results on one base are compared entry by entry, strip by strip: any size in the memory of
 * some strips. */
#ifndef LC_DIFF_H
#define LC_DIFF_H
#include "model/model.h"

/* What a path holds: a model of its own, or an adapter on the base (merged for the comparison). */
typedef struct {
  lc_model *model; /* NULL: the base's, with an adapter */
  lc_net *net;
} lc_result;
lc_status lc_result_open(const lc_model *base, const char *path, float scale, lc_result *);
void lc_result_close(lc_result *);
bool lc_path_is_adapter(lc_ctx *, const char *path);
/* In which type a weight lies in its file. */
lc_dtype lc_net_stored_as(const lc_net *, const lc_weight *);

/* Both values are rounded to one type, and so is their difference (as torch subtracts); an entry is unchanged when |Δ| <= tolerance. */
enum { LC_DIFF_TOLERANCES = 5 };
extern const double lc_diff_tolerances[LC_DIFF_TOLERANCES]; /* 0, 1e-8 … 1e-5 */
typedef struct {
  int64_t n;
  int64_t unchanged[LC_DIFF_TOLERANCES]; /* at each of the fixed tolerances */
  int64_t changed;                       /* by more than the tolerance that was asked for */
  int64_t invisible;    /* of the entries that differ in f32: |Δ| < |w|/256, less than half a step of bf16 */
  int64_t differ;       /* in f32 */
  int64_t second, both; /* changed in the other result; in both */
  double sum_delta, sum_base, largest;
} lc_diff_count;
typedef struct {
  const char *name; /* of the tensor, the layer, the kind */
  int layer;
  lc_dtype dtype; /* of the comparison */
  bool mixed;     /* the files' types differ */
  int tensors;
  double mean_density; /* unweighted mean of the tensors' changed shares */
  int64_t rank, full;  /* of Δ; full = min(M,N), 0: not asked for */
  lc_diff_count count;
} lc_diff_row;
typedef struct {
  lc_dtype
      dtype; /* LC_NONE: by rule: the files' own type; of two, the narrower; f32 for quantised files and adapters */
  double tolerance; /* of `changed` */
  int64_t ranks;    /* decompose so many matrices, spread evenly; -1: all; 0: none */
} lc_diff_opts;
typedef struct {
  lc_diff_row *row; /* by tensor, in order of name */
  int n;
  lc_diff_row *layer, *kind;
  int n_layer, n_kind;
  lc_diff_row all;
  const char **apart; /* names of tensors that one side does not have, or has in another shape */
  int n_apart;
  bool third;        /* a second result was compared */
  double rank_share; /* mean of rank / full over the decomposed; NAN: none */
  int n_ranks;
} lc_diff;
/* other: NULL, or a second result of the same base. */
lc_status lc_diff_nets(const lc_net *base, const lc_net *result, const lc_net *other, const lc_diff_opts *,
                       lc_diff *);
void lc_diff_free(lc_ctx *, lc_diff *);

/* What rounding alone would report: weights from N(0, 0.02²) in dtype, an f32 master of each moved by ±rate at random `steps` times and
 * exported to dtype again; share with |Δ| <= tolerance, at the fixed tolerances. */
lc_status lc_diff_null(lc_ctx *, lc_dtype, double rate, int64_t steps, uint64_t seed,
                       double share[LC_DIFF_TOLERANCES]);
#endif
