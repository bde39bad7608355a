/* The tile registers, for the files of this folder: eight of 16 rows of 64 bytes. They are a thread's own: who uses them loads this
 * configuration first and releases it at the end, so that another library's (oneDNN's) never meets ours. */
#ifndef LC_AMX_TILES_H
#define LC_AMX_TILES_H
#include <immintrin.h>
#include <stdint.h>

typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} lc_amx_config;

/* gcc's _tile_loadconfig reads 8 bytes as far as the compiler knows, which then drops the stores to the rest. */
static inline void lc_amx_start(void) {
  static const lc_amx_config all = {
      .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  __asm__ volatile("ldtilecfg\t%0" ::"m"(all));
}

static inline void lc_amx_end(void) {
  _tile_release();
}

#endif
