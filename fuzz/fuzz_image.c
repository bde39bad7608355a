/* Any bytes as a picture (PNG, JPEG), as an IDX file, and as a preprocessor_config.json. */
#define _GNU_SOURCE
#include "fuzz.h"
#include <jansson.h>
#include <sys/mman.h>
#include <unistd.h>
#include "image/image.h"

static void picture(lc_ctx *ctx, const uint8_t *data, size_t n) {
  lc_image im, small;
  if (lc_image_decode(ctx, "input", data, n, &im)) {
    fuzz_refused(ctx);
    FUZZ_CHECK(!im.rgb);
    return;
  }
  FUZZ_CHECK(im.width > 0 && im.height > 0 && im.width * im.height <= LC_IMAGE_PIXELS);
  fuzz_touch(im.rgb, (size_t)(im.width * im.height * 3));
  if (im.width * im.height < 1 << 16 && fuzz_ok(ctx, lc_image_resize(ctx, &im, 7, 5, LC_BICUBIC, &small))) {
    fuzz_touch(small.rgb, 7 * 5 * 3);
    lc_free(ctx, small.rgb);
  }
  lc_free(ctx, im.rgb);
}

static void idx(lc_ctx *ctx, const uint8_t *data, size_t n) {
  int fd = memfd_create("idx", 0), nd;
  char path[64];
  int64_t size[4];
  uint8_t *values;
  FUZZ_CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (lc_idx_read(ctx, path, &nd, size, &values)) {
    fuzz_refused(ctx);
  } else {
    size_t total = 1;
    for (int i = 0; i < nd; i++) total *= (size_t)size[i];
    fuzz_touch(values, total);
    lc_free(ctx, values);
  }
  close(fd);
}

static void processor(lc_ctx *ctx, const uint8_t *data, size_t n) {
  lc_image_processor p;
  fuzz_no_files();
  fuzz_file("/model/preprocessor_config.json", data, n);
  if (lc_image_processor_read(ctx, "a/model", 8, &p))
    fuzz_refused(ctx);
  else
    FUZZ_CHECK(p.width > 0 && p.width <= LC_IMAGE_SIDE && p.height > 0 && p.height <= LC_IMAGE_SIDE &&
               p.std[0] > 0);
  fuzz_no_files();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free);
  const size_t before = fuzz_memory(ctx);
  picture(ctx, data, n);
  idx(ctx, data, n);
  processor(ctx, data, n);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
