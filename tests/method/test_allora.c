/* ALLoRA (arXiv 2410.09692), item by item: its coefficients, where they act and where they do not. */
#define WORLD_THREADS 1
#include "method/method_test.h"
#include "optim/optim.h"

/* ---- what a run had: all values and all gradients, by hooks on a copy of a row ---- */

enum { MAX_PARAMS = 64 };
typedef struct {
  float *value[MAX_PARAMS], *grad[MAX_PARAMS];
  int64_t n[MAX_PARAMS], rows[MAX_PARAMS], cols[MAX_PARAMS];
  int count;
} seen;
static seen *into;
static bool random_b, freeze_a;
static lc_hook attach_of_row, before_of_row;

static lc_status look(void *self, lc_training *t) {
  into->count = t->n_param;
  for (int i = 0; i < t->n_param; i++) {
    const lc_param *p = t->param[i];
    into->n[i] = p->n;
    into->rows[i] = p->rows;
    into->cols[i] = p->cols;
    into->value[i] = malloc((size_t)p->n * sizeof(float));
    into->grad[i] = malloc((size_t)p->n * sizeof(float));
    memcpy(into->value[i], p->value, (size_t)p->n * sizeof(float));
    memcpy(into->grad[i], p->grad, (size_t)p->n * sizeof(float));
  }
  return LC_OK;
}

static void forget(seen *s) {
  for (int i = 0; i < s->count; i++) free(s->value[i]), free(s->grad[i]);
  *s = (seen){0};
}

/* Factors B that are not zero, the same in every run. */
static lc_status start(void *self, lc_training *t) {
  LC_TRY(attach_of_row(self, t));
  for (int i = 0; i < t->adapter->n; i++) {
    lc_param *A = t->adapter->delta[i]->param[0], *B = t->adapter->delta[i]->param[1];
    const lc_rng rng = {.seed = 5, .tensor = lc_fnv1a32(B->name), .purpose = LC_RNG_TEST};
    if (random_b) lc_rng_normal_fill(&rng, 0, B->n, B->value);
    for (int64_t k = 0; random_b && k < B->n; k++) B->value[k] *= 0.05f * (float)(1 + k / B->cols % 5);
    A->wants_grad = !freeze_a;
  }
  return LC_OK;
}

static void run(const char *method, const char *set, const char *opts, bool gradients, seen *s) {
  lc_method row = *lc_method_find(method);
  into = s;
  attach_of_row = row.attach;
  row.attach = start;
  if (gradients)
    row.after_backward = look;
  else
    row.finish = look;
  t_spec spec = {.row = &row, .out = "r", .set = set, .opts = opts, .no_eval = true, .overwrite = true};
  ok(t_train(&w, &spec));
}

#define SGD "steps=1 batch=4 optimizer=sgd momentum=0 clip=0 weight-decay=0"

/* Items 1 and 2. */
static void test_first_step(void **state) {
  seen lora = {0}, one = {0}, eight = {0}, start_values = {0};
  random_b = freeze_a = false;
  run("lora", "r=4 alpha=4", SGD, false, &lora);
  run("allora", "r=4 eta=1", SGD, false, &one);
  run("allora", "r=4 eta=8", SGD, false, &eight);
  run("allora", "r=4 eta=8", SGD, true, &start_values);
  for (int i = 0; i < lora.count; i++) {
    assert_memory_equal(lora.value[i], one.value[i], (size_t)lora.n[i] * sizeof(float));
    const bool is_a = i % 2 == 0; /* B started at 0: its value is its step */
    for (int64_t k = 0; k < lora.n[i]; k++)
      assert_true(eight.value[i][k] == (is_a ? lora.value[i][k] : 8 * lora.value[i][k]));
    for (int64_t k = 0; is_a && k < lora.n[i]; k++) assert_true(start_values.grad[i][k] == 0);
  }
  forget(&lora), forget(&one), forget(&eight), forget(&start_values);
}

/* Norms of the rows of the dense product, in f64. */
static void norms(const seen *s, int i, int kind, double *out) {
  const float *A = s->value[i], *B = s->value[i + 1];
  const int64_t R = s->rows[i], N = s->cols[i], M = s->rows[i + 1];
  double all = 0;
  for (int64_t m = 0; m < M; m++) {
    out[m] = 0;
    for (int64_t j = 0; j < (kind == 1 ? R : N); j++) {
      double v = kind == 1 ? (double)B[m * R + j] : 0;
      for (int64_t r = 0; r < R && kind != 1; r++) v += (double)B[m * R + r] * (double)A[r * N + j];
      out[m] += v * v;
    }
    all += out[m];
    out[m] = sqrt(out[m]);
  }
  for (int64_t m = 0; m < M && kind == 2; m++) out[m] = sqrt(all);
}

/* Items 3 and 5: dB = diag(c)·dB_lora to 1e-5 with c by brute force; dA = Bᵀ·diag(c)·dW against dW from dense sinks. */
static float *dense[MAX_PARAMS];
static lc_status take_tile(void *self, lc_weight *wt, const lc_tile *t) {
  float *to = self;
  for (int64_t r = t->at.r0; r < t->at.r1; r++)
    for (int64_t c = 0; c < wt->N; c++) to[r * wt->N + c] += t->dw[(r - t->at.r0) * t->ld + c];
  return LC_OK;
}
static lc_status start_dense(void *self, lc_training *t) {
  LC_TRY(start(self, t));
  for (int i = 0; i < t->adapter->n; i++) {
    lc_weight *wt = t->adapter->delta[i]->w;
    dense[i] = calloc((size_t)(wt->M * wt->N), sizeof(float));
    LC_TRY(lc_weight_add_sink(t->ctx, wt,
                              (lc_sink){.kind = LC_SINK_TILES, .tile = take_tile, .self = dense[i]}));
  }
  return LC_OK;
}
static lc_status clear_dense(void *self, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++)
    memset(dense[i], 0, (size_t)(t->adapter->delta[i]->w->M * t->adapter->delta[i]->w->N) * sizeof(float));
  return before_of_row ? before_of_row(self, t) : LC_OK;
}

static void test_gradients(void **state) {
  static const struct {
    const char *set;
    int kind, power;
  } c[] = {{"r=4 eta=4", 0, 0},
           {"r=4 eta=4 norm=row_b", 1, 0},
           {"r=4 eta=4 norm=matrix", 2, 0},
           {"r=4 eta=4 power=1", 0, 1},
           {"r=4 eta=4 norm=matrix power=1", 2, 1}};
  random_b = true;
  freeze_a = false;
  for (size_t v = 0; v < sizeof c / sizeof *c; v++) {
    seen s = {0};
    lc_method row = *lc_method_find("allora");
    into = &s;
    attach_of_row = row.attach;
    before_of_row = row.before_step;
    row.attach = start_dense;
    row.before_step = clear_dense;
    row.after_backward = look;
    t_spec spec = {.row = &row, .out = "r", .set = c[v].set, .opts = SGD, .no_eval = true, .overwrite = true};
    ok(t_train(&w, &spec));
    for (int i = 0; i + 1 < s.count; i += 2) {
      const int64_t R = s.rows[i], N = s.cols[i], M = s.rows[i + 1];
      const float *A = s.value[i], *B = s.value[i + 1], *dW = dense[i / 2];
      double norm[512];
      float *dA = calloc((size_t)(R * N), sizeof *dA), *dB = calloc((size_t)(M * R), sizeof *dB);
      norms(&s, i, c[v].kind, norm);
      for (int64_t m = 0; m < M; m++) {
        const double k = c[v].power ? 1 / (norm[m] + 1 / 4.0) : 1 / sqrt(norm[m] + 1 / 16.0);
        assert_true(k <= 4 + 1e-9);
        for (int64_t r = 0; r < R; r++)
          for (int64_t j = 0; j < N; j++) {
            dB[m * R + r] += (float)(k * (double)dW[m * N + j] * (double)A[r * N + j]);
            dA[r * N + j] += (float)(k * (double)dW[m * N + j] * (double)B[m * R + r]);
          }
      }
      const double eb = lc_tiny_error(s.grad[i + 1], dB, M * R), ea = lc_tiny_error(s.grad[i], dA, R * N);
      if (!(ea < 1e-5 && eb < 1e-5)) fail_msg("%s: dA %.1e, dB %.1e from the formulas", c[v].set, ea, eb);
      free(dA), free(dB);
    }
    for (int i = 0; i < s.count / 2; i++) free(dense[i]);
    forget(&s);
  }
}

/* depends=output with one huge η⁻² or a constant z is a constant; in general it is neither LoRA's gradient nor not finite. */
static void test_output(void **state) {
  seen lora = {0}, out = {0}, small = {0};
  random_b = true;
  freeze_a = false;
  run("lora", "r=4 alpha=4", SGD, true, &lora);
  run("allora", "r=4 eta=4 depends=output", SGD, true, &out);
  run("allora", "r=4 eta=0.001 depends=output", SGD, true, &small); /* 1/η² dwarfs z: c = η */
  for (int i = 0; i < lora.count; i++) {
    for (int64_t k = 0; k < lora.n[i]; k++) assert_true(isfinite(out.grad[i][k]));
    assert_true(lc_tiny_error(out.grad[i], lora.grad[i], lora.n[i]) > 0.1);
    for (int64_t k = 0; k < lora.n[i]; k++) small.grad[i][k] *= 1000;
    assert_true(lc_tiny_error(small.grad[i], lora.grad[i], lora.n[i]) < 1e-4);
  }
  forget(&lora), forget(&out), forget(&small);
}

/* Item 4: a gain on all layers but the first leaves the first one's gradients bit for bit. */
static float gain[4096];
static lc_status gains(void *self, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++)
    if (t->adapter->delta[i]->w->layer > 0) lc_delta_lora_gain(t->adapter->delta[i], (lc_gain){.row = gain});
  return LC_OK;
}
static void test_true_dx(void **state) {
  seen plain = {0}, with = {0};
  random_b = true;
  freeze_a = false;
  for (int k = 0; k < 4096; k++) gain[k] = 0.25f + (float)(k % 7);
  run("lora", "r=4 alpha=4", SGD, true, &plain);
  lc_method row = *lc_method_find("lora");
  into = &with;
  attach_of_row = row.attach;
  row.attach = start;
  row.calibrate = gains;
  row.after_backward = look;
  t_spec spec = {
      .row = &row, .out = "r", .set = "r=4 alpha=4", .opts = SGD, .no_eval = true, .overwrite = true};
  ok(t_train(&w, &spec));
  int same = 0, other = 0;
  for (int i = 0; i < plain.count; i++) {
    const bool equal = !memcmp(plain.grad[i], with.grad[i], (size_t)plain.n[i] * sizeof(float));
    same += equal;
    other += !equal;
  }
  assert_int_equal(same, plain.count / 2); /* layer 0 of two */
  assert_int_equal(other, plain.count / 2);
  forget(&plain), forget(&with);
}

/* Item 6: c constant over time cancels in AdamW, not in SGD; as a rate it counts in both. */
static void trajectory(const char *opts, bool gained, seen *s) {
  lc_method row = *lc_method_find("lora");
  into = s;
  attach_of_row = row.attach;
  row.attach = start;
  if (gained) row.calibrate = gains;
  row.finish = look;
  t_spec spec = {
      .row = &row, .out = "r", .set = "r=4 alpha=4", .opts = opts, .no_eval = true, .overwrite = true};
  ok(t_train(&w, &spec));
}
#define ADAM                                                                                                 \
  "steps=8 batch=4 optimizer=adamw eps=1e-12 clip=0 weight-decay=0 "                                         \
  "targets=re:.*layers\\.1\\.mlp\\.down_proj"
#define SLOW                                                                                                 \
  "steps=1 batch=4 optimizer=sgd momentum=0 clip=0 weight-decay=0 targets=re:.*layers\\.1\\.mlp\\.down_proj"
static void test_cancellation(void **state) {
  seen plain = {0}, with = {0};
  random_b = false;
  freeze_a = true;
  for (int k = 0; k < 4096; k++) gain[k] = 0.25f + (float)(k % 7);
  trajectory(ADAM, false, &plain);
  trajectory(ADAM, true, &with);
  assert_true(lc_tiny_error(with.value[1], plain.value[1], plain.n[1]) < 1e-4);
  forget(&plain), forget(&with);
  trajectory(SLOW, false, &plain);
  trajectory(SLOW, true, &with);
  double most = 0;
  for (int64_t k = 0; k < plain.n[1]; k++)
    most = fmax(most, fabs((double)gain[k / plain.cols[1]] * (double)plain.value[1][k]));
  for (int64_t k = 0; k < plain.n[1]; k++) { /* from B = 0 the first step of row i is c_i times LoRA's */
    const double want = (double)gain[k / plain.cols[1]] * (double)plain.value[1][k];
    assert_true(fabs((double)with.value[1][k] - want) <=
                1e-5 * fabs(want) + 1e-6 * most); /* most: of sums that cancel */
  }
  forget(&plain), forget(&with);
}

static void test_place_lr(void **state) {
  seen lora = {0}, rate = {0}, plus = {0};
  random_b = freeze_a = false;
  run("lora", "r=4 alpha=4", "steps=1 batch=4 clip=0 weight-decay=0", false, &lora);
  run("allora", "r=4 eta=8 place=lr", "steps=1 batch=4 clip=0 weight-decay=0", false, &rate);
  run("lora", "r=4 alpha=4 b-rate=8", "steps=1 batch=4 clip=0 weight-decay=0", false, &plus);
  for (int i = 1; i < lora.count; i += 2) /* AdamW: the first step of B is 8 times LoRA's */
    for (int64_t k = 0; k < lora.n[i]; k++)
      assert_true(fabsf(rate.value[i][k] - 8 * lora.value[i][k]) <= 1e-6f * fabsf(8 * lora.value[i][k]));
  for (int i = 1; i < lora.count; i += 2) /* and so is LoRA+ of ratio 8 */
    assert_true(lc_tiny_error(plus.value[i], rate.value[i], plus.n[i]) < 1e-6);
  forget(&lora), forget(&rate), forget(&plus);
}

/* Item 8. */
static void test_refusals(void **state) {
  static const refusal bad[] = {{"dropout=0.1", "steps=1", "dropout"},
                                {"r=4 alpha=8", "steps=1", "alpha"},
                                {"eta=0", "steps=1", "eta"},
                                {"depends=output place=lr", "steps=1", "place=grad"}};
  refuses("allora", bad, sizeof bad / sizeof *bad);
  t_spec s = {
      .method = "allora", .set = "r=4 alpha=4 dropout=0", .out = "yes", .opts = "steps=1", .no_eval = true};
  ok(t_train(&w, &s));
}

/* Item 9: micro-batches; items 10: the log. */
static void test_accumulation(void **state) {
  static const char *const sets[] = {"r=4 eta=4", "r=4 eta=4 depends=output"};
  random_b = true;
  freeze_a = false;
  for (int v = 0; v < 2; v++) {
    seen whole = {0}, parts = {0};
    run("allora", sets[v], "steps=1 batch=8 micro-batch=8", true, &whole);
    run("allora", sets[v], "steps=1 batch=8 micro-batch=3", true, &parts);
    for (int i = 0; i < whole.count; i++)
      assert_true(lc_tiny_error(parts.grad[i], whole.grad[i], whole.n[i]) < 1e-5);
    forget(&whole), forget(&parts);
  }
}

static char said[4096];
static void hear(void *arg, lc_log_level level, const char *line) {
  strncat(said, line, sizeof said - strlen(said) - 1);
}
static void test_clip_is_told(void **state) {
  lc_set_log(w.ctx, hear, NULL);
  *said = 0;
  t_spec s = {
      .method = "allora", .out = "log", .opts = "steps=1 clip=0.5", .no_eval = true, .overwrite = true};
  ok(t_train(&w, &s));
  assert_non_null(strstr(said, "after the coefficients"));
  lc_set_log(w.ctx, NULL, NULL);
  /* and is: with a clip far below the norm, the gradient that SGD follows has that norm, coefficients included */
  seen a = {0};
  random_b = freeze_a = false;
  run("allora", "r=4 eta=8", "steps=1 batch=4 optimizer=sgd momentum=0 lr=1 clip=0.001 weight-decay=0", false,
      &a);
  double sum = 0;
  for (int i = 1; i < a.count; i += 2)
    for (int64_t k = 0; k < a.n[i]; k++) sum += (double)a.value[i][k] * (double)a.value[i][k];
  assert_true(fabs(sqrt(sum) - 0.001) < 1e-5);
  forget(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_first_step), TEST(test_gradients),    TEST(test_output),
                                     TEST(test_true_dx),    TEST(test_cancellation), TEST(test_place_lr),
                                     TEST(test_refusals),   TEST(test_accumulation), TEST(test_clip_is_told)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
