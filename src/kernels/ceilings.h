/* What this machine can do at most, measured now: the denominators of every "of ceiling" in `lacuna bench`.
 */
#ifndef LC_CEILINGS_H
#define LC_CEILINGS_H
#include "kernels/kernels.h"

enum { LC_CEILINGS_THREADS = 64 };

/* Operations count multiplications and additions (a fused multiply-add is 2), all workers together, in
 * registers only. 0: the instruction set in use has no such products. */
typedef struct {
  int threads;
  double f32;        /* fused multiply-add, FLOP/s */
  double bf16;       /* bf16 dot products, FLOP/s */
  double int8;       /* 8-bit dot products (VNNI of AVX-512, or AVX-VNNI where AVX2 is in use), op/s */
  double amx_bf16;   /* bf16 tile products, FLOP/s */
  double amx_int8;   /* 8-bit tile products, op/s */
  size_t read_bytes; /* what is read at a time, all threads together: at least four last-level caches */
  double read[LC_CEILINGS_THREADS +
              1]; /* read[t]: bytes/s from memory with t threads, t = 1..min(threads, 64) */
} lc_ceilings;

/* Takes about `seconds_each` a figure; each is the best of several rounds. */
lc_status lc_ceilings_measure(lc_ctx *, double seconds_each, lc_ceilings *out);

size_t lc_last_level_cache(void); /* bytes; 0: not known */

/* Register loops: `rounds` rounds of work, returning the operations done. One file an instruction set. */
typedef double (*lc_peak_fn)(int64_t rounds);
double lc_peak_f32_scalar(int64_t rounds);
double lc_peak_f32_avx2(int64_t rounds);
double lc_peak_f32_avx512(int64_t rounds);
double lc_peak_bf16_avx512(int64_t rounds);
double lc_peak_int8_vnni(int64_t rounds);
double lc_peak_int8_avxvnni(int64_t rounds);
double lc_peak_bf16_amx(int64_t rounds);
double lc_peak_int8_amx(int64_t rounds);
bool lc_has_vnni(const lc_ctx *); /* AVX-512 VNNI, and the instruction set in use is AVX-512 at least */

#endif
