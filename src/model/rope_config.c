/* The rotary embedding's configuration, in four spellings: rope_parameters (transformers 5), rope_scaling
 * beside rope_theta (before), llama.cpp's <arch>.rope.* metadata with an optional tensor of frequency
 * divisors, and lc_rope, which nn computes with.
 *
 * What transformers does with each type is its modeling_rope_utils; what llama.cpp does is its conversion
 * (llama3's scaling becomes the tensor rope_freqs.weight) and llama-context (yarn's factor on cos and sin is
 * 0.1·ln(factor)+1, times rope.scaling.attn_factor). */
#include "model/config.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

static const struct {
  const char *name;
  lc_rope_type type;
} types[] = {
    {"default", LC_ROPE_DEFAULT}, {"linear", LC_ROPE_LINEAR}, {"dynamic", LC_ROPE_DYNAMIC},
    {"yarn", LC_ROPE_YARN},       {"llama3", LC_ROPE_LLAMA3},
};
enum { N_TYPES = sizeof types / sizeof *types };

static const char *type_name(lc_rope_type t) {
  for (int i = 0; i < N_TYPES; i++)
    if (types[i].type == t) return types[i].name;
  return "?";
}

static lc_rope_type read_type(lc_reader *r) {
  const char *name = lc_read_str(r, "rope_type", NULL);
  if (!name) name = lc_read_str(r, "type", "default"); /* older */
  for (int i = 0; i < N_TYPES; i++)
    if (!strcmp(types[i].name, name)) return types[i].type;
  if (!r->st)
    r->st = lc_fail(
        r->ctx, "%s: '%srope_type' = \"%s\" is not supported (default, linear, dynamic, yarn and llama3 are)",
        r->path, r->where, name);
  return LC_ROPE_DEFAULT;
}

/* Keys of yarn: an absent or zero beta takes its default, as in transformers ("or 32"). */
static void read_yarn(lc_reader *r, lc_rope *rope) {
  rope->beta_fast = lc_read_num(r, "beta_fast", 32, 0, 1e6);
  rope->beta_slow = lc_read_num(r, "beta_slow", 1, 0, 1e6);
  if (rope->beta_fast == 0) rope->beta_fast = 32;
  if (rope->beta_slow == 0) rope->beta_slow = 1;
  rope->attention_factor = lc_read_num(r, "attention_factor", 0, 0, 1e6);
  rope->mscale = lc_read_num(r, "mscale", 0, 0, 1e6);
  rope->mscale_all_dim = lc_read_num(r, "mscale_all_dim", 0, 0, 1e6);
  rope->truncate = lc_read_bool(r, "truncate", true);
}

void lc_read_rope(lc_reader *top, lc_config *c) {
  lc_rope *rope = &c->rope;
  *rope = (lc_rope){.dim = c->D, .context = c->context, .original_context = c->context, .factor = 1};
  double theta = lc_read_num(top, "rope_theta", 10000, 1, 1e15);
  int64_t original = lc_read_int(top, "original_max_position_embeddings", 0, 1, LC_MAX_COUNT);
  const char *name = "rope_parameters";
  const json_t *inner = json_object_get(top->j, name);
  if (!inner || json_is_null(inner)) inner = json_object_get(top->j, name = "rope_scaling");
  rope->theta = theta;
  if (top->st || !inner || json_is_null(inner)) return;
  if (!json_is_object(inner)) {
    top->st = lc_fail(top->ctx, "%s: '%s' is not an object", top->path, name);
    return;
  }
  char where[32];
  snprintf(where, sizeof where, "%s.", name);
  lc_reader r = {.ctx = top->ctx, .path = top->path, .where = where, .j = inner};
  static const lc_refusal refused[] = {{"partial_rotary_factor", 1, NULL},
                                       {"full_attention", NAN, NULL},
                                       {"sliding_attention", NAN, NULL},
                                       {"mrope_section", NAN, NULL}};
  lc_read_refuse(&r, refused, sizeof refused / sizeof *refused);
  rope->type = read_type(&r);
  rope->theta = lc_read_num(&r, "rope_theta", theta, 1, 1e15);
  int64_t inner_original = lc_read_int(&r, "original_max_position_embeddings", c->context, 1, LC_MAX_COUNT);
  rope->original_context = original ? original : inner_original;
  bool derived = rope->type == LC_ROPE_YARN || rope->type == LC_ROPE_DEFAULT; /* the others must give it */
  rope->factor = lc_read_num(&r, "factor",
                             derived ? (double)c->context / (double)rope->original_context : NAN, 1e-6, 1e6);
  if (rope->type == LC_ROPE_DEFAULT) rope->factor = 1;
  if (rope->type == LC_ROPE_YARN) read_yarn(&r, rope);
  if (rope->type == LC_ROPE_LLAMA3) {
    rope->low_freq_factor = lc_read_num(&r, "low_freq_factor", NAN, 1e-6, 1e6);
    rope->high_freq_factor = lc_read_num(&r, "high_freq_factor", NAN, 1e-6, 1e6);
    if (!r.st && rope->low_freq_factor == rope->high_freq_factor)
      r.st = lc_fail(r.ctx, "%s: '%slow_freq_factor' and '%shigh_freq_factor' are both %g", r.path, where,
                     where, rope->low_freq_factor);
  }
  top->st = r.st;
}

static void put(json_t *o, const char *key, double v) {
  json_object_set_new(o, key, json_real(v));
}

struct json_t *lc_rope_json(lc_ctx *ctx, const lc_rope *r) {
  if (r->factors) {
    lc_fail(ctx, "the model's rope_freqs.weight is not llama3's: no config.json can say it");
    return NULL;
  }
  json_t *o = json_object();
  if (!o) {
    lc_fail(ctx, "out of memory");
    return NULL;
  }
  json_object_set_new(o, "rope_type", json_string(type_name(r->type)));
  put(o, "rope_theta", r->theta);
  if (r->type != LC_ROPE_DEFAULT) put(o, "factor", r->factor);
  if (r->type == LC_ROPE_YARN || r->type == LC_ROPE_LLAMA3)
    json_object_set_new(o, "original_max_position_embeddings", json_integer(r->original_context));
  if (r->type == LC_ROPE_YARN) {
    put(o, "beta_fast", r->beta_fast);
    put(o, "beta_slow", r->beta_slow);
    if (r->attention_factor) put(o, "attention_factor", r->attention_factor);
    if (r->mscale) put(o, "mscale", r->mscale);
    if (r->mscale_all_dim) put(o, "mscale_all_dim", r->mscale_all_dim);
    if (!r->truncate) json_object_set_new(o, "truncate", json_false());
  }
  if (r->type == LC_ROPE_LLAMA3) {
    put(o, "low_freq_factor", r->low_freq_factor);
    put(o, "high_freq_factor", r->high_freq_factor);
  }
  return o;
}

static double magnitude(double factor, double mscale) { /* Peng et al. 2023, equation 22 */
  return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

double lc_rope_attention_factor(const lc_rope *r) {
  if (r->type != LC_ROPE_YARN) return 1;
  if (r->attention_factor) return r->attention_factor;
  if (r->mscale && r->mscale_all_dim)
    return magnitude(r->factor, r->mscale) / magnitude(r->factor, r->mscale_all_dim);
  return magnitude(r->factor, 1);
}

bool lc_rope_factors(const lc_rope *r, float *out) {
  if (r->factors) {
    memcpy(out, r->factors, (size_t)(r->dim / 2) * sizeof *out);
    return true;
  }
  if (r->type != LC_ROPE_LLAMA3) return false;
  double low = (double)r->original_context / r->low_freq_factor,
         high = (double)r->original_context / r->high_freq_factor;
  for (int64_t i = 0; i < r->dim / 2; i++) {
    double wave = 2 * M_PI * pow(r->theta, 2.0 * (double)i / (double)r->dim);
    double smooth = ((double)r->original_context / wave - r->low_freq_factor) /
                    (r->high_freq_factor - r->low_freq_factor);
    out[i] = wave < high  ? 1.0f
             : wave > low ? (float)r->factor
                          : (float)(1.0 / ((1.0 - smooth) / r->factor + smooth));
  }
  return true;
}

/* Recognises llama3's scaling with the constants of every published model, so that the table can be said in a
 * config.json. */
static void name_factors(lc_rope *r, const float *f) {
  float largest = 1;
  for (int64_t i = 0; i < r->dim / 2; i++) largest = f[i] > largest ? f[i] : largest;
  lc_rope guess = *r;
  guess.type = LC_ROPE_LLAMA3;
  guess.factor = largest;
  guess.low_freq_factor = 1;
  guess.high_freq_factor = 4;
  guess.original_context = 8192;
  float made[512];
  if (r->dim / 2 <= 512 && lc_rope_factors(&guess, made)) {
    int64_t i = 0;
    while (i < r->dim / 2 && fabsf(made[i] - f[i]) <= 1e-4f * f[i]) i++;
    if (i == r->dim / 2) {
      *r = guess;
      return;
    }
  }
  r->factors = f;
}

static lc_status factors_from_gguf(lc_ctx *ctx, const lc_gguf *g, lc_rope *rope) {
  const lc_tensor *t = lc_gguf_find(g, "rope_freqs.weight");
  if (!t) return LC_OK;
  if (t->dtype != LC_F32 || t->ndim != 1 || t->shape[0] != rope->dim / 2)
    return lc_fail(ctx, "%s: tensor 'rope_freqs.weight': %lld F32 expected, %lld %s found", g->map.path,
                   (long long)(rope->dim / 2), (long long)t->shape[0], lc_dtype_get(t->dtype)->name);
  const float *f = t->data;
  for (int64_t i = 0; i < rope->dim / 2; i++)
    if (!(f[i] > 0 && isfinite(f[i])))
      return lc_fail(ctx, "%s: tensor 'rope_freqs.weight': value %lld is %g", g->map.path, (long long)i,
                     f[i]);
  if (rope->type != LC_ROPE_DEFAULT)
    return lc_fail(ctx, "%s: tensor 'rope_freqs.weight' beside rope scaling '%s'", g->map.path,
                   type_name(rope->type));
  name_factors(rope, f);
  return LC_OK;
}

lc_status lc_rope_from_gguf(lc_ctx *ctx, const lc_gguf *g, const char *arch, lc_config *c) {
  lc_rope *r = &c->rope;
  *r = (lc_rope){.dim = c->D, .context = c->context, .original_context = c->context, .factor = 1};
#define KEY(name) lc_arch_key(arch, name).text
  r->theta = lc_gguf_f64_or(g, KEY("rope.freq_base"), 10000);
  if (!(r->theta >= 1 && r->theta <= 1e15))
    return lc_fail(ctx, "%s: '%s' is %g", g->map.path, KEY("rope.freq_base"), r->theta);
  int64_t dim = lc_gguf_i64_or(g, KEY("rope.dimension_count"), c->D);
  if (dim != c->D)
    return lc_fail(ctx, "%s: '%s' is %lld, the heads' width %lld: partial rotation is not supported",
                   g->map.path, KEY("rope.dimension_count"), (long long)dim, (long long)c->D);
  double factor = lc_gguf_f64_or(g, KEY("rope.scaling.factor"), 0);
  if (factor == 0) factor = lc_gguf_f64_or(g, KEY("rope.scale_linear"), 0);
  lc_str type = {"linear", 6};
  if (lc_gguf_key(g, KEY("rope.scaling.type")))
    LC_TRY(lc_gguf_string(ctx, g, KEY("rope.scaling.type"), &type));
  if (factor == 0) factor = 1;
  if (!(factor >= 1e-6 && factor <= 1e6))
    return lc_fail(ctx, "%s: '%s' is %g", g->map.path, KEY("rope.scaling.factor"), factor);
  if (lc_str_eq(type, "yarn")) {
    r->type = LC_ROPE_YARN;
    r->factor = factor;
    r->truncate = true;
    r->original_context = lc_gguf_i64_or(g, KEY("rope.scaling.original_context_length"), c->context);
    if (r->original_context < 1)
      return lc_fail(ctx, "%s: '%s' is not positive", g->map.path,
                     KEY("rope.scaling.original_context_length"));
    r->beta_fast = lc_gguf_f64_or(g, KEY("rope.scaling.yarn_beta_fast"), 32);
    r->beta_slow = lc_gguf_f64_or(g, KEY("rope.scaling.yarn_beta_slow"), 1);
    double log_mul = lc_gguf_f64_or(g, KEY("rope.scaling.yarn_log_multiplier"), 0);
    double scale = lc_gguf_f64_or(g, KEY("rope.scaling.attn_factor"), 1);
    if (scale != 1 || log_mul != 0)
      r->attention_factor = scale * magnitude(factor, 1) / (log_mul != 0 ? magnitude(factor, log_mul) : 1);
  } else if (lc_str_eq(type, "linear")) {
    r->type = factor == 1 ? LC_ROPE_DEFAULT : LC_ROPE_LINEAR;
    r->factor = factor;
  } else if (!lc_str_eq(type, "none")) {
    return lc_fail(ctx, "%s: '%s' = \"%.*s\" is not supported", g->map.path, KEY("rope.scaling.type"),
                   (int)lc_min64(60, (int64_t)type.n), type.data);
  }
  return factors_from_gguf(ctx, g, r);
}

lc_status lc_rope_to_gguf(lc_ctx *ctx, const lc_rope *r, const char *arch, lc_gguf_writer *w) {
  LC_TRY(lc_gguf_put_u32(w, KEY("rope.dimension_count"), (uint32_t)r->dim));
  LC_TRY(lc_gguf_put_f32(w, KEY("rope.freq_base"), (float)r->theta));
  if (r->type == LC_ROPE_DYNAMIC)
    lc_log(ctx, LC_LOG_WARN, "GGUF has no dynamic rope: beyond %lld positions the written model differs",
           (long long)r->context);
  if (r->type != LC_ROPE_LINEAR && r->type != LC_ROPE_YARN)
    return LC_OK; /* llama3: the tensor rope_freqs.weight */
  LC_TRY(lc_gguf_put_string(w, KEY("rope.scaling.type"), type_name(r->type), strlen(type_name(r->type))));
  LC_TRY(lc_gguf_put_f32(w, KEY("rope.scaling.factor"), (float)r->factor));
  if (r->type == LC_ROPE_LINEAR) return LC_OK;
  if (!r->truncate) return lc_fail(ctx, "yarn with truncate = false cannot be written as GGUF");
  LC_TRY(lc_gguf_put_u32(w, KEY("rope.scaling.original_context_length"), (uint32_t)r->original_context));
  LC_TRY(lc_gguf_put_f32(w, KEY("rope.scaling.yarn_beta_fast"), (float)r->beta_fast));
  LC_TRY(lc_gguf_put_f32(w, KEY("rope.scaling.yarn_beta_slow"), (float)r->beta_slow));
  double scale = lc_rope_attention_factor(r) / magnitude(r->factor, 1);
  return fabs(scale - 1) < 1e-6 ? LC_OK : lc_gguf_put_f32(w, KEY("rope.scaling.attn_factor"), (float)scale);
#undef KEY
}
