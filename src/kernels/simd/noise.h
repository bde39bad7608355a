/* Normal numbers and what is done with them, in lanes; the same bits as core/rng.c, which says what the
 * operations are: only + − × ÷ √, each rounded once, in its order (no fused multiply-add).
 *
 * A Philox block (four words, two pairs of normals) sits in a 64-bit lane: HALF blocks at a time. Words stay in
 * the low half of their lane; what multiplication leaves above is never read. Integers become f64 by writing
 * them under the exponent of 2^52, floor and frexp are integer operations on exact values. */

enum { HALF = LANES / 2, NORMALS = 4 * HALF };
typedef uint64_t LC_SIMD(u64s) __attribute__((vector_size(8 * LANES / 2)));
typedef double LC_SIMD(f64s) __attribute__((vector_size(8 * LANES / 2)));
typedef float LC_SIMD(f32s) __attribute__((vector_size(4 * LANES / 2)));
typedef float LC_SIMD(f32_lanes) __attribute__((vector_size(4 * LANES)));
typedef int32_t LC_SIMD(ints) __attribute__((vector_size(4 * LANES)));
typedef uint32_t LC_SIMD(words) __attribute__((vector_size(4 * LANES)));
#define vu LC_SIMD(u64s)
#define vd LC_SIMD(f64s)

static inline vu LC_SIMD(u_all)(uint64_t x) {
  return x - (vu){0};
}
static inline vd LC_SIMD(d_all)(double x) {
  return x - (vd){0};
}

/* Words below 2^32 as f64, exactly. */
static inline vd LC_SIMD(u_to_d)(vu x) {
  return (vd)(x | LC_SIMD(u_all)(0x4330000000000000u)) - LC_SIMD(d_all)(0x1p52);
}
/* Small signed integers (two's complement in 64 bits) as f64, exactly. */
static inline vd LC_SIMD(i_to_d)(vu x) {
  return (vd)(x + LC_SIMD(u_all)(0x4338000000000000u)) - LC_SIMD(d_all)(0x1.8p52);
}

/* ln((a + ½)/2³²) */
static inline vd LC_SIMD(log_unit)(vu a) {
  const vd u = (LC_SIMD(u_to_d)(a) + LC_SIMD(d_all)(0.5)) * LC_SIMD(d_all)(0x1p-32);
  const uint64_t fraction = 0x000fffffffffffffu, half = 0x3fe0000000000000u, root = 0x3fe6a09e667f3bcdu;
  vu bits = (vu)u, e = (bits >> 52) - 1022, m = (bits & fraction) | half;
  const vu below = (vu)(m < LC_SIMD(u_all)(root)); /* m < √½: positive doubles order as integers */
  m += below & LC_SIMD(u_all)(1ull << 52);
  e += below; /* −1 */
  const vd x = (vd)m, one = LC_SIMD(d_all)(1), s = (x - one) / (x + one), q = s * s;
  vd sum = LC_SIMD(d_all)(0);
  for (int k = 23; k >= 1; k -= 2) sum = sum * q + LC_SIMD(d_all)(1.0 / k);
  return LC_SIMD(i_to_d)(e) * LC_SIMD(d_all)(0.69314718055994530942) + (s + s) * sum;
}

/* sin and cos of 2πb/2³² */
static inline void LC_SIMD(turn)(vu b, vd *sine, vd *cosine) {
  const vu quarter = (b + LC_SIMD(u_all)(1u << 29)) >> 30;
  const vd one = LC_SIMD(d_all)(1),
           a = LC_SIMD(i_to_d)(b - (quarter << 30)) * LC_SIMD(d_all)(0x1p-30) *
               LC_SIMD(d_all)(1.57079632679489661923),
           q = a * a;
  vd sn = LC_SIMD(d_all)(0), cs = LC_SIMD(d_all)(0);
  for (int k = LC_SINE_TERMS - 1; k >= 0; k--) sn = (sn + LC_SIMD(d_all)(lc_sine[k])) * q;
  for (int k = LC_COSINE_TERMS - 1; k >= 0; k--) cs = (cs + LC_SIMD(d_all)(lc_cosine[k])) * q;
  sn = a * (one + sn);
  cs = one + cs;
  const vu odd = LC_SIMD(u_all)(0) - (quarter & LC_SIMD(u_all)(1)), S = (vu)sn, C = (vu)cs;
  *sine = (vd)(((S & ~odd) | (C & odd)) ^ ((quarter & LC_SIMD(u_all)(2)) << 62));
  *cosine = (vd)(((C & ~odd) | (S & odd)) ^ (((quarter + LC_SIMD(u_all)(1)) & LC_SIMD(u_all)(2)) << 62));
}

static inline void LC_SIMD(normal_pairs)(vu a, vu b, float *even, float *odd) {
  const vu word = LC_SIMD(u_all)(0xffffffffu);
  vd s, c;
  const vd radius = v_sqrt_f64(LC_SIMD(d_all)(-2) * LC_SIMD(log_unit)(a & word));
  LC_SIMD(turn)(b & word, &s, &c);
  const LC_SIMD(f32s) x = __builtin_convertvector(radius * c, LC_SIMD(f32s)),
                      y = __builtin_convertvector(radius * s, LC_SIMD(f32s));
  memcpy(even, &x, sizeof x);
  memcpy(odd, &y, sizeof y);
}

/* Words 0 … 3 of blocks quad … quad+HALF−1, in the low halves of their lanes. */
static inline void LC_SIMD(philox)(const lc_rng *r, uint64_t quad, vu c[4]) {
  vu n;
  for (int i = 0; i < HALF; i++) n[i] = quad + (uint64_t)i;
  const vu word = LC_SIMD(u_all)(0xffffffffu), m0 = LC_SIMD(u_all)(0xD2511F53u),
           m1 = LC_SIMD(u_all)(0xCD9E8D57u);
  vu c0 = n & word, c1 = LC_SIMD(u_all)(r->step), c2 = LC_SIMD(u_all)(r->tensor),
     c3 = LC_SIMD(u_all)((uint64_t)r->purpose << 24 | (uint64_t)r->draw << 8) | (n >> 32 & 0xff);
  uint32_t k0 = (uint32_t)r->seed, k1 = (uint32_t)(r->seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const vu p0 = v_mul_u32(c0, m0), p1 = v_mul_u32(c2, m1);
    c0 = p1 >> 32 ^ c1 ^ LC_SIMD(u_all)(k0);
    c2 = p0 >> 32 ^ c3 ^ LC_SIMD(u_all)(k1);
    c1 = p1;
    c3 = p0;
    /* what p leaves above bit 31 of c1, c3 reaches c0, c2 there only, and v_mul_u32 does not look at it */
  }
  c[0] = c0, c[1] = c1, c[2] = c2, c[3] = c3;
}

/* Blocks quad … quad+HALF−1: NORMALS numbers. */
static void LC_SIMD(normal_blocks)(const lc_rng *r, uint64_t quad, float *dst) {
  vu c[4];
  float z[4][HALF];
  LC_SIMD(philox)(r, quad, c);
  LC_SIMD(normal_pairs)(c[0], c[1], z[0], z[1]);
  LC_SIMD(normal_pairs)(c[2], c[3], z[2], z[3]);
  for (int i = 0; i < HALF; i++)
    for (int j = 0; j < 4; j++) dst[4 * i + j] = z[j][i];
}

static void LC_SIMD(normal)(const lc_rng *r, uint64_t first, int64_t n, float *dst) {
  const int64_t head = lc_min64(n, (int64_t)(-first & 3));
  if (head) lc_rng_normal_fill(r, first, head, dst);
  int64_t i = head;
  for (; i + NORMALS <= n; i += NORMALS) LC_SIMD(normal_blocks)(r, (first + (uint64_t)i) / 4, dst + i);
  if (i < n) {
    float z[NORMALS];
    LC_SIMD(normal_blocks)(r, (first + (uint64_t)i) / 4, z);
    memcpy(dst + i, z, (size_t)(n - i) * sizeof *z);
  }
}

/* Their NORMALS uniform numbers, compared with p: which x stay, times keep. Words of a block lie one after another once they are paired in 64 bits. */
static inline void LC_SIMD(dropout_blocks)(const lc_rng *r, uint64_t quad, float p, float keep, float *x) {
  const vu word = LC_SIMD(u_all)(0xffffffffu);
  vu c[4], both[2];
  uint64_t pairs[2 * HALF];
  LC_SIMD(philox)(r, quad, c);
  for (int k = 0; k < 2; k++) both[k] = (c[2 * k] & word) | c[2 * k + 1] << 32;
  for (int i = 0; i < HALF; i++) pairs[2 * i] = both[0][i], pairs[2 * i + 1] = both[1][i];
  for (int k = 0; k < NORMALS; k += LANES) {
    LC_SIMD(words) w;
    memcpy(&w, (const uint32_t *)(const void *)pairs + k, sizeof w);
    const vf u =
        v_mul((vf) __builtin_convertvector((LC_SIMD(ints))(w >> 8), LC_SIMD(f32_lanes)), v_set(0x1p-24f));
    v_store(x + k, v_if_less(u, v_set(p), v_set(0), v_mul(v_load(x + k), v_set(keep))));
  }
}

static void LC_SIMD(dropout)(const lc_rng *r, uint64_t first, int64_t n, float p, float *x) {
  const float keep = 1 / (1 - p);
  const int64_t head = lc_min64(n, (int64_t)(-first & 3));
  if (head) lc_ref_dropout(r, first, head, p, x);
  int64_t i = head;
  for (; i + NORMALS <= n; i += NORMALS)
    LC_SIMD(dropout_blocks)(r, (first + (uint64_t)i) / 4, p, keep, x + i);
  if (i < n) {
    float rest[NORMALS] = {0};
    memcpy(rest, x + i, (size_t)(n - i) * sizeof *rest);
    LC_SIMD(dropout_blocks)(r, (first + (uint64_t)i) / 4, p, keep, rest);
    memcpy(x + i, rest, (size_t)(n - i) * sizeof *rest);
  }
}

static void LC_SIMD(axpy_band)(int64_t n, float a, const float *x, float low, float high, float *y) {
  for (int64_t i = 0; i < n; i++) {
    const float old = y[i], size = fabsf(old), moved = old + a * x[i];
    y[i] = ((size >= low) & (size <= high)) ? moved : old;
  }
}
#undef vu
#undef vd
