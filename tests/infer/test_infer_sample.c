/* Samplers against a plain one that sorts, with ties, at many settings; drawn frequencies against
 * probabilities. */
#include "infer/infer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { V = 97 };
typedef struct {
  int id;
  double l;
} candidate;

static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return x->l != y->l ? (x->l > y->l ? -1 : 1) : x->id - y->id;
}

/* The kept tokens' probabilities, by sorting. */
static void reference(const lc_sample_opts *o, const float *logits, const int32_t *history, int n_history,
                      double p[V]) {
  candidate c[V];
  int n = V, window = o->repeat_last_n < 0 ? n_history : (int)lc_min64(o->repeat_last_n, n_history);
  for (int i = 0; i < V; i++) {
    bool seen = false;
    for (int h = n_history - window; h < n_history; h++) seen |= history[h] == i;
    float l = logits[i];
    if (seen && o->repeat_penalty != 1)
      l = l <= 0 ? l * (float)o->repeat_penalty : l / (float)o->repeat_penalty;
    c[i] = (candidate){i, l};
    p[i] = 0;
  }
  qsort(c, V, sizeof *c, by_logit);
  if (o->temp <= 0) {
    p[c[0].id] = 1;
    return;
  }
  if (o->top_k > 0 && o->top_k < n) n = (int)o->top_k;
  if (o->top_p < 1) {
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) total += exp(c[i].l - c[0].l);
    for (int i = 0; i < n; i++)
      if ((sum += exp(c[i].l - c[0].l)) >= o->top_p * total) n = i + 1;
  }
  if (o->min_p > 0)
    for (int i = 1; i < n; i++)
      if ((float)c[i].l < (float)c[0].l + logf((float)o->min_p)) n = i;
  double total = 0;
  for (int i = 0; i < n; i++) total += exp((c[i].l - c[0].l) / o->temp);
  for (int i = 0; i < n; i++) p[c[i].id] = exp((c[i].l - c[0].l) / o->temp) / total;
}

static void make_logits(int seed, bool ties, float *l) {
  lc_rng r = {.seed = (uint64_t)seed, .purpose = LC_RNG_TEST};
  for (int i = 0; i < V; i++) {
    l[i] = 3 * lc_rng_normal(&r, (uint64_t)i);
    if (ties) l[i] = roundf(l[i]);
  }
}

static void test_against_sorting(void **state) {
  static const double temps[] = {0, 0.5, 1, 1.7}, top_ps[] = {1, 0.9, 0.35, 0}, min_ps[] = {0, 0.05, 0.4},
                      penalties[] = {1, 1.3, 0.8};
  static const int64_t top_ks[] = {0, 1, 5, 40, 200}, windows[] = {64, 3, -1, 0};
  static const int32_t history[] = {5, 9, 9, 96, 0, 11, 5, 30};
  int cases = 0;
  for (int seed = 0; seed < 720; seed++, cases++) {
    lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
    o.seed = (uint64_t)seed * 77;
    o.temp = temps[seed % 4];
    o.top_p = top_ps[seed / 4 % 4];
    o.top_k = top_ks[seed % 5];
    o.min_p = min_ps[seed % 3];
    o.repeat_penalty = penalties[seed / 3 % 3];
    o.repeat_last_n = windows[seed / 2 % 4];
    float l[V], work[V];
    double p[V];
    make_logits(seed, seed % 2, l);
    reference(&o, l, history, 8, p);
    for (uint64_t draw = 0; draw < 12; draw++) {
      memcpy(work, l, sizeof l);
      int32_t id = lc_sample(&o, work, V, history, 8, draw);
      assert_in_range(id, 0, V - 1);
      if (!(p[id] > 0)) fail_msg("seed %d, draw %d: token %d was cut", seed, (int)draw, id);
      int kept = 0, expected = 0; /* the very same set is left */
      for (int i = 0; i < V && o.temp > 0; i++) {
        kept += work[i] > -INFINITY;
        expected += p[i] > 0;
        assert_true((work[i] > -INFINITY) == (p[i] > 0));
      }
      assert_int_equal(kept, expected);
      float again[V];
      memcpy(again, l, sizeof l);
      assert_int_equal(lc_sample(&o, again, V, history, 8, draw), id);
    }
  }
  assert_int_equal(cases, 720);
}

/* 20,000 draws: every token's frequency within 5 standard deviations of its probability. */
static void test_frequencies(void **state) {
  enum { N = 20000 };
  for (int seed = 1; seed < 4; seed++) {
    lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
    o.seed = (uint64_t)seed;
    o.temp = 0.5 * seed;
    o.top_k = 20;
    float l[V], work[V];
    double p[V];
    int count[V] = {0};
    make_logits(seed, false, l);
    reference(&o, l, NULL, 0, p);
    for (uint64_t d = 0; d < N; d++) {
      memcpy(work, l, sizeof l);
      count[lc_sample(&o, work, V, NULL, 0, d)]++;
    }
    for (int i = 0; i < V; i++) {
      double sd = sqrt(N * p[i] * (1 - p[i])) + 1e-9;
      if (fabs(count[i] - N * p[i]) > 5 * sd + 1)
        fail_msg("seed %d: token %d came %d times, %.1f expected", seed, i, count[i], N * p[i]);
    }
  }
}

static void test_odd_logits(void **state) {
  lc_sample_opts o = LC_SAMPLE_OPTS_INIT;
  float l[4] = {-INFINITY, 2, NAN, 2};
  o.temp = 0;
  assert_int_equal(lc_sample(&o, l, 4, NULL, 0, 0), 1); /* ties to the lower id; NaN never */
  o.temp = 1;
  for (uint64_t d = 0; d < 50; d++) {
    float w[4] = {-INFINITY, 2, NAN, 2};
    int32_t id = lc_sample(&o, w, 4, NULL, 0, d);
    assert_true(id == 1 || id == 3);
  }
  int different = 0; /* seeds and draws matter */
  for (uint64_t d = 0; d < 200; d++) {
    float a[V] = {0}, b[V] = {0};
    lc_sample_opts flat = {.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = 1}, other = flat;
    other.seed = 2;
    different += lc_sample(&flat, a, V, NULL, 0, d) != lc_sample(&other, b, V, NULL, 0, d);
  }
  assert_true(different > 150);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_sorting),
                                     cmocka_unit_test(test_frequencies), cmocka_unit_test(test_odd_logits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
