/* Every method through the loop: the start is the base bit for bit, the result read back has the loss that
 * training ended with, and an adapter trained on a GGUF (permuted q and k) does the same on the HF form. The
 * table's rows describe themselves. */
#define WORLD_THREADS 1
#include "method/method_test.h"
typedef struct {
  const char *method, *set;
} variant;
static const variant variants[] = {
    {"full", "outtype=f32"},
    {"full", "embeddings=false outtype=f32"},
    {"lora", "r=4 alpha=8"},
    {"lora", "r=3 rslora=true init=gaussian dropout=0.1"},
    {"shira", "mask=random"},
    {"shira", "mask=wm r=2"},
    {"shira", "mask=snip examples=8"},
    {"spiel", "period=4 accumulate=2"},
    {"spiel", "select=ma period=4 accumulate=2"},
    {"allora", "r=4"},
    {"allora", "r=4 place=lr power=1"},
    {"s2ft", "o=0.25 d=0.1"},
    {"dsee", "r=4 outer=3"},
    {"dsee", "r=4 entries=0 prune=random heads=2"},
    {"s2ft", "v=0.5 o=0 u=0.2 d=0 select=activation end=small layout=lora"},
    {"llava-mole", "r=4 alpha=8"},
    {"mosa", "width=8 scale=1"},
    {"mosa", "width=8 scale=1 pieces=3 share=down merge=sum"},
    {"mosa", "width=8 scale=1 pieces=1 kl=0 style=pfeiffer"},
    {"llava-mole", "r=4 alpha=8 gate=dense balance-scope=joint"},
    {"lift", "filter=4 interval=2"},
    {"lift", "r=2 filter=4 interval=3 layout=padded"},
    {"lift", "r=2 filter=4 interval=0 layout=peft"},
    {"lift", "budget=authors shape=blocks"},
    {"lt-sft", ""},
    {"lt-sft", "phase=lora scope=layer"},
    {"lt-sft", "iterations=2 dense=embed_tokens"},
    {"lt-sft", "select=random"},
    {"sara", "side=16 every=3"},
    {"sara", "threshold=0.01 layout=peft progressive=-1"},
};

static void test_start_and_result(void **state) {
  const double base = loss_of(w.model, NULL, LC_PATCH);
  for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
    const variant *v = &variants[i];
    char out[16], step0[64], last[64];
    snprintf(out, sizeof out, "r%zu", i);
    t_spec s = {
        .method = v->method, .set = v->set, .opts = "steps=7 batch=6 density=0.05 eval-every=7", .out = out};
    ok(t_train(&w, &s));
    snprintf(step0, sizeof step0, "%s",
             t_query(&w, out, "SELECT printf('%.17g', loss) FROM evals WHERE step = 0"));
    snprintf(last, sizeof last, "%s",
             t_query(&w, out, "SELECT printf('%.17g', loss) FROM evals WHERE step = 7"));
    if (atof(step0) != base)
      fail_msg("%s %s begins with %s, the base has %.17g", v->method, v->set, step0, base);
    assert_true(atof(last) < base);
    double got;
    if (!strcmp(v->method, "full")) {
      lc_model *m;
      ok(lc_model_open(w.ctx, t_out(&w, out, ""), &m));
      got = loss_of(m, NULL, LC_PATCH);
      lc_model_close(m);
    } else {
      got = loss_of(w.model, t_out(&w, out, ""), LC_PATCH);
    }
    if (fabs(got - atof(last)) > 1e-6 * base)
      fail_msg("%s %s ended with %s, its result has %.17g", v->method, v->set, last, got);
  }
}

static void test_config(void **state) {
  t_spec s = {.method = "lora",
              .set = "r=4 alpha=6 rslora=true dropout=0.05",
              .opts = "steps=1 base-name=some/base",
              .out = "c",
              .no_eval = true};
  ok(t_train(&w, &s));
  json_t *c;
  ok(lc_json_read(w.ctx, t_out(&w, "c", "adapter_config.json"), &c));
  assert_int_equal(json_integer_value(json_object_get(c, "r")), 4);
  assert_int_equal(json_integer_value(json_object_get(c, "lora_alpha")), 6);
  assert_true(json_is_true(json_object_get(c, "use_rslora")));
  assert_string_equal(json_string_value(json_object_get(c, "base_model_name_or_path")), "some/base");
  assert_int_equal(json_array_size(json_object_get(c, "target_modules")),
                   7); /* all-linear, as the names it stands for */
  assert_true(fabs(json_number_value(json_object_get(c, "lora_dropout")) - 0.05) < 1e-7);
  json_decref(c);
  s = (t_spec){.method = "lora",
               .opts = "steps=1 targets=re:.*layers\\.1\\..*(q|up)_proj",
               .out = "d",
               .no_eval = true};
  ok(t_train(&w, &s));
  ok(lc_json_read(w.ctx, t_out(&w, "d", "adapter_config.json"), &c));
  const json_t *t =
      json_object_get(c, "target_modules"); /* the shortest names that mean these and no others */
  assert_int_equal(json_array_size(t), 2);
  assert_string_equal(json_string_value(json_array_get(t, 0)), "1.mlp.up_proj");
  assert_string_equal(json_string_value(json_array_get(t, 1)), "1.self_attn.q_proj");
  json_decref(c);
}

/* Trained on the GGUF, used on the HF form, and the other way round. */
static void test_across_formats(void **state) {
  static const char *const methods[][2] = {
      {"lora", "r=4"}, {"shira", "mask=wm"}, {"spiel", "period=3 accumulate=2"}};
  lc_tiny d = LC_TINY_LLAMA;
  lc_model *hf = w.model, *gguf;
  ok(lc_tiny_gguf(w.ctx, &d, lc_tiny_path(w.dir, "m.gguf")));
  ok(lc_model_open(w.ctx, lc_tiny_path(w.dir, "m.gguf"), &gguf));
  for (int i = 0; i < 3; i++)
    for (int from_gguf = 0; from_gguf < 2; from_gguf++) {
      char out[32];
      snprintf(out, sizeof out, "x%d%d", i, from_gguf);
      w.model = from_gguf ? gguf : hf;
      t_spec s = {.method = methods[i][0],
                  .set = methods[i][1],
                  .opts = "steps=4 batch=4 density=0.05 targets=q_proj,k_proj,down_proj",
                  .out = out};
      ok(t_train(&w, &s));
      const double own = loss_of(w.model, t_out(&w, out, ""), LC_PATCH),
                   other = loss_of(from_gguf ? hf : gguf, t_out(&w, out, ""), LC_PATCH);
      assert_true(fabs(own - other) < 1e-6 * own);
      assert_true(fabs(own - loss_of(hf, NULL, LC_PATCH)) > 1e-4);
    }
  w.model = hf;
  lc_model_close(gguf);
}

/* ---- the table ---- */

static void test_table(void **state) {
  for (int i = 0; i < lc_n_methods; i++) {
    const lc_method *m = lc_methods[i];
    assert_ptr_equal(lc_method_find(m->name), m);
    assert_true(m->title && m->source && m->about && strlen(m->about) > 60 && m->lr > 0 &&
                lc_optim_find(m->optimizer));
    assert_true(m->attach && m->save);
    void *self = lc_alloc(w.ctx, LC_MEM_OTHER, m->self_size);
    ok(lc_options_init(w.ctx, m->options, self));
    for (const lc_option *o = m->options; o->name; o++) {
      assert_true(o->offset < m->self_size && o->help && strlen(o->help) > 8);
      char *text = lc_options_get(w.ctx, o, self); /* the default, and it parses back */
      ok(lc_options_set(w.ctx, m->options, m->name, self, o->name, text));
      lc_free(w.ctx, text);
    }
    assert_int_not_equal(lc_options_set(w.ctx, m->options, m->name, self, "no-such-option", "1"), LC_OK);
    lc_options_clear(w.ctx, m->options, self);
    lc_free(w.ctx, self);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_start_and_result), TEST(test_config),
                                     TEST(test_across_formats), TEST(test_table)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
