/* bench switch: an adapter in place goes on and off again. A sparse delta of 1 % of the entries (only they are computed again) beside a LoRA of as many
 * values (whole matrices are), on one f32 matrix of 4096×4096, or on all linear layers of a model (-m).
 *
 * Bounds, of this run's ceilings: fusing a LoRA reads the base, writes the copy and multiplies, 2·M·N·R; the lines of 64 bytes that a sparse delta
 * touches (of the copy; positions, values and what lies under them, 12 B an entry) against all lines of base and copy are what switching it can gain at most over a copy of the whole. */
#include <math.h>
#include <string.h>
#include "cli/bench.h"

typedef struct {
  lc_ctx *ctx;
  lc_weight **w;
  lc_delta **d;
  int n;
} group;

/* All deltas of the group on and off again, in place. */
static lc_status on_off(const group *g, double *seconds) {
  const double t0 = lc_now();
  for (int on = 1; on >= 0; on--)
    for (int i = 0; i < g->n; i++) {
      g->d[i]->scale = (float)on;
      LC_TRY(lc_weight_switched(g->ctx, g->w[i], g->d[i]));
    }
  *seconds = lc_now() - t0;
  return LC_OK;
}

static lc_status measure(lc_bench_run *b, const group *g, double *seconds) {
  double t[64];
  const int n = (int)lc_min64(64, b->opts->repeat);
  LC_TRY(on_off(g, seconds)); /* the copies are there */
  for (int i = 0; i < n; i++) LC_TRY(on_off(g, &t[i]));
  *seconds = lc_bench_median(t, n);
  return LC_OK;
}

static int64_t rank_of(const lc_weight *w) {
  return lc_max64(1, (int64_t)llround(0.01 * (double)(w->M * w->N) / (double)(w->M + w->N)));
}

static lc_status make(lc_ctx *ctx, lc_weight *w, bool sparse, lc_delta **out) {
  const lc_rng rng = {.seed = 1, .tensor = w->id, .purpose = LC_RNG_TEST};
  const int64_t r = rank_of(w), K = r * (w->M + w->N);
  lc_index idx = {0};
  lc_status st = LC_OK;
  float *v = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *v);
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  if (!v || !flat) LC_GO(LC_FAILED);
  lc_rng_normal_fill(&rng, 0, K, v);
  for (int64_t k = 0; k < K; k++) v[k] *= 0.01f;
  if (sparse) {
    LC_GO(lc_rng_choose(ctx, &rng, w->M * w->N, K, flat));
    LC_GO(lc_index_new(ctx, w->M, w->N, flat, K, &idx));
    LC_GO(lc_delta_sparse_new(ctx, w, &idx, v, false, out));
  } else {
    const lc_lora_opts o = {.rank = r, .alpha = (float)r};
    LC_GO(lc_delta_lora_new(ctx, w, &o, v, v + r * w->N, false, out));
  }
  (*out)->apply = LC_IN_PLACE;
  st = lc_weight_attach(ctx, w, *out);
  if (st) (*out)->ops->free(ctx, *out);
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, v);
  lc_free(ctx, flat);
  return st;
}

static size_t element(lc_dtype d) {
  return d == LC_F32 ? 4 : 2;
}

/* Lines of 64 bytes that hold the entries of a list, for elements of this size. */
static int64_t lines_of(const lc_index *x, size_t size) {
  int64_t n = 0, last = -1;
  for (int64_t k = 0; k < x->n; k++) {
    const int64_t line = lc_index_at(x, k) * (int64_t)size / 64;
    n += line != last;
    last = line;
  }
  return n;
}

/* Bytes of base and copy, of lines that the sparse deltas touch, and operations of the LoRA's products; once through. */
typedef struct {
  double whole, touched, flop;
} work;
static work count(const group *g) {
  work s = {0};
  for (int i = 0; i < g->n; i++) {
    const lc_weight *w = g->w[i];
    const double entries = (double)(w->M * w->N);
    const size_t to = element(w->form->src.dtype);
    s.whole += (double)w->base->ops->bytes(w->base) + entries * (double)to;
    s.flop += 2 * entries * (double)rank_of(w);
    if (g->d[i]->ops != &lc_delta_sparse) continue;
    const lc_index *x = &g->d[i]->param[0]->idx;
    s.touched += 64 * (double)lines_of(x, to) + 12 * (double)x->n;
  }
  return s;
}

static lc_status run_group(lc_bench_run *b, lc_weight **w, int n, const char *what) {
  lc_ctx *ctx = b->cli->ctx;
  const lc_ceilings *c = &b->ceilings;
  lc_status st = LC_OK;
  group g = {ctx, w, lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *g.d), n};
  double t[2];
  work s[2];
  if (!g.d) return LC_FAILED;
  for (int sparse = 0; sparse < 2; sparse++) {
    int made = 0;
    for (; made < n && !st; made++) st = make(ctx, w[made], sparse == 1, &g.d[made]);
    if (st) made--;
    if (!st) st = measure(b, &g, &t[sparse]);
    if (!st) s[sparse] = count(&g);
    for (int i = 0; i < made; i++) lc_weight_detach(ctx, w[i], g.d[i], true);
    if (st) goto done;
  }
  const double read = c->read[lc_min64(c->threads, LC_CEILINGS_THREADS)];
  const double fuse = s[0].flop / c->f32 + s[0].whole / read,
               least = fuse + s[0].whole / read; /* on, and off: a copy */
  const double allowed = s[1].whole / s[1].touched;
  lc_bench_row(b, json_pack("{s:s, s:s, s:f, s:f, s:f}", "delta", "lora", "on", what, "seconds", t[0],
                            "bound", least, "of_bound", least / t[0]));
  lc_bench_row(b,
               json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "delta", "sparse", "on", what, "seconds", t[1],
                         "faster", t[0] / t[1], "lines_allow", allowed, "of_allowed", t[0] / t[1] / allowed));
done:
  lc_free(ctx, g.d);
  return st;
}

static lc_status one_matrix(lc_bench_run *b) {
  enum { N = 4096 };
  lc_ctx *ctx = b->cli->ctx;
  lc_form *form;
  float *x = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)N * N, sizeof *x);
  if (!x) return LC_FAILED;
  const lc_rng rng = {.seed = 2, .purpose = LC_RNG_TEST};
  lc_rng_uniform_fill(&rng, 0, (int64_t)N * N, x);
  const lc_tensor src = {x, LC_F32, 2, {N, N}};
  lc_status st = lc_form_view(ctx, &src, false, NULL, &form);
  if (!st) {
    lc_weight w = {.name = "matrix.weight",
                   .module = "matrix",
                   .id = 1,
                   .kind = LC_KIND_LINEAR,
                   .M = N,
                   .N = N,
                   .ndim = 2,
                   .base = form,
                   .form = form},
              *all[1] = {&w};
    st = run_group(b, all, 1, "4096x4096");
    lc_form_free(ctx, form);
  }
  lc_free(ctx, x);
  return st;
}

lc_status lc_bench_switch(lc_bench_run *b) {
  if (!b->opts->model) return one_matrix(b);
  lc_loaded l;
  lc_weight **w;
  int n;
  LC_TRY(lc_cli_load(b->cli, b->opts->model, LC_F32, LC_PATCH, false, &l));
  lc_status st = lc_targets(l.net, "all-linear", &w, &n);
  if (!st) {
    st = run_group(b, w, n, "model");
    lc_free(b->cli->ctx, w);
  }
  lc_cli_unload(&l);
  return st;
}
