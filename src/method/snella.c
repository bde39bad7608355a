/* snella: a change of high rank from two thin matrices, which keeps its own largest entries; layers compete for them.
 *
 * Source: Shen, Sun, Wang & Huang, "Kernelized Sparse Fine-Tuning with Bi-level Parameter Competition for Vision Models"
 * (SNELLA), 2025, arXiv 2510.24037; Shen, Sun, Ji, Huang & Wang, "Expanding Sparse Tuning for Low Memory Usage" (SNELL),
 * NeurIPS 2024, arXiv 2411.01800. The kernel itself: nn/delta_kernel.c.
 *
 *   change    S = 0.1·(distance − distance) of rows of A and B; V = S + α·softmax(S/γ) + β (snella, mixk), S (snell, klora)
 *             δ = V·|V|·1[|V| > τ], τ: the layer's quantile at its sparsity s_l (snella, snell); V (klora, mixk)
 *   snella    after each update, for A and B:  I = |p·g|;  Ī ← 0.85 Ī + 0.15 I;  Ū ← 0.85 Ū + 0.15 |I − Ī|
 *             at each epoch e > 0: budget b(e) = b_T + (b_0 − b_T)(1 − (e − e_i)/(E − e_f − e_i))³ of kept entries,
 *             shared by mean(Ī·Ū over A) + mean(Ī·Ū over B); s_l = 1 − vol_l/N_l
 *   ema       e ← d·e + (1 − d)·p after each update; with ema > 0 the result is e
 *
 * Memory that survives an update: 12 B·R(M+N) a target, 8 B·R(M+N) more for the scores of snella, 4 B·N of normalisers; and
 * 4 B·(R+2)·N·M/64 for the strips' parts of dA; a worker's block of columns, 128 B·M. No M×N buffer. Cost: each product makes its tiles again (2RMN);
 * normalisers and quantile take two sweeps an update, the gradient the dense dW in strips and one or two sweeps. */
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "method/methods.h"
#include "nn/delta_kernel.h"
#include "sparse/allocate.h"
#include "train/attach.h"

typedef struct {
  int64_t r, warm, settle, interval;
  double initial, target, beta1, beta2, ema;
  int variant, rule, layout;
  float *sparsity; /* by delta; in the checkpoint */
  double *score;
  int64_t *cap, *kept, epoch_updates, values;
} snella;
enum { LAYOUT_KERNEL, LAYOUT_SPARSE };

static const lc_option options[] = {
    {"r", LC_OPT_INT, offsetof(snella, r), "8", 2, 65536, NULL, "N",
     "coordinates of a row: half for each distance; even"},
    {"variant", LC_OPT_CHOICE, offsetof(snella, variant), "snella", 0, 0, "klora|mixk|snell|snella", NULL,
     "with a softmax (mixk, snella), keeping the largest entries (snell, snella), shared over layers "
     "(snella)"},
    {"rule", LC_OPT_CHOICE, offsetof(snella, rule), "code", 0, 0, "code|paper", NULL,
     "a kept entry is V·|V|, or V·(|V| - tau)"},
    {"initial", LC_OPT_FLOAT, offsetof(snella, initial), "0", 0, 1, NULL, "S",
     "sparsity at first; snell: all along"},
    {"target", LC_OPT_FLOAT, offsetof(snella, target), "0.9", 0, 1, NULL, "S", "snella: sparsity in the end"},
    {"warm", LC_OPT_INT, offsetof(snella, warm), "0", 0, 1 << 30, NULL, "E",
     "snella: epochs at the first sparsity"},
    {"settle", LC_OPT_INT, offsetof(snella, settle), "0", 0, 1 << 30, NULL, "E",
     "snella: epochs at the last sparsity"},
    {"interval", LC_OPT_INT, offsetof(snella, interval), "0", 0, 1 << 30, NULL, "N",
     "updates that count as an epoch; 0: one pass over the data"},
    {"score-beta1", LC_OPT_FLOAT, offsetof(snella, beta1), "0.85", 0, 1, NULL, "B",
     "memory of the sensitivity"},
    {"score-beta2", LC_OPT_FLOAT, offsetof(snella, beta2), "0.85", 0, 1, NULL, "B",
     "memory of its uncertainty"},
    {"ema", LC_OPT_FLOAT, offsetof(snella, ema), "0", 0, 1, NULL, "D", "average of the values; 0: none"},
    {"layout", LC_OPT_CHOICE, offsetof(snella, layout), "kernel", 0, 0, "kernel|sparse", NULL,
     "the result's files: A, B and the threshold, or the kept entries"},
    {0},
};

static bool allocates(const snella *s) {
  return s->variant == LC_KERNEL_SNELLA;
}

static lc_status refresh(const snella *s, lc_training *t) {
  for (int i = 0; i < t->adapter->n; i++)
    LC_TRY(lc_delta_kernel_refresh(t->ctx, t->adapter->delta[i], (double)s->sparsity[i]));
  return LC_OK;
}

static lc_status columns(const snella *s, lc_training *t, lc_delta *d) {
  float *e;
  for (int k = 0; k < 2 && allocates(s); k++) {
    LC_TRY(lc_param_column(t->ctx, d->param[k], "importance", LC_AXIS_ENTRY, 0, NULL));
    LC_TRY(lc_param_column(t->ctx, d->param[k], "uncertainty", LC_AXIS_ENTRY, 0, NULL));
  }
  for (int k = 0; k < 3 && s->ema > 0; k++) {
    LC_TRY(lc_param_column(t->ctx, d->param[k], "ema", LC_AXIS_ENTRY, 0, &e));
    memcpy(e, d->param[k]->value, (size_t)d->param[k]->n * sizeof *e);
  }
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  snella *s = selfp;
  lc_target_set set = {0};
  lc_status st = LC_OK;
  const lc_kernel_opts o = {s->r, t->opts.seed, s->variant, s->rule};
  if (s->r % 2)
    return lc_usage(t->ctx, "snella: r is %lld: it must be even, half for each distance", (long long)s->r);
  LC_GO(lc_target_set_open(t, &set));
  s->epoch_updates = s->interval ? s->interval
                     : t->data   ? lc_ceil_div(lc_data_rows(t->data), t->opts.batch)
                                 : t->planned;
  s->sparsity = lc_alloc_n(t->ctx, LC_MEM_TRAINABLE, (size_t)set.n, sizeof *s->sparsity);
  s->score = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *s->score);
  s->cap = lc_alloc_n(t->ctx, LC_MEM_OTHER, 2 * (size_t)set.n, sizeof *s->cap);
  if (!s->sparsity || !s->score || !s->cap) LC_GO(LC_FAILED);
  s->kept = s->cap + set.n;
  for (int l = 0; l < set.n; l++) {
    lc_delta *d;
    LC_GO(lc_delta_kernel_new(t->ctx, set.w[l], &o, true, &d));
    LC_GO(lc_attach_delta(t, set.w[l], d, &d));
    LC_GO(columns(s, t, d));
    s->cap[l] = set.w[l]->M * set.w[l]->N;
    s->sparsity[l] = s->variant == LC_KERNEL_KLORA || s->variant == LC_KERNEL_MIXK ? 0 : (float)s->initial;
    s->values += d->ops->nonzeros(d);
  }
  LC_GO(refresh(s, t));
done:
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* b(e): entries kept in epoch e of E. */
static int64_t budget(const snella *s, int64_t all, int64_t e, int64_t E) {
  const double b0 = (1 - s->initial) * (double)all, bT = (1 - s->target) * (double)all,
               span = (double)(E - s->settle - s->warm);
  if (e < s->warm) return (int64_t)llround(b0);
  if (e >= E - s->settle || span <= 0) return (int64_t)llround(bT);
  return (int64_t)llround(bT + (b0 - bT) * pow(1 - (double)(e - s->warm) / span, 3));
}

static double mean_of_scores(const lc_param *p) {
  const float *I = lc_param_find(p, "importance"), *U = lc_param_find(p, "uncertainty");
  double sum = 0;
  for (int64_t k = 0; k < p->n; k++) sum += (double)I[k] * (double)U[k];
  return sum / (double)p->n;
}

static lc_status allocate(snella *s, lc_training *t, int64_t epoch, int64_t epochs) {
  int64_t all = 0;
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_delta *d = t->adapter->delta[i];
    all += s->cap[i];
    s->score[i] = mean_of_scores(d->param[0]) + mean_of_scores(d->param[1]);
  }
  LC_TRY(lc_allocate(t->ctx, budget(s, all, epoch, epochs), s->score, s->cap, t->adapter->n, s->kept));
  for (int i = 0; i < t->adapter->n; i++)
    s->sparsity[i] = (float)(1 - (double)s->kept[i] / (double)s->cap[i]);
  return LC_OK;
}

static lc_status before_step(void *selfp, lc_training *t) {
  snella *s = selfp;
  const int64_t per = s->epoch_updates;
  if (!allocates(s) || t->step == 0 || t->step % per) return LC_OK;
  lc_mem_keep(t->ctx, true); /* the allocator's small table is taken again each time */
  lc_status st = allocate(s, t, t->step / per, lc_ceil_div(t->planned, per));
  lc_mem_keep(t->ctx, false);
  return st ? st : refresh(s, t);
}

static void follow(const snella *s, lc_param *p) {
  float *I = lc_param_find(p, "importance"), *U = lc_param_find(p, "uncertainty"),
        *e = lc_param_find(p, "ema");
  for (int64_t k = 0; k < p->n && I; k++) {
    float now = fabsf(p->value[k] * p->grad[k]);
    if (!(now >= 0)) now = 0;
    I[k] = (float)(s->beta1 * (double)I[k] + (1 - s->beta1) * (double)now);
    U[k] = (float)(s->beta2 * (double)U[k] + (1 - s->beta2) * fabs((double)now - (double)I[k]));
  }
  for (int64_t k = 0; k < p->n && e; k++)
    e[k] = (float)(s->ema * (double)e[k] + (1 - s->ema) * (double)p->value[k]);
}

static lc_status after_step(void *selfp, lc_training *t) {
  const snella *s = selfp;
  for (int i = 0; i < t->adapter->n; i++)
    for (int k = 0; k < 3; k++) follow(s, t->adapter->delta[i]->param[k]);
  return refresh(s, t);
}

static lc_status finish(void *selfp, lc_training *t) {
  const snella *s = selfp;
  for (int i = 0; i < t->adapter->n && s->ema > 0; i++)
    for (int k = 0; k < 3; k++) {
      lc_param *p = t->adapter->delta[i]->param[k];
      memcpy(p->value, lc_param_find(p, "ema"), (size_t)p->n * sizeof *p->value);
    }
  return s->ema > 0 ? refresh(s, t) : LC_OK;
}

static lc_status visit(void *selfp, lc_visitor *v) {
  snella *s = selfp;
  int64_t n = s->kept - s->cap;
  return v->array(v, "snella.sparsity", LC_F32, n, s->sparsity);
}

static lc_status loaded(void *selfp, lc_training *t) {
  const snella *s = selfp;
  for (int i = 0; i < t->adapter->n; i++)
    if (!(s->sparsity[i] >= 0 && s->sparsity[i] <= 1))
      return lc_fail(t->ctx, "snella: the sparsity of '%s' is %g", t->adapter->delta[i]->w->name,
                     (double)s->sparsity[i]);
  return LC_OK;
}

static lc_status save(void *selfp, lc_training *t, const char *dir) {
  const snella *s = selfp;
  return s->layout == LAYOUT_SPARSE
             ? lc_attach_save_as(t, LC_LAYOUT_NATIVE, lc_delta_kernel_sparse, dir, NULL)
             : lc_attach_save(t, LC_LAYOUT_MODULES, NULL, dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const snella *s = selfp;
  json_t *rows = json_array();
  double kept = 0, all = 0;
  for (int i = 0; i < t->adapter->n; i++) {
    kept += (1 - (double)s->sparsity[i]) * (double)s->cap[i];
    all += (double)s->cap[i];
    json_array_append_new(rows, json_pack("{s:s, s:f}", "weight", t->adapter->delta[i]->w->module, "sparsity",
                                          (double)s->sparsity[i]));
  }
  json_object_set_new(to, "trainable", json_integer(s->values));
  json_object_set_new(to, "sparsity", json_real(1 - kept / all));
  json_object_set_new(to, "sparsities", rows);
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  snella *s = selfp;
  lc_free(ctx, s->sparsity);
  lc_free(ctx, s->score);
  lc_free(ctx, s->cap);
}

const lc_method lc_method_snella = {
    .name = "snella",
    .title = "SNELLA: a computed change of high rank that keeps its largest entries",
    .source = "arXiv 2510.24037; SNELL: 2411.01800",
    .about = "Distances between rows of two thin matrices give each entry of the change; the largest are "
             "kept, and layers "
             "share a shrinking budget. Kept entries are squared, as in the authors' code; rule=paper "
             "subtracts the "
             "threshold. The quantile is exact on layers of any size. Dropout and stochastic depth of the "
             "branch are not "
             "built. It saves memory of training, not time.",
    .options = options,
    .self_size = sizeof(snella),
    .lr = 1e-3,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .before_step = before_step,
    .after_step = after_step,
    .finish = finish,
    .visit = visit,
    .loaded = loaded,
    .save = save,
    .report = report,
    .release = release,
};
