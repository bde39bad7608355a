/* Drop and grow against set operations done by brute force, over random states with many equal values:
 * positions sorted, distinct, inside and as many as before; what stays keeps value and state bit for bit;
 * what enters has value 0 and its seeds; what is in O and I stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "optim/regrow.h"

enum { M = 23, N = 31, MOST = 600 };
static int64_t K = 90; /* entries */
static lc_ctx *ctx;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

typedef struct {
  lc_weight w;
  float base[M * N];
  lc_param *p;
  lc_regrow *g;
  lc_regrow_scratch *s;
} fixture;

static float draw(uint64_t seed, uint64_t i) {
  const lc_rng rng = {.seed = seed, .purpose = LC_RNG_TEST};
  return roundf(lc_rng_normal(&rng, i) * 4) / 4;
}

static void open_fixture(fixture *f, uint64_t seed, bool ag) {
  int64_t flat[MOST];
  lc_index idx;
  const lc_rng rng = {.seed = seed, .purpose = LC_RNG_MASK};
  memset(f, 0, sizeof *f);
  f->w = (lc_weight){
      .name = "w", .module = "w", .id = 7, .kind = LC_KIND_LINEAR, .M = M, .N = N, .ndim = 2, .uses = 1};
  ok(lc_rng_choose(ctx, &rng, M * N, K, flat));
  ok(lc_index_new(ctx, M, N, flat, K, &idx));
  ok(lc_param_new(ctx, "w.delta", &f->w, &idx, M, N, true, &f->p));
  if (ag) ok(lc_param_column(ctx, f->p, "age", LC_AXIS_ENTRY, 0, NULL));
  ok(lc_optim_find(ag ? "adamw" : "sm3")->prepare(ctx, f->p, &(lc_hyper){.momentum = 0.5}));
  ok(lc_regrow_new(ctx, f->p, ag, &f->g));
  ok(lc_regrow_scratch_new(ctx, &f->g, 1, &f->s));
  for (int64_t k = 0; k < K; k++) f->p->value[k] = draw(seed, (uint64_t)k);
  for (int c = 0; c < f->p->n_col; c++)
    for (int64_t k = 0; k < f->p->col[c].n; k++)
      f->p->col[c].data[k] = fabsf(draw(seed, (uint64_t)(1000 * (c + 1) + k)));
}

static void close_fixture(fixture *f) {
  lc_regrow_scratch_free(ctx, f->s);
  lc_regrow_free(ctx, f->g);
  assert_int_equal(f->w.n_sink, 0);
  lc_param_free(ctx, f->p);
}

/* Random candidates; every third is an active position. */
static void candidates(fixture *f, uint64_t seed) {
  bool in[M * N] = {false};
  lc_pick pick[MOST];
  const lc_rng rng = {.seed = seed, .draw = 1, .purpose = LC_RNG_MASK};
  int64_t n = 0;
  for (uint64_t i = 0; n < K; i++) {
    const int64_t at = i % 3 ? (int64_t)lc_rng_below(&rng, i, M * N)
                             : lc_index_at(&f->p->idx, (int64_t)lc_rng_below(&rng, i, K));
    if (!in[at]) in[at] = true, n++;
  }
  n = 0;
  for (int64_t at = 0; at < M * N; at++)
    if (in[at]) pick[n++] = (lc_pick){.flat = at, .score = 1, .payload = draw(seed, (uint64_t)(90000 + at))};
  ok(lc_regrow_candidates(f->g, pick, n));
  lc_regrow_accumulate(f->g); /* first update: the payload */
  for (int64_t k = 0; k < K; k++) f->g->candidate->grad[k] = draw(seed, (uint64_t)(70000 + k));
  lc_regrow_accumulate(f->g);
  for (int64_t k = 0; k < K; k++) {
    const float a = pick[k].payload, b = draw(seed, (uint64_t)(70000 + k));
    assert_true(f->g->candidate->value[k] == a + b);
    assert_true(lc_param_find(f->g->candidate, "Q")[k] == a * a + b * b);
    assert_true(f->g->candidate->grad[k] == 0);
  }
}

/* ---- by brute force: the position with the best score among those allowed, ties to the lower ---- */

static int64_t best(const float *score, const bool *allowed) {
  int64_t b = -1;
  for (int64_t i = 0; i < M * N; i++)
    if (allowed[i] && (b < 0 || score[i] > score[b])) b = i;
  return b;
}

typedef struct {
  bool active[M * N];
  float value[M * N], col[LC_MAX_COLUMNS][M * N];
} state;

static void spread(const fixture *f, state *s) {
  memset(s, 0, sizeof *s);
  for (int64_t k = 0; k < K; k++) {
    const int64_t at = lc_index_at(&f->p->idx, k);
    assert_in_range(at, 0, M * N - 1);
    assert_true(!k || at > lc_index_at(&f->p->idx, k - 1));
    s->active[at] = true;
    s->value[at] = f->p->value[k];
    for (int c = 0; c < f->p->n_col; c++)
      if (f->p->col[c].axis == LC_AXIS_ENTRY) s->col[c][at] = f->p->col[c].data[k];
  }
}

/* The n active entries of smallest |value| among `of`. */
static void smallest(const state *s, const bool *of, int64_t n, bool *out) {
  float score[M * N];
  bool left[M * N];
  memset(out, 0, M * N * sizeof *out);
  for (int64_t i = 0; i < M * N; i++) score[i] = -fabsf(s->value[i]), left[i] = of[i];
  for (int64_t k = 0; k < n; k++) {
    const int64_t b = best(score, left);
    if (b < 0) return;
    out[b] = true;
    left[b] = false;
  }
}

static void check_swap(const fixture *f, const state *was, const bool *gone, const bool *came,
                       const lc_regrow_seed *seed) {
  state now;
  spread(f, &now);
  for (int64_t i = 0; i < M * N; i++) {
    assert_int_equal(now.active[i], (was->active[i] && !gone[i]) || came[i]);
    if (!now.active[i]) continue;
    if (!came[i]) {
      assert_memory_equal(&now.value[i], &was->value[i], 4);
      for (int c = 0; c < f->p->n_col; c++) assert_memory_equal(&now.col[c][i], &was->col[c][i], 4);
      continue;
    }
    assert_true(now.value[i] == 0);
    if (!seed) continue;
    const int64_t j = lc_index_lower(&f->g->candidate->idx, 0, i);
    for (int c = 0; c < f->p->n_col; c++) {
      const char *name = f->p->col[c].name;
      const double G = (double)f->g->candidate->value[j], Q = (double)lc_param_find(f->g->candidate, "Q")[j];
      const double want = !strcmp(name, "m")   ? G / seed->s * (1 - pow(seed->beta1, seed->a))
                          : !strcmp(name, "v") ? Q / seed->s * (1 - pow(seed->beta2, seed->a))
                                               : seed->age;
      assert_true(fabs((double)now.col[c][i] - want) <= 1e-6 * fabs(want));
    }
  }
}

static void test_by_gradient(void **state_) {
  int in_both = 0;
  for (uint64_t t = 0; t < 60; t++) {
    fixture f;
    state was;
    bool O[M * N], I[M * N] = {false}, allowed[M * N] = {false}, rest[M * N], gone[M * N], came[M * N];
    float score[M * N];
    const int64_t n = (int64_t)(t * 7 % (uint64_t)(K + 1));
    const lc_regrow_seed seed = {0.9, 0.99, 3, 3, 3};
    open_fixture(&f, t, true);
    candidates(&f, t);
    spread(&f, &was);
    smallest(&was, was.active, n, O);
    for (int64_t k = 0; k < K; k++) {
      const int64_t at = lc_index_at(&f.g->candidate->idx, k);
      allowed[at] = !was.active[at] || O[at];
      score[at] = fabsf(f.g->candidate->value[k]);
    }
    for (int64_t k = 0; k < n; k++) {
      const int64_t b = best(score, allowed);
      if (b < 0) break;
      I[b] = true;
      allowed[b] = false;
    }
    int64_t enter = 0, leave = 0;
    for (int64_t i = 0; i < M * N; i++) {
      in_both += O[i] && I[i];
      came[i] = I[i] && !O[i];
      rest[i] = O[i] && !I[i];
      enter += came[i];
      leave += rest[i];
    }
    assert_int_equal(leave,
                     enter); /* candidates are as many as entries, so there is one for each that may leave */
    smallest(&was, rest, enter, gone);
    int64_t swapped;
    const uint64_t before = lc_mem_allocations(ctx);
    ok(lc_regrow_by_gradient(ctx, f.g, f.s, n, &seed, &swapped));
    assert_true(lc_mem_allocations(ctx) == before);
    assert_int_equal(swapped, enter);
    check_swap(&f, &was, gone, came, &seed);
    close_fixture(&f);
  }
  assert_true(in_both > 50); /* the case did occur */
}

static void by_outer(int *truncated) {
  for (uint64_t t = 0; t < 40; t++) {
    fixture f;
    state was;
    bool allowed[M * N], gone[M * N], came[M * N] = {false};
    float score[M * N];
    const int64_t n = (int64_t)(t * 7 % (uint64_t)(K + 1)), enter = lc_min64(n, M * N - K);
    *truncated += enter < n;
    open_fixture(&f, t, false);
    spread(&f, &was);
    const float *r = lc_param_find(f.p, "acc_row"), *q = lc_param_find(f.p, "acc_col");
    for (int64_t i = 0; i < M * N; i++) allowed[i] = !was.active[i], score[i] = r[i / N] * q[i % N];
    for (int64_t k = 0; k < enter; k++) {
      const int64_t b = best(score, allowed);
      came[b] = true;
      allowed[b] = false;
    }
    smallest(&was, was.active, enter, gone);
    float rows[M], cols[N];
    memcpy(rows, r, sizeof rows);
    memcpy(cols, q, sizeof cols);
    int64_t swapped;
    ok(lc_regrow_by_outer(ctx, f.g, f.s, n, &swapped));
    assert_int_equal(swapped, enter);
    check_swap(&f, &was, gone, came, NULL);
    assert_memory_equal(rows, lc_param_find(f.p, "acc_row"), sizeof rows);
    assert_memory_equal(cols, lc_param_find(f.p, "acc_col"), sizeof cols);
    close_fixture(&f);
  }
}

static void test_by_outer(void **state_) {
  int truncated = 0;
  by_outer(&truncated);
  assert_int_equal(truncated, 0);
  K = 580; /* of 713: fewer positions are free than may leave */
  by_outer(&truncated);
  assert_true(truncated > 10);
  K = 90;
}

static void test_bytes(void **state_) {
  const size_t candidate = lc_mem_bytes(ctx, LC_MEM_CANDIDATE),
               trainable = lc_mem_bytes(ctx, LC_MEM_TRAINABLE), grad = lc_mem_bytes(ctx, LC_MEM_GRAD);
  fixture f;
  open_fixture(&f, 1, true);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_TRAINABLE) - trainable, 20 * K); /* position, δ, m, v, age */
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_CANDIDATE) - candidate, 12 * K); /* position, G, Q */
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_GRAD) - grad, 8 * K);
  close_fixture(&f);
  open_fixture(&f, 1, false);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_TRAINABLE) - trainable,
                   8 * K + 4 * (M + N) + 4 * K); /* and the momentum that this test asks for */
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_CANDIDATE) - candidate, 0);
  close_fixture(&f);
}

static int setup(void **state_) {
  char why[256];
  return lc_ctx_new(2, &ctx, why);
}

static int teardown(void **state_) {
  lc_ctx_free(ctx);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_gradient), cmocka_unit_test(test_by_outer),
                                     cmocka_unit_test(test_bytes)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
