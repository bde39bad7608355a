/* Tile products of AMX: four accumulator tiles of 16×16, two tiles a side; a tile product is 16·16·32 bf16 or
 * 16·16·64 8-bit multiply-adds. */
#include <immintrin.h>
#include <string.h>
#include "kernels/ceilings.h"

/* Palette 1: eight tiles of 16 rows of 64 bytes. */
static void configure(void) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
  _tile_loadconfig(&c);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

double lc_peak_bf16_amx(int64_t rounds) {
  configure();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return (double)rounds * 4 * 16 * 16 * 32 * 2;
}

double lc_peak_int8_amx(int64_t rounds) {
  configure();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return (double)rounds * 4 * 16 * 16 * 64 * 2;
}
