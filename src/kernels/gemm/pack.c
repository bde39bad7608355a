/* Packing for the native GEMM. Whatever the storage, a panel holds its lines side by side, unit by unit along
 * k, so the register tile reads it front to back. Lines that run along k are transposed (32 bits at a time:
 * an f32, or a pair of bf16); lines side by side in storage are copied, pairs by joining two rows. bf16 for
 * f32 products is widened. */
#include <string.h>
#include "kernels/gemm/gemm.h"

typedef union {
  float f;
  uint32_t u;
} unit;

/* Transposes w lines of `units` 32-bit units, ld units apart. */
static void along(const lc_kernels *kn, int64_t w, int64_t units, const void *src, int64_t ld, int width,
                  float *out) {
  kn->transpose_f32(w, units, src, ld, out, width);
}

/* Pairs of lines that run along k; value by value where units of storage are not whole. */
static void pairs_along(const lc_kernels *kn, int64_t w, int64_t k, const uint16_t *src, int64_t line,
                        int width, float *out) {
  bool whole = line % 2 == 0 && ((uintptr_t)src & 3) == 0;
  int64_t units = whole ? k / 2 : 0;
  if (whole) along(kn, w, units, src, line / 2, width, out);
  for (int64_t u = units; u < (k + 1) / 2; u++)
    for (int64_t i = 0; i < w; i++) {
      const uint16_t *at = src + i * line + 2 * u;
      unit pair = {.u = at[0] | (2 * u + 1 < k ? (uint32_t)at[1] << 16 : 0)};
      out[u * width + i] = pair.f;
    }
}

/* Pairs of lines side by side: value l of all lines is one row of storage. The last row of an odd k has no
 * partner. */
static void pairs_across(const lc_gemm_tile *t, int64_t w, int64_t k, const uint16_t *src, int64_t step,
                         int width, float *out) {
  t->join_rows(w, k, src, step, width, out);
  for (int64_t i = 0; i < w && k % 2; i++) {
    unit alone = {.u = src[(k - 1) * step + i]};
    out[k / 2 * width + i] = alone.f;
  }
}

static void wide_along(const lc_kernels *kn, int64_t w, int64_t k, const uint16_t *src, int64_t line,
                       int width, float *out, float *spare) {
  for (int64_t i = 0; i < w; i++) kn->bf16_to_f32(k, src + i * line, spare + i * k);
  along(kn, w, k, spare, k, width, out);
}

/* k rows of w f32: the widths of whole panels are constants, so that a copy is a few moves and no call. */
static void f32_across(int64_t w, int64_t k, const float *src, int64_t step, int width, float *out) {
#define ROWS(n)                                                                                              \
  for (int64_t l = 0; l < k; l++) memcpy(out + l * width, src + l * step, sizeof(float) * (size_t)(n))
  if (w == 6)
    ROWS(6);
  else if (w == 8)
    ROWS(8);
  else if (w == 16)
    ROWS(16);
  else
    ROWS(w);
#undef ROWS
}

static void pack_panel(const lc_kernels *kn, const lc_gemm_tile *t, const lc_gemm_lines *m, const void *from,
                       int64_t w, int64_t k, int width, float *out, float *spare) {
  if (m->dtype == LC_F32 && m->step == 1)
    along(kn, w, k, from, m->line, width, out);
  else if (m->dtype == LC_F32)
    f32_across(w, k, from, m->step, width, out);
  else if (t->pairs && m->step == 1)
    pairs_along(kn, w, k, from, m->line, width, out);
  else if (t->pairs)
    pairs_across(t, w, k, from, m->step, width, out);
  else if (m->step == 1)
    wide_along(kn, w, k, from, m->line, width, out, spare);
  else
    for (int64_t l = 0; l < k; l++) kn->bf16_to_f32(w, (const uint16_t *)from + l * m->step, out + l * width);
}

void lc_gemm_panels(const lc_kernels *kn, const lc_gemm_tile *t, const lc_gemm_lines *m, int64_t first,
                    int64_t count, int64_t l0, int64_t k, int width, float *out, float *spare) {
  int64_t units = t->pairs ? (k + 1) / 2 : k;
  size_t size = m->dtype == LC_BF16 ? 2 : 4;
  for (int64_t i = 0; i < count; i += width, out += units * width) {
    int64_t w = lc_min64(width, count - i);
    if (w < width) memset(out, 0, sizeof(float) * (size_t)(units * width));
    const char *from = (const char *)m->data + (size_t)((first + i) * m->line + l0 * m->step) * size;
    pack_panel(kn, t, m, from, w, k, width, out, spare);
  }
}
