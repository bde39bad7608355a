/* Random numbers are a file format: known answers, and the same numbers however they are asked for. Words
 * from the Random123 distribution; normals from 200-bit arithmetic, rounded once to f32. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "core/core.h"

static lc_ctx *ctx;

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static void test_known_answers(void **state) {
  const struct {
    uint32_t key[2], counter[4], out[4];
  } cases[] = {
      {{0, 0}, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0xa4093822, 0x299f31d0},
       {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (int i = 0; i < 3; i++) {
    uint32_t out[4];
    lc_philox4x32(cases[i].key, cases[i].counter, out);
    assert_memory_equal(out, cases[i].out, sizeof out);
  }
  assert_int_equal(lc_fnv1a32(""), 0x811c9dc5u);
  assert_int_equal(lc_fnv1a32("a"), 0xe40c292cu);
}

static uint32_t bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static lc_rng some_key(void) {
  return (lc_rng){.seed = 42ull << 32 | 7,
                  .step = 7,
                  .tensor = lc_fnv1a32("model.norm.weight"),
                  .draw = 3,
                  .purpose = LC_RNG_TEST};
}

static void test_format(void **state) {
  const uint64_t quad[3] = {0, 1, ((uint64_t)1 << 40) - 1}; /* the last one: element 2^42 - 4 and on */
  const uint32_t word[3][4] = {{0x56935543, 0xea5a0c17, 0x7ca467db, 0x0b4d2fe2},
                               {0xe0941fc3, 0x83b5c27b, 0xf1a36c2f, 0x4ede914b},
                               {0x40343bf4, 0xa2874626, 0x21be0644, 0xd5f26524}};
  const uint32_t normal[3][4] = {{0x3fa27f63, 0xbf3f001e, 0x3f93b37b, 0x3ea836d9},
                                 {0xbf027814, 0xbd3e9bf2, 0xbdf8610b, 0x3ea2862f},
                                 {0xbf8ce8ee, 0xbf9f94d1, 0x3f843043, 0xbfdd326f}};
  lc_rng r = some_key();
  for (int i = 0; i < 3; i++)
    for (uint64_t lane = 0; lane < 4; lane++) {
      uint64_t e = quad[i] * 4 + lane;
      assert_int_equal(lc_rng_u32(&r, e), word[i][lane]);
      assert_int_equal(bits(lc_rng_uniform(&r, e)), bits((float)(word[i][lane] >> 8) / 16777216.0f));
      assert_int_equal(bits(lc_rng_normal(&r, e)), normal[i][lane]);
    }
}

/* 20,000 normals as a whole: a sum of their bytes, from the same 200-bit arithmetic. */
static void test_many_normals(void **state) {
  lc_rng r = some_key();
  uint32_t sum = 2166136261u;
  for (uint64_t e = 0; e < 20000; e++)
    for (int i = 0; i < 4; i++) sum = (sum ^ (bits(lc_rng_normal(&r, e)) >> 8 * i & 255)) * 16777619u;
  assert_int_equal(sum, 0x8296564du);
}

/* Each part of the key changes the numbers. */
static void test_key(void **state) {
  lc_rng base = some_key(), r[6] = {base, base, base, base, base, base};
  r[0].seed ^= 1;
  r[1].seed ^= (uint64_t)1 << 63;
  r[2].step++;
  r[3].tensor++;
  r[4].draw ^= 0x8000;
  r[5].purpose ^= 0x80;
  for (int i = 0; i < 6; i++) assert_int_not_equal(lc_rng_u32(&r[i], 5), lc_rng_u32(&base, 5));
}

static void test_fill(void **state) {
  lc_rng r = some_key();
  for (uint64_t first = 0; first < 9; first++)
    for (int64_t n = 0; n < 11; n++) {
      float u[16], z[16];
      for (int i = 0; i < 16; i++) u[i] = z[i] = 99;
      lc_rng_uniform_fill(&r, first, n, u);
      lc_rng_normal_fill(&r, first, n, z);
      for (int64_t i = 0; i < 16; i++) {
        assert_int_equal(bits(u[i]), bits(i < n ? lc_rng_uniform(&r, first + (uint64_t)i) : 99));
        assert_int_equal(bits(z[i]), bits(i < n ? lc_rng_normal(&r, first + (uint64_t)i) : 99));
      }
    }
}

/* Against libm in long double: within one unit in the last place of f32 everywhere, tails included. */
static void test_normals(void **state) {
  enum { N = 200000 };
  lc_rng r = some_key();
  double sum = 0, squares = 0, fourth = 0, worst = 0;
  for (uint64_t e = 0; e < N; e++) {
    double z = (double)lc_rng_normal(&r, e);
    long double u = ((long double)lc_rng_u32(&r, e & ~1ull) + 0.5L) / 4294967296.0L,
                v = (long double)lc_rng_u32(&r, e | 1) / 4294967296.0L;
    long double turn = 2 * 3.14159265358979323846264338327950288L * v,
                want = sqrtl(-2 * logl(u)) * (e % 2 ? sinl(turn) : cosl(turn));
    double error = fabs((double)((long double)z - want)) / (fabs((double)want) + 1e-12);
    if (error > worst) worst = error;
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
  }
  assert_true(worst < 6.1e-8); /* half a unit: 5.96e-8 */
  assert_true(fabs(sum / N) < 0.01 && fabs(squares / N - 1) < 0.02 && fabs(fourth / N - 3) < 0.1);
}

static void test_below(void **state) {
  lc_rng r = some_key();
  int64_t count[7] = {0};
  for (uint64_t e = 0; e < 70000; e++) {
    uint64_t x = lc_rng_below(&r, e, 7);
    assert_true(x < 7);
    count[x]++;
  }
  for (int i = 0; i < 7; i++) assert_in_range(count[i], 9600, 10400); /* 4 deviations */
  assert_int_equal(lc_rng_below(&r, 3, 1), 0);
  uint64_t most = (uint64_t)3 << 62; /* a quarter of all words is rejected */
  double mean = 0;
  for (uint64_t e = 0; e < 2000; e++) {
    uint64_t x = lc_rng_below(&r, e, most);
    assert_true(x < most);
    mean += (double)x / (double)most / 2000;
  }
  assert_true(fabs(mean - 0.5) < 0.03);
}

static void check_choice(int64_t total, int64_t n) {
  lc_rng r = some_key();
  int64_t *at = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *at);
  assert_int_equal(lc_rng_choose(ctx, &r, total, n, at), LC_OK);
  for (int64_t i = 0; i < n; i++) assert_true(at[i] >= 0 && at[i] < total && (!i || at[i] > at[i - 1]));
  lc_free(ctx, at);
}

static void test_choose(void **state) {
  const int64_t sizes[][2] = {{1, 1},    {5, 5},   {1000, 1},      {1000, 999},
                              {1000, 0}, {64, 64}, {100003, 1000}, {(int64_t)1 << 40, 500}};
  for (int i = 0; i < 8; i++) check_choice(sizes[i][0], sizes[i][1]);
  /* Floyd's rule, step by step, for both ways of keeping the set. */
  for (int64_t total = 300; total < 2000000; total *= 6000) {
    lc_rng r = some_key();
    int64_t got[20], want[20], n = 20;
    for (int64_t i = 0; i < n; i++) {
      int64_t j = total - n + i, x = (int64_t)lc_rng_below(&r, (uint64_t)i, (uint64_t)j + 1), place;
      for (int64_t k = 0; k < i; k++)
        if (want[k] == x) x = j;
      for (place = i; place > 0 && want[place - 1] > x; place--) want[place] = want[place - 1];
      want[place] = x;
    }
    assert_int_equal(lc_rng_choose(ctx, &r, total, n, got), LC_OK);
    assert_memory_equal(got, want, sizeof got);
  }
  lc_rng r = some_key();
  int64_t none[1];
  assert_int_equal(lc_rng_choose(ctx, &r, 3, 4, none), LC_FAILED);
  assert_int_equal(lc_rng_choose(ctx, &r, 3, -1, none), LC_FAILED);
}

static void test_choose_is_uniform(void **state) {
  int count[10] = {0};
  for (uint32_t step = 0; step < 5000; step++) {
    lc_rng r = some_key();
    int64_t at[3];
    r.step = step;
    assert_int_equal(lc_rng_choose(ctx, &r, 10, 3, at), LC_OK);
    for (int i = 0; i < 3; i++) count[at[i]]++;
  }
  for (int i = 0; i < 10; i++) assert_in_range(count[i], 1370, 1630); /* 1500 ± 4 deviations */
}

static void test_permutation(void **state) {
  lc_rng r = some_key();
  int64_t p[500];
  uint8_t seen[500] = {0};
  lc_rng_permutation(&r, 500, p);
  int fixed = 0;
  for (int i = 0; i < 500; i++) {
    assert_true(p[i] >= 0 && p[i] < 500 && !seen[p[i]]++);
    fixed += p[i] == i;
  }
  assert_true(fixed < 8);
  int first[4] = {0};
  for (uint32_t step = 0; step < 4000; step++) {
    r.step = step;
    lc_rng_permutation(&r, 4, p);
    first[p[0]]++;
  }
  for (int i = 0; i < 4; i++) assert_in_range(first[i], 890, 1110);
  lc_rng_permutation(&r, 0, p);
  lc_rng_permutation(&r, 1, p);
  assert_int_equal(p[0], 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_answers),
                                     cmocka_unit_test(test_format),
                                     cmocka_unit_test(test_many_normals),
                                     cmocka_unit_test(test_key),
                                     cmocka_unit_test(test_fill),
                                     cmocka_unit_test(test_normals),
                                     cmocka_unit_test(test_below),
                                     cmocka_unit_test(test_choose),
                                     cmocka_unit_test(test_choose_is_uniform),
                                     cmocka_unit_test(test_permutation)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
