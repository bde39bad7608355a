/* A block's sums where the instruction set has dot products of four unsigned by four signed bytes. Before: vi_dot. */
INLINE void block_sums(lc_dtype dtype, int V, const uint8_t *w, int64_t apart, const lefts *a, int64_t b,
                       vi sum[MR][WIDE]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = vi_set(dtype == LC_Q4_1 ? 0 : a->start[r][b]);
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
      for (int v = 0; v < V; v++) sum[r][v] = vi_dot(sum[r][v], wj[v], x);
    }
  }
}
