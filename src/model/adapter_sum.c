/* Adapters of one net as a single one, without the base: a weight's changes are added, each at its scale.
 *
 *   entries (lists, and slices as the entries of their lines)   δ = Σ_i s_i·δ_i on the union of the positions, added in order
 *   low rank                                                    B = [s_1·B_1 … s_n·B_n], A = [A_1; …; A_n]: the ranks add
 *
 * One file holds one kind, so both at once are refused, as is what does not add (masks, routed experts) and what is no change of a weight (heads). */
#include "model/adapter.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
  int64_t flat;
  int64_t order; /* of arrival */
  float value;
} entry;

static int by_place(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->flat != y->flat) return x->flat < y->flat ? -1 : 1;
  return x->order < y->order ? -1 : x->order > y->order;
}

/* A delta that adds values to entries of its own; LoRAs' changes are dense. */
static bool adds_entries(const lc_delta *d) {
  return d->ops->walk && d->ops->nonzeros && !d->ops->beneath;
}

/* All entries of a weight's deltas, in the order of the deltas. */
static int64_t gather(const lc_weight *w, entry *e) {
  enum { RUN = 256 };
  int64_t n = 0, flat[RUN];
  float f[RUN];
  for (int i = 0; i < w->n_delta; i++) {
    const lc_delta *d = w->delta[i];
    for (lc_walk walk = {.end = w->M * w->N, .next = -1}; !walk.none;
         walk = (lc_walk){walk.which + 1, 0, w->M * w->N, -1, false}) {
      int64_t got = d->ops->walk(d, &walk, RUN, flat);
      while (got > 0) {
        memset(f, 0, sizeof f);
        d->ops->at(d, walk.which, walk.next - got, got, flat, f);
        for (int64_t k = 0; k < got; k++, n++) e[n] = (entry){flat[k], n, f[k]};
        got = d->ops->walk(d, &walk, RUN, flat);
      }
      if (walk.none) break;
    }
  }
  return n;
}

static lc_status sum_entries(lc_ctx *ctx, lc_weight *w, lc_delta **out) {
  lc_status st = LC_OK;
  lc_index idx = {.kind = LC_ALL};
  int64_t room = 0, n = 0;
  for (int i = 0; i < w->n_delta; i++) room += w->delta[i]->ops->nonzeros(w->delta[i]);
  entry *e = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)room, sizeof *e);
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)room, sizeof *flat);
  float *value = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)room, sizeof *value);
  if (!e || !flat || !value) LC_GO(LC_FAILED);
  const int64_t got = gather(w, e);
  qsort(e, (size_t)got, sizeof *e, by_place);
  for (int64_t k = 0; k < got; k++) {
    if (n && flat[n - 1] == e[k].flat) {
      value[n - 1] += e[k].value;
      continue;
    }
    flat[n] = e[k].flat;
    value[n++] = e[k].value;
  }
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, n, &idx));
  st = lc_delta_sparse_new(ctx, w, &idx, value, false, out);
done:
  if (idx.kind != LC_ALL) lc_index_free(ctx, &idx);
  lc_free(ctx, e);
  lc_free(ctx, flat);
  lc_free(ctx, value);
  return st;
}

static lc_status sum_low_rank(lc_ctx *ctx, lc_weight *w, lc_delta **out) {
  lc_lora_opts o = {0};
  for (int i = 0; i < w->n_delta; i++) o.rank += lc_delta_lora_opts(w->delta[i])->rank;
  o.alpha = (float)o.rank;
  float *A = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(o.rank * w->N), sizeof *A),
        *B = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(o.rank * w->M), sizeof *B);
  int64_t at = 0;
  for (int i = 0; A && B && i < w->n_delta; i++) {
    const lc_delta *d = w->delta[i];
    const int64_t r = lc_delta_lora_opts(d)->rank;
    const float s = d->scale * lc_delta_lora_scale(d);
    memcpy(A + at * w->N, d->param[0]->value, (size_t)(r * w->N) * sizeof *A);
    for (int64_t m = 0; m < w->M; m++)
      for (int64_t k = 0; k < r; k++) B[m * o.rank + at + k] = s * d->param[1]->value[m * r + k];
    at += r;
  }
  lc_status st = A && B ? lc_delta_lora_new(ctx, w, &o, A, B, false, out) : LC_FAILED;
  lc_free(ctx, A);
  lc_free(ctx, B);
  return st;
}

/* What every change of the net is: entries, or low rank. */
static lc_status kind_of_all(const lc_net *net, bool *low_rank) {
  const lc_delta *entries = NULL, *low = NULL;
  int64_t rank = 0;
  for (int i = 0; i < net->n_adapter; i++)
    if (net->adapter[i]->n_head)
      return lc_fail(net->ctx, "adapter '%s' has a head of its own: heads do not add", net->adapter[i]->name);
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    int64_t sum = 0;
    for (int k = 0; k < w->n_delta; k++) {
      const lc_delta *d = w->delta[k];
      if (d->ops != &lc_delta_lora && !adds_entries(d))
        return lc_fail(
            net->ctx,
            "'%s' has a %s change: lists of entries, slices and LoRAs can be written as one adapter", w->name,
            d->ops->name);
      *(d->ops == &lc_delta_lora ? &low : &entries) = d;
      if (d->ops == &lc_delta_lora) sum += lc_delta_lora_opts(d)->rank;
    }
    if (sum && rank && sum != rank)
      return lc_fail(
          net->ctx,
          "the LoRAs of '%s' have %lld ranks together, those of others %lld: one file holds one rank",
          w->name, (long long)sum, (long long)rank);
    if (sum) rank = sum;
  }
  if (entries && low)
    return lc_fail(net->ctx,
                   "'%s' has a low-rank change and '%s' a %s: one file of one kind cannot hold both",
                   low->w->name, entries->w->name, entries->ops->name);
  if (!entries && !low) return lc_fail(net->ctx, "the adapters change nothing");
  *low_rank = low != NULL;
  return LC_OK;
}

lc_status lc_adapter_sum(lc_net *net, lc_adapter **out, bool *low_rank) {
  lc_adapter *a;
  lc_status st = LC_OK;
  *out = NULL;
  LC_TRY(kind_of_all(net, low_rank));
  LC_TRY(lc_adapter_new(net, "sum", &a));
  for (int i = 0; i < net->n_adapter - 1; i++) a->exact_base |= net->adapter[i]->exact_base;
  for (int i = 0; i < net->weights.n; i++) {
    lc_weight *w = &net->weights.w[i];
    lc_delta *d;
    if (!w->n_delta) continue;
    LC_GO(*low_rank ? sum_low_rank(net->ctx, w, &d) : sum_entries(net->ctx, w, &d));
    st = lc_adapter_add(a, d);
    if (st) d->ops->free(net->ctx, d);
    if (st) goto done;
  }
  *out = a;
done:
  if (st) lc_adapter_remove(a);
  return st;
}
