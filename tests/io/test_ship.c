/* ship: base and files of changes give the next checkpoint byte for byte; a missing link is refused; an anchor starts anew; damage shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "io/ship.h"
#include "support/io_support.h"

static lc_ctx *ctx;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static void refused(lc_status st, const char *says) {
  assert_int_not_equal(st, LC_OK);
  if (!strstr(lc_error(ctx), says)) fail_msg("'%s' lacks '%s'", lc_error(ctx), says);
  lc_error_clear(ctx);
}

static char *in(const char *name) {
  static char path[12][512];
  static int turn;
  char *p = path[turn++ % 12];
  snprintf(p, 512, "%s", t_path(name));
  return p;
}

enum { N = 70001, M = 1000 };
static float f32[M];
static uint16_t bf16[N];
static uint8_t u8[3];

static void write_checkpoint(const char *name) {
  const lc_named_tensor all[] = {{"a.weight", {f32, LC_F32, 2, {M / 10, 10}}},
                                 {"b.weight", {bf16, LC_BF16, 1, {N}}},
                                 {"c", {u8, LC_U8, 1, {3}}}};
  ok(lc_safetensors_write(ctx, in(name), all, 3));
}

static void same(const char *a, const char *b) {
  t_bytes x = t_get(in(a)), y = t_get(in(b));
  assert_true(x.n == y.n && !memcmp(x.data, y.data, x.n));
  t_free(&x);
  t_free(&y);
}

static void test_chain(void **state) {
  uint32_t s = 3;
  lc_ship ship;
  char name[32], file[32], before[32];
  for (int i = 0; i < M; i++) f32[i] = (float)i;
  write_checkpoint("v0");
  for (int v = 1; v < 4; v++) {
    for (int i = 0; i < 900 * v; i++) bf16[t_random(&s) % N] ^= (uint16_t)(1u + t_random(&s) % 3);
    if (v > 1) f32[v] = -0.0f; /* a sign alone is a change of bytes */
    bf16[N - 1] = (uint16_t)(40 + v);
    u8[2] = (uint8_t)v;
    snprintf(name, sizeof name, "v%d", v);
    snprintf(file, sizeof file, "s%d", v);
    snprintf(before, sizeof before, "v%d", v - 1);
    write_checkpoint(name);
    ok(lc_ship_write(ctx, in(before), in(name), v, in(file), &ship));
    assert_true(ship.changed > 0 && ship.elements == N + M + 3 && !ship.anchor);
    t_bytes small = t_get(in(file)), whole = t_get(in(name));
    assert_true(small.n < whole.n / 2);
    t_free(&small);
    t_free(&whole);
  }
  ok(lc_ship_apply(ctx, in("v0"), in("s1"), in("r1"), &ship));
  same("r1", "v1");
  refused(lc_ship_apply(ctx, in("r1"), in("s3"), in("r3"), &ship), "does not follow");
  assert_false(lc_path_exists(in("r3")));
  ok(lc_ship_apply(ctx, in("r1"), in("s2"), in("r2"), &ship));
  ok(lc_ship_apply(ctx, in("r2"), in("s3"), in("r3"), &ship));
  same("r3", "v3");
  assert_int_equal(ship.version, 3);
  ok(lc_ship_write(ctx, NULL, in("v2"), 2, in("anchor"), &ship));
  ok(lc_ship_apply(ctx, NULL, in("anchor"), in("again"), &ship));
  assert_true(ship.anchor && ship.version == 2);
  same("again", "v2");
  ok(lc_ship_apply(ctx, in("again"), in("s3"), in("third"), &ship));
  same("third", "v3");
  ok(lc_ship_write(ctx, in("v3"), in("v3"), 4, in("nothing"), &ship));
  assert_int_equal(ship.changed, 0);
  ok(lc_ship_apply(ctx, in("v3"), in("nothing"), in("r4"), &ship));
  same("r4", "v3");
}

static void test_refusals(void **state) {
  lc_ship ship;
  refused(lc_ship_apply(ctx, NULL, in("s1"), in("x"), &ship), "the checkpoint before it is needed");
  refused(lc_ship_read(ctx, in("v1"), &ship), "no file of changed values");
  const lc_named_tensor other[] = {{"a.weight", {f32, LC_F32, 1, {M}}}};
  ok(lc_safetensors_write(ctx, in("other"), other, 1));
  refused(lc_ship_write(ctx, in("v1"), in("other"), 2, in("x"), &ship), "other headers");
  t_bytes b = t_get(in("s1"));
  b.data[b.n - 1] ^= 1; /* the last value */
  t_put(in("damaged"), b.data, b.n);
  t_free(&b);
  refused(lc_ship_apply(ctx, in("v0"), in("damaged"), in("x"), &ship), "damaged");
  assert_false(lc_path_exists(in("x")));
}

static int setup(void **state) {
  char why[256];
  assert_int_equal(lc_ctx_new(1, &ctx, why), LC_OK);
  t_dir();
  return 0;
}

static int teardown(void **state) {
  t_dir_remove();
  lc_ctx_free(ctx);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_chain), cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
