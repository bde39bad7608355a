/* Memory: after step 1 nothing is allocated (evaluation, best, checkpoints and reselection included), and the
 * peak is forms + plan + what is trained + tiles, each counted by the allocator. */
#define WORLD_THREADS 2
#include "support/world_test.h"

/* Allocations at the end of step 1, and at the last event before the run ends. */
typedef struct {
  uint64_t first, last;
  int steps, evals, checkpoints;
} counts;

static int count(void *arg, const char *kind, const struct json_t *event) {
  counts *c = arg;
  if (strcmp(kind, "step") == 0 && c->steps++ == 0) return 0;
  if (c->steps == 0 || strcmp(kind, "done") == 0 || strcmp(kind, "sample") == 0) return 0;
  if (c->first == 0) c->first = lc_mem_allocations(w.ctx); /* the event after step 1's: scratch is level */
  c->last = lc_mem_allocations(w.ctx);
  c->evals += strcmp(kind, "eval") == 0;
  c->checkpoints += strcmp(kind, "checkpoint") == 0;
  return 0;
}

static void test_no_allocation(void **state) {
  static const struct {
    const char *method, *set;
  } run[] = {{"full", ""},
             {"lora", "r=4 dropout=0.1"},
             {"shira", "mask=wm"},
             {"spiel", "period=4 accumulate=2"},
             {"spiel", "select=ma period=4 accumulate=2"}};
  for (size_t i = 0; i < 10; i++) {
    char opts[200];
    counts c = {0};
    snprintf(opts, sizeof opts,
             "steps=23 batch=5 micro-batch=2 eval-every=2 save-every=3 keep=3 density=0.05 dtype=%s",
             i % 2 ? "bf16" : "f32");
    t_spec s = {.method = run[i / 2].method,
                .set = run[i / 2].set,
                .out = "a",
                .overwrite = true,
                .event = count,
                .arg = &c,
                .opts = opts};
    ok(t_train(&w, &s));
    assert_int_equal(c.steps, 23);
    assert_int_equal(c.evals, 12);
    assert_int_equal(c.checkpoints, 8);
    if (c.last != c.first)
      fail_msg("%s %s: %llu allocations after step 1", run[i / 2].method, opts,
               (unsigned long long)(c.last - c.first));
  }
}

/* ---- the peak
 * ----------------------------------------------------------------------------------------------------------------
 */

typedef struct {
  size_t trainable, grad, candidate, plan, form, scratch, kv, plan_bytes, state;
} sizes;
static sizes seen;

static lc_status look(void *self, lc_training *t) {
  seen = (sizes){lc_mem_bytes(t->ctx, LC_MEM_TRAINABLE),
                 lc_mem_bytes(t->ctx, LC_MEM_GRAD),
                 lc_mem_bytes(t->ctx, LC_MEM_CANDIDATE),
                 lc_mem_bytes(t->ctx, LC_MEM_PLAN),
                 lc_mem_bytes(t->ctx, LC_MEM_FORM),
                 lc_mem_bytes(t->ctx, LC_MEM_SCRATCH),
                 lc_mem_bytes(t->ctx, LC_MEM_KV),
                 lc_plan_bytes(t->plan),
                 0};
  for (int i = 0; i < t->n_param; i++) seen.state += (size_t)t->param[i]->n;
  return LC_OK;
}

/* Entries and what a step leaves behind of each: SpIEL-AG 20 B, and 12 a candidate; SHiRA 16; LoRA 12;
 * gradients 4 each. */
static void test_state_bytes(void **state) {
  static const struct {
    const char *method, *set;
    size_t each, candidate;
  } run[] = {{"spiel", "period=4 accumulate=2", 20, 12},
             {"shira", "mask=random", 16, 0},
             {"lora", "r=4", 12, 0},
             {"full", "", 12, 0}};
  for (size_t i = 0; i < sizeof run / sizeof *run; i++) {
    lc_method row = *lc_method_find(run[i].method);
    row.finish = look;
    t_spec s = {.row = &row,
                .set = run[i].set,
                .out = "a",
                .overwrite = true,
                .no_eval = true,
                .opts = "steps=6 batch=4 density=0.05"};
    size_t before = lc_mem_bytes(w.ctx, LC_MEM_FORM);
    ok(t_train(&w, &s));
    assert_int_equal(seen.trainable, run[i].each * seen.state);
    if (run[i].candidate) assert_int_equal(seen.candidate, run[i].candidate * seen.state);
    assert_int_equal(seen.grad, (run[i].candidate ? 8 : 4) * seen.state);
    assert_int_equal(seen.kv, 0);
    assert_true(seen.plan >= seen.plan_bytes &&
                seen.plan < seen.plan_bytes + 16384); /* the arena and its tables */
    /* only vectors (norms) are resident: matrices are mapped */
    assert_true(seen.form - before <= 5 * 64 * sizeof(float) || strcmp(run[i].method, "full") == 0);
  }
}

static void test_peak(void **state) {
  lc_method row = *lc_method_find("shira");
  row.finish = look;
  t_spec s = {.row = &row, .out = "a", .no_eval = true, .opts = "steps=4 batch=8 density=0.05 micro-batch=8"};
  size_t before = 0;
  for (int c = 0; c < LC_MEM_COUNT; c++) before += lc_mem_bytes(w.ctx, (lc_mem)c);
  ok(t_train(&w, &s));
  size_t sum = seen.trainable + seen.grad + seen.candidate + seen.plan + seen.form + seen.scratch;
  /* the rest: names, tables, the graph, a row of history; of a model of 81,000 parameters */
  if (lc_mem_peak(w.ctx) > before + sum + 200000)
    fail_msg("peak %zu, expected at most %zu (before %zu, trained %zu, gradients %zu, plan %zu, forms %zu, "
             "scratch %zu) and tables",
             lc_mem_peak(w.ctx), before + sum, before, seen.trainable, seen.grad, seen.plan, seen.form,
             seen.scratch);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_no_allocation),
      TEST(test_state_bytes),
      TEST(test_peak),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
