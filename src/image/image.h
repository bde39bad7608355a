/* image: pictures as data: PNG and JPEG files, folders of them, IDX files; resizing as Pillow does it, and the
 * numbers of a model's preprocessor_config.json.
 *
 * Letters: a picture is height × width × 3 bytes, red, green, blue, row after row; P the side of a patch, S
 * channels of the model (3, or 1: grey). */
#ifndef LC_IMAGE_H
#define LC_IMAGE_H
#include "core/core.h"

typedef struct {
  int64_t width, height;
  uint8_t *rgb; /* lc_free */
} lc_image;
/* Largest side and number of pixels that a file may declare. */
enum { LC_IMAGE_SIDE = 1 << 15, LC_IMAGE_PIXELS = 1 << 26 };

/* PNG or JPEG, told by the first bytes. As Pillow's convert("RGB"): an alpha channel is dropped, grey is repeated,
 * 16 bits keep the upper 8, gamma and colour profiles are ignored. CMYK is refused. `path` is for sentences. */
lc_status lc_image_decode(lc_ctx *, const char *path, const void *data, size_t n, lc_image *);
lc_status lc_image_decode_png(lc_ctx *, const char *path, const void *data, size_t n, lc_image *);
lc_status lc_image_decode_jpeg(lc_ctx *, const char *path, const void *data, size_t n, lc_image *);
lc_status lc_image_read(lc_ctx *, const char *path, lc_image *);

/* Pillow's filters by Pillow's numbers, which preprocessor_config.json uses too. */
typedef enum { LC_NEAREST, LC_LANCZOS, LC_BILINEAR, LC_BICUBIC, LC_BOX } lc_resample;
/* Separable convolution whose support grows with the reduction, in 22-bit fixed point, columns first: the bytes that
 * Image.resize gives. */
lc_status lc_image_resize(lc_ctx *, const lc_image *src, int64_t width, int64_t height, lc_resample,
                          lc_image *dst);

/* What a model wants of a picture. */
typedef struct {
  int64_t width, height;
  bool resize, rescale, normalise;
  lc_resample resample;
  double factor;
  double mean[3], std[3];
} lc_image_processor;
/* From DIR/preprocessor_config.json (ViTImageProcessor and its like); absent: `side`², bilinear, 1/255, mean and
 * deviation 0.5. */
lc_status lc_image_processor_read(lc_ctx *, const char *dir, int64_t side, lc_image_processor *);
/* The picture as the model's patches: row i of dst is patch i, left to right, then down; columns are channel, y, x, as
 * a convolution's weight lies. (height/P)·(width/P) rows of S·P² f32. */
lc_status lc_image_patches(lc_ctx *, const lc_image_processor *, const lc_image *, int64_t P, int64_t S,
                           float *dst);

/* ---- labelled sets ---- */
typedef struct {
  lc_ctx *ctx;
  char *path;
  int64_t n;
  int32_t *label;
  char **name; /* of labels, sorted; digits for IDX */
  int n_names;
  char **file;     /* a folder's pictures, or NULL */
  uint8_t *pixels; /* an IDX file's, n·height·width */
  int64_t height, width;
} lc_images;
/* path: a folder that holds a folder of pictures for each label; or an IDX file of pictures ("…-images-idx3-ubyte",
 * .gz or not), whose labels lie beside it ("…-labels-idx1-ubyte"). */
lc_status lc_images_open(lc_ctx *, const char *path, lc_images *);
void lc_images_close(lc_images *);
lc_status lc_images_get(const lc_images *, int64_t i, lc_image *); /* callable on workers */
/* An IDX file of unsigned bytes: up to four sizes; *data lc_free'd by the caller. */
lc_status lc_idx_read(lc_ctx *, const char *path, int *ndim, int64_t size[4], uint8_t **data);
#endif
