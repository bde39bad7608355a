/* The number type of the reference. Every topic below that has a gradient is a header written once with
 * `real`: f32.c compiles it in f32, which is the kernel table's floor, and f64.c in f64, so that finite
 * differences in f64 can prove each forward/backward pair to ten digits. Sums that run along a row are kept
 * in f64 in both: the reference should err less than what is compared with it. */
#ifndef LC_KERNELS_REAL_H
#define LC_KERNELS_REAL_H
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef LC_REAL_F64
typedef double real;
#define LC_REF(name) lc_f64_##name
#define r_exp        exp
#define r_log        log
#define r_tanh       tanh
#define r_erf        erf
#define r_sqrt       sqrt
#else
typedef float real;
#define LC_REF(name) lc_ref_##name
#define r_exp        expf
#define r_log        logf
#define r_tanh       tanhf
#define r_erf        erff
#define r_sqrt       sqrtf
#endif

#endif
