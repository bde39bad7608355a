/* PNG, by libpng, from memory. Every colour type becomes 8-bit RGB; alpha is dropped, gamma ignored. */
#include "image/image.h"
#include <png.h>
#include <string.h>

typedef struct {
  const uint8_t *at, *end;
  char why[160];
} source;

static void take(png_structp png, png_bytep to, png_size_t n) {
  source *s = png_get_io_ptr(png);
  if ((size_t)(s->end - s->at) < n) png_error(png, "the file ends early");
  memcpy(to, s->at, n);
  s->at += n;
}

static void complain(png_structp png, png_const_charp why) {
  source *s = png_get_error_ptr(png);
  snprintf(s->why, sizeof s->why, "%s", why);
  png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp why) {}

static void as_rgb(png_structp png, png_infop info) {
  const int type = png_get_color_type(png, info);
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (png_get_bit_depth(png, info) == 16) png_set_strip_16(png);
  if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
  if (type & PNG_COLOR_MASK_ALPHA || png_get_valid(png, info, PNG_INFO_tRNS)) png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
}

/* Reads into out and rows, which the caller frees, since an error of the library jumps out of here. */
static lc_status read_rows(lc_ctx *ctx, png_structp png, png_infop info, lc_image *out, png_bytep **rows) {
  png_read_info(png, info);
  const int64_t w = png_get_image_width(png, info), h = png_get_image_height(png, info);
  if (w > LC_IMAGE_SIDE || h > LC_IMAGE_SIDE || w * h > LC_IMAGE_PIXELS) png_error(png, "too many pixels");
  as_rgb(png, info);
  if (png_get_rowbytes(png, info) != (size_t)w * 3) png_error(png, "this kind of pixels is not supported");
  out->rgb = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(w * h), 3);
  *rows = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)h, sizeof **rows);
  if (!out->rgb || !*rows) return LC_FAILED;
  out->width = w;
  out->height = h;
  for (int64_t y = 0; y < h; y++) (*rows)[y] = out->rgb + y * w * 3;
  png_read_image(png, *rows);
  png_read_end(png, NULL);
  return LC_OK;
}

static lc_status read_guarded(lc_ctx *ctx, const char *path, png_structp png, png_infop info, source *s,
                              lc_image *out, png_bytep **rows) {
  if (setjmp(png_jmpbuf(png))) return lc_fail(ctx, "%s: %s", path, s->why);
  png_set_read_fn(png, s, take);
  png_set_user_limits(png, LC_IMAGE_SIDE, LC_IMAGE_SIDE);
  png_set_chunk_malloc_max(png, 1 << 24);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
  return read_rows(ctx, png, info, out, rows);
}

lc_status lc_image_decode_png(lc_ctx *ctx, const char *path, const void *data, size_t n, lc_image *out) {
  *out = (lc_image){0};
  source s = {.at = data, .end = (const uint8_t *)data + n};
  png_bytep *rows = NULL;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, complain, ignore);
  png_infop info = png ? png_create_info_struct(png) : NULL;
  lc_status st = info ? read_guarded(ctx, path, png, info, &s, out, &rows) : lc_fail(ctx, "out of memory");
  png_destroy_read_struct(&png, &info, NULL);
  lc_free(ctx, rows);
  if (st) {
    lc_free(ctx, out->rgb);
    *out = (lc_image){0};
  }
  return st;
}
