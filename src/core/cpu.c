/* CPU: what it can run, how many cores are ours, what it is called. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "core/context.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[LC_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
const char *lc_isa_name(lc_isa isa) { return names[isa]; }

#if defined(__x86_64__)
static uint64_t xcr0(void) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

static bool amx_permitted(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

static lc_isa detect(void) {
  uint32_t a, b, c, d, b7, c7, d7, a71 = 0, x, y, z;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C)) return LC_ISA_SCALAR;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return LC_ISA_SCALAR;
  __get_cpuid_count(7, 1, &a71, &x, &y, &z);
  uint64_t os = xcr0();
  if ((os & 6) != 6 || !(b7 & bit_AVX2) || !(b7 & bit_BMI2)) return LC_ISA_SCALAR;
  uint32_t need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if ((os & 0xe6) != 0xe6 || (b7 & need) != need) return LC_ISA_AVX2;
  if (!(a71 & 1u << 5)) return LC_ISA_AVX512;
  bool amx = (d7 & 1u << 22) && (d7 & 1u << 24) && (os & 0x60000) == 0x60000;
  return amx && amx_permitted() ? LC_ISA_AMX : LC_ISA_AVX512_BF16;
}
#else
static lc_isa detect(void) { return LC_ISA_SCALAR; }
#endif

/* Asked for every kernel, and CPUID takes tens of microseconds in a virtual machine: once is enough. */
lc_isa lc_isa_detect(void) {
  static _Atomic int known = -1;
  if (known < 0) known = (int)detect();
  return (lc_isa)known;
}

/* Cores by (package, core) among the CPUs that we may run on. */
static int cores_in_affinity(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set)) return 1;
  int seen[LC_MAX_WORKERS * 4], n = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &set)) continue;
    int id[2] = {0, cpu};
    const char *const what[2] = {"physical_package_id", "core_id"};
    for (int i = 0; i < 2; i++) {
      char path[128];
      snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, what[i]);
      FILE *f = fopen(path, "r");
      if (!f) continue;
      if (fscanf(f, "%d", &id[i]) != 1) id[i] = i ? cpu : 0;
      fclose(f);
    }
    int key = id[0] * 65536 + id[1], known = 0;
    for (int i = 0; i < n; i++) known |= seen[i] == key;
    if (!known && n < (int)(sizeof seen / sizeof *seen)) seen[n++] = key;
  }
  return n > 0 ? n : 1;
}

static double read_quota(void) {
  double quota = 0, period = 0;
  FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
  if (f) {
    int got = fscanf(f, "%lf %lf", &quota, &period);
    fclose(f);
    return got == 2 && period > 0 ? quota / period : 0;
  }
  f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
  if (!f) return 0;
  int got = fscanf(f, "%lf", &quota);
  fclose(f);
  f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
  if (!f) return 0;
  got += fscanf(f, "%lf", &period);
  fclose(f);
  return got == 2 && quota > 0 && period > 0 ? quota / period : 0;
}

int lc_physical_cores(void) {
  int n = cores_in_affinity();
  double quota = read_quota();
  if (quota > 0 && quota < n) n = quota < 1 ? 1 : (int)(quota + 0.5);
  return n;
}

const char *lc_cpu_name(void) {
  static char name[128];
  if (name[0]) return name;
  FILE *f = fopen("/proc/cpuinfo", "r");
  char line[256];
  while (f && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) || !colon) continue;
    snprintf(name, sizeof name, "%s", colon + 2);
    name[strcspn(name, "\n")] = 0;
    break;
  }
  if (f) fclose(f);
  if (!name[0]) snprintf(name, sizeof name, "unknown");
  return name;
}

double lc_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
