/* Writing whole models: bit for bit through HF and GGUF and back, both families; roundings; the merge report
 * against a plain count; nothing half-written. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static lc_ctx *ctx;
static char *dir;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(2, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  return 0;
}

static int teardown(void **state) {
  lc_remove_tree(ctx, dir);
  free(dir);
  size_t left = 0;
  for (int i = 0; i < LC_MEM_COUNT; i++)
    if (i != LC_MEM_SCRATCH) left += lc_mem_bytes(ctx, i);
  lc_ctx_free(ctx);
  return left != 0;
}

static const char *at(const char *name) {
  return lc_tiny_path(dir, name);
}

static const char *fresh(const char *name) {
  lc_remove_tree(ctx, at(name));
  unlink(at(name));
  return at(name);
}

static void open_net(const char *path, lc_model **m, lc_net **net) {
  ok(lc_model_open(ctx, path, m));
  ok(lc_net_new(*m, LC_F32, net));
}

static void close_net(lc_model *m, lc_net *net) {
  lc_net_free(net);
  lc_model_close(m);
}

static void convert(const char *from, const char *to, lc_dtype dtype) {
  lc_model *m;
  lc_net *net;
  open_net(from, &m, &net);
  ok(strstr(to, ".gguf") ? lc_net_write_gguf(net, to, dtype, NULL) : lc_net_write_hf(net, to, dtype, NULL));
  close_net(m, net);
}

/* The same tensors, bit for bit. */
static void same_tensors(const char *a, const char *b) {
  lc_safetensors x, y;
  ok(lc_safetensors_open(ctx, lc_tiny_path(a, "model.safetensors"), &x));
  ok(lc_safetensors_open(ctx, lc_tiny_path(b, "model.safetensors"), &y));
  assert_int_equal(x.n, y.n);
  for (int i = 0; i < x.n; i++) {
    const lc_tensor *s = &x.tensor[i].t, *t = &y.tensor[i].t;
    size_t bytes;
    assert_string_equal(x.tensor[i].name, y.tensor[i].name);
    assert_int_equal(s->dtype, t->dtype);
    assert_memory_equal(s->shape, t->shape, (size_t)s->ndim * sizeof *s->shape);
    assert_true(lc_dtype_bytes(s->dtype, lc_tensor_count(s), &bytes));
    if (memcmp(s->data, t->data, bytes)) fail_msg("%s and %s: '%s' differs", a, b, x.tensor[i].name);
  }
  assert_string_equal(lc_safetensors_meta(&y, "format"), "pt");
  lc_safetensors_close(ctx, &x);
  lc_safetensors_close(ctx, &y);
}

static void same_bytes(const char *a, const char *b) {
  char *x, *y;
  size_t n, k;
  ok(lc_read_file(ctx, a, 1 << 24, &x, &n));
  ok(lc_read_file(ctx, b, 1 << 24, &y, &k));
  assert_int_equal(n, k);
  assert_memory_equal(x, y, n);
  lc_free(ctx, x);
  lc_free(ctx, y);
}

static lc_tiny variant(int i) {
  lc_tiny m[4] = {LC_TINY_LLAMA, LC_TINY_LLAMA, LC_TINY_GPT2, LC_TINY_GPT2};
  m[1].tied = m[3].tied = false;
  m[1].attention_bias = m[1].mlp_bias = true;
  m[1].H = 6;
  m[1].G = 3;
  return m[i];
}

static void test_round_trips(void **state) {
  for (int i = 0; i < 4; i++) {
    lc_tiny m = variant(i);
    ok(lc_tiny_hf(ctx, &m, fresh("base")));
    convert(at("base"), fresh("copy"), LC_F32);
    same_tensors(at("base"), at("copy"));
    same_bytes(lc_tiny_path(at("base"), "tokenizer.json"), lc_tiny_path(at("copy"), "tokenizer.json"));
    same_bytes(lc_tiny_path(at("base"), "generation_config.json"),
               lc_tiny_path(at("copy"), "generation_config.json"));
    convert(at("base"), fresh("m.gguf"), LC_F32);
    ok(lc_tiny_gguf(ctx, &m, fresh("own.gguf"))); /* the same tensors as a GGUF written by other code */
    lc_gguf x, y;
    ok(lc_gguf_open(ctx, at("own.gguf"), &x));
    ok(lc_gguf_open(ctx, at("m.gguf"), &y));
    assert_int_equal(x.n, y.n);
    for (int k = 0; k < x.n; k++) {
      size_t bytes;
      assert_string_equal(x.tensor[k].name, y.tensor[k].name);
      assert_int_equal(x.tensor[k].t.dtype, y.tensor[k].t.dtype);
      assert_true(lc_dtype_bytes(LC_F32, lc_tensor_count(&x.tensor[k].t), &bytes));
      if (memcmp(x.tensor[k].t.data, y.tensor[k].t.data, bytes))
        fail_msg("GGUF tensor '%s' differs", x.tensor[k].name);
    }
    lc_gguf_close(ctx, &x);
    lc_gguf_close(ctx, &y);
    convert(at("m.gguf"), fresh("back"), LC_F32);
    same_tensors(at("base"), at("back"));
    convert(at("m.gguf"), fresh("again.gguf"), LC_F32); /* metadata and tensors copied: the same file */
    same_bytes(at("m.gguf"), at("again.gguf"));
  }
}

static void test_config_is_todays(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  m.old_spelling = true;
  m.config = "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_"
             "factor\":4.0,"
             "\"original_max_position_embeddings\":8192},\"rope_theta\":500000.0,\"some_key\":[1,2]}";
  ok(lc_tiny_hf(ctx, &m, fresh("base")));
  convert(at("base"), fresh("copy"), LC_BF16);
  json_t *j;
  ok(lc_json_read(ctx, lc_tiny_path(at("copy"), "config.json"), &j));
  static const char *const gone[] = {"torch_dtype", "rope_scaling", "rope_theta"};
  for (int i = 0; i < 3; i++) assert_null(json_object_get(j, gone[i]));
  assert_string_equal(json_string_value(json_object_get(j, "dtype")), "bfloat16");
  const json_t *rope = json_object_get(j, "rope_parameters");
  assert_string_equal(json_string_value(json_object_get(rope, "rope_type")), "llama3");
  assert_true(json_number_value(json_object_get(rope, "rope_theta")) == 500000);
  assert_true(json_number_value(json_object_get(rope, "factor")) == 8);
  assert_int_equal(json_array_size(json_object_get(j, "some_key")), 2);
  json_decref(j);
}

/* Rope types through GGUF and back; llama3's becomes a tensor of divisors and is recognised again. */
static void test_rope_through_gguf(void **state) {
  static const char *const ropes[] = {
      "{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0,\"rope_theta\":20000.0}}",
      "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32,"
      "\"rope_theta\":20000.0}}",
      "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32,"
      "\"rope_theta\":20000.0,"
      "\"attention_factor\":1.3,\"beta_fast\":16.0,\"beta_slow\":2.0}}",
      "{\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_"
      "factor\":4.0,"
      "\"original_max_position_embeddings\":8192,\"rope_theta\":500000.0}}",
      "{\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":4.0,\"low_freq_factor\":1.5,\"high_freq_"
      "factor\":3.0,"
      "\"original_max_position_embeddings\":16,\"rope_theta\":20000.0}}", /* constants that nobody publishes
                                                                           */
  };
  enum { T = 100 };
  int32_t ids[T];
  for (int t = 0; t < T; t++) ids[t] = t * 31 % 300;
  for (int i = 0; i < 5; i++) {
    lc_tiny tiny = LC_TINY_LLAMA;
    tiny.config = ropes[i];
    tiny.D = 32;
    ok(lc_tiny_hf(ctx, &tiny, fresh("base")));
    convert(at("base"), fresh("m.gguf"), LC_F32);
    lc_model *m[2];
    lc_net *net[2];
    float *l[2];
    for (int k = 0; k < 2; k++) {
      open_net(at(k ? "m.gguf" : "base"), &m[k], &net[k]);
      l[k] = malloc((size_t)(T * 300) * sizeof(float));
      ok(lc_tiny_logits(net[k], ids, T, l[k]));
    }
    double e = lc_tiny_error(l[1], l[0], T * 300);
    if (!(e < 1e-5)) fail_msg("%s: %g through GGUF", ropes[i], e);
    if (i < 4) assert_int_equal(m[0]->config.rope.type, m[1]->config.rope.type);
    lc_status st = lc_net_write_hf(net[1], fresh("back"), LC_F32, NULL);
    assert_int_equal(st, i == 4 ? LC_FAILED : LC_OK);
    if (st) {
      assert_non_null(strstr(lc_error(ctx), "rope_freqs"));
      lc_error_clear(ctx);
    }
    for (int k = 0; k < 2; k++) {
      free(l[k]);
      close_net(m[k], net[k]);
    }
  }
}

/* Every tensor is the rounded base. */
static void test_roundings(void **state) {
  static const lc_dtype types[] = {LC_F16, LC_BF16, LC_Q8_0};
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 3; k++) {
      lc_tiny m = variant(i);
      ok(lc_tiny_hf(ctx, &m, fresh("base")));
      convert(at("base"), fresh("m.gguf"), types[k]);
      lc_tiny own = m;
      own.dtype = types[k];
      ok(lc_tiny_gguf(ctx, &own, fresh("own.gguf")));
      lc_gguf x, y;
      ok(lc_gguf_open(ctx, at("own.gguf"), &x));
      ok(lc_gguf_open(ctx, at("m.gguf"), &y));
      for (int j = 0; j < x.n; j++) {
        size_t bytes;
        if (!strcmp(x.tensor[j].name, "position_embd.weight")) continue; /* stays f32, as llama.cpp has it */
        assert_int_equal(x.tensor[j].t.dtype, y.tensor[j].t.dtype);
        assert_true(lc_dtype_bytes(x.tensor[j].t.dtype, lc_tensor_count(&x.tensor[j].t), &bytes));
        if (memcmp(x.tensor[j].t.data, y.tensor[j].t.data, bytes)) fail_msg("'%s' differs", x.tensor[j].name);
      }
      lc_gguf_close(ctx, &x);
      lc_gguf_close(ctx, &y);
      if (types[k] == LC_Q8_0) continue;
      lc_tiny hf = m;
      hf.dtype = types[k];
      ok(lc_tiny_hf(ctx, &hf, fresh("own")));
      convert(at("base"), fresh("copy"), types[k]);
      same_tensors(at("own"), at("copy"));
    }
  lc_model *m; /* rows that blocks do not divide are f16 */
  lc_net *net;
  lc_tiny odd = LC_TINY_LLAMA;
  odd.F = 40;
  ok(lc_tiny_hf(ctx, &odd, fresh("base")));
  open_net(at("base"), &m, &net);
  ok(lc_net_write_gguf(net, fresh("m.gguf"), LC_Q8_0, NULL));
  close_net(m, net);
  lc_gguf g;
  ok(lc_gguf_open(ctx, at("m.gguf"), &g));
  assert_int_equal(lc_gguf_find(&g, "blk.0.ffn_down.weight")->dtype, LC_F16);
  assert_int_equal(lc_gguf_find(&g, "blk.0.ffn_up.weight")->dtype, LC_Q8_0);
  assert_int_equal(lc_gguf_i64_or(&g, "general.file_type", -1), 7);
  lc_gguf_close(ctx, &g);
}

static bool one_weight(const lc_weight *w, void *name) {
  return !strcmp(w->name, name);
}

/* A weight trained as a whole: its values are written, and the report counts what rounding leaves of the
 * change. */
static void test_merge_report(void **state) {
  lc_tiny tiny = LC_TINY_LLAMA;
  tiny.dtype = LC_BF16;
  ok(lc_tiny_hf(ctx, &tiny, fresh("base")));
  lc_model *m;
  lc_net *net;
  open_net(at("base"), &m, &net);
  static const char name[] = "model.layers.1.self_attn.q_proj.weight";
  ok(lc_net_train_whole(net, one_weight, (void *)name));
  assert_int_equal(net->n_own, 1);
  lc_param *p = net->own[0];
  lc_rng r = {.seed = 1, .purpose = LC_RNG_TEST};
  int64_t changed = 0, survived = 0;
  double err = 0, delta = 0;
  for (int64_t i = 0; i < p->n; i += 3) {
    float base = p->value[i], now = base * (1 + 0.004f * lc_rng_normal(&r, (uint64_t)i));
    float q = lc_bf16_to_f32(lc_f32_to_bf16(now));
    p->value[i] = now;
    if (now == base) continue;
    changed++;
    survived += q != base;
    err += ((double)q - base) * ((double)q - base);
    delta += ((double)now - base) * ((double)now - base);
  }
  assert_true(survived > changed / 4 && survived < changed);
  for (int gguf = 0; gguf < 2; gguf++) {
    lc_merge_report report;
    ok(gguf ? lc_net_write_gguf(net, fresh("m.gguf"), LC_BF16, &report)
            : lc_net_write_hf(net, fresh("out"), LC_BF16, &report));
    assert_int_equal(report.n, 1);
    assert_string_equal(report.row[0].name, name);
    assert_int_equal(report.row[0].changed, changed);
    assert_true(fabs(report.row[0].survive - (double)survived / (double)changed) < 1e-12);
    assert_true(fabs(report.row[0].error - sqrt(err / delta)) < 1e-9);
    lc_merge_report_free(ctx, &report);
    lc_model *out;
    lc_net *out_net;
    open_net(at(gguf ? "m.gguf" : "out"), &out, &out_net);
    lc_weight *w = lc_net_weight(out_net, name);
    float *v = malloc((size_t)p->n * sizeof *v);
    ok(w->base->ops->decode(ctx, w->base, (lc_rect){0, w->M, 0, w->N}, LC_F32, v, w->N));
    for (int64_t i = 0; i < p->n; i++) assert_true(v[i] == lc_bf16_to_f32(lc_f32_to_bf16(p->value[i])));
    free(v);
    close_net(out, out_net);
  }
  close_net(m, net);
}

static void test_metadata(void **state) {
  lc_tiny m = LC_TINY_LLAMA;
  ok(lc_tiny_gguf(ctx, &m, fresh("base.gguf")));
  convert(at("base.gguf"), fresh("copy.gguf"), LC_F16);
  lc_gguf g;
  lc_str s;
  ok(lc_gguf_open(ctx, at("copy.gguf"), &g));
  ok(lc_gguf_string(ctx, &g, "general.name", &s));
  assert_true(lc_str_eq(s, "tiny"));
  assert_int_equal(lc_gguf_i64_or(&g, "general.file_type", -1), 1);
  assert_non_null(lc_gguf_key(&g, "tokenizer.chat_template"));
  lc_gguf_close(ctx, &g);
  /* tokenizers: of the GGUF, of the directory made from it, of the GGUF made from that: the same ids */
  convert(at("base.gguf"), fresh("hf"), LC_F32);
  convert(at("hf"), fresh("m.gguf"), LC_F32);
  static const char *const names[] = {"base.gguf", "hf", "m.gguf"};
  static const char text[] = "<|im_start|>user\nthe sand of 1999<|im_end|>\n";
  lc_ids ids[3] = {0};
  for (int i = 0; i < 3; i++) {
    lc_model *model;
    lc_tokenizer *t;
    ok(lc_model_open(ctx, at(names[i]), &model));
    ok(lc_model_tokenizer(model, &t));
    ok(lc_tokenize(t, text, strlen(text), true, &ids[i]));
    assert_int_equal(lc_token_eos(t), 2);
    assert_non_null(lc_tokenizer_template(t));
    lc_tokenizer_free(t);
    lc_model_close(model);
    assert_int_equal(ids[i].n, ids[0].n);
    assert_memory_equal(ids[i].id, ids[0].id, (size_t)ids[0].n * sizeof(int32_t));
  }
  for (int i = 0; i < 3; i++) lc_ids_free(ctx, &ids[i]);
}

static void test_refusals(void **state) {
  lc_tiny tiny = LC_TINY_LLAMA;
  lc_model *m;
  lc_net *net;
  ok(lc_tiny_hf(ctx, &tiny, fresh("base")));
  open_net(at("base"), &m, &net);
  assert_int_equal(lc_net_write_hf(net, fresh("out"), LC_Q8_0, NULL), LC_USAGE);
  assert_false(lc_path_exists(at("out")));
  assert_int_equal(lc_net_write_gguf(net, fresh("out.gguf"), LC_Q4_1, NULL), LC_USAGE);
  assert_int_equal(lc_net_write_hf(net, at("base"), LC_F32, NULL), LC_USAGE);
  assert_non_null(strstr(lc_error(ctx), "base itself"));
  ok(lc_write_file(ctx, fresh("file"), "x", 1)); /* a file where a directory has to be */
  lc_error_clear(ctx);
  assert_int_equal(lc_net_write_hf(net, lc_tiny_path(at("file"), "out"), LC_F32, NULL), LC_FAILED);
  assert_true(strlen(lc_error(ctx)) > 10);
  assert_int_equal(lc_net_write_gguf(net, lc_tiny_path(at("missing"), "out.gguf"), LC_F32, NULL), LC_FAILED);
  assert_false(lc_path_exists(at("out.gguf")));
  close_net(m, net);
}

/* Heads, biases of heads, kernels of convolutions: the same tensors in the same sizes. GGUF has none of them. */
static void test_classifiers(void **state) {
  static const char *const names[] = {"golden/bert-classify", "golden/roberta-tokens", "golden/vit-classify",
                                      "golden/vit-grey"};
  for (int i = 0; i < 4; i++) {
    convert(names[i], fresh("out"), LC_F32);
    same_tensors(names[i], at("out"));
    lc_model *m;
    lc_net *net;
    open_net(names[i], &m, &net);
    assert_int_not_equal(lc_net_write_gguf(net, fresh("out.gguf"), LC_F32, NULL), LC_OK);
    assert_false(lc_path_exists(at("out.gguf")));
    close_net(m, net);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_classifiers),

      cmocka_unit_test(test_round_trips),       cmocka_unit_test(test_config_is_todays),
      cmocka_unit_test(test_rope_through_gguf), cmocka_unit_test(test_roundings),
      cmocka_unit_test(test_merge_report),      cmocka_unit_test(test_metadata),
      cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
