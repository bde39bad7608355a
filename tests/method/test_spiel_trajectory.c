/* SpIEL follows the trajectory of a program written from the sheet (bench/parity/spiel_numpy.py): the
 * method's own hooks, selection, sampled gradients, optimiser and swaps on linear layers with a squared
 * error, update by update. bench/parity/SPIEL.md defines the files.
 *
 *   test_spiel_trajectory                           the problems of golden/spiel: positions and ages equal,
 *                                                   the rest within 1e-3
 *   test_spiel_trajectory DIR OUT.safetensors       runs the problem in DIR and writes its trajectory
 *                                                   (bench/parity/run_spiel.py --program) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "io/io.h"
#include "kernels/kernels.h"
#include "method/methods.h"

static lc_ctx *ctx;

typedef struct {
  int64_t layers, steps, planned, S, A;
  double p0, beta1, beta2, eps, weight_decay;
  bool reference, ma;
  const char *policy;
  const json_t *lr;
} problem;

static lc_status read_problem(const json_t *j, problem *p) {
  const char *variant;
  LC_TRY(lc_json_str_or(ctx, j, "variant", NULL, &variant));
  LC_TRY(lc_json_str_or(ctx, j, "policy", NULL, &p->policy));
  LC_TRY(lc_json_bool_or(ctx, j, "reference", false, &p->reference));
  LC_TRY(lc_json_i64_or(ctx, j, "layers", 0, &p->layers));
  LC_TRY(lc_json_i64_or(ctx, j, "steps", 0, &p->steps));
  LC_TRY(lc_json_i64_or(ctx, j, "planned", 0, &p->planned));
  LC_TRY(lc_json_i64_or(ctx, j, "S", 0, &p->S));
  LC_TRY(lc_json_i64_or(ctx, j, "A", 0, &p->A));
  LC_TRY(lc_json_f64_or(ctx, j, "p0", 0, &p->p0));
  LC_TRY(lc_json_f64_or(ctx, j, "beta1", 0, &p->beta1));
  LC_TRY(lc_json_f64_or(ctx, j, "beta2", 0, &p->beta2));
  LC_TRY(lc_json_f64_or(ctx, j, "eps", 0, &p->eps));
  LC_TRY(lc_json_f64_or(ctx, j, "weight_decay", 0, &p->weight_decay));
  p->ma = variant && !strcmp(variant, "ma");
  p->lr = json_object_get(j, "lr");
  if (!variant || !p->policy || p->layers < 1 || (int64_t)json_array_size(p->lr) != p->steps)
    return lc_fail(ctx, "spiel.json is not complete");
  return LC_OK;
}

/* What is recorded of one layer after each update. */
typedef struct {
  int64_t *index;
  float *value, *m, *v;
  int32_t *age;
  float *r, *q;
  int64_t K, M, N;
} trace;

static void trace_free(trace *t) {
  free(t->index), free(t->value), free(t->m), free(t->v), free(t->age), free(t->r), free(t->q);
}

static trace trace_new(int64_t steps, int64_t K, int64_t M, int64_t N) {
  const size_t n = (size_t)(steps * K);
  return (trace){malloc(n * 8),
                 malloc(n * 4),
                 malloc(n * 4),
                 malloc(n * 4),
                 malloc(n * 4),
                 malloc((size_t)(steps * M) * 4),
                 malloc((size_t)(steps * N) * 4),
                 K,
                 M,
                 N};
}

static void record(const trace *t, const lc_param *p, int64_t c, bool ma) {
  for (int64_t k = 0; k < t->K; k++) t->index[c * t->K + k] = lc_index_at(&p->idx, k);
  memcpy(t->value + c * t->K, p->value, (size_t)t->K * 4);
  if (ma) {
    memcpy(t->r + c * t->M, lc_param_find(p, "acc_row"), (size_t)t->M * 4);
    memcpy(t->q + c * t->N, lc_param_find(p, "acc_col"), (size_t)t->N * 4);
    return;
  }
  memcpy(t->m + c * t->K, lc_param_find(p, "m"), (size_t)t->K * 4);
  memcpy(t->v + c * t->K, lc_param_find(p, "v"), (size_t)t->K * 4);
  for (int64_t k = 0; k < t->K; k++)
    t->age[c * t->K + k] = (int32_t)lc_param_find(p, "age")[k] + 1; /* there: of the next update */
}

/* Forward, loss, and dW's consumers for micro-batch b of update c. */
static lc_status micro_batch(lc_training *t, const lc_tensor *x, const lc_tensor *target, int64_t c,
                             int64_t b, double *loss) {
  lc_weight *w = &t->net->weights.w[0];
  const int64_t B = x->shape[1], T = x->shape[2], M = w->M, N = w->N;
  const float *in = (const float *)x->data + (c * B + b) * T * N,
              *want = (const float *)target->data + (c * B + b) * T * M;
  const void *tile;
  int64_t ld;
  float *dy = malloc((size_t)(T * M) * 4);
  lc_status st = lc_weight_tile(ctx, 0, w, (lc_rect){0, M, 0, N}, LC_F32, &tile, &ld);
  const lc_gemm_shape s = {.m = T,
                           .n = M,
                           .k = N,
                           .lda = N,
                           .ldb = ld,
                           .ldc = M,
                           .trans_b = true,
                           .dtype = LC_F32,
                           .c_dtype = LC_F32};
  if (!st) st = lc_gemm(ctx, 0, &s, in, tile, dy);
  for (int64_t k = 0; k < T * M && !st; k++) {
    const float d = dy[k] - want[k];
    *loss += 0.5 * (double)d * (double)d / (double)(B * T);
    dy[k] = d / (float)(B * T);
  }
  lc_run run = {.ctx = ctx};
  if (!st) st = lc_weight_gradient(&run, w, LC_F32, in, N, LC_F32, dy, M, T, 0);
  free(dy);
  return st;
}

static lc_status one_update(lc_training *t, const problem *pr, const lc_tensor *x, const lc_tensor *target,
                            int64_t c, double *loss) {
  lc_param *p = t->adapter->delta[0]->param[0];
  t->step = t->hyper.step = c;
  t->lr = t->hyper.lr = json_number_value(json_array_get(pr->lr, (size_t)c));
  lc_zero_gradients(ctx, &p, 1);
  LC_TRY(t->method->before_step(t->self, t));
  for (t->micro = 0; t->micro < t->n_micro; t->micro++) {
    LC_TRY(micro_batch(t, x, target, c, t->micro, loss));
    LC_TRY(t->method->after_micro(t->self, t));
  }
  LC_TRY(t->method->after_backward(t->self, t));
  LC_TRY(t->optim->update(ctx, p, &t->hyper));
  return t->method->after_step(t->self, t);
}

static lc_status set_options(const problem *p, void *self) {
  char number[64];
  const lc_option *table = lc_method_spiel.options;
  LC_TRY(lc_options_init(ctx, table, self));
  LC_TRY(lc_options_set(ctx, table, "spiel", self, "select", p->ma ? "ma" : "ag"));
  LC_TRY(lc_options_set(ctx, table, "spiel", self, "policy", p->policy));
  LC_TRY(lc_options_set(ctx, table, "spiel", self, "reference", p->reference ? "true" : "false"));
  snprintf(number, sizeof number, "%lld", (long long)p->S);
  LC_TRY(lc_options_set(ctx, table, "spiel", self, "period", number));
  snprintf(number, sizeof number, "%lld", (long long)p->A);
  LC_TRY(lc_options_set(ctx, table, "spiel", self, "accumulate", number));
  snprintf(number, sizeof number, "%.17g", p->p0);
  return lc_options_set(ctx, table, "spiel", self, "p0", number);
}

static lc_status run_layer(const problem *pr, const lc_safetensors *in, int64_t l, double *loss, trace *out) {
  char name[5][32];
  static const char *const kind[] = {"W", "index", "x", "target"};
  const lc_tensor *t[4];
  for (int i = 0; i < 4; i++) {
    snprintf(name[i], sizeof name[i], "%s.%lld", kind[i], (long long)l);
    if (!(t[i] = lc_safetensors_find(in, name[i])))
      return lc_fail(ctx, "inputs.safetensors has no '%s'", name[i]);
  }
  const int64_t M = t[0]->shape[0], N = t[0]->shape[1], K = t[1]->shape[0];
  lc_status st = LC_OK;
  void *self = calloc(1, lc_method_spiel.self_size);
  lc_weight w = {.name = "layer.weight",
                 .module = "layer",
                 .id = lc_fnv1a32("layer.weight"),
                 .kind = LC_KIND_LINEAR,
                 .M = M,
                 .N = N,
                 .ndim = 2,
                 .uses = 1};
  lc_net net = {.ctx = ctx, .compute = LC_F32, .weights = {&w, 1}};
  lc_training tr = {.ctx = ctx,
                    .net = &net,
                    .method = &lc_method_spiel,
                    .self = self,
                    .optim = lc_optim_find("adamw"),
                    .planned = pr->planned,
                    .n_phases = 1,
                    .phase_length = {pr->planned},
                    .last = pr->steps,
                    .n_micro = t[2]->shape[1]};
  tr.opts = (lc_train_opts){
      .targets = "all-linear", .density = ((double)K + 0.5) / (double)(M * N), .eps = pr->eps, .seed = 1};
  tr.hyper =
      (lc_hyper){.weight_decay = pr->weight_decay, .beta1 = pr->beta1, .beta2 = pr->beta2, .eps = pr->eps};
  *out = trace_new(pr->steps, K, M, N);
  LC_GO(set_options(pr, self));
  LC_GO(lc_form_view(ctx, t[0], false, NULL, &w.base));
  w.form = w.base;
  LC_GO(lc_method_spiel.attach(self, &tr));
  lc_param *p = tr.adapter->delta[0]->param[0];
  if (p->n != K) LC_GO(lc_fail(ctx, "%lld entries, %lld expected", (long long)p->n, (long long)K));
  for (int64_t k = 0; k < K; k++)
    ((int32_t *)p->idx.at)[k] = (int32_t)((const int64_t *)t[1]->data)[k]; /* the problem's start */
  LC_GO(tr.optim->prepare(ctx, p, &tr.hyper));
  const uint64_t allocations = lc_mem_allocations(ctx);
  for (int64_t c = 0; c < pr->steps; c++) {
    LC_GO(one_update(&tr, pr, t[2], t[3], c, &loss[c]));
    record(out, p, c, pr->ma);
    for (int64_t k = 1; k < K; k++) /* a reselection leaves them sorted, distinct, inside */
      if (lc_index_at(&p->idx, k) <= lc_index_at(&p->idx, k - 1) || lc_index_at(&p->idx, k) >= M * N)
        LC_GO(lc_fail(ctx, "positions out of order"));
    if (c == 0) tr.tokens = (int64_t)(lc_mem_allocations(ctx) - allocations);
  }
  if (lc_mem_allocations(ctx) - allocations != (uint64_t)tr.tokens)
    LC_GO(lc_fail(ctx, "something was allocated after the first update"));
done:
  lc_method_spiel.release(self, ctx);
  while (net.n_adapter) lc_adapter_remove(net.adapter[0]);
  lc_free(ctx, net.adapter);
  if (w.base) lc_form_free(ctx, w.base);
  free(self);
  return st;
}

static lc_status run_problem(const char *dir, problem *p, double **loss, trace **traces) {
  lc_status st = LC_OK;
  json_t *j = NULL;
  lc_safetensors in = {0};
  char path[512];
  *loss = NULL;
  *traces = NULL;
  snprintf(path, sizeof path, "%s/spiel.json", dir);
  LC_GO(lc_json_read(ctx, path, &j));
  LC_GO(read_problem(j, p));
  snprintf(path, sizeof path, "%s/inputs.safetensors", dir);
  LC_GO(lc_safetensors_open(ctx, path, &in));
  *loss = calloc((size_t)p->steps, sizeof **loss);
  *traces = calloc((size_t)p->layers, sizeof **traces);
  for (int64_t l = 0; l < p->layers; l++) LC_GO(run_layer(p, &in, l, *loss, &(*traces)[l]));
done:
  lc_safetensors_close(ctx, &in);
  json_decref(j);
  return st;
}

static void free_problem(const problem *p, double *loss, trace *traces) {
  for (int64_t l = 0; traces && l < p->layers; l++) trace_free(&traces[l]);
  free(traces);
  free(loss);
}

/* ---- as a program ---- */

typedef struct {
  const char *kind;
  lc_dtype dtype;
  size_t size;
} column;
static const column ag_columns[] = {
    {"index", LC_I64, 8}, {"value", LC_F32, 4}, {"m", LC_F32, 4}, {"v", LC_F32, 4}, {"age", LC_I32, 4}};
static const column ma_columns[] = {
    {"index", LC_I64, 8}, {"value", LC_F32, 4}, {"r", LC_F32, 4}, {"q", LC_F32, 4}};

static const void *column_data(const trace *t, const char *kind, int64_t *width) {
  *width = *kind == 'r' ? t->M : *kind == 'q' ? t->N : t->K;
  switch (*kind) {
  case 'i':
    return t->index;
  case 'm':
    return t->m;
  case 'a':
    return t->age;
  case 'r':
    return t->r;
  case 'q':
    return t->q;
  default:
    return kind[1] ? (const void *)t->value : t->v;
  }
}

static lc_status write_trace(const char *path, const problem *p, const double *loss, const trace *traces) {
  lc_safetensors_writer *w;
  lc_status st = LC_OK;
  const column *col = p->ma ? ma_columns : ag_columns;
  const int n = p->ma ? 4 : 5;
  float *l32 = malloc((size_t)p->steps * 4);
  for (int64_t c = 0; c < p->steps; c++) l32[c] = (float)loss[c];
  LC_GO(lc_safetensors_create(ctx, path, &w));
  for (int write = 0; write < 2 && !st; write++) /* declare all, then append all */
    for (int i = 0; i < n && !st; i++)
      for (int64_t l = 0; l < p->layers && !st; l++) {
        int64_t width;
        char name[32];
        const void *data = column_data(&traces[l], col[i].kind, &width);
        snprintf(name, sizeof name, "%s.%lld", col[i].kind, (long long)l);
        if (write)
          st = lc_safetensors_append(w, data, (size_t)(p->steps * width) * col[i].size);
        else
          st = lc_safetensors_declare(w, name, col[i].dtype, 2, (int64_t[]){p->steps, width});
        if (i == n - 1 && l == p->layers - 1 && !st)
          st = write ? lc_safetensors_append(w, l32, (size_t)p->steps * 4)
                     : lc_safetensors_declare(w, "loss", LC_F32, 1, &p->steps);
      }
  lc_status end = lc_safetensors_finish(w, st == LC_OK);
  if (!st) st = end;
done:
  free(l32);
  return st;
}

static int program(const char *dir, const char *out) {
  problem p;
  double *loss;
  trace *traces;
  char why[256];
  if (lc_ctx_new(2, &ctx, why)) {
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  lc_status st = run_problem(dir, &p, &loss, &traces);
  if (!st) st = write_trace(out, &p, loss, traces);
  if (st) fprintf(stderr, "%s\n", lc_error(ctx));
  free_problem(&p, loss, traces);
  lc_ctx_free(ctx);
  return st != LC_OK;
}

/* ---- as a test ---- */

static double error(const float *a, const float *b, int64_t n) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; i++)
    d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), s += (double)b[i] * b[i];
  return sqrt(d) / (s > 0 ? sqrt(s) : 1);
}

static void follow(const char *dir) {
  problem p;
  double *loss, worst = 0;
  trace *traces;
  lc_safetensors e;
  char path[512];
  if (run_problem(dir, &p, &loss, &traces)) fail_msg("%s: %s", dir, lc_error(ctx));
  snprintf(path, sizeof path, "%s/expected.safetensors", dir);
  if (lc_safetensors_open(ctx, path, &e)) fail_msg("%s", lc_error(ctx));
  const column *col = p.ma ? ma_columns : ag_columns;
  for (int64_t l = 0; l < p.layers; l++)
    for (int i = 0; i < (p.ma ? 4 : 5); i++) {
      char name[32];
      int64_t width;
      const uint8_t *got = column_data(&traces[l], col[i].kind, &width);
      snprintf(name, sizeof name, "%s.%lld", col[i].kind, (long long)l);
      const lc_tensor *t = lc_safetensors_find(&e, name);
      assert_non_null(t);
      assert_int_equal(t->dtype, col[i].dtype);
      assert_int_equal(lc_tensor_count(t), p.steps * width);
      for (int64_t c = 0; c < p.steps; c++) {
        const size_t at = (size_t)(c * width) * col[i].size;
        const uint8_t *want = (const uint8_t *)t->data + at;
        if (col[i].dtype != LC_F32) {
          if (memcmp(got + at, want, (size_t)width * col[i].size))
            fail_msg("%s: %s differs first after update %lld", dir, name, (long long)c + 1);
          continue;
        }
        const double d = error((const float *)(got + at), (const float *)want, width);
        if (!(d <= 1e-3)) fail_msg("%s: %s is %g apart after update %lld", dir, name, d, (long long)c + 1);
        worst = fmax(worst, d);
      }
    }
  const float *want = lc_safetensors_find(&e, "loss")->data;
  for (int64_t c = 0; c < p.steps; c++)
    assert_true(fabs(loss[c] - (double)want[c]) <= 1e-3 * fabs((double)want[c]));
  print_message("%s: %lld updates followed, largest relative error %.1g\n", dir, (long long)p.steps, worst);
  lc_safetensors_close(ctx, &e);
  free_problem(&p, loss, traces);
}

static void test_ag(void **state) {
  follow("golden/spiel/ag");
}
static void test_ma(void **state) {
  follow("golden/spiel/ma");
}
static void test_ag_reference(void **state) {
  follow("golden/spiel/ag-reference");
}

static int setup(void **state) {
  char why[256];
  return lc_ctx_new(2, &ctx, why);
}

static int teardown(void **state) {
  for (int m = 0; m < LC_MEM_COUNT; m++)
    if (m != LC_MEM_SCRATCH && lc_mem_bytes(ctx, m)) return 1;
  lc_ctx_free(ctx);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3) return program(argv[1], argv[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ag), cmocka_unit_test(test_ma),
                                     cmocka_unit_test(test_ag_reference)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
