/* bf16 products by oneDNN (its C API; 2.x on Debian 12, 3.x on Debian 13, told apart here and nowhere else).
 *
 * A matmul primitive is made for one exact shape, and making it compiles machine code; so each thread keeps
 * the primitives it has made, with their memory objects, in a small table (oldest out). In the steady state a
 * call sets three pointers and executes. Scratchpads are ours. Primitives are made and run by the thread that
 * owns them, inside a parallel chunk or under omp_set_num_threads(1), where oneDNN stays on that thread.
 *
 * A forced instruction set caps oneDNN before its first call (dnnl_set_max_cpu_isa). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <dnnl.h>
#include "kernels/gemm/gemm.h"

enum { CACHE = 256, PROBES = 8 };

typedef struct {
  lc_gemm_shape shape; /* m 0: empty */
  uint64_t age;
  dnnl_primitive_t primitive;
  dnnl_memory_t src, weights, dst, scratch;
  size_t scratch_bytes;
} entry;

typedef struct {
  uint64_t clock;
  dnnl_stream_t stream;
  entry entries[CACHE];
} cache;

/* The process's: made by the first call, and capped by the instruction set of the context that makes it. */
static struct {
  pthread_mutex_t lock;
  bool started;
  pthread_key_t key;
  dnnl_engine_t engine;
  dnnl_status_t status;
} global = {.lock = PTHREAD_MUTEX_INITIALIZER};

static dnnl_cpu_isa_t cap_of(lc_isa isa) {
  switch (isa) {
  case LC_ISA_AMX:
    return dnnl_cpu_isa_avx512_core_amx;
  case LC_ISA_AVX512_BF16:
    return dnnl_cpu_isa_avx512_core_bf16;
  case LC_ISA_AVX512:
    return dnnl_cpu_isa_avx512_core;
  case LC_ISA_AVX2:
    return dnnl_cpu_isa_avx2;
  default:
    return dnnl_cpu_isa_sse41;
  }
}

static void entry_clear(entry *e) {
  if (e->primitive) dnnl_primitive_destroy(e->primitive);
  if (e->src) dnnl_memory_destroy(e->src);
  if (e->weights) dnnl_memory_destroy(e->weights);
  if (e->dst) dnnl_memory_destroy(e->dst);
  if (e->scratch) dnnl_memory_destroy(e->scratch);
  memset(e, 0, sizeof *e);
}

static void cache_free(void *p) {
  cache *c = p;
  for (int i = 0; i < CACHE; i++) entry_clear(&c->entries[i]);
  if (c->stream) dnnl_stream_destroy(c->stream);
  free(c);
}

static dnnl_status_t start(lc_isa isa) {
  if (__atomic_load_n(&global.started, __ATOMIC_ACQUIRE)) return global.status;
  pthread_mutex_lock(&global.lock);
  if (!global.started) {
    if (isa < lc_isa_detect()) dnnl_set_max_cpu_isa(cap_of(isa));
    global.status = dnnl_engine_create(&global.engine, dnnl_cpu, 0);
    if (!global.status && pthread_key_create(&global.key, cache_free)) global.status = dnnl_out_of_memory;
    __atomic_store_n(&global.started, true, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&global.lock);
  return global.status;
}

static lc_status failed(lc_ctx *ctx, const lc_gemm_shape *s, dnnl_status_t status) {
  return lc_fail(ctx, "gemm %lldx%lldx%lld: oneDNN answers with status %d", (long long)s->m, (long long)s->n,
                 (long long)s->k, (int)status);
}

static cache *cache_get(void) {
  cache *c = pthread_getspecific(global.key);
  if (c) return c;
  c = calloc(1, sizeof *c);
  if (!c) return NULL;
  if (dnnl_stream_create(&c->stream, global.engine, dnnl_stream_default_flags) ||
      pthread_setspecific(global.key, c)) {
    cache_free(c);
    return NULL;
  }
  return c;
}

/* Descriptors of the three matrices; a transposed one is the same memory with its strides exchanged. */
typedef struct {
  dnnl_dims_t dims, strides;
  dnnl_data_type_t type;
} matrix;

static matrix matrix_of(int64_t rows, int64_t cols, int64_t ld, bool transposed, lc_dtype dtype) {
  return (matrix){
      {rows, cols}, {transposed ? 1 : ld, transposed ? ld : 1}, dtype == LC_BF16 ? dnnl_bf16 : dnnl_f32};
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t held_desc;
typedef const_dnnl_memory_desc_t used_desc;
static dnnl_status_t desc_make(held_desc *d, const matrix *m) {
  return dnnl_memory_desc_create_with_strides(d, 2, m->dims, m->type, m->strides);
}
static void desc_free(held_desc *d) {
  if (*d) dnnl_memory_desc_destroy(*d);
}
static used_desc desc_use(const held_desc *d) {
  return *d;
}
static size_t desc_bytes(used_desc d) {
  return dnnl_memory_desc_get_size(d);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, const held_desc d[3],
                                 dnnl_primitive_attr_t attr) {
  return dnnl_matmul_primitive_desc_create(pd, global.engine, d[0], d[1], NULL, d[2], attr);
}
#else
typedef dnnl_memory_desc_t held_desc;
typedef const dnnl_memory_desc_t *used_desc;
static dnnl_status_t desc_make(held_desc *d, const matrix *m) {
  return dnnl_memory_desc_init_by_strides(d, 2, m->dims, m->type, m->strides);
}
static void desc_free(held_desc *d) {}
static used_desc desc_use(const held_desc *d) {
  return d;
}
static size_t desc_bytes(used_desc d) {
  return dnnl_memory_desc_get_size(d);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, const held_desc d[3],
                                 dnnl_primitive_attr_t attr) {
  dnnl_matmul_desc_t op;
  dnnl_status_t st = dnnl_matmul_desc_init(&op, &d[0], &d[1], NULL, &d[2]);
  return st ? st : dnnl_primitive_desc_create(pd, &op, attr, global.engine, NULL);
}
#endif

static dnnl_status_t attributes(const lc_gemm_shape *s, dnnl_primitive_attr_t *attr) {
  dnnl_post_ops_t sum = NULL;
  dnnl_status_t st = dnnl_primitive_attr_create(attr);
  if (!st) st = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
  if (st || s->beta == 0) return st;
  st = dnnl_post_ops_create(&sum);
#if DNNL_VERSION_MAJOR >= 3
  if (!st) st = dnnl_post_ops_append_sum(sum, 1.0f, 0, dnnl_data_type_undef);
#else
  if (!st) st = dnnl_post_ops_append_sum(sum, 1.0f);
#endif
  if (!st) st = dnnl_primitive_attr_set_post_ops(*attr, sum);
  if (sum) dnnl_post_ops_destroy(sum);
  return st;
}

static dnnl_status_t entry_make(entry *e, const lc_gemm_shape *s) {
  matrix mats[3] = {matrix_of(s->m, s->k, s->lda, s->trans_a, s->dtype),
                    matrix_of(s->k, s->n, s->ldb, s->trans_b, s->dtype),
                    matrix_of(s->m, s->n, s->ldc, false, s->c_dtype)};
  dnnl_memory_t *memory[3] = {&e->src, &e->weights, &e->dst};
  held_desc d[3];
  dnnl_primitive_attr_t attr = NULL;
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t st = dnnl_success;
  memset(d, 0, sizeof d);
  for (int i = 0; i < 3 && !st; i++) st = desc_make(&d[i], &mats[i]);
  for (int i = 0; i < 3 && !st; i++)
    st = dnnl_memory_create(memory[i], desc_use(&d[i]), global.engine, DNNL_MEMORY_NONE);
  if (!st) st = attributes(s, &attr);
  if (!st) st = matmul_desc(&pd, d, attr);
  if (!st) {
    used_desc scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    e->scratch_bytes = desc_bytes(scratch);
    st = dnnl_memory_create(&e->scratch, scratch, global.engine, DNNL_MEMORY_NONE);
  }
  if (!st) st = dnnl_primitive_create(&e->primitive, pd);
  if (pd) dnnl_primitive_desc_destroy(pd);
  if (attr) dnnl_primitive_attr_destroy(attr);
  for (int i = 0; i < 3; i++) desc_free(&d[i]);
  return st;
}

static bool same(const lc_gemm_shape *a, const lc_gemm_shape *b) {
  return a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb &&
         a->ldc == b->ldc && a->trans_a == b->trans_a && a->trans_b == b->trans_b && a->dtype == b->dtype &&
         a->c_dtype == b->c_dtype && a->beta == b->beta;
}

static uint64_t hash_of(const lc_gemm_shape *s) {
  const int64_t part[] = {s->m,
                          s->n,
                          s->k,
                          s->lda,
                          s->ldb,
                          s->ldc,
                          s->trans_a | s->trans_b << 1 | (s->beta != 0) << 2 | (s->c_dtype == LC_BF16) << 3 |
                              (s->dtype == LC_BF16) << 4};
  uint64_t h = 0;
  for (size_t i = 0; i < sizeof part / sizeof *part; i++)
    h = (h ^ (uint64_t)part[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
  return h;
}

/* The thread's entry for a shape, made when it is not there; the oldest of its PROBES places gives way. */
static dnnl_status_t entry_get(cache *c, const lc_gemm_shape *s, entry **out) {
  uint64_t h = hash_of(s);
  entry *oldest = &c->entries[h % CACHE];
  for (uint64_t i = 0; i < PROBES; i++) {
    entry *e = &c->entries[(h + i) % CACHE];
    if (e->primitive && same(&e->shape, s)) {
      e->age = ++c->clock;
      *out = e;
      return dnnl_success;
    }
    if (e->age < oldest->age) oldest = e;
  }
  entry_clear(oldest);
  dnnl_status_t st = entry_make(oldest, s);
  if (st) {
    entry_clear(oldest);
    return st;
  }
  oldest->shape = *s;
  oldest->age = ++c->clock;
  *out = oldest;
  return dnnl_success;
}

/* oneDNN's pointers are not const; it only reads A and B. */
static void *unconst(const void *p) {
  union {
    const void *c;
    void *m;
  } u = {p};
  return u.m;
}

static lc_status run(lc_ctx *ctx, int worker, const lc_gemm_shape *s, const void *A, const void *B, void *C) {
  dnnl_status_t st = start(lc_isa_of(ctx));
  if (st) return failed(ctx, s, st);
  cache *c = cache_get();
  if (!c) return failed(ctx, s, dnnl_out_of_memory);
  entry *e;
  st = entry_get(c, s, &e);
  if (st) return failed(ctx, s, st);
  void *scratch = NULL;
  if (e->scratch_bytes && !(scratch = lc_scratch(ctx, worker, LC_SLOT_GEMM_WORK, e->scratch_bytes)))
    return LC_FAILED;
  st = dnnl_memory_set_data_handle(e->src, unconst(A));
  if (!st) st = dnnl_memory_set_data_handle(e->weights, unconst(B));
  if (!st) st = dnnl_memory_set_data_handle(e->dst, C);
  if (!st && scratch) st = dnnl_memory_set_data_handle(e->scratch, scratch);
  dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->src},
                            {DNNL_ARG_WEIGHTS, e->weights},
                            {DNNL_ARG_DST, e->dst},
                            {DNNL_ARG_SCRATCHPAD, e->scratch}};
  if (!st) st = dnnl_primitive_execute(e->primitive, c->stream, 4, args);
  if (!st) st = dnnl_stream_wait(c->stream);
  return st ? failed(ctx, s, st) : LC_OK;
}

const lc_gemm_provider_row lc_gemm_onednn = {"onednn", run, .bf16 = true};
