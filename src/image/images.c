/* Labelled pictures: a folder for each label, or an IDX file and its labels. Folders are listed once, sorted; pictures
 * are decoded when asked for. */
#include "image/image.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Visible entries of a directory, sorted, as joined paths; directories only, or files only. */
static lc_status list(lc_ctx *ctx, const char *dir, bool folders, char ***out, int64_t *n) {
  lc_status st = LC_OK;
  *out = NULL;
  *n = 0;
  DIR *d = opendir(dir);
  if (!d) return lc_fail(ctx, "%s: cannot be opened: %s", dir, strerror(errno));
  for (struct dirent *e; (e = readdir(d));) {
    if (e->d_name[0] == '.') continue;
    char *path = lc_path_join(ctx, dir, e->d_name);
    if (!path) LC_GO(LC_FAILED);
    if (lc_path_is_dir(path) != folders) {
      lc_free(ctx, path);
      continue;
    }
    char **grown = lc_realloc(ctx, LC_MEM_OTHER, *out, (size_t)(*n + 1) * sizeof *grown);
    if (!grown) {
      lc_free(ctx, path);
      LC_GO(LC_FAILED);
    }
    *out = grown;
    grown[(*n)++] = path;
  }
  if (*n) qsort(*out, (size_t)*n, sizeof **out, by_name);
done:
  closedir(d);
  return st;
}

static void free_list(lc_ctx *ctx, char **s, int64_t n) {
  for (int64_t i = 0; i < n; i++) lc_free(ctx, s[i]);
  lc_free(ctx, s);
}

static lc_status add_label(lc_images *im, const char *name) {
  char **grown = lc_realloc(im->ctx, LC_MEM_OTHER, im->name, (size_t)(im->n_names + 1) * sizeof *grown);
  if (!grown) return LC_FAILED;
  im->name = grown;
  im->name[im->n_names] = lc_strdup(im->ctx, name);
  return im->name[im->n_names] ? (im->n_names++, LC_OK) : LC_FAILED;
}

/* Takes the paths over. */
static lc_status add_files(lc_images *im, char **file, int64_t n, int32_t label) {
  char **files = lc_realloc(im->ctx, LC_MEM_OTHER, im->file, (size_t)(im->n + n) * sizeof *files);
  if (files) im->file = files;
  int32_t *labels = lc_realloc(im->ctx, LC_MEM_OTHER, im->label, (size_t)(im->n + n) * sizeof *labels);
  if (labels) im->label = labels;
  if (!files || !labels) {
    free_list(im->ctx, file, n);
    return LC_FAILED;
  }
  for (int64_t i = 0; i < n; i++) {
    files[im->n + i] = file[i];
    labels[im->n + i] = label;
  }
  im->n += n;
  lc_free(im->ctx, file);
  return LC_OK;
}

static lc_status open_folder(lc_images *im) {
  char **dir, **file;
  int64_t n, k;
  lc_status st = list(im->ctx, im->path, true, &dir, &n);
  for (int64_t l = 0; l < n && !st; l++) {
    st = add_label(im, strrchr(dir[l], '/') + 1);
    if (!st && (st = list(im->ctx, dir[l], false, &file, &k))) free_list(im->ctx, file, k);
    if (!st) st = add_files(im, file, k, (int32_t)l);
  }
  free_list(im->ctx, dir, n);
  if (!st && !im->n)
    return lc_fail(im->ctx, "%s: no pictures: a folder for each label is expected", im->path);
  return st;
}

/* "train-images-idx3-ubyte.gz" -> "train-labels-idx1-ubyte.gz" */
static char *labels_path(lc_ctx *ctx, const char *path) {
  const char *name = strrchr(path, '/'), *at = strstr(name ? name : path, "images-idx3");
  return at ? lc_format(ctx, "%.*slabels-idx1%s", (int)(at - path), path, at + strlen("images-idx3")) : NULL;
}

static lc_status open_idx(lc_images *im) {
  int nd;
  int64_t size[4], sizes[4];
  uint8_t *label = NULL;
  lc_status st = LC_OK;
  char *path = labels_path(im->ctx, im->path), digits[8];
  if (!path)
    return lc_fail(im->ctx,
                   "%s: neither a folder nor named …images-idx3…, so that its labels are …labels-idx1…",
                   im->path);
  LC_GO(lc_idx_read(im->ctx, im->path, &nd, size, &im->pixels));
  if (nd != 3 || size[1] > LC_IMAGE_SIDE || size[2] > LC_IMAGE_SIDE)
    LC_GO(lc_fail(im->ctx, "%s: no pictures: %d sizes", im->path, nd));
  LC_GO(lc_idx_read(im->ctx, path, &nd, sizes, &label));
  if (nd != 1 || sizes[0] != size[0])
    LC_GO(
        lc_fail(im->ctx, "%s: %lld labels for %lld pictures", path, (long long)sizes[0], (long long)size[0]));
  im->label = lc_alloc_n(im->ctx, LC_MEM_OTHER, (size_t)size[0], sizeof *im->label);
  if (!im->label) LC_GO(LC_FAILED);
  int most = 0;
  for (int64_t i = 0; i < size[0]; i++) {
    im->label[i] = label[i];
    if (label[i] > most) most = label[i];
  }
  for (int l = 0; l <= most && !st; l++) {
    snprintf(digits, sizeof digits, "%d", l);
    st = add_label(im, digits);
  }
  im->n = size[0];
  im->height = size[1];
  im->width = size[2];
done:
  lc_free(im->ctx, label);
  lc_free(im->ctx, path);
  return st;
}

lc_status lc_images_open(lc_ctx *ctx, const char *path, lc_images *im) {
  *im = (lc_images){.ctx = ctx, .path = lc_strdup(ctx, path)};
  lc_status st = !im->path ? LC_FAILED : lc_path_is_dir(path) ? open_folder(im) : open_idx(im);
  if (st) lc_images_close(im);
  return st;
}

void lc_images_close(lc_images *im) {
  free_list(im->ctx, im->file, im->file ? im->n : 0);
  free_list(im->ctx, im->name, im->n_names);
  lc_free(im->ctx, im->label);
  lc_free(im->ctx, im->pixels);
  lc_free(im->ctx, im->path);
  *im = (lc_images){.ctx = im->ctx};
}

lc_status lc_images_get(const lc_images *im, int64_t i, lc_image *out) {
  if (im->file) return lc_image_read(im->ctx, im->file[i], out);
  const int64_t n = im->height * im->width;
  *out = (lc_image){im->width, im->height, lc_alloc_n(im->ctx, LC_MEM_OTHER, (size_t)n, 3)};
  if (!out->rgb) return LC_FAILED;
  for (int64_t k = 0; k < n; k++) memset(out->rgb + 3 * k, im->pixels[i * n + k], 3);
  return LC_OK;
}
