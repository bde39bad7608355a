/* rope_table: cos | sin of every row's angles (T,dim), once a pass; rope: rotates heads by it (Su et al. 2021), halves paired as Hugging Face
 * does: (x_i, x_{i+dim/2}).
 *
 * inv_freq_i = theta^(-2i/dim), changed by the extensions:
 *   linear    positions / factor (kaiokendev 2023)
 *   dynamic   theta' = theta·(factor·n/original − (factor−1))^(dim/(dim−2)) for a sequence of n > original positions (NTK-aware)
 *   yarn      interpolated (÷factor) below beta_slow rotations over the original context, untouched above beta_fast, a ramp between;
 *             cos and sin times 0.1·ln(factor)+1 (Peng et al. 2023)
 *   llama3    wavelengths above original/low_freq_factor ÷factor, below original/high_freq_factor untouched, smooth between */
#include "kernels/kernels.h"
#include "nn/ops.h"
#include <math.h>

/* ---- frequencies ---- */

static double yarn_dim(const lc_rope *r, double rotations) {
  return (double)r->dim * log((double)r->original_context / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

static void yarn_frequencies(const lc_rope *r, double *inv) {
  double low = yarn_dim(r, r->beta_fast), high = yarn_dim(r, r->beta_slow);
  if (r->truncate) low = floor(low), high = ceil(high);
  low = fmax(low, 0);
  high = fmin(high, (double)r->dim - 1);
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < r->dim / 2; i++) {
    double ramp = fmin(1, fmax(0, ((double)i - low) / (high - low)));
    inv[i] = inv[i] / r->factor * ramp + inv[i] * (1 - ramp);
  }
}

static void llama3_frequencies(const lc_rope *r, double *inv) {
  double longest = (double)r->original_context / r->low_freq_factor,
         shortest = (double)r->original_context / r->high_freq_factor;
  for (int64_t i = 0; i < r->dim / 2; i++) {
    double wave = 2 * M_PI / inv[i];
    if (wave < shortest) continue;
    double smooth = ((double)r->original_context / wave - r->low_freq_factor) /
                    (r->high_freq_factor - r->low_freq_factor);
    inv[i] = wave > longest ? inv[i] / r->factor : (1 - smooth) * inv[i] / r->factor + smooth * inv[i];
  }
}

/* n: positions of the sequence so far. */
static void frequencies(const lc_rope *r, int64_t n, double *inv) {
  double theta = r->theta, dim = (double)r->dim;
  if (r->type == LC_ROPE_DYNAMIC && n > r->original_context)
    theta *= pow(r->factor * (double)n / (double)r->original_context - (r->factor - 1), dim / (dim - 2));
  for (int64_t i = 0; i < r->dim / 2; i++) inv[i] = 1 / pow(theta, 2 * (double)i / dim);
  if (r->type == LC_ROPE_LINEAR)
    for (int64_t i = 0; i < r->dim / 2; i++) inv[i] /= r->factor;
  if (r->type == LC_ROPE_YARN) yarn_frequencies(r, inv);
  if (r->type == LC_ROPE_LLAMA3 && !r->factors) llama3_frequencies(r, inv);
  for (int64_t i = 0; r->factors && i < r->dim / 2; i++) inv[i] /= (double)r->factors[i];
}

static double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double attention_factor(const lc_rope *r) {
  if (r->type != LC_ROPE_YARN) return 1;
  if (r->attention_factor > 0) return r->attention_factor;
  if (r->mscale > 0 && r->mscale_all_dim > 0)
    return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
  return yarn_mscale(r->factor, 1);
}

/* ---- rope_table ---- */

enum { MAX_HALF = 256 };

static lc_status table_shape(lc_graph *g, lc_node *n) {
  const lc_rope *r = n->attr;
  lc_ctx *ctx = lc_graph_ctx(g);
  if (r->dim <= 0 || r->dim % 2 || r->dim > 2 * MAX_HALF)
    return lc_fail(ctx, "rotary width %lld: even numbers up to %d are possible", (long long)r->dim,
                   2 * MAX_HALF);
  if (!(r->theta > 0) || (r->type != LC_ROPE_DEFAULT && !(r->factor > 0)))
    return lc_fail(ctx, "rotary base %g and factor %g must be positive", r->theta, r->factor);
  return lc_node_out(g, n, 0, "rope_table", LC_F32, r->dim);
}

static lc_status table_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  const lc_rope *r = n->attr;
  const int32_t *pos = lc_data(run, n->in[0]);
  float *out = lc_data(run, n->out[0]);
  double inv[MAX_HALF], scale = attention_factor(r);
  int64_t half = r->dim / 2;
  for (int s = 0; s < run->n_seg; s++) {
    int64_t longest = 0;
    for (int64_t t = run->seg[s].row0; t < run->seg[s].row1; t++) longest = lc_max64(longest, pos[t]);
    frequencies(r, longest + 1, inv);
    for (int64_t t = lc_max64(r0, run->seg[s].row0); t < lc_min64(r1, run->seg[s].row1); t++)
      for (int64_t i = 0; i < half; i++) {
        double angle = (double)((float)pos[t] * (float)inv[i]); /* rounded as the reference does */
        out[t * r->dim + i] = (float)(cos(angle) * scale);
        out[t * r->dim + half + i] = (float)(sin(angle) * scale);
      }
  }
  return LC_OK;
}

const lc_op lc_op_rope_table = {.name = "rope_table", .shape = table_shape, .forward = table_forward};

/* ---- rope ---- */

static lc_status rope_shape(lc_graph *g, lc_node *n) {
  const lc_rotate_attr *a = n->attr;
  const lc_value *x = lc_value_get(g, n->in[0]), *table = lc_value_get(g, n->in[1]);
  if (!x || !table || x->width != a->heads * a->head_dim || table->width > a->head_dim)
    return lc_fail(lc_graph_ctx(g), "rope: %lld heads of %lld do not fit the input of %lld columns",
                   (long long)a->heads, (long long)a->head_dim, x ? (long long)x->width : 0LL);
  return lc_node_out(g, n, 0, "rope", x->dtype, x->width);
}

static uint32_t rope_saves(const lc_node *n, uint32_t want) {
  return want ? LC_IN(1) : 0;
}

static void rotate_row(const lc_node *n, lc_run *run, int64_t t, float sign, float *x) {
  const lc_rotate_attr *a = n->attr;
  int64_t dim = lc_width(run, n->in[1]);
  const float *cs = (const float *)lc_data(run, n->in[1]) + t * dim;
  for (int64_t h = 0; h < a->heads; h++)
    lc_kernels_get(run->ctx)->rope(dim, cs, cs + dim / 2, sign, x + h * a->head_dim);
}

static lc_status rope_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = lc_scratch(run->ctx, worker, 0, (size_t)(2 * C) * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t t = r0; t < r1; t++) {
    const float *x = lc_row_get(run, n->in[0], t, tmp);
    for (int64_t i = 0; i < C; i++) tmp[C + i] = x[i];
    rotate_row(n, run, t, 1, tmp + C);
    lc_row_put(run, n->out[0], t, tmp + C);
  }
  return LC_OK;
}

static lc_status rope_back_rows(const lc_node *n, lc_run *run, int64_t r0, int64_t r1, int worker) {
  int64_t C = lc_width(run, n->in[0]);
  float *tmp = lc_scratch(run->ctx, worker, 0, (size_t)(2 * C) * sizeof *tmp);
  if (!tmp) return LC_FAILED;
  for (int64_t t = r0; t < r1; t++) {
    const float *dy = lc_grad_row_get(run, n->out[0], t, tmp);
    for (int64_t i = 0; i < C; i++) tmp[C + i] = dy[i];
    rotate_row(n, run, t, -1, tmp + C);
    lc_grad_row_put(n, run, 0, t, tmp + C);
  }
  return LC_OK;
}

static lc_status rope_forward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return lc_for_rows(n, run, r0, r1, 32, rope_rows);
}
static lc_status rope_backward(const lc_node *n, lc_run *run, int64_t r0, int64_t r1) {
  return n->want & LC_IN(0) ? lc_for_rows(n, run, r0, r1, 32, rope_back_rows) : LC_OK;
}

const lc_op lc_op_rope = {.name = "rope",
                          .flags = LC_OP_ROWWISE,
                          .shape = rope_shape,
                          .saves = rope_saves,
                          .forward = rope_forward,
                          .backward = rope_backward};
