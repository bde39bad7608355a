/* delta_lora: W + s·B·A, two thin f32 matrices beside a frozen weight (Hu et al. 2022, arXiv 2106.09685).
 *
 * A (R,N), B (M,R); s = α/R, or α/√R (rank-stabilised, Kalajdzievski 2023, arXiv 2312.03732). At use the
 * layer emits the op low_rank: y + s·B·(A·x). For merging and in place, patch gives any tile of s·B·A in f32.
 * New: A uniform in ±1/√N (what Kaiming-uniform with a = √5 comes to), keyed by (seed, weight), and B zero,
 * so that the layer starts as the base. */
#include <math.h>
#include <string.h>
#include "kernels/kernels.h"
#include "nn/low_rank.h"

typedef struct {
  lc_lora_opts o; /* first: lc_delta_lora_opts */
  lc_gain gain;
  struct lora_text {
    int64_t rank;
    double alpha, dropout;
    bool rslora;
  } text; /* the same as adapter files have it */
} lora_state;

void lc_delta_lora_gain(lc_delta *d, lc_gain g) {
  ((lora_state *)d->priv)->gain = g;
}

const lc_gain *lc_delta_lora_gain_of(const lc_delta *d) {
  return &((const lora_state *)d->priv)->gain;
}

float lc_delta_lora_scale(const lc_delta *d) {
  const lc_lora_opts *o = d->priv;
  return o->alpha / (o->rslora ? sqrtf((float)o->rank) : (float)o->rank);
}

const lc_lora_opts *lc_delta_lora_opts(const lc_delta *d) {
  return d->priv;
}

static lc_status lora_emit(lc_delta *d, lc_builder *b, lc_val x, lc_val y, lc_val *out) {
  lc_low_rank_attr a = {.delta = d};
  lc_val in[2] = {y, x};
  return lc_emit(b->g, &lc_op_low_rank, &a, sizeof a, in, 2, out);
}

/* tile += s·B[r0:r1,:]·A[:,c0:c1] */
static lc_status lora_patch(lc_ctx *ctx, const lc_delta *d, lc_rect at, float *tile, int64_t ld) {
  const lc_lora_opts *o = d->priv;
  const int64_t R = o->rank;
  const float s = d->scale * lc_delta_lora_scale(d);
  if (s == 0) return LC_OK;
  lc_kernels_get(ctx)->add_low_rank(at.r1 - at.r0, at.c1 - at.c0, R, s, d->param[1]->value + at.r0 * R, R,
                                    d->param[0]->value + at.c0, d->w->N, tile, ld);
  return LC_OK;
}

static lc_status lora_visit(lc_delta *d, lc_visitor *v) {
  LC_TRY(lc_param_visit(d->param[0], v));
  return lc_param_visit(d->param[1], v);
}

static int64_t lora_nonzeros(const lc_delta *d) {
  return d->param[0]->n + d->param[1]->n;
}

const lc_delta_ops lc_delta_lora = {
    .name = "lora",
    .mergeable = true,
    .emit = lora_emit,
    .patch = lora_patch,
    .visit = lora_visit,
    .nonzeros = lora_nonzeros,
    .free = lc_delta_free,
};

static lc_status check(lc_ctx *ctx, const lc_weight *w, const lc_lora_opts *o) {
  if (w->kind != LC_KIND_LINEAR)
    return lc_fail(ctx, "weight '%s' is not a linear layer's: LoRA works beside linear layers only", w->name);
  if (o->rank < 1)
    return lc_fail(ctx, "weight '%s': a LoRA of rank %lld (at least 1 is needed)", w->name,
                   (long long)o->rank);
  if (o->rank > INT32_MAX)
    return lc_fail(ctx, "weight '%s': a LoRA of rank %lld is too large", w->name, (long long)o->rank);
  if (!(o->dropout >= 0 && o->dropout < 1))
    return lc_fail(ctx, "weight '%s': dropout %g is not in [0, 1)", w->name, (double)o->dropout);
  if (!isfinite(o->alpha)) return lc_fail(ctx, "weight '%s': alpha is not a number", w->name);
  return LC_OK;
}

lc_status lc_delta_lora_new(lc_ctx *ctx, lc_weight *w, const lc_lora_opts *o, const float *A, const float *B,
                            bool trainable, lc_delta **out) {
  lc_status st = LC_OK;
  *out = NULL;
  LC_TRY(check(ctx, w, o));
  lc_delta *d = lc_alloc(ctx, LC_MEM_OTHER, sizeof *d);
  if (!d) return LC_FAILED;
  *d = (lc_delta){.ops = &lc_delta_lora,
                  .w = w,
                  .scale = 1,
                  .apply = LC_PATCH,
                  .priv = lc_alloc(ctx, LC_MEM_OTHER, sizeof(lora_state))};
  if (!d->priv) LC_GO(LC_FAILED);
  *(lora_state *)d->priv =
      (lora_state){.o = *o, .text = {o->rank, (double)o->alpha, (double)o->dropout, o->rslora}};
  LC_GO(lc_delta_param(ctx, d, "lora_A", o->rank, w->N, trainable));
  LC_GO(lc_delta_param(ctx, d, "lora_B", w->M, o->rank, trainable));
  if (A) {
    memcpy(d->param[0]->value, A, (size_t)d->param[0]->n * sizeof *A);
  } else {
    const lc_rng rng = {.seed = o->seed, .tensor = w->id, .purpose = LC_RNG_INIT};
    const float bound = 1 / sqrtf((float)w->N);
    lc_rng_uniform_fill(&rng, 0, d->param[0]->n, d->param[0]->value);
    for (int64_t k = 0; k < d->param[0]->n; k++)
      d->param[0]->value[k] = (2 * d->param[0]->value[k] - 1) * bound;
  }
  if (B) memcpy(d->param[1]->value, B, (size_t)d->param[1]->n * sizeof *B);
  *out = d;
  d = NULL;
done:
  lc_delta_free(ctx, d);
  return st;
}

/* ---- as adapter files keep it ---- */

typedef struct lora_text lora_text;
static const lc_option text_options[] = {
    {"rank", LC_OPT_INT, offsetof(lora_text, rank), "1", 1, INT32_MAX, NULL, "N", "rank"},
    {"alpha", LC_OPT_FLOAT, offsetof(lora_text, alpha), "1", 0, 1e9, NULL, "A", "scale times the rank"},
    {"dropout", LC_OPT_FLOAT, offsetof(lora_text, dropout), "0", 0, 0.99, NULL, "P",
     "of the input, in training"},
    {"rslora", LC_OPT_BOOL, offsetof(lora_text, rslora), "false", 0, 0, NULL, NULL, "scale alpha/sqrt(rank)"},
    {0},
};

static const void *text_of(const lc_delta *d) {
  return &((const lora_state *)d->priv)->text;
}

static lc_status make(lc_ctx *ctx, lc_weight *w, const void *options, lc_delta *const *made, int n_made,
                      bool trainable, lc_delta **out) {
  const lora_text *t = options;
  const lc_lora_opts o = {t->rank, (float)t->alpha, t->rslora, (float)t->dropout, 0};
  return lc_delta_lora_new(ctx, w, &o, NULL, NULL, trainable, out);
}

static const char *const names[] = {"lora_A", "lora_B"};
extern const lc_delta_kind lc_kind_lora;
const lc_delta_kind lc_kind_lora = {&lc_delta_lora, text_options, sizeof(lora_text), names, text_of, make,
                                    NULL,           NULL};
