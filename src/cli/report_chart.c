/* Charts without a script. Lines lie in an SVG that is stretched to its box (strokes keep their width); labels, dots and cells are HTML placed
 * in percent, so that text keeps its size on a phone. Colours come from the page's style, hence follow the light or dark scheme. */
#include "cli/report.h"
#include <math.h>
#include <string.h>

/* ---- text and numbers ---- */

void lc_html_text(lc_out *f, const char *s) {
  for (const unsigned char *p = (const unsigned char *)s; *p;) {
    int n = *p < 0x80                 ? 1
            : *p >= 0xc2 && *p < 0xe0 ? 2
            : *p >= 0xe0 && *p < 0xf0 ? 3
            : *p >= 0xf0 && *p < 0xf5 ? 4
                                      : 0;
    for (int i = 1; i < n; i++)
      if ((p[i] & 0xc0) != 0x80) n = 0;
    if (*p == '&')
      lc_out_write(f, "&amp;", 5);
    else if (*p == '<')
      lc_out_write(f, "&lt;", 4);
    else if (*p == '>')
      lc_out_write(f, "&gt;", 4);
    else if (*p == '"')
      lc_out_write(f, "&quot;", 6);
    else if (*p == '\'')
      lc_out_write(f, "&#39;", 5);
    else if (n == 0 || (*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f)
      lc_out_write(f, "?", 1);
    else
      lc_out_write(f, p, (size_t)n);
    p += n ? n : 1;
  }
}

const char *lc_html_count(char *buf, double n) {
  char digits[40];
  if (!isfinite(n) || fabs(n) > 1e18) return strcpy(buf, "–");
  snprintf(digits, sizeof digits, "%.0f", fabs(n));
  size_t len = strlen(digits), at = 0;
  if (n < 0) buf[at++] = '-';
  for (size_t i = 0; i < len; i++) {
    if (i && (len - i) % 3 == 0) buf[at++] = ',';
    buf[at++] = digits[i];
  }
  buf[at] = 0;
  return buf;
}

const char *lc_html_bytes(char *buf, double n) {
  static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
  int u = 0;
  if (!isfinite(n)) return strcpy(buf, "–");
  while (u < 4 && n >= 1000) n /= 1000, u++;
  snprintf(buf, 48, u && n < 100 ? "%.1f %s" : "%.0f %s", n, unit[u]);
  return buf;
}

const char *lc_html_seconds(char *buf, double s) {
  if (!isfinite(s) || s < 0 || s > 1e12) return strcpy(buf, "–");
  long long n = (long long)(s + 0.5);
  if (n < 60)
    snprintf(buf, 48, "%.1f s", s);
  else if (n < 3600)
    snprintf(buf, 48, "%lld min %lld s", n / 60, n % 60);
  else
    snprintf(buf, 48, "%lld h %lld min", n / 3600, n % 3600 / 60);
  return buf;
}

const char *lc_html_number(char *buf, double x) {
  if (!isfinite(x)) return strcpy(buf, "–");
  if (fabs(x) >= 10000 && fabs(x) < 1e15) return lc_html_count(buf, x);
  snprintf(buf, 48, "%.4g", x);
  return buf;
}

/* ---- axes ---- */

typedef struct {
  double low, high, step;
} axis;

/* Some four to six round steps that cover [low, high]. */
static axis nice(double low, double high) {
  double span = high - low;
  if (!(span > 0)) span = high != 0 ? fabs(high) * 0.1 : 1;
  double raw = span / 4, power = pow(10, floor(log10(raw))), lead = raw / power;
  double step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  axis a = {floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, step};
  if (a.high <= a.low) a.high = a.low + step;
  return a;
}

static bool both(const lc_series *s, int64_t i) {
  return isfinite(s->x[i]) && isfinite(s->y[i]);
}

static axis range(const lc_chart *c) {
  double low = INFINITY, high = -INFINITY;
  for (int k = 0; k < c->n_series; k++)
    for (int64_t i = 0; i < c->series[k].n; i++)
      if (both(&c->series[k], i)) low = fmin(low, c->series[k].y[i]), high = fmax(high, c->series[k].y[i]);
  if (!isfinite(low)) return (axis){NAN, NAN, 1};
  return nice(c->from_zero ? fmin(low, 0) : low, high);
}

static double across(const lc_chart *c, double x) {
  return c->x1 > c->x0 ? (x - c->x0) / (c->x1 - c->x0) : 0.5;
}

static void tick_label(char *buf, double v, double step) {
  if (fabs(v) < step * 1e-6)
    strcpy(buf, "0");
  else if (fabs(v) >= 1e5 || fabs(v) < 1e-3)
    snprintf(buf, 48, "%.3g", v);
  else
    snprintf(buf, 48, "%.*f", step >= 1 ? 0 : step >= 0.1 ? 1 : step >= 0.01 ? 2 : 3, v);
}

/* ---- lines ---- */

/* At most `most` points of a long run are drawn: the smallest and the largest of each stretch, in their order, so that no peak is lost. */
static void line(lc_out *f, const lc_chart *c, const lc_series *s, axis y) {
  enum { MOST = 600 };
  int64_t stretch = s->n > MOST ? lc_ceil_div(s->n, MOST / 2) : 1;
  bool pen = false;
  lc_out_printf(f, "<path class=\"%s\" d=\"", s->css);
  for (int64_t i = 0; i < s->n; i += stretch) {
    int64_t lo = -1, hi = -1;
    for (int64_t k = i; k < s->n && k < i + stretch; k++) {
      if (!both(s, k)) continue;
      if (lo < 0 || s->y[k] < s->y[lo]) lo = k;
      if (hi < 0 || s->y[k] > s->y[hi]) hi = k;
    }
    if (lo < 0) {
      pen = false;
      continue;
    }
    int64_t two[2] = {lo < hi ? lo : hi, lo < hi ? hi : lo};
    for (int k = 0; k < (two[0] == two[1] ? 1 : 2); k++) {
      lc_out_printf(f, "%c%.1f %.1f", pen ? 'L' : 'M', 1000 * across(c, s->x[two[k]]),
                    1000 * (y.high - s->y[two[k]]) / (y.high - y.low));
      pen = true;
    }
  }
  lc_out_printf(f, "\"/>");
}

static void dots(lc_out *f, const lc_chart *c, const lc_series *s, axis y) {
  for (int64_t i = 0; i < s->n; i++) {
    char v[48];
    if (!both(s, i)) continue;
    lc_out_printf(f, "<i class=\"dot\" style=\"left:%.2f%%;top:%.2f%%\" title=\"step %.0f: %s\"></i>",
                  100 * across(c, s->x[i]), 100 * (y.high - s->y[i]) / (y.high - y.low), s->x[i],
                  lc_html_number(v, s->y[i]));
  }
}

static void x_labels(lc_out *f, const lc_chart *c) {
  axis x = nice(c->x0, c->x1);
  double step = fmax(1, x.step);
  for (double v = ceil(c->x0 / step) * step; v <= c->x1 + step * 1e-9; v += step) {
    char label[48];
    lc_out_printf(f, "<span class=\"x\" style=\"left:%.2f%%\">%s</span>", 100 * across(c, v),
                  lc_html_count(label, v));
  }
}

void lc_html_chart(lc_out *f, const lc_chart *c) {
  axis y = range(c);
  if (!isfinite(y.low)) return;
  lc_out_printf(
      f,
      "<figure class=\"chart %s\"><figcaption><b>%s</b> <small>%s</small>%s</figcaption><div class=\"plot\">",
      c->extra_class ? c->extra_class : "", c->title, c->unit, c->note ? c->note : "");
  for (int i = 0; y.low + i * y.step <= y.high + y.step * 1e-6; i++) {
    char label[48];
    double v = y.low + i * y.step;
    tick_label(label, v, y.step);
    lc_out_printf(f, "<span class=\"y\" style=\"top:%.2f%%\"><em>%s</em></span>",
                  100 * (y.high - v) / (y.high - y.low), label);
  }
  lc_out_printf(f, "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
  for (int k = 0; k < c->n_series; k++) line(f, c, &c->series[k], y);
  lc_out_printf(f, "</svg>");
  for (int k = 0; k < c->n_series; k++)
    if (c->series[k].dots) dots(f, c, &c->series[k], y);
  x_labels(f, c);
  lc_out_printf(f, "</div></figure>\n");
}

/* ---- heat maps: modules down, layers across ---- */

enum { MAX_MODULES = 32 };

static int modules(const lc_report *r, const char **name) {
  int n = 0;
  for (int64_t i = 0; i < r->n_tensor; i++) {
    const lc_report_tensor *t = &r->tensor[i];
    int k = 0;
    if (t->layer < 0) continue;
    while (k < n && strcmp(name[k], t->module)) k++;
    if (k == n && n < MAX_MODULES) name[n++] = t->module;
  }
  return n;
}

static const lc_report_tensor *cell(const lc_report *r, const char *module, int layer) {
  for (int64_t i = 0; i < r->n_tensor; i++)
    if (r->tensor[i].layer == layer && !strcmp(r->tensor[i].module, module)) return &r->tensor[i];
  return NULL;
}

void lc_html_heat_map(lc_out *f, const lc_report *r, const char *title, const char *note,
                      double (*value)(const lc_report_tensor *), double factor, const char *unit) {
  const char *name[MAX_MODULES];
  int n = modules(r, name), layers = 0;
  double most = 0;
  for (int64_t i = 0; i < r->n_tensor; i++) {
    if (r->tensor[i].layer >= layers) layers = r->tensor[i].layer + 1;
    double v = value(&r->tensor[i]);
    if (r->tensor[i].layer >= 0 && v > most) most = v;
  }
  if (!n || layers > 4096 || !isfinite(most)) return;
  char top[48];
  snprintf(top, sizeof top, "%.2g", most * factor);
  lc_out_printf(f,
                "<figure class=\"heat\"><figcaption><b>%s</b> <small>%s</small><span "
                "class=\"scale\">0<i></i>%s%s</span></figcaption><div class=\"cells\" style=\"--n:%d\">",
                title, note, top, unit, layers);
  for (int k = 0; k < n; k++) {
    lc_out_printf(f, "<span class=\"row\">");
    lc_html_text(f, name[k]);
    lc_out_printf(f, "</span>");
    for (int l = 0; l < layers; l++) {
      const lc_report_tensor *t = cell(r, name[k], l);
      double v = t ? value(t) : NAN;
      char shown[48];
      lc_out_printf(f, "<i style=\"--v:%.3f\" title=\"layer %d, ", most > 0 && v > 0 ? v / most : 0.0, l);
      lc_html_text(f, name[k]);
      lc_out_printf(f, ": %s%s\"></i>", lc_html_number(shown, v * factor), t ? unit : "");
    }
  }
  lc_out_printf(f, "<span class=\"row\"></span>");
  int every = layers > 100 ? 20 : layers > 40 ? 10 : layers > 12 ? 5 : 1;
  for (int l = 0; l < layers; l++) {
    if (l % every == 0)
      lc_out_printf(f, "<b>%d</b>", l);
    else
      lc_out_printf(f, "<b></b>");
  }
  lc_out_printf(f, "</div></figure>\n");
}
