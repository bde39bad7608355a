#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "support/io_support.h"

static void die(const char *what) {
  perror(what);
  abort();
}

void t_add(t_bytes *b, const void *data, size_t n) {
  if (b->n + n > b->room) {
    b->room = 2 * (b->n + n) + 64;
    b->data = realloc(b->data, b->room);
    if (!b->data) die("realloc");
  }
  if (n) memcpy(b->data + b->n, data, n);
  b->n += n;
}
void t_u32(t_bytes *b, uint32_t x) {
  t_add(b, &x, sizeof x);
}
void t_u64(t_bytes *b, uint64_t x) {
  t_add(b, &x, sizeof x);
}
void t_text(t_bytes *b, const char *s) {
  t_add(b, s, strlen(s));
}
void t_str(t_bytes *b, const char *s) {
  t_u64(b, strlen(s));
  t_text(b, s);
}
void t_zeros(t_bytes *b, size_t n) {
  for (size_t i = 0; i < n; i++) t_add(b, "", 1);
}
void t_free(t_bytes *b) {
  free(b->data);
  *b = (t_bytes){0};
}

static char dir[256];

const char *t_dir(void) {
  const char *base = getenv("TMPDIR");
  snprintf(dir, sizeof dir, "%s/lacuna-test-XXXXXX", base && *base && strlen(base) < 200 ? base : "/tmp");
  if (!mkdtemp(dir)) die(dir);
  return dir;
}

const char *t_path(const char *name) {
  static char path[4][512];
  static int turn;
  char *p = path[turn++ % 4];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

/* Counts the files; removes them too when asked. */
static int walk(bool unlink_too) {
  DIR *d = opendir(dir);
  if (!d) die(dir);
  int n = 0;
  for (struct dirent *e; (e = readdir(d));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    n++;
    if (unlink_too && unlink(t_path(e->d_name))) die(e->d_name);
  }
  closedir(d);
  return n;
}

int t_dir_entries(void) {
  return walk(false);
}
void t_dir_remove(void) {
  walk(true);
  if (rmdir(dir)) die(dir);
}

void t_put(const char *path, const void *data, size_t n) {
  FILE *f = fopen(path, "wb");
  if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f)) die(path);
}

t_bytes t_get(const char *path) {
  t_bytes b = {0};
  FILE *f = fopen(path, "rb");
  if (!f) die(path);
  char piece[4096];
  for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) t_add(&b, piece, n);
  fclose(f);
  return b;
}

size_t t_memory(const lc_ctx *ctx) {
  size_t n = 0;
  for (int c = 0; c < LC_MEM_COUNT; c++) n += lc_mem_bytes(ctx, (lc_mem)c);
  return n;
}

uint64_t t_sum(const void *data, size_t n) {
  const uint8_t *p = data;
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += p[i];
  return sum;
}

uint32_t t_random(uint32_t *x) {
  *x ^= *x << 13;
  *x ^= *x >> 17;
  *x ^= *x << 5;
  return *x;
}
