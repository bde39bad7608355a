/* The table of architecture families, and what their files share: declaring tensors, structures, projections.
 */
#include "model/config.h"
#include <string.h>

const lc_family *const lc_families[] = {&lc_family_llama, &lc_family_gpt2, &lc_family_bert,
                                        &lc_family_roberta, &lc_family_vit};
const int lc_n_families = sizeof lc_families / sizeof *lc_families;

void lc_declare(lc_decls *d, lc_tensor_decl proto, const char *fmt, const char *gguf) {
  size_t entries;
  if (d->st) return;
  if (!lc_mul((size_t)proto.M, (size_t)proto.N, &entries) || entries > (size_t)INT64_MAX / 8) {
    d->st =
        lc_fail(d->ctx, "a tensor of %lld×%lld entries is too large", (long long)proto.M, (long long)proto.N);
    return;
  }
  if (d->n == d->cap) {
    int cap = d->cap ? 2 * d->cap : 64;
    lc_tensor_decl *grown = lc_realloc(d->ctx, LC_MEM_OTHER, d->decl, (size_t)cap * sizeof *grown);
    if (!grown) {
      d->st = LC_FAILED;
      return;
    }
    d->decl = grown;
    d->cap = cap;
  }
  proto.name = lc_format(d->ctx, fmt, proto.layer);
  proto.gguf = lc_format(d->ctx, gguf, proto.layer);
  d->decl[d->n++] = proto;
  if (!proto.name || !proto.gguf) d->st = LC_FAILED;
}

int lc_decl_shape(const lc_tensor_decl *d, int64_t shape[4]) {
  if (d->stored_ndim) {
    for (int i = 0; i < d->stored_ndim; i++) shape[i] = d->stored[i];
    return d->stored_ndim;
  }
  shape[0] = d->ndim == 1 || d->transposed ? d->N : d->M;
  if (d->ndim == 2) shape[1] = d->transposed ? d->M : d->N;
  return d->ndim;
}

lc_val lc_project(lc_builder *b, lc_val x, lc_val residual, lc_tap_point point, const char *fmt, int layer) {
  if (!b->n_tap) return lc_linear(b, x, residual, fmt, layer);
  return lc_sum(b, residual, lc_tap(b, point, layer, lc_linear(b, x, (lc_val){0}, fmt, layer)));
}

void lc_structure_begin(lc_structure_list *l, lc_structure_kind kind, int layer, int64_t count) {
  if (l->st) return;
  if (l->n == l->cap) {
    int cap = l->cap ? 2 * l->cap : 16;
    lc_structure *grown = lc_realloc(l->ctx, LC_MEM_OTHER, l->s, (size_t)cap * sizeof *grown);
    if (!grown) {
      l->st = LC_FAILED;
      return;
    }
    l->s = grown;
    l->cap = cap;
  }
  l->s[l->n++] = (lc_structure){.kind = kind, .layer = layer, .count = count};
}

void lc_structure_side(lc_structure_list *l, const char *fmt, int layer, int axis, int64_t first,
                       int64_t unit) {
  if (l->st) return;
  lc_structure *s = &l->s[l->n - 1];
  lc_side *grown = lc_realloc(l->ctx, LC_MEM_OTHER, s->side, (size_t)(s->n_side + 1) * sizeof *grown);
  char *weight = lc_format(l->ctx, fmt, layer);
  if (grown) s->side = grown;
  if (!grown || !weight) {
    lc_free(l->ctx, weight);
    l->st = LC_FAILED;
    return;
  }
  s->side[s->n_side++] = (lc_side){.weight = weight, .axis = axis, .first = first, .unit = unit};
}

void lc_structure_role(lc_structure_list *l, lc_role role) {
  if (!l->st) l->s[l->n - 1].side[l->s[l->n - 1].n_side - 1].role = role;
}

lc_status lc_structure_end(lc_structure_list *l, lc_structure **out, int *n) {
  *out = NULL;
  *n = 0;
  if (l->st) {
    lc_structures_free(l->ctx, l->s, l->n);
    return l->st;
  }
  *out = l->s;
  *n = l->n;
  return LC_OK;
}

void lc_structures_free(lc_ctx *ctx, lc_structure *s, int n) {
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < s[i].n_side; j++) lc_free(ctx, s[i].side[j].weight);
    lc_free(ctx, s[i].side);
  }
  lc_free(ctx, s);
}
