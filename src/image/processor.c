/* A model's preprocessor_config.json, and pictures as the rows that its patch embedding multiplies. */
#include "image/image.h"
#include "io/io.h"
#include <jansson.h>
#include <string.h>

/* "size": 224, or {"height": 224, "width": 224}; {"shortest_edge": …} would crop, which is not built. */
static lc_status read_size(lc_ctx *ctx, const json_t *j, lc_image_processor *p) {
  const json_t *size = json_object_get(j, "size");
  if (!size || json_is_null(size)) return LC_OK;
  if (json_is_integer(size)) {
    p->width = p->height = json_integer_value(size);
  } else if (json_is_object(size)) {
    if (!json_object_get(size, "height") || !json_object_get(size, "width"))
      return lc_fail(ctx, "'size' without 'height' and 'width' is not supported");
    LC_TRY(lc_json_i64_or(ctx, size, "height", 0, &p->height));
    LC_TRY(lc_json_i64_or(ctx, size, "width", 0, &p->width));
  } else {
    return lc_fail(ctx, "'size' is neither a number nor an object");
  }
  if (p->width < 1 || p->height < 1 || p->width > LC_IMAGE_SIDE || p->height > LC_IMAGE_SIDE)
    return lc_fail(ctx, "'size' is %lld×%lld: 1 to %d are possible", (long long)p->height,
                   (long long)p->width, LC_IMAGE_SIDE);
  return LC_OK;
}

static lc_status read_three(lc_ctx *ctx, const json_t *j, const char *key, bool positive, double out[3]) {
  const json_t *a = json_object_get(j, key);
  if (!a || json_is_null(a)) return LC_OK;
  const size_t n = json_array_size(a);
  if (n != 3 && n != 1) return lc_fail(ctx, "'%s' is no list of 3 numbers (or 1)", key);
  for (size_t i = 0; i < 3; i++) {
    const json_t *v = json_array_get(a, n == 1 ? 0 : i);
    if (!json_is_number(v) || (positive && json_number_value(v) <= 0))
      return lc_fail(ctx, "'%s' holds what cannot be", key);
    out[i] = json_number_value(v);
  }
  return LC_OK;
}

static lc_status read_fields(lc_ctx *ctx, const json_t *j, lc_image_processor *p) {
  int64_t resample;
  bool crop;
  LC_TRY(read_size(ctx, j, p));
  LC_TRY(lc_json_bool_or(ctx, j, "do_resize", true, &p->resize));
  LC_TRY(lc_json_bool_or(ctx, j, "do_rescale", true, &p->rescale));
  LC_TRY(lc_json_bool_or(ctx, j, "do_normalize", true, &p->normalise));
  LC_TRY(lc_json_bool_or(ctx, j, "do_center_crop", false, &crop));
  LC_TRY(lc_json_f64_or(ctx, j, "rescale_factor", p->factor, &p->factor));
  LC_TRY(lc_json_i64_or(ctx, j, "resample", LC_BILINEAR, &resample));
  LC_TRY(read_three(ctx, j, "image_mean", false, p->mean));
  LC_TRY(read_three(ctx, j, "image_std", true, p->std));
  if (crop) return lc_fail(ctx, "'do_center_crop' is not supported");
  if (resample < LC_NEAREST || resample > LC_BOX)
    return lc_fail(ctx, "'resample' is %lld: 0 to %d are built", (long long)resample, LC_BOX);
  p->resample = (lc_resample)resample;
  return LC_OK;
}

lc_status lc_image_processor_read(lc_ctx *ctx, const char *dir, int64_t side, lc_image_processor *p) {
  *p = (lc_image_processor){.width = side,
                            .height = side,
                            .resize = true,
                            .rescale = true,
                            .normalise = true,
                            .resample = LC_BILINEAR,
                            .factor = 1.0 / 255,
                            .mean = {0.5, 0.5, 0.5},
                            .std = {0.5, 0.5, 0.5}};
  char *path = lc_path_join(ctx, dir, "preprocessor_config.json");
  json_t *j = NULL;
  lc_status st = path ? LC_OK : LC_FAILED;
  if (!st && lc_path_exists(path)) {
    st = lc_json_read(ctx, path, &j);
    if (!st) st = lc_in_file(ctx, path, read_fields(ctx, j, p));
    json_decref(j);
  }
  lc_free(ctx, path);
  return st;
}

/* Pillow's convert("L"): ITU-R 601 weights in 16 bits. */
static uint8_t grey(const uint8_t *rgb) {
  return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

static void cut(const lc_image_processor *p, const lc_image *im, int64_t P, int64_t S, float *dst) {
  const int64_t across = im->width / P, down = im->height / P;
  float value[3][256]; /* what byte b of channel c becomes */
  for (int c = 0; c < 3; c++)
    for (int b = 0; b < 256; b++) {
      float v = p->rescale ? (float)(b * p->factor) : (float)b;
      if (p->normalise) v = (v - (float)p->mean[c]) / (float)p->std[c];
      value[c][b] = v;
    }
  for (int64_t i = 0; i < across * down; i++)
    for (int64_t c = 0; c < S; c++)
      for (int64_t y = 0; y < P; y++)
        for (int64_t x = 0; x < P; x++) {
          const uint8_t *at = im->rgb + ((i / across * P + y) * im->width + i % across * P + x) * 3;
          dst[((i * S + c) * P + y) * P + x] = value[c][S == 1 ? grey(at) : at[c]];
        }
}

lc_status lc_image_patches(lc_ctx *ctx, const lc_image_processor *p, const lc_image *im, int64_t P, int64_t S,
                           float *dst) {
  lc_image sized = {0};
  const bool fits = im->width == p->width && im->height == p->height;
  if (!fits && !p->resize)
    return lc_fail(ctx, "a picture of %lld×%lld: the model takes %lld×%lld and is not to resize",
                   (long long)im->width, (long long)im->height, (long long)p->width, (long long)p->height);
  if (!fits) LC_TRY(lc_image_resize(ctx, im, p->width, p->height, p->resample, &sized));
  cut(p, fits ? im : &sized, P, S, dst);
  lc_free(ctx, sized.rgb);
  return LC_OK;
}
