/* Kernels written once over a vector type `vf` of LANES floats (avx2/simd.h, avx512/simd.h): each instruction
 * set compiles them under its own flags and names. What an instruction set does better in its own way is a
 * file in its folder. */
#include <math.h>
#include <string.h>
#include "kernels/simd/math.h"
#include "kernels/simd/vector.h"
#include "kernels/simd/mlp.h"
#include "kernels/simd/norm.h"
#include "kernels/simd/softmax.h"
#include "kernels/simd/gemv.h"
#include "kernels/simd/mix_rows.h"
#include "kernels/simd/low_rank.h"
#include "kernels/simd/distances.h"
#include "kernels/simd/convert.h"
#include "kernels/simd/sparse.h"
#include "kernels/simd/sampled_wide.h"
#include "kernels/simd/optim.h"
#include "kernels/simd/noise.h"
#include "kernels/simd/attention.h"
#define LC_WIDENED(name) LC_SIMD(name)
#include "kernels/scalar/attention_widened.h"
#include "kernels/simd/fill.h"
