/* The page of a run: what came of it, how it went, where the change sits, what the model writes, and what was asked for. Everything that comes from
 * the run (names, texts, paths) is escaped. */
#include "cli/report.h"
#include <math.h>
#include <string.h>

static double field(const lc_report *r, const char *key) {
  const json_t *v = json_object_get(r->summary, key);
  return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *last_part(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

/* ---- head and key figures ---- */

/* "2026-11-24T03:27:18Z" as "2026-11-24 03:27 UTC". */
static void time_text(lc_out *f, const char *iso) {
  char text[64];
  if (strlen(iso) != 20 || iso[10] != 'T' || iso[19] != 'Z') {
    lc_html_text(f, iso);
    return;
  }
  snprintf(text, sizeof text, "%.10s %.5s UTC", iso, iso + 11);
  lc_html_text(f, text);
}

static void head(lc_out *f, const lc_report *r) {
  lc_out_printf(f, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                   "content=\"width=device-width,initial-scale=1\"><title>");
  lc_html_text(f, r->method);
  lc_out_printf(f, " on ");
  lc_html_text(f, last_part(r->model));
  lc_out_printf(f,
                "</title><style>%s</style></head>\n<body><main>\n<header><svg viewBox=\"0 0 44 44\" "
                "aria-hidden=\"true\">",
                lc_report_style);
  static const char mark[4][5] = {"#.##", "##.#", ".###", "##.."}; /* a sparse matrix */
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 4; k++)
      lc_out_printf(f, "<rect x=\"%d\" y=\"%d\" width=\"9\" height=\"9\" rx=\"2\" opacity=\"%s\"/>",
                    k * 11 + 1, i * 11 + 1, mark[i][k] == '#' ? "1" : ".16");
  lc_out_printf(f, "</svg><div><h1>");
  lc_html_text(f, r->method);
  lc_out_printf(f, " on ");
  lc_html_text(f, last_part(r->model));
  lc_out_printf(f, "</h1><p>");
  time_text(f, r->started);
  lc_out_printf(f, " · trained on ");
  lc_html_text(f, last_part(r->data));
  if (!*r->finished)
    lc_out_printf(f, " · not finished: %lld of %lld updates",
                  r->n_step ? (long long)r->step[r->n_step - 1].step : 0LL, (long long)r->planned);
  lc_out_printf(f, "</p></div></header>\n");
}

static void figure(lc_out *f, const char *name, const char *value, const char *note) {
  lc_out_printf(f, "<div><dt>%s</dt><dd>%s<small>%s</small></dd></div>", name, value, note);
}

static void before_after(lc_out *f, const lc_report *r) {
  char a[48], b[48];
  if (r->n_eval > 1) {
    const lc_report_eval *e0 = &r->eval[0], *e1 = &r->eval[r->n_eval - 1];
    lc_out_printf(f,
                  "<div class=\"main\"><dt>held-out perplexity</dt><dd><s>%s →</s> %s<small>%+.1f %% on %lld "
                  "tokens</small></dd></div>",
                  lc_html_number(a, e0->perplexity), lc_html_number(b, e1->perplexity),
                  100 * (e1->perplexity / e0->perplexity - 1), (long long)e1->targets);
  } else if (r->n_step) {
    lc_out_printf(f,
                  "<div class=\"main\"><dt>training loss</dt><dd><s>%s →</s> %s<small>first and last update; "
                  "nothing was held out</small></dd></div>",
                  lc_html_number(a, r->step[0].loss), lc_html_number(b, r->step[r->n_step - 1].loss));
  }
}

static void key_figures(lc_out *f, const lc_report *r) {
  char a[48], b[96];
  int64_t cells = 0, changed = 0;
  for (int64_t i = 0; i < r->n_tensor; i++)
    cells += r->tensor[i].rows * r->tensor[i].cols, changed += r->tensor[i].changed;
  lc_out_printf(f, "<dl class=\"figures\">");
  before_after(f, r);
  if (cells) {
    snprintf(b, sizeof b, "%.2f %% of the entries of %lld tensors", 100.0 * (double)changed / (double)cells,
             (long long)r->n_tensor);
    figure(f, "weights changed", lc_html_count(a, (double)changed), b);
  }
  if (r->adapter_bytes) figure(f, "adapter", lc_html_bytes(a, (double)r->adapter_bytes), "on disk");
  if (r->n_step) {
    const lc_report_step *s = &r->step[r->n_step - 1];
    double seconds = field(r, "seconds"), peak = field(r, "peak_rss_mib"), rate = field(r, "tokens_per_s");
    char t[48];
    snprintf(b, sizeof b, "%s tokens", lc_html_count(t, (double)s->tokens));
    figure(f, "updates", lc_html_count(a, s->step), b);
    figure(f, "time", lc_html_seconds(a, isfinite(seconds) ? seconds : s->seconds),
           "evaluations and checkpoints included");
    if (isfinite(rate)) figure(f, "speed", lc_html_number(a, round(rate)), "tokens per second, all included");
    if (isfinite(peak)) figure(f, "peak memory", lc_html_bytes(a, peak * 1048576), "resident");
  }
  lc_out_printf(f, "</dl>\n");
}

/* ---- curves ---- */

typedef struct {
  double *x, *loss, *smooth, *lr, *rate, *memory, *norm, *ex, *eloss;
} columns;

/* A running mean whose window is a twentieth of the run: loss of single updates scatters. */
static void smooth(const double *y, double *out, int64_t n) {
  double keep = exp(-1.0 / fmax(1, (double)n / 20)), sum = 0, weight = 0;
  for (int64_t i = 0; i < n; i++) {
    if (isfinite(y[i])) sum = keep * sum + y[i], weight = keep * weight + 1;
    out[i] = weight > 0 ? sum / weight : NAN;
  }
}

static lc_status take_columns(const lc_report *r, double **block, columns *c) {
  size_t n = (size_t)r->n_step, m = (size_t)r->n_eval;
  double *p = *block = lc_alloc_n(r->ctx, LC_MEM_OTHER, 7 * n + 2 * m, sizeof *p);
  if (!p) return LC_FAILED;
  *c = (columns){p, p + n, p + 2 * n, p + 3 * n, p + 4 * n, p + 5 * n, p + 6 * n, p + 7 * n, p + 7 * n + m};
  for (size_t i = 0; i < n; i++) {
    const lc_report_step *s = &r->step[i];
    c->x[i] = s->step, c->loss[i] = s->loss, c->lr[i] = s->lr, c->rate[i] = s->tokens_per_s,
    c->memory[i] = s->rss_mib, c->norm[i] = s->grad_norm;
  }
  smooth(c->loss, c->smooth, r->n_step);
  for (size_t i = 0; i < m; i++) c->ex[i] = r->eval[i].step, c->eloss[i] = r->eval[i].loss;
  return LC_OK;
}

static lc_status curves(lc_out *f, const lc_report *r) {
  columns c;
  double *block;
  if (!r->n_step && !r->n_eval) return LC_OK;
  LC_TRY(take_columns(r, &block, &c));
  int64_t n = r->n_step;
  double x1 = n ? c.x[n - 1] : c.ex[r->n_eval - 1];
  lc_series loss[] = {{c.x, c.loss, n, "raw", false},
                      {c.x, c.smooth, n, "smooth", false},
                      {c.ex, c.eloss, r->n_eval, "eval", true}};
  lc_series one[] = {{c.x, c.lr, n, "smooth", false},
                     {c.x, c.rate, n, "second", false},
                     {c.x, c.memory, n, "second", false},
                     {c.x, c.norm, n, "smooth", false}};
  const char *key = r->n_eval
                        ? "<span class=\"key\"><span><i class=\"r\"></i>update</span><span><i></i>running "
                          "mean</span><span><i class=\"e\"></i>held out</span></span>"
                        : "<span class=\"key\"><span><i class=\"r\"></i>update</span><span><i></i>running "
                          "mean</span></span>";
  const lc_chart chart[] = {
      {.title = "Loss",
       .unit = "nats a token, by update",
       .note = key,
       .series = loss,
       .n_series = 3,
       .extra_class = "wide"},
      {.title = "Learning rate", .unit = "", .series = &one[0], .n_series = 1, .from_zero = true},
      {.title = "Gradient norm",
       .unit = "before clipping",
       .series = &one[3],
       .n_series = 1,
       .from_zero = true},
      {.title = "Speed", .unit = "tokens per second", .series = &one[1], .n_series = 1, .from_zero = true},
      {.title = "Memory", .unit = "resident, MiB", .series = &one[2], .n_series = 1, .from_zero = true},
  };
  lc_out_printf(f, "<h2>How it went</h2><div class=\"charts\">\n");
  for (size_t i = 0; i < sizeof chart / sizeof *chart; i++) {
    lc_chart ch = chart[i];
    ch.x0 = r->n_eval && c.ex[0] < 1 ? 0 : n ? c.x[0] : 0;
    ch.x1 = x1;
    lc_html_chart(f, &ch);
  }
  lc_out_printf(f, "</div>\n");
  lc_free(r->ctx, block);
  return LC_OK;
}

/* ---- where the change sits ---- */

static double share(const lc_report_tensor *t) {
  return t->rows > 0 && t->cols > 0 ? (double)t->changed / ((double)t->rows * (double)t->cols) : NAN;
}
static double relative(const lc_report_tensor *t) {
  return t->norm_weight > 0 ? t->norm_delta / t->norm_weight : NAN;
}

static void tensor_table(lc_out *f, const lc_report *r) {
  char a[48], b[48], c[48], d[48];
  lc_out_printf(
      f,
      "<details class=\"card\"><summary>%lld tensors in figures</summary><div class=\"scroll\"><table "
      "class=\"n\"><tr><th>tensor</th><th>shape</th><th>changed</th><th>share</th>"
      "<th>‖δ‖</th><th>‖δ‖ / ‖W‖</th><th>largest |δ|</th></tr>\n",
      (long long)r->n_tensor);
  for (int64_t i = 0; i < r->n_tensor; i++) {
    const lc_report_tensor *t = &r->tensor[i];
    lc_out_printf(f, "<tr><td>");
    lc_html_text(f, t->name);
    lc_out_printf(
        f, "</td><td>%lld×%lld</td><td>%s</td><td>%.2f %%</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
        (long long)t->rows, (long long)t->cols, lc_html_count(a, (double)t->changed), 100 * share(t),
        lc_html_number(b, t->norm_delta), lc_html_number(c, relative(t)), lc_html_number(d, t->max_delta));
  }
  lc_out_printf(f, "</table></div></details>\n");
}

static void placement(lc_out *f, const lc_report *r) {
  if (!r->n_tensor) return;
  lc_out_printf(f, "<h2>Where the change sits</h2>\n");
  lc_html_heat_map(f, r, "Share of entries changed", "modules by layer", share, 100, " %");
  lc_html_heat_map(f, r, "Size of the change", "‖δ‖ beside ‖W‖, modules by layer", relative, 100, " %");
  tensor_table(f, r);
}

/* ---- samples ---- */

static void sample(lc_out *f, const lc_report_sample *s, const char *when, const char *css) {
  lc_out_printf(f, "<div class=\"card %s\"><h3>%s</h3><p><b>", css, when);
  lc_html_text(f, s->prompt);
  lc_out_printf(f, "</b>");
  lc_html_text(f, s->text);
  lc_out_printf(f, "</p></div>\n");
}

static void samples(lc_out *f, const lc_report *r) {
  if (!r->n_sample) return;
  lc_out_printf(f, "<h2>What the model writes</h2><div class=\"samples\">\n");
  for (int64_t i = 0; i < r->n_sample; i++) {
    char when[64];
    if (r->sample[i].step == 0)
      snprintf(when, sizeof when, "before training");
    else
      snprintf(when, sizeof when, "after %lld updates", (long long)r->sample[i].step);
    sample(f, &r->sample[i], when, r->sample[i].step ? "after" : "");
  }
  lc_out_printf(f, "</div>\n");
}

/* ---- tables ---- */

static void row(lc_out *f, const char *key, const char *value) {
  if (!value || !*value) return;
  lc_out_printf(f, "<tr><td>");
  lc_html_text(f, key);
  lc_out_printf(f, "</td><td>");
  lc_html_text(f, value);
  lc_out_printf(f, "</td></tr>\n");
}

static void number_row(lc_out *f, const char *key, double v, const char *(*write)(char *, double)) {
  char buf[48];
  if (isfinite(v)) row(f, key, write(buf, v));
}

static void recipe(lc_out *f, const lc_report *r) {
  if (!r->has_recipe) return;
  lc_out_printf(f, "<div class=\"card\"><h3>Recipe</h3><table>\n");
  row(f, "method", r->recipe.method);
  for (int i = 0; i < r->recipe.n_set; i++) row(f, r->recipe.set[i].key, r->recipe.set[i].value);
  row(f, "model", r->recipe.model);
  row(f, "data", r->recipe.data);
  for (int i = 0; i < r->recipe.n_option; i++) row(f, r->recipe.option[i].key, r->recipe.option[i].value);
  lc_out_printf(f, "</table></div>\n");
}

static void figures_table(lc_out *f, const lc_report *r) {
  lc_out_printf(f, "<div class=\"card\"><h3>Figures</h3><table>\n");
  number_row(f, "updates", field(r, "steps"), lc_html_count);
  number_row(f, "tokens", field(r, "tokens"), lc_html_count);
  number_row(f, "trainable values", field(r, "trainable"), lc_html_count);
  number_row(f, "parameters of the model", field(r, "parameters"), lc_html_count);
  number_row(f, "state that survives a step", field(r, "state_bytes"), lc_html_bytes);
  number_row(f, "activations (the plan's arena)", field(r, "plan_bytes"), lc_html_bytes);
  number_row(f, "peak memory", field(r, "peak_rss_mib") * 1048576, lc_html_bytes);
  number_row(f, "adapter on disk", r->adapter_bytes ? (double)r->adapter_bytes : NAN, lc_html_bytes);
  number_row(f, "time", field(r, "seconds"), lc_html_seconds);
  number_row(f, "last training loss", r->n_step ? r->step[r->n_step - 1].loss : NAN, lc_html_number);
  for (int64_t i = 0; i < r->n_eval; i++) {
    char key[64], value[96], a[48], b[48];
    if (i && i + 1 < r->n_eval) continue;
    snprintf(key, sizeof key, "held out, after %.0f updates", r->eval[i].step);
    snprintf(value, sizeof value, "loss %s, perplexity %s", lc_html_number(a, r->eval[i].loss),
             lc_html_number(b, r->eval[i].perplexity));
    row(f, key, value);
  }
  const json_t *best = json_object_get(r->summary, "best");
  number_row(f, "best held-out loss after update",
             best ? json_number_value(json_object_get(best, "step")) : NAN, lc_html_count);
  lc_out_printf(f, "</table></div>\n");
}

static void machine(lc_out *f, const lc_report *r) {
  lc_out_printf(f, "<div class=\"card\"><h3>Machine</h3><table>\n");
  row(f, "processor", json_string_value(json_object_get(r->summary, "cpu")));
  row(f, "kernels", json_string_value(json_object_get(r->summary, "isa")));
  number_row(f, "threads", field(r, "threads"), lc_html_count);
  row(f, "computes in", json_string_value(json_object_get(r->summary, "dtype")));
  row(f, "lacuna", r->version);
  row(f, "started", r->started);
  row(f, "finished", r->finished);
  row(f, "directory", r->dir);
  lc_out_printf(f, "</table></div>\n");
}

lc_status lc_report_write(const lc_report *r, const char *path) {
  lc_out f;
  LC_TRY(lc_out_open(r->ctx, path, &f));
  head(&f, r);
  key_figures(&f, r);
  lc_status st = curves(&f, r);
  if (st) {
    lc_out_abort(&f);
    return st;
  }
  samples(&f, r);
  placement(&f, r);
  lc_out_printf(&f, "<h2>What was asked for, and where it ran</h2><div class=\"tables\">\n<div>");
  figures_table(&f, r);
  lc_out_printf(&f, "<div style=\"height:12px\"></div>");
  machine(&f, r);
  lc_out_printf(&f, "</div>\n");
  recipe(&f, r);
  lc_out_printf(&f, "</div><footer>Made by lacuna ");
  lc_html_text(&f, r->version);
  lc_out_printf(
      &f, " from run.sqlite. This page loads nothing from elsewhere.</footer>\n</main></body></html>\n");
  return lc_out_commit(&f);
}
