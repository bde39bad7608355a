/* Steps along random directions (nn/noise.h): the view and the moves against a plain loop over elements, on every instruction set and number of
 * threads; masks and thresholds; the estimate on a quadratic; the stream of normals; the log's checks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/kernels.h"
#include "nn/noise.h"
#include "support/tiny_model.h"

static lc_ctx *ctx;
static char *dir;
static lc_model *model;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static void open_ctx(int threads) {
  char why[256] = "";
  if (lc_ctx_new(threads, &ctx, why)) fail_msg("%s", why);
}
static int setup(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  open_ctx(2);
  dir = lc_tiny_dir();
  ok(lc_tiny_hf(ctx, &m, lc_tiny_path(dir, "model")));
  ok(lc_model_open(ctx, lc_tiny_path(dir, "model"), &model));
  return 0;
}
static int teardown(void **state) {
  lc_model_close(model);
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

#define WEIGHT "model.layers.1.mlp.down_proj.weight"

static void three_steps(lc_noise_log *l) { /* two directions each, slopes and rates of no pattern */
  for (uint32_t t = 0; t < 6; t++)
    ok(lc_noise_log_add(l, t / 2 * 3, 0.7f - 0.31f * (float)t, 0.003f + 0.0004f * (float)t));
}
static lc_noise_opts opts_of(int mask, double sparsity, double decay) {
  return (lc_noise_opts){.seed = 0x123456789, .sparsity = sparsity, .decay = decay, .mask = mask};
}

static bool moves(const lc_noise_band *b, int64_t j, float w) {
  return b->keep > 0 ? lc_rng_uniform(&b->u, (uint64_t)j) < b->keep
                     : fabsf(w) >= b->low && fabsf(w) <= b->high;
}
static float z_of(const lc_noise_band *b, uint32_t step, uint16_t draw, int64_t j) {
  lc_rng r = b->z;
  r.step = step;
  r.draw = draw;
  return lc_rng_normal(&r, (uint64_t)j);
}
/* What noise.h says, an element at a time. */
static float reference(const lc_noise_band *b, const lc_noise_log *l, int64_t j, float w) {
  for (int64_t i = 0; i < l->n; i += 2) {
    float c = 0, rate = 0;
    for (int64_t k = i; k < i + 2; k++) {
      const float a = -(l->at[k].rate * l->at[k].slope),
                  move = a * z_of(b, l->at[k].step, (uint16_t)(k - i), j);
      c += move;
      rate += l->at[k].rate;
    }
    const float shrink = rate * (float)l->o.decay;
    if (shrink != 0) c -= shrink * w;
    if (moves(b, j, w)) w += c;
  }
  return w;
}

static float *decoded(const lc_weight *w, const lc_form *f) {
  float *x = malloc((size_t)(w->M * w->N) * sizeof *x);
  ok(f->ops->decode(ctx, f, (lc_rect){0, w->M, 0, w->N}, LC_F32, x, w->N));
  return x;
}

/* Items 1 and 2: tiles of any shape and the moved copy have the reference's bits; nothing is written by a view. */
static void check_weight(lc_net *net, const lc_noise_opts *o) {
  lc_weight *w = lc_net_weight(net, WEIGHT);
  lc_noise_log *log;
  lc_delta *d;
  ok(lc_noise_log_new(ctx, o, 6, &log));
  three_steps(log);
  ok(lc_delta_noise_new(ctx, w, log, &d));
  ok(lc_weight_attach(ctx, w, d));
  const lc_noise_band *b = lc_delta_noise_band(d);
  const int64_t n = w->M * w->N;
  float *base = decoded(w, w->base), *want = malloc((size_t)n * sizeof *want);
  for (int64_t j = 0; j < n; j++) want[j] = reference(b, log, j, base[j]);
  const lc_rect rects[] = {
      {0, w->M, 0, w->N}, {3, 20, 5, 61}, {w->M - 1, w->M, 0, w->N}, {7, 9, w->N - 1, w->N}};
  for (size_t i = 0; i < sizeof rects / sizeof *rects; i++) {
    const void *tile;
    int64_t ld;
    ok(lc_weight_tile(ctx, 0, w, rects[i], LC_F32, &tile, &ld));
    for (int64_t r = rects[i].r0; r < rects[i].r1; r++)
      assert_memory_equal((const float *)tile + (r - rects[i].r0) * ld, want + r * w->N + rects[i].c0,
                          (size_t)(rects[i].c1 - rects[i].c0) * sizeof(float));
  }
  ok(lc_delta_noise_open(ctx, d));
  assert_memory_equal(lc_form_data(w->form), want, (size_t)n * sizeof *want);
  lc_delta_noise_view(d, 9, 3, -0.01f);
  const void *tile;
  int64_t ld;
  ok(lc_weight_tile(ctx, 0, w, (lc_rect){2, 30, 1, w->N - 2}, LC_F32, &tile, &ld));
  for (int64_t r = 2; r < 30; r++)
    for (int64_t c = 1; c < w->N - 2; c++) {
      const int64_t j = r * w->N + c;
      const float step = -0.01f * z_of(b, 9, 3, j), seen = moves(b, j, want[j]) ? want[j] + step : want[j];
      assert_true(((const float *)tile)[(r - 2) * ld + c - 1] == seen);
    }
  assert_memory_equal(lc_form_data(w->form), want, (size_t)n * sizeof *want);
  lc_delta_noise_hide(d);
  ok(lc_weight_tile(ctx, 0, w, (lc_rect){0, 4, 0, w->N}, LC_F32, &tile, &ld));
  assert_ptr_equal(tile, lc_form_data(w->form)); /* borrowed */
  lc_weight_detach(ctx, w, d, true);
  lc_noise_log_drop(log);
  free(base);
  free(want);
}

static void test_bits(void **state) {
  static const char *const isas[] = {"scalar", "avx2", "avx512", "amx"};
  lc_model_close(model);
  lc_ctx_free(ctx);
  for (size_t i = 0; i < 2 * sizeof isas / sizeof *isas; i++) {
    setenv("LACUNA_ISA", isas[i / 2], 1);
    if (lc_ctx_new(i % 2 ? 8 : 1, &ctx, NULL)) continue; /* not on this machine */
    ok(lc_model_open(ctx, lc_tiny_path(dir, "model"), &model));
    for (int mask = LC_NOISE_ALL; mask <= LC_NOISE_LARGE; mask++) {
      lc_net *net;
      const lc_noise_opts o = opts_of(mask, mask == LC_NOISE_ALL ? 0 : 0.7, mask % 2 ? 0.05 : 0);
      ok(lc_net_new(model, LC_F32, &net));
      check_weight(net, &o);
      lc_net_free(net);
    }
    lc_model_close(model);
    lc_ctx_free(ctx);
  }
  unsetenv("LACUNA_ISA");
  open_ctx(2);
  ok(lc_model_open(ctx, lc_tiny_path(dir, "model"), &model));
}

/* Item 1: a whole pass through the perturbed view against one through weights that were written. */
static void test_pass(void **state) {
  enum { T = 20 };
  int32_t ids[T];
  for (int i = 0; i < T; i++) ids[i] = (i * 37 + 11) % 300;
  const lc_noise_opts o = opts_of(LC_NOISE_SMALL, 0.5, 0);
  lc_net *seen, *written;
  lc_noise_log *log;
  ok(lc_noise_log_new(ctx, &o, 1, &log));
  ok(lc_net_new(model, LC_F32, &seen));
  ok(lc_net_new(model, LC_F32, &written));
  for (int i = 0; i < seen->weights.n; i++) {
    lc_weight *w = &seen->weights.w[i], *v = &written->weights.w[i];
    lc_delta *d;
    if (w->ndim != 2) continue; /* the embedding, which is the head too, is among them */
    ok(lc_delta_noise_new(ctx, w, log, &d));
    ok(lc_weight_attach(ctx, w, d));
    lc_delta_noise_view(d, 4, 0, 0.02f);
    ok(lc_form_copy(ctx, v->base, v->M, v->N, LC_F32, &v->form));
    float *x = lc_form_data(v->form);
    for (int64_t j = 0; j < v->M * v->N; j++) {
      const float step = 0.02f * z_of(lc_delta_noise_band(d), 4, 0, j);
      if (moves(lc_delta_noise_band(d), j, x[j])) x[j] += step;
    }
  }
  float *a = malloc(T * 300 * sizeof *a), *b = malloc(T * 300 * sizeof *b);
  ok(lc_tiny_logits(seen, ids, T, a));
  ok(lc_tiny_logits(written, ids, T, b));
  assert_memory_equal(a, b, T * 300 * sizeof *a);
  lc_net_free(seen);
  lc_net_free(written);
  lc_noise_log_drop(log);
  free(a);
  free(b);
}

static int by_value(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

/* Item 4: thresholds are order statistics, ties belong; nothing and everything. */
static void test_bands(void **state) {
  lc_net *net;
  ok(lc_net_new(model, LC_F32, &net));
  lc_weight *w = lc_net_weight(net, WEIGHT);
  const int64_t n = w->M * w->N;
  float *x = decoded(w, w->base);
  for (int64_t j = 0; j < n; j++) x[j] = fabsf(x[j]);
  qsort(x, (size_t)n, sizeof *x, by_value);
  for (int mask = LC_NOISE_ALL; mask <= LC_NOISE_LARGE; mask++)
    for (int k = 0; k <= 20; k++) {
      const double s = k / 20.0;
      const lc_noise_opts o = opts_of(mask, s, 0);
      const int64_t count = llround((1 - s) * (double)n);
      lc_noise_log *log;
      lc_delta *d;
      int64_t got;
      ok(lc_noise_log_new(ctx, &o, 1, &log));
      ok(lc_delta_noise_new(ctx, w, log, &d));
      const lc_noise_band *b = lc_delta_noise_band(d);
      ok(lc_delta_noise_active(ctx, d, &got));
      if (mask == LC_NOISE_ALL || k == 0)
        assert_true(b->low == 0 && b->high == INFINITY && got == n);
      else if (k == 20)
        assert_true(b->low > b->high && got == 0);
      else if (mask == LC_NOISE_SMALL)
        assert_true(b->high == x[count - 1] && got >= count);
      else if (mask == LC_NOISE_LARGE)
        assert_true(b->low == x[n - count] && got >= count);
      else
        assert_true(fabs((double)got - (double)count) < 5 * sqrt((double)n * s * (1 - s)));
      d->ops->free(ctx, d);
      lc_noise_log_drop(log);
    }
  free(x);
  lc_net_free(net);
}

/* Item 3: on L = ½Σ aθ² the mean of ĝ·m⊙z is m⊙(aθ), within four standard errors; fewer active entries, less variance. */
static void test_estimate(void **state) {
  enum { N = 16, SEEDS = 100000 };
  const lc_kernels *k = lc_kernels_get(ctx);
  float theta[N], plus[N], minus[N];
  double a[N], spread[2] = {0};
  for (int j = 0; j < N; j++) theta[j] = 0.1f * (float)(j + 1) * (j % 3 ? 1 : -1), a[j] = 1 + 0.2 * j;
  for (int small = 0; small < 2; small++) {
    lc_noise_band b = {.z = {.seed = 7, .tensor = 99, .purpose = LC_RNG_NOISE},
                       .high = small ? 0.45f : INFINITY};
    double sum[N] = {0}, squares[N] = {0};
    for (uint32_t t = 0; t < SEEDS; t++) {
      double l[2] = {0};
      memcpy(plus, theta, sizeof theta);
      memcpy(minus, theta, sizeof theta);
      lc_noise_add(k, &b, t, 0, 1e-2f, 0, N, plus);
      lc_noise_add(k, &b, t, 0, -1e-2f, 0, N, minus);
      for (int j = 0; j < N; j++)
        l[0] += 0.5 * a[j] * plus[j] * plus[j], l[1] += 0.5 * a[j] * minus[j] * minus[j];
      const double slope = (l[0] - l[1]) / 2e-2;
      for (int j = 0; j < N; j++) {
        const double g = fabsf(theta[j]) <= b.high ? slope * (double)z_of(&b, t, 0, j) : 0;
        sum[j] += g;
        squares[j] += g * g;
      }
    }
    for (int j = 0; j < N; j++) {
      const double mean = sum[j] / SEEDS, var = squares[j] / SEEDS - mean * mean,
                   m = fabsf(theta[j]) <= b.high;
      assert_true(fabs(mean - m * a[j] * (double)theta[j]) <= 4 * sqrt(var / SEEDS) + 1e-4);
      if (j < 4) spread[small] += var;
    }
  }
  assert_true(spread[1] < 0.5 * spread[0]);
}

/* Item 5: without decay the active entries never become more, and what was outside at first never moves. */
static void test_shrinks(void **state) {
  lc_net *net;
  lc_noise_log *log;
  lc_delta *d;
  const lc_noise_opts o = opts_of(LC_NOISE_SMALL, 0.6, 0);
  ok(lc_net_new(model, LC_F32, &net));
  lc_weight *w = lc_net_weight(net, WEIGHT);
  ok(lc_noise_log_new(ctx, &o, 30, &log));
  ok(lc_delta_noise_new(ctx, w, log, &d));
  ok(lc_weight_attach(ctx, w, d));
  ok(lc_delta_noise_open(ctx, d));
  float *base = decoded(w, w->base);
  int64_t before, after, first;
  ok(lc_delta_noise_active(ctx, d, &first));
  before = first;
  for (uint32_t t = 0; t < 30; t++) {
    ok(lc_noise_log_add(log, t, 1, 0.01f));
    ok(lc_delta_noise_move(ctx, d, log->n - 1));
    ok(lc_delta_noise_active(ctx, d, &after));
    assert_true(after <= before);
    before = after;
  }
  assert_true(after < first);
  const float *now = lc_form_data(w->form), high = lc_delta_noise_band(d)->high;
  int64_t moved = 0;
  for (int64_t j = 0; j < w->M * w->N; j++) {
    if (fabsf(base[j]) > high) assert_memory_equal(&base[j], &now[j], sizeof *now);
    moved += base[j] != now[j];
  }
  assert_true(moved > first / 2);
  free(base);
  lc_net_free(net);
  lc_noise_log_drop(log);
}

/* Item 10: moments and neighbours of 10⁸ draws; streams of neighbouring tensors, steps and directions share nothing. */
static void test_normals(void **state) {
  enum { RUN = 1 << 16, LAGS = 4 };
  const lc_kernels *k = lc_kernels_get(ctx);
  lc_rng r = {.seed = 42, .step = 3, .tensor = 12345, .purpose = LC_RNG_NOISE};
  float *z = malloc((RUN + LAGS) * sizeof *z);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag[LAGS + 1] = {0};
  const int64_t draws = 100000000 / RUN * RUN;
  for (int64_t at = 0; at < draws; at += RUN) {
    double s1 = 0, s2 = 0, s3 = 0, s4 = 0, l[LAGS + 1] = {0};
    k->normal(&r, (uint64_t)at, RUN + LAGS, z);
    for (int i = 0; i < RUN; i++) {
      const double x = z[i], x2 = x * x;
      s1 += x, s2 += x2, s3 += x2 * x, s4 += x2 * x2;
      for (int g = 1; g <= LAGS; g++) l[g] += x * (double)z[i + g];
    }
    m1 += s1, m2 += s2, m3 += s3, m4 += s4;
    for (int g = 1; g <= LAGS; g++) lag[g] += l[g];
  }
  const double n = (double)draws, e = 5 / sqrt(n); /* five standard errors of a mean of unit variance */
  assert_true(fabs(m1 / n) < e);
  assert_true(fabs(m2 / n - 1) < e * sqrt(2));
  assert_true(fabs(m3 / n) < e * sqrt(15));
  assert_true(fabs(m4 / n - 3) < e * sqrt(96));
  for (int g = 1; g <= LAGS; g++) assert_true(fabs(lag[g] / n) < e);
  enum { S = 1000 };
  float a[S], b[S];
  for (int which = 0; which < 4; which++) {
    lc_rng q = r;
    if (which == 0) q.tensor++;
    if (which == 1) q.step++;
    if (which == 2) q.draw++;
    if (which == 3) q.seed++;
    k->normal(&r, 0, S, a);
    k->normal(&q, 0, S, b);
    double both = 0;
    for (int i = 0; i < S; i++) {
      for (int g = -4; g <= 4; g++) assert_true(i + g < 0 || i + g >= S || a[i] != b[i + g]);
      both += (double)a[i] * (double)b[i];
    }
    assert_true(fabs(both / S) < 5 / sqrt(S));
  }
  free(z);
}

/* Item 6: any byte of a record that changes, a record that is missing, other options. */
static void test_checks(void **state) {
  const lc_noise_opts o = opts_of(LC_NOISE_SMALL, 0.6, 0);
  lc_noise_log *log;
  ok(lc_noise_log_new(ctx, &o, 6, &log));
  three_steps(log);
  ok(lc_noise_log_verify(log));
  assert_int_not_equal(lc_noise_log_add(log, 9, 0, 0), LC_OK); /* full */
  for (size_t i = 0; i < 6 * sizeof *log->at; i++) {
    ((uint8_t *)log->at)[i] ^= 0x10;
    assert_int_not_equal(lc_noise_log_verify(log), LC_OK);
    ((uint8_t *)log->at)[i] ^= 0x10;
  }
  ok(lc_noise_log_verify(log));
  log->o.seed++;
  assert_int_not_equal(lc_noise_log_verify(log), LC_OK);
  log->o.seed--;
  memmove(log->at + 2, log->at + 3, 3 * sizeof *log->at);
  log->n = 5;
  assert_int_not_equal(lc_noise_log_verify(log), LC_OK);
  lc_error_clear(ctx);
  lc_noise_log_drop(log);
  lc_noise_opts bad = o;
  bad.sparsity = 1.5;
  assert_int_not_equal(lc_noise_log_new(ctx, &bad, 1, &log), LC_OK);
  lc_error_clear(ctx);
}

/* Any scale, and beside another delta: the change is θ − θ₀, whatever the tile has. */
static void test_scaled(void **state) {
  lc_net *net;
  lc_noise_log *log;
  lc_delta *d;
  const lc_noise_opts o = opts_of(LC_NOISE_SMALL, 0.3, 0);
  ok(lc_net_new(model, LC_F32, &net));
  lc_weight *w = lc_net_weight(net, WEIGHT);
  ok(lc_noise_log_new(ctx, &o, 6, &log));
  three_steps(log);
  ok(lc_delta_noise_new(ctx, w, log, &d));
  float *base = decoded(w, w->base), *zero = calloc((size_t)(w->M * w->N), sizeof *zero);
  d->scale = -0.5f;
  ok(d->ops->patch(ctx, d, (lc_rect){0, w->M, 0, w->N}, zero, w->N));
  for (int64_t j = 0; j < w->M * w->N; j++)
    assert_true(zero[j] == -0.5f * (reference(lc_delta_noise_band(d), log, j, base[j]) - base[j]));
  d->ops->free(ctx, d);
  lc_noise_log_drop(log);
  free(base);
  free(zero);
  lc_net_free(net);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_bits),     TEST(test_pass),    TEST(test_bands),
                                     TEST(test_estimate), TEST(test_shrinks), TEST(test_normals),
                                     TEST(test_checks),   TEST(test_scaled)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
