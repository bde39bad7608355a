/* Chooses a token. The samplers run in llama.cpp's order: repeat penalty, top-k, top-p, min-p, temperature,
 * draw; each sees what the one before left, and what is cut becomes -inf. So top-p and min-p look at
 * probabilities before the temperature.
 *
 * Nothing is sorted and nothing is allocated: the k-th largest logit, or the one at which the largest reach
 * the mass p, is found by its 32 bits, eight at a time from the top, by a histogram of counts and masses.
 * Equal logits rank by id, lower first. */
#include "infer/infer.h"
#include <math.h>
#include <string.h>

/* Bits that order as the floats do; NaN lowest. */
static uint32_t key_of(float f) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  if (f != f) return 0;
  return v.u & 0x80000000u ? ~v.u : v.u | 0x80000000u;
}

/* The first of the largest; NaN counts only where nothing else is. Lanes first: this runs once a token while the other threads wait. */
static float largest(const float *l, int64_t V, int64_t *id) {
  enum { AT_ONCE = 16 };
  float lane[AT_ONCE], most = -INFINITY;
  int64_t i = 0;
  for (int j = 0; j < AT_ONCE; j++) lane[j] = -INFINITY;
  for (; i + AT_ONCE <= V; i += AT_ONCE)
    for (int j = 0; j < AT_ONCE; j++) lane[j] = l[i + j] > lane[j] ? l[i + j] : lane[j];
  for (int j = 0; j < AT_ONCE; j++) most = lane[j] > most ? lane[j] : most;
  for (; i < V; i++) most = l[i] > most ? l[i] : most;
  for (*id = 0; *id < V - 1 && l[*id] != most; ++*id) {
  }
  return l[*id];
}

typedef struct {
  int64_t count;
  double mass;
} bin;

/* Keeps the largest logits until `count` of them are kept (mass < 0), or until their share of exp(l - max)
 * reaches `mass`. */
static void cut(float *l, int64_t V, int64_t count, double mass, float max) {
  bool by_mass = mass >= 0;
  int64_t above = 0; /* kept for sure: key greater than `prefix` so far */
  double above_mass = 0, goal = 0;
  uint32_t prefix = 0;
  bin b[256];
  for (int shift = 24; shift >= 0; shift -= 8) {
    memset(b, 0, sizeof b);
    double total = 0;
    for (int64_t i = 0; i < V; i++) {
      uint32_t key = key_of(l[i]);
      if (l[i] == -INFINITY || (shift < 24 && key >> (shift + 8) != prefix)) continue;
      bin *at = &b[key >> shift & 255];
      at->count++;
      if (by_mass) {
        double e = exp((double)l[i] - (double)max);
        at->mass += e;
        total += e;
      }
    }
    if (shift == 24) goal = mass * total;
    int j = 255, lowest = -1;
    for (; j >= 0; j--) {
      if (!b[j].count) continue;
      lowest = j;
      if (by_mass ? above_mass + b[j].mass >= goal : above + b[j].count >= count) break;
      above += b[j].count;
      above_mass += b[j].mass;
    }
    if (j < 0) { /* rounding left the goal just out of reach, or fewer are there than asked for: the lowest is
                    the last */
      if (lowest < 0) return;
      above -= b[lowest].count;
      above_mass -= b[lowest].mass;
      j = lowest;
    }
    prefix = prefix << 8 | (uint32_t)j;
  }
  double one = 0;
  for (int64_t i = 0; i < V && by_mass; i++)
    if (key_of(l[i]) == prefix) {
      one = exp((double)l[i] - (double)max);
      break;
    }
  int64_t ties = count - above; /* how many of those equal to the last are kept */
  if (by_mass) ties = one > 0 ? (int64_t)fmin(ceil((goal - above_mass) / one), 9e18) : INT64_MAX;
  if (ties < 1) ties = above ? 0 : 1;
  for (int64_t i = 0; i < V; i++) {
    uint32_t key = key_of(l[i]);
    if (key < prefix || (key == prefix && ties-- <= 0)) l[i] = -INFINITY;
  }
}

/* Each token of the history once: ids are marked in pieces of the vocabulary. */
static void penalise(float *l, int64_t V, const int32_t *history, int64_t n, float penalty) {
  enum { PIECE = 1 << 16 };
  uint64_t seen[PIECE / 64];
  for (int64_t base = 0; base < V; base += PIECE) {
    memset(seen, 0, sizeof seen);
    for (int64_t i = 0; i < n; i++) {
      int64_t at = history[i] - base;
      if (at < 0 || at >= PIECE || history[i] >= V || seen[at / 64] >> (at % 64) & 1) continue;
      seen[at / 64] |= (uint64_t)1 << (at % 64);
      float *x = &l[history[i]];
      *x = *x <= 0 ? *x * penalty : *x / penalty;
    }
  }
}

static int32_t draw_token(const float *l, int64_t V, float max, double temp, double u) {
  double total = 0, sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < V; i++)
    if (l[i] > -INFINITY) total += exp(((double)l[i] - (double)max) / temp);
  for (int64_t i = 0; i < V; i++) {
    if (!(l[i] > -INFINITY)) continue;
    last = i;
    sum += exp(((double)l[i] - (double)max) / temp);
    if (sum > u * total) break;
  }
  return (int32_t)last;
}

int32_t lc_sample(const lc_sample_opts *o, float *logits, int64_t V, const int32_t *history,
                  int64_t n_history, uint64_t draw) {
  int64_t best, window = o->repeat_last_n < 0 ? n_history : lc_min64(o->repeat_last_n, n_history);
  if (o->repeat_penalty != 1 && o->repeat_penalty > 0)
    penalise(logits, V, history + n_history - window, window, (float)o->repeat_penalty);
  float max = largest(logits, V, &best);
  if (o->temp <= 0 || !(max > -INFINITY)) return (int32_t)best;
  if (o->top_k > 0 && o->top_k < V) cut(logits, V, o->top_k, -1, max);
  if (o->top_p < 1) cut(logits, V, 0, fmax(o->top_p, 0), max);
  if (o->min_p > 0) {
    float least = max + logf((float)o->min_p);
    for (int64_t i = 0; i < V; i++)
      if (!(logits[i] >= least) && i != best) logits[i] = -INFINITY;
  }
  lc_rng rng = {.seed = o->seed, .purpose = LC_RNG_SAMPLE};
  return draw_token(logits, V, max, o->temp, (double)lc_rng_uniform(&rng, draw));
}
