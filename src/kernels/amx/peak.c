/* Tile products of AMX: four accumulator tiles of 16×16, two tiles a side; a tile product is 16·16·32 bf16 or
 * 16·16·64 8-bit multiply-adds. */
#include "kernels/amx/tiles.h"
#include "kernels/ceilings.h"

/* Configured tiles hold zeros. */
double lc_peak_bf16_amx(int64_t rounds) {
  lc_amx_start();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  lc_amx_end();
  return (double)rounds * 4 * 16 * 16 * 32 * 2;
}

double lc_peak_int8_amx(int64_t rounds) {
  lc_amx_start();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  lc_amx_end();
  return (double)rounds * 4 * 16 * 16 * 64 * 2;
}
