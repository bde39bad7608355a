/* Rotary positions (Su et al. 2021), Hugging Face's half-split order: the pair (x_i, x_{i+D/2}) turns by the
 * angle whose cos and sin are given. sign −1 turns back, which is the gradient: the turn is orthogonal. */
#include "kernels/scalar/real.h"

static void LC_REF(rope)(int64_t D, const real *cosine, const real *sine, real sign, real *x) {
  int64_t half = D / 2;
  for (int64_t i = 0; i < half; i++) {
    real a = x[i], b = x[i + half], s = sign * sine[i];
    x[i] = a * cosine[i] - b * s;
    x[i + half] = b * cosine[i] + a * s;
  }
}
