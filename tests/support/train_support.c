#include "support/train_support.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static void write_rows(const char *path, int n, uint32_t seed) {
  static const char *const words[] = {"the", "cat", "sat", "on",    "a",   "mat",
                                      "and", "saw", "two", "birds", "fly", "far"};
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  for (int i = 0; i < n; i++) {
    int count = 2 + i * 7 % 9;
    fprintf(f, "{\"prompt\": \"%s %s\", \"completion\": \"", words[(unsigned)i % 12],
            words[(seed + (unsigned)i) % 12]);
    for (int k = 0; k < count; k++) fprintf(f, " %s", words[(unsigned)(i + 5 * k + k * k) % 12]);
    fprintf(f, "\"}\n");
  }
  fclose(f);
}

void t_world_open(t_world *w, int threads) {
  char why[256] = "";
  lc_tiny m = LC_TINY_LLAMA;
  lc_data_opts o = {.seq = 64};
  *w = (t_world){0};
  if (lc_path_is_dir("/dev/shm")) setenv("TMPDIR", "/dev/shm", 0); /* many small flushed files */
  if (lc_ctx_new(threads, &w->ctx, why)) fail_msg("%s", why);
  w->dir = lc_tiny_dir();
  const char *model = lc_tiny_path(w->dir, "model");
  lc_status st = lc_tiny_hf(w->ctx, &m, model);
  if (!st) st = lc_model_open(w->ctx, model, &w->model);
  if (!st) st = lc_model_tokenizer(w->model, &w->tok);
  write_rows(lc_tiny_path(w->dir, "data.jsonl"), 24, 3);
  write_rows(lc_tiny_path(w->dir, "eval.jsonl"), 6, 8);
  if (!st) st = lc_data_open(w->ctx, w->tok, lc_tiny_path(w->dir, "data.jsonl"), &o, &w->data);
  if (!st) st = lc_data_open(w->ctx, w->tok, lc_tiny_path(w->dir, "eval.jsonl"), &o, &w->eval);
  if (st) fail_msg("%s", lc_error(w->ctx));
}

void t_world_close(t_world *w) {
  lc_data_free(w->data);
  lc_data_free(w->eval);
  lc_tokenizer_free(w->tok);
  lc_model_close(w->model);
  lc_remove_tree(w->ctx, w->dir);
  free(w->dir);
  lc_ctx_free(w->ctx);
}

/* Sets "a=b c=d" through a table. */
static lc_status set_all(lc_ctx *ctx, const lc_option *table, void *self, const char *text) {
  char buf[512], *save = NULL;
  snprintf(buf, sizeof buf, "%s", text ? text : "");
  for (char *p = strtok_r(buf, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
    char *eq = strchr(p, '=');
    if (!eq) fail_msg("'%s' is no key=value", p);
    *eq = 0;
    LC_TRY(lc_options_set(ctx, table, "test", self, p, eq + 1));
  }
  return LC_OK;
}

lc_status t_train(t_world *w, const t_spec *s) {
  const lc_method *m = s->row ? s->row : lc_method_find(s->method);
  lc_net *net = NULL;
  lc_train_opts o;
  if (!m) fail_msg("no method %s", s->method);
  const lc_objective *goal = s->objective ? lc_objective_find(s->objective) : NULL;
  if (s->objective && !goal) fail_msg("no objective %s", s->objective);
  void *self = lc_alloc(w->ctx, LC_MEM_OTHER, m->self_size);
  lc_train_io io = {.out = lc_tiny_path(w->dir, s->out),
                    .resume = s->resume,
                    .resume_from = s->from,
                    .overwrite = s->overwrite,
                    .data_path = "data.jsonl",
                    .event = s->event,
                    .event_arg = s->arg,
                    .goal = {goal, goal ? lc_alloc(w->ctx, LC_MEM_OTHER, goal->self_size) : NULL}};
  char *out = strdup(io.out);
  io.out = out;
  lc_status st = lc_options_init(w->ctx, lc_train_options, &o);
  if (!st) st = lc_options_init(w->ctx, m->options, self);
  if (!st) st = set_all(w->ctx, lc_train_options, &o, "dtype=f32 lr=0.01 schedule=constant warmup=0 seq=64");
  if (!st) st = set_all(w->ctx, lc_train_options, &o, s->opts);
  if (!st) st = set_all(w->ctx, m->options, self, s->set);
  if (!st && goal) st = lc_options_init(w->ctx, goal->options, io.goal.self);
  if (!st && goal) st = set_all(w->ctx, goal->options, io.goal.self, s->with);
  if (!st) st = lc_net_new(w->model, lc_dtype_by_name(o.dtype), &net);
  if (!st)
    st = lc_train(net, w->tok, s->data ? s->data : w->data,
                  s->no_eval ? NULL
                  : s->eval  ? s->eval
                             : w->eval,
                  m, self, &o, &io);
  lc_net_free(net);
  lc_options_clear(w->ctx, lc_train_options, &o);
  lc_options_clear(w->ctx, m->options, self);
  lc_free(w->ctx, self);
  if (goal) lc_options_clear(w->ctx, goal->options, io.goal.self);
  lc_free(w->ctx, io.goal.self);
  free(out);
  return st;
}

const char *t_out(const t_world *w, const char *out, const char *name) {
  static char buf[8][512];
  static int turn;
  char *b = buf[turn++ % 8];
  snprintf(b, 512, "%s/%s/%s", w->dir, out, name);
  return b;
}

bool t_same_files(const char *a, const char *b) {
  FILE *x = fopen(a, "rb"), *y = fopen(b, "rb");
  bool same = x && y;
  while (same) {
    int c = fgetc(x), d = fgetc(y);
    same = c == d;
    if (c == EOF) break;
  }
  if (x) fclose(x);
  if (y) fclose(y);
  return same;
}

const char *t_query(const t_world *w, const char *out, const char *sql) {
  static char buf[4][4096];
  static int turn;
  char *b = buf[turn++ % 4];
  sqlite3 *db;
  sqlite3_stmt *q;
  *b = 0;
  assert_int_equal(sqlite3_open_v2(t_out(w, out, "run.sqlite"), &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
  if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK) fail_msg("%s: %s", sql, sqlite3_errmsg(db));
  if (sqlite3_step(q) == SQLITE_ROW && sqlite3_column_text(q, 0))
    snprintf(b, 4096, "%s", (const char *)sqlite3_column_text(q, 0));
  sqlite3_finalize(q);
  sqlite3_close(db);
  return b;
}

int t_lines(const char *path, const char *with) {
  char line[8192];
  int n = 0;
  FILE *f = fopen(path, "r");
  if (!f) return -1;
  while (fgets(line, sizeof line, f)) n += strstr(line, with) != NULL;
  fclose(f);
  return n;
}
