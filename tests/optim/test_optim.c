/* Optimisers against f64 by hand; schedules against transformers' formulas; clipping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "optim/optim.h"

static lc_ctx *ctx;
static lc_rng rng = {.seed = 9, .purpose = LC_RNG_TEST};
static int setup(void **state) {
  (void)state;
  return lc_ctx_new(2, &ctx, NULL);
}
static int teardown(void **state) {
  (void)state;
  lc_ctx_free(ctx);
  return 0;
}

static lc_param *dense(int64_t rows, int64_t cols) {
  lc_param *p;
  assert_int_equal(lc_param_new(ctx, "p", NULL, NULL, rows, cols, true, &p), LC_OK);
  lc_rng_normal_fill(&rng, 0, p->n, p->value);
  return p;
}

static void adamw_is_torchs(void **state) {
  (void)state;
  enum { N = 35 };
  for (int inside = 0; inside < 2; inside++) {
    lc_param *p = dense(5, 7);
    lc_hyper h = {
        .lr = 0.01, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-6, .eps_inside = inside};
    const lc_optim_ops *o = lc_optim_find("adamw");
    assert_int_equal(o->prepare(ctx, p, &h), LC_OK);
    float *age = NULL;
    if (inside) assert_int_equal(lc_param_column(ctx, p, "age", LC_AXIS_ENTRY, 0, &age), LC_OK);
    if (inside) age[3] = 5; /* an entry with a past */
    double w[N], m[N] = {0}, v[N] = {0};
    for (int i = 0; i < N; i++) w[i] = (double)p->value[i];
    for (int t = 0; t < 20; t++) {
      h.step = t;
      lc_rng_normal_fill(&rng, (uint64_t)(1000 * t), N, p->grad);
      for (int i = 0; i < N; i++) {
        double g = (double)p->grad[i], n = (inside && i == 3 ? 5 : 0) + t + 1, c1 = 1 - pow(0.9, n),
               c2 = 1 - pow(0.999, n);
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.999 * v[i] + 0.001 * g * g;
        if (inside) {
          w[i] -= 0.01 * (m[i] / c1) / ((sqrt(v[i]) + 1e-6) / sqrt(c2));
          w[i] *= 1 - 0.01 * 0.1;
        } else {
          w[i] *= 1 - 0.01 * 0.1;
          w[i] -= 0.01 / c1 * m[i] / (sqrt(v[i]) / sqrt(c2) + 1e-6);
        }
      }
      assert_int_equal(o->update(ctx, p, &h), LC_OK);
    }
    for (int i = 0; i < N; i++) assert_true(fabs(w[i] - (double)p->value[i]) < 2e-6);
    lc_param_free(ctx, p);
  }
}

static void sgd_with_momentum(void **state) {
  (void)state;
  lc_param *p = dense(1, 9);
  p->decays = false;
  lc_hyper h = {.lr = 0.1, .momentum = 0.9, .weight_decay = 5};
  const lc_optim_ops *o = lc_optim_find("sgd");
  assert_int_equal(o->prepare(ctx, p, &h), LC_OK);
  double w = (double)p->value[4], b = 0;
  for (int t = 0; t < 10; t++) {
    for (int i = 0; i < 9; i++) p->grad[i] = (float)(i - t);
    b = 0.9 * b + (4 - t);
    w -= 0.1 * b;
    assert_int_equal(o->update(ctx, p, &h), LC_OK);
  }
  assert_true(fabs(w - (double)p->value[4]) < 1e-5);
  lc_param_free(ctx, p);
}

static void sm3_by_hand(void **state) {
  (void)state;
  enum { M = 4, N = 6 };
  const lc_optim_ops *o = lc_optim_find("sm3");
  int64_t flat[] = {1, 4, 7, 8, 13, 20};
  lc_index idx;
  assert_int_equal(lc_index_new(ctx, M, N, flat, 6, &idx), LC_OK);
  lc_param *p;
  assert_int_equal(lc_param_new(ctx, "s", NULL, &idx, M, N, true, &p), LC_OK);
  lc_hyper h = {.lr = 0.1, .eps = 1e-8, .weight_decay = 0.5};
  assert_int_equal(o->prepare(ctx, p, &h), LC_OK);
  double r[M] = {0}, q[N] = {0}, w[6] = {0};
  for (int t = 0; t < 15; t++) {
    lc_rng_normal_fill(&rng, (uint64_t)(50 * t), 6, p->grad);
    double u[6], r0[M], q0[N];
    memcpy(r0, r, sizeof r), memcpy(q0, q, sizeof q);
    for (int k = 0; k < 6; k++) {
      u[k] = fmin(r0[flat[k] / N], q0[flat[k] % N]) + (double)p->grad[k] * (double)p->grad[k];
      w[k] = (w[k] - 0.1 * (double)p->grad[k] / sqrt(u[k] + 1e-8)) * (1 - 0.1 * 0.5);
      r[flat[k] / N] = fmax(r[flat[k] / N], u[k]);
      q[flat[k] % N] = fmax(q[flat[k] % N], u[k]);
    }
    float before[M];
    memcpy(before, lc_param_find(p, "acc_row"), sizeof before);
    assert_int_equal(o->update(ctx, p, &h), LC_OK);
    for (int i = 0; i < M; i++) assert_true(lc_param_find(p, "acc_row")[i] >= before[i]); /* never falls */
  }
  for (int k = 0; k < 6; k++) assert_true(fabs(w[k] - (double)p->value[k]) < 1e-5);
  assert_true(lc_param_find(p, "acc_row")[2] > 0 &&
              lc_param_find(p, "acc_col")[0] == 0); /* only covers of entries move */
  lc_param_free(ctx, p);

  lc_param *one = dense(1, 1); /* one row, one column: Adagrad */
  h.weight_decay = 0;
  assert_int_equal(o->prepare(ctx, one, &h), LC_OK);
  double x = (double)one->value[0], sum = 0;
  for (int t = 0; t < 10; t++) {
    one->grad[0] = (float)(t - 4);
    sum += (t - 4) * (t - 4);
    x -= 0.1 * (t - 4) / sqrt(sum + 1e-8);
    assert_int_equal(o->update(ctx, one, &h), LC_OK);
  }
  assert_true(fabs(x - (double)one->value[0]) < 1e-5);
  lc_param_free(ctx, one);
}

/* A dense matrix: the cover is its rows and columns; momentum takes the place of the scaled gradient. */
static void sm3_dense_with_momentum(void **state) {
  (void)state;
  enum { M = 5, N = 7 };
  const lc_optim_ops *o = lc_optim_find("sm3");
  lc_param *p = dense(M, N);
  lc_hyper h = {.lr = 0.1, .eps = 1e-8, .momentum = 0.6};
  assert_int_equal(o->prepare(ctx, p, &h), LC_OK);
  double r[M] = {0}, q[N] = {0}, b[M * N] = {0}, w[M * N];
  for (int k = 0; k < M * N; k++) w[k] = (double)p->value[k];
  for (int t = 0; t < 12; t++) {
    lc_rng_normal_fill(&rng, (uint64_t)(400 * t), p->n, p->grad);
    double r0[M], q0[N];
    memcpy(r0, r, sizeof r), memcpy(q0, q, sizeof q);
    for (int k = 0; k < M * N; k++) {
      double g = (double)p->grad[k], u = fmin(r0[k / N], q0[k % N]) + g * g;
      b[k] = 0.6 * b[k] + 0.4 * g / sqrt(u + 1e-8);
      w[k] -= 0.1 * b[k];
      r[k / N] = fmax(r[k / N], u);
      q[k % N] = fmax(q[k % N], u);
    }
    assert_int_equal(o->update(ctx, p, &h), LC_OK);
  }
  for (int k = 0; k < M * N; k++) assert_true(fabs(w[k] - (double)p->value[k]) < 1e-5);
  for (int i = 0; i < M; i++) assert_true(fabs(r[i] - (double)lc_param_find(p, "acc_row")[i]) < 1e-5 * r[i]);
  for (int j = 0; j < N; j++) assert_true(fabs(q[j] - (double)lc_param_find(p, "acc_col")[j]) < 1e-5 * q[j]);
  lc_param_free(ctx, p);
}

static void sgd_decays_apart(void **state) {
  (void)state;
  lc_param *p = dense(1, 3);
  p->lr_factor = 0.5f;
  lc_hyper h = {.lr = 0.2, .weight_decay = 0.3};
  double w = (double)p->value[1];
  assert_int_equal(lc_optim_find("sgd")->prepare(ctx, p, &h), LC_OK);
  assert_int_equal(p->n_col, 0); /* no momentum, no memory */
  for (int t = 0; t < 5; t++) {
    p->grad[1] = (float)t;
    w = w * (1 - 0.1 * 0.3) - 0.1 * t; /* rate 0.2 times the param's factor */
    assert_int_equal(lc_optim_find("sgd")->update(ctx, p, &h), LC_OK);
  }
  assert_true(fabs(w - (double)p->value[1]) < 1e-6);
  lc_param_free(ctx, p);
}

/* Every optimiser over several chunks, and the clipping before it: the same bits for any number of threads,
 * nothing allocated after the first update. */
static void same_bits_for_any_threads(void **state) {
  (void)state;
  enum { M = 300, N = 500, THREADS = 4 };
  for (int i = 0; i < lc_n_optims; i++)
    for (int sparse = 0; sparse < 2; sparse++) {
      float *first = NULL;
      for (int threads = 1; threads <= THREADS; threads++) {
        lc_ctx *c;
        lc_param *p;
        lc_index idx = {0};
        assert_int_equal(lc_ctx_new(threads, &c, NULL), LC_OK);
        if (sparse) {
          int64_t *at = malloc((size_t)(M * N / 2) * sizeof *at);
          assert_int_equal(lc_rng_choose(c, &rng, M * N, M * N / 2, at), LC_OK);
          assert_int_equal(lc_index_new(c, M, N, at, M * N / 2, &idx), LC_OK);
          free(at);
        }
        assert_int_equal(lc_param_new(c, "p", NULL, sparse ? &idx : NULL, M, N, true, &p), LC_OK);
        lc_rng_normal_fill(&rng, 0, p->n, p->value);
        lc_hyper h = {
            .lr = 0.01, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .momentum = 0.5};
        assert_int_equal(lc_optims[i]->prepare(c, p, &h), LC_OK);
        uint64_t calls = 0;
        for (h.step = 0; h.step < 3; h.step++) {
          double norm;
          lc_rng_normal_fill(&rng, (uint64_t)(h.step << 20), p->n, p->grad);
          assert_int_equal(lc_clip_gradients(c, &p, 1, 1, &norm), LC_OK);
          assert_int_equal(lc_optims[i]->update(c, p, &h), LC_OK);
          if (h.step) assert_int_equal(lc_mem_allocations(c), calls);
          calls = lc_mem_allocations(c);
        }
        if (!first) {
          first = malloc((size_t)p->n * sizeof *first);
          memcpy(first, p->value, (size_t)p->n * sizeof *first);
        }
        assert_memory_equal(p->value, first, (size_t)p->n * sizeof *first);
        lc_param_free(c, p);
        lc_ctx_free(c);
      }
      free(first);
    }
}

static void refused(void **state) {
  (void)state;
  assert_null(lc_optim_find("adam"));
  lc_hyper h = {.lr = 0.1, .momentum = 0.5};
  for (int i = 0; i < lc_n_optims; i++) {
    lc_param *p = dense(2, 2), *frozen;
    assert_int_equal(lc_optims[i]->update(ctx, p, &h), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "'p' was not prepared"));
    assert_int_equal(lc_param_new(ctx, "q", NULL, NULL, 2, 2, false, &frozen), LC_OK);
    assert_int_equal(lc_optims[i]->prepare(ctx, frozen, &h), LC_OK);
    assert_int_equal(lc_optims[i]->update(ctx, frozen, &h), LC_FAILED);
    assert_non_null(strstr(lc_error(ctx), "'q' has no gradient"));
    lc_param_free(ctx, p);
    lc_param_free(ctx, frozen);
  }
}

/* transformers' lambdas, as get_{linear,cosine,constant}_schedule_with_warmup define them. */
static double lambda(lc_schedule_kind kind, int64_t step, int64_t planned, int64_t warmup) {
  if (step < warmup) return (double)step / fmax(1, (double)warmup);
  if (kind == LC_SCHEDULE_CONSTANT) return 1;
  if (kind == LC_SCHEDULE_LINEAR)
    return fmax(0, (double)(planned - step) / fmax(1, (double)(planned - warmup)));
  double progress = (double)(step - warmup) / fmax(1, (double)(planned - warmup));
  return fmax(0, 0.5 * (1 + cos(acos(-1) * 0.5 * 2 * progress)));
}

static void schedules(void **state) {
  (void)state;
  assert_int_equal(lc_warmup_steps(0.03, 100), 3);
  assert_int_equal(lc_warmup_steps(0.03, 101), 4);
  assert_int_equal(lc_warmup_steps(7, 100), 7);
  assert_int_equal(lc_warmup_steps(0, 100), 0);
  const int64_t plans[][2] = {{100, 10}, {37, 5}, {20, 0}, {1, 0}, {5, 5}, {4, 9}, {1000, 1}};
  for (int kind = 0; kind < 3; kind++)
    for (int i = 0; i < 7; i++)
      for (int64_t step = 0; step < plans[i][0] + 3; step++) {
        lc_schedule s = {(lc_schedule_kind)kind, plans[i][0], plans[i][1]};
        assert_true(fabs(lc_schedule_at(&s, step) -
                         lambda((lc_schedule_kind)kind, step, plans[i][0], plans[i][1])) < 1e-15);
      }
  lc_schedule linear = {LC_SCHEDULE_LINEAR, 100, 10}, cosine = {LC_SCHEDULE_COSINE, 100, 10};
  assert_true(lc_schedule_at(&linear, 0) == 0 && lc_schedule_at(&linear, 10) == 1 &&
              lc_schedule_at(&linear, 55) == 0.5);
  assert_true(fabs(lc_schedule_at(&linear, 99) - 1.0 / 90) < 1e-12);
  assert_true(fabs(lc_schedule_at(&cosine, 40) - 0.75) < 1e-12);
}

static void clipping(void **state) {
  (void)state;
  lc_param *a = dense(3, 3), *b = dense(2, 2), *frozen = dense(1, 2);
  lc_param *all[] = {a, b, frozen};
  frozen->wants_grad = false;
  for (int i = 0; i < 9; i++) a->grad[i] = 1;
  for (int i = 0; i < 4; i++) b->grad[i] = 2;
  frozen->grad[0] = 1000;
  double norm;
  assert_int_equal(lc_clip_gradients(ctx, all, 3, 10, &norm), LC_OK);
  assert_true(fabs(norm - 5) < 1e-12 && a->grad[0] == 1);
  assert_int_equal(lc_clip_gradients(ctx, all, 3, 1, &norm), LC_OK);
  assert_true(fabs(norm - 5) < 1e-12 && fabs((double)a->grad[0] - 1 / 5.000001) < 1e-6 &&
              frozen->grad[0] == 1000);
  lc_zero_gradients(ctx, all, 3);
  assert_true(a->grad[8] == 0 && b->grad[3] == 0);
  lc_param_free(ctx, a), lc_param_free(ctx, b), lc_param_free(ctx, frozen);
}

static void reindex_moves_all(void **state) {
  (void)state;
  int64_t flat[] = {2, 5, 9};
  lc_index idx;
  assert_int_equal(lc_index_new(ctx, 3, 4, flat, 3, &idx), LC_OK);
  lc_param *p;
  assert_int_equal(lc_param_new(ctx, "s", NULL, &idx, 3, 4, true, &p), LC_OK);
  float *m, *age, *row, tmp[3];
  assert_int_equal(lc_param_column(ctx, p, "m", LC_AXIS_ENTRY, 0, &m), LC_OK);
  assert_int_equal(lc_param_column(ctx, p, "age", LC_AXIS_ENTRY, 1, &age), LC_OK);
  assert_int_equal(lc_param_column(ctx, p, "acc_row", LC_AXIS_ROW, 0, &row), LC_OK);
  assert_int_equal((int)lc_param_bytes(p), 3 * 4 * 4 + 3 * 4);
  row[1] = 8;
  for (int k = 0; k < 3; k++)
    p->value[k] = (float)(k + 1), m[k] = (float)(10 * k), age[k] = (float)(k + 3), p->grad[k] = 4;
  int32_t to[] = {2, 7, 9};
  int64_t from[] = {0, -1, 2};
  assert_int_equal(lc_param_reindex(p, to, from, tmp), LC_OK);
  assert_int_equal(lc_index_at(&p->idx, 1), 7);
  assert_true(p->value[0] == 1 && p->value[1] == 0 && p->value[2] == 3);
  assert_true(m[1] == 0 && m[2] == 20 && age[1] == 1 && age[2] == 5 && row[1] == 8 && p->grad[1] == 0 &&
              p->grad[2] == 4);
  lc_param_free(ctx, p);
}

/* Column "lr": every optimiser moves row i by rate[i] times as far, and a row at 0 keeps value and state. On a whole
 * tensor and on a list of entries. */
/* A change with an origin decays as the sum of both would. */
static void decay_falls_on_the_origin(void **state) {
  (void)state;
  enum { N = 35 };
  for (int o = 0; o < lc_n_optims; o++)
    for (int inside = 0; inside < 2; inside++) {
      lc_param *whole = dense(5, 7), *change = dense(5, 7);
      lc_hyper h = {
          .lr = 0.01, .weight_decay = 0.5, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .eps_inside = inside};
      float *origin;
      assert_int_equal(lc_param_column(ctx, change, LC_ORIGIN, LC_AXIS_ENTRY, 0, &origin), LC_OK);
      for (int i = 0; i < N; i++) {
        origin[i] = whole->value[i];
        change->value[i] = 0;
      }
      assert_int_equal(lc_optims[o]->prepare(ctx, whole, &h), LC_OK);
      assert_int_equal(lc_optims[o]->prepare(ctx, change, &h), LC_OK);
      for (h.step = 0; h.step < 20; h.step++) {
        lc_rng_normal_fill(&rng, (uint64_t)(1000 * h.step), N, whole->grad);
        memcpy(change->grad, whole->grad, N * sizeof(float));
        assert_int_equal(lc_optims[o]->update(ctx, whole, &h), LC_OK);
        assert_int_equal(lc_optims[o]->update(ctx, change, &h), LC_OK);
      }
      for (int i = 0; i < N; i++)
        assert_true(fabsf(whole->value[i] - (origin[i] + change->value[i])) < 1e-5f);
      lc_param_free(ctx, whole);
      lc_param_free(ctx, change);
    }
}

static void rates_of_rows(void **state) {
  enum { M = 5, N = 7, K = 12 };
  static const int64_t at[K] = {0, 3, 6, 7, 9, 15, 16, 20, 21, 27, 30, 34};
  for (int o = 0; o < lc_n_optims; o++)
    for (int sparse = 0; sparse < 2; sparse++) {
      const lc_hyper h = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .momentum = 0.9};
      lc_param *p[2];
      for (int r = 0; r < 2; r++) {
        lc_index idx = {0};
        lc_weight of = {.name = "w", .M = M, .N = N, .ndim = 2};
        if (sparse) assert_int_equal(lc_index_new(ctx, M, N, at, K, &idx), LC_OK);
        assert_int_equal(lc_param_new(ctx, "p", sparse ? &of : NULL, sparse ? &idx : NULL, M, N, true, &p[r]),
                         LC_OK);
        float *rate;
        if (r) {
          assert_int_equal(lc_param_column(ctx, p[r], LC_RATE, LC_AXIS_ROW, 1, &rate), LC_OK);
          for (int m = 0; m < M; m++) rate[m] = (float)m;
        }
        assert_int_equal(lc_optims[o]->prepare(ctx, p[r], &h), LC_OK);
        for (int64_t k = 0; k < p[r]->n; k++) p[r]->grad[k] = 1 + 0.1f * (float)k;
        assert_int_equal(lc_optims[o]->update(ctx, p[r], &h), LC_OK);
      }
      for (int64_t k = 0; k < p[0]->n; k++) {
        const int64_t row = (sparse ? at[k] : k) / N;
        const float want = (float)row * p[0]->value[k];
        assert_true(fabsf(p[1]->value[k] - want) <= 1e-6f * fabsf(want));
        for (int c = 0; c < p[1]->n_col && row == 0; c++)
          if (p[1]->col[c].axis == LC_AXIS_ENTRY) assert_true(p[1]->col[c].data[k] == 0);
      }
      lc_param_free(ctx, p[0]);
      lc_param_free(ctx, p[1]);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(adamw_is_torchs),
                                     cmocka_unit_test(sgd_with_momentum),
                                     cmocka_unit_test(sgd_decays_apart),
                                     cmocka_unit_test(rates_of_rows),
                                     cmocka_unit_test(decay_falls_on_the_origin),
                                     cmocka_unit_test(sm3_dense_with_momentum),
                                     cmocka_unit_test(same_bits_for_any_threads),
                                     cmocka_unit_test(refused),
                                     cmocka_unit_test(sm3_by_hand),
                                     cmocka_unit_test(schedules),
                                     cmocka_unit_test(clipping),
                                     cmocka_unit_test(reindex_moves_all)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
