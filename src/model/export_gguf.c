/* Writes a net as a GGUF that llama.cpp reads: q and k rows interleaved again, matrices in the type asked
 * for, vectors (and learned positions) in f32 as llama.cpp keeps them. Metadata of a GGUF base is copied pair
 * by pair, so nothing it says is lost; from an HF base general.*, <arch>.* and tokenizer.* are made. llama3's
 * rope becomes the tensor rope_freqs.weight. */
#include "model/config.h"
#include "model/export.h"
#include <string.h>

static const struct {
  lc_dtype dtype;
  uint32_t file_type;
} types[] = {/* llama.h, enum llama_ftype */
             {LC_F32, 0},
             {LC_F16, 1},
             {LC_Q8_0, 7},
             {LC_BF16, 32}};

static int type_row(lc_dtype t) {
  for (int i = 0; i < (int)(sizeof types / sizeof *types); i++)
    if (types[i].dtype == t) return i;
  return -1;
}

/* Blocks of 32 must divide the rows; where they do not, f16 (llama.cpp's own rule). */
static lc_dtype stored_as(const lc_net *net, const lc_tensor_decl *d, lc_dtype dtype, bool say) {
  size_t bytes;
  if (d->ndim == 1 || d->kind == LC_KIND_POSITION) return LC_F32;
  if (lc_dtype_bytes(dtype, d->N, &bytes)) return dtype;
  if (say)
    lc_log(net->ctx, LC_LOG_WARN, "'%s' is stored as f16: rows of %lld are no multiple of 32", d->name,
           (long long)d->N);
  return LC_F16;
}

/* ---- metadata ---- */

/* What this file says for itself. */
static bool own_key(const lc_gguf_kv *kv) {
  static const char *const keys[] = {"general.file_type", "general.quantization_version",
                                     "general.alignment"};
  if (kv->key.n >= 6 && !memcmp(kv->key.data, "split.", 6)) return true;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (lc_str_eq(kv->key, keys[i])) return true;
  return false;
}

static lc_status copy_metadata(const lc_gguf *g, lc_gguf_writer *w) {
  for (int64_t i = 0; i < g->n_kv; i++)
    if (!own_key(&g->kv[i])) LC_TRY(lc_gguf_put_kv(w, &g->kv[i]));
  return LC_OK;
}

static lc_status put_text(lc_gguf_writer *w, const char *key, const char *text) {
  return lc_gguf_put_string(w, key, text, strlen(text));
}

static lc_status put_tokenizer(lc_net *net, lc_gguf_writer *w) {
  const lc_model *m = net->model;
  char *path = lc_path_join(net->ctx, m->path, "tokenizer.json");
  if (!path) return LC_FAILED;
  bool there = lc_path_exists(path);
  lc_free(net->ctx, path);
  if (!there) {
    lc_log(net->ctx, LC_LOG_WARN, "%s has no tokenizer.json: the GGUF has no tokenizer", m->path);
    return put_text(w, "tokenizer.ggml.model", "none");
  }
  lc_tokenizer *t;
  LC_TRY(lc_model_tokenizer(m, &t));
  lc_status st = lc_tokenizer_write_gguf(t, w);
  lc_tokenizer_free(t);
  return st;
}

/* The name of the directory, as llama.cpp's converter has it. */
static lc_status put_name(const lc_model *m, lc_gguf_writer *w) {
  size_t n = strlen(m->path);
  while (n > 1 && m->path[n - 1] == '/') n--;
  size_t from = n;
  while (from > 0 && m->path[from - 1] != '/') from--;
  return lc_gguf_put_string(w, "general.name", m->path + from, n - from);
}

static lc_status make_metadata(lc_net *net, lc_gguf_writer *w) {
  const lc_config *c = &net->model->config;
  LC_TRY(put_text(w, "general.architecture", c->family->gguf));
  LC_TRY(put_text(w, "general.type", "model"));
  LC_TRY(put_name(net->model, w));
  LC_TRY(c->family->write_gguf(net->ctx, c, w));
  return put_tokenizer(net, w);
}

static lc_status put_metadata(lc_net *net, lc_dtype dtype, lc_gguf_writer *w) {
  LC_TRY(net->model->is_gguf ? copy_metadata(&net->model->gguf, w) : make_metadata(net, w));
  LC_TRY(lc_gguf_put_u32(w, "general.file_type", types[type_row(dtype)].file_type));
  return lc_gguf_put_u32(w, "general.quantization_version", 2);
}

/* ---- tensors ---- */

static lc_status append(void *to, const void *data, size_t bytes) {
  return lc_gguf_append(to, data, bytes);
}

static lc_status write_tensors(lc_net *net, lc_dtype dtype, lc_merge_report *report, lc_gguf_writer *w) {
  const lc_model *m = net->model;
  const lc_config *c = &m->config;
  float *factors = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)(c->rope.dim / 2), sizeof *factors);
  lc_status st = factors ? LC_OK : LC_FAILED;
  if (st) goto done;
  bool scaled = c->rope.dim && lc_rope_factors(&c->rope, factors);
  if (scaled) LC_GO(lc_gguf_declare(w, "rope_freqs.weight", LC_F32, 1, (int64_t[]){c->rope.dim / 2}));
  for (int i = 0; i < m->n; i++) {
    const lc_tensor_decl *d = &m->decl[i];
    int64_t shape[2] = {d->ndim == 1 ? d->N : d->M, d->N};
    LC_GO(lc_gguf_declare(w, d->gguf, stored_as(net, d, dtype, true), d->ndim, shape));
  }
  if (scaled) LC_GO(lc_gguf_append(w, factors, (size_t)(c->rope.dim / 2) * sizeof *factors));
  for (int i = 0; i < m->n; i++) {
    const lc_tensor_decl *d = &m->decl[i];
    lc_export e = {.net = net,
                   .decl = d,
                   .dtype = stored_as(net, d, dtype, false),
                   .head_dim = d->permuted_heads ? c->D : 0,
                   .append = append,
                   .to = w,
                   .report = report};
    LC_GO(lc_export_tensor(&e));
  }
done:
  lc_free(net->ctx, factors);
  return st;
}

lc_status lc_net_write_gguf(lc_net *net, const char *path, lc_dtype dtype, lc_merge_report *report) {
  if (type_row(dtype) < 0)
    return lc_usage(net->ctx, "GGUF is written as f32, f16, bf16 or q8_0, not %s", lc_dtype_get(dtype)->name);
  if (!net->model->config.family->gguf)
    return lc_fail(net->ctx, "GGUF has no architecture for %s", lc_architecture(&net->model->config));
  if (report) *report = (lc_merge_report){0};
  LC_TRY(lc_export_check(net, path));
  lc_gguf_writer *w;
  LC_TRY(lc_gguf_create(net->ctx, path, &w));
  lc_status st = put_metadata(net, dtype, w);
  if (!st) st = write_tensors(net, dtype, report, w);
  lc_status end = lc_gguf_finish(w, !st);
  if (!st) st = end;
  if (st && report) lc_merge_report_free(net->ctx, report);
  return st;
}
