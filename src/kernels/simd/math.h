/* exp, the logistic function and erf in f32 vectors, to 1–2 units in the last place. The polynomials are
 * minimax fits (Remez exchange) of relative error below 2^-27, made for this file: exp:  x = n·ln2 + r, |r|
 * <= ln2/2;  e^r = 1 + r + r²·q(r), q of degree 4;  times 2^n erf:  |x| < 1: x·p(x²), p of degree 6;  beyond:
 * 1 − exp(s(x)), s of degree 6 a fit of log erfc on [0.95, 4.1] */
#ifndef LC_SIMD_MATH_H
#define LC_SIMD_MATH_H

static inline vf v_exp(vf x) {
  x = v_max(v_set(-104.0f), v_min(v_set(89.0f), x)); /* 0 and infinity beyond; NaN stays */
  vf n = v_round(v_mul(x, v_set(1.44269504f)));
  vf r = v_fnma(n, v_set(0.693147182f), x); /* ln2 in two parts */
  r = v_fnma(n, v_set(-1.90465421e-9f), r);
  vf q = v_set(1.38145406e-3f);
  q = v_fma(q, r, v_set(8.36874545e-3f));
  q = v_fma(q, r, v_set(4.16683890e-2f));
  q = v_fma(q, r, v_set(1.66665211e-1f));
  q = v_fma(q, r, v_set(4.99999940e-1f));
  vf p = v_add(v_set(1.0f), v_fma(v_mul(r, r), q, r));
  return v_scale2(p, n);
}

/* σ(x) = 1/(1+e^−x) and σ(−x) = e^−x·σ(x), each without cancellation. */
static inline vf v_sigmoid_pair(vf x, vf *minus) {
  vf e = v_exp(v_min(v_set(80.0f), v_sub(v_set(0.0f), x)));
  vf s = v_div(v_set(1.0f), v_add(v_set(1.0f), e));
  *minus = v_mul(e, s);
  return s;
}

static inline vf v_erf(vf x) {
  vf a = v_abs(x), u = v_mul(x, x);
  vf p = v_set(7.85386073e-5f);
  p = v_fma(p, u, v_set(-8.01019371e-4f));
  p = v_fma(p, u, v_set(5.18832775e-3f));
  p = v_fma(p, u, v_set(-2.68538129e-2f));
  p = v_fma(p, u, v_set(1.12835854e-1f));
  p = v_fma(p, u, v_set(-3.76126260e-1f));
  p = v_fma(p, u, v_set(1.12837911f));
  vf b = v_min(v_set(4.1f), a);
  vf s = v_set(1.92425068e-4f);
  s = v_fma(s, b, v_set(-3.00852815e-3f));
  s = v_fma(s, b, v_set(2.20876075e-2f));
  s = v_fma(s, b, v_set(-1.03640258e-1f));
  s = v_fma(s, b, v_set(-6.37517095e-1f));
  s = v_fma(s, b, v_set(-1.12747490f));
  s = v_fma(s, b, v_set(-2.44723517e-4f));
  vf far = v_copysign(v_sub(v_set(1.0f), v_exp(s)), x);
  return v_if_less(a, v_set(1.0f), v_mul(x, p), far);
}

#endif
