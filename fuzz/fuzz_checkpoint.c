#define _GNU_SOURCE
/* Any files as the checkpoint that a run goes on from, for methods whose state differs in kind: entries that move, retire or
 * come in phases, lists, masks, logs, sampled answers. The first call makes a short run of each, whose checkpoint and
 * history the inputs then change: a state.json as it stands, or fields and arrays of the valid one (edit_checkpoint.h).
 * A run is refused with one sentence, or makes one more update and a result that loads; no memory stays behind. */
#include "edit_checkpoint.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base.h"
#include "text/tokenizer.h"
#include "train/objective.h"

const long fuzz_failures = 40;

static const struct {
  const char *method, *set, *objective, *with, *opts;
  int steps, at, to; /* the valid checkpoint is that of update `at`; a run goes on to update `to` */
  bool eval;
} variant[] = {
    {"shira", "mask=random", NULL, NULL, "weight-decay=0.1", 4, 2, 3, false},
    {"spiel", "period=5 accumulate=3", NULL, NULL, "", 5, 2, 3, false},
    {"spiel", "select=ma period=5 accumulate=3", NULL, NULL, "", 5, 2, 3, false},
    {"lora", "r=2", NULL, NULL, "eval-every=1", 4, 2, 3, true},
    {"sara", "progressive=1 every=1 side=4", NULL, NULL, "", 4, 2, 3, false},
    {"sara", "progressive=2 every=3 polar=iterated", NULL, NULL, "weight-decay=0.1", 4, 2, 3, false},
    {"lift", "filter=2 interval=1", NULL, NULL, "", 4, 2, 3, false},
    {"dsee", "r=2 outer=2 entries=3 tune=0.25", NULL, NULL, "", 4, 2, 3, false},
    {"dsee", "r=2 outer=2 entries=3", NULL, NULL, "", 4, 1, 3, false},
    {"lt-sft", "iterations=2", NULL, NULL, "", 6, 4, 6, false},
    {"lt-sft", "select=random", NULL, NULL, "", 4, 2, 3, false},
    {"mezo", "directions=2", NULL, NULL, "", 4, 2, 3, false},
    {"s2ft", "o=0.5 d=0.25", NULL, NULL, "", 4, 2, 3, false},
    {"snella", "r=2 interval=1 target=0.5", NULL, NULL, "", 4, 2, 3, false},
    {"full", "", NULL, NULL, "optimizer=sgd momentum=0.9", 4, 2, 3, false},
    {"allora", "r=2 place=lr", NULL, NULL, "", 4, 2, 3, false},
    {"llava-mole", "r=2 alpha=2", NULL, NULL, "", 4, 2, 3, false},
    {"mosa", "width=4 pieces=2", NULL, NULL, "", 4, 2, 3, false},
    {"lora", "r=2", "grpo", "updates=4 group=2 max-tokens=3", "", 6, 2, 3, false},
    {"lora", "r=2", "ppo", "updates=4 group=2 max-tokens=3", "", 6, 2, 3, false},
};
enum { VARIANTS = sizeof variant / sizeof *variant };

typedef struct {
  uint8_t *data;
  size_t n;
} bytes;
static struct {
  bytes history, log, arrays;
  json_t *state;
  lc_safetensors parsed;
  edit_array *array;
} valid[VARIANTS];
static char out[64];
static lc_model *model;
static lc_tokenizer *tok;
static lc_dataset *rows, *prompts;

/* ---- the directory that runs write, on the disk ---- */

static void clear(const char *dir) {
  DIR *d = opendir(dir);
  for (struct dirent *e; d && (e = readdir(d));) {
    char path[600];
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    if (unlink(path)) {
      clear(path);
      rmdir(path);
    }
  }
  if (d) closedir(d);
}

static void remove_out(void) {
  clear(out);
  rmdir(out);
}

/* libFuzzer leaves without atexit: what processes that are no more have left is removed by the next. */
static void sweep(const char *shm) {
  DIR *d = opendir(shm);
  for (struct dirent *e; d && (e = readdir(d));) {
    int pid;
    if (sscanf(e->d_name, "lacuna-fuzz-%d", &pid) != 1 || (!kill(pid, 0) || errno != ESRCH)) continue;
    snprintf(out, sizeof out, "%s/lacuna-fuzz-%d", shm, pid);
    remove_out();
  }
  if (d) closedir(d);
}

static void make_out(void) {
  const char *shm = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
  sweep(shm);
  snprintf(out, sizeof out, "%s/lacuna-fuzz-%d", shm, (int)getpid());
  FUZZ_CHECK(!mkdir(out, 0700));
  fuzz_on_disk(out);
  atexit(remove_out);
}

static FILE *open_in_out(const char *name, const char *mode) {
  char path[200];
  snprintf(path, sizeof path, "%s/%s", out, name);
  FILE *f = fopen(path, mode);
  FUZZ_CHECK(f);
  return f;
}

static bytes slurp(const char *name) {
  FILE *f = open_in_out(name, "rb");
  bytes b = {malloc(1 << 20), 0};
  FUZZ_CHECK(b.data);
  b.n = fread(b.data, 1, 1 << 20, f);
  fclose(f);
  b.data = realloc(b.data, b.n);
  return b;
}

static void put(const char *name, bytes b) {
  FILE *f = open_in_out(name, "wb");
  FUZZ_CHECK(fwrite(b.data, 1, b.n, f) == b.n && !fclose(f));
}

/* ---- the world ---- */

static lc_dataset *dataset(lc_ctx *ctx, const char *text) {
  char path[200];
  lc_dataset *d;
  put("rows.jsonl", (bytes){(uint8_t *)(uintptr_t)text, strlen(text)});
  snprintf(path, sizeof path, "%s/rows.jsonl", out);
  FUZZ_CHECK(lc_data_open(ctx, tok, path, &(lc_data_opts){.seq = 12}, &d) == LC_OK);
  return d;
}

static void open_world(lc_ctx *ctx) {
  static const char json[] =
      "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": {\"type\": "
      "\"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"\xC4\xA0\": 2, \"c\": 3, \"ab\": 4, \"\xC4\x8A\": 5, "
      "\"e\": "
      "6}, \"merges\": [\"a b\"]}, \"added_tokens\": [{\"id\": 7, \"content\": \"<end>\", \"special\": "
      "true}]}";
  json_t *root = json_loads(json, 0, NULL);
  FUZZ_CHECK(root && lc_tokenizer_new(ctx, "tokenizer.json", &tok) == LC_OK);
  FUZZ_CHECK(lc_tokenizer_json(tok, root) == LC_OK && lc_vocab_finish(tok) == LC_OK);
  tok->eos = 7;
  tok->dir = lc_strdup(ctx, "nowhere"); /* whose files go with the result */
  json_decref(root);
  fuzz_no_files();
  fuzz_file("/base/config.json", base_config().data, base_config().n);
  fuzz_file("/base/model.safetensors", base_tensors().data, base_tensors().n);
  FUZZ_CHECK(lc_model_open(ctx, "the/base", &model) == LC_OK);
  rows =
      dataset(ctx, "{\"prompt\":\"ab\",\"completion\":\" ce\"}\n{\"prompt\":\"a\",\"completion\":\"bbc\"}\n"
                   "{\"prompt\":\"eac\",\"completion\":\"ab\"}\n");
  prompts = dataset(ctx, "{\"prompt\":\"ab c\",\"answer\":\"e\"}\n{\"prompt\":\"ea\",\"answer\":\"b\"}\n"
                         "{\"prompt\":\"b\",\"answer\":\"c\"}\n");
}

/* ---- runs ---- */

static lc_status set_all(lc_ctx *ctx, const lc_option *table, void *self, const char *text) {
  char buf[256], *save = NULL;
  snprintf(buf, sizeof buf, "%s", text);
  for (char *p = strtok_r(buf, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
    char *eq = strchr(p, '=');
    *eq = 0;
    LC_TRY(lc_options_set(ctx, table, "fuzz", self, p, eq + 1));
  }
  return LC_OK;
}

static lc_status options(lc_ctx *ctx, const lc_option *table, void *self, const char *text) {
  lc_status st = self ? lc_options_init(ctx, table, self) : LC_FAILED;
  return st ? st : set_all(ctx, table, self, text);
}

/* Ends after update `last`; from: a checkpoint, or NULL. */
static lc_status train(lc_ctx *ctx, int v, lc_net *net, int last, const char *from) {
  const lc_method *m = lc_method_find(variant[v].method);
  const lc_objective *goal = variant[v].objective ? lc_objective_find(variant[v].objective) : NULL;
  lc_train_opts o = {0};
  char common[200];
  void *self = lc_alloc(ctx, LC_MEM_OTHER, m->self_size);
  lc_train_io io = {.out = out, .resume_from = from, .overwrite = !from, .data_path = "rows"};
  if (goal) io.goal = (lc_goal){goal, lc_alloc(ctx, LC_MEM_OTHER, goal->self_size)};
  snprintf(common, sizeof common,
           "dtype=f32 lr=0.1 warmup=0 density=0.2 batch=2 micro-batch=1 steps=%d stop-after=%d keep=%d %s",
           variant[v].steps, last, from ? 0 : 1, variant[v].opts);
  lc_status st = options(ctx, lc_train_options, &o, common);
  if (!st) st = options(ctx, m->options, self, variant[v].set);
  if (!st && goal) st = options(ctx, goal->options, io.goal.self, variant[v].with);
  const lc_dataset *data = goal ? prompts : rows;
  if (!st) st = lc_train(net, goal ? tok : NULL, data, variant[v].eval ? data : NULL, m, self, &o, &io);
  lc_options_clear(ctx, lc_train_options, &o);
  if (self) lc_options_clear(ctx, m->options, self);
  if (io.goal.self) lc_options_clear(ctx, goal->options, io.goal.self);
  lc_free(ctx, io.goal.self);
  lc_free(ctx, self);
  return st;
}

/* What the run wrote: an adapter that loads on another net. */
static void use_result(lc_ctx *ctx, int v) {
  lc_net *net = NULL;
  lc_adapter *a;
  char config[120];
  snprintf(config, sizeof config, "%s/lacuna_adapter.json", out);
  if (access(config, F_OK)) return;
  if (fuzz_ok(ctx, lc_net_new(model, LC_F32, &net))) fuzz_ok(ctx, lc_adapter_load(net, out, 1, LC_PATCH, &a));
  lc_net_free(net);
}

/* The checkpoint that is served. */
static bool resume(lc_ctx *ctx, int v) {
  lc_net *net = NULL;
  clear(out);
  put("run.sqlite", valid[v].history);
  put("log.jsonl", valid[v].log);
  const bool made = !lc_net_new(model, LC_F32, &net) && !train(ctx, v, net, variant[v].to, "the/start");
  if (!made) fuzz_refused(ctx);
  lc_net_free(net);
  lc_error_clear(ctx);
  if (made) use_result(ctx, v);
  return made;
}

static void serve(const void *state, size_t n_state, const void *arrays, size_t n_arrays) {
  fuzz_no_files();
  fuzz_file("/start/state.json", state, n_state);
  fuzz_file("/start/state.safetensors", arrays, n_arrays);
}

static void make_valid(lc_ctx *ctx, int v) {
  char name[64];
  lc_net *net;
  clear(out);
  FUZZ_CHECK(lc_net_new(model, LC_F32, &net) == LC_OK);
  if (train(ctx, v, net, variant[v].at, NULL)) fprintf(stderr, "%s\n", lc_error(ctx)), abort();
  lc_net_free(net);
  snprintf(name, sizeof name, "checkpoint-%d/state.json", variant[v].at);
  const bytes state = slurp(name);
  snprintf(name, sizeof name, "checkpoint-%d/state.safetensors", variant[v].at);
  valid[v].arrays = slurp(name);
  valid[v].history = slurp("run.sqlite");
  valid[v].log = slurp("log.jsonl");
  valid[v].state = json_loadb((const char *)state.data, state.n, 0, NULL);
  serve(state.data, state.n, valid[v].arrays.data, valid[v].arrays.n);
  FUZZ_CHECK(valid[v].state && resume(ctx, v));
  lc_safetensors *s = &valid[v].parsed;
  FUZZ_CHECK(lc_safetensors_open(ctx, "the/start/state.safetensors", s) == LC_OK);
  valid[v].array = calloc((size_t)s->n, sizeof *valid[v].array);
  for (int i = 0; i < s->n; i++) {
    edit_array *a = &valid[v].array[i];
    *a = (edit_array){s->tensor[i].name, s->tensor[i].t.dtype, 0, (uint8_t *)(uintptr_t)s->tensor[i].t.data};
    FUZZ_CHECK(lc_dtype_bytes(a->dtype, lc_tensor_count(&s->tensor[i].t), &a->n));
  }
  free(state.data);
}

enum { RAW, ARRAYS, FIELDS, MODES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  if (!model) {
    make_out();
    open_world(ctx);
    for (int v = 0; v < VARIANTS; v++) make_valid(ctx, v);
  }
  if (n < 2) return 0;
  const size_t before = fuzz_held(ctx);
  const int v = data[0] % VARIANTS, mode = data[1] % MODES;
  edit_input in = {data + 2, data + n};
  if (mode == RAW) {
    serve(in.at, n - 2, valid[v].arrays.data, valid[v].arrays.n);
    resume(ctx, v);
  } else {
    json_t *state = json_deep_copy(valid[v].state), *crc;
    edit_arrays e = edit_copy(valid[v].array, valid[v].parsed.n);
    size_t size;
    bool given = false;
    if (mode == FIELDS) edit_state(state, &in);
    for (; in.at < in.end && e.n; given = true) edit_one(&e, &in);
    uint8_t *file = edit_file(&e, &size, &crc);
    if (given)
      json_object_set_new(state, "crc32", crc);
    else
      json_decref(crc);
    char *text = json_dumps(state, JSON_COMPACT);
    FUZZ_CHECK(text);
    serve(text, strlen(text), file, size);
    resume(ctx, v);
    fuzz_no_files();
    free(text);
    free(file);
    edit_free(&e);
    json_decref(state);
  }
  fuzz_no_files();
  FUZZ_CHECK(fuzz_held(ctx) == before);
  return 0;
}
