/* Files: read-only mappings, whole reads, and outputs that are whole or absent: written under a temporary
 * name, flushed, renamed, directory flushed. */
#define _GNU_SOURCE /* renameat2 */
#include "core/core.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

lc_status lc_map_open(lc_ctx *ctx, const char *path, lc_map *m) {
  *m = (lc_map){0};
  lc_status st = LC_FAILED;
  struct stat s;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return lc_fail(ctx, "%s: %s", path, strerror(errno));
  if (fstat(fd, &s))
    lc_fail(ctx, "%s: %s", path, strerror(errno));
  else if (!S_ISREG(s.st_mode))
    lc_fail(ctx, "%s: not a regular file", path);
  else if (s.st_size == 0)
    lc_fail(ctx, "%s: the file is empty", path);
  else {
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
      lc_fail(ctx, "%s: cannot be mapped: %s", path, strerror(errno));
    else if (!(m->path = lc_strdup(ctx, path)))
      munmap(p, (size_t)s.st_size);
    else {
      m->data = m->priv = p;
      m->size = (size_t)s.st_size;
      st = LC_OK;
    }
  }
  close(fd);
  return st;
}

void lc_map_close(lc_ctx *ctx, lc_map *m) {
  if (m->priv) munmap(m->priv, m->size);
  lc_free(ctx, m->path);
  *m = (lc_map){0};
}

void lc_map_forget(const lc_map *m, const void *from, size_t n) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)from, begin = (uintptr_t)m->data;
  if (!m->priv || at < begin || n > m->size || at - begin > m->size - n) return;
  const uintptr_t first = (at + page - 1) / page * page, end = (at + n) / page * page;
  if (end > first) madvise((uint8_t *)m->priv + (first - begin), end - first, MADV_DONTNEED);
}

lc_status lc_read_file(lc_ctx *ctx, const char *path, size_t max, char **data, size_t *size) {
  *data = NULL;
  FILE *f = fopen(path, "rb");
  if (!f) return lc_fail(ctx, "%s: %s", path, strerror(errno));
  size_t cap = 1 << 16, n = 0;
  char *buf = lc_alloc(ctx, LC_MEM_OTHER, cap);
  lc_status st = buf ? LC_OK : LC_FAILED;
  while (!st) {
    size_t got = fread(buf + n, 1, cap - 1 - n, f);
    n += got;
    if (n > max)
      st = lc_fail(ctx, "%s: longer than %zu bytes", path, max);
    else if (!got) {
      if (ferror(f)) st = lc_fail(ctx, "%s: %s", path, strerror(errno));
      break;
    } else if (n == cap - 1) {
      char *grown = lc_realloc(ctx, LC_MEM_OTHER, buf, cap *= 2);
      if (!grown)
        st = LC_FAILED;
      else
        buf = grown;
    }
  }
  fclose(f);
  if (st) {
    lc_free(ctx, buf);
    return st;
  }
  buf[n] = 0;
  *data = buf;
  if (size) *size = n;
  return LC_OK;
}

/* ---- outputs ---- */

static lc_status flush_parent(lc_ctx *ctx, const char *path) {
  char *dir = lc_strdup(ctx, path);
  if (!dir) return LC_FAILED;
  char *slash = strrchr(dir, '/');
  if (slash) slash[slash == dir] = 0;
  int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  lc_status st = LC_OK;
  /* A directory may be writable but not readable, and some file systems flush none. */
  if (fd < 0 ? errno != EACCES : fsync(fd) && errno != EINVAL)
    st = lc_fail(ctx, "%s: the directory cannot be flushed: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
  lc_free(ctx, dir);
  return st;
}

static void out_release(lc_out *o) {
  lc_ctx *ctx = o->ctx;
  if (!ctx) return;
  lc_free(ctx, o->path);
  lc_free(ctx, o->tmp);
  *o = (lc_out){0};
}

/* A name that nobody has: process numbers repeat (in containers at once), and what a crash left keeps its
 * name. */
static lc_status open_temporary(lc_out *o) {
  for (int i = 0; i < 1000; i++) {
    lc_free(o->ctx, o->tmp);
    if (!(o->tmp = lc_format(o->ctx, "%s.tmp-%ld-%d", o->path, (long)getpid(), i))) return LC_FAILED;
    if ((o->f = fopen(o->tmp, "wbx"))) return LC_OK;
    if (errno != EEXIST) break;
  }
  return lc_fail(o->ctx, "%s: cannot be written: %s", o->path, strerror(errno));
}

/* A device or a pipe (/dev/stdout, /dev/null) is written as it is: renaming would put a file in its place. */
static lc_status open_special(lc_out *o) {
  if ((o->f = fopen(o->path, "wb"))) return LC_OK;
  return lc_fail(o->ctx, "%s: cannot be written: %s", o->path, strerror(errno));
}

lc_status lc_out_open(lc_ctx *ctx, const char *path, lc_out *o) {
  struct stat s;
  *o = (lc_out){.ctx = ctx, .path = lc_strdup(ctx, path)};
  lc_status st = o->path ? LC_OK : LC_FAILED;
  if (!st && stat(path, &s)) s.st_mode = S_IFREG; /* absent: to be made */
  if (!st && S_ISDIR(s.st_mode)) st = lc_fail(ctx, "%s: cannot be written: it is a directory", path);
  if (!st) st = S_ISREG(s.st_mode) ? open_temporary(o) : open_special(o);
  if (st) out_release(o);
  return st;
}

lc_status lc_out_write(lc_out *o, const void *data, size_t n) {
  if (o->failed || !o->f) return LC_FAILED;
  if (!n || fwrite(data, 1, n, o->f) == n) return LC_OK;
  o->failed = true;
  return lc_fail(o->ctx, "%s: writing failed: %s", o->path, strerror(errno));
}

lc_status lc_out_printf(lc_out *o, const char *fmt, ...) {
  if (o->failed || !o->f) return LC_FAILED;
  va_list ap;
  va_start(ap, fmt);
  int n = vfprintf(o->f, fmt, ap);
  va_end(ap);
  if (n >= 0) return LC_OK;
  o->failed = true;
  return lc_fail(o->ctx, "%s: writing failed: %s", o->path, strerror(errno));
}

static lc_status move_into_place(lc_out *o) {
  if (rename(o->tmp, o->path))
    return lc_fail(o->ctx, "%s: cannot be renamed from %s: %s", o->path, o->tmp, strerror(errno));
  return flush_parent(o->ctx, o->path);
}

lc_status lc_out_commit(lc_out *o) {
  if (!o->f) return LC_FAILED;
  lc_status st = o->failed ? LC_FAILED : LC_OK;
  bool flushed =
      st || (!fflush(o->f) && (!fsync(fileno(o->f)) || !o->tmp)); /* devices and pipes do not flush */
  if (!flushed) st = lc_fail(o->ctx, "%s: writing failed: %s", o->path, strerror(errno));
  if (fclose(o->f) && !st) st = lc_fail(o->ctx, "%s: writing failed: %s", o->path, strerror(errno));
  o->f = NULL;
  if (!st && o->tmp) st = move_into_place(o);
  if (st && o->tmp) unlink(o->tmp); /* gone already when only the flush of the directory failed */
  out_release(o);
  return st;
}

void lc_out_abort(lc_out *o) {
  if (o->f) {
    fclose(o->f);
    if (o->tmp) unlink(o->tmp);
  }
  out_release(o);
}

lc_status lc_write_file(lc_ctx *ctx, const char *path, const void *data, size_t n) {
  lc_out o;
  LC_TRY(lc_out_open(ctx, path, &o));
  lc_out_write(&o, data, n);
  return lc_out_commit(&o);
}

/* ---- paths ---- */

bool lc_path_exists(const char *path) {
  return access(path, F_OK) == 0;
}

bool lc_path_is_dir(const char *path) {
  struct stat s;
  return !stat(path, &s) && S_ISDIR(s.st_mode);
}

char *lc_path_join(lc_ctx *ctx, const char *dir, const char *name) {
  size_t n = strlen(dir);
  return lc_format(ctx, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

lc_status lc_mkdirs(lc_ctx *ctx, const char *dir) {
  char *path = lc_strdup(ctx, dir);
  if (!path) return LC_FAILED;
  lc_status st = LC_OK;
  for (char *at = path + 1; !st; at++) {
    if (*at && *at != '/') continue;
    char was = *at;
    *at = 0;
    if (mkdir(path, 0777) && errno != EEXIST)
      st = lc_fail(ctx, "%s: the directory cannot be made: %s", path, strerror(errno));
    else if (!lc_path_is_dir(path))
      st = lc_fail(ctx, "%s: exists and is no directory", path);
    *at = was;
    if (!was) break;
  }
  lc_free(ctx, path);
  return st;
}

lc_status lc_remove_tree(lc_ctx *ctx, const char *dir) {
  struct stat s;
  if (lstat(dir, &s)) return errno == ENOENT ? LC_OK : lc_fail(ctx, "%s: %s", dir, strerror(errno));
  if (!S_ISDIR(s.st_mode))
    return unlink(dir) ? lc_fail(ctx, "%s: cannot be removed: %s", dir, strerror(errno)) : LC_OK;
  DIR *d = opendir(dir);
  if (!d) return lc_fail(ctx, "%s: %s", dir, strerror(errno));
  lc_status st = LC_OK;
  for (struct dirent *e; !st && (e = readdir(d));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    char *child = lc_path_join(ctx, dir, e->d_name);
    st = child ? lc_remove_tree(ctx, child) : LC_FAILED;
    lc_free(ctx, child);
  }
  closedir(d);
  if (!st && rmdir(dir)) st = lc_fail(ctx, "%s: cannot be removed: %s", dir, strerror(errno));
  return st;
}

static void flush_dir(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

lc_status lc_exchange_dirs(lc_ctx *ctx, const char *a, const char *b, bool *can) {
  flush_dir(a);
  *can = renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0;
  if (*can) return flush_parent(ctx, b);
  return errno == EINVAL || errno == ENOSYS
             ? LC_OK
             : lc_fail(ctx, "%s: cannot be exchanged with %s: %s", a, b, strerror(errno));
}

lc_status lc_rename_dir(lc_ctx *ctx, const char *from, const char *to) {
  flush_dir(from);
  if (rename(from, to)) return lc_fail(ctx, "%s: cannot be renamed to %s: %s", from, to, strerror(errno));
  return flush_parent(ctx, to);
}

lc_status lc_copy_file(lc_ctx *ctx, const char *from, const char *to) {
  FILE *f = fopen(from, "rb");
  if (!f) return lc_fail(ctx, "%s: %s", from, strerror(errno));
  lc_out o;
  lc_status st = lc_out_open(ctx, to, &o);
  char buf[1 << 14];
  for (size_t n; !st && (n = fread(buf, 1, sizeof buf, f)) > 0;) st = lc_out_write(&o, buf, n);
  if (!st && ferror(f)) st = lc_fail(ctx, "%s: %s", from, strerror(errno));
  fclose(f);
  if (st) {
    lc_out_abort(&o);
    return st;
  }
  return lc_out_commit(&o);
}
