/* bench train --sweep: how a step's time and memory grow with one thing at a time: the length of a row (2,048 tokens an update, or one row where
 * it is longer), density, sequences an update, and layers (random weights of the model's shape). Every point is a process of its own, so that
 * its peak of memory is its own. */
#include "cli/bench.h"
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
  const char *axis;
  double at;
  int64_t seq, batch, layers;
  double density;
} point;

/* The model's shape with fewer layers, in memory; bf16. */
static lc_status fewer_layers(lc_bench_run *b, int64_t layers, lc_loaded *l, void **memory) {
  lc_ctx *ctx = b->cli->ctx;
  lc_model *file;
  LC_TRY(lc_model_open(ctx, b->opts->model, &file));
  const lc_config c = file->config;
  lc_model_close(file);
  char shape[128];
  snprintf(shape, sizeof shape, "%lld,%lld,%lld,%lld,%lld", (long long)layers, (long long)c.C, (long long)c.F,
           (long long)c.H, (long long)c.G);
  LC_TRY(lc_bench_synthetic(ctx, shape, LC_BF16, &l->model, memory));
  return lc_net_new(l->model, LC_F32, &l->net);
}

static lc_status run_point(lc_bench_run *b, const point *p) {
  lc_train_opts *o = &b->opts->train;
  o->seq = p->seq, o->batch = p->batch, o->density = p->density;
  if (!o->steps) o->steps = 2;
  lc_loaded l = {0};
  void *memory = NULL;
  lc_status st = p->layers ? fewer_layers(b, p->layers, &l, &memory)
                           : lc_cli_load(b->cli, b->opts->model, LC_F32, LC_PATCH, true, &l);
  if (!st) st = lc_bench_train_on(b, &l);
  lc_cli_unload(&l);
  lc_free(b->cli->ctx, memory);
  return st;
}

/* In the child: the row, or the error's sentence, as one line of JSON. */
static void answer(lc_bench_run *b, const point *p, int fd) {
  b->cli->common.json = true; /* the parent prints */
  json_t *row = NULL;
  if (run_point(b, p))
    row = json_pack("{s:s}", "error", lc_error(b->cli->ctx));
  else
    row = json_incref(json_array_get(b->rows, json_array_size(b->rows) - 1));
  FILE *f = fdopen(fd, "w");
  if (f) json_dumpf(row, f, JSON_COMPACT), fclose(f);
  json_decref(row);
  _exit(f ? 0 : 1);
}

static lc_status measure(lc_bench_run *b, const point *p) {
  lc_ctx *ctx = b->cli->ctx;
  int fd[2];
  if (pipe(fd)) return lc_fail(ctx, "no pipe to a measurement");
  const pid_t child = fork();
  if (child == 0) {
    close(fd[0]);
    answer(b, p, fd[1]);
  }
  close(fd[1]);
  FILE *f = fdopen(fd[0], "r");
  json_t *row = child > 0 && f ? json_loadf(f, 0, NULL) : NULL;
  if (f) fclose(f);
  if (child > 0) waitpid(child, NULL, 0);
  const char *error = json_string_value(json_object_get(row, "error"));
  lc_status st = LC_OK;
  if (!row || error)
    st =
        lc_fail(ctx, "%s = %g: %s", p->axis, p->at, error ? error : "the measurement ended without a result");
  if (!st) {
    json_object_set_new(row, "axis", json_string(p->axis));
    json_object_set_new(row, "at", json_real(p->at));
    lc_bench_row(b, json_incref(row));
  }
  json_decref(row);
  return st;
}

lc_status lc_bench_sweep(lc_bench_run *b) {
  static const double lengths[] = {128, 256, 512, 1024, 2048, 4096},
                      densities[] = {0.0001, 0.001, 0.01, 0.03, 0.1}, batches[] = {1, 2, 4, 8},
                      layers[] = {6, 12, 18, 24, 30};
  const struct {
    const char *axis;
    const double *at;
    size_t n;
  } axes[] = {{"seq", lengths, 6}, {"density", densities, 5}, {"batch", batches, 4}, {"layers", layers, 5}};
  bool any = false;
  for (size_t a = 0; a < sizeof axes / sizeof *axes; a++) {
    if (strcmp(b->opts->sweep, axes[a].axis) && strcmp(b->opts->sweep, "all")) continue;
    any = true;
    for (size_t i = 0; i < axes[a].n; i++) {
      const double at = axes[a].at[i];
      point p = {.axis = axes[a].axis, .at = at, .seq = 512, .batch = 4, .density = 0.01};
      if (a == 0) p.seq = (int64_t)at, p.batch = lc_max64(1, 2048 / p.seq);
      if (a == 1) p.density = at;
      if (a == 2) p.batch = (int64_t)at;
      if (a == 3) p.layers = (int64_t)at;
      LC_TRY(measure(b, &p));
    }
  }
  return any ? LC_OK
             : lc_usage(b->cli->ctx, "--sweep %s: seq, density, batch, layers or all", b->opts->sweep);
}
