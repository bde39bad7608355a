/* allora: LoRA without scale and dropout, whose rows learn faster while they are near zero.
 *
 * Source: Huang & Balestriero, "ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws", 2024, arXiv 2410.09692.
 * No code of the authors is known; what the text leaves open is an option here.
 *
 *   y = W·x + b + B·(A·x)                     W (M,N), A (R,N) uniform in ±1/√N, B (M,R) = 0: step 0 is the base
 *   c_i = (‖·‖ + η^(−1/p))^(−p)               p = power, ½ by default: 1/√(‖(BA)_i‖ + 1/η²); η at the start, less later
 *     ‖·‖  row_ba ‖(BA)_i‖ = √(B_i·S·B_iᵀ), S = A·Aᵀ;  row_b ‖B_i‖;  matrix ‖BA‖_F;
 *          depends=output: |(B·A·x_t)_i|, a coefficient for each token and row
 *   place=grad   dB = diag(c)·dW·Aᵀ,  dA = Bᵀ·diag(c)·dW; dx follows the true gradient
 *   place=lr     row i of B has the rate lr·c_i, A the rate lr·mean(c); gradients as LoRA's
 *
 * c is made once an update from the values before it, so it does not depend on micro-batches; clipping comes after it.
 * AdamW divides a row's gradient by its own size, so a c that hardly changes cancels in B under place=grad: under
 * AdamW place=lr is what has the effect.
 *
 * Memory: LoRA's and 4 B·M a target. FLOPs: 2R²(N + M) an update and 2RM a token more than LoRA's. */
#include <jansson.h>
#include <math.h>
#include "kernels/kernels.h"
#include "method/methods.h"
#include "train/attach.h"

typedef struct {
  int64_t r;
  double eta, alpha, dropout;
  int norm, power, depends, place;
  lc_training *t;
  float *memory, **c;             /* c[i]: M coefficients of delta i */
  double smallest, mean, largest; /* of the last update */
  int64_t values;
} allora;
enum { NORM_ROW_BA, NORM_ROW_B, NORM_MATRIX };
enum { POWER_HALF, POWER_ONE };
enum { DEPENDS_WEIGHT, DEPENDS_OUTPUT };
enum { PLACE_GRAD, PLACE_LR };

static const lc_option options[] = {
    {"r", LC_OPT_INT, offsetof(allora, r), "8", 1, 65536, NULL, "N", "rank of the change of each target"},
    {"eta", LC_OPT_FLOAT, offsetof(allora, eta), "8", 0, 1e6, NULL, "H",
     "largest coefficient: that of a row at zero"},
    {"norm", LC_OPT_CHOICE, offsetof(allora, norm), "row_ba", 0, 0, "row_ba|row_b|matrix", NULL,
     "what is near zero: a row of B·A, a row of B, or all of B·A"},
    {"power", LC_OPT_CHOICE, offsetof(allora, power), "0.5", 0, 0, "0.5|1", NULL,
     "c = 1/sqrt(norm + 1/eta^2), or 1/(norm + 1/eta)"},
    {"depends", LC_OPT_CHOICE, offsetof(allora, depends), "weight", 0, 0, "weight|output", NULL,
     "coefficients from the weights, or from each token's output"},
    {"place", LC_OPT_CHOICE, offsetof(allora, place), "grad", 0, 0, "grad|lr", NULL,
     "multiplies the gradient, or the learning rate"},
    {"alpha", LC_OPT_FLOAT, offsetof(allora, alpha), "0", 0, 1e6, NULL, "A",
     "not there: ALLoRA has no scale; 0 or r"},
    {"dropout", LC_OPT_FLOAT, offsetof(allora, dropout), "0", 0, 1, NULL, "P",
     "not there: ALLoRA has no dropout; 0"},
    {0},
};

static double coefficient(const allora *s, double norm) {
  return s->power == POWER_ONE ? 1 / (norm + 1 / s->eta) : 1 / sqrt(norm + 1 / (s->eta * s->eta));
}

/* z becomes c(|z|): depends=output. */
static void of_output(const void *self, int64_t n, float *z) {
  for (int64_t i = 0; i < n; i++) z[i] = (float)coefficient(self, fabs((double)z[i]));
}

/* c of one target: S = A·Aᵀ (R,R), then M quadratic forms; B·A is never made. */
static lc_status coefficients(void *arg, int64_t i, int worker) {
  const allora *s = arg;
  const lc_delta *d = s->t->adapter->delta[i];
  const int64_t M = d->w->M, N = d->w->N, R = s->r;
  const float *A = d->param[0]->value, *B = d->param[1]->value;
  float *S = lc_scratch(s->t->ctx, worker, 2, (size_t)(R * R) * sizeof *S), *c = s->c[i];
  double all = 0;
  if (!S) return LC_FAILED;
  lc_gemm_shape g = {.m = R,
                     .n = R,
                     .k = N,
                     .lda = N,
                     .ldb = N,
                     .ldc = R,
                     .trans_b = true,
                     .dtype = LC_F32,
                     .c_dtype = LC_F32};
  LC_TRY(lc_gemm(s->t->ctx, worker, &g, A, A, S));
  for (int64_t m = 0; m < M; m++) {
    const float *b = B + m * R;
    double sum = 0;
    for (int64_t p = 0; p < R; p++) {
      double row = 0;
      if (s->norm == NORM_ROW_B)
        row = (double)b[p];
      else
        for (int64_t q = 0; q < R; q++) row += (double)S[p * R + q] * (double)b[q];
      sum += (double)b[p] * row;
    }
    all += sum = fmax(sum, 0);
    c[m] = (float)coefficient(s, sqrt(sum));
  }
  for (int64_t m = 0; m < M && s->norm == NORM_MATRIX; m++) c[m] = (float)coefficient(s, sqrt(all));
  return LC_OK;
}

static lc_status before_step(void *selfp, lc_training *t) {
  allora *s = selfp;
  double sum = 0;
  int64_t n = 0;
  if (s->depends == DEPENDS_OUTPUT) return LC_OK;
  LC_TRY(lc_parallel(t->ctx, t->adapter->n, coefficients, s));
  s->smallest = INFINITY;
  s->largest = 0;
  for (int i = 0; i < t->adapter->n; i++) {
    const lc_delta *d = t->adapter->delta[i];
    double one = 0;
    for (int64_t m = 0; m < d->w->M; m++) {
      one += (double)s->c[i][m];
      s->smallest = fmin(s->smallest, (double)s->c[i][m]);
      s->largest = fmax(s->largest, (double)s->c[i][m]);
    }
    if (s->place == PLACE_LR) d->param[0]->lr_factor = (float)(one / (double)d->w->M);
    sum += one;
    n += d->w->M;
  }
  s->mean = sum / (double)n;
  return LC_OK;
}

static lc_status check(const allora *s, lc_training *t) {
  if (!(s->eta > 0)) return lc_usage(t->ctx, "allora: eta is %g: it must be above 0", s->eta);
  if (s->dropout != 0)
    return lc_usage(t->ctx, "allora: dropout is %g, but ALLoRA has none (method lora has)", s->dropout);
  if (s->alpha != 0 && s->alpha != (double)s->r)
    return lc_usage(
        t->ctx, "allora: alpha is %g and r %lld, but ALLoRA has no scale: alpha is r (method lora has one)",
        s->alpha, (long long)s->r);
  if (s->depends == DEPENDS_OUTPUT && s->place == PLACE_LR)
    return lc_usage(t->ctx,
                    "allora: depends=output has a coefficient for each token: it goes with place=grad only");
  if (t->opts.clip > 0 && s->place == PLACE_GRAD)
    lc_log(t->ctx, LC_LOG_INFO, "allora: gradients are clipped at norm %g after the coefficients are applied",
           t->opts.clip);
  return LC_OK;
}

/* Where c of delta i lives, and who reads it. */
static lc_status connect(allora *s, lc_training *t, lc_delta *d, float *own, float **c) {
  *c = own;
  if (s->place == PLACE_LR) return lc_param_column(t->ctx, d->param[1], LC_RATE, LC_AXIS_ROW, 1, c);
  lc_delta_lora_gain(d, s->depends == DEPENDS_OUTPUT ? (lc_gain){.output = of_output, .self = s}
                                                     : (lc_gain){.row = own});
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  allora *s = selfp;
  lc_status st = LC_OK;
  lc_target_set set = {0};
  const lc_lora_opts o = {.rank = s->r, .alpha = (float)s->r, .seed = (uint64_t)t->opts.seed};
  const bool own = s->place == PLACE_GRAD && s->depends == DEPENDS_WEIGHT;
  int64_t rows = 0;
  LC_TRY(check(s, t));
  LC_GO(lc_target_set_open(t, &set));
  for (int l = 0; l < set.n; l++) rows += set.w[l]->M;
  s->t = t;
  s->memory = lc_alloc_n(t->ctx, LC_MEM_TRAINABLE, own ? (size_t)rows : 0, sizeof *s->memory);
  s->c = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)set.n, sizeof *s->c);
  if (!s->memory || !s->c) LC_GO(LC_FAILED);
  for (int64_t l = 0, at = 0; l < set.n; at += set.w[l++]->M) {
    lc_delta *d;
    LC_GO(lc_attach_lora(t, set.w[l], &o, NULL, &d));
    LC_GO(connect(s, t, d, own ? s->memory + at : NULL, &s->c[l]));
    s->values += s->r * (set.w[l]->M + set.w[l]->N);
  }
done:
  lc_target_set_free(t->ctx, &set);
  return st;
}

static lc_status save(void *self, lc_training *t, const char *dir) {
  return lc_attach_save(t, LC_LAYOUT_PEFT_LORA, NULL, dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const allora *s = selfp;
  json_object_set_new(to, "rank", json_integer(s->r));
  json_object_set_new(to, "trainable", json_integer(s->values));
  if (s->depends == DEPENDS_OUTPUT || s->largest == 0) return LC_OK;
  json_object_set_new(to, "coefficient_min", json_real(s->smallest));
  json_object_set_new(to, "coefficient_mean", json_real(s->mean));
  json_object_set_new(to, "coefficient_max", json_real(s->largest));
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  allora *s = selfp;
  for (int i = 0; s->t && s->t->adapter && i < s->t->adapter->n; i++)
    lc_delta_lora_gain(s->t->adapter->delta[i], (lc_gain){0}); /* the net outlives the run */
  lc_free(ctx, s->memory);
  lc_free(ctx, s->c);
}

const lc_method lc_method_allora = {
    .name = "allora",
    .title = "ALLoRA: LoRA whose rows learn faster near zero",
    .source = "arXiv 2410.09692",
    .about = "LoRA without dropout and without a scale; each row of a target's change has a coefficient that "
             "falls as the "
             "row grows, on its gradient or on its rate. The file is a plain LoRA. The authors' code is not "
             "known: the norm, "
             "the power and the place are options. Under AdamW place=grad changes little: B's coefficient "
             "cancels.",
    .options = options,
    .self_size = sizeof(allora),
    .lr = 2e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .before_step = before_step,
    .save = save,
    .report = report,
    .release = release,
};
