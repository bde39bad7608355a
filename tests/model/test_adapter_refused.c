/* Every way an adapter's directory can be wrong is one sentence of its own and changes nothing; what may differ from PEFT's habits is read. */
#include "support/adapter_support.h"
#include <setjmp.h>
#include <stdarg.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static lc_ctx *ctx;

static int setup(void **state) {
  char why[256];
  return lc_ctx_new(2, &ctx, why);
}

static int teardown(void **state) {
  lc_ctx_free(ctx);
  return 0;
}

static void ok(lc_status st) {
  if (st) fail_msg("%s", lc_error(ctx));
}

typedef struct {
  const char *name, *from;
  void (*edit)(const char *dir);
  const char *says;
} bad;

static void config_edit(const char *dir, const char *key, json_t *value) {
  json_t *c;
  ok(lc_json_read(ctx, lc_tiny_path(dir, "adapter_config.json"), &c));
  if (value)
    json_object_set_new(c, key, value);
  else
    json_object_del(c, key);
  ok(lc_json_write(ctx, lc_tiny_path(dir, "adapter_config.json"), c));
  json_decref(c);
}

/* Rewrites the tensors: those whose name ends in `suffix` go through fn (which may rename, reshape, change
 * data); fn returns false to drop. */
typedef bool (*tensor_edit)(lc_named_tensor *, void **owned);
static void tensors_edit(const char *dir, const char *suffix, tensor_edit fn) {
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, lc_tiny_path(dir, "adapter_model.safetensors"), &s));
  lc_named_tensor *t = calloc((size_t)s.n, sizeof *t);
  void **owned = calloc((size_t)(2 * s.n), sizeof *owned);
  const int before = s.n;
  int n = 0;
  for (int i = 0; i < s.n; i++) {
    t[n] = s.tensor[i];
    const size_t len = strlen(t[n].name), k = strlen(suffix);
    if (len < k || strcmp(t[n].name + len - k, suffix) || fn(&t[n], &owned[2 * i])) n++;
  }
  char *tmp = strdup(lc_tiny_path(dir, "new.safetensors"));
  ok(lc_safetensors_write(ctx, tmp, t, n));
  lc_safetensors_close(ctx, &s);
  assert_int_equal(rename(tmp, lc_tiny_path(dir, "adapter_model.safetensors")), 0);
  for (int i = 0; i < 2 * before; i++) free(owned[i]);
  free(tmp);
  free(owned);
  free(t);
}

static bool drop(lc_named_tensor *t, void **owned) {
  return false;
}

static void *own(lc_named_tensor *t, void **owned) {
  size_t bytes;
  assert_true(lc_dtype_bytes(t->t.dtype, lc_tensor_count(&t->t), &bytes));
  owned[0] = malloc(bytes);
  memcpy(owned[0], t->t.data, bytes);
  t->t.data = owned[0];
  return owned[0];
}

static bool nan_inside(lc_named_tensor *t, void **owned) {
  ((float *)own(t, owned))[3] = NAN;
  return true;
}
static bool rename_to(lc_named_tensor *t, void **owned, const char *name) {
  owned[1] = strdup(name);
  t->name = owned[1];
  return true;
}
static bool rename_module(lc_named_tensor *t, void **owned) {
  return rename_to(t, owned, "base_model.model.model.layers.0.a.q_proj.lora_A.weight");
}
static bool rename_dora(lc_named_tensor *t, void **owned) {
  return rename_to(t, owned, "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector");
}
static bool rename_prefix(lc_named_tensor *t, void **owned) {
  return rename_to(t, owned, "model.layers.0.self_attn.q_proj.lora_A.weight");
}
static bool flatten(lc_named_tensor *t, void **owned) {
  t->t.shape[0] *= t->t.shape[1];
  t->t.ndim = 1;
  return true;
}
static bool turn(lc_named_tensor *t, void **owned) { /* [r, in] -> [in, r] */
  int64_t r = t->t.shape[0];
  t->t.shape[0] = t->t.shape[1];
  t->t.shape[1] = r;
  return true;
}
static bool as_ints(lc_named_tensor *t, void **owned) {
  t->t.dtype = LC_I32;
  return true;
}
static bool row_out(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[5] = 1 << 20;
  return true;
}
static bool row_negative(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[5] = -1;
  return true;
}
static bool column_out(lc_named_tensor *t, void **owned) {
  ((int32_t *)own(t, owned))[t->t.shape[1] + 2] = 1 << 20;
  return true;
}

#define Q0 "layers.0.self_attn.q_proj"
static void no_r(const char *d) {
  config_edit(d, "r", json_integer(0));
}
static void wrong_r(const char *d) {
  config_edit(d, "r", json_integer(5));
}
static void dora(const char *d) {
  config_edit(d, "use_dora", json_true());
}
static void lora_bias(const char *d) {
  config_edit(d, "lora_bias", json_true());
}
static void bias(const char *d) {
  config_edit(d, "bias", json_string("lora_only"));
}
static void to_save(const char *d) {
  config_edit(d, "modules_to_save", json_pack("[s]", "lm_head"));
}
static void pissa(const char *d) {
  config_edit(d, "init_lora_weights", json_string("pissa"));
}
static void kasa(const char *d) {
  config_edit(d, "kasa_config", json_pack("{s:i}", "a", 1));
}
static void alora(const char *d) {
  config_edit(d, "alora_invocation_tokens", json_pack("[i]", 5));
}
static void qalora(const char *d) {
  config_edit(d, "use_qalora", json_true());
}
static void other_type(const char *d) {
  config_edit(d, "peft_type", json_string("IA3"));
}
static void no_type(const char *d) {
  config_edit(d, "peft_type", NULL);
}
static void no_match(const char *d) {
  config_edit(d, "target_modules", json_pack("[s]", "query"));
}
static void fewer(const char *d) {
  config_edit(d, "target_modules", json_pack("[s]", "q_proj"));
}
static void bad_regex(const char *d) {
  config_edit(d, "target_modules", json_string("(q_proj"));
}
static void no_b(const char *d) {
  tensors_edit(d, Q0 ".lora_B.weight", drop);
}
static void no_both(const char *d) {
  no_b(d);
  tensors_edit(d, Q0 ".lora_A.weight", drop);
}
static void nan_a(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", nan_inside);
}
static void no_module(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", rename_module);
}
static void has_dora(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", rename_dora);
}
static void no_prefix(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", rename_prefix);
}
static void turned(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", turn);
}
static void flat_b(const char *d) {
  tensors_edit(d, Q0 ".lora_B.weight", flatten);
}
static void ints(const char *d) {
  tensors_edit(d, Q0 ".lora_A.weight", as_ints);
}
static void truncated(const char *d) {
  char *data;
  size_t n;
  ok(lc_read_file(ctx, lc_tiny_path(d, "adapter_model.safetensors"), 1 << 24, &data, &n));
  ok(lc_write_file(ctx, lc_tiny_path(d, "adapter_model.safetensors"), data, n - 9));
  lc_free(ctx, data);
}
static void pickle(const char *d) {
  assert_int_equal(rename(lc_tiny_path(d, "adapter_model.safetensors"), lc_tiny_path(d, "adapter_model.bin")),
                   0);
}
static void missing(const char *d) {
  assert_int_equal(remove(lc_tiny_path(d, "adapter_model.safetensors")), 0);
}
static void nothing(const char *d) {
  assert_int_equal(remove(lc_tiny_path(d, "adapter_config.json")), 0);
}
static void s_row(const char *d) {
  tensors_edit(d, Q0 ".shira_indices", row_out);
}
static void s_negative(const char *d) {
  tensors_edit(d, Q0 ".shira_indices", row_negative);
}
static void s_column(const char *d) {
  tensors_edit(d, Q0 ".shira_indices", column_out);
}
static void s_half(const char *d) {
  tensors_edit(d, Q0 ".shira_indices", drop);
}
static void s_shape(const char *d) {
  tensors_edit(d, Q0 ".shira_indices", flatten);
}
static void s_big(const char *d) {
  config_edit(d, "r", json_integer(1 << 20));
}

static const bad cases[] = {
    {"r 0", "lora", no_r, "1 to 2147483647"},
    {"another r", "lora", wrong_r, "have rank 4, the config says 5"},
    {"DoRA", "lora", dora, "use_dora"},
    {"lora_bias", "lora", lora_bias, "lora_bias"},
    {"bias", "lora", bias, "bias to 'lora_only'"},
    {"modules_to_save", "lora", to_save, "modules_to_save"},
    {"PiSSA", "lora", pissa, "'pissa'"},
    {"KaSA", "lora", kasa, "kasa_config"},
    {"aLoRA", "lora", alora, "alora_invocation_tokens"},
    {"QA-LoRA", "lora", qalora, "use_qalora"},
    {"another kind", "lora", other_type, "'IA3'"},
    {"no kind", "lora", no_type, "no peft_type"},
    {"targets nothing", "lora", no_match, "does not target"},
    {"targets fewer", "lora", fewer, "does not target"},
    {"bad expression", "lora", bad_regex, "regular expression"},
    {"no B", "lora", no_b, "beside it"},
    {"a target without tensors", "lora", no_both, "no tensors for it"},
    {"NaN", "lora", nan_a, "no finite number, at place 3"},
    {"no such module", "lora", no_module, "has no module 'model.layers.0.a.q_proj'"},
    {"magnitude vector", "lora", has_dora, "belongs to DoRA"},
    {"no prefix", "lora", no_prefix, "does not begin with 'base_model.model.'"},
    {"turned", "lora", turned, "columns, the module"},
    {"flat B", "lora", flat_b, "rows, the module"},
    {"integers", "lora", ints, "f32, f16 or bf16"},
    {"truncated", "lora", truncated, "adapter_model.safetensors"},
    {"pickle", "lora", pickle, "pickle"},
    {"no tensors", "lora", missing, "missing"},
    {"no adapter", "lora", nothing, "not an adapter"},
    {"SHiRA: another r", "shira", wrong_r, "values, but r = 5 makes"},
    {"SHiRA: r 0", "shira", no_r, "1 to 2147483647"},
    {"SHiRA: huge r", "shira", s_big, "values, but r = 1048576 makes"},
    {"SHiRA: row", "shira", s_row, "names row 1048576"},
    {"SHiRA: negative", "shira", s_negative, "names row -1"},
    {"SHiRA: column", "shira", s_column, "names column 1048576"},
    {"SHiRA: half", "shira", s_half, "beside it"},
    {"SHiRA: shape", "shira", s_shape, "is not 2×"},
    {"SHiRA: modules_to_save", "shira", to_save, "modules_to_save"},
};

static char *copy_adapter(const char *name) {
  char *dir = lc_tiny_dir(), from[128];
  const char *const file[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; i++) {
    snprintf(from, sizeof from, "golden/adapters/%s/%s", name, file[i]);
    ok(lc_copy_file(ctx, from, lc_tiny_path(dir, file[i])));
  }
  return dir;
}

static void refused(lc_net *net, const char *what, const char *dir, const char *says) {
  lc_adapter *a;
  const uint64_t before = t_weights_sum(ctx, net);
  const size_t bytes = lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE);
  lc_error_clear(ctx);
  if (lc_adapter_load(net, dir, 1, LC_IN_PLACE, &a) != LC_FAILED) fail_msg("%s: was read", what);
  if (!strstr(lc_error(ctx), says)) fail_msg("%s: says '%s', expected '%s'", what, lc_error(ctx), says);
  assert_null(a);
  assert_int_equal(net->n_adapter, 0);
  for (int k = 0; k < net->weights.n; k++) assert_int_equal(net->weights.w[k].n_delta, 0);
  assert_true(t_weights_sum(ctx, net) == before);
  assert_true(lc_mem_bytes(ctx, LC_MEM_OTHER) + lc_mem_bytes(ctx, LC_MEM_TRAINABLE) <=
              bytes + 64); /* the net's own list may be new */
}

static void test_refusals(void **state) {
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/lora");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *dir = copy_adapter(cases[i].from);
    cases[i].edit(dir);
    refused(g.net, cases[i].name, dir, cases[i].says);
    ok(lc_remove_tree(ctx, dir));
    free(dir);
  }
  refused(g.net, "no directory", "golden/adapters/none", "is a directory");
  refused(g.net, "another model", "golden/adapters/gpt2-lora", "has no module");
  t_golden_close(ctx, &g);
}

/* Positions that repeat are added, in whatever order they stand; other integer types of indices and
 * half-precision values are read. */
static bool repeat(lc_named_tensor *t, void **owned) {
  int32_t *x = own(t, owned);
  const int64_t K = t->t.shape[1];
  x[1] = x[0];
  x[K + 1] = x[K];
  return true;
}
static bool as_floats(lc_named_tensor *t, void **owned) {
  int32_t *x = own(t, owned);
  for (int64_t k = 0; k < lc_tensor_count(&t->t); k++) {
    const float f = (float)x[k];
    memcpy(&x[k], &f, 4);
  }
  t->t.dtype = LC_F32;
  return true;
}
static bool as_bf16(lc_named_tensor *t, void **owned) {
  const int64_t n = lc_tensor_count(&t->t);
  uint16_t *h = owned[0] = malloc((size_t)n * 2);
  for (int64_t k = 0; k < n; k++) h[k] = lc_f32_to_bf16(((const float *)t->t.data)[k]);
  t->t.data = h;
  t->t.dtype = LC_BF16;
  return true;
}

static void test_lenient_reading(void **state) {
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/shira");
  lc_adapter *a, *b;
  char *dir = copy_adapter("shira");
  ok(lc_adapter_load(g.net, "golden/adapters/shira", 1, LC_PATCH, &a));
  tensors_edit(dir, Q0 ".shira_indices", repeat);
  tensors_edit(dir, "k_proj.shira_indices", as_floats);
  tensors_edit(dir, "v_proj.shira_weight", as_bf16);
  ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &b));
  lc_safetensors s;
  ok(lc_safetensors_open(ctx, "golden/adapters/shira/adapter_model.safetensors", &s));
  const lc_tensor *x = lc_safetensors_find(&s, "base_model.model.model." Q0 ".shira_indices");
  const lc_tensor *v = lc_safetensors_find(&s, "base_model.model.model." Q0 ".shira_weight");
  const int64_t K = x->shape[1];
  for (int i = 0; i < a->n; i++) {
    const lc_param *p = a->delta[i]->param[0], *q = b->delta[i]->param[0];
    if (strstr(p->name, Q0)) {
      const int64_t at = ((const int32_t *)x->data)[0] * p->cols + ((const int32_t *)x->data)[K];
      assert_int_equal(q->n, p->n - 1);
      assert_true(q->value[lc_index_lower(&q->idx, 0, at)] ==
                  ((const float *)v->data)[0] + ((const float *)v->data)[1]);
      continue;
    }
    assert_int_equal(q->n, p->n);
    for (int64_t k = 0; k < p->n; k++) {
      assert_int_equal(lc_index_at(&p->idx, k), lc_index_at(&q->idx, k));
      const float want =
          strstr(p->name, "v_proj") ? lc_bf16_to_f32(lc_f32_to_bf16(p->value[k])) : p->value[k];
      assert_true(q->value[k] == want);
    }
  }
  lc_safetensors_close(ctx, &s);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
  t_golden_close(ctx, &g);
}

/* lacuna's own file, damaged. */
static void test_native_refusals(void **state) {
  t_golden g = t_golden_open(ctx, "llama-gqa", "golden/adapters/shira");
  char *dir = lc_tiny_dir();
  lc_adapter *a = t_sparse(ctx, g.net, "q_proj", 40, 5);
  ok(lc_adapter_save(a, LC_LAYOUT_NATIVE, dir, &(lc_adapter_meta){.method = "spiel"}));
  ok(lc_adapter_remove(a));
  char *path = strdup(lc_tiny_path(dir, "lacuna_adapter.json"));
  json_t *good, *j;
  ok(lc_json_read(ctx, path, &good));
  static const struct {
    const char *key;
    int item;
    json_int_t value;
    const char *says;
  } edits[] = {{"version", -1, 2, "version 2"},
               {"weights", 0, 7, "there,"},
               {"weights", 2, 41, "are not 41 f32"},
               {"weights", 2, 0, "cannot have 0"},
               {"weights", 2, 39, "are not 39 f32"}};
  for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
    j = json_deep_copy(good);
    if (edits[i].item < 0)
      json_object_set_new(j, edits[i].key, json_integer(edits[i].value));
    else
      json_array_set_new(json_object_get(json_object_get(j, "weights"), "model." Q0), (size_t)edits[i].item,
                         json_integer(edits[i].value));
    ok(lc_json_write(ctx, path, j));
    json_decref(j);
    refused(g.net, edits[i].says, dir, edits[i].says);
  }
  j = json_deep_copy(good);
  json_object_set_new(json_object_get(j, "weights"), "model.layers.0.mlp.up_proj",
                      json_pack("[i,i,i]", 1, 1, 1));
  ok(lc_json_write(ctx, path, j));
  json_decref(j);
  refused(g.net, "more weights", dir, "names 3 weights");
  ok(lc_json_write(ctx, path, good));
  json_decref(good);
  ok(lc_adapter_load(g.net, dir, 1, LC_PATCH, &a));
  free(path);
  ok(lc_remove_tree(ctx, dir));
  free(dir);
  t_golden_close(ctx, &g);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals), cmocka_unit_test(test_lenient_reading),
                                     cmocka_unit_test(test_native_refusals)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
