/* lacuna info MODEL: architecture, sizes, dtypes; per tensor the nonzeros, counted by decoding. */
#include "cli/cli.h"
#include <string.h>

typedef struct {
  char *model;
  bool count;
} self_t;
static const lc_option options[] = {{"model", LC_OPT_STRING, offsetof(self_t, model), NULL, 0, 0, NULL,
                                     "MODEL", "a Hugging Face directory or a GGUF file"},
                                    {"count", LC_OPT_BOOL, offsetof(self_t, count), "true", 0, 0, NULL, NULL,
                                     "count nonzeros (reads every weight)"},
                                    {0}};

/* Nonzeros strip by strip, one counter a chunk. */
typedef struct {
  lc_ctx *ctx;
  const lc_weight *w;
  int64_t *count;
} count_arg;

static lc_status count_chunk(void *arg, int64_t chunk, int worker) {
  count_arg *a = arg;
  lc_rect q = {chunk * 256, lc_min64(chunk * 256 + 256, a->w->M), 0, a->w->N};
  const void *tile;
  int64_t ld;
  LC_TRY(lc_weight_tile(a->ctx, worker, a->w, q, LC_F32, &tile, &ld));
  for (int64_t r = 0; r < q.r1 - q.r0; r++)
    for (int64_t c = 0; c < a->w->N; c++) a->count[chunk] += ((const float *)tile)[r * ld + c] != 0;
  return LC_OK;
}

static lc_status nonzeros(lc_ctx *ctx, const lc_weight *w, int64_t *out) {
  *out = 0;
  if (w->ndim == 1) {
    for (int64_t c = 0; c < w->N; c++) *out += w->vector[c] != 0;
    return LC_OK;
  }
  int64_t chunks = lc_ceil_div(w->M, 256);
  int64_t *count = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)chunks, sizeof *count);
  if (!count) return LC_FAILED;
  count_arg a = {ctx, w, count};
  lc_status st = lc_parallel(ctx, chunks, count_chunk, &a);
  for (int64_t i = 0; i < chunks; i++) *out += count[i];
  lc_free(ctx, count);
  return st;
}

/* How the file stores it. */
static const lc_tensor *stored(const lc_model *m, const lc_weight *w) {
  for (int i = 0; i < m->n; i++)
    if (!strcmp(m->decl[i].name, w->name)) return &m->src[i];
  return NULL;
}

static lc_status run(lc_cli *cli, void *self) {
  self_t *s = self;
  lc_loaded l;
  LC_TRY(lc_cli_load(cli,
                     s->model      ? s->model
                     : cli->n_word ? cli->word[0]
                                   : NULL,
                     LC_F32, LC_PATCH, false, &l));
  const lc_config *c = &l.model->config;
  json_t *tensors = json_array();
  int64_t total = 0, nonzero = 0;
  size_t bytes = 0;
  lc_status st = LC_OK;
  for (int i = 0; !st && i < l.net->weights.n; i++) {
    const lc_weight *w = &l.net->weights.w[i];
    int64_t nnz = -1;
    const lc_tensor *t = stored(l.model, w);
    size_t size = 0;
    if (!t || !lc_dtype_bytes(t->dtype, w->M * w->N, &size))
      st = lc_fail(cli->ctx, "'%s': its stored size is unknown", w->name);
    if (st) break;
    if (s->count) st = nonzeros(cli->ctx, w, &nnz);
    json_t *shape = w->ndim == 1 ? json_pack("[I]", (json_int_t)w->N)
                                 : json_pack("[I,I]", (json_int_t)w->M, (json_int_t)w->N);
    json_t *row = json_pack("{s:s, s:o, s:s, s:I}", "name", w->name, "shape", shape, "dtype",
                            lc_dtype_get(t->dtype)->name, "bytes", (json_int_t)size);
    if (s->count) json_object_set_new(row, "nnz", json_integer(nnz));
    json_array_append_new(tensors, row);
    total += w->M * w->N;
    nonzero += nnz;
    bytes += size;
  }
  if (!st && cli->common.json)
    lc_cli_print_json(json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "architecture", lc_architecture(c),
        "parameters", (json_int_t)total, "layers", (json_int_t)c->L, "context_length", (json_int_t)c->context,
        "width", (json_int_t)c->C, "heads", (json_int_t)c->H, "kv_heads", (json_int_t)c->G, "vocabulary",
        (json_int_t)c->V, "bytes", (json_int_t)bytes, "tensors", tensors));
  else if (!st) {
    printf("architecture    %s\nparameters      %lld\nlayers          %lld\nwidth           %lld\nheads      "
           "     %lld (%lld key/value) of %lld\nfeed-forward    %lld\n"
           "vocabulary      %lld%s\ncontext         %lld\nbytes           %zu (%.2f a parameter)\n",
           lc_architecture(c), (long long)total, (long long)c->L, (long long)c->C, (long long)c->H,
           (long long)c->G, (long long)c->D, (long long)c->F, (long long)c->V,
           c->tied ? ", tied to the embedding" : "", (long long)c->context, bytes,
           (double)bytes / (double)total);
    if (s->count)
      printf("nonzeros        %lld (sparsity %.4f)\n", (long long)nonzero,
             1 - (double)nonzero / (double)total);
    for (size_t i = 0; i < json_array_size(tensors); i++) {
      const lc_weight *w = &l.net->weights.w[i];
      char shape[48];
      if (w->ndim == 1)
        snprintf(shape, sizeof shape, "%lld", (long long)w->N);
      else
        snprintf(shape, sizeof shape, "%lld×%lld", (long long)w->M, (long long)w->N);
      printf("  %-58s %-14s %-5s", w->name, shape,
             json_string_value(json_object_get(json_array_get(tensors, i), "dtype")));
      if (s->count)
        printf(" %.4f", 1 - (double)json_integer_value(json_object_get(json_array_get(tensors, i), "nnz")) /
                                (double)(w->M * w->N));
      putchar('\n');
    }
  }
  json_decref(tensors);
  lc_cli_unload(&l);
  return st;
}

const lc_command lc_cmd_info = {.name = "info",
                                .usage = "MODEL [FLAGS]",
                                .title = "architecture, sizes, dtypes and sparsity of a model",
                                .options = options,
                                .self_size = sizeof(self_t),
                                .words = 1,
                                .run = run};
