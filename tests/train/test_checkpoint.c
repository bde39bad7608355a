/* Checkpoints whose checksums agree and whose contents cannot be: each is refused with a sentence that names what is wrong.
 * fuzz/fuzz_checkpoint.c looks for more of them. */
#include <zlib.h>
#include "support/world_test.h"

/* How an array is overwritten: every value by `to`, the first alone, or the first two change places. */
enum { ALL, FIRST, SWAP };
typedef struct {
  const char *array; /* a part of its name */
  size_t width;
  int64_t to;
  int how;
} forgery;

static const lc_named_tensor *find(const lc_safetensors *f, const char *part) {
  for (int i = 0; i < f->n; i++)
    if (strstr(f->tensor[i].name, part)) return &f->tensor[i];
  fail_msg("%s has no array %s", f->map[0].path, part);
  return NULL;
}

static void overwrite(char *data, size_t count, const forgery *g) {
  char first[8];
  memcpy(first, data, g->width);
  if (g->how == SWAP) {
    assert_true(count > 1);
    memcpy(data, data + g->width, g->width);
    memcpy(data + g->width, first, g->width);
  }
  for (size_t i = 0; i < (g->how == ALL ? count : g->how == FIRST); i++)
    memcpy(data + i * g->width, &g->to, g->width);
}

static json_t *load_state(const char *out, int step) {
  char name[64];
  snprintf(name, sizeof name, "checkpoint-%d/state.json", step);
  json_t *j = json_load_file(t_out(&w, out, name), 0, NULL);
  assert_non_null(j);
  return j;
}

static void save_state(const char *out, int step, json_t *j) {
  char name[64];
  snprintf(name, sizeof name, "checkpoint-%d/state.json", step);
  assert_int_equal(json_dump_file(j, t_out(&w, out, name), 0), 0);
  json_decref(j);
}

/* Overwrites one array of a checkpoint, and puts its checksum right. */
static void forge(const char *out, int step, const forgery *g) {
  char name[64], *data;
  size_t n;
  lc_safetensors f;
  snprintf(name, sizeof name, "checkpoint-%d/state.safetensors", step);
  char *path = strdup(t_out(&w, out, name));
  ok(lc_read_file(w.ctx, path, 1 << 24, &data, &n));
  ok(lc_safetensors_open(w.ctx, path, &f));
  const lc_named_tensor *a = find(&f, g->array);
  const size_t at = (size_t)((const uint8_t *)a->t.data - f.map[0].data),
               count = (size_t)lc_tensor_count(&a->t);
  overwrite(data + at, count, g);
  json_t *j = load_state(out, step);
  json_object_set_new(json_object_get(j, "crc32"), a->name,
                      json_integer((json_int_t)crc32_z(0, (const Bytef *)data + at, count * g->width)));
  save_state(out, step, j);
  lc_safetensors_close(w.ctx, &f);
  ok(lc_write_file(w.ctx, path, data, n));
  lc_free(w.ctx, data);
  free(path);
}

#define GRPO "grpo", "group=2 max-tokens=4 updates=3"
static const struct {
  const char *method, *set, *objective, *with;
  forgery g;
  const char *says;
  bool later; /* it is met by the next update, not by loading */
} forged[] = {
    {"shira", "", NULL, NULL, {":index", 4, 5, ALL}, "position 2 of", false},
    {"shira", "", NULL, NULL, {":index", 4, 1 << 30, ALL}, "position 1 of", false},
    {"shira", "", NULL, NULL, {":value", 4, 0x7fc00000, FIRST}, "there is no result", false},
    {"spiel", "period=2 accumulate=1", NULL, NULL, {":index", 4, -7, ALL}, "candidates", false},
    {"spiel",
     "period=2 accumulate=1",
     NULL,
     NULL,
     {"spiel:window", 8, INT64_MAX, ALL},
     "where a count",
     false},
    {"spiel", "period=3 accumulate=2", NULL, NULL, {"spiel:window", 8, 2, ALL}, "is 2, over 2", false},
    {"spiel",
     "select=ma period=3 accumulate=2",
     NULL,
     NULL,
     {"spiel:window", 8, 1, ALL},
     "is 1, over 1",
     false},
    {"lift", "filter=4 interval=2", NULL, NULL, {":retired_index", 4, 1 << 30, ALL}, "ascend", false},
    {"lift", "filter=4 interval=2", NULL, NULL, {"lift:count", 8, INT64_MIN, FIRST}, "where a count", false},
    {"lift",
     "filter=4 interval=2",
     NULL,
     NULL,
     {":index", 4, -7, FIRST},
     "checkpoint's positions of 'model.",
     false},
    {"s2ft", "o=0.25 d=0.1", NULL, NULL, {".lines", 4, 1 << 30, ALL}, "line 1 of the slice", false},
    {"lt-sft", "iterations=2", NULL, NULL, {"carried:index", 4, 1 << 30, ALL}, "outside", false},
    {"lt-sft", "iterations=2", NULL, NULL, {"carried:index", 4, 0, SWAP}, "position 2 of", false},
    {"mezo", "", NULL, NULL, {"noise.count", 8, 1 << 30, ALL}, "log of steps", false},
    {"mezo", "", NULL, NULL, {"noise.count", 8, 0, ALL}, "5 records, its count is 0", false},
    {"sara", "", NULL, NULL, {"sara:bound", 4, 0x7fc00000, ALL}, "the bound is nan", false},
    {"sara", "", NULL, NULL, {"sara:narrowed", 4, 7, ALL}, "narrowed is 7", false},
    {"snella", "r=4 interval=3", NULL, NULL, {"snella.sparsity", 4, 0x7fc00000, FIRST}, "is nan", false},
    {"lora", "r=4", GRPO, {"rollout:prompts", 8, 1 << 30, ALL}, "1073741824 prompts", false},
    {"lora", "r=4", GRPO, {"rollout:prompts", 8, 0, ALL}, "and there are none", true},
    {"lora", "r=4", GRPO, {"rollout:size", 8, 1 << 30, ALL}, "sampled sequence 1", false},
    {"lora", "r=4", GRPO, {"rollout:id", 4, 1 << 30, FIRST}, "token id 1073741824", false},
};

static void test_arrays(void **state) {
  lc_dataset *sums;
  FILE *f = fopen(lc_tiny_path(w.dir, "sums.jsonl"), "w");
  for (int i = 0; i < 8; i++) fprintf(f, "{\"prompt\": \"%d+%d=\", \"answer\": \"%d\"}\n", i, i, 2 * i);
  fclose(f);
  ok(lc_data_open(w.ctx, w.tok, lc_tiny_path(w.dir, "sums.jsonl"), &(lc_data_opts){.seq = 32}, &sums));
  for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
    t_spec s = {.method = forged[i].method,
                .set = forged[i].set,
                .objective = forged[i].objective,
                .with = forged[i].with,
                .data = forged[i].objective ? sums : NULL,
                .no_eval = true,
                .out = "f",
                .opts = "steps=9 stop-after=5 batch=4",
                .overwrite = true};
    ok(t_train(&w, &s));
    forge("f", 5, &forged[i].g);
    s.resume = true;
    s.overwrite = false;
    if (forged[i].later) s.opts = "steps=9 stop-after=6 batch=4";
    const lc_status st = t_train(&w, &s);
    if (!st) fail_msg("%s %s was taken", forged[i].method, forged[i].g.array);
    refused(st, forged[i].says);
  }
  lc_data_free(sums);
}

/* An entry that is trained and retired at once would be saved twice. */
static void test_trained_and_retired(void **state) {
  t_spec s = {.method = "lift",
              .set = "filter=4 interval=2",
              .no_eval = true,
              .out = "f",
              .opts = "steps=9 stop-after=5 batch=4"};
  lc_safetensors f;
  ok(t_train(&w, &s));
  ok(lc_safetensors_open(w.ctx, t_out(&w, "f", "checkpoint-5/state.safetensors"), &f));
  const lc_named_tensor *retired = find(&f, ":retired_index");
  char trained[256];
  snprintf(trained, sizeof trained, "%.*s:index", (int)strcspn(retired->name, ":"), retired->name);
  const int32_t *at = lc_safetensors_find(&f, trained)->data, first = ((const int32_t *)retired->t.data)[0];
  int64_t k = lc_tensor_count(lc_safetensors_find(&f, trained)) - 1;
  while (k > 0 && at[k] > first) k--; /* the trained entry before it: the list still ascends */
  forgery g = {":retired_index", 4, at[k], FIRST};
  assert_true(at[k] < first);
  lc_safetensors_close(w.ctx, &f);
  forge("f", 5, &g);
  s.resume = true;
  refused(t_train(&w, &s), "trained and retired at once");
}

static const struct {
  const char *method, *key, *value, *says;
} fields[] = {
    {"shira", "step", "9223372036854775807", "no counts of a run"},
    {"shira", "step", "-1", "no counts of a run"},
    {"shira", "tokens", "9223372036854775807", "no counts of a run"},
    {"shira", "tokens", "-5", "no counts of a run"},
    {"shira", "phase", "3", "'phase' is no object"},
    {"shira", "phase", "{\"number\": 0, \"first\": 2, \"optimizer_first\": 2}", "begun after update 2"},
    {"shira", "phase", "{\"number\": 1, \"first\": 2, \"optimizer_first\": 2}", "phase 1 of 1"},
    {"shira", "best", "[]", "'best' is no object"},
    {"shira", "best", "{\"step\": -3, \"loss\": 1}", "of update -3 of 3"},
    {"shira", "best", "{\"step\": 4, \"loss\": 1}", "of update 4 of 3"},
    {"shira", "best", "{\"step\": 1}", "with a loss of nan"},
    {"mezo", "step", "2", "ends with step 2, the checkpoint is of 2"},
    {"mezo", "step", "4294967297", "the checkpoint is of 4294967297"},
};

static void test_fields(void **state) {
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    t_spec s = {.method = fields[i].method,
                .no_eval = true,
                .out = "f",
                .opts = "steps=3 batch=4",
                .overwrite = true};
    ok(t_train(&w, &s));
    json_t *j = load_state("f", 3);
    json_object_set_new(j, fields[i].key, json_loads(fields[i].value, JSON_DECODE_ANY, NULL));
    save_state("f", 3, j);
    s.overwrite = false;
    s.resume = true;
    s.opts = "steps=4 batch=4";
    const lc_status st = t_train(&w, &s);
    if (!st) fail_msg("%s %s was taken", fields[i].key, fields[i].value);
    refused(st, fields[i].says);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_arrays), TEST(test_trained_and_retired), TEST(test_fields)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
