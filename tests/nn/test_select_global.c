/* Selection over several weights at once against a full sort, and LIFT's rank-reduced magnitude against a
 * decomposition in double precision (items of LIFT's acceptance list by number). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/linalg.h"
#include "nn/select.h"

static lc_ctx *ctx;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static void refused(lc_status st, const char *says) {
  assert_int_equal(st, LC_FAILED);
  if (!strstr(lc_error(ctx), says)) fail_msg("says '%s', expected '%s'", lc_error(ctx), says);
  lc_error_clear(ctx);
}

static void threads(int n) {
  char why[256];
  if (ctx) lc_ctx_free(ctx);
  if (lc_ctx_new(n, &ctx, why)) fail_msg("%s", why);
}

/* A weight over `values`; `step` > 0: random, rounded to multiples of it (ties). */
static lc_weight weight(const char *name, int64_t M, int64_t N, float *values, float scale, float step) {
  const lc_rng rng = {.seed = 5, .tensor = lc_fnv1a32(name), .purpose = LC_RNG_TEST};
  lc_weight w = {.name = name, .module = name, .id = lc_fnv1a32(name), .M = M, .N = N, .ndim = 2};
  for (int64_t k = 0; k < M * N && scale > 0; k++) {
    values[k] = lc_rng_normal(&rng, (uint64_t)k) * scale;
    if (step > 0) values[k] = roundf(values[k] / step) * step;
  }
  const lc_tensor t = {values, LC_F32, 2, {M, N}};
  ok(lc_form_view(ctx, &t, false, NULL, &w.base));
  w.form = w.base;
  return w;
}

typedef struct {
  float score;
  int l;
  int64_t flat;
} entry;
static int sign; /* -1: smallest first */
static int best_first(const void *x, const void *y) {
  const entry *a = x, *b = y;
  if (a->score != b->score) return (a->score < b->score ? 1 : -1) * sign;
  if (a->l != b->l) return a->l - b->l;
  return a->flat < b->flat ? -1 : a->flat > b->flat;
}

enum { N_W = 3 };
static const int64_t shape[N_W][2] = {{130, 40}, {64, 65}, {1, 50}};
static float values[N_W][130 * 40];

static void open_weights(lc_weight *w, lc_weight **list) {
  static const char *const names[] = {"a", "b", "c"};
  static const float scale[] = {1, 10, 1}; /* the second stands out */
  for (int l = 0; l < N_W; l++) {
    w[l] = weight(names[l], shape[l][0], shape[l][1], values[l], scale[l], scale[l] / 4);
    list[l] = &w[l];
  }
}

static void against_sort(bool smallest, int64_t K, const lc_index *no) {
  lc_weight w[N_W], *list[N_W];
  lc_index out[N_W], again[N_W];
  entry *all = malloc(sizeof *all * 3 * 130 * 40);
  int64_t n = 0;
  open_weights(w, list);
  for (int l = 0; l < N_W; l++)
    for (int64_t k = 0; k < shape[l][0] * shape[l][1]; k++)
      if (!no || !no[l].n || !lc_index_has(&no[l], k)) all[n++] = (entry){fabsf(values[l][k]), l, k};
  sign = smallest ? -1 : 1;
  qsort(all, (size_t)n, sizeof *all, best_first);
  const lc_scores s = {.w = list, .n = N_W, .exclude = no, .smallest = smallest};
  ok(lc_select_global(ctx, &s, K, out));
  int64_t total = 0;
  for (int l = 0; l < N_W; l++) total += out[l].n;
  assert_int_equal(total, K); /* LT-SFT 2: exactly K */
  for (int64_t k = 0; k < K; k++) assert_true(lc_index_has(&out[all[k].l], all[k].flat));
  if (!no && !smallest && K == 500) assert_true(out[1].n == 500); /* LT-SFT 3: global, not a share a tensor */
  const int was = lc_threads(ctx);
  for (int l = 0; l < N_W; l++) lc_form_free(ctx, w[l].base);
  lc_index copy[N_W];
  memcpy(copy, out, sizeof out);
  lc_ctx *old = ctx;
  ctx = NULL;
  threads(3 - was);
  open_weights(w, list);
  ok(lc_select_global(ctx, &s, K, again));
  for (int l = 0; l < N_W; l++) {
    assert_int_equal(again[l].n, copy[l].n);
    if (copy[l].n) assert_memory_equal(again[l].at, copy[l].at, (size_t)copy[l].n * 4);
    lc_form_free(ctx, w[l].base);
  }
  lc_index_free_all(ctx, again, N_W);
  lc_index_free_all(old, out, N_W);
  lc_ctx_free(ctx);
  ctx = old;
  free(all);
}

static void test_global(void **state) {
  lc_index no[N_W] = {{0}};
  const int64_t at[] = {0, 3, 64, 65 * 64 - 1};
  ok(lc_index_new(ctx, 64, 65, at, 4, &no[1]));
  static const int64_t K[] = {1, 500, 4000, 130 * 40 + 64 * 65 + 50 - 4};
  for (int i = 0; i < 4; i++) {
    against_sort(false, K[i], NULL);
    against_sort(true, K[i], NULL);
    against_sort(false, K[i], no);
    against_sort(true, K[i], no);
  }
  lc_weight w[N_W], *list[N_W];
  lc_index out[N_W];
  open_weights(w, list);
  const lc_scores s = {.w = list, .n = N_W};
  refused(lc_select_global(ctx, &s, 1 << 20, out), "chosen out of");
  values[1][70] = NAN;
  refused(lc_select_global(ctx, &s, 9, out), "'b' at row 1, column 5 is not a number");
  for (int l = 0; l < N_W; l++) lc_form_free(ctx, w[l].base);
  lc_index_free(ctx, &no[1]);
}

/* LT-SFT 2: a million entries with many ties against a full sort. */
static void test_million(void **state) {
  enum { SIDE = 1024, K = 123457 };
  float *v = malloc(sizeof(float) * SIDE * SIDE);
  entry *all = malloc(sizeof *all * SIDE * SIDE);
  lc_weight x = weight("million", SIDE, SIDE, v, 1, 0.001f), *one = &x;
  lc_index out;
  for (int64_t k = 0; k < SIDE * SIDE; k++) all[k] = (entry){fabsf(v[k]), 0, k};
  sign = 1;
  qsort(all, SIDE * SIDE, sizeof *all, best_first);
  const lc_scores s = {.w = &one, .n = 1};
  ok(lc_select_global(ctx, &s, K, &out));
  assert_int_equal(out.n, K);
  for (int64_t k = 0; k < K; k++) assert_true(lc_index_has(&out, all[k].flat));
  lc_index_free(ctx, &out);
  lc_form_free(ctx, x.base);
  free(all);
  free(v);
}

/* SaRA 1: |w| < θ, strictly, for each way of storing. */
static void test_beyond(void **state) {
  static float v[64 * 32];
  static uint16_t half[64 * 32], brain[64 * 32];
  lc_weight random = weight("x", 64, 32, v, 1, 0.25f);
  lc_form_free(ctx, random.base);
  for (int k = 0; k < 64 * 32; k++) {
    half[k] = lc_f32_to_f16(v[k]);
    brain[k] = lc_f32_to_bf16(v[k]);
  }
  const lc_tensor t[] = {
      {v, LC_F32, 2, {64, 32}}, {half, LC_F16, 2, {64, 32}}, {brain, LC_BF16, 2, {64, 32}}};
  for (int i = 0; i < 3; i++) {
    lc_weight w = {.name = "x", .M = 64, .N = 32, .ndim = 2}, *one = &w;
    ok(lc_form_view(ctx, &t[i], false, NULL, &w.base));
    w.form = w.base;
    const lc_scores s = {.w = &one, .n = 1, .smallest = true};
    lc_index x;
    ok(lc_select_beyond(ctx, &s, 0.5f, &x));
    int64_t n = 0;
    for (int64_t k = 0; k < 64 * 32; k++) {
      const bool in = fabsf(v[k]) < 0.5f;
      n += in;
      assert_int_equal(lc_index_has(&x, k), in);
    }
    assert_true(n > 100 && x.n == n);
    lc_index_free(ctx, &x);
    ok(lc_select_beyond(ctx, &s, 0, &x));
    assert_int_equal(x.n, 0);
    lc_form_free(ctx, w.base);
  }
}

static void test_changed(void **state) {
  static float a[70 * 30], b[70 * 30];
  lc_weight x = weight("x", 70, 30, a, 1, 0);
  memcpy(b, a, sizeof b);
  static const int64_t at[] = {0, 29, 64 * 30, 2099};
  for (int k = 0; k < 4; k++) b[at[k]] += 0.1f * (float)(k + 1);
  lc_weight y = weight("x", 70, 30, b, 0, 0);
  lc_index i;
  ok(lc_select_changed(ctx, &x, &y, 0, &i));
  assert_int_equal(i.n, 4);
  for (int k = 0; k < 4; k++) assert_int_equal(lc_index_at(&i, k), at[k]);
  lc_index_free(ctx, &i);
  ok(lc_select_changed(ctx, &x, &y, 0.25f, &i));
  assert_int_equal(i.n, 2);
  lc_index_free(ctx, &i);
  ok(lc_select_changed(ctx, &x, &x, 0, &i));
  assert_int_equal(i.n, 0);
  y.N = 15;
  y.M = 140;
  refused(lc_select_changed(ctx, &x, &y, 0, &i), "140×15 in the other");
  lc_form_free(ctx, x.base);
  lc_form_free(ctx, y.base);
}

static void test_random(void **state) {
  lc_weight w[N_W], *list[N_W];
  lc_index out[N_W];
  open_weights(w, list);
  ok(lc_select_global_random(ctx, list, N_W, 3, 940, out));
  assert_int_equal(out[0].n + out[1].n + out[2].n, 940);
  assert_true(out[0].n > 440 && out[0].n < 600 && out[1].n > 350 && out[1].n < 490); /* 520, 416 expected */
  lc_index_free_all(ctx, out, N_W);
  for (int l = 0; l < N_W; l++) lc_form_free(ctx, w[l].base);
}

/* ---- LIFT ---- */

/* Best rank-R approximation by one-sided Jacobi in double precision: the reference shares nothing with LAPACK. */
static void jacobi(const float *W, int64_t M, int64_t N, int64_t R, double *out) {
  double *A = malloc((size_t)(M * N) * 8), *V = calloc((size_t)(N * N), 8);
  for (int64_t i = 0; i < M * N; i++) A[i] = (double)W[i];
  for (int64_t i = 0; i < N; i++) V[i * N + i] = 1;
  for (int sweep = 0; sweep < 40; sweep++)
    for (int64_t p = 0; p < N; p++)
      for (int64_t q = p + 1; q < N; q++) {
        double a = 0, b = 0, g = 0;
        for (int64_t i = 0; i < M; i++) {
          a += A[i * N + p] * A[i * N + p];
          b += A[i * N + q] * A[i * N + q];
          g += A[i * N + p] * A[i * N + q];
        }
        if (fabs(g) <= 1e-15 * sqrt(a * b) || g == 0) continue;
        const double z = (b - a) / (2 * g), t = (z >= 0 ? 1 : -1) / (fabs(z) + sqrt(1 + z * z)),
                     c = 1 / sqrt(1 + t * t), s = c * t;
        for (int64_t i = 0; i < M + N; i++) {
          double *row = i < M ? A + i * N : V + (i - M) * N, x = row[p], y = row[q];
          row[p] = c * x - s * y;
          row[q] = s * x + c * y;
        }
      }
  memset(out, 0, (size_t)(M * N) * 8);
  bool *used = calloc((size_t)N, 1);
  for (int64_t k = 0; k < R; k++) { /* columns of A are U·S: the R longest */
    int64_t best = -1;
    double most = -1;
    for (int64_t j = 0; j < N; j++) {
      double n = 0;
      for (int64_t i = 0; i < M; i++) n += A[i * N + j] * A[i * N + j];
      if (!used[j] && n > most) most = n, best = j;
    }
    used[best] = true;
    for (int64_t i = 0; i < M; i++)
      for (int64_t c = 0; c < N; c++) out[i * N + c] += A[i * N + best] * V[c * N + best];
  }
  free(A);
  free(V);
  free(used);
}

static int falling_doubles(const void *x, const void *y) {
  const double a = *(const double *)x, b = *(const double *)y;
  return a < b ? 1 : a > b ? -1 : 0;
}

/* LIFT 1: exactly K, those of the reference but for entries within 1e-5 of the threshold. */
static void test_lift_exact(void **state) {
  enum { M = 96, N = 70, K = 500, R = 8 };
  static float v[M * N];
  static double ref[M * N], sorted[M * N];
  lc_weight w = weight("lift", M, N, v, 1, 0);
  jacobi(v, M, N, R, ref);
  for (int k = 0; k < M * N; k++) sorted[k] = fabs(ref[k]);
  qsort(sorted, M * N, sizeof *sorted, falling_doubles);
  const lc_rank_opts o = {.rank = R, .exact = true};
  lc_index x;
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  assert_int_equal(x.n, K);
  for (int64_t k = 0; k < M * N; k++) {
    const double d = fabs(ref[k]) - sorted[K - 1];
    if (fabs(d) > 1e-5 * sorted[K - 1]) assert_int_equal(lc_index_has(&x, k), d > 0);
  }
  lc_index_free(ctx, &x);
  lc_form_free(ctx, w.base);
}

/* LIFT 2: full rank is |W|, rank one is σ1|u||v|. */
static void test_lift_ranks(void **state) {
  enum { M = 40, N = 30, K = 100 };
  static float v[M * N], one[M * N];
  static double ref[M * N];
  lc_weight w = weight("lift", M, N, v, 1, 0);
  lc_index x, y;
  lc_rank_opts o = {.rank = N};
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  ok(lc_select_scored(ctx, &w, LC_SCORE_MAGNITUDE, NULL, K, 1, &y));
  assert_memory_equal(x.at, y.at, K * 4);
  lc_index_free(ctx, &x);
  lc_index_free(ctx, &y);
  jacobi(v, M, N, 1, ref);
  for (int k = 0; k < M * N; k++) one[k] = (float)ref[k];
  lc_weight r1 = weight("one", M, N, one, 0, 0);
  o = (lc_rank_opts){.rank = 1, .exact = true};
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  ok(lc_select_scored(ctx, &r1, LC_SCORE_MAGNITUDE, NULL, K, 1, &y));
  int64_t both = 0;
  for (int64_t k = 0; k < K; k++) both += lc_index_has(&y, lc_index_at(&x, k));
  assert_true(both >= K - 1);
  lc_index_free(ctx, &x);
  lc_index_free(ctx, &y);
  lc_form_free(ctx, w.base);
  lc_form_free(ctx, r1.base);
}

/* LIFT 3: the randomised mask on a matrix whose spectrum falls; the same seed gives the same mask, in a worker or
 * not. LIFT 4: W' is never stored. */
typedef struct {
  const lc_weight *w;
  const lc_rank_opts *o;
  int64_t K;
  lc_index out;
} task;

static lc_status in_worker(void *arg, int64_t chunk, int worker) {
  task *t = &((task *)arg)[chunk];
  return lc_select_rank_reduced(ctx, t->w, t->o, t->K, &t->out);
}

static void test_lift_randomised(void **state) {
  enum { M = 300, N = 200, K = 3000, R = 16 };
  static float v[M * N];
  lc_weight w = weight("lift", M, N, v, 0.02f, 0);
  for (int k = 0; k < 40; k++) { /* singular values that fall as 1/k */
    const lc_rng rng = {.seed = 9, .draw = (uint16_t)k, .purpose = LC_RNG_TEST};
    for (int r = 0; r < M; r++)
      for (int c = 0; c < N; c++)
        v[r * N + c] +=
            lc_rng_normal(&rng, (uint64_t)r) * lc_rng_normal(&rng, (uint64_t)(1000 + c)) / (float)(k + 1);
  }
  const lc_rank_opts exact = {.rank = R, .exact = true}, fast = {.rank = R, .power = 2, .seed = 4};
  task t[3] = {{&w, &exact, K, {0}}, {&w, &fast, K, {0}}, {&w, &fast, K, {0}}};
  ok(lc_parallel(ctx, 2, in_worker, t));
  ok(in_worker(t, 2, 0)); /* outside */
  int64_t both = 0;
  for (int64_t k = 0; k < K; k++) both += lc_index_has(&t[0].out, lc_index_at(&t[1].out, k));
  assert_true(both >= K * 98 / 100);
  assert_memory_equal(t[1].out.at, t[2].out.at, K * 4);
  for (int i = 0; i < 3; i++) lc_index_free(ctx, &t[i].out);
  lc_form_free(ctx, w.base);
  threads(1); /* a fresh peak */
  static float large[1500 * 400];
  w = weight("large", 1500, 400, large, 1, 0);
  const size_t start = lc_mem_peak(ctx);
  lc_index x;
  const lc_rank_opts small = {.rank = 4, .power = 1, .seed = 4};
  ok(lc_select_rank_reduced(ctx, &w, &small, 100, &x));
  assert_true(lc_mem_peak(ctx) - start < sizeof large); /* everything included */
  lc_index_free(ctx, &x);
  lc_form_free(ctx, w.base);
  threads(2);
}

/* LIFT 10: transposed; zero, rank-deficient and 1×N matrices; not a number. Blocks of 4×4. */
static void test_lift_edges(void **state) {
  enum { M = 36, N = 24, K = 96 };
  static float v[M * N], vt[M * N];
  lc_weight w = weight("lift", M, N, v, 1, 0);
  for (int r = 0; r < M; r++)
    for (int c = 0; c < N; c++) vt[c * M + r] = v[r * N + c];
  lc_weight t = weight("lift", N, M, vt, 0, 0);
  lc_rank_opts o = {.rank = 5, .exact = true};
  lc_index x, y;
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  ok(lc_select_rank_reduced(ctx, &t, &o, K, &y));
  for (int64_t k = 0; k < K; k++) {
    const int64_t at = lc_index_at(&x, k);
    assert_true(lc_index_has(&y, at % N * M + at / N));
  }
  lc_index_free(ctx, &x);
  lc_index_free(ctx, &y);
  o.blocks = true;
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  assert_int_equal(x.n, K / 16 * 16);
  for (int64_t k = 0; k < x.n; k++) {
    const int64_t at = lc_index_at(&x, k), r = at / N / 4 * 4, c = at % N / 4 * 4;
    for (int64_t i = 0; i < 16; i++) assert_true(lc_index_has(&x, (r + i / 4) * N + c + i % 4));
  }
  lc_index_free(ctx, &x);
  o.blocks = false;
  for (int k = 0; k < M * N; k++) v[k] = (float)(k / N + 1) * (float)(k % N + 1); /* rank one */
  for (int exact = 0; exact < 2; exact++) {
    o.exact = exact;
    o.power = 2;
    ok(lc_select_rank_reduced(ctx, &w, &o, 1, &x));
    assert_int_equal(lc_index_at(&x, 0), M * N - 1);
    lc_index_free(ctx, &x);
  }
  memset(v, 0, sizeof v);
  ok(lc_select_rank_reduced(ctx, &w, &o, K, &x));
  assert_int_equal(lc_index_at(&x, K - 1), K - 1); /* all tie: the lower positions */
  lc_index_free(ctx, &x);
  lc_weight row = weight("row", 1, N, v, 1, 0);
  ok(lc_select_rank_reduced(ctx, &row, &o, 3, &x));
  lc_index_free(ctx, &x);
  v[17] = NAN;
  refused(lc_select_rank_reduced(ctx, &row, &o, 3, &x), "'row'");
  o.blocks = true;
  refused(lc_select_rank_reduced(ctx, &row, &o, 3, &x), "4×4");
  lc_form_free(ctx, row.base);
  lc_form_free(ctx, w.base);
  lc_form_free(ctx, t.base);
}

int main(void) {
  threads(2);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_global),     cmocka_unit_test(test_million),
      cmocka_unit_test(test_beyond),     cmocka_unit_test(test_changed),
      cmocka_unit_test(test_random),     cmocka_unit_test(test_lift_exact),
      cmocka_unit_test(test_lift_ranks), cmocka_unit_test(test_lift_randomised),
      cmocka_unit_test(test_lift_edges)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  lc_ctx_free(ctx);
  return failed;
}
