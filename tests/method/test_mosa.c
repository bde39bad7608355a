/* MoSA (arXiv 2312.02923): pieces partition, draws, masked gradients, merging, the agreement of two draws, plain files. */
#include "method/method_test.h"
#include "nn/bottleneck.h"

static lc_hook after_of_row;
static int64_t counts[8], draws;
static uint8_t first_draws[64];
static int n_first;

/* Items 2 and 4, at every update: labels partition evenly; the gradient's support is the union of the drawn pieces; draws
 * use the value where they own and the start elsewhere; biases always learn. */
static lc_status partition(void *self, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++) {
    lc_delta *d = t->adapter->delta[i];
    const lc_bottleneck_view *v = lc_delta_bottleneck_view(d);
    for (int which = 0; which < 2; which++) {
      const lc_param *p = d->param[which ? 2 : 0];
      int64_t size[4] = {0}, inside = 0, outside = 0;
      assert_non_null(v->label[which]);
      for (int64_t k = 0; k < p->n; k++) {
        const uint8_t e = v->label[which][k];
        assert_true(e < 4);
        size[e]++;
        const bool drawn = e == v->piece[0][which] || e == v->piece[1][which];
        if (drawn)
          inside += p->grad[k] != 0;
        else
          outside += p->grad[k] != 0;
      }
      for (int e = 0; e < 4; e++) assert_true(llabs(size[e] - p->n / 4) <= 1);
      assert_int_equal(outside, 0);
      assert_true(inside > 0 ||
                  which == 0); /* D has no gradient while the drawn piece of U is at its start, 0 */
      for (int c = 0; c < 2; c++) {
        counts[v->piece[c][which]]++;
        draws++;
        if (n_first < 64) first_draws[n_first++] = v->piece[c][which];
      }
    }
    double bias = 0;
    for (int64_t k = 0; k < d->param[3]->n; k++) bias += fabs((double)d->param[3]->grad[k]);
    assert_true(bias > 0);
  }
  return LC_OK;
}

static void test_pieces(void **state) {
  lc_method row = *lc_method_find("mosa");
  row.after_backward = partition;
  memset(counts, 0, sizeof counts);
  draws = 0;
  uint8_t again[64];
  for (int run = 0; run < 2; run++) { /* the same seed, other micro-batches: the same draws */
    n_first = 0;
    t_spec s = {.row = &row,
                .out = "p",
                .overwrite = true,
                .no_eval = true,
                .set = "width=8 scale=1 dropout=0",
                .opts = run ? "steps=60 batch=4 micro-batch=3" : "steps=60 batch=4"};
    ok(t_train(&w, &s));
    if (!run) memcpy(again, first_draws, 64);
  }
  assert_memory_equal(again, first_draws, 64);
  double chi = 0;
  for (int e = 0; e < 4; e++) chi += pow((double)counts[e] - (double)draws / 4, 2) / ((double)draws / 4);
  assert_true(chi < 32.5); /* each draw is counted twice: 2·16.3, the 0.1 % point at 3 degrees */
}

/* Item 6: one piece and no dropout: both draws are the same, so the KL term is zero and the loss plain cross-entropy. */
static double losses[16];
static int n_losses;
static lc_status keep_loss(void *self, lc_training *t) {
  losses[n_losses++ % 16] = t->loss;
  return LC_OK;
}
static void run_losses(const char *set, double *out) {
  lc_method row = *lc_method_find("mosa");
  row.after_backward = keep_loss;
  n_losses = 0;
  t_spec s = {
      .row = &row, .out = "k", .overwrite = true, .no_eval = true, .set = set, .opts = "steps=6 batch=4"};
  ok(t_train(&w, &s));
  memcpy(out, losses, 6 * sizeof *out);
}
static void test_agreement(void **state) {
  double plain[6], kl[6], apart[6];
  run_losses("width=8 scale=1 dropout=0 pieces=1 kl=0", plain);
  run_losses("width=8 scale=1 dropout=0 pieces=1 kl=1", kl);
  run_losses("width=8 scale=1 dropout=0.5 pieces=1 kl=1", apart);
  for (int i = 0; i < 6; i++) assert_true(fabs(plain[i] - kl[i]) < 1e-5 * plain[i]);
  double more = 0;
  for (int i = 2; i < 6; i++) more += apart[i] - plain[i];
  assert_true(fabs(more) > 1e-4);
}

/* Item 6: value and gradient of the paired loss against f64, through the op. */
enum { T = 9, C = 12, V = 40 };
static lc_status source_shape(lc_graph *g, lc_node *n) {
  return lc_node_out(g, n, 0, "source", LC_F32, C);
}
static bool yes(const lc_node *n) {
  return true;
}
static lc_status nothing(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return LC_OK;
}
static const lc_op source = {
    .name = "source", .shape = source_shape, .trains = yes, .forward = nothing, .backward = nothing};

static double paired(const float *h, const float *W, const int32_t *label, double again, double agree,
                     double *row) {
  double sum = 0;
  for (int t = 0; t < T; t++) {
    double lp[2][V];
    if (label[t] < 0) continue;
    for (int c = 0; c < 2; c++) {
      double top = 0;
      for (int v = 0; v < V; v++) {
        lp[c][v] = 0;
        for (int k = 0; k < C; k++) lp[c][v] += (double)h[(c * T + t) * C + k] * (double)W[v * C + k];
        top += exp(lp[c][v]);
      }
      for (int v = 0; v < V; v++) lp[c][v] -= log(top);
    }
    double kl = 0;
    for (int v = 0; v < V; v++) kl += (exp(lp[1][v]) - exp(lp[0][v])) * (lp[1][v] - lp[0][v]);
    row[t] = -lp[0][label[t]] - again * lp[1][label[t]] + agree * 0.5 * kl;
    sum += row[t];
  }
  return sum;
}

static void test_paired_loss(void **state) {
  float W[V * C], h[2 * T * C], dh[2 * T * C];
  int32_t label[T];
  double row[T];
  const double again = 0.3, agree = 1.7;
  lc_rng rng = {.seed = 5, .purpose = LC_RNG_TEST};
  lc_rng_normal_fill(&rng, 0, V * C, W);
  lc_rng_normal_fill(&rng, 5000, 2 * T * C, h);
  for (int k = 0; k < V * C; k++) W[k] *= 0.5f;
  for (int t = 0; t < T; t++) label[t] = t % 4 == 3 ? -1 : t * 5 % V;
  lc_weight wt = {.name = "head.weight", .module = "head", .kind = LC_KIND_HEAD, .M = V, .N = C, .ndim = 2};
  lc_tensor src = {.dtype = LC_F32, .ndim = 2, .shape = {V, C}, .data = (uint8_t *)W};
  ok(lc_form_view(w.ctx, &src, false, NULL, &wt.base));
  wt.form = wt.base;
  const lc_weights set = {&wt, 1};
  lc_graph *g;
  lc_builder b;
  lc_plan *plan;
  lc_run *run;
  lc_val x;
  ok(lc_graph_new(w.ctx, &g));
  ok(lc_builder_init(&b, w.ctx, g, &set, LC_F32));
  ok(lc_emit(g, &source, NULL, 0, NULL, 0, &x));
  lc_graph_keep(g, x);
  lc_val nll = lc_head_loss_pairs(&b, x, b.labels, "head.weight", (lc_pair_loss){(float)again, (float)agree});
  ok(b.st);
  lc_graph_keep(g, nll);
  ok(lc_plan_new(g, &(lc_plan_opts){.rows = 2 * T, .training = true}, &plan));
  ok(lc_run_new(w.ctx, plan, &run));
  const lc_segment seg[2] = {{0, T, 0, 0, 0}, {T, 2 * T, 1, 0, 0}};
  ok(lc_run_begin(run, 2 * T, seg, 2));
  run->training = true;
  run->loss_scale = 1;
  run->copies = 2;
  memcpy(lc_data(run, x), h, sizeof h);
  for (int r = 0; r < 2 * T; r++) ((int32_t *)lc_data(run, b.labels))[r] = label[r % T];
  ok(lc_forward(run, NULL));
  const float *got = lc_data(run, nll);
  const double want = paired(h, W, label, again, agree, row);
  double sum = 0;
  for (int r = 0; r < 2 * T; r++) sum += (double)got[r];
  assert_true(fabs(sum - want) < 1e-5 * want);
  ok(lc_backward(run, NULL));
  memcpy(dh, lc_grad(run, x), sizeof dh);
  /* KL(sg(p2)||p1): its gradient is that of the first argument held. The derivative by hand, in f64. */
  for (int t = 0; t < T; t++)
    for (int k = 0; k < C; k++) {
      double lp[2][V], p[2][V], d[2] = {0};
      for (int c = 0; c < 2; c++) {
        double top = 0;
        for (int v = 0; v < V; v++) {
          lp[c][v] = 0;
          for (int q = 0; q < C; q++) lp[c][v] += (double)h[(c * T + t) * C + q] * (double)W[v * C + q];
          top += exp(lp[c][v]);
        }
        for (int v = 0; v < V; v++) p[c][v] = exp(lp[c][v]) / top;
      }
      for (int v = 0; v < V && label[t] >= 0; v++) {
        const double hit = v == label[t];
        d[0] += (p[0][v] - hit + agree / 2 * (p[0][v] - p[1][v])) * (double)W[v * C + k];
        d[1] += (again * (p[1][v] - hit) + agree / 2 * (p[1][v] - p[0][v])) * (double)W[v * C + k];
      }
      for (int c = 0; c < 2; c++) assert_true(fabs((double)dh[(c * T + t) * C + k] - d[c]) < 1e-5);
    }
  lc_run_free(run);
  lc_plan_free(plan);
  lc_graph_free(g);
  lc_form_free(w.ctx, wt.base);
}

/* Item 3 and 5: 25 SGD updates of one-buffer pieces = E copies kept apart (biases and norms frozen): after each update the
 * merged matrix is the mean of the copies. The copies are followed from the gradients of each draw's own piece. */
static float *copies[4];
static lc_status freeze(void *self, lc_training *t) {
  lc_status st = lc_method_find("mosa")->attach(self, t);
  for (int i = 0; i < t->adapter->n && !st; i++)
    for (int k = 0; k < t->adapter->delta[i]->n_param; k++)
      if (k != 0 && k != 2) t->adapter->delta[i]->param[k]->wants_grad = false;
  const lc_param *up = t->adapter->delta[0]->param[2];
  for (int e = 0; e < 4; e++) {
    copies[e] = malloc((size_t)up->n * sizeof(float));
    memcpy(copies[e], up->value, (size_t)up->n * sizeof(float));
  }
  return st;
}
static lc_status step_copies(void *self, lc_training *t) {
  const lc_delta *d = t->adapter->delta[0];
  const lc_param *up = d->param[2];
  const lc_bottleneck_view *v = lc_delta_bottleneck_view((lc_delta *)d);
  for (int e = 0; e < 3; e++)
    for (int64_t k = 0; k < up->n; k++)
      if (v->label[1][k] == e && (v->piece[0][1] == e || v->piece[1][1] == e))
        copies[e][k] -= 0.05f * up->grad[k];
  return LC_OK;
}
static lc_status compare_copies(void *self, lc_training *t) {
  LC_TRY(after_of_row(self, t));
  const lc_delta *d = t->adapter->delta[0];
  const lc_bottleneck_view *v = lc_delta_bottleneck_view((lc_delta *)d);
  double err = 0, norm = 1e-30;
  for (int64_t k = 0; k < d->param[2]->n; k++) {
    double mean = 0;
    for (int e = 0; e < 3; e++) mean += (double)copies[e][k] / 3;
    err += pow(mean - (double)v->merged[1][k], 2);
    norm += mean * mean;
    for (int c = 0; c < 2; c++) /* a copy is used whole: its own entries trained, the others at the start */
      if (t->step > 0 && v->label[1][k] != v->piece[c][1]) assert_true(v->draw[c][1][k] == 0);
  }
  assert_true(sqrt(err / norm) < 1e-6);
  return LC_OK;
}
static void test_copies(void **state) {
  lc_method row = *lc_method_find("mosa");
  after_of_row = row.after_step;
  row.attach = freeze;
  row.after_backward = step_copies;
  row.after_step = compare_copies;
  t_spec s = {.row = &row,
              .out = "c",
              .set = "width=8 scale=1 pieces=3 dropout=0",
              .no_eval = true,
              .opts = "steps=50 batch=4 optimizer=sgd lr=0.05 clip=0 weight-decay=0"};
  ok(t_train(&w, &s));
  for (int e = 0; e < 4; e++) free(copies[e]);
}

/* Item 5: evaluations change nothing. Item 8: the file is a plain adapter's, of its size. */
static void test_plain_file(void **state) {
  t_spec a = {.method = "mosa",
              .set = "width=8 scale=1",
              .out = "with",
              .opts = "steps=8 batch=4 eval-every=1"},
         b = {.method = "mosa",
              .set = "width=8 scale=1",
              .out = "without",
              .opts = "steps=8 batch=4",
              .no_eval = true},
         c = {.method = "mosa",
              .set = "width=8 scale=1 pieces=1 kl=0",
              .out = "plain",
              .opts = "steps=8 batch=4"};
  size_t n[2];
  ok(t_train(&w, &a));
  ok(t_train(&w, &b));
  ok(t_train(&w, &c));
  assert_true(t_same_files(t_out(&w, "with", "lacuna_adapter.safetensors"),
                           t_out(&w, "without", "lacuna_adapter.safetensors")));
  for (int i = 0; i < 2; i++) {
    char *text;
    ok(lc_read_file(w.ctx, t_out(&w, i ? "plain" : "with", "lacuna_adapter.safetensors"), 1 << 24, &text,
                    &n[i]));
    lc_free(w.ctx, text);
  }
  assert_int_equal(n[0], n[1]);
  assert_int_equal(t_lines(t_out(&w, "with", "lacuna_adapter.json"), "pieces"), 0);
}

static void test_quantised(void **state) {
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *own = w.model;
  d.dtype = LC_Q8_0;
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "q.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "q.gguf"), &w.model));
  t_spec s = {.method = "mosa", .set = "width=16 scale=1", .out = "q", .opts = "steps=15 batch=8 lr=0.02"};
  ok(t_train(&w, &s));
  assert_true(atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 15")) <
              atof(t_query(&w, "q", "SELECT loss FROM evals WHERE step = 0")));
  lc_model_close(w.model);
  w.model = own;
}

/* Item 9. */
static void test_refusals(void **state) {
  static const char *const bad[] = {"pieces=0", "share=left", "width=1 pieces=100"};
  for (int i = 0; i < 3; i++) {
    t_spec s = {
        .method = "mosa", .set = bad[i], .out = "no", .opts = "steps=1", .no_eval = true, .overwrite = true};
    assert_int_equal(t_train(&w, &s), LC_USAGE);
    lc_error_clear(w.ctx);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_pieces),  TEST(test_agreement),  TEST(test_paired_loss),
                                     TEST(test_copies),  TEST(test_plain_file), TEST(test_quantised),
                                     TEST(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
