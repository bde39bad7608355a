/* norms: trains the weights of the norms and nothing else (after BitFit, Ben Zaken et al. 2022, arXiv
 * 2106.10199, which trains biases).
 *
 * θ ← optimiser(θ, dL/dθ) for θ in the norms; with `biases` for the biases too. Memory that survives a step:
 * 12 B a trained value (f32 master, two moments). The result is a whole model: the rest of it is the base. */
#include <jansson.h>
#include "train/train.h"

typedef struct {
  bool biases;     /* an option */
  int64_t trained; /* state: values */
} norms;

static const lc_option options[] = {
    {"biases", LC_OPT_BOOL, offsetof(norms, biases), "false", 0, 0, NULL, NULL, "train the biases too"},
    {0},
};

static bool wanted(const lc_weight *w, void *self) {
  return w->kind == LC_KIND_NORM || (w->kind == LC_KIND_BIAS && ((const norms *)self)->biases);
}

/* Once, before the training plan is made: what is trainable, and memory. */
static lc_status attach(void *selfp, lc_training *t) {
  norms *self = selfp;
  LC_TRY(lc_net_train_whole(t->net, wanted, self));
  for (int i = 0; i < t->net->n_own; i++) self->trained += t->net->own[i]->n;
  return LC_OK;
}

/* Once, after the last update: the result. */
static lc_status save(void *self, lc_training *t, const char *dir) {
  return lc_net_write_hf(t->net, dir, LC_F32, NULL);
}

/* Fields of the run's report and of its last line of JSON. */
static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const norms *self = selfp;
  json_object_set_new(to, "share_of_parameters",
                      json_real((double)self->trained / (double)lc_model_parameters(t->net->model)));
  return LC_OK;
}

const lc_method lc_method_norms = {
    .name = "norms",
    .title = "Norms: train the norms' weights only",
    .source = "after arXiv 2106.10199",
    .about =
        "Trains a few thousand values: the least that moves a model. A control for methods that train more.",
    .options = options,
    .self_size = sizeof(norms),
    .lr = 1e-3,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .save = save,
    .report = report,
};
