/* Causal attention of one head over one tile of queries, one key at a time (online softmax: Milakov &
 * Gimelshein 2018).
 *
 *   s_ij = scale·q_i·k_j for visible j;  p = softmax_j(s);  out_i = Σ_j p_ij v_j;  lse_i = log Σ_j exp(s_ij)
 *   backward from lse and delta_i = dout_i·out_i:  dv_j += p_ij dout_i;  ds_ij = p_ij (dout_i·v_j − delta_i);
 *   dq_i = scale Σ_j ds_ij k_j;  dk_j += scale ds_ij q_i
 *
 * Query i stands at position q0+i and sees keys j with max(0, q0+i−window+1) <= j <= q0+i, j < tk (window 0:
 * no lower end). A query that sees no key has output 0 and lse −∞, and passes no gradient. */
#include "kernels/scalar/real.h"

static void LC_REF(visible)(int64_t position, int64_t window, int64_t tk, int64_t *first, int64_t *end) {
  *first = window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
  *end = position + 1 < tk ? position + 1 : tk;
}

static void LC_REF(attention)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, real scale,
                              const real *q, int64_t ldq, const real *k, int64_t ldk, const real *v,
                              int64_t ldv, real *out, int64_t ldo, real *lse, real *scratch) {
  (void)scratch;
  for (int64_t i = 0; i < tq; i++) {
    real max = -INFINITY, *o = out + i * ldo;
    double sum = 0;
    int64_t first, end;
    for (int64_t d = 0; d < D; d++) o[d] = 0;
    LC_REF(visible)(q0 + i, window, tk, &first, &end);
    for (int64_t j = first; j < end; j++) {
      real s = scale * LC_REF(dot)(D, q + i * ldq, k + j * ldk);
      if (s > max) { /* what was summed so far was relative to the old maximum */
        real shrink = r_exp(max - s);
        sum *= (double)shrink;
        for (int64_t d = 0; d < D; d++) o[d] *= shrink;
        max = s;
      }
      real p = r_exp(s - max);
      sum += (double)p;
      for (int64_t d = 0; d < D; d++) o[d] += p * v[j * ldv + d];
    }
    real inverse = sum > 0 ? (real)(1 / sum) : 0;
    for (int64_t d = 0; d < D; d++) o[d] *= inverse;
    lse[i] = sum > 0 ? max + (real)log(sum) : -INFINITY;
  }
}

static void LC_REF(attention_back)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, real scale,
                                   const real *q, int64_t ldq, const real *k, int64_t ldk, const real *v,
                                   int64_t ldv, const real *dout, int64_t lddo, const real *lse,
                                   const real *delta, real *dq, int64_t lddq, real *dk, int64_t lddk,
                                   real *dv, int64_t lddv, real *scratch) {
  (void)scratch;
  for (int64_t i = 0; i < tq; i++) {
    const real *qi = q + i * ldq, *doi = dout + i * lddo;
    real *dqi = dq + i * lddq;
    int64_t first, end;
    for (int64_t d = 0; d < D; d++) dqi[d] = 0;
    LC_REF(visible)(q0 + i, window, tk, &first, &end);
    for (int64_t j = first; j < end; j++) {
      const real *kj = k + j * ldk;
      real p = r_exp(scale * LC_REF(dot)(D, qi, kj) - lse[i]);
      real ds = scale * p * (LC_REF(dot)(D, doi, v + j * ldv) - delta[i]);
      LC_REF(axpy)(D, p, doi, dv + j * lddv);
      LC_REF(axpy)(D, ds, qi, dk + j * lddk);
      LC_REF(axpy)(D, ds, kj, dqi);
    }
  }
}
