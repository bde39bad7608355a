/* Sentence embeddings of a tiny encoder: each kind of pooling against its sum over the hidden states, texts alone and in a
 * batch, cut texts, f32 and bf16, one and two threads, and the model's files when they are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "infer/embed.h"
#include "support/tiny_model.h"

enum { C = 64 };
static lc_ctx *ctx;
static char *dir;
static lc_model *model;
static lc_tokenizer *tok;

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}
static void put(const char *name, const char *text) {
  ok(lc_write_file(ctx, lc_tiny_path(dir, name), text, strlen(text)));
}

static int setup(void **state) {
  lc_tiny m = LC_TINY_ROBERTA;
  ok(lc_ctx_new(2, &ctx, NULL));
  dir = lc_tiny_dir();
  ok(lc_tiny_hf(ctx, &m, dir));
  ok(lc_model_open_for(ctx, dir, &(lc_head_opts){.task = LC_TASK_NONE}, &model));
  ok(lc_model_tokenizer(model, &tok));
  ok(lc_mkdirs(ctx, lc_tiny_path(dir, "1_Pooling")));
  return 0;
}
static int teardown(void **state) {
  lc_tokenizer_free(tok);
  lc_model_close(model);
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static const char modules[] =
    "[{\"type\": \"sentence_transformers.models.Transformer\", \"path\": \"\"},"
    " {\"type\": \"sentence_transformers.models.Pooling\", \"path\": \"1_Pooling\"}%s]";

static void write_modules(const char *more) {
  char text[512];
  snprintf(text, sizeof text, modules, more);
  put("modules.json", text);
}

/* The pooled hidden states of one text, from a pass of its own. */
static void expect(lc_net *net, const char *text, lc_pooling pooling, bool normalize, int64_t max,
                   double *out) {
  lc_framed f = {0};
  ok(lc_tokenize_framed(tok, text, strlen(text), NULL, 0, max, &f));
  const int64_t T = f.ids.n;
  float *h = malloc((size_t)(T * C) * sizeof *h);
  ok(lc_tiny_logits(net, f.ids.id, T, h));
  double norm = 0;
  for (int64_t c = 0; c < C; c++) {
    double sum = pooling == LC_POOL_MAX ? -INFINITY : 0;
    for (int64_t t = 0; t < T; t++) {
      const double v = (double)h[t * C + c];
      if (pooling == LC_POOL_MAX)
        sum = fmax(sum, v);
      else if ((pooling != LC_POOL_CLS || t == 0) && (pooling != LC_POOL_LAST || t == T - 1))
        sum += v;
    }
    out[c] = pooling == LC_POOL_MEAN   ? sum / (double)T
             : pooling == LC_POOL_SQRT ? sum / sqrt((double)T)
                                       : sum;
    norm += out[c] * out[c];
  }
  for (int64_t c = 0; c < C && normalize; c++) out[c] /= sqrt(norm);
  free(h);
  lc_ids_free(ctx, &f.ids);
}

static const lc_embed_text texts[] = {{"the cat", 7}, {" and on the mat of the hat ", 27}, {"", 0}, {"a", 1}};
enum { N = sizeof texts / sizeof *texts };

/* A model that is written again embeds as the first one: modules, settings and pooling go along; a path out of modules.json does not lead out. */
static void written(void **state) {
  char *out = lc_path_join(ctx, dir, "again");
  lc_net *net, *net2;
  lc_model *model2;
  lc_embed_opts o, o2;
  float got[N * C], want[N * C];
  put("sentence_bert_config.json", "{\"max_seq_length\": 7}");
  put("1_Pooling/config.json", "{\"pooling_mode_max_tokens\": true}");
  write_modules(", {\"type\": \"Normalize\", \"path\": \"2_Normalize\"}");
  ok(lc_net_new(model, LC_F32, &net));
  ok(lc_net_write_hf(net, out, LC_F32, NULL));
  ok(lc_model_open_for(ctx, out, &(lc_head_opts){.task = LC_TASK_NONE}, &model2));
  ok(lc_net_new(model2, LC_F32, &net2));
  ok(lc_embed_config(model, &o));
  ok(lc_embed_config(model2, &o2));
  assert_true(o2.from_files && o2.pooling == LC_POOL_MAX && o2.normalize && o2.max == 7);
  ok(lc_embed(net, tok, &o, texts, N, want));
  ok(lc_embed(net2, tok, &o2, texts, N, got));
  assert_memory_equal(got, want, sizeof got);
  put("modules.json", "[{\"type\": \"Pooling\", \"path\": \"../1_Pooling\"}]");
  assert_int_not_equal(lc_net_write_hf(net, out, LC_F32, NULL), LC_OK);
  assert_non_null(strstr(lc_error(ctx), "leads out of the model"));
  lc_net_free(net2);
  lc_model_close(model2);
  lc_net_free(net);
  lc_free(ctx, out);
}

static void pooling(void **state) {
  static const struct {
    const char *config;
    lc_pooling kind;
  } all[] = {{"{\"word_embedding_dimension\": 64, \"pooling_mode_mean_tokens\": true}", LC_POOL_MEAN},
             {"{\"pooling_mode_cls_token\": true}", LC_POOL_CLS},
             {"{\"pooling_mode_max_tokens\": true, \"pooling_mode_cls_token\": false}", LC_POOL_MAX},
             {"{\"pooling_mode_mean_sqrt_len_tokens\": true}", LC_POOL_SQRT},
             {"{\"pooling_mode\": \"lasttoken\"}", LC_POOL_LAST}};
  lc_net *net;
  ok(lc_net_new(model, LC_F32, &net));
  put("sentence_bert_config.json", "{\"max_seq_length\": 9, \"do_lower_case\": false}");
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    const bool normalize = i % 2 == 0;
    lc_embed_opts o;
    float got[N * C];
    double want[C];
    write_modules(normalize ? ", {\"type\": \"Normalize\", \"path\": \"2_Normalize\"}" : "");
    put("1_Pooling/config.json", all[i].config);
    ok(lc_embed_config(model, &o));
    assert_true(o.from_files && o.pooling == all[i].kind && o.normalize == normalize && o.max == 9);
    ok(lc_embed(net, tok, &o, texts, N, got));
    expect(net, "the cat", all[i].kind, normalize, 9, want);
    for (int c = 0; c < C; c++) assert_true(fabs((double)got[c] - want[c]) < 1e-5);
    expect(net, "and on the mat of the hat", all[i].kind, normalize, 9, want); /* trimmed, and cut */
    for (int c = 0; c < C; c++) assert_true(fabs((double)got[C + c] - want[c]) < 1e-5);
  }
  lc_net_free(net);
}

static void neighbours_and_threads(void **state) {
  lc_embed_opts o = {.normalize = true, .max = 100};
  for (int dtype = 0; dtype < 2; dtype++) {
    lc_net *net;
    float together[N * C], alone[C], other[N * C];
    ok(lc_net_new(model, dtype ? LC_BF16 : LC_F32, &net));
    ok(lc_embed(net, tok, &o, texts, N, together));
    for (int i = 0; i < N; i++) {
      ok(lc_embed(net, tok, &o, &texts[i], 1, alone));
      double dot = 0, far = 0;
      for (int c = 0; c < C; c++) {
        dot += (double)alone[c] * (double)together[i * C + c];
        far = fmax(far, fabs((double)alone[c] - (double)together[i * C + c]));
      }
      if (!(far < (dtype ? 1e-2 : 1e-5)) || !(dot > 0.999))
        fail_msg("text %d: %g apart, cosine %g", i, far, dot);
    }
    lc_ctx *one;
    lc_model *m;
    lc_net *n;
    ok(lc_ctx_new(1, &one, NULL));
    ok(lc_model_open_for(one, dir, &(lc_head_opts){.task = LC_TASK_NONE}, &m));
    ok(lc_net_new(m, dtype ? LC_BF16 : LC_F32, &n));
    lc_tokenizer *t;
    ok(lc_model_tokenizer(m, &t));
    ok(lc_embed(n, t, &o, texts, N, other));
    assert_memory_equal(together, other, sizeof other);
    lc_tokenizer_free(t);
    lc_net_free(n);
    lc_model_close(m);
    lc_ctx_free(one);
    lc_net_free(net);
  }
}

static void many_and_long(void **state) {
  lc_embed_opts o = {.normalize = true, .max = 100};
  enum { MANY = 300 };
  lc_embed_text list[MANY];
  lc_net *net;
  char *text = malloc(4000);
  float *out = malloc((size_t)MANY * C * sizeof *out);
  memset(text, 'x', 4000);
  for (int i = 0; i < MANY; i++) list[i] = (lc_embed_text){text, (size_t)(1 + i * 13 % 200)};
  ok(lc_net_new(model, LC_F32, &net));
  ok(lc_embed(net, tok, &o, list, MANY, out));
  for (int i = 0; i < MANY; i++) {
    double norm = 0;
    for (int c = 0; c < C; c++) norm += (double)out[i * C + c] * (double)out[i * C + c];
    assert_true(fabs(norm - 1) < 1e-5);
  }
  const lc_embed_text bad = {"\xFF", 1};
  assert_int_equal(lc_embed(net, tok, &o, &bad, 1, out), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "text 1 is not UTF-8"));
  for (int i = 0; i < net->weights.n; i++)
    if (net->weights.w[i].vector) net->weights.w[i].vector[0] = NAN;
  assert_int_equal(lc_embed(net, tok, &o, list, 2, out), LC_FAILED);
  assert_non_null(strstr(lc_error(ctx), "text 1: number 1 of its embedding is not finite"));
  lc_net_free(net);
  free(out);
  free(text);
}

static void refused(void **state) {
  static const char mean[] = "{\"pooling_mode_mean_tokens\": true}";
  static const struct {
    const char *modules, *pooling, *sentence, *says;
  } all[] = {
      {"[{\"type\": \"Dense\", \"path\": \"2_Dense\"}]", mean, "{}", "'Dense' is not built"},
      {"[{\"type\": \"Pooling\", \"path\": \"../1_Pooling\"}]", mean, "{}", "leads out"},
      {"[{\"type\": \"Pooling\", \"path\": \"/1_Pooling\"}]", mean, "{}", "leads out"},
      {"[{\"type\": \"Pooling\"}]", mean, "{}", "without type or path"},
      {"[{\"type\": \"Pooling\", \"path\": \"1_Pooling\"}]", "{}", "{}", "0 kinds of pooling"},
      {"[{\"type\": \"Pooling\", \"path\": \"1_Pooling\"}]",
       "{\"pooling_mode_mean_tokens\": true, \"pooling_mode_max_tokens\": true}", "{}", "2 kinds"},
      {"[{\"type\": \"Pooling\", \"path\": \"1_Pooling\"}]", "{\"pooling_mode\": \"weightedmean\"}", "{}",
       "0 kinds"},
      {"[{\"type\": \"Pooling\", \"path\": \"1_Pooling\"}]",
       "{\"pooling_mode_mean_tokens\": true, \"word_embedding_dimension\": 5}", "{}", "width"},
      {"{\"type\": \"Pooling\"}", mean, "{}", "no list"},
      {"[{\"type\": \"Transformer\", \"path\": \"\"}]", mean, "{}", "names no pooling"},
      {"[", mean, "{}", "no JSON"},
      {"[]", mean, "{\"max_seq_length\": 2}", "no room"},
  };
  lc_embed_opts o;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    put("modules.json", all[i].modules);
    put("1_Pooling/config.json", all[i].pooling);
    put("sentence_bert_config.json", all[i].sentence);
    if (lc_embed_config(model, &o) != LC_FAILED) fail_msg("accepted: expected '%s'", all[i].says);
    if (!strstr(lc_error(ctx), all[i].says)) fail_msg("'%s' does not say '%s'", lc_error(ctx), all[i].says);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(pooling), cmocka_unit_test(neighbours_and_threads),
                                     cmocka_unit_test(many_and_long), cmocka_unit_test(written),
                                     cmocka_unit_test(refused)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
