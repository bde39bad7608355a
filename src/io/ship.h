/* ship: what changed from one checkpoint to the next, as a file for those that hold the first (a server beside a trainer). */
#ifndef LC_SHIP_H
#define LC_SHIP_H
#include "io/io.h"

typedef struct {
  bool anchor;               /* a whole checkpoint: it stands on nothing */
  int64_t version;           /* as the writer numbers them */
  uint32_t previous, result; /* CRC-32 of the checkpoint's file before and after */
  int64_t changed, elements;
} lc_ship;
/* Checkpoints are single safetensors files with equal headers. before NULL: an anchor. */
lc_status lc_ship_write(lc_ctx *, const char *before, const char *after, int64_t version, const char *out,
                        lc_ship *);
lc_status lc_ship_read(lc_ctx *, const char *file, lc_ship *);
/* Makes the next checkpoint's file, byte for byte. A file that does not follow `before` (a link is missing) is refused; before may be
 * NULL for an anchor. */
lc_status lc_ship_apply(lc_ctx *, const char *before, const char *file, const char *out, lc_ship *);
#endif
