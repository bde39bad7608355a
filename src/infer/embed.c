/* Sentence embeddings (Reimers & Gurevych 2019, arXiv 1908.10084), as sentence-transformers computes them:
 *
 *   h (T,C) = the encoder's hidden states of the framed text, cut to max tokens
 *   pooled  = mean_t h_t | h_0 | max_t h_t | Σ_t h_t / √T | h_T      sums in f64
 *   out     = pooled / ‖pooled‖                                      when the model has a Normalize module
 *
 * Texts lose white space at both ends first. Several go through one pass, up to 1024 tokens; segments keep them apart. */
#include "infer/embed.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

enum { PASS_ROWS = 1024, MAX_BATCH = 256 };

/* ---- the model's files ---- */

/* modules.json is a list, the others are objects. */
static lc_status parse(lc_ctx *ctx, const char *path, json_t **out) {
  char *text;
  size_t n;
  json_error_t e;
  LC_TRY(lc_read_file(ctx, path, (size_t)1 << 20, &text, &n));
  *out = json_loadb(text, n, 0, &e);
  lc_free(ctx, text);
  return *out ? LC_OK : lc_fail(ctx, "%s: line %d, column %d: no JSON", path, e.line, e.column);
}

/* A file of the model's directory; *out stays NULL when it is not there. A path out of a file stays inside. */
static lc_status read_file(const lc_model *m, const char *inside, const char *name, json_t **out) {
  *out = NULL;
  if (inside && (*inside == '/' || strstr(inside, "..")))
    return lc_fail(m->ctx, "%s/modules.json: the path '%.60s' leads out of the model", m->path, inside);
  char *dir = inside && *inside ? lc_path_join(m->ctx, m->path, inside) : lc_strdup(m->ctx, m->path);
  char *path = dir ? lc_path_join(m->ctx, dir, name) : NULL;
  lc_status st = !path ? LC_FAILED : lc_path_exists(path) ? parse(m->ctx, path, out) : LC_OK;
  lc_free(m->ctx, dir);
  lc_free(m->ctx, path);
  return st;
}

static lc_status read_pooling(const lc_model *m, const char *path, lc_embed_opts *o) {
  static const struct {
    const char *flag, *mode;
    lc_pooling kind;
  } modes[] = {{"pooling_mode_mean_tokens", "mean", LC_POOL_MEAN},
               {"pooling_mode_cls_token", "cls", LC_POOL_CLS},
               {"pooling_mode_max_tokens", "max", LC_POOL_MAX},
               {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", LC_POOL_SQRT},
               {"pooling_mode_lasttoken", "lasttoken", LC_POOL_LAST}};
  json_t *j = NULL;
  int found = 0;
  LC_TRY(read_file(m, path, "config.json", &j));
  const char *mode = json_string_value(json_object_get(j, "pooling_mode"));
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    if (mode ? strcmp(mode, modes[i].mode) : !json_is_true(json_object_get(j, modes[i].flag))) continue;
    o->pooling = modes[i].kind;
    found++;
  }
  const json_t *width = json_object_get(j, "word_embedding_dimension");
  const bool fits = !json_is_integer(width) || json_integer_value(width) == m->config.C;
  json_decref(j);
  if (found != 1)
    return lc_fail(m->ctx, "%s/%s/config.json names %d kinds of pooling that are built: one is expected",
                   m->path, path, found);
  return fits ? LC_OK
              : lc_fail(m->ctx, "%s/%s/config.json: the width is not the model's %lld", m->path, path,
                        (long long)m->config.C);
}

static lc_status read_module(const lc_model *m, const json_t *module, lc_embed_opts *o, bool *pooled) {
  const char *type = json_string_value(json_object_get(module, "type")),
             *path = json_string_value(json_object_get(module, "path"));
  const char *dot = type ? strrchr(type, '.') : NULL, *kind = dot ? dot + 1 : type;
  if (!kind || !path) return lc_fail(m->ctx, "%s/modules.json: a module without type or path", m->path);
  if (!strcmp(kind, "Transformer")) return LC_OK;
  if (!strcmp(kind, "Pooling")) return *pooled = true, read_pooling(m, path, o);
  if (strcmp(kind, "Normalize"))
    return lc_fail(m->ctx, "%s/modules.json: a module of type '%.60s' is not built", m->path, kind);
  o->normalize = true;
  return LC_OK;
}

lc_status lc_embed_config(const lc_model *m, lc_embed_opts *o) {
  *o = (lc_embed_opts){.normalize = true, .max = m->config.context};
  json_t *modules = NULL, *sentence = NULL;
  bool pooled = false;
  lc_status st = LC_OK;
  if (m->is_gguf) return LC_OK;
  LC_GO(read_file(m, NULL, "modules.json", &modules));
  LC_GO(read_file(m, NULL, "sentence_bert_config.json", &sentence));
  if (modules && !json_is_array(modules))
    LC_GO(lc_fail(m->ctx, "%s/modules.json is no list of modules", m->path));
  if (modules) o->from_files = true, o->normalize = false;
  for (size_t i = 0; i < json_array_size(modules); i++)
    LC_GO(read_module(m, json_array_get(modules, i), o, &pooled));
  const json_t *max = json_object_get(sentence, "max_seq_length");
  if (json_is_integer(max)) o->max = lc_min64(o->max, json_integer_value(max));
  o->lower = json_is_true(json_object_get(sentence, "do_lower_case"));
  if (o->max < 3)
    LC_GO(lc_fail(m->ctx, "%s/sentence_bert_config.json: max_seq_length %lld leaves no room for a text",
                  m->path, (long long)o->max));
  if (modules && !pooled)
    st = lc_fail(m->ctx, "%s/modules.json names no pooling: there is a vector a token, none a text", m->path);
done:
  json_decref(modules);
  json_decref(sentence);
  return st;
}

/* ---- pooling ---- */

static void pool(const lc_run *run, lc_val hidden, const lc_segment *s, const lc_embed_opts *o, double *sum,
                 float *tmp, float *out) {
  const int64_t C = lc_width(run, hidden), T = s->row1 - s->row0;
  const int64_t first = o->pooling == LC_POOL_LAST ? s->row1 - 1 : s->row0,
                end = o->pooling == LC_POOL_CLS ? s->row0 + 1 : s->row1;
  for (int64_t c = 0; c < C; c++) sum[c] = o->pooling == LC_POOL_MAX ? -INFINITY : 0;
  for (int64_t r = first; r < end; r++) {
    const float *h = lc_row_get(run, hidden, r, tmp);
    for (int64_t c = 0; c < C; c++)
      sum[c] = o->pooling == LC_POOL_MAX ? fmax(sum[c], (double)h[c]) : sum[c] + (double)h[c];
  }
  const double by = o->pooling == LC_POOL_MEAN ? (double)T : o->pooling == LC_POOL_SQRT ? sqrt((double)T) : 1;
  double norm = 0;
  for (int64_t c = 0; c < C; c++) sum[c] /= by, norm += sum[c] * sum[c];
  norm = o->normalize ? fmax(sqrt(norm), 1e-12) : 1;
  for (int64_t c = 0; c < C; c++) out[c] = (float)(sum[c] / norm);
}

/* ---- passes ---- */

typedef struct {
  lc_net *net;
  const lc_tokenizer *tok;
  const lc_embed_opts *o;
  lc_net_graph graph;
  lc_plan *plan;
  lc_run *run;
  lc_segment segment[MAX_BATCH];
  int64_t n, done, capacity; /* texts in the batch and before it; rows that the plan is for */
  lc_ids ids;                /* of the batch */
  lc_bytes types;
  double *sum;
  float *tmp, *out;
} job;

static lc_status open_plan(job *j, int64_t rows) {
  if (rows <= j->capacity) return LC_OK;
  lc_run_free(j->run);
  lc_plan_free(j->plan);
  j->run = NULL, j->plan = NULL;
  LC_TRY(lc_plan_new(j->graph.g, &(lc_plan_opts){.rows = rows}, &j->plan));
  j->capacity = rows;
  return lc_run_new(j->net->ctx, j->plan, &j->run);
}

static lc_status run_batch(job *j) {
  const int64_t C = j->net->model->config.C;
  if (!j->n) return LC_OK;
  LC_TRY(open_plan(j, lc_max64(PASS_ROWS, j->ids.n)));
  LC_TRY(lc_run_begin(j->run, j->ids.n, j->segment, (int)j->n));
  int32_t *ids = lc_data(j->run, j->graph.ids), *pos = lc_data(j->run, j->graph.pos),
          *types = j->graph.types.id ? lc_data(j->run, j->graph.types) : NULL;
  for (int64_t i = 0; i < j->n; i++)
    for (int64_t r = j->segment[i].row0; r < j->segment[i].row1; r++) {
      ids[r] = j->ids.id[r];
      pos[r] = (int32_t)(r - j->segment[i].row0);
      if (types) types[r] = (uint8_t)j->types.data[r];
    }
  LC_TRY(lc_forward(j->run, NULL));
  for (int64_t i = 0; i < j->n; i++) {
    float *out = j->out + (j->done + i) * C;
    pool(j->run, j->graph.hidden, &j->segment[i], j->o, j->sum, j->tmp, out);
    for (int64_t c = 0; c < C; c++)
      if (!isfinite(out[c]))
        return lc_fail(
            j->net->ctx,
            "text %lld: number %lld of its embedding is not finite: a weight or an adapter's value is not",
            (long long)(j->done + i) + 1, (long long)c + 1);
  }
  j->done += j->n;
  j->n = j->ids.n = 0;
  j->types.n = 0;
  return LC_OK;
}

static lc_status trimmed(job *j, const lc_embed_text *t, lc_framed *f) {
  const char *s = t->text;
  size_t n = t->n, k, bad;
  if (!lc_utf8_valid(s, n, &bad))
    return lc_fail(j->net->ctx, "text %lld is not UTF-8: byte %zu (0x%02X)", (long long)(j->done + j->n) + 1,
                   bad, (uint8_t)s[bad]);
  while (n && (k = lc_text_space(s, n, false))) s += k, n -= k;
  while (n && (k = lc_text_space(s, n, true))) n -= k;
  if (!j->o->lower) return lc_tokenize_framed(j->tok, s, n, NULL, 0, j->o->max, f);
  lc_bytes low = {0};
  lc_status st = lc_utf8_lower(j->net->ctx, s, n, &low);
  if (!st) st = lc_tokenize_framed(j->tok, low.data, low.n, NULL, 0, j->o->max, f);
  lc_free(j->net->ctx, low.data);
  return st;
}

static lc_status add(job *j, const lc_embed_text *t) {
  lc_bytes types = {0};
  lc_framed f = {.types = &types};
  lc_ctx *ctx = j->net->ctx;
  lc_status st = trimmed(j, t, &f);
  if (!st && !f.ids.n) st = lc_fail(ctx, "text %lld has no tokens", (long long)(j->done + j->n) + 1);
  if (!st && (j->n == MAX_BATCH || j->ids.n + f.ids.n > PASS_ROWS)) st = run_batch(j);
  if (!st) {
    j->segment[j->n] = (lc_segment){.row0 = j->ids.n, .row1 = j->ids.n + f.ids.n, .sequence = (int32_t)j->n};
    j->n++;
  }
  for (int64_t i = 0; i < f.ids.n && !st; i++) st = lc_ids_push(ctx, &j->ids, f.ids.id[i]);
  if (!st) st = lc_bytes_add(ctx, &j->types, types.data, types.n);
  lc_ids_free(ctx, &f.ids);
  lc_free(ctx, types.data);
  return st;
}

lc_status lc_embed(lc_net *net, const lc_tokenizer *tok, const lc_embed_opts *o, const lc_embed_text *text,
                   int64_t n, float *out) {
  lc_ctx *ctx = net->ctx;
  const int64_t C = net->model->config.C;
  lc_status st = LC_OK;
  job *j = lc_alloc(ctx, LC_MEM_OTHER, sizeof *j);
  if (!j) return LC_FAILED;
  *j = (job){.net = net, .tok = tok, .o = o, .out = out};
  j->sum = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)C, sizeof *j->sum);
  j->tmp = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)C, sizeof *j->tmp);
  if (!j->sum || !j->tmp) LC_GO(LC_FAILED);
  LC_GO(lc_net_build(net, false, NULL, NULL, &j->graph));
  for (int64_t i = 0; i < n; i++) {
    if (lc_stop_requested(ctx)) LC_GO(LC_STOPPED);
    LC_GO(add(j, &text[i]));
  }
  st = run_batch(j);
done:
  lc_run_free(j->run);
  lc_plan_free(j->plan);
  lc_net_graph_free(&j->graph);
  lc_ids_free(ctx, &j->ids);
  lc_free(ctx, j->types.data);
  lc_free(ctx, j->sum);
  lc_free(ctx, j->tmp);
  lc_free(ctx, j);
  return st;
}
