/* The cache of keys and values, inside src/infer. A page is 64 positions of all layers; a sequence is a list
 * of pages. */
#ifndef LC_INFER_KV_H
#define LC_INFER_KV_H
#include "infer/infer.h"

enum { LC_KV_PAGE = 64 };
struct lc_kv;
extern const lc_kv_ops lc_kv_pages;
/* Room for `pages` pages shared by `sequences` sequences; values are stored as dtype (F32, BF16 or F16). */
lc_status lc_kv_new(lc_ctx *, int layers, int64_t kv_heads, int64_t head_dim, lc_dtype, int64_t pages,
                    int sequences, struct lc_kv **);
void lc_kv_free(struct lc_kv *);
void lc_kv_truncate(struct lc_kv *, int32_t sequence,
                    int64_t n); /* keeps positions [0,n); whole pages become free */
int64_t lc_kv_length(const struct lc_kv *, int32_t sequence);
#endif
