/* Every kind of delta on every form with every optimiser. A row says how a kind is made, and, by hand and entry by entry, which dense matrix
 * (or bias) the net then has; and what the kind cannot do, as part of the sentence that refuses it. Of each row on each form:
 * the output moves as that matrix says; so do the gradients (dW through the matrix's own differences; else differences of the loss); a few
 * steps of each optimiser lower the loss; frozen, nothing moves; saved and loaded, the bits are the same; merged, the same to rounding. */
#include "nn/combinations_test.h"

enum { STEPS = 4 };
lc_ctx *ctx;
static int32_t ids[T];
static char *dir;

void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static void refused(lc_status st, const char *why) {
  if (!st) fail_msg("not refused: '%s' was expected", why);
  if (!strstr(lc_error(ctx), why)) fail_msg("refused with '%s', not '%s'", lc_error(ctx), why);
}
static int setup(void **state) {
  for (int t = 0; t < T; t++) ids[t] = (t * 37 + 11) % V;
  dir = lc_tiny_dir();
  return lc_ctx_new(2, &ctx, NULL);
}
static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static float *logits(lc_net *net) {
  float *l = malloc(T * V * sizeof *l);
  ok(lc_tiny_logits(net, ids, T, l));
  return l;
}
static double loss_of(lc_net *net, bool backward) {
  double loss;
  ok(lc_tiny_loss(net, ids, ids, T, backward, &loss));
  return loss;
}
static const lc_dtype forms[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
enum { FORMS = sizeof forms / sizeof *forms };

/* Rate of the steps; for sgd a share of the loss to go down by, as its rate depends on the gradient's size. */
typedef struct {
  const char *name;
  double rate;
} pace;
static const pace paces[] = {{"adamw", 3e-3}, {"sgd", 1e-3}, {"sm3", 3e-3}};

static void test_every_kind_and_optimiser_has_a_row(void **state) {
  for (int i = 0; i <= lc_n_delta_kinds; i++) { /* noise has a layout of its own, so it is none of those */
    const lc_delta_ops *ops = i < lc_n_delta_kinds ? lc_delta_kinds[i]->ops : &lc_delta_noise;
    int found = 0;
    for (int r = 0; r < n_rows; r++)
      found += rows[r].ops == ops && !strncmp(rows[r].name, ops->name, strlen(ops->name));
    if (!found) fail_msg("deltas of kind '%s' have no row here", ops->name);
  }
  for (int r = 0; r < n_rows; r++) {
    assert_int_equal(rows[r].ops->patch == NULL, rows[r].merge != NULL);
    assert_int_equal(rows[r].ops->mergeable, rows[r].merge == NULL);
  }
  for (int o = 0; o < lc_n_optims; o++) {
    int found = 0;
    for (size_t k = 0; k < sizeof paces / sizeof *paces; k++)
      found += !strcmp(paces[k].name, lc_optims[o]->name);
    if (found != 1) fail_msg("optimiser '%s' has no row here", lc_optims[o]->name);
  }
}

/* ---- a case ---- */

typedef struct {
  const row *r;
  lc_model *m;
  lc_net *net;
  lc_adapter *a;
  lc_weight *w; /* that it changes */
  int64_t n;    /* its entries */
} cell;
static lc_model *open_form(lc_dtype form) {
  lc_tiny t = LC_TINY_LLAMA;
  lc_model *m;
  t.L = 1;
  t.mlp_bias = true;
  t.dtype = form;
  const bool quantised = lc_dtype_get(form)->quantised;
  const char *path = lc_tiny_path(dir, quantised ? "m.gguf" : "m");
  ok(quantised ? lc_tiny_gguf(ctx, &t, path) : lc_tiny_hf(ctx, &t, path));
  ok(lc_model_open(ctx, path, &m));
  return m;
}
static cell open_cell(const row *r, lc_model *m, bool trained) {
  cell c = {.r = r, .m = m};
  ok(lc_net_new(m, LC_F32, &c.net));
  ok(lc_adapter_new(c.net, "a", &c.a));
  r->make(c.a, trained);
  if (!(c.w = lc_net_weight(c.net, r->changes))) fail_msg("no '%s'", r->changes);
  c.n = c.w->M * c.w->N;
  return c;
}
static lc_delta *last(const cell *c) {
  return c->a->delta[c->a->n - 1];
}
static void base_of(const cell *c, double *to) {
  float *f = malloc((size_t)c->n * sizeof *f);
  if (c->w->ndim == 1)
    memcpy(f, c->w->vector, (size_t)c->n * sizeof *f);
  else
    ok(c->w->base->ops->decode(ctx, c->w->base, (lc_rect){0, c->w->M, 0, c->w->N}, LC_F32, f, c->w->N));
  for (int64_t k = 0; k < c->n; k++) to[k] = (double)f[k];
  free(f);
}
static lc_param *param_at(const cell *c, int *i) { /* the *i-th that is trained; NULL: no more */
  int k = *i;
  for (int d = 0; d < c->a->n; d++)
    for (int p = 0; p < c->a->delta[d]->n_param; p++)
      if (c->a->delta[d]->param[p]->wants_grad && k-- == 0) return (*i)++, c->a->delta[d]->param[p];
  return NULL;
}
static void say(const cell *c, lc_dtype form, const char *what, double got, double want) {
  fail_msg("%s on %s: %s: %g, expected %g", c->r->name, lc_dtype_get(form)->name, what, got, want);
}
/* The net's output is `want`, but for a relative error. */
static void agrees(const cell *c, lc_dtype form, const char *how, lc_net *net, const float *want,
                   double error) {
  float *is = logits(net);
  const double off = lc_tiny_error(is, want, T * V);
  free(is);
  if (!(off < error)) say(c, form, how, off, 0);
}
static void each(void (*check)(const row *, lc_model *, lc_dtype)) {
  for (int f = 0; f < FORMS; f++) {
    lc_model *m = open_form(forms[f]);
    for (int r = 0; r < n_rows; r++) check(&rows[r], m, forms[f]);
    lc_model_close(m);
    ok(lc_remove_tree(ctx, dir));
    ok(lc_mkdirs(ctx, dir));
  }
}

#define ON_EACH(what)                                                                                        \
  static void test_##what(void **state) {                                                                    \
    each(check_##what);                                                                                      \
  }

/* ---- (a) and the second half of (e): attached, by hand and in place are one ---- */

static void check_output(const row *r, lc_model *m, lc_dtype form) {
  cell c = open_cell(r, m, false);
  lc_net *hand;
  double *want = malloc((size_t)c.n * sizeof *want);
  float *f = malloc((size_t)c.n * sizeof *f), *base, *is, *dense;
  ok(lc_net_new(m, LC_F32, &hand));
  base = logits(hand);
  base_of(&c, want);
  r->dense(last(&c), want);
  for (int64_t k = 0; k < c.n; k++) f[k] = (float)want[k];
  if (!r->ops->emit && !r->ops->tap) {
    const void *tile;
    int64_t ld;
    ok(lc_weight_tile(ctx, 0, c.w, (lc_rect){0, c.w->M, 0, c.w->N}, LC_F32, &tile, &ld));
    assert_int_equal(ld, c.w->N);
    if (!(lc_tiny_error(tile, f, c.n) < 1e-6))
      say(&c, form, "the matrix is off by", lc_tiny_error(tile, f, c.n), 0);
  }
  ok(lc_net_set_whole(hand, lc_net_weight(hand, r->changes), f));
  is = logits(c.net);
  dense = logits(hand);
  if (!(lc_tiny_error(is, base, T * V) > 1e-3))
    say(&c, form, "the output moves by", lc_tiny_error(is, base, T * V), 1e-3);
  free(is);
  agrees(&c, form, "the output is off by", c.net, dense, 1e-5);
  if (r->in_place) {
    refused(lc_adapter_set(c.a, 1, LC_IN_PLACE), r->in_place);
  } else { /* rounded as the base is stored */
    ok(lc_adapter_set(c.a, 1, LC_IN_PLACE));
    agrees(&c, form, "in place it is off by", c.net, dense,
           form == LC_BF16  ? 1e-2
           : form == LC_F16 ? 1e-3
                            : 1e-5);
    ok(lc_adapter_set(c.a, 1, LC_PATCH));
  }
  if (r->aside) {
    refused(lc_adapter_set(c.a, 1, LC_ASIDE), r->aside);
  } else {
    ok(lc_adapter_set(c.a, 1, LC_ASIDE));
    agrees(&c, form, "aside it is off by", c.net, dense, 1e-5);
  }
  ok(lc_adapter_set(c.a, 0, LC_PATCH));
  is = logits(c.net);
  assert_memory_equal(is, base, T * V * sizeof *is);
  free(is);
  free(base);
  free(dense);
  free(want);
  free(f);
  lc_net_free(hand);
  lc_net_free(c.net);
}
ON_EACH(output)

/* ---- (d) gradients ---- */

static lc_status collect(void *self, lc_weight *w, const lc_tile *t) {
  for (int64_t r = t->at.r0; r < t->at.r1; r++)
    memcpy((float *)self + r * w->N + t->at.c0, t->dw + (r - t->at.r0) * t->ld,
           (size_t)(t->at.c1 - t->at.c0) * sizeof(float));
  return LC_OK;
}
static void shift(lc_param *p, const float *from, const float *by, double h) {
  for (int64_t k = 0; k < p->n; k++) p->value[k] = from[k] + (float)(h * (double)by[k]);
}
/* Slope along `by`: through the dense matrix and dW, or of the loss. */
static double slope(const cell *c, lc_param *p, const float *by, double h, const float *dw) {
  float *from = malloc((size_t)p->n * sizeof *from);
  double *side[2] = {calloc((size_t)c->n, sizeof(double)), calloc((size_t)c->n, sizeof(double))},
         loss[2] = {0}, sum = 0;
  memcpy(from, p->value, (size_t)p->n * sizeof *from);
  for (int s = 0; s < 2; s++) {
    shift(p, from, by, s ? -h : h);
    if (c->r->chain)
      c->r->dense(last(c), side[s]);
    else
      loss[s] = loss_of(c->net, false);
  }
  for (int64_t k = 0; k < c->n && c->r->chain; k++) sum += (double)dw[k] * (side[0][k] - side[1][k]);
  memcpy(p->value, from, (size_t)p->n * sizeof *from);
  free(from);
  free(side[0]);
  free(side[1]);
  return (c->r->chain ? sum : loss[0] - loss[1]) / (2 * h);
}
static void check_param(const cell *c, lc_dtype form, lc_param *p, const float *dw) {
  const double tolerance = c->r->chain ? 1e-3 : 2e-2;
  double dot[2] = {0}, norm[2] = {0};
  float *v[2] = {malloc((size_t)p->n * sizeof(float)), malloc((size_t)p->n * sizeof(float))};
  for (int64_t k = 0; k < p->n; k++) {
    v[0][k] = p->grad[k];
    v[1][k] = p->grad[k] + 0.1f * fabsf(p->grad[k]) * noise_at(p->name, k + 1000);
  }
  for (int i = 0; i < 2; i++) {
    for (int64_t k = 0; k < p->n; k++) {
      dot[i] += (double)p->grad[k] * (double)v[i][k];
      norm[i] += (double)v[i][k] * (double)v[i][k];
    }
    if (norm[i] == 0) say(c, form, p->name, 0, 1);
    const double h = (c->r->chain ? 1e-3 : fmin(3e-3 / sqrt(norm[i]), 0.1)) / sqrt(norm[i]),
                 got = slope(c, p, v[i], h, dw);
    if (!(fabs(got - dot[i]) < tolerance * sqrt(norm[0] * norm[i]))) say(c, form, p->name, dot[i], got);
  }
  free(v[0]);
  free(v[1]);
}
static void check_gradients(const row *r, lc_model *m, lc_dtype form) {
  cell c = open_cell(r, m, true);
  float *dw = calloc((size_t)c.n, sizeof *dw);
  int i = 0;
  if (r->chain)
    ok(lc_weight_add_sink(ctx, c.w, (lc_sink){.kind = LC_SINK_TILES, .tile = collect, .self = dw}));
  for (lc_param *p; !r->chain && (p = param_at(&c, &i));) /* away from zero weights */
    for (int64_t k = 0; k < p->n; k++) p->value[k] += 0.1f * noise_at(p->name, k + 500);
  i = 0;
  loss_of(c.net, true);
  if (r->chain) lc_weight_remove_sink(c.w, dw);
  for (lc_param *p; (p = param_at(&c, &i));)
    if (p->grad) check_param(&c, form, p, dw);
  assert_int_equal(i == 0, r->idle);
  free(dw);
  lc_net_free(c.net);
}
ON_EACH(gradients)

/* ---- (b) steps ---- */

static double rate_of(const cell *c, const char *name) {
  double rate = 0, norm2 = 0;
  for (size_t k = 0; k < sizeof paces / sizeof *paces; k++)
    if (!strcmp(paces[k].name, name)) rate = paces[k].rate;
  if (strcmp(name, "sgd")) return rate;
  int i = 0;
  for (lc_param *p; (p = param_at(c, &i));)
    for (int64_t k = 0; p->grad && k < p->n; k++) norm2 += (double)p->grad[k] * (double)p->grad[k];
  return rate / norm2;
}
static void check_steps(const row *r, lc_model *m, lc_dtype form) {
  for (int o = 0; o < lc_n_optims && !r->idle; o++) {
    cell c = open_cell(r, m, true);
    const lc_optim_ops *optim = lc_optims[o];
    lc_hyper h = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    double first = 0, now = 0;
    for (h.step = 0; h.step < STEPS; h.step++) {
      lc_param *p;
      now = loss_of(c.net, true);
      if (!h.step) first = now, h.lr = rate_of(&c, optim->name);
      for (int i = 0; (p = param_at(&c, &i));) {
        if (!p->grad) continue;
        if (!h.step) ok(optim->prepare(ctx, p, &h));
        ok(optim->update(ctx, p, &h));
        lc_zero_gradients(ctx, &p, 1);
      }
    }
    now = loss_of(c.net, false);
    if (!(now < first - 1e-5)) say(&c, form, optim->name, now, first);
    lc_net_free(c.net);
  }
}
ON_EACH(steps)

/* ---- (c) frozen ---- */

static void check_frozen(const row *r, lc_model *m, lc_dtype form) {
  for (int trained = 0; trained < 2; trained++) { /* made frozen, or frozen later */
    cell c = open_cell(r, m, trained);
    float *before = logits(c.net);
    for (int d = 0; d < c.a->n; d++)
      for (int i = 0; i < c.a->delta[d]->n_param; i++) {
        c.a->delta[d]->param[i]->wants_grad = false;
        assert_false(r->idle);
      }
    if (lc_weight_trains(c.w)) say(&c, form, "the weight still trains", 1, 0);
    float *dw = calloc((size_t)c.n, sizeof *dw); /* somebody else asks for the gradient */
    if (r->chain)
      ok(lc_weight_add_sink(ctx, c.w, (lc_sink){.kind = LC_SINK_TILES, .tile = collect, .self = dw}));
    loss_of(c.net, true);
    lc_weight_remove_sink(c.w, dw);
    free(dw);
    for (int d = 0; d < c.a->n; d++)
      for (int i = 0; i < c.a->delta[d]->n_param; i++) {
        const lc_hyper h = {.lr = 1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
        lc_param *p = c.a->delta[d]->param[i];
        for (int64_t k = 0; p->grad && k < p->n; k++)
          if (p->grad[k] != 0) say(&c, form, p->name, (double)p->grad[k], 0);
        for (int o = 0; o < lc_n_optims && !p->grad; o++)
          refused(lc_optims[o]->update(ctx, p, &h), "has no gradient");
      }
    float *after = logits(c.net);
    assert_memory_equal(before, after, T * V * sizeof *before);
    free(before);
    free(after);
    lc_net_free(c.net);
  }
}
ON_EACH(frozen)

/* ---- (e) files ---- */

static void check_files(const row *r, lc_model *m, lc_dtype form) {
  cell c = open_cell(r, m, false);
  float *want = logits(c.net);
  lc_adapter_meta meta = {.base_name = "tiny", .method = "test"};
  for (int layout = LC_LAYOUT_PEFT_LORA; layout <= LC_LAYOUT_LOG; layout++) {
    if (!(r->layouts & 1 << layout)) {
      refused(lc_adapter_save(c.a, (lc_layout)layout, lc_tiny_path(dir, "no"), &meta),
              "which this layout cannot hold");
      continue;
    }
    const char *to = lc_tiny_path(dir, "adapter");
    lc_net *net;
    lc_adapter *a;
    ok(lc_adapter_save(c.a, (lc_layout)layout, to, &meta));
    ok(lc_net_new(m, LC_F32, &net));
    ok(lc_adapter_load(net, to, 1, LC_PATCH, &a));
    assert_int_equal(a->n, c.a->n);
    float *is = logits(net);
    assert_memory_equal(is, want, T * V * sizeof *is);
    free(is);
    lc_net_free(net);
    ok(lc_remove_tree(ctx, to));
  }
  const char *to = lc_tiny_path(dir, "merged");
  if (r->merge) {
    refused(lc_net_write_hf(c.net, to, LC_F32, NULL), r->merge);
  } else {
    lc_model *merged;
    lc_net *net;
    ok(lc_net_write_hf(c.net, to, LC_F32, NULL));
    ok(lc_model_open(ctx, to, &merged));
    ok(lc_net_new(merged, LC_F32, &net));
    agrees(&c, form, "merged it is off by", net, want, 1e-5);
    lc_net_free(net);
    lc_model_close(merged);
    ok(lc_remove_tree(ctx, to));
  }
  free(want);
  lc_net_free(c.net);
}
ON_EACH(files)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_kind_and_optimiser_has_a_row),
      cmocka_unit_test(test_output),
      cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_steps),
      cmocka_unit_test(test_frozen),
      cmocka_unit_test(test_files),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
