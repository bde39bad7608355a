/* What the tests of the methods share: a world for each test (support/world_test.h), with two threads unless WORLD_THREADS
 * says otherwise, and the questions that are asked of every method. */
#ifndef LC_METHOD_TEST_H
#define LC_METHOD_TEST_H
#ifndef WORLD_THREADS
#define WORLD_THREADS 2
#endif
#include "method/methods.h"
#include "support/world_test.h"

/* Runs that a method must refuse. */
typedef struct {
  const char *set, *opts, *says;
} refusal;
static inline void refuses(const char *method, const refusal *r, size_t n) {
  for (size_t i = 0; i < n; i++)
    refused(t_train(&w, &(t_spec){.method = method,
                                  .set = r[i].set,
                                  .opts = r[i].opts,
                                  .out = "no",
                                  .overwrite = true,
                                  .no_eval = true}),
            r[i].says);
}

/* Effective f32 values of a weight; free(). */
static inline float *values(const lc_weight *x) {
  float *v = malloc((size_t)(x->M * x->N) * 4);
  const void *tile;
  int64_t ld;
  if (x->ndim == 1) return memcpy(v, x->vector, (size_t)x->N * 4);
  for (int64_t r = 0; r < x->M; r++) {
    ok(lc_weight_tile(w.ctx, 0, x, (lc_rect){r, r + 1, 0, x->N}, LC_F32, &tile, &ld));
    memcpy(v + r * x->N, tile, (size_t)x->N * 4);
  }
  return v;
}

/* Mean loss of the world's evaluation rows on a model, with an adapter (or none). */
static inline double loss_of(const lc_model *m, const char *adapter, lc_apply apply) {
  lc_net *net;
  lc_adapter *a;
  lc_score s;
  ok(lc_net_new(m, LC_F32, &net));
  if (adapter) ok(lc_adapter_load(net, adapter, 1, apply, &a));
  ok(lc_eval_rows(net, w.eval, 0, &s));
  lc_net_free(net);
  return s.nll;
}

/* Of a run's history: the evaluation's loss at a step; a number of the summary. */
static inline double eval_at(const char *out, int step) {
  char sql[64];
  snprintf(sql, sizeof sql, "SELECT loss FROM evals WHERE step = %d", step);
  return atof(t_query(&w, out, sql));
}
static inline double done_of(const char *out, const char *key) {
  char sql[96];
  snprintf(sql, sizeof sql, "SELECT json_extract(summary, '$.%s') FROM runs", key);
  return atof(t_query(&w, out, sql));
}

/* The control of a method on all entries: "full", on the linear weights alone. ends_kept: the row leaves the values of these
 * weights in `ended` when a run is over, in the model's order; free() each. */
static float *ended[64];
static int n_ended;
static inline lc_status keep_ends(void *self, lc_training *t) {
  n_ended = 0;
  for (int i = 0; i < t->net->weights.n; i++)
    if (t->net->weights.w[i].kind == LC_KIND_LINEAR) ended[n_ended++] = values(&t->net->weights.w[i]);
  return LC_OK;
}
static inline lc_method ends_kept(lc_method row) {
  row.finish = keep_ends;
  return row;
}
static inline bool is_linear(const lc_weight *x, void *arg) {
  return x->kind == LC_KIND_LINEAR;
}
static inline lc_status attach_linear(void *self, lc_training *t) {
  return lc_net_train_whole(t->net, is_linear, NULL);
}
static inline lc_status no_result(void *self, lc_training *t, const char *dir) {
  return LC_OK;
}
static inline lc_method full_on_linear(void) {
  lc_method row = *lc_method_find("full");
  row.attach = attach_linear;
  row.save = no_result;
  return row;
}
#endif
