/* Stands in for the library's ways to open a file (the linker's --wrap). A "mapping" is a block of the heap
 * of exactly the file's size at a page's boundary: a real mapping goes on to the end of its last page, and a
 * read past the file's end would not be seen. */
#include "fuzz.h"

static struct {
  const char *name;
  const void *data;
  size_t n;
} file[8];
static int n_files;

void fuzz_no_files(void) {
  n_files = 0;
}

void fuzz_file(const char *name, const void *data, size_t n) {
  FUZZ_CHECK(n_files < 8);
  file[n_files].name = name;
  file[n_files].data = data;
  file[n_files++].n = n;
}

static int find(const char *path) {
  for (int i = 0; i < n_files; i++) {
    size_t n = strlen(path), m = strlen(file[i].name);
    if (n >= m && !strcmp(path + n - m, file[i].name)) return i;
  }
  return -1;
}

lc_status __wrap_lc_map_open(lc_ctx *ctx, const char *path, lc_map *m);
void __wrap_lc_map_close(lc_ctx *ctx, lc_map *m);
lc_status __wrap_lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size);

lc_status __wrap_lc_map_open(lc_ctx *ctx, const char *path, lc_map *m) {
  int i = find(path);
  *m = (lc_map){0};
  if (i < 0) return lc_fail(ctx, "%s: no such file", path);
  if (!file[i].n) return lc_fail(ctx, "%s: the file is empty", path);
  char *copy = lc_strdup(ctx, path);
  if (!copy) return LC_FAILED;
  FUZZ_CHECK(!posix_memalign(&m->priv, 4096, file[i].n));
  memcpy(m->priv, file[i].data, file[i].n);
  m->data = m->priv;
  m->size = file[i].n;
  m->path = copy;
  return LC_OK;
}

void __wrap_lc_map_close(lc_ctx *ctx, lc_map *m) {
  free(m->priv);
  lc_free(ctx, m->path);
  *m = (lc_map){0};
}

lc_status __wrap_lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size) {
  int i = find(path);
  *data = NULL;
  if (i < 0) return lc_fail(ctx, "%s: no such file", path);
  if (file[i].n > max) return lc_fail(ctx, "%s: longer than %zu bytes", path, max);
  *data = lc_alloc(ctx, LC_MEM_OTHER, file[i].n + 1);
  if (!*data) return LC_FAILED;
  if (file[i].n) memcpy(*data, file[i].data, file[i].n);
  *size = file[i].n;
  return LC_OK;
}
