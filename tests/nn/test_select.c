/* Masks against brute force; uniform random ones that differ by name; structured ones by formula; disjoint
 * ones; the division of a budget; and the top-k of a gradient out of a pass against a full sort. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
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

static int setup(void **state) {
  char why[256];
  return lc_ctx_new(2, &ctx, why);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

/* A weight over random values, many of them equal. */
static lc_weight weight(const char *name, int64_t M, int64_t N, float *values) {
  const lc_rng rng = {.seed = 5, .tensor = lc_fnv1a32(name), .purpose = LC_RNG_TEST};
  lc_weight w = {.name = name,
                 .module = name,
                 .id = lc_fnv1a32(name),
                 .kind = LC_KIND_LINEAR,
                 .M = M,
                 .N = N,
                 .ndim = 2,
                 .uses = 1};
  for (int64_t k = 0; k < M * N; k++) values[k] = roundf(lc_rng_normal(&rng, (uint64_t)k) * 8) / 8;
  const lc_tensor t = {values, LC_F32, 2, {M, N}};
  ok(lc_form_view(ctx, &t, false, NULL, &w.base));
  w.form = w.base;
  return w;
}

static const float *sort_by;
static int falling(const void *x, const void *y) {
  const int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  if (sort_by[a] != sort_by[b]) return sort_by[a] < sort_by[b] ? 1 : -1;
  return a < b ? -1 : a > b;
}
static int rising(const void *x, const void *y) {
  const int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  return a < b ? -1 : a > b;
}

/* Ranks first … first+K-1 of score, ties to the lower position. */
static void expect(const lc_index *got, const float *score, int64_t total, int64_t first, int64_t K) {
  int64_t *all = malloc((size_t)total * 8);
  for (int64_t k = 0; k < total; k++) all[k] = k;
  sort_by = score;
  qsort(all, (size_t)total, 8, falling);
  qsort(all + first, (size_t)K, 8, rising);
  assert_int_equal(got->n, K);
  for (int64_t k = 0; k < K; k++) assert_int_equal(lc_index_at(got, k), all[first + k]);
  free(all);
}

static void test_scores(void **state) {
  static const int64_t shapes[][3] = {{70, 33, 100}, {130, 64, 1}, {3, 5, 15}, {64, 200, 999}};
  for (int i = 0; i < 4; i++) {
    const int64_t M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
    float *v = malloc((size_t)(M * N) * 4), *g = malloc((size_t)(M * N) * 4),
          *score = malloc((size_t)(M * N) * 4);
    lc_weight w = weight("w", M, N, v);
    const lc_rng rng = {.seed = 6, .purpose = LC_RNG_TEST};
    for (int64_t k = 0; k < M * N; k++) g[k] = roundf(lc_rng_normal(&rng, (uint64_t)k) * 4) / 4;
    for (lc_score_kind kind = LC_SCORE_MAGNITUDE; kind <= LC_SCORE_SNIP; kind++)
      for (int64_t rank = 1; rank * K <= M * N && rank <= 3; rank++) {
        lc_index idx;
        for (int64_t k = 0; k < M * N; k++)
          score[k] = fabsf(kind == LC_SCORE_MAGNITUDE  ? v[k]
                           : kind == LC_SCORE_GRADIENT ? g[k]
                                                       : v[k] * g[k]);
        ok(lc_select_scored(ctx, &w, kind, g, K, rank, &idx));
        expect(&idx, score, M * N, (rank - 1) * K, K);
        lc_index_free(ctx, &idx);
      }
    lc_form_free(ctx, w.base);
    free(v);
    free(g);
    free(score);
  }
}

/* 1 % of 256×256: every one of 64 blocks gets its share (χ², 63 degrees, over 20 seeds), and equal shapes get
 * unequal masks. */
static void test_random(void **state) {
  float *v = malloc(256 * 256 * 4);
  lc_weight a = weight("a", 256, 256, v), b = a;
  lc_index x, y;
  b.id = lc_fnv1a32("b");
  int64_t count[64] = {0};
  for (uint64_t seed = 0; seed < 20; seed++) {
    ok(lc_select_random(ctx, &a, seed, 655, 1, &x));
    assert_int_equal(x.n, 655);
    for (int64_t k = 0; k < x.n; k++) {
      const int64_t r = lc_index_at(&x, k) / 256, c = lc_index_at(&x, k) % 256;
      count[r / 32 * 8 + c / 32]++;
      assert_true(!k || lc_index_at(&x, k) > lc_index_at(&x, k - 1));
    }
    ok(lc_select_random(ctx, &b, seed, 655, 1, &y));
    int64_t both = 0;
    for (int64_t k = 0; k < x.n; k++) both += lc_index_has(&y, lc_index_at(&x, k));
    assert_in_range(both, 0, 30); /* expected 6.5 */
    lc_index_free(ctx, &x);
    lc_index_free(ctx, &y);
  }
  double chi2 = 0, mean = 20.0 * 655 / 64;
  for (int i = 0; i < 64; i++) chi2 += ((double)count[i] - mean) * ((double)count[i] - mean) / mean;
  assert_true(chi2 > 30 && chi2 < 110); /* 0.02 % on either side */
  lc_index part[4];                     /* four disjoint masks; the first is the plain one */
  for (int64_t j = 0; j < 4; j++) ok(lc_select_random(ctx, &a, 1, 655, j + 1, &part[j]));
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < i; j++)
      for (int64_t k = 0; k < 655; k++) assert_false(lc_index_has(&part[i], lc_index_at(&part[j], k)));
  ok(lc_select_random(ctx, &a, 1, 655, 1, &x));
  assert_memory_equal(x.at, part[0].at, 655 * 4);
  lc_index_free(ctx, &x);
  for (int i = 0; i < 4; i++) lc_index_free(ctx, &part[i]);
  ok(lc_select_random(ctx, &a, 1, 256 * 64, 4, &x)); /* the last quarter of all */
  assert_int_equal(x.n, 256 * 64);
  lc_index_free(ctx, &x);
  refused(lc_select_random(ctx, &a, 1, 256 * 64 + 1, 4, &x), "disjoint");
  refused(lc_select_random(ctx, &a, 1, 0, 1, &x), "no mask");
  lc_form_free(ctx, a.base);
  free(v);
}

/* Rank of a matrix by elimination with full pivoting. */
static int rank_of(double *a, int n) {
  int rank = 0;
  for (; rank < n; rank++) {
    int p = rank, q = rank;
    for (int i = rank; i < n; i++)
      for (int j = rank; j < n; j++)
        if (fabs(a[i * n + j]) > fabs(a[p * n + q])) p = i, q = j;
    if (fabs(a[p * n + q]) < 1e-9) break;
    for (int j = 0; j < n; j++) {
      const double t = a[rank * n + j];
      a[rank * n + j] = a[p * n + j], a[p * n + j] = t;
    }
    for (int i = 0; i < n; i++) {
      const double t = a[i * n + rank];
      a[i * n + rank] = a[i * n + q], a[i * n + q] = t;
    }
    for (int i = rank + 1; i < n; i++) {
      const double f = a[i * n + rank] / a[rank * n + rank];
      for (int j = rank; j < n; j++) a[i * n + j] -= f * a[rank * n + j];
    }
  }
  return rank;
}

static int rank_of_mask(const lc_index *x, bool no_diagonal) {
  double *a = calloc(256 * 256, sizeof *a);
  const lc_rng rng = {.seed = 9, .purpose = LC_RNG_TEST};
  for (int64_t k = 0; k < x->n; k++) {
    const int64_t f = lc_index_at(x, k);
    if (no_diagonal && f / 256 == f % 256 && f / 256 % 32) continue;
    a[f] = (double)lc_rng_normal(&rng, (uint64_t)k);
  }
  const int r = rank_of(a, 256);
  free(a);
  return r;
}

static void test_ranks(void **state) {
  float *v = malloc(256 * 256 * 4);
  lc_weight w = weight("w", 256, 256, v);
  lc_index x;
  ok(lc_select_random(ctx, &w, 3, 655, 1, &x));
  assert_true(rank_of_mask(&x, false) > 200);
  lc_index_free(ctx, &x);
  ok(lc_select_struct(ctx, &w, lc_struct_count(256, 256, 32, false), false,
                      &x)); /* 8 rows and the diagonal */
  assert_int_equal(rank_of_mask(&x, false), 256);
  assert_int_equal(rank_of_mask(&x, true), 8);
  lc_index_free(ctx, &x);
  lc_form_free(ctx, w.base);
  free(v);
}

static void test_struct(void **state) {
  static const int64_t shapes[][2] = {{64, 64}, {40, 100}, {100, 40}, {7, 5}};
  for (int i = 0; i < 4; i++)
    for (int columns = 0; columns < 2; columns++) {
      const int64_t M = shapes[i][0], N = shapes[i][1], lines = columns ? N : M, length = columns ? M : N;
      float *v = malloc((size_t)(M * N) * 4);
      lc_weight w = weight("w", M, N, v);
      for (int64_t f = 1; f <= lines; f++) {
        lc_index x;
        int64_t count = 0;
        for (int64_t r = 0; r < M; r++)
          for (int64_t c = 0; c < N; c++) count += (columns ? c : r) % f == 0 || r == c;
        assert_int_equal(lc_struct_count(M, N, f, columns), count);
        ok(lc_select_struct(ctx, &w, count, columns, &x)); /* the least f whose count fits */
        int64_t least = 1;
        while (lc_struct_count(M, N, least, columns) > count) least++;
        assert_int_equal(x.n, lc_struct_count(M, N, least, columns));
        for (int64_t k = 0; k < x.n; k++) {
          const int64_t r = lc_index_at(&x, k) / N, c = lc_index_at(&x, k) % N;
          assert_true((columns ? c : r) % least == 0 || r == c);
        }
        lc_index_free(ctx, &x);
      }
      lc_index x;
      refused(lc_select_struct(ctx, &w, length - 1, columns, &x), columns ? "one column" : "one row");
      lc_form_free(ctx, w.base);
      free(v);
    }
}

static void test_budget(void **state) {
  lc_weight a = {.name = "a", .M = 10, .N = 30}, b = {.name = "b", .M = 7, .N = 10},
            c = {.name = "c", .M = 2, .N = 2};
  lc_weight *w[] = {&a, &b, &c};
  int64_t K[3];
  ok(lc_budget_split(ctx, 370, w, 2, K));
  assert_int_equal(K[0], 300);
  assert_int_equal(K[1], 70);
  ok(lc_budget_split(ctx, 100, w, 2, K));
  assert_int_equal(K[0], 81); /* floor(100·300/370) */
  assert_int_equal(K[1], 18);
  refused(lc_budget_split(ctx, 0, w, 2, K), "no entry");
  refused(lc_budget_split(ctx, 371, w, 2, K), "371 entries");
  refused(lc_budget_split(ctx, 50, w, 3, K), "'c' (2×2) would get none");
  lc_weight huge = {.name = "h", .M = (int64_t)1 << 31, .N = (int64_t)1 << 31};
  w[0] = &huge;
  ok(lc_budget_split(ctx, (int64_t)1 << 61, w, 1, K)); /* no overflow */
  assert_true(K[0] == (int64_t)1 << 61);
}

/* ---- the top-k of gradients out of a pass ---- */

typedef struct {
  lc_index got[3];
  float payload[3][4096];
  lc_weight *w;
} taken;

static lc_status take(void *self, int l, const lc_pick *p, int64_t n) {
  taken *t = self;
  int64_t *flat = malloc((size_t)n * 8);
  for (int64_t k = 0; k < n; k++) flat[k] = p[k].flat, t->payload[l][k] = p[k].payload;
  lc_status st = lc_index_new(ctx, t->w[l].M, t->w[l].N, flat, n, &t->got[l]);
  free(flat);
  return st;
}

enum { ROWS = 19 };
static void pass(lc_weight *w, const float *x, const float *dy) {
  lc_run run = {.ctx = ctx};
  ok(lc_weight_gradient(&run, w, LC_F32, x, w->N, LC_F32, dy, w->M, ROWS, 0));
}

static void test_gradient_topk(void **state) {
  static const int64_t shapes[3][3] = {{130, 70, 300}, {64, 64, 1}, {65, 300, 4000}};
  char why[256];
  lc_ctx *before = ctx;
  for (int threads = 1; threads <= 3; threads++) {
    ok(lc_ctx_new(threads, &ctx, why));
    taken t = {0};
    lc_weight w[3], *pw[3];
    float *v[3], *x[3], *dy[3];
    int64_t k[3];
    lc_grad_topk *g;
    t.w = w;
    for (int l = 0; l < 3; l++) {
      const int64_t M = shapes[l][0], N = shapes[l][1];
      const lc_rng rng = {.seed = (uint64_t)l, .purpose = LC_RNG_TEST};
      v[l] = malloc((size_t)(M * N) * 4), x[l] = malloc((size_t)(ROWS * N) * 4),
      dy[l] = malloc((size_t)(ROWS * M) * 4);
      w[l] = weight(l ? l > 1 ? "c" : "b" : "a", M, N, v[l]);
      pw[l] = &w[l];
      k[l] = shapes[l][2];
      for (int64_t i = 0; i < ROWS * N; i++)
        x[l][i] = roundf(lc_rng_normal(&rng, (uint64_t)i)); /* small whole numbers: exact sums, many ties */
      for (int64_t i = 0; i < ROWS * M; i++)
        dy[l][i] = roundf(lc_rng_normal(&rng, (uint64_t)(1 << 20) + (uint64_t)i));
    }
    ok(lc_grad_topk_new(ctx, pw, k, 3, take, &t, &g));
    ok(lc_grad_topk_watch(g));
    for (int l = 2; l >= 0; l--) pass(&w[l], x[l], dy[l]);
    ok(lc_grad_topk_end(g));
    for (int l = 0; l < 3; l++) {
      const int64_t M = w[l].M, N = w[l].N;
      float *dw = calloc((size_t)(M * N), 4), *score = malloc((size_t)(M * N) * 4);
      for (int64_t r = 0; r < ROWS; r++)
        for (int64_t m = 0; m < M; m++)
          for (int64_t n = 0; n < N; n++) dw[m * N + n] += dy[l][r * M + m] * x[l][r * N + n];
      for (int64_t i = 0; i < M * N; i++) score[i] = fabsf(dw[i]);
      expect(&t.got[l], score, M * N, 0, k[l]);
      for (int64_t i = 0; i < k[l]; i++) assert_true(t.payload[l][i] == dw[lc_index_at(&t.got[l], i)]);
      assert_int_equal(w[l].n_sink, 0);
      lc_index_free(ctx, &t.got[l]);
      free(dw);
      free(score);
    }
    /* what cannot be */
    ok(lc_grad_topk_watch(g));
    pass(&w[0], x[0], dy[0]);
    lc_index_free(ctx, &t.got[0]);
    refused(lc_grad_topk_end(g), "no gradient of 'b'");
    ok(lc_grad_topk_watch(g));
    w[1].uses = 2;
    lc_run run = {.ctx = ctx};
    refused(lc_weight_gradient(&run, &w[1], LC_F32, x[1], w[1].N, LC_F32, dy[1], w[1].M, ROWS, 0),
            "used 2 times");
    w[1].uses = 1;
    pass(&w[0], x[0], dy[0]);
    refused(lc_weight_gradient(&run, &w[0], LC_F32, x[0], w[0].N, LC_F32, dy[0], w[0].M, ROWS, 0), "twice");
    lc_index_free(ctx, &t.got[0]);
    lc_grad_topk_free(g);
    for (int l = 0; l < 3; l++) {
      lc_form_free(ctx, w[l].base);
      free(v[l]), free(x[l]), free(dy[l]);
    }
    lc_ctx_free(ctx);
  }
  ctx = before;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scores), cmocka_unit_test(test_random), cmocka_unit_test(test_ranks),
      cmocka_unit_test(test_struct), cmocka_unit_test(test_budget), cmocka_unit_test(test_gradient_topk),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
