/* bench switch: an adapter in place goes on and off again. A LoRA (whole matrices are computed again) beside deltas of as many values of which only the
 * entries are: a list at random places, whole rows, whole columns (a slice's). On f32 matrices of 2048×2048 and 4096×4096, or on all linear layers of a
 * model (-m); --density is the share of values, 0.01 unless told.
 *
 * The LoRA's bound, of this run's ceilings: on, base and copy once through the bandwidth of reading and 2·M·N·R operations; off, the bytes again. What the
 * lines allow the others: all bytes of base and copy against the lines of 64 bytes of the copy that hold entries and what is read beside them, 12 B an
 * entry of position, value and what lies under it (a slice has no positions: 8); each line once, or as it moves: base and copy one way, a line with
 * entries in and out. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "cli/bench.h"
#include "nn/slice.h"

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

typedef enum { LORA, LIST, ROWS, COLUMNS, KINDS } kind;
static const char *const kind_name[KINDS] = {"lora", "sparse", "rows", "columns"};

static int64_t rank_of(const lc_bench_run *b, const lc_weight *w) {
  return lc_max64(1,
                  (int64_t)llround(b->opts->train.density * (double)(w->M * w->N) / (double)(w->M + w->N)));
}

/* Values of a LoRA, and whole lines of that many. */
static int64_t values_of(const lc_bench_run *b, const lc_weight *w) {
  return rank_of(b, w) * (w->M + w->N);
}
static int64_t lines_in(const lc_bench_run *b, const lc_weight *w, kind what) {
  return lc_max64(1, values_of(b, w) / (what == ROWS ? w->N : w->M));
}

static lc_status make_list(lc_ctx *ctx, lc_weight *w, const lc_rng *rng, int64_t K, const float *v,
                           lc_delta **out) {
  lc_index idx = {0};
  lc_status st = LC_OK;
  int64_t *flat = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *flat);
  if (!flat) return LC_FAILED;
  LC_GO(lc_rng_choose(ctx, rng, w->M * w->N, K, flat));
  LC_GO(lc_index_new(ctx, w->M, w->N, flat, K, &idx));
  LC_GO(lc_delta_sparse_new(ctx, w, &idx, v, false, out));
done:
  lc_index_free(ctx, &idx);
  lc_free(ctx, flat);
  return st;
}

static lc_status make_slice(lc_ctx *ctx, lc_weight *w, const lc_rng *rng, kind what, int64_t k,
                            const float *v, lc_delta **out) {
  const lc_slice_opts o = {.axis = what == ROWS ? LC_SLICE_ROWS : LC_SLICE_COLUMNS, .count = k};
  lc_status st = LC_OK;
  int64_t *at = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)k, sizeof *at);
  int32_t *lines = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)k, sizeof *lines);
  if (!at || !lines) LC_GO(LC_FAILED);
  LC_GO(lc_rng_choose(ctx, rng, what == ROWS ? w->M : w->N, k, at));
  for (int64_t i = 0; i < k; i++) lines[i] = (int32_t)at[i];
  LC_GO(lc_delta_slice_new(ctx, w, &o, lines, false, out));
  memcpy((*out)->param[0]->value, v, (size_t)(*out)->param[0]->n * sizeof *v);
done:
  lc_free(ctx, at);
  lc_free(ctx, lines);
  return st;
}

static lc_status make(const lc_bench_run *b, lc_weight *w, kind what, lc_delta **out) {
  lc_ctx *ctx = b->cli->ctx;
  const lc_rng rng = {.seed = 1, .tensor = w->id, .purpose = LC_RNG_TEST};
  const int64_t r = rank_of(b, w), K = values_of(b, w);
  lc_status st = LC_OK;
  float *v = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)K, sizeof *v);
  if (!v) return LC_FAILED;
  lc_rng_normal_fill(&rng, 0, K, v);
  for (int64_t k = 0; k < K; k++) v[k] *= 0.01f;
  if (what == LIST) {
    LC_GO(make_list(ctx, w, &rng, K, v, out));
  } else if (what == LORA) {
    const lc_lora_opts o = {.rank = r, .alpha = (float)r};
    LC_GO(lc_delta_lora_new(ctx, w, &o, v, v + r * w->N, false, out));
  } else {
    LC_GO(make_slice(ctx, w, &rng, what, lines_in(b, w, what), v, out));
  }
  (*out)->apply = LC_IN_PLACE;
  st = lc_weight_attach(ctx, w, *out);
  if (st) (*out)->ops->free(ctx, *out);
done:
  lc_free(ctx, v);
  return st;
}

static double element(lc_dtype d) {
  return d == LC_F32 ? 4 : 2;
}

/* Lines of 64 bytes of the copy, whose rows lie one after another, that hold entries of the delta. */
static int64_t lines_of(const lc_delta *d) {
  const lc_weight *w = d->w;
  const int64_t size = (int64_t)element(w->form->src.dtype);
  int64_t n = 0, last = -1;
  lc_walk walk = {0, 0, w->M * w->N, -1, false};
  int64_t flat[64], got;
  while ((got = d->ops->walk(d, &walk, 64, flat)) > 0)
    for (int64_t i = 0; i < got; i++) {
      n += flat[i] * size / 64 != last;
      last = flat[i] * size / 64;
    }
  return n;
}

/* Once through: bytes of base and copy, of lines of the copy with entries, of what is read beside them; operations of the LoRA's products. */
typedef struct {
  double base, copy, touched, beside, flop;
} work;
static work count(const lc_bench_run *b, const group *g, kind what) {
  work s = {0};
  for (int i = 0; i < g->n; i++) {
    const lc_weight *w = g->w[i];
    const double entries = (double)(w->M * w->N);
    s.base += (double)w->base->ops->bytes(w->base);
    s.copy += entries * element(w->form->src.dtype);
    s.flop += 2 * entries * (double)rank_of(b, w);
    if (what == LORA) continue;
    s.touched += 64 * (double)lines_of(g->d[i]);
    s.beside += (what == LIST ? 12 : 8) * (double)g->d[i]->ops->nonzeros(g->d[i]);
  }
  return s;
}

/* The kind's deltas are attached, timed and counted, and go. */
static lc_status time_kind(lc_bench_run *b, const group *g, kind what, double *seconds, work *done) {
  lc_ctx *ctx = b->cli->ctx;
  lc_status st = LC_OK;
  int made = 0;
  for (; made < g->n && !st; made++) st = make(b, g->w[made], what, &g->d[made]);
  if (st) made--;
  if (!st) st = measure(b, g, seconds);
  if (!st) *done = count(b, g, what);
  for (int i = 0; i < made; i++) lc_weight_detach(ctx, g->w[i], g->d[i], true);
  return st;
}

static lc_status run_group(lc_bench_run *b, lc_weight **w, int n, const char *what) {
  lc_ctx *ctx = b->cli->ctx;
  const lc_ceilings *c = &b->ceilings;
  const double read = c->read[lc_min64(c->threads, LC_CEILINGS_THREADS)];
  lc_status st = LC_OK;
  group g = {ctx, w, lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)n, sizeof *g.d), n};
  double lora = 0;
  if (!g.d) return LC_FAILED;
  for (kind k = LORA; k < KINDS; k++) {
    double t = 0;
    work s = {0};
    LC_GO(time_kind(b, &g, k, &t, &s));
    if (k == LORA) {
      const double least = s.flop / c->f32 + 2 * (s.base + s.copy) / read;
      lora = t;
      lc_bench_row(b, json_pack("{s:s, s:s, s:f, s:f, s:f}", "delta", kind_name[k], "on", what, "seconds", t,
                                "bound", least, "of_bound", least / t));
      continue;
    }
    const double whole = s.base + s.copy, once = whole / (s.touched + s.beside),
                 moved = whole / (2 * s.touched + s.beside);
    lc_bench_row(b, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "delta", kind_name[k], "on", what,
                              "seconds", t, "faster", lora / t, "lines_allow", once, "of_allowed",
                              lora / t / once, "moves_allow", moved, "of_moves", lora / t / moved));
  }
done:
  lc_free(ctx, g.d);
  return st;
}

static lc_status one_matrix(lc_bench_run *b, int64_t N) {
  lc_ctx *ctx = b->cli->ctx;
  lc_form *form;
  float *x = lc_alloc_n(ctx, LC_MEM_OTHER, (size_t)(N * N), sizeof *x);
  if (!x) return LC_FAILED;
  const lc_rng rng = {.seed = 2, .purpose = LC_RNG_TEST};
  lc_rng_uniform_fill(&rng, 0, N * N, x);
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
    char name[32];
    snprintf(name, sizeof name, "%lldx%lld", (long long)N, (long long)N);
    st = run_group(b, all, 1, name);
    lc_form_free(ctx, form);
  }
  lc_free(ctx, x);
  return st;
}

lc_status lc_bench_switch(lc_bench_run *b) {
  if (!b->opts->model) {
    LC_TRY(one_matrix(b, 2048));
    return one_matrix(b, 4096);
  }
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
