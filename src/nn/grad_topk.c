/* Top-k of a gradient, weight by weight, out of one backward pass: no gradient is stored.
 *
 * A backward pass computes the gradients of weights one after another, each as strips by all workers at once.
 * So one top-k, as large as the largest k, serves them all: the first strip of a weight empties it, the strip
 * that completes the weight takes the winners and hands them on. Strips may come in any order; two weights
 * may not be mixed, and a weight that is used twice in a pass has no single gradient to look at: both are
 * refused. */
#include "nn/select.h"
#include <math.h>
#include <pthread.h>

typedef struct {
  lc_grad_topk *all;
  lc_weight *w;
  int64_t k;
  int l;
  bool done;
} watch;

struct lc_grad_topk {
  lc_ctx *ctx;
  lc_topk *top;
  watch *item;
  int n;
  lc_grad_topk_fn fn;
  void *self;
  pthread_mutex_t lock;
  watch *current;
  int64_t seen; /* entries of it */
};

lc_status lc_grad_topk_new(lc_ctx *ctx, lc_weight *const *w, const int64_t *k, int n, lc_grad_topk_fn fn,
                           void *self, lc_grad_topk **out) {
  lc_status st = LC_OK;
  int64_t most = 1;
  *out = NULL;
  lc_grad_topk *g = lc_alloc(ctx, LC_MEM_SCRATCH, sizeof *g);
  if (!g) return LC_FAILED;
  *g = (lc_grad_topk){.ctx = ctx, .n = n, .fn = fn, .self = self};
  pthread_mutex_init(&g->lock, NULL);
  if (!(g->item = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)n, sizeof *g->item))) LC_GO(LC_FAILED);
  for (int l = 0; l < n; l++) {
    g->item[l] = (watch){.all = g, .w = w[l], .k = k[l], .l = l};
    most = lc_max64(most, k[l]);
  }
  LC_GO(lc_topk_new(ctx, most, &g->top));
  *out = g;
  g = NULL;
done:
  lc_grad_topk_free(g);
  return st;
}

void lc_grad_topk_free(lc_grad_topk *g) {
  if (!g) return;
  for (int l = 0; g->item && l < g->n; l++) lc_weight_remove_sink(g->item[l].w, &g->item[l]);
  lc_topk_free(g->top);
  pthread_mutex_destroy(&g->lock);
  lc_free(g->ctx, g->item);
  lc_free(g->ctx, g);
}

/* Makes `it` the weight being looked at. */
static lc_status begin(lc_grad_topk *g, watch *it) {
  lc_status st = LC_OK;
  pthread_mutex_lock(&g->lock);
  if (it->done)
    st = lc_fail(g->ctx, "the gradient of '%s' came twice in one pass", it->w->name);
  else if (g->current && g->current != it)
    st = lc_fail(g->ctx, "the gradient of '%s' came before that of '%s' was complete", it->w->name,
                 g->current->w->name);
  else if (!g->current) {
    lc_topk_reset(g->top, it->k);
    g->current = it;
    g->seen = 0;
  }
  pthread_mutex_unlock(&g->lock);
  return st;
}

static lc_status on_tile(void *self, lc_weight *w, const lc_tile *t) {
  watch *it = self;
  lc_grad_topk *g = it->all;
  const int64_t rows = t->at.r1 - t->at.r0, cols = t->at.c1 - t->at.c0;
  if (t->n_uses != 1)
    return lc_fail(g->ctx, "'%s' is used %d times in a pass: it has no single gradient to choose from",
                   w->name, t->n_uses);
  LC_TRY(begin(g, it));
  float *score = lc_scratch(g->ctx, t->worker, 3,
                            (size_t)(rows * t->ld) * sizeof *score); /* 2 is dy in bf16 (op_linear) */
  if (!score) return LC_FAILED;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) score[r * t->ld + c] = fabsf(t->dw[r * t->ld + c]);
  LC_TRY(lc_topk_push(g->top, t->worker, 0, w->N, t->at, score, t->dw, t->ld, NULL));
  pthread_mutex_lock(&g->lock);
  g->seen += rows * cols;
  bool complete = g->seen == w->M * w->N;
  pthread_mutex_unlock(&g->lock);
  if (!complete) return LC_OK;
  const lc_pick *pick;
  int64_t n;
  LC_TRY(lc_topk_take(g->top, &pick, &n));
  LC_TRY(g->fn(g->self, it->l, pick, n));
  it->done = true;
  g->current = NULL;
  return LC_OK;
}

lc_status lc_grad_topk_watch(lc_grad_topk *g) {
  g->current = NULL;
  for (int l = 0; l < g->n; l++) {
    g->item[l].done = false;
    LC_TRY(lc_weight_add_sink(g->ctx, g->item[l].w,
                              (lc_sink){.kind = LC_SINK_TILES, .tile = on_tile, .self = &g->item[l]}));
  }
  return LC_OK;
}

lc_status lc_grad_topk_end(lc_grad_topk *g) {
  for (int l = 0; l < g->n; l++) lc_weight_remove_sink(g->item[l].w, &g->item[l]);
  for (int l = 0; l < g->n; l++)
    if (!g->item[l].done) return lc_fail(g->ctx, "no gradient of '%s' came in this pass", g->item[l].w->name);
  return LC_OK;
}
