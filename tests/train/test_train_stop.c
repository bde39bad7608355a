/* Interruption and failure: a signal at any moment saves, what goes wrong is one sentence, and the checkpoint
 * before it stands. Output directories: what is refused, what --overwrite removes. */
#include <signal.h>
#include "support/world_test.h"

static int teardown(void **state) {
  signal(SIGTERM, SIG_DFL);
  t_world_close(&w);
  return 0;
}

/* ---- signals: a real one, from inside a hook
 * --------------------------------------------------------------------------------- */

static void handler(int signo) {
  lc_request_stop(w.ctx, signo);
}

/* Where the signal comes: after a micro-batch of update 3, while a result is written, or at an event. */
static struct {
  const char *where;
  int left;
} at;
static const lc_method *inner;

static void maybe(const char *where) {
  if (strcmp(where, at.where) == 0 && --at.left == 0) raise(SIGTERM);
}

static lc_status micro_hook(void *self, lc_training *t) {
  maybe("micro");
  return inner->after_micro ? inner->after_micro(self, t) : LC_OK;
}

static lc_status step_hook(void *self, lc_training *t) {
  maybe("after");
  return inner->after_step ? inner->after_step(self, t) : LC_OK;
}

static lc_status save_hook(void *self, lc_training *t, const char *dir) {
  maybe("save");
  return inner->save(self, t, dir);
}

static int event_hook(void *arg, const char *kind, const struct json_t *e) {
  maybe(kind);
  return 0;
}

static lc_status train_with_signal(const char *method, const char *out, const char *where, int nth) {
  lc_method row = *lc_method_find(method);
  inner = lc_method_find(method);
  row.after_micro = micro_hook;
  row.after_step = step_hook;
  row.save = save_hook;
  at.where = where;
  at.left = nth;
  lc_request_stop(w.ctx, 0);
  signal(SIGTERM, handler);
  t_spec s = {.row = &row,
              .out = out,
              .event = event_hook,
              .opts = "steps=9 batch=4 micro-batch=2 eval-every=3 save-every=4 density=0.05",
              .set = strcmp(method, "spiel") ? "" : "period=4 accumulate=2"};
  return t_train(&w, &s);
}

#define EVALS "SELECT group_concat(step || ':' || loss) FROM evals"

static void test_signals(void **state) {
  static const struct {
    const char *where;
    int nth;
    const char *checkpoint;
  } moment[] = {
      {"micro", 5, "checkpoint-3"}, /* inside update 3, which is finished first */
      {"after", 6, "checkpoint-6"}, /* before an evaluation that is due: it is left to the resumed run */
      {"save", 2, NULL},            /* inside the best, or a checkpoint */
      {"save", 4, NULL},
      {"start", 1, "checkpoint-0"}, /* before step 1, inside the first evaluation */
      {"eval", 2, "checkpoint-3"},
      {"checkpoint", 1, "checkpoint-4"},
  };
  static const char *const methods[] = {"spiel", "lora"};
  for (int m = 0; m < 2; m++) {
    ok(train_with_signal(methods[m], "whole", "never", 0));
    for (size_t i = 0; i < sizeof moment / sizeof *moment; i++) {
      if (train_with_signal(methods[m], "parts", moment[i].where, moment[i].nth) != LC_STOPPED)
        fail_msg("%s %d did not stop", moment[i].where, moment[i].nth);
      assert_int_equal(lc_stop_requested(w.ctx), SIGTERM);
      if (moment[i].checkpoint && !lc_path_exists(t_out(&w, "parts", moment[i].checkpoint)))
        fail_msg("%s %d: no %s", moment[i].where, moment[i].nth, moment[i].checkpoint);
      lc_request_stop(w.ctx, 0);
      t_spec s = {.method = methods[m],
                  .out = "parts",
                  .resume = true,
                  .opts = "steps=9 batch=4 micro-batch=2 eval-every=3 save-every=4 density=0.05",
                  .set = m ? "" : "period=4 accumulate=2"};
      ok(t_train(&w, &s));
      if (!t_same_files(t_out(&w, "whole", "checkpoint-9/state.safetensors"),
                        t_out(&w, "parts", "checkpoint-9/state.safetensors")))
        fail_msg("%s %d: other bits after the resume", moment[i].where, moment[i].nth);
      assert_string_equal(t_query(&w, "whole", EVALS), t_query(&w, "parts", EVALS));
      assert_int_equal(t_lines(t_out(&w, "whole", "log.jsonl"), "{"),
                       t_lines(t_out(&w, "parts", "log.jsonl"), "{"));
      lc_remove_tree(w.ctx, t_out(&w, "parts", ""));
    }
    lc_remove_tree(w.ctx, t_out(&w, "whole", ""));
  }
}

/* Not a signal: a caller that wants no more. */
static int enough(void *arg, const char *kind, const struct json_t *e) {
  return strcmp(kind, "step") == 0;
}

static void test_callback_stops(void **state) {
  t_spec s = {.method = "lora", .out = "a", .event = enough, .opts = "steps=5 batch=4"};
  assert_int_equal(t_train(&w, &s), LC_STOPPED);
  assert_true(lc_path_exists(t_out(&w, "a", "checkpoint-1/state.json")));
  lc_request_stop(w.ctx, 0);
}

/* ---- what is not finite
 * ---------------------------------------------------------------------------------------------------- */

static lc_status poison(void *self, lc_training *t) {
  if (t->step == 4) t->param[3]->value[0] = NAN;
  return LC_OK;
}

static lc_status poison_gradient(void *self, lc_training *t) {
  if (t->step == 4) t->param[2]->grad[1] = INFINITY;
  return LC_OK;
}

static void test_not_finite(void **state) {
  lc_method row = *lc_method_find("lora");
  row.before_step = poison;
  t_spec s = {.row = &row, .out = "a", .opts = "steps=9 batch=4 micro-batch=2 save-every=2"};
  lc_status st = t_train(&w, &s);
  if (!strstr(lc_error(w.ctx), "after step 4, micro-batch 1") || !strstr(lc_error(w.ctx), "not a number"))
    fail_msg("%s", lc_error(w.ctx));
  refused(st, "holds values that are not finite");
  assert_true(lc_path_exists(t_out(&w, "a", "checkpoint-4/state.json")));
  assert_false(lc_path_exists(t_out(&w, "a", "checkpoint-5")));
  row.before_step = NULL;
  row.after_backward = poison_gradient;
  s.out = "b";
  refused(t_train(&w, &s), "step 5: the gradient of 'model.layers.0.mlp.gate_proj");
  s.row = NULL;
  s.method = "lora";
  s.resume = true;
  ok(t_train(&w, &s));
  assert_string_equal(t_query(&w, "b", "SELECT count(*) FROM steps"), "9");
}

/* A write that fails leaves no directory of its own and the checkpoint before it. */
static int saves;
static lc_status failing_save(void *self, lc_training *t, const char *dir) {
  LC_TRY(inner->save(self, t, dir));
  return ++saves >= 4 ? lc_fail(t->ctx, "disk full (as if)") : LC_OK;
}

static void test_failing_save(void **state) {
  lc_method row = *lc_method_find("lora");
  inner = lc_method_find("lora");
  row.save = failing_save;
  saves = 0;
  t_spec s = {.row = &row,
              .out = "a",
              .no_eval = true,
              .opts = "steps=9 batch=4 save-every=2"}; /* 1: the rehearsal */
  refused(t_train(&w, &s), "disk full");
  assert_true(lc_path_exists(t_out(&w, "a", "checkpoint-4/state.json")));
  assert_false(lc_path_exists(t_out(&w, "a", "checkpoint-6")));
  assert_false(lc_path_exists(t_out(&w, "a", ".lacuna-new")));
}

/* ---- output directories
 * ---------------------------------------------------------------------------------------------------- */

static void put(const char *out, const char *name) {
  ok(lc_mkdirs(w.ctx, t_out(&w, out, "")));
  ok(lc_write_file(w.ctx, t_out(&w, out, name), "x", 1));
}

static void test_directories(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=1 batch=4"};
  put("a", "notes.txt");
  refused(t_train(&w, &s), "not empty");
  s.overwrite = true;
  refused(t_train(&w, &s), "holds no run of lacuna");
  s.out = "b";
  s.overwrite = false;
  ok(t_train(&w, &s));
  put("b", "notes.txt");
  put("b", "model-00001-of-00002.safetensors");
  put("b", ".lacuna-new");
  s.overwrite = true;
  s.method = "lora";
  ok(t_train(&w, &s));
  assert_true(lc_path_exists(t_out(&w, "b", "notes.txt")));
  assert_false(lc_path_exists(t_out(&w, "b", "model-00001-of-00002.safetensors")));
  assert_false(lc_path_exists(t_out(&w, "b", ".lacuna-new")));
  assert_string_equal(t_query(&w, "b", "SELECT method || count(*) FROM runs"), "lora1");
  s.out = "model";
  refused(t_train(&w, &s), "the model itself");
  s.out = "data.jsonl";
  refused(t_train(&w, &s), "not a directory");
  s.out = "data.jsonl/x";
  refused(t_train(&w, &s), "data.jsonl");
}

static void test_keep(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=12 batch=4 save-every=1 keep=3"};
  ok(t_train(&w, &s));
  for (int n = 1; n <= 12; n++) {
    char name[32];
    snprintf(name, sizeof name, "checkpoint-%d", n);
    assert_int_equal(lc_path_exists(t_out(&w, "a", name)), n > 9);
  }
}

static void test_options(void **state) {
  static const struct {
    const char *opts, *says;
  } bad[] = {{"steps=1 seq=129", "the model has 128 positions"},
             {"epochs=0", "neither steps nor epochs"},
             {"optimizer=adam", "did you mean 'adamw'"},
             {"beta1=1", "below 1"},
             {"steps=2 targets=nothing_proj", "nothing_proj"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char out[16];
    snprintf(out, sizeof out, "o%zu", i);
    t_spec s = {.method = "shira", .out = out, .opts = bad[i].opts};
    refused(t_train(&w, &s), bad[i].says);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_signals, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_callback_stops, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_not_finite, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_failing_save, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_directories, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_keep, open_world, teardown),
      cmocka_unit_test_setup_teardown(test_options, open_world, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
