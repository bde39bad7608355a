/* Softmax and cross-entropy of one row: scalar/softmax.h. A row of a vocabulary is summed in four vectors of
 * partial sums. */
#include <math.h>

static float LC_SIMD(row_max)(int64_t n, const float *x) {
  vf lowest = v_set(-INFINITY), m0 = lowest, m1 = lowest;
  int64_t i = 0;
  for (; i + 2 * LANES <= n; i += 2 * LANES) {
    m0 = v_max(m0, v_load(x + i));
    m1 = v_max(m1, v_load(x + i + LANES));
  }
  for (; i < n; i += LANES) {
    int64_t count = lc_min64(LANES, n - i);
    m0 = v_max(m0, v_keep(LC_SIMD(at)(x + i, count), count, lowest));
  }
  return v_max_lane(v_max(m0, m1));
}

/* Σ exp(x − max), with the terms written to y unless it is NULL. */
static float LC_SIMD(exp_sum)(int64_t n, const float *x, float max, float *y) {
  vf m = v_set(max), sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
    for (int u = 0; u < 4; u++) {
      vf e = v_exp(v_sub(v_load(x + i + u * LANES), m));
      if (y) v_store(y + i + u * LANES, e);
      sum[u] = v_add(sum[u], e);
    }
  for (; i < n; i += LANES) {
    int64_t count = lc_min64(LANES, n - i);
    vf e = v_exp(v_sub(LC_SIMD(at)(x + i, count), m));
    if (y) LC_SIMD(put)(y + i, e, count);
    sum[0] = v_add(sum[0], v_keep(e, count, v_set(0)));
  }
  return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

static float LC_SIMD(softmax)(int64_t n, float *x) {
  float max = LC_SIMD(row_max)(n, x), sum = LC_SIMD(exp_sum)(n, x, max, x);
  LC_SIMD(scale)(n, 1 / sum, x);
  return max + logf(sum);
}

static float LC_SIMD(cross_entropy)(int64_t V, float *logits, int32_t label, float scale) {
  float at_label = logits[label], max = LC_SIMD(row_max)(V, logits);
  float sum = LC_SIMD(exp_sum)(V, logits, max, scale != 0 ? logits : NULL);
  if (scale != 0) {
    LC_SIMD(scale)(V, scale / sum, logits);
    logits[label] -= scale;
  }
  return max + logf(sum) - at_label;
}

/* Front to back, so that d may lie on the logits: what is written stands before what is still to be read. */
static float LC_SIMD(cross_entropy_bf16)(int64_t V, float *logits, int32_t label, float scale, uint16_t *d) {
  float at_label = logits[label], max = LC_SIMD(row_max)(V, logits);
  float sum = LC_SIMD(exp_sum)(V, logits, max, logits), factor = scale / sum;
  logits[label] -= sum; /* (e − sum)·scale/sum */
  vf f = v_set(factor);
  int64_t i = 0;
  for (; i + LANES <= V; i += LANES) {
    vf x = v_mul(v_load(logits + i), f);
    v_store_bf16(d + i, x);
  }
  float last[LANES];
  uint16_t narrow[LANES];
  int64_t rest = V - i;
  if (rest) {
    v_store(last, v_mul(LC_SIMD(at)(logits + i, rest), f));
    v_store_bf16(narrow, v_load(last));
    memcpy(d + i, narrow, (size_t)rest * sizeof *d);
  }
  return max + logf(sum) - at_label;
}
