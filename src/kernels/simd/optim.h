/* AdamW: scalar/optim.c says what it is. The corrections of a step are taken in f64 once for all entries that
 * share an age; entries of unlike ages within one vector go one by one. */
#include "kernels/scalar/scalar.h"

static void LC_SIMD(adamw_step)(const lc_adamw_hyper *h, vf rate, vf root, float *value, const float *grad,
                                float *m, float *v, int64_t n) {
  vf decay = v_set(1 - h->lr * h->weight_decay), eps = v_set(h->eps), g = LC_SIMD(at)(grad, n),
     w = LC_SIMD(at)(value, n);
  vf first = v_add(v_mul(v_set(h->beta1), LC_SIMD(at)(m, n)), v_mul(v_set(1 - h->beta1), g));
  vf second = v_add(v_mul(v_set(h->beta2), LC_SIMD(at)(v, n)), v_mul(v_set(1 - h->beta2), v_mul(g, g)));
  vf move = v_mul(rate, first), size = v_sqrt(second);
  if (h->eps_inside)
    w = v_mul(v_sub(w, v_div(move, v_mul(v_add(size, eps), root))), decay);
  else
    w = v_sub(v_mul(w, decay), v_div(move, v_add(v_mul(size, root), eps)));
  LC_SIMD(put)(m, first, n);
  LC_SIMD(put)(v, second, n);
  LC_SIMD(put)(value, w, n);
}

static void LC_SIMD(adamw)(int64_t n, const lc_adamw_hyper *h, float step, float *value, const float *grad,
                           float *m, float *v, float *age) {
  float t = -1;
  vf rate = v_set(0), root = v_set(0);
  LC_EACH_VECTOR(n, i, count) {
    float now = age ? age[i] + 1 : step;
    bool alike = true;
    for (int64_t j = 1; j < count && age; j++) alike &= age[i + j] == age[i];
    if (!alike) {
      lc_ref_adamw(count, h, step, value + i, grad + i, m + i, v + i, age + i);
      continue;
    }
    for (int64_t j = 0; j < count && age; j++) age[i + j] = now;
    if (now != t) {
      t = now;
      rate = v_set((float)((double)h->lr / (1 - pow((double)h->beta1, (double)t))));
      root = v_set((float)(1 / sqrt(1 - pow((double)h->beta2, (double)t))));
    }
    LC_SIMD(adamw_step)(h, rate, root, value + i, grad + i, m + i, v + i, count);
  }
}
