/* f32 multiply-adds of the baseline: 8 independent vectors of 4. */
#include "kernels/ceilings.h"

typedef float v4 __attribute__((vector_size(16)));

double lc_peak_f32_scalar(int64_t rounds) {
  v4 s[8], a = {1e-3f, 1e-3f, 1e-3f, 1e-3f}, b = {0.5f, 0.5f, 0.5f, 0.5f}, sum = {0};
  for (int i = 0; i < 8; i++) s[i] = a * (float)i;
  for (int64_t r = 0; r < rounds; r++)
    for (int i = 0; i < 8; i++) s[i] = s[i] * b + a;
  for (int i = 0; i < 8; i++) sum += s[i];
  volatile float sink = sum[0] + sum[1] + sum[2] + sum[3]; /* the loop is used */
  (void)sink;
  return (double)rounds * 8 * 4 * 2;
}
