/* Any file of changed values on any checkpoint: what applies must have the checkpoint's size and give the sum that the file
 * promises; what does not must leave no file. The file's "previous" is made to fit, so that mutations reach what lies behind. */
#define _GNU_SOURCE
#include "fuzz.h"
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include "io/ship.h"

static const char *const names[] = {"/x/before.safetensors", "/x/changes.safetensors"};

static void fit_previous(lc_ctx *ctx) {
  static const char key[] = "\"previous\":\"";
  lc_map before, changes;
  char sum[9];
  if (lc_map_open(ctx, "/x/before.safetensors", &before)) return;
  snprintf(sum, sizeof sum, "%08lx", crc32_z(0, before.data, before.size));
  lc_map_close(ctx, &before);
  if (lc_map_open(ctx, "/x/changes.safetensors", &changes)) return;
  uint8_t *copy = malloc(changes.size);
  FUZZ_CHECK(copy);
  memcpy(copy, changes.data, changes.size);
  uint8_t *at = memmem(copy, changes.size, key, sizeof key - 1);
  if (at && at + sizeof key - 1 + 8 <= copy + changes.size) memcpy(at + sizeof key - 1, sum, 8);
  fuzz_replace("/x/changes.safetensors", copy, changes.size);
  lc_map_close(ctx, &changes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  json_set_alloc_funcs(malloc, free); /* Jansson 2.14 asserts when it cannot grow a string */
  const size_t before = fuzz_memory(ctx);
  static char out[64];
  lc_ship s;
  if (!*out) snprintf(out, sizeof out, "/tmp/lacuna-fuzz-ship-%d", (int)getpid());
  fuzz_no_files();
  fuzz_pieces(data, n, names, 2);
  fit_previous(ctx);
  if (lc_ship_read(ctx, "/x/changes.safetensors", &s)) fuzz_refused(ctx);
  for (int alone = 0; alone < 2; alone++) {
    const lc_status st =
        lc_ship_apply(ctx, alone ? NULL : "/x/before.safetensors", "/x/changes.safetensors", out, &s);
    struct stat info;
    const bool there = stat(out, &info) == 0;
    if (st) fuzz_refused(ctx);
    FUZZ_CHECK(there == !st ||
               fuzz_ok(ctx, st) == 0); /* whole, but memory ran out before its directory was flushed */
    if (there) unlink(out);
  }
  fuzz_no_files();
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
