/* Pictures from files: which decoder, by the first bytes. */
#include "image/image.h"
#include <string.h>

static const struct {
  const char *magic;
  size_t n;
  lc_status (*decode)(lc_ctx *, const char *, const void *, size_t, lc_image *);
} formats[] = {{"\x89PNG\r\n\x1a\n", 8, lc_image_decode_png}, {"\xff\xd8\xff", 3, lc_image_decode_jpeg}};

lc_status lc_image_decode(lc_ctx *ctx, const char *path, const void *data, size_t n, lc_image *out) {
  *out = (lc_image){0};
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (n >= formats[i].n && !memcmp(data, formats[i].magic, formats[i].n))
      return formats[i].decode(ctx, path, data, n, out);
  return lc_fail(ctx, "%s: neither a PNG nor a JPEG file", path);
}

lc_status lc_image_read(lc_ctx *ctx, const char *path, lc_image *out) {
  char *data;
  size_t n;
  *out = (lc_image){0};
  LC_TRY(lc_read_file(ctx, path, (size_t)1 << 30, &data, &n));
  lc_status st = lc_image_decode(ctx, path, data, n, out);
  lc_free(ctx, data);
  return st;
}
