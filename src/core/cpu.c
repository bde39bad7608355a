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

enum { LC_PATH = 4096 };

static const char *const names[LC_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
const char *lc_isa_name(lc_isa isa) {
  return names[isa];
}

#if defined(__x86_64__)
static uint64_t xcr0(void) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

static bool amx_permitted(void) {
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}

static lc_isa detect(void) {
  uint32_t a, b, c, d, b7, c7, d7, a71 = 0, x, y, z;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C))
    return LC_ISA_SCALAR;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return LC_ISA_SCALAR;
  __get_cpuid_count(7, 1, &a71, &x, &y, &z);
  uint64_t os = xcr0();
  if ((os & 6) != 6 || !(b7 & bit_AVX2) || !(b7 & bit_BMI2)) return LC_ISA_SCALAR;
  uint32_t need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if ((os & 0xe6) != 0xe6 || (b7 & need) != need) return LC_ISA_AVX2;
  if (!(a71 & 1u << 5) || !(c7 & bit_AVX512VNNI)) return LC_ISA_AVX512;
  bool amx = (d7 & 1u << 22) && (d7 & 1u << 24) && (d7 & 1u << 25) && (os & 0x60000) == 0x60000;
  return amx && amx_permitted() ? LC_ISA_AMX : LC_ISA_AVX512_BF16;
}
#else
static lc_isa detect(void) {
  return LC_ISA_SCALAR;
}
#endif

#if defined(__x86_64__)
static uint32_t detect_flags(void) {
  uint32_t a, b, c7 = 0, d, a71 = 0, x, y, z;
  if (detect() < LC_ISA_AVX2 || !__get_cpuid_count(7, 0, &a, &b, &c7, &d)) return 0;
  __get_cpuid_count(7, 1, &a71, &x, &y, &z);
  return (a71 & 1u << 4 ? 1u << LC_CPU_AVX_VNNI : 0) |
         (detect() >= LC_ISA_AVX512 && (c7 & bit_AVX512VNNI) ? 1u << LC_CPU_AVX512_VNNI : 0);
}
#else
static uint32_t detect_flags(void) {
  return 0;
}
#endif

bool lc_cpu_has(lc_cpu_flag f) {
  static _Atomic int known = -1;
  if (known < 0) known = (int)detect_flags();
  return known >> f & 1;
}

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

/* Reads up to two numbers; what is no number ("max") ends them. */
static int read_numbers(const char *dir, const char *file, double x[2]) {
  char path[LC_PATH + 32];
  snprintf(path, sizeof path, "%s/%s", dir, file);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  int got = fscanf(f, "%lf %lf", &x[0], &x[1]);
  fclose(f);
  return got;
}

/* The least quota of a group and those above it up to the mount: each limits all below. A path that this
 * mount does not have (a container sees its host's) counts from where it exists. */
static double least_quota(const char *mount, const char *group, bool v2) {
  char dir[LC_PATH];
  double least = 0;
  size_t top = strlen(mount);
  if (snprintf(dir, sizeof dir, "%s%s", mount, group) >= (int)sizeof dir) return 0;
  for (;;) {
    double q[2] = {0, 0}, period[2] = {0, 0}, cpus = 0;
    if (v2) {
      if (read_numbers(dir, "cpu.max", q) == 2 && q[1] > 0) cpus = q[0] / q[1];
    } else if (read_numbers(dir, "cpu.cfs_quota_us", q) >= 1 &&
               read_numbers(dir, "cpu.cfs_period_us", period) >= 1 && period[0] > 0) {
      cpus = q[0] / period[0]; /* -1: none */
    }
    if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
    char *slash = strrchr(dir, '/');
    if (!slash || (size_t)(slash - dir) < top) return least;
    *slash = 0;
  }
}

static bool names_cpu(const char *controllers) {
  for (const char *at = controllers; at; at = strchr(at, ',')) {
    at += *at == ',';
    if (!strncmp(at, "cpu", 3) && (!at[3] || at[3] == ',')) return true;
  }
  return false;
}

double lc_cgroup_cpus(const char *self, const char *root) {
  char line[LC_PATH], mount[LC_PATH];
  double least = 0;
  FILE *f = fopen(self, "r");
  while (f &&
         fgets(line, sizeof line, f)) { /* number:controllers:path, the second version without controllers */
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) continue;
    *path++ = 0;
    controllers++;
    if (*controllers && !names_cpu(controllers)) continue;
    int n = *controllers ? snprintf(mount, sizeof mount, "%s/%s", root, controllers)
                         : snprintf(mount, sizeof mount, "%s", root);
    double cpus = n < (int)sizeof mount ? least_quota(mount, path, !*controllers) : 0;
    if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
  }
  if (f) fclose(f);
  return least;
}

int lc_physical_cores(void) {
  int n = cores_in_affinity();
  double quota = lc_cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota > 0 && quota < n) n = quota < 1 ? 1 : (int)(quota + 0.5);
  return n;
}

static char cpu_name[128];

static void read_cpu_name(void) {
  char line[256];
  snprintf(cpu_name, sizeof cpu_name, "unknown");
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) || !colon) continue;
    colon += 1 + strspn(colon + 1, " ");
    colon[strcspn(colon, "\n")] = 0;
    if (*colon) snprintf(cpu_name, sizeof cpu_name, "%.127s", colon);
    break;
  }
  if (f) fclose(f);
}

const char *lc_cpu_name(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, read_cpu_name);
  return cpu_name;
}

double lc_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
