/* Measures the machine's ceilings. Register peaks: every worker runs a loop of independent fused
 * multiply-adds that never leaves the registers. Bandwidth: t workers each read their own part of a buffer
 * far larger than the caches. The best of the rounds counts: whatever else runs on the machine can only slow
 * a round down. */
#include <string.h>
#include "kernels/ceilings.h"
#ifdef __x86_64__
#include <cpuid.h>
#endif

enum { ROUND = 200000, READ_BYTES = 512 << 20 };

/* ---- registers ---- */

typedef struct {
  lc_peak_fn peak;
  double done[LC_CEILINGS_THREADS];
} peak_job;

static lc_status peak_chunk(void *arg, int64_t chunk, int worker) {
  peak_job *job = arg;
  job->done[chunk] = job->peak(ROUND);
  return LC_OK;
}

static lc_status measure_peak(lc_ctx *ctx, lc_peak_fn peak, double seconds, double *best) {
  int64_t n = lc_min64(lc_threads(ctx), LC_CEILINGS_THREADS);
  double until = lc_now() + seconds;
  *best = 0;
  do {
    peak_job job = {.peak = peak};
    double start = lc_now(), done = 0;
    LC_TRY(lc_parallel(ctx, n, peak_chunk, &job));
    double took = lc_now() - start;
    for (int64_t i = 0; i < n; i++) done += job.done[i];
    if (done / took > *best) *best = done / took;
  } while (lc_now() < until);
  return LC_OK;
}

/* ---- memory ---- */

typedef struct {
  const uint64_t *data;
  int64_t words;
  uint64_t seen[LC_CEILINGS_THREADS];
} read_job;

static lc_status read_chunk(void *arg, int64_t chunk, int worker) {
  read_job *job = arg;
  const uint64_t *p = job->data + chunk * job->words; /* each thread its own part */
  uint64_t sum[8] = {0};
  for (int64_t i = 0; i < job->words; i += 8)
    for (int j = 0; j < 8; j++) sum[j] += p[i + j];
  for (int j = 0; j < 8; j++) job->seen[chunk] += sum[j];
  return LC_OK;
}

static lc_status measure_reads(lc_ctx *ctx, double seconds, lc_ceilings *out) {
  int64_t most = lc_min64(out->threads, LC_CEILINGS_THREADS), words = READ_BYTES / 8;
  uint64_t *data = lc_alloc(ctx, LC_MEM_SCRATCH, READ_BYTES);
  if (!data) return LC_FAILED;
  for (int64_t i = 0; i < words; i++) data[i] = (uint64_t)i; /* untouched pages would all be the same one */
  lc_status st = LC_OK;
  out->read_bytes = READ_BYTES;
  for (int64_t t = 1; t <= most && !st; t++) {
    double until = lc_now() + seconds;
    do {
      read_job job = {.data = data, .words = words / t / 8 * 8};
      double start = lc_now();
      st = lc_parallel(ctx, t, read_chunk, &job);
      double rate = (double)(t * job.words * 8) / (lc_now() - start);
      if (!st && rate > out->read[t] && job.seen[0] != 0) out->read[t] = rate;
    } while (!st && lc_now() < until);
  }
  lc_free(ctx, data);
  return st;
}

/* ---- the list ---- */

#ifdef __x86_64__
bool lc_has_vnni(const lc_ctx *ctx) {
  uint32_t a, b, c, d;
  return lc_isa_of(ctx) >= LC_ISA_AVX512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VNNI);
}
#else
bool lc_has_vnni(const lc_ctx *ctx) {
  return false;
}
#endif

lc_status lc_ceilings_measure(lc_ctx *ctx, double seconds_each, lc_ceilings *out) {
  lc_isa isa = lc_isa_of(ctx);
  memset(out, 0, sizeof *out);
  out->threads = lc_threads(ctx);
  lc_peak_fn f32 = lc_peak_f32_scalar;
#ifdef __x86_64__
  if (isa >= LC_ISA_AVX2) f32 = lc_peak_f32_avx2;
  if (isa >= LC_ISA_AVX512) f32 = lc_peak_f32_avx512;
  if (isa >= LC_ISA_AVX512_BF16) LC_TRY(measure_peak(ctx, lc_peak_bf16_avx512, seconds_each, &out->bf16));
  if (lc_has_vnni(ctx)) LC_TRY(measure_peak(ctx, lc_peak_int8_vnni, seconds_each, &out->int8));
  if (isa >= LC_ISA_AMX) {
    LC_TRY(measure_peak(ctx, lc_peak_bf16_amx, seconds_each, &out->amx_bf16));
    LC_TRY(measure_peak(ctx, lc_peak_int8_amx, seconds_each, &out->amx_int8));
  }
#endif
  LC_TRY(measure_peak(ctx, f32, seconds_each, &out->f32));
  return measure_reads(ctx, seconds_each, out);
}
