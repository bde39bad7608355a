/* Measures the machine's ceilings. Register peaks: every worker runs a loop of independent fused
 * multiply-adds that never leaves the registers. Bandwidth: t workers each read their own part of a buffer of
 * at least four last-level caches, once as one stream and once as eight (a core follows several streams at once, and one
 * alone does not fill its queues: 12 and 18 GB/s on an Intel with AMX, the other way round on a Zen 4). The best of the rounds
 * counts: whatever else runs on the machine can only slow a round down. */
#include <string.h>
#include <unistd.h>
#include "kernels/ceilings.h"

enum { ROUND = 200000, READ_BYTES = 512 << 20, FILL = 1 << 20 /* words */, STREAMS = 8, LINE = 8 };

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

size_t lc_last_level_cache(void) {
  long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return (size_t)(l3 > l2 ? l3 : l2 > 0 ? l2 : 0);
}

typedef struct {
  uint64_t *data;
  int64_t words; /* of a chunk */
  int streams;
  uint64_t seen[LC_CEILINGS_THREADS];
} read_job;

static lc_status read_chunk(void *arg, int64_t chunk, int worker) {
  read_job *job = arg;
  const uint64_t *p = job->data + chunk * job->words; /* each thread its own part */
  int64_t part = job->words / job->streams;
  uint64_t sum[LINE] = {0};
  for (int64_t i = 0; i < part; i += LINE)
    for (int s = 0; s < job->streams; s++)
      for (int j = 0; j < LINE; j++) sum[j] += p[s * part + i + j];
  for (int j = 0; j < LINE; j++) job->seen[chunk] += sum[j];
  return LC_OK;
}

/* Untouched pages would all be the same one. */
static lc_status fill_chunk(void *arg, int64_t chunk, int worker) {
  read_job *job = arg;
  for (int64_t i = chunk * job->words; i < (chunk + 1) * job->words; i++) job->data[i] = (uint64_t)i;
  return LC_OK;
}

static lc_status measure_reads(lc_ctx *ctx, double seconds, lc_ceilings *out) {
  int64_t most = lc_min64(out->threads, LC_CEILINGS_THREADS);
  read_job job = {.words = FILL};
  int64_t words = lc_ceil_div(lc_max64(READ_BYTES, 4 * (int64_t)lc_last_level_cache()) / 8, FILL) * FILL;
  out->read_bytes = (size_t)words * sizeof *job.data;
  job.data = lc_alloc(ctx, LC_MEM_SCRATCH, out->read_bytes);
  if (!job.data) return LC_FAILED;
  lc_status st = lc_parallel(ctx, words / job.words, fill_chunk, &job);
  for (int64_t t = 1; t <= most && !st; t++)
    for (job.streams = 1; job.streams <= STREAMS && !st; job.streams += STREAMS - 1) {
      double until = lc_now() + seconds / 2;
      do {
        job.words = words / t / (STREAMS * LINE) * (STREAMS * LINE);
        double start = lc_now();
        st = lc_parallel(ctx, t, read_chunk, &job);
        double rate = (double)(t * job.words) * sizeof *job.data / (lc_now() - start);
        if (!st && rate > out->read[t] && job.seen[0] != 0) out->read[t] = rate;
      } while (!st && lc_now() < until);
    }
  lc_free(ctx, job.data);
  return st;
}

/* ---- the list ---- */

bool lc_has_vnni(const lc_ctx *ctx) {
  return lc_isa_of(ctx) >= LC_ISA_AVX512 && lc_cpu_has(LC_CPU_AVX512_VNNI);
}

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
  if (isa == LC_ISA_AVX2 && lc_cpu_has(LC_CPU_AVX_VNNI))
    LC_TRY(measure_peak(ctx, lc_peak_int8_avxvnni, seconds_each, &out->int8));
  if (isa >= LC_ISA_AMX) {
    LC_TRY(measure_peak(ctx, lc_peak_bf16_amx, seconds_each, &out->amx_bf16));
    LC_TRY(measure_peak(ctx, lc_peak_int8_amx, seconds_each, &out->amx_int8));
  }
#endif
  LC_TRY(measure_peak(ctx, f32, seconds_each, &out->f32));
  return measure_reads(ctx, seconds_each, out);
}
