/* Attention backward in bf16 by tiles, one tile of queries against 128 keys at a time. Everything is computed with keys along the rows, so that
 * P and dS, rounded to bf16, are the left operands of two of the three products as they are written; dS is transposed for the third:
 *
 *   Pᵀ = 2^(c·K·Qᵀ − lse·log2 e),  dSᵀ = scale·Pᵀ∘(V·dOᵀ − delta),  delta_i = dO_i·O_i,  c = scale·log2 e
 *   dV += Pᵀ·dO,  dK += dSᵀ·Q,  dQ += dS·K
 *
 * Panels of 32 queries and 32 keys of which none sees the other are skipped. */
#include "kernels/amx/attention.h"

enum { KEYS = 128, PANELS = TILE / PANEL };

typedef struct {
  const lc_attention_shape *s;
  int64_t tq, q0, keys, width;       /* keys, width: padded */
  const uint16_t *k, *v, *k_columns; /* of the sequence */
  uint16_t *q, *dout, *q_columns,
      *dout_columns; /* of the tile of queries: columns of K·Qᵀ and V·dOᵀ, of dSᵀ·Q and Pᵀ·dO */
  float lse[TILE], delta[TILE]; /* times log2 e; times scale */
  float *scores, *dp;           /* (PANELS, 32 keys, 32 queries) */
  uint16_t *p, *ds, *ds_rows;   /* the same in bf16, ds for KEYS; dS of a panel of queries */
} backward;

/* The queries of the tile that see a key. */
static lc_attn_span seers(const backward *w, int64_t key) {
  const lc_attention_shape *s = w->s;
  if (key >= s->tk) return (lc_attn_span){0, 0};
  if (!s->causal) return (lc_attn_span){0, TILE};
  return (lc_attn_span){key - w->q0, s->window > 0 ? key + s->window - w->q0 : TILE};
}

/* The panels of queries, from the first to the end, that see any of the 32 keys from `key`. */
static lc_attn_span seeing(const backward *w, int64_t key) {
  int64_t first = 0, end = lc_ceil_div(w->tq, PANEL) * PANEL;
  while (first < end && lc_attn_visible(w->s, w->q0 + first + PANEL - 1).end <= key) first += PANEL;
  while (first < end && lc_attn_visible(w->s, w->q0 + end - PANEL).first >= key + PANEL) end -= PANEL;
  return (lc_attn_span){first, end};
}

/* Queries i..i+31 and the 32 keys from `key`: scores and dp to p and ds. */
static void gradients(const backward *w, int64_t i, int64_t key, uint16_t *ds) {
  __m512 factor = v_set(w->s->scale * 1.44269504f), scale = v_set(w->s->scale);
  const float *scores = w->scores + i * PANEL, *dp = w->dp + i * PANEL;
  uint16_t *p = w->p + i * PANEL;
  __m512 lse[2] = {v_load(w->lse + i), v_load(w->lse + i + LANES)},
         delta[2] = {v_load(w->delta + i), v_load(w->delta + i + LANES)};
  for (int r = 0; r < PANEL; r++) {
    lc_attn_span seen = seers(w, key + r);
    bool whole = seen.first <= i && seen.end >= i + PANEL;
    __m512 x[2], d[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      int64_t at = r * PANEL + h * LANES;
      x[h] = lc_attn_exp2(_mm512_fmsub_ps(v_load(scores + at), factor, lse[h]));
      if (!whole) x[h] = _mm512_maskz_mov_ps(lc_attn_lanes(seen, i + h * LANES), x[h]);
      d[h] = v_mul(x[h], _mm512_fmsub_ps(v_load(dp + at), scale, delta[h]));
    }
    _mm512_storeu_si512(p + r * PANEL, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    _mm512_storeu_si512(ds + r * PANEL, (__m512i)_mm512_cvtne2ps_pbh(d[1], d[0]));
  }
}

/* 32 keys from `key` against the queries that see any: ds, and dk and dv of it. */
static void panel_of_keys(const backward *w, int64_t key, uint16_t *ds, float *dk, float *dv) {
  lc_attn_span c = seeing(w, key);
  int64_t width = w->width, columns = lc_ceil_div(w->tq, PANEL) * BLOCK;
  for (int64_t i = c.first; i < c.end; i += PANEL) {
    lc_amx_product(width / PANEL, w->k + key * width, BLOCK, w->q + i * width, BLOCK, w->scores + i * PANEL,
                   PANEL, false);
    lc_amx_product(width / PANEL, w->v + key * width, BLOCK, w->dout + i * width, BLOCK, w->dp + i * PANEL,
                   PANEL, false);
    gradients(w, i, key, ds + i * PANEL);
  }
  int64_t steps = (c.end - c.first) / PANEL, at = c.first * PANEL;
  for (int64_t d = 0; steps > 0 && d < width; d += PANEL) {
    int64_t b = d / PANEL * columns + at;
    lc_amx_product(steps, w->p + at, BLOCK, w->dout_columns + b, BLOCK, dv + key * width + d, width, true);
    lc_amx_product(steps, ds + at, BLOCK, w->q_columns + b, BLOCK, dk + key * width + d, width, true);
  }
}

/* 32 queries from i and the panels c of the keys from j, whose ds are done: dq (32, width) of it. */
static void panel_of_queries(const backward *w, int64_t i, lc_attn_span c, int64_t j, float *dq, bool add) {
  for (int64_t x = c.first; x < c.end; x += PANEL) {
    lc_gemm_lines lines = {w->ds + x * TILE + i * PANEL, LC_BF16, 1, PANEL};
    lc_amx_pack_a(&lines, 0, PANEL, 0, PANEL, w->ds_rows + x * PANEL);
  }
  const uint16_t *k = w->k_columns + (j + c.first) * PANEL;
  for (int64_t d = 0; d < w->width; d += PANEL, k += w->keys * PANEL)
    lc_amx_product((c.end - c.first) / PANEL, w->ds_rows + c.first * PANEL, BLOCK, k, BLOCK, dq + d, w->width,
                   add);
}

static void prepare(backward *w, const uint16_t *q, int64_t ldq, const uint16_t *out, int64_t ldo,
                    const uint16_t *dout, int64_t lddo, const float *lse, const void *packed, void *scratch) {
  const lc_attention_shape *s = w->s;
  int64_t of_keys = w->keys * w->width, of_queries = TILE * w->width;
  w->k = packed, w->v = w->k + of_keys, w->k_columns = w->v + of_keys;
  w->scores = scratch, w->dp = w->scores + PANEL * TILE;
  w->p = (uint16_t *)(void *)(w->dp + PANEL * TILE), w->ds = w->p + PANEL * TILE,
  w->ds_rows = w->ds + KEYS * TILE;
  w->q = w->ds_rows + PANEL * KEYS, w->dout = w->q + of_queries;
  w->q_columns = w->dout + of_queries, w->dout_columns = w->q_columns + of_queries;
  lc_amx_rows_to_b(w->tq, s->D, q, ldq, w->q);
  lc_amx_rows_to_b(w->tq, s->D, dout, lddo, w->dout);
  lc_amx_columns_to_b(w->tq, s->D, q, ldq, w->q_columns);
  lc_amx_columns_to_b(w->tq, s->D, dout, lddo, w->dout_columns);
  for (int64_t i = 0; i < TILE; i++) { /* rows behind the last: P is 0 */
    w->lse[i] = i < w->tq ? lse[i] * 1.44269504f : INFINITY;
    w->delta[i] = i < w->tq ? s->scale * lc_attn_dot(s->D, out + i * ldo, dout + i * lddo) : 0;
  }
}

void lc_amx_attention_back(const lc_attention_shape *s, int64_t tq, int64_t q0, const uint16_t *q,
                           int64_t ldq, const uint16_t *out, int64_t ldo, const uint16_t *dout, int64_t lddo,
                           const float *lse, const void *packed, float *dq, float *dk, float *dv,
                           void *scratch) {
  backward w = {.s = s, .tq = tq, .q0 = q0, .keys = LC_ATTN_KEYS(s->tk), .width = LC_ATTN_LD(s->D)};
  prepare(&w, q, ldq, out, ldo, dout, lddo, lse, packed, scratch);
  bool written[PANELS] = {false};
  lc_amx_start();
  for (int64_t j = 0; j < s->tk; j += KEYS) {
    int64_t end = lc_min64(j + KEYS, w.keys);
    for (int64_t x = j; x < end; x += PANEL) panel_of_keys(&w, x, w.ds + (x - j) * TILE, dk, dv);
    for (int64_t i = 0; i < tq; i += PANEL) {
      lc_attn_span c = lc_attn_panels(s, q0 + i, PANEL, j, end);
      if (c.end <= c.first) continue;
      panel_of_queries(&w, i, c, j, dq + i * w.width, written[i / PANEL]);
      written[i / PANEL] = true;
    }
  }
  lc_amx_end();
  for (int64_t i = 0; i < tq; i += PANEL)
    if (!written[i / PANEL]) memset(dq + i * w.width, 0, (size_t)(PANEL * w.width) * sizeof *dq);
}
