/* A resumed run is the run that never stopped, bit for bit: arrays, history, result; whatever the method, and
 * in the middle of SpIEL's window. What must not change is refused by name. */
#include <signal.h>
#include "support/world_test.h"

/* Steps and evaluations of the history without times, as one text. */
#define STEPS                                                                                                \
  "SELECT group_concat(step || ':' || loss || ':' || lr || ':' || grad_norm || ':' || tokens || ':' || "     \
  "targets) FROM steps"
#define EVALS "SELECT group_concat(step || ':' || loss || ':' || targets) FROM evals"

static void same_history(const char *a, const char *b) {
  assert_string_equal(t_query(&w, a, STEPS), t_query(&w, b, STEPS));
  assert_string_equal(t_query(&w, a, EVALS), t_query(&w, b, EVALS));
  assert_string_equal(t_query(&w, a, "SELECT count(*) FROM tensors"),
                      t_query(&w, b, "SELECT count(*) FROM tensors"));
  static const char *const kinds[] = {"\"event\":\"start\"", "\"event\":\"step\"",
                                      "\"event\":\"eval\"",  "\"event\":\"checkpoint\"",
                                      "\"event\":\"done\"",  "\"event\":\"sample\""};
  for (int i = 0; i < 6; i++)
    assert_int_equal(t_lines(t_out(&w, a, "log.jsonl"), kinds[i]),
                     t_lines(t_out(&w, b, "log.jsonl"), kinds[i]));
}

typedef struct {
  const char *method, *set, *result;
} variant;
static const variant variants[] = {
    {"full", "", "model.safetensors"},
    {"lora", "r=4 dropout=0.1", "adapter_model.safetensors"},
    {"shira", "mask=random", "adapter_model.safetensors"},
    {"shira", "mask=snip examples=8", "adapter_model.safetensors"},
    {"spiel", "period=6 accumulate=3", NULL},
    {"spiel", "select=ma period=4 accumulate=2", NULL},
    {"allora", "r=4", "adapter_model.safetensors"},
    {"allora", "r=4 place=lr", "adapter_model.safetensors"},
    {"llava-mole", "r=4 alpha=8", "lacuna_adapter.safetensors"},
    {"mosa", "width=8 scale=1", "lacuna_adapter.safetensors"},
    {"dsee", "r=4 outer=3", "lacuna_adapter.safetensors"},
    {"dsee", "r=4 outer=3 ratio=0 heads=2 support=magnitude", "lacuna_adapter.safetensors"},
    {"s2ft", "v=0.5 o=0.25 u=0.1 d=0.1", "lacuna_adapter.safetensors"},
    {"s2ft", "o=0.25 d=0.1 select=gradient examples=8 layout=lora", "adapter_model.safetensors"},
    {"mezo", "directions=2", "lacuna_adapter.log"},
    {"sparse-mezo", "sparsity=0.5", "lacuna_adapter.log"},
    {"snella", "r=4 interval=3 target=0.5 ema=0.9", "lacuna_adapter.safetensors"},
    {"lift", "filter=4 interval=3", "lacuna_adapter.safetensors"},
    {"lt-sft", "l1-first=10 l1-second=10", "lacuna_adapter.safetensors"},
    {"lt-sft", "iterations=2 dense=embed_tokens", "lacuna_adapter.safetensors"},
    {"lt-sft", "iterations=3 phase=lora scope=layer", "lacuna_adapter.safetensors"},
    {"lt-sft", "select=random", "lacuna_adapter.safetensors"},
    {"sara", "side=16 every=2 progressive=6", "lacuna_adapter.safetensors"},
    {"sara", "threshold=0.01 side=16 every=3", "lacuna_adapter.safetensors"},
};
#define OPTS "steps=11 batch=4 micro-batch=2 eval-every=4 density=0.05 sample-prompt=the sample-tokens=4"

/* Stops after so many updates by a signal, that is a request as its handler makes it. */
static int stop_at(void *arg, const char *kind, const struct json_t *event) {
  int *left = arg;
  if (strcmp(kind, "step") == 0 && --*left == 0) {
    lc_request_stop(w.ctx, SIGTERM);
    return 0;
  }
  return 0;
}

static void test_bits(void **state) {
  for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
    const variant *v = &variants[i];
    char whole[32], parts[32];
    snprintf(whole, sizeof whole, "whole%zu", i);
    snprintf(parts, sizeof parts, "parts%zu", i);
    t_spec s = {.method = v->method, .set = v->set, .out = whole, .opts = OPTS " save-every=3"};
    ok(t_train(&w, &s));
    s.out = parts;
    s.event = stop_at;
    for (int k = 0; k < 2;
         k++) { /* stopped after 4 updates, then after 3 more: between saves and in SpIEL's window */
      int left = k ? 3 : 4;
      s.arg = &left;
      s.resume = k > 0;
      assert_int_equal(t_train(&w, &s), LC_STOPPED);
      lc_request_stop(w.ctx, 0);
    }
    s.event = NULL;
    s.resume = true;
    ok(t_train(&w, &s));
    const char *arrays = "checkpoint-11/state.safetensors";
    if (!t_same_files(t_out(&w, whole, arrays), t_out(&w, parts, arrays)))
      fail_msg("%s %s: the arrays differ", v->method, v->set);
    if (v->result) assert_true(t_same_files(t_out(&w, whole, v->result), t_out(&w, parts, v->result)));
    same_history(whole, parts);
    assert_true(lc_path_exists(t_out(&w, parts, "best/best.json")));
  }
}

/* Going on from an earlier checkpoint than the last removes what came after it, once. */
static void test_earlier_checkpoint(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = OPTS " save-every=2 keep=9"};
  ok(t_train(&w, &s));
  s.out = "b";
  ok(t_train(&w, &s));
  s.from = "checkpoint-4";
  s.opts = OPTS " save-every=2 keep=9 stop-after=5";
  ok(t_train(&w, &s));
  assert_string_equal(t_query(&w, "b", "SELECT max(step) || '/' || count(*) FROM steps"), "5/5");
  assert_false(lc_path_exists(t_out(&w, "b", "checkpoint-6")));
  s.from = NULL;
  s.resume = true;
  s.opts = OPTS " save-every=2 keep=9";
  ok(t_train(&w, &s));
  assert_true(t_same_files(t_out(&w, "a", "checkpoint-11/state.safetensors"),
                           t_out(&w, "b", "checkpoint-11/state.safetensors")));
  assert_string_equal(t_query(&w, "a", STEPS), t_query(&w, "b", STEPS));
}

static void test_more_steps(void **state) {
  static const char *const methods[] = {"lora", "mezo"};
  for (int i = 0; i < 2; i++) {
    t_spec s = {.method = methods[i], .out = "a", .opts = "steps=3 batch=4", .overwrite = true};
    ok(t_train(&w, &s));
    s.resume = true;
    s.overwrite = false;
    s.opts = "steps=5 batch=4 eval-every=1 save-every=1";
    ok(t_train(&w, &s));
    assert_string_equal(t_query(&w, "a", "SELECT count(*) FROM steps"), "5");
    s.out = "b";
    s.resume = false;
    s.overwrite = true;
    ok(t_train(&w, &s));
    assert_true(t_same_files(t_out(&w, "a", "checkpoint-5/state.safetensors"),
                             t_out(&w, "b", "checkpoint-5/state.safetensors")));
  }
}

static void test_refusals(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=2 batch=4"};
  ok(t_train(&w, &s));
  refused(t_train(&w, &s), "not empty");
  static const struct {
    const char *method, *opts, *set, *says;
  } bad[] = {{"lora", "steps=3 batch=4", "", "method was 'shira'"},
             {"shira", "steps=3 batch=4 seed=7", "", "'seed' was '42' and is '7'"},
             {"shira", "steps=3 batch=4 lr=0.5", "", "'lr' was '0.01'"},
             {"shira", "steps=3 batch=5", "", "'batch' was '4'"},
             {"shira", "steps=3 batch=4 micro-batch=1", "", "'micro-batch' was '4'"},
             {"shira", "steps=3 batch=4 schedule=cosine", "", "'schedule' was 'constant'"},
             {"shira", "steps=3 batch=4", "mask=wm", "'mask' was 'random'"}};
  s.resume = true;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    s.method = bad[i].method;
    s.opts = bad[i].opts;
    s.set = bad[i].set;
    refused(t_train(&w, &s), bad[i].says);
  }
  s = (t_spec){.method = "shira", .out = "a", .opts = "steps=3 batch=4", .resume = true, .data = w.eval};
  refused(t_train(&w, &s), "the data changed");
  s = (t_spec){.method = "shira", .out = "none", .opts = "steps=3 batch=4", .resume = true};
  refused(t_train(&w, &s), "nothing to resume");
  s.from = "checkpoint-77";
  refused(t_train(&w, &s), "no such checkpoint");
}

/* A checkpoint of a program that had fewer options: what it does not name had its default. */
static void test_older_checkpoint(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=2 batch=4"};
  ok(t_train(&w, &s));
  const char *path = t_out(&w, "a", "checkpoint-2/state.json");
  json_t *j = json_load_file(path, 0, NULL);
  json_t *identity = json_object_get(j, "identity");
  assert_int_equal(json_object_del(json_object_get(identity, "method_options"), "nth"), 0);
  assert_int_equal(json_object_del(json_object_get(identity, "options"), "clip"), 0);
  assert_int_equal(json_dump_file(j, path, 0), 0);
  json_decref(j);
  s.resume = true;
  s.opts = "steps=3 batch=4 clip=0.5";
  refused(t_train(&w, &s), "'clip' was '1' and is '0.5'");
  s.opts = "steps=3 batch=4";
  s.set = "nth=2";
  refused(t_train(&w, &s), "'nth' was '1' and is '2'");
  s.set = "";
  ok(t_train(&w, &s));
}

/* One wrong byte in an array, a missing array, a cut file. */
static void test_damage(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=2 batch=4"};
  ok(t_train(&w, &s));
  const char *path = t_out(&w, "a", "checkpoint-2/state.safetensors");
  FILE *f = fopen(path, "r+b");
  assert_non_null(f);
  fseek(f, -5, SEEK_END);
  int c = fgetc(f);
  fseek(f, -5, SEEK_END);
  fputc(c ^ 4, f);
  fclose(f);
  s.resume = true;
  s.opts = "steps=3 batch=4";
  refused(t_train(&w, &s), "is damaged");
  lc_status st = lc_write_file(w.ctx, path, "12345678", 8);
  assert_int_equal(st, LC_OK);
  refused(t_train(&w, &s), "state.safetensors");
  remove(t_out(&w, "a", "checkpoint-2/state.json"));
  remove(t_out(&w, "a", "run.sqlite"));
  refused(t_train(&w, &s), "nothing to resume");
}

/* Killed before anything was saved: the run begins again, and the history is not doubled. */
static void test_nothing_saved(void **state) {
  t_spec s = {.method = "shira", .out = "a", .opts = "steps=3 batch=4 keep=0"};
  ok(t_train(&w, &s));
  assert_false(lc_path_exists(t_out(&w, "a", "checkpoint-3")));
  s.resume = true;
  ok(t_train(&w, &s));
  assert_string_equal(t_query(&w, "a", "SELECT count(*) FROM steps"), "3");
  assert_int_equal(t_lines(t_out(&w, "a", "log.jsonl"), "\"event\":\"step\""), 3);
  assert_int_equal(t_lines(t_out(&w, "a", "log.jsonl"), "\"event\":\"done\""), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_bits),          TEST(test_earlier_checkpoint), TEST(test_more_steps),
      TEST(test_refusals),      TEST(test_older_checkpoint),   TEST(test_damage),
      TEST(test_nothing_saved),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
