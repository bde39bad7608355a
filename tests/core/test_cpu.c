/* What limits the CPUs: quotas of both cgroup versions, from trees made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "core/context.h"

static lc_ctx *ctx;
static char root[] = "/tmp/lacuna-cpu-XXXXXX";

static int setup(void **state) {
  return lc_ctx_new(1, &ctx, NULL) || !mkdtemp(root);
}

static int teardown(void **state) {
  lc_status st = lc_remove_tree(ctx, root);
  lc_ctx_free(ctx);
  return st;
}

static void put(const char *dir, const char *file, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", root, dir);
  assert_int_equal(lc_mkdirs(ctx, path), LC_OK);
  snprintf(path, sizeof path, "%s/%s/%s", root, dir, file);
  assert_int_equal(lc_write_file(ctx, path, text, strlen(text)), LC_OK);
}

static double cpus(const char *self) {
  char path[512];
  put(".", "self", self);
  snprintf(path, sizeof path, "%s/self", root);
  return lc_cgroup_cpus(path, root);
}

static void test_version_2(void **state) {
  assert_true(cpus("0::/\n") == 0);
  put("a/b", "cpu.max", "max 100000\n");
  assert_true(cpus("0::/a/b\n") == 0);
  put("a/b", "cpu.max", "250000 100000\n");
  assert_true(cpus("0::/a/b\n") == 2.5);
  put("a", "cpu.max", "150000 100000\n"); /* what is above limits too */
  assert_true(cpus("0::/a/b\n") == 1.5);
  assert_true(cpus("0::/a\n") == 1.5);
  assert_true(cpus("0::/gone/from/here\n") == 0);
  put(".", "cpu.max", "400000 100000\n");
  assert_true(cpus("0::/gone/from/here\n") == 4); /* a container's mount is its own group */
}

static void test_version_1(void **state) {
  put("cpu,cpuacct/g", "cpu.cfs_quota_us", "-1\n");
  put("cpu,cpuacct/g", "cpu.cfs_period_us", "100000\n");
  const char *self = "5:cpuset:/x\n4:cpu,cpuacct:/g\n3:name=systemd:/cpu\n";
  assert_true(cpus(self) == 0);
  put("cpu,cpuacct/g", "cpu.cfs_quota_us", "50000\n");
  assert_true(cpus(self) == 0.5);
  assert_true(cpus("2:cpuacct:/g\n1:cpuset:/g\n") == 0); /* not the cpu controller */
  assert_true(cpus("nonsense\n\n:\n") == 0);
}

static void test_machine(void **state) {
  int n = lc_physical_cores();
  assert_true(n >= 1 && n <= LC_MAX_WORKERS * 4);
  assert_true(strlen(lc_cpu_name()) > 0);
  assert_ptr_equal(lc_cpu_name(), lc_cpu_name());
  assert_string_equal(lc_isa_name(LC_ISA_AVX512_BF16), "avx512_bf16");
  assert_int_equal(lc_isa_detect(), lc_isa_detect());
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_version_1), cmocka_unit_test(test_version_2),
                                     cmocka_unit_test(test_machine)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
