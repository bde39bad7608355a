/* A block's sums where there are only products of unsigned by signed bytes that are added in pairs, in 16 bits, and saturate (vpmaddubsw): the products
 * of nibbles, at most 15·127 each, are summed over the whole block in 16 bits (16 of them: 30,480) before they are widened. Those of Q8_0 give the
 * weight's sign to the token and widen each pair (2·128·127 = 32,512 fits, and no more). Before: vi_pairs, vi_widen, vi_add, vi_add16, vi_signs. */
INLINE void nibble_sums(lc_dtype dtype, int V, const uint8_t *w, int64_t apart, const lefts *a, int64_t b,
                        vi sum[MR][WIDE]) {
#pragma GCC unroll 8
  for (int j = 0; j < LC_BLOCK / 4; j++) {
    vi wj[WIDE];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++)
      wj[v] = vi_load(w + v / PANEL_VECTORS * apart + (j * LC_Q8_PANEL + v % PANEL_VECTORS * LANES) * 4);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      vi x = vi_set_quad(a->q[r] + b * LC_BLOCK + 4 * j);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++)
        sum[r][v] = j ? vi_add16(sum[r][v], vi_pairs(wj[v], x)) : vi_pairs(wj[v], x);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      sum[r][v] = vi_widen(sum[r][v]);
      if (dtype == LC_Q4_0) sum[r][v] = vi_add(sum[r][v], vi_set(a->start[r][b]));
    }
}

INLINE void byte_sums(int V, const uint8_t *w, int64_t apart, const lefts *a, int64_t b, vi sum[MR][WIDE]) {
#pragma GCC unroll 8
  for (int j = 0; j < LC_BLOCK / 4; j++) {
    vi wj[WIDE], signs[WIDE];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++)
      vi_signs(w + v / PANEL_VECTORS * apart + (j * LC_Q8_PANEL + v % PANEL_VECTORS * LANES) * 4, &wj[v],
               &signs[v]);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      vi x = vi_set_quad(a->q[r] + b * LC_BLOCK + 4 * j);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        vi s = vi_widen(vi_pairs(wj[v], vi_with_sign(x, signs[v])));
        sum[r][v] = j ? vi_add(sum[r][v], s) : s;
      }
    }
  }
}

INLINE void block_sums(lc_dtype dtype, int V, const uint8_t *w, int64_t apart, const lefts *a, int64_t b,
                       vi sum[MR][WIDE]) {
  if (dtype == LC_Q8_0)
    byte_sums(V, w, apart, a, b, sum);
  else
    nibble_sums(dtype, V, w, apart, a, b, sum);
}
