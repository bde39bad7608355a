/* Attention forward in bf16 by tiles, 32 queries at a time, as in avx512/attention_bf16.c:
 *
 *   S (32, keys) = Q·Kᵀ;  m, l and P = 2^(c·(S−m)) along the rows, c = scale·log2 e;  O = O·shrink + P·V
 *
 * over at most 512 keys at a time. S and P stand panel by panel, 32 rows of 32 keys: P, rounded to bf16, is the left operand of P·V as it is
 * written. Panels of keys that none of the 32 sees are skipped. */
#include "kernels/amx/attention.h"

enum { KEYS = 512 };

/* ---- packing ---- */

void lc_amx_rows_to_a(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out) {
  lc_gemm_lines lines = {rows, LC_BF16, ld, 1};
  for (int64_t i = 0; i < n; i += PANEL, out += PANEL * LC_ATTN_LD(D))
    lc_amx_pack_a(&lines, i, lc_min64(PANEL, n - i), 0, D, out);
}

void lc_amx_rows_to_b(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out) {
  lc_gemm_lines lines = {rows, LC_BF16, ld, 1};
  for (int64_t i = 0; i < n; i += PANEL, out += PANEL * LC_ATTN_LD(D))
    lc_amx_pack_b(&lines, i, lc_min64(PANEL, n - i), 0, D, out);
}

void lc_amx_columns_to_b(int64_t n, int64_t D, const uint16_t *rows, int64_t ld, uint16_t *out) {
  lc_gemm_lines lines = {rows, LC_BF16, 1, ld};
  for (int64_t d = 0; d < D; d += PANEL, out += PANEL * LC_ATTN_KEYS(n))
    lc_amx_pack_b(&lines, d, lc_min64(PANEL, D - d), 0, n, out);
}

/* Forward: keys as columns of Q·Kᵀ, values as columns of P·V. Backward: keys and values as rows of K·Qᵀ and V·dOᵀ, keys as columns of dS·K. */
void lc_amx_attention_pack(const lc_attention_shape *s, bool back, const uint16_t *k, int64_t ldk,
                           const uint16_t *v, int64_t ldv, void *packed) {
  uint16_t *p = packed;
  int64_t each = LC_ATTN_KEYS(s->tk) * LC_ATTN_LD(s->D);
  if (!back) {
    lc_amx_rows_to_b(s->tk, s->D, k, ldk, p);
    lc_amx_columns_to_b(s->tk, s->D, v, ldv, p + each);
    return;
  }
  lc_amx_rows_to_a(s->tk, s->D, k, ldk, p);
  lc_amx_rows_to_a(s->tk, s->D, v, ldv, p + each);
  lc_amx_columns_to_b(s->tk, s->D, k, ldk, p + 2 * each);
}

/* ---- forward ---- */

typedef struct {
  const lc_attention_shape *s;
  int64_t keys, width;   /* padded */
  const uint16_t *k, *v; /* packed */
  float *scores;         /* (KEYS/32, 32, 32) */
  uint16_t *p, *q;       /* the same in bf16; a panel of queries */
} forward;

typedef struct {
  float max[PANEL];
  __m512 l[PANEL];
} running;

/* 32 queries from `position` and the panels c of keys from j. */
static void some_keys(const forward *w, int64_t position, int64_t j, lc_attn_span c, running *at, float *out,
                      bool fresh) {
  const lc_attention_shape *s = w->s;
  int64_t width = w->width;
  for (int64_t i = c.first; i < c.end; i += PANEL)
    lc_amx_product(width / PANEL, w->q, BLOCK, w->k + (j + i) * width, BLOCK, w->scores + i * PANEL, PANEL,
                   false);
  for (int r = 0; r < PANEL; r++) {
    float *row = w->scores + r * PANEL, *o = out + r * width;
    lc_attn_hide(PANEL, row, c, lc_attn_visible(s, position + r), j);
    float shrink =
        lc_attn_softmax_row(PANEL, row, c, s->scale * 1.44269504f, &at->max[r], &at->l[r], w->p + r * PANEL);
    for (int64_t d = 0; !fresh && shrink != 1 && d < width; d += LANES)
      v_store(o + d, v_mul(v_load(o + d), v_set(shrink)));
  }
  const uint16_t *v = w->v + (j + c.first) * PANEL;
  for (int64_t d = 0; d < width; d += PANEL, v += w->keys * PANEL)
    lc_amx_product((c.end - c.first) / PANEL, w->p + c.first * PANEL, BLOCK, v, BLOCK, out + d, width,
                   !fresh);
}

/* Their out (32, width) and lse. */
static void queries(const forward *w, int64_t position, float *out, float *lse) {
  const lc_attention_shape *s = w->s;
  running at;
  bool fresh = true;
  for (int r = 0; r < PANEL; r++) at.max[r] = LC_ATTN_LOWEST, at.l[r] = v_set(0);
  for (int64_t j = 0; j < s->tk; j += KEYS) {
    lc_attn_span c = lc_attn_panels(s, position, PANEL, j, lc_min64(j + KEYS, w->keys));
    if (c.end <= c.first) continue;
    some_keys(w, position, j, c, &at, out, fresh);
    fresh = false;
  }
  if (fresh) memset(out, 0, (size_t)(PANEL * w->width) * sizeof *out);
  for (int r = 0; r < PANEL; r++) {
    float sum = v_sum(at.l[r]), *o = out + r * w->width;
    __m512 inverse = v_set(sum == 0 ? 0 : 1 / sum);
    for (int64_t d = 0; d < w->width; d += LANES) v_store(o + d, v_mul(v_load(o + d), inverse));
    lse[r] = sum == 0 ? -INFINITY : at.max[r] * s->scale + logf(sum);
  }
}

void lc_amx_attention(const lc_attention_shape *s, int64_t tq, int64_t q0, const uint16_t *q, int64_t ldq,
                      const void *packed, float *out, float *lse, void *scratch) {
  forward w = {
      .s = s, .keys = LC_ATTN_KEYS(s->tk), .width = LC_ATTN_LD(s->D), .k = packed, .scores = scratch};
  w.v = w.k + w.keys * w.width;
  w.p = (uint16_t *)(void *)(w.scores + PANEL * KEYS), w.q = w.p + PANEL * KEYS;
  lc_amx_start();
  for (int64_t i = 0; i < tq; i += PANEL) {
    float at[PANEL];
    int64_t n = lc_min64(PANEL, tq - i);
    lc_amx_rows_to_a(n, s->D, q + i * ldq, ldq, w.q);
    queries(&w, q0 + i, out + i * w.width, at);
    memcpy(lse + i, at, (size_t)n * sizeof *lse);
  }
  lc_amx_end();
}
