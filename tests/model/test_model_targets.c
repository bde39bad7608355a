/* Which modules a rule means: PEFT's suffix rule on a table of names, and rules on whole nets of both
 * families. */
#include "support/tiny_model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static lc_ctx *ctx;
static char *dir;
static lc_model *model[2];
static lc_net *net[2];

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

static int setup(void **state) {
  char why[256];
  if (lc_ctx_new(1, &ctx, why)) return 1;
  dir = lc_tiny_dir();
  lc_tiny m[2] = {LC_TINY_LLAMA, LC_TINY_GPT2};
  m[0].tied = false;
  m[0].L = 12; /* "layers.1" is not "layers.11" */
  m[0].attention_bias = true;
  for (int i = 0; i < 2; i++) {
    const char *path = lc_tiny_path(dir, m[i].family);
    if (lc_tiny_hf(ctx, &m[i], path) || lc_model_open(ctx, path, &model[i]) ||
        lc_net_new(model[i], LC_F32, &net[i]))
      return 1;
  }
  return 0;
}

static int teardown(void **state) {
  for (int i = 0; i < 2; i++) {
    lc_net_free(net[i]);
    lc_model_close(model[i]);
  }
  lc_remove_tree(ctx, dir);
  free(dir);
  lc_ctx_free(ctx);
  return 0;
}

static void test_names(void **state) {
  static const struct {
    const char *module, *item;
    bool match;
  } table[] = {
      {"model.layers.0.self_attn.q_proj", "q_proj", true},
      {"model.layers.0.self_attn.q_proj", "self_attn.q_proj", true},
      {"model.layers.0.self_attn.q_proj", "0.self_attn.q_proj", true},
      {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", true},
      {"model.layers.10.self_attn.q_proj", "10.self_attn.q_proj", true},
      {"model.layers.10.self_attn.q_proj", "0.self_attn.q_proj", false},
      {"model.layers.0.self_attn.xq_proj", "q_proj", false},
      {"model.layers.0.self_attn.k_o_proj", "o_proj", false},
      {"model.layers.0.self_attn.o_proj", "o_proj", true},
      {"model.layers.0.self_attn.o_proj", "k_o_proj", false},
      {"model.layers.0.self_attn.q_proj_2", "q_proj", false},
      {"model.layers.0.self_attn.q_proj.lora_A", "q_proj", false},
      {"model.layers.0.self_attn", "q_proj", false},
      {"q_proj", "q_proj", true},
      {"xq_proj", "q_proj", false},
      {"q_proj", ".q_proj", false},
      {"a.q_proj", ".q_proj", false},
      {"a.q_proj", "a.q_proj", true},
      {"ba.q_proj", "a.q_proj", false},
      {"b.a.q_proj", "a.q_proj", true},
      {"lm_head", "lm_head", true},
      {"lm_head", "head", false},
      {"model.norm", "norm", true},
      {"model.layers.0.input_layernorm", "norm", false},
      {"transformer.h.0.attn.c_attn", "c_attn", true},
      {"transformer.h.0.attn.c_attn", "attn", false},
      {"transformer.h.0.attn.c_proj", "c_proj", true},
      {"transformer.h.0.mlp.c_proj", "attn.c_proj", false},
      {"transformer.h.0.attn.c_proj", "attn.c_proj", true},
      {"transformer.h.0.mlp.c_fc", "mlp.c_fc", true},
      {"transformer.h.0.mlp.c_fc", "fc", false},
      {"model.embed_tokens", "embed_tokens", true},
      {"model.layers.3.mlp.gate_proj", "Gate_proj", false},
      {"model.layers.3.mlp.gate_proj", "", false},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (lc_target_matches(table[i].module, table[i].item) != table[i].match)
      fail_msg("'%s' against '%s'", table[i].module, table[i].item);
}

static void test_rules(void **state) {
  static const struct {
    int net;
    const char *rule;
    int n;
    const char *first;
  } table[] = {
      {0, "all-linear", 84, "model.layers.0.mlp.down_proj.weight"},
      {0, "ALL-Linear", 84, "model.layers.0.mlp.down_proj.weight"},
      {0, "q_proj", 12, "model.layers.0.self_attn.q_proj.weight"},
      {0, "q_proj,v_proj", 24, "model.layers.0.self_attn.q_proj.weight"},
      {0, " q_proj , v_proj ,", 24, "model.layers.0.self_attn.q_proj.weight"},
      {0, "layers.1.self_attn.q_proj", 1, "model.layers.1.self_attn.q_proj.weight"},
      {0, "lm_head", 1, "lm_head.weight"},
      {0, "embed_tokens", 1, "model.embed_tokens.weight"},
      {0, "re:.*\\.q_proj", 12, "model.layers.0.self_attn.q_proj.weight"},
      {0, "re:model\\.layers\\.1\\..*_proj", 7, "model.layers.1.mlp.down_proj.weight"},
      {0, "re:.*\\.1\\d?\\.self_attn\\.(q|k)_proj", 6, "model.layers.1.self_attn.k_proj.weight"},
      {1, "all-linear", 8, "transformer.h.0.attn.c_attn.weight"},
      {1, "c_proj", 4, "transformer.h.0.attn.c_proj.weight"},
      {1, "attn.c_proj", 2, "transformer.h.0.attn.c_proj.weight"},
      {1, "wpe", 1, "transformer.wpe.weight"},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    lc_weight **w;
    int n;
    ok(lc_targets(net[table[i].net], table[i].rule, &w, &n));
    if (n != table[i].n || strcmp(w[0]->name, table[i].first))
      fail_msg("'%s': %d matrices, first %s", table[i].rule, n, w[0]->name);
    for (int k = 1; k < n; k++) assert_true(strcmp(w[k - 1]->name, w[k]->name) < 0);
    for (int k = 0; k < n; k++) assert_int_equal(w[k]->ndim, 2);
    lc_free(ctx, w);
  }
}

static void test_refusals(void **state) {
  static const struct {
    const char *rule, *names;
  } table[] = {{"x_proj", "x_proj"},
               {"", "match no matrix"},
               {"norm", "only vectors"},
               {"re:q_proj", "match no matrix"},
               {"re:(", "regular expression"}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    lc_weight **w;
    int n;
    assert_int_equal(lc_targets(net[0], table[i].rule, &w, &n), LC_USAGE);
    if (!strstr(lc_error(ctx), table[i].names)) fail_msg("'%s': %s", table[i].rule, lc_error(ctx));
    lc_error_clear(ctx);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_rules),
                                     cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
