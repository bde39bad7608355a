/* Opens a model: an HF directory or a GGUF file. The configuration says which tensors there must be; each is
 * looked up in the mapped file and its shape and dtype are checked, so that nothing above has to. Nothing is
 * copied: `src` are views of the mapping, and row order (a GGUF's interleaved q and k rows) is undone through
 * row maps.
 *
 * A tensor that is not expected is either known to be of no use (buffers that old programs saved) or warned
 * about: it may mean that the configuration does not tell the whole story. */
#include "model/config.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding the files ---- */

/* By architecture, or, where none is named or another head is wanted anyway, by the model's type. */
static void find_family(const json_t *j, const lc_head_opts *o, lc_config *c) {
  const char *arch = json_string_value(json_array_get(json_object_get(j, "architectures"), 0));
  const char *type = json_string_value(json_object_get(j, "model_type"));
  for (int i = 0; i < lc_n_families; i++)
    for (const lc_architecture_row *a = lc_families[i]->architectures; a->name; a++) {
      const bool same = arch && !strcmp(arch, a->name);
      if (!same && (c->family || !type || strcmp(type, lc_families[i]->model_type) ||
                    (arch && !(o && o->task != LC_TASK_OWN))))
        continue;
      c->family = lc_families[i];
      c->task = a->task;
      if (same) return;
    }
}

/* "A, B and C": what can be opened. */
static void list_families(char *out, size_t size) {
  size_t n = 0;
  for (int i = 0; i < lc_n_families && n < size; i++)
    n += (size_t)snprintf(out + n, size - n, "%s%s",
                          !i                      ? ""
                          : i + 1 < lc_n_families ? ", "
                                                  : " and ",
                          lc_families[i]->architectures[0].name);
}

static lc_status read_config(lc_model *m, const char *path, const lc_head_opts *o) {
  lc_config *c = &m->config;
  LC_TRY(lc_json_read(m->ctx, path, &c->json));
  find_family(c->json, o, c);
  if (!c->family) {
    char known[400];
    const char *arch = json_string_value(json_array_get(json_object_get(c->json, "architectures"), 0));
    if (!arch) arch = json_string_value(json_object_get(c->json, "model_type"));
    list_families(known, sizeof known);
    return lc_fail(m->ctx, "%s: architecture '%.60s' is not supported (%s are)", path, arch ? arch : "(none)",
                   known);
  }
  LC_TRY(c->family->config_hf(m->ctx, path, c->json, c));
  return lc_head_resolve(m->ctx, path, o, c);
}

/* generation_config.json may know better which token ends a text. */
static lc_status read_generation_config(lc_model *m, const char *path) {
  json_t *j = NULL;
  if (!lc_path_exists(path)) return LC_OK;
  LC_TRY(lc_json_read(m->ctx, path, &j));
  lc_reader r = {.ctx = m->ctx, .path = path, .where = "", .j = j};
  int32_t *const field[] = {&m->config.bos, &m->config.eos, &m->config.pad};
  static const char *const key[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
  for (int i = 0; i < 3; i++) {
    int32_t id = lc_read_token(&r, key[i]);
    if (id >= 0) *field[i] = id;
  }
  json_decref(j);
  return r.st;
}

static lc_status open_hf(lc_model *m, const lc_head_opts *o) {
  static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors",
                                      "model.safetensors.index.json"};
  enum { CONFIG, GENERATION, SINGLE, INDEX, N };
  char *path[N] = {0};
  lc_status st = LC_OK;
  for (int i = 0; i < N; i++) {
    path[i] = lc_path_join(m->ctx, m->path, names[i]);
    if (!path[i]) st = LC_FAILED;
  }
  if (st) goto done;
  LC_GO(read_config(m, path[CONFIG], o));
  LC_GO(read_generation_config(m, path[GENERATION]));
  if (lc_path_exists(path[SINGLE]))
    st = lc_safetensors_open(m->ctx, path[SINGLE], &m->st);
  else if (lc_path_exists(path[INDEX]))
    st = lc_safetensors_open_index(m->ctx, path[INDEX], &m->st);
  else
    st = lc_fail(m->ctx, "%s: neither model.safetensors nor model.safetensors.index.json is there", m->path);
done:
  for (int i = 0; i < N; i++) lc_free(m->ctx, path[i]);
  return st;
}

static lc_status open_gguf(lc_model *m, const lc_head_opts *o) {
  m->is_gguf = true;
  LC_TRY(lc_gguf_open(m->ctx, m->path, &m->gguf));
  lc_str arch;
  LC_TRY(lc_gguf_string(m->ctx, &m->gguf, "general.architecture", &arch));
  for (int i = 0; i < lc_n_families; i++)
    if (lc_families[i]->gguf && lc_str_eq(arch, lc_families[i]->gguf)) m->config.family = lc_families[i];
  if (!m->config.family)
    return lc_fail(m->ctx, "%s: architecture '%.*s' is not supported (llama and gpt2 are)", m->path,
                   (int)lc_min64(60, (int64_t)arch.n), arch.data);
  m->config.task = m->config.family->architectures[0].task;
  LC_TRY(m->config.family->config_gguf(m->ctx, &m->gguf, &m->config));
  return lc_head_resolve(m->ctx, m->path, o, &m->config);
}

/* ---- tensors ---- */

/* Names of norms in files that TensorFlow's came from. */
static const lc_tensor *find_old(const lc_model *m, const char *name) {
  static const char *const now[] = {"LayerNorm.weight", "LayerNorm.bias"}, *const then[] = {"LayerNorm.gamma",
                                                                                            "LayerNorm.beta"};
  char old[160];
  for (int i = 0; i < 2; i++) {
    size_t n = strlen(name), k = strlen(now[i]);
    if (n < k || strcmp(name + n - k, now[i])) continue;
    snprintf(old, sizeof old, "%.*s%s", (int)(n - k), name, then[i]);
    return lc_safetensors_find(&m->st, old);
  }
  return NULL;
}

static const lc_tensor *find(const lc_model *m, const lc_tensor_decl *d, const char **stored) {
  if (m->is_gguf) return *d->gguf ? lc_gguf_find(&m->gguf, *stored = d->gguf) : NULL;
  size_t n = strlen(m->config.family->prefix);
  const char *name[] = {d->name, strncmp(d->name, m->config.family->prefix, n) ? NULL : d->name + n};
  const lc_tensor *t = NULL;
  for (int i = 0; i < 2 && !t && name[i]; i++)
    if (!(t = lc_safetensors_find(&m->st, *stored = name[i]))) t = find_old(m, name[i]);
  if (!t) *stored = d->name;
  return t;
}

/* The file that a view points into. */
static const char *file_of(const lc_model *m, const lc_tensor *t) {
  const uint8_t *p = t ? t->data : NULL;
  for (int i = 0; p && i < m->st.n_map; i++)
    if (p >= m->st.map[i].data && p < m->st.map[i].data + m->st.map[i].size) return m->st.map[i].path;
  return !m->is_gguf && m->st.n_map == 1 ? m->st.map[0].path : m->path;
}

static void shape_text(char out[96], const lc_tensor *t) {
  int n = 0;
  for (int i = 0; i < t->ndim; i++)
    n += snprintf(out + n, (size_t)(96 - n), "%s%lld", i ? "×" : "", (long long)t->shape[i]);
  if (!t->ndim) snprintf(out, 96, "a scalar");
}

static bool dtype_ok(const lc_model *m, const lc_tensor_decl *d, lc_dtype t) {
  if (t == LC_F32 || t == LC_F16 || t == LC_BF16) return true;
  return m->is_gguf && d->ndim == 2 && (t == LC_Q4_0 || t == LC_Q4_1 || t == LC_Q8_0);
}

static lc_status check_tensor(const lc_model *m, const lc_tensor_decl *d, const char *stored,
                              const lc_tensor *t) {
  lc_tensor_decl straight = *d;
  straight.transposed &= !m->is_gguf;
  lc_tensor want = {0};
  want.ndim = lc_decl_shape(&straight, want.shape);
  char expected[96], found[96];
  shape_text(expected, &want);
  if (!t) return lc_fail(m->ctx, "%s: tensor '%s' (%s) is missing", file_of(m, t), stored, expected);
  shape_text(found, t);
  bool same = t->ndim == want.ndim;
  for (int i = 0; same && i < t->ndim; i++) same = t->shape[i] == want.shape[i];
  if (!same)
    return lc_fail(m->ctx, "%s: tensor '%s': %s expected, %s found", file_of(m, t), stored, expected, found);
  if (!dtype_ok(m, d, t->dtype))
    return lc_fail(m->ctx, "%s: tensor '%s' has dtype %s, which is not supported here", file_of(m, t), stored,
                   lc_dtype_get(t->dtype)->name);
  return LC_OK;
}

/* llama.cpp stores row p·D/2+j of a head (p = 0, 1) as row 2j+p. */
static int32_t *head_map(lc_ctx *ctx, int64_t heads, int64_t D) {
  int32_t *map = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(heads * D), sizeof *map);
  for (int64_t r = 0; map && r < heads * D; r++) {
    int64_t h = r / D, i = r % D, p = i / (D / 2), j = i % (D / 2);
    map[r] = (int32_t)(h * D + 2 * j + p);
  }
  return map;
}

static lc_status map_rows(lc_model *m, int i) {
  const lc_tensor_decl *d = &m->decl[i];
  if (!m->is_gguf || !d->permuted_heads) return LC_OK;
  int which = d->permuted_heads == m->config.H ? 0 : 1;
  if (!m->maps[which]) m->maps[which] = head_map(m->ctx, d->permuted_heads, m->config.D);
  m->row_map[i] = m->maps[which];
  return m->maps[which] ? LC_OK : LC_FAILED;
}

/* A configuration may say "tied" of a file that holds two different tensors (training untied them):
 * transformers 5 believes the file. */
static void untie(lc_model *m) {
  lc_tensor_decl embedding = {.name = (char *)m->config.family->head(&m->config)};
  const char *stored;
  size_t bytes;
  if (m->is_gguf || !m->config.tied || m->config.task != LC_TASK_LM) return;
  const lc_tensor *head = lc_safetensors_find(&m->st, "lm_head.weight"), *e = find(m, &embedding, &stored);
  if (!head || !e || head->ndim != 2 || e->ndim != 2 || head->shape[0] != e->shape[0] ||
      head->shape[1] != e->shape[1])
    return;
  if (head->dtype == e->dtype && lc_dtype_bytes(e->dtype, lc_tensor_count(e), &bytes) &&
      !memcmp(head->data, e->data, bytes))
    return;
  lc_log(m->ctx, LC_LOG_WARN,
         "%s: 'tie_word_embeddings' is true, but 'lm_head.weight' differs from '%s': read as untied", m->path,
         stored);
  m->config.tied = false;
  json_object_set_new(m->config.json, "tie_word_embeddings", json_false());
}

/* A tensor that the file lacks, or that is to be new whatever the file has. */
static lc_status draw(lc_model *m, int i, uint64_t seed) {
  lc_tensor_decl *d = &m->decl[i];
  LC_TRY(lc_head_draw(m->ctx, d, seed, &m->drawn[i]));
  m->src[i] = (lc_tensor){.dtype = LC_F32, .ndim = d->ndim, .shape = {d->M, d->N}, .data = m->drawn[i]};
  if (d->ndim == 1) m->src[i].shape[0] = d->N;
  d->head = true;
  return LC_OK;
}

static void forget(lc_model *m, int i) {
  lc_free(m->ctx, m->decl[i].name);
  lc_free(m->ctx, m->decl[i].gguf);
  memmove(&m->decl[i], &m->decl[i + 1], (size_t)(m->n - i - 1) * sizeof *m->decl);
  m->n--;
}

static lc_status find_tensors(lc_model *m, const lc_head_opts *o, bool *used) {
  lc_decls d = {.ctx = m->ctx};
  m->config.family->tensors(&m->config, &d);
  m->decl = d.decl;
  m->n = d.n;
  LC_TRY(d.st);
  m->src = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *m->src);
  m->row_map = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *m->row_map);
  m->drawn = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *m->drawn);
  if (!m->src || !m->row_map || !m->drawn) return LC_FAILED;
  const lc_named_tensor *all = m->is_gguf ? m->gguf.tensor : m->st.tensor;
  for (int i = 0; i < m->n; i++) {
    const char *stored = m->decl[i].name;
    const lc_tensor *t = find(m, &m->decl[i], &stored);
    if (!t && m->decl[i].optional) {
      forget(m, i--);
      continue;
    }
    if (o && o->task != LC_TASK_OWN && m->decl[i].may_be_new && (!t || (o->fresh && m->decl[i].head))) {
      LC_TRY(draw(m, i, o->seed));
      continue;
    }
    LC_TRY(check_tensor(m, &m->decl[i], stored, t));
    m->src[i] = *t;
    if (m->decl[i].stored_ndim) { /* the same values as a matrix */
      m->src[i].ndim = 2;
      m->src[i].shape[0] = m->decl[i].M;
      m->src[i].shape[1] = m->decl[i].N;
    }
    used[(const lc_named_tensor *)((const char *)t - offsetof(lc_named_tensor, t)) - all] = true;
    LC_TRY(map_rows(m, i));
  }
  return LC_OK;
}

/* Buffers that other programs saved beside the weights, and the head's copy of a tied embedding. */
static bool of_no_use(const lc_model *m, const char *name) {
  static const char *const suffixes[] = {".rotary_emb.inv_freq",    ".attn.bias",
                                         ".attn.masked_bias",       "rope_freqs.weight",
                                         "embeddings.position_ids", "embeddings.token_type_ids"};
  static const char *const other_heads[] = {"lm_head.", "cls.",        "classifier.",
                                            "score.",   "qa_outputs.", "pooler."};
  if (m->config.tied && !strcmp(name, "lm_head.weight")) return true;
  for (size_t i = 0; m->config.task != LC_TASK_LM && i < sizeof other_heads / sizeof *other_heads; i++) {
    size_t n = strlen(m->config.family->prefix), k = strlen(other_heads[i]);
    if (!strncmp(name, other_heads[i], k)) return true;
    if (!strncmp(name, m->config.family->prefix, n) && !strncmp(name + n, other_heads[i], k)) return true;
  }
  for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
    size_t n = strlen(name), k = strlen(suffixes[i]);
    if (n >= k && !strcmp(name + n - k, suffixes[i])) return true;
  }
  return false;
}

static lc_status resolve(lc_model *m, const lc_head_opts *o) {
  int n = m->is_gguf ? m->gguf.n : m->st.n;
  const lc_named_tensor *all = m->is_gguf ? m->gguf.tensor : m->st.tensor;
  bool *used = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)n, sizeof *used);
  untie(m);
  lc_status st = used ? find_tensors(m, o, used) : LC_FAILED;
  for (int i = 0; !st && i < n; i++)
    if (!used[i] && !of_no_use(m, all[i].name))
      lc_log(m->ctx, LC_LOG_WARN, "%s: tensor '%s' is not part of a %s: ignored", file_of(m, &all[i].t),
             all[i].name, lc_architecture(&m->config));
  lc_free(m->ctx, used);
  return st;
}

/* ---- identity ---- */

static int by_id(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Random numbers are keyed by the FNV-1a hash of a tensor's name: two names with one hash would share them.
 */
static lc_status check_ids(lc_model *m) {
  uint64_t *id = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *id);
  if (!id) return LC_FAILED;
  lc_status st = LC_OK;
  for (int i = 0; i < m->n; i++) id[i] = (uint64_t)lc_fnv1a32(m->decl[i].name) << 32 | (uint32_t)i;
  qsort(id, (size_t)m->n, sizeof *id, by_id);
  for (int i = 1; i < m->n && !st; i++)
    if (id[i] >> 32 == id[i - 1] >> 32)
      st = lc_fail(m->ctx, "%s: the names '%s' and '%s' have the same hash", m->path,
                   m->decl[(uint32_t)id[i - 1]].name, m->decl[(uint32_t)id[i]].name);
  lc_free(m->ctx, id);
  return st;
}

static uint64_t mix(uint64_t h, const void *data, size_t n) { /* FNV-1a, 64 bits */
  const uint8_t *p = data;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

/* Numbers of the configuration, the table of tensors (HF names), and up to four samples of 256 bytes of each.
 */
static uint64_t fingerprint(const lc_model *m) {
  const lc_config *c = &m->config;
  int64_t numbers[] = {c->C,
                       c->L,
                       c->H,
                       c->G,
                       c->D,
                       c->F,
                       c->V,
                       c->tied,
                       (int64_t)(c->rope.theta * 16),
                       (int64_t)c->rope.type,
                       (int64_t)(c->rope.factor * 1024),
                       (int64_t)(c->norm_eps * 1e12f)};
  const char *family = c->family->architectures[0].name;
  uint64_t h = mix(0xcbf29ce484222325u, family, strlen(family));
  h = mix(h, numbers, sizeof numbers);
  for (int i = 0; i < m->n; i++) {
    const lc_tensor *t = &m->src[i];
    size_t bytes;
    if (m->decl[i].head) continue; /* a classifier does not make another base */
    h = mix(h, m->decl[i].name, strlen(m->decl[i].name) + 1);
    h = mix(h, t->shape, (size_t)t->ndim * sizeof *t->shape);
    h = mix(h, lc_dtype_get(t->dtype)->name, strlen(lc_dtype_get(t->dtype)->name));
    if (!lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes)) continue;
    size_t piece = bytes < 256 ? bytes : 256;
    for (size_t k = 0; k < 4; k++) h = mix(h, (const uint8_t *)t->data + (bytes - piece) / 3 * k, piece);
  }
  return h;
}

/* ---- open and close ---- */

lc_status lc_model_open(lc_ctx *ctx, const char *path, lc_model **out) {
  return lc_model_open_for(ctx, path, NULL, out);
}

lc_status lc_model_open_for(lc_ctx *ctx, const char *path, const lc_head_opts *o, lc_model **out) {
  *out = NULL;
  lc_model *m = lc_alloc(ctx, LC_MEM_OTHER, sizeof *m);
  if (!m) return LC_FAILED;
  m->ctx = ctx;
  m->config.bos = m->config.eos = m->config.pad = -1;
  m->path = lc_strdup(ctx, path);
  lc_status st = m->path ? LC_OK : LC_FAILED;
  size_t n = strlen(path);
  if (st) goto done;
  if (lc_path_is_dir(path))
    st = open_hf(m, o);
  else if (!lc_path_exists(path))
    st = lc_fail(ctx, "%s: no such file or directory", path);
  else if (n >= 12 && !strcmp(path + n - 12, ".safetensors"))
    st = lc_fail(ctx, "%s: a model is a GGUF file or the directory that holds config.json and safetensors",
                 path);
  else
    st = open_gguf(m, o);
  if (st) goto done;
  LC_GO(resolve(m, o));
  LC_GO(check_ids(m));
  m->fingerprint = fingerprint(m);
  *out = m;
done:
  if (st) lc_model_close(m);
  return st;
}

void lc_model_close(lc_model *m) {
  if (!m) return;
  lc_ctx *ctx = m->ctx;
  for (int i = 0; i < m->n; i++) {
    lc_free(ctx, m->decl[i].name);
    lc_free(ctx, m->decl[i].gguf);
  }
  lc_free(ctx, m->decl);
  lc_free(ctx, m->src);
  lc_free(ctx, m->row_map);
  for (int i = 0; m->drawn && i < m->n; i++) lc_free(ctx, m->drawn[i]);
  lc_free(ctx, m->drawn);
  for (int i = 0; i < 2; i++) lc_free(ctx, m->maps[i]);
  if (m->config.json) json_decref(m->config.json);
  if (m->is_gguf)
    lc_gguf_close(ctx, &m->gguf);
  else
    lc_safetensors_close(ctx, &m->st);
  lc_free(ctx, m->path);
  lc_free(ctx, m);
}

lc_status lc_model_tokenizer(const lc_model *m, lc_tokenizer **out) {
  return m->is_gguf ? lc_tokenizer_from_gguf(m->ctx, &m->gguf, m->path, out)
                    : lc_tokenizer_from_dir(m->ctx, m->path, out);
}

void lc_model_forget(const lc_model *m, const lc_tensor *t) {
  size_t bytes;
  if (!lc_dtype_bytes(t->dtype, lc_tensor_count(t), &bytes)) return;
  lc_map_forget(&m->gguf.map, t->data, bytes); /* each does nothing about memory that is not its own */
  for (int i = 0; i < m->st.n_map; i++) lc_map_forget(&m->st.map[i], t->data, bytes);
}

int64_t lc_model_parameters(const lc_model *m) {
  int64_t n = 0;
  for (int i = 0; i < m->n; i++) n += m->decl[i].M * m->decl[i].N;
  return n;
}
