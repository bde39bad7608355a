/* The kinds of deltas that adapter files keep by name, and what their files share. A kind is one row in its own file. */
#include <string.h>
#include "nn/nn.h"

extern const lc_delta_kind lc_kind_lora, lc_kind_route, lc_kind_experts, lc_kind_kernel, lc_kind_bottleneck,
    lc_kind_sparse, lc_kind_slice, lc_kind_mask;
const lc_delta_kind *const lc_delta_kinds[] = {&lc_kind_lora,   &lc_kind_route,      &lc_kind_experts,
                                               &lc_kind_kernel, &lc_kind_bottleneck, &lc_kind_sparse,
                                               &lc_kind_slice,  &lc_kind_mask};
const int lc_n_delta_kinds = sizeof lc_delta_kinds / sizeof *lc_delta_kinds;

const lc_delta_kind *lc_delta_kind_of(const lc_delta_ops *ops) {
  for (int i = 0; i < lc_n_delta_kinds; i++)
    if (lc_delta_kinds[i]->ops == ops) return lc_delta_kinds[i];
  return NULL;
}

const lc_delta_kind *lc_delta_kind_find(const char *name) {
  for (int i = 0; i < lc_n_delta_kinds; i++)
    if (!strcmp(lc_delta_kinds[i]->ops->name, name)) return lc_delta_kinds[i];
  return NULL;
}

lc_status lc_delta_param(lc_ctx *ctx, lc_delta *d, const char *what, int64_t rows, int64_t cols,
                         bool trainable) {
  char *name = d->w->n_delta ? lc_format(ctx, "%s.%s%d", d->w->name, what, d->w->n_delta + 1)
                             : lc_format(ctx, "%s.%s", d->w->name, what);
  lc_status st =
      name ? lc_param_new(ctx, name, NULL, NULL, rows, cols, trainable, &d->param[d->n_param]) : LC_FAILED;
  if (!st) d->n_param++;
  lc_free(ctx, name);
  return st;
}

void lc_delta_free(lc_ctx *ctx, lc_delta *d) {
  if (!d) return;
  for (int i = 0; i < d->n_param; i++) lc_param_free(ctx, d->param[i]);
  lc_free(ctx, d->priv);
  lc_free(ctx, d);
}

lc_status lc_delta_visit_arrays(const lc_delta *d, lc_visitor *v) {
  const lc_delta_kind *k = lc_delta_kind_of(d->ops);
  lc_array a[LC_DELTA_ARRAYS];
  char name[512];
  for (int i = 0, n = k && k->arrays ? k->arrays(d, a) : 0; i < n; i++) {
    snprintf(name, sizeof name, "%s.%s.%s", d->w->name, k->ops->name, a[i].name);
    LC_TRY(v->array(v, name, a[i].dtype, a[i].n, a[i].data));
  }
  return LC_OK;
}
