/* GreBsmo: spikes over a low rank are found, U is orthonormal, the residual falls, counts are exact. Pools: shares over
 * the pool and scores of every mode against brute force. */
#include "nn/prune.h"
#include "nn/select.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static lc_ctx *ctx;
static int setup(void **state) {
  return lc_ctx_new(2, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}
static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

/* A dense f32 weight over values of the test's own. */
typedef struct {
  lc_weight w;
  float *W;
} dense;
static dense make(const char *name, int64_t M, int64_t N) {
  dense d = {.W = calloc((size_t)(M * N), sizeof(float)),
             .w = {.name = name,
                   .module = name,
                   .id = lc_fnv1a32(name),
                   .kind = LC_KIND_LINEAR,
                   .M = M,
                   .N = N,
                   .ndim = 2}};
  const lc_tensor t = {d.W, LC_F32, 2, {M, N}};
  ok(lc_form_view(ctx, &t, false, NULL, &d.w.base));
  d.w.form = d.w.base;
  return d;
}
static void drop(dense *d) {
  while (d->w.n_delta) lc_weight_detach(ctx, &d->w, d->w.delta[0], true);
  lc_form_free(ctx, d->w.base);
  free(d->W);
}

static const lc_grebsmo_opts plain = {
    .outer = 100, .inner = 2, .step = 5, .threshold = 0.01, .rng = {.seed = 1, .purpose = LC_RNG_MASK}};

static void test_spikes(void **state) {
  enum { D = 512, SPIKES = 50 };
  dense d = make("w.weight", D, D);
  int64_t at[SPIKES];
  float *a = malloc(D * 5 * sizeof *a), *b = malloc(D * 5 * sizeof *b);
  const lc_rng rng = {.seed = 7, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, D * 5, a);
  lc_rng_normal_fill(&rng, 1 << 20, D * 5, b);
  lc_rng_normal_fill(&rng, 1 << 22, D * D, d.W);
  for (int64_t i = 0; i < D * D; i++) {
    d.W[i] *= 1e-3f;
    for (int r = 0; r < 5; r++) d.W[i] += a[i / D * 5 + r] * b[i % D * 5 + r];
  }
  ok(lc_rng_choose(ctx, &rng, D * D, SPIKES, at));
  for (int k = 0; k < SPIKES; k++) d.W[at[k]] += k % 2 ? 1.0f : -1.0f;

  lc_grebsmo g;
  ok(lc_grebsmo_new(ctx, d.W, D, D, &plain, &g));
  assert_int_equal(g.rank, 256); /* 1 + 5·51: min(M,N)/2 is where it stops */
  assert_int_equal(g.rounds, 52);
  for (int64_t i = 10; i < g.rounds;
       i++) /* once the rank is above the low rank's (1 + 5·2) and has settled */
    if (!(g.residual[i] < g.residual[i - 1]))
      fail_msg("round %d: %g after %g", (int)i, g.residual[i], g.residual[i - 1]);
  assert_true(g.residual[g.rounds - 1] < 0.4 * g.residual[9]);
  for (int64_t p = 0; p < g.rank; p += 17)
    for (int64_t q = 0; q < g.rank; q++) {
      double sum = 0;
      for (int64_t i = 0; i < D; i++) sum += (double)g.U[i * g.rank + p] * (double)g.U[i * g.rank + q];
      assert_true(fabs(sum - (p == q)) < 1e-5);
    }
  lc_grebsmo_free(ctx, &g);

  /* Found while the rank is near the low rank's; at 256 the low rank has taken the spikes in, and S is empty. */
  lc_index omega[2];
  lc_grebsmo_opts few = plain;
  int64_t filled;
  few.outer = 3;
  for (int again = 0; again < 2; again++)
    ok(lc_select_grebsmo(ctx, &d.w, &few, SPIKES, &filled, &omega[again]));
  assert_memory_equal(omega[0].at, omega[1].at, SPIKES * sizeof(int32_t));
  int found = 0;
  for (int k = 0; k < SPIKES; k++) found += lc_index_has(&omega[0], at[k]);
  if (found < 48) fail_msg("%d of %d spikes", found, SPIKES);
  lc_index_free_all(ctx, omega, 2);
  free(a);
  free(b);
  drop(&d);
}

/* Exactly K, filled up by |W|; all of them; none is refused. */
static void test_counts(void **state) {
  dense d = make("w.weight", 24, 20);
  const lc_rng rng = {.seed = 3, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, 480, d.W);
  for (int i = 0; i < 480; i++) d.W[i] *= 0.004f; /* nothing above the threshold but a few */
  for (int i = 0; i < 6; i++) d.W[71 * i + 5] = 0.3f;
  static const int64_t counts[] = {1, 6, 40, 480};
  for (int i = 0; i < 4; i++) {
    lc_index x;
    int64_t filled;
    ok(lc_select_grebsmo(ctx, &d.w, &plain, counts[i], &filled, &x));
    assert_int_equal(x.n, counts[i]);
    if (i == 3) assert_true(filled > 0);
    lc_index_free(ctx, &x);
  }
  lc_index x;
  int64_t filled;
  assert_int_equal(lc_select_grebsmo(ctx, &d.w, &plain, 0, &filled, &x), LC_FAILED);
  assert_int_equal(lc_select_grebsmo(ctx, &d.w, &plain, 481, &filled, &x), LC_FAILED);
  lc_error_clear(ctx);
  drop(&d);
}

/* ---- pools ---- */

enum { POOL = 3, R = 2 };
static const float factor = 1.7f;

/* T by hand; |·| apart when `rows`. */
static double value(const dense *d, int64_t k, int mode, bool rows) {
  const bool base = mode == LC_PRUNE_W || mode == LC_PRUNE_WAB || mode == LC_PRUNE_WABS,
             low = mode != LC_PRUNE_W,
             entries = mode == LC_PRUNE_ABS || mode == LC_PRUNE_WABS || mode == LC_PRUNE_NABS;
  const lc_param *A = d->w.delta[0]->param[0], *B = d->w.delta[0]->param[1], *S = d->w.delta[1]->param[0];
  double t = 0;
  for (int r = 0; r < R && low; r++)
    t += 3 * (double)B->value[k / d->w.N * R + r] * (double)A->value[r * d->w.N + k % d->w.N];
  for (int64_t i = 0; i < S->n && entries; i++)
    if (lc_index_at(&S->idx, i) == k) t += (double)factor * (double)S->value[i];
  const double W = base ? (double)d->W[k] : 0;
  return rows ? fabs(W) + fabs(t) : fabs(W + t);
}

typedef struct {
  double score;
  int64_t at;
} scored;
static int rising(const void *a, const void *b) {
  const scored *x = a, *y = b;
  return x->score != y->score ? x->score < y->score ? -1 : 1 : x->at < y->at ? -1 : x->at > y->at;
}

static void test_pools(void **state) {
  static const int64_t sizes[POOL][2] = {{30, 17}, {64, 9}, {5, 40}};
  dense d[POOL];
  lc_weight *w[POOL];
  int64_t all = 0;
  for (int l = 0; l < POOL; l++) {
    const int64_t M = sizes[l][0], N = sizes[l][1];
    const lc_rng rng = {.seed = 20 + (uint64_t)l, .purpose = LC_RNG_TEST};
    const lc_lora_opts o = {.rank = R, .alpha = 3 * R, .seed = 2};
    float B[64 * R], v[25];
    int64_t flat[25];
    lc_index idx;
    lc_delta *delta;
    d[l] = make(l == 0 ? "a.weight" : l == 1 ? "b.weight" : "c.weight", M, N);
    w[l] = &d[l].w;
    lc_rng_normal_fill(&rng, 0, M * N, d[l].W);
    lc_rng_normal_fill(&rng, 10000, M * R, B);
    lc_rng_normal_fill(&rng, 20000, 25, v);
    ok(lc_rng_choose(ctx, &rng, M * N, 25, flat));
    ok(lc_delta_lora_new(ctx, w[l], &o, NULL, B, false, &delta));
    ok(lc_weight_attach(ctx, w[l], delta));
    ok(lc_index_new(ctx, M, N, flat, 25, &idx));
    ok(lc_delta_sparse_new(ctx, w[l], &idx, v, false, &delta));
    lc_delta_sparse_set_factor(delta, (double)factor);
    ok(lc_weight_attach(ctx, w[l], delta));
    all += M * N;
  }
  scored *order = malloc((size_t)all * sizeof *order);
  for (int mode = 0; mode <= LC_PRUNE_RANDOM; mode++) {
    lc_mask m[POOL];
    int64_t dropped, kept = 0, at = 0;
    for (int l = 0; l < POOL; l++) ok(lc_mask_new(ctx, w[l]->M, w[l]->N, &m[l]));
    ok(lc_prune_pool(ctx, w, POOL, (lc_prune_mode)mode, 0.3, 5, m, &dropped));
    assert_int_equal(dropped, 386); /* 0.3 · 1,286 = 385.8 of the pool */
    for (int l = 0; l < POOL; l++) kept += m[l].kept;
    assert_int_equal(kept, all - dropped);
    if (mode == LC_PRUNE_RANDOM) {
      for (int l = 0; l < POOL; l++) assert_true(m[l].kept < w[l]->M * w[l]->N);
    } else {
      for (int l = 0; l < POOL; l++)
        for (int64_t k = 0; k < w[l]->M * w[l]->N; k++, at++) {
          const double t = value(&d[l], k, mode, false);
          order[at] = (scored){mode == LC_PRUNE_NAB || mode == LC_PRUNE_NABS ? -t : t, at};
        }
      qsort(order, (size_t)all, sizeof *order, rising);
      int wrong = 0;
      for (int64_t i = 0; i < dropped; i++) {
        int64_t k = order[i].at;
        int l = 0;
        while (k >= w[l]->M * w[l]->N) k -= w[l]->M * w[l]->N, l++;
        wrong += lc_mask_has(&m[l], k);
      }
      if (wrong > 1) fail_msg("mode %d: %d", mode, wrong);
    }
    if (mode < LC_PRUNE_NAB) {
      double sum[64], want;
      ok(lc_prune_row_sums(ctx, w[1], (lc_prune_mode)mode, sum));
      for (int64_t r = 0; r < 64; r++) {
        want = 0;
        for (int64_t c = 0; c < w[1]->N; c++) want += value(&d[1], r * w[1]->N + c, mode, true);
        assert_true(fabs(want - sum[r]) < 1e-4 * (1 + want));
      }
    }
    ok(lc_prune_pool(ctx, w, POOL, (lc_prune_mode)mode, 0, 5, m, &dropped));
    assert_int_equal(dropped, 0);
    for (int l = 0; l < POOL; l++) kept -= m[l].kept;
    assert_int_equal(kept, 0);
    for (int l = 0; l < POOL; l++) lc_mask_free(ctx, &m[l]);
  }
  free(order);
  for (int l = 0; l < POOL; l++) drop(&d[l]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_spikes), cmocka_unit_test(test_counts),
                                     cmocka_unit_test(test_pools)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
