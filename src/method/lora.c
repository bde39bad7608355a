/* lora: two thin matrices beside every target weight, which stays frozen.
 *
 * Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685; the
 * scale α/√r: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv
 * 2312.03732. File layout: Hugging Face PEFT.
 *
 *   y = W·x + b + s·B·(A·drop(x))        W (M,N), A (R,N), B (M,R); s = α/R, or α/√R with rslora
 *   A ~ U(±1/√N)  (or N(0, 1/R²) with init=gaussian),  B = 0: step 0 is the base, bit for bit
 *
 * LoRA+ (Hayou, Ghosh & Yu 2024, arXiv 2402.12354): B's rate is b-rate times A's.
 *
 * Dropout sits on A's input, in training only. Memory that survives a step: 12 B·R(M+N) a target (value and
 * two moments, f32), and 4 B of gradient. FLOPs a token: 2R(M+N) forward, 4R(M+N) backward, beside the frozen
 * product's 2MN. */
#include <jansson.h>
#include <math.h>
#include "method/methods.h"
#include "train/attach.h"

typedef struct {
  int64_t r;
  double alpha, dropout, b_rate;
  bool rslora;
  int init;
  int64_t values;
  int targets;
} lora;
enum { INIT_TRUE, INIT_GAUSSIAN };

static const lc_option options[] = {
    {"r", LC_OPT_INT, offsetof(lora, r), "8", 1, 65536, NULL, "N", "rank of the change of each target"},
    {"alpha", LC_OPT_FLOAT, offsetof(lora, alpha), "16", 0, 1e6, NULL, "A",
     "scale: the product B·A counts alpha/r"},
    {"rslora", LC_OPT_BOOL, offsetof(lora, rslora), "false", 0, 0, NULL, NULL,
     "scale by alpha/sqrt(r) (rank-stabilised)"},
    {"dropout", LC_OPT_FLOAT, offsetof(lora, dropout), "0", 0, 0.99, NULL, "P", "dropout on the input of A"},
    {"b-rate", LC_OPT_FLOAT, offsetof(lora, b_rate), "1", 0, 1e6, NULL, "X",
     "LoRA+: the rate of B as a multiple of A's"},
    {"init", LC_OPT_CHOICE, offsetof(lora, init), "true", 0, 0, "true|gaussian", NULL,
     "A's start: uniform in 1/sqrt(in), or normal of deviation 1/r"},
    {0},
};

static lc_status attach_one(const lora *self, lc_training *t, lc_weight *w, float *normal) {
  const lc_lora_opts o = {self->r, (float)self->alpha, self->rslora, (float)self->dropout,
                          (uint64_t)t->opts.seed};
  lc_delta *d;
  if (normal) {
    const lc_rng rng = {.seed = o.seed, .tensor = w->id, .purpose = LC_RNG_INIT};
    lc_rng_normal_fill(&rng, 0, o.rank * w->N, normal);
    for (int64_t k = 0; k < o.rank * w->N; k++) normal[k] /= (float)o.rank;
  }
  LC_TRY(lc_attach_lora(t, w, &o, normal, &d));
  d->param[1]->lr_factor = (float)self->b_rate;
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  lora *self = selfp;
  lc_status st = LC_OK;
  lc_target_set set = {0};
  float *normal = NULL;
  int64_t widest = 0;
  LC_GO(lc_target_set_open(t, &set));
  for (int l = 0; l < set.n; l++) widest = lc_max64(widest, set.w[l]->N);
  if (self->init == INIT_GAUSSIAN &&
      !(normal = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)(self->r * widest), sizeof *normal)))
    LC_GO(LC_FAILED);
  self->targets = set.n;
  self->values = 0;
  for (int l = 0; l < set.n; l++) {
    LC_GO(attach_one(self, t, set.w[l], normal));
    self->values += self->r * (set.w[l]->M + set.w[l]->N);
  }
done:
  lc_free(t->ctx, normal);
  lc_target_set_free(t->ctx, &set);
  return st;
}

static lc_status save(void *self, lc_training *t, const char *dir) {
  return lc_attach_save(t, LC_LAYOUT_PEFT_LORA, NULL, dir);
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const lora *self = selfp;
  double s = self->alpha / (self->rslora ? sqrt((double)self->r) : (double)self->r);
  json_object_set_new(to, "rank", json_integer(self->r));
  json_object_set_new(to, "scale", json_real(s));
  json_object_set_new(to, "targets", json_integer(self->targets));
  json_object_set_new(to, "trainable", json_integer(self->values));
  return LC_OK;
}

const lc_method lc_method_lora = {
    .name = "lora",
    .title = "LoRA: low-rank change of every target",
    .source = "arXiv 2106.09685; rank-stabilised: 2312.03732",
    .about = "Trains A and B beside the frozen weights and writes PEFT's layout, which other tools read. "
             "Merging adds s·B·A in f32 and rounds once; "
             "removing it restores the base's own bits (PEFT subtracts, which does not). DoRA, biases and "
             "embeddings are not built.",
    .options = options,
    .self_size = sizeof(lora),
    .lr = 2e-4,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .save = save,
    .report = report,
};
