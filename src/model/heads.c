/* Attention heads taken out, by the structure map: see heads.h. */
#include "model/heads.h"
#include <math.h>

static lc_status check_outputs(const lc_net *net, const lc_structure *s) {
  for (int k = 0; k < s->n_side && s->kind == LC_S_KV_HEAD; k++) {
    const lc_weight *w = s->side[k].axis == 1 ? lc_net_weight(net, s->side[k].weight) : NULL;
    for (int i = 0; w && i < w->n_delta; i++)
      if (!w->delta[i]->ops->beneath)
        return lc_usage(net->ctx,
                        "'%s' has a %s delta, which a removed head's output would still pass through",
                        w->name, w->delta[i]->ops->name);
  }
  return LC_OK;
}

lc_status lc_heads_check(const lc_net *net, int64_t heads, lc_prune_mode mode) {
  const lc_config *c = &net->model->config;
  lc_structure *s;
  lc_status st = LC_OK;
  int n;
  const int64_t group = c->G ? c->H / c->G : 1;
  if (heads % group)
    return lc_usage(net->ctx,
                    "%lld heads of a layer: %lld query heads share a key/value head and go together",
                    (long long)heads, (long long)group);
  if (heads >= c->H)
    return lc_usage(net->ctx, "%lld heads of a layer: it has %lld, and one key/value head stays",
                    (long long)heads, (long long)c->H);
  if (mode == LC_PRUNE_NAB || mode == LC_PRUNE_NABS)
    return lc_usage(net->ctx, "heads are not scored by nab or nabs");
  LC_TRY(c->family->structures(net->ctx, c, &s, &n));
  for (int i = 0; i < n && !st; i++) st = check_outputs(net, &s[i]);
  lc_structures_free(net->ctx, s, n);
  return st;
}

static lc_status score(lc_net *net, const lc_structure *s, const lc_heads_rule *rule, double *of) {
  lc_ctx *ctx = net->ctx;
  lc_status st = LC_OK;
  double *sum = NULL;
  const lc_rng rng = {.seed = rule->seed, .tensor = (uint32_t)s->layer, .purpose = LC_RNG_MASK};
  for (int64_t e = 0; e < s->count; e++)
    of[e] = rule->mode == LC_PRUNE_RANDOM ? (double)lc_rng_uniform(&rng, (uint64_t)e) : 0;
  for (int k = 0; k < s->n_side && rule->mode != LC_PRUNE_RANDOM; k++) {
    const lc_side *side = &s->side[k];
    const lc_weight *w = lc_net_weight(net, side->weight);
    if (!w || side->axis != 0 || w->ndim != 2 || !w->n_delta) continue;
    lc_free(ctx, sum);
    if (!(sum = lc_alloc_n(ctx, LC_MEM_SCRATCH, (size_t)w->M, sizeof *sum))) LC_GO(LC_FAILED);
    LC_GO(lc_prune_row_sums(ctx, w, rule->mode, sum));
    for (int64_t i = 0; i < s->count * side->unit; i++) of[i / side->unit] += sum[side->first + i];
  }
done:
  lc_free(ctx, sum);
  return st;
}

static void drop(lc_net *net, const lc_structure *s, int64_t e, const lc_heads_rule *rule) {
  for (int k = 0; k < s->n_side; k++) {
    const lc_side *side = &s->side[k];
    lc_weight *w = lc_net_weight(net, side->weight);
    if (w && w->ndim == 2)
      rule->drop(rule->self, w, side->axis == 1, side->first + e * side->unit, side->unit);
  }
}

lc_status lc_heads_remove(lc_net *net, const lc_heads_rule *rule) {
  const lc_config *c = &net->model->config;
  lc_structure *s = NULL;
  double *of = NULL;
  lc_status st = LC_OK;
  int n = 0;
  LC_TRY(lc_heads_check(net, rule->heads, rule->mode));
  LC_TRY(c->family->structures(net->ctx, c, &s, &n));
  if (!(of = lc_alloc_n(net->ctx, LC_MEM_SCRATCH, (size_t)c->H, sizeof *of))) LC_GO(LC_FAILED);
  for (int i = 0; i < n; i++) {
    if (s[i].kind != LC_S_KV_HEAD) continue;
    LC_GO(score(net, &s[i], rule, of));
    for (int64_t e = 0; e < s[i].count; e++)
      if (!isfinite(of[e]))
        LC_GO(lc_fail(net->ctx, "head %lld of layer %d has a score that is not a number", (long long)e,
                      s[i].layer));
    for (int64_t gone = rule->heads * s[i].count / c->H; gone > 0; gone--) {
      int64_t least = -1;
      for (int64_t e = 0; e < s[i].count; e++)
        if (of[e] >= 0 && (least < 0 || of[e] < of[least])) least = e;
      of[least] = -1; /* scores are sums of magnitudes */
      drop(net, &s[i], least, rule);
    }
  }
done:
  lc_free(net->ctx, of);
  lc_structures_free(net->ctx, s, n);
  return st;
}
