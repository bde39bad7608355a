/* Pages of 64 positions (Kwon et al. 2023). The memory of key head g of layer l is one run of all pages,
 * (pages, 64, D), so that a sequence whose pages follow one another is read where it lies when it is f32;
 * otherwise its pages are gathered and widened into scratch. The lowest free page is taken first: a single
 * sequence always lies in one piece. */
#include "infer/kv.h"
#include "kernels/kernels.h"
#include <string.h>

typedef struct {
  int32_t *page;
  int64_t n_pages, length;
} sequence;
struct lc_kv {
  lc_ctx *ctx;
  int L, n_seq;
  int64_t G, D, pages;
  lc_dtype dtype;
  size_t unit;   /* bytes a value */
  uint8_t *data; /* (L, 2, G, pages, 64, D) */
  bool *taken;
  sequence *seq;
};

lc_status lc_kv_new(lc_ctx *ctx, int layers, int64_t kv_heads, int64_t head_dim, lc_dtype dtype,
                    int64_t pages, int sequences, struct lc_kv **out) {
  *out = NULL;
  if (dtype != LC_F32 && dtype != LC_BF16 && dtype != LC_F16)
    return lc_fail(ctx, "a cache of keys and values in %s is not supported (f32, bf16 and f16 are)",
                   lc_dtype_get(dtype)->name);
  size_t bytes = (size_t)lc_dtype_get(dtype)->bytes;
  bool ok = lc_mul(bytes, 2 * (size_t)layers, &bytes) && lc_mul(bytes, (size_t)kv_heads, &bytes) &&
            lc_mul(bytes, (size_t)pages, &bytes) && lc_mul(bytes, (size_t)LC_KV_PAGE, &bytes) &&
            lc_mul(bytes, (size_t)head_dim, &bytes);
  if (!ok) return lc_fail(ctx, "a cache of %lld positions is too large", (long long)pages * LC_KV_PAGE);
  struct lc_kv *kv = lc_alloc(ctx, LC_MEM_KV, sizeof *kv);
  if (!kv) return LC_FAILED;
  *kv = (struct lc_kv){.ctx = ctx,
                       .L = layers,
                       .n_seq = sequences,
                       .G = kv_heads,
                       .D = head_dim,
                       .pages = pages,
                       .dtype = dtype,
                       .unit = (size_t)lc_dtype_get(dtype)->bytes};
  kv->data = lc_alloc(ctx, LC_MEM_KV, bytes);
  kv->taken = lc_alloc_n(ctx, LC_MEM_KV, (size_t)pages, sizeof *kv->taken);
  kv->seq = lc_alloc_n(ctx, LC_MEM_KV, (size_t)sequences, sizeof *kv->seq);
  lc_status st = kv->data && kv->taken && kv->seq ? LC_OK : LC_FAILED;
  for (int i = 0; i < sequences && !st; i++) {
    kv->seq[i].page = lc_alloc_n(ctx, LC_MEM_KV, (size_t)pages, sizeof(int32_t));
    if (!kv->seq[i].page) st = LC_FAILED;
  }
  if (st)
    lc_kv_free(kv);
  else
    *out = kv;
  return st;
}

void lc_kv_free(struct lc_kv *kv) {
  if (!kv) return;
  for (int i = 0; kv->seq && i < kv->n_seq; i++) lc_free(kv->ctx, kv->seq[i].page);
  lc_free(kv->ctx, kv->seq);
  lc_free(kv->ctx, kv->taken);
  lc_free(kv->ctx, kv->data);
  lc_free(kv->ctx, kv);
}

void lc_kv_truncate(struct lc_kv *kv, int32_t s, int64_t n) {
  sequence *q = &kv->seq[s];
  if (n >= q->length) return;
  q->length = n;
  for (int64_t keep = lc_ceil_div(n, LC_KV_PAGE); q->n_pages > keep;)
    kv->taken[q->page[--q->n_pages]] = false;
}

int64_t lc_kv_length(const struct lc_kv *kv, int32_t s) {
  return kv->seq[s].length;
}

/* The first layer of a pass makes room, the others find it. */
static lc_status reserve(struct lc_kv *kv, sequence *q, int64_t n) {
  for (int64_t need = lc_ceil_div(n, LC_KV_PAGE), p = 0; q->n_pages < need; p++) {
    while (p < kv->pages && kv->taken[p]) p++;
    if (p == kv->pages)
      return lc_fail(kv->ctx, "the cache of keys and values is full: %lld positions",
                     (long long)kv->pages * LC_KV_PAGE);
    kv->taken[p] = true;
    q->page[q->n_pages++] = (int32_t)p;
  }
  if (n > q->length) q->length = n;
  return LC_OK;
}

static uint8_t *at(const struct lc_kv *kv, int layer, int which, int64_t g, int64_t page, int64_t i) {
  int64_t run = ((int64_t)layer * 2 + which) * kv->G + g;
  return kv->data + (size_t)(((run * kv->pages + page) * LC_KV_PAGE + i) * kv->D) * kv->unit;
}

static void narrow(const struct lc_kv *kv, int64_t n, const float *src, void *dst) {
  const lc_kernels *k = lc_kernels_get(kv->ctx);
  if (kv->dtype == LC_F32)
    memcpy(dst, src, (size_t)n * sizeof *src);
  else if (kv->dtype == LC_BF16)
    k->f32_to_bf16(n, src, dst);
  else
    k->f32_to_f16(n, src, dst);
}

static void widen(const struct lc_kv *kv, int64_t n, const void *src, float *dst) {
  const lc_kernels *k = lc_kernels_get(kv->ctx);
  if (kv->dtype == LC_F32)
    memcpy(dst, src, (size_t)n * sizeof *dst);
  else if (kv->dtype == LC_BF16)
    k->bf16_to_f32(n, src, dst);
  else
    k->f16_to_f32(n, src, dst);
}

static lc_status append(struct lc_kv *kv, int layer, int32_t s, int64_t pos0, int64_t T, const float *k,
                        const float *v, int64_t ld) {
  if (s < 0 || s >= kv->n_seq || layer < 0 || layer >= kv->L)
    return lc_fail(kv->ctx, "the cache has no layer %d of sequence %d", layer, (int)s);
  sequence *q = &kv->seq[s];
  LC_TRY(reserve(kv, q, pos0 + T));
  for (int64_t t = 0; t < T; t++) {
    int64_t page = q->page[(pos0 + t) / LC_KV_PAGE], i = (pos0 + t) % LC_KV_PAGE;
    for (int64_t g = 0; g < kv->G; g++) {
      narrow(kv, kv->D, k + t * ld + g * kv->D, at(kv, layer, 0, g, page, i));
      narrow(kv, kv->D, v + t * ld + g * kv->D, at(kv, layer, 1, g, page, i));
    }
  }
  return LC_OK;
}

static bool one_piece(const sequence *q, int64_t n) {
  for (int64_t p = 1; p < lc_ceil_div(n, LC_KV_PAGE); p++)
    if (q->page[p] != q->page[0] + p) return false;
  return true;
}

static bool view(const struct lc_kv *kv, int layer, int32_t s, int64_t g, int64_t n, const void **k,
                 const void **v, lc_dtype *dtype) {
  if (s < 0 || s >= kv->n_seq || layer < 0 || layer >= kv->L || n < 1 || n > kv->seq[s].length ||
      !one_piece(&kv->seq[s], n))
    return false;
  *k = at(kv, layer, 0, g, kv->seq[s].page[0], 0);
  *v = at(kv, layer, 1, g, kv->seq[s].page[0], 0);
  *dtype = kv->dtype;
  return true;
}

static lc_status get(struct lc_kv *kv, int layer, int32_t s, int64_t g, int64_t n, int worker,
                     const float **k, const float **v, int64_t *ld) {
  if (s < 0 || s >= kv->n_seq || layer < 0 || layer >= kv->L || n > kv->seq[s].length)
    return lc_fail(kv->ctx, "the cache has no %lld positions of layer %d, sequence %d", (long long)n, layer,
                   (int)s);
  const sequence *q = &kv->seq[s];
  const float **out[2] = {k, v};
  int64_t pages = lc_ceil_div(n, LC_KV_PAGE);
  *ld = kv->D;
  for (int which = 0; which < 2; which++) {
    if (kv->dtype == LC_F32 && one_piece(q, n)) {
      *out[which] = (const float *)(const void *)at(kv, layer, which, g, q->page[0], 0);
      continue;
    }
    float *dst = lc_scratch(kv->ctx, worker, 4 + which, (size_t)(n * kv->D) * sizeof *dst);
    if (!dst) return LC_FAILED;
    *out[which] = dst;
    for (int64_t p = 0; p < pages; p++) {
      int64_t rows = lc_min64(LC_KV_PAGE, n - p * LC_KV_PAGE);
      widen(kv, rows * kv->D, at(kv, layer, which, g, q->page[p], 0), dst + p * LC_KV_PAGE * kv->D);
    }
  }
  return LC_OK;
}

const lc_kv_ops lc_kv_pages = {.append = append, .get = get, .view = view};
