/* Resizing as Pillow does it (src/libImaging/Resample.c of Pillow describes the scheme): columns, then rows, each a
 * weighted sum of the source pixels under a filter that is widened by the reduction, so that shrinking smooths.
 *
 *   output i lies over source position c = (i + ½)·s, s = in/out; its weights are f((x + ½ − c)/max(1,s)) for source
 *   pixels x within the filter's reach, divided by their sum, and rounded to 22 bits behind the point. Sums are rounded
 *   to bytes between the two passes. */
#include "image/image.h"
#include <math.h>
#include <string.h>

enum { BITS = 22 };

static double box(double x) {
  return x > -0.5 && x <= 0.5 ? 1 : 0;
}
static double triangle(double x) {
  x = fabs(x);
  return x < 1 ? 1 - x : 0;
}
static double cubic(double x) { /* a = −½ */
  const double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}
static double sinc(double x) {
  const double t = 3.14159265358979323846 * x;
  return x == 0 ? 1 : sin(t) / t;
}
static double lanczos(double x) {
  return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static const struct {
  double (*f)(double);
  double reach;
} filters[] = {[LC_NEAREST] = {NULL, 0},
               [LC_LANCZOS] = {lanczos, 3},
               [LC_BILINEAR] = {triangle, 1},
               [LC_BICUBIC] = {cubic, 2},
               [LC_BOX] = {box, 0.5}};

typedef struct {
  int64_t first, n;
} range;
/* For each of `out` outputs: its sources and their weights (room for *most each). One block, lc_free. */
typedef struct {
  range *at;
  int32_t *w;
  double *exact;
  int64_t most;
} weights;

static void weigh(const weights *k, int64_t i, double center, double reach, double shrink, int64_t in,
                  double (*f)(double)) {
  int64_t first = (int64_t)(center - reach + 0.5), last = (int64_t)(center + reach + 0.5);
  first = lc_max64(first, 0);
  last = lc_min64(last, in);
  double sum = 0;
  for (int64_t x = 0; x < last - first; x++) {
    k->exact[x] = f(((double)(x + first) - center + 0.5) / shrink);
    sum += k->exact[x];
  }
  for (int64_t x = 0; x < last - first; x++) {
    const double v = (sum != 0 ? k->exact[x] / sum : k->exact[x]) * (1 << BITS);
    k->w[i * k->most + x] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
  }
  k->at[i] = (range){first, last - first};
}

static lc_status weights_new(lc_ctx *ctx, int64_t in, int64_t out, lc_resample r, weights *k) {
  const double s = (double)in / (double)out, shrink = s < 1 ? 1 : s, reach = filters[r].reach * shrink;
  k->most = (int64_t)ceil(reach) * 2 + 1;
  k->at = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)out, sizeof *k->at);
  k->w = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(out * k->most), sizeof *k->w);
  k->exact = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)k->most, sizeof *k->exact);
  if (!k->at || !k->w || !k->exact) return LC_FAILED;
  for (int64_t i = 0; i < out; i++) weigh(k, i, ((double)i + 0.5) * s, reach, shrink, in, filters[r].f);
  return LC_OK;
}

static void weights_free(lc_ctx *ctx, weights *k) {
  lc_free(ctx, k->at);
  lc_free(ctx, k->w);
  lc_free(ctx, k->exact);
}

/* One pass along an axis: src has `lines` lines of pixels, `step` bytes apart along the axis and `line` bytes from one
 * line to the next; dst likewise. */
static void pass(const weights *k, int64_t out, int64_t lines, const uint8_t *src, int64_t step, int64_t line,
                 uint8_t *dst, int64_t dstep, int64_t dline) {
  for (int64_t l = 0; l < lines; l++)
    for (int64_t i = 0; i < out; i++) {
      const range q = k->at[i];
      for (int c = 0; c < 3; c++) {
        const uint8_t *from = src + l * line + q.first * step + c;
        int64_t sum = 1 << (BITS - 1);
        for (int64_t x = 0; x < q.n; x++) sum += (int64_t)from[x * step] * k->w[i * k->most + x];
        sum >>= BITS;
        dst[l * dline + i * dstep + c] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
      }
    }
}

static void nearest(const lc_image *src, lc_image *dst) {
  for (int64_t y = 0; y < dst->height; y++)
    for (int64_t x = 0; x < dst->width; x++) {
      const int64_t sy = (int64_t)(((double)y + 0.5) * (double)src->height / (double)dst->height),
                    sx = (int64_t)(((double)x + 0.5) * (double)src->width / (double)dst->width);
      memcpy(dst->rgb + (y * dst->width + x) * 3, src->rgb + (sy * src->width + sx) * 3, 3);
    }
}

static lc_status convolve(lc_ctx *ctx, const lc_image *src, lc_resample r, lc_image *dst) {
  weights across = {0}, down = {0};
  lc_status st = LC_OK;
  uint8_t *middle = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(dst->width * src->height), 3);
  if (!middle) return LC_FAILED;
  LC_GO(weights_new(ctx, src->width, dst->width, r, &across));
  LC_GO(weights_new(ctx, src->height, dst->height, r, &down));
  if (src->width == dst->width)
    memcpy(middle, src->rgb, (size_t)(src->width * src->height * 3));
  else
    pass(&across, dst->width, src->height, src->rgb, 3, src->width * 3, middle, 3, dst->width * 3);
  if (src->height == dst->height)
    memcpy(dst->rgb, middle, (size_t)(dst->width * dst->height * 3));
  else
    pass(&down, dst->height, dst->width, middle, dst->width * 3, 3, dst->rgb, dst->width * 3, 3);
done:
  weights_free(ctx, &across);
  weights_free(ctx, &down);
  lc_free(ctx, middle);
  return st;
}

lc_status lc_image_resize(lc_ctx *ctx, const lc_image *src, int64_t width, int64_t height, lc_resample r,
                          lc_image *dst) {
  *dst = (lc_image){0};
  if (width < 1 || height < 1 || width > LC_IMAGE_SIDE || height > LC_IMAGE_SIDE ||
      width * src->height > LC_IMAGE_PIXELS || width * height > LC_IMAGE_PIXELS)
    return lc_fail(ctx, "a picture of %lld×%lld cannot become %lld×%lld", (long long)src->width,
                   (long long)src->height, (long long)width, (long long)height);
  dst->rgb = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(width * height), 3);
  if (!dst->rgb) return LC_FAILED;
  dst->width = width;
  dst->height = height;
  lc_status st = LC_OK;
  if (r == LC_NEAREST)
    nearest(src, dst);
  else
    st = convolve(ctx, src, r, dst);
  if (st) {
    lc_free(ctx, dst->rgb);
    *dst = (lc_image){0};
  }
  return st;
}
