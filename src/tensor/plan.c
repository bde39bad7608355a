/* The plan: which gradients flow, what is kept for them, and where everything lies.
 *
 * Time runs 0..n-1 over the forward nodes and on over the backward steps. A buffer (a value's data, or its gradient) is alive over at most
 * two spans of time: data that is recomputed lives once around its forward uses and once from its recomputation to its last backward
 * use. Buffers are placed largest first at the lowest offset where no buffer alive at the same time lies. */
#include "tensor/graph_priv.h"
#include <string.h>
#include <stdlib.h>

typedef struct {
  int t0, t1;
} span; /* inclusive; t0 > t1: empty */
typedef struct {
  size_t size, at;
  span life[2];
  int value;
  bool grad;
  int alias; /* index of the buffer it shares, -1 */
} buffer;

typedef struct {
  lc_plan *p;
  lc_graph *g;
  bool *needs;  /* by value: a gradient is wanted */
  int *writers; /* by value: nodes that write its gradient */
  bool *saved;  /* by value: backward reads its data */
  bool *again;  /* by node: computed again before its block's backward */
  buffer *buf;  /* data of value i at i, gradient at n_values + i */
} planner;

static const span never = {1, 0};

static void stretch(span *s, int t) {
  if (s->t0 > s->t1) *s = (span){t, t};
  if (t < s->t0) s->t0 = t;
  if (t > s->t1) s->t1 = t;
}

/* Which values want gradients: forward, what depends on a trainable; backward, what the loss reaches. Marks the first writer of each. */
static void plan_gradients(planner *pl) {
  lc_graph *g = pl->g;
  for (int i = 0; i < g->n_nodes; i++) {
    lc_node *n = g->node[i];
    n->want = n->overwrite = 0;
    if (!n->op->backward) continue;
    bool any = n->op->trains && n->op->trains(n);
    if (any) n->want |= LC_PARAMS;
    for (int k = 0; k < n->n_in; k++)
      if (n->in[k].id && pl->needs[n->in[k].id - 1]) n->want |= LC_IN(k), any = true;
    for (int j = 0; j < n->n_out && any; j++)
      pl->needs[n->out[j].id - 1] = lc_value_get(g, n->out[j])->dtype != LC_I32;
  }
  for (int i = g->n_nodes - 1; i >= 0; i--) {
    lc_node *n = g->node[i];
    bool reached = n->op->flags & LC_OP_LOSS;
    for (int j = 0; j < n->n_out; j++) reached |= pl->writers[n->out[j].id - 1] > 0;
    if (!reached) n->want = 0;
    for (int k = 0; k < n->n_in; k++)
      if (n->want & LC_IN(k) && pl->writers[n->in[k].id - 1]++ == 0) n->overwrite |= LC_IN(k);
  }
}

/* What backward reads; and, with recomputation, which nodes must run again: those inside a block whose outputs backward (or such a
 * node) reads. A block's inputs come from outside it and are simply kept. */
static void plan_saved(planner *pl) {
  lc_graph *g = pl->g;
  for (int i = 0; i < g->n_nodes; i++) {
    lc_node *n = g->node[i];
    if (!n->want || !n->op->saves) continue;
    uint32_t mask = n->op->saves(n, n->want);
    for (int k = 0; k < n->n_in; k++)
      if (mask & LC_IN(k) && n->in[k].id) pl->saved[n->in[k].id - 1] = true;
    for (int j = 0; j < n->n_out; j++)
      if (mask & LC_OUT(j)) pl->saved[n->out[j].id - 1] = true;
  }
  if (!pl->p->opts.recompute) return;
  for (int i = g->n_nodes - 1; i >= 0; i--) {
    lc_node *n = g->node[i];
    if (n->block < 0 || n->op->flags & (LC_OP_DISCRETE | LC_OP_LOSS)) continue;
    bool leaves = false; /* an output that other blocks read is kept, as their input */
    for (int k = i + 1; k < g->n_nodes; k++)
      for (int q = 0; q < g->node[k]->n_in; q++)
        if (g->node[k]->in[q].id == n->out[0].id && n->out[0].id && g->node[k]->block != n->block)
          leaves = true;
    bool read = false;
    for (int j = 0; j < n->n_out; j++) read |= pl->saved[n->out[j].id - 1];
    if (!read || leaves) continue;
    pl->again[i] = true;
    for (int k = 0; k < n->n_in; k++)
      if (n->in[k].id) pl->saved[n->in[k].id - 1] = true;
  }
}

static int node_index(const lc_graph *g, const lc_node *n) {
  for (int i = 0; i < g->n_nodes; i++)
    if (g->node[i] == n) return i;
  return -1;
}

/* The order of backward: nodes from last to first; entering a block from behind, its nodes to recompute come first. */
static lc_status plan_order(planner *pl) {
  lc_graph *g = pl->g;
  lc_plan *p = pl->p;
  p->back = lc_alloc_n(g->ctx, LC_MEM_OTHER, (size_t)g->n_nodes * 2 + 1, sizeof *p->back);
  if (!p->back) return LC_FAILED;
  int inside = -1;
  for (int i = g->n_nodes - 1; i >= 0; i--) {
    lc_node *n = g->node[i];
    if (n->block != inside) {
      inside = n->block;
      for (int k = 0; k <= i && inside >= 0; k++)
        if (pl->again[k] && g->node[k]->block == inside)
          p->back[p->n_back++] = (lc_back_step){g->node[k], true};
    }
    if (n->want) p->back[p->n_back++] = (lc_back_step){n, false};
  }
  return LC_OK;
}

static size_t bytes_of(const lc_plan *p, lc_dtype dtype, int64_t width) {
  size_t n;
  int64_t rows = p->opts.rows;
  if (!lc_dtype_bytes(dtype, width, &n) || !lc_mul(n, (size_t)rows, &n) || n > SIZE_MAX / 2) return SIZE_MAX;
  return (n + 63) / 64 * 64;
}

static void plan_data_lives(planner *pl) {
  lc_graph *g = pl->g;
  lc_plan *p = pl->p;
  int end = g->n_nodes + p->n_back;
  for (int v = 0; v < g->n_values; v++) {
    buffer *b = &pl->buf[v];
    *b = (buffer){.size = bytes_of(p, g->value[v].dtype, g->value[v].width),
                  .life = {never, never},
                  .value = v,
                  .alias = -1};
    int made = g->value[v].producer;
    stretch(&b->life[0], made < 0 ? 0 : made);
    if (made < 0 || g->value[v].keep) stretch(&b->life[0], end);
  }
  for (int i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < g->node[i]->n_in; k++)
      if (g->node[i]->in[k].id) stretch(&pl->buf[g->node[i]->in[k].id - 1].life[0], i);
  for (int s = 0; s < p->n_back; s++) {
    const lc_node *n = p->back[s].node;
    int t = g->n_nodes + s;
    uint32_t mask = p->back[s].again ? 0xffu : n->op->saves ? n->op->saves(n, n->want) : 0;
    for (int j = 0; j < n->n_out; j++) {
      buffer *b = &pl->buf[n->out[j].id - 1];
      if (p->back[s].again)
        stretch(&b->life[1], t);
      else if (mask & LC_OUT(j))
        stretch(&b->life[pl->again[node_index(g, n)]], t);
    }
    for (int k = 0; k < n->n_in; k++) {
      if (!(mask & LC_IN(k)) || !n->in[k].id) continue;
      int made = g->value[n->in[k].id - 1].producer;
      stretch(&pl->buf[n->in[k].id - 1].life[made >= 0 && pl->again[made]], t);
    }
  }
}

static void plan_gradient_lives(planner *pl) {
  lc_graph *g = pl->g;
  lc_plan *p = pl->p;
  for (int v = 0; v < g->n_values; v++) {
    lc_value *val = &g->value[v];
    lc_dtype dtype = pl->writers[v] == 0 ? LC_NONE : pl->writers[v] > 1 ? LC_F32 : val->dtype;
    p->place[v] = (lc_place){SIZE_MAX, SIZE_MAX, dtype, val->dtype, val->width};
    pl->buf[g->n_values + v] = (buffer){.size = dtype ? bytes_of(p, dtype, val->width) : 0,
                                        .life = {never, never},
                                        .value = v,
                                        .grad = true,
                                        .alias = -1};
  }
  for (int s = 0; s < p->n_back; s++) {
    if (p->back[s].again) continue;
    const lc_node *n = p->back[s].node;
    for (int k = 0; k < n->n_in; k++)
      if (n->want & LC_IN(k)) stretch(&pl->buf[g->n_values + n->in[k].id - 1].life[0], g->n_nodes + s);
    for (int j = 0; j < n->n_out; j++)
      if (pl->writers[n->out[j].id - 1])
        stretch(&pl->buf[g->n_values + n->out[j].id - 1].life[0], g->n_nodes + s);
  }
  for (int s = 0; s < p->n_back; s++) { /* residuals: the gradient passes through without a copy */
    const lc_node *n = p->back[s].node;
    int k = n->op->grad_alias - 1;
    if (p->back[s].again || k < 0 || k >= n->n_in || !(n->overwrite & LC_IN(k))) continue;
    int from = n->out[0].id - 1, to = n->in[k].id - 1;
    if (!pl->writers[from] || p->place[from].grad_dtype != p->place[to].grad_dtype ||
        g->value[from].width != g->value[to].width)
      continue;
    int root = g->n_values + from;
    while (pl->buf[root].alias >= 0) root = pl->buf[root].alias;
    buffer *b = &pl->buf[g->n_values + to];
    b->alias = root;
    stretch(&pl->buf[root].life[0], b->life[0].t0);
    stretch(&pl->buf[root].life[0], b->life[0].t1);
  }
}

static bool meet(const buffer *a, const buffer *b) {
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++)
      if (a->life[i].t0 <= a->life[i].t1 && b->life[j].t0 <= b->life[j].t1 &&
          a->life[i].t0 <= b->life[j].t1 && b->life[j].t0 <= a->life[i].t1)
        return true;
  return false;
}

static int by_size(const void *x, const void *y) {
  const buffer *a = *(buffer *const *)x, *b = *(buffer *const *)y;
  if (a->size != b->size) return a->size < b->size ? 1 : -1;
  return a < b ? -1 : 1;
}

static int by_offset(const void *x, const void *y) {
  const buffer *a = *(buffer *const *)x, *b = *(buffer *const *)y;
  return a->at < b->at ? -1 : a->at > b->at;
}

static lc_status place_buffers(planner *pl) {
  lc_graph *g = pl->g;
  int n = 0, total = 2 * g->n_values;
  buffer **order = lc_alloc_n(g->ctx, LC_MEM_OTHER, (size_t)total + 1, sizeof *order);
  buffer **near = lc_alloc_n(g->ctx, LC_MEM_OTHER, (size_t)total + 1, sizeof *near);
  lc_status st = order && near ? LC_OK : LC_FAILED;
  for (int i = 0; !st && i < total; i++) {
    if (pl->buf[i].size == SIZE_MAX)
      st = lc_fail(g->ctx, "plan: value '%s' of %lld columns times %lld rows does not fit in memory",
                   g->value[pl->buf[i].value].name, (long long)g->value[pl->buf[i].value].width,
                   (long long)pl->p->opts.rows);
    else if (pl->buf[i].size && pl->buf[i].alias < 0)
      order[n++] = &pl->buf[i];
  }
  if (!st) qsort(order, (size_t)n, sizeof *order, by_size);
  for (int i = 0; !st && i < n; i++) {
    int m = 0;
    for (int k = 0; k < i; k++)
      if (meet(order[i], order[k])) near[m++] = order[k];
    qsort(near, (size_t)m, sizeof *near, by_offset);
    size_t at = 0;
    for (int k = 0; k < m; k++) {
      if (at + order[i]->size <= near[k]->at) break;
      if (near[k]->at + near[k]->size > at) at = near[k]->at + near[k]->size;
    }
    order[i]->at = at;
    if (at > SIZE_MAX / 2)
      st =
          lc_fail(g->ctx, "plan: activations of %lld rows do not fit in memory", (long long)pl->p->opts.rows);
    else if (at + order[i]->size > pl->p->bytes)
      pl->p->bytes = at + order[i]->size;
  }
  for (int v = 0; !st && v < g->n_values; v++) {
    pl->p->place[v].data = pl->buf[v].at;
    const buffer *b = &pl->buf[g->n_values + v];
    if (!b->size) continue;
    while (b->alias >= 0) b = &pl->buf[b->alias];
    pl->p->place[v].grad = b->at;
  }
  lc_free(g->ctx, order);
  lc_free(g->ctx, near);
  return st;
}

lc_status lc_plan_new(lc_graph *g, const lc_plan_opts *opts, lc_plan **out) {
  *out = NULL;
  if (opts->rows <= 0) return lc_fail(g->ctx, "plan: a capacity of %lld rows", (long long)opts->rows);
  lc_status st = LC_FAILED;
  size_t nv = (size_t)g->n_values, nn = (size_t)g->n_nodes;
  lc_plan *p = lc_alloc(g->ctx, LC_MEM_OTHER, sizeof *p);
  planner pl = {.p = p,
                .g = g,
                .needs = lc_alloc(g->ctx, LC_MEM_OTHER, nv + 1),
                .writers = lc_alloc_n(g->ctx, LC_MEM_OTHER, nv + 1, sizeof(int)),
                .saved = lc_alloc(g->ctx, LC_MEM_OTHER, nv + 1),
                .again = lc_alloc(g->ctx, LC_MEM_OTHER, nn + 1),
                .buf = lc_alloc_n(g->ctx, LC_MEM_OTHER, 2 * nv + 1, sizeof(buffer))};
  if (p) p->g = g; /* lc_plan_free needs it */
  if (!p || !pl.needs || !pl.writers || !pl.saved || !pl.again || !pl.buf) goto done;
  p->opts = *opts;
  p->place = lc_alloc_n(g->ctx, LC_MEM_OTHER, nv + 1, sizeof *p->place);
  if (!p->place) goto done;
  if (opts->training) {
    plan_gradients(&pl);
    plan_saved(&pl);
  }
  if (opts->training) LC_GO(plan_order(&pl));
  plan_data_lives(&pl);
  plan_gradient_lives(&pl);
  LC_GO(place_buffers(&pl));
  st = LC_OK;
done:
  lc_free(g->ctx, pl.needs);
  lc_free(g->ctx, pl.writers);
  lc_free(g->ctx, pl.saved);
  lc_free(g->ctx, pl.again);
  lc_free(g->ctx, pl.buf);
  if (st)
    lc_plan_free(p);
  else
    *out = p;
  return st;
}

void lc_plan_free(lc_plan *p) {
  if (!p) return;
  lc_ctx *ctx = p->g ? p->g->ctx : NULL;
  if (ctx) {
    lc_free(ctx, p->place);
    lc_free(ctx, p->back);
    lc_free(ctx, p);
  }
}

size_t lc_plan_bytes(const lc_plan *p) {
  return p->bytes;
}
int64_t lc_plan_rows(const lc_plan *p) {
  return p->opts.rows;
}
bool lc_plan_wants_grad(const lc_plan *p, lc_val v) {
  return p->place[v.id - 1].grad_dtype != LC_NONE;
}
