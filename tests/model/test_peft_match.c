/* The matching rules of adapter_config.json, against what PEFT 0.21 answers for the same names, and the scale
 * rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "model/adapter.h"
#include "support/tiny_model.h"

static lc_ctx *ctx;

static int setup(void **state) {
  char why[256];
  return lc_ctx_new(1, &ctx, why);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

typedef struct {
  const char *config, *module;
  bool hit;
} row;

static const row rows[] = {
    /* suffixes */
    {"{'target_modules': ['q_proj']}", "model.layers.0.self_attn.q_proj", true},
    {"{'target_modules': ['q_proj']}", "model.layers.0.self_attn.xq_proj", false},
    {"{'target_modules': ['o_proj']}", "model.layers.0.self_attn.k_o_proj", false},
    {"{'target_modules': ['q_proj']}", "q_proj", true},
    {"{'target_modules': ['self_attn.q_proj']}", "model.layers.0.self_attn.q_proj", true},
    {"{'target_modules': ['attn.q_proj']}", "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': ['model.layers.0.self_attn.q_proj']}", "model.layers.0.self_attn.q_proj", true},
    {"{'target_modules': ['model.layers.0.self_attn.q_proj']}", "model.layers.1.self_attn.q_proj", false},
    {"{'target_modules': ['k_proj', 'v_proj']}", "model.layers.3.self_attn.v_proj", true},
    {"{'target_modules': ['q_proj.weight']}", "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': ['.q_proj']}", "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': ['q_.*']}", "model.layers.0.self_attn.q_proj",
     false}, /* a list holds no expressions */
    {"{'target_modules': []}", "model.layers.0.self_attn.q_proj", false},
    /* a string is an expression over the whole path */
    {"{'target_modules': '.*q_proj'}", "model.layers.0.self_attn.q_proj", true},
    {"{'target_modules': 'q_proj'}", "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': 'model'}", "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': '.*\\\\.(q|v)_proj'}", "model.layers.7.self_attn.v_proj", true},
    {"{'target_modules': '.*\\\\.(q|v)_proj'}", "model.layers.7.self_attn.k_proj", false},
    {"{'target_modules': '.*layers\\\\.[02]\\\\..*_proj'}", "model.layers.2.mlp.up_proj", true},
    {"{'target_modules': '.*layers\\\\.[02]\\\\..*_proj'}", "model.layers.12.mlp.up_proj", false},
    /* all-linear */
    {"{'target_modules': 'all-linear'}", "model.layers.0.mlp.down_proj", true},
    {"{'target_modules': 'All-Linear'}", "model.layers.0.mlp.down_proj", true},
    {"{'target_modules': 'all-linear'}", "lm_head", false},
    {"{'target_modules': ['lm_head']}", "lm_head", true},
    /* exclude_modules wins */
    {"{'target_modules': ['q_proj'], 'exclude_modules': ['layers.0.self_attn.q_proj']}",
     "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': ['q_proj'], 'exclude_modules': ['layers.0.self_attn.q_proj']}",
     "model.layers.1.self_attn.q_proj", true},
    {"{'target_modules': ['q_proj'], 'exclude_modules': '.*\\\\.0\\\\..*'}",
     "model.layers.0.self_attn.q_proj", false},
    {"{'target_modules': ['q_proj'], 'exclude_modules': '.*\\\\.0'}", "model.layers.0.self_attn.q_proj",
     true},
    {"{'target_modules': 'all-linear', 'exclude_modules': ['up_proj']}", "model.layers.0.mlp.up_proj", false},
    {"{'target_modules': ['q_proj'], 'exclude_modules': []}", "model.layers.0.self_attn.q_proj", true},
    /* what is inside a module to save is out */
    {"{'target_modules': ['q_proj'], 'modules_to_save': ['self_attn']}", "model.layers.0.self_attn.q_proj",
     false},
    {"{'target_modules': ['q_proj'], 'modules_to_save': ['attn']}", "model.layers.0.self_attn.q_proj", true},
    /* layers_to_transform: the first number after two names, or after layers_pattern */
    {"{'target_modules': ['q_proj'], 'layers_to_transform': 1}", "model.layers.1.self_attn.q_proj", true},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': 1}", "model.layers.11.self_attn.q_proj", false},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': [0, 2]}", "model.layers.2.self_attn.q_proj",
     true},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': [0, 2]}", "model.layers.1.self_attn.q_proj",
     false},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': []}", "model.layers.1.self_attn.q_proj", true},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': [1], 'layers_pattern': 'layers'}",
     "model.layers.1.self_attn.q_proj", true},
    {"{'target_modules': ['q_proj'], 'layers_to_transform': [1], 'layers_pattern': ['h', 'blocks']}",
     "model.layers.1.self_attn.q_proj", false},
    {"{'target_modules': ['c_attn'], 'layers_to_transform': [3], 'layers_pattern': ['h']}",
     "transformer.h.3.attn.c_attn", true},
    {"{'target_modules': ['w1'], 'layers_to_transform': [2]}", "model.layers.2.experts.5.w1", true},
    {"{'target_modules': ['w1'], 'layers_to_transform': [5]}", "model.layers.2.experts.5.w1", false},
    {"{'target_modules': '.*q_proj', 'layers_to_transform': [1]}", "model.layers.0.self_attn.q_proj",
     true}, /* not for expressions */
    /* absent: by the model's type (llama here) */
    {"{}", "model.layers.0.self_attn.q_proj", true},
    {"{}", "model.layers.0.self_attn.v_proj", true},
    {"{}", "model.layers.0.self_attn.k_proj", false},
    {"{'target_modules': null}", "model.layers.0.mlp.up_proj", false},
};

static json_t *parse(const char *text) { /* ' stands for " */
  char buf[512];
  json_error_t e;
  snprintf(buf, sizeof buf, "%s", text);
  for (char *p = buf; *p; p++)
    if (*p == '\'') *p = '"';
  json_t *j = json_loads(buf, 0, &e);
  if (!j) fail_msg("%s: %s", text, e.text);
  return j;
}

static void test_table(void **state) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    bool hit;
    json_t *c = parse(rows[i].config);
    if (lc_peft_matches(ctx, c, "llama", rows[i].module, !strcmp(rows[i].module, "lm_head"), &hit))
      fail_msg("%s", lc_error(ctx));
    if (hit != rows[i].hit)
      fail_msg("%s %s '%s'", rows[i].config, hit ? "matches" : "does not match", rows[i].module);
    json_decref(c);
  }
}

static void test_errors(void **state) {
  static const struct {
    const char *config, *type, *says;
  } bad[] = {
      {"{'target_modules': 5}", "llama", "neither a string nor a list"},
      {"{'target_modules': [5]}", "llama", "is not a string"},
      {"{'target_modules': '(q'}", "llama", "regular expression '(q'"},
      {"{'target_modules': ['q_proj'], 'layers_to_transform': 'x'}", "llama", "neither a number nor a list"},
      {"{'target_modules': ['q_proj'], 'layers_to_transform': 1, 'layers_pattern': [5]}", "llama",
       "layers_pattern"},
      {"{}", "whale", "'whale'"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    bool hit;
    json_t *c = parse(bad[i].config);
    assert_int_equal(lc_peft_matches(ctx, c, bad[i].type, "model.layers.0.self_attn.q_proj", false, &hit),
                     LC_FAILED);
    if (!strstr(lc_error(ctx), bad[i].says)) fail_msg("%s: says '%s'", bad[i].config, lc_error(ctx));
    lc_error_clear(ctx);
    json_decref(c);
  }
}

/* The first key in the file's order that matches the end of the path. */
static void test_patterns(void **state) {
  static const struct {
    const char *pattern, *module;
    double value;
  } t[] = {
      {"{}", "model.layers.0.self_attn.q_proj", 8},
      {"{'q_proj': 3}", "model.layers.0.self_attn.q_proj", 3},
      {"{'q_proj': 3}", "model.layers.0.self_attn.xq_proj", 8},
      {"{'proj': 3}", "model.layers.0.self_attn.q_proj", 8},
      {"{'layers.0.self_attn.q_proj': 2, 'q_proj': 3}", "model.layers.0.self_attn.q_proj", 2},
      {"{'q_proj': 3, 'layers.0.self_attn.q_proj': 2}", "model.layers.0.self_attn.q_proj", 3},
      {"{'q_proj': 3, 'layers.0.self_attn.q_proj': 2}", "model.layers.1.self_attn.q_proj", 3},
      {"{'layers\\\\.1\\\\.mlp\\\\.(gate|up)_proj': 5}", "model.layers.1.mlp.gate_proj", 5},
      {"{'layers\\\\.1\\\\.mlp\\\\.(gate|up)_proj': 5}", "model.layers.1.mlp.down_proj", 8},
      {"{'model.layers.0.self_attn.q_proj': 6}", "model.layers.0.self_attn.q_proj", 6},
      {"{'.*': 4}", "lm_head", 4},
  };
  for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
    double value;
    json_t *p = parse(t[i].pattern);
    if (lc_peft_pattern(ctx, p, t[i].module, 8, &value)) fail_msg("%s", lc_error(ctx));
    if (value != t[i].value) fail_msg("%s on '%s' gives %g", t[i].pattern, t[i].module, value);
    json_decref(p);
  }
  double value;
  json_t *p = parse("{'q_proj': 'x'}");
  assert_int_equal(lc_peft_pattern(ctx, p, "q_proj", 8, &value), LC_FAILED);
  json_decref(p);
}

/* r 4 α 8: s = 2; rank-stabilised: 4; both keys absent: 8 and 8. */
static void test_scale(void **state) {
  char *dir = lc_tiny_dir();
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *m;
  lc_net *net;
  lc_adapter *a;
  json_t *c = parse("{'peft_type': 'LORA', 'target_modules': ['layers.0.self_attn.q_proj']}");
  if (lc_tiny_hf(ctx, &d, dir) || lc_model_open(ctx, dir, &m) || lc_net_new(m, LC_F32, &net))
    fail_msg("%s", lc_error(ctx));
  lc_weight *w = lc_net_weight(net, "model.layers.0.self_attn.q_proj.weight");
  for (int stable = 0; stable < 2; stable++) {
    const lc_lora_opts o = {.rank = 4, .alpha = 8, .rslora = stable};
    lc_delta *x;
    if (lc_delta_lora_new(ctx, w, &o, NULL, NULL, false, &x)) fail_msg("%s", lc_error(ctx));
    assert_true(lc_delta_lora_scale(x) == (stable ? 4 : 2));
    x->ops->free(ctx, x);
  }
  float *ab = calloc((size_t)(8 * 64), sizeof *ab);
  const lc_named_tensor t[2] = {
      {(char *)"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", {ab, LC_F32, 2, {8, w->N}}},
      {(char *)"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", {ab, LC_F32, 2, {w->M, 8}}}};
  if (lc_safetensors_write(ctx, lc_tiny_path(dir, "adapter_model.safetensors"), t, 2) ||
      lc_json_write(ctx, lc_tiny_path(dir, "adapter_config.json"), c) ||
      lc_adapter_load(net, dir, 1, LC_PATCH, &a))
    fail_msg("%s", lc_error(ctx));
  assert_int_equal(lc_delta_lora_opts(a->delta[0])->rank, 8);
  assert_true(lc_delta_lora_scale(a->delta[0]) == 1);
  free(ab);
  json_decref(c);
  lc_net_free(net);
  lc_model_close(m);
  lc_remove_tree(ctx, dir);
  free(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_errors),
                                     cmocka_unit_test(test_patterns), cmocka_unit_test(test_scale)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
