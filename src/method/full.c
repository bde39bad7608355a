/* full: every weight is trained. The baseline of all the others.
 *
 * Each weight of the model gets an f32 master copy (which the products then read), a dense gradient and the
 * optimiser's state: θ ← optimiser(θ, dL/dθ). Memory: 4 B (master) + 4 B (gradient) + 8 B (AdamW) a
 * parameter, against 20 B of a sparse entry at 1 % of them. Biases and norms do not decay. The result is a
 * model, not an adapter. */
#include <math.h>
#include <string.h>
#include "method/methods.h"

typedef struct {
  bool embeddings;
  int part;
  bool frozen; /* the task's head */
  int outtype;
} full;
enum { PART_ALL, PART_HEAD };
enum { OUT_AUTO, OUT_F32, OUT_BF16, OUT_F16 };

static const lc_option options[] = {
    {"embeddings", LC_OPT_BOOL, offsetof(full, embeddings), "true", 0, 0, NULL, NULL,
     "train the embedding and the output head too"},
    {"part", LC_OPT_CHOICE, offsetof(full, part), "all", 0, 0, "all|head", NULL,
     "head: nothing but the task's head (--task), on a network that stays as it is"},
    {"outtype", LC_OPT_CHOICE, offsetof(full, outtype), "auto", 0, 0, "auto|f32|bf16|f16", NULL,
     "type of the saved weights; auto: the base's, or bf16 when the base is quantised"},
    {0},
};

static bool wanted(const lc_weight *w, void *self) {
  if (w->head || ((const full *)self)->part == PART_HEAD) return w->head && !((const full *)self)->frozen;
  bool outer = w->kind == LC_KIND_EMBEDDING || w->kind == LC_KIND_HEAD || w->kind == LC_KIND_POSITION;
  return ((const full *)self)->embeddings || !outer;
}

static lc_status attach(void *self, lc_training *t) {
  full *f = self;
  f->frozen = t->opts.head == LC_HEAD_FROZEN;
  if (f->part == PART_HEAD && (f->frozen || !lc_task_has_labels(t->net->model->config.task)))
    return lc_usage(t->ctx, "full: part=head wants a --task with labels whose head is trained");
  return lc_net_train_whole(t->net, wanted, self);
}

static lc_dtype out_dtype(const full *f, const lc_net *net) {
  static const lc_dtype named[] = {LC_NONE, LC_F32, LC_BF16, LC_F16};
  return f->outtype != OUT_AUTO ? named[f->outtype] : lc_net_file_type(net);
}

static lc_status save(void *self, lc_training *t, const char *dir) {
  return lc_net_write_hf(t->net, dir, out_dtype(self, t->net), NULL);
}

const lc_method lc_method_full = {
    .name = "full",
    .title = "Full fine-tuning: every weight is trained",
    .source = "baseline",
    .about = "Trains f32 masters of all weights and writes a whole model. It needs 16 bytes a parameter with "
             "AdamW; the other methods need that for "
             "what they train only.",
    .options = options,
    .self_size = sizeof(full),
    .lr = 2e-5,
    .optimizer = "adamw",
    .mergeable = true,
    .attach = attach,
    .save = save,
};
