/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). A number is a function of (seed, step,
 * tensor, draw, purpose, element) and of nothing else: no state, no order, no thread, no instruction set.
 *
 * A normal pair (elements 2i, 2i+1) comes from the pair's two words a, b by Box and Muller in f64. Only
 * + − × ÷ √, each rounded once, in the order below, so that every machine gets the same bits; libm's log, sin
 * and cos differ between versions and are not used.
 *
 *   u = (a + ½)/2³²,  v = b/2³²
 *
 *   u = m·2ᵉ with √½ <= m < √2;  s = (m − 1)/(m + 1),  q = s·s
 *   S = Σ qʲ/(2j + 1), j = 0…11, by Horner from j = 11;  ln u = e·ln 2 + 2·s·S
 *
 *   t = ⌊4v + ½⌋,  α = (4v − t)·π/2,  q = α·α
 *   sin α = α·(1 + P),  P = 0, then P ← (P + c)·q with c = ±1/k! for k = 17, 15, …, 3 (+1/17!, −1/15!, … −1/3!)
 *   cos α = 1 + P,      the same for k = 18, 16, …, 2 (−1/18! … −1/2!);  t mod 4 quarter turns give sin and cos of 2πv
 *
 *   r = √(−2·ln u);  element 2i is r·cos 2πv, 2i+1 is r·sin 2πv, each rounded to f32. */
#include "core/core.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENTS ((int64_t)1 << 42) /* numbers of one key: 40 bits of element÷4 in the counter */

void lc_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static void block(const lc_rng *r, uint64_t quad, uint32_t out[4]) {
  assert(quad < ELEMENTS / 4);
  uint32_t key[2] = {(uint32_t)r->seed, (uint32_t)(r->seed >> 32)};
  uint32_t counter[4] = {(uint32_t)quad, r->step, r->tensor,
                         (uint32_t)r->purpose << 24 | (uint32_t)r->draw << 8 | (uint32_t)(quad >> 32 & 0xff)};
  lc_philox4x32(key, counter, out);
}

uint32_t lc_rng_u32(const lc_rng *r, uint64_t element) {
  uint32_t w[4];
  block(r, element / 4, w);
  return w[element % 4];
}

static float unit(uint32_t w) {
  return (float)(w >> 8) * 0x1p-24f;
}
float lc_rng_uniform(const lc_rng *r, uint64_t element) {
  return unit(lc_rng_u32(r, element));
}

/* ln x = e·ln 2 + 2·atanh((m−1)/(m+1)), m in [√½, √2) */
static double log_fixed(double x) {
  int e;
  double m = frexp(x, &e);
  if (m < 0.70710678118654752440) m *= 2, e--;
  double s = (m - 1) / (m + 1), q = s * s, sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * q + 1.0 / k;
  return (double)e * 0.69314718055994530942 + 2 * s * sum;
}

const double lc_sine[LC_SINE_TERMS] = {
    -1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
    -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
const double lc_cosine[LC_COSINE_TERMS] = {-1.0 / 2,
                                           1.0 / 24,
                                           -1.0 / 720,
                                           1.0 / 40320,
                                           -1.0 / 3628800,
                                           1.0 / 479001600,
                                           -1.0 / 87178291200,
                                           1.0 / 20922789888000,
                                           -1.0 / 6402373705728000};

/* sin and cos of 2πv, v in [0,1): a quarter turn and a remainder within ±π/4 */
static void turn(double v, double *s, double *c) {
  double quarter = floor(4 * v + 0.5), a = (4 * v - quarter) * 1.57079632679489661923, q = a * a;
  double sn = 0, cs = 0;
  for (int k = LC_SINE_TERMS - 1; k >= 0; k--) sn = (sn + lc_sine[k]) * q;
  for (int k = LC_COSINE_TERMS - 1; k >= 0; k--) cs = (cs + lc_cosine[k]) * q;
  sn = a * (1 + sn);
  cs = 1 + cs;
  switch ((int)quarter & 3) {
  case 0:
    *s = sn, *c = cs;
    break;
  case 1:
    *s = cs, *c = -sn;
    break;
  case 2:
    *s = -sn, *c = -cs;
    break;
  default:
    *s = -cs, *c = sn;
    break;
  }
}

static void normal_pair(uint32_t a, uint32_t b, float out[2]) {
  double u = ((double)a + 0.5) * 0x1p-32, s, c, radius = sqrt(-2 * log_fixed(u));
  turn((double)b * 0x1p-32, &s, &c);
  out[0] = (float)(radius * c);
  out[1] = (float)(radius * s);
}

float lc_rng_normal(const lc_rng *r, uint64_t element) {
  uint32_t w[4];
  float pair[2];
  block(r, element / 4, w);
  const uint32_t *p = w + (element % 4 / 2) * 2;
  normal_pair(p[0], p[1], pair);
  return pair[element % 2];
}

void lc_rng_uniform_fill(const lc_rng *r, uint64_t first, int64_t n, float *dst) {
  uint32_t w[4];
  uint64_t have = UINT64_MAX;
  for (int64_t i = 0; i < n; i++) {
    uint64_t e = first + (uint64_t)i;
    if (e / 4 != have) block(r, have = e / 4, w);
    dst[i] = unit(w[e % 4]);
  }
}

void lc_rng_normal_fill(const lc_rng *r, uint64_t first, int64_t n, float *dst) {
  uint32_t w[4];
  float x[4];
  uint64_t have = UINT64_MAX;
  for (int64_t i = 0; i < n; i++) {
    uint64_t e = first + (uint64_t)i;
    if (e / 4 != have) {
      block(r, have = e / 4, w);
      normal_pair(w[0], w[1], x);
      normal_pair(w[2], w[3], x + 2);
    }
    dst[i] = x[e % 4];
  }
}

/* Rejection over draws: 64-bit words of consecutive draws until one falls below the largest multiple of n. */
uint64_t lc_rng_below(const lc_rng *r, uint64_t element, uint64_t n) {
  if (n < 2) return 0;
  uint64_t limit = UINT64_MAX - (UINT64_MAX % n + 1) % n;
  lc_rng again = *r;
  for (;; again.draw++) {
    uint64_t w = (uint64_t)lc_rng_u32(&again, 2 * element) << 32 | lc_rng_u32(&again, 2 * element + 1);
    if (w <= limit) return w % n;
  }
}

uint32_t lc_fnv1a32(const char *name) {
  uint32_t h = 2166136261u;
  for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
  return h;
}

void lc_rng_permutation(const lc_rng *r, int64_t n, int64_t *out) {
  for (int64_t i = 0; i < n; i++) out[i] = i;
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t j = (int64_t)lc_rng_below(r, (uint64_t)i, (uint64_t)i + 1), t = out[i];
    out[i] = out[j];
    out[j] = t;
  }
}

/* n of [0,total) by Floyd's algorithm (Bentley & Floyd 1987): for j = total−n … total−1 take a number below
 * j+1 (element j−total+n), or j itself when it is taken already. The set is kept as bits, or, when those
 * would be the larger, in a hash table: the same numbers either way. */

static lc_status choose_by_bits(lc_ctx *ctx, const lc_rng *r, int64_t total, int64_t n, int64_t *out) {
  uint64_t *taken = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(total / 64 + 1), sizeof *taken);
  if (!taken) return LC_FAILED;
  for (int64_t j = total - n; j < total; j++) {
    uint64_t x = lc_rng_below(r, (uint64_t)(j - total + n), (uint64_t)j + 1);
    if (taken[x / 64] >> x % 64 & 1) x = (uint64_t)j;
    taken[x / 64] |= (uint64_t)1 << x % 64;
  }
  for (int64_t word = 0, i = 0; i < n; word++)
    for (uint64_t bits = taken[word]; bits; bits &= bits - 1) out[i++] = word * 64 + __builtin_ctzll(bits);
  lc_free(ctx, taken);
  return LC_OK;
}

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

/* False when x is there already; -1 marks a free place. */
static bool insert(int64_t *set, size_t mask, int64_t x) {
  size_t h = (size_t)((uint64_t)x * 0x9E3779B97F4A7C15ull >> 20) & mask;
  while (set[h] >= 0) {
    if (set[h] == x) return false;
    h = (h + 1) & mask;
  }
  set[h] = x;
  return true;
}

static lc_status choose_by_hash(lc_ctx *ctx, const lc_rng *r, int64_t total, int64_t n, size_t room,
                                int64_t *out) {
  int64_t *set = lc_alloc_n(ctx, LC_MEM_OTHER, room, sizeof *set);
  if (!set) return LC_FAILED;
  memset(set, 0xff, room * sizeof *set);
  for (int64_t i = 0, j = total - n; j < total; i++, j++) {
    int64_t x = (int64_t)lc_rng_below(r, (uint64_t)i, (uint64_t)j + 1);
    if (!insert(set, room - 1, x)) insert(set, room - 1, x = j);
    out[i] = x;
  }
  lc_free(ctx, set);
  qsort(out, (size_t)n, sizeof *out, ascending);
  return LC_OK;
}

lc_status lc_rng_choose(lc_ctx *ctx, const lc_rng *r, int64_t total, int64_t n, int64_t *out) {
  if (n < 0 || n > total || n > ELEMENTS / 2)
    return lc_fail(ctx, "%lld distinct positions cannot be chosen from %lld", (long long)n, (long long)total);
  size_t room = 16;
  while (room < 2 * (size_t)n) room *= 2;
  return total / 64 <= (int64_t)room ? choose_by_bits(ctx, r, total, n, out)
                                     : choose_by_hash(ctx, r, total, n, room, out);
}
