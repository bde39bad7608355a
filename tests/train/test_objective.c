/* Objectives: their values where they are known, their gradients against finite differences through the whole network, their
 * sampling and rewards, and that they combine with methods, resume and thread counts without a change of bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "support/train_support.h"

static t_world w;
static lc_dataset *pairs, *questions, *exam;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(w.ctx));
}

static void refused(lc_status st, const char *says) {
  assert_int_not_equal(st, LC_OK);
  if (!strstr(lc_error(w.ctx), says)) fail_msg("'%s' lacks '%s'", lc_error(w.ctx), says);
  lc_error_clear(w.ctx);
}

static lc_dataset *rows(const char *name, int n, bool preference) {
  static const char *const words[] = {"the cat", "a mat", "two birds", "far", "and on", "saw"};
  const char *path = lc_tiny_path(w.dir, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  for (int i = 0; i < n; i++)
    if (preference)
      fprintf(f, "{\"prompt\": \"%s\", \"chosen\": \" %s %s\", \"rejected\": \" %s\"}\n", words[i % 6],
              words[(i + 1) % 6], words[(i * 3 + 2) % 6], words[(i * 5 + 4) % 6]);
    else
      fprintf(f, "{\"prompt\": \"%s%d\", \"answer\": \"%d\"}\n", words[i % 6], i, i);
  fclose(f);
  lc_dataset *d;
  ok(lc_data_open(w.ctx, w.tok, path, &(lc_data_opts){.seq = 64}, &d));
  return d;
}

static void open_world(int threads) {
  t_world_open(&w, threads);
  pairs = rows("pairs.jsonl", 13, true);
  questions = rows("questions.jsonl", 7, false);
  exam = rows("exam.jsonl", 3, false);
}

static void close_world(void) {
  lc_data_free(pairs);
  lc_data_free(questions);
  lc_data_free(exam);
  t_world_close(&w);
}

static int setup(void **state) {
  open_world(1);
  return 0;
}

static int teardown(void **state) {
  close_world();
  return 0;
}

/* Answers of this model are noise; about half hold one of these characters. */
#define VOWELS "extract=[aeiou0-9]"
#define ASK    "group=4 max-tokens=5 reward=format " VOWELS

/* ---- rows ---- */

static void test_rows(void **state) {
  lc_data_info d = lc_data_describe(pairs);
  assert_int_equal(d.kind, LC_ROWS_PREFERENCE);
  assert_int_equal(d.rows, 13);
  assert_int_equal(lc_data_count(pairs), 26);
  for (int i = 0; i < 13; i++) { /* one prompt, and every target an answer's, its end token included */
    const lc_example c = lc_data_get(pairs, 2 * i), r = lc_data_get(pairs, 2 * i + 1);
    assert_int_equal(c.n - c.n_targets, r.n - r.n_targets);
    assert_memory_equal(c.id, r.id, (size_t)(c.n - c.n_targets) * sizeof *c.id);
    assert_int_equal(c.id[c.n - 1], r.id[r.n - 1]);
    assert_true(c.n_targets > r.n_targets || i == 0 || c.n_targets > 1);
  }
  int64_t order[13], seen = 0;
  lc_data_order(pairs, 1, 0, true, order);
  for (int i = 0; i < 13; i++) seen |= 1 << order[i];
  assert_int_equal(seen, (1 << 13) - 1);
  d = lc_data_describe(questions);
  assert_int_equal(d.kind, LC_ROWS_ANSWER);
  assert_int_equal(d.targets, 0);
  assert_string_equal(lc_data_answer(questions, 3), "3");
  assert_null(lc_data_answer(pairs, 0));
}

static void test_answers(void **state) {
  lc_extractor *x;
  size_t a, b;
  double n;
  ok(lc_extractor_new(w.ctx, LC_GSM8K_ANSWER, &x));
  assert_true(lc_extract(x, "so #### 1,234. Yes", 18, &a, &b) && b - a == 6);
  assert_false(lc_extract(x, "1234", 4, &a, &b));
  lc_extractor_free(w.ctx, x);
  refused(lc_extractor_new(w.ctx, "(", &x), "no regular expression");
  assert_true(lc_same_answer(" $1,234. ", 9, "1234", 4));
  assert_false(lc_same_answer("1234", 4, "123", 3));
  assert_true(lc_answer_number("1,234.50", 8, &n) && n == 1234.5);
  assert_false(lc_answer_number("12 apples", 9, &n));
  assert_false(lc_answer_number("", 0, &n));
  for (int i = 0; i < lc_n_rewards; i++) {
    assert_true(lc_rewards[i].of("7.0", 3, true, "7") ==
                (double)(i > 0)); /* exact: another text; number: the same */
    assert_true(lc_rewards[i].of("7", 1, true, "7") == 1);
    assert_true(lc_rewards[i].of("", 0, false, "7") == 0);
  }
}

/* ---- pieces ---- */

static double surrogate(double nll, double old, double ref, double A, double eps, double beta) {
  const double r = exp(old - nll), c = fmin(fmax(r, 1 - eps), 1 + eps), d = nll - ref;
  return -fmin(r * A, c * A) + beta * (exp(d) - d - 1);
}

static void test_surrogate(void **state) {
  for (int i = 0; i < 200; i++) {
    uint32_t s = 77u + 1000u * (unsigned)i;
    double u[4];
    for (int k = 0; k < 4; k++) {
      s = s * 1664525u + 1013904223u;
      u[k] = (double)s / 4294967296.0;
    }
    const double old = 2 + u[0], nll = old + 0.6 * (u[1] - 0.5), ref = 2 + u[2], A = 4 * (u[3] - 0.5),
                 h = 1e-6;
    const lc_surrogate q = {(float)A, 0.2f, i % 3 ? 0.1f : 0};
    const double beta = (double)q.beta, r = exp(old - nll);
    float slope, loss = lc_surrogate_loss(&q, (float)nll, (float)old, (float)ref, &slope);
    assert_true(fabs((double)loss - surrogate(nll, old, ref, A, 0.2, beta)) < 1e-5);
    if (fabs(r - 1.2) < 1e-3 || fabs(r - 0.8) < 1e-3) continue; /* at the corner there is no derivative */
    const double fd =
        (surrogate(nll + h, old, ref, A, 0.2, beta) - surrogate(nll - h, old, ref, A, 0.2, beta)) / (2 * h);
    if (fabs((double)slope - fd) > 1e-4) fail_msg("slope %g, by differences %g", (double)slope, fd);
  }
}

static void test_advantages(void **state) {
  double a[4];
  const double r[4] = {1, 0, 0, 1}, equal[4] = {0.1, 0.1, 0.1, 0.1};
  lc_group_advantages(r, 4, true, a);
  assert_true(fabs(a[0] - 0.5 / (sqrt(1.0 / 3) + 1e-4)) < 1e-12 && a[1] == -a[0] && a[3] == a[0]);
  lc_group_advantages(equal, 4, true, a);
  for (int i = 0; i < 4; i++) assert_true(fabs(a[i]) < 1e-12);
  lc_group_advantages(r, 4, false, a);
  assert_true(a[0] == 0.5);
}

static void test_critic(void **state) {
  enum { C = 5, N = 7 };
  lc_critic c;
  float h[N * C];
  double goal[N], grad[C + 1];
  ok(lc_critic_new(w.ctx, C, &c));
  for (int i = 0; i < N * C; i++) h[i] = (float)(i * i % 13) / 6 - 1;
  for (int i = 0; i < N; i++) goal[i] = 0.3 * i - 1;
  for (int i = 0; i <= C; i++) c.w[i] = 0.1 * i - 0.2;
  const double before = lc_critic_loss(&c, h, goal, N, grad);
  for (int i = 0; i <= C; i++) {
    const double keep = c.w[i], e = 1e-5;
    c.w[i] = keep + e;
    const double up = lc_critic_loss(&c, h, goal, N, NULL);
    c.w[i] = keep - e;
    const double fd = (up - lc_critic_loss(&c, h, goal, N, NULL)) / (2 * e);
    c.w[i] = keep;
    assert_true(fabs(fd - grad[i]) < 1e-8);
  }
  for (int s = 0; s < 2000; s++) {
    lc_critic_loss(&c, h, goal, N, grad);
    lc_critic_step(&c, grad, 0.01);
  }
  assert_true(lc_critic_loss(&c, h, goal, N, NULL) < 0.2 * before);
  lc_critic_free(w.ctx, &c);
}

/* ---- gradients through the network ---- */

static double update_loss(lc_training *t) {
  double sum = 0;
  int64_t targets = 0;
  for (int64_t i = 0; i < t->n_example; i += t->opts.micro_batch)
    ok(lc_pass(t, t->example + i, lc_min64(t->opts.micro_batch, t->n_example - i), false, 1, &sum, &targets));
  return sum / (double)t->update_targets;
}

static int differences; /* gradients that were compared */

/* The largest entry of each of the first trainables with a gradient, against a central difference. */
static lc_status compare(void *self, lc_training *t) {
  int done = 0;
  for (int i = 0; i < t->n_param && done < 6; i++) {
    lc_param *p = t->param[i];
    int64_t best = 0;
    for (int64_t k = 0; k < p->n; k++)
      if (fabsf(p->grad[k]) > fabsf(p->grad[best])) best = k;
    const double g = (double)p->grad[best];
    if (fabs(g) < 2e-3) continue;
    const float keep = p->value[best], e = 2e-3f;
    p->value[best] = keep + e;
    const double up = update_loss(t);
    p->value[best] = keep - e;
    const double fd = (up - update_loss(t)) / (2 * (double)e);
    p->value[best] = keep;
    if (fabs(fd - g) > 0.02 * fabs(g) + 2e-4)
      fail_msg("%s, update %d, '%s': gradient %g, by differences %g", t->goal.row->name, (int)t->step + 1,
               p->name, g, fd);
    done++;
  }
  differences += done;
  return LC_OK;
}

static void test_gradients(void **state) {
  static const struct {
    const char *objective, *with;
  } all[] = {{"dpo", "beta=1"},
             {"simpo", "beta=2 gamma=0.5"},
             {"grpo", ASK " beta=0.5"},
             {"grpo", ASK " beta=0.1 updates=3 scale-rewards=false clip-ratio=0.9"},
             {"ppo", ASK " updates=3 clip-ratio=0.9"}, /* away from the corners, which have no derivative */
             {"ppo", ASK " updates=2 kl=0 critic-steps=0 clip-ratio=0.9"},
             {"rft", ASK}};
  static const char *const methods[] = {"full", "shira", "lora"};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    for (int m = 0; m < 3; m++) {
      lc_method row = *lc_method_find(methods[m]);
      row.after_backward = compare;
      t_spec s = {.row = &row,
                  .set = m == 2 ? "r=4" : "",
                  .out = "fd",
                  .overwrite = true,
                  .no_eval = true,
                  .opts = "steps=3 batch=3 micro-batch=4 lr=2e-3 density=0.1 keep=0",
                  .data = i < 2 ? pairs : questions,
                  .objective = all[i].objective,
                  .with = all[i].with};
      differences = 0;
      ok(t_train(&w, &s));
      if (differences < 3)
        fail_msg("%s %s with %s: %d gradients large enough", all[i].objective, all[i].with, methods[m],
                 differences);
    }
}

/* ---- known values ---- */

typedef struct {
  double loss[16], norm[16], reward[16], kl[16], length[16], clipped[16];
  int n;
  double held[4];
  int evals;
} seen;

static int watch(void *arg, const char *kind, const struct json_t *e) {
  seen *s = arg;
  if (!strcmp(kind, "eval") && s->evals < 4)
    s->held[s->evals++] =
        json_number_value(json_object_get(e, json_object_get(e, "reward") ? "reward" : "loss"));
  if (strcmp(kind, "step") || s->n == 16) return 0;
  s->loss[s->n] = json_number_value(json_object_get(e, "loss"));
  s->norm[s->n] = json_number_value(json_object_get(e, "grad_norm"));
  s->reward[s->n] = json_number_value(json_object_get(e, "reward"));
  s->kl[s->n] = json_number_value(json_object_get(e, "kl"));
  s->clipped[s->n] = json_number_value(json_object_get(e, "clipped"));
  s->length[s->n++] = json_number_value(json_object_get(e, "answer_tokens"));
  return 0;
}

static seen run(const char *method, const char *set, const char *objective, const char *with,
                const char *opts) {
  seen s = {0};
  const bool preference = objective[0] == 'd' || objective[0] == 's';
  t_spec spec = {.method = method,
                 .set = set,
                 .out = "run",
                 .overwrite = true,
                 .opts = opts,
                 .data = preference ? pairs : questions,
                 .eval = preference ? pairs : exam,
                 .objective = objective,
                 .with = with,
                 .event = watch,
                 .arg = &s};
  ok(t_train(&w, &spec));
  return s;
}

/* At π = π_ref the loss is log 2, whatever the method; then it falls, and the reference stays where it was. */
static void test_dpo(void **state) {
  static const char *const sets[][2] = {{"full", ""},
                                        {"shira", ""},
                                        {"lora", "r=4"},
                                        {"spiel", "period=4 accumulate=2"},
                                        {"llava-mole", "r=4 alpha=8"}};
  for (int i = 0; i < 5; i++) {
    const seen s = run(sets[i][0], sets[i][1], "dpo", "beta=0.5", "steps=13 batch=5 lr=3e-3 density=0.1");
    assert_true(fabs(s.loss[0] - log(2)) < 1e-6);
    assert_true(fabs(s.held[0] - log(2)) < 1e-6);
    if (!(s.held[1] < s.held[0] - 0.02)) fail_msg("%s: held-out loss %g", sets[i][0], s.held[1]);
  }
}

/* Equal rewards: nothing pulls but the KL, and at π = π_ref not even that. */
static void test_equal_rewards(void **state) {
  seen s = run("full", "", "grpo", "group=4 max-tokens=5 reward=format beta=0", "steps=3 batch=2 lr=1e-2");
  for (int i = 0; i < 3; i++) assert_true(s.norm[i] == 0 && s.reward[i] == 1);
  s = run("full", "", "grpo", "group=4 max-tokens=5 reward=format beta=0.5", "steps=3 batch=2 lr=1e-2");
  assert_true(s.norm[0] == 0 && s.kl[0] == 0);
  s = run("full", "", "grpo", ASK " beta=0.5", "steps=3 batch=2 lr=3e-3");
  assert_true(s.norm[0] > 0 && s.kl[0] == 0 && s.kl[2] > 0);
}

static double equal[6];
static int take_equal(void *arg, const char *kind, const json_t *e) {
  if (!strcmp(kind, "step"))
    equal[json_integer_value(json_object_get(e, "step")) - 1] =
        json_number_value(json_object_get(e, "equal_rewards"));
  return 0;
}
/* The updates made of one sampling tell the same of it. */
static void test_equal_rewards_told(void **state) {
  t_spec s = {.method = "shira",
              .objective = "grpo",
              .with = "group=4 max-tokens=5 reward=format updates=3",
              .data = questions,
              .no_eval = true,
              .out = "told",
              .overwrite = true,
              .opts = "steps=6 batch=2",
              .event = take_equal};
  ok(t_train(&w, &s));
  for (int i = 0; i < 6; i++) assert_true(equal[i] == 1);
}

/* Several updates of one sampling: the first has ratio 1 everywhere, later ones move, and large steps are clipped. */
static void test_clipping(void **state) {
  const seen s = run("full", "", "ppo", ASK " updates=3 clip-ratio=0.01", "steps=6 batch=3 lr=2e-3");
  assert_true(s.clipped[0] == 0 && s.clipped[3] == 0);
  assert_true(s.clipped[1] > 0.1 && s.clipped[2] > 0.1);
  assert_true(s.reward[0] == s.reward[1] && s.reward[1] == s.reward[2] && s.length[0] == s.length[2]);
  assert_true(s.kl[0] == 0 && s.kl[3] != 0);
}

/* The reward that is asked for rises; dealt out at random it does not. */
static void test_learns(void **state) {
  static const char *const sets[] = {"grpo", "rft", "ppo"};
  for (int i = 0; i < 3; i++) {
    char with[256];
    const bool ppo = i == 2;
    snprintf(with, sizeof with, "group=8 max-tokens=2 reward=format extract=[a-e]%s",
             i == 0 ? " beta=0"
             : ppo  ? " updates=2 kl=0"
                    : "");
    seen s = run("shira", "", sets[i], with,
                 ppo ? "steps=80 batch=4 lr=2e-2 density=0.2 micro-batch=32"
                     : "steps=40 batch=4 lr=2e-2 density=0.2 micro-batch=32");
    assert_true(s.held[1] > 0.9);
    strcat(with, " shuffle-rewards=true");
    s = run("shira", "", sets[i], with, "steps=10 batch=4 lr=1e-3 density=0.2 micro-batch=32");
    assert_true(s.held[1] < 0.9);
  }
}

/* ---- the same bits ---- */

static const struct {
  const char *method, *set, *objective, *with;
} variants[] = {
    {"full", "", "dpo", "beta=0.5"},
    {"lora", "r=4 dropout=0.1", "dpo", ""},
    {"shira", "", "simpo", ""},
    {"spiel", "period=4 accumulate=2", "grpo", ASK},
    {"shira", "", "grpo", ASK " updates=3"},
    {"full", "", "ppo", ASK " updates=3"},
    {"lora", "r=4", "rft", ASK},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };
#define OPTS "steps=8 batch=3 micro-batch=4 eval-every=3 density=0.05 lr=3e-3"

static t_spec spec_of(int i, const char *out, const char *opts) {
  const bool preference = variants[i].objective[0] == 'd' || variants[i].objective[0] == 's';
  return (t_spec){.method = variants[i].method,
                  .set = variants[i].set,
                  .out = out,
                  .opts = opts,
                  .data = preference ? pairs : questions,
                  .eval = preference ? pairs : exam,
                  .objective = variants[i].objective,
                  .with = variants[i].with};
}

static void test_threads(void **state) {
  static const char *const types[] = {"f32", "bf16"};
  char *first[2 * N_VARIANTS];
  size_t size[2 * N_VARIANTS];
  for (int turn = 0; turn < 2; turn++) {
    for (int i = 0; i < 2 * N_VARIANTS; i++) {
      char opts[256], out[24], *data;
      size_t n;
      snprintf(opts, sizeof opts, OPTS " dtype=%s%s", types[i % 2], turn ? " recompute=true" : "");
      snprintf(out, sizeof out, "v%d", i);
      const t_spec s = spec_of(i / 2, out, opts);
      ok(t_train(&w, &s));
      ok(lc_read_file(w.ctx, t_out(&w, out, "checkpoint-8/state.safetensors"), 1 << 24, &data, &n));
      if (!turn) {
        first[i] = malloc(n);
        memcpy(first[i], data, size[i] = n);
      } else if (n != size[i] || memcmp(first[i], data, n)) {
        fail_msg("%s with %s in %s: other bits on two threads", variants[i / 2].objective,
                 variants[i / 2].method, types[i % 2]);
      }
      lc_free(w.ctx, data);
    }
    close_world();
    open_world(2 - turn);
  }
  for (int i = 0; i < 2 * N_VARIANTS; i++) free(first[i]);
}

/* Stopped after update 4 (in the middle of a sampling's three updates) and after 5. */
static void test_resume(void **state) {
  for (int i = 0; i < N_VARIANTS; i++) {
    char a[24], b[24];
    snprintf(a, sizeof a, "whole%d", i);
    snprintf(b, sizeof b, "parts%d", i);
    t_spec s = spec_of(i, a, OPTS);
    ok(t_train(&w, &s));
    s = spec_of(i, b, OPTS " stop-after=4");
    ok(t_train(&w, &s));
    s = spec_of(i, b, OPTS " stop-after=5");
    s.resume = true;
    ok(t_train(&w, &s));
    s = spec_of(i, b, OPTS);
    s.resume = true;
    ok(t_train(&w, &s));
    if (!t_same_files(t_out(&w, a, "checkpoint-8/state.safetensors"),
                      t_out(&w, b, "checkpoint-8/state.safetensors")))
      fail_msg("%s with %s: resumed, other bits", variants[i].objective, variants[i].method);
#define STEPS                                                                                                \
  "SELECT group_concat(step || ':' || loss || ':' || grad_norm || ':' || tokens || ':' || targets) FROM "    \
  "steps"
    assert_string_equal(t_query(&w, a, STEPS), t_query(&w, b, STEPS));
  }
  t_spec s = spec_of(0, "parts0", OPTS);
  s.resume = true;
  s.with = "beta=0.6";
  refused(t_train(&w, &s), "the objective's option 'beta'");
  s = spec_of(0, "parts0", OPTS);
  s.resume = true;
  s.objective = "simpo";
  s.with = "";
  refused(t_train(&w, &s), "the objective was 'dpo'");
}

/* The recipe repeats a run. */
static void test_recipe(void **state) {
  lc_recipe r = {0};
  t_spec s = spec_of(4, "recipe", OPTS);
  ok(t_train(&w, &s));
  ok(lc_recipe_read(w.ctx, t_out(&w, "recipe", "recipe.yaml"), &r));
  assert_string_equal(r.objective, "grpo");
  bool found = false;
  for (int i = 0; i < r.n_with; i++)
    found |= !strcmp(r.with[i].key, "updates") && !strcmp(r.with[i].value, "3");
  assert_true(found);
  lc_recipe_free(w.ctx, &r);
}

/* ---- what does not go together ---- */

static void test_refusals(void **state) {
  static const struct {
    const char *method, *set, *objective, *with, *says;
    int data; /* 0 rows, 1 pairs, 2 questions */
  } all[] = {
      {"full", "", "dpo", "", "does not take the data: its rows are prompt and completion", 0},
      {"full", "", "grpo", "", "its rows are preferences", 1},
      {"full", "", NULL, "", "sft does not take", 1},
      {"mosa", "width=8 scale=1", "dpo", "", "a loss of its own", 1},
      {"shira", "mask=grad examples=4", "dpo", "", "of next-token loss", 1},
      {"full", "", "grpo", "reward=exat", "did you mean 'exact'", 2},
      {"full", "", "grpo", "extract=(", "no regular expression", 2},
      {"full", "", "grpo", "max-tokens=500", "do not fit the model's 128 positions", 2},
  };
  const lc_dataset *data[] = {w.data, pairs, questions};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    t_spec s = {.method = all[i].method,
                .set = all[i].set,
                .out = "refused",
                .no_eval = true,
                .opts = "steps=1 batch=2",
                .data = data[all[i].data],
                .objective = all[i].objective,
                .with = all[i].with};
    refused(t_train(&w, &s), all[i].says);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rows),          cmocka_unit_test(test_answers),
      cmocka_unit_test(test_surrogate),     cmocka_unit_test(test_advantages),
      cmocka_unit_test(test_critic),        cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_dpo),           cmocka_unit_test(test_clipping),
      cmocka_unit_test(test_equal_rewards), cmocka_unit_test(test_equal_rewards_told),
      cmocka_unit_test(test_learns),        cmocka_unit_test(test_threads),
      cmocka_unit_test(test_resume),        cmocka_unit_test(test_recipe),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
