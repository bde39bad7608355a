/* Calibration gradients: the same as full fine-tuning's dense gradient over the same rows, whatever the byte
 * budget. */
#include "support/world_test.h"

enum { WEIGHTS = 5, ROWS = 7 };
static const char *const names[WEIGHTS] = {
    "model.layers.0.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.weight",
    "model.embed_tokens.weight"};
static float *expected[WEIGHTS], *got[WEIGHTS];
static int64_t size[WEIGHTS];

static void keep(float **to, int i, const float *dw, int64_t n) {
  free(to[i]);
  to[i] = malloc((size_t)n * sizeof(float));
  memcpy(to[i], dw, (size_t)n * sizeof(float));
  size[i] = n;
}

static lc_status keep_full(void *self, lc_training *t) {
  for (int p = 0; p < t->n_param; p++)
    for (int i = 0; i < WEIGHTS; i++)
      if (strcmp(t->param[p]->name, names[i]) == 0) keep(expected, i, t->param[p]->grad, t->param[p]->n);
  return LC_OK;
}

static lc_status keep_one(void *arg, lc_weight *weight, const float *dw) {
  for (int i = 0; i < WEIGHTS; i++)
    if (strcmp(weight->name, names[i]) == 0) keep(got, i, dw, weight->M * weight->N);
  ++*(int *)arg;
  return LC_OK;
}

static size_t budget, grad_after;
static int done_calls;
static lc_status calibrate(void *self, lc_training *t) {
  lc_weight *list[WEIGHTS];
  size_t before = lc_mem_bytes(t->ctx, LC_MEM_GRAD);
  for (int i = 0; i < WEIGHTS; i++) list[i] = lc_net_weight(t->net, names[i]);
  lc_status st = lc_calibrate_gradients(t, list, WEIGHTS, ROWS, budget, keep_one, &done_calls);
  grad_after = lc_mem_bytes(t->ctx, LC_MEM_GRAD) - before;
  return st;
}

/* The first update of a run with batch ROWS sees the rows that calibration sees. */
static void test_same_as_full(void **state) {
  static const size_t budgets[] = {1 << 20, 100000,
                                   76800}; /* all at once; in groups; the embedding's own 300·64·4 */
  lc_method row = *lc_method_find("full");
  row.after_backward = keep_full;
  t_spec s = {.row = &row, .out = "full", .no_eval = true, .opts = "steps=1 batch=7 micro-batch=3"};
  ok(t_train(&w, &s));
  row = *lc_method_find("lora");
  row.calibrate = calibrate;
  for (int b = 0; b < 3; b++) {
    budget = budgets[b];
    done_calls = 0;
    t_spec c = {
        .row = &row, .out = "c", .overwrite = true, .no_eval = true, .opts = "steps=1 batch=8 micro-batch=3"};
    ok(t_train(&w, &c));
    assert_int_equal(done_calls, WEIGHTS);
    assert_int_equal(grad_after, 0);
    for (int i = 0; i < WEIGHTS; i++) {
      double e = lc_tiny_error(got[i], expected[i], size[i]);
      if (!(e < 1e-5)) fail_msg("%s, budget %zu: %.1e from the dense gradient", names[i], budget, e);
    }
  }
  budget = 76799;
  s = (t_spec){.row = &row, .out = "c", .overwrite = true, .no_eval = true, .opts = "steps=1 batch=8"};
  assert_int_equal(t_train(&w, &s), LC_FAILED);
  assert_non_null(
      strstr(lc_error(w.ctx), "'model.embed_tokens.weight' takes 76800 bytes, the budget is 76799"));
  for (int i = 0; i < WEIGHTS; i++) {
    free(got[i]);
    free(expected[i]);
    got[i] = expected[i] = NULL;
  }
}

/* What the method attached before does not keep the calibration's gradients: the run is that without
 * calibration. */
static void test_leaves_no_trace(void **state) {
  lc_method row = *lc_method_find("lora");
  row.calibrate = calibrate;
  budget = 1 << 20;
  t_spec a = {.row = &row, .out = "a", .no_eval = true, .opts = "steps=2 batch=4"},
         b = {.method = "lora", .out = "b", .no_eval = true, .opts = "steps=2 batch=4"};
  ok(t_train(&w, &a));
  ok(t_train(&w, &b));
  assert_true(t_same_files(t_out(&w, "a", "checkpoint-2/state.safetensors"),
                           t_out(&w, "b", "checkpoint-2/state.safetensors")));
  for (int i = 0; i < WEIGHTS; i++) free(got[i]);
}

/* A stop in the middle of it: nothing saved, and a resume begins again. */
static lc_status stop_inside(void *self, lc_training *t) {
  lc_request_stop(t->ctx, 15);
  return calibrate(self, t);
}

static void test_stop(void **state) {
  lc_method row = *lc_method_find("lora");
  row.calibrate = stop_inside;
  t_spec s = {.row = &row, .out = "a", .no_eval = true, .opts = "steps=2 batch=4"};
  assert_int_equal(t_train(&w, &s), LC_STOPPED);
  lc_request_stop(w.ctx, 0);
  s = (t_spec){.method = "lora", .out = "a", .no_eval = true, .opts = "steps=2 batch=4", .resume = true};
  ok(t_train(&w, &s));
  assert_string_equal(t_query(&w, "a", "SELECT count(*) FROM steps"), "2");
}

/* Pairs of preferences are rows of two examples: what is looked at are those of the first pairs, as they stand. */
static double *squares;
static lc_status keep_squares(void *arg, lc_weight *weight, const double *mean) {
  squares = malloc((size_t)weight->N * sizeof *squares);
  memcpy(squares, mean, (size_t)weight->N * sizeof *squares);
  return LC_OK;
}
static lc_status look(void *self, lc_training *t) {
  lc_weight *v = lc_net_weight(t->net, names[1]);
  return lc_calibrate_inputs(t, &v, 1, 20, keep_squares, NULL);
}
static void test_pairs(void **state) {
  lc_dataset *pairs, *plain;
  lc_example all[24];
  const char *path = lc_tiny_path(w.dir, "pairs.jsonl");
  FILE *f = fopen(path, "w");
  for (int i = 0; i < 12; i++)
    fprintf(f, "{\"prompt\": \"row %d\", \"chosen\": \" %d%d\", \"rejected\": \" no %d\"}\n", i, i, 7 * i, i);
  fclose(f);
  ok(lc_data_open(w.ctx, w.tok, path, &(lc_data_opts){.seq = 32}, &pairs));
  for (int i = 0; i < 24; i++) all[i] = lc_data_get(pairs, i);
  ok(lc_data_from_ids(w.ctx, all, 24, &plain));
  lc_method row = *lc_method_find("lora");
  row.calibrate = look;
  double *of[2];
  for (int k = 0; k < 2; k++) {
    t_spec s = {.row = &row,
                .out = "p",
                .overwrite = true,
                .no_eval = true,
                .data = k ? plain : pairs,
                .objective = k ? NULL : "simpo",
                .opts = "steps=1 batch=4 shuffle=false"};
    ok(t_train(&w, &s));
    of[k] = squares;
  }
  assert_memory_equal(of[0], of[1], 64 * sizeof(double));
  free(of[0]);
  free(of[1]);
  lc_data_free(pairs);
  lc_data_free(plain);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_same_as_full),
      TEST(test_leaves_no_trace),
      TEST(test_stop),
      TEST(test_pairs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
