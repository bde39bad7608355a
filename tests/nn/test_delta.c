/* Deltas on a small Llama: sparse and low-rank, on f32, bf16 and quantised weights. A delta that is nothing
 * leaves the base's bits; patch, in place and aside agree; sampled gradients are the dense ones gathered;
 * LoRA's are s·dW·Aᵀ and s·Bᵀ·dW, with dropout by finite differences; the same bits for one thread and two.
 * */
#include "kernels/kernels.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { T = 29 };
static lc_ctx *ctx;
static int32_t ids[T];

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  for (int t = 0; t < T; t++) ids[t] = (t * 37 + 11) % 300;
  return lc_ctx_new(2, &ctx, why);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

typedef struct {
  char *dir;
  lc_model *m;
  lc_net *net;
} tiny;

static tiny open_tiny(lc_dtype dtype, lc_dtype compute) {
  tiny t = {.dir = lc_tiny_dir()};
  lc_tiny d = LC_TINY_LLAMA;
  const bool quantised = lc_dtype_get(dtype)->quantised;
  d.dtype = dtype;
  ok(quantised ? lc_tiny_gguf(ctx, &d, lc_tiny_path(t.dir, "m.gguf")) : lc_tiny_hf(ctx, &d, t.dir));
  ok(lc_model_open(ctx, quantised ? lc_tiny_path(t.dir, "m.gguf") : t.dir, &t.m));
  ok(lc_net_new(t.m, compute, &t.net));
  return t;
}

static void close_tiny(tiny *t) {
  lc_net_free(t->net);
  lc_model_close(t->m);
  ok(lc_remove_tree(ctx, t->dir));
  free(t->dir);
}

static float *logits(lc_net *net) {
  float *l = malloc(T * 300 * sizeof *l);
  ok(lc_tiny_logits(net, ids, T, l));
  return l;
}

static double loss_of(lc_net *net, bool backward) {
  double loss;
  ok(lc_tiny_loss(net, ids, ids, T, backward, &loss));
  return loss;
}

static lc_delta *attach_sparse(lc_weight *w, int64_t K, uint64_t seed, bool zero, bool trainable) {
  const lc_rng rng = {.seed = seed, .tensor = w->id, .purpose = LC_RNG_TEST};
  int64_t *flat = malloc((size_t)K * sizeof *flat);
  float *value = malloc((size_t)K * sizeof *value);
  lc_index idx;
  lc_delta *d;
  ok(lc_rng_choose(ctx, &rng, w->M * w->N, K, flat));
  lc_rng_normal_fill(&rng, 1u << 30, K, value);
  for (int64_t k = 0; k < K; k++) value[k] *= 0.3f;
  ok(lc_index_new(ctx, w->M, w->N, flat, K, &idx));
  ok(lc_delta_sparse_new(ctx, w, &idx, zero ? NULL : value, trainable, &d));
  ok(lc_weight_attach(ctx, w, d));
  free(flat);
  free(value);
  return d;
}

static lc_delta *attach_lora(lc_weight *w, lc_lora_opts o, bool zero, bool trainable) {
  const lc_rng rng = {.seed = o.seed, .tensor = w->id, .purpose = LC_RNG_TEST};
  float *B = malloc((size_t)(w->M * o.rank) * sizeof *B);
  lc_delta *d;
  lc_rng_normal_fill(&rng, 0, w->M * o.rank, B);
  for (int64_t k = 0; k < w->M * o.rank; k++) B[k] *= 0.2f;
  ok(lc_delta_lora_new(ctx, w, &o, NULL, zero ? NULL : B, trainable, &d));
  ok(lc_weight_attach(ctx, w, d));
  free(B);
  return d;
}

static const lc_lora_opts lora8 = {.rank = 4, .alpha = 8, .seed = 3};

static int each_linear(lc_net *net, lc_weight **out) {
  int n = 0;
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].kind == LC_KIND_LINEAR) out[n++] = &net->weights.w[i];
  return n;
}

/* ---- at zero, the base's bits ---- */

static void test_zero_is_the_base(void **state) {
  static const lc_dtype forms[] = {LC_F32, LC_BF16, LC_F16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  for (int f = 0; f < 6; f++)
    for (int c = 0; c < 2; c++) {
      tiny t = open_tiny(forms[f], c ? LC_BF16 : LC_F32);
      lc_weight *w[64];
      const int n = each_linear(t.net, w);
      float *base = logits(t.net);
      const double loss = loss_of(t.net, false);
      for (int i = 0; i < n; i++) attach_sparse(w[i], 60, 1, true, true);
      for (int i = 0; i < n; i++) attach_lora(w[i], lora8, true, true);
      float *zero = logits(t.net);
      assert_memory_equal(base, zero, T * 300 * sizeof *base);
      assert_true(loss == loss_of(t.net, true));
      for (int i = 0; i < n; i++) { /* not nothing, but at scale 0 */
        attach_sparse(w[i], 60, 2, false, false)->scale = 0;
        attach_lora(w[i], lora8, false, false)->scale = 0;
      }
      free(zero);
      zero = logits(t.net);
      assert_memory_equal(base, zero, T * 300 * sizeof *base);
      free(zero);
      free(base);
      close_tiny(&t);
    }
}

/* ---- one meaning, three modes ---- */

/* W + Σ s·δ made by hand, as the weight's own form. */
static void dense_weight(const lc_weight *w, lc_delta *const *d, int n, float *out) {
  ok(w->base->ops->decode(ctx, w->base, (lc_rect){0, w->M, 0, w->N}, LC_F32, out, w->N));
  for (int i = 0; i < n; i++) {
    const lc_param *p = d[i]->param[0], *b = d[i]->param[1];
    if (d[i]->ops == &lc_delta_sparse)
      for (int64_t k = 0; k < p->n; k++) out[lc_index_at(&p->idx, k)] += d[i]->scale * p->value[k];
    else
      for (int64_t r = 0; r < w->M; r++)
        for (int64_t c = 0; c < w->N; c++)
          for (int64_t q = 0; q < p->rows; q++)
            out[r * w->N + c] += d[i]->scale * lc_delta_lora_scale(d[i]) * b->value[r * p->rows + q] *
                                 p->value[q * p->cols + c];
  }
}

static void test_modes_agree(void **state) {
  static const lc_dtype forms[] = {LC_F32, LC_Q4_1};
  for (int f = 0; f < 2; f++) {
    tiny t = open_tiny(forms[f], LC_F32);
    lc_weight *w[64];
    lc_delta *d[64][2];
    const int n = each_linear(t.net, w);
    float *base = logits(t.net);
    for (int i = 0; i < n; i++) {
      d[i][0] = attach_sparse(w[i], 80, 5, false, false);
      d[i][1] = attach_lora(w[i], lora8, false, false);
      d[i][0]->scale = 0.75f;
      d[i][1]->scale = 1.5f;
    }
    float *patched = logits(t.net);
    assert_true(lc_tiny_error(patched, base, T * 300) > 0.05);
    for (int i = 0; i < n; i++) {
      d[i][0]->apply = d[i][1]->apply = LC_IN_PLACE;
      ok(lc_weight_refresh(ctx, w[i]));
    }
    float *placed = logits(t.net);
    assert_true(lc_tiny_error(placed, patched, T * 300) < 2e-5);
    for (int i = 0; i < n; i++) { /* the private copy holds base + deltas */
      float *want = malloc((size_t)(w[i]->M * w[i]->N) * sizeof *want), *x = malloc((size_t)w[i]->N * 4),
            *y = calloc((size_t)w[i]->M, 4);
      const void *tile;
      int64_t ld;
      dense_weight(w[i], d[i], 2, want);
      ok(lc_weight_tile(ctx, 0, w[i], (lc_rect){0, w[i]->M, 0, w[i]->N}, LC_F32, &tile, &ld));
      assert_true(lc_tiny_error(tile, want, w[i]->M * w[i]->N) < 1e-6);
      /* aside: one token, rows in two parts, over the base product */
      const lc_rng rng = {.seed = 8, .purpose = LC_RNG_TEST};
      lc_rng_normal_fill(&rng, 0, w[i]->N, x);
      ok(lc_delta_sparse.aside(ctx, d[i][0], 0, 17, x, y));
      ok(lc_delta_sparse.aside(ctx, d[i][0], 17, w[i]->M, x, y + 17));
      float *dense = malloc((size_t)(w[i]->M * w[i]->N) * 4);
      ok(w[i]->base->ops->decode(ctx, w[i]->base, (lc_rect){0, w[i]->M, 0, w[i]->N}, LC_F32, dense, w[i]->N));
      lc_delta *one[1] = {d[i][0]};
      dense_weight(w[i], one, 1, want);
      for (int64_t r = 0; r < w[i]->M; r++) {
        double sum = 0;
        for (int64_t c = 0; c < w[i]->N; c++)
          sum += ((double)want[r * w[i]->N + c] - (double)dense[r * w[i]->N + c]) * (double)x[c];
        assert_true(fabs(sum - (double)y[r]) < 1e-5);
      }
      free(want);
      free(dense);
      free(x);
      free(y);
    }
    for (int i = 0; i < n; i++)
      for (int k = 0; k < 2; k++) lc_weight_detach(ctx, w[i], d[i][k], true);
    float *after = logits(t.net);
    assert_memory_equal(after, base, T * 300 * sizeof *base);
    free(base);
    free(patched);
    free(placed);
    free(after);
    close_tiny(&t);
  }
}

/* Any rectangle of the patch is that part of the whole; bf16 rounds base plus change once. */
static void test_patch_rectangles(void **state) {
  tiny t = open_tiny(LC_BF16, LC_F32);
  lc_weight *w = lc_net_weight(t.net, "model.layers.0.mlp.up_proj.weight");
  lc_delta *d = attach_sparse(w, 500, 4, false, false);
  const int64_t M = w->M, N = w->N;
  float *whole = calloc((size_t)(M * N), 4), *tile = malloc((size_t)(M * N) * 4);
  uint16_t *half = malloc((size_t)(M * N) * 2);
  ok(lc_delta_sparse.patch(ctx, d, (lc_rect){0, M, 0, N}, whole, N));
  for (int64_t k = 0, n = 0; k < M * N; k++) {
    const bool has = lc_index_has(&d->param[0]->idx, k);
    assert_true(whole[k] == (has ? d->param[0]->value[n] : 0));
    n += has;
  }
  const lc_rng rng = {.seed = 4, .purpose = LC_RNG_TEST};
  for (int i = 0; i < 300; i++) {
    lc_rect q;
    q.r0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i), (uint64_t)M);
    q.c0 = (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 1), (uint64_t)N);
    q.r1 = q.r0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 2), (uint64_t)(M - q.r0));
    q.c1 = q.c0 + 1 + (int64_t)lc_rng_below(&rng, (uint64_t)(4 * i + 3), (uint64_t)(N - q.c0));
    const int64_t rows = q.r1 - q.r0, cols = q.c1 - q.c0, ld = cols + i % 3;
    for (int64_t k = 0; k < M * N; k++) tile[k] = 1, half[k] = lc_f32_to_bf16(1.5f);
    if (rows * ld > M * N) continue;
    ok(lc_delta_sparse.patch(ctx, d, q, tile, ld));
    ok(lc_delta_sparse.patch_bf16(ctx, d, q, half, ld));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) {
        const float v = whole[(q.r0 + r) * N + q.c0 + c];
        assert_true(tile[r * ld + c] == 1 + v);
        assert_int_equal(half[r * ld + c], lc_f32_to_bf16(1.5f + v));
      }
  }
  free(whole);
  free(tile);
  free(half);
  close_tiny(&t);
}

/* ---- gradients ---- */

typedef struct {
  float *dense;
  int64_t N;
} collector;

static lc_status collect(void *self, lc_weight *w, const lc_tile *t) {
  collector *c = self;
  for (int64_t r = t->at.r0; r < t->at.r1; r++)
    memcpy(c->dense + r * c->N + t->at.c0, t->dw + (r - t->at.r0) * t->ld, (size_t)(t->at.c1 - t->at.c0) * 4);
  return LC_OK;
}

static void test_gradients(void **state) {
  for (int compute = 0; compute < 2; compute++) {
    tiny t = open_tiny(LC_F32, compute ? LC_BF16 : LC_F32);
    lc_weight *w[64];
    const int n = each_linear(t.net, w);
    collector c[64];
    lc_delta *s[64], *l[64];
    for (int i = 0; i < n; i++) {
      s[i] = attach_sparse(w[i], 100, 6, false, true);
      l[i] = attach_lora(w[i], lora8, false, true);
      c[i] = (collector){calloc((size_t)(w[i]->M * w[i]->N), 4), w[i]->N};
      ok(lc_weight_add_sink(ctx, w[i], (lc_sink){.kind = LC_SINK_TILES, .tile = collect, .self = &c[i]}));
    }
    loss_of(t.net, true);
    for (int i = 0; i < n; i++) {
      const int64_t M = w[i]->M, N = w[i]->N, R = lora8.rank;
      const lc_param *p = s[i]->param[0], *A = l[i]->param[0], *B = l[i]->param[1];
      float *want = malloc((size_t)lc_max64(100, lc_max64(M, N) * R) * 4);
      for (int64_t k = 0; k < p->n; k++) want[k] = c[i].dense[lc_index_at(&p->idx, k)];
      assert_true(lc_tiny_error(p->grad, want, p->n) < 1e-5);
      const double scale = 2,
                   limit = compute ? 2e-2
                                   : 1e-5; /* bf16: dW is made from rounded factors, LoRA's from the same */
      for (int64_t m = 0; m < M; m++)      /* dB = s·dW·Aᵀ */
        for (int64_t r = 0; r < R; r++) {
          double sum = 0;
          for (int64_t k = 0; k < N; k++) sum += (double)c[i].dense[m * N + k] * (double)A->value[r * N + k];
          want[m * R + r] = (float)(scale * sum);
        }
      if (!(lc_tiny_error(B->grad, want, M * R) < limit))
        fail_msg("%s: dB off by %g", w[i]->name, lc_tiny_error(B->grad, want, M * R));
      for (int64_t r = 0; r < R; r++) /* dA = s·Bᵀ·dW */
        for (int64_t k = 0; k < N; k++) {
          double sum = 0;
          for (int64_t m = 0; m < M; m++) sum += (double)c[i].dense[m * N + k] * (double)B->value[m * R + r];
          want[r * N + k] = (float)(scale * sum);
        }
      if (!(lc_tiny_error(A->grad, want, N * R) < limit))
        fail_msg("%s: dA off by %g", w[i]->name, lc_tiny_error(A->grad, want, N * R));
      free(want);
    }
    for (int i = 0; i < n; i++) {
      lc_weight_remove_sink(w[i], &c[i]);
      free(c[i].dense);
    }
    close_tiny(&t);
  }
}

/* A sparse change of an embedding (tied to the head or not), of the head, of position embeddings: its gradient is the
 * dense one's at its positions. */
static void test_outer_gradients(void **state) {
  for (int kind = 0; kind < 3; kind++) {
    tiny t = {.dir = lc_tiny_dir()};
    lc_tiny d = kind == 2 ? LC_TINY_GPT2 : LC_TINY_LLAMA;
    lc_net *dense;
    d.tied = kind != 1;
    ok(lc_tiny_hf(ctx, &d, t.dir));
    ok(lc_model_open(ctx, t.dir, &t.m));
    ok(lc_net_new(t.m, LC_F32, &t.net));
    ok(lc_net_new(t.m, LC_F32, &dense));
    ok(lc_net_train_whole(dense, NULL, NULL));
    for (int i = 0; i < t.net->weights.n; i++)
      if (t.net->weights.w[i].ndim == 2 && t.net->weights.w[i].kind != LC_KIND_LINEAR)
        attach_sparse(&t.net->weights.w[i], 500, 6, true, true);
    loss_of(t.net, true);
    loss_of(dense, true);
    int found = 0;
    for (int i = 0; i < t.net->weights.n; i++) {
      if (!t.net->weights.w[i].n_delta) continue;
      const lc_param *p = t.net->weights.w[i].delta[0]->param[0];
      for (int k = 0; k < dense->n_own; k++) {
        if (dense->own[k]->of != &dense->weights.w[i]) continue;
        float want[500];
        for (int64_t e = 0; e < p->n; e++) want[e] = dense->own[k]->grad[lc_index_at(&p->idx, e)];
        if (!(lc_tiny_error(p->grad, want, p->n) < 1e-5)) fail_msg("%s: off", p->name);
        found++;
      }
    }
    assert_int_equal(found, kind ? 2 : 1);
    lc_net_free(dense);
    close_tiny(&t);
  }
}

static void zero_gradients(lc_param **p, int n) {
  for (int i = 0; i < n; i++) memset(p[i]->grad, 0, (size_t)p[i]->n * 4);
}

/* Along each trainable's own gradient: (L(θ+h·g) − L(θ−h·g)) / 2h = ‖g‖², with dropout's mask the same each
 * time. Gradients of everything below run through the op's dx. */
static void test_finite_differences(void **state) {
  tiny t = open_tiny(LC_F32, LC_F32);
  lc_weight *w[64];
  const int n = each_linear(t.net, w);
  lc_lora_opts o = lora8;
  o.dropout = 0.3f;
  for (int i = 0; i < n; i++) {
    attach_sparse(w[i], 100, 6, false, true);
    attach_lora(w[i], o, false, true);
  }
  lc_param **p;
  int n_p;
  ok(lc_net_params(t.net, &p, &n_p));
  assert_int_equal(n_p, 3 * n);
  assert_true(loss_of(t.net, true) != loss_of(t.net, false)); /* dropout does something, in training only */
  for (int i = 0; i < n_p; i++) {
    double norm2 = 0, h;
    zero_gradients(p, n_p);
    loss_of(t.net, true);
    float *g = malloc((size_t)p[i]->n * 4), *v = malloc((size_t)p[i]->n * 4);
    memcpy(g, p[i]->grad, (size_t)p[i]->n * 4);
    memcpy(v, p[i]->value, (size_t)p[i]->n * 4);
    for (int64_t k = 0; k < p[i]->n; k++) norm2 += (double)g[k] * (double)g[k];
    h = 5e-3 / norm2; /* a change of the loss by about 1e-2, to first order */
    double side[2];
    for (int s = 0; s < 2; s++) {
      for (int64_t k = 0; k < p[i]->n; k++) p[i]->value[k] = v[k] + (float)((s ? -h : h) * (double)g[k]);
      side[s] = loss_of(t.net, true);
    }
    memcpy(p[i]->value, v, (size_t)p[i]->n * 4);
    const double got = (side[0] - side[1]) / (2 * h);
    if (!(fabs(got - norm2) < 0.02 * norm2))
      fail_msg("%s: ‖g‖² %g, by differences %g", p[i]->name, norm2, got);
    free(g);
    free(v);
  }
  lc_free(ctx, p);
  close_tiny(&t);
}

/* ---- same bits for any number of threads ---- */

static uint64_t bits_with(int threads, lc_dtype compute) {
  lc_ctx *before = ctx;
  char why[256];
  uint64_t h = 1469598103934665603u;
  if (lc_ctx_new(threads, &ctx, why)) fail_msg("%s", why);
  tiny t = open_tiny(LC_BF16, compute);
  lc_weight *w[64];
  const int n = each_linear(t.net, w);
  lc_lora_opts o = lora8;
  o.dropout = 0.1f;
  for (int i = 0; i < n; i++) {
    attach_sparse(w[i], 100, 6, false, true);
    attach_lora(w[i], o, false, true);
  }
  loss_of(t.net, true);
  lc_param **p;
  int n_p;
  ok(lc_net_params(t.net, &p, &n_p));
  for (int i = 0; i < n_p; i++)
    for (int64_t k = 0; k < p[i]->n; k++) {
      uint32_t b;
      memcpy(&b, &p[i]->grad[k], 4);
      h = (h ^ b) * 1099511628211u;
    }
  lc_free(ctx, p);
  close_tiny(&t);
  lc_ctx_free(ctx);
  ctx = before;
  return h;
}

static void test_same_bits(void **state) {
  for (int c = 0; c < 2; c++) {
    const lc_dtype compute = c ? LC_BF16 : LC_F32;
    const uint64_t one = bits_with(1, compute);
    assert_true(one == bits_with(1, compute));
    assert_true(one == bits_with(2, compute));
    assert_true(one == bits_with(3, compute));
  }
}

/* ---- refusals, and what is freed ---- */

static void refused(lc_status st, const char *says) {
  assert_int_equal(st, LC_FAILED);
  if (!strstr(lc_error(ctx), says)) fail_msg("says '%s', expected '%s'", lc_error(ctx), says);
  lc_error_clear(ctx);
}

static void test_refusals(void **state) {
  tiny t = open_tiny(LC_F32, LC_F32);
  lc_weight *linear = lc_net_weight(t.net, "model.layers.0.self_attn.q_proj.weight"),
            *norm = lc_net_weight(t.net, "model.norm.weight");
  lc_weight *embedding = lc_net_weight(t.net, "model.embed_tokens.weight");
  lc_delta *d = NULL;
  const size_t before =
      lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE) + lc_mem_bytes(ctx, LC_MEM_GRAD);
  const int64_t at[2] = {3, 5};
  lc_index idx;
  ok(lc_index_new(ctx, 1, 64, at, 2, &idx));
  refused(lc_delta_sparse_new(ctx, norm, &idx, NULL, true, &d), "is a vector");
  lc_index_free(ctx, &idx);
  const int64_t far = linear->M * linear->N;
  ok(lc_index_new(ctx, 4096, 4096, &far, 1, &idx));
  refused(lc_delta_sparse_new(ctx, linear, &idx, NULL, true, &d), "not inside");
  lc_index_free(ctx, &idx);
  lc_lora_opts o = lora8;
  refused(lc_delta_lora_new(ctx, norm, &o, NULL, NULL, true, &d), "linear layers only");
  refused(lc_delta_lora_new(ctx, embedding, &o, NULL, NULL, true, &d), "linear layers only");
  o.rank = 0;
  refused(lc_delta_lora_new(ctx, linear, &o, NULL, NULL, true, &d), "rank 0");
  o.rank = 4, o.dropout = 1;
  refused(lc_delta_lora_new(ctx, linear, &o, NULL, NULL, true, &d), "dropout 1");
  assert_null(d);
  assert_int_equal(linear->n_sink + embedding->n_sink + norm->n_sink, 0);
  assert_int_equal(lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE) +
                       lc_mem_bytes(ctx, LC_MEM_GRAD),
                   before);
  for (int i = 0; i < LC_MAX_DELTAS; i++) attach_sparse(linear, 10, (uint64_t)i, false, i == 0);
  ok(lc_index_new(ctx, linear->M, linear->N, at, 2, &idx));
  ok(lc_delta_sparse_new(ctx, linear, &idx, NULL, false, &d));
  refused(lc_weight_attach(ctx, linear, d), "the most");
  d->ops->free(ctx, d);
  while (linear->n_delta) lc_weight_detach(ctx, linear, linear->delta[0], true);
  assert_int_equal(linear->n_sink, 0);
  ok(lc_net_train_whole(t.net, NULL, NULL)); /* what is trained as a whole takes no delta */
  ok(lc_index_new(ctx, linear->M, linear->N, at, 2, &idx));
  ok(lc_delta_sparse_new(ctx, linear, &idx, NULL, false, &d));
  refused(lc_weight_attach(ctx, linear, d), "as a whole");
  d->ops->free(ctx, d);
  close_tiny(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_zero_is_the_base), cmocka_unit_test(test_modes_agree),
      cmocka_unit_test(test_patch_rectangles), cmocka_unit_test(test_gradients),
      cmocka_unit_test(test_outer_gradients),  cmocka_unit_test(test_finite_differences),
      cmocka_unit_test(test_same_bits),        cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
