/* The kernel tables: one an instruction set, each the one below it with some entries replaced, made once. */
#include <pthread.h>
#include "kernels/kernels.h"
#include "kernels/scalar/scalar.h"
#ifdef __x86_64__
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#include "kernels/amx/amx.h"
#endif

typedef struct {
  lc_isa isa;
  void (*fill)(lc_kernels *);
} layer;

static const layer layers[] = {
    {LC_ISA_SCALAR, lc_kernels_scalar},
#ifdef __x86_64__
    {LC_ISA_AVX2, lc_kernels_avx2},
    {LC_ISA_AVX512, lc_kernels_avx512},
    {LC_ISA_AVX512_BF16, lc_kernels_avx512_bf16},
    {LC_ISA_AMX, lc_kernels_amx},
#endif
};

static lc_kernels tables[LC_ISA_COUNT];
static lc_isa best;

static void make_tables(void) {
  best = lc_isa_detect(); /* asking the CPU is slow under a hypervisor: once */
  for (lc_isa isa = LC_ISA_SCALAR; isa <= best;
       isa++) { /* the functions that fill are compiled for their instructions too */
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
      if (layers[i].isa <= isa) layers[i].fill(&tables[isa]);
    tables[isa].isa = isa;
  }
}

const lc_kernels *lc_kernels_for(lc_isa isa) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_tables);
  return isa <= best ? &tables[isa] : NULL;
}

const lc_kernels *lc_kernels_get(const lc_ctx *ctx) {
  return lc_kernels_for(lc_isa_of(ctx));
}
