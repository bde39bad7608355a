/* JPEG, by TurboJPEG, from memory: the exact (slow) inverse transform and smooth chroma, as Pillow's default. */
#include "image/image.h"
#include <string.h>
#include <turbojpeg.h>

static lc_status decode(lc_ctx *ctx, tjhandle h, const char *path, const void *data, size_t n,
                        lc_image *out) {
  int w, ht, sub, space;
  if (tjDecompressHeader3(h, data, (unsigned long)n, &w, &ht, &sub, &space))
    return lc_fail(ctx, "%s: %s", path, tjGetErrorStr2(h));
  if (space == TJCS_CMYK || space == TJCS_YCCK)
    return lc_fail(ctx, "%s: a JPEG of four inks (CMYK): convert it to RGB", path);
  if (w < 1 || ht < 1 || w > LC_IMAGE_SIDE || ht > LC_IMAGE_SIDE || (int64_t)w * ht > LC_IMAGE_PIXELS)
    return lc_fail(ctx, "%s: %d×%d pixels are too many", path, w, ht);
  out->rgb = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)w * (size_t)ht, 3);
  if (!out->rgb) return LC_FAILED;
  out->width = w;
  out->height = ht;
  if (tjDecompress2(h, data, (unsigned long)n, out->rgb, w, 0, ht, TJPF_RGB,
                    TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING))
    return lc_fail(ctx, "%s: %s", path, tjGetErrorStr2(h));
  return LC_OK;
}

lc_status lc_image_decode_jpeg(lc_ctx *ctx, const char *path, const void *data, size_t n, lc_image *out) {
  *out = (lc_image){0};
  tjhandle h = tjInitDecompress();
  lc_status st = h ? decode(ctx, h, path, data, n, out) : lc_fail(ctx, "out of memory");
  if (h) tjDestroy(h);
  if (st) {
    lc_free(ctx, out->rgb);
    *out = (lc_image){0};
  }
  return st;
}
