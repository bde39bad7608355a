/* core: status and errors, counted memory, checked sizes, files, random numbers, parallel loops, CPU.
 *
 * Everything above stands on this. Nothing here prints, exits or aborts. A function that can fail returns
 * lc_status, leaves one sentence in the context (lc_error) that names the file, the tensor and the numbers,
 * and has cleaned up. */
#ifndef LC_CORE_H
#define LC_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef int lc_status;
enum { LC_OK = 0, LC_FAILED = 1, LC_USAGE = 2, LC_STOPPED = 3 /* interrupted by a signal, state saved */ };

#define LC_TRY(expr)                                                                                         \
  do {                                                                                                       \
    lc_status lc_try_status_ = (expr);                                                                       \
    if (lc_try_status_) return lc_try_status_;                                                               \
  } while (0)
/* For functions with one exit path: needs a local `lc_status st` and a label `done`. */
#define LC_GO(expr)                                                                                          \
  do {                                                                                                       \
    st = (expr);                                                                                             \
    if (st) goto done;                                                                                       \
  } while (0)

typedef struct lc_ctx lc_ctx;

/* ---- context ---- */

typedef enum { LC_LOG_DEBUG, LC_LOG_INFO, LC_LOG_WARN } lc_log_level;
typedef void (*lc_log_fn)(void *arg, lc_log_level, const char *line);

/* Creates a context with `threads` workers (0: physical cores within affinity and the cgroup quota). Reads
 * LACUNA_ISA; an unknown or unsupported value is an error. On failure *out is NULL and the sentence is in
 * `why` (256 bytes, may be NULL). */
lc_status lc_ctx_new(int threads, lc_ctx **out, char *why);
void lc_ctx_free(lc_ctx *);
int lc_threads(const lc_ctx *);
void lc_set_log(lc_ctx *, lc_log_fn, void *arg); /* default: silent */
void lc_log(lc_ctx *, lc_log_level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Sets the error sentence and returns LC_FAILED. Safe in workers: the sentence of the lowest failing chunk
 * survives. */
lc_status lc_fail(lc_ctx *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with LC_USAGE: the caller's arguments are wrong (exit status 2). */
lc_status lc_usage(lc_ctx *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *lc_error(const lc_ctx *); /* "" when none */
void lc_error_clear(lc_ctx *);

/* Cooperative interruption: a signal handler stores the signal's number here (async-signal-safe); loops look
 * at it. */
void lc_request_stop(lc_ctx *, int signo);
int lc_stop_requested(const lc_ctx *);

/* ---- memory: counted by category, so that tests can hold the engine to its byte formulas ---- */

typedef enum {
  LC_MEM_OTHER,     /* tables, names, tokenizers, I/O buffers */
  LC_MEM_FORM,      /* weights that are not mapped: private copies, dense masters */
  LC_MEM_TRAINABLE, /* values, indices, optimiser columns: what survives a step */
  LC_MEM_GRAD,      /* gradients of trainables */
  LC_MEM_CANDIDATE, /* SpIEL's candidates and the like */
  LC_MEM_PLAN,      /* activation arenas */
  LC_MEM_SCRATCH,   /* tiles, per worker */
  LC_MEM_KV,
  LC_MEM_COUNT
} lc_mem;

/* Zeroed, 64-byte aligned. NULL (with the error set) when out of memory; a size of 0 gives a unique non-NULL
 * pointer. */
void *lc_alloc(lc_ctx *, lc_mem, size_t size);
void *lc_alloc_n(lc_ctx *, lc_mem, size_t n, size_t size); /* checked product */
/* Grows or shrinks; new bytes are zeroed; the old block stays valid on failure. `p` NULL allocates. */
void *lc_realloc(lc_ctx *, lc_mem, void *p, size_t size);
void lc_free(lc_ctx *, void *p); /* NULL is fine; the size and category are stored in front of the block */
char *lc_strdup(lc_ctx *, const char *);
/* Caller frees with lc_free. */
char *lc_format(lc_ctx *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

size_t lc_mem_bytes(const lc_ctx *, lc_mem); /* now */
size_t lc_mem_peak(const lc_ctx *);          /* of the sum over categories */
uint64_t lc_mem_allocations(const lc_ctx *); /* taken from the system so far: flat in the steady state */
size_t lc_rss_bytes(void);                   /* resident now (0 if unknown) */
size_t lc_peak_rss_bytes(void);              /* the operating system's peak for this process */

static inline bool lc_mul(size_t a, size_t b, size_t *out) {
  return !__builtin_mul_overflow(a, b, out);
}
static inline bool lc_add(size_t a, size_t b, size_t *out) {
  return !__builtin_add_overflow(a, b, out);
}

/* Scratch of one worker: grows to the largest size asked for and is kept; contents are undefined. slot <
 * LC_SCRATCH_SLOTS names buffers that live at the same time. NULL (error set) when out of memory. Call only
 * from that worker or outside lc_parallel. */
#define LC_SCRATCH_SLOTS 16
void *lc_scratch(lc_ctx *, int worker, int slot, size_t size);
/* The same, one for all workers: for what is large and made outside lc_parallel. slot < LC_SCRATCH_SHARED. */
#define LC_SCRATCH_SHARED 3
void *lc_scratch_shared(lc_ctx *, int slot, size_t size);
/* Brings each slot of every worker to the largest size that any worker has asked for: from here on which
 * worker gets which chunk does not matter to memory. Outside lc_parallel only. */
lc_status lc_scratch_level(lc_ctx *);

/* Between on and off, blocks that are freed are kept (counted as LC_MEM_OTHER), and allocation takes a kept
 * block before it asks the system: work that repeats (a checkpoint) allocates the first time only. Off keeps
 * what is there for the next time; drop gives it back. */
void lc_mem_keep(lc_ctx *, bool on);
void lc_mem_drop(lc_ctx *);

/* ---- parallel loops ---- */

/* Calls fn(arg, chunk, worker) for chunk 0..n_chunks-1 on the context's workers (0 <= worker < lc_threads).
 * Results must not depend on the number of threads: nothing is reduced across threads in floating point, and chunks may be cut by it only where
 * no sum depends on the cut (columns of a product, pieces whose sums are added in a fixed order afterwards).
 * Returns the status (and sentence) of the lowest failing chunk. A nested call runs serially on the caller's
 * worker. */
typedef lc_status (*lc_chunk_fn)(void *arg, int64_t chunk, int worker);
lc_status lc_parallel(lc_ctx *, int64_t n_chunks, lc_chunk_fn, void *arg);
int lc_worker(const lc_ctx *); /* the worker that is calling; 0 outside lc_parallel */
static inline int64_t lc_ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
static inline int64_t lc_min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static inline int64_t lc_max64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

/* ---- CPU ---- */

typedef enum {
  LC_ISA_SCALAR,
  LC_ISA_AVX2,
  LC_ISA_AVX512,
  LC_ISA_AVX512_BF16,
  LC_ISA_AMX,
  LC_ISA_COUNT
} lc_isa;
lc_isa lc_isa_detect(void);       /* the best that CPU and operating system support */
lc_isa lc_isa_of(const lc_ctx *); /* the one in use: LACUNA_ISA or the best */
/* What some processors of an instruction set have beside it: 8-bit dot products, of 256 and of 512 bits. */
typedef enum { LC_CPU_AVX_VNNI, LC_CPU_AVX512_VNNI, LC_CPU_FLAGS } lc_cpu_flag;
bool lc_cpu_has(lc_cpu_flag);
const char *lc_isa_name(lc_isa); /* "scalar", "avx2", "avx512", "avx512_bf16", "amx" */
const char *lc_cpu_name(void);   /* model name, for reports */
double lc_now(void);             /* monotonic seconds */

/* ---- random numbers: a file format (ARCHITECTURE.md) ---- */

/* Philox4x32-10. key = seed; counter = {element/4 low 32, step, tensor, purpose<<24 | draw<<8 | (element/4 >>
 * 32)}; lane = element%4. element < 2^42. Independent of threads, order and instruction set. */
typedef struct {
  uint64_t seed;
  uint32_t step, tensor;
  uint16_t draw;
  uint8_t purpose;
} lc_rng;
enum {
  LC_RNG_INIT = 1,
  LC_RNG_MASK,
  LC_RNG_DROPOUT,
  LC_RNG_SHUFFLE,
  LC_RNG_SAMPLE,
  LC_RNG_NOISE,
  LC_RNG_TEST = 255
};
void lc_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
uint32_t lc_rng_u32(const lc_rng *, uint64_t element);
float lc_rng_uniform(const lc_rng *, uint64_t element); /* [0,1): the top 24 bits / 2^24 */
/* Box-Muller on elements 2i, 2i+1 in f64, rounded: element even cos, odd sin; rng.c states the operations. */
float lc_rng_normal(const lc_rng *, uint64_t element);
/* ±1/k! of its sine (k = 3, 5, …) and cosine (k = 2, 4, …). */
enum { LC_SINE_TERMS = 8, LC_COSINE_TERMS = 9 };
extern const double lc_sine[LC_SINE_TERMS], lc_cosine[LC_COSINE_TERMS];
void lc_rng_uniform_fill(const lc_rng *, uint64_t first, int64_t n, float *dst);
void lc_rng_normal_fill(const lc_rng *, uint64_t first, int64_t n, float *dst);
/* [0,n) without bias, from the 64 bits of elements 2·element and 2·element+1; what is rejected takes the next
 * draw. */
uint64_t lc_rng_below(const lc_rng *, uint64_t element, uint64_t n);
uint32_t lc_fnv1a32(const char *name); /* tensor ids */
/* n distinct positions of [0,total), uniform, ascending; a function of the key only. out has room for n. */
lc_status lc_rng_choose(lc_ctx *, const lc_rng *, int64_t total, int64_t n, int64_t *out);
/* A permutation of [0,n), Fisher-Yates. */
void lc_rng_permutation(const lc_rng *, int64_t n, int64_t *out);

/* ---- files ---- */

/* A read-only mapping. */
typedef struct {
  const uint8_t *data;
  size_t size;
  char *path;
  void *priv;
} lc_map;
lc_status lc_map_open(lc_ctx *, const char *path, lc_map *); /* an empty file is an error */
void lc_map_close(lc_ctx *, lc_map *);
/* The pages that lie wholly within [from, from + n) of the mapping need not stay in memory; reading them brings them back. */
void lc_map_forget(const lc_map *, const void *from, size_t n);
/* The whole file, NUL-terminated; lc_free. Longer than `max` is an error; size may be NULL. */
lc_status lc_read_file(lc_ctx *, const char *path, size_t max, char **data, size_t *size);

/* An output file under a temporary name beside its final one: written, flushed (fsync), renamed, directory
 * flushed; or removed. A device or a pipe is written as it is (tmp is NULL). */
typedef struct {
  FILE *f;
  char *path, *tmp;
  lc_ctx *ctx;
  bool failed;
} lc_out;
lc_status lc_out_open(lc_ctx *, const char *path, lc_out *);
lc_status lc_out_write(lc_out *, const void *data, size_t n); /* remembers a failure; commit reports it */
lc_status lc_out_printf(lc_out *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
lc_status lc_out_commit(lc_out *);
void lc_out_abort(lc_out *); /* removes the temporary file; harmless after commit */
lc_status lc_write_file(lc_ctx *, const char *path, const void *data, size_t n); /* open, write, commit */

bool lc_path_exists(const char *path);
bool lc_path_is_dir(const char *path);
char *lc_path_join(lc_ctx *, const char *dir, const char *name); /* lc_free */
lc_status lc_mkdirs(lc_ctx *, const char *dir);
/* Files and directories below and itself; links are not followed; absent is fine. */
lc_status lc_remove_tree(lc_ctx *, const char *dir);
lc_status lc_rename_dir(lc_ctx *, const char *from, const char *to); /* flushes the parent */
/* Both names at once, so that b is there at every moment; *can is false where the file system cannot (nothing is done). */
lc_status lc_exchange_dirs(lc_ctx *, const char *a, const char *b, bool *can);
lc_status lc_copy_file(lc_ctx *, const char *from, const char *to); /* atomically */

/* ---- numbers in 16 bits ---- */

static inline float lc_bf16_to_f32(uint16_t h) {
  union {
    uint32_t u;
    float f;
  } v = {(uint32_t)h << 16};
  return v.f;
}
static inline uint16_t lc_f32_to_bf16(float f) { /* to nearest even; NaN stays NaN */
  union {
    float f;
    uint32_t u;
  } v = {f};
  if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40);
  return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1)) >> 16);
}
float lc_f16_to_f32(uint16_t h);
uint16_t lc_f32_to_f16(float f); /* to nearest even */

#endif
