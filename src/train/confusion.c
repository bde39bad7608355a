/* What a classifier says against what is so: right answers, and for each label how often it was said, so, and both. The label with the largest logit
 * is the prediction, the lower of two equal ones.
 *
 *   accuracy = Σ both / n      macro-F1 = the mean of 2·both / (said + so) over labels that were said or so */
#include "train/internal.h"

lc_status lc_confusion_new(const lc_net *net, lc_confusion *c) {
  const int64_t K = net->model->config.labels;
  *c = (lc_confusion){.ctx = net->ctx, .K = K};
  c->said = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)(3 * K), sizeof *c->said);
  c->logits = lc_alloc_n(net->ctx, LC_MEM_OTHER, (size_t)K, sizeof *c->logits);
  if (!c->said || !c->logits) {
    lc_confusion_free(c);
    return LC_FAILED;
  }
  c->so = c->said + K;
  c->both = c->so + K;
  return LC_OK;
}

void lc_confusion_free(lc_confusion *c) {
  lc_free(c->ctx, c->said);
  lc_free(c->ctx, c->logits);
  *c = (lc_confusion){.ctx = c->ctx};
}

lc_status lc_confusion_row(lc_confusion *c, lc_run *run, const lc_net_graph *g, int64_t row, int32_t label,
                           int64_t *best) {
  LC_TRY(lc_head_logits(run, g->features, g->head, row, row + 1, c->logits));
  *best = 0;
  for (int64_t k = 1; k < c->K; k++)
    if (c->logits[k] > c->logits[*best]) *best = k;
  c->n++;
  c->said[*best]++;
  c->so[label]++;
  c->both[label] += *best == label;
  c->right += *best == label;
  return LC_OK;
}

lc_status lc_confusion_pass(lc_confusion *c, lc_run *run, const lc_net_graph *g) {
  const int32_t *labels = lc_data(run, g->labels);
  int64_t best;
  for (int64_t r = 0; r < run->rows; r++)
    if (labels[r] >= 0) LC_TRY(lc_confusion_row(c, run, g, r, labels[r], &best));
  return LC_OK;
}

double lc_confusion_accuracy(const lc_confusion *c) {
  return c->n ? (double)c->right / (double)c->n : 0;
}

double lc_confusion_macro_f1(const lc_confusion *c) {
  double sum = 0;
  int64_t seen = 0;
  for (int64_t k = 0; k < c->K; k++) {
    if (!c->said[k] && !c->so[k]) continue;
    sum += 2 * (double)c->both[k] / (double)(c->said[k] + c->so[k]);
    seen++;
  }
  return seen ? sum / (double)seen : 0;
}
