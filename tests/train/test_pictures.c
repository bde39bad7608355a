/* Networks that see: every method tunes a small ViT on pictures of three kinds, from an IDX file or folders of PNG files;
 * the same bits with one and two threads, in f32 and bf16, and after a resume; what was saved gives the scores that the run
 * ended with; text before such a network and pictures before a network of text are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include "support/train_support.h"

enum { SIDE = 12, TRAIN = 96, HELD = 30 };

/* Stripes across, stripes down, or a square, with noise. */
static void draw(uint32_t seed, int i, uint8_t *p) {
  lc_rng r = {.seed = seed, .step = (uint32_t)i, .purpose = LC_RNG_TEST};
  const int kind = i % 3, shift = (int)lc_rng_below(&r, 1000, 4);
  for (int y = 0; y < SIDE; y++)
    for (int x = 0; x < SIDE; x++) {
      const int on = kind == 0   ? (y + shift) / 2 % 2
                     : kind == 1 ? (x + shift) / 2 % 2
                                 : x > 2 + shift / 2 && x < 9 && y > 3 && y < 9;
      p[y * SIDE + x] = (uint8_t)(60 + 120 * on + (int)lc_rng_below(&r, (uint64_t)(y * SIDE + x), 50));
    }
}

static void put(const char *path, const void *head, size_t n_head, const void *data, size_t n) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_true(fwrite(head, 1, n_head, f) == n_head && fwrite(data, 1, n, f) == n);
  fclose(f);
}

static void write_idx(const char *dir, const char *name, uint32_t seed, int n) {
  char pictures[64], labels[64];
  uint8_t data[TRAIN * SIDE * SIDE], label[TRAIN];
  const uint8_t head[16] = {0, 0, 8, 3, 0, 0, 0, (uint8_t)n, 0, 0, 0, SIDE, 0, 0, 0, SIDE},
                one[8] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)n};
  for (int i = 0; i < n; i++) draw(seed, i, data + i * SIDE * SIDE), label[i] = (uint8_t)(i % 3);
  snprintf(pictures, sizeof pictures, "%s-images-idx3-ubyte", name);
  snprintf(labels, sizeof labels, "%s-labels-idx1-ubyte", name);
  put(lc_tiny_path(dir, pictures), head, 16, data, (size_t)n * SIDE * SIDE);
  put(lc_tiny_path(dir, labels), one, 8, label, (size_t)n);
}

/* The same pictures as PNG files; picture i of a label has i in its name, so that the order within it stays. */
static void write_folders(lc_ctx *ctx, const char *dir, uint32_t seed, int n, const char *const *label) {
  for (int i = 0; i < n; i++) {
    uint8_t p[SIDE * SIDE];
    char name[80];
    draw(seed, i, p);
    assert_int_equal(lc_mkdirs(ctx, lc_tiny_path(dir, label[i % 3])), LC_OK);
    snprintf(name, sizeof name, "%s/%03d.png", label[i % 3], i);
    png_image im = {.version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_GRAY};
    assert_true(png_image_write_to_file(&im, lc_tiny_path(dir, name), 0, p, 0, NULL));
  }
}

typedef struct {
  t_world w;
  const char **names;
  lc_label_set set;
} gallery;

static lc_status open_rows(const lc_model *m, const char *path, const lc_label_set *set, lc_dataset **out) {
  lc_net *net;
  LC_TRY(lc_net_new(m, LC_F32, &net));
  lc_status st = lc_rows_open(net, NULL, path, &(lc_data_opts){.seq = 10, .labels = set}, out);
  lc_net_free(net);
  return st;
}

static void start(gallery *g, int threads) {
  char why[256] = "";
  lc_net *net;
  *g = (gallery){0};
  t_world *w = &g->w;
  if (lc_path_is_dir("/dev/shm")) setenv("TMPDIR", "/dev/shm", 0);
  if (lc_ctx_new(threads, &w->ctx, why)) fail_msg("%s", why);
  w->dir = lc_tiny_dir();
  write_idx(w->dir, "train", 3, TRAIN);
  write_idx(w->dir, "held", 8, HELD);
  lc_status st = lc_model_open(w->ctx, "golden/vit-classify", &w->model);
  if (!st) st = lc_net_new(w->model, LC_F32, &net);
  if (!st) st = lc_net_labels(net, &g->names, &g->set);
  if (!st) lc_net_free(net);
  if (!st) st = open_rows(w->model, lc_tiny_path(w->dir, "train-images-idx3-ubyte"), &g->set, &w->data);
  if (!st) st = open_rows(w->model, lc_tiny_path(w->dir, "held-images-idx3-ubyte"), &g->set, &w->eval);
  if (st) fail_msg("%s", lc_error(w->ctx));
}

static void stop(gallery *g) {
  lc_free(g->w.ctx, g->names);
  t_world_close(&g->w);
}

static void run(gallery *g, t_spec s) {
  char opts[200];
  snprintf(opts, sizeof opts, "task=classification seq=10 %s", s.opts);
  s.opts = opts;
  if (t_train(&g->w, &s)) fail_msg("%s: %s", s.method, lc_error(g->w.ctx));
}

static lc_label_score score_of(gallery *g, const char *out) {
  lc_ctx *ctx = g->w.ctx;
  const bool whole = lc_path_exists(t_out(&g->w, out, "model.safetensors"));
  lc_model *m = NULL;
  lc_net *net = NULL;
  lc_adapter *a;
  lc_label_score s = {0};
  lc_status st = lc_model_open(ctx, whole ? t_out(&g->w, out, "") : "golden/vit-classify", &m);
  if (!st) st = lc_net_new(m, LC_F32, &net);
  if (!st && !whole) st = lc_adapter_load(net, t_out(&g->w, out, ""), 1, LC_PATCH, &a);
  if (!st) st = lc_eval_labels(net, g->w.eval, 0, NULL, &s);
  if (st) fail_msg("%s: %s", out, lc_error(ctx));
  lc_net_free(net);
  lc_model_close(m);
  return s;
}

static bool goes_by_a_run(const lc_method *m) {
  for (const lc_option *o = m->options; o && o->name; o++)
    if (!strcmp(o->name, "from")) return true;
  return false;
}

static void every_method_sees(void **state) {
  gallery g;
  start(&g, 2);
  for (int i = 0; i < lc_n_methods; i++) {
    const lc_method *m = lc_methods[i];
    if (m->step || goes_by_a_run(m)) continue; /* without gradients; tested with such a run elsewhere */
    run(&g, (t_spec){
                .method = m->name, .out = m->name, .opts = "steps=12 batch=16 lr=0.003 keep=0 density=0.05"});
    const double before = atof(t_query(&g.w, m->name, "select loss from evals order by step limit 1")),
                 after = atof(t_query(&g.w, m->name, "select loss from evals order by step desc limit 1"));
    const lc_label_score s = score_of(&g, m->name);
    if (!(after < before)) fail_msg("%s: loss %g became %g", m->name, before, after);
    if (!(fabs(s.loss - after) < 1e-5 * (1 + after)))
      fail_msg("%s: the run ended with %g, what it saved has %g", m->name, after, s.loss);
  }
  stop(&g);
}

static void learns(void **state) {
  gallery g;
  start(&g, 2);
  run(&g, (t_spec){.method = "lora", .out = "lora", .opts = "steps=80 batch=16 lr=0.003 keep=0"});
  const lc_label_score s = score_of(&g, "lora");
  if (!(s.accuracy > 0.9)) fail_msg("accuracy %g, loss %g", s.accuracy, s.loss);
  stop(&g);
}

static void same_bits(void **state) {
  static const char file[] = "adapter_model.safetensors";
  for (int dtype = 0; dtype < 2; dtype++) {
    char opts[160];
    gallery one, two;
    start(&one, 1);
    start(&two, 2);
    snprintf(opts, sizeof opts, "steps=6 batch=8 save-every=3 dtype=%s", dtype ? "bf16" : "f32");
    run(&one, (t_spec){.method = "lora", .out = "a", .opts = opts});
    run(&two, (t_spec){.method = "lora", .out = "a", .opts = opts});
    assert_true(t_same_files(t_out(&one.w, "a", file), t_out(&two.w, "a", file)));
    snprintf(opts, sizeof opts, "steps=6 stop-after=3 batch=8 save-every=3 dtype=%s", dtype ? "bf16" : "f32");
    run(&two, (t_spec){.method = "lora", .out = "b", .opts = opts});
    snprintf(opts, sizeof opts, "steps=6 batch=8 save-every=3 dtype=%s", dtype ? "bf16" : "f32");
    run(&two, (t_spec){.method = "lora", .out = "b", .opts = opts, .resume = true});
    assert_true(t_same_files(t_out(&two.w, "a", file), t_out(&two.w, "b", file)));
    stop(&one), stop(&two);
  }
}

static void folders_are_the_same_pictures(void **state) {
  gallery g;
  lc_dataset *d;
  lc_label_names names;
  start(&g, 2);
  lc_ctx *ctx = g.w.ctx;
  char *dir = lc_path_join(ctx, g.w.dir, "folders");
  write_folders(ctx, dir, 8, HELD, g.names);
  assert_int_equal(lc_rows_labels(ctx, &g.w.model->config, dir, &names), LC_OK);
  assert_int_equal(names.n, 3);
  assert_string_equal(names.name[2], "LABEL_2");
  lc_label_names_free(ctx, &names);
  if (open_rows(g.w.model, dir, &g.set, &d)) fail_msg("%s", lc_error(ctx));
  float a[10 * 48], b[10 * 48];
  for (int i = 0; i < HELD; i++) { /* sorted by label, then by name */
    const int at = i % (HELD / 3) * 3 + i / (HELD / 3);
    const lc_example x = lc_data_get(d, i), y = lc_data_get(g.w.eval, at);
    assert_int_equal(x.n, 10);
    assert_int_equal(x.label[0], y.label[0]);
    assert_int_equal(x.pictures->patches(x.pictures->self, x.picture, 48, a), LC_OK);
    assert_int_equal(y.pictures->patches(y.pictures->self, y.picture, 48, b), LC_OK);
    assert_memory_equal(a, b, sizeof a);
  }
  for (int c = 0; c < 48; c++) assert_true(a[c] == 0); /* the class token's row */
  lc_data_free(d);
  lc_free(ctx, dir);
  stop(&g);
}

static void refused(gallery *g, lc_status st, const char *part) {
  if (!st) fail_msg("accepted: expected a refusal with '%s'", part);
  if (!strstr(lc_error(g->w.ctx), part)) fail_msg("'%s' does not say '%s'", lc_error(g->w.ctx), part);
}

static void refusals(void **state) {
  gallery g;
  lc_dataset *d;
  t_world text;
  start(&g, 1);
  lc_ctx *ctx = g.w.ctx;
  static const char *const other[] = {"cat", "dog", "cow"};
  char *dir = lc_path_join(ctx, g.w.dir, "others");
  write_folders(ctx, dir, 8, 6, other);
  refused(&g, open_rows(g.w.model, dir, &g.set, &d), "'cat' is none");
  lc_label_set two = g.set;
  two.n = 2;
  refused(&g, open_rows(g.w.model, lc_tiny_path(g.w.dir, "held-images-idx3-ubyte"), &two, &d), "'2' is none");
  refused(&g, open_rows(g.w.model, lc_tiny_path(g.w.dir, "held-images-idx3-ubyte"), NULL, &d),
          "without labels");
  refused(&g, open_rows(g.w.model, lc_tiny_path(g.w.dir, "nowhere"), &g.set, &d), "nowhere");
  t_world_open(&text, 1);
  refused(&g,
          t_train(&g.w, &(t_spec){.method = "lora",
                                  .out = "x",
                                  .opts = "steps=1 seq=10 task=classification",
                                  .data = text.data,
                                  .no_eval = true}),
          "vocabulary");
  t_world_close(&text);
  refused(&g,
          t_train(&g.w, &(t_spec){.method = "lora", .out = "x", .opts = "steps=1 seq=8 task=classification"}),
          "a picture has 10 rows");
  lc_free(ctx, dir);
  stop(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_method_sees), cmocka_unit_test(learns), cmocka_unit_test(same_bits),
      cmocka_unit_test(folders_are_the_same_pictures), cmocka_unit_test(refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
