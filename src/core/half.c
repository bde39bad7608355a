/* IEEE half precision to and from f32, by bits; rounding to nearest even, subnormals included. */
#include "core/core.h"

float lc_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
  union {
    uint32_t u;
    float f;
  } v;
  if (exp == 31)
    v.u = sign | 0x7f800000u | man << 13;
  else if (exp)
    v.u = sign | (exp + 112) << 23 | man << 13;
  else {
    v.f = (float)man * 0x1p-24f;
    v.u |= sign;
  }
  return v.f;
}

uint16_t lc_f32_to_f16(float f) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  uint32_t sign = v.u >> 16 & 0x8000u, a = v.u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (a < 0x38800000u) { /* subnormal or zero: the addition rounds */
    union {
      uint32_t u;
      float f;
    } m = {a};
    m.f += 0.5f;
    return (uint16_t)(sign | (m.u - 0x3f000000u));
  }
  uint32_t rounded = a + 0xfffu + (a >> 13 & 1u) - 0x38000000u;
  return (uint16_t)(sign | rounded >> 13);
}
