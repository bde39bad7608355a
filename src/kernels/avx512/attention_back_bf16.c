/* Attention backward in bf16 products, one tile of queries against blocks of 128 keys (attention_bf16.h: panels and
 * tiles). P is computed again from the saved log-sum-exps:
 *
 *   P = 2^(c·S − lse·log2 e),  dS = scale·P∘(dO·Vᵀ − delta),  delta_i = dO_i·O_i
 *   dQ += dS·K             inner dimension keys:    dS in rows, eight queries at a time
 *   dV += Pᵀ·dO, dK += dSᵀ·Q   inner dimension queries: P and dS in pairs of queries, eight keys at a time
 *
 * S and dO·Vᵀ never leave the first-level cache: eight queries of a block are computed, turned into P and dS, and
 * rounded to bf16 in both orders at once. */
#include "kernels/avx512/attention_bf16.h"

enum { BLOCK = 128, PAIRS = TILE / 2 };

typedef struct {
  const lc_attention_shape *s;
  lc_attn_sizes z;
  int64_t tq, q0;
  const float *k, *v, *k_along; /* panels of the sequence */
  lc_attn_rows q, dout;         /* units */
  float *q_along, *dout_along;  /* panels of the tile of queries */
  float lse[TILE], delta[TILE]; /* times log2 e; times scale */
  float *scores, *dp;           /* (8, BLOCK) */
  uint16_t *ds;                 /* (8, BLOCK) */
  float *p_pairs, *ds_pairs;    /* (BLOCK/8, PAIRS, 8): pairs of queries for eight keys */
} backward;

/* Keys `key`.. of a block, 16 of them, as eight pairs a piece in two pieces. */
static inline void put_pairs(float *pairs, int64_t key, int64_t pair, __m512bh rows) {
  __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                   21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i x = _mm512_permutexvar_epi16(order, (__m512i)rows);
  float *at = pairs + (key / ROWS * PAIRS + pair) * ROWS;
  _mm256_storeu_si256((__m256i *)at, _mm512_castsi512_si256(x));
  _mm256_storeu_si256((__m256i *)(at + PAIRS * ROWS), _mm512_extracti64x4_epi64(x, 1));
}

/* Queries i and i+1 (rows r, r+1 of scores and dp), keys of the panels c from key j on. */
static inline void gradients(const backward *w, int64_t i, int r, lc_attn_span c, int64_t j) {
  __m512 factor = v_set(w->s->scale * 1.44269504f), scale = v_set(w->s->scale);
  lc_attn_span seen[2] = {lc_attn_visible(w->s, w->q0 + i), lc_attn_visible(w->s, w->q0 + i + 1)};
  lc_attn_span both = {lc_max64(seen[0].first, seen[1].first), lc_min64(seen[0].end, seen[1].end)};
  __m512 lse[2] = {v_set(w->lse[i]), v_set(w->lse[i + 1])},
         delta[2] = {v_set(w->delta[i]), v_set(w->delta[i + 1])};
  for (int64_t x = c.first; x < c.end; x += LANES) {
    __m512 p[2], ds[2];
    bool whole = j + x >= both.first && j + x + LANES <= both.end;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      int64_t at = (r + h) * BLOCK + x;
      p[h] = lc_attn_exp2(_mm512_fmsub_ps(v_load(w->scores + at), factor, lse[h]));
      if (!whole) p[h] = _mm512_maskz_mov_ps(lc_attn_lanes(seen[h], j + x), p[h]);
      ds[h] = v_mul(p[h], _mm512_fmsub_ps(v_load(w->dp + at), scale, delta[h]));
    }
    __m512bh dsh = _mm512_cvtne2ps_pbh(ds[1], ds[0]);
    put_pairs(w->p_pairs, x, i / 2, _mm512_cvtne2ps_pbh(p[1], p[0]));
    put_pairs(w->ds_pairs, x, i / 2, dsh);
    _mm256_storeu_si256((__m256i *)(w->ds + r * BLOCK + x), _mm512_castsi512_si256((__m512i)dsh));
    _mm256_storeu_si256((__m256i *)(w->ds + (r + 1) * BLOCK + x), _mm512_extracti64x4_epi64((__m512i)dsh, 1));
  }
}

/* Queries i..i+7 against the block of keys from j: P and dS, and dq (8, width) of it. */
static void eight_queries(const backward *w, int64_t i, lc_attn_span c, int64_t j, float *dq, bool add) {
  int64_t units = w->z.units, keys = w->z.keys;
  for (int64_t x = c.first; x < c.end; x += PANEL) {
    lc_attn_tile(w->q.at + i * w->q.row, w->q.row, 1, w->k + (j + x) * units, units, w->scores + x, BLOCK,
                 false);
    lc_attn_tile(w->dout.at + i * w->dout.row, w->dout.row, 1, w->v + (j + x) * units, units, w->dp + x,
                 BLOCK, false);
  }
  for (int r = 0; r < ROWS; r += 2) gradients(w, i + r, r, c, j);
  const float *ds = (const float *)(const void *)(w->ds + c.first),
              *k = w->k_along + (j + c.first) / 2 * PANEL;
  for (int64_t d = 0; d < w->z.width; d += PANEL, k += keys / 2 * PANEL)
    lc_attn_tile(ds, BLOCK / 2, 1, k, (c.end - c.first) / 2, dq + d, w->z.width, add);
}

/* Keys x..x+7 of the block from j: their dv and dk of all queries that see any of them. */
static void eight_keys(const backward *w, int64_t x, int64_t j, float *dk, float *dv) {
  int64_t first = 0, end = lc_ceil_div(w->tq, ROWS) * ROWS, width = w->z.width, panel = end / 2 * PANEL;
  while (first < end && lc_attn_visible(w->s, w->q0 + first + ROWS - 1).end <= j + x) first += ROWS;
  while (first < end && lc_attn_visible(w->s, w->q0 + end - ROWS).first >= j + x + ROWS) end -= ROWS;
  if (first == end) return;
  int64_t a = (x / ROWS * PAIRS + first / 2) * ROWS, b = first / 2 * PANEL, c = (j + x) * width;
  for (int64_t d = 0; d < width; d += PANEL, b += panel)
    lc_attn_tile(w->p_pairs + a, 1, ROWS, w->dout_along + b, (end - first) / 2, dv + c + d, width, true);
  b = first / 2 * PANEL;
  for (int64_t d = 0; d < width; d += PANEL, b += panel)
    lc_attn_tile(w->ds_pairs + a, 1, ROWS, w->q_along + b, (end - first) / 2, dk + c + d, width, true);
}

static void prepare(backward *w, const uint16_t *q, int64_t ldq, const uint16_t *out, int64_t ldo,
                    const uint16_t *dout, int64_t lddo, const float *lse, const void *packed, void *scratch) {
  const lc_attention_shape *s = w->s;
  int64_t whole = lc_ceil_div(w->tq, ROWS) * ROWS;
  w->k = packed, w->v = w->k + w->z.keys * w->z.units, w->k_along = w->v + w->z.keys * w->z.units;
  w->scores = scratch, w->dp = w->scores + ROWS * BLOCK;
  w->p_pairs = w->dp + ROWS * BLOCK, w->ds_pairs = w->p_pairs + BLOCK * PAIRS;
  w->q_along = w->ds_pairs + BLOCK * PAIRS, w->dout_along = w->q_along + PAIRS * w->z.width;
  w->ds = (uint16_t *)(void *)(w->dout_along + PAIRS * w->z.width);
  uint16_t *copy = w->ds + ROWS * BLOCK;
  w->q = lc_attn_rows_of(w->tq, s->D, q, ldq, copy);
  w->dout = lc_attn_rows_of(w->tq, s->D, dout, lddo, copy + TILE * 2 * w->z.units);
  lc_attn_pack_along(w->tq, whole / 2, s->D, q, ldq, w->q_along);
  lc_attn_pack_along(w->tq, whole / 2, s->D, dout, lddo, w->dout_along);
  for (int64_t i = 0; i < whole; i++) { /* rows behind the last: P is 0 */
    w->lse[i] = i < w->tq ? lse[i] * 1.44269504f : INFINITY;
    w->delta[i] = i < w->tq ? s->scale * lc_attn_dot(s->D, out + i * ldo, dout + i * lddo) : 0;
  }
}

void lc_avx512_bf16_attention_back(const lc_attention_shape *s, int64_t tq, int64_t q0, const uint16_t *q,
                                   int64_t ldq, const uint16_t *out, int64_t ldo, const uint16_t *dout,
                                   int64_t lddo, const float *lse, const void *packed, float *dq, float *dk,
                                   float *dv, void *scratch) {
  backward w = {.s = s, .z = lc_attn_sizes_of(s), .tq = tq, .q0 = q0};
  prepare(&w, q, ldq, out, ldo, dout, lddo, lse, packed, scratch);
  bool written[TILE / ROWS] = {false};
  for (int64_t j = 0; j < s->tk; j += BLOCK) {
    int64_t end = lc_min64(j + BLOCK, w.z.keys), touched = 0;
    for (int64_t i = 0; i < tq; i += ROWS) {
      lc_attn_span c = lc_attn_panels(s, q0 + i, ROWS, j, end);
      if (c.end <= c.first) continue;
      eight_queries(&w, i, c, j, dq + i * w.z.width, written[i / ROWS]);
      written[i / ROWS] = true, touched = lc_max64(touched, c.end);
    }
    for (int64_t x = 0; x < touched; x += ROWS) eight_keys(&w, x, j, dk, dv);
  }
  for (int64_t i = 0; i < tq; i += ROWS)
    if (!written[i / ROWS]) memset(dq + i * w.z.width, 0, (size_t)(ROWS * w.z.width) * sizeof *dq);
}
