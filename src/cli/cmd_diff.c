/* lacuna diff A B: what changed, where, how much. A and B are models; or A is a model and B an adapter on it. Per tensor: entries that differ by more than the
 * tolerance, their share, ‖B−A‖/‖A‖, the largest difference. */
#include "cli/cli.h"
#include <math.h>
#include <string.h>

typedef struct {
  double tolerance;
} self_t;
static const lc_option options[] = {{"tolerance", LC_OPT_FLOAT, offsetof(self_t, tolerance), "0", 0, 1e30,
                                     NULL, "X", "entries that differ by more count as changed"},
                                    {0}};

typedef struct {
  int64_t changed;
  double sum_delta, sum_base, largest;
} tally;
typedef struct {
  lc_ctx *ctx;
  const lc_weight *a, *b;
  double tolerance;
  tally *part;
  float **copy;
} diff_arg;

static void compare(tally *t, const float *a, const float *b, int64_t n, double tolerance) {
  for (int64_t i = 0; i < n; i++) {
    double d = (double)b[i] - (double)a[i];
    t->changed += fabs(d) > tolerance;
    t->sum_delta += d * d;
    t->sum_base += (double)a[i] * (double)a[i];
    if (fabs(d) > t->largest) t->largest = fabs(d);
  }
}

static lc_status diff_chunk(void *arg, int64_t chunk, int worker) {
  diff_arg *d = arg;
  int64_t N = d->a->N;
  lc_rect q = {chunk * 64, lc_min64(chunk * 64 + 64, d->a->M), 0, N};
  float *copy = lc_scratch(d->ctx, worker, 3, (size_t)(64 * N) * sizeof *copy);
  if (!copy) return LC_FAILED;
  const void *tile;
  int64_t ld;
  LC_TRY(lc_weight_tile(d->ctx, worker, d->a, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    memcpy(copy + r * N, (const float *)tile + r * ld, (size_t)N * sizeof *copy);
  LC_TRY(lc_weight_tile(d->ctx, worker, d->b, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    compare(&d->part[chunk], copy + r * N, (const float *)tile + r * ld, N, d->tolerance);
  return LC_OK;
}

static lc_status diff_weight(lc_ctx *ctx, const lc_weight *a, const lc_weight *b, double tolerance,
                             tally *out) {
  *out = (tally){0};
  if (a->M != b->M || a->N != b->N)
    return lc_fail(ctx, "'%s' is %lld×%lld in one and %lld×%lld in the other", a->name, (long long)a->M,
                   (long long)a->N, (long long)b->M, (long long)b->N);
  if (a->ndim == 1) {
    compare(out, a->vector, b->vector, a->N, tolerance);
    return LC_OK;
  }
  int64_t chunks = lc_ceil_div(a->M, 64);
  tally *part = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)chunks, sizeof *part);
  if (!part) return LC_FAILED;
  diff_arg d = {.ctx = ctx, .a = a, .b = b, .tolerance = tolerance, .part = part};
  lc_status st = lc_parallel(ctx, chunks, diff_chunk, &d);
  for (int64_t i = 0; i < chunks; i++) {
    out->changed += part[i].changed;
    out->sum_delta += part[i].sum_delta;
    out->sum_base += part[i].sum_base;
    out->largest = fmax(out->largest, part[i].largest);
  }
  lc_free(ctx, part);
  return st;
}

static bool is_adapter(lc_ctx *ctx, const char *path) {
  const char *const names[] = {"adapter_config.json", "lacuna_adapter.json"};
  bool found = false;
  for (int i = 0; i < 2; i++) {
    char *p = lc_path_join(ctx, path, names[i]);
    found |= p && lc_path_exists(p);
    lc_free(ctx, p);
  }
  return found;
}

static lc_status run(lc_cli *cli, void *self) {
  const self_t *s = self;
  if (cli->n_word != 2) return lc_usage(cli->ctx, "two models, or a model and an adapter, are needed");
  lc_loaded a, b = {0};
  LC_TRY(lc_cli_load(cli, cli->word[0], LC_F32, LC_PATCH, false, &a));
  lc_status st;
  json_t *rows = json_array();
  int64_t changed = 0, total = 0;
  char *path = NULL;
  float scale;
  LC_GO(lc_cli_adapter_spec(cli, cli->word[1], &path, &scale));
  if (is_adapter(cli->ctx, path)) {
    lc_adapter *adapter;
    LC_GO(lc_cli_load(cli, cli->word[0], LC_F32, LC_PATCH, false, &b));
    LC_GO(lc_adapter_load(b.net, path, scale, LC_IN_PLACE,
                          &adapter)); /* merged, whatever kind of delta it is */
  } else {
    LC_GO(lc_cli_load(cli, cli->word[1], LC_F32, LC_PATCH, false, &b));
  }
  for (int i = 0; i < a.net->weights.n; i++) {
    const lc_weight *w = &a.net->weights.w[i], *v = lc_net_weight(b.net, w->name);
    if (!v) {
      st = lc_fail(cli->ctx, "'%s' is in %s only", w->name, cli->word[0]);
      goto done;
    }
    tally t;
    LC_GO(diff_weight(cli->ctx, w, v, s->tolerance, &t));
    int64_t n = w->M * w->N;
    changed += t.changed;
    total += n;
    double relative = t.sum_base > 0 ? sqrt(t.sum_delta / t.sum_base) : 0;
    json_array_append_new(rows, json_pack("{s:s, s:I, s:f, s:f, s:f}", "name", w->name, "changed",
                                          (json_int_t)t.changed, "share", (double)t.changed / (double)n,
                                          "relative_norm", relative, "largest", t.largest));
    if (!cli->common.json && t.changed)
      printf("%-58s %10lld changed (%.4f)  |d|/|w| %.4g  largest %.4g\n", w->name, (long long)t.changed,
             (double)t.changed / (double)n, relative, t.largest);
  }
  if (cli->common.json)
    lc_cli_print_json(json_pack("{s:I, s:I, s:f, s:O}", "changed", (json_int_t)changed, "parameters",
                                (json_int_t)total, "update_sparsity", 1 - (double)changed / (double)total,
                                "tensors", rows));
  else
    printf("%lld of %lld entries changed (update sparsity %.6f)\n", (long long)changed, (long long)total,
           1 - (double)changed / (double)total);
done:
  lc_free(cli->ctx, path);
  json_decref(rows);
  lc_cli_unload(&a);
  lc_cli_unload(&b);
  return st;
}

const lc_command lc_cmd_diff = {.name = "diff",
                                .usage = "A B",
                                .title = "what changed between two models, or what an adapter changes",
                                .options = options,
                                .self_size = sizeof(self_t),
                                .words = 2,
                                .run = run};
