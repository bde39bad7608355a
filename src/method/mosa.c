/* mosa: a bottleneck adapter trained in random pieces and used whole.
 *
 * Source: Zhang, Zou, An, Liu & Zhang, "Split & Merge: Unlocking the Potential of Visual Adapters via Sparse Training"
 * (MoSA), 2023, arXiv 2312.02923. Written from the method's description.
 *
 *   adapter    out += scale·(U·drop(act(D·a + b_D)) + b_U) in each block (nn/op_bottleneck.c); U = 0: the start is the base
 *   split      each split matrix's entries, in random order, into E pieces of n/E; share: what is not split
 *   update     two draws of each batch; in draw c a block uses W_init + mask_e∘(W̃ − W_init), e drawn for (update, draw, block)
 *              loss = CE₁ + add·CE₂ + kl·½(KL(p₂‖p₁) + KL(p₁‖p₂));  W̃'s gradient is masked by the piece of each draw
 *   use        merged: W_init + (W̃ − W_init)/E (add), or W̃ (sum); in every evaluation, and in the result
 *
 * One buffer W̃ and a label an entry stand for E copies: what a copy does not own stays at its start. pieces = 1 with
 * kl = 0 is a plain adapter, trained with one draw.
 *
 * Memory that survives an update: 12 B a value, and for each split entry 4 B of its start, 1 B of label, 12 B of the two
 * draws and the merged matrix. Two draws double the rows of a pass. Does not merge into W (the activation). */
#include <jansson.h>
#include <string.h>
#include "method/methods.h"
#include "nn/bottleneck.h"
#include "train/attach.h"

typedef struct {
  int64_t width, pieces;
  int share, merge, style;
  double scale, dropout, again, kl;
  struct block {
    lc_delta *d;
    float *start[2], *draw[2][2], *merged[2]; /* [0] down, [1] up; NULL where nothing is split */
    uint8_t *label[2];
  } * block;
  int n;
  int64_t values;
  const lc_net *net;
} mosa;
enum { SHARE_NONE, SHARE_DOWN, SHARE_UP };
enum { MERGE_ADD, MERGE_SUM };

static const lc_option options[] = {
    {"width", LC_OPT_INT, offsetof(mosa, width), "64", 1, 65536, NULL, "N", "width of the bottleneck"},
    {"pieces", LC_OPT_INT, offsetof(mosa, pieces), "4", 1, 255, NULL, "E", "pieces of each split matrix"},
    {"share", LC_OPT_CHOICE, offsetof(mosa, share), "none", 0, 0, "none|down|up", NULL,
     "the matrix that is not split"},
    {"merge", LC_OPT_CHOICE, offsetof(mosa, merge), "add", 0, 0, "add|sum", NULL,
     "the pieces' changes count 1/E each, or whole"},
    {"style", LC_OPT_CHOICE, offsetof(mosa, style), "adaptformer", 0, 0, "adaptformer|pfeiffer", NULL,
     "in parallel to the FFN, or after it"},
    {"scale", LC_OPT_FLOAT, offsetof(mosa, scale), "0.1", 0, 1e6, NULL, "S", "of what the adapter adds"},
    {"dropout", LC_OPT_FLOAT, offsetof(mosa, dropout), "0.1", 0, 0.99, NULL, "P", "in the bottleneck"},
    {"add", LC_OPT_FLOAT, offsetof(mosa, again), "0", 0, 1e3, NULL, "W", "weight of the second draw's loss"},
    {"kl", LC_OPT_FLOAT, offsetof(mosa, kl), "1", 0, 1e3, NULL, "W", "weight of the draws' disagreement"},
    {0},
};

static bool splits(const mosa *m, int which) {
  return m->pieces > 1 && m->share != (which ? SHARE_UP : SHARE_DOWN);
}

/* Piece of rank r among n: e has ranks ⌊e·n/E⌋ … ⌊(e+1)·n/E⌋ − 1, in an order that is a function of (seed, weight). */
static lc_status label(const mosa *m, lc_training *t, const lc_weight *w, int which, int64_t n,
                       uint8_t *out) {
  const lc_rng rng = {
      .seed = (uint64_t)t->opts.seed, .tensor = w->id, .draw = (uint16_t)which, .purpose = LC_RNG_MASK};
  int64_t *order = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)n, sizeof *order);
  if (!order) return LC_FAILED;
  lc_rng_permutation(&rng, n, order);
  for (int64_t e = 0; e < m->pieces; e++)
    for (int64_t r = e * n / m->pieces; r < (e + 1) * n / m->pieces; r++) out[order[r]] = (uint8_t)e;
  lc_free(t->ctx, order);
  return LC_OK;
}

static lc_status split(const mosa *m, lc_training *t, struct block *b, int which) {
  const lc_param *p = b->d->param[which ? 2 : 0];
  lc_bottleneck_view *view = lc_delta_bottleneck_view(b->d);
  if (!splits(m, which)) return LC_OK;
  if (m->pieces > p->n)
    return lc_usage(t->ctx, "mosa: %lld pieces of '%s', which has %lld entries", (long long)m->pieces,
                    p->name, (long long)p->n);
  b->label[which] = lc_alloc(t->ctx, LC_MEM_TRAINABLE, (size_t)p->n);
  float *memory =
      b->label[which] ? lc_alloc_n(t->ctx, LC_MEM_TRAINABLE, (size_t)(4 * p->n), sizeof *memory) : NULL;
  if (!memory) return LC_FAILED;
  b->start[which] = memory;
  memcpy(memory, p->value, (size_t)p->n * sizeof *memory);
  for (int c = 0; c < 2; c++) view->draw[c][which] = b->draw[c][which] = memory + (1 + c) * p->n;
  view->merged[which] = b->merged[which] = memory + 3 * p->n;
  view->label[which] = b->label[which];
  return label(m, t, b->d->w, which, p->n, b->label[which]);
}

/* The merged matrices, from the values of now. */
static void merge(const mosa *m) {
  for (int i = 0; i < m->n; i++)
    for (int which = 0; which < 2 && m->block[i].d; which++) {
      const struct block *b = &m->block[i];
      const lc_param *p = b->d->param[which ? 2 : 0];
      const float share = m->merge == MERGE_SUM ? 1 : 1 / (float)m->pieces;
      for (int64_t k = 0; k < p->n && b->start[which]; k++)
        b->merged[which][k] = b->start[which][k] + share * (p->value[k] - b->start[which][k]);
    }
}

static lc_status attach(void *selfp, lc_training *t) {
  mosa *m = selfp;
  const lc_config *c = &t->net->model->config;
  const lc_bottleneck_opts o = {m->width, t->opts.seed, m->style, m->scale, m->dropout};
  lc_structure *s = NULL;
  int n = 0;
  lc_status st = LC_OK;
  m->net = t->net;
  LC_TRY(c->family->structures(t->ctx, c, &s, &n));
  if (!(m->block = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)c->L, sizeof *m->block))) LC_GO(LC_FAILED);
  for (int i = 0; i < n; i++)
    for (int k = 0; k < s[i].n_side && s[i].kind == LC_S_CHANNEL; k++) {
      lc_weight *w = s[i].side[k].axis == 1 ? lc_net_weight(t->net, s[i].side[k].weight) : NULL;
      if (!w) continue; /* the FFN's output layer: its columns are the channels */
      struct block *b = &m->block[m->n];
      LC_GO(lc_delta_bottleneck_new(t->ctx, w, &o, true, &b->d));
      LC_GO(lc_attach_delta(t, w, b->d, &b->d));
      m->n++;
      for (int which = 0; which < 2; which++) LC_GO(split(m, t, b, which));
      m->values += b->d->ops->nonzeros(b->d);
    }
  merge(m);
  t->copies = m->kl > 0 || m->again > 0 ? 2 : 0;
done:
  lc_structures_free(t->ctx, s, n);
  return st;
}

/* The pieces of this update's draws: a function of (seed, update, draw, block, matrix). */
static lc_status before_step(void *selfp, lc_training *t) {
  mosa *m = selfp;
  for (int i = 0; i < m->n; i++)
    for (int draw = 0; draw < 2; draw++)
      for (int which = 0; which < 2 && m->block[i].d; which++) {
        struct block *b = &m->block[i];
        const lc_param *p = b->d->param[which ? 2 : 0];
        const lc_rng rng = {(uint64_t)t->opts.seed, (uint32_t)t->step, b->d->w->id, (uint16_t)(2 + draw),
                            LC_RNG_MASK};
        const uint8_t e = (uint8_t)lc_rng_below(&rng, (uint64_t)which, (uint64_t)m->pieces);
        lc_delta_bottleneck_view(b->d)->piece[draw][which] = e;
        for (int64_t k = 0; k < p->n && b->start[which]; k++)
          b->draw[draw][which][k] = b->label[which][k] == e ? p->value[k] : b->start[which][k];
      }
  merge(m); /* after a resume the values are the checkpoint's */
  return LC_OK;
}

static lc_status after_step(void *selfp, lc_training *t) {
  merge(selfp);
  return LC_OK;
}

static lc_status objective(void *selfp, lc_builder *b, lc_val hidden, lc_val *nll) {
  const mosa *m = selfp;
  const lc_config *c = &m->net->model->config;
  *nll = lc_head_loss_pairs(b, hidden, b->labels, c->family->head(c),
                            (lc_pair_loss){(float)m->again, (float)m->kl});
  return b->st;
}

/* No state of its own: what follows from the values is made anew when a checkpoint has brought them. */
static lc_status loaded(void *selfp, lc_training *t) {
  merge(selfp);
  return LC_OK;
}

static void swap_values(const mosa *m) {
  for (int i = 0; i < m->n; i++)
    for (int which = 0; which < 2; which++) {
      struct block *b = &m->block[i];
      if (!b->start[which]) continue;
      lc_param *p = b->d->param[which ? 2 : 0];
      float *v = p->value;
      p->value = b->merged[which];
      b->merged[which] = v;
    }
}

/* A plain adapter: the merged matrices under the names of the values. */
static lc_status save(void *selfp, lc_training *t, const char *dir) {
  swap_values(selfp);
  lc_status st = lc_attach_save(t, LC_LAYOUT_MODULES, NULL, dir);
  swap_values(selfp);
  return st;
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const mosa *m = selfp;
  json_object_set_new(to, "trainable", json_integer(m->values));
  json_object_set_new(to, "pieces", json_integer(m->pieces));
  json_object_set_new(to, "draws", json_integer(t->copies > 1 ? 2 : 1));
  return LC_OK;
}

/* The net goes on with plain adapters. */
static void release(void *selfp, lc_ctx *ctx) {
  mosa *m = selfp;
  for (int i = 0; i < m->n; i++) {
    struct block *b = &m->block[i];
    *lc_delta_bottleneck_view(b->d) = (lc_bottleneck_view){0};
    for (int which = 0; which < 2; which++) {
      lc_param *p = b->d->param[which ? 2 : 0];
      if (b->start[which]) memcpy(p->value, b->merged[which], (size_t)p->n * sizeof *p->value);
      lc_free(ctx, b->start[which]);
      lc_free(ctx, b->label[which]);
    }
  }
  lc_free(ctx, m->block);
}

const lc_method lc_method_mosa = {
    .name = "mosa",
    .title = "MoSA: an adapter trained in random pieces, used whole",
    .source = "arXiv 2312.02923",
    .about = "A bottleneck adapter in each block, whose matrices are split into random pieces; each of two "
             "draws of a batch "
             "trains one piece a block, a KL term makes the draws agree, and evaluation and the result use "
             "the merged whole. "
             "One buffer and a label an entry stand for the copies of the authors' code; biases are one, not "
             "a copy a piece. "
             "pieces=1 kl=0 is a plain adapter. The LoRA form and the Houlsby style are not built.",
    .options = options,
    .self_size = sizeof(mosa),
    .lr = 1e-3,
    .optimizer = "adamw",
    .mergeable = false,
    .attach = attach,
    .before_step = before_step,
    .after_step = after_step,
    .objective = objective,
    .loaded = loaded,
    .save = save,
    .report = report,
    .release = release,
};
