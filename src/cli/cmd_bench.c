/* lacuna bench WHAT: what the machine can do, and what we get of it in the same run. Every rate is a median of several; shares are of the ceilings that
 * this run measured. */
#include "cli/bench.h"
#include <stdlib.h>
#include <string.h>

static const lc_option options[] = {
    {"model", LC_OPT_STRING, offsetof(lc_bench, model), NULL, 0, 0, NULL, "MODEL",
     "train, decode, prefill, load, switch: a Hugging Face directory or a GGUF file"},
    {"adapter", LC_OPT_STRING, offsetof(lc_bench, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "decode, prefill: apply an adapter (repeatable)"},
    {"shape", LC_OPT_STRING, offsetof(lc_bench, shape), NULL, 0, 0, NULL, "L,C,F,H,KV",
     "decode, prefill: random weights of this shape instead of a model"},
    {"forms", LC_OPT_STRING, offsetof(lc_bench, forms), "bf16,q8_0,q4_0", 0, 0, NULL, "A,B",
     "with --shape: how its weights are stored, one after another"},
    {"method", LC_OPT_STRING, offsetof(lc_bench, method), "shira", 0, 0, NULL, "NAME",
     "train: see `lacuna methods`"},
    {"set", LC_OPT_STRING, offsetof(lc_bench, set), NULL, 0, 0, NULL, "KEY=VALUE",
     "train: an option of the method (repeatable)"},
    {"repeat", LC_OPT_INT, offsetof(lc_bench, repeat), "5", 1, 1000, NULL, "N",
     "measurements a figure; the median counts"},
    {"tokens", LC_OPT_INT, offsetof(lc_bench, tokens), "64", 1, 1 << 20, NULL, "N",
     "decode: tokens a measurement"},
    {"prompt-tokens", LC_OPT_INT, offsetof(lc_bench, prompt_tokens), "512", 1, 1 << 20, NULL, "N",
     "decode: tokens of the prompt"},
    {"sweep", LC_OPT_STRING, offsetof(lc_bench, sweep), NULL, 0, 0, NULL, "AXIS",
     "train: how time and memory grow with seq, density, batch or layers, or all"},
    {"exact", LC_OPT_BOOL, offsetof(lc_bench, exact), "false", 0, 0, NULL, NULL,
     "decode, prefill, load: without activations in 8 bits"},
    {0}};

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

double lc_bench_median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, ascending);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static json_t *ceilings_json(const lc_ceilings *c) {
  json_t *read = json_array();
  for (int t = 1; t <= c->threads && t <= LC_CEILINGS_THREADS; t++)
    json_array_append_new(read, json_real(c->read[t]));
  return json_pack("{s:f, s:f, s:f, s:f, s:f, s:o}", "f32", c->f32, "bf16", c->bf16, "int8", c->int8,
                   "amx_bf16", c->amx_bf16, "amx_int8", c->amx_int8, "read_bytes_per_s", read);
}

void lc_bench_row(lc_bench_run *b, json_t *row) {
  if (!b->cli->common.json) {
    const char *key;
    json_t *v;
    json_object_foreach(row, key, v) {
      if (!strcmp(key, "unit")) continue;
      if (json_is_string(v))
        printf("%-12s", json_string_value(v));
      else if (json_is_integer(v))
        printf(" %s %-6lld", key, (long long)json_integer_value(v));
      else if (!strcmp(key, "rate"))
        printf(" %10.3g %s", json_real_value(v), json_string_value(json_object_get(row, "unit")));
      else
        printf("  %s %.3g", key, json_real_value(v));
    }
    putchar('\n');
    fflush(stdout);
  }
  json_array_append_new(b->rows, row);
}

static lc_status bench_ceilings(lc_bench_run *b) {
  const lc_ceilings *c = &b->ceilings;
  const struct {
    const char *what;
    double rate;
    const char *unit;
  } row[] = {{"f32", c->f32, "FLOP/s"},
             {"bf16", c->bf16, "FLOP/s"},
             {"int8", c->int8, "op/s"},
             {"amx-bf16", c->amx_bf16, "FLOP/s"},
             {"amx-int8", c->amx_int8, "op/s"}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++)
    if (row[i].rate > 0)
      lc_bench_row(
          b, json_pack("{s:s, s:f, s:s}", "dtype", row[i].what, "rate", row[i].rate, "unit", row[i].unit));
  for (int t = 1; t <= c->threads && t <= LC_CEILINGS_THREADS; t++)
    lc_bench_row(b, json_pack("{s:s, s:I, s:f, s:s}", "what", "read", "threads", (json_int_t)t, "rate",
                              c->read[t], "unit", "B/s"));
  return LC_OK;
}

static const struct {
  const char *name;
  lc_status (*run)(lc_bench_run *);
} benches[] = {{"ceilings", bench_ceilings},  {"gemm", lc_bench_gemm},   {"attention", lc_bench_attention},
               {"sampled", lc_bench_sampled}, {"train", lc_bench_train}, {"decode", lc_bench_decode},
               {"prefill", lc_bench_prefill}, {"load", lc_bench_load},   {"switch", lc_bench_switch}};
enum { N_BENCHES = sizeof benches / sizeof *benches };

static lc_status run(lc_cli *cli, void *self) {
  const char *names[N_BENCHES];
  for (int i = 0; i < N_BENCHES; i++) names[i] = benches[i].name;
  if (cli->n_word != 1)
    return lc_usage(
        cli->ctx,
        "one of ceilings, gemm, attention, sampled, train, decode, prefill, load, switch is needed");
  lc_bench_run b = {.cli = cli, .opts = self, .rows = json_array()};
  for (int i = 0; i < N_BENCHES; i++) {
    if (strcmp(benches[i].name, cli->word[0])) continue;
    lc_status st = lc_ceilings_measure(cli->ctx, 0.2, &b.ceilings);
    if (!st) st = benches[i].run(&b);
    if (!st && cli->common.json)
      lc_cli_print_json(json_pack("{s:s, s:{s:s, s:s, s:i}, s:o, s:O}", "name", names[i], "machine", "cpu",
                                  lc_cpu_name(), "isa", lc_isa_name(lc_isa_of(cli->ctx)), "threads",
                                  lc_threads(cli->ctx), "ceilings", ceilings_json(&b.ceilings), "rows",
                                  b.rows));
    json_decref(b.rows);
    return st;
  }
  json_decref(b.rows);
  const char *near = lc_nearest(cli->word[0], names, N_BENCHES);
  return lc_usage(cli->ctx, "there is no benchmark '%s'%s%s%s", cli->word[0], near ? "; did you mean '" : "",
                  near ? near : "", near ? "'?" : "");
}

const lc_command lc_cmd_bench = {
    .name = "bench",
    .usage = "ceilings|gemm|attention|sampled|train|decode|prefill|load|switch [FLAGS]",
    .title = "measure the machine, and what we get of it",
    .options = options,
    .self_size = sizeof(lc_bench),
    .words = 1,
    .more = lc_train_options,
    .more_offset = offsetof(lc_bench, train),
    .repeatable = "adapter set",
    .run = run};
