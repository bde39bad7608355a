/* Which provider multiplies what: a committed table, by instruction set and dtype, from measurement, never
 * from a timing at start: the same program on the same machine takes the same path, and so gives the same
 * bits.
 *
 * On Zen 4, one worker, strips of 64 to 192 outputs by 512 rows at SmolLM2's shapes, shares of the register
 * peak: bf16 to f32 ours 0.88 to 0.98, oneDNN 2.6.3 0.84 to 0.95; f32 ours 0.86 to 0.98, OpenBLAS 0.3.21 0.77
 * to 0.89; in AVX2 f32 ours 0.80 to 0.96, OpenBLAS (Haswell) 0.73 to 0.93. `lacuna bench gemm` measures the
 * providers beside each other. On an Intel processor with AMX, two workers, strips of 64 to 576 outputs, medians as shares of the tile
 * peak: bf16 ours 0.31 to 0.59, oneDNN 2.6.3 0.15 to 0.42; f32 ours 245 GFLOP/s, OpenBLAS 0.3.21, which does not know that
 * processor, 43. (OpenBLAS picks its kernels when it is loaded: a row that names it must hold on CPUs of that instruction set only, not under a
 * forced one.) */
#include <string.h>
#include "kernels/gemm/gemm.h"

typedef struct {
  lc_isa from, to; /* instruction sets, both included */
  lc_dtype dtype;
  const lc_gemm_provider_row *provider;
} choice;

/* The first row that fits counts. */
static const choice choices[] = {
#ifdef __x86_64__
    {LC_ISA_AMX, LC_ISA_AMX, LC_BF16, &lc_gemm_amx},
#endif
    {LC_ISA_SCALAR, LC_ISA_AMX, LC_F32, &lc_gemm_native},
    {LC_ISA_SCALAR, LC_ISA_AVX512_BF16, LC_BF16, &lc_gemm_native},
};

const lc_gemm_provider_row *lc_gemm_choose(const lc_ctx *ctx, const lc_gemm_shape *s) {
  lc_isa isa = lc_isa_of(ctx);
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
    const choice *c = &choices[i];
    if (isa >= c->from && isa <= c->to && c->dtype == s->dtype) return c->provider;
  }
  return &lc_gemm_native;
}

/* Prompts in integers (gemm_q8), or decoded: the same kind of table. On one core of an Intel processor with AMX (T = 512, SmolLM2's shapes, Gop/s):
 *                      Q8_0        Q4_0, Q4_1   f32 peak   bf16
 *   AVX-512, VNNI      450 to 505  460 to 505   176        85 (peak)
 *   AVX-512, no VNNI   134         265 to 275   176
 *   AVX2, AVX-VNNI     250 to 260  240 to 265   92
 *   AVX2, no VNNI      98          147 to 161   92
 *   AMX                                                    900 and more, in tiles
 * so that where there are tiles for the compute dtype, integers lose, and without dot products Q8_0 gains nothing. */
typedef struct {
  lc_isa from, to;
  lc_dtype compute; /* of the dense path beside it */
  int needs;        /* an lc_cpu_flag; -1: nothing */
  bool q8_0, q4;    /* which are taken */
} q8_choice;

static const q8_choice q8_choices[] = {
    {LC_ISA_AMX, LC_ISA_AMX, LC_BF16, -1, false, false},
    {LC_ISA_AVX512, LC_ISA_AMX, LC_NONE, LC_CPU_AVX512_VNNI, true, true},
    {LC_ISA_AVX512, LC_ISA_AVX512, LC_NONE, -1, false, true},
    {LC_ISA_AVX2, LC_ISA_AVX2, LC_NONE, LC_CPU_AVX_VNNI, true, true},
    {LC_ISA_AVX2, LC_ISA_AVX2, LC_NONE, -1, false, true},
};

bool lc_gemm_takes_q8(const lc_ctx *ctx, lc_dtype weight, lc_dtype compute) {
  lc_isa isa = lc_isa_of(ctx);
  for (size_t i = 0; i < sizeof q8_choices / sizeof *q8_choices; i++) {
    const q8_choice *c = &q8_choices[i];
    if (isa < c->from || isa > c->to || (c->compute != LC_NONE && c->compute != compute)) continue;
    if (c->needs < 0 || lc_cpu_has((lc_cpu_flag)c->needs))
      return weight == LC_Q8_0 ? c->q8_0 : c->q4 && (weight == LC_Q4_0 || weight == LC_Q4_1);
  }
  return false;
}

const lc_gemm_provider_row *lc_gemm_provider_by_name(const char *name) {
  static const lc_gemm_provider_row *const rows[] = {
      &lc_gemm_openblas, &lc_gemm_onednn, &lc_gemm_native, &lc_gemm_reference,
#ifdef __x86_64__
      &lc_gemm_amx,
#endif
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (!strcmp(rows[i]->name, name)) return rows[i];
  return NULL;
}
