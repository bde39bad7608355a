/* lacuna diff A B [C]: what changed from A to B, where, how much; with C, another result of A, how far the two changed the same. A is a
 * model, B and C are models or adapters on A. Counting is src/model/diff.c's. */
#include <math.h>
#include <string.h>
#include "cli/cli.h"
#include "model/diff.h"

typedef struct {
  double tolerance, null_lr;
  int64_t ranks, null_steps;
  char *dtype;
} self_t;
static const lc_option options[] = {
    {"tolerance", LC_OPT_FLOAT, offsetof(self_t, tolerance), "0", 0, 1e30, NULL, "X",
     "entries that differ by more count as changed"},
    {"dtype", LC_OPT_STRING, offsetof(self_t, dtype), "auto", 0, 0, NULL, "T",
     "compare in f32, bf16 or f16; auto: as the files are, the narrower of two; f32 for adapters and "
     "quantised files"},
    {"rank", LC_OPT_INT, offsetof(self_t, ranks), "0", -1, 1 << 20, NULL, "N",
     "rank of the change of N matrices, spread evenly; -1: all"},
    {"null-lr", LC_OPT_FLOAT, offsetof(self_t, null_lr), "0", 0, 1e6, NULL, "R",
     "beside it, what rounding alone gives when each step moves a weight by ±R at random"},
    {"null-steps", LC_OPT_INT, offsetof(self_t, null_steps), "1", 1, 1 << 20, NULL, "N", "so often"},
    {0}};

static double share(int64_t part, int64_t of) {
  return of ? (double)part / (double)of : 0;
}

/* |change| by |weights|. */
static double relative(const lc_diff_count *c) {
  return c->sum_base > 0 || isnan(c->sum_base) ? sqrt(c->sum_delta / c->sum_base) : 0;
}

/* ---- JSON ---- */

static json_t *tolerances(const int64_t *unchanged, int64_t n) {
  json_t *o = json_object();
  for (int k = 0; k < LC_DIFF_TOLERANCES; k++) {
    char key[16];
    snprintf(key, sizeof key, "%g", lc_diff_tolerances[k]);
    json_object_set_new(o, key, json_real(share(unchanged[k], n)));
  }
  return o;
}

/* Where weights are not finite, neither is what was computed of them: null. */
static json_t *number(double x) {
  return isfinite(x) ? json_real(x) : json_null();
}

static json_t *row_json(const lc_diff_row *r) {
  const lc_diff_count *c = &r->count;
  json_t *o = json_pack("{s:I, s:I, s:f, s:o, s:o, s:s, s:b, s:o, s:f}", "entries", (json_int_t)c->n,
                        "changed", (json_int_t)c->changed, "share", share(c->changed, c->n), "relative_norm",
                        number(relative(c)), "largest", number(c->largest), "dtype",
                        lc_dtype_get(r->dtype)->name, "mixed", r->mixed, "sparsity",
                        tolerances(c->unchanged, c->n), "invisible_in_bf16", share(c->invisible, c->differ));
  if (r->full)
    json_object_update_new(
        o, json_pack("{s:I, s:I}", "rank", (json_int_t)r->rank, "full_rank", (json_int_t)r->full));
  if (r->tensors > 1) json_object_set_new(o, "mean_density", json_real(r->mean_density));
  return o;
}

static json_t *overlap_json(const lc_diff_count *c) {
  if (!c->changed || !c->second) return json_null();
  return json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "first", (json_int_t)c->changed, "second",
                   (json_int_t)c->second, "both", (json_int_t)c->both, "of_first", share(c->both, c->changed),
                   "of_second", share(c->both, c->second), "chance_of_first", share(c->second, c->n),
                   "chance_of_second", share(c->changed, c->n), "jaccard",
                   share(c->both, c->changed + c->second - c->both));
}

static json_t *rows_json(const lc_diff_row *r, int n, const char *key) {
  json_t *rows = json_array();
  for (int i = 0; i < n; i++) {
    json_t *o = row_json(&r[i]);
    json_object_set_new(o, key, strcmp(key, "layer") ? json_string(r[i].name) : json_integer(r[i].layer));
    json_array_append_new(rows, o);
  }
  return rows;
}

static void print_json(const self_t *s, const lc_diff *d, const double *none) {
  const lc_diff_count *c = &d->all.count;
  json_t *o = row_json(&d->all), *apart = json_array();
  for (int i = 0; i < d->n_apart; i++) json_array_append_new(apart, json_string(d->apart[i]));
  json_object_update_new(o, json_pack("{s:I, s:f, s:f, s:o, s:o, s:o, s:o}", "parameters", (json_int_t)c->n,
                                      "update_sparsity", 1 - share(c->changed, c->n), "tolerance",
                                      s->tolerance, "tensors", rows_json(d->row, d->n, "name"), "layers",
                                      rows_json(d->layer, d->n_layer, "layer"), "kinds",
                                      rows_json(d->kind, d->n_kind, "name"), "apart", apart));
  if (d->n_ranks) json_object_set_new(o, "rank_share", json_real(d->rank_share));
  if (d->third) json_object_set_new(o, "overlap", overlap_json(c));
  if (none) {
    json_t *at = json_object();
    for (int k = 0; k < LC_DIFF_TOLERANCES; k++) {
      char key[16];
      snprintf(key, sizeof key, "%g", lc_diff_tolerances[k]);
      json_object_set_new(at, key, json_real(none[k]));
    }
    json_object_set_new(o, "null_model", at);
  }
  lc_cli_print_json(o);
}

/* ---- text ---- */

static void print_group(const lc_diff_row *r, const char *label) {
  const lc_diff_count *c = &r->count;
  printf("  %-24s %12lld entries  changed %.4f  (mean over %d tensors %.4f)  unchanged at 0 / 1e-5: %.4f / "
         "%.4f\n",
         label, (long long)c->n, share(c->changed, c->n), r->tensors, r->mean_density,
         share(c->unchanged[0], c->n), share(c->unchanged[LC_DIFF_TOLERANCES - 1], c->n));
}

static void print_overlap(const lc_diff_count *c) {
  if (!c->changed || !c->second) {
    printf("overlap: not defined, %s changed nothing\n", c->changed ? "C" : "B");
    return;
  }
  printf("overlap: B changed %lld, C %lld, both %lld: %.4f of B's (chance %.4f), %.4f of C's (chance %.4f), "
         "Jaccard %.4f\n",
         (long long)c->changed, (long long)c->second, (long long)c->both, share(c->both, c->changed),
         share(c->second, c->n), share(c->both, c->second), share(c->changed, c->n),
         share(c->both, c->changed + c->second - c->both));
}

static void print_text(const self_t *s, const lc_diff *d, const double *none) {
  const lc_diff_count *c = &d->all.count;
  char label[32];
  for (int i = 0; i < d->n; i++) {
    const lc_diff_row *r = &d->row[i];
    if (!r->count.changed && !r->full) continue;
    printf("%-58s %10lld changed (%.4f)  |d|/|w| %.4g  largest %.4g", r->name, (long long)r->count.changed,
           share(r->count.changed, r->count.n), relative(&r->count), r->count.largest);
    if (r->full) printf("  rank %lld of %lld", (long long)r->rank, (long long)r->full);
    putchar('\n');
  }
  printf("by layer\n");
  for (int i = 0; i < d->n_layer; i++) {
    snprintf(label, sizeof label, "%d", d->layer[i].layer);
    print_group(&d->layer[i], label);
  }
  printf("by kind\n");
  for (int i = 0; i < d->n_kind; i++) print_group(&d->kind[i], d->kind[i].name);
  for (int i = 0; i < d->n_apart; i++)
    printf("not compared (on one side only, or of another shape): %s\n", d->apart[i]);
  printf("compared in %s%s; a difference of at most %g counts as none\n", lc_dtype_get(d->all.dtype)->name,
         d->all.mixed ? " and other types (the files' types are mixed)" : "", s->tolerance);
  printf("unchanged at ");
  for (int k = 0; k < LC_DIFF_TOLERANCES; k++)
    printf("%s%g: %.4f", k ? ", " : "", lc_diff_tolerances[k], share(c->unchanged[k], c->n));
  printf("; of the changes in f32, %.4f are invisible in bf16\n", share(c->invisible, c->differ));
  if (none) {
    printf("rounding alone (steps of ±%g, %lld times): ", s->null_lr, (long long)s->null_steps);
    for (int k = 0; k < LC_DIFF_TOLERANCES; k++)
      printf("%s%g: %.4f", k ? ", " : "", lc_diff_tolerances[k], none[k]);
    putchar('\n');
  }
  if (d->n_ranks)
    printf("rank of the change: %.4f of the highest, mean of %d matrices\n", d->rank_share, d->n_ranks);
  if (d->third) print_overlap(c);
  printf("%lld of %lld entries changed (update sparsity %.6f)\n", (long long)c->changed, (long long)c->n,
         1 - share(c->changed, c->n));
}

/* ---- the command ---- */

static lc_status result(lc_cli *cli, const lc_loaded *a, int word, lc_result *r) {
  char *path = NULL;
  float scale;
  LC_TRY(lc_cli_adapter_spec(cli, cli->word[word], &path, &scale));
  lc_status st = lc_result_open(a->model, path, scale, r);
  lc_free(cli->ctx, path);
  return st;
}

static lc_status run(lc_cli *cli, void *self) {
  const self_t *s = self;
  lc_diff_opts o = {.tolerance = s->tolerance, .ranks = s->ranks};
  lc_loaded a = {0};
  lc_result b = {0}, c = {0};
  lc_diff d = {0};
  double none[LC_DIFF_TOLERANCES];
  lc_status st;
  if (cli->n_word < 2) return lc_usage(cli->ctx, "two models, or a model and an adapter, are needed");
  if (strcmp(s->dtype, "auto")) {
    o.dtype = lc_dtype_by_name(s->dtype);
    if (o.dtype != LC_F32 && o.dtype != LC_BF16 && o.dtype != LC_F16)
      return lc_usage(cli->ctx, "dtype '%s': auto, f32, bf16 and f16 are possible", s->dtype);
  }
  LC_GO(lc_cli_load(cli, cli->word[0], LC_F32, LC_PATCH, false, &a));
  LC_GO(result(cli, &a, 1, &b));
  if (cli->n_word > 2) LC_GO(result(cli, &a, 2, &c));
  LC_GO(lc_diff_nets(a.net, b.net, c.net, &o, &d));
  const bool with_null = s->null_lr > 0;
  if (with_null)
    LC_GO(lc_diff_null(cli->ctx, d.all.dtype, s->null_lr, s->null_steps, (uint64_t)cli->common.seed, none));
  if (cli->common.json)
    print_json(s, &d, with_null ? none : NULL);
  else
    print_text(s, &d, with_null ? none : NULL);
done:
  lc_diff_free(cli->ctx, &d);
  lc_result_close(&c);
  lc_result_close(&b);
  lc_cli_unload(&a);
  return st;
}

const lc_command lc_cmd_diff = {.name = "diff",
                                .usage = "A B [C]",
                                .title = "what changed between models, or what an adapter changes",
                                .options = options,
                                .self_size = sizeof(self_t),
                                .words = 3,
                                .run = run};
