/* AdamW (Loshchilov & Hutter 2019), n entries, t the number of steps that an entry has had, this one
 * included: m ← β1·m + (1−β1)g;  v ← β2·v + (1−β2)g²;  c1 = 1−β1^t, c2 = 1−β2^t torch's rule:          θ ←
 * θ(1−lr·λ);  θ ← θ − (lr/c1)·m / (√v/√c2 + ε) eps_inside (SpIEL's):  θ ← θ − (lr/c1)·m / ((√v+ε)/√c2);  θ ←
 * θ(1−lr·λ) The powers are taken in f64: 1−β2^t of the first steps has few digits in f32. */
#include <math.h>
#include "kernels/scalar/scalar.h"

void lc_ref_adamw(int64_t n, const lc_adamw_hyper *h, float step, float *value, const float *grad, float *m,
                  float *v, float *age) {
  float decay = 1 - h->lr * h->weight_decay, t = -1, rate = 0,
        root = 1; /* rate = lr/c1, root = 1/√c2, for the last t seen */
  for (int64_t i = 0; i < n; i++) {
    float now = age ? (age[i] += 1) : step;
    if (now != t) {
      t = now;
      rate = (float)((double)h->lr / (1 - pow((double)h->beta1, (double)t)));
      root = (float)(1 / sqrt(1 - pow((double)h->beta2, (double)t)));
    }
    m[i] = h->beta1 * m[i] + (1 - h->beta1) * grad[i];
    v[i] = h->beta2 * v[i] + (1 - h->beta2) * (grad[i] * grad[i]);
    if (h->eps_inside)
      value[i] = (value[i] - rate * m[i] / ((sqrtf(v[i]) + h->eps) * root)) * decay;
    else
      value[i] = value[i] * decay - rate * m[i] / (sqrtf(v[i]) * root + h->eps);
  }
}
