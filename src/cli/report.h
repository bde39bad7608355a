/* The report of a run: what run.sqlite (src/train/history.c) holds, and one self-contained HTML page made of it.
 * report_read.c reads, report_chart.c draws lines and heat maps, report_html.c writes the page, report_style.c is its look. */
#ifndef LC_REPORT_H
#define LC_REPORT_H
#include <jansson.h>
#include "core/core.h"
#include "train/train.h"

/* Numbers that the run did not record are NAN. */
typedef struct {
  double step, loss, lr, grad_norm, tokens_per_s, rss_mib, seconds;
  int64_t tokens, targets;
} lc_report_step;
typedef struct {
  double step, loss, perplexity;
  int64_t targets;
} lc_report_eval;
typedef struct {
  int64_t step;
  char *prompt, *text;
} lc_report_sample;
typedef struct {
  char *name, *module;
  int layer /* -1: none */;
  int64_t rows, cols, changed;
  double norm_delta, norm_weight, max_delta;
} lc_report_tensor;
typedef struct {
  lc_ctx *ctx;
  char *dir;
  char *method, *model, *data, *started, *finished, *version; /* "" when not recorded */
  int64_t planned;
  json_t *summary; /* of the last event; NULL: the run has not finished */
  lc_report_step *step;
  int64_t n_step;
  lc_report_eval *eval;
  int64_t n_eval;
  lc_report_sample *sample;
  int64_t n_sample;
  lc_report_tensor *tensor;
  int64_t n_tensor;
  lc_recipe recipe;
  bool has_recipe;
  int64_t adapter_bytes; /* 0: the run left no adapter file */
} lc_report;

lc_status lc_report_read(lc_ctx *, const char *dir, lc_report *);
void lc_report_free(lc_report *);
lc_status lc_report_write(const lc_report *, const char *path); /* atomically */

/* ---- for the page's parts ---- */
void lc_html_text(lc_out *, const char *utf8); /* escaped; what is no UTF-8 becomes '?' */
/* Short forms: "12,345", "9.1 MB", "3 min 20 s", four significant digits. buf of 48 bytes; a dash for NAN. */
const char *lc_html_count(char *buf, double n);
const char *lc_html_bytes(char *buf, double n);
const char *lc_html_seconds(char *buf, double s);
const char *lc_html_number(char *buf, double x);

typedef struct {
  const double *x, *y;
  int64_t n;
  const char *css; /* class of the line */
  bool dots;
} lc_series;
typedef struct {
  const char *title, *note, *unit;
  const lc_series *series;
  int n_series;
  bool from_zero;
  double x0, x1;
  const char *extra_class;
} lc_chart;
void lc_html_chart(lc_out *, const lc_chart *);
/* One cell a (module, layer): value of each tensor; 0 is blank, the largest is full colour. */
void lc_html_heat_map(lc_out *, const lc_report *, const char *title, const char *note,
                      double (*value)(const lc_report_tensor *), double factor, const char *unit);

extern const char lc_report_style[];
#endif
