/* IDX (LeCun's format of MNIST and its likes): two zero bytes, a type (8: unsigned bytes), the number of sizes, the
 * sizes as big-endian 32-bit numbers, the values. Compressed or not: zlib reads both. */
#include "image/image.h"
#include <errno.h>
#include <string.h>
#include <zlib.h>

static lc_status fill(lc_ctx *ctx, gzFile f, const char *path, void *to, size_t n) {
  for (size_t at = 0; at < n;) {
    const size_t step = n - at < (1u << 20) ? n - at : 1u << 20;
    const int got = gzread(f, (uint8_t *)to + at, (unsigned)step);
    if (got < 0) return lc_fail(ctx, "%s: cannot be decompressed", path);
    if (got == 0) return lc_fail(ctx, "%s: ends after %zu of %zu values", path, at, n);
    at += (size_t)got;
  }
  return LC_OK;
}

static lc_status header(lc_ctx *ctx, gzFile f, const char *path, int *ndim, int64_t size[4], size_t *total) {
  uint8_t head[4], d[4];
  LC_TRY(fill(ctx, f, path, head, 4));
  if (head[0] || head[1] || head[2] != 8 || head[3] < 1 || head[3] > 4)
    return lc_fail(ctx, "%s: no IDX file of unsigned bytes with 1 to 4 sizes", path);
  *ndim = head[3];
  *total = 1;
  for (int i = 0; i < *ndim; i++) {
    LC_TRY(fill(ctx, f, path, d, 4));
    size[i] = (int64_t)((uint32_t)d[0] << 24 | (uint32_t)d[1] << 16 | (uint32_t)d[2] << 8 | d[3]);
    if (!size[i] || !lc_mul(*total, (size_t)size[i], total) || *total > (size_t)1 << 34)
      return lc_fail(ctx, "%s: size %d of %d is %lld, which cannot be: 1 to 2^34 values in all are possible",
                     path, i + 1, *ndim, (long long)size[i]);
  }
  return LC_OK;
}

lc_status lc_idx_read(lc_ctx *ctx, const char *path, int *ndim, int64_t size[4], uint8_t **data) {
  size_t total = 0;
  uint8_t extra;
  lc_status st = LC_OK;
  *data = NULL;
  gzFile f = gzopen(path, "rb");
  if (!f) return lc_fail(ctx, "%s: cannot be opened: %s", path, strerror(errno));
  LC_GO(header(ctx, f, path, ndim, size, &total));
  /* Grown as values come, so that a header alone cannot ask for memory. */
  for (size_t have = 0; have < total;) {
    const size_t more = total - have < (1u << 24) ? total - have : 1u << 24;
    uint8_t *grown = lc_realloc(ctx, LC_MEM_OTHER, *data, have + more);
    if (!grown) LC_GO(LC_FAILED);
    *data = grown;
    LC_GO(fill(ctx, f, path, *data + have, more));
    have += more;
  }
  const int more = gzread(f, &extra, 1); /* looks at a compressed file's checksum, too */
  if (more > 0) LC_GO(lc_fail(ctx, "%s: goes on after its %zu values", path, total));
  if (more < 0) st = lc_fail(ctx, "%s: its checksum does not agree with its %zu values", path, total);
done:
  gzclose(f);
  if (st) {
    lc_free(ctx, *data);
    *data = NULL;
  }
  return st;
}
