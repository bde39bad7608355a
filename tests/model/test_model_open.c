/* Opening models: both spellings of config.json, shards, bare names, GGUF types; what is not supported or
 * does not fit is refused in a sentence that names it. */
#include "model/config.h"
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { T = 20 };
static lc_ctx *ctx;
static char *dir;
static int32_t ids[T];
static char logged[4096];

static void log_line(void *arg, lc_log_level level, const char *line) {
  if (level != LC_LOG_WARN) return;
  strncat(logged, line, sizeof logged - strlen(logged) - 1);
  strncat(logged, "\n", sizeof logged - strlen(logged) - 1);
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return 1;
  lc_set_log(ctx, log_line, NULL);
  dir = lc_tiny_dir();
  for (int t = 0; t < T; t++) ids[t] = t * 13 % 300;
  return 0;
}

static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  size_t left = 0;
  for (int i = 0; i < LC_MEM_COUNT; i++)
    if (i != LC_MEM_SCRATCH) left += lc_mem_bytes(ctx, i);
  lc_ctx_free(ctx);
  return left != 0; /* every refusal has cleaned up */
}

static float *logits_of(const char *path) {
  lc_model *m;
  lc_net *net;
  ok(lc_model_open(ctx, path, &m));
  ok(lc_net_new(m, LC_F32, &net));
  float *l = malloc((size_t)(T * m->config.V) * sizeof *l);
  ok(lc_tiny_logits(net, ids, T, l));
  lc_net_free(net);
  lc_model_close(m);
  return l;
}

static void same_logits(const char *a, const char *b, double tolerance) {
  float *x = logits_of(a), *y = logits_of(b);
  double e = lc_tiny_error(x, y, T * 300);
  if (!(e <= tolerance)) fail_msg("%s and %s differ by %g", a, b, e);
  free(x);
  free(y);
}

static const char *fresh(const char *name) {
  const char *path = lc_tiny_path(dir, name);
  lc_remove_tree(ctx, path);
  unlink(path);
  return path;
}

static void test_layouts(void **state) {
  const lc_tiny families[] = {LC_TINY_LLAMA, LC_TINY_GPT2};
  for (int f = 0; f < 2; f++) {
    lc_tiny m = families[f];
    const char *plain = fresh("plain"), *other = fresh("other");
    m.tied = false;
    m.attention_bias = m.mlp_bias = true;
    ok(lc_tiny_hf(ctx, &m, plain));
    lc_tiny v = m;
    v.old_spelling = true;
    ok(lc_tiny_hf(ctx, &v, other));
    same_logits(plain, other, 0);
    v = m;
    v.shards = 3;
    ok(lc_tiny_hf(ctx, &v, fresh("other")));
    same_logits(plain, other, 0);
    v = m;
    v.bare = true;
    ok(lc_tiny_hf(ctx, &v, fresh("other")));
    same_logits(plain, other, 0);
    const char *gguf = fresh("m.gguf");
    ok(lc_tiny_gguf(ctx, &m, gguf)); /* q and k rows, and transposed matrices, in another order */
    same_logits(plain, gguf, 1e-6);
  }
}

static void test_dtypes(void **state) {
  static const lc_dtype types[] = {LC_F16, LC_BF16, LC_Q8_0, LC_Q4_0, LC_Q4_1};
  const lc_tiny families[] = {LC_TINY_LLAMA, LC_TINY_GPT2};
  for (int f = 0; f < 2; f++)
    for (int i = 0; i < 5; i++) {
      lc_tiny hf = families[f];
      hf.through = types[i]; /* f32 that holds just what the other type can */
      ok(lc_tiny_hf(ctx, &hf, fresh("hf")));
      lc_tiny packed = hf;
      packed.dtype = types[i];
      ok(lc_tiny_gguf(ctx, &packed, fresh("m.gguf")));
      same_logits(lc_tiny_path(dir, "hf"), lc_tiny_path(dir, "m.gguf"), 1e-6);
    }
}

static void test_shape(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  m.H = 6; /* 6·16 = 96: head width independent of C */
  m.G = 3;
  m.config = "{\"attention_dropout\":0.1,\"some_new_key\":[1],\"initializer_range\":0.02}";
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  lc_model *model;
  ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
  const lc_config *c = &model->config;
  assert_ptr_equal(c->family, &lc_family_llama);
  assert_true(c->C == 64 && c->L == 2 && c->H == 6 && c->G == 3 && c->D == 16 && c->F == 96 && c->V == 300 &&
              c->context == 128);
  assert_true(c->tied && c->bos == 1 && c->eos == 2 && c->rope.type == LC_ROPE_DEFAULT &&
              c->rope.theta == 10000 && c->rope.dim == 16);
  assert_int_equal(lc_model_parameters(model),
                   300 * 64 + 64 + 2 * (2 * 64 + 2 * 96 * 64 + 2 * 48 * 64 + 3 * 96 * 64));
  uint64_t print = model->fingerprint;
  lc_model_close(model);
  ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
  assert_true(model->fingerprint == print);
  lc_model_close(model);
  m.seed = 2;
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
  assert_true(model->fingerprint != print);
  lc_model_close(model);
}

static void refused(const char *path, const char *a, const char *b) {
  lc_model *m = NULL;
  lc_status st = lc_model_open(ctx, path, &m);
  if (!st) {
    lc_model_close(m);
    fail_msg("%s was opened: expected a refusal with '%s'", path, a);
  }
  assert_null(m);
  const char *why = lc_error(ctx);
  if (!strstr(why, a) || !strstr(why, b)) fail_msg("'%s' names neither '%s' nor '%s'", why, a, b);
  lc_error_clear(ctx);
}

static void test_refused_features(void **state) {
  static const struct {
    const char *family, *config, *names, *also;
  } table[] = {
      {"llama", "{\"hidden_act\":\"gelu\"}", "hidden_act", "gelu"},
      {"llama", "{\"pretraining_tp\":2}", "pretraining_tp", "2"},
      {"llama", "{\"sliding_window\":4096}", "sliding_window", "4096"},
      {"llama", "{\"quantization_config\":{\"bits\":4}}", "quantization_config", "bits"},
      {"llama", "{\"attn_logit_softcapping\":50.0}", "attn_logit_softcapping", "50"},
      {"llama", "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "layer_types", "sliding"},
      {"llama", "{\"partial_rotary_factor\":0.5}", "partial_rotary_factor", "0.5"},
      {"llama", "{\"num_local_experts\":8}", "num_local_experts", "8"},
      {"llama", "{\"rope_parameters\":{\"rope_type\":\"longrope\",\"rope_theta\":1e4}}", "longrope",
       "rope_type"},
      {"llama", "{\"rope_parameters\":{\"rope_type\":\"linear\",\"rope_theta\":1e4}}", "factor", "missing"},
      {"llama", "{\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8.0}}", "low_freq_factor",
       "missing"},
      {"llama", "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", "full_attention",
       "not supported"},
      {"llama", "{\"rope_parameters\":3}", "rope_parameters", "object"},
      {"llama", "{\"hidden_size\":\"64\"}", "hidden_size", "whole number"},
      {"llama", "{\"hidden_size\":-1}", "hidden_size", "-1"},
      {"llama", "{\"num_hidden_layers\":1000000}", "num_hidden_layers", "1000000"},
      {"llama", "{\"num_key_value_heads\":3}", "4 heads", "3"},
      {"llama", "{\"head_dim\":15}", "15", "odd"},
      {"llama", "{\"head_dim\":null,\"num_attention_heads\":7,\"num_key_value_heads\":7}", "head_dim",
       "multiple"},
      {"llama", "{\"vocab_size\":null}", "vocab_size", "missing"},
      {"llama", "{\"vocab_size\":2147483647}", "embed_tokens", "2147483647×64 expected"},
      {"llama", "{\"vocab_size\":2147483648}", "vocab_size", "2147483648"},
      {"llama", "{\"tie_word_embeddings\":false}", "lm_head.weight", "missing"},
      {"llama", "{\"architectures\":[\"MambaForCausalLM\"]}", "MambaForCausalLM", "not supported"},
      {"llama", "{\"attention_bias\":true}", "bias", "missing"},
      {"gpt2", "{\"activation_function\":\"silu\"}", "activation_function", "silu"},
      {"gpt2", "{\"add_cross_attention\":true}", "add_cross_attention", "true"},
      {"gpt2", "{\"n_head\":5}", "64", "5 heads"},
      {"gpt2", "{\"n_positions\":64}", "wpe", "64×64 expected, 128×64 found"},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    lc_tiny m = !strcmp(table[i].family, "llama") ? LC_TINY_LLAMA : LC_TINY_GPT2;
    m.config = table[i].config;
    ok(lc_tiny_hf(ctx, &m, fresh("hf")));
    refused(lc_tiny_path(dir, "hf"), table[i].names, table[i].also);
  }
}

static void test_accepted_rope(void **state) {
  static const struct {
    const char *config;
    lc_rope_type type;
    double factor;
    int64_t original;
  } table[] = {
      {"{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":5e5}}", LC_ROPE_LINEAR,
       2, 128},
      {"{\"rope_parameters\":null,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4},\"rope_theta\":"
       "500000}",
       LC_ROPE_DYNAMIC, 4, 128},
      {"{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":null,\"original_max_position_embeddings\":32,"
       "\"rope_theta\":5e5}}",
       LC_ROPE_YARN, 4, 32},
      {"{\"rope_parameters\":null,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
       "\"low_freq_factor\":1,"
       "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
       LC_ROPE_LLAMA3, 8, 64},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    lc_tiny m = LC_TINY_LLAMA;
    lc_model *model;
    m.config = table[i].config;
    ok(lc_tiny_hf(ctx, &m, fresh("hf")));
    ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
    const lc_rope *r = &model->config.rope;
    assert_int_equal(r->type, table[i].type);
    assert_true(r->factor == table[i].factor && r->theta == 500000 &&
                r->original_context == table[i].original);
    json_t *j = lc_rope_json(ctx, r); /* what is written reads back as the same */
    char text[512], *dump = json_dumps(j, 0);
    snprintf(text, sizeof text, "{\"rope_parameters\":%s}", dump);
    m.config = text;
    lc_rope before = *r;
    lc_model_close(model);
    ok(lc_tiny_hf(ctx, &m, fresh("hf")));
    ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
    assert_memory_equal(&model->config.rope, &before, sizeof before);
    lc_model_close(model);
    free(dump);
    json_decref(j);
  }
}

static void test_missing_and_extra(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  m.drop = "model.layers.1.mlp.up_proj.weight";
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  refused(lc_tiny_path(dir, "hf"), m.drop, "96×64");
  ok(lc_tiny_gguf(ctx, &m, fresh("m.gguf")));
  refused(lc_tiny_path(dir, "m.gguf"), "blk.1.ffn_up.weight", "missing");
  /* a copy of the head beside a tied embedding, old buffers, and something unknown */
  m.drop = NULL;
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  lc_safetensors s;
  const char *file = lc_tiny_path(lc_tiny_path(dir, "hf"), "model.safetensors");
  ok(lc_safetensors_open(ctx, file, &s));
  lc_named_tensor all[64];
  int n = s.n;
  memcpy(all, s.tensor, (size_t)n * sizeof *all);
  const lc_tensor *embed = lc_safetensors_find(&s, "model.embed_tokens.weight"),
                  *norm = lc_safetensors_find(&s, "model.norm.weight");
  all[n++] = (lc_named_tensor){"lm_head.weight", *embed};
  all[n++] = (lc_named_tensor){"model.layers.0.self_attn.rotary_emb.inv_freq", *norm};
  all[n++] = (lc_named_tensor){"model.layers.0.self_attn.surprise.weight", *norm};
  ok(lc_safetensors_write(ctx, lc_tiny_path(dir, "more.safetensors"), all, n));
  lc_safetensors_close(ctx, &s);
  assert_int_equal(rename(lc_tiny_path(dir, "more.safetensors"),
                          lc_tiny_path(lc_tiny_path(dir, "hf"), "model.safetensors")),
                   0);
  lc_model *model;
  logged[0] = 0;
  ok(lc_model_open(ctx, lc_tiny_path(dir, "hf"), &model));
  assert_non_null(strstr(logged, "surprise"));
  assert_null(strstr(logged, "inv_freq"));
  assert_null(strstr(logged, "lm_head"));
  assert_true(model->config.tied);
  lc_model_close(model);
}

static void test_bad_files(void **state) {
  refused(lc_tiny_path(dir, "nothing"), "nothing", "no such");
  ok(lc_mkdirs(ctx, fresh("empty")));
  refused(lc_tiny_path(dir, "empty"), "config.json", "");
  ok(lc_write_file(ctx, fresh("x.gguf"), "GGUF", 4));
  refused(lc_tiny_path(dir, "x.gguf"), "x.gguf", "");
  ok(lc_write_file(ctx, fresh("x.safetensors"), "x", 1));
  refused(lc_tiny_path(dir, "x.safetensors"), "directory", "config.json");
  lc_tiny m = LC_TINY_LLAMA;
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  assert_int_equal(unlink(lc_tiny_path(lc_tiny_path(dir, "hf"), "model.safetensors")), 0);
  refused(lc_tiny_path(dir, "hf"), "model.safetensors", "neither");
  ok(lc_tiny_gguf(ctx, &m, fresh("m.gguf"))); /* a truncated copy at every quarter */
  char *data;
  size_t size;
  ok(lc_read_file(ctx, lc_tiny_path(dir, "m.gguf"), 1 << 24, &data, &size));
  for (size_t k = 1; k < 8; k++) {
    ok(lc_write_file(ctx, fresh("cut.gguf"), data, size * k / 8));
    refused(lc_tiny_path(dir, "cut.gguf"), "cut.gguf", "");
  }
  lc_free(ctx, data);
}

static void test_tokenizer(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  ok(lc_tiny_hf(ctx, &m, fresh("hf")));
  ok(lc_tiny_gguf(ctx, &m, fresh("m.gguf")));
  lc_ids id[2] = {0};
  for (int i = 0; i < 2; i++) {
    lc_model *model;
    lc_tokenizer *t;
    ok(lc_model_open(ctx, lc_tiny_path(dir, i ? "m.gguf" : "hf"), &model));
    ok(lc_model_tokenizer(model, &t));
    lc_model_close(model);
    static const char text[] = "the user and 42 of you<|im_end|>";
    ok(lc_tokenize(t, text, strlen(text), true, &id[i]));
    lc_tokenizer_free(t);
  }
  assert_int_equal(id[0].n, id[1].n);
  assert_memory_equal(id[0].id, id[1].id, (size_t)id[0].n * sizeof(int32_t));
  assert_int_equal(id[0].id[id[0].n - 1], 2);
  lc_ids_free(ctx, &id[0]);
  lc_ids_free(ctx, &id[1]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_layouts),       cmocka_unit_test(test_dtypes),
      cmocka_unit_test(test_shape),         cmocka_unit_test(test_refused_features),
      cmocka_unit_test(test_accepted_rope), cmocka_unit_test(test_missing_and_extra),
      cmocka_unit_test(test_bad_files),     cmocka_unit_test(test_tokenizer),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
