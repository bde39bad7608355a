/* Changes along random directions that are never stored (Malladi et al. 2023, arXiv 2305.17333): a log of steps, and the delta that is its
 * effect on one weight.
 *
 *   z_j(t, a) = normal of (seed, step t, tensor, draw a, purpose NOISE) at flat index j: made again wherever it is wanted
 *   m_j       = 1 where low <= |w_j| <= high, or where uniform(seed, tensor, MASK, j) < 1 − sparsity; w: the value at the start of the step
 *   a step    c_j = Σ_a −(rate_a·slope_a)·z_j(t, a) − (Σ_a rate_a)·decay·w_j;   w_j ← w_j + m_j·c_j
 * in f32, each product and each sum rounded, in this order: the same bits on every instruction set, for any tile and any thread. */
#ifndef LC_NOISE_H
#define LC_NOISE_H
#include "nn/nn.h"

struct lc_kernels;

typedef enum { LC_NOISE_ALL, LC_NOISE_SMALL, LC_NOISE_RANDOM, LC_NOISE_LARGE } lc_noise_mask;
#define LC_NOISE_MASKS "all|small|random|large"
typedef struct {
  int64_t seed;
  double sparsity, decay; /* sparsity: share of each tensor that stays; 0 with ALL */
  int mask;
} lc_noise_opts;
/* One direction of one step, as the file has it; steps ascend, directions of a step follow one another. check: CRC-32 of the 12 bytes
 * before it, going on from the record before (the first: from the options). */
typedef struct {
  uint32_t step;
  float slope, rate;
  uint32_t check;
} lc_noise_step;
typedef struct lc_noise_log {
  lc_ctx *ctx;
  lc_noise_opts o;
  lc_noise_step *at;
  int64_t n, room;
  int owners; /* deltas and whoever made it */
} lc_noise_log;
lc_status lc_noise_log_new(lc_ctx *, const lc_noise_opts *, int64_t room, lc_noise_log **);
void lc_noise_log_drop(lc_noise_log *); /* an owner less; the last frees it. NULL is fine */
lc_status lc_noise_log_add(lc_noise_log *, uint32_t step, float slope, float rate);
/* Recomputes all checks. A record that does not agree is an error that names its place. */
lc_status lc_noise_log_verify(const lc_noise_log *);

typedef struct {
  lc_rng z, u;     /* z.step and z.draw are set here */
  float low, high; /* of |w|; low > high: nothing moves */
  float keep;      /* RANDOM: 1 − sparsity; else 0 */
} lc_noise_band;
/* n values from flat index `first` on: w += e·m⊙z of one direction; and records [from, to) of a log, which begin and end with a step. */
void lc_noise_add(const struct lc_kernels *, const lc_noise_band *, uint32_t step, uint16_t draw, float e,
                  int64_t first, int64_t n, float *w);
void lc_noise_follow(const struct lc_kernels *, const lc_noise_band *, const lc_noise_log *, int64_t from,
                     int64_t to, int64_t first, int64_t n, float *w);

/* delta_noise.c: θ − θ₀, where θ is θ₀ (the weight's base) after all steps of the log. Holds the log with others. The band comes from the
 * base: with k = round((1 − sparsity)·MN), SMALL: |w| up to the k-th smallest, LARGE: from the k-th largest on; k = MN: everything. A patch
 * replays the log for its tile, exactly: where the tile has the base's own value, it becomes θ. */
lc_status lc_delta_noise_new(lc_ctx *, lc_weight *, lc_noise_log *, lc_delta **);
const lc_noise_log *lc_delta_noise_log(const lc_delta *);
const lc_noise_band *lc_delta_noise_band(const lc_delta *);
/* Training. open: the weight gets a private f32 copy with all steps so far. view: until `hide`, the weight is seen as itself plus
 * e·m⊙z of a direction, tile by tile, and is not written. move: the copy follows the log's records from `from` on. close: the copy holds
 * the delta in place. */
lc_status lc_delta_noise_open(lc_ctx *, lc_delta *);
void lc_delta_noise_view(lc_delta *, uint32_t step, uint16_t draw, float e);
void lc_delta_noise_hide(lc_delta *);
lc_status lc_delta_noise_move(lc_ctx *, lc_delta *, int64_t from);
void lc_delta_noise_close(lc_delta *);
/* A promise that the copy has the base and all steps of this delta and nothing else: patches read it instead of replaying. */
void lc_delta_noise_held(lc_delta *, bool);
lc_status lc_delta_noise_active(lc_ctx *, const lc_delta *,
                                int64_t *n); /* values of the weight as it is that a step would move */
extern const lc_delta_ops lc_delta_noise;
#endif
