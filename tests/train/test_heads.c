/* Tasks with labels: every method trains a new head beside its own, on a decoder and an encoder; the same bits with one
 * and two threads, in f32 and bf16, and after a resume; what is saved gives the scores that the run ended with; scale 0
 * and removal give the base back; what does not go together is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "support/train_support.h"

typedef struct {
  t_world w;
  const char **names;
  lc_label_set set;
  lc_task task;
} labelled;

static const char *const words[] = {"cat", "dog", "cow", "ant", "oak", "elm",
                                    "ash", "fir", "the", "and", "saw", "far"};

/* Which: 0 an animal, 1 a tree, -1 neither. */
static int kind_of(int word) {
  return word < 4 ? 0 : word < 8 ? 1 : -1;
}

static void write_rows(const char *path, lc_task task, int n, uint32_t seed) {
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  lc_rng r = {.seed = seed, .purpose = LC_RNG_TEST};
  for (int i = 0; i < n; i++) {
    const int count = 3 + (int)lc_rng_below(&r, (uint64_t)(100 * i), 5),
              key = (int)lc_rng_below(&r, (uint64_t)(100 * i + 1), 8);
    const int at = (int)lc_rng_below(&r, (uint64_t)(100 * i + 2), (uint64_t)count);
    fprintf(f, task == LC_TASK_TOKENS ? "{\"tokens\": [" : "{\"text\": \"");
    for (int k = 0; k < count; k++) {
      const char *word = words[k == at ? key : 8 + (int)lc_rng_below(&r, (uint64_t)(100 * i + 3 + k), 4)];
      fprintf(f, task == LC_TASK_TOKENS ? "%s\"%s\"" : "%s%s",
              !k                       ? ""
              : task == LC_TASK_TOKENS ? ", "
                                       : " ",
              word);
    }
    if (task == LC_TASK_TOKENS) {
      fprintf(f, "], \"tags\": [");
      for (int k = 0; k < count; k++) fprintf(f, "%s%d", k ? ", " : "", k == at ? 1 + kind_of(key) : 0);
      fprintf(f, "]}\n");
    } else {
      fprintf(f, "\", \"label\": \"%s\"}\n", kind_of(key) ? "tree" : "animal");
    }
  }
  fclose(f);
}

static void start(labelled *l, const char *family, lc_task task, int threads) {
  char why[256] = "";
  lc_tiny m = strcmp(family, "llama") ? LC_TINY_ROBERTA : LC_TINY_LLAMA;
  static const char *const label[] = {"animal", "tree", "x"};
  lc_head_opts head = {.task = task, .labels = task == LC_TASK_TOKENS ? 3 : 2, .label = label, .seed = 3};
  *l = (labelled){.task = task};
  t_world *w = &l->w;
  if (lc_path_is_dir("/dev/shm")) setenv("TMPDIR", "/dev/shm", 0);
  if (lc_ctx_new(threads, &w->ctx, why)) fail_msg("%s", why);
  w->dir = lc_tiny_dir();
  const char *model = lc_tiny_path(w->dir, "model");
  lc_status st = lc_tiny_hf(w->ctx, &m, model);
  lc_net *net = NULL;
  if (!st) st = lc_model_open_for(w->ctx, model, &head, &w->model);
  if (!st) st = lc_model_tokenizer(w->model, &w->tok);
  if (!st) st = lc_net_new(w->model, LC_F32, &net);
  if (!st) st = lc_net_labels(net, &l->names, &l->set);
  lc_net_free(net);
  write_rows(lc_tiny_path(w->dir, "data.jsonl"), task, 48, 3);
  write_rows(lc_tiny_path(w->dir, "eval.jsonl"), task, 16, 8);
  lc_data_opts o = {.seq = 64, .labels = &l->set};
  if (!st) st = lc_data_open(w->ctx, w->tok, lc_tiny_path(w->dir, "data.jsonl"), &o, &w->data);
  if (!st) st = lc_data_open(w->ctx, w->tok, lc_tiny_path(w->dir, "eval.jsonl"), &o, &w->eval);
  if (st) fail_msg("%s", lc_error(w->ctx));
}

static void stop(labelled *l) {
  lc_free(l->w.ctx, l->names);
  t_world_close(&l->w);
}

static lc_status try_run(labelled *l, t_spec s) {
  char opts[256];
  snprintf(opts, sizeof opts, "task=%s %s", lc_task_name(l->task), s.opts);
  s.opts = opts;
  return t_train(&l->w, &s);
}

static void run(labelled *l, t_spec s) {
  if (try_run(l, s)) fail_msg("%s: %s", s.method, lc_error(l->w.ctx));
}

static double number(const labelled *l, const char *out, const char *sql) {
  return atof(t_query(&l->w, out, sql));
}

/* The score of what a run left in `out`: an adapter on the base, opened as the adapter says, or a model. */
static lc_label_score score_of(labelled *l, const char *out) {
  lc_ctx *ctx = l->w.ctx;
  lc_head_opts head = {0};
  lc_model *m = NULL;
  lc_net *net = NULL;
  lc_adapter *a;
  lc_label_score s = {0};
  char dir[512];
  snprintf(dir, sizeof dir, "%s/%s", l->w.dir, out);
  const bool whole = lc_path_exists(t_out(&l->w, out, "model.safetensors"));
  lc_status st = whole ? LC_OK : lc_adapter_head(ctx, dir, &head);
  if (!st && !whole) assert_int_equal(head.task, l->task);
  if (!st && !whole) assert_string_equal(head.label[1], "tree");
  if (!st) st = lc_model_open_for(ctx, whole ? dir : l->w.model->path, &head, &m);
  if (!st) assert_int_equal(m->config.task, l->task);
  if (!st) st = lc_net_new(m, LC_F32, &net);
  if (!st && !whole) st = lc_adapter_load(net, dir, 1, LC_PATCH, &a);
  if (!st) st = lc_eval_labels(net, l->w.eval, 0, NULL, &s);
  if (st) fail_msg("%s: %s", out, lc_error(ctx));
  lc_head_opts_free(ctx, &head);
  lc_net_free(net);
  lc_model_close(m);
  return s;
}

static void every_method_trains_a_head(void **state) {
  static const struct {
    const char *family;
    lc_task task;
  } worlds[] = {{"llama", LC_TASK_CLASSIFY},
                {"roberta", LC_TASK_CLASSIFY},
                {"roberta", LC_TASK_TOKENS},
                {"llama", LC_TASK_TOKENS}};
  for (size_t k = 0; k < sizeof worlds / sizeof *worlds; k++) {
    labelled l;
    start(&l, worlds[k].family, worlds[k].task, 2);
    for (int i = 0; i < lc_n_methods; i++) {
      const lc_method *m = lc_methods[i];
      char from[600] = "";
      if (m->step) continue;                   /* without gradients: refused below */
      if (lc_options_find(m->options, "from")) /* stands on an earlier run's result */
        snprintf(from, sizeof from, "from=%s", t_out(&l.w, "full", ""));
      run(&l, (t_spec){.method = m->name,
                       .out = m->name,
                       .set = from,
                       .opts = "steps=12 batch=8 lr=0.003 keep=0 density=0.05"});
      const double before = number(&l, m->name, "select loss from evals order by step limit 1"),
                   after = number(&l, m->name, "select loss from evals order by step desc limit 1");
      const lc_label_score s = score_of(&l, m->name);
      if (*from ? after == before
                : !(after < before)) /* a few entries of another run: held-out loss may rise */
        fail_msg("%s, %s: loss %g became %g", worlds[k].family, m->name, before, after);
      if (!(fabs(s.loss - after) < 1e-5 * (1 + after)))
        fail_msg("%s, %s: the run ended with a loss of %g, what it saved has %g", worlds[k].family, m->name,
                 after, s.loss);
    }
    stop(&l);
  }
}

/* A head of three labels has an odd number of biases: a checkpoint's wider arrays must be aligned all the same. */
static void odd_sizes(void **state) {
  labelled l;
  start(&l, "roberta", LC_TASK_TOKENS, 1);
  run(&l, (t_spec){.method = "spiel", .out = "a", .opts = "steps=2 batch=8 save-every=1"});
  run(&l, (t_spec){.method = "spiel", .out = "a", .opts = "steps=4 batch=8 save-every=1", .resume = true});
  stop(&l);
}

/* Accuracies of the evaluations in a run. */
typedef struct {
  int n;
  double first, last;
} told;
static int hear(void *arg, const char *kind, const json_t *e) {
  told *to = arg;
  if (strcmp(kind, "eval")) return 0;
  to->last = json_real_value(json_object_get(e, "accuracy"));
  if (!to->n++) to->first = to->last;
  return 0;
}

static void learns(void **state) {
  labelled l;
  told seen = {0};
  start(&l, "roberta", LC_TASK_CLASSIFY, 2);
  run(&l, (t_spec){.method = "lora",
                   .out = "lora",
                   .opts = "steps=100 batch=16 lr=0.005 keep=0",
                   .event = hear,
                   .arg = &seen});
  const lc_label_score s = score_of(&l, "lora");
  if (!(s.accuracy > 0.8)) fail_msg("accuracy %g, loss %g", s.accuracy, s.loss);
  assert_true(seen.n >= 2 && seen.first < seen.last && seen.last == s.accuracy);
  assert_true(s.macro_f1 > 0.7 && s.macro_f1 <= 1);
  run(&l, (t_spec){.method = "full",
                   .out = "head",
                   .opts = "steps=10 batch=16 keep=0",
                   .set = "part=head outtype=f32"});
  lc_safetensors made;
  assert_int_equal(lc_safetensors_open(l.w.ctx, t_out(&l.w, "head", "model.safetensors"), &made), LC_OK);
  for (int i = 0; i < l.w.model->n; i++) { /* nothing but the head has moved */
    const lc_tensor_decl *d = &l.w.model->decl[i];
    const lc_tensor *t = lc_safetensors_find(&made, d->name);
    assert_non_null(t);
    const bool same = !memcmp(t->data, l.w.model->src[i].data, (size_t)(d->M * d->N) * sizeof(float));
    if (same == d->head) fail_msg("part=head: '%s' %s", d->name, same ? "stayed" : "moved");
  }
  lc_safetensors_close(l.w.ctx, &made);
  stop(&l);
}

static void same_bits(void **state) {
  static const char *const file[] = {"adapter_model.safetensors", "lacuna_head.safetensors"};
  for (int dtype = 0; dtype < 2; dtype++)
    for (int method = 0; method < 2; method++) {
      const char *name = method ? "spiel" : "lora";
      char opts[160];
      labelled one, two;
      start(&one, "roberta", LC_TASK_CLASSIFY, 1);
      start(&two, "roberta", LC_TASK_CLASSIFY, 2);
      snprintf(opts, sizeof opts, "steps=6 batch=8 save-every=3 dtype=%s", dtype ? "bf16" : "f32");
      run(&one, (t_spec){.method = name, .out = "a", .opts = opts});
      run(&two, (t_spec){.method = name, .out = "a", .opts = opts});
      assert_true(t_same_files(t_out(&one.w, "a", file[method]), t_out(&two.w, "a", file[method])));
      snprintf(opts, sizeof opts, "steps=6 stop-after=3 batch=8 save-every=3 dtype=%s",
               dtype ? "bf16" : "f32");
      run(&two, (t_spec){.method = name, .out = "b", .opts = opts});
      snprintf(opts, sizeof opts, "steps=6 batch=8 save-every=3 dtype=%s", dtype ? "bf16" : "f32");
      run(&two, (t_spec){.method = name, .out = "b", .opts = opts, .resume = true});
      assert_true(t_same_files(t_out(&two.w, "a", file[method]), t_out(&two.w, "b", file[method])));
      stop(&one), stop(&two);
    }
}

/* Scale 0 and removal are the base with the head it was opened with, bit for bit. */
static void a_head_comes_off(void **state) {
  labelled l;
  lc_net *net;
  lc_adapter *a;
  lc_label_score s[4];
  start(&l, "roberta", LC_TASK_CLASSIFY, 2);
  run(&l, (t_spec){.method = "shira", .out = "shira", .opts = "steps=12 batch=8 keep=0"});
  assert_int_equal(lc_net_new(l.w.model, LC_F32, &net), LC_OK);
  assert_int_equal(lc_eval_labels(net, l.w.eval, 0, NULL, &s[0]), LC_OK);
  assert_int_equal(lc_adapter_load(net, t_out(&l.w, "shira", ""), 1, LC_PATCH, &a), LC_OK);
  assert_int_equal(lc_eval_labels(net, l.w.eval, 0, NULL, &s[1]), LC_OK);
  assert_int_equal(lc_adapter_set(a, 0, LC_PATCH), LC_OK);
  assert_int_equal(lc_eval_labels(net, l.w.eval, 0, NULL, &s[2]), LC_OK);
  assert_int_equal(lc_adapter_set(a, 1, LC_IN_PLACE), LC_OK);
  assert_int_equal(lc_eval_labels(net, l.w.eval, 0, NULL, &s[3]), LC_OK);
  assert_true(s[1].loss != s[0].loss && s[2].loss == s[0].loss && s[3].loss == s[1].loss);
  assert_int_equal(lc_adapter_remove(a), LC_OK);
  assert_int_equal(lc_eval_labels(net, l.w.eval, 0, NULL, &s[3]), LC_OK);
  assert_true(s[3].loss == s[0].loss);
  assert_int_equal(net->n_own, 0);
  lc_net_free(net);
  stop(&l);
}

static void refused(labelled *l, lc_status st, const char *part) {
  if (!st) fail_msg("accepted: expected a refusal with '%s'", part);
  if (!strstr(lc_error(l->w.ctx), part)) fail_msg("'%s' does not say '%s'", lc_error(l->w.ctx), part);
}

static void refusals(void **state) {
  labelled l;
  lc_model *m;
  lc_net *net;
  lc_adapter *a;
  start(&l, "roberta", LC_TASK_CLASSIFY, 1);
  const char *base = l.w.model->path;
  refused(&l, try_run(&l, (t_spec){.method = "lora", .out = "x", .opts = "steps=1 head=frozen"}),
          "--head frozen");
  refused(&l,
          t_train(&l.w, &(t_spec){.method = "lora", .out = "x", .opts = "steps=1 task=token-classification"}),
          "--task");
  run(&l, (t_spec){.method = "lora", .out = "lora", .opts = "steps=2 batch=8 keep=0"});
  const char *dir = t_out(&l.w, "lora", "");
  /* a body without a head; another number of labels; no task at all */
  refused(&l, lc_model_open(l.w.ctx, base, &m), "lm_head");
  lc_head_opts three = {.task = LC_TASK_CLASSIFY, .labels = 3};
  assert_int_equal(lc_model_open_for(l.w.ctx, base, &three, &m), LC_OK);
  assert_int_equal(lc_net_new(m, LC_F32, &net), LC_OK);
  assert_string_equal(lc_config_label(&m->config, 2), "LABEL_2");
  refused(&l, lc_adapter_load(net, dir, 1, LC_PATCH, &a), "3 labels");
  assert_int_equal(net->n_own, 0);
  lc_net_free(net);
  lc_model_close(m);
  lc_head_opts bare = {.task = LC_TASK_NONE};
  assert_int_equal(lc_model_open_for(l.w.ctx, base, &bare, &m), LC_OK);
  assert_int_equal(lc_net_new(m, LC_F32, &net), LC_OK);
  refused(&l, lc_adapter_load(net, dir, 1, LC_PATCH, &a), "modules_to_save");
  lc_net_free(net);
  lc_model_close(m);
  lc_head_opts lm = {.task = LC_TASK_LM};
  refused(&l, lc_model_open_for(l.w.ctx, base, &lm, &m), "no head for lm");
  lc_head_opts most = {.task = LC_TASK_CLASSIFY, .labels = 1 << 20};
  refused(&l, lc_model_open_for(l.w.ctx, base, &most, &m), "1 to 65536");
  static const char *const twice[] = {"a", "a"};
  lc_head_opts same = {.task = LC_TASK_CLASSIFY, .labels = 2, .label = twice};
  refused(&l, lc_model_open_for(l.w.ctx, base, &same, &m), "two labels are called 'a'");
  stop(&l);
}

/* Where a label stands, and what is malformed. */
static void rows(void **state) {
  labelled l;
  start(&l, "roberta", LC_TASK_CLASSIFY, 1);
  static const struct {
    const char *row, *says; /* NULL: good */
    lc_label_place place;
    int at, n;
  } table[] = {
      {"{\"text\": \"cat\", \"label\": \"tree\"}", NULL, LC_LABEL_FIRST, 0, 4},
      {"{\"text\": \"cat\", \"label\": 1}", NULL, LC_LABEL_LAST, 3, 4},
      {"{\"text\": \"cat\", \"text_pair\": \"ant\", \"label\": 0}", NULL, LC_LABEL_FIRST, 0, 8},
      {"{\"tokens\": [\"a\", \"cat\"], \"tags\": [1, 0]}", NULL, LC_LABEL_EACH, 1, 5},
      {"{\"text\": \"cat\", \"label\": 2}", "0 to 1", LC_LABEL_FIRST, 0, 0},
      {"{\"text\": \"cat\", \"label\": -1}", "label -1", LC_LABEL_FIRST, 0, 0},
      {"{\"text\": \"cat\", \"label\": \"bush\"}", "'bush' is none", LC_LABEL_FIRST, 0, 0},
      {"{\"text\": \"cat\", \"label\": 0.5}", "whole number", LC_LABEL_FIRST, 0, 0},
      {"{\"text\": \"cat\"}", "no \"label\"", LC_LABEL_FIRST, 0, 0},
      {"{\"text\": 3, \"label\": 0}", "must be strings", LC_LABEL_FIRST, 0, 0},
      {"{\"tokens\": [\"a\"], \"tags\": [1, 0]}", "one length", LC_LABEL_EACH, 0, 0},
      {"{\"tokens\": [4], \"tags\": [1]}", "no string", LC_LABEL_EACH, 0, 0},
      {"{\"tokens\": [\"a\"], \"tags\": [9]}", "0 to 1", LC_LABEL_EACH, 0, 0},
      {"[1]", "object", LC_LABEL_FIRST, 0, 0},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    const char *path = lc_tiny_path(l.w.dir, "row.jsonl");
    FILE *f = fopen(path, "w");
    fprintf(f, "%s\n", table[i].row);
    fclose(f);
    lc_dataset *d = NULL;
    lc_label_set set = l.set;
    set.place = table[i].place;
    lc_status st = lc_data_open(l.w.ctx, l.w.tok, path, &(lc_data_opts){.seq = 16, .labels = &set}, &d);
    if (table[i].says) {
      refused(&l, st, table[i].says);
      continue;
    }
    if (st) fail_msg("%s: %s", table[i].row, lc_error(l.w.ctx));
    const lc_example e = lc_data_get(d, 0);
    assert_int_equal(e.n, table[i].n);
    for (int64_t k = 0; k < e.n; k++)
      if ((e.label[k] >= 0) != (k == table[i].at || (table[i].place == LC_LABEL_EACH && k == 2)))
        fail_msg("%s: label %d at %lld", table[i].row, e.label[k], (long long)k);
    lc_data_free(d);
  }
  stop(&l);
}

static void names_come_from_the_data(void **state) {
  labelled l;
  lc_label_names names;
  start(&l, "roberta", LC_TASK_CLASSIFY, 1);
  assert_int_equal(lc_labels_scan(l.w.ctx, lc_tiny_path(l.w.dir, "data.jsonl"), &names), LC_OK);
  assert_int_equal(names.n, 2);
  assert_string_equal(names.name[0], "animal");
  assert_string_equal(names.name[1], "tree");
  lc_label_names_free(l.w.ctx, &names);
  const char *path = lc_tiny_path(l.w.dir, "mixed.jsonl");
  FILE *f = fopen(path, "w");
  fprintf(f, "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"a\", \"label\": 1}\n");
  fclose(f);
  refused(&l, lc_labels_scan(l.w.ctx, path, &names), "line 2: labels are names in some rows and numbers");
  f = fopen(path, "w");
  fprintf(f, "{\"tokens\": [\"a\"], \"tags\": [70000]}\n");
  fclose(f);
  refused(&l, lc_labels_scan(l.w.ctx, path, &names), "label 70000");
  f = fopen(path, "w");
  fprintf(f, "{\"text\": \"a\"}\n");
  fclose(f);
  refused(&l, lc_labels_scan(l.w.ctx, path, &names), "no row has a label");
  stop(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_method_trains_a_head),
                                     cmocka_unit_test(odd_sizes),
                                     cmocka_unit_test(learns),
                                     cmocka_unit_test(same_bits),
                                     cmocka_unit_test(a_head_comes_off),
                                     cmocka_unit_test(refusals),
                                     cmocka_unit_test(rows),
                                     cmocka_unit_test(names_come_from_the_data)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
