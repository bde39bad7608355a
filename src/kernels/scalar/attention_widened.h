/* Attention in bf16 where there are no bf16 products, the scalar table included: everything is widened, keys and
 * values once, and the f32 kernel of the same instruction set multiplies. LC_WIDENED gives that kernel's name. Without
 * a causal mask queries stand behind the last key. */

/* (n,D) to f32 rows ld apart. */
static void LC_WIDENED(widen_rows)(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, float *out,
                                   int64_t ldo) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < D; d++) out[i * ldo + d] = lc_bf16_to_f32(rows[i * ld + d]);
}

static void LC_WIDENED(attention_pack)(const lc_attention_shape *s, bool back, const uint16_t *k, int64_t ldk,
                                       const uint16_t *v, int64_t ldv, void *packed) {
  (void)back;
  float *wide = packed;
  LC_WIDENED(widen_rows)(s->tk, s->D, k, ldk, wide, s->D);
  LC_WIDENED(widen_rows)(s->tk, s->D, v, ldv, wide + s->tk * s->D, s->D);
}

/* The keys that a tile's f32 kernel walks over. */
static inline int64_t LC_WIDENED(reach)(const lc_attention_shape *s, int64_t tq, int64_t q0) {
  return s->causal ? lc_min64(s->tk, q0 + tq) : s->tk;
}

static void LC_WIDENED(attention_bf16)(const lc_attention_shape *s, int64_t tq, int64_t q0, const uint16_t *q,
                                       int64_t ldq, const void *packed, float *out, float *lse,
                                       void *scratch) {
  const float *k = packed, *v = k + s->tk * s->D;
  float *wide = scratch;
  int64_t D = s->D;
  LC_WIDENED(widen_rows)(tq, D, q, ldq, wide, D);
  for (int64_t i = 0; i < tq; i += LC_ATTN_TQ) {
    int64_t n = lc_min64(LC_ATTN_TQ, tq - i);
    LC_WIDENED(attention)
    (n, LC_WIDENED(reach)(s, n, q0 + i), D, s->causal ? q0 + i : s->tk, s->window, s->scale, wide + i * D, D,
     k, D, v, D, out + i * LC_ATTN_LD(D), LC_ATTN_LD(D), lse + i, wide + LC_ATTN_TILE * D);
  }
}

static void LC_WIDENED(attention_back_bf16)(const lc_attention_shape *s, int64_t tq, int64_t q0,
                                            const uint16_t *q, int64_t ldq, const uint16_t *out, int64_t ldo,
                                            const uint16_t *dout, int64_t lddo, const float *lse,
                                            const void *packed, float *dq, float *dk, float *dv,
                                            void *scratch) {
  const float *k = packed, *v = k + s->tk * s->D;
  int64_t D = s->D, ld = LC_ATTN_LD(D);
  float *wq = scratch, *wo = wq + LC_ATTN_TILE * D, *wd = wo + LC_ATTN_TILE * D, delta[LC_ATTN_TILE];
  LC_WIDENED(widen_rows)(tq, D, q, ldq, wq, D);
  LC_WIDENED(widen_rows)(tq, D, out, ldo, wo, D);
  LC_WIDENED(widen_rows)(tq, D, dout, lddo, wd, D);
  for (int64_t i = 0; i < tq; i++) delta[i] = (float)LC_WIDENED(dot)(D, wo + i * D, wd + i * D);
  for (int64_t i = 0; i < tq; i += LC_ATTN_TQ) {
    int64_t n = lc_min64(LC_ATTN_TQ, tq - i);
    LC_WIDENED(attention_back)
    (n, LC_WIDENED(reach)(s, n, q0 + i), D, s->causal ? q0 + i : s->tk, s->window, s->scale, wq + i * D, D, k,
     D, v, D, wd + i * D, D, lse + i, delta + i, dq + i * ld, ld, dk, ld, dv, ld, wd + LC_ATTN_TILE * D);
  }
}
