/* Rows of a net that sees: a picture is a row of 1 + patches ids (0, then 1 for each patch) with its label at the first.
 * Pictures are decoded, resized and cut when a pass asks for them, on the workers: what stays in memory is the list of
 * files, or an IDX file's bytes. */
#include <string.h>
#include <zlib.h>
#include "image/image.h"
#include "train/internal.h"

typedef struct {
  lc_ctx *ctx;
  lc_images images;
  lc_image_processor processor;
  int64_t patch, channels, rows;
} pictures;

static lc_status patches(const void *self, int64_t i, int64_t width, float *dst) {
  const pictures *p = self;
  lc_image im;
  memset(dst, 0, (size_t)width * sizeof *dst);
  LC_TRY(lc_images_get(&p->images, i, &im));
  lc_status st = lc_image_patches(p->ctx, &p->processor, &im, p->patch, p->channels, dst + width);
  lc_free(p->ctx, im.rgb);
  return p->images.file ? lc_in_file(p->ctx, p->images.file[i], st) : st;
}

static void close_pictures(void *self) {
  pictures *p = self;
  lc_ctx *ctx = p->ctx;
  lc_images_close(&p->images);
  lc_free(ctx, p);
}

/* Names of folders among the head's labels; numbers of IDX files are the head's own. */
static lc_status match_labels(lc_ctx *ctx, lc_images *im, const lc_label_set *set) {
  int32_t *to = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)im->n_names, sizeof *to);
  lc_status st = to ? LC_OK : LC_FAILED;
  for (int l = 0; l < im->n_names && !st; l++) {
    to[l] = im->pixels && l < set->n ? l : -1;
    for (int64_t k = 0; k < set->n && !im->pixels; k++)
      if (set->name && !strcmp(set->name[k], im->name[l])) to[l] = (int32_t)k;
    if (to[l] < 0)
      st = lc_fail(ctx, "%s: label '%.60s' is none of the head's %lld", im->path, im->name[l],
                   (long long)set->n);
  }
  for (int64_t i = 0; i < im->n && !st; i++) im->label[i] = to[im->label[i]];
  lc_free(ctx, to);
  return st;
}

/* Of an IDX file its bytes, of a folder the names of its files. */
static uint32_t checksum(const lc_images *im) {
  uLong sum = crc32(0, Z_NULL, 0);
  if (im->pixels) sum = crc32_z(sum, im->pixels, (size_t)(im->n * im->height * im->width));
  for (int64_t i = 0; i < im->n && im->file; i++)
    sum = crc32_z(sum, (const Bytef *)im->file[i], strlen(im->file[i]) + 1);
  return (uint32_t)sum;
}

static lc_status open_pictures(lc_net *net, const char *path, const lc_label_set *labels, lc_dataset **out) {
  const lc_config *c = &net->model->config;
  lc_ctx *ctx = net->ctx;
  if (!labels)
    return lc_fail(ctx, "%s: a %s without labels has nothing to learn from pictures", path,
                   lc_architecture(c));
  pictures *p = lc_alloc(ctx, LC_MEM_OTHER, sizeof *p);
  if (!p) return LC_FAILED;
  *p = (pictures){.ctx = ctx, .patch = c->patch, .channels = c->channels};
  lc_status st = lc_image_processor_read(ctx, net->model->path, c->image, &p->processor);
  if (!st && (p->processor.width != c->image || p->processor.height != c->image))
    st = lc_fail(ctx, "%s: preprocessor_config.json makes pictures of %lld×%lld, the network takes %lld×%lld",
                 net->model->path, (long long)p->processor.width, (long long)p->processor.height,
                 (long long)c->image, (long long)c->image);
  if (!st) st = lc_images_open(ctx, path, &p->images);
  if (!st) st = match_labels(ctx, &p->images, labels);
  if (st) {
    if (p->images.ctx) lc_images_close(&p->images);
    lc_free(ctx, p);
    return st;
  }
  const lc_picture_source source = {
      .patches = patches, .close = close_pictures, .self = p, .checksum = checksum(&p->images)};
  return lc_data_of_pictures(ctx, p->images.label, p->images.n, c->context, &source, out);
}

lc_status lc_rows_open(lc_net *net, const lc_tokenizer *tok, const char *path, const lc_data_opts *opts,
                       lc_dataset **out) {
  *out = NULL;
  return net->model->config.image ? open_pictures(net, path, opts->labels, out)
                                  : lc_data_open(net->ctx, tok, path, opts, out);
}

lc_status lc_rows_labels(lc_ctx *ctx, const lc_config *c, const char *path, lc_label_names *out) {
  lc_images im;
  *out = (lc_label_names){0};
  if (!c->image) return lc_labels_scan(ctx, path, out);
  LC_TRY(lc_images_open(ctx, path, &im));
  out->n = im.n_names;
  if (!im.pixels) { /* taken over; those of an IDX file are numbers */
    out->name = im.name;
    im.name = NULL;
    im.n_names = 0;
  }
  lc_images_close(&im);
  return LC_OK;
}

/* ---- in a pass ---- */

typedef struct {
  lc_run *run;
  lc_val pixels;
  const lc_example *ex;
  int64_t n;
} fill_arg;

static lc_status fill_one(void *arg, int64_t i, int worker) {
  const fill_arg *a = arg;
  const lc_example *e = &a->ex[i % a->n];
  const int64_t width = lc_width(a->run, a->pixels);
  if (!e->pictures)
    return lc_fail(a->run->ctx, "the network takes pictures, and row %lld of the pass is none",
                   (long long)i + 1);
  return e->pictures->patches(e->pictures->self, e->picture, width,
                              (float *)lc_data(a->run, a->pixels) + a->run->seg[i].row0 * width);
}

lc_status lc_fill_pictures(lc_run *run, const lc_net_graph *g, const lc_example *ex, int64_t n) {
  fill_arg a = {run, g->pixels, ex, n};
  return g->pixels.id ? lc_parallel(run->ctx, run->n_seg, fill_one, &a) : LC_OK;
}
