#include "support/adapter_support.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void ok(lc_ctx *ctx, lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

t_golden t_golden_open(lc_ctx *ctx, const char *base, const char *adapter) {
  t_golden g;
  ok(ctx, lc_model_open(ctx, lc_tiny_path("golden", base), &g.m));
  ok(ctx, lc_net_new(g.m, LC_F32, &g.net));
  ok(ctx, lc_safetensors_open(ctx, lc_tiny_path(adapter, "expected.safetensors"), &g.e));
  const lc_tensor *ids = lc_safetensors_find(&g.e, "ids"), *logits = lc_safetensors_find(&g.e, "logits");
  g.ids = ids->data;
  g.T = lc_tensor_count(ids);
  g.V = lc_tensor_count(logits) / g.T;
  g.expected = logits->data;
  g.logits = malloc((size_t)(g.T * g.V) * sizeof *g.logits);
  return g;
}

void t_golden_close(lc_ctx *ctx, t_golden *g) {
  free(g->logits);
  lc_safetensors_close(ctx, &g->e);
  lc_net_free(g->net);
  lc_model_close(g->m);
}

const float *t_golden_logits(lc_ctx *ctx, t_golden *g) {
  ok(ctx, lc_tiny_logits(g->net, g->ids, g->T, g->logits));
  return g->logits;
}

lc_adapter *t_sparse(lc_ctx *ctx, lc_net *net, const char *targets, int64_t K, uint32_t seed) {
  lc_weight **w;
  int n;
  lc_adapter *a;
  ok(ctx, lc_adapter_new(net, "sparse", &a));
  ok(ctx, lc_targets(net, targets, &w, &n));
  for (int i = 0; i < n; i++) {
    const lc_rng rng = {.seed = seed, .tensor = w[i]->id, .purpose = LC_RNG_TEST};
    int64_t *flat = malloc((size_t)K * sizeof *flat);
    float *value = malloc((size_t)K * sizeof *value);
    lc_index idx;
    lc_delta *d;
    ok(ctx, lc_rng_choose(ctx, &rng, w[i]->M * w[i]->N, K, flat));
    lc_rng_normal_fill(&rng, 1u << 30, K, value);
    ok(ctx, lc_index_new(ctx, w[i]->M, w[i]->N, flat, K, &idx));
    ok(ctx, lc_delta_sparse_new(ctx, w[i], &idx, value, false, &d));
    ok(ctx, lc_weight_attach(ctx, w[i], d));
    ok(ctx, lc_adapter_add(a, d));
    free(flat);
    free(value);
  }
  lc_free(ctx, w);
  return a;
}

uint64_t t_weights_sum(lc_ctx *ctx, lc_net *net) { /* of what the products would read */
  uint64_t h = 1469598103934665603u;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    if (w->kind != LC_KIND_LINEAR) continue;
    const void *tile;
    int64_t ld;
    ok(ctx, lc_weight_tile(ctx, 0, w, (lc_rect){0, w->M, 0, w->N}, LC_F32, &tile, &ld));
    for (int64_t r = 0; r < w->M; r++)
      for (int64_t c = 0; c < w->N; c++) {
        uint32_t bits;
        memcpy(&bits, (const float *)tile + r * ld + c, 4);
        h = (h ^ bits) * 1099511628211u;
      }
  }
  return h;
}
