/* Opens a sharded model: model.safetensors.index.json maps each tensor ("weight_map") to the file beside it
 * that holds it.
 *
 * The index is only a table of contents, so it must agree with the shards: a tensor it names that its shard
 * lacks is an error. A tensor that a shard holds and the index does not name is left out, with a warning. A
 * shard's name is a name, never a path, so that an index cannot reach outside its directory. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "io/io.h"
#include "io/sentence.h"

typedef struct {
  const char *name, *shard;
} entry; /* borrowed from the JSON tree */

static int by_shard(const void *a, const void *b) {
  const entry *x = a, *y = b;
  int c = strcmp(x->shard, y->shard);
  return c ? c : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const lc_named_tensor *)a)->name, ((const lc_named_tensor *)b)->name);
}

static bool plain_name(const char *s) {
  if (!*s || *s == '.' || strstr(s, "..")) return false;
  for (; *s; s++)
    if (*s == '/' || *s == '\\' || (unsigned char)*s < 0x20) return false;
  return true;
}

/* The entries sorted by shard, *n of them. */
static lc_status read_entries(lc_ctx *ctx, const char *path, const json_t *index, entry **out, int *n) {
  json_t *map = json_object_get(index, "weight_map");
  if (!json_is_object(map)) return lc_fail(ctx, "%s: no object 'weight_map'", path);
  size_t size = json_object_size(map);
  if (!size || size > INT_MAX)
    return lc_fail(ctx, "%s: 'weight_map' names %s tensors", path, lc_commas(size).s);
  entry *e = *out = lc_alloc_n(ctx, LC_MEM_OTHER, size, sizeof *e);
  if (!e) return LC_FAILED;
  const char *name;
  json_t *shard;
  json_object_foreach(map, name, shard) {
    const char *file = json_string_value(shard);
    if (!file) return lc_fail(ctx, "%s: tensor '%s': its shard is not a string", path, lc_shown(name).s);
    if (!plain_name(file))
      return lc_fail(ctx, "%s: tensor '%s': shard '%s' is not the name of a file in the same directory", path,
                     lc_shown(name).s, lc_shown(file).s);
    e[(*n)++] = (entry){name, file};
  }
  qsort(e, size, sizeof *e, by_shard);
  return LC_OK;
}

/* Moves the tensors that e[0..n) name, all of one shard, with that shard's mapping and copies, into f. */
static lc_status join_shard(lc_ctx *ctx, const char *path, const char *dir, const entry *e, int n,
                            lc_safetensors *f) {
  lc_safetensors s = {0};
  lc_status st = LC_FAILED;
  void **copy = NULL;
  char *shard = lc_path_join(ctx, dir, e->shard);
  if (!shard) goto done;
  LC_GO(lc_safetensors_open(ctx, shard, &s));
  for (int i = 0; i < n; i++) {
    const lc_tensor *t = lc_safetensors_find(&s, e[i].name);
    if (!t) {
      st = lc_fail(ctx, "%s: tensor '%s': shard '%s' does not hold it", path, lc_shown(e[i].name).s,
                   lc_shown(e->shard).s);
      goto done;
    }
    f->tensor[f->n].t = *t;
    f->tensor[f->n].name = lc_strdup(ctx, e[i].name);
    st = f->tensor[f->n].name ? LC_OK : LC_FAILED;
    if (st) goto done;
    f->n++;
  }
  if (s.n > n)
    lc_log(ctx, LC_LOG_WARN, "%s: %d tensors of '%s' are not named and left out", path, s.n - n, e->shard);
  if (s.n_copy) {
    st = LC_FAILED;
    copy = lc_realloc(ctx, LC_MEM_OTHER, f->copy, ((size_t)f->n_copy + (size_t)s.n_copy) * sizeof *copy);
    if (!copy) goto done;
    memcpy(copy + f->n_copy, s.copy, (size_t)s.n_copy * sizeof *copy);
    f->copy = copy;
    f->n_copy += s.n_copy;
    s.n_copy = 0;
  }
  f->map[f->n_map++] = s.map[0];
  s.n_map = 0;
  if (f->n_map == 1) {
    f->meta_key = s.meta_key;
    f->meta_value = s.meta_value;
    f->n_meta = s.n_meta;
    s.meta_key = s.meta_value = NULL;
    s.n_meta = 0;
  }
  st = LC_OK;
done:
  lc_safetensors_close(ctx, &s);
  lc_free(ctx, shard);
  return st;
}

lc_status lc_safetensors_open_index(lc_ctx *ctx, const char *path, lc_safetensors *out) {
  lc_safetensors f = {0};
  json_t *index = NULL;
  entry *e = NULL;
  int n = 0, shards = 0;
  char *dir = NULL, *slash;
  lc_status st;
  *out = f;
  LC_GO(lc_json_read(ctx, path, &index));
  LC_GO(read_entries(ctx, path, index, &e, &n));
  for (int i = 0; i < n; i++) shards += i == 0 || strcmp(e[i].shard, e[i - 1].shard) != 0;
  st = LC_FAILED;
  f.map = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)shards, sizeof *f.map);
  f.tensor = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *f.tensor);
  slash = strrchr(path, '/');
  dir = lc_strdup(ctx, slash ? path : ".");
  if (!f.map || !f.tensor || !dir) goto done;
  if (slash) dir[slash == path ? 1 : slash - path] = 0;
  for (int i = 0, end; i < n; i = end) {
    for (end = i + 1; end < n && !strcmp(e[end].shard, e[i].shard);) end++;
    LC_GO(join_shard(ctx, path, dir, e + i, end - i, &f));
  }
  qsort(f.tensor, (size_t)f.n, sizeof *f.tensor, by_name);
  *out = f;
  st = LC_OK;
done:
  json_decref(index);
  lc_free(ctx, e);
  lc_free(ctx, dir);
  if (st) lc_safetensors_close(ctx, &f);
  return st;
}
