/* llava-mole: several LoRA experts in each FFN, one of them a token, so that mixed data sets disturb each other less.
 *
 * Source: Chen, Jie & Ma, "LLaVA-MoLE: Sparse Mixture of LoRA Experts for Mitigating Data Conflicts in Instruction
 * Finetuning MLLMs", 2024, arXiv 2401.16160. The authors' release is for inference (with the loss); the vision part
 * is not here, the method is in the language model.
 *
 *   route      p_t = softmax(R·x_t + b), e_t = argmax p_t     x: the FFN's input; one route a block, R (E,C) in f32
 *   FFN        y = W·x + g·s·B_e·A_e·x̃ in each of its layers  A_e (r,N) uniform in ±1/√N, B_e (M,r) = 0, s = α/r
 *   gate       st: g = p_e/stopgrad(p_e);  none: 1;  prob: p_e;  dense: all experts, weighted by p
 *   attention  plain LoRA of the same r, α, dropout
 *   loss       mean over targets of −log p  +  balance·L     L: layer E·Σ f_j·P_j (mean over layers), or joint
 *
 * An expert without tokens in an update has no gradient; its values and optimiser state stay as they are.
 *
 * Memory: 12 B·r(M+N) a layer of attention, 12 B·E·r(M+N) a layer of the FFN, 12 B·E·C a block, 4 B·E(r+M) of rates.
 * FLOPs a token: LoRA's and 2·E·C a block (dense: E times LoRA's in the FFN). Does not merge: it depends on the token. */
#include <jansson.h>
#include <math.h>
#include <string.h>
#include "method/methods.h"
#include "nn/mole.h"
#include "train/attach.h"

typedef struct {
  int64_t experts, r;
  double alpha, dropout, balance;
  int gate, scope;
  int routes;
  lc_delta **route;        /* by block */
  float **rates;           /* of adapter delta i: columns of A (E·r) and B (E·M) at 2i, 2i+1, or NULL */
  int64_t *load;           /* (routes, E): tokens of the last update */
  double *sharp, *entropy; /* (routes): sums over them */
  int64_t values;
} mole;

static const lc_option options[] = {
    {"experts", LC_OPT_INT, offsetof(mole, experts), "3", 1, 256, NULL, "E", "LoRA experts in each FFN"},
    {"r", LC_OPT_INT, offsetof(mole, r), "32", 1, 65536, NULL, "N",
     "rank of each expert, and of attention's LoRA"},
    {"alpha", LC_OPT_FLOAT, offsetof(mole, alpha), "64", 0, 1e6, NULL, "A",
     "scale: a product counts alpha/r"},
    {"dropout", LC_OPT_FLOAT, offsetof(mole, dropout), "0.05", 0, 0.99, NULL, "P",
     "dropout on the input of A"},
    {"gate", LC_OPT_CHOICE, offsetof(mole, gate), "st", 0, 0, "st|none|prob|dense", NULL,
     "how the route's probability enters: straight-through, not at all, as a factor, or all experts by it"},
    {"balance", LC_OPT_FLOAT, offsetof(mole, balance), "0.01", 0, 1e3, NULL, "W",
     "weight of the balance loss"},
    {"balance-scope", LC_OPT_CHOICE, offsetof(mole, scope), "layer", 0, 0, "layer|joint", NULL,
     "each layer over the tokens of a micro-batch, or all layers of an example together (as released)"},
    {0},
};

static bool in_ffn(const lc_structure *s, int n, const lc_weight *w) {
  for (int i = 0; i < n; i++)
    for (int k = 0; k < s[i].n_side && s[i].kind == LC_S_CHANNEL; k++)
      if (!strcmp(s[i].side[k].weight, w->name)) return true;
  return false;
}

/* The FFN's first layers read its input: their side is rows. */
static bool reads_input(const lc_structure *s, int n, const lc_weight *w) {
  for (int i = 0; i < n; i++)
    for (int k = 0; k < s[i].n_side && s[i].kind == LC_S_CHANNEL; k++)
      if (!strcmp(s[i].side[k].weight, w->name)) return s[i].side[k].axis == 0;
  return false;
}

static lc_delta *route_at(const mole *m, int layer) {
  for (int i = 0; i < m->routes; i++)
    if (m->route[i]->w->layer == layer) return m->route[i];
  return NULL;
}

/* The block's route, made on its first FFN weight that reads the input (w or another of the block). */
static lc_status need_route(mole *m, lc_training *t, const lc_structure *s, int n, int layer,
                            lc_delta **out) {
  const lc_route_opts o = {m->experts, t->opts.seed, m->balance, m->scope};
  if ((*out = route_at(m, layer))) return LC_OK;
  for (int i = 0; i < t->net->weights.n; i++) {
    lc_weight *w = &t->net->weights.w[i];
    if (w->layer != layer || w->ndim != 2 || !reads_input(s, n, w)) continue;
    LC_TRY(lc_delta_route_new(t->ctx, w, &o, true, out));
    LC_TRY(lc_attach_delta(t, w, *out, out));
    m->route[m->routes++] = *out;
    m->values += lc_delta_route.nonzeros(*out);
    return LC_OK;
  }
  return lc_fail(t->ctx, "llava-mole: layer %d has no feed-forward layer that reads the block's input",
                 layer);
}

static lc_status attach_one(mole *m, lc_training *t, const lc_structure *s, int n, lc_weight *w) {
  lc_delta *d, *route;
  if (!in_ffn(s, n, w)) {
    const lc_lora_opts o = {m->r, (float)m->alpha, false, (float)m->dropout, (uint64_t)t->opts.seed};
    LC_TRY(lc_attach_lora(t, w, &o, NULL, &d));
  } else {
    const lc_experts_opts o = {m->experts, m->r, t->opts.seed, m->alpha, m->dropout, m->gate};
    LC_TRY(need_route(m, t, s, n, w->layer, &route));
    LC_TRY(lc_delta_experts_new(t->ctx, w, route, &o, true, &d));
    LC_TRY(lc_attach_delta(t, w, d, &d));
    for (int k = 0; k < 2; k++)
      LC_TRY(lc_param_column(t->ctx, d->param[k], LC_RATE, LC_AXIS_ROW, 1,
                             &m->rates[2 * (t->adapter->n - 1) + k]));
  }
  m->values += d->ops->nonzeros(d);
  return LC_OK;
}

static lc_status attach(void *selfp, lc_training *t) {
  mole *m = selfp;
  const lc_config *c = &t->net->model->config;
  const size_t L = (size_t)c->L, E = (size_t)m->experts;
  lc_target_set set = {0};
  lc_structure *s = NULL;
  lc_status st = LC_OK;
  int n = 0;
  LC_GO(lc_target_set_open(t, &set));
  LC_GO(c->family->structures(t->ctx, c, &s, &n));
  m->route = lc_alloc_n(t->ctx, LC_MEM_OTHER, L, sizeof *m->route);
  m->rates = lc_alloc_n(t->ctx, LC_MEM_OTHER, 2 * ((size_t)set.n + L), sizeof *m->rates);
  m->load = lc_alloc_n(t->ctx, LC_MEM_OTHER, L * E, sizeof *m->load);
  m->sharp = lc_alloc_n(t->ctx, LC_MEM_OTHER, 2 * L, sizeof *m->sharp);
  if (!m->route || !m->rates || !m->load || !m->sharp) LC_GO(LC_FAILED);
  m->entropy = m->sharp + L;
  for (int l = 0; l < set.n; l++) LC_GO(attach_one(m, t, s, n, set.w[l]));
  if (!m->routes)
    LC_GO(lc_usage(t->ctx,
                   "llava-mole: --targets names no feed-forward layer, so there is nothing to have experts"));
done:
  if (s) lc_structures_free(t->ctx, s, n);
  lc_target_set_free(t->ctx, &set);
  return st;
}

/* Adds up who went where. */
static lc_status after_micro(void *selfp, lc_training *t) {
  mole *m = selfp;
  const int64_t E = m->experts;
  for (int i = 0; i < m->routes; i++) {
    lc_val pv, cv;
    lc_delta_route_values(m->route[i], &pv, &cv);
    const float *p = lc_data(t->run, pv);
    const int32_t *choice = lc_data(t->run, cv);
    if (t->micro == 0) {
      memset(m->load + i * E, 0, (size_t)E * sizeof *m->load);
      m->sharp[i] = m->entropy[i] = 0;
    }
    for (int64_t r = 0; r < t->run->rows; r++) {
      m->load[i * E + choice[r]]++;
      m->sharp[i] += (double)p[r * E + choice[r]];
      for (int64_t e = 0; e < E; e++)
        if (p[r * E + e] > 0) m->entropy[i] -= (double)p[r * E + e] * log((double)p[r * E + e]);
    }
  }
  return LC_OK;
}

/* An expert that no token of the update chose stands still. */
static lc_status after_backward(void *selfp, lc_training *t) {
  const mole *m = selfp;
  if (m->gate == LC_GATE_DENSE) return LC_OK;
  for (int i = 0; i < t->adapter->n; i++)
    for (int k = 0; k < 2 && m->rates[2 * i + k]; k++) {
      const lc_delta *d = t->adapter->delta[i];
      const int64_t each = d->param[k]->rows / m->experts;
      for (int b = 0; b < m->routes; b++)
        for (int64_t row = 0; row < d->param[k]->rows && m->route[b]->w->layer == d->w->layer; row++)
          m->rates[2 * i + k][row] = m->load[b * m->experts + row / each] > 0;
    }
  return LC_OK;
}

/* lacuna's own files, and the attention part once more as a PEFT LoRA in OUT/attention. */
static lc_status save(void *self, lc_training *t, const char *dir) {
  lc_adapter *all = t->adapter, part = *all;
  LC_TRY(lc_attach_save(t, LC_LAYOUT_MODULES, NULL, dir));
  part.n = 0;
  part.delta = lc_alloc_n(t->ctx, LC_MEM_OTHER, (size_t)all->n, sizeof *part.delta);
  char *path = lc_path_join(t->ctx, dir, "attention");
  lc_status st = part.delta && path ? LC_OK : LC_FAILED;
  for (int i = 0; i < all->n && !st; i++)
    if (all->delta[i]->ops == &lc_delta_lora) part.delta[part.n++] = all->delta[i];
  t->adapter = &part;
  if (!st && part.n) st = lc_attach_save(t, LC_LAYOUT_PEFT_LORA, NULL, path);
  t->adapter = all;
  lc_free(t->ctx, part.delta);
  lc_free(t->ctx, path);
  return st;
}

static lc_status report(void *selfp, lc_training *t, json_t *to) {
  const mole *m = selfp;
  const int64_t E = m->experts;
  json_t *layers = json_array();
  int64_t dead = 0;
  for (int i = 0; i < m->routes; i++) {
    int64_t tokens = 0, none = 0;
    json_t *load = json_array();
    for (int64_t e = 0; e < E; e++) tokens += m->load[i * E + e];
    for (int64_t e = 0; e < E && tokens; e++) {
      json_array_append_new(load, json_real((double)m->load[i * E + e] / (double)tokens));
      none += m->load[i * E + e] == 0;
    }
    dead += none;
    json_array_append_new(layers,
                          json_pack("{s:i, s:o, s:f, s:f, s:I}", "layer", m->route[i]->w->layer, "load", load,
                                    "max_probability", tokens ? m->sharp[i] / (double)tokens : 0.0, "entropy",
                                    tokens ? m->entropy[i] / (double)tokens : 0.0, "dead", (json_int_t)none));
  }
  json_object_set_new(to, "trainable", json_integer(m->values));
  json_object_set_new(to, "dead_experts", json_integer(dead));
  json_object_set_new(to, "routes", layers); /* of the last update's tokens */
  return LC_OK;
}

static void release(void *selfp, lc_ctx *ctx) {
  mole *m = selfp;
  lc_free(ctx, m->route);
  lc_free(ctx, m->rates);
  lc_free(ctx, m->load);
  lc_free(ctx, m->sharp);
}

const lc_method lc_method_llava_mole = {
    .name = "llava-mole",
    .title = "LLaVA-MoLE: LoRA experts in the FFN, one a token",
    .source = "arXiv 2401.16160",
    .about = "A router sends each token to one of several LoRA experts, the same in all layers of a block's "
             "FFN; attention "
             "has a plain LoRA, a balance loss keeps the experts in use. As released, the task's loss does "
             "not reach the "
             "router (gate=none) and a sample's layers are balanced jointly (balance-scope=joint); the "
             "defaults are "
             "straight-through and per layer. The router is f32. Language model only: no vision part.",
    .options = options,
    .self_size = sizeof(mole),
    .lr = 2e-4,
    .optimizer = "adamw",
    .mergeable = false,
    .attach = attach,
    .after_micro = after_micro,
    .after_backward = after_backward,
    .save = save,
    .report = report,
    .release = release,
};
