/* Attention of one head, one tile of queries: scalar/attention.h says what it is.
 *
 * Everything is kept transposed, with queries across the lanes: GROUP queries are packed once to Qᵀ
 * (D,GROUP), and a block of 64 keys gives Sᵀ (64,GROUP) = K·Qᵀ,   m, l, P = exp(S−m): down the rows, so
 * maxima and sums need no horizontal step, Oᵀ (D,GROUP) = Oᵀ·exp(m_old−m) + Vᵀ·Pᵀ K and V are read where they
 * stand, as broadcast elements; only the queries and the output are ever transposed. Backward: Pᵀ = exp(K·Qᵀ
 * − lse);  dSᵀ = scale·Pᵀ∘(V·dOᵀ − delta);  dQᵀ += Kᵀ·dSᵀ;  dV += Pᵀ·dO;  dK += dSᵀ·Q Blocks of keys begin at
 * multiples of 64, and a key that a query does not see contributes exactly nothing; so a query's result does
 * not depend on the others in its group. Key blocks that no query of the group sees are never touched. Up to
 * ROWS queries (decoding) go one by one instead, with D across the lanes. */
#include "kernels/avx2/avx2.h"
#include "kernels/simd/attention_tile.h"

enum { GROUP = 32, KEYS = LC_ATTN_TK, SUBS = GROUP / ATTN_NR, GROUP_VECTORS = GROUP / LANES, ROWS = 8 };
#define LC_ATTN_LOWEST (-1e30f) /* below every score, and finite: a difference of two is never NaN */

/* A group of n queries, the first at `position`, and the keys [begin,end) that any of them sees. */
typedef struct {
  int64_t n, D, position, window, begin, end;
} LC_SIMD(group);

static LC_SIMD(group) LC_SIMD(group_of)(int64_t n, int64_t D, int64_t tk, int64_t position, int64_t window) {
  int64_t begin = window > 0 ? lc_max64(0, position - window + 1) : 0;
  return (LC_SIMD(group)){n, D, position, window, begin / KEYS * KEYS, lc_min64(tk, position + n)};
}

/* (n,D) rows to (D,GROUP), times a factor; absent queries are zeros. */
static void LC_SIMD(attn_pack)(int64_t n, int64_t D, const float *rows, int64_t ld, float factor,
                               float *packed) {
  if (n < GROUP) memset(packed, 0, sizeof(float) * (size_t)(D * GROUP));
  lc_avx2_transpose_f32(n, D, rows, ld, packed, GROUP);
  if (factor != 1) LC_SIMD(scale)(D * GROUP, factor, packed);
}

/* Replaces by `other` what query lanes of a row of key j do not see. */
static inline vf LC_SIMD(attn_mask)(const LC_SIMD(group) * g, int64_t j, int vector, vf s, vf other) {
  int64_t lane0 = g->position + vector * LANES; /* position of lane 0 */
  int64_t first = lc_min64(LANES, lc_max64(0, j - lane0));
  int64_t end = g->window > 0 ? lc_min64(LANES, lc_max64(0, j + g->window - lane0)) : LANES;
  return v_keep(v_keep(other, first, s), end, other);
}

/* Whether every query of the group sees every key of [j,j1). */
static inline bool LC_SIMD(attn_all_visible)(const LC_SIMD(group) * g, int64_t j, int64_t j1) {
  return j1 - 1 <= g->position && (g->window <= 0 || j > g->position + GROUP - 1 - g->window);
}

/* Aᵀ (count,GROUP) = rows (count,D) · packed (D,GROUP). */
static void LC_SIMD(attn_scores)(const LC_SIMD(group) * g, int64_t count, const float *rows, int64_t ld,
                                 const float *packed, float *out) {
  for (int64_t sub = 0; sub < g->n; sub += ATTN_NR) {
    LC_SIMD(factors) p = {rows, ld, 1, packed + sub, GROUP, g->D};
    LC_SIMD(attn_product)(count, &p, NULL, out + sub, GROUP);
  }
}

/* packedᵀ (D,GROUP) = packed·f + rowsᵀ (D,count) · weights (count,GROUP). */
static void LC_SIMD(attn_gather)(const LC_SIMD(group) * g, int64_t count, const float *rows, int64_t ld,
                                 const float *weights, const vf *f, float *packed) {
  for (int64_t sub = 0; sub < g->n; sub += ATTN_NR) {
    LC_SIMD(factors) p = {rows, 1, ld, weights + sub, GROUP, count};
    LC_SIMD(attn_product)(g->D, &p, f + sub / LANES, packed + sub, GROUP);
  }
}

/* S to P in place for keys [j,j1); running maximum m and sum l; f: what earlier sums shrink by. */
static void LC_SIMD(attn_softmax)(const LC_SIMD(group) * g, int64_t j, int64_t j1, float *s, vf *m, vf *l,
                                  vf *f) {
  bool all = LC_SIMD(attn_all_visible)(g, j, j1);
  for (int v = 0; v * LANES < g->n; v++) {
    float *column = s + v * LANES;
    vf max = m[v], sum = v_set(0);
    for (int64_t i = 0; i < j1 - j; i++) {
      vf x = v_load(column + i * GROUP);
      if (!all) v_store(column + i * GROUP, x = LC_SIMD(attn_mask)(g, j + i, v, x, v_set(-INFINITY)));
      max = v_max(max, x);
    }
    for (int64_t i = 0; i < j1 - j; i++) {
      vf p = v_exp(v_sub(v_load(column + i * GROUP), max));
      v_store(column + i * GROUP, p);
      sum = v_add(sum, p);
    }
    f[v] = v_exp(v_sub(m[v], max));
    l[v] = v_fma(l[v], f[v], sum);
    m[v] = max;
  }
}

static void LC_SIMD(attn_group)(const LC_SIMD(group) * g, float scale, const float *q, int64_t ldq,
                                const float *k, int64_t ldk, const float *v, int64_t ldv, float *out,
                                int64_t ldo, float *lse, float *scratch) {
  float *qt = scratch, *ot = qt + g->D * GROUP, *s = ot + g->D * GROUP, sums[GROUP], maxima[GROUP];
  vf m[GROUP_VECTORS], l[GROUP_VECTORS], f[GROUP_VECTORS];
  LC_SIMD(attn_pack)(g->n, g->D, q, ldq, scale, qt);
  memset(ot, 0, sizeof(float) * (size_t)(g->D * GROUP));
  for (int i = 0; i < GROUP_VECTORS; i++) m[i] = v_set(LC_ATTN_LOWEST), l[i] = v_set(0);
  for (int64_t j = g->begin; j < g->end; j += KEYS) {
    int64_t j1 = lc_min64(j + KEYS, g->end);
    LC_SIMD(attn_scores)(g, j1 - j, k + j * ldk, ldk, qt, s);
    LC_SIMD(attn_softmax)(g, j, j1, s, m, l, f);
    LC_SIMD(attn_gather)(g, j1 - j, v + j * ldv, ldv, s, f, ot);
  }
  for (int i = 0; i < GROUP_VECTORS; i++) {
    v_store(sums + i * LANES, l[i]);
    v_store(maxima + i * LANES, m[i]);
    f[i] = v_if_less(v_set(0), l[i], v_div(v_set(1), l[i]), v_set(0));
  }
  for (int64_t i = 0; i < g->n; i++) lse[i] = sums[i] > 0 ? maxima[i] + logf(sums[i]) : -INFINITY;
  for (int64_t d = 0; d < g->D; d++)
    for (int i = 0; i < GROUP_VECTORS; i++)
      v_store(ot + d * GROUP + i * LANES, v_mul(f[i], v_load(ot + d * GROUP + i * LANES)));
  lc_avx2_transpose_f32(g->D, g->n, ot, GROUP, out, ldo);
}

static inline float *LC_SIMD(attn_aligned)(float *scratch) {
  return (float *)(((uintptr_t)scratch + 63) / 64 * 64); /* LC_ATTN_SCRATCH has 64 floats to spare */
}

/* One query: D across the lanes, key by key. */
static void LC_SIMD(attn_row)(const LC_SIMD(group) * g, float scale, const float *q, const float *k,
                              int64_t ldk, const float *v, int64_t ldv, float *out, float *lse) {
  int64_t first = g->window > 0 ? lc_max64(0, g->position - g->window + 1) : 0;
  float max = LC_ATTN_LOWEST, sum = 0, s[KEYS];
  memset(out, 0, sizeof(float) * (size_t)g->D);
  for (int64_t block = g->begin; block < g->end; block += KEYS) {
    int64_t j = lc_max64(block, first), count = lc_min64(block + KEYS, g->end) - j;
    if (count <= 0) continue;
    for (int64_t i = 0; i < count; i++) s[i] = scale * LC_SIMD(dot)(g->D, q, k + (j + i) * ldk);
    float above = fmaxf(max, LC_SIMD(row_max)(count, s)), shrink = expf(max - above);
    sum = sum * shrink + LC_SIMD(exp_sum)(count, s, above, s);
    max = above;
    for (int64_t d = 0; d < g->D; d += 4 * LANES) {
      vf o[4];
      int64_t n[4];
      for (int u = 0; u < 4; u++) n[u] = lc_min64(LANES, lc_max64(0, g->D - d - u * LANES));
      for (int u = 0; u < 4; u++) o[u] = v_mul(v_set(shrink), LC_SIMD(at)(out + d + u * LANES, n[u]));
      for (int64_t i = 0; i < count; i++) {
        const float *row = v + (j + i) * ldv + d;
        vf p = v_set(s[i]);
        if (n[3] == LANES)
          for (int u = 0; u < 4; u++) o[u] = v_fma(p, v_load(row + u * LANES), o[u]);
        else
          for (int u = 0; u < 4 && n[u]; u++) o[u] = v_fma(p, LC_SIMD(at)(row + u * LANES, n[u]), o[u]);
      }
      for (int u = 0; u < 4 && n[u]; u++) LC_SIMD(put)(out + d + u * LANES, o[u], n[u]);
    }
  }
  LC_SIMD(scale)(g->D, sum > 0 ? 1 / sum : 0, out);
  *lse = sum > 0 ? max + logf(sum) : -INFINITY;
}

static void LC_SIMD(attention)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, float scale,
                               const float *q, int64_t ldq, const float *k, int64_t ldk, const float *v,
                               int64_t ldv, float *out, int64_t ldo, float *lse, float *scratch) {
  int64_t step = tq <= ROWS ? 1 : GROUP;
  for (int64_t i = 0; i < tq; i += step) {
    LC_SIMD(group) g = LC_SIMD(group_of)(lc_min64(step, tq - i), D, tk, q0 + i, window);
    if (step == 1)
      LC_SIMD(attn_row)(&g, scale, q + i * ldq, k, ldk, v, ldv, out + i * ldo, lse + i);
    else
      LC_SIMD(attn_group)
    (&g, scale, q + i * ldq, ldq, k, ldk, v, ldv, out + i * ldo, ldo, lse + i,
     LC_SIMD(attn_aligned)(scratch));
  }
}

/* P from S, and dS from P and dP, in place. */
static void LC_SIMD(attn_gradients)(const LC_SIMD(group) * g, int64_t j, int64_t j1, float scale,
                                    const float *lse, const float *delta, float *s, float *dp) {
  bool all = LC_SIMD(attn_all_visible)(g, j, j1);
  for (int v = 0; v * LANES < g->n; v++) {
    vf at_lse = v_load(lse + v * LANES), at_delta = v_load(delta + v * LANES), factor = v_set(scale);
    for (int64_t i = 0; i < j1 - j; i++) {
      float *x = s + i * GROUP + v * LANES, *y = dp + i * GROUP + v * LANES;
      vf p = v_exp(v_sub(v_load(x), at_lse));
      if (!all) p = LC_SIMD(attn_mask)(g, j + i, v, p, v_set(0));
      v_store(x, p);
      v_store(y, v_mul(v_mul(factor, p), v_sub(v_load(y), at_delta)));
    }
  }
}

/* C (count,D) += weights (count,GROUP) · rows (n,width), for keys from j on; queries before the strip's first
 * key see none of it. */
static void LC_SIMD(attn_scatter)(const LC_SIMD(group) * g, int64_t j, int64_t count, const float *weights,
                                  const float *rows, int64_t width, float *c, int64_t ldc) {
  for (int64_t i = 0; i < count; i += ATTN_MR) {
    int64_t first = lc_min64(g->n, lc_max64(0, j + i - g->position)), keys = lc_min64(ATTN_MR, count - i);
    for (int64_t d = 0; d < g->D; d += ATTN_NR) {
      LC_SIMD(factors)
      p = {weights + i * GROUP + first, GROUP, 1, rows + first * width + d, width, g->n - first};
      LC_SIMD(attn_product_add)(keys, &p, c + i * ldc + d, ldc, lc_min64(ATTN_NR, g->D - d));
    }
  }
}

/* (n,D) rows to (n,width) without gaps, zeros behind D: what register tiles may read whole. */
static void LC_SIMD(attn_copy)(int64_t n, int64_t D, const float *rows, int64_t ld, int64_t width,
                               float *out) {
  for (int64_t i = 0; i < n; i++) {
    memcpy(out + i * width, rows + i * ld, sizeof(float) * (size_t)D);
    memset(out + i * width + D, 0, sizeof(float) * (size_t)(width - D));
  }
}

static void LC_SIMD(attention_back)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window,
                                    float scale, const float *q, int64_t ldq, const float *k, int64_t ldk,
                                    const float *v, int64_t ldv, const float *dout, int64_t lddo,
                                    const float *lse, const float *delta, float *dq, int64_t lddq, float *dk,
                                    int64_t lddk, float *dv, int64_t lddv, float *scratch) {
  int64_t width = lc_ceil_div(D, ATTN_NR) * ATTN_NR;
  float *qt = LC_SIMD(attn_aligned)(scratch), *dot = qt + D * GROUP, *dqt = dot + D * GROUP,
        *s = dqt + D * GROUP, *dp = s + KEYS * GROUP;
  float *q_rows = dp + KEYS * GROUP, *do_rows = q_rows + GROUP * width;
  vf one[GROUP_VECTORS];
  for (int i = 0; i < GROUP_VECTORS; i++) one[i] = v_set(1);
  for (int64_t i = 0; i < tq; i += GROUP) {
    LC_SIMD(group) g = LC_SIMD(group_of)(lc_min64(GROUP, tq - i), D, tk, q0 + i, window);
    float at_lse[GROUP] = {0}, at_delta[GROUP] = {0};
    memcpy(at_lse, lse + i, sizeof(float) * (size_t)g.n);
    memcpy(at_delta, delta + i, sizeof(float) * (size_t)g.n);
    LC_SIMD(attn_pack)(g.n, D, q + i * ldq, ldq, scale, qt);
    LC_SIMD(attn_pack)(g.n, D, dout + i * lddo, lddo, 1, dot);
    LC_SIMD(attn_copy)(g.n, D, q + i * ldq, ldq, width, q_rows);
    LC_SIMD(attn_copy)(g.n, D, dout + i * lddo, lddo, width, do_rows);
    memset(dqt, 0, sizeof(float) * (size_t)(D * GROUP));
    for (int64_t j = g.begin; j < g.end; j += KEYS) {
      int64_t j1 = lc_min64(j + KEYS, g.end);
      LC_SIMD(attn_scores)(&g, j1 - j, k + j * ldk, ldk, qt, s);
      LC_SIMD(attn_scores)(&g, j1 - j, v + j * ldv, ldv, dot, dp);
      LC_SIMD(attn_gradients)(&g, j, j1, scale, at_lse, at_delta, s, dp);
      LC_SIMD(attn_gather)(&g, j1 - j, k + j * ldk, ldk, dp, one, dqt);
      LC_SIMD(attn_scatter)(&g, j, j1 - j, s, do_rows, width, dv + j * lddv, lddv);
      LC_SIMD(attn_scatter)(&g, j, j1 - j, dp, q_rows, width, dk + j * lddk, lddk);
    }
    lc_avx2_transpose_f32(D, g.n, dqt, GROUP, dq + i * lddq, lddq);
  }
}
