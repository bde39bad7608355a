/* The kernel delta against a naive program in f64, its gradients by differences, its quantile against sorting; and the
 * allocator of budgets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "nn/delta_kernel.h"
#include "sparse/allocate.h"

enum { M = 150, N = 70, R = 6 };
static lc_ctx *ctx;
static lc_weight w;
static int setup(void **state) {
  w = (lc_weight){
      .name = "w.weight", .module = "w", .id = 9, .kind = LC_KIND_LINEAR, .M = M, .N = N, .ndim = 2};
  return lc_ctx_new(2, &ctx, NULL);
}
static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}
static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static lc_delta *make(int variant, int rule, float spread) {
  lc_delta *d;
  const lc_kernel_opts o = {R, 4, variant, rule};
  const lc_rng rng = {.seed = 11, .purpose = LC_RNG_TEST};
  ok(lc_delta_kernel_new(ctx, &w, &o, true, &d));
  for (int p = 0; p < 2; p++)
    for (int64_t k = 0; k < d->param[p]->n; k++)
      d->param[p]->value[k] = spread * lc_rng_normal(&rng, (uint64_t)(p * 100000 + k));
  if (variant == LC_KERNEL_SNELLA || variant == LC_KERNEL_MIXK)
    memcpy(d->param[2]->value, (float[]){1.5f, 0.7f, 0.02f}, 3 * sizeof(float));
  return d;
}
static void drop(lc_delta *d) {
  w.n_sink = 0;
  d->ops->free(ctx, d);
}

/* S, V in f64; |V|·1[…] at the delta's own τ. */
static void naive(const lc_delta *d, int variant, double *V, double *p) {
  const float *A = d->param[0]->value, *B = d->param[1]->value, *mix = d->param[2]->value;
  const bool mixes = variant == LC_KERNEL_SNELLA || variant == LC_KERNEL_MIXK;
  static double S[M * N];
  for (int j = 0; j < M; j++)
    for (int i = 0; i < N; i++) {
      double dist[2] = {0};
      for (int r = 0; r < R; r++) {
        const double x = (double)A[r * N + i] - (double)B[j * R + r];
        dist[r >= R / 2] += x * x;
      }
      S[j * N + i] = 0.1 * (sqrt(dist[0]) - sqrt(dist[1]));
    }
  for (int i = 0; i < N; i++) {
    double sum = 0;
    for (int j = 0; j < M; j++) sum += exp(S[j * N + i] / (double)mix[1]);
    for (int j = 0; j < M; j++) {
      p[j * N + i] = exp(S[j * N + i] / (double)mix[1]) / sum;
      V[j * N + i] = S[j * N + i] + (mixes ? (double)mix[0] * p[j * N + i] + (double)mix[2] : 0);
    }
  }
}

static int ascending(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

/* Items 1, 3, 4. */
static void test_values(void **state) {
  static const double levels[] = {0, 0.3, 0.5, 0.9, 0.995, 1};
  static double V[M * N], p[M * N];
  static float tile[M * N], part[M * N], sorted[M * N];
  for (int variant = 0; variant < 4; variant++)
    for (int rule = 0; rule < 2; rule++)
      for (int l = 0; l < 6; l++) {
        lc_delta *d = make(variant, rule, 0.3f);
        ok(lc_delta_kernel_refresh(ctx, d, levels[l]));
        memset(tile, 0, sizeof tile), memset(part, 0, sizeof part);
        ok(d->ops->patch(ctx, d, (lc_rect){0, M, 0, N}, tile, N));
        for (int j = 0; j < M; j += 13) /* any tiling gives the same */
          for (int i = 0; i < N; i += 9) {
            lc_rect q = {j, lc_min64(j + 13, M), i, lc_min64(i + 9, N)};
            ok(d->ops->patch(ctx, d, q, part + j * N + i, N));
          }
        assert_memory_equal(tile, part, sizeof tile);
        naive(d, variant, V, p);
        const bool sparse = variant == LC_KERNEL_SNELLA || (variant == LC_KERNEL_SNELL && l > 0);
        double err = 0, norm = 1e-30;
        int64_t kept = 0;
        const double tau = (double)d->param[4]->value[0];
        for (int k = 0; k < M * N; k++) {
          const double a = fabs(V[k]);
          if (sparse && fabs(a - tau) < 1e-6) continue; /* at the threshold f32 and f64 may disagree */
          const double want = !sparse ? V[k] : a > tau ? V[k] * (rule ? a - tau : a) : 0;
          err += (want - (double)tile[k]) * (want - (double)tile[k]);
          norm += want * want;
        }
        assert_true(sqrt(err / norm) < 1e-5 || norm < 1e-20);
        for (int k = 0; k < M * N; k++) kept += tile[k] != 0;
        if (sparse && !rule) { /* the count is that of exact selection */
          lc_kernel_opts plain = {R, 4, variant == LC_KERNEL_SNELLA ? LC_KERNEL_MIXK : LC_KERNEL_KLORA, 0};
          lc_delta *v;
          ok(lc_delta_kernel_new(ctx, &w, &plain, false, &v));
          for (int q = 0; q < 3; q++)
            memcpy(v->param[q]->value, d->param[q]->value, (size_t)d->param[q]->n * sizeof(float));
          ok(lc_delta_kernel_refresh(ctx, v, 0));
          memset(sorted, 0, sizeof sorted);
          ok(v->ops->patch(ctx, v, (lc_rect){0, M, 0, N}, sorted, N));
          v->ops->free(ctx, v);
          for (int k = 0; k < M * N; k++) sorted[k] = fabsf(sorted[k]);
          qsort(sorted, M * N, sizeof *sorted, ascending);
          const double at = levels[l] * (M * N - 1);
          const float quantile =
              (float)((double)sorted[(int)floor(at)] +
                      (at - floor(at)) * ((double)sorted[(int)ceil(at)] - (double)sorted[(int)floor(at)]));
          int64_t above = 0;
          for (int k = 0; k < M * N; k++) above += sorted[k] > quantile;
          assert_true(d->param[4]->value[0] == quantile);
          assert_int_equal(kept, above);
          if (l == 5) assert_int_equal(kept, 0);
        }
        drop(d);
      }
}

/* Σ c·δ with the factor |V|·1[…] held at `held`: the function whose gradient the strips give. */
static double held_loss(const lc_delta *d, int variant, const double *held, const float *c) {
  static double V[M * N], p[M * N];
  double sum = 0;
  naive(d, variant, V, p);
  for (int k = 0; k < M * N; k++) sum += (double)c[k] * held[k] * V[k];
  return sum;
}

/* Item 2: by differences; a row of A that lies on a row of B gives finite gradients. */
static void test_gradients(void **state) {
  static double V[M * N], p[M * N], held[M * N];
  static float c[M * N];
  const lc_rng rng = {.seed = 12, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, M * N, c);
  for (int variant = 0; variant < 4; variant++) {
    lc_delta *d = make(variant, 0, 0.3f);
    for (int r = 0; r < R / 2; r++)
      d->param[0]->value[r * N + 5] = d->param[1]->value[7 * R + r]; /* D_0 = 0 at (7,5) */
    ok(lc_delta_kernel_refresh(ctx, d, 0.5));
    naive(d, variant, V, p);
    const bool sparse = variant == LC_KERNEL_SNELLA || variant == LC_KERNEL_SNELL;
    for (int k = 0; k < M * N; k++)
      held[k] = !sparse ? 1 : fabs(V[k]) > (double)d->param[4]->value[0] ? fabs(V[k]) : 0;
    for (int q = 0; q < 2; q++) { /* twice: two uses add */
      for (int64_t j = 0; j < M; j += 64) {
        lc_tile t = {{j, lc_min64(j + 64, M), 0, N}, c + j * N, N, 0, 1, 0};
        ok(w.sink[0].tile(w.sink[0].self, &w, &t));
      }
      ok(w.sink[0].end(w.sink[0].self, &w));
    }
    for (int q = 0; q < 3; q++) {
      double err = 0, norm = 0;
      const bool trained = q < 2 || variant == LC_KERNEL_SNELLA || variant == LC_KERNEL_MIXK;
      for (int64_t s = 0; s < lc_min64(60, d->param[q]->n); s++) {
        const int64_t k = d->param[q]->n <= 60 ? s : s * 7919 % d->param[q]->n;
        float *v = &d->param[q]->value[k], was = *v;
        if (q == 0 && k % N == 5) continue; /* no derivative there */
        if (q == 1 && k / R == 7) continue;
        *v = was + 1e-3f;
        const double up = held_loss(d, variant, held, c), hi = (double)*v;
        *v = was - 1e-3f;
        const double slope = (up - held_loss(d, variant, held, c)) / (hi - (double)*v);
        *v = was;
        err += pow(slope - (double)d->param[q]->grad[k] / 2, 2);
        norm += slope * slope;
      }
      if (trained && !(sqrt(err / norm) < 2e-3))
        fail_msg("variant %d, param %d: %g", variant, q, sqrt(err / norm));
      for (int64_t k = 0; k < d->param[q]->n; k++) assert_true(isfinite(d->param[q]->grad[k]));
    }
    drop(d);
  }
}

/* The kept entries as a sparse delta are the same change. */
static void test_sparse(void **state) {
  static float a[M * N], b[M * N];
  lc_delta *d = make(LC_KERNEL_SNELLA, 0, 0.3f), *s;
  memset(a, 0, sizeof a), memset(b, 0, sizeof b);
  ok(lc_delta_kernel_refresh(ctx, d, 0.8));
  ok(lc_delta_kernel_sparse(ctx, d, &s));
  ok(d->ops->patch(ctx, d, (lc_rect){0, M, 0, N}, a, N));
  ok(s->ops->patch(ctx, s, (lc_rect){0, M, 0, N}, b, N));
  assert_memory_equal(a, b, sizeof a);
  assert_true(llabs((long long)s->param[0]->n - (long long)(0.2 * M * N)) <= 2);
  s->ops->free(ctx, s);
  drop(d);
}

static void test_odd_rank(void **state) {
  lc_delta *d;
  const lc_kernel_opts o = {5, 4, LC_KERNEL_SNELLA, 0};
  assert_int_not_equal(lc_delta_kernel_new(ctx, &w, &o, true, &d), LC_OK);
  assert_non_null(strstr(lc_error(ctx), "even"));
  lc_error_clear(ctx);
}

/* Item 5. */
static void test_allocation(void **state) {
  enum { L = 7 };
  static const int64_t cap[L] = {100, 3, 50, 7, 1000, 20, 1};
  const double scores[][L] = {
      {1, 2, 3, 4, 5, 6, 7},           {0, 0, 0, 0, 1, 0, 0},          {0},
      {NAN, 1, INFINITY, 2, -1, 3, 1}, {1e-300, 1e300, 0, 0, 0, 0, 0}, {1e-320, 1, 1, 1, 1, 1, 1}};
  const int64_t all = 1181;
  for (size_t s = 0; s < sizeof scores / sizeof *scores; s++)
    for (int64_t b = 0; b <= all + 5; b += 1 + b / 20) {
      int64_t out[L], sum = 0;
      ok(lc_allocate(ctx, b, scores[s], cap, L, out));
      for (int l = 0; l < L; l++) {
        assert_true(out[l] >= 0 && out[l] <= cap[l]);
        sum += out[l];
      }
      assert_int_equal(sum, lc_min64(b, all));
    }
  int64_t out[L];
  ok(lc_allocate(ctx, 900, scores[1], cap, L, out)); /* one layer has everything */
  assert_int_equal(out[4], 900);
  ok(lc_allocate(ctx, 7, scores[2], cap, L, out)); /* all zero: equal shares */
  for (int l = 0; l < L; l++) assert_int_equal(out[l], 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_values), TEST(test_gradients), TEST(test_sparse),
                                     TEST(test_odd_rank), TEST(test_allocation)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
