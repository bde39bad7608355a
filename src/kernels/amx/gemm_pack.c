/* Packing for the AMX product. Lines that run along k become columns of B by transposing 16×16 pairs; lines side by side join two of
 * their rows to pairs, and are transposed after that to be rows of A. */
#include <immintrin.h>
#include <string.h>
#include "kernels/amx/gemm.h"

enum { ROW = 32 /* values in a tile's row */ };
#define INLINE static inline __attribute__((always_inline))

/* Lane j: 16 bytes of row 4j (and of rows 4j+1, 4j+2, 4j+3 from the other three calls). */
INLINE __m512i quarter(const uint16_t *src, int64_t ld) {
  __m512i z = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)src));
  z = _mm512_mask_broadcast_i32x4(z, 0x00f0, _mm_loadu_si128((const __m128i *)(src + 4 * ld)));
  z = _mm512_mask_broadcast_i32x4(z, 0x0f00, _mm_loadu_si128((const __m128i *)(src + 8 * ld)));
  return _mm512_mask_broadcast_i32x4(z, 0xf000, _mm_loadu_si128((const __m128i *)(src + 12 * ld)));
}

/* out[p][i] = pair p of row i: 16 rows of 16 pairs. */
INLINE void transpose_pairs(const uint16_t *src, int64_t ld, uint16_t *out) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++) {
    __m512i a = quarter(src + 8 * q, ld), b = quarter(src + 8 * q + ld, ld),
            c = quarter(src + 8 * q + 2 * ld, ld), d = quarter(src + 8 * q + 3 * ld, ld);
    __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d),
            AB = _mm512_unpackhi_epi32(a, b), CD = _mm512_unpackhi_epi32(c, d);
    uint16_t *to = out + 4 * q * ROW;
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(ab, cd));
    _mm512_storeu_si512(to + ROW, _mm512_unpackhi_epi64(ab, cd));
    _mm512_storeu_si512(to + 2 * ROW, _mm512_unpacklo_epi64(AB, CD));
    _mm512_storeu_si512(to + 3 * ROW, _mm512_unpackhi_epi64(AB, CD));
  }
}

/* 16 values of two rows of storage, to pairs. */
INLINE __m512i join(const uint16_t *low, const uint16_t *high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i z = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low));
  return _mm512_permutexvar_epi16(order, _mm512_inserti64x4(z, _mm256_loadu_si256((const __m256i *)high), 1));
}

/* 32 rows of storage of 16 lines side by side. */
INLINE void join_rows(const uint16_t *src, int64_t step, uint16_t *out) {
  for (int p = 0; p < 16; p++, src += 2 * step) _mm512_storeu_si512(out + p * ROW, join(src, src + step));
}

INLINE void copy_rows(const uint16_t *src, int64_t ld, uint16_t *out) {
  for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * ROW, _mm512_loadu_si512(src + i * ld));
}

/* What is less than 16 lines of 32 values, with zeros for the rest, laid out as lines along k. */
static const uint16_t *padded(const lc_gemm_lines *m, const uint16_t *from, int64_t lines, int64_t k,
                              uint16_t *buffer) {
  memset(buffer, 0, LC_AMX_TILE * sizeof *buffer);
  for (int64_t i = 0; i < lines; i++)
    for (int64_t l = 0; l < k; l++) buffer[i * ROW + l] = from[i * m->line + l * m->step];
  return buffer;
}

typedef enum { ROWS_OF_A, COLUMNS_OF_B } role;

INLINE void pack_tile(role what, const lc_gemm_lines *m, const uint16_t *from, int64_t lines, int64_t k,
                      uint16_t *out) {
  _Alignas(64) uint16_t buffer[LC_AMX_TILE];
  int64_t ld = m->line;
  bool along = m->step == 1;
  if (lines <= 0) {
    memset(out, 0, LC_AMX_TILE * sizeof *out);
    return;
  }
  if (lines < 16 || k < ROW) from = padded(m, from, lines, k, buffer), ld = ROW, along = true;
  if (along && what == COLUMNS_OF_B)
    transpose_pairs(from, ld, out);
  else if (along)
    copy_rows(from, ld, out);
  else if (what == COLUMNS_OF_B)
    join_rows(from, m->step, out);
  else
    join_rows(from, m->step, buffer), transpose_pairs(buffer, ROW, out);
}

/* The lines' next values, which the hardware does not guess: there are too many streams of them, or too far apart. */
INLINE void fetch_ahead(const lc_gemm_lines *m, const uint16_t *from, int64_t lines, int64_t k) {
  if (k < 3 * ROW) return;
  from += 2 * ROW * m->step;
  for (int64_t i = 0; i < (m->step == 1 ? lines : ROW); i++)
    _mm_prefetch((const char *)(from + i * lc_max64(m->line, m->step)), _MM_HINT_T0);
}

INLINE void pack(role what, const lc_gemm_lines *m, int64_t first, int64_t lines, int64_t l0, int64_t k,
                 uint16_t *out) {
  const uint16_t *from = (const uint16_t *)m->data + first * m->line + l0 * m->step;
  for (int64_t l = 0; l < k; l += ROW, from += ROW * m->step, out += 2 * LC_AMX_TILE) {
    int64_t here = lc_min64(ROW, k - l);
    if (m->step > 1) fetch_ahead(m, from, lines, k - l);
    pack_tile(what, m, from, lc_min64(16, lines), here, out);
    pack_tile(what, m, from + 16 * m->line, lc_min64(16, lines - 16), here, out + LC_AMX_TILE);
  }
}

void lc_amx_pack_b(const lc_gemm_lines *m, int64_t first, int64_t lines, int64_t l0, int64_t k,
                   uint16_t *out) {
  pack(COLUMNS_OF_B, m, first, lines, l0, k, out);
}

void lc_amx_pack_a(const lc_gemm_lines *m, int64_t first, int64_t lines, int64_t l0, int64_t k,
                   uint16_t *out) {
  pack(ROWS_OF_A, m, first, lines, l0, k, out);
}
