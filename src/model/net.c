/* A net: what one user makes of a model. Weights are views of the model's files (vectors, which are small,
 * are copied to f32); deltas and whole-weight trainables hang on them. Several nets can stand on one model.
 */
#include "model/config.h"
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
  return strcmp(((const lc_weight *)a)->name, ((const lc_weight *)b)->name);
}

/* The f32 values of a vector, in HF order. */
static lc_status decode_vector(lc_ctx *ctx, const lc_tensor *src, const int32_t *row_map, int64_t n,
                               float *dst) {
  LC_TRY(lc_decode_row(ctx, src->dtype, src->data, n, dst));
  if (!row_map) return LC_OK;
  float *tmp = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *tmp);
  if (!tmp) return LC_FAILED;
  memcpy(tmp, dst, (size_t)n * sizeof *tmp);
  for (int64_t i = 0; i < n; i++) dst[i] = tmp[row_map[i]];
  lc_free(ctx, tmp);
  return LC_OK;
}

static lc_status fill_weight(const lc_model *m, int i, lc_weight *w) {
  const lc_tensor_decl *d = &m->decl[i];
  *w = (lc_weight){.name = d->name,
                   .id = lc_fnv1a32(d->name),
                   .layer = d->layer,
                   .kind = d->kind,
                   .M = d->M,
                   .N = d->N,
                   .ndim = d->ndim,
                   .head = d->head};
  const char *dot = strrchr(d->name, '.');
  char *module = lc_format(m->ctx, "%.*s", dot ? (int)(dot - d->name) : (int)strlen(d->name), d->name);
  if (!module) return LC_FAILED;
  w->module = module;
  if (d->ndim == 1) {
    w->vector = lc_alloc_n(m->ctx, LC_MEM_FORM, (size_t)d->N, sizeof *w->vector);
    return w->vector ? decode_vector(m->ctx, &m->src[i], m->row_map[i], d->N, w->vector) : LC_FAILED;
  }
  LC_TRY(lc_form_view(m->ctx, &m->src[i], d->transposed && !m->is_gguf, m->row_map[i], &w->base));
  w->form = w->base;
  return LC_OK;
}

/* The vector that is added to the head's logits. */
static void link_head(lc_net *net) {
  const lc_config *c = &net->model->config;
  const char *bias = c->family->head_bias ? c->family->head_bias(c) : NULL;
  if (bias) lc_net_weight(net, c->family->head(c))->head_bias = lc_net_weight(net, bias);
}

lc_status lc_net_new(const lc_model *m, lc_dtype compute, lc_net **out) {
  *out = NULL;
  if (compute != LC_F32 && compute != LC_BF16)
    return lc_fail(m->ctx, "computing in %s is not supported", lc_dtype_get(compute)->name);
  lc_net *net = lc_alloc(m->ctx, LC_MEM_OTHER, sizeof *net);
  if (!net) return LC_FAILED;
  net->ctx = m->ctx;
  net->model = m;
  net->compute = compute;
  net->weights.w = lc_alloc_n(m->ctx, LC_MEM_OTHER, (size_t)m->n, sizeof *net->weights.w);
  lc_status st = net->weights.w ? LC_OK : LC_FAILED;
  for (int i = 0; i < m->n && !st; i++) {
    net->weights.n = i + 1;
    st = fill_weight(m, i, &net->weights.w[i]);
  }
  if (st) {
    lc_net_free(net);
    return st;
  }
  qsort(net->weights.w, (size_t)net->weights.n, sizeof *net->weights.w, by_name);
  link_head(net);
  *out = net;
  return LC_OK;
}

static const lc_param *whole(const lc_net *net, const lc_weight *w) {
  for (int i = 0; i < net->n_own; i++)
    if (net->own[i]->of == w) return net->own[i];
  return NULL;
}

lc_status lc_net_tokenizer(lc_net *net, lc_tokenizer **out) {
  *out = NULL;
  if (!net->tok) LC_TRY(lc_model_tokenizer(net->model, &net->tok));
  *out = net->tok;
  return LC_OK;
}

void lc_net_free(lc_net *net) {
  if (!net) return;
  lc_ctx *ctx = net->ctx;
  lc_tokenizer_free(net->tok);
  while (net->n_adapter) lc_adapter_remove(net->adapter[net->n_adapter - 1]);
  lc_free(ctx, net->adapter);
  for (int i = 0; i < net->weights.n; i++) {
    lc_weight *w = &net->weights.w[i];
    while (w->n_delta) lc_weight_detach(ctx, w, w->delta[w->n_delta - 1], true);
    if (w->form && w->form != w->base) lc_form_free(ctx, w->form);
    if (w->base) lc_form_free(ctx, w->base);
    if (!whole(net, w)) lc_free(ctx, w->vector);
    lc_free(ctx, (char *)w->module);
  }
  for (int i = 0; i < net->n_own; i++) lc_param_free(ctx, net->own[i]);
  lc_free(ctx, net->own);
  lc_free(ctx, net->weights.w);
  lc_free(ctx, net);
}

lc_weight *lc_net_weight(const lc_net *net, const char *name) {
  return lc_weights_find(&net->weights, name);
}

/* ---- whole weights ---- */

typedef struct {
  lc_ctx *ctx;
  const lc_form *from;
  float *to;
  int64_t M, N, rows;
} decode_arg;

static lc_status decode_chunk(void *arg, int64_t chunk, int worker) {
  const decode_arg *a = arg;
  lc_rect r = {chunk * a->rows, lc_min64((chunk + 1) * a->rows, a->M), 0, a->N};
  return a->from->ops->decode(a->ctx, a->from, r, LC_F32, a->to + r.r0 * a->N, a->N);
}

/* The f32 master copy: for a matrix the weight's new form, for a vector the vector itself. */
static lc_status make_whole(lc_net *net, lc_weight *w, bool trained, lc_param **out) {
  lc_index all = {.kind = LC_ALL, .n = w->M * w->N};
  lc_param *p;
  if (w->n_delta)
    return lc_fail(net->ctx, "'%s' carries a %s delta: it cannot be trained as a whole", w->name,
                   w->delta[0]->ops->name);
  LC_TRY(lc_param_new(net->ctx, w->name, w, &all, w->M, w->N, trained, &p));
  p->wants_grad = trained;
  p->decays = w->kind != LC_KIND_NORM && w->kind != LC_KIND_BIAS;
  lc_form *form = NULL;
  lc_status st = LC_OK;
  if (w->ndim == 1) {
    memcpy(p->value, w->vector, (size_t)p->n * sizeof *p->value);
  } else {
    decode_arg a = {.ctx = net->ctx,
                    .from = w->base,
                    .to = p->value,
                    .M = w->M,
                    .N = w->N,
                    .rows = lc_max64(1, 65536 / w->N)};
    LC_GO(lc_parallel(net->ctx, lc_ceil_div(a.M, a.rows), decode_chunk, &a));
    LC_GO(lc_form_of_param(net->ctx, p, &form));
  }
  LC_GO(lc_weight_add_sink(net->ctx, w, (lc_sink){.kind = LC_SINK_DENSE, .param = p}));
  if (form) {
    w->form = form;
  } else {
    lc_free(net->ctx, w->vector);
    w->vector = p->value;
  }
  *out = p;
  return LC_OK;
done:
  if (form) lc_form_free(net->ctx, form);
  lc_param_free(net->ctx, p);
  return st;
}

static lc_status room_for_own(lc_net *net) {
  lc_param **grown = lc_realloc(net->ctx, LC_MEM_OTHER, net->own, (size_t)net->weights.n * sizeof *grown);
  if (!grown) return LC_FAILED;
  net->own = grown;
  return LC_OK;
}

lc_status lc_net_train_whole(lc_net *net, bool (*want)(const lc_weight *, void *), void *arg) {
  LC_TRY(room_for_own(net));
  for (int i = 0; i < net->weights.n; i++) {
    lc_weight *w = &net->weights.w[i];
    if (whole(net, w) || (want && !want(w, arg))) continue;
    LC_TRY(make_whole(net, w, true, &net->own[net->n_own]));
    net->n_own++;
  }
  return LC_OK;
}

static lc_status base_vector(lc_net *net, lc_weight *w) {
  const lc_model *m = net->model;
  for (int i = 0; i < m->n; i++) {
    if (strcmp(m->decl[i].name, w->name)) continue;
    w->vector = lc_alloc_n(net->ctx, LC_MEM_FORM, (size_t)w->N, sizeof *w->vector);
    return w->vector ? decode_vector(net->ctx, &m->src[i], m->row_map[i], w->N, w->vector) : LC_FAILED;
  }
  return lc_fail(net->ctx, "'%s' is not in %s", w->name, m->path);
}

static lc_status release(lc_net *net, int i) {
  lc_param *p = net->own[i];
  lc_weight *w = p->of;
  memmove(&net->own[i], &net->own[i + 1], (size_t)(net->n_own - i - 1) * sizeof(lc_param *));
  net->n_own--;
  lc_weight_remove_sink(w, p);
  if (w->ndim == 2) {
    lc_form_free(net->ctx, w->form);
    w->form = w->base;
  } else {
    w->vector = NULL;
  }
  lc_param_free(net->ctx, p);
  return w->ndim == 1 ? base_vector(net, w) : LC_OK;
}

lc_status lc_net_release_whole(lc_net *net) {
  while (net->n_own) LC_TRY(release(net, net->n_own - 1));
  return LC_OK;
}

lc_status lc_net_set_whole(lc_net *net, lc_weight *w, const float *values) {
  for (int i = 0; i < net->n_own; i++)
    if (net->own[i]->of == w) LC_TRY(release(net, i));
  if (!values) return LC_OK;
  LC_TRY(room_for_own(net));
  LC_TRY(make_whole(net, w, false, &net->own[net->n_own]));
  memcpy(net->own[net->n_own]->value, values, (size_t)net->own[net->n_own]->n * sizeof *values);
  net->n_own++;
  return LC_OK;
}

lc_status lc_net_params(const lc_net *net, lc_param ***out, int *n) {
  int count = net->n_own, k = 0;
  for (int i = 0; i < net->weights.n; i++)
    for (int j = 0; j < net->weights.w[i].n_delta; j++) count += net->weights.w[i].delta[j]->n_param;
  lc_param **all = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)count, sizeof *all);
  if (!all) return LC_FAILED;
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *w = &net->weights.w[i];
    const lc_param *own = whole(net, w);
    if (own) all[k++] = (lc_param *)own;
    for (int j = 0; j < w->n_delta; j++)
      for (int p = 0; p < w->delta[j]->n_param; p++)
        if (w->delta[j]->param[p]) all[k++] = w->delta[j]->param[p];
  }
  *out = all;
  *n = k;
  return LC_OK;
}

/* ---- graph ---- */

/* Uses are counted anew by the builder. A second graph of the same net may use less of it (no head): the
 * larger count stands. */
static void reset_uses(lc_weights *w, int *before) {
  for (int i = 0; i < w->n; i++) {
    before[i] = w->w[i].uses;
    w->w[i].uses = 0;
  }
}

lc_status lc_net_build(lc_net *net, bool with_loss, lc_objective_fn objective, void *self,
                       lc_net_graph *out) {
  const lc_config *c = &net->model->config;
  const char *head = c->family->head(c);
  *out = (lc_net_graph){0};
  int *before = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)net->weights.n, sizeof *before);
  if (!before) return LC_FAILED;
  lc_builder b;
  lc_status st = lc_graph_new(net->ctx, &out->g);
  if (st) goto done;
  reset_uses(&net->weights, before);
  LC_GO(lc_builder_init(&b, net->ctx, out->g, &net->weights, net->compute));
  memcpy(b.tap, net->tap, sizeof b.tap);
  b.n_tap = net->n_tap;
  out->hidden = c->family->build(&b, c);
  LC_GO(b.st);
  lc_graph_keep(out->g, out->hidden);
  out->features = head && c->family->features ? c->family->features(&b, c, out->hidden) : out->hidden;
  LC_GO(b.st);
  lc_graph_keep(out->g, out->features);
  if (with_loss && !head)
    LC_GO(lc_fail(net->ctx, "%s: a %s has no head, and so no loss", net->model->path, lc_architecture(c)));
  if (with_loss && objective)
    LC_GO(objective(self, &b, out->features, &out->nll));
  else if (with_loss)
    out->nll = lc_head_loss(&b, out->features, b.labels, head);
  LC_GO(b.st);
  if (with_loss) lc_graph_keep(out->g, out->nll);
  out->ids = b.ids;
  out->pos = b.pos;
  out->labels = b.labels;
  out->types = b.types;
  out->pixels = b.pixels;
  out->auxiliary = b.auxiliary;
  out->head = head ? lc_net_weight(net, head) : NULL;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].uses < before[i]) net->weights.w[i].uses = before[i];
done:
  lc_free(net->ctx, before);
  if (st) lc_net_graph_free(out);
  return st;
}

void lc_net_graph_free(lc_net_graph *g) {
  if (g->g) lc_graph_free(g->g);
  *g = (lc_net_graph){0};
}
