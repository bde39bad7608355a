/* Stands in for the library's ways to open a file (the linker's --wrap). A "mapping" is a block of the heap
 * of exactly the file's size at a page's boundary: a real mapping goes on to the end of its last page, and a
 * read past the file's end would not be seen. */
#include "fuzz.h"

enum { FILES = 16 };
static struct {
  const char *name;
  const void *data;
  size_t n;
  void *own; /* of a piece */
} file[FILES];
static int n_files;
static const char *disk;

void fuzz_on_disk(const char *dir) {
  disk = dir;
}

static bool on_disk(const char *path) {
  return disk && !strncmp(path, disk, strlen(disk));
}

void fuzz_no_files(void) {
  while (n_files) free(file[--n_files].own);
}

void fuzz_file(const char *name, const void *data, size_t n) {
  FUZZ_CHECK(n_files < FILES);
  file[n_files].name = name;
  file[n_files].data = data;
  file[n_files].own = NULL;
  file[n_files++].n = n;
}

static bool is_tensors(const char *name) {
  const size_t n = strlen(name), k = strlen(".safetensors");
  return n > k && !strcmp(name + n - k, ".safetensors");
}

static void piece(const char *name, const uint8_t *data, size_t n) {
  const uint8_t *zero = is_tensors(name) && n ? memchr(data, 0, n) : NULL;
  const uint64_t header = zero ? (size_t)(zero - data) : n;
  const size_t front = is_tensors(name) ? 8 : 0, data_n = zero ? n - (size_t)header - 1 : 0;
  uint8_t *own = malloc(front + (size_t)header + data_n + 1);
  FUZZ_CHECK(own);
  if (front) memcpy(own, &header, 8);
  if (header) memcpy(own + front, data, (size_t)header);
  if (data_n) memcpy(own + front + header, zero + 1, data_n);
  fuzz_file(name, own, front + (size_t)header + data_n);
  file[n_files - 1].own = own;
}

static size_t next_piece(const uint8_t *data, size_t n, size_t at) {
  while (at + 2 < n && (data[at] != 0xff || data[at + 1] != 0xfe)) at++;
  return at + 2 < n ? at : n;
}

void fuzz_pieces(const uint8_t *data, size_t n, const char *const *names, int n_names) {
  for (size_t at = next_piece(data, n, 0); at < n;) {
    const size_t end = next_piece(data, n, at + 3);
    const int k = data[at + 2] - 'A';
    bool served = k < 0 || k >= n_names;
    for (int i = 0; i < n_files && !served; i++) served = file[i].name == names[k];
    if (!served && n_files < FILES) piece(names[k], data + at + 3, end - at - 3);
    at = end;
  }
}

static int find(const char *path) {
  for (int i = 0; i < n_files; i++) {
    size_t n = strlen(path), m = strlen(file[i].name);
    if (n >= m && !strcmp(path + n - m, file[i].name)) return i;
  }
  return -1;
}

void fuzz_replace(const char *name, void *data, size_t n) {
  const int i = find(name);
  FUZZ_CHECK(i >= 0);
  free(file[i].own);
  file[i].own = data;
  file[i].data = data;
  file[i].n = n;
}

lc_status __real_lc_map_open(lc_ctx *ctx, const char *path, lc_map *m);
void __real_lc_map_close(lc_ctx *ctx, lc_map *m);
lc_status __real_lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size);
bool __real_lc_path_exists(const char *path);
bool __real_lc_path_is_dir(const char *path);
lc_status __wrap_lc_map_open(lc_ctx *ctx, const char *path, lc_map *m);
void __wrap_lc_map_close(lc_ctx *ctx, lc_map *m);
lc_status __wrap_lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size);
bool __wrap_lc_path_exists(const char *path);
bool __wrap_lc_path_is_dir(const char *path);

bool __wrap_lc_path_exists(const char *path) {
  return on_disk(path) ? __real_lc_path_exists(path) : find(path) >= 0;
}

/* Of a file "/adapter/x" whatever ends in "/adapter" is one. */
bool __wrap_lc_path_is_dir(const char *path) {
  if (on_disk(path)) return __real_lc_path_is_dir(path);
  for (int i = 0; i < n_files; i++) {
    const char *slash = strrchr(file[i].name, '/');
    const size_t n = strlen(path), m = slash ? (size_t)(slash - file[i].name) : 0;
    if (m && n >= m && !strncmp(path + n - m, file[i].name, m)) return true;
  }
  return false;
}

lc_status __wrap_lc_map_open(lc_ctx *ctx, const char *path, lc_map *m) {
  int i = find(path);
  if (on_disk(path)) return __real_lc_map_open(ctx, path, m);
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
  if (m->path && on_disk(m->path)) {
    __real_lc_map_close(ctx, m);
    return;
  }
  free(m->priv);
  lc_free(ctx, m->path);
  *m = (lc_map){0};
}

lc_status __wrap_lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size) {
  int i = find(path);
  if (on_disk(path)) return __real_lc_read_file(ctx, path, max, data, size);
  *data = NULL;
  if (i < 0) return lc_fail(ctx, "%s: no such file", path);
  if (file[i].n > max) return lc_fail(ctx, "%s: longer than %zu bytes", path, max);
  *data = lc_alloc(ctx, LC_MEM_OTHER, file[i].n + 1);
  if (!*data) return LC_FAILED;
  if (file[i].n) memcpy(*data, file[i].data, file[i].n);
  *size = file[i].n;
  return LC_OK;
}
