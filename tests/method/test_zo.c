/* MeZO and Sparse MeZO (arXiv 2305.17333, 2402.15751) through the loop: the log gives the trained weights bit for bit, micro-batches, memory,
 * losses that are no numbers, objectives without a gradient, quantised bases, refusals. The noise itself: nn/test_noise. */
#include "method/method_test.h"
#include "nn/noise.h"

/* All bits of what training left in the net, in a row's finish hook. */
static uint64_t trained;
static lc_hook finish_of_row;
static uint64_t bits_of(const lc_weight *v) {
  uint64_t h = 1469598103934665603u;
  const void *tile;
  int64_t ld;
  for (int64_t r = 0; r < v->M; r++) {
    ok(lc_weight_tile(w.ctx, 0, v, (lc_rect){r, r + 1, 0, v->N}, LC_F32, &tile, &ld));
    for (size_t i = 0; i < (size_t)v->N * 4; i++) h = (h ^ ((const uint8_t *)tile)[i]) * 1099511628211u;
  }
  return h;
}
static uint64_t bits_of_net(const lc_net *net) {
  uint64_t h = 0;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].ndim == 2) h = h * 31 + bits_of(&net->weights.w[i]);
  return h;
}
static lc_status take_bits(void *self, lc_training *t) {
  LC_TRY(finish_of_row(self, t));
  trained = bits_of_net(t->net);
  return LC_OK;
}

static const struct {
  const char *method, *set, *opts;
} runs[] = {{"mezo", "zo-eps=0.01", "steps=40 batch=24 micro-batch=24 lr=0.002"},
            {"mezo", "zo-eps=0.01 directions=4", "steps=12 batch=24 lr=0.005"},
            {"sparse-mezo", "zo-eps=0.01 sparsity=0.5", "steps=40 batch=24 lr=0.004"},
            {"sparse-mezo", "zo-eps=0.01 mask=random", "steps=40 batch=24 lr=0.004 weight-decay=0.1"},
            {"sparse-mezo", "zo-eps=0.01 mask=large", "steps=40 batch=24 lr=0.002"}};

/* Items 2 and 6: the loss falls, and θ₀ and the log are θ bit for bit, patched, in place and merged. */
static void test_replay(void **state) {
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
    lc_method row = *lc_method_find(runs[i].method);
    finish_of_row = row.finish;
    row.finish = take_bits;
    t_spec s = {.row = &row, .set = runs[i].set, .opts = runs[i].opts, .out = "r", .overwrite = true};
    ok(t_train(&w, &s));
    const int last = atoi(t_query(&w, "r", "SELECT max(step) FROM evals"));
    const double after = eval_at("r", last);
    print_message("%s %s: %.4f to %.4f\n", runs[i].method, runs[i].set, eval_at("r", 0), after);
    assert_true(after < eval_at("r", 0) - 0.01);
    for (int apply = 0; apply < 2; apply++) {
      lc_net *net;
      lc_adapter *a;
      ok(lc_net_new(w.model, LC_F32, &net));
      ok(lc_adapter_load(net, t_out(&w, "r", ""), 1, apply ? LC_IN_PLACE : LC_PATCH, &a));
      assert_true(bits_of_net(net) == trained);
      if (!apply) ok(lc_net_write_hf(net, lc_tiny_path(w.dir, "merged"), LC_F32, NULL));
      lc_adapter_remove(a);
      lc_net_free(net);
      assert_true(fabs(loss_of(w.model, t_out(&w, "r", ""), apply ? LC_IN_PLACE : LC_PATCH) - after) <
                  1e-6 * after); /* other packing */
    }
    lc_model *merged;
    lc_net *net;
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "merged"), &merged));
    ok(lc_net_new(merged, LC_F32, &net));
    assert_true(bits_of_net(net) == trained);
    lc_net_free(net);
    lc_model_close(merged);
    lc_remove_tree(w.ctx, lc_tiny_path(w.dir, "merged"));
  }
}

/* Item 6: 16 bytes a direction of a step; a log that was cut or changed is refused, a record or a byte of it. */
static void test_damage(void **state) {
  t_spec s = {
      .method = "sparse-mezo", .set = "directions=2", .opts = "steps=5 batch=4", .out = "d", .no_eval = true};
  char *data;
  size_t n;
  lc_net *net;
  lc_adapter *a;
  ok(t_train(&w, &s));
  const char *log = t_out(&w, "d", "lacuna_adapter.log"), *dir = t_out(&w, "d", "");
  ok(lc_read_file(w.ctx, log, 1 << 20, &data, &n));
  assert_int_equal(n, 5 * 2 * 16);
  ok(lc_net_new(w.model, LC_F32, &net));
  for (size_t cut = 1; cut <= 16; cut += 15) {
    ok(lc_write_file(w.ctx, log, data, n - cut));
    refused(lc_adapter_load(net, dir, 1, LC_PATCH, &a), "not whole");
  }
  data[3 * 16 + 5] ^= 1;
  ok(lc_write_file(w.ctx, log, data, n));
  refused(lc_adapter_load(net, dir, 1, LC_PATCH, &a), "record 4 of 10");
  data[3 * 16 + 5] ^= 1;
  ok(lc_write_file(w.ctx, log, data, n));
  ok(lc_adapter_load(net, dir, 1, LC_PATCH, &a));
  lc_net_free(net);
  lc_free(w.ctx, data);
}

/* Item 4: sparsity 0 is MeZO to the bit; 1 changes nothing. */
static void test_extremes(void **state) {
  t_spec s = {.method = "mezo", .set = "zo-eps=0.01", .opts = "steps=6 batch=8", .out = "m"};
  ok(t_train(&w, &s));
  s = (t_spec){
      .method = "sparse-mezo", .set = "zo-eps=0.01 sparsity=0", .opts = "steps=6 batch=8", .out = "s0"};
  ok(t_train(&w, &s));
  assert_true(eval_at("m", 6) == eval_at("s0", 6) && eval_at("m", 6) != eval_at("m", 0));
  assert_string_equal(t_query(&w, "m", "SELECT group_concat(loss) FROM steps"),
                      t_query(&w, "s0", "SELECT group_concat(loss) FROM steps"));
  s.set = "zo-eps=0.01 sparsity=1";
  s.out = "s1";
  ok(t_train(&w, &s));
  assert_true(eval_at("s1", 6) == eval_at("s1", 0));
  assert_true(done_of("s1", "active") == 0);
}

/* Item 8. */
static void test_micro(void **state) {
  t_spec s = {
      .method = "sparse-mezo", .set = "zo-eps=0.01", .opts = "steps=5 batch=16 micro-batch=16", .out = "one"};
  ok(t_train(&w, &s));
  s.opts = "steps=5 batch=16 micro-batch=4";
  s.out = "four";
  ok(t_train(&w, &s));
  assert_true(t_same_files(t_out(&w, "one", "lacuna_adapter.log"), t_out(&w, "four", "lacuna_adapter.log")));
}

/* Item 7: nothing but the f32 copies, the log, a tile a worker and 1 kB a tensor beyond a pass without gradients. */
static size_t at_attach, form0, trainable, grad, scratch, other, plan;
static lc_hook attach_of_row;
static lc_status before_attach(void *self, lc_training *t) {
  at_attach = lc_mem_bytes(t->ctx, LC_MEM_OTHER);
  form0 = lc_mem_bytes(t->ctx, LC_MEM_FORM);
  return attach_of_row(self, t);
}
static lc_status look(void *self, lc_training *t) {
  trainable = lc_mem_bytes(t->ctx, LC_MEM_TRAINABLE);
  grad = lc_mem_bytes(t->ctx, LC_MEM_GRAD);
  scratch = lc_mem_bytes(t->ctx, LC_MEM_SCRATCH);
  form0 = t->step == 0 ? lc_mem_bytes(t->ctx, LC_MEM_FORM) - form0 : form0;
  other = lc_mem_bytes(t->ctx, LC_MEM_OTHER);
  plan = lc_mem_bytes(t->ctx, LC_MEM_PLAN);
  return LC_OK;
}
static lc_status nothing(void *self, lc_training *t) {
  return LC_OK;
}
static lc_status only_forward(void *self, lc_training *t) { /* inference: the update's rows, one pass each */
  double sum = 0;
  int64_t targets = 0;
  for (t->micro = 0; t->micro < t->n_micro; t->micro++)
    LC_TRY(lc_pass(t, t->example + t->micro * t->opts.micro_batch,
                   lc_min64(t->opts.micro_batch, t->n_example - t->micro * t->opts.micro_batch), false, 1,
                   &sum, &targets));
  t->loss = 0;
  return LC_OK;
}
static void test_memory(void **state) {
  lc_method row = *lc_method_find("sparse-mezo"), bare = row;
  t_spec s = {.row = &row, .opts = "steps=10 batch=8", .set = "directions=2", .out = "mem", .no_eval = true};
  attach_of_row = row.attach;
  row.attach = before_attach;
  row.after_step = look;
  ok(t_train(&w, &s));
  const size_t mine[] = {trainable, grad, scratch, form0, other - at_attach, plan};
  bare.attach = nothing;
  bare.step = only_forward;
  bare.after_step = look;
  bare.objective = NULL;
  bare.visit = NULL;
  bare.finish = NULL;
  bare.save = NULL;
  bare.report = NULL;
  bare.release = NULL;
  s.row = &bare;
  s.out = "inf";
  ok(t_train(&w, &s));
  lc_net *net;
  int64_t entries = 0, n_linear = 0, largest = 0;
  ok(lc_net_new(w.model, LC_F32, &net));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *v = &net->weights.w[i];
    if (v->kind != LC_KIND_LINEAR) continue;
    entries += v->M * v->N;
    n_linear++;
    if (v->M * v->N > largest) largest = v->M * v->N;
  }
  lc_net_free(net);
  assert_int_equal(mine[3], 4 * entries); /* f32 copies in place of f32 pages */
  assert_int_equal(mine[0], 16 * 10 * 2); /* the log */
  assert_int_equal(mine[1], 0);           /* no gradient */
  assert_int_equal(mine[5], plan);        /* inference's activations */
  assert_true(mine[2] <= scratch + 2 * (size_t)lc_threads(w.ctx) * (size_t)largest * sizeof(float) +
                             2 * (2u << 17) * 4); /* tiles; counts */
  assert_true(mine[4] <=
              1024 * (size_t)n_linear + (128u << 10)); /* and what the loop itself opens, as in every run */
}

/* Item 9: values that are no numbers are skipped, counted, said; the run goes on. */
static int skipped;
static void count_warnings(void *arg, lc_log_level level, const char *line) {
  skipped += level == LC_LOG_WARN && strstr(line, "is skipped") != NULL;
}
static int64_t step_seen;
static lc_status spoil(void *self, lc_training *t) { /* the third step's weights hold a NaN */
  lc_weight *v = t->adapter->delta[0]->w;
  float *x = lc_form_data(v->form);
  static float kept;
  if (t->step == 2) kept = x[5], x[5] = NAN;
  if (t->step == 3) x[5] = kept;
  step_seen = t->step;
  return LC_OK;
}
static void test_not_finite(void **state) {
  lc_method row = *lc_method_find("sparse-mezo");
  row.before_step = spoil;
  t_spec s = {.row = &row, .opts = "steps=6 batch=4", .out = "nan", .no_eval = true};
  skipped = 0;
  lc_set_log(w.ctx, count_warnings, NULL);
  ok(t_train(&w, &s));
  lc_set_log(w.ctx, NULL, NULL);
  assert_int_equal(step_seen, 5);
  assert_int_equal(skipped, 1);
  assert_true(done_of("nan", "skipped") == 1 && done_of("nan", "records") == 5);
}

static void test_refusals(void **state) {
  static const refusal mezo[] = {{"zo-eps=0", "steps=1", "length above 0"},
                                 {"zo-eps=-1", "steps=1", "zo-eps"},
                                 {"", "steps=1 lr=-0.1", "lr"},
                                 {"", "steps=1 optimizer=adamw", "no optimizer"},
                                 {"", "steps=1 momentum=0.9", "momentum"}},
                       sparse[] = {{"sparsity=1.01", "steps=1", "sparsity"},
                                   {"sparsity=-0.1", "steps=1", "sparsity"}};
  refuses("mezo", mezo, sizeof mezo / sizeof *mezo);
  refuses("sparse-mezo", sparse, sizeof sparse / sizeof *sparse);
}

/* Item 11: a planted task (the answer's first token follows from the prompt's word) with the share of wrong rows as the loss: nothing to
 * differentiate, and it falls. */
static void test_exact(void **state) {
  static const char *const words[] = {"cat", "dog", "sun", "sea"};
  const char *path = lc_tiny_path(w.dir, "toy.jsonl");
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  for (int i = 0; i < 64; i++)
    fprintf(f, "{\"prompt\": \"%d %s\", \"completion\": \"%s\"}\n", i, words[i % 4], i % 4 < 3 ? "y" : "n");
  fclose(f);
  lc_data_opts o = {.seq = 32};
  lc_dataset *toy, *eval = w.eval;
  ok(lc_data_open(w.ctx, w.tok, path, &o, &toy));
  w.eval = toy;
  t_spec s = {.method = "mezo",
              .set = "zo-eps=0.1 directions=16 objective=tokens",
              .data = toy,
              .out = "toy",
              .opts = "steps=40 batch=64 micro-batch=64 lr=1"};
  ok(t_train(&w, &s));
  print_message("missed tokens: %.3f to %.3f\n", eval_at("toy", 0), eval_at("toy", 40));
  assert_true(eval_at("toy", 40) < eval_at("toy", 0) - 0.3);
  lc_net
      *net; /* whole rows go on from there: where every row is wrong, no direction is better than another */
  lc_adapter *a;
  lc_model *own = w.model;
  ok(lc_net_new(w.model, LC_F32, &net));
  ok(lc_adapter_load(net, t_out(&w, "toy", ""), 1, LC_IN_PLACE, &a));
  ok(lc_net_write_hf(net, lc_tiny_path(w.dir, "some"), LC_F32, NULL));
  lc_net_free(net);
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "some"), &w.model));
  s.set = "zo-eps=0.1 directions=16 objective=exact";
  s.out = "exact";
  s.opts = "steps=60 batch=64 micro-batch=64 lr=1";
  ok(t_train(&w, &s));
  lc_model_close(w.model);
  w.model = own;
  const double first = atof(t_query(&w, "exact", "SELECT avg(loss) FROM steps WHERE step <= 3")),
               last = atof(t_query(&w, "exact", "SELECT avg(loss) FROM steps WHERE step > 55"));
  print_message("wrong rows: %.3f to %.3f\n", first, last);
  assert_true(last < first - 0.15);
  w.eval = eval;
  lc_data_free(toy);
}

/* Item 12: the update of a quantised base goes to the f32 copy, and the log replays on the quantised base. */
static void test_quantised(void **state) {
  static const lc_dtype types[] = {LC_Q4_0, LC_Q4_1, LC_Q8_0};
  lc_model *own = w.model;
  for (int i = 0; i < 3; i++) {
    lc_tiny d = LC_TINY_LLAMA;
    d.dtype = types[i];
    ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
    ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &w.model));
    t_spec s = {.method = "sparse-mezo",
                .set = "zo-eps=0.01 sparsity=0.5",
                .out = "q",
                .opts = "steps=30 batch=24 lr=0.004",
                .overwrite = true};
    ok(t_train(&w, &s));
    assert_true(eval_at("q", 30) < eval_at("q", 0));
    assert_true(fabs(loss_of(w.model, t_out(&w, "q", ""), LC_PATCH) - eval_at("q", 30)) <
                1e-6 * eval_at("q", 30));
    lc_model_close(w.model);
  }
  w.model = own;
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_replay),   TEST(test_damage), TEST(test_extremes),
                                     TEST(test_micro),    TEST(test_memory), TEST(test_not_finite),
                                     TEST(test_refusals), TEST(test_exact),  TEST(test_quantised)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
