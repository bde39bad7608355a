/* What must not change the bits of a run (threads, recomputation, a recipe's round trip), what may change
 * them by rounding only (the micro-batch), and that training follows PEFT and learns. */
#include "support/world_test.h"

static const struct {
  const char *method, *set;
} variants[] = {{"full", ""},
                {"lora", "r=4 dropout=0.1"},
                {"shira", "mask=grad examples=8"},
                {"spiel", "period=4 accumulate=2"},
                {"spiel", "select=ma period=4 accumulate=2"},
                {"allora", "r=4 depends=output"},
                {"allora", "r=4 place=lr"},
                {"llava-mole", "r=4 alpha=8 balance=0.3"},
                {"llava-mole", "r=4 alpha=8 gate=dense balance-scope=joint"},
                {"mosa", "width=8 scale=1 add=0.5"},
                {"mosa", "width=8 scale=1 pieces=1 kl=0 style=pfeiffer"},
                {"s2ft", "v=0.5 o=0.5 u=0.2 d=0.3"},
                {"dsee", "r=4 outer=3"},
                {"dsee", "r=4 outer=3 ratio=0 update-ratio=0.3 heads=2 prune=wabs support=random"},
                {"s2ft", "o=0.25 d=0.3 select=product examples=8"},
                {"mezo", "directions=2"},
                {"sparse-mezo", "sparsity=0.5"},
                {"sparse-mezo", "mask=random objective=exact"},
                {"snella", "r=4 variant=mixk"},
                {"snella", "r=4 interval=2 target=0.5 ema=0.5"},
                {"lift", "filter=4 interval=2"},
                {"lift", "filter=4 svd=exact shape=blocks interval=0"},
                {"lt-sft", "dense=embed_tokens l1-first=10"},
                {"lt-sft", "iterations=2 phase=lora"},
                {"sara", "side=16 every=2"},
                {"sara", "threshold=0.01 side=16 polar=iterated progressive=-1"}};
#define N_VARIANTS (sizeof variants / sizeof *variants)
#define ARRAYS     "checkpoint-7/state.safetensors"

static char *first_arrays[2 * N_VARIANTS];

static void run_variants(const char *opts, bool check) {
  static const char *const types[] = {"f32", "bf16"};
  for (size_t i = 0; i < 2 * N_VARIANTS; i++) {
    char text[256], out[16];
    snprintf(text, sizeof text, "steps=7 batch=5 micro-batch=2 eval-every=3 density=0.05 dtype=%s %s",
             types[i % 2], opts);
    snprintf(out, sizeof out, "v%zu", i);
    t_spec s = {.method = variants[i / 2].method, .set = variants[i / 2].set, .out = out, .opts = text};
    ok(t_train(&w, &s));
    size_t n;
    char *data;
    ok(lc_read_file(w.ctx, t_out(&w, out, ARRAYS), 1 << 24, &data, &n));
    if (!check) first_arrays[i] = malloc(n);
    if (!check)
      memcpy(first_arrays[i], data, n);
    else if (memcmp(first_arrays[i], data, n))
      fail_msg("%s %s %s: other bits with '%s'", variants[i / 2].method, variants[i / 2].set, types[i % 2],
               opts);
    lc_free(w.ctx, data);
  }
  lc_remove_tree(w.ctx, w.dir);
}

/* 1 thread; 2 threads; recomputation. The world (and its model file) is made again each time: same seed, same
 * model. */
static void test_same_bits(void **state) {
  run_variants("", false);
  t_world_close(&w);
  t_world_open(&w, 2);
  run_variants("", true);
  t_world_close(&w);
  t_world_open(&w, 2);
  run_variants("recompute=true", true);
  for (size_t i = 0; i < 2 * N_VARIANTS; i++) free(first_arrays[i]);
}

/* ---- gradients of an update whatever its micro-batches
 * --------------------------------------------------------------------- */

typedef struct {
  float *grad;
  int64_t n;
  double loss;
} seen;
static seen *looking;

static lc_status copy_gradients(void *self, lc_training *t) {
  int64_t n = 0;
  for (int i = 0; i < t->n_param; i++) n += t->param[i]->n;
  looking->n = n;
  looking->loss = t->loss;
  float *at = looking->grad = malloc((size_t)n * sizeof(float));
  for (int i = 0; i < t->n_param; at += t->param[i]->n, i++)
    memcpy(at, t->param[i]->grad, (size_t)t->param[i]->n * sizeof(float));
  return LC_OK;
}

static void test_micro_batches(void **state) {
  static const char *const methods[] = {"full", "lora", "shira"};
  for (int m = 0; m < 3; m++) {
    lc_method row = *lc_method_find(methods[m]);
    row.after_backward = copy_gradients;
    static const char *const sizes[] = {"8", "1", "3"};
    seen s[3] = {{0}};
    for (int k = 0; k < 3; k++) {
      char opts[96];
      snprintf(opts, sizeof opts, "steps=1 batch=8 micro-batch=%s keep=0", sizes[k]);
      looking = &s[k];
      t_spec spec = {.row = &row, .out = "m", .overwrite = true, .opts = opts, .no_eval = true};
      ok(t_train(&w, &spec));
    }
    double norm = 0;
    for (int64_t i = 0; i < s[0].n; i++) norm += (double)s[0].grad[i] * (double)s[0].grad[i];
    assert_true(norm > 0);
    for (int k = 1; k < 3; k++) {
      double e = lc_tiny_error(s[k].grad, s[0].grad, s[0].n);
      if (!(e < 1e-5) || fabs(s[k].loss - s[0].loss) > 1e-6 * s[0].loss)
        fail_msg("%s, micro-batch %s: gradients differ by %.1e, losses %.9f and %.9f", methods[m], sizes[k],
                 e, s[k].loss, s[0].loss);
    }
    for (int k = 0; k < 3; k++) free(s[k].grad);
  }
}

/* ---- it learns
 * -------------------------------------------------------------------------------------------------------------
 */

static void test_loss_falls(void **state) {
  for (size_t i = 0; i < N_VARIANTS; i++) {
    if (lc_method_find(variants[i].method)->step)
      continue; /* zeroth order needs other rates: method/test_zo */
    t_spec s = {.method = variants[i].method,
                .set = variants[i].set,
                .out = "learn",
                .overwrite = true,
                .opts = "steps=30 batch=8 density=0.05 lr=0.02"};
    ok(t_train(&w, &s));
    double before = atof(t_query(&w, "learn", "SELECT loss FROM evals WHERE step = 0")),
           after = atof(t_query(&w, "learn", "SELECT loss FROM evals WHERE step = 30"));
    if (!(after < 0.9 * before))
      fail_msg("%s %s: %.3f to %.3f", variants[i].method, variants[i].set, before, after);
  }
}

/* ---- PEFT's trajectory
 * ----------------------------------------------------------------------------------------------------- */

#define RUN "golden/adapters/lora-run"
static lc_safetensors peft;

/* The adapter file's factors take the place of A and B; PEFT's names say which. */
static const lc_tensor *factor(const lc_safetensors *file, const char *prefix, const lc_param *p) {
  char name[256], module[200];
  const char *tail = strrchr(p->name, '.');
  snprintf(module, sizeof module, "%.*s", (int)(tail - p->name), p->name);
  char *weight = strstr(module, ".weight");
  if (weight) *weight = 0;
  snprintf(name, sizeof name, "%sbase_model.model.%s.%s.weight", prefix, module, tail + 1);
  const lc_tensor *t = lc_safetensors_find(file, name);
  if (!t) fail_msg("%s is not in the file", name);
  return t;
}

static lc_status load_factors(void *self, lc_training *t) {
  lc_safetensors file;
  LC_TRY(lc_safetensors_open(t->ctx, RUN "/adapter_model.safetensors", &file));
  for (int d = 0; d < t->adapter->n; d++)
    for (int p = 0; p < 2; p++) {
      lc_param *a = t->adapter->delta[d]->param[p];
      const lc_tensor *f = factor(&file, "", a);
      assert_int_equal(lc_tensor_count(f), a->n);
      memcpy(a->value, f->data, (size_t)a->n * sizeof(float));
    }
  lc_safetensors_close(t->ctx, &file);
  return LC_OK;
}

static lc_status compare_factors(void *self, lc_training *t) {
  for (int i = 0; i < t->n_param; i++) {
    const lc_tensor *f = factor(&peft, "final.", t->param[i]);
    double e = lc_tiny_error(t->param[i]->value, f->data, t->param[i]->n);
    if (!(e <= 1e-2)) fail_msg("%s: %.2e from PEFT's", t->param[i]->name, e);
  }
  return LC_OK;
}

static const float *numbers(const char *name) {
  const lc_tensor *t = lc_safetensors_find(&peft, name);
  if (!t) fail_msg("%s is missing", name);
  return t->data;
}

static int compare_step(void *arg, const char *kind, const struct json_t *event) {
  if (strcmp(kind, "step")) return 0;
  int64_t i = json_integer_value(json_object_get(event, "step")) - 1;
  double loss = json_number_value(json_object_get(event, "loss")),
         norm = json_number_value(json_object_get(event, "grad_norm")),
         lr = json_number_value(json_object_get(event, "lr"));
  if (fabs(loss - (double)numbers("loss")[i]) > 1e-3)
    fail_msg("step %d: loss %.6f, PEFT's %.6f", (int)i + 1, loss, (double)numbers("loss")[i]);
  if (fabs(norm / (double)numbers("grad_norm")[i] - 1) > 1e-2)
    fail_msg("step %d: norm %.6f, PEFT's %.6f", (int)i + 1, norm, (double)numbers("grad_norm")[i]);
  if (fabs(lr - (double)numbers("lr")[i]) > 1e-8)
    fail_msg("step %d: rate %.9f, torch's %.9f", (int)i + 1, lr, (double)numbers("lr")[i]);
  ++*(int *)arg;
  return 0;
}

/* Rows come as PEFT took them: 8 rows in turn, three an update, over the end of the data; 24 = 3 times 8
 * rows. */
static lc_dataset *peft_rows(void) {
  enum { ROWS = 8, TURNS = 3 };
  lc_example row[ROWS * TURNS];
  const int32_t *ids = (const int32_t *)numbers("ids"), *labels = (const int32_t *)numbers("labels"),
                *length = (const int32_t *)numbers("length");
  int64_t T = lc_safetensors_find(&peft, "ids")->shape[1];
  static uint8_t target[ROWS][256];
  lc_dataset *d;
  for (int i = 0; i < ROWS * TURNS; i++) {
    for (int64_t k = 0; k < T; k++) target[i % ROWS][k] = labels[i % ROWS * T + k] >= 0;
    row[i] = (lc_example){.id = ids + i % ROWS * T, .target = target[i % ROWS], .n = length[i % ROWS]};
  }
  ok(lc_data_from_ids(w.ctx, row, ROWS * TURNS, &d));
  return d;
}

static void test_peft(void **state) {
  lc_method row = *lc_method_find("lora");
  lc_model *own = w.model;
  int steps = 0;
  row.calibrate = load_factors;
  row.finish = compare_factors;
  ok(lc_safetensors_open(w.ctx, RUN "/expected.safetensors", &peft));
  ok(lc_model_open(w.ctx, "golden/llama-gqa", &w.model));
  lc_dataset *d = peft_rows();
  t_spec s = {.row = &row,
              .out = "peft",
              .set = "r=4 alpha=8",
              .data = d,
              .no_eval = true,
              .event = compare_step,
              .arg = &steps,
              .opts = "steps=50 batch=3 micro-batch=2 shuffle=false lr=0.02 schedule=linear warmup=3 seq=37 "
                      "weight-decay=0"};
  lc_tokenizer *tok = w.tok;
  w.tok = NULL;
  ok(t_train(&w, &s));
  w.tok = tok;
  assert_int_equal(steps, 50);
  lc_data_free(d);
  lc_model_close(w.model);
  w.model = own;
  lc_safetensors_close(w.ctx, &peft);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_same_bits),
      TEST(test_micro_batches),
      TEST(test_loss_falls),
      TEST(test_peft),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
