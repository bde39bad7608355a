/* How often a classifier is right: rows with labels, several a pass, through a graph that ends in what the head reads.
 * A row's loss is lse − logit[label] in f64; predictions are counted in confusion.c. */
#include "train/internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PASS_ROWS = 1024, MAX_BATCH = 256 };

typedef struct {
  lc_net *net;
  lc_net_graph graph;
  lc_plan *plan;
  lc_run *run;
  lc_segment segment[MAX_BATCH];
  lc_example example[MAX_BATCH];
  int64_t n, rows;
  lc_out *log;
  double sum;
  lc_confusion seen;
} job;

lc_status lc_net_labels(const lc_net *net, const char ***names, lc_label_set *set) {
  const lc_config *c = &net->model->config;
  *names = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)lc_max64(1, c->labels), sizeof **names);
  if (!*names) return LC_FAILED;
  for (int64_t i = 0; i < c->labels; i++) (*names)[i] = lc_config_label(c, i);
  *set = (lc_label_set){.n = c->labels, .name = *names};
  set->place = c->task == LC_TASK_TOKENS  ? LC_LABEL_EACH
               : c->family->bidirectional ? LC_LABEL_FIRST
                                          : LC_LABEL_LAST;
  return LC_OK;
}

/* The prediction of row r; its nll is added. */
static lc_status read_row(job *j, int64_t r, int32_t label, int64_t *best) {
  lc_confusion *c = &j->seen;
  LC_TRY(lc_confusion_row(c, j->run, &j->graph, r, label, best));
  const double top = (double)c->logits[*best];
  double sum = 0;
  for (int64_t k = 0; k < c->K; k++) sum += exp((double)c->logits[k] - top);
  const double nll = top + log(sum) - (double)c->logits[label];
  if (!isfinite(nll)) return lc_fail(j->net->ctx, "the loss of label %lld is not finite", (long long)c->n);
  j->sum += nll;
  return LC_OK;
}

static lc_status log_row(job *j, json_t *want, json_t *got) {
  const bool each = j->net->model->config.task == LC_TASK_TOKENS;
  json_t *line =
      each ? json_pack("{s:O, s:O}", "tags", want, "predicted", got)
           : json_pack("{s:O, s:O}", "label", json_array_get(want, 0), "predicted", json_array_get(got, 0));
  char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
  if (text) {
    lc_out_write(j->log, text, strlen(text));
    lc_out_write(j->log, "\n", 1);
  }
  free(text);
  json_decref(line);
  return text ? LC_OK : lc_fail(j->net->ctx, "out of memory");
}

static lc_status read_example(job *j, const lc_example *e, int64_t row0) {
  const lc_config *c = &j->net->model->config;
  json_t *want = json_array(), *got = json_array();
  lc_status st = LC_OK;
  for (int64_t k = 0; k < e->n && !st; k++) {
    int64_t best;
    if (e->label[k] < 0) continue;
    st = read_row(j, row0 + k, e->label[k], &best);
    if (st || !j->log) continue;
    json_array_append_new(want, json_string(lc_config_label(c, e->label[k])));
    json_array_append_new(got, json_string(lc_config_label(c, best)));
  }
  if (!st && j->log) st = log_row(j, want, got);
  json_decref(want);
  json_decref(got);
  return st;
}

static lc_status run_batch(job *j) {
  if (j->n == 0) return LC_OK;
  int64_t r = 0;
  for (int64_t i = 0; i < j->n; r += j->example[i].n, i++)
    j->segment[i] = (lc_segment){.row0 = r, .row1 = r + j->example[i].n, .sequence = (int32_t)i};
  LC_TRY(lc_run_begin(j->run, j->rows, j->segment, (int)j->n));
  int32_t *ids = lc_data(j->run, j->graph.ids), *pos = lc_data(j->run, j->graph.pos),
          *types = j->graph.types.id ? lc_data(j->run, j->graph.types) : NULL;
  for (int64_t i = 0, at = 0; i < j->n; i++)
    for (int64_t k = 0; k < j->example[i].n; k++, at++) {
      ids[at] = j->example[i].id[k];
      pos[at] = (int32_t)k;
      if (types) types[at] = j->example[i].type[k];
    }
  LC_TRY(lc_fill_pictures(j->run, &j->graph, j->example, j->n));
  LC_TRY(lc_forward(j->run, NULL));
  for (int64_t i = 0; i < j->n; i++) LC_TRY(read_example(j, &j->example[i], j->segment[i].row0));
  j->n = j->rows = 0;
  return LC_OK;
}

static lc_status score(job *j, const lc_dataset *data, int64_t end, int64_t room) {
  for (int64_t i = 0; i < end; i++) {
    const lc_example e = lc_data_get(data, i);
    if (lc_stop_requested(j->net->ctx)) return LC_STOPPED;
    if (!e.label) return lc_fail(j->net->ctx, "evaluation: row %lld has no labels", (long long)i + 1);
    if (j->n == MAX_BATCH || j->rows + e.n > room) LC_TRY(run_batch(j));
    j->example[j->n++] = e;
    j->rows += e.n;
  }
  return run_batch(j);
}

lc_status lc_eval_labels(lc_net *net, const lc_dataset *data, int64_t limit, const char *log_path,
                         lc_label_score *out) {
  lc_ctx *ctx = net->ctx;
  int64_t longest, n = lc_data_count(data);
  lc_out log;
  bool open = false;
  lc_status st = LC_OK;
  *out = (lc_label_score){0};
  if (limit) n = lc_min64(n, limit);
  if (n == 0) return lc_fail(ctx, "evaluation: no rows");
  if (!lc_task_has_labels(net->model->config.task))
    return lc_fail(ctx, "evaluation: a %s has no labels", lc_architecture(&net->model->config));
  job *j = lc_alloc(ctx, LC_MEM_OTHER, sizeof *j);
  if (!j) return LC_FAILED;
  j->net = net;
  j->seen.ctx = ctx;
  LC_GO(lc_longest(ctx, data, 1, NULL, &longest));
  const int64_t room = lc_max64(longest, PASS_ROWS);
  LC_GO(lc_net_build(net, false, NULL, NULL, &j->graph));
  LC_GO(lc_plan_new(j->graph.g, &(lc_plan_opts){.rows = room}, &j->plan));
  LC_GO(lc_run_new(ctx, j->plan, &j->run));
  LC_GO(lc_confusion_new(net, &j->seen));
  if (log_path) LC_GO(lc_out_open(ctx, log_path, &log));
  open = log_path != NULL;
  if (open) j->log = &log;
  LC_GO(score(j, data, n, room));
  out->n = j->seen.n;
  out->accuracy = lc_confusion_accuracy(&j->seen);
  out->macro_f1 = lc_confusion_macro_f1(&j->seen);
  out->loss = j->sum / (double)out->n;
  out->stderr_ = sqrt(out->accuracy * (1 - out->accuracy) / (double)out->n);
done:
  if (open && !st) st = lc_out_commit(&log);
  if (open && st) lc_out_abort(&log);
  lc_run_free(j->run);
  lc_plan_free(j->plan);
  lc_net_graph_free(&j->graph);
  lc_confusion_free(&j->seen);
  lc_free(ctx, j);
  return st;
}
