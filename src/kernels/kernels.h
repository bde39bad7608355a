/* kernels: one table of functions for an instruction set, chosen once. scalar/ defines what is right (and is
 * compiled in f64 too, for tests); avx2/ and avx512/ override some. A kernel works on rows of f32 or on raw
 * blocks, allocates nothing, and never fails. Its result does not depend on how callers cut their rows into
 * chunks.
 *
 * Letters: T rows (tokens), C width, M×N a weight (out×in), D head width, K nonzeros. */
#ifndef LC_KERNELS_H
#define LC_KERNELS_H
#include "core/core.h"
#include "tensor/dtype.h"

typedef struct {
  float beta1, beta2, eps, lr, weight_decay;
  bool eps_inside; /* SpIEL: (√v+ε)/√bc2 instead of √v/√bc2+ε */
} lc_adamw_hyper;

/* Attention to tk keys of a sequence, for attention_bf16 below. Not causal: every query sees every key, and window is
 * 0. */
typedef struct {
  int64_t tk, D, window;
  bool causal;
  float scale;
} lc_attention_shape;
/* One token's vector as signed bytes: x[i] ≈ scale[i/32]·q[i], sum[b] = Σ q of block b. A block with a value that is not finite has the
 * scale NaN, one of zeros (or of nothing above LC_Q8_LEAST) the scale 0. */
typedef struct lc_q8_vector {
  int8_t *q; /* 64-byte aligned */
  float *scale;
  int32_t *sum;
} lc_q8_vector;
#define LC_Q8_LEAST 1e-30f
#define LC_Q8_MOST  3.4e38f
size_t lc_q8_bytes(int64_t n); /* of a buffer that holds such a vector of n values */
lc_q8_vector lc_q8_in(void *buffer, int64_t n);
/* The same for T tokens, block b of token t at t·n/32 + b, with what gemm_q8 makes of the sums. */
typedef struct {
  int64_t n;
  int8_t *q;
  float *scale, *offset;      /* offset: scale·Σ q */
  int32_t *start8, *start128; /* −8·Σ q, −128·Σ q */
} lc_q8_rows;
enum { LC_Q8_PANEL = 16 /* rows of W that are packed together */ };
size_t lc_q8_panel_bytes(lc_dtype, int64_t n); /* of a panel of rows of n values */
size_t lc_q8_rows_bytes(int64_t T, int64_t n); /* of a buffer that holds T tokens */
lc_q8_rows lc_q8_rows_in(void *buffer, int64_t T, int64_t n);

typedef struct lc_kernels {
  lc_isa isa;

  /* -- conversions: n values; src and dst do not overlap -- */
  void (*bf16_to_f32)(int64_t n, const uint16_t *src, float *dst);
  void (*f32_to_bf16)(int64_t n, const float *src, uint16_t *dst); /* nearest even */
  void (*f16_to_f32)(int64_t n, const uint16_t *src, float *dst);
  void (*f32_to_f16)(int64_t n, const float *src, uint16_t *dst);
  /* n values of whole blocks of a quantised type; the same bits on every path */
  void (*decode_q8_0)(int64_t n, const void *src, float *dst);
  void (*decode_q4_0)(int64_t n, const void *src, float *dst);
  void (*decode_q4_1)(int64_t n, const void *src, float *dst);
  /* n values of whole blocks of Q8_0, Q4_0 or Q4_1, decoded and rounded to bf16 in one go; the same bits on every path */
  void (*decode_bf16)(lc_dtype, int64_t n, const void *src, uint16_t *dst);
  /* dst[i] = value at[i] of an array of F32, BF16, F16 or whole blocks of a quantised type; the bits of the conversions above */
  void (*pick)(lc_dtype, int64_t n, const void *src, const int64_t *at, float *dst);

  /* -- vectors -- */
  float (*dot)(int64_t n, const float *a, const float *b);
  void (*axpy)(int64_t n, float a, const float *x, float *y); /* y += a·x */
  /* out = y + a·x, and y's own bits where x is 0; out may be y */
  void (*add_nonzero)(int64_t n, float a, const float *x, const float *y, float *out);
  void (*add_nonzero_bf16)(int64_t n, float a, const float *x, const uint16_t *y, uint16_t *out);
  void (*add)(int64_t n, const float *a, const float *b, float *y); /* y = a+b; y may be a or b */
  void (*scale)(int64_t n, float a, float *x);
  double (*sum_squares)(int64_t n, const float *x); /* in f64 */
  /* dst = src, for what is not read again soon: past the caches where there are such stores. Other threads may read it after a fence */
  void (*copy_past)(int64_t n, const float *src, float *dst);
  void (*fence)(void);

  /* -- one token times rows of W, straight from storage: y[i] = Σ_c W[i,c]·x[c], rows m of n values each (n
   * whole blocks). dtype: F32, BF16, F16, Q8_0, Q4_0, Q4_1; f32 accumulation of decoded values -- */
  void (*gemv)(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const float *x, float *y);

  /* -- the other way: y[c] = Σ_i p[i]·V[i,c], m rows of n values, in F32, BF16 or F16 (attention's values in the cache) -- */
  void (*mix_rows)(lc_dtype, int64_t m, int64_t n, const void *V, size_t row_bytes, const float *p, float *y);

  /* -- a low-rank change of a tile: y[r,c] += s·Σ_k B[r,k]·A[k,c], m×n values, where the sum is not 0; leading dimensions ldb, lda, ldy -- */
  void (*add_low_rank)(int64_t m, int64_t n, int64_t R, float s, const float *B, int64_t ldb, const float *A,
                       int64_t lda, float *y, int64_t ldy);

  /* -- a matrix given by distances, m rows and n columns of it, and a softmax over its rows (scalar/distances.h has the equations and shapes) -- */
  void (*distances)(int64_t m, int64_t n, int64_t R, float s, const float *B, const float *A, int64_t lda,
                    float *D, float *S);
  void (*distances_back)(int64_t m, int64_t n, int64_t R, float s, const float *B, const float *A,
                         int64_t lda, float *D, const float *dS, float *dA, int64_t ldda, float *dB);
  void (*column_lse)(int64_t m, int64_t n, float a, const float *x, float *lse);
  /* p may be NULL, V may be S, dS may be dV */
  void (*softmax_add)(int64_t m, int64_t n, float a, float alpha, float beta, const float *lse,
                      const float *S, float *p, float *V);
  void (*softmax_add_back)(int64_t m, int64_t n, float a, float alpha, const float *p, const float *S,
                           const float *dV, float *dS, float *k, float *t, double sum[2]);
  /* y = s·x·(|V| − less) where |V| > tau, else s·x·0; y may be x or V */
  void (*times_kept)(int64_t n, float s, float tau, float less, const float *V, const float *x, float *y);

  /* -- gemv for W in Q8_0, Q4_0, Q4_1 with the token's vector in bytes: a block's products are summed in integers, blocks in f32; n
   * is a multiple of 32 -- */
  void (*quantise_q8)(int64_t n, const float *x, const lc_q8_vector *q); /* the same bits on every path */
  void (*gemv_q8)(lc_dtype, int64_t m, int64_t n, const void *W, size_t row_bytes, const lc_q8_vector *x,
                  float *y);

  /* -- the same for many tokens. pack_q8: m <= LC_Q8_PANEL rows of W, wherever they are, to a panel (scalar/gemm_q8.c; the same bits on
   * every path), 64-byte aligned; missing rows are zeros. gemm_q8: tokens t0 … t0+T-1 of x times `panels` panels that lie one after another;
   * y (T, 16·panels) stride ldy. A token's products with a row do not depend on what comes with them -- */
  void (*pack_q8)(lc_dtype, int64_t m, int64_t n, const uint8_t *const *row, void *packed);
  void (*gemm_q8)(lc_dtype, int64_t T, int64_t panels, const void *packed, const lc_q8_rows *x, int64_t t0,
                  float *y, int64_t ldy);

  /* -- norms. One row of C; w is never NULL, b, dw and db may be; y may be x, dx may be dy -- */
  void (*rmsnorm)(int64_t C, float eps, const float *x, const float *w, float *y, float *rstd);
  /* dx += (or =, beta 0) gradient; dw += when not NULL. */
  void (*rmsnorm_back)(int64_t C, const float *x, const float *w, float rstd, const float *dy, float beta,
                       float *dx, float *dw);
  void (*layernorm)(int64_t C, float eps, const float *x, const float *w, const float *b, float *y,
                    float *mean, float *rstd);
  void (*layernorm_back)(int64_t C, const float *x, const float *w, float mean, float rstd, const float *dy,
                         float beta, float *dx, float *dw, float *db);

  /* -- rotary, one head of width D, in place: pairs (i, i+D/2) by angle with cos[D/2], sin[D/2]; sign -1
   * turns back (the gradient) -- */
  void (*rope)(int64_t D, const float *cos, const float *sin, float sign, float *x);

  /* -- MLP, n values; an output may be one of the inputs -- */
  void (*silu_mul)(int64_t n, const float *gate, const float *up, float *h); /* h = silu(gate)·up */
  void (*silu_mul_back)(int64_t n, const float *gate, const float *up, const float *dh, float *dgate,
                        float *dup);
  /* the same of bf16, computed in f32 and rounded */
  void (*silu_mul_bf16)(int64_t n, const uint16_t *gate, const uint16_t *up, uint16_t *h);
  void (*silu_mul_back_bf16)(int64_t n, const uint16_t *gate, const uint16_t *up, const uint16_t *dh,
                             uint16_t *dgate, uint16_t *dup);
  void (*gelu_tanh)(int64_t n, const float *x, float *y);
  void (*gelu_tanh_back)(int64_t n, const float *x, const float *dy, float *dx);
  void (*gelu_erf)(int64_t n, const float *x, float *y);
  void (*gelu_erf_back)(int64_t n, const float *x, const float *dy, float *dx);

  /* -- cross-entropy of one row: returns lse - logit[label]; when scale != 0, logits become scale·(softmax -
   * onehot) in place -- */
  float (*cross_entropy)(int64_t V, float *logits, int32_t label, float scale);
  /* the same loss, with the gradient rounded to bf16 into d, which may lie on the row's own memory (d[0] at logits[0]);
   * the logits are spent. scale != 0 */
  float (*cross_entropy_bf16)(int64_t V, float *logits, int32_t label, float scale, uint16_t *d);
  float (*softmax)(int64_t n, float *x); /* in place; returns log-sum-exp */

  /* -- attention of one head over one query tile, online softmax (Milakov & Gimelshein 2018; Dao et al.
   * 2022), causal. q (tq,D) with row stride ldq; keys k, v (tk,D) strides ldk, ldv; query i sits at position
   * q0+i and sees keys j <= q0+i, and, if window > 0, j > q0+i-window: with q0 >= tk and no window, all keys. A query that sees no key gets output
   * 0, lse -inf. out (tq,D) stride ldo; lse[tq]. scratch: LC_ATTN_SCRATCH(tq,D) floats. D <= 256. -- */
  void (*attention)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, float scale,
                    const float *q, int64_t ldq, const float *k, int64_t ldk, const float *v, int64_t ldv,
                    float *out, int64_t ldo, float *lse, float *scratch);
  /*    gradients for the same tile: dq (tq,D) is written; dk, dv (tk,D) are added to. delta[i] = Σ_d
   * dout·out. -- */
  void (*attention_back)(int64_t tq, int64_t tk, int64_t D, int64_t q0, int64_t window, float scale,
                         const float *q, int64_t ldq, const float *k, int64_t ldk, const float *v,
                         int64_t ldv, const float *dout, int64_t lddo, const float *lse, const float *delta,
                         float *dq, int64_t lddq, float *dk, int64_t lddk, float *dv, int64_t lddv,
                         float *scratch);

  /* -- the same in bf16, f32 sums: one head's tile of queries against all keys of its sequence. Keys and
   * values (tk,D), strides ldk and ldv, are packed once for all queries and all heads that share them, into
   * LC_ATTN_PACKED(tk,D) bytes, for the forward or for the backward pass; how is the instruction set's own
   * affair. D <= 256, scale > 0. -- */
  void (*attention_pack)(const lc_attention_shape *, bool back, const uint16_t *k, int64_t ldk,
                         const uint16_t *v, int64_t ldv, void *packed);
  /*    q (tq,D) stride ldq, tq <= LC_ATTN_TILE; query i stands at q0+i. out: tq rows of LC_ATTN_LD(D) floats, of
   * which D count (room for LC_ATTN_TILE of them; 64-byte aligned, as scratch is: LC_ATTN_BF16_SCRATCH(D) bytes) */
  void (*attention_bf16)(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q, int64_t ldq,
                         const void *packed, float *out, float *lse, void *scratch);
  /*    out and dout (tq,D) strides ldo, lddo; dq is laid out as out above and written; dk, dv (tk,D), with room
   * for LC_ATTN_KEYS(tk) rows of LC_ATTN_LD(D), are added to */
  void (*attention_back_bf16)(const lc_attention_shape *, int64_t tq, int64_t q0, const uint16_t *q,
                              int64_t ldq, const uint16_t *out, int64_t ldo, const uint16_t *dout,
                              int64_t lddo, const float *lse, const void *packed, float *dq, float *dk,
                              float *dv, void *scratch);

  /* -- sparse -- */
  /* g[k] += Σ_t dyT[row_k - row0, t]·xT[col_k, t], flat index = row·N + col; xT (N,T) and dyT (rows,T) are
   * transposed, leading dimension ld. */
  void (*sampled)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                  const float *xT, const float *dyT, float *g);
  void (*sampled_bf16)(int64_t K, const int32_t *flat, int64_t N, int64_t row0, int64_t T, int64_t ld,
                       const uint16_t *xT, const uint16_t *dyT, float *g);
  void (*transpose_f32)(int64_t rows, int64_t cols, const float *src, int64_t ld, float *dst,
                        int64_t ldd); /* dst[c,r] = src[r,c] */
  void (*transpose_bf16)(int64_t rows, int64_t cols, const uint16_t *src, int64_t ld, uint16_t *dst,
                         int64_t ldd);
  /* y[row_k] += value_k·scale·x[col_k]: entries sorted by flat index (aside, one token) */
  void (*sparse_gemv)(int64_t K, const int32_t *flat, const float *value, float scale, int64_t N,
                      const float *x, float *y);

  /* -- noise, the same bits on every path -- */
  /* Elements first … first+n−1 of a stream of normals, as lc_rng_normal gives them. */
  void (*normal)(const lc_rng *, uint64_t first, int64_t n, float *dst);
  /* x[i] = 0 where element first+i of a stream of uniform numbers is below p, else x[i] times 1/(1 − p) */
  void (*dropout)(const lc_rng *, uint64_t first, int64_t n, float p, float *x);
  /* y += a·x where low <= |y| <= high; product and sum are rounded one after the other. */
  void (*axpy_band)(int64_t n, float a, const float *x, float low, float high, float *y);

  /* -- optimisers: n entries. age (one an entry, a float so that all columns are alike) is incremented here
   * and is then the number of steps that the entry has had, this one included; NULL: `step` is, for all.
   * eps_inside also decays after the step, not before -- */
  void (*adamw)(int64_t n, const lc_adamw_hyper *, float step, float *value, const float *grad, float *m,
                float *v, float *age);
} lc_kernels;
void lc_q8_rows_set(const lc_kernels *, const lc_q8_rows *, int64_t t, const float *row); /* token t */

/* Largest query and key tile that callers use for attention, and the scratch that the kernels may use
 * (floats). */
enum { LC_ATTN_TQ = 64, LC_ATTN_TK = 64, LC_ATTN_MAX_D = 256 };
#define LC_ATTN_SCRATCH(D)                                                                                   \
  ((size_t)(4 * LC_ATTN_TQ * LC_ATTN_TK + 6 * LC_ATTN_TQ * (D) + 6 * LC_ATTN_TQ + 64))

/* For the bf16 entries: queries in a tile; padded rows of keys, floats in a row, bytes of packed keys and
 * values, bytes of scratch. */
enum { LC_ATTN_TILE = 128, LC_ATTN_PANEL = 32 };
#define LC_ATTN_LD(D)         (((D) + LC_ATTN_PANEL - 1) / LC_ATTN_PANEL * LC_ATTN_PANEL)
#define LC_ATTN_KEYS(tk)      LC_ATTN_LD(tk)
#define LC_ATTN_PACKED(tk, D) ((size_t)(8 * LC_ATTN_KEYS(tk) * LC_ATTN_LD(D)))
#define LC_ATTN_BF16_SCRATCH(D)                                                                              \
  ((size_t)(LC_ATTN_TILE * (12 * LC_ATTN_LD(D) + 1024)) + LC_ATTN_SCRATCH(D) * sizeof(float))

const lc_kernels *
    lc_kernels_for(lc_isa); /* compiled-in table of an instruction set that this CPU runs; NULL otherwise */
const lc_kernels *lc_kernels_get(const lc_ctx *); /* for the context's ISA */

/* ---- GEMM: C (m×n) = A (m×k) · B + beta·C, row-major, leading dimensions in elements
 * -------------------------------------------- trans_b: B is stored n×k (a weight out×in: y = x·Wᵀ), else k×n
 * (dx = dy·W).  trans_a: A is stored k×m (dW = dyᵀ·x). dtypes: A and B both F32, or both BF16; C F32
 * (accumulated in f32), or BF16 with beta 0. beta is 0 or 1. Single-threaded: call it on strips from
 * lc_parallel chunks. `worker` selects the provider's per-worker state. */
typedef struct {
  int64_t m, n, k, lda, ldb, ldc;
  bool trans_a, trans_b;
  lc_dtype dtype, c_dtype;
  float beta;
  bool packed_b; /* B is lc_gemm_pack's; ldb and trans_b do not count */
  const float
      *plus; /* with an f32 C and beta 0: another m×n matrix that is added, apart from C; NULL: none */
  int64_t ld_plus;
} lc_gemm_shape;
lc_status lc_gemm(lc_ctx *, int worker, const lc_gemm_shape *, const void *A, const void *B, void *C);
/* B packed once for many products, where the path in use gains by it. packed_bytes: of n columns of k values; 0: this path takes B as it
 * stands only. pack: B (k×n, or n×k if trans_b; the shape's m, lda and ldc do not count) to packed, 64-byte aligned. Columns that are a multiple
 * of LC_GEMM_PACK may be packed on their own, and multiplied on their own: those from j stand at lc_gemm_packed_bytes(…, j, k). */
enum { LC_GEMM_PACK = 32 };
size_t lc_gemm_packed_bytes(const lc_ctx *, lc_dtype, int64_t n, int64_t k);
void lc_gemm_pack(const lc_ctx *, const lc_gemm_shape *, const void *B, void *packed);
/* For a product (s: all of it) that is made by strips of C's rows: *packed is all of B (shared scratch, LC_SHARED_PACKED) made by all workers, or
 * NULL where the path in use takes B as it stands, or packing does not pay; *strip the rows a strip should have. Call it outside lc_parallel. */
enum { LC_SHARED_PACKED = 2 };
lc_status lc_gemm_pack_shared(lc_ctx *, const lc_gemm_shape *s, const void *B, const void **packed,
                              int64_t *strip);
/* Packed columns that a chunk of rows should take at a time, so that they stay in the cache from chunk to chunk. */
int64_t lc_gemm_packed_columns(const lc_ctx *, lc_dtype, int64_t n, int64_t k);
/* Whether the committed table names integer products (gemm_q8) for many tokens and weights stored as `weight`, beside a dense path in `compute`. */
bool lc_gemm_takes_q8(const lc_ctx *, lc_dtype weight, lc_dtype compute);
/* The provider that the committed table names for this ISA and shape: "amx", "openblas", "onednn",
 * "native", "reference". */
const char *lc_gemm_provider(const lc_ctx *, const lc_gemm_shape *);
bool lc_has_bf16_gemm(const lc_ctx *); /* bf16 products in hardware on this ISA; below it bf16 tiles are
                                          widened to f32 inside lc_gemm */

#endif
