/* Which provider multiplies what: a committed table, by instruction set and shape, from measurement
 * (docs/performance.md names the command and the machine), never from a timing at start: the same program on
 * the same machine takes the same path, and so gives the same bits. */
#include <string.h>
#include "kernels/gemm/gemm.h"

typedef struct {
  lc_isa from, to; /* instruction sets, both included */
  lc_dtype dtype;
  int64_t m_max; /* rows of C up to which the row holds; 0: any */
  const lc_gemm_provider_row *provider;
} choice;

/* The first row that fits counts. */
static const choice choices[] = {
    {LC_ISA_AMX, LC_ISA_AMX, LC_BF16, 0, &lc_gemm_onednn}, /* tile products, which ours has none of */
    {LC_ISA_SCALAR, LC_ISA_AMX, LC_F32, 0, &lc_gemm_native},
    {LC_ISA_SCALAR, LC_ISA_AVX512_BF16, LC_BF16, 0, &lc_gemm_native},
};

/* OpenBLAS picks its kernels when it is loaded, by what the CPU has: under a forced lower instruction set it
 * may not run. Its f32 kernels know no difference above AVX-512. */
static bool openblas_would_exceed(lc_isa isa) {
  return isa < LC_ISA_AVX512 && lc_kernels_for(isa + 1);
}

const lc_gemm_provider_row *lc_gemm_choose(const lc_ctx *ctx, const lc_gemm_shape *s) {
  lc_isa isa = lc_isa_of(ctx);
  for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
    const choice *c = &choices[i];
    if (isa < c->from || isa > c->to || c->dtype != s->dtype || (c->m_max && s->m > c->m_max)) continue;
    return c->provider == &lc_gemm_openblas && openblas_would_exceed(isa) ? &lc_gemm_native : c->provider;
  }
  return &lc_gemm_native;
}

const lc_gemm_provider_row *lc_gemm_provider_by_name(const char *name) {
  static const lc_gemm_provider_row *const rows[] = {&lc_gemm_openblas, &lc_gemm_onednn, &lc_gemm_native,
                                                     &lc_gemm_reference};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (!strcmp(rows[i]->name, name)) return rows[i];
  return NULL;
}
