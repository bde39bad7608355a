/* Any bytes as a recipe.yaml: what is read must apply to the tables that it names, or say which value it cannot take. */
#include "fuzz.h"
#include "train/objective.h"

static void *options(lc_ctx *ctx, const lc_option *table, size_t size) {
  void *self = lc_alloc(ctx, LC_MEM_OTHER, size ? size : 1);
  if (self && lc_options_init(ctx, table, self)) {
    lc_options_clear(ctx, table, self);
    lc_free(ctx, self);
    return NULL;
  }
  return self;
}

static void apply(lc_ctx *ctx, const lc_recipe *r) {
  const lc_method *m = lc_method_find(r->method ? r->method : "lora");
  lc_goal goal = {.row = lc_objective_find(r->objective ? r->objective : "sft")};
  lc_train_opts o = {0};
  FUZZ_CHECK(m && goal.row);
  void *self = options(ctx, m->options, m->self_size);
  goal.self = options(ctx, goal.row->options, goal.row->self_size);
  const lc_status st = lc_options_init(ctx, lc_train_options, &o);
  if (!st && self && goal.self && lc_recipe_apply(ctx, r, &o, m, self, &goal)) fuzz_refused(ctx);
  lc_options_clear(ctx, lc_train_options, &o);
  if (self) lc_options_clear(ctx, m->options, self);
  if (goal.self) lc_options_clear(ctx, goal.row->options, goal.self);
  lc_free(ctx, self);
  lc_free(ctx, goal.self);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  lc_ctx *ctx = fuzz_context();
  const size_t before = fuzz_memory(ctx);
  lc_recipe r;
  fuzz_no_files();
  fuzz_file("recipe.yaml", data, n);
  if (lc_recipe_read(ctx, "recipe.yaml", &r))
    fuzz_refused(ctx);
  else
    apply(ctx, &r);
  lc_recipe_free(ctx, &r);
  FUZZ_CHECK(fuzz_memory(ctx) == before);
  return 0;
}
