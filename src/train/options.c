/* What every run has, as a table: flags, recipe keys, help and the resume check walk it. Defaults are
 * CONVENTIONS'; a value of 0 or none where the help says "by rule" is filled in by lc_train_resolve, from the
 * model and the method alone (never from free memory: the same command means the same run on every machine).
 */
#include "train/train.h"
#include "kernels/kernels.h"
#include <string.h>

#define AT(field) offsetof(lc_train_opts, field)
const lc_option lc_train_options[] = {
    {"task", LC_OPT_CHOICE, AT(task), "lm", 0, 0, "lm|classification|token-classification", NULL,
     "next tokens; a label for a row; a label for each word"},
    {"head", LC_OPT_CHOICE, AT(head), "auto", 0, 0, "auto|new|frozen", NULL,
     "of a task with labels: the model's own where it has one, else new; always new; the model's own, not "
     "trained"},
    {"steps", LC_OPT_INT, AT(steps), "0", 0, 1e12, NULL, "N", "updates; 0: as the epochs give"},
    {"epochs", LC_OPT_FLOAT, AT(epochs), "1", 0, 1e6, NULL, "E", "passes over the data, when steps is 0"},
    {"stop-after", LC_OPT_INT, AT(stop_after), "0", 0, 1e12, NULL, "N",
     "end after so many updates of a schedule planned for more; 0: no"},
    {"batch", LC_OPT_INT, AT(batch), "8", 1, 1 << 20, NULL, "N", "sequences an update"},
    {"micro-batch", LC_OPT_INT, AT(micro_batch), "0", 0, 1 << 20, NULL, "N",
     "sequences at once; 0, by rule: as many as give at most 2048 tokens"},
    {"seq", LC_OPT_INT, AT(seq), "0", 0, 1 << 24, NULL, "T",
     "tokens a row; 0, by rule: min(1024, the model's)"},
    {"lr", LC_OPT_FLOAT, AT(lr), "0", 0, 1e6, NULL, "R", "learning rate; 0, by rule: the method's"},
    {"schedule", LC_OPT_CHOICE, AT(schedule), "linear", 0, 0, "linear|cosine|constant", NULL,
     "of the learning rate"},
    {"warmup", LC_OPT_FLOAT, AT(warmup), "0.03", 0, 1e9, NULL, "W",
     "1 or more: updates; below: a share of them"},
    {"optimizer", LC_OPT_STRING, AT(optimizer), NULL, 0, 0, NULL, "NAME",
     "adamw, sgd or sm3; by rule: the method's"},
    {"weight-decay", LC_OPT_FLOAT, AT(weight_decay), "0", 0, 1e6, NULL, "D", "decoupled weight decay"},
    {"beta1", LC_OPT_FLOAT, AT(beta1), "0.9", 0, 1, NULL, "B", "AdamW: decay of the mean"},
    {"beta2", LC_OPT_FLOAT, AT(beta2), "0", 0, 1, NULL, "B",
     "AdamW: decay of the squares; 0, by rule: 0.999, or the method's"},
    {"eps", LC_OPT_FLOAT, AT(eps), "0", 0, 1, NULL, "E",
     "of the optimiser; 0, by rule: 1e-8, or the method's"},
    {"momentum", LC_OPT_FLOAT, AT(momentum), "0", 0, 1, NULL, "B", "of SGD and SM3"},
    {"clip", LC_OPT_FLOAT, AT(clip), "1", 0, 1e30, NULL, "C", "largest norm of the gradient; 0: no limit"},
    {"density", LC_OPT_FLOAT, AT(density), "0.01", 0, 1, NULL, "D", "share of the target matrices' entries"},
    {"targets", LC_OPT_STRING, AT(targets), "all-linear", 0, 0, NULL, "RULE",
     "all-linear, name suffixes (q_proj,v_proj), or re:EXPRESSION"},
    {"dtype", LC_OPT_STRING, AT(dtype), "auto", 0, 0, NULL, "T", "compute in auto, f32 or bf16"},
    {"seed", LC_OPT_INT, AT(seed), "42", 0, 9e18, NULL, "N", "of everything random"},
    {"shuffle", LC_OPT_BOOL, AT(shuffle), "true", 0, 0, NULL, NULL,
     "rows in a new order each epoch, or as they stand"},
    {"recompute", LC_OPT_BOOL, AT(recompute), "false", 0, 0, NULL, NULL,
     "compute blocks again in the backward pass: less memory, the same bits"},
    {"skip-bad", LC_OPT_BOOL, AT(skip_bad), "false", 0, 0, NULL, NULL, "count malformed rows and go on"},
    {"eval-data", LC_OPT_STRING, AT(eval_data), NULL, 0, 0, NULL, "FILE", "held-out rows"},
    {"eval-every", LC_OPT_INT, AT(eval_every), "0", 0, 1e12, NULL, "N",
     "updates between evaluations; 0: first and last"},
    {"eval-limit", LC_OPT_INT, AT(eval_limit), "0", 0, 1e12, NULL, "N", "rows an evaluation; 0: all"},
    {"save-every", LC_OPT_INT, AT(save_every), "0", 0, 1e12, NULL, "N",
     "updates between checkpoints; 0: at the end"},
    {"keep", LC_OPT_INT, AT(keep), "2", 0, 1e6, NULL, "N", "checkpoints kept; the best is kept beside them"},
    {"base-name", LC_OPT_STRING, AT(base_name), NULL, 0, 0, NULL, "NAME",
     "the base's name in the adapter; else its path"},
    {"sample-prompt", LC_OPT_STRING, AT(sample_prompt), NULL, 0, 0, NULL, "TEXT",
     "continue this text before and after training"},
    {"sample-tokens", LC_OPT_INT, AT(sample_tokens), "64", 1, 1 << 20, NULL, "N", "tokens of a sample"},
    {0}};

const lc_method *lc_method_find(const char *name) {
  for (int i = 0; i < lc_n_methods; i++)
    if (strcmp(lc_methods[i]->name, name) == 0) return lc_methods[i];
  return NULL;
}

const char *lc_method_nearest(const char *name) {
  const char *names[64];
  int n = 0;
  for (; n < lc_n_methods && n < 64; n++) names[n] = lc_methods[n]->name;
  return lc_nearest(name, names, n);
}

lc_task lc_train_task_of(const lc_train_opts *o) {
  static const lc_task of[] = {LC_TASK_LM, LC_TASK_CLASSIFY, LC_TASK_TOKENS};
  return of[o->task];
}

/* The network must have been opened for the run's task. */
static lc_status check_task(lc_ctx *ctx, const lc_config *c, const lc_train_opts *o) {
  const lc_task task = lc_train_task_of(o);
  if (c->task == task) return LC_OK;
  if (task == LC_TASK_LM && lc_task_has_labels(c->task))
    return lc_usage(ctx, "train: a %s has labels: --task %s", lc_architecture(c), lc_task_name(c->task));
  if (task == LC_TASK_LM)
    return lc_usage(
        ctx,
        "train: a %s predicts no next token: --task classification or token-classification gives it a head",
        lc_architecture(c));
  return lc_usage(ctx, "train: the model was opened as a %s, --task is %s", lc_architecture(c),
                  lc_task_name(task));
}

static lc_status resolve_dtype(lc_ctx *ctx, lc_train_opts *o) {
  const char *t = o->dtype;
  if (!t || strcmp(t, "auto") == 0) t = lc_has_bf16_gemm(ctx) ? "bf16" : "f32";
  lc_dtype d = lc_dtype_by_name(t);
  if (d != LC_F32 && d != LC_BF16)
    return lc_usage(ctx, "train: dtype is '%s', expected auto, f32 or bf16", t);
  return lc_options_set(ctx, lc_train_options, "train", o, "dtype", lc_dtype_get(d)->name);
}

static lc_status resolve_optimizer(lc_ctx *ctx, const lc_method *m, lc_train_opts *o) {
  if (!o->optimizer) LC_TRY(lc_options_set(ctx, lc_train_options, "train", o, "optimizer", m->optimizer));
  if (lc_optim_find(o->optimizer)) return LC_OK;
  const char *names[16], *near;
  int n = 0;
  for (; n < lc_n_optims && n < 16; n++) names[n] = lc_optims[n]->name;
  near = lc_nearest(o->optimizer, names, n);
  return lc_usage(ctx, "train: there is no optimizer '%s'%s%s%s", o->optimizer,
                  near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

lc_status lc_train_resolve(lc_ctx *ctx, const lc_config *c, const lc_method *m, void *self,
                           lc_train_opts *o) {
  LC_TRY(check_task(ctx, c, o));
  if (o->head != LC_HEAD_AUTO && !lc_task_has_labels(c->task))
    return lc_usage(ctx, "train: --head is of a --task with labels");
  if (m->defaults) LC_TRY(m->defaults(self, ctx, o));
  if (c->image && o->seq && o->seq != c->context)
    return lc_usage(ctx, "train: seq is %lld: a picture has %lld rows, all of which the network sees",
                    (long long)o->seq, (long long)c->context);
  if (o->seq == 0) o->seq = c->image ? c->context : lc_min64(1024, c->context);
  if (o->seq < 2)
    return lc_usage(ctx, "train: seq is %lld, a row needs at least 2 tokens", (long long)o->seq);
  if (o->seq > c->context)
    return lc_usage(ctx, "train: seq is %lld, the model has %lld positions", (long long)o->seq,
                    (long long)c->context);
  if (o->micro_batch == 0) o->micro_batch = lc_max64(1, 2048 / o->seq);
  o->micro_batch = lc_min64(o->micro_batch, o->batch);
  if (o->lr == 0) o->lr = m->lr;
  if (o->beta2 == 0) o->beta2 = 0.999;
  if (o->steps == 0 && o->epochs <= 0) return lc_usage(ctx, "train: neither steps nor epochs is above 0");
  if (o->beta1 >= 1 || o->beta2 >= 1) return lc_usage(ctx, "train: beta1 and beta2 must be below 1");
  LC_TRY(resolve_optimizer(ctx, m, o));
  return resolve_dtype(ctx, o);
}
