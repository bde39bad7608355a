/* Softmax of one row and the cross-entropy on top of it, both after subtracting the maximum.
 *   lse = log Σ exp(x);  loss = lse − x[label];  d loss / d x = softmax(x) − onehot(label) */
#include "kernels/scalar/real.h"

static real LC_REF(softmax)(int64_t n, real *x) {
  real max = x[0];
  for (int64_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    x[i] = r_exp(x[i] - max);
    sum += (double)x[i];
  }
  real inverse = (real)(1 / sum);
  for (int64_t i = 0; i < n; i++) x[i] *= inverse;
  return max + (real)log(sum);
}

static real LC_REF(cross_entropy)(int64_t V, real *logits, int32_t label, real scale) {
  real at_label = logits[label];
  if (scale != 0) {
    real lse = LC_REF(softmax)(V, logits);
    for (int64_t i = 0; i < V; i++) logits[i] *= scale;
    logits[label] -= scale;
    return lse - at_label;
  }
  real max = logits[0];
  for (int64_t i = 1; i < V; i++) max = logits[i] > max ? logits[i] : max;
  double sum = 0;
  for (int64_t i = 0; i < V; i++) sum += (double)r_exp(logits[i] - max);
  return max + (real)log(sum) - at_label;
}
