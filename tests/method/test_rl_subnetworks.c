/* rl-subnetworks: a mask of ones is method full, an empty one leaves the start, what is outside the mask keeps its bits under decay and
 * clipping; the sparse way trains what the dense way does; which norm is clipped; the same bits on two threads and resumed. */
#include "model/diff.h"
#include "support/world_test.h"

static int setup(void **state) {
  open_world(state);
  lc_tiny m = LC_TINY_LLAMA; /* every entry differs from the base's, norms too */
  m.seed = 2;
  ok(lc_tiny_hf(w.ctx, &m, lc_tiny_path(w.dir, "elsewhere")));
  t_spec s = {.method = "shira", .out = "run", .no_eval = true, .opts = "steps=4 batch=4 density=0.05"};
  ok(t_train(&w, &s));
  return 0;
}

#define OPTS "steps=6 batch=4 micro-batch=2 weight-decay=0.1 clip=0.5 keep=1"

static double norm[16];
static int updates;
static int64_t trainable;
static int watch(void *arg, const char *kind, const struct json_t *e) {
  if (!strcmp(kind, "step") && updates < 16)
    norm[updates++] = json_number_value(json_object_get(e, "grad_norm"));
  if (!strcmp(kind, "done")) trainable = json_integer_value(json_object_get(e, "trainable"));
  return 0;
}

static lc_status run(const char *out, const char *from, const char *set, const char *opts) {
  char text[640];
  snprintf(text, sizeof text, "from=%s %s", from ? lc_tiny_path(w.dir, from) : "", set);
  updates = 0;
  t_spec s = {
      .method = "rl-subnetworks", .set = text, .out = out, .no_eval = true, .opts = opts, .event = watch};
  return t_train(&w, &s);
}

/* Base, result, another result. */
static lc_diff differences(const char *result, const char *other, double tolerance) {
  lc_net *base;
  lc_result b, c = {0};
  lc_diff d;
  ok(lc_net_new(w.model, LC_F32, &base));
  ok(lc_result_open(w.model, lc_tiny_path(w.dir, result), 1, &b));
  if (other) ok(lc_result_open(w.model, lc_tiny_path(w.dir, other), 1, &c));
  ok(lc_diff_nets(base, b.net, c.net, &(lc_diff_opts){.dtype = LC_F32, .tolerance = tolerance}, &d));
  lc_result_close(&b);
  lc_result_close(&c);
  lc_net_free(base);
  return d;
}

static void test_all_ones(void **state) {
  static const char *const optimizers[] = {"adamw", "sgd"};
  for (int i = 0; i < 2; i++) {
    char opts[128];
    snprintf(opts, sizeof opts, OPTS " optimizer=%s", optimizers[i]);
    t_spec s = {.method = "full", .out = "full", .no_eval = true, .opts = opts, .overwrite = true};
    ok(t_train(&w, &s));
    ok(run(i ? "ones-sgd" : "ones", "elsewhere", "storage=dense", opts));
    assert_true(t_same_files(t_out(&w, "full", "model.safetensors"),
                             t_out(&w, i ? "ones-sgd" : "ones", "model.safetensors")));
  }
}

static void test_empty(void **state) {
  ok(run("none", "model", "storage=dense", OPTS));
  lc_diff d = differences("none", NULL, 0);
  assert_int_equal(d.all.count.changed, 0);
  assert_true(norm[0] == 0);
  lc_diff_free(w.ctx, &d);
  refused(run("nothing", "model", "", OPTS), "changed no entry of the targets");
}

/* Changed only where the earlier run changed something. */
static void test_frozen(void **state) {
  static const char *const ways[][3] = {
      {"dense", "storage=dense", ""}, {"dense-full", "storage=dense clip-norm=full", ""}, {"sparse", "", ""}};
  for (int i = 0; i < 3; i++) {
    ok(run(ways[i][0], "run", ways[i][1], OPTS));
    lc_diff d = differences(ways[i][0], "run", 0);
    const lc_diff_count *c = &d.all.count;
    assert_true(c->changed > 0 && c->both == c->changed);
    assert_true(c->changed > c->second * 9 / 10);
    assert_true(c->both <= c->changed && c->both <= c->second);
    lc_diff_free(w.ctx, &d);
  }
}

/* The two ways train the same entries to the same values, up to rounding: decay pulls the weight in both. */
static void test_sparse_is_dense(void **state) {
  lc_result a, b;
  ok(lc_result_open(w.model, lc_tiny_path(w.dir, "dense"), 1, &a));
  ok(lc_result_open(w.model, lc_tiny_path(w.dir, "sparse"), 1, &b));
  double apart = 0, moved = 0;
  lc_net *base;
  ok(lc_net_new(w.model, LC_F32, &base));
  lc_diff d;
  ok(lc_diff_nets(a.net, b.net, NULL, &(lc_diff_opts){.dtype = LC_F32}, &d));
  apart = d.all.count.sum_delta;
  lc_diff_free(w.ctx, &d);
  ok(lc_diff_nets(base, a.net, NULL, &(lc_diff_opts){.dtype = LC_F32}, &d));
  moved = d.all.count.sum_delta;
  lc_diff_free(w.ctx, &d);
  if (!(moved > 0 && sqrt(apart / moved) < 2e-3)) fail_msg("apart %g of %g", sqrt(apart), sqrt(moved));
  lc_net_free(base);
  lc_result_close(&a);
  lc_result_close(&b);
}

static void test_clip(void **state) {
  t_spec s = {
      .method = "full", .out = "norms", .no_eval = true, .opts = OPTS, .event = watch, .overwrite = true};
  updates = 0;
  ok(t_train(&w, &s));
  const double whole = norm[0];
  ok(run("norm-full", "run", "storage=dense clip-norm=full", OPTS));
  assert_true(norm[0] == whole);
  ok(run("norm-masked", "run", "storage=dense", OPTS));
  const double masked = norm[0];
  assert_true(masked < 0.9 * whole && masked > 0);
  ok(run("norm-sparse", "run", "", OPTS));
  assert_true(fabs(norm[0] - masked) < 1e-4 * masked);
  assert_false(t_same_files(t_out(&w, "norm-full", "model.safetensors"),
                            t_out(&w, "norm-masked", "model.safetensors")));
}

/* Larger changes only. */
static void test_tolerance(void **state) {
  lc_diff d = differences("run", NULL, 0.03);
  const int64_t large = d.all.count.changed;
  assert_true(large > 0);
  lc_diff_free(w.ctx, &d);
  ok(run("large", "run", "tolerance=0.03", OPTS));
  assert_int_equal(trainable, large);
}

static void test_bits(void **state) {
  static const char *const sets[] = {"", "storage=dense", "storage=dense clip-norm=full tolerance=0.02"};
  static const char *const types[] = {"f32", "bf16"};
  char *first[6];
  size_t size[6];
  for (int turn = 0; turn < 2; turn++) {
    for (int i = 0; i < 6; i++) {
      char opts[160], out[24], parts[24], *data;
      size_t n;
      snprintf(opts, sizeof opts, OPTS " dtype=%s", types[i % 2]);
      snprintf(out, sizeof out, "bits%d", i);
      ok(run(out, "run", sets[i / 2], opts));
      ok(lc_read_file(w.ctx, t_out(&w, out, "checkpoint-6/state.safetensors"), 1 << 24, &data, &n));
      if (!turn) {
        first[i] = malloc(n);
        memcpy(first[i], data, size[i] = n);
      } else {
        assert_true(n == size[i] && !memcmp(first[i], data, n));
      }
      lc_free(w.ctx, data);
      if (turn) continue;
      snprintf(parts, sizeof parts, "parts%d", i);
      char half[200], text[640];
      snprintf(half, sizeof half, "%s stop-after=3", opts);
      ok(run(parts, "run", sets[i / 2], half));
      snprintf(text, sizeof text, "from=%s %s", lc_tiny_path(w.dir, "run"), sets[i / 2]);
      t_spec s = {.method = "rl-subnetworks",
                  .set = text,
                  .out = parts,
                  .no_eval = true,
                  .opts = opts,
                  .resume = true};
      ok(t_train(&w, &s));
      assert_true(t_same_files(t_out(&w, out, "checkpoint-6/state.safetensors"),
                               t_out(&w, parts, "checkpoint-6/state.safetensors")));
    }
    t_world_close(&w);
    t_world_open(&w, 2 - turn);
    lc_tiny m = LC_TINY_LLAMA;
    m.seed = 2;
    ok(lc_tiny_hf(w.ctx, &m, lc_tiny_path(w.dir, "elsewhere")));
    t_spec s = {.method = "shira", .out = "run", .no_eval = true, .opts = "steps=4 batch=4 density=0.05"};
    ok(t_train(&w, &s));
  }
  for (int i = 0; i < 6; i++) free(first[i]);
}

static void test_refusals(void **state) {
  refused(run("r1", NULL, "", OPTS), "names the earlier run's result");
  refused(run("r2", "run", "clip-norm=full", OPTS), "needs storage=dense");
  refused(run("r3", "nowhere", "", OPTS), "nowhere");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_ones), cmocka_unit_test(test_empty),
      cmocka_unit_test(test_frozen),   cmocka_unit_test(test_sparse_is_dense),
      cmocka_unit_test(test_clip),     cmocka_unit_test(test_tolerance),
      cmocka_unit_test(test_bits),     cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, setup, close_world);
}
