/* recipe.yaml: what a run writes repeats it bit for bit; what nobody knows is refused with the nearest name.
 */
#include "support/world_test.h"

/* "key=value …" of a recipe's pairs. */
static void as_text(const lc_pair *p, int n, char *buf, size_t size) {
  *buf = 0;
  for (int i = 0; i < n; i++) {
    size_t at = strlen(buf);
    snprintf(buf + at, size - at, "%s=%s ", p[i].key, p[i].value);
  }
}

static void test_repeats(void **state) {
  static const struct {
    const char *method, *set;
  } run[] = {{"spiel", "period=4 accumulate=2 p0=0.3"},
             {"shira", "mask=snip examples=6"},
             {"lora", "r=3 dropout=0.2"}};
  for (int i = 0; i < 3; i++) {
    lc_recipe r;
    char opts[1024], set[1024];
    t_spec s = {.method = run[i].method,
                .set = run[i].set,
                .out = "first",
                .opts = "steps=5 batch=4 lr=0.0123456789 schedule=cosine warmup=0.4 density=0.07 seed=9 "
                        "clip=0.5 targets=q_proj,down_proj"};
    ok(t_train(&w, &s));
    ok(lc_recipe_read(w.ctx, t_out(&w, "first", "recipe.yaml"), &r));
    assert_string_equal(r.method, run[i].method);
    assert_string_equal(r.data, "data.jsonl");
    assert_string_equal(r.model, lc_tiny_path(w.dir, "model"));
    as_text(r.option, r.n_option, opts, sizeof opts);
    as_text(r.set, r.n_set, set, sizeof set);
    s = (t_spec){.method = r.method, .set = set, .out = "second", .opts = opts};
    ok(t_train(&w, &s));
    lc_recipe_free(w.ctx, &r);
    assert_true(t_same_files(t_out(&w, "first", "recipe.yaml"), t_out(&w, "second", "recipe.yaml")));
    assert_true(t_same_files(t_out(&w, "first", "checkpoint-5/state.safetensors"),
                             t_out(&w, "second", "checkpoint-5/state.safetensors")));
    lc_remove_tree(w.ctx, t_out(&w, "first", ""));
    lc_remove_tree(w.ctx, t_out(&w, "second", ""));
  }
}

/* Strings that YAML could take for something else come back as they were. */
static void test_strings(void **state) {
  static const char *const awkward[] = {
      "yes",  "- a: b # c", "two\nlines", "  spaces  ", "'quoted' \"twice\"",
      "null", "été",        "0x10",       "{}",         "a\\nb"};
  const lc_method *m = lc_method_find("lora");
  void *self = lc_alloc(w.ctx, LC_MEM_OTHER, m->self_size);
  lc_train_opts o, back;
  ok(lc_options_init(w.ctx, m->options, self));
  for (size_t i = 0; i < sizeof awkward / sizeof *awkward; i++) {
    lc_recipe r;
    const char *path = lc_tiny_path(w.dir, "r.yaml");
    ok(lc_options_init(w.ctx, lc_train_options, &o));
    ok(lc_options_init(w.ctx, lc_train_options, &back));
    ok(lc_options_set(w.ctx, lc_train_options, "t", &o, "sample-prompt", awkward[i]));
    ok(lc_options_set(w.ctx, lc_train_options, "t", &o, "save-every", "123456789012"));
    ok(lc_recipe_write(w.ctx, path, awkward[i], NULL, m, self, NULL, &o));
    ok(lc_recipe_read(w.ctx, path, &r));
    assert_string_equal(r.model, awkward[i]);
    assert_null(r.data);
    ok(lc_recipe_apply(w.ctx, &r, &back, m, self, NULL));
    assert_string_equal(back.sample_prompt, awkward[i]);
    assert_true(back.save_every == 123456789012);
    lc_recipe_free(w.ctx, &r);
    lc_options_clear(w.ctx, lc_train_options, &o);
    lc_options_clear(w.ctx, lc_train_options, &back);
  }
  lc_options_clear(w.ctx, m->options, self);
  lc_free(w.ctx, self);
}

static void test_refusals(void **state) {
  static const struct {
    const char *text, *says;
    lc_status st;
  } bad[] = {{"method: lora\nstesp: 3\n", "unknown key 'stesp'; did you mean 'steps'", LC_USAGE},
             {"method: lora\nset:\n  rank: 3\n  r: 2\n", "unknown key 'rank'", LC_USAGE},
             {"method: lora\nset:\n  drpout: 3\n", "unknown key 'drpout'; did you mean 'dropout'", LC_USAGE},
             {"method: lora\nset:\n  period: 3\n", "unknown key 'period'", LC_USAGE},
             {"method: loar\n", "there is no method 'loar'; did you mean 'lora'?", LC_USAGE},
             {"method: [a, b]\n", "not a recipe", LC_FAILED},
             {"- 1\n- 2\n", "not a recipe", LC_FAILED},
             {"method: lora\n  bad indent: [\n", "not a recipe", LC_FAILED},
             {"\x01\x02", "not a recipe", LC_FAILED},
             {"", "r.yaml", LC_FAILED},
             {"# only a remark\n", "r.yaml", LC_FAILED}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    lc_recipe r;
    const char *path = lc_tiny_path(w.dir, "r.yaml");
    ok(lc_write_file(w.ctx, path, bad[i].text, strlen(bad[i].text)));
    lc_status st = lc_recipe_read(w.ctx, path, &r);
    if (st != bad[i].st || !strstr(lc_error(w.ctx), bad[i].says))
      fail_msg("'%s': %d '%s'", bad[i].text, st, lc_error(w.ctx));
    lc_error_clear(w.ctx);
  }
}

/* A value is checked like a flag. */
static void test_values(void **state) {
  lc_recipe r;
  lc_train_opts o;
  const char *path = lc_tiny_path(w.dir, "r.yaml"), *text = "method: lora\nsteps: 12\nlr: fast\n";
  ok(lc_write_file(w.ctx, path, text, strlen(text)));
  ok(lc_recipe_read(w.ctx, path, &r));
  ok(lc_options_init(w.ctx, lc_train_options, &o));
  assert_int_equal(lc_recipe_apply(w.ctx, &r, &o, NULL, NULL, NULL), LC_USAGE);
  assert_non_null(strstr(lc_error(w.ctx), "lr is 'fast'"));
  assert_int_equal(o.steps, 12);
  lc_options_clear(w.ctx, lc_train_options, &o);
  lc_recipe_free(w.ctx, &r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_repeats),
      TEST(test_strings),
      TEST(test_refusals),
      TEST(test_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
