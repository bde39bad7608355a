/* Pictures: every kind of PNG and JPEG gives Pillow's bytes, resizing too; a processor's numbers; folders and IDX files;
 * what is broken is refused with a sentence and without a leak. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include "image/image.h"
#include "io/io.h"
#include "support/io_support.h"

#define GOLDEN "golden/images/"
static lc_ctx *ctx;
static lc_safetensors expected;
static const char *dir;

static int setup(void **state) {
  dir = t_dir();
  return lc_ctx_new(1, &ctx, NULL) || lc_safetensors_open(ctx, GOLDEN "pillow.safetensors", &expected);
}
static int teardown(void **state) {
  lc_safetensors_close(ctx, &expected);
  lc_ctx_free(ctx);
  t_dir_remove();
  return 0;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static void refused(lc_status st, const char *part) {
  assert_int_not_equal(st, LC_OK);
  if (!strstr(lc_error(ctx), part)) fail_msg("the error is \"%s\", without \"%s\"", lc_error(ctx), part);
}

static void same_as(const char *name, const lc_image *im) {
  const lc_tensor *t = lc_safetensors_find(&expected, name);
  assert_non_null(t);
  if (im->height != t->shape[0] || im->width != t->shape[1])
    fail_msg("%s: %lld×%lld", name, (long long)im->width, (long long)im->height);
  for (int64_t i = 0; i < im->height * im->width * 3; i++)
    if (im->rgb[i] != ((const uint8_t *)t->data)[i])
      fail_msg("%s: byte %lld is %d, Pillow has %d", name, (long long)i, im->rgb[i],
               ((const uint8_t *)t->data)[i]);
}

static void every_kind_of_file(void **state) {
  static const char *const names[] = {"rgb.png",  "rgba.png",        "grey.png",          "grey-alpha.png",
                                      "bits.png", "palette.png",     "clear-palette.png", "444.jpg",
                                      "420.jpg",  "progressive.jpg", "grey.jpg"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[128];
    lc_image im;
    snprintf(path, sizeof path, GOLDEN "%s", names[i]);
    ok(lc_image_read(ctx, path, &im));
    same_as(names[i], &im);
    lc_free(ctx, im.rgb);
  }
}

static void resizing(void **state) {
  static const char *const filters[] = {"nearest", "lanczos", "bilinear", "bicubic", "box"};
  static const int sizes[][2] = {{23, 17}, {9, 5}, {40, 31}, {23, 8}, {1, 1}, {7, 60}};
  lc_image src, dst;
  ok(lc_image_read(ctx, GOLDEN "rgb.png", &src));
  for (int f = 0; f < 5; f++)
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
      char name[64];
      snprintf(name, sizeof name, "%s-%dx%d", filters[f], sizes[s][0], sizes[s][1]);
      ok(lc_image_resize(ctx, &src, sizes[s][0], sizes[s][1], (lc_resample)f, &dst));
      same_as(name, &dst);
      lc_free(ctx, dst.rgb);
    }
  refused(lc_image_resize(ctx, &src, 1 << 20, 2, LC_BOX, &dst), "cannot become");
  lc_free(ctx, src.rgb);
}

/* A picture of 4×2 with red = 10·(4y+x), green and blue beside it; patches of 2: columns go channel, y, x. */
static void patches(void **state) {
  uint8_t rgb[24];
  for (int i = 0; i < 8; i++) {
    rgb[3 * i] = (uint8_t)(10 * i);
    rgb[3 * i + 1] = (uint8_t)(10 * i + 1);
    rgb[3 * i + 2] = (uint8_t)(10 * i + 2);
  }
  const lc_image im = {4, 2, rgb};
  const lc_image_processor p = {.width = 4,
                                .height = 2,
                                .rescale = true,
                                .normalise = true,
                                .factor = 1.0 / 255,
                                .mean = {0.5, 0.25, 0},
                                .std = {0.5, 0.25, 2}};
  float x[24], grey[8];
  ok(lc_image_patches(ctx, &p, &im, 2, 3, x));
  for (int patch = 0; patch < 2; patch++)
    for (int c = 0; c < 3; c++)
      for (int k = 0; k < 4; k++) {
        const float v = (float)(10 * (4 * (k / 2) + 2 * patch + k % 2) + c) / 255;
        assert_true(fabsf(x[(patch * 3 + c) * 4 + k] - (v - (float)p.mean[c]) / (float)p.std[c]) < 1e-6f);
      }
  const lc_image_processor plain = {.width = 4, .height = 2};
  ok(lc_image_patches(ctx, &plain, &im, 2, 1, grey));
  assert_true(grey[1] == 11); /* of (10, 11, 12) */
  const lc_image_processor other = {.width = 8, .height = 2};
  refused(lc_image_patches(ctx, &other, &im, 2, 3, x), "not to resize");
}

static void luma(void **state) {
  const lc_tensor *t = lc_safetensors_find(&expected, "luma");
  const lc_image_processor p = {.width = 23, .height = 17};
  lc_image im;
  float x[23 * 17];
  ok(lc_image_read(ctx, GOLDEN "rgb.png", &im));
  ok(lc_image_patches(ctx, &p, &im, 1, 1, x));
  for (int i = 0; i < 23 * 17; i++) assert_true(x[i] == (float)((const uint8_t *)t->data)[i]);
  lc_free(ctx, im.rgb);
}

static void processor(void **state) {
  lc_image_processor p;
  ok(lc_image_processor_read(ctx, dir, 32, &p)); /* none there */
  assert_true(p.width == 32 && p.height == 32 && p.resize && p.normalise && p.resample == LC_BILINEAR &&
              p.mean[1] == 0.5);
  static const char good[] = "{\"size\": {\"height\": 24, \"width\": 48}, \"resample\": 3, \"do_normalize\": "
                             "false, \"image_mean\": [0.1, 0.2, 0.3]}";
  t_put(t_path("preprocessor_config.json"), good, strlen(good));
  ok(lc_image_processor_read(ctx, dir, 32, &p));
  assert_true(p.width == 48 && p.height == 24 && p.resample == LC_BICUBIC && !p.normalise &&
              p.mean[2] == 0.3);
  static const char *const bad[][2] = {{"{\"size\": {\"shortest_edge\": 224}}", "'size' without"},
                                       {"{\"size\": 0}", "'size' is 0"},
                                       {"{\"image_std\": [1, 0, 1]}", "'image_std'"},
                                       {"{\"do_center_crop\": true}", "center_crop"},
                                       {"{\"resample\": 9}", "'resample' is 9"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    t_put(t_path("preprocessor_config.json"), bad[i][0], strlen(bad[i][0]));
    refused(lc_image_processor_read(ctx, dir, 32, &p), bad[i][1]);
  }
}

static void copy_to(const char *golden, const char *to) {
  char from[128];
  snprintf(from, sizeof from, GOLDEN "%s", golden);
  ok(lc_copy_file(ctx, from, to));
}

static void folders(void **state) {
  char *top = lc_path_join(ctx, dir, "set"), *cat = lc_path_join(ctx, top, "cat"),
       *ant = lc_path_join(ctx, top, "ant");
  lc_images im;
  ok(lc_mkdirs(ctx, top));
  refused(lc_images_open(ctx, top, &im), "no pictures");
  ok(lc_mkdirs(ctx, cat));
  ok(lc_mkdirs(ctx, ant));
  char *a = lc_path_join(ctx, cat, "a.png"), *b = lc_path_join(ctx, ant, "b.jpg"),
       *c = lc_path_join(ctx, ant, "a.png");
  copy_to("rgb.png", a);
  copy_to("420.jpg", b);
  copy_to("grey.png", c);
  char *none = lc_path_join(ctx, top, "aardvark"); /* a label without pictures */
  ok(lc_mkdirs(ctx, none));
  ok(lc_images_open(ctx, top, &im));
  assert_true(im.n == 3 && im.n_names == 3 && im.label[0] == 1);
  lc_images_close(&im);
  ok(lc_remove_tree(ctx, none));
  lc_free(ctx, none);
  ok(lc_images_open(ctx, top, &im));
  assert_int_equal(im.n, 3);
  assert_true(im.n_names == 2 && !strcmp(im.name[0], "ant") && im.label[0] == 0 && im.label[1] == 0 &&
              im.label[2] == 1);
  static const char *const order[] = {"grey.png", "420.jpg", "rgb.png"};
  for (int i = 0; i < 3; i++) {
    lc_image one;
    ok(lc_images_get(&im, i, &one));
    same_as(order[i], &one);
    lc_free(ctx, one.rgb);
  }
  lc_images_close(&im);
  ok(lc_remove_tree(ctx, top));
  char *all[] = {top, cat, ant, a, b, c};
  for (int i = 0; i < 6; i++) lc_free(ctx, all[i]);
}

static void idx_files(void **state) {
  static const uint8_t pictures[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6},
                       labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 2, 0};
  char from[256];
  lc_images im;
  lc_image one;
  snprintf(from, sizeof from, "%s", t_path("t-images-idx3-ubyte"));
  t_put(from, pictures, sizeof pictures);
  refused(lc_images_open(ctx, from, &im), "t-labels-idx1-ubyte");
  t_put(t_path("t-labels-idx1-ubyte"), labels, sizeof labels);
  ok(lc_images_open(ctx, from, &im));
  assert_true(im.n == 2 && im.n_names == 3 && im.label[0] == 2 && im.label[1] == 0);
  ok(lc_images_get(&im, 1, &one));
  assert_true(one.width == 3 && one.height == 1 && one.rgb[0] == 4 && one.rgb[2] == 4 && one.rgb[8] == 6);
  lc_free(ctx, one.rgb);
  lc_images_close(&im);
  t_put(from, pictures, sizeof pictures - 1);
  refused(lc_images_open(ctx, from, &im), "ends after");
  uint8_t longer[sizeof pictures + 1];
  memcpy(longer, pictures, sizeof pictures);
  longer[sizeof pictures] = 0;
  t_put(from, longer, sizeof longer);
  refused(lc_images_open(ctx, from, &im), "goes on");
  memcpy(longer + 4, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
  t_put(from, longer, sizeof longer);
  refused(lc_images_open(ctx, from, &im), "size 2 of 3 is 4294967295, which cannot be");
}

/* A compressed file's checksum stands behind its values: of some lengths in what zlib reads last. */
static void compressed_idx(void **state) {
  enum { MOST = 40970, FROM = 40900 };
  static uint8_t plain[8 + MOST] = {0, 0, 8, 1};
  char path[256];
  int nd;
  int64_t size[4];
  uint8_t *values;
  uint32_t seed = 5;
  snprintf(path, sizeof path, "%s", t_path("labels.gz"));
  for (int i = 0; i < MOST; i++) plain[8 + i] = (uint8_t)t_random(&seed);
  for (int n = FROM; n < MOST; n++) {
    plain[6] = (uint8_t)(n >> 8), plain[7] = (uint8_t)n;
    gzFile f = gzopen(path, "wb");
    assert_int_equal(gzwrite(f, plain, (unsigned)n + 8), n + 8);
    assert_int_equal(gzclose(f), Z_OK);
    ok(lc_idx_read(ctx, path, &nd, size, &values));
    assert_true(nd == 1 && size[0] == n && !memcmp(values, plain + 8, (size_t)n));
    lc_free(ctx, values);
    t_bytes b = t_get(path);
    b.data[b.n - 6] ^= 1;
    t_put(path, b.data, b.n);
    refused(lc_idx_read(ctx, path, &nd, size, &values), "labels.gz: ");
    t_free(&b);
  }
}

/* Every cut and some thousand changed bytes of each file: a sentence or a picture, never a leak. */
static void broken_files(void **state) {
  static const char *const names[] = {"rgb.png", "palette.png", "420.jpg", "progressive.jpg"};
  lc_image im;
  refused(lc_image_read(ctx, GOLDEN "cmyk.jpg", &im), "CMYK");
  refused(lc_image_decode(ctx, "x", "GIF89a", 6, &im), "neither");
  const size_t before = t_memory(ctx);
  uint32_t seed = 7;
  for (int f = 0; f < 4; f++) {
    char path[128];
    snprintf(path, sizeof path, GOLDEN "%s", names[f]);
    t_bytes b = t_get(path);
    for (size_t n = 0; n < b.n; n += 1 + b.n / 200)
      if (!lc_image_decode(ctx, path, b.data, n, &im)) lc_free(ctx, im.rgb);
    for (int k = 0; k < 400; k++) {
      uint8_t *at = b.data + t_random(&seed) % b.n, was = *at;
      *at = (uint8_t)t_random(&seed);
      if (!lc_image_decode(ctx, path, b.data, b.n, &im)) lc_free(ctx, im.rgb);
      *at = was;
    }
    t_free(&b);
  }
  lc_error_clear(ctx);
  assert_int_equal(t_memory(ctx), before);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_kind_of_file),
                                     cmocka_unit_test(resizing),
                                     cmocka_unit_test(patches),
                                     cmocka_unit_test(luma),
                                     cmocka_unit_test(processor),
                                     cmocka_unit_test(folders),
                                     cmocka_unit_test(idx_files),
                                     cmocka_unit_test(compressed_idx),
                                     cmocka_unit_test(broken_files)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
