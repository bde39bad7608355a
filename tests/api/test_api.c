/* A program that knows lacuna.h only: every function of it, on a tiny model made by another part of the tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <lacuna.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *lc_tiny_world(void); /* support/tiny_world.c: a directory with "model" and "text.txt" */
void lc_tiny_world_end(char *);

static char *dir, path_buf[8][512];
static lc_ctx *ctx;
static lc_model *model;

static const char *in_dir(const char *name) {
  static int at;
  char *p = path_buf[at++ % 8];
  snprintf(p, sizeof path_buf[0], "%s/%s", dir, name);
  return p;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static void refused(lc_status st, const char *says) {
  assert_int_not_equal(st, LC_OK);
  if (!strstr(lc_error(ctx), says)) fail_msg("'%s' lacks '%s'", lc_error(ctx), says);
}

static int setup(void **state) {
  char why[256] = "";
  dir = lc_tiny_world();
  if (!dir || lc_ctx_new(2, &ctx, why)) fail_msg("%s", why);
  ok(lc_model_open(ctx, in_dir("model"), &model));
  return 0;
}

static int teardown(void **state) {
  lc_model_close(model);
  lc_ctx_free(ctx);
  lc_tiny_world_end(dir);
  return 0;
}

static lc_net *net_of(const char *dtype) {
  lc_net *net;
  ok(lc_net_open(model, dtype, &net));
  return net;
}

static void test_model(void **state) {
  lc_model *none;
  lc_net *net;
  assert_string_not_equal(lc_version(), "");
  assert_int_equal(lc_model_vocabulary(model), 300);
  assert_true(lc_model_parameters(model) > 300 * 64);
  refused(lc_model_open(ctx, in_dir("nowhere"), &none), "nowhere");
  assert_null(none);
  refused(lc_net_open(model, "int3", &net), "int3");
  lc_net_free(NULL);
  lc_session_free(NULL);
  lc_options_free(NULL);
}

static void test_tokens(void **state) {
  static const char text[] = "two birds fly far";
  lc_net *net = net_of("f32");
  int32_t ids[64];
  char back[64];
  int64_t n = 0, fewer = 0;
  size_t bytes = 0;
  ok(lc_text_to_ids(net, text, strlen(text), false, ids, 64, &n));
  assert_in_range(n, 1, 64);
  ok(lc_text_to_ids(net, text, strlen(text), false, NULL, 0, &fewer));
  assert_int_equal(fewer, n);
  ok(lc_ids_to_text(net, ids, n, back, sizeof back, &bytes));
  assert_int_equal(bytes, strlen(text));
  assert_memory_equal(back, text, bytes);
  ids[0] = 300;
  refused(lc_ids_to_text(net, ids, n, back, sizeof back, &bytes), "300");
  lc_net_free(net);
}

typedef struct {
  int steps, done;
  int stop_at;
} events;

static int count(void *arg, const char *kind, const char *json) {
  events *e = arg;
  assert_int_equal(json[0], '{');
  assert_non_null(strstr(json, kind));
  e->done += !strcmp(kind, "done");
  e->steps += !strcmp(kind, "step");
  return e->stop_at && e->steps == e->stop_at;
}

static double perplexity(lc_net *net) {
  static const char text[] =
      "the cat sat on a mat and saw two birds fly far away, and the dog ran after them.";
  lc_result r;
  ok(lc_perplexity(net, text, strlen(text), 32, &r));
  assert_true(r.tokens > 0 && fabs(exp(r.loss) / r.perplexity - 1) < 1e-6);
  return r.perplexity;
}

static lc_options *options(const char *method) {
  lc_options *o;
  static const char *const set[][2] = {{"steps", "6"},      {"batch", "2"}, {"seq", "32"},
                                       {"density", "0.05"}, {"lr", "0.01"}, {"dtype", "f32"}};
  ok(lc_options_new(ctx, method, &o));
  for (size_t i = 0; i < sizeof set / sizeof *set; i++) ok(lc_options_put(o, set[i][0], set[i][1]));
  return o;
}

static void test_options(void **state) {
  lc_options *o, *none;
  refused(lc_options_new(ctx, "shirra", &none), "shirra");
  assert_null(none);
  ok(lc_options_new(ctx, "shira", &o));
  ok(lc_options_put(o, "mask", "wm"));
  assert_int_equal(lc_options_put(o, "destiny", "1"), LC_USAGE);
  assert_int_equal(lc_options_put(o, "density", "1.5"), LC_USAGE);
  refused(lc_options_put(o, "maks", "wm"), "maks");
  refused(lc_options_put(o, "with.beta", "1"), "put the objective first");
  refused(lc_options_put(o, "objective", "dop"), "no objective 'dop'");
  ok(lc_options_put(o, "objective", "dpo"));
  ok(lc_options_put(o, "with.beta", "0.5"));
  refused(lc_options_put(o, "with.group", "4"), "group");
  ok(lc_options_put(o, "objective", "sft"));
  refused(lc_options_put(o, "with.beta", "1"), "no options");
  lc_options_free(o);
}

static void test_train_stop_resume(void **state) {
  lc_net *net = net_of("f32"), *again = net_of("f32"), *read = net_of("f32");
  lc_options *o = options("shira");
  lc_job job = LC_JOB_INIT;
  events e = {0}, stopping = {.stop_at = 2};
  double before = perplexity(net), after;
  refused(lc_fine_tune(net, o, &job, NULL, NULL), "data");
  job.data = in_dir("text.txt");
  job.eval_data = in_dir("text.txt");
  job.out = in_dir("run");
  ok(lc_fine_tune(net, o, &job, count, &e));
  assert_int_equal(e.steps, 6);
  assert_int_equal(e.done, 1);
  after = perplexity(net);
  assert_true(after < before);
  refused(lc_fine_tune(again, o, &job, NULL, NULL), "not empty");
  job.out = in_dir("stopped");
  assert_int_equal(lc_fine_tune(again, o, &job, count, &stopping), LC_STOPPED);
  lc_net_free(again);
  lc_adapter *a;
  ok(lc_adapter_open(read, in_dir("run"), 1, "patch", &a));
  assert_true(fabs(perplexity(read) / after - 1) < 1e-5);
  ok(lc_adapter_scale(a, 0));
  assert_true(perplexity(read) == before);
  ok(lc_adapter_scale(a, 1));
  ok(lc_adapter_write(a, "native", in_dir("native")));
  ok(lc_adapter_remove(a));
  assert_true(perplexity(read) == before);
  refused(lc_adapter_open(read, in_dir("native"), 1, "sideways", &a), "sideways");
  ok(lc_adapter_open(read, in_dir("native"), 1, "aside", &a));
  refused(lc_adapter_write(a, "parquet", in_dir("no")), "parquet");
  ok(lc_net_write(read, in_dir("merged.gguf"), "f32"));
  refused(lc_net_write(read, in_dir("merged"), "q8_0"), "q8_0");
  lc_net_free(read);
  lc_model *merged;
  ok(lc_model_open(ctx, in_dir("merged.gguf"), &merged));
  ok(lc_net_open(merged, "f32", &read));
  assert_true(fabs(perplexity(read) / after - 1) < 1e-4);
  lc_net_free(read);
  lc_model_close(merged);
  lc_options_free(o);
  lc_net_free(net);
}

static int append(void *arg, const char *text, size_t n) {
  strncat(arg, text, n);
  return 0;
}

static int stop_at_once(void *arg, const char *text, size_t n) {
  return 1;
}

static void write_bytes(const char *path, const unsigned char *head, size_t n_head, size_t n, int of) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  fwrite(head, 1, n_head, f);
  for (size_t i = 0; i < n; i++) fputc(of ? (int)(i % (size_t)of) : (int)(i * 37 % 251), f);
  fclose(f);
}

/* A network with labels, that sees: its rows are pictures. */
static void test_train_labels(void **state) {
  static const unsigned char pictures[16] = {0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 12, 0, 0, 0, 12},
                             labels[8] = {0, 0, 8, 1, 0, 0, 0, 9};
  lc_model *sees;
  lc_net *net;
  lc_options *o;
  write_bytes(in_dir("a-images-idx3-ubyte"), pictures, 16, 9 * 144, 0);
  write_bytes(in_dir("a-labels-idx1-ubyte"), labels, 8, 9, 3);
  ok(lc_model_open(ctx, "golden/vit-classify", &sees));
  ok(lc_net_open(sees, "f32", &net));
  ok(lc_options_new(ctx, "lora", &o));
  ok(lc_options_put(o, "steps", "2"));
  lc_job job = LC_JOB_INIT;
  job.data = in_dir("a-images-idx3-ubyte");
  job.out = in_dir("labels");
  refused(lc_fine_tune(net, o, &job, NULL, NULL), "has labels: --task classification");
  ok(lc_options_put(o, "task", "classification"));
  ok(lc_fine_tune(net, o, &job, NULL, NULL));
  lc_options_free(o);
  lc_net_free(net);
  lc_model_close(sees);
}

static void test_generate(void **state) {
  lc_net *net = net_of("f32");
  lc_session *s;
  lc_generation how = LC_GENERATION_INIT;
  lc_generated got;
  char one[512] = "", two[512] = "";
  ok(lc_session_open(net, 64, &s));
  how.max_tokens = 12;
  how.seed = 5;
  how.ignore_eos = true;
  ok(lc_generate(s, "the cat", &how, append, one, &got));
  ok(lc_generate(s, "the cat", &how, append, two, NULL));
  assert_string_equal(one, two);
  assert_int_equal(got.generated_tokens, 12);
  assert_string_equal(got.finish_reason, "length");
  ok(lc_generate(s, "the cat", &how, stop_at_once, NULL, &got));
  assert_string_equal(got.finish_reason, "callback");
  ok(lc_generate(s, "the cat", &how, NULL, NULL, NULL));
  how.size = 4;
  refused(lc_generate(s, "the cat", &how, NULL, NULL, NULL), "LC_GENERATION_INIT");
  how.size = sizeof how;
  refused(lc_generate(s, "", &how, NULL, NULL, NULL), "empty");
  lc_session_free(s);
  lc_net_free(net);
}

/* All logits of a pass are those of one id at a time. */
static void test_feed(void **state) {
  static const int32_t ids[5] = {5, 17, 9, 250, 33};
  lc_net *net = net_of("f32");
  lc_session *s;
  float *all = malloc(5 * 300 * sizeof *all), last[300];
  ok(lc_session_open(net, 0, &s));
  ok(lc_session_feed(s, ids, 5, true, all));
  lc_session_truncate(s, 2);
  for (int i = 2; i < 5; i++) {
    ok(lc_session_feed(s, ids + i, 1, false, last));
    for (int v = 0; v < 300; v++) assert_true(fabsf(last[v] - all[i * 300 + v]) < 1e-3f);
  }
  free(all);
  lc_session_free(s);
  lc_net_free(net);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_model),        cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_options),      cmocka_unit_test(test_train_stop_resume),
      cmocka_unit_test(test_train_labels), cmocka_unit_test(test_generate),
      cmocka_unit_test(test_feed)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
