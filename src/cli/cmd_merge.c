/* lacuna merge and convert: a model's effective weights to a Hugging Face directory or, when the name ends in .gguf, to GGUF. Merge says how much of the
 * change survives the rounding of the output. `convert -a` writes the adapter alone, in another layout (convert_adapter.c). */
#include "cli/cli.h"
#include <string.h>

typedef struct {
  char *model, *adapter, *out, *outtype, *base_name;
  int layout, as;
  bool average;
} self_t;
#define MODEL_ROW                                                                                            \
  {                                                                                                          \
    "model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL, "MODEL",                              \
        "a Hugging Face directory or a GGUF file"                                                            \
  }
#define OUT_ROW                                                                                              \
  {                                                                                                          \
    "out", LC_OPT_STRING, offsetof(self_t, out), NULL, 0, 0, NULL, "OUT",                                    \
        "a directory, or a name that ends in .gguf"                                                          \
  }
#define TYPE_ROW                                                                                             \
  {                                                                                                          \
    "outtype", LC_OPT_STRING, offsetof(self_t, outtype), "auto", 0, 0, NULL, "T",                            \
        "f32, f16, bf16, q8_0 (GGUF only); auto: the base's, bf16 from a quantised one"                      \
  }
static const lc_option merge_options[] = {
    MODEL_ROW,
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "[NAME=]DIR[:SCALE]",
     "an adapter (repeatable: deltas add; a negative scale takes away)"},
    OUT_ROW,
    TYPE_ROW,
    {"average", LC_OPT_BOOL, offsetof(self_t, average), "false", 0, 0, NULL, NULL,
     "the mean of the adapters' changes (each at its scale), not their sum"},
    {"as", LC_OPT_CHOICE, offsetof(self_t, as), "model", 0, 0, "model|adapter", NULL,
     "adapter: one adapter that is the sum (lists of entries, slices; or LoRAs, whose ranks add)"},
    {0}};
static const lc_option convert_options[] = {
    MODEL_ROW,
    {"adapter", LC_OPT_STRING, offsetof(self_t, adapter), NULL, 0, 0, NULL, "DIR",
     "write this sparse adapter, in another layout, instead of the model"},
    OUT_ROW,
    TYPE_ROW,
    {"layout", LC_OPT_CHOICE, offsetof(self_t, layout), "shira", 0, 0, LC_CLI_LAYOUTS, NULL,
     "with -a: PEFT's SHiRA (padded), or lacuna's own, compact"},
    {"base-name", LC_OPT_STRING, offsetof(self_t, base_name), NULL, 0, 0, NULL, "NAME",
     "with -a: the base's name in the adapter; else as it was"},
    {0}};

static bool is_gguf(const char *path) {
  size_t n = strlen(path);
  return n > 5 && !strcmp(path + n - 5, ".gguf");
}

/* The dtype of most of the base's matrices. */
static lc_dtype base_dtype(const lc_net *net) {
  int64_t count[LC_DTYPE_COUNT] = {0};
  lc_dtype best = LC_F32;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].ndim == 2)
      count[net->weights.w[i].base->src.dtype] += net->weights.w[i].M * net->weights.w[i].N;
  for (int d = 0; d < LC_DTYPE_COUNT; d++)
    if (count[d] > count[best]) best = (lc_dtype)d;
  return lc_dtype_get(best)->quantised ? LC_BF16 : best;
}

static void print_report(lc_cli *cli, const lc_merge_report *r, const char *out, lc_dtype dtype) {
  double changed = 0, survive = 0;
  int64_t masked = 0, filled = 0;
  for (int i = 0; i < r->n; i++) masked += r->row[i].masked, filled += r->row[i].filled;
  for (int i = 0; i < r->n; i++)
    changed += (double)r->row[i].changed, survive += (double)r->row[i].changed * r->row[i].survive;
  double share = changed > 0 ? survive / changed : 1;
  if (cli->common.json) {
    json_t *rows = json_array();
    for (int i = 0; i < r->n; i++)
      if (r->row[i].changed)
        json_array_append_new(rows, json_pack("{s:s, s:I, s:f, s:f}", "name", r->row[i].name, "changed",
                                              (json_int_t)r->row[i].changed, "survive", r->row[i].survive,
                                              "arrives", r->row[i].error));
    lc_cli_print_json(json_pack("{s:s, s:s, s:f, s:f, s:I, s:I, s:o}", "output", out, "outtype",
                                lc_dtype_get(dtype)->name, "changed", changed, "survive", share, "masked",
                                (json_int_t)masked, "filled", (json_int_t)filled, "tensors", rows));
  } else {
    for (int i = 0; i < r->n; i++)
      if (r->row[i].changed)
        printf("%-58s %9lld changed, %6.2f %% survive, %.4g of |d| arrives\n", r->row[i].name,
               (long long)r->row[i].changed, 100 * r->row[i].survive, r->row[i].error);
    if (changed > 0)
      printf("%.0f entries changed, %.2f %% of the changes survive rounding to %s\n", changed, 100 * share,
             lc_dtype_get(dtype)->name);
    printf("%s\n", out);
  }
  if (filled > 0)
    fprintf(stderr,
            "warning: sparsity is lost: %lld of the %lld entries that a mask had dropped are not zero in the "
            "merged model "
            "(%.2f %%); unmerged, the adapter keeps them zero\n",
            (long long)filled, (long long)masked, 100 * (double)filled / (double)masked);
  if (changed > 0 && share < 0.9)
    fprintf(stderr,
            "warning: only %.1f %% of the changes survive rounding to %s; a wider --outtype keeps more\n",
            100 * share, lc_dtype_get(dtype)->name);
}

/* Each adapter at its scale over their number. */
static lc_status average(const self_t *s, lc_net *net) {
  for (int i = 0; s->average && i < net->n_adapter; i++)
    LC_TRY(lc_adapter_set(net->adapter[i], net->adapter[i]->scale / (float)net->n_adapter, LC_PATCH));
  return LC_OK;
}

/* A model with a list of modules (sentence-transformers) embeds texts: it has no head, unless an adapter brings one. */
static lc_status load(lc_cli *cli, const char *model, lc_loaded *l) {
  lc_head_opts head;
  char *list = model ? lc_path_join(cli->ctx, model, "modules.json") : NULL;
  LC_TRY(lc_cli_adapters_head(cli, &head));
  if (head.task == LC_TASK_OWN && list && lc_path_exists(list)) head.task = LC_TASK_NONE;
  lc_status st = lc_cli_load_for(cli, model, &head, LC_F32, LC_PATCH, true, l);
  lc_head_opts_free(cli->ctx, &head);
  lc_free(cli->ctx, list);
  return st;
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  if (!s->out) return lc_usage(cli->ctx, "-o OUT is missing");
  const bool merge = !strcmp(cli->command->name, "merge");
  if (!merge && s->adapter)
    return lc_cli_convert_adapter(cli, s->model, s->adapter, s->layout, s->base_name, s->out);
  if (!merge && (lc_cli_given(cli, "layout") || s->base_name))
    return lc_usage(cli->ctx, "--layout and --base-name are of an adapter: -a is missing");
  if (merge && !lc_cli_given(cli, "adapter"))
    return lc_usage(cli->ctx, "-a ADAPTER is missing (convert needs none)");
  lc_dtype dtype = LC_NONE;
  if (strcmp(s->outtype, "auto")) LC_TRY(lc_cli_outtype(cli, s->outtype, &dtype));
  if (dtype == LC_Q8_0 && !is_gguf(s->out))
    return lc_usage(cli->ctx, "q8_0 is a GGUF type: give a name that ends in .gguf");
  if (is_gguf(s->out) ? lc_path_is_dir(s->out) : lc_path_exists(s->out) && !lc_path_is_dir(s->out))
    return lc_usage(cli->ctx, "%s exists and is of the other kind", s->out);
  lc_loaded l;
  LC_TRY(load(cli, s->model, &l));
  lc_status st = average(s, l.net);
  if (s->as) {
    if (!st && lc_cli_given(cli, "outtype"))
      st = lc_usage(cli->ctx, "--outtype is of a model; an adapter's values stay f32");
    if (!st) st = lc_cli_sum_adapters(cli, &l, s->out);
    lc_cli_unload(&l);
    return st;
  }
  if (dtype == LC_NONE) dtype = base_dtype(l.net);
  lc_merge_report report = {0};
  if (!st)
    st = is_gguf(s->out) ? lc_net_write_gguf(l.net, s->out, dtype, &report)
                         : lc_net_write_hf(l.net, s->out, dtype, &report);
  if (!st) print_report(cli, &report, s->out, dtype);
  lc_merge_report_free(cli->ctx, &report);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_merge = {.name = "merge",
                                 .usage = "-m MODEL -a ADAPTER[:SCALE]... -o OUT",
                                 .title = "write a model with adapters merged in",
                                 .options = merge_options,
                                 .self_size = sizeof(self_t),
                                 .repeatable = "adapter",
                                 .run = run};
const lc_command lc_cmd_convert = {
    .name = "convert",
    .usage = "-m MODEL -o OUT [--outtype T], or -m MODEL -a ADAPTER --layout L -o OUT",
    .title = "write a model in another format or type, or an adapter in another layout",
    .options = convert_options,
    .self_size = sizeof(self_t),
    .run = run};
