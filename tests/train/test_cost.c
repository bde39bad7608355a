/* What lc_cost says of a method is what its run holds: bytes by class, at the largest of all updates. */
#include "support/world_test.h"

typedef struct {
  size_t trainable, grad, candidate;
  size_t before[3];
} held;

static int look(void *arg, const char *kind, const struct json_t *event) {
  held *h = arg;
  if (strcmp(kind, "step") != 0) return 0;
  const size_t now[3] = {lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE) - h->before[0],
                         lc_mem_bytes(w.ctx, LC_MEM_GRAD) - h->before[1],
                         lc_mem_bytes(w.ctx, LC_MEM_CANDIDATE) - h->before[2]};
  if (now[0] > h->trainable) h->trainable = now[0];
  if (now[1] > h->grad) h->grad = now[1];
  if (now[2] > h->candidate) h->candidate = now[2];
  return 0;
}

static void set_pairs(const lc_option *table, void *self, const char *pairs) {
  char text[200], *save = NULL;
  snprintf(text, sizeof text, "%s", pairs);
  for (char *p = strtok_r(text, " ", &save); p; p = strtok_r(NULL, " ", &save)) {
    char *eq = strchr(p, '=');
    *eq = 0;
    ok(lc_options_set(w.ctx, table, "test", self, p, eq + 1));
  }
}

#define RUN "steps=8 batch=4 density=0.05 seq=64"

static lc_status cost(const char *method, const char *set, lc_method_cost *c) {
  const lc_method *m = lc_method_find(method);
  lc_train_opts o;
  lc_net *net;
  void *self = lc_alloc(w.ctx, LC_MEM_OTHER, m->self_size);
  ok(lc_options_init(w.ctx, m->options, self));
  ok(lc_options_init(w.ctx, lc_train_options, &o));
  set_pairs(lc_train_options, &o, RUN);
  set_pairs(m->options, self, set);
  ok(lc_net_new(w.model, LC_F32, &net));
  lc_status st = lc_cost(net, m, self, &o, c);
  lc_net_free(net);
  lc_options_clear(w.ctx, m->options, self);
  lc_options_clear(w.ctx, lc_train_options, &o);
  lc_free(w.ctx, self);
  return st;
}

/* grows: the run's state may become larger than at its start, by entries that retired. */
static const struct {
  const char *method, *set;
  double low, high; /* of step */
  bool grows;
} rows[] = {
    {"mezo", "", 1, 1, false},
    {"mezo", "directions=3", 3, 3, false},
    {"sparse-mezo", "", 1, 1, false},
    {"full", "", 1.5, 1.5, false},
    {"lora", "r=4", 1.1, 1.5, false},
    {"allora", "r=4", 1.1, 1.5, false},
    {"shira", "", 1.01, 1.03, false},
    {"shira", "mask=snip examples=8", 1.01, 1.03, false},
    {"spiel", "period=4 accumulate=2", 1.02, 1.2, false},
    {"spiel", "select=ma period=4 accumulate=2", 1.01, 1.03, false},
    {"sara", "", 1.01, 1.03, false},
    {"llava-mole", "r=4", 1.05, 1.5, false},
    {"snella", "r=4", 1.4, 2, false},
    {"mosa", "width=8", 2.05, 3, false},
    {"lift", "filter=4 interval=2", 1.01, 1.03, true},
    {"lift", "filter=4 interval=0", 1.01, 1.03, false},
    {"lt-sft", "", 1.1, 1.4, false},
    {"lt-sft", "phase=lora iterations=2", 1.05, 1.5, false},
    {"s2ft", "o=0.25 d=0.1", 1.001, 1.2, false},
    {"dsee", "r=4", 1.01, 1.4, false},
};

static void test_state(void **state) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    lc_method_cost c;
    held h = {.before = {lc_mem_bytes(w.ctx, LC_MEM_TRAINABLE), lc_mem_bytes(w.ctx, LC_MEM_GRAD),
                         lc_mem_bytes(w.ctx, LC_MEM_CANDIDATE)}};
    const t_spec s = {.method = rows[i].method,
                      .set = rows[i].set,
                      .opts = RUN,
                      .out = "a",
                      .overwrite = true,
                      .no_eval = true,
                      .event = look,
                      .arg = &h};
    ok(cost(rows[i].method, rows[i].set, &c));
    for (int k = 0; k < 3; k++) {
      static const lc_mem classes[] = {LC_MEM_TRAINABLE, LC_MEM_GRAD, LC_MEM_CANDIDATE};
      if (lc_mem_bytes(w.ctx, classes[k]) != h.before[k])
        fail_msg("%s: the estimate keeps memory", rows[i].method);
    }
    ok(t_train(&w, &s));
    if (rows[i].grows ? (size_t)c.state_bytes > h.trainable : (size_t)c.state_bytes != h.trainable)
      fail_msg("%s %s: state of %lld bytes, the run held %zu", rows[i].method, rows[i].set,
               (long long)c.state_bytes, h.trainable);
    assert_true(c.estimate == rows[i].grows);
    if ((size_t)c.gradient_bytes != h.grad || (size_t)c.candidate_bytes != h.candidate)
      fail_msg("%s %s: gradients of %lld and candidates of %lld bytes, the run held %zu and %zu",
               rows[i].method, rows[i].set, (long long)c.gradient_bytes, (long long)c.candidate_bytes, h.grad,
               h.candidate);
    if (!(c.step >= rows[i].low && c.step <= rows[i].high))
      fail_msg("%s %s: a step of %.17g is not in [%g, %g]", rows[i].method, rows[i].set, c.step, rows[i].low,
               rows[i].high);
  }
}

/* Every row of the table has a line above, but the one that wants an earlier run, which says so. */
static void test_all(void **state) {
  lc_method_cost c;
  for (int m = 0; m < lc_n_methods; m++) {
    bool has = false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
      has |= !strcmp(rows[i].method, lc_methods[m]->name);
    if (!has) assert_string_equal(lc_methods[m]->name, "rl-subnetworks");
  }
  assert_int_equal(cost("rl-subnetworks", "", &c), LC_USAGE);
  assert_non_null(strstr(lc_error(w.ctx), "from=PATH"));
  assert_int_equal(cost("s2ft", "select=gradient", &c), LC_USAGE);
  assert_non_null(strstr(lc_error(w.ctx), "looking at data"));
}

/* By hand: LoRA's share of the products, and an earlier run's entries. */
static void test_by_hand(void **state) {
  lc_method_cost c;
  double base = 0, lora = 0;
  lc_net *net;
  ok(lc_net_new(w.model, LC_F32, &net));
  for (int i = 0; i < net->weights.n; i++) {
    const lc_weight *x = &net->weights.w[i];
    if (x->kind == LC_KIND_LINEAR) lora += 6 * 4 * (double)(x->M + x->N);
    if (x->kind == LC_KIND_LINEAR || x->kind == LC_KIND_HEAD ||
        (w.model->config.tied && x->kind == LC_KIND_EMBEDDING))
      base += 4 * (double)x->M * (double)x->N;
  }
  lc_net_free(net);
  ok(cost("lora", "r=4", &c));
  assert_true(fabs(c.step - (1 + lora / base)) < 1e-12);
  const t_spec s = {.method = "shira", .opts = RUN, .out = "earlier", .no_eval = true};
  ok(t_train(&w, &s));
  char set[600];
  snprintf(set, sizeof set, "from=%s", t_out(&w, "earlier", ""));
  ok(cost("shira", "", &c));
  const int64_t n = c.trainable;
  ok(cost("rl-subnetworks", set, &c));
  assert_true(c.trainable > n / 2 && c.trainable <= n && c.state_bytes == 16 * c.trainable);
}

int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_state), TEST(test_all), TEST(test_by_hand)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
