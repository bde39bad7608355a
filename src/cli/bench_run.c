/* bench train: updates of a real run on random tokens, into a directory that is removed afterwards, by the wall clock between step events (the first, which
 * sizes buffers, is not counted). */
#include "cli/bench.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
  double last, t[1024];
  int n;
  double peak, tokens;
} step_clock;

static int on_event(void *arg, const char *kind, const json_t *e) {
  step_clock *s = arg;
  if (strcmp(kind, "step")) return 0;
  double now = lc_now();
  if (s->last > 0 && s->n < 1024) s->t[s->n++] = now - s->last;
  s->last = now;
  s->peak = (double)lc_peak_rss_bytes() / 1048576;
  return 0;
}

static lc_status random_rows(lc_bench_run *b, int64_t V, lc_dataset **out) {
  const lc_train_opts *o = &b->opts->train;
  lc_ctx *ctx = b->cli->ctx;
  int64_t rows = o->batch;
  int32_t *id = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(rows * o->seq), sizeof *id);
  uint8_t *target = lc_alloc(ctx, LC_MEM_OTHER, (size_t)(rows * o->seq));
  lc_example *ex = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)rows, sizeof *ex);
  lc_status st = id && target && ex ? LC_OK : LC_FAILED;
  lc_rng r = {.seed = (uint64_t)o->seed, .purpose = LC_RNG_TEST};
  for (int64_t i = 0; !st && i < rows * o->seq; i++)
    id[i] = (int32_t)lc_rng_below(&r, (uint64_t)i, (uint64_t)V), target[i] = 1;
  for (int64_t i = 0; !st && i < rows; i++)
    ex[i] = (lc_example){
        .id = id + i * o->seq, .target = target + i * o->seq, .n = o->seq, .n_targets = o->seq - 1};
  if (!st) st = lc_data_from_ids(ctx, ex, rows, out);
  lc_free(ctx, id), lc_free(ctx, target), lc_free(ctx, ex);
  return st;
}

/* Multiply-adds of the products that any method needs (forward and dx of every linear weight and the head), twice, a token. */
static double product_flops(const lc_net *net) {
  double n = 0;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].kind == LC_KIND_LINEAR || net->weights.w[i].kind == LC_KIND_HEAD)
      n += (double)net->weights.w[i].M * (double)net->weights.w[i].N;
  if (net->model->config.tied) n += (double)net->model->config.V * (double)net->model->config.C;
  return 4 * n;
}

static lc_status timed_train(lc_bench_run *b, const lc_method *m, void *method_self, lc_loaded *l,
                             const char *dir) {
  lc_train_opts *o = &b->opts->train;
  lc_ctx *ctx = b->cli->ctx;
  lc_dataset *data = NULL;
  static step_clock clock;
  clock = (step_clock){0};
  if (!o->steps) o->steps = 5;
  o->steps++;
  LC_TRY(lc_train_resolve(ctx, &l->model->config, m, method_self, o));
  l->net->compute = lc_dtype_by_name(o->dtype);
  double flops = product_flops(l->net);
  LC_TRY(random_rows(b, l->model->config.V, &data));
  lc_train_io io = {
      .out = dir, .overwrite = true, .data_path = "random tokens", .event = on_event, .event_arg = &clock};
  lc_status st = lc_train(l->net, l->tok, data, NULL, m, method_self, o, &io);
  lc_data_free(data);
  LC_TRY(st);
  if (!clock.n) return lc_fail(ctx, "no update was timed");
  double seconds = lc_bench_median(clock.t, clock.n), tokens = (double)(o->batch * o->seq) / seconds;
  double peak = !strcmp(o->dtype, "f32")   ? b->ceilings.f32
                : b->ceilings.amx_bf16 > 0 ? b->ceilings.amx_bf16
                : b->ceilings.bf16 > 0     ? b->ceilings.bf16
                                           : b->ceilings.f32;
  lc_bench_row(b, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:f, s:f, s:f}", "method", m->name,
                            "dtype", o->dtype, "seq", (json_int_t)o->seq, "batch", (json_int_t)o->batch,
                            "steps", (json_int_t)clock.n, "density", o->density, "seconds", seconds, "rate",
                            tokens, "unit", "tokens/s", "tokens_per_s", tokens, "peak_rss_mib", clock.peak,
                            "of_ceiling", tokens * flops / peak));
  return LC_OK;
}

lc_status lc_bench_train_on(lc_bench_run *b, lc_loaded *l) {
  lc_ctx *ctx = b->cli->ctx;
  const lc_method *m = lc_cli_method(b->cli, b->opts->method);
  if (!m) return LC_USAGE;
  char dir[] = "/tmp/lacuna-bench-XXXXXX";
  void *self = lc_alloc(ctx, LC_MEM_OTHER, m->self_size ? m->self_size : 1);
  lc_status st = self ? lc_options_init(ctx, m->options, self) : LC_FAILED;
  if (!st) st = lc_cli_set_pairs(b->cli, m, self);
  if (!st && !mkdtemp(dir)) st = lc_fail(ctx, "%s: cannot be made", dir);
  if (!st) {
    st = timed_train(b, m, self, l, dir);
    lc_status gone = lc_remove_tree(ctx, dir);
    if (!st) st = gone;
  }
  if (self) lc_options_clear(ctx, m->options, self);
  lc_free(ctx, self);
  return st;
}

lc_status lc_bench_train(lc_bench_run *b) {
  if (b->opts->sweep) return lc_bench_sweep(b);
  lc_loaded l;
  LC_TRY(lc_cli_load(b->cli, b->opts->model, LC_F32, LC_PATCH, true, &l));
  lc_status st = lc_bench_train_on(b, &l);
  lc_cli_unload(&l);
  return st;
}
